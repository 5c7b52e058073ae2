"""What inner loops differentiate: advantages, and estimators against the exact derivatives of an enumerable MDP."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete
from torch import Tensor

import metarl
from metarl.agent import Rollout
from metarl.agents.gradient.maml import MAML
from metarl.learning.gradient.meta_gradient import MetaObjective, inner_step
from metarl.learning.gradient.policy_gradient import ESTIMATORS, Batch, history, prepare, surrogate
from metarl.learning.gradient.trust_region import flatten
from metarl.learning.networks import Params

# --- estimators on samples -------------------------------------------------------------------------------------------


def hand_rollout(
    reward: Tensor, terminated: Tensor | None = None, truncated: Tensor | None = None, valid: Tensor | None = None
) -> Rollout:
    """A rollout `[T, R, E]` around given rewards; all rows and environments see the same."""
    none = torch.zeros_like(reward, dtype=torch.bool)
    obs = torch.randn(len(reward), 1, 1, 2, generator=torch.Generator().manual_seed(0), dtype=reward.dtype)
    obs = obs.repeat(1, *reward.shape[1:], 1)
    action = torch.randn(*reward.shape, 2, generator=torch.Generator().manual_seed(1), dtype=reward.dtype)
    return Rollout(
        obs,
        action,
        reward,
        none if terminated is None else terminated,
        none if truncated is None else truncated,
        torch.ones_like(none) if valid is None else valid,
        obs[-1],
    )


def ragged_rollout() -> Rollout:
    """12 steps of 2 rows and 3 environments: early ends, an episode cut by the sampler, one masked at last."""
    reward = torch.randn(12, 2, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    terminated, truncated = torch.zeros(2, 12, 2, 3, dtype=torch.bool)
    terminated[3, :, 0] = terminated[4, 0, 1] = terminated[6, 1, 2] = True
    truncated[9, :, 1] = truncated[11, :, 2] = True
    valid = torch.ones(12, 2, 3, dtype=torch.bool)
    valid[7:, 1, 2] = False
    return hand_rollout(reward, terminated, truncated, valid)


def same(x: Tensor) -> Tensor:
    return x


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_all_estimators_have_the_policy_gradient_where_the_batch_was_sampled(discount: float) -> None:
    batch = prepare(ragged_rollout(), same, discount, 1.0)
    at = torch.randn(batch.weight.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    expected = batch.advantage * batch.weight  # of the sum over samples, with respect to each log-probability
    assert (expected == 0).sum() == 5  # the masked ones
    for estimator, sampled in itertools.product(ESTIMATORS, (None, at)):
        log_prob = at.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(surrogate(estimator, log_prob, batch, sampled, discount), log_prob)
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


def test_away_from_the_sampling_policy_the_ratios_are_to_it() -> None:
    """By hand, one episode of two steps with log-ratios a and b: DiCE's is (e^a - 1) G_0 + (e^(a + b) - e^a) G_1."""
    a, b, to_go, value = 0.3, -0.5, torch.tensor([3.0, 2.0]), torch.tensor([0.5, 0.25])
    leaves = {"advantage": to_go - value, "weight": torch.tensor([0.5, 0.5]), "value": value}
    batch = Batch(
        x=torch.zeros(1, 2, 1),
        action=torch.zeros(1, 2),
        time=torch.tensor([[[0], [1]]]),
        mean_return=torch.tensor([3.0]),
        **{k: v.unsqueeze(0) for k, v in leaves.items()},
    )
    e = np.exp
    grown = np.array([e(a) - 1, e(a + b) - e(a)])
    expected = {
        "naive": 0.5 * ((0.1 + a) * 2.5 + (0.2 + b) * 1.75),
        "lvc": 0.5 * (e(a) * 2.5 + e(b) * 1.75),
        "dice": 0.5 * (grown @ [3.0, 2.0] + (1 - e(a)) * 0.5 + (1 - e(b)) * 0.25),
        "loaded_dice": 0.5 * (grown @ [2.5, 1.75]),
    }
    sampled = torch.tensor([[0.1, 0.2]])
    for estimator in ESTIMATORS:
        found = surrogate(estimator, sampled + torch.tensor([[a, b]]), batch, sampled)
        assert float(found) == pytest.approx(expected[estimator], rel=1e-5)


@pytest.mark.parametrize("decay", [1.0, 0.7, 0.0])
def test_history_against_a_plain_loop(decay: float) -> None:
    time = ragged_rollout().time.transpose(0, 1)
    assert time.max() == 11  # an episode that goes on from the first step to the last
    values = torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = torch.zeros_like(values)
    for r, t, e in itertools.product(range(2), range(12), range(3)):
        for s in range(t - int(time[r, t, e]), t + 1):
            expected[r, t, e] += decay ** (t - s) * values[r, s, e]
    torch.testing.assert_close(history(values.flatten(1), time, decay), expected.flatten(1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("whole_episodes", [False, True])
def test_thinned_batches_are_subsets_whose_weights_sum_to_one(whole_episodes: bool) -> None:
    batch = prepare(ragged_rollout(), same, 0.9, 1.0)
    assert batch.thinned(1, whole_episodes) is batch
    thin = batch.thinned(2, whole_episodes)
    t, e = torch.arange(12).repeat_interleave(3), torch.arange(3).repeat(12)
    keep = e % 2 == 0 if whole_episodes else (t + e) % 2 == 0
    for leaf in ("x", "action", "advantage", "value"):
        assert torch.equal(getattr(thin, leaf), getattr(batch, leaf)[:, keep])
    assert torch.equal(thin.time.flatten(1), batch.time.flatten(1)[:, keep])
    assert thin.time.shape == ((2, 12, 2) if whole_episodes else (2, 18, 1))
    assert torch.equal(thin.mean_return, batch.mean_return)
    torch.testing.assert_close(thin.weight.sum(1), torch.ones(2))
    assert torch.equal(thin.weight == 0, batch.weight[:, keep] == 0)
    if whole_episodes:  # each environment's episodes are whole: earlier actions of an episode are all there
        log_prob = torch.zeros_like(thin.weight, dtype=torch.float64).requires_grad_()
        (gradient,) = torch.autograd.grad(surrogate("dice", log_prob, thin, None, 0.9), log_prob)
        torch.testing.assert_close(gradient, thin.advantage * thin.weight, rtol=1e-6, atol=1e-9)
    else:  # all environments and times alike
        kept = keep.view(12, 3).double()
        assert kept.sum(0).tolist() == [6, 6, 6]
        assert set(kept.sum(1).tolist()) == {1.0, 2.0}


def test_log_probs_are_summed_over_action_dimensions() -> None:
    """Pitfall 8, through the inner loss: at mean 0 and deviation 1 by hand."""
    agent = metarl.make_agent("maml", "metarl/PointNavigation-v0", hidden=())
    params = {k: torch.zeros(1, *v.shape, dtype=torch.float64) for k, v in agent.theta.items()}
    batch = prepare(hand_rollout(torch.randn(7, 1, 1, generator=torch.Generator().manual_seed(3))), same, 0.9, 1.0)
    log_prob = (-0.5 * batch.action[0] ** 2 - 0.5 * np.log(2 * np.pi)).sum(-1)
    expected = -float((log_prob * batch.advantage[0] * batch.weight[0]).sum())
    assert agent.inner.loss(params, batch._replace(x=batch.x.double())).item() == pytest.approx(expected, rel=1e-5)


# --- estimators in expectation: an enumerable MDP (pitfall 3) --------------------------------------------------------


class TwoStates(metarl.TorchFamily):
    """Spaces alone: batches are enumerated below, not played."""

    observation_space = Discrete(2)
    action_space = Discrete(3)
    horizon = 3
    task_space: ClassVar = {"unused": metarl.Uniform(0.0, 1.0)}

    def reset(self, task: dict[str, Tensor], rng: metarl.Rng) -> Tensor:
        return torch.zeros_like(task["unused"], dtype=torch.int64)

    def observe(self, state: Tensor, task: dict[str, Tensor]) -> Tensor:
        return state

    def step(self, state: Tensor, action: Tensor, task: dict[str, Tensor], rng: metarl.Rng) -> Any:
        return state, torch.zeros_like(task["unused"]), torch.zeros_like(state, dtype=torch.bool)


class MDP(NamedTuple):
    """Two states, three actions; an episode may end with any step."""

    horizon: int
    begin: Tensor  # [2]
    move: Tensor  # [2, 3, 3], the last of the third axis is the end
    pay: Tensor  # [2, 3]

    @classmethod
    def random(cls, horizon: int) -> MDP:
        g = torch.Generator().manual_seed(3)
        draw = lambda *shape: torch.rand(*shape, generator=g, dtype=torch.float64)  # noqa: E731
        move = draw(2, 3, 3) * torch.tensor([1.0, 1.0, 0.2])
        return cls(horizon, torch.tensor([0.7, 0.3]).double(), move / move.sum(-1, keepdim=True), 3 * draw(2, 3))

    def value(self, agent: MAML, params: Params) -> Tensor:
        """J, by dynamic programming, differentiable in one row's parameters."""
        pi = agent.policy(params, torch.eye(2, dtype=torch.float64).unsqueeze(0)).logits.exp()[0]
        v = torch.zeros(2, dtype=torch.float64)
        for _ in range(self.horizon):
            v = (pi * (self.pay + self.move[..., :2] @ v)).sum(-1)
        return self.begin @ v

    def batch(self, agent: MAML, params: Params, discount: float = 1.0, baseline: float = 1.0) -> Batch:
        """Every trajectory that one row's policy can take, as an environment whose weight is its probability.

        Args:
            agent: whose policy.
            params: its parameters, one row.
            discount: of the advantages.
            baseline: factor on an arbitrary value of each state and time, which must not matter.
        """
        pi = agent.policy(params, torch.eye(2, dtype=torch.float64).unsqueeze(0)).logits.exp()[0].detach()
        paths: list[tuple[float, list[tuple[int, int]]]] = []

        def grow(p: float, state: int, path: list[tuple[int, int]]) -> None:
            for a in range(3):
                so_far, q = [*path, (state, a)], p * float(pi[state, a])
                if len(so_far) == self.horizon:
                    paths.append((q, so_far))
                    continue
                paths.append((q * float(self.move[state, a, 2]), so_far))
                for after in range(2):
                    grow(q * float(self.move[state, a, after]), after, so_far)

        for state in range(2):
            grow(float(self.begin[state]), state, [])
        shape = (self.horizon, len(paths))
        states, actions = torch.zeros(2, *shape, dtype=torch.int64)
        weight, reward = torch.zeros(2, *shape, dtype=torch.float64)
        for e, (p, path) in enumerate(paths):
            for t, (state, action) in enumerate(path):
                states[t, e], actions[t, e] = state, action
                weight[t, e], reward[t, e] = p, self.pay[state, action]
        assert float(weight[0].sum()) == pytest.approx(1.0)
        time = torch.arange(self.horizon).view(-1, 1).expand(shape)
        value = baseline * (weight > 0) * (1.0 + states - 0.3 * time)
        to_go = metarl.learning.returns.discounted_returns(reward, torch.zeros(shape, dtype=torch.bool), discount)
        leaves = [v.flatten().unsqueeze(0) for v in (actions, to_go - value, weight, value)]
        x = torch.nn.functional.one_hot(states.flatten(), 2).double().unsqueeze(0)
        return Batch(x, *leaves, time=time.unsqueeze(0), mean_return=torch.full((1,), torch.nan).double())


def tabular(estimator: str, **settings: Any) -> MAML:
    """A small network on one-hot states, in double precision, away from the uniform policy."""
    settings = {"hidden": (3,), "activation": "tanh", "inner_lr": 0.7, "discount": 1.0} | settings
    agent = metarl.make_agent("maml", TwoStates(), estimator=estimator, **settings)
    g = torch.Generator().manual_seed(11)
    agent.theta = {k: 0.8 * torch.randn(v.shape, generator=g, dtype=torch.float64) for k, v in agent.theta.items()}
    return agent


def one_row(params: Params) -> Params:
    return {k: v.detach().unsqueeze(0) for k, v in params.items()}


def hessian(agent: MAML, function: Any) -> Tensor:
    """`[P, P]`, at theta, of a function of one row's parameters."""
    at = lambda flat: function({k: v.unsqueeze(0) for k, v in views(flat, agent.theta).items()})  # noqa: E731
    return torch.autograd.functional.hessian(at, flatten(agent.theta))


def views(flat: Tensor, like: Params) -> Params:
    parts = torch.split(flat, [v.numel() for v in like.values()])
    return {k: p.view_as(v) for (k, v), p in zip(like.items(), parts, strict=True)}


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("horizon", [1, 2, 3])
def test_second_derivatives_in_expectation(estimator: str, horizon: int) -> None:
    agent, mdp = tabular(estimator), MDP.random(horizon)
    batch = mdp.batch(agent, one_row(agent.theta))
    exact = hessian(agent, lambda p: mdp.value(agent, p))
    ours = -hessian(agent, lambda p: agent.inner.loss(p, batch))
    unbiased = estimator in ("dice", "loaded_dice") or (estimator == "lvc" and horizon == 1)
    assert torch.allclose(ours, exact, rtol=1e-9, atol=1e-11) is unbiased
    if not unbiased:
        assert float((ours - exact).norm()) > 0.02 * float(exact.norm())


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("discount", [1.0, 0.5])
def test_rewards_that_no_action_changes_bend_nothing(estimator: str, discount: float) -> None:
    """Where nothing can be gained J is flat, with a discount too: each action's grad^2 pi / pi has mean 0."""
    agent, mdp = tabular(estimator, discount=discount), MDP.random(3)
    forever = mdp.move * torch.tensor([1.0, 1.0, 0.0])
    mdp = mdp._replace(move=forever / forever.sum(-1, keepdim=True), pay=torch.ones(2, 3, dtype=torch.float64))
    batch = mdp.batch(agent, one_row(agent.theta), discount, baseline=0.0)
    found = hessian(agent, lambda p: agent.inner.loss(p, batch))
    assert (float(found.norm()) < 1e-9) is (estimator != "naive")


def exact_meta_gradient(agent: MAML, mdp: MDP, steps: int) -> Tensor:
    """d/dtheta of J after `steps` exact gradient steps on J, by autograd, negated like a loss."""
    theta = {k: v.clone().requires_grad_() for k, v in agent.theta.items()}
    params = {k: v.unsqueeze(0) for k, v in theta.items()}
    for j in range(steps):
        grads = torch.autograd.grad(mdp.value(agent, params), list(params.values()), create_graph=True)
        lr = agent.schedule(j)
        params = {k: v + lr * g for (k, v), g in zip(params.items(), grads, strict=True)}
    return -flatten(dict(zip(theta, torch.autograd.grad(mdp.value(agent, params), list(theta.values())), strict=True)))


def expected_meta_gradient(agent: MAML, mdp: MDP, steps: int) -> Tensor:
    """Ours, on batches that hold every trajectory."""
    params, pre = one_row(agent.theta), []
    for j in range(steps):
        pre.append(mdp.batch(agent, params))
        params = inner_step(agent.inner, params, pre[-1], agent.inner.step_sizes(agent.theta, j))
    after = mdp.batch(agent, params)
    return MetaObjective(agent.inner, agent.make_outer_loss(after), agent.theta, pre, after).grad


@pytest.mark.parametrize("estimator", ["dice", "loaded_dice"])
@pytest.mark.parametrize(("horizon", "steps"), [(1, 1), (2, 1), (3, 1), (3, 2), (2, 0)])
def test_dice_has_the_exact_meta_gradient(estimator: str, horizon: int, steps: int) -> None:
    agent, mdp = tabular(estimator), MDP.random(horizon)
    exact = exact_meta_gradient(agent, mdp, steps)
    torch.testing.assert_close(expected_meta_gradient(agent, mdp, steps), exact, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("horizon", [1, 2, 3])
def test_lvc_is_exact_for_single_steps_and_nearer_than_naive_for_longer_episodes(horizon: int) -> None:
    mdp, exact = MDP.random(horizon), exact_meta_gradient(tabular("naive"), MDP.random(horizon), 1)
    naive, lvc = (
        float((expected_meta_gradient(tabular(name), mdp, 1) - exact).norm() / exact.norm())
        for name in ("naive", "lvc")
    )
    assert naive > 0.05
    assert lvc < 1e-9 if horizon == 1 else 1e-3 < lvc < 0.8 * naive


def test_the_meta_gradients_of_dice_do_not_depend_on_the_baseline() -> None:
    agent, mdp = tabular("dice"), MDP.random(3)
    for estimator in ("dice", "loaded_dice"):
        found = [
            hessian(
                agent,
                lambda p, b=b, e=estimator: surrogate(
                    e, agent.policy(p, b.x).log_prob(b.action), b, agent_log_prob(agent, b)
                ),
            )
            for b in (mdp.batch(agent, one_row(agent.theta), baseline=f) for f in (0.0, 5.0))
        ]
        torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-10)


def agent_log_prob(agent: MAML, batch: Batch) -> Tensor:
    return agent.policy(one_row(agent.theta), batch.x).log_prob(batch.action)


# --- advantages ------------------------------------------------------------------------------------------------------


def test_advantages_are_standardised_by_the_standard_deviation_per_row() -> None:
    """Pitfall 7: rewards of one row scaled by 100 give the same advantages; their standard deviation is 1."""
    base = torch.randn(50, 1, 1, generator=torch.Generator().manual_seed(2))
    end = torch.zeros(50, 2, 1, dtype=torch.bool)
    end[9::10] = True
    batch = prepare(hand_rollout(torch.cat([base, 100 * base], 1), truncated=end), same, 0.99, 1.0)
    torch.testing.assert_close(batch.advantage[0], batch.advantage[1], rtol=1e-3, atol=1e-3)
    assert float(batch.advantage[1].std(correction=0)) == pytest.approx(1.0, abs=1e-4)
    assert float(batch.advantage[1].mean()) == pytest.approx(0.0, abs=1e-5)


def test_baseline_time_restarts_with_each_episode() -> None:
    """Pitfall 9: a return that depends on the time in the episode alone is explained away by the baseline.

    Rewards of 1 for 10 steps, four episodes in a row: the return at time t is a smooth function of t, so advantages
    before standardising are (nearly) 0 everywhere only if t starts again at 0 with each episode.
    """
    reward = torch.ones(40, 1, 1)
    end = torch.zeros(40, 1, 1, dtype=torch.bool)
    end[9::10] = True
    rollout = hand_rollout(reward, truncated=end)
    rollout.obs.zero_()
    rollout.last_obs.zero_()
    value, _ = metarl.learning.returns.linear_baseline(
        rollout.obs, rollout.time, metarl.learning.returns.discounted_returns(reward, end, 1.0), rollout.valid
    )
    expected = torch.arange(10, 0, -1.0).repeat(4).view(40, 1, 1)  # 10 - t
    torch.testing.assert_close(value, expected, rtol=0, atol=0.02)
    assert prepare(rollout, same, 1.0, 1.0).advantage.abs().max() < 5


def test_an_episode_cut_by_the_sampler_goes_on_with_the_baselines_value() -> None:
    """Pitfall 13: rewards near 1, four episodes of 10 steps and one cut after 5.

    At time t the return to go of a whole episode is about 10 - t. The cut one has seen 5 - t of it; with the
    baseline's value of the rest (5) its advantages are noise like the others', without it they are 5 lower.
    """
    reward = 1.0 + 0.1 * torch.randn(45, 1, 1, generator=torch.Generator().manual_seed(3))
    end = torch.zeros(45, 1, 1, dtype=torch.bool)
    end[9:40:10] = True
    rollout = hand_rollout(reward, truncated=end)
    rollout.obs.zero_()
    rollout.last_obs.zero_()
    advantage = prepare(rollout, same, 1.0, 1.0).advantage[0]
    assert float(advantage[40:].mean().abs()) < 1.5
    terminated = hand_rollout(reward, terminated=end)  # an end is an end: neither kind bootstraps
    terminated.obs.zero_()
    terminated.last_obs.zero_()
    torch.testing.assert_close(prepare(terminated, same, 1.0, 1.0).advantage[0], advantage)


def test_masked_samples_have_no_weight_and_change_nothing() -> None:
    rollout = ragged_rollout()
    batch = prepare(rollout, same, 0.9, 1.0)
    rollout.reward[~rollout.valid] = 1e6
    rollout.obs[~rollout.valid] = -7.0
    again = prepare(rollout, same, 0.9, 1.0)
    for leaf in ("advantage", "weight", "value"):
        torch.testing.assert_close(getattr(again, leaf), getattr(batch, leaf), rtol=1e-9, atol=1e-9)
        assert (getattr(again, leaf)[1].view(12, 3)[7:, 2] == 0).all()
    torch.testing.assert_close(batch.weight.sum(1), torch.ones(2))
    torch.testing.assert_close(again.mean_return, batch.mean_return)


def test_rewards_to_go_minus_the_value_are_the_advantages() -> None:
    """With lambda 1, on one scale for a row: value + advantage is the reward to go by that scale."""
    rollout = ragged_rollout()
    batch = prepare(rollout, same, 0.9, 1.0)
    back = lambda values: values.view(2, 12, 3).transpose(0, 1)  # noqa: E731
    to_go = metarl.learning.returns.discounted_returns(rollout.reward, rollout.ended, 0.9)
    seen = rollout.valid & rollout.ended.flip(0).cummax(0).values.flip(0)  # the end of the episode, that is
    for row in range(2):
        scale = (back(batch.advantage + batch.value) / to_go)[:, row][seen[:, row]]
        torch.testing.assert_close(scale, scale[:1].expand_as(scale), rtol=1e-9, atol=1e-9)
        assert float(scale[0]) > 0


def test_rewards_that_do_not_differ_give_no_advantages() -> None:
    """What a float32 baseline leaves of a constant reward is rounding; standardised it would be a full-size step."""
    for reward in (1.0, 100.0):
        rollout = hand_rollout(torch.full((10, 1, 20), reward), truncated=torch.ones(10, 1, 20, dtype=torch.bool))
        assert float(prepare(rollout, same, 0.99, 1.0).advantage.abs().max()) < 0.1


def test_a_batch_of_rows_is_the_rows() -> None:
    rollout = ragged_rollout()
    both = prepare(rollout, same, 0.9, 0.95)
    for row in range(2):
        alone = prepare(rollout.rows(slice(row, row + 1)), same, 0.9, 0.95)
        for ours, theirs in zip(both.rows(torch.tensor([row])), alone, strict=True):
            torch.testing.assert_close(ours, theirs, equal_nan=True)
