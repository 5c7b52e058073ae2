"""`metarl benchmark SUITE`: train and evaluate the cells of a suite, side by side, with one view of what is done."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.live import Live
from rich.text import Text

from metarl.benchmark.crew import Listener, Outcome, Setup
from metarl.benchmark.jobs import Job, done_part, env_steps, is_done, plan, seconds_taken
from metarl.benchmark.ray_jobs import run_jobs_on_ray
from metarl.benchmark.rows import is_evaluated, results_path
from metarl.benchmark.suite import Suite, load_suite
from metarl.benchmark.workers import run_jobs
from metarl.cli.commands import loaded, say_table
from metarl.cli.options import BenchmarkOptions
from metarl.cli.outputs import check_report
from metarl.cli.progress import EVERY, FIRST, console, duration, say
from metarl.cli.rows import verify
from metarl.errors import InvalidValueError, MetaRLError
from metarl.evaluation.results import Results
from metarl.report.page import write_report


class FailedCellsError(MetaRLError):
    """Some cells of a benchmark failed."""


def run_benchmark(options: BenchmarkOptions) -> None:
    """`metarl benchmark SUITE`."""
    suite = load_suite(options.suite)
    out = options.out or Path("runs") / suite.name
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
    found = [Results.load(results_path(out, job.study, job.entry)) for job in jobs if _has_results(suite, job, out)]
    say_table(found)
    if options.report is not None and found:
        say(f"wrote {write_report(found, options.report, title=f'metarl benchmark {suite.name}')}")
    if outcome.failed:
        raise FailedCellsError(
            f"{len(outcome.failed)} of {len(jobs)} cells failed: {', '.join(sorted(outcome.failed))}"
        )


def _verify(suite: Suite, jobs: Sequence[Job], out: Path, device: str) -> None:
    """Evaluate rows again from their weights, and refuse numbers that are not found again.

    Raises:
        InvalidValueError: a row has no results, or they are of other weights, settings or another protocol.
        OtherScoresError: a row has other scores than its weights give.
    """
    rows = [results_path(out, job.study, job.entry) for job in jobs if job.seed is None]
    for job in (job for job in jobs if job.seed is None):
        if not is_evaluated(suite, job.study, job.entry, out):
            expected = "results of the present weights, settings and protocol (metarl benchmark makes them)"
            path = results_path(out, job.study, job.entry)
            raise InvalidValueError(f"results of {job.label}", str(path), expected)
    verify([path.parent for path in rows], device)


def _has_results(suite: Suite, job: Job, out: Path) -> bool:
    return job.seed is None and is_done(suite, job, out)


def _say_end(outcome: Outcome, options: BenchmarkOptions) -> None:
    """Why cells failed; and how to go on, where it was stopped."""
    for label, error in outcome.failed.items():
        say(f"{label} failed: {error}")
    if outcome.stopped:
        say("stopped; the same command goes on")
        raise SystemExit(130)


def overview(suite: Suite, jobs: Sequence[Job], out: Path) -> list[str]:
    """A line for each job: what is done, what it costs, and what the rest takes where that was measured."""
    lines, left = [], 0.0
    for job in jobs:
        done, total = done_part(suite, job, out)
        state = "done" if done == total else f"{done}/{total}" if job.seed is not None else "to do"
        steps = env_steps(suite, job) if job.seed is not None else None
        cost = "" if steps is None else f", {steps * total:,} env steps"
        taken = seconds_taken(job, out)
        if taken and 0 < done < total:
            left += taken / done * (total - done)
            cost += f", about {duration(taken / done * (total - done))} left"
        lines.append(f"{state:>9}  {job.what}{cost}")
    parts = Counter(line.split()[0] == "done" for line in lines)
    lines.append(f"{parts[True]} of {len(jobs)} cells are done")
    return lines


def _run(setup: Setup, suite: Suite, jobs: Sequence[Job], options: BenchmarkOptions) -> Outcome:
    """Do the jobs, with a view of them."""
    board = Board(suite, jobs, setup.out)
    if board.finished == len(jobs):
        say(f"all {len(jobs)} cells are done")
        return Outcome()
    workers = min(options.jobs or len(os.sched_getaffinity(0)), len(jobs))
    where = f"on the Ray cluster {options.ray}" if options.ray else f"{workers} at a time"
    say(f"{len(jobs) - board.finished} of {len(jobs)} cells are left; {where}")
    with board.shown():
        if options.ray:
            return run_jobs_on_ray(setup, suite, jobs, options.ray, board)
        return run_jobs(setup, suite, jobs, workers, board)


class Board(Listener):
    """What is done of all jobs, how fast it goes, and how long the rest takes."""

    def __init__(self, suite: Suite, jobs: Sequence[Job], out: Path) -> None:
        self.total = len(jobs)
        self.weights = {job.label: float(env_steps(suite, job) or 1) for job in jobs if job.seed is not None}
        self.sizes = {job.label: job.size for job in jobs}
        parts = {job.label: done_part(suite, job, out) for job in jobs}
        self.finished = sum(done == size for done, size in parts.values())
        self.done = {label: done for label, (done, _) in parts.items() if label in self.weights}
        self.running: dict[str, tuple[Job, int, int]] = {}
        self.failed, self.start, self.first = 0, time.monotonic(), self._weighed()
        self.last_line = self.start - EVERY + FIRST

    def begun(self, job: Job) -> None:
        """See `Listener`."""
        self.running[job.label] = (job, self.done.get(job.label, 0), job.size or 1)

    def advanced(self, job: Job, done: int, total: int) -> None:
        """See `Listener`."""
        self.running[job.label] = (job, done, total)
        if job.seed is not None:
            self.done[job.label] = done
        self._say_now_and_then()

    def ended(self, job: Job, error: str) -> None:
        """See `Listener`."""
        self.running.pop(job.label, None)
        self.finished += not error
        self.failed += bool(error) and error != "stopped"
        if not self.live:
            how = "stopped" if error == "stopped" else "failed" if error else "done"
            say(f"{how}: {job.what}   ({self.headline()})")

    def _weighed(self) -> float:
        """Environment steps done, of all trainings (iterations, where an agent does not say how many it plays)."""
        return sum(weight * self.done[label] for label, weight in self.weights.items())

    def headline(self) -> str:
        """All of it in one line."""
        whole = sum(weight * self.sizes[label] for label, weight in self.weights.items())
        rate = (self._weighed() - self.first) / max(1e-9, time.monotonic() - self.start)
        said = [f"{self.finished}/{self.total} cells"]
        if self.failed:
            said.append(f"{self.failed} failed")
        if whole:
            said.append(f"{self._weighed() / whole:.0%} of {whole:,.0f} training steps")
        if rate > 0:
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
