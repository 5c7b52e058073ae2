"""Errors for users: one sentence that names the field, the value, and what was expected."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import Any

from metarl.distribution import install_command


class MetaRLError(Exception):
    """An error that the user can correct. The command line prints it in one line and exits with code 2."""


def printable(text: str) -> str:
    """Escape control characters and other invisible characters, so that a text cannot control a terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class InvalidValueError(MetaRLError, ValueError):
    """A field holds a value that cannot be used.

    Args:
        field: name of the field, as the user wrote it.
        value: the value of the field; the message shows its `repr`, shortened to 120 characters.
        expected: the values that are accepted, in words.
    """

    def __init__(self, field: str, value: object, expected: str) -> None:
        self.field, self.value, self.expected = field, value, expected
        shown = value if isinstance(value, _Verbatim) else repr(value)
        shown = shown if len(shown) <= 120 else shown[:117] + "..."
        super().__init__(printable(f"{field} is {shown}, expected {expected}"))

    def __reduce__(self) -> tuple[type[InvalidValueError], tuple[str, object, str]]:
        return type(self), (self.field, self.value, self.expected)


class DivergedError(MetaRLError):
    """A meta-update made parameters that are not finite. The training ends, and its last good checkpoint stands."""


class DivergedWarning(UserWarning):
    """An adaptation step gave numbers that are not finite, and was undone; or a model's error says that it diverged."""


class AgentWarning(UserWarning):
    """A property of an agent that may be a mistake, for example that it never adapts."""


class FamilyWarning(UserWarning):
    """A property of a family that may be a mistake, for example that the observation shows the task."""


def notes_of(error: Exception) -> list[str]:
    """Sentences that were added to an exception: its place, and the state of the run."""
    return [note for note in getattr(error, "__notes__", ()) if "\n" not in note]


class _Verbatim(str):
    """A text that an `InvalidValueError` shows without quotes."""

    __slots__ = ()


def verbatim(text: str) -> str:
    """Mark a text so that an `InvalidValueError` shows it without quotes."""
    return _Verbatim(text)


MOST_LISTED = 12  # names in a message; of a longer list, a message shows only the nearest names


def did_you_mean(value: str, known: Iterable[str]) -> str:
    """The text `one of a, b, c (did you mean 'a'?)`. If there are many names, it shows only the nearest."""
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
        user: the family or agent that needs the package.
        module: the module that could not be imported.
        extra: the extra of metarl that installs the package.
    """

    def __init__(self, user: str, module: str, extra: str) -> None:
        self.user, self.module, self.extra = user, module, extra
        command = install_command(extra, module)
        super().__init__(f"{printable(user)} needs the package {module}, which is not installed: {command}")

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str, str]]:
        return type(self), (self.user, self.module, self.extra)


def require_extra(user: str, module: str, extra: str) -> Any:  # Any: the names of the module are not known to mypy
    """Import a module of an optional package.

    Raises:
        MissingExtraError: the package is not installed; the message contains the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise  # the package is installed, and another module that it needs is missing
        raise MissingExtraError(user, module.partition(".")[0], extra) from error
