"""MAML: meta-gradients against exact ones and finite differences, and a planted bug for each pitfall it can have."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

import metarl
from metarl.agents.maml import MAML, Batch, _Chunk
from metarl.evaluation import evaluate
from metarl.networks import Params
from metarl.rollout import Rollout, SlotPool, Step, Trials
from metarl.trust_region import conjugate_gradient, flatten, unflatten


class TwoArms(metarl.TorchFamily):
    """A bandit of Discrete arms with a constant observation: small enough to enumerate."""

    observation_space = Box(0.0, 1.0, (1,), np.float32)
    action_space = Discrete(4)
    horizon = 1
    terminates = False
    task_space: ClassVar = {"pay": metarl.Uniform(0.0, 1.0, (4,))}

    def reset(self, task: dict[str, Tensor], rng: metarl.Rng) -> Tensor:
        return torch.ones_like(task["pay"][:, :1])

    def observe(self, state: Tensor, task: dict[str, Tensor]) -> Tensor:
        return state

    def step(self, state: Tensor, action: Tensor, task: dict[str, Tensor], rng: metarl.Rng) -> Any:
        reward = task["pay"].gather(1, action.unsqueeze(1)).squeeze(1)
        return state, reward, torch.zeros_like(reward, dtype=torch.bool)


def double(agent: MAML) -> MAML:
    """The agent in double precision, for comparisons with finite differences."""
    agent.theta = {k: v.double() for k, v in agent.theta.items()}
    return agent


def point_agent(**overrides: Any) -> MAML:
    settings = {"hidden": (8, 8), "activation": "tanh", "inner_lr": 0.3, "meta_batch_size": 3, "episodes": 4}
    return double(metarl.make_agent("maml", "metarl/PointNavigation-v0", **(settings | overrides)))


def random_batch(agent: MAML, rows: int, samples: int, seed: int) -> Batch:
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    action = draw(rows, samples, 2)
    if agent.head.discrete:
        action = torch.randint(agent.head.size, (rows, samples), generator=g)
    weight = torch.full((rows, samples), 1.0 / samples, dtype=torch.float64)
    return Batch(draw(rows, samples, agent.encode.size), action, draw(rows, samples), weight)


def post_loss(agent: MAML, theta: Params, pre: list[Batch], post: Batch, old: Tensor) -> Tensor:
    """The post-adaptation surrogate, mean over rows, by plain differentiation through the inner steps."""
    total = torch.zeros((), dtype=torch.float64)
    for row in range(len(post.x)):
        one = slice(row, row + 1)
        params = {k: v.unsqueeze(0) for k, v in theta.items()}
        for j, batch in enumerate(pre):
            grads = torch.autograd.grad(
                agent.inner_loss(params, batch.rows(one)), list(params.values()), create_graph=True
            )
            lr = agent.config.inner_lr * (agent.config.later_lr_factor if j else 1.0)
            params = {k: v - lr * g for (k, v), g in zip(params.items(), grads, strict=True)}
        log_prob = agent.policy(params, post.rows(one).x).log_prob(post.rows(one).action)
        total = total - (torch.exp(log_prob - old[one]) * post.rows(one).advantage * post.rows(one).weight).sum()
    return total / len(post.x)


def meta_gradient(agent: MAML, pre: list[Batch], post: Batch) -> tuple[Tensor, _Chunk]:
    chunk = _Chunk(agent, agent.theta, pre, post)
    return chunk.pull_back(chunk.loss_grad).sum(0) / len(post.x), chunk


@pytest.mark.parametrize("estimator", ["naive", "lvc"])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_meta_gradient_equals_plain_differentiation_and_finite_differences(estimator: str, steps: int) -> None:
    agent = point_agent(estimator=estimator)
    pre = [random_batch(agent, 3, 20, seed) for seed in range(steps)]
    post = random_batch(agent, 3, 20, 99)
    ours, chunk = meta_gradient(agent, pre, post)
    leaves = {k: v.clone().requires_grad_() for k, v in agent.theta.items()}
    loss = post_loss(agent, leaves, pre, post, chunk.old_log_prob)
    exact = flatten(dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True)))
    torch.testing.assert_close(ours, exact, rtol=1e-9, atol=1e-12)
    if estimator == "naive":  # a ratio to a stopped copy is 1 whatever theta: finite differences cannot see through it
        direction = torch.randn(len(ours), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        flat, eps = flatten(agent.theta), 1e-5
        up, down = (
            post_loss(
                agent, requires(unflatten(flat + s * direction, agent.theta)), pre, post, chunk.old_log_prob
            ).item()
            for s in (eps, -eps)
        )
        assert (up - down) / (2 * eps) == pytest.approx(float(ours @ direction), rel=1e-6)


@pytest.mark.parametrize("estimator", ["naive", "lvc"])
def test_the_line_search_tests_the_function_whose_gradient_it_follows(estimator: str) -> None:
    """With the sampling policy held fixed, finite differences of `evaluate` equal the meta-gradient, for LVC too."""
    agent = point_agent(estimator=estimator)
    pre, post = [random_batch(agent, 3, 20, s) for s in (0, 1)], random_batch(agent, 3, 20, 99)
    ours, chunk = meta_gradient(agent, pre, post)
    direction = torch.randn(len(ours), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    flat, eps = flatten(agent.theta), 1e-5
    up, down = (chunk.evaluate(unflatten(flat + s * direction, agent.theta))[0].item() for s in (eps, -eps))
    assert (up - down) / (2 * eps) / 3 == pytest.approx(float(ours @ direction), rel=1e-6)


def requires(params: Params) -> Params:
    return {k: v.requires_grad_() for k, v in params.items()}


def test_first_order_drops_the_second_derivatives_and_nothing_else() -> None:
    agent, first = point_agent(), point_agent(first_order=True)
    pre, post = [random_batch(agent, 3, 20, 0)], random_batch(agent, 3, 20, 99)
    second_order, _ = meta_gradient(agent, pre, post)
    first_order, chunk = meta_gradient(first, pre, post)
    torch.testing.assert_close(first_order, chunk.loss_grad.sum(0) / 3)  # Finn et al., section 5.2: grad at theta'
    assert float((second_order - first_order).norm()) > 0.05 * float(first_order.norm())


def test_fisher_vector_product_is_the_hessian_of_the_post_adaptation_kl() -> None:
    agent = point_agent()
    pre, post = [random_batch(agent, 2, 15, s) for s in (0, 1)], random_batch(agent, 2, 15, 99)
    chunk = _Chunk(agent, agent.theta, pre, post)
    v = torch.randn(len(flatten(agent.theta)), generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def kl(flat: Tensor) -> float:
        return float(chunk.evaluate(unflatten(flat, agent.theta))[1])

    # KL is 0 with gradient 0 at theta: KL(theta + e v) = e^2 / 2 v' F v + O(e^3), odd terms cancel in the mean
    flat, eps = flatten(agent.theta), 1e-3
    curvature = (kl(flat + eps * v) + kl(flat - eps * v)) / eps**2
    assert float(v @ chunk.fisher_vector(v)) == pytest.approx(curvature, rel=1e-3)
    w = torch.randn(len(v), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert float(w @ chunk.fisher_vector(v)) == pytest.approx(float(v @ chunk.fisher_vector(w)), rel=1e-8)  # symmetric


def test_kl_is_of_the_adapted_policies_not_of_the_initial_ones() -> None:
    """Pitfall 15: with a large inner step the two differ much; the reported KL must be the first."""
    agent = point_agent(inner_lr=5.0)
    pre, post = [random_batch(agent, 3, 20, 0)], random_batch(agent, 3, 20, 99)
    chunk = _Chunk(agent, agent.theta, pre, post)
    moved = unflatten(flatten(agent.theta) + 0.05, agent.theta)
    reported = float(chunk.evaluate(moved)[1])
    by_hand, initial = 0.0, 0.0
    for row in range(3):
        one = slice(row, row + 1)
        stage = torch.zeros(1, dtype=torch.int64)
        before, after = (
            agent.policy(
                agent._inner_step({k: v.unsqueeze(0) for k, v in t.items()}, pre[0].rows(one), stage), post.rows(one).x
            )
            for t in (agent.theta, moved)
        )
        by_hand += float(before.kl(after).mean())
        plain = [
            agent.policy({k: v.unsqueeze(0) for k, v in t.items()}, post.rows(one).x) for t in (agent.theta, moved)
        ]
        initial += float(plain[0].kl(plain[1]).mean())
    assert reported == pytest.approx(by_hand, rel=1e-9)
    assert abs(reported - initial) > 0.05 * initial


# --- the exact meta-gradient of an enumerable MDP (pitfall 3) --------------------------------------------------------


def exact_bandit_meta_gradient(logits: Tensor, pay: Tensor, lr: float) -> Tensor:
    """d/dtheta J(theta + lr * grad J(theta)) for J(theta) = sum_a softmax(theta)_a pay_a, by autograd."""
    theta = logits.clone().requires_grad_()
    value = (torch.softmax(theta, -1) * pay).sum()
    (g,) = torch.autograd.grad(value, theta, create_graph=True)
    adapted = (torch.softmax(theta + lr * g, -1) * pay).sum()
    return torch.autograd.grad(adapted, theta)[0]


@pytest.mark.parametrize(("estimator", "unbiased"), [("lvc", True), ("naive", False)])
def test_estimators_against_the_exact_meta_gradient(estimator: str, unbiased: bool) -> None:
    """All trajectories summed: with a uniform policy each of 4 arms once is the exact expectation before adapting.

    After adapting, arm a has weight pi'(a). The credit that sampling before adaptation earns is the term
    grad log pi grad log pi' of the Hessian: LVC keeps it, the naive estimator drops it.
    """
    agent = double(metarl.make_agent("maml", TwoArms(), hidden=(), estimator=estimator, inner_lr=2.0))
    agent.theta = {k: torch.zeros_like(v) for k, v in agent.theta.items()}
    pay = torch.tensor([0.9, 0.1, 0.4, 0.2], dtype=torch.float64)
    x = torch.ones(1, 4, 1, dtype=torch.float64)
    arms = torch.arange(4).unsqueeze(0)
    pre = Batch(x, arms, pay.unsqueeze(0), torch.full((1, 4), 0.25, dtype=torch.float64))
    adapted = agent._inner_step(
        {k: v.unsqueeze(0) for k, v in agent.theta.items()}, pre, torch.zeros(1, dtype=torch.int64)
    )
    weight = agent.policy(adapted, x).logits.exp()[:, 0]
    ours, _ = meta_gradient(agent, [pre], Batch(x, arms, pay.unsqueeze(0), weight))
    # with x = 1 both w and b reach the logits alike: logits = w + b, so the step on the logits is twice the step on b
    exact = -exact_bandit_meta_gradient(torch.zeros(4, dtype=torch.float64), pay, lr=2 * 2.0)
    ours_bias = unflatten(ours, agent.theta)["b0"]
    assert torch.allclose(ours_bias, exact, rtol=1e-9, atol=1e-12) is unbiased
    assert float(torch.cosine_similarity(ours_bias, exact, dim=0)) > 0.5


# --- advantages ----------------------------------------------------------------------------------------------------


def hand_rollout(reward: Tensor, terminated: Tensor | None = None, truncated: Tensor | None = None) -> Rollout:
    """A rollout `[T, R, 1]` around given rewards."""
    none = torch.zeros_like(reward, dtype=torch.bool)
    obs = torch.randn(len(reward), 1, 1, 2, generator=torch.Generator().manual_seed(0)).repeat(1, *reward.shape[1:], 1)
    action = torch.randn(*reward.shape, 2, generator=torch.Generator().manual_seed(1))
    valid = torch.ones_like(none)
    return Rollout(
        obs,
        action,
        reward,
        none if terminated is None else terminated,
        none if truncated is None else truncated,
        valid,
        obs[-1],
    )


def test_advantages_are_standardised_by_the_standard_deviation_per_row() -> None:
    """Pitfall 7: rewards of one row scaled by 100 give the same advantages; their standard deviation is 1."""
    agent = metarl.make_agent("maml", "metarl/PointNavigation-v0")
    base = torch.randn(50, 1, 1, generator=torch.Generator().manual_seed(2))
    end = torch.zeros(50, 2, 1, dtype=torch.bool)
    end[9::10] = True
    batch = agent.prepare(hand_rollout(torch.cat([base, 100 * base], 1), truncated=end))
    torch.testing.assert_close(batch.advantage[0], batch.advantage[1], rtol=1e-3, atol=1e-3)
    assert float(batch.advantage[1].std(correction=0)) == pytest.approx(1.0, abs=1e-4)
    assert float(batch.advantage[1].mean()) == pytest.approx(0.0, abs=1e-5)


def test_baseline_time_restarts_with_each_episode() -> None:
    """Pitfall 9: a return that depends on the time in the episode alone is explained away by the baseline.

    Rewards of 1 for 10 steps, four episodes in a row: the return at time t is a smooth function of t, so advantages
    before standardising are (nearly) 0 everywhere only if t starts again at 0 with each episode.
    """
    agent = metarl.make_agent("maml", "metarl/PointNavigation-v0", discount=1.0)
    reward = torch.ones(40, 1, 1)
    end = torch.zeros(40, 1, 1, dtype=torch.bool)
    end[9::10] = True
    rollout = hand_rollout(reward, truncated=end)
    rollout.obs.zero_()
    rollout.last_obs.zero_()
    value, _ = metarl.returns.linear_baseline(
        rollout.obs, rollout.time, metarl.returns.discounted_returns(reward, end, 1.0), rollout.valid
    )
    expected = torch.arange(10, 0, -1.0).repeat(4).view(40, 1, 1)  # 10 - t
    torch.testing.assert_close(value, expected, rtol=0, atol=0.02)
    assert agent.prepare(rollout).advantage.abs().max() < 5


def test_an_episode_cut_by_the_sampler_goes_on_with_the_baselines_value() -> None:
    """Pitfall 13: rewards near 1, four episodes of 10 steps and one cut after 5.

    At time t the return to go of a whole episode is about 10 - t. The cut one has seen 5 - t of it; with the
    baseline's value of the rest (5) its advantages are noise like the others', without it they are 5 lower.
    """
    agent = metarl.make_agent("maml", "metarl/PointNavigation-v0", discount=1.0)
    reward = 1.0 + 0.1 * torch.randn(45, 1, 1, generator=torch.Generator().manual_seed(3))
    end = torch.zeros(45, 1, 1, dtype=torch.bool)
    end[9:40:10] = True
    rollout = hand_rollout(reward, truncated=end)
    rollout.obs.zero_()
    rollout.last_obs.zero_()
    advantage = agent.prepare(rollout).advantage[0]
    assert float(advantage[40:].mean().abs()) < 1.5
    terminated = hand_rollout(reward, terminated=end)  # an end is an end: neither kind bootstraps
    terminated.obs.zero_()
    terminated.last_obs.zero_()
    torch.testing.assert_close(agent.prepare(terminated).advantage[0], advantage)


def test_log_probs_are_summed_over_action_dimensions() -> None:
    """Pitfall 8, through the inner loss: two equal dimensions give twice the loss of one."""
    agent = point_agent(hidden=())
    agent.theta = {k: torch.zeros_like(v) for k, v in agent.theta.items()}
    batch = random_batch(agent, 1, 7, 0)
    z = batch.action[0]
    log_prob = (-0.5 * z**2 - 0.5 * np.log(2 * np.pi)).sum(-1)
    expected = -float((log_prob * batch.advantage[0] * batch.weight[0]).sum())
    assert agent.inner_loss({k: v.unsqueeze(0) for k, v in agent.theta.items()}, batch).item() == pytest.approx(
        expected
    )


# --- training and adapting ------------------------------------------------------------------------------------------


def test_rows_adapt_alone() -> None:
    """Pitfall 5: a row's adapted parameters do not depend on which rows stand beside it, nor on their order."""
    agent = metarl.make_agent("maml", "metarl/PointNavigation-v0", hidden=(16, 16))
    pool, tasks = SlotPool(agent.family), agent.family.tasks("test", 4)

    def adapted(which: list[int]) -> Params:
        trials = Trials(pool, tasks[which], seed=3, purpose="evaluate")
        _, state = agent.interact(agent.begin(len(which)), trials, 0)
        return state

    together, backwards, alone = adapted([0, 1, 2, 3]), adapted([3, 2, 1, 0]), adapted([2])
    for name in together:
        torch.testing.assert_close(together[name], backwards[name].flip(0), rtol=0, atol=1e-6)
        torch.testing.assert_close(together[name][2:3], alone[name], rtol=0, atol=1e-6)


def test_adapting_leaves_theta_alone_and_each_row_differs() -> None:
    agent = metarl.make_agent("maml", "metarl/PointNavigation-v0", hidden=(16,))
    before = {k: v.clone() for k, v in agent.theta.items()}
    trials = Trials(SlotPool(agent.family), agent.family.tasks("test", 2))
    rollout, state = agent.interact(agent.begin(2), trials, 0)
    assert rollout.env_steps.tolist() == [4000, 4000]
    assert all(torch.equal(before[k], agent.theta[k]) for k in before)
    assert not torch.equal(state["w0"][0], state["w0"][1])
    assert state["stage"].tolist() == [1, 1]


def test_mean_actions_are_the_mean_and_sampled_ones_are_around_it() -> None:
    agent = metarl.make_agent("maml", "metarl/PointNavigation-v0", hidden=(8,))
    step, rng = (
        Step(torch.randn(1, 5000, 2, generator=torch.Generator().manual_seed(0)), None),
        metarl.Rng(torch.arange(5000)),
    )
    state = agent.begin(1)
    mean, _, _ = agent.act(state, step, rng, "mean")
    torch.testing.assert_close(mean, agent.policy(state, step.obs).mean)
    sampled, _, _ = agent.act(state, step, rng, "sampled")
    assert float((sampled - mean).std()) == pytest.approx(1.0, abs=0.05)  # log_std starts at 0


def test_later_inner_steps_are_shorter() -> None:
    agent = point_agent()
    batch, params = random_batch(agent, 1, 9, 0), {k: v.unsqueeze(0) for k, v in agent.theta.items()}
    first, later = (agent._inner_step(params, batch, torch.tensor([stage])) for stage in (0, 2))
    torch.testing.assert_close(later["w1"] - params["w1"], 0.5 * (first["w1"] - params["w1"]))


@pytest.mark.parametrize("overrides", [{"inner_steps": 0}, {"inner_steps": 2}, {"meta_batch_size": 1, "episodes": 1}])
def test_train_step_at_the_edges(overrides: dict[str, int]) -> None:
    settings = {"meta_batch_size": 2, "episodes": 2, "hidden": (8,)} | overrides
    agent = metarl.make_agent("maml", "metarl/PointNavigation-v0", **settings)
    before = {k: v.clone() for k, v in agent.theta.items()}
    trials = Trials(SlotPool(agent.family), agent.family.tasks("train", settings["meta_batch_size"]))
    metrics = agent.train_step(trials)
    assert all(np.isfinite(v) for v in metrics.values())
    assert {f"return_{j}" for j in range(overrides.get("inner_steps", 1) + 1)} <= metrics.keys()
    changed = any(not torch.equal(before[k], agent.theta[k]) for k in before)
    assert changed == (metrics["step_rejected"] == 0.0)
    assert metrics["kl"] <= agent.config.max_kl


def test_a_failed_line_search_restores_the_parameters() -> None:
    """Pitfall 15: one try at a step of 1,000 nats overshoots; and with advantages of 0 there is no direction at all."""
    agent = point_agent(max_kl=1000.0, line_search_steps=1)
    pre, post = [random_batch(agent, 2, 10, 0)], random_batch(agent, 2, 10, 1)
    before = {k: v.clone() for k, v in agent.theta.items()}
    metrics = agent.meta_update(pre, post)
    assert metrics["grad_norm"] > 0
    assert metrics["step_rejected"] == 1.0
    assert all(torch.equal(before[k], agent.theta[k]) for k in before)
    metrics = agent.meta_update(pre, post._replace(advantage=torch.zeros_like(post.advantage)))
    assert metrics["step_rejected"] == 1.0
    assert all(torch.equal(before[k], agent.theta[k]) for k in before)


def test_nan_advantages_reject_the_step() -> None:
    agent = point_agent()
    pre, post = [random_batch(agent, 2, 10, 0)], random_batch(agent, 2, 10, 1)
    before = {k: v.clone() for k, v in agent.theta.items()}
    metrics = agent.meta_update(pre, post._replace(advantage=post.advantage * torch.nan))
    assert metrics["step_rejected"] == 1.0
    assert all(torch.equal(before[k], agent.theta[k]) for k in before)


def test_accepted_steps_respect_the_trust_region_and_improve() -> None:
    agent = point_agent()
    pre, post = [random_batch(agent, 3, 40, 0)], random_batch(agent, 3, 40, 1)
    chunk = _Chunk(agent, agent.theta, pre, post)
    metrics = agent.meta_update(pre, post)
    loss, kl = chunk.evaluate(agent.theta)
    assert metrics["step_rejected"] == 0.0
    assert float(kl) / 3 == pytest.approx(metrics["kl"], rel=1e-6)
    assert 0 < metrics["kl"] <= agent.config.max_kl
    assert chunk.loss / 3 - float(loss) / 3 == pytest.approx(metrics["improvement"], rel=1e-6)


def test_conjugate_gradient_solves_a_small_system() -> None:
    a = torch.tensor([[4.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    # by hand: [[4, 1], [1, 3]] x = [1, 2] has x = [1/11, 7/11]
    x = conjugate_gradient(lambda v: a @ v, torch.tensor([1.0, 2.0], dtype=torch.float64), 10)
    torch.testing.assert_close(x, torch.tensor([1 / 11, 7 / 11], dtype=torch.float64))


def test_chunks_change_rounding_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(chunk: int) -> Params:
        monkeypatch.setattr("metarl.agents.maml._CHUNK_ELEMENTS", chunk)
        agent = metarl.make_agent("maml", "metarl/PointNavigation-v0", meta_batch_size=4, episodes=2, hidden=(8,))
        agent.train_step(Trials(SlotPool(agent.family), agent.family.tasks("train", 4)))
        return agent.theta

    one_by_one, together = trained(1), trained(10**9)
    for name in one_by_one:
        torch.testing.assert_close(one_by_one[name], together[name], rtol=0, atol=1e-4)


def test_bad_hyperparameters_are_named() -> None:
    for field, value in (("estimator", "dice2"), ("activation", "gelu"), ("inner_lr", float("nan")), ("episodes", 0)):
        with pytest.raises(metarl.InvalidValueError, match=f"maml.{field} is"):
            metarl.make_agent("maml", "metarl/PointNavigation-v0", **{field: value})


def test_config_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        MAML.Config().inner_lr = 1.0  # type: ignore[misc]


@pytest.mark.learning
def test_learns_to_adapt_on_held_out_goals() -> None:
    """20 meta-updates on few tasks: one step must gain, and gain more than it does for an untrained start."""
    agent = metarl.make_agent("maml", "metarl/PointNavigation-v0", meta_batch_size=10, episodes=10, hidden=(64, 64))
    gains = []
    for iterations in (0, 20):
        metarl.train(agent, iterations)
        results = evaluate(agent, k=1, num_tasks=20, episodes=10, modes=["sampled"])
        gains.append(results.scores["sampled"].mean((0, 1, 3)))
    untrained, trained = gains
    assert trained[1] > untrained[1] + 10  # about -50 untrained, -25 trained
    assert trained[1] > -32


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_cpu() -> None:
    trained = []
    for device in ("cpu", "cuda"):
        agent = metarl.make_agent("maml", "metarl/PointNavigation-v0", device=device, meta_batch_size=4, episodes=4)
        agent.train_step(Trials(SlotPool(agent.family, agent.device), agent.family.tasks("train", 4)))
        trained.append({k: v.cpu() for k, v in agent.theta.items()})
    for name in trained[0]:
        torch.testing.assert_close(trained[0][name], trained[1][name], rtol=0, atol=1e-3)
