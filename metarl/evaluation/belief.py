"""What an agent believes about the task, beside the exact posterior.

A family asks queries: what is the expected reward of such a step? (`Family.queries`). The exact posterior answers by
`Family.posterior`, and an agent by what it decodes from its belief (`Believer`). Both answer before each step of a
trial, from what its earlier steps have shown. The error of a belief before a step is

    mean over queries of |decoded - exact|,

in units of reward. For rewards 0 and 1 it is the total variation distance of the two distributions of a query's reward,
mean over queries. If exactly one of the queries pays (`Queries.one_pays`), both answers are probabilities that it is
this one, decoded ones clipped to [0, 1] and divided by their sum, and the error is the total variation distance of the
two distributions over queries. The prior's error, of the exact answers before the first step, is that of learning
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from metarl.agent_base import Rollout
from metarl.evaluation.intervals import Floats, mean_interval
from metarl.families.family import Family, History, Queries

BELIEVED = 210  # tasks of an evaluation, the first ones, whose beliefs are measured
TOTAL_VARIATION, REWARD_ERROR = "total variation", "mean absolute error of expected rewards"


@runtime_checkable
class Believer(Protocol):
    """An agent that can tell what it believes, from a rollout's `extras`."""

    def believed_rewards(self, rollout: Rollout, queries: Queries) -> Tensor:
        """The expected reward of each of the N transitions of the queries before each step, `[T, R, N]`."""
        ...


def answered(rewards: Tensor, queries: Queries) -> Tensor:
    """Answers to the queries, `float64 [T, R, Q]`, from rewards of their transitions, `[T, R, N]`: means of these."""
    query = queries.query.to(rewards.device)
    member = torch.nn.functional.one_hot(query).double()
    return rewards.double() @ (member / member.sum(0))


def probabilities(answers: Tensor, queries: Queries) -> Tensor:
    """Probabilities `[..., Q]` that each query is the one that pays; the answers themselves unless exactly one pays."""
    if queries.one_pays is None:
        return answers
    low, high = queries.one_pays
    share = ((answers - low) / (high - low)).clamp(0.0, 1.0)
    total = share.sum(-1, keepdim=True)
    return torch.where(total > 0, share / total, torch.full_like(share, 1 / share.shape[-1]))


def distance(first: Tensor, second: Tensor, queries: Queries) -> Tensor:
    """The error `[...]` of one answer `[..., Q]` beside another: see the head of the file."""
    difference = (first - second).abs()
    return difference.mean(-1) if queries.one_pays is None else 0.5 * difference.sum(-1)


def compare_beliefs(
    agent: Believer, family: Family, rollouts: Sequence[Rollout], queries: Queries, exact: Tensor
) -> dict[str, Floats]:
    """Beliefs during whole trials of R rows, of K episodes of up to H steps each.

    Args:
        agent: the agent that played.
        family: what was played.
        rollouts: the episodes of the trials, from the first on.
        queries: the family's queries.
        exact: `exact_answers` to them.

    Returns:
        `exact` and `decoded`, `[R, K H, Q]`, NaN where no step was played; and their `error` and the `prior`'s,
        `[R, K H]`.
    """
    told = answered(torch.cat([agent.believed_rewards(r, queries) for r in rollouts]), queries)
    decoded = probabilities(told, queries)
    values = {"exact": exact, "decoded": decoded, "error": distance(decoded, exact, queries)}
    values["prior"] = distance(exact[:1], exact, queries)
    return {name: in_trials(tensor, rollouts, family.horizon) for name, tensor in values.items()}


def exact_answers(agent: Any, family: Family, rollouts: Sequence[Rollout], queries: Queries) -> Tensor:
    """The exact posterior's answers, probabilities if one query pays, before each step of trials: `[T, R, Q]`."""
    together = {n: torch.cat([getattr(r, n)[:, :, 0] for r in rollouts]) for n in ("obs", "reward", "valid")}
    action = torch.cat([_env_action(agent, r) for r in rollouts])
    exact = family.posterior(History(together["obs"], action, together["reward"], together["valid"]))
    return probabilities(exact, queries)


def in_trials(
    values: Tensor, rollouts: Sequence[Rollout], horizon: int, steps: npt.NDArray[np.int64] | None = None
) -> Floats:
    """Values `[T, R, ...]` of the rollouts in whole trials of K episodes of at most H steps: `[R, K H, ...]`.

    With steps, at these of the K H alone: `[R, steps, ...]`. NaN where no step was played.
    """
    steps = np.arange(len(rollouts) * horizon) if steps is None else steps
    time = np.concatenate([k * horizon + np.arange(len(r.valid)) for k, r in enumerate(rollouts)])
    kept = np.flatnonzero(np.isin(time, steps))
    which = torch.from_numpy(kept).to(values.device)
    array = values[which].double().cpu().numpy()
    array[~torch.cat([r.valid[:, :, 0] for r in rollouts])[which].cpu().numpy()] = np.nan
    out = np.full((array.shape[1], len(steps), *array.shape[2:]), np.nan)
    out[:, np.searchsorted(steps, time[kept])] = array.swapaxes(0, 1)
    return out


def _env_action(agent: Any, rollout: Rollout) -> Tensor:
    """Actions of the environment, `[T, R, *action]`."""
    action = rollout.action[:, :, 0]
    sent: Tensor = agent.to_env(action.flatten(0, 1))
    return sent.view(*action.shape[:2], *sent.shape[1:])


def join_beliefs(parts: Sequence[Sequence[dict[str, Floats]]], trials: int, queries: Queries) -> dict[str, Floats]:
    """The arrays of results from those of each seed's parts.

    Args:
        parts: the arrays of `compare_beliefs` of each seed and part, empty where nothing was asked; the trials of a
            task are neighbours.
        trials: number of trials per task.
        queries: the queries.

    Returns:
        `error` and `prior`, `[seed, task, time]`, means over the trials that are still being played; `exact` and
        `decoded` of the first task's first trial and seed, `[time, query]`; and if observations are points in the
        plane, the `places` to which the queries' transitions lead, `[query, 2]`.
    """
    told = [[part for part in seed if part] for seed in parts]
    rows = {n: np.stack([np.concatenate([part[n] for part in seed]) for seed in told]) for n in ("error", "prior")}
    out = {name: task_means(values, trials) for name, values in rows.items()}
    out |= {name: parts[0][0][name][0] for name in ("exact", "decoded")}
    if queries.next_obs.shape[1:] == (2,):
        first = [int((queries.query == q).nonzero()[0]) for q in range(int(queries.query.max()) + 1)]
        out["places"] = queries.next_obs[first].double().numpy()
    return out


def task_means(values: Floats, trials: int) -> Floats:
    """Means over the trials of each task that have a value: `[seed, task * trial, time]` to `[seed, task, time]`."""
    by_trial = values.reshape(len(values), -1, trials, values.shape[-1])
    found = np.isfinite(by_trial)
    count, total = found.sum(2), np.where(found, by_trial, 0.0).sum(2)
    means: Floats = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return means


def unit_of(queries: Queries) -> str:
    """The unit of the errors, in words."""
    return REWARD_ERROR if queries.one_pays is None else TOTAL_VARIATION


def belief_summary(belief: dict[str, Floats], every_task: bool) -> dict[str, float]:
    """The mean error over the steps of a trial with its 95 % interval, and the prior's."""
    error, prior = (np.nanmean(belief[name], -1) for name in ("error", "prior"))  # [seed, task]
    low, high = (float(end[0]) for end in mean_interval(error[..., None], fixed_tasks=every_task))
    return {"mean": float(error.mean()), "low": low, "high": high, "prior": float(prior.mean())}
