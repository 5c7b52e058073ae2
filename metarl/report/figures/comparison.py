"""Figures that compare agents: the spread over tasks, the probability of improvement, and performance profiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from metarl.evaluation.comparison import improvement, improvement_interval
from metarl.evaluation.results import Floats, Results
from metarl.evaluation.statistics import Profile, performance_profile
from metarl.report.entries import Entry, one_group
from metarl.report.figures.curves import FEW, add_legend, drawn_for
from metarl.report.figures.style import INK, PALETTE, STYLE, plain

MOST_PANELS = 4  # numbers of a task that are drawn
MOST_POINTS = 20  # points of a line against a parameter


# --- spread over tasks -----------------------------------------------------------------------------------------------


def task_figure(results: Sequence[Results]) -> Figure | None:
    """Draw each task's mean return against the numbers in the tasks' parameters: `task_parameters`.

    Without such numbers, the returns are sorted: against the share of tasks that have at most this return. The
    return is R_k after the last k, or the lifetime return if episodes are one step. None if all results are of one
    task.
    """
    return draw_tasks(one_group(results))


def draw_tasks(entries: Sequence[Entry], *, legend: bool = True) -> Figure | None:
    """Draw the figure of `task_figure`."""
    shown = [e for e in entries if e.task_scores.shape[1] > 1]
    if not shown:
        return None
    numbers = task_parameters(shown)
    names: list[str | None] = [*numbers] or [None]
    rows = 1 if len(names) < MOST_PANELS else 2
    columns = len(names) // rows
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.7 * columns, 3.7 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for ax, name in zip(grid.flat, names, strict=True):
            for i, entry in enumerate(shown):
                x, y = _sorted_scores(entry) if name is None else _against(entry, numbers[name][i])
                every = (len(x) // 20, max(1, len(x) // 10)) if name is None else 1
                with drawn_for(ax, entry):
                    ax.plot(x, y, color=entry.color, ls=entry.line, marker=entry.marker, markevery=every, lw=1.3)
            ax.set_xlabel("share of tasks with at most this return" if name is None else plain(name))
        for ax in grid[:, 0]:
            ax.set_ylabel("lifetime return" if all(e.one_step for e in shown) else "return after the last k")
        if legend:
            add_legend(figure, shown)
    return figure


def task_parameters(entries: Sequence[Entry]) -> dict[str, list[Floats]]:
    """The numbers in the tasks' parameters that differ between tasks and are known of all entries, at most 4.

    Of a parameter that is a vector, all such numbers are there, or none.

    Returns:
        by the name of each number, its values in the tasks of each entry, `[task]`.
    """
    known = [_known(entry, entries) for entry in entries]
    found: dict[str, list[Floats]] = {}
    for parameter, values in known[0].items():
        own = [_numbers(parameter, each.get(parameter, np.zeros(0))) for each in known]
        numbers = {n: [each.get(n, np.zeros(0)) for each in own] for n in _numbers(parameter, values)}
        varied = {n: by_entry for n, by_entry in numbers.items() if all(map(_varies, entries, by_entry))}
        found |= varied if len(found) + len(varied) <= MOST_PANELS else {}
    return found


def _known(entry: Entry, entries: Sequence[Entry]) -> dict[str, Floats]:
    """The parameters of an entry's tasks; where an old file lacks them, those of an entry with the same tasks."""
    same = [e.results for e in entries if e.results.task_hash == entry.results.task_hash]
    return next((r.task_values for r in (entry.results, *same) if r.task_values), {})


def _numbers(name: str, values: Floats) -> dict[str, Floats]:
    """A parameter's numbers by name, `[task]` each: "speed" of `[task]`; "goal 1" and "goal 2" of `[task, 2]`."""
    return {name: values} if values.ndim == 1 else {f"{name} {i}": own for i, own in enumerate(values.T, 1)}


def _varies(entry: Entry, values: Floats) -> bool:
    """Whether there is a value of each of the entry's tasks, and values differ."""
    return values.shape == entry.task_scores.shape[1:] and len(np.unique(values)) > 1


def _sorted_scores(entry: Entry) -> tuple[Floats, Floats]:
    """The share of tasks, and the return that so many do not exceed."""
    scores = np.sort(entry.task_scores.mean(0))
    share = np.arange(1, len(scores) + 1) / len(scores)
    kept = np.linspace(0, len(scores) - 1, min(len(scores), 200)).round().astype(int)
    return share[kept], scores[kept]


def _against(entry: Entry, values: Floats) -> tuple[Floats, Floats]:
    """Means over tasks with equal values `[task]`, or with neighbouring ones if there are more than 20 values."""
    scores = entry.task_scores.mean(0)
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order])) + 1
    equal = len(starts) < MOST_POINTS
    parts = np.split(order, starts) if equal else np.array_split(order, MOST_POINTS)
    return np.array([values[part].mean() for part in parts]), np.array([scores[part].mean() for part in parts])


# --- performance profiles --------------------------------------------------------------------------------------------


def profile_figure(results: Sequence[Results]) -> Figure | None:
    """Draw the share of runs whose score reaches a threshold: `performance_profile`.

    Up to 4 agents have bands, the 95 % intervals where the share is between 0 and 1.
    None if all results are of episodes of one step, whose scores take few values.
    """
    return draw_profiles(one_group(results))


def draw_profiles(entries: Sequence[Entry], *, legend: bool = True) -> Figure | None:
    """Draw the figure of `profile_figure`; the scores are normalised if those of all entries can be."""
    shown = [(e, performance_profile(e.results, mode=e.mode)) for e in entries if not e.one_step]
    if not shown:
        return None
    normalised = shown[0][1].normalised
    shown = [(e, profile) for e, profile in shown if profile.normalised == normalised]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.7, 3.7), layout="constrained")
        ax = figure.subplots()
        for entry, profile in shown:
            with drawn_for(ax, entry):
                _draw_profile(ax, entry, profile, bands=len(entries) <= FEW)
        ax.set_xlabel("normalised score after the last k" if normalised else "return after the last k")
        ax.set_ylabel("share of runs with at least this score")
        ax.set_ylim(-0.03, 1.03)
        if legend:
            add_legend(figure, [e for e, _ in shown])
    return figure


def _draw_profile(ax: Axes, entry: Entry, profile: Profile, *, bands: bool) -> None:
    if bands:
        inside = (profile.share > 0) & (profile.share < 1)
        ends = (profile.thresholds, profile.low, profile.high)
        ax.fill_between(*ends, where=inside, color=entry.color, alpha=0.12, linewidth=0)
    x, y = profile.thresholds, profile.share
    ax.plot(x, y, color=entry.color, ls=entry.line, marker=entry.marker, markevery=(5, 15))


# --- probability of improvement --------------------------------------------------------------------------------------


def improvements(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """The probability of improvement of each ordered pair of entries that played the same tasks.

    Returns:
        a row per pair: "agent", "other", "improvement", and its 95 % interval "low" and "high".
    """
    rows = []
    for a in entries:
        for b in entries:
            if a is not b and _comparable(a, b):
                fixed = a.results.every_task and b.results.every_task
                scores = a.task_scores[..., None], b.task_scores[..., None]
                low, high = (float(end[0]) for end in improvement_interval(*scores, fixed_tasks=fixed))
                row = {"agent": a.label, "other": b.label, "improvement": float(improvement(*scores).mean())}
                rows.append(row | {"low": low, "high": high})
    return rows


def _comparable(a: Entry, b: Entry) -> bool:
    same = a.results.task_hash == b.results.task_hash and a.task_scores.shape[1] == b.task_scores.shape[1]
    return same and (a.one_step, a.mode, a.results.k[-1]) == (b.one_step, b.mode, b.results.k[-1])


def improvement_figure(results: Sequence[Results]) -> Figure | None:
    """Draw the probability that a run of the row's agent is better than one of the column's; None without pairs.

    Better is a higher return after the last k in the same task, or a higher lifetime return if episodes are one step.
    Bold: the 95 % interval excludes one half.
    """
    entries = one_group(results)
    return draw_improvements(entries, improvements(entries))


def draw_improvements(entries: Sequence[Entry], rows: Sequence[dict[str, Any]]) -> Figure | None:
    """Draw the figure of `improvement_figure` from rows of `improvements`."""
    if not rows:
        return None
    labels, count = [e.label for e in entries], len(entries)
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        size = 0.42 * count
        longest = 0.085 * max(map(len, labels))  # inches
        figure = Figure(figsize=(size + longest + 0.6, size + 0.75 * longest + 0.6), layout="constrained")
        ax = figure.subplots()
        for row in rows:
            _draw_chance(ax, labels.index(row["other"]), labels.index(row["agent"]), row)
        ax.set(xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5), aspect="equal")
        ax.set_xticks(range(count), [plain(label) for label in labels], rotation=45, ha="right", rotation_mode="anchor")
        ax.set_yticks(range(count), [plain(label) for label in labels])
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    return figure


def is_sure(row: dict[str, Any]) -> bool:
    """Whether the 95 % interval of a row of `improvements` excludes one half."""
    return bool(row["low"] > 0.5 or row["high"] < 0.5)


def _draw_chance(ax: Axes, x: int, y: int, row: dict[str, Any]) -> None:
    """One cell: blue above one half, orange below, the stronger the farther from it."""
    chance = row["improvement"]
    color, depth = PALETTE[0 if chance > 0.5 else 1], 0.75 * abs(2 * chance - 1)
    ax.add_patch(Rectangle((x - 0.47, y - 0.47), 0.94, 0.94, facecolor=color, alpha=depth, linewidth=0))
    text = f"{chance:.0f}" if chance in (0, 1) else f"{chance:.2f}".removeprefix("0")
    ax.text(x, y, text, ha="center", va="center", size=8, color=INK, weight="bold" if is_sure(row) else "normal")
