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

from metarl.errors import InvalidValueError

NUMBERS = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
SUCCESS = ("success", "is_success")
_REWARDS, _FLAGS, _WHOLE = {float, int, np.float64, np.float32}, {bool, np.bool_}, {int, np.int64}
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
    while isinstance(env, gym.Wrapper) and _is_library(env):
        env = env.env
    return type(getattr(env, "metarl_translates", env)).__name__


def checked(env: gym.Env[Any, Any], place: Callable[[], str]) -> gym.Env[Any, Any]:
    """The environment with `Checked` around what its author wrote, within Gymnasium's wrappers, which would stumble."""
    outer, inner = None, env
    while isinstance(inner, gym.Wrapper) and not isinstance(inner, Checked) and _is_library(inner):
        outer, inner = inner, inner.env
    watched = Checked(inner.env if isinstance(inner, Checked) else inner, place)
    if outer is None:
        return watched
    outer.env = watched
    return env


def _is_library(env: gym.Env[Any, Any]) -> bool:
    return type(env).__module__.startswith(("gymnasium.", "metarl."))


class Checked(gym.Wrapper[Any, Any, Any, Any]):
    """An environment whose `reset` and `step` are compared with its declarations; its attributes stay its own.

    Args:
        env: what its author wrote.
        place: says where in training it is, for the sentence.
    """

    def __init__(self, env: gym.Env[Any, Any], place: Callable[[], str]) -> None:
        super().__init__(env)
        self.place = place  # what is set from now on is set for the environment

    def __setattr__(self, name: str, value: Any) -> None:
        if "place" not in vars(self) or name in vars(self) or hasattr(type(self), name):
            super().__setattr__(name, value)
        else:
            setattr(self.env, name, value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "env":
            raise AttributeError(name)
        return getattr(self.env, name)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        out = self.env.reset(seed=seed, options=options)
        self._check(check_reset, out)
        return out

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One step."""
        out = self.env.step(action)
        usual = type(out) is tuple and len(out) == 5 and type(out[1]) in _REWARDS
        usual = usual and type(out[2]) in _FLAGS and type(out[3]) in _FLAGS and type(out[4]) is dict
        if not usual or "success" in out[4] or "is_success" in out[4] or not fits(self.env.observation_space, out[0]):
            self._check(check_step, out)
        return out

    def _check(self, check: Callable[[gym.Env[Any, Any], Any], None], out: Any) -> None:
        try:
            check(self.env, out)
        except InvalidValueError as error:
            raise InvalidValueError(error.field, error.value, f"{error.expected} ({self.place()})") from None


def fits(space: spaces.Space[Any], observation: Any) -> bool:
    """Whether an observation is of the usual type and form of a Box or Discrete; if not, look at it closely."""
    if type(space) is spaces.Discrete:
        return type(observation) in _WHOLE and bool(space.start <= observation < space.start + space.n)
    if type(observation) is not np.ndarray or type(space) is not spaces.Box:
        return False
    return observation.shape == space._shape and observation.dtype.kind in "biuf"


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
    for word in SUCCESS:
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
    if isinstance(space, spaces.Box):
        return
    with np.errstate(invalid="ignore"):
        member = array.astype(space.dtype)
    whole = array.dtype.kind in "iub" or (not isinstance(space, spaces.Discrete) and np.array_equal(member, array))
    if not (whole and space.contains(member)):  # Gymnasium's MultiBinary and MultiDiscrete take whole floats
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
