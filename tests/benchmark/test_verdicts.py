"""What is said of a row whose weights were played again, and of many rows together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import metarl
from metarl.benchmark.rows import Agreement, agreement
from metarl.cli.main import main
from metarl.evaluation.results import Results


def played() -> Results:
    """Random play in five goals: a mean return with an interval of some width."""
    return metarl.evaluate(metarl.make_agent("random", "metarl/PointNavigation-v0"), k=1, num_tasks=5, episodes=4)


@pytest.mark.parametrize(
    ("half_widths", "verdict"),
    [(0.0, "equal"), (0.04, "equal to rounding"), (1.1, "different")],
)
def test_the_verdict_depends_on_how_far_the_means_moved(half_widths: float, verdict: Agreement) -> None:
    stored = played()
    row = stored.summary("sampled")[0]
    moved = {mode: scores.copy() for mode, scores in stored.scores.items()}
    moved["sampled"][:, :, 0] += half_widths * (row["high"] - row["low"]) / 2
    assert agreement(stored, replace(stored, scores=moved)) == verdict


@pytest.mark.parametrize(
    ("pattern", "verdict"),
    [
        ((4.0, -3.0, 4.0, -3.0, 0.5), "equal but for chance"),
        ((10.0, -3.0, 4.0, -5.0, 0.5), "equal but for chance"),  # the mean moves by 1.3 half-widths
        ((12.0, -3.0, 4.0, -5.0, 0.0), "different"),  # by 1.6
        ((0.4, 0.5, 0.6, 0.5, 0.4), "different"),  # all in one direction
        ((20.0, -3.0, 4.0, -3.0, 0.5), "different"),  # the mean leaves its interval
    ],
)
def test_other_episodes_may_have_the_same_distribution(pattern: tuple[float, ...], verdict: Agreement) -> None:
    """Five goals whose returns moved, in half-widths of the interval of their mean."""
    stored = played()
    row = stored.summary("sampled")[0]
    scores = stored.scores["sampled"].copy()
    scores[:, :, 0] += np.array(pattern)[None, :, None] * (row["high"] - row["low"]) / 2
    assert agreement(stored, replace(stored, scores=stored.scores | {"sampled": scores})) == verdict


def test_scores_on_other_tasks_are_different() -> None:
    stored = played()
    assert agreement(stored, replace(stored, task_hash="other")) == "different"
    assert agreement(stored, replace(stored, k=[0, 2])) == "different"


def test_a_moved_lifetime_return_is_seen() -> None:
    stored = metarl.evaluate(metarl.make_agent("random", "metarl/BernoulliBandit-v0"), k=4, num_tasks=20, episodes=1)
    assert agreement(stored, stored) == "equal"
    moved = replace(stored, lifetime=stored.lifetime + 10 * np.std(stored.lifetime))
    assert agreement(stored, moved) == "different"


def test_many_rows_are_counted_by_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [tmp_path / "study" / name for name in ("a", "b")]
    for row in rows:
        played().save(row / "results.json")
    main(["eval", *map(str, rows)])
    assert "2 rows: 2 scores only" in capsys.readouterr().out
