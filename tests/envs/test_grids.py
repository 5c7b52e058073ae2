"""Grid families: steps worked out by hand, references and Bayes optima against brute force."""

from __future__ import annotations

import itertools
from functools import cache

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
from metarl.envs.grids import grid_navi
from metarl.envs.grids.dark_room import _random_return
from metarl.envs.grids.grid_navi import DOWN, LEFT, MOVES, RIGHT, STAY, UP, optimal_search, search_returns
from metarl.rng import fold_in, make_key

IDS = ["metarl/GridNavi-v0", "metarl/DarkRoom-v0", "metarl/DarkKeyToDoor-v0"]


def keyed(n):
    return Rng(fold_in(make_key("test grids"), torch.arange(n)))


def collect(family, tasks, agent, episodes=1, per_task=1):
    trials = PoolTrials(EnvironmentPool(family), tasks, per_task=per_task)
    agent = metarl.make_agent(agent, family)
    return trials.collect(agent, agent.begin(trials.rows, trials.tasks), 0, metarl.Budget(episodes=episodes))[0]


def walk(family, task, cells, actions):
    """One step of each row: the new cells and the rewards, as lists."""
    n = len(actions)
    task = {k: torch.tensor([v] * n, dtype=torch.float32) for k, v in task.items()}
    cell, reward, ended = family.step(torch.tensor(cells, dtype=torch.float32), torch.tensor(actions), task, keyed(n))
    assert reward.dtype == torch.float32
    assert not ended.any()
    return cell.tolist(), [round(r, 6) for r in reward.tolist()]


def after(cell, action, size):
    return tuple(min(size - 1, max(0, c + m)) for c, m in zip(cell, MOVES[action], strict=True))


@pytest.mark.parametrize("id", IDS)
def test_gymnasiums_checker(id):
    check_env(gym.make(id).unwrapped, skip_render_check=True)


@pytest.mark.parametrize("id", IDS)
def test_moves_and_walls(id):
    # REFERENCES.md, section 1: up, right, down, left, stay
    family = metarl.make_family(id)
    assert family.action_space == Discrete(5)
    top = family.size - 1
    middle = grid_navi.move(torch.full((5, 2), 2.0), torch.arange(5), family.size)
    assert middle.tolist() == [[2, 3], [3, 2], [2, 1], [1, 2], [2, 2]]
    low = grid_navi.move(torch.zeros(5, 2), torch.arange(5), family.size)
    assert low.tolist() == [[0, 1], [1, 0], [0, 0], [0, 0], [0, 0]]
    high = grid_navi.move(torch.full((5, 2), float(top)), torch.arange(5), family.size)
    assert high.tolist() == [[top, top], [top, top], [top, top - 1], [top - 1, top], [top, top]]


def test_toward_takes_a_shortest_way():
    for start, goal in itertools.product(itertools.product(range(3), repeat=2), repeat=2):
        cell, steps = torch.tensor([start]).float(), 0
        while cell[0].tolist() != list(goal):
            cell = grid_navi.move(cell, grid_navi.toward(cell, torch.tensor([goal])), 3)
            steps += 1
            assert steps <= 4
        assert steps == abs(start[0] - goal[0]) + abs(start[1] - goal[1])
        assert grid_navi.toward(cell, torch.tensor([goal])).tolist() == [STAY]


def bayes_by_brute_force(size, horizon, goals, episodes):
    """Closed-loop: all actions, all beliefs; what was observed is used, and nothing is known of a best policy's form.

    Returns a function: belief, cell and time to the sum over the goals still possible of what follows, in tenths.
    """

    @cache
    def value(belief, cell, t):
        if t == episodes * horizon:
            return 0
        if t % horizon == 0:
            cell = (0, 0)
        best = -(10**9)
        for action in range(5):
            reached = after(cell, action, size)
            others = belief - {reached}
            total = -len(others) + (value(others, reached, t + 1) if others else 0)
            if reached in belief:
                total += 10 + value(frozenset([reached]), reached, t + 1)
            best = max(best, total)
        return best

    return value


def bayes_by_full_search(size, horizon, goals):
    """One episode by dynamic programming over all reachable states, without bound or beam."""
    states = {((0, 0), frozenset(goals)): 0}
    for t in range(horizon):
        reached = {}
        for ((x, y), left), value in states.items():
            for dx, dy in MOVES[:STAY]:
                cell = (x + dx, y + dy)
                if min(cell) >= 0 and max(cell) < size:
                    gain = 11 * (horizon - t) if cell in left else 0
                    key = (cell, left - {cell})
                    reached[key] = max(reached.get(key, 0), value + gain)
        states = reached
    return max(states.values()) / 10 / len(goals) - 0.1 * horizon


class TestGridNavi:
    def test_constants_are_the_papers(self):
        family = metarl.make_family("metarl/GridNavi-v0")
        assert family.observation_space == Box(0, 4, (2,), np.float32)
        assert family.horizon == 15
        goals = {(x, y) for x in range(5) for y in range(5)} - {(0, 0), (0, 1), (1, 0), (1, 1)}
        assert len(goals) == 21
        assert set(family.task_space["goal"].values) == goals

    def test_is_finite_with_all_goals_in_train_and_test(self):
        family = metarl.make_family("metarl/GridNavi-v0")
        assert family.finite
        for split in ("train", "test"):
            tasks = family.tasks(split, 2100)
            goals, counts = np.unique(tasks.values["goal"], axis=0, return_counts=True)
            assert len(goals) == 21
            assert counts.min() > 55  # 100 +- 10 expected
            assert not family.held_out(tasks).any()

    def test_steps(self):
        family = metarl.make_family("metarl/GridNavi-v0")
        cells, rewards = walk(family, {"goal": [2, 0]}, [[1, 0], [2, 0], [2, 0], [3, 0]], [RIGHT, STAY, DOWN, UP])
        assert cells == [[2, 0], [2, 0], [2, 0], [3, 1]]  # the wall below the goal keeps one on it
        assert rewards == [1.0, 1.0, 1.0, -0.1]

    def test_starts_at_the_corner_and_goes_on_to_the_horizon(self):
        family = metarl.make_family("metarl/GridNavi-v0")
        rollout = collect(family, family.tasks("train", 30), "random", episodes=3)
        assert len(rollout.obs) == 45
        assert not rollout.obs[::15].any()
        assert not rollout.terminated.any()
        assert rollout.truncated[14::15].all()

    def test_references_by_hand(self):
        family = metarl.make_family("metarl/GridNavi-v0", horizon=5)
        found = family.references(family.make_tasks(goal=[[2, 0], [1, 2], [4, 4]]))
        # 2 steps: -.1, then 4 times 1; 3 steps: -.2 + 3; 8 steps are too many: -.5
        assert found["informed_optimum"] == pytest.approx([3.9, 2.8, -0.5])
        assert found["floor"][2] == pytest.approx(-0.5)

    def test_the_floor_is_the_mean_over_all_action_sequences(self):
        family = metarl.make_family("metarl/GridNavi-v0", size=3, horizon=4)
        goals = [[2, 0], [1, 2], [2, 2]]
        total = np.zeros(3)
        for actions in itertools.product(range(5), repeat=4):
            cell = (0, 0)
            for action in actions:
                cell = after(cell, action, 3)
                total += [1.0 if cell == tuple(goal) else -0.1 for goal in goals]
        assert family.references(family.make_tasks(goal=goals))["floor"] == pytest.approx(total / 5**4)

    def test_the_oracle_reaches_the_informed_optimum_of_every_goal(self):
        family = metarl.make_family("metarl/GridNavi-v0")
        tasks = family.make_tasks(goal=family.goals)
        np.testing.assert_allclose(
            collect(family, tasks, "oracle").mean_return(), family.references(tasks)["informed_optimum"], atol=1e-5
        )

    @pytest.mark.parametrize(
        ("size", "horizon", "episodes", "count"),
        [
            (3, 1, 2, 5),
            (3, 3, 1, 5),
            (3, 4, 2, 5),
            (3, 3, 3, 5),
            (3, 5, 3, 4),
            (4, 6, 2, 7),
            (4, 5, 2, 12),
            (4, 9, 1, 12),
        ],
    )
    def test_the_bayes_optimum_is_that_of_brute_force(self, size, horizon, episodes, count):
        goals = [(x, y) for x in range(size) for y in range(size) if max(x, y) > 1]
        goals = tuple(goals[:: max(1, len(goals) // count)][:count])
        path = optimal_search(size, horizon, goals, episodes)
        found = search_returns(path, horizon, goals).sum()
        best = bayes_by_brute_force(size, horizon, goals, episodes)(frozenset(goals), (0, 0), 0)
        assert found == pytest.approx(best / 10 / len(goals), abs=1e-9)

    @pytest.mark.parametrize(("size", "horizon", "episodes"), [(3, 2, 3), (3, 4, 3), (4, 5, 2)])
    def test_no_state_is_worth_more_than_its_bound(self, size, horizon, episodes):
        goals = tuple((x, y) for x in range(size) for y in range(size) if max(x, y) > 1)[:7]
        value = bayes_by_brute_force(size, horizon, goals, episodes)
        grid, slack = grid_navi._make_grid(size, horizon, goals, episodes), []
        for mask, t in itertools.product(range(1, 1 << len(goals)), range(horizon * episodes + 1)):
            left = frozenset(goal for i, goal in enumerate(goals) if mask >> i & 1)
            for x, y in [(0, 0)] if t % horizon == 0 else itertools.product(range(size), repeat=2):
                if (x, y) not in left:
                    bound = grid_navi._bound(grid, np.array([mask]), np.array([x * size + y]), t)
                    slack.append(int(bound[0]) - (value(left, (x, y), t) - t * len(left)))  # t steps cost each
        assert min(slack) == 0  # at the end of the trial, for example

    def test_one_episode_of_the_papers_grid_without_pruning(self):
        family = metarl.make_family("metarl/GridNavi-v0", horizon=12)
        assert family.bayes_optimal_return(1) == pytest.approx(bayes_by_full_search(5, 12, family.goals))

    def test_the_papers_trial(self):
        # A walk of 15 steps enters at most 14 goals, steps 2 to 15: it earns (14 + ... + 1) * 1.1 / 21 - 1.5 = 4. The
        # 7 that the best walk leaves lie on one shortest way, so the second episode loses nothing any more. The 21
        # goals are 96 / 21 steps away on average: 16.1 - 1.1 * 96 / 21 = 11.0714 in every later episode.
        family = metarl.make_family("metarl/GridNavi-v0")
        best = family.references(family.make_tasks(goal=family.goals))["informed_optimum"].mean()
        assert best == pytest.approx(11.0714, abs=1e-4)
        assert family.bayes_optimal_episodes(4) == pytest.approx([4.0, best, best, best])
        assert family.bayes_optimal_return(4) == pytest.approx(37.2143, abs=1e-4)
        assert family.bayes_optimal_return(1) == pytest.approx(4.0)

    def test_the_bayes_optimal_path_earns_its_return_when_it_is_played(self):
        family, episodes = metarl.make_family("metarl/GridNavi-v0", size=4, horizon=7), 3
        path = optimal_search(4, 7, family.goals, episodes)
        tasks = family.make_tasks(goal=family.goals)
        task, n = tasks.tensors(), len(tasks)
        known, returns = torch.zeros(n, dtype=torch.bool), []
        for episode in range(episodes):
            state, total = family.reset(task, keyed(n)), torch.zeros(n)
            for t in range(7):
                planned = torch.tensor(path[episode * 7 + t]).float().expand(n, 2)
                target = torch.where(known.unsqueeze(1), task["goal"], planned)
                state, reward, _ = family.step(state, grid_navi.toward(state, target), task, keyed(n))
                assert (state == planned)[~known].all()  # the path goes from cell to neighbouring cell
                known = known | (reward > 0)
                total += reward
            returns.append(float(total.mean()))
        assert returns == pytest.approx(family.bayes_optimal_episodes(episodes), abs=1e-5)

    def test_a_trial_too_large_to_search_has_no_bayes_optimum(self):
        assert metarl.make_family("metarl/GridNavi-v0", size=9).bayes_optimal_return(4) is None
        assert metarl.make_family("metarl/GridNavi-v0", size=9).bayes_optimal_episodes(4) is None

    def test_too_many_states_are_not_searched(self, monkeypatch):
        monkeypatch.setattr(grid_navi, "MAX_SEARCH_STATES", 10)
        assert metarl.make_family("metarl/GridNavi-v0", horizon=13).bayes_optimal_return(3) is None

    def test_landmarks_are_the_goals(self):
        family = metarl.make_family("metarl/GridNavi-v0")
        assert family.landmarks(family.make_tasks(goal=[[2, 0], [3, 4]])).tolist() == [[2, 0], [3, 4]]

    def test_goals_beside_the_start_are_refused(self):
        family = metarl.make_family("metarl/GridNavi-v0")
        for goal in ([0, 0], [0, 1], [1, 0], [1, 1], [5, 0]):
            with pytest.raises(InvalidValueError, match="goal"):
                family.make_tasks(goal=goal)

    @pytest.mark.parametrize(("field", "least"), [("size", 3), ("horizon", 1)])
    def test_wrong_arguments_are_named(self, field, least):
        for value in (least - 1, 5.5):
            with pytest.raises(InvalidValueError, match=rf"GridNavi\.{field} is {value}, expected .* at least {least}"):
                metarl.make_family("metarl/GridNavi-v0", **{field: value})


class TestDarkRoom:
    def test_constants_are_the_papers(self):
        family = metarl.make_family("metarl/DarkRoom-v0")
        assert (family.observation_space, family.horizon) == (Box(0, 8, (2,), np.float32), 20)
        assert len(family.task_space["goal"].values) == 81
        assert family.reset(family.tasks("train", 3).tensors(), keyed(3)).tolist() == [[4, 4]] * 3

    def test_train_and_test_goals_are_disjoint_and_all_there_are(self):
        family = metarl.make_family("metarl/DarkRoom-v0")
        assert not family.finite
        train, test = (
            {tuple(goal) for goal in family.tasks(split, 3000).values["goal"].tolist()} for split in ("train", "test")
        )
        assert not train & test
        assert len(train | test) == 81
        assert min(len(train), len(test)) > 20

    def test_steps(self):
        family = metarl.make_family("metarl/DarkRoom-v0")
        cells, rewards = walk(family, {"goal": [8, 3]}, [[7, 3], [8, 3], [8, 3], [8, 3]], [RIGHT, STAY, RIGHT, LEFT])
        assert cells == [[8, 3], [8, 3], [8, 3], [7, 3]]
        assert rewards == [1, 1, 1, 0]

    def test_references_by_hand(self):
        family = metarl.make_family("metarl/DarkRoom-v0")
        found = family.references(family.make_tasks(goal=[[4, 4], [5, 4], [3, 5], [0, 8]]))
        # at the start: all 20 steps, as next to it; 2 steps away the first is lost; 8 away the first 7
        assert found["informed_optimum"].tolist() == [20, 20, 19, 13]
        short = metarl.make_family("metarl/DarkRoom-v0", horizon=2)
        found = short.references(short.make_tasks(goal=[[4, 4], [5, 4], [6, 4], [0, 0]]))
        # two random steps: on the centre after the first 1/5, after both 1/25 + 4/25; next to it 1/5, then 2/25; two
        # steps to the right 1/25
        assert found["floor"] == pytest.approx([0.2 + 0.2, 0.2 + 0.08, 0.04, 0.0])
        assert found["informed_optimum"].tolist() == [2, 2, 1, 0]

    def test_random_and_oracle_earn_the_references(self):
        family = metarl.make_family("metarl/DarkRoom-v0")
        tasks = family.make_tasks(goal=family.task_space["goal"].values)
        found = family.references(tasks)
        np.testing.assert_array_equal(collect(family, tasks, "oracle").mean_return(), found["informed_optimum"])
        # every step ends in one cell, so the floors add up to 20
        assert found["floor"].sum() == pytest.approx(20)
        near = tasks[[40, 41, 31, 20, 57]]  # goals that are met often enough to be measured
        returns = collect(family, near, "random", per_task=2000).mean_return().view(5, 2000).numpy()
        error = returns.std(1) / np.sqrt(2000)
        assert (np.abs(returns.mean(1) - family.references(near)["floor"]) < 4.5 * error).all()

    def test_wrong_arguments_are_named(self):
        for size in (3, 6, 7.0):
            with pytest.raises(InvalidValueError, match=rf"DarkRoom\.size is {size}"):
                metarl.make_family("metarl/DarkRoom-v0", size=size)
        with pytest.raises(InvalidValueError, match=r"DarkRoom\.horizon is 0"):
            metarl.make_family("metarl/DarkRoom-v0", horizon=0)

    def test_landmarks_are_the_goals(self):
        family = metarl.make_family("metarl/DarkRoom-v0")
        assert family.landmarks(family.make_tasks(goal=[2, 7])).tolist() == [[2, 7]]


class TestDarkKeyToDoor:
    def play(self, key, door, start, actions, has_key=False):
        """Rewards and endings of actions in one 9 x 9 room."""
        family = metarl.make_family("metarl/DarkKeyToDoor-v0")
        task = family.make_tasks(key=key, door=door).tensors()
        state = {"cell": torch.tensor([start]).float(), "has_key": torch.tensor([has_key])}
        out = []
        for action in actions:
            state, reward, ended = family.step(state, torch.tensor([action]), task, keyed(1))
            out.append((float(reward), bool(ended)))
        return out

    def test_constants_are_the_papers(self):
        family = metarl.make_family("metarl/DarkKeyToDoor-v0")
        assert (family.observation_space, family.horizon) == (Box(0, 8, (2,), np.float32), 50)
        assert len(family.task_space["key"].values) == len(family.task_space["door"].values) == 81

    def test_first_the_key_then_the_door(self):
        # over the door to the key (paid once, though stood on twice), and back to the door, which ends it
        assert self.play([3, 2], [2, 2], [1, 2], [RIGHT, RIGHT, STAY, LEFT]) == [
            (0.0, False),
            (1.0, False),
            (0.0, False),
            (1.0, True),
        ]
        # the key is not paid again, and not lost by leaving it
        assert self.play([3, 2], [3, 4], [3, 3], [DOWN, UP, DOWN, UP, UP]) == [
            (1.0, False),
            (0.0, False),
            (0.0, False),
            (0.0, False),
            (1.0, True),
        ]

    def test_who_starts_on_the_key_takes_it_with_a_step_that_ends_there(self):
        assert self.play([0, 0], [8, 8], [0, 0], [UP, STAY]) == [(0.0, False), (0.0, False)]
        assert self.play([0, 0], [8, 8], [0, 0], [STAY, STAY]) == [(1.0, False), (0.0, False)]
        assert self.play([0, 0], [8, 8], [0, 0], [LEFT]) == [(1.0, False)]  # into the wall

    def test_key_and_door_in_one_cell_pay_both_at_once(self):
        assert self.play([4, 4], [4, 4], [3, 4], [RIGHT]) == [(2.0, True)]

    def test_what_is_seen_does_not_tell_of_the_key(self):
        family = metarl.make_family("metarl/DarkKeyToDoor-v0")
        state = {"cell": torch.tensor([[3.0, 7.0]] * 2), "has_key": torch.tensor([False, True])}
        assert family.observe(state, {}).tolist() == [[3, 7], [3, 7]]

    def test_starts_anywhere_without_the_key(self):
        family = metarl.make_family("metarl/DarkKeyToDoor-v0")
        state = family.reset({}, keyed(8100))
        counts = np.unique(state["cell"].numpy(), axis=0, return_counts=True)[1]
        assert len(counts) == 81
        assert 50 < counts.min() <= counts.max() < 150  # 100 +- 10 expected
        assert not state["has_key"].any()

    def test_train_and_test_are_disjoint_and_hold_coinciding_cells(self):
        family = metarl.make_family("metarl/DarkKeyToDoor-v0")
        assert not family.finite
        sets = []
        for split in ("train", "test"):
            values = family.tasks(split, 3000).values
            sets.append({(*k, *d) for k, d in zip(values["key"].tolist(), values["door"].tolist(), strict=True)})
            assert any(pair[:2] == pair[2:] for pair in sets[-1])  # one in 81
        assert not sets[0] & sets[1]
        assert min(len(s) for s in sets) > 1000

    def test_the_informed_optimum_of_every_task_is_2(self):
        family = metarl.make_family("metarl/DarkKeyToDoor-v0")
        cells = family.task_space["key"].values
        tasks = family.make_tasks(key=np.repeat(cells, 81, 0), door=np.tile(cells, (81, 1)))
        assert len(tasks) == 81**2
        assert (family.references(tasks[::7])["informed_optimum"] == 2).all()
        assert (collect(family, tasks[::7], "oracle").mean_return() == 2).all()

    def test_the_informed_optimum_of_a_short_episode(self):
        # 3 x 3, key in (0, 0), door in (1, 0), 2 steps: the key is reached from the 6 cells at distance 0, 1, 2, the
        # door too from the 3 at distance 0 and 1. In one cell: 6 each. Door in (2, 0): too far even from the key, whose
        # taking is a step of its own.
        family = metarl.make_family("metarl/DarkKeyToDoor-v0", size=3, horizon=2)
        tasks = family.make_tasks(key=[[0, 0]] * 3, door=[[1, 0], [0, 0], [2, 0]])
        assert family.references(tasks)["informed_optimum"] == pytest.approx([9 / 9, 12 / 9, 6 / 9])

    def test_the_floor_is_the_mean_over_all_starts_and_action_sequences(self):
        family = metarl.make_family("metarl/DarkKeyToDoor-v0", size=3, horizon=4)
        pairs = [((0, 0), (1, 0)), ((1, 1), (1, 1)), ((2, 1), (0, 1))]
        tasks = family.make_tasks(key=[key for key, _ in pairs], door=[door for _, door in pairs])
        total = np.zeros(3)
        for i, (key, door) in enumerate(pairs):
            for start in itertools.product(range(3), repeat=2):
                for actions in itertools.product(range(5), repeat=4):
                    cell, holds = start, False
                    for action in actions:
                        cell = after(cell, action, 3)
                        if cell == key and not holds:
                            holds, total[i] = True, total[i] + 1
                        if cell == door and holds:
                            total[i] += 1
                            break
        assert family.references(tasks)["floor"] == pytest.approx(total / 9 / 5**4)

    def test_random_earns_the_floor(self):
        family = metarl.make_family("metarl/DarkKeyToDoor-v0")
        tasks = family.make_tasks(key=[[4, 4], [0, 0], [6, 2]], door=[[5, 5], [8, 8], [6, 2]])
        returns = collect(family, tasks, "random", per_task=2000).mean_return().view(3, 2000).numpy()
        floor = family.references(tasks)["floor"]
        assert (np.abs(returns.mean(1) - floor) < 4.5 * returns.std(1) / np.sqrt(2000)).all()
        assert floor[2] == pytest.approx(2 * _random_return(9, 50, np.array([56]), np.array([0]))[0], abs=0.05)

    def test_landmarks_are_the_doors(self):
        family = metarl.make_family("metarl/DarkKeyToDoor-v0")
        assert family.landmarks(family.make_tasks(key=[1, 1], door=[2, 7])).tolist() == [[2, 7]]
