"""Statistics of an evaluation beside its mean: the worst tasks, gaps, profiles, latency and the end of a trial.

Scores are `[seed, task, k]`, from `Results.per_task` or `normalised_scores`. Each statistic has a 95 % interval over
seeds and tasks, with the parts of variance of `metarl.evaluation.intervals`.
`python experiments/interval_coverage.py` measures the share of these intervals that hold the true value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from metarl.errors import InvalidValueError
from metarl.evaluation.intervals import (
    Floats,
    Part,
    half_width,
    hull,
    interval,
    iqm_interval,
    mean_interval,
    moved,
    pooled,
    reached_interval,
    seed_parts,
    task_parts,
)
from metarl.evaluation.modes import Mode
from metarl.evaluation.results import Results

_GRID = 101  # default number of thresholds of a profile
_ORDER = {"train": 0, "test": 1}


def distance(split: str) -> int:
    """How far a split is from training: 0 for "train", 1 for "test", 2 for all others."""
    return _ORDER.get(split, len(_ORDER))


# --- the worst tasks -------------------------------------------------------------------------------------------------


def cvar(scores: Floats, share: float = 0.1) -> Floats:
    """The mean score in the worst share of the tasks (conditional value at risk): `[seed, task, k]` to `[k]`.

    Tasks are ranked by their mean over seeds, for each k anew. Their number is rounded up. A mean over few seeds is
    noisy, and the worst of noisy means lie lower than the worst tasks: compare agents with equally many seeds.

    Raises:
        InvalidValueError: the share is not above 0 and at most 1.
    """
    return np.asarray(np.sort(scores.mean(0), 0)[: _worst(scores, share)].mean(0))


def cvar_interval(scores: Floats, share: float = 0.1, *, fixed_tasks: bool = False) -> tuple[Floats, Floats]:
    """The 95 % interval of `cvar`.

    Seeds add the variance of their means over the worst tasks. Tasks add that of their scores, cut off at the best
    threshold that the worst tasks stay below and divided by their share, which is the influence function of the
    CVaR; as many degrees of freedom count as there are worst tasks.

    Args:
        scores: `[seed, task, k]`.
        share: share of the tasks.
        fixed_tasks: whether the tasks are all tasks of the family. With several seeds, only the seeds then count as
            random.

    Returns:
        the lower and the upper end, `[k]` each.
    """
    worst, tasks = _worst(scores, share), scores.shape[1]
    order = np.argsort(scores.mean(0), 0, kind="stable")  # [task, k]
    parts = seed_parts(np.take_along_axis(scores, order[None, :worst], 1).mean(1))
    if tasks > 1 and not (fixed_tasks and parts):
        means = np.take_along_axis(scores.mean(0), order, 0)
        cut = np.minimum(means, means[min(worst, tasks - 1)]) * (tasks / worst)
        parts.append(Part(cut.var(0, ddof=1) / tasks, min(worst, tasks - 1)))
    return interval(cvar(scores, share), parts)


def _worst(scores: Floats, share: float) -> int:
    """The number of worst tasks."""
    if not 0 < share <= 1:
        raise InvalidValueError("share", share, "above 0 and at most 1")
    return max(1, math.ceil(round(share * int(scores.shape[1]), 9)))


# --- normalised scores -----------------------------------------------------------------------------------------------


def normalised_scores(results: Results, mode: Mode | None = None) -> Floats | None:
    """1 - (informed optimum of the task - score) / (mean informed optimum - mean floor), `[seed, task, k]`.

    All tasks share one scale, so that a task whose optimum is near its floor does not divide by a small number. The
    mean over seeds and tasks is the normalised score of `Results.summary`. 1 is the best return in the task; uniformly
    random actions have 0 on average over tasks, not in each task.

    Returns:
        the scores, unclipped; None if `Results.scale` is None.
    """
    if (scale := results.scale()) is None:
        return None
    floor, best = scale
    return np.asarray(1 - (best[:, None] - results.per_task(mode)) / (best.mean() - floor.mean()))


def optimality_gap(scores: Floats) -> Floats:
    """The mean of max(0, 1 - normalised score), `[seed, task, k]` to `[k]` (Agarwal et al. 2021, arXiv:2108.13264).

    0 means that each run has the best return in each task. A score above 1 does not make up for one below 1.
    """
    return np.asarray(_shortfall(scores).mean((0, 1)))


def optimality_gap_interval(scores: Floats, *, fixed_tasks: bool = False) -> tuple[Floats, Floats]:
    """The 95 % interval of `optimality_gap`, at least 0. Arguments and returned values are those of `mean_interval`.

    It spans the interval of the mean shortfall and the gaps of scores that are `moved` by as much as their mean may be
    wrong (`metarl.evaluation.intervals`).
    """
    half = half_width(mean_interval(scores, fixed_tasks=fixed_tasks))
    worse, better = (optimality_gap(other) for other in moved(scores, half))
    low, high = hull(mean_interval(_shortfall(scores), fixed_tasks=fixed_tasks), (better, worse))
    return np.maximum(low, 0.0), high


def _shortfall(scores: Floats) -> Floats:
    return np.maximum(0.0, 1.0 - scores)


class Profile(NamedTuple):
    """The performance profile of an agent after k adaptation steps.

    Attributes:
        thresholds: thresholds of the score, rising, `[n]`.
        share: share of (seed, task) runs with a score of at least each threshold, `[n]`.
        low: lower end of the share's 95 % interval at each threshold by itself, `[n]`.
        high: upper end, `[n]`.
        normalised: whether scores are normalised; else they are returns.
    """

    thresholds: Floats
    share: Floats
    low: Floats
    high: Floats
    normalised: bool


def performance_profile(
    results: Results, k: int | None = None, mode: Mode | None = None, thresholds: Sequence[float] | Floats | None = None
) -> Profile:
    """The share of runs whose score reaches a threshold, for each threshold (Agarwal et al. 2021, arXiv:2108.13264).

    Scores are normalised (`normalised_scores`) if floor and informed optimum are known, else they are returns.

    Args:
        results: results of an agent.
        k: number of adaptation steps, one of the grid; by default the last.
        mode: "sampled" or "deterministic"; by default the first mode of the results.
        thresholds: rising thresholds; by default 101 of equal distance from the lowest to the highest score, and
            from 0 to 1 at least if scores are normalised.

    Raises:
        InvalidValueError: `k` is not of the grid, there is no such mode, or the thresholds do not rise.
    """
    if k is not None and k not in results.k:
        raise InvalidValueError("k", k, f"one of {results.k}")
    found = normalised_scores(results, mode)
    column = -1 if k is None else results.k.index(k)
    scores = (results.per_task(mode) if found is None else found)[..., column]
    taus = _thresholds(scores, found is not None) if thresholds is None else np.asarray(thresholds, np.float64)
    if taus.ndim != 1 or not taus.size or not (np.isfinite(taus).all() and (np.diff(taus) > 0).all()):
        raise InvalidValueError("thresholds", taus.tolist(), "a rising list of numbers")
    low, high = profile_interval(scores[..., None], taus, fixed_tasks=results.every_task)
    return Profile(taus, _reached(scores[..., None], taus).mean((0, 1)), low, high, found is not None)


def profile_interval(scores: Floats, thresholds: Floats, *, fixed_tasks: bool = False) -> tuple[Floats, Floats]:
    """The 95 % interval of the share of runs that reach a threshold, of each of n by itself.

    It spans `reached_interval` and the shares of scores that are `moved` by as much as their interquartile mean may be
    wrong (`metarl.evaluation.intervals`); the mean would let one outlier decide.

    Args:
        scores: `[seed, task, 1]`, or `[seed, task, n]` for other scores at each threshold.
        thresholds: `[n]`, or one for all, `[]`.
        fixed_tasks: as in `mean_interval`.

    Returns:
        its lower and upper ends, `[n]`.
    """
    plain = reached_interval(_reached(scores, thresholds), fixed_tasks=fixed_tasks)
    half = half_width(iqm_interval(scores, fixed_tasks=fixed_tasks))
    low, high = (_reached(other, thresholds).mean((0, 1)) for other in moved(scores, half))
    return hull(plain, (low, high))


def _reached(scores: Floats, thresholds: Floats) -> Floats:
    return np.asarray(scores >= thresholds, np.float64)


def _thresholds(scores: Floats, normalised: bool) -> Floats:
    """The default thresholds for scores `[seed, task]`."""
    low, high = float(scores.min()), float(scores.max())
    return np.linspace(*((min(low, 0.0), max(high, 1.0)) if normalised else (low, high + (low == high))), _GRID)


# --- gaps between splits ---------------------------------------------------------------------------------------------


def gap(train: Results, test: Results, mode: Mode | None = None) -> list[dict[str, float]]:
    """How much lower R_k is on tasks farther from training: R_k of `train` minus R_k of `test`.

    The generalisation gap is that of splits "train" and "test". The out-of-distribution gap is that of "train" or
    "test" and a split with another distribution of tasks.

    Args:
        train: results on tasks that training can draw, or on tasks like them.
        test: results of the same agents on other tasks, with the same k.
        mode: "sampled" or "deterministic"; by default the first mode of the test results.

    Returns:
        one row per k: "k", "gap", and the ends "low" and "high" of its 95 % interval. The interval takes the seeds of
        both results as the same and the tasks as drawn separately.

    Raises:
        InvalidValueError: the results differ in agent, family, k, seeds, config or iterations, or their splits are
            equal or in the wrong order.
    """
    _check_comparable(train, test)
    mode = next(iter(test.scores)) if mode is None else mode
    a, b = (results.per_task(mode) for results in (train, test))
    centre = a.mean((0, 1)) - b.mean((0, 1))
    low, high = interval(centre, gap_parts(a, b))
    return [
        {"k": float(k), "gap": float(centre[i]), "low": float(low[i]), "high": float(high[i])}
        for i, k in enumerate(test.k)
    ]


def gap_parts(a: Floats, b: Floats) -> list[Part]:
    """The variance of the mean of `a` less the mean of `b`, `[seed, task, k]` of the same seeds on different tasks."""
    return seed_parts(a.mean(1) - b.mean(1)) + pooled(task_parts(a) + task_parts(b))


def _check_comparable(train: Results, test: Results) -> None:
    """Refuse results whose difference is no gap."""
    if train.split == test.split or distance(train.split) > distance(test.split):
        raise InvalidValueError("splits", [train.split, test.split], "the train results first, then the test results")
    for name in ("agent", "family", "k"):
        if getattr(train, name) != getattr(test, name):
            raise InvalidValueError(f"{name} of the train results", getattr(train, name), repr(getattr(test, name)))
    for name in ("seeds", "config", "iterations"):
        if train.meta.get(name) != test.meta.get(name):
            raise InvalidValueError(f"{name} of the train results", train.meta.get(name), repr(test.meta.get(name)))


# --- the whole curve -------------------------------------------------------------------------------------------------


def area_interval(results: Results, mode: Mode | None = None) -> tuple[float, float]:
    """The ends of the 95 % interval of `Results.area_under_curve`, over seeds and tasks."""
    curves = results.per_task(mode)
    span = results.k[-1] - results.k[0]
    areas = np.trapezoid(curves, results.k, axis=-1) / span if span else curves[..., 0]
    low, high = mean_interval(np.asarray(areas)[..., None], fixed_tasks=results.every_task)
    return float(low[0]), float(high[0])


# --- time, and the end of a trial ------------------------------------------------------------------------------------


def latency(results: Results) -> dict[str, float] | None:
    """Seconds of adaptation: "adaptation_step", and "env_step" if the number of environment steps is known.

    "adaptation_step" is the median over seeds and steps of the duration of one adaptation step of all "trials" side by
    side. "env_step" is the median of this duration divided by the environment steps that all trials take in it. Both
    include acting, stepping the environments and learning. Between two k of the grid, steps count as equally long.

    Returns:
        the medians and the number of trials; None without adaptation steps.
    """
    if not results.seconds.size:
        return None
    trials = next(iter(results.scores.values())).shape[1] * int(results.meta.get("trials", 1))
    used = np.interp(range(results.k[-1] + 1), [0, *results.k], [0.0, *results.env_steps])
    steps = np.diff(used) * trials  # environment steps of each adaptation step
    out = {"adaptation_step": float(np.median(results.seconds)), "trials": float(trials)}
    if not (steps > 0).any():
        return out
    return out | {"env_step": float(np.median(results.seconds[:, steps > 0] / steps[steps > 0]))}


def asymptote(results: Results) -> dict[str, float] | None:
    """The mean return of the last tenth of a trial's episodes (at least one), with its 95 % interval.

    Returns:
        "mean", "low", "high" and the number of "episodes" averaged; None unless a trial is a sequence of episodes.
        Without "low" and "high" where the results keep the mean over tasks alone, as those of large benchmarks do.
    """
    if not results.lifetime.size:
        return None
    last = max(1, results.collected.shape[-1] // 10)
    results.check_finite("return while adapting", results.collected, "step", range(results.collected.shape[-1]))
    per_task = results.collected[..., -last:].mean(-1)[..., None]
    found = {"mean": float(per_task.mean()), "episodes": float(last)}
    if per_task.shape[1] < results.lifetime.shape[1]:
        return found
    low, high = mean_interval(per_task, fixed_tasks=results.every_task)
    return found | {"low": float(low[0]), "high": float(high[0])}
