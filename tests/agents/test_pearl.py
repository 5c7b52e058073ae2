"""PEARL: what the belief is made of, how z is drawn, and what trains what."""

from __future__ import annotations

import torch
from test_contexts import after, made
from torch import Tensor

import metarl
from metarl.agent import Budget, Factors
from metarl.agents.inference.pearl import PEARL


def test_the_belief_is_that_of_all_transitions_of_the_trial() -> None:
    for following in (False, True):
        agent = made("pearl", next_obs_in_context=following)
        _, rollouts, state = after(agent, 2)
        expected = agent.encoder(torch.cat([agent.inputs.of(rollout)[0] for rollout in rollouts], 1))
        torch.testing.assert_close(state["precision"], expected.precision.detach())
        torch.testing.assert_close(state["weighted_mean"], expected.weighted_mean.detach())


def test_a_trial_begins_with_the_prior_whatever_was_played_before() -> None:
    agent = made("pearl")
    _, _, state = after(agent, 1)
    belief = Factors(**agent.begin(3)).belief
    assert not belief.mean.any()
    assert not belief.log_var.any()
    assert (Factors(**state).belief.log_var != 0).all()


def test_steps_after_an_episodes_end_tell_nothing() -> None:
    agent = made("pearl")
    _, (rollout,), state = after(agent, 1)
    rollout.valid[2:, 1] = False
    cut = agent.adapt(agent.begin(3), rollout)
    assert torch.equal(cut["precision"][[0, 2]], state["precision"][[0, 2]])
    assert (cut["precision"][1] < state["precision"][1]).all()
    rollout.reward[2:, 1] = 7.0
    assert torch.equal(agent.adapt(agent.begin(3), rollout)["precision"], cut["precision"])


def test_z_is_one_for_an_episode_and_another_for_the_next() -> None:
    """With a policy that tells z: its mean is the first two entries."""
    agent = made("pearl", latent=2, policy_hidden=(), temperature=1e-9)
    actor = agent.learner.sac.actor
    with torch.no_grad():
        for values in actor.values():
            values.zero_()
        actor["w0"][2:, :2] = torch.eye(2)
        actor["b0"][2:] = -20.0
    trials, (first, second), _ = after(agent, 2)
    many, _ = trials.collect(agent, agent.begin(3), 0, Budget(envs=200, episodes=1))
    for rollout in (first, second, many):
        torch.testing.assert_close(rollout.action, rollout.action[:1].expand_as(rollout.action), atol=1e-6, rtol=0)
    assert (first.action[0] != second.action[0]).all()
    mode, _ = trials.collect(agent, agent.begin(3), 0, Budget(envs=200, episodes=1), True)
    for rollout in (many, mode):  # z is drawn in both modes
        z = rollout.action[0].flatten(0, 1).atanh()
        torch.testing.assert_close(z.mean(0), torch.zeros(2), atol=0.15, rtol=0)  # 600 draws from the prior
        torch.testing.assert_close(z.std(0), torch.ones(2), atol=0.15, rtol=0)


def moves(agent: PEARL, critics: bool) -> bool:
    """Whether a gradient step changes the encoder, with or without the critics' loss."""
    metarl.train(agent, 1)
    if not critics:
        update = agent.learner.update
        agent.learner.update = lambda key, places, z, *further: update(key, places, z.detach(), *further)  # type: ignore[method-assign,assignment,misc]
    before = [p.detach().clone() for p in agent.encoder.parameters()]
    agent.update(0, torch.arange(2))
    return any(not torch.equal(a, b) for a, b in zip(before, agent.encoder.parameters(), strict=True))


def test_the_encoder_is_trained_by_the_critics_and_the_kl_alone() -> None:
    assert moves(made("pearl", updates=0, kl_coef=0.0), critics=True)
    assert moves(made("pearl", updates=0), critics=False)
    assert not moves(made("pearl", updates=0, kl_coef=0.0), critics=False)
    agent, places = made("pearl", updates=0), torch.arange(2)
    metarl.train(agent, 1)
    # the policy's loss is given features that no gradient leaves
    given: list[Tensor] = []
    sac = agent.learner.sac
    value = sac.value
    sac.value = lambda critics, x, noise: (given.append(x), value(critics, x, noise))[1]
    agent.update(1, places)
    assert [x.requires_grad for x in given] == [False, False]
