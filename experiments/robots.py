"""Short trainings on the families of robots: HalfCheetahVel, AntDir, Meta-World's ML1-reach.

    python experiments/robots.py --studies half_cheetah_vel         # train, evaluate, save
    python experiments/robots.py --list                             # all studies

The results show that agents learn on these families within minutes on a CPU. Longer trainings reach much higher
returns, and there is no published number to compare with. The tasks are held-out; intervals are 95 % intervals. Writes
`experiments/results/robots/STUDY/AGENT.json`, with the training curves in its `meta`. Interrupted runs resume. Needs
`pip install -e '.[mujoco,metaworld]'`.
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
    """Training and evaluation of one agent."""

    iterations: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    k: int = 2


@dataclass(frozen=True)
class Study:
    """One family and its agents."""

    family: str
    agents: Mapping[str, Training]
    tasks: int  # held-out tasks
    episodes: int  # episodes for each R_k


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
    """Options of the experiment."""

    studies: tuple[str, ...] = ("half_cheetah_vel",)
    """Names of studies."""
    agents: tuple[str, ...] = ()
    """Some of a study's agents; by default all of them."""
    list: bool = False
    """Print the studies and stop."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds; each is one training run."""
    runs: Path = Path("runs/robots")
    """Directory of the runs."""
    out: Path = RESULTS
    """Folder of all results files."""
    threads: int = 1
    """Number of PyTorch threads."""


def agent_of(options: Options, name: str, row: str, seed: int) -> metarl.Agent:
    """Train the agent of one seed; an existing run is continued."""
    study, training = STUDIES[name], STUDIES[name].agents[row]
    agent = metarl.make_agent(row, study.family, seed=seed, **training.settings)
    if not training.iterations:
        return agent
    return trained_run(options.runs / name / row / f"seed{seed}", agent, training.iterations, f"{row}, {name}, {seed}")


def curve(options: Options, name: str, row: str, seed: int) -> dict[str, list[float]]:
    """Training curves of a run: the returns of each meta-update, by name."""
    path = options.runs / name / row / f"seed{seed}" / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    shown = [key for key in lines[0] if "return" in key]
    return {key: [round(line[key], 4) for line in lines] for key in shown}


def measured(options: Options, name: str, row: str) -> Results:
    """Evaluate R_k on held-out tasks, and add the training curves."""
    study, training = STUDIES[name], STUDIES[name].agents[row]
    seeds = options.seeds if training.iterations else options.seeds[:1]
    agents = [agent_of(options, name, row, seed) for seed in seeds]
    tasks = agents[0].family.tasks("test", study.tasks)
    results = metarl.evaluate(agents, tasks, k=training.k, episodes=study.episodes)
    seeds_option = " --seeds " + " ".join(map(str, options.seeds)) if training.iterations else ""
    results.meta["command"] = f"python experiments/robots.py --studies {name} --agents {row}{seeds_option}"
    results.meta["iterations"] = training.iterations
    if training.iterations:
        results.meta["curves"] = [curve(options, name, row, seed) for seed in seeds]
    return results


def figure(studies: Mapping[str, list[Results]]) -> Figure:
    """Draw training curves, one panel for each study: the mean over seeds and their range."""
    out = Figure(figsize=(3.4 * len(studies), 2.8), layout="constrained")
    for axes, (name, results) in zip(out.subplots(1, len(studies), squeeze=False)[0], studies.items(), strict=True):
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
    """Train, evaluate and save."""
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
