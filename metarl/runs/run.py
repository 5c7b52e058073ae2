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

import dataclasses
import os
import shlex
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from metarl.agent_base import Agent, Device, make_agent
from metarl.engine.workers import ProcessesEndedError
from metarl.errors import InvalidValueError, MetaRLError, verbatim
from metarl.families.registry import agent_class, agents, base_id, families, make_family
from metarl.files import (
    OBJECT,
    SEED,
    TEXT,
    TEXTS,
    Kind,
    check_fields,
    json_bytes,
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
from metarl.runs.checkpoints import (
    COUNT,
    FORMAT,
    load_checkpoint,
    read_head,
    save_checkpoint,
    saved_iteration,
)
from metarl.runs.directory import check_free, make_directory
from metarl.runs.metrics_log import Metrics
from metarl.runs.stop_requests import StopRequests
from metarl.runs.train import Interrupted, train

_CONFIG = dict.fromkeys(("agent", "family", "device"), TEXT) | dict.fromkeys(("config", "versions"), OBJECT)
_CONFIG |= {"seed": SEED, "iterations": COUNT, "checkpoint_every": whole(1), "threads": whole(1)}
_CONFIG |= {"git": Kind("text or null", lambda value: value is None or isinstance(value, str))}
_BEFORE = Kind("a list of objects", lambda value: isinstance(value, list) and all(map(OBJECT.holds, value)))
Progress = Callable[[int, int, dict[str, float]], None]


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
        check_free(path)
        if base_id(agent.family.id) not in families:
            raise InvalidValueError("family of the run", agent.family.id, "a registered one, to open the run again")
        if not COUNT.holds(iterations):
            raise InvalidValueError("iterations", iterations, COUNT.words)
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
        run._made = make_directory(path)
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

    def make_agent(self, device: Device | None = None) -> Agent:
        """The agent as it was before the first iteration; hyperparameters newer than the run have their defaults.

        Nothing that the run names is imported: families and agents must be registered, other things loaded
        (`metarl.load_source`).
        """
        with names_of(str(self.path)):
            return self._make_agent(device)

    def _make_agent(self, device: Device | None) -> Agent:
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
        if not COUNT.holds(iterations):
            raise InvalidValueError("iterations", iterations, COUNT.words)
        agent.check_iterations(iterations)
        if iterations != self.config["iterations"]:
            before = {k: self.config[k] for k in ("iterations", "versions", "git")}
            now = {"iterations": iterations, "versions": versions(), "git": git_revision()}
            self.config = {**self.config, **now, "before": [*self.config.get("before", []), before]}
            write_json(self.path / "config.json", self.config)

    def load_agent(self, device: Device | None = None) -> tuple[Agent, int]:
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
        kept = [name for name in names if saved_iteration("checkpoint", name) > 0]
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
            with self.lock(), StopRequests() as stop:
                done = self._noted(agent, start, progress, stop)
        except KeyboardInterrupt:
            raise Interrupted(self.path, self._done()) from None
        if done < self.config["iterations"]:
            raise Interrupted(self.path, done)
        return done

    def _noted(self, agent: Agent, start: int, progress: Progress | None, stop: StopRequests) -> int:
        """`_train`; what is raised in it says where the run stands then."""
        try:
            return self._train(agent, start, progress, stop)
        except Exception as error:
            resume = f"metarl train --resume {shlex.quote(str(self.path))}"
            stands = f"the checkpoint after {self._done()} iterations stands: {resume}"
            error.add_note(stands if self.has_metrics else "no iteration was finished")
            raise

    def _train(self, agent: Agent, start: int, progress: Progress | None, stop: StopRequests) -> int:
        if (found := self._done()) != start:
            raise InvalidValueError("start", start, f"{found}, as many iterations as the last checkpoint has behind it")
        total, every, checkpoint = self.config["iterations"], self.config["checkpoint_every"], self.path / "checkpoint"
        done, last_saved, finished = start, start, _copies(agent)
        self._will_make(self.path / "metrics.jsonl", self.path / "tensorboard")
        with Metrics(self.path, start) as log:
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
            return int(read_head(file)["iteration"])


LARGEST_KEPT = 1 << 28  # bytes of an agent that are copied after each iteration


def _copies(agent: Agent) -> dict[str, torch.Tensor] | None:
    """The agent's tensors as they are now; None where they are large, such as a replay memory."""
    tensors = agent.tensors()
    if sum(value.nbytes for value in tensors.values()) > LARGEST_KEPT:
        return None
    return {name: value.detach().clone() for name, value in tensors.items()}
