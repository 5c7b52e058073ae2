"""Returns, advantages and the linear baseline against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

import metarl
from metarl.learning.returns import discounted_returns, gae, linear_baseline, linear_features, standardize
from metarl.rng import Rng


def flags(*values):
    return torch.tensor(values, dtype=torch.bool)


def test_discounted_returns_stop_at_an_ending_and_bootstrap_at_the_cut():
    # discount .5, an episode ends with the second step, 10 would follow the last:
    # G2 = 3 + .5 * 10 = 8, G1 = 2 (ended), G0 = 1 + .5 * 2 = 2
    reward = torch.tensor([1.0, 2.0, 3.0])
    g = discounted_returns(reward, flags(0, 1, 0), 0.5, torch.tensor(10.0))
    assert g.tolist() == [2.0, 2.0, 8.0]
    # without a last value nothing follows: G2 = 3
    assert discounted_returns(reward, flags(0, 1, 0), 0.5).tolist() == [2.0, 2.0, 3.0]
    # an ending at the last step refuses the bootstrap: G2 = 3
    assert discounted_returns(reward, flags(0, 1, 1), 0.5, torch.tensor(10.0)).tolist() == [2.0, 2.0, 3.0]


def test_discounted_returns_keep_slots_apart():
    # [T = 2, R = 1, E = 2]; environment 0 never ends: G0 = 1 + .9 * 2 = 2.8; environment 1 ends at once: G0 = 10
    reward = torch.tensor([[[1.0, 10.0]], [[2.0, 20.0]]])
    g = discounted_returns(reward, flags([[0, 1]], [[0, 0]]), 0.9)
    torch.testing.assert_close(g, torch.tensor([[[2.8, 10.0]], [[2.0, 20.0]]]))


# Three steps, the second ends an episode, .8 is the value of what follows the third; discount .9:
REWARD, VALUE, LAST = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 0.6, 0.7]), torch.tensor(0.8)
ENDED = flags(0, 1, 0)
# delta0 = 1 + .9 * .6 - .5 = 1.04, delta1 = 2 - .6 = 1.4, delta2 = 3 + .9 * .8 - .7 = 3.02
DELTA = torch.tensor([1.04, 1.4, 3.02])


def test_gae():
    # lambda .5: A2 = 3.02, A1 = 1.4 (ended), A0 = 1.04 + .45 * 1.4 = 1.67
    torch.testing.assert_close(gae(REWARD, VALUE, ENDED, 0.9, 0.5, LAST), torch.tensor([1.67, 1.4, 3.02]))


def test_gae_with_lambda_0_is_the_one_step_error():
    torch.testing.assert_close(gae(REWARD, VALUE, ENDED, 0.9, 0.0, LAST), DELTA)


def test_gae_with_lambda_1_is_the_return_minus_the_value():
    # G2 = 3 + .72 = 3.72, G1 = 2, G0 = 1 + 1.8 = 2.8
    expected = torch.tensor([2.8, 2.0, 3.72]) - VALUE
    torch.testing.assert_close(gae(REWARD, VALUE, ENDED, 0.9, 1.0, LAST), expected)


def test_gae_without_a_last_value_takes_the_cut_for_an_end():
    # delta2 = 3 - .7 = 2.3
    torch.testing.assert_close(gae(REWARD, VALUE, ENDED, 0.9, 0.5), torch.tensor([1.67, 1.4, 2.3]))


def test_standardize_divides_by_the_standard_deviation():
    # 1, 2, 3, 4 and 10 times as much: mean 2.5, variance 1.25, std 1.1180; -1.5 / 1.1180 = -1.3416 and
    # -.5 / 1.118 = -.4472. Divided by the variance, the rows would begin with -1.2 and -.12.
    x = torch.tensor([[[1.0, 2.0], [10.0, 20.0]], [[3.0, 4.0], [30.0, 40.0]]])  # [T = 2, R = 2, E = 2]
    out = standardize(x, torch.ones_like(x, dtype=torch.bool))
    expected = torch.tensor([[-1.3416, -0.4472], [0.4472, 1.3416]])
    for row in range(2):
        torch.testing.assert_close(out[:, row], expected, atol=1e-4, rtol=0)


def test_standardize_ignores_masked_samples():
    # the row's valid samples are 1 and 3: mean 2, std 1
    x = torch.tensor([1.0, 3.0, 1e6]).view(3, 1, 1)
    out = standardize(x, flags(1, 1, 0).view(3, 1, 1)).flatten()
    torch.testing.assert_close(out, torch.tensor([-1.0, 1.0, 0.0]))


def test_standardize_survives_rows_without_spread_or_samples():
    zeros = torch.zeros(4, 2, 1)
    valid = torch.ones(4, 2, 1, dtype=torch.bool)
    valid[:, 1] = False
    assert (standardize(zeros, valid) == 0).all()


@pytest.mark.parametrize("value", [0.1, 100.1])
def test_standardize_keeps_a_constant_row_at_zero(value):
    x = torch.full((7, 1, 1), value)
    assert standardize(x, torch.ones_like(x, dtype=torch.bool)).abs().max() < 1e-3


def test_linear_features():
    # obs 2 and -30 (clipped to -10), time 50 = .5 hundreds: o, o^2, t, t^2, t^3, 1
    features = linear_features(torch.tensor([2.0, -30.0]), torch.tensor(50))
    assert features.tolist() == [2.0, -10.0, 4.0, 100.0, 0.5, 0.25, 0.125, 1.0]


def noise(*shape):
    return Rng(torch.tensor([11])).uniform(*shape)[0] * 4.0 - 2.0


def test_linear_baseline_recovers_a_linear_target():
    # two rows with other coefficients: o, o^2, t, t^2, t^3, 1 for one observation
    obs, time = noise(40, 2, 3, 1), torch.arange(40).view(-1, 1, 1).expand(40, 2, 3)
    coef = torch.tensor([[1.0, -2.0, 3.0, 0.5, -1.0, 4.0], [0.0, 1.0, -1.0, 2.0, 0.0, -5.0]])
    target = (linear_features(obs, time) * coef.view(1, 2, 1, 6)).sum(-1)
    values, found = linear_baseline(obs, time, target, torch.ones(40, 2, 3, dtype=torch.bool))
    torch.testing.assert_close(values, target, atol=1e-3, rtol=0)
    torch.testing.assert_close(found[:, [0, 1, 5]], coef[:, [0, 1, 5]], atol=1e-2, rtol=0)


def test_linear_baseline_ignores_masked_samples():
    obs, time = noise(40, 1, 1, 1), torch.arange(40).view(-1, 1, 1)
    target = 3.0 * obs[..., 0] + 1.0
    valid = (torch.arange(40) < 30).view(-1, 1, 1)
    spoiled = torch.where(valid, target, torch.full_like(target, 1e4))
    junk = torch.where(valid.unsqueeze(-1), obs, torch.full_like(obs, 7.0))
    values, coef = linear_baseline(junk, time, spoiled, valid)
    clean, clean_coef = linear_baseline(obs[:30], time[:30], target[:30], valid[:30])
    torch.testing.assert_close(coef, clean_coef)
    torch.testing.assert_close(values[:30], clean)
    torch.testing.assert_close(clean, target[:30], atol=1e-3, rtol=0)
    assert values[30:].isfinite().all()


def test_linear_baseline_fits_rows_apart():
    obs, time = noise(30, 2, 1, 1), torch.arange(30).view(-1, 1, 1).expand(30, 2, 1)
    target = obs[..., 0] * torch.tensor([[1.0], [-8.0]])
    values, _ = linear_baseline(obs, time, target, torch.ones(30, 2, 1, dtype=torch.bool))
    torch.testing.assert_close(values, target, atol=1e-3, rtol=0)


def test_linear_baseline_is_defined_where_features_coincide():
    # a constant observation makes the features dependent; the ridge decides
    obs, time = torch.ones(5, 1, 1, 2), torch.zeros(5, 1, 1, dtype=torch.int64)
    values, coef = linear_baseline(obs, time, torch.full((5, 1, 1), 2.0), torch.ones(5, 1, 1, dtype=torch.bool))
    torch.testing.assert_close(values, torch.full((5, 1, 1), 2.0), atol=1e-4, rtol=0)
    assert coef.isfinite().all()


def test_the_time_feature_restarts_with_each_episode(counting):
    # A reward of -1 a step leaves "steps to go" as the return: linear in the time of the episode (lengths are equal),
    # and a saw-tooth in the time of the rollout, which a cubic cannot follow.
    family = counting(horizon=10)
    tasks = family.make_tasks(length=10.0, bonus=0.0)
    agent = metarl.make_agent("random", family)
    trials = metarl.engine.rollout.PoolTrials(metarl.engine.pool.EnvironmentPool(family), tasks)
    rollout, _ = trials.collect(agent, agent.begin(1), 0, metarl.Budget(steps=60))
    g = discounted_returns(-torch.ones_like(rollout.reward), rollout.ended, 1.0)
    assert g.flatten()[:12].tolist() == [-10, -9, -8, -7, -6, -5, -4, -3, -2, -1, -10, -9]
    blind = torch.zeros_like(rollout.obs)
    values, _ = linear_baseline(blind, rollout.time, g, rollout.valid)
    torch.testing.assert_close(values, g, atol=1e-2, rtol=0)
    running = torch.arange(60).view(-1, 1, 1)
    values, _ = linear_baseline(blind, running, g, rollout.valid)
    assert (values - g).square().mean() > 4.0  # the variance of 1, ..., 10 is 8.25


def test_too_few_samples_leave_the_observations_out():
    # 2 * 3 + 4 = 10 features: 9 samples are fitted on time alone, 10 on everything
    obs, time = torch.randn(10, 2, 1, 3), 10 * torch.arange(10.0).view(10, 1, 1).expand(10, 2, 1)
    target = torch.randn(10, 2, 1)
    valid = torch.ones(10, 2, 1, dtype=torch.bool)
    valid[9, 1] = False  # one row has a sample less
    values, coef = linear_baseline(obs, time, target, valid)
    assert (coef[0, :6] != 0).all()
    assert (coef[1, :6] == 0).all()
    assert (coef[1, 6:] != 0).all()
    alone, its = linear_baseline(obs[:9], time[:9], target[:9], valid[:9])
    torch.testing.assert_close(its[1], coef[1])
    assert (its[0, :6] == 0).all()
    torch.testing.assert_close(alone[:, 1], values[:9, 1])
    cubic = time / 100 - (time / 100) ** 3
    fitted, _ = linear_baseline(obs[:9], time[:9], cubic[:9], valid[:9], ridge=1e-9)
    torch.testing.assert_close(fitted, cubic[:9], atol=1e-4, rtol=0)
