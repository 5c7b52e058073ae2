"""The agent with several initialisations: where a task begins, what its first rollout decides, and what stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import metarl
from metarl.agent import Rollout
from metarl.agents.gradient.maml import MAML
from metarl.agents.strategies.clustered import Clustered
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.evaluation.evaluate import evaluate

DENSE = "metarl/PointNavigation-v0"
SMALL: dict[str, Any] = {"hidden": (4,), "meta_batch_size": 3, "episodes": 2, "eval_steps": 200, "final_gain": 1.0}


def clustered(family: str = DENSE, **settings: Any) -> Clustered:
    agent = metarl.make_agent("clustered", family, **(SMALL | settings))
    assert isinstance(agent, Clustered)
    return agent


def trials_of(agent: MAML, tasks: int = 3) -> PoolTrials:
    return PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("train", tasks), 1, 0, "test")


def played(agent: Clustered) -> tuple[Rollout, dict[str, Tensor], dict[str, Tensor]]:
    """A first rollout, and the state before and after it."""
    state = agent.begin(3)
    rollout, after = agent.interact(agent.fork(state), trials_of(agent), 0)
    return rollout, state, after


def weights_by_hand(agent: Clustered, rollout: Rollout) -> Tensor:
    """Task after task: the softmax of the mean over transitions of reward * f + advantage * g, both standardised."""
    theta, found = agent.theta, []
    advantage = MAML.prepare(agent, rollout).advantage.view(3, len(rollout.reward), -1)
    for row in range(3):
        x = torch.cat([rollout.obs[:, row], rollout.action[:, row].clamp(-1.0, 1.0)], -1)
        out = torch.relu(x @ theta["encoder.w0"] + theta["encoder.b0"]) @ theta["encoder.w1"] + theta["encoder.b1"]
        reward = rollout.reward[:, row]
        reward = (reward - reward.mean()) / reward.std(correction=0)
        f, g = out[..., : agent.config.clusters], out[..., agent.config.clusters :]
        each = reward.unsqueeze(-1) * f + advantage[row].unsqueeze(-1) * g
        found.append(each.mean((0, 1)).softmax(-1))
    return torch.stack(found)


def test_every_task_begins_with_the_mean_of_the_initialisations() -> None:
    agent = clustered(clusters=3)
    state = agent.begin(2)
    torch.testing.assert_close(agent.policy.weights(state), torch.full((2, 3), 1 / 3))
    mean = {name: agent.theta[f"initial.{name}"].mean(0) for name in agent.policy.layers}
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    hidden = torch.relu(x @ mean["w0"] + mean["b0"])
    torch.testing.assert_close(agent.policy(state, x.expand(2, 5, 2)).mode[1], hidden @ mean["w1"] + mean["b1"])
    first = agent.theta["initial.w0"]
    assert not torch.allclose(first[0], first[1])  # the initialisations differ


def test_the_first_rollout_of_a_task_decides_its_weights() -> None:
    agent = clustered()
    rollout, _, after = played(agent)
    weights = agent.policy.weights(after)
    torch.testing.assert_close(weights, weights_by_hand(agent, rollout))
    torch.testing.assert_close(weights.sum(-1), torch.ones(3))
    assert float((weights[0] - weights[1]).abs().max()) > 1e-3


def test_the_first_step_adds_the_policy_gradient_at_the_common_start() -> None:
    """By MAML, whose initial parameters are the mean of the initialisations."""
    agent = clustered()
    rollout, before, after = played(agent)
    maml = metarl.make_agent("maml", DENSE, **SMALL)
    assert isinstance(maml, MAML)
    maml.theta = {name: agent.theta[f"initial.{name}"].mean(0) for name in agent.policy.layers}
    maml.theta["log_std"] = agent.theta["log_std"]
    begun = maml.begin(3)
    stepped = maml.adapt(begun, rollout)
    weights = weights_by_hand(agent, rollout)
    for name in agent.policy.layers:
        torch.testing.assert_close(after[name], stepped[name] - begun[name], rtol=1e-3, atol=1e-5)
        assert float(after[name].abs().max()) > 1e-3
        assert torch.equal(after[f"initial.{name}"], before[f"initial.{name}"])
    torch.testing.assert_close(after["log_std"], stepped["log_std"], rtol=1e-3, atol=1e-5)
    expected = after["w0"][1] + sum(weights[1, c] * agent.theta["initial.w0"][c] for c in range(4))
    x = torch.eye(2).expand(3, 2, 2)
    plain = {"w0": expected, "b0": after["b0"][1] + weights[1] @ agent.theta["initial.b0"]}
    plain["w1"] = after["w1"][1] + torch.einsum("c,cio->io", weights[1], agent.theta["initial.w1"])
    plain["b1"] = after["b1"][1] + weights[1] @ agent.theta["initial.b1"]
    by_hand = torch.relu(x[1] @ plain["w0"] + plain["b0"]) @ plain["w1"] + plain["b1"]
    torch.testing.assert_close(agent.policy(after, x).mode[1], by_hand)


def test_later_steps_keep_the_weights_and_move_the_layers() -> None:
    agent = clustered()
    _, _, after = played(agent)
    _, later = agent.interact(agent.fork(after), trials_of(agent), 1)
    assert torch.equal(later["gate"], after["gate"])
    assert not torch.equal(later["w0"], after["w0"])


def test_the_rollout_that_assigns_is_counted() -> None:
    results = evaluate(clustered(), k=2, num_tasks=3, episodes=2)
    assert [row["env_steps"] for row in results.summary()] == [0, 200, 400]


def test_one_cluster_is_maml() -> None:
    agent, maml = clustered(clusters=1), metarl.make_agent("maml", DENSE, **SMALL)
    assert isinstance(maml, MAML)
    metarl.train(agent, 2)
    metarl.train(maml, 2)
    for name in agent.policy.layers:
        torch.testing.assert_close(agent.theta[f"initial.{name}"][0], maml.theta[name], rtol=1e-3, atol=1e-4)


def test_the_meta_update_trains_initialisations_and_encoder() -> None:
    agent = clustered()
    before = {name: value.clone() for name, value in agent.theta.items()}
    metarl.train(agent, 2)
    assert all(not torch.equal(value, before[name]) for name, value in agent.theta.items())


@pytest.mark.parametrize("family", ["metarl/GridNavi-v0", "metarl/TabularMDP-v0"])
def test_discrete_actions_and_observations(family: str) -> None:
    agent = clustered(family, clusters=2)
    metarl.train(agent, 1)
    assert agent.policy.weights(played(agent)[2]).shape == (3, 2)
