"""RL2 on Bernoulli bandits with n pulls and k arms, on fresh bandits, beside the Bayes optimum where it is exact.

    python experiments/bandit.py --seeds 0 1 2

Duan et al. (2016, arXiv:1611.02779, table 1). The score is the total reward of a trial, exploration included, with
sampled actions, on 20,000 held-out bandits. Writes `experiments/results/bandit-n*-k*-*.json`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.progress import Progress

import metarl
from metarl.runs import Run

RESULTS = Path(__file__).parent / "results"
CELLS = {(10, 5): "metarl/BernoulliBandit-v0", (10, 10): "metarl/BernoulliBandit-v0:k10"}


@dataclass(frozen=True)
class Options:
    """What to run."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """One training run for each."""
    iterations: int = 300
    """Meta-updates of 1,000 trials."""
    runs: Path = Path("runs/bandit")
    """Where the runs go."""
    threads: int = 1
    """Of PyTorch; another number may round sums otherwise."""


def main(options: Options) -> None:
    """Train, evaluate, save, for each cell of the table."""
    torch.set_num_threads(options.threads)
    for (pulls, arms), family in CELLS.items():
        agents = []
        for seed in options.seeds:
            path = options.runs / f"n{pulls}-k{arms}-seed{seed}"
            if not (path / "config.json").exists():
                made = metarl.make_agent("rl2", family, seed=seed, trial_episodes=pulls)
                Run.create(path, made, options.iterations, checkpoint_every=50)
            run = Run.open(path)
            agent, start = run.load_agent()
            with Progress() as bar:
                task = bar.add_task(f"rl2, n {pulls}, k {arms}, seed {seed}", total=options.iterations, completed=start)
                run.train(
                    agent, start, lambda done, total, metrics, bar=bar, task=task: bar.update(task, completed=done)
                )
            agents.append(agent)
        tasks = agents[0].family.tasks("test", 20_000)
        settings: dict[str, Any] = {"k": (0, pulls // 2, pulls), "episodes": 1, "modes": ("sampled",)}
        for group in (agents, *([metarl.make_agent(name, family)] for name in ("random", "oracle"))):
            result = metarl.evaluate(group, tasks, **settings)
            print(result.save(RESULTS / f"bandit-n{pulls}-k{arms}-{result.agent}.json"))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
