"""The built-in families against steps worked out by hand and optima found by brute force."""

from __future__ import annotations

import itertools
import math
from functools import cache

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from scipy import stats

import metarl
from metarl import InvalidValueError, Rng
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.envs.bandits.bernoulli_bandit import MAX_BAYES_STATES, _children, bayes_states, bayes_value
from metarl.rng import fold_in, make_key


def keyed(n):
    return Rng(fold_in(make_key("test envs"), torch.arange(n)))


def move(family, task, x, action):
    """One step: next position, reward, terminated."""
    tasks = {k: torch.tensor([v], dtype=torch.float32) for k, v in task.items()}
    state, reward, terminated, *_ = family.step(torch.tensor([x]), torch.tensor([action]), tasks, keyed(1))
    return state[0].tolist(), float(reward), bool(terminated)


def collect(family, tasks, agent, budget, per_task=1):
    trials = PoolTrials(EnvironmentPool(family), tasks, per_task=per_task)
    agent = metarl.make_agent(agent, family)
    return trials.collect(agent, agent.begin(trials.rows, trials.tasks), 0, budget)[0]


class TestPointNavigation:
    def test_constants_are_the_papers(self):
        # REFERENCES.md, section 1: goals, action box, horizon
        dense = metarl.make_family("metarl/PointNavigation-v0")
        assert dense.task_space == {"goal": metarl.Uniform(-0.5, 0.5, (2,))}
        assert (dense.action_space, dense.horizon) == (Box(-0.1, 0.1, (2,)), 100)
        for preset, horizon in (("semicircle", 20), ("semicircle100", 100)):
            family = metarl.make_family(f"metarl/PointNavigation-v0:{preset}")
            assert family.task_space == {"angle": metarl.Uniform(0.0, math.pi)}
            assert (family.action_space, family.horizon) == (Box(-1, 1, (2,)), horizon)
        corners = metarl.make_family("metarl/PointNavigation-v0:corners")
        assert corners.tasks("train", 100).values["goal"].min() == -2
        assert np.abs(corners.tasks("train", 100).values["goal"]).tolist() == [[2, 2]] * 100
        assert (corners.action_space, corners.horizon) == (Box(-0.2, 0.2, (2,)), 100)
        assert corners.finite

    def test_dense_steps(self):
        family = metarl.make_family("metarl/PointNavigation-v0")
        # the action (1, .05) is clipped to (.1, .05); the goal is then (.2, -.25) away: sqrt(.04 + .0625) = .320156
        x, reward, terminated = move(family, {"goal": [0.3, -0.2]}, [0.0, 0.0], [1.0, 0.05])
        assert x == pytest.approx([0.1, 0.05])
        assert reward == pytest.approx(-0.320156, abs=1e-6)
        assert not terminated
        # a negative action is clipped at -.1: from (.2, .2) to (.1, .15)
        assert move(family, {"goal": [0, 0]}, [0.2, 0.2], [-0.5, -0.05])[0] == pytest.approx([0.1, 0.15])

    @pytest.mark.parametrize(
        ("goal", "ends"),
        [
            ([0.1, 0.05], True),
            ([0.1099, 0.0401], True),  # .0099 off on both axes, .014 away: the window is a square
            ([0.1101, 0.05], False),
            ([0.1, 0.0399], False),
            ([0.111, 0.061], False),
        ],
    )
    def test_dense_ends_within_a_hundredth_on_both_axes(self, goal, ends):
        family = metarl.make_family("metarl/PointNavigation-v0")
        assert move(family, {"goal": goal}, [0.0, 0.0], [0.1, 0.05])[2] is ends

    def test_semicircle_steps(self):
        family = metarl.make_family("metarl/PointNavigation-v0:semicircle")
        right, up, left = ({"angle": a} for a in (0.0, math.pi / 2, math.pi))
        # a step of .1 per unit of action, clipped to 1; nothing is paid beyond .2
        assert move(family, right, [0.0, 0.0], [3.0, -0.5]) == (pytest.approx([0.1, -0.05]), 0.0, False)
        # from (.85, 0) to (.9, 0): .1 from (1, 0), so .9
        assert move(family, right, [0.85, 0.0], [0.5, 0.0])[1] == pytest.approx(0.9, abs=1e-6)
        # the radius is .2: at .19 it pays .81, at .21 nothing
        assert move(family, up, [0.0, 0.81], [0.0, 0.0])[1] == pytest.approx(0.81, abs=1e-6)
        assert move(family, up, [0.0, 0.79], [0.0, 0.0])[1] == 0.0
        # beside both, the dense reward is reported
        position = torch.tensor([[0.0, 0.81], [0.0, 0.79]])
        info = family.step(position, torch.zeros(2, 2), {"angle": torch.tensor([np.pi / 2] * 2)}, keyed(2))[3]
        torch.testing.assert_close(info["dense_reward"].double(), torch.tensor([-0.19, -0.21]).double())
        # on the goal it pays 1 and goes on
        _, reward, terminated = move(family, left, [-1.0, 0.0], [0.0, 0.0])
        assert reward == pytest.approx(1.0, abs=1e-6)
        assert not terminated

    def test_corner_steps(self):
        family = metarl.make_family("metarl/PointNavigation-v0:corners")
        goal = {"goal": [2.0, 2.0]}
        # from (1.4, 1.6), sqrt(.36 + .16) = .72111 away, (.2, .3) is clipped to (.2, .2): (1.6, 1.8) is
        # sqrt(.16 + .04) = .44721 away, .27390 nearer
        x, reward, terminated = move(family, goal, [1.4, 1.6], [0.2, 0.3])
        assert x == pytest.approx([1.6, 1.8])
        assert reward == pytest.approx(0.27390, abs=1e-5)
        assert not terminated
        # in the goal's quadrant, from sqrt(2.25 + 3.24) = 2.34307 to sqrt(1.69 + 2.56) = 2.06155
        assert move(family, goal, [0.5, 0.2], [0.2, 0.2])[1] == pytest.approx(0.28152, abs=1e-5)
        # away from the goal within it costs: the first step backwards
        assert move(family, goal, [1.6, 1.8], [-0.2, -0.2])[1] == pytest.approx(-0.27390, abs=1e-5)
        # nothing where the 1-norm is below .5: .24 + .24
        assert move(family, goal, [0.14, 0.14], [0.1, 0.1])[1] == 0.0
        # from sqrt(3.3856 + 3.3856) = 2.60215 to sqrt(2.6896 + 3.3856) = 2.46479, where the 1-norm is .52
        assert move(family, goal, [0.16, 0.16], [0.2, 0.0])[1] == pytest.approx(0.13736, abs=1e-5)
        # nothing in another corner's quadrant, though it is nearer than before
        assert move(family, goal, [-1.0, 1.0], [0.2, 0.2])[1] == 0.0
        assert move(family, goal, [-1.0, -1.0], [0.2, 0.2])[1] == 0.0

    def test_starts(self):
        for preset in ("", ":semicircle"):
            family = metarl.make_family("metarl/PointNavigation-v0" + preset)
            task = family.tasks("train", 5).tensors()
            assert not family.reset(task, keyed(5)).any()
        family = metarl.make_family("metarl/PointNavigation-v0:corners")
        x = family.reset(family.tasks("train", 1)[[0] * 5000].tensors(), keyed(5000)).double().numpy()
        assert np.abs(x).max() <= 0.2
        for axis in range(2):
            assert stats.kstest(x[:, axis], stats.uniform(-0.2, 0.4).cdf).pvalue > 1e-3

    @pytest.mark.parametrize(
        ("arguments", "unit"),
        [
            ({"reward": "dense"}, 0.1),
            ({"reward": "sparse", "max_action": 1.0, "step_size": 0.1}, 1.0),
        ],
    )
    @pytest.mark.parametrize("goal", [(0.25, -0.1), (0.2, 0.05), (-0.4, 0.45), (0.005, 0.0)])
    def test_the_informed_optimum_is_that_of_brute_force(self, arguments, unit, goal):
        # All sequences of 3 actions from a 5 x 5 grid of .05 steps, which holds a best one: goals lie on the grid, but
        # for one inside the window from the start, where standing still is as good as brute force gets.
        family = metarl.make_family("metarl/PointNavigation-v0", horizon=3, **arguments)
        grid = torch.tensor(list(itertools.product([-1.0, -0.5, 0.0, 0.5, 1.0], repeat=2))) * unit
        which = torch.cartesian_prod(*[torch.arange(25)] * 3)
        task = {"goal": torch.tensor([goal]).expand(len(which), 2)}
        x, total, over = torch.zeros(len(which), 2), torch.zeros(len(which)), torch.zeros(len(which), dtype=torch.bool)
        for t in range(3):
            x, reward, terminated, *_ = family.step(x, grid[which[:, t]], task, keyed(1))
            total = torch.where(over, total, total + reward)
            over = over | terminated
        best = float(family.references(family.make_tasks(goal=goal))["informed_optimum"][0])
        assert best == pytest.approx(float(total.max()), abs=0.006 * 3 if goal[0] == 0.005 else 1e-5)
        assert best >= float(total.max()) - 1e-5

    def test_the_informed_optimum_by_hand(self):
        dense = metarl.make_family("metarl/PointNavigation-v0")
        # goal (.25, -.1): after the steps (.15, 0), (.05, 0) and (0, 0) are left: -.15 - .05 - 0, and it is over
        assert dense.references(dense.make_tasks(goal=[0.25, -0.1]))["informed_optimum"] == pytest.approx([-0.2])
        # steps of .004 to a goal .02 away: .016, .012 and .008 are left, which is within the window
        slow = metarl.make_family("metarl/PointNavigation-v0", max_action=0.004)
        assert slow.references(slow.make_tasks(goal=[0.02, 0.0]))["informed_optimum"] == pytest.approx([-0.036])
        sparse = metarl.make_family("metarl/PointNavigation-v0:semicircle")
        # 45 degrees: .70711 left on both axes; steps 6, 7, 8: (.10711, .10711) = .15147, (.00711, ..) = .01005, 0:
        # .84853 + .98995 + 13 steps at 1
        angle = sparse.make_tasks(angle=math.pi / 4)
        assert sparse.references(angle)["informed_optimum"] == pytest.approx([14.83848], abs=1e-4)

    @pytest.mark.parametrize("preset", ["", ":semicircle", ":semicircle100"])
    @pytest.mark.parametrize("split", ["train", "test"])
    def test_the_oracle_reaches_the_informed_optimum(self, preset, split):
        family = metarl.make_family("metarl/PointNavigation-v0" + preset)
        tasks = family.tasks(split, 40)
        rollout = collect(family, tasks, "oracle", metarl.Budget(episodes=1))
        # a step that ends at exactly .2 from a sparse goal is in or out by rounding: none of these tasks has one
        np.testing.assert_allclose(rollout.mean_return(), family.references(tasks)["informed_optimum"], atol=2e-5)

    def test_no_random_player_beats_the_informed_optimum(self):
        for preset in ("", ":semicircle"):
            family = metarl.make_family("metarl/PointNavigation-v0" + preset)
            tasks = family.tasks("train", 30)
            rollout = collect(family, tasks, "random", metarl.Budget(envs=4, episodes=1))
            assert (rollout.mean_return().numpy() <= family.references(tasks)["informed_optimum"] + 1e-6).all()

    def test_landmarks_are_the_goals(self):
        family = metarl.make_family("metarl/PointNavigation-v0:semicircle")
        points = family.landmarks(family.make_tasks(angle=[0.0, math.pi / 2]))
        np.testing.assert_allclose(points, [[1, 0], [0, 1]], atol=1e-6)

    def test_wrong_arguments_are_named(self):
        with pytest.raises(InvalidValueError, match=r"PointNavigation\.goals is 'corner'.*did you mean 'corners'"):
            metarl.make_family("metarl/PointNavigation-v0", goals="corner")


def bayes_by_brute_force(n, k):
    """The same recursion without any symmetry: arms in their places, counts as they come."""

    @cache
    def value(left, counts):
        if left == 0:
            return 0.0
        best = -math.inf
        for arm, (s, f) in enumerate(counts):
            mean = (s + 1) / (s + f + 2)
            win, lose = list(counts), list(counts)
            win[arm], lose[arm] = (s + 1, f), (s, f + 1)
            q = mean * (1 + value(left - 1, tuple(win))) + (1 - mean) * value(left - 1, tuple(lose))
            best = max(best, q)
        return best

    return value(n, ((0, 0),) * k)


class TestBernoulliBandit:
    def test_declarations(self):
        for k, id in ((5, ""), (10, ":k10"), (50, ":k50")):
            family = metarl.make_family("metarl/BernoulliBandit-v0" + id)
            assert family.action_space == Discrete(k)
            assert family.task_space == {"p": metarl.Uniform(0.0, 1.0, (k,))}
            assert family.horizon == 1

    def test_pays_by_its_probabilities(self):
        p = np.float32([0.0, 0.1, 0.5, 0.9, 1.0])
        family, n = metarl.make_family("metarl/BernoulliBandit-v0"), 50_000
        task = {"p": torch.from_numpy(p).expand(n, 5)}
        action = torch.arange(n) % 5
        state, reward, terminated, info = family.step(torch.zeros(n, 1), action, task, keyed(n))
        assert torch.equal(info["expected_reward"], torch.from_numpy(p)[action])
        assert not state.any()
        assert terminated.all()
        wins = [int(reward[action == arm].sum()) for arm in range(5)]
        assert wins[0] == 0
        assert wins[4] == n // 5
        for arm in (1, 2, 3):
            assert stats.binomtest(wins[arm], n // 5, float(p[arm])).pvalue > 1e-3
        assert set(reward.unique().tolist()) == {0.0, 1.0}

    def test_every_pull_is_an_episode(self):
        family = metarl.make_family("metarl/BernoulliBandit-v0")
        rollout = collect(family, family.tasks("train", 3), "random", metarl.Budget(steps=6))
        assert rollout.terminated.all()
        assert not rollout.truncated.any()
        assert not rollout.time.any()

    def test_references(self):
        family = metarl.make_family("metarl/BernoulliBandit-v0", k=3)
        tasks = family.make_tasks(p=[[0.2, 0.6, 0.1], [0.0, 0.5, 1.0]])
        found = family.references(tasks)
        np.testing.assert_allclose(found["floor"], [0.3, 0.5], rtol=1e-6)
        np.testing.assert_allclose(found["informed_optimum"], [0.6, 1.0], rtol=1e-6)
        assert family.optimal_action(None, tasks.tensors(), None).tolist() == [1, 2]

    def test_random_and_oracle_earn_the_references(self):
        family = metarl.make_family("metarl/BernoulliBandit-v0")
        tasks = family.tasks("test", 20)
        for agent, name in (("random", "floor"), ("oracle", "informed_optimum")):
            earned = (
                collect(family, tasks, agent, metarl.Budget(steps=50), per_task=40).reward.mean((0, 2)).view(20, 40)
            )
            expected = family.references(tasks)[name]
            # 2 000 pulls a task: at most .5 / sqrt(2000) = .0112 each, .0025 over all tasks
            assert np.abs(earned.mean(1).numpy() - expected).max() < 4.5 * 0.0112
            assert abs(float(earned.mean()) - expected.mean()) < 4 * 0.0025

    def test_the_bayes_optimum_by_hand(self):
        # one pull of anything: 1/2; one arm for n pulls: n/2
        assert bayes_value(1, 1) == pytest.approx(0.5)
        assert bayes_value(1, 7) == pytest.approx(0.5)
        assert bayes_value(2, 1) == pytest.approx(1.0)
        assert bayes_value(9, 1) == pytest.approx(4.5)
        # two pulls, two arms: a win (1/2) leaves an arm worth 2/3, a loss leaves the other, worth 1/2:
        # 1/2 + 1/2 * 2/3 + 1/2 * 1/2 = 13/12; a third arm adds nothing
        assert bayes_value(2, 2) == pytest.approx(13 / 12)
        assert bayes_value(2, 3) == pytest.approx(13 / 12)

    @pytest.mark.parametrize(("n", "k"), [(3, 1), (3, 2), (4, 3), (5, 2), (6, 2), (7, 2), (4, 4), (5, 3)])
    def test_the_bayes_optimum_is_that_of_brute_force(self, n, k):
        assert bayes_value(n, k) == pytest.approx(bayes_by_brute_force(n, k), abs=1e-12)

    def test_the_bayes_optimum_beats_any_fixed_rule_and_is_beaten_by_knowing(self):
        # 10 pulls of 5 arms: the paper's table has 6.6 to 6.7 for good methods; knowing the arms earns 10 * 5/6
        assert 6.6 < bayes_value(10, 5) < 6.75
        family = metarl.make_family("metarl/BernoulliBandit-v0")
        assert family.bayes_optimal_return(10) == bayes_value(10, 5)

    @pytest.mark.parametrize(("n", "k"), [(1, 1), (1, 5), (2, 3), (4, 2), (5, 3), (6, 5), (3, 8)])
    def test_bayes_states_are_those_that_the_recursion_visits(self, n, k):
        visited, layer = 0, {((0, 0),) * k}
        for _ in range(n):
            visited += len(layer)
            layer = {after for counts in layer for child in _children(counts) for after in child[1:]}
        assert bayes_states(n, k) == visited

    def test_bayes_states_by_hand(self):
        # one arm, n pulls: 1 + 2 + ... + n states of at most n - 1 pulls
        assert bayes_states(4, 1) == 10
        # two arms, at most 2 pulls: none: 1; one: win or lose: 2; two on one arm: 3; one each: WW, WL, LL: 3
        assert bayes_states(3, 2) == 9

    def test_what_is_too_large_is_not_known(self):
        family = metarl.make_family("metarl/BernoulliBandit-v0:k50")
        assert bayes_states(100, 50) > MAX_BAYES_STATES
        assert family.bayes_optimal_return(100) is None
        assert family.bayes_optimal_return(1) == pytest.approx(0.5)


def brute_force_optimum(transition, reward, horizon):
    """The best of all deterministic policies that may look at the time, each evaluated step by step."""
    states, actions = reward.shape
    best = -math.inf
    for choices in itertools.product(range(actions), repeat=states * horizon):
        policy = np.array(choices).reshape(horizon, states)
        where, total = np.eye(states)[0], 0.0
        for t in range(horizon):
            total += sum(where[s] * reward[s, policy[t, s]] for s in range(states))
            where = sum(where[s] * transition[s, policy[t, s]] for s in range(states))
        best = max(best, total)
    return best


class TestTabularMDP:
    @pytest.mark.parametrize(("states", "actions", "horizon"), [(2, 2, 1), (2, 2, 2), (2, 2, 3), (3, 2, 2), (2, 3, 2)])
    def test_the_informed_optimum_is_that_of_brute_force(self, states, actions, horizon):
        family = metarl.make_family("metarl/TabularMDP-v0", states=states, actions=actions, horizon=horizon)
        tasks = family.tasks("test", 6)
        expected = [
            brute_force_optimum(p.astype(float), r.astype(float), horizon)
            for p, r in zip(tasks.values["transition"], tasks.values["reward"], strict=True)
        ]
        np.testing.assert_allclose(family.references(tasks)["informed_optimum"], expected, atol=1e-6)

    def test_references_by_hand(self):
        # State 0: action 0 pays 1 and stays, action 1 pays 0 and goes to state 1, where both pay 5 and stay.
        # Two steps: 0 + 5 beats 1 + 1. Random: .5, then half the time .5 again and half the time 5: .5 + .25 + 2.5.
        family = metarl.make_family("metarl/TabularMDP-v0", states=2, actions=2, horizon=2)
        tasks = family.make_tasks(transition=[[[1, 0], [0, 1]], [[0, 1], [0, 1]]], reward=[[1, 0], [5, 5]])
        found = family.references(tasks)
        assert found["informed_optimum"] == pytest.approx([5.0])
        assert found["floor"] == pytest.approx([3.25])
        # the last step is greedy: at t = 1 in state 0 action 0 is the best, at t = 0 action 1
        task, state = {k: v.repeat(2, *[1] * (v.dim() - 1)) for k, v in tasks.tensors().items()}, torch.zeros(2).long()
        assert family.optimal_action(state, task, torch.tensor([0, 1])).tolist() == [1, 0]

    def test_transitions_and_rewards_follow_the_task(self):
        family, n = metarl.make_family("metarl/TabularMDP-v0", states=4, actions=3), 20_000
        tasks = family.tasks("train", 1, seed=5)
        task = {k: v.expand(n, *v.shape[1:]) for k, v in tasks.tensors().items()}
        for s, a in ((0, 0), (3, 2), (1, 2)):
            state, reward, terminated, info = family.step(torch.full((n,), s), torch.full((n,), a), task, keyed(n))
            assert (info["expected_reward"] == float(tasks.values["reward"][0, s, a])).all()
            probs = tasks.values["transition"][0, s, a].astype(float)
            counts = np.bincount(state.numpy(), minlength=4)
            assert stats.chisquare(counts, probs / probs.sum() * n).pvalue > 1e-3
            mean = float(tasks.values["reward"][0, s, a])
            assert stats.kstest(reward.numpy(), stats.norm(mean, 1.0).cdf).pvalue > 1e-3
            # the reward is no hint of the next state
            assert abs(np.corrcoef(reward.numpy(), state.numpy())[0, 1]) < 4 / math.sqrt(n)
            assert not terminated.any()

    def test_starts_in_state_0_and_shows_it(self):
        family = metarl.make_family("metarl/TabularMDP-v0")
        rollout = collect(family, family.tasks("train", 5), "random", metarl.Budget(episodes=3))
        obs = rollout.obs[:, :, 0]
        assert torch.equal(obs.sum(-1), torch.ones(30, 5))
        assert (obs.argmax(-1)[::10] == 0).all()  # the horizon is 10
        assert len(obs.argmax(-1).unique()) == 10
        assert family.observe(torch.tensor([0, 7]), {}).argmax(-1).tolist() == [0, 7]

    def test_random_and_oracle_earn_the_references(self):
        family = metarl.make_family("metarl/TabularMDP-v0", states=4, actions=3)
        tasks = family.tasks("test", 10)
        for agent, name in (("random", "floor"), ("oracle", "informed_optimum")):
            rollout = collect(family, tasks, agent, metarl.Budget(episodes=20), per_task=50)
            returns = rollout.episodes(rollout.reward)[0].view(10, 50 * 20).numpy()
            error = returns.std(1) / math.sqrt(1000)
            assert (np.abs(returns.mean(1) - family.references(tasks)[name]) < 4.5 * error).all()

    @pytest.mark.parametrize("field", ["states", "actions", "horizon"])
    def test_wrong_arguments_are_named(self, field):
        for value in (0, 2.5):
            with pytest.raises(InvalidValueError, match=rf"TabularMDP\.{field} is {value}, expected a whole number"):
                metarl.make_family("metarl/TabularMDP-v0", **{field: value})
