"""Search of the classical agents' hyperparameters, on train tasks.

    python experiments/tune.py                          # all studies of experiments/trials.py: about half an hour
    python experiments/tune.py --studies bandit-n10

Every agent of GRIDS (experiments/trials.py) plays the train tasks of its studies with each setting of its grid. The
setting with the highest mean lifetime return is chosen. Writes the choices and all scores to `experiments/tuned.json`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
import tyro
from trials import GRIDS, STUDIES, TUNED, made, selected

import metarl
from metarl.files import write_atomic


@dataclass(frozen=True)
class Options:
    """Options of the search."""

    studies: tuple[str, ...] = ("bandit", "mdp")
    """Names of studies, or their first parts."""
    tasks: int = 4000
    """Number of train tasks; all settings play the same tasks."""
    threads: int = 1
    """Number of PyTorch threads."""


def main(options: Options) -> None:
    """Search and write the choices."""
    torch.set_num_threads(options.threads)
    report: dict[str, Any] = {"chosen": {}, "measured": {}}
    if TUNED.exists():
        report = json.loads(TUNED.read_text())
    for name in selected(options.studies):
        study = STUDIES[name]
        tasks = metarl.make_family(study.family).tasks("train", options.tasks)
        for row in (r for r in study.classical if r in GRIDS):
            scores = []
            for setting in GRIDS[row]:
                settings: dict[str, Any] = {"k": (study.episodes,), "episodes": 1, "modes": ("sampled",)}
                agent = made(name, row, **setting)
                life = metarl.evaluate(agent, tasks, **settings, allow_train_tasks=True, paths=0).lifetime_summary()
                assert life is not None
                scores.append(
                    {"setting": setting, "tasks": options.tasks, **{k: life[k] for k in ("mean", "low", "high")}}
                )
            best = max(scores, key=lambda entry: entry["mean"])
            report["chosen"].setdefault(name, {})[row] = best["setting"]
            report["measured"].setdefault(name, {})[row] = scores
            print(f"{name:16}{row:28}{best['mean']:8.3f}  {best['setting']}", flush=True)
            write_atomic(TUNED, (json.dumps(report, indent=1) + "\n").encode())


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
