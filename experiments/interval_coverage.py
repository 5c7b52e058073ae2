"""Share of 95 % intervals that contain the true value, on simulated scores with known effects of seeds and tasks.

    python experiments/interval_coverage.py

A data set holds scores of S seeds on T tasks. A score is the sum of an effect of the seed, an effect of the task and a
rest; the regime sets the deviation of each. The experiment measures the intervals of `metarl.evaluation` for the mean,
the interquartile mean, the CVaR over tasks, the optimality gap, a point of the performance profile, the difference of
two agents and the probability of improvement, and the percentile bootstrap of the mean, which resamples seeds and
tasks.
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
from scipy.special import ndtr
from tables.text import table

from metarl.evaluation.comparison import difference_interval, improvement_interval
from metarl.evaluation.intervals import Floats, iqm_interval, mean_interval
from metarl.evaluation.statistics import cvar, cvar_interval, optimality_gap_interval, profile_interval
from metarl.files import write_atomic

OUT = results_file("simulations", "interval_coverage")
AT_ONCE = 400_000  # scores of an agent in memory
SAMPLE = 2_000_000  # scores that estimate true values
LOW = 0.9  # a share that a 95 % interval should not fall below
SEVERAL = 3  # seeds that an interval should have
METHODS = {
    "mean": "mean",
    "iqm": "IQM",
    "bootstrap": "mean, bootstrap",
    "cvar": "CVaR",
    "gap": "optimality gap",
    "profile": "profile",
    "difference": "difference",
    "improvement": "probability of improvement",
}


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

    seeds: tuple[int, ...] = (1, 2, 3, 5, 10)
    """Numbers of seeds."""
    tasks: tuple[int, ...] = (20, 40, 2000)
    """Numbers of tasks."""
    sets: int = 1000
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
    """Scores `[agent, seed, task, set]` of two agents on the same tasks; all means are 0."""
    by_seed = regime.seed * generator.standard_normal((2, seeds, 1, sets))
    rest = regime.rest * generator.standard_normal((2, seeds, tasks, sets))
    return by_seed + task_effects(regime, (1, 1, tasks, sets), generator) + rest


def truths(regime: Regime, seeds: int, sample: Floats) -> dict[str, float]:
    """The true values of all statistics. Those of skewed and heavy-tailed tasks come from a large sample.

    Args:
        regime: the regime.
        seeds: number of seeds; the CVaR is that of a task's mean over as many seeds.
        sample: task effects, and standard normal draws for the seed and for the rest, `[3, n]`.
    """
    tasks, by_seed, rest = sample
    scores = tasks + regime.seed * by_seed + regime.rest * rest
    of_task = tasks + regime.rest / np.sqrt(seeds) * rest
    low, middle, high = np.quantile(scores, [0.1, 0.25, 0.75])
    found = {"mean": 0.0, "bootstrap": 0.0, "iqm": float(scores[(scores > middle) & (scores < high)].mean())}
    found |= {"gap": float(np.maximum(0.0, -scores).mean()), "cvar": float(cvar(of_task[None, :, None])[0])}
    found |= {"profile": float(low)}  # the threshold that 90 % of the scores reach
    return found | {"difference": shift(regime), "improvement": float(ndtr(1.0))}


def shift(regime: Regime) -> float:
    """How much better the first of two agents is: one standard deviation of the difference of two runs in a task."""
    return float(np.sqrt(2.0 * (regime.seed**2 + regime.rest**2)))


def intervals(regime: Regime, truth: dict[str, float], first: Floats, second: Floats, resamples: int) -> dict[str, Any]:
    """The ends `[set]` of all intervals for scores `[seed, task, set]` of two agents with equal means."""
    better = first + shift(regime)
    return {
        "mean": mean_interval(first),
        "iqm": iqm_interval(first),
        "bootstrap": bootstrapped(first, resamples),
        "cvar": cvar_interval(first),
        "gap": optimality_gap_interval(1.0 + first),
        "profile": profile_interval(first, np.asarray(truth["profile"])),
        "difference": difference_interval(better, second),
        "improvement": improvement_interval(better, second),
    }


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
    regime: Regime, seeds: int, tasks: int, truth: dict[str, float], options: Options, generator: np.random.Generator
) -> dict[str, float]:
    """Share of data sets whose interval contains the true value, by method."""
    hits = dict.fromkeys(METHODS, 0)
    aim = truth | {"profile": 0.9}
    chunk = max(1, AT_ONCE // (seeds * tasks))
    for start in range(0, options.sets, chunk):
        first, second = simulated(regime, seeds, tasks, min(chunk, options.sets - start), generator)
        for name, (low, high) in intervals(regime, truth, first, second, options.resamples).items():
            hits[name] += int(((low <= aim[name]) & (aim[name] <= high)).sum())
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
    options = report["options"]
    several = [c for c in report["cells"] if c["seeds"] >= SEVERAL]
    skewed = [c for c in several if c["regime"].startswith("skewed")]
    said = {}
    for kind, cells in (("symmetric", [c for c in several if c not in skewed]), ("skewed", skewed)):
        shares = {name: sorted(c["coverage"][name] for c in cells) for name in ("mean", "difference")}
        parts = [f"{share(found[0])} to {share(found[-1])} of the {METHODS[name]}" for name, found in shares.items()]
        said[kind] = " and ".join(parts)
    worst = []
    for name in METHODS:
        low, where = min((c["coverage"][name], c["regime"]) for c in several)
        worst += [f"{share(low)} of the {METHODS[name]} ({where})"] if low < LOW else []
    tasks = ", ".join(f"{n:,}" for n in options["tasks"])
    error = f"{np.sqrt(0.95 * 0.05 / options['sets']):.3f}".lstrip("0")
    return (
        f"Share of 95 % intervals that contain the true value, lowest to highest over {tasks} tasks; "
        f"{options['sets']:,} simulated data sets for each number of seeds and tasks (standard error "
        f"{error}). With {SEVERAL} seeds or more and tasks' effects that are symmetric: {said['symmetric']}; with "
        f"skewed ones: {said['skewed']}. Too few, at the lowest of all regimes with {SEVERAL} seeds or more: "
        f"{', '.join(worst)}. "
        "CVaR: of a task's mean over these seeds, worst tenth. Optimality gap: of an agent whose mean is the optimum, "
        "so that half of the scores count as 0. Profile: at the threshold that 90 % of runs reach. "
        "Difference and improvement: two agents on the same tasks, one of them better by a standard deviation. "
        "Bootstrap: percentiles of the mean of resampled seeds and tasks. Command: "
        "`python experiments/interval_coverage.py`."
    )


def main(options: Options) -> None:
    """Simulate all regimes and write the results."""
    generator, cells = np.random.default_rng(0), []
    for regime in REGIMES:
        drawn = task_effects(regime, (SAMPLE,), generator)
        sample = np.stack([drawn, *generator.standard_normal((2, SAMPLE))])
        truth = {seeds: truths(regime, seeds, sample) for seeds in options.seeds}
        for seeds, tasks in itertools.product(options.seeds, options.tasks):
            found = coverage(regime, seeds, tasks, truth[seeds], options, generator)
            cells.append({"regime": regime.label, "seeds": seeds, "tasks": tasks, "coverage": found})
            print(cells[-1], flush=True)
    settings = {k: v for k, v in asdict(options).items() if k != "out"}
    report = {"options": settings, "regimes": [asdict(regime) for regime in REGIMES], "cells": cells}
    write_atomic(options.out, (json.dumps(report, indent=1) + "\n").encode())


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
