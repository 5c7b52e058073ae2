"""Intervals for statistics of scores `[seed, task]`, where seeds and tasks are random and each seed plays each task.

A score is the sum of a mean, an effect of the seed, an effect of the task and a rest (two-way crossed random effects).
With the mean squares MS of this analysis of variance, the variance of the mean over S seeds and T tasks is

    (MS_seed + MS_task - MS_rest) / (S T).

It is computed in two parts: MS_seed / (S T) with S - 1 degrees of freedom, and (MS_task - MS_rest) / (S T), at least 0,
with T - 1 degrees. An interval extends t * sqrt(sum of the parts) to both sides. t is the mean of the parts' quantiles
of Student's distribution, weighted by the parts (Cochran and Cox 1950, Experimental Designs). Parts of the same kind,
as those of two agents' seeds, are pooled before (Welch 1947): the weighted mean of two equal quantiles would be the
quantile of one part alone, and the interval too wide.
`python experiments/interval_coverage.py` measures the share of such intervals that hold the true mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv, stdtrit

Floats = npt.NDArray[np.float64]


class Part(NamedTuple):
    """A part of a statistic's variance, `[k]`, and its degrees of freedom, one number or `[k]`."""

    variance: Floats
    freedom: float | Floats


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
    scores_left, kept = winsorised(scores)
    return interval(iqm(scores), crossed_parts(scores_left, fixed_tasks=fixed_tasks, kept=kept))


def winsorised(scores: Floats) -> tuple[Floats, float]:
    """Scores `[seed, task, k]` cut off at their quartiles and divided by the share that is not, and this share."""
    count = scores.shape[0] * scores.shape[1]
    cut = count // 4
    low, high = np.partition(scores.reshape(count, -1), (cut, count - cut - 1), 0)[[cut, count - cut - 1]]
    kept = 1 - 2 * cut / count
    return np.clip(scores, low, high) / kept, kept


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


def pooled(parts: Sequence[Part]) -> list[Part]:
    """One part for several independent ones, with Welch's degrees of freedom; an empty list for none.

    (Welch 1947, eq. 29: squared sum of the variances, over the sum of their squares divided by their freedoms.)
    """
    if not parts:
        return []
    total = np.sum([part.variance for part in parts], 0)
    spread = np.sum([np.square(part.variance) / part.freedom for part in parts], 0)
    least = min(float(np.min(part.freedom)) for part in parts)
    freedom = np.divide(np.square(total), spread, out=np.full_like(total, least), where=spread > 0)
    return [Part(total, freedom)]


def share_interval(share: Floats, parts: Sequence[Part], draws: int, count: int) -> tuple[Floats, Floats]:
    """The 95 % interval of a share, which stays within 0 and 1 (Korn and Graubard 1998, Survey Methodology 24).

    It is Clopper's and Pearson's interval for as many independent draws as have the variance of the share, fewer
    where its degrees of freedom are few. Where the scores show no variance, as where all agree, there are `draws`.

    Args:
        share: the share, `[k]`.
        parts: the parts of its variance.
        draws: number of seeds or of tasks, whichever is smaller, single ones left out.
        count: number of zeros and ones that the share is a mean of.

    Returns:
        its lower and upper ends, `[k]`.
    """
    half = interval(np.zeros_like(share), parts)[1]
    spread = share * (1 - share)
    reach = stdtrit(max(count - 1, 1), 0.975)
    size = np.full_like(share, draws)
    np.divide(spread * reach**2, np.square(half), out=size, where=(half > 0) & (spread > 0))
    size = np.clip(size, 1.0, count)
    hits, misses = share * size, (1 - share) * size
    low = np.where(hits > 0, betaincinv(np.maximum(hits, 1e-9), misses + 1, 0.025), 0.0)
    return low, np.where(misses > 0, betaincinv(hits + 1, np.maximum(misses, 1e-9), 0.975), 1.0)


def reached_interval(reached: Floats, *, fixed_tasks: bool = False, episodes: int = 1) -> tuple[Floats, Floats]:
    """The 95 % interval of a share over seeds and tasks, each of n by itself: `share_interval`.

    Args:
        reached: zeros and ones of each seed and task, or their means over `episodes`, `[seed, task, n]`.
        fixed_tasks: as in `mean_interval`.
        episodes: number of zeros and ones that each value is a mean of.
    """
    seeds, tasks = reached.shape[:2]
    random = [seeds] if fixed_tasks and seeds > 1 else [seeds, tasks]
    draws = min((n for n in random if n > 1), default=1)
    parts = crossed_parts(reached, fixed_tasks=fixed_tasks)
    return share_interval(reached.mean((0, 1)), parts, draws, seeds * tasks * episodes)


def moved(scores: Floats, half: Floats) -> tuple[Floats, Floats]:
    """The scores `[seed, task, k]`, moved down and up together by `half` `[k]`. Scores that occur twice stay.

    A statistic of both is an interval for it where scores differ by their place alone. It holds the truth where all few
    seeds have the same share by chance, which an interval from their own variance often does not. Scores that several
    runs have, as the highest possible one, are no sign of where others could have been.
    """
    flat = scores.reshape(-1, scores.shape[-1])
    order = flat.argsort(0)
    same = np.diff(np.take_along_axis(flat, order, 0), axis=0) == 0
    tied = np.zeros_like(flat, bool)
    tied[1:] |= same
    tied[:-1] |= same
    stays = np.empty_like(tied)
    np.put_along_axis(stays, order, tied, 0)
    alone = ~stays.reshape(scores.shape)
    return scores - half * alone, scores + half * alone


def half_width(ends: tuple[Floats, Floats]) -> Floats:
    """Half the width of an interval."""
    return (ends[1] - ends[0]) / 2


def hull(*pairs: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    """The lowest and the highest end `[k]` of several intervals."""
    ends = np.stack([end for pair in pairs for end in pair])
    return ends.min(0), ends.max(0)


def success_row(success: Floats, fixed_tasks: bool) -> dict[str, float]:
    """The share of episodes `[seed, task, episode]` that had success, and its interval, by name."""
    shares = success.mean(-1, keepdims=True)
    low, high = reached_interval(shares, fixed_tasks=fixed_tasks, episodes=success.shape[-1])
    return {"success": float(success.mean()), "success_low": float(low[0]), "success_high": float(high[0])}


def lasting_from(reached: npt.NDArray[np.bool_]) -> int:
    """The first index from which all values of `[k]` are True; the length if the last value is False."""
    return len(reached) - int(np.logical_and.accumulate(reached[::-1]).sum())
