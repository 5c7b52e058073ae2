"""Intervals: by hand, beside scipy, and what share of them holds a known truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import interval_coverage
import numpy as np
import pytest
import scipy.stats

from metarl.evaluation.intervals import Floats, Part, interval, iqm, iqm_interval, mean_interval, pooled
from metarl.evaluation.results import Results
from metarl.evaluation.statistics import gap_parts


def one(scores: Any, of: Any = mean_interval, **settings: bool) -> tuple[float, float]:
    """The ends for `[seed, task]`."""
    low, high = of(np.asarray(scores, dtype=float)[..., None], **settings)
    return float(low[0]), float(high[0])


def test_the_iqm_equals_scipys_trimmed_mean() -> None:
    scores = np.random.default_rng(0).standard_exponential((3, 20, 2))
    np.testing.assert_allclose(iqm(scores), scipy.stats.trim_mean(scores.reshape(60, 2), 0.25))


def test_one_seed_gives_students_interval_over_tasks() -> None:
    scores = np.random.default_rng(1).standard_normal(12)
    expected = scipy.stats.t.interval(0.95, 11, scores.mean(), scores.std(ddof=1) / np.sqrt(12))
    assert one(scores[None]) == pytest.approx(expected)
    assert one(scores[:, None]) == pytest.approx(expected)  # and one task Student's interval over seeds


def test_two_seeds_and_two_tasks_by_hand() -> None:
    """Scores 0, 2 and 4, 10.

    Seeds' means 1, 7: variance 18 / 2 seeds = 9, with 1 degree of freedom. Tasks' means 2, 6: 8 / 2 tasks = 4; the rest
    is +-1 everywhere, its mean square 4, so / 4 = 1 is not the tasks' own: 3, with 1 degree of freedom. Student's
    quantile for 1 degree of freedom is tan(.95 pi / 2).
    """
    half = np.tan(0.475 * np.pi) * np.sqrt(12)
    assert one([[0, 2], [4, 10]]) == pytest.approx((4 - half, 4 + half))


def test_the_quantile_is_weighted_by_the_parts_of_the_variance() -> None:
    """Three seeds 0, 3, 6 (variance of the mean 9 / 3 = 3), plus two tasks' effects -2, 2 (8 / 2 = 4), no rest."""
    scores = np.array([[0.0], [3.0], [6.0]]) + np.array([-2.0, 2.0])
    t2, t1 = scipy.stats.t.ppf(0.975, [2, 1])
    half = (3 * t2 + 4 * t1) / 7 * np.sqrt(7)
    assert one(scores) == pytest.approx((3 - half, 3 + half))


def test_parts_of_one_kind_have_welchs_degrees_of_freedom() -> None:
    """Variances 3 and 1 with 2 and 4 degrees of freedom: 16 / (9 / 2 + 1 / 4); none where nothing varies."""
    still = np.array([3.0, 0.0]), np.array([1.0, 0.0])
    (part,) = pooled([Part(still[0], 2), Part(still[1], 4)])
    np.testing.assert_allclose(part.variance, [4.0, 0.0])
    np.testing.assert_allclose(part.freedom, [16 / 4.75, 2.0])
    assert pooled([]) == []


def test_fixed_tasks_add_nothing_where_there_are_several_seeds() -> None:
    scores = np.array([[0.0, 100.0], [2.0, 106.0]])
    means = scores.mean(1)  # 50, 54: Student's interval over the two
    assert one(scores, fixed_tasks=True) == pytest.approx(
        scipy.stats.t.interval(0.95, 1, 52, means.std(ddof=1) / 2**0.5)
    )
    assert one(scores[:1], fixed_tasks=True) == one(scores[:1])  # a single seed tells nothing of seeds


def test_one_seeds_iqm_has_tukeys_and_mclaughlins_interval() -> None:
    """Twelve scores, three cut at each end: 6 are kept, and the others are pulled to the 4th and the 9th."""
    scores = np.random.default_rng(2).standard_normal(12)
    winsorised = np.asarray(scipy.stats.mstats.winsorize(scores, (0.25, 0.25)))
    error = winsorised.std(ddof=1) / (0.5 * np.sqrt(12))
    expected = scipy.stats.t.interval(0.95, 5, scipy.stats.trim_mean(scores, 0.25), error)
    assert one(scores[None], iqm_interval) == pytest.approx(expected)


def test_one_score_is_its_own_interval() -> None:
    for of in (mean_interval, iqm_interval):
        assert one([[3.0]], of) == (3.0, 3.0)
        assert one([[3.0] * 4] * 3, of) == (3.0, 3.0)  # and so are scores that are all alike


def test_columns_are_independent_of_each_other() -> None:
    scores = np.random.default_rng(3).standard_normal((3, 7, 4))
    for of in (mean_interval, iqm_interval):
        low, high = of(scores)
        for k in range(4):
            assert one(scores[..., k], of) == pytest.approx((low[k], high[k]))


SETS = 8000


def simulated(seed: float, task: float, rest: float) -> Floats:
    """Scores of 3 seeds on 40 tasks whose mean is 0, `[seed, task, data set]`, from the effects' deviations."""
    draw = np.random.default_rng(4).standard_normal
    return seed * draw((3, 1, SETS)) + task * draw((1, 40, SETS)) + rest * draw((3, 40, SETS))


@pytest.mark.parametrize("of", [mean_interval, iqm_interval])
@pytest.mark.parametrize("effects", [(1.0, 0.3, 0.3), (0.1, 1.0, 0.3), (0.3, 1.0, 1.0), (0.0, 0.0, 1.0)])
def test_95_per_cent_of_intervals_hold_the_truth(of: Any, effects: tuple[float, float, float]) -> None:
    """Seeds, tasks, both or nothing but the rest: .949 to .968 of 100,000 data sets each.

    The standard error with 8,000 of them is .0025 at .949 and .0020 at .968: the limits are 5 and 8 of them away.
    Seeds resampled with replacement would give .76 in the first regime, tasks alone .15.
    """
    low, high = of(simulated(*effects))
    assert 0.935 < np.mean((low < 0) & (high > 0)) < 0.985


def test_the_gap_of_two_sets_of_tasks_is_covered_too() -> None:
    """Of the same 3 seeds on 40 and 40 tasks: seeds' own differences, and tasks of both sets."""
    generator = np.random.default_rng(5)
    first, second = (
        generator.standard_normal((1, 40, SETS)) + 0.5 * generator.standard_normal((3, 1, SETS)) for _ in range(2)
    )
    both = 3.0 * generator.standard_normal((3, 1, SETS))  # an effect that cancels
    a, b = both + first, both + second
    low, high = interval((a - b).mean((0, 1)), gap_parts(a, b))
    assert 0.935 < np.mean((low < 0) & (high > 0)) < 0.985
    assert np.median(high - low) < 6  # a third of what the seeds' common effect would make of it


def results(**meta: Any) -> Results:
    """Two seeds that differ by 2 on three tasks that differ by 10."""
    scores = np.array([0.0, 2.0])[:, None, None, None] + 10.0 * np.arange(3)[None, :, None, None]
    empty: Any = np.zeros(1)
    arrays = {"collected": np.zeros((2, 3, 0)), "lifetime": scores[..., 0], "episodes": empty, "env_steps": empty}
    texts: Any = {"agent": "a", "family": "f", "split": "test", "task_hash": ""}
    groups: Any = {"scores": {"sampled": scores}, "success": {}, "references": {}, "paths": {}}
    return Results(**texts, **arrays, **groups, k=[0], seconds=empty, bayes_optimal=None, landmarks=None, meta=meta)


def test_a_finite_familys_tasks_are_taken_as_they_are() -> None:
    """With tasks drawn at random the ends are 4.3 * 5.8 away, else seeds alone: tan(.475 pi) * 1 = 12.7."""
    drawn, fixed = results(every_task=False), results(every_task=True)
    assert fixed.summary()[0]["high"] - 11 == pytest.approx(12.706, abs=1e-3)
    assert drawn.summary()[0]["high"] - 11 > 20
    for found in (drawn, fixed):
        life, row = found.lifetime_summary(), found.summary()[0]
        assert life is not None
        assert (life["low"], life["high"]) == pytest.approx((row["low"], row["high"]))


def test_the_study_of_coverage_writes_what_its_table_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether in one chunk or several; bootstraps of three seeds that dominate cover least."""
    monkeypatch.setattr(interval_coverage, "SAMPLE", 1000)
    found = []
    for at_once in (10**6, 3000):
        monkeypatch.setattr(interval_coverage, "AT_ONCE", at_once)
        options = interval_coverage.Options(seeds=(1, 3), tasks=(10,), sets=200, resamples=200, out=tmp_path / "c.json")
        interval_coverage.main(options)
        found.append(json.loads(options.out.read_text()))
    one, several = ([c["coverage"] for c in report["cells"]] for report in found)
    assert len(one) == len(interval_coverage.REGIMES) * 2
    assert all(abs(a[name] - b[name]) < 0.15 for a, b in zip(one, several, strict=True) for name in a)
    three = one[1]  # seeds dominate, 3 of them
    assert three["bootstrap"] < 0.85 < 0.9 < three["mean"]
    line = interval_coverage.coverage_table(found[0]).splitlines()[4]
    assert line.endswith(f"| {interval_coverage.share(three['mean'])} to {interval_coverage.share(three['mean'])} |")
