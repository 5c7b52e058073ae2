"""The command line's options: a dataclass per command, whose docstrings are what `metarl COMMAND --help` shows."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from metarl.agent_base import Device
from metarl.errors import InvalidValueError, verbatim
from metarl.evaluation.modes import Mode


@dataclass(frozen=True)
class ListOptions:
    """Show the registered families and agents, or all there is to know of some of them."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Family ids, with a preset or keywords where wanted, and names of agents."""


@dataclass(frozen=True)
class ResumeOptions:
    """Continue an interrupted run to the same bits as an unbroken one, or let a finished one go on."""

    resume: Path
    """Run directory."""
    iterations: int | None = None
    """Meta-updates in all, to train for longer than the run was begun with."""
    device: Device | None = None
    """Where to train; by default where the run began."""


@dataclass(frozen=True)
class TrainOptions:
    """Meta-train an agent on a family's train tasks."""

    family: str | None = None
    """Family id, for example metarl/PointNavigation-v0, or ID:PRESET."""
    env: str | None = None
    """In place of a family: a registered Gymnasium id, or MODULE:ID, whose attributes --param makes the task."""
    param: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Of --env, repeated: NAME=LOW:HIGH, NAME=log:LOW:HIGH, NAME=int:LOW:HIGH, NAME=normal:MEAN:STD or NAME=A,B,C."""
    apply: Literal["attrs", "options", "set_task", "kwargs", "seed"] = "attrs"
    """Of --env: how a task reaches it."""
    horizon: int | None = None
    """Of --env: steps per episode; by default its own time limit."""
    iterations: int = 100
    """Meta-updates."""
    out: Path | None = None
    """Run directory to make; runs/AGENT-FAMILY-seedSEED by default."""
    seed: int = 0
    """Of initial parameters, tasks and everything drawn."""
    device: Device = "cpu"
    """Where to train."""
    checkpoint_every: int = 10
    """Iterations between checkpoints."""


@dataclass(frozen=True)
class EvalOptions:
    """Measure the return after k adaptation steps on held-out tasks."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Run directories (several: the same agent with several seeds), or the name of an agent that needs no training; its
    hyperparameters are then options, --agent.NAME."""
    family: str | None = None
    """Family id; by default the runs' own."""
    k: tuple[int, ...] = (3,)
    """Adaptation steps: the last one (the grid is then 0, ..., k), or the grid itself."""
    split: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """test (if none is given), train, or the name of an out-of-distribution split; repeated: --split test --split train
    give the gap between them."""
    num_tasks: int | None = None
    """Tasks 0, ..., num_tasks - 1 of the split; by default 40, or the next multiple of a split's tasks where it has
    fewer."""
    task_seed: int = 0
    """Seed of the split."""
    trials: int = 1
    """Independent trials of each task."""
    episodes: int = 20
    """Fresh episodes per task, trial, k and mode."""
    eval_steps: int | None = None
    """Environment steps that an adaptation step eats at most, of agents whose hyperparameters have this one; by default
    the runs' own, for agents beside them as well."""
    floor_episodes: int = 20
    """Random episodes per task that measure the floor of a family that does not know its own; 0 for none."""
    seed: int = 0
    """Of the evaluation's randomness."""
    device: Device = "cpu"
    """Where to evaluate."""
    beside: tuple[str, ...] = ()
    """Agents that need no training to measure as well, for example: random oracle."""
    out: Path | None = None
    """Results file, of one split; by default RUN/results/SPLIT.json, in the first run."""


@dataclass(frozen=True)
class ReportOptions:
    """Write one self-contained HTML page from results."""

    sources: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run directories, or results files."""
    out: Path = Path("report")
    """Directory for report.html."""
    title: str = "metarl report"
    """Heading."""


@dataclass(frozen=True)
class BenchmarkOptions:
    """Train and evaluate a suite of families, agents and seeds; what is done already is not done again."""

    suite: Annotated[str, tyro.conf.Positional]
    """A suite of the package, or a Python file that defines `suite`."""
    only: tuple[str, ...] = ()
    """Parts of it: STUDY, STUDY/ENTRY or STUDY/ENTRY/seedN."""
    out: Path | None = None
    """Folder of its runs and results; by default runs/NAME-OF-THE-SUITE."""
    jobs: int = 0
    """Cells side by side, each in a process with one thread; 0: as many as there are cores."""
    device: Device = "cpu"
    """Of the agents: "auto", "cpu" or "cuda"."""
    dry_run: bool = False
    """Show the cells, what they cost and what is done, and stop."""
    report: Path | None = None
    """Directory for report.html."""


@dataclass(frozen=True)
class WatchOptions:
    """Film an agent in one task: an episode after 0, ..., k adaptation steps, side by side."""

    run: Annotated[str, tyro.conf.Positional]
    """Run directory, or the name of an agent that needs no training."""
    family: str | None = None
    """Family id; by default the run's own."""
    k: tuple[int, ...] = (3,)
    """Adaptation steps: the last one (the panels are then 0, ..., k), or those to show."""
    task: int = 0
    """Number of the task in the split."""
    split: str = "test"
    """test, train, or the name of an out-of-distribution split."""
    task_seed: int = 0
    """Seed of the split."""
    mode: Mode = "deterministic"
    """How actions are chosen: sampled, as in training, or deterministic, the mean or the likeliest."""
    seed: int = 0
    """Of the evaluation's randomness: metarl eval with the same seed plays the same episodes."""
    out: Path | None = None
    """A .gif, or an .mp4 where ffmpeg is installed; by default RUN/results/SPLIT-taskTASK.gif."""
    size: int = 256
    """Width of a panel in pixels."""
    fps: float | None = None
    """Frames per second; by default the film lasts about four seconds."""
    device: Device = "cpu"
    """Where to play."""


@dataclass(frozen=True)
class CheckFamilyOptions:
    """Test a family against the contract; one sentence per violation."""

    id: Annotated[str, tyro.conf.Positional]
    """Family id, or ID:PRESET."""
    seed: int = 0
    """Of the probes."""
    device: Device = "cpu"
    """Where to probe."""


@dataclass(frozen=True)
class CheckAgentOptions:
    """Test an agent against the contract; one sentence per violation."""

    name: Annotated[str, tyro.conf.Positional]
    """Name of the agent; its hyperparameters are then options, --agent.NAME."""
    family: str | None = None
    """Family id, to play with short episodes; by default those of four small built-in ones that the agent takes."""
    seed: int = 0
    """Of the agent, the tasks and all that is drawn."""
    device: Device = "cpu"
    """Where to play and train."""


@dataclass(frozen=True)
class QuickstartOptions:
    """Train MAML and RL2, evaluate both on held-out tasks, print a table, write a report: minutes on 2 cores."""

    out: Path = Path("metarl-quickstart")
    """Directory for runs and report."""
    seed: int = 0
    """Of everything drawn."""
    device: Device = "cpu"
    """Where to train."""
    short: bool = False
    """A tenth of the training, to see that everything runs."""


MOST: dict[str, int] = {  # how large an option may be, or how far below zero; commands know their least values
    **dict.fromkeys(("seed", "task_seed"), (1 << 63) - 1),
    "task": 10**12,
    **dict.fromkeys(("iterations", "checkpoint_every", "horizon", "eval_steps"), 10**9),
    "num_tasks": 10**7,
    **dict.fromkeys(("trials", "episodes", "floor_episodes"), 10**6),
    "k": 10**5,
    "size": 1 << 12,
    "fps": 1000,
}


def check_options(options: Any) -> None:
    """Refuse numbers that no command can use, and texts that no file can be named.

    Raises:
        InvalidValueError: an option is out of range, or a path is empty, too long or holds a null character.
    """
    for field in fields(options):
        value = getattr(options, field.name)
        if field.name == "k" and value == ():
            raise InvalidValueError("--k", verbatim("nothing"), "one number or more")
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, Path) or field.name in ("runs", "run"):
                _check_path(f"--{field.name}" if isinstance(one, Path) else field.name, one)
            elif isinstance(one, (int, float)) and field.name in MOST:
                _check_number(field.name, one)


def _check_number(name: str, value: float) -> None:
    if not abs(value) <= MOST[name]:
        raise InvalidValueError(f"--{name.replace('_', '-')}", value, f"a number of at most {MOST[name]}")


def _check_path(name: str, path: str | Path) -> None:
    try:
        str(path).encode()
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):  # whoever reads or writes it says so
        pass
    except (OSError, ValueError) as error:
        told = error.strerror if isinstance(error, OSError) else error
        raise InvalidValueError(name, str(path), f"the name of a file or directory ({told})") from error
