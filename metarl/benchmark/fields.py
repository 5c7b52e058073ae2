"""What the fields of a suite may hold, and what went wrong while a suite's file was executed, in one sentence."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metarl.errors import InvalidValueError, did_you_mean
from metarl.evaluation.modes import MODES
from metarl.files import SEED, TEXT, Kind, reason, whole


def _is_grid(k: object) -> bool:
    steps = k if isinstance(k, (tuple, list)) else (k,)
    return bool(steps) and all(map(whole(0).holds, steps))


def _names(values: object) -> bool:
    """Whether a value is a dict whose keys are texts."""
    return isinstance(values, Mapping) and all(isinstance(key, str) for key in values)


_YES_OR_NO = Kind("True or False", lambda value: isinstance(value, bool))
_SETTINGS = Kind('a dict of hyperparameters, as {"inner_lr": 0.1}', _names)
_SEEDS = Kind(
    "a tuple of whole numbers of 64 bits, as (0, 1, 2)",
    lambda value: isinstance(value, (tuple, list)) and all(map(SEED.holds, value)),
)
_MODES = Kind(
    f"a tuple of one or both of {', '.join(MODES)}",
    lambda value: isinstance(value, (tuple, list)) and bool(value) and set(map(str, value)) <= set(MODES),
)
_PARTS = {
    "Suite": {"name": TEXT, "studies": Kind("a dict of a name to a Study(...)", _names), "description": TEXT},
    "Study": {
        "family": Kind("the id of a family, a text", TEXT.holds),
        "entries": Kind("a dict of a name to an Entry(...)", _names),
        "seeds": _SEEDS,
        "checkpoint_every": whole(1),
        "eval_every": whole(0),
    },
    "Entry": {
        "agent": Kind("the name of an agent, a text", TEXT.holds),
        "settings": _SETTINGS,
        "iterations": whole(0),
        "every_seed": _YES_OR_NO,
        "evaluated_with": _SETTINGS,
        "runs_of": Kind('ENTRY or STUDY/ENTRY, a text, "" for none', TEXT.holds),
        "begins_with": Kind('STUDY/ENTRY, a text, "" for none', TEXT.holds),
        "task_sampler": Kind("'family' or 'cem'", TEXT.holds),
    },
    "Protocol": {
        "k": Kind("0 or more adaptation steps, in whole numbers: 3, or (0, 5, 10)", _is_grid),
        "modes": _MODES,
        **dict.fromkeys(("tasks", "episodes", "trials"), whole(1)),
        "split": TEXT,
        "seed": SEED,
        "compact": _YES_OR_NO,
    },
}


def check_part(part: object, kind: type, where: str) -> None:
    """Refuse a part of a suite that is of another class, or whose fields hold what they may not.

    Args:
        part: the part.
        kind: the class that it must have: Suite, Study, Entry or Protocol.
        where: how a message names the part.

    Raises:
        InvalidValueError: the part or one of its fields is something else.
    """
    if not isinstance(part, kind):
        raise InvalidValueError(where, part, f"{kind.__name__}({', '.join(f.name for f in dataclasses.fields(kind))})")
    for name, allowed in _PARTS[kind.__name__].items():
        if not allowed.holds(value := getattr(part, name)):
            raise InvalidValueError(f"{name} of {where}", value, allowed.words)


def file_error(path: Path, error: Exception, parts: Sequence[type]) -> InvalidValueError:
    """What to raise where the file of a suite raised an exception: a sentence with the file and the line.

    Args:
        path: the file.
        error: what was raised.
        parts: classes whose unknown and missing fields are explained.
    """
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    told = reason(error)
    if isinstance(error, SyntaxError):
        own = error.filename == str(path)
        lines += [error.lineno] if own and error.lineno else []
        told = str(error.msg) if own else f"{error.msg} in line {error.lineno} of {error.filename}"
    why = (
        _constructor_error(str(error), {part.__name__: part for part in parts})
        or f"{type(error).__name__}: {told}{_nearest_name(path, error, parts)}"
    )
    return InvalidValueError("suite", f"{path}", f"a file without errors (line {lines[-1] if lines else '?'}: {why})")


def _nearest_name(path: Path, error: Exception, parts: Sequence[type]) -> str:
    """What to do about an unknown name, or the name that may have been meant; empty for other errors."""
    wrong, known = "", set[str]()
    if isinstance(error, NameError):
        wrong, known = error.name or "", {part.__name__ for part in parts}
        if wrong in known:
            return f" (from metarl.benchmark.suite import {wrong})"
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                known.add(node.id)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                known.add(node.name)
            elif isinstance(node, ast.alias):
                known.add(node.asname or node.name)
    elif isinstance(error, ImportError) and (found := re.match(r"cannot import name '(\w+)'", str(error))):
        wrong, known = found[1], set(dir(sys.modules.get(error.name or "")))
    near = difflib.get_close_matches(wrong, sorted(known), n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _constructor_error(message: str, parts: Mapping[str, Any]) -> str:
    """Which field of a class is unknown or missing, with the nearest name; empty for any other message."""
    found = re.match(r"(\w+)\.__init__\(\) (got an unexpected keyword argument '(\w+)'|missing .*: (.*))", message)
    if not found or found[1] not in parts:
        return ""
    if found[3]:
        names = [field.name for field in dataclasses.fields(parts[found[1]])]
        return f"{found[1]} has no field {found[3]!r}, expected {did_you_mean(found[3], names)}"
    return f"{found[1]}(...) lacks {found[4]}"
