"""Runs: the training loop, and directories that hold all a run needs to be resumed to the same bits.

    RUN/config.json        agent, family, hyperparameters, seed, versions, git revision; written first, and changed only
                           when a run is extended
    RUN/metrics.jsonl      one line per iteration
    RUN/tensorboard/       the same for TensorBoard
    RUN/checkpoint-N.safetensors, checkpoint.json  the last checkpoint; loading one executes nothing
    RUN/notes.txt          what was warned of before training, if anything was
    RUN/results/           what evaluations of the run found
    RUN/.metarl-lock       while it is trained: by which process

JSON files carry a hash of what they say: one that was edited is refused.

Every draw is keyed by the iteration, so a checkpoint is the agent's tensors and a number.
"""

from __future__ import annotations

import _thread
import dataclasses
import errno
import json
import os
import re
import shlex
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from metarl.agent import Agent, make_agent
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.engine.workers import ProcessesEndedError
from metarl.errors import InvalidValueError, MetaRLError, verbatim
from metarl.families.registry import agent_class, agents, base_id, families, make_family
from metarl.families.tasks import Tasks
from metarl.files import (
    LARGEST_ARRAYS,
    LARGEST_HEAD,
    LARGEST_JSON,
    OBJECT,
    SEED,
    TEXT,
    TEXTS,
    Kind,
    check_fields,
    digest_bytes,
    json_bytes,
    parse_json,
    read_bytes,
    read_json,
    reading,
    reason,
    whole,
    write_atomic,
    write_first,
    write_json,
)
from metarl.lock import NAME as LOCK
from metarl.lock import locked
from metarl.named import names_of
from metarl.provenance import git_revision, versions

FORMAT = "metarl-run-2"
_COUNT = whole(0)
_CONFIG = dict.fromkeys(("agent", "family", "device"), TEXT) | dict.fromkeys(("config", "versions"), OBJECT)
_CONFIG |= {"seed": SEED, "iterations": _COUNT, "checkpoint_every": whole(1), "threads": whole(1)}
_CONFIG |= {"git": Kind("text or null", lambda value: value is None or isinstance(value, str))}
_BEFORE = Kind("a list of objects", lambda value: isinstance(value, list) and all(map(OBJECT.holds, value)))
_HEAD = dict.fromkeys(("agent", "family", "file", "tensors_sha256"), TEXT) | {"iteration": _COUNT}
_NEVER_NEGATIVE = ("exp_avg_sq", "max_exp_avg_sq", "step", "updates")  # second moments, and counts
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
    pool = EnvironmentPool(agent.family, agent.device)
    try:
        for iteration, tasks in enumerate(_train_tasks(agent, start, iterations), start):
            metrics = agent.train_step(PoolTrials(pool, tasks, seed=agent.seed, purpose="train", iteration=iteration))
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
        if not _COUNT.holds(iterations):
            raise InvalidValueError("iterations", iterations, _COUNT.words)
        agent.check_iterations(iterations)
        if agent.learns and not agent.tensors():
            expected = "all that training changes: without it a checkpoint holds nothing (see metarl check-agent)"
            raise InvalidValueError(f"tensors() of {agent.name}", verbatim("empty"), expected)
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
        check_fields(config, _CONFIG, "the run")
        run = cls(path, config)
        run._made = _make_directory(path)
        try:
            if not write_first(path / "config.json", json_bytes(config)):
                raise InvalidValueError("run directory", str(path), "a new one: another process has just made it")
        except BaseException:
            run.discard()
            raise
        run._made.append(path / "config.json")
        return run

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """An existing run.

        Raises:
            InvalidValueError: it has no config.json, or one that metarl did not write as it is.
        """
        path = Path(path)
        advice = "other settings are a new run (metarl train), and more iterations are metarl train --resume RUN"
        with reading("run", str(path), "a run directory with a config.json that metarl wrote"):
            config = read_json(path / "config.json", FORMAT, f"{advice} --iterations N")
            check_fields(config, _CONFIG, str(path))
            check_fields(config, {"load": TEXTS, "before": _BEFORE}, str(path), optional=True)
        return cls(path, config)

    def discard(self) -> None:
        """Remove the files that this object made, and the directories that it made where nothing else is in them."""
        if self._locked:  # else it is another process's
            with suppress(OSError):
                (self.path / LOCK).unlink(missing_ok=True)
        for path in reversed(self._made):
            with suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        self._made = []

    def keep_notes(self, notes: Sequence[str]) -> None:
        """Write down what was warned of before training, in `notes.txt`, a line each; nothing where there is none."""
        path = self.path / "notes.txt"
        if notes:
            self._will_make(path)
            write_atomic(path, "".join(f"{note}\n" for note in notes).encode())

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
        try:
            config = cls.Config(**values)
            return make_agent(self.config["agent"], family, seed=self.config["seed"], device=device, config=config)
        except (TypeError, ValueError, ArithmeticError, MemoryError, RuntimeError) as error:
            if isinstance(error, MetaRLError):
                raise
            expected = f"those that {cls.__name__} can be made with ({reason(error)})"
            raise InvalidValueError(f"hyperparameters of {self.path}", values, expected) from error

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
        if not _COUNT.holds(iterations):
            raise InvalidValueError("iterations", iterations, _COUNT.words)
        agent.check_iterations(iterations)
        if iterations != self.config["iterations"]:
            before = {k: self.config[k] for k in ("iterations", "versions", "git")}
            now = {"iterations": iterations, "versions": versions(), "git": git_revision()}
            self.config = {**self.config, **now, "before": [*self.config.get("before", []), before]}
            write_json(self.path / "config.json", self.config)

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
        done = load_checkpoint(self.path / "checkpoint", agent)
        if done > self.config["iterations"]:  # the run was extended meanwhile
            self.config = Run.open(self.path).config
        if done > (most := self.config["iterations"]):
            raise InvalidValueError(f"iteration of the checkpoint of {self.path}", done, f"at most the run's {most}")
        return agent, done

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is anything to load: without, the run has only just begun."""
        return os.path.lexists(self.path / "checkpoint.json")

    def _check_whole(self) -> None:
        """Refuse a run whose checkpoint was lost."""
        if self.has_checkpoint:
            return
        names = [path.name for path in self.path.glob("checkpoint-*.safetensors")]
        kept = [name for name in names if _saved_iteration("checkpoint", name) > 0]
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

        An interrupt (Ctrl-C, SIGTERM) finishes the iteration, or gives it up where it takes longer than a few seconds,
        writes a checkpoint and raises `Interrupted`; a second one gives the iteration up at once.

        Args:
            agent: the run's, as `load_agent` gives it.
            start: how many iterations it has behind it.
            progress: called after each iteration with what is done, how many there are, and the metrics.

        Raises:
            InvalidValueError: another process trains this run, or did so since the agent was loaded.
        """
        try:
            with self.lock(), _StopRequests() as stop:
                done = self._noted(agent, start, progress, stop)
        except KeyboardInterrupt:
            raise Interrupted(self.path, self._done()) from None
        if done < self.config["iterations"]:
            raise Interrupted(self.path, done)
        return done

    def _noted(self, agent: Agent, start: int, progress: Progress | None, stop: _StopRequests) -> int:
        """`_train`; what is raised in it says where the run stands then."""
        try:
            return self._train(agent, start, progress, stop)
        except Exception as error:
            resume = f"metarl train --resume {shlex.quote(str(self.path))}"
            stands = f"the checkpoint after {self._done()} iterations stands: {resume}"
            error.add_note(stands if self.has_metrics else "no iteration was finished")
            raise

    def _train(self, agent: Agent, start: int, progress: Progress | None, stop: _StopRequests) -> int:
        if (found := self._done()) != start:
            raise InvalidValueError("start", start, f"{found}, as many iterations as the last checkpoint has behind it")
        total, every, checkpoint = self.config["iterations"], self.config["checkpoint_every"], self.path / "checkpoint"
        done, last_saved, finished = start, start, _copies(agent)
        self._will_make(self.path / "metrics.jsonl", self.path / "tensorboard")
        with _Metrics(self.path, start) as log:
            self._made += log.made

            def on_iteration(iteration: int, metrics: dict[str, float]) -> None:
                nonlocal done, last_saved, finished
                with stop.put_off():
                    log.write(iteration, metrics)
                    done, finished = iteration + 1, _copies(agent)
                    if done % every == 0:
                        save_checkpoint(checkpoint, agent, done)
                        last_saved = done
                if progress is not None:
                    progress(done, total, metrics)

            if start == 0:
                self._will_make(checkpoint.with_name("checkpoint-0.safetensors"), checkpoint.with_suffix(".json"))
                save_checkpoint(checkpoint, agent, 0)
            cut = False  # whether an iteration that was begun is given up
            try:
                if not stop.asked:
                    train(agent, total, start=start, on_iteration=on_iteration, should_stop=lambda: stop.asked)
            except KeyboardInterrupt:
                cut = True
            except ProcessesEndedError:  # the signal may have reached them too
                if not stop.asked:
                    raise
                cut = True
            with stop.put_off():
                if cut and finished is None:
                    done = last_saved
                elif cut and finished is not None:
                    agent.load_tensors(finished)
                if done != last_saved:
                    save_checkpoint(checkpoint, agent, done)
        return done

    def _done(self) -> int:
        """How many iterations the checkpoint has behind it; 0 without one."""
        if not self.has_checkpoint:
            return 0
        with reading("checkpoint", str(file := self.path / "checkpoint.json"), "a whole metarl checkpoint"):
            return int(_read_head(file)["iteration"])


def _check_free(path: Path) -> None:
    """Refuse a place where something is already."""
    try:
        if os.path.lexists(path / "config.json"):
            resume = f"metarl train --resume {shlex.quote(str(path))}"
            raise InvalidValueError("run directory", str(path), f"a new one (or resume it: {resume})")
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
            with suppress(OSError):  # somebody put something there meanwhile
                place.rmdir()
        raise InvalidValueError("output path", str(path), f"a place that can be written ({error.strerror})") from error
    return made


def save_checkpoint(path: Path, agent: Agent, iteration: int) -> None:
    """Write `path.safetensors`, then `path.json`, which names the first by its hash: a torn pair is noticed."""
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in agent.tensors().items()}
    data = safetensors.torch.save(tensors)
    head = {"format": FORMAT, "agent": agent.name, "family": agent.family.id, "iteration": iteration}
    name = f"{path.name}-{iteration}.safetensors"
    write_atomic(path.with_name(name), data)
    files = path.parent.glob(f"{path.name}-*.safetensors")
    before = [old for old in files if _saved_iteration(path.name, old.name) >= 0]
    write_json(path.with_suffix(".json"), {**head, "file": name, "tensors_sha256": digest_bytes(data)})
    for old in before:
        if old.name != name:
            old.unlink(missing_ok=True)


def _saved_iteration(checkpoint: str, name: str) -> int:
    """The number in a name as `save_checkpoint` gives it to the tensors' file of a checkpoint; -1 for another name."""
    found = re.fullmatch(rf"{re.escape(checkpoint)}-(\d{{1,18}})\.safetensors", name, re.ASCII)
    return int(found[1]) if found else -1


def load_checkpoint(path: Path, agent: Agent) -> int:
    """Load `path.json` and the tensors it names into `agent`; the number of iterations behind it.

    Raises:
        InvalidValueError: the files are torn, corrupt, of another agent or family, or do not fit.
    """
    head_file, expected = path.with_suffix(".json"), agent.tensors()
    largest = LARGEST_ARRAYS + 2 * sum(v.nbytes for v in expected.values())
    while True:
        before = _bytes(head_file)
        try:
            with reading("checkpoint", str(head_file), "a whole metarl checkpoint"):
                head = _read_head(head_file)
                for name, value in (("agent", agent.name), ("family", agent.family.id)):
                    if head[name] != value:
                        raise InvalidValueError(f"{name} of checkpoint {head_file}", head[name], repr(value))
                tensors = _read_tensors(path, head, largest)
                _check_tensors(tensors, expected, f"of checkpoint {head_file}")
            break
        except InvalidValueError:
            if _bytes(head_file) == before:
                raise  # else a training beside this wrote a new checkpoint meanwhile
    agent.load_tensors({k: v.to(agent.device) for k, v in tensors.items()})
    return int(head["iteration"])


def _read_tensors(path: Path, head: dict[str, Any], largest: int) -> dict[str, Tensor]:
    """The tensors that a checkpoint names by their file and its hash."""
    name = f"{path.name}-{head['iteration']}.safetensors"
    if head["file"] != name:
        raise ValueError(f"its file is not {name}")
    data = read_bytes(path.with_name(name), largest)
    if digest_bytes(data) != head["tensors_sha256"]:
        raise ValueError(f"{name} does not match its hash")
    return safetensors.torch.load(data)


def _check_tensors(tensors: dict[str, Tensor], expected: dict[str, Tensor], where: str) -> None:
    """Refuse tensors of other names, shapes or types than an agent's, and values that training cannot lead to."""
    if wrong := sorted(set(tensors) ^ set(expected)):
        found = verbatim("missing" if wrong[0] in expected else "unknown")
        raise InvalidValueError(f"tensor {wrong[0]!r} {where}", found, "the agent's tensors, and no others")
    for name, want in expected.items():
        values = tensors[name]
        if values.shape != want.shape or values.dtype != want.dtype:
            told = (tuple(values.shape), values.dtype)
            raise InvalidValueError(f"tensor {name!r} {where}", told, f"{tuple(want.shape)} of {want.dtype}")
        if not bool(torch.isfinite(values).all()):
            raise InvalidValueError(f"tensor {name!r} {where}", verbatim("not finite"), "finite numbers")
        if re.split(r"[./]", name)[-1] in _NEVER_NEGATIVE and bool((values < 0).any()):
            raise InvalidValueError(f"tensor {name!r} {where}", verbatim("negative"), "numbers from 0 on")


def _read_head(file: Path) -> dict[str, Any]:
    """What `checkpoint.json` holds."""
    head = read_json(file, FORMAT, "train again")
    check_fields(head, _HEAD, str(file))
    return head


def _bytes(file: Path) -> bytes | None:
    """A small file's bytes; None where it cannot be read."""
    try:
        return read_bytes(file, LARGEST_HEAD)
    except (OSError, ValueError):
        return None


class _Metrics:
    """`metrics.jsonl` and TensorBoard, cut back to the iterations that a resumed run still has."""

    def __init__(self, path: Path, start: int) -> None:
        self.path, self.start, self.began = path, start, time.time()
        self.made: list[Path] = []  # files whose names are TensorBoard's

    def __enter__(self) -> _Metrics:
        from torch.utils.tensorboard import SummaryWriter

        file, board = self.path / "metrics.jsonl", self.path / "tensorboard"
        if board.is_symlink():  # TensorBoard would write into what it points to
            raise InvalidValueError("tensorboard of the run", str(board), "a directory, and no symbolic link")
        kept = _lines_before(file, self.start)
        if len(kept) < self.start:
            warnings.warn(f"{file} has {len(kept)} of {self.start} iterations: metrics were lost", stacklevel=2)
        with _writing(self.path):
            write_atomic(file, "".join(f"{line}\n" for line in kept).encode())
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


LARGEST_KEPT = 1 << 28  # bytes of an agent that are copied after each iteration
PATIENCE = 3.0  # seconds that an iteration is given to end after the first Ctrl-C
STOPPING = b"metarl: stopping after this iteration, or within %d s; Ctrl-C again stops at once\n" % PATIENCE


def _lines_before(file: Path, start: int) -> list[str]:
    """The lines of `metrics.jsonl` about iterations before `start`; a last line that was cut short is left out.

    Raises:
        InvalidValueError: the file holds something else.
    """
    expected = "a line of JSON per iteration (move the file away to go on without the metrics of earlier iterations)"
    with reading("metrics", str(file), expected):
        lines = read_bytes(file, LARGEST_JSON).decode().split("\n") if file.exists() else []
        numbers = [_iteration_of(line, place) for place, line in enumerate(lines[:-1], 1)]
        if numbers != sorted(set(numbers)):
            raise ValueError("iterations are not in their order")
        return [line for line, number in zip(lines, numbers, strict=False) if number < start]


def _iteration_of(line: str, place: int) -> int:
    """The iteration that a line is about; it is line number `place`."""
    data = parse_json(line)
    if not (isinstance(data, dict) and _COUNT.holds(data.get("iteration"))):
        raise ValueError(f"line {place} names no iteration")
    return int(data["iteration"])


class _StopRequests:
    """The first Ctrl-C or SIGTERM is a request, and said to be; the second one raises `KeyboardInterrupt`.

    An iteration that hangs, or takes long, gets the second one of itself after `PATIENCE` seconds.
    """

    def __init__(self) -> None:
        self.asked = False
        self._put_off = False
        self._patience = threading.Timer(PATIENCE, _interrupt)
        self._patience.daemon = True
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _StopRequests:
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        self._put_off = True  # a second signal that comes now finds nothing to interrupt
        self._patience.cancel()
        with suppress(RuntimeError):  # it was not started: nobody asked, or a second signal came before it was
            self._patience.join()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: object) -> None:
        if self.asked:
            if not self._put_off:
                raise KeyboardInterrupt
            return
        self.asked = True
        self._patience.start()
        with suppress(OSError):
            os.write(2, STOPPING)  # sys.stderr may be in the middle of a line of its own

    @contextmanager
    def put_off(self) -> Iterator[None]:
        """Let nothing be interrupted inside: it is short, and leaves files and memory in one state."""
        self._put_off = True
        try:
            yield
        finally:
            self._put_off = False


def _interrupt() -> None:
    """Send this process a Ctrl-C, from another thread than the main one."""
    if os.name == "nt":  # where os.kill would end it
        _thread.interrupt_main()
    else:
        os.kill(os.getpid(), signal.SIGINT)


def _copies(agent: Agent) -> dict[str, torch.Tensor] | None:
    """The agent's tensors as they are now; None where they are large, such as a replay memory."""
    tensors = agent.tensors()
    if sum(value.nbytes for value in tensors.values()) > LARGEST_KEPT:
        return None
    return {name: value.detach().clone() for name, value in tensors.items()}
