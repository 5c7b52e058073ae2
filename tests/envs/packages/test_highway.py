"""Highway driving: the task reaches the traffic, and the package's own task plays as the package does."""

from __future__ import annotations

import itertools
import json
import math

import golden_tasks
import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("highway_env")

import metarl
from metarl import InvalidValueError

ID = "metarl/Highway-v0"
SAME = {"density": 1.0, "speed_limit": 30.0, "time_gap": 1.5, "politeness": 0.0}  # as in the package


@pytest.fixture(scope="module")
def family():
    return metarl.make_family(ID)


def started(family, seed=0, **task):
    """An environment after its reset, and the other drivers."""
    env = family.make_env(family.make_tasks(**(SAME | task)))
    env.reset(seed=seed)
    inner = env.unwrapped
    return env, [driver for driver in inner.road.vehicles if driver is not inner.vehicle]


def test_the_contract():
    assert metarl.check_family(f'{ID}{{"horizon": 8}}', tasks=2) == []


def test_the_packages_own_task_plays_as_the_package(family):
    env, _ = started(family, seed=3)
    own = gym.make("highway-fast-v0")
    first, _ = own.reset(seed=3)
    np.testing.assert_array_equal(env.reset(seed=3)[0], first.ravel())
    for action in (3, 1, 0, 4, 2, 1, 3):
        expected, found = own.step(action), env.step(action)
        np.testing.assert_array_equal(found[0], expected[0].ravel())
        assert found[1:4] == expected[1:4]


def test_a_task_reaches_every_other_driver(family):
    env, drivers = started(family, density=0.8, speed_limit=36.0, time_gap=2.0, politeness=0.25)
    assert len(drivers) == 20
    assert {(d.TIME_WANTED, d.POLITENESS) for d in drivers} == {(2.0, 0.25)}
    assert {d.lane.speed_limit for d in drivers} == {36.0}
    assert all(0.7 * 36 <= d.speed <= 0.8 * 36 for d in drivers)
    # cars are (12 + speed) e^(-5 / 40 x 3 lanes) / density apart, give or take a tenth
    cars = sorted(env.unwrapped.road.vehicles, key=lambda v: v.position[0])
    for behind, front in itertools.pairwise(cars):
        usual = (12 + front.speed) * math.exp(-0.375) / 0.8
        assert 0.9 <= (front.position[0] - behind.position[0]) / usual <= 1.1
    # two cars at one speed v keep 10 m + 2 s v
    one, two = drivers[:2]
    one.speed = two.speed = 22.0
    assert one.desired_gap(one, two) == pytest.approx(54.0)


def test_the_task_stays_and_the_cars_do_not(family):
    env, drivers = started(family, seed=1, speed_limit=26.0)
    before = [tuple(d.position) for d in drivers]
    env.reset()
    after = [d for d in env.unwrapped.road.vehicles if d is not env.unwrapped.vehicle]
    assert [tuple(d.position) for d in after] != before
    assert {d.lane.speed_limit for d in after} == {26.0}


def test_seeds_reproduce_episodes():
    def play(seed):
        env = gym.make(ID)
        env.action_space.seed(0)
        out = [env.reset(seed=seed)[0]]
        for _ in range(12):
            out.append(env.step(env.action_space.sample())[0])
        return np.stack(out)

    np.testing.assert_array_equal(play(3), play(3))
    assert not np.array_equal(play(3), play(4))


def test_tasks_are_those_of_every_other_machine():
    assert golden_tasks.hashes(ID) == json.loads(golden_tasks.FILE.read_text())[ID]


def test_a_denser_highway_is_another_split(family):
    assert family.splits == ("train", "test", "jam")
    assert family.tasks("jam", 50).values["density"].min() > family.tasks("train", 50).values["density"].max()


@pytest.mark.parametrize("bad", [0, 31, 2.5])
def test_wrong_arguments_are_named(bad):
    with pytest.raises(InvalidValueError, match=rf"Highway\.horizon is {bad}, expected a whole number from 1 to 30"):
        metarl.make_family(ID, horizon=bad)
