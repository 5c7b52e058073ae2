"""`metarl compare A B`: how much better one agent is than another on the same tasks, and how often."""

from __future__ import annotations

from pathlib import Path

from metarl.cli.options import CompareOptions
from metarl.cli.progress import say
from metarl.errors import InvalidValueError, MetaRLError
from metarl.evaluation.comparison import difference, protocol_differences
from metarl.evaluation.results import Results
from metarl.report.entries import labels_of
from metarl.report.page import text_table


class OtherProtocolError(MetaRLError):
    """Two evaluations that cannot be compared, or only on request."""


def run_compare(options: CompareOptions) -> None:
    """`metarl compare A B`."""
    first, second = (Results.load(_results_file(path)) for path in (options.first, options.second))
    differences = protocol_differences(first, second)
    if differences:
        say("A and B differ in more than the agent:")
        columns = [("", "A", "B"), *((name, _words(a), _words(b)) for name, (a, b) in differences.items())]
        say(*text_table(list(zip(*columns, strict=True))).split("\n"))
    _check(set(differences), options.force)
    rows = difference(first, second, options.mode)
    mode = options.mode or next(mode for mode in first.scores if mode in second.scores)
    names = " minus ".join(labels_of([first, second]))
    say(f"{names} on {first.family}, split {first.split!r}, {mode} actions")
    head = ["k", "difference in R_k", "95 % interval", "probability of improvement", "95 % interval "]
    cells = [
        [
            f"{row['k']:.0f}",
            f"{row['difference']:.4g}",
            f"[{row['low']:.4g}, {row['high']:.4g}]",
            f"{row['improvement']:.2f}",
            f"[{row['improvement_low']:.2f}, {row['improvement_high']:.2f}]",
        ]
        for row in rows
    ]
    say(*text_table([list(column) for column in zip(head, *cells, strict=True)]).split("\n"))


def _check(differences: set[str], force: bool) -> None:
    """Refuse evaluations that differ in more than the environment steps of agents of two kinds.

    Two agents that have `eval_steps` must have the same: this budget was chosen, and does not follow from the agent.

    Raises:
        OtherProtocolError: they do; only differences beside the tasks and k can be forced.
    """
    if force and (fixed := sorted(differences & {"tasks", "k"})):
        raise OtherProtocolError(
            f"A and B have other {' and '.join(fixed)}, so they cannot be compared with --force either"
        )
    if not force and (wrong := differences - {"environment steps"}):
        forced = "" if wrong & {"tasks", "k"} else ", or compare them all the same with --force"
        raise OtherProtocolError(f"A and B are not evaluated in the same way: evaluate both by one protocol{forced}")


def _words(value: object) -> str:
    """A value in a cell: the items of a list, shortened to 60 characters."""
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _results_file(path: Path) -> Path:
    """The results file that a path names: itself, that of a row, or `test.json` of a run, or its only one."""
    if not path.is_dir():
        return path
    found = [path / "results.json"] if (path / "results.json").exists() else sorted((path / "results").glob("*.json"))
    test = [file for file in found if file.name == "test.json"]
    if not found:
        expected = "a results file, or a folder with one: metarl eval makes one for a run"
        raise InvalidValueError("results", str(path), expected)
    if len(found) > 1 and not test:
        raise InvalidValueError("results", str(path), f"one of its files: {', '.join(map(str, found))}")
    return (test or found)[0]
