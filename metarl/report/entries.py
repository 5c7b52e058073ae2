"""What one section of a report shows: the results of a family and split, each with a label, a color and a marker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from metarl.errors import InvalidValueError
from metarl.evaluation.modes import Mode
from metarl.evaluation.results import Floats, Results
from metarl.families.registry import kinds
from metarl.report.figures.style import DASHES, MARKERS, PALETTE, LineStyle

Row = dict[str, float]


@dataclass(frozen=True, eq=False)
class Entry:
    """One agent's results, with its label and its number in the section. The summaries are computed once."""

    results: Results
    label: str
    number: int

    @property
    def color(self) -> str:
        """The agent's color; another agent may have it too, but with another marker."""
        return PALETTE[self.number % len(PALETTE)]

    @property
    def marker(self) -> str:
        """The agent's marker."""
        i = self.number
        return MARKERS[(i + i // len(PALETTE)) % len(MARKERS)]

    @property
    def line(self) -> LineStyle:
        """The style of the agent's line, where it does not tell modes apart: another one each time colors repeat."""
        return DASHES[self.number // len(PALETTE) % len(DASHES)]

    @cached_property
    def rows(self) -> dict[Mode, list[Row]]:
        """Summary rows by mode, one row for each k."""
        return {mode: self.results.summary(mode) for mode in self.results.scores}

    @property
    def mode(self) -> Mode:
        """The mode of the numbers that have room for one mode only: the first of the results."""
        return next(iter(self.results.scores))

    @property
    def last(self) -> Row:
        """The summary after the last k."""
        return self.rows[self.mode][-1]

    @cached_property
    def task_scores(self) -> Floats:
        """The score of each seed in each task, `[seed, task]`: the lifetime return if episodes are one step, else R_k.

        The R_k is that of the last k.
        """
        results = self.results
        if self.one_step:
            return np.asarray(results.lifetime.mean(-1))
        return results.per_task(self.mode)[:, :, -1]

    @cached_property
    def one_step(self) -> bool:
        """Whether episodes are one step and lifetime returns are known: then these are the main score."""
        results = self.results
        return bool(results.lifetime.size and results.k[-1] and results.env_steps[-1] == results.episodes[-1])


def grouped(results: Sequence[Results]) -> list[list[Entry]]:
    """Group results by family, split and study of a benchmark, in order of appearance."""
    groups: dict[tuple[str, str, str], list[Results]] = {}
    for result in results:
        groups.setdefault((result.family, result.split, study_of(result)), []).append(result)
    return [_entries(group) for group in groups.values()]


def study_of(results: Results) -> str:
    """The suite and study of a benchmark's row, as `suite/study`; empty for other results."""
    return str(results.meta.get("entry", "")).rpartition("/")[0]


def _entries(group: Sequence[Results]) -> list[Entry]:
    """Results with their labels and numbers."""
    return [Entry(result, label, i) for i, (result, label) in enumerate(zip(group, labels_of(group), strict=True))]


def labels_of(group: Sequence[Results]) -> list[str]:
    """Labels: the names that a benchmark's study gives, else the agents' names.

    Several results of one agent also get the setting that differs, or a number.
    """
    if all("entry" in result.meta for result in group):
        paths = [str(result.meta["entry"]) for result in group]
        names = [path.rpartition("/")[2] for path in paths]
        chosen = names if len(set(names)) == len(names) else _without_common_folders(paths)
        return [_with_agent(name, result.agent) for name, result in zip(chosen, group, strict=True)]
    labels: list[str] = []
    for i, result in enumerate(group):
        setting = _distinct_setting([r for r in group if r.agent == result.agent])
        number = 1 + sum(r.agent == result.agent for r in group[:i])
        value = result.meta["config"][setting] if setting else None
        suffix = f", {value if isinstance(value, str) else f'{setting} {value}'}" if setting else ""
        labels.append(result.agent + (suffix or (f" ({number})" if number > 1 else "")))
    return labels


def _with_agent(name: str, agent: str) -> str:
    """A row's name, with the agent's in brackets unless the name begins with it."""
    return name if name.rpartition("/")[2].replace("-", "_").startswith(agent) else f"{name} ({agent})"


def _without_common_folders(paths: Sequence[str]) -> list[str]:
    """Paths without the first folders, which all of them have: a suite's name, for studies of one suite."""
    parts = [path.split("/") for path in paths]
    shortest = min(map(len, parts))
    common = next((i for i in range(shortest - 1) if len({part[i] for part in parts}) > 1), shortest - 1)
    return ["/".join(part[common:]) for part in parts]


def _distinct_setting(results: Sequence[Results]) -> str | None:
    """Name of the first setting whose value differs in every result; text settings come before numbers."""
    configs = [r.meta.get("config", {}) for r in results]
    names: list[str] = sorted(configs[0]) if len(results) > 1 else []
    for kind in (str, (int, float)):
        for name in names:
            values = [config.get(name) for config in configs]
            if all(isinstance(v, kind) for v in values) and len(set(values)) == len(values):
                return name
    return None


def one_group(results: Sequence[Results]) -> list[Entry]:
    """Entries of results; raises `InvalidValueError` unless all are of one family and split."""
    if len({(result.family, result.split) for result in results}) != 1:
        raise InvalidValueError("results", [r.family for r in results], "results of one family and split")
    return _entries(results)


def evenly(grid: Sequence[int], limit: int) -> list[int]:
    """Choose at most `limit` values of the grid, evenly spaced, with the first and the last."""
    return [grid[i] for i in np.linspace(0, len(grid) - 1, min(limit, len(grid))).round().astype(int)]


def mean_references(entries: Sequence[Entry]) -> dict[str, float]:
    """Mean of each reference by name; each comes from the first entry that has it."""
    return {n: float(v.mean()) for e in reversed(entries) for n, v in e.results.references.items()}


def most_informative(entries: Sequence[Entry], most: int) -> list[Entry]:
    """At most so many entries: those with the highest scores, and baselines, which come last, only to fill up."""
    best = sorted(entries, key=lambda e: (is_baseline(e), -float(e.task_scores.mean())))[:most]
    return sorted((e for e in entries if e in best), key=is_baseline)


def is_baseline(entry: Entry) -> bool:
    """Whether an agent is registered as one of the baselines."""
    return kinds.get(entry.results.agent) == "baselines"
