"""Distributions of task parameters. Their draws have the same bits on every machine."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from metarl import exact
from metarl.errors import InvalidValueError
from metarl.rng import Rng

Array = npt.NDArray[np.float32]  # values of task parameters


def _check_sizes(kind: str, shape: object) -> None:
    if not (isinstance(shape, tuple) and all(isinstance(n, int) and n > 0 for n in shape)):
        raise InvalidValueError(f"{kind}.shape", shape, "a tuple of sizes, for example (2,)")


def _check_numbers(kind: str, **values: object) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
            raise InvalidValueError(f"{kind}.{name}", value, "a number")


def _bits(rng: Rng, shape: tuple[int, ...]) -> Tensor:
    """Random 64-bit words, `int64 [N, *shape]`."""
    return rng.bits(math.prod(shape)).view(len(rng.keys), *shape)


@dataclass(frozen=True)
class Uniform:
    """Uniform on [low, high); the elements are independent."""

    low: float
    high: float
    shape: tuple[int, ...] = ()
    kind: ClassVar[str] = "uniform"

    def __post_init__(self) -> None:
        _check_sizes("Uniform", self.shape)
        _check_numbers("Uniform", low=self.low, high=self.high)
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise InvalidValueError("Uniform(low, high)", (self.low, self.high), "finite numbers with low < high")

    def sample(self, rng: Rng) -> Tensor:
        """One value per environment: `float32 [N, *shape]`."""
        return self.low + (self.high - self.low) * rng.uniform(*self.shape)

    def contains(self, values: Array) -> npt.NDArray[np.bool_]:
        """Elementwise: does a value lie in the (closed) range?"""
        slack = 1e-6 * max(1.0, abs(self.low), abs(self.high))
        return (values >= self.low - slack) & (values <= self.high + slack)

    def describe(self) -> str:
        """The range in words."""
        return f"{'numbers' if self.shape else 'a number'} in [{self.low:g}, {self.high:g}]"


@dataclass(frozen=True)
class LogUniform:
    """Log-uniform on [low, high): the logarithm is uniform. Both bounds are positive."""

    low: float
    high: float
    shape: tuple[int, ...] = ()
    kind: ClassVar[str] = "log_uniform"

    def __post_init__(self) -> None:
        _check_sizes("LogUniform", self.shape)
        _check_numbers("LogUniform", low=self.low, high=self.high)
        if not (0 < self.low < self.high and math.isfinite(self.high)):
            raise InvalidValueError("LogUniform(low, high)", (self.low, self.high), "finite, with 0 < low < high")

    def sample(self, rng: Rng) -> Tensor:
        """One value per environment: `float32 [N, *shape]`."""
        power = exact.log(self.high / self.low) * exact.uniform(_bits(rng, self.shape))
        return torch.from_numpy(self.low * exact.exp(power)).float()

    def contains(self, values: Array) -> npt.NDArray[np.bool_]:
        """Elementwise: does a value lie in the (closed) range?"""
        return (values >= self.low * (1 - 1e-5)) & (values <= self.high * (1 + 1e-5))

    def describe(self) -> str:
        """The range in words."""
        return f"{'numbers' if self.shape else 'a number'} in [{self.low:g}, {self.high:g}]"


@dataclass(frozen=True)
class Normal:
    """Gaussian with independent elements."""

    mean: float = 0.0
    std: float = 1.0
    shape: tuple[int, ...] = ()
    kind: ClassVar[str] = "normal"

    def __post_init__(self) -> None:
        _check_sizes("Normal", self.shape)
        _check_numbers("Normal", mean=self.mean, std=self.std)
        if not (math.isfinite(self.mean) and 0 < self.std < math.inf):
            raise InvalidValueError("Normal(mean, std)", (self.mean, self.std), "a finite mean and a positive std")

    def sample(self, rng: Rng) -> Tensor:
        """One value per environment: `float32 [N, *shape]`."""
        return torch.from_numpy(self.mean + self.std * exact.normal(_bits(rng, self.shape))).float()

    def contains(self, values: Array) -> npt.NDArray[np.bool_]:
        """Elementwise: is a value finite?"""
        return np.isfinite(values)

    def describe(self) -> str:
        """The support in words."""
        return "finite numbers" if self.shape else "a finite number"


@dataclass(frozen=True)
class Choice:
    """Uniform on a list of values: numbers, equal-length lists of numbers, or any other JSON data.

    If the values are not numbers (texts, for example), a task stores the index of its value. A torch family receives
    the index, a Gymnasium environment receives the value.
    """

    values: tuple[Any, ...]
    kind: ClassVar[str] = "choice"

    def __init__(self, values: Sequence[Any]) -> None:
        options = () if isinstance(values, (str, bytes)) or not isinstance(values, Iterable) else tuple(values)
        numeric = all(_is_numeric(v) for v in options)
        frozen = tuple(_as_tuples(np.asarray(v).tolist() if numeric else v) for v in options)
        object.__setattr__(self, "values", frozen)
        try:
            texts = {json.dumps(v, sort_keys=True) for v in frozen}
        except (TypeError, ValueError) as error:
            raise InvalidValueError("Choice(values)", values, "numbers, texts, or other JSON data") from error
        if not frozen or len(texts) != len(frozen) or len({np.shape(v) for v in frozen if numeric}) > 1:
            raise InvalidValueError("Choice(values)", values, "at least one value, all different and of one shape")
        if not np.isfinite(self.table).all() or len(np.unique(self.table, axis=0)) != len(frozen):
            raise InvalidValueError("Choice(values)", values, "finite numbers that differ as float32")

    @property
    def by_index(self) -> bool:
        """Whether a task stores the index of its value, because the values are not numbers."""
        return not all(_is_numeric(v) for v in self.values)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one value."""
        return () if self.by_index else np.shape(self.values[0])

    @property
    def table(self) -> Array:
        """All values, or their indices, `float32 [n, *shape]`."""
        return np.asarray(range(len(self.values)) if self.by_index else self.values, dtype=np.float32)

    def sample(self, rng: Rng) -> Tensor:
        """One value per environment: `float32 [N, *shape]`."""
        return torch.from_numpy(self.table).to(rng.keys.device)[rng.integers(len(self.values))]

    def contains(self, values: Array) -> npt.NDArray[np.bool_]:
        """Elementwise: is the element part of a value from the list?"""
        batch = values.reshape(len(values), 1, *self.shape)
        close = np.isclose(batch, self.table[None], atol=1e-6)
        hit = close.reshape(len(values), len(self.values), -1).all(-1).any(-1)
        return cast("npt.NDArray[np.bool_]", np.broadcast_to(hit.reshape(-1, *[1] * len(self.shape)), values.shape))

    def encode(self, value: Any) -> Any:
        """Replace values that are stored by index (one, or nested lists of them) by their indices; keep all others."""
        if not self.by_index:
            return value
        if (frozen := _as_tuples(value)) in self.values:
            return self.values.index(frozen)
        return [self.encode(part) for part in value] if isinstance(value, (list, tuple, np.ndarray)) else value

    def plain(self, value: Array) -> Any:
        """From a task's `float32 [*shape]` to what an environment receives: the listed value, integers as ints."""
        if self.by_index:
            return _as_lists(self.values[int(value)])
        distance = np.abs(self.table - value).reshape(len(self.values), -1).max(-1)
        nearest = np.asarray(self.values[int(distance.argmin())])
        return _plain(value if nearest.dtype.kind == "f" else nearest)

    def describe(self) -> str:
        """The values in words."""
        listing = ", ".join(str(list(v) if isinstance(v, tuple) else v) for v in self.values[:6])
        return f"one of {listing}{', ...' if len(self.values) > 6 else ''}"


@dataclass(frozen=True)
class Integers:
    """Uniform on the integers from low to high, both included; the elements are independent.

    Values are float32, which holds integers up to 2**24 exactly.
    """

    low: int
    high: int
    shape: tuple[int, ...] = ()
    kind: ClassVar[str] = "integers"

    def __post_init__(self) -> None:
        _check_sizes("Integers", self.shape)
        whole = all(isinstance(x, int) and abs(x) <= 1 << 24 for x in (self.low, self.high))
        if not (whole and self.low < self.high < self.low + (1 << 24)):
            expected = "ints up to 2**24 with low < high, and fewer than 2**24 of them"
            raise InvalidValueError("Integers(low, high)", (self.low, self.high), expected)

    def sample(self, rng: Rng) -> Tensor:
        """One value per environment: `float32 [N, *shape]`."""
        count = self.high - self.low + 1
        if not self.shape:
            return (self.low + rng.integers(count)).float()
        return self.low + (rng.uniform(*self.shape) * count).floor().clamp(max=count - 1)

    def plain(self, value: Array) -> Any:
        """From a task's `float32 [*shape]` to what an environment receives: an int, or an int64 array."""
        return _plain(np.asarray(value).astype(np.int64))

    def contains(self, values: Array) -> npt.NDArray[np.bool_]:
        """Elementwise: is a value an integer in the range?"""
        whole: npt.NDArray[np.bool_] = values == np.round(values)
        return (values >= self.low) & (values <= self.high) & whole

    def describe(self) -> str:
        """The range in words."""
        return f"{'whole numbers' if self.shape else 'a whole number'} in [{self.low}, {self.high}]"


@dataclass(frozen=True)
class FlatDirichlet:
    """Uniform on the simplex over the last axis: Dirichlet(1, ..., 1)."""

    shape: tuple[int, ...]
    kind: ClassVar[str] = "flat_dirichlet"

    def __post_init__(self) -> None:
        _check_sizes("FlatDirichlet", self.shape)

    def sample(self, rng: Rng) -> Tensor:
        """One value per environment: `float32 [N, *shape]`, summing to 1 over the last axis."""
        *rows, length = self.shape
        return torch.from_numpy(exact.simplex(_bits(rng, (*rows, length - 1)))).float()

    def contains(self, values: Array) -> npt.NDArray[np.bool_]:
        """Elementwise: is a value non-negative and part of a row that sums to 1?"""
        sums = np.abs(values.sum(-1, keepdims=True) - 1) < 1e-4
        return cast("npt.NDArray[np.bool_]", (values >= 0) & sums)

    def describe(self) -> str:
        """The support in words."""
        return "non-negative numbers that sum to 1 over the last axis"


@dataclass(frozen=True)
class Repeated:
    """Several independent draws from one distribution, along a new first axis: a schedule of tasks."""

    distribution: Uniform | LogUniform | Normal | Choice | Integers | FlatDirichlet
    count: int
    kind: ClassVar[str] = "repeated"

    def __post_init__(self) -> None:
        if not (isinstance(self.count, int) and self.count > 0):
            raise InvalidValueError("Repeated.count", self.count, "a whole number, at least 1")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one value."""
        return (self.count, *self.distribution.shape)

    def sample(self, rng: Rng) -> Tensor:
        """One value per environment: `float32 [N, count, ...]`."""
        return torch.stack([self.distribution.sample(rng) for _ in range(self.count)], 1)

    def encode(self, value: Any) -> Any:
        """Encode values as `Choice.encode` does if the distribution is a `Choice`; keep all others."""
        return self.distribution.encode(value) if isinstance(self.distribution, Choice) else value

    def plain(self, value: Array) -> Any:
        """From a task's `float32 [count, ...]` to what an environment receives: an array, or a list of values."""
        parts = [plain_value(self.distribution, part) for part in value]
        return np.asarray(parts) if all(_is_numeric(part) for part in parts) else parts

    def contains(self, values: Array) -> npt.NDArray[np.bool_]:
        """Elementwise: does the distribution contain the element?"""
        parts = values.reshape(-1, *self.distribution.shape)
        return cast("npt.NDArray[np.bool_]", self.distribution.contains(parts).reshape(values.shape))

    def describe(self) -> str:
        """The support in words."""
        return f"{self.count} times {self.distribution.describe()}"


def _as_tuples(value: Any) -> Any:
    """Nested lists as nested tuples, which can be compared and hashed."""
    return tuple(_as_tuples(v) for v in value) if isinstance(value, (list, tuple)) else value


def _as_lists(value: Any) -> Any:
    """Nested tuples as nested lists, as in JSON."""
    return [_as_lists(v) for v in value] if isinstance(value, tuple) else value


def _is_numeric(value: Any) -> bool:
    """Whether a value is a number or an array-like of numbers."""
    try:
        return np.asarray(value).dtype.kind in "biuf"
    except (TypeError, ValueError):
        return False


def _plain(value: npt.ArrayLike) -> Any:
    """A scalar as a Python number, an array as a writable copy."""
    return np.asarray(value).item() if np.ndim(value) == 0 else np.array(value)


Distribution = Uniform | LogUniform | Normal | Choice | Integers | FlatDirichlet | Repeated
TaskSpace = Mapping[str, Distribution]


def plain_value(dist: Distribution, value: Array) -> Any:
    """From a task's `float32 [*shape]` to what an environment receives: a number, an array, or a listed value."""
    return dist.plain(value) if isinstance(dist, (Choice, Integers, Repeated)) else _plain(value)
