"""The engine that steps environments, and the vector environment over it, against known rewards and endings.

The `counting` family pays `bonus` + t at time t, shows t, terminates with step number `length` and is truncated after
`horizon` = 4 steps.
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode

import metarl
from metarl import GymFamily, InvalidValueError, MetaEnv, MetaVectorEnv, TorchFamily
from metarl.devices import resolve_device
from metarl.engine.gym_environments import GymEnvironments
from metarl.engine.pool import make_environments
from metarl.engine.torch_environments import TorchEnvironments
from metarl.families.gym_family import task_dict
from metarl.interop.facades import make_env, make_vec_env
from metarl.rng import fold_in, make_key

CPU = torch.device("cpu")


def lists(*arrays):
    return [np.asarray(a).tolist() for a in arrays]


def still(n):
    return np.zeros((n, 1), dtype=np.float32)


class TestTorchSlots:
    def test_rewards_endings_and_restarts(self, counting):
        envs = TorchEnvironments(counting(), 3, CPU)
        tasks = envs.family.make_tasks(length=[2, 3, 40], bonus=[5, 10, 20])
        assert envs.begin(tasks, torch.arange(3), 10).tolist() == [[0], [0], [0]]
        # obs (after any restart), reward, terminated, truncated, final_obs: lengths 2, 3 and 4 (truncated)
        expected = [
            ([1, 1, 1], [5, 10, 20], [0, 0, 0], [0, 0, 0], [1, 1, 1]),
            ([0, 2, 2], [6, 11, 21], [1, 0, 0], [0, 0, 0], [2, 2, 2]),
            ([1, 0, 3], [5, 12, 22], [0, 1, 0], [0, 0, 0], [1, 3, 3]),
            ([0, 1, 0], [6, 10, 23], [1, 0, 0], [0, 0, 1], [2, 1, 4]),
            ([1, 2, 1], [5, 11, 20], [0, 0, 0], [0, 0, 0], [1, 2, 1]),
        ]
        for t, (obs, reward, terminated, truncated, final_obs) in enumerate(expected):
            out = envs.step(torch.zeros(3, 1))
            assert out.obs.flatten().tolist() == obs, t
            assert out.reward.tolist() == reward, t
            assert out.terminated.tolist() == [bool(x) for x in terminated], t
            assert out.truncated.tolist() == [bool(x) for x in truncated], t
            assert out.final_obs.flatten().tolist() == final_obs, t
            assert out.success is None

    def test_termination_at_the_horizon_is_no_truncation(self, counting):
        envs = TorchEnvironments(counting(), 1, CPU)
        envs.begin(envs.family.make_tasks(length=4, bonus=0), torch.arange(1), 4)
        for _ in range(4):
            out = envs.step(torch.zeros(1, 1))
        assert (out.terminated.tolist(), out.truncated.tolist()) == ([True], [False])

    def test_begin_forgets_what_was_played(self, counting):
        envs = TorchEnvironments(counting(), 1, CPU)
        for length in (3, 2, 3):
            tasks = envs.family.make_tasks(length=length, bonus=0)
            assert envs.begin(tasks, torch.arange(1), 9).tolist() == [[0]]
            ends = [bool(envs.step(torch.zeros(1, 1)).terminated) for _ in range(5)]
            assert ends == [(t + 1) % length == 0 for t in range(5)]

    def test_begin_restarts_the_clock_of_the_horizon(self, counting):
        envs = TorchEnvironments(counting(), 1, CPU)
        tasks = envs.family.make_tasks(length=9, bonus=0)
        for _ in range(2):
            envs.begin(tasks, torch.arange(1), 9)
            assert [bool(envs.step(torch.zeros(1, 1)).truncated) for _ in range(7)] == [False] * 3 + [True] + [
                False
            ] * 3

    def test_not_looking_for_terminations_changes_nothing(self):
        # PointNavigation's sparse form never terminates, and says so; told otherwise, the engine looks, and finds none
        runs = []
        for terminates in (False, True):
            family = metarl.make_family("metarl/PointNavigation-v0:corners", horizon=3)
            family.terminates = terminates
            envs = TorchEnvironments(family, 4, CPU)
            obs = [envs.begin(family.tasks("train", 4), fold_in(make_key("k"), torch.arange(4)), 8)]
            outs = [envs.step(torch.full((4, 2), 0.1)) for _ in range(8)]
            runs.append([*obs, *(x for out in outs for x in out[:5])])
        assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
        truncations = [bool(out.truncated.all()) for out in outs]
        assert truncations == [False, False, True, False, False, True, False, False]

    def test_episodes_of_a_slot_differ_and_repeat_with_their_keys(self):
        family = metarl.make_family("metarl/PointNavigation-v0:corners", horizon=2)
        envs, tasks = TorchEnvironments(family, 2, CPU), family.tasks("train", 2)
        starts = []
        for keys in (torch.tensor([1, 2]), torch.tensor([1, 2]), torch.tensor([2, 1])):
            episodes = [envs.begin(tasks, keys, 4)]
            episodes += [envs.step(torch.zeros(2, 2)).obs for _ in range(4)][1::2]
            starts.append(torch.stack(episodes))
        assert len(starts[0].flatten(0, 1).unique(dim=0)) == 6  # 3 episodes of 2 environments, all random starts differ
        assert torch.equal(starts[0], starts[1])
        assert torch.equal(starts[0], starts[2].flip(1))

    @pytest.mark.parametrize(
        ("method", "value", "words"),
        [
            (
                "observe",
                torch.zeros(2),
                ["shape of the observation of Wrong.observe", "(2,)", "(2, 1), environments first"],
            ),
            ("observe", np.zeros((2, 1)), ["observation of Wrong.observe", "a tensor of shape (2, 1)"]),
            ("reward", torch.zeros(2, 1), ["shape of the reward of Wrong.step", "(2, 1)", "(2,)"]),
            ("reward", 0.0, ["reward of Wrong.step", "0.0", "a tensor"]),
            ("terminated", torch.zeros(2), ["dtype of the terminated of Wrong.step", "torch.float32", "torch.bool"]),
            ("terminated", torch.zeros(1, dtype=torch.bool), ["shape of the terminated of Wrong.step", "(1,)", "(2,)"]),
        ],
    )
    def test_wrong_shapes_and_dtypes_are_named(self, counting, method, value, words):
        class Wrong(counting):
            def observe(self, state, task):
                return value if method == "observe" else super().observe(state, task)

            def step(self, state, action, task, rng):
                out = dict(zip(("state", "reward", "terminated"), super().step(state, action, task, rng), strict=True))
                return tuple({**out, **({method: value} if method in out else {})}.values())

        envs = TorchEnvironments(Wrong(), 2, CPU)
        tasks = envs.family.make_tasks(length=[2, 2], bonus=[0, 0])

        def play():
            envs.begin(tasks, torch.arange(2), 3)
            envs.step(torch.zeros(2, 1))

        with pytest.raises(InvalidValueError) as caught:
            play()
        assert all(w in str(caught.value) for w in [*words, "toy/Counting-v0"])

    def test_the_state_may_be_a_dict_or_a_tuple(self, counting):
        class Nested(counting):
            def reset(self, task, rng):
                return {"t": super().reset(task, rng), "pair": (task["bonus"], torch.zeros(len(task["bonus"]), 2, 3))}

            def observe(self, state, task):
                return state["t"].unsqueeze(1)

            def step(self, state, action, task, rng):
                t, reward, terminated = super().step(state["t"], action, task, rng)
                return {"t": t, "pair": (state["pair"][0], state["pair"][1] + 1)}, reward, terminated

        envs = TorchEnvironments(Nested(), 2, CPU)
        envs.begin(envs.family.make_tasks(length=[2, 3], bonus=[0, 0]), torch.arange(2), 9)
        for _ in range(5):
            out = envs.step(torch.zeros(2, 1))
        assert out.obs.flatten().tolist() == [1, 2]
        assert envs.state["pair"][1][:, 0, 0].tolist() == [1, 2]  # restarted with the episode

    def test_agents_and_gymnasium_agree_on_a_discrete_space_that_starts_elsewhere(self, counting):
        # a family sees actions from 0, whoever sends them
        class Offset(counting):
            action_space = Discrete(2, start=5)

            def step(self, state, action, task, rng):
                return state + 1, action.float(), state < 0

        agent = metarl.make_agent("random", Offset())
        trials = metarl.engine.rollout.PoolTrials(
            metarl.engine.pool.EnvironmentPool(agent.family), agent.family.tasks("train", 20)
        )
        rollout, _ = trials.collect(agent, agent.begin(20), 0, metarl.Budget(steps=1))
        assert set(rollout.reward.flatten().tolist()) == {0, 1}
        env = MetaEnv(Offset())
        assert env.action_space == Discrete(2, start=5)
        env.reset(seed=0)
        assert [env.step(action)[1] for action in (5, 6, np.int64(5))] == [0, 1, 0]


def vector(counting, mode=AutoresetMode.NEXT_STEP, **kwargs):
    env = MetaVectorEnv(counting(), 2, autoreset_mode=mode, **kwargs)
    env.tasks = env.family.make_tasks(length=[2, 3], bonus=[5, 10])
    return env


def reporting(counting):
    """The same family, an end counted as a success."""

    class Reporting(counting):
        def step(self, state, action, task, rng):
            out = super().step(state, action, task, rng)
            return (*out, {"success": out[2]})

    return Reporting


class TestAutoreset:
    """Two environments of 2 and 3 steps, bonus 5 and 10."""

    def test_next_step_inserts_a_step(self, counting):
        env = vector(counting)
        assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
        obs, info = env.reset(seed=0)
        assert lists(obs) == [[[0], [0]]]
        assert info == {}
        # environment 0 ends with step 2 and is reset by step 3; environment 1 ends with step 3 and is reset by step 4
        expected = [
            ([1, 1], [5, 10], [0, 0]),
            ([2, 2], [6, 11], [1, 0]),
            ([0, 3], [0, 12], [0, 1]),
            ([1, 0], [5, 0], [0, 0]),
            ([2, 1], [6, 10], [1, 0]),
            ([0, 2], [0, 11], [0, 0]),
        ]
        for obs, reward, terminated in expected:
            out = env.step(still(2))
            assert lists(out[0].ravel(), out[1], out[2], out[3]) == [
                obs,
                reward,
                [bool(x) for x in terminated],
                [False] * 2,
            ]

    def test_the_inserted_step_ignores_its_action(self, counting):
        class Moving(counting):
            def step(self, state, action, task, rng):
                return state + 1, action[:, 0] * 100, state + 1 >= task["length"]

        env = vector(Moving)
        env.reset(seed=0)
        env.step(still(2))
        env.step(still(2))
        obs, reward, *_ = env.step(np.array([[np.nan], [1.0]], dtype=np.float32))
        assert lists(obs.ravel(), reward) == [[0, 3], [0, 100]]
        obs, reward, *_ = env.step(still(2))
        assert lists(obs.ravel(), reward) == [[1, 0], [0, 0]]

    def test_same_step_gives_the_final_observation(self, counting):
        env = vector(counting, "SameStep")
        env.reset(seed=0)
        obs, _, _, _, info = env.step(still(2))
        assert "final_obs" not in info
        obs, reward, terminated, _, info = env.step(still(2))
        assert lists(obs.ravel(), reward, terminated) == [[0, 2], [6, 11], [True, False]]
        assert lists(info["final_obs"][0], info["_final_obs"]) == [[2], [True, False]]
        obs, reward, terminated, _, info = env.step(still(2))
        assert lists(obs.ravel(), reward, terminated) == [[1, 0], [5, 12], [False, True]]
        assert lists(info["final_obs"][1], info["_final_obs"]) == [[3], [False, True]]
        obs, reward, terminated, *_ = env.step(still(2))
        assert lists(obs.ravel(), reward, terminated) == [[0, 1], [6, 10], [True, False]]

    def test_disabled_asks_for_a_reset_and_resets_what_the_mask_says(self, counting):
        env = vector(counting, AutoresetMode.DISABLED)
        env.reset(seed=0)
        env.step(still(2))
        obs, _, terminated, *_ = env.step(still(2))
        assert lists(obs.ravel(), terminated) == [[2, 2], [True, False]]
        with pytest.raises(gym.error.ResetNeeded, match=r"environments \[0\] have finished"):
            env.step(still(2))
        obs, _ = env.reset(options={"reset_mask": np.array([True, False])})
        assert lists(obs.ravel()) == [[0, 2]]
        obs, reward, terminated, *_ = env.step(still(2))
        assert lists(obs.ravel(), reward, terminated) == [[1, 3], [5, 12], [False, True]]
        env.reset(options={"reset_mask": np.array([True, True])})
        assert lists(env.step(still(2))[1]) == [[5, 10]]

    def test_disabled_asks_for_a_reset_of_every_finished_one(self, counting):
        env = vector(counting, AutoresetMode.DISABLED)
        env.tasks = env.family.make_tasks(length=[1, 1], bonus=[5, 10])
        env.reset(seed=0)
        env.step(still(2))
        env.reset(options={"reset_mask": np.array([True, False])})
        with pytest.raises(gym.error.ResetNeeded, match=r"environments \[1\] have finished"):
            env.step(still(2))

    def test_a_reset_without_a_mask_restarts_all(self, counting):
        for mode in AutoresetMode:
            env = vector(counting, mode)
            env.reset(seed=0)
            for _ in range(2):
                env.step(still(2))
            assert lists(env.reset()[0].ravel()) == [[0, 0]]
            assert lists(env.step(still(2))[1]) == [[5, 10]], mode  # no inserted step is left over

    def test_a_seeded_reset_honours_the_mask(self, counting):
        env = vector(counting, AutoresetMode.DISABLED)
        env.reset(seed=0)
        for _ in range(2):
            env.step(still(2))
        obs, _ = env.reset(seed=[3, None], options={"reset_mask": np.array([True, False])})
        assert lists(obs.ravel()) == [[0, 2]]

    def test_truncation_is_told_apart(self, counting):
        env = MetaVectorEnv(counting(), 1, task={"length": 9, "bonus": 0})
        env.reset(seed=0)
        endings = [lists(*env.step(still(1))[2:4]) for _ in range(4)]
        assert endings == [[[False], [False]]] * 3 + [[[False], [True]]]

    def test_stepping_comes_after_a_reset(self, counting):
        with pytest.raises(gym.error.ResetNeeded, match="reset"):
            vector(counting).step(still(2))

    def test_gymnasium_counts_the_same_returns(self, counting):
        # Gymnasium's own wrapper relies on the contract of NEXT_STEP: 5 + 6 = 11 and 10 + 11 + 12 = 33, 2 and 3 steps
        env = gym.wrappers.vector.RecordEpisodeStatistics(vector(counting))
        env.reset(seed=0)
        for _ in range(9):
            env.step(still(2))
        assert sorted(env.return_queue) == [11, 11, 11, 33, 33]
        assert sorted(env.length_queue) == [2, 2, 2, 3, 3]

    @pytest.mark.parametrize("mode", ["SameStep", "NextStep"])
    def test_it_is_what_gymnasium_makes_of_single_environments(self, counting, mode):
        env, (tasks, family) = vector(counting, mode), (vector(counting).tasks, counting())
        other = gym.vector.SyncVectorEnv([lambda i=i: MetaEnv(family, tasks[i]) for i in range(2)], autoreset_mode=mode)
        assert lists(env.reset(seed=0)[0]) == lists(other.reset(seed=0)[0])
        for _ in range(12):
            a, b = env.step(still(2)), other.step(still(2))
            assert lists(*a[:4]) == lists(*b[:4])

    @pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
    def test_infos_are_what_gymnasium_makes_of_single_environments(self, counting, mode):
        env, (tasks, family) = vector(reporting(counting), mode), (vector(counting).tasks, reporting(counting)())
        other = gym.vector.SyncVectorEnv([lambda i=i: MetaEnv(family, tasks[i]) for i in range(2)], autoreset_mode=mode)
        env.reset(seed=0)
        other.reset(seed=0)

        def told(info):
            """What each environment said, without what the arrays hold for those that said nothing."""
            out = {}
            for name, mask in ((k, info["_" + k]) for k in info if not k.startswith("_")):
                value = info[name]
                said = told(value) if isinstance(value, dict) else [np.asarray(x).tolist() for x in value[mask]]
                if mask.any():
                    out[name] = (mask.tolist(), said)
            return out

        for t in range(12):
            assert told(env.step(still(2))[4]) == told(other.step(still(2))[4]), t

    def test_success_is_reported(self, counting):
        Reporting = reporting(counting)
        env = vector(Reporting)
        env.reset(seed=0)
        env.step(still(2))
        *_, info = env.step(still(2))
        assert lists(info["success"], info["_success"]) == [[True, False], [True, True]]
        single = MetaEnv(Reporting(), {"length": 1, "bonus": 0})
        single.reset(seed=0)
        assert single.step(still(1)[0])[4] == {"success": True}

    def test_arrays_are_the_callers_to_keep(self, counting):
        env = vector(counting)
        first, _ = env.reset(seed=0)
        second, reward, terminated, truncated, _ = env.step(still(2))
        kept = lists(first, second, reward, terminated, truncated)
        for _ in range(5):
            env.step(still(2))
        assert lists(first, second, reward, terminated, truncated) == kept
        terminated[:] = True  # nor does writing into them reach the environment
        second[:] = 99
        assert float(env.reset()[0].max()) == 0.0


class TestMetaVectorEnv:
    def test_spaces_and_dtypes(self):
        env = MetaVectorEnv("metarl/TabularMDP-v0", 3)
        assert env.single_observation_space == Box(0, 1, (10,), np.float32)
        assert env.observation_space.shape == (3, 10)
        obs, _ = env.reset(seed=0)
        assert env.observation_space.contains(obs)
        obs, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        assert env.observation_space.contains(obs)
        assert [x.dtype for x in (reward, terminated, truncated)] == [np.float64, np.bool_, np.bool_]

    def test_tasks_by_default_are_the_first_of_the_split(self):
        env = MetaVectorEnv("metarl/PointNavigation-v0", 3, split="test", task_seed=4)
        assert env.tasks.values["goal"].tolist() == env.family.tasks("test", 3, seed=4).values["goal"].tolist()

    def test_tasks_by_index_dict_or_set(self):
        family = metarl.make_family("metarl/PointNavigation-v0")
        tasks = family.tasks("train", 7)
        by_index = MetaVectorEnv(family, 2, task=5)
        assert by_index.tasks.values["goal"].tolist() == [tasks.values["goal"][5].tolist()] * 2
        by_dict = MetaVectorEnv(family, 2, task={"goal": [0.25, -0.25]})
        assert by_dict.tasks.values["goal"].tolist() == [[0.25, -0.25]] * 2
        by_set = MetaVectorEnv(family, 2, task=tasks[[3, 1]])
        assert by_set.tasks.index.tolist() == [3, 1]
        with pytest.raises(InvalidValueError, match="number of tasks is 3, expected 1 or num_envs = 2"):
            MetaVectorEnv(family, 2, task=tasks[:3])
        with pytest.raises(InvalidValueError, match="device is 'gpu', expected"):
            MetaVectorEnv(family, 2, device="gpu")
        assert MetaVectorEnv(family, 2, device="auto").envs.device == resolve_device("auto")
        with pytest.raises(InvalidValueError, match="task is 'first', expected an index"):
            MetaVectorEnv(family, 2, task="first")

    def test_wrong_arguments_are_named(self, counting):
        with pytest.raises(InvalidValueError, match=r"redraw is 'episodes'.*did you mean 'episode'"):
            MetaVectorEnv(counting(), 2, redraw="episodes")
        with pytest.raises(InvalidValueError, match="keyword of metarl/PointNavigation-v0 is 'horizn'"):
            MetaVectorEnv("metarl/PointNavigation-v0", 2, horizn=3)
        with pytest.raises(InvalidValueError, match="split is 'tets'"):
            MetaVectorEnv(counting(), 2, split="tets")

    def test_never_redraws_unless_told(self, counting):
        env = MetaVectorEnv(counting(), 3)
        env.reset(seed=0)
        before = env.tasks.hash
        for _ in range(20):
            env.step(still(3))
        env.reset()
        env.reset(seed=1)
        assert env.tasks.hash == before
        assert env.envs.task["length"].tolist() == env.tasks.values["length"].tolist()

    @pytest.mark.parametrize("mode", ["SameStep", "Disabled", "NextStep"])
    def test_redraw_goes_to_a_next_task_each_episode(self, mode, counting):
        # a horizon of 1 ends every episode; environment i plays tasks i, i + 2, i + 4, ... of the split
        env = MetaVectorEnv(counting(horizon=1), 2, redraw="episode", autoreset_mode=mode)
        bonus = env.family.tasks("train", 8).values["bonus"].reshape(4, 2).tolist()
        for _ in range(2):  # and a seeded reset begins anew
            env.reset(seed=3)
            played = []
            while len(played) < 4:
                _, reward, terminated, truncated, _ = env.step(still(2))
                if (terminated | truncated).all():
                    played.append(reward.tolist())
                    if mode == "Disabled":
                        env.reset(options={"reset_mask": np.array([True, True])})
            assert played == bonus

    def test_redraw_leaves_running_episodes_in_their_task(self, counting):
        class Slow(counting):  # environment 1 always goes on to the horizon of 4
            def step(self, state, action, task, rng):
                return state + 1, task["bonus"], torch.arange(len(state)) == 0

        env = MetaVectorEnv(Slow(), 2, redraw="episode", autoreset_mode="SameStep")
        bonus = env.family.tasks("train", 10).values["bonus"].tolist()
        env.reset(seed=0)
        rewards = [env.step(still(2))[1].tolist() for _ in range(5)]
        assert [r[0] for r in rewards] == [bonus[0], bonus[2], bonus[4], bonus[6], bonus[8]]
        assert [r[1] for r in rewards] == [bonus[1]] * 4 + [bonus[3]]

    def test_options_change_the_task(self, counting):
        env = MetaVectorEnv(counting(), 2, task={"length": 3, "bonus": 1})
        env.reset(seed=0)
        assert env.step(still(2))[1].tolist() == [1, 1]
        env.reset(options={"task": {"length": 3, "bonus": 7}})
        assert env.step(still(2))[1].tolist() == [7, 7]
        env.reset(seed=5)  # it stays
        assert env.step(still(2))[1].tolist() == [7, 7]

    def test_seeds_reproduce_and_differ(self):
        def play(seed):
            env = MetaVectorEnv("metarl/TabularMDP-v0", 4, task=0)
            obs, _ = env.reset(seed=seed)
            outs = [env.step(np.array([0, 1, 2, 3])) for _ in range(25)]
            return np.concatenate([obs, *(o[0] for o in outs)]), np.stack([o[1] for o in outs])

        (obs_a, reward_a), (obs_b, reward_b), (_, reward_c) = play(7), play(7), play(8)
        assert np.array_equal(obs_a, obs_b)
        assert np.array_equal(reward_a, reward_b)
        assert (reward_a[:10] != reward_c[:10]).all()  # up to the horizon
        assert len(np.unique(reward_a[0])) == 4  # environments are independent in one task

    def test_a_list_of_seeds_reproduces(self):
        env = MetaVectorEnv("metarl/PointNavigation-v0:corners", 2, task=0)
        first, _ = env.reset(seed=[1, 2])
        again, _ = env.reset(seed=[1, 2])
        other, _ = env.reset(seed=[1, 3])
        assert np.array_equal(first, again)
        assert not np.array_equal(first[1], other[1])

    def test_unseeded_environments_differ(self):
        a, b = (MetaVectorEnv("metarl/PointNavigation-v0:corners", 2).reset()[0] for _ in range(2))
        assert not np.array_equal(a, b)

    def test_the_first_of_a_vector_equals_a_single_environment(self):
        env, single = MetaVectorEnv("metarl/TabularMDP-v0", 3, task=2), MetaEnv("metarl/TabularMDP-v0", 2)
        many, one = env.reset(seed=5)[0], single.reset(seed=5)[0]
        assert np.array_equal(many[0], one)
        for t in range(10):
            out, alone = env.step(np.full(3, t % 5)), single.step(t % 5)
            assert np.array_equal(out[0][0], alone[0])
            assert [x[0] for x in out[1:4]] == list(alone[1:4])

    @pytest.mark.parametrize("seed", [5, [5, 6, 7]])
    def test_every_environment_equals_a_single_one_with_its_seed(self, seed):
        # Gymnasium: an integer means [seed, seed + 1, ...], a list one seed for each
        many, _ = MetaVectorEnv("metarl/PointNavigation-v0:corners", 3, task=0).reset(seed=seed)
        for i in range(3):
            one, _ = MetaEnv("metarl/PointNavigation-v0", 0, **CORNERS).reset(seed=5 + i)
            assert np.array_equal(many[i], one)

    def test_float64_actions_play_what_float32_ones_do(self):
        outs = []
        for dtype in (np.float32, np.float64):
            env = MetaVectorEnv("metarl/PointNavigation-v0", 1, task={"goal": [0.3, -0.2]})
            env.reset(seed=0)
            action = np.array([[0.07, 0.033]], dtype=np.float32).astype(dtype)
            outs.append([env.step(action)[1][0] for _ in range(3)])
            assert env.envs.state.dtype == torch.float32
        assert outs[0] == outs[1]

    def test_integer_actions_of_any_kind(self):
        env = MetaEnv("metarl/BernoulliBandit-v0", task={"p": [0, 1, 0, 0, 0]})
        for action in (1, np.int64(1), np.int32(1), np.array(1)):
            env.reset(seed=0)
            assert env.step(action)[1] == 1.0

    def test_any_gymnasium_families_are_served_elsewhere(self):
        family = GymFamily("CartPole-v1", {"length": metarl.Uniform(0.4, 0.6)}, apply="attrs")
        with pytest.raises(InvalidValueError, match=r"expected a torch family; gym\.make_vec serves the other form"):
            MetaVectorEnv(family)
        with pytest.raises(InvalidValueError, match="a TorchFamily or a GymFamily"):
            make_environments(metarl.Family(), 1)


CORNERS = dict(metarl.make_family("metarl/PointNavigation-v0:corners").presets["corners"])


class Walk(gym.Env):
    """A line: an action in {2, 3, 4} moves by -1, 0, 1, times `speed`; starts at a random place, ends beyond 3.

    How `speed` arrives depends on the test: constructor, attribute, `set_task` or `reset(options=...)`.
    """

    observation_space = Box(-100, 100, (2,), np.float32)
    action_space = Discrete(3, start=2)
    built = 0

    def __init__(self, speed=1.0, limit=3.0):
        Walk.built += 1
        self.speed, self.limit = speed, limit

    def set_task(self, task):
        self.speed = task["speed"]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.speed = (options or {}).get("speed", self.speed)
        self.x = self.np_random.uniform(-1, 1)
        return self._obs(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.x += (int(action) - 3) * self.speed
        return self._obs(), -abs(self.x), abs(self.x) > self.limit, False, {"is_success": abs(self.x) < 0.5}

    def _obs(self):
        return np.array([self.x, self.speed], dtype=np.float32)


APPLY = {
    "options": "options",
    "set_task": "set_task",
    "kwargs": "kwargs",
    "attrs": "attrs",
    "callable": lambda env, task: env.unwrapped.set_task(task),
}
SPEED = {"speed": metarl.Uniform(0.25, 2.0)}


@pytest.fixture(params=APPLY, ids=str)
def walks(request):
    """The same family, with every way to apply a task."""
    return GymFamily(Walk, SPEED, apply=APPLY[request.param], horizon=5)


class TestGymFamily:
    def test_a_task_reaches_the_environment_before_each_episode(self, walks):
        env = walks.make_env(walks.make_tasks(speed=0.5))
        for seed in (0, None, 1):
            obs, _ = env.reset(seed=seed)
            assert obs[1] == 0.5
            after = env.step(4)[0]
            assert after[0] - obs[0] == pytest.approx(0.5)
        env.set_metarl_task({"speed": 1.5})
        assert env.reset(seed=0)[0][1] == 1.5
        env.set_metarl_task({"speed": 0.5})  # twice equals once
        env.set_metarl_task({"speed": 0.5})
        assert env.reset(seed=0)[0][1] == 0.5
        env.close()

    def test_options_of_the_caller_do_not_replace_the_task(self):
        walks = GymFamily(Walk, SPEED, apply="options", horizon=5)
        env = walks.make_env(walks.make_tasks(speed=0.5))
        assert env.reset(seed=0, options={"speed": 2.0, "more": 1})[0][1] == 0.5

    def test_the_horizon_truncates(self, walks):
        env = walks.make_env(walks.make_tasks(speed=0.25))
        env.reset(seed=0)
        assert [env.step(3)[2:4] for _ in range(5)] == [(False, False)] * 4 + [(False, True)]

    def test_slots_play_what_single_environments_play(self, walks):
        """Against environments stepped by hand, restarted with the seed of their environment's key and clock."""
        n, steps = 3, 12
        tasks, keys = walks.tasks("train", n), fold_in(make_key("envs"), torch.arange(n))
        # actions as a policy has them: from 0
        actions = metarl.Rng(torch.tensor([4])).integers(3, steps, n)[0]
        envs = GymEnvironments(walks, n, CPU)
        got = [envs.begin(tasks, keys, steps)]
        outs = [envs.step(actions[t]) for t in range(steps)]
        got += [out.obs for out in outs]
        for i in range(n):
            env = walks.make_env(tasks[i])

            def seed(clock, i=i):
                return int(fold_in(keys[i], torch.tensor(clock)) & 0x7FFFFFFF)

            obs, _ = env.reset(seed=seed(0))
            assert got[0][i].tolist() == obs.tolist()
            endings = 0
            for t in range(steps):
                obs, reward, terminated, truncated, info = env.step(int(actions[t, i]) + 2)  # the space starts at 2
                assert outs[t].final_obs[i].tolist() == obs.tolist()
                assert float(outs[t].reward[i]) == pytest.approx(reward)
                assert bool(outs[t].terminated[i]) == terminated
                assert bool(outs[t].truncated[i]) == (truncated and not terminated)
                assert bool(outs[t].success[i]) == info["is_success"]
                if terminated or truncated:
                    endings += 1
                    obs, _ = env.reset(seed=seed(t + 1))
                assert outs[t].obs[i].tolist() == obs.tolist()
            assert endings >= 2
            env.close()
        envs.close()
        assert [x.dtype for x in outs[0][:4]] == [torch.float32, torch.float32, torch.bool, torch.bool]

    def test_slots_begin_again_with_other_tasks(self, walks):
        envs = GymEnvironments(walks, 2, CPU)
        for speeds in ([0.5, 1.0], [2.0, 0.25], [0.5, 1.0]):
            obs = envs.begin(walks.make_tasks(speed=speeds), torch.arange(2), 3)
            assert obs[:, 1].tolist() == speeds
        envs.close()

    def test_kwargs_build_anew_only_for_another_task(self):
        family = GymFamily(Walk, SPEED, apply="kwargs", horizon=5, env_kwargs={"limit": 9.0})
        env = family.make_env(family.make_tasks(speed=0.5))
        before = Walk.built
        env.reset(seed=0)
        env.reset()
        assert Walk.built == before
        env.set_metarl_task({"speed": 0.75})
        env.reset()
        assert Walk.built == before + 1
        assert (env.unwrapped.speed, env.unwrapped.limit) == (0.75, 9.0)

    def test_a_rebuilt_environment_stays_reproducible(self):
        family = GymFamily(Walk, SPEED, apply="kwargs", horizon=5)
        runs = []
        for _ in range(2):
            env = make_env(family, redraw="episode")
            env.reset(seed=3)
            runs.append([env.reset()[0].tolist() for _ in range(3)])
        assert runs[0] == runs[1]

    def test_redraw_goes_to_a_next_task_each_episode(self, walks):
        env = make_env(walks, redraw="episode", split="test", task_seed=2)
        speeds = [float(env.reset(seed=0 if i == 0 else None)[0][1]) for i in range(4)]
        assert speeds == pytest.approx(walks.tasks("test", 4, seed=2).values["speed"].tolist())
        still_env = make_env(walks)
        assert len({float(still_env.reset(seed=0)[0][1]) for _ in range(4)}) == 1

    def test_an_attribute_must_exist(self):
        expected = r"task_space is 'lenght', expected an attribute of CartPoleEnv: .*did you mean 'length'\?"
        with pytest.raises(InvalidValueError, match=expected):
            GymFamily("CartPole-v1", {"lenght": metarl.Uniform(0.4, 0.6)}, apply="attrs")

    def test_a_horizon_must_come_from_somewhere(self):
        with pytest.raises(InvalidValueError, match="horizon is None, expected a number of steps, because"):
            GymFamily(Walk, SPEED)
        assert GymFamily("CartPole-v1", {"length": metarl.Uniform(0.4, 0.6)}, "attrs", horizon=20).horizon == 20

    def test_values_are_plain(self):
        family = metarl.make_family("metarl/TabularMDP-v0", states=2, actions=2)
        values = task_dict(family.tasks("train", 3), 1)
        assert values["reward"].shape == (2, 2)
        walks = GymFamily(Walk, SPEED, horizon=5)
        assert type(task_dict(walks.tasks("train", 1))["speed"]) is float

    @pytest.mark.parametrize("mode", list(AutoresetMode))
    def test_vector_environments(self, walks, mode):
        tasks = walks.tasks("train", 3)
        env = make_vec_env(walks, 3, autoreset_mode=mode)
        obs, _ = env.reset(seed=0)
        np.testing.assert_array_equal(obs[:, 1], tasks.values["speed"])
        obs, *_ = env.step(np.array([3, 3, 3]))
        np.testing.assert_array_equal(obs[:, 1], tasks.values["speed"])
        env.close()
        chosen = make_vec_env(walks, 2, task={"speed": 0.75})
        assert chosen.reset(seed=0)[0][:, 1].tolist() == [0.75, 0.75]
        chosen.close()
        with pytest.raises(InvalidValueError, match="number of tasks is 2, expected 1 or num_envs = 3"):
            make_vec_env(walks, 3, task=walks.tasks("train", 2))

    def test_a_redrawing_vector_plays_the_tasks_a_torch_family_would(self):
        walks = GymFamily(Walk, SPEED, horizon=5)
        env = make_vec_env(walks, 2, redraw="episode")
        played = [env.reset(seed=0 if i == 0 else None)[0][:, 1].tolist() for i in range(3)]
        env.close()
        assert played == walks.tasks("train", 6).values["speed"].reshape(3, 2).tolist()

    @pytest.mark.parametrize("wrong", [{"redraw": "episodes"}, {"redrawn": "episode"}])
    @pytest.mark.parametrize("make", [make_env, make_vec_env])
    def test_wrong_keywords_are_named(self, wrong, make):
        with pytest.raises(InvalidValueError, match="redraw"):
            make(GymFamily(Walk, SPEED, horizon=5), **wrong).close()

    def test_options_change_the_task_as_for_torch_families(self):
        walks = GymFamily(Walk, SPEED, apply="attrs", horizon=5)
        env = make_env(walks, {"speed": 0.5})
        assert env.reset(seed=0, options={"task": {"speed": 1.5}})[0][1] == 1.5


def test_slots_serve_both_forms(counting):
    assert isinstance(make_environments(counting(), 2), TorchEnvironments)
    envs = make_environments(GymFamily(Walk, SPEED, horizon=5), 2)
    assert isinstance(envs, GymEnvironments)
    envs.close()
    assert issubclass(counting, TorchFamily)
