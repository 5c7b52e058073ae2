"""File locks, which the system releases when their process ends: for run directories and for groups of files."""

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
LONGEST_WAIT = 10.0  # seconds to wait for another process, which writes its files in milliseconds
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}  # errors of file systems without locks
_held: set[int] = set()  # descriptors of the locks that this process holds


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold the lock of a run directory. If the system or the file system has no locks, do nothing.

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
        if descriptor in _held:  # False in a forked process
            _held.discard(descriptor)
            with suppress(OSError):
                if _is_current(path, descriptor):  # otherwise the run was removed and another one has its path
                    path.unlink()
            os.close(descriptor)


@contextmanager
def directory_lock(directory: Path, write: bool) -> Iterator[None]:
    """Hold a lock on a directory while a group of its files is written or read. Wait for other processes first.

    If there are no locks, or another process holds its lock longer than `LONGEST_WAIT`, continue without a lock.

    Args:
        directory: the directory of the files.
        write: True for an exclusive lock, False for a shared one.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | NO_WAITING)
    except (OSError, ValueError):
        yield  # the caller reports what is wrong with the directory
        return
    try:
        _wait_for_lock(descriptor, write)
        yield
    finally:
        os.close(descriptor)


def _wait_for_lock(descriptor: int, write: bool) -> None:
    if sys.platform == "win32":
        return
    import fcntl

    end = time.monotonic() + LONGEST_WAIT
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
    """Lock the lock file, write this process's id into it, and return its descriptor."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | NO_WAITING, 0o644)
        try:
            _lock(descriptor, run)
            if _is_current(path, descriptor):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()} on {platform.node()}\n".encode(), 0)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # another process removed the lock file after it was opened here: try again


def _lock(descriptor: int, run: Path) -> None:
    import fcntl

    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise InvalidValueError("run", str(run), f"a directory whose {NAME} is a file")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 300, 0).decode(errors="replace").strip() or "unknown"
        expected = f"a run that no other process trains: process {holder} trains it"
        raise InvalidValueError("run", str(run), expected) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def _is_current(path: Path, descriptor: int) -> bool:
    """Whether an open file is still the file at `path`."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _forget() -> None:
    """Close the inherited descriptors in a forked process, so that it does not keep the lock of a killed training."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
