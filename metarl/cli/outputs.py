"""Where commands write: over what metarl made, never over anything else."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

from metarl.errors import InvalidValueError

_HEAD = 4096  # bytes of a file that tell what it is


def check_results(path: Path) -> None:
    """Refuse a place for results where a file is that no evaluation made: the JSON, or the arrays beside it."""
    if not path.name:
        raise InvalidValueError("output path", str(path), "the name of a file")
    path = path if path.suffix == ".json" else path.with_name(f"{path.name}.json")
    _check(path, lambda file: b'"format": "metarl-results-' in _head(file), "results of metarl's")
    _check(path.with_suffix(".npz"), _has_results, "results of metarl's")


def check_report(directory: Path) -> None:
    """Refuse a directory whose `report.html` is somebody else's."""
    _check(
        directory / "report.html",
        lambda file: b'<meta name="generator" content="metarl' in _head(file),
        "a report of metarl's",
    )


def check_film(path: Path) -> None:
    """Refuse to write a film over a file that is none of metarl's."""
    _check(path, lambda file: b"metarl" in file.read_bytes(), "a film of metarl's")


def _check(path: Path, is_ours: Callable[[Path], bool], what: str) -> None:
    try:
        _check_folder(path)
        if not os.path.lexists(path) or (path.is_file() and is_ours(path)):
            return
    except InvalidValueError:
        raise
    except (OSError, ValueError) as error:
        raise InvalidValueError("output path", str(path), f"a place that can be read ({error})") from error
    raise InvalidValueError("output path", str(path), f"a new one, or {what}: another file is there")


def _check_folder(path: Path) -> None:
    """Refuse a file that could not be made, before anything is computed that would then be lost."""
    folder = next((parent for parent in path.absolute().parents if os.path.lexists(parent)), Path("/"))
    if not folder.is_dir():
        raise InvalidValueError("output path", str(path), f"a place that can be written ({folder.name} is no folder)")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InvalidValueError("output path", str(path), f"a place that can be written ({folder} cannot be)")


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD)


def _has_results(path: Path) -> bool:
    """Whether an npz file has the arrays of an evaluation."""
    try:
        with zipfile.ZipFile(path) as file:
            return {"collected.npy", "lifetime.npy"} <= set(file.namelist())
    except Exception:  # bytes may be anything, and so may what a parser says of them
        return False
