"""Models that transitions adapt, and planning with them: by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gymnasium import spaces
from torch import Tensor

import metarl
from metarl.agent import (
    GradientModel,
    PlanConfig,
    Planner,
    PolicyHead,
    Prediction,
    RecurrentModel,
    Rng,
    TransitionLayout,
    mlp,
)

LAYOUT = TransitionLayout(
    metarl.make_family("metarl/PointNavigation-v0"), "test"
)  # [x, y, a, b, reward, dx, dy, flags]
RNG = Rng(torch.tensor([3]))


def transitions(rows: int, steps: int, seed: int = 0) -> Tensor:
    """Random numbers, all flags but that of the end set: `[R, T, size]`."""
    made = Rng(torch.arange(rows) + seed).normal(steps, LAYOUT.size)
    made[..., LAYOUT.known] = made[..., LAYOUT.valid] = 1.0
    made[..., LAYOUT.terminated] = 0.0
    return made


def models() -> list[GradientModel | RecurrentModel]:
    return [GradientModel(LAYOUT, (6,), 0.1, RNG), RecurrentModel(LAYOUT, (6,), 5, RNG)]


def test_a_gradient_step_by_hand() -> None:
    """Each row's own parameters are theta minus the tensor's size times the gradient of its own mean error."""
    model, past = GradientModel(LAYOUT, (6,), 0.1, RNG), transitions(3, 4)
    past[1, :2] = 0.0  # the trial is only two transitions old
    past[2, :, LAYOUT.terminated] = past[0, 1, LAYOUT.terminated] = 1.0
    past[2, 3, LAYOUT.known] = 0.0
    with torch.no_grad():
        model.sizes["b1"].fill_(0.5)
        found = model.adapted(past)
    for row, first in ((0, 0), (1, 2), (2, 0)):
        theta = {k: v.detach().requires_grad_() for k, v in model.layers.items()}
        error = torch.zeros(())
        for step in past[row, first:]:
            out = mlp(theta, step[:4])
            error = error + (out[2] - step[4]).square()
            error = error + (out[:2] - step[5:7]).square().mean() * step[LAYOUT.known]
            chance = out[3].sigmoid()
            error = error - torch.log(chance if step[LAYOUT.terminated] else 1.0 - chance)
        grads = torch.autograd.grad(error / (4 - first), list(theta.values()))
        for (name, value), grad in zip(theta.items(), grads, strict=True):
            expected = value - (0.5 if name == "b1" else 0.1) * grad
            torch.testing.assert_close(found[name][row], expected.detach())


def test_without_a_past_the_model_is_the_shared_one() -> None:
    for model in models():
        found = model.adapted(torch.zeros(2, 4, LAYOUT.size))
        x = torch.ones(2, 1, 2)
        first, second = model.predict(found, x, x).obs.detach()
        assert torch.equal(first, second)
    gradient = models()[0]
    for name, value in gradient.adapted(torch.zeros(2, 4, LAYOUT.size)).items():
        assert torch.equal(value[1], gradient.layers[name])


@pytest.mark.parametrize("which", [0, 1])
def test_the_losss_gradient_goes_through_the_adaptation(which: int) -> None:
    """By finite differences of every parameter, also of step sizes and the GRU's weights."""
    model: Any = models()[which].double()
    past, future = transitions(2, 3).double(), transitions(2, 5, seed=7).double()
    names, params = zip(*model.named_parameters(), strict=True)
    grads = torch.autograd.grad(model.loss(past, future), params)
    for name, param, grad in zip(names, params, grads, strict=True):
        for at in {0, param.numel() // 2, param.numel() - 1}:
            flat = param.detach().view(-1)
            ends = []
            for change in (1e-6, -2e-6):
                flat[at] += change
                ends.append(model.loss(past, future).item())
            flat[at] += 1e-6
            assert grad.reshape(-1)[at].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-8), name


def test_predictions_are_in_the_units_of_what_was_seen() -> None:
    """With an output of 1 everywhere: a standard deviation above the mean; the rewards are 1 and 5, dx 0 and 2."""
    for model in models():
        seen = transitions(1, 2)
        seen[0, :, LAYOUT.reward] = torch.tensor([[1.0], [5.0]])
        seen[0, :, LAYOUT.change] = torch.tensor([[0.0, 3.0], [2.0, 3.0]])
        missing = torch.full_like(seen, 9.0)
        missing[..., LAYOUT.valid] = 0.0
        model.see(torch.cat([seen, missing], 1))
        with torch.no_grad():
            model.layers["w1"].zero_()
            model.layers["b1"].fill_(1.0)
            params = model.adapted(torch.zeros(1, 3, LAYOUT.size))
            told = model.predict(params, torch.full((1, 1, 2), 0.5), torch.zeros(1, 1, 2))
        torch.testing.assert_close(told.reward, torch.tensor([[3.0 + 2.0]]))
        torch.testing.assert_close(told.obs, torch.tensor([[[0.5 + 1.0 + 1.0, 0.5 + 3.0]]]), atol=2e-4, rtol=0)
        torch.testing.assert_close(told.ends, torch.tensor([[1.0]]).sigmoid())


def test_a_model_reads_all_of_its_past_and_no_other_row() -> None:
    for model in models():
        past, x = transitions(3, 4), torch.zeros(3, 1, 2)
        before = model.predict(model.adapted(past), x, x).reward
        for step in range(4):
            other = past.clone()
            other[1, step] += 1.0
            after = model.predict(model.adapted(other), x, x).reward
            assert (before != after).squeeze(1).tolist() == [False, True, False]


# --- planning --------------------------------------------------------------------------------------------------------


def planner(space: spaces.Space[Any], **settings: Any) -> Planner:
    config = PlanConfig(**({"plan_steps": 3, "candidates": 200, "elites": 20, "plan_iterations": 5} | settings))
    return Planner("test", PolicyHead(space, "test"), config)


def test_returns_by_hand() -> None:
    """Rewards are the observation before each step, which grows by the action; half of all trials end with a step."""
    plan = planner(spaces.Box(-1.0, 1.0, (1,)))

    def predict(obs: Tensor, action: Tensor) -> Prediction:
        return Prediction(obs + action, obs[..., 0], torch.full(obs.shape[:2], 0.5))

    actions = torch.tensor([[[[1.0], [2.0], [9.0]], [[0.0], [0.0], [9.0]], [[torch.nan], [0.0], [0.0]]]])
    found = plan.returns(predict, torch.tensor([[4.0]]), actions)
    # 4 + 5 / 2 + 7 / 4, and 4 + 4 / 2 + 4 / 4; what is not a number is the worst
    assert found.tolist() == [[8.25, 7.0, -torch.inf]]


def test_a_plan_reaches_its_goal() -> None:
    """Positions are moved by at most 1 a step: to 0.3 at once, and to 2.5 in three steps of 1, 1 and 0.5."""
    plan = planner(spaces.Box(-1.0, 1.0, (1,)))
    goal = torch.tensor([[0.3], [2.5]])

    def predict(obs: Tensor, action: Tensor) -> Prediction:
        after = obs + action
        return Prediction(after, -(after[..., 0] - goal).square(), torch.zeros(obs.shape[:2]))

    mean, std = plan.plan(predict, torch.zeros(2, 1), plan.begin(2, torch.device("cpu")), Rng(torch.arange(2)))
    assert (mean[..., 0] - torch.tensor([[0.3, 0.0, 0.0], [1.0, 1.0, 0.5]])).abs().max() < 0.2
    assert (std >= 0.05).all()
    assert torch.equal(plan.later(mean), torch.cat([mean[:, 1:], torch.zeros(2, 1, 1)], 1))


def test_discrete_actions_are_planned_by_preferences() -> None:
    plan = planner(spaces.Discrete(3))

    def predict(obs: Tensor, action: Tensor) -> Prediction:
        assert ((action == 1.0).sum(-1) == 1).all()  # one-hot
        return Prediction(obs, action[..., 2] - action[..., 0], torch.zeros(obs.shape[:2]))

    mean, _ = plan.plan(predict, torch.zeros(2, 1), plan.begin(2, torch.device("cpu")), Rng(torch.arange(2)))
    assert (mean.argmax(-1) == 2).all()


def test_more_elites_than_candidates_are_refused() -> None:
    with pytest.raises(metarl.InvalidValueError, match=r"test\.elites is 300, .* candidates, which is 200"):
        planner(spaces.Discrete(3), elites=300)
