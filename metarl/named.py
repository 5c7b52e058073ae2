"""Things that texts name: what may be imported because a person asked, and what is only looked up.

A name that a person typed, or that a package registered, is imported. A name that a run's files hold is looked up among
what is imported already: opening a run executes nothing that it names. `--load`, or `load_source`, imports the modules
that a run needs and a person trusts.
"""

from __future__ import annotations

import importlib
import importlib.util
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym

from metarl.errors import InvalidValueError

Factory = str | Callable[..., Any]
_source: ContextVar[str] = ContextVar("source", default="")  # whose names are being looked up; empty for a person's
_registered: ContextVar[frozenset[str]] = ContextVar("registered", default=frozenset())
_trusted: set[str] = set()  # modules that a person loaded


def load_source(source: str) -> None:
    """Import a module by name, or a .py file by path, for what it registers; runs may then name what it defines.

    Raises:
        InvalidValueError: there is no such module or file, it cannot be parsed, or a file has the name of a module that
            was imported already.
    """
    expected = "an importable module or a .py file"
    is_file = source.endswith(".py")
    if not is_file and not all(part.isidentifier() for part in source.split(".")):
        raise InvalidValueError("load", source, expected)
    try:
        _trusted.add(_run_file(Path(source)) if is_file else importlib.import_module(source).__name__)
    except (ImportError, SyntaxError) as error:
        raise InvalidValueError("load", source, f"{expected} ({error})") from error


def _run_file(path: Path) -> str:
    """Import a .py file; the name of its module."""
    name = path.stem
    if name in sys.modules and name not in _trusted:
        raise InvalidValueError("load", str(path), f"a file of another name: a module {name} is imported already")
    if not _is_file(path):
        raise InvalidValueError("load", str(path), "an importable module or a .py file (there is no such file)")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return name


def _is_file(path: Path) -> bool:
    """Whether it is a regular file: reading a pipe would wait for ever."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or has a null character
        return False


@contextmanager
def names_of(source: str) -> Iterator[None]:
    """While a run is opened: what its files name is looked up and never imported.

    Args:
        source: the run, for errors.
    """
    token = _source.set(source)
    try:
        yield
    finally:
        _source.reset(token)


@contextmanager
def registered(kwargs: Mapping[str, Any]) -> Iterator[None]:
    """While a registered family is built: what its registration names may be imported, a run opened or not."""
    token = _registered.set(frozenset(_texts(kwargs)))
    try:
        yield
    finally:
        _registered.reset(token)


def load_entry_point(entry_point: Factory) -> Any:
    """The object behind `"module:name"`, which a package registered; anything else is returned as it is."""
    if not isinstance(entry_point, str):
        return entry_point
    module, _, name = entry_point.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise InvalidValueError("entry point", entry_point, f"an importable 'module:name' ({error})") from error


def load_named(name: str, kinds: tuple[type, ...], packages: tuple[str, ...]) -> Any:
    """What a hyperparameter names as `"module:name"`.

    Where a run's file names it, it must be defined in a module that a person loaded, or be a class of a known kind from
    a package whose classes of that kind do nothing but what they are for.

    Args:
        name: "module:name".
        kinds: such classes' bases.
        packages: such packages.

    Raises:
        InvalidValueError: it cannot be imported, or may not be.
    """
    if not (source := _source.get()):
        return load_entry_point(name)
    module, _, own = name.partition(":")
    found = getattr(_imported(module), own, None)
    home = getattr(found, "__module__", None)
    trusted = any(_within(module, known) and _within(str(home), known) for known in _trusted)
    known = isinstance(found, type) and issubclass(found, kinds) and any(_within(found.__module__, p) for p in packages)
    if found is None or not (trusted or known):
        expected = f"a class of {' or '.join(packages)}, or something of a module that you trust and {_advice(module)}"
        raise InvalidValueError(f"a name in {source}", name, expected)
    return found


def _imported(module: str) -> ModuleType | None:
    """A module that somebody else imported."""
    return sys.modules.get(module)


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def _advice(module: str) -> str:
    return f"load: --load {shlex.quote(module)}, or in Python metarl.load_source({module!r})"


def check_environment(env: object, kwargs: Mapping[str, Any]) -> None:
    """Refuse a Gymnasium id of a run's file whose module would be imported, also one among keywords.

    Raises:
        InvalidValueError: its module is not imported yet, or the id is not registered.
    """
    if not (source := _source.get()):
        return
    named = [text for text in _texts(kwargs) if _names_module(text)]
    for text in [env, *named] if isinstance(env, str) else named:
        module, colon, id = text.rpartition(":")
        if colon and text not in _registered.get() and not (module in sys.modules and id in gym.registry):
            expected = f"one that is registered, or of a module that you trust and {_advice(module)}"
            raise InvalidValueError(f"an environment in {source}", text, expected)


def _names_module(text: str) -> bool:
    """Whether Gymnasium would take a text for MODULE:ID and find such a module; looked for, not imported."""
    module, *ids = text.split(":")
    try:
        return len(ids) == 1 and importlib.util.find_spec(module.partition(".")[0]) is not None
    except (ImportError, ValueError):  # no name of a module, or one that was made and not imported
        return module in sys.modules


def _texts(tree: object) -> Iterator[str]:
    """Every text in nested lists and dicts."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, Mapping):
        yield from _texts(list(tree.values()))
    elif isinstance(tree, (list, tuple)):
        for part in tree:
            yield from _texts(part)
