"""Hyperparameters: the allowed values of a config's fields are declared in the fields' types and checked here.

@dataclass(frozen=True)
class MyConfig:
    learning_rate: Annotated[float, Range(0, 10)] = 1e-3
    hidden: tuple[Annotated[int, Range(1, 1024)], ...] = (64, 64)
    activation: Literal["relu", "tanh"] = "relu"
"""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from numbers import Real
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from metarl.errors import InvalidValueError, did_you_mean

_KINDS: dict[type[Any], tuple[tuple[type[Any], ...], str]] = {  # type of a field's default: accepted types, in words
    bool: ((bool,), "True or False"),
    Real: ((Real,), "a number"),
    str: ((str,), "text"),
    tuple: ((tuple, list), "a list"),
    dict: ((dict,), "names with values"),
}


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float

    def check(self, field: str, value: object, whole: bool) -> None:
        """Refuse a value outside of the range, and a fraction if `whole`."""
        kind = (int,) if whole else (int, float)
        if not (isinstance(value, kind) and not isinstance(value, bool) and self.low <= value <= self.high):
            raise InvalidValueError(field, value, self.in_words(whole))

    def in_words(self, whole: bool) -> str:
        """The allowed values as text."""
        return f"a {'whole ' if whole else ''}number from {self.low:g} to {self.high:g}"


def ranges(config: type[Any]) -> dict[str, str]:
    """The declared ranges of a config's numbers, as text by name of the field."""
    hints = _hints(config)
    texts = {field.name: _range_in_words(hints.get(field.name, Any)) for field in fields(config)}
    return {name: text for name, text in texts.items() if text}


def _hints(config: type[Any]) -> dict[str, Any]:
    """The declared types of a config's fields; empty if they are local to a function and cannot be resolved."""
    try:
        return get_type_hints(config, include_extras=True)
    except NameError:
        return {}


def _range_in_words(hint: Any) -> str:
    origin, parts = get_origin(hint), get_args(hint)
    if origin is tuple:
        inner = _range_in_words(parts[0]) if parts else ""
        return f"each is {inner}" if inner else ""
    found = [part for part in parts[1:] if isinstance(part, Range)] if origin is Annotated else []
    return " and ".join(part.in_words(whole=parts[0] is int) for part in found)


def check_config(name: str, config: object) -> None:
    """Refuse hyperparameters that have a wrong type, are out of range, or are not among the choices.

    Args:
        name: name of the agent, for the error message.
        config: an instance of a dataclass. Any other object is not checked.

    Raises:
        InvalidValueError: a field holds a value that its declaration does not allow.
    """
    if not is_dataclass(config) or isinstance(config, type):
        return
    hints = _hints(type(config))
    for field in fields(config):
        value = getattr(config, field.name)
        hint = hints.get(field.name, Any)
        _check_kind(f"{name}.{field.name}", value, field, hint)
        _check_declared(f"{name}.{field.name}", value, hint)


def _check_kind(where: str, value: Any, field: Field[Any], hint: Any) -> None:
    """Refuse a value whose type does not fit the field's default. A field of `tuple[str, ...]` holds texts."""
    default = field.default if field.default_factory is MISSING else field.default_factory()
    kind = next((k for k in _KINDS if isinstance(default, k)), None)
    if kind is None:
        return
    accepted, words = _KINDS[kind]
    fits = isinstance(value, accepted) and not (kind is Real and isinstance(value, bool))
    if hint == tuple[str, ...]:
        fits, words = fits and all(isinstance(part, str) for part in value), "a list of texts"
    elif isinstance(default, tuple) and all(isinstance(part, Real) for part in default):
        fits, words = fits and all(isinstance(part, Real) for part in value), "a list of numbers"
    if not fits:
        raise InvalidValueError(where, value, words)


def _check_declared(where: str, value: Any, hint: Any) -> None:
    """Refuse a value that the field's type does not allow: its ranges, its literals, those of its parts."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        for limit in (part for part in parts[1:] if isinstance(part, Range)):
            limit.check(where, value, whole=parts[0] is int)
        _check_declared(where, value, parts[0])
    elif origin is Literal and value not in parts:
        raise InvalidValueError(where, value, did_you_mean(str(value), [str(part) for part in parts]))
    elif origin is tuple and len(parts) == 2 and parts[1] is Ellipsis:
        for number, part in enumerate(value):
            _check_declared(f"{where}[{number}]", part, parts[0])
