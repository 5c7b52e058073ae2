"""Tables as text: markdown for a terminal and for a file, CSV with all digits, and LaTeX with booktabs."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from metarl.evaluation.modes import Mode
from metarl.evaluation.results import Results
from metarl.evaluation.statistics import distance, gap
from metarl.report.entries import Entry, Row, evenly, grouped

DASH = "\u2013"  # in a cell without a number
DOT = " \u00b7 "  # between parts of a line
BOUNDS = {"": "", "<": "fewer than ", ">": "more than "}
MADE_BY = "made by metarl report"
_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
_LATEX |= {char: f"\\{char}" for char in "&%$#_{}"} | {"\u2212": "$-$", "\u00b5": r"$\mu$", DASH: "--"}


class Column(NamedTuple):
    """A column of a table: the name of a row's value, and how it is shown.

    Attributes:
        key: name of the value. Its interval has the names "low" and "high" if `interval` is "", else with this prefix.
            A number that is only known to be below or above has "<" or ">" under its name with `_bound` behind it.
        head: the column's head.
        decimals: decimals of a number; None for text.
        interval: the prefix of the interval's ends; None without an interval.
    """

    key: str
    head: str
    decimals: int | None = None
    interval: str | None = None

    def names(self) -> list[str]:
        """Names of the value and of the ends of its interval."""
        ends = [] if self.interval is None else [f"{self.interval}low", f"{self.interval}high"]
        return [self.key, *ends]


def filled(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """The columns that have a value in any row."""
    return [column for column in columns if any(row.get(column.key) is not None for row in rows)]


def decimals_of(values: Iterable[float]) -> int:
    """Number of decimals, by the largest absolute value."""
    largest = max((abs(v) for v in values if math.isfinite(v)), default=0.0)
    return 3 if largest < 2 else 2 if largest < 1000 else 0


def number_text(value: float | None, decimals: int, bound: str = "") -> str:
    """A rounded number with thousands apart; infinity reads "not reached", and nothing a dash.

    A bound of "<" or ">" says that the number is only known to be below or above.
    """
    if value is None:
        return DASH
    text = "not reached" if value == math.inf else f"{value:,.{decimals}f}".replace("-", "\u2212")
    return f"{BOUNDS[bound]}{text}"


def cell_text(row: Mapping[str, Any], column: Column) -> str:
    """A cell as it is read: a text, or a number with its interval."""
    value = row.get(column.key)
    if column.decimals is None:
        return DASH if value is None else str(value)
    texts = [number_text(row.get(name), column.decimals, bound_of(row, name)) for name in column.names()]
    return f"{texts[0]} [{', '.join(texts[1:])}]" if has_interval(row, column) else texts[0]


def bound_of(row: Mapping[str, Any], name: str) -> str:
    """Whether a row's number is only known to be below ("<") or above (">")."""
    return str(row.get(f"{name}_bound") or "")


def has_interval(row: Mapping[str, Any], column: Column) -> bool:
    """Whether a cell shows an interval: its ends are known, and say more than the value."""
    names = column.names()
    numbers = [row.get(name) for name in names]
    known = {(number, bound_of(row, name)) for number, name in zip(numbers, names, strict=True)}
    same = len(known) == 1 and (numbers[0] == math.inf or bound_of(row, column.key) != "")
    return len(names) > 1 and None not in numbers and not same


def csv_file(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> str:
    """CSV with all digits: a column for each value and for each end of an interval. Missing values are empty."""
    names = [name for column in columns for name in column.names()]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([["" if row.get(name) is None else row[name] for name in names] for row in rows])
    return out.getvalue()


def markdown_file(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]], caption: str) -> str:
    """A markdown table with its caption."""
    cells = [[c.head, *(" ".join(cell_text(row, c).split()).replace("|", r"\|") for row in rows)] for c in columns]
    return f"<!-- {MADE_BY} -->\n\n{caption}\n\n{text_table(cells)}\n"


def latex_file(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]], caption: str) -> str:
    """A tabular with the rules of booktabs; the caption is a comment."""
    shape = "".join("l" if column.decimals is None else "r" for column in columns)
    lines = [" & ".join(latex_text(cell_text(row, column)) for column in columns) for row in rows]
    # A bracket or star at the start would be an argument of the end of the line before.
    lines = [f"{{}}{line}" if line.startswith(("[", "*")) else line for line in lines]
    head = " & ".join(re.sub(r"R\\_(\w+)", r"$R_{\1}$", latex_text(column.head)) for column in columns)
    body = "".join(f"  {line} \\\\\n" for line in lines)
    note = " ".join(caption.split())
    return (
        f"% {MADE_BY}; \\usepackage{{booktabs}}\n% {note}\n\\begin{{tabular}}{{{shape}}}\n  \\toprule\n"
        f"  {head} \\\\\n  \\midrule\n{body}  \\bottomrule\n\\end{{tabular}}\n"
    )


def latex_text(text: str) -> str:
    """Text in one line with LaTeX's special characters escaped."""
    return re.sub("[" + re.escape("".join(_LATEX)) + "]", lambda char: _LATEX[char[0]], " ".join(text.split()))


# --- tables of results -----------------------------------------------------------------------------------------------


def table_text(results: Sequence[Results], width: int | None = None) -> str:
    """Make a markdown table for each family and split: R_k [low, high] for up to 4 values of k.

    One column lists the environment steps at these k, and one the success rates if the family reports success. Another
    column has the lifetime return if it is known. A table wider than `width` characters continues in a second table,
    which repeats the agents and the actions.
    """
    sections = [_text_section(entries, width) for entries in grouped(results)]
    return "\n\n".join([*sections, *map(_text_gap, gaps(results))])


class Gap(NamedTuple):
    """How much lower the same agents' returns are on tasks farther from training.

    Attributes:
        far: results on the farther tasks: of the split "test", or of one with another distribution.
        rows: `metarl.evaluation.statistics.gap`, one row for each k.
        near: split of the other results: "train" or "test".
        mode: mode of the actions.
    """

    far: Results
    rows: list[Row]
    near: str
    mode: Mode


def gaps(results: Sequence[Results]) -> list[Gap]:
    """Pair results of the same agents on train, test and other tasks.

    The train-test gap has the splits "train" and "test"; the out-of-distribution gap has "test", or "train" where there
    are no test results, and a split with another distribution.
    """
    found = []
    drawn = [r for r in results if r.split != "custom"]  # nobody says how far a user's own tasks are
    for far in drawn:
        pairs = [r for r in drawn if distance(r.split) < distance(far.split) and _same_agents(r, far)]
        if not pairs or (far.split == "test" and far.meta.get("train_equals_test")):
            continue
        near = max(pairs, key=lambda r: distance(r.split))
        modes = [mode for mode in far.scores if mode in near.scores]
        found += [Gap(far, gap(near, far, modes[0]), near.split, modes[0])] if modes else []
    return found


GAP_COLUMNS = (
    Column("agent", "agent"),
    Column("splits", "R_k on"),
    Column("mode", "actions"),
    Column("k", "k", 0),
)


def gap_rows(found: Sequence[Gap]) -> list[dict[str, Any]]:
    """One row for each pair of results and k."""
    return [
        {"family": g.far.family, "agent": g.far.agent, "splits": splits_of(g), "mode": g.mode} | row
        for g in found
        for row in g.rows
    ]


def gap_columns(found: Sequence[Gap]) -> list[Column]:
    """The columns of `gap_rows`."""
    n = decimals_of(row[end] for g in found for row in g.rows for end in ("low", "high"))
    return [*GAP_COLUMNS, Column("gap", "gap", n, "")]


def splits_of(found: Gap) -> str:
    """What is less than what, in words."""
    return f"{found.near} tasks less {found.far.split} tasks"


def _same_agents(a: Results, b: Results) -> bool:
    """Whether two results are of the same trained agents: equal name, family, k, seeds, config and iterations."""
    same = all(getattr(a, n) == getattr(b, n) for n in ("agent", "family", "k"))
    return same and all(a.meta.get(n) == b.meta.get(n) for n in ("seeds", "config", "iterations"))


def ends_of(entries: Sequence[Entry]) -> list[float]:
    """The ends of all intervals of R_k."""
    return [row[end] for e in entries for rows in e.rows.values() for row in rows for end in ("low", "high")]


def subtitle(results: Results) -> str:
    """The facts that all results of a section share, in one line."""
    tasks, episodes = next(iter(results.scores.values())).shape[1::2]  # scores: [seed, task, k, episode]
    facts = {"split": results.split, "tasks": tasks, "episodes for each R_k": episodes}
    facts |= {name.replace("_", " "): f"{values.mean():.4g}" for name, values in results.references.items()}
    if results.bayes_optimal is not None:
        facts["Bayes-optimal lifetime return"] = f"{results.bayes_optimal:.4g}"
    return DOT.join(f"{name}: {value}" for name, value in facts.items())


def _text_section(entries: Sequence[Entry], width: int | None) -> str:
    first, chosen = entries[0].results, evenly(sorted({k for e in entries for k in e.results.k}), 4)
    rows = [_text_row(e, mode, chosen, decimals_of(ends_of(entries))) for e in entries for mode in e.rows]
    head = ["agent", "actions", *(f"k = {k}" for k in chosen), "environment steps", "success", "lifetime return"]
    rows = [head, *rows]
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    tables = "\n\n".join(map(text_table, _parts(columns, width)))
    finite = f"{DOT}train = test: a finite family" if first.meta.get("train_equals_test") else ""
    return f"{first.family}: {subtitle(first)}{finite}\n\n{tables}"


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


def _text_gap(found: Gap) -> str:
    rows = found.rows
    n = decimals_of([row[end] for row in rows for end in ("low", "high")])
    chosen = [rows[i] for i in evenly(range(len(rows)), 4)]
    cells = [f"k = {row['k']:.0f}: {row['gap']:.{n}f} [{row['low']:.{n}f}, {row['high']:.{n}f}]" for row in chosen]
    what = f"R_k on {found.near} tasks less R_k on {found.far.split} tasks"
    return f"{found.far.agent} on {found.far.family}, {what}: {'; '.join(cells)}"


def _text_row(entry: Entry, mode: Mode, chosen: Sequence[int], decimals: int) -> list[str]:
    by_k = {int(row["k"]): row for row in entry.rows[mode]}
    shown = [by_k.get(k) for k in chosen]
    cells = [_text_cell(row, decimals) for row in shown]
    cells += [_text_list(shown, "env_steps", ",.0f"), _text_list(shown, "success", ".2f")]
    life = entry.results.lifetime_summary() if mode == next(iter(entry.rows)) else None
    cells.append(_text_cell(life, decimals_of([life["low"], life["high"]]) if life else 0))
    return [entry.label.replace("|", r"\|"), mode, *cells]


def _text_cell(row: Row | None, n: int) -> str:
    return f"{row['mean']:.{n}f} [{row['low']:.{n}f}, {row['high']:.{n}f}]" if row else ""


def _text_list(rows: Sequence[Row | None], name: str, form: str) -> str:
    """One number of several rows, joined by slashes; empty if no row has the number."""
    cells = [format(row[name], form) if row and name in row else DASH for row in rows]
    return " / ".join(cells) if set(cells) != {DASH} else ""
