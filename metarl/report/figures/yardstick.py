"""The figure of learning from scratch: its return against environment steps, beside agents that adapt."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metarl.evaluation.results import Results
from metarl.evaluation.yardstick import curve, match
from metarl.report.entries import Entry, one_group
from metarl.report.figures.curves import FEW, add_legend, log_axis
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
        figure = Figure(figsize=(6.4, 3.9), layout="constrained")
        ax = figure.subplots()
        steps = [float(x) for e in learners for x in e.results.env_steps]
        gap = log_axis(ax, [*steps, *(float(e.results.env_steps[-1]) for e in agents)])
        for entry in learners:
            _draw_learner(ax, yardstick, entry, gap)
        for entry in agents:
            mean, low, high = (float(values[-1]) for values in curve(entry.results, tasks, mode))
            x = float(entry.results.env_steps[-1]) or gap
            ax.vlines(x, low, high, color=entry.color, linewidth=4, alpha=0.35, zorder=3)
            ax.plot(x, mean, color=entry.color, marker=entry.marker, markersize=7, linestyle="none", zorder=4)
            for learner in learners if len(agents) <= FEW else ():
                end = match(entry.results, learner.results, tasks, mode).reached.steps
                ax.plot([x, end or gap], [mean, mean], color=entry.color, linewidth=0.9, linestyle=":")
        references = {n: float(v[:tasks].mean()) for n, v in learners[0].results.references.items()}
        for value in references.values():
            ax.axhline(value, color=GREY, linewidth=1.1, linestyle=":", zorder=1)
        name_lines(ax, references)
        ax.set_xlabel("environment steps in the task")
        ax.set_ylabel("return of a fresh episode")
        ax.set_title(f"lines: from scratch; points: after the last adaptation step; {mode} actions", loc="left", size=8)
        if legend:
            add_legend(figure, [*learners, *agents])
    return figure


def _draw_learner(ax: Axes, yardstick: Yardstick, entry: Entry, gap: float) -> None:
    """The curve of an agent that learns from scratch; its return at 0 steps stands apart."""
    x, (mean, low, high) = entry.results.env_steps, curve(entry.results, yardstick.tasks, yardstick.mode)
    later = x > 0
    ax.fill_between(x[later], low[later], high[later], color=entry.color, alpha=0.15, linewidth=0)
    ax.plot(x[later], mean[later], color=entry.color, marker=entry.marker)
    for i in range(len(x) - int(later.sum())):
        ax.vlines(gap, low[i], high[i], color=entry.color)
        ax.plot(gap, mean[i], color=entry.color, marker=entry.marker)
