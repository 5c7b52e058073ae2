"""Jobs side by side on this machine, each in a process of its own with one thread."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from metarl.benchmark.crew import STOPS, Crew, Listener, Outcome, Setup, attempt
from metarl.benchmark.jobs import Job
from metarl.benchmark.suite import Suite, load_suite
from metarl.named import load_source


def run_jobs(setup: Setup, suite: Suite, jobs: Sequence[Job], workers: int, listener: Listener) -> Outcome:
    """Do the jobs that are not done yet. A job that fails is reported and the others go on.

    Ctrl-C and SIGTERM end it: the trainings under way keep what they have finished.

    Args:
        setup: what each process must know.
        suite: the suite that `setup` names.
        jobs: in an order in which a job stands behind those that it needs.
        workers: processes.
        listener: hears of the jobs.
    """
    return _Processes(setup, suite, jobs, workers, listener).run()


class _Processes(Crew):
    """Processes of this machine."""

    def __init__(self, setup: Setup, suite: Suite, jobs: Sequence[Job], workers: int, listener: Listener) -> None:
        super().__init__(setup, suite, jobs, listener)
        self.most = max(1, min(workers, len(self.left)))
        self.busy: dict[Connection, tuple[Any, Job]] = {}  # connection to its process and what it does
        self.idle: list[tuple[Connection, Any]] = []
        resource_tracker.ensure_running()  # starting it would let Ctrl-C through to the first process

    @property
    def is_full(self) -> bool:
        return len(self.busy) == self.most

    def begin(self, job: Job) -> None:
        connection, process = self.idle.pop() if self.idle else _start(self.setup)
        connection.send(job)
        self.busy[connection] = process, job

    def hear(self) -> None:
        for connection in wait(list(self.busy)):
            assert isinstance(connection, Connection)
            process, job = self.busy[connection]
            try:
                news = connection.recv()
            except (EOFError, ConnectionError):
                process.join()
                del self.busy[connection]
                if self.outcome.stopped and process.exitcode == 0:  # asked to stop before it had begun
                    self.was_stopped(job)
                else:
                    self.ended(job, f"its process ended ({_ending(process.exitcode)})")
                continue
            if news[0] == "advanced":
                self.listener.advanced(job, *news[1:])
                continue
            del self.busy[connection]
            self.idle.append((connection, process))
            if news[0] == "stopped":
                self.was_stopped(job)
            else:
                self.ended(job, news[1])

    def ask_to_stop(self) -> None:
        for process, _ in self.busy.values():
            os.kill(process.pid, signal.SIGINT)

    def close(self) -> None:
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
    """Do jobs until the other side closes the connection.

    The process begins with Ctrl-C and SIGTERM held back, so that neither interrupts its imports.
    """
    os.setpgrp()  # Ctrl-C reaches the parent alone, which passes it on
    signal.signal(signal.SIGINT, _interrupt_once)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        torch.set_num_threads(1)
        for source in setup.load:
            load_source(source)
        suite = load_suite(setup.suite)
        while True:
            job = connection.recv()
            connection.send(attempt(suite, job, setup, lambda done, total: connection.send(("advanced", done, total))))
    except (EOFError, ConnectionError, KeyboardInterrupt):
        return


def _interrupt_once(number: int, frame: object) -> None:
    """Interrupt the process. The next signals do nothing: they would interrupt its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt
