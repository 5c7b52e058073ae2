"""Tables of agents that infer the task, of the suites `grids`, `bandits`, `navigation` and `few_shot`."""

from __future__ import annotations

import json
from dataclasses import dataclass

import few_shot_accuracy
import numpy as np
from results_files import STUDIES, row_file

from metarl.benchmark.suite import agent_of
from metarl.evaluation.belief import belief_summary
from metarl.evaluation.results import Results
from metarl.evaluation.statistics import cvar, cvar_interval
from metarl.families.registry import make_family
from tables.text import bounds, interval, table


@dataclass(frozen=True)
class Part:
    """A study of the table of task inference.

    Attributes:
        name: what is played.
        rows: the rows of the study, in the order of the table.
        published: million environment steps of training in the paper; 0 where it names none.
    """

    name: str
    rows: tuple[str, ...]
    published: float = 0.0


BELIEFS = {"grids/grid_navi-n4": "belief", "navigation/semicircle-n3": "belief_semicircle"}  # studies, their figures
PROBED = (*BELIEFS, "bandits/n100-k5", "mujoco/half_cheetah_vel-memory", "mujoco/half_cheetah_dir-memory")
HARD_ROWS = ("rl2", "rl2-cem")
SHARES = (0.0, 0.25, 0.5, 1.0)  # of a trial, after which the probe's error is shown
PARTS = {
    "grids/grid_navi-n4": Part(
        "GridNavi, 4 episodes", ("varibad", "rl2-long", "rl2", "rl2-hypernetwork", "rl2-cem"), 20.0
    ),
    "navigation/semicircle-n3": Part("sparse point robot, 3 episodes", ("varibad", "varibad-exploring", "rl2"), 50.0),
    "bandits/n100-k5": Part("Bernoulli bandit, 100 pulls of 5 arms", ("rl2",)),
    "bandits/deceptive-n100": Part("deceptive bandit, 100 pulls", ("first_explore", "rl2")),
    "bandits/deceptive_control-n100": Part("its control, 100 pulls", ("first_explore", "rl2")),
    "grids/dark_treasure_rooms-n10": Part("Dark Treasure Rooms, 10 episodes", ("first_explore", "rl2", "varibad")),
    "grids/dark_treasure_rooms_rho0-n10": Part("its rewards of 0 to 2", ("rl2", "first_explore", "varibad")),
    "few_shot/digits-n25-k5": Part("Digits, 25 images of 5 classes", ("prototypes", "rl2")),
    "few_shot/digits-n5-k5": Part("Digits, 5 images of 5 classes", ("prototypes", "rl2")),
}


def measured(study: str, row: str) -> tuple[Results, dict[str, float]] | None:
    """Results of a row, and the mean of the return of its whole trials with its interval; None without a file.

    A trial of no episode before the score is the scored episode itself, with deterministic actions.
    """
    if not (path := row_file(study, row)).exists():
        return None
    results = Results.load(path)
    life = results.summary("deterministic")[0] if results.k == [0] else results.lifetime_summary()
    assert life is not None, f"{path} has no return of whole trials"
    return results, life


def best_of(results: Results, study: str) -> tuple[str, float]:
    """The largest return that a player can expect: of the Bayes-optimal one, or of one that is shown the task."""
    exact = results.bayes_optimal
    if exact is None:
        exact = make_family(STUDIES[study].family).bayes_optimal_return(max(1, results.k[-1]))
    if exact is not None:
        return "Bayes", exact
    informed = measured(study, "oracle")
    assert informed is not None, f"{study} has no row oracle"
    return "informed", informed[1]["mean"]


def inference() -> str:
    """Table of the agents that infer the task: the return of whole trials, and its share of what is possible."""
    rows = []
    for study, part in PARTS.items():
        floor = measured(study, "random")
        for row in part.rows:
            if (found := measured(study, row)) is None or floor is None:
                continue
            (results, life), entry = found, STUDIES[study].entries[row]
            kind, best = best_of(results, study)
            steps = entry.iterations * (agent_of(STUDIES[study], entry, 0).train_env_steps or 0) / 1e6
            budget = f"{steps:.1f}" + (f" ({steps / part.published:.0%})" if part.published else "")
            share = (life["mean"] - floor[1]["mean"]) / (best - floor[1]["mean"])
            episodes = results.collected.mean((0, 1)) if results.k != [0] else []
            text = [f"{episodes[0]:.2f}", f"{episodes[-1]:.2f}"] if len(episodes) else ["", ""]
            text += [interval(life, 2), f"{floor[1]['mean']:.2f}", f"{best:.2f}, {kind}", f"{share:.1%}"]
            rows.append([f"{part.name}: `{row}`", str(len(results.meta["seeds"])), budget, *text])
    head = [
        "",
        "seeds",
        "million steps",
        "first episode",
        "last",
        "whole trial",
        "random",
        "optimum",
        "share of the gap",
    ]
    return (
        "Returns of the first and the last episode, and of the whole trial, exploration included, in held-out tasks "
        "(GridNavi: all 21 tasks); mean and 95 % "
        "interval over seeds and tasks. The million environment steps of a seed's training are followed by their share "
        "of the paper's. The optimum is that of a Bayes-optimal player, who must find out the task, or of a player who "
        "is shown it; a share above 100 % is chance. Actions are sampled; deterministic on digits. Commands: `metarl "
        "benchmark grids`, and `navigation`, `few_shot` alike."
        "\n\n" + table(head, rows)
    )


def believers(study: str) -> list[Results]:
    """The published results of a study that hold what agents believed, or what a probe read."""
    files = (row_file(study, row) for row in STUDIES[study].entries)
    found = (Results.load(file) for file in files if file.exists() and '"belief' in file.read_text())
    return [results for results in found if "probe" in results.belief]


def beliefs() -> str:
    """Table of what agents believed: the error of the decoded belief over a trial, and of the probe at some steps."""
    rows = []
    for results in (found for study in PROBED for found in believers(study)):
        probed, cells = np.nanmean(results.belief["probe"], (0, 1)), ["", "", ""]
        if "error" in results.belief:
            mean = belief_summary(results.belief, results.every_task)
            by_seed = ", ".join(f"{value:.2f}" for value in np.nanmean(results.belief["error"], (1, 2)))
            cells = [bounds(mean["mean"], mean["low"], mean["high"], 3), by_seed, f"{mean['prior']:.3f}"]
        steps = [int(share * (len(probed) - 1)) for share in SHARES]
        at = [f"{probed[step]:.3f}" for step in steps]
        if "probe_exact" in results.belief:
            exact = np.nanmean(results.belief["probe_exact"], (0, 1))
            at = [f"{text} ({exact[step]:.3f})" for text, step in zip(at, steps, strict=True)]
        ends = ", ".join(f"{value:.3f}" for value in np.nanmean(results.belief["probe"][..., -1], 1))
        rows.append([f"`{results.meta['entry']}`", *cells, *at, ends])
    heads = [f"probe, {share:.0%} of the trial" for share in SHARES]
    return (
        "Error of the decoded belief beside the exact posterior, mean over the steps of a trial with its 95 % interval "
        "over seeds and tasks (in GridNavi a total variation distance, in all 21 tasks; of the sparse point robot in "
        "units of reward, the mean over steps near the semicircle), and that of the prior; then "
        "the error of the probe, in variances of the task's parameters, when so much of the trial has passed, and in "
        "brackets that of the same probe on the exact posterior's answers in these trials, all means over seeds. The "
        "probe reads the belief of `varibad`, that of `pearl` given all transitions so far, and the memory of `rl2`, "
        "which decodes nothing. Of robots no exact posterior is known. The variance is that of the train tasks, so "
        "knowing nothing may have more than 1. "
        "Command: the one of the row.\n\n"
        + table(["row", "decoded belief", "by seed", "prior", *heads, "by seed"], rows)
    )


def hard_tasks() -> str:
    """Table of what training on hard tasks gains in GridNavi's worst goals, and what it costs in the mean."""
    rows, family = [], make_family("metarl/GridNavi-v0")
    for row in HARD_ROWS:
        results = Results.load(row_file("grids/grid_navi-n4", row))
        goals = family.tasks("test", results.meta["tasks"], results.meta["task_seed"]).values["goal"]
        number = np.unique(goals, axis=0, return_inverse=True)[1].ravel()
        totals = results.lifetime.mean(-1)  # [seed, task]
        scores = np.stack([totals[:, number == i].mean(1) for i in range(number.max() + 1)], 1)[..., None]
        low, high = cvar_interval(scores, fixed_tasks=True)
        life = results.lifetime_summary()
        rows.append([f"`{row}`", bounds(float(cvar(scores)[0]), float(low[0]), float(high[0])), interval(life)])
    return (
        "Return of a trial of 4 episodes in GridNavi with the train tasks of the family (`rl2`) and with those that "
        "the cross-entropy method chooses (`rl2-cem`), all else the same: mean over the worst tenth of the goals, "
        "which is 3 of 21, and over all, with 95 % intervals over 3 seeds. Command: `metarl benchmark grids --only "
        "grid_navi-n4/rl2 grid_navi-n4/rl2-cem`.\n\n" + table(["", "worst goals", "all goals"], rows)
    )


def few_shot() -> str:
    """Table of the accuracy on digits by the number of examples."""
    report, rows = json.loads(few_shot_accuracy.OUT.read_text()), []
    for name, by_seed in report["rows"].items():
        _, study, row = name.split("/")
        mean, deviation = np.mean(by_seed, 0), np.std(by_seed, 0, ddof=1)
        cells = [f"{m:.1%} ({d:.1%})" for m, d in zip(mean, deviation, strict=True) if not np.isnan(m)]
        rows.append([f"{study}: `{row}`", *cells, *[""] * (len(mean) - len(cells))])
    most = few_shot_accuracy.MOST
    return (
        "Share of correct labels by the number of labelled images of the same class before, deterministic actions, "
        f"{report['tasks']:,} held-out tasks; means over seeds, and their deviation in brackets. The best expected "
        "share without an example is that of a guess among the classes not seen yet, and 100 % afterwards. Command: "
        "`python experiments/few_shot_accuracy.py`.\n\n"
        + table(["examples", *(str(n) for n in range(most)), f"{most} or more"], rows)
    )
