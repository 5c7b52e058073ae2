"""GrBAL and ReBAL: what the model is adapted to, what trains it, and what is planned with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_contract import SMALL
from torch import Tensor

import metarl
from metarl.agent import Budget, Step
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials

NAMES = ("grbal", "rebal")
NAVIGATION = metarl.make_family("metarl/PointNavigation-v0", horizon=4)
BANDIT = "metarl/BernoulliBandit-v0"


def made(name: str, family: Any = NAVIGATION, **settings: Any) -> Any:
    return metarl.make_agent(name, family, **(SMALL[name] | settings))


def trials_of(agent: Any, split: str = "test") -> PoolTrials:
    return PoolTrials(EnvironmentPool(agent.family), agent.family.tasks(split, 3))


def pasts(agent: Any, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What the model is adapted to from now on."""
    found: list[Tensor] = []
    adapted = agent.model.adapted
    monkeypatch.setattr(agent.model, "adapted", lambda past: found.append(past.clone()) or adapted(past))
    return found


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", [NAVIGATION, BANDIT])
def test_the_model_is_adapted_to_the_last_transitions_of_the_trial(
    name: str, family: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each step of two episodes: the ones before it, as training has them; at first none."""
    agent = made(name, family, past_steps=3)
    found, trials = pasts(agent, monkeypatch), trials_of(agent)
    rollout, _ = trials.collect(agent, agent.begin(3), 0, Budget(episodes=5))
    steps = torch.cat([torch.zeros(3, 3, agent.layout.size), agent.layout.of(rollout)])
    assert len(found) == 5 * agent.family.horizon
    for t, past in enumerate(found):
        assert torch.equal(past, steps[t : t + 3].transpose(0, 1))


@pytest.mark.parametrize("name", NAMES)
def test_transitions_are_what_was_played(name: str) -> None:
    """The change of an episode's last observation is not known, and is not the way to the next episode's start."""
    agent = made(name)
    trials = trials_of(agent)
    rollout, _ = trials.collect(agent, agent.begin(3), 0, Budget(episodes=2), final_obs=True)
    at, steps = agent.layout, agent.layout.of(rollout)
    assert torch.equal(steps[..., at.reward], rollout.reward)
    assert torch.equal(steps[..., at.obs], rollout.obs[:, :, 0])
    assert torch.equal(steps[..., at.action], rollout.action[:, :, 0].clamp(-1.0, 1.0))
    assert torch.equal(steps[..., at.known], (~rollout.ended & rollout.valid)[..., 0].float())
    assert torch.equal(steps[..., at.terminated], rollout.terminated[..., 0].float())
    moved = (rollout.extras["final_obs"] - rollout.obs)[:, :, 0]
    torch.testing.assert_close(steps[..., at.change], moved * steps[..., at.known, None])


@pytest.mark.parametrize("name", NAMES)
def test_an_adapted_model_plans_otherwise(name: str) -> None:
    agent = made(name, candidates=100)
    trials = trials_of(agent)
    _, state = trials.collect(agent, agent.begin(3), 0, Budget(episodes=1))
    new, step = agent.begin(3), Step(torch.zeros(3, 1, 2), None)
    actions = [agent.act(s, step, metarl.Rng(torch.arange(3)), True)[0] for s in (state, new)]
    assert not torch.equal(*actions)


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_goes_on_in_an_episode_and_not_in_the_next(name: str) -> None:
    agent = made(name)
    trials = trials_of(agent)
    _, state = trials.collect(agent, agent.begin(3), 0, Budget(episodes=1))
    assert not state["plan"].any()
    _, state = trials.collect(agent, agent.begin(3), 0, Budget(steps=2))
    assert state["plan"][:, :-1].all()
    assert not state["plan"][:, -1].any()


@pytest.mark.parametrize("name", NAMES)
def test_models_are_trained_on_train_tasks_alone(name: str) -> None:
    """Playing held-out tasks between two meta-updates leaves no trace in what is learned."""
    alone, evaluated = made(name), made(name)
    for agent in (alone, evaluated):
        metarl.train(agent, 1)
    metarl.evaluate(evaluated, k=1, num_tasks=3, episodes=2)
    trials = trials_of(evaluated)
    evaluated.interact(evaluated.begin(3), trials, 0)
    for agent in (alone, evaluated):
        metarl.train(agent, 2, start=1)
    a, b = alone.tensors(), evaluated.tensors()
    assert [k for k in a if not torch.equal(a[k], b[k])] == []


@pytest.mark.parametrize("name", NAMES)
def test_pieces_are_of_one_trial_each(name: str) -> None:
    """Every trial has its own reward, and every step its own observation, 1, 2, ...; the last trial has three steps."""
    agent = made(name, trial_episodes=2, past_steps=4, predicted_steps=6, batch_size=300)
    steps = torch.zeros(8, 5, agent.layout.size)
    steps[..., agent.layout.valid] = 1.0
    steps[..., agent.layout.reward] = torch.arange(1.0, 6.0).unsqueeze(1)
    steps[..., 0] = torch.arange(1.0, 9.0).unsqueeze(1)
    steps[3:, 4] = 0.0
    agent.replay.add({"steps": steps})
    past, told = agent.pieces(5)
    whose = told[:, 0, agent.layout.reward]
    assert set(whose.flatten().tolist()) == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert (told[..., agent.layout.reward] == whose.unsqueeze(1)).all()
    assert set(told[..., 0].flatten().tolist()) == set(range(1, 9))
    assert told[whose[:, 0] == 5.0][..., 0].max() == 3.0
    played = past[..., agent.layout.valid] > 0
    assert ((past[..., agent.layout.reward][..., 0] == whose) | ~played).all()
    number = played.sum(1)
    assert set(number.tolist()) == {0, 1, 2, 3, 4}
    last = past[:, -1, 0]
    assert set(last.tolist()) == {0.0, *range(1, 8)}
    for back in range(1, 4):
        assert torch.equal(past[:, -1 - back, 0], (last - back).clamp_min(0.0))


def test_the_first_trials_are_random() -> None:
    """As uniform play with the same keys; the next ones are planned."""
    agent, random = made("rebal", updates=0), metarl.make_agent("random", NAVIGATION)
    rollouts = []
    for player in (agent, random):  # the replay has the first of its two episodes
        trials = trials_of(player, "train")
        if player is agent:
            agent.train_step(trials)
            rollouts.append(agent.replay.data["steps"][:, :3, agent.layout.action])
        rollouts.append(trials.collect(player, player.begin(3), 0, Budget(episodes=1))[0].action[:, :, 0])
    first, planned, expected = rollouts
    torch.testing.assert_close(first[:4], expected)
    assert (planned - expected).abs().max() > 0.1


def test_a_trial_of_training_has_a_hundred_steps() -> None:
    assert made("rebal", trial_episodes=0).train_env_steps == 2 * 25 * 4
    assert made("rebal", BANDIT, trial_episodes=0).config.trial_episodes == 100
    assert made("rebal", BANDIT, trial_episodes=7).train_env_steps == 2 * 7


def test_a_plan_is_no_longer_than_an_episode() -> None:
    agent = metarl.make_agent("rebal", "metarl/BernoulliBandit-v0")
    assert agent.begin(2)["plan"].shape[1] == 1
    assert metarl.make_agent("rebal", "metarl/Pendulum-v0").begin(2)["plan"].shape[1] == 15


def test_a_recurrent_model_without_hidden_layers_is_refused() -> None:
    with pytest.raises(metarl.InvalidValueError, match=r"rebal.hidden is \(\), expected at least one width"):
        metarl.make_agent("rebal", NAVIGATION, hidden=())


@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_diverges_is_warned_of(name: str) -> None:
    agent = made(name, learning_rate=10.0, updates=60)
    with pytest.warns(metarl.DivergedWarning, match=rf"the error of the model of {name} is .*; one that predicts"):
        metarl.train(agent, 1)
    metarl.train(agent, 2, start=1)  # once is enough; warnings are errors here
