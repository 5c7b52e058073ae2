"""The numbers of a section as rows: the leaderboard, R_k for each k, and what adaptation costs.

A row maps names to values. The page, the CSV, the markdown and the LaTeX of a table are made of the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from metarl.evaluation.results import Floats
from metarl.evaluation.statistics import (
    area_interval,
    asymptote,
    cvar,
    cvar_interval,
    latency,
    normalised_scores,
    optimality_gap,
    optimality_gap_interval,
)
from metarl.report.entries import Entry, Row
from metarl.report.tables import Column, decimals_of, ends_of

Cells = dict[str, Any]


def leaderboard_rows(entries: Sequence[Entry]) -> list[Cells]:
    """One row for each agent: its scores after the last k, of its first mode, and what it used."""
    return [_whose(e) | _scores(e) | _lifetime(e) | _used(e) for e in entries]


def leaderboard_columns(entries: Sequence[Entry]) -> list[Column]:
    """The columns of `leaderboard_rows`; lifetime returns come first if episodes are one step."""
    n = decimals_of(ends_of(entries))
    life = _lifetime_columns(entries)
    ks = {e.results.k[-1] for e in entries}
    first = [Column("agent", "agent"), Column("seeds", "seeds", 0), *([Column("k", "k", 0)] if len(ks) > 1 else [])]
    scores = [Column("mean", f"R_{min(ks)}" if len(ks) == 1 else "R_k", n, ""), Column("iqm", "IQM", n, "iqm_")]
    scores += [Column("success", "success", 3, "success_"), Column("normalised", "normalised", 3)]
    used = [Column("env_steps", "environment steps", 0), Column("seconds", "seconds per step", 4)]
    more = [Column("steps_to_90", "steps to 90 %", 0, "steps_to_90_"), Column("gap", "optimality gap", 3, "gap_")]
    more += [Column("worst", "worst 10 % of tasks", n, "worst_")]
    main = [*life, *scores] if all(e.one_step for e in entries) else [*scores, *life]
    return [*first, *main, *used, *more]


def score_rows(entries: Sequence[Entry]) -> list[Cells]:
    """One row for each agent, mode and k."""
    return [
        _whose(entry) | {"mode": mode} | row | {"k": int(row["k"])}
        for entry in entries
        for mode, rows in entry.rows.items()
        for row in rows
    ]


def score_columns(entries: Sequence[Entry]) -> list[Column]:
    """The columns of `score_rows`."""
    n = decimals_of(ends_of(entries))
    columns = [Column("agent", "agent"), Column("mode", "actions"), Column("k", "k", 0), Column("mean", "R_k", n, "")]
    columns += [Column("iqm", "IQM", n, "iqm_"), Column("env_steps", "environment steps", 0)]
    return [*columns, Column("normalised", "normalised", 3), Column("success", "success", 3, "success_")]


def cost_rows(entries: Sequence[Entry]) -> list[Cells]:
    """One row for each agent: what the whole trial took, and what it returned."""
    return [_whose(e) | _used(e) | _trial(e) for e in entries]


def cost_columns(entries: Sequence[Entry]) -> list[Column]:
    """The columns of `cost_rows`."""
    n = decimals_of(ends_of(entries))
    columns = [Column("agent", "agent"), Column("k", "adaptation steps", 0), Column("episodes", "episodes", 0)]
    columns += [Column("env_steps", "environment steps", 0), Column("seconds", "seconds per step", 4)]
    columns += [Column("trials", "trials side by side", 0), Column("total_seconds", "seconds in all", 2)]
    columns += [Column("microseconds", "\u00b5s per environment step", 2)]
    return [*columns, Column("collected", "return while adapting", n), Column("area", "mean of R_k over k", n, "area_")]


IMPROVEMENT_COLUMNS = (
    Column("agent", "agent"),
    Column("other", "is better than"),
    Column("improvement", "with probability", 3, ""),
)
FAMILY_COLUMNS = (Column("family", "family"), Column("split", "split"))  # the first columns of a CSV
MORE_COLUMNS = (Column("last_k", "last k"), Column("mode", "mode"), Column("command", "command"))  # of its CSV alone


def _lifetime_columns(entries: Sequence[Entry]) -> list[Column]:
    lives = [life for e in entries if (life := e.results.lifetime_summary())]
    n = decimals_of(life[end] for life in lives for end in ("low", "high"))
    columns = [Column("lifetime", "lifetime return", n, "lifetime_"), Column("bayes_optimal", "Bayes optimum", n)]
    last = [found for e in entries if (found := _end_of_trial(e))]
    n = decimals_of(found["mean"] for found in last)
    return [*columns, Column("asymptote", "last tenth of a trial", n, "asymptote_")]


def _whose(entry: Entry) -> Cells:
    results = entry.results
    whose: Cells = {"family": results.family, "split": results.split, "agent": entry.label, "mode": entry.mode}
    return whose | {
        "seeds": len(results.scores[entry.mode]),
        "last_k": results.k[-1],
        "command": results.meta.get("command"),
    }


def _scores(entry: Entry) -> Cells:
    reached = entry.results.steps_to(0.9, entry.mode) or {}
    steps = {"steps_to_90" if name == "steps" else f"steps_to_90_{name}": value for name, value in reached.items()}
    return entry.last | {"k": int(entry.last["k"])} | steps | _shortfalls(entry)


def _shortfalls(entry: Entry) -> Cells:
    """How the worst tasks did, and how much is missing to the optimum; nothing where each score is 0 or 1."""
    results = entry.results
    if "iqm" not in entry.last:
        return {}
    scores, fixed = results.per_task(entry.mode)[..., -1:], results.every_task
    cells = _named("worst", cvar(scores), cvar_interval(scores, fixed_tasks=fixed))
    if (normalised := normalised_scores(results, entry.mode)) is not None:
        last = normalised[..., -1:]
        cells |= _named("gap", optimality_gap(last), optimality_gap_interval(last, fixed_tasks=fixed))
    return cells


def _named(name: str, value: Floats, ends: tuple[Floats, Floats]) -> Cells:
    """A value and the ends of its interval, `[1]` each, by name."""
    low, high = ends
    return {name: float(value[0]), f"{name}_low": float(low[0]), f"{name}_high": float(high[0])}


def _lifetime(entry: Entry) -> Cells:
    life = entry.results.lifetime_summary()
    if life is None:
        return {}
    named: Cells = {"lifetime": life["mean"], "lifetime_low": life["low"], "lifetime_high": life["high"]}
    named |= {"bayes_optimal": life.get("bayes_optimal")}
    found = _end_of_trial(entry)
    ends = {"asymptote": "mean", "asymptote_low": "low", "asymptote_high": "high"}
    return named | ({name: found.get(end) for name, end in ends.items()} if found else {})


def _end_of_trial(entry: Entry) -> Row | None:
    """The asymptote of a trial of at least ten episodes."""
    return asymptote(entry.results) if entry.results.collected.shape[-1] >= 10 else None


def _used(entry: Entry) -> Cells:
    results = entry.results
    return {"env_steps": float(results.env_steps[-1]), "seconds": (latency(results) or {}).get("adaptation_step")}


def _trial(entry: Entry) -> Cells:
    results, seconds = entry.results, entry.results.seconds
    trial = {"k": results.k[-1], "episodes": float(results.episodes[-1]), "collected": _mean(results.collected)}
    if len(results.k) > 1:
        low, high = area_interval(results, entry.mode)
        trial |= {"area": results.area_under_curve(entry.mode), "area_low": low, "area_high": high}
    if (times := latency(results)) is not None:
        trial |= {"trials": times["trials"], "total_seconds": float(seconds.sum(1).mean())}
        trial |= {"microseconds": 1e6 * times["env_step"]} if "env_step" in times else {}
    return trial


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if values.size else None
