"""The errors that users meet: one sentence that names the field, the value and what was expected."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import Any

from metarl.distribution import install_command


class MetaRLError(Exception):
    """Anything a user can mend; the command line prints it in one line and exits with code 2."""


def printable(text: str) -> str:
    """The text with control and other invisible characters as escapes, so that it cannot steer a terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class InvalidValueError(MetaRLError, ValueError):
    """A field holds a value that cannot be used.

    Args:
        field: name of the field, as the user wrote it.
        value: what was found there (its `repr` is shown, shortened to 120 characters).
        expected: what would have been accepted.
    """

    def __init__(self, field: str, value: object, expected: str) -> None:
        self.field, self.value, self.expected = field, value, expected
        shown = value if isinstance(value, _Verbatim) else repr(value)
        shown = shown if len(shown) <= 120 else shown[:117] + "..."
        super().__init__(printable(f"{field} is {shown}, expected {expected}"))

    def __reduce__(self) -> tuple[type[InvalidValueError], tuple[str, object, str]]:
        return type(self), (self.field, self.value, self.expected)


class DivergedWarning(UserWarning):
    """An adaptation step gave numbers that are not finite; it was undone and counted as failed."""


class FamilyWarning(UserWarning):
    """What may be meant, and is worth knowing before hours of training: a task that the observation shows, say."""


class _Verbatim(str):
    """A value that is shown as it is, without quotes."""

    __slots__ = ()


def verbatim(text: str) -> str:
    """Mark `text` to be shown in an `InvalidValueError` without quotes."""
    return _Verbatim(text)


MOST_LISTED = 12


def did_you_mean(value: str, known: Iterable[str]) -> str:
    """Return `one of a, b, c`, led by the nearest known name where there is one; of many names the nearest."""
    names = sorted(known)
    near = difflib.get_close_matches(value, names, n=1, cutoff=0.5)
    listing = f"one of {', '.join(names)}" if names else "a registered name (none is: is the package installed?)"
    if len(names) > MOST_LISTED:
        closest = difflib.get_close_matches(value, names, n=5, cutoff=0.0)
        listing = f"one of {len(names)} names, such as {', '.join(sorted(closest))}"
    return f"{listing} (did you mean {near[0]!r}?)" if near else listing


class MissingExtraError(MetaRLError, ImportError):
    """A family or agent needs an optional package that is not installed.

    Args:
        user: who needs it.
        module: the module that could not be imported.
        extra: the extra of metarl that installs it.
    """

    def __init__(self, user: str, module: str, extra: str) -> None:
        self.user, self.module, self.extra = user, module, extra
        command = install_command(extra, module)
        super().__init__(f"{printable(user)} needs the package {module}, which is not installed: {command}")

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str, str]]:
        return type(self), (self.user, self.module, self.extra)


def require_extra(user: str, module: str, extra: str) -> Any:
    """Import an optional package's module, or say which command installs it.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise  # it is installed and something of its own is missing
        raise MissingExtraError(user, module.partition(".")[0], extra) from error
