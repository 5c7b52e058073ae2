"""PEARL: what the belief is made of, how z is drawn, and what trains what."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import metarl
from metarl.agent import Budget, Factors
from metarl.agents.inference.pearl import PEARL
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials

NAVIGATION = metarl.make_family("metarl/PointNavigation-v0", horizon=4)
SMALL: dict[str, Any] = {"policy_hidden": (8,), "encoder_hidden": (8,), "meta_batch_size": 3, "replay_tasks": 6}
SMALL |= {"prior_episodes": 2, "posterior_episodes": 1, "updates": 2, "tasks_per_update": 2, "batch_size": 4}
SMALL |= {"context_size": 4}


def pearl(family: Any = NAVIGATION, **settings: Any) -> PEARL:
    agent = metarl.make_agent("pearl", family, **(SMALL | settings))
    assert isinstance(agent, PEARL)
    return agent


def trials_of(agent: PEARL, count: int = 3, split: str = "test") -> PoolTrials:
    return PoolTrials(EnvironmentPool(agent.family), agent.family.tasks(split, count))


def after(agent: PEARL, steps: int) -> tuple[PoolTrials, list[metarl.Rollout], dict[str, Tensor]]:
    """The rollouts and the state of so many adaptation steps."""
    trials, rollouts = trials_of(agent), []
    state = agent.begin(trials.rows)
    for k in range(steps):
        rollout, state = agent.interact(state, trials, k)
        rollouts.append(rollout)
    return trials, rollouts, state


def test_the_belief_is_that_of_all_transitions_of_the_trial() -> None:
    for following in (False, True):
        agent = pearl(next_obs_in_context=following)
        _, rollouts, state = after(agent, 2)
        parts = [agent._context_features(agent._transitions(rollout)) for rollout in rollouts]
        expected = agent.encoder(torch.cat(parts, 1))
        torch.testing.assert_close(state["precision"], expected.precision.detach())
        torch.testing.assert_close(state["weighted_mean"], expected.weighted_mean.detach())
        assert parts[0].shape == (3, 4, 2 + 2 + 1 + 2 * following)
        assert torch.equal(parts[0][:, 0, :2], rollouts[0].obs[0, :, 0])
        assert torch.equal(parts[0][:, 0, 4], rollouts[0].reward[0, :, 0])


def test_a_trial_begins_with_the_prior_whatever_was_played_before() -> None:
    agent = pearl()
    _, _, state = after(agent, 1)
    belief = Factors(**agent.begin(3)).belief
    assert not belief.mean.any()
    assert not belief.log_var.any()
    assert (Factors(**state).belief.log_var != 0).all()


def test_steps_after_an_episodes_end_tell_nothing() -> None:
    agent = pearl()
    _, (rollout,), state = after(agent, 1)
    rollout.valid[2:, 1] = False
    cut = agent.adapt(agent.begin(3), rollout)
    assert torch.equal(cut["precision"][[0, 2]], state["precision"][[0, 2]])
    assert (cut["precision"][1] < state["precision"][1]).all()
    rollout.reward[2:, 1] = 7.0
    assert torch.equal(agent.adapt(agent.begin(3), rollout)["precision"], cut["precision"])


def test_z_is_one_for_an_episode_and_another_for_the_next() -> None:
    """With a policy that tells z: its mean is the first two entries."""
    agent = pearl(latent=2, policy_hidden=(), temperature=1e-9)
    with torch.no_grad():
        for values in agent.sac.actor.values():
            values.zero_()
        agent.sac.actor["w0"][2:, :2] = torch.eye(2)
        agent.sac.actor["b0"][2:] = -20.0
    trials, (first, second), _ = after(agent, 2)
    many, _ = trials.collect(agent, agent.begin(3), 0, Budget(envs=200, episodes=1))
    for rollout in (first, second, many):
        torch.testing.assert_close(rollout.action, rollout.action[:1].expand_as(rollout.action), atol=1e-6, rtol=0)
    assert (first.action[0] != second.action[0]).all()
    z = many.action[0].flatten(0, 1).atanh()
    torch.testing.assert_close(z.mean(0), torch.zeros(2), atol=0.15, rtol=0)  # 600 draws from the prior
    torch.testing.assert_close(z.std(0), torch.ones(2), atol=0.15, rtol=0)
    still, _ = trials.collect(agent, agent.begin(3), 0, Budget(envs=2, episodes=1), True)
    assert not still.action.any()  # the belief's mean


def test_contexts_are_of_the_tasks_that_are_trained_on() -> None:
    """Each task's reward is its own number: the critics' batch and the belief must agree on it."""
    agent = pearl()
    metarl.train(agent, 2)
    number = torch.arange(6.0)
    for buffer in (agent.replay, agent.context):
        buffer.data["reward"][:] = number.unsqueeze(1)
    seen: list[Tensor] = []
    forward, update = agent.encoder.forward, agent.sac.update
    agent.encoder.forward = lambda x: (seen.append(x[..., 4]), forward(x))[1]  # type: ignore[method-assign]
    agent.sac.update = lambda b, *a: (seen.append(b.reward.view(2, 4)), update(b, *a))[1]  # type: ignore[method-assign]
    for number_of in range(5):
        agent._update(0, number_of)
    for context, batch in zip(seen[::2], seen[1::2], strict=True):
        assert torch.equal(context, batch)
    assert len(torch.cat(seen).unique()) > 2


def test_the_context_is_that_of_the_prior_unless_it_is_said() -> None:
    for both, stored in ((False, 8), (True, 12)):
        agent = pearl(posterior_context=both)
        metarl.train(agent, 1)
        assert agent.replay.added[:3].tolist() == [12] * 3
        assert agent.context.added[:3].tolist() == [stored] * 3
        assert torch.equal(agent.context.data["obs"][:3, :8], agent.replay.data["obs"][:3, :8])


def test_transitions_end_where_they_led_and_not_at_the_next_start() -> None:
    agent = pearl()
    trials = trials_of(agent)
    rollout, _ = trials.collect(agent, agent.begin(3), 0, Budget(envs=2, episodes=1), final_obs=True)
    kept = agent._transitions(rollout)
    moved = agent.to_env(kept["action"])
    torch.testing.assert_close(kept["next_obs"], kept["obs"] + moved)
    assert not kept["terminated"].any()  # the horizon ends no return
    alone, _ = trials.collect(agent, agent.begin(3), 0, Budget(envs=1, episodes=1), final_obs=True)
    plain = metarl.Rollout(**{**vars(alone), "extras": {}, "last_obs": alone.extras["final_obs"][-1]})
    assert all(torch.equal(v, agent._transitions(plain)[k]) for k, v in agent._transitions(alone).items())


def test_the_encoder_is_trained_by_the_critics_and_the_kl_alone() -> None:
    agent = pearl(updates=0)
    metarl.train(agent, 1)
    before = [p.detach().clone() for p in agent.encoder.parameters()]
    agent._update(0, 0)
    assert any(not torch.equal(a, b) for a, b in zip(before, agent.encoder.parameters(), strict=True))
    # the policy's loss is given features that no gradient leaves
    given: list[Tensor] = []
    value = agent.sac.value
    agent.sac.value = lambda critics, x, noise: (given.append(x), value(critics, x, noise))[1]  # type: ignore[method-assign]
    agent._update(0, 1)
    assert [x.requires_grad for x in given] == [False, False]


@pytest.mark.parametrize("family", [NAVIGATION, "metarl/BernoulliBandit-v0"])
def test_a_training_goes_on_to_the_same_bits(family: Any) -> None:
    """Both replays, moments, targets and networks are in the checkpoint; a ring of tasks that has come round too."""
    settings = {} if family is NAVIGATION else {"context_size": 2}
    whole, first, second = (pearl(family, seed=3, **settings) for _ in range(3))
    metarl.train(whole, 5)
    metarl.train(first, 3)
    second.load_tensors({k: v.clone() for k, v in first.tensors().items()})
    metarl.train(second, 5, start=3)
    found = second.tensors()
    assert all(torch.equal(v, found[k]) for k, v in whole.tensors().items())


def test_episodes_are_those_of_400_steps_unless_they_are_said() -> None:
    agent = metarl.make_agent("pearl", "metarl/PointNavigation-v0:semicircle")
    assert (agent.config.prior_episodes, agent.config.posterior_episodes) == (20, 20)
    assert agent.train_env_steps == 5 * 2 * 400


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"context_size": 9}, r"pearl\.context_size is 9, expected at most 8, the steps of a task's episodes"),
        ({"replay_tasks": 2}, r"pearl\.replay_tasks is 2, expected at least meta_batch_size, which is 3"),
        ({"replay_tasks": 10**9}, r"pearl\.replay_tasks is 1000000000, expected at most about"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_before_training(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(metarl.InvalidValueError, match=sentence):
        pearl(**settings)
