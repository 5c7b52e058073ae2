"""The work that a suite is: trainings, and evaluations that wait for theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from metarl.benchmark.card import write_card
from metarl.benchmark.cells import Progress, is_trained, run_path, run_refusal, train_cell, trained_iterations
from metarl.benchmark.rows import evaluate_row, is_evaluated, refuse_changed, results_path
from metarl.benchmark.suite import Cell, Suite, agent_of, cells, rows, source_of, trainings
from metarl.errors import InvalidValueError
from metarl.evaluation.evaluate import FLOOR_EPISODES
from metarl.runs.curves import seconds_in_training
from metarl.runs.load import with_settings


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
    cell = Cell(job.study, job.entry, job.seed)
    done = trained_iterations(cell, out)
    if done >= job.size:  # 0 where its weights are damaged
        done = job.size * is_trained(suite, cell, out)
    return done, job.size


def is_done(suite: Suite, job: Job, out: Path) -> bool:
    """Whether nothing is left of a job."""
    if job.seed is None:
        return is_evaluated(suite, job.study, job.entry, out)
    return is_trained(suite, Cell(job.study, job.entry, job.seed), out)


def refusal(suite: Suite, job: Job, out: Path) -> str:
    """Why a job cannot be done, or what is done is not its work, as its folder stands; empty where it can be done."""
    if job.seed is not None:
        return run_refusal(suite, Cell(job.study, job.entry, job.seed), out)
    try:
        refuse_changed(results_path(out, job.study, job.entry))
    except InvalidValueError as error:
        return str(error)
    return ""


def do(suite: Suite, job: Job, out: Path, device: str = "cpu", progress: Progress | None = None) -> None:
    """Do a job, from where it stands.

    Raises:
        InvalidValueError: what lies in its place is of other settings, is damaged, or was changed by somebody.
    """
    if job.seed is not None:
        train_cell(suite, Cell(job.study, job.entry, job.seed), out, device, progress)
        return
    path = results_path(out, job.study, job.entry)
    refuse_changed(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    results = evaluate_row(suite, job.study, job.entry, out, device, progress)
    results.save(path)
    write_card(path.parent, results)


def env_steps(suite: Suite, job: Job) -> int | None:
    """Environment steps of one iteration of a training; None where they are not known beforehand."""
    study = suite.studies[job.study]
    return agent_of(study, study.entries[job.entry], study.seeds[0]).train_env_steps


def evaluation_steps(suite: Suite, job: Job) -> int:
    """The most environment steps that an evaluation plays: adaptation in all trials, scored episodes, and the floor.

    Those of a probe, at most half as many episodes, are not counted.
    """
    study, (source, name) = suite.studies[job.study], source_of(suite, job.study, job.entry)
    entry, protocol = study.entries[job.entry], study.protocol
    trained = suite.studies[source].entries[name]
    agent = with_settings(agent_of(suite.studies[source], trained, study.seeds[0]), **entry.evaluated_with)
    grid = range(protocol.k + 1) if isinstance(protocol.k, int) else protocol.k
    horizon, budget = agent.family.horizon, agent.budget
    adapted = max(grid) * budget.envs * (budget.steps or (budget.episodes or 1) * horizon)
    scored = len(grid) * len(protocol.modes) * protocol.episodes * horizon
    agents = len(job.needs) or (len(study.seeds) if entry.every_seed else 1)
    measured = "floor" not in agent.family.references(agent.family.tasks(protocol.split, 1))
    floor = FLOOR_EPISODES * horizon * measured
    return int(protocol.tasks * (agents * protocol.trials * (adapted + scored) + floor))


def seconds_per_iteration(job: Job, out: Path) -> float | None:
    """Seconds that an iteration of a training took, mean over the finished ones; None where nothing says so."""
    if job.seed is None:
        return None
    cell = Cell(job.study, job.entry, job.seed)
    done = trained_iterations(cell, out)
    seconds = seconds_in_training(run_path(out, cell), done)
    return seconds / done if seconds and done else None
