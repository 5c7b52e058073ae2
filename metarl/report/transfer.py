"""Transfer between families: what a training gains that begins with the parameters of another one.

The rows of a benchmark say which training they begin with (`begins_with`). Beside such a row stands the row of the same
study, agent and settings that begins with new parameters. The gain is the difference of their R_k after the last k,
as a share of the gap between the floor and the informed optimum, or the best row of the study if it is not known.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from metarl.evaluation.intervals import mean_interval
from metarl.evaluation.modes import Mode
from metarl.evaluation.results import Results
from metarl.report.tables import DOT, Column

Cells = dict[str, Any]
MEANS = (
    "Each cell: what the training gains in the study of its column if it begins with the parameters of the study in "
    "its row, beside the same training from new parameters. The unit is the gap between the floor and the informed "
    "optimum (the best row of the study if that is not known), after the last k; 95 % intervals over seeds and tasks, "
    "paired."
)


class Gain(NamedTuple):
    """What one training gains, with the ends of its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Transfer:
    """The gains of one agent in a suite.

    Attributes:
        suite: name of the suite.
        agent: name of the agent.
        sources: trainings that others begin with, as `study/entry`.
        targets: studies that are trained.
        gains: by source and target; pairs that were not trained are missing.
        k: the last adaptation step.
        mode: mode of the actions.
    """

    suite: str
    agent: str
    sources: list[str]
    targets: list[str]
    gains: dict[tuple[str, str], Gain]
    k: int
    mode: Mode


def transfers(results: Sequence[Results]) -> list[Transfer]:
    """A matrix for each suite, agent and its settings, if trainings of at least two studies begin with others."""
    rows = [r for r in results if isinstance(r.meta.get("row"), dict) and r.meta["row"]["weights"]]
    found: dict[tuple[str, str, str], dict[tuple[str, str], Gain]] = {}
    last: dict[tuple[str, str, str], Results] = {}
    for begun in (r for r in rows if r.meta["row"]["agent"]["begins_with"]):
        new = [r for r in rows if _facts(r) == _facts(begun) and not r.meta["row"]["agent"]["begins_with"]]
        if new and (gain := _gain(begun, new[0], rows)) is not None:
            row = begun.meta["row"]
            settings = {"protocol": row["protocol"], "seeds": row["seeds"], **row["agent"], "begins_with": ""}
            key = (str(row["suite"]), begun.agent, json.dumps(settings, sort_keys=True))
            found.setdefault(key, {})[str(row["agent"]["begins_with"]), str(row["study"])] = gain
            last[key] = begun
    made = []
    for key, gains in found.items():
        sources, targets = ([*dict.fromkeys(pair[i] for pair in gains)] for i in (0, 1))
        if len(targets) > 1:
            mode = next(iter(last[key].scores))
            made.append(Transfer(*key[:2], sources, targets, gains, last[key].k[-1], mode))
    return made


def _facts(results: Results) -> Any:
    """What two rows must have in common: all but the parameters that they begin with, and what follows from these."""
    row = {k: v for k, v in results.meta["row"].items() if k not in ("entry", "source", "weights")}
    return row | {"agent": row["agent"] | {"begins_with": ""}}


def _gain(begun: Results, new: Results, rows: Sequence[Results]) -> Gain | None:
    """The gain; None if the floor is not known, or the tasks are others.

    Where the informed optimum is not known, the highest R_k of the study's rows stands for it.
    """
    mode, references = next(iter(begun.scores)), begun.references
    if begun.task_hash != new.task_hash or "floor" not in references:
        return None
    place = (begun.meta["row"]["suite"], begun.meta["row"]["study"])
    beside = [r for r in rows if (r.meta["row"]["suite"], r.meta["row"]["study"]) == place and mode in r.scores]
    best = max(float(r.per_task(mode)[:, :, -1].mean()) for r in beside)
    best = float(references["informed_optimum"].mean()) if "informed_optimum" in references else best
    gap = best - float(references["floor"].mean())
    if gap <= 0:
        return None
    difference = (begun.per_task(mode) - new.per_task(mode))[:, :, -1:] / gap  # [seed, task, 1]
    low, high = mean_interval(difference, fixed_tasks=begun.every_task)
    return Gain(float(difference.mean()), float(low[0]), float(high[0])) if np.isfinite(difference).all() else None


TRANSFER_COLUMNS = (Column("source", "begins with"), Column("target", "trained in"), Column("mean", "gain", 2, ""))


def transfer_rows(transfer: Transfer) -> list[Cells]:
    """One row for each pair of a source and a target."""
    return [{"source": source, "target": target, **g._asdict()} for (source, target), g in transfer.gains.items()]


def transfer_caption(transfer: Transfer) -> str:
    """What is shown, in a line."""
    return f"suite: {transfer.suite}{DOT}after k = {transfer.k} adaptation steps{DOT}{transfer.mode} actions"
