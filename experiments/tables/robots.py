"""Tables and figures of robots, and the table of learning from scratch of all suites."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from results_files import STUDIES, SUITES, row_file

from metarl.evaluation.results import Results
from metarl.evaluation.yardstick import is_meta_trained, learns_from_scratch
from metarl.report.entries import one_group
from metarl.report.figures.style import PALETTE
from metarl.report.figures.training import Training, training_of
from metarl.report.figures.yardstick import draw_yardstick
from metarl.report.yardstick import Yardstick, yardstick_of, yardstick_rows
from tables.text import interval, table

LEFT_OUT = ("task_conditioned", "oracle", "scratch", "selector", "learned_selector")  # of the yardstick


def robot_results() -> dict[str, list[Results]]:
    """Results of each study of robots that has some."""
    out = {}
    for study in (f"{suite}/{name}" for suite in ("mujoco", "metaworld") for name in SUITES[suite].studies):
        if study.endswith(("-ppo", "-sac")):
            continue  # the table of learning from scratch
        files = [row_file(study, entry) for entry in STUDIES[study].entries]
        if found := [Results.load(file) for file in files if file.exists()]:
            out[study] = found
    return out


def robot_figure(studies: dict[str, list[Results]]) -> Figure:
    """Draw training curves, one panel for each family: for each row the mean over seeds, and their range."""
    panels: dict[str, list[tuple[str, Training]]] = {}
    for found in studies.values():
        for results in found:
            if (training := training_of(results)) is not None:
                panels.setdefault(results.family, []).append((entry_name(results), training))
    out = Figure(figsize=(3.4 * len(panels), 3.2), layout="constrained")
    for axes, (family, lines) in zip(out.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for (name, training), color in zip(lines, PALETTE[: len(lines)], strict=True):
            returns, x = training.returns[..., -1], training.env_steps / 1e6
            label = f"{name}, k = {training.k[-1]}" if training.k else name
            axes.plot(x, returns.mean(0), color=color, label=label)
            axes.fill_between(x, returns.min(0), returns.max(0), color=color, alpha=0.2, linewidth=0)
        title = family.partition("/")[2].replace("-v0", "")
        axes.set(title=title, xlabel="million env steps of training", ylabel="return on train tasks")
        axes.legend(fontsize=7, frameon=False)
    return out


def entry_name(results: Results) -> str:
    """The name of the row that the results are of."""
    return str(results.meta["entry"]).rpartition("/")[2]


def robot_table() -> str:
    """Table of the trainings on the families of robots."""
    studies = robot_results()
    ks = sorted({k for found in studies.values() for results in found for k in results.k})
    rows = []
    for found in studies.values():
        for results in found:
            summary = results.summary("sampled")
            at = {int(row["k"]): interval(row) for row in summary}
            steps = results.meta.get("train_env_steps") or []
            took = results.meta.get("train_seconds") or []
            trained = [f"{np.mean(steps) / 1e6:.3g}" if steps else "", f"{np.mean(took) / 60:.0f}" if took else ""]
            trained.append(str(len(results.meta["seeds"]) if steps else ""))
            ends = [f"{summary[-1].get(f'success{end}', 0):.1%}" for end in ("", "_low", "_high")]
            success = f"{ends[0]} [{ends[1]}, {ends[2]}]" if "success" in summary[-1] else ""
            label = [f"`{results.family}`", f"`{entry_name(results)}`", *trained]
            rows.append([*label, *(at.get(k, "") for k in ks), success])
    tasks = ", ".join(f"{STUDIES[name].protocol.tasks} ({name.partition('/')[2]})" for name in studies)
    return (
        f"R_k with sampled actions on held-out tasks ({tasks}), mean and 95 % interval over seeds and tasks; million "
        "environment steps and minutes of one core of meta-training for each seed (of older rows the minutes are not "
        "known); success is the share of last episodes that reached the "
        "goal. Commands: `metarl benchmark mujoco` and `metarl benchmark metaworld`.\n\n"
        + table(["family", "row", "million steps", "minutes", "seeds", *(f"k = {k}" for k in ks), "success"], rows)
    )


def yardsticks() -> dict[tuple[str, str, int], Yardstick]:
    """Agents that adapt beside learning from scratch, by family, split and number of adaptation steps."""
    learners: dict[tuple[str, str], list[Results]] = {}
    agents: dict[tuple[str, str, int], list[Results]] = {}
    for study in (name for name in STUDIES if not name.startswith("transfer/")):  # those are trained for 5 meta-updates
        for entry in STUDIES[study].entries:
            path = row_file(study, entry)
            if not path.exists() or STUDIES[study].entries[entry].agent in LEFT_OUT:
                continue
            results = Results.load(path)
            if learns_from_scratch(results):
                learners.setdefault((results.family, results.split), []).append(results)
            elif is_meta_trained(results):
                agents.setdefault((results.family, results.split, results.k[-1]), []).append(results)
    pairs = {key: [*learners[key[:2]], *found] for key, found in agents.items() if key[:2] in learners}
    found = {key: yardstick_of(one_group(results)) for key, results in pairs.items()}
    return {key: yardstick for key, yardstick in found.items() if yardstick is not None}


def yardstick_table() -> str:
    """Table of the steps from scratch that match the best adapted agent of each family."""
    rows = []
    for (_, _, k), yardstick in yardsticks().items():
        found, count = yardstick_rows(yardstick), len(yardstick.agents)
        best = max(range(count), key=lambda i: float(found[i]["low"]))
        suite, study, name = yardstick.agents[best].results.meta["entry"].split("/")
        for row in found[best::count]:
            cells = [str(k), interval(row), f"{row['env_steps']:,.0f}", row["learner"].rpartition("/")[2]]
            steps = [number(row, f"scratch{end}", ",.0f") for end in ("", "_low", "_high")]
            cells.append(f"{steps[0]} [{steps[1]}, {steps[2]}]" if len(set(steps)) > 1 else steps[0])
            rows.append([f"{suite}/{study}", name, *cells, times(row)])
    head = ["study", "best that adapts", "k", "its R_k", "after steps", "from scratch", "steps to match it", "times"]
    return (
        "For each family and each number k of adaptation steps: the row whose interval of R_k has the highest lower "
        "end, of those that are not shown the task and choose no learner, its environment steps in the task, and the "
        "steps in the task after which an agent that learns from scratch has this return (`sb3` is "
        "Stable-Baselines3); sampled actions, on the tasks that both "
        "played; in brackets the ends of the 95 % interval and the steps that reach them.\n\n" + table(head, rows)
    )


def times(row: dict[str, float]) -> str:
    """The steps from scratch as a multiple of the agent's; empty for an agent that takes none."""
    return number(row, "times", ",.2g" if row["times"] < 10 else ",.0f") if "times" in row else ""


def number(row: dict[str, float], name: str, form: str) -> str:
    """A number of steps, and what is known of it."""
    words = {"": "", "<": "fewer than ", ">": "more than "}[str(row[f"{name}_bound"])]
    return words + format(row[name], form)


def yardstick_figure() -> Figure:
    """Figure of HalfCheetahDir: what adapts after few steps beside learning from scratch."""
    return draw_yardstick(yardsticks()["metarl/HalfCheetahDir-v0", "test", 3])
