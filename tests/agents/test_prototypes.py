"""Prototypes: distances to mean examples, which grow by one at each step."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import metarl
from metarl.agents.inference.prototypes import Prototypes
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.envs.few_shot.digits import PIXELS

pytest.importorskip("sklearn")


def prototypes(**settings: Any) -> Prototypes:
    agent = metarl.make_agent("prototypes", metarl.make_family("metarl/Digits-v0", shots=3), **settings)
    assert isinstance(agent, Prototypes)
    return agent


def test_distances_by_hand() -> None:
    """Class 0 has the examples 1 and 3, class 1 the example 5, class 2 none."""
    agent = prototypes(embedding=1)
    total, count = torch.tensor([[4.0], [5.0], [0.0]]), torch.tensor([2.0, 1.0, 0.0])
    found = agent.net.logits(torch.tensor([3.0]), total, count)
    torch.testing.assert_close(found, torch.tensor([-1.0, -4.0, -1.0]))  # a class that was never seen: 1 at first


def test_training_sees_what_acting_sees() -> None:
    """At each step of a trial of two episodes: the sums and numbers of the labelled images before it."""
    agent = prototypes()
    trials = PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("test", 4))
    rollout, state = trials.collect(agent, agent.begin(4), 0, metarl.Budget(episodes=2))
    images, labels = rollout.obs[:, :, 0, :PIXELS], rollout.obs[:, :, 0, PIXELS:]
    embedded = agent.net(images).detach()
    # the label of image t is shown at t + 1; those of the last image of an episode never are
    expected = torch.einsum("tre,trw->rwe", embedded[:-1], labels[1:])
    torch.testing.assert_close(state["total"], expected)
    assert torch.equal(state["count"], labels[1:].sum(0))
    assert (state["count"].sum(1) == 2 * (agent.family.horizon - 1)).all()


def test_the_loss_of_a_step_does_not_see_its_own_label() -> None:
    """Without examples all labels are equally likely; with a far example of each class but one, that one is."""
    agent = prototypes(embedding=1)
    with torch.no_grad():
        for value in agent.net.layers.values():
            value.zero_()
    obs = torch.zeros(4, 1, PIXELS + 3)
    for step, label in ((1, 0), (2, 1), (3, 2)):
        obs[step, 0, PIXELS + label] = 1.0
    loss, _ = agent.loss(obs)
    # all embeddings are 0: distances are 0 to classes that were seen, and 1 to the others
    logits = torch.tensor([[-1.0, -1.0, -1.0], [0.0, -1.0, -1.0], [0.0, 0.0, -1.0]])
    expected = -torch.log_softmax(logits, 1)[[0, 1, 2], [0, 1, 2]].mean()
    torch.testing.assert_close(loss.detach(), expected)


def test_other_families_are_refused() -> None:
    for family in ("metarl/PointNavigation-v0", "metarl/Digits-v0:reward_only"):
        with pytest.raises(metarl.InvalidValueError, match=r"family of prototypes is .* previous image's label"):
            metarl.make_agent("prototypes", family)
