"""Jobs on a Ray cluster: `metarl benchmark SUITE --ray ADDRESS`, with a folder that all of its machines share.

Start one with `ray start --head`, and join it from other machines with `ray start --address=...`. Needs
`pip install -e '.[ray]'`. Tested on clusters of one machine.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from metarl.benchmark.crew import Crew, Listener, Outcome, Setup, attempt
from metarl.benchmark.jobs import Job, done_part
from metarl.benchmark.suite import Suite, load_suite
from metarl.errors import InvalidValueError, require_extra
from metarl.named import load_source

_WAIT = 1.0  # seconds between two looks at the jobs under way
_RETRIES = 3  # a job whose worker died begins again, from its last checkpoint


def run_jobs_on_ray(setup: Setup, suite: Suite, jobs: Sequence[Job], address: str, listener: Listener) -> Outcome:
    """Do the jobs that are not done yet on a Ray cluster, one processor core for each.

    Args:
        setup: what each worker must know. Its folder, suite and files must have the same paths on all machines.
        suite: the suite that `setup` names.
        jobs: in an order in which a job stands behind those that it needs.
        address: of the cluster: HOST:PORT, "auto", or "local" for a new one on this machine.
        listener: hears of the jobs.

    Raises:
        InvalidValueError: Ray is not installed, or there is no cluster at the address.
    """
    ray: Any = require_extra("metarl benchmark --ray", "ray", "ray")
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, RuntimeError, ValueError) as error:
        expected = "the address of a running Ray cluster (ray start --head starts one)"
        raise InvalidValueError("--ray", address, expected) from error
    try:
        return _Cluster(ray, _anywhere(setup), suite, jobs, listener).run()
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError if nobody listens at HOST:PORT, because Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=5.0).close()


def _anywhere(setup: Setup) -> Setup:
    """The setup with absolute paths, because workers run in folders of their own."""
    suite = str(Path(setup.suite).resolve()) if setup.suite.endswith(".py") else setup.suite
    load = tuple(str(Path(source).resolve()) if source.endswith(".py") else source for source in setup.load)
    return replace(setup, suite=suite, out=setup.out.resolve(), load=load)


class _Cluster(Crew):
    """Workers of a Ray cluster."""

    def __init__(self, ray: Any, setup: Setup, suite: Suite, jobs: Sequence[Job], listener: Listener) -> None:
        super().__init__(setup, suite, jobs, listener)
        self.ray, self.suite = ray, suite
        self.task = ray.remote(num_cpus=1, max_retries=_RETRIES)(_work)
        self.busy: dict[Any, Job] = {}  # what a worker will return: its job
        self.heard: dict[str, int] = {}

    @property
    def is_full(self) -> bool:
        return False  # Ray keeps jobs for which no core is free

    def begin(self, job: Job) -> None:
        self.busy[self.task.remote(self.setup, job)] = job

    def hear(self) -> None:
        ready, _ = self.ray.wait(list(self.busy), timeout=_WAIT)
        for reference in ready:
            job = self.busy.pop(reference)
            try:
                what, error = self.ray.get(reference)
            except self.ray.exceptions.TaskCancelledError:
                what, error = "stopped", ""
            except self.ray.exceptions.RayError as lost:
                what, error = "ended", f"its worker was lost {_RETRIES + 1} times ({type(lost).__name__})"
            if what == "stopped":
                self.was_stopped(job)
            else:
                self.ended(job, error)
        if not ready:
            self._look()

    def _look(self) -> None:
        """What the run directories say of the trainings under way."""
        for job in self.busy.values():
            done, total = done_part(self.suite, job, self.setup.out)
            if job.seed is not None and done > self.heard.get(job.label, 0):
                self.heard[job.label] = done
                self.listener.advanced(job, done, total)

    def ask_to_stop(self) -> None:
        for reference in self.busy:
            self.ray.cancel(reference, force=False)

    def close(self) -> None:
        """Nothing: the connection to the cluster ends when `run_jobs_on_ray` does."""


def _work(setup: Setup, job: Job) -> tuple[str, str]:
    """Do a job on a worker of the cluster."""
    import torch

    torch.set_num_threads(1)
    for source in setup.load:
        load_source(source)
    return attempt(load_suite(setup.suite), job, setup, None)
