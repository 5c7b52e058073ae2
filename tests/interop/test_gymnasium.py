"""Families as Gymnasium and Stable-Baselines3 see them: `gym.make`, `gym.make_vec`, specs, their checkers, PPO."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
from cases import contract_ids, family_class, quiet
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import metarl
from metarl import InvalidValueError

FAMILIES = sorted(contract_ids())
OWN = [id for id in FAMILIES if issubclass(family_class(id), metarl.TorchFamily)]  # the others wrap an environment
PRESETS = ["metarl/BernoulliBandit-v0:k10", "metarl/PointNavigation-v0:semicircle", "metarl/PointNavigation-v0:corners"]
UNBOUNDED = "ignore:.*Box observation space (min|max)imum value is -?infinity:UserWarning"
ACTIONS = "ignore:.*symmetric and normalized space:UserWarning"  # papers' boxes are what they are
STEP_TO_GOAL = {"goal": [0.3, -0.2]}


@pytest.mark.filterwarnings(UNBOUNDED, ACTIONS)
@pytest.mark.parametrize("id", OWN)
def test_gymnasiums_checker(id):
    on_host = metarl.make_family(id).on_host  # their pictures need OpenGL
    check_env(gym.make(id).unwrapped, skip_render_check=on_host)


@pytest.mark.filterwarnings(UNBOUNDED)
@pytest.mark.parametrize("id", PRESETS)
def test_gymnasiums_checker_on_presets(id):
    check_env(gym.make(id.partition(":")[0], family=id).unwrapped, skip_render_check=True)


@pytest.mark.parametrize("id", FAMILIES)
def test_stable_baselines_checker(id):
    env_checker = pytest.importorskip("stable_baselines3.common.env_checker")
    env_checker.check_env(gym.make(id))


@pytest.mark.filterwarnings(UNBOUNDED)
def test_the_checkers_on_any_gymnasium_families(scratch_registry):
    register_cart_pole()
    check_env(gym.make("mine/CartPole-v0").unwrapped, skip_render_check=True)
    env_checker = pytest.importorskip("stable_baselines3.common.env_checker")
    env_checker.check_env(gym.make("mine/CartPole-v0"))


def test_nothing_follows_a_pull():
    # a truncated step would make Stable-Baselines3 bootstrap from the value of what follows
    env = gym.make("metarl/BernoulliBandit-v0")
    env.reset(seed=0)
    assert env.step(0)[2:4] == (True, False)


def test_make_plays_the_task_it_is_given():
    env = gym.make("metarl/PointNavigation-v0", task=STEP_TO_GOAL)
    obs, info = env.reset(seed=0)
    assert obs.tolist() == [0, 0]
    assert info == {}
    # to (.1, -.05): the goal is (.2, -.15) away, sqrt(.04 + .0225) = .25
    obs, reward, terminated, truncated, _ = env.step(np.float32([0.1, -0.05]))
    np.testing.assert_allclose(obs, [0.1, -0.05], atol=1e-7)
    assert obs.dtype == np.float32
    assert reward == pytest.approx(-0.25, abs=1e-6)
    assert type(reward) is float
    assert (terminated, truncated) == (False, False)
    assert type(terminated) is bool


def goals(env, resets):
    return [env.unwrapped.task["goal"].tolist() for _ in range(resets) if env.reset() is not None]


def test_reset_never_redraws_the_task():
    env = gym.make("metarl/PointNavigation-v0", task=STEP_TO_GOAL)
    expected = np.float32([0.3, -0.2]).tolist()
    env.reset(seed=1)
    assert goals(env, 5) == [expected] * 5
    env.reset(seed=2)
    assert env.unwrapped.task["goal"].tolist() == expected


def test_tasks_by_number_and_split():
    family = metarl.make_family("metarl/PointNavigation-v0")
    for split, seed in (("train", 0), ("test", 3), ("far", 1)):
        env = gym.make("metarl/PointNavigation-v0", task=4, split=split, task_seed=seed)
        assert env.unwrapped.task["goal"].tolist() == family.tasks(split, 5, seed).values["goal"][4].tolist()
    default = gym.make("metarl/PointNavigation-v0").unwrapped.task["goal"].tolist()
    assert default == family.tasks("train", 1).values["goal"][0].tolist()


def test_options_change_the_task():
    env = gym.make("metarl/PointNavigation-v0", task=STEP_TO_GOAL)
    env.reset(seed=0)
    env.reset(options={"task": {"goal": [0.0, 0.1]}})
    assert env.step(np.float32([0.0, 0.0]))[1] == pytest.approx(-0.1)
    env.reset()  # it stays
    _, reward, terminated, *_ = env.step(np.float32([0.0, 0.1]))
    assert reward == pytest.approx(0.0, abs=1e-6)
    assert terminated
    with pytest.raises(InvalidValueError, match=r"task\.goal is 3, expected numbers in \[-0\.5, 0\.5\]"):
        env.reset(options={"task": {"goal": [0, 3]}})


def test_redraw_changes_the_task_between_episodes():
    family = metarl.make_family("metarl/PointNavigation-v0")
    env = gym.make("metarl/PointNavigation-v0", redraw="episode", split="test")
    env.reset(seed=0)
    found = [env.unwrapped.task["goal"].tolist(), *goals(env, 3)]
    assert found == family.tasks("test", 4).values["goal"].tolist()
    kept = gym.make("metarl/PointNavigation-v0", split="test")
    kept.reset(seed=0)
    assert len({tuple(g) for g in goals(kept, 3)}) == 1


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"horizn": 3}, "keyword of metarl/PointNavigation-v0 is 'horizn', expected one of"),
        ({"task": {"gaol": [0, 0]}}, "task parameter 'gaol' is unknown"),
        ({"task": {"goal": [0, 0, 0]}}, r"task\.goal shape is \(3,\)"),
        ({"split": "tset"}, "split is 'tset'.*did you mean 'test'"),
        ({"redraw": "always"}, "redraw is 'always', expected one of episode, never"),
        ({"family": "metarl/PointNavigation-v0:cornes"}, "did you mean 'corners'"),
    ],
)
def test_wrong_keywords_are_named(keywords, words):
    for make in (gym.make, gym.make_vec):
        with pytest.raises(InvalidValueError, match=words):
            make("metarl/PointNavigation-v0", **keywords)


def test_keywords_reach_the_family():
    env = gym.make("metarl/PointNavigation-v0", horizon=2, task=STEP_TO_GOAL)
    env.reset(seed=0)
    endings = [env.step(np.zeros(2, np.float32))[2:4] for _ in range(2)]
    assert endings == [(False, False), (False, True)]
    assert gym.make_vec("metarl/BernoulliBandit-v0", num_envs=2, k=3).single_action_space.n == 3


def test_a_finished_environment_asks_for_a_reset():
    env = gym.make("metarl/BernoulliBandit-v0")
    with pytest.raises(gym.error.ResetNeeded):
        env.step(0)
    env.reset(seed=0)
    env.step(0)
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        env.step(0)
    env.reset()
    env.step(0)


@pytest.mark.parametrize("id", FAMILIES)
def test_seeds_reproduce(id):
    def play(seed):
        env = gym.make(id)
        env.action_space.seed(0)
        outs = [env.reset(seed=seed)[0]]
        for _ in range(30):
            obs, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            outs += [obs, np.float32([reward])]
            if terminated or truncated:
                outs.append(env.reset()[0])
        return np.concatenate(outs)

    assert np.array_equal(play(3), play(3))
    nothing_random = {f"metarl/{name}-v0" for name in ("PointNavigation", "DarkRoom", "GridNavi", "TMaze", "Switching")}
    nothing_random |= {
        "metarl/DarkTreasureRooms-v0",
        "metarl/VancomycinDosing-v0",
        "metarl/MiniGrid-v0",
        "metarl/MiniGridAny-v0",
        "metarl/MetaWorldML1-v0",
    }  # the task fixes the layout
    if id not in nothing_random:
        assert not np.array_equal(play(3), play(4))


@pytest.mark.parametrize("id", FAMILIES)
def test_specs_are_json(id):
    spec = gym.spec(id)
    data = json.loads(spec.to_json())
    assert data["entry_point"] == "metarl.interop.facades:make_env"
    assert data["vector_entry_point"] == "metarl.interop.facades:make_vec_env"
    assert EnvSpec.from_json(spec.to_json()).id == id
    env = gym.make(EnvSpec.from_json(gym.make(id, task=3, split="test").spec.to_json()))
    expected = gym.make(id, task=3, split="test").get_wrapper_attr("task")
    assert all(np.array_equal(env.get_wrapper_attr("task")[k], v) for k, v in expected.items())


@pytest.mark.parametrize("id", OWN)
def test_pictures(id):
    if metarl.make_family(id).on_host:
        pytest.skip("needs OpenGL: tests/envs/test_mujoco.py")
    env = gym.make(id, render_mode="rgb_array")
    with pytest.raises(gym.error.ResetNeeded):
        env.unwrapped.render()
    env.reset(seed=0)
    first = env.render()
    assert first.shape == (256, 256, 3)
    assert first.dtype == np.uint8
    assert len(np.unique(first.reshape(-1, 3), axis=0)) > 2
    assert gym.make(id).unwrapped.render() is None
    vector = metarl.MetaVectorEnv(id, 2, render_mode="rgb_array")
    vector.reset(seed=0)
    assert [frame.shape for frame in vector.render()] == [(256, 256, 3)] * 2


def test_any_gymnasium_environments_are_rendered():
    env = gym.make("metarl/Gymnasium-v0", render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().shape == (400, 600, 3)
    with pytest.raises(InvalidValueError, match="render_mode is 'human', expected None or 'rgb_array'"):
        metarl.MetaEnv("metarl/GridNavi-v0", render_mode="human")


def test_a_made_environments_spec_makes_it_again():
    env = gym.make("metarl/PointNavigation-v0", task=STEP_TO_GOAL, horizon=7)
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.unwrapped.task["goal"].tolist() == env.unwrapped.task["goal"].tolist()
    assert again.unwrapped.vector.family.horizon == 7
    vector = gym.make_vec("metarl/PointNavigation-v0", num_envs=3, task=STEP_TO_GOAL)
    assert gym.make_vec(EnvSpec.from_json(vector.spec.to_json())).num_envs == 3


def test_any_gymnasium_families_have_a_spec_that_is_json(scratch_registry):
    register_cart_pole()
    spec = gym.spec("mine/CartPole-v0")
    assert json.loads(spec.to_json())["kwargs"] == {"family": "mine/CartPole-v0"}
    env = gym.make(EnvSpec.from_json(spec.to_json()), task={"length": 0.4})
    env.reset(seed=0)
    assert env.unwrapped.length == pytest.approx(0.4)


def test_a_made_any_gymnasium_environments_spec_makes_it_again(scratch_registry):
    register_cart_pole()
    env = gym.make("mine/CartPole-v0", task={"length": 0.4})
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    again.reset(seed=0)
    assert again.unwrapped.length == pytest.approx(0.4)


def register_cart_pole():
    space = {"length": metarl.Uniform(0.3, 0.7)}
    metarl.register_family("mine/CartPole-v0", env="CartPole-v1", task_space=space, apply="attrs")


def test_make_vec_is_batched():
    env = gym.make_vec("metarl/PointNavigation-v0", num_envs=3)
    assert isinstance(env.unwrapped, metarl.MetaVectorEnv)  # one batch, not three environments
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    obs, _ = env.reset(seed=0)
    assert obs.shape == (3, 2)
    obs, reward, terminated, truncated, _ = env.step(np.full((3, 2), 0.1, dtype=np.float32))
    assert reward.shape == terminated.shape == truncated.shape == (3,)
    goal = metarl.make_family("metarl/PointNavigation-v0").tasks("train", 3).values["goal"]
    np.testing.assert_allclose(reward, -np.linalg.norm(goal - 0.1, axis=1), rtol=1e-5)
    env.close()


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_make_vec_offers_every_autoreset_mode(mode):
    for given in (mode, mode.value):
        env = gym.make_vec("metarl/PointNavigation-v0", num_envs=2, autoreset_mode=given)
        assert env.metadata["autoreset_mode"] is mode


def test_a_wrong_autoreset_mode_is_named():
    with pytest.raises(InvalidValueError, match=r"autoreset_mode is 'SAME_STEP'.*SameStep"):
        gym.make_vec("metarl/PointNavigation-v0", num_envs=2, autoreset_mode="SAME_STEP")


def test_make_vec_equals_make():
    # nothing random here: environment i is the single one in task i
    env = gym.make_vec("metarl/PointNavigation-v0", num_envs=3, split="test")
    env.reset(seed=0)
    action = np.float32([[0.1, 0.0], [-0.05, 0.1], [0.02, -0.3]])
    outs = [env.step(action) for _ in range(4)]
    for i in range(3):
        single = gym.make("metarl/PointNavigation-v0", task=i, split="test")
        single.reset(seed=0)
        for out in outs:
            obs, reward, terminated, truncated, _ = single.step(action[i])
            assert out[0][i].tolist() == obs.tolist()
            assert [x[i] for x in out[1:4]] == [reward, terminated, truncated]


@pytest.mark.parametrize("how", ["sync", "async"])
def test_gymnasiums_own_vectorisers_work_too(how):
    env = gym.make_vec("metarl/PointNavigation-v0", num_envs=2, vectorization_mode=how, task=STEP_TO_GOAL)
    env.reset(seed=0)
    _, reward, *_ = env.step(np.float32([[0.1, -0.05], [0.0, 0.0]]))
    # .25 as above, and sqrt(.09 + .04) = .36056
    np.testing.assert_allclose(reward, [-0.25, -0.36056], atol=1e-5)
    env.close()


@pytest.mark.parametrize("keywords", [{"task": 0}, {"redraw": "episode"}], ids=str)
def test_stable_baselines_trains(keywords):
    sb3 = pytest.importorskip("stable_baselines3")
    env = gym.make("metarl/PointNavigation-v0", horizon=20, **keywords)
    model = sb3.PPO("MlpPolicy", env, n_steps=64, batch_size=32, n_epochs=2, device="cpu", seed=0)
    quiet(model).learn(256)
    assert model.num_timesteps == 256
    # Monitor, which SB3 puts around it, saw whole episodes: at most 20 steps, returns at most 0
    assert len(model.ep_info_buffer) >= 12
    assert all(e["l"] <= 20 and e["r"] < 0 for e in model.ep_info_buffer)


def test_stable_baselines_evaluates_a_family_with_discrete_actions():
    sb3 = pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.evaluation import evaluate_policy

    # p = (0, 0, 1): a policy that has learned the task earns 1 a pull, a random one a third
    env = gym.make("metarl/BernoulliBandit-v0", k=3, task={"p": [0, 0, 1]})
    model = sb3.PPO("MlpPolicy", env, n_steps=64, batch_size=64, learning_rate=0.03, device="cpu", seed=0)
    quiet(model).learn(320)
    mean, _ = evaluate_policy(model, env, n_eval_episodes=20, warn=False)
    assert mean == 1.0
