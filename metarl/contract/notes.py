"""Notes about a family that are no violations of its contract, but are useful before a long training.

`check_family` warns of observations that show the task. `metarl train` first checks whether the parameters of a user's
Gymnasium family have an effect.
"""

from __future__ import annotations

import copy
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from torch import Tensor

from metarl.contract.family_probe import Subject
from metarl.errors import FamilyWarning, InvalidValueError, verbatim
from metarl.families.family import Family
from metarl.families.gym_family import GymFamily
from metarl.families.legacy import GYMNASIUM
from metarl.families.registry import base_id
from metarl.families.returned import class_name, user_env
from metarl.families.tasks import Tasks
from metarl.global_rng import random_states, seeded

STEPS = 12  # steps of two episodes of each task, in the search for visible tasks
LINEAR, FEWEST = 0.9999, 6  # least correlation of an observation with a parameter that it shows; least number of tasks
MOST_EPISODES, MOST_STEPS, MOST_SECONDS = 4, 200, 5.0  # per parameter, per episode, for all parameters together
REASONS = {
    "options": "reset may read it from the options and draw it again",
    "attrs": "reset may draw it again, or the attribute may be read only when the environment is built, see {kwargs}",
    "set_task": "set_task may not use it, or reset may draw it again",
    "kwargs": "the constructor may not use it, or reset may draw it again",
    "seed": "reset may not use its seed",
}


def visible_tasks(subject: Subject) -> Iterator[str]:
    """Yield a sentence that names the elements of the observation that show the task.

    An element shows the task in two cases. It is constant in all steps and episodes of a task, and differs between
    tasks. Or it is a linear function of a parameter at the start of an episode, for all seeds.
    """
    tasks = subject.tasks()
    obs = torch.stack([_episode(subject, tasks, number) for number in range(2)])  # [2, T, N, D]
    constant = (obs == obs[:1, :1]).all(0).all(0).all(0) & (obs[0, 0] != obs[0, 0, :1]).any(0)
    linear = {name: _linear(obs[:, 0], tasks.values[name]) for name in subject.family.task_space}
    shown = np.flatnonzero(np.any([constant.numpy(), *linear.values()], axis=0)).tolist()
    if shown:
        parameters = [name for name, elements in linear.items() if elements[shown].any()]
        yield _sentence(subject, shown, parameters, _keys(subject, obs.shape[-1]))


def _episode(subject: Subject, tasks: Tasks, number: int) -> Tensor:
    """Observations `[T, N, D]` of the first steps of an episode of every task, under random actions."""
    keys = subject.keys(number=1000 + number)
    actions = subject.actions(keys, min(subject.steps - 1, STEPS), held=False)
    obs = subject.play(tasks, keys, actions).observation[:-1].double()
    return obs.reshape(len(actions), len(tasks), -1)


def _linear(first: Tensor, values: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Mask `[D]` of elements of first observations `[2, N, D]` that are linear in a parameter `[N, ...]`."""
    if len(values) < FEWEST:
        return np.zeros(first.shape[-1], dtype=bool)
    x = first.reshape(-1, first.shape[-1]).numpy()
    y = np.tile(values.reshape(len(values), -1).astype(np.float64), (2, 1))
    x, y = x - x.mean(0), y - y.mean(0)
    size = np.sqrt((x**2).sum(0))[:, None] * np.sqrt((y**2).sum(0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((np.abs(x.T @ y) / size > LINEAR).any(1))


def _keys(subject: Subject, size: int) -> list[str]:
    """Key of a Dict observation for each element of the flat observation; empty for other observations."""
    if not isinstance(subject.family, GymFamily):
        return []
    with closing(subject.family.make_env(subject.tasks(1))) as env:
        space = user_env(env).observation_space
    if not isinstance(space, spaces.Dict):
        return []
    kept = {key: part for key, part in space.items() if key not in subject.family.drop}
    keys = [key for key, part in kept.items() for _ in range(_size(part))]
    return keys if len(keys) == size else []


def _size(space: spaces.Space[Any]) -> int:
    return spaces.flatdim(space) if space.is_np_flattenable else 0


def _sentence(subject: Subject, shown: list[int], parameters: list[str], keys: list[str]) -> str:
    listed = ", ".join(map(str, shown[:4])) + (", ..." if len(shown) > 4 else "")
    place, fix = f"observation[{listed}]", "leave it out of the observation"
    if keys:
        dropped = tuple(dict.fromkeys(keys[i] for i in shown))
        place, fix = f"observation key {', '.join(map(repr, dropped))}", f"drop={dropped!r} leaves it out"
    how = ", ".join(parameters) or "constant in a task, different between tasks"
    what = f"the task or a part of it ({how})"
    return f"note: {subject.name}: {place} shows {what}; if agents shall infer it, {fix}."


def warn_unused_parameters(family: Family) -> list[str]:
    """Warn of parameters of a user's Gymnasium family that change nothing, and of draws without a seed.

    It is called before training.

    Two tasks that differ in one parameter are played side by side, with equal seeds and actions, until something
    differs. Exceptions of an environment are ignored here: training raises them with more detail.

    Returns:
        One sentence for each parameter that changed nothing, and one about global random generators. Such a parameter
        may still matter in states that random actions do not reach, for example a goal.

    Warns:
        FamilyWarning: each of these sentences.

    Raises:
        InvalidValueError: an environment neither reads a parameter from the options of reset nor keeps the options.
    """
    if not isinstance(family, GymFamily) or family.switches or type(family).__module__.startswith("metarl.envs"):
        return []
    notes: list[str] = []
    deadline = time.monotonic() + MOST_SECONDS
    for name in family.task_space:
        try:
            with seeded(0):
                before = random_states()
                pair = _TaskPair(family, name, deadline)
                drawn = [library for library, state in random_states().items() if state != before[library]]
        except Exception:
            return notes
        if drawn and not any(note.startswith("the environment draws") for note in notes):
            what = f"the environment draws from the global random generator of {' and '.join(drawn)}"
            notes.append(f"{what}; training continues, but two trainings with the same seed may differ")
            warnings.warn(notes[-1], FamilyWarning, stacklevel=2)
        if pair.ignored:
            ways = _option(family, "attrs", "kwargs")
            expected = f"a parameter that {pair.owner}.reset reads from its options; other ways: {ways}"
            raise InvalidValueError(f"task parameter {name!r}", verbatim("ignored"), expected)
        if not pair.differs:
            why = REASONS.get(str(family.apply), "`apply` may not set it, or reset may draw it again")
            why = why.format(kwargs=_option(family, "kwargs"))
            what = f"task parameter {name!r} changed no observation, reward or ending in {pair.steps} steps ({why})"
            notes.append(f"{what}; training continues, but is useless unless the parameter matters later")
            warnings.warn(notes[-1], FamilyWarning, stacklevel=2)
    return notes


def _option(family: GymFamily, *modes: str) -> str:
    """How the user sets `apply` to one of the modes: for `metarl train --env`, or where the family is registered."""
    if base_id(family.id) == GYMNASIUM:
        return f"--apply {' or '.join(modes)}"
    return f"apply={' or '.join(map(repr, modes))} where the family is registered"


class _TaskPair:
    """Two tasks that differ in one parameter, played side by side.

    Attributes:
        differs: whether an observation, a reward or an ending differed.
        ignored: whether the options of reset held the parameter, and reset neither read nor kept them.
        steps: number of steps that were compared.
        owner: name of the environment's class.
    """

    def __init__(self, family: GymFamily, name: str, deadline: float) -> None:
        self.differs, self.ignored, self.steps, self.deadline = False, False, 0, deadline
        low, high = _extremes(family, name)
        if low.hash == high.hash:  # a choice of one value
            self.differs = True
            return
        with closing(family.make_env(low)) as a, closing(family.make_env(high)) as b:
            self.owner = class_name(user_env(a))
            watched = _WatchedReset(user_env(a)) if family.apply == "options" else None
            for number in range(MOST_EPISODES):
                self.episode(a, b, number, min(family.horizon, MOST_STEPS))
                self.ignored = not self.differs and watched is not None and watched.ignores(name)
                if self.differs or self.ignored or self.late:
                    break

    @property
    def late(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() > self.deadline

    def episode(self, a: gym.Env[Any, Any], b: gym.Env[Any, Any], number: int, steps: int) -> None:
        """Compare one episode. Episodes with an odd number repeat one action."""
        actions = copy.deepcopy(a.action_space)
        actions.seed(number)
        action, ended = actions.sample(), False
        self.differs = _differ(a.reset(seed=number)[:1], b.reset(seed=number)[:1])
        while not (self.differs or ended or steps == 0):
            one, other = a.step(action)[:4], b.step(action)[:4]
            self.differs, ended = _differ(one, other), one[2] or one[3] or self.late
            self.steps, steps = self.steps + 1, steps - 1
            action = action if number % 2 else actions.sample()


class _WatchedReset:
    """Watches the options of an environment's `reset`: the keys that it reads, and whether it keeps them."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self.keys_read: set[object] = set()
        self.options: list[weakref.ref[_Options]] = []
        reset = env.reset

        def watched(*, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            watched_options = _Options(options or {})
            watched_options.keys_read = self.keys_read
            self.options.append(weakref.ref(watched_options))
            return reset(seed=seed, options=watched_options)

        env.reset = watched  # type: ignore[method-assign]

    def ignores(self, name: str) -> bool:
        """Whether a key was not read, and cannot be read later because the options are gone."""
        return not self.keys_read & {name, ...} and not any(reference() for reference in self.options)


class _Options(dict[str, Any]):
    """Options that note the keys that are read; `...` stands for all keys."""

    keys_read: set[object]


def _noting(method: str) -> Callable[..., Any]:
    def noted(self: _Options, *arguments: Any) -> Any:
        self.keys_read.add(arguments[0] if arguments else ...)
        return getattr(dict, method)(self, *arguments)

    return noted


for _method in ("__getitem__", "__contains__", "get", "pop", "__iter__", "keys", "values", "items", "copy", "__repr__"):
    setattr(_Options, _method, _noting(_method))


def _extremes(family: GymFamily, name: str) -> tuple[Tasks, Tasks]:
    """Two train tasks that differ in one parameter: its smallest and largest value in 64 tasks."""
    tasks = family.tasks("train", 64)
    leaf = tasks.values[name]
    size = leaf.reshape(len(leaf), -1).sum(1)
    low, high = tasks[int(size.argmin())], leaf[[int(size.argmax())]]
    return low, replace(low, values={**low.values, name: np.array(high)})


def _differ(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    pairs = [(np.asarray(x), np.asarray(y)) for x, y in zip(one, other, strict=True)]
    return not all(np.array_equal(x, y, equal_nan=x.dtype.kind == "f") for x, y in pairs)
