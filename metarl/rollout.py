"""Rollouts: the agent contract's data, and how an agent's rows play their slots.

A row is one trial in one task; its E slots share the row's adaptation state. Tensors are `[T, R, E, ...]`, time first.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from metarl.errors import InvalidValueError, verbatim
from metarl.family import Family
from metarl.pulse import Listener, pulse
from metarl.rng import Rng, fold_in, make_key
from metarl.slots import INFO, Slots, TorchSlots, Transition, engine_threads, make_slots
from metarl.tasks import Tasks

AgentState = dict[str, Tensor]


class Step(NamedTuple):
    """What an agent sees when it acts."""

    obs: Tensor  # [R, E, *obs]
    slots: Slots | None  # the environments themselves, for privileged agents only


class Feedback(NamedTuple):
    """What an agent with a memory is told after every step. Tensors are `[R, E, ...]`."""

    action: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor


class Player(Protocol):
    """What an agent must be to play; `metarl.agent.Agent` says what each part means."""

    @property
    def family(self) -> Family:
        """What it plays."""

    @property
    def privileged(self) -> bool:
        """Whether it is shown the environments."""

    @property
    def remembers(self) -> bool:
        """Whether it is told of every step."""

    @property
    def budget(self) -> Budget:
        """What one adaptation step eats."""

    def act(self, state: AgentState, step: Step, rng: Rng, mode: str) -> tuple[Tensor, dict[str, Tensor], AgentState]:
        """Actions, extras and the state."""

    def observe(self, state: AgentState, told: Feedback, active: Tensor | None) -> AgentState:
        """The state after a step."""

    @property
    def recordable(self) -> bool:
        """Whether a rollout of a torch family is a fixed sequence of kernels."""

    def to_env(self, action: Tensor) -> Tensor:
        """The environment's actions."""


@dataclass(frozen=True)
class Budget:
    """What one adaptation step eats: `slots` side by side, each for `steps` steps or for `episodes` whole episodes.

    With `steps`, a slot restarts when its episode ends and its last episode may be cut; with `episodes`, a slot
    stops after that many, and the rest of the rollout is masked.
    """

    slots: int = 1
    steps: int | None = None
    episodes: int | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.episodes is None):
            raise InvalidValueError("Budget", (self.steps, self.episodes), "either steps or episodes, and not both")
        for name in ("slots", "steps", "episodes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidValueError(f"Budget.{name}", value, "at least 1")


@dataclass
class Rollout:
    """What R rows of E slots did for T steps.

    Attributes:
        obs: `[T, R, E, *obs]`.
        action: as the policy sees it, `[T, R, E, *action]`.
        reward: `float32 [T, R, E]`.
        terminated: `bool [T, R, E]`, the MDP ended with this step.
        truncated: `bool [T, R, E]`, the horizon was reached with this step.
        valid: `bool [T, R, E]`, False where a slot had finished its episodes.
        last_obs: `[R, E, *obs]`, what would be seen next.
        success: `bool [T, R, E]` where the family reports it.
        expected_reward: `float32 [T, R, E]`, the mean that each reward was drawn around, where the family reports it.
        extras: what the agent's `act` returned beside its action, `[T, R, E, ...]`.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    valid: Tensor
    last_obs: Tensor
    success: Tensor | None = None
    expected_reward: Tensor | None = None
    extras: dict[str, Tensor] = field(default_factory=dict)

    @property
    def ended(self) -> Tensor:
        """`bool [T, R, E]`: the episode was over with this step, for either reason."""
        return self.terminated | self.truncated

    @property
    def episode_start(self) -> Tensor:
        """`bool [T, R, E]`: this step is an episode's first."""
        return torch.cat([torch.ones_like(self.ended[:1]), self.ended[:-1]])

    @property
    def time(self) -> Tensor:
        """`int64 [T, R, E]`: steps since the episode began."""
        t = torch.arange(len(self.reward), device=self.reward.device).view(-1, 1, 1)
        started = torch.where(self.episode_start, t, torch.zeros_like(t))
        return t - started.cummax(0).values

    @property
    def last_time(self) -> Tensor:
        """`int64 [R, E]`: the time that `last_obs` is at."""
        return torch.where(self.ended[-1], torch.zeros_like(self.time[-1]), self.time[-1] + 1)

    @property
    def env_steps(self) -> Tensor:
        """`int64 [R]`: environment steps each row used."""
        return self.valid.sum((0, 2))

    def by_row(self, values: Tensor) -> Tensor:
        """`[T, R, E, ...]` to `[R, T * E, ...]`, a row's samples together."""
        return values.transpose(0, 1).flatten(1, 2)

    def episodes(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of `values` `[T, R, E]` over each episode, and which episodes are whole.

        Returns:
            sums and `bool` of the same shape `[R, E, M]`, M the largest number of episodes begun in a slot.
        """
        # on the CPU, because CUDA's scatter_add_ adds in any order
        number = (self.episode_start.long().cumsum(0) - 1).cpu().permute(1, 2, 0)
        shape = (*self.reward.shape[1:], int(number.max()) + 1)
        counted = torch.where(self.valid, values, 0).double().cpu().permute(1, 2, 0)
        sums = torch.zeros(shape, dtype=torch.float64).scatter_add_(2, number, counted)
        ended = (self.ended & self.valid).long().cpu().permute(1, 2, 0)
        whole = torch.zeros(shape, dtype=torch.int64).scatter_add_(2, number, ended) > 0
        return sums.to(values.device), whole.to(values.device)

    def mean_return(self) -> Tensor:
        """`float64 [R]`: mean undiscounted return of the whole episodes of each row (NaN without any)."""
        sums, whole = self.episodes(self.reward)
        return (sums * whole).sum((1, 2)) / whole.sum((1, 2))

    def rows(self, which: slice | Tensor) -> Rollout:
        """A subset of the rows."""
        cut = {n: getattr(self, n)[:, which] for n in ("obs", "action", "reward", "terminated", "truncated", "valid")}
        told = {n: getattr(self, n) for n in INFO}
        told = {n: None if v is None else v[:, which] for n, v in told.items()}
        extras = {k: v[:, which] for k, v in self.extras.items()}
        return Rollout(**cut, last_obs=self.last_obs[which], **told, extras=extras)


class SlotPool:
    """The environments of one family on one device, kept between rollouts by their number."""

    def __init__(self, family: Family, device: torch.device | str = "cpu") -> None:
        self.family, self.device = family, torch.device(device)
        self._made: dict[int, Slots] = {}

    def get(self, n: int) -> Slots:
        """Slots for `n` environments; what they played before is forgotten."""
        if n not in self._made:
            self._made[n] = make_slots(self.family, n, self.device)
        return self._made[n]

    def close(self) -> None:
        """Close them all."""
        for slots in self._made.values():
            slots.close()
        self._made.clear()


class Trials:
    """R rows of trials: each task `per_task` times, with the keys that all their randomness descends from.

    Args:
        pool: the environments.
        tasks: the tasks, each in `per_task` consecutive rows.
        per_task: trials of each task.
        seed: of the run or the evaluation.
        purpose: what the trials are for, part of the keys ("train", "eval", ...).
        iteration: of training, part of the keys.
        first_trial: number of the first trial of each task, for evaluations in parts.
    """

    def __init__(
        self,
        pool: SlotPool,
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

    def numbered(self, number: int) -> Trials:
        """The same trials with other randomness, for scoring one state several times."""
        other = copy.copy(self)
        other.keys = fold_in(self.keys, number)
        return other

    def collect(
        self,
        agent: Player,
        state: AgentState,
        stage: int,
        budget: Budget,
        mode: str = "sampled",
        purpose: str = "collect",
        final_obs: bool = False,
    ) -> tuple[Rollout, AgentState]:
        """Play `budget` in every row.

        Args:
            agent: who acts.
            state: its state, leading axis R; dead afterwards (fork it first to keep it).
            stage: number of the adaptation step, part of the keys.
            budget: slots per row and steps or episodes per slot.
            mode: "sampled" or "mean" actions.
            purpose: "collect" or "score", part of the keys.
            final_obs: keep what each step led to, before any restart, as `extras["final_obs"]`.

        Raises:
            InvalidValueError: a reward or observation is not finite.
        """
        keys = fold_in(fold_in(self.keys, stage), make_key(purpose, mode)).unsqueeze(1)
        keys = fold_in(keys, torch.arange(budget.slots)).flatten()
        tasks = self.tasks[np.repeat(np.arange(self.rows), budget.slots)] if budget.slots > 1 else self.tasks
        slots = self.pool.get(self.rows * budget.slots)
        episode = stage * _episodes(agent) if self.family.switches else 0
        begun: list[Rollout] = []
        try:
            rollout, state = play(agent, state, slots, tasks, keys, self.rows, budget, mode, final_obs, episode, begun)
        except Exception:
            for part in begun:  # what is no number may be why
                check_finite(part, self.family, self.tasks)
            raise
        check_finite(rollout, self.family, self.tasks)
        return rollout, state


@torch.no_grad()
def play(
    agent: Player,
    state: AgentState,
    slots: Slots,
    tasks: Tasks,
    keys: Tensor,
    rows: int,
    budget: Budget,
    mode: str = "sampled",
    final_obs: bool = False,
    episode: int = 0,
    begun: list[Rollout] | None = None,
) -> tuple[Rollout, AgentState]:
    """Step `slots` with `agent`, from episode number `episode` on. Arguments as in `Trials.collect`, flat over N slots.

    What was played before an exception is appended to `begun`. On CUDA, agents that are `recordable` have their second
    rollout of a kind recorded and from then on replayed.
    """
    total = budget.steps if budget.steps is not None else (budget.episodes or 1) * agent.family.horizon
    if not (is_recorded(agent, slots) and isinstance(slots, TorchSlots)):
        with engine_threads(agent.family):
            obs = slots.begin(tasks, keys, total, episode)
            return _play(agent, state, slots, obs, keys, rows, budget, mode, final_obs, pulse, begun)

    def run(given: Mapping[str, Any]) -> tuple[Rollout, AgentState]:
        obs = slots.start(given["task"], given["keys"], total, episode)
        return _play(agent, given["state"], slots, obs, given["keys"], rows, budget, mode, final_obs, lambda _: None)

    given = {"task": tasks.tensors(slots.device), "keys": keys.to(slots.device), "state": state}
    played: tuple[Rollout, AgentState] = slots.recorder((agent, rows, budget, mode, final_obs, episode), run, given)
    pulse(rows * budget.slots * total)
    return played


def _episodes(agent: Player) -> int:
    """Episodes that one adaptation step of an agent plays in a slot."""
    budget = agent.budget
    return budget.episodes if budget.episodes is not None else (budget.steps or 0) // agent.family.horizon


def is_recorded(agent: Player, slots: Slots) -> bool:
    """Whether rollouts are CUDA graphs: both sides say they are a fixed sequence of kernels on one CUDA device."""
    if not (isinstance(slots, TorchSlots) and slots.device.type == "cuda"):
        return False
    return slots.family.recordable and not slots.family.on_host and agent.recordable


def _play(
    agent: Player,
    state: AgentState,
    slots: Slots,
    obs: Tensor,
    keys: Tensor,
    rows: int,
    budget: Budget,
    mode: str,
    final_obs: bool,
    beat: Listener,
    begun: list[Rollout] | None = None,
) -> tuple[Rollout, AgentState]:
    """The inner loop of everything, from the first observations on; `beat` hears of the steps."""
    family, width = agent.family, budget.slots
    total = budget.steps if budget.steps is not None else (budget.episodes or 1) * family.horizon
    shape = (rows, width)
    act_rng = Rng(fold_in(keys.to(slots.device), 3), total)
    buffers = _Buffers(total, rows * width, slots.device)
    privileged = slots if agent.privileged else None
    episodes_left = None
    if budget.episodes is not None and family.terminates:
        episodes_left = torch.full((rows * width,), budget.episodes, device=slots.device)
    active = None  # None: all are
    t = 0
    try:
        for t in range(total):
            step = Step(obs.view(*shape, *obs.shape[1:]), privileged)
            action, extras, state = agent.act(state, step, act_rng.seek(t), mode)
            flat = action.flatten(0, 1)
            out = slots.step(agent.to_env(flat))
            buffers.write(t, obs, flat, out, extras, active)
            if final_obs:
                buffers.put(t, "extra.final_obs", out.final_obs)
            if agent.remembers:
                told = Feedback(action, *(x.view(shape) for x in (out.reward, out.terminated, out.truncated)))
                state = agent.observe(state, told, None if active is None else active.view(shape))
            obs = out.obs
            beat(rows * width)
            if episodes_left is not None:
                episodes_left -= (out.terminated | out.truncated).long()
                active = episodes_left > 0
                if slots.device.type == "cpu" and t % 8 == 7 and not active.any():
                    return buffers.rollout(t + 1, shape, obs), state
    except Exception:
        if begun is not None:
            begun.append(buffers.begun(t, shape, obs))
        raise
    return buffers.rollout(total, shape, obs), state


class _Buffers:
    """Time-first storage `[T, N, ...]`, allocated when the first step shows the shapes."""

    def __init__(self, total: int, n: int, device: torch.device) -> None:
        self.total, self.n, self.device = total, n, device
        self.data: dict[str, Tensor] = {}

    def write(
        self, t: int, obs: Tensor, action: Tensor, out: Transition, extras: Mapping[str, Tensor], active: Tensor | None
    ) -> None:
        self.put(t, "obs", obs)
        self.put(t, "action", action)
        self.put(t, "reward", out.reward)
        self.put(t, "terminated", out.terminated)
        self.put(t, "truncated", out.truncated)
        for name in INFO:
            if (value := getattr(out, name)) is not None:
                self.put(t, name, value)
        if active is not None:
            self.put(t, "valid", active)
        for name, value in extras.items():
            self.put(t, "extra." + name, value.flatten(0, 1))

    def put(self, t: int, name: str, value: Tensor) -> None:
        buffer = self.data.get(name)
        if buffer is None:
            buffer = value.new_empty((self.total, *value.shape))
            if name == "valid" or name in INFO:  # some steps do not tell
                buffer.fill_(True if name == "valid" else INFO[name][1].item())
            self.data[name] = buffer
        buffer[t].copy_(value)

    def rollout(self, total: int, shape: tuple[int, int], last_obs: Tensor) -> Rollout:
        data = {k: v[:total].view(total, *shape, *v.shape[2:]) for k, v in self.data.items()}
        extras = {k.removeprefix("extra."): v for k, v in data.items() if k.startswith("extra.")}
        fields = {k: v for k, v in data.items() if not k.startswith("extra.")}
        if "valid" not in fields:
            fields["valid"] = torch.ones((total, *shape), dtype=torch.bool, device=self.device)
        return Rollout(**fields, last_obs=last_obs.view(*shape, *last_obs.shape[1:]).clone(), extras=extras)

    def begun(self, t: int, shape: tuple[int, int], last_obs: Tensor) -> Rollout:
        """The first `t` steps, and what was seen then, of a rollout that broke off."""
        if t:
            return self.rollout(t, shape, last_obs)
        seen = last_obs.view(*shape, *last_obs.shape[1:])
        none, never = seen.new_empty((0, *shape)), torch.empty((0, *shape), dtype=torch.bool, device=self.device)
        return Rollout(seen.unsqueeze(0)[:0], none, none, never, never, never, last_obs=seen)


def check_finite(rollout: Rollout, family: Family, tasks: Tasks) -> None:
    """Name the first observation, action or reward that is not finite; one look at the device per rollout."""
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
