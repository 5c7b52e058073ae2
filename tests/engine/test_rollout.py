"""Rollouts against a family whose every number is known.

The `counting` family pays `bonus` + t at time t, shows t, terminates with step number `length` and is truncated after
`horizon` = 4 steps.
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

import metarl
from metarl import Agent, Budget, GymFamily, InvalidValueError, Rollout
from metarl.engine.gym_environments import GymEnvironments
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials, RolloutSpec, check_finite, play
from metarl.engine.workers import WorkerEnvironments


class ListeningAgent(Agent):
    """Does nothing, `width` environments wide; counts the steps it was told of, obeying the mask."""

    name = "recorder"
    is_recurrent = True

    def __init__(self, family, width=1):
        super().__init__(family, None)
        self.width, self.masks = width, []

    @property
    def budget(self):
        return Budget(envs=self.width, episodes=1)

    def begin(self, rows, tasks=None):
        return {"steps": torch.zeros(rows, self.width), "reward": torch.zeros(rows, self.width)}

    def act(self, state, step, rng, deterministic):
        extras = {"seen": step.obs[..., 0] * 10}
        return torch.zeros(*step.obs.shape[:2], 1), extras, state

    def observe(self, state, feedback, active):
        self.masks.append(active)
        live = torch.ones_like(feedback.reward) if active is None else active.float()
        return {"steps": state["steps"] + live, "reward": torch.where(live > 0, feedback.reward, state["reward"])}

    def to_env(self, action):
        return action


def collect(family, budget, length, bonus, agent=None):
    """One rollout with a row per task: (rollout, state)."""
    agent = agent or ListeningAgent(family, budget.envs)
    tasks = family.make_tasks(length=length, bonus=bonus)
    trials = PoolTrials(EnvironmentPool(family), tasks)
    return trials.collect(agent, agent.begin(len(tasks)), 0, budget)


def row(values, r, env=0):
    return values[:, r, env].tolist()


class TestStepBudget:
    """Five steps of tasks of 2, 3 and 9 steps (the last is truncated after 4), bonus 5, 10 and 20."""

    @pytest.fixture
    def rollout(self, counting):
        return collect(counting(), Budget(steps=5), [2, 3, 9], [5, 10, 20])[0]

    def test_shapes(self, rollout):
        assert rollout.obs.shape == (5, 3, 1, 1)
        assert rollout.action.shape == (5, 3, 1, 1)
        assert rollout.reward.shape == rollout.valid.shape == (5, 3, 1)
        assert rollout.last_obs.shape == (3, 1, 1)
        assert rollout.extras["seen"].shape == (5, 3, 1)
        assert rollout.success is None

    def test_what_happened(self, rollout):
        assert row(rollout.obs[..., 0], 0) == [0, 1, 0, 1, 0]
        assert row(rollout.obs[..., 0], 1) == [0, 1, 2, 0, 1]
        assert row(rollout.obs[..., 0], 2) == [0, 1, 2, 3, 0]
        assert row(rollout.reward, 0) == [5, 6, 5, 6, 5]
        assert row(rollout.reward, 1) == [10, 11, 12, 10, 11]
        assert row(rollout.reward, 2) == [20, 21, 22, 23, 20]
        assert row(rollout.terminated, 0) == [False, True, False, True, False]
        assert row(rollout.terminated, 1) == [False, False, True, False, False]
        assert not rollout.terminated[:, 2].any()
        assert row(rollout.truncated, 2) == [False, False, False, True, False]
        assert not rollout.truncated[:, :2].any()
        assert rollout.valid.all()
        assert rollout.last_obs.flatten().tolist() == [1, 2, 1]
        assert row(rollout.extras["seen"], 1) == [0, 10, 20, 0, 10]

    def test_derived_fields(self, rollout):
        assert row(rollout.episode_start, 0) == [True, False, True, False, True]
        assert row(rollout.episode_start, 2) == [True, False, False, False, True]
        assert row(rollout.ended, 2) == [False, False, False, True, False]
        # time restarts with each episode and is what the family shows here
        assert torch.equal(rollout.time, rollout.obs[..., 0].long())
        assert torch.equal(rollout.last_time, rollout.last_obs[..., 0].long())
        assert rollout.env_steps.tolist() == [5, 5, 5]

    def test_episodes(self, rollout):
        sums, whole = rollout.episodes(rollout.reward)
        # the last episode of each is cut after 1, 2 and 1 steps; the others have begun fewer than three
        assert sums[:, 0].tolist() == [[11, 11, 5], [33, 21, 0], [86, 20, 0]]
        assert whole[:, 0].tolist() == [[True, True, False], [True, False, False], [True, False, False]]
        assert rollout.mean_return().tolist() == [11, 33, 86]
        assert rollout.mean_return().dtype == torch.float64

    def test_a_cut_at_an_episodes_end(self, counting):
        rollout, _ = collect(counting(), Budget(steps=4), [2, 9], [0, 0])
        assert rollout.last_time.tolist() == [[0], [0]]
        assert rollout.last_obs.flatten().tolist() == [0, 0]
        assert rollout.episodes(rollout.reward)[1][:, 0].tolist() == [[True, True], [True, False]]

    def test_no_whole_episode_is_no_number(self, counting):
        rollout, _ = collect(counting(), Budget(steps=2), [9, 2], [0, 0])
        mean = rollout.mean_return()
        assert mean[0].isnan()
        assert mean[1] == 1


class TestEpisodeBudget:
    """Two episodes of tasks of 1, 3 and 9 steps (truncated after 4): 2, 6 and 8 steps are valid."""

    @pytest.fixture
    def collected(self, counting):
        return collect(counting(), Budget(episodes=2), [1, 3, 9], [5, 10, 20])

    def test_masks(self, collected):
        rollout, _ = collected
        assert [int(v) for v in rollout.valid.sum((0, 2))] == [2, 6, 8]
        assert rollout.env_steps.tolist() == [2, 6, 8]
        for r, steps in enumerate((2, 6, 8)):  # a prefix
            assert row(rollout.valid, r) == [t < steps for t in range(len(rollout.valid))]

    def test_only_valid_steps_count(self, collected):
        rollout, _ = collected
        # 5; 10 + 11 + 12 = 33; 20 + 21 + 22 + 23 = 86: two whole episodes each, whatever is played afterwards
        sums, whole = rollout.episodes(rollout.reward)
        assert whole[:, 0].sum(-1).tolist() == [2, 2, 2]
        assert sums[0, 0, :2].tolist() == [5, 5]
        assert sums[0, 0, 2:].tolist() == [0] * 6
        assert rollout.mean_return().tolist() == [5, 33, 86]

    def test_frozen_rows_keep_their_memory(self, collected):
        _, state = collected
        assert state["steps"].flatten().tolist() == [2, 6, 8]
        assert state["reward"].flatten().tolist() == [5, 12, 23]  # of their own last step

    def test_steps_after_the_last_rows_end_may_be_left_out(self, counting):
        family = counting(horizon=40)
        rollout, _ = collect(family, Budget(episodes=1), [2, 3], [0, 0])
        assert len(rollout.reward) < 40
        assert rollout.env_steps.tolist() == [2, 3]
        assert rollout.valid.shape == rollout.reward.shape

    def test_families_that_never_end_early_need_no_mask(self):
        family = metarl.make_family("metarl/TabularMDP-v0", horizon=3)
        agent = metarl.make_agent("random", family)
        trials = PoolTrials(EnvironmentPool(family), family.tasks("train", 2))
        rollout, _ = trials.collect(agent, agent.begin(2), 0, Budget(envs=2, episodes=4))
        assert rollout.reward.shape == (12, 2, 2)
        assert rollout.valid.all()
        assert rollout.truncated.sum(0).tolist() == [[4, 4], [4, 4]]
        assert rollout.episodes(rollout.reward)[1].all()

    def test_agents_without_a_memory_are_told_nothing(self, counting):
        agent = ListeningAgent(counting())
        agent.is_recurrent = False
        _, state = collect(counting(), Budget(episodes=1), [2], [0], agent)
        assert agent.masks == []
        assert state["steps"].tolist() == [[0]]

    def test_a_slot_is_valid_until_its_second_ending_of_either_kind(self, counting):
        class Chance(counting):  # an episode terminates with its first step, or is truncated after 4
            def reset(self, task, rng):
                return torch.stack([torch.zeros_like(task["length"]), (rng.uniform() < 0.5).float()], -1)

            def observe(self, state, task):
                return state[:, :1]

            def step(self, state, action, task, rng):
                return state + torch.tensor([1.0, 0.0]), torch.ones(len(state)), state[:, 1] > 0

        rollout, _ = collect(Chance(), Budget(episodes=2), [9] * 30, [0] * 30)
        endings_before = rollout.ended.long().cumsum(0) - rollout.ended.long()
        assert torch.equal(rollout.valid, endings_before < 2)
        assert set(rollout.env_steps.tolist()) == {2, 5, 8}  # 1 or 4, twice
        assert torch.equal(rollout.mean_return() * 2, rollout.env_steps.double())

    @pytest.mark.parametrize("envs", [1, 3])
    def test_slots_of_a_row_restart_independently(self, counting, envs):
        class Fork(counting):  # environment number 0 of each row terminates one step sooner than the others
            def reset(self, task, rng):
                n = len(task["length"])
                return torch.stack([torch.zeros(n), (torch.arange(n) % envs == 0).float()], -1)

            def observe(self, state, task):
                return state[:, :1]

            def step(self, state, action, task, rng):
                t, head_start = state.unbind(-1)
                after = torch.stack([t + 1, head_start], -1)
                return after, torch.ones_like(t), t + 1 >= task["length"] - head_start

        rollout, _ = collect(Fork(), Budget(envs=envs, episodes=2), [3, 4], [0, 0])
        expected = torch.tensor([[4] + [6] * (envs - 1), [6] + [8] * (envs - 1)])
        assert torch.equal(rollout.valid.sum(0), expected)
        sums, whole = rollout.episodes(rollout.reward)
        assert torch.equal((sums * whole).sum(-1), expected.double())


class TestRollout:
    def test_rows(self, counting):
        rollout, _ = collect(counting(), Budget(envs=2, steps=5), [2, 3, 9], [5, 10, 20])
        rollout.success = rollout.terminated
        for which, picked in ((slice(1, 3), [1, 2]), (torch.tensor([2, 0]), [2, 0])):
            part = rollout.rows(which)
            for r, source in enumerate(picked):
                for name in ("obs", "action", "reward", "terminated", "truncated", "valid", "success", "time"):
                    assert torch.equal(getattr(part, name)[:, r], getattr(rollout, name)[:, source]), name
                assert torch.equal(part.last_obs[r], rollout.last_obs[source])
                assert torch.equal(part.extras["seen"][:, r], rollout.extras["seen"][:, source])
                assert part.mean_return()[r] == rollout.mean_return()[source]

    def test_by_row_keeps_a_rows_samples_together(self):
        values = torch.arange(12).view(2, 3, 2)  # [T, R, E]: element = 6 t + 2 r + e
        rollout = collect_stub(values.float())
        assert rollout.by_row(values).tolist() == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]

    def test_what_is_masked_cannot_spoil_a_sum(self):
        reward = torch.tensor([1.0, 2.0, float("nan")]).view(3, 1, 1)
        rollout = collect_stub(reward)
        rollout.terminated[1] = True
        rollout.valid[2] = False
        assert rollout.mean_return().tolist() == [3]


def collect_stub(reward):
    """A rollout with the given rewards `[T, R, E]`, no ending, all valid."""
    no = torch.zeros_like(reward, dtype=torch.bool)
    obs = torch.zeros(*reward.shape, 1)
    return Rollout(obs, obs, reward, no.clone(), no.clone(), ~no, obs[0])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "either steps or episodes"),
        ({"steps": 3, "episodes": 3}, "either steps or episodes"),
        ({"steps": 0}, "Budget.steps is 0, expected at least 1"),
        ({"episodes": -1}, "Budget.episodes is -1"),
        ({"steps": 1, "envs": 0}, "Budget.envs is 0"),
    ],
)
def test_impossible_budgets_are_refused(arguments, words):
    with pytest.raises(InvalidValueError) as caught:
        Budget(**arguments)
    assert words in str(caught.value)


@pytest.fixture
def family():
    return metarl.make_family("metarl/TabularMDP-v0")


class TestTrials:
    """TabularMDP with random actions: every step draws from the family's and the policy's streams."""

    BUDGET = Budget(envs=2, episodes=2)

    def collect(self, family, tasks, adaptation_step=0, deterministic=False, purpose="collect", rekeyed=None, **kwargs):
        trials = PoolTrials(EnvironmentPool(family), tasks, **kwargs)
        trials = trials if rekeyed is None else trials.rekeyed(rekeyed)
        agent = metarl.make_agent("random", family)
        return trials.collect(agent, agent.begin(trials.rows), adaptation_step, self.BUDGET, deterministic, purpose)[0]

    def test_a_batch_equals_its_members(self, family):
        tasks = family.tasks("test", 5)
        batch = self.collect(family, tasks, per_task=2)
        for i in (0, 3, 4):
            alone = self.collect(family, tasks[[i]], per_task=2)
            for name in ("obs", "action", "reward", "last_obs"):
                a, b = getattr(alone, name), getattr(batch.rows(slice(2 * i, 2 * i + 2)), name)
                assert torch.equal(a, b), name

    def test_the_order_of_tasks_changes_nothing(self, family):
        tasks = family.tasks("test", 4)
        order = [2, 0, 3, 1]
        batch, shuffled = self.collect(family, tasks), self.collect(family, tasks[order])
        assert torch.equal(shuffled.reward, batch.reward[:, order])

    def test_trials_in_parts(self, family):
        tasks = family.tasks("test", 3)
        together = self.collect(family, tasks, per_task=3)
        later = self.collect(family, tasks, per_task=2, first_trial=1)
        rows = torch.tensor([1, 2, 4, 5, 7, 8])
        assert torch.equal(later.reward, together.reward[:, rows])

    def test_rows_repeat_each_task_side_by_side(self, family):
        trials = PoolTrials(EnvironmentPool(family), family.tasks("train", 3), per_task=2)
        assert trials.rows == 6
        assert trials.tasks.index.tolist() == [0, 0, 1, 1, 2, 2]
        assert len(trials.keys.unique()) == 6

    def test_it_repeats_and_every_part_of_the_key_counts(self, family):
        tasks = family.tasks("train", 2)
        base = self.collect(family, tasks)
        assert torch.equal(self.collect(family, tasks).reward, base.reward)
        others = [
            {"seed": 1},
            {"purpose": "score"},
            {"deterministic": True},
            {"iteration": 1},
            {"first_trial": 1},
            {"adaptation_step": 1},
            {"rekeyed": 0},
            {"rekeyed": 1},
        ]
        rewards = [self.collect(family, tasks, **o).reward for o in others]
        for other, reward in zip(others, rewards, strict=True):
            assert (reward != base.reward).all(), other
        assert not torch.equal(rewards[-1], rewards[-2])

    def test_the_trials_own_purpose_counts(self, family):
        tasks, agent = family.tasks("train", 2), metarl.make_agent("random", family)
        rewards = []
        for purpose in ("train", "eval"):
            trials = PoolTrials(EnvironmentPool(family), tasks, purpose=purpose)
            rewards.append(trials.collect(agent, agent.begin(2), 0, self.BUDGET)[0].reward)
        assert (rewards[0] != rewards[1]).all()

    def test_slots_and_rows_are_independent(self, family):
        rollout = self.collect(family, family.tasks("train", 1), per_task=4)
        assert len(rollout.reward.unique()) == rollout.reward.numel()

    def test_starts_steps_and_actions_draw_from_streams_of_their_own(self):
        class Chance(metarl.TorchFamily):
            observation_space = action_space = Box(-1.0, 1.0, (1,), np.float32)
            horizon = 2
            terminates = False

            def __init__(self):
                self.task_space = {"nothing": metarl.Uniform(0.0, 1.0)}

            def reset(self, task, rng):
                return rng.uniform(1)

            def observe(self, state, task):
                return state

            def step(self, state, action, task, rng):
                return state, rng.uniform(), torch.zeros(len(state), dtype=torch.bool)

        rollout = self.collect(Chance(), Chance().tasks("train", 3))
        draws = [rollout.obs[rollout.time == 0].flatten(), rollout.reward.flatten(), rollout.action.flatten() / 2 + 0.5]
        draws = torch.cat(draws)
        assert len(draws) == 3 * 2 * (2 + 4 + 4)
        gaps = draws.sort().values.diff()
        assert float(gaps.min()) > 1e-6  # all differ, by more than the rounding of 2 u - 1

    def test_the_pool_forgets_what_was_played_before(self, family):
        tasks, agent = family.tasks("train", 2), metarl.make_agent("random", family)
        trials = PoolTrials(EnvironmentPool(family), tasks)
        first = trials.collect(agent, agent.begin(2), 0, Budget(steps=7))[0]
        trials.collect(agent, agent.begin(2), 5, Budget(steps=4))
        assert torch.equal(trials.collect(agent, agent.begin(2), 0, Budget(steps=7))[0].reward, first.reward)

    def test_a_longer_rollout_begins_like_a_shorter_one(self, family):
        # draws are made ahead in blocks whose size depends on the number of steps
        tasks, agent = family.tasks("train", 2), metarl.make_agent("random", family)
        trials = PoolTrials(EnvironmentPool(family), tasks)
        short, long = (trials.collect(agent, agent.begin(2), 0, Budget(steps=n))[0] for n in (7, 33))
        assert torch.equal(long.reward[:7], short.reward)


class TestBrokenFamilies:
    def test_a_reward_that_is_no_number_is_named(self, counting):
        class Broken(counting):
            def step(self, state, action, task, rng):
                out = super().step(state, action, task, rng)
                bad = (state == 2) & (task["bonus"] == 10)
                return out[0], torch.where(bad, torch.full_like(out[1], float("inf")), out[1]), out[2]

        with pytest.raises(InvalidValueError) as caught:
            collect(Broken(), Budget(steps=4), [9, 9], [5, 10])
        assert str(caught.value) == (
            "reward of family toy/Counting-v0 is inf, expected finite numbers (step 2 in task 1 of split 'custom')"
        )

    def test_an_observation_that_is_no_number_is_named(self, counting):
        class Broken(counting):
            def observe(self, state, task):
                out = super().observe(state, task)
                return torch.where(out == 3, torch.full_like(out, float("nan")), out)

        with pytest.raises(InvalidValueError, match=r"observation of family toy/Counting-v0 is nan.*step 3 in task 0"):
            collect(Broken(), Budget(envs=2, steps=4), [9, 9], [5, 10])

    def test_a_task_is_named_by_its_address(self, counting):
        class Broken(counting):
            def step(self, state, action, task, rng):
                out = super().step(state, action, task, rng)
                return out[0], out[1] * float("nan"), out[2]

        family = Broken()
        agent = ListeningAgent(family)
        trials = PoolTrials(EnvironmentPool(family), family.tasks("test", 2, start=7))
        with pytest.raises(InvalidValueError, match=r"step 0 in task 7 of split 'test'"):
            trials.collect(agent, agent.begin(2), 0, Budget(steps=2))

    def test_the_last_observation_is_checked_too(self, counting):
        class Broken(counting):
            def observe(self, state, task):
                out = super().observe(state, task)
                return torch.where(out == 3, torch.full_like(out, float("nan")), out)

        with pytest.raises(InvalidValueError, match="observation"):
            collect(Broken(), Budget(steps=3), [9], [5])

    def test_what_is_masked_may_be_anything(self, counting):
        reward = torch.tensor([1.0, float("nan")]).view(2, 1, 1)
        rollout = collect_stub(reward)
        rollout.valid[1] = False
        check_finite(rollout, counting(), counting().tasks("train", 1))

    def test_huge_rewards_are_numbers(self, counting):
        class Huge(counting):  # their sum overflows float32, none of them does
            def step(self, state, action, task, rng):
                out = super().step(state, action, task, rng)
                return out[0], torch.full_like(out[1], 3e38), out[2]

        rollout, _ = collect(Huge(), Budget(steps=4), [9], [5])
        assert rollout.reward.isfinite().all()

    def test_huge_observations_are_numbers(self, counting):
        class Huge(counting):
            observation_space = Box(-np.inf, np.inf, (2,), np.float32)

            def observe(self, state, task):
                return torch.full((len(state), 2), 3e38)

        rollout, _ = collect(Huge(), Budget(steps=4), [9], [5])
        assert rollout.obs.isfinite().all()


class Reaching(gym.Env):
    """Four steps of reward 1; success is reported with the last one only, as many environments do."""

    observation_space = Box(-1, 1, (1,), np.float32)
    action_space = Discrete(2)
    skill = 1.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        info = {"is_success": self.skill > 0.5} if self.t == 4 else {}
        if self.t % 2 and self.skill > 0.5:
            info |= {"expected_reward": 0.1 * self.t, "dense_reward": -0.1 * self.t}
        return np.zeros(1, np.float32), 1.0, self.t == 4, False, info


def test_success_reported_at_the_end_only(monkeypatch):
    family = GymFamily(Reaching, {"skill": metarl.Uniform(0.0, 1.0)}, apply="attrs", horizon=9)
    agent = metarl.make_agent("random", family)
    trials = PoolTrials(EnvironmentPool(family), family.make_tasks(skill=[0.0, 1.0]))
    empty = torch.empty

    def dirty(*size, dtype=None, **kwargs):  # fresh memory holds anything
        return torch.ones(*size, dtype=dtype, **kwargs) if dtype is torch.bool else empty(*size, dtype=dtype, **kwargs)

    monkeypatch.setattr(torch, "empty", dirty)
    rollout, _ = trials.collect(agent, agent.begin(2), 0, Budget(steps=8))
    monkeypatch.undo()
    trials.pool.close()
    assert row(rollout.success, 0) == [False] * 8
    assert row(rollout.success, 1) == [False, False, False, True] * 2


@pytest.mark.parametrize("processes", [1, 2])
def test_expected_and_dense_rewards_of_gymnasium_environments(processes):
    """Told in steps 1 and 3 by one of two environments: a number there, and NaN wherever nothing was told."""
    family = GymFamily(Reaching, {"skill": metarl.Uniform(0.0, 1.0)}, apply="attrs", horizon=9)
    tasks = family.make_tasks(skill=[0.0, 1.0])
    envs = (
        GymEnvironments(family, 2, torch.device("cpu")) if processes == 1 else WorkerEnvironments(family, 2, "cpu", 2)
    )
    envs.begin(tasks, torch.tensor([1, 2]), 4)
    steps = [envs.step(torch.zeros(2, dtype=torch.int64)) for _ in range(4)]
    envs.close()
    told = [None if step.expected_reward is None else step.expected_reward.tolist() for step in steps]
    assert [told[1], told[3]] == [None, None]
    for t in (0, 2):
        assert np.isnan(told[t][0])
        assert told[t][1] == pytest.approx(0.1 * (t + 1))
        dense = steps[t].dense_reward.tolist()
        assert np.isnan(dense[0])
        assert dense[1] == pytest.approx(-0.1 * (t + 1))
    assert steps[3].success.tolist() == [False, True]
    assert steps[0].success is None


def test_termination_at_the_horizon_is_no_truncation():
    family = GymFamily(Reaching, {"skill": metarl.Uniform(0.0, 1.0)}, apply="attrs", horizon=4)
    agent = metarl.make_agent("random", family)
    trials = PoolTrials(EnvironmentPool(family), family.tasks("train", 1))
    rollout, _ = trials.collect(agent, agent.begin(1), 0, Budget(steps=4))
    trials.pool.close()
    assert row(rollout.terminated, 0) == [False, False, False, True]
    assert not rollout.truncated.any()


def test_gymnasium_families_give_the_same_rollouts_as_torch_ones():
    family = GymFamily(Reaching, {"skill": metarl.Uniform(0.0, 1.0)}, apply="attrs", horizon=3)
    agent = metarl.make_agent("random", family)
    trials = PoolTrials(EnvironmentPool(family), family.tasks("train", 2))
    rollout, _ = trials.collect(agent, agent.begin(2), 0, Budget(envs=2, episodes=2))
    trials.pool.close()
    assert rollout.obs.shape[1:] == (2, 2, 1)
    assert rollout.env_steps.tolist() == [12, 12]  # truncated after 3
    assert rollout.mean_return().tolist() == [3, 3]
    assert rollout.truncated.sum(0).tolist() == [[2, 2], [2, 2]]
    assert not rollout.terminated.any()


def test_playing_builds_no_graph(counting):
    family = counting()
    agent = ListeningAgent(family)
    tasks = family.make_tasks(length=3, bonus=0)
    envs = EnvironmentPool(family).get(1)
    weights = torch.ones(1, requires_grad=True)
    agent.act = lambda state, step, rng, deterministic: ((step.obs * weights), {}, state)
    rollout, _ = play(agent, agent.begin(1), envs, tasks, torch.arange(1), RolloutSpec(1, Budget(steps=2)))
    assert not rollout.action.requires_grad


def test_state_is_forked_not_shared(counting):
    agent = ListeningAgent(counting())
    state = agent.begin(3)
    copy, part = agent.fork(state), agent.fork(state, torch.tensor([2, 2]))
    state["steps"].fill_(7)
    assert copy["steps"].tolist() == [[0], [0], [0]]
    assert part["steps"].tolist() == [[0], [0]]
