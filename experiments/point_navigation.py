"""MAML on 2-D navigation: the paper's protocol, and the quickstart's smaller batches.

    python experiments/point_navigation.py --setting paper --seeds 0 1 2
    python experiments/point_navigation.py --setting quickstart --seeds 0 1 2

Finn, Abbeel and Levine (2017, arXiv:1703.03400, section 5.3): 40 tasks x 20 episodes x 100 steps, 100 meta-updates,
TRPO. Evaluated on 40 held-out goals with 4,000 environment steps per adaptation step, beside the untrained
initialisation (the same inner updates), random actions and the informed optimum. Writes
`experiments/results/point_navigation-SETTING-*.json`; runs resume if they were interrupted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from rich.progress import Progress

import metarl
from metarl.cli import QUICKSTART
from metarl.runs import Run

FAMILY = "metarl/PointNavigation-v0"
RESULTS = Path(__file__).parent / "results"
SMALL = next(study for study in QUICKSTART if study.agent == "maml")
SETTINGS: dict[str, tuple[int, dict[str, Any]]] = {
    "paper": (100, {}),  # the defaults
    "quickstart": (SMALL.iterations, dict(SMALL.overrides)),
}


@dataclass(frozen=True)
class Options:
    """What to run."""

    setting: Literal["paper", "quickstart"] = "paper"
    """Batch sizes and meta-updates."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One training run for each."""
    runs: Path = Path("runs/point_navigation")
    """Where the runs go."""
    threads: int = 1
    """Of PyTorch; another number may round sums otherwise."""


def trained(options: Options, seed: int) -> metarl.Agent:
    """The agent of one seed, trained from where its run stands."""
    path = options.runs / options.setting / f"seed{seed}"
    iterations, overrides = SETTINGS[options.setting]
    if not (path / "config.json").exists():
        Run.create(path, metarl.make_agent("maml", FAMILY, seed=seed, **overrides), iterations)
    run = Run.open(path)
    agent, start = run.load_agent()
    with Progress() as bar:
        task = bar.add_task(f"maml, seed {seed}", total=iterations, completed=start)
        run.train(agent, start, lambda done, total, metrics: bar.update(task, completed=done))
    return agent


def main(options: Options) -> None:
    """Train, evaluate, save."""
    torch.set_num_threads(options.threads)
    agents = [trained(options, seed) for seed in options.seeds]
    tasks = agents[0].family.tasks("test", 40)
    compared = {
        "maml": agents,
        "untrained": [metarl.make_agent("maml", FAMILY, seed=seed) for seed in options.seeds],
        "random": [metarl.make_agent("random", FAMILY)],
        "oracle": [metarl.make_agent("oracle", FAMILY)],
    }
    for name, group in compared.items():
        results = metarl.evaluate(group, tasks, k=3, episodes=20)
        print(results.save(RESULTS / f"point_navigation-{options.setting}-{name}.json"))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
