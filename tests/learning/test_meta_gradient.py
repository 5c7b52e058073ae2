"""Meta-gradients and Fisher-vector products against plain differentiation through whole unrolled inner loops."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import metarl
from metarl.agents.gradient.maml import MAML
from metarl.families.registry import agent_class
from metarl.learning.action_distributions import Distribution
from metarl.learning.gradient.meta_gradient import MetaObjective, OuterLoss, inner_step
from metarl.learning.gradient.outer_losses import SurrogateLoss
from metarl.learning.gradient.policy_gradient import ESTIMATORS, Batch
from metarl.learning.gradient.trust_region import flatten, unflatten
from metarl.learning.networks import Params

LEARNERS = ["maml", "anil", "meta_sgd", "cavia", "e_maml", "promp", "maml_pp", "clustered"]
MULTI_STEP = ["maml", "meta_sgd", "cavia"]


def double(agent: MAML) -> MAML:
    """The agent in double precision, for exact comparisons."""
    agent.theta = {k: v.double() for k, v in agent.theta.items()}
    agent.optimizer = agent.make_optimizer()
    return agent


def point_agent(name: str = "maml", family: str = "metarl/PointNavigation-v0", **overrides: Any) -> MAML:
    """A small smooth agent whose weights are all away from 0."""
    known = {field.name for field in dataclasses.fields(agent_class(name).Config)}
    first_order, multi_step = (False if n in known else overrides.pop(n, False) for n in ("first_order", "multi_step"))
    settings = {"hidden": (8, 8), "activation": "tanh", "inner_lr": 0.3, "final_gain": 1.0}
    settings |= {"meta_batch_size": 3, "episodes": 4}
    if name == "maml_pp":  # in the midst of its schedules
        settings |= {"first_order_iterations": 2, "multi_step_iterations": 9}
    agent = double(metarl.make_agent(name, family, **(settings | overrides)))
    agent.updates = 4
    agent.inner.first_order |= first_order
    if multi_step:
        agent.make_outer_loss = lambda after: SurrogateLoss(agent.config.inner_steps)
    return agent


def random_batch(agent: MAML, rows: int, samples: int, seed: int) -> Batch:
    """Any numbers, as `samples` / 5 environments of 5 steps; episodes begin at the first and the fourth."""
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    action = draw(rows, samples, agent.policy.head.size)
    if agent.policy.head.discrete:
        action = torch.randint(agent.policy.head.size, (rows, samples), generator=g)
    weight = torch.full((rows, samples), 1.0 / samples, dtype=torch.float64)
    advantage, value, credit = draw(rows, samples), draw(rows, samples), draw(rows)
    time = torch.tensor([0, 1, 2, 0, 1]).view(1, 5, 1).expand(rows, 5, samples // 5)
    features = getattr(agent.policy, "features", agent.policy.encode.size)
    return Batch(draw(rows, samples, features), action, advantage, weight, value, time, credit)


def batches(agent: MAML, steps: int, rows: int = 3, samples: int = 20) -> tuple[list[Batch], Batch]:
    return [random_batch(agent, rows, samples, seed) for seed in range(steps)], random_batch(agent, rows, samples, 99)


def direction(agent: MAML, seed: int = 5) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(len(flatten(agent.theta)), generator=g, dtype=torch.float64)


def objective(agent: MAML, pre: list[Batch], post: Batch, **settings: Any) -> MetaObjective:
    return MetaObjective(agent.inner, agent.make_outer_loss(post), agent.theta, pre, post, **settings)


# --- the plain implementation: one row after the other, one graph ----------------------------------------------------


def plain_row(
    agent: MAML,
    outer: OuterLoss,
    meta: Params,
    pre: list[Batch],
    post: Batch,
    old: list[Distribution] | None,
    points: list[Params] | None,
) -> tuple[Tensor, Tensor, list[Distribution]]:
    """The outer loss of one row, the KL divergence of its adapted policy from the old one, and the policies met."""
    loss, kl = torch.zeros(2, dtype=torch.float64)
    params, met = agent.inner.start(meta, 1), []
    for j, batch in enumerate([*pre, post]):
        last = j == len(pre)
        if points is not None:  # be there, but move as the graph says
            params = {k: v + (points[j][k] - v).detach() for k, v in params.items()}
        params = {k: v if v.requires_grad else v.clone().requires_grad_() for k, v in params.items()}
        policy = agent.policy(params, batch.x)
        met.append(policy.detach())
        before = met[j] if old is None else old[j]
        if last or outer.every_step:
            loss = loss + outer(j, policy, batch, before, last)
            kl = kl + outer.kl_weight(j, last) * (before.kl(policy) * batch.weight).sum()
        if last:
            return loss, kl, met
        inner = agent.inner.loss(params, batch, before.log_prob(batch.action))
        grads = torch.autograd.grad(inner, list(params.values()), create_graph=True, allow_unused=True)
        moves = {k: g for k, g in zip(params, grads, strict=True) if g is not None}
        if agent.inner.first_order:
            moves = {k: g.detach() for k, g in moves.items()}
        alpha = agent.inner.step_sizes(meta, j)
        params = {k: v - alpha[k] * moves[k] if k in alpha else v for k, v in params.items()}
    raise AssertionError


def plain(
    agent: MAML,
    meta: Params,
    pre: list[Batch],
    post: Batch,
    old: list[list[Distribution]] | None = None,
    points: list[Params] | None = None,
) -> tuple[Tensor, Tensor, list[list[Distribution]]]:
    """Means over rows; `old` and what is met hold a list of policies for each row."""
    rows, found, outer = len(post.x), [], agent.make_outer_loss(post)
    for row in range(rows):
        one = slice(row, row + 1)
        at = None if points is None else [{k: v[one] for k, v in p.items()} for p in points]
        before = None if old is None else old[row]
        found.append(plain_row(agent, outer.rows(one), meta, [b.rows(one) for b in pre], post.rows(one), before, at))
    losses, kls, met = zip(*found, strict=True)
    return torch.stack(losses).mean(), torch.stack(kls).mean(), list(met)


def requires(params: Params) -> Params:
    return {k: v.detach().clone().requires_grad_() for k, v in params.items()}


def plain_gradient(function: Callable[[Params], Tensor], at: Params) -> Tensor:
    leaves = requires(at)
    grads = torch.autograd.grad(function(leaves), list(leaves.values()), materialize_grads=True)
    return flatten(dict(zip(leaves, grads, strict=True)))


def plain_hessian_product(function: Callable[[Params], Tensor], at: Params, v: Tensor) -> Tensor:
    leaves = requires(at)
    every = list(leaves.values())
    grads = torch.autograd.grad(function(leaves), every, create_graph=True, materialize_grads=True)
    along = sum((g * u).sum() for g, u in zip(grads, unflatten(v, at).values(), strict=True))
    return torch.cat([g.flatten() for g in torch.autograd.grad(along, every, materialize_grads=True)])


# --- gradients -------------------------------------------------------------------------------------------------------


def check_gradient(agent: MAML, steps: int) -> None:
    pre, post = batches(agent, steps)
    ours = objective(agent, pre, post)
    loss, _, old = plain(agent, agent.theta, pre, post)
    exact = plain_gradient(lambda meta: plain(agent, meta, pre, post)[0], agent.theta)
    assert float(exact.norm()) > 0.01
    assert ours.loss == pytest.approx(loss.item(), rel=1e-12)
    torch.testing.assert_close(ours.grad, exact, rtol=1e-9, atol=1e-12)
    # and elsewhere, with the sampling policies held fixed: a second epoch on the same samples
    moved = unflatten(flatten(agent.theta) + 0.05 * direction(agent), agent.theta)
    loss, gradient = ours.gradient(moved)
    exact = plain_gradient(lambda meta: plain(agent, meta, pre, post, old)[0], moved)
    torch.testing.assert_close(gradient, exact, rtol=1e-9, atol=1e-12)
    expected, kl, _ = plain(agent, moved, pre, post, old)
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    assert ours.evaluate(flatten(moved)) == pytest.approx((expected.item(), kl.item()), rel=1e-9)


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("name", LEARNERS)
def test_meta_gradients_equal_plain_differentiation(name: str, steps: int) -> None:
    check_gradient(point_agent(name, inner_steps=steps), steps)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", ["maml", "meta_sgd"])
def test_meta_gradients_of_all_estimators(name: str, estimator: str) -> None:
    check_gradient(point_agent(name, estimator=estimator), 2)


@pytest.mark.parametrize("name", ["maml", "meta_sgd", "cavia", "clustered"])
def test_meta_gradients_and_metric_with_a_pull_towards_the_initial_parameters(name: str) -> None:
    agent = point_agent(name, inner_l2=0.5, inner_steps=3)
    check_gradient(agent, 3)
    check_metric(agent, 3)


@pytest.mark.parametrize("name", ["maml", "clustered"])
def test_meta_gradients_equal_differences_of_losses(name: str) -> None:
    """Of inner steps that the loss itself says, so that nothing is cut off from differentiation on both sides."""
    agent = point_agent(name, inner_l2=0.5, inner_steps=3)
    ours = objective(agent, *batches(agent, 3))
    along = direction(agent) / direction(agent).norm()
    (more, _), (less, _) = (ours.evaluate(flatten(agent.theta) + sign * 1e-5 * along) for sign in (1, -1))
    assert float(ours.grad @ along) == pytest.approx((more - less) / 2e-5, rel=1e-4)


@pytest.mark.parametrize("name", LEARNERS)
def test_meta_gradients_for_discrete_actions(name: str) -> None:
    check_gradient(point_agent(name, "metarl/TabularMDP-v0", hidden=(4,), estimator="lvc", inner_steps=2), 2)


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("name", MULTI_STEP)
def test_meta_gradients_and_metric_of_the_multi_step_loss(name: str, steps: int) -> None:
    agent = point_agent(name, inner_steps=steps, multi_step=True)
    check_gradient(agent, steps)
    check_metric(agent, steps)


def test_the_multi_step_loss_and_its_kl_are_means_over_the_adapted_policies() -> None:
    """By hand: where it was sampled a policy's surrogate is minus its mean advantage, here 1, 10, 100 and 1000."""
    agent = point_agent(inner_steps=3, multi_step=True)
    pre, post = batches(agent, 3)
    every = [b._replace(advantage=torch.full_like(b.advantage, 10.0**j)) for j, b in enumerate([*pre, post])]
    assert objective(agent, every[:3], every[3]).loss == pytest.approx(-(10 + 100 + 1000) / 3)
    agent = point_agent(inner_steps=2, multi_step=True)
    pre, post = batches(agent, 2)
    moved = unflatten(flatten(agent.theta) + 0.03, agent.theta)
    kls, at = [], [agent.inner.start(agent.theta, 3), agent.inner.start(moved, 3)]
    for j, batch in enumerate([*pre, post]):
        old, new = (agent.policy(params, batch.x) for params in at)
        kls.append(float(old.kl(new).mean()))
        at = [inner_step(agent.inner, params, batch, agent.inner.step_sizes(agent.theta, j)) for params in at]
    assert objective(agent, pre, post).evaluate(flatten(moved))[1] == pytest.approx((kls[1] + kls[2]) / 2)


def finite_difference(function: Callable[[Tensor], float], at: Tensor, v: Tensor, eps: float = 1e-5) -> float:
    return (function(at + eps * v) - function(at - eps * v)) / (2 * eps)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", ["maml", "cavia", "e_maml", "maml_pp"])
def test_the_line_search_tests_the_function_whose_gradient_it_follows(name: str, estimator: str) -> None:
    """With the sampling policies held fixed, finite differences of `evaluate` equal the meta-gradient."""
    agent = point_agent(name, estimator=estimator, inner_steps=2)
    ours, v = objective(agent, *batches(agent, 2)), direction(agent)
    assert ours.evaluate(ours.flat) == pytest.approx((ours.loss, 0.0), rel=1e-12, abs=1e-14)
    slope = finite_difference(lambda flat: ours.evaluate(flat)[0], ours.flat, v)
    assert slope == pytest.approx(float(ours.grad @ v), rel=1e-6)


@pytest.mark.parametrize("name", LEARNERS)
def test_first_order_drops_the_second_derivatives_and_nothing_else(name: str) -> None:
    agent, first = (point_agent(name, inner_steps=2, first_order=value) for value in (False, True))
    check_gradient_first_order(first)
    second_order, first_order = (objective(a, *batches(agent, 2)).grad for a in (agent, first))
    assert float((second_order - first_order).norm()) > 0.005 * float(first_order.norm())


def check_gradient_first_order(agent: MAML) -> None:
    pre, post = batches(agent, 2)
    ours = objective(agent, pre, post)
    exact = plain_gradient(lambda meta: plain(agent, meta, pre, post)[0], agent.theta)
    torch.testing.assert_close(ours.grad, exact, rtol=1e-9, atol=1e-12)
    # the Fisher matrix is pulled back likewise
    _, _, old = plain(agent, agent.theta, pre, post)
    v = direction(agent)
    product = plain_hessian_product(lambda meta: plain(agent, meta, pre, post, old)[1], agent.theta, v)
    torch.testing.assert_close(ours.fisher_vector(v), product, rtol=1e-8, atol=1e-11)


def test_the_first_order_gradient_is_the_one_at_the_adapted_parameters() -> None:
    """Finn et al. (2017), section 5.2, by hand."""
    agent = point_agent("fomaml")
    pre, post = batches(agent, 1)
    adapted = inner_step(agent.inner, agent.inner.start(agent.theta, 3), pre[0], agent.inner.step_sizes(agent.theta, 0))
    adapted = requires(adapted)
    policy = agent.policy(adapted, post.x)
    loss = agent.make_outer_loss(post)(1, policy, post, policy.detach(), True)
    grads = torch.autograd.grad(loss, list(adapted.values()))
    torch.testing.assert_close(objective(agent, pre, post).grad, torch.cat([g.mean(0).flatten() for g in grads]))


# --- the metric ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_fisher_vector_product_is_the_hessian_of_the_post_adaptation_kl(name: str, steps: int) -> None:
    check_metric(point_agent(name, inner_steps=steps), steps)


def check_metric(agent: MAML, steps: int) -> None:
    pre, post = batches(agent, steps, rows=2, samples=15)
    ours, v, w = objective(agent, pre, post), direction(agent, 1), direction(agent, 2)
    _, _, old = plain(agent, agent.theta, pre, post)
    exact = plain_hessian_product(lambda meta: plain(agent, meta, pre, post, old)[1], agent.theta, v)
    found = ours.fisher_vector(v)
    torch.testing.assert_close(found, exact, rtol=1e-8, atol=1e-11)
    assert float(w @ found) == pytest.approx(float(v @ ours.fisher_vector(w)), rel=1e-8)  # symmetric
    # KL is 0 with gradient 0 at theta: KL(theta + e v) = e^2 / 2 v' F v + O(e^3), odd terms cancel in the mean
    kl, eps = lambda flat: ours.evaluate(flat)[1], 1e-3
    curvature = (kl(ours.flat + eps * v) + kl(ours.flat - eps * v)) / eps**2
    assert float(v @ found) == pytest.approx(curvature, rel=1e-3)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_fisher_vector_products_with_discrete_actions_and_all_estimators(estimator: str) -> None:
    agent = point_agent("meta_sgd", "metarl/TabularMDP-v0", hidden=(4,), estimator=estimator)
    pre, post = batches(agent, 2)
    _, _, old = plain(agent, agent.theta, pre, post)
    v = direction(agent)
    exact = plain_hessian_product(lambda meta: plain(agent, meta, pre, post, old)[1], agent.theta, v)
    torch.testing.assert_close(objective(agent, pre, post).fisher_vector(v), exact, rtol=1e-8, atol=1e-11)


def test_learned_step_sizes_have_their_own_columns() -> None:
    """The gradient and the metric in alpha alone are not 0, and not those of theta."""
    agent = point_agent("meta_sgd")
    ours = objective(agent, *batches(agent, 1))
    only = flatten({k: torch.full_like(v, float(k.startswith("alpha."))) for k, v in agent.theta.items()})
    assert float((ours.grad * only).norm()) > 0.01 * float(ours.grad.norm())
    v = direction(agent) * only
    assert float(v @ ours.fisher_vector(v)) > 0


def test_kl_is_of_the_adapted_policies_not_of_the_initial_ones() -> None:
    """Pitfall 15: with a large inner step the two differ much; the reported KL must be the first."""
    agent = point_agent(inner_lr=3.0)
    pre, post = batches(agent, 1)
    moved = unflatten(flatten(agent.theta) + 0.05, agent.theta)
    reported = objective(agent, pre, post).evaluate(flatten(moved))[1]
    by_hand, initial = 0.0, 0.0
    for row in range(3):
        one = slice(row, row + 1)
        x, starts = post.rows(one).x, [agent.inner.start(t, 1) for t in (agent.theta, moved)]
        alpha = agent.inner.step_sizes(agent.theta, 0)
        before, after = (agent.policy(inner_step(agent.inner, s, pre[0].rows(one), alpha), x) for s in starts)
        by_hand += float(before.kl(after).mean()) / 3
        before, after = (agent.policy(s, x) for s in starts)
        initial += float(before.kl(after).mean()) / 3
    assert reported == pytest.approx(by_hand, rel=1e-9)
    assert abs(reported - initial) > 0.05 * initial


# --- sub-batches, memory and chunks ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "estimator", "multi_step"),
    [
        *itertools.product(["maml", "meta_sgd", "cavia"], ["naive"], [False]),
        ("maml", "dice", False),
        ("maml", "lvc", True),
    ],
)
@pytest.mark.parametrize("stride", [2, 7])
def test_a_stride_thins_the_metric_and_nothing_else(
    name: str, estimator: str, multi_step: bool, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = point_agent(name, estimator=estimator, discount=0.9, multi_step=multi_step, inner_steps=2)
    pre, post = batches(agent, 2, samples=40)
    whole, part = objective(agent, pre, post), objective(agent, pre, post, stride=stride)
    assert part.loss == whole.loss
    assert torch.equal(part.grad, whole.grad)
    flat, v = whole.flat + 0.01 * direction(agent), direction(agent, 3)
    assert part.evaluate(flat) == whole.evaluate(flat)
    assert torch.equal(part.gradient(unflatten(flat, agent.theta))[1], whole.gradient(unflatten(flat, agent.theta))[1])

    # the points theta_1, theta_2 that all samples lead to; Jacobians and metric there, of the samples kept
    points = [agent.inner.start(agent.theta, 3)]
    for j, batch in enumerate(pre):
        points.append(inner_step(agent.inner, points[j], batch, agent.inner.step_sizes(agent.theta, j)))
    thin = [b.thinned(stride, agent.inner.whole_episodes) for b in (*pre, post)]
    assert thin[0].x.shape[1] < 40
    _, _, old = plain(agent, agent.theta, thin[:2], thin[2], points=points)
    exact = plain_hessian_product(lambda meta: plain(agent, meta, thin[:2], thin[2], old, points)[1], agent.theta, v)
    found = part.fisher_vector(v)
    torch.testing.assert_close(found, exact, rtol=1e-8, atol=1e-11)
    assert float((found - whole.fisher_vector(v)).norm()) > 0.01 * float(found.norm())
    monkeypatch.setattr("metarl.learning.gradient.meta_gradient.GRAPH_BYTES", 0)
    torch.testing.assert_close(objective(agent, pre, post, stride=stride).fisher_vector(v), found)


@pytest.mark.parametrize("name", LEARNERS)
def test_chunks_and_graphs_that_do_not_fit_change_rounding_only(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = point_agent(name, inner_steps=2)
    pre, post = batches(agent, 2)
    v, flat = direction(agent), flatten(agent.theta) + 0.01
    ours = objective(agent, pre, post)
    assert len(ours.kept) == len(ours.parts) == 1
    one_part = 3 * agent.inner.graph_bytes(post.rows(slice(0, 1)))
    for elements, room in itertools.product((20 * 8, 2 * 20 * 8), (0, one_part + 1, 10**9)):
        monkeypatch.setattr("metarl.learning.gradient.inner_loop._CHUNK_ELEMENTS", elements)
        monkeypatch.setattr("metarl.learning.gradient.meta_gradient.GRAPH_BYTES", room)
        other = objective(agent, pre, post)
        assert len(other.parts) == (3 if elements == 160 else 2)
        assert len(other.kept) == (0 if room == 0 else len(other.parts) if room > one_part + 1 else elements == 160)
        assert other.loss == pytest.approx(ours.loss, rel=1e-12)
        torch.testing.assert_close(other.grad, ours.grad, rtol=1e-10, atol=1e-13)
        for _ in range(2):  # graphs last
            torch.testing.assert_close(other.fisher_vector(v), ours.fisher_vector(v), rtol=1e-10, atol=1e-13)
        assert other.evaluate(flat) == pytest.approx(ours.evaluate(flat), rel=1e-10)
        loss, gradient = other.gradient(unflatten(flat, agent.theta))
        assert loss == pytest.approx(ours.gradient(unflatten(flat, agent.theta))[0], rel=1e-10)
        torch.testing.assert_close(gradient, ours.gradient(unflatten(flat, agent.theta))[1], rtol=1e-10, atol=1e-13)


def test_rows_weigh_alike_however_they_are_chunked() -> None:
    """Twice the same row is that row."""
    agent = point_agent()
    pre, post = batches(agent, 1, rows=1)
    twice = objective(agent, [b.rows(torch.tensor([0, 0])) for b in pre], post.rows(torch.tensor([0, 0])))
    once, v = objective(agent, pre, post), direction(agent)
    assert twice.loss == pytest.approx(once.loss, rel=1e-12)
    torch.testing.assert_close(twice.grad, once.grad, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(twice.fisher_vector(v), once.fisher_vector(v), rtol=1e-10, atol=1e-13)


def test_inner_steps_leave_other_parameters_and_rows_alone() -> None:
    agent = point_agent("anil")
    batch, params = random_batch(agent, 2, 20, 0), agent.inner.start(agent.theta, 2)
    alpha = agent.inner.step_sizes(agent.theta, 0)
    together = inner_step(agent.inner, params, batch, alpha)
    assert all((together[k] is params[k]) == (k not in alpha) for k in params)
    alone = inner_step(agent.inner, agent.inner.start(agent.theta, 1), batch.rows(slice(1, 2)), alpha)
    for k in alpha:
        torch.testing.assert_close(together[k][1:], alone[k], rtol=1e-12, atol=1e-13)
        assert not together[k].requires_grad
