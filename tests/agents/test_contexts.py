"""What agents of a context share: whose context it is, which transitions are kept, and that a training goes on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import metarl
from metarl.agent import Budget, EmbeddingSum, Factors
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials

NAVIGATION = metarl.make_family("metarl/PointNavigation-v0", horizon=4)
SMALL: dict[str, Any] = {"policy_hidden": (8,), "encoder_hidden": (8,), "meta_batch_size": 3, "replay_tasks": 6}
SMALL |= {"prior_episodes": 2, "posterior_episodes": 1, "updates": 2, "tasks_per_update": 2, "batch_size": 4}
SMALL |= {"context_size": 4}
NAMES = ("focal", "pearl")


def made(name: str, family: Any = NAVIGATION, **settings: Any) -> Any:
    return metarl.make_agent(name, family, **(SMALL | settings))


def trials_of(agent: Any, count: int = 3, split: str = "test") -> PoolTrials:
    return PoolTrials(EnvironmentPool(agent.family), agent.family.tasks(split, count))


def after(agent: Any, steps: int) -> tuple[PoolTrials, list[metarl.Rollout], dict[str, Tensor]]:
    """The rollouts and the state of so many adaptation steps."""
    trials, rollouts = trials_of(agent), []
    state = agent.begin(trials.rows)
    for k in range(steps):
        rollout, state = agent.interact(state, trials, k)
        rollouts.append(rollout)
    return trials, rollouts, state


@pytest.mark.parametrize("name", NAMES)
def test_an_encoder_is_given_transitions(name: str) -> None:
    for following in (False, True):
        agent = made(name, next_obs_in_context=following)
        _, (rollout,), _ = after(agent, 1)
        x, valid = agent.inputs.of(rollout)
        assert x.shape == (3, 4, 2 + 2 + 1 + 2 * following)
        assert valid.all()
        assert torch.equal(x[:, 0, :2], rollout.obs[0, :, 0])
        assert torch.equal(x[:, 0, 4], rollout.reward[0, :, 0])


@pytest.mark.parametrize("name", NAMES)
def test_contexts_are_of_the_tasks_that_are_trained_on(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each task's reward is its own number: the critics' batch and the context must agree on it."""
    agent = made(name)
    metarl.train(agent, 2)
    learner = agent.learner
    for buffer in (learner.replay, learner.context):
        buffer.data["reward"][:] = torch.arange(6.0).unsqueeze(1)
    contexts: list[Tensor] = []
    batches: list[Tensor] = []
    forward, update = agent.encoder.forward, learner.sac.update
    monkeypatch.setattr(agent.encoder, "forward", lambda x: (contexts.append(x[..., 4]), forward(x))[1])
    monkeypatch.setattr(learner.sac, "update", lambda b, *a: (batches.append(b.reward), update(b, *a))[1])
    for key in range(5):
        agent.update(key, learner.replay.sample_tasks(2, key))
    for context, batch in zip(contexts, batches, strict=True):
        for part in context.split(2):  # focal has two contexts of each task
            assert torch.equal(part, batch.view(2, 4))
    assert len(torch.cat(batches).unique()) > 2


@pytest.mark.parametrize("name", NAMES)
def test_the_context_is_that_of_the_prior_unless_it_is_said(name: str) -> None:
    for both, stored in ((False, 8), (True, 12)):
        agent = made(name, posterior_context=both)
        metarl.train(agent, 1)
        replay, context = agent.learner.replay, agent.learner.context
        assert replay.added[:3].tolist() == [12] * 3
        assert context.added[:3].tolist() == [stored] * 3
        assert torch.equal(context.data["obs"][:3, :8], replay.data["obs"][:3, :8])


@pytest.mark.parametrize("name", NAMES)
def test_new_tasks_are_played_without_a_context_and_then_with_their_own(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = made(name, updates=0)
    trials = trials_of(agent, split="train")
    played: list[dict[str, Tensor]] = []
    collect = trials.collect

    def watched(agent: Any, state: Any, *args: Any, **kwargs: Any) -> Any:
        played.append(agent.fork(state))
        return collect(agent, state, *args, **kwargs)

    monkeypatch.setattr(trials, "collect", watched)
    agent.train_step(trials)
    first, second = played
    assert all(torch.equal(first[k], v) for k, v in agent.begin(3).items())
    expected = agent.encoder(agent.learner.sample_context(torch.arange(3), trials.key))
    for k, v in expected._asdict().items():
        torch.testing.assert_close(second[k], v.detach())
        assert not second[k].requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_transitions_end_where_they_led_and_not_at_the_next_start(name: str) -> None:
    agent = made(name)
    trials = trials_of(agent)
    rollout, _ = trials.collect(agent, agent.begin(3), 0, Budget(envs=2, episodes=1), final_obs=True)
    kept = agent.inputs.transitions(rollout)
    moved = agent.to_env(kept["action"])
    torch.testing.assert_close(kept["next_obs"], kept["obs"] + moved)
    assert not kept["terminated"].any()  # the horizon ends no return
    alone, _ = trials.collect(agent, agent.begin(3), 0, Budget(envs=1, episodes=1), final_obs=True)
    plain = metarl.Rollout(**{**vars(alone), "extras": {}, "last_obs": alone.extras["final_obs"][-1]})
    assert all(torch.equal(v, agent.inputs.transitions(plain)[k]) for k, v in agent.inputs.transitions(alone).items())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", [NAVIGATION, "metarl/BernoulliBandit-v0"])
def test_a_training_goes_on_to_the_same_bits(name: str, family: Any) -> None:
    """Both replays, moments, targets and networks are in the checkpoint; a ring of tasks that has come round too."""
    settings = {} if family is NAVIGATION else {"context_size": 2}
    whole, first, second = (made(name, family, seed=3, **settings) for _ in range(3))
    metarl.train(whole, 5)
    metarl.train(first, 3)
    second.load_tensors({k: v.clone() for k, v in first.tensors().items()})
    metarl.train(second, 5, start=3)
    found = second.tensors()
    assert all(torch.equal(v, found[k]) for k, v in whole.tensors().items())


@pytest.mark.parametrize("name", NAMES)
def test_episodes_are_those_of_400_steps_unless_they_are_said(name: str) -> None:
    agent = metarl.make_agent(name, "metarl/PointNavigation-v0:semicircle")
    assert (agent.config.prior_episodes, agent.config.posterior_episodes) == (20, 20)
    assert agent.train_env_steps == 5 * 2 * 400


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"context_size": 9}, r"context_size is 9, expected at most 8, the steps of a task's episodes"),
        ({"replay_tasks": 2}, r"replay_tasks is 2, expected at least meta_batch_size, which is 3"),
        ({"replay_tasks": 10**9}, r"replay_tasks is 1000000000, expected at most about"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_before_training(name: str, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(metarl.InvalidValueError, match=rf"{name}\.{sentence}"):
        made(name, **settings)


@pytest.mark.parametrize("name", NAMES)
def test_the_context_has_the_sparse_reward_and_training_the_dense_one(name: str) -> None:
    """From 0 a point cannot come within .2 of the semicircle in 4 steps of .1, so all sparse rewards are 0."""
    family = metarl.make_family("metarl/PointNavigation-v0:semicircle", horizon=4)
    for dense in (False, True):
        agent = made(name, family, dense_reward=dense, posterior_context=True)
        log: list[dict[str, float]] = []
        metarl.train(agent, 1, on_iteration=lambda _, metrics, log=log: log.append(metrics))  # type: ignore[misc]
        replay, context = agent.learner.replay.data, agent.learner.context.data
        assert not context["reward"].any()
        angle = family.tasks("train", 3).tensors()["angle"]
        goal = torch.stack([angle.cos(), angle.sin()], -1).unsqueeze(1)
        distance = (replay["next_obs"][:3] - goal).norm(dim=-1)
        expected = -distance if dense else torch.zeros_like(distance)
        torch.testing.assert_close(replay["reward"][:3], expected)
        assert torch.equal(context["obs"], replay["obs"])
        _, (rollout,), _ = after(agent, 1)
        assert not agent.inputs.of(rollout)[0][..., 4].any()
        assert log[0]["return_0"] == 0.0
        assert not metarl.evaluate(agent, k=1, num_tasks=2, episodes=1).scores["sampled"].any()


@pytest.mark.parametrize("name", NAMES)
def test_a_family_without_dense_rewards_is_named(name: str) -> None:
    agent = made(name, dense_reward=True)
    sentence = rf"{name}\.dense_reward is True, expected False: metarl/PointNavigation-v0.* reports no info"
    with pytest.raises(metarl.InvalidValueError, match=sentence):
        metarl.train(agent, 1)


def test_dense_rewards_that_are_missing_in_some_steps_are_refused() -> None:
    class Partly(type(NAVIGATION)):  # type: ignore[misc]
        id = "toy/Partly-v0"

        def step(self, *args: Any) -> Any:
            x, reward, *rest = super().step(*args)
            return x, reward, rest[0], {"dense_reward": torch.where(x[:, 0] > 0, reward, torch.nan)}

    agent = made("focal", Partly(horizon=4), dense_reward=True)
    with pytest.raises(metarl.InvalidValueError, match=r"focal\.dense_reward .* missing in some steps, or not finite"):
        metarl.train(agent, 1)


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_step_that_would_not_fit_is_refused_before_training(name: str) -> None:
    sentence = (
        rf"{name}\.tasks_per_update is 1000000, expected at most about \d.*: a gradient step on a task's 1000000 "
    )
    with pytest.raises(metarl.InvalidValueError, match=sentence):
        metarl.train(made(name, tasks_per_update=10**6, batch_size=10**6), 1)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_known_at_a_step_is_what_transitions_before_it_told(name: str) -> None:
    agent = made(name)
    _, rollouts, _ = after(agent, 3)
    features = agent.belief_features(rollouts).unflatten(0, (3, 4))  # [episode, t, R, F]
    assert not features[0, 0].any()  # the prior
    state = agent.adapt(agent.adapt(agent.begin(3), rollouts[0]), rollouts[1])
    half = replace(rollouts[2], valid=rollouts[2].valid & (torch.arange(4) < 2).view(-1, 1, 1))
    for t, known in ((0, state), (2, agent.adapt(state, half))):
        held = torch.cat(Factors(**known).belief, -1) if name == "pearl" else EmbeddingSum(**known).mean
        torch.testing.assert_close(features[2, t], held)
    assert not torch.allclose(features[2, 0], features[2, 2])
