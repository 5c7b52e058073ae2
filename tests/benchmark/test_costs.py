"""What is foretold of a suite that has not begun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_cells import suite_file

from metarl.benchmark import costs
from metarl.benchmark.costs import expected_seconds, units
from metarl.benchmark.jobs import Job, plan
from metarl.benchmark.suite import Entry, Protocol, Study, Suite, built_in_suites, load_suite
from metarl.cli.main import main

POINTS, BANDIT = "metarl/PointNavigation-v0", "metarl/BernoulliBandit-v0"
SUITE = Suite(
    "mine",
    {
        "points": Study(POINTS, {"maml": Entry("maml", iterations=3)}, Protocol(k=1, tasks=2), (0, 1)),
        "bandit": Study(BANDIT, {"maml": Entry("maml", iterations=3)}, Protocol(k=1, tasks=2), (0, 1)),
    },
)


def known(monkeypatch: pytest.MonkeyPatch, *rows: tuple[str, str, str, float | None, float]) -> None:
    """Put rows in place of `costs.json`: name, agent, family, seconds of a unit of training and of evaluation."""
    names = ("agent", "family", "training", "evaluation")
    found: dict[str, Any] = {row[0]: dict(zip(names, row[1:], strict=True)) for row in rows}
    monkeypatch.setattr(costs, "_measured", lambda: {"processor": "abacus", "rows": found})


def test_the_row_of_the_same_names_counts_else_the_median_of_its_agent_and_family(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job, evaluation = Job("points", "maml", 1, (), 3), Job("points", "maml", None)
    others = [(f"other/{i}/x", "maml", POINTS, seconds, 5 * seconds) for i, seconds in enumerate((1.0, 2.0, 9.0))]
    known(monkeypatch, *others, ("other/3/x", "reptile", POINTS, 50.0, 50.0), ("other/4/x", "maml", POINTS, None, 0.0))
    assert units(SUITE, job) == 3 * 40 * 2 * 20 * 100  # iterations, tasks, before and after a step, episodes, steps
    assert expected_seconds(SUITE, job) == 2.0 * units(SUITE, job)
    assert expected_seconds(SUITE, evaluation) == 7.5 * units(SUITE, evaluation)  # also of what needs no training
    assert expected_seconds(SUITE, Job("bandit", "maml", 0, (), 3)) is None
    known(monkeypatch, *others, ("mine/points/maml", "maml", POINTS, 4.0, 1.0))
    assert expected_seconds(SUITE, job) == 4.0 * units(SUITE, job)
    known(monkeypatch, *others, ("mine/points/maml", "reptile", POINTS, 4.0, 1.0))  # a suite of somebody else
    assert expected_seconds(SUITE, job) == 2.0 * units(SUITE, job)


def test_every_row_of_the_built_in_suites_was_measured() -> None:
    """`python experiments/suite_costs.py` measures what is new."""
    rows = costs._measured()["rows"]
    found = {}
    for suite in map(load_suite, built_in_suites()):
        for job in plan(suite):
            study = suite.studies[job.study]
            entry = study.entries[job.entry]
            name = f"{suite.name}/{job.study}/{job.entry}"
            found[name] = {"agent": entry.agent, "family": study.family}
            cost = rows[name]["evaluation" if job.seed is None else "training"]
            assert (cost or 0) > 0, f"{name} {job.what}"
    assert found == {name: {"agent": row["agent"], "family": row["family"]} for name, row in rows.items()}


def test_a_dry_run_says_what_is_not_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(suite_file(tmp_path))
    known(monkeypatch)
    main(["benchmark", path, "--dry-run"])
    assert "how long that takes is said here when a first training has begun" in capsys.readouterr().out
    known(monkeypatch, ("a/b/random", "random", POINTS, None, 60 / 1e3))
    main(["benchmark", path, "--dry-run"])
    said = capsys.readouterr().out
    assert "of one core, without 3 cells of unknown speed (cells that have not begun: as on an abacus)" in said
