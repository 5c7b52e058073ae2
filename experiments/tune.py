"""Search of the classical agents' hyperparameters, on train tasks.

    python experiments/tune.py                          # the suites bandits and mdps: about half an hour
    python experiments/tune.py --studies bandits/n10

Every agent of GRIDS plays the train tasks of its studies with each setting of its grid. The setting with the highest
mean lifetime return is chosen. Writes the choices to `metarl/benchmark/suites/tuned.json`, where the suites find them,
and all scores to `experiments/tuned.json`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from results_files import STUDIES, length, selected

import metarl
from metarl.benchmark import suites
from metarl.benchmark.suite import Entry
from metarl.files import write_atomic

CHOSEN = Path(suites.__file__).parent / "tuned.json"
MEASURED = Path(__file__).parent / "tuned.json"
EPSILON = tuple({"epsilon": e} for e in (0.01, 0.02, 0.05, 0.1, 0.2))
CONFIDENCE = tuple({"confidence": c} for c in (0.01, 0.02, 0.05, 0.1, 0.3, 1.0))
GRIDS: dict[str, tuple[dict[str, float], ...]] = {
    # with and without the prior of a posterior mean; without it, untried arms are pulled first
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
    """Options of the search."""

    studies: tuple[str, ...] = ("bandits", "mdps")
    """Names of studies, or their first parts."""
    tasks: int = 4000
    """Number of train tasks; all settings play the same tasks."""
    threads: int = 1
    """Number of PyTorch threads."""


def scores(study: str, entry: Entry, grid: tuple[dict[str, float], ...], tasks: int) -> list[dict[str, Any]]:
    """The lifetime return of an agent with each setting of its grid on train tasks."""
    family, out = metarl.make_family(STUDIES[study].family), []
    played = family.tasks("train", tasks)
    for setting in grid:
        agent = metarl.make_agent(entry.agent, family, **{**entry.settings, **setting})  # type: ignore[arg-type]
        settings: dict[str, Any] = {"k": (length(study),), "episodes": 1, "modes": ("sampled",), "paths": 0}
        life = metarl.evaluate(agent, played, **settings, allow_train_tasks=True).lifetime_summary()
        assert life is not None
        out.append({"setting": setting, "tasks": tasks, **{k: life[k] for k in ("mean", "low", "high")}})
    return out


def main(options: Options) -> None:
    """Search and write the choices."""
    torch.set_num_threads(options.threads)
    chosen, measured = json.loads(CHOSEN.read_text()), json.loads(MEASURED.read_text())
    for study in selected(options.studies):
        for row, entry in STUDIES[study].entries.items():
            if row not in GRIDS:
                continue
            found = scores(study, entry, GRIDS[row], options.tasks)
            best = max(found, key=lambda score: score["mean"])
            chosen.setdefault(study, {})[row] = best["setting"]
            measured.setdefault(study, {})[row] = found
            print(f"{study:16}{row:28}{best['mean']:8.3f}  {best['setting']}", flush=True)
            for path, report in ((CHOSEN, chosen), (MEASURED, measured)):
                write_atomic(path, (json.dumps(report, indent=1) + "\n").encode())


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
