"""Build a user's environment, and convert its observations to numbers that networks can read."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import packages_distributions
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from metarl.errors import InvalidValueError, did_you_mean

GymEnv = gym.Env[Any, Any]  # a Gymnasium environment with observations and actions of any type
ResetResult = tuple[Any, dict[str, Any]]  # observation and info, which `reset` returns
StepResult = tuple[Any, Any, bool, bool, dict[str, Any]]  # observation, reward, terminated, truncated and info
_PARAMETER = inspect.Parameter
NUMERIC = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary, spaces.Dict, spaces.Tuple)


def make_registered(id: str, horizon: int, keywords: Mapping[str, Any]) -> GymEnv:
    """Call `gym.make`.

    Raises:
        InvalidValueError: Gymnasium does not know the id, or the environment does not take a keyword.
    """
    try:
        return gym.make(id, max_episode_steps=horizon or None, **keywords)
    except (gym.error.Error, ImportError) as error:
        known = isinstance(error, gym.error.DependencyNotInstalled) or id in gym.registry
        expected = f"a registered Gymnasium id ({error}{'' if known else f'; {registering_module(id)}'})"
        raise InvalidValueError("env", id, expected) from error
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise InvalidValueError(f"keywords of {id}", sorted(keywords), f"those that it accepts ({error})") from error


def registering_module(id: str) -> str:
    """Advice for an id that Gymnasium does not know: load the module that registers it.

    The advice names an installed module if its name begins like the id: `highway_env` for `highway-fast-v0`.
    """

    def letters(name: str) -> str:
        return "".join(c for c in name.lower() if c.isalnum())

    words = id.partition(":")[2] or id
    words = words.partition("/")[0] if "/" in words else words.rpartition("-v")[0] or words
    installed = {name for name in packages_distributions() if not name.startswith("_")}
    near = [name for name in installed if letters(name).startswith(letters(words.split("-")[0]) or "?")]
    module = min(near, key=len) if near else "MODULE"
    full_id = f"{module}:{id.rpartition(':')[2]}"
    return f"if a package registers it, name its module: {full_id!r}, or --load {module} (in Python: import {module})"


def check_keywords(what: str, build: Callable[..., object], keywords: Mapping[str, object]) -> None:
    """Refuse keywords that a callable does not take; the error lists those that it accepts."""
    try:
        signature = inspect.signature(build)
    except ValueError:  # a builtin has no signature to check
        return
    takes = {k: p.kind for k, p in signature.parameters.items()}
    known = [k for k, kind in takes.items() if kind in (_PARAMETER.POSITIONAL_OR_KEYWORD, _PARAMETER.KEYWORD_ONLY)]
    for name in keywords if _PARAMETER.VAR_KEYWORD not in takes.values() else ():
        if name not in known:
            raise InvalidValueError(f"keyword of {what}", name, did_you_mean(name, known) if known else "none")
    try:
        signature.bind(**keywords)
    except TypeError as error:
        raise InvalidValueError(f"keywords of {what}", sorted(keywords), f"those that it needs ({error})") from error


def takes(build: Callable[..., Any], keyword: str) -> bool:
    """Whether a callable takes a keyword, as far as its signature says."""
    try:
        parameters = inspect.signature(build).parameters
    except ValueError:  # a builtin has no signature to check
        return True
    return keyword in parameters or any(p.kind is _PARAMETER.VAR_KEYWORD for p in parameters.values())


def numeric(env: GymEnv, drop: Sequence[str] = ()) -> GymEnv:
    """Wrap an environment so that networks can read its observations: a Box or Discrete space, pixels from 0 to 1.

    Args:
        env: any environment.
        drop: keys of a Dict observation to leave out. Keys without numbers are always left out.
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


def numeric_observation(obs: Any, space: spaces.Space[Any], drop: Sequence[str] = ()) -> Any:
    """An observation as environments wrapped by `numeric` give it.

    Args:
        obs: an observation of the space, as the unwrapped environment gives it. An array that does not hold whole
            numbers, nor a pixel above 1, may be in the wrapped form already, and stays as it is.
        space: the unwrapped environment's.
        drop: keys of a Dict observation to leave out.
    """
    if isinstance(space, spaces.Dict) and isinstance(obs, Mapping):
        kept = _kept(space, drop)
        if missing := [key for key in kept if key not in obs]:
            raise InvalidValueError("keys of the observation", sorted(obs), f"also {missing[0]!r}")
        obs, space = {key: obs[key] for key in kept}, spaces.Dict({key: space[key] for key in kept})
    if isinstance(obs, (Mapping, tuple)) or (
        isinstance(space, (spaces.MultiDiscrete, spaces.MultiBinary)) and np.shape(obs) == space.shape
    ):
        obs, space = spaces.flatten(space, obs), spaces.flatten_space(space)
    elif np.asarray(obs).dtype.kind not in "iub" and not _has_pixels(obs, space):
        return obs
    if not isinstance(space, spaces.Box):
        return obs
    pixels = (space.low == 0) & (space.high == 255)
    found = np.asarray(obs, dtype=np.float32)
    return found / np.where(pixels, np.float32(255), np.float32(1)) if pixels.any() else obs


def _has_pixels(obs: Any, space: spaces.Space[Any]) -> bool:
    """Whether an array of no whole numbers has a pixel above 1, so that its pixels are from 0 to 255."""
    if not isinstance(space, spaces.Box) or np.shape(obs) != space.shape:
        return False
    return bool((np.asarray(obs)[(space.low == 0) & (space.high == 255)] > 1).any())


def _kept(space: spaces.Dict, drop: Sequence[str]) -> list[str]:
    """The numeric keys that are not dropped. If no numeric key is left, all keys that are not dropped."""
    for key in drop:
        if key not in space.spaces:
            raise InvalidValueError("drop", key, did_you_mean(key, space.spaces))
    left = [key for key in space.spaces if key not in drop]
    if not left:
        raise InvalidValueError("drop", list(drop), "fewer keys: nothing would be left to observe")
    return [key for key in left if isinstance(space[key], NUMERIC)] or left


def time_limit(env: GymEnv) -> int | None:
    """Steps after which an environment's own time limit ends an episode; None if it has no time limit."""
    if env.spec is not None and env.spec.max_episode_steps:
        return int(env.spec.max_episode_steps)
    while isinstance(env, gym.Wrapper):
        if isinstance(env, gym.wrappers.TimeLimit):
            return int(env._max_episode_steps)
        env = env.env
    return None
