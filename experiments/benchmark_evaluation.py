"""Time of an evaluation by its number of tasks, as `evaluate` divides it and in other divisions.

    python experiments/benchmark_evaluation.py [--tasks 10 100 1000] [--long 10000] [--repeats 3] [--threads 2]

`maml` is evaluated on held-out tasks of metarl/PointNavigation-v0 at k = 0, ..., 3: 20 scored episodes with sampled
actions for each k. One side plays batches of trials as `evaluate` does, one in each thread. The second side plays one
batch at a time, and all threads share each operation. The third side does so too, with batches of 65,536 environments.
The sides run in turns. A number is the median over repeats after an evaluation of a few tasks. Seconds are those of the
wall clock, and of the processor over all threads (user and system): other processes add to the first, and less to the
second. `--long 10000` evaluates that many tasks once, without the other sides.

It also times the 95 % interval of the mean of 10 seeds x 100 tasks: metarl's, and the percentile bootstrap of 10,000
resamples of seeds and tasks, which is what other suites use (experiments/interval_coverage.py measures both intervals'
coverage).
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import tyro
from baselines.measure import Sample, Side, interleave, machine
from interval_coverage import bootstrapped
from results_files import results_file
from tables.text import table

from metarl import evaluate, make_agent
from metarl.agent import Agent
from metarl.evaluation.intervals import mean_interval
from metarl.files import write_atomic

OUT = results_file("speed", "speed_evaluation")
LARGE = 65_536  # environments at once of the third side
RESAMPLES = 10_000
WARM_UP = 10  # tasks of the evaluation that is not timed
SIDES = {"default": "metarl", "one": "one batch at a time", "large": f"batches of {LARGE:,}"}


@dataclass(frozen=True)
class Options:
    """Options of the benchmark."""

    tasks: tuple[int, ...] = (10, 100, 1000)
    """Numbers of tasks."""
    long: int | None = None
    """A number of tasks that is evaluated once, without the other sides."""
    repeats: int = 3
    """Timed repeats of each side."""
    threads: int = 2
    """Number of PyTorch threads."""
    episodes: int = 20
    """Scored episodes for each k."""
    out: Path = OUT
    """Results file."""
    small: bool = False
    """Whether to use a tiny network and few steps, to test that everything runs. Such numbers are meaningless."""


def main(options: Options) -> None:
    """Measure, print the table and write the results."""
    torch.set_num_threads(options.threads)
    agent = make_agent(
        "maml", "metarl/PointNavigation-v0", **({"hidden": (4,), "eval_steps": 100} if options.small else {})
    )
    cases = []
    for tasks in options.tasks:
        sides = {name: side(agent, tasks, name, options) for name in SIDES}
        cases.append({"tasks": tasks, **interleave(sides, options.repeats)})
        print(line_of(cases[-1]), flush=True)
    if options.long is not None:
        sides = {"default": side(agent, options.long, "default", options)}
        cases.append({"tasks": options.long, **interleave(sides, 1)})
        print(line_of(cases[-1]), flush=True)
    intervals = interleave(interval_sides(100 if options.small else RESAMPLES), options.repeats)
    settings, width = asdict(options) | {"out": options.out.name}, max(agent.budget.envs, options.episodes)
    report = {"options": settings, **machine(), "environments_per_trial": width, "cases": cases, "intervals": intervals}
    write_atomic(options.out, (json.dumps(report, indent=1) + "\n").encode())


def side(agent: Agent, tasks: int, name: str, options: Options) -> Side:
    """One side of a case: seconds of the wall clock and of the processor."""
    width = max(agent.budget.envs, options.episodes)
    settings = {"k": 3, "episodes": options.episodes, "paths": 0, "modes": ["sampled"]}
    if name == "large":
        settings["rows_at_once"] = LARGE // width

    def work(i: int) -> Sample:
        start = time.perf_counter(), time.process_time()
        count = tasks if i else min(tasks, WARM_UP)
        in_turn = mock.patch("metarl.evaluation.evaluate.parts_at_once", return_value=1)
        with nullcontext() if name == "default" else in_turn:
            evaluate(agent, num_tasks=count, **settings)
        return {"seconds": time.perf_counter() - start[0], "processor_seconds": time.process_time() - start[1]}

    return work


def interval_sides(resamples: int) -> dict[str, Side]:
    """Seconds of two kinds of intervals of the same scores."""
    scores = np.random.default_rng(0).standard_normal((10, 100, 1))
    kinds = {"crossed": lambda: mean_interval(scores), "bootstrap": lambda: bootstrapped(scores, resamples)}

    def timed(work: Callable[[], object]) -> Side:
        def side(_: int) -> Sample:
            start = time.perf_counter()
            work()
            return {"seconds": time.perf_counter() - start}

        return side

    return {name: timed(work) for name, work in kinds.items()}


def intervals_sentence(found: dict[str, Any]) -> str:
    """How long the intervals take, in words."""
    crossed, resampled = (statistics.median(found[name]["seconds"]) for name in ("crossed", "bootstrap"))
    return (
        f"The interval of a mean over 10 seeds x 100 tasks takes {1000 * crossed:.2g} ms; {RESAMPLES:,} resamples of "
        f"seeds and tasks, {1000 * resampled:.2g} ms ({resampled / crossed:,.0f} x)."
    )


def medians(case: dict[str, Any], name: str) -> tuple[float, float] | None:
    """Median seconds of a side by the wall clock and by the processor; None if the side was not measured."""
    if name not in case:
        return None
    return statistics.median(case[name]["seconds"]), statistics.median(case[name]["processor_seconds"])


def cells(case: dict[str, Any], sides: list[str]) -> Iterator[str]:
    """A case's cells of the table."""
    yield f"{case['tasks']:,}"
    ours = medians(case, "default")
    assert ours is not None
    for name in sides:
        found = medians(case, name)
        yield from (f"{value:.3g}" for value in found) if found else ("", "")
        if name != "default":
            yield from (f"{value / own:.2f} x" for value, own in zip(found, ours, strict=True)) if found else ("", "")


def head(sides: list[str]) -> list[str]:
    """The head of the table."""
    names = ["tasks"]
    for name in sides:
        names += [f"{SIDES[name]} [s]", "processor [s]", *(["ratio", "processor"] if name != "default" else [])]
    return names


def sides_of(cases: list[dict[str, Any]]) -> list[str]:
    """The sides that were measured in some case."""
    return [name for name in SIDES if any(name in case for case in cases)]


def table_of(report: dict[str, Any]) -> str:
    """The table of docs/speed.md."""
    options = report["options"]
    about = (
        f"Seconds of `evaluate` with `maml` on metarl/PointNavigation-v0, k = 0, ..., 3, {options['episodes']} scored "
        f"episodes, sampled actions; medians of {options['repeats']} interleaved repeats with {options['threads']} "
        f"thread{'s' if options['threads'] > 1 else ''} on {report['cpu']}, {report['cores']} cores, load "
        f"{report['load_average'][0]:.1f}. The wall clock and the processor's time, which other processes disturb "
        "less; a ratio is the other side's time by that of metarl. Command: `python experiments/benchmark_evaluation.py"
        f" --threads {options['threads']} --repeats {options['repeats']}`."
    )
    sides = sides_of(report["cases"])
    rows = table(head(sides), [list(cells(case, sides)) for case in report["cases"]])
    said = f"\n\n{intervals_sentence(report['intervals'])}" if "intervals" in report else ""
    return f"{about}\n\n{rows}{said}"


def line_of(case: dict[str, Any]) -> str:
    """A case as a line of text."""
    sides = sides_of([case])
    return "; ".join(f"{name}: {cell}" for name, cell in zip(head(sides), cells(case, sides), strict=True) if cell)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
