"""Short trainings on the families of robots: HalfCheetahVel, AntDir, Meta-World's ML1-reach.

    python experiments/robots.py --studies half_cheetah_vel         # train, evaluate, save
    python experiments/robots.py --list                             # all studies

They show that the families can be learned from and what such a curve looks like after minutes on a CPU; they are far
from what the agents reach with more steps, and no published number stands beside them. Held-out tasks, 95 % intervals.
Writes `experiments/results/robots/STUDY/AGENT.json`, the training curves among its `meta`; runs resume if they were
interrupted. Needs `pip install -e '.[mujoco,metaworld]'`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from point_navigation import trained_run
from results_files import RESULTS, results_file

import metarl
from metarl.errors import InvalidValueError, did_you_mean
from metarl.evaluation.results import Results
from metarl.report.figures import PALETTE

MAML = {"hidden": (64, 64), "inner_lr": 0.1, "fvp_stride": 5}
RL2 = {"hidden": 64, "trial_episodes": 2, "normalize_rewards": True, "gae_lambda": 0.9, "minibatches": 4}


@dataclass(frozen=True)
class Training:
    """How one agent is trained and evaluated."""

    iterations: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    k: int = 2


@dataclass(frozen=True)
class Study:
    """One family, and who plays it."""

    family: str
    agents: Mapping[str, Training]
    tasks: int  # held out
    episodes: int  # for each R_k


STUDIES = {
    "half_cheetah_vel": Study(
        "metarl/HalfCheetahVel-v0",
        {
            "maml": Training(60, MAML | {"meta_batch_size": 20, "episodes": 10, "eval_steps": 4000}),
            "rl2": Training(120, RL2 | {"meta_batch_size": 80}, k=1),
            "random": Training(),
        },
        tasks=40,
        episodes=4,
    ),
    "ant_dir": Study(
        "metarl/AntDir-v0",
        {
            "maml": Training(40, MAML | {"meta_batch_size": 20, "episodes": 5, "eval_steps": 2000}),
            "random": Training(),
        },
        tasks=20,
        episodes=2,
    ),
    "ml1_reach": Study(
        "metarl/MetaWorldML1-v0:reach",
        {
            "maml": Training(20, MAML | {"meta_batch_size": 10, "episodes": 4, "eval_steps": 5000}, k=1),
            "random": Training(k=1),
        },
        tasks=20,
        episodes=1,
    ),
}


@dataclass(frozen=True)
class Options:
    """What to run."""

    studies: tuple[str, ...] = ("half_cheetah_vel",)
    """By name."""
    agents: tuple[str, ...] = ()
    """Some of a study's agents; by default all of them."""
    list: bool = False
    """Print the studies and stop."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One training run for each."""
    runs: Path = Path("runs/robots")
    """Where the runs go."""
    out: Path = RESULTS
    """Folder of all results files."""
    threads: int = 1
    """Of PyTorch."""


def agent_of(options: Options, name: str, row: str, seed: int) -> metarl.Agent:
    """The agent of one seed, trained from where its run stands."""
    study, training = STUDIES[name], STUDIES[name].agents[row]
    agent = metarl.make_agent(row, study.family, seed=seed, **training.settings)
    if not training.iterations:
        return agent
    return trained_run(options.runs / name / row / f"seed{seed}", agent, training.iterations, f"{row}, {name}, {seed}")


def curve(options: Options, name: str, row: str, seed: int) -> dict[str, list[float]]:
    """What each meta-update of a run saw: returns by name, and environment steps so far."""
    path = options.runs / name / row / f"seed{seed}" / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    shown = [key for key in lines[0] if "return" in key]
    return {key: [round(line[key], 4) for line in lines] for key in shown}


def measured(options: Options, name: str, row: str) -> Results:
    """R_k on held-out tasks, and the training curves."""
    study, training = STUDIES[name], STUDIES[name].agents[row]
    seeds = options.seeds if training.iterations else options.seeds[:1]
    agents = [agent_of(options, name, row, seed) for seed in seeds]
    tasks = agents[0].family.tasks("test", study.tasks)
    results = metarl.evaluate(agents, tasks, k=training.k, episodes=study.episodes)
    given = " --seeds " + " ".join(map(str, options.seeds)) if training.iterations else ""
    results.meta["command"] = f"python experiments/robots.py --studies {name} --agents {row}{given}"
    results.meta["iterations"] = training.iterations
    if training.iterations:
        results.meta["curves"] = [curve(options, name, row, seed) for seed in seeds]
    return results


def figure(found: Mapping[str, list[Results]]) -> Figure:
    """Training curves, a panel per study: the mean over seeds and their range."""
    out = Figure(figsize=(3.4 * len(found), 2.8), layout="constrained")
    for axes, (name, results) in zip(out.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        color = iter(PALETTE)
        for result in results:
            for key in [k for k in result.meta.get("curves", [{}])[0] if k != "trial_return"]:
                lines = np.array([each[key] for each in result.meta["curves"]])
                shade, x = next(color), np.arange(1, lines.shape[1] + 1)
                axes.plot(x, lines.mean(0), color=shade, label=f"{result.agent}: {key.replace('_', ' ')}")
                axes.fill_between(x, lines.min(0), lines.max(0), color=shade, alpha=0.2, linewidth=0)
        axes.set(title=name.replace("_", " "), xlabel="meta-update", ylabel="return on train tasks")
        axes.legend(fontsize=7, frameon=False)
    return out


def main(options: Options) -> None:
    """Train, evaluate, save."""
    for name in options.studies:
        if name not in STUDIES:
            raise InvalidValueError("--studies", name, did_you_mean(name, STUDIES))
        for row in options.agents:
            if row not in STUDIES[name].agents:
                raise InvalidValueError("--agents", row, did_you_mean(row, STUDIES[name].agents))
    torch.set_num_threads(options.threads)
    if options.list:
        for name, study in STUDIES.items():
            print(f"{name:20}{study.family:32}{', '.join(study.agents)}")
        return
    for name in options.studies:
        for row in STUDIES[name].agents if not options.agents else options.agents:
            print(measured(options, name, row).save(results_file(f"robots-{name}", row, options.out)), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
