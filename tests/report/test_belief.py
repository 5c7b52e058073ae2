"""The figure of what agents believe shows the errors and the answers of the results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from made_results import bandit, make_results, page

from metarl.evaluation.intervals import mean_interval
from metarl.evaluation.results import Results
from metarl.report.entries import grouped
from metarl.report.figures.belief import belief_figure, draw_probe, lattice, stages


def believer(agent: str = "varibad", queries: int = 3, **changes: Any) -> Results:
    """A bandit's results with beliefs in trials of 3 steps; the last step was not played in every trial."""
    rng = np.random.default_rng(len(agent))
    error, prior = rng.uniform(0.1, 0.2, (2, 3, 3)), rng.uniform(0.3, 0.4, (2, 3, 3))
    error[0, 1, 2] = prior[0, 1, 2] = np.nan
    exact = np.array([[0.5] * queries, [0.25] * queries, [0.25] * queries])
    belief = {"error": error, "prior": prior, "exact": exact, "decoded": exact + 0.1}
    made = bandit(agent, belief=belief | changes)
    return Results(**{**vars(made), "meta": made.meta | {"belief": {"unit": "wrongness < 1"}}})


def test_curves_are_mean_errors_of_steps_that_every_trial_has() -> None:
    made = believer()
    figure = belief_figure([made, bandit("rl2")])
    assert figure is not None
    left, right = figure.axes
    error, prior = left.lines
    means = {name: made.belief[name][:, :, :2].mean((0, 1)) for name in ("error", "prior")}
    np.testing.assert_array_equal(error.get_xdata(), [1, 2])
    np.testing.assert_allclose(error.get_ydata(), means["error"])
    np.testing.assert_allclose(prior.get_ydata(), [*means["prior"], np.nan])
    low, high = mean_interval(made.belief["error"][:, :, :2])
    edge = [y for x, y in left.collections[0].get_paths()[0].vertices if x == 2]
    assert (min(edge), max(edge)) == (low[1], high[1])
    assert left.get_ylabel() == "wrongness < 1"
    exact, decoded = right.lines[2:4]  # the second query
    assert (exact.get_ydata().tolist(), exact.get_linestyle()) == ([0.5, 0.25, 0.25], "-")
    np.testing.assert_allclose(decoded.get_ydata(), [0.6, 0.35, 0.35])
    assert decoded.get_linestyle() == "--"


def test_many_queries_have_no_lines_and_points_have_maps() -> None:
    figure = belief_figure([believer(queries=8)])
    assert figure is not None
    assert len(figure.axes) == 1
    places = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    figure = belief_figure([believer(places=places)])
    assert figure is not None
    assert [ax.get_title() for ax in figure.axes[1:4]] == ["step 1", "step 2", "step 3"]
    assert len(figure.axes) == 7  # exact above, decoded below
    assert belief_figure([bandit()]) is None


def test_maps_show_answers_at_their_places() -> None:
    x, y, values = lattice(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]]), np.array([5.0, 6.0, 7.0]))
    assert (x.tolist(), y.tolist()) == ([-0.5, 0.5, 1.5], [-1.0, 1.0, 3.0])
    np.testing.assert_array_equal(values, [[5.0, 6.0], [7.0, np.nan]])


def test_maps_show_steps_at_which_the_exact_answers_have_changed() -> None:
    exact = np.repeat([0.0, 1.0, 1.0, 2.0, 3.0, 4.0, 5.0, 5.0, np.nan], 2).reshape(9, 2)
    assert stages(exact) == [0, 3, 4, 6, 7]  # of the changes 0, 1, 3, 4, 5, 6 four; and the last step that was played
    assert stages(np.zeros((3, 2))) == [0, 2]


def test_errors_of_a_probe_have_a_picture_of_their_own(tmp_path: Path) -> None:
    probed = bandit("varibad", belief={"probe": np.full((2, 3, 3), 0.5), "probe_exact": np.full((2, 3, 3), 0.25)})
    assert belief_figure([probed]) is None
    (ax,) = draw_probe(grouped([probed])[0]).axes
    assert [line.get_ydata()[0] for line in ax.lines] == [0.5, 0.25, 1.0]
    assert "by a regression that was fitted in train tasks" in page([probed], tmp_path)


def test_a_page_tells_the_mean_error_and_the_priors(tmp_path: Path) -> None:
    made = believer(agent="va<ri>bad")
    text = page([made, make_results("maml", "metarl/ToyBandit-v0")], tmp_path)
    error, prior = (float(np.nanmean(made.belief[name], -1).mean()) for name in ("error", "prior"))
    assert "What the agent believes" in text
    assert "given the same steps: wrongness &lt; 1." in text
    assert f"Mean over the trial: va&lt;ri&gt;bad {error:.3g} [" in text
    assert f", the prior {prior:.3g}." in text
    assert "What the agent believes" not in page([bandit()], tmp_path / "other")
