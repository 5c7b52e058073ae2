"""Stable-Baselines3 both ways: families as its environments, its models as agents."""

from __future__ import annotations

import json
import random
import warnings
from typing import ClassVar

import numpy as np
import pytest
import torch
from cases import quiet
from gymnasium.spaces import Box, Discrete

import metarl
from metarl import InvalidValueError
from metarl.agent import Step
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.families.registry import agent_class
from metarl.rng import Rng, fold_in, make_key

sb3 = pytest.importorskip("stable_baselines3")
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor, VecNormalize  # noqa: E402

from metarl.interop.sb3 import make_sb3_env, wrap  # noqa: E402
from metarl.interop.sb3_models import RecordingVecEnv, join_rows, recording_of  # noqa: E402
from metarl.interop.sb3_vec_env import FamilyVecEnv  # noqa: E402

POINTS, GRID, BANDIT = "metarl/PointNavigation-v0", "metarl/GridNavi-v0", "metarl/BernoulliBandit-v0"
SHORT = POINTS + '{"horizon": 12}'
NET = {"policy_kwargs": {"net_arch": [4]}}
ON = {"n_steps": 10, "batch_size": 10, "n_epochs": 2} | NET
OFF = {"learning_starts": 5, "train_freq": 1, "buffer_size": 50, "batch_size": 4} | NET
SETTINGS = {
    "PPO": (SHORT, ON),
    "A2C": (SHORT, {"n_steps": 5} | NET),
    "SAC": (SHORT, OFF),
    "TD3": (SHORT, OFF),
    "DQN": (GRID, OFF | {"exploration_initial_eps": 0.5, "target_update_interval": 7}),
}


def cart_pole():
    space = {"length": metarl.Uniform(0.3, 0.7)}
    return metarl.GymFamily("CartPole-v1", space, apply="attrs", horizon=6)


def tiny(algorithm="PPO", name="sb3", steps=20, **overrides):
    family, kwargs = SETTINGS[algorithm]
    return metarl.make_agent(name, family, algorithm=algorithm, algorithm_kwargs=kwargs, steps=steps, **overrides)


def trials(agent, which=(0, 1), seed=0):
    return PoolTrials(
        EnvironmentPool(agent.family), agent.family.tasks("test", 3)[list(which)], seed=seed, purpose="test"
    )


def seed_everything(seed):
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# --- families as environments ----------------------------------------------------------------------------------------


def test_endings_rewards_and_terminal_observations_are_exact(counting):
    family = counting(horizon=4)
    # terminates with step 2; is truncated after step 4; terminates with step 4, when the horizon is reached too
    env = make_sb3_env(family, 3, family.make_tasks(length=[2.0, 50.0, 4.0], bonus=[10.0, 20.0, 30.0]))
    assert isinstance(env, VecEnv)
    assert env.reset().tolist() == [[0], [0], [0]]
    seen, paid, over, told = [], [], [], []
    for _ in range(5):
        obs, reward, done, infos = env.step(np.zeros((3, 1), np.float32))
        assert (obs.dtype, reward.dtype, done.dtype) == (np.float32, np.float32, bool)
        seen.append(obs[:, 0].tolist())
        paid.append(reward.tolist())
        over.append(done.tolist())
        told.append([(i["TimeLimit.truncated"], i.get("terminal_observation", [None])[0]) for i in infos])
    no = (False, None)
    assert seen == [[1, 1, 1], [0, 2, 2], [1, 3, 3], [0, 0, 0], [1, 1, 1]]
    assert paid == [[10, 20, 30], [11, 21, 31], [10, 22, 32], [11, 23, 33], [10, 20, 30]]
    assert over == [[False] * 3, [True, False, False], [False] * 3, [True] * 3, [False] * 3]
    assert told == [[no] * 3, [(False, 2), no, no], [no] * 3, [(False, 2), (True, 4), (False, 4)], [no] * 3]


def test_a_batch_is_the_family_stepped_by_hand():
    family = metarl.make_family(POINTS, horizon=5)
    env = make_sb3_env(POINTS, 3, split="test", task_seed=4, redraw="never", horizon=5)
    task = family.tasks("test", 3, 4).tensors()
    env.reset()
    actions = np.random.default_rng(0).uniform(-0.1, 0.1, (5, 3, 2)).astype(np.float32)
    position = torch.zeros(3, 2)
    for action in actions:
        position, expected, _ = family.step(position, torch.tensor(action), task, None)
        obs, reward, done, infos = env.step(action)
        assert reward.tolist() == expected.tolist()
    assert done.all()
    assert not obs.any()
    assert np.array_equal([i["terminal_observation"] for i in infos], position)


def tasks_played(env, name, steps, action):
    """The task of each environment before each step, `[steps, num_envs]`, and whether an episode ended with it."""
    env.reset()
    played, over = [], []
    for _ in range(steps):
        played.append([np.ravel(task[name]).tolist() for task in env.get_attr("task")])
        over.append(env.step(action)[2])
    return played, np.array(over)


@pytest.mark.parametrize("form", ["torch", "gym"])
@pytest.mark.parametrize("given", [False, True], ids=["split", "cycle"])
def test_redrawn_tasks_are_train_tasks_one_for_each_episode(form, given):
    family = cart_pole() if form == "gym" else metarl.make_family(POINTS, horizon=6)
    name, action = ("length", np.array([0, 1])) if form == "gym" else ("goal", np.zeros((2, 2), np.float32))
    pool = family.tasks("train", 3 if given else 40)
    env = make_sb3_env(family, 2, pool if given else None, redraw="episode")
    assert isinstance(env, DummyVecEnv if form == "gym" else FamilyVecEnv)
    played, over = tasks_played(env, name, 20, action)
    assert over.sum() >= 6
    expected = [np.ravel(v).tolist() for v in pool.values[name]]
    for i in range(2):
        episode = over[:, i].cumsum() - over[:, i]  # its number, at each step
        assert [p[i] for p in played] == [expected[(i + 2 * e) % len(expected)] for e in episode]
    assert not family.held_out(pool).any()


@pytest.mark.parametrize("form", ["torch", "gym"])
def test_kept_tasks_are_never_redrawn(form):
    family = cart_pole() if form == "gym" else metarl.make_family(POINTS, horizon=6)
    name, action = ("length", np.array([0, 1])) if form == "gym" else ("goal", np.zeros((2, 2), np.float32))
    expected = [np.ravel(v).tolist() for v in family.tasks("test", 2).values[name]]
    played, over = tasks_played(make_sb3_env(family, 2, split="test", redraw="never"), name, 14, action)
    assert over.any()
    assert all(p == expected for p in played)
    one, _ = tasks_played(make_sb3_env(family, 2, 1, split="test"), name, 7, action)
    assert all(p == [expected[1]] * 2 for p in one)


def test_seeds_reproduce_and_tell_environments_apart():
    def play(seed):
        env = make_sb3_env("metarl/TabularMDP-v0", 2, 0)
        env.seed(seed)
        env.reset()
        return np.array([env.step(np.zeros(2, int))[1] for _ in range(8)])

    assert np.array_equal(play(3), play(3))
    assert not np.array_equal(play(3), play(5))
    assert not np.array_equal(play(3)[:, 0], play(3)[:, 1])
    assert np.array_equal(play(3)[:, 1], play(4)[:, 0])  # environment i is seeded with seed + i


def test_attributes_methods_and_options_reach_single_environments(counting):
    family = counting()
    env = make_sb3_env(family, 3, family.make_tasks(length=[5.0] * 3, bonus=[1.0, 2.0, 3.0]))
    assert [t["bonus"] for t in env.get_attr("task", [0, 2])] == [1, 3]
    assert env.get_attr("render_mode") == [None] * 3
    assert not env.has_attr("no_such_thing")
    assert env.env_is_wrapped(VecMonitor, 1) == [False]
    env.set_attr("tag", "x", 1)
    assert env.get_attr("tag", 1) == ["x"]
    env.set_attr("task", {"length": 5.0, "bonus": 7.0}, [1])
    with pytest.raises(metarl.InvalidValueError, match="number of tasks is 2, expected 1"):
        env.env_method("set_metarl_task", env.vector.family.tasks("train", 2), indices=2)
    env.env_method("set_metarl_task", {"length": 5.0, "bonus": 9.0}, indices=2)
    env.reset()
    step = np.zeros((3, 1), np.float32)
    assert env.step(step)[1].tolist() == [1, 7, 9]
    env.set_options({"task": {"length": 5.0, "bonus": 4.0}})
    env.reset()
    assert env.step(step)[1].tolist() == [4, 4, 4]
    env.reset()  # options are used once, and the task stays
    assert env.step(step)[1].tolist() == [4, 4, 4]
    assert env.reset_infos == [{}] * 3


def test_normalized_actions_reach_the_whole_box():
    env = make_sb3_env(POINTS, 3, 0, normalize_actions=True)
    assert env.action_space == Box(-1, 1, (2,))
    env.reset()
    # the box is [-.1, .1]; what lies outside of [-1, 1] is clipped
    obs = env.step(np.float32([[1, -1], [0.5, 0], [-3, 2]]))[0]
    np.testing.assert_allclose(obs, [[0.1, -0.1], [0.05, 0], [-0.1, 0.1]], atol=1e-7)
    assert make_sb3_env(GRID, normalize_actions=True).action_space == Discrete(5)


def test_episode_statistics(counting):
    family = counting(horizon=4)
    env = VecMonitor(make_sb3_env(family, 2, family.make_tasks(length=[2.0, 50.0], bonus=[10.0, 20.0])))
    env.reset()
    for _ in range(4):
        infos = env.step(np.zeros((2, 1), np.float32))[3]
    # 10 + 11, and 20 + 21 + 22 + 23
    assert [(i["episode"]["r"], i["episode"]["l"]) for i in infos] == [(21, 2), (86, 4)]


def test_pictures():
    env = make_sb3_env(POINTS, 2, render_mode="rgb_array")
    env.reset()
    pictures = env.get_images()
    assert [p.dtype for p in pictures] == [np.uint8] * 2
    assert not np.array_equal(*pictures)  # their tasks differ
    assert np.array_equal(env.render(), np.concatenate(pictures))  # one above the other


class Hit(metarl.TorchFamily):
    """Action 1 pays `pay`, action 0 nothing; only the first action can be a success."""

    id = "toy/Hit-v0"
    observation_space = Box(0.0, 10.0, (1,), np.float32)
    action_space = Discrete(2)
    horizon = 3
    terminates = False
    task_space: ClassVar = {"pay": metarl.Uniform(1.0, 2.0)}

    def reset(self, task, rng):
        return torch.zeros_like(task["pay"])

    def observe(self, state, task):
        return state.unsqueeze(1)

    def step(self, state, action, task, rng):
        hit = action == 1
        success = hit & (state == 0)
        return state + 1, task["pay"] * hit, torch.zeros_like(hit), {"success": success}


def test_success_of_an_episode_is_any_in_it():
    env = make_sb3_env(Hit(), 2, 0)
    env.reset()
    infos = [env.step(np.array(a))[3] for a in ([1, 0], [0, 1], [0, 0], [0, 1], [0, 0], [0, 0])]
    assert [[i["success"] for i in step] for step in infos[:4]] == [
        [True, False],
        [False] * 2,
        [False] * 2,
        [False, True],
    ]
    assert [i["is_success"] for i in infos[2]] == [True, False]
    assert [i["is_success"] for i in infos[5]] == [False, True]
    assert "is_success" not in infos[1][0]


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"redraw": "always"}, "redraw is 'always', expected one of episode, never"),
        ({"num_envs": 0}, "num_envs is 0"),
        ({"render_mode": "human"}, "render_mode is 'human', expected None or 'rgb_array'"),
        ({"split": "tset"}, "split is 'tset'.*did you mean 'test'"),
        ({"task": 3, "redraw": "episode"}, "task is 3, expected None or Tasks"),
        ({"task": {"goal": [0, 3]}}, r"task\.goal is 3"),
        ({"horizn": 3}, "keyword of metarl/PointNavigation-v0"),
    ],
)
def test_wrong_environments_are_named(keywords, words):
    with pytest.raises(InvalidValueError, match=words):
        make_sb3_env(POINTS, **keywords)


def test_spaces_that_do_not_start_at_0_are_refused():
    family = Hit()
    family.action_space = Discrete(2, start=1)
    with pytest.raises(InvalidValueError, match=r"action space of make_sb3_env is Discrete.*starts at 0"):
        make_sb3_env(family)


# --- models as agents ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", SETTINGS)
def test_a_model_that_went_through_a_state_goes_on_as_if_it_had_not(algorithm):
    agent = tiny(algorithm, num_envs=2, seed=3)
    both = trials(agent)
    state = agent.begin(2)
    for stage in range(3):
        _, state = agent.interact(state, both, stage)
    # the same three calls of learn on one live model
    agent.worker = model = agent.make_model()
    alone, live = trials(agent, [1]), []
    agent.tensors_of.write = lambda model, tensors: None
    for stage in range(3):
        live.append(agent.interact(agent.begin(1), alone, stage)[1])
    assert model.num_timesteps == 60
    assert equal({k: v[1:] for k, v in state.items()}, live[-1])
    assert not equal(live[-1], live[-2])


@pytest.mark.parametrize("algorithm", SETTINGS)
def test_a_batch_equals_its_singles_to_the_bit(algorithm):
    agent = tiny(algorithm)
    settings = {"k": 2, "num_tasks": 3, "episodes": 2, "floor_episodes": 0}
    seed_everything(0)  # what others do to the global generators means nothing
    whole = metarl.evaluate(agent, **settings)
    seed_everything(1)
    single = metarl.evaluate(agent, rows_at_once=1, **settings)
    for mode in ("sampled", "deterministic"):
        assert np.array_equal(whole.scores[mode], single.scores[mode])
    assert len(np.unique(whole.scores["deterministic"][0].mean(-1))) > 1 or algorithm == "DQN"


@pytest.mark.parametrize("algorithm", SETTINGS)
def test_what_a_model_consumed_is_counted(algorithm):
    agent = tiny(algorithm, num_envs=2)
    assert agent.budget == metarl.Budget(envs=2, steps=10)
    results = metarl.evaluate(agent, k=2, num_tasks=2, episodes=1, floor_episodes=0)
    assert results.env_steps.tolist() == [0, 20, 40]
    rollout, state = agent.interact(agent.begin(2), trials(agent), 0)
    assert rollout.env_steps.tolist() == [20, 20]
    assert state["counters"][:, agent.tensors_of.counters.index("num_timesteps")].tolist() == [20, 20]
    assert agent.worker.num_timesteps == 20


def test_bootstrapped_values_do_not_reach_the_collected_rewards(counting):
    # PPO adds gamma * V to the last reward of a truncated episode, in place
    family = counting(horizon=3)
    agent = metarl.make_agent("sb3", family, algorithm_kwargs=ON, steps=10)
    tasks = family.make_tasks(length=[50.0], bonus=[5.0])
    rollout, _ = agent.interact(agent.begin(1), PoolTrials(EnvironmentPool(family), tasks), 0)
    assert rollout.reward[:, 0, 0].tolist() == [5, 6, 7] * 3 + [5]
    assert rollout.truncated[:, 0, 0].tolist() == [False, False, True] * 3 + [False]
    assert rollout.obs[:, 0, 0, 0].tolist() == [0, 1, 2] * 3 + [0]
    assert rollout.mean_return().tolist() == [18]
    assert rollout.last_obs.tolist() == [[[1]]]


def test_a_fork_holds_the_replay_buffer_too():
    agent = tiny("SAC")
    rows = trials(agent)
    _, state = agent.interact(agent.begin(2), rows, 0)
    kept, other = agent.fork(state), agent.fork(state)
    assert kept["replay_buffer/rewards"].abs().sum() > 0
    _, first = agent.interact(state, rows, 1)
    for v in state.values():
        v.zero_()
    _, second = agent.interact(kept, rows, 1)
    assert equal(first, second)
    assert not equal(first, agent.interact(other, rows, 2)[1])  # every stage draws anew
    part = agent.fork(first, torch.tensor([1, 1]))
    assert equal({k: v[:1] for k, v in part.items()}, {k: v[1:] for k, v in second.items()})


def test_actions_follow_the_state_that_is_given():
    # one state is scored, then another one, then the first, changed in place
    agent = tiny("PPO")
    rows = trials(agent)
    first = agent.begin(2)
    second = agent.interact(agent.fork(first), rows, 0)[1]

    def score(state):
        return rows.collect(agent, state, 0, metarl.Budget(envs=1, steps=3), True)[0].action

    kept = score(first)
    assert not torch.equal(score(second), kept)
    assert torch.equal(score(first), kept)
    for name, value in second.items():
        first[name].copy_(value)
    assert torch.equal(score(first), score(second))


def test_global_generators_are_left_alone():
    agent = tiny("SAC", "sb3_pretrained", meta_batch_size=2)

    def told():
        return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()  # noqa: NPY002

    before = told()
    metarl.train(agent, 1)
    metarl.evaluate(agent, k=1, num_tasks=2, episodes=1)
    metarl.evaluate(tiny("DQN"), k=1, num_tasks=2, episodes=1)
    assert told() == before


def test_sampled_actions_differ_and_mean_actions_do_not():
    agent = tiny("PPO")
    budget = metarl.Budget(envs=8, steps=1)
    for deterministic, kinds in ((False, 16), (True, 1)):
        action = trials(agent).collect(agent, agent.begin(2), 0, budget, deterministic)[0].action
        assert len(action.flatten(0, 2).unique(dim=0)) == kinds
        assert torch.allclose(agent.to_env(action), 0.1 * action)  # the box


def test_epsilon_is_of_each_slot():
    agent = tiny("DQN")
    state = agent.begin(2)
    state["counters"][:, agent.tensors_of.counters.index("exploration_rate")] = torch.tensor([0.5, 0.0]).double()
    budget = metarl.Budget(envs=400, steps=1)
    action = trials(agent).collect(agent, state, 0, budget)[0].action[0]
    greedy = trials(agent).collect(agent, state, 0, budget, True)[0].action[0]
    # 5 actions: a random one differs from the greedy one in 4 of 5 cases, .5 * .8 = .4
    assert (action != greedy).float().mean(1).tolist() == pytest.approx([0.4, 0.0], abs=0.1)


def test_pretraining_goes_through_the_train_tasks_and_carries_over():
    agent = metarl.make_agent(
        "sb3_pretrained", Hit(), algorithm_kwargs=ON | {"learning_rate": 0.05}, steps=40, meta_batch_size=7
    )
    before = metarl.evaluate(agent, k=0, num_tasks=4, episodes=20)
    metrics = []
    metarl.train(agent, 4, on_iteration=lambda i, m: metrics.append(m))
    after = metarl.evaluate(agent, k=1, num_tasks=4, episodes=20)
    assert [m["env_steps"] for m in metrics] == [40, 80, 120, 160]
    assert agent.learner.num_timesteps == 160
    assert recording_of(agent.learner).venv.vector.cycle.index.tolist() == list(range(21, 28))  # of iteration 3
    best = 3 * agent.family.tasks("test", 4).values["pay"].mean()
    assert before.scores["sampled"].mean() < 0.7 * best < 0.9 * best < after.scores["sampled"][:, :, 0].mean()
    assert after.env_steps.tolist() == [0, 40]


@pytest.mark.parametrize("algorithm", ["PPO", "DQN", "SAC"])
def test_resumed_pretraining_equals_unbroken(algorithm):
    whole, first, second = (tiny(algorithm, "sb3_pretrained", seed=2, meta_batch_size=3) for _ in range(3))
    names = {k: (v.shape, v.dtype) for k, v in whole.tensors().items()}
    metarl.train(whole, 4)
    metarl.train(first, 2)
    second.load_tensors(first.tensors())
    assert equal(first.begin(2), second.begin(2))
    metarl.evaluate(second, k=1, num_tasks=1, episodes=1)
    metarl.train(second, 4, start=2)
    assert equal(whole.tensors(), second.tensors())
    assert names == {k: (v.shape, v.dtype) for k, v in whole.tensors().items()}
    assert equal(whole.begin(2), second.begin(2))


def test_a_run_directory_opens_again(tmp_path):
    agent = tiny("DQN", "sb3_pretrained", meta_batch_size=3)
    run = metarl.Run.create(tmp_path / "run", agent, 2)
    run.train(agent)
    loaded, done = metarl.Run.open(tmp_path / "run").load_agent()
    assert done == 2
    assert equal(loaded.tensors(), agent.tensors())


def test_keywords_on_the_command_line(tmp_path):
    from metarl.cli import main as cli

    words = ["train", "sb3_pretrained", "--family", POINTS, "--iterations", "1", "--out", str(tmp_path / "run")]
    cli.main([*words, "--steps", "10", "--algorithm-kwargs", json.dumps(ON)])
    assert metarl.Run.open(tmp_path / "run").config["config"]["algorithm_kwargs"] == ON


def test_a_step_that_diverges_is_undone_and_counted():
    agent = metarl.make_agent(
        "sb3", POINTS, algorithm="A2C", algorithm_kwargs=SETTINGS["A2C"][1] | {"learning_rate": 1e38}, steps=20
    )
    state = agent.begin(2)
    kept = agent.fork(state)
    with pytest.warns(metarl.DivergedWarning, match=r"learning in task 0 of split 'test' \(and 1 more"):
        rollout, state = agent.interact(state, trials(agent), 0)
    assert state["failed"].tolist() == [1, 1]
    assert equal({k: v for k, v in state.items() if k != "failed"}, {k: v for k, v in kept.items() if k != "failed"})
    assert (rollout.env_steps <= 20).all()


class Halves(sb3.PPO):
    """Stops after half of what it is given."""

    def learn(self, total_timesteps, **kwargs):
        return super().learn(total_timesteps // 2, **kwargs)


def test_any_class_by_name_and_what_it_really_consumed():
    agent = metarl.make_agent("sb3", POINTS, algorithm=f"{__name__}:Halves", algorithm_kwargs=ON, steps=40)
    rollout, _ = agent.interact(agent.begin(2), trials(agent), 0)
    assert rollout.env_steps.tolist() == [20, 20]
    named = ON | {"policy_kwargs": {"net_arch": [4], "activation_fn": "torch.nn:ReLU"}}
    agent = metarl.make_agent("sb3", POINTS, algorithm_kwargs=named, steps=40)
    assert any(isinstance(m, torch.nn.ReLU) for m in agent.worker.policy.modules())


def test_rows_that_played_less_are_masked():
    agent = tiny("PPO")
    long, _ = agent.interact(agent.begin(1), trials(agent, [0]), 0)
    short = tiny("PPO", steps=10).interact(agent.begin(1), trials(agent, [1]), 0)[0]
    both = join_rows([long, short])
    assert both.env_steps.tolist() == [20, 10]
    assert torch.equal(both.reward[:, :1], long.reward)
    assert torch.equal(both.reward[:10, 1:], short.reward)


def test_gymnasium_families_too():
    agent = metarl.make_agent("sb3", cart_pole(), algorithm="DQN", algorithm_kwargs=OFF, steps=20, num_envs=2)
    rows = trials(agent)
    rollout, state = agent.interact(agent.begin(2), rows, 0)
    assert rollout.env_steps.tolist() == [20, 20]
    alone, _ = agent.interact(agent.begin(1), trials(agent, [1]), 0)
    assert torch.equal(rollout.obs[:, 1:], alone.obs)
    env = recording_of(agent.worker)
    assert [t["length"] for t in env.get_attr("task")] == [float(rows.tasks.values["length"][1])] * 2
    assert state["replay_buffer/rewards"].shape == (2, 11, 2)


def test_action_noise_explores():
    found = []
    for noise in (0.0, 0.5):
        agent = metarl.make_agent(
            "sb3", POINTS, algorithm="TD3", algorithm_kwargs=OFF | {"learning_starts": 0}, steps=4, action_noise=noise
        )
        found.append(agent.interact(agent.begin(1), trials(agent, [0]), 0)[0].action)
    assert not torch.equal(*found)


# --- a user's own model ----------------------------------------------------------------------------------------------


def own_model(**kwargs):
    env = make_sb3_env(POINTS, 2, 0, horizon=20)
    return quiet(sb3.PPO("MlpPolicy", env, seed=0, device="cpu", **(ON | kwargs))).learn(40)


def test_a_wrapped_model_is_evaluated_as_it_is():
    model = own_model()
    before = {k: v.clone() for k, v in model.policy.state_dict().items()}
    family = metarl.make_family(POINTS, horizon=20)
    agent = wrap(model, family, steps=40)
    results = metarl.evaluate(agent, k=2, num_tasks=2, episodes=1, floor_episodes=0)
    env = make_sb3_env(family, 2, split="test", redraw="never")
    obs, total = env.reset(), np.zeros(2)
    for _ in range(20):
        obs, reward, done, _ = env.step(model.predict(obs, deterministic=True)[0])
        total += reward
    assert done.all()
    np.testing.assert_allclose(results.scores["deterministic"][0, :, 0, 0], total, rtol=1e-5)
    assert len(np.unique(results.scores["deterministic"][0, 0, :, 0])) == 3  # it was fine-tuned
    assert equal(before, dict(model.policy.state_dict()))
    assert model.num_timesteps == 40
    assert agent.begin(1)["counters"][0, agent.tensors_of.counters.index("num_timesteps")] == 40
    assert results.agent == "sb3_model"


def test_a_wrapped_model_that_acts_in_normalized_actions():
    env = make_sb3_env(SHORT, 1, 0, normalize_actions=True)
    agent = wrap(sb3.PPO("MlpPolicy", env, seed=0, device="cpu", **ON), SHORT, steps=20)
    action = trials(agent).collect(agent, agent.begin(2), 0, metarl.Budget(envs=8, steps=1))[0].action
    assert action.abs().max() > 0.2
    assert torch.allclose(agent.to_env(action), 0.1 * action)
    raw = wrap(own_model(), metarl.make_family(POINTS, horizon=20), steps=40)
    action = trials(raw).collect(raw, raw.begin(2), 0, metarl.Budget(envs=8, steps=1))[0].action
    assert action.abs().max() == pytest.approx(0.1)
    assert torch.equal(raw.to_env(action), action)


def test_a_wrapped_models_budget():
    model = own_model()
    assert wrap(model, metarl.make_family(POINTS, horizon=20)).budget == metarl.Budget(envs=2, steps=1030)
    assert wrap(model, POINTS, num_envs=1).budget == metarl.Budget(envs=1, steps=2050)


def test_models_that_do_not_fit_are_named():
    model = own_model()
    with pytest.raises(InvalidValueError, match="observation space of the model is Box"):
        wrap(model, "metarl/CartPole-v0")
    with pytest.raises(InvalidValueError, match=r"sb3_model\.steps is 15, expected a multiple of 20"):
        wrap(model, POINTS, steps=15)
    with pytest.raises(InvalidValueError, match="model is 'str'"):
        wrap("ppo.zip", POINTS)
    normalised = sb3.PPO("MlpPolicy", VecNormalize(make_sb3_env(POINTS)), device="cpu", **ON)
    with pytest.raises(InvalidValueError, match="VecNormalize"):
        wrap(normalised, POINTS)


@pytest.mark.parametrize(
    ("family", "config", "words"),
    [
        (
            POINTS,
            {"algorithm": "PPQ"},
            r"sb3\.algorithm is 'PPQ', expected one of A2C.*did you mean 'PPO'.*module:Class",
        ),
        (POINTS, {"algorithm": "json:loads"}, "sb3.algorithm is 'json:loads', expected a Stable-Baselines3 algorithm"),
        (POINTS, {"algorithm": "no_such:Thing"}, "entry point is 'no_such:Thing'"),
        (POINTS, {"algorithm": "DQN"}, r"action space of sb3 is Box\(.*expected what DQN takes"),
        (GRID, {"algorithm": "SAC"}, r"action space of sb3 is Discrete\(5\), expected what SAC takes"),
        (POINTS, {"policy": "MlpPolcy"}, r"sb3\.policy is 'MlpPolcy'.*did you mean 'MlpPolicy'"),
        (
            POINTS,
            {"algorithm_kwargs": {"n_step": 8}},
            "keyword of sb3.algorithm_kwargs is 'n_step'.*did you mean 'n_steps'",
        ),
        (POINTS, {"algorithm_kwargs": {"seed": 8}}, "keyword of sb3.algorithm_kwargs is 'seed'"),
        (
            POINTS,
            {"algorithm_kwargs": {"batch_size": 1}},
            r"sb3\.algorithm_kwargs is \{\"batch_size\": 1\}, expected what PPO",
        ),
        (POINTS, {"algorithm_kwargs": {"gamma": torch.zeros(1)}}, "expected values that JSON can hold"),
        (POINTS, {"algorithm_kwargs": {"use_sde": True}}, "use_sde of sb3 is True, expected False"),
        (POINTS, {"steps": 100}, r"sb3\.steps is 100, expected a multiple of 2048, after which PPO updates: .* 2048"),
        (POINTS, {"steps": 12, "algorithm": "A2C"}, r"sb3\.steps is 12, expected a multiple of 5, .* example 10"),
        ("metarl/Switching-v0", {}, "family of sb3 is 'metarl/Switching-v0', expected one whose task stays"),
        (POINTS, {"num_envs": 0}, r"sb3\.num_envs is 0"),
        (
            POINTS,
            {"algorithm": "SAC", "algorithm_kwargs": {"train_freq": [1, "episode"]}},
            "train_freq of sb3 is 'episode'",
        ),
        (POINTS, {"action_noise": 0.1}, r"sb3\.action_noise is 0\.1, expected 0, because PPO takes none"),
    ],
)
def test_bad_input_is_named(family, config, words):
    with pytest.raises(InvalidValueError, match=words) as caught:
        metarl.make_agent("sb3", family, **config)
    assert "\n" not in str(caught.value)


def test_the_agents_are_registered_and_a_recorder_is_a_vec_env():
    assert [agent_class(n).learns for n in ("sb3", "sb3_pretrained")] == [False, True]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(RecordingVecEnv(make_sb3_env(POINTS)), VecEnv)


def test_what_a_slot_draws_does_not_depend_on_how_many_there_are() -> None:
    agent = metarl.make_agent("sb3", "metarl/PointNavigation-v0")

    def acted(width: int) -> torch.Tensor:
        step = Step(torch.zeros(1, width, 2), None)
        rng = Rng(fold_in(make_key("x"), torch.arange(width)))
        return agent.act(agent.begin(1), step, rng, False)[0]

    assert torch.equal(acted(3)[:, :1], acted(1))
