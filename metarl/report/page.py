"""Reports: one self-contained HTML page with adaptation curves, tables, trials and paths; and tables as text.

metarl report RUN... --out DIR
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from metarl.errors import InvalidValueError
from metarl.evaluation.modes import Mode
from metarl.evaluation.results import Floats, Results
from metarl.evaluation.statistics import gap
from metarl.files import reason, write_atomic
from metarl.report.figures import (
    GREY,
    MARKERS,
    PALETTE,
    PANELS,
    STYLE,
    Entry,
    Row,
    adaptation_figure,
    adaptation_panels,
    draw_adaptation,
    evenly,
    grouped,
    paths_figure,
    rendered,
    save_figure,
)
from metarl.report.trial_figure import draw_trial, trial_figure, with_trials

__all__ = [
    "GREY",
    "MARKERS",
    "PALETTE",
    "STYLE",
    "adaptation_figure",
    "paths_figure",
    "save_figure",
    "table_text",
    "text_table",
    "trial_figure",
    "write_report",
]

ABOUT = (
    "<b>R<sub>k</sub></b> is the undiscounted return of one fresh episode played with the state after k adaptation "
    "steps; what happens in that episode is thrown away. Means are over seeds, tasks and episodes, and <b>[low, "
    "high]</b> is a 95&nbsp;% interval over seeds and tasks, crossed (for one seed: over tasks only). <b>IQM</b> is "
    "the interquartile mean of the tasks’ returns: the mean of their middle half. <b>Environment steps</b> count "
    "all steps that an agent used before R<sub>k</sub>: compare agents at equal steps, not only at equal k. "
    "<b>Normalised score</b> = (mean &minus; floor) / (informed optimum &minus; floor), unclipped: 0 is uniformly "
    "random actions, 1 is the best return of a player who knows the task. <b>Lifetime return</b> is the total "
    "reward of a whole trial, exploration included; the Bayes optimum is its best expected value when the task is "
    "unknown. <b>Steps to 90&nbsp;%</b> are the environment steps after which the normalised score stays at or "
    "above .9; “not reached” means that it is below .9 at the last k."
)
TRIAL = (
    "Left: return of each episode of a trial, mean over tasks. The band goes from the lowest to the highest seed. The "
    "dotted line is the informed optimum of these tasks; the dashed line is the Bayes-optimal policy’s expected return "
    "over all of the family’s tasks. Right, if it was stored: the trial of the first task. Arms: a filled dot is a "
    "positive reward, an open dot is not. Paths: the dot is the start, the star is the task’s goal; the state after an "
    "episode’s last step is not shown."
)
DASH = "\u2013"  # in a cell without a number
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


def write_report(results: Sequence[Results], out: str | Path, *, title: str = "metarl report") -> Path:
    """Write `out/report.html`, one file that needs no other file, with a section for each family and split.

    Args:
        results: results of evaluations, of any agents and families.
        out: directory; it is made if it does not exist.
        title: heading of the page.

    Returns:
        The path of the file.

    Raises:
        InvalidValueError: there are no results, or the directory cannot be written.
    """
    if not results:
        raise InvalidValueError("results", list(results), "at least one evaluation")
    try:
        sections = "".join(map(_section, grouped(results))) + _gap_section(gaps(results))
    except (ArithmeticError, ValueError) as error:  # from matplotlib, on numbers that are not finite or too large
        if isinstance(error, InvalidValueError):
            raise
        expected = f"numbers that can be drawn ({reason(error)})"
        raise InvalidValueError("results", [r.agent for r in results], expected) from error
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="generator" content="metarl"><meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{html.escape(title)}</title><style>{CSS}</style></head><body><main><h1>{html.escape(title)}</h1>"
        f'<p class="about">{ABOUT}</p>{sections}</main></body></html>\n'
    )
    path = Path(out) / "report.html"
    write_atomic(path, page.encode(errors="replace"))
    return path


def table_text(results: Sequence[Results], width: int | None = None) -> str:
    """Make a markdown table for each family and split: R_k [low, high] for up to 4 values of k.

    One column lists the environment steps at these k, and one the success rates if the family reports success. Another
    column has the lifetime return if it is known. A table wider than `width` characters continues in a second table,
    which repeats the agents and the actions.
    """
    sections = [_text_section(entries, width) for entries in grouped(results)]
    return "\n\n".join([*sections, *map(_text_gap, gaps(results))])


def gaps(results: Sequence[Results]) -> list[tuple[Results, list[Row]]]:
    """Pair results of the same agents on train and test tasks; returns test results with rows of `gap`."""
    pairs = []
    for test in (r for r in results if r.split == "test" and not r.meta.get("train_equals_test")):
        for train in (r for r in results if r.split == "train" and _same_agents(r, test)):
            modes = [mode for mode in test.scores if mode in train.scores]
            pairs += [(test, gap(train, test, modes[0]))] if modes else []
    return pairs


def _same_agents(a: Results, b: Results) -> bool:
    """Whether two results are of the same trained agents: equal name, family, k, seeds, config and iterations."""
    same = all(getattr(a, n) == getattr(b, n) for n in ("agent", "family", "k"))
    return same and all(a.meta.get(n) == b.meta.get(n) for n in ("seeds", "config", "iterations"))


# --- numbers ---------------------------------------------------------------------------------------------------------


def _decimals(values: Iterable[float]) -> int:
    """Number of decimals, by the largest absolute value."""
    largest = max(map(abs, values), default=0.0)
    return 3 if largest < 2 else 2 if largest < 1000 else 0


def _ends(entries: Sequence[Entry]) -> list[float]:
    return [row[end] for e in entries for rows in e.rows.values() for row in rows for end in ("low", "high")]


# --- page ------------------------------------------------------------------------------------------------------------


def _section(entries: Sequence[Entry]) -> str:
    first = entries[0].results
    parts = [f"<h2>{html.escape(first.family)}</h2>", f'<p class="soft">{html.escape(_subtitle(first))}</p>']
    if any(e.results.meta.get("train_equals_test") for e in entries):
        parts.append('<p class="note">train = test: finite family, so training met these tasks.</p>')
    if len({e.results.task_hash for e in entries}) > 1:
        parts.append('<p class="note">These results are of different tasks: see the hashes under Details.</p>')
    figures = (_svg(draw_adaptation(entries, [name]), PANELS[name]) for name in adaptation_panels(entries))
    parts += ["<h3>Adaptation</h3>", f'<div class="row">{"".join(f"<figure>{f}</figure>" for f in figures)}</div>']
    parts += ["<h3>Return after k adaptation steps</h3>", _scores_table(entries)]
    if trials := with_trials(entries):
        picture = _svg(draw_trial(trials), "return of each episode of a trial")
        parts.append(f'<h3>Trial</h3><figure class="wide">{picture}<figcaption>{TRIAL}</figcaption></figure>')
    parts += ["<h3>Whole trial</h3>", _trial_table(entries)]
    if (paths := paths_figure([e.results for e in entries])) is not None:
        caption = (
            "One episode in each of the first tasks. Dot: start; star: goal. Points far from the goal may be cut off."
        )
        picture = _svg(paths, "paths of episodes")
        parts.append(f'<h3>Paths</h3><figure class="wide">{picture}<figcaption>{caption}</figcaption></figure>')
    details = "".join(_details(entry) for entry in entries)
    return f"<section>{''.join(parts)}<details><summary>Details</summary>{details}</details></section>\n"


def _subtitle(results: Results) -> str:
    tasks, episodes = next(iter(results.scores.values())).shape[1::2]  # scores: [seed, task, k, episode]
    facts = {"split": results.split, "tasks": tasks, "episodes for each R_k": episodes}
    facts |= {name.replace("_", " "): f"{values.mean():.4g}" for name, values in results.references.items()}
    if results.bayes_optimal is not None:
        facts["Bayes-optimal lifetime return"] = f"{results.bayes_optimal:.4g}"
    return " \u00b7 ".join(f"{name}: {value}" for name, value in facts.items())


def _svg(figure: Figure, label: str) -> str:
    """Inline SVG. It scales with the page, up to 1.6 px for each point of the figure."""
    text = rendered(figure, "svg", "none").decode()
    body = re.sub(r"<metadata>.*?</metadata>|(?<=<g) id=\"[^\"]*\"", "", text[text.index("<svg") :], flags=re.S)
    width, height = (figure.get_size_inches() * 72).round(2)
    opening = f'<svg viewBox="0 0 {width:g} {height:g}" style="max-width:{1.6 * width:.0f}px" role="img"'
    return re.sub(r"^<svg[^>]*>", f'{opening} aria-label="{label}">', body)


def _scores_table(entries: Sequence[Entry]) -> str:
    decimals, groups = _decimals(_ends(entries)), []
    extra = [n for n in ("normalised", "success") if any(n in rows[0] for e in entries for rows in e.rows.values())]
    for entry in entries:
        for mode, rows in entry.rows.items():
            chosen = [row for row in rows if row["k"] in evenly(entry.results.k, 6)]
            name = f"{html.escape(entry.label)}<small>{html.escape(mode)} actions</small>"
            groups.append((name, [_score_cells(row, extra, decimals) for row in chosen]))
    return _table(["agent", "k", "R<sub>k</sub>", "[low, high]", "IQM", "environment steps", *extra], groups)


def _score_cells(row: Row, extra: Sequence[str], decimals: int) -> list[str]:
    cells = [_number(row["k"], 0), _number(row["mean"], decimals), _interval(row, decimals)]
    cells += [_number(row.get("iqm"), decimals), _number(row["env_steps"], 0)]
    return [*cells, *(_number(row.get(name), 3) for name in extra)]


def _gap_section(pairs: Sequence[tuple[Results, list[Row]]]) -> str:
    if not pairs:
        return ""
    groups = []
    for test, rows in pairs:
        n = _decimals([row[end] for row in rows for end in ("low", "high")])
        cells = [[_number(row["k"], 0), _number(row["gap"], n), _interval(row, n)] for row in rows]
        groups.append((f"{html.escape(test.agent)}<small>{html.escape(test.family)}</small>", cells))
    table = _table(["agent", "k", "R<sub>k</sub> on train tasks &minus; on test tasks", "[low, high]"], groups)
    return f"<section><h2>Train-test gap</h2>{table}</section>\n"


def _trial_table(entries: Sequence[Entry]) -> str:
    head = ["agent", "mean of R<sub>k</sub> over k", "return while adapting", "seconds per step"]
    head += ["steps to 90&nbsp;%", "[low, high]", "lifetime return", "[low, high]", "episodes", "Bayes optimum"]
    decimals = _decimals(_ends(entries))
    return _table(head, [(html.escape(e.label), [_trial_cells(e.results, decimals)]) for e in entries])


def _trial_cells(results: Results, decimals: int) -> list[str]:
    life = results.lifetime_summary() or {}
    n = _decimals([life[end] for end in ("low", "high") if life])
    first = next(iter(results.scores))
    cells = [_number(results.area_under_curve(first), decimals), _number(_mean(results.collected), decimals)]
    reached = results.steps_to(0.9, first) or {}
    cells += [_number(_mean(results.seconds), 3), _number(reached.get("steps"), 0), _interval(reached, 0)]
    cells += [_number(life.get("mean"), n), _interval(life, n)]
    return [*cells, _number(life.get("episodes"), 0), _number(life.get("bayes_optimal"), n)]


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if values.size else None


def _table(head: Sequence[str], groups: Sequence[tuple[str, list[list[str]]]]) -> str:
    """HTML table. Each group of rows has one name; all texts are HTML already."""
    body = ""
    for name, rows in groups:
        lines = "</tr><tr>".join("".join(f"<td>{cell}</td>" for cell in row) for row in rows)
        body += f'<tbody><tr><th scope="rowgroup" rowspan="{len(rows)}">{name}</th>{lines}</tr></tbody>'
    columns = "".join(f'<th scope="col">{name}</th>' for name in head)
    return f'<div class="scroll"><table><thead><tr>{columns}</tr></thead>{body}</table></div>'


def _number(value: float | None, decimals: int) -> str:
    """HTML of a rounded number, with full precision in the attribute `value`. Infinity reads "not reached"."""
    if value is None:
        return DASH
    if value == math.inf:
        return '<data value="inf">not reached</data>'
    return f'<data value="{float(value)!r}">{value:,.{decimals}f}</data>'.replace(">-", ">\u2212")


def _interval(row: Mapping[str, float], decimals: int) -> str:
    return f"[{_number(row['low'], decimals)}, {_number(row['high'], decimals)}]" if "low" in row else DASH


def _details(entry: Entry) -> str:
    facts = {"split": entry.results.split, "task hash": entry.results.task_hash, **entry.results.meta}
    if facts.pop("train_equals_test", False):
        facts["note"] = "train = test: finite family"
    shown = {n: v if isinstance(v, str) else json.dumps(v, default=str, ensure_ascii=False) for n, v in facts.items()}
    items = "".join(f"<dt>{html.escape(n)}</dt><dd>{html.escape(v)}</dd>" for n, v in shown.items())
    return f"<h3>{html.escape(entry.label)}</h3><dl>{items}</dl>"


# --- text ------------------------------------------------------------------------------------------------------------


def _text_section(entries: Sequence[Entry], width: int | None) -> str:
    first, chosen = entries[0].results, evenly(sorted({k for e in entries for k in e.results.k}), 4)
    rows = [_text_row(e, mode, chosen, _decimals(_ends(entries))) for e in entries for mode in e.rows]
    head = ["agent", "actions", *(f"k = {k}" for k in chosen), "environment steps", "success", "lifetime return"]
    rows = [head, *rows]
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    tables = "\n\n".join(map(text_table, _parts(columns, width)))
    finite = " \u00b7 train = test: a finite family" if first.meta.get("train_equals_test") else ""
    return f"{first.family}: {_subtitle(first)}{finite}\n\n{tables}"


def _parts(columns: Sequence[Sequence[str]], width: int | None) -> list[list[Sequence[str]]]:
    """Divide columns into tables of at most `width`. Each table has the first two columns and at least one other."""
    first, parts = list(columns[:2]), [list(columns[:2])]
    for column in columns[2:]:
        needed = 1 + sum(max(map(len, c)) + 3 for c in [*parts[-1], column])
        if width is not None and needed > width and len(parts[-1]) > 2:
            parts.append([*first])
        parts[-1].append(column)
    return parts


def text_table(columns: Sequence[Sequence[str]]) -> str:
    """Markdown table of columns; the first cell of a column is its head."""
    widths = [max(map(len, column)) for column in columns]
    lines = [" | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in zip(*columns, strict=True)]
    lines.insert(1, " | ".join("-" * w for w in widths))
    return "\n".join(f"| {line} |" for line in lines)


def _text_gap(pair: tuple[Results, list[Row]]) -> str:
    test, rows = pair
    n = _decimals([row[end] for row in rows for end in ("low", "high")])
    chosen = [rows[i] for i in evenly(range(len(rows)), 4)]
    cells = [f"k = {row['k']:.0f}: {row['gap']:.{n}f} [{row['low']:.{n}f}, {row['high']:.{n}f}]" for row in chosen]
    return f"{test.agent} on {test.family}, R_k on train tasks less R_k on test tasks: {'; '.join(cells)}"


def _text_row(entry: Entry, mode: Mode, chosen: Sequence[int], decimals: int) -> list[str]:
    by_k = {int(row["k"]): row for row in entry.rows[mode]}
    shown = [by_k.get(k) for k in chosen]
    cells = [_text_cell(row, decimals) for row in shown]
    cells += [_text_list(shown, "env_steps", ",.0f"), _text_list(shown, "success", ".2f")]
    life = entry.results.lifetime_summary() if mode == next(iter(entry.rows)) else None
    cells.append(_text_cell(life, _decimals([life["low"], life["high"]]) if life else 0))
    return [entry.label.replace("|", r"\|"), mode, *cells]


def _text_cell(row: Row | None, n: int) -> str:
    return f"{row['mean']:.{n}f} [{row['low']:.{n}f}, {row['high']:.{n}f}]" if row else ""


def _text_list(rows: Sequence[Row | None], name: str, form: str) -> str:
    """One number of several rows, joined by slashes; empty if no row has the number."""
    cells = [format(row[name], form) if row and name in row else DASH for row in rows]
    return " / ".join(cells) if set(cells) != {DASH} else ""
