"""Runs: a run directory contains everything that is needed to resume a training with the same bits.

    RUN/config.json        agent, family, hyperparameters, seed, versions, git revision; written first, and changed only
                           when a run is extended
    RUN/metrics.jsonl      one line per iteration
    RUN/validation.jsonl   one line per validation, if the run is validated
    RUN/tensorboard/       the same numbers for TensorBoard
    RUN/checkpoint-N.safetensors, checkpoint.json  the last checkpoint; loading it never executes code
    RUN/best-N.safetensors, best.json              the best checkpoint by validation, if the run is validated
    RUN/notes.txt          warnings from before the training, if there were any
    RUN/results/           results of evaluations of the run
    RUN/.metarl-lock       the process that trains the run, during training

JSON files contain a hash of their content. A file that was edited is refused.

Every draw is keyed by the iteration, so a checkpoint is the agent's tensors and the number of iterations, and where the
distribution of a task sampler is.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import torch

from metarl.agent_base import Agent, make_agent
from metarl.devices import Device
from metarl.distribution import git_revision, versions
from metarl.errors import DivergedError, InvalidValueError, MetaRLError, did_you_mean, verbatim
from metarl.families.registry import agent_class, agents, base_id, families, make_family
from metarl.files import (
    JsonObject,
    json_bytes,
    reading,
    reason,
    write_atomic,
    write_first,
    write_json,
)
from metarl.lock import NAME as LOCK
from metarl.lock import locked
from metarl.named import without_imports
from metarl.runs.checkpoints import (
    COUNT,
    load_checkpoint,
    read_head,
    save_checkpoint,
    saved_iteration,
)
from metarl.runs.directory import MadeFiles, check_free, make_directory
from metarl.runs.metrics_log import wandb_run
from metarl.runs.recording import Progress, RecordedTraining
from metarl.runs.run_config import check_family, new_config, read_config, refuse_other_settings
from metarl.runs.stop_requests import StopRequests
from metarl.runs.task_sampling import SamplerName
from metarl.runs.train import Interrupted

Checkpoint = Literal["last", "best"]
_FILES = {"last": "checkpoint", "best": "best"}  # name of a checkpoint to the name of its files


class Run:
    """A run directory.

    Args:
        path: the directory.
        config: content of `config.json`.

    Attributes:
        wandb: name of a project of Weights & Biases that gets the metrics of `train` too; None for none.
    """

    def __init__(self, path: Path, config: JsonObject) -> None:
        self.path, self.config = path, config
        self.wandb: str | None = None
        self._made = MadeFiles()  # what this object made
        self._locked = False

    @classmethod
    def create(
        cls,
        path: str | Path,
        agent: Agent,
        iterations: int,
        checkpoint_every: int = 10,
        load: Sequence[str] = (),
        *,
        eval_every: int = 0,
        eval_tasks: int | None = None,
        task_sampler: SamplerName = "family",
        begins_with: str | None = None,
        keeps_replay: bool = True,
    ) -> Run:
        """Make the directory and write `config.json`. If several processes try this, exactly one succeeds.

        Args:
            path: a new or an empty directory.
            agent: the agent to train.
            iterations: number of meta-updates.
            checkpoint_every: iterations between checkpoints.
            load: modules and files that register the family and the agent. They are recorded, so that an error can name
                them; opening the run does not import them.
            eval_every: iterations between validations; 0 for none.
            eval_tasks: number of tasks of a validation; by default 20, or more for agents with a memory if episodes are
                short. They are tasks of the split "valid" if the family has one, else train tasks, and never test
                tasks.
            task_sampler: what draws the train tasks: "family", the family's distribution, or "cem", a distribution
                that moves to hard tasks (`metarl.runs.task_sampling`).
            begins_with: the run or the training of a benchmark whose parameters the agent was given
                (`metarl.runs.load.begin_with`), "" for none. It is recorded alone.
            keeps_replay: whether the checkpoint of the finished training has the tensors that only further training
                reads (`Agent.replays`). Without them it is small, and the run cannot be extended.

        Raises:
            InvalidValueError: the directory is not empty or cannot be written, or an argument is wrong.
        """
        path = Path(path)
        check_free(path)
        config = new_config(agent, iterations, checkpoint_every, load, eval_every, eval_tasks, task_sampler)
        if begins_with is not None:
            config["begins_with"] = begins_with
        if not keeps_replay:
            config["keeps_replay"] = False
        run = cls(path, config)
        run._made.add(*make_directory(path))
        try:
            if not write_first(path / "config.json", json_bytes(config)):
                raise InvalidValueError("run directory", str(path), "a new one: another process has just made it")
        except BaseException:
            run.discard()
            raise
        run._made.add(path / "config.json")
        return run

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Open an existing run.

        Raises:
            InvalidValueError: there is no config.json, or metarl did not write it, or it was changed.
        """
        path = Path(path)
        with reading("run", str(path), "a run directory with a config.json that metarl wrote"):
            config = read_config(path)
        return cls(path, config)

    def check_settings(
        self,
        agent: Agent,
        iterations: int,
        checkpoint_every: int = 10,
        *,
        eval_every: int = 0,
        eval_tasks: int | None = None,
        task_sampler: SamplerName = "family",
        begins_with: str = "",
    ) -> None:
        """Refuse to continue this run if `Run.create` with these arguments would make another one.

        Raises:
            InvalidValueError: a setting is another one.
        """
        wanted = new_config(agent, iterations, checkpoint_every, (), eval_every, eval_tasks, task_sampler)
        refuse_other_settings(self.path, self.config, wanted | {"begins_with": begins_with})

    def discard(self) -> None:
        """Remove the files that this object made, and the directories that it made if they are empty then."""
        if self._locked:  # otherwise the lock belongs to another process
            with suppress(OSError):
                (self.path / LOCK).unlink(missing_ok=True)
        self._made.remove()

    def write_notes(self, notes: Sequence[str]) -> None:
        """Write the warnings from before the training to `notes.txt`, one per line. Without notes, write no file."""
        path = self.path / "notes.txt"
        if notes:
            self._made.will_make(path)
            write_atomic(path, "".join(f"{note}\n" for note in notes).encode())

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Within this context, no other process can train this run. `config` is read again from its file first.

        Raises:
            InvalidValueError: another process trains the run.
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
        """The agent before the first iteration. Hyperparameters that did not exist yet get their default values.

        This imports nothing that the run names. Families and agents must be registered, and modules of other names in
        the run must be loaded (`metarl.load_source`).
        """
        with without_imports(str(self.path)):
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
            expected = f"values that {cls.__name__} accepts ({reason(error)})"
            raise InvalidValueError(f"hyperparameters of {self.path}", values, expected) from error

    def _check_registered(self) -> None:
        """If the family or the agent is not registered, raise an error that says what to load, if the run knows it."""
        family = base_id(self.config["family"])
        known = {"family": family in families, "agent": self.config["agent"] in agents}
        sources = self.config.get("load", [])
        for field in [field for field, registered in known.items() if sources and not registered]:
            options = " ".join(f"--load {shlex.quote(source)}" for source in sources)
            calls = "; ".join(f"metarl.load_source({source!r})" for source in sources)
            expected = f"a registered one: add {options}, as in training (in Python: {calls})"
            raise InvalidValueError(f"{field} of {self.path}", self.config[field], expected)

    def save_start(self, agent: Agent) -> None:
        """Write the checkpoint of no iterations, of an agent whose parameters are not those that `make_agent` gives."""
        self._made.will_make(self.path / "checkpoint-0.safetensors", self.path / "checkpoint.json")
        save_checkpoint(self.path / "checkpoint", agent, 0)

    def set_iterations(self, iterations: int, agent: Agent, done: int) -> None:
        """Change the run's number of iterations, as if it had been created with the new number.

        Args:
            iterations: number of meta-updates in total.
            agent: the run's agent, as `load_agent` returns it.
            done: number of iterations that are finished.

        Raises:
            InvalidValueError: `iterations` is smaller than `done`, or larger than the agent allows.
        """
        if iterations < done:
            raise InvalidValueError("iterations", iterations, f"at least {done}, which are done already")
        if iterations > done and self._saved("without_replay"):
            expected = f"{done}: the replay of the finished training was not kept, so it cannot go on"
            raise InvalidValueError(f"iterations of {self.path}", iterations, expected)
        if not COUNT.holds(iterations):
            raise InvalidValueError("iterations", iterations, COUNT.words)
        agent.check_iterations(iterations)
        if iterations != self.config["iterations"]:
            before = {k: self.config[k] for k in ("iterations", "versions", "git")}
            now = {"iterations": iterations, "versions": versions(), "git": git_revision()}
            self.config = {**self.config, **now, "before": [*self.config.get("before", []), before]}
            write_json(self.path / "config.json", self.config)

    def load_agent(self, device: Device | None = None, checkpoint: Checkpoint = "last") -> tuple[Agent, int]:
        """The agent of a checkpoint, and its number of finished iterations (0 without a checkpoint).

        Args:
            device: device of the agent's tensors; by default the run's.
            checkpoint: "last", or "best": the one with the highest return in validation.

        Raises:
            InvalidValueError: the run was trained and its checkpoint is missing, its files are damaged, or it has no
                best checkpoint.
        """
        self._check_checkpoint(checkpoint)
        self._check_whole()
        agent = self.make_agent(device)
        check_family(self.config, agent.family, self.path)
        if self.config["threads"] != torch.get_num_threads() and agent.device.type == "cpu":
            then, now = self.config["threads"], torch.get_num_threads()
            warnings.warn(
                f"{self.path} began with {then} threads, these are {now}: sums may round otherwise", stacklevel=2
            )
        if not self.has_checkpoint:
            return agent, 0
        done = load_checkpoint(self.path / _FILES[checkpoint], agent)
        if done > self.config["iterations"]:  # another process has extended the run in the meantime
            self.config = Run.open(self.path).config
        if done > (most := self.config["iterations"]):
            raise InvalidValueError(f"iteration of the checkpoint of {self.path}", done, f"at most the run's {most}")
        return agent, done

    @property
    def has_checkpoint(self) -> bool:
        """Whether the run has a checkpoint. A run that was just created has none."""
        return os.path.lexists(self.path / "checkpoint.json")

    def _check_checkpoint(self, name: str) -> None:
        """Refuse an unknown name, and the best checkpoint of a run that has none."""
        if name not in _FILES:
            raise InvalidValueError("checkpoint", name, did_you_mean(name, _FILES))
        if name == "best" and not os.path.lexists(self.path / "best.json"):
            expected = "'last': the run has no best checkpoint, which a validation makes (metarl train --eval-every N)"
            raise InvalidValueError(f"checkpoint of {self.path}", name, expected)

    def _check_whole(self) -> None:
        """Refuse a run that was trained and whose checkpoint is missing."""
        if self.has_checkpoint:
            return
        names = [path.name for path in self.path.glob("checkpoint-*.safetensors")]
        kept = [name for name in names if saved_iteration("checkpoint", name) > 0]
        if kept or self.has_metrics:
            beside = kept[0] if kept else "metrics.jsonl"
            expected = f"there, beside {beside}: without it the agent would be untrained"
            raise InvalidValueError(str(self.path / "checkpoint.json"), verbatim("missing"), expected)

    @property
    def has_metrics(self) -> bool:
        """Whether at least one iteration was finished."""
        try:
            return (self.path / "metrics.jsonl").stat().st_size > 0
        except OSError:
            return False

    def train(self, agent: Agent, start: int = 0, progress: Progress | None = None) -> int:
        """Train to the run's number of iterations, with metrics and checkpoints.

        After an interrupt (Ctrl-C, SIGTERM) the current iteration is finished, or discarded if it takes more than a few
        seconds. Then a checkpoint is written and `Interrupted` is raised. A second interrupt discards the current
        iteration at once.

        Args:
            agent: the run's agent, as `load_agent` returns it.
            start: the agent's number of finished iterations.
            progress: called after each iteration with the number of finished iterations, the total and the metrics.

        Returns:
            the number of finished iterations.

        Raises:
            InvalidValueError: another process trains this run, or has trained it since the agent was loaded.
            Interrupted: the training was stopped on request.
        """
        try:
            with self.lock(), StopRequests() as stop:
                training = self._train_with_notes(agent, start, progress, stop)
        except KeyboardInterrupt:
            raise Interrupted(self.path, self._done()) from None
        if not training.is_complete:
            raise Interrupted(self.path, training.done)
        return training.done

    def _train_with_notes(
        self, agent: Agent, start: int, progress: Progress | None, stop: StopRequests
    ) -> RecordedTraining:
        """Call `_train`. An exception gets a note that says which checkpoint is left."""
        try:
            return self._train(agent, start, progress, stop)
        except Exception as error:
            path = shlex.quote(str(self.path))
            resume = f"metarl train --resume {path}"
            if isinstance(error, DivergedError):  # the same numbers would come again
                resume = f"other settings may begin with it, metarl train ... --begin-with {path}"
            note = f"the checkpoint after {self._done()} iterations stands: {resume}"
            error.add_note(note if self.has_metrics else "no iteration was finished")
            raise

    def _train(self, agent: Agent, start: int, progress: Progress | None, stop: StopRequests) -> RecordedTraining:
        if (saved := self._done()) != start:
            raise InvalidValueError("start", start, f"{saved}, the number of iterations in the last checkpoint")
        env_steps = self._saved("env_steps")
        wandb = None if self.wandb is None else wandb_run(self.path, self.wandb, self.config)
        made = self._made
        training = RecordedTraining(self.path, self.config, agent, start, env_steps, progress, stop, made, wandb)
        training.run()
        return training

    def _done(self) -> int:
        """Number of iterations in the checkpoint; 0 without a checkpoint."""
        return self._saved("iteration")

    def _saved(self, name: str) -> int:
        """A number in the checkpoint's file; 0 without it."""
        if not self.has_checkpoint:
            return 0
        with reading("checkpoint", str(file := self.path / "checkpoint.json"), "a whole metarl checkpoint"):
            return int(read_head(file).get(name, 0))
