"""The figure of what agents believe: the error of decoded beliefs against the steps of a trial, and beliefs of one."""

from __future__ import annotations

import html
from collections.abc import Sequence

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from metarl.evaluation.belief import belief_summary
from metarl.evaluation.intervals import mean_interval
from metarl.evaluation.results import Floats, Results
from metarl.report.entries import Entry, evenly, most_informative, one_group
from metarl.report.figures.curves import add_legend, drawn_for
from metarl.report.figures.style import GREY, INK, PALETTE, STYLE, plain

MOST_LINES = len(PALETTE)  # queries up to which each has a line
MOST_MAPS = 5  # steps whose maps are shown


def belief_figure(results: Sequence[Results]) -> Figure | None:
    """Draw the error of decoded beliefs before each step of a trial, beside the prior's error.

    A line is the mean over tasks and seeds with its 95 % interval as the band; the dotted line of the same color is the
    prior's error. On the right is the first trial of the agent with the highest score: if the queries lead to points in
    the plane, maps of the exact and of the decoded answers at some steps, else one line for each of up to 7 queries.
    None if no results have beliefs.
    """
    entries = with_beliefs(one_group(results))
    return draw_belief(entries) if entries else None


def with_beliefs(entries: Sequence[Entry]) -> list[Entry]:
    """Entries whose results hold what the agent believed."""
    return [e for e in entries if {"error", "prior", "exact", "decoded"} <= e.results.belief.keys()]


def draw_belief(entries: Sequence[Entry], *, legend: bool = True) -> Figure:
    """Draw the figure of `belief_figure`; all entries have beliefs."""
    best = most_informative(entries, 1)[0]
    maps, lines = has_maps(best), has_lines(best)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11.4 if maps else 9.4 if lines else 5.2, 3.7), layout="constrained")
        wide = [1.0, 1.6] if maps else [1.0] * (1 + lines)
        parts = figure.subfigures(1, len(wide), squeeze=False, width_ratios=wide)[0]
        _draw_errors(parts[0].subplots(), entries)
        if legend:
            add_legend(parts[0], entries)
        if maps:
            _draw_maps(parts[1], best)
        elif lines:
            _draw_lines(parts[1], best)
    return figure


def probe_figure(results: Sequence[Results]) -> Figure | None:
    """Draw the figure of `draw_probe` of those results that have probes; None if none has."""
    entries = [entry for entry in one_group(results) if "probe" in entry.results.belief]
    return draw_probe(entries) if entries else None


def draw_probe(entries: Sequence[Entry], *, legend: bool = True) -> Figure:
    """Draw the errors of the probes of entries that have them, against the steps of a trial.

    Dotted: those of the same probe on the exact posterior's answers in the same trials, where it is known.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.7), layout="constrained")
        ax = figure.subplots()
        for entry in entries:
            _draw_error(ax, entry, entry.results.belief["probe"])
            if (exact := entry.results.belief.get("probe_exact")) is not None:
                known = np.flatnonzero(np.isfinite(exact).all((0, 1)))
                with drawn_for(ax, entry):
                    ax.plot(known + 1, exact[..., known].mean((0, 1)), color=entry.color, ls=":", linewidth=1.3)
        ax.axhline(1.0, color=GREY, linewidth=1.1, linestyle=":", zorder=1)
        ax.set_ylim(bottom=0)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("step of the trial")
        ax.set_ylabel("squared error / variance")
        if legend:
            add_legend(figure, entries)
    return figure


def has_maps(entry: Entry) -> bool:
    """Whether the queries lead to points in the plane."""
    return "places" in entry.results.belief


def has_lines(entry: Entry) -> bool:
    """Whether there are so few queries that each has a line."""
    return not has_maps(entry) and entry.results.belief["exact"].shape[1] <= MOST_LINES


def belief_words(entries: Sequence[Entry]) -> str:
    """What the figure shows of these entries, which have beliefs, and the mean errors, as HTML."""
    words = [
        "Error of the decoded belief before each step of a trial, beside the exact posterior given the same steps: "
        f"{html.escape(_unit(entries))}. Bands: 95&nbsp;% intervals. Dotted: the prior’s error, that of "
        "learning nothing."
    ]
    for entry in entries:
        mean = belief_summary(entry.results.belief, entry.results.every_task)
        interval = f"[{mean['low']:.3g}, {mean['high']:.3g}]"
        label = html.escape(entry.label)
        words.append(f"Mean over the trial: {label} {mean['mean']:.3g} {interval}, the prior {mean['prior']:.3g}.")
    best = most_informative(entries, 1)[0]
    if has_maps(best):
        words.append(
            "Right: the first trial, exact above and decoded below; a column’s darkest color is its largest exact "
            "answer. Dot: the agent; star: the goal."
        )
    elif has_lines(best):
        words.append("Right: the first trial, one color for each query; solid: exact, dashed: decoded.")
    return " ".join(words)


def _unit(entries: Sequence[Entry]) -> str:
    """The unit of the errors, in words."""
    return str(entries[0].results.meta.get("belief", {}).get("unit", "error"))


def _draw_error(ax: Axes, entry: Entry, error: Floats) -> None:
    """Draw the mean of an error `[seed, task, time]` at steps that are known of all, and its interval as a band."""
    known = np.flatnonzero(np.isfinite(error).all((0, 1)))
    x, error = known + 1, error[..., known]
    low, high = mean_interval(error, fixed_tasks=entry.results.every_task)
    with drawn_for(ax, entry):
        ax.fill_between(x, low, high, color=entry.color, alpha=0.15, linewidth=0)
        every = max(1, -(-len(x) // 10))
        ax.plot(x, error.mean((0, 1)), color=entry.color, ls=entry.line, marker=entry.marker, markevery=every)


def _draw_errors(ax: Axes, entries: Sequence[Entry]) -> None:
    for entry in entries:
        results = entry.results
        _draw_error(ax, entry, results.belief["error"])
        with drawn_for(ax, entry):
            prior = results.belief["prior"].mean((0, 1))
            ax.plot(np.arange(1, len(prior) + 1), prior, color=entry.color, ls=":", linewidth=1.3)
    ax.set_ylim(bottom=0)
    ax.set_title("mean over tasks; dotted: the prior", loc="left", size=8)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("step of the trial")
    ax.set_ylabel(plain(_unit(entries)))


def stages(exact: Floats) -> list[int]:
    """Steps to show of the exact answers `[time, query]`: the first, some at which they have changed, and the last."""
    played = np.flatnonzero(np.isfinite(exact).all(1))
    changed = np.abs(np.diff(exact[played], axis=0)).max(1, initial=0.0) > 1e-9
    return sorted({*evenly([0, *played[1:][changed].tolist()], MOST_MAPS - 1), int(played[-1])})


def lattice(places: Floats, answers: Floats) -> tuple[Floats, Floats, Floats]:
    """Edges along x and y and values `[y, x]`, of answers `[query]` at places `[query, 2]`; NaN where there is none."""
    axes = [np.unique(places[:, i]) for i in (0, 1)]
    values = np.full((len(axes[1]), len(axes[0])), np.nan)
    index = [np.searchsorted(axis, places[:, i]) for i, axis in enumerate(axes)]
    values[index[1], index[0]] = answers
    return _edges(axes[0]), _edges(axes[1]), values


def _edges(centers: npt.NDArray[np.float64]) -> Floats:
    """Edges of cells around evenly spaced centers."""
    half = (centers[1] - centers[0]) / 2 if len(centers) > 1 else 0.5
    return np.append(centers - half, centers[-1] + half)


def _draw_maps(figure: SubFigure, entry: Entry) -> None:
    """Draw the exact answers above the decoded ones: one column for each step."""
    belief, results = entry.results.belief, entry.results
    columns = stages(belief["exact"])
    grid = figure.subplots(2, len(columns), squeeze=False, sharex=True, sharey=True)
    walked = results.trial.get("obs")  # [path, episode, t, 2]
    for i, t in enumerate(columns):
        low = min(0.0, float(belief["exact"][t].min()))
        for ax, name in zip(grid[:, i], ("exact", "decoded"), strict=True):
            x, y, values = lattice(belief["places"], belief[name][t])
            scale = {"vmin": low, "vmax": float(belief["exact"][t].max())}
            ax.pcolormesh(x, y, values, cmap="Blues", edgecolors="face", linewidth=0.1, **scale)
            if walked is not None and len(walked):
                ax.plot(*walked[0].reshape(-1, 2)[t], "o", color=PALETTE[4], markersize=4, zorder=4)
            if results.landmarks is not None:
                ax.plot(*results.landmarks[0], "*", color=PALETTE[1], markersize=9, markeredgecolor="white")
            ax.set(aspect="equal", xticks=[], yticks=[], anchor="S" if name == "exact" else "N")
            ax.grid(visible=False)
            for side in ax.spines.values():
                side.set(visible=True, linewidth=0.6, color=GREY)
        grid[0, i].set_title(f"step {t + 1}", size=8)
    for ax, name in zip(grid[:, 0], ("exact", "decoded"), strict=True):
        ax.set_ylabel(name, size=8)
    figure.suptitle(f"{plain(entry.label)}: one trial, in the first task", size=8)


def _draw_lines(figure: SubFigure, entry: Entry) -> None:
    """Draw the answers to each query against the steps of the trial."""
    belief, ax = entry.results.belief, figure.subplots()
    x = np.arange(1, len(belief["exact"]) + 1)
    for query, color in zip(range(belief["exact"].shape[1]), PALETTE, strict=False):
        ax.plot(x, belief["exact"][:, query], color=color, linewidth=1.4)
        ax.plot(x, belief["decoded"][:, query], color=color, linewidth=1.2, linestyle="--")
    ax.plot([], [], color=INK, label="exact")
    ax.plot([], [], color=INK, linestyle="--", label="decoded")
    ax.legend(loc="best", fontsize=7)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("step of the trial")
    ax.set_ylabel("expected reward")
    ax.set_title(f"{plain(entry.label)}: one trial, in the first task", loc="left", size=8)
