"""Apply a task by setting attributes of a user's environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from metarl.errors import InvalidValueError

# Some of Gymnasium's environments compute further attributes once, in __init__, from attributes that a task may set.
# Class name to a function that computes these derived attributes again.
DERIVED: dict[str, Callable[[Any], Mapping[str, float]]] = {
    "gymnasium.envs.classic_control.cartpole.CartPoleEnv": lambda env: {
        "total_mass": env.masspole + env.masscart,
        "polemass_length": env.masspole * env.length,
    },
}


def number_attributes(env: object) -> list[str]:
    """Names of the public attributes of an environment or of its class that are numbers; bools do not count."""
    values = {name: value for cls in reversed(type(env).__mro__) for name, value in vars(cls).items()} | vars(env)
    kept = {k: v for k, v in values.items() if isinstance(v, (int, float, np.ndarray)) and not isinstance(v, bool)}
    return [name for name in kept if name[0] != "_"]


def check_replaceable(env: object, name: str) -> None:
    """Refuse an attribute that a task must not replace, such as a method or a space."""
    value = getattr(env, name)
    if not (value is None or isinstance(value, (int, float, np.generic, np.ndarray, Tensor, list, tuple))):
        expected = f"an attribute of {type(env).__name__} that is a number, not of type {type(value).__name__}"
        raise InvalidValueError("task_space", name, expected)


def set_attributes(env: object, values: Mapping[str, object]) -> None:
    """Set attributes of an unwrapped environment, then the attributes that `DERIVED` computes from them."""
    for name, value in values.items():
        if not hasattr(env, name):
            raise InvalidValueError("task_space", name, f"an attribute of {type(env).__name__}")
        check_replaceable(env, name)
        try:
            setattr(env, name, value)
        except AttributeError as error:
            raise InvalidValueError("task_space", name, f"an attribute that can be set ({error})") from error
    for cls in type(env).__mro__:
        for name, value in DERIVED.get(f"{cls.__module__}.{cls.__qualname__}", lambda _: {})(env).items():
            setattr(env, name, value)
