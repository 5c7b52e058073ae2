"""MAML as an agent: acting, adapting, meta-updates, bad inputs and edges; the gradient-based variants share most of it.

The gradients themselves are tested in test_meta_gradient.py and test_policy_gradient.py.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from test_meta_gradient import batches, objective, point_agent, random_batch
from torch import Tensor

import metarl
from metarl.agent import Rollout, Step
from metarl.agents.gradient.maml import MAML, params_of
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.errors import DivergedWarning
from metarl.evaluation.evaluate import evaluate
from metarl.families.registry import agent_class, agents
from metarl.learning.gradient.inner_loop import _moderate, warn_of_failed
from metarl.learning.gradient.meta_gradient import inner_step
from metarl.learning.gradient.policy_gradient import Batch
from metarl.learning.gradient.step_sizes import FixedSizes, Schedule
from metarl.learning.gradient.trust_region import conjugate_gradient, flatten, trust_region_step
from metarl.learning.networks import Params

VARIANTS = [name for name in sorted(agents) if issubclass(agent_class(name), MAML)]
LEARNERS = [name for name in VARIANTS if agent_class(name).learns]

# --- acting and adapting --------------------------------------------------------------------------------------------


def test_rows_adapt_alone() -> None:
    """Pitfall 5: a row's adapted parameters do not depend on which rows stand beside it, nor on their order."""
    agent = metarl.make_agent("maml", "metarl/PointNavigation-v0", hidden=(16, 16))
    pool, tasks = EnvironmentPool(agent.family), agent.family.tasks("test", 4)

    def adapted(which: list[int]) -> Params:
        trials = PoolTrials(pool, tasks[which], seed=3, purpose="evaluate")
        _, state = agent.interact(agent.begin(len(which)), trials, 0)
        return state

    together, backwards, alone = adapted([0, 1, 2, 3]), adapted([3, 2, 1, 0]), adapted([2])
    for name in together:
        torch.testing.assert_close(together[name], backwards[name].flip(0), rtol=0, atol=1e-6)
        torch.testing.assert_close(together[name][2:3], alone[name], rtol=0, atol=1e-6)


def test_adapting_leaves_theta_alone_and_each_row_differs() -> None:
    agent = metarl.make_agent("maml", "metarl/PointNavigation-v0", hidden=(16,))
    before = {k: v.clone() for k, v in agent.theta.items()}
    trials = PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("test", 2))
    rollout, state = agent.interact(agent.begin(2), trials, 0)
    assert rollout.env_steps.tolist() == [4000, 4000]
    assert all(torch.equal(before[k], agent.theta[k]) for k in before)
    assert not torch.equal(state["w0"][0], state["w0"][1])
    assert state["adaptation_steps"].tolist() == [1, 1]


def test_mean_actions_are_the_mean_and_sampled_ones_are_around_it() -> None:
    agent = metarl.make_agent("maml", "metarl/PointNavigation-v0", hidden=(8,))
    step, rng = (
        Step(torch.randn(1, 5000, 2, generator=torch.Generator().manual_seed(0)), None),
        metarl.Rng(torch.arange(5000)),
    )
    state = agent.begin(1)
    mean, _, _ = agent.act(state, step, rng, True)
    torch.testing.assert_close(mean, agent.policy(state, step.obs).mean)
    sampled, _, _ = agent.act(state, step, rng, False)
    assert float((sampled - mean).std()) == pytest.approx(1.0, abs=0.05)  # log_std starts at 0


def test_later_inner_steps_are_shorter() -> None:
    agent = point_agent()
    batch, params = random_batch(agent, 1, 10, 0), agent.inner.start(agent.theta, 1)
    first, later = (inner_step(agent.inner, params, batch, agent.inner.step_sizes(agent.theta, j)) for j in (0, 2))
    torch.testing.assert_close(later["w1"] - params["w1"], 0.5 * (first["w1"] - params["w1"]))


def test_inner_steps_are_pulled_towards_the_initial_parameters() -> None:
    """By hand: a step adds -alpha * l2 * (theta_1 - theta_0) to the plain one; the first adds nothing."""
    plain, pulled = point_agent(), point_agent(inner_l2=0.4)
    batch = random_batch(plain, 1, 10, 0)
    start = pulled.inner.start(pulled.theta, 1)
    first, _ = pulled.inner.adapt(pulled.theta, start, batch, 0)
    without, _ = plain.inner.adapt(plain.theta, plain.inner.start(plain.theta, 1), batch, 0)
    second, _ = pulled.inner.adapt(pulled.theta, first, batch, 1)
    expected, _ = plain.inner.adapt(plain.theta, {k: first[k] for k in plain.theta}, batch, 1)
    for name in plain.theta:
        torch.testing.assert_close(first[name], without[name])
        pull = 0.15 * 0.4 * (first[name] - start[name])  # steps of .3, .15
        torch.testing.assert_close(second[name], expected[name] - pull)
        assert torch.equal(second[f"anchor.{name}"], start[name])
    assert float((second["w1"] - expected["w1"]).abs().max()) > 1e-4


def test_rows_that_took_unequally_many_steps_are_refused() -> None:
    agent = metarl.make_agent("maml", "metarl/PointNavigation-v0", hidden=(8,), eval_steps=200)
    trials = PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("test", 2))
    rollout, state = trials.collect(agent, agent.begin(2), 0, agent.budget)
    state["adaptation_steps"] = torch.tensor([1, 0])
    with pytest.raises(metarl.InvalidValueError, match=r"adaptation_steps'\] is \[1, 0\], expected the same number"):
        agent.adapt(state, rollout)


# --- training -------------------------------------------------------------------------------------------------------


def trials_of(agent: MAML, tasks: int | list[int] = 3, first: int = 0) -> PoolTrials:
    """Train tasks from number `first` on, or those of them."""
    count = tasks if isinstance(tasks, int) else max(tasks) + 1
    found = agent.family.tasks("train", count, agent.seed, first)
    return PoolTrials(EnvironmentPool(agent.family), found if isinstance(tasks, int) else found[tasks])


class Once(metarl.TorchFamily):
    """Every episode ends with its first step: the nearer the action to the goal the better."""

    id = "toy/Once-v0"
    observation_space = Box(0.0, 1.0, (1,), np.float32)
    action_space = Box(-1.0, 1.0, (1,), np.float32)
    horizon = 5
    task_space: ClassVar = {"goal": metarl.Uniform(-1.0, 1.0)}

    def reset(self, task: dict[str, Tensor], rng: metarl.Rng) -> Tensor:
        return torch.ones_like(task["goal"])

    def observe(self, state: Tensor, task: dict[str, Tensor]) -> Tensor:
        return state.unsqueeze(1)

    def step(self, state: Tensor, action: Tensor, task: dict[str, Tensor], rng: metarl.Rng) -> Any:
        return state, -(action[:, 0] - task["goal"]).abs(), torch.ones_like(state, dtype=torch.bool)


SMALL = {"hidden": (8,), "meta_batch_size": 2, "episodes": 2, "eval_steps": 60}
EDGES = {
    "no inner step": {"inner_steps": 0},
    "two inner steps": {"inner_steps": 2},
    "one task": {"meta_batch_size": 1},
    "one episode": {"episodes": 1},
    "one of each": {"meta_batch_size": 1, "episodes": 1},
    "one step to adapt on": {"eval_steps": 1},
    "no hidden layer": {"hidden": ()},
    "sub-batches": {"fvp_stride": 3},
    "sub-batches of one episode": {"fvp_stride": 7, "episodes": 1, "estimator": "dice"},
    "all steps": {"inner_steps": 2, "multi_step": True},
    "all of no steps": {"inner_steps": 0, "multi_step": True},
    "steps of no size": {"inner_lr": 0.0},
    "no discount": {"discount": 1.0, "gae_lambda": 1.0},
    "bandit": {"discount": 0.0},
}


OUTER = ("no inner step", "two inner steps", "one of each", "no hidden layer", "all steps")
OVERRIDDEN = {  # the edges of what a class overrides: its outer step, its inner step, or nothing
    "maml": tuple(EDGES),
    **dict.fromkeys(("reptile", "imaml", "maml_pp", "promp", "e_maml"), OUTER),
    **dict.fromkeys(("anil", "cavia", "meta_sgd"), OUTER[:4]),
}
CASES = [(name, edge) for name in VARIANTS for edge in OVERRIDDEN.get(name, OUTER[1:2])]


@pytest.mark.parametrize(("name", "edge"), CASES)
def test_every_variant_works_at_the_edges(name: str, edge: str) -> None:
    known, overrides = {field.name for field in dataclasses.fields(agent_class(name).Config)}, EDGES[edge]
    if unknown := sorted(set(overrides) - known):  # no agent has an option that it ignores
        with pytest.raises(metarl.InvalidValueError, match=f"hyperparameter of {name} is '{unknown[0]}'"):
            metarl.make_agent(name, Once(), **overrides)
        return
    if name in ("reptile", "imaml") and overrides.get("inner_steps") == 0:
        with pytest.raises(metarl.InvalidValueError, match=rf"{name}\.inner_steps is 0"):
            metarl.make_agent(name, Once(), **overrides)
        return
    for family in (Once(), "metarl/BernoulliBandit-v0"):  # all episodes end at their first step; discrete, 1 step long
        agent = metarl.make_agent(name, family, **({k: v for k, v in SMALL.items() if k in known} | overrides))
        before = {k: v.clone() for k, v in agent.theta.items()}
        if agent.learns:
            metrics = agent.train_step(trials_of(agent, agent.meta_batch_size))
            assert all(np.isfinite(v) for v in metrics.values())
            played = agent.config.inner_steps + (name != "reptile")
            assert {f"return_{j}" for j in range(played)} <= metrics.keys()
            assert metrics["failed_steps"] == 0.0
            if metrics.get("step_rejected") == 1.0:
                assert all(torch.equal(before[k], agent.theta[k]) for k in before)
            if name in ("maml", "fomaml", "anil", "cavia", "meta_sgd", "e_maml", "imaml", "pretrained", "shared_trunk"):
                assert metrics["kl"] <= agent.config.max_kl
        trials = PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("test", 2))
        state = agent.begin(2)
        for stage in range(2):
            _, state = agent.interact(state, trials, stage)
        assert state["failed"].tolist() == [0, 0]
        assert all(torch.isfinite(v).all() for v in state.values())


@pytest.mark.parametrize("overrides", [{"inner_steps": 0}, {"inner_steps": 2}, {"meta_batch_size": 1, "episodes": 1}])
def test_train_step_on_long_episodes(overrides: dict[str, int]) -> None:
    agent = metarl.make_agent("maml", "metarl/PointNavigation-v0", **(SMALL | overrides))
    before = {k: v.clone() for k, v in agent.theta.items()}
    metrics = agent.train_step(trials_of(agent, agent.meta_batch_size))
    assert all(np.isfinite(v) for v in metrics.values())
    assert {f"return_{j}" for j in range(overrides.get("inner_steps", 1) + 1)} <= metrics.keys()
    changed = any(not torch.equal(before[k], agent.theta[k]) for k in before)
    assert changed == (metrics["step_rejected"] == 0.0)
    assert metrics["kl"] <= agent.config.max_kl


def test_a_failed_line_search_restores_the_parameters() -> None:
    """Pitfall 15: one try at a step of 1,000 nats overshoots; and with advantages of 0 there is no direction at all."""
    agent = point_agent(max_kl=1000.0, line_search_steps=1, final_gain=0.01)
    pre, post = [random_batch(agent, 2, 10, 0)], random_batch(agent, 2, 10, 1)
    before = {k: v.clone() for k, v in agent.theta.items()}
    metrics = agent.meta_update(pre, post)
    assert metrics["grad_norm"] > 0
    assert metrics["step_rejected"] == 1.0
    assert all(torch.equal(before[k], agent.theta[k]) for k in before)
    metrics = agent.meta_update(pre, post._replace(advantage=torch.zeros_like(post.advantage)))
    assert metrics["step_rejected"] == 1.0
    assert all(torch.equal(before[k], agent.theta[k]) for k in before)


@pytest.mark.parametrize("found", [(0.5, 2.0), (1.5, 0.0), (float("nan"), 0.0), (0.5, float("nan"))])
def test_a_line_search_without_success_returns_where_it_began(found: tuple[float, float]) -> None:
    """Loss 1 at theta, KL at most 1: too far, no better, not finite."""
    theta, tried = torch.ones(3, dtype=torch.float64), []
    new, metrics = trust_region_step(
        theta, torch.ones_like(theta), lambda v: v, lambda at: tried.append(at) or found, 1.0, max_kl=1.0, tries=4
    )
    assert torch.equal(new, torch.ones_like(theta))
    assert metrics["step_rejected"] == 1.0
    assert len(tried) == 4


def test_nan_advantages_reject_the_step() -> None:
    agent = point_agent()
    pre, post = [random_batch(agent, 2, 10, 0)], random_batch(agent, 2, 10, 1)
    before = {k: v.clone() for k, v in agent.theta.items()}
    metrics = agent.meta_update(pre, post._replace(advantage=post.advantage * torch.nan))
    assert metrics["step_rejected"] == 1.0
    assert all(torch.equal(before[k], agent.theta[k]) for k in before)


def test_accepted_steps_respect_the_trust_region_and_improve() -> None:
    agent = point_agent()
    pre, post = batches(agent, 1, samples=40)
    before = objective(agent, pre, post)
    metrics = agent.meta_update(pre, post)
    loss, kl = before.evaluate(flatten(agent.theta))
    assert metrics["step_rejected"] == 0.0
    assert kl == pytest.approx(metrics["kl"], rel=1e-6)
    assert 0 < metrics["kl"] <= agent.config.max_kl
    assert before.loss - loss == pytest.approx(metrics["improvement"], rel=1e-6)


def test_a_stride_is_for_the_metric_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The update's gradient is of all samples, its direction solves the thinned system."""
    asked = []
    step = "metarl.learning.gradient.outer_optimizers.trust_region_step"

    def spy(theta: Tensor, gradient: Tensor, product: Any, *_: Any, **__: Any) -> tuple[Tensor, dict[str, float]]:
        asked.append((gradient, product(gradient)))
        return theta, {"step_rejected": 1.0}

    monkeypatch.setattr(step, spy)
    agents = [point_agent(fvp_stride=stride, cg_damping=0.0) for stride in (1, 4)]
    pre, post = batches(agents[0], 1, samples=40)
    for agent in agents:
        agent.meta_update(pre, post)
    assert torch.equal(asked[0][0], asked[1][0])
    expected = objective(agents[0], pre, post, stride=4).fisher_vector(asked[0][0])
    torch.testing.assert_close(asked[1][1], expected)
    assert not torch.allclose(asked[0][1], asked[1][1])


def test_conjugate_gradient_solves_a_small_system() -> None:
    a = torch.tensor([[4.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    # by hand: [[4, 1], [1, 3]] x = [1, 2] has x = [1/11, 7/11]
    b = torch.tensor([1.0, 2.0], dtype=torch.float64)
    x, _ = conjugate_gradient(lambda v: a @ v, b, 10)
    early, residual = conjugate_gradient(lambda v: a @ v, b, 1)
    torch.testing.assert_close(residual, b - a @ early)
    assert float(residual.norm()) > 0.01
    torch.testing.assert_close(x, torch.tensor([1 / 11, 7 / 11], dtype=torch.float64))


def test_conjugate_gradient_keeps_its_pace_on_float32_products() -> None:
    """Eigenvalues from 1000 to 1e-3: the error after 40 steps, in the norm that the steps minimise, is .02 of x's.

    It is .29 where rounding is left to itself, and .14 with everything in float64 but residuals that drift.
    """
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(100, 100, generator=generator, dtype=torch.float64))[0]
    values = torch.logspace(0, -3, 100, dtype=torch.float64) * torch.tensor([1000.0, 300.0, 100.0] + [1.0] * 97)
    a = basis @ torch.diag(values) @ basis.T
    b = basis @ (torch.randn(100, generator=generator, dtype=torch.float64) * values.sqrt())
    exact, single = torch.linalg.solve(a, b), a.float()
    x, residual = conjugate_gradient(lambda v: single @ v, b.float(), 40)
    error = x.double() - exact
    assert x.dtype == residual.dtype == torch.float32
    assert torch.dot(error, a @ error) < 0.05**2 * torch.dot(exact, b)


@pytest.mark.parametrize(
    ("horizon", "eval_steps", "used"), [(15, 4000, 3990), (3, 4000, 3999), (100, 4000, 4000), (7, 5, 5)]
)
def test_an_adaptation_step_uses_at_most_eval_steps(counting: Any, horizon: int, eval_steps: int, used: int) -> None:
    """266 environments of 15 steps; 1,333 of 3; 40 of 100; and one of 5, whose episode is cut off."""
    agent = metarl.make_agent("maml", counting(horizon), hidden=(4,), eval_steps=eval_steps)
    results = evaluate(agent, k=2, num_tasks=1, episodes=1, modes=["deterministic"])
    assert results.env_steps.tolist() == [0.0, used, 2.0 * used]


def test_chunks_change_rounding_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(chunk: int) -> Params:
        monkeypatch.setattr("metarl.learning.gradient.inner_loop._CHUNK_ELEMENTS", chunk)
        agent = metarl.make_agent("maml", "metarl/PointNavigation-v0", meta_batch_size=4, episodes=2, hidden=(8,))
        agent.train_step(PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("train", 4)))
        return agent.theta

    one_by_one, together = trained(1), trained(10**9)
    for name in one_by_one:
        torch.testing.assert_close(one_by_one[name], together[name], rtol=0, atol=1e-4)


# --- steps that diverge ---------------------------------------------------------------------------------------------


def spoil(agent: MAML, rows: list[int], factor: float, calls: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The batches of these rows hold advantages that no step survives, in these of the next calls of `prepare`."""
    prepare, seen = agent.prepare, iter(range(100))

    def spoilt(rollout: Rollout) -> Batch:
        batch = prepare(rollout)
        if next(seen) in calls:
            batch.advantage[rows] *= factor
        return batch

    monkeypatch.setattr(agent, "prepare", spoilt)


@pytest.mark.parametrize("inner_lr", [1e30, 1e38])
def test_an_inner_step_that_blows_up_is_undone_reported_and_counted(inner_lr: float) -> None:
    agent = metarl.make_agent("maml", "metarl/PointNavigation-v0", hidden=(8, 8), eval_steps=200)
    agent.inner.sizes = FixedSizes(Schedule(inner_lr))
    trials = PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("test", 5)[[4, 2, 3]])
    state = agent.begin(3)
    before = {k: v.clone() for k, v in state.items()}
    for step in (1, 2):
        told = rf"maml: inner step {step} in task 4 of split 'test' \(and 2 more tasks\) gave .* not finite"
        with pytest.warns(DivergedWarning, match=told):
            _, state = agent.interact(state, trials, step - 1)
        assert state["failed"].tolist() == [step] * 3
        assert state["adaptation_steps"].tolist() == [step] * 3
        assert all(torch.equal(before[k], v) for k, v in params_of(state).items())
    with pytest.warns(DivergedWarning):
        results = evaluate(agent, k=2, num_tasks=2, episodes=1)
    assert np.isfinite(results.scores["sampled"]).all()  # of the parameters that were kept


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 1e38])
def test_rows_that_fail_keep_their_last_good_parameters_and_others_adapt(
    factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = metarl.make_agent("maml", "metarl/PointNavigation-v0", hidden=(8, 8), eval_steps=200)
    trials = PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("test", 3))
    rollout, begun = trials.collect(agent, agent.begin(3), 0, agent.budget)
    good = agent.adapt(begun, rollout)
    spoil(agent, [1], factor, {1, 2}, monkeypatch)
    first = agent.adapt(begun, rollout)
    assert all(torch.equal(first[k], good[k]) for k in good)
    second = agent.adapt(first, rollout)
    assert second["failed"].tolist() == [0, 1, 0]
    for k, v in params_of(second).items():
        assert torch.isfinite(v).all()
        assert torch.equal(v[1], first[k][1])
        assert k == "log_std" or not torch.equal(v[0], first[k][0])
    third = agent.adapt(second, rollout)
    with pytest.warns(DivergedWarning, match=r"maml: inner step 3 in task 1 of split 'test' gave"):
        warn_of_failed("maml", second, third, trials)
    assert third["failed"].tolist() == [0, 2, 0]


def test_only_networks_that_cannot_overflow_are_taken_as_finite_unseen() -> None:
    """Four inputs of 1, weights of 1 to 3 units: 4, then 12 + .5 is the most that a unit reaches."""
    params = {
        "w0": torch.ones(2, 4, 3),
        "b0": torch.zeros(2, 3),
        "w1": torch.ones(2, 3, 1),
        "b1": torch.full((2, 1), 0.5),
    }
    x = torch.ones(2, 5, 4)
    assert _moderate(params, x)
    assert _moderate(params | {"log_std": torch.full((2, 1), -49.0)}, x)
    for name, value in {"w0": 1e30 / 12, "w1": 1e30 / 12, "b0": 1e30, "b1": 1e30, "log_std": 51.0}.items():
        assert not _moderate(params | {name: torch.full_like(params.get(name, torch.ones(2, 1)), value)}, x)
    for wrong in (float("nan"), float("inf")):
        assert not _moderate(params, x * wrong)
        for name in params:
            assert not _moderate(params | {name: params[name] * wrong}, x)
    assert not _moderate(params | {"w0": torch.ones(2, 6, 3), "context": torch.full((2, 2), 1e30)}, x)
    assert not _moderate({f"0.{name}": value for name, value in params.items()}, x)  # of another policy


def test_a_deviation_that_overflows_or_vanishes_is_a_failed_step() -> None:
    """A log_std of 100 or -100 is a finite number, but no policy: one such row would spoil every row's update."""
    agent = metarl.make_agent("meta_sgd", "metarl/PointNavigation-v0", hidden=(8,), eval_steps=200)
    agent.theta["alpha.log_std"].fill_(800.0)
    trials = PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("test", 8))
    rollout, state = trials.collect(agent, agent.begin(8), 0, agent.budget)
    alpha = agent.inner.step_sizes(agent.theta, 0)
    moved = inner_step(agent.inner, agent.inner.start(agent.theta, 8), agent.prepare(rollout), alpha)["log_std"]
    assert float(moved.max()) > 89
    assert float(moved.min()) < -89
    adapted, wrong = agent.adapt(state, rollout), (moved.abs() > 88.5).any(1)
    assert adapted["failed"].tolist() == wrong.long().tolist()
    assert 0 < int(wrong.sum()) < 8
    assert torch.equal(adapted["log_std"], torch.where(wrong.unsqueeze(1), state["log_std"], moved))


@pytest.mark.parametrize("name", [n for n in LEARNERS if n not in ("pretrained", "shared_trunk")])
def test_training_goes_on_when_every_row_fails(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = metarl.make_agent(name, "metarl/PointNavigation-v0", **(SMALL | {"inner_steps": 2}))
    before = {k: v.clone() for k, v in agent.tensors().items()}
    with monkeypatch.context() as patch:
        spoil(agent, [0, 1, 2], float("nan"), {0}, patch)
        with pytest.warns(DivergedWarning, match=rf"{name}: inner step 1 in task 30 of split 'train' \(and 2 more"):
            metrics = agent.train_step(trials_of(agent, 3, first=30))
    assert metrics["failed_steps"] == 3.0
    assert all(np.isfinite(v) for v in metrics.values())
    if name == "reptile":  # counts what the rows have, here their second step
        assert metrics["distance"] > 0
        return
    assert metrics["step_rejected"] == 1.0
    assert all(torch.equal(before[k], v) for k, v in agent.tensors().items())
    metrics = agent.train_step(trials_of(agent, 3, first=33))
    assert metrics["failed_steps"] == 0.0
    assert metrics["step_rejected"] == 0.0
    assert any(not torch.equal(before[k], v) for k, v in agent.tensors().items())


@pytest.mark.parametrize("name", [n for n in LEARNERS if n not in ("pretrained", "reptile", "shared_trunk")])
def test_only_the_rows_that_fail_are_dropped(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The update is the one without their tasks."""
    settings = SMALL | {"inner_steps": 2, "episodes": 4}
    agent, other = (metarl.make_agent(name, "metarl/PointNavigation-v0", **settings) for _ in range(2))
    spoil(agent, [1], float("nan"), {1}, monkeypatch)  # in the second of two steps
    with pytest.warns(DivergedWarning, match=rf"{name}: inner step 2 in task 1 of split 'train' gave"):
        metrics = agent.train_step(trials_of(agent, 3))
    assert metrics["failed_steps"] == 1.0
    assert metrics["step_rejected"] == 0.0
    expected = other.train_step(trials_of(other, [0, 2]))
    assert metrics["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4)
    for k, v in agent.theta.items():
        torch.testing.assert_close(v, other.theta[k], rtol=0, atol=2e-4)


# --- hyperparameters and learning -----------------------------------------------------------------------------------


def test_bad_hyperparameters_are_named() -> None:
    wrong = [
        ("estimator", "dice2"),
        ("activation", "gelu"),
        ("inner_lr", float("nan")),
        ("episodes", 0),
        ("hidden", (0,)),
    ]
    wrong += [("inner_lr_schedule", ()), ("inner_lr_schedule", (1.0, float("nan"))), ("fvp_stride", 0)]
    for field, value in wrong:
        with pytest.raises(metarl.InvalidValueError, match=rf"maml\.{field}(\[\d\])? is"):
            metarl.make_agent("maml", "metarl/PointNavigation-v0", **{field: value})


def test_dice_needs_monte_carlo_returns() -> None:
    with pytest.raises(metarl.InvalidValueError, match=r"maml\.gae_lambda is 0\.9"):
        metarl.make_agent("maml", "metarl/PointNavigation-v0", estimator="dice", gae_lambda=0.9)
    metarl.make_agent("maml", "metarl/PointNavigation-v0", estimator="loaded_dice", gae_lambda=0.9)


def test_config_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        MAML.Config().inner_lr = 1.0  # type: ignore[misc]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_cpu() -> None:
    """Returns and adapted policies to rounding, of which conjugate gradients in float32 make more."""
    adapted, trained, returns = [], [], []
    for device in ("cpu", "cuda"):
        agent = metarl.make_agent("maml", "metarl/PointNavigation-v0", device=device, meta_batch_size=4, episodes=4)
        before = {k: v.cpu() for k, v in agent.theta.items()}
        pool, tasks = EnvironmentPool(agent.family, agent.device), agent.family.tasks("train", 4)
        rollout, state = agent.interact(agent.begin(4), PoolTrials(pool, tasks), 0)
        adapted.append({k: v.cpu() for k, v in state.items()})
        returns.append(rollout.mean_return().cpu())
        agent.train_step(PoolTrials(pool, tasks))
        trained.append({k: v.cpu() for k, v in agent.theta.items()})
    torch.testing.assert_close(returns[0], returns[1], rtol=0, atol=1e-2)
    torch.testing.assert_close(adapted[0], adapted[1], rtol=0, atol=1e-4)
    error, step = (sum(float((a[k] - b[k]).square().sum()) for k in before) for a, b in (trained, (trained[0], before)))
    assert step > 0
    assert error < 0.05**2 * step


def test_loaded_parameters_keep_their_own_order():
    """A file has its names in another one, and sums over parameters would round otherwise."""
    agent = metarl.make_agent("maml", "metarl/PointNavigation-v0", hidden=(4,))
    order = list(agent.tensors())
    agent.load_tensors({k: agent.tensors()[k] for k in reversed(order)})
    assert list(agent.tensors()) == order
