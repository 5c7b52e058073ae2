"""Figures of curves: the return after k adaptation steps, and how it grew during meta-training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from metarl.errors import InvalidValueError, did_you_mean
from metarl.evaluation.modes import Mode
from metarl.evaluation.results import Results
from metarl.report.entries import Entry, Row, mean_references, one_group
from metarl.report.figures.limits import BEYOND, Band, limit_returns
from metarl.report.figures.style import GREY, LINES, STYLE, LineStyle, mark_agent, name_columns, name_lines, plain

PANELS = {
    "k": "adaptation steps k",
    "env_steps": "environment steps used",
    "last": "return after the last adaptation step",
    "lifetime": "lifetime return of a trial",
}
FEW = 4  # agents up to which both modes are drawn


def adaptation_figure(results: Sequence[Results], panels: Sequence[str] | None = None) -> Figure:
    """Draw the mean R_k with 95 % intervals: one line for each agent and action mode, and the references.

    With more than 4 agents, only the first mode of each is drawn. The axis of environment steps is linear, unless the
    agents' last numbers of steps differ by more than a factor of 10. It is then logarithmic from the first step on:
    k = 0 stands apart at its left, and no line leads there.

    Args:
        results: results of agents on one family and split.
        panels: names of panels: "k" (against adaptation steps), "env_steps" (against environment steps), "last" (the
            last R_k of each agent), "lifetime".
            The default is "k", "env_steps" if agents differ in it, and "lifetime" if all results have it.

    Returns:
        A figure with one axes for each panel.
    """
    entries = one_group(results)
    for panel in panels or ():
        if panel not in PANELS:
            raise InvalidValueError("panel", panel, did_you_mean(panel, PANELS))
    return draw_adaptation(entries, list(panels or adaptation_panels(entries)))


def adaptation_panels(entries: Sequence[Entry]) -> list[str]:
    """Names of the panels to draw by default: see `adaptation_figure`."""
    env_steps = {tuple(e.results.env_steps.tolist()) for e in entries}
    lifetime = all(e.results.lifetime.size for e in entries)
    return ["k", *(["env_steps"] if len(env_steps) > 1 else []), *(["lifetime"] if lifetime else [])]


def draw_adaptation(entries: Sequence[Entry], names: Sequence[str], *, legend: bool = True) -> Figure:
    """Draw the panels with these names, keys of `PANELS`."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=_size(entries, names), layout="constrained")
        for ax, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            ax.set_xlabel(PANELS[name])
            _draw_dots(ax, entries, name) if name in _DOTS else _draw_curves(ax, entries, name)
        if legend and not set(names) <= set(_DOTS):  # panels of dots name the agents on their axis
            add_legend(figure, entries)
    return figure


def _size(entries: Sequence[Entry], names: Sequence[str]) -> tuple[float, float]:
    """Width and height in inches; a panel of dots alone has room for its agents and their names."""
    if len(names) > 1 or names[0] not in _DOTS:
        return 4.7 * len(names), 3.7
    return 3.4 + max(1.3, 0.075 * max(len(e.label) for e in entries)), max(2.0, 0.24 * len(entries) + 1.0)


def add_legend(figure: Figure | SubFigure, entries: Sequence[Entry]) -> None:
    """Name the agents below a figure, in as many columns as have room. The figure grows by the legend's height."""
    handles = [Line2D([], [], color=e.color, marker=e.marker, ls=e.line, label=plain(e.label)) for e in entries]
    longest = 0.7 + 0.075 * max(len(e.label) for e in entries)  # inches
    root = figure.figure
    columns = max(1, int(figure.bbox.width / root.dpi / longest))
    root.set_figheight(root.get_figheight() + 0.18 * -(-len(handles) // columns))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), columns), handlelength=2.8)


@contextmanager
def drawn_for(ax: Axes, entry: Entry) -> Iterator[None]:
    """Mark everything that is drawn within as the entry's: `mark_agent`."""
    before = set(ax.get_children())
    yield
    for artist in ax.get_children():
        if artist not in before:
            mark_agent(artist, entry.number)


# --- adaptation ------------------------------------------------------------------------------------------------------


def _draw_curves(ax: Axes, entries: Sequence[Entry], x_name: str) -> None:
    lines = [(entry, mode, entry.rows[mode]) for entry in entries for mode in drawn_modes(entry, entries)]
    grid = sorted({row[x_name] for _, _, rows in lines for row in rows})
    gap = _log_axis(ax, entries) if x_name == "env_steps" else None
    many = len(entries) > FEW
    shown = []
    for i, (entry, mode, rows) in enumerate(lines):
        x, mean, low, high = (np.array([row[n] for row in rows]) for n in (x_name, "mean", "low", "high"))
        if len(grid) == 1:  # put the points side by side
            x = x + 0.1 * (i - (len(lines) - 1) / 2)
        x_drawn = np.where(x > 0, x, gap) if gap else x
        shown.append(Band(entry, x_drawn, mean, low, high))
        for part in [x > 0, x <= 0] if gap else [np.full(len(x), True)]:
            with drawn_for(ax, entry):
                _draw_line(ax, shown[-1], entry.line if many else LINES[mode], part, 0.06 if many else 0.15)
    if gap is None:
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True) if len(grid) > 1 else FixedLocator(grid))
        ax.xaxis.set_major_formatter(with_commas())
    modes = [mode for mode in LINES if any(mode == drawn for _, drawn, _ in lines)]
    words = [f"{mode} actions" if many else f"{LINES[mode]}: {mode} actions" for mode in modes]
    ax.set_ylabel("return of a fresh episode")
    references = mean_references(entries)
    for value in references.values():
        ax.axhline(value, color=GREY, linewidth=1.1, linestyle=":", zorder=1)
    words += [BEYOND] if limit_returns(ax, shown, list(references.values())) else []
    ax.set_title(", ".join(words), loc="left", size=8)
    name_lines(ax, references)


def drawn_modes(entry: Entry, entries: Sequence[Entry]) -> list[Mode]:
    """The modes of an entry that curves of these entries show: the first alone if there are many entries."""
    return list(entry.rows) if len(entries) <= FEW else [entry.mode]


def _draw_line(ax: Axes, band: Band, style: LineStyle, part: Any, alpha: float) -> None:
    """Draw a part of a curve with its band, of this opacity; a part of one point has an upright line instead."""
    entry, x = band.entry, band.x[part]
    mean, low, high = band.mean[part], band.low[part], band.high[part]
    if len(x) == 1:
        ax.vlines(x, low, high, color=entry.color, linestyles=style)
    elif len(x):
        ax.fill_between(x, low, high, color=entry.color, alpha=alpha, linewidth=0)
    if len(x):
        ax.plot(x, mean, ls=style, color=entry.color, marker=entry.marker)


def _log_axis(ax: Axes, entries: Sequence[Entry]) -> float | None:
    """Make the axis of environment steps logarithmic if agents' budgets differ by more than a factor of 10.

    Returns:
        where k = 0 is drawn, apart from the rest; None if the axis stays linear.
    """
    ends = [float(e.results.env_steps[-1]) for e in entries if e.results.env_steps[-1] > 0]
    if not ends or max(ends) <= 10 * min(ends):
        return None
    return log_axis(ax, [float(steps) for e in entries for steps in e.results.env_steps])


def log_axis(ax: Axes, steps: Sequence[float]) -> float:
    """Make an axis of environment steps logarithmic, from the first of `steps` above 0 to the last.

    Returns:
        where 0 steps are drawn, apart from the rest.
    """
    first, last = min(x for x in steps if x > 0), max(steps)
    gap = first / 3
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator([gap, *_decades(first, last)]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(with_commas(gap))
    ax.axvline(first / 3**0.5, color=GREY, linewidth=0.8, linestyle=(0, (1, 3)))
    ax.set_xlim(gap / 1.5, last * 1.3)
    return gap


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten from `low` to `high`; with multiples of them if there are fewer than three."""
    powers = [10.0**i for i in range(int(np.floor(np.log10(low))), 1 + int(np.log10(high)))]
    few = (1, 2, 5) if high < 100 * low else (1, 3)
    factors = few if sum(low <= power for power in powers) < 3 else (1,)
    return [f * power for power in powers for f in factors if low <= f * power <= high]


def with_commas(zero: float | None = None) -> FuncFormatter:
    """Labels such as 4,000; a tick at `zero` reads 0."""

    def text(x: float, _: object) -> str:
        number = f"{x:,.0f}" if x == round(x) else f"{x:g}"
        return "0" if x == zero else number.replace("-", "\u2212")

    return FuncFormatter(text)


def _last(entry: Entry) -> Row | None:
    return entry.last


def _lifetime(entry: Entry) -> Row | None:
    return entry.results.lifetime_summary()


_DOTS: dict[str, Callable[[Entry], Row | None]] = {"last": _last, "lifetime": _lifetime}


def _draw_dots(ax: Axes, entries: Sequence[Entry], name: str) -> None:
    """Draw the mean of each agent with its interval: agents from above to below, as they were given."""
    shown = [(e, row) for e in entries if (row := _DOTS[name](e))]
    bands = []
    for y, (entry, row) in enumerate(shown):
        bands.append(Band(entry, np.array([y]), *(np.array([row[n]]) for n in ("mean", "low", "high"))))
        with drawn_for(ax, entry):
            ax.hlines(y, row["low"], row["high"], color=entry.color, linewidth=5, alpha=0.35)
            ax.plot(row["mean"], y, color=entry.color, marker=entry.marker, markersize=7)
    optima = [row["bayes_optimal"] for _, row in shown if "bayes_optimal" in row]
    lines = {"Bayes optimum": optima[0]} if optima else {}
    if name == "last":
        lines = {words.replace("_", " "): value for words, value in mean_references(entries).items()}
    for value in lines.values():
        ax.axvline(value, color=GREY, linewidth=1.1, linestyle=":", zorder=1)
    ax.set_yticks(range(len(shown)), [plain(e.label) for e, _ in shown])
    ax.set_ylim(len(shown) - 0.4, -0.6)
    if limit_returns(ax, bands, list(lines.values()), upright=False):
        ax.set_xlabel(f"{ax.get_xlabel()}\n{BEYOND}")
    name_columns(ax, lines)
