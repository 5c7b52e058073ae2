"""Statistics beside the mean: by hand, and what share of their intervals holds a known truth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from tables.navigation import middle

from metarl.errors import InvalidValueError
from metarl.evaluation.intervals import mean_interval, moved, reached_interval
from metarl.evaluation.results import Results
from metarl.evaluation.statistics import (
    area_interval,
    asymptote,
    cvar,
    cvar_interval,
    gap,
    latency,
    normalised_scores,
    optimality_gap,
    optimality_gap_interval,
    performance_profile,
    profile_interval,
)
from metarl.report.page import table_text, write_report


def results(scores: Any, **changes: Any) -> Results:
    """Results of `[seed, task, k]` with one episode each, and 100 environment steps in each adaptation step."""
    values = np.asarray(scores, dtype=float)[..., None]
    seeds, tasks, ks = values.shape[:3]
    made = Results(
        agent="maml",
        family="metarl/Toy-v0",
        split="test",
        k=list(range(ks)),
        scores={"sampled": values},
        success={},
        collected=np.zeros((seeds, tasks, ks - 1)),
        lifetime=np.zeros((0,)),
        episodes=np.arange(ks, dtype=float),
        env_steps=100.0 * np.arange(ks),
        seconds=np.ones((seeds, ks - 1)),
        references={},
        bayes_optimal=None,
        paths={},
        landmarks=None,
        task_hash="feed",
        meta={"seeds": [7 + i for i in range(seeds)], "config": {}},
    )
    return replace(made, **changes)


def column(values: Any) -> Any:
    """`[seed, task]` as `[seed, task, 1]`."""
    return np.asarray(values, dtype=float)[..., None]


# --- the worst tasks -------------------------------------------------------------------------------------------------


def test_cvar_is_the_mean_of_the_tasks_that_are_worst_over_seeds() -> None:
    """Ten tasks: their means are 0, 1, ..., 9; task 3 has the lowest single score, and its mean is 3."""
    scores = np.arange(10.0) + np.zeros((2, 1))
    scores[:, 3] = [-90.0, 96.0]
    scores[:, 0] = [-4.0, 4.0]
    assert [float(cvar(column(scores), share)[0]) for share in (0.1, 0.2, 0.21, 1.0)] == [0.0, 0.5, 1.0, 4.5]
    two = np.stack([scores, -scores], -1)  # each k ranks the tasks anew
    assert cvar(two, 0.2) == pytest.approx([0.5, -8.5])


def test_cvar_interval_by_hand() -> None:
    """One seed, 10 tasks 0, 1, ..., 9, of which 2 are the worst.

    Scores above the third worst are cut off at it: 0, 1, 2, ..., 2, times 10 / 2: their variance is 25 * 4.1 / 9, and
    that of their mean a tenth of it. Two worst tasks give two degrees of freedom.
    """
    low, high = cvar_interval(column(np.arange(10.0)[None]), 0.2)
    cut = np.array([0.0, 1.0] + [2.0] * 8)
    half = scipy.stats.t.ppf(0.975, 2) * np.sqrt(25 * cut.var(ddof=1) / 10)
    assert (low[0], high[0]) == pytest.approx((0.5 - half, 0.5 + half))
    # all tasks of the family: two seeds' means over the worst two tasks, -.5 and 1.5, alone are random
    both = np.arange(10.0) + np.array([[-1.0], [1.0]])
    low, high = cvar_interval(column(both), 0.2, fixed_tasks=True)
    assert (low[0], high[0]) == pytest.approx(scipy.stats.t.interval(0.95, 1, 0.5, 1.0))
    assert [float(end[0]) for end in cvar_interval(np.full((1, 1, 1), 3.0))] == [3.0, 3.0]
    for share in (0.0, 1.5, float("nan")):
        with pytest.raises(InvalidValueError, match=r"share is .*, expected above 0 and at most 1"):
            cvar(column(both), share)


def simulated(seeds: int, tasks: int, effects: tuple[float, float, float], sets: int = 3000) -> Any:
    """`[seed, task, data set]` with mean 0, from the deviations of seeds, tasks and the rest."""
    draw = np.random.default_rng(seeds).standard_normal
    by_seed, by_task, rest = effects
    return by_seed * draw((seeds, 1, sets)) + by_task * draw((1, tasks, sets)) + rest * draw((seeds, tasks, sets))


def held(ends: tuple[Any, Any], truth: float) -> float:
    return float(np.mean((ends[0] <= truth) & (truth <= ends[1])))


@pytest.mark.parametrize("seeds", [3, 10])
@pytest.mark.parametrize("effects", [(1.0, 0.3, 0.3), (0.1, 1.0, 0.3), (0.3, 1.0, 1.0)])
def test_intervals_of_the_cvar_hold_the_truth(seeds: int, effects: tuple[float, float, float]) -> None:
    """Of a task's mean over these seeds, a normal variable: minus 1.755 deviations. Measured: .92 to .98."""
    deviation = np.hypot(effects[1], effects[2] / np.sqrt(seeds))
    truth = -scipy.stats.norm.pdf(scipy.stats.norm.ppf(0.1)) / 0.1 * deviation
    assert 0.9 < held(cvar_interval(simulated(seeds, 40, effects)), truth) < 0.995


# --- normalised scores -----------------------------------------------------------------------------------------------


REFERENCES = {"floor": np.array([0.0, 1.0]), "informed_optimum": np.array([10.0, 1.0])}


def test_normalised_scores_share_one_scale() -> None:
    """The second task's optimum is its floor; the mean span is (10 + 0) / 2 = 5, so 5 below the optimum is 0."""
    found = results([[[5.0, 10.0], [1.0, -4.0]]], references=REFERENCES)
    scores = normalised_scores(found)
    assert scores is not None
    np.testing.assert_allclose(scores, [[[0.0, 1.0], [1.0, 0.0]]])
    assert scores.mean((0, 1)) == pytest.approx([row["normalised"] for row in found.summary()])


@pytest.mark.parametrize(
    "references", [{}, {"floor": np.zeros(2)}, {"floor": np.ones(2), "informed_optimum": np.array([1.0, np.nan])}]
)
def test_without_references_there_is_no_normalised_score(references: Any) -> None:
    found = results([[[5.0], [1.0]]], references=references)
    assert (normalised_scores(found), found.normalised(1.0), found.steps_to()) == (None, None, None)
    upside_down = replace(found, references={"floor": np.ones(2), "informed_optimum": np.zeros(2)})
    assert normalised_scores(upside_down) is None


def test_the_optimality_gap_counts_no_score_above_one() -> None:
    """Shortfalls .5, 0, 0 and 1.5: their mean is .5."""
    scores = column([[0.5, 1.0], [4.0, -0.5]])
    assert optimality_gap(scores)[0] == pytest.approx(0.5)
    low, high = optimality_gap_interval(scores)
    assert low[0] == 0.0  # two seeds and two tasks tell little, and no gap is negative
    assert high[0] > 1


def test_intervals_of_the_optimality_gap_hold_the_truth() -> None:
    """The shortfall of a normal score of mean 1 and deviation 1 has the mean 1 / sqrt(2 pi)."""
    scores = 1 + simulated(5, 40, (0.3, 0.6, np.sqrt(1 - 0.09 - 0.36)))
    assert 0.93 < held(optimality_gap_interval(scores), 1 / np.sqrt(2 * np.pi)) < 0.98


# --- profiles --------------------------------------------------------------------------------------------------------


def test_a_profile_is_the_share_of_runs_that_reach_each_threshold() -> None:
    """Scores 0, 1, 1 and 3 at the last k; a run that ties reaches the threshold."""
    found = results([[[9.0, 0.0], [9.0, 1.0]], [[9.0, 1.0], [9.0, 3.0]]])
    profile = performance_profile(found, thresholds=[0.0, 0.5, 1.0, 2.0, 3.5])
    np.testing.assert_allclose(profile.share, [1.0, 0.75, 0.75, 0.25, 0.0])
    assert not profile.normalised
    assert performance_profile(found, k=0, thresholds=[9.0]).share == [1.0]
    assert ((profile.low <= profile.share) & (profile.share <= profile.high)).all()
    assert profile.low.min() >= 0
    assert profile.high.max() <= 1
    own = performance_profile(found)
    assert (own.thresholds[0], own.thresholds[-1], len(own.thresholds)) == (0.0, 3.0, 101)
    normalised = performance_profile(replace(found, references=REFERENCES))
    assert normalised.normalised
    assert (normalised.thresholds[0], normalised.thresholds[-1]) == pytest.approx((-1.0, 1.4))  # (0 - 10) / 5 and 2 / 5
    assert normalised.share[0] == 1.0
    with pytest.raises(InvalidValueError, match=r"k is 5, expected one of \[0, 1\]"):
        performance_profile(found, k=5)
    for wrong in ([1.0, 0.0], [], [0.0, float("nan")]):
        with pytest.raises(InvalidValueError, match=r"thresholds is .* expected a rising list of numbers"):
            performance_profile(found, thresholds=wrong)
    assert performance_profile(results([[[2.0], [2.0]]])).share[0] == 1.0  # equal scores


def test_one_seeds_profile_has_clopper_and_pearsons_interval() -> None:
    """Of 12 tasks 9 reach it; the variance is that of 11 draws (the sample variance divides by 11), so 8.25 of 11."""
    reached = column([[1.0] * 9 + [0.0] * 3])
    low, high = reached_interval(reached)
    expected = (scipy.stats.beta.ppf(0.025, 8.25, 11 - 8.25 + 1), scipy.stats.beta.ppf(0.975, 9.25, 11 - 8.25))
    assert (low[0], high[0]) == pytest.approx(expected)
    agreed = reached_interval(np.ones((3, 12, 1)))  # as many draws as seeds
    assert [float(end[0]) for end in agreed] == pytest.approx([0.025 ** (1 / 3), 1.0])
    agreed = reached_interval(np.ones((1, 12, 1)))
    assert [float(end[0]) for end in agreed] == pytest.approx([0.025 ** (1 / 12), 1.0])


@pytest.mark.parametrize(("seeds", "share"), [(3, 0.5), (10, 0.5), (5, 0.9)])
def test_intervals_of_a_profile_hold_the_truth(seeds: int, share: float) -> None:
    """Where tasks and the rest vary, measured: .96 to .98."""
    scores = simulated(seeds, 40, (0.3, 1.0, 1.0))
    threshold = -scipy.stats.norm.ppf(share) * np.sqrt(2.09)
    assert 0.94 < held(profile_interval(scores, np.array(threshold)), share) < 0.995


def test_a_profile_moves_with_its_scores_but_for_those_that_several_runs_have() -> None:
    """Two seeds with equal shares, 1 above the threshold and 3 below; by hand, the middle's interval reaches all."""
    scores = column([[0.9, -1.1, -1.2, -1.3], [1.4, -0.6, -0.7, -0.8]])
    low, high = profile_interval(scores, np.array([0.0]))
    plain = reached_interval((scores >= 0).astype(float))
    assert plain[0][0] > 0
    assert (low[0], high[0]) == (0.0, 1.0)  # two seeds: the middle may be wrong by more than 1.4
    tied = column([[0.9, 0.9, -1.1, -2.0], [0.9, 0.9, -1.5, -0.7]])
    below = profile_interval(tied, np.array([0.9]))[0][0]
    assert below == reached_interval((tied >= 0.9).astype(float))[0][0] > 0
    down, up = moved(tied, np.array([0.5]))  # all ends of a group stay, the others move
    assert down[..., 0].tolist() == [[0.9, 0.9, -1.6, -2.5], [0.9, 0.9, -2.0, -1.2]]
    assert up[0, 2, 0] == pytest.approx(-0.6)


def test_where_all_tasks_were_played_a_profile_moves_by_what_seeds_differ() -> None:
    """Tasks that differ by 10 and seeds that do not differ: nothing moves."""
    scores = np.repeat(np.arange(0.0, 40.0, 10.0)[None, :, None], 2, 0) + np.array([0.0, 1e-9])[:, None, None]
    low, high = profile_interval(scores, np.array([15.0]), fixed_tasks=True)
    assert (low[0], high[0]) == tuple(
        end[0] for end in reached_interval((scores >= 15).astype(float), fixed_tasks=True)
    )
    assert profile_interval(scores, np.array([15.0]))[1][0] > high[0]


def test_one_outlier_does_not_decide_a_profile() -> None:
    scores = simulated(5, 100, (0.3, 1.0, 1.0))[..., :1]
    before = profile_interval(scores, np.array([0.0]))
    scores[2, 17] = -1e4
    for a, b in zip(before, profile_interval(scores, np.array([0.0])), strict=True):
        assert a[0] == pytest.approx(b[0], abs=0.03)


def test_the_gap_is_moved_with_its_scores() -> None:
    """Four scores above 1, of two seeds: their gap is 0, and could be one of scores that lie lower together."""
    scores = column([[1.1, 1.2], [1.8, 1.9]])
    half = mean_interval(scores)[1][0] - 1.5
    low, high = optimality_gap_interval(scores)
    assert low[0] == 0.0
    assert high[0] == pytest.approx(np.maximum(0, 1 - (scores - half)).mean())
    wide = column([[-9.0, 1.2], [1.8, 1.3]])  # here the shortfall's own interval reaches farther
    assert optimality_gap_interval(wide)[1][0] >= mean_interval(np.maximum(0.0, 1 - wide))[1][0]


@pytest.mark.parametrize("seeds", [3, 10])
def test_intervals_hold_the_truth_where_seeds_dominate(seeds: int) -> None:
    """Measured: .95 (3 seeds) and .93 of the gap, .98 and .93 of the profile; .82 and .77 from their own variance."""
    scores = simulated(seeds, 200, (1.0, 0.3, 0.3))
    deviation = np.sqrt(1.18)
    assert held(optimality_gap_interval(1 + scores), deviation / np.sqrt(2 * np.pi)) > 0.91
    assert held(profile_interval(scores, np.array(deviation * scipy.stats.norm.ppf(0.1))), 0.9) > 0.89


# --- gaps ------------------------------------------------------------------------------------------------------------


def test_the_out_of_distribution_gap_goes_from_near_tasks_to_far_ones() -> None:
    near, far = results([[[5.0], [7.0]]]), results([[[1.0], [2.0]]], split="far", task_hash="beef")
    row = gap(near, far)[0]
    assert row["gap"] == pytest.approx(4.5)
    assert gap(replace(near, split="train"), far)[0] == row
    for first, second in ((far, near), (near, near), (near, replace(near, split="train"))):
        with pytest.raises(InvalidValueError, match=r"splits is .* expected the train results first"):
            gap(first, second)


def test_a_gaps_interval_pools_the_tasks_of_both_splits() -> None:
    """One seed; variances of the means 1 and 4 with 1 and 3 degrees of freedom: Welch's are 25 / (1 / 1 + 16 / 3)."""
    near, far = results([[[0.0], [2.0]]]), results(8 / np.sqrt(6) * np.arange(4.0)[None, :, None] / 2**0.5, split="far")
    variance = [float(r.scores["sampled"].var(ddof=1)) / r.scores["sampled"].size for r in (near, far)]
    freedom = sum(variance) ** 2 / (variance[0] ** 2 / 1 + variance[1] ** 2 / 3)
    row = gap(near, far)[0]
    assert row["high"] - row["gap"] == pytest.approx(scipy.stats.t.ppf(0.975, freedom) * sum(variance) ** 0.5)


# --- time, and the end of a trial ------------------------------------------------------------------------------------


def test_latency_is_a_median_of_steps() -> None:
    """Two seeds of 2 tasks: steps of 1, 2, 3 and 50 s; 200 and, in the second steps, 400 steps of all tasks."""
    found = results(np.zeros((2, 2, 3)), seconds=np.array([[1.0, 2.0], [3.0, 50.0]]))
    found.env_steps = np.array([0.0, 100.0, 300.0])
    expected = {"adaptation_step": 2.5, "trials": 2.0, "env_step": np.median([1 / 200, 2 / 400, 3 / 200, 50 / 400])}
    assert latency(found) == pytest.approx(expected)
    found.meta["trials"] = 10
    assert latency(found)["env_step"] == pytest.approx(expected["env_step"] / 10)  # type: ignore[index]
    sparse = replace(found, k=[2], scores={"sampled": np.zeros((2, 2, 1, 1))}, env_steps=np.array([600.0]))
    assert latency(sparse)["env_step"] == pytest.approx(2.5 / (300 * 2 * 10))  # type: ignore[index]
    idle = replace(found, env_steps=np.zeros(3))
    assert latency(idle) == {"adaptation_step": 2.5, "trials": 20.0}
    assert latency(results([[[1.0]]])) is None


def test_the_area_has_an_interval_over_seeds_and_tasks() -> None:
    """One seed, tasks whose curves 0, 0, a have the areas a / 4 = 1, 2, 3: the variance of their mean is 1 / 3."""
    found = results([[[0.0, 0.0, a] for a in (4.0, 8.0, 12.0)]])
    half = scipy.stats.t.ppf(0.975, 2) / 3**0.5
    assert area_interval(found) == pytest.approx((2.0 - half, 2.0 + half))
    assert found.area_under_curve() == pytest.approx(2.0)
    single = results([[[1.0], [2.0], [3.0]]])
    assert area_interval(single) == pytest.approx((2.0 - half, 2.0 + half))


def test_success_has_the_interval_of_a_share() -> None:
    """Clopper and Pearson by hand: 20 tasks of one episode that all succeed may have a share of 20th root of .025."""
    found = results(np.zeros((1, 20, 1)), success={"sampled": np.ones((1, 20, 1, 1))})
    row = found.summary()[0]
    assert (row["success"], row["success_high"]) == (1.0, 1.0)
    assert row["success_low"] == pytest.approx(0.025 ** (1 / 20))
    failed = results(np.zeros((1, 20, 1)), success={"sampled": np.zeros((1, 20, 1, 1))}).summary()[0]
    assert (failed["success_low"], failed["success_high"]) == pytest.approx((0.0, 1 - 0.025 ** (1 / 20)))


@pytest.mark.parametrize(("share", "seeds"), [(0.98, 1), (0.9, 1), (0.98, 3), (0.5, 3)])
def test_the_interval_of_success_holds_its_share(share: float, seeds: int) -> None:
    """Of 400 data sets of 20 tasks, whose episodes succeed with this chance."""
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        won = (generator.uniform(size=(seeds, 20, 1, 2)) < share).astype(float)
        row = results(np.zeros((seeds, 20, 1)), success={"sampled": won}).summary()[0]
        held += row["success_low"] <= share <= row["success_high"]
    assert held >= 0.93 * 400


def test_the_asymptote_is_the_mean_of_the_last_tenth() -> None:
    """25 episodes: the last two; fewer than ten: the last one."""
    episodes = np.zeros((2, 3, 25))
    episodes[0, :, -2:], episodes[1, :, -2:] = [2.0, 4.0], [4.0, 6.0]
    lived = results(np.zeros((2, 3, 26)), collected=episodes, lifetime=episodes.sum(-1, keepdims=True))
    half = scipy.stats.t.ppf(0.975, 1)  # the seeds' means 3 and 5: variance 2, of the mean 1
    expected = {"mean": 4.0, "low": 4.0 - half, "high": 4.0 + half, "episodes": 2.0}
    assert asymptote(lived) == pytest.approx(expected)
    short = replace(lived, collected=episodes[..., -3:])
    assert asymptote(short)["mean"] == pytest.approx(5.0)  # type: ignore[index]
    assert asymptote(results(np.zeros((2, 3, 2)))) is None
    compact = replace(lived, collected=episodes.mean(1, keepdims=True))  # the tasks' spread is lost
    assert asymptote(compact) == pytest.approx({"mean": 4.0, "episodes": 2.0})
    episodes[1, 2, 24] = np.nan
    with pytest.raises(InvalidValueError, match=r"return while adapting of maml \(seed 8, task 2, step = 24\) is nan"):
        asymptote(lived)


# --- words, and numbers that are none --------------------------------------------------------------------------------


def test_what_an_interval_is_over_is_said() -> None:
    several, one = results(np.zeros((2, 3, 1))), results(np.zeros((1, 3, 1)))
    assert several.interval_words() == "over seeds and tasks"
    assert one.interval_words() == "one seed: over tasks only, other seeds may differ"
    assert replace(several, meta={"every_task": True}).interval_words().startswith("over seeds: all tasks")
    assert replace(one, meta={"every_task": True}).interval_words() == one.interval_words()
    assert results([[[1.0]]]).interval_words().endswith("none")


def test_scores_of_zeros_and_ones_have_no_interquartile_mean() -> None:
    """At k = 0 each score is 0 or 1; at k = 1 one is not."""
    first, second = results([[[0.0, 0.0], [1.0, 1.0], [1.0, 0.5], [1.0, 1.0]]]).summary()
    assert not {"iqm", "iqm_low", "iqm_high"} & first.keys()
    assert second["iqm"] == pytest.approx(0.75)
    assert (first["mean"], second["mean"]) == (0.75, 0.625)


def test_pages_and_tables_live_without_an_interquartile_mean(tmp_path: Path) -> None:
    pulled = results([[[0.0], [1.0], [1.0], [1.0]]])
    assert "0.75" in write_report([pulled], tmp_path).read_text()
    assert "0.75" in table_text([pulled])
    assert middle(pulled.summary()[0])[0] == 0.75


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_refused(value: float, tmp_path: Path) -> None:
    found = results(np.zeros((2, 3, 2)))
    path = found.save(tmp_path / "r.json")
    assert Results.load(path).check_numbers() is None
    found.scores["sampled"][1, 2, 0] = value
    words = rf"sampled score of maml \(seed 8, task 2, k = 0\) is {value}, expected a finite number"
    uses: list[Any] = [Results.summary, Results.area_under_curve, Results.per_task, performance_profile]
    for use in [*uses, lambda r: r.save(tmp_path / "s.json"), lambda r: gap(r, replace(found, split="far"))]:
        with pytest.raises(InvalidValueError, match=words):
            use(found)
    assert not (tmp_path / "s.json").exists()
    lived = results(np.zeros((1, 1, 2)), lifetime=np.full((1, 1, 2), value))
    for use in (Results.lifetime_summary, Results.check_numbers):
        with pytest.raises(InvalidValueError, match=r"lifetime return of maml \(seed 7, task 0, trial = 0\) is"):
            use(lived)


def test_files_whose_scores_are_no_numbers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = results(np.full((1, 2, 2), np.nan))
    monkeypatch.setattr(Results, "check_numbers", lambda self: None)
    monkeypatch.setattr(Results, "summary", lambda self, mode: [])
    path = found.save(tmp_path / "r.json")
    monkeypatch.undo()
    with pytest.raises(InvalidValueError, match=r"sampled score of maml \(seed 7, task 0, k = 0\) is nan"):
        Results.load(path)
