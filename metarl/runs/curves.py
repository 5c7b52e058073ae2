"""Learning curves: the lines of a run's `validation.jsonl`, and the curves of several runs together."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metarl.errors import InvalidValueError
from metarl.files import JsonObject, Kind, check_fields, parse_json, whole
from metarl.runs.checkpoints import COUNT
from metarl.runs.metrics_log import lines_before

FILE = "validation.jsonl"
GRID = Kind(
    "a rising list of whole numbers from 0 on",
    lambda k: isinstance(k, list) and bool(k) and all(map(whole(0).holds, k)) and k == sorted(set(k)),
)
_RETURNS = Kind(
    "a list of finite numbers",
    lambda value: isinstance(value, list) and all(type(v) in (int, float) and math.isfinite(v) for v in value),
)
METRICS = "metrics.jsonl"
_FIELDS = {"env_steps": COUNT, "k": GRID, "returns": _RETURNS}


class Validated(NamedTuple):
    """A validation.

    Attributes:
        iteration: number of finished iterations.
        env_steps: environment steps of the training so far.
        k: numbers of adaptation steps.
        returns: mean return of a fresh episode after each k.
    """

    iteration: int
    env_steps: int
    k: list[int]
    returns: list[float]

    def line(self) -> str:
        """The line of JSON, without its end."""
        return json.dumps(self._asdict())


def read_validation(run: Path, end: int) -> list[Validated]:
    """The validations of a run after at most `end` iterations, in order; empty if the run has no file of them.

    Raises:
        InvalidValueError: the file holds other lines.
    """
    return [_validated(line, run / FILE) for line in lines_before(run / FILE, end + 1, "validation")]


def _validated(line: str, file: Path) -> Validated:
    data = parse_json(line)
    check_fields(data, _FIELDS, str(file))
    if len(data["returns"]) != len(data["k"]):
        raise InvalidValueError(f"returns of {file}", data["returns"], f"one number for each k of {data['k']}")
    return Validated(data["iteration"], data["env_steps"], data["k"], data["returns"])


def returns_in_training(run: Path, end: int) -> dict[str, list[float]]:
    """The returns of a run's first `end` meta-updates by name, from its metrics, and `env_steps`, those up to each.

    Empty, with a warning if the file is damaged, unless the metrics of all these meta-updates are there.
    """
    try:
        lines = [parse_json(line) for line in lines_before(run / METRICS, end)]
    except InvalidValueError as error:
        warnings.warn(f"no curve of the training: {error}", stacklevel=2)
        return {}
    if not lines or len(lines) < end:
        return {}
    names = [name for name in lines[0] if "return" in name or name == "env_steps"]
    kept = [name for name in names if all(type(line.get(name)) in (int, float) for line in lines)]
    return {name: [round(line[name], 4) for line in lines] for name in kept}


def seconds_in_training(run: Path, end: int) -> float | None:
    """Seconds that a run's first `end` meta-updates took; None unless the metrics of all of them say so."""
    try:
        lines = [parse_json(line) for line in lines_before(run / METRICS, end)]
        each = [float(line["seconds_sampling"] + line["seconds_optimisation"]) for line in lines]
    except (InvalidValueError, LookupError, TypeError, ValueError):
        return None
    return sum(each) if len(each) == end else None


def learning_curves(runs: Sequence[tuple[Path, JsonObject]]) -> dict[str, Any]:
    """The learning curves of the same agent trained with several seeds, for the meta data of its results.

    Args:
        runs: the directory of each run, and the content of its `config.json`.

    Returns:
        `{"curves": ...}` with the lists `iterations` `[n]`, `env_steps` `[n]` (mean over seeds), `k`, and `returns`
        `[seed][n][k]`, the split and the number of tasks. Empty unless all runs were validated in the same way after
        the same iterations.
    """
    settings = [config.get("validation") for _, config in runs]
    if not runs or settings[0] is None or any(other != settings[0] for other in settings):
        return {}
    lines = [read_validation(path, config["iterations"]) for path, config in runs]
    for (path, _), line in ((run, line) for run, of_run in zip(runs, lines, strict=True) for line in of_run):
        if line.k != settings[0]["k"]:
            raise InvalidValueError(f"k of {path / FILE}", line.k, f"{settings[0]['k']}, as in config.json")
    iterations = [[line.iteration for line in of_run] for of_run in lines]
    if not iterations[0] or any(other != iterations[0] for other in iterations):
        return {}
    steps = [round(sum(line.env_steps for line in at) / len(runs)) for at in zip(*lines, strict=True)]
    returns = [[line.returns for line in of_run] for of_run in lines]
    curves = {"iterations": iterations[0], "env_steps": steps, "k": settings[0]["k"], "returns": returns}
    return {"curves": curves | {name: settings[0][name] for name in ("split", "tasks")}}
