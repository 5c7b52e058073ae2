"""Task spaces (parameter name to distribution): conversion to and from JSON data, and enumeration of their tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt

from metarl.errors import InvalidValueError, did_you_mean
from metarl.families.distributions import (
    Array,
    Choice,
    Distribution,
    FlatDirichlet,
    Integers,
    LogUniform,
    Normal,
    Repeated,
    TaskSpace,
    Uniform,
)
from metarl.files import JsonObject

MOST_LISTED = 1 << 14  # a space with at most so many tasks is listed; tasks of a larger space are drawn
_KINDS: dict[str, type[Any]] = {
    d.kind: d for d in (Uniform, LogUniform, Normal, Choice, Integers, FlatDirichlet, Repeated)
}


def space_to_dict(space: TaskSpace) -> dict[str, JsonObject]:
    """A task space as JSON data."""
    return {name: _distribution_to_dict(dist) for name, dist in space.items()}


def _distribution_to_dict(dist: Distribution) -> JsonObject:
    data = {f.name: getattr(dist, f.name) for f in fields(dist)}
    if isinstance(dist, Repeated):
        data["distribution"] = _distribution_to_dict(dist.distribution)
    return {"kind": dist.kind, **data}


def space_from_dict(data: Mapping[str, Mapping[str, Any]]) -> dict[str, Distribution]:
    """The inverse of `space_to_dict`."""
    space: dict[str, Distribution] = {}
    for name, entry in data.items():
        if entry.get("kind") not in _KINDS:
            raise InvalidValueError(f"task_space.{name}.kind", entry.get("kind"), did_you_mean("", _KINDS))
        if entry["kind"] == Repeated.kind:
            inner: Any = space_from_dict({name: entry["distribution"]})[name]
            space[name] = Repeated(inner, entry["count"])
            continue
        arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items() if k != "kind"}
        space[name] = _KINDS[entry["kind"]](**arguments)
    return space


def has_few_tasks(space: TaskSpace) -> bool:
    """Whether a space has so few tasks (at most 16) that train tasks and test tasks are the same."""
    return count_tasks(space) <= 16


def count_tasks(space: TaskSpace) -> float:
    """Number of tasks in a space; infinite if a parameter is continuous."""
    return math.prod(float(count_values(dist)) for dist in space.values())


def count_values(dist: Distribution) -> float:
    """Number of values of a distribution; infinite if it is continuous."""
    if isinstance(dist, Choice):
        return len(dist.values)
    if isinstance(dist, Integers):
        return _power(dist.high - dist.low + 1, math.prod(dist.shape))
    return _power(count_values(dist.distribution), dist.count) if isinstance(dist, Repeated) else math.inf


def _power(base: float, exponent: int) -> float:
    return math.inf if exponent * math.log(base) > 700 else base**exponent


def value_at(dist: Distribution, number: npt.NDArray[np.int64]) -> Array:
    """Values of a distribution by their position in its list: `int64 [N]` to `float32 [N, *shape]`."""
    if isinstance(dist, Choice):
        return dist.table[number]
    if isinstance(dist, Integers):
        digits = _digits(number, dist.high - dist.low + 1, math.prod(dist.shape))
        return (dist.low + digits).astype(np.float32).reshape(len(number), *dist.shape)
    assert isinstance(dist, Repeated)
    digits = _digits(number, int(count_values(dist.distribution)), dist.count)
    return value_at(dist.distribution, digits.reshape(-1)).reshape(len(number), *dist.shape)


def _digits(number: npt.NDArray[np.int64], base: int, count: int) -> npt.NDArray[np.int64]:
    """The last `count` digits, in the given base, of numbers `[N]`: `[N, count]`."""
    return number[:, None] // base ** np.arange(count)[::-1] % base
