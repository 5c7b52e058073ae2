"""Files: written whole or not at all, and read as data whose bytes may be anything.

An object in JSON names its `format` and carries `sha256`, the hash of everything else in it. Arrays are `.npz` files of
plain numbers, whose names, types and sizes are looked at before anything is allocated. Nothing that is read is ever
executed, and whatever is wrong with a file ends in one sentence.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import secrets
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from metarl.errors import InvalidValueError, printable, verbatim

Array = npt.NDArray[Any]
LARGEST_ARRAYS = (1 << 31) - (1 << 24)  # bytes of a file's arrays: the list of members of a larger one has another form
LARGEST_HEAD = 1 << 24  # bytes of a JSON file that describes something
LARGEST_JSON = 1 << 29  # bytes of a JSON file with numbers in it
_DIRECTORY = 1 << 20  # bytes of an npz file's list of members
_CHUNK = 1 << 20
NO_WAITING = getattr(os, "O_NONBLOCK", 0)  # to open a pipe would wait for who writes into it; Windows has none to open
_NPY = re.compile(rb"\{'descr': '([<|][fiu][1248])', 'fortran_order': False, 'shape': \(([0-9, ]*)\), \} *\n")


# --- writing ---------------------------------------------------------------------------------------------------------


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file whole or not at all.

    The bytes go to a new file beside it, under a name that nobody can foresee, which then takes its place. A symbolic
    link in its place is replaced, never followed.

    Raises:
        InvalidValueError: the place cannot be written, or something that is no file is there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            raise ValueError("what is there is no file")
        _write_beside(path, data, os.replace)
    except (OSError, ValueError) as error:
        raise InvalidValueError("output path", str(path), f"a place that can be written ({reason(error)})") from error


def _write_beside(path: Path, data: bytes, name: Callable[[Path, Path], None]) -> None:
    """Write a temporary file, and let `name` give it its name, which is `path`."""
    part = path.parent / f".metarl-{secrets.token_hex(8)}.part"
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # O_EXCL follows no link
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        name(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def write_first(path: Path, data: bytes) -> bool:
    """Write a file whole or not at all, unless there is one; whether it was written. Of several processes, one writes.

    Raises:
        InvalidValueError: the place cannot be written.
    """
    try:
        _write_beside(path, data, _name_first)
    except FileExistsError:
        return False
    except (OSError, ValueError) as error:
        raise InvalidValueError("output path", str(path), f"a place that can be written ({reason(error)})") from error
    return True


def _name_first(part: Path, path: Path) -> None:
    """Give a file its name, unless something has it."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        os.replace(part, path)
    else:
        part.unlink()


def write_json(path: Path, head: Mapping[str, Any]) -> None:
    """Write an object as JSON, whole or not at all, with the hash of it all as `sha256`."""
    write_atomic(path, json_bytes(head))


def json_bytes(head: Mapping[str, Any]) -> bytes:
    """What `write_json` writes."""
    plain = json.loads(json.dumps(head))
    return (json.dumps({**plain, "sha256": digest_json(plain)}, indent=1) + "\n").encode()


def write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    """`numpy.savez_compressed`, whole or not at all.

    Raises:
        InvalidValueError: the arrays are larger than what `NpzReader` takes, or the place cannot be written.
    """
    size = sum(values.nbytes for values in arrays.values())
    if size > LARGEST_ARRAYS - _DIRECTORY:
        raise InvalidValueError("bytes of the arrays", size, f"at most {LARGEST_ARRAYS - _DIRECTORY}, for {path}")
    plain = {name: np.asarray(values, order="C") for name, values in arrays.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **cast("dict[str, Any]", plain))
    write_atomic(path, buffer.getvalue())


# --- hashes ----------------------------------------------------------------------------------------------------------


def digest_bytes(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def digest_json(data: Any) -> str:
    """SHA-256 of data that JSON holds, the same whatever the order of names and the spaces between them."""
    return digest_bytes(json.dumps(data, sort_keys=True, separators=(",", ":")).encode())


def digest_arrays(arrays: Mapping[str, Array]) -> str:
    """SHA-256 of arrays: their names, types, shapes and bytes, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        values = np.asarray(arrays[name], order="C")
        digest.update(json.dumps([name, values.dtype.str, list(values.shape)]).encode())
        digest.update(values.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


# --- reading ---------------------------------------------------------------------------------------------------------


@contextmanager
def reading(field: str, value: object, expected: str) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into one sentence that names it."""
    try:
        yield
    except Exception as error:  # bytes may be anything, and so may what a parser says of them
        if isinstance(error, InvalidValueError) and str(value) in str(error):
            raise
        raise InvalidValueError(field, value, f"{expected} ({_other(error, value)}{reason(error)})") from error


def _other(error: BaseException, value: object) -> str:
    """The name of the file that an error is about, where it is another than the one that a sentence names."""
    name = error.filename if isinstance(error, OSError) else None
    return f"{printable(Path(name).name)}: " if isinstance(name, (str, Path)) and str(name) != str(value) else ""


def reason(error: BaseException) -> str:
    """An error's text as part of a sentence: one line without control characters, not too long."""
    told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    told = " ".join(told.split())
    if not told or isinstance(error, KeyError):
        told = f"{type(error).__name__} {told}".strip()
    shown = printable(told[:400])
    return shown if len(shown) <= 300 else f"{shown[:297]}..."


def read_bytes(path: Path, largest: int) -> bytes:
    """A regular file's bytes.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is a folder, a pipe or a device, or larger than `largest`.
    """
    with open(path, "rb", opener=lambda p, flags: os.open(p, flags | NO_WAITING)) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no regular file")
        if found.st_size > largest:
            raise ValueError(f"its {found.st_size:,} bytes are more than {largest:,}")
        return file.read(found.st_size)


def parse_json(data: bytes | str) -> Any:
    """Data from JSON.

    Raises:
        ValueError: it is not JSON in UTF-8, a name comes twice in an object, or it is nested too deeply.
    """
    try:
        return json.loads(data if isinstance(data, str) else data.decode(), object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names are all different."""
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a name comes twice in an object")
    return made


def read_json(path: Path, form: str, advice: str) -> dict[str, Any]:
    """The object that `write_json` wrote, without its hash.

    Args:
        path: the file.
        form: what `format` must be.
        advice: what to do where the file was changed after it was written.

    Raises:
        InvalidValueError: the format is another.
        OSError: it cannot be opened.
        ValueError: it is no such file, or does not match its hash.
    """
    head = parse_json(read_bytes(path, LARGEST_HEAD))
    if not isinstance(head, dict) or head.get("format") != form:
        found = head.get("format") if isinstance(head, dict) else verbatim(type(head).__name__)
        raise InvalidValueError(f"format of {path}", found, repr(form))
    if head.pop("sha256", None) != digest_json(head):
        raise ValueError(f"{path.name} was changed after it was written: {advice}")
    return head


class Kind(NamedTuple):
    """What a field may hold: in words, and as a test."""

    words: str
    holds: Callable[[Any], bool]


MOST = 10**12  # of what a file counts
TEXT = Kind("text", lambda value: isinstance(value, str))
TEXTS = Kind("a list of texts", lambda value: isinstance(value, list) and all(isinstance(v, str) for v in value))
OBJECT = Kind("an object", lambda value: isinstance(value, dict))


def whole(low: int, high: int = MOST) -> Kind:
    """A whole number from `low` to `high`."""
    return Kind(f"a whole number from {low} to {high}", lambda value: type(value) is int and low <= value <= high)


SEED = whole(-(1 << 63), (1 << 63) - 1)
SEEDS = Kind("a list of whole numbers", lambda value: isinstance(value, list) and all(map(SEED.holds, value)))


def check_fields(head: Mapping[str, Any], kinds: Mapping[str, Kind], where: str, optional: bool = False) -> None:
    """Refuse a field of another kind, by name, and one that is missing unless all are `optional`."""
    for name, kind in kinds.items():
        if name in head and not kind.holds(head[name]):
            raise InvalidValueError(f"{name} of {where}", head[name], kind.words)
        if name not in head and not optional:
            raise InvalidValueError(f"{name} of {where}", verbatim("missing"), kind.words)


# --- arrays ----------------------------------------------------------------------------------------------------------


class Declared(NamedTuple):
    """What an npz file says of an array: its type, its shape, and where its numbers begin in which member."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    info: zipfile.ZipInfo


class NpzReader:
    """The arrays of an npz file; the constructor reads what they are, and `read` one of them.

    Args:
        data: the file's bytes.

    Raises:
        Exception: of many kinds, because the bytes may be anything; see `reading`.
    """

    def __init__(self, data: bytes) -> None:
        _check_directory(data)
        self._zip = zipfile.ZipFile(io.BytesIO(data))
        infos = self._zip.infolist()
        if sum(info.file_size for info in infos) > LARGEST_ARRAYS:
            raise ValueError(f"its arrays are larger than {LARGEST_ARRAYS:,} bytes")
        self.arrays = {info.filename.removesuffix(".npy"): self._declared(info) for info in infos}
        if len(self.arrays) < len(infos):
            raise ValueError("a name comes twice")

    def _declared(self, info: zipfile.ZipInfo) -> Declared:
        """What the head of a member says, if its size is what the head says."""
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError("an array is compressed in another way")
        with self._zip.open(info) as member:
            magic, length = member.read(8), int.from_bytes(member.read(2), "little")
            told = _NPY.fullmatch(member.read(min(length, 1024)))
        if magic != b"\x93NUMPY\x01\x00" or told is None:
            raise ValueError(f"{info.filename!r} is no array of plain numbers")
        dtype, shape = told[1].decode(), tuple(int(n) for n in told[2].decode().split(",") if n.strip())
        if 10 + length + math.prod(shape) * int(dtype[-1]) != info.file_size:
            raise ValueError(f"{info.filename!r} is not as large as it says")
        return Declared(dtype, shape, 10 + length, info)

    def read(self, name: str, dtype: str) -> Array:
        """An array.

        Args:
            name: of the array.
            dtype: what its type must be, for example "<f8".
        """
        told = self.arrays.get(name)
        if told is None or told.dtype != dtype:
            found = "missing" if told is None else f"of type {told.dtype}"
            raise ValueError(f"array {name!r} is {found}, not {dtype}")
        values = np.empty(told.shape, dtype)
        place = values.reshape(-1).view(np.uint8)
        with self._zip.open(told.info) as member:
            member.read(told.start)
            for at in range(0, len(place), _CHUNK):
                part = place[at : at + _CHUNK]
                part[:] = np.frombuffer(member.read(len(part)), np.uint8)
        return values


def _check_directory(data: bytes) -> None:
    """Refuse a file whose list of members is not at its end as we write it, or so long that parsing it takes long."""
    end = data[-22:]
    plain = end[:4] == b"PK\x05\x06" and data[-42:-38] != b"PK\x06\x07"  # no comment, no 64-bit form
    if not plain or int.from_bytes(end[12:16], "little") > _DIRECTORY:
        raise ValueError("it is no npz file")
