"""The figure of transfer: a matrix of families to begin with and families that are trained."""

from __future__ import annotations

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from metarl.report.figures.style import INK, PALETTE, STYLE
from metarl.report.transfer import Gain, Transfer

_STRONGEST = 0.75  # the opacity of the largest gain or loss


def draw_transfer(transfer: Transfer) -> Figure:
    """Draw the gain of each pair: blue where it helps to begin with the training, orange where it harms."""
    sources, targets = transfer.sources, transfer.targets
    largest = max(abs(g.mean) for g in transfer.gains.values()) or 1.0
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(1.7 + 1.25 * len(targets), 1.0 + 0.55 * len(sources)), layout="constrained")
        ax = figure.subplots()
        for y, source in enumerate(sources):
            for x, target in enumerate(targets):
                gain = transfer.gains.get((source, target))
                if gain is not None:
                    color = PALETTE[0] if gain.mean > 0 else PALETTE[1]
                    strength = _STRONGEST * abs(gain.mean) / largest
                    ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=color, alpha=strength, linewidth=0))
                    ax.text(x, y, _words(gain), ha="center", va="center", color=INK, fontsize=8)
        ax.set_xlim(-0.5, len(targets) - 0.5)
        ax.set_ylim(len(sources) - 0.5, -0.5)
        ax.set_xticks(range(len(targets)), targets)
        ax.set_yticks(range(len(sources)), [source.partition("/")[0] for source in sources])
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.set_xlabel("trained in")
        ax.set_ylabel("begins with")
    return figure


def _words(gain: Gain) -> str:
    return f"{gain.mean:+.2f}\n[{gain.low:+.2f}, {gain.high:+.2f}]"
