"""What is no violation of a family's contract, and worth knowing before hours of training.

`check_family` warns of tasks that the observation shows. `metarl train` first looks whether the parameters of an
any-Gymnasium family change anything at all.
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
from metarl.families.returned import class_name, user_env
from metarl.families.tasks import Tasks
from metarl.global_rng import seeded

STEPS = 12  # of two episodes of each task, that are looked at for a visible task
LINEAR, FEWEST = 0.9999, 6  # correlation with a parameter from which an observation shows it, in so many tasks
LOOKED_EPISODES, LOOKED_STEPS, LOOKED_SECONDS = 4, 200, 5.0  # at most, for all parameters together
REASONS = {
    "options": "reset may read it from the options and draw it anew",
    "attrs": "the attribute may be read only when the environment is built or reset, see --apply kwargs",
    "set_task": "set_task may not use it, or reset may draw it anew",
    "kwargs": "the constructor may not use it, or reset may draw it anew",
    "seed": "reset may not use its seed",
}


def visible_tasks(subject: Subject) -> Iterator[str]:
    """Say which parts of the observation show the task.

    An element does if it stays the same in all steps and episodes of a task and is another one in other tasks, or if it
    is a linear function of a parameter when an episode starts, whatever its seed.
    """
    tasks = subject.tasks()
    obs = torch.stack([_episode(subject, tasks, number) for number in range(2)])  # [2, T, N, D]
    still = (obs == obs[:1, :1]).all(0).all(0).all(0) & (obs[0, 0] != obs[0, 0, :1]).any(0)
    linear = {name: _linear(obs[:, 0], tasks.values[name]) for name in subject.family.task_space}
    shown = np.flatnonzero(np.any([still.numpy(), *linear.values()], axis=0)).tolist()
    if shown:
        parameters = [name for name, seen in linear.items() if seen[shown].any()]
        yield _sentence(subject, shown, parameters, _keys(subject, obs.shape[-1]))


def _episode(subject: Subject, tasks: Tasks, number: int) -> Tensor:
    """Observations of the start of an episode of every task under random actions, `[T, N, D]`."""
    keys = subject.keys(number=1000 + number)
    actions = subject.actions(keys, min(subject.steps - 1, STEPS), held=False)
    seen = subject.play(tasks, keys, actions).observation[:-1].double()
    return seen.reshape(len(actions), len(tasks), -1)


def _linear(first: Tensor, values: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Which elements of first observations `[2, N, D]` are linear functions of a parameter's elements `[N, ...]`."""
    if len(values) < FEWEST:
        return np.zeros(first.shape[-1], dtype=bool)
    x = first.reshape(-1, first.shape[-1]).numpy()
    y = np.tile(values.reshape(len(values), -1).astype(np.float64), (2, 1))
    x, y = x - x.mean(0), y - y.mean(0)
    size = np.sqrt((x**2).sum(0))[:, None] * np.sqrt((y**2).sum(0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((np.abs(x.T @ y) / size > LINEAR).any(1))


def _keys(subject: Subject, size: int) -> list[str]:
    """The key of a Dict observation that each element of the flat one comes from; nothing for other observations."""
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
    where, fix = f"observation[{listed}]", "leave it out of the observation"
    if keys:
        dropped = tuple(dict.fromkeys(keys[i] for i in shown))
        where, fix = f"observation key {', '.join(map(repr, dropped))}", f"drop={dropped!r} leaves it out"
    how = ", ".join(parameters) or "the same in all its episodes, another in other tasks"
    what = f"the task or a part of it ({how})"
    return f"note: {subject.name}: {where} shows {what}; if agents are to infer it, {fix}."


def look_first(family: Family) -> list[str]:
    """Look whether the parameters of a user's any-Gymnasium family change anything, before it is trained on.

    Two tasks that differ in one parameter alone are played beside one another, with equal seeds and actions, until
    something differs. Nothing that an environment raises comes out: training will meet it and tell more.

    Returns:
        a sentence for each parameter that changed nothing, warned of as well: it may do so where actions at random do
        not get, as a goal does.

    Raises:
        InvalidValueError: an environment never looks a parameter up in the options of reset, and does not keep them.
    """
    if not isinstance(family, GymFamily) or family.switches or type(family).__module__.startswith("metarl.envs"):
        return []
    notes: list[str] = []
    deadline = time.monotonic() + LOOKED_SECONDS
    for name in family.task_space:
        try:
            with seeded(0):
                look = _Look(family, name, deadline)
        except Exception:
            return notes
        if look.ignored:
            expected = f"one that {look.owner}.reset reads from its options; other ways: --apply attrs or kwargs"
            raise InvalidValueError(f"task parameter {name!r}", verbatim("ignored"), expected)
        if not look.found:
            why = REASONS.get(str(family.apply), "`apply` may not set it, or reset may draw it anew")
            what = f"task parameter {name!r} changed no observation, reward or ending in {look.steps} steps ({why})"
            notes.append(f"{what}; training goes on, and is in vain unless it matters later")
            warnings.warn(notes[-1], FamilyWarning, stacklevel=2)
    return notes


class _Look:
    """Two tasks that differ in one parameter, played side by side.

    Attributes:
        found: whether an observation, a reward or an ending differed.
        ignored: whether the parameter was told in the options of reset, which were neither read nor kept.
        steps: that were compared.
        owner: the environment's class.
    """

    def __init__(self, family: GymFamily, name: str, deadline: float) -> None:
        self.found, self.ignored, self.steps, self.deadline = False, False, 0, deadline
        low, high = _extremes(family, name)
        if low.hash == high.hash:  # a choice of one value
            self.found = True
            return
        with closing(family.make_env(low)) as a, closing(family.make_env(high)) as b:
            self.owner = class_name(user_env(a))
            told = _Told(user_env(a)) if family.apply == "options" else None
            for number in range(LOOKED_EPISODES):
                self.episode(a, b, number, min(family.horizon, LOOKED_STEPS))
                self.ignored = not self.found and told is not None and told.ignored(name)
                if self.found or self.ignored or self.late:
                    break

    @property
    def late(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() > self.deadline

    def episode(self, a: gym.Env[Any, Any], b: gym.Env[Any, Any], number: int, steps: int) -> None:
        """Compare one episode; in every second one a single action is repeated."""
        actions = copy.deepcopy(a.action_space)
        actions.seed(number)
        action, ended = actions.sample(), False
        self.found = _differ(a.reset(seed=number)[:1], b.reset(seed=number)[:1])
        while not (self.found or ended or steps == 0):
            one, other = a.step(action)[:4], b.step(action)[:4]
            self.found, ended = _differ(one, other), one[2] or one[3] or self.late
            self.steps, steps = self.steps + 1, steps - 1
            action = action if number % 2 else actions.sample()


class _Told:
    """The options that an environment's `reset` is told: which keys it reads, and whether it keeps them."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self.read: set[Any] = set()
        self.options: list[weakref.ref[_Options]] = []
        reset = env.reset

        def told(*, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            given = _Options(options or {})
            given.read = self.read
            self.options.append(weakref.ref(given))
            return reset(seed=seed, options=given)

        env.reset = told  # type: ignore[method-assign]

    def ignored(self, name: str) -> bool:
        """Whether a key was not read, and cannot be read later."""
        return not self.read & {name, ...} and not any(reference() for reference in self.options)


class _Options(dict[str, Any]):
    """Options that note which keys are read; `...` stands for all of them."""

    read: set[Any]


def _noting(method: str) -> Callable[..., Any]:
    def noted(self: _Options, *arguments: Any) -> Any:
        self.read.add(arguments[0] if arguments else ...)
        return getattr(dict, method)(self, *arguments)

    return noted


for _method in ("__getitem__", "__contains__", "get", "pop", "__iter__", "keys", "values", "items", "copy", "__repr__"):
    setattr(_Options, _method, _noting(_method))


def _extremes(family: GymFamily, name: str) -> tuple[Tasks, Tasks]:
    """Two train tasks that differ in one parameter alone, its smallest and largest value of 64."""
    tasks = family.tasks("train", 64)
    leaf = tasks.values[name]
    size = leaf.reshape(len(leaf), -1).sum(1)
    low, high = tasks[int(size.argmin())], leaf[[int(size.argmax())]]
    return low, replace(low, values={**low.values, name: np.array(high)})


def _differ(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    pairs = [(np.asarray(x), np.asarray(y)) for x, y in zip(one, other, strict=True)]
    return not all(np.array_equal(x, y, equal_nan=x.dtype.kind == "f") for x, y in pairs)
