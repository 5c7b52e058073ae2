"""Tasks as data: typed task spaces, and immutable sets of tasks with a split, an address and a content hash.

A task is one MDP of a family: the values of the family's declared parameters and nothing else. Sampled tasks are
addressable: task `i` of (family, split, seed) is the same whatever else is drawn, and has the same bits on every
machine (`metarl.exact`). Train and test are disjoint by construction: a hash of a task's content says on which side it
lies, and a draw from the wrong side is drawn again, so the side of any task, a user's own too, can be checked. Where a
space has few tasks (at most 2^14) they are listed: each of a split comes once, in a shuffled order, before any again.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from metarl import exact
from metarl.errors import InvalidValueError, did_you_mean, verbatim
from metarl.files import (
    LARGEST_ARRAYS,
    LARGEST_HEAD,
    LARGEST_JSON,
    OBJECT,
    SEED,
    TEXT,
    NpzReader,
    check_fields,
    digest_arrays,
    digest_json,
    parse_json,
    read_bytes,
    reading,
    write_atomic,
    write_npz,
)
from metarl.rng import Rng, fold_in, make_key, mix

Array = npt.NDArray[Any]
FORMAT = "metarl-tasks-2"
_HEAD = dict.fromkeys(("family", "split", "hash", "sha256"), TEXT) | {"seed": SEED, "space": OBJECT}
_MAX_REDRAWS = 256
MOST_LISTED = 1 << 14  # tasks of a space that is listed rather than drawn from


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
        """One value per slot: `float32 [N, *shape]`."""
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
        """One value per slot: `float32 [N, *shape]`."""
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
        """One value per slot: `float32 [N, *shape]`."""
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
        """One value per slot: `float32 [N, *shape]`."""
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
        """One value per slot: `float32 [N, *shape]`."""
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
        """One value per slot: `float32 [N, *shape]`, summing to 1 over the last axis."""
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
        """One value per slot: `float32 [N, count, ...]`."""
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
_KINDS: dict[str, type[Any]] = {
    d.kind: d for d in (Uniform, LogUniform, Normal, Choice, Integers, FlatDirichlet, Repeated)
}


def space_to_dict(space: TaskSpace) -> dict[str, dict[str, Any]]:
    """A task space as JSON-able data."""
    return {name: _distribution_to_dict(dist) for name, dist in space.items()}


def _distribution_to_dict(dist: Distribution) -> dict[str, Any]:
    held = {f.name: getattr(dist, f.name) for f in fields(dist)}
    if isinstance(dist, Repeated):
        held["distribution"] = _distribution_to_dict(dist.distribution)
    return {"kind": dist.kind, **held}


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


def plain_value(dist: Distribution, value: Any) -> Any:
    """A task's value, `float32 [*shape]`, as an environment is given it: Python numbers, arrays, or what was listed."""
    return dist.plain(value) if isinstance(dist, (Choice, Integers, Repeated)) else _plain(value)


def is_finite(space: TaskSpace) -> bool:
    """Whether a space holds so few tasks (at most 16) that train and test cannot be told apart."""
    return count_tasks(space) <= 16


def count_tasks(space: TaskSpace) -> float:
    """How many tasks a space has, infinite where a parameter is continuous."""
    return math.prod(float(_count(dist)) for dist in space.values())


def _count(dist: Distribution) -> float:
    """How many values a distribution has."""
    if isinstance(dist, Choice):
        return len(dist.values)
    if isinstance(dist, Integers):
        return _power(dist.high - dist.low + 1, math.prod(dist.shape))
    return _power(_count(dist.distribution), dist.count) if isinstance(dist, Repeated) else math.inf


def _power(base: float, exponent: int) -> float:
    return math.inf if exponent * math.log(base) > 700 else base**exponent


def _value_at(dist: Distribution, number: npt.NDArray[np.int64]) -> Array:
    """The values of a distribution by their number, `int64 [N]` to `float32 [N, *shape]`."""
    if isinstance(dist, Choice):
        return dist.table[number]
    if isinstance(dist, Integers):
        digits = _digits(number, dist.high - dist.low + 1, math.prod(dist.shape))
        return (dist.low + digits).astype(np.float32).reshape(len(number), *dist.shape)
    assert isinstance(dist, Repeated)
    digits = _digits(number, int(_count(dist.distribution)), dist.count)
    return _value_at(dist.distribution, digits.reshape(-1)).reshape(len(number), *dist.shape)


def _digits(number: npt.NDArray[np.int64], base: int, count: int) -> npt.NDArray[np.int64]:
    """The last `count` digits of numbers `[N]` to a base, `[N, count]`."""
    return number[:, None] // base ** np.arange(count)[::-1] % base


@lru_cache(maxsize=64)
def _listing(space: str, side: int | None) -> dict[str, Array]:
    """Every task of a space, given as JSON, that lies on a side: name to `float32 [n, *shape]`."""
    dists = space_from_dict(json.loads(space))
    number, values = np.arange(int(count_tasks(dists))), {}
    for name, dist in dists.items():
        number, place = np.divmod(number, int(_count(dist)))
        values[name] = _value_at(dist, place)
    keep = slice(None) if side is None else (content_hash(values) & 1) == side
    return {name: leaf[keep] for name, leaf in values.items()}


def list_tasks(family: str, space: TaskSpace, split: str, side: int | None) -> Tasks | None:
    """Every task of a split once, in the order of the space's values; None where they are more than 2^14.

    Arguments as in `sample_tasks`. The set's `seed` is 0, its `index` counts them.
    """
    if count_tasks(space) > MOST_LISTED:
        return None
    values = _listing(json.dumps(space_to_dict(space)), side)
    count = len(next(iter(values.values())))
    if not count:
        raise InvalidValueError("task_space", space_to_dict(space), f"a space with tasks in the split {split!r}")
    return Tasks(family, split, 0, np.arange(count, dtype=np.int64), dict(values), dict(space))


def shuffled(family: str, split: str, seed: int, index: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Which of `count` listed tasks is at the addresses `index`, `int64 [N]`: each once before any again.

    Every pass through the list has an order of its own, a keyed shuffle.
    """
    number, place = np.divmod(np.asarray(index, dtype=np.int64), count)
    out = np.empty_like(place)
    for which in np.unique(number).tolist():
        here = number == which
        out[here] = _order(make_key("order", family, split, seed, which), count)[place[here]]
    return out


@lru_cache(maxsize=64)
def _order(key: int, count: int) -> npt.NDArray[np.int64]:
    return np.argsort(fold_in(key, torch.arange(count)).numpy(), kind="stable")


def content_hash(values: Mapping[str, Array]) -> npt.NDArray[np.int64]:
    """A 64-bit hash of each task's content: `[N, ...]` float32 leaves to `int64 [N]`."""
    names = sorted(values)
    total = torch.zeros(len(values[names[0]]), dtype=torch.int64)
    for name in names:
        leaf = np.ascontiguousarray(values[name], dtype=np.float32).reshape(len(total), -1) + np.float32(0.0)  # -0 is 0
        bits = torch.from_numpy(leaf.view(np.int32).astype(np.int64))
        salt = fold_in(make_key("content", name), torch.arange(bits.shape[1]))
        total = mix(total + mix(bits ^ salt).sum(-1))
    return total.numpy()


@dataclass(frozen=True, repr=False)
class Tasks:
    """An immutable set of tasks of one family: a struct of arrays.

    Attributes:
        family: full id of the family, version and preset included.
        split: "train", "test", the name of an out-of-distribution range, or "custom" for tasks a user wrote down.
        seed: seed of the draw (0 for custom tasks).
        index: address of each task within (family, split, seed), `int64 [N]`.
        values: parameter name to `float32 [N, *shape]`.
        space: the task space that the values belong to.
    """

    family: str
    split: str
    seed: int
    index: npt.NDArray[np.int64]
    values: dict[str, Array]
    space: dict[str, Distribution]

    def __post_init__(self) -> None:
        for array in (self.index, *self.values.values()):
            array.setflags(write=False)

    def __repr__(self) -> str:
        parts = f"{len(self)} of split {self.split!r}, seed {self.seed}, of {self.family}"
        return f"Tasks({parts}: {', '.join(f'{k} {list(v.shape)}' for k, v in self.values.items())})"

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, which: int | slice | Sequence[int] | npt.NDArray[np.int64]) -> Tasks:
        """A subset; tasks keep their addresses."""
        rows = [which] if isinstance(which, (int, np.integer)) else which
        values = {k: np.array(v[rows]) for k, v in self.values.items()}
        return replace(self, index=np.array(self.index[rows]), values=values)

    def __iter__(self) -> Iterator[Tasks]:
        return (self[i] for i in range(len(self)))

    @property
    def keys(self) -> Tensor:
        """A 64-bit key of each task's address, `int64 [N]`: what its randomness descends from."""
        return fold_in(make_key(self.family, self.split, self.seed), torch.from_numpy(np.array(self.index)))

    @property
    def hash(self) -> str:
        """16 hexadecimal digits that change when any value does."""
        digest = hashlib.blake2b(self.family.encode(), digest_size=8)
        digest.update(content_hash(self.values).tobytes())
        return digest.hexdigest()

    def tensors(self, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """The values as tensors: name to `float32 [N, *shape]` on `device`."""
        return {k: torch.from_numpy(np.array(v)).to(device) for k, v in self.values.items()}

    def _head(self) -> dict[str, Any]:
        """All but the arrays as JSON-able data: the hash of the values, and one of everything."""
        head = {"format": FORMAT, "family": self.family, "split": self.split, "seed": self.seed, "hash": self.hash}
        head |= {"space": space_to_dict(self.space)}
        arrays = digest_arrays({"index": self.index} | _prefixed(self.values))
        return {**head, "sha256": digest_json([head, arrays])}

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form, with its hashes."""
        values = {k: v.tolist() for k, v in self.values.items()}
        return {**self._head(), "index": self.index.tolist(), "values": values}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Tasks:
        """The inverse of `to_dict`.

        Raises:
            InvalidValueError: the data are of another format, lack something, or do not match their hashes.
        """
        with reading("tasks", verbatim("not usable"), "what Tasks.to_dict gives"):
            space = _space_of(data)
            values = {k: _numbers(f"values of {k}", v, np.float32) for k, v in dict(data["values"]).items()}
            index = _numbers("index", data["index"], np.int64)
            _check_shapes(space, index.shape, {k: v.shape for k, v in values.items()})
            return cls(data["family"], data["split"], data["seed"], index, values, space)._matching(data)

    def _matching(self, head: Mapping[str, Any]) -> Tasks:
        """These tasks, if they have the hashes that `head` names."""
        for name, kind in (("hash", "tasks hash"), ("sha256", "tasks sha256")):
            found = self._head()[name]
            if found != head[name]:
                of = "the hash of the values" if name == "hash" else "the hash of everything"
                raise InvalidValueError(kind, head[name], f"{found!r}, {of}")
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `.json` or `.npz` (by the suffix), whole or not at all."""
        target = Path(path)
        if target.suffix == ".json":
            data = json.dumps(self.to_dict()).encode()
            if len(data) > LARGEST_JSON:
                raise InvalidValueError("path", str(path), "a file name that ends in .npz for so many tasks")
            write_atomic(target, data)
        elif target.suffix == ".npz":
            head: Array = np.frombuffer(json.dumps(self._head()).encode(), np.uint8)
            write_npz(target, {"head": head, "index": self.index, **_prefixed(self.values)})
        else:
            raise InvalidValueError("path", str(path), "a file name that ends in .json or .npz")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tasks:
        """Read what `save` wrote; nothing in the file is ever executed.

        Raises:
            InvalidValueError: it is no such file, whatever its bytes, or does not match its hashes.
        """
        with reading("tasks file", str(path), "a file written by Tasks.save"):
            if Path(path).suffix == ".npz":
                return cls._from_npz(NpzReader(read_bytes(Path(path), LARGEST_ARRAYS)))
            return cls.from_dict(parse_json(read_bytes(Path(path), LARGEST_JSON)))

    @classmethod
    def _from_npz(cls, file: NpzReader) -> Tasks:
        """Tasks whose arrays are read after their shapes have been compared with the head's space."""
        if (told := file.arrays.get("head")) is None or math.prod(told.shape) > LARGEST_HEAD:
            raise ValueError("it has no head, or too large a one")
        head = parse_json(file.read("head", "|u1").tobytes())
        space, shapes = _space_of(head), {name: told.shape for name, told in file.arrays.items() if name != "head"}
        values = {name.removeprefix("value."): shape for name, shape in shapes.items() if name.startswith("value.")}
        if set(shapes) != {"index", *(f"value.{name}" for name in space)}:
            raise ValueError(f"its arrays are {sorted(shapes)}")
        _check_shapes(space, shapes["index"], values)
        index = file.read("index", "<i8")
        arrays = {name: file.read(f"value.{name}", "<f4") for name in space}
        return cls(head["family"], head["split"], head["seed"], index, arrays, space)._matching(head)


def _space_of(head: Any) -> dict[str, Distribution]:
    """The task space of a file, whose other fields are checked as well."""
    if not isinstance(head, Mapping) or head.get("format") != FORMAT:
        found = head.get("format") if isinstance(head, Mapping) else type(head).__name__
        raise InvalidValueError("tasks format", found, f"{FORMAT!r}")
    check_fields(head, _HEAD, "the tasks")
    return space_from_dict(head["space"])


def _numbers(name: str, given: Any, dtype: type[np.generic]) -> Array:
    """Finite numbers of a file as an array; a whole `dtype` takes whole numbers alone."""
    found = np.asarray(given)
    kinds = "i" if np.issubdtype(dtype, np.integer) else "if"
    values = found.astype(dtype)
    if found.size and not (found.dtype.kind in kinds and np.isfinite(values).all()):
        raise ValueError(f"{name}: not all are finite numbers of type {np.dtype(dtype).name}")
    return values


def _check_shapes(space: TaskSpace, index: tuple[int, ...], values: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse arrays that do not hold one value of each parameter per task."""
    expected = {name: (*index, *dist.shape) for name, dist in space.items()}
    if len(index) != 1 or dict(values) != expected:
        raise InvalidValueError("shapes of the tasks' values", dict(values), f"{expected}, by index and space")


def make_tasks(family: str, space: TaskSpace, values: Mapping[str, Any], split: str = "custom") -> Tasks:
    """Tasks from a user's own values (one task, or arrays of equal length), checked against the space."""
    if set(values) != set(space):
        wrong = sorted(set(values) ^ set(space))[0]
        listing = f"exactly the parameters {sorted(space)} of {family}"
        raise InvalidValueError(
            f"task parameter {wrong!r}", verbatim("missing" if wrong in space else "unknown"), listing
        )
    arrays: dict[str, Array] = {}
    for name, dist in space.items():
        try:
            given = dist.encode(values[name]) if isinstance(dist, (Choice, Repeated)) else values[name]
            array = np.array(given, dtype=np.float32)
        except (TypeError, ValueError) as error:
            expected = dist.describe() if isinstance(dist, Choice) else f"numbers of shape {dist.shape}"
            raise InvalidValueError(f"task.{name}", values[name], expected) from error
        array = array[None] if array.shape == dist.shape else array
        if array.shape[1:] != dist.shape or array.ndim == 0:
            raise InvalidValueError(
                f"task.{name} shape", array.shape, f"{dist.shape}, or (N, *{dist.shape}) for N tasks"
            )
        inside = dist.contains(array)
        if not inside.all():
            raise InvalidValueError(
                f"task.{name}", verbatim(f"{array[~inside][0]:g}"), f"{dist.describe()}, for {family}"
            )
        arrays[name] = array
    lengths = {k: len(v) for k, v in arrays.items()}
    if len(set(lengths.values())) != 1:
        raise InvalidValueError("number of tasks", lengths, "the same for every parameter")
    count = next(iter(lengths.values()))
    return Tasks(family, split, 0, np.arange(count, dtype=np.int64), arrays, dict(space))


def sample_tasks(
    family: str, space: TaskSpace, split: str, seed: int, index: npt.NDArray[np.int64], side: int | None
) -> Tasks:
    """Tasks at the addresses `index` of (family, split, seed).

    Args:
        family: full id of the family.
        space: what to draw from.
        split: the split's name, part of the address.
        seed: seed of the draw.
        index: which tasks, `int64 [N]`.
        side: 0 or 1 keeps only tasks whose content hash has that parity; `None` keeps all.
    """
    keys = fold_in(make_key("task", family, split, seed), torch.from_numpy(np.ascontiguousarray(index, dtype=np.int64)))
    values = {k: np.empty((len(index), *d.shape), dtype=np.float32) for k, d in space.items()}
    open_rows = np.arange(len(index))
    for attempt in range(_MAX_REDRAWS):
        rng = Rng(keys[torch.from_numpy(open_rows)]).seek(attempt)
        drawn = {k: space[k].sample(rng).numpy() for k in sorted(space)}
        keep = np.ones(len(open_rows), dtype=bool)
        if side is not None:
            keep = (content_hash(drawn) & 1) == side
        for name, leaf in drawn.items():
            values[name][open_rows[keep]] = leaf[keep]
        open_rows = open_rows[~keep]
        if not len(open_rows):
            return Tasks(family, split, int(seed), np.array(index, dtype=np.int64), values, dict(space))
    raise InvalidValueError("task_space", space_to_dict(space), f"a space with tasks in the split {split!r}")


def on_side(tasks: Tasks, side: int) -> npt.NDArray[np.bool_]:
    """Which tasks lie on a side of the train-test line: `bool [N]`."""
    return cast("npt.NDArray[np.bool_]", (content_hash(tasks.values) & 1) == side)


def _prefixed(values: Mapping[str, Array]) -> dict[str, Array]:
    return {f"value.{k}": v for k, v in values.items()}
