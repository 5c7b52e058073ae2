"""Runs: the training loop, and directories that hold all a run needs to be resumed to the same bits.

    RUN/config.json        agent, family, hyperparameters, seed, versions, git revision; written first, and changed only
                           when a run is extended
    RUN/metrics.jsonl      one line per iteration
    RUN/tensorboard/       the same for TensorBoard
    RUN/checkpoint.safetensors, checkpoint.json    the last checkpoint; loading one executes nothing
    RUN/results/           what evaluations of the run found

Every draw is keyed by the iteration, so a checkpoint is the agent's tensors and a number.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import signal
import subprocess
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from metarl.agent import Agent, make_agent
from metarl.errors import InvalidValueError, verbatim
from metarl.registry import agent_class, agents, base_id, families, make_family
from metarl.rollout import SlotPool, Trials
from metarl.tasks import Tasks, write_atomic

FORMAT = "metarl-run-1"
Progress = Callable[[int, int, dict[str, float]], None]


class Interrupted(Exception):
    """Training was asked to stop; the checkpoint holds what was finished."""

    def __init__(self, run: Path | None, iteration: int) -> None:
        self.run, self.iteration = run, iteration
        super().__init__(f"stopped after iteration {iteration}")


def train(
    agent: Agent,
    iterations: int,
    *,
    start: int = 0,
    on_iteration: Callable[[int, dict[str, float]], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> int:
    """Meta-train in memory.

    Args:
        agent: who learns.
        iterations: the last iteration is `iterations` - 1.
        start: the first one.
        on_iteration: called with each iteration's number and metrics.
        should_stop: asked after each iteration.

    Returns:
        how many iterations the agent has behind it.
    """
    if not agent.learns:
        raise InvalidValueError("agent", agent.name, "an agent that learns (this one can be evaluated as it is)")
    if iterations < 0:
        raise InvalidValueError("iterations", iterations, "0 or more")
    pool = SlotPool(agent.family, agent.device)
    try:
        for iteration, tasks in enumerate(_train_tasks(agent, start, iterations), start):
            metrics = agent.train_step(Trials(pool, tasks, seed=agent.seed, purpose="train", iteration=iteration))
            if on_iteration is not None:
                on_iteration(iteration, metrics)
            if should_stop():
                return iteration + 1
    finally:
        pool.close()
    return max(start, iterations)


def _train_tasks(agent: Agent, start: int, iterations: int) -> Iterator[Tasks]:
    """The tasks of each iteration, drawn by the host; while a GPU trains, those of the next one."""

    def draw(iteration: int) -> Tasks:
        size = agent.meta_batch_size
        return agent.family.tasks("train", size, agent.seed, iteration * size)

    if agent.device.type == "cpu":
        yield from map(draw, range(start, iterations))
        return
    with ThreadPoolExecutor(1) as ahead:
        following = ahead.submit(draw, start) if start < iterations else None
        for iteration in range(start, iterations):
            assert following is not None
            tasks = following.result()
            if iteration + 1 < iterations:
                following = ahead.submit(draw, iteration + 1)
            yield tasks


class Run:
    """A run directory.

    Args:
        path: the directory.
        config: what `config.json` holds.
    """

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path, self.config = path, config

    @classmethod
    def create(
        cls, path: str | Path, agent: Agent, iterations: int, checkpoint_every: int = 10, load: Sequence[str] = ()
    ) -> Run:
        """Make the directory and write `config.json`; refuses a directory that holds a run already.

        Args:
            path: the directory.
            agent: who will be trained.
            iterations: meta-updates.
            checkpoint_every: iterations between checkpoints.
            load: what had to be imported to register the family and the agent; kept for whoever opens the run, which
                imports none of it.
        """
        path = Path(path)
        if (path / "config.json").exists():
            raise InvalidValueError("run directory", str(path), "a new one (or resume it: metarl train --resume)")
        if base_id(agent.family.id) not in families:
            raise InvalidValueError("family of the run", agent.family.id, "a registered one, to open the run again")
        if iterations < 0:
            raise InvalidValueError("iterations", iterations, "0 or more")
        agent.check_iterations(iterations)
        if checkpoint_every < 1:
            raise InvalidValueError("checkpoint_every", checkpoint_every, "at least 1 iteration")
        config = {
            "format": FORMAT,
            "agent": agent.name,
            "family": agent.family.id,
            "config": dataclasses.asdict(agent.config),
            "seed": agent.seed,
            "device": agent.device.type,
            "iterations": iterations,
            "checkpoint_every": checkpoint_every,
            "versions": versions(),
            "git": git_revision(),
            "threads": torch.get_num_threads(),
        }
        if load:
            config["load"] = list(load)
        write_atomic(path / "config.json", (json.dumps(config, indent=1) + "\n").encode())
        return cls(path, config)

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """An existing run."""
        path = Path(path)
        try:
            config = json.loads((path / "config.json").read_text())
        except (OSError, ValueError) as error:
            raise InvalidValueError("run", str(path), f"a run directory with a config.json ({error})") from error
        if not isinstance(config, dict) or config.get("format") != FORMAT:
            found = config.get("format") if isinstance(config, dict) else type(config).__name__
            raise InvalidValueError(f"format of {path / 'config.json'}", found, repr(FORMAT))
        return cls(path, config)

    def make_agent(self, device: str | None = None) -> Agent:
        """The agent as it was before the first iteration; hyperparameters newer than the run have their defaults."""
        self._check_registered()
        cls = agent_class(self.config["agent"])
        known = {f.name: f for f in dataclasses.fields(cls.Config)}
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in self.config["config"].items()}
        if wrong := sorted(set(values) - set(known)):
            raise InvalidValueError(f"hyperparameters of {self.path}", wrong, f"those of this version's {cls.__name__}")
        family = make_family(self.config["family"])
        device = device or self.config["device"]
        return make_agent(
            self.config["agent"], family, seed=self.config["seed"], device=device, config=cls.Config(**values)
        )

    def _check_registered(self) -> None:
        """Say what to import where that is known."""
        family = base_id(self.config["family"])
        known = {"family": family in families, "agent": self.config["agent"] in agents}
        sources = self.config.get("load", [])
        for field in [field for field, registered in known.items() if sources and not registered]:
            again = " ".join(f"--load {source}" for source in sources)
            expected = f"a registered one: add {again}, as in training"
            raise InvalidValueError(f"{field} of {self.path}", self.config[field], expected)

    def set_iterations(self, iterations: int, agent: Agent, done: int) -> None:
        """Let the run go on to `iterations`, as if it had been begun with that many.

        Args:
            iterations: meta-updates in all.
            agent: the run's, as `load_agent` gives it.
            done: how many it has behind it.

        Raises:
            InvalidValueError: fewer than were made already, or more than the agent can make.
        """
        if iterations < done:
            raise InvalidValueError("iterations", iterations, f"at least {done}, which are done already")
        agent.check_iterations(iterations)
        if iterations != self.config["iterations"]:
            before = {k: self.config[k] for k in ("iterations", "versions", "git")}
            now = {"iterations": iterations, "versions": versions(), "git": git_revision()}
            self.config = {**self.config, **now, "before": [*self.config.get("before", []), before]}
            write_atomic(self.path / "config.json", (json.dumps(self.config, indent=1) + "\n").encode())

    def load_agent(self, device: str | None = None) -> tuple[Agent, int]:
        """The agent of the last checkpoint, and how many iterations it has behind it (0 without a checkpoint)."""
        agent = self.make_agent(device)
        if self.config["threads"] != torch.get_num_threads() and agent.device.type == "cpu":
            then, now = self.config["threads"], torch.get_num_threads()
            warnings.warn(
                f"{self.path} began with {then} threads, these are {now}: sums may round otherwise", stacklevel=2
            )
        if not (self.path / "checkpoint.json").exists():
            return agent, 0
        return agent, load_checkpoint(self.path / "checkpoint", agent)

    def train(self, agent: Agent, start: int = 0, progress: Progress | None = None) -> int:
        """Train to the run's number of iterations, with metrics and checkpoints.

        An interrupt (Ctrl-C) finishes the iteration, writes a checkpoint and raises `Interrupted`; a second one stops
        at once, and the last checkpoint stands.
        """
        total, every = self.config["iterations"], self.config["checkpoint_every"]
        last_saved = start
        with _Metrics(self.path, start) as log, _stop_requests() as asked:

            def on_iteration(iteration: int, metrics: dict[str, float]) -> None:
                nonlocal last_saved
                log.write(iteration, metrics)
                if (iteration + 1) % every == 0:
                    save_checkpoint(self.path / "checkpoint", agent, iteration + 1)
                    last_saved = iteration + 1
                if progress is not None:
                    progress(iteration + 1, total, metrics)

            if start == 0:
                save_checkpoint(self.path / "checkpoint", agent, 0)
            try:
                done = train(agent, total, start=start, on_iteration=on_iteration, should_stop=asked)
            except KeyboardInterrupt:
                raise Interrupted(self.path, last_saved) from None
            if done != last_saved:
                save_checkpoint(self.path / "checkpoint", agent, done)
        if done < total:
            raise Interrupted(self.path, done)
        return done


def save_checkpoint(path: Path, agent: Agent, iteration: int) -> None:
    """Write `path.safetensors`, then `path.json`, which names the first by its hash: a torn pair is noticed."""
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in agent.tensors().items()}
    data = safetensors.torch.save(tensors)
    head = {"format": FORMAT, "agent": agent.name, "family": agent.family.id, "iteration": iteration}
    name = f"{path.name}-{iteration}.safetensors"
    write_atomic(path.with_name(name), data)
    before = list(path.parent.glob(f"{path.name}-*.safetensors"))
    write_atomic(
        path.with_suffix(".json"), (json.dumps({**head, "file": name, "sha256": _digest(data)}) + "\n").encode()
    )
    for old in before:
        if old.name != name:
            old.unlink(missing_ok=True)


def load_checkpoint(path: Path, agent: Agent) -> int:
    """Load `path.json` and the tensors it names into `agent`; the number of iterations behind it.

    Raises:
        InvalidValueError: the files are torn, corrupt, of another agent or family, or do not fit.
    """
    head_file = path.with_suffix(".json")
    try:
        head = json.loads(head_file.read_text())
        if not isinstance(head, dict) or head.get("format") != FORMAT:
            raise ValueError(f"format is not {FORMAT!r}")
        file = path.with_name(Path(head["file"]).name)
        data = file.read_bytes()
        if _digest(data) != head["sha256"]:
            raise ValueError(f"{file.name} does not match its hash")
        tensors = safetensors.torch.load(data)
        iteration = int(head["iteration"])
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise InvalidValueError("checkpoint", str(head_file), f"a whole metarl checkpoint ({error})") from error
    for name, value in (("agent", agent.name), ("family", agent.family.id)):
        if head.get(name) != value:
            raise InvalidValueError(f"{name} of checkpoint {head_file}", head.get(name), repr(value))
    expected = agent.tensors()
    if set(tensors) != set(expected):
        wrong = sorted(set(tensors) ^ set(expected))[0]
        where = "missing" if wrong in expected else "unknown"
        raise InvalidValueError(
            f"tensor {wrong!r} of checkpoint {head_file}", verbatim(where), f"the tensors of {agent.name}"
        )
    for name, want in expected.items():
        if tensors[name].shape != want.shape or tensors[name].dtype != want.dtype:
            found = (tuple(tensors[name].shape), tensors[name].dtype)
            raise InvalidValueError(f"tensor {name!r} of {head_file}", found, f"{tuple(want.shape)} of {want.dtype}")
    agent.load_tensors({k: v.to(agent.device) for k, v in tensors.items()})
    return iteration


class _Metrics:
    """`metrics.jsonl` and TensorBoard, cut back to the iterations that a resumed run still has."""

    def __init__(self, path: Path, start: int) -> None:
        self.path, self.start, self.began = path, start, time.time()

    def __enter__(self) -> _Metrics:
        from torch.utils.tensorboard import SummaryWriter

        file = self.path / "metrics.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        kept = [line for line in lines[: self.start] if line]
        write_atomic(file, "".join(line + "\n" for line in kept).encode())
        self.file = file.open("a", buffering=1)
        self.board = SummaryWriter(str(self.path / "tensorboard"), purge_step=self.start)
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.board.close()

    def write(self, iteration: int, metrics: dict[str, float]) -> None:
        """One iteration."""
        line = {"iteration": iteration, **metrics, "seconds": round(time.time() - self.began, 3)}
        self.file.write(json.dumps(line) + "\n")
        for name, value in metrics.items():
            self.board.add_scalar(name, value, iteration)


@contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a request; the second acts as usual."""
    asked = False
    if threading.current_thread() is not threading.main_thread():
        yield lambda: asked
        return

    def handle(number: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    old = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def versions() -> dict[str, str]:
    """Of Python and the packages that numbers depend on."""
    out = {"python": platform.python_version()}
    for name in ("metarl", "torch", "numpy", "gymnasium"):
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            out[name] = "uninstalled"
    return out


def git_revision() -> str | None:
    """Of the source tree that metarl was imported from, `+dirty` where tracked files differ; None outside a clone."""
    here = Path(__file__).resolve().parent

    def git(*args: str) -> str:
        environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
        return subprocess.run(
            ["git", *args], cwd=here, capture_output=True, text=True, check=True, timeout=10, env=environment
        ).stdout

    try:
        if Path(git("rev-parse", "--show-toplevel").strip()) != here.parent:
            return None
        outputs = ":(top,exclude)experiments/results"  # what experiments write is no source
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":(top)", outputs).strip()
        return git("rev-parse", "HEAD").strip() + ("+dirty" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _digest(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()
