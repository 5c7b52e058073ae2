"""Agents with a memory of a trial, compared with exact optima: bandits, tabular MDPs, GridNavi.

    python experiments/trials.py --studies bandit                   # every bandit of the table, every agent
    python experiments/trials.py --studies bandit-n10-k5 --agents rl2 --seeds 0 1 2
    python experiments/trials.py --list                             # all studies

Duan et al. (2016, arXiv:1611.02779, tables 1 and 2) and Zintgraf et al. (2020, arXiv:1910.08348, GridNavi). The score
is the total reward of a trial, exploration included, with sampled actions, on 20,000 held-out tasks. Each task has ten
trials of 10 pulls, because 20,000 trials have an interval of .016. `python experiments/tune.py` chose the
hyperparameters of the classical agents on *train* tasks. Writes a file for each study and agent, for example
`experiments/results/bandits/n10-k5/rl2.json`. Interrupted trainings resume.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro
from point_navigation import trained_run
from results_files import RESULTS, results_file

import metarl
from metarl.errors import InvalidValueError, did_you_mean
from metarl.evaluation.results import Results
from metarl.runs.run import Run

TUNED = Path(__file__).parent / "tuned.json"
TASKS = 20_000
STEPS_AT_ONCE = 1_000_000  # steps in the memories of transformers at once: 1 GiB of keys and values
BANDITS = ("gittins", "thompson_sampling", "optimistic_thompson_sampling", "ucb1", "epsilon_greedy", "greedy")
MDPS = ("psrl", "opsrl", "ucrl2", "beb", "epsilon_greedy_mdp", "greedy_mdp")
# agents with changed settings, by row; they reproduce published columns that the default settings do not
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "thompson_sampling-beta22": ("thompson_sampling", {"prior_a": 2.0, "prior_b": 2.0}),
    "optimistic_thompson_sampling-5": ("optimistic_thompson_sampling", {"samples": 5}),
    **{f"{name}-prior0": (name, {"prior_mean": 0.0}) for name in MDPS},
}


EPSILON = tuple({"epsilon": e} for e in (0.01, 0.02, 0.05, 0.1, 0.2))
CONFIDENCE = tuple({"confidence": c} for c in (0.01, 0.02, 0.05, 0.1, 0.3, 1.0))
GRIDS: dict[str, tuple[dict[str, float], ...]] = {
    # with and without the prior of a posterior mean; without it, untried arms are pulled first
    "ucb1": tuple(
        {"c": c, "prior_paid": p, "prior_pulls": 2.0 * p} for p in (0.0, 1.0) for c in (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
    ),
    "epsilon_greedy": EPSILON,
    "epsilon_greedy_mdp": EPSILON,
    "epsilon_greedy_mdp-prior0": EPSILON,
    "ucrl2": CONFIDENCE,
    "ucrl2-prior0": CONFIDENCE,
    "beb": tuple({"bonus": b} for b in (0.25, 0.5, 1.0, 2.0)),
}


@dataclass(frozen=True)
class Training:
    """Training of rl2 for one row."""

    settings: Mapping[str, Any]
    iterations: int
    begins_with: str = ""  # study of shorter trials; training continues its networks of the same row and seed


@dataclass(frozen=True)
class Study:
    """One family and length of trial, with the classical agents and the trainings of rl2, by row."""

    family: str
    episodes: int
    classical: tuple[str, ...]
    rl2: Mapping[str, Training] = field(default_factory=dict)
    trials: int = 1  # trials of each task

    @property
    def steps(self) -> int:
        """Environment steps of a trial."""
        return self.episodes * metarl.make_family(self.family).horizon


def _studies() -> dict[str, Study]:
    out = {}
    common = {"normalize_rewards": True, "gae_lambda": 0.8, "entropy_coef": 0.01}
    far = {
        "gae_lambda": 0.95,
        "discount": 1.0,
        "entropy_coef": 0.02,
    }  # the reward of exploration comes late in a bandit
    network = {"hidden": 64, "normalize_rewards": True, "reward_coef": 1.0, "max_grad_norm": 2.0}
    short = Training(far | network | {"meta_batch_size": 1000, "entropy_coef": 0.01, "entropy_anneal": 0.5}, 1600)
    long = Training(far | network | {"meta_batch_size": 500}, 500)
    # training uses the simulator's knowledge; returns then have less noise and need less discounting by gae_lambda
    shown = {"expected_rewards": True, "value_sees_task": True, "task_coef": 1.0, "gae_lambda": 0.99}
    longer = Training(long.settings | shown | {"entropy_coef": 0.05, "entropy_anneal": 0.8}, 1200)
    # fewer trials with the same number of steps in a batch
    longest = Training(
        long.settings | shown | {"meta_batch_size": 100, "entropy_coef": 0.03, "entropy_anneal": 0.7}, 300
    )
    many = Training(short.settings | shown | {"entropy_anneal": 0.7}, 800)
    trained = {(10, 5): short, (10, 10): short, (10, 50): many, (100, 5): long, (100, 10): longer, (500, 5): longest}
    changed = ("thompson_sampling-beta22", "optimistic_thompson_sampling-5")
    for n in (10, 100, 500):
        for k in (5, 10, 50):
            family = "metarl/BernoulliBandit-v0" + (f":k{k}" if k != 5 else "")
            gru = {"rl2": trained[n, k]} if (n, k) in trained else {}
            rows = BANDITS + (changed if k < 50 and n < 500 else ())
            rl2 = gru | ({"rl2-transformer": transformer(n, **far)} if (n, k) == (100, 10) else {})
            out[f"bandit-n{n}-k{k}"] = Study(family, n, rows, rl2, 10 if n == 10 else 1)
    for n in (10, 25, 50, 75, 100):
        small = {"hidden": 128, "meta_batch_size": 100, "minibatches": 4, "entropy_coef": 0.05}
        rl2 = {"rl2": Training(common | small, 700)} if n == 10 else {}
        if n == 10:
            rl2 |= {"rl2-transformer": transformer(10 * n, gae_lambda=0.8, entropy_coef=0.03)}
        if n == 25:  # continues the training on shorter trials
            less = transformer(10 * n, gae_lambda=0.8, entropy_coef=0.03, entropy_anneal=0.8, learning_rate=5e-4)
            rl2 |= {"rl2-transformer": Training(less.settings, less.iterations, "mdp-n10")}
        rows = MDPS + (tuple(f"{name}-prior0" for name in MDPS if name != "beb") if n <= 25 else ())
        out[f"mdp-n{n}"] = Study("metarl/TabularMDP-v0", n, rows, rl2)
    rl2 = {"rl2": Training(common | {"hidden": 64, "meta_batch_size": 320}, 200)}
    out["grid_navi-n4"] = Study("metarl/GridNavi-v0", 4, (), rl2)
    return out


def transformer(steps: int, **changed: Any) -> Training:
    """Training of a transformer that also predicts rewards, on batches of 100,000 steps."""
    settings = {"memory": "transformer", "hidden": 64, "meta_batch_size": 100_000 // steps, "minibatches": 4}
    learning = {"learning_rate": 1e-3, "normalize_rewards": True, "reward_coef": 1.0, "max_grad_norm": 2.0}
    return Training(settings | learning | changed, 500)


STUDIES = _studies()


@dataclass(frozen=True)
class Options:
    """Options of the experiment."""

    studies: tuple[str, ...] = ("bandit-n10",)
    """Names of studies, or their first parts."""
    agents: tuple[str, ...] = ()
    """Some of a study's agents; by default all of them."""
    list: bool = False
    """Print the studies and stop."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of rl2; each is one training run."""
    tasks: int = TASKS
    """Number of held-out tasks."""
    runs: Path = Path("runs/trials")
    """Directory of the runs."""
    out: Path = RESULTS
    """Folder of all results files."""
    threads: int = 1
    """Number of PyTorch threads; it may change the rounding of sums."""
    train_only: bool = False
    """Whether to train without an evaluation; a later call evaluates the finished runs."""
    device: str = "cpu"
    """Device of rl2: "cpu" or "cuda"; the classical agents run on the CPU."""


def trained(options: Options, name: str, row: str, seed: int) -> metarl.Agent:
    """Train rl2 for one row and seed; an existing run is continued."""
    study, training = STUDIES[name], STUDIES[name].rl2[row]
    lengths = {"trial_episodes": study.episodes, "anneal_iterations": training.iterations}
    agent = metarl.make_agent("rl2", study.family, seed=seed, device=options.device, **lengths, **training.settings)
    path = options.runs / name / row / f"seed{seed}"
    source = trained(options, training.begins_with, row, seed) if training.begins_with else None
    begin = (lambda new: new.net.load_state_dict(source.net.state_dict())) if source else None
    label = f"{row}, {name}, seed {seed}"
    return trained_run(path, agent, training.iterations, label, checkpoint_every=50, begin=begin)


def made(study: str, row: str, **settings: Any) -> metarl.Agent:
    """Make an agent that needs no training; its `trial_episodes`, if it has this setting, is the study's."""
    agent, changed = VARIANTS.get(row, (row, {}))
    if hasattr(metarl.families.registry.agent_class(agent).Config, "trial_episodes"):
        settings["trial_episodes"] = STUDIES[study].episodes
    return metarl.make_agent(agent, STUDIES[study].family, **changed, **settings)


def tuned(study: str, row: str) -> dict[str, Any]:
    """Hyperparameters that `tune.py` chose for a row of a study; empty if the row has no grid."""
    if row not in GRIDS:
        return {}
    report = json.loads(TUNED.read_text()) if TUNED.exists() else {"chosen": {}}
    if row not in report["chosen"].get(study, {}):
        command = f"an agent with tuned settings: python experiments/tune.py --studies {study}"
        raise InvalidValueError(f"agent of study {study}", row, command)
    return dict(report["chosen"][study][row])


def trained_on(options: Options, name: str, row: str) -> str:
    """Device of a row's trainings; raises if it differs between seeds. The evaluation may use another device."""
    runs = [Run.open(options.runs / name / row / f"seed{seed}") for seed in options.seeds]
    devices = sorted({str(run.config["device"]) for run in runs})
    if len(devices) != 1:
        raise InvalidValueError(f"device of the runs of {name}, {row}", devices, "the same for every seed")
    return devices[0]


def measured(agents: list[metarl.Agent], name: str, row: str, options: Options) -> Results:
    """Evaluate lifetime returns on held-out tasks; the returns of single episodes are means over tasks."""
    study = STUDIES[name]
    tasks = agents[0].family.tasks("test", options.tasks)
    training = study.rl2.get(row)
    is_transformer = training is not None and training.settings.get("memory") == "transformer"
    at_once = STEPS_AT_ONCE // study.steps if is_transformer else None
    results = metarl.evaluate(
        agents, tasks, k=(study.episodes,), episodes=1, modes=("sampled",), trials=study.trials, rows_at_once=at_once
    )
    slim(results)
    device = trained_on(options, name, row) if training else ""
    seeds = " --seeds " + " ".join(map(str, options.seeds)) + f" --device {device}" if training else ""
    tasks_option = "" if options.tasks == TASKS else f" --tasks {options.tasks}"
    results.meta["command"] = f"python experiments/trials.py --studies {name} --agents {row}{seeds}{tasks_option}"
    results.meta["iterations"] = training.iterations if training else 0
    if training and training.begins_with:
        results.meta["begins_with"] = training.begins_with
    return results


def slim(results: Results) -> None:
    """Replace arrays that need no interval by their means over tasks or trials, because 20,000 tasks need much disk."""
    results.collected = results.collected.mean(1, keepdims=True)  # [seed, 1, episode]
    results.references = {name: values.mean(keepdims=True) for name, values in results.references.items()}
    results.lifetime = results.lifetime.mean(2, keepdims=True)  # [seed, task, 1]
    results.scores = {mode: scores.mean(3, keepdims=True) for mode, scores in results.scores.items()}


def rows_of(study: Study) -> list[str]:
    """Rows of a study: its agents."""
    return [*study.rl2, *study.classical, "random", "oracle"]


def selected(wanted: Sequence[str]) -> list[str]:
    """Names of the studies that `wanted` names, fully or by their first parts."""
    for each in wanted:
        if not any(name == each or name.startswith(f"{each}-") for name in STUDIES):
            raise InvalidValueError("--studies", each, did_you_mean(each, STUDIES))
    return [name for name in STUDIES if any(name == s or name.startswith(f"{s}-") for s in wanted)]


def main(options: Options) -> None:
    """Train, evaluate and save."""
    names = selected(options.studies)
    every = {row for name in names for row in rows_of(STUDIES[name])}
    for wanted in options.agents:
        if wanted not in every:
            raise InvalidValueError("--agents", wanted, did_you_mean(wanted, every))
    if not options.seeds:
        raise InvalidValueError("--seeds", options.seeds, "at least one")
    torch.set_num_threads(options.threads)
    for name in names:
        study = STUDIES[name]
        rows = rows_of(study)
        if options.list:
            print(f"{name:16}{study.family:32}{' '.join(rows)}")
            for row, training in study.rl2.items():
                print(f"    {row}: {training.iterations} meta-updates, {dict(training.settings)}")
            continue
        for row in rows if not options.agents else [r for r in rows if r in options.agents]:
            if row in study.rl2:
                agents = [trained(options, name, row, seed) for seed in options.seeds]
            elif not options.train_only:
                agents = [made(name, row, **tuned(name, row))]
            if not options.train_only:
                print(measured(agents, name, row, options).save(results_file(name, row, options.out)), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
