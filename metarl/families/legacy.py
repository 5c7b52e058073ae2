"""Environments that were written for other suites, or declared on the command line, as families.

`adopt` takes classes that sample their own tasks (`sample_tasks` and `set_task` or `reset_task`, as in rllab's
descendants: MAML, ProMP, PEARL, garage, learn2learn), old Gym signatures included. `gymnasium_family` takes a Gymnasium
id and ranges of its attributes as text, which is what `metarl train AGENT --env ID --param NAME=LOW:HIGH` calls.

Observation, action, reward and end of `metarl/Gymnasium-v0` are the environment's. Task: the parameters that were
named. Version history: v0, first.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from metarl.errors import InvalidValueError
from metarl.families.building import registering_module
from metarl.families.distributions import Choice, Distribution, Integers, LogUniform, Normal, TaskSpace, Uniform
from metarl.families.gym_family import GymFamily
from metarl.global_rng import seeded

SETTERS = ("set_task", "reset_task")
EXAMPLE = {"length": "0.25:1.5", "masscart": "0.5:2"}
FORMS = "LOW:HIGH, log:LOW:HIGH, int:LOW:HIGH, normal:MEAN:STD, or A,B,C"


def parse_distribution(name: str, text: str) -> Distribution:
    """A distribution from text.

    Args:
        name: of the parameter, for the error.
        text: `0.5:2` (uniform), `log:0.1:10` (log-uniform), `int:0:9` (whole numbers, both ends included),
            `normal:1:0.2` (mean and standard deviation), `1,2,5` (one of a list; also `true,false`, or texts: `a,b`).
    """
    kind, _, rest = text.partition(":")
    makers: dict[str, Callable[[float, float], Distribution]] = {
        "log": LogUniform,
        "normal": Normal,
        "int": lambda low, high: Integers(_whole(low), _whole(high)),
    }
    try:
        if kind in makers:
            low, high = (float(x) for x in rest.split(":"))
            return makers[kind](low, high)
        if ":" in text:
            low, high = (float(x) for x in text.split(":"))
            return Uniform(low, high)
        return Choice(_listed(text.split(",")))
    except InvalidValueError as error:
        raise InvalidValueError(f"--param {name}", text, f"{FORMS} ({error.field}: {error.expected})") from error
    except ValueError as error:
        raise InvalidValueError(f"--param {name}", text, FORMS) from error


def _listed(parts: Sequence[str]) -> list[Any]:
    """Values from text, all of one kind: numbers, truth values or texts."""
    flags = {"true": True, "false": False}
    if all(part.lower() in flags for part in parts):
        return [flags[part.lower()] for part in parts]
    numbers = [number for part in parts if (number := _number(part)) is not None]
    if len(numbers) == len(parts) and np.isfinite(numbers).all():
        return numbers if all(isinstance(number, int) for number in numbers) else [float(number) for number in numbers]
    if numbers or len(parts) < 2 or not all(parts):
        raise ValueError(parts)
    return list(parts)


def _number(text: str) -> int | float | None:
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return None


def _whole(value: float) -> int:
    if not np.isfinite(value) or value != int(value):
        raise ValueError(value)
    return int(value)


def parse_parameters(texts: Sequence[str]) -> dict[str, str]:
    """`["length=0.25:1.5", ...]` as a dict from name to the text of its distribution, checked."""
    out: dict[str, str] = {}
    for text in texts:
        name, equals, dist = text.partition("=")
        if not (name and equals and dist) or name in out:
            raise InvalidValueError("--param", text, f"NAME={FORMS}, each NAME once")
        parse_distribution(name, dist)
        out[name] = dist
    return out


def gymnasium_family(
    env: str = "CartPole-v1",
    params: Mapping[str, str] = EXAMPLE,
    apply: str = "attrs",
    horizon: int | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
) -> GymFamily:
    """A registered Gymnasium environment whose tasks are ranges of its attributes, from text alone.

    It is registered as `metarl/Gymnasium-v0`: wherever a family's id is asked for, this is one:
    `metarl/Gymnasium-v0{"env": "Pendulum-v1", "params": {"g": "5:15"}}`.

    Args:
        env: Gymnasium id.
        params: parameter name to what `parse_distribution` reads.
        apply: as in `GymFamily`.
        horizon: as in `GymFamily`.
        env_kwargs: as in `GymFamily`.
    """
    if not (isinstance(params, Mapping) and params and all(isinstance(text, str) for text in params.values())):
        raise InvalidValueError("params", params, f"a dict from the names of attributes to texts: {FORMS}")
    space = {name: parse_distribution(name, text) for name, text in params.items()}
    if env not in gym.registry and ":" not in env:
        try:
            gym.spec(env)  # says which one was meant
        except gym.error.Error as error:
            expected = f"a registered Gymnasium id ({error}); {registering_module(env)}"
            raise InvalidValueError("--env", env, expected) from error
    return GymFamily(env, space, apply, horizon, env_kwargs=env_kwargs)


def adopt(
    env: Callable[..., Any],
    *,
    horizon: int | None = None,
    count: int = 1000,
    seed: int = 0,
    env_kwargs: Mapping[str, Any] | None = None,
    stepping: str = "auto",
) -> GymFamily:
    """A class with `sample_tasks` and `set_task` or `reset_task` as a family, unchanged.

    Its own `sample_tasks` is called once for `count` tasks, which are then the family's task space (duplicates drop
    out); train and test share none of them. Tasks are numbers, arrays, or dicts of them; a class that numbers its tasks
    (`get_all_task_idx` and `reset_task(index)`, as PEARL's) needs no `sample_tasks`. Environments with Gym's old
    signatures (`reset()` returns the observation, `step` four values) are translated: their `done` is a termination.

    Args:
        env: the class, or a callable that builds the environment.
        horizon: steps per episode; by default the environment's own time limit.
        count: tasks to draw.
        seed: of the global generators during that draw, which most such classes use; their states are restored.
        env_kwargs: keywords for building the environment.
        stepping: as in `GymFamily`.

    Raises:
        InvalidValueError: a method is missing, or tasks are not numbers.
    """
    if not callable(env) or isinstance(env, gym.Env):
        raise InvalidValueError(
            "env", env, "the class, or a function that builds an environment, not one that is built"
        )
    build = _Modern(env)
    built = build(**(env_kwargs or {}))
    try:
        setter = next((name for name in SETTERS if built.has_wrapper_attr(name)), None)
        if setter is None:
            raise InvalidValueError("methods of the environment", _name(env), "set_task(task) or reset_task(task)")
        with seeded(seed):
            tasks = _sampled(built, _name(env), count)
    finally:
        built.close()
    pattern = _pattern(tasks)
    rows = sorted({tuple(_flat(task, pattern).tolist()) for task in tasks})
    space: TaskSpace = {"task": Choice(rows if len(rows[0]) > 1 else [row[0] for row in rows])}

    def apply(env: gym.Env[Any, Any], task: dict[str, Any]) -> None:
        env.get_wrapper_attr(setter)(_like(np.atleast_1d(task["task"]), pattern))

    return GymFamily(build, space, apply, horizon, env_kwargs=env_kwargs, stepping=stepping)


def _name(env: Callable[..., Any]) -> str:
    return getattr(env, "__qualname__", repr(env))


def _sampled(env: gym.Env[Any, Any], name: str, count: int) -> list[Any]:
    """Tasks in the environment's own form."""
    if env.has_wrapper_attr("sample_tasks") and callable(env.get_wrapper_attr("sample_tasks")):
        tasks = list(env.get_wrapper_attr("sample_tasks")(count))
    elif env.has_wrapper_attr("get_all_task_idx"):
        tasks = [int(i) for i in env.get_wrapper_attr("get_all_task_idx")()]
    else:
        raise InvalidValueError("methods of the environment", name, "sample_tasks(n), or get_all_task_idx()")
    if not tasks:
        raise InvalidValueError(f"sample_tasks({count}) of {name}", tasks, "tasks")
    return tasks


def _pattern(tasks: Sequence[Any]) -> Any:
    """The form of tasks: the first one's, numbers whole only where they are whole in all of them."""
    first = tasks[0]
    if isinstance(first, Mapping):
        for task in tasks:
            if not isinstance(task, Mapping) or task.keys() != first.keys():
                expected = f"a dict with the keys {list(first)}, as in the first task"
                raise InvalidValueError("a sampled task", task, expected)
        return {key: _pattern([task[key] for task in tasks]) for key in first}
    whole = (int, np.integer, bool, np.bool_)
    return first if np.ndim(first) or all(isinstance(task, whole) for task in tasks) else 0.0


def _flat(task: Any, pattern: Any) -> npt.NDArray[np.float32]:
    """A task's numbers in a row."""
    if isinstance(pattern, Mapping):
        return np.concatenate([_flat(task[k], pattern[k]) for k in pattern])
    try:
        numbers = np.asarray(task, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidValueError("a sampled task", task, "a number, an array, or a dict of them") from error
    if numbers.shape != np.shape(pattern):
        raise InvalidValueError("shape of a sampled task", numbers.shape, f"{np.shape(pattern)}, as the first task's")
    return numbers.reshape(-1)


def _like(row: npt.NDArray[Any], pattern: Any) -> Any:
    """The inverse of `_flat`: whole numbers, arrays and dicts as they were."""
    if isinstance(pattern, Mapping):
        out, at = {}, 0
        for key, part in pattern.items():
            size = _flat(part, part).size
            out[key], at = _like(row[at : at + size], part), at + size
        return out
    if isinstance(pattern, (bool, np.bool_)):
        return bool(row[0])
    if np.ndim(pattern) == 0:
        whole = isinstance(pattern, (int, np.integer))
        return int(row[0]) if whole else float(row[0])
    values = row.reshape(np.shape(pattern)).astype(np.asarray(pattern).dtype)
    return values if isinstance(pattern, np.ndarray) else type(pattern)(values.tolist())


class _Modern:
    """Builds an environment, translated to Gymnasium's signatures where it has Gym's."""

    def __init__(self, env: Callable[..., Any]) -> None:
        self.env = env

    def __call__(self, **kwargs: Any) -> gym.Env[Any, Any]:
        built = self.env(**kwargs)
        return built if isinstance(built, gym.Env) and not _is_old(built) else OldGymEnv(built)

    def __repr__(self) -> str:
        return _name(self.env)


def _is_old(env: gym.Env[Any, Any]) -> bool:
    """Whether `reset` takes no seed, as Gymnasium's does."""
    parameters = inspect.signature(env.reset).parameters
    return "seed" not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values())


class OldGymEnv(gym.Env[Any, Any]):
    """An environment with Gym's old signatures as a Gymnasium environment.

    `done` becomes `terminated`, but for `info["TimeLimit.truncated"]`. Spaces of a library that is not Gymnasium are
    rebuilt where they are boxes or discrete.

    Args:
        env: what has `reset() -> obs` and `step(action) -> (obs, reward, done, info)`.
    """

    def __init__(self, env: Any) -> None:
        self.old = env
        self.observation_space, self.action_space = _space(env.observation_space), _space(env.action_space)

    @property
    def metarl_translates(self) -> Any:
        """What a person wrote."""
        return self.old

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; `seed` goes to the environment's own `seed` method, if it has one."""
        super().reset(seed=seed)
        if seed is not None and hasattr(self.old, "seed"):
            self.old.seed(seed)
        obs = self.old.reset()
        return self._as(obs[0] if isinstance(obs, tuple) else obs), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, bool, dict[str, Any]]:
        """One step."""
        obs, reward, done, *rest = self.old.step(action)
        if len(rest) == 2:  # it has the new step already
            return self._as(obs), reward, done, rest[0], dict(rest[1])
        info = dict(rest[0])
        truncated = bool(info.pop("TimeLimit.truncated", False))
        return self._as(obs), reward, False if truncated else done, truncated, info

    def _as(self, obs: Any) -> Any:
        return np.asarray(obs, dtype=self.observation_space.dtype) if self.observation_space.dtype else obs

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "old":
            raise AttributeError(name)
        return getattr(self.old, name)

    def close(self) -> None:
        """Close it, where it can be closed."""
        getattr(self.old, "close", lambda: None)()


def _space(space: Any) -> spaces.Space[Any]:
    """A space of Gymnasium's; one of another library with the same fields is rebuilt."""
    if isinstance(space, spaces.Space):
        return space
    if hasattr(space, "low") and hasattr(space, "high"):
        return spaces.Box(np.asarray(space.low), np.asarray(space.high), dtype=np.asarray(space.low).dtype.type)
    if hasattr(space, "n"):
        return spaces.Discrete(int(space.n))
    raise InvalidValueError("a space of the environment", space, "a Box or Discrete space")
