"""Checks of the values that a user's environment returns. An error names the environment's class.

The contract of `gymnasium.Env`: `reset` returns (observation, info), and `step` returns (observation, reward,
terminated, truncated, info). Observations have the form of `observation_space`, and a reward is a single number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from metarl.errors import InvalidValueError
from metarl.families.building import GymEnv, ResetResult, StepResult

NUMBERS = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
SUCCESS_KEYS = ("success", "is_success")
_REWARDS, _FLAGS, _WHOLE = {float, int, np.float64, np.float32}, {bool, np.bool_}, {int, np.int64}
NUMERIC_WRAPPERS = (
    gym.wrappers.FilterObservation,
    gym.wrappers.FlattenObservation,
    gym.wrappers.TransformObservation,
)


def user_env(env: GymEnv) -> GymEnv:
    """The environment that the user built: a family's environment without metarl's wrappers."""
    inner = env.env if isinstance(env, gym.Wrapper) else env
    while isinstance(inner, NUMERIC_WRAPPERS):
        inner = inner.env
    return inner


def class_name(env: GymEnv) -> str:
    """Name of the class that the user wrote, without Gymnasium's wrappers and `OldGymEnv`."""
    while isinstance(env, gym.Wrapper) and _is_library(env):
        env = env.env
    return type(getattr(env, "metarl_original", env)).__name__


def checked(env: GymEnv, place: Callable[[], str]) -> GymEnv:
    """Insert `Checked` around the user's part of an environment, inside Gymnasium's wrappers.

    Gymnasium's wrappers would fail on a wrong value before a check outside of them could name it.
    """
    outer, inner = None, env
    while isinstance(inner, gym.Wrapper) and not isinstance(inner, Checked) and _is_library(inner):
        outer, inner = inner, inner.env
    checked_env = Checked(inner.env if isinstance(inner, Checked) else inner, place)
    if outer is None:
        return checked_env
    outer.env = checked_env
    return env


def _is_library(env: GymEnv) -> bool:
    return type(env).__module__.startswith(("gymnasium.", "metarl."))


class Checked(gym.Wrapper[Any, Any, Any, Any]):
    """Wrapper that compares what `reset` and `step` return with the declared spaces. Attributes pass through.

    Args:
        env: the user's environment.
        place: returns the present task and step in words, for error messages.
    """

    def __init__(self, env: GymEnv, place: Callable[[], str]) -> None:
        super().__init__(env)
        self.place = place  # from now on, __setattr__ sets attributes of the environment

    def __setattr__(self, name: str, value: Any) -> None:
        if "place" not in vars(self) or name in vars(self) or hasattr(type(self), name):
            super().__setattr__(name, value)
        else:
            setattr(self.env, name, value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "env":
            raise AttributeError(name)
        return getattr(self.env, name)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> ResetResult:
        """Start an episode."""
        out = self.env.reset(seed=seed, options=options)
        self._check(check_reset, out)
        return out

    def step(self, action: Any) -> StepResult:
        """One step."""
        out = self.env.step(action)
        usual = type(out) is tuple and len(out) == 5 and type(out[1]) in _REWARDS
        usual = usual and type(out[2]) in _FLAGS and type(out[3]) in _FLAGS and type(out[4]) is dict
        if (
            not usual
            or "success" in out[4]
            or "is_success" in out[4]
            or not has_usual_form(self.env.observation_space, out[0])
        ):
            self._check(check_step, out)
        return out

    def _check(self, check: Callable[[GymEnv, object], None], out: object) -> None:
        try:
            check(self.env, out)
        except InvalidValueError as error:
            raise InvalidValueError(error.field, error.value, f"{error.expected} ({self.place()})") from None


def has_usual_form(space: spaces.Space[Any], observation: Any) -> bool:
    """Whether an observation has the usual type and shape for a Box or Discrete space. If not, check it in full."""
    if type(space) is spaces.Discrete:
        return type(observation) in _WHOLE and bool(space.start <= observation < space.start + space.n)
    if type(observation) is not np.ndarray or type(space) is not spaces.Box:
        return False
    return observation.shape == space._shape and observation.dtype.kind in "biuf"


def check_reset(env: GymEnv, out: object) -> None:
    """Check what `env.reset` returned.

    Raises:
        InvalidValueError: `out` is not (observation, info), or the observation does not have the declared form.
    """
    name = f"{class_name(env)}.reset"
    if not (isinstance(out, tuple) and len(out) == 2 and isinstance(out[1], Mapping)):
        expected = "(observation, info); metarl.adopt takes environments with Gym's old signatures"
        raise InvalidValueError(f"what {name} returns", out, expected)
    check_observation(f"observation of {name}", env.observation_space, out[0])


def check_step(env: GymEnv, out: object) -> None:
    """Check what `env.step` returned.

    Raises:
        InvalidValueError: `out` is not (observation, reward, terminated, truncated, info), or a part has a wrong form.
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
    for word in SUCCESS_KEYS:
        if word in info and not _is_flag(info[word]):
            raise InvalidValueError(f"info[{word!r}] of {name}", info[word], "True or False")


def check_observation(field: str, space: spaces.Space[Any], value: object) -> None:
    """Check that an observation, or a part of one, has the form that its space declares. Bounds are not checked.

    Raises:
        InvalidValueError: keys, type or shape differ from the space.
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


def _check_numbers(field: str, space: spaces.Space[Any], value: object) -> None:
    array, shape = _numbers(value), space.shape or ()
    if array is None:
        raise InvalidValueError(field, value, f"numbers of shape {shape}, as observation_space has")
    if array.shape != shape:
        raise InvalidValueError(f"shape of the {field.rstrip(',')}", array.shape, f"{shape}, as observation_space has")
    if isinstance(space, spaces.Box):
        return
    with np.errstate(invalid="ignore"):
        member = array.astype(space.dtype)
    whole = array.dtype.kind in "iub" or (not isinstance(space, spaces.Discrete) and np.array_equal(member, array))
    if not (whole and space.contains(member)):  # Gymnasium's MultiBinary and MultiDiscrete take whole floats
        raise InvalidValueError(field, value, f"a member of {space}")


def _numbers(value: object) -> npt.NDArray[Any] | None:
    """A value as an array of numbers, or None if it is not numeric."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        return None
    return array if array.dtype.kind in "biuf" else None


def _is_flag(value: object) -> bool:
    """Whether a value is a single bool (of Python or NumPy), 0 or 1."""
    number = _numbers(value)
    return number is not None and number.shape == () and number.item() in (0, 1)
