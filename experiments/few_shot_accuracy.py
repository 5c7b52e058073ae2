"""Accuracy on digits by the number of labelled images of the class that were shown before.

    python experiments/few_shot_accuracy.py

Plays held-out tasks with the trained rows of the suite `few_shot`, deterministic actions, and counts (Santoro et al.
2016, figure 2). A player that recognises every digit is right by chance before the first image of a class and always
afterwards. Writes `experiments/results/simulations/few_shot_accuracy.json`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import tyro
from results_files import RESULTS, STUDIES, results_file, row_file

import metarl
from metarl.agent import Agent, Budget, Rollout
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.files import write_atomic

OUT = results_file("simulations", "few_shot_accuracy")
MOST = 5  # examples: this many or more are counted together


@dataclass(frozen=True)
class Options:
    """Options of the evaluation."""

    tasks: int = 2000
    """Held-out tasks, one sequence of images in each."""
    out: Path = OUT
    """Results file."""
    threads: int = 1
    """Number of PyTorch threads."""


def counts(rollout: Rollout, ways: int) -> npt.NDArray[np.int64]:
    """Images by the number of examples of their class before, and the correct ones among them: `[2, MOST + 1]`.

    The label of an image is shown beside the next one, so `final_obs` is needed.
    """
    labels = rollout.extras["final_obs"][:, :, 0, -ways:]  # [T, R, ways], one-hot
    before = ((labels.cumsum(0) - labels) * labels).sum(-1).long().clamp(max=MOST)
    correct = rollout.reward[:, :, 0] > 0.5
    return np.stack([np.bincount(v.flatten().numpy(), minlength=MOST + 1) for v in (before, before[correct])])


def accuracy(agent: Agent[Any], tasks: int) -> list[float]:
    """Share of correct labels after 0, 1, ..., `MOST` or more examples of the class; NaN where there was none."""
    trials = PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("test", tasks))
    budget = Budget(envs=1, episodes=1)
    rollout, _ = trials.collect(agent, agent.begin(tasks), 0, budget, deterministic=True, final_obs=True)
    seen, correct = counts(rollout, agent.family.action_space.n)  # type: ignore[attr-defined]
    return [float(c) / float(n) if n else float("nan") for c, n in zip(correct, seen, strict=True)]


def main(options: Options) -> None:
    """Play the rows that have weights, and write the means over seeds."""
    torch.set_num_threads(options.threads)
    report: dict[str, Any] = {"tasks": options.tasks, "rows": {}}
    for study in (name for name in STUDIES if name.startswith("few_shot/")):
        for row, entry in STUDIES[study].entries.items():
            seeds = sorted(row_file(study, row).parent.glob("seed*")) if entry.iterations else []
            by_seed = [accuracy(metarl.load(seed), options.tasks) for seed in seeds]
            if by_seed:
                name = row_file(study, row).parent.relative_to(RESULTS).as_posix()
                report["rows"][name] = by_seed
                print(name, np.round(np.mean(by_seed, 0), 3), flush=True)
    write_atomic(options.out, (json.dumps(report, indent=1) + "\n").encode())


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
