"""`metarl eval ROW...`: rows of a benchmark, evaluated again from the weights beside their results."""

from __future__ import annotations

from pathlib import Path

from metarl.benchmark.rows import RESULTS, agreement, evaluate_again, has_weights
from metarl.cli.commands import run_eval, say_table
from metarl.cli.options import EvalOptions
from metarl.cli.progress import bar, say
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
    if changed := [
        name for name in ("family", "split", "num_tasks", "eval_steps", "beside", "out") if getattr(options, name)
    ]:
        raise InvalidValueError(
            "options", changed, "none: a row is evaluated by the protocol that it was published with"
        )
    verify([Path(path) for path in options.runs], options.device)


def is_row(path: Path) -> bool:
    """Whether a path is the folder of a row: it has results and is no run."""
    return (path / RESULTS).is_file() and not (path / "config.json").exists()


def verify(folders: list[Path], device: str) -> None:
    """Evaluate rows again from their weights.

    Raises:
        OtherScoresError: a row has other scores than its weights give.
    """
    found: list[Results] = []
    wrong: list[str] = []
    with bar("evaluate", len(folders), 0, "rows") as advance:
        for done, folder in enumerate(folders, 1):
            if has_weights(folder):
                stored, again = evaluate_again(folder, device)
                verdict = agreement(stored, again)
                found.append(again)
                wrong += [str(folder)] if verdict == "different" else []
            say(f"{folder}: {verdict if has_weights(folder) else 'scores only'}")
            advance(done, [])
    say_table(found)
    if wrong:
        raise OtherScoresError(f"{len(wrong)} rows have other scores than their weights give: {', '.join(wrong)}")
