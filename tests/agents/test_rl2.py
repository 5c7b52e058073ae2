"""RL2: what the memory is fed and when it is cleared, returns through a trial, and learning on bandits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.spaces import Box
from torch import Tensor

import metarl
from metarl.agent import Budget, Feedback, Rollout
from metarl.agents.memory.rl2 import RL2
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.evaluation.evaluate import evaluate
from metarl.learning.encoders import TaskEncoder
from metarl.learning.returns import gae


class Walk(metarl.TorchFamily):
    """A walk whose episodes end after `length` steps (at most 4), so that trials have episodes of different length."""

    observation_space = Box(-1.0, 1.0, (1,), np.float32)
    action_space = Box(-1.0, 1.0, (1,), np.float32)
    horizon = 4
    task_space: ClassVar = {"length": metarl.Choice(list(range(1, 41)))}

    def reset(self, task: dict[str, Tensor], rng: metarl.Rng) -> Tensor:
        return torch.zeros_like(task["length"])

    def observe(self, state: Tensor, task: dict[str, Tensor]) -> Tensor:
        return (state / 10).unsqueeze(1)

    def step(self, state: Tensor, action: Tensor, task: dict[str, Tensor], rng: metarl.Rng) -> Any:
        state = state + 1
        return state, state + action[:, 0], state >= task["length"]


def walk_agent(**overrides: Any) -> RL2:
    settings = {"trial_episodes": 2, "meta_batch_size": 3, "hidden": 8, "minibatches": 1, "epochs": 1}
    return metarl.make_agent("rl2", Walk(), **(settings | overrides))


def trial(agent: RL2, lengths: list[int]) -> tuple[Rollout, dict[str, Tensor]]:
    family = agent.family
    trials = PoolTrials(EnvironmentPool(family), family.make_tasks(length=np.array(lengths, dtype=np.float32)))
    return trials.collect(agent, agent.begin(len(lengths)), 0, Budget(episodes=agent.config.trial_episodes))


def update(agent: RL2, rollout: Rollout) -> dict[str, float]:
    return agent.ppo.update(rollout, agent.given(rollout, None), 0)


def test_inputs_cross_episodes_and_only_the_trial_start_is_blank() -> None:
    """Pitfall 11. Row 0 has episodes of 2 steps: its third input, the second episode's first, tells of an end."""
    agent = walk_agent()
    rollout, _ = trial(agent, [2, 4])
    x = agent.trial_memory.inputs.of(rollout)  # [T, R, obs | action | reward | end]
    assert x.shape == (8, 2, 4)
    assert x[0].tolist() == [[0.0, 0.0, 0.0, 1.0]] * 2  # blank, and flagged as a start
    # step 1 of row 0: obs .1; the action and reward of step 0; not ended
    action, reward = rollout.action[:, :, 0, 0].clamp(-1, 1), rollout.reward[:, :, 0]
    torch.testing.assert_close(x[1, 0], torch.tensor([0.1, float(action[0, 0]), float(reward[0, 0]), 0.0]))
    # step 2 of row 0 begins an episode: obs 0, but the last action and reward are there, and the end flag
    torch.testing.assert_close(x[2, 0], torch.tensor([0.0, float(action[1, 0]), float(reward[1, 0]), 1.0]))
    assert float(reward[1, 0]) != 0.0
    assert x[:, 1, 3].tolist() == [1, 0, 0, 0, 1, 0, 0, 0]


STANDARDISED: list[tuple[str, dict[str, Any]]] = [
    ("rl2", {"trial_episodes": 2, "hidden": 8}),
    ("rl2", {"trial_episodes": 2, "hidden": 8, "separate_value": True}),
    ("rl2", {"trial_episodes": 2, "hidden": 8, "hypernetwork": True}),
    ("first_explore", {"trial_episodes": 2, "hidden": 8}),
    ("multi_task", {"hidden": (8,)}),
    ("task_conditioned", {"hidden": (8,)}),
    ("varibad", {"trial_episodes": 2, "hidden": 8}),
]


@pytest.mark.parametrize(("name", "settings"), STANDARDISED)
def test_the_first_gradient_step_sees_the_features_that_were_acted_on(name: str, settings: dict[str, Any]) -> None:
    """With standardised features too the policy that learns is the one that acted: no divergence before the step."""
    settings = {"meta_batch_size": 16, "minibatches": 1, "epochs": 1, "learning_rate": 0.03, **settings}
    agent = metarl.make_agent(name, Walk(), **settings, normalize_features=True)
    found: list[float] = []
    metarl.train(agent, 4, on_iteration=lambda _, metrics: found.append(metrics["kl"]))
    assert len(found) == 4
    assert max(found) < 1e-9
    assert agent.ppo.norm is not None
    assert float(agent.ppo.norm.mean.abs().max()) > 0.1  # they are standardised
    plain = metarl.make_agent(name, Walk(), **settings)
    assert plain.ppo.norm is None
    assert not any(key.startswith("norm.") for key in plain.tensors())
    other = metarl.make_agent(name, Walk(), **settings, normalize_features=True)
    other.load_tensors(agent.tensors())
    assert torch.equal(other.ppo.norm.var, agent.ppo.norm.var)


def test_acting_one_step_at_a_time_equals_the_training_pass() -> None:
    agent = walk_agent()
    rollout, _ = trial(agent, [2, 4, 3])
    with torch.no_grad():
        policy, value, _ = agent.net({"x": agent.trial_memory.inputs.of(rollout)})
        log_prob = policy.log_prob(rollout.action[:, :, 0])
    valid = rollout.valid[:, :, 0]
    torch.testing.assert_close(value[valid], rollout.extras["value"][:, :, 0][valid], rtol=0, atol=1e-5)
    torch.testing.assert_close(log_prob[valid], rollout.extras["log_prob"][:, :, 0][valid], rtol=0, atol=1e-5)


def test_memory_outlives_episodes_and_not_trials() -> None:
    agent = walk_agent()
    state = agent.begin(2)
    assert state["h"].abs().sum() == 0
    _, state = trial(agent, [2, 2])
    assert state["h"].abs().sum() > 0  # two episodes later
    assert agent.begin(2)["h"].abs().sum() == 0


def test_finished_rows_keep_their_memory() -> None:
    """Row 0's trial is over after 2 steps, row 1's after 8: what is played on in row 0 must not touch its state."""
    agent = walk_agent()
    _, together = trial(agent, [1, 4])
    _, alone = trial(agent, [1])
    torch.testing.assert_close(together["h"][:1], alone["h"], rtol=0, atol=1e-6)
    told = Feedback(torch.ones(2, 1, 1), torch.ones(2, 1), *[torch.zeros(2, 1, dtype=torch.bool)] * 2)
    before = {**together, "new.h": together["h"] + 1}
    after = agent.observe(before, told, torch.tensor([[False], [True]]))
    assert torch.equal(after["h"][0], before["h"][0])
    assert torch.equal(after["h"][1], before["new.h"][1])
    assert torch.equal(after["last"][0], before["last"][0])


def test_gradients_reach_the_trials_first_step() -> None:
    agent = walk_agent()
    x = torch.randn(8, 1, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    value = agent.net({"x": x}).value
    (g,) = torch.autograd.grad(value[-1].sum(), x)
    assert g[0].abs().sum() > 0


def test_masked_steps_do_not_train() -> None:
    """Rewards after a trial's end are irrelevant to the update."""
    updated = []
    for noise in (0.0, 1000.0):
        agent = walk_agent()
        rollout, _ = trial(agent, [1, 4])
        assert not rollout.valid.all()
        rollout.reward = torch.where(rollout.valid, rollout.reward, rollout.reward + noise)
        update(agent, rollout)
        updated.append([p.detach().clone() for p in agent.net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*updated, strict=True))


def test_the_reward_head_is_told_the_same_steps_action_and_reward_by_hand() -> None:
    """A head that repeats the clipped action, in a family that pays the state after a step plus that action.

    The error is then the mean of that state's square over the steps that count: 1, 2 and 1, 2, 3, 4, each twice.
    """
    agent = walk_agent(reward_coef=1.0, learning_rate=0.0)
    rollout, _ = trial(agent, [2, 4])
    assert agent.net.reward is not None
    with torch.no_grad():
        for p in agent.net.reward.parameters():
            p.zero_()
        wide, out = agent.net.reward.wide, agent.net.reward.out
        wide.weight[0, -1] = wide.bias[0] = out.weight[0, 0] = 1.0  # relu(a + 1) - 1 = a, for a in [-1, 1]
        out.bias.fill_(-1.0)
    told = update(agent, rollout)
    assert told["reward_loss"] == pytest.approx(2 * (1 + 4 + 1 + 4 + 9 + 16) / 12, abs=1e-4)


def test_predicting_rewards_teaches_the_memory_and_is_off_by_default() -> None:
    """With nothing else to learn from, the memory's weights move; without it there is no head."""
    assert walk_agent().net.reward is None
    agent = walk_agent(reward_coef=1.0, value_coef=0.0, max_grad_norm=1e9)
    rollout, _ = trial(agent, [2, 4])
    batch = agent.ppo.prepare(rollout, agent.given(rollout, None))
    before = {k: v.clone() for k, v in agent.net.state_dict().items()}
    part = vars(replace(batch, advantage=0 * batch.advantage))
    agent.ppo._step({"batch": part, "entropy_coef": torch.zeros(())})
    moved = {k for k, v in agent.net.state_dict().items() if not torch.equal(v, before[k])}
    assert any(k.startswith("memory") for k in moved)
    assert not any(k.startswith(("policy", "value")) for k in moved)


def test_box_actions_train() -> None:
    agent = walk_agent()
    trials = PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("train", 3))
    metrics = agent.train_step(trials)
    assert np.isfinite(list(metrics.values())).all()
    assert gae(torch.ones(1, 1), torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), 1.0, 1.0).item() == 1.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("trial_episodes", -1), ("meta_batch_size", -1), ("hidden", 0), ("clip", -1.0), ("minibatches", 2000)),
        ("memory", "gro"),
        ("hidden", 3000),
    ],
)
def test_bad_hyperparameters_are_named(field: str, value: float) -> None:
    with pytest.raises(metarl.InvalidValueError, match=f"rl2.{field} is"):
        metarl.make_agent("rl2", "metarl/BernoulliBandit-v0", **{field: value})


def test_trials_and_batches_are_sized_by_the_horizon(counting: Any) -> None:
    """10 episodes of 10 steps, and 200 such trials make 20,000 steps."""
    agent = metarl.make_agent("rl2", counting(10), hidden=8)
    assert (agent.config.trial_episodes, agent.meta_batch_size, agent.train_env_steps) == (10, 200, 20_000)
    assert agent.ppo.config == agent.config


def test_a_trial_longer_than_memory_allows_is_refused_before_it_is_played(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 trials in 8 minibatches of 125 x 1,000 pulls x 128 units x 5 floats: 320 MB and more, of 100 MB."""
    monkeypatch.setattr("metarl.learning.ppo.free_bytes", lambda device: 100_000_000)
    agent = metarl.make_agent("rl2", "metarl/BernoulliBandit-v0", trial_episodes=1000, meta_batch_size=1000)
    with pytest.raises(
        metarl.InvalidValueError, match=r"rl2.trial_episodes is 1000, expected at most about \d+ with 125"
    ):
        metarl.train(agent, 1)
    metarl.train(metarl.make_agent("rl2", "metarl/BernoulliBandit-v0", trial_episodes=10), 1)


def test_trials_of_a_thousand_steps_train() -> None:
    small = {"hidden": 8, "meta_batch_size": 4, "minibatches": 2, "epochs": 1}
    agent = metarl.make_agent("rl2", "metarl/BernoulliBandit-v0", trial_episodes=1200, **small)
    before = [p.detach().clone() for p in agent.net.parameters()]
    metarl.train(agent, 1)
    assert any(not torch.equal(a, b) for a, b in zip(before, agent.net.parameters(), strict=True))
    assert all(p.isfinite().all() for p in agent.net.parameters())


@pytest.mark.parametrize("space", [spaces.MultiBinary(3), spaces.Dict({"a": spaces.Discrete(2)}), spaces.Text(4)])
def test_spaces_that_cannot_be_encoded_are_named(space: spaces.Space[Any]) -> None:
    family = Walk()
    family.observation_space = space
    with pytest.raises(metarl.InvalidValueError, match=r"observation space of rl2 is .*expected a Box or a Discr"):
        metarl.make_agent("rl2", family)
    family = Walk()
    family.action_space = space
    with pytest.raises(metarl.InvalidValueError, match="action space of rl2 is "):
        metarl.make_agent("rl2", family)


@pytest.mark.parametrize("horizon", [0, -1, 2.5])
def test_episodes_without_steps_are_refused(horizon: float) -> None:
    family = Walk()
    family.horizon = horizon
    with pytest.raises(metarl.InvalidValueError, match=r"Walk.horizon is .*, expected a whole number of steps"):
        metarl.make_agent("rl2", family)


def test_a_separate_value_network_leaves_the_policy_alone() -> None:
    """Its error reaches no parameter of the policy's memory; with a shared memory it does."""
    for separate in (True, False):
        agent = walk_agent(separate_value=separate, max_grad_norm=1e9)
        rollout, _ = trial(agent, [2, 4])
        assert ("value" in rollout.extras) != separate
        given = agent.given(rollout, None)
        value = agent.net(given).value
        value.sum().backward()
        touched = any(p.grad is not None and p.grad.abs().sum() > 0 for p in agent.net.memory.parameters())
        assert touched != separate
        agent.net.zero_grad()
        found = agent.ppo.values(rollout, given)
        valid = rollout.valid[:, :, 0]
        torch.testing.assert_close(found[valid], value.detach()[valid], rtol=0, atol=1e-5)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_cpu() -> None:
    trained = []
    for device in ("cpu", "cuda"):
        agent = metarl.make_agent("rl2", "metarl/BernoulliBandit-v0", device=device, meta_batch_size=32, hidden=16)
        agent.train_step(PoolTrials(EnvironmentPool(agent.family, agent.device), agent.family.tasks("train", 32)))
        trained.append({k: v.cpu() for k, v in agent.net.state_dict().items()})
    for name in trained[0]:
        torch.testing.assert_close(trained[0][name], trained[1][name], rtol=0, atol=1e-3)


def bandit_trial(**settings: Any) -> tuple[RL2, PoolTrials, Rollout]:
    """Six bandits, ten pulls each."""
    given = {"trial_episodes": 10, "meta_batch_size": 6, "hidden": 8, "minibatches": 3, "epochs": 1}
    agent = metarl.make_agent("rl2", "metarl/BernoulliBandit-v0", **given, **settings)
    trials = PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("train", 6))
    return agent, trials, trials.collect(agent, agent.begin(6), 0, Budget(episodes=10))[0]


def parts_of(agent: RL2, trials: PoolTrials, rollout: Rollout, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the gradient steps of an update are given."""
    parts, plain = [], agent.ppo._step
    monkeypatch.setattr(agent.ppo, "_step", lambda part: parts.append(part) or plain(part))
    agent.ppo.update(rollout, agent.given(rollout, trials.tasks), trials.key)
    return parts


def arms_of(agent: RL2, task: torch.Tensor) -> torch.Tensor:
    """Features of tasks `[1, B, k]` back to their arms `[B, k]`."""
    mean, std = agent.encode_task.moments
    return task[0] * std + mean


def test_expected_rewards_are_learned_from_and_drawn_ones_told(monkeypatch: pytest.MonkeyPatch) -> None:
    agent, trials, rollout = bandit_trial(expected_rewards=True, reward_coef=1.0)
    p = torch.from_numpy(trials.tasks.values["p"].copy())
    means = p.gather(1, rollout.action[:, :, 0].T).T
    assert torch.equal(agent.ppo.learning_rewards(rollout), means)
    assert torch.equal(agent.trial_memory.inputs.of(rollout)[1:, :, -2], rollout.reward[:-1, :, 0])
    assert set(rollout.reward.unique().tolist()) == {0.0, 1.0}
    learned = torch.cat([part["batch"]["reward"] for part in parts_of(agent, trials, rollout, monkeypatch)], 1)
    assert sorted(learned.flatten().tolist()) == sorted(means.flatten().tolist())
    assert torch.equal(bandit_trial()[0].ppo.learning_rewards(rollout), rollout.reward[:, :, 0])


def test_expected_rewards_need_a_family_that_reports_them() -> None:
    with pytest.raises(metarl.InvalidValueError, match=r"rl2.expected_rewards is True, expected False: .* reports no"):
        metarl.train(walk_agent(expected_rewards=True), 1)


@pytest.mark.parametrize("separate", [False, True])
def test_a_value_that_sees_the_task_is_given_each_trials_own(separate: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Minibatches are dealt at random: a trial's arms are known by what its pulls pay on average."""
    agent, trials, rollout = bandit_trial(value_sees_task=True, expected_rewards=True, separate_value=separate)
    assert "value" not in rollout.extras  # acting does not know the task
    encoded = agent.encode_task(trials.tasks)
    assert encoded.shape == (6, 5)
    given = agent.given(rollout, trials.tasks)
    assert torch.equal(given["task"], encoded.unsqueeze(0))
    with torch.no_grad():
        policy, value, _ = agent.net(given)
        torch.testing.assert_close(agent.ppo.values(rollout, given), value, rtol=0, atol=1e-6)
        other_policy, other, _ = agent.net(given | {"task": given["task"].flip(1)})
    assert torch.equal(policy.logits, other_policy.logits)  # the policy sees none of it
    assert (other - value).abs().max() > 1e-3
    parts = [part["batch"] for part in parts_of(agent, trials, rollout, monkeypatch)]
    assert [part["given"]["task"].shape for part in parts] == [(1, 2, 5)] * 3
    for part in parts:
        arms = arms_of(agent, part["given"]["task"])  # [B, k]
        torch.testing.assert_close(arms.gather(1, part["action"].T).T, part["reward"], rtol=0, atol=1e-5)


def test_inferred_tasks_are_each_trials_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The auxiliary loss, from the parts of an update by hand; it reaches the memory."""
    agent, trials, rollout = bandit_trial(task_coef=1.0)
    assert "value" in rollout.extras  # the value sees nothing of the task
    parts = parts_of(agent, trials, rollout, monkeypatch)
    for part in parts:
        arms = arms_of(agent, part["batch"]["given"]["task"])
        assert all(
            any(torch.allclose(row, torch.from_numpy(p)) for p in trials.tasks.values["p"].copy()) for row in arms
        )
    given = parts[0]["batch"]["given"]
    loss = (agent.net.task(agent.net.memory(given["x"])) - given["task"]).square().mean(-1).mean()
    assert agent.ppo._step(parts[0])["task_loss"] == pytest.approx(loss.item(), rel=1e-5)
    (g,) = torch.autograd.grad(loss, [agent.net.memory.rnn.weight_hh_l0])
    assert g.abs().sum() > 0


def test_tasks_are_encoded_with_the_moments_of_train_tasks() -> None:
    family = metarl.make_family("metarl/TabularMDP-v0")
    encode = TaskEncoder(family, 200)
    features = encode(family.tasks("train", 200))
    assert features.shape == (200, 10 * 5 + 10 * 5 * 10)
    torch.testing.assert_close(features.mean(0), torch.zeros(550), rtol=0, atol=1e-4)
    torch.testing.assert_close(features.std(0), torch.ones(550), rtol=0, atol=1e-4)
    first = family.tasks("test", 1)
    reward = (torch.from_numpy(first.values["reward"].copy()).flatten() - encode.moments[0][:50]) / encode.moments[1][
        :50
    ]
    torch.testing.assert_close(encode(first)[0, :50], reward)


@pytest.mark.parametrize(
    ("id", "size"),
    [
        ("metarl/CartPole-v0", None),  # parameters that are plain numbers
        ("metarl/HalfCheetahVel-v0", 1),
        ("metarl/GridNavi-v0", 2),
        ('metarl/Switching-v0{"family": "metarl/BernoulliBandit-v0", "phases": 3}', 15),
    ],
)
def test_tasks_of_any_family_are_encoded(id: str, size: int | None) -> None:
    if "Cheetah" in id:
        pytest.importorskip("mujoco")
    family = metarl.make_family(id)
    encode, tasks = TaskEncoder(family, 50), family.tasks("test", 4)
    size = size or sum(v[0].size for v in tasks.values.values())
    assert (encode.size, encode(tasks).shape) == (size, (4, size))
    assert torch.equal(encode(tasks[2])[0], encode(tasks)[2])


def test_expected_rewards_that_are_missing_in_some_steps_are_refused() -> None:
    class Partly(type(metarl.make_family("metarl/BernoulliBandit-v0"))):  # type: ignore[misc]
        def step(self, state: Tensor, action: Tensor, task: dict[str, Tensor], rng: metarl.Rng) -> Any:
            *rest, info = super().step(state, action, task, rng)
            return (*rest, {"expected_reward": torch.where(action > 2, torch.nan, info["expected_reward"])})

    agent = metarl.make_agent("rl2", Partly(), expected_rewards=True, trial_episodes=4, meta_batch_size=8, hidden=8)
    with pytest.raises(metarl.InvalidValueError, match=r"rl2.expected_rewards .* is missing in some steps, or not fin"):
        metarl.train(agent, 1)


def test_switches_are_true_or_false() -> None:
    for value in ("no", 2, None):
        with pytest.raises(metarl.InvalidValueError, match=r"rl2.expected_rewards is .*, expected True or False"):
            metarl.make_agent("rl2", "metarl/BernoulliBandit-v0", expected_rewards=value)


def test_learning_from_tasks_needs_them() -> None:
    agent, _, rollout = bandit_trial(task_coef=1.0)
    with pytest.raises(metarl.InvalidValueError, match="tasks is None, expected those of the trials"):
        agent.given(rollout, None)


def test_a_value_that_sees_the_task_trains_saves_and_acts_without_it(tmp_path: Path) -> None:
    settings = {"trial_episodes": 4, "meta_batch_size": 8, "hidden": 8, "minibatches": 2}
    agent = metarl.make_agent("rl2", "metarl/TabularMDP-v0", value_sees_task=True, expected_rewards=True, **settings)
    before = {k: v.clone() for k, v in agent.net.state_dict().items()}
    run = metarl.Run.create(tmp_path / "run", agent, 2)
    run.train(agent)
    changed = {k for k, v in agent.net.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == set(before)
    loaded, _ = metarl.Run.open(tmp_path / "run").load_agent()
    assert all(torch.equal(v, agent.net.state_dict()[k]) for k, v in loaded.net.state_dict().items())
    results = [evaluate(a, a.family.tasks("test", 3), k=(4,), episodes=1) for a in (agent, loaded)]
    assert np.array_equal(results[0].lifetime, results[1].lifetime)


@pytest.mark.parametrize("more", [{}, {"separate_value": True}, {"value_sees_task": True}])
def test_a_hypernetwork_begins_with_one_policy_for_all_memories(more: dict[str, Any]) -> None:
    """It depends on the observation alone until it is trained, and acting equals the training pass."""
    agent = walk_agent(hypernetwork=True, max_grad_norm=1e9, **more)
    x = torch.randn(8, 3, 4, generator=torch.Generator().manual_seed(0))
    other = torch.cat([x[..., :1], -x[..., 1:]], -1)  # the same observations after other actions and rewards
    given, changed = ({"x": v, "task": torch.zeros(1, 3, 1)} for v in (x, other))
    a, b = agent.net(given), agent.net(changed)
    assert torch.equal(a.policy.mean, b.policy.mean)
    assert torch.equal(a.value, b.value) != ("value_sees_task" in more)
    assert (a.policy.mean[0] != a.policy.mean[1]).any()
    metarl.train(agent, 2)
    assert not torch.allclose(agent.net(given).policy.mean, agent.net(changed).policy.mean)
    rollout, _ = trial(agent, [2, 4, 3])
    policy, value, _ = agent.net(agent.given(rollout, agent.family.make_tasks(length=np.float32([2, 4, 3]))))
    log_prob, valid = policy.log_prob(rollout.action[:, :, 0]), rollout.valid[:, :, 0]
    torch.testing.assert_close(log_prob[valid], rollout.extras["log_prob"][:, :, 0][valid], rtol=0, atol=1e-5)
    if "value" in rollout.extras:
        torch.testing.assert_close(value[valid], rollout.extras["value"][:, :, 0][valid], rtol=0, atol=1e-5)


def test_generated_parameters_count_as_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """3 trials of 8 steps with 4 inputs. Linear heads: 4 x 8 x (3 x 5 x 8 + 3 x 3 x 4) = 4,992 bytes are enough.

    Policy and value on one observation have 1 x 32 + 32 + 32 + 1 = 97 parameters each.
    """
    for hypernetwork, need in ((False, 4_992), (True, 4_992 + 4 * 8 * 3 * 2 * 97)):
        agent = walk_agent(hypernetwork=hypernetwork)
        monkeypatch.setattr("metarl.learning.ppo.free_bytes", lambda device, need=need: need)
        metarl.train(agent, 1)
        monkeypatch.setattr("metarl.learning.ppo.free_bytes", lambda device, need=need: need - 1)
        with pytest.raises(metarl.InvalidValueError, match=r"rl2.trial_episodes is 2, expected at most about 1"):
            metarl.train(agent, 1)
