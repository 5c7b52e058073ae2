"""MiniGrid: a task is one layout, observations, rewards and ends are the package's, train and test layouts disjoint."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

pytest.importorskip("minigrid")

import metarl
from metarl import InvalidValueError
from metarl.engine.pool import make_environments
from metarl.envs.packages import mini_grid
from metarl.envs.packages.mini_grid import MiniGrid, MiniGridAny
from metarl.envs.packages.mini_grid_scenes import Cells, encode, picture, scene
from metarl.envs.packages.mini_grid_steps import (
    BORDER,
    CLOSED,
    EMPTY,
    FORWARD,
    LEFT,
    LOCKED,
    RIGHT,
    TOGGLE,
    Rules,
    code,
)
from metarl.rng import Rng

ID, ANY = "metarl/MiniGrid-v0", "metarl/MiniGridAny-v0"
COMMON = [  # rooms, lava, doors with and without locks, and keys, balls and boxes
    "MiniGrid-FourRooms-v0",
    "MiniGrid-Empty-Random-6x6-v0",
    "MiniGrid-LavaCrossingS9N2-v0",
    "MiniGrid-DoorKey-5x5-v0",
    "MiniGrid-LockedRoom-v0",
    "MiniGrid-MultiRoom-N4-S5-v1",
    "MiniGrid-Playground-v0",
]
RED, BLUE = 0, 2  # the package's numbers of colours
EMPTY_MAX_STEPS = 144  # 4 x 6 x 6, the package's
CORNER = 4  # the goal of the 6 x 6 grid


@pytest.fixture(scope="module")
def empty():
    return metarl.make_family(ANY, env_id="MiniGrid-Empty-Random-6x6-v0", actions=3)


@pytest.fixture(scope="module")
def rooms():
    return metarl.make_family(ANY, env_id="MiniGrid-FourRooms-v0", actions=3)


def layout(env):
    env = env.unwrapped
    return str(env.grid.encode().tolist()), tuple(map(int, env.agent_pos)), int(env.agent_dir)


def layouts(family, tasks):
    env = family.make_env(tasks[0])
    found = set()
    for i in range(len(tasks)):
        env.set_metarl_task({"seed": float(tasks.values["seed"][i])})
        env.reset()
        found.add(layout(env))
    return found


def way_to_the_corner(env):
    """Actions to the goal of an empty grid: face right (direction 0), go, face down (1), go."""
    (x, y), facing = env.unwrapped.agent_pos, env.unwrapped.agent_dir
    turns = [RIGHT] * (-facing % 4)
    return [*turns, *[FORWARD] * (CORNER - int(x)), RIGHT, *[FORWARD] * (CORNER - int(y))]


@pytest.mark.parametrize("id", [f"{ID}:{x}" for x in MiniGrid.presets] + [f"{ANY}:{x}" for x in MiniGridAny.presets])
@pytest.mark.filterwarnings("ignore:.*shows the task")  # doors in sight of the start
def test_the_contract(id):
    assert metarl.check_family(f'{id}{{"horizon": 30}}', tasks=2) == []


def played(env_id: str, image: bool, actions: Any) -> Iterator[tuple[Any, ...]]:
    """Observations, rewards, ends and successes of the family and of the package, of three layouts side by side."""
    family, seeds = MiniGrid(env_id, image=image), [3, 4, 5]
    envs = [Cells(env_id, image=image) for _ in seeds]
    task, rng = family.make_tasks(seed=np.array(seeds, float)).tensors(), Rng(torch.arange(3))
    state = family.reset(task, rng)
    starts = [env.reset(seed=seed)[0].tolist() for env, seed in zip(envs, seeds, strict=True)]
    yield family.observe(state, task).tolist(), starts
    for action in actions:
        state, reward, terminated, info = family.step(state, torch.from_numpy(action), task, rng)
        outs = [env.step(a) for env, a in zip(envs, action.tolist(), strict=True)]
        obs, rewards, ends, cut, infos = zip(*outs, strict=True)
        yield family.observe(state, task).tolist(), [x.tolist() for x in obs]
        yield reward.tolist(), np.float32(rewards).tolist()
        yield terminated.tolist(), list(ends)
        yield info["success"].tolist(), [x["success"] for x in infos]
        for i in np.flatnonzero(np.array(ends) | cut).tolist():
            envs[i].reset(seed=seeds[i])
            fresh = family.reset(task, rng)
            state = {name: value.clone() for name, value in state.items()}
            for name in state:
                state[name][i] = fresh[name][i]


@pytest.mark.parametrize("env_id", COMMON)
def test_steps_are_the_packages_bit_for_bit(env_id):
    draws = np.random.default_rng(0)
    actions = draws.choice(7, size=(400, 3), p=[0.15, 0.15, 0.4, 0.1, 0.03, 0.14, 0.03])
    for ours, theirs in played(env_id, False, actions):
        assert ours == theirs


def test_pictures_are_the_packages_bit_for_bit():
    actions = np.random.default_rng(1).choice(7, size=(60, 3))
    for ours, theirs in played("MiniGrid-DoorKey-6x6-v0", True, actions):
        assert ours == theirs


def test_shortest_ways_fetch_the_key():
    """A way through DoorKey-5x5 found by search has all of it: the rules meet in one episode."""
    family = MiniGrid("MiniGrid-DoorKey-5x5-v0", actions=6)
    test = family.tasks("test", 30)
    steps = [family.shortest(int(seed)) for seed in test.values["seed"]]
    assert all(6 <= n <= 20 for n in steps)  # to the key, take it, to the door, open it, to the goal
    assert len(set(steps)) > 5
    without_keys = MiniGrid("MiniGrid-DoorKey-5x5-v0", actions=3)
    assert [without_keys.shortest(int(seed)) for seed in test.values["seed"]] == [math.inf] * 30
    assert not without_keys.references(test)["informed_optimum"].any()


def test_the_informed_optimum_is_the_shortest_way():
    """Of an empty room, where it is known: the cells to go, and the turns."""
    family = metarl.make_family(f"{ID}:empty")
    tasks = family.tasks("train", 40)
    optimum = family.references(tasks)["informed_optimum"]
    env = Cells("MiniGrid-Empty-Random-6x6-v0", 3)
    for seed, best in zip(tasks.values["seed"], optimum, strict=True):
        env.reset(seed=int(seed))
        (x, y), facing = env.unwrapped.agent_pos, env.unwrapped.agent_dir
        right, down = CORNER - int(x), CORNER - int(y)
        # direction 0 is right and 1 is down; a turn less if one of both ways is not needed
        turns = {0: bool(down), 1: bool(right), 2: 1 + bool(right) if down else 2, 3: 1 + bool(down) if right else 2}
        steps = right + down + turns[facing]
        assert best == pytest.approx(1 - 0.9 * steps / EMPTY_MAX_STEPS), (x, y, facing)


def test_the_shortest_way_is_not_through_lava():
    """LavaCrossing has lava where SimpleCrossing has walls, so the shortest ways are the same."""
    lava, walls = (MiniGrid(f"MiniGrid-{kind}CrossingS9N3-v0", actions=3) for kind in ("Lava", "Simple"))
    ways = [(lava.shortest(seed), walls.shortest(seed)) for seed in range(20)]
    assert all(a == b for a, b in ways)
    assert min(a for a, _ in ways) > 12  # 12 cells to go, and turns


def test_the_oracle_earns_the_informed_optimum_from_wherever_it_is():
    family = MiniGrid("MiniGrid-DoorKey-6x6-v0", actions=6)
    task, rng = family.tasks("test", 8), Rng(torch.arange(8))
    values, state = task.tensors(), family.reset(task.tensors(), rng)
    drops = torch.tensor([LEFT, FORWARD, 3, RIGHT, 4, FORWARD, 5, LEFT] * 4)  # also states that no shortest way meets
    for action in drops:
        state, _, ended, _ = family.step(state, action.expand(8), values, rng)
        assert not ended.any()
    arrived = torch.zeros(8, dtype=torch.bool)
    for t in range(60):
        action = family.optimal_action(state, values, torch.full((8,), t))
        state, _, ended, info = family.step(state, action, values, rng)
        arrived |= info["success"]
    assert arrived.all()


def test_the_oracle_takes_as_many_steps_as_the_shortest_way_has():
    family = MiniGrid("MiniGrid-DoorKey-6x6-v0", actions=6)
    task, rng = family.tasks("test", 8), Rng(torch.arange(8))
    values, state = task.tensors(), family.reset(task.tensors(), rng)
    steps, arrived = torch.zeros(8), torch.zeros(8, dtype=torch.bool)
    for t in range(60):
        steps += ~arrived
        state, _, _, info = family.step(state, family.optimal_action(state, values, torch.full((8,), t)), values, rng)
        arrived |= info["success"]
    assert steps.tolist() == [family.shortest(int(seed)) for seed in task.values["seed"]]


def test_threads_read_the_same_layouts():
    env_id, seeds = "MiniGrid-DoorKey-6x6-v0", range(50_000, 50_300)
    expected = [scene(env_id, seed).number for seed in seeds]
    scene.cache_clear()
    with ThreadPoolExecutor(4) as pool:
        found = [*pool.map(lambda seed: scene(env_id, seed).number, [*seeds, *seeds, *seeds, *seeds])]
    assert found == expected * 4


def test_an_id_that_the_package_cannot_make_is_named(monkeypatch):
    def fails(env_id):
        raise FileNotFoundError("patterns/SimpleMaze.png")

    monkeypatch.setattr(mini_grid, "probe", fails)
    with pytest.raises(
        InvalidValueError, match=r"env_id is .*, expected an id that the installed package can make \(.*Simple"
    ):
        MiniGridAny("MiniGrid-Fetch-8x8-N3-v0")


def test_actions_are_those_of_the_id():
    with pytest.raises(InvalidValueError, match=r"MiniGridAny\.actions is 7, expected a whole number from 3 to 3"):
        MiniGridAny("MiniGrid-Dynamic-Obstacles-Random-6x6-v0")


def test_layouts_with_many_things_have_no_known_optimum():
    family = MiniGrid("MiniGrid-Playground-v0")
    assert not family.has_optimal_action
    assert family.references(family.tasks("test", 2)) == {}
    with pytest.raises(InvalidValueError, match="a torch family that implements optimal_action"):
        metarl.make_agent("oracle", family)


def test_a_short_horizon_has_no_optimum():
    family = MiniGrid("MiniGrid-FourRooms-v0", actions=3, horizon=2)
    assert not family.references(family.tasks("test", 5))["informed_optimum"].any()


def test_ids_with_rules_of_their_own_are_refused():
    with pytest.raises(InvalidValueError, match=r"common rules; metarl/MiniGridAny-v0 plays those with their own"):
        MiniGrid("MiniGrid-Fetch-8x8-N3-v0")
    assert MiniGridAny("MiniGrid-Fetch-8x8-N3-v0").horizon > 0


def test_frames_are_the_packages():
    family = metarl.make_family(f"{ID}:door_key")
    env = gym.make("MiniGrid-DoorKey-8x8-v0", render_mode="rgb_array", tile_size=32)
    env.reset(seed=7)
    task = family.make_tasks(seed=7)
    state, values, rng = family.reset(task.tensors(), Rng(torch.arange(1))), {"seed": task.values["seed"][0]}, None
    for action in (FORWARD, LEFT, FORWARD, FORWARD, RIGHT):
        frame = family.frame({name: value[0].numpy() for name, value in state.items()}, values, (256, 256))
        np.testing.assert_array_equal(frame, env.render())
        state, *_ = family.step(state, torch.tensor([action]), task.tensors(), rng)
        env.step(action)


def test_a_picture_has_the_numbers_of_the_vector():
    family = metarl.make_family(f"{ID}:empty", image=True, horizon=30)
    assert family.observation_space.shape == (7, 7, 24)
    assert metarl.check_family(family, tasks=2) == []
    obs = {"image": np.random.default_rng(0).integers(0, 3, (7, 7, 3)), "direction": 2}
    seen, vector = picture(obs), encode(obs)
    np.testing.assert_array_equal(seen[..., :20].ravel(), vector[:980])
    np.testing.assert_array_equal(seen[..., 20:], np.broadcast_to(vector[980:], (7, 7, 4)))


def test_presets_have_the_actions_that_matter():
    found = {name: metarl.make_family(f"{ID}:{name}") for name in MiniGrid.presets}
    assert {name: int(f.action_space.n) for name, f in found.items()} == {
        "empty": 3,
        "four_rooms": 3,
        "simple_crossing": 3,
        "door_key": 6,  # pick up is 3, toggle 5
    }
    # the package's max_steps: 4 size^2, 100 in four rooms, 10 size^2 with a key
    assert {name: f.horizon for name, f in found.items()} == {
        "empty": 144,
        "four_rooms": 100,
        "simple_crossing": 484,
        "door_key": 640,
    }


def test_episodes_of_a_task_share_their_layout_and_tasks_differ(rooms):
    tasks = rooms.tasks("train", 2)
    found = []
    for i in range(2):
        env = rooms.make_env(tasks[i])
        for seed in (0, 1, None):  # the seed of a reset must not matter
            env.reset(seed=seed)
            env.step(FORWARD)
            env.reset(seed=seed)
            found.append(layout(env))
    assert len(set(found[:3])) == len(set(found[3:])) == 1
    assert found[0] != found[3]


def test_the_next_episode_in_slots_starts_alike():
    family = MiniGridAny("MiniGrid-FourRooms-v0", horizon=3)
    envs = make_environments(family, 2)
    first = envs.begin(family.tasks("train", 2), torch.tensor([1, 2]), 6)
    outs = [envs.step(torch.tensor([LEFT, RIGHT])) for _ in range(6)]
    assert [o.truncated.tolist() for o in outs] == [[False] * 2, [False] * 2, [True] * 2] * 2
    assert torch.equal(outs[2].obs, first)
    assert torch.equal(outs[5].obs, first)
    assert not torch.equal(outs[2].final_obs, first)
    envs.close()


def test_observations_are_one_hot():
    # two cells: a yellow key (5, 4, 0) and a red locked door (4, 0, 2); facing up, 3. A cell takes 11 + 6 + 3 places.
    image = np.array([[[5, 4, 0], [4, 0, 2]]], dtype=np.uint8)
    found = encode({"image": image, "direction": 3, "mission": "open the door"})
    assert found.dtype == np.float32
    assert found.shape == (44,)
    assert np.flatnonzero(found).tolist() == [5, 11 + 4, 17, 20 + 4, 20 + 11, 20 + 17 + 2, 40 + 3]


def test_reward_and_success_at_the_goal(empty):
    env = empty.make_env(empty.tasks("train", 1, start=2))
    env.reset()
    actions = way_to_the_corner(env)
    outs = [env.step(a) for a in actions]
    assert [o[1] for o in outs[:-1]] == [0.0] * (len(actions) - 1)
    assert [o[4]["success"] for o in outs] == [False] * (len(actions) - 1) + [True]
    assert [o[2] for o in outs] == [False] * (len(actions) - 1) + [True]
    assert outs[-1][1] == pytest.approx(1 - 0.9 * len(actions) / EMPTY_MAX_STEPS)


def test_a_shorter_horizon_leaves_the_reward():
    family = MiniGridAny("MiniGrid-Empty-Random-6x6-v0", actions=3, horizon=20)
    env = family.make_env(family.tasks("train", 1))
    env.reset()
    actions = way_to_the_corner(env)
    assert [env.step(a) for a in actions][-1][1] == pytest.approx(1 - 0.9 * len(actions) / EMPTY_MAX_STEPS)
    env.reset()
    assert [env.step(LEFT)[3] for _ in range(20)] == [False] * 19 + [True]


def test_no_test_layout_is_a_train_layout(empty):
    # 60 layouts: 16 cells less the goal, 4 directions. Split by seed, each would be on both sides.
    train, test = (layouts(empty, empty.tasks(split, 300)) for split in ("train", "test"))
    assert not train & test
    assert len(train | test) == 60
    assert min(len(train), len(test)) > 15


def test_custom_tasks_have_a_side(empty):
    seeds = np.arange(200.0)
    held_out = empty.held_out(empty.make_tasks(seed=seeds))
    env = empty.make_env(empty.make_tasks(seed=0))
    sides = {}
    for seed, side in zip(seeds, held_out, strict=True):
        env.reset(options={"task": {"seed": seed}})
        sides.setdefault(layout(env), set()).add(bool(side))
    assert all(len(found) == 1 for found in sides.values())
    assert set.union(*sides.values()) == {True, False}


def test_tasks_are_addressable(rooms):
    some = rooms.tasks("test", 6, seed=3)
    assert some.values["seed"][4] == rooms.tasks("test", 1, seed=3, start=4).values["seed"][0]
    assert len(set(some.values["seed"].tolist())) == 6
    assert not np.isin(some.values["seed"], rooms.tasks("test", 6, seed=4).values["seed"]).any()


def test_an_id_with_a_handful_of_layouts_is_finite(empty):
    # LavaGapS5: a gap in one of 3 cells
    family = MiniGridAny("MiniGrid-LavaGapS5-v0")
    assert family.finite
    assert not empty.finite
    assert len(layouts(family, family.tasks("train", 30))) == len(layouts(family, family.tasks("test", 30))) == 3


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"env_id": "MiniGrid-FourRoms-v0"}, r"did you mean 'MiniGrid-FourRooms-v0'"),
        ({"env_id": "CartPole-v1"}, "MiniGrid.env_id is 'CartPole-v1'"),
        ({"env_id": "MiniGrid-Empty-8x8-v0"}, "expected an id whose layout or start depends on the seed"),
        ({"actions": 2}, "MiniGrid.actions is 2, expected a whole number from 3 to 7"),
        ({"actions": True}, "MiniGrid.actions is True, expected a whole number from 3 to 7"),
        ({"horizon": 101}, "MiniGrid.horizon is 101, expected a whole number from 1 to 100"),
    ],
)
def test_wrong_keywords_are_named(keywords, words):
    with pytest.raises(InvalidValueError, match=words):
        MiniGrid(**keywords)


@pytest.mark.parametrize("seed", [0.5, -1, 1 << 20])
def test_seeds_are_whole_and_in_range(rooms, seed):
    with pytest.raises(InvalidValueError, match=r"task\.seed"):
        rooms.make_tasks(seed=seed)


def test_a_key_opens_the_doors_of_its_colour():
    rules = Rules((5, 5), False, torch.device("cpu"))
    grid = torch.full((rules.columns**2,), EMPTY, dtype=torch.uint8)
    cell = (2 + BORDER) * rules.columns + 2 + BORDER
    grid[cell + rules.columns] = code("door", RED, LOCKED)  # to the right
    carried = torch.tensor([code("key", BLUE), code("ball", RED), EMPTY, code("key", RED)], dtype=torch.uint8)
    four = {"cell": torch.full((4,), cell), "direction": torch.zeros(4, dtype=torch.int64), "carried": carried}
    state = {**four, "grid": grid.repeat(4, 1)}
    after, *_ = rules.step(state, torch.full((4,), TOGGLE))
    assert after["grid"][:, cell + rules.columns].tolist() == [code("door", RED, LOCKED)] * 3 + [code("door", RED)]
    assert torch.equal(after["carried"], carried)  # the key is kept
    again, *_ = rules.step(after, torch.full((4,), TOGGLE))
    assert again["grid"][3, cell + rules.columns] == code("door", RED, CLOSED)
