"""Locks that the system releases when their process ends: one training at a time, and files that belong together."""

from __future__ import annotations

import errno
import os
import platform
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from metarl.errors import InvalidValueError
from metarl.files import NO_WAITING

NAME = ".metarl-lock"
LONGEST = 10.0  # seconds to wait for files that are written in milliseconds
_UNKNOWN = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}  # what file systems without locks say
_held: set[int] = set()  # descriptors of this process


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold the lock of a run directory; where the system or the file system has none, nothing is held.

    Raises:
        InvalidValueError: another process trains this run, or the directory cannot be written.
    """
    if sys.platform == "win32":
        yield
        return
    path = run / NAME
    try:
        descriptor = _acquire(path, run)
    except OSError as error:
        raise InvalidValueError("run", str(run), f"a directory that can be written ({error.strerror})") from error
    _held.add(descriptor)
    try:
        yield
    finally:
        if descriptor in _held:  # not in a forked process
            _held.discard(descriptor)
            with suppress(OSError):
                if _is_there(path, descriptor):  # else the run was removed, and another one made there
                    path.unlink()
            os.close(descriptor)


@contextmanager
def together(directory: Path, write: bool) -> Iterator[None]:
    """While files that belong together are written or read: wait for who writes others, or reads them, there.

    Where there are no locks, or somebody does not go on, nothing is waited for.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | NO_WAITING)
    except (OSError, ValueError):
        yield  # what is wrong with the directory is said by who writes or reads
        return
    try:
        _await(descriptor, write)
        yield
    finally:
        os.close(descriptor)


def _await(descriptor: int, write: bool) -> None:
    if sys.platform == "win32":
        return
    import fcntl

    end = time.monotonic() + LONGEST
    while time.monotonic() < end:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_EX if write else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.01)
        except OSError:
            return
        else:
            return


def _acquire(path: Path, run: Path) -> int:
    """The descriptor of the lock's file, locked and with this process's number in it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | NO_WAITING, 0o644)
        try:
            _lock(descriptor, run)
            if _is_there(path, descriptor):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()} on {platform.node()}\n".encode(), 0)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # who held it removed it while it was opened here


def _lock(descriptor: int, run: Path) -> None:
    import fcntl

    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise InvalidValueError("run", str(run), f"a directory whose {NAME} is a file")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 300, 0).decode(errors="replace").strip() or "unknown"
        expected = f"one that nobody else trains now: process {holder} does"
        raise InvalidValueError("run", str(run), expected) from None
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise


def _is_there(path: Path, descriptor: int) -> bool:
    """Whether the file that was opened is still the one under that name."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _forget() -> None:
    """Close what a forked process was given: it must not keep the lock of a training that was killed."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
