"""The plain loops of VariBAD and PEARL compute what metarl computes, and the script measures both."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import metarl
from metarl.agent import Budget, Rng, SACBatch, fold_in, make_key
from metarl.agents.inference.pearl import PEARL
from metarl.agents.inference.varibad import VariBAD
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.learning.inference.decoders import Decoded, negative_elbo

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
from baselines import bandit_loop, pearl_loop, varibad_loop  # noqa: E402

SIZES = {"trial_episodes": 2, "meta_batch_size": 6, "hidden": 8, "policy_hidden": (8,), "minibatches": 1, "epochs": 2}


def varibad(**settings) -> VariBAD:
    agent = metarl.make_agent("varibad", "metarl/GridNavi-v0", **{**SIZES, **settings})
    assert isinstance(agent, VariBAD)
    return agent


def trials_of(agent: metarl.Agent, count: int) -> PoolTrials:
    return PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("train", count))


def test_grid_in_numpy_is_metarls():
    env, family = varibad_loop.GridNavi(2), metarl.make_family("metarl/GridNavi-v0")
    env.reset(seed=0)
    task = {"goal": torch.tensor([env.goal], dtype=torch.float32)}
    state = family.reset(task, Rng(torch.tensor([0])))
    actions = torch.randint(5, (30,), generator=torch.Generator().manual_seed(1))
    paid = 0
    for t, action in enumerate(actions):
        packed, reward, terminated, truncated, _ = env.step(int(action))
        state, expected, _ = family.step(state, action.view(1), task, Rng(torch.tensor([0])))
        assert reward == pytest.approx(float(expected))
        assert packed[2:4].tolist() == state[0].tolist()
        if t % 15 == 14:
            state = family.reset(task, Rng(torch.tensor([0])))
        assert packed[:2].tolist() == state[0].tolist()
        assert (packed[4], terminated, truncated) == (float(t % 15 == 14), False, t == 29)
        paid += reward > 0
    goals = {env.reset()[0].size and env.goal for _ in range(400)}
    assert goals == {tuple(int(v) for v in goal) for goal in family.goals}


def test_velocity_in_gymnasium_is_metarls():
    pytest.importorskip("mujoco")
    env = varibad_loop.HalfCheetahVel(1)
    obs, _ = env.reset(seed=0)
    assert obs.shape == (35,)
    packed, reward, *_ = env.step(env.action_space.sample())
    assert packed.shape == (35,)
    assert -20.0 < reward < 0.0
    space = metarl.make_family("metarl/HalfCheetahVel-v0").task_space["velocity"]
    assert (space.low, space.high) == (0.0, 3.0)  # as the environment draws them


def test_model_loss_of_the_loop_is_metarls():
    agent = varibad()
    rollout, _ = trials_of(agent, 6).collect(agent, agent.begin(6), 0, Budget(envs=1, episodes=2), final_obs=True)
    kept = agent.model.kept(rollout)
    terms, noise = torch.tensor([0, 7, 29]), torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0))
    decoded = [Decoded(agent.model["reward"], kept["step"], kept["reward"], 1.0)]
    expected, _ = negative_elbo(agent.model.encoder(kept["x"]), decoded, kept["valid"][..., 0], noise, 0.5, terms)
    nets = varibad_loop.Networks(agent)
    loss = varibad_loop.model_loss(nets, {**kept, "reward": kept["reward"][..., 0]}, terms, noise, 0.5)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    some = torch.tensor([1, 12, 29])
    decoded = [Decoded(agent.model["reward"], kept["step"][some], kept["reward"][some], 1.0)]
    valid = kept["valid"][..., 0]
    belief = agent.model.encoder(kept["x"])
    expected, _ = negative_elbo(belief, decoded, valid, noise, 0.5, terms, valid[some] * (len(valid) / 3))
    loss = varibad_loop.model_loss(nets, {**kept, "reward": kept["reward"][..., 0]}, terms, noise, 0.5, some)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def test_policy_update_of_the_loop_is_metarls():
    agent = varibad(gae_lambda=0.8, entropy_coef=0.1)
    rollout, _ = trials_of(agent, 6).collect(agent, agent.begin(6), 0, Budget(envs=1, episodes=2), final_obs=True)
    nets, x = varibad_loop.Networks(agent), rollout.extras["x"][:, :, 0]
    time = torch.linspace(0.0, 1.0, len(x)).view(-1, 1, 1).expand(-1, 6, 1)
    given = torch.cat([x, time], -1)
    policy, value = nets.unroll(given)
    log_prob = rollout.extras["log_prob"][:, :, 0]
    torch.testing.assert_close(policy.log_prob(rollout.action[:, :, 0]), log_prob, rtol=1e-4, atol=1e-5)
    batch = {"x": given, "value": value.detach(), "log_prob": log_prob}
    batch |= {"action": rollout.action[:, :, 0], "reward": rollout.reward[:, :, 0]}
    acting = [*nets.policy.parameters(), *nets.value.parameters()]
    before = [p.detach().clone() for p in acting]
    agent.ppo.update(rollout, {"x": x, "time": time}, 0)
    bandit_loop.update(nets, torch.optim.Adam(acting, lr=agent.config.learning_rate, eps=1e-5), batch, agent.config)
    after = varibad_loop.Networks(agent)
    for p, q, old in zip(acting, [*after.policy.parameters(), *after.value.parameters()], before, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=2e-5)  # Adam's steps are 7e-4 each
        assert not torch.equal(p, old)


def test_loop_of_varibad_trains_all_of_its_networks():
    agent = varibad(meta_batch_size=16, model_updates=1, elbo_terms=3, model_batch_size=4)
    loop = varibad_loop.Loop(agent, varibad_loop.GridNavi)
    before = {name: p.detach().clone() for name, p in loop.nets.named_parameters()}
    assert loop.meta_update({"meta_batch_size": 32}) == 32 * 30
    assert loop.meta_update({}) == 16 * 30
    loop.envs.close()
    assert loop.replay["reward"].shape == (30, 48)
    assert all(not torch.equal(p, before[name]) for name, p in loop.nets.named_parameters())


def test_loss_of_the_pearl_loop_is_metarls():
    sizes = {"policy_hidden": (8,), "encoder_hidden": (8,), "updates": 1, "tasks_per_update": 3, "batch_size": 4}
    agent = metarl.make_agent("pearl", "metarl/PointNavigation-v0", kl_coef=0.5, **sizes)
    assert isinstance(agent, PEARL)
    agent.train_step(trials_of(agent, agent.config.meta_batch_size))
    loop, places, key = pearl_loop.Loop(agent), agent.learner.replay.sample_tasks(3, 7), 7
    learner = agent.learner
    batch, context = learner.replay.sample(places, 4, key), learner.context.sample(places, 64, key, "context")
    z_noise = Rng(fold_in(make_key(key, "z"), torch.arange(3))).normal(5)
    noise = Rng(torch.tensor([make_key(key, "sac")])).normal(2, 12, 2)[0]
    loss = loop.losses(batch, context, z_noise, noise[0])
    belief = agent.encoder(learner.inputs.features(context)).belief
    z = belief.sample(z_noise).unsqueeze(1).expand(-1, 4, -1)
    x, next_x = (torch.cat([batch[name], z], -1).flatten(0, 1) for name in ("obs", "next_obs"))
    flat = {name: batch[name].flatten(0, 1) for name in ("action", "reward", "terminated")}
    metrics = learner.sac.update(SACBatch(x, flat["action"], flat["reward"], next_x.detach(), flat["terminated"]), key)
    kl = belief.kl(type(belief)(torch.zeros(3, 5), torch.zeros(3, 5))).mean()
    torch.testing.assert_close(loss, 2.0 * metrics["critic_loss"] + 0.5 * kl, rtol=1e-4, atol=1e-5)


def test_loop_of_pearl_trains_all_of_its_networks():
    sizes = {"policy_hidden": (8,), "encoder_hidden": (8,), "updates": 1, "tasks_per_update": 3, "batch_size": 4}
    agent = metarl.make_agent("pearl", "metarl/PointNavigation-v0", **sizes)
    assert isinstance(agent, PEARL)
    agent.train_step(trials_of(agent, agent.config.meta_batch_size))
    loop = pearl_loop.Loop(agent)
    parts = [loop.actor, loop.encoder, *loop.critics, *loop.targets]
    before = [[p.detach().clone() for p in part.parameters()] for part in parts]
    loop.step()
    for part, old in zip(parts, before, strict=True):
        assert all(not torch.equal(p, q) for p, q in zip(part.parameters(), old, strict=True))


def run_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXPERIMENTS / "benchmark_inference.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)


def test_script_reports_both_agents(tmp_path):
    out = tmp_path / "speed.json"
    done = run_script("--small", "--repeats", "2", "--threads", "1", "--out", str(out))
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert [(row["part"], row["other"]) for row in report["rows"]] == [
        ("h", "plain loop, same update"),
        ("h", "plain loop, published schedule"),
        ("i", "plain loop"),
    ]
    assert all(len(row["ours"]) == len(row["theirs"]) == 2 for row in report["rows"])
    for side in ("metarl", "loop"):
        shares = report["details"]["pearl"][side]
        assert 0.0 < shares["products"] < 1.0
        assert shares["products"] + sum(shares["others"].values()) <= 1.0 + 1e-9


def test_script_refuses_unknown_parts():
    done = run_script("--only", "h,z")
    assert done.returncode == 1
    assert "h,i" in done.stderr
