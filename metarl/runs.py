"""Runs: the training loop, and directories that hold all a run needs to be resumed to the same bits.

    RUN/config.json        agent, family, hyperparameters, seed, versions, git revision; written first, and changed only
                           when a run is extended
    RUN/metrics.jsonl      one line per iteration
    RUN/tensorboard/       the same for TensorBoard
    RUN/checkpoint.safetensors, checkpoint.json    the last checkpoint; loading one executes nothing
    RUN/results/           what evaluations of the run found
    RUN/.metarl-lock       while it is trained: by which process

Every draw is keyed by the iteration, so a checkpoint is the agent's tensors and a number.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import platform
import re
import secrets
import shlex
import signal
import subprocess
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from metarl.agent import Agent, make_agent
from metarl.errors import InvalidValueError, verbatim
from metarl.lock import NAME as LOCK
from metarl.lock import locked
from metarl.named import names_of
from metarl.registry import agent_class, agents, base_id, families, make_family
from metarl.rollout import SlotPool, Trials
from metarl.tasks import Tasks, write_atomic

FORMAT = "metarl-run-1"
_TEMPORARY = re.compile(r"\.metarl-[0-9a-f]+\.part")  # what a killed process leaves
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
        self._made: list[Path] = []  # files and directories that this object made, in that order
        self._locked = False

    @classmethod
    def create(
        cls, path: str | Path, agent: Agent, iterations: int, checkpoint_every: int = 10, load: Sequence[str] = ()
    ) -> Run:
        """Make the directory and write `config.json`; of several that begin a run in one place, one does.

        Args:
            path: the directory, a new or an empty one.
            agent: who will be trained.
            iterations: meta-updates.
            checkpoint_every: iterations between checkpoints.
            load: what had to be imported to register the family and the agent; kept for whoever opens the run, which
                imports none of it.

        Raises:
            InvalidValueError: the directory holds something already, or cannot be written; or an argument is wrong.
        """
        path = Path(path)
        _check_free(path)
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
        run = cls(path, config)
        run._made = _make_directory(path)
        try:
            _write_first(path / "config.json", (json.dumps(config, indent=1) + "\n").encode())
        except BaseException:
            run.discard()
            raise
        run._made.append(path / "config.json")
        return run

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

    def discard(self) -> None:
        """Remove the files that this object made, and the directories that it made where nothing else is in them."""
        with suppress(OSError):
            (self.path / LOCK).unlink(missing_ok=True)
        for path in reversed(self._made):
            with suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        self._made = []

    def _will_make(self, *paths: Path) -> None:
        """Remember which of some files are not there before they are written."""
        self._made += [path for path in paths if not os.path.lexists(path)]

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from training this run; `config` is then what the last of them left.

        Raises:
            InvalidValueError: another process trains it.
        """
        if self._locked:
            yield
            return
        with locked(self.path):
            self.config, self._locked = Run.open(self.path).config, True
            try:
                yield
            finally:
                self._locked = False

    def make_agent(self, device: str | None = None) -> Agent:
        """The agent as it was before the first iteration; hyperparameters newer than the run have their defaults.

        Nothing that the run names is imported: families and agents must be registered, other things loaded
        (`metarl.load_source`).
        """
        with names_of(str(self.path)):
            return self._make_agent(device)

    def _make_agent(self, device: str | None) -> Agent:
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
            again = " ".join(f"--load {shlex.quote(source)}" for source in sources)
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
        """The agent of the last checkpoint, and how many iterations it has behind it (0 without a checkpoint).

        Raises:
            InvalidValueError: the checkpoint is missing though the run was trained, or its files are damaged.
        """
        self._check_whole()
        agent = self.make_agent(device)
        if self.config["threads"] != torch.get_num_threads() and agent.device.type == "cpu":
            then, now = self.config["threads"], torch.get_num_threads()
            warnings.warn(
                f"{self.path} began with {then} threads, these are {now}: sums may round otherwise", stacklevel=2
            )
        if not self.has_checkpoint:
            return agent, 0
        return agent, load_checkpoint(self.path / "checkpoint", agent)

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is anything to load: without, the run has only just begun."""
        return os.path.lexists(self.path / "checkpoint.json")

    def _check_whole(self) -> None:
        """Refuse a run whose checkpoint was lost."""
        if self.has_checkpoint:
            return
        kept = [path.name for path in self.path.glob("checkpoint-*.safetensors") if _iteration_of(path.name) > 0]
        if kept or self.has_metrics:
            beside = kept[0] if kept else "metrics.jsonl"
            expected = f"there, beside {beside}: without it the agent would be an untrained one"
            raise InvalidValueError(str(self.path / "checkpoint.json"), verbatim("missing"), expected)

    @property
    def has_metrics(self) -> bool:
        """Whether an iteration was finished."""
        try:
            return (self.path / "metrics.jsonl").stat().st_size > 0
        except OSError:
            return False

    def train(self, agent: Agent, start: int = 0, progress: Progress | None = None) -> int:
        """Train to the run's number of iterations, with metrics and checkpoints.

        An interrupt (Ctrl-C, SIGTERM) finishes the iteration, writes a checkpoint and raises `Interrupted`; a second
        one stops at once, and the last checkpoint stands.

        Args:
            agent: the run's, as `load_agent` gives it.
            start: how many iterations it has behind it.
            progress: called after each iteration with what is done, how many there are, and the metrics.

        Raises:
            InvalidValueError: another process trains this run, or did so since the agent was loaded.
        """
        try:
            with self.lock(), _stop_requests() as asked:
                done = self._train(agent, start, progress, asked)
        except KeyboardInterrupt:
            raise Interrupted(self.path, self._done()) from None
        if done < self.config["iterations"]:
            raise Interrupted(self.path, done)
        return done

    def _train(self, agent: Agent, start: int, progress: Progress | None, asked: Callable[[], bool]) -> int:
        if (found := self._done()) != start:
            raise InvalidValueError("start", start, f"{found}, as many iterations as the last checkpoint has behind it")
        total, every, checkpoint = self.config["iterations"], self.config["checkpoint_every"], self.path / "checkpoint"
        last_saved = start
        self._will_make(self.path / "metrics.jsonl", self.path / "tensorboard")
        with _Metrics(self.path, start) as log:
            self._made += log.made

            def on_iteration(iteration: int, metrics: dict[str, float]) -> None:
                nonlocal last_saved
                log.write(iteration, metrics)
                if (iteration + 1) % every == 0:
                    save_checkpoint(checkpoint, agent, iteration + 1)
                    last_saved = iteration + 1
                if progress is not None:
                    progress(iteration + 1, total, metrics)

            if start == 0:
                self._will_make(checkpoint.with_name("checkpoint-0.safetensors"), checkpoint.with_suffix(".json"))
                save_checkpoint(checkpoint, agent, 0)
            if asked():
                return start
            done = train(agent, total, start=start, on_iteration=on_iteration, should_stop=asked)
            if done != last_saved:
                save_checkpoint(checkpoint, agent, done)
        return done

    def _done(self) -> int:
        """How many iterations the checkpoint has behind it; 0 without one."""
        return _read_checkpoint(self.path / "checkpoint.json")[0]["iteration"] if self.has_checkpoint else 0


def _check_free(path: Path) -> None:
    """Refuse a place where something is already."""
    try:
        if os.path.lexists(path / "config.json"):
            raise InvalidValueError("run directory", str(path), "a new one (or resume it: metarl train --resume)")
        if path.is_dir() and any(not _TEMPORARY.fullmatch(name) for name in os.listdir(path)):
            raise InvalidValueError("run directory", str(path), "a new or an empty one: this holds other files")
    except (OSError, ValueError) as error:
        if isinstance(error, InvalidValueError):
            raise
        raise InvalidValueError("run directory", str(path), f"a place that can be read ({error})") from error


def _make_directory(path: Path) -> list[Path]:
    """Make a directory; those that were missing, its parents first."""
    missing = [place for place in (path, *path.parents) if not os.path.lexists(place)]
    made: list[Path] = []
    try:
        for place in reversed(missing):
            with suppress(FileExistsError):  # another process was faster
                place.mkdir()
                made.append(place)
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    except OSError as error:
        for place in reversed(made):
            place.rmdir()
        raise InvalidValueError("output path", str(path), f"a place that can be written ({error.strerror})") from error
    return made


def _write_first(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, unless there is one; of several processes, one does."""
    part = path.parent / f".metarl-{secrets.token_hex(8)}.part"
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            _name_first(part, path)
        finally:
            part.unlink(missing_ok=True)
    except FileExistsError as error:
        raise InvalidValueError("run directory", str(path.parent), "a new one: another process has it") from error
    except OSError as error:
        raise InvalidValueError("output path", str(path), f"a place that can be written ({error.strerror})") from error


def _name_first(part: Path, path: Path) -> None:
    """Give a file its name, unless there is one of that name."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        os.replace(part, path)


def save_checkpoint(path: Path, agent: Agent, iteration: int) -> None:
    """Write `path.safetensors`, then `path.json`, which names the first by its hash: a torn pair is noticed."""
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in agent.tensors().items()}
    data = safetensors.torch.save(tensors)
    head = {"format": FORMAT, "agent": agent.name, "family": agent.family.id, "iteration": iteration}
    name = f"{path.name}-{iteration}.safetensors"
    write_atomic(path.with_name(name), data)
    before = [
        p for p in path.parent.glob(f"{path.name}-*.safetensors") if p.name != name and _iteration_of(p.name) >= 0
    ]
    write_atomic(
        path.with_suffix(".json"), (json.dumps({**head, "file": name, "sha256": _digest(data)}) + "\n").encode()
    )
    for old in before:
        if old.name != name:
            old.unlink(missing_ok=True)


def _iteration_of(name: str) -> int:
    """The number in a name as `save_checkpoint` gives it to the tensors' file; -1 for another name."""
    found = re.fullmatch(r".*-(\d{1,18})\.safetensors", name)
    return int(found[1]) if found else -1


def load_checkpoint(path: Path, agent: Agent) -> int:
    """Load `path.json` and the tensors it names into `agent`; the number of iterations behind it.

    Raises:
        InvalidValueError: the files are torn, corrupt, of another agent or family, or do not fit.
    """
    head_file = path.with_suffix(".json")
    head, data = _read_checkpoint(head_file)
    try:
        tensors = safetensors.torch.load(data)
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise InvalidValueError("checkpoint", str(head_file), f"a whole metarl checkpoint ({error})") from error
    iteration = int(head["iteration"])
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


def _read_checkpoint(head_file: Path) -> tuple[dict[str, Any], bytes]:
    """A checkpoint's head and the bytes of its tensors; read again where a training beside this wrote a new one."""
    while True:
        text = b""
        try:
            text = head_file.read_bytes()
            head = json.loads(text)
            if not isinstance(head, dict) or head.get("format") != FORMAT:
                raise ValueError(f"format is not {FORMAT!r}")
            file = head_file.with_name(Path(head["file"]).name)
            data = file.read_bytes()
            if _digest(data) != head["sha256"]:
                raise ValueError(f"{file.name} does not match its hash")
            head["iteration"] = int(head["iteration"])
            return head, data
        except (OSError, ValueError, KeyError, TypeError) as error:
            if text and _changed(head_file, text):
                continue
            raise InvalidValueError("checkpoint", str(head_file), f"a whole metarl checkpoint ({error})") from error


def _changed(path: Path, before: bytes) -> bool:
    try:
        return path.read_bytes() != before
    except OSError:
        return False


class _Metrics:
    """`metrics.jsonl` and TensorBoard, cut back to the iterations that a resumed run still has."""

    def __init__(self, path: Path, start: int) -> None:
        self.path, self.start, self.began = path, start, time.time()
        self.made: list[Path] = []  # files whose names are TensorBoard's

    def __enter__(self) -> _Metrics:
        from torch.utils.tensorboard import SummaryWriter

        file, board = self.path / "metrics.jsonl", self.path / "tensorboard"
        with _writing(self.path):
            lines = file.read_text().splitlines() if file.exists() else []
            kept = [line for line in lines[: self.start] if line]
            write_atomic(file, "".join(line + "\n" for line in kept).encode())
            before = set(board.glob("*"))
            self.board = SummaryWriter(str(board), purge_step=self.start)
            self.made = list(set(board.glob("*")) - before)
            self.file = file.open("a", buffering=1)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with _writing(self.path) if kind is None else suppress(OSError):
            self.file.close()
            self.board.close()

    def write(self, iteration: int, metrics: dict[str, float]) -> None:
        """One iteration."""
        line = {"iteration": iteration, **metrics, "seconds": round(time.time() - self.began, 3)}
        with _writing(self.path):
            self.file.write(json.dumps(line) + "\n")
            for name, value in metrics.items():
                self.board.add_scalar(name, value, iteration)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Say in one sentence that a directory cannot be written."""
    try:
        yield
    except OSError as error:
        raise InvalidValueError("output path", str(path), f"a place that can be written ({error.strerror})") from error


STOPPING = b"metarl: stopping after this iteration; Ctrl-C again stops at once\n"


@contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a request, and say so; the second acts as usual."""
    asked = False
    if threading.current_thread() is not threading.main_thread():
        yield lambda: asked
        return

    def handle(number: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        with suppress(OSError):
            os.write(2, STOPPING)  # sys.stderr may be in the middle of a line of its own

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
