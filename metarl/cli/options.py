"""Options of the command line: a dataclass for each command. Its docstrings are the text of `metarl COMMAND --help`."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from metarl.devices import Device
from metarl.errors import InvalidValueError, verbatim
from metarl.evaluation.modes import Mode
from metarl.online.streams import StreamKind
from metarl.runs.run import Checkpoint
from metarl.runs.task_sampling import SamplerName


@dataclass(frozen=True)
class ListOptions:
    """Show the registered families and agents, or the details of some of them."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Names of agents, and family ids, with or without a preset or keywords."""


@dataclass(frozen=True)
class ResumeOptions:
    """Continue an interrupted run, with the same bits as an uninterrupted one, or extend a finished run."""

    resume: Path
    """Run directory, or the folder of the runs of several seeds."""
    iterations: int | None = None
    """Total number of meta-updates, to train longer than the run was made for."""
    device: Device | None = None
    """Device to train on; by default the run's device."""
    wandb: str | None = None
    """Project of Weights & Biases that gets the metrics too; it needs the package wandb."""


@dataclass(frozen=True)
class TrainOptions:
    """Meta-train an agent on a family's train tasks."""

    family: str | None = None
    """Family id (required unless --env), for example metarl/PointNavigation-v0, or ID:PRESET."""
    env: str | None = None
    """Instead of a family: a registered Gymnasium id, or MODULE:ID. Its parameters --param are the task."""
    param: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """With --env, repeated: a parameter of the task and how tasks draw it, NAME=LOW:HIGH (uniform), NAME=log:LOW:HIGH
    (log-uniform), NAME=int:LOW:HIGH (whole numbers), NAME=normal:MEAN:STD or NAME=A,B,C (one of these)."""
    apply: Literal["attrs", "options", "set_task", "kwargs", "seed"] = "attrs"
    """With --env: how the environment gets a task. attrs: as attributes; options: reset(options=task); set_task:
    set_task(task); kwargs: as keywords of a new environment; seed: the one parameter seeds the reset."""
    horizon: int | None = None
    """With --env: steps per episode; by default the environment's time limit."""
    like: str | None = None
    """Row of a suite, SUITE/STUDY/ENTRY, such as mujoco/half_cheetah_dir/maml: its family, its hyperparameters, its
    iterations and how it is trained are the defaults of the other options. metarl benchmark SUITE --dry-run lists all
    rows."""
    iterations: int = 100
    """Meta-updates."""
    out: Path | None = None
    """Run directory to make; runs/AGENT-FAMILY-seedSEED by default. With --seeds: the folder of the runs, by default
    runs/AGENT-FAMILY."""
    seed: int = 0
    """Seed of the initial parameters, the tasks and all draws."""
    seeds: tuple[int, ...] = ()
    """Instead of --seed: several seeds, trained one after another, each with a run of its own, OUT/seedSEED. The same
    command continues them after an interruption."""
    device: Device = "cpu"
    """Device to train on."""
    checkpoint_every: int = 10
    """Iterations between checkpoints."""
    begin_with: Path | None = None
    """Run whose parameters the training begins with. Its family may be another one: parameters whose shape depends on
    the spaces are then new. With --seeds it may also be the folder of several seeds, for each seed its own."""
    task_sampler: SamplerName = "family"
    """What draws the train tasks: family, the family's distribution, or cem, a distribution that the cross-entropy
    method moves to the tasks with the lowest returns (RoML, arXiv:2301.11147)."""
    eval_every: int = 0
    """Iterations between validations, which give the learning curve and the best checkpoint; 0 for none."""
    eval_tasks: int | None = None
    """Number of tasks of a validation; by default 20, and more for agents with a memory if episodes are short. They are
    tasks of the split valid if the family has one, else train tasks, and never test tasks."""
    wandb: str | None = None
    """Project of Weights & Biases that gets the metrics too; it needs the package wandb."""


@dataclass(frozen=True)
class EvalOptions:
    """Measure the return after k adaptation steps on held-out tasks."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Run directories (several: the same agent with several seeds), the folder of several seeds' runs, or the name of
    an agent that needs no training. The hyperparameters of such an agent are the options --agent.NAME.
    Rows of a benchmark (SUITE/STUDY/ENTRY) are evaluated again by their own protocol, and compared with what is
    stored."""
    checkpoint: Checkpoint = "last"
    """Checkpoint of the runs: last, or best, the one with the highest return in validation (train --eval-every)."""
    average: bool = False
    """Evaluate one agent whose networks are the mean of the runs' networks, for runs that began with the same
    parameters."""
    family: str | None = None
    """Family id; by default the runs' family."""
    k: tuple[int, ...] = (3,)
    """Adaptation steps: the last one (the grid is then 0, ..., k), or the grid itself."""
    split: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """test (the default), train, or the name of an out-of-distribution split. Repeatable: --split test --split train
    also measures the gap between the two."""
    num_tasks: int | None = None
    """Number of tasks: 0, ..., num_tasks - 1 of the split. The default is 40; for a split with fewer tasks, it is the
    next multiple of their number."""
    task_seed: int = 0
    """Seed of the split."""
    trials: int = 1
    """Independent trials of each task."""
    episodes: int = 20
    """Fresh episodes per task, trial, k and mode."""
    eval_steps: int | None = None
    """Most environment steps of an adaptation step, for agents that have this hyperparameter. The default is the value
    of the runs, also for the agents of --beside."""
    floor_episodes: int = 20
    """Random episodes per task that estimate the floor, if the family does not know it; 0 for no estimate."""
    seed: int = 0
    """Seed of the evaluation."""
    device: Device = "cpu"
    """Device to evaluate on."""
    beside: tuple[str, ...] = ()
    """Agents that need no training and are evaluated too, for example: random oracle."""
    out: Path | None = None
    """Results file, for one split; by default results/SPLIT.json (of --checkpoint best: results/SPLIT-best.json, of
    --average: results/SPLIT-average.json) in the run, in the folder of several seeds, or else in the first run."""


@dataclass(frozen=True)
class ReportOptions:
    """Write one self-contained HTML page from results."""

    sources: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run directories, folders of such, results files, or patterns such as 'runs/*'; agents keep this order."""
    out: Path = Path("report")
    """Directory for report.html, and for report_files with its figures and tables."""
    title: str = "metarl report"
    """Heading of the page."""
    files: bool = True
    """Write the figures (PNG, PDF, SVG) and the tables (CSV, markdown, LaTeX) beside the page."""


@dataclass(frozen=True)
class CompareOptions:
    """Compare two evaluations of the same tasks: the difference in returns, and how often one agent is better."""

    first: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="A")]
    """Results file, or a folder with one: a run, or a row of a benchmark."""
    second: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="B")]
    """The other one; the command prints A minus B."""
    mode: Mode | None = None
    """Whose actions: "sampled" or "deterministic"; by default the first that both have."""
    force: bool = False
    """Compare even if the protocols differ, where the tasks and k are the same."""


@dataclass(frozen=True)
class BenchmarkOptions:
    """Train and evaluate a suite of families, agents and seeds; what is done already is not done again.

    Examples:
        metarl benchmark quick --dry-run            show what it is, and what it costs
        metarl benchmark quick --report page        do it, minutes on two cores, and write page/report.html
        metarl benchmark my_suite.py --only navigation/maml
        metarl benchmark my_suite.py --verify       evaluate its rows again from their weights
    """

    suite: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SUITE")]
    """Name of a suite of the package, or a Python file that defines `suite` (docs/tutorials/benchmark.md)."""
    dry_run: bool = False
    """Show the folder, the cells, what is done or refused and what the rest costs, and stop."""
    only: tuple[str, ...] = ()
    """Parts of the suite: STUDY, STUDY/ENTRY or STUDY/ENTRY/seedN, with the trainings that they need."""
    report: Path | None = None
    """Directory for report.html."""
    out: Path | None = None
    """Folder of the suite's runs and results; by default runs/NAME-OF-THE-SUITE."""
    jobs: int = 0
    """Cells side by side, each in a process with one thread; 0: as many as there are cores."""
    verify: bool = False
    """Evaluate every finished row again from its weights, say whether the numbers are equal, and stop."""
    device: Device = "cpu"
    """Device of the agents."""
    ray: str | None = None
    """Address of a Ray cluster (HOST:PORT, or auto for one of this machine) whose workers do the cells, in place of
    processes of this machine. The folder must have the same path on all machines. Needs the extra ray."""


@dataclass(frozen=True)
class OnlineOptions:
    """Meta-train an agent online: it meets the tasks of a stream, one a round, and learns from those it has met."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="AGENT")]
    """Name of the agent. Its hyperparameters are the options --agent.NAME; they also hold for those of --beside that
    have them."""
    family: str | None = None
    """Family id, for example metarl/PointNavigation-v0, or ID:PRESET."""
    rounds: int = 30
    """Tasks of a stream."""
    stream: StreamKind = "stationary"
    """stationary: independent train tasks; drifting: the same tasks, sorted by the family's first parameter that has an
    order."""
    updates: int | None = None
    """Meta-updates after each round; by default 1, and 0 for an agent that does not learn."""
    k: tuple[int, ...] = (1,)
    """Adaptation steps in a task: the last one (the grid is then 0, ..., k), or the grid itself."""
    episodes: int = 20
    """Fresh episodes per task and k."""
    floor_episodes: int = 20
    """Random episodes per task that estimate the floor, if the family does not know it; 0 for no estimate."""
    beside: tuple[str, ...] = ()
    """Agents that play the same streams, such as pretrained (train on everything, then fine-tune) and scratch."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the streams and of the agents, a stream for each."""
    out: Path | None = None
    """Directory for a results file of each agent, and for online.png."""
    device: Device = "cpu"
    """Device of the agents."""


@dataclass(frozen=True)
class WatchOptions:
    """Film an agent in one task: an episode after 0, ..., k adaptation steps, side by side."""

    run: Annotated[str, tyro.conf.Positional]
    """Run directory, or the name of an agent that needs no training."""
    family: str | None = None
    """Family id; by default the run's family."""
    k: tuple[int, ...] = (3,)
    """Adaptation steps: the last one (the panels are then 0, ..., k), or the list of k to show."""
    task: int = 0
    """Number of the task in the split."""
    split: str = "test"
    """test, train, or the name of an out-of-distribution split."""
    task_seed: int = 0
    """Seed of the split."""
    mode: Mode = "deterministic"
    """How actions are chosen: sampled, as in training, or deterministic, the mean or likeliest action."""
    seed: int = 0
    """Seed of the evaluation; metarl eval with the same seed plays the same episodes."""
    out: Path | None = None
    """A .gif file, or an .mp4 file, which needs ffmpeg; by default RUN/results/SPLIT-taskTASK.gif."""
    size: int = 256
    """Width of a panel in pixels."""
    fps: float | None = None
    """Frames per second; by default the film lasts about four seconds."""
    device: Device = "cpu"
    """Device to play on."""


@dataclass(frozen=True)
class CheckFamilyOptions:
    """Test a family against the contract; prints one sentence for each violation."""

    id: Annotated[str, tyro.conf.Positional]
    """Family id, or ID:PRESET."""
    seed: int = 0
    """Seed of the test."""
    device: Device = "cpu"
    """Device to test on."""


@dataclass(frozen=True)
class CheckAgentOptions:
    """Test an agent against the contract; prints one sentence for each violation."""

    name: Annotated[str, tyro.conf.Positional]
    """Name of the agent. Its hyperparameters are the options --agent.NAME."""
    family: str | None = None
    """Family id, played with short episodes; by default four small built-in families that the agent accepts."""
    seed: int = 0
    """Seed of the agent, the tasks and all draws."""
    device: Device = "cpu"
    """Device to play and train on."""


@dataclass(frozen=True)
class QuickstartOptions:
    """Train MAML and RL2, evaluate both on held-out tasks, print a table, write a report: minutes on 2 CPU cores."""

    out: Path = Path("metarl-quickstart")
    """Directory for the runs and the report."""
    seed: int = 0
    """Seed of all draws."""
    device: Device = "cpu"
    """Device to train on."""
    short: bool = False
    """Whether to train only a tenth, to test that everything runs."""


MOST: dict[str, int] = {  # largest absolute value of an option; commands check the smallest value
    **dict.fromkeys(("seed", "seeds", "task_seed"), (1 << 63) - 1),
    "task": 10**12,
    **dict.fromkeys(("iterations", "updates", "checkpoint_every", "eval_every", "horizon", "eval_steps"), 10**9),
    **dict.fromkeys(("num_tasks", "eval_tasks", "rounds"), 10**7),
    **dict.fromkeys(("trials", "episodes", "floor_episodes"), 10**6),
    "k": 10**5,
    "size": 1 << 12,
    "fps": 1000,
}


def check_options(options: Any) -> None:
    """Check that numbers are in range and that paths are valid file names.

    Raises:
        InvalidValueError: an option is out of range, or a path is empty, too long or holds a null character.
    """
    for field in fields(options):
        value = getattr(options, field.name)
        if field.name == "k" and value == ():
            raise InvalidValueError("--k", verbatim("nothing"), "one number or more")
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, Path) or field.name in ("runs", "run"):
                _check_path(f"--{field.name}" if isinstance(item, Path) else field.name, item)
            elif isinstance(item, (int, float)) and field.name in MOST:
                _check_number(field.name, item)


def _check_number(name: str, value: float) -> None:
    if not abs(value) <= MOST[name]:
        raise InvalidValueError(f"--{name.replace('_', '-')}", value, f"a number of at most {MOST[name]}")


def _check_path(name: str, path: str | Path) -> None:
    try:
        str(path).encode()
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):  # the command that reads the file reports it
        pass
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidValueError(name, str(path), f"the name of a file or directory ({reason})") from error
