"""Rollouts: an agent plays in a batch of environments.

A row is one trial in one task. Its E environments share the row's adaptation state. Tensors are `[T, R, E, ...]`, time
first.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.agent_base import REPORTED, Agent, AgentState, Budget, Feedback, Rollout, Step, Trials
from metarl.engine.environments import Environments, Transition, engine_threads
from metarl.engine.pool import EnvironmentPool
from metarl.engine.step_listeners import Listener, notify_listeners
from metarl.engine.torch_environments import TorchEnvironments
from metarl.errors import InvalidValueError, verbatim
from metarl.families.family import Family
from metarl.families.tasks import Tasks
from metarl.rng import Rng, fold_in, make_key

_KEY_WORD = {False: "sampled", True: "mean"}  # part of the keys: other words would change all draws


@dataclass(frozen=True)
class RolloutSpec:
    """How a rollout is played.

    Attributes:
        rows: number of rows, R.
        budget: environments per row, and steps or episodes per environment.
        deterministic: act deterministically (the mean or likeliest action) instead of sampling.
        final_obs: store the observation after each step, before any restart, as `extras["final_obs"]`.
        first_episode: number in the trial (from 0) of the rollout's first episode.
    """

    rows: int
    budget: Budget
    deterministic: bool = False
    final_obs: bool = False
    first_episode: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """R and E."""
        return self.rows, self.budget.envs

    def steps(self, family: Family) -> int:
        """T, the largest number of steps that an environment takes."""
        if self.budget.steps is not None:
            return self.budget.steps
        return (self.budget.episodes or 1) * family.horizon


class PoolTrials(Trials):
    """Trials in the environments of a pool, `per_task` trials of each task.

    Args:
        pool: the environments.
        tasks: the tasks; each has `per_task` consecutive rows.
        per_task: number of trials of each task.
        seed: seed of the run or of the evaluation.
        purpose: purpose of the trials, part of the keys ("train", "eval", ...).
        iteration: training iteration, part of the keys.
        first_trial: number of the first trial of each task, for evaluations that are split into parts.

    Attributes:
        seconds: total wall time of `collect` so far.
    """

    def __init__(
        self,
        pool: EnvironmentPool,
        tasks: Tasks,
        per_task: int = 1,
        seed: int = 0,
        purpose: str = "train",
        iteration: int = 0,
        first_trial: int = 0,
    ) -> None:
        self.pool, self.family = pool, pool.family
        self.tasks = tasks if per_task == 1 else tasks[np.repeat(np.arange(len(tasks)), per_task)]
        self.rows = len(self.tasks)
        trial = torch.arange(first_trial, first_trial + per_task).repeat(len(tasks))
        self.keys = fold_in(fold_in(make_key(seed, purpose, iteration), self.tasks.keys), trial)
        self.key = make_key(seed, purpose, iteration)
        self.seconds = 0.0

    def rekeyed(self, number: int) -> PoolTrials:
        """The same trials with other randomness, derived from `number`; used to score one state several times."""
        other = copy.copy(self)
        other.keys = fold_in(self.keys, number)
        return other

    def collect(
        self,
        agent: Agent,
        state: AgentState,
        adaptation_step: int,
        budget: Budget,
        deterministic: bool = False,
        purpose: str = "collect",
        final_obs: bool = False,
    ) -> tuple[Rollout, AgentState]:
        """Play `budget` in every row. The last two arguments are additions to `Trials.collect`.

        Args:
            agent: the agent that acts.
            state: the agent's state, leading axis R.
            adaptation_step: number of adaptation steps taken before.
            budget: environments per row and steps or episodes per environment.
            deterministic: act deterministically instead of sampling.
            purpose: "collect" or "score", part of the keys.
            final_obs: store the observation after each step, before any restart, as `extras["final_obs"]`.

        Raises:
            InvalidValueError: a reward, an observation or an action is not finite.
        """
        keys = fold_in(fold_in(self.keys, adaptation_step), make_key(purpose, _KEY_WORD[deterministic])).unsqueeze(1)
        keys = fold_in(keys, torch.arange(budget.envs)).flatten()
        tasks = self.tasks[np.repeat(np.arange(self.rows), budget.envs)] if budget.envs > 1 else self.tasks
        episode = adaptation_step * _episodes_per_step(agent) if self.family.switches else 0
        spec = RolloutSpec(self.rows, budget, deterministic, final_obs, episode)
        start = clock(agent.device)
        played = play(agent, state, self.pool.get(self.rows * budget.envs), tasks, keys, spec)
        self.seconds += clock(agent.device) - start
        return played


def clock(device: torch.device) -> float:
    """Wall clock in seconds, read after the device has finished its queued work. Only differences have a meaning."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@torch.no_grad()
def play(
    agent: Agent, state: AgentState, envs: Environments, tasks: Tasks, keys: Tensor, spec: RolloutSpec
) -> tuple[Rollout, AgentState]:
    """Step N = R * E environments with an agent.

    On CUDA, the second rollout with the same agent, spec and shapes is captured as a CUDA graph if the agent and the
    family are `capturable`. Every later one replays the graph.

    Args:
        agent: the agent that acts.
        state: the agent's state, tensors `[R, ...]`.
        envs: N environments.
        tasks: N tasks.
        keys: `int64 [N]`; all draws descend from them.
        spec: how to play.

    Raises:
        InvalidValueError: a reward, an observation or an action is not finite, or the agent's `observe` and
            `is_recurrent` contradict each other.
    """
    check_observe(agent)
    if is_captured(agent, envs) and isinstance(envs, TorchEnvironments):
        rollout, state = _replay(agent, state, envs, tasks, keys, spec)
    else:
        buffers = _Buffers(spec.steps(agent.family), spec.shape, envs.device)
        try:
            with engine_threads(agent.family):
                obs = envs.begin(tasks, keys, buffers.total, spec.first_episode)
                rollout, state = _play(agent, state, envs, obs, keys, spec, buffers, notify_listeners)
        except Exception:  # its cause may be a number that is not finite
            check_finite(buffers.rollout(), agent.family, tasks[:: spec.budget.envs])
            raise
    check_finite(rollout, agent.family, tasks[:: spec.budget.envs])
    return rollout, state


def env_actions(agent: Agent, action: Tensor, shape: tuple[int, int]) -> Tensor:
    """The environment's actions `[R * E, *action_space.shape]`, from those that `act` returned, `[R, E, ...]`.

    Raises:
        InvalidValueError: an axis is missing, or the agent's `to_env` returns another shape.
    """
    name, space, found = type(agent).__name__, tuple(agent.family.action_space.shape or ()), tuple(action.shape)
    if found[:2] == shape:
        sent = agent.to_env(action.flatten(0, 1))
        if tuple(sent.shape) == (shape[0] * shape[1], *space):
            return sent
        if len(found) == 2 + len(space):
            expected = f"{(shape[0] * shape[1], *space)}, the environments and the axes of {agent.family.action_space}"
            raise InvalidValueError(f"shape of what {name}.to_env returns", tuple(sent.shape), expected)
    axes = ", ".join(["R", "E", *map(str, space)])
    expected = f"({axes}), rows, environments of a row and the axes of an action, here {(*shape, *space)}"
    raise InvalidValueError(f"shape of the actions of {name}.act", found, expected)


def check_observe(agent: Agent) -> None:
    """Check that an agent overrides `observe` if and only if it is recurrent.

    Raises:
        InvalidValueError: the agent overrides `observe` and is not recurrent, or it is recurrent without `observe`.
    """
    cls, name = type(agent), type(agent).__name__
    overrides_observe = cls.observe is not Agent.observe
    if overrides_observe and not (cls.is_recurrent or agent.is_recurrent):
        raise InvalidValueError(f"{name}.is_recurrent", False, f"True, or {name}.observe is never called")
    if agent.is_recurrent and not overrides_observe:
        expected = "the state after a step, because is_recurrent is True"
        raise InvalidValueError(f"{name}.observe", verbatim("missing"), expected)


def _replay(
    agent: Agent, state: AgentState, envs: TorchEnvironments, tasks: Tasks, keys: Tensor, spec: RolloutSpec
) -> tuple[Rollout, AgentState]:
    """Play as `play` does, by a CUDA graph."""
    total = spec.steps(agent.family)

    def run(inputs: Mapping[str, Any]) -> tuple[Rollout, AgentState]:
        obs = envs.start(inputs["task"], inputs["keys"], total, spec.first_episode)
        buffers = _Buffers(total, spec.shape, envs.device)
        return _play(agent, inputs["state"], envs, obs, inputs["keys"], spec, buffers, lambda _: None)

    inputs = {"task": tasks.tensors(envs.device), "keys": keys.to(envs.device), "state": state}
    played = envs.cuda_graphs((agent, spec), run, inputs)
    notify_listeners(envs.n * total)
    return played


def _episodes_per_step(agent: Agent) -> int:
    """Number of episodes that one adaptation step of an agent plays in each environment."""
    budget = agent.budget
    return budget.episodes if budget.episodes is not None else (budget.steps or 0) // agent.family.horizon


def is_captured(agent: Agent, envs: Environments) -> bool:
    """Whether rollouts are captured as CUDA graphs: on CUDA, if both the family and the agent are `capturable`."""
    if not (isinstance(envs, TorchEnvironments) and envs.device.type == "cuda"):
        return False
    return envs.family.capturable and not envs.family.on_host and agent.capturable


def _play(
    agent: Agent,
    state: AgentState,
    envs: Environments,
    obs: Tensor,
    keys: Tensor,
    spec: RolloutSpec,
    buffers: _Buffers,
    notify: Listener,
) -> tuple[Rollout, AgentState]:
    """The rollout loop, from the first observations on. After each step it calls `notify` with the number of steps."""
    family, n, shape = agent.family, envs.n, spec.shape
    act_rng = Rng(fold_in(keys.to(envs.device), 3), buffers.total)
    episodes_left = None
    if spec.budget.episodes is not None and family.terminates:
        episodes_left = torch.full((n,), spec.budget.episodes, device=envs.device)
    active = None  # None: all environments are active
    for t in range(buffers.total):
        buffers.set_obs(obs)
        step = Step(obs.view(*shape, *obs.shape[1:]), envs.simulator if agent.privileged else None)
        action, extras, state = agent.act(state, step, act_rng.seek(t), spec.deterministic)
        out = envs.step(env_actions(agent, action, shape))
        buffers.write(action.flatten(0, 1), out, extras, active, spec.final_obs)
        if agent.is_recurrent:
            feedback = Feedback(action, *(x.view(shape) for x in (out.reward, out.terminated, out.truncated)))
            state = agent.observe(state, feedback, None if active is None else active.view(shape))
        obs = out.obs
        notify(n)
        if episodes_left is not None:
            episodes_left -= (out.terminated | out.truncated).long()
            active = episodes_left > 0
            if envs.device.type == "cpu" and t % 8 == 7 and not active.any():
                break
    buffers.set_obs(obs)
    return buffers.rollout(), state


class _Buffers:
    """Time-first storage `[T, N, ...]`, allocated at the first step, which shows the shapes."""

    def __init__(self, total: int, shape: tuple[int, int], device: torch.device) -> None:
        self.total, self.shape, self.device = total, shape, device
        self.t = 0  # number of steps that were written
        self.obs: Tensor | None = None  # observation before step t
        self.data: dict[str, Tensor] = {}

    def set_obs(self, obs: Tensor) -> None:
        """Set the observation before the next step."""
        self.obs = obs

    def write(
        self, action: Tensor, out: Transition, extras: Mapping[str, Tensor], active: Tensor | None, final_obs: bool
    ) -> None:
        """Write a step and the observation before it."""
        assert self.obs is not None
        self._put("obs", self.obs)
        self._put("action", action)
        self._put("reward", out.reward)
        self._put("terminated", out.terminated)
        self._put("truncated", out.truncated)
        for name in REPORTED:
            if (value := getattr(out, name)) is not None:
                self._put(name, value)
        if active is not None:
            self._put("valid", active)
        for name, value in extras.items():
            self._put("extra." + name, value.flatten(0, 1))
        if final_obs:
            self._put("extra.final_obs", out.final_obs)
        self.t += 1

    def _put(self, name: str, value: Tensor) -> None:
        buffer = self.data.get(name)
        if buffer is None:
            buffer = value.new_empty((self.total, *value.shape))
            if name == "valid" or name in REPORTED:  # some steps may not report it
                buffer.fill_(True if name == "valid" else REPORTED[name][1].item())
            self.data[name] = buffer
        buffer[self.t].copy_(value)

    def rollout(self) -> Rollout:
        """The steps that were written, and the observation after them."""
        if self.obs is None:  # the first observation is missing too
            self.obs = torch.zeros(self.shape[0] * self.shape[1], device=self.device)
        last_obs = self.obs.view(*self.shape, *self.obs.shape[1:])
        if not self.t:
            none = last_obs.new_empty((0, *self.shape))
            no_obs, flags = last_obs.unsqueeze(0)[:0], none.bool()
            return Rollout(no_obs, none, none, flags, flags, flags, last_obs=last_obs)
        data = {k: v[: self.t].view(self.t, *self.shape, *v.shape[2:]) for k, v in self.data.items()}
        extras = {k.removeprefix("extra."): v for k, v in data.items() if k.startswith("extra.")}
        fields = {k: v for k, v in data.items() if not k.startswith("extra.")}
        if "valid" not in fields:
            fields["valid"] = torch.ones((self.t, *self.shape), dtype=torch.bool, device=self.device)
        return Rollout(**fields, last_obs=last_obs.clone(), extras=extras)


def check_finite(rollout: Rollout, family: Family, tasks: Tasks) -> None:
    """Check that all observations, actions and rewards are finite. If they are, the device is read once.

    Args:
        rollout: `[T, R, E, ...]`.
        family: the family that was played.
        tasks: one task per row.

    Raises:
        InvalidValueError: a number is not finite; the error names the first one, its step and its task.
    """
    if bool(torch.isfinite(rollout.reward.sum() + rollout.obs.sum() + rollout.last_obs.sum())):
        return
    last = rollout.valid[-1] if len(rollout.valid) else rollout.valid.new_ones(rollout.valid.shape[1:])
    valid = torch.cat([rollout.valid, last.unsqueeze(0)])
    all_obs = torch.cat([rollout.obs, rollout.last_obs.unsqueeze(0)])
    faults = [
        (t, order, row, value, name)
        for order, (name, values) in enumerate(
            (("observation", all_obs), ("action", rollout.action), ("reward", rollout.reward))
        )
        for t, row, value in _first_not_finite(values, valid[: len(values)])
    ]
    if not faults:
        return
    t, _, row, value, name = min(faults)
    where = f"step {t} in task {int(tasks.index[row])} of split {tasks.split!r}"
    if name == "action":
        expected = f"finite numbers (the policy diverged: smaller step sizes?; {where})"
        raise InvalidValueError(f"an action in family {family.id}", verbatim("not finite"), expected)
    raise InvalidValueError(f"{name} of family {family.id}", verbatim(f"{value}"), f"finite numbers ({where})")


def _first_not_finite(values: Tensor, valid: Tensor) -> list[tuple[int, int, float]]:
    """Step, row and value of the first valid number in `[T, R, E, ...]` that is not finite; empty if there is none."""
    flat = values.double().flatten(3) if values.dim() > 3 else values.double().unsqueeze(3)
    bad = ~torch.isfinite(flat) & valid.unsqueeze(3)
    if not bool(bad.any()):
        return []
    at = tuple(bad.nonzero()[0].tolist())
    return [(at[0], at[1], float(flat[at]))]
