"""What a memory is given through a trial, the state between two steps, and the training of a network by Adam."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import metarl
from metarl.agent import (
    Feedback,
    Rollout,
    Step,
    TrialInputs,
    TrialMemory,
    adam_step,
    load_net,
    make_memory,
    net_tensors,
    seeded,
)
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.learning.memory import MEMORIES

MAZE = 'metarl/TMaze-v0{"corridor": 1, "horizon": 6, "turns": 1}'


def inputs_of(family: str) -> TrialInputs:
    return TrialInputs(metarl.make_family(family), "test")


def test_inputs_are_observation_action_reward_and_end() -> None:
    """A bandit of 2 arms sees 1 number, 0: [obs, one-hot action, reward, end]."""
    inputs = inputs_of('metarl/BernoulliBandit-v0{"k": 2}')
    assert inputs.size == 1 + 2 + 1 + 1
    obs = torch.zeros(1, 1)
    assert inputs(obs, inputs.first(1, obs.device)).tolist() == [[0.0, 0.0, 0.0, 0.0, 1.0]]  # as after an episode
    after = inputs.after(torch.tensor([1]), torch.tensor([0.5]), torch.tensor([False]))
    assert inputs(obs, after).tolist() == [[0.0, 0.0, 1.0, 0.5, 0.0]]


def test_inputs_of_a_rollout_are_those_of_acting() -> None:
    """Each step's are the observation with the state's `last`, which acting goes on from."""
    agent: Any = metarl.make_agent("rl2", MAZE, hidden=8, trial_episodes=2, meta_batch_size=4, minibatches=1)
    rollout = play(agent)
    inputs, last = agent.trial_memory.inputs, agent.begin(3)["last"]
    for t, x in enumerate(inputs.of(rollout)):
        assert torch.equal(x, inputs(rollout.obs[t, :, 0], last))
        last = inputs.after(rollout.action[t], rollout.reward[t], rollout.ended[t])[:, 0]


def play(agent: Any) -> Rollout:
    """Two episodes in each of three tasks."""
    trials = PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("train", 3))
    return trials.collect(agent, agent.begin(3), 0, metarl.Budget(envs=1, episodes=2))[0]


@pytest.mark.parametrize("kind", MEMORIES)
def test_acting_step_by_step_gives_the_features_of_the_whole_trial(kind: str) -> None:
    """And a row that is not active keeps its state: its features at the next step are those of before."""
    agent: Any = metarl.make_agent("rl2", MAZE, hidden=8, trial_episodes=2, meta_batch_size=4, minibatches=1)
    rollout = play(agent)
    inputs = TrialInputs(agent.family, "test")
    with seeded(0):
        memory = make_memory(kind, inputs.size, 8, 20)
    trial, whole = TrialMemory(inputs, memory), memory(inputs.of(rollout))
    state = trial.begin(3, torch.device("cpu"))
    for t in range(len(rollout.reward)):
        h, state = trial.step(state, Step(rollout.obs[t], None))
        torch.testing.assert_close(h, whole[t], rtol=1e-4, atol=1e-5)
        parts = (rollout.action[t], rollout.reward[t], rollout.terminated[t], rollout.truncated[t])
        state = trial.observe(state, Feedback(*parts), None)
    again, acted = trial.step(dict(state), Step(rollout.obs[0], None))
    kept = trial.observe(acted, Feedback(*parts), torch.tensor([[True], [False], [True]]))
    after, _ = trial.step(kept, Step(rollout.obs[0], None))
    assert torch.equal(after[1], again[1])
    assert not torch.equal(after[0], again[0])


def test_adam_step_is_backward_clip_and_step() -> None:
    nets = [nn.Linear(3, 2), nn.Linear(3, 2)]
    nets[1].load_state_dict(nets[0].state_dict())
    adams = [torch.optim.Adam(net.parameters(), lr=0.1) for net in nets]
    x = torch.arange(6.0).view(2, 3)
    for _ in range(3):
        adam_step(adams[0], nets[0](x).square().sum(), max_grad_norm=0.5)
        adams[1].zero_grad()
        nets[1](x).square().sum().backward()
        assert float(nn.utils.clip_grad_norm_(nets[1].parameters(), 0.5)) > 0.5
        adams[1].step()
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))


@pytest.mark.parametrize("fused", [True, False])
def test_adam_takes_gradients_in_any_order_of_memory(fused: bool) -> None:
    """Of a transposed and of an expanded tensor: torch's fused Adam alone mistakes the one and reads past the other."""
    weights, shift = nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.zeros(1000))
    gradient = torch.tensor([[1.0, -1.0, 1.0], [1.0, 1.0, -1.0]]).T
    adam = torch.optim.Adam([weights, shift], lr=0.5, fused=fused)
    adam_step(adam, (weights.T * gradient.T).sum() + shift.sum())
    torch.testing.assert_close(weights.detach(), -0.5 * gradient)
    torch.testing.assert_close(shift.detach(), torch.full((1000,), -0.5))


def test_a_net_and_its_adam_are_restored() -> None:
    """After two steps; the third one is then the same, and rl2's checkpoints have the same names."""
    x, ends = torch.arange(6.0).view(2, 3), []
    net, adam = make_net()
    for step in range(3):
        if step == 2:
            saved = {k: v.clone() for k, v in net_tensors(net, adam).items()}
        adam_step(adam, net(x).square().sum())
    ends.append(net.weight.detach())
    net, adam = make_net()
    assert {k: v.shape for k, v in net_tensors(net, adam).items()} == {k: v.shape for k, v in saved.items()}
    load_net(net, adam, saved | {"updates": torch.tensor(2)})
    adam_step(adam, net(x).square().sum())
    assert torch.equal(ends[0], net.weight)
    rl2: Any = metarl.make_agent("rl2", MAZE, hidden=8)
    assert set(net_tensors(rl2.net, rl2.ppo.optimizer)) == set(rl2.tensors()) - {"updates", "return_moments"}


def make_net() -> tuple[nn.Linear, torch.optim.Optimizer]:
    with seeded(0):
        net = nn.Linear(3, 2)
    return net, torch.optim.Adam(net.parameters(), lr=0.1)


def test_a_box_without_a_deviation_has_that_of_one() -> None:
    head = metarl.agent.PolicyHead(metarl.make_family("metarl/PointNavigation-v0").action_space, "test")
    policy: Any = head.distribution(torch.zeros(3, 2))
    shown: Tensor = policy.log_std.exp()
    assert shown.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("settings", [{}, {"memory": "transformer"}, {"hypernetwork": True}])
def test_a_trial_that_is_lived_again_is_remembered_as_it_was_played(settings: dict[str, Any]) -> None:
    """The values that were told while acting follow from the features, also in rows whose episodes ended early."""
    agent: Any = metarl.make_agent("rl2", "metarl/CartPole-v0", hidden=8, **settings)
    trials = PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("train", 3))
    state, rollouts = agent.begin(3), []
    for k in range(2):
        rollout, state = agent.interact(state, trials, k)
        rollouts.append(rollout)
    features = agent.belief_features(rollouts)
    valid = torch.cat([rollout.valid[:, :, 0] for rollout in rollouts])
    assert features.shape == (len(valid), 3, 8)
    assert not valid.all()  # some rows ended before others
    obs = torch.cat([rollout.obs for rollout in rollouts])
    given = [torch.cat([o[:, 0], torch.zeros(3, agent.trial_memory.inputs.size - o.shape[-1])], -1) for o in obs]
    value = torch.stack([agent.net.value_of(h, x) for h, x in zip(features, given, strict=True)])
    told = torch.cat([rollout.extras["value"][:, :, 0] for rollout in rollouts])
    torch.testing.assert_close(value[valid], told[valid], rtol=0, atol=1e-6)
