"""Files: each is written completely or not at all, and is read as data that may contain any bytes.

A JSON object names its `format` and contains `sha256`, the hash of all its other fields. Arrays are stored in `.npz`
files of plain numbers; names, types and sizes are checked before memory is allocated. Reading never executes code, and
a damaged file causes an error of one sentence.
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
JsonObject = dict[str, Any]  # an object of JSON data
LARGEST_ARRAYS = (1 << 31) - (1 << 24)  # bytes of a file's arrays; a larger file needs the 64-bit form of zip
LARGEST_HEAD = 1 << 24  # bytes of a JSON file without arrays
LARGEST_JSON = 1 << 29  # bytes of a JSON file with arrays
_DIRECTORY = 1 << 20  # bytes of an npz file's list of members
_CHUNK = 1 << 20  # bytes that are read at once
NO_WAITING = getattr(os, "O_NONBLOCK", 0)  # without it, opening a pipe waits for a writer; Windows does not have it
_NPY = re.compile(rb"\{'descr': '([<|][fiu][1248])', 'fortran_order': False, 'shape': \(([0-9, ]*)\), \} *\n")


# --- writing ---------------------------------------------------------------------------------------------------------


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file completely or not at all.

    The bytes are written to a temporary file with a random name in the same directory. Then it replaces `path`. A
    symbolic link at `path` is replaced and not followed.

    Raises:
        InvalidValueError: the path cannot be written, or it exists and is not a file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            raise ValueError("it exists and is not a file")
        _write_beside(path, data, os.replace)
    except (OSError, ValueError) as error:
        raise InvalidValueError("output path", str(path), f"a place that can be written ({reason(error)})") from error


def _write_beside(path: Path, data: bytes, name: Callable[[Path, Path], None]) -> None:
    """Write a temporary file in the same directory, then call `name(temporary, path)` to rename it."""
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
    """Write a file completely or not at all, unless it exists. If several processes try this, exactly one succeeds.

    Returns:
        whether this call wrote the file.

    Raises:
        InvalidValueError: the path cannot be written.
    """
    try:
        _write_beside(path, data, _name_first)
    except FileExistsError:
        return False
    except (OSError, ValueError) as error:
        raise InvalidValueError("output path", str(path), f"a place that can be written ({reason(error)})") from error
    return True


def _name_first(part: Path, path: Path) -> None:
    """Rename a file, unless the new name exists.

    Raises:
        FileExistsError: the new name exists.
    """
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        os.replace(part, path)
    else:
        part.unlink()


def write_json(path: Path, head: Mapping[str, object]) -> None:
    """Write an object as JSON, completely or not at all. The field `sha256` is the hash of all other fields."""
    write_atomic(path, json_bytes(head))


def json_bytes(head: Mapping[str, object]) -> bytes:
    """The bytes that `write_json` writes."""
    plain = json.loads(json.dumps(head))
    return (json.dumps({**plain, "sha256": digest_json(plain)}, indent=1) + "\n").encode()


def write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays by `numpy.savez_compressed`, completely or not at all.

    Raises:
        InvalidValueError: the arrays are too large for `NpzReader`, or the path cannot be written.
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


def digest_json(data: object) -> str:
    """SHA-256 of JSON data. The order of names and the white space do not matter."""
    return digest_bytes(json.dumps(data, sort_keys=True, separators=(",", ":")).encode())


def digest_arrays(arrays: Mapping[str, Array]) -> str:
    """SHA-256 of the names, types, shapes and bytes of arrays, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        values = np.asarray(arrays[name], order="C")
        digest.update(json.dumps([name, values.dtype.str, list(values.shape)]).encode())
        digest.update(values.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


# --- reading ---------------------------------------------------------------------------------------------------------


@contextmanager
def reading(field: str, value: object, expected: str) -> Iterator[None]:
    """Within this context (a file is read), any exception becomes an `InvalidValueError` that names the file.

    Args:
        field: the field of the error.
        value: the value of the error, for example the file's path.
        expected: what was expected, in words.
    """
    try:
        yield
    except Exception as error:  # the bytes may be anything, so a parser may raise any exception
        if isinstance(error, InvalidValueError) and str(value) in str(error):
            raise
        raise InvalidValueError(field, value, f"{expected} ({_other_file(error, value)}{reason(error)})") from error


def _other_file(error: BaseException, value: object) -> str:
    """The name of the file in an OSError followed by a colon, if it is not the file that the message names already."""
    name = error.filename if isinstance(error, OSError) else None
    return f"{printable(Path(name).name)}: " if isinstance(name, (str, Path)) and str(name) != str(value) else ""


def reason(error: BaseException) -> str:
    """The message of an error as part of a sentence: one line of at most 300 printable characters."""
    message = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    message = " ".join(message.split())
    if not message or isinstance(error, KeyError):
        message = f"{type(error).__name__} {message}".strip()
    shown = printable(message[:400])
    return shown if len(shown) <= 300 else f"{shown[:297]}..."


def read_bytes(path: Path, largest: int) -> bytes:
    """The bytes of a regular file.

    Raises:
        OSError: the file cannot be opened.
        ValueError: `path` is a folder, a pipe or a device, or the file is larger than `largest` bytes.
    """
    with open(path, "rb", opener=lambda p, flags: os.open(p, flags | NO_WAITING)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a regular file")
        if status.st_size > largest:
            raise ValueError(f"its {status.st_size:,} bytes are more than {largest:,}")
        return file.read(status.st_size)


def parse_json(data: bytes | str) -> Any:
    """Parse JSON.

    Raises:
        ValueError: `data` is not JSON in UTF-8, an object has a name twice, or the nesting is too deep.
    """
    try:
        return json.loads(data if isinstance(data, str) else data.decode(), object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A dict from pairs with different names; a repeated name is an error."""
    data = dict(pairs)
    if len(data) < len(pairs):
        raise ValueError("a name comes twice in an object")
    return data


def read_json(path: Path, form: str, advice: str) -> JsonObject:
    """Read an object that `write_json` wrote; return it without its hash.

    Args:
        path: the file.
        form: the expected value of the field `format`.
        advice: what the user can do if the file was changed after it was written.

    Raises:
        InvalidValueError: the field `format` has another value.
        OSError: the file cannot be opened.
        ValueError: the file is not JSON, or does not match its hash.
    """
    head = parse_json(read_bytes(path, LARGEST_HEAD))
    if not isinstance(head, dict) or head.get("format") != form:
        found = head.get("format") if isinstance(head, dict) else verbatim(type(head).__name__)
        of_another = isinstance(found, str) and found.rpartition("-")[0] == form.rpartition("-")[0]
        why = " (another version of metarl wrote it, which can read it)" if of_another else ""
        raise InvalidValueError(f"format of {path}", found, f"{form!r}{why}")
    if head.pop("sha256", None) != digest_json(head):
        raise ValueError(f"{path.name} was changed after it was written: {advice}")
    return head


class Kind(NamedTuple):
    """The allowed values of a field: in words, and as a test of a value."""

    words: str
    holds: Callable[[object], bool]


LARGEST_COUNT = 10**12  # largest whole number in a file, by default
TEXT = Kind("text", lambda value: isinstance(value, str))
TEXTS = Kind("a list of texts", lambda value: isinstance(value, list) and all(isinstance(v, str) for v in value))
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
OBJECT = Kind("an object", lambda value: isinstance(value, dict))


def whole(low: int, high: int = LARGEST_COUNT) -> Kind:
    """The kind of fields that hold a whole number from `low` to `high`."""
    return Kind(f"a whole number from {low} to {high}", lambda value: type(value) is int and low <= value <= high)


SEED = whole(-(1 << 63), (1 << 63) - 1)
SEEDS = Kind("a list of whole numbers", lambda value: isinstance(value, list) and all(map(SEED.holds, value)))


def check_fields(head: Mapping[str, object], kinds: Mapping[str, Kind], where: str, optional: bool = False) -> None:
    """Refuse a field of a wrong kind, and a missing field unless the fields are `optional`."""
    for name, kind in kinds.items():
        if name in head and not kind.holds(head[name]):
            raise InvalidValueError(f"{name} of {where}", head[name], kind.words)
        if name not in head and not optional:
            raise InvalidValueError(f"{name} of {where}", verbatim("missing"), kind.words)


# --- arrays ----------------------------------------------------------------------------------------------------------


class ArrayHeader(NamedTuple):
    """Description of an array in an npz file."""

    dtype: str
    shape: tuple[int, ...]
    start: int  # position of the first number in the member, in bytes
    info: zipfile.ZipInfo  # the member of the zip file


class NpzReader:
    """Reader of an npz file. The constructor reads the headers of all arrays; `read` reads one array.

    Args:
        data: the file's bytes.

    Attributes:
        arrays: array name to header.

    Raises:
        Exception: any exception, because the bytes may be anything; see `reading`.
    """

    def __init__(self, data: bytes) -> None:
        _check_directory(data)
        self._zip = zipfile.ZipFile(io.BytesIO(data))
        infos = self._zip.infolist()
        if sum(info.file_size for info in infos) > LARGEST_ARRAYS:
            raise ValueError(f"its arrays are larger than {LARGEST_ARRAYS:,} bytes")
        self.arrays = {info.filename.removesuffix(".npy"): self._read_header(info) for info in infos}
        if len(self.arrays) < len(infos):
            raise ValueError("a name comes twice")

    def _read_header(self, info: zipfile.ZipInfo) -> ArrayHeader:
        """The header of a member, after a check that the member has the size that the header declares."""
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError("an array has an unknown compression")
        with self._zip.open(info) as member:
            magic, length = member.read(8), int.from_bytes(member.read(2), "little")
            match = _NPY.fullmatch(member.read(min(length, 1024)))
        if magic != b"\x93NUMPY\x01\x00" or match is None:
            raise ValueError(f"{info.filename!r} is not an array of plain numbers")
        dtype, shape = match[1].decode(), tuple(int(n) for n in match[2].decode().split(",") if n.strip())
        if 10 + length + math.prod(shape) * int(dtype[-1]) != info.file_size:
            raise ValueError(f"{info.filename!r} is not as large as it says")
        return ArrayHeader(dtype, shape, 10 + length, info)

    def read(self, name: str, dtype: str) -> Array:
        """Read an array.

        Args:
            name: name of the array.
            dtype: its expected type, for example "<f8".

        Raises:
            ValueError: there is no such array, or it has another type.
        """
        header = self.arrays.get(name)
        if header is None or header.dtype != dtype:
            found = "missing" if header is None else f"of type {header.dtype}"
            raise ValueError(f"array {name!r} is {found}, not {dtype}")
        values = np.empty(header.shape, dtype)
        place = values.reshape(-1).view(np.uint8)
        with self._zip.open(header.info) as member:
            member.read(header.start)
            for at in range(0, len(place), _CHUNK):
                part = place[at : at + _CHUNK]
                part[:] = np.frombuffer(member.read(len(part)), np.uint8)
        return values


def _check_directory(data: bytes) -> None:
    """Refuse a file that does not end like the ones that we write, or whose list of members is very long."""
    end = data[-22:]
    plain = end[:4] == b"PK\x05\x06" and data[-42:-38] != b"PK\x06\x07"  # no comment, no 64-bit form
    if not plain or int.from_bytes(end[12:16], "little") > _DIRECTORY:
        raise ValueError("it is not an npz file")
