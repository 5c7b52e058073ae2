"""Two agents on the same tasks: how much better one is, and how often.

Seeds of both agents and tasks are drawn at random. A comparison's statistic is a mean over all triples of a seed of the
first agent, a seed of the second and a task. Its variance is taken as the sum of what the first agent's seeds, the
second agent's seeds and the tasks add (the first terms of Hoeffding's decomposition of a U-statistic), each with the
degrees of freedom that it was estimated with; see `metarl.evaluation.intervals`. `improvement_interval` says what the
probability of improvement has besides.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from metarl.errors import InvalidValueError
from metarl.evaluation.intervals import (
    Floats,
    Part,
    half_width,
    hull,
    interval,
    pooled,
    seed_parts,
    share_interval,
    winsorised,
)
from metarl.evaluation.modes import Mode
from metarl.evaluation.results import Results


def protocol_differences(a: Results, b: Results) -> dict[str, tuple[Any, Any]]:
    """In what two evaluations differ beside the agent: names to both values; empty if they may be compared.

    What counts are the family, the split, the tasks themselves, the grid of k, the trials and episodes that each return
    is a mean of, the environment steps used before each k, and, of two agents that have it, the largest number of
    environment steps of an adaptation step (`eval_steps`).
    """
    budgets = [_eval_steps(r) for r in (a, b)]
    given = {"eval_steps": (budgets[0], budgets[1])} if None not in budgets and budgets[0] != budgets[1] else {}
    facts = [
        {
            "family": r.family,
            "split": r.split,
            "tasks": f"{r.meta.get('tasks', '?')} with hash {r.task_hash}",
            "k": r.k,
            "trials": r.meta.get("trials"),
            "episodes": r.meta.get("episodes"),
            "environment steps": [round(float(steps)) for steps in r.env_steps],
        }
        for r in (a, b)
    ]
    return {name: (value, facts[1][name]) for name, value in facts[0].items() if value != facts[1][name]} | given


def _eval_steps(results: Results) -> Any:
    """The budget that an evaluation gave an adaptation step; None of agents whose adaptation is part of a trial."""
    return {**(results.meta.get("config") or {}), **(results.meta.get("overrides") or {})}.get("eval_steps")


def difference(a: Results, b: Results, mode: Mode | None = None) -> list[dict[str, float]]:
    """How much higher the first agent's R_k is than the second's, and in how many seeds and tasks it is higher.

    Args:
        a: results of the first agent.
        b: results of the second agent, on the same tasks with the same k.
        mode: "sampled" or "deterministic"; by default the first that both have.

    Returns:
        a row per k: "k", "difference" with the ends "low" and "high" of its 95 % interval, and "improvement", the
        probability of improvement, with "improvement_low" and "improvement_high".

    Raises:
        InvalidValueError: the results are of other tasks or another k, or have no mode in common.
    """
    for name in ("task_hash", "k"):
        if getattr(a, name) != getattr(b, name):
            raise InvalidValueError(f"{name} of the second results", getattr(b, name), repr(getattr(a, name)))
    first, second = (r.per_task(_common(a, b, mode)) for r in (a, b))  # [seed, task, k]
    fixed = a.every_task and b.every_task
    plain = difference_interval(first, second, fixed_tasks=fixed)
    chance = improvement(first, second)
    better = improvement_interval(first, second, fixed_tasks=fixed)
    rows = []
    for i, k in enumerate(a.k):
        row = {"k": float(k), "difference": float(first[..., i].mean() - second[..., i].mean())}
        row |= {"low": float(plain[0][i]), "high": float(plain[1][i]), "improvement": float(chance[..., i].mean())}
        low, high = (float(end[i]) for end in better)
        rows.append(row | {"improvement_low": low, "improvement_high": high})
    return rows


def _common(a: Results, b: Results, mode: Mode | None) -> Mode:
    found = [m for m in a.scores if m in b.scores and mode in (None, m)]
    if not found:
        raise InvalidValueError("mode", mode, f"one that both results have: {list(a.scores)} and {list(b.scores)}")
    return found[0]


def difference_interval(first: Floats, second: Floats, *, fixed_tasks: bool = False) -> tuple[Floats, Floats]:
    """The 95 % interval `[k]` of the mean of `first` less that of `second`; arguments as in `difference_parts`."""
    parts = difference_parts(first, second, fixed_tasks=fixed_tasks)
    return interval(first.mean((0, 1)) - second.mean((0, 1)), parts)


def difference_parts(first: Floats, second: Floats, *, fixed_tasks: bool = False) -> list[Part]:
    """The variance of the mean of `first` less the mean of `second`, `[seed, task, k]` each, on the same tasks.

    If the tasks are all tasks of the family (`fixed_tasks`) and an agent has several seeds, only seeds add to it.
    """
    per_task = first.mean(0) - second.mean(0)
    seeds = _seeds(first, second)
    return seeds if fixed_tasks and seeds else [*seeds, *_drawn(per_task, _rest((first, second)))]


def _seeds(first: Floats, second: Floats) -> list[Part]:
    """What both agents' seeds add, as one part."""
    return pooled([*seed_parts(first.mean(1)), *seed_parts(second.mean(1))])


def _rest(groups: tuple[Floats, Floats]) -> Floats:
    """What the seeds' own noise adds to the variance of a task's difference of means, `[k]`."""
    total = np.zeros(groups[0].shape[-1])
    for scores in groups:
        seeds, tasks = scores.shape[:2]
        if seeds > 1 and tasks > 1:
            rest = scores - scores.mean(0) - scores.mean(1, keepdims=True) + scores.mean((0, 1))
            total = total + np.square(rest).sum((0, 1)) / ((seeds - 1) * (tasks - 1) * seeds)
    return total


def _drawn(per_task: Floats, rest: Floats) -> list[Part]:
    """What tasks add: the variance of a mean over tasks `[task, k]`, less what is the rest's."""
    tasks = len(per_task)
    return [Part(np.maximum(per_task.var(0, ddof=1) - rest, 0.0) / tasks, tasks - 1)] if tasks > 1 else []


def improvement(first: Floats, second: Floats) -> Floats:
    """1 where the first agent's score is higher, 1/2 where both are equal, else 0: `[seed, seed, task, k]`.

    Its mean is the probability of improvement (Agarwal et al. 2021, arXiv:2108.13264, section 4.3): that a run of the
    first agent is better than a run of the second in a task drawn at random.

    Args:
        first: scores `[seed, task, k]`.
        second: scores `[seed, task, k]` on the same tasks.
    """
    a, b = first[:, None], second[None]
    return np.asarray((a > b) + 0.5 * (a == b), np.float64)


def improvement_interval(first: Floats, second: Floats, *, fixed_tasks: bool = False) -> tuple[Floats, Floats]:
    """The 95 % interval of the probability of improvement.

    It spans `share_interval` of the triples and the probabilities of improvement where all differences of scores are
    moved by as much as the difference of the interquartile means may be wrong; equal scores stay equal.

    Args:
        first: scores `[seed, task, k]`.
        second: scores `[seed, task, k]` on the same tasks.
        fixed_tasks: as in `difference_parts`.

    Returns:
        its lower and upper ends, `[k]`, within 0 and 1.
    """
    chance = improvement(first, second)
    a, b = chance.mean(1), chance.mean(0)  # [seed, task, k] of either agent
    seeds = _seeds(a, b)
    fixed = fixed_tasks and bool(seeds)
    parts = seeds if fixed else [*seeds, *_drawn(chance.mean((0, 1)), _rest((a, b)))]
    draws = min((n for n in chance.shape[: 2 if fixed else 3] if n > 1), default=1)
    plain = share_interval(chance.mean((0, 1, 2)), parts, draws, int(np.prod(chance.shape[:3])))
    middle, other = winsorised(first)[0], winsorised(second)[0]
    half = half_width(difference_interval(middle, other, fixed_tasks=fixed_tasks))
    gap = first[:, None] - second[None]
    low, high = (np.where(gap == 0, 0.5, gap + by > 0).mean((0, 1, 2)) for by in (-half, half))
    return hull(plain, (low, high))
