"""Hyperparameters of the classical agents, by playing train tasks.

    python experiments/tune.py                          # all studies of experiments/trials.py: about half an hour
    python experiments/tune.py --studies bandit-n10

Every agent of GRIDS plays every study that has it, on train tasks, with each setting of its grid; the highest mean
lifetime return wins. Writes `experiments/tuned.json`: what was chosen, and all that was measured.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
import tyro
from trials import STUDIES, TUNED, made

import metarl
from metarl.tasks import write_atomic

EPSILON = tuple({"epsilon": e} for e in (0.01, 0.02, 0.05, 0.1, 0.2))
CONFIDENCE = tuple({"confidence": c} for c in (0.01, 0.02, 0.05, 0.1, 0.3, 1.0))
GRIDS: dict[str, tuple[dict[str, float], ...]] = {
    # with and without the prior of a posterior mean: without it untried arms go first
    "ucb1": tuple(
        {"c": c, "prior_paid": p, "prior_pulls": 2.0 * p} for p in (0.0, 1.0) for c in (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
    ),
    "epsilon_greedy": EPSILON,
    "epsilon_greedy_mdp": EPSILON,
    "epsilon_greedy_mdp-prior0": EPSILON,
    "ucrl2": CONFIDENCE,
    "ucrl2-prior0": CONFIDENCE,
    "beb": tuple({"bonus": b} for b in (0.25, 0.5, 1.0, 2.0)),
}


@dataclass(frozen=True)
class Options:
    """What to search."""

    studies: tuple[str, ...] = ("bandit", "mdp")
    """Names of studies, or how they begin."""
    tasks: int = 4000
    """Train tasks, the same for all settings."""
    threads: int = 1
    """Of PyTorch."""


def main(options: Options) -> None:
    """Search, write."""
    torch.set_num_threads(options.threads)
    report: dict[str, Any] = {"tasks": options.tasks, "chosen": {}, "measured": {}}
    if TUNED.exists():
        report |= {key: json.loads(TUNED.read_text())[key] for key in ("chosen", "measured")}
    for name, study in STUDIES.items():
        if not any(name == s or name.startswith(f"{s}-") for s in options.studies):
            continue
        tasks = metarl.make_family(study.family).tasks("train", options.tasks)
        for row in (r for r in study.classical if r in GRIDS):
            found = []
            for setting in GRIDS[row]:
                settings: dict[str, Any] = {"k": (study.episodes,), "episodes": 1, "modes": ("sampled",)}
                agent = made(name, row, **setting)
                life = metarl.evaluate(agent, tasks, **settings, allow_train_tasks=True, paths=0).lifetime_summary()
                assert life is not None
                found.append({"setting": setting, "mean": life["mean"], "low": life["low"], "high": life["high"]})
            best = max(found, key=lambda entry: entry["mean"])
            report["chosen"].setdefault(name, {})[row] = best["setting"]
            report["measured"].setdefault(name, {})[row] = found
            print(f"{name:16}{row:28}{best['mean']:8.3f}  {best['setting']}", flush=True)
            write_atomic(TUNED, (json.dumps(report, indent=1) + "\n").encode())


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
