"""The sections of a report: each family and split, learning from scratch, transfer, and gaps between splits."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from metarl.evaluation.results import Results
from metarl.report.entries import Entry, evenly, grouped, study_of
from metarl.report.figures.comparison import improvements
from metarl.report.figures.training import training_of
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
from metarl.report.markup import facts, grouped_table, legend, mark, note, picture, table
from metarl.report.pictures import Picture, pictures_of, transfer_picture, yardstick_picture
from metarl.report.tables import (
    DOT,
    Column,
    Gap,
    csv_file,
    filled,
    gap_columns,
    gap_rows,
    gaps,
    latex_file,
    markdown_file,
    number_text,
    splits_of,
    subtitle,
)
from metarl.report.transfer import TRANSFER_COLUMNS, Transfer, transfer_caption, transfer_rows, transfers
from metarl.report.yardstick import (
    YARDSTICK_MORE,
    Yardstick,
    headlines,
    yardstick_columns,
    yardstick_rows,
    yardstick_words,
    yardsticks,
)

GAPS = "Gaps between splits"
_LONGEST = 4000  # characters of a text under Details


class Section(NamedTuple):
    """A section of the page.

    Attributes:
        name: the name that its folder gets.
        link: what the contents say.
        body: makes its HTML, given its folder.
        pictures: makes its pictures, for files.
        tables: makes its tables, by the names of their files.
        subject: the family and split that its headlines are about.
        headlines: makes the sentences that the top of the page has too.
    """

    name: str
    link: str
    body: Callable[[str], str]
    pictures: Callable[[], list[Picture]]
    tables: Callable[[], dict[str, str]]
    subject: str = ""
    headlines: Callable[[], list[str]] = list


def sections_of(results: Sequence[Results]) -> list[Section]:
    """Each family and split, then learning from scratch, transfer between families, and gaps between splits."""
    groups = grouped(results)
    names = _names([entries[0].results for entries in groups])
    earlier = [[entry for group in groups[:i] for entry in group] for i in range(len(groups))]
    return [
        *map(_family_part, groups, names, earlier),
        *map(_yardstick_part, yardsticks(results)),
        *map(_transfer_part, transfers(results)),
        *map(_gap_part, [found] if (found := gaps(results)) else []),
    ]


def _name(results: Results) -> str:
    return f"{results.family.split('/')[-1]}-{results.split}"


def _names(firsts: Sequence[Results]) -> list[str]:
    """Names of sections, by their first results; those of several studies name the study too."""
    names = list(map(_name, firsts))
    studies = [study_of(results).rpartition("/")[2] if names.count(_name(results)) > 1 else "" for results in firsts]
    return [f"{name} {study}" for name, study in zip(names, studies, strict=True)]


def _family_part(entries: Sequence[Entry], name: str, earlier: Sequence[Entry]) -> Section:
    first = entries[0].results
    link = f"{first.family}, split {first.split}" + (f", study {study_of(first)}" if study_of(first) else "")
    makers = (lambda: pictures_of(entries, earlier), lambda: tables_of(entries))
    return Section(name, link, lambda folder: _section(entries, folder, earlier), *makers)


def _yardstick_part(yardstick: Yardstick) -> Section:
    first = yardstick.agents[0].results
    subject, name = f"{first.family}, split {first.split}", f"{_name(first)} from scratch"
    link = f"{subject}: learning from scratch"
    makers = (lambda: [yardstick_picture(yardstick)], lambda: yardstick_tables(yardstick))
    top = (subject, lambda: headlines(yardstick))
    return Section(name, link, lambda folder: _yardstick_section(yardstick, folder), *makers, *top)


def _transfer_part(transfer: Transfer) -> Section:
    makers = (lambda: [transfer_picture(transfer)], lambda: transfer_tables(transfer))
    title = f"transfer of {transfer.agent}"
    return Section(title, title, lambda folder: _transfer_section(transfer, folder), *makers)


def _gap_part(found: Sequence[Gap]) -> Section:
    return Section("gaps", GAPS.lower(), lambda folder: _gap_section(found, folder), list, lambda: gap_tables(found))


def _section(entries: Sequence[Entry], folder: str, earlier: Sequence[Entry]) -> str:
    first = entries[0].results
    marks = [mark(entry) for entry in entries]
    study = f"study: {study_of(first)}{DOT}" if study_of(first) else ""
    parts = [
        f'<h2 id="{folder}">{html.escape(first.family)}</h2>',
        f'<p class="soft">{html.escape(study + subtitle(first))}</p>',
    ]
    if any(e.results.meta.get("train_equals_test") for e in entries):
        parts.append(note("train = test: finite family, so training met these tasks."))
    if len({e.results.task_hash for e in entries}) > 1:
        parts.append(note("These results are of different tasks: see the hashes under Protocol."))
    parts.append(_table("Leaderboard", leaderboard_columns(entries), leaderboard_rows(entries), marks))
    parts.append(_seed_note(entries))
    parts.append(_pictures(entries, pictures_of(entries, earlier), marks))
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
    return note(f"One seed: {whose} over tasks only, and say nothing of other seeds.")


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


def _transfer_section(transfer: Transfer, folder: str) -> str:
    shown, rows = transfer_picture(transfer), transfer_rows(transfer)
    return (
        f'<section><h2 id="{folder}">Transfer between families: {html.escape(transfer.agent)}</h2>'
        f'<p class="soft">{html.escape(transfer_caption(transfer))}</p>'
        f"{picture(shown.draw(False), shown.label, shown.caption)}"
        f"{_table('Gains', TRANSFER_COLUMNS, rows, [''] * len(rows))}</section>\n"
    )


def _gap_section(found: Sequence[Gap], folder: str) -> str:
    agent, splits, _, *numbers = gap_columns(found)
    groups = []
    for each in found:
        whose = f"{html.escape(each.far.agent)}<small>{html.escape(each.far.family)}</small>"
        groups.append((f"{whose}<small>{html.escape(f'{splits_of(each)}, {each.mode} actions')}</small>", each.rows))
    said = (
        "<p>How much lower R<sub>k</sub> of the same agents is on tasks farther from training. Such tasks may also be "
        "harder or easier in themselves: compare the gap of random actions.</p>"
    )
    shown = grouped_table(GAPS, [agent._replace(head=f"agent, {splits.head}"), *numbers], groups)
    return f'<section><h2 id="{folder}">{GAPS}</h2>{said}{shown}</section>\n'


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
    said += _budget(results)
    if "floor" in meta:
        said.append(f"The floor is {meta['floor']}.")
    if meta.get("iterations"):
        counts = sorted(set(meta["iterations"] if isinstance(meta["iterations"], list) else [meta["iterations"]]))
        said.append(f"Trained for {' or '.join(f'{n:,}' for n in counts)} meta-updates.")
    said.append(f"Seeds: {seeds}; 95 % intervals: {results.interval_words()}.")
    if meta.get("failed_steps"):
        said.append(f"{meta['failed_steps']:,} adaptation steps failed (parameters that are not finite); they count.")
    return said


def _budget(results: Results) -> list[str]:
    """How many environment steps an adaptation step uses in a task; nothing where there is no adaptation step.

    The results have means over seeds, tasks and trials, which are no whole numbers where episodes end early.
    """
    if not results.meta.get("adapts", True):
        return []
    k, used = np.array([0, *results.k]), np.array([0.0, *results.env_steps])
    later = np.diff(k) > 0
    exact = np.diff(used)[later] / np.diff(k)[later]
    if not exact.size:
        return []
    steps = exact.round(1)
    low, high = (number_text(end, 0 if end == round(end) else 1) for end in (steps.min(), steps.max()))
    count = low if low == high else f"{low} to {high}"
    average = "" if np.ptp(exact) == 0 and exact[0] == round(exact[0]) else " on average"
    return [f"An adaptation step uses {count} environment {'step' if count == '1' else 'steps'} in each task{average}."]


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
        drawn = shown.keys() & {"curves", "training_curves"}
        shown |= dict.fromkeys(drawn, "drawn under Meta-training, in the first section that has this training")
    texts = {n: v if isinstance(v, str) else json.dumps(v, default=str, ensure_ascii=False) for n, v in shown.items()}
    return {n: text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..." for n, text in texts.items()}


# --- tables ----------------------------------------------------------------------------------------------------------


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


def transfer_tables(transfer: Transfer) -> dict[str, str]:
    """The table of gains, by the names of its files."""
    caption = f"transfer of {transfer.agent}: {transfer_caption(transfer)}"
    return _written("transfer", TRANSFER_COLUMNS, transfer_rows(transfer), caption)


def _written(name: str, columns: Sequence[Column], rows: Sequence[Cells], caption: str) -> dict[str, str]:
    """A table that is the same in all kinds of files."""
    return {
        f"{name}.csv": csv_file(columns, rows),
        f"{name}.md": markdown_file(columns, rows, caption),
        f"{name}.tex": latex_file(columns, rows, caption),
    }


def gap_tables(found: Sequence[Gap]) -> dict[str, str]:
    """The table of gaps between splits, by the names of its files."""
    columns, rows = [FAMILY_COLUMNS[0], *gap_columns(found)], gap_rows(found)
    return _written("gaps", columns, rows, f"{GAPS}, same agents")


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
