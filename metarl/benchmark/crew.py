"""Whoever does the jobs of a suite: the order, what failed, what is left. Where the jobs run is a subclass's."""

from __future__ import annotations

import signal
import threading
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metarl.benchmark.jobs import Job, do, is_done, refusal
from metarl.benchmark.suite import Suite
from metarl.errors import MetaRLError, notes_of
from metarl.runs.train import Interrupted

STOPS = {signal.SIGINT, signal.SIGTERM}  # signals that ask to stop


@dataclass(frozen=True)
class Setup:
    """What a process must know to do jobs of a suite.

    Attributes:
        suite: its name or file.
        out: its folder.
        device: where agents live.
        load: modules and files that register families and agents.
    """

    suite: str
    out: Path
    device: str = "cpu"
    load: tuple[str, ...] = ()


@dataclass
class Outcome:
    """How it went.

    Attributes:
        done: labels of jobs that were done now.
        failed: labels of jobs that failed, and why; jobs that needed them are among them.
        stopped: whether it was asked to stop before everything was done.
    """

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    stopped: bool = False


class Listener:
    """Hears of the jobs as they go; every method may be overridden."""

    def begun(self, job: Job) -> None:
        """A job was given to a process."""

    def advanced(self, job: Job, done: int, total: int) -> None:
        """So much of it is done."""

    def ended(self, job: Job, error: str) -> None:
        """It is over; `error` is empty where it went well."""


class Crew(ABC):
    """Gives every job to a worker as soon as what it needs is done. A job that fails is reported; the others go on."""

    def __init__(self, setup: Setup, suite: Suite, jobs: Sequence[Job], listener: Listener) -> None:
        self.setup, self.listener, self.outcome = setup, listener, Outcome()
        self.left = [job for job in jobs if not is_done(suite, job, setup.out)]
        done = [job for job in jobs if job not in self.left and job.seed is not None]
        self.outcome.failed = {job.label: why for job in done if (why := refusal(suite, job, setup.out))}
        self.under_way: list[Job] = []

    @property
    @abstractmethod
    def is_full(self) -> bool:
        """Whether no further job can be begun now."""

    @abstractmethod
    def begin(self, job: Job) -> None:
        """Give a job to a worker. Ctrl-C and SIGTERM are held back; a process that it starts has them held back too."""

    @abstractmethod
    def hear(self) -> None:
        """Wait for news of the workers; call `advanced`, `ended` or `was_stopped`."""

    @abstractmethod
    def ask_to_stop(self) -> None:
        """Ask the workers to stop; those that train keep what is finished. `hear` then tells of their ends."""

    @abstractmethod
    def close(self) -> None:
        """Dismiss the workers."""

    def run(self) -> Outcome:
        """Do the jobs. Ctrl-C and SIGTERM end it: the trainings under way keep what they have finished."""
        before = _stop_on_sigterm()
        try:
            while self.left or self.under_way:
                self._give()
                if not self.under_way:
                    break
                self.hear()
        except KeyboardInterrupt:
            self.outcome.stopped, self.left = True, []
            self.ask_to_stop()
            while self.under_way:
                self.hear()
        finally:
            self.close()
            if before is not None:
                signal.signal(signal.SIGTERM, before)
        return self.outcome

    def _give(self) -> None:
        for job in self._ready():
            if self.is_full:
                return
            with _held_back():  # between these lines a job would be under way that no worker does
                self.left.remove(job)
                self.under_way.append(job)
                self.begin(job)
            self.listener.begun(job)

    def _ready(self) -> Iterator[Job]:
        waiting = {job.label for job in (*self.left, *self.under_way)}
        for job in list(self.left):
            if lost := next((need for need in job.needs if need in self.outcome.failed), None):
                self.left.remove(job)
                self._note(job, f"it needs {lost}, which failed")
            elif not waiting & set(job.needs):
                yield job

    def ended(self, job: Job, error: str) -> None:
        """A job is over; `error` is empty where it went well."""
        self.under_way.remove(job)
        self._note(job, error)

    def was_stopped(self, job: Job) -> None:
        """A job was stopped on request."""
        self.under_way.remove(job)
        self.outcome.stopped = True
        self.listener.ended(job, "stopped")

    def _note(self, job: Job, error: str) -> None:
        if error:
            self.outcome.failed[job.label] = error
        else:
            self.outcome.done.append(job.label)
        self.listener.ended(job, error)


@contextmanager
def _held_back() -> Iterator[None]:
    """Within this context Ctrl-C and SIGTERM wait."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _stop_on_sigterm() -> Any:
    """Make SIGTERM do what Ctrl-C does; the handler from before, or None outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return None

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    return signal.signal(signal.SIGTERM, stop)


def attempt(suite: Suite, job: Job, setup: Setup, progress: Callable[[int, int], None] | None) -> tuple[str, str]:
    """Do a job: ("stopped", ""), or ("ended", what went wrong)."""
    try:
        do(suite, job, setup.out, setup.device, progress)
    except (Interrupted, KeyboardInterrupt):
        return "stopped", ""
    except MetaRLError as error:
        return "ended", "; ".join([str(error), *notes_of(error)])
    except ConnectionError:  # nobody listens any more
        raise
    except Exception as error:
        sentence = f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")
        return "ended", "\n".join(["; ".join([sentence, *notes_of(error)]), *traceback.format_exc().splitlines()])
    return "ended", ""
