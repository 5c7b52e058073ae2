"""MAML on 2-D navigation, the paper's protocol: 20 episodes x 40 tasks x 100 steps, 100 meta-updates, TRPO.

    python experiments/point_navigation.py --seeds 0 1 2

Finn, Abbeel and Levine (2017, arXiv:1703.03400, section 5.3). Evaluated on 40 held-out goals with 4,000 environment
steps per adaptation step, beside the untrained initialisation (the same inner updates), random actions and the
informed optimum. Writes `experiments/results/point_navigation-*.json`; runs resume if they were interrupted.
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

FAMILY = "metarl/PointNavigation-v0"
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Options:
    """What to run."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """One training run for each."""
    iterations: int = 100
    """Meta-updates."""
    runs: Path = Path("runs/point_navigation")
    """Where the runs go."""
    threads: int = 1
    """Of PyTorch; another number may round sums otherwise."""


def trained(options: Options, seed: int) -> metarl.Agent:
    """The agent of one seed, trained from where its run stands."""
    path = options.runs / f"seed{seed}"
    if (path / "config.json").exists():
        run = Run.open(path)
    else:
        run = Run.create(path, metarl.make_agent("maml", FAMILY, seed=seed), options.iterations)
    agent, start = run.load_agent()
    with Progress() as bar:
        task = bar.add_task(f"maml, seed {seed}", total=options.iterations, completed=start)
        run.train(agent, start, lambda done, total, metrics: bar.update(task, completed=done))
    return agent


def main(options: Options) -> None:
    """Train, evaluate, save."""
    torch.set_num_threads(options.threads)
    agents = [trained(options, seed) for seed in options.seeds]
    tasks = agents[0].family.tasks("test", 40)
    settings: dict[str, Any] = {"k": 3, "episodes": 20}
    compared = {
        "maml": agents,
        "untrained": [metarl.make_agent("maml", FAMILY, seed=seed) for seed in options.seeds],
        "random": [metarl.make_agent("random", FAMILY)],
        "oracle": [metarl.make_agent("oracle", FAMILY)],
    }
    for name, group in compared.items():
        print(metarl.evaluate(group, tasks, **settings).save(RESULTS / f"point_navigation-{name}.json"))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
