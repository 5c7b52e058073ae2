"""Plays trials and scores them in fresh episodes, with copies of the state after k adaptation steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from metarl.agent_base import Agent, AgentState, Budget, Rollout
from metarl.engine.rollout import PoolTrials
from metarl.evaluation.adaptation import adaptation
from metarl.evaluation.belief import Believer, compare_beliefs, exact_answers
from metarl.evaluation.modes import Mode
from metarl.evaluation.probe import HasFeatures, trial_features
from metarl.evaluation.results import Floats
from metarl.families.family import Queries

_MAX_OBS = 4  # largest size of the observations that a `Part` stores


@dataclass
class Part:
    """The results of the trials of some tasks. Arrays have a leading axis R; the trials of a task are neighbours."""

    scores: dict[Mode, list[Floats]]  # for each mode and each k of the grid: returns [R, episode]
    success: dict[Mode, list[Floats]]  # likewise: 1 if the episode had success; empty if not reported
    collected: list[Floats] = field(default_factory=list)  # for each adaptation step: mean return per episode [R]
    total: list[Floats] = field(default_factory=list)  # for each adaptation step: sum of rewards [R]
    episodes: list[Floats] = field(default_factory=list)  # for each k of the grid: episodes begun before it [R]
    env_steps: list[Floats] = field(default_factory=list)  # for each k of the grid: steps used before it [R]
    seconds: list[float] = field(default_factory=list)  # for each adaptation step: its duration
    paths: dict[int, Floats] = field(default_factory=dict)  # for each k of the grid: positions [path, t, 2]
    rewards: list[Floats] = field(default_factory=list)  # for each k of the grid: those of an episode [t]
    trial: list[dict[str, Floats]] = field(default_factory=list)  # for each adaptation step: see `_trial_arrays`
    failed: int = 0  # adaptation steps that failed
    belief: dict[str, Floats] = field(default_factory=dict)  # what was believed in the trials: `compare_beliefs`
    features: dict[str, Floats] = field(default_factory=dict)  # what was known in the asked rows: `trial_features`


def play_part(
    agent: Agent,
    trials: PoolTrials,
    grid: list[int],
    episodes: int,
    modes: Sequence[Mode],
    keep: slice,
    tick: Callable[[], None],
    queries: Queries | None = None,
    asked: int = 0,
) -> Part:
    """Play every trial of some tasks, from k = 0 to the end of the grid.

    Args:
        agent: the agent.
        trials: the trials.
        grid: the numbers of adaptation steps after which to score, ascending.
        episodes: scored episodes per k, trial and mode.
        modes: the modes to score.
        keep: the rows whose paths and actions are stored.
        tick: called after each adaptation step.
        queries: what a `Believer` and the exact posterior are asked about each step of the trials; None for nothing.
        asked: the number of rows, from the first on, whose beliefs are measured.
    """
    rollouts: list[Rollout] = []
    part = Part({m: [] for m in modes}, {m: [] for m in modes})
    queries = queries if asked else None
    begun, used = np.zeros(trials.rows), np.zeros(trials.rows)  # episodes and environment steps so far
    for adapted in adaptation(agent, trials, grid[-1]):
        if adapted.rollout is not None:
            begun += (adapted.rollout.episode_start & adapted.rollout.valid).sum((0, 2)).cpu().numpy()
            used += adapted.rollout.env_steps.cpu().numpy()
            _store_step(part, agent, adapted.rollout, adapted.seconds, keep)
            if asked and (queries is not None or has_trial_features(agent)):
                rows = torch.arange(min(asked, trials.rows), device=agent.device)
                rollouts.append(adapted.rollout.rows(rows))  # copies, not views of all rows
        if adapted.k in grid:
            part.episodes.append(begun.copy())
            part.env_steps.append(used.copy())
            for mode in modes:
                scored = _score(agent, trials, adapted.state, adapted.k, episodes, mode)
                part.scores[mode].append(scored.returns)
                if scored.success is not None:
                    part.success[mode].append(scored.success)
                if mode == modes[0]:
                    part.paths[adapted.k] = _paths(scored.rollout, keep)
                    part.rewards.append(_rewards(scored.rollout, agent.family.horizon))
        tick()
    part.failed = int(adapted.state["failed"].sum()) if "failed" in adapted.state else 0
    exact = None if queries is None else exact_answers(agent, agent.family, rollouts, queries)
    if queries is not None and exact is not None and isinstance(agent, Believer):
        part.belief = compare_beliefs(agent, agent.family, rollouts, queries, exact)
    if rollouts and has_trial_features(agent):
        part.features = trial_features(agent, rollouts, exact)
    return part


def _store_step(part: Part, agent: Agent, rollout: Rollout, seconds: float, keep: slice) -> None:
    """Store an adaptation step's data and its duration."""
    part.seconds.append(seconds)
    part.collected.append(rollout.mean_return().cpu().numpy())
    part.total.append((rollout.reward * rollout.valid).double().sum((0, 2)).cpu().numpy())
    if one_episode_per_step(agent) and keep.stop > 0:
        part.trial.append(_trial_arrays(agent, rollout.rows(keep)))


class _Scored(NamedTuple):
    """Scored episodes: the first rollout, the returns `[R, episode]`, and the successes `[R, episode]` if reported."""

    rollout: Rollout
    returns: Floats
    success: Floats | None


def _score(agent: Agent, trials: PoolTrials, state: AgentState, k: int, episodes: int, mode: Mode) -> _Scored:
    """Play fresh episodes with copies of the state, so that the agent does not learn from them.

    A recurrent agent plays each episode with its own copy, because an episode changes its state.
    """
    rollouts = list(_score_rollouts(agent, trials, state, k, episodes, mode))
    returns = [
        r.episodes(r.reward)[0][:, :, 0].cpu().numpy() for r in rollouts
    ]  # the first episode of each environment
    success = [
        (r.episodes(r.success.float())[0][:, :, 0] > 0).double().cpu().numpy()
        for r in rollouts
        if r.success is not None
    ]
    return _Scored(rollouts[0], np.concatenate(returns, 1), np.concatenate(success, 1) if success else None)


def _score_rollouts(
    agent: Agent, trials: PoolTrials, state: AgentState, k: int, episodes: int, mode: Mode
) -> Iterator[Rollout]:
    deterministic = mode == "deterministic"
    if not agent.is_recurrent:
        budget = Budget(envs=episodes, episodes=1)
        yield trials.collect(agent, agent.fork(state), k, budget, deterministic, "score", final_obs=True)[0]
        return
    for number in range(episodes):
        part = trials.rekeyed(number)
        yield part.collect(agent, agent.fork(state), k, Budget(episodes=1), deterministic, "score", final_obs=True)[0]


def _paths(rollout: Rollout, keep: slice) -> Floats:
    """The positions in the first episode of some rows, `[path, T + 1, 2]`; empty unless observations are points."""
    if rollout.obs.dim() != 4 or rollout.obs.shape[-1] != 2:
        return np.zeros((0, 0, 2))
    positions = rollout.extras["final_obs"][:, keep, 0].double()
    before = (rollout.ended.long().cumsum(0) - rollout.ended.long())[:, keep, 0]  # episodes that ended before
    positions[before > 0] = torch.nan
    points = torch.cat([rollout.obs[:1, keep, 0].double(), positions])
    return points.transpose(0, 1).cpu().numpy()


def _rewards(rollout: Rollout, horizon: int) -> Floats:
    """The rewards of the first row's first episode, `[t]`. t goes up to the horizon, with NaN after the end."""
    valid = rollout.valid[:, 0, 0].cpu().numpy()
    rewards = np.full(horizon, np.nan)
    rewards[: len(valid)][valid] = rollout.reward[:, 0, 0].double().cpu().numpy()[valid]
    return rewards


def join_paths(paths: list[Floats]) -> Floats:
    """Concatenate the paths of several parts, `[path, t, 2]`. Shorter paths end with NaN."""
    longest = max(p.shape[1] for p in paths)
    padded = [np.pad(p, ((0, 0), (0, longest - p.shape[1]), (0, 0)), constant_values=np.nan) for p in paths]
    joined = np.concatenate(padded)
    return joined if joined.size else np.zeros((0, 0, 2))


def one_episode_per_step(agent: Agent) -> bool:
    """Whether an adaptation step is one episode in one environment, so that a trial is a sequence of episodes."""
    return agent.budget == Budget(envs=1, episodes=1)


def has_trial_features(agent: Agent) -> bool:
    """Whether the agent shows what its belief holds, in trials that are sequences of episodes."""
    return isinstance(agent, HasFeatures) and one_episode_per_step(agent)


def _trial_arrays(agent: Agent, rollout: Rollout) -> dict[str, Floats]:
    """Actions, rewards and small observations of an episode, `[path, t, ...]`, with NaN after its end."""
    action = agent.to_env(rollout.action.flatten(0, 2))
    tensors = {"action": action.view(*rollout.reward.shape, *action.shape[1:]), "reward": rollout.reward}
    if rollout.obs.dim() == 4 and rollout.obs.shape[-1] <= _MAX_OBS:
        tensors["obs"] = rollout.obs
    valid = rollout.valid[:, :, 0].cpu().numpy()
    out = {}
    for name, tensor in tensors.items():
        values = tensor[:, :, 0].double().cpu().numpy()
        values[~valid] = np.nan
        out[name] = np.full((values.shape[1], agent.family.horizon, *values.shape[2:]), np.nan)
        out[name][:, : len(values)] = values.swapaxes(0, 1)
    return out


def join_trials(parts: list[list[dict[str, Floats]]]) -> dict[str, Floats]:
    """Join the arrays of each part and episode to arrays `[path, episode, t, ...]`; empty without parts."""
    names = parts[0][0] if parts else {}
    return {n: np.concatenate([np.stack([arrays[n] for arrays in part], 1) for part in parts]) for n in names}
