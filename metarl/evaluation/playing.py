"""How trials are played and scored: fresh episodes with copies of the state after k adaptation steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from metarl.agent_base import Agent, AgentState, Budget, Rollout
from metarl.engine.rollout import PoolTrials
from metarl.evaluation.adaptation import adaptation
from metarl.evaluation.modes import Mode
from metarl.evaluation.results import Floats

_SMALL = 4  # numbers in an observation that is kept of a trial


@dataclass
class Part:
    """What the trials of some tasks gave; arrays have leading axis R, a task's trials side by side."""

    scores: dict[Mode, list[Floats]]  # mode to, for each k of the grid, returns [R, episode]
    success: dict[Mode, list[Floats]]  # likewise, 1 where the episode had success; empty where not reported
    collected: list[Floats] = field(default_factory=list)  # for each step j: mean return per episode [R]
    total: list[Floats] = field(default_factory=list)  # for each step j: sum of rewards [R]
    episodes: list[Floats] = field(default_factory=list)  # before each k of the grid, cumulative [R]
    env_steps: list[Floats] = field(default_factory=list)  # likewise
    seconds: list[float] = field(default_factory=list)  # of each step j
    paths: dict[int, Floats] = field(default_factory=dict)  # k to [path, t, 2]
    trial: list[dict[str, Floats]] = field(default_factory=list)  # for each step j: see `_played`
    failed: int = 0  # adaptation steps that were given up


def play_part(
    agent: Agent,
    trials: PoolTrials,
    grid: list[int],
    episodes: int,
    modes: Sequence[Mode],
    keep: slice,
    tick: Callable[[], None],
) -> Part:
    """Every trial of some tasks, from k = 0 to the end of the grid; `keep` are the rows whose paths are kept."""
    part = Part({m: [] for m in modes}, {m: [] for m in modes})
    begun, used = np.zeros(trials.rows), np.zeros(trials.rows)
    for at in adaptation(agent, trials, grid[-1]):
        if at.rollout is not None:
            begun += (at.rollout.episode_start & at.rollout.valid).sum((0, 2)).cpu().numpy()
            used += at.rollout.env_steps.cpu().numpy()
            _keep_step(part, agent, at.rollout, at.seconds, keep)
        if at.k in grid:
            part.episodes.append(begun.copy())
            part.env_steps.append(used.copy())
            for mode in modes:
                scored = _score(agent, trials, at.state, at.k, episodes, mode)
                part.scores[mode].append(scored.returns)
                if scored.success is not None:
                    part.success[mode].append(scored.success)
                if mode == modes[0]:
                    part.paths[at.k] = _paths(scored.rollout, keep)
        tick()
    part.failed = int(at.state["failed"].sum()) if "failed" in at.state else 0
    return part


def _keep_step(part: Part, agent: Agent, rollout: Rollout, seconds: float, keep: slice) -> None:
    """Keep what an adaptation step was taken on, and how long it took."""
    part.seconds.append(seconds)
    part.collected.append(rollout.mean_return().cpu().numpy())
    part.total.append((rollout.reward * rollout.valid).double().sum((0, 2)).cpu().numpy())
    if lives(agent) and keep.stop > 0:
        part.trial.append(_played(agent, rollout.rows(keep)))


class _Scored(NamedTuple):
    """Fresh episodes: the first rollout of them, returns `[R, episode]` and, where reported, success likewise."""

    rollout: Rollout
    returns: Floats
    success: Floats | None


def _score(agent: Agent, trials: PoolTrials, state: AgentState, k: int, episodes: int, mode: Mode) -> _Scored:
    """Fresh episodes with copies of the state, their experience thrown away.

    An agent with a memory plays each from a copy of its own, because its state would go on in the episode.
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
    """First environment of some rows, up to its end: `[path, T + 1, 2]`; empty unless observations are points."""
    if rollout.obs.dim() != 4 or rollout.obs.shape[-1] != 2:
        return np.zeros((0, 0, 2))
    reached = rollout.extras["final_obs"][:, keep, 0].double()
    before = (rollout.ended.long().cumsum(0) - rollout.ended.long())[:, keep, 0]  # episodes that were over by then
    reached[before > 0] = torch.nan
    points = torch.cat([rollout.obs[:1, keep, 0].double(), reached])
    return points.transpose(0, 1).cpu().numpy()


def lined_up(paths: list[Floats]) -> Floats:
    """Paths of several parts `[path, t, 2]` as those of one, NaN after the end of the shorter ones."""
    longest = max(p.shape[1] for p in paths)
    padded = [np.pad(p, ((0, 0), (0, longest - p.shape[1]), (0, 0)), constant_values=np.nan) for p in paths]
    kept = np.concatenate(padded)
    return kept if kept.size else np.zeros((0, 0, 2))


def lives(agent: Agent) -> bool:
    """Whether an adaptation step is one episode, so that a trial is lived through one episode at a time."""
    return agent.budget == Budget(envs=1, episodes=1)


def _played(agent: Agent, rollout: Rollout) -> dict[str, Floats]:
    """Actions, rewards and small observations of an episode, `[path, t, ...]`: NaN from its end to the horizon."""
    action = agent.to_env(rollout.action.flatten(0, 2))
    told = {"action": action.view(*rollout.reward.shape, *action.shape[1:]), "reward": rollout.reward}
    if rollout.obs.dim() == 4 and rollout.obs.shape[-1] <= _SMALL:
        told["obs"] = rollout.obs
    valid = rollout.valid[:, :, 0].cpu().numpy()
    out = {}
    for name, values in told.items():
        found = values[:, :, 0].double().cpu().numpy()
        found[~valid] = np.nan
        out[name] = np.full((found.shape[1], agent.family.horizon, *found.shape[2:]), np.nan)
        out[name][:, : len(found)] = found.swapaxes(0, 1)
    return out


def joined(parts: list[list[dict[str, Floats]]]) -> dict[str, Floats]:
    """From `_played` for each part and episode to `[path, episode, t, ...]`; empty without any."""
    names = parts[0][0] if parts else {}
    return {n: np.concatenate([np.stack([told[n] for told in part], 1) for part in parts]) for n in names}
