"""Makes the tables, captions and figures of README and docs from results files.

python experiments/make_tables.py            # rewrite the pages between their markers, pictures in docs/, and cards
python experiments/make_tables.py --check    # change nothing; exit with code 1 if a page is not up to date
"""

from __future__ import annotations

import functools
import json
import re
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import benchmark_evaluation
import benchmark_inference
import benchmark_inner_steps
import benchmark_revisions
import benchmark_runner
import gradient_bias
import inference_tables
import interval_coverage
import online_streams
import robot_tables
import strategy_tables
import trial_tables
import tyro
from results_files import STUDIES, results_file, row_file
from robot_tables import interval
from trial_tables import table

from metarl.benchmark.card import CARD, card
from metarl.benchmark.rows import RESULTS, is_reproducible
from metarl.evaluation.modes import MODES
from metarl.evaluation.results import Results
from metarl.evaluation.yardstick import Match, Reached, common_tasks, match
from metarl.families import registry
from metarl.files import write_atomic
from metarl.report.figures.trial import trial_figure
from metarl.report.page import adaptation_figure, save_figure

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = json.loads((ROOT / "experiments" / "published.json").read_text())


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    check: bool = False
    """Whether to compare and not write."""


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


def navigation() -> str:
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
        + table(["", "paper", "metarl", "optimum"], [*rows, *trial_tables.beside_the_paper()])
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
        middles = [middle(row) for row in (*sampled, deterministic[-1])]
        cells = [f"{value:.2f} [{low:.2f}, {high:.2f}]" for value, low, high in middles]
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
                mean, low, high = matches[0].mean, matches[0].low, matches[0].high
                cells += [f"{mean:.2f} [{low:.2f}, {high:.2f}]", *map(spread, matches)]
            lines.append((mean, [f"{row} (`{agent.agent}`)", *cells]))
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


def agents() -> str:
    """Table of the built-in agents, from the registry."""
    rows = []
    for name in sorted(registry.agents):
        cls = registry.agent_class(name)
        doc = (cls.__doc__ or "").strip().splitlines()[0]
        module = cls.__module__
        folder = module.removeprefix("metarl.") if module.startswith("metarl.agents.") else module
        file = folder.replace(".", "/") + ".py"
        rows.append([f"`{name}`", doc, "yes" if cls.learns else "no", f"`{file}`"])
    return table(["name", "what", "meta-trained", "file"], rows, "---")


def speed_report(name: str) -> dict[str, Any]:
    """Results of a benchmark."""
    return dict(json.loads(results_file("speed", name).read_text()))


def speed() -> str:
    """Tables of all benchmarks: gradient-based agents on a CPU and on a GPU, agents with a memory, families."""
    runs = [speed_report(name) for name in ("speed", "speed_cuda", "speed_rl2", "speed_rl2_cuda")]
    tables = [f(run) for f, run in zip([speed_table] * 2 + [memory_speed_table] * 2, runs, strict=True)]
    families = [
        family_speed_table(
            "speed_families",
            "python experiments/benchmark_families.py --only f,g",
            "(f) with a policy of 2 x 64 units in the loop, (g) and the open loops with actions drawn in advance",
        ),
        family_speed_table(
            "speed_meta_world",
            "python experiments/benchmark_families.py --only j --out experiments/results/speed/speed_meta_world.json",
            "actions drawn in advance, beside the package's vector environments and MuJoCo's steps alone",
        ),
        family_speed_table(
            "speed_robots",
            "python experiments/benchmark_families.py --only k --out experiments/results/speed/speed_robots.json",
            "whole meta-updates of `rl2` with a GRU of 128 units and of `maml`, beside the environments alone",
        ),
        family_speed_table(
            "speed_mini_grid",
            "python experiments/benchmark_families.py --only l --out experiments/results/speed/speed_mini_grid.json",
            "actions drawn in advance, beside Gymnasium's vector environments of the package's",
        ),
    ]
    return "\n\n".join([*tables, *families])


SPEED_SUMMARY = {  # report: rows, each the measured work and the other side
    "speed": [
        ("stepping", "SyncVectorEnv per task"),
        ("MAML iteration", "loop, graphs kept"),
        ("MAML iteration, stride 5", "loop, graphs kept"),
    ],
    "speed_cuda": [("MAML iteration", "loop, graphs kept")],
    "speed_rl2": [
        ("RL2, LSTM 64, 64 trials", "RecurrentPPO"),
        ("RL2, GRU 64, 64 trials", "JAX loop"),
        ("RL2, LSTM 256, 64 trials", "RecurrentPPO"),
        ("RL2, GRU 256, 64 trials", "JAX loop"),
        ("RL2, GRU 204, 1,024 trials", "GRUCell loop"),
        ("RL2, GRU 204, 1,024 trials", "JAX loop"),
    ],
    "speed_rl2_cuda": [("RL2, LSTM 256, 64 trials", "RecurrentPPO")],
    "speed_families": [("HalfCheetahVel, 256 environments", "SyncVectorEnv, 64")],
    "speed_meta_world": [("Meta-World ML10, 100 environments", "SyncVectorEnv, 10")],
    "speed_robots": [("rl2 on HalfCheetahVel, 160 trials", "environments alone")],
    "speed_mini_grid": [("MiniGrid four rooms, 256 environments", "SyncVectorEnv, 64")],
}


def speed_summary() -> str:
    """Table of some ratios from each machine."""
    rows = []
    for name, wanted in SPEED_SUMMARY.items():
        data = speed_report(name)
        device = data["cuda"] or f"{data['cores']} cores of {data['cpu']}"
        found = {(row["what"], row["other"]): row for row in data["rows"]}
        for what, other in wanted:
            ours, theirs = (f"{statistics.median(found[what, other][side]):,.0f}" for side in ("ours", "theirs"))
            compared = f"{other}, on that machine's CPU" if data["cuda"] and other == "RecurrentPPO" else other
            rows.append([what, compared, device, ours, theirs, f"{found[what, other]['ratio']:.1f} x"])
    return "Environment steps per second, medians of interleaved repeats.\n\n" + table(
        ["", "compared with", "on", "metarl", "other", "ratio"], rows
    )


def evaluation_speed() -> str:
    """Table of the time of an evaluation."""
    return benchmark_evaluation.table_of(json.loads(benchmark_evaluation.OUT.read_text()))


def inference_speed() -> str:
    """Table of agents that infer the task beside plain loops, and of RL2 beside its former code."""
    data = json.loads(benchmark_inference.OUT.read_text())
    rows = speed_rows(data, "hi")
    old = json.loads(benchmark_revisions.OUT.read_text())
    ours, theirs = (1000 * statistics.median(old[name]) for name in ("now", "before"))
    what = f"`{old['agent']}` on {old['family'].partition('/')[2]}, {old['revision']}"
    return (
        f"(h) VariBAD, environment steps per second of training; (i) PEARL, gradient steps per second; medians of "
        f"{data['options']['repeats']} interleaved repeats with {data['options']['threads']} threads on {data['cpu']}, "
        f"{data['cores']} cores.\n\n"
        + table(["", "compared with", "metarl", "other", "ratio"], rows)
        + f"\n\n{what} (`python experiments/benchmark_revisions.py {old['revision']}`): {theirs:.1f} ms a meta-update "
        f"before it was built of shared parts, {ours:.1f} ms now, {theirs / ours:.2f} times as fast; medians of "
        f"{len(old['now'])} turns of each in processes of their own, one thread."
    )


def family_speed_table(report: str, command: str, what: str) -> str:
    """Table of families and vector environments."""
    data = speed_report(report)
    return (
        f"Families, environment steps per second, medians of {data['options']['repeats']} interleaved repeats with "
        f"{data['options']['threads']} threads on {data['cpu']}, {data['cores']} cores (`{command}`): {what}.\n\n"
        + table(["", "compared with", "metarl", "other", "ratio"], speed_rows(data, "fgjkl"))
    )


def speed_table(data: dict[str, Any]) -> str:
    """Table with a row for each comparison, and the time and memory of the meta-iteration."""
    rows = speed_rows(data, "abd")
    sides = data["details"]["meta_iteration"]
    took = {name: {k: statistics.median(v) for k, v in side.items()} for name, side in sides.items()}
    memory = data["details"]["memory"]["bytes_peak"] / 2**20
    device = f"{data['options']['threads']} threads on {data['cpu']}, {data['cores']} cores"
    held = "memory at its peak, Python and PyTorch included"
    if data.get("cuda"):
        device, held = f"one {data['cuda']}", "the GPU's memory at its peak"
        memory = data["details"]["memory"]["bytes_peak_cuda"] / 2**20
    thinned = ""
    if "stride 5" in took:
        thinned = (
            f" With one sample in five in the Fisher-vector products (`fvp_stride=5`) it takes "
            f"{took['stride 5']['seconds_total']:.2f} s, {took['stride 5']['sampling_share']:.1%} of it sampling."
        )
    parts = "(b) one exact MAML-TRPO meta-iteration, 40 tasks x 20 episodes x 100 steps, "
    parts += "compared with the same update task by task"
    if "a" in data["options"]["only"]:
        parts = f"(a) 40 tasks x 20 environments with a 2x100 policy per task, no training; {parts}"
    return (
        f"Environment steps per second, medians of {data['options']['repeats']} interleaved repeats with "
        f"{device}: {parts}.\n\n"
        + table(["", "compared with", "metarl", "other", "ratio"], rows)
        + f"\n\nThe meta-iteration takes {took['metarl']['seconds_total']:.2f} s, "
        f"{took['metarl']['sampling_share']:.1%} of it sampling, and {memory:,.0f} MiB of {held}.{thinned}"
        f"{speed_many_tasks(data['details'])}"
    )


def speed_rows(data: dict[str, Any], parts: str) -> list[list[str]]:
    """Rows of the comparisons of some parts."""
    rows = []
    for row in (r for r in data["rows"] if r["part"] in parts):
        ours, theirs = (f"{statistics.median(row[side]):,.0f}" if row[side] else "" for side in ("ours", "theirs"))
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.1f} x"
        rows.append([f"({row['part']}) {row['what']}", row["other"], ours, theirs, ratio])
    return rows


def memory_speed_table(data: dict[str, Any]) -> str:
    """Table of RL2's training, and of the GRU."""
    shares = [
        f"{name} with {case['hidden']} units {side['share_of_peak']:.0%}"
        for case in data["details"]["rl2"]
        for name, side in case["sides"].items()
        if name in ("metarl", "JAX loop") and side.get("share_of_peak")
    ]
    parts = (
        "(c) training RL2 on bandits of 100 pulls, environment steps per second, 4 epochs, 64 trials and one "
        "minibatch, or 1,024 and four; RecurrentPPO has an LSTM, so it is also compared with rl2 with an LSTM"
    )
    if "e" in data["options"]["only"]:
        parts += "; (e) sequence steps per second of a GRU forwards and backwards, sequences of 100"
    where = f"{data['options']['threads']} threads on {data['cpu']}, {data['cores']} cores"
    if data.get("cuda"):
        where = f"one {data['cuda']}"
        parts += (
            "; only RecurrentPPO runs on the machine's CPU. The warm-up includes the first update of a size, which is "
        )
        parts += "captured as a CUDA graph. There was no loop in JAX"
    return (
        f"Agents with a memory, medians of {data['options']['repeats']} interleaved repeats with {where}: {parts}.\n\n"
        + table(["", "compared with", "metarl", "other", "ratio"], speed_rows(data, "ce"))
        + f"\n\nShare of the fastest matrix product: {', '.join(shares)}."
    )


def speed_many_tasks(details: dict[str, Any]) -> str:
    """Sentence about memory and time of the meta-iteration on many tasks."""
    if "many_tasks" not in details:
        return ""
    cases = details["many_tasks"]["cases"]
    most = max(case["tasks"] for case in cases)
    parts = [
        f"{case['memory'].get('bytes_peak_cuda', case['memory']['bytes_peak']) / 2**30:.1f} GiB at its peak and "
        f"{statistics.median(case['seconds']['total']):,.3g} s ("
        f"{'exact' if case['stride'] == 1 else 'stride ' + str(case['stride'])})"
        for case in cases
        if case["tasks"] == most
    ]
    return f"\n\n(d) On {most:,} tasks at once it takes {', '.join(parts)}."


def bias_report() -> dict[str, Any]:
    """Results of experiments/gradient_bias.py."""
    return dict(json.loads(gradient_bias.OUT.read_text()))


def gradients() -> str:
    """Table of the inner estimators, compared with the exact meta-gradient."""
    report = bias_report()
    horizons, sizes = report["options"]["horizons"][::2], report["options"]["trajectories"][::2]
    columns = [("limit", h, "relative_error", f"error, horizon {h}", ".1%") for h in horizons]
    columns += [("sampled", n, "cosine", f"cosine, N = {n}", ".3f") for n in sizes]
    columns += [("sampled", n, "deviation", f"deviation, N = {n}", ".0%") for n in sizes]
    rows = [
        [
            label,
            *(f"{gradient_bias.mean_of(report, part, at, method, what):{form}}" for part, at, what, _, form in columns),
        ]
        for method, label in gradient_bias.LABELS.items()
    ]
    return gradient_bias.caption(report) + "\n\n" + table(["", *(head for _, _, _, head, _ in columns)], rows)


def inner_steps() -> str:
    """Table of memory and time against the number of inner steps."""
    return benchmark_inner_steps.inner_steps_table(speed_report("inner_steps"))


def coverage() -> str:
    """Table of the shares of intervals that contain the true value."""
    return interval_coverage.coverage_table(json.loads(interval_coverage.OUT.read_text()))


def scores_only() -> str:
    """The published rows of trained agents whose weights were not kept, and the streams."""
    found = []
    for study, given in STUDIES.items():
        for name, entry in given.entries.items():
            trained = entry.iterations or entry.runs_of
            if trained and row_file(study, name).exists() and not is_reproducible(row_file(study, name).parent):
                found.append(f"`{study}/{name}`")
    rows = f"Rows that are scores only: {', '.join(found)}." if found else "All trained rows have their weights."
    files = sorted(results_file("online", "any").parent.glob("*.json"))
    streams = ", ".join(f"`{path.parent.name}/{path.name}`" for path in files)
    if not files:
        return rows
    return (
        f"{rows}\n\nThe streams of [Meta-train online](online.md) belong to no suite, and no weights of them are kept. "
        f"They are scores only: {streams}. `python experiments/online_streams.py` plays them again."
    )


PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"papers": beside_the_papers},
    "docs/papers.md": {"picture": picture, "navigation": navigation, "trials": trial_tables.summary},
    "docs/speed.md": {
        "summary": speed_summary,
        "speed": speed,
        "inference": inference_speed,
        "evaluation": evaluation_speed,
        "runner": lambda: benchmark_runner.words_of(json.loads(benchmark_runner.OUT.read_text())),
    },
    "docs/built_in_agents.md": {"agents": agents},
    "docs/gradients.md": {"gradient_bias": gradients, "inner_steps": inner_steps},
    "docs/numbers.md": {"coverage": coverage},
    "docs/trials.md": {
        "bandits": trial_tables.bandits,
        "bandit_variants": trial_tables.bandit_variants,
        "mdps": trial_tables.mdps,
        "grid_navi": trial_tables.grid_navi,
        "dark_room": lambda: trial_tables.dark("grids/dark_room-n8", "DarkRoom"),
        "dark_key_to_door": lambda: trial_tables.dark("grids/dark_key_to_door-n8", "DarkKeyToDoor"),
        "mini_grid": trial_tables.mazes,
        "first_explore": trial_tables.first_explore,
        "settings": trial_tables.settings,
    },
    "docs/strategies.md": {
        "selection": strategy_tables.selection,
        "mixtures": strategy_tables.mixtures,
        "transfer": strategy_tables.transfer,
        "models": strategy_tables.model_based,
        "applications": strategy_tables.applications,
    },
    "docs/inference.md": {"inference": inference_tables.inference, "few_shot": inference_tables.few_shot},
    "docs/how-to/reproduce.md": {"scores only": scores_only},
    "docs/how-to/online.md": {"online": online_streams.tables},
    "docs/results.md": {
        "dense": lambda: comparison("dense"),
        "dense from scratch": lambda: from_scratch("dense"),
        "sparse": lambda: comparison("sparse"),
        "sparse from scratch": lambda: from_scratch("sparse"),
        "control": strategy_tables.control,
        "from scratch": robot_tables.yardstick_table,
        "robots": robot_tables.robot_table,
    },
}


def render(page: str, text: str) -> str:
    """Replace the generated parts of a page's text."""
    for name, make in PAGES[page].items():
        start = f"<!-- generated by experiments/make_tables.py: {name} -->"
        pattern = re.compile(re.escape(start) + r".*?<!-- end -->", re.DOTALL)
        assert pattern.search(text), f"{page} has no part {name!r}"
        text = pattern.sub(functools.partial(_replacement, f"{start}\n{make()}\n<!-- end -->"), text)
    return text


def _replacement(text: str, match: re.Match[str]) -> str:
    return text


def main(options: Options) -> None:
    """Write the pages and figures, or compare the pages."""
    before = {page: (ROOT / page).read_text() for page in PAGES}
    after = {page: render(page, text) for page, text in before.items()}
    for path in sorted((ROOT / "experiments" / "results").rglob(CARD)):
        name = str(path.relative_to(ROOT))
        before[name], after[name] = path.read_text(), card(Results.load(path.parent / RESULTS))
    if options.check:
        if stale := [page for page in before if before[page] != after[page]]:
            sys.exit(f"{', '.join(stale)} differs from what experiments/make_tables.py writes: run it")
        return
    found = [navigation_results(name) for name in ("paper/steps2", "dense/scratch", "dense/oracle")]
    save_figure(adaptation_figure(found), ROOT / "docs" / "adaptation.png")
    save_figure(gradient_bias.figure(bias_report()), ROOT / "docs" / "gradient_bias.png")
    figure = benchmark_inner_steps.inner_steps_figure(speed_report("inner_steps"))
    save_figure(figure, ROOT / "docs" / "inner_steps.png")
    save_figure(strategy_tables.selection_figure(), ROOT / "docs" / "selection.png")
    names = ("mixture", "clustered", "maml", "cavia", "oracle")
    found = [Results.load(row_file("strategies/corners", name)) for name in names]
    save_figure(adaptation_figure(found, ["k"]), ROOT / "docs" / "mixtures.png")
    save_figure(robot_tables.robot_figure(robot_tables.robot_results()), ROOT / "docs" / "robots.png")
    save_figure(robot_tables.yardstick_figure(), ROOT / "docs" / "robots_from_scratch.png")
    for name, (study, rows) in trial_tables.FIGURES.items():
        found = [Results.load(row_file(study, row)) for row in rows if trial_tables.lifetime(study, row)]
        save_figure(trial_figure(found), ROOT / "docs" / f"{name}.png")
    for study in strategy_tables.MODELS:
        if (figure := strategy_tables.model_figure(study)) is not None:
            save_figure(figure, ROOT / "docs" / f"{study.partition('/')[2].replace('-', '_')}.png")
    for kind in online_streams.KINDS:
        save_figure(online_streams.figure_of(kind), ROOT / "docs" / f"online_{kind}.png")
    for page, text in after.items():
        write_atomic(ROOT / page, text.encode())


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
