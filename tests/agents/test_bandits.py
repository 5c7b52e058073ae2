"""Classical bandit algorithms: by hand, against brute force, and their scores on held-out bandits."""

from __future__ import annotations

import itertools
import math
from functools import cache
from typing import ClassVar

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

import metarl
from metarl import InvalidValueError, Rng
from metarl.agent import Feedback, Step
from metarl.agents.classical.gittins import index_table, table_start
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.envs.bandits.bernoulli_bandit import bayes_value
from metarl.rng import fold_in, make_key

NAMES = ["thompson_sampling", "optimistic_thompson_sampling", "ucb1", "epsilon_greedy", "greedy", "gittins"]
BANDIT, DECEPTIVE = "metarl/BernoulliBandit-v0", "metarl/DeceptiveBandit-v0"


def keyed(n):
    return Rng(fold_in(make_key("test bandits"), torch.arange(n)))


def agent_of(name, k=5, **config):
    return metarl.make_agent(name, metarl.make_family(BANDIT, k=k), **config)


def choices(name, paid, pulls, draws=1, deterministic=False, **config):
    """How often each arm is chosen in `draws` draws with the given counts."""
    agent = agent_of(name, len(paid), **config)
    state = {"paid": torch.tensor([paid] * draws).float(), "pulls": torch.tensor([pulls] * draws).float()}
    action, extras, _ = agent.act(state, Step(torch.zeros(draws, 1, 1), None), keyed(draws), deterministic)
    assert action.shape == (draws, 1)
    assert not extras
    return (torch.bincount(action[:, 0], minlength=len(paid)) / draws).tolist()


def scores(name, paid, pulls, **config):
    agent = agent_of(name, len(paid), **config)
    return agent.mean_score(torch.tensor([paid]).float(), torch.tensor([pulls]).float())[0].tolist()


def frequency(p, draws):
    """`p` within 4.5 standard errors of a frequency in `draws` draws: missed once in 100,000."""
    return pytest.approx(p, abs=4.5 * math.sqrt(p * (1 - p) / draws))


class TestAlgorithms:
    def test_ucb1_by_hand(self):
        # t = 6, 2 ln 6 = 3.583519: .5 + sqrt(3.583519 / 2), 0 + sqrt(3.583519), 2/3 + sqrt(3.583519 / 3)
        counts = [1, 0, 2], [2, 1, 3]
        assert scores("ucb1", *counts) == pytest.approx([1.838566, 1.893018, 1.759602], abs=1e-5)
        assert choices("ucb1", *counts) == [0, 1, 0]
        # half the bonus: 1.169283, .946509, 1.213134
        assert choices("ucb1", *counts, c=0.5) == [0, 0, 1]
        # a prior of 1 in 2: 2/4 + sqrt(3.583519 / 4), 1/3 + sqrt(3.583519 / 3), 3/5 + sqrt(3.583519 / 5)
        with_prior = scores("ucb1", *counts, prior_paid=1.0, prior_pulls=2.0)
        assert with_prior == pytest.approx([1.446509, 1.426268, 1.446583], abs=1e-5)

    def test_ucb1_tries_every_arm_first_unless_it_has_a_prior(self):
        assert choices("ucb1", [9, 0, 4], [9, 0, 4]) == [0, 1, 0]
        # t = 1: ln 1 = 0, and the prior's means are 2/3, 1/2, 1/2
        assert choices("ucb1", [1, 0, 0], [1, 0, 0], prior_paid=1.0, prior_pulls=2.0) == [1, 0, 0]

    def test_the_means_have_a_uniform_prior(self):
        # (1 + s) / (2 + n): 2/3, 1/2, 4/7, 3/10; Beta(2, 2) would give 3/5, 1/2, 5/9, 4/12
        counts = [1, 0, 3, 2], [1, 0, 5, 8]
        for name in ("greedy", "epsilon_greedy", "thompson_sampling", "optimistic_thompson_sampling"):
            assert scores(name, *counts) == pytest.approx([2 / 3, 1 / 2, 4 / 7, 3 / 10])

    def test_greedy_by_hand(self):
        assert choices("greedy", [1, 0, 3], [1, 0, 5]) == [1, 0, 0]
        # without a prior the untried arm goes first, then rewards of any size are averaged: 1, -.5 and .75
        assert choices("greedy", [1, 0, 3], [1, 0, 5], prior_paid=0.0, prior_pulls=0.0) == [0, 1, 0]
        assert scores("greedy", [1, -1, 3], [1, 2, 4], prior_paid=0.0, prior_pulls=0.0) == [1.0, -0.5, 0.75]

    def test_epsilon_greedy_explores_that_often(self):
        found = choices("epsilon_greedy", [0, 0, 3, 1], [1, 2, 4, 2], 20_000, epsilon=0.2)
        # .2 / 4 each, and .8 more for the best
        assert found == [frequency(p, 20_000) for p in (0.05, 0.05, 0.85, 0.05)]
        assert choices("epsilon_greedy", [0, 0, 3, 1], [1, 2, 4, 2], 100, deterministic=True, epsilon=0.9) == [
            0,
            0,
            1,
            0,
        ]

    def test_thompson_sampling_plays_an_arm_as_often_as_it_is_the_best(self):
        # X ~ Beta(3, 2) after 2 of 3, Y ~ Beta(1, 2) after 0 of 1. P(Y < x) = 2x - x^2, E[X] = 3/5, E[X^2] = 3/5 * 4/6:
        # P(X > Y) = 1.2 - .4 = .8. (From a prior of Beta(2, 2) it would be .738, 22 standard errors away.)
        assert choices("thompson_sampling", [2, 0], [3, 1], 20_000)[0] == frequency(0.8, 20_000)
        assert choices("thompson_sampling", [2, 0], [3, 1], 10, deterministic=True) == [1, 0]

    def test_optimistic_thompson_sampling_is_never_below_the_mean(self):
        # The same arms. max(Y, 1/3) < max(X, 3/5) where Y < max(X, 3/5): with F(x) = 2x - x^2 and the density
        # 12 x^2 (1 - x), P(X < .6) F(.6) + the integral of F over [.6, 1] = .4752 * .84 + [6x^4 - 7.2x^5 + 2x^6]
        # = .399168 + (.8 - .31104) = .888128
        assert choices("optimistic_thompson_sampling", [2, 0], [3, 1], 20_000)[0] == frequency(0.888128, 20_000)
        # averages of many draws are the means: 3/5 beats 1/3 but in the far tail
        assert choices("optimistic_thompson_sampling", [2, 0], [3, 1], 1000, samples=100)[0] > 0.99

    def test_gaussian_thompson_sampling_has_the_familys_posterior(self):
        agent = metarl.make_agent("gaussian_thompson_sampling", metarl.make_family(DECEPTIVE, k=4))
        # noise of variance .25: after 3 pulls that paid 6, the share of their mean 2 is 3 / (3 + .25) = 12/13, and the
        # variance is 1/13; after 1 pull 1 / 1.25 = .8 and .2; the safe arm is known to pay .5, whatever was seen
        mean, std = agent.posterior(torch.tensor([[9.0, 6.0, 0.0, -1.0]]), torch.tensor([[2.0, 3.0, 0.0, 1.0]]))
        assert mean[0].tolist() == pytest.approx([0.5, 24 / 13, 0.0, -0.8])
        assert std[0].square().tolist() == pytest.approx([0.0, 1 / 13, 1.0, 0.2])
        # beside it, an untried arm is drawn above .5 with probability 1 - Phi(.5) = .308538
        state = {"paid": torch.tensor([[0.0, -90.0, 0.0, -90.0]]), "pulls": torch.tensor([[0.0, 90.0, 0.0, 90.0]])}
        state, step = {k: v.expand(20_000, 4) for k, v in state.items()}, Step(torch.zeros(20_000, 1, 1), None)
        action = agent.act(state, step, keyed(20_000), False)[0][:, 0]
        assert torch.bincount(action, minlength=4)[2] / 20_000 == frequency(0.308538, 20_000)
        assert (agent.act(state, step, keyed(20_000), True)[0] == 0).all()
        plain = metarl.make_agent("gaussian_thompson_sampling", "metarl/GaussianBandit-v0", device="cpu")
        mean, std = plain.posterior(torch.full((1, 10), 3.0), torch.full((1, 10), 2.0))
        assert (mean[0].tolist(), std[0].square().tolist()) == ([1.0] * 10, pytest.approx([1 / 3] * 10))

    def test_gaussian_thompson_sampling_without_noise_believes_one_pull(self):
        agent = metarl.make_agent("gaussian_thompson_sampling", metarl.make_family(DECEPTIVE, k=3, noise_std=0.0))
        mean, std = agent.posterior(torch.tensor([[0.0, 2.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]]))
        assert (mean[0].tolist(), std[0].tolist()) == ([0.5, 2.0, 0.0], [0.0, 0.0, 1.0])

    def test_gaussian_thompson_sampling_needs_a_prior(self):
        with pytest.raises(
            InvalidValueError, match=r"family of gaussian_thompson_sampling is .*expected a bandit with n"
        ):
            agent_of("gaussian_thompson_sampling")

    @pytest.mark.parametrize("name", NAMES)
    def test_equal_arms_are_pulled_equally_often(self, name):
        found = choices(name, [0] * 5, [0] * 5, 10_000)
        assert found == [frequency(0.2, 10_000)] * 5
        assert choices(name, [0] * 5, [0] * 5, 3, deterministic=True) == [1, 0, 0, 0, 0]


class TestContract:
    def told(self, action, reward):
        action, reward = torch.tensor(action).view(-1, 1), torch.tensor(reward).view(-1, 1)
        return Feedback(action, reward, torch.ones_like(action).bool(), torch.zeros_like(action).bool())

    @pytest.mark.parametrize("name", NAMES)
    def test_observe_counts_and_inactive_rows_keep_theirs(self, name):
        agent = agent_of(name, 3)
        state = agent.observe(agent.begin(3), self.told([0, 2, 1], [1.0, 0.0, 1.0]), None)
        assert state["paid"].tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]
        assert state["pulls"].tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
        active = torch.tensor([[True], [False], [True]])
        state = agent.observe(state, self.told([0, 0, 2], [1.0, 1.0, 0.0]), active)
        assert state["paid"].tolist() == [[2, 0, 0], [0, 0, 0], [0, 1, 0]]
        assert state["pulls"].tolist() == [[2, 0, 0], [0, 0, 1], [0, 1, 1]]

    @pytest.mark.parametrize(
        ("name", "credited"),
        [("thompson_sampling", [1.0, 0.25, 0.0]), ("gittins", [1.0, 0.0, 0.0]), ("ucb1", [1.5, 0.25, -2.0])],
    )
    def test_rewards_that_are_not_0_or_1(self, name, credited):
        agent = agent_of(name, 1)
        state = agent.observe(agent.begin(3), self.told([0, 0, 0], [1.5, 0.25, -2.0]), None)
        assert state["paid"][:, 0].tolist() == credited

    @pytest.mark.parametrize("name", NAMES)
    def test_a_batch_equals_its_singles(self, name):
        agent = agent_of(name)
        played = []
        for which in ([0, 1, 2], [2, 0, 1], [1]):
            trials = PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("test", 3)[which])
            budget = metarl.Budget(envs=1, episodes=8)
            rollout, state = trials.collect(agent, agent.begin(trials.rows), 0, budget)
            assert (state["pulls"].sum(-1) == 8).all()
            played.append({task: rollout.action[:, row, 0].tolist() for row, task in enumerate(which)})
        assert played[0] == played[1]
        assert played[0][1] == played[2][1]

    @pytest.mark.parametrize("name", NAMES)
    def test_what_is_no_bandit_is_refused(self, name):
        for family in ("metarl/PointNavigation-v0", "metarl/TabularMDP-v0"):
            with pytest.raises(InvalidValueError, match=f"family of {name} is .*expected a bandit"):
                metarl.make_agent(name, family)

    def test_a_family_may_say_that_it_is_a_bandit(self):
        class Pulls(metarl.TorchFamily):
            id = "toy/Pulls-v0"
            observation_space, action_space, horizon = Box(0, 1, (1,), np.float32), Discrete(2), 7
            task_space: ClassVar = {"p": metarl.Uniform(0.0, 1.0, (2,))}
            bandit = True

        assert metarl.make_agent("ucb1", Pulls()).arms == 2

    @pytest.mark.parametrize(
        ("name", "field", "value"),
        [
            ("ucb1", "c", -1.0),
            ("ucb1", "prior_pulls", -1.0),
            ("greedy", "prior_pulls", -1.0),
            ("epsilon_greedy", "epsilon", 1.5),
            ("optimistic_thompson_sampling", "samples", 0),
            ("gittins", "trial_episodes", 0),
            ("gittins", "trial_episodes", 501),
        ],
    )
    def test_wrong_hyperparameters_are_named(self, name, field, value):
        with pytest.raises(InvalidValueError, match=rf"{name}\.{field} is {value}"):
            agent_of(name, **{field: value})


def index_by_bisection(s, f, m):
    """The lambda at which playing on and the known arm are worth the same, from the definition."""

    def playing_on(lam):
        @cache
        def value(s, f, m):
            return 0.0 if m == 0 else max(lam * m, go(s, f, m))

        def go(s, f, m):
            p = (s + 1) / (s + f + 2)
            return p * (1 + value(s + 1, f, m - 1)) + (1 - p) * value(s, f + 1, m - 1)

        return go(s, f, m)

    low, high = 0.0, 1.0
    for _ in range(40):
        lam = (low + high) / 2
        low, high = (lam, high) if playing_on(lam) > lam * m else (low, lam)
    return low


def index(n, t, s, f):
    return float(index_table(n)[table_start(t) + s * (t + 1) + f])


def exact_value(n, k, score):
    """What playing the largest of `score(counts)` earns, ties split evenly; arms in the order of their counts."""

    @cache
    def value(t, counts):
        if t == n:
            return 0.0
        each = score(t, counts)
        tied = [arm for arm in range(k) if each[arm] > max(each) - 1e-6]
        total = 0.0
        for arm in tied:
            (s, f), rest = counts[arm], counts[:arm] + counts[arm + 1 :]
            p = (s + 1) / (s + f + 2)
            win, lose = tuple(sorted((*rest, (s + 1, f)))), tuple(sorted((*rest, (s, f + 1))))
            total += p * (1 + value(t + 1, win)) + (1 - p) * value(t + 1, lose)
        return total / len(tied)

    return value(0, ((0, 0),) * k)


def value_of_index_policy(n, k):
    return exact_value(n, k, lambda t, counts: [index(n, t, s, f) for s, f in counts])


class TestGittins:
    def test_two_pulls_by_hand(self):
        # with 1/3 < lambda < 2/3 one stays after a win only: 1/2 (1 + 2/3) + 1/2 lambda = 2 lambda, lambda = 5/9
        assert index(2, 0, 0, 0) == pytest.approx(5 / 9, abs=1e-6)

    @pytest.mark.parametrize(("s", "f", "m"), [(0, 0, 10), (0, 0, 3), (3, 1, 6), (0, 4, 5), (5, 0, 4), (1, 2, 2)])
    def test_the_index_is_that_of_bisection(self, s, f, m):
        n = s + f + m  # 10 at most: kinks are rare there and the interpolation nearly exact
        assert index(n, s + f, s, f) == pytest.approx(index_by_bisection(s, f, m), abs=2e-5)

    def test_a_longer_trial(self):
        # its grid's step is 1/2000
        assert index(60, 10, 7, 3) == pytest.approx(index_by_bisection(7, 3, 50), abs=5e-4)

    def test_the_coarse_grid_of_long_trials(self, monkeypatch):
        monkeypatch.setattr("metarl.agents.classical.gittins.FINE", 400)
        coarse = index_table.__wrapped__(40)
        assert np.abs(coarse - index_table(40)).max() < 1 / 400

    def test_the_last_index_is_the_mean(self):
        for s, f in itertools.product(range(10), repeat=2):
            assert index(10, 9, s, f) == pytest.approx((s + 1) / (s + f + 2), abs=1e-6)

    def test_the_index_falls_to_the_mean_as_the_end_comes(self):
        for s, f in ((0, 0), (2, 1), (0, 3), (4, 4)):
            falling = [index(10, 10 - m, s, f) for m in range(10 - s - f, 0, -1)]
            assert all(a > b for a, b in itertools.pairwise(falling))
            assert falling[-1] == pytest.approx((s + 1) / (s + f + 2), abs=1e-6)

    def test_the_agent_looks_up_its_own_counts_and_time(self):
        # 6 pulls of a trial of 10, arms of (2, 1), (0, 2), (1, 0)
        found = scores("gittins", [2, 0, 1], [3, 2, 1], trial_episodes=10)
        assert found == [index(10, 6, *counts) for counts in ((2, 1), (0, 2), (1, 0))]
        # rows may be at different times; once more after the trial's end the mean is played
        agent = agent_of("gittins", 1, trial_episodes=4)
        both = agent.mean_score(torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0], [4.0]]))
        assert both[:, 0].tolist() == pytest.approx([index(4, 2, 1, 1), 4 / 6])

    def test_a_trial_longer_than_the_index_was_made_for_is_refused(self):
        agent = agent_of("gittins", 1, trial_episodes=4)
        with pytest.raises(InvalidValueError, match=r"gittins.trial_episodes is 4, expected .* at least 5"):
            agent.mean_score(torch.tensor([[1.0]]), torch.tensor([[5.0]]))

    def test_arms_that_change_are_refused(self):
        with pytest.raises(InvalidValueError, match=r"family of gittins is .*whose arms do not change"):
            metarl.make_agent("gittins", "metarl/SwitchingBandit-v0")

    @pytest.mark.parametrize(("n", "k"), [(5, 2), (7, 3), (10, 2), (10, 3), (10, 5)])
    def test_the_policy_is_within_a_hundredth_of_the_optimum(self, n, k):
        optimum, value = bayes_value(n, k), value_of_index_policy(n, k)
        assert 0.99 * optimum < value <= optimum + 1e-9


def ucb1_score(t, counts):
    return [s / (s + f) + math.sqrt(2 * math.log(t) / (s + f)) if s + f else 99.0 for s, f in counts]


class TestScores:
    """10 pulls of 5 arms on 4,000 held-out bandits, within 4 standard errors (.03 to .036) of what is expected.

    That is exact where no arm is drawn; the others are from 300,000 trials in NumPy, with an error of .004. Duan et al.
    have 6.6 for Gittins, 5.7 for Thompson sampling and 6.6 for greedy.
    """

    def check(self, name, expected, **config):
        agent = metarl.make_agent(name, BANDIT, **config)
        results = metarl.evaluate(agent, k=10, num_tasks=4000, episodes=1, modes=["sampled"])
        summary, error = results.lifetime_summary(), float(results.lifetime.std()) / math.sqrt(4000)
        assert error < 0.037
        assert summary["mean"] == pytest.approx(expected, abs=4 * error)
        return summary["mean"], error

    def test_gittins(self):
        mean, error = self.check("gittins", value_of_index_policy(10, 5))
        assert 6.5 < mean < bayes_value(10, 5) + 3 * error

    def test_greedy(self):
        self.check("greedy", exact_value(10, 5, lambda t, counts: [(s + 1) / (s + f + 2) for s, f in counts]))

    def test_ucb1(self):
        self.check("ucb1", exact_value(10, 5, ucb1_score))

    def test_thompson_sampling(self):
        self.check("thompson_sampling", 5.831)

    def test_optimistic_thompson_sampling(self):
        self.check("optimistic_thompson_sampling", 5.984)
