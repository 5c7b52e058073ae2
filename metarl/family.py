"""Task families: a distribution over MDPs that share their spaces. Two forms, one result.

`TorchFamily` is the batched form: pure functions over tensors, run on CPU or GPU. `GymFamily` takes any Gymnasium
environment, unmodified, with a task space and how a task is applied. Both name a family's splits, references and
horizon in the same way, and neither ever redraws a task in `reset`.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import packages_distributions
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from torch import Tensor

from metarl.drawing import canvas
from metarl.errors import InvalidValueError, MetaRLError, did_you_mean
from metarl.named import check_environment
from metarl.opengl import drawing
from metarl.returned import check_observation, checked, class_name, fits
from metarl.rng import Rng
from metarl.tasks import (
    Choice,
    Distribution,
    Integers,
    Tasks,
    TaskSpace,
    is_finite,
    list_tasks,
    make_tasks,
    on_side,
    plain_value,
    sample_tasks,
    shuffled,
)

State = Any  # a tensor, or a dict or tuple of tensors, each with leading axis N
_SIDES = {"train": 0, "test": 1}


class Family:
    """What every family has, whatever its form.

    Attributes:
        id: full id, `namespace/Name-vN`, with `:preset` where one was chosen and further keywords as JSON.
        observation_space: of one environment, the same for every task.
        action_space: of one environment, the same for every task.
        horizon: steps after which an episode is truncated.
        task_space: parameter name to distribution.
        ood: name of an out-of-distribution split to the parameters that differ there and their distributions.
        terminates: whether `terminated` can ever be true; False lets the engine skip looking.
        switches: whether the task changes within a trial (`metarl.switching`).
        presets: preset name to constructor keywords, for the papers that differ.
        source: the paper that defines the family.
    """

    id: str = "custom/Unregistered-v0"
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    horizon: int
    task_space: TaskSpace
    ood: Mapping[str, TaskSpace] = {}
    terminates: bool = True
    switches: bool = False
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    source: str = ""

    @property
    def finite(self) -> bool:
        """Whether the family has so few tasks that its train and test tasks are the same ones."""
        return is_finite(self.task_space)

    @property
    def splits(self) -> tuple[str, ...]:
        """The names that `tasks` accepts."""
        return ("train", "test", *self.ood)

    def tasks(self, split: str, count: int, seed: int = 0, start: int = 0) -> Tasks:
        """Tasks `start, ..., start + count - 1` of (this family, `split`, `seed`)."""
        for name, value, least in (("count of tasks", count, 1), ("number of the first task", start, 0)):
            if not isinstance(value, (int, np.integer)) or not least <= value < 1 << 62:
                raise InvalidValueError(name, value, f"a whole number, at least {least}")
        return self.tasks_at(split, np.arange(start, start + count, dtype=np.int64), seed)

    def tasks_at(self, split: str, index: npt.NDArray[np.int64], seed: int = 0) -> Tasks:
        """Tasks at the given addresses, `int64 [N]`; tasks that can be listed come once each before any comes again."""
        every = self.listed(split)
        if every is None:
            return sample_tasks(self.id, self._space(split), split, seed, index, self._side(split))
        found = every[shuffled(self.id, split, seed, index, len(every))]
        return replace(found, seed=int(seed), index=np.array(index, dtype=np.int64))

    def listed(self, split: str) -> Tasks | None:
        """Every task of a split once; None where they are too many."""
        return list_tasks(self.id, self._space(split), split, self._side(split))

    def _space(self, split: str) -> dict[str, Distribution]:
        if split not in self.splits:
            raise InvalidValueError("split", split, did_you_mean(split, self.splits))
        return dict(self.task_space) | dict(self.ood.get(split, {}))

    def _side(self, split: str) -> int | None:
        """The side of the train-test line that a split's tasks lie on; None where there is no line."""
        return None if self.finite or is_finite(self._space(split)) else _SIDES.get(split, _SIDES["test"])

    def make_tasks(self, **values: Any) -> Tasks:
        """Tasks from values of your own: one task, or arrays with a leading axis N. Checked against the space."""
        return make_tasks(self.id, self.task_space, values)

    def resolve(
        self, task: int | Mapping[str, Any] | Tasks | None, split: str = "train", seed: int = 0, count: int = 1
    ) -> Tasks:
        """Checked tasks from an index into a split, one task's values, `Tasks`, or None for the split's first `count`.

        Raises:
            InvalidValueError: it is none of these, or tasks are another family's.
        """
        if task is None:
            return self.tasks(split, count, seed)
        if isinstance(task, (int, np.integer)) and not isinstance(task, bool):
            return self.tasks(split, 1, seed, start=int(task))
        if isinstance(task, Mapping):
            return self.make_tasks(**task)
        if not isinstance(task, Tasks):
            raise InvalidValueError("task", task, "an index, a dict of parameter values, or metarl.Tasks")
        if task.family != self.id:
            raise InvalidValueError("family of the tasks", task.family, repr(self.id))
        return task

    def held_out(self, tasks: Tasks) -> npt.NDArray[np.bool_]:
        """Which tasks no training draw can produce, `bool [N]`: decided by content, so a custom task has a side too."""
        if self.finite or is_finite(tasks.space):
            return np.full(len(tasks), tasks.split in self.ood)
        return on_side(tasks, _SIDES["test"])

    def references(self, tasks: Tasks) -> dict[str, npt.NDArray[np.float64]]:
        """Exact expected returns of one episode, per task `[N]`, under the names that are known.

        `floor` is the return of uniformly random actions, `informed_optimum` the best return when the task is known.
        """
        return {}

    def bayes_optimal_return(self, episodes: int) -> float | None:
        """The best expected return of a whole trial of `episodes` episodes, task unknown; None where unknown."""
        return None

    def bayes_optimal_episodes(self, episodes: int) -> npt.NDArray[np.float64] | None:
        """Expected return of each of those episodes `[episodes]` under a policy that attains it; None where unknown."""
        return None

    def landmarks(self, tasks: Tasks) -> npt.NDArray[np.float32] | None:
        """A point per task to mark in pictures of 2-D observations, `[N, 2]`, or None."""
        return None


def _batch_of_one(tree: State) -> State:
    """NumPy arrays, or a dict or tuple of them, as tensors with a leading axis of 1."""
    if isinstance(tree, Mapping):
        return {k: _batch_of_one(v) for k, v in tree.items()}
    return tuple(_batch_of_one(v) for v in tree) if isinstance(tree, tuple) else torch.as_tensor(tree)[None]


class TorchFamily(Family):
    """A family as pure functions over one flat batch of N slots.

    Task leaves are `[N, *shape]`, `rng.uniform(2)` is `[N, 2]`, actions are `float32 [N, *shape]` for a Box and
    `int64 [N]` for a Discrete space. Subclasses set the class attributes of `Family` and implement `reset`,
    `observe` and `step`. Functions never branch on a tensor's values and never read one back (`.item()`), so that
    they run on a GPU without waiting for it.

    Attributes:
        recordable: whether CUDA rollouts may be recorded and replayed (`metarl.recording`): `reset`, `observe` and
            `step` make no tensor from Python numbers, index with no mask, and what they keep stays where it is.
        on_host: whether its functions call a library that runs on the CPU, such as MuJoCo: they are then neither traced
            nor recorded, and may read tensors back.
    """

    recordable: bool = True
    on_host: bool = False

    def reset(self, task: dict[str, Tensor], rng: Rng) -> State:
        """Start an episode: the state, tensors `[N, ...]`."""
        raise NotImplementedError(f"{type(self).__name__}.reset")

    def begin_at(self, task: dict[str, Tensor], rng: Rng, episode: int) -> State:
        """Start with episode number `episode` of a trial (from 0); like any other one, unless overridden."""
        return self.reset(task, rng)

    def next_episode(self, state: State, task: dict[str, Tensor], rng: Rng) -> State:
        """Start a trial's next episode after one that ended in `state`; like the first one, unless overridden."""
        return self.reset(task, rng)

    def observe(self, state: State, task: dict[str, Tensor]) -> Tensor:
        """What the agent sees: `[N, *observation_space.shape]`."""
        raise NotImplementedError(f"{type(self).__name__}.observe")

    def step(
        self, state: State, action: Tensor, task: dict[str, Tensor], rng: Rng
    ) -> tuple[State, Tensor, Tensor] | tuple[State, Tensor, Tensor, dict[str, Tensor]]:
        """One step: the new state, `reward` `float32 [N]`, `terminated` `bool [N]`, and optionally info.

        Info may hold `success`, `bool [N]`, and where rewards are drawn at random `expected_reward`, `float32 [N]`: the
        mean of this step's reward given the state, the action and the task. Agents may learn from it and never see it.
        """
        raise NotImplementedError(f"{type(self).__name__}.step")

    def optimal_action(self, state: State, task: dict[str, Tensor], t: Tensor) -> Tensor:
        """The best action when the task is known, at step `t` (`int64 [N]`) of the episode; optional."""
        raise NotImplementedError(f"{type(self).__name__}.optimal_action")

    @property
    def has_optimal_action(self) -> bool:
        """Whether `optimal_action` is implemented."""
        return type(self).optimal_action is not TorchFamily.optimal_action

    def draw(self, axes: Any, state: State, task: dict[str, npt.NDArray[Any]]) -> None:
        """Draw one environment on matplotlib Axes that are empty and have no ticks; optional.

        Args:
            axes: where to.
            state: of one slot, NumPy arrays without the leading axis.
            task: likewise.

        By default an observation of two numbers is a point, beside the task's landmark, and any other one is bars.
        """
        slot = {k: torch.as_tensor(v)[None] for k, v in task.items()}
        obs = self.observe(_batch_of_one(state), slot)[0].numpy().reshape(-1)
        if len(obs) != 2:
            axes.bar(range(len(obs)), obs, color="#0072B2")
            return
        low, high = np.min([obs, np.full(2, -1.5)], axis=0), np.max([obs, np.full(2, 1.5)], axis=0)
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
        axes.plot(*obs, "o", color="#0072B2", markersize=10)

    def frame(
        self, state: State, task: dict[str, npt.NDArray[Any]], size: tuple[int, int] = (256, 256)
    ) -> npt.NDArray[np.uint8]:
        """A picture of one environment, `uint8 [height, width, 3]`; arguments as in `draw`."""
        return canvas(size).frame(lambda axes: self.draw(axes, state, task))


APPLY_MODES = ("options", "set_task", "kwargs", "attrs", "seed")
STEPPING = ("auto", "sync", "async")
_KIND = inspect.Parameter
NUMERIC = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary, spaces.Dict, spaces.Tuple)


class GymFamily(Family):
    """Any Gymnasium environment with a task space.

    Observations that are not one Box or Discrete space (Dict, Tuple, MultiDiscrete, MultiBinary) are flattened into a
    Box, without the texts of a Dict and the keys to drop, and pixels, numbers from 0 to 255, are divided by 255.

    Args:
        env: a registered Gymnasium id, or a callable that builds the environment.
        task_space: parameter name to distribution.
        apply: how a task reaches the environment before each episode. "options": `reset(options=task)`; "set_task":
            `env.set_task(task)`; "kwargs": the environment is built anew with the task as keywords whenever the task
            changes; "attrs": attributes of the unwrapped environment, and those that Gymnasium's own environments
            derive from them (`metarl.family.DERIVED`); "seed": the only parameter, whole numbers, seeds every reset, so
            that a task is one layout; or a callable `(env, task)`.
        horizon: steps per episode; by default the environment's own time limit.
        ood: named out-of-distribution splits.
        env_kwargs: keywords for building the environment.
        stepping: "sync" steps all environments in this process, "async" shares them among processes, one for each core;
            "auto" measures a step and takes what should be faster. They play the same.
        drop: keys of a Dict observation that the agent does not see, such as a goal that is the task.
    """

    def __init__(
        self,
        env: str | Callable[..., gym.Env[Any, Any]],
        task_space: TaskSpace,
        apply: str | Callable[[gym.Env[Any, Any], dict[str, Any]], None] = "options",
        horizon: int | None = None,
        ood: Mapping[str, TaskSpace] | None = None,
        env_kwargs: Mapping[str, Any] | None = None,
        stepping: str = "auto",
        drop: Sequence[str] = (),
    ) -> None:
        if not callable(apply) and apply not in APPLY_MODES:
            raise InvalidValueError("apply", apply, f"{did_you_mean(str(apply), APPLY_MODES)}, or callable")
        check_task_space("task_space", task_space)
        for name, space in (ood or {}).items():
            check_task_space(f"ood[{name!r}]", space)
        if isinstance(drop, str) or not all(isinstance(key, str) for key in drop):
            raise InvalidValueError("drop", drop, "a tuple of keys, for example ('desired_goal',)")
        if stepping not in STEPPING:
            raise InvalidValueError("stepping", stepping, did_you_mean(str(stepping), STEPPING))
        if apply == "seed" and len(task_space) != 1:
            expected = "one parameter, the seed, because apply is 'seed'"
            raise InvalidValueError("task_space", sorted(task_space), expected)
        check_environment(env, env_kwargs or {})
        self.env, self.apply, self.env_kwargs, self.stepping = env, apply, dict(env_kwargs or {}), stepping
        self.drop = tuple(drop)
        self.task_space, self.ood = dict(task_space), dict(ood or {})
        if apply == "seed":
            for dist in (d for space in (self.task_space, *self.ood.values()) for d in space.values()):
                whole = isinstance(dist, Choice) and (dist.table == np.round(dist.table)).all()
                if dist.shape != () or not (isinstance(dist, Integers) or whole):
                    raise InvalidValueError("task_space", dist, "Integers(low, high): a seed is a whole number")
        if horizon is not None and not (isinstance(horizon, int) and horizon > 0):
            raise InvalidValueError("horizon", horizon, "a whole number of steps, at least 1")
        self.horizon = 0 if horizon is None else horizon
        probe = self.make_env(self.tasks("train", 1))
        try:
            if apply == "set_task" and not probe.has_wrapper_attr("set_task"):
                expected = f"another one: {type(probe.unwrapped).__name__} has no method set_task"
                raise InvalidValueError("apply", apply, expected)
            self.horizon = horizon or time_limit(probe) or 0
            self.observation_space, self.action_space = probe.observation_space, probe.action_space
            for name in self.task_space if apply == "attrs" else ():
                if not hasattr(probe.unwrapped, name):
                    known = _number_attributes(probe.unwrapped)
                    choices = did_you_mean(name, known) if known else "it has none that are numbers"
                    owner = type(probe.unwrapped).__name__
                    raise InvalidValueError("task_space", name, f"an attribute of {owner}: {choices}")
                _check_replaceable(probe.unwrapped, name)
        finally:
            probe.close()
        if self.horizon < 1:
            expected = f"a number of steps, because {env!r} has no time limit of its own: horizon=200, or --horizon 200"
            raise InvalidValueError("horizon", horizon, expected)

    def build(self, **task: Any) -> gym.Env[Any, Any]:
        """The user's environment, with the task as keywords where that is how it is applied."""
        keywords = {**self.env_kwargs, **task}
        if callable(self.env):
            check_keywords(getattr(self.env, "__name__", repr(self.env)), self.env, keywords)
            env = self.env(**keywords)
            env = gym.wrappers.TimeLimit(env, self.horizon) if self.horizon else env
        else:
            env = _registered(self.env, self.horizon, keywords)
        return numeric(env, self.drop)

    def make_env(self, task: Tasks) -> TaskedEnv:
        """One environment that plays `task` (a set of one)."""
        return TaskedEnv(self, task_dict(task))

    def task_at(self, task: dict[str, Any], episode: int) -> dict[str, Any]:
        """What is applied in an episode of a trial (from 0): the task, unless a family overrides it."""
        return task

    def visible(self) -> GymFamily:
        """The same family, whose environments are built with `render_mode="rgb_array"`."""
        seen = copy.copy(self)
        seen.env_kwargs = self.env_kwargs | {"render_mode": "rgb_array"}
        return seen


def _registered(id: str, horizon: int, keywords: Mapping[str, Any]) -> gym.Env[Any, Any]:
    """`gym.make`, with one sentence where Gymnasium does not know the id or the environment not a keyword."""
    try:
        return gym.make(id, max_episode_steps=horizon or None, **keywords)
    except (gym.error.Error, ImportError) as error:
        known = isinstance(error, gym.error.DependencyNotInstalled) or id in gym.registry
        expected = f"a registered Gymnasium id ({error}{'' if known else f'; {registering_module(id)}'})"
        raise InvalidValueError("env", id, expected) from error
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise InvalidValueError(f"keywords of {id}", sorted(keywords), f"those that it takes ({error})") from error


def registering_module(id: str) -> str:
    """What to do about an id that Gymnasium does not know: load the module that registers it, by name if it is found.

    A module is found where its name begins as the id does: `highway_env` for `highway-fast-v0`.
    """

    def letters(name: str) -> str:
        return "".join(c for c in name.lower() if c.isalnum())

    words = id.partition(":")[2] or id
    words = words.partition("/")[0] if "/" in words else words.rpartition("-v")[0] or words
    installed = {name for name in packages_distributions() if not name.startswith("_")}
    near = [name for name in installed if letters(name).startswith(letters(words.split("-")[0]) or "?")]
    module = min(near, key=len) if near else "MODULE"
    named = f"{module}:{id.rpartition(':')[2]}"
    return f"if a package registers it, name its module: {named!r}, or --load {module} (in Python: import {module})"


def check_keywords(what: str, build: Callable[..., Any], keywords: Mapping[str, Any]) -> None:
    """Refuse keywords that a callable does not take, and say which it does."""
    try:
        signature = inspect.signature(build)
    except ValueError:  # a builtin has no signature to check
        return
    takes = {k: p.kind for k, p in signature.parameters.items()}
    known = [k for k, kind in takes.items() if kind in (_KIND.POSITIONAL_OR_KEYWORD, _KIND.KEYWORD_ONLY)]
    for name in keywords if _KIND.VAR_KEYWORD not in takes.values() else ():
        if name not in known:
            raise InvalidValueError(f"keyword of {what}", name, did_you_mean(name, known) if known else "none")
    try:
        signature.bind(**keywords)
    except TypeError as error:
        raise InvalidValueError(f"keywords of {what}", sorted(keywords), f"those that it needs ({error})") from error


def numeric(env: gym.Env[Any, Any], drop: Sequence[str] = ()) -> gym.Env[Any, Any]:
    """The environment with observations that networks take: a Box or Discrete space, pixels from 0 to 1.

    Args:
        env: any environment.
        drop: keys of a Dict observation to leave out, besides those that are no numbers.
    """
    if drop and not isinstance(env.observation_space, spaces.Dict):
        raise InvalidValueError("drop", list(drop), f"nothing: the observation is {env.observation_space}, not a Dict")
    if isinstance(env.observation_space, spaces.Dict):
        kept = _kept(env.observation_space, drop)
        env = env if kept == list(env.observation_space) else gym.wrappers.FilterObservation(env, kept)
    if not isinstance(env.observation_space, (spaces.Box, spaces.Discrete)):
        env = gym.wrappers.FlattenObservation(env)
    space = env.observation_space
    if not isinstance(space, spaces.Box):
        return env
    pixels = (space.low == 0) & (space.high == 255)
    if not pixels.any():
        return env
    scale = np.where(pixels, np.float32(255), np.float32(1))
    seen = spaces.Box((space.low / scale).astype(np.float32), (space.high / scale).astype(np.float32), dtype=np.float32)
    return gym.wrappers.TransformObservation(env, lambda obs: np.asarray(obs, dtype=np.float32) / scale, seen)


def _kept(space: spaces.Dict, drop: Sequence[str]) -> list[str]:
    """The keys that are neither dropped nor texts and the like; all that are not dropped if there is no other."""
    for key in drop:
        if key not in space.spaces:
            raise InvalidValueError("drop", key, did_you_mean(key, space.spaces))
    left = [key for key in space.spaces if key not in drop]
    if not left:
        raise InvalidValueError("drop", list(drop), "fewer keys: nothing would be left to observe")
    return [key for key in left if isinstance(space[key], NUMERIC)] or left


def time_limit(env: gym.Env[Any, Any]) -> int | None:
    """After how many steps an environment's own time limit ends an episode; None if it has none."""
    if env.spec is not None and env.spec.max_episode_steps:
        return int(env.spec.max_episode_steps)
    while isinstance(env, gym.Wrapper):
        if isinstance(env, gym.wrappers.TimeLimit):
            return int(env._max_episode_steps)
        env = env.env
    return None


class TaskedEnv(gym.Wrapper[Any, Any, Any, Any]):
    """A user's environment that applies its task before every episode."""

    def __init__(self, family: GymFamily, task: dict[str, Any]) -> None:
        self.family, self.task = family, task
        self.redraw: Callable[[int], dict[str, Any]] | None = None  # episode number to its task; None keeps the task
        self.split, self.task_seed = "train", 0  # what an index among the options refers to
        self.episodes = 0  # that were started in this trial
        self.label = "its task"  # names the task where the environment fails
        self.told: tuple[str, ...] | None = None  # keys of info that are passed on; None: all of them
        self._steps = 0  # in this episode
        self._built_with = family.task_at(task, 0) if family.apply == "kwargs" else {}
        super().__init__(checked(family.build(**self._built_with), self._place))
        self._seen_space = self.env.observation_space  # kept, because asking all wrappers takes time

    def set_metarl_task(self, task: dict[str, Any], episode: int = 0, label: str = "its task") -> None:
        """Play `task` from the next reset on, which starts episode number `episode` of a trial."""
        self.task, self.episodes, self.label = task, episode, label

    def render(self) -> Any:
        """What the environment renders.

        Raises:
            InvalidValueError: MuJoCo finds no OpenGL to draw with.
        """
        with drawing():
            return super().render()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Apply the task, then start an episode in it."""
        if options and "task" in options:
            if self.redraw is not None:
                raise InvalidValueError("options['task']", options["task"], "none, because redraw is 'episode'")
            options = dict(options)
            self.set_metarl_task(task_dict(self.family.resolve(options.pop("task"), self.split, self.task_seed)))
        if self.redraw is not None:
            self.episodes = self.episodes if seed is None else 0
            self.task = self.redraw(self.episodes)
        task = copy.deepcopy(self.family.task_at(self.task, self.episodes))  # the environment may change its own
        self.episodes += 1
        self._steps = 0
        try:
            out = self._start(task, seed, options)
        except Exception as error:
            self._tell(error, "reset")
            raise
        return out if self.told is None else (out[0], {})

    def _start(
        self, task: dict[str, Any], seed: int | None, options: dict[str, Any] | None
    ) -> tuple[Any, dict[str, Any]]:
        """Apply the task and reset the user's environment."""
        apply = self.family.apply
        if callable(apply):
            apply(self.env, task)
        elif apply == "options":
            options = {**(options or {}), **task}
        elif apply == "set_task":
            self.env.get_wrapper_attr("set_task")(task)
        elif apply == "attrs":
            set_attributes(self.unwrapped, task)
        elif apply == "seed":
            seed = int(*task.values())
        elif not _same_task(self._built_with, task):
            if seed is None:  # the new environment goes on where the old one's generator was
                seed = int(self.env.unwrapped.np_random.integers(1 << 31))
            self.env.close()
            self.env, self._built_with = checked(self.family.build(**task), self._place), task
        out: tuple[Any, dict[str, Any]] = self.env.reset(seed=seed, options=options)
        self._check("reset", out[0])
        return out

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step of the user's environment."""
        try:
            obs, reward, terminated, truncated, info = self.env.step(action)
        except Exception as error:
            self._tell(error, "step")
            raise
        if not fits(self._seen_space, obs):
            self._check("step", obs)
        self._steps += 1
        return obs, reward, terminated, truncated, info if self.told is None else self._passed_on(info)

    def _passed_on(self, info: Mapping[str, Any]) -> dict[str, Any]:
        """What the engine reads, as Python's numbers and under one name."""
        given = {"success": info["is_success"], **info} if "is_success" in info else info
        found = {name: given[name] for name in self.told or () if given.get(name) is not None}
        return {name: bool(value) if name == "success" else float(value) for name, value in found.items()}

    def _tell(self, error: Exception, method: str) -> None:
        """Let an exception of the environment's say where it happened."""
        if not isinstance(error, MetaRLError):
            error.add_note(f"{class_name(self.env)}.{method} raised it at {self._place()}")

    def _check(self, method: str, obs: Any) -> None:
        """Refuse observations that the wrappers around an environment made of another form than they declare."""
        try:
            check_observation(f"observation of {class_name(self.env)}.{method}", self.env.observation_space, obs)
        except InvalidValueError as error:
            raise InvalidValueError(error.field, error.value, f"{error.expected} ({self._place()})") from None

    def _place(self) -> str:
        return f"step {self._steps} of an episode in {self.label}"


# What Gymnasium's own environments compute once from attributes that may be a task: class to derived attributes.
DERIVED: dict[str, Callable[[Any], Mapping[str, float]]] = {
    "gymnasium.envs.classic_control.cartpole.CartPoleEnv": lambda env: {
        "total_mass": env.masspole + env.masscart,
        "polemass_length": env.masspole * env.length,
    },
}


def _number_attributes(env: Any) -> list[str]:
    """The public attributes of an environment or of its class that are numbers, and no truth values."""
    values = {name: value for cls in reversed(type(env).__mro__) for name, value in vars(cls).items()} | vars(env)
    kept = {k: v for k, v in values.items() if isinstance(v, (int, float, np.ndarray)) and not isinstance(v, bool)}
    return [name for name in kept if name[0] != "_"]


def _check_replaceable(env: Any, name: str) -> None:
    """Refuse an attribute that a task's numbers must not replace, such as a method or a space."""
    found = getattr(env, name)
    if not (found is None or isinstance(found, (int, float, np.generic, np.ndarray, Tensor, list, tuple))):
        kind = type(found).__name__
        raise InvalidValueError("task_space", name, f"an attribute of {type(env).__name__} that is a number, no {kind}")


def set_attributes(env: Any, values: Mapping[str, Any]) -> None:
    """Set attributes of an unwrapped environment, and those that its class is known to derive from them."""
    for name, value in values.items():
        if not hasattr(env, name):
            raise InvalidValueError("task_space", name, f"an attribute of {type(env).__name__}")
        _check_replaceable(env, name)
        try:
            setattr(env, name, value)
        except AttributeError as error:
            raise InvalidValueError("task_space", name, f"an attribute that can be set ({error})") from error
    for cls in type(env).__mro__:
        for name, value in DERIVED.get(f"{cls.__module__}.{cls.__qualname__}", lambda _: {})(env).items():
            setattr(env, name, value)


def task_dict(tasks: Tasks, row: int = 0) -> dict[str, Any]:
    """Task `row` of a set as environments are given it (`metarl.tasks.plain_value`): Python numbers, arrays, values."""
    return {name: plain_value(tasks.space[name], leaf[row]) for name, leaf in tasks.values.items()}


def _same_task(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def check_family_fields(family: Family) -> None:
    """Say in one sentence what is wrong with a family's declarations; nothing is run."""
    name = type(family).__name__
    for field in ("observation_space", "action_space", "horizon", "task_space"):
        if not hasattr(family, field):
            raise InvalidValueError(f"{name}.{field}", None, "to be set, as a class attribute or in __init__")
    for field in ("observation_space", "action_space"):
        if not isinstance(getattr(family, field), spaces.Space):
            raise InvalidValueError(f"{name}.{field}", getattr(family, field), "a gymnasium.spaces.Space")
    if not isinstance(family.horizon, int) or family.horizon < 1:
        raise InvalidValueError(f"{name}.horizon", family.horizon, "a whole number of steps, at least 1")
    every: Sequence[tuple[str, TaskSpace]] = [("task_space", family.task_space), *family.ood.items()]
    for label, space in every:
        check_task_space(f"{name}.{label}", space)
    for label, space in family.ood.items():
        if label in _SIDES or not set(space) <= set(family.task_space):
            raise InvalidValueError(f"{name}.ood[{label!r}]", sorted(space), f"some of {sorted(family.task_space)}")


def check_task_space(field: str, space: Any) -> None:
    """Refuse what is no dict from parameter name to distribution."""
    if not isinstance(space, Mapping) or not space:
        raise InvalidValueError(field, space, "a dict from parameter name to distribution, not empty")
    for key, dist in space.items():
        if not isinstance(dist, Distribution):
            raise InvalidValueError(f"{field}[{key!r}]", dist, f"a metarl distribution{_meant(dist)}")


def _meant(value: Any) -> str:
    """The distribution that a value in place of one may stand for."""
    if isinstance(value, (tuple, list)) and value:
        numbers = len(value) == 2 and all(isinstance(x, (int, float)) for x in value) and value[0] < value[1]
        return f": Uniform({value[0]}, {value[1]})?" if numbers else f": Choice({list(value)})?"
    return " such as Uniform(0, 1)"
