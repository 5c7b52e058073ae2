"""The work that a suite is: trainings, and evaluations that wait for theirs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from metarl.benchmark.card import write_card
from metarl.benchmark.cells import Progress, is_trained, run_path, train_cell, trained_iterations
from metarl.benchmark.rows import evaluate_row, is_evaluated, results_path
from metarl.benchmark.suite import Cell, Suite, agent_of, cells, rows, trainings


@dataclass(frozen=True)
class Job:
    """A training (with a seed) or the evaluation of a row (without one).

    Attributes:
        study: name of a study.
        entry: name of one of its entries.
        seed: of the training; None for an evaluation.
        needs: trainings that must be finished first, by their labels.
        size: iterations of a training, 0 for an evaluation.
    """

    study: str
    entry: str
    seed: int | None
    needs: tuple[str, ...] = ()
    size: int = 0

    @property
    def label(self) -> str:
        """STUDY/ENTRY/seedN, or STUDY/ENTRY."""
        row = f"{self.study}/{self.entry}"
        return row if self.seed is None else Cell(self.study, self.entry, self.seed).label

    @property
    def what(self) -> str:
        """In words."""
        return f"{'evaluate' if self.seed is None else 'train'} {self.label}"


def plan(suite: Suite, only: Sequence[str] = ()) -> list[Job]:
    """All jobs of a suite, or of the parts that are named: each row's trainings, then its evaluation.

    A part that needs the trainings of another one has them too.

    Raises:
        InvalidValueError: a name in `only` is no part of the suite.
    """
    only = tuple(part.rstrip("/") for part in only)
    jobs: dict[str, Job] = {}
    for cell in cells(suite, only) if only else ():
        if cell.label in only:  # one training alone
            _add_training(suite, cell, jobs)
    for study, entry in rows(suite, only):
        needed = trainings(suite, study, entry)
        for cell in needed:
            _add_training(suite, cell, jobs)
        jobs[f"{study}/{entry}"] = Job(study, entry, None, tuple(cell.label for cell in needed))
    return list(jobs.values())


def _add_training(suite: Suite, cell: Cell, jobs: dict[str, Job]) -> None:
    """A training behind those that it begins with."""
    if cell.label in jobs:
        return
    entry = suite.studies[cell.study].entries[cell.entry]
    needs: tuple[str, ...] = ()
    if entry.begins_with:
        study, _, source = entry.begins_with.partition("/")
        first = Cell(study, source, cell.seed)
        _add_training(suite, first, jobs)
        needs = (first.label,)
    jobs[cell.label] = Job(cell.study, cell.entry, cell.seed, needs, entry.iterations)


def done_part(suite: Suite, job: Job, out: Path) -> tuple[int, int]:
    """How much of a job is done, and of how much: iterations of a training, 0 or 1 of an evaluation."""
    if job.seed is None:
        return int(is_evaluated(suite, job.study, job.entry, out)), 1
    return min(job.size, trained_iterations(Cell(job.study, job.entry, job.seed), out)), job.size


def is_done(suite: Suite, job: Job, out: Path) -> bool:
    """Whether nothing is left of a job."""
    if job.seed is None:
        return is_evaluated(suite, job.study, job.entry, out)
    return is_trained(suite, Cell(job.study, job.entry, job.seed), out)


def do(suite: Suite, job: Job, out: Path, device: str = "cpu", progress: Progress | None = None) -> None:
    """Do a job, from where it stands."""
    if job.seed is not None:
        train_cell(suite, Cell(job.study, job.entry, job.seed), out, device, progress)
        return
    path = results_path(out, job.study, job.entry)
    path.parent.mkdir(parents=True, exist_ok=True)
    results = evaluate_row(suite, job.study, job.entry, out, device, progress)
    results.save(path)
    write_card(path.parent, results)


def env_steps(suite: Suite, job: Job) -> int | None:
    """Environment steps of one iteration of a training; None where they are not known beforehand."""
    study = suite.studies[job.study]
    return agent_of(study, study.entries[job.entry], study.seeds[0]).train_env_steps


def seconds_taken(job: Job, out: Path) -> float | None:
    """Seconds that the finished iterations of a training took; None where nothing says so."""
    if job.seed is None:
        return None
    metrics = run_path(out, Cell(job.study, job.entry, job.seed)) / "metrics.jsonl"
    if not metrics.exists():
        return None
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    return float(sum(line["seconds_sampling"] + line["seconds_optimisation"] for line in lines))
