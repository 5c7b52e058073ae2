"""Intervals for statistics of scores `[seed, task]`, where seeds and tasks are random and each seed plays each task.

A score is the sum of a mean, an effect of the seed, an effect of the task and a rest (two-way crossed random effects).
With the mean squares MS of this analysis of variance, the variance of the mean over S seeds and T tasks is

    (MS_seed + MS_task - MS_rest) / (S T).

It is computed in two parts: MS_seed / (S T) with S - 1 degrees of freedom, and (MS_task - MS_rest) / (S T), at least 0,
with T - 1 degrees. An interval extends t * sqrt(sum of the parts) to both sides. t is the mean of the parts' quantiles
of Student's distribution, weighted by the parts (Cochran and Cox 1950, Experimental Designs).
`python experiments/interval_coverage.py` measures the share of such intervals that hold the true mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

Floats = npt.NDArray[np.float64]


class Part(NamedTuple):
    """A part of a statistic's variance, `[k]`, and its degrees of freedom."""

    variance: Floats
    freedom: float


def mean_interval(scores: Floats, *, fixed_tasks: bool = False) -> tuple[Floats, Floats]:
    """The 95 % interval of the mean over seeds and tasks.

    Args:
        scores: `[seed, task, k]`.
        fixed_tasks: whether the tasks are all tasks of the family, not random ones. With several seeds, only the seeds
            then count as random.

    Returns:
        the lower and the upper end, `[k]` each. With a single score both are the mean itself.
    """
    return interval(scores.mean((0, 1)), crossed_parts(scores, fixed_tasks=fixed_tasks))


def iqm_interval(scores: Floats, *, fixed_tasks: bool = False) -> tuple[Floats, Floats]:
    """The 95 % interval of the interquartile mean. Arguments and returned values are those of `mean_interval`.

    The error of a trimmed mean is the error of the mean of the winsorised scores, divided by the share of scores that
    is kept. With a single seed, this share of the tasks counts as degrees of freedom (Tukey and McLaughlin 1963).
    """
    count = scores.shape[0] * scores.shape[1]
    cut = count // 4
    low, high = np.partition(scores.reshape(count, -1), (cut, count - cut - 1), 0)[[cut, count - cut - 1]]
    kept = 1 - 2 * cut / count
    parts = crossed_parts(np.clip(scores, low, high) / kept, fixed_tasks=fixed_tasks, kept=kept)
    return interval(iqm(scores), parts)


def iqm(scores: Floats) -> Floats:
    """The interquartile mean, which is the mean of the middle half of the scores: `[seed, task, k]` to `[k]`."""
    count = scores.shape[0] * scores.shape[1]
    cut = count // 4
    partitioned = np.partition(scores.reshape(count, -1), (cut, count - cut - 1), 0)
    return np.asarray(partitioned[cut : count - cut].mean(0))


def crossed_parts(scores: Floats, *, fixed_tasks: bool = False, kept: float = 1.0) -> list[Part]:
    """The parts of the variance of the mean of `[seed, task, k]`; `kept` is that of `task_parts`."""
    if fixed_tasks and len(scores) > 1:
        return seed_parts(scores.mean(1))
    return seed_parts(scores.mean(1)) + task_parts(scores, kept)


def seed_parts(means: Floats) -> list[Part]:
    """The seeds' part of the variance, from means `[seed, k]`; an empty list for a single seed."""
    seeds = len(means)
    return [Part(means.var(0, ddof=1) / seeds, seeds - 1)] if seeds > 1 else []


def task_parts(scores: Floats, kept: float = 1.0) -> list[Part]:
    """The tasks' part of the variance, from scores `[seed, task, k]`; an empty list for a single task.

    Args:
        scores: `[seed, task, k]`.
        kept: share of the tasks that counts as degrees of freedom if there is a single seed.
    """
    seeds, tasks = scores.shape[:2]
    if tasks == 1:
        return []
    means = scores.mean(0)
    variance = means.var(0, ddof=1) / tasks
    if seeds == 1:
        return [Part(variance, max(1.0, kept * tasks - 1))]
    rest = scores - means - scores.mean(1, keepdims=True) + scores.mean((0, 1))
    variance = variance - np.square(rest).sum((0, 1)) / ((seeds - 1) * (tasks - 1) * seeds * tasks)
    return [Part(np.maximum(variance, 0.0), tasks - 1)]


def interval(centre: Floats, parts: Sequence[Part], level: float = 0.95) -> tuple[Floats, Floats]:
    """The ends `[k]` of an interval around `centre` `[k]`, whose variance is the sum of the parts."""
    total = np.sum([part.variance for part in parts], 0) + np.zeros_like(centre)
    weighted = np.sum([part.variance * stdtrit(part.freedom, 0.5 + level / 2) for part in parts], 0)
    half = np.divide(weighted, np.sqrt(total), out=np.zeros_like(total), where=total > 0)  # t * sqrt(total)
    return centre - half, centre + half
