"""Tasks as data: immutable sets of tasks, each with a split, an address and a content hash.

A task is one MDP of a family: the values of the family's declared parameters and nothing else. Sampled tasks have
addresses: task `i` of (family, split, seed) does not depend on other draws, and has the same bits on every machine
(`metarl.exact`). Train and test are disjoint by construction: a hash of a task's content decides its side, and a draw
from the wrong side is drawn again. So every task has a side that can be checked, a user's own task too. If a space has
few tasks (at most 2^14), they are listed: each task of a split comes once, in a shuffled order, before any repeats.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from metarl.errors import InvalidValueError, verbatim
from metarl.families.distributions import Array, Choice, Distribution, Repeated, TaskSpace
from metarl.families.task_spaces import (
    MOST_LISTED,
    count_tasks,
    count_values,
    space_from_dict,
    space_to_dict,
    value_at,
)
from metarl.files import (
    LARGEST_ARRAYS,
    LARGEST_HEAD,
    LARGEST_JSON,
    OBJECT,
    SEED,
    TEXT,
    JsonObject,
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

NumberT = TypeVar("NumberT", bound=np.number[Any])
FORMAT = "metarl-tasks-2"
_HEAD = dict.fromkeys(("family", "split", "hash", "sha256"), TEXT) | {"seed": SEED, "space": OBJECT}
_MAX_REDRAWS = 256


@lru_cache(maxsize=64)
def _listing(space: str, side: int | None) -> dict[str, Array]:
    """All tasks on one side of a space: name to `float32 [n, *shape]`. The space is JSON; side None is both sides."""
    dists = space_from_dict(json.loads(space))
    number, values = np.arange(int(count_tasks(dists))), {}
    for name, dist in dists.items():
        number, place = np.divmod(number, int(count_values(dist)))
        values[name] = value_at(dist, place)
    keep = slice(None) if side is None else (content_hash(values) & 1) == side
    return {name: leaf[keep] for name, leaf in values.items()}


def list_tasks(family: str, space: TaskSpace, split: str, side: int | None) -> Tasks | None:
    """Every task of a split once, in the order of the space's values; None if there are more than 2^14.

    The arguments are those of `sample_tasks`. The result has seed 0 and index 0, 1, 2, ...
    """
    if count_tasks(space) > MOST_LISTED:
        return None
    values = _listing(json.dumps(space_to_dict(space)), side)
    count = len(next(iter(values.values())))
    if not count:
        raise InvalidValueError("task_space", space_to_dict(space), f"a space with tasks in the split {split!r}")
    return Tasks(family, split, 0, np.arange(count, dtype=np.int64), dict(values), dict(space))


def shuffled(family: str, split: str, seed: int, index: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Positions in a list of `count` tasks for the addresses `index`, `int64 [N]`: each comes once before any repeats.

    Each pass through the list has its own order, a keyed shuffle.
    """
    number, place = np.divmod(np.asarray(index, dtype=np.int64), count)
    out = np.empty_like(place)
    for pass_number in np.unique(number).tolist():
        here = number == pass_number
        out[here] = _order(make_key("order", family, split, seed, pass_number), count)[place[here]]
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
        split: "train", "test", the name of an out-of-distribution split, or "custom" for a user's own tasks.
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
        self.index.setflags(write=False)
        for array in self.values.values():
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
        """A 64-bit key of each task's address, `int64 [N]`. All randomness of a task descends from it."""
        return fold_in(make_key(self.family, self.split, self.seed), torch.from_numpy(np.array(self.index)))

    @property
    def hash(self) -> str:
        """Hash of all values: 16 hexadecimal digits."""
        digest = hashlib.blake2b(self.family.encode(), digest_size=8)
        digest.update(content_hash(self.values).tobytes())
        return digest.hexdigest()

    def tensors(self, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """The values as tensors: name to `float32 [N, *shape]` on `device`."""
        return {k: torch.from_numpy(np.array(v)).to(device) for k, v in self.values.items()}

    def _head(self) -> JsonObject:
        """Everything but the arrays, as JSON data: with the hash of the values, and the hash of everything."""
        head = {"format": FORMAT, "family": self.family, "split": self.split, "seed": self.seed, "hash": self.hash}
        head |= {"space": space_to_dict(self.space)}
        arrays = digest_arrays({"index": self.index} | _prefixed(self.values))
        return {**head, "sha256": digest_json([head, arrays])}

    def to_dict(self) -> JsonObject:
        """The tasks as JSON data, with their hashes."""
        values = {k: v.tolist() for k, v in self.values.items()}
        return {**self._head(), "index": self.index.tolist(), "values": values}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Tasks:
        """The inverse of `to_dict`.

        Raises:
            InvalidValueError: the data have another format, are incomplete, or do not match their hashes.
        """
        with reading("tasks", verbatim("not usable"), "what Tasks.to_dict gives"):
            space = _space_of(data)
            values = {k: _numbers(f"values of {k}", v, np.float32) for k, v in dict(data["values"]).items()}
            index = _numbers("index", data["index"], np.int64)
            _check_shapes(space, index.shape, {k: v.shape for k, v in values.items()})
            return cls(data["family"], data["split"], data["seed"], index, values, space)._matching(data)

    def _matching(self, head: Mapping[str, object]) -> Tasks:
        """Return these tasks after a check that they match the hashes in `head`."""
        for name, kind in (("hash", "tasks hash"), ("sha256", "tasks sha256")):
            found = self._head()[name]
            if found != head[name]:
                of = "the hash of the values" if name == "hash" else "the hash of everything"
                raise InvalidValueError(kind, head[name], f"{found!r}, {of}")
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a `.json` or `.npz` file, by the suffix. The file is written completely or not at all."""
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
        """Read a file that `save` wrote. Loading never executes code from the file.

        Raises:
            InvalidValueError: `save` did not write this file, or the file does not match its hashes.
        """
        with reading("tasks file", str(path), "a file written by Tasks.save"):
            if Path(path).suffix == ".npz":
                return cls._from_npz(NpzReader(read_bytes(Path(path), LARGEST_ARRAYS)))
            return cls.from_dict(parse_json(read_bytes(Path(path), LARGEST_JSON)))

    @classmethod
    def _from_npz(cls, file: NpzReader) -> Tasks:
        """Tasks from an npz file. The shapes are compared with the head's task space before any array is read."""
        if (header := file.arrays.get("head")) is None or math.prod(header.shape) > LARGEST_HEAD:
            raise ValueError("it has no head, or its head is too large")
        head = parse_json(file.read("head", "|u1").tobytes())
        space, shapes = _space_of(head), {name: held.shape for name, held in file.arrays.items() if name != "head"}
        values = {name.removeprefix("value."): shape for name, shape in shapes.items() if name.startswith("value.")}
        if set(shapes) != {"index", *(f"value.{name}" for name in space)}:
            raise ValueError(f"its arrays are {sorted(shapes)}")
        _check_shapes(space, shapes["index"], values)
        index = file.read("index", "<i8")
        arrays = {name: file.read(f"value.{name}", "<f4") for name in space}
        return cls(head["family"], head["split"], head["seed"], index, arrays, space)._matching(head)


TaskLike = int | Mapping[str, Any] | Tasks  # an index into a split, one task's values, or tasks


def _space_of(head: object) -> dict[str, Distribution]:
    """Check the fields of a file's head and return its task space."""
    if not isinstance(head, Mapping) or head.get("format") != FORMAT:
        found = head.get("format") if isinstance(head, Mapping) else type(head).__name__
        raise InvalidValueError("tasks format", found, f"{FORMAT!r}")
    check_fields(head, _HEAD, "the tasks")
    return space_from_dict(head["space"])


def _numbers(name: str, data: npt.ArrayLike, dtype: type[NumberT]) -> npt.NDArray[NumberT]:
    """Finite numbers of a file as an array. If `dtype` is an integer type, the numbers must be integers."""
    raw = np.asarray(data)
    kinds = "i" if np.issubdtype(dtype, np.integer) else "if"
    values = raw.astype(dtype)
    if raw.size and not (raw.dtype.kind in kinds and np.isfinite(values).all()):
        raise ValueError(f"{name}: not all are finite numbers of type {np.dtype(dtype).name}")
    return values


def _check_shapes(space: TaskSpace, index: tuple[int, ...], values: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse arrays that do not hold one value of every parameter for every task."""
    expected = {name: (*index, *dist.shape) for name, dist in space.items()}
    if len(index) != 1 or dict(values) != expected:
        raise InvalidValueError("shapes of the tasks' values", dict(values), f"{expected}, by index and space")


def make_tasks(family: str, space: TaskSpace, values: Mapping[str, Any], split: str = "custom") -> Tasks:
    """Tasks from a user's own values: one task, or arrays of equal length. They must lie in the space."""
    if set(values) != set(space):
        wrong = sorted(set(values) ^ set(space))[0]
        listing = f"exactly the parameters {sorted(space)} of {family}"
        raise InvalidValueError(
            f"task parameter {wrong!r}", verbatim("missing" if wrong in space else "unknown"), listing
        )
    arrays: dict[str, Array] = {}
    for name, dist in space.items():
        try:
            encoded = dist.encode(values[name]) if isinstance(dist, (Choice, Repeated)) else values[name]
            array = np.array(encoded, dtype=np.float32)
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
        space: the task space to draw from.
        split: name of the split, part of the address.
        seed: seed of the draw.
        index: addresses, `int64 [N]`.
        side: 0 or 1 keeps only tasks whose content hash has that parity; None keeps all.
    """
    keys = fold_in(make_key("task", family, split, seed), torch.from_numpy(np.ascontiguousarray(index, dtype=np.int64)))
    values = {k: np.empty((len(index), *d.shape), dtype=np.float32) for k, d in space.items()}
    pending = np.arange(len(index))  # rows without an accepted draw
    for attempt in range(_MAX_REDRAWS):
        rng = Rng(keys[torch.from_numpy(pending)]).seek(attempt)
        drawn = {k: space[k].sample(rng).numpy() for k in sorted(space)}
        keep = np.ones(len(pending), dtype=bool)
        if side is not None:
            keep = (content_hash(drawn) & 1) == side
        for name, leaf in drawn.items():
            values[name][pending[keep]] = leaf[keep]
        pending = pending[~keep]
        if not len(pending):
            return Tasks(family, split, int(seed), np.array(index, dtype=np.int64), values, dict(space))
    raise InvalidValueError("task_space", space_to_dict(space), f"a space with tasks in the split {split!r}")


def on_side(tasks: Tasks, side: int) -> npt.NDArray[np.bool_]:
    """Which tasks lie on the given side of the train-test line: `bool [N]`."""
    return cast("npt.NDArray[np.bool_]", (content_hash(tasks.values) & 1) == side)


def _prefixed(values: Mapping[str, Array]) -> dict[str, Array]:
    return {f"value.{k}": v for k, v in values.items()}
