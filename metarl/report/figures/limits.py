"""Limits of an axis of returns, which a single wide interval does not ruin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from metarl.evaluation.results import Floats
from metarl.report.entries import Entry
from metarl.report.figures.style import mark_agent

BEYOND = "triangles: the interval goes on"
_ROOM = 0.5  # how far intervals are shown beyond all means, in ranges of these


class Band(NamedTuple):
    """A curve with its intervals: where its points stand on the other axis, means and ends, `[n]` each."""

    entry: Entry
    x: Floats
    mean: Floats
    low: Floats
    high: Floats


def limit_returns(ax: Axes, bands: Sequence[Band], lines: Sequence[float], *, upright: bool = True) -> bool:
    """Show all means and lines, and of intervals what lies not too far from them. Triangles mark those that go on.

    Args:
        ax: axes on which everything is drawn.
        bands: what is drawn.
        lines: returns of the reference lines.
        upright: whether returns are on the upright axis.

    Returns:
        whether any interval goes on beyond the axis.
    """
    if not bands:
        return False
    means = np.concatenate([*(band.mean for band in bands), np.asarray(lines, np.float64)])
    lows, highs = (np.concatenate([getattr(band, end) for band in bands]) for end in ("low", "high"))
    size = max(float(np.ptp(means)), 3 * float(np.median(highs - lows)))
    low = max(float(min(means.min(), lows.min())), float(means.min()) - _ROOM * size)
    high = min(float(max(means.max(), highs.max())), float(means.max()) + _ROOM * size)
    beyond = [(band, i) for band in bands for i in np.flatnonzero((band.low < low) | (band.high > high))]
    if not beyond:
        return False
    margin = 0.05 * (high - low)
    (ax.set_ylim if upright else ax.set_xlim)(low - margin, high + margin)
    for band, i in beyond:
        for goes_on, end, sign in ((band.low[i] < low, low, "v<"), (band.high[i] > high, high, "^>")):
            if goes_on:
                place = (band.x[i], end) if upright else (end, band.x[i])
                marker = sign[0] if upright else sign[1]
                (dot,) = ax.plot(*place, marker=marker, color=band.entry.color, linestyle="none", markersize=5)
                mark_agent(dot, band.entry.number)
    return True
