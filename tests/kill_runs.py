"""Kill trainings at random times, resume them to the end, and compare with unbroken ones bit for bit.

    python tests/kill_runs.py --kills 200

Each training is a forked process that gets SIGKILL, SIGTERM or SIGINT, or two of the latter, at a random time or in the
middle of writing a file, is resumed, perhaps killed again, and goes on to the end. Its weights, metrics, validation
and best checkpoint must then be an unbroken training's, and no process may be left. Exit code 1 if they are not.

To kill trainings of another kind, add what makes its agent to `SUBJECTS`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.utils.tensorboard
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

import metarl
from metarl.agent import Agent
from metarl.runs.run import Run
from metarl.runs.train import Interrupted

ITERATIONS, EVERY = 12, 3
VALIDATION = {"eval_every": 2, "eval_tasks": 2}
LIMIT = 120  # seconds, many times what a training needs
SIGNALS = ((signal.SIGKILL,), (signal.SIGTERM,), (signal.SIGINT,), (signal.SIGINT, signal.SIGINT))
SIGNALS += ((signal.SIGTERM, signal.SIGINT), (signal.SIGTERM, signal.SIGKILL))


def bandits() -> Agent:
    """An agent on a torch family."""
    return metarl.make_agent(
        "rl2", "metarl/BernoulliBandit-v0", meta_batch_size=8, hidden=4, trial_episodes=2, epochs=1, minibatches=1
    )


class HangingPole(CartPoleEnv):
    """CartPole that hangs in a step where it is told to."""

    left: ClassVar[int] = -1  # steps of this process until one hangs; negative: none does

    def step(self, action: Any) -> Any:
        """One step."""
        HangingPole.left -= 1
        if HangingPole.left == 0:
            time.sleep(LIMIT)
        return super().step(action)


def poles(id: str = "kill/Pole-v0", env: Any = "CartPole-v1") -> Agent:
    """An agent on Gymnasium environments in worker processes."""
    if id not in metarl.families.registry.families:
        space = {"length": metarl.Uniform(0.25, 1.5)}
        metarl.register_family(id, env=env, task_space=space, apply="attrs", horizon=4, stepping="async")
    return metarl.make_agent("reptile", id, meta_batch_size=2, episodes=1, inner_steps=1, hidden=(4,))


def hanging() -> Agent:
    """The same where an environment hangs now and then, unless the training is to be finished."""
    return poles("kill/HangingPole-v0", HangingPole)


SUBJECTS: dict[str, Callable[[], Agent]] = {"torch": bandits, "workers": poles, "hanging": hanging}


def outcome(run: Path) -> tuple[list[bytes], list[Any]]:
    """The bytes of a run's weights and of its validation, and its metrics without times."""
    files = [json.loads((run / f"{name}.json").read_text())["file"] for name in ("checkpoint", "best")]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    data = [(run / name).read_bytes() for name in (*files, "best.json", "validation.jsonl")]
    return data, [{k: v for k, v in line.items() if "seconds" not in k} for line in lines]


def train(make: Callable[[], Agent], path: Path) -> None:
    """Begin a run, or go on with it."""
    if (path / "config.json").exists():
        run = Run.open(path)
        with run.lock():
            run.train(*run.load_agent())
    else:
        agent = make()
        Run.create(path, agent, ITERATIONS, EVERY, **VALIDATION).train(agent)


def start(make: Callable[[], Agent], path: Path, hits: Mapping[int, int], left: int = -1) -> int:
    """Train in a forked process; its number.

    Args:
        make: makes the agent.
        path: of the run.
        hits: the process sends itself these signals, by the number of the call that writes or renames a file.
        left: steps until an environment that may hang does so; negative: never.
    """
    child = os.fork()
    if child:
        return child
    code = 2
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        _count_writes(dict(hits))
        HangingPole.left = left
        train(make, path)
        code = 0
    except (Interrupted, KeyboardInterrupt):
        code = 1
    except BaseException:
        (path.parent / f"{path.name}.error").write_text(traceback.format_exc())
    finally:
        os._exit(code)
    raise AssertionError


def _count_writes(hits: dict[int, int]) -> None:
    """Send this process a signal at certain calls of `os.fsync` and `os.replace`."""
    number = 0

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any) -> Any:
            nonlocal number
            number += 1
            if number in hits:
                os.kill(os.getpid(), hits.pop(number))
            return call(*arguments)

        return counting

    os.fsync, os.replace = counted(os.fsync), counted(os.replace)


def wait(child: int) -> int:
    """The exit code of a training; 3 if it had to be killed in the end, or left processes behind."""
    end = time.monotonic() + LIMIT
    while not (found := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return 3
        time.sleep(0.002)
    while time.monotonic() < end:  # workers of a killed training end by themselves
        try:
            os.killpg(child, 0)
        except ProcessLookupError:
            return os.waitstatus_to_exitcode(found[1])
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    return 3


def kill_once(make: Callable[[], Agent], path: Path, draw: random.Random, seconds: float) -> int:
    """Train and be killed, unless the training is faster; the exit code."""
    hangs = make is hanging  # then one signal is not enough, and a file may not be written any more
    chosen = draw.choice([signals for signals in SIGNALS if signals[-1] is signal.SIGKILL or len(set(signals)) > hangs])
    if not hangs and draw.random() < 0.5:
        first = draw.randrange(1, 16)
        child = start(make, path, {first + i: number for i, number in enumerate(chosen)})
    else:
        child = start(make, path, {}, draw.randrange(60) if hangs else -1)
        time.sleep(draw.uniform(0.0, seconds))
        for number in chosen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)
            time.sleep(draw.choice((0.0, 0.001, 0.02)))
    return wait(child)


def kill(kills: int, seed: int = 0, folder: Path | None = None) -> dict[str, int]:
    """Kill trainings; how many ended equal, unequal, in an error, or had to be stopped or left processes behind."""
    torch.set_num_threads(1)
    draw, count = random.Random(seed), dict.fromkeys(("killed", "equal", "unequal", "error", "left"), 0)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        whole, seconds = {}, {}
        for subject, make in SUBJECTS.items():
            make()  # what it imports and registers is there in every process
            began, path = time.monotonic(), Path(name) / subject
            assert wait(start(make, path, {})) == 0, (Path(name) / f"{subject}.error").read_text()
            whole[subject], seconds[subject] = outcome(path), time.monotonic() - began
        trial = 0
        while count["killed"] < kills:
            subject, trial = list(SUBJECTS)[trial % len(SUBJECTS)], trial + 1
            path, codes = Path(name) / f"{subject}-{trial}", []
            while not codes or (codes[-1] not in (0, 2, 3) and draw.random() < 0.4):
                codes.append(kill_once(SUBJECTS[subject], path, draw, seconds[subject]))
            if codes[-1] not in (0, 2, 3):
                codes.append(wait(start(SUBJECTS[subject], path, {})))
            count["killed"] += sum(code not in (0, 2, 3) for code in codes)
            how = {0: "equal", 2: "error"}.get(codes[-1], "left")
            if how == "equal" and outcome(path) != whole[subject]:
                how = "unequal"
            count[how] += 1
            if how != "equal":
                error = path.with_name(f"{path.name}.error")
                print(f"{how}: {subject}, exit codes {codes}\n{error.read_text() if error.exists() else ''}")
    return count


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="how many (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of times and signals (default: 0)")
    options = parser.parse_args()
    counts = kill(options.kills, options.seed)
    print(f"{counts}")
    sys.exit(int(bool(counts["unequal"] or counts["error"] or counts["left"])))
