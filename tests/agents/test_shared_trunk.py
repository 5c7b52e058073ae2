"""A shared trunk with a head for each train task: which tasks and heads meet, and what adapts to a new task."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_maml import trials_of
from test_meta_gradient import plain_gradient

import metarl
from metarl.agent import Trials
from metarl.agents.gradient.maml import params_of
from metarl.agents.strategies.shared_trunk import SharedTrunk
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.learning.gradient.meta_gradient import MetaObjective
from metarl.learning.gradient.trust_region import flatten

POINT = "metarl/PointNavigation-v0"


def small(**overrides: Any) -> SharedTrunk:
    settings = {"hidden": (8,), "meta_batch_size": 3, "episodes": 2, "eval_steps": 60} | overrides
    agent = metarl.make_agent("shared_trunk", POINT, **settings)
    assert isinstance(agent, SharedTrunk)
    return agent


def test_every_update_plays_the_same_train_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    agent, played = small(), []
    step = agent.train_step

    def spy(trials: Trials) -> dict[str, float]:
        played.append(trials.tasks.index.tolist())
        return step(trials)

    monkeypatch.setattr(agent, "train_step", spy)
    metarl.train(agent, 3)
    assert played == [[0, 1, 2]] * 3
    with pytest.raises(metarl.InvalidValueError, match=r"rows of the trials is 2, expected 3, one for each head"):
        step(trials_of(agent, 2))


def test_heads_begin_alike_and_part_and_a_new_head_is_their_mean() -> None:
    agent = small()
    heads = {k: agent.theta[f"heads.{k}"] for k in ("w1", "b1")}
    assert heads["w1"].shape == (3, 8, 2)
    assert heads["b1"].shape == (3, 2)
    assert all(torch.equal(v[0], v[2]) for v in heads.values())
    metarl.train(agent, 2)
    heads = {k: agent.theta[f"heads.{k}"] for k in ("w1", "b1")}
    assert not torch.equal(heads["w1"][0], heads["w1"][2])
    state = agent.begin(5)
    for k, v in heads.items():
        torch.testing.assert_close(state[k], v.mean(0).expand(5, *v.shape[1:]))
    assert torch.equal(state["w0"][4], agent.theta["w0"])


def test_each_row_learns_its_own_head_and_all_rows_the_trunk() -> None:
    """The gradient is the one of the mean loss, by plain differentiation, task by task."""
    agent = small()
    agent.theta = {k: v.double() for k, v in agent.theta.items()}
    generator = torch.Generator().manual_seed(0)
    for k in ("heads.w1", "heads.b1"):
        agent.theta[k] += torch.randn(agent.theta[k].shape, generator=generator, dtype=torch.float64)
    trials = trials_of(small(), 3)
    rollout, _ = trials.collect(small(), small().begin(3), 0, agent.train_budget)
    batch = agent.prepare(rollout)
    batch = type(batch)(*(v.double() if v.is_floating_point() else v for v in batch))
    outer = agent.make_outer_loss(batch)

    def loss(theta: dict[str, torch.Tensor]) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for row in range(3):
            own = {"w1": theta["heads.w1"][row], "b1": theta["heads.b1"][row]}
            params = {k: v[None] for k, v in {"w0": theta["w0"], "b0": theta["b0"], **own}.items()}
            params["log_std"] = theta["log_std"][None]
            one = batch.rows(slice(row, row + 1))
            policy = agent.policy(params, one.x)
            total = total + outer(0, policy, one, policy.detach(), True) / 3
        return total

    found = MetaObjective(agent.trained, outer, agent.theta, [], batch).grad
    torch.testing.assert_close(found, plain_gradient(loss, agent.theta), rtol=1e-9, atol=1e-12)
    assert float(flatten({k: agent.theta[k] for k in agent.theta}).norm()) > 0


@pytest.mark.parametrize(("adapted", "moved"), [("head", {"w1", "b1"}), ("all", {"w0", "b0", "w1", "b1", "log_std"})])
def test_a_new_task_adapts_the_head_or_everything(adapted: str, moved: set[str]) -> None:
    agent = small(adapted=adapted)
    trials = PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("test", 2))
    before = {k: v.clone() for k, v in agent.begin(2).items()}
    _, state = agent.interact(agent.begin(2), trials, 0)
    params = params_of(state)
    assert {k for k in params if not torch.equal(params[k], before[k])} == moved
    assert not torch.equal(params["w1"][0], params["w1"][1])


def test_hard_train_tasks_are_refused() -> None:
    from metarl.runs.task_sampling import CrossEntropySampler

    with pytest.raises(metarl.InvalidValueError, match="task_sampler is 'cem', expected 'family' for shared_trunk"):
        CrossEntropySampler(small(meta_batch_size=10))
