"""A Ray cluster does the same work to the same bits, also where a worker dies in the midst of a cell."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_cells import Heard, run, suite_file, tensors

import metarl
from metarl.benchmark.crew import Setup
from metarl.benchmark.jobs import Job, plan
from metarl.benchmark.ray_jobs import run_jobs_on_ray
from metarl.benchmark.suite import load_suite


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ray, with a folder of its own whose path is short, because its sockets lie there."""
    pytest.importorskip("ray")
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    monkeypatch.setenv("RAY_TMPDIR", folder)
    yield
    shutil.rmtree(folder, ignore_errors=True)


class Killer(Heard):
    """Kills the worker that trains seed 0, once it has finished two iterations."""

    killed = 0

    def advanced(self, job: Job, done: int, total: int) -> None:
        super().advanced(job, done, total)
        if not self.killed and job.label == "points/maml/seed0" and done >= 2:
            found = subprocess.run(["pgrep", "-f", "ray::_work"], capture_output=True, text=True).stdout.split()
            for pid in found:
                os.kill(int(pid), signal.SIGKILL)
            self.killed += len(found)


@pytest.mark.timeout(300)
def test_a_cluster_survives_the_death_of_a_worker(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    path, heard = suite_file(tmp_path, iterations=60), Killer()
    suite = load_suite(str(path))
    outcome = run_jobs_on_ray(Setup(str(path), tmp_path / "ray"), suite, plan(suite), "local", heard)
    assert (outcome.failed, outcome.stopped) == ({}, False)
    assert sorted(outcome.done) == ["points/maml", "points/maml/seed0", "points/maml/seed1", "points/random"]
    assert heard.killed >= 1
    run(path, tmp_path / "here")
    for seed in (0, 1):
        there, here = tensors(tmp_path / "ray", seed), tensors(tmp_path / "here", seed)
        assert all(torch.equal(value, here[name]) for name, value in there.items())


def test_without_a_cluster_there_is_one_sentence(cluster: None, tmp_path: Path) -> None:
    path = suite_file(tmp_path)
    suite: Any = load_suite(str(path))
    with pytest.raises(metarl.InvalidValueError, match=r"--ray is '127\.0\.0\.1:1', expected the address of a running"):
        run_jobs_on_ray(Setup(str(path), tmp_path / "out"), suite, plan(suite), "127.0.0.1:1", Heard())
