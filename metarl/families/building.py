"""How a user's environment is built, and how its observations become numbers that networks take."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import packages_distributions
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from metarl.errors import InvalidValueError, did_you_mean

_KIND = inspect.Parameter
NUMERIC = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary, spaces.Dict, spaces.Tuple)


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
