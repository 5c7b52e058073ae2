"""Trials whose task switches between episodes, in both forms."""

from __future__ import annotations

import itertools
import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import metarl
from metarl import GymFamily, InvalidValueError, Uniform
from metarl.contract.family_contract import check_family
from metarl.engine.pool import make_environments
from metarl.families.switching import SwitchingGym, SwitchingTorch, switching
from metarl.rng import fold_in, make_key

POINT = "metarl/PointNavigation-v0"
SIGNALLED = 'metarl/Switching-v0{"every": 2, "family": "metarl/PointNavigation-v0:semicircle", "signal": true}'
CART = '{"every": 2, "family": "metarl/Gymnasium-v0", "phases": 2}'
IDS = [
    SIGNALLED,
    'metarl/Switching-v0{"every": 5, "family": "metarl/BernoulliBandit-v0"}',
    'metarl/Switching-v0{"family": "metarl/GridNavi-v0", "phases": 2}',
    "metarl/Switching-v0" + CART,
]


@pytest.mark.parametrize("id", IDS)
def test_the_contract(id):
    family = metarl.make_family(id)
    assert family.id == id
    if family.horizon > 100:
        family.horizon = family.inner.horizon = 12
    assert check_family(family) == []


class Walk(metarl.TorchFamily):
    """The reward is the task's value, the state counts steps."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Discrete(2)
    horizon, terminates = 3, False
    task_space = {"value": Uniform(0.0, 1.0)}  # noqa: RUF012

    def reset(self, task, rng):
        return torch.zeros_like(task["value"])

    def observe(self, state, task):
        return state.unsqueeze(1)

    def step(self, state, action, task, rng):
        return state + 1, task["value"].clone(), torch.zeros_like(state, dtype=torch.bool)


def play(family, tasks, episodes):
    envs = make_environments(family, len(tasks))
    steps = family.horizon * episodes
    first = envs.begin(tasks, fold_in(make_key("x"), torch.arange(len(tasks))), steps)
    seen, rewards = [first], []
    for _ in range(steps):
        out = envs.step(torch.zeros(len(tasks), dtype=torch.int64))
        seen.append(out.obs)
        rewards.append(out.reward)
    envs.close()
    return torch.stack(seen), torch.stack(rewards).view(episodes, family.horizon, -1)


@pytest.mark.parametrize(("every", "phases"), [(1, 2), (1, 3), (2, 3), (3, 2)])
def test_the_schedule(every, phases):
    family = switching(Walk(), every, phases)
    tasks = family.tasks("train", 4)
    _, rewards = play(family, tasks, 7)
    values = torch.from_numpy(tasks.values["value"].copy())  # [4, phases]
    for episode in range(7):
        expected = values[:, (episode // every) % phases]
        assert torch.equal(rewards[episode], expected.expand(3, -1)), episode
    _, again = play(family, tasks, 1)  # a new trial begins the schedule anew
    assert torch.equal(again[0, 0], values[:, 0])


def test_the_signal_marks_the_first_episode_in_a_new_task():
    family = switching(Walk(), every=2, phases=3, signal=True)
    assert family.observation_space.shape == (2,)
    seen, _ = play(family, family.tasks("train", 2), 6)
    flags = seen[:-1, 0, 1].view(6, 3)
    assert flags.tolist() == [[0.0] * 3, [0.0] * 3, [1.0] * 3, [0.0] * 3, [1.0] * 3, [0.0] * 3]
    assert seen[1, 0, 0] == 1  # the family's own observation comes first


def test_both_forms_switch_alike():
    inner = GymFamily("CartPole-v1", {"length": Uniform(0.5, 1.5), "force_mag": Uniform(5.0, 15.0)}, "attrs", horizon=4)
    family = switching(inner, every=1, phases=2, signal=True)
    assert isinstance(family, SwitchingGym)
    task = family.tasks("test", 1)
    env = family.make_env(task)
    for episode in range(5):
        obs, _ = env.reset(seed=episode)
        assert env.unwrapped.length == pytest.approx(float(task.values["length"][0, episode % 2]))
        assert env.unwrapped.force_mag == pytest.approx(float(task.values["force_mag"][0, episode % 2]))
        assert obs.shape == (5,)
        assert obs[-1] == (episode > 0)
        assert env.step(0)[0][-1] == (episode > 0)


def test_schedules_are_of_the_familys_own_split():
    family, inner = switching(POINT, phases=3), metarl.make_family(POINT)
    test, train = family.tasks("test", 8, seed=3), family.tasks("train", 8, seed=3)
    expected = inner.tasks("test", 24, seed=3).values["goal"].reshape(8, 3, 2)
    assert np.array_equal(test.values["goal"], expected)
    assert family.held_out(test).all()
    assert not family.held_out(train).any()
    mixed = np.concatenate([test.values["goal"][:, :2], train.values["goal"][:, :1]], 1)
    assert not family.held_out(family.make_tasks(goal=mixed)).any()  # one train task is enough
    far = family.tasks("far", 4)
    assert family.held_out(far).all()
    assert (np.abs(far.values["goal"]) > 0.5).all()


def test_schedules_of_few_tasks_are_every_combination_once():
    family = switching("metarl/HalfCheetahDir-v0", phases=3)
    first = family.tasks("test", 8).values["direction"]
    assert {tuple(row) for row in first.tolist()} == set(itertools.product((-1.0, 1.0), repeat=3))
    assert len(family.listed("test")) == 8


def test_schedules_of_more_tasks_are_drawn_and_a_task_may_come_twice():
    family = switching("metarl/GridNavi-v0", phases=4)
    assert family.listed("test") is None
    goals = family.tasks("test", 2000, seed=1).values["goal"]
    same = (goals[:, 0] == goals[:, 1]).all(-1).mean()
    assert same == pytest.approx(1 / 21, abs=4 * math.sqrt(20) / 21 / math.sqrt(2000))
    np.testing.assert_array_equal(family.tasks("test", 1, seed=1, start=77).values["goal"][0], goals[77])


class Told(gym.Env):
    """Keeps the task that it is given."""

    observation_space, action_space = gym.spaces.Box(0.0, 1.0, (1,)), gym.spaces.Discrete(2)

    def set_task(self, task):
        self.told = task

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 0.0, False, False, {}


def test_parameters_keep_their_types_in_a_schedule():
    space = {"n": metarl.Integers(3, 9), "pair": metarl.Integers(0, 5, (2,)), "c": metarl.Choice(["a", "b"])}
    inner = metarl.GymFamily(Told, space | {"x": metarl.Uniform(0, 1)}, apply="set_task", horizon=2)
    family = switching(inner, phases=2)
    tasks = family.tasks("train", 1)
    env = family.make_env(tasks)
    for episode in range(3):
        env.reset(seed=0)
        told = env.unwrapped.told
        assert [type(told[name]) for name in ("n", "x", "c")] == [int, float, str]
        assert told["pair"].dtype == np.int64
        assert told["n"] == tasks.values["n"][0, episode % 2]


def test_rl2_trains_and_the_oracle_follows_the_switches():
    agent = metarl.make_agent("rl2", SIGNALLED, hidden=8, meta_batch_size=8, trial_episodes=4)
    metarl.train(agent, 1)
    results = metarl.evaluate(agent, k=3, num_tasks=3, episodes=1)
    assert np.isfinite(results.scores["sampled"]).all()
    informed = metarl.make_family("metarl/PointNavigation-v0:semicircle")
    family = switching(informed, every=1, phases=2)
    assert isinstance(family, SwitchingTorch)
    oracle = metarl.make_agent("oracle", family)
    tasks = family.tasks("test", 5)
    scored = metarl.evaluate(oracle, tasks, k=0, episodes=1).scores["deterministic"][0, :, 0, 0]
    phase = informed.make_tasks(angle=tasks.values["angle"][:, 0])
    np.testing.assert_allclose(scored, informed.references(phase)["informed_optimum"], atol=1e-4)


@pytest.mark.parametrize("agent", ["maml", "reptile", "scratch", "sb3"])
def test_agents_whose_episodes_have_no_order_are_refused(agent):
    with pytest.raises(InvalidValueError, match=f"family of {agent} is .*"):
        metarl.make_agent(agent, "metarl/Switching-v0")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"every": 0}, "switching.every is 0, expected a whole number, at least 1"),
        ({"phases": 1}, "switching.phases is 1, expected a whole number, at least 2"),
        ({"family": "metarl/Switching-v0"}, "expected a family whose task does not switch already"),
    ],
)
def test_wrong_arguments(arguments, sentence):
    with pytest.raises(InvalidValueError) as caught:
        switching(**{"family": POINT, **arguments})
    assert sentence in str(caught.value)


def test_a_signal_needs_a_vector():
    family = metarl.make_family("metarl/GridNavi-v0")
    family.observation_space = spaces.Discrete(25)
    with pytest.raises(InvalidValueError, match=r"switching.signal is True, expected False, because observations"):
        switching(family, signal=True)


@pytest.mark.parametrize("agent", ["rl2", "random"])
def test_evaluation_goes_through_the_schedule(agent):
    family = switching(Walk(), every=2, phases=3)
    settings = {"hidden": 8, "trial_episodes": 2} if agent == "rl2" else {}
    tasks = family.tasks("test", 4)
    results = metarl.evaluate(metarl.make_agent(agent, family, **settings), tasks, k=7, episodes=2)
    values = tasks.values["value"]
    due = np.stack([3 * values[:, (episode // 2) % 3] for episode in range(8)], 1)  # [task, episode]
    np.testing.assert_allclose(results.scores["sampled"][0].mean(-1), due, rtol=1e-5)
    np.testing.assert_allclose(results.collected.reshape(4, -1)[:, :7], due[:, :7], rtol=1e-5)


def test_a_switching_family_has_an_id_of_its_own():
    inner = metarl.make_family("metarl/Gymnasium-v0")
    family = switching(inner)
    assert family.id != inner.id
    made = metarl.make_family("metarl/Switching-v0" + CART)
    assert made.visible().id == made.id


def test_a_new_task_or_seed_begins_a_schedule():
    family = switching(Walk(), every=1, phases=2)
    env = metarl.MetaVectorEnv(family, 2, autoreset_mode="Disabled")
    tasks = family.tasks("test", 2)

    def paid(**options):
        env.reset(**options)
        return env.step(np.zeros(2, dtype=int))[1].tolist()

    first, second = tasks.values["value"][:, 0].tolist(), tasks.values["value"][:, 1].tolist()
    assert paid(seed=0, options={"task": tasks}) == pytest.approx(first)
    assert paid() == pytest.approx(second)
    assert paid() == pytest.approx(first)
    assert paid(options={"task": tasks}) == pytest.approx(first)
    assert paid(seed=3) == pytest.approx(first)
    half = {"reset_mask": np.array([True, False])}
    env.reset()
    env.reset(seed=5, options=half)
    assert env.step(np.zeros(2, dtype=int))[1].tolist() == pytest.approx([first[0], second[1]])
