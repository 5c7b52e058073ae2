"""What a user's environment returns, compared with what it declares: one sentence that names its class.

Contract of `gymnasium.Env`: `reset` returns (observation, info), `step` (observation, reward, terminated, truncated,
info); observations have the form of `observation_space`, rewards are single numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from metarl.adopt import OldGymEnv
from metarl.errors import InvalidValueError

NUMBERS = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
NUMERIC_WRAPPERS = (
    gym.wrappers.FilterObservation,
    gym.wrappers.FlattenObservation,
    gym.wrappers.TransformObservation,
)


def own_part(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """A family's environment without metarl's wrappers around it: what the user built."""
    inner = env.env if isinstance(env, gym.Wrapper) else env
    while isinstance(inner, NUMERIC_WRAPPERS):
        inner = inner.env
    return inner


def class_name(env: gym.Env[Any, Any]) -> str:
    """The name of the class that a person wrote: not Gymnasium's wrappers, not the translation of old signatures."""
    env = env.unwrapped if type(env).__module__.startswith("gymnasium.") else env
    return type(env.old if isinstance(env, OldGymEnv) else env).__name__


def watch_returns(env: gym.Env[Any, Any]) -> None:
    """Let `reset` and `step` of the user's part of a family's environment raise a sentence where they return nonsense.

    Gymnasium's own wrappers may stumble over it first: then what the unwrapped environment returned is looked at.
    """
    outer = own_part(env)
    for method, check in (("reset", check_reset), ("step", check_step)):
        _watch(outer, outer.unwrapped, method, check)


def _watch(
    outer: gym.Env[Any, Any], inner: gym.Env[Any, Any], method: str, check: Callable[[gym.Env[Any, Any], Any], None]
) -> None:
    last: list[Any] = []
    within, around = getattr(inner, method), getattr(outer, method)

    def remembered(*args: Any, **kwargs: Any) -> Any:
        last[:] = [within(*args, **kwargs)]
        return last[0]

    def checked(*args: Any, **kwargs: Any) -> Any:
        last.clear()
        try:
            out = around(*args, **kwargs)
        except Exception:
            if last:
                check(inner, last[0])
            raise
        check(outer, out)
        return out

    setattr(inner, method, remembered)
    setattr(outer, method, checked)


def check_reset(env: gym.Env[Any, Any], out: Any) -> None:
    """Refuse what `env.reset` must not return.

    Raises:
        InvalidValueError: it is no (observation, info), or the observation has not the declared form.
    """
    name = f"{class_name(env)}.reset"
    if not (isinstance(out, tuple) and len(out) == 2 and isinstance(out[1], Mapping)):
        expected = "(observation, info); metarl.adopt takes environments with Gym's old signatures"
        raise InvalidValueError(f"what {name} returns", out, expected)
    check_observation(f"observation of {name}", env.observation_space, out[0])


def check_step(env: gym.Env[Any, Any], out: Any) -> None:
    """Refuse what `env.step` must not return.

    Raises:
        InvalidValueError: it is no (observation, reward, terminated, truncated, info), or one of them has a wrong form.
    """
    name = f"{class_name(env)}.step"
    if not (isinstance(out, tuple) and len(out) == 5):
        expected = "(observation, reward, terminated, truncated, info); metarl.adopt takes Gym's old signatures"
        raise InvalidValueError(f"what {name} returns", out, expected)
    observation, reward, *flags, info = out
    check_observation(f"observation of {name}", env.observation_space, observation)
    number = _numbers(reward)
    if number is None or number.shape != ():
        raise InvalidValueError(f"reward of {name}", reward, "one number")
    for word, flag in zip(("terminated", "truncated"), flags, strict=True):
        if not _is_flag(flag):
            raise InvalidValueError(f"{word} of {name}", flag, "True or False")
    if not isinstance(info, Mapping):
        raise InvalidValueError(f"info of {name}", info, "a dict")
    for word in ("success", "is_success"):
        if word in info and not _is_flag(info[word]):
            raise InvalidValueError(f"info[{word!r}] of {name}", info[word], "True or False")


def check_observation(field: str, space: spaces.Space[Any], value: Any) -> None:
    """Refuse an observation, or a part of one, whose form is not what its space declares; bounds are not looked at.

    Raises:
        InvalidValueError: keys, type or shape are others.
    """
    if isinstance(space, spaces.Dict):
        if not isinstance(value, Mapping):
            raise InvalidValueError(field, value, f"a dict with the keys {list(space)}, as observation_space has")
        if missing := [key for key in space if key not in value]:
            raise InvalidValueError(f"keys of the {field}", list(value), f"{missing[0]!r} too, as in observation_space")
        for key, part in space.items():
            check_observation(f"{field}, key {key!r},", part, value[key])
    elif isinstance(space, spaces.Tuple):
        if not isinstance(value, (tuple, list)) or len(value) != len(space):
            raise InvalidValueError(field, value, f"a tuple of {len(space)} parts, as observation_space has")
        for number, (part, held) in enumerate(zip(space, value, strict=True)):
            check_observation(f"{field}, part {number},", part, held)
    elif isinstance(space, NUMBERS):
        _check_numbers(field, space, value)


def _check_numbers(field: str, space: spaces.Space[Any], value: Any) -> None:
    array, shape = _numbers(value), space.shape or ()
    if array is None:
        raise InvalidValueError(field, value, f"numbers of shape {shape}, as observation_space has")
    if array.shape != shape:
        raise InvalidValueError(f"shape of the {field.rstrip(',')}", array.shape, f"{shape}, as observation_space has")
    whole = array.dtype.kind in "iub"
    if not isinstance(space, spaces.Box) and not (whole and space.contains(array.astype(space.dtype))):
        raise InvalidValueError(field, value, f"a member of {space}")


def _numbers(value: Any) -> npt.NDArray[Any] | None:
    """A value as an array of numbers; None where it is none."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        return None
    return array if array.dtype.kind in "biuf" else None


def _is_flag(value: Any) -> bool:
    """Whether a value is one bool, of Python or NumPy, or a 0 or 1."""
    number = _numbers(value)
    return number is not None and number.shape == () and number.item() in (0, 1)
