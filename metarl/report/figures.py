"""Figures of adaptation curves and of paths, and the style that all figures share.

The code uses matplotlib's objects and not pyplot: it changes no global state and needs no display.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator

from metarl.errors import InvalidValueError, did_you_mean
from metarl.evaluation.modes import Mode
from metarl.evaluation.results import Floats, Results
from metarl.files import write_atomic

Row = dict[str, float]
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito
MARKERS = "osD^vPX"
LINES: dict[Mode, Literal["solid", "dashed"]] = {"sampled": "solid", "deterministic": "dashed"}
INK, GREY = "#3c4043", "#80868b"
PANELS = {"k": "adaptation steps k", "env_steps": "environment steps used", "lifetime": "lifetime return of a trial"}
STYLE: Any = {
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "white"),
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **{"axes.grid": True, "grid.color": "#e4e6e9", "axes.axisbelow": True, "axes.edgecolor": "#9aa0a6"},
    **{"font.size": 9, "axes.labelsize": 9, "lines.linewidth": 1.8, "lines.markersize": 4.5, "svg.hashsalt": "metarl"},
}


@dataclass(frozen=True)
class Entry:
    """One agent's results, with its label, color and marker. The summaries are computed once."""

    results: Results
    label: str
    color: str
    marker: str

    @cached_property
    def rows(self) -> dict[Mode, list[Row]]:
        """Summary rows by mode, one row for each k."""
        return {mode: self.results.summary(mode) for mode in self.results.scores}


def adaptation_figure(results: Sequence[Results], panels: Sequence[str] | None = None) -> Figure:
    """Draw the mean R_k with 95 % intervals: one line for each agent and action mode, and the references.

    Args:
        results: results of agents on one family and split.
        panels: names of panels: "k" (against adaptation steps), "env_steps" (against environment steps), "lifetime".
            The default is "k", "env_steps" if agents differ in it, and "lifetime" if all results have it.

    Returns:
        A figure with one axes for each panel.
    """
    entries = one_group(results)
    for panel in panels or ():
        if panel not in PANELS:
            raise InvalidValueError("panel", panel, did_you_mean(panel, PANELS))
    return draw_adaptation(entries, list(panels or adaptation_panels(entries)))


def paths_figure(results: Sequence[Results]) -> Figure | None:
    """Draw the paths of episodes in the first tasks: one row for each agent, one column for each k (at most 5).

    Returns None if no results have paths.
    """
    shown = [(r, paths) for r in results if (paths := {k: p for k, p in r.paths.items() if p.size})]
    if not shown:
        return None
    columns = evenly(sorted({k for _, paths in shown for k in paths}), 5)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.7 * len(columns) + 0.6, 1.7 * len(shown) + 0.4), layout="compressed")
        grid = figure.subplots(len(shown), len(columns), squeeze=False, sharex=True, sharey=True)
        for axes, (result, paths) in zip(grid, shown, strict=True):
            axes[0].set_ylabel(plain(result.agent))
            for ax, k in zip(axes, columns, strict=True):
                draw_paths(ax, paths.get(k, np.zeros((0, 0, 2))), result.landmarks, PALETTE)
        for ax, k in zip(grid[0], columns, strict=True):
            ax.set_title(f"k = {k}", size=9)
        points = [p for _, paths in shown for p in paths.values()]
        goals = [result.landmarks for result, _ in shown if result.landmarks is not None]
        frame(grid[0, 0], points, [*(p[:, 0] for p in points), *goals])
    return figure


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure as .png or .svg. An interrupted write leaves no partial file."""
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg"):
        raise InvalidValueError("figure file", str(path), "a name that ends in .png or .svg")
    write_atomic(path, rendered(figure, kind))
    return path


# --- selection -------------------------------------------------------------------------------------------------------


def grouped(results: Sequence[Results]) -> list[list[Entry]]:
    """Group results by family and split, in order of appearance."""
    groups: dict[tuple[str, str], list[Results]] = {}
    for result in results:
        groups.setdefault((result.family, result.split), []).append(result)
    return [
        [
            Entry(result, label, PALETTE[i % len(PALETTE)], MARKERS[i % len(PALETTE)])
            for i, (result, label) in enumerate(zip(group, _labels(group), strict=True))
        ]
        for group in groups.values()
    ]


def _labels(group: Sequence[Results]) -> list[str]:
    """Labels: the agents' names. Several results of one agent also get the setting that differs, or a number."""
    labels: list[str] = []
    for i, result in enumerate(group):
        setting = _distinct_setting([r for r in group if r.agent == result.agent])
        number = 1 + sum(r.agent == result.agent for r in group[:i])
        value = result.meta["config"][setting] if setting else None
        suffix = f", {value if isinstance(value, str) else f'{setting} {value}'}" if setting else ""
        labels.append(result.agent + (suffix or (f" ({number})" if number > 1 else "")))
    return labels


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
    groups = grouped(results)
    if len(groups) != 1:
        raise InvalidValueError("results", [r.family for r in results], "results of one family and split")
    return groups[0]


def evenly(grid: Sequence[int], limit: int) -> list[int]:
    """Choose at most `limit` values of the grid, evenly spaced, with the first and the last."""
    return [grid[i] for i in np.linspace(0, len(grid) - 1, min(limit, len(grid))).round().astype(int)]


def mean_references(entries: Sequence[Entry]) -> dict[str, float]:
    """Mean of each reference by name; each comes from the first entry that has it."""
    return {n: float(v.mean()) for e in reversed(entries) for n, v in e.results.references.items()}


# --- figures ---------------------------------------------------------------------------------------------------------


def adaptation_panels(entries: Sequence[Entry]) -> list[str]:
    """Names of the panels to draw by default: see `adaptation_figure`."""
    env_steps = {tuple(e.results.env_steps.tolist()) for e in entries}
    lifetime = all(e.results.lifetime.size for e in entries)
    return ["k", *(["env_steps"] if len(env_steps) > 1 else []), *(["lifetime"] if lifetime else [])]


def draw_adaptation(entries: Sequence[Entry], names: Sequence[str]) -> Figure:
    """Draw the panels with these names, keys of `PANELS`."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.7 * len(names), 3.7), layout="constrained")
        for ax, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            _draw_lifetime(ax, entries) if name == "lifetime" else _draw_curves(ax, entries, name)
            ax.set_xlabel(PANELS[name])
        handles = [Line2D([], [], color=e.color, marker=e.marker, label=plain(e.label)) for e in entries]
        if list(names) != ["lifetime"]:  # the lifetime panel names the agents on its axis
            figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4 * len(names)))
    return figure


def _draw_curves(ax: Axes, entries: Sequence[Entry], x_name: str) -> None:
    lines = [(entry, mode, rows) for entry in entries for mode, rows in entry.rows.items()]
    grid = sorted({row[x_name] for _, _, rows in lines for row in rows})
    for i, (entry, mode, rows) in enumerate(lines):
        x, mean, low, high = (np.array([row[n] for row in rows]) for n in (x_name, "mean", "low", "high"))
        ax.fill_between(x, low, high, color=entry.color, alpha=0.15, linewidth=0)
        if len(grid) == 1:  # put the points side by side
            x = x + 0.1 * (i - (len(lines) - 1) / 2)
        if len(x) == 1:
            ax.vlines(x, low, high, color=entry.color, linestyles=LINES[mode])
        ax.plot(x, mean, ls=LINES[mode], color=entry.color, marker=entry.marker)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True) if len(grid) > 1 else FixedLocator(grid))
    ends = [float(e.results.env_steps[-1]) for e in entries if e.results.env_steps[-1] > 0]
    if x_name == "env_steps" and ends and max(ends) > 10 * min(ends):
        ax.set_xscale("symlog", linthresh=min(ends))
    modes = [mode for mode in LINES if any(mode in e.rows for e in entries)]
    ax.set_title(", ".join(f"{LINES[mode]}: {mode} actions" for mode in modes), loc="left", size=8)
    ax.set_ylabel("return of a fresh episode")
    references = mean_references(entries)
    for value in references.values():
        ax.axhline(value, color=GREY, linewidth=1.1, linestyle=":", zorder=1)
    name_lines(ax, references)


def name_lines(ax: Axes, heights: Mapping[str, float]) -> None:
    """Write the name of each horizontal line to the right of the axes. Names of close lines are moved apart."""
    ordered = sorted(heights.items(), key=lambda item: item[1])
    low, high = ax.get_ylim()
    for i, (name, value) in enumerate(ordered):
        alone = all(abs(value - other) > 0.12 * (high - low) for j, (_, other) in enumerate(ordered) if j != i)
        side = "center" if alone else "bottom" if i else "top"
        ax.text(1.02, value, plain(name.replace("_", "\n")), transform=ax.get_yaxis_transform(), va=side, size=8)


def _draw_lifetime(ax: Axes, entries: Sequence[Entry]) -> None:
    shown = [(e, s) for e in entries if (s := e.results.lifetime_summary())]
    for y, (entry, row) in enumerate(shown):
        ax.hlines(y, row["low"], row["high"], color=entry.color, linewidth=5, alpha=0.35)
        ax.plot(row["mean"], y, color=entry.color, marker=entry.marker, markersize=7)
    for optimum in {s["bayes_optimal"] for _, s in shown if "bayes_optimal" in s}:
        ax.axvline(optimum, color=GREY, linewidth=1.1, linestyle=":", zorder=1)
        ax.text(optimum, 1.01, "Bayes optimum", transform=ax.get_xaxis_transform(), ha="center", size=8)
    ax.set_yticks(range(len(shown)), [plain(e.label) for e, _ in shown])
    ax.set_ylim(len(shown) - 0.4, -0.6)


def draw_paths(ax: Axes, paths: Floats, landmarks: Floats | None, colors: Sequence[str]) -> None:
    """Draw paths `[path, t, 2]` without their NaNs. A dot marks the start, a star the landmark `[path, 2]`."""
    for i, path in enumerate(paths):
        color, points = colors[i % len(colors)], path[np.isfinite(path).all(-1)]
        ax.plot(*points.T, color=color, linewidth=1.1)
        ax.plot(*points[:1].T, color=color, marker="o", markersize=3.5)
        if landmarks is not None and i < len(landmarks):
            ax.plot(*landmarks[i], color=color, marker="*", markersize=9, markeredgecolor="white", zorder=3)
    ax.set_aspect("equal")
    ax.tick_params(labelsize=7, length=0)


def frame(ax: Axes, points: Sequence[Floats], anchors: Sequence[Floats]) -> None:
    """Set square limits that show all anchors `[..., 2]`, and points `[..., 2]` up to 2.5 times as far out."""
    shown, fixed = (np.concatenate([a.reshape(-1, 2) for a in arrays]) for arrays in (points, anchors))
    low, high = np.nanmin(fixed, 0), np.nanmax(fixed, 0)
    center, reach = (low + high) / 2, float((high - low).max()) / 2
    farthest = float(np.nanmax(np.abs(shown - center)))
    half = 1.1 * max(reach, min(farthest, 2.5 * reach) if reach > 0 else farthest) or 1.0
    ax.set_xlim(center[0] - half, center[0] + half)
    ax.set_ylim(center[1] - half, center[1] + half)


def plain(text: str) -> str:
    """Escape dollar signs, so that matplotlib does not read text as mathematics."""
    return text.replace("$", r"\$")


def rendered(figure: Figure, kind: str, fonttype: str = "path") -> bytes:
    """Bytes of a figure's file, "png" or "svg". The same figure gives the same bytes."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({**STYLE, "svg.fonttype": fonttype}):
        figure.savefig(buffer, format=kind, dpi=200, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()
