"""The figure of streams: the return after adaptation in each round, and the regret so far."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metarl.errors import InvalidValueError, verbatim
from metarl.evaluation.intervals import mean_interval
from metarl.evaluation.results import Floats
from metarl.online.results import OnlineResults
from metarl.report.figures.style import GREY, MARKERS, PALETTE, STYLE, plain


def online_figure(results: Sequence[OnlineResults], reference: OnlineResults | None = None) -> Figure:
    """Draw R_k at the last k against the round, and beside it the regret so far if the best return is known.

    A line is the mean over streams, its band the 95 % interval. A dotted line is the best return of each round.

    Args:
        results: learners of the same streams.
        reference: that of `OnlineResults.best`.

    Raises:
        InvalidValueError: there are no results, or they are of different streams.
    """
    if not results:
        raise InvalidValueError("results", verbatim("nothing"), "one learner or more")
    for other in results:
        if (other.family, other.task_hashes) != (results[0].family, results[0].task_hashes):
            raise InvalidValueError("streams of the results", other, f"those of {results[0]!r}")
    known = reference is not None or "informed_optimum" in results[0].references
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2 if known else 3.7, 3.1), layout="constrained")
        panels = figure.subplots(1, 2 if known else 1, squeeze=False)[0]
        for number, learner in enumerate(results):
            _draw(panels[0], learner.returns[:, :, -1], number, plain(learner.label))
            if known:
                _draw(panels[1], learner.regret(reference)[:, :, -1], number, plain(learner.label))
        if known:
            best = results[0].best(reference).mean(0)
            panels[0].plot(np.arange(1, len(best) + 1), best, color=GREY, linestyle=":", label="best return", zorder=1)
            panels[1].set_ylabel("regret so far")
        panels[0].set_ylabel(f"return after {results[0].k[-1]} adaptation steps")
        panels[0].set_title(f"{results[0].stream} stream", loc="left", size=8)
        for ax in panels:
            ax.set_xlabel("round")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def _draw(ax: Axes, values: Floats, number: int, label: str) -> None:
    """A line for `[seed, round]`."""
    rounds, color = np.arange(1, values.shape[1] + 1), PALETTE[number % len(PALETTE)]
    low, high = mean_interval(values[:, None, :])
    ax.fill_between(rounds, low, high, color=color, alpha=0.15, linewidth=0)
    every = max(1, len(rounds) // 8)
    ax.plot(rounds, values.mean(0), color=color, marker=MARKERS[number % len(MARKERS)], markevery=every, label=label)
