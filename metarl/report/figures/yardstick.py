"""The figure of learning from scratch: its return against environment steps, beside agents that adapt."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metarl.evaluation.results import Results
from metarl.evaluation.yardstick import curve, match
from metarl.report.entries import one_group
from metarl.report.figures.curves import FEW, add_legend, drawn_for, log_axis
from metarl.report.figures.limits import BEYOND, Band, limit_returns
from metarl.report.figures.style import GREY, STYLE, name_lines
from metarl.report.yardstick import Yardstick, yardstick_of


def yardstick_figure(results: Sequence[Results]) -> Figure | None:
    """Draw the return of learning from scratch against the environment steps in a task, and each adapted agent's R_k.

    A line is an agent that learns from scratch (`meta["from_scratch"]` of its results), with the 95 % interval as its
    band. A point is the last R_k of a meta-trained agent at its own environment steps. Up to 4 agents have dotted
    lines, which lead to the steps from scratch that reach their R_k. None if one of the two kinds is missing.
    """
    found = yardstick_of(one_group(results))
    return None if found is None else draw_yardstick(found)


def draw_yardstick(yardstick: Yardstick, *, legend: bool = True) -> Figure:
    """Draw the figure of `yardstick_figure`."""
    agents, learners = yardstick.agents, yardstick.learners
    tasks, mode = yardstick.tasks, yardstick.mode
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.7), layout="constrained")
        ax = figure.subplots()
        steps = [float(x) for e in learners for x in e.results.env_steps]
        gap = log_axis(ax, [*steps, *(float(e.results.env_steps[-1]) for e in agents)])
        bands = []
        for entry in learners:
            x = entry.results.env_steps
            bands.append(Band(entry, np.where(x > 0, x, gap), *curve(entry.results, tasks, mode)))
            with drawn_for(ax, entry):
                _draw_learner(ax, bands[-1], x > 0)
        for entry in agents:
            ends = (values[-1:] for values in curve(entry.results, tasks, mode))
            bands.append(Band(entry, np.array([float(entry.results.env_steps[-1]) or gap]), *ends))
            reached = [match(entry.results, e.results, tasks, mode).reached.steps or gap for e in learners]
            with drawn_for(ax, entry):
                _draw_agent(ax, bands[-1], reached if len(agents) <= FEW else [])
        references = {n: float(v[:tasks].mean()) for n, v in learners[0].results.references.items()}
        for value in references.values():
            ax.axhline(value, color=GREY, linewidth=1.1, linestyle=":", zorder=1)
        words = ["line: from scratch", "point: adapted", f"{mode} actions"]
        words += [BEYOND] if limit_returns(ax, bands, list(references.values())) else []
        name_lines(ax, references)
        ax.set_xlabel("environment steps in the task")
        ax.set_ylabel("return of a fresh episode")
        ax.set_title("; ".join(words), loc="left", size=8)
        if legend:
            add_legend(figure, [*learners, *agents])
    return figure


def _draw_learner(ax: Axes, band: Band, later: npt.NDArray[np.bool_]) -> None:
    """The curve of an agent that learns from scratch; its return at 0 steps stands apart."""
    color, marker = band.entry.color, band.entry.marker
    ax.fill_between(band.x[later], band.low[later], band.high[later], color=color, alpha=0.15, linewidth=0)
    ax.plot(band.x[later], band.mean[later], color=color, marker=marker, linestyle=band.entry.line)
    ax.vlines(band.x[~later], band.low[~later], band.high[~later], color=color)
    ax.plot(band.x[~later], band.mean[~later], color=color, marker=marker, linestyle="none")


def _draw_agent(ax: Axes, band: Band, reached: Sequence[float]) -> None:
    """The point of an adapted agent, with lines to the steps from scratch that reach it."""
    color, (x,), (mean,) = band.entry.color, band.x, band.mean
    ax.vlines(x, band.low, band.high, color=color, linewidth=4, alpha=0.35, zorder=3)
    ax.plot(x, mean, color=color, marker=band.entry.marker, markersize=7, linestyle="none", zorder=4)
    for end in reached:
        ax.plot([x, end], [mean, mean], color=color, linewidth=0.9, linestyle=":")
