"""Tables of 2-D navigation: the paper's protocol, all methods, and learning from scratch."""

from __future__ import annotations

from results_files import STUDIES, row_file

from metarl.evaluation.modes import MODES
from metarl.evaluation.results import Results
from metarl.evaluation.yardstick import Match, Reached, common_tasks, match
from tables import trials
from tables.text import PUBLISHED, bounds, interval, table


def navigation_results(row: str) -> Results:
    """Results of STUDY/ROW of the suite `navigation`."""
    return Results.load(row_file(*f"navigation/{row}".rsplit("/", 1)))


def picture() -> str:
    """Caption of the figure of adaptation curves."""
    results = navigation_results("paper/steps2")
    rows = results.summary()
    size = f"{len(results.meta['seeds'])} seeds, {results.meta['tasks']} held-out goals"
    return (
        "MAML on 2-D navigation, trained after both of two inner steps (`metarl benchmark navigation --only "
        f"paper/steps2`), {size}, 4,000 environment steps per adaptation step: {interval(rows[0])} before and "
        f"{interval(rows[-1])} after {int(rows[-1]['k'])} steps (95 % intervals). Made by `python "
        "experiments/make_tables.py` from `experiments/results/`."
    )


NAVIGATION = {
    "paper/maml": "`maml`, the paper's protocol",
    "paper/maml-stride5": "the same, `fvp_stride=5`",
    "paper/maml-decay": "the same runs as the first, inner steps x 1, .35, .175",
    "paper-400/maml-decay": "- on 400 held-out goals",
    "paper/steps2": "`maml`, trained after steps 1 and 2, inner steps x 1, .5, .25",
    "paper-400/steps2": "- on 400 held-out goals",
}


def paper_protocol() -> str:
    """Table of 2-D navigation, with the paper's numbers."""
    paper = PUBLISHED["point_navigation"]
    rows = [["MAML, the paper", *padded(paper["MAML"])]]
    for row, label in NAVIGATION.items():
        found = navigation_results(row)
        rows += [[f"{label}: {mode} actions", *map(interval, found.summary(mode))] for mode in MODES]
        if row == "paper/maml":
            for seed, scores in zip(found.meta["seeds"], found.scores["sampled"].mean((1, 3)), strict=True):
                rows.append([f"- seed {seed} alone, sampled", *padded(list(scores))])
    rows.append(["random initialisation, the paper", *padded(paper["random initialisation"])])
    rows.append(["`scratch`, sampled actions", *map(interval, navigation_results("dense/scratch").summary())])
    rows.append(["oracle policy shown the goal, the paper", *padded(paper["oracle policy"])])
    shown = navigation_results("dense/task_conditioned").summary()
    rows.append(["`task_conditioned`, shown the goal, sampled actions", *map(interval, shown)])
    base = navigation_results("paper/maml")
    rows.append(["informed optimum, exact", *padded([float(base.references["informed_optimum"].mean())])])
    rows.append(["random actions", *padded([float(base.references["floor"].mean())])])
    seeds = len(base.meta["seeds"])
    return (
        "2-D navigation, R_k on 40 held-out goals, mean and 95 % interval over seeds and goals. The paper's protocol: "
        f"40 tasks x 20 episodes x 100 steps, {base.meta['iterations']} meta-updates; only the initial "
        f"weights of the last layer differ (`final_gain`). Every row has {seeds} seeds; those of the first row are "
        "listed. "
        f"Paper: {paper['source']}. Command: `metarl benchmark navigation --only paper paper-400 dense/scratch "
        "dense/task_conditioned`.\n\n" + table(["", "k = 0", "1", "2", "3"], rows)
    )


def beside_the_papers() -> str:
    """README's table: MAML on 2-D navigation and RL2 on bandits, one line for each number."""
    paper, found = PUBLISHED["point_navigation"]["MAML"], navigation_results("paper/maml")
    best = f"{found.references['informed_optimum'].mean():.2f}"
    rows = [
        [f"MAML, 2-D navigation, R_{int(row['k'])}", f"{paper[int(row['k'])]:.2f}", interval(row), best]
        for row in found.summary("sampled")
    ]
    last = navigation_results("paper/steps2").summary("sampled")[-1]
    rows.append([f"- trained after both inner steps, R_{int(last['k'])}", "", interval(last), best])
    return (
        "Papers: Finn et al. 2017 (arXiv:1703.03400), whose protocol is used; Duan et al. 2016 (arXiv:1611.02779), "
        "best of "
        f"5 seeds. metarl: mean and 95 % interval; R_k of {len(found.meta['seeds'])} seeds of `maml` on "
        f"{found.meta['tasks']} held-out goals, and the lifetime return of `rl2` on held-out bandits. Optimum: the "
        "return "
        "of a player who knows the goal; on bandits, of the Gittins index.\n\n"
        + table(["", "paper", "metarl", "optimum"], [*rows, *trials.beside_the_paper()])
    )


def middle(row: dict[str, float]) -> tuple[float, float, float]:
    """The interquartile mean of a summary row and its interval; those of the mean where all scores are 0 or 1."""
    names = ("iqm", "iqm_low", "iqm_high") if "iqm" in row else ("mean", "low", "high")
    return row[names[0]], row[names[1]], row[names[2]]


def comparison(study: str) -> str:
    """Table of all methods on one family: interquartile means, sorted by the score after three steps."""
    entries = STUDIES[f"navigation/{study}"].entries
    found = {e: navigation_results(f"{study}/{e}") for e in entries if row_file(f"navigation/{study}", e).exists()}
    lines = []
    for name, results in found.items():
        sampled, deterministic = (results.summary(mode) for mode in MODES)
        cells = [bounds(*middle(row)) for row in (*sampled, deterministic[-1])]
        lines.append((middle(sampled[-1])[0], [f"{name} (`{results.agent}`)", *cells]))
    rows = [cells for _, cells in sorted(lines, key=lambda line: -line[0])]
    learners = [r for name, r in found.items() if entries[name].iterations]
    seeds = sorted({len(r.meta["seeds"]) for r in learners})
    best = found["oracle"].references["informed_optimum"].mean()
    failed = sum(int(r.meta["failed_steps"]) for r in found.values())
    chosen = "the inner problem of `imaml` (on dense navigation) and " if "imaml" in found else ""
    return (
        f"`{learners[0].family}`: interquartile mean of R_k over {'/'.join(map(str, seeds))} seeds x 40 held-out goals "
        f"with its 95 % interval, sampled actions; the last column has deterministic actions. "
        f"{learners[0].meta['iterations']} meta-updates on 20 tasks x 10 episodes each; every method has the "
        f"defaults of its agent (`final_gain` was chosen with `maml` on dense navigation, {chosen}"
        "the step size of fine-tuning in the rows -tuned on train tasks, and nothing else was tuned), except "
        "`fvp_stride=5` for TRPO and `schedule_iterations=50` for MAML++; `multi_task` and `task_conditioned` do not "
        "adapt and are trained on as many environment steps. Mean informed optimum: "
        f"{best:.2f}. Failed adaptation steps: "
        f"{failed}. Command: `metarl benchmark navigation --only {study}`.\n\n"
        + table(["", "k = 0", "1", "2", "3", "3, deterministic actions"], rows)
    )


def steps(reached: Reached) -> str:
    """A number of environment steps, with what is known of it."""
    words = {"": "", "<": "fewer than ", ">": "more than "}[reached.bound]
    return f"{words}{reached.steps:,.0f}"


def from_scratch(study: str) -> str:
    """Table of the steps that Stable-Baselines3 needs in a task to match what each method returns after adapting."""
    files = {name: row_file(f"navigation/{study}-{name}", name) for name in ("ppo", "sac")}
    found = {name: Results.load(file) for name, file in files.items() if file.exists()}
    if not found:
        return f"No results yet. Command: `metarl benchmark navigation --only {study} {study}-ppo {study}-sac`."
    lines = []
    for row, entry in STUDIES[f"navigation/{study}"].entries.items():
        path = row_file(f"navigation/{study}", row)
        if entry.iterations and path.exists():
            agent, cells = Results.load(path), []
            for mode in MODES:
                matches = [match(agent, r, common_tasks(agent, r), mode) for r in found.values()]
                cells += [bounds(matches[0].mean, matches[0].low, matches[0].high), *map(spread, matches)]
            lines.append((matches[0].mean, [f"{row} (`{agent.agent}`)", *cells]))
    rows = [cells for _, cells in sorted(lines, key=lambda line: -line[0])]
    first = next(iter(found.values()))
    limits = " and ".join(f"{r.env_steps[-1]:,.0f} ({name.upper()})" for name, r in found.items())
    count = len(first.scores["sampled"][0])
    head = [name for mode in MODES for name in (f"R_3, {mode}", *(f"steps of {n.upper()}" for n in found))]
    return (
        f"Return after three adaptation steps (12,000 environment steps) on the first {count} held-out goals, mean and "
        "95 % interval over seeds and goals, and the environment steps after which Stable-Baselines3, which starts "
        "from scratch in each goal, reaches this return with the same kind of actions; in brackets, those for the ends "
        f"of the interval. Stable-Baselines3: one seed, at most {limits} steps a goal. Command: `metarl benchmark "
        f"navigation --only {study} {study}-ppo {study}-sac`.\n\n" + table(["", *head], rows)
    )


def spread(found: Match) -> str:
    """The steps from scratch to a mean, and to the ends of its interval."""
    mean, low, high = steps(found.reached), steps(found.reached_low), steps(found.reached_high)
    return mean if mean == low == high else f"{mean} [{low}, {high}]"


def padded(values: list[float]) -> list[str]:
    """Text of values, padded to four columns."""
    return [f"{v:.2f}" for v in values] + [""] * (4 - len(values))
