"""Learning from scratch as a yardstick: the environment steps after which it matches an agent that adapts.

An agent that learns from scratch is not meta-trained: it starts anew in each task (`meta["from_scratch"]` of its
results). Its curve is its mean R_k over seeds and tasks against the environment steps used in the task.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np

from metarl.errors import InvalidValueError
from metarl.evaluation.intervals import Floats, mean_interval
from metarl.evaluation.modes import Mode
from metarl.evaluation.results import Results


class Reached(NamedTuple):
    """The environment steps after which a curve first reaches a return.

    Attributes:
        steps: number of environment steps.
        bound: "" if they are `steps`, "<" if they are fewer, ">" if they are more: the curve ends below the return.
    """

    steps: float
    bound: Literal["", "<", ">"] = ""


class Match(NamedTuple):
    """What an adapted agent returns, and when learning from scratch reaches it.

    Attributes:
        k: the agent's last number of adaptation steps.
        env_steps: environment steps that they used in a task.
        mean: R_k of the agent, mean over seeds and the common tasks.
        low: lower end of its 95 % interval.
        high: upper end.
        reached: steps from scratch to the mean.
        reached_low: steps from scratch to the lower end.
        reached_high: steps from scratch to the upper end.
    """

    k: int
    env_steps: float
    mean: float
    low: float
    high: float
    reached: Reached
    reached_low: Reached
    reached_high: Reached


def learns_from_scratch(results: Results) -> bool:
    """Whether results are of an agent that learns from scratch, and make a curve: at least two k above 0."""
    return bool(results.meta.get("from_scratch")) and sum(k > 0 for k in results.k) >= 2


def is_meta_trained(results: Results) -> bool:
    """Whether results are of a meta-trained agent that adapts: not random play, nor a policy that is shown the task."""
    trained = bool(np.any(results.meta.get("iterations") or 0))
    return trained and not results.meta.get("from_scratch") and bool(results.meta.get("adapts", True))


def common_tasks(a: Results, b: Results) -> int:
    """The number of first tasks that both results are of; 0 if they are of other tasks.

    Equal hashes are equal tasks. Results of n and of more tasks share the first n if their family, split and task seed
    are equal and nothing that is known of these tasks differs: their values and informed optima.
    """
    counts = [int(next(iter(r.scores.values())).shape[1]) for r in (a, b)]
    if a.task_hash == b.task_hash:
        return min(counts)
    drawn = [(r.family, r.split, r.meta.get("task_seed")) for r in (a, b)]
    if counts[0] == counts[1] or drawn[0] != drawn[1] or drawn[0][2] is None or a.split == "custom":
        return 0
    n = min(counts)
    pairs = [(a.task_values[name], b.task_values[name]) for name in a.task_values.keys() & b.task_values.keys()]
    optima = [r.references.get("informed_optimum", np.zeros(0)) for r in (a, b)]
    pairs += [(optima[0], optima[1])] if all(len(v) >= n for v in optima) else []
    return n if all(_agree(one[:n], other[:n]) for one, other in pairs) else 0


def _agree(a: Floats, b: Floats) -> bool:
    """Whether values of tasks are equal, to rounding on another device."""
    return a.shape == b.shape and np.allclose(a, b, rtol=1e-3, equal_nan=True)


def steps_to_reach(env_steps: Floats, returns: Floats, level: float) -> Reached:
    """The environment steps after which a curve first reaches a level.

    Between two measured points the return is linear in the logarithm of the steps. A level that lies between 0 steps
    and the next point is reached in fewer steps than that point's.

    Args:
        env_steps: rising numbers of environment steps, `[n]`; the first may be 0.
        returns: the curve's returns there, `[n]`.
        level: the return to reach.

    Raises:
        InvalidValueError: the steps do not rise from 0 or more, or there are not as many returns.
    """
    steps, values = np.asarray(env_steps, np.float64), np.asarray(returns, np.float64)
    if steps.ndim != 1 or not steps.size or steps[0] < 0 or (np.diff(steps) <= 0).any():
        raise InvalidValueError("env_steps", steps.tolist(), "rising numbers from 0 on")
    if values.shape != steps.shape:
        raise InvalidValueError("shape of returns", list(values.shape), str(list(steps.shape)))
    if not (values >= level).any():
        return Reached(float(steps[-1]), ">")
    i = int(np.argmax(values >= level))
    if values[i] == level or steps[i] == 0:
        return Reached(float(steps[i]))
    if i == 0 or steps[i - 1] == 0:
        return Reached(float(steps[i]), "<")
    share = (level - values[i - 1]) / (values[i] - values[i - 1])
    return Reached(math.exp(math.log(steps[i - 1]) + share * math.log(steps[i] / steps[i - 1])))


def curve(results: Results, tasks: int, mode: Mode) -> tuple[Floats, Floats, Floats]:
    """The mean R_k over seeds and the first tasks, and the ends of its 95 % interval, `[k]` each."""
    scores = results.per_task(mode)[:, :tasks]
    fixed = results.every_task and tasks == results.scores[mode].shape[1]
    return (scores.mean((0, 1)), *mean_interval(scores, fixed_tasks=fixed))


def match(agent: Results, learner: Results, tasks: int, mode: Mode) -> Match:
    """Compare an agent after its last k with learning from scratch, on the first tasks of both.

    The range of steps is that of the agent's interval alone: the learner's curve is taken as it is.

    Args:
        agent: results of an agent that adapts.
        learner: results of an agent that learns from scratch.
        tasks: number of first tasks that both are of: `common_tasks`.
        mode: mode of the actions, which both results have.
    """
    mean, low, high = (float(values[-1]) for values in curve(agent, tasks, mode))
    learned, _, _ = curve(learner, tasks, mode)
    reached, sooner, later = (steps_to_reach(learner.env_steps, learned, level) for level in (mean, low, high))
    return Match(agent.k[-1], float(agent.env_steps[-1]), mean, low, high, reached, sooner, later)
