"""Families from environments of other suites, and from Gymnasium environments declared on the command line.

`adopt` takes classes that sample their own tasks (`sample_tasks` and `set_task` or `reset_task`, as in rllab's
descendants: MAML, ProMP, PEARL, garage, learn2learn). They may have Gym's old signatures. `gymnasium_family` takes a
Gymnasium id and ranges of its attributes as text. `metarl train AGENT --env ID --param NAME=LOW:HIGH` calls it.

Observation, action, reward and end of `metarl/Gymnasium-v0` are the environment's. Task: the named parameters.
Version history: v0, first.
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
from metarl.families.building import GymEnv, ResetResult, StepResult, registering_module
from metarl.families.distributions import Choice, Distribution, Integers, LogUniform, Normal, TaskSpace, Uniform
from metarl.families.gym_family import GymFamily, TaskValues
from metarl.global_rng import seeded

GYMNASIUM = "metarl/Gymnasium-v0"  # `gymnasium_family` is registered as this
SETTERS = ("set_task", "reset_task")
EXAMPLE_PARAMS = {"length": "0.25:1.5", "masscart": "0.5:2"}
SYNTAX = "LOW:HIGH, log:LOW:HIGH, int:LOW:HIGH, normal:MEAN:STD, or A,B,C"


def parse_distribution(name: str, text: str) -> Distribution:
    """A distribution from text.

    Args:
        name: name of the parameter, for the error.
        text: `0.5:2` (uniform), `log:0.1:10` (log-uniform), `int:0:9` (integers, both ends included),
            `normal:1:0.2` (mean and standard deviation), `1,2,5` (one of a list; also `true,false`, or texts: `a,b`).
    """
    kind, _, rest = text.partition(":")
    makers: dict[str, Callable[[float, float], Distribution]] = {
        "log": LogUniform,
        "normal": Normal,
        "int": lambda low, high: Integers(_to_int(low), _to_int(high)),
    }
    try:
        if kind in makers:
            low, high = (float(x) for x in rest.split(":"))
            return makers[kind](low, high)
        if ":" in text:
            low, high = (float(x) for x in text.split(":"))
            return Uniform(low, high)
        return Choice(_parse_choices(text.split(",")))
    except InvalidValueError as error:
        raise InvalidValueError(f"--param {name}", text, f"{SYNTAX} ({error.field}: {error.expected})") from error
    except ValueError as error:
        raise InvalidValueError(f"--param {name}", text, SYNTAX) from error


def _parse_choices(parts: Sequence[str]) -> Sequence[float | str]:
    """Values from texts, all of one kind: numbers, bools or texts."""
    flags = {"true": True, "false": False}
    if all(part.lower() in flags for part in parts):
        return [flags[part.lower()] for part in parts]
    numbers = [number for part in parts if (number := _parse_number(part)) is not None]
    if len(numbers) == len(parts) and np.isfinite(numbers).all():
        return numbers if all(isinstance(number, int) for number in numbers) else [float(number) for number in numbers]
    if numbers or len(parts) < 2 or not all(parts):
        raise ValueError(parts)
    return list(parts)


def _parse_number(text: str) -> int | float | None:
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return None


def _to_int(value: float) -> int:
    if not np.isfinite(value) or value != int(value):
        raise ValueError(value)
    return int(value)


def parse_parameters(texts: Sequence[str]) -> dict[str, str]:
    """Split and check `["length=0.25:1.5", ...]`: a dict from parameter name to the text of its distribution."""
    out: dict[str, str] = {}
    several = False
    for text in texts:
        name, equals, dist = text.partition("=")
        if not (name and equals and dist) or name in out:
            raise InvalidValueError("--param", text, f"NAME={SYNTAX}, each NAME once")
        made = parse_distribution(name, dist)
        out[name] = dist
        several = several or not isinstance(made, Choice) or len(made.values) > 1
    if out and not several:
        raise InvalidValueError(
            "--param",
            " ".join(texts),
            "a NAME with several values, such as NAME=LOW:HIGH: with these there is one task",
        )
    return out


def gymnasium_family(
    env: str = "CartPole-v1",
    params: Mapping[str, str] = EXAMPLE_PARAMS,
    apply: str = "attrs",
    horizon: int | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
) -> GymFamily:
    """A Gymnasium environment whose attributes differ from task to task, by ranges given as text.

    It is registered as `metarl/Gymnasium-v0`, so a full id can contain all of it:
    `metarl/Gymnasium-v0{"env": "Pendulum-v1", "params": {"g": "5:15"}}`.

    Args:
        env: Gymnasium id.
        params: parameter name to text for `parse_distribution`.
        apply: as in `GymFamily`.
        horizon: as in `GymFamily`.
        env_kwargs: as in `GymFamily`.
    """
    if not (isinstance(params, Mapping) and params and all(isinstance(text, str) for text in params.values())):
        raise InvalidValueError("params", params, f"a dict from the names of attributes to texts: {SYNTAX}")
    space = {name: parse_distribution(name, text) for name, text in params.items()}
    if env not in gym.registry and ":" not in env:
        try:
            gym.spec(env)  # its error suggests the nearest id
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
    """A family from an unchanged class that has `sample_tasks` and `set_task` or `reset_task`.

    The class's own `sample_tasks` is called once for `count` tasks. These tasks, without duplicates, are the family's
    task space; train and test share none of them. Tasks are numbers, arrays, or dicts of them. A class that numbers its
    tasks (`get_all_task_idx` and `reset_task(index)`, as in PEARL) needs no `sample_tasks`. Environments with Gym's old
    signatures (`reset()` returns the observation, `step` returns four values) are converted; `done` is a termination.

    Args:
        env: the class, or a callable that builds the environment.
        horizon: steps per episode; by default the environment's own time limit.
        count: number of tasks to draw.
        seed: seed of the global generators during that draw, which most such classes use. Their states are restored.
        env_kwargs: keywords for building the environment.
        stepping: as in `GymFamily`.

    Raises:
        InvalidValueError: a method is missing, or the tasks are not numbers.
    """
    if not callable(env) or isinstance(env, gym.Env):
        raise InvalidValueError(
            "env", env, "the class, or a function that builds an environment, not one that is built"
        )
    build = _GymnasiumBuilder(env)
    built = build(**(env_kwargs or {}))
    try:
        setter = next((name for name in SETTERS if built.has_wrapper_attr(name)), None)
        if setter is None:
            raise InvalidValueError("methods of the environment", _env_name(env), "set_task(task) or reset_task(task)")
        with seeded(seed):
            tasks = _sample_tasks(built, _env_name(env), count)
    finally:
        built.close()
    template = _template(tasks)
    rows = sorted({tuple(_flatten(task, template).tolist()) for task in tasks})
    space: TaskSpace = {"task": Choice(rows if len(rows[0]) > 1 else [row[0] for row in rows])}

    def apply(env: GymEnv, task: TaskValues) -> None:
        env.get_wrapper_attr(setter)(_unflatten(np.atleast_1d(task["task"]), template))

    return GymFamily(build, space, apply, horizon, env_kwargs=env_kwargs, stepping=stepping)


def _env_name(env: object) -> str:
    return getattr(env, "__qualname__", repr(env))


def _sample_tasks(env: GymEnv, name: str, count: int) -> list[Any]:
    """Tasks that the environment samples, in its own form."""
    if env.has_wrapper_attr("sample_tasks") and callable(env.get_wrapper_attr("sample_tasks")):
        tasks = list(env.get_wrapper_attr("sample_tasks")(count))
    elif env.has_wrapper_attr("get_all_task_idx"):
        tasks = [int(i) for i in env.get_wrapper_attr("get_all_task_idx")()]
    else:
        raise InvalidValueError("methods of the environment", name, "sample_tasks(n), or get_all_task_idx()")
    if not tasks:
        raise InvalidValueError(f"sample_tasks({count}) of {name}", tasks, "tasks")
    return tasks


def _template(tasks: Sequence[Any]) -> Any:
    """A task that shows the form of all tasks: the first one, with a float where not all tasks have an integer."""
    first = tasks[0]
    if isinstance(first, Mapping):
        for task in tasks:
            if not isinstance(task, Mapping) or task.keys() != first.keys():
                expected = f"a dict with the keys {list(first)}, as in the first task"
                raise InvalidValueError("a sampled task", task, expected)
        return {key: _template([task[key] for task in tasks]) for key in first}
    whole = (int, np.integer, bool, np.bool_)
    return first if np.ndim(first) or all(isinstance(task, whole) for task in tasks) else 0.0


def _flatten(task: Any, template: Any) -> npt.NDArray[np.float32]:
    """All numbers of a task, `float32 [n]`."""
    if isinstance(template, Mapping):
        return np.concatenate([_flatten(task[k], template[k]) for k in template])
    try:
        numbers = np.asarray(task, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidValueError("a sampled task", task, "a number, an array, or a dict of them") from error
    if numbers.shape != np.shape(template):
        raise InvalidValueError("shape of a sampled task", numbers.shape, f"{np.shape(template)}, as the first task's")
    return numbers.reshape(-1)


def _unflatten(row: npt.NDArray[Any], template: Any) -> Any:
    """The inverse of `_flatten`: integers, arrays and dicts as in `template`."""
    if isinstance(template, Mapping):
        out, at = {}, 0
        for key, part in template.items():
            size = _flatten(part, part).size
            out[key], at = _unflatten(row[at : at + size], part), at + size
        return out
    if isinstance(template, (bool, np.bool_)):
        return bool(row[0])
    if np.ndim(template) == 0:
        whole = isinstance(template, (int, np.integer))
        return int(row[0]) if whole else float(row[0])
    values = row.reshape(np.shape(template)).astype(np.asarray(template).dtype)
    return values if isinstance(template, np.ndarray) else type(template)(values.tolist())


class _GymnasiumBuilder:
    """Builds an environment with Gymnasium's signatures; one with Gym's old signatures is converted."""

    def __init__(self, env: Callable[..., Any]) -> None:
        self.env = env

    def __call__(self, **kwargs: Any) -> GymEnv:
        built = self.env(**kwargs)
        return built if isinstance(built, gym.Env) and not _is_old(built) else OldGymEnv(built)

    def __repr__(self) -> str:
        return _env_name(self.env)


def _is_old(env: GymEnv) -> bool:
    """Whether `reset` takes no `seed`, as in Gym's old signatures."""
    parameters = inspect.signature(env.reset).parameters
    return "seed" not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values())


class OldGymEnv(gym.Env[Any, Any]):
    """Converts an environment with Gym's old signatures to a Gymnasium environment.

    `done` becomes `terminated`, or `truncated` if `info["TimeLimit.truncated"]` is true. Box and Discrete spaces of
    another library than Gymnasium are rebuilt.

    Args:
        env: an object with `reset() -> obs` and `step(action) -> (obs, reward, done, info)`.
    """

    def __init__(self, env: Any) -> None:
        self.old = env
        self.observation_space, self.action_space = (
            _gymnasium_space(env.observation_space),
            _gymnasium_space(env.action_space),
        )

    @property
    def metarl_original(self) -> Any:
        """The user's environment, without this conversion."""
        return self.old

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> ResetResult:
        """Start an episode. The environment's own `seed` method, if it has one, receives the seed."""
        super().reset(seed=seed)
        if seed is not None and hasattr(self.old, "seed"):
            self.old.seed(seed)
        obs = self.old.reset()
        return self._convert(obs[0] if isinstance(obs, tuple) else obs), {}

    def step(self, action: Any) -> StepResult:
        """One step."""
        obs, reward, done, *rest = self.old.step(action)
        if len(rest) == 2:  # `step` has the new signature already
            return self._convert(obs), reward, done, rest[0], dict(rest[1])
        info = dict(rest[0])
        truncated = bool(info.pop("TimeLimit.truncated", False))
        return self._convert(obs), reward, False if truncated else done, truncated, info

    def _convert(self, obs: Any) -> Any:
        return np.asarray(obs, dtype=self.observation_space.dtype) if self.observation_space.dtype else obs

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "old":
            raise AttributeError(name)
        return getattr(self.old, name)

    def close(self) -> None:
        """Close the environment if it has a `close` method."""
        getattr(self.old, "close", lambda: None)()


def _gymnasium_space(space: Any) -> spaces.Space[Any]:
    """A Gymnasium space; a Box or Discrete space of another library is rebuilt."""
    if isinstance(space, spaces.Space):
        return space
    if hasattr(space, "low") and hasattr(space, "high"):
        return spaces.Box(np.asarray(space.low), np.asarray(space.high), dtype=np.asarray(space.low).dtype.type)
    if hasattr(space, "n"):
        return spaces.Discrete(int(space.n))
    raise InvalidValueError("a space of the environment", space, "a Box or Discrete space")
