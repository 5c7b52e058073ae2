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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

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

FORMAT = "metarl-tasks-2"
_HEAD = dict.fromkeys(("family", "split", "hash", "sha256"), TEXT) | {"seed": SEED, "space": OBJECT}
_MAX_REDRAWS = 256


@lru_cache(maxsize=64)
def _listing(space: str, side: int | None) -> dict[str, Array]:
    """Every task of a space, given as JSON, that lies on a side: name to `float32 [n, *shape]`."""
    dists = space_from_dict(json.loads(space))
    number, values = np.arange(int(count_tasks(dists))), {}
    for name, dist in dists.items():
        number, place = np.divmod(number, int(count_values(dist)))
        values[name] = value_at(dist, place)
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


TaskLike = int | Mapping[str, Any] | Tasks  # an index into a split, one task's values, or tasks


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
