"""The mixture of children: its weights, what adapts, and what it becomes with one child."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import metarl
from metarl.agent import Rng
from metarl.agents.strategies.mixture import Mixture
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.families.registry import make_family

DENSE = "metarl/PointNavigation-v0"


def mixture(family: str = DENSE, **settings: Any) -> Mixture:
    agent = metarl.make_agent("mixture", family, hidden=(4,), meta_batch_size=3, episodes=2, eval_steps=200, **settings)
    assert isinstance(agent, Mixture)
    return agent


def test_the_output_is_a_mean_of_the_children_with_weights_that_sum_to_one() -> None:
    agent = mixture(children=3)
    policy, theta = agent.policy, dict(agent.theta)
    theta["mother"] = torch.tensor([2.0, 0.0, -1.0])
    weights = policy.weights(theta)  # type: ignore[attr-defined]
    assert float(weights.sum()) == pytest.approx(1.0)
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    means = []
    for i in range(3):
        hidden = torch.relu(x @ theta[f"{i}.w0"] + theta[f"{i}.b0"])
        means.append(hidden @ theta[f"{i}.w1"] + theta[f"{i}.b1"])
    expected = sum(w * mean for w, mean in zip(weights, means, strict=True))
    torch.testing.assert_close(policy(theta, x).mode, expected)
    assert not torch.allclose(means[0], means[1])  # the children differ from the first
    rows = policy.start(theta, 2)
    rows["mother"] = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 50.0]])
    both = policy(rows, x.expand(2, 5, 2)).mode
    torch.testing.assert_close(both[0], expected)
    torch.testing.assert_close(both[1], means[2])


@pytest.mark.parametrize("every", [False, True])
def test_an_inner_step_moves_the_mother_alone_unless_children_adapt_too(every: bool) -> None:
    agent = mixture(adapt_children=every)
    family = make_family(DENSE)
    trials = PoolTrials(EnvironmentPool(family), family.tasks("train", 3), 1, 0, "test")
    state = agent.begin(3)
    _, adapted = agent.interact(agent.fork(state), trials, 0)
    moved = {name for name in agent.theta if not torch.equal(state[name], adapted[name])}
    assert "mother" in moved
    assert (moved == {"mother"}) != every


def test_one_child_is_maml_without_inner_steps() -> None:
    agent = mixture(children=1)
    plain = metarl.make_agent("maml", DENSE, hidden=(4,), final_gain=1.0, meta_batch_size=3, episodes=2)
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    theta = {f"0.{name}": value for name, value in plain.theta.items() if name != "log_std"}  # type: ignore[attr-defined]
    given = theta | {"mother": torch.zeros(1), "log_std": plain.theta["log_std"]}  # type: ignore[attr-defined]
    torch.testing.assert_close(agent.policy(given, x).mode, plain.policy(plain.theta, x).mode)  # type: ignore[attr-defined]


def test_the_meta_update_trains_children_and_mother() -> None:
    agent = mixture()
    before = {name: value.clone() for name, value in agent.theta.items()}
    metarl.train(agent, 2)
    assert all(not torch.equal(value, before[name]) for name, value in agent.theta.items())


def test_discrete_actions_mix_logits() -> None:
    agent = mixture("metarl/GridNavi-v0", children=2)
    x = torch.randn(3, agent.policy.encode.size, generator=torch.Generator().manual_seed(0))
    assert agent.policy(agent.theta, x).sample(Rng(torch.arange(3))).shape == (3,)
