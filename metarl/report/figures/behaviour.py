"""The figure of behaviour where observations are no points: rewards of an episode before and one after adaptation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from metarl.evaluation.results import Floats, Results
from metarl.report.entries import Entry, most_informative, one_group
from metarl.report.figures.curves import FEW, drawn_for
from metarl.report.figures.style import STYLE, plain


class Behaviour(NamedTuple):
    """The rewards of two episodes of one agent in the first task.

    Attributes:
        before: rewards of the first episode, `[t]`, with NaN after its end.
        after: rewards of the last one, likewise.
        words: which two episodes they are.
    """

    before: Floats
    after: Floats
    words: str


def behaviour_of(results: Results) -> Behaviour | None:
    """The rewards at k = 0 and after the last k, in older files those of the first and the last episode of a trial.

    None if episodes have one step, if the results have paths, which show more, or if they have no such rewards.
    """
    if any(path.size for path in results.paths.values()):
        return None
    rewards, grid = results.rewards, results.k
    if rewards is not None and len(grid) > 1:
        return Behaviour(rewards[0], rewards[-1], f"k = {grid[0]} and k = {grid[-1]}")
    trial = results.trial.get("reward", np.zeros((0, 0, 0)))[:1]  # [path, episode, t]
    if not trial.size or trial.shape[1] < 2 or trial.shape[2] < 2:
        return None
    return Behaviour(trial[0, 0], trial[0, -1], f"episodes 1 and {trial.shape[1]} of a trial")


def with_behaviour(entries: Sequence[Entry]) -> list[Entry]:
    """Entries that have rewards to draw."""
    return [e for e in entries if behaviour_of(e.results) is not None]


def behaviour_figure(results: Sequence[Results]) -> Figure | None:
    """Draw the sum of rewards so far against the steps of two episodes in the first task: at k = 0 and the last k.

    There is a panel for each of the 4 agents with the highest scores. The thin dashed line is the episode before
    adaptation, the strong line the one after it. A line ends with the episode, at its return. None if there are no such
    rewards: `behaviour_of`.
    """
    shown = with_behaviour(one_group(results))
    return draw_behaviour(shown) if shown else None


def draw_behaviour(entries: Sequence[Entry]) -> Figure:
    """Draw the figure of `behaviour_figure`, of entries that have rewards to draw."""
    chosen = most_informative(entries, FEW)
    columns = min(2, len(chosen))
    rows = -(-len(chosen) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.7 * columns, 2.3 * rows + 0.3), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for ax in grid.flat[len(chosen) :]:
            ax.set_visible(False)
        for ax, entry in zip(grid.flat, chosen, strict=False):
            with drawn_for(ax, entry):
                _draw_rewards(ax, entry)
        for ax in grid.flat[len(chosen) - columns : len(chosen)]:  # those with no panel below
            ax.set_xlabel("step of the episode")
            ax.tick_params(labelbottom=True)
        for ax in grid[:, 0]:
            ax.set_ylabel("sum of rewards so far")
    return figure


def _draw_rewards(ax: Axes, entry: Entry) -> None:
    found = behaviour_of(entry.results)
    assert found is not None
    for rewards, width, style in ((found.before, 0.8, "--"), (found.after, 1.8, "-")):
        total = np.concatenate([[0.0], rewards[np.isfinite(rewards)].cumsum()])  # after 0, 1, ... steps
        (line,) = ax.plot(np.arange(len(total)), total, color=entry.color, linewidth=width, linestyle=style)
        line.set(marker=entry.marker, markevery=[len(total) - 1])  # at its end
    ax.set_title(f"{plain(entry.label)}: {found.words}", loc="left", size=8)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
