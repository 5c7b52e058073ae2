"""What tells the relatives of MAML apart: what each adapts, its outer step, its schedules, and that each learns."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_maml import LEARNERS, SMALL, trials_of
from test_meta_gradient import batches, direction, objective, point_agent
from torch import Tensor

import metarl
from metarl.agent import Budget, Rollout
from metarl.agents.gradient.maml import MAML, params_of
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.evaluation.evaluate import evaluate
from metarl.families.registry import agent_class
from metarl.learning.action_distributions import Categorical
from metarl.learning.gradient.policies import MLPPolicy
from metarl.learning.gradient.policy_gradient import Batch
from metarl.learning.gradient.trust_region import flatten, unflatten
from metarl.learning.networks import Params
from metarl.runs.checkpoints import load_checkpoint, save_checkpoint

POINT = "metarl/PointNavigation-v0"


def small(name: str, **overrides: Any) -> MAML:
    known = {field.name for field in dataclasses.fields(agent_class(name).Config)}
    return metarl.make_agent(name, POINT, **({k: v for k, v in SMALL.items() if k in known} | overrides))


def adapted(agent: MAML, steps: int = 1, tasks: int = 3) -> tuple[Params, list[Rollout], list[Params]]:
    """Parameters after some steps, and the rollouts and parameters on the way."""
    trials = PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("test", tasks))
    state, rollouts, met = agent.begin(tasks), [], []
    for stage in range(steps):
        met.append({k: v.clone() for k, v in params_of(state).items()})
        rollout, state = agent.interact(state, trials, stage)
        rollouts.append(rollout)
    return params_of(state), rollouts, met


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in tensors.items()}


def identical(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# --- what is adapted -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [(), (8,), (8, 6)])
def test_anil_adapts_the_last_layer_alone_and_trains_them_all(hidden: tuple[int, ...]) -> None:
    agent = small("anil", hidden=hidden)
    params, _, _ = adapted(agent)
    last = {f"w{len(hidden)}", f"b{len(hidden)}"}
    for k, v in params.items():
        assert all(torch.equal(v[row], agent.theta[k]) for row in range(3)) is (k not in last)
    before = copied(agent.theta)
    assert agent.train_step(trials_of(agent, 2))["step_rejected"] == 0.0
    assert not any(torch.equal(before[k], v) for k, v in agent.theta.items())


def test_cavia_adapts_the_context_alone_and_the_network_is_shared() -> None:
    agent = small("cavia", context=4)
    assert agent.theta["w0"].shape == (2 + 4, 8)
    assert "context" not in agent.theta
    assert torch.equal(agent.begin(3)["context"], torch.zeros(3, 4))
    params, _, _ = adapted(agent, 2)
    assert params.keys() == agent.theta.keys() | {"context"}
    for k, v in agent.theta.items():
        assert all(torch.equal(params[k][row], v) for row in range(3))
    context = params["context"]
    assert not torch.equal(context[0], context[1])
    assert (context != 0).any(1).all()
    # it is an input of the first layer
    x = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0))
    plain = {k: v for k, v in params.items() if k != "context"}
    shift = torch.einsum("rc,cd->rd", context, agent.theta["w0"][2:])
    moved = plain | {"w0": plain["w0"][:, :2], "b0": plain["b0"] + shift}
    without = MLPPolicy(agent.family, "cavia", (8,))
    torch.testing.assert_close(agent.policy(params, x).mode, without(moved, x).mode)
    before = copied(agent.theta)
    assert agent.train_step(trials_of(agent, 2))["step_rejected"] == 0.0
    assert not any(torch.equal(before[k], v) for k, v in agent.theta.items())


def check_step(agent: MAML, j: int, sizes: Params, rollout: Rollout, before: Params, after: Params) -> None:
    """Step j was -size * gradient, by hand."""
    leaves = {k: v.detach().clone().requires_grad_() for k, v in before.items()}
    loss = agent.inner.loss(leaves, agent.prepare(rollout))
    for (k, v), g in zip(before.items(), torch.autograd.grad(loss, list(leaves.values())), strict=True):
        torch.testing.assert_close(after[k], v - sizes[k] * g, rtol=0, atol=1e-6)


def test_meta_sgd_learns_a_step_size_for_every_parameter() -> None:
    agent = small("meta_sgd", inner_lr=0.2)
    sizes = {k.removeprefix("alpha."): v for k, v in agent.theta.items() if k.startswith("alpha.")}
    assert {k: v.shape for k, v in sizes.items()} == {k: agent.theta[k].shape for k in sizes}
    assert all((v == 0.2).all() for v in sizes.values())
    assert len(sizes) * 2 == len(agent.theta)
    for i in range(3):
        assert agent.train_step(trials_of(agent, 2, 2 * i))["step_rejected"] == 0.0
    sizes = {k: agent.theta[f"alpha.{k}"] for k in sizes}
    assert all((v != 0.2).any() for v in sizes.values())
    assert len(sizes["w1"].unique()) > 10
    last, rollouts, met = adapted(agent, 3)  # evaluation takes more steps than training: they are like the second
    for j, after in enumerate([*met[1:], last]):
        check_step(agent, j, {k: (0.5 if j else 1.0) * v for k, v in sizes.items()}, rollouts[j], met[j], after)


def test_meta_sgd_may_begin_at_steps_of_0() -> None:
    agent = small("meta_sgd", inner_lr=0.0, inner_lr_schedule=(1.0, 3.0))
    metarl.train(agent, 2)
    one, two = (agent.inner.step_sizes(agent.theta, j)["w0"] for j in (0, 5))
    assert (one != 0).any()
    torch.testing.assert_close(two, 3 * one)


def test_maml_pp_learns_a_step_size_for_every_tensor_and_step() -> None:
    agent = small("maml_pp", inner_lr=0.4, inner_steps=2, first_order_iterations=1)
    names = [k for k in agent.theta if not k.startswith("alpha.")]
    assert all(torch.equal(agent.theta[f"alpha.{k}"], torch.tensor([0.4, 0.2])) for k in names)
    for i in range(2):  # in first order, then in second
        before = copied(agent.theta)
        agent.train_step(trials_of(agent, 2, 2 * i))
        assert all((agent.theta[f"alpha.{k}"] != before[f"alpha.{k}"]).all() for k in names)
    last, rollouts, met = adapted(agent, 4)  # steps beyond those trained are like the last of them
    for j, after in enumerate([*met[1:], last]):
        sizes = {k: agent.theta[f"alpha.{k}"][min(j, 1)] for k in names}
        check_step(agent, j, sizes, rollouts[j], met[j], after)


def test_fomaml_is_maml_in_first_order() -> None:
    fomaml, maml, second = small("fomaml"), small("maml"), small("maml")
    maml.inner.first_order = True
    for agent in (fomaml, maml, second):
        metarl.train(agent, 2)
    assert identical(fomaml.theta, maml.theta)
    assert not identical(fomaml.theta, second.theta)


# --- MAML++'s schedules ----------------------------------------------------------------------------------------------


def weights(agent: MAML, updates: int) -> list[float]:
    agent.updates = updates
    return agent.step_weights()[1:]


def test_the_weight_moves_to_the_last_step() -> None:
    agent = small("maml_pp", inner_steps=3, multi_step_iterations=10)
    assert weights(agent, 0) == pytest.approx([1 / 3] * 3)
    assert weights(agent, 5) == pytest.approx([1 / 6, 1 / 6, 2 / 3])
    assert weights(agent, 10) == [0.0, 0.0, 1.0]
    assert weights(agent, 1000) == [0.0, 0.0, 1.0]
    for updates in range(12):
        assert sum(weights(agent, updates)) == pytest.approx(1.0)
    assert weights(small("maml_pp", inner_steps=2, multi_step_iterations=0), 0) == [0.0, 1.0]
    assert weights(small("maml_pp", inner_steps=1), 3) == [1.0]


@pytest.mark.parametrize("updates", [0, 5, 10])
def test_the_multi_step_loss_is_of_the_steps_by_these_weights(updates: int) -> None:
    """Where the samples were taken a step's surrogate is minus its mean advantage, here 1, 10, 100 and 1000."""
    agent = point_agent("maml_pp", inner_steps=3, multi_step_iterations=10)
    pre, post = batches(agent, 3)
    pre, post = (
        [b._replace(advantage=torch.full_like(b.advantage, 10.0**j)) for j, b in enumerate(pre)],
        post._replace(advantage=torch.full_like(post.advantage, 1000.0)),
    )
    share = weights(agent, updates)
    assert objective(agent, pre, post).loss == pytest.approx(-float(np.dot(share, [10.0, 100.0, 1000.0])))


def test_first_order_at_first() -> None:
    agent = small("maml_pp", first_order_iterations=2, multi_step_iterations=4)
    seen = []
    for i in range(3):
        agent.train_step(trials_of(agent, 2, 2 * i))
        seen.append(agent.inner.first_order)
    assert seen == [True, True, False]


def test_first_order_is_what_the_update_does() -> None:
    """One Adam step moves each parameter by its gradient's sign: signs are those of the phase's gradient."""
    for phase in (0, 3):
        agent = point_agent("maml_pp", inner_steps=2, outer_epochs=1)
        agent.updates = phase
        agent.inner.first_order = phase == 0
        pre, post = batches(agent, 2)
        before, gradient = flatten(agent.theta), objective(agent, pre, post).grad
        agent.meta_update(pre, post)
        moved = flatten(agent.theta) - before
        clear = gradient.abs() > 1e-5
        assert (moved.sign() == -gradient.sign())[clear].all()


@pytest.mark.parametrize(
    ("updates", "expected"),
    [(0, 1e-2), (25, 2e-3 + 4e-3 * (1 + 0.5**0.5)), (50, 6e-3), (75, 2e-3 + 4e-3 * (1 - 0.5**0.5)), (150, 2e-3)],
)
def test_the_learning_rate_follows_a_cosine(updates: int, expected: float) -> None:
    agent = small("maml_pp", outer_lr=1e-2, lowest_outer_lr=2e-3, schedule_iterations=100, outer_epochs=1)
    agent.updates = updates
    before = copied(agent.theta)
    metrics = agent.train_step(trials_of(agent, 2))
    assert metrics["outer_lr"] == pytest.approx(expected)
    moved = max(float((agent.theta[k] - v).abs().max()) for k, v in before.items())
    assert moved == pytest.approx(expected, rel=1e-2)  # Adam's first step is the learning rate
    assert agent.updates == updates + 1


# --- outer steps -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outer_lr", [1.0, 0.25])
def test_reptile_moves_toward_the_mean_of_the_adapted(outer_lr: float) -> None:
    agent = small("reptile", outer_lr=outer_lr, inner_steps=2, meta_batch_size=3)
    state, trials = agent.begin(3), trials_of(agent, 3)
    for j in range(2):
        rollout, state = trials.collect(agent, state, j, Budget(envs=2, steps=100))
        state = agent.adapt(state, rollout)
    before, reached = copied(agent.theta), params_of(state)
    metrics = agent.train_step(trials_of(agent, 3))
    for k, v in agent.theta.items():
        assert torch.equal(v, before[k] + outer_lr * (reached[k].mean(0) - before[k]))
    squares = sum(float((reached[k].mean(0) - before[k]).square().sum()) for k in before)
    assert metrics["distance"] == pytest.approx(math.sqrt(squares), rel=1e-5)
    assert metrics.keys() >= {"return_0", "return_1"}


def test_pretrained_takes_no_inner_step_in_training_but_adapts() -> None:
    agent, maml = small("pretrained"), small("maml", inner_steps=0)
    metrics = []
    for each in (agent, maml):
        metarl.train(each, 2, on_iteration=lambda _, m: metrics.append(m))
    assert identical(agent.theta, maml.theta)
    assert "return_1" not in metrics[0]
    params, _, _ = adapted(agent)
    assert not torch.equal(params["w0"][0], agent.theta["w0"])


def test_scratch_is_maml_before_training() -> None:
    agent, maml = small("scratch", seed=3), small("maml", seed=3)
    with pytest.raises(metarl.InvalidValueError, match="an agent that learns"):
        metarl.train(agent, 1)
    assert agent.tensors() == {}
    ours, theirs = (
        evaluate(a, k=2, num_tasks=3, episodes=2, modes=["sampled"]).scores["sampled"] for a in (agent, maml)
    )
    assert np.array_equal(ours, theirs)
    assert not np.array_equal(ours[..., 0, :], ours[..., 1, :])
    other = evaluate(small("scratch", seed=4), k=2, num_tasks=3, episodes=2, modes=["sampled"])
    assert not np.array_equal(ours, other.scores["sampled"])


# --- E-MAML ----------------------------------------------------------------------------------------------------------


def test_e_maml_without_credit_is_maml() -> None:
    agent, maml = point_agent("e_maml", credit_coef=0.0, inner_steps=2), point_agent("maml", inner_steps=2)
    pre, post = batches(agent, 2)
    ours, theirs = objective(agent, pre, post), objective(maml, pre, post)
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-12)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(ours.fisher_vector(direction(agent)), theirs.fisher_vector(direction(agent)))


@pytest.mark.parametrize("coef", [1.0, 2.5])
def test_e_mamls_extra_gradient_is_the_score_times_the_credit(coef: float) -> None:
    agent, maml = point_agent("e_maml", credit_coef=coef), point_agent("maml")
    pre, post = batches(agent, 1)
    theta = {k: v.clone().requires_grad_() for k, v in agent.theta.items()}
    score = (
        agent.policy(agent.inner.start(theta, 3), pre[0].x).log_prob(pre[0].action).mean(1)
    )  # of each task's samples
    expected = -coef * (score * agent.make_outer_loss(post).credit).mean()
    extra = flatten(dict(zip(theta, torch.autograd.grad(expected, list(theta.values())), strict=True)))
    found = objective(agent, pre, post).grad - objective(maml, pre, post).grad
    torch.testing.assert_close(found, extra, rtol=1e-9, atol=1e-12)


def test_the_exploration_term_is_exact_where_every_action_is_a_task() -> None:
    """Two arms, each with one task that drew it; what came of them is c_0 and c_1.

    Stadie et al.'s term is sum_a grad pi(a) R(theta'_a): with logits z it is pi_a (R_a - sum_b pi_b R_b) in z_a, and pi
    is 1/2 here, which is also each task's share. Credit +1 and -1 makes it 1/2 and -1/2.
    """
    agent = metarl.make_agent("e_maml", metarl.make_family("metarl/BernoulliBandit-v0", k=2), hidden=())
    agent.theta = {k: torch.zeros_like(v).double() for k, v in agent.theta.items()}
    x = torch.zeros(2, 1, agent.policy.encode.size, dtype=torch.float64)
    one, none = torch.ones(2, 1, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64)
    credit = torch.tensor([1.0, -1.0], dtype=torch.float64)
    time = torch.zeros(2, 1, 1, dtype=torch.int64)
    batch = Batch(x, torch.tensor([[0], [1]]), none, one, none, time, credit)
    gradient = unflatten(objective(agent, [batch], batch).grad, agent.theta)["b0"]
    torch.testing.assert_close(-gradient, torch.tensor([0.5, -0.5], dtype=torch.float64))


def test_credit_is_the_return_after_adapting_standardised_over_tasks() -> None:
    agent = point_agent("e_maml")
    _, post = batches(agent, 2)

    def credit(*returns: float) -> Tensor:
        loss = agent.make_outer_loss(post._replace(mean_return=torch.tensor(returns, dtype=torch.float64)))
        assert loss.coef == 1.0
        return loss.credit

    by_hand = torch.tensor([-2.0, -1.0, 3.0], dtype=torch.float64) / math.sqrt(14 / 3)
    torch.testing.assert_close(credit(1.0, 2.0, 6.0), by_hand)
    torch.testing.assert_close(credit(1.0, math.nan, 3.0), torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64))
    assert credit(7.0, 7.0, 7.0).tolist() == [0.0, 0.0, 0.0]


# --- ProMP -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Given:
    """A policy of given log-probabilities."""

    values: Tensor

    def log_prob(self, _: Tensor) -> Tensor:
        return self.values


def test_promps_clipping_has_no_gradient_where_a_ratio_has_gone_far_enough() -> None:
    """PPO's equation 7: flat above 1 + clip for good actions, below 1 - clip for bad ones; never for the reverse."""
    agent = point_agent("promp", clip=0.3)
    ratio = torch.tensor([[0.5, 1.0, 1.2, 1.5, 0.5, 0.8, 1.0, 1.5]], dtype=torch.float64)
    advantage = torch.tensor([[2.0, 2.0, 2.0, 2.0, -2.0, -2.0, -2.0, -2.0]], dtype=torch.float64)
    batch = batches(agent, 0, rows=1, samples=5)[1]._replace(
        action=torch.zeros(1, 8, 2), advantage=advantage, weight=torch.full((1, 8), 1 / 8, dtype=torch.float64)
    )
    leaf = ratio.log().requires_grad_()
    loss = agent.make_outer_loss(batch)(1, Given(leaf), batch, Given(torch.zeros_like(ratio)), True)
    (gradient,) = torch.autograd.grad(loss, leaf)
    passes = torch.tensor([[1, 1, 1, 0, 0, 1, 1, 1]], dtype=torch.float64)
    torch.testing.assert_close(gradient, -passes * ratio * advantage / 8)
    worth = torch.tensor([[1.0, 2.0, 2.4, 2.6, -1.4, -1.6, -2.0, -3.0]], dtype=torch.float64)
    assert loss.item() == pytest.approx(-float(worth.mean()))


def test_promps_penalty_is_the_kl_from_the_policies_that_sampled() -> None:
    agent = point_agent("promp", "metarl/BernoulliBandit-v0", inner_kl_coef=0.5)
    old, new = (Categorical.from_logits(torch.tensor([[z]], dtype=torch.float64)) for z in ([0.0, 0.0], [1.0, 0.0]))
    batch = batches(agent, 0, rows=1, samples=5)[1]._replace(weight=torch.ones(1, 1, dtype=torch.float64))
    p = 1 / (1 + math.exp(-1))
    by_hand = 0.5 * math.log(0.5 / p) + 0.5 * math.log(0.5 / (1 - p))  # KL(old || new)
    assert float(agent.make_outer_loss(batch)(0, new, batch, old, False)) == pytest.approx(0.5 * by_hand)


def test_promp_takes_epochs_of_adam_on_the_same_samples() -> None:
    """Three epochs by hand: the gradient anew at each, ratios to the policies that sampled."""
    agent = point_agent("promp", outer_epochs=3, outer_lr=0.02, inner_steps=1)
    pre, post = batches(agent, 1)
    at, ours = flatten(agent.theta), objective(agent, pre, post)
    ours.meta = copied(agent.theta)
    m, v = torch.zeros_like(at), torch.zeros_like(at)
    for t in (1, 2, 3):
        g = ours.gradient(unflatten(at, agent.theta))[1]
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        at = at - 0.02 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
    metrics = agent.meta_update(pre, post)
    torch.testing.assert_close(flatten(agent.theta), at, rtol=1e-6, atol=1e-9)
    loss, kl = ours.evaluate(at)
    assert metrics["kl"] == pytest.approx(kl, rel=1e-4)
    assert metrics["improvement"] == pytest.approx(ours.loss - loss, rel=1e-4)
    assert metrics["improvement"] > 0


@pytest.mark.parametrize("name", ["promp", "maml_pp"])
@pytest.mark.parametrize("trained", [0, 2])
def test_an_outer_step_that_is_not_finite_is_undone(name: str, trained: int) -> None:
    """Parameters and Adam's moments come back bit by bit, and training goes on from them."""
    agent, other = small(name), small(name)
    for each in (agent, other):
        metarl.train(each, trained)
    before = copied(agent.tensors())
    pre, post = batches(agent, 1)
    pre, post = ([_float(b) for b in pre], _float(post))
    bad = post._replace(advantage=post.advantage * torch.nan)
    if name == "maml_pp":
        pre = [*pre, pre[0], pre[0]]
    metrics = agent.meta_update(pre, bad)
    assert metrics["step_rejected"] == 1.0
    assert metrics["kl"] == metrics["improvement"] == 0.0
    after = copied(agent.tensors())
    if name == "maml_pp":
        assert int(after.pop("updates")) == int(before.pop("updates")) + 1
        agent.updates -= 1
    assert identical(after, before)
    for each in (agent, other):
        metarl.train(each, trained + 2, start=trained)
    assert identical(agent.tensors(), other.tensors())


def _float(batch: Batch) -> Batch:
    return Batch(*(leaf.float() if leaf.dtype == torch.float64 else leaf for leaf in batch))


# --- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEARNERS)
def test_training_goes_on_from_a_checkpoint_to_the_same_bits(name: str, tmp_path: Path) -> None:
    settings = {"first_order_iterations": 1, "multi_step_iterations": 3} if name == "maml_pp" else {}
    agent, resumed = small(name, **settings), small(name, **settings)
    metarl.train(agent, 2)
    save_checkpoint(tmp_path / "checkpoint", agent, 2)
    assert load_checkpoint(tmp_path / "checkpoint", resumed) == 2
    assert identical(agent.tensors(), resumed.tensors())
    for each in (agent, resumed):
        metarl.train(each, 4, start=2)
    assert identical(agent.tensors(), resumed.tensors())
    fresh = small(name, **settings)
    metarl.train(fresh, 4)
    assert identical(agent.tensors(), fresh.tensors())
