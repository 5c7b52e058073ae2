"""The figure of rewards before and after adaptation, and the rewards that an evaluation keeps for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_results import bandit, make_results, page

import metarl
from metarl.benchmark.rows import agreement
from metarl.evaluation.results import Results
from metarl.files import read_json
from metarl.report.figures.behaviour import behaviour_figure

NAN = np.nan
REWARDS = np.array([[-1.0, -2.0, -4.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [-1.0, 2.0, NAN]])  # k = 0, ..., 3


def lived(agent: str = "maml", rewards: Any = REWARDS, **changes: Any) -> Results:
    """Observations are no points."""
    return make_results(agent, rewards=rewards, **{"paths": {}, "landmarks": None, **changes})


def lines(results: Results) -> list[list[list[float]]]:
    figure = behaviour_figure([results])
    assert figure is not None
    (ax,) = figure.axes
    return [line.get_xydata().tolist() for line in ax.lines]


def test_lines_are_the_sums_of_rewards_before_and_after_adaptation():
    """They start at 0, and end with the episode: the second one after two steps."""
    assert lines(lived()) == [[[0, 0], [1, -1], [2, -3], [3, -7]], [[0, 0], [1, -1], [2, 1]]]
    figure = behaviour_figure([lived("maml"), lived("rl2")])
    assert figure is not None
    for ax, agent in zip(figure.axes, ("maml", "rl2"), strict=True):
        assert ax.get_title(loc="left") == f"{agent}: k = 0 and k = 3"
        before, after = ax.lines
        assert (before.get_linestyle(), after.get_linestyle()) == ("--", "-")
        assert before.get_linewidth() < after.get_linewidth()
        assert (before.get_markevery(), after.get_markevery()) == ([3], [2])


def test_older_files_show_the_first_and_the_last_episode_of_a_trial():
    reward = np.array([[[1.0, 1.0], [5.0, 5.0], [2.0, NAN]], [[9.0, 9.0]] * 3])  # two paths of three episodes
    old = lived("rl2", None, trial={"action": 0 * reward, "reward": reward})
    assert lines(old) == [[[0, 0], [1, 1], [2, 2]], [[0, 0], [1, 2]]]
    figure = behaviour_figure([old])
    assert figure is not None
    assert figure.axes[0].get_title(loc="left") == "rl2: episodes 1 and 3 of a trial"
    assert lines(replace(old, rewards=REWARDS)) == lines(lived())  # newer ones show what is compared: fresh episodes
    for few in (reward[:, :1], reward[:, :, :1], reward[:0]):  # one episode, one step, no path
        assert behaviour_figure([replace(old, trial={"action": 0 * few, "reward": few})]) is None


def test_the_page_has_behaviour_where_it_has_no_paths(tmp_path: Path):
    text = page([lived()], tmp_path)
    assert text.count("<h3>Behaviour</h3>") == 1
    assert "The sum of rewards so far in two episodes in the first task." in text
    assert "are shown, baselines last" not in text
    with_paths = make_results(rewards=REWARDS)
    without = [with_paths, bandit(), lived(rewards=None), lived(grid=(3,), rewards=REWARDS[:1])]
    for results in without:
        assert "<h3>Behaviour</h3>" not in page([results], tmp_path)
    assert "<h3>Behaviour</h3>" in page([lived("random")], tmp_path)
    assert "<h3>Behaviour</h3>" not in page([lived("random"), lived(rewards=None)], tmp_path)  # of nobody that adapts


def test_behaviour_of_the_four_best_agents_is_shown_and_baselines_last(tmp_path: Path):
    made = [lived(name) for name in ("random", *"abcde")]
    for i, results in enumerate(made):
        results.scores["sampled"] = np.full((2, 3, 4, 4), float(-i))
    figure = behaviour_figure(made)
    assert figure is not None
    assert [ax.get_title(loc="left")[0] for ax in figure.axes] == ["a", "b", "c", "d"]
    assert "Of 6 agents the 4 with the highest scores are shown, baselines last." in page(made, tmp_path)
    figure = behaviour_figure(made[:3])
    assert figure is not None
    assert [ax.get_visible() for ax in figure.axes] == [True, True, True, False]
    assert [ax.get_xlabel() != "" for ax in figure.axes[:3]] == [False, True, True]  # below the second there is nothing


# --- what an evaluation keeps ----------------------------------------------------------------------------------------


def evaluated(family: str = "metarl/CartPole-v0", agent: str = "random", **options: Any) -> Results:
    return metarl.evaluate(metarl.make_agent(agent, family), num_tasks=3, episodes=2, **{"k": [0, 2], **options})


@pytest.mark.parametrize("agent", ["random", "rl2"])
def test_rewards_are_those_of_the_first_scored_episode_of_the_first_task(agent: str):
    """A reward of CartPole is 1 a step, so their number and their sum are the return, for each k; then comes NaN."""
    results = evaluated(agent=agent, trials=2, rows_at_once=2)
    assert results.rewards is not None
    assert results.rewards.shape == (2, 500)
    for rewards, returns in zip(results.rewards, results.scores["sampled"][0, 0], strict=True):
        steps = int(returns[0])
        assert rewards[:steps].tolist() == [1.0] * steps
        assert np.isnan(rewards[steps:]).all()
    assert not np.array_equal(results.rewards[0], results.rewards[1], equal_nan=True)
    whole = evaluated("metarl/Pendulum-v0")
    assert whole.rewards is not None
    np.testing.assert_allclose(whole.rewards.sum(1), whole.scores["sampled"][0, 0, :, 0])


def test_rewards_are_kept_only_where_they_can_be_shown():
    assert evaluated("metarl/BernoulliBandit-v0").rewards is None
    assert evaluated(paths=0).rewards is None


def test_rewards_are_saved_and_files_without_them_are_as_before(tmp_path: Path):
    results = evaluated()
    again = Results.load(results.save(tmp_path / "new.json"))
    np.testing.assert_array_equal(again.rewards, results.rewards)
    old = replace(results, rewards=None)
    first = read_json(old.save(tmp_path / "old.json"), "metarl-results-3", "")
    assert "rewards" not in first["arrays"]
    loaded = Results.load(tmp_path / "old.json")
    assert loaded.rewards is None
    second = read_json(loaded.save(tmp_path / "again.json"), "metarl-results-3", "")
    assert second["arrays_sha256"] == first["arrays_sha256"]
    assert agreement(old, results) == "equal"
    for wrong in (results.rewards[:1], results.rewards[:, :3], results.rewards[0]):
        with pytest.raises(metarl.InvalidValueError, match=r"shape of (rewards|trial\.action)"):
            replace(results, rewards=wrong).save(tmp_path / "wrong.json")
