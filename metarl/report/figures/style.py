"""The style that all figures share, their files, and their form within a page.

The code uses matplotlib's objects and not pyplot: it changes no global state and needs no display.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from metarl.errors import InvalidValueError
from metarl.evaluation.modes import Mode
from metarl.evaluation.results import Floats
from metarl.files import write_atomic

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito
MARKERS = "osD^vPX"
LineStyle = Literal["solid", "dashed"] | tuple[float, Sequence[float]]
DASHES: tuple[LineStyle, ...] = ("solid", (0, (3, 1.2)), (0, (1, 1)))  # of agents that share a color
LINES: dict[Mode, Literal["solid", "dashed"]] = {"sampled": "solid", "deterministic": "dashed"}
INK, GREY = "#3c4043", "#80868b"
_GRID, _EDGE = "#e4e6e9", "#9aa0a6"
STYLE: Any = {
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "white"),
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **{"axes.grid": True, "grid.color": _GRID, "axes.axisbelow": True, "axes.edgecolor": _EDGE},
    **{"font.size": 9, "axes.labelsize": 9, "lines.linewidth": 1.8, "lines.markersize": 4.5, "svg.hashsalt": "metarl"},
    "pdf.fonttype": 42,
}
THEME = {  # the page's variable for each color of a figure: it has other values in the dark
    **{color.lower(): f"var(--c{i})" for i, color in enumerate(PALETTE)},
    **{INK: "var(--ink)", GREY: "var(--soft)", _EDGE: "var(--soft)", _GRID: "var(--line)", "#ffffff": "var(--card)"},
}
FILES: dict[str, Any] = {  # kinds of figure files, and the metadata that names their maker
    "png": {"Software": "metarl"},
    "pdf": {"Creator": "metarl", "Producer": None, "CreationDate": None},
    "svg": {"Creator": "metarl", "Date": None},
}


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure as .png, .pdf or .svg. An interrupted write leaves no partial file."""
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FILES:
        raise InvalidValueError("figure file", str(path), "a name that ends in .png, .pdf or .svg")
    write_atomic(path, rendered(figure, kind))
    return path


def rendered(figure: Figure, kind: str, fonttype: str = "path", clear: bool = False) -> bytes:
    """Bytes of a figure's file, of a kind in `FILES`. The same figure gives the same bytes.

    Args:
        figure: the figure.
        kind: "png", "pdf" or "svg".
        fonttype: whether letters of an SVG are paths ("path") or text ("none").
        clear: whether the background is transparent.
    """
    buffer = io.BytesIO()
    with matplotlib.rc_context({**STYLE, "svg.fonttype": fonttype}):
        figure.savefig(buffer, format=kind, dpi=200, transparent=clear, metadata=FILES[kind])
    whole = buffer.getvalue()
    return re.sub(rb'(?<=<g) id="agent-\d+"', b"", whole) if kind == "svg" and not clear else whole


def mark_agent(artist: Artist, number: int) -> None:
    """Say which agent of its section an artist belongs to. A page has this number as `data-agent`."""
    artist.set_gid(f"agent-{number}")


def every_file(figure: Figure) -> dict[str, bytes]:
    """Bytes of the figure's files of all kinds. Its layout is computed once."""
    with matplotlib.rc_context(STYLE):
        figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return {kind: rendered(figure, kind) for kind in FILES}


def inline_svg(figure: Figure, label: str) -> str:
    """The figure as part of a page: it scales with the page, up to 1.6 px for each point, and has the page's colors."""
    text = rendered(figure, "svg", "none", clear=True).decode()
    needless = r"<metadata>.*?</metadata>|<style.*?</style>|(?<=<g) id=\"[^\"]*\""
    body = re.sub(r'<g id="agent-(\d+)"', r'<g data-agent="\1"', text[text.index("<svg") :])
    body = re.sub(needless, "", body, flags=re.S)
    body = re.sub(r'style="[^"]*"', lambda style: re.sub(r"#[0-9a-f]{6}", _themed, style[0]), body)
    width, height = (figure.get_size_inches() * 72).round(2)
    opening = f'<svg viewBox="0 0 {width:g} {height:g}" style="max-width:{1.6 * width:.0f}px" role="img"'
    return re.sub(r"^<svg[^>]*>", lambda _: f'{opening} aria-label="{html.escape(label)}">', body)


def _themed(color: re.Match[str]) -> str:
    return THEME.get(color[0], color[0])


def swatch(color: str, marker: str, line: LineStyle) -> Figure:
    """A short line with its marker, for the legend of a page."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(0.36, 0.15))
        figure.add_artist(Line2D([0.05, 0.5, 0.95], [0.5] * 3, color=color, marker=marker, ls=line, markevery=[1]))
    return figure


def plain(text: str) -> str:
    """Escape dollar signs, so that matplotlib does not read text as mathematics."""
    return text.replace("$", r"\$")


def name_lines(ax: Axes, heights: Mapping[str, float]) -> None:
    """Write the name of each horizontal line to the right of the axes. Names of close lines are moved apart."""
    names = [(name.replace("_", "\n"), value) for name, value in sorted(heights.items(), key=lambda item: item[1])]
    low, high = ax.get_ylim()
    inch = (high - low) * ax.figure.figure.dpi / ax.get_window_extent().height  # in units of the axis
    sizes = [0.14 * (1 + name.count("\n")) * inch for name, _ in names]
    places = apart([value for _, value in names], sizes)
    for (name, _), place in zip(names, places, strict=True):
        ax.text(1.02, place, plain(name), transform=ax.get_yaxis_transform(), va="center", size=8)


def apart(places: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """Rising places, moved apart as little as is needed so that things of these sizes around them do not overlap."""
    groups: list[tuple[list[float], list[float]]] = []  # places and sizes of things that touch
    for place, size in zip(places, sizes, strict=True):
        groups.append(([place], [size]))
        while len(groups) > 1 and _start(*groups[-1]) < _start(*groups[-2]) + sum(groups[-2][1]):
            last = groups.pop()
            groups[-1][0].extend(last[0])
            groups[-1][1].extend(last[1])
    out: list[float] = []
    for own, own_sizes in groups:
        start = _start(own, own_sizes)
        for size in own_sizes:
            out.append(start + size / 2)
            start += size
    return out


def _start(places: Sequence[float], sizes: Sequence[float]) -> float:
    """Where things that stand one after the other begin, so that they are as near to their places as they can be."""
    offsets = np.cumsum(sizes) - np.asarray(sizes) / 2
    return float(np.mean(np.asarray(places) - offsets))


def name_columns(ax: Axes, places: Mapping[str, float]) -> None:
    """Write the name of each upright line above the axes, one above the other where two would overlap."""
    low, high = ax.get_xlim()
    width = ax.get_window_extent().width / ax.figure.figure.dpi  # inches
    ends: list[float] = []  # right end of the last name of each level
    for name, value in sorted(places.items(), key=lambda item: item[1]):
        center, half = width * (value - low) / (high - low), 0.034 * len(name) + 0.04
        level = next((i for i, end in enumerate(ends) if center - half >= end), len(ends))
        ends[level:] = [center + half, *ends[level + 1 :]]
        above: dict[str, Any] = {"xytext": (0, 2 + 10 * level), "textcoords": "offset points"}
        ax.annotate(plain(name), (value, 1), xycoords=ax.get_xaxis_transform(), **above, ha="center", size=8)


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
