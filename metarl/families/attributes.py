"""Tasks as attributes of a user's environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from metarl.errors import InvalidValueError

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
