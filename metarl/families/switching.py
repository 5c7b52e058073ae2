"""Non-stationary trials: any family whose task switches between episodes.

The option that every family has: `metarl/Switching-v0{"family": ID, "every": 2, "phases": 3, "signal": true}`, or
`switching(family, ...)`. A task of it is a schedule of the family's own tasks; those of a train schedule are train
tasks of the family, and those of a test schedule test tasks.

Observation: the family's, with `signal` one number more: 1 throughout the first episode in a new task. Action: the
family's. Reward: the family's. End: the family's. Task: as many of the family's tasks as the schedule has phases.
Version history: v0, first.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from torch import Tensor

from metarl.errors import InvalidValueError
from metarl.families.distributions import Repeated, TaskSpace
from metarl.families.family import Family, State, TorchFamily
from metarl.families.gym_family import GymFamily, TaskedEnv, task_dict
from metarl.families.registry import make_family
from metarl.families.task_spaces import MOST_LISTED
from metarl.families.tasks import Tasks, shuffled
from metarl.rng import Rng, fold_in, make_key


def switching(family: str | Family, every: int = 1, phases: int = 3, signal: bool = False) -> Family:
    """A family whose task changes after every so many episodes of a trial.

    The schedule has `phases` tasks of the family and begins again after the last. Gradient-based agents, whose
    adaptation steps play episodes side by side, are refused: those have no order in which a task could switch.

    Args:
        family: what is switched, a torch family or one of the any-Gymnasium form.
        every: episodes in one task.
        phases: tasks of a schedule, at least 2.
        signal: whether the observation tells of a switch: one number more, 1 throughout the first episode in a new task
            and 0 otherwise; the trial's first episode has 0.

    Raises:
        InvalidValueError: numbers that are too small, a switching family, or a signal beside an observation that is not
            a Box with one axis.
    """
    inner = make_family(family)
    for name, value, least, most in (("every", every, 1, 10**9), ("phases", phases, 2, 10**6)):
        if not (isinstance(value, int) and least <= value <= most):
            raise InvalidValueError(f"switching.{name}", value, f"a whole number, at least {least} and at most {most}")
    if inner.switches:
        raise InvalidValueError("switching.family", inner.id, "a family whose task does not switch already")
    space = inner.observation_space
    if signal and not (isinstance(space, spaces.Box) and len(space.shape) == 1):
        raise InvalidValueError("switching.signal", signal, f"False, because observations of {inner.id} are {space}")
    if isinstance(inner, TorchFamily):
        return SwitchingTorch(inner, every, phases, signal)
    if isinstance(inner, GymFamily):
        return SwitchingGym(inner, every, phases, signal)
    raise InvalidValueError("switching.family", type(inner).__name__, "a TorchFamily or a GymFamily")


class _Schedule(Family):
    """What both forms share: tasks that are schedules."""

    switches = True
    source = "its family's; a schedule of tasks as in Garivier and Moulines 2008, arXiv:0805.3415"

    def _set(self, inner: Any, every: int, phases: int, signal: bool) -> None:
        self.inner, self.every, self.phases, self.signal = inner, every, phases, signal
        self.horizon, self.action_space, self.terminates = inner.horizon, inner.action_space, inner.terminates
        self.observation_space = _with_flag(inner.observation_space) if signal else inner.observation_space
        self.task_space = _repeated(inner.task_space, phases)
        self.ood = {name: _repeated(space, phases) for name, space in inner.ood.items()}

    @property
    def finite(self) -> bool:
        """Whether the inner family is."""
        return bool(self.inner.finite)

    def tasks_at(self, split: str, index: npt.NDArray[np.int64], seed: int = 0) -> Tasks:
        """Schedules at the given addresses, `int64 [N]`, of the inner family's tasks in that split."""
        index = np.array(index, dtype=np.int64)
        every = self.inner.listed(split)
        if every is None:
            flat = self.inner.tasks_at(split, (index[:, None] * self.phases + np.arange(self.phases)).reshape(-1), seed)
            return self._schedules(flat, split, seed, index)
        if (schedules := self.listed(split)) is not None:
            found = schedules[shuffled(self.id, split, seed, index, len(schedules))]
            return replace(found, seed=int(seed), index=index)
        keys = fold_in(make_key("task", self.id, split, seed), torch.from_numpy(index))
        rows = Rng(keys).integers(len(every), self.phases).numpy()
        return self._schedules(every[rows.reshape(-1)], split, seed, index)

    def listed(self, split: str) -> Tasks | None:
        """Every schedule of a split once; None where they are too many."""
        every = self.inner.listed(split)
        if every is None or len(every) ** self.phases > MOST_LISTED:
            return None
        number = np.arange(len(every) ** self.phases)
        rows = number[:, None] // len(every) ** np.arange(self.phases) % len(every)
        return self._schedules(every[rows.reshape(-1)], split, 0, number)

    def _schedules(self, flat: Tasks, split: str, seed: int, index: npt.NDArray[np.int64]) -> Tasks:
        """Schedules from their tasks one after another."""
        values = {k: np.array(v.reshape(len(index), self.phases, *v.shape[1:])) for k, v in flat.values.items()}
        return Tasks(self.id, split, int(seed), index, values, {**self.task_space, **self.ood.get(split, {})})

    def held_out(self, tasks: Tasks) -> npt.NDArray[np.bool_]:
        """Which schedules hold no task that training can draw."""
        rows = {k: np.array(v.reshape(-1, *v.shape[2:])) for k, v in tasks.values.items()}
        space = {k: d.distribution for k, d in tasks.space.items() if isinstance(d, Repeated)}
        number = np.arange(len(tasks) * self.phases)
        flat = Tasks(self.inner.id, tasks.split, tasks.seed, number, rows, dict(space))
        out: npt.NDArray[np.bool_] = self.inner.held_out(flat).reshape(-1, self.phases).all(1)
        return out

    def phase(self, episode: Any) -> Any:
        """Which task of the schedule is played in an episode (from 0)."""
        return (episode // self.every) % self.phases


class SwitchingTorch(_Schedule, TorchFamily):
    """Episodes of a torch family, whose task switches."""

    def __init__(self, inner: TorchFamily, every: int, phases: int, signal: bool) -> None:
        self._set(inner, every, phases, signal)
        self.capturable, self.on_host = inner.capturable, inner.on_host

    def now(self, episode: Tensor, task: dict[str, Tensor]) -> dict[str, Tensor]:
        """The task that is played: schedules `[N, phases, ...]` to `[N, ...]`."""
        row, phase = torch.arange(len(episode), device=episode.device), self.phase(episode)
        return {k: v[row, phase] for k, v in task.items()}

    def reset(self, task: dict[str, Tensor], rng: Rng) -> State:
        """The trial's first episode."""
        return self.begin_at(task, rng, 0)

    def begin_at(self, task: dict[str, Tensor], rng: Rng, episode: int) -> State:
        """Episode number `episode` of the schedule."""
        leaf = next(iter(task.values()))
        number = torch.full((len(leaf),), episode, dtype=torch.int64, device=leaf.device)
        return {"inner": self.inner.reset(self.now(number, task), rng), "episode": number}

    def next_episode(self, state: State, task: dict[str, Tensor], rng: Rng) -> State:
        """One episode further in the schedule."""
        episode = state["episode"] + 1
        return {"inner": self.inner.next_episode(state["inner"], self.now(episode, task), rng), "episode": episode}

    def observe(self, state: State, task: dict[str, Tensor]) -> Tensor:
        """The inner family's observation, and with `signal` whether this is the first episode in a new task."""
        obs: Tensor = self.inner.observe(state["inner"], self.now(state["episode"], task))
        if not self.signal:
            return obs
        new = (state["episode"] > 0) & (state["episode"] % self.every == 0)
        return torch.cat([obs, new.to(obs.dtype).unsqueeze(1)], 1)

    def step(
        self, state: State, action: Tensor, task: dict[str, Tensor], rng: Rng
    ) -> tuple[State, Tensor, Tensor] | tuple[State, Tensor, Tensor, dict[str, Tensor]]:
        """A step of the inner family in the present task."""
        inner, *rest = self.inner.step(state["inner"], action, self.now(state["episode"], task), rng)
        return ({"inner": inner, "episode": state["episode"]}, *rest)

    def optimal_action(self, state: State, task: dict[str, Tensor], t: Tensor) -> Tensor:
        """The inner family's."""
        best: Tensor = self.inner.optimal_action(state["inner"], self.now(state["episode"], task), t)
        return best

    @property
    def has_optimal_action(self) -> bool:
        """Whether the inner family has one."""
        return bool(self.inner.has_optimal_action)

    def draw(self, axes: Any, state: State, task: dict[str, npt.NDArray[Any]]) -> None:
        """The inner family's picture of the present task."""
        self.inner.draw(axes, state["inner"], {k: v[self.phase(int(state["episode"]))] for k, v in task.items()})

    def frame(
        self, state: State, task: dict[str, npt.NDArray[Any]], size: tuple[int, int] = (256, 256)
    ) -> npt.NDArray[np.uint8] | None:
        """The inner family's picture of the present task."""
        now = {k: v[self.phase(int(state["episode"]))] for k, v in task.items()}
        out: npt.NDArray[np.uint8] = self.inner.frame(state["inner"], now, size)
        return out


class SwitchingGym(_Schedule, GymFamily):
    """Episodes of a Gymnasium environment, whose task switches."""

    def __init__(self, inner: GymFamily, every: int, phases: int, signal: bool) -> None:
        self.__dict__.update(inner.__dict__)
        self.__dict__.pop("id", None)  # it is the inner family's
        self._set(inner, every, phases, signal)

    def build(self, **task: Any) -> gym.Env[Any, Any]:
        """The inner family's environment."""
        built: gym.Env[Any, Any] = self.inner.build(**task)
        return built

    def make_env(self, task: Tasks) -> TaskedEnv:
        """One environment that plays a schedule."""
        return (_Flagged if self.signal else TaskedEnv)(self, task_dict(task))

    def visible(self) -> GymFamily:
        """The same schedule of environments that can be seen."""
        seen = SwitchingGym(self.inner.visible(), self.every, self.phases, self.signal)
        seen.id = self.id
        return seen

    def task_at(self, task: dict[str, Any], episode: int) -> dict[str, Any]:
        """The task of the schedule that an episode (from 0) plays."""
        now = {k: v[self.phase(episode)] for k, v in task.items()}
        return {k: v.item() if isinstance(v, np.generic) else v for k, v in now.items()}


class _Flagged(TaskedEnv):
    """Appends the signal to the observation."""

    family: Any

    def __init__(self, family: SwitchingGym, task: dict[str, Any]) -> None:
        super().__init__(family, task)
        self.observation_space = family.observation_space

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        obs, info = super().reset(**kwargs)
        return self._told(obs), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step."""
        obs, *rest = super().step(action)
        return (self._told(obs), *rest)

    def _told(self, obs: Any) -> Any:
        episode = self.episodes - 1
        new = episode > 0 and episode % self.family.every == 0
        return np.append(obs, np.asarray(float(new), dtype=obs.dtype)).astype(obs.dtype)


def _repeated(space: TaskSpace, count: int) -> dict[str, Any]:
    for name, dist in space.items():
        if isinstance(dist, Repeated):
            raise InvalidValueError(f"task_space.{name}", dist, "a distribution that is not repeated already")
    return {name: Repeated(dist, count) for name, dist in space.items()}  # type: ignore[arg-type]


def _with_flag(space: Any) -> spaces.Box:
    low, high = np.append(space.low, 0), np.append(space.high, 1)
    return spaces.Box(low.astype(space.dtype), high.astype(space.dtype), dtype=space.dtype)
