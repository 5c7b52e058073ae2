"""Comparisons: known answers, and the share of intervals that hold the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import metarl
from metarl.cli.main import main
from metarl.evaluation.comparison import (
    difference_interval,
    difference_parts,
    improvement,
    improvement_interval,
    protocol_differences,
)
from metarl.evaluation.intervals import interval


def drawn(rng: np.random.Generator, seeds: int, tasks: np.ndarray, mean: float, by_seed: float) -> np.ndarray:
    """Scores `[seed, task, 1]` with an effect of the seed, the tasks' effects and a rest."""
    noise = rng.normal(size=(seeds, len(tasks)))
    return (mean + by_seed * rng.normal(size=(seeds, 1)) + tasks + noise)[..., None]


def test_the_probability_of_improvement_by_hand() -> None:
    """Two seeds and one seed on two tasks: of four pairs two are won, one is drawn and one is lost."""
    first = np.array([[[1.0], [5.0]], [[3.0], [2.0]]])
    second = np.array([[[2.0], [2.0]]])
    assert improvement(first, second).mean() == pytest.approx((0 + 1 + 1 + 0.5) / 4)
    assert improvement(second, first).mean() == pytest.approx(1 - 2.5 / 4)
    assert improvement(first, first).mean() == pytest.approx(0.5)


@pytest.mark.parametrize(("seeds", "by_seed"), [(3, 1.0), (5, 0.3), (10, 1.0)])
def test_intervals_of_differences_hold_the_truth(seeds: int, by_seed: float) -> None:
    """1,500 data sets of known difference; .95 to .97 of 20,000 hold it, and the seeds not pooled .97 to .99."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(1500):
        tasks = 2.0 * rng.normal(size=20)
        a, b = drawn(rng, seeds, tasks, 1.0, by_seed), drawn(rng, seeds, tasks, 0.0, by_seed)
        low, high = interval(a.mean((0, 1)) - b.mean((0, 1)), difference_parts(a, b))
        held += bool(low[0] <= 1.0 <= high[0])
    assert 0.93 <= held / 1500 <= 0.98


@pytest.mark.parametrize(("seeds", "by_seed"), [(3, 0.5), (5, 0.3), (10, 1.0), (3, 4.0)])
def test_intervals_of_the_probability_of_improvement_hold_the_truth(seeds: int, by_seed: float) -> None:
    """With equal tasks' effects the truth is P(N(1, 2 (1 + by_seed^2)) > 0)."""
    from scipy.stats import norm

    truth = float(norm.cdf(1.0 / np.sqrt(2.0 * (1.0 + by_seed**2))))
    rng, held = np.random.default_rng(1), 0
    for _ in range(1500):
        tasks = 2.0 * rng.normal(size=20)
        first, second = (drawn(rng, seeds, tasks, mean, by_seed) for mean in (1.0, 0.0))
        low, high = improvement_interval(first, second)
        held += bool(low[0] <= truth <= high[0])
    assert 0.92 <= held / 1500 <= 0.995


def test_agreement_of_few_runs_is_no_certainty() -> None:
    """Two seeds that win everywhere: the interval of two of two draws, .025 to the power 1/2; a draw is one of two."""
    first, second = np.full((2, 5, 1), 3.0), np.zeros((3, 5, 1))
    assert [float(end[0]) for end in improvement_interval(first, second)] == pytest.approx([0.025**0.5, 1])
    low, high = improvement_interval(second, first)
    assert (low[0], high[0]) == pytest.approx((0.0, 1 - 0.025**0.5))
    low, high = improvement_interval(first, first)  # one of two
    assert (low[0], high[0]) == pytest.approx((1 - 0.975**0.5, 0.975**0.5))


def test_seeds_that_agree_do_not_make_an_improvement_certain() -> None:
    """Three seeds of each win 49 of 50 tasks in every pair. If agents differ by 2.3 less, 6 of 9 pairs still win."""
    tasks = np.arange(50.0)[None, :, None]
    first = 100 * tasks + np.array([3.0, 4.0, 5.0])[:, None, None]
    second = 100 * tasks + np.array([0.0, 1.0, 2.0])[:, None, None] + np.where(tasks == 7, 50.0, 0.0)
    assert improvement(first, second).mean() == pytest.approx(0.98)
    low, high = improvement_interval(first, second)
    assert low[0] == pytest.approx(0.98 * 6 / 9)
    assert 0.98 < high[0] <= 1.0
    assert improvement_interval(first + 30, second)[0][0] > 0.85  # seeds that differ little beside agents


def test_one_outlier_does_not_decide_an_improvement() -> None:
    rng = np.random.default_rng(3)
    first, second = (drawn(rng, 5, rng.normal(size=100), mean, 0.3) for mean in (4.0, 0.0))
    before = improvement_interval(first, second)
    first[2, 17] = -1e4
    for a, b in zip(before, improvement_interval(first, second), strict=True):
        assert a[0] == pytest.approx(b[0], abs=0.03)


def test_where_all_tasks_were_played_only_seeds_vary() -> None:
    """Two tasks whose differences are 1 and 9, the same for all seeds: certain where there are no other tasks."""
    first = np.zeros((3, 2, 1)) + np.array([1.0, 9.0])[:, None] + np.array([0.0, 0.1, 0.2])[:, None, None]
    second = np.zeros((3, 2, 1))
    fixed, drawn_tasks = (difference_interval(first, second, fixed_tasks=f) for f in (True, False))
    assert 4.5 < fixed[0][0] < fixed[1][0] < 5.7
    assert drawn_tasks[0][0] < 0
    assert improvement_interval(first, second, fixed_tasks=True)[0][0] == pytest.approx(0.025 ** (1 / 3))
    assert improvement_interval(first, second)[0][0] == 0.0


def test_equal_scores_stay_equal_in_the_interval_of_improvement() -> None:
    """Zeros and ones of many tasks: .5 with an interval of a hundredth, though the means' difference has one too."""
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 2, (2, 5, 20_000, 1)).astype(float)
    low, high = improvement_interval(first, second)
    assert 0.48 < low[0] < 0.5 < high[0] < 0.52


def test_two_budgets_of_an_adaptation_step_are_two_protocols(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def played(name: str, **settings: object) -> metarl.Results:
        agent = metarl.make_agent(name, "metarl/PointNavigation-v0", **settings)
        return metarl.evaluate(agent, k=1, num_tasks=2, episodes=1, modes=("sampled",))

    short, long = (played("scratch", hidden=(4,), eval_steps=steps) for steps in (200, 400))
    assert protocol_differences(short, long)["eval_steps"] == (200, 400)
    short.meta["overrides"] = {"eval_steps": 400}  # what `metarl eval --eval-steps` says
    assert "eval_steps" not in protocol_differences(short, long)
    other = played("random")  # its adaptation is an episode
    assert set(protocol_differences(long, other)) == {"environment steps"}
    short.meta["overrides"] = {"eval_steps": 300}
    paths = [str(made.save(tmp_path / f"{i}.json")) for i, made in enumerate((short, long, other))]
    with pytest.raises(SystemExit):
        main(["compare", *paths[:2]])
    said = capsys.readouterr()
    assert "A and B are not evaluated in the same way" in said.err
    assert "| eval_steps" in said.out
    main(["compare", *paths[1:]])
    main(["compare", *paths[:2], "--force"])
