"""Objects that are given by name: which names may be imported, and which are only looked up.

A name that the user typed, or that a package registered, is imported. A name in a run's files is only looked up among
the modules that are imported already, so opening a run never executes code that it names. `--load`, or `load_source`,
imports the modules that a run needs and that the user trusts.
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
_source: ContextVar[str] = ContextVar("source", default="")  # the run whose names are looked up; empty outside of runs
_allowed: ContextVar[frozenset[str]] = ContextVar("allowed", default=frozenset())
_trusted: set[str] = set()  # modules that the user loaded


def load_source(source: str) -> None:
    """Import a module by name, or a .py file by path, which registers families or agents. Runs may then use its names.

    As with `python FILE.py`, a file can import the modules beside it: its folder becomes the last entry of `sys.path`,
    and stays there, because functions of the file may import later.

    Raises:
        InvalidValueError: the module or file does not exist or cannot be parsed, or the file has the name of a module
            that is imported already.
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
    """Import a .py file and return the name of its module."""
    name = path.stem
    if name in sys.modules and name not in _trusted:
        if _is_file(path) and getattr(sys.modules[name], "__file__", None) == str(path.resolve()):
            return name  # another file that the user loaded imports it
        raise InvalidValueError("load", str(path), f"a file of another name: a module {name} is imported already")
    if not _is_file(path):
        raise InvalidValueError("load", str(path), "an importable module or a .py file (there is no such file)")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    search_path, folder = list(sys.path), str(path.resolve().parent)
    sys.path += [] if folder in sys.path else [folder]  # last: no module of the file's folder hides an installed one
    try:  # compiled anew: cached bytecode can be that of a file that was edited within the same second
        exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), module.__dict__)
    except BaseException:
        del sys.modules[name]
        sys.path[:] = search_path
        raise
    return name


def _is_file(path: Path) -> bool:
    """Whether the path is a regular file. Reading a pipe would wait for ever."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # the path is too long, or contains a null character
        return False


@contextmanager
def without_imports(source: str) -> Iterator[None]:
    """Within this context (a run is opened), names are looked up and never imported.

    Args:
        source: the run, for error messages.
    """
    token = _source.set(source)
    try:
        yield
    finally:
        _source.reset(token)


@contextmanager
def allow_imports(kwargs: Mapping[str, object]) -> Iterator[None]:
    """Within this context (a registered family is built), the names in its registration may be imported."""
    token = _allowed.set(frozenset(_texts(kwargs)))
    try:
        yield
    finally:
        _allowed.reset(token)


def load_entry_point(entry_point: Factory) -> Any:
    """Import the object `"module:name"` that a package registered. A value that is not a string is returned as is."""
    if not isinstance(entry_point, str):
        return entry_point
    module, _, name = entry_point.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise InvalidValueError("entry point", entry_point, f"an importable 'module:name' ({error})") from error


def load_named(name: str, kinds: tuple[type, ...], packages: tuple[str, ...]) -> Any:
    """The object that a hyperparameter names as `"module:name"`.

    If a run's file contains the name, the object must be defined in a module that the user loaded, or it must be a
    subclass of `kinds` from one of `packages`. Such classes have no side effects.

    Args:
        name: "module:name".
        kinds: base classes that are safe.
        packages: packages whose subclasses of `kinds` are safe.

    Raises:
        InvalidValueError: the object cannot be imported, or must not be imported.
    """
    if not (source := _source.get()):
        return load_entry_point(name)
    module, _, own = name.partition(":")
    value = getattr(_imported(module), own, None)
    home = getattr(value, "__module__", None)
    trusted = any(_within(module, known) and _within(str(home), known) for known in _trusted)
    safe = isinstance(value, type) and issubclass(value, kinds) and any(_within(value.__module__, p) for p in packages)
    if value is None or not (trusted or safe):
        expected = f"a class of {' or '.join(packages)}, or something of a module that you trust and {_advice(module)}"
        raise InvalidValueError(f"a name in {source}", name, expected)
    return value


def _imported(module: str) -> ModuleType | None:
    """A module if it is imported already, else None."""
    return sys.modules.get(module)


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def _advice(module: str) -> str:
    return f"load: --load {shlex.quote(module)}, or in Python metarl.load_source({module!r})"


def check_environment(env: object, kwargs: Mapping[str, object]) -> None:
    """Refuse a Gymnasium id from a run's file if Gymnasium would import its module. Ids in keywords count too.

    Raises:
        InvalidValueError: the module of the id is not imported yet, or the id is not registered.
    """
    if not (source := _source.get()):
        return
    named = [text for text in _texts(kwargs) if _names_module(text)]
    for text in [env, *named] if isinstance(env, str) else named:
        module, colon, id = text.rpartition(":")
        if colon and text not in _allowed.get() and not (module in sys.modules and id in gym.registry):
            expected = f"one that is registered, or of a module that you trust and {_advice(module)}"
            raise InvalidValueError(f"an environment in {source}", text, expected)


def _names_module(text: str) -> bool:
    """Whether a text has the form MODULE:ID and the module exists. The module is not imported."""
    module, *ids = text.split(":")
    try:
        return len(ids) == 1 and importlib.util.find_spec(module.partition(".")[0]) is not None
    except (ImportError, ValueError):  # not a module name, or a module without a file
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
