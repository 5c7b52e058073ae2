"""An agent stepped by hand plays what the evaluator measures."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import pytest
import torch

import metarl
from metarl import InvalidValueError
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials

POINTS, BANDIT = "metarl/PointNavigation-v0", "metarl/BernoulliBandit-v0"


def episode(player: metarl.Player, env: gym.Env) -> float:
    """The return of one episode."""
    obs, _ = env.reset(seed=0)
    total, over = 0.0, False
    while not over:
        obs, reward, terminated, truncated, _ = env.step(player.act(obs))
        player.observe(float(reward), terminated, truncated)
        total, over = total + float(reward), terminated or truncated
    return total


@pytest.mark.parametrize("k", [0, 2])
def test_deterministic_returns_are_the_evaluators(k: int) -> None:
    """Every episode of PointNavigation starts in the origin, so that a deterministic policy has one return."""
    agent = metarl.make_agent("maml", POINTS, hidden=(8,), eval_steps=300)
    results = metarl.evaluate(agent, k=k, num_tasks=2, episodes=1, modes=["deterministic"], seed=3)
    player = metarl.Player(agent, task=1, k=k, seed=3)
    found = episode(player, gym.make(POINTS, task=1, split="test"))
    assert found == pytest.approx(results.scores["deterministic"][0, 1, k, 0], rel=1e-4)


def test_a_recurrent_agent_keeps_what_it_hears_and_must_hear_it() -> None:
    agent = metarl.make_agent("ucb1", BANDIT)
    player, env = metarl.Player(agent), gym.make(BANDIT, task=0)
    for _ in range(7):
        episode(player, env)
    assert float(player.state["pulls"].sum()) == 7
    player.act([0.0])
    with pytest.raises(InvalidValueError, match="expected a call of observe"):
        player.act([0.0])


def test_what_cannot_be_played_is_one_sentence() -> None:
    with pytest.raises(InvalidValueError, match="not shown the task"):
        metarl.Player(metarl.make_agent("oracle", POINTS))
    agent = metarl.make_agent("random", POINTS)
    with pytest.raises(InvalidValueError, match="0 or more adaptation steps"):
        metarl.Player(agent, k=-1)
    with pytest.raises(InvalidValueError, match="a call of act"):
        metarl.Player(agent).observe(0.0, False, False)
    with pytest.raises(InvalidValueError, match="number of tasks is 2"):
        metarl.Player(agent, agent.family.tasks("test", 2))


def test_load_gives_the_trained_agent_back(tmp_path: Path) -> None:
    agent = metarl.make_agent("maml", POINTS, hidden=(4,), meta_batch_size=2, episodes=2)
    metarl.Run.create(tmp_path / "run", agent, 1).train(agent)
    loaded = metarl.load(tmp_path / "run")
    assert all(bool((value == loaded.tensors()[name]).all()) for name, value in agent.tensors().items())


def test_load_changes_settings_that_what_was_learned_fits(tmp_path: Path) -> None:
    """Inner steps that are ten times shorter move a tenth as far from the same initialisation."""
    sizes = {"hidden": (8,), "meta_batch_size": 2, "episodes": 2, "eval_steps": 200}
    agent = metarl.make_agent("maml", "metarl/PointNavigation-v0", **sizes)
    metarl.Run.create(tmp_path / "run", agent, 1).train(agent)
    plain, shorter = metarl.load(tmp_path / "run"), metarl.load(tmp_path / "run", inner_lr=0.05)
    assert shorter.config.inner_lr == 0.05
    for k, v in agent.theta.items():
        assert torch.equal(v, shorter.theta[k])
    moved = []
    for each in (plain, shorter):
        trials = PoolTrials(EnvironmentPool(each.family), each.family.tasks("test", 1))
        state = each.begin(1)
        moved.append({k: each.interact(each.fork(state), trials, 0)[1][k] - state[k] for k in ("w0", "b1")})
    for k, v in moved[0].items():
        torch.testing.assert_close(moved[1][k], 0.1 * v, rtol=1e-3, atol=1e-6)
    with pytest.raises(metarl.InvalidValueError, match=r"hyperparameter of maml is 'inner_rl', .* 'inner_lr'"):
        metarl.load(tmp_path / "run", inner_rl=0.05)
    with pytest.raises(metarl.InvalidValueError, match="settings that keep the shapes"):
        metarl.load(tmp_path / "run", hidden=(9,))
