"""Validation during a training: the return after k adaptation steps, every so many iterations.

    RUN/validation.jsonl                  one line per validation
    RUN/best.json, best-N.safetensors     the checkpoint with the highest return at the last k

Every draw is keyed by the run's seed and the iteration, and the agent adapts by values. So a training has the same bits
with and without validation.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metarl.agent_base import Agent
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.engine.step_listeners import not_listening
from metarl.errors import InvalidValueError
from metarl.evaluation.playing import play_part
from metarl.families.family import Family
from metarl.families.tasks import Tasks
from metarl.files import OBJECT, TEXT, JsonObject, Kind, check_fields, whole, write_atomic
from metarl.rng import make_key
from metarl.runs.checkpoints import save_checkpoint
from metarl.runs.curves import FILE, GRID, Validated, read_validation
from metarl.runs.metrics_log import Metrics, writing

TASKS = 20  # number of tasks by default
STEPS = 1000  # least number of steps of one episode in all tasks, for agents with a memory
EPISODES = 2  # scored episodes per task and k
_STEPS = Kind("a whole number or null", lambda value: value is None or whole(1).holds(value))
_FIELDS = dict.fromkeys(("every", "tasks", "episodes"), whole(1)) | {"split": TEXT, "k": GRID, "eval_steps": _STEPS}


@dataclass(frozen=True)
class Validation:
    """How a run is validated; `config.json` keeps it.

    Attributes:
        every: iterations between two validations.
        split: split of the tasks: "valid" if the family has a split of this name, else "train"; never "test".
        tasks: number of tasks. They are the same at every validation and in all runs of a family.
        episodes: scored episodes per task and k.
        k: numbers of adaptation steps: 0, and as many as the agent takes in training.
        eval_steps: half of the agent's hyperparameter of this name; None if it has none.
    """

    every: int
    split: str
    tasks: int
    episodes: int
    k: list[int]
    eval_steps: int | None

    @classmethod
    def of_agent(cls, agent: Agent, every: int, tasks: int | None = None) -> Validation:
        """The validation of an agent on about `tasks` tasks, every `every` iterations.

        By default there are 20 tasks. Agents with a memory get more if episodes are short: their steps are cheap, and
        returns of short episodes are noisy. If a split has fewer tasks, the number is rounded up to a multiple, so that
        all are played equally often.

        Raises:
            InvalidValueError: a number is out of range.
        """
        if tasks is None:
            tasks = max(TASKS, STEPS // agent.family.horizon) if agent.is_recurrent else TASKS
        for name, value in (("eval_every", every), ("eval_tasks", tasks)):
            if not whole(1).holds(value):
                raise InvalidValueError(name, value, whole(1).words)
        split = "valid" if "valid" in agent.family.splits else "train"
        steps = getattr(agent.config, "eval_steps", None)
        half = None if steps is None else max(1, steps // 2)
        return cls(every, split, _multiple(agent.family, split, tasks), EPISODES, sorted({0, _usual_k(agent)}), half)

    @classmethod
    def of_run(cls, config: JsonObject, where: str = "the run") -> Validation | None:
        """The checked validation in the content of `config.json`; None if the run is not validated."""
        if "validation" not in config:
            return None
        check_fields(config, {"validation": OBJECT}, where)
        check_fields(config["validation"], _FIELDS, f"validation of {where}")
        return cls(**{field.name: config["validation"][field.name] for field in dataclasses.fields(cls)})

    def draw(self, family: Family) -> Tasks:
        """The tasks. Their seed is none that users choose, so they are not the first tasks of a training."""
        return family.tasks(self.split, self.tasks, make_key("validation"))


def _multiple(family: Family, split: str, tasks: int) -> int:
    """`tasks`, or the next multiple of the split's number of tasks if it has fewer."""
    every = family.listed(split)
    count = 1 if every is None or len(every) >= tasks else len(every)
    return -(-tasks // count) * count


def _usual_k(agent: Agent) -> int:
    """Adaptation steps in training: before the last episode of a trial, or inner steps; 1 if nothing says it."""
    episodes, steps = (getattr(agent.config, name, None) for name in ("trial_episodes", "inner_steps"))
    return episodes - 1 if episodes is not None else max(1, steps or 1)


class Validator:
    """Validates the agent of a run, writes the results, and keeps the best checkpoint.

    On entering, the validations that a resumed run repeats are removed from the file.

    Args:
        path: the run directory.
        settings: how to validate.
        agent: the agent, which other code trains.
        start: number of finished iterations.
        log: the log for TensorBoard.
    """

    def __init__(self, path: Path, settings: Validation, agent: Agent, start: int, log: Metrics) -> None:
        self.path, self.settings, self.agent, self.start, self.log = path, settings, agent, start, log
        self.files = [path / name for name in (FILE, "best-0.safetensors", "best.json")]  # of the first validation
        self.pool = EnvironmentPool(agent.family, agent.device)
        self.tasks = settings.draw(agent.family)

    def __enter__(self) -> Validator:
        self.lines = read_validation(self.path, self.start)
        expected = 1 + self.start // self.settings.every  # the validation at `start` may be missing after a kill
        if self.start and len(self.lines) < expected - (self.start % self.settings.every == 0):
            warnings.warn(
                f"{self.path / FILE} has {len(self.lines)} of {expected} validations: some were lost", stacklevel=2
            )
        write_atomic(self.path / FILE, "".join(f"{line.line()}\n" for line in self.lines).encode())
        with writing(self.path):
            self.file = (self.path / FILE).open("a", buffering=1)
        if self.lines and self.lines[-1].iteration == self.start:
            self._plot(self.lines[-1])  # TensorBoard hides what was written there before a run resumed
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.pool.close()
        with writing(self.path) if kind is None else suppress(OSError):
            self.file.close()

    def is_due(self, done: int, total: int) -> bool:
        """Whether to validate now: after every `every` iterations, before the first and after the last one, once."""
        is_new = not self.lines or self.lines[-1].iteration < done
        return is_new and (done % self.settings.every == 0 or done == total)

    def measure(self, done: int) -> list[float]:
        """The mean return of a fresh episode after each k, with sampled actions.

        Args:
            done: number of finished iterations; part of the keys.
        """
        agent, s = self.agent, self.settings
        trials = PoolTrials(self.pool, self.tasks, 1, agent.seed, "validate", done)
        with _eval_steps(agent, s.eval_steps), not_listening():
            part = play_part(agent, trials, s.k, s.episodes, ("sampled",), slice(0, 0), lambda: None)
        return [float(scores.mean()) for scores in part.scores["sampled"]]

    def record(self, done: int, env_steps: int, returns: list[float]) -> None:
        """Write a validation. If its return at the last k is higher than all before, save the best checkpoint first.

        Args:
            done: number of finished iterations.
            env_steps: environment steps of the training so far.
            returns: what `measure` returned.
        """
        if all(returns[-1] > line.returns[-1] for line in self.lines):
            save_checkpoint(self.path / "best", self.agent, done, env_steps, with_replay=False)  # never trained
        line = Validated(done, env_steps, self.settings.k, returns)
        with writing(self.path):
            self.file.write(f"{line.line()}\n")
        self.lines.append(line)
        self._plot(line)

    def _plot(self, line: Validated) -> None:
        values = {f"validation/return_{k}": value for k, value in zip(line.k, line.returns, strict=True)}
        self.log.plot(line.iteration, values)


@contextmanager
def _eval_steps(agent: Agent, steps: int | None) -> Iterator[None]:
    """Within this context, an adaptation step of the agent's evaluation uses at most `steps` environment steps."""
    config: Any = agent.config
    if steps is not None:
        agent.config = dataclasses.replace(config, eval_steps=steps)
    try:
        yield
    finally:
        agent.config = config
