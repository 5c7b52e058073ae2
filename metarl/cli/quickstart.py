"""`metarl quickstart`: train two agents, evaluate them, print a table and write a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from metarl.agent_base import make_agent
from metarl.cli.commands import baselines, evaluate_each, fresh, say_table
from metarl.cli.options import (
    QuickstartOptions,
)
from metarl.cli.outputs import check_report
from metarl.cli.progress import say
from metarl.cli.training import train_run
from metarl.evaluation.results import Results
from metarl.report.page import write_report
from metarl.runs.run import Run


@dataclass(frozen=True)
class Study:
    """One part of the quickstart: an agent, its family, and the agents that are evaluated with it."""

    agent: str
    family: str
    iterations: int
    k: int | tuple[int, ...]
    num_tasks: int
    episodes: int
    overrides: Mapping[str, Any] = field(default_factory=dict)
    beside: tuple[str, ...] = ("random", "oracle")


QUICKSTART = (
    Study(
        "maml",
        "metarl/PointNavigation-v0",
        100,
        3,
        40,
        20,
        {"meta_batch_size": 20, "episodes": 10, "fvp_stride": 5, "inner_steps": 2, "multi_step": True}
        | {"inner_lr_schedule": (1.0, 0.5, 0.25)},
        ("scratch", "random", "oracle"),
    ),
    Study(
        "rl2", "metarl/BernoulliBandit-v0", 150, (0, 1, 2, 3, 5, 7, 10), 4000, 1, {"hidden": 64, "trial_episodes": 10}
    ),
)


def run_quickstart(options: QuickstartOptions) -> None:
    """`metarl quickstart`."""
    check_report(options.out)
    results: list[Results] = []
    for study in QUICKSTART:
        iterations = max(2, study.iterations // 10) if options.short else study.iterations
        agent = make_agent(study.agent, study.family, seed=options.seed, device=options.device, **study.overrides)
        run = Run.create(fresh(options.out / f"{study.agent}-{study.family.split('/')[-1]}"), agent, iterations)
        train_run(run, agent, 0)
        tasks = agent.family.tasks("test", study.num_tasks if not options.short else min(study.num_tasks, 1000))
        settings = {"k": study.k, "episodes": study.episodes, "seed": options.seed}
        k = (study.k,) if isinstance(study.k, int) else study.k
        groups = [[agent], *baselines([agent], study.beside, k, options.device)]
        for result in evaluate_each(groups, tasks, settings):
            result.save(
                run.path / "results" / ("test.json" if result.agent == agent.name else f"test-{result.agent}.json")
            )
            results.append(result)
    say_table(results)
    say(f"wrote {write_report(results, options.out, title='metarl quickstart', files=False)}")
