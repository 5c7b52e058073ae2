"""Rollouts: how the rows of an agent play their environments.

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

from metarl.agent_base import REPORTED, Agent, AgentState, Budget, Feedback, Rollout, Step, Trials, check_hears
from metarl.engine.environments import Environments, Transition, engine_threads
from metarl.engine.pool import EnvironmentPool
from metarl.engine.pulse import Listener, pulse
from metarl.engine.torch_environments import TorchEnvironments
from metarl.errors import InvalidValueError, verbatim
from metarl.families.family import Family
from metarl.families.tasks import Tasks
from metarl.rng import Rng, fold_in, make_key

_KEY_WORD = {False: "sampled", True: "mean"}  # part of the keys: another word would be other draws


@dataclass(frozen=True)
class RolloutSpec:
    """How a rollout is played.

    Attributes:
        rows: R.
        budget: environments per row, and steps or episodes per environment.
        deterministic: the likeliest actions instead of sampled ones.
        final_obs: keep what each step led to, before any restart, as `extras["final_obs"]`.
        first_episode: number in the trial of the episode that the rollout begins with.
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
        """T, the most steps that an environment takes."""
        if self.budget.steps is not None:
            return self.budget.steps
        return (self.budget.episodes or 1) * family.horizon


class PoolTrials(Trials):
    """Trials that are played in the environments of a pool: each task `per_task` times.

    Args:
        pool: the environments.
        tasks: the tasks, each in `per_task` consecutive rows.
        per_task: trials of each task.
        seed: of the run or the evaluation.
        purpose: what the trials are for, part of the keys ("train", "eval", ...).
        iteration: of training, part of the keys.
        first_trial: number of the first trial of each task, for evaluations in parts.

    Attributes:
        seconds: wall time that `collect` has taken so far.
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

    def numbered(self, number: int) -> PoolTrials:
        """The same trials with other randomness, for scoring one state several times."""
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
        """Play `budget` in every row; arguments as in `Trials.collect`, and two more.

        Args:
            agent: who acts.
            state: its state, leading axis R.
            adaptation_step: adaptation steps taken before.
            budget: environments per row and steps or episodes per environment.
            deterministic: the likeliest actions instead of sampled ones.
            purpose: "collect" or "score", part of the keys.
            final_obs: keep what each step led to, before any restart, as `extras["final_obs"]`.

        Raises:
            InvalidValueError: a reward, an observation or an action is not finite.
        """
        keys = fold_in(fold_in(self.keys, adaptation_step), make_key(purpose, _KEY_WORD[deterministic])).unsqueeze(1)
        keys = fold_in(keys, torch.arange(budget.envs)).flatten()
        tasks = self.tasks[np.repeat(np.arange(self.rows), budget.envs)] if budget.envs > 1 else self.tasks
        episode = adaptation_step * _episodes(agent) if self.family.switches else 0
        spec = RolloutSpec(self.rows, budget, deterministic, final_obs, episode)
        start = clock(agent.device)
        played = play(agent, state, self.pool.get(self.rows * budget.envs), tasks, keys, spec)
        self.seconds += clock(agent.device) - start
        return played


def clock(device: torch.device) -> float:
    """Wall time in seconds from any moment on, when the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@torch.no_grad()
def play(
    agent: Agent, state: AgentState, envs: Environments, tasks: Tasks, keys: Tensor, spec: RolloutSpec
) -> tuple[Rollout, AgentState]:
    """Step N = R * E environments with an agent.

    On CUDA, the second rollout of its kind by an agent that is `capturable` is captured as a CUDA graph, and every
    later one replays the graph.

    Args:
        agent: who acts.
        state: its state, tensors `[R, ...]`.
        envs: N environments.
        tasks: N tasks.
        keys: `int64 [N]`, which all that is drawn descends from.
        spec: how.

    Raises:
        InvalidValueError: a reward, an observation or an action is not finite, or the agent's `observe` and its
            `is_recurrent` do not fit together.
    """
    check_hears(agent)
    if is_captured(agent, envs) and isinstance(envs, TorchEnvironments):
        rollout, state = _replay(agent, state, envs, tasks, keys, spec)
    else:
        buffers = _Buffers(spec.steps(agent.family), spec.shape, envs.device)
        try:
            with engine_threads(agent.family):
                obs = envs.begin(tasks, keys, buffers.total, spec.first_episode)
                rollout, state = _play(agent, state, envs, obs, keys, spec, buffers, pulse)
        except Exception:  # what is no number may be why
            check_finite(buffers.rollout(), agent.family, tasks[:: spec.budget.envs])
            raise
    check_finite(rollout, agent.family, tasks[:: spec.budget.envs])
    return rollout, state


def _replay(
    agent: Agent, state: AgentState, envs: TorchEnvironments, tasks: Tasks, keys: Tensor, spec: RolloutSpec
) -> tuple[Rollout, AgentState]:
    """`play` as a CUDA graph; arguments as there."""
    total = spec.steps(agent.family)

    def run(given: Mapping[str, Any]) -> tuple[Rollout, AgentState]:
        obs = envs.start(given["task"], given["keys"], total, spec.first_episode)
        buffers = _Buffers(total, spec.shape, envs.device)
        return _play(agent, given["state"], envs, obs, given["keys"], spec, buffers, lambda _: None)

    given = {"task": tasks.tensors(envs.device), "keys": keys.to(envs.device), "state": state}
    played: tuple[Rollout, AgentState] = envs.cuda_graphs((agent, spec), run, given)
    pulse(envs.n * total)
    return played


def _episodes(agent: Agent) -> int:
    """Episodes that one adaptation step of an agent plays in an environment."""
    budget = agent.budget
    return budget.episodes if budget.episodes is not None else (budget.steps or 0) // agent.family.horizon


def is_captured(agent: Agent, envs: Environments) -> bool:
    """Whether rollouts are CUDA graphs: both sides say they are a fixed sequence of kernels on one CUDA device."""
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
    beat: Listener,
) -> tuple[Rollout, AgentState]:
    """The inner loop of everything, from the first observations on; `beat` hears of the steps."""
    family, n, shape = agent.family, envs.n, spec.shape
    act_rng = Rng(fold_in(keys.to(envs.device), 3), buffers.total)
    episodes_left = None
    if spec.budget.episodes is not None and family.terminates:
        episodes_left = torch.full((n,), spec.budget.episodes, device=envs.device)
    active = None  # None: all are
    for t in range(buffers.total):
        buffers.seen(obs)
        step = Step(obs.view(*shape, *obs.shape[1:]), envs.simulator if agent.privileged else None)
        action, extras, state = agent.act(state, step, act_rng.seek(t), spec.deterministic)
        flat = action.flatten(0, 1)
        out = envs.step(agent.to_env(flat))
        buffers.write(flat, out, extras, active, spec.final_obs)
        if agent.is_recurrent:
            feedback = Feedback(action, *(x.view(shape) for x in (out.reward, out.terminated, out.truncated)))
            state = agent.observe(state, feedback, None if active is None else active.view(shape))
        obs = out.obs
        beat(n)
        if episodes_left is not None:
            episodes_left -= (out.terminated | out.truncated).long()
            active = episodes_left > 0
            if envs.device.type == "cpu" and t % 8 == 7 and not active.any():
                break
    buffers.seen(obs)
    return buffers.rollout(), state


class _Buffers:
    """Time-first storage `[T, N, ...]`, allocated when the first step shows the shapes."""

    def __init__(self, total: int, shape: tuple[int, int], device: torch.device) -> None:
        self.total, self.shape, self.device = total, shape, device
        self.t = 0  # steps that were written
        self.obs: Tensor | None = None  # what is seen before step t
        self.data: dict[str, Tensor] = {}

    def seen(self, obs: Tensor) -> None:
        """Keep what is seen before the next step."""
        self.obs = obs

    def write(
        self, action: Tensor, out: Transition, extras: Mapping[str, Tensor], active: Tensor | None, final_obs: bool
    ) -> None:
        """Keep a step, and what was seen before it."""
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
            if name == "valid" or name in REPORTED:  # some steps do not report
                buffer.fill_(True if name == "valid" else REPORTED[name][1].item())
            self.data[name] = buffer
        buffer[self.t].copy_(value)

    def rollout(self) -> Rollout:
        """The steps that were written, and what was seen after them."""
        if self.obs is None:  # not even a first observation
            self.obs = torch.zeros(self.shape[0] * self.shape[1], device=self.device)
        seen = self.obs.view(*self.shape, *self.obs.shape[1:])
        if not self.t:
            none = seen.new_empty((0, *self.shape))
            return Rollout(seen.unsqueeze(0)[:0], none, none, none.bool(), none.bool(), none.bool(), last_obs=seen)
        data = {k: v[: self.t].view(self.t, *self.shape, *v.shape[2:]) for k, v in self.data.items()}
        extras = {k.removeprefix("extra."): v for k, v in data.items() if k.startswith("extra.")}
        fields = {k: v for k, v in data.items() if not k.startswith("extra.")}
        if "valid" not in fields:
            fields["valid"] = torch.ones((self.t, *self.shape), dtype=torch.bool, device=self.device)
        return Rollout(**fields, last_obs=seen.clone(), extras=extras)


def check_finite(rollout: Rollout, family: Family, tasks: Tasks) -> None:
    """Name the first observation, action or reward that is not finite; one look at the device per rollout.

    Args:
        rollout: `[T, R, E, ...]`.
        family: that was played.
        tasks: one per row.

    Raises:
        InvalidValueError: there is one.
    """
    if bool(torch.isfinite(rollout.reward.sum() + rollout.obs.sum() + rollout.last_obs.sum())):
        return
    last = rollout.valid[-1] if len(rollout.valid) else rollout.valid.new_ones(rollout.valid.shape[1:])
    valid = torch.cat([rollout.valid, last.unsqueeze(0)])
    seen = torch.cat([rollout.obs, rollout.last_obs.unsqueeze(0)])
    found = [
        (t, order, row, value, name)
        for order, (name, values) in enumerate(
            (("observation", seen), ("action", rollout.action), ("reward", rollout.reward))
        )
        for t, row, value in _first_not_finite(values, valid[: len(values)])
    ]
    if not found:
        return
    t, _, row, value, name = min(found)
    where = f"step {t} in task {int(tasks.index[row])} of split {tasks.split!r}"
    if name == "action":
        expected = f"finite numbers (the policy diverged: smaller step sizes?; {where})"
        raise InvalidValueError(f"an action in family {family.id}", verbatim("not finite"), expected)
    raise InvalidValueError(f"{name} of family {family.id}", verbatim(f"{value}"), f"finite numbers ({where})")


def _first_not_finite(values: Tensor, valid: Tensor) -> list[tuple[int, int, float]]:
    """The first of `[T, R, E, ...]` that is not finite where `valid`: its step, its row and its value; or nothing."""
    flat = values.double().flatten(3) if values.dim() > 3 else values.double().unsqueeze(3)
    bad = ~torch.isfinite(flat) & valid.unsqueeze(3)
    if not bool(bad.any()):
        return []
    at = tuple(bad.nonzero()[0].tolist())
    return [(at[0], at[1], float(flat[at]))]
