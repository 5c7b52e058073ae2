"""Reports: one self-contained HTML page with leaderboards and figures, and files of these beside it.

metarl report RUN... --out DIR
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from metarl.errors import InvalidValueError
from metarl.evaluation.results import Results
from metarl.files import reason, write_atomic
from metarl.report.figures.curves import adaptation_figure
from metarl.report.figures.style import GREY, MARKERS, PALETTE, STYLE, every_file, save_figure
from metarl.report.figures.trial import paths_figure, trial_figure
from metarl.report.markup import document, note
from metarl.report.sections import Section, sections_of
from metarl.report.tables import table_text, text_table

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
    "<p><b>R<sub>k</sub></b> is the undiscounted return of one fresh episode played with the state after k "
    "adaptation steps; what the agent learns in that episode is thrown away, though a memory works within it. Means "
    "are over seeds, tasks and episodes, and <b>[low, high]</b> is a 95&nbsp;% interval over seeds and tasks, "
    "crossed (for one seed: over tasks only). <b>IQM</b> is the interquartile mean: the mean of the middle half of "
    "the returns of all seeds and tasks. <b>Environment steps</b> count all steps that an agent used before "
    "R<sub>k</sub>: compare agents at equal steps, not only at equal k. <b>Normalised score</b> = (mean &minus; "
    "floor) / (informed optimum &minus; floor), unclipped: 0 is uniformly random actions, 1 is the best return of a "
    "player who knows the task. <b>Steps to 90&nbsp;%</b> are the environment steps after which the normalised "
    "score stays at or above .9; “not reached” means that it is below .9 at the last k. <b>Lifetime return</b> is "
    "the total reward of a whole trial, exploration included; the Bayes optimum is its best expected value when the "
    "task is unknown. <b>Last tenth of a trial</b>: the mean return of the last tenth of its episodes. <b>Seconds "
    "per step</b>: the median duration of an adaptation step of all trials side by side. <b>Optimality gap</b>: the "
    "mean of max(0, 1 &minus; normalised score) over seeds and tasks. <b>Worst 10&nbsp;% of tasks</b>: the mean "
    "return in them, ranked by their means over seeds.</p>"
)


def write_report(
    results: Sequence[Results],
    out: str | Path,
    *,
    title: str = "metarl report",
    files: bool = True,
    notes: Sequence[str] = (),
) -> Path:
    """Write `out/report.html`, one file that needs no other file, with a section for each family and split.

    Args:
        results: results of evaluations, of any agents and families.
        out: directory; it is made if it does not exist.
        title: heading of the page.
        files: whether to write the same figures as PNG, PDF and SVG, and the same tables as CSV, markdown and LaTeX,
            to `out/report_files`, in a folder for each section.
        notes: a list of sentences under the heading, for example what the page lacks.

    Returns:
        The path of the page.

    Raises:
        InvalidValueError: there are no results, or the directory cannot be written.
    """
    if not results:
        raise InvalidValueError("results", list(results), "at least one evaluation")
    if isinstance(notes, str):
        raise InvalidValueError("notes", notes, "a list of sentences")
    sections = sections_of(results)
    own = dict(zip(_folders([section.name for section in sections]), sections, strict=True))
    try:
        body = "".join(section.body(folder) for folder, section in own.items())
        headlines = _headlines(own)
        beside = {f"{f}/{n}": d for f, section in own.items() for n, d in _files(section)} if files else {}
    except (ArithmeticError, ValueError) as error:  # from matplotlib, on numbers that are not finite or too large
        if isinstance(error, InvalidValueError):
            raise
        expected = f"numbers that can be drawn ({reason(error)})"
        raise InvalidValueError("results", [r.agent for r in results], expected) from error
    about = f"<details><summary>What the numbers mean</summary>{ABOUT}</details>"
    top = "".join(map(note, notes)) + headlines + _contents(own) + about
    path = Path(out) / "report.html"
    write_atomic(path, document(title, top + body).encode(errors="replace"))
    for name, data in beside.items():
        write_atomic(Path(out) / "report_files" / name, data)
    return path


def _folders(names: Sequence[str]) -> list[str]:
    """A name for each section that files and links can have."""
    folders: list[str] = []
    for name in names:
        folder = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[:80] or "section"
        while folder in folders:
            folder = f"{folder}-{len(folders) + 1}"
        folders.append(folder)
    return folders


def _headlines(sections: Mapping[str, Section]) -> str:
    """The sentences on learning from scratch, each with a link to its section; nothing without such sections."""
    items = "".join(
        f'<li><a href="#{folder}">{html.escape(section.subject)}</a>: {html.escape(" ".join(said))}</li>'
        for folder, section in sections.items()
        if (said := section.headlines())
    )
    lead = "How many environment steps in a task an agent needs that no training has prepared."
    return f'<h2>From scratch</h2><p class="soft">{lead}</p><ul class="headlines">{items}</ul>' if items else ""


def _contents(sections: Mapping[str, Section]) -> str:
    """Links to the sections, if there are several."""
    links = (f'<li><a href="#{folder}">{html.escape(section.link)}</a></li>' for folder, section in sections.items())
    return f"<nav><h2>Contents</h2><ul>{''.join(links)}</ul></nav>" if len(sections) > 1 else ""


def _files(section: Section) -> list[tuple[str, bytes]]:
    """Names and bytes of all files of a section."""
    made = [(f"{p.name}.{kind}", d) for p in section.pictures() for kind, d in every_file(p.draw(True)).items()]
    return made + [(name, text.encode(errors="replace")) for name, text in section.tables().items()]
