"""Tables of agents that live through trials, from the results files of experiments/trials.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trials import BANDITS, MDPS, STUDIES

from metarl import make_family
from metarl.results import Results

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PUBLISHED = json.loads((HERE / "published.json").read_text())
NAMES = {
    "random": "random",
    "gittins": "Gittins",
    "thompson_sampling": "TS",
    "thompson_sampling-beta22": "TS, Beta(2, 2)",
    "optimistic_thompson_sampling": "OTS",
    "optimistic_thompson_sampling-5": "OTS, 5 draws",
    "ucb1": "UCB1",
    "epsilon_greedy": "e-greedy",
    "greedy": "greedy",
    "psrl": "PSRL",
    "opsrl": "OPSRL",
    "ucrl2": "UCRL2",
    "beb": "BEB",
    "epsilon_greedy_mdp": "e-greedy",
    "greedy_mdp": "greedy",
    "rl2": "RL2",
    "snail": "SNAIL",
    "oracle": "informed optimum",
}
# pictures in docs: a study, and the rows that are drawn
FIGURES = {
    "trials_bandit": ("bandit-n100-k5", ("rl2", "gittins", "thompson_sampling", "random")),
    "trials_mdp": ("mdp-n10", ("rl2", "beb", "psrl", "random")),
    "trials_grid_navi": ("grid_navi-n4", ("rl2", "oracle", "random")),
}
Life = Mapping[str, float]


def lifetime(study: str, row: str) -> Life | None:
    """Mean lifetime return with its interval, or None where nothing was measured."""
    path = RESULTS / f"{study}-{row}.json"
    return json.loads(path.read_text())["lifetime"] if path.exists() else None


def table(head: list[str], rows: list[list[str]], align: str = "--:") -> str:
    """A Markdown table, columns after the first aligned to the right."""
    lines = [head, ["---", *[align] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(life: Life | None, digits: int) -> str:
    """A mean."""
    return f"{life['mean']:.{digits}f}" if life else ""


def with_interval(life: Life | None, digits: int) -> str:
    """A mean with its interval."""
    return f"{life['mean']:.{digits}f} [{life['low']:.{digits}f}, {life['high']:.{digits}f}]" if life else ""


def share(study: str, best: str) -> str:
    """(RL2 - random) / (best - random), all of them measured on the same tasks."""
    ours, low = (lifetime(study, row) for row in ("rl2", "random"))
    high = strongest(study) if best == "strongest" else lifetime(study, best)
    if not (ours and low and high):
        return ""
    return f"{(ours['mean'] - low['mean']) / (high['mean'] - low['mean']):.1%}"


def strongest(study: str) -> Life | None:
    """Who knows the prior and is best: GridNavi's is the exact Bayes optimum."""
    if not study.startswith("grid_navi"):
        return lifetime(study, {"bandit": "gittins", "mdp": "beb"}[study.split("-")[0]])
    return {"mean": json.loads((RESULTS / f"{study}-random.json").read_text())["bayes_optimal"]}


def widest(studies: list[str], rows: list[str]) -> str:
    """Half the widest interval of the classical rows, as a sentence's end."""
    found = [(s, life) for s in studies for r in rows if (life := lifetime(s, r))]
    by_study = {s: max((life["high"] - life["low"]) / 2 for t, life in found if t == s) for s in studies}
    return ", ".join(f"{half:.2f} at {s.split('-', 1)[1].replace('-', ', ')}" for s, half in by_study.items())


def steps(study: str) -> str:
    """Environment steps that rl2 was trained on."""
    found = STUDIES[study]
    horizon = make_family(found.family).horizon
    return f"{found.iterations * found.rl2['meta_batch_size'] * found.episodes * horizon / 1e6:.0f}"


def tasks_played(studies: list[str]) -> str:
    """How many held-out tasks every row of some studies was measured on."""
    found = {json.loads(f.read_text())["meta"]["tasks"] for s in studies for f in RESULTS.glob(f"{s}-*.json")}
    assert len(found) == 1, f"rows of {studies} are of different numbers of tasks: {found}"
    return f"{found.pop():,}"


def bandit_name(study: str) -> str:
    """The cell of the paper's table, "n,k"."""
    _, n, k = study.split("-")
    return f"{n[1:]},{k[1:]}"


def bound_of(best: Mapping[str, Any]) -> str:
    """The exact optimum, or what it is below."""
    return f"{best['exact']:.3f}" if best["exact"] else f"< {best['upper_bound'] + 2 * best['standard_error']:.1f}"


def bandits() -> str:
    """The bandit table: a line of ours and a line of the paper's for each cell."""
    studies = [s for s in STUDIES if s.startswith("bandit-") and lifetime(s, "random")]
    bounds = json.loads((RESULTS / "bandit_bounds.json").read_text())["cells"]
    columns = ["random", *BANDITS]
    rows = []
    for study in studies:
        digits = 2 if STUDIES[study].episodes == 10 else 1
        best = bounds.get(study)
        optimum = bound_of(best) if best else ""
        ours = [cell(lifetime(study, c), digits) for c in columns]
        ours += [with_interval(lifetime(study, "rl2"), digits), share(study, "gittins"), optimum]
        name = bandit_name(study)
        rows.append([f"{name}", *ours])
        paper = PUBLISHED["bandit"].get(name)
        if paper:
            rows.append(["- paper", *(f"{paper[c]:.1f}" for c in columns), f"{paper['rl2']:.1f}", "", ""])
    head = ["n, k", *(NAMES[c] for c in columns), "RL2", "RL2's share of the gap", "Bayes optimum"]
    trained = [s for s in studies if lifetime(s, "rl2")]
    budgets = ", ".join(f"{steps(s)} at {bandit_name(s)}" for s in trained)
    return (
        f"Lifetime return on {tasks_played(studies)} held-out bandits (ten trials of each at n = 10), exploration "
        f"included, sampled actions. RL2: mean of {seeds(trained)} seeds with its 95 % interval, trained on {budgets} "
        "million steps; its share of the gap is from random play to the Gittins index on the same bandits. Half the "
        f"widest 95 % interval of the other columns: {widest(studies, columns)}. Hyperparameters of UCB1 and e-greedy "
        "were chosen on train tasks (`experiments/tuned.json`; some are at the edge of what was tried). The Bayes "
        "optimum is exact, or bounded from above by an information relaxation, two standard errors added. All rows of "
        "a cell share their tasks, so that a mean above the optimum is their luck and not a player's skill. Paper: "
        f"{PUBLISHED['bandit']['source']}. Commands: `python experiments/tune.py --studies bandit`, `python "
        "experiments/trials.py --studies bandit`, `python "
        "experiments/bandit_bounds.py`.\n\n" + table(head, rows)
    )


def seeds(studies: list[str]) -> str:
    """How many seeds rl2 has in some studies."""
    return "/".join(sorted({str(len(Results.load(RESULTS / f"{s}-rl2.json").meta["seeds"])) for s in studies}))


def bandit_variants() -> str:
    """What the published columns are when the plain algorithm's are not."""
    rows = []
    for study in (s for s in STUDIES if s.startswith("bandit-")):
        changed = [r for r in STUDIES[study].classical if "-" in r and lifetime(study, r)]
        paper = PUBLISHED["bandit"].get(bandit_name(study))
        for row in changed if paper else []:
            plain = row.split("-")[0]
            values = [cell(lifetime(study, r), 2) for r in (plain, row)]
            rows.append([f"{bandit_name(study)}: {NAMES[row]}", *values, f"{paper[plain]:.1f}"])
    return table(["n, k", "the algorithm", "changed", "the paper"], rows)


def mdps() -> str:
    """The table of tabular MDPs: a line of ours for each prior, and one of the paper's."""
    studies = [s for s in STUDIES if s.startswith("mdp-") and lifetime(s, "random")]
    columns = ["random", *MDPS]
    rows = []
    for study in studies:
        n = STUDIES[study].episodes
        ours = [cell(lifetime(study, c), 1) for c in columns]
        rows.append([str(n), *ours, with_interval(lifetime(study, "rl2"), 1), cell(lifetime(study, "oracle"), 1)])
        wrong = [lifetime(study, f"{c}-prior0") for c in columns]
        if any(wrong):
            rows.append(["- prior mean 0", *(cell(life, 1) for life in wrong), "", ""])
        paper = PUBLISHED["mdp"].get(str(n))
        if paper:
            rows.append(["- paper", *(f"{paper[c]:.1f}" for c in columns), f"{paper['rl2']:.1f}", ""])
    head = ["n", *(NAMES[c] for c in columns), "RL2", "informed optimum"]
    trained = [s for s in studies if lifetime(s, "rl2")]
    budgets = ", ".join(f"{steps(s)} million steps at n = {STUDIES[s].episodes}" for s in trained)
    return (
        f"Lifetime return of n episodes of 10 steps on {tasks_played(studies)} held-out MDPs, exploration included, "
        f"sampled actions. RL2: mean of {seeds(trained)} seeds with its 95 % interval, trained on {budgets}. Half the "
        f"widest 95 % interval of the other columns: {widest(studies, columns)}. Hyperparameters of UCRL2, BEB and "
        "e-greedy were chosen on train tasks (`experiments/tuned.json`; some at the edge of what was tried). Paper: "
        f"{PUBLISHED['mdp']['source']}. Commands: `python "
        "experiments/tune.py --studies mdp`, `python experiments/trials.py --studies mdp`.\n\n" + table(head, rows)
    )


def grid_navi() -> str:
    """GridNavi: each episode's return beside the Bayes-optimal policy's."""
    name = "grid_navi-n4"
    rows = []
    best: dict[str, Any] = {}
    for row in ("rl2", "random", "oracle"):
        results = Results.load(RESULTS / f"{name}-{row}.json")
        life = results.lifetime_summary()
        assert life is not None
        episodes = [f"{v:.2f}" for v in results.collected.mean((0, 1))]
        best = {"total": results.bayes_optimal, "episodes": results.bayes_episodes}
        reached = {"rl2": share(name, "strongest"), "random": "0.0%"}.get(row, "")
        rows.append([f"`{row}`", *episodes, with_interval(life, 2), reached])
    optimum = [f"{v:.2f}" for v in best["episodes"]]
    rows.append(["Bayes optimum, exact", *optimum, f"{best['total']:.2f}", "100.0%"])
    return (
        f"Mean return of each of 4 episodes on GridNavi (train = test), {tasks_played([name])} trials, sampled "
        f"actions; {seeds([name])} seeds of RL2, trained on {steps(name)} million steps. The oracle is shown the goal. "
        f"Command: `python experiments/trials.py --studies grid_navi`.\n\n"
        + table(["", "episode 1", "2", "3", "4", "whole trial", "share of the gap"], rows)
    )


def settings() -> str:
    """How rl2 was trained in each study."""
    rows = []
    for name, study in STUDIES.items():
        if study.iterations:
            changed = ", ".join(f"{k} {v}" for k, v in sorted(study.rl2.items()) if k != "meta_batch_size")
            rows.append([name, str(study.iterations), str(study.rl2["meta_batch_size"]), steps(name), f"`{changed}`"])
    head = ["study", "meta-updates", "trials in each", "million steps", "what differs from the defaults of `rl2`"]
    return table(head, rows) + "\n\nThe learning rate and the entropy bonus fall to 0 over the meta-updates."


def summary() -> str:
    """RL2's cells alone, for README."""
    rows = []
    for study in (s for s in STUDIES if STUDIES[s].iterations and lifetime(s, "rl2")):
        kind = study.split("-")[0]
        digits = 2 if study.startswith(("grid_navi", "bandit-n10-")) else 1
        paper = PUBLISHED.get(kind, {}).get(bandit_name(study) if kind == "bandit" else study.split("-n")[1], {})
        label = study.replace("_", " ").replace("-", ", ").replace(", n", ", n = ").replace(", k", ", k = ")
        rows.append(
            [
                label,
                cell(lifetime(study, "random"), digits),
                cell(strongest(study), digits),
                f"{paper['rl2']:.1f}" if paper else "",
                with_interval(lifetime(study, "rl2"), digits),
                share(study, "strongest"),
            ]
        )
    played = [s for s in STUDIES if STUDIES[s].iterations and lifetime(s, "rl2")]
    return (
        f"Lifetime return of `rl2`, mean of {seeds(played)} seeds, on {tasks_played(played)} held-out tasks beside "
        "random play and the strongest that knows the prior (bandits: the Gittins index; MDPs: BEB; GridNavi: the "
        "exact Bayes optimum), and RL2's share of the gap "
        "between them. All columns, the exact optima, and what explains published numbers that differ: "
        "[docs/trials.md](docs/trials.md).\n\n"
        + table(["", "random", "strongest", "RL2, the paper, best of 5 seeds", "`rl2`", "share of the gap"], rows)
    )
