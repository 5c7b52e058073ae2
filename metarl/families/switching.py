"""Non-stationary trials: the task of any family switches between episodes.

Any family can be wrapped: `metarl/Switching-v0{"family": ID, "every": 2, "phases": 3, "signal": true}`, or
`switching(family, ...)`. A task of the wrapped family is a schedule: a sequence of the inner family's tasks. A train
schedule consists of train tasks, and a test schedule of test tasks.

Observation: the inner family's; `signal` appends one number, which is 1 throughout the first episode in a new task.
Action: the inner family's. Reward: the inner family's. End: the inner family's. Task: `phases` tasks of the inner
family. Version history: v0, first.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from torch import Tensor

from metarl.errors import InvalidValueError
from metarl.families.building import GymEnv, ResetResult, StepResult
from metarl.families.distributions import Array, Distribution, Repeated, TaskSpace
from metarl.families.family import Family, State, TorchFamily
from metarl.families.gym_family import GymFamily, TaskedEnv, TaskValues, task_dict
from metarl.families.registry import make_family
from metarl.families.task_spaces import MOST_LISTED
from metarl.families.tasks import Tasks, shuffled
from metarl.rng import Rng, fold_in, make_key

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EpisodeT = TypeVar("EpisodeT", int, Tensor)


def switching(family: str | Family, every: int = 1, phases: int = 3, signal: bool = False) -> Family:
    """A family whose task changes after a fixed number of episodes of a trial.

    The schedule has `phases` tasks of the family, each for `every` episodes; after the last task it starts again.
    Agents that adapt between episodes cannot play such a family: they collect episodes in parallel, so there is no
    order in which to switch.

    Args:
        family: the inner family, a `TorchFamily` or a `GymFamily`.
        every: episodes in one task.
        phases: number of tasks in a schedule, at least 2.
        signal: whether to append a number to the observation: 1 throughout the first episode in a new task, else 0. The
            first episode of a trial has 0.

    Raises:
        InvalidValueError: a number is too small, the family switches already, or `signal` is True and the observation
            is not a Box with one axis.
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
    """Common part of both forms: a task is a schedule of the inner family's tasks."""

    switches = True
    source = "its family's; a schedule of tasks as in Garivier and Moulines 2008, arXiv:0805.3415"

    inner: Family

    def _set_fields(self, inner: Family, every: int, phases: int, signal: bool) -> None:
        self.inner, self.every, self.phases, self.signal = inner, every, phases, signal
        self.horizon, self.action_space, self.terminates = inner.horizon, inner.action_space, inner.terminates
        self.observation_space = _signal_space(inner.observation_space) if signal else inner.observation_space
        self.task_space = _repeated_space(inner.task_space, phases)
        self.ood = {name: _repeated_space(space, phases) for name, space in inner.ood.items()}

    @property
    def finite(self) -> bool:
        """Whether the inner family is finite."""
        return self.inner.finite

    def tasks_at(self, split: str, index: npt.NDArray[np.int64], seed: int = 0) -> Tasks:
        """Schedules at the given addresses, `int64 [N]`, made of the inner family's tasks of that split."""
        index = np.array(index, dtype=np.int64)
        inner_tasks = self.inner.listed(split)
        if inner_tasks is None:
            flat = self.inner.tasks_at(split, (index[:, None] * self.phases + np.arange(self.phases)).reshape(-1), seed)
            return self._schedules(flat, split, seed, index)
        if (schedules := self.listed(split)) is not None:
            ordered = schedules[shuffled(self.id, split, seed, index, len(schedules))]
            return replace(ordered, seed=int(seed), index=index)
        keys = fold_in(make_key("task", self.id, split, seed), torch.from_numpy(index))
        rows = Rng(keys).integers(len(inner_tasks), self.phases).numpy()
        return self._schedules(inner_tasks[rows.reshape(-1)], split, seed, index)

    def listed(self, split: str) -> Tasks | None:
        """Every schedule of a split once, or None if there are too many."""
        inner_tasks = self.inner.listed(split)
        if inner_tasks is None or len(inner_tasks) ** self.phases > MOST_LISTED:
            return None
        number = np.arange(len(inner_tasks) ** self.phases)
        rows = number[:, None] // len(inner_tasks) ** np.arange(self.phases) % len(inner_tasks)
        return self._schedules(inner_tasks[rows.reshape(-1)], split, 0, number)

    def _schedules(self, flat: Tasks, split: str, seed: int, index: npt.NDArray[np.int64]) -> Tasks:
        """Schedules from the flat list of their tasks: each `phases` consecutive tasks are one schedule."""
        values = {k: np.array(v.reshape(len(index), self.phases, *v.shape[1:])) for k, v in flat.values.items()}
        return Tasks(self.id, split, int(seed), index, values, {**self.task_space, **self.ood.get(split, {})})

    def held_out(self, tasks: Tasks) -> npt.NDArray[np.bool_]:
        """Which schedules contain no task that training can draw, `bool [N]`."""
        rows = {k: np.array(v.reshape(-1, *v.shape[2:])) for k, v in tasks.values.items()}
        space = {k: d.distribution for k, d in tasks.space.items() if isinstance(d, Repeated)}
        number = np.arange(len(tasks) * self.phases)
        flat = Tasks(self.inner.id, tasks.split, tasks.seed, number, rows, dict(space))
        return np.asarray(self.inner.held_out(flat).reshape(-1, self.phases).all(1))

    def phase(self, episode: EpisodeT) -> EpisodeT:
        """The position in the schedule of the task that an episode (from 0) plays."""
        return (episode // self.every) % self.phases


class SwitchingTorch(_Schedule, TorchFamily):
    """A torch family whose task switches between episodes."""

    inner: TorchFamily

    def __init__(self, inner: TorchFamily, every: int, phases: int, signal: bool) -> None:
        self._set_fields(inner, every, phases, signal)
        self.capturable, self.on_host = inner.capturable, inner.on_host

    def current_task(self, episode: Tensor, task: dict[str, Tensor]) -> dict[str, Tensor]:
        """The task that an episode plays: schedules `[N, phases, ...]` to tasks `[N, ...]`."""
        row, phase = torch.arange(len(episode), device=episode.device), self.phase(episode)
        return {k: v[row, phase] for k, v in task.items()}

    def reset(self, task: dict[str, Tensor], rng: Rng) -> State:
        """Start the first episode of a trial."""
        return self.begin_at(task, rng, 0)

    def begin_at(self, task: dict[str, Tensor], rng: Rng, episode: int) -> State:
        """Start episode number `episode` (from 0) of a trial."""
        leaf = next(iter(task.values()))
        number = torch.full((len(leaf),), episode, dtype=torch.int64, device=leaf.device)
        return {"inner": self.inner.reset(self.current_task(number, task), rng), "episode": number}

    def next_episode(self, state: State, task: dict[str, Tensor], rng: Rng) -> State:
        """Start the next episode of a trial, in the task that the schedule has for it."""
        episode = state["episode"] + 1
        return {
            "inner": self.inner.next_episode(state["inner"], self.current_task(episode, task), rng),
            "episode": episode,
        }

    def observe(self, state: State, task: dict[str, Tensor]) -> Tensor:
        """The inner family's observation; `signal` appends whether this is the first episode in a new task."""
        obs = self.inner.observe(state["inner"], self.current_task(state["episode"], task))
        if not self.signal:
            return obs
        new = (state["episode"] > 0) & (state["episode"] % self.every == 0)
        return torch.cat([obs, new.to(obs.dtype).unsqueeze(1)], 1)

    def step(
        self, state: State, action: Tensor, task: dict[str, Tensor], rng: Rng
    ) -> tuple[State, Tensor, Tensor] | tuple[State, Tensor, Tensor, dict[str, Tensor]]:
        """Take one step of the inner family in the current task."""
        inner, *rest = self.inner.step(state["inner"], action, self.current_task(state["episode"], task), rng)
        return ({"inner": inner, "episode": state["episode"]}, *rest)

    def optimal_action(self, state: State, task: dict[str, Tensor], t: Tensor) -> Tensor:
        """The inner family's optimal action in the current task."""
        return self.inner.optimal_action(state["inner"], self.current_task(state["episode"], task), t)

    @property
    def has_optimal_action(self) -> bool:
        """Whether the inner family has `optimal_action`."""
        return self.inner.has_optimal_action

    def draw(self, axes: Axes, state: State, task: dict[str, Array]) -> None:
        """Draw the inner family's environment in the current task."""
        self.inner.draw(axes, state["inner"], {k: v[self.phase(int(state["episode"]))] for k, v in task.items()})

    def frame(
        self, state: State, task: dict[str, Array], size: tuple[int, int] = (256, 256)
    ) -> npt.NDArray[np.uint8] | None:
        """The inner family's picture in the current task."""
        current = {k: v[self.phase(int(state["episode"]))] for k, v in task.items()}
        return self.inner.frame(state["inner"], current, size)


class SwitchingGym(_Schedule, GymFamily):
    """A family of Gymnasium environments whose task switches between episodes."""

    inner: GymFamily

    def __init__(self, inner: GymFamily, every: int, phases: int, signal: bool) -> None:
        self.__dict__.update(inner.__dict__)
        self.__dict__.pop("id", None)  # the id belongs to the inner family
        self._set_fields(inner, every, phases, signal)

    def build(self, **task: Any) -> GymEnv:
        """The inner family's environment."""
        return self.inner.build(**task)

    def make_env(self, task: Tasks) -> TaskedEnv:
        """One environment that plays a schedule."""
        return (_SignalEnv if self.signal else TaskedEnv)(self, task_dict(task))

    def visible(self) -> GymFamily:
        """The same family with environments that are built with `render_mode="rgb_array"`."""
        family = SwitchingGym(self.inner.visible(), self.every, self.phases, self.signal)
        family.id = self.id
        return family

    def task_at(self, task: TaskValues, episode: int) -> TaskValues:
        """The task of the schedule that an episode (from 0) plays."""
        current = {k: v[self.phase(episode)] for k, v in task.items()}
        return {k: v.item() if isinstance(v, np.generic) else v for k, v in current.items()}


class _SignalEnv(TaskedEnv):
    """An environment that appends the signal to the observation."""

    family: SwitchingGym

    def __init__(self, family: SwitchingGym, task: TaskValues) -> None:
        super().__init__(family, task)
        self.observation_space = family.observation_space

    def reset(self, **kwargs: Any) -> ResetResult:
        """Start an episode."""
        obs, info = super().reset(**kwargs)
        return self._with_signal(obs), info

    def step(self, action: Any) -> StepResult:
        """One step."""
        obs, *rest = super().step(action)
        return (self._with_signal(obs), *rest)

    def _with_signal(self, obs: Any) -> Any:
        episode = self.episodes - 1
        new = episode > 0 and episode % self.family.every == 0
        return np.append(obs, np.asarray(float(new), dtype=obs.dtype)).astype(obs.dtype)


def _repeated_space(space: TaskSpace, count: int) -> dict[str, Distribution]:
    for name, dist in space.items():
        if isinstance(dist, Repeated):
            raise InvalidValueError(f"task_space.{name}", dist, "a distribution that is not repeated already")
    return {name: Repeated(dist, count) for name, dist in space.items()}  # type: ignore[arg-type]


def _signal_space(space: spaces.Space[Any]) -> spaces.Box:
    assert isinstance(space, spaces.Box)
    low, high = np.append(space.low, 0), np.append(space.high, 1)
    return spaces.Box(low.astype(space.dtype), high.astype(space.dtype), dtype=space.dtype)
