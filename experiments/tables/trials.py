"""Tables of agents that live through a trial: the suites `bandits`, `mdps` and `grids`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from results_files import STUDIES, length, results_file, row_file

from metarl.agents.memory.rl2 import RL2Config
from metarl.benchmark.suite import agent_of
from metarl.benchmark.suites.bandits import CLASSICAL as BANDITS
from metarl.benchmark.suites.mdps import CLASSICAL as MDPS
from metarl.evaluation.results import Results
from metarl.families.registry import make_family
from tables.text import PUBLISHED, interval, table

NAMES = {
    "random": "random",
    "gittins": "Gittins",
    "thompson_sampling": "TS",
    "thompson_sampling-beta22": "TS, Beta(2, 2)",
    "optimistic_thompson_sampling": "OTS",
    "optimistic_thompson_sampling-5": "OTS, 5 draws",
    "ucb1": "UCB1",
    "ucb1-c1": "UCB1, c = 1",
    "gaussian_thompson_sampling": "TS",
    "epsilon_greedy": "e-greedy",
    "greedy": "greedy",
    "psrl": "PSRL",
    "opsrl": "OPSRL",
    "ucrl2": "UCRL2",
    "beb": "BEB",
    "epsilon_greedy_mdp": "e-greedy",
    "greedy_mdp": "greedy",
    "rl2": "RL2",
    "rl2-transformer": "RL2, transformer",
    "snail": "SNAIL",
    "varibad": "VariBAD",
    "first_explore": "First-Explore",
    "oracle": "informed optimum",
}
# figures in docs: a study, and the rows to draw
FIGURES = {
    "trials_bandit": ("bandits/n100-k5", ("rl2", "gittins", "thompson_sampling", "random")),
    "trials_mdp": ("mdps/n10", ("rl2-transformer", "rl2", "beb", "psrl", "random")),
    "trials_grid_navi": ("grids/grid_navi-n4", ("rl2", "oracle", "random")),
}
KINDS = {"bandits": "bandit", "mdps": "mdp", "grids": "grid_navi"}  # what published.json calls them
RL2_ROWS = ("rl2", "rl2-transformer")
BERNOULLI = "bandits/n"  # how the names of studies of Bernoulli bandits begin
FIRST_EXPLORE = ("bandits/deceptive", "grids/dark_treasure_rooms")  # and of those in which exploring costs
Life = Mapping[str, float]


def lifetime(study: str, row: str) -> Life | None:
    """Mean lifetime return with its interval; None without a results file."""
    path = row_file(study, row)
    return json.loads(path.read_text())["lifetime"] if path.exists() else None


def cell(life: Life | None, digits: int) -> str:
    """Text of a mean."""
    return f"{life['mean']:.{digits}f}" if life else ""


def share(study: str, row: str, best: str) -> str:
    """Text of (RL2 - random) / (best - random), all evaluated on the same tasks."""
    ours, low = (lifetime(study, r) for r in (row, "random"))
    high = strongest(study) if best == "strongest" else lifetime(study, best)
    if not (ours and low and high):
        return ""
    return f"{(ours['mean'] - low['mean']) / (high['mean'] - low['mean']):.1%}"


def strongest(study: str) -> Life | None:
    """Lifetime return of the strongest agent that knows the prior; for GridNavi, the exact Bayes optimum."""
    if not study.startswith("grids/"):
        return lifetime(study, {"bandits": "gittins", "mdps": "beb"}[study.split("/")[0]])
    return {"mean": json.loads(row_file(study, "random").read_text())["bayes_optimal"]}


def widest(studies: list[str], rows: list[str]) -> str:
    """Text of half the widest interval of some rows, for each study."""
    measured = [(s, life) for s in studies for r in rows if (life := lifetime(s, r))]
    by_study = {s: max((life["high"] - life["low"]) / 2 for t, life in measured if t == s) for s in studies}
    return ", ".join(f"{half:.2f} at {s.split('/')[1].replace('-', ', ')}" for s, half in by_study.items())


def trained(studies: Sequence[str]) -> list[tuple[str, str]]:
    """Studies and rows of rl2 that have results."""
    return [(study, row) for study in studies for row in RL2_ROWS if lifetime(study, row)]


def missing(suite: str) -> str:
    """Sentence about rows of a suite that have no results."""
    rows = {s: [r for r in STUDIES[s].entries if not lifetime(s, r)] for s in STUDIES if s.startswith(f"{suite}/")}
    whole = [s for s, lacking in rows.items() if len(lacking) == len(STUDIES[s].entries)]
    single = [f"`{r}` of {s}" for s, lacking in rows.items() if s not in whole for r in lacking]
    names = [*single, *(f"all of {s}" for s in whole)]
    return f" No results on these tasks yet: {', '.join(names)}." if names else ""


def meta(study: str, row: str) -> dict[str, Any]:
    """The `meta` of a row's results."""
    return dict(json.loads(row_file(study, row).read_text())["meta"])


def steps(study: str, row: str) -> float:
    """Million environment steps of rl2's training for a row, with those of the study that it continues."""
    found, horizon = meta(study, row), make_family(STUDIES[study].family).horizon
    own = found["iterations"] * found["config"]["meta_batch_size"] * length(study) * horizon / 1e6
    before = begins_with(study, row)
    return own + (steps(before, row) if before else 0.0)


def begins_with(study: str, row: str) -> str:
    """Study of the same suite whose trained networks a row's training begins with; empty without one."""
    before = STUDIES[study].entries[row].begins_with.rpartition("/")[0]
    return f"{study.partition('/')[0]}/{before}" if before else ""


def tasks_played(studies: list[str]) -> str:
    """Number of held-out tasks of all rows of some studies, as text."""
    found = {
        json.loads(f.read_text())["meta"]["tasks"]
        for s in studies
        for f in row_file(s, "any").parent.parent.glob("*/results.json")
    }
    assert len(found) == 1, f"rows of {studies} have different numbers of tasks: {found}"
    return f"{found.pop():,}"


def bandit_name(study: str) -> str:
    """Name of the cell in the paper's table, "n,k"."""
    n, k = study.split("/")[1].split("-")
    return f"{n[1:]},{k[1:]}"


def bound_of(best: Mapping[str, Any]) -> str:
    """Text of the exact optimum, or of its upper bound."""
    return f"{best['exact']:.3f}" if best["exact"] else f"< {best['upper_bound'] + 2 * best['standard_error']:.1f}"


def bandits() -> str:
    """Table of bandits: for each cell, a line of metarl's results and a line of the paper's."""
    studies = [s for s in STUDIES if s.startswith(BERNOULLI) and lifetime(s, "random")]
    bounds = json.loads(results_file("bandits", "bounds").read_text())["cells"]
    columns = ["random", *BANDITS]
    rows = []
    for study in studies:
        digits = 2 if length(study) == 10 else 1
        best = bounds.get(study)
        ours = [cell(lifetime(study, c), digits) for c in columns]
        for row in RL2_ROWS:
            ours += [interval(lifetime(study, row), digits), share(study, row, "gittins")]
        name = bandit_name(study)
        rows.append([f"{name}", *ours, bound_of(best) if best else ""])
        paper = PUBLISHED["bandit"].get(name)
        if paper:
            learned = [f"{paper['rl2']:.1f}", "", f"{paper['snail']:.1f} (SNAIL)", "", ""]
            rows.append(["- paper", *(f"{paper[c]:.1f}" for c in columns), *learned])
    head = ["n, k", *(NAMES[c] for c in columns), "RL2, GRU", "its share", "RL2, transformer", "its share"]
    return (
        f"Lifetime return on {tasks_played(studies)} held-out bandits (ten trials of each at n = 10), exploration "
        f"included, sampled actions. RL2: mean of {seeds(trained(studies))} seeds with its 95 % interval; the share is "
        "that of the gap from random play to the Gittins index on the same bandits. Half the widest 95 % interval of "
        "the "
        f"other columns: {widest(studies, columns)}. Hyperparameters of UCB1 and e-greedy were chosen on train tasks "
        "(`experiments/tuned.json`; some are at the edge of the grid). The Bayes optimum is exact, or bounded "
        "from above by an information relaxation, two standard errors added. All rows of a cell play the same "
        "tasks, so a mean above the optimum is chance. Paper: "
        f"{PUBLISHED['bandit']['source']}. Commands: `python experiments/tune.py --studies bandits`, "
        "`metarl benchmark bandits`, `python "
        "experiments/bandit_bounds.py` (and `--studies bandits/n500-k5 bandits/n500-k10`).\n\n"
        + table([*head, "Bayes optimum"], rows)
    )


def learned(studies: Sequence[str]) -> str:
    """Sentence about RL2's columns; empty if the columns are."""
    rows = trained(studies)
    return f"RL2: mean of {seeds(rows)} seeds with its 95 % interval. " if rows else ""


def seeds(rows: Sequence[tuple[str, str]]) -> str:
    """Numbers of seeds of some rows of rl2, as text."""
    return "/".join(sorted({str(len(meta(*row)["seeds"])) for row in rows}))


def bandit_variants() -> str:
    """Table of changed algorithms that reproduce published columns."""
    rows = []
    for study in (s for s in STUDIES if s.startswith(BERNOULLI)):
        changed = [r for r in STUDIES[study].entries if "-" in r and r not in RL2_ROWS and lifetime(study, r)]
        paper = PUBLISHED["bandit"].get(bandit_name(study))
        for row in changed if paper else []:
            plain = row.split("-")[0]
            values = [cell(lifetime(study, r), 2) for r in (plain, row)]
            rows.append([f"{bandit_name(study)}: {NAMES[row]}", *values, f"{paper[plain]:.1f}"])
    return table(["n, k", "the algorithm", "changed", "the paper"], rows)


def mdps() -> str:
    """Table of tabular MDPs: a line of metarl's results for each prior, and a line of the paper's."""
    studies = [s for s in STUDIES if s.startswith("mdps/") and lifetime(s, "random")]
    columns = ["random", *MDPS]
    rows = []
    for study in studies:
        n = length(study)
        ours = [cell(lifetime(study, c), 1) for c in columns]
        ours += [interval(lifetime(study, row), 1) for row in RL2_ROWS]
        rows.append([str(n), *ours, cell(lifetime(study, "oracle"), 1)])
        wrong = [lifetime(study, f"{c}-prior0") for c in columns]
        if any(wrong):
            rows.append(["- prior mean 0", *(cell(life, 1) for life in wrong), "", "", ""])
        paper = PUBLISHED["mdp"].get(str(n))
        if paper:
            snail = f"{paper['snail']:.1f} (SNAIL)" if "snail" in paper else ""
            rows.append(["- paper", *(f"{paper[c]:.1f}" for c in columns), f"{paper['rl2']:.1f}", snail, ""])
    head = ["n", *(NAMES[c] for c in columns), "RL2, GRU", "RL2, transformer", "informed optimum"]
    return (
        f"Lifetime return of n episodes of 10 steps on {tasks_played(studies)} held-out MDPs, exploration included, "
        f"sampled actions. {learned(studies)}Half the widest 95 % interval of the other columns: "
        f"{widest(studies, columns)}.{missing('mdps')} Hyperparameters of UCRL2, BEB and e-greedy were "
        "chosen on train tasks (`experiments/tuned.json`; some are at the edge of the grid). Paper: "
        f"{PUBLISHED['mdp']['source']}. Commands: `python "
        "experiments/tune.py --studies mdps`, `metarl benchmark mdps`.\n\n" + table(head, rows)
    )


def episodes(name: str) -> list[list[str]]:
    """Lines of a study of grids: million steps, the return of each episode and of the whole trial of each row."""
    rows = []
    for row, entry in STUDIES[name].entries.items():
        if (life := lifetime(name, row)) is None:
            continue
        found = Results.load(row_file(name, row)).collected.mean((0, 1))
        per_iteration = agent_of(STUDIES[name], entry, 0).train_env_steps or 0
        trained = f"{entry.iterations * per_iteration / 1e6:.1f}" if entry.iterations else ""
        rows.append([f"{row} (`{entry.agent}`)", trained, *(f"{v:.2f}" for v in found), interval(life, 2)])
    return rows


def grid_navi() -> str:
    """Table of GridNavi: the return of each episode, and that of the Bayes-optimal policy."""
    name = "grids/grid_navi-n4"
    rows = episodes(name)
    for line in rows:
        row = line[0].split()[0]
        line.append("" if row in ("oracle", "task_conditioned") else share(name, row, "strongest"))
    best = Results.load(row_file(name, "random"))
    assert best.bayes_episodes is not None
    optimum = [f"{v:.2f}" for v in best.bayes_episodes]
    rows.append(["Bayes optimum, exact", "", *optimum, f"{best.bayes_optimal:.2f}", "100.0%"])
    return (
        f"Mean return of each of 4 episodes on GridNavi (train = test), {tasks_played([name])} trials, sampled "
        f"actions; {seeds([(name, 'rl2')])} seeds of each agent that is trained. Zintgraf et al. train on 20 million "
        "steps. `oracle` and `task_conditioned` are shown the goal, `multi_task` has no memory. "
        "Command: `metarl benchmark grids --only "
        "grid_navi-n4`.\n\n"
        + table(["", "million steps", "episode 1", "2", "3", "4", "whole trial", "share of the gap"], rows)
    )


def dark(name: str, family: str) -> str:
    """Table of a grid that shows only the agent's cell: the return of each episode."""
    head = ["", "million steps", "episode 1", *(str(n) for n in range(2, length(name) + 1)), "whole trial"]
    return (
        f"Mean return of each of {length(name)} episodes on {family}, {tasks_played([name])} held-out tasks, sampled "
        f"actions; {seeds([(name, 'rl2')])} seeds of each agent that is trained. `oracle` and `task_conditioned` are "
        "shown the task, so their first episode is as good as the others; `multi_task` is one policy without memory. "
        "Command: `metarl benchmark grids --only "
        f"{name.partition('/')[2]}`.\n\n" + table(head, episodes(name))
    )


def mazes() -> str:
    """Table of MiniGrid: the return of each episode in a layout, and the share of what the shortest ways earn."""
    rows = []
    for name in [study for study in STUDIES if study.startswith("mini_grid/") and lifetime(study, "rl2")]:
        for line in episodes(name):
            row = line[0].split()[0]
            rows.append([name.partition("/")[2], *line, "" if row == "oracle" else share(name, row, "oracle")])
    head = ["study", "", "million steps", "episode 1", "2", "3", "whole trial", "share of the gap"]
    return (
        "Mean return of each of three episodes in the same layout of MiniGrid, 1,000 held-out layouts, sampled "
        "actions; 3 seeds of `rl2`, 95 % intervals over seeds and layouts. `oracle` knows the layout and goes the "
        "shortest way. "
        "Command: `metarl benchmark mini_grid`.\n\n" + table(head, rows)
    )


def first_explore() -> str:
    """Table of problems in which exploring costs: a line of metarl's results and a line of the paper's for each."""
    studies, paper = [s for s in STUDIES if s.startswith(FIRST_EXPLORE)], PUBLISHED["first_explore"]
    columns = ["random", "ucb1-c1", "ucb1", "gaussian_thompson_sampling", "rl2", "varibad", "first_explore", "oracle"]
    rows = []
    for study in (s for s in studies if lifetime(s, "random")):
        rows.append([study.split("/")[1], *(interval(lifetime(study, c), 1) for c in columns)])
        rows.append(["- paper", *(f"{paper[study][c]:.1f}" if c in paper[study] else "" for c in columns)])
    return (
        "Lifetime return of 100 pulls of `DeceptiveBandit` and of 10 episodes of `DarkTreasureRooms`, held-out tasks, "
        "exploration included, sampled actions, with 95 % intervals. c of UCB1 was chosen on train tasks "
        f"(`experiments/tuned.json`), or is 1. Paper: {paper['source']}. Commands: `python experiments/tune.py "
        "--studies bandits/deceptive bandits/deceptive_control`, `metarl benchmark bandits`, `metarl benchmark "
        "grids`.\n\n" + table(["", *(NAMES[c] for c in columns)], rows)
    )


def settings() -> str:
    """Table of the training of rl2 for each row, from the results files."""
    default = asdict(RL2Config())
    own = ("meta_batch_size", "trial_episodes", "anneal_iterations")
    rows = []
    for study, row in trained([study for study in STUDIES if study.partition("/")[0] in KINDS]):
        found = meta(study, row)
        before = begins_with(study, row)
        changed = [f"{k} {v}" for k, v in sorted(found["config"].items()) if k not in own and v != default[k]]
        after = f", after the {steps(before, row):.0f} of {before}" if before else ""
        million = f"{steps(study, row) - (steps(before, row) if before else 0.0):.1f}{after}"
        batch = str(found["config"]["meta_batch_size"])
        device = "GPU" if found.get("trained_on") == "cuda" else "CPU"
        sizes = [str(found["iterations"]), batch, million, device]
        rows.append([f"{study}, `{row}`", *sizes, f"`{', '.join(changed)}`"])
    head = [
        "study, row",
        "meta-updates",
        "trials in each",
        "million steps",
        "on",
        "settings that differ from `rl2`'s defaults",
    ]
    return table(head, rows) + (
        "\n\nThe learning rate falls to 0 over the meta-updates. The entropy bonus falls to 0 over the part "
        "`entropy_anneal` "
        "of them (all by default)."
    )


def beside_the_paper() -> list[list[str]]:
    """Rows of RL2 that the paper has too: the bandit, and the returns of the paper, metarl and the Gittins index."""
    rows = []
    for study, row in trained([study for study in STUDIES if study.startswith(BERNOULLI)]):
        paper = PUBLISHED["bandit"].get(bandit_name(study), {})
        if paper and row == "rl2":
            (pulls, arms), digits = bandit_name(study).split(","), 2 if study.startswith("bandits/n10-") else 1
            ours, best = interval(lifetime(study, row), digits), cell(strongest(study), digits)
            rows.append([f"RL2, {pulls} pulls of {arms} arms", f"{paper['rl2']:.1f}", ours, best])
    return rows


def summary() -> str:
    """Table of RL2's rows."""
    rows = []
    played: list[tuple[str, str]] = []
    shown = [s for s in STUDIES if s.startswith((BERNOULLI, "mdps/", "grids/grid_navi-"))]  # those with a known optimum
    for study in (s for s in shown if trained([s])):
        suite, name = study.split("/")
        kind = KINDS[suite]
        digits = 2 if study.startswith(("grids/", "bandits/n10-")) else 1
        paper = PUBLISHED.get(kind, {}).get(bandit_name(study) if kind == "bandit" else name.split("n")[-1], {})
        label = name if suite == "grids" else f"{kind}-{name}"
        label = label.replace("_", " ").replace("-", ", ").replace(", n", ", n = ").replace(", k", ", k = ")
        for study_, row in trained([study]):
            played.append((study_, row))
            rows.append(
                [
                    label,
                    f"{meta(study, row)['config']['memory']}",
                    cell(lifetime(study, "random"), digits),
                    cell(strongest(study), digits),
                    f"{paper['rl2']:.1f}" if paper else "",
                    interval(lifetime(study, row), digits),
                    share(study, row, "strongest"),
                ]
            )
    return (
        f"Lifetime return of `rl2`, mean of {seeds(played)} seeds, on {tasks_played([s for s, _ in played])} held-out "
        "tasks, random play, the strongest agent that knows the prior (bandits: the Gittins index; MDPs: BEB; "
        "GridNavi: the exact Bayes optimum), and RL2's share of the gap between them.\n\n"
        + table(["", "memory", "random", "strongest", "RL2, the paper, best of 5 seeds", "`rl2`", "share"], rows)
    )
