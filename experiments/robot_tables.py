"""Tables and figures of robots, and the table of learning from scratch of all suites."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from results_files import STUDIES, SUITES, row_file
from trial_tables import table

from metarl.evaluation.results import Results
from metarl.report.entries import one_group
from metarl.report.figures.style import PALETTE
from metarl.report.figures.yardstick import draw_yardstick
from metarl.report.yardstick import Yardstick, yardstick_of, yardstick_rows

SHOWN_THE_TASK = ("task_conditioned", "oracle")


def interval(row: dict[str, float]) -> str:
    """The mean and its interval."""
    return f"{row['mean']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def robot_results() -> dict[str, list[Results]]:
    """Results of each study of robots that has some."""
    out = {}
    for study in (f"{suite}/{name}" for suite in ("mujoco", "metaworld") for name in SUITES[suite].studies):
        if study.endswith("-ppo"):
            continue  # the table of learning from scratch
        files = [row_file(study, entry) for entry in STUDIES[study].entries]
        if found := [Results.load(file) for file in files if file.exists()]:
            out[study] = found
    return out


def robot_figure(studies: dict[str, list[Results]]) -> Figure:
    """Draw training curves, one panel for each study: the mean over seeds and their range."""
    shown = {name: found for name, found in studies.items() if any("training_curves" in r.meta for r in found)}
    out = Figure(figsize=(3.4 * len(shown), 2.8), layout="constrained")
    for axes, (name, results) in zip(out.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
        color = iter(PALETTE)
        for result in results:
            for key in [k for k in result.meta.get("training_curves", [{}])[0] if k != "trial_return"]:
                lines = np.array([each[key] for each in result.meta["training_curves"]])
                shade, x = next(color), np.arange(1, lines.shape[1] + 1)
                axes.plot(x, lines.mean(0), color=shade, label=f"{result.agent}: {key.replace('_', ' ')}")
                axes.fill_between(x, lines.min(0), lines.max(0), color=shade, alpha=0.2, linewidth=0)
        axes.set(title=name.partition("/")[2].replace("_", " "), xlabel="meta-update", ylabel="return on train tasks")
        axes.legend(fontsize=7, frameon=False)
    return out


def robot_table() -> str:
    """Table of the short trainings on the families of robots."""
    rows = []
    for found in robot_results().values():
        for results in found:
            summary = results.summary("sampled")
            cells = [interval(row) for row in summary[:3]] + [""] * (3 - len(summary))
            updates, seeds = results.meta["iterations"], len(results.meta["seeds"])
            success = f"{summary[-1]['success']:.1%}" if "success" in summary[-1] else ""
            label = [f"`{results.family}`", f"`{results.agent}`", str(updates or ""), str(seeds if updates else "")]
            rows.append([*label, *cells, success])
    tasks = ", ".join(f"{STUDIES[name].protocol.tasks} ({name.partition('/')[2]})" for name in robot_results())
    return (
        f"R_k with sampled actions on held-out tasks ({tasks}), mean and 95 % interval over seeds and tasks; success "
        "is the share of last episodes that reached the goal. Commands: "
        "`metarl benchmark mujoco` and `metarl benchmark metaworld`.\n\n"
        + table(["family", "agent", "meta-updates", "seeds", "k = 0", "1", "2", "success"], rows)
    )


def yardsticks() -> dict[str, Yardstick]:
    """Of each family that Stable-Baselines3 learns from scratch: it and the agents that adapt, by the study's name."""
    found: dict[str, list[tuple[str, Results]]] = {}
    for study in STUDIES:
        for entry in STUDIES[study].entries:
            path = row_file(study, entry)
            if path.exists() and entry not in SHOWN_THE_TASK:
                results = Results.load(path)
                found.setdefault(results.family, []).append((study, results))
    out = {}
    for rows in found.values():
        learners = [study for study, results in rows if results.agent == "sb3"]
        kept = [results for _, results in rows if results.agent != "scratch"]
        if learners and (yardstick := yardstick_of(one_group(kept))) is not None:
            out[learners[0].rpartition("-")[0]] = yardstick
    return out


def yardstick_table() -> str:
    """Table of the steps from scratch that match the best adapted agent of each family."""
    rows = []
    for name, yardstick in yardsticks().items():
        found, count = yardstick_rows(yardstick), len(yardstick.agents)
        best = max(range(count), key=lambda i: float(found[i]["mean"]))
        for row in found[best::count]:
            adapted = f"{row['mean']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
            cells = [adapted, f"{row['env_steps']:,.0f}", row["learner"].rpartition("/")[2]]
            steps = [number(row, f"scratch{end}", ",.0f") for end in ("", "_low", "_high")]
            cells.append(f"{steps[0]} [{steps[1]}, {steps[2]}]" if len(set(steps)) > 1 else steps[0])
            rows.append(
                [name, row["agent"].rpartition("/")[2], *cells, number(row, "times", ",.0f") if "times" in row else ""]
            )
    head = ["study", "best that adapts", "its return", "after steps", "from scratch", "steps to match it", "times"]
    return (
        "For each family: the agent with the highest mean return after adapting of those that are not shown the task, "
        "its environment steps in the task, and the steps in the task after which Stable-Baselines3, from scratch, has "
        "this return; sampled actions, on the tasks that both played; in brackets the ends of the 95 % interval and "
        "the steps that reach them.\n\n" + table(head, rows)
    )


def number(row: dict[str, float], name: str, form: str) -> str:
    """A number of steps, and what is known of it."""
    words = {"": "", "<": "fewer than ", ">": "more than "}[str(row[f"{name}_bound"])]
    return words + format(row[name], form)


def yardstick_figure() -> Figure:
    """Figure of HalfCheetahDir: what adapts after few steps beside learning from scratch."""
    return draw_yardstick(yardsticks()["mujoco/half_cheetah_dir"])
