"""End trainings whose environments hang, and see that nothing of them is left and that they resume to the same bits.

    python tests/hang_workers.py

Every training is a forked process in a session of its own. It is ended by SIGTERM, to it alone or to its workers too,
by one Ctrl-C, by two, and by SIGKILL, while its environments sleep, loop, or hang in C; with forked workers, spawned
ones, and without any.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch
import torch.utils.tensorboard
from faulty import hanging_agent

import metarl.engine.workers
from metarl.runs.run import Run
from metarl.runs.train import Interrupted

LAST, HANG_AFTER = 4, 2  # iterations in all, and before the environments hang
LIMIT = 60.0  # seconds, many times what anything here needs
ENDINGS = {
    "SIGTERM": (signal.SIGTERM,),
    "to all": (signal.SIGTERM,),
    "Ctrl-C": (signal.SIGINT,),
    "two Ctrl-C": (signal.SIGINT, signal.SIGINT),
    "SIGKILL": (signal.SIGKILL,),
}


def in_session(session):
    """The processes of a session that are no zombies."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, number = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            found += [int(entry.name)] if int(number) == session and state != "Z" else []
    return found


def until(condition):
    """Wait for it; the seconds that it took, or None."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > LIMIT:
            return None
        time.sleep(0.01)
    return time.monotonic() - began


def begin(path, workers="fork", kind="sleep", hangs=True):
    """Train in a forked process, or go on with a run; its number, which is its session's too."""
    child = os.fork()
    if child:
        return child
    code = 2
    try:
        os.setsid()
        os.dup2(os.open(path.with_suffix(".err"), os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), 2)
        torch.set_num_threads(1)
        trigger = path.with_name(f"{path.name}-trigger") / "now"
        trigger.parent.mkdir(exist_ok=True)
        os.environ |= {"FAULTY_TRIGGER": str(trigger), "FAULTY_KIND": kind}
        trigger.unlink(missing_ok=True)
        metarl.engine.workers.worker_count = lambda family, n: 1 if workers == "none" else 2
        if workers == "spawn":
            metarl.engine.workers._can_fork = lambda: False
            os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])

        def progress(done, total, metrics):
            if hangs and done == HANG_AFTER:
                trigger.touch()

        if (path / "config.json").exists():
            hanging_agent()
            run = Run.open(path)
            run.train(*run.load_agent(), progress)
        else:
            agent = hanging_agent()
            Run.create(path, agent, LAST, 100).train(agent, 0, progress)
        code = 0
    except (Interrupted, KeyboardInterrupt) as stop:
        path.with_suffix(".stop").write_text(str(stop))
        code = 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def outcome(path):
    """The bytes of a run's weights, and its returns."""
    file = json.loads((path / "checkpoint.json").read_text())["file"]
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return (path / file).read_bytes(), [line["return_0"] for line in lines]


def end(path, ending, workers="fork", kind="sleep"):
    """Train until the environments hang, send the signals; seconds until nothing is left, and the exit code."""
    child = begin(path, workers, kind)
    folder = path.with_name(f"{path.name}-trigger")
    expected = 1 if workers == "none" else 2
    took = until(lambda: len(list(folder.glob("*.hangs"))) >= expected)
    assert took is not None, "nothing hangs"
    time.sleep(0.1)
    for number in ENDINGS[ending]:
        (os.killpg if ending == "to all" else os.kill)(child, number)
        time.sleep(0.2)
    left = until(lambda: not in_session(child))
    for process in in_session(child):
        os.kill(process, signal.SIGKILL)
    return left, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def finish(path, workers="fork"):
    """Go on to the end; what came out."""
    child = begin(path, workers, hangs=False)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == 0, path.with_suffix(".err").read_text()
    assert not in_session(child)
    return outcome(path)


def main():
    """All endings of all hangs."""
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        whole = finish(Path(name) / "whole")
        for workers in ("fork", "spawn", "none"):
            for kind in ("sleep", "loop") if workers == "none" else ("sleep", "loop", "c"):
                for ending in ENDINGS:
                    path = Path(name) / f"{workers}-{kind}-{ending.replace(' ', '')}"
                    seconds, code = end(path, ending, workers, kind)
                    equal = finish(path) == whole
                    wrong += not (equal and seconds is not None and seconds < 5)
                    shown = "left behind" if seconds is None else f"{seconds:.1f} s"
                    print(f"{workers:6}{kind:6}{ending:12}{shown}, code {code}, resumed equal: {equal}", flush=True)
    return wrong


if __name__ == "__main__":
    sys.exit(int(bool(main())))
