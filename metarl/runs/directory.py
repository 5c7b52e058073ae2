"""Make the directory of a new run, and remove what a failed command made."""

from __future__ import annotations

import errno
import os
import re
import shlex
from contextlib import suppress
from pathlib import Path

from metarl.errors import InvalidValueError
from metarl.runs.checkpoints import TEMPORARY

SEED_NAME = re.compile(r"seed-?[0-9]{1,19}")  # directory of the run of one of several seeds


class MadeFiles:
    """The files and directories that a command made, in order. It can remove them, and nothing else."""

    def __init__(self) -> None:
        self.paths: list[Path] = []

    def add(self, *paths: Path) -> None:
        """Add paths that were made."""
        self.paths += paths

    def will_make(self, *paths: Path) -> None:
        """Add those of the paths that do not exist yet. They are made next."""
        self.add(*(path for path in paths if not os.path.lexists(path)))

    def remove(self) -> None:
        """Remove the files, and those of the directories that are empty then."""
        for path in reversed(self.paths):
            with suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        self.paths = []


def check_free(path: Path) -> None:
    """Refuse a path where a run or other files exist already."""
    try:
        if os.path.lexists(path / "config.json"):
            resume = f"metarl train --resume {shlex.quote(str(path))}"
            raise InvalidValueError("run directory", str(path), f"a new one (or resume it: {resume})")
        if path.is_dir() and any(not TEMPORARY.fullmatch(name) for name in os.listdir(path)):
            raise InvalidValueError("run directory", str(path), "a new or an empty one: it contains other files")
    except (OSError, ValueError) as error:
        if isinstance(error, InvalidValueError):
            raise
        raise InvalidValueError("run directory", str(path), f"a place that can be read ({error})") from error


def seed_runs(folder: Path) -> list[Path]:
    """The runs of several seeds in a folder that is no run itself: `seedN`, in the order of N; empty without any."""
    if not folder.is_dir() or os.path.lexists(folder / "config.json"):
        return []
    names = [name for name in os.listdir(folder) if SEED_NAME.fullmatch(name)]
    runs = [folder / name for name in sorted(names, key=lambda name: int(name.removeprefix("seed")))]
    return [run for run in runs if os.path.lexists(run / "config.json")]


def make_directory(path: Path) -> list[Path]:
    """Make a directory and its missing parents; return the directories that were made, parents first."""
    missing = [place for place in (path, *path.parents) if not os.path.lexists(place)]
    made: list[Path] = []
    try:
        for place in reversed(missing):
            with suppress(FileExistsError):  # another process made it in the meantime
                place.mkdir()
                made.append(place)
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    except OSError as error:
        for place in reversed(made):
            with suppress(OSError):  # the directory is no longer empty
                place.rmdir()
        raise InvalidValueError("output path", str(path), f"a place that can be written ({error.strerror})") from error
    return made
