"""FOCAL: what an embedding is made of, and what trains what."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_contexts import after, made
from torch import Tensor

import metarl
from metarl.agent import EmbeddingSum, metric_loss
from metarl.agents.inference import focal


def test_the_embedding_is_that_of_all_transitions_of_the_trial() -> None:
    agent = made("focal")
    _, rollouts, state = after(agent, 2)
    expected = agent.encoder(torch.cat([agent.inputs.of(rollout)[0] for rollout in rollouts], 1))
    torch.testing.assert_close(EmbeddingSum(**state).mean, expected.mean.detach())


def test_a_trial_begins_without_evidence_whatever_was_played_before() -> None:
    agent = made("focal")
    _, _, state = after(agent, 1)
    assert not EmbeddingSum(**agent.begin(3)).mean.any()
    assert (EmbeddingSum(**state).mean != 0).all()


def test_steps_after_an_episodes_end_tell_nothing() -> None:
    agent = made("focal")
    _, (rollout,), state = after(agent, 1)
    rollout.valid[2:, 1] = False
    cut = agent.adapt(agent.begin(3), rollout)
    assert torch.equal(cut["total"][[0, 2]], state["total"][[0, 2]])
    assert cut["number"][:, 0].tolist() == [4.0, 2.0, 4.0]
    rollout.reward[2:, 1] = 7.0
    assert torch.equal(agent.adapt(agent.begin(3), rollout)["total"], cut["total"])


def test_every_environment_acts_on_the_embedding_of_its_row() -> None:
    """With a policy that tells z: its mean is the first two entries."""
    agent = made("focal", latent=2, policy_hidden=())
    actor = agent.learner.sac.actor
    with torch.no_grad():
        for values in actor.values():
            values.zero_()
        actor["w0"][2:, :2] = torch.eye(2)
    trials, _, state = after(agent, 1)
    budget = metarl.agent.Budget(envs=2, episodes=1)
    rollout, _ = trials.collect(agent, agent.fork(state), 1, budget, True)
    z = EmbeddingSum(**state).mean.tanh()
    torch.testing.assert_close(rollout.action, z.unsqueeze(1).expand(4, 3, 2, 2))


def test_the_encoder_is_trained_by_the_metric_loss_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = made("focal", updates=0)
    metarl.train(agent, 1)
    places = torch.arange(2)

    def encoder_moved() -> bool:
        before = [p.detach().clone() for p in agent.encoder.parameters()]
        agent.update(0, places)
        return any(not torch.equal(a, b) for a, b in zip(before, agent.encoder.parameters(), strict=True))

    critics = [p.detach().clone() for p in agent.learner.sac.critics.parameters()]
    assert encoder_moved()
    assert all(not torch.equal(a, b) for a, b in zip(critics, agent.learner.sac.critics.parameters(), strict=True))
    agent = made("focal", updates=0)
    metarl.train(agent, 1)
    monkeypatch.setattr(focal, "metric_loss", lambda *args: 0.0 * metric_loss(*args))
    assert not encoder_moved()


def test_two_contexts_of_each_task_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = made("focal", updates=0, distance="cosine")
    metarl.train(agent, 1)
    given: list[Any] = []
    monkeypatch.setattr(focal, "metric_loss", lambda *args: (given.append(args), metric_loss(*args))[1])
    seen: list[Tensor] = []
    update = agent.learner.update
    monkeypatch.setattr(agent.learner, "update", lambda k, p, z, loss: (seen.append(z), update(k, p, z, loss))[1])
    agent.update(0, torch.tensor([2, 0]))
    ((z, task, distance),) = given
    assert task.tolist() == [2, 0, 2, 0]
    assert distance == "cosine"
    assert (z[:2] != z[2:]).all()  # other transitions of the same tasks
    assert torch.equal(seen[0], z[:2].detach())
    assert not seen[0].requires_grad
