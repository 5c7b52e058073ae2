"""VariBAD: what the belief is given, what it is trained on, and what the policy sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import metarl
from metarl.agent import Decoded, Queries, adam_step, negative_elbo
from metarl.agents.inference.varibad import VariBAD
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.runs.checkpoints import load_checkpoint, save_checkpoint

NAVIGATION = metarl.make_family("metarl/PointNavigation-v0", horizon=4)
SMALL: dict[str, Any] = {"trial_episodes": 3, "meta_batch_size": 8, "hidden": 8, "policy_hidden": (8,)}
SMALL |= {"model_updates": 2, "model_batch_size": 4, "replay_trials": 20}


def varibad(family: Any = NAVIGATION, **settings: Any) -> VariBAD:
    agent = metarl.make_agent("varibad", family, **(SMALL | settings))
    assert isinstance(agent, VariBAD)
    return agent


def played(agent: VariBAD, split: str = "test") -> tuple[PoolTrials, Any]:
    trials = PoolTrials(EnvironmentPool(agent.family), agent.family.tasks(split, 8))
    budget = metarl.Budget(envs=1, episodes=agent.config.trial_episodes)
    return trials, trials.collect(agent, agent.begin(8), 0, budget, final_obs=True)[0]


def copied(module: torch.nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def moved(before: list[Tensor], module: torch.nn.Module) -> bool:
    return any(not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_the_policy_acts_on_the_observation_and_the_belief_of_all_that_came_before() -> None:
    """Beliefs while acting are those of the encoder on the whole trial: kept across episodes, begun anew in a trial."""
    agent = varibad()
    _, rollout = played(agent)
    x = rollout.extras["x"][:, :, 0]
    belief = agent.model.encoder(agent.model.inputs.of(rollout))
    torch.testing.assert_close(x[..., 2:], belief.features.detach(), atol=1e-5, rtol=1e-4)
    assert torch.equal(x[..., :2], rollout.obs[:, :, 0])
    first = x[0, :, 2:]
    assert (first == first[:1]).all()  # nothing is known of any task
    later = x[4, :, 2:]  # a new episode begins: the same observation, and other beliefs
    assert (later != later[:1])[1:].any(1).all()


def test_ppo_does_not_train_the_encoder() -> None:
    agent = varibad(model_updates=0)
    before = copied(agent.model)
    policy = copied(agent.net)
    metarl.train(agent, 2)
    assert moved(policy, agent.net)
    assert not moved(before, agent.model)


def test_the_policy_is_given_standardised_features_of_what_training_saw() -> None:
    agent = varibad(normalize_features=True)
    assert agent.ppo.norm is not None
    seen: list[Tensor] = []
    prepare = agent.ppo.prepare
    agent.ppo.prepare = lambda rollout, given: seen.append(given["x"]) or prepare(rollout, given)  # type: ignore[assignment,func-returns-value]
    metarl.train(agent, 2)
    assert float(agent.ppo.norm.count) == 2 * 8 * 12  # steps: two meta-updates of 8 trials of 3 episodes of 4
    _, rollout = played(agent)
    before = agent.ppo.norm.mean.clone()
    metarl.evaluate(agent, k=3, num_tasks=2)
    assert torch.equal(agent.ppo.norm.mean, before)  # evaluation does not change them
    x = rollout.extras["x"]
    log_prob = rollout.extras["log_prob"]
    torch.testing.assert_close(agent.net.distribution(agent.ppo.norm(x)).log_prob(rollout.action), log_prob)
    assert not torch.allclose(agent.net.distribution(x).log_prob(rollout.action), log_prob, atol=1e-4)
    assert float(seen[1].square().mean()) > 0.3 > float(x.square().mean())  # PPO trains on them too
    assert varibad().ppo.norm is None


def test_the_belief_model_does_not_train_the_policy() -> None:
    agent = varibad()
    _, rollout = played(agent)
    agent.model.replay.add(agent.model.kept(rollout))
    before, policy = copied(agent.model.encoder), copied(agent.net)
    agent.model.fit(0)
    assert moved(before, agent.model.encoder)
    assert not moved(policy, agent.net)


def test_decoders_see_where_a_step_led_also_at_an_episodes_end() -> None:
    agent = varibad()
    _, rollout = played(agent)
    kept = agent.model.kept(rollout)
    before, after = kept["step"][..., :2], kept["step"][..., -2:]
    torch.testing.assert_close(before, rollout.obs[:, :, 0])
    ended = rollout.ended[:, :, 0]
    assert torch.equal(after[:-1][~ended[:-1]], before[1:][~ended[:-1]])
    assert (after[:-1][ended[:-1]] != before[1:][ended[:-1]]).any(-1).all()  # not the start of the next episode
    assert torch.equal(kept["reward"], rollout.reward)


def test_a_belief_tells_more_at_the_end_of_a_trial_than_at_its_start() -> None:
    """On bandits that it never saw, pulled at random: the error of all rewards of a trial, from what z tells."""
    settings = {"trial_episodes": 20, "replay_trials": 1000, "hidden": 16, "model_learning_rate": 0.01}
    agent = varibad('metarl/BernoulliBandit-v0{"k": 2}', **settings)
    for split, count in (("train", 1000), ("test", 400)):
        trials = PoolTrials(EnvironmentPool(agent.family), agent.family.tasks(split, count))
        rollout = trials.collect(agent, agent.begin(count), 0, metarl.Budget(episodes=20), final_obs=True)[0]
        kept = agent.model.kept(rollout)
        if split == "train":
            agent.model.replay.add(kept)
    for update in range(200):
        loss, _ = agent.model.loss(agent.model.replay.sample(64, update), 0, update)
        adam_step(agent.model.optimizer, loss)
    reward: Any = agent.model["reward"]
    decoded = [Decoded(reward, kept["step"], kept["reward"], 1.0)]

    def error(term: int) -> float:
        belief, valid = agent.model.encoder(kept["x"]), kept["valid"][..., 0]
        noise = torch.zeros(1, count, agent.config.latent)
        return negative_elbo(belief, decoded, valid, noise, 0.0, torch.tensor([term]))[0].item()

    # the squared errors of 20 rewards add up to 20 / 4 at first, and to 20 / 6 if the means are known
    assert error(19) < error(0) - 0.5


def test_the_models_rate_falls_with_the_policys_if_asked() -> None:
    for anneal, expected in ((True, [1e-3, 7.5e-4, 5e-4, 2.5e-4]), (False, [1e-3] * 4)):
        agent, rates = varibad(anneal_model=anneal, anneal_iterations=4, learning_rate=0.0), []
        metarl.train(agent, 4, on_iteration=lambda i, m: rates.append(agent.model.optimizer.param_groups[0]["lr"]))  # noqa: B023
        assert rates == pytest.approx(expected)


@pytest.mark.parametrize("state_coef", [0.0, 1.0])
def test_a_training_goes_on_to_the_same_bits(state_coef: float) -> None:
    """Replay, moments and networks are in the checkpoint."""
    settings: dict[str, Any] = {"state_coef": state_coef, "normalize_features": True}
    settings |= {"anneal_model": True, "anneal_iterations": 5}
    whole, first, second = (varibad(**settings, seed=3) for _ in range(3))
    metarl.train(whole, 4)
    metarl.train(first, 2)
    second.load_tensors({k: v.clone() for k, v in first.tensors().items()})
    metarl.train(second, 4, start=2)
    found = second.tensors()
    assert all(torch.equal(v, found[k]) for k, v in whole.tensors().items())


def test_a_checkpoint_holds_steps_with_negative_numbers(tmp_path: Path) -> None:
    """Points and displacements in the plane have both signs."""
    agent = varibad()
    metarl.train(agent, 1)
    assert (agent.model.replay.data["step"] < 0).any()
    save_checkpoint(tmp_path / "checkpoint.json", agent, 1)
    other = varibad()
    load_checkpoint(tmp_path / "checkpoint.json", other)
    again = other.tensors()
    assert all(torch.equal(v, again[k]) for k, v in agent.tensors().items())


def test_a_replay_that_is_too_large_is_refused_before_training() -> None:
    with pytest.raises(metarl.InvalidValueError, match=r"varibad\.replay_trials is 1000000000, expected at most about"):
        varibad(replay_trials=10**9)


def test_what_it_believes_is_what_the_decoder_tells_of_z() -> None:
    """A mean over z of the belief before each step; with a narrow belief, the decoder's answer to its mean."""
    agent = varibad()
    with torch.no_grad():
        agent.model.encoder.log_var.weight.zero_()
        agent.model.encoder.log_var.bias.fill_(-40.0)
    _, rollout = played(agent)
    obs, action = torch.tensor([[0.1, 0.2], [0.3, -0.1]]), torch.tensor([[0.1, 0.0], [-0.05, 0.1]])
    found = agent.believed_rewards(rollout, Queries(obs, action, obs + action, torch.arange(2)))
    assert found.shape == (12, 8, 2)
    z = agent.belief_features([rollout])[..., : agent.config.latent]
    for t, row, i in ((0, 0, 0), (11, 3, 1), (5, 7, 0)):
        step = torch.cat([obs[i], action[i] / 0.1, obs[i] + action[i]])  # actions of the box as the policy's
        expected = agent.model["reward"](z[t, row].view(1, 1, -1), step.view(1, 1, -1))
        torch.testing.assert_close(found[t, row, i], expected.detach().squeeze())
    with torch.no_grad():
        agent.model.encoder.log_var.bias.fill_(3.0)
    _, rollout = played(agent)
    wide = agent.believed_rewards(rollout, Queries(obs, action, obs + action, torch.arange(2)))
    assert ((wide - found).abs() > 1e-3).any()


def test_a_hypernetwork_begins_with_one_policy_for_all_beliefs() -> None:
    agent = varibad(hypernetwork=True)
    _, rollout = played(agent)
    x = rollout.extras["x"][:, :, 0]
    other = torch.cat([x[..., :2], -5.0 * x[..., 2:]], -1)
    assert (x != other).any()
    time = torch.zeros(*x.shape[:2], 1)

    def outputs() -> list[Tensor]:
        found = [agent.net({"x": v, "time": time}) for v in (x, other)]
        return [part for out in found for part in (out.policy.mean, out.value)]

    mean, value, other_mean, other_value = outputs()
    assert torch.equal(mean, other_mean)
    assert torch.equal(value, other_value)
    metarl.train(agent, 3)
    mean, value, other_mean, other_value = outputs()
    assert not torch.allclose(mean, other_mean)
    assert not torch.allclose(value, other_value)


def test_a_pass_that_would_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 trials of 12 steps in 8 minibatches: 4 x 12 x (kept + 3 x 8 x features)."""
    for hypernetwork in (False, True):
        agent = varibad(hypernetwork=hypernetwork)
        need = 4 * 12 * (agent.net.floats_kept + 3 * 8 * agent.model.features)
        monkeypatch.setattr("metarl.learning.ppo.free_bytes", lambda device, need=need: need - 1)
        with pytest.raises(metarl.InvalidValueError, match=r"varibad.trial_episodes is 3, expected at most about 2"):
            metarl.train(agent, 1)


@pytest.mark.parametrize("name", ["varibad", "varibad_off_policy"])
def test_a_gradient_step_of_beliefs_that_would_not_fit_is_refused_before_training(name: str) -> None:
    sentence = (
        rf"{name}\.model_batch_size is 1000000, expected at most about \d.*: a gradient step on 20 bounds of 400 "
    )
    with pytest.raises(metarl.InvalidValueError, match=sentence):
        metarl.train(metarl.make_agent(name, "metarl/PointNavigation-v0", trial_episodes=4, model_batch_size=10**6), 1)
