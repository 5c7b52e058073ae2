"""Probes of beliefs: features whose parameters are known, and agents that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import metarl
from metarl.agent import Rollout
from metarl.evaluation.evaluate import evaluate
from metarl.evaluation.probe import parameters_of, probe_errors, probed_steps
from metarl.learning.random_play import RandomPlay

GOALS = metarl.make_family("metarl/PointNavigation-v0", horizon=5)


class Knower(RandomPlay):
    """Plays at random and holds, from step 3 of a trial on, the task's goal in a nonlinear form."""

    name = "knower"
    privileged = True

    def begin(self, rows: int, tasks: Any = None) -> dict[str, Tensor]:
        return super().begin(rows) | {"goal": tasks.tensors()["goal"], "t": torch.zeros(rows)}

    def act(self, state: Any, step: Any, rng: Any, deterministic: bool) -> Any:
        action, extras, state = super().act(state, step, rng, deterministic)
        x, y = state["goal"].unbind(-1)
        held = torch.stack([x + y, x * y, x - y], -1) * (state["t"] >= 3).unsqueeze(-1)
        return action, {**extras, "held": held.unsqueeze(1)}, {**state, "t": state["t"] + 1}

    def belief_features(self, rollouts: Sequence[Rollout]) -> Tensor:
        return torch.cat([rollout.extras["held"][:, :, 0] for rollout in rollouts])


def test_a_probe_reads_what_a_belief_holds_and_from_when_on() -> None:
    agent = Knower(GOALS, RandomPlay.Config())
    belief = evaluate(agent, k=2, num_tasks=50, trials=2, episodes=1).belief
    errors = belief["probe"]
    assert errors.shape == (1, 50, 10)
    before, after = errors[0, :, :3], errors[0, :, 3:]
    np.testing.assert_allclose(before, np.broadcast_to(before[:, :1], before.shape))  # the mean, always
    assert 0.7 < before.mean() < 1.3
    assert np.nanmax(after) < 0.05
    exact = belief["probe_exact"][0].mean(0)  # of random steps: their rewards tell how far the goal is
    np.testing.assert_allclose(exact[0], before.mean(), rtol=0.05)
    assert exact[1] > 0.5
    assert exact[2] < 0.6  # before the agent holds anything
    assert exact[9] < 0.01
    assert evaluate(agent, k=2, num_tasks=2, episodes=1).belief == {}  # 16 episodes are too few for a probe


def test_errors_of_a_known_line() -> None:
    """The line y = 2 x: known where x is shown; else the mean 0 is told and the error is y^2 / variance."""
    x = np.linspace(-1.0, 1.0, 41)
    train = np.stack([x, np.zeros(41), np.full(41, np.nan)], 1)[..., None]
    test = np.array([[0.5, 0.0, 0.0], [np.nan, 0.0, 0.0]])[..., None]
    truth, expected = 2 * x[:, None], np.array([[1.0], [-1.0]])
    errors = probe_errors(train, truth, test, expected)
    assert errors[0, 0] < 1e-3
    np.testing.assert_allclose(errors[:, 1], 1.0 / truth.var())
    assert np.isnan(errors[1, 0])  # the trial has no such step
    assert np.isnan(errors[:, 2]).all()  # no train trial has it


def test_features_beyond_those_of_train_trials_are_not_extrapolated() -> None:
    x = np.linspace(-1.0, 1.0, 41)[:, None, None]
    errors = probe_errors(x, 2 * x[:, 0], np.array([[[100.0]]]), np.array([[2.0]]))
    assert errors[0, 0] < 1e-3


def test_noise_is_not_learned() -> None:
    """30 features without meaning: the ridge that leaves one out keeps to the mean."""
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(60, 1, 30)), rng.normal(size=(500, 1, 30))
    truth, expected = rng.normal(size=(60, 1)), rng.normal(size=(500, 1))
    assert probe_errors(train, truth, test, expected).mean() < 1.5 * np.square(expected).mean()


def test_parameters_with_many_numbers_are_left_out() -> None:
    assert parameters_of(GOALS.tasks("test", 3)).shape == (3, 2)
    mdp = metarl.make_family("metarl/TabularMDP-v0").tasks("test", 3)
    np.testing.assert_allclose(parameters_of(mdp), mdp.values["reward"].reshape(3, 50))
    agent = metarl.make_agent("varibad", metarl.switching("metarl/GridNavi-v0"), hidden=8)
    assert evaluate(agent, k=2, num_tasks=42, episodes=1).belief == {}  # which of the tasks would be read?


def test_features_of_another_shape_are_named() -> None:
    class Last(Knower):
        def belief_features(self, rollouts: Sequence[Rollout]) -> Tensor:
            return super().belief_features(rollouts[-1:])

    with pytest.raises(metarl.InvalidValueError, match=r"shape of knower.belief_features\(rollouts\) .*\(10, 50, F\)"):
        evaluate(Last(GOALS, RandomPlay.Config()), k=2, num_tasks=50, episodes=1)


def test_long_trials_are_probed_at_some_steps() -> None:
    assert probed_steps(5).tolist() == [0, 1, 2, 3, 4]
    steps = probed_steps(4000)
    assert (len(steps), steps[0], steps[-1]) == (300, 0, 3999)
    long = metarl.make_family("metarl/PointNavigation-v0:semicircle", horizon=200)  # no episode ends early
    agent = metarl.make_agent("rl2", long, hidden=8)
    belief = evaluate(agent, k=2, num_tasks=30, episodes=1).belief
    for name in ("probe", "probe_exact"):
        assert belief[name].shape == (1, 30, 400)
        assert np.isfinite(belief[name]).all((0, 1)).nonzero()[0].tolist() == probed_steps(400).tolist()


def test_the_first_tasks_are_probed_in_any_batches_and_ood_tasks_have_no_exact_posterior() -> None:
    """Two seeds, 215 tasks in parts of 50 or at once."""
    family = metarl.make_family("metarl/GridNavi-v0", horizon=5)
    agents = [metarl.make_agent("rl2", family, seed=seed, hidden=8) for seed in range(2)]
    parts, whole = (evaluate(agents, k=1, num_tasks=215, episodes=1, rows_at_once=n).belief for n in (50, None))
    for name in ("probe", "probe_exact"):
        assert parts[name].shape == (2, 210, 5)
        np.testing.assert_allclose(parts[name], whole[name], atol=1e-6)
    far = evaluate(Knower(GOALS, RandomPlay.Config()), k=1, split="far", num_tasks=30, episodes=1).belief
    assert far.keys() == {"probe"}
