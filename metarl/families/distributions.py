"""Distributions that tasks are drawn from, the same to the bit on every machine."""

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

Array = npt.NDArray[Any]


def _check_sizes(kind: str, shape: object) -> None:
    if not (isinstance(shape, tuple) and all(isinstance(n, int) and n > 0 for n in shape)):
        raise InvalidValueError(f"{kind}.shape", shape, "a tuple of sizes, for example (2,)")


def _check_numbers(kind: str, **values: object) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
            raise InvalidValueError(f"{kind}.{name}", value, "a number")


def _bits(rng: Rng, shape: tuple[int, ...]) -> Tensor:
    """Random words, `int64 [N, *shape]`."""
    return rng.bits(math.prod(shape)).view(len(rng.keys), *shape)


@dataclass(frozen=True)
class Uniform:
    """Uniform on [low, high), each element alike."""

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
    """exp(uniform) on [low, high), both positive."""

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
    """Gaussian, each element alike."""

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
    """One of a list of values, each as likely: numbers, equal-length lists of numbers, or anything else JSON can hold.

    Of values that are no numbers, such as texts, a task holds the index. A torch family sees the index, a Gymnasium
    environment is given the value.
    """

    values: tuple[Any, ...]
    kind: ClassVar[str] = "choice"

    def __init__(self, values: Sequence[Any]) -> None:
        given = () if isinstance(values, (str, bytes)) or not isinstance(values, Iterable) else tuple(values)
        numeric = all(_is_numeric(v) for v in given)
        frozen = tuple(_frozen(np.asarray(v).tolist() if numeric else v) for v in given)
        object.__setattr__(self, "values", frozen)
        try:
            texts = {json.dumps(v, sort_keys=True) for v in frozen}
        except (TypeError, ValueError) as error:
            raise InvalidValueError("Choice(values)", values, "numbers, texts, or what JSON can hold") from error
        if not frozen or len(texts) != len(frozen) or len({np.shape(v) for v in frozen if numeric}) > 1:
            raise InvalidValueError("Choice(values)", values, "at least one value, all different and of one shape")
        if not np.isfinite(self.table).all() or len(np.unique(self.table, axis=0)) != len(frozen):
            raise InvalidValueError("Choice(values)", values, "finite numbers that differ as float32")

    @property
    def by_index(self) -> bool:
        """Whether a task holds a value's index because values are no numbers."""
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
        """Elementwise: does an element belong to a value of the list?"""
        batch = values.reshape(len(values), 1, *self.shape)
        close = np.isclose(batch, self.table[None], atol=1e-6)
        hit = close.reshape(len(values), len(self.values), -1).all(-1).any(-1)
        return cast("npt.NDArray[np.bool_]", np.broadcast_to(hit.reshape(-1, *[1] * len(self.shape)), values.shape))

    def encode(self, given: Any) -> Any:
        """The indices of values that are no numbers, one or a list of them; anything else is returned as it is."""
        if not self.by_index:
            return given
        if (frozen := _frozen(given)) in self.values:
            return self.values.index(frozen)
        return [self.encode(part) for part in given] if isinstance(given, (list, tuple, np.ndarray)) else given

    def plain(self, value: Any) -> Any:
        """What an environment is given for `float32 [*shape]`: the value of the list, whole numbers as ints."""
        if self.by_index:
            return _thawed(self.values[int(value)])
        distance = np.abs(self.table - value).reshape(len(self.values), -1).max(-1)
        found = np.asarray(self.values[int(distance.argmin())])
        return _plain(value if found.dtype.kind == "f" else found)

    def describe(self) -> str:
        """The values in words."""
        listing = ", ".join(str(list(v) if isinstance(v, tuple) else v) for v in self.values[:6])
        return f"one of {listing}{', ...' if len(self.values) > 6 else ''}"


@dataclass(frozen=True)
class Integers:
    """Whole numbers from low to high, both included, each as likely and each element alike.

    Values are float32, which holds whole numbers up to 2**24 exactly.
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

    def plain(self, value: Any) -> Any:
        """What an environment is given for `float32 [*shape]`: an int, or an int64 array."""
        return _plain(np.asarray(value).astype(np.int64))

    def contains(self, values: Array) -> npt.NDArray[np.bool_]:
        """Elementwise: is a value whole and in the range?"""
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
    """Several independent values of one distribution, along a new first axis: a schedule of tasks."""

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

    def encode(self, given: Any) -> Any:
        """As the distribution has it."""
        return self.distribution.encode(given) if isinstance(self.distribution, Choice) else given

    def plain(self, value: Any) -> Any:
        """What an environment is given for `float32 [count, ...]`: an array, or a list of what is no number."""
        parts = [plain_value(self.distribution, part) for part in value]
        return np.asarray(parts) if all(_is_numeric(part) for part in parts) else parts

    def contains(self, values: Array) -> npt.NDArray[np.bool_]:
        """Elementwise: does an element belong to the distribution?"""
        parts = values.reshape(-1, *self.distribution.shape)
        return cast("npt.NDArray[np.bool_]", self.distribution.contains(parts).reshape(values.shape))

    def describe(self) -> str:
        """The support in words."""
        return f"{self.count} times {self.distribution.describe()}"


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, (list, tuple)) else value


def _thawed(value: Any) -> Any:
    return [_thawed(v) for v in value] if isinstance(value, tuple) else value


def _is_numeric(value: Any) -> bool:
    """Whether a value is a number, or lists of them that make an array."""
    try:
        return np.asarray(value).dtype.kind in "biuf"
    except (TypeError, ValueError):
        return False


def _plain(value: Any) -> Any:
    """A number as Python's, an array as a copy that may be written to."""
    return np.asarray(value).item() if np.ndim(value) == 0 else np.array(value)


Distribution = Uniform | LogUniform | Normal | Choice | Integers | FlatDirichlet | Repeated
TaskSpace = Mapping[str, Distribution]


def plain_value(dist: Distribution, value: Any) -> Any:
    """A task's value, `float32 [*shape]`, as an environment is given it: Python numbers, arrays, or what was listed."""
    return dist.plain(value) if isinstance(dist, (Choice, Integers, Repeated)) else _plain(value)
