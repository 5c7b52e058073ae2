"""Reports: one self-contained HTML page with leaderboards and figures, and files of these beside it.

metarl report RUN... --out DIR
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metarl.errors import InvalidValueError
from metarl.evaluation.results import Results
from metarl.files import reason, write_atomic
from metarl.report.entries import Entry, Row, evenly, grouped, study_of
from metarl.report.figures.comparison import improvements
from metarl.report.figures.curves import adaptation_figure, training_of
from metarl.report.figures.style import GREY, MARKERS, PALETTE, STYLE, every_file, save_figure
from metarl.report.figures.trial import paths_figure, trial_figure
from metarl.report.leaderboard import (
    FAMILY_COLUMNS,
    IMPROVEMENT_COLUMNS,
    MORE_COLUMNS,
    Cells,
    cost_columns,
    cost_rows,
    leaderboard_columns,
    leaderboard_rows,
    score_columns,
    score_rows,
)
from metarl.report.markup import document, facts, grouped_table, legend, mark, picture, table
from metarl.report.pictures import Picture, pictures_of, yardstick_picture
from metarl.report.tables import (
    DOT,
    Column,
    csv_file,
    decimals_of,
    filled,
    gaps,
    latex_file,
    markdown_file,
    subtitle,
    table_text,
    text_table,
)
from metarl.report.yardstick import (
    YARDSTICK_MORE,
    Yardstick,
    headlines,
    yardstick_columns,
    yardstick_rows,
    yardstick_words,
    yardsticks,
)

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
    "<p><b>R<sub>k</sub></b> is the undiscounted return of one fresh episode played with the state after k adaptation "
    "steps; what happens in that episode is thrown away. Means are over seeds, tasks and episodes, and <b>[low, "
    "high]</b> is a 95&nbsp;% interval over seeds and tasks, crossed (for one seed: over tasks only). <b>IQM</b> is "
    "the interquartile mean: the mean of the middle half of the returns of all seeds and tasks. <b>Environment "
    "steps</b> count all steps that an agent used before R<sub>k</sub>: compare agents at equal steps, not only at "
    "equal k. "
    "<b>Normalised score</b> = (mean &minus; floor) / (informed optimum &minus; floor), unclipped: 0 is uniformly "
    "random actions, 1 is the best return of a player who knows the task. <b>Steps to 90&nbsp;%</b> are the "
    "environment steps after which the normalised score stays at or above .9; “not reached” means that it is below .9 "
    "at the last k. <b>Lifetime return</b> is the total reward of a whole trial, exploration included; the Bayes "
    "optimum is its best expected value when the task is unknown. <b>Seconds per step</b>: the median duration of an "
    "adaptation step of all trials side by side. <b>Optimality gap</b>: the mean of max(0, 1 &minus; normalised score) "
    "over seeds and tasks. <b>Worst 10&nbsp;% of tasks</b>: the mean return in them, ranked by their means over "
    "seeds.</p>"
)


_LONGEST = 4000  # characters of a text under Details


def write_report(
    results: Sequence[Results], out: str | Path, *, title: str = "metarl report", files: bool = True
) -> Path:
    """Write `out/report.html`, one file that needs no other file, with a section for each family and split.

    Args:
        results: results of evaluations, of any agents and families.
        out: directory; it is made if it does not exist.
        title: heading of the page.
        files: whether to write the same figures as PNG, PDF and SVG, and the same tables as CSV, markdown and LaTeX,
            to `out/report_files`, in a folder for each section.

    Returns:
        The path of the page.

    Raises:
        InvalidValueError: there are no results, or the directory cannot be written.
    """
    if not results:
        raise InvalidValueError("results", list(results), "at least one evaluation")
    sections, yards = grouped(results), yardsticks(results)
    names = _names([entries[0].results for entries in sections])
    folders = _folders([*names, *(f"{_name(y.agents[0].results)} from scratch" for y in yards)])
    own: dict[str, Sequence[Entry] | Yardstick] = dict(zip(folders, [*sections, *yards], strict=True))
    try:
        body = "".join(map(_section, sections, folders))
        body += "".join(map(_yardstick_section, yards, folders[len(sections) :])) + _gap_section(gaps(results))
        beside = {f"{f}/{n}": d for f, section in own.items() for n, d in _files(section)} if files else {}
    except (ArithmeticError, ValueError) as error:  # from matplotlib, on numbers that are not finite or too large
        if isinstance(error, InvalidValueError):
            raise
        expected = f"numbers that can be drawn ({reason(error)})"
        raise InvalidValueError("results", [r.agent for r in results], expected) from error
    about = f"<details><summary>What the numbers mean</summary>{ABOUT}</details>"
    path = Path(out) / "report.html"
    write_atomic(path, document(title, _contents(own) + about + body).encode(errors="replace"))
    for name, data in beside.items():
        write_atomic(Path(out) / "report_files" / name, data)
    return path


def _name(results: Results) -> str:
    return f"{results.family.split('/')[-1]}-{results.split}"


def _names(firsts: Sequence[Results]) -> list[str]:
    """Names of sections, by their first results; those of several studies name the study too."""
    names = list(map(_name, firsts))
    studies = [study_of(results).rpartition("/")[2] if names.count(_name(results)) > 1 else "" for results in firsts]
    return [f"{name} {study}" for name, study in zip(names, studies, strict=True)]


def _folders(names: Sequence[str]) -> list[str]:
    """A name for each section that files and links can have."""
    folders: list[str] = []
    for name in names:
        folder = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[:80] or "section"
        while folder in folders:
            folder = f"{folder}-{len(folders) + 1}"
        folders.append(folder)
    return folders


def _contents(sections: Mapping[str, Sequence[Entry] | Yardstick]) -> str:
    """Links to the sections, if there are several."""
    if len(sections) < 2:
        return ""
    items = ""
    for folder, section in sections.items():
        scratch = isinstance(section, Yardstick)
        first = (section.agents if isinstance(section, Yardstick) else section)[0].results
        name = f"{first.family}, split {first.split}"
        if scratch:
            name += ": learning from scratch"
        elif study_of(first):
            name += f", study {study_of(first)}"
        items += f'<li><a href="#{folder}">{html.escape(name)}</a></li>'
    return f"<nav><ul>{items}</ul></nav>"


# --- a section -------------------------------------------------------------------------------------------------------


def _section(entries: Sequence[Entry], folder: str) -> str:
    first = entries[0].results
    marks = [mark(entry) for entry in entries]
    study = f"study: {study_of(first)}{DOT}" if study_of(first) else ""
    parts = [
        f'<h2 id="{folder}">{html.escape(first.family)}</h2>',
        f'<p class="soft">{html.escape(study + subtitle(first))}</p>',
    ]
    if any(e.results.meta.get("train_equals_test") for e in entries):
        parts.append(_note("train = test: finite family, so training met these tasks."))
    if len({e.results.task_hash for e in entries}) > 1:
        parts.append(_note("These results are of different tasks: see the hashes under Protocol."))
    parts.append(_table("Leaderboard", leaderboard_columns(entries), leaderboard_rows(entries), marks))
    parts.append(_seed_note(entries))
    parts.append(_pictures(entries, pictures_of(entries), marks))
    parts.append(_table("Budget and latency", cost_columns(entries), cost_rows(entries), marks))
    scores = _scores_table(entries, marks)
    parts.append(f"<details><summary>Return after k adaptation steps, all k and actions</summary>{scores}</details>")
    sentences = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in protocol(entries))
    parts += [f'<h3>Protocol</h3><ul class="protocol">{sentences}</ul>', "<h3>Commands</h3>", facts(commands(entries))]
    details = "".join(f"<h3>{html.escape(e.label)}</h3>{facts(_details(e))}" for e in entries)
    return f"<section>{''.join(parts)}<details><summary>Details</summary>{details}</details></section>\n"


def _seed_note(entries: Sequence[Entry]) -> str:
    """Says whose intervals are over tasks only."""
    single = [e.label for e in entries if len(e.results.scores[e.mode]) == 1]
    if not single:
        return ""
    whose = "all intervals are" if len(single) == len(entries) else f"the intervals of {DOT.join(single)} are"
    return _note(f"One seed: {whose} over tasks only, and say nothing of other seeds.")


def _note(text: str) -> str:
    return f'<p class="note">{html.escape(text)}</p>'


def _table(name: str, columns: Sequence[Column], rows: Sequence[Cells], marks: Sequence[str]) -> str:
    return f"<h3>{name}</h3>{table(name, filled(columns, rows), rows, marks)}"


def _pictures(entries: Sequence[Entry], shown: Sequence[Picture], marks: Sequence[str]) -> str:
    """The pictures under their headings, each row of them with a legend of the agents in it."""
    parts = ""
    for heading in dict.fromkeys(p.heading for p in shown):
        own = [p for p in shown if p.heading == heading]
        figures = "".join(picture(p.draw(False), p.label, p.caption) for p in own)
        named = [(e, m) for e, m in zip(entries, marks, strict=True) if any(e in p.agents for p in own)]
        parts += f'<h3>{heading}</h3>{legend(named)}<div class="row">{figures}</div>'
    return parts


def _scores_table(entries: Sequence[Entry], marks: Sequence[str]) -> str:
    """R_k for at most 6 values of k of each agent and mode."""
    rows, groups = score_rows(entries), []
    for entry, sign in zip(entries, marks, strict=True):
        for mode in entry.rows:
            own = [row for row in rows if (row["agent"], row["mode"]) == (entry.label, mode)]
            chosen = evenly(entry.results.k, 6)
            name = f"{sign}{html.escape(entry.label)}<small>{html.escape(mode)} actions</small>"
            groups.append((name, [row for row in own if row["k"] in chosen]))
    columns = [column for column in filled(score_columns(entries), rows) if column.key != "mode"]
    return grouped_table("Return after k adaptation steps", columns, groups)


def _yardstick_section(yardstick: Yardstick, folder: str) -> str:
    first = yardstick.agents[0].results
    agents = [*yardstick.learners, *yardstick.agents]
    shown = _pictures(agents, [yardstick_picture(yardstick)], [mark(entry) for entry in agents])
    marks = [mark(entry) for _ in yardstick.learners for entry in yardstick.agents]
    rows = yardstick_rows(yardstick)
    said = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in headlines(yardstick))
    notes = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in yardstick_words(yardstick))
    return (
        f'<section><h2 id="{folder}">Learning from scratch: {html.escape(first.family)}</h2>'
        f'<p class="soft">split: {html.escape(first.split)}</p>{said}{shown}'
        f"{_table('Steps from scratch', yardstick_columns(yardstick), rows, marks)}"
        f'<ul class="protocol">{notes}</ul></section>\n'
    )


def _gap_section(pairs: Sequence[tuple[Results, list[Row]]]) -> str:
    if not pairs:
        return ""
    n = decimals_of(row[end] for _, rows in pairs for row in rows for end in ("low", "high"))
    columns = [Column("agent", "agent"), Column("k", "k", 0)]
    columns.append(Column("gap", "R_k on train tasks less R_k on test tasks", n, ""))
    groups = [(f"{html.escape(r.agent)}<small>{html.escape(r.family)}</small>", rows) for r, rows in pairs]
    return f"<section><h2>Train-test gap</h2>{grouped_table('Train-test gap', columns, groups)}</section>\n"


# --- words -----------------------------------------------------------------------------------------------------------


def protocol(entries: Sequence[Entry]) -> list[str]:
    """How the section's agents were evaluated, in sentences. One that does not hold for all names its agents."""
    said: dict[str, list[str]] = {}
    for entry in entries:
        for sentence in _sentences(entry.results):
            said.setdefault(sentence, []).append(entry.label)
    every = len(entries)
    return [s if len(names) == every else f"{DOT.join(names)}: {s}" for s, names in said.items()]


def _sentences(results: Results) -> list[str]:
    meta, scores = results.meta, next(iter(results.scores.values()))
    seeds, tasks, _, episodes = scores.shape
    origin = f" of task seed {meta['task_seed']}" if "task_seed" in meta else ""
    kept = "training can draw them" if results.split == "train" else "training cannot draw them"
    kept = "train = test, a finite family" if meta.get("train_equals_test") else kept
    said = [f"{tasks:,} tasks of the split {results.split!r}{origin}, hash {results.task_hash}: {kept}."]
    grid = ", ".join(map(str, evenly(results.k, 12)))
    said.append(f"R_k at k = {grid}: {episodes:,} fresh episodes in each task, {' and '.join(results.scores)} actions.")
    if "floor" in meta:
        said.append(f"The floor is {meta['floor']}.")
    if meta.get("iterations"):
        counts = sorted(set(meta["iterations"] if isinstance(meta["iterations"], list) else [meta["iterations"]]))
        said.append(f"Trained for {' or '.join(f'{n:,}' for n in counts)} meta-updates.")
    said.append(f"Seeds: {seeds}; 95 % intervals: {results.interval_words()}.")
    if meta.get("failed_steps"):
        said.append(f"{meta['failed_steps']:,} adaptation steps failed (parameters that are not finite); they count.")
    return said


def commands(entries: Sequence[Entry]) -> dict[str, str]:
    """The command that made each agent's numbers, and the revision of the code, as far as the results hold them."""
    found = {}
    for entry in entries:
        meta = entry.results.meta
        revision = f"   (git {str(meta['git'])[:12]})" if meta.get("git") else ""
        found[entry.label] = f"{meta.get('command') or 'not recorded'}{revision}"
    return found


def _details(entry: Entry) -> dict[str, str]:
    shown: dict[str, Any] = {"split": entry.results.split, "task hash": entry.results.task_hash, **entry.results.meta}
    if shown.pop("train_equals_test", False):
        shown["note"] = "train = test: finite family"
    if training_of(entry.results) is not None:
        shown["curves"] = "drawn under Meta-training"
    texts = {n: v if isinstance(v, str) else json.dumps(v, default=str, ensure_ascii=False) for n, v in shown.items()}
    return {n: text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..." for n, text in texts.items()}


# --- files -----------------------------------------------------------------------------------------------------------


def _files(section: Sequence[Entry] | Yardstick) -> list[tuple[str, bytes]]:
    """Names and bytes of all files of a section."""
    if isinstance(section, Yardstick):
        shown, tables = [yardstick_picture(section)], yardstick_tables(section)
    else:
        shown, tables = pictures_of(section), tables_of(section)
    made = [(f"{p.name}.{kind}", d) for p in shown for kind, d in every_file(p.draw(True)).items()]
    return made + [(name, text.encode(errors="replace")) for name, text in tables.items()]


def tables_of(entries: Sequence[Entry]) -> dict[str, str]:
    """The section's tables, by the names of their files."""
    first = entries[0].results
    caption = subtitle(first)
    tables = _tables(
        first, caption, "leaderboard", leaderboard_columns(entries), leaderboard_rows(entries), MORE_COLUMNS
    )
    tables |= _tables(first, caption, "scores", score_columns(entries), score_rows(entries))
    tables |= _tables(first, caption, "budget", cost_columns(entries), cost_rows(entries))
    return tables | _tables(first, caption, "improvement", IMPROVEMENT_COLUMNS, improvements(entries))


def yardstick_tables(yardstick: Yardstick) -> dict[str, str]:
    """The table of steps from scratch, by the names of its files."""
    first, rows = yardstick.agents[0].results, yardstick_rows(yardstick)
    caption = f"split: {first.split}{DOT}first {yardstick.tasks} tasks{DOT}{yardstick.mode} actions"
    return _tables(first, caption, "yardstick", yardstick_columns(yardstick), rows, YARDSTICK_MORE)


def _tables(
    first: Results,
    caption: str,
    name: str,
    columns: Sequence[Column],
    rows: Sequence[Cells],
    more: Sequence[Column] = (),
) -> dict[str, str]:
    """One table as CSV, markdown and LaTeX; nothing without rows."""
    if not rows:
        return {}
    whose: Mapping[str, Any] = {"family": first.family, "split": first.split}
    shown, caption = filled(columns, rows), f"{first.family}: {caption}"
    return {
        f"{name}.csv": csv_file([*FAMILY_COLUMNS, *shown, *more], [{**row, **whose} for row in rows]),
        f"{name}.md": markdown_file(shown, rows, caption),
        f"{name}.tex": latex_file(shown, rows, caption),
    }
