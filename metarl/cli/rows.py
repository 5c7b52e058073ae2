"""`metarl eval ROW...`: rows of a benchmark, evaluated again from the weights beside their results."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import fields
from pathlib import Path

from metarl.benchmark.rows import RESULTS, agreement, evaluate_again, is_reproducible
from metarl.cli.commands import loaded, run_eval, say_table
from metarl.cli.options import EvalOptions
from metarl.cli.progress import bar, duration, say
from metarl.errors import InvalidValueError, MetaRLError
from metarl.evaluation.results import Results


class OtherScoresError(MetaRLError):
    """Weights give other scores than those that are stored."""


def run_eval_or_rows(options: EvalOptions) -> None:
    """`metarl eval`: of runs, or of rows of a benchmark."""
    rows = [is_row(Path(path)) for path in options.runs]
    if not any(rows):
        run_eval(options)
        return
    if not all(rows):
        runs = [path for path, row in zip(options.runs, rows, strict=True) if not row]
        raise InvalidValueError(
            "runs", runs, f"rows of a benchmark, which have a {RESULTS}, as {options.runs[0]} is one"
        )
    plain = EvalOptions(options.runs)
    changed = [f.name for f in fields(plain) if f.name not in ("runs", "device")]
    changed = [f"--{name.replace('_', '-')}" for name in changed if getattr(options, name) != getattr(plain, name)]
    if changed:
        raise InvalidValueError("options", changed, "none: a row is evaluated by the protocol of its results")
    verify([Path(path) for path in options.runs], options.device)


def is_row(path: Path) -> bool:
    """Whether a path is the folder of a row: it has results and is no run."""
    return (path / RESULTS).is_file() and not (path / "config.json").exists()


def verify(folders: list[Path], device: str) -> None:
    """Evaluate rows again from their weights.

    Raises:
        OtherScoresError: a row has other scores than its weights give, or could not be played.
    """
    found: list[Results] = []
    wrong: list[str] = []
    unplayed: list[str] = []
    verdicts: Counter[str] = Counter()
    with bar("evaluate", len(folders), 0, "rows", equal=False) as advance:
        for done, folder in enumerate(folders):
            advance(done, [f"now {folder}"])
            start = time.monotonic()
            try:
                verdict, again = _verdict(folder, device)
                verdicts[verdict] += 1
            except InvalidValueError as error:
                verdict, again = str(error), None
                unplayed.append(str(folder))
                verdicts["not played"] += 1
            if again is not None:
                found.append(again)
                wrong += [str(folder)] if verdict == "different" else []
            say(f"{folder}: {verdict} ({duration(time.monotonic() - start)})")
        advance(len(folders))
    say_table(found)
    if len(folders) > 1:
        say(f"{len(folders)} rows: {', '.join(f'{count} {verdict}' for verdict, count in verdicts.most_common())}")
    problems = [f"{len(wrong)} rows could not be found again from their weights: {', '.join(wrong)}"] if wrong else []
    if unplayed:
        hint = "" if loaded else " (a family or an agent of your own needs --load FILE)"
        problems.append(f"{len(unplayed)} rows could not be played{hint}: {', '.join(unplayed)}")
    if problems:
        raise OtherScoresError("; ".join(problems))


def _verdict(folder: Path, device: str) -> tuple[str, Results | None]:
    """What is said of a row, and its new results; no results where there are scores only."""
    if not is_reproducible(folder):
        return "scores only", None
    stored, again = evaluate_again(folder, device)
    return agreement(stored, again), again
