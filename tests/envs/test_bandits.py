"""Gaussian, deceptive and switching bandits: pulls against their distributions, references by hand."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete
from gymnasium.utils.env_checker import check_env
from scipy import stats

import metarl
from metarl import InvalidValueError, Rng
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.rng import fold_in, make_key

IDS = ["metarl/GaussianBandit-v0", "metarl/DeceptiveBandit-v0", "metarl/SwitchingBandit-v0"]


def keyed(n):
    return Rng(fold_in(make_key("test bandits"), torch.arange(n)))


def collect(family, tasks, agent, budget, per_task=1):
    trials = PoolTrials(EnvironmentPool(family), tasks, per_task=per_task)
    agent = metarl.make_agent(agent, family)
    return trials.collect(agent, agent.begin(trials.rows, trials.tasks), 0, budget)[0]


def pull(family, values, arms, each):
    """`each` pulls of every arm of `arms` in one task: rewards `[len(arms), each]`."""
    n = len(arms) * each
    task = {k: v.expand(n, *v.shape[1:]) for k, v in family.make_tasks(**values).tensors().items()}
    action = torch.tensor(arms).repeat_interleave(each)
    state, reward, terminated, info = family.step(torch.zeros(n, 1), action, task, keyed(n))
    told = info["expected_reward"].view(len(arms), each)
    assert (told == told[:, :1]).all()  # one mean for each arm
    noise = 5 * reward.view(len(arms), each).std(1) / each**0.5 + 1e-6
    assert ((reward.view(len(arms), each).mean(1) - told[:, 0]).abs() <= noise).all()
    assert not state.any()
    assert terminated.all()
    assert reward.dtype == torch.float32
    return reward.view(len(arms), each).numpy()


@pytest.mark.parametrize("id", IDS)
def test_gymnasiums_checker(id):
    check_env(gym.make(id).unwrapped, skip_render_check=True)


@pytest.mark.parametrize("id", IDS)
def test_random_and_oracle_earn_the_references(id):
    family = metarl.make_family(id)
    tasks = family.tasks("test", 20)
    episodes = 1 if family.horizon > 1 else 100
    for agent, name in (("random", "floor"), ("oracle", "informed_optimum")):
        rollout = collect(family, tasks, agent, metarl.Budget(episodes=episodes), per_task=100)
        returns = rollout.mean_return().view(20, 100).numpy()  # of episodes, averaged over each row
        error = returns.std(1) / 10
        expected = family.references(tasks)[name]
        assert (np.abs(returns.mean(1) - expected) < 5 * error + 1e-6).all()


class TestGaussianBandit:
    def test_declarations(self):
        family = metarl.make_family("metarl/GaussianBandit-v0")
        assert (family.action_space, family.horizon) == (Discrete(10), 1)
        assert family.task_space == {"mean": metarl.Normal(0.0, 1.0, (10,))}
        assert family.noise_std == 1.0
        other = metarl.make_family("metarl/GaussianBandit-v0:first_explore")
        assert (other.k, other.mean_std, other.noise_std) == (10, 1.0, 0.5)
        wide = metarl.make_family("metarl/GaussianBandit-v0", k=3, mean_std=2.0)
        assert wide.task_space == {"mean": metarl.Normal(0.0, 2.0, (3,))}

    def test_pays_its_means_with_noise(self):
        family = metarl.make_family("metarl/GaussianBandit-v0", k=3, noise_std=0.7)
        rewards = pull(family, {"mean": [1.0, -2.0, 0.3]}, [0, 1, 2], 5000)
        for row, mean in zip(rewards, (1.0, -2.0, 0.3), strict=True):
            assert stats.kstest(row, stats.norm(mean, 0.7).cdf).pvalue > 1e-3

    def test_without_noise_it_pays_its_means(self):
        family = metarl.make_family("metarl/GaussianBandit-v0", k=2, noise_std=0.0)
        assert pull(family, {"mean": [1.5, -2.0]}, [0, 1], 2).tolist() == [[1.5, 1.5], [-2.0, -2.0]]

    def test_references(self):
        family = metarl.make_family("metarl/GaussianBandit-v0", k=3)
        tasks = family.make_tasks(mean=[[0.5, 1.0, -0.75], [-1.0, -2.0, -3.0]])
        found = family.references(tasks)
        assert found["floor"].tolist() == [0.25, -2.0]
        assert found["informed_optimum"].tolist() == [1.0, -1.0]
        assert family.optimal_action(None, tasks.tensors(), None).tolist() == [1, 0]

    def test_the_bayes_optimum_is_given_where_nothing_can_be_learnt(self):
        assert metarl.make_family("metarl/GaussianBandit-v0").bayes_optimal_return(1) == 0.0
        assert metarl.make_family("metarl/GaussianBandit-v0", k=1).bayes_optimal_return(9) == 0.0
        assert metarl.make_family("metarl/GaussianBandit-v0").bayes_optimal_return(2) is None

    @pytest.mark.parametrize("id", IDS[:2])
    @pytest.mark.parametrize(
        ("field", "bad"), [("k", 0), ("k", 2.5), ("mean_std", 0.0), ("mean_std", math.inf), ("noise_std", -1.0)]
    )
    def test_wrong_arguments_are_named(self, id, field, bad):
        name = id.partition("/")[2].partition("-")[0]
        with pytest.raises(InvalidValueError, match=rf"{name}\.{field} is {bad}"):
            metarl.make_family(id, **{field: bad})


class TestDeceptiveBandit:
    def test_constants_are_those_of_the_published_code(self):
        family = metarl.make_family("metarl/DeceptiveBandit-v0")
        assert (family.action_space, family.horizon) == (Discrete(10), 1)
        assert family.task_space == {"mean": metarl.Normal(0.0, 1.0, (9,))}
        assert (family.safe, family.noise_std) == (0.5, 0.5)
        assert metarl.make_family("metarl/DeceptiveBandit-v0:control").safe == 0.0

    def test_the_safe_arm_pays_exactly_and_the_others_with_noise(self):
        family = metarl.make_family("metarl/DeceptiveBandit-v0", k=3)
        rewards = pull(family, {"mean": [2.0, -1.0]}, [0, 1, 2], 5000)
        assert (rewards[0] == 0.5).all()
        for row, mean in zip(rewards[1:], (2.0, -1.0), strict=True):
            assert stats.kstest(row, stats.norm(mean, 0.5).cdf).pvalue > 1e-3

    def test_references(self):
        family = metarl.make_family("metarl/DeceptiveBandit-v0", k=3)
        tasks = family.make_tasks(mean=[[0.25, 1.0], [-1.0, -2.5]])
        found = family.references(tasks)
        assert found["floor"] == pytest.approx([1.75 / 3, -1.0])
        assert found["informed_optimum"].tolist() == [1.0, 0.5]
        assert family.optimal_action(None, tasks.tensors(), None).tolist() == [2, 0]

    def test_the_bayes_optimum_of_one_pull(self):
        assert metarl.make_family("metarl/DeceptiveBandit-v0").bayes_optimal_return(1) == 0.5
        assert metarl.make_family("metarl/DeceptiveBandit-v0", safe=-1.0).bayes_optimal_return(1) == 0.0
        assert metarl.make_family("metarl/DeceptiveBandit-v0").bayes_optimal_return(2) is None

    def test_exploring_pays_later_and_costs_first(self):
        # 100 pulls, in numpy. The safe arm: 50. Every other arm m times, then the best sample mean if above .5.
        family = metarl.make_family("metarl/DeceptiveBandit-v0")
        rng, pulls, tasks = np.random.default_rng(0), 100, 40_000
        mean = rng.normal(size=(tasks, family.k - 1))
        lifetime = {}
        for m in (1, 2, 5):
            seen = mean + family.noise_std / math.sqrt(m) * rng.normal(size=mean.shape)
            best = seen.argmax(1)
            kept = np.where(seen.max(1) > family.safe, mean[np.arange(tasks), best], family.safe)
            lifetime[m] = float((m * mean.sum(1) + (pulls - m * (family.k - 1)) * kept).mean())
        assert pulls * family.safe == 50.0
        assert lifetime[1] == pytest.approx(121.4, abs=1.5)  # what the module's docstring says
        assert lifetime[1] > lifetime[2] > lifetime[5] > 50.0
        # the first 9 of those pulls earn 0 on average instead of 4.5, and one pull of a random arm .05 instead of .5
        assert float(mean.mean()) == pytest.approx(0.0, abs=0.01)
        floor = family.references(family.tasks("train", 4000))["floor"].mean()
        assert floor == pytest.approx(0.05, abs=0.02)

    def test_trying_one_arm_pays_from_five_pulls_on(self):
        # The posterior mean X after one pull is N(0, s^2) over tasks, s^2 = 1 / (1 + .25) = .8. Keeping to the better
        # arm is worth E max(.5, X) = .5 Phi(.5 / s) + s phi(.5 / s) = .661 a pull: .661 (n - 1) against .5 n.
        s = math.sqrt(0.8)
        kept = 0.5 * stats.norm.cdf(0.5 / s) + s * stats.norm.pdf(0.5 / s)
        assert kept == pytest.approx(0.661, abs=1e-3)
        assert [n for n in range(1, 8) if kept * (n - 1) > 0.5 * n] == [5, 6, 7]


class TestSwitchingBandit:
    def made(self, **kwargs):
        """4 pulls of 2 arms; segments 0, 0, 1, 2 in the first task and 0, 2, 2, 2 in the second."""
        family = metarl.make_family("metarl/SwitchingBandit-v0", k=2, segments=3, horizon=4, **kwargs)
        p = [[1.0, 0.0], [0.0, 1.0], [0.5, 0.25]]
        return family, family.make_tasks(p=[p, p], when=[[0.75, 0.5], [0.125, 0.25]])

    def test_declarations(self):
        family = metarl.make_family("metarl/SwitchingBandit-v0")
        assert (family.action_space, family.horizon, family.signal) == (Discrete(5), 100, False)
        assert family.task_space == {"p": metarl.Uniform(0, 1, (3, 5)), "when": metarl.Uniform(0, 1, (2,))}
        assert metarl.make_family("metarl/SwitchingBandit-v0:signal").signal

    def test_segments_in_any_order_of_the_change_points(self):
        family, tasks = self.made()
        pulls = torch.arange(4).expand(2, 4)
        # change points 3 and 2 (a pull at the point is after it); .5 and 1
        assert family.segment(pulls, tasks.tensors()).tolist() == [[0, 0, 1, 2], [0, 2, 2, 2]]
        for t in range(4):
            found = family.segment(torch.tensor([t, t]), tasks.tensors())
            assert found.tolist() == [[0, 0, 1, 2][t], [0, 2, 2, 2][t]]

    def test_references_by_hand(self):
        family, tasks = self.made()
        found = family.references(tasks)
        # best arms 1, 1, .5 and means .5, .5, .375 of the segments
        assert found["informed_optimum"].tolist() == [3.5, 2.5]
        assert found["floor"].tolist() == [1.875, 1.625]

    def test_pays_by_the_segment_and_knows_its_best_arm(self):
        family, tasks = self.made()
        n = 4000
        task = {k: v[:1].expand(n, *v.shape[1:]) for k, v in tasks.tensors().items()}
        state = family.reset(task, keyed(n))
        wins, best, told = [], [], []
        for t in range(4):
            best.append(int(family.optimal_action(state, task, state)[0]))
            state, reward, terminated, info = family.step(state, torch.arange(n) % 2, task, keyed(n).seek(t))
            told.append(info["expected_reward"][:2].tolist())
            wins.append([int(reward[0::2].sum()), int(reward[1::2].sum())])
            assert not terminated.any()
        assert wins[:3] == [[2000, 0], [2000, 0], [0, 2000]]
        assert told == [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.5, 0.25]]
        assert stats.binomtest(wins[3][0], 2000, 0.5).pvalue > 1e-3
        assert stats.binomtest(wins[3][1], 2000, 0.25).pvalue > 1e-3
        assert best == [0, 0, 1, 0]

    def test_the_observation_tells_of_a_change_only_with_the_signal(self):
        for signal, expected in ((False, [[0, 0, 0, 0]] * 2), (True, [[0, 0, 1, 1], [0, 1, 0, 0]])):
            family, tasks = self.made(signal=signal)
            rollout = collect(family, tasks, "random", metarl.Budget(episodes=2))
            assert rollout.obs.shape == (8, 2, 1, 1)
            assert rollout.obs[:4, :, 0, 0].T.tolist() == expected
            assert rollout.obs[4:, :, 0, 0].T.tolist() == expected  # the next episode begins anew
            assert rollout.truncated[3::4].all()

    def test_a_change_before_the_first_pull_is_none_that_could_be_seen(self):
        family, tasks = self.made(signal=True)
        task = {"p": tasks.tensors()["p"][:1], "when": torch.tensor([[0.0, 0.5]])}
        assert [float(family.observe(torch.tensor([t]), task)) for t in range(4)] == [0, 0, 1, 0]

    def test_change_points_are_uniform_over_the_trial(self):
        family = metarl.make_family("metarl/SwitchingBandit-v0")
        task = family.tasks("train", 4000).tensors()
        pulls = family.segment(torch.arange(100).expand(4000, -1), task)
        # each change comes before pull t with probability t / 100
        assert pulls.float().mean(0).numpy() == pytest.approx(2 * np.arange(100) / 100, abs=0.06)

    @pytest.mark.parametrize(("field", "bad"), [("k", 0), ("segments", 1), ("horizon", 0), ("horizon", 1.5)])
    def test_wrong_arguments_are_named(self, field, bad):
        with pytest.raises(InvalidValueError, match=rf"SwitchingBandit\.{field} is {bad}"):
            metarl.make_family("metarl/SwitchingBandit-v0", **{field: bad})
