"""Share of 95 % intervals that contain the true value, on simulated scores with known effects of seeds and tasks.

    python experiments/interval_coverage.py

A data set holds scores of S seeds on T tasks. A score is the sum of an effect of the seed, an effect of the task and a
rest; the regime sets the deviation of each. The experiment measures the intervals of `metarl.evaluation.intervals` for
the mean and the interquartile mean, and the percentile bootstrap of the mean, which resamples seeds and tasks.
Writes `experiments/results/simulations/interval_coverage.json`; `python experiments/make_tables.py` makes the table of
docs/numbers.md.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from results_files import results_file
from trial_tables import table

from metarl.evaluation.intervals import Floats, iqm, iqm_interval, mean_interval
from metarl.files import write_atomic

OUT = results_file("simulations", "interval_coverage")
AT_ONCE = 4_000_000  # scores in memory
SAMPLE = 4_000_000  # scores that estimate a skewed regime's interquartile mean
SEVERAL = 3  # seeds that an interval should have
METHODS = {"mean": "mean", "iqm": "IQM", "bootstrap": "mean, bootstrap"}


@dataclass(frozen=True)
class Regime:
    """Standard deviations of the three effects, and the distribution of the tasks' effect."""

    label: str
    seed: float
    task: float
    rest: float
    tasks: str = "normal"


REGIMES = (
    Regime("seeds dominate", 1.0, 0.3, 0.3),
    Regime("tasks dominate", 0.1, 1.0, 0.3),
    Regime("both", 0.3, 1.0, 1.0),
    Regime("the rest alone", 0.0, 0.0, 1.0),
    Regime("heavy tails: tasks t, 3 degrees", 0.2, 1.0, 0.5, "t3"),
    Regime("skewed: tasks log-normal", 0.2, 1.0, 0.5, "lognormal"),
)


@dataclass(frozen=True)
class Options:
    """Options of the simulation."""

    seeds: tuple[int, ...] = (1, 2, 3, 5, 10, 20)
    """Numbers of seeds."""
    tasks: tuple[int, ...] = (10, 40, 400, 2000)
    """Numbers of tasks."""
    sets: int = 2000
    """Data sets for each regime, number of seeds and number of tasks."""
    resamples: int = 1000
    """Resamples of the bootstrap."""
    out: Path = OUT
    """Results file."""


def task_effects(regime: Regime, shape: tuple[int, ...], generator: np.random.Generator) -> Floats:
    """Effects of tasks with mean 0 and the regime's deviation."""
    if regime.tasks == "t3":
        return regime.task * generator.standard_t(3, shape) / np.sqrt(3.0)
    drawn = generator.standard_normal(shape)
    if regime.tasks == "lognormal":
        drawn = (np.exp(drawn) - np.exp(0.5)) / np.sqrt(np.exp(2.0) - np.exp(1.0))
    return regime.task * drawn


def simulated(regime: Regime, seeds: int, tasks: int, sets: int, generator: np.random.Generator) -> Floats:
    """Scores `[seed, task, set]` whose mean is 0."""
    by_seed = regime.seed * generator.standard_normal((seeds, 1, sets))
    rest = regime.rest * generator.standard_normal((seeds, tasks, sets))
    return by_seed + task_effects(regime, (1, tasks, sets), generator) + rest


def true_iqm(regime: Regime, generator: np.random.Generator) -> float:
    """Interquartile mean of a regime's score distribution; 0 if it is symmetric."""
    if regime.tasks != "lognormal":
        return 0.0
    around = np.hypot(regime.seed, regime.rest) * generator.standard_normal((1, SAMPLE, 1))
    return float(iqm(around + task_effects(regime, (1, SAMPLE, 1), generator))[0])


def bootstrapped(scores: Floats, resamples: int) -> tuple[Floats, Floats]:
    """Ends `[set]` of the percentile bootstrap's interval of the mean; seeds and tasks are resampled independently."""
    generator = np.random.default_rng(0)
    seeds, tasks, _ = scores.shape
    of_seed, of_task = (generator.multinomial(n, np.full(n, 1 / n), resamples) / n for n in (seeds, tasks))
    small, of_task = scores.astype(np.float32), of_task.astype(np.float32)
    means = sum(share[:, None] * (of_task @ one) for share, one in zip(of_seed.T, small, strict=True))
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return low, high


def coverage(
    regime: Regime, seeds: int, tasks: int, middle: float, options: Options, generator: np.random.Generator
) -> dict[str, float]:
    """Share of data sets whose interval contains the true value, by method; `middle` is the true interquartile mean."""
    truth = {"mean": 0.0, "bootstrap": 0.0, "iqm": middle}
    hits = dict.fromkeys(METHODS, 0)
    chunk = max(1, AT_ONCE // (seeds * tasks))
    for start in range(0, options.sets, chunk):
        scores = simulated(regime, seeds, tasks, min(chunk, options.sets - start), generator)
        ends = {"mean": mean_interval(scores), "iqm": iqm_interval(scores)}
        ends["bootstrap"] = bootstrapped(scores, options.resamples)
        for name, (low, high) in ends.items():
            hits[name] += int(((low <= truth[name]) & (truth[name] <= high)).sum())
    return {name: count / options.sets for name, count in hits.items()}


def share(value: float) -> str:
    """Format a share as .95."""
    return f"{value:.2f}".replace("0.", ".")


def coverage_table(report: dict[str, Any]) -> str:
    """Table of the lowest and highest share over numbers of tasks: rows by regime and method, columns by seeds."""
    rows = []
    for regime in report["regimes"]:
        for method, label in METHODS.items():
            cells = []
            for seeds in report["options"]["seeds"]:
                matching = [c for c in report["cells"] if (c["regime"], c["seeds"]) == (regime["label"], seeds)]
                shares = sorted(c["coverage"][method] for c in matching)
                cells.append(f"{share(shares[0])} to {share(shares[-1])}")
            rows.append([regime["label"] if method == "mean" else "", label, *cells])
    head = ["", "of the", *(f"{n} seed{'s' if n > 1 else ''}" for n in report["options"]["seeds"])]
    return caption(report) + "\n\n" + table(head, rows)


def caption(report: dict[str, Any]) -> str:
    """Caption of the table: the simulation and its main results."""
    options, several = report["options"], [c for c in report["cells"] if c["seeds"] >= SEVERAL]
    plain = sorted(c["coverage"]["mean"] for c in several if not c["regime"].startswith("skewed"))
    tasks = ", ".join(f"{n:,}" for n in options["tasks"])
    worst = min(several, key=lambda c: float(c["coverage"]["mean"]))
    return (
        f"Share of 95 % intervals that contain the true value, lowest to highest over {tasks} tasks; "
        f"{options['sets']:,} "
        "simulated data sets for each number of seeds and tasks (standard error .005). For the "
        f"mean and {SEVERAL} seeds or more: {share(plain[0])} to {share(plain[-1])} if tasks' effects are symmetric; "
        "the "
        f"lowest of all is {share(worst['coverage']['mean'])}, {worst['seeds']} seeds on {worst['tasks']:,} tasks, "
        f"{worst['regime']}. Bootstrap: percentiles of the mean of resampled seeds and tasks. Command: "
        "`python experiments/interval_coverage.py`."
    )


def main(options: Options) -> None:
    """Simulate all regimes and write the results."""
    generator, cells = np.random.default_rng(0), []
    for regime in REGIMES:
        middle = true_iqm(regime, generator)
        for seeds, tasks in itertools.product(options.seeds, options.tasks):
            found = coverage(regime, seeds, tasks, middle, options, generator)
            cells.append({"regime": regime.label, "seeds": seeds, "tasks": tasks, "coverage": found})
            print(cells[-1], flush=True)
    settings = {k: v for k, v in asdict(options).items() if k != "out"}
    report = {"options": settings, "regimes": [asdict(regime) for regime in REGIMES], "cells": cells}
    write_atomic(options.out, (json.dumps(report, indent=1) + "\n").encode())


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
