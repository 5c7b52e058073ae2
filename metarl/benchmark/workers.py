"""Jobs side by side, each in a process of its own with one thread."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from metarl.benchmark.jobs import Job, do, is_done
from metarl.benchmark.suite import Suite, load_suite
from metarl.errors import MetaRLError
from metarl.named import load_source
from metarl.runs.train import Interrupted


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


def run_jobs(setup: Setup, suite: Suite, jobs: Sequence[Job], workers: int, listener: Listener) -> Outcome:
    """Do the jobs that are not done yet. A job that fails is reported and the others go on.

    Ctrl-C ends it: the trainings under way keep what they have finished.

    Args:
        setup: what each process must know.
        suite: the suite that `setup` names.
        jobs: in an order in which a job stands behind those that it needs.
        workers: processes.
        listener: hears of the jobs.
    """
    return _Crew(setup, suite, jobs, workers, listener).run()


class _Crew:
    """Processes, and the jobs that are left for them."""

    def __init__(self, setup: Setup, suite: Suite, jobs: Sequence[Job], workers: int, listener: Listener) -> None:
        self.setup, self.listener, self.outcome = setup, listener, Outcome()
        self.left = [job for job in jobs if not is_done(suite, job, setup.out)]
        self.most = max(1, min(workers, len(self.left)))
        self.busy: dict[Connection, tuple[Any, Job]] = {}  # connection to its process and what it does
        self.idle: list[tuple[Connection, Any]] = []

    def run(self) -> Outcome:
        try:
            while self.left or self.busy:
                self._give()
                if not self.busy:
                    break
                self._hear()
        except KeyboardInterrupt:
            self._stop()
        finally:
            self._close()
        return self.outcome

    def _give(self) -> None:
        """Give ready jobs to processes, as long as there are both."""
        for job in self._ready():
            if len(self.busy) == self.most:
                return
            self.left.remove(job)
            connection, process = self.idle.pop() if self.idle else _start(self.setup)
            connection.send(job)
            self.busy[connection] = process, job
            self.listener.begun(job)

    def _ready(self) -> Iterator[Job]:
        waiting = {job.label for job in self.left} | {job.label for _, job in self.busy.values()}
        for job in list(self.left):
            if lost := next((need for need in job.needs if need in self.outcome.failed), None):
                self.left.remove(job)
                self._end(job, f"it needs {lost}, which failed")
            elif not waiting & set(job.needs):
                yield job

    def _hear(self) -> None:
        """Wait for news of the processes."""
        for connection in wait(list(self.busy)):
            assert isinstance(connection, Connection)
            process, job = self.busy[connection]
            try:
                news = connection.recv()
            except (EOFError, ConnectionError):
                process.join()
                del self.busy[connection]
                self._end(job, f"its process ended ({_ending(process.exitcode)})")
                continue
            if news[0] == "advanced":
                self.listener.advanced(job, *news[1:])
                continue
            del self.busy[connection]
            self.idle.append((connection, process))
            if news[0] == "stopped":
                self.outcome.stopped = True
                self.listener.ended(job, "stopped")
            else:
                self._end(job, news[1])

    def _end(self, job: Job, error: str) -> None:
        if error:
            self.outcome.failed[job.label] = error
        else:
            self.outcome.done.append(job.label)
        self.listener.ended(job, error)

    def _stop(self) -> None:
        """Ask every process to stop, and wait until it has."""
        self.outcome.stopped, self.left = True, []
        for process, _ in self.busy.values():
            os.kill(process.pid, signal.SIGINT)
        while self.busy:
            self._hear()

    def _close(self) -> None:
        for connection, process in [*self.idle, *((c, p) for c, (p, _) in self.busy.items())]:
            connection.close()
            process.join(10.0)
            if process.is_alive():
                process.terminate()


def _ending(code: int | None) -> str:
    return f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"


def _start(setup: Setup) -> tuple[Connection, Any]:
    """A process that does one job after the other, and the connection to it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, setup), name="metarl benchmark")
    process.start()
    theirs.close()
    return ours, process


def _serve(connection: Connection, setup: Setup) -> None:
    """Do jobs until the other side closes the connection."""
    os.setpgrp()  # Ctrl-C reaches the parent alone, which passes it on
    import torch

    torch.set_num_threads(1)
    for source in setup.load:
        load_source(source)
    suite = load_suite(setup.suite)
    try:
        while True:
            job = connection.recv()
            connection.send(_attempt(suite, job, setup, lambda done, total: connection.send(("advanced", done, total))))
    except (EOFError, ConnectionError, KeyboardInterrupt):
        return


def _attempt(suite: Suite, job: Job, setup: Setup, progress: Callable[[int, int], None]) -> tuple[str, ...]:
    """Do a job; what there is to say of its end."""
    try:
        do(suite, job, setup.out, setup.device, progress)
    except (Interrupted, KeyboardInterrupt):
        return ("stopped",)
    except MetaRLError as error:
        return "ended", str(error)
    except ConnectionError:  # nobody listens any more
        raise
    except Exception:
        return "ended", traceback.format_exc()
    return "ended", ""
