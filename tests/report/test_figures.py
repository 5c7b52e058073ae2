"""Figures show the numbers of the results, whatever the results look like."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from made_results import bandit, make_results, page

from metarl.errors import InvalidValueError
from metarl.evaluation.results import Results
from metarl.report.entries import grouped
from metarl.report.figures.comparison import improvement_figure, improvements, profile_figure, task_figure
from metarl.report.figures.curves import draw_adaptation
from metarl.report.figures.training import training_figure
from metarl.report.page import adaptation_figure, paths_figure, save_figure, trial_figure

SETTINGS = dict(matplotlib.rcParams)  # before any test drew anything
WORDS = ("dotted line", "dashed line", "A filled dot", "the star")  # of captions

# --- figures ---------------------------------------------------------------------------------------------------------


def test_curves_are_the_summaries():
    made = [make_results("maml"), make_results("random", env_steps=np.array([0.0, 300.0, 600.0, 900.0]))]
    figure = adaptation_figure(made)
    by_k, by_steps = figure.axes  # environment steps differ, and nobody has lifetime returns
    for ax, x_name in ((by_k, "k"), (by_steps, "env_steps")):
        drawn = [
            (line.get_xdata(), line.get_ydata(), line.get_linestyle())
            for line in ax.lines
            if line.get_marker() != "None"
        ]
        styles = {"sampled": "-", "deterministic": "--"}
        expected = [(r.summary(mode), style) for r in made for mode, style in styles.items()]
        for (x, y, style), (rows, line_style) in zip(drawn, expected, strict=True):
            np.testing.assert_array_equal(x, [row[x_name] for row in rows])
            np.testing.assert_array_equal(y, [row["mean"] for row in rows])
            assert style == line_style
    band = by_k.collections[0].get_paths()[0].vertices[:, 1]
    rows = made[0].summary()
    assert (band.min(), band.max()) == (min(r["low"] for r in rows), max(r["high"] for r in rows))


def test_no_line_leads_from_zero_on_a_logarithmic_axis():
    """Agents use 6,000 and 300 steps: the axis starts at 100 steps, the first one, and k = 0 stands apart."""
    short = make_results("random", env_steps=np.array([0.0, 100.0, 200.0, 300.0]))
    made = [make_results("maml"), short]
    (ax,) = adaptation_figure(made, ["env_steps"]).axes
    assert ax.get_xscale() == "log"
    drawn = [line for line in ax.lines if line.get_marker() != "None"]
    zeros = [line for line in drawn if len(line.get_xdata()) == 1]
    rises = [line for line in drawn if len(line.get_xdata()) > 1]
    assert len(zeros) == len(rises) == 4  # two agents, two modes
    assert all(line.get_xdata()[0] == pytest.approx(100 / 3) for line in zeros)
    assert min(line.get_xdata().min() for line in rises) == 100.0
    for results, zero, rise in zip([made[0], made[0], *[short] * 2], zeros, rises, strict=True):
        mode = "deterministic" if zero.get_linestyle() == "--" else "sampled"
        means = [row["mean"] for row in results.summary(mode)]
        np.testing.assert_array_equal([*zero.get_ydata(), *rise.get_ydata()], means)
        np.testing.assert_array_equal(rise.get_xdata(), results.env_steps[1:])
    assert [text.get_text() for text in ax.get_xticklabels()] == ["0", "100", "200", "500", "1,000", "2,000", "5,000"]


def test_steps_that_are_alike_have_a_linear_axis_from_zero():
    made = [make_results("maml"), make_results("random", env_steps=np.array([0.0, 300.0, 600.0, 900.0]))]
    (ax,) = adaptation_figure(made, ["env_steps"]).axes
    assert ax.get_xscale() == "linear"
    assert [line.get_xdata()[0] for line in ax.lines if line.get_marker() != "None"] == [0.0] * 4


def test_no_two_of_many_agents_look_the_same():
    entries = grouped([make_results(f"agent{i}") for i in range(40)])[0]
    assert len({(entry.color, entry.marker) for entry in entries}) == 40
    ax = draw_adaptation(entries, ["k"]).axes[0]
    drawn = [line for line in ax.lines if line.get_marker() != "None"]
    assert len(drawn) == 40  # one mode
    looks = [(line.get_color(), str(line._dash_pattern)) for line in drawn]  # without markers
    assert len(set(looks[:21])) == 21
    assert ax.get_title(loc="left") == "sampled actions"


def test_last_returns_are_dots_in_the_order_given():
    made = [make_results("maml"), make_results("random")]
    (ax,) = adaptation_figure(made, ["last"]).axes
    dots = [line for line in ax.lines if line.get_marker() != "None"]
    assert [line.get_xdata()[0] for line in dots] == [r.summary()[-1]["mean"] for r in made]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["maml", "random"]


# --- meta-training ---------------------------------------------------------------------------------------------------


def trained(returns: Any, **changes: Any) -> Results:
    """Validated before and after training, at k = 0 and k = 2."""
    curves = {"iterations": [0, 5], "env_steps": [0, 1_000_000], "k": [0, 2], "returns": returns}
    return make_results(meta={"curves": curves | {"split": "valid", "tasks": 4} | changes})


def test_training_curves_are_means_over_seeds_with_their_interval():
    """By hand: 1, 2, 6 have mean 3 and variance 7, so the interval is 3 +- 4.3027 (t, 2 degrees) * sqrt(7 / 3)."""
    figure = training_figure([trained([[[0.0, 1.0], [1.0, 1.0]], [[0.0, 1.0], [2.0, 2.0]], [[3.0, 1.0], [3.0, 6.0]]])])
    assert figure is not None
    (ax,) = figure.axes
    strong, thin = ax.lines
    assert strong.get_xdata().tolist() == [0, 1_000_000]
    assert (strong.get_ydata().tolist(), thin.get_ydata().tolist()) == ([1.0, 3.0], [1.0, 2.0])
    assert strong.get_linewidth() > thin.get_linewidth()
    band = ax.collections[0].get_paths()[0].vertices
    half = 4.30265 * (7 / 3) ** 0.5
    assert sorted(band[band[:, 0] == 1_000_000][:, 1])[::2][:1] == pytest.approx([3 - half], abs=1e-3)
    assert band[:, 1].max() == pytest.approx(3 + half, abs=1e-3)
    assert ax.get_title(loc="left") == "strong: k = 2; thin: k = 0; band: 95 % interval over seeds"
    assert ax.get_ylabel() == "return on validation tasks (4 of split 'valid')"
    assert "1,000,000" in [label.get_text() for label in ax.get_xticklabels()]


def test_training_curves_of_two_seeds_have_a_range_and_of_one_none():
    both = [[[0.0, 1.0], [1.0, 5.0]], [[0.0, 1.0], [2.0, 2.0]]]
    figure = training_figure([trained(both)])
    assert figure is not None
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    assert set(band[band[:, 0] == 1_000_000][:, 1]) == {2.0, 5.0}
    assert figure.axes[0].get_title(loc="left").endswith("band: lowest to highest of 2 seeds")
    single = training_figure([trained(both[:1])])
    assert single is not None
    assert single.axes[0].get_title(loc="left").endswith("one seed, no band")
    assert training_figure([make_results()]) is None


def in_training(curves: list[dict[str, list[float]]], **changes: Any) -> Results:
    return make_results(meta={"training_curves": curves, "train_env_steps": [1000, 1000]} | changes)


def test_without_validation_the_figure_has_the_returns_in_training():
    """By hand: 200 meta-updates of 5 steps make 100 points, each the mean of two; seeds have 1 and 3 more."""
    before, after = [float(i) for i in range(200)], [2.0 * i for i in range(200)]
    curves = [{"return_0": before, "return_1": [v + more for v in after]} for more in (1.0, 3.0)]
    figure = training_figure([in_training(curves)])
    assert figure is not None
    (ax,) = figure.axes
    strong, thin = ax.lines
    assert strong.get_xdata()[[0, 1, -1]].tolist() == [10, 20, 1000]
    assert strong.get_ydata()[[0, 1, -1]].tolist() == [3.0, 7.0, 399.0]
    assert thin.get_ydata()[[0, -1]].tolist() == [0.5, 198.5]
    assert ax.get_ylabel() == "return in training, on train tasks"
    assert ax.get_title(loc="left") == "strong: k = 1; thin: k = 0; band: lowest to highest of 2 seeds"


def test_agents_that_live_through_a_trial_have_the_return_of_a_mean_episode():
    found = in_training([{"trial_return": [8.0, 9.0], "episode_return": [2.0, 3.0]}], train_env_steps=[10])
    figure = training_figure([found, trained([[[0.0, 1.0], [1.0, 1.0]]])])
    assert figure is not None
    (ax,) = figure.axes
    assert (ax.lines[0].get_xdata().tolist(), ax.lines[0].get_ydata().tolist()) == ([5, 10], [2.0, 3.0])
    assert ax.get_ylabel() == "return on validation tasks (4 of split 'valid'), or in training"
    assert ax.get_title(loc="left").startswith("strong: k = 2, or a mean episode of a trial; thin: k = 0")


def test_meta_updates_of_other_lengths_stand_at_their_steps_and_seeds_meet_at_common_ones():
    """Seeds at 10 and 30, and at 20 and 40 steps: at 20 and 30 the first has 1.5 and 2, the other 4 and 5."""
    curves = [{"return_0": [1.0, 2.0], "env_steps": [10, 30]}, {"return_0": [4.0, 6.0], "env_steps": [20, 40]}]
    figure = training_figure([in_training(curves)])
    assert figure is not None
    (line,) = figure.axes[0].lines
    assert line.get_xdata().tolist() == [20.0, 30.0]
    assert line.get_ydata().tolist() == [(1.5 + 4.0) / 2, (2.0 + 5.0) / 2]


def test_the_last_k_is_the_highest_number_and_not_the_last_name():
    figure = training_figure([in_training([{"return_1": [7.0], "return_0": [1.0], "return_std": [3.0]}] * 2)])
    assert figure is not None
    strong, thin = figure.axes[0].lines
    assert (strong.get_ydata().tolist(), thin.get_ydata().tolist()) == ([7.0], [1.0])


def test_returns_in_training_that_no_training_wrote_are_refused_or_left_out():
    for damaged in (5, [1, 2], [{"return_0": 3}, {"return_0": 3}], [{"return_0": ["a"]}], [{"return_0": [[1.0]]}]):
        with pytest.raises(InvalidValueError, match="training_curves of the results of maml"):
            training_figure([in_training(damaged)])  # type: ignore[arg-type]
    assert training_figure([in_training([{"return_0": [1.0]}, {"return_0": [1.0, 2.0]}])]) is None
    assert training_figure([in_training([{"return_0": [1.0]}, {"return_1": [1.0]}])]) is None
    assert training_figure([in_training([{"return_std": [1.0]}, {"return_-1": [1.0]}])]) is None
    assert training_figure([in_training([{}, {}])]) is None
    assert training_figure([in_training([{"return_0": [1.0]}], train_env_steps=[])]) is None
    assert training_figure([in_training([{"return_0": [float("nan")]}])]) is None


@pytest.mark.parametrize(
    ("returns", "changes"),
    [
        ([[[1.0, 2.0]]], {}),  # one validation, at two numbers of steps
        ([[1.0], [2.0, 3.0]], {}),
        ([[[0.0, 1.0], [1.0, np.nan]]], {}),
        ([[[0.0, 1.0], [1.0, 1.0]]], {"k": [0]}),
        ([[[0.0, 1.0], [1.0, 1.0]]], {"env_steps": None}),
    ],
)
def test_damaged_training_curves_are_named(returns: Any, changes: dict[str, Any], tmp_path: Path):
    damaged = trained(returns, **changes)
    with pytest.raises(InvalidValueError, match=r"curves of the results of maml is .* expected env_steps \[n\]"):
        page([damaged], tmp_path)


def test_page_shows_training_where_it_was_validated(tmp_path: Path):
    text = page([trained([[[0.0, 1.0], [1.0, 1.0]]]), make_results("random")], tmp_path)
    assert text.count("<h3>Meta-training</h3>") == 1
    assert "<h3>Meta-training</h3>" not in page([make_results()], tmp_path)


def test_a_training_that_several_splits_show_is_drawn_once(tmp_path: Path):
    once, other = [[[0.0, 1.0], [1.0, 1.0]]], [[[0.0, 1.0], [1.0, 2.0]]]
    near, far = trained(once), replace(trained(once), split="far")
    text = page([near, far], tmp_path)
    assert text.count("<h3>Meta-training</h3>") == 1
    again = page([near, far, replace(trained(other), split="far", agent="anil")], tmp_path)
    assert again.count("<h3>Meta-training</h3>") == 2


# --- tasks and pairs of agents ---------------------------------------------------------------------------------------


def of_tasks(*returns: float, agent: str = "maml", **changes: Any) -> Results:
    """One seed and one episode at one k, with these returns in its tasks."""
    scores = {"sampled": np.array(returns)[None, :, None, None]}
    known = {"informed_optimum": np.zeros(len(returns))}
    return make_results(agent, grid=(1,), **{"scores": scores, "references": known, "meta": {}, **changes})


def test_tasks_are_sorted_by_their_returns():
    figure = task_figure([of_tasks(-3.0, -1.0, -2.0, -8.0)])
    assert figure is not None
    (line,) = figure.axes[0].lines
    assert line.get_xdata().tolist() == [0.25, 0.5, 0.75, 1.0]
    assert line.get_ydata().tolist() == [-8.0, -3.0, -2.0, -1.0]
    assert task_figure([of_tasks(-3.0)]) is None


def test_tasks_are_drawn_against_their_numbers():
    """Numbers that never change are no axis; equal values are one point."""
    task_values = {"same": np.ones(4), "goal": np.zeros((4, 2)), "speed": np.array([2.0, 1.0, 2.0, 0.0])}
    figure = task_figure([of_tasks(-3.0, -1.0, -5.0, -8.0, task_values=task_values)])
    assert figure is not None
    (ax,) = figure.axes
    assert (ax.get_xlabel(), ax.lines[0].get_xdata().tolist()) == ("speed", [0.0, 1.0, 2.0])
    assert ax.lines[0].get_ydata().tolist() == [-8.0, -1.0, -4.0]


def test_an_old_file_without_the_numbers_of_tasks_has_those_of_the_same_tasks():
    speed = np.array([2.0, 1.0, 2.0, 0.0])
    old, new = of_tasks(-4.0, -2.0, -6.0, -9.0), of_tasks(-3.0, -1.0, -5.0, -8.0, task_values={"speed": speed})
    figure = task_figure([old, new])
    assert figure is not None
    (ax,) = figure.axes
    assert ax.get_xlabel() == "speed"
    assert [line.get_xdata().tolist() for line in ax.lines] == [[0.0, 1.0, 2.0]] * 2
    assert ax.lines[0].get_ydata().tolist() == [-9.0, -2.0, -5.0]
    for others in (replace(old, task_hash="beef"), replace(new, agent="random", task_values={"mass": speed})):
        figure = task_figure([others, new])
        assert figure is not None
        assert figure.axes[0].get_xlabel() == "share of tasks with at most this return"


def test_each_number_of_a_vector_has_its_panel():
    """The second number never changes; equal first and third ones are one point."""
    goal = np.array([[2.0, 7.0, 0.0], [1.0, 7.0, 3.0], [2.0, 7.0, 3.0], [0.0, 7.0, 3.0]])
    made = [of_tasks(-3.0, -1.0, -5.0, -8.0, agent=name, task_values={"goal": goal}) for name in ("maml", "random")]
    figure = task_figure(made)
    assert figure is not None
    first, third = figure.axes
    assert (first.get_xlabel(), third.get_xlabel()) == ("goal 1", "goal 3")
    for line in first.lines:
        assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([0.0, 1.0, 2.0], [-8.0, -1.0, -4.0])
    for line in third.lines:
        assert line.get_xdata().tolist() == [0.0, 3.0]
        assert line.get_ydata().tolist() == pytest.approx([-3.0, -14 / 3])
    flat = replace(made[1], task_values={"goal": goal[:, 0]})  # of another version of the family
    figure = task_figure([made[0], flat])
    assert figure is not None
    assert [ax.get_xlabel() for ax in figure.axes] == ["share of tasks with at most this return"]


def test_at_most_four_numbers_are_drawn_and_no_part_of_a_vector():
    """Two rows of two panels; the corner of three numbers has no room after the speed and the goal."""
    numbers = np.arange(40.0).reshape(4, 10)
    vectors = {"goal": numbers[:, :2], "corner": numbers[:, 2:5], "wind": numbers[:, 5], "late": numbers[:, 6]}
    figure = task_figure([of_tasks(-3.0, -1.0, -5.0, -8.0, task_values={"speed": numbers[:, 7], **vectors})])
    assert figure is not None
    assert [ax.get_xlabel() for ax in figure.axes] == ["speed", "goal 1", "goal 2", "wind"]
    rows = [ax.get_subplotspec().rowspan.start for ax in figure.axes]
    assert rows == [0, 0, 1, 1]
    assert [ax.get_ylabel() != "" for ax in figure.axes] == [True, False, True, False]
    assert figure.axes[2].lines[0].get_xdata().tolist() == numbers[:, 1].tolist()


def test_many_tasks_are_joined_to_twenty_points():
    speed = np.arange(100.0)[::-1]
    figure = task_figure([of_tasks(*speed, task_values={"speed": speed})])
    assert figure is not None
    (line,) = figure.axes[0].lines
    assert line.get_xdata().tolist() == line.get_ydata().tolist() == [2.0 + 5 * i for i in range(20)]


def test_profiles_are_the_share_of_runs_that_reach_a_return():
    figure = profile_figure([of_tasks(-3.0, -1.0, -2.0, -8.0)])
    assert figure is not None
    (line,) = figure.axes[0].lines
    shares = dict(zip(line.get_xdata().round(2).tolist(), line.get_ydata().tolist(), strict=True))
    assert (shares[-8.0], shares[-2.96], shares[-1.0]) == (1.0, 0.5, 0.25)
    assert profile_figure([bandit(lifetime=np.ones((2, 3, 1)), episodes=2000.0 * np.arange(4.0))]) is None


def test_improvements_are_those_of_pairs_on_the_same_tasks():
    first = of_tasks(-3.0, -1.0, -2.0, -8.0)
    second = of_tasks(-4.0, -2.0, -2.0, -7.0, agent="random")  # lower in two tasks, equal in one
    rows = improvements(grouped([first, second])[0])
    assert [(row["agent"], row["other"], row["improvement"]) for row in rows] == [
        ("maml", "random", 0.625),
        ("random", "maml", 0.375),
    ]
    figure = improvement_figure([first, second])
    assert figure is not None
    shown = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
    assert shown == {(1, 0): ".62", (0, 1): ".38"}  # column, row
    assert improvement_figure([first, of_tasks(-4.0, -2.0, -2.0, -7.0, agent="b", task_hash="beef")]) is None


def test_one_k_is_drawn_as_points_beside_each_other():
    (ax,) = adaptation_figure([make_results(grid=(5,))]).axes
    # two modes, 0.1 apart around k = 5
    assert [line.get_xdata()[0] for line in ax.lines[:2]] == pytest.approx([4.95, 5.05])
    assert ax.get_xticks() == [5]


def test_references_are_lines_with_names():
    ax = adaptation_figure([bandit()]).axes[0]
    assert {line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == ":"} == {-40.0, -10.0}
    places = {text.get_text(): text.get_position()[1] for text in ax.texts}
    assert places == pytest.approx({"floor": -40.0, "informed\noptimum": -10.0})


def test_panels_follow_what_the_agents_have():
    def labels(*results: Results, **options: Any) -> list[str]:
        return [ax.get_xlabel().split()[0] for ax in adaptation_figure(results, **options).axes]

    assert labels(make_results(), make_results("random")) == ["adaptation"]
    assert labels(make_results(), make_results("random", env_steps=np.arange(4.0))) == ["adaptation", "environment"]
    assert labels(bandit(), bandit("random")) == ["adaptation", "lifetime"]
    assert labels(bandit(), make_results("maml", "metarl/ToyBandit-v0")) == ["adaptation"]
    assert labels(make_results(), panels=["env_steps"]) == ["environment"]
    with pytest.raises(InvalidValueError, match="did you mean 'lifetime'"):
        adaptation_figure([bandit()], ["lifetimes"])
    with pytest.raises(InvalidValueError, match="one family"):
        adaptation_figure([bandit(), make_results()])


def test_lifetime_panel_shows_means_and_the_bayes_optimum():
    (ax,) = adaptation_figure([bandit(), bandit("random")], ["lifetime"]).axes
    assert [line.get_xdata()[0] for line in ax.lines] == [6.5, 6.5, 6.75]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["rl2", "random"]


def test_paths_are_rows_of_agents_and_at_most_five_columns_of_k():
    made = [make_results("maml", grid=tuple(range(9))), bandit("random"), make_results("oracle", grid=(0, 8))]
    figure = paths_figure(made)
    assert figure is not None
    assert [ax.get_title() for ax in figure.axes[:5]] == [f"k = {k}" for k in (0, 2, 4, 6, 8)]
    assert len(figure.axes) == 2 * 5  # the agent without paths has no row
    first = figure.axes[0].lines
    np.testing.assert_array_equal(first[3].get_xydata(), made[0].paths[0][1, :3])  # up to the NaN
    assert (first[2].get_marker(), first[2].get_xydata().tolist()) == ("*", [[1.0, 0.0]])
    assert figure.axes[6].lines[:] == []  # the last agent knows nothing of k = 2
    assert paths_figure([bandit()]) is None


def test_frame_of_paths_is_square_and_keeps_goals_in_sight():
    path = np.array([[[0.0, 0.0], [100.0, 0.0]]])
    figure = paths_figure([make_results(paths={0: path}, landmarks=np.array([[1.0, 1.0]]))])
    assert figure is not None
    # anchors span [0, 1] on both axes: centre 0.5, reach 0.5, so the half width is 1.1 * 2.5 * 0.5 = 1.375
    for low, high in (figure.axes[0].get_xlim(), figure.axes[0].get_ylim()):
        assert (low, high) == pytest.approx((0.5 - 1.375, 0.5 + 1.375))


def arms(*pulled: int, paid: tuple[int, ...]) -> dict[str, np.ndarray]:
    """A trial of one-step episodes with a Discrete action; other tasks' trials differ."""
    action, reward = np.array(pulled, float)[None, :, None], np.array(paid, float)[None, :, None]
    return {"action": np.concatenate([action, 0 * action]), "reward": np.concatenate([reward, 0 * reward])}


def test_trial_curves_are_means_of_what_was_collected():
    thin = bandit("gittins", lifetime=np.ones((1, 3, 1)), collected=np.array([[[1.0, 2.0, 4.0]]]))  # kept as a mean
    made = [bandit(bayes_episodes=np.array([-20.0, -12.0, -9.0])), make_results("maml", "metarl/ToyBandit-v0"), thin]
    (ax,) = trial_figure(made).axes  # no trial was kept; the agent without lifetime returns has no curve
    rl2, gittins, optimum, bayes = ax.lines
    np.testing.assert_array_equal(rl2.get_xdata(), [1, 2, 3])
    np.testing.assert_allclose(rl2.get_ydata(), made[0].collected.mean((0, 1)))
    np.testing.assert_array_equal(gittins.get_ydata(), [1.0, 2.0, 4.0])
    assert (optimum.get_linestyle(), list(optimum.get_ydata())) == (":", [-10.0, -10.0])
    assert (bayes.get_linestyle(), bayes.get_ydata().tolist()) == ("--", [-20.0, -12.0, -9.0])
    places = {t.get_text(): t.get_position()[1] for t in ax.texts}  # 1 apart on an axis of 30: moved apart
    assert places["informed\noptimum"] < -10.0 < -9.0 < places["Bayes-optimal\npolicy"]
    assert sum(places.values()) == pytest.approx(-19.0)
    (band,) = ax.collections  # one seed has none
    by_seed = made[0].collected.mean(1)  # [seed, episode]
    for j in range(3):
        edge = [y for x, y in band.get_paths()[0].vertices if x == j + 1]
        assert (min(edge), max(edge)) == (by_seed[:, j].min(), by_seed[:, j].max())


def test_arms_of_a_trial_are_filled_where_they_paid():
    made = [
        bandit(trial=arms(2, 0, 4, paid=(0, 1, 1))),
        bandit("random"),
        bandit("ucb1", trial=arms(3, 3, 3, paid=(0, 0, -1))),
    ]
    left, rl2, ucb1 = trial_figure(made).axes
    assert [ax.get_title(loc="left") for ax in (rl2, ucb1)] == ["rl2", "ucb1"]
    for ax, filled, hollow in ((rl2, [(2, 0), (3, 4)], [(1, 2)]), (ucb1, [], [(1, 3), (2, 3), (3, 3)])):
        paid, unpaid = ax.lines
        assert [tuple(p) for p in paid.get_xydata().tolist()] == filled
        assert [tuple(p) for p in unpaid.get_xydata().tolist()] == hollow
        assert paid.get_markerfacecolor() == paid.get_color()
        assert unpaid.get_markerfacecolor() == "white"
        assert ax.get_ylim() == (-0.5, 4.5)  # the largest arm that anyone pulled is 4
    assert rl2.lines[0].get_color() == left.lines[0].get_color()
    assert ucb1.lines[0].get_color() == left.lines[2].get_color()


def test_words_below_a_trial_tell_what_is_drawn(tmp_path: Path):
    plain = page([bandit(references={})], tmp_path)
    assert "<figcaption>Return of each episode of a trial, mean over tasks. The band goes from" in plain
    assert [w for w in WORDS if w in plain] == []
    whole = page([bandit(trial=arms(0, 1, 2, paid=(1, 1, 1)), bayes_episodes=np.ones(3))], tmp_path)
    assert [w for w in WORDS if w in whole] == ["dotted line", "dashed line", "A filled dot"]


def test_trials_of_the_four_best_agents_are_shown_and_baselines_last(tmp_path: Path):
    names = ["oracle", *"abcdef"]
    made = [bandit(name, trial=arms(0, 1, 2, paid=(1, 1, 1))) for name in names]
    for i, results in enumerate(made):
        results.scores["sampled"] = np.full((2, 3, 4, 4), -10.0 - i)
    made[5].scores["sampled"] += 5.0  # "e"
    assert [ax.get_title(loc="left") for ax in trial_figure(made).axes[1:]] == ["a", "b", "c", "e"]
    assert "Of 7 agents the 4 with the highest scores are shown, baselines last" in page(made, tmp_path)
    others = {"meta": {}, "references": {}}
    few = [bandit(name, trial=arms(0, 1, 2, paid=(1, 1, 1)), **others) for name in ("oracle", "random", "rl2")]
    assert trial_figure(few).axes[1].get_title(loc="left") == "rl2"
    alone = [*few[:2], make_results("maml", "metarl/ToyBandit-v0")]  # which plays no trial of one episode after another
    assert "<h3>Trial</h3>" not in page(alone, tmp_path)
    assert "<h3>Trial</h3>" in page(few[:2], tmp_path)  # nothing else to show
    assert "<h3>Trial</h3>" not in page([make_results("random")], tmp_path)


def test_continuous_actions_are_no_arms():
    trial = {"action": np.zeros((1, 3, 1, 1)), "reward": np.zeros((1, 3, 1)), "obs": np.zeros((1, 3, 1, 3))}
    assert len(trial_figure([bandit(trial=trial)]).axes) == 1


def test_walks_of_a_trial_are_its_first_second_and_last_episode():
    episodes = np.arange(4.0)[:, None, None]  # episode j goes from (0, j) to (1, j) to (2, j), the second ends before
    obs = np.concatenate([np.arange(3.0)[None, :, None] + 0 * episodes, episodes + np.zeros((4, 3, 1))], -1)
    obs[1, 2] = np.nan
    trial = {"action": np.zeros((2, 4, 3)), "reward": np.zeros((2, 4, 3)), "obs": np.stack([obs, obs + 7])}
    walked = bandit(trial=trial, landmarks=np.array([[3.0, 1.0], [9.0, 9.0]]), collected=np.zeros((2, 3, 4)))
    _, first, second, last = trial_figure([walked]).axes
    assert [ax.get_title() for ax in (first, second, last)] == ["episode 1", "episode 2", "episode 4"]
    expected = ([[0, 0], [1, 0], [2, 0]], [[0, 1], [1, 1]], [[0, 3], [1, 3], [2, 3]])
    for ax, points in zip((first, second, last), expected, strict=True):
        path, _, star = ax.lines
        assert path.get_xydata().tolist() == points
        assert (star.get_marker(), star.get_xydata().tolist()) == ("*", [[3.0, 1.0]])
    # everything lies in [0, 3] on both axes: centre 1.5, half width 1.1 * 1.5
    assert (first.get_xlim(), first.get_ylim()) == (pytest.approx((-0.15, 3.15)), pytest.approx((-0.15, 3.15)))


def test_page_shows_trials_of_at_least_two_episodes(tmp_path: Path):
    assert "<h3>Trial</h3>" in page([bandit()], tmp_path)
    assert "<h3>Trial</h3>" not in page([make_results()], tmp_path)
    assert "<h3>Trial</h3>" not in page([bandit(collected=np.zeros((2, 3, 1)))], tmp_path)
    with pytest.raises(InvalidValueError, match="at least two episodes"):
        trial_figure([make_results()])
    with pytest.raises(InvalidValueError, match="one family"):
        trial_figure([bandit(), make_results()])
    shown = page([bandit(trial=arms(0, 1, 2, paid=(1, 1, 1)))], tmp_path)
    assert shown == page([bandit(trial=arms(0, 1, 2, paid=(1, 1, 1)))], tmp_path)


@pytest.mark.parametrize(
    ("name", "start"), [("curve.png", b"\x89PNG"), ("sub/curve.SVG", b"<?xml"), ("curve.pdf", b"%PDF")]
)
def test_figures_are_saved_whole(name: str, start: bytes, tmp_path: Path):
    path = save_figure(adaptation_figure([make_results()]), tmp_path / name)
    assert path.read_bytes().startswith(start)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_other_kinds_of_figure_are_refused(tmp_path: Path):
    with pytest.raises(InvalidValueError, match=r"curve\.gif.*\.png, \.pdf or \.svg"):
        save_figure(adaptation_figure([make_results()]), tmp_path / "curve.gif")


def test_nothing_global_changes(tmp_path: Path):
    page([make_results(), bandit()], tmp_path, files=True)
    save_figure(adaptation_figure([bandit()]), tmp_path / "a.png")
    assert dict(matplotlib.rcParams) == SETTINGS


def test_rows_of_a_benchmark_keep_their_names_and_their_studies_apart() -> None:
    from dataclasses import replace as changed

    from metarl import evaluate, make_agent
    from metarl.report.entries import grouped, one_group

    random = evaluate(make_agent("random", "metarl/PointNavigation-v0"), k=1, num_tasks=2, episodes=2)
    paths = ("nav/dense/naive", "nav/dense/lvc", "nav/paper/lvc")
    rows = [changed(random, meta={**random.meta, "entry": path}) for path in paths]
    labels = [[entry.label for entry in group] for group in grouped(rows)]
    assert labels == [["naive (random)", "lvc (random)"], ["lvc (random)"]]
    assert [entry.label for entry in one_group(rows)] == [
        "dense/naive (random)",
        "dense/lvc (random)",
        "paper/lvc (random)",
    ]
    own = changed(random, meta={**random.meta, "entry": "nav/dense/random"})
    assert [entry.label for entry in one_group([own])] == ["random"]
    twice = [changed(random, meta={**random.meta, "entry": f"nav/{study}/random"}) for study in ("a", "b")]
    assert [entry.label for entry in one_group(twice)] == ["a/random", "b/random"]
    variant = changed(random, meta={**random.meta, "entry": "nav/dense/random-slow"})
    assert [entry.label for entry in one_group([variant])] == ["random-slow"]
