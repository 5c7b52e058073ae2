"""Checks of output paths: a command overwrites only files that metarl made."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from metarl.errors import InvalidValueError
from metarl.report.tables import MADE_BY

_HEAD = 4096  # bytes that show the kind of a file
_FIGURES = (".png", ".pdf", ".svg")
_STARTS = {".csv": b"family,split,", ".md": f"<!-- {MADE_BY}".encode(), ".tex": f"% {MADE_BY}".encode()}


def check_results(path: Path) -> None:
    """Refuse to overwrite a JSON or npz file that no evaluation made."""
    if not path.name:
        raise InvalidValueError("output path", str(path), "the name of a file")
    path = path if path.suffix == ".json" else path.with_name(f"{path.name}.json")
    _check(path, lambda file: b'"format": "metarl-results-' in _head(file), "metarl's results")
    _check(path.with_suffix(".npz"), _has_results, "metarl's results")


def check_report(directory: Path) -> None:
    """Refuse to overwrite a `report.html`, or files in `report_files`, that metarl did not make."""
    _check(
        directory / "report.html",
        lambda file: b'<meta name="generator" content="metarl' in _head(file),
        "metarl's report",
    )
    for path in sorted((directory / "report_files").glob("*/*")):
        if path.suffix in _STARTS or path.suffix in _FIGURES:
            _check(path, _is_reports, "metarl's report")


def _is_reports(path: Path) -> bool:
    """Whether a figure names metarl as its maker, or a table starts as a report's do."""
    data = path.read_bytes()
    return b"metarl" in data if path.suffix in _FIGURES else data.startswith(_STARTS[path.suffix])


def check_online(directory: Path, names: Sequence[str], figure: str) -> None:
    """Refuse to overwrite results of streams, or their figure, that metarl did not make."""
    for name in names:
        _check(
            directory / name, lambda file: b'"format": "metarl-online-' in _head(file), "metarl's results of streams"
        )
    _check(directory / figure, _is_reports, "metarl's figure")


def check_film(path: Path) -> None:
    """Refuse to overwrite a film that metarl did not make."""
    _check(path, lambda file: b"metarl" in file.read_bytes(), "metarl's film")


def _check(path: Path, is_ours: Callable[[Path], bool], what: str) -> None:
    try:
        check_folder(path.absolute().parent, path)
        if not os.path.lexists(path) or (path.is_file() and is_ours(path)):
            return
    except InvalidValueError:
        raise
    except (OSError, ValueError) as error:
        raise InvalidValueError("output path", str(path), f"a path that can be read ({error})") from error
    raise InvalidValueError("output path", str(path), f"a new path or {what}; another file exists there")


def check_folder(folder: Path, path: Path, field: str = "output path") -> None:
    """Refuse a path whose folder cannot be made or written, before results are computed that would be lost."""
    absolute = folder.absolute()
    found = next((parent for parent in (absolute, *absolute.parents) if os.path.lexists(parent)), Path("/"))
    if not found.is_dir():
        raise InvalidValueError(field, str(path), f"a path that can be written ({found.name} is not a folder)")
    if not os.access(found, os.W_OK | os.X_OK):
        raise InvalidValueError(field, str(path), f"a path that can be written ({found} cannot be written)")


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD)


def _has_results(path: Path) -> bool:
    """Whether an npz file has the arrays of an evaluation."""
    try:
        with zipfile.ZipFile(path) as file:
            return {"collected.npy", "lifetime.npy"} <= set(file.namelist())
    except Exception:  # arbitrary bytes can raise any exception in the parser
        return False
