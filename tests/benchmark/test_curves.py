"""Rows of a benchmark have the learning curves of their runs, if these were validated."""

from __future__ import annotations

from pathlib import Path

from test_suites import STUDY, SUITE

from metarl.benchmark.cells import run_path
from metarl.benchmark.jobs import do, plan
from metarl.benchmark.rows import evaluate_row
from metarl.benchmark.suite import Cell, agent_of
from metarl.runs.run import Run


def test_a_row_has_the_curves_of_validated_runs(tmp_path: Path) -> None:
    for seed in STUDY.seeds:
        agent = agent_of(STUDY, STUDY.entries["maml"], seed)
        Run.create(run_path(tmp_path, Cell("points", "maml", seed)), agent, 2, 1, eval_every=2, eval_tasks=2)
    for job in plan(SUITE, ["points/maml", "points/random"]):
        do(SUITE, job, tmp_path)
    curves = evaluate_row(SUITE, "points", "maml", tmp_path).meta["curves"]
    assert (curves["iterations"], len(curves["returns"])) == ([0, 2], len(STUDY.seeds))
    assert "curves" not in evaluate_row(SUITE, "points", "random", tmp_path).meta
