"""Reports: one self-contained HTML page of adaptation curves, tables and paths, and the same as text and figures.

    metarl report RUN... --out DIR

Figures are made with matplotlib's objects alone, so nothing global is left behind and no display is needed.
"""

from __future__ import annotations

import html
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator

from metarl.errors import InvalidValueError, did_you_mean
from metarl.results import Floats, Results
from metarl.tasks import write_atomic

Row = dict[str, float]
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito
MARKERS = "osD^vPX"
LINES: dict[str, Literal["solid", "dashed"]] = {"sampled": "solid", "mean": "dashed"}  # of each action mode
INK, GREY = "#3c4043", "#80868b"
PANELS = {"k": "adaptation steps k", "env_steps": "environment steps used", "lifetime": "lifetime return of a trial"}
STYLE: Any = {
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "white"),
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **{"axes.grid": True, "grid.color": "#e4e6e9", "axes.axisbelow": True, "axes.edgecolor": "#9aa0a6"},
    **{"font.size": 9, "axes.labelsize": 9, "lines.linewidth": 1.8, "lines.markersize": 4.5, "svg.hashsalt": "metarl"},
}
ABOUT = (
    "<b>R<sub>k</sub></b> is the undiscounted return of one fresh episode played with the state after k adaptation "
    "steps; what happens in that episode is thrown away. Means are over seeds, tasks and episodes, and "
    "<b>[low, high]</b> is a 95&nbsp;% percentile bootstrap interval over seeds and tasks, crossed. "
    "<b>IQM</b> is the interquartile mean of the tasks’ returns: the mean of their middle half. "
    "<b>Environment steps</b> are all that an agent used before it was measured: compare agents on them, never on k "
    "alone. <b>Normalised score</b> = (mean &minus; floor) / (informed optimum &minus; floor), unclipped: 0 is "
    "uniformly random actions, 1 the best return of a player who knows the task. <b>Lifetime return</b> is the total "
    "reward of a whole trial, exploration included; the Bayes optimum is its best expected value when the task is "
    "unknown."
)
CSS = """
:root{color-scheme:light dark;--bg:#f7f8f9;--card:#fff;--ink:#202327;--soft:#5f6670;--line:#dfe2e6;--tint:#f3f5f7}
@media(prefers-color-scheme:dark){:root{--bg:#16181b;--card:#1e2125;--ink:#e6e8ea;--soft:#a2a9b1;--line:#363b41;
--tint:#25292e}}*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);line-height:1.55}
body,svg text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif!important}
main{max-width:68rem;margin:0 auto;padding:clamp(1.2rem,4vw,3rem) clamp(.8rem,3vw,1.5rem) 4rem}
h1,h2,p,dd{overflow-wrap:anywhere}h1{font-size:1.9rem;line-height:1.2;margin:0 0 1rem}h2{font-size:1.35rem;margin:0}
h3{font-size:1rem;margin:2rem 0 .6rem}section{margin-top:2.5rem;padding-top:2rem;border-top:1px solid var(--line)}
.about{max-width:46rem}.soft,figcaption,table,dl{font-size:.875rem}.soft,dt,thead,small{color:var(--soft)}
.soft{margin:.3rem 0 1rem}.note{border-left:3px solid #e69f00;padding-left:.8rem}sub{line-height:0}
.row{display:flex;flex-wrap:wrap;gap:1rem}.row figure{flex:1 1 19rem;min-width:0}.wide svg{min-width:34rem}
figure,.scroll{margin:0;background:var(--card);border:1px solid var(--line);border-radius:8px;overflow-x:auto}
figure{padding:.8rem;background:#fff;color:#5f6670}svg{display:block;width:100%;height:auto;margin:0 auto}
table{border-collapse:collapse;width:100%;min-width:42rem;font-variant-numeric:tabular-nums}
th,td{padding:.36rem .8rem;text-align:right;vertical-align:top}td,tbody th{white-space:nowrap}
th:first-child{text-align:left}thead th{vertical-align:bottom}tr:nth-child(even) td{background:var(--tint)}
tbody{border-top:1px solid var(--line)}small{display:block;font-weight:400}
details{margin-top:2rem}summary{cursor:pointer;font-weight:600}dd{margin:0}
dl{display:grid;grid-template-columns:7rem minmax(0,1fr);gap:.2rem 1rem;margin:.5rem 0 1.5rem}
"""


@dataclass(frozen=True)
class _Entry:
    """One agent's results with its label, its look, and its summaries by mode (intervals are computed once)."""

    results: Results
    label: str
    color: str
    marker: str
    rows: dict[str, list[Row]]


def write_report(results: Sequence[Results], out: str | Path, *, title: str = "metarl report") -> Path:
    """Write `out/report.html`: one file that needs no other, with a section per family (and split).

    Args:
        results: what evaluations found, of any agents and families.
        out: directory, made where missing.
        title: heading of the page.

    Returns:
        the file.

    Raises:
        InvalidValueError: there are no results, or the directory cannot be written.
    """
    if not results:
        raise InvalidValueError("results", list(results), "at least one evaluation")
    sections = "".join(map(_section, _grouped(results)))
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{html.escape(title)}</title><style>{CSS}</style></head><body><main><h1>{html.escape(title)}</h1>"
        f'<p class="about">{ABOUT}</p>{sections}</main></body></html>\n'
    )
    path = Path(out) / "report.html"
    write_atomic(path, page.encode(errors="replace"))
    return path


def adaptation_figure(results: Sequence[Results], panels: Sequence[str] | None = None) -> Figure:
    """Mean R_k with 95 % intervals, one line per agent and action mode, and references.

    Args:
        results: of agents on one family and split.
        panels: some of "k" (against adaptation steps), "env_steps" (against environment steps) and "lifetime";
            by default all that tell something: "env_steps" where agents differ in them, "lifetime" where all have it.

    Returns:
        a figure with one axes per panel.
    """
    groups = _grouped(results)
    if len(groups) != 1:
        raise InvalidValueError("results", [r.family for r in results], "those of one family and split")
    for panel in panels or ():
        if panel not in PANELS:
            raise InvalidValueError("panel", panel, did_you_mean(panel, PANELS))
    return _adaptation(groups[0], list(panels or _panels(groups[0])))


def paths_figure(results: Sequence[Results]) -> Figure | None:
    """Paths of the first tasks' episodes: a row per agent, a column per k (at most 5); None where there are none."""
    shown = [(r, paths) for r in results if (paths := {k: p for k, p in r.paths.items() if p.size})]
    if not shown:
        return None
    columns = _chosen(sorted({k for _, paths in shown for k in paths}), 5)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.7 * len(columns) + 0.6, 1.7 * len(shown) + 0.4), layout="compressed")
        grid = figure.subplots(len(shown), len(columns), squeeze=False, sharex=True, sharey=True)
        for axes, (result, paths) in zip(grid, shown, strict=True):
            axes[0].set_ylabel(_plain(result.agent))
            for ax, k in zip(axes, columns, strict=True):
                _draw_paths(ax, paths.get(k, np.zeros((0, 0, 2))), result.landmarks)
        for ax, k in zip(grid[0], columns, strict=True):
            ax.set_title(f"k = {k}", size=9)
        _frame(grid[0, 0], [result for result, _ in shown])
    return figure


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure as .png or .svg, whole or not at all."""
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg"):
        raise InvalidValueError("figure file", str(path), "a name that ends in .png or .svg")
    write_atomic(path, _rendered(figure, kind))
    return path


def table_text(results: Sequence[Results]) -> str:
    """A markdown table per family and split: R_k [low, high] for up to 4 k, and lifetime return where known."""
    return "\n\n".join(map(_text_section, _grouped(results)))


# --- what is shown ---------------------------------------------------------------------------------------------------


def _grouped(results: Sequence[Results]) -> list[list[_Entry]]:
    """By family and split, in order of appearance."""
    groups: dict[tuple[str, str], list[_Entry]] = {}
    for result in results:
        group = groups.setdefault((result.family, result.split), [])
        number, place = 1 + sum(e.results.agent == result.agent for e in group), len(group) % len(PALETTE)
        label = result.agent if number == 1 else f"{result.agent} ({number})"
        rows = {mode: result.summary(mode) for mode in result.scores}
        group.append(_Entry(result, label, PALETTE[place], MARKERS[place], rows))
    return list(groups.values())


def _chosen(grid: Sequence[int], limit: int) -> list[int]:
    """At most `limit` of the grid, evenly, first and last included."""
    return [grid[i] for i in np.linspace(0, len(grid) - 1, min(limit, len(grid))).round().astype(int)]


def _references(entries: Sequence[_Entry]) -> dict[str, float]:
    """Mean references by name, of the first results that have them."""
    return {n: float(v.mean()) for e in reversed(entries) for n, v in e.results.references.items()}


def _decimals(values: Iterable[float]) -> int:
    """Decimals that fit the largest of some values."""
    largest = max(map(abs, values), default=0.0)
    return 3 if largest < 2 else 2 if largest < 1000 else 0


def _ends(entries: Sequence[_Entry]) -> list[float]:
    return [row[end] for e in entries for rows in e.rows.values() for row in rows for end in ("low", "high")]


# --- figures ---------------------------------------------------------------------------------------------------------


def _panels(entries: Sequence[_Entry]) -> list[str]:
    used = {tuple(e.results.env_steps.tolist()) for e in entries}
    lifetime = all(e.results.lifetime.size for e in entries)
    return ["k", *(["env_steps"] if len(used) > 1 else []), *(["lifetime"] if lifetime else [])]


def _adaptation(entries: Sequence[_Entry], names: Sequence[str]) -> Figure:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.7 * len(names), 3.7), layout="constrained")
        for ax, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            _draw_lifetime(ax, entries) if name == "lifetime" else _draw_curves(ax, entries, name)
            ax.set_xlabel(PANELS[name])
        handles = [Line2D([], [], color=e.color, marker=e.marker, label=_plain(e.label)) for e in entries]
        if list(names) != ["lifetime"]:  # whose axis names the agents
            figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4 * len(names)))
    return figure


def _draw_curves(ax: Axes, entries: Sequence[_Entry], x_name: str) -> None:
    lines = [(entry, mode, rows) for entry in entries for mode, rows in entry.rows.items()]
    at = sorted({row[x_name] for _, _, rows in lines for row in rows})
    for i, (entry, mode, rows) in enumerate(lines):
        x, mean, low, high = (np.array([row[n] for row in rows]) for n in (x_name, "mean", "low", "high"))
        ax.fill_between(x, low, high, color=entry.color, alpha=0.15, linewidth=0)
        if len(at) == 1:  # points beside each other
            x = x + 0.1 * (i - (len(lines) - 1) / 2)
        if len(x) == 1:
            ax.vlines(x, low, high, color=entry.color, linestyles=LINES[mode])
        ax.plot(x, mean, ls=LINES[mode], color=entry.color, marker=entry.marker)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True) if len(at) > 1 else FixedLocator(at))
    ends = [float(e.results.env_steps[-1]) for e in entries if e.results.env_steps[-1] > 0]
    if x_name == "env_steps" and ends and max(ends) > 10 * min(ends):
        ax.set_xscale("symlog", linthresh=min(ends))
    modes = [mode for mode in LINES if any(mode in e.rows for e in entries)]
    ax.set_title(", ".join(f"{LINES[mode]}: {mode} actions" for mode in modes), loc="left", size=8)
    ax.set_ylabel("return of a fresh episode")
    _draw_references(ax, entries)


def _draw_references(ax: Axes, entries: Sequence[_Entry]) -> None:
    """Lines with their names to the right of the axes, where nothing else is; near neighbours part."""
    ordered = sorted(_references(entries).items(), key=lambda item: item[1])
    for _, value in ordered:
        ax.axhline(value, color=GREY, linewidth=1.1, linestyle=":", zorder=1)
    low, high = ax.get_ylim()
    for i, (name, value) in enumerate(ordered):
        alone = all(abs(value - other) > 0.12 * (high - low) for j, (_, other) in enumerate(ordered) if j != i)
        side = "center" if alone else "bottom" if i else "top"
        ax.text(1.02, value, _plain(name.replace("_", "\n")), transform=ax.get_yaxis_transform(), va=side, size=8)


def _draw_lifetime(ax: Axes, entries: Sequence[_Entry]) -> None:
    shown = [(e, s) for e in entries if (s := e.results.lifetime_summary())]
    for y, (entry, row) in enumerate(shown):
        ax.hlines(y, row["low"], row["high"], color=entry.color, linewidth=5, alpha=0.35)
        ax.plot(row["mean"], y, color=entry.color, marker=entry.marker, markersize=7)
    for best in {s["bayes_optimal"] for _, s in shown if "bayes_optimal" in s}:
        ax.axvline(best, color=GREY, linewidth=1.1, linestyle=":", zorder=1)
        ax.text(best, 1.01, "Bayes optimum", transform=ax.get_xaxis_transform(), ha="center", size=8)
    ax.set_yticks(range(len(shown)), [_plain(e.label) for e, _ in shown])
    ax.set_ylim(len(shown) - 0.4, -0.6)


def _draw_paths(ax: Axes, paths: Floats, landmarks: Floats | None) -> None:
    for i, path in enumerate(paths):
        color, points = PALETTE[i % len(PALETTE)], path[np.isfinite(path).all(-1)]
        ax.plot(*points.T, color=color, linewidth=1.1)
        ax.plot(*points[:1].T, color=color, marker="o", markersize=3.5)
        if landmarks is not None and i < len(landmarks):
            ax.plot(*landmarks[i], color=color, marker="*", markersize=9, markeredgecolor="white", zorder=3)
    ax.set_aspect("equal")
    ax.tick_params(labelsize=7, length=0)


def _frame(ax: Axes, shown: Sequence[Results]) -> None:
    """A square that shows every start and landmark, and what lies within 2.5 times their reach."""
    points = [p.reshape(-1, 2) for r in shown for p in r.paths.values()]
    anchors = [p[:, 0] for r in shown for p in r.paths.values() if p.size]
    anchors += [r.landmarks for r in shown if r.landmarks is not None]
    low, high = np.nanmin(np.concatenate(anchors), 0), np.nanmax(np.concatenate(anchors), 0)
    center, reach = (low + high) / 2, float((high - low).max()) / 2
    farthest = float(np.nanmax(np.abs(np.concatenate(points) - center)))
    half = 1.1 * max(reach, min(farthest, 2.5 * reach) if reach > 0 else farthest) or 1.0
    ax.set_xlim(center[0] - half, center[0] + half)
    ax.set_ylim(center[1] - half, center[1] + half)


def _plain(text: str) -> str:
    """Text that matplotlib shows as it is, without reading dollars as mathematics."""
    return text.replace("$", r"\$")


def _rendered(figure: Figure, kind: str, fonttype: str = "path") -> bytes:
    buffer = io.BytesIO()
    with matplotlib.rc_context({**STYLE, "svg.fonttype": fonttype}):
        figure.savefig(buffer, format=kind, dpi=200, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


# --- page ------------------------------------------------------------------------------------------------------------


def _section(entries: Sequence[_Entry]) -> str:
    first = entries[0].results
    parts = [f"<h2>{html.escape(first.family)}</h2>", f'<p class="soft">{html.escape(_subtitle(first))}</p>']
    if any(e.results.meta.get("train_equals_test") for e in entries):
        parts.append('<p class="note">train = test: finite family, so training met these tasks.</p>')
    if len({e.results.task_hash for e in entries}) > 1:
        parts.append('<p class="note">These results are of different tasks: see the hashes under Details.</p>')
    figures = (_svg(_adaptation(entries, [name]), PANELS[name]) for name in _panels(entries))
    parts += ["<h3>Adaptation</h3>", f'<div class="row">{"".join(f"<figure>{f}</figure>" for f in figures)}</div>']
    parts += ["<h3>Return after k adaptation steps</h3>", _scores_table(entries)]
    parts += ["<h3>Whole trial</h3>", _trial_table(entries)]
    if (paths := paths_figure([e.results for e in entries])) is not None:
        caption = "An episode in each of the first tasks: dot, start; star, the task's goal. Frames cut far excursions."
        picture = _svg(paths, "paths of episodes")
        parts.append(f'<h3>Paths</h3><figure class="wide">{picture}<figcaption>{caption}</figcaption></figure>')
    details = "".join(_details(entry) for entry in entries)
    return f"<section>{''.join(parts)}<details><summary>Details</summary>{details}</details></section>\n"


def _subtitle(results: Results) -> str:
    tasks, episodes = next(iter(results.scores.values())).shape[1::2]  # of [seed, task, k, episode]
    facts = {"split": results.split, "tasks": tasks, "episodes for each R_k": episodes}
    facts |= {name.replace("_", " "): f"{values.mean():.4g}" for name, values in results.references.items()}
    if results.bayes_optimal is not None:
        facts["Bayes-optimal lifetime return"] = f"{results.bayes_optimal:.4g}"
    return " \u00b7 ".join(f"{name}: {value}" for name, value in facts.items())


def _svg(figure: Figure, label: str) -> str:
    """Inline SVG that scales with the page up to its natural size in px, 4/3 of a point."""
    text = _rendered(figure, "svg", "none").decode()
    body = re.sub(r"<metadata>.*?</metadata>|(?<=<g) id=\"[^\"]*\"", "", text[text.index("<svg") :], flags=re.S)
    width, height = (figure.get_size_inches() * 72).round(2)
    opening = f'<svg viewBox="0 0 {width:g} {height:g}" style="max-width:{1.6 * width:.0f}px" role="img"'
    return re.sub(r"^<svg[^>]*>", f'{opening} aria-label="{label}">', body)


def _scores_table(entries: Sequence[_Entry]) -> str:
    decimals, groups = _decimals(_ends(entries)), []
    extra = [n for n in ("normalised", "success") if any(n in rows[0] for e in entries for rows in e.rows.values())]
    for entry in entries:
        for mode, rows in entry.rows.items():
            chosen = [row for row in rows if row["k"] in _chosen(entry.results.k, 6)]
            name = f"{html.escape(entry.label)}<small>{html.escape(mode)} actions</small>"
            groups.append((name, [_score_cells(row, extra, decimals) for row in chosen]))
    return _table(["agent", "k", "R<sub>k</sub>", "[low, high]", "IQM", "environment steps", *extra], groups)


def _score_cells(row: Row, extra: Sequence[str], decimals: int) -> list[str]:
    cells = [_number(row["k"], 0), _number(row["mean"], decimals), _interval(row, decimals)]
    cells += [_number(row["iqm"], decimals), _number(row["env_steps"], 0)]
    return [*cells, *(_number(row.get(name), 3) for name in extra)]


def _trial_table(entries: Sequence[_Entry]) -> str:
    head = ["agent", "mean of R<sub>k</sub> over k", "return while adapting", "seconds per step"]
    head += ["lifetime return", "[low, high]", "episodes", "Bayes optimum"]
    decimals = _decimals(_ends(entries))
    return _table(head, [(html.escape(e.label), [_trial_cells(e.results, decimals)]) for e in entries])


def _trial_cells(results: Results, decimals: int) -> list[str]:
    life = results.lifetime_summary() or {}
    n = _decimals([life[end] for end in ("low", "high") if life])
    first = next(iter(results.scores))
    cells = [_number(results.area_under_curve(first), decimals), _number(_mean(results.collected), decimals)]
    cells += [_number(_mean(results.seconds), 3), _number(life.get("mean"), n), _interval(life, n)]
    return [*cells, _number(life.get("episodes"), 0), _number(life.get("bayes_optimal"), n)]


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if values.size else None


def _table(head: Sequence[str], groups: Sequence[tuple[str, list[list[str]]]]) -> str:
    """A table whose rows come in groups with one name each, all of them HTML already."""
    body = ""
    for name, rows in groups:
        lines = "</tr><tr>".join("".join(f"<td>{cell}</td>" for cell in row) for row in rows)
        body += f'<tbody><tr><th scope="rowgroup" rowspan="{len(rows)}">{name}</th>{lines}</tr></tbody>'
    columns = "".join(f'<th scope="col">{name}</th>' for name in head)
    return f'<div class="scroll"><table><thead><tr>{columns}</tr></thead>{body}</table></div>'


def _number(value: float | None, decimals: int) -> str:
    """A number as it is read, with its full precision in `value`."""
    if value is None:
        return "\u2013"
    return f'<data value="{float(value)!r}">{value:,.{decimals}f}</data>'.replace(">-", ">\u2212")


def _interval(row: Mapping[str, float], decimals: int) -> str:
    return f"[{_number(row['low'], decimals)}, {_number(row['high'], decimals)}]" if "low" in row else "\u2013"


def _details(entry: _Entry) -> str:
    facts = {"split": entry.results.split, "task hash": entry.results.task_hash, **entry.results.meta}
    if facts.pop("train_equals_test", False):
        facts["note"] = "train = test: finite family"
    shown = {n: v if isinstance(v, str) else json.dumps(v, default=str, ensure_ascii=False) for n, v in facts.items()}
    items = "".join(f"<dt>{html.escape(n)}</dt><dd>{html.escape(v)}</dd>" for n, v in shown.items())
    return f"<h3>{html.escape(entry.label)}</h3><dl>{items}</dl>"


# --- text ------------------------------------------------------------------------------------------------------------


def _text_section(entries: Sequence[_Entry]) -> str:
    first, chosen = entries[0].results, _chosen(sorted({k for e in entries for k in e.results.k}), 4)
    rows = [_text_row(e, mode, chosen, _decimals(_ends(entries))) for e in entries for mode in e.rows]
    rows = [["agent", "actions", *(f"k = {k}" for k in chosen), "lifetime return"], *rows]
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    lines = [" | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in zip(*columns, strict=True)]
    lines.insert(1, " | ".join("-" * w for w in widths))
    return "\n".join([f"{first.family}: {_subtitle(first)}", "", *(f"| {line} |" for line in lines)])


def _text_row(entry: _Entry, mode: str, chosen: Sequence[int], decimals: int) -> list[str]:
    by_k = {int(row["k"]): row for row in entry.rows[mode]}
    cells = [_text_cell(by_k.get(k), decimals) for k in chosen]
    life = entry.results.lifetime_summary() if mode == next(iter(entry.rows)) else None
    cells.append(_text_cell(life, _decimals([life["low"], life["high"]]) if life else 0))
    return [entry.label.replace("|", r"\|"), mode, *cells]


def _text_cell(row: Row | None, n: int) -> str:
    return f"{row['mean']:.{n}f} [{row['low']:.{n}f}, {row['high']:.{n}f}]" if row else ""
