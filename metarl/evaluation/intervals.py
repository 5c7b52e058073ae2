"""Intervals for statistics of scores `[seed, task]`: seeds and tasks are drawn at random; each seed plays each task.

A score is a mean, an effect of the seed, an effect of the task and a rest (two-way crossed random effects). With the
mean squares of that analysis of variance, the variance of the mean over S seeds and T tasks is

    (MS_seed + MS_task - MS_rest) / (S T),

here in two parts: MS_seed / (S T) with S - 1 degrees of freedom, and (MS_task - MS_rest) / (S T), at least 0, with
T - 1. An interval is t * sqrt(their sum) to both sides, where t is the mean of the two parts' quantiles of Student's
distribution, weighted by the parts (Cochran and Cox 1950, Experimental Designs). What share of such intervals holds the
truth is measured by `python experiments/interval_coverage.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

Floats = npt.NDArray[np.float64]


class Part(NamedTuple):
    """A share of a statistic's variance, `[k]`, and the degrees of freedom that it was estimated with."""

    variance: Floats
    freedom: float


def mean_interval(scores: Floats, *, fixed_tasks: bool = False) -> tuple[Floats, Floats]:
    """The 95 % interval of the mean over seeds and tasks.

    Args:
        scores: `[seed, task, k]`.
        fixed_tasks: the tasks are all there are, none of them drawn: only seeds vary, where there are several.

    Returns:
        its lower and upper ends, `[k]`; both the mean itself where there is one score.
    """
    return interval(scores.mean((0, 1)), crossed_parts(scores, fixed_tasks=fixed_tasks))


def iqm_interval(scores: Floats, *, fixed_tasks: bool = False) -> tuple[Floats, Floats]:
    """The 95 % interval of the interquartile mean; arguments and ends as for `mean_interval`.

    A trimmed mean varies as the mean of the winsorised scores does, divided by the share of scores that is kept; of a
    single seed that share of the tasks counts as degrees of freedom (Tukey and McLaughlin 1963).
    """
    count = scores.shape[0] * scores.shape[1]
    cut = count // 4
    low, high = np.partition(scores.reshape(count, -1), (cut, count - cut - 1), 0)[[cut, count - cut - 1]]
    kept = 1 - 2 * cut / count
    parts = crossed_parts(np.clip(scores, low, high) / kept, fixed_tasks=fixed_tasks, kept=kept)
    return interval(iqm(scores), parts)


def iqm(scores: Floats) -> Floats:
    """Interquartile mean over seeds and tasks, the mean of the middle half: `[seed, task, k]` to `[k]`."""
    count = scores.shape[0] * scores.shape[1]
    cut = count // 4
    parted = np.partition(scores.reshape(count, -1), (cut, count - cut - 1), 0)
    return np.asarray(parted[cut : count - cut].mean(0))


def crossed_parts(scores: Floats, *, fixed_tasks: bool = False, kept: float = 1.0) -> list[Part]:
    """The variance of the mean of `[seed, task, k]`, in parts; `kept` as for `task_parts`."""
    if fixed_tasks and len(scores) > 1:
        return seed_parts(scores.mean(1))
    return seed_parts(scores.mean(1)) + task_parts(scores, kept)


def seed_parts(means: Floats) -> list[Part]:
    """The variance of the mean over seeds of `[seed, k]`; nothing of a single seed."""
    seeds = len(means)
    return [Part(means.var(0, ddof=1) / seeds, seeds - 1)] if seeds > 1 else []


def task_parts(scores: Floats, kept: float = 1.0) -> list[Part]:
    """What tasks add to it, of `[seed, task, k]`: their variance, less what is the rest's; nothing of a single task.

    `kept` is the share of a single seed's tasks that counts as degrees of freedom.
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
    """The ends `[k]` of the interval around `centre` `[k]` whose variance is the sum of some parts."""
    total = np.sum([part.variance for part in parts], 0) + np.zeros_like(centre)
    weighted = np.sum([part.variance * stdtrit(part.freedom, 0.5 + level / 2) for part in parts], 0)
    half = np.divide(weighted, np.sqrt(total), out=np.zeros_like(total), where=total > 0)  # t * sqrt(total)
    return centre - half, centre + half
