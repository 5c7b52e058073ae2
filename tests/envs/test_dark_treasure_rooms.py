"""Dark Treasure Rooms: steps worked out by hand, references against every way through short episodes."""

from __future__ import annotations

import itertools
import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.utils.env_checker import check_env

import metarl
from metarl import InvalidValueError, Rng
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.envs.grids.dark_treasure_rooms import best_returns
from metarl.envs.grids.grid_navi import DOWN, LEFT, RIGHT, STAY, UP
from metarl.rng import fold_in, make_key

ID = "metarl/DarkTreasureRooms-v0"


def keyed(n):
    return Rng(fold_in(make_key("test treasures"), torch.arange(n)))


def play(family, task, ways):
    """The rewards `[N, T]` of ways `[N, T]` through an episode of one task."""
    ways = torch.as_tensor(ways)
    tensors = {k: v.expand(len(ways), *v.shape[1:]) for k, v in task.tensors().items()}
    state, rewards = family.reset(tensors, keyed(len(ways))), []
    for action in ways.unbind(1):
        state, reward, ended = family.step(state, action, tensors, keyed(len(ways)))
        assert not ended.any()
        rewards.append(reward)
    return torch.stack(rewards, 1)


def returns(family, tasks, agent, per_task=1):
    trials = PoolTrials(EnvironmentPool(family), tasks, per_task=per_task)
    agent = metarl.make_agent(agent, family)
    state = agent.begin(trials.rows, trials.tasks if agent.privileged else None)
    rollout, _ = trials.collect(agent, state, 0, metarl.Budget(episodes=2))
    return rollout.mean_return().view(len(tasks), per_task).numpy()


def test_constants_are_those_of_the_published_code():
    family = metarl.make_family(ID)
    assert (family.observation_space, family.action_space) == (Box(0, 8, (2,), np.float32), Discrete(5))
    assert family.horizon == 9
    assert family.task_space == {"cell": metarl.Integers(0, 8, (8, 2)), "reward": metarl.Uniform(-4.0, 2.0, (8,))}
    assert metarl.make_family(f"{ID}:rho0").task_space["reward"] == metarl.Uniform(0.0, 2.0, (8,))
    state = family.reset(family.tasks("train", 2).tensors(), keyed(2))
    assert family.observe(state, {}).tolist() == [[4, 4], [4, 4]]
    check_env(gym.make(ID).unwrapped, skip_render_check=True)


def test_random_play_earns_what_the_paper_reports():
    # 10 episodes: -5.5 at rho -4 (means of five seeds); at 0, where a treasure pays 1 on average, the opposite
    for id, expected in ((ID, -5.5), (f"{ID}:rho0", 5.5)):
        family = metarl.make_family(id)
        floor = 10 * family.references(family.tasks("train", 1000))["floor"]
        assert floor.mean() == pytest.approx(expected, abs=4.5 * floor.std() / math.sqrt(1000))


def test_a_treasure_pays_once_in_an_episode():
    family = metarl.make_family(ID, size=5, treasures=4, horizon=6)
    task = family.make_tasks(cell=[[[3, 2], [3, 3], [3, 3], [2, 2]]], reward=[[1.0, -2.0, 0.5, 0.25]])
    # the start pays if a step ends on it; two treasures in one cell add up; a wall is like staying
    ways = [[RIGHT, UP, DOWN, LEFT, STAY, RIGHT], [STAY, STAY, DOWN, DOWN, DOWN, UP], [LEFT, UP, RIGHT, RIGHT, UP, UP]]
    paid = [[1, -1.5, 0, 0.25, 0, 0], [0.25, 0, 0, 0, 0, 0], [0, 0, 0, -1.5, 0, 0]]
    assert play(family, task, ways).tolist() == paid
    assert play(family, task, ways).tolist() == paid  # and in the next episode again


def test_references_are_those_of_all_ways_through_short_episodes():
    family = metarl.make_family(ID, size=3, treasures=4, horizon=4)
    ways = list(itertools.product(range(5), repeat=4))
    tasks = family.tasks("test", 30)
    found = family.references(tasks)
    totals = np.stack([play(family, tasks[[i]], ways).double().sum(1).numpy() for i in range(30)])
    np.testing.assert_allclose(found["floor"], totals.mean(1), atol=1e-6)
    np.testing.assert_allclose(found["informed_optimum"], totals.max(1), atol=1e-6)
    assert (found["informed_optimum"] > 0).any()
    assert (found["informed_optimum"] == 0).any()  # it may be best to stay, and no treasure lies there
    first = totals.reshape(30, 5, -1).max(2)
    task = tasks.tensors()
    best = best_returns(torch.ones(30, 2), task["cell"], task["reward"], torch.full((30,), 4), 3)
    np.testing.assert_allclose(best.numpy(), first, atol=1e-6)


def test_what_is_left_of_an_episode_is_played_best():
    family = metarl.make_family(ID, size=5, treasures=3)
    task = family.make_tasks(cell=[[[4, 2], [0, 2], [1, 2]]], reward=[[1.0, 1.5, -1.0]])
    tensors = {k: v.expand(4, *v.shape[1:]) for k, v in task.tensors().items()}
    cell = torch.tensor([[2.0, 2.0]]).expand(4, 2)
    taken = torch.tensor([[0, 0, 0], [0, 0, 0], [1, 0, 0], [1, 1, 0]]).bool()
    # with two steps left the 1 on the right; with four the 1.5 on the left, around the trap; 8 steps reach both
    action = family.optimal_action({"cell": cell, "taken": taken}, tensors, torch.tensor([7, 5, 5, 0]))
    assert action[0] == RIGHT
    assert action[1] in (UP, DOWN)
    assert action[2] in (UP, DOWN)
    worth = best_returns(cell, tensors["cell"], tensors["reward"], torch.tensor([2, 4, 7, 8]), 5).amax(1)
    assert worth.tolist() == [1.0, 1.5, 1.5, 2.5]


def test_random_and_oracle_earn_the_references():
    family = metarl.make_family(ID)
    tasks = family.tasks("test", 20)
    found = family.references(tasks)
    np.testing.assert_allclose(returns(family, tasks, "oracle")[:, 0], found["informed_optimum"], atol=1e-5)
    random = returns(family, tasks, "random", per_task=400)
    error = random.std(1) / 20
    assert (np.abs(random.mean(1) - found["floor"]) < 4.5 * error + 1e-6).all()


@pytest.mark.parametrize(
    ("field", "bad", "expected"),
    [
        ("low", 2.0, "a finite number below 2"),
        ("low", -math.inf, "a finite number below 2"),
        ("size", 8, "an odd number, because the start is the centre"),
        ("size", 1, "a whole number, at least 3"),
        ("treasures", 9, "at most 8"),
        ("treasures", 0, "a whole number, at least 1"),
        ("horizon", 0.5, "a whole number, at least 1"),
    ],
)
def test_wrong_arguments_are_named(field, bad, expected):
    with pytest.raises(InvalidValueError, match=rf"DarkTreasureRooms\.{field} is {bad}, expected {expected}"):
        metarl.make_family(ID, **{field: bad})
