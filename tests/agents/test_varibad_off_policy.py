"""Off-policy VariBAD: what soft actor-critic is given of the beliefs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import metarl
from metarl.agents.inference.varibad_off_policy import OffPolicyVariBAD
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials

NAVIGATION = metarl.make_family("metarl/PointNavigation-v0", horizon=4)
BANDIT = metarl.make_family("metarl/BernoulliBandit-v0")
SMALL: dict[str, Any] = {"trial_episodes": 3, "meta_batch_size": 8, "hidden": 8, "policy_hidden": (8,)}
SMALL |= {"model_updates": 2, "model_batch_size": 4, "replay_trials": 20, "updates": 2, "batch_trials": 4}


def made(family: Any = NAVIGATION, **settings: Any) -> OffPolicyVariBAD:
    agent = metarl.make_agent("varibad_off_policy", family, **(SMALL | settings))
    assert isinstance(agent, OffPolicyVariBAD)
    return agent


def played(agent: OffPolicyVariBAD) -> metarl.Rollout:
    trials = PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("test", 8))
    budget = metarl.Budget(envs=1, episodes=agent.config.trial_episodes)
    return trials.collect(agent, agent.begin(8), 0, budget, final_obs=True)[0]


def by_step(agent: OffPolicyVariBAD, values: Tensor) -> Tensor:
    return values.view(agent.config.trial_episodes * agent.family.horizon, 8, *values.shape[1:])


@pytest.mark.parametrize("family", [NAVIGATION, BANDIT])
def test_transitions_lead_from_each_belief_to_the_next_also_between_episodes(family: Any) -> None:
    agent = made(family)
    rollout = played(agent)
    batch = agent.transitions(agent.model.kept(rollout))
    x, next_x = by_step(agent, batch.x), by_step(agent, batch.next_x)
    obs = agent.model.inputs.encode.size
    assert torch.equal(next_x[:-1], x[1:])
    assert torch.equal(x[..., :obs], agent.model.inputs.encode(rollout.obs)[:, :, 0])
    beliefs = agent.model.encoder(agent.model.inputs.of(rollout)).features.detach()
    torch.testing.assert_close(x[..., obs:-1], beliefs)
    steps = len(x)
    torch.testing.assert_close(x[..., -1], torch.linspace(0, 1, steps).unsqueeze(1).expand(-1, 8))
    ended = by_step(agent, batch.terminated)
    assert ended[-1].all()  # the trial's end
    assert not ended[:-1].any()  # and no episode's
    torch.testing.assert_close(by_step(agent, batch.action), rollout.action[:, :, 0])
    assert torch.equal(by_step(agent, batch.reward), rollout.reward[:, :, 0])


def test_the_policy_acts_on_what_it_is_trained_on() -> None:
    """Also on the time of the trial, which stands still after as many steps as a trial of training has."""
    agent, given = made(), []
    policy = agent.sac.policy
    agent.sac.policy = lambda x: (given.append(x), policy(x))[1]  # type: ignore[method-assign]
    rollout = played(agent)
    batch = agent.transitions(agent.model.kept(rollout))
    torch.testing.assert_close(torch.stack(given), by_step(agent, batch.x), atol=1e-5, rtol=1e-4)
    trials = PoolTrials(EnvironmentPool(NAVIGATION), NAVIGATION.tasks("test", 2))
    given.clear()
    trials.collect(agent, agent.begin(2), 0, metarl.Budget(episodes=4))
    assert [x[0, -1].item() for x in given[10:]] == pytest.approx([10 / 11, *[1.0] * 5])


def test_steps_after_a_trials_end_are_no_transitions() -> None:
    agent = made()
    kept = agent.model.kept(played(agent))
    kept["valid"][5:, 1] = 0.0
    batch = agent.transitions(kept)
    assert len(batch.reward) == 8 * 12 - 7
    whole = agent.transitions(kept | {"valid": torch.ones_like(kept["valid"])})
    assert torch.equal(batch.x[:40], whole.x[:40])
    assert batch.terminated.sum() == 8
    assert batch.terminated[4 * 8 + 1]  # the last step that counts


def test_beliefs_are_those_of_the_encoder_as_it_is() -> None:
    agent = made()
    kept = agent.model.kept(played(agent))
    before = agent.transitions(kept).x.clone()
    with torch.no_grad():
        agent.model.encoder.mean.bias += 1.0
    after = agent.transitions(kept).x
    torch.testing.assert_close(after[:, 2:7], before[:, 2:7] + 1.0)


def test_soft_actor_critic_does_not_train_the_encoder() -> None:
    agent = made(model_updates=0)
    before = [p.detach().clone() for p in agent.model.parameters()]
    policy = [p.detach().clone() for p in agent.sac.actor.parameters()]
    metarl.train(agent, 2)
    assert all(torch.equal(a, b) for a, b in zip(before, agent.model.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(policy, agent.sac.actor.parameters(), strict=True))


@pytest.mark.parametrize("family", [NAVIGATION, BANDIT])
def test_a_training_goes_on_to_the_same_bits(family: Any) -> None:
    whole, first, second = (made(family, seed=3) for _ in range(3))
    metarl.train(whole, 4)
    metarl.train(first, 2)
    second.load_tensors({k: v.clone() for k, v in first.tensors().items()})
    metarl.train(second, 4, start=2)
    found = second.tensors()
    assert all(torch.equal(v, found[k]) for k, v in whole.tensors().items())


def test_a_gradient_step_that_would_not_fit_is_refused_before_training() -> None:
    sentence = (
        r"varibad_off_policy\.batch_trials is 1000000, expected at most about \d.*: a gradient step on a trial of 400 "
    )
    with pytest.raises(metarl.InvalidValueError, match=sentence):
        metarl.train(metarl.make_agent("varibad_off_policy", "metarl/PointNavigation-v0", batch_trials=10**6), 1)
