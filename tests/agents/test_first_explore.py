"""First-Explore: payments by hand, what exploiting leaves in the memory, and which head plays which episode."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

import metarl
from metarl import InvalidValueError
from metarl.agent import Budget
from metarl.agents.memory.first_explore import EpisodePPO, FirstExplore, improvements, trial_returns
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials


class Corridor(metarl.TorchFamily):
    """Steps to the left or the right of a hidden length, which end the episode early; each pays the place."""

    id = "toy/Corridor-v0"
    observation_space, action_space, horizon = Box(-5.0, 5.0, (1,), np.float32), Discrete(2), 5
    task_space: ClassVar = {"end": metarl.Uniform(1.0, 4.0)}

    def reset(self, task: dict[str, Tensor], rng: metarl.Rng) -> Tensor:
        return torch.zeros_like(task["end"])

    def observe(self, state: Tensor, task: dict[str, Tensor]) -> Tensor:
        return state.unsqueeze(1)

    def step(self, state: Tensor, action: Tensor, task: dict[str, Tensor], rng: metarl.Rng) -> Any:
        state = state + 2.0 * action - 1.0
        return state, state * 1.0, state.abs() >= task["end"]


def made(family: Any = "metarl/DarkTreasureRooms-v0", **settings: Any) -> FirstExplore:
    small = {"hidden": 8, "trial_episodes": 6, "explore_episodes": 3, "meta_batch_size": 8, "minibatches": 2}
    agent = metarl.make_agent("first_explore", family, **(small | settings))
    assert isinstance(agent, FirstExplore)
    with torch.no_grad():  # policies that differ and are far from uniform
        agent.net.policy.weight.mul_(500.0)
    return agent


def trained_on(agent: FirstExplore, rows: int = 6) -> tuple[Any, dict[str, Tensor]]:
    """A rollout of training, and the state after it."""
    trials = PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("train", rows))
    state = agent.begin(rows)
    state["explores"].fill_(-1)
    return trials.collect(agent, state, 0, Budget(episodes=2 * agent.pairs))


def test_payments_by_hand() -> None:
    explored = torch.tensor([[-1.0, 2.0, 0.5, 9.0], [0.0, 0.0, 0.0, 0.0]])
    exploited = torch.tensor([[0.5, 0.25, 3.0, 2.5], [-1.0, -2.0, 1.0, 1.0]])
    # the best before: 0, .5, 2 (an exploring episode's), 3; in the second trial never below 0: 0, 0, 0, 1
    assert improvements(explored, exploited).tolist() == [[0.5, 0.0, 1.0, 0.0], [0.0, 0.0, 1.0, 0.0]]


def test_the_choice_of_k_by_hand() -> None:
    # 10 episodes: -1 + 9 * 1, -1 - 1 + 8 * 1.5 and -1 - 1 - 3 + 7 * 1.8
    means = torch.tensor([-1.0, -1.0, -3.0]), torch.tensor([1.0, 1.5, 1.8])
    torch.testing.assert_close(trial_returns(*means, 10), torch.tensor([8.0, 10.0, 7.6]))
    agent = made(trial_episodes=10)
    agent.means = torch.stack(means).double()
    assert agent.explores == 2
    assert agent.begin(3)["explores"].tolist() == [[2]] * 3
    short = made(trial_episodes=4)
    short.means = agent.means  # 2, 1 and -3.2
    assert short.explores == 1


@pytest.mark.parametrize("family", ["metarl/DarkTreasureRooms-v0", Corridor()])
def test_training_is_paid_episode_by_episode(family: Any) -> None:
    agent = made(family, discount=1.0, gae_lambda=1.0)
    rollout, _ = trained_on(agent)
    ppo = EpisodePPO("first_explore", agent.family, agent.config, agent.net, agent.trial_memory.inputs.size)
    reward = ppo.learning_rewards(rollout)
    advantage = ppo.advantages(rollout, reward, torch.zeros_like(reward))
    for row in range(6):
        returns, steps, first = [], [], 0
        for t in range(len(reward)):
            if rollout.valid[t, row, 0] and rollout.ended[t, row, 0]:
                steps.append(slice(first, t + 1))
                returns.append(float(rollout.reward[first : t + 1, row, 0].sum()))
                first = t + 1
        assert len(returns) == 6
        best = 0.0
        for i in range(3):
            pay = max(0.0, returns[2 * i + 1] - best)
            best = max(best, returns[2 * i], returns[2 * i + 1])
            explore, exploit = steps[2 * i], steps[2 * i + 1]
            expected = torch.zeros(explore.stop - explore.start)
            expected[-1] = pay
            torch.testing.assert_close(reward[explore, row], expected)
            torch.testing.assert_close(reward[exploit, row], rollout.reward[exploit, row, 0])
            # no return runs past the end of its episode
            torch.testing.assert_close(advantage[explore, row], torch.full_like(expected, pay))
            assert float(advantage[exploit, row][0]) == pytest.approx(returns[2 * i + 1], abs=1e-5)


def test_the_advantages_of_each_kind_have_deviation_1() -> None:
    """However little exploring improves."""
    agent = made()
    rollout, _ = trained_on(agent, rows=20)
    given = agent.given(rollout)
    batch = agent.ppo.prepare(rollout, given)
    for kind in (given["exploring"], given["exploiting"]):
        assert float(batch.advantage[kind].mean()) == pytest.approx(0.0, abs=1e-5)
        assert float(batch.advantage[kind].square().mean()) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("family", ["metarl/DarkTreasureRooms-v0", "metarl/PointNavigation-v0", Corridor()])
def test_training_sees_what_acting_saw(family: Any) -> None:
    made_family = metarl.make_family(family)
    if made_family.horizon > 9:
        made_family = metarl.make_family(family, horizon=6)
    agent = made(made_family)
    if agent.net.log_std is not None:
        with torch.no_grad():
            agent.net.log_std.copy_(torch.tensor([[-1.0], [0.5]]).expand(2, 2))
    rollout, _ = trained_on(agent)
    out = agent.net(agent.given(rollout))
    valid = rollout.valid[:, :, 0]
    for name, found in (("log_prob", out.policy.log_prob(rollout.action[:, :, 0])), ("value", out.value)):
        torch.testing.assert_close(found[valid], rollout.extras[name][:, :, 0][valid], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(agent.net.values(agent.given(rollout)), out.value)


def test_what_happens_in_exploiting_episodes_is_forgotten() -> None:
    """The memory after a trial of training is that of its exploring episodes alone, played in a row."""
    agent = made()
    rollout, state = trained_on(agent)
    exploring = agent.given(rollout)["exploring"]
    x = torch.stack([rollout.extras["x"][:, row, 0][exploring[:, row]] for row in range(6)], 1)
    h = agent.net.memory(x)[-1].detach()
    for name in ("h", "kept.h"):
        torch.testing.assert_close(state[name], h)
    assert torch.equal(state["last"], state["kept.last"])
    assert state["episode"].tolist() == [[6]] * 6


def test_an_exploiting_episode_begins_with_what_exploring_has_left() -> None:
    agent = made()
    trials = PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("test", 4))
    state = agent.begin(4)
    state["explores"].fill_(2)
    kinds, memories = [], []
    for i in range(5):
        memories.append(agent.fork(state))
        rollout, state = trials.collect(agent, state, i, Budget(episodes=1))
        kinds.append(rollout.extras["exploring"][:, :, 0].unique().tolist())
    assert kinds == [[True], [True], [False], [False], [False]]
    assert not torch.equal(memories[1]["h"], memories[2]["h"])
    for later in memories[3:]:
        assert torch.equal(memories[2]["h"], later["h"])
        assert torch.equal(memories[2]["last"], later["last"])


def test_each_head_plays_its_own_episodes() -> None:
    agent = made("metarl/BernoulliBandit-v0", trial_episodes=8, explore_episodes=4)
    with torch.no_grad():
        agent.net.policy.weight.zero_()
        agent.net.policy.bias.copy_(torch.tensor([0.0, 99, 0, 0, 0, 0, 0, 0, 99, 0]))  # explore: 1, exploit: 3
    rollout, _ = trained_on(agent)
    assert rollout.action[:, 0, 0].tolist() == [1, 3] * 4
    trials = PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("test", 2))
    state = agent.begin(2)
    state["explores"].fill_(3)
    assert trials.collect(agent, state, 0, Budget(episodes=5))[0].action[:, 0, 0].tolist() == [1, 1, 1, 3, 3]


def test_k_follows_the_training_and_is_part_of_a_checkpoint() -> None:
    agent = made("metarl/DeceptiveBandit-v0", trial_episodes=10, explore_episodes=2)
    seen = []
    for i in range(2):
        tasks = agent.family.tasks("train", 8, start=8 * i)
        trials = PoolTrials(EnvironmentPool(agent.family), tasks, iteration=i)
        state = agent.begin(8)
        state["explores"].fill_(-1)
        returns = trials.collect(agent, state, 0, Budget(episodes=4))[0].reward[:, :, 0].double().mean(1)
        seen.append(returns.view(2, 2).t())
        agent.train_step(trials)
    torch.testing.assert_close(agent.means, 0.9 * seen[0] + 0.1 * seen[1])
    other = made("metarl/DeceptiveBandit-v0", trial_episodes=10, explore_episodes=2, seed=1)
    other.load_tensors(agent.tensors())
    assert torch.equal(other.means, agent.means)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"trial_episodes": 1, "explore_episodes": 0}, r"trial_episodes is 1, expected at least 2, an exploring"),
        ({"trial_episodes": 4, "explore_episodes": 4}, r"explore_episodes is 4, expected .*from 1 to 3"),
        ({"explore_episodes": -1}, r"explore_episodes is -1"),
        ({"hidden": 0}, r"hidden is 0"),
    ],
)
def test_wrong_hyperparameters_are_named(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidValueError, match=rf"first_explore\.{sentence}"):
        made(**settings)


def test_tasks_that_switch_are_refused() -> None:
    with pytest.raises(InvalidValueError, match=r"family of first_explore is .*expected a family whose task stays"):
        made("metarl/Switching-v0")


def test_half_of_a_trial_explores_at_most_by_default() -> None:
    agent = made(trial_episodes=11, explore_episodes=0)
    assert (agent.pairs, agent.train_env_steps) == (5, 8 * 2 * 5 * 9)


def test_exploring_that_is_never_paid_has_no_advantages() -> None:
    """Returns below 0 pay no exploring; what is left would be the value's errors, at full size."""
    agent = made("metarl/PointNavigation-v0", trial_episodes=4, explore_episodes=2)
    rollout, _ = trained_on(agent)
    given = agent.given(rollout)
    exploring = given["exploring"]
    unpaid = agent.ppo.prepare(rollout, given).advantage
    assert (unpaid[exploring] == 0).all()
    assert unpaid[given["exploiting"]].std() > 0.5
    rollout.reward.add_(10.0)
    assert agent.ppo.prepare(rollout, given).advantage[exploring].std() > 0.5


def test_trials_that_do_not_fit_are_refused_by_the_episodes_that_training_plays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent = made(explore_episodes=5)  # ten episodes in training, though a trial has six
    kept, inputs = agent.net.memory.floats_kept, agent.trial_memory.inputs.size
    need = 4 * 10 * agent.family.horizon * (4 * kept + 3 * 8 * inputs)
    trials = PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("train", 8))
    monkeypatch.setattr("metarl.learning.ppo.free_bytes", lambda device: need - 1)
    with pytest.raises(InvalidValueError, match=r"first_explore.explore_episodes is 5, expected at most about 4 "):
        agent.train_step(trials)
    monkeypatch.setattr("metarl.learning.ppo.free_bytes", lambda device: need)
    agent.train_step(trials)


def test_a_trial_that_is_lived_again_is_remembered_as_it_was_played() -> None:
    """The values that were told while acting follow from the features, also after exploiting has been forgotten."""
    agent = made(Corridor())
    trials = PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("train", 5))
    state, rollouts = agent.begin(5), []
    state["explores"].fill_(1)
    agent.means = torch.zeros_like(agent.means)  # k is 1
    for k in range(3):
        rollout, state = agent.interact(state, trials, k)
        rollouts.append(rollout)
    valid = torch.cat([rollout.valid for rollout in rollouts])
    exploring, told = (torch.cat([rollout.extras[name] for rollout in rollouts]) for name in ("exploring", "value"))
    value = agent.net.value_of(agent.belief_features(rollouts).unsqueeze(2), exploring)
    assert not valid.all()
    assert exploring.any()
    assert not exploring.all()
    torch.testing.assert_close(value[valid], told[valid], rtol=0, atol=1e-6)
