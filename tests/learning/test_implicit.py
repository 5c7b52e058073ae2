"""Implicit meta-gradients against closed forms and against differentiation through long inner loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_meta_gradient import batches, direction, plain_gradient, plain_hessian_product, point_agent, random_batch
from torch import Tensor

import metarl
from metarl.agents.gradient.imaml import IMAML
from metarl.learning.gradient.implicit import ImplicitObjective
from metarl.learning.gradient.meta_gradient import inner_step
from metarl.learning.gradient.policy_gradient import Batch
from metarl.learning.gradient.trust_region import conjugate_gradient, flatten
from metarl.learning.networks import Params

EXACT: dict[str, Any] = {"implicit_damping": 0.0, "implicit_cg_iterations": 300}


def agent_of(**overrides: Any) -> IMAML:
    agent = point_agent("imaml", **({"hidden": (4,), "inner_lr": 0.01, "proximal_coef": 50.0} | EXACT | overrides))
    assert isinstance(agent, IMAML)
    return agent


def objective(agent: IMAML, pre: list[Batch], post: Batch, stride: int = 1) -> ImplicitObjective:
    assert agent.optimizer is not None
    made = agent.optimizer.objective(  # type: ignore[attr-defined]
        agent.inner, agent.make_outer_loss(post), agent.theta, pre, post, stride
    )
    assert isinstance(made, ImplicitObjective)
    return made


def outer_gradient(agent: IMAML, params: Params, post: Batch) -> Params:
    """The gradient of the sum of the rows' outer losses at adapted parameters."""
    leaves = {k: v.detach().clone().requires_grad_() for k, v in params.items()}
    policy = agent.policy(leaves, post.x)
    loss = agent.make_outer_loss(post)(1, policy, post, policy.detach(), True)
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def rows_of(params: Params) -> Tensor:
    return torch.cat([v.flatten(1) for v in params.values()], 1)


# --- the inner problem -----------------------------------------------------------------------------------------------


def test_the_gradient_steps_pull_towards_the_parameters_that_sampled() -> None:
    """Two steps by hand: theta - a (g + lambda (theta - center)), with ratios to the policy at the center."""
    agent = agent_of(solver_steps=2)
    batch, center = random_batch(agent, 3, 20, 0), agent.inner.start(agent.theta, 3)
    sampled = agent.policy(center, batch.x).log_prob(batch.action)
    at = center
    for _ in range(2):
        leaves = {k: v.clone().requires_grad_() for k, v in at.items()}
        ratio = (agent.policy(leaves, batch.x).log_prob(batch.action) - sampled).exp()
        loss = -(ratio * batch.advantage).mean(1).sum()
        grads = torch.autograd.grad(loss, list(leaves.values()))
        at = {k: v - 0.01 * (g + 50.0 * (v - center[k])) for (k, v), g in zip(at.items(), grads, strict=True)}
    found, finite = agent.inner.adapt(agent.theta, center, batch, 0)
    assert finite.all()
    for k, v in at.items():
        torch.testing.assert_close(found[k], v)


def test_many_steps_solve_the_inner_problem() -> None:
    agent = agent_of(solver_steps=300)
    batch, center = random_batch(agent, 3, 20, 0), agent.inner.start(agent.theta, 3)
    sampled = agent.policy(center, batch.x).log_prob(batch.action)
    found, _ = agent.inner.adapt(agent.theta, center, batch, 0)
    one = {k: torch.ones((), dtype=torch.float64) for k in found}
    moved = inner_step(agent.inner, found, batch, one, sampled)
    for k, v in found.items():
        torch.testing.assert_close(v - moved[k], 50.0 * (center[k] - v), rtol=1e-7, atol=1e-9)
        assert not torch.allclose(v, center[k])


def test_a_pull_that_diverges_is_refused() -> None:
    told = r"imaml\.proximal_coef is 8\.0, expected below 2 / .* \(their product is 2\)"
    with pytest.raises(metarl.InvalidValueError, match=told):
        metarl.make_agent(
            "imaml", "metarl/PointNavigation-v0", inner_lr=0.125, inner_lr_schedule=(1, 2), proximal_coef=8.0
        )


# --- the gradient ----------------------------------------------------------------------------------------------------


def test_the_gradient_on_a_quadratic_problem_is_the_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """With L = |A theta|^2 / 2 - c theta the solution is (Q + lambda I)^-1 (c + lambda theta), Q = A' A."""
    agent = agent_of(hidden=(), solver_steps=200)
    pre, post = batches(agent, 1)
    size, generator = len(flatten(agent.theta)), torch.Generator().manual_seed(1)
    a = torch.randn(3, size, size, generator=generator, dtype=torch.float64) / size**0.5
    c = torch.randn(3, size, generator=generator, dtype=torch.float64)

    def quadratic(params: Params, batch: Batch, sampled_log_prob: Tensor | None = None) -> Tensor:
        flat = rows_of(params)
        return 0.5 * torch.einsum("rij,rj->ri", a, flat).square().sum() - (c * flat).sum()

    monkeypatch.setattr(agent.inner, "loss", quadratic)
    system = a.mT @ a + 50.0 * torch.eye(size, dtype=torch.float64)
    solution = torch.linalg.solve(system, c + 50.0 * flatten(agent.theta))
    like = agent.inner.start(agent.theta, 3)
    sizes = [v[0].numel() for v in like.values()]
    params = {k: p.view_as(v) for (k, v), p in zip(like.items(), torch.split(solution, sizes, 1), strict=True)}
    expected = 50.0 * torch.linalg.solve(system, rows_of(outer_gradient(agent, params, post))).mean(0)
    torch.testing.assert_close(objective(agent, pre, post).grad, expected, rtol=1e-7, atol=1e-10)


def unrolled(agent: IMAML, meta: Params, pre: list[Batch], post: Batch) -> Tensor:
    """The mean outer loss as one graph through all gradient steps; log-probabilities of sampling are constants."""
    params = agent.inner.start(meta, len(post.x))
    for batch in pre:
        center = params
        sampled = agent.policy(params, batch.x).log_prob(batch.action).detach()
        for _ in range(agent.config.solver_steps):
            loss = agent.inner.loss(params, batch, sampled)
            grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
            pulls = [agent.config.proximal_coef * (v - center[k]) for k, v in params.items()]
            steps = zip(params.items(), grads, pulls, strict=True)
            params = {k: v - agent.config.inner_lr * (g + pull) for (k, v), g, pull in steps}
    policy = agent.policy(params, post.x)
    return agent.make_outer_loss(post)(1, policy, post, policy.detach(), True) / len(post.x)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("family", ["metarl/PointNavigation-v0", "metarl/TabularMDP-v0"])
def test_the_gradient_equals_differentiation_through_a_long_inner_loop(family: str, steps: int) -> None:
    agent = agent_of(family=family, solver_steps=150, inner_steps=steps)
    pre, post = batches(agent, steps)
    exact = plain_gradient(lambda meta: unrolled(agent, meta, pre, post), agent.theta)
    ours = objective(agent, pre, post)
    torch.testing.assert_close(ours.grad, exact, rtol=1e-6, atol=1e-9)
    at = {k: v.clone().requires_grad_() for k, v in agent.theta.items()}
    assert ours.loss == pytest.approx(float(unrolled(agent, at, pre, post).detach()), rel=1e-12)
    first_order = rows_of(outer_gradient(agent, ours.points[0][-1], post)).mean(0)
    assert float((ours.grad - first_order).norm()) > 0.003 * float(exact.norm())


def test_an_infinite_pull_gives_the_plain_gradient() -> None:
    """The solution is theta itself, and its Jacobian is I. An infinite damping keeps the solution."""
    agent = agent_of(proximal_coef=1e8, inner_lr=1e-8)
    pre, post = batches(agent, 1)
    plain = outer_gradient(agent, agent.inner.start(agent.theta, 3), post)
    torch.testing.assert_close(objective(agent, pre, post).grad, rows_of(plain).mean(0), rtol=1e-5, atol=1e-7)
    agent = agent_of(implicit_damping=1e9)
    ours = objective(agent, pre, post)
    at_solution = rows_of(outer_gradient(agent, ours.points[0][-1], post)).mean(0)
    torch.testing.assert_close(ours.grad, at_solution, rtol=1e-5, atol=1e-8)
    assert not torch.allclose(ours.grad, rows_of(plain).mean(0))


def test_damping_adds_to_lambda_in_the_system() -> None:
    """I + H / (lambda + d) is the system of a pull of lambda + d, at the same solution."""
    agent = agent_of(implicit_damping=3.0)
    pre, post = batches(agent, 1)
    ours = objective(agent, pre, post)
    plain = rows_of(outer_gradient(agent, ours.points[0][-1], post))
    other = agent_of(implicit_damping=0.0)
    other.inner.strength = 53.0
    expected = objective(other, pre, post)._through(0, ours.points[0][-1], ours.old[0][0], slice(None), plain)
    torch.testing.assert_close(ours.grad, expected.mean(0), rtol=1e-9, atol=1e-12)


def test_a_system_that_is_not_positive_definite_keeps_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """With L = -50 |theta|^2 the system is I - 100 / lambda, which is negative; the first row's L is 0."""
    agent = agent_of(solver_steps=1, inner_lr=0.0)
    pre, post = batches(agent, 1)
    bowl = torch.tensor([0.0, -50.0, -50.0], dtype=torch.float64)
    monkeypatch.setattr(agent.inner, "loss", lambda params, *_: (bowl.unsqueeze(1) * rows_of(params).square()).sum())
    plain = rows_of(outer_gradient(agent, agent.inner.start(agent.theta, 3), post)).mean(0)
    torch.testing.assert_close(objective(agent, pre, post).grad, plain)


# --- the metric and the line search ----------------------------------------------------------------------------------


def test_the_metric_is_that_of_the_adapted_policies_without_the_jacobian() -> None:
    agent = agent_of(inner_steps=2)
    pre, post = batches(agent, 2)
    ours, v = objective(agent, pre, post), direction(agent)
    solution, old = ours.points[0][-1], ours.old[0][-1]

    def divergence(shift: Params) -> Tensor:
        policy = agent.policy({k: solution[k] + s for k, s in shift.items()}, post.x)
        return (old.kl(policy) * post.weight).sum() / 3  # type: ignore[arg-type]

    exact = plain_hessian_product(divergence, {k: torch.zeros_like(t) for k, t in agent.theta.items()}, v)
    torch.testing.assert_close(ours.fisher_vector(v), exact, rtol=1e-8, atol=1e-11)
    thinned = objective(agent, pre, post, stride=2)
    assert torch.equal(thinned.grad, ours.grad)
    assert not torch.allclose(thinned.fisher_vector(v), exact)


def test_the_line_search_solves_the_problems_anew() -> None:
    agent = agent_of(inner_steps=2, solver_steps=150)
    pre, post = batches(agent, 2)
    ours, v = objective(agent, pre, post), direction(agent)
    assert ours.evaluate(ours.flat) == pytest.approx((ours.loss, 0.0), rel=1e-12, abs=1e-14)
    ahead, behind = (ours.evaluate(ours.flat + e * v)[0] for e in (1e-5, -1e-5))
    assert (ahead - behind) / 2e-5 == pytest.approx(float(ours.grad @ v), rel=1e-4)
    assert ours.evaluate(ours.flat + 0.01 * v)[1] > 0


def test_chunks_and_graphs_that_do_not_fit_change_rounding_only(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = agent_of(inner_steps=2)
    pre, post = batches(agent, 2)
    ours, v = objective(agent, pre, post), direction(agent)
    for elements, room in ((20 * 4, 10**9), (20 * 4, 0), (10**6, 0)):
        monkeypatch.setattr("metarl.learning.gradient.inner_loop._CHUNK_ELEMENTS", elements)
        monkeypatch.setattr("metarl.learning.gradient.implicit.GRAPH_BYTES", room)
        other = objective(agent, pre, post)
        assert len(other.parts) == (3 if elements == 80 else 1)
        assert other.loss == pytest.approx(ours.loss, rel=1e-12)
        torch.testing.assert_close(other.grad, ours.grad, rtol=1e-9, atol=1e-12)
        for _ in range(2):
            torch.testing.assert_close(other.fisher_vector(v), ours.fisher_vector(v), rtol=1e-10, atol=1e-13)
        assert len(other.kept) == (len(other.parts) if room else 0)
        flat = ours.flat + 0.01
        assert other.evaluate(flat) == pytest.approx(ours.evaluate(flat), rel=1e-9)


# --- systems side by side --------------------------------------------------------------------------------------------


def test_systems_side_by_side_are_solved_like_each_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(3, 6, 6, generator=generator, dtype=torch.float64)
    a = a @ a.mT + torch.eye(6, dtype=torch.float64)
    b = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    b[1] = 0.0  # solved before it begins
    for iterations in (2, 6):
        together, _ = conjugate_gradient(lambda v: (a @ v.unsqueeze(-1)).squeeze(-1), b, iterations)
        for row in range(3):
            alone, _ = conjugate_gradient(lambda v, row=row: a[row] @ v, b[row], iterations)
            torch.testing.assert_close(together[row], alone, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(together, torch.linalg.solve(a, b))


def test_a_system_without_positive_curvature_stops_alone() -> None:
    a = torch.tensor([[1.0, 2.0], [-1.0, -1.0]], dtype=torch.float64)  # two diagonal matrices
    b = torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    x, residual = conjugate_gradient(lambda v: a * v, b, 5)
    torch.testing.assert_close(x, torch.tensor([[1.0, 0.5], [0.0, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(residual[1], b[1])
