"""A probe: how well the task's parameters can be read from what an agent holds, before each step of a trial.

What it holds is a belief, or the memory or the embedding that it acts on.

For each step of a trial, ridge regression maps the features of the belief (and, if there are at most 20, the products
of two) to the task's parameters. It is fitted to trials in train tasks and changes nothing in the agent. Its weight of
the ridge has the smallest leave-one-out error; features and predictions are clipped to the range of the train trials.
The error in a task is

    mean over parameters of (predicted - true)^2 / variance in these train tasks,

so 1 is the error of predicting the mean always, and 0 that of knowing the task. Where the exact posterior is known, the
same probe reads what it answers to the family's queries: an estimate of how much the trial has shown at all. An agent
may be ahead of it, because what it holds may suit the regression better.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from metarl.agent_base import Agent, Rollout
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.errors import InvalidValueError
from metarl.evaluation.adaptation import adaptation
from metarl.evaluation.belief import exact_answers, in_trials, task_means
from metarl.evaluation.intervals import Floats
from metarl.families.family import Queries
from metarl.families.tasks import Tasks

_MOST_STEPS = 300  # of a trial that are probed; each takes a regression
TASKS = 200  # the most train tasks that a probe is fitted to
_LEAST_TASKS = 20
MOST_PARAMETERS = 50  # numbers of a parameter up to which it is read
_MOST_PRODUCTS = 20  # features up to which their products are features too
_RIDGES = np.logspace(-2, 4, 13)


@runtime_checkable
class HasFeatures(Protocol):
    """An agent that shows what it holds about the task."""

    def belief_features(self, rollouts: Sequence[Rollout]) -> Tensor:
        """What it holds before each step of whole trials, `[T, R, F]`, the T steps of all rollouts together."""
        ...


def probe(
    agents: Sequence[Agent],
    features: Sequence[dict[str, Floats]],
    tasks: Tasks,
    trials: int,
    last: int,
    seed: int,
    count: int,
    rows: int,
    queries: Queries | None = None,
) -> dict[str, Floats]:
    """The errors of a probe of each agent, means over trials, `[seed, task, time]`.

    Args:
        agents: agents with features, each of its own seed.
        features: of each agent, `trial_features` in the trials of the test tasks; the trials of a task are neighbours.
        tasks: the test tasks.
        trials: number of trials per task.
        last: number of adaptation steps in a trial.
        seed: seed of the draws in train tasks.
        count: number of train tasks to fit to.
        rows: number of trials played at once.
        queries: the family's, if its exact posterior answers them.

    Returns:
        by name, like the features, at all steps, NaN at those that were not probed; empty if there are fewer than 20
        train tasks, the task switches within a trial, or no parameter has few numbers.
    """
    family = agents[0].family
    if count < _LEAST_TASKS:
        return {}
    train = family.tasks("train", count)
    truth, expected = parameters_of(train), np.repeat(parameters_of(tasks), trials, 0)
    if family.switches or not truth.size:
        return {}
    errors: list[dict[str, Floats]] = []
    for agent, test in zip(agents, features, strict=True):
        shown: list[dict[str, Floats]] = []
        with closing(EnvironmentPool(family, agent.device)) as pool:
            for start in range(0, count, rows):
                played = PoolTrials(pool, train[slice(start, start + rows)], 1, seed, "probe")
                rollouts = [a.rollout for a in adaptation(agent, played, last) if a.rollout is not None]
                exact = None if queries is None else exact_answers(agent, family, rollouts, queries)
                shown.append(trial_features(agent, rollouts, exact))
        fitted = {name: np.concatenate([part[name] for part in shown]) for name in test}
        errors.append({name: probe_errors(fitted[name], truth, test[name], expected) for name in test})
    total, out = last * family.horizon, dict[str, Floats]()
    for name in errors[0]:
        means = task_means(np.stack([e[name] for e in errors]), trials)
        out[name] = np.full((*means.shape[:2], total), np.nan)
        out[name][..., probed_steps(total)] = means
    return out


def probed_steps(total: int) -> npt.NDArray[np.int64]:
    """The steps that are probed, of so many steps of a trial: all, or 300 from the first to the last."""
    return np.unique(np.linspace(0, total - 1, min(total, _MOST_STEPS)).round().astype(np.int64))


def parameters_of(tasks: Tasks) -> Floats:
    """The tasks' parameters that have few numbers, side by side, `[N, D]`."""
    leaves = [np.asarray(v, np.float64).reshape(len(tasks), -1) for _, v in sorted(tasks.values.items())]
    small = [leaf for leaf in leaves if leaf.shape[1] <= MOST_PARAMETERS]
    return np.concatenate(small, 1) if small else np.zeros((len(tasks), 0))


@torch.no_grad()
def trial_features(agent: Agent, rollouts: Sequence[Rollout], exact: Tensor | None) -> dict[str, Floats]:
    """What is known before the `probed_steps` of whole trials, `[R, steps, F]`; NaN where no step was played.

    "probe" is what the agent holds, "probe_exact" what the exact posterior answers (`exact_answers`).
    """
    assert isinstance(agent, HasFeatures)
    held = {"probe": agent.belief_features(rollouts)}
    steps, rows = sum(len(rollout.reward) for rollout in rollouts), rollouts[0].reward.shape[1]
    shape = tuple(held["probe"].shape)
    if shape[:2] != (steps, rows) or len(shape) != 3:
        expected = f"({steps}, {rows}, F): all steps of the rollouts, the trials, and F features"
        raise InvalidValueError(f"shape of {agent.name}.belief_features(rollouts)", shape, expected)
    if exact is not None:
        held["probe_exact"] = exact
    horizon = agent.family.horizon
    probed = probed_steps(len(rollouts) * horizon)
    return {name: in_trials(values, rollouts, horizon, probed) for name, values in held.items()}


def probe_errors(train: Floats, truth: Floats, test: Floats, expected: Floats) -> Floats:
    """The error in each test trial before each step.

    Args:
        train: features in trials of train tasks, `[N, time, F]`.
        truth: their tasks' parameters, `[N, D]`.
        test: features in trials of test tasks, `[R, time, F]`.
        expected: their tasks' parameters, `[R, D]`.

    Returns:
        `[R, time]`; NaN where a trial has no such step, or too few train trials have it to fit a probe.
    """
    out = np.full(test.shape[:2], np.nan)
    for t in range(test.shape[1]):
        fitted, played = (np.isfinite(features[:, t]).all(1) for features in (train, test))
        if fitted.sum() >= _LEAST_TASKS and played.any():
            predicted = _predict(train[fitted, t], truth[fitted], test[played, t])
            variance = np.maximum(truth.var(0), 1e-12)
            out[played, t] = (np.square(predicted - expected[played]) / variance).mean(1)
    return out


def _predict(train: Floats, truth: Floats, test: Floats) -> Floats:
    """Ridge regression of `truth` `[N, D]` on features `[N, F]`: predictions for `test` `[R, F]`, `[R, D]`."""
    x, z = _standardised(*(_with_products(v) for v in _standardised(train, test)))
    mean = truth.mean(0)
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    target, best, chosen = u.T @ (truth - mean), np.inf, np.zeros((len(s), truth.shape[1]))
    for ridge in _RIDGES:
        shrunk = s**2 / (s**2 + ridge)
        left = 1 - 1 / len(x) - np.square(u) @ shrunk  # the mean is fitted too
        error = np.square((truth - mean - u @ (shrunk[:, None] * target)) / left[:, None]).mean()
        if error < best:
            best, chosen = error, (s / (s**2 + ridge))[:, None] * target
    predicted: Floats = mean + z @ vt.T @ chosen
    return np.clip(predicted, truth.min(0), truth.max(0))


def _standardised(train: Floats, test: Floats) -> tuple[Floats, Floats]:
    """Both with the means and deviations of `train`, and clipped to its range: no probe extrapolates.

    Features that do not vary in `train` become 0.
    """
    mean, std = train.mean(0), train.std(0)
    scale = np.divide(1.0, std, out=np.zeros_like(std), where=std > 1e-6)
    return (train - mean) * scale, (np.clip(test, train.min(0), train.max(0)) - mean) * scale


def _with_products(x: npt.NDArray[np.float64]) -> Floats:
    """Features `[N, F]`, and the products of two if F is small."""
    if x.shape[1] > _MOST_PRODUCTS:
        return x
    i, j = np.triu_indices(x.shape[1])
    return np.concatenate([x, x[:, i] * x[:, j]], 1)
