"""Learning from scratch as a yardstick of agents: who is compared on which tasks, the numbers, and the sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from metarl.evaluation.modes import Mode
from metarl.evaluation.results import Results
from metarl.evaluation.yardstick import Reached, common_tasks, is_meta_trained, learns_from_scratch, match
from metarl.report.entries import Entry, one_group
from metarl.report.tables import DOT, Column, decimals_of, number_text

Cells = dict[str, Any]


@dataclass(frozen=True)
class Yardstick:
    """Meta-trained agents beside agents that learn from scratch, in one family and split.

    Attributes:
        agents: the meta-trained agents.
        learners: the agents that learn from scratch.
        tasks: number of first tasks that all are of.
        mode: mode of the actions.
        left_out: labels of agents that were played on other tasks, or in another mode.
    """

    agents: list[Entry]
    learners: list[Entry]
    tasks: int
    mode: Mode
    left_out: list[str]


def yardsticks(results: Sequence[Results]) -> list[Yardstick]:
    """A yardstick for each family and split that has both kinds of agents on common tasks, of any studies."""
    groups: dict[tuple[str, str], list[Results]] = {}
    for result in results:
        groups.setdefault((result.family, result.split), []).append(result)
    return [found for group in groups.values() if (found := yardstick_of(one_group(group))) is not None]


def yardstick_of(entries: Sequence[Entry]) -> Yardstick | None:
    """The yardstick of one family and split; None if there is nothing to compare."""
    learners = [e for e in entries if learns_from_scratch(e.results)]
    agents = [e for e in entries if is_meta_trained(e.results)]
    if not learners:
        return None
    first = learners[0]
    shared = {e: common_tasks(e.results, first.results) for e in [*learners, *agents] if first.mode in e.results.scores}
    kept = [e for e, tasks in shared.items() if tasks]
    left_out = [e.label for e in [*learners, *agents] if e not in kept]
    tasks, count = min(shared[e] for e in kept), sum(e in kept for e in learners)
    numbered = [replace(e, number=i) for i, e in enumerate(kept)]  # learners first, and colors as far apart as can be
    learners, agents = numbered[:count], numbered[count:]
    return Yardstick(agents, learners, tasks, first.mode, left_out) if agents else None


def yardstick_rows(yardstick: Yardstick) -> list[Cells]:
    """One row for each learner and agent: the agent's R_k, and the steps from scratch that reach it."""
    rows = []
    for learner in yardstick.learners:
        for agent in yardstick.agents:
            found = match(agent.results, learner.results, yardstick.tasks, yardstick.mode)
            row: Cells = {"agent": agent.label, "learner": learner.label, "mode": yardstick.mode}
            row |= {"tasks": yardstick.tasks, "k": found.k, "env_steps": found.env_steps}
            row |= {"mean": found.mean, "low": found.low, "high": found.high}
            ends = {"": found.reached, "_low": found.reached_low, "_high": found.reached_high}
            for end, reached in ends.items():
                row |= _named(f"scratch{end}", reached, 1.0)
                row |= _named(f"times{end}", reached, found.env_steps) if found.env_steps else {}
            rows.append(row)
    return rows


def _named(name: str, reached: Reached, unit: float) -> Cells:
    return {name: reached.steps / unit, f"{name}_bound": reached.bound}


def yardstick_columns(yardstick: Yardstick) -> list[Column]:
    """The columns of `yardstick_rows`; the learner has one if there are several."""
    n = decimals_of(end for row in yardstick_rows(yardstick) for end in (row["low"], row["high"]))
    whose = [Column("agent", "agent"), *([Column("learner", "from scratch")] if len(yardstick.learners) > 1 else [])]
    steps = [Column("k", "k", 0), Column("env_steps", "environment steps", 0)]
    steps += [Column("scratch", "steps from scratch", 0, "scratch_"), Column("times", "times as many", 1, "times_")]
    return [*whose, *steps, Column("mean", "R_k", n, "")]


YARDSTICK_MORE = (  # of its CSV alone
    *(Column(f"{name}{end}_bound", "bound") for name in ("scratch", "times") for end in ("", "_low", "_high")),
    Column("tasks", "tasks", 0),
    Column("mode", "mode"),
)


def headlines(yardstick: Yardstick) -> list[str]:
    """For each learner, one sentence: how many steps it needs to match the agent with the highest R_k."""
    rows, count = yardstick_rows(yardstick), len(yardstick.agents)
    best = max(range(count), key=lambda i: float(rows[i]["mean"]))
    return [_headline(row) for row in rows[best::count]]


def _headline(row: Cells) -> str:
    target = f"{row['agent']} after k = {row['k']} ({number_text(row['env_steps'], 0)} steps)"
    if not row["env_steps"]:
        target = f"{row['agent']} in its first episode"
    steps, bound, times = row["scratch"], row["scratch_bound"], row.get("times")
    who = row["learner"] if "scratch" in row["learner"] else f"{row['learner']} from scratch"
    ratio = f" ({number_text(times, 1)}\u00d7)" if times is not None else ""
    if bound == ">":
        return f"{who} does not match {target} within {number_text(steps, 0)} steps{ratio}."
    if not steps:
        return f"{who} matches {target} before its first step."
    ends = {(row[f"scratch{end}"], row[f"scratch{end}_bound"]) for end in ("_low", "_high")}
    spread = [number_text(row[f"scratch{end}"], 0, row[f"scratch{end}_bound"]) for end in ("_low", "_high")]
    between = "" if ends == {(steps, bound)} else f", between {spread[0]} and {spread[1]}"
    needed = number_text(steps, 0, bound)
    return f"{who} needs {needed} steps{ratio} to match {target}{between}."


def yardstick_words(yardstick: Yardstick) -> list[str]:
    """What is compared on what, in sentences."""
    said = [f"R_k with {yardstick.mode} actions on the first {yardstick.tasks:,} tasks, which all have played."]
    said.append(
        "Steps from scratch are the environment steps in a task after which the mean return first reaches the agent's "
        "R_k, interpolated in the logarithm of steps between measured k. In brackets: the steps that reach the ends of "
        "R_k's interval; the curve from scratch has an uncertainty of its own, which they leave out."
    )
    if yardstick.left_out:
        said.append(f"Left out, because their tasks or actions are others: {DOT.join(yardstick.left_out)}.")
    return said
