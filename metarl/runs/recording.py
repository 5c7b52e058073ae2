"""Training of a run: every iteration is logged, some are saved as a checkpoint, and some are validated."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from metarl.agent_base import Agent
from metarl.engine.workers import ProcessesEndedError
from metarl.errors import DivergedError
from metarl.files import JsonObject, reading
from metarl.runs.checkpoints import read_head, save_checkpoint
from metarl.runs.directory import MadeFiles
from metarl.runs.metrics_log import Metrics
from metarl.runs.stop_requests import StopRequests
from metarl.runs.task_sampling import CrossEntropySampler, make_sampler
from metarl.runs.train import train
from metarl.runs.validation import Validation, Validator

Progress = Callable[[int, int, dict[str, float]], None]
MOST_COPIED_BYTES = 1 << 28  # a larger agent is not copied after each iteration


class RecordedTraining:
    """Trains the agent of a run and writes the run's files.

    Args:
        path: the run directory.
        config: content of `config.json`.
        agent: the agent after `start` iterations.
        start: number of finished iterations.
        env_steps: environment steps of these iterations.
        progress: called after each iteration with the number of finished iterations, the total and the metrics.
        stop: requests to stop.
        made: gets the files that the training makes.
        wandb: a run of Weights & Biases that gets the metrics; None for none.
    """

    def __init__(
        self,
        path: Path,
        config: JsonObject,
        agent: Agent,
        start: int,
        env_steps: int,
        progress: Progress | None,
        stop: StopRequests,
        made: MadeFiles,
        wandb: Any = None,
    ) -> None:
        self.path, self.agent, self.progress, self.stop, self.made = path, agent, progress, stop, made
        self.wandb = wandb
        self.total, self.checkpoint_every = config["iterations"], config["checkpoint_every"]
        self.keeps_replay = config.get("keeps_replay", True)  # after the last iteration
        self.settings = Validation.of_run(config)
        self.start = self.done = self.saved = start  # iterations: before, finished, in the last checkpoint
        self.env_steps = env_steps  # of the finished iterations
        self.tensors = _copied_tensors(agent)  # after the last finished iteration
        self.sampler = _sampler(path, config, agent, start)
        self.sampler_state = None if self.sampler is None else self.sampler.state()  # likewise
        self.is_between = True  # whether the agent is between two iterations
        self.validator: Validator | None = None

    def run(self) -> None:
        """Train to the run's number of iterations, or until a stop; `done` is then the number of iterations."""
        with ExitStack() as stack:
            self._open_files(stack)
            if self.start == 0:
                self.made.will_make(self.path / "checkpoint-0.safetensors", self.path / "checkpoint.json")
                self._save()
            self._train_until_stopped()
            with self.stop.defer():
                if not self.is_between:
                    self._go_back()
                if self.done != self.saved:
                    self._save()

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to do: all iterations are finished, and the last one is validated."""
        return self.done >= self.total and not self._is_validation_due()

    def _open_files(self, stack: ExitStack) -> None:
        self.made.will_make(self.path / "metrics.jsonl", self.path / "tensorboard")
        self.log = stack.enter_context(Metrics(self.path, self.start, self.wandb))
        self.made.add(*self.log.made)
        if self.settings is not None:
            validator = Validator(self.path, self.settings, self.agent, self.start, self.log)
            self.made.will_make(*validator.files)
            self.validator = stack.enter_context(validator)

    def _train_until_stopped(self) -> None:
        """Train. If the current iteration is interrupted, `is_between` is False afterwards."""
        try:
            self._validate()
            if not self.stop.requested:
                self._train()
        except KeyboardInterrupt:
            return
        except ProcessesEndedError:  # the same signal may have ended the workers
            if not self.stop.requested:
                raise

    def _train(self) -> None:
        self.is_between = False
        try:
            self._iterate()
        except DivergedError:  # what was finished before stands
            with self.stop.defer():
                self._go_back()
                if self.done != self.saved:
                    self._save()
            raise
        self.is_between = True

    def _iterate(self) -> None:
        train(
            self.agent,
            self.total,
            start=self.start,
            env_steps=self.env_steps,
            task_sampler=self.sampler,
            on_iteration=self._on_iteration,
            should_stop=lambda: self.stop.requested,
        )

    def _on_iteration(self, iteration: int, metrics: dict[str, float]) -> None:
        with self.stop.defer():
            self.log.write(iteration, metrics)
            self.done, self.env_steps = iteration + 1, int(metrics["env_steps"])
            self.tensors, self.is_between = _copied_tensors(self.agent), True
            self.sampler_state = None if self.sampler is None else self.sampler.state()
            if self.done % self.checkpoint_every == 0:
                self._save()
        self._validate()
        if self.progress is not None:
            self.progress(self.done, self.total, metrics)
        self.is_between = False

    def _validate(self) -> None:
        """Validate the agent if it is due. After a stop, the resumed training does it."""
        if self.validator is None or self.stop.requested or not self._is_validation_due():
            return
        returns = self.validator.measure(self.done)
        with self.stop.defer():
            self.validator.record(self.done, self.env_steps, returns)

    def _is_validation_due(self) -> bool:
        return self.validator is not None and self.validator.is_due(self.done, self.total)

    def _save(self) -> None:
        with_replay = self.keeps_replay or self.done < self.total
        arguments = (self.agent, self.done, self.env_steps, self.sampler_state)
        save_checkpoint(self.path / "checkpoint", *arguments, with_replay=with_replay)
        self.saved = self.done

    def _go_back(self) -> None:
        """Give up the current iteration: go back to the last finished one, or to the last checkpoint."""
        if self.tensors is None:
            self.done = self.saved
        else:
            self.agent.load_tensors(self.tensors)


def _sampler(path: Path, config: JsonObject, agent: Agent, start: int) -> CrossEntropySampler | None:
    """The task sampler of a run after `start` iterations; None if the family draws the tasks."""
    sampler = make_sampler(config.get("task_sampler", "family"), agent)
    if sampler is not None and start:
        with reading("checkpoint", str(file := path / "checkpoint.json"), "a whole metarl checkpoint"):
            sampler.load_state(read_head(file).get("task_sampler"), str(file))
    return sampler


def _copied_tensors(agent: Agent) -> dict[str, torch.Tensor] | None:
    """A copy of the agent's tensors, or None if they are large (a replay memory, for example)."""
    tensors = agent.tensors()
    if sum(value.nbytes for value in tensors.values()) > MOST_COPIED_BYTES:
        return None
    return {name: value.detach().clone() for name, value in tensors.items()}
