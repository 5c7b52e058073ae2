"""A Ray cluster of one machine does the same work to the same bits, also where a worker dies in the midst of a cell."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from test_cells import Heard, run, tensors

import metarl
from metarl.benchmark import ray_jobs
from metarl.benchmark.crew import Setup
from metarl.benchmark.jobs import plan
from metarl.benchmark.ray_jobs import run_jobs_on_ray
from metarl.benchmark.suite import load_suite
from metarl.cli.main import main

pytest.importorskip("ray", reason="needs the extra ray (pip install -e '.[ray]')")

FILE = """
import os
import signal
from pathlib import Path

from metarl.benchmark.suite import Entry, Protocol, Study, Suite
from metarl.runs import recording

SMALL = {{"hidden": (4,), "meta_batch_size": 2, "episodes": 2, "eval_steps": 100}}
suite = Suite("toy", {{"points": Study("metarl/PointNavigation-v0", {{
    "maml": Entry("maml", SMALL, iterations=4),
}}, Protocol(k=1, tasks=2, episodes=2), seeds=(0,), checkpoint_every=1)}})

save, died = recording.save_checkpoint, Path({died!r})


def save_and_die(path, agent, iteration, *arguments, **options):
    save(path, agent, iteration, *arguments, **options)
    if iteration == 2 and not died.exists():
        died.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)


if os.getpid() != {driver}:  # a worker, once
    recording.save_checkpoint = save_and_die
"""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a cluster of this test needs: a short path for its sockets, and workers of the usual priority.

    By default Ray gives its workers the niceness 15: beside two busy processes, two cores then need minutes until a new
    worker has imported torch.
    """
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    monkeypatch.setenv("RAY_TMPDIR", folder)
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    yield
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(600)
def test_a_cluster_survives_the_death_of_a_worker(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_jobs, "_WAIT", 0.1)
    path, died, heard = tmp_path / "suite_on_ray.py", tmp_path / "died", Heard()
    path.write_text(FILE.format(died=str(died), driver=os.getpid()))
    suite = load_suite(str(path))
    outcome = run_jobs_on_ray(Setup(str(path), tmp_path / "ray"), suite, plan(suite), "local", heard)
    assert (outcome.failed, outcome.stopped) == ({}, False)
    assert outcome.done == ["points/maml/seed0", "points/maml"]
    assert died.exists()
    assert ("points/maml/seed0", 2, 4) in heard.advances  # seen while the next worker started
    run(path, tmp_path / "here", workers=1)
    there, here = (tensors(tmp_path / out, 0) for out in ("ray", "here"))
    assert all(torch.equal(value, here[name]) for name, value in there.items())


@pytest.fixture
def head(cluster: None, tmp_path: Path) -> Iterator[str]:
    """The address of a cluster that `ray start --head` started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false", "--block"]
    words += [f"--temp-dir={os.environ['RAY_TMPDIR']}", "--node-ip-address=127.0.0.1"]
    command = [str(Path(sys.executable).with_name("ray")), "start", *words]
    with (tmp_path / "ray.log").open("w") as log:
        started = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        until = time.monotonic() + 120
        while "Ray runtime started" not in (tmp_path / "ray.log").read_text():
            going = started.poll() is None and time.monotonic() < until
            assert going, (tmp_path / "ray.log").read_text()
            time.sleep(0.5)
        yield f"127.0.0.1:{port}"
    finally:
        started.terminate()  # with --block it stops its cluster
        started.wait(60)


@pytest.mark.timeout(900)
def test_the_suite_of_the_tutorial_runs_on_a_cluster_of_ray_start(
    head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "tutorials" / "benchmark.md").read_text()
    assert "    ray start --head\n    metarl benchmark my_suite.py --ray auto\n" in page
    monkeypatch.chdir(tmp_path)
    Path("my_suite.py").write_text(page.partition("```python\n")[2].partition("```")[0])
    main(["benchmark", "my_suite.py", "--ray", head])
    assert "6/6 cells" in capsys.readouterr().out
    main(["benchmark", "my_suite.py", "--verify"])
    assert "3 rows: 3 equal" in capsys.readouterr().out


def test_without_a_cluster_there_is_one_sentence(cluster: None, tmp_path: Path) -> None:
    path = tmp_path / "suite_on_ray.py"
    path.write_text(FILE.format(died="", driver=os.getpid()))
    suite = load_suite(str(path))
    with pytest.raises(metarl.InvalidValueError, match=r"--ray is '127\.0\.0\.1:1', expected the address of a running"):
        run_jobs_on_ray(Setup(str(path), tmp_path / "out"), suite, plan(suite), "127.0.0.1:1", Heard())
