"""`metarl benchmark SUITE`: train and evaluate the cells of a suite, side by side, with one view of what is done."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.live import Live
from rich.text import Text

from metarl.benchmark.cells import other_validations
from metarl.benchmark.costs import expected_seconds, measured_on
from metarl.benchmark.crew import Listener, Outcome, Setup
from metarl.benchmark.jobs import (
    Job,
    done_part,
    env_steps,
    evaluation_steps,
    is_done,
    plan,
    refusal,
    seconds_per_iteration,
)
from metarl.benchmark.ray_jobs import run_jobs_on_ray
from metarl.benchmark.rows import is_evaluated, results_path
from metarl.benchmark.suite import Cell, Suite, load_suite
from metarl.benchmark.workers import run_jobs
from metarl.cli.commands import loaded, say_table
from metarl.cli.options import BenchmarkOptions
from metarl.cli.outputs import check_folder, check_report
from metarl.cli.progress import EVERY, FIRST, console, duration, say
from metarl.cli.rows import verify
from metarl.devices import cores
from metarl.errors import InvalidValueError, MetaRLError
from metarl.evaluation.results import Results
from metarl.report.page import write_report


class FailedCellsError(MetaRLError):
    """Some cells of a benchmark failed."""


def run_benchmark(options: BenchmarkOptions) -> None:
    """`metarl benchmark SUITE`."""
    suite = load_suite(options.suite)
    out = options.out or Path("runs") / suite.name
    check_folder(out, out, "--out")
    jobs = plan(suite, options.only)
    if options.report is not None:
        check_report(options.report)
    if options.dry_run:
        say(*overview(suite, jobs, out))
        return
    if options.verify:
        _verify(suite, jobs, out, options.device)
        return
    setup = Setup(options.suite, out, options.device, tuple(loaded))
    outcome = _run(setup, suite, jobs, options)
    _say_end(outcome, options)
    rows = [job for job in jobs if job.seed is None]
    done = [job for job in rows if is_done(suite, job, out)]
    found = [Results.load(results_path(out, job.study, job.entry)) for job in done]
    say_table(found)
    if options.report is not None and found:
        missing = [job.label for job in rows if job not in done]
        notes = [f"Not on this page, because they have no results: {', '.join(missing)}."] if missing else []
        page = write_report(found, options.report, title=f"metarl benchmark {suite.name}", notes=notes)
        say(f"wrote {page}")
    if outcome.failed:
        raise FailedCellsError(
            f"{len(outcome.failed)} of {len(jobs)} cells failed: {', '.join(sorted(outcome.failed))}"
        )


def _verify(suite: Suite, jobs: Sequence[Job], out: Path, device: str) -> None:
    """Evaluate rows again from their weights, and refuse numbers that are not found again.

    Raises:
        InvalidValueError: a row has no results, or they are of other weights, settings or another protocol.
        FailedCellsError: a file is damaged or was changed, or a run was made with other settings.
        OtherScoresError: a row has other scores than its weights give.
    """
    rows = [results_path(out, job.study, job.entry) for job in jobs if job.seed is None]
    for job in jobs:
        if why := refusal(suite, job, out):
            raise FailedCellsError(f"{job.label}: {why}")
        if job.seed is None and not is_evaluated(suite, job.study, job.entry, out):
            expected = "results of the present weights, settings and protocol (metarl benchmark makes them)"
            path = results_path(out, job.study, job.entry)
            raise InvalidValueError(f"results of {job.label}", str(path), expected)
    verify([path.parent for path in rows], device)


def _say_end(outcome: Outcome, options: BenchmarkOptions) -> None:
    """Why cells failed; and how to go on, where it was stopped."""
    for label, error in outcome.failed.items():
        say(*f"{label} failed: {error}".splitlines())
    if outcome.stopped:
        say("stopped; the same command goes on")
        raise SystemExit(130)


def overview(suite: Suite, jobs: Sequence[Job], out: Path) -> list[str]:
    """A line for each job: what is done, what it costs, what is refused; then what all of it costs."""
    lines, states, steps_left, steps_all, played = [f"folder: {out}"], Counter[str](), 0, 0, 0
    seconds, unknown, foretold = 0.0, 0, False
    speeds = _speeds(jobs, out)
    for job in jobs:
        done, total = done_part(suite, job, out)
        why = refusal(suite, job, out)
        state = "refused" if why else "done" if done == total else "to do" if job.seed is None else f"{done}/{total}"
        states[state] += 1
        said = ""
        if job.seed is not None and (steps := env_steps(suite, job)) is not None:
            said = f", {steps * total:,} env steps"
            steps_all += steps * total
            steps_left += 0 if why else steps * (total - done)
        if job.seed is None:
            said = f", at most {(steps := evaluation_steps(suite, job)):,} env steps"
            played += 0 if why or done == total else steps
        if not why and done < total:
            each = speeds.get(job.label) or speeds.get(f"{job.study}/{job.entry}") if job.seed is not None else None
            whole = each * total if each else expected_seconds(suite, job)
            left = None if whole is None else whole * (total - done) / total
            foretold, unknown = foretold or (not each and left is not None), unknown + (left is None)
            seconds += left or 0.0
            said += f", about {duration(left)} left" if left is not None else ""
        lines.append(f"{state:>9}  {job.what}{said}{f': {why}' if why else ''}")
    wrong = f", {states['refused']} refused" if states["refused"] else ""
    lines.append(f"{states['done']} of {len(jobs)} cells are done{wrong}")
    if steps_all:
        lines.append(f"{steps_left:,} of {steps_all:,} env steps of training are left")
    if played:
        lines.append(f"evaluations play at most {played:,} env steps more")
    if seconds:
        rest = f", without {unknown} cells of unknown speed" if unknown else ""
        where = f" (cells that have not begun: as on an {measured_on()})" if foretold else ""
        lines.append(f"what is left takes about {duration(seconds)} of one core{rest}{where}")
    elif unknown and any(job.seed is not None for job in jobs):
        lines.append("how long that takes is said here when a first training has begun: speeds are measured")
    return [*lines, *_other_validations(suite, jobs, out)]


def _speeds(jobs: Sequence[Job], out: Path) -> dict[str, float]:
    """Seconds per iteration, where they were measured: of trainings, and of rows (of one of their seeds)."""
    found: dict[str, float] = {}
    for job in jobs:
        if each := seconds_per_iteration(job, out):
            found |= {job.label: each, f"{job.study}/{job.entry}": each}
    return found


def _other_validations(suite: Suite, jobs: Sequence[Job], out: Path) -> list[str]:
    """A sentence for each row whose trainings have another learning curve than the suite says."""
    return other_validations(suite, [Cell(j.study, j.entry, j.seed) for j in jobs if j.seed is not None], out)


def _run(setup: Setup, suite: Suite, jobs: Sequence[Job], options: BenchmarkOptions) -> Outcome:
    """Do the jobs, with a view of them."""
    board = Board(suite, jobs, setup.out)
    say(*_other_validations(suite, jobs, setup.out))
    workers = min(options.jobs or cores(), len(jobs))
    if board.finished == len(jobs):
        outcome = run_jobs(setup, suite, jobs, workers, board)  # no process: what is done may still be refused
        say(*([] if outcome.failed else [f"all {len(jobs)} cells are done"]))
        return outcome
    where = f"on the Ray cluster {options.ray}" if options.ray else f"{workers} at a time"
    say(f"{len(jobs) - board.finished} of {len(jobs)} cells are left; {where}, in {setup.out}")
    with board.shown():
        if options.ray:
            return run_jobs_on_ray(setup, suite, jobs, options.ray, board)
        return run_jobs(setup, suite, jobs, workers, board)


def _weight(suite: Suite, job: Job) -> float:
    """The environment steps of a job; of a training that does not say how many it plays, its iterations."""
    if job.seed is None:
        return float(evaluation_steps(suite, job))
    return float(job.size * (env_steps(suite, job) or 1))


class Board(Listener):
    """What is done of all jobs, how fast it goes, and how long the rest takes."""

    def __init__(self, suite: Suite, jobs: Sequence[Job], out: Path) -> None:
        self.total = len(jobs)
        self.weights = {job.label: _weight(suite, job) for job in jobs}
        self.is_known = all(job.seed is None or env_steps(suite, job) is not None for job in jobs)  # all their steps
        parts = {job.label: done_part(suite, job, out) for job in jobs}
        self.finished = sum(done == size for done, size in parts.values())
        self.done = {label: done / size for label, (done, size) in parts.items()}  # the part that is done
        self.running: dict[str, tuple[Job, int, int]] = {}
        self.failed, self.start, self.first = 0, time.monotonic(), self._weighed()
        self.last_line = self.start - EVERY + FIRST

    def begun(self, job: Job) -> None:
        """See `Listener`."""
        self.running[job.label] = (job, round(self.done[job.label] * job.size), job.size or 1)

    def advanced(self, job: Job, done: int, total: int) -> None:
        """See `Listener`."""
        self.running[job.label] = (job, done, total)
        self.done[job.label] = done / max(1, total)
        self._say_now_and_then()

    def ended(self, job: Job, error: str) -> None:
        """See `Listener`."""
        self.running.pop(job.label, None)
        self.finished += not error
        self.done[job.label] = self.done[job.label] if error else 1.0
        self.failed += bool(error) and error != "stopped"
        if not self.live:
            how = "stopped" if error == "stopped" else "failed" if error else "done"
            say(f"{how}: {job.what}   ({self.headline()})")

    def _weighed(self) -> float:
        """Environment steps done, of all trainings and evaluations."""
        return sum(weight * self.done[label] for label, weight in self.weights.items())

    def headline(self) -> str:
        """All of it in one line."""
        whole = sum(self.weights.values()) if self.is_known else 0.0
        rate = (self._weighed() - self.first) / max(1e-9, time.monotonic() - self.start)
        said = [f"{self.finished}/{self.total} cells"]
        if self.failed:
            said.append(f"{self.failed} failed")
        if whole:
            said.append(f"{self._weighed() / whole:.0%} of {whole:,.0f} env steps")
        if whole and rate > 0:
            said += [f"{float(f'{rate:.2g}'):,.0f} steps/s", f"{duration((whole - self._weighed()) / rate)} left"]
        return ", ".join(said)

    @property
    def live(self) -> bool:
        """Whether the view moves in a terminal."""
        return console.is_interactive and console.file.isatty()

    def picture(self) -> Text:
        """The headline, and a line for each job under way."""
        now = [f"  {job.what}: {done:,}/{total:,}" for job, done, total in self.running.values()]
        return Text("\n".join([self.headline(), *now]))

    def _say_now_and_then(self) -> None:
        if not self.live and time.monotonic() - self.last_line >= EVERY:
            self.last_line = time.monotonic()
            say(self.headline())

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show it, in a terminal, while something goes on."""
        if not self.live:
            yield
            return
        with Live(get_renderable=self.picture, console=console, refresh_per_second=4):
            yield
