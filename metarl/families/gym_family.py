"""Families made of any Gymnasium environment, a task space, and a rule that applies a task to the environment."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from metarl.errors import InvalidValueError, MetaRLError, did_you_mean, verbatim
from metarl.families.attributes import check_replaceable, number_attributes, set_attributes
from metarl.families.building import (
    GymEnv,
    ResetResult,
    StepResult,
    check_keywords,
    make_registered,
    numeric,
    numeric_observation,
    takes,
    time_limit,
)
from metarl.families.distributions import Choice, Integers, TaskSpace, plain_value
from metarl.families.family import Family, check_task_space
from metarl.families.opengl import rendering
from metarl.families.returned import check_observation, checked, class_name, has_usual_form
from metarl.families.tasks import Tasks
from metarl.named import check_environment

TaskValues = dict[str, Any]  # a task as an environment receives it: parameter name to number, array or listed value
APPLY_MODES = ("options", "set_task", "kwargs", "attrs", "seed")
STEPPING = ("auto", "sync", "async")


class GymFamily(Family):
    """Any Gymnasium environment with a task space.

    Observations of other spaces than Box and Discrete (Dict, Tuple, MultiDiscrete, MultiBinary) are flattened into a
    Box. Texts in a Dict are left out, and so are the keys in `drop`. Pixels (0 to 255) are divided by 255.

    Args:
        env: a registered Gymnasium id, or a callable that builds the environment.
        task_space: parameter name to distribution.
        apply: how the task is applied before each episode. "options" calls `reset(options=task)`. "set_task" calls
            `env.set_task(task)`. "kwargs" builds a new environment with the task as keywords whenever the task
            changes. "attrs" sets attributes of the unwrapped environment, and those that Gymnasium's own environments
            derive from them (`metarl.families.attributes.DERIVED`). "seed" seeds every reset with the only parameter,
            an integer, so that a task is one layout. A callable is called with `(env, task)`.
        horizon: steps per episode; by default the environment's own time limit.
        ood: named out-of-distribution splits.
        env_kwargs: keywords for building the environment.
        stepping: "sync" steps all environments in this process. "async" divides them among processes, one per core.
            "auto" measures the time of a step and chooses the faster way. The results are the same.
        drop: keys of a Dict observation to hide from the agent, such as a goal that identifies the task.
    """

    own_space: gym.Space[Any] | None = None  # of the user's environments, before `numeric`; None if it is not known

    def __init__(
        self,
        env: str | Callable[..., GymEnv],
        task_space: TaskSpace,
        apply: str | Callable[[GymEnv, TaskValues], None] = "options",
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
                expected = f"another mode: {type(probe.unwrapped).__name__} has no method set_task"
                raise InvalidValueError("apply", apply, expected)
            self.horizon = horizon or time_limit(probe) or 0
            self.observation_space, self.action_space = probe.observation_space, probe.action_space
            for name in self.task_space if apply == "attrs" else ():
                if not hasattr(probe.unwrapped, name):
                    known = number_attributes(probe.unwrapped)
                    choices = did_you_mean(name, known) if known else "it has none that are numbers"
                    owner = type(probe.unwrapped).__name__
                    raise InvalidValueError("task_space", name, f"an attribute of {owner}: {choices}")
                check_replaceable(probe.unwrapped, name)
        finally:
            probe.close()
        if self.horizon < 1:
            expected = f"a number of steps, because {env!r} has no time limit of its own: horizon=200, or --horizon 200"
            raise InvalidValueError("horizon", horizon, expected)

    def build(self, **task: Any) -> GymEnv:
        """The user's environment. With `apply="kwargs"` the task is part of its keywords."""
        keywords = {**self.env_kwargs, **task}
        if callable(self.env):
            check_keywords(getattr(self.env, "__name__", repr(self.env)), self.env, keywords)
            env = self.env(**keywords)
            env = gym.wrappers.TimeLimit(env, self.horizon) if self.horizon else env
        else:
            env = make_registered(self.env, self.horizon, keywords)
        self.own_space = env.observation_space  # of the user's environment
        return numeric(env, self.drop)

    def as_seen(self, obs: Any) -> Any:
        """See `Family.as_seen`."""
        return obs if self.own_space is None else numeric_observation(obs, self.own_space, self.drop)

    def make_env(self, task: Tasks) -> TaskedEnv:
        """One environment that plays `task` (a set of one task)."""
        return TaskedEnv(self, task_dict(task))

    def task_at(self, task: TaskValues, episode: int) -> TaskValues:
        """The task that is applied in an episode (from 0) of a trial: `task` itself, unless a family overrides it."""
        return task

    def visible(self) -> GymFamily:
        """The same family with environments that are built with `render_mode="rgb_array"`.

        Raises:
            InvalidValueError: the callable that builds them does not take it.
        """
        if callable(self.env) and not takes(self.env, "render_mode"):
            name = getattr(self.env, "__name__", repr(self.env))
            expected = "a keyword of its constructor, by which an environment is built that can be filmed"
            raise InvalidValueError(f"render_mode of {name}", verbatim("missing"), expected)
        family = copy.copy(self)
        family.env_kwargs = self.env_kwargs | {"render_mode": "rgb_array"}
        return family


class TaskedEnv(gym.Wrapper[Any, Any, Any, Any]):
    """A user's environment that applies its task before every episode."""

    def __init__(self, family: GymFamily, task: TaskValues) -> None:
        self.family, self.task = family, task
        self.redraw: Callable[[int], TaskValues] | None = None  # episode number to its task; None keeps the task
        self.split, self.task_seed = "train", 0  # the split that options={"task": index} refers to
        self.episodes = 0  # episodes that were started in this trial
        self.label = "its task"  # names the task in error messages
        self.info_keys: tuple[str, ...] | None = None  # info keys that reset and step return; None returns all
        self._steps = 0  # steps in this episode
        self._built_with = family.task_at(task, 0) if family.apply == "kwargs" else {}
        super().__init__(checked(family.build(**self._built_with), self._place))
        self._declared_space = self.env.observation_space  # stored, because the wrappers' property is slow

    def set_metarl_task(self, task: TaskValues, episode: int = 0, label: str = "its task") -> None:
        """Play `task` from the next reset on. That reset starts episode number `episode` of a trial."""
        self.task, self.episodes, self.label = task, episode, label

    def render(self) -> Any:
        """Render the environment.

        Raises:
            InvalidValueError: MuJoCo finds no OpenGL library.
        """
        with rendering():
            return super().render()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> ResetResult:
        """Apply the task, then start an episode."""
        if options and "task" in options:
            if self.redraw is not None:
                raise InvalidValueError("options['task']", options["task"], "none, because redraw is 'episode'")
            options = dict(options)
            self.set_metarl_task(task_dict(self.family.resolve(options.pop("task"), self.split, self.task_seed)))
        if self.redraw is not None:
            self.episodes = self.episodes if seed is None else 0
            self.task = self.redraw(self.episodes)
        task = copy.deepcopy(self.family.task_at(self.task, self.episodes))  # the environment may write to its copy
        self.episodes += 1
        self._steps = 0
        try:
            out = self._start(task, seed, options)
        except Exception as error:
            self._add_place(error, "reset")
            raise
        return out if self.info_keys is None else (out[0], {})

    def _start(self, task: TaskValues, seed: int | None, options: dict[str, Any] | None) -> ResetResult:
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
            if seed is None:  # the new environment's seed comes from the old environment's generator
                seed = int(self.env.unwrapped.np_random.integers(1 << 31))
            self.env.close()
            self.env, self._built_with = checked(self.family.build(**task), self._place), task
        out: ResetResult = self.env.reset(seed=seed, options=options)
        self._check("reset", out[0])
        return out

    def step(self, action: Any) -> StepResult:
        """One step of the user's environment."""
        try:
            obs, reward, terminated, truncated, info = self.env.step(action)
        except Exception as error:
            self._add_place(error, "step")
            raise
        if not has_usual_form(self._declared_space, obs):
            self._check("step", obs)
        self._steps += 1
        return obs, reward, terminated, truncated, info if self.info_keys is None else self._kept_info(info)

    def _kept_info(self, info: Mapping[str, Any]) -> dict[str, float]:
        """The entries of info that the engine reads, as Python numbers. `is_success` counts as `success`."""
        renamed = {"success": info["is_success"], **info} if "is_success" in info else info
        kept = {name: renamed[name] for name in self.info_keys or () if renamed.get(name) is not None}
        return {name: bool(value) if name == "success" else float(value) for name, value in kept.items()}

    def _add_place(self, error: Exception, method: str) -> None:
        """Add a note to an exception of the environment that says where it was raised."""
        if not isinstance(error, MetaRLError):
            error.add_note(f"{class_name(self.env)}.{method} raised it at {self._place()}")

    def _check(self, method: str, obs: object) -> None:
        """Refuse an observation that does not have the form that the wrappers around the environment declare."""
        try:
            check_observation(f"observation of {class_name(self.env)}.{method}", self.env.observation_space, obs)
        except InvalidValueError as error:
            raise InvalidValueError(error.field, error.value, f"{error.expected} ({self._place()})") from None

    def _place(self) -> str:
        return f"step {self._steps} of an episode in {self.label}"


def task_dict(tasks: Tasks, row: int = 0) -> TaskValues:
    """Task `row` of a set as environments receive it: parameter name to Python number, array or listed value."""
    return {name: plain_value(tasks.space[name], leaf[row]) for name, leaf in tasks.values.items()}


def _same_task(a: TaskValues, b: TaskValues) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)
