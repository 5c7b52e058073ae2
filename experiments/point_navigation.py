"""Gradient-based agents on 2-D navigation: the MAML paper's protocol, and all estimators and variants.

    python experiments/point_navigation.py --settings paper            # train, evaluate, save one row
    python experiments/point_navigation.py --settings dense-lvc dense-anil --seeds 0 1 2 3 4
    python experiments/point_navigation.py --list                      # all rows

"paper" is the protocol of Finn, Abbeel and Levine (2017, arXiv:1703.03400, section 5.3): 40 tasks x 20 episodes x 100
steps, 100 meta-updates, TRPO. "paper-decay" evaluates the same runs with decreasing inner step sizes.
"steps2" trains the policies after both of two inner steps, on the smaller batches of the quickstart. Rows dense-* and
sparse-* compare methods after 50 meta-updates on 20 tasks x 10 episodes, the second on the sparse semi-circle. All are
evaluated on 40 held-out goals with 4,000 environment steps per adaptation step, sampled and deterministic actions.
Writes a file for each setting, for example `experiments/results/navigation/dense/lvc.json`; runs resume if they were
interrupted.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro
from results_files import RESULTS, results_file
from rich.progress import Progress

import metarl
from metarl.cli.quickstart import QUICKSTART
from metarl.errors import InvalidValueError, did_you_mean
from metarl.runs.load import with_settings
from metarl.runs.run import Run

DECAY = (1.0, 0.35, 0.175)  # chosen on train goals: experiments/LOG.md
DENSE, SPARSE = "metarl/PointNavigation-v0", "metarl/PointNavigation-v0:semicircle100"
COMPARED = {"dense": DENSE, "sparse": SPARSE}  # families on which every method is trained


@dataclass(frozen=True)
class Setting:
    """One row: the agent, the family, the meta-updates, changed settings, and settings changed for the evaluation."""

    agent: str
    family: str = DENSE
    iterations: int = 0
    overrides: dict[str, Any] = field(default_factory=dict)
    runs: str = ""  # the row whose runs are evaluated; empty: this row
    evaluation: dict[str, Any] = field(default_factory=dict)


def _settings() -> dict[str, Setting]:
    small = next(
        study for study in QUICKSTART if study.agent == "maml"
    )  # trained with two inner steps; the evaluation takes three
    trained_with = dict(small.overrides)
    schedule = trained_with.pop("inner_lr_schedule")
    out = {
        "paper": Setting("maml", DENSE, 100),  # the defaults
        "paper-stride5": Setting("maml", DENSE, 100, {"fvp_stride": 5}),
        "steps2": Setting("maml", DENSE, small.iterations, trained_with, evaluation={"inner_lr_schedule": schedule}),
        "paper-decay": Setting("maml", DENSE, 100, runs="paper", evaluation={"inner_lr_schedule": DECAY}),
    }
    batch: dict[str, Any] = {"meta_batch_size": 20, "episodes": 10}
    trpo = batch | {"fvp_stride": 5}
    methods: dict[str, tuple[str, dict[str, Any]]] = {
        "exact": ("maml", batch),
        "naive": ("maml", trpo),
        "lvc": ("maml", trpo | {"estimator": "lvc"}),
        "dice": ("maml", trpo | {"estimator": "dice"}),
        "loaded-dice": ("maml", trpo | {"estimator": "loaded_dice"}),
        "fomaml": ("fomaml", trpo),
        "e-maml": ("e_maml", trpo),
        "anil": ("anil", trpo),
        "meta-sgd": ("meta_sgd", trpo),
        "cavia": ("cavia", trpo),
        "promp": ("promp", batch),
        "maml-pp": ("maml_pp", batch | {"schedule_iterations": 50}),
        "reptile": ("reptile", batch),
        "pretrained": ("pretrained", trpo),
    }
    for prefix, family in COMPARED.items():
        out |= {f"{prefix}-{name}": Setting(agent, family, 50, changed) for name, (agent, changed) in methods.items()}
        out |= {f"{prefix}-{name}": Setting(name, family) for name in ("scratch", "random", "oracle")}
    return out


SETTINGS = _settings()


@dataclass(frozen=True)
class Options:
    """Options of the experiment."""

    settings: tuple[str, ...] = ("paper",)
    """Names of rows."""
    list: bool = False
    """Print the rows and stop."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds; each is one training run."""
    goals: int = 40
    """Number of held-out goals; the paper has 40. More goals make the interval narrower."""
    runs: Path = Path("runs/point_navigation")
    """Directory of the runs."""
    out: Path = RESULTS
    """Folder of all results files."""
    threads: int = 1
    """Number of PyTorch threads; it may change the rounding of sums."""
    train_only: bool = False
    """Whether to train without an evaluation; a later call evaluates the finished runs."""


def setting_file(setting: str, root: Path = RESULTS) -> Path:
    """Path of the results file of a row. The name of a row may end in its number of goals."""
    family, _, method = setting.partition("-")
    if family in COMPARED:
        return results_file(f"navigation-{family}", method, root)
    return results_file("navigation", setting, root)


def trained(options: Options, name: str, seed: int) -> metarl.Agent:
    """Train the agent of one seed; an existing run is continued."""
    setting = SETTINGS[name]
    source = SETTINGS[setting.runs or name]
    agent = metarl.make_agent(source.agent, source.family, seed=seed, **source.overrides)
    if source.iterations:
        path = options.runs / (setting.runs or name) / f"seed{seed}"
        agent = trained_run(path, agent, source.iterations, f"{name}, seed {seed}")
    return with_settings(agent, **setting.evaluation)


def trained_run(
    path: Path,
    agent: metarl.Agent,
    iterations: int,
    label: str,
    checkpoint_every: int = 10,
    begin: Callable[[Any], object] | None = None,
) -> metarl.Agent:
    """Train the agent of a run. An existing run is continued; a new run is made, and `begin` gets its agent."""
    if not (path / "config.json").exists():
        Run.create(path, agent, iterations, checkpoint_every)
    run = Run.open(path)
    refuse_another(run, agent, iterations)
    new = not (path / "checkpoint.json").exists()
    agent, start = run.load_agent(agent.device.type)
    if new and begin:
        begin(agent)
    with Progress() as bar:
        task = bar.add_task(label, total=iterations, completed=start)
        run.train(agent, start, lambda done, total, metrics: bar.update(task, completed=done))
    return agent


def refuse_another(run: Run, agent: metarl.Agent, iterations: int) -> None:
    """Raise if a run was made with other settings than this row's."""
    wanted = {"agent": agent.name, "family": agent.family.id, "iterations": iterations, "seed": agent.seed}
    wanted["config"] = json.loads(json.dumps(asdict(agent.config)))
    for name, value in wanted.items():
        if run.config[name] != value:
            raise InvalidValueError(
                f"{name} of run {run.path}", run.config[name], f"{value}, this row's (or another --runs)"
            )


def main(options: Options) -> None:
    """Train, evaluate and save."""
    for name in options.settings:
        if name not in SETTINGS:
            raise InvalidValueError("--settings", name, did_you_mean(name, SETTINGS))
    if not options.seeds:
        raise InvalidValueError("--seeds", options.seeds, "at least one")
    if options.list:
        for name, setting in SETTINGS.items():
            changed = setting.overrides | setting.evaluation
            print(f"{name:20}{setting.agent:12}{setting.iterations:4}  {setting.family}  {changed}")
        return
    torch.set_num_threads(options.threads)
    for name in options.settings:
        is_seedless = SETTINGS[name].agent in ("random", "oracle")  # no seed dependence: one agent is enough
        agents = [trained(options, name, seed) for seed in (options.seeds[:1] if is_seedless else options.seeds)]
        if options.train_only:
            continue
        tasks = agents[0].family.tasks("test", options.goals)
        results = metarl.evaluate(agents, tasks, k=3, episodes=20)
        more = "" if options.goals == 40 else f" --goals {options.goals}"
        if not is_seedless and options.seeds != Options.seeds:
            more += " --seeds " + " ".join(map(str, options.seeds))
        results.meta["command"] = f"python experiments/point_navigation.py --settings {name}{more}"
        results.meta["iterations"] = SETTINGS[name].iterations
        results.meta["evaluation"] = SETTINGS[name].evaluation
        row = name if options.goals == 40 else f"{name}-{options.goals}"
        print(results.save(setting_file(row, options.out)))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
