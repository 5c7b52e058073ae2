"""Meta-World: the package's own train and test tasks, each where it belongs, played as the package plays them."""

from __future__ import annotations

import contextlib
import pickle

import numpy as np
import pytest
import torch

pytest.importorskip("metaworld")

import metaworld
from metaworld.env_dict import ALL_V3_ENVIRONMENTS, ML10_V3, ML45_V3
from metaworld.policies import SawyerReachV3Policy

import metarl
from metarl import InvalidValueError
from metarl.agent import Budget
from metarl.engine.pool import EnvironmentPool, make_environments
from metarl.engine.rollout import PoolTrials
from metarl.envs.packages import meta_world
from metarl.envs.packages.meta_world import MetaWorldML1, MetaWorldML10, MetaWorldML45
from metarl.envs.packages.meta_world_arms import REMEMBERED, Arm, begin, make
from metarl.envs.packages.meta_world_skills import SKILLS
from metarl.envs.packages.meta_world_steps import Arms

ID = "metarl/MetaWorldML1-v0"


@pytest.fixture(scope="module")
def reach():
    return metarl.make_family(f"{ID}:reach")


@pytest.fixture(scope="module")
def package():
    return metaworld.ML1("reach-v3", seed=0)


@pytest.fixture(scope="module")
def ml10():
    """ML10 with 2 goals instead of 50 for each environment, and the package's object that it was made from."""
    made = []
    with pytest.MonkeyPatch.context() as patch:
        build = metaworld.ML10
        patch.setattr(metaworld, "_N_GOALS", 2)
        patch.setattr(metaworld, "ML10", lambda seed: made.append((seed, build(seed=seed))) or made[0][1])
        meta_world._tables.cache_clear()
        family = MetaWorldML10(horizon=15)
        family.table("train")
        [(seed, package)] = made
        assert seed == 0
        yield family, package
    meta_world._tables.cache_clear()


def vectors(tasks):
    return np.array([pickle.loads(task.data)["rand_vec"] for task in tasks], dtype=np.float32)


def rows(array):
    return {tuple(row) for row in array.tolist()}


@pytest.mark.filterwarnings("ignore:note.*shows the task:metarl.FamilyWarning")  # where the object lies
@pytest.mark.parametrize("preset", [*MetaWorldML1.presets])
def test_the_contract(preset):
    assert metarl.check_family(f'{ID}:{preset}{{"horizon": 10}}', tasks=2) == []


def test_train_tasks_are_the_packages_train_tasks(reach, package):
    # the package's registered "Meta-World/ML1-train" serves the other table
    train, test = (reach.tasks(split, 50).values["scene"] for split in ("train", "test"))
    assert rows(train[:, 1:]) == rows(vectors(package.train_tasks))
    assert rows(test[:, 1:]) == rows(vectors(package.test_tasks))
    assert not rows(train) & rows(test)
    assert len(rows(train)) == len(rows(test)) == 50
    assert (train[:, 0] == 0).all()


def test_another_seed_shuffles_the_same_tasks(reach):
    one, other = (reach.tasks("train", 50, seed).values["scene"] for seed in (0, 1))
    assert rows(one) == rows(other)
    assert not np.array_equal(one, other)


def test_every_task_is_served_before_any_again(reach):
    scenes = reach.tasks("test", 150).values["scene"]
    passes = [scenes[i : i + 50] for i in (0, 50, 100)]
    assert all(len(rows(p)) == 50 for p in passes)
    assert not np.array_equal(passes[0], passes[1])
    crossing = reach.tasks_at("test", np.array([149, 3, 52]))
    assert np.array_equal(crossing.values["scene"], scenes[[149, 3, 52]])


def scene_of(env, name, rng):
    """A scene that the package could draw, `[7]`."""
    space, scene = env._random_reset_space, np.zeros(7, dtype=np.float32)
    while True:
        scene[1 : 1 + len(space.low)] = rng.uniform(space.low, space.high)
        with contextlib.suppress(InvalidValueError):
            meta_world.check_scene((name,), scene)
            return scene


def interrupted(reset):
    reset()
    raise KeyboardInterrupt


def played(name, steps, scenes=1, threads=None):
    """Our states and the package's environments, side by side; yields what both say after each step."""
    family = MetaWorldML1(name)
    if threads:
        family.threads = threads
    rng, theirs = np.random.default_rng(0), [make(name) for _ in range(scenes)]
    drawn = [scene_of(env, name, rng) for env in theirs]
    task = {"scene": torch.from_numpy(np.stack(drawn))}
    first = [begin(env, name, scene[1:]) for env, scene in zip(theirs, drawn, strict=True)]
    state = family.reset(task, None)
    yield family.observe(state, task), torch.zeros(scenes), None, [(obs, 0.0, False) for obs in first]
    for t in range(steps):  # towards the object, then the gripper closes; some actions are outside the box
        now = state["observation"].numpy()
        moves = np.clip(10 * (now[:, 4:7] - now[:, :3]) + rng.normal(0, 0.5, (scenes, 3)), -1.2, 1.2)
        action = np.concatenate([moves, np.full((scenes, 1), 1.0 if t > steps // 2 else -1.0)], axis=1)
        action = action.astype(np.float32)
        state, reward, _, info = family.step(state, torch.from_numpy(action), task, None)
        outcomes = [env.step(a) for env, a in zip(theirs, action, strict=True)]
        yield family.observe(state, task), reward, info["success"], [(o[0], o[1], o[4]["success"]) for o in outcomes]


@pytest.mark.parametrize("name", [*ALL_V3_ENVIRONMENTS])
def test_every_environment_is_the_packages(name):
    # observations bit for bit, step after step; rewards that are computed for all rows at once up to rounding
    for obs, reward, success, theirs in played(name, 40 if name in SKILLS or name in REMEMBERED else 10, scenes=2):
        expected, rewards, successes = (np.array(x) for x in zip(*theirs, strict=True))
        assert np.array_equal(obs.numpy(), expected.astype(np.float32))
        assert np.allclose(reward.numpy(), rewards, rtol=1e-6, atol=2e-6)
        if success is not None:
            assert np.array_equal(success.numpy(), successes.astype(bool))
    assert obs.dtype == torch.float32
    assert obs.shape == (2, 39)
    assert obs[0, -3:].tolist() == [0.0, 0.0, 0.0]  # the goal is hidden


@pytest.mark.parametrize("name", ["push-v3", "stick-pull-v3"])  # rewards of ours, and of the package
def test_threads_change_nothing(name):
    one, two = (list(played(name, 10, scenes=5, threads=threads)) for threads in (1, 2))
    for (obs, reward, *_), (other, rewards, *_) in zip(one, two, strict=True):
        assert torch.equal(obs, other)
        assert torch.equal(reward, rewards)


@pytest.mark.parametrize("name", ["door-open-v3", "lever-pull-v3", "plate-slide-v3"])
def test_a_scene_starts_alike_whatever_the_arm_played_before(name):
    rng, used, fresh = np.random.default_rng(1), Arm(name), Arm(name)
    other, scene = (scene_of(used.env, name, rng)[1:] for _ in range(2))
    state = used.scene(other).physics.copy()
    for _ in range(20):
        used.step(state, 1.0)
    mine, theirs = used.scene(scene), fresh.scene(scene)
    for field in ("bodies", "sites", "physics", "observation", "now"):
        assert np.array_equal(getattr(mine, field), getattr(theirs, field)), field


def test_an_interrupted_reset_leaves_no_arm_in_two_scenes_at_once(monkeypatch):
    rng, arm = np.random.default_rng(1), Arm("door-open-v3")
    one, two = (scene_of(arm.env, arm.name, rng)[1:] for _ in range(2))
    first, state = arm.scene(one), arm.scene(one).physics.copy()
    arm.step(state, 0.0)
    reset = arm.env.reset
    monkeypatch.setattr(arm.env, "reset", lambda: interrupted(reset))
    with pytest.raises(KeyboardInterrupt):
        arm.scene(two)
    arm.place_in(first)
    again = first.physics.copy()
    arm.step(again, 0.0)
    assert np.array_equal(again, state)


def test_a_placement_that_the_package_would_draw_again_is_refused_while_playing(reach):
    with pytest.raises(InvalidValueError, match="a goal further from the object, for reach-v3"):
        reach.reset({"scene": torch.tensor([[0, 0.1, 0.7, 0.02, 0.1, 0.8, 0.2]])}, None)


def test_threads_are_at_least_one():
    with pytest.raises(InvalidValueError, match=r"threads is 0, expected .* 1"):
        Arms(0)


def test_actions_of_other_formats(reach):
    task = reach.tasks("train", 2).tensors("cpu")
    state, action = reach.reset(task, None), torch.full((2, 4), 0.5)
    after = reach.step(state, action, task, None)[0]
    for other in (action.bfloat16(), action.double(), action.clone().requires_grad_()):
        assert torch.equal(reach.step(state, other, task, None)[0]["observation"], after["observation"])


def test_an_arm_plays_scenes_in_any_order(ml10):
    family = ml10[0]
    task = family.tasks("train", 20).tensors("cpu")  # two scenes of each environment
    action = torch.linspace(-1, 1, 80).reshape(20, 4)
    state = family.step(family.reset(task, None), action, task, None)[0]
    mixed = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    after, reward, *_ = family.step(state, action, task, None)
    shuffled = {name: value[mixed] for name, value in state.items()}
    other, rewards, *_ = family.step(shuffled, action[mixed], {"scene": task["scene"][mixed]}, None)
    assert torch.equal(rewards, reward[mixed])
    for name, value in after.items():
        assert torch.equal(other[name].nan_to_num(), value[mixed].nan_to_num()), name


@pytest.mark.filterwarnings("ignore:Constant.* may be too high:UserWarning")  # from the package's policy
def test_success_and_the_horizon(reach):
    # the package's own policy, which needs the goal that the observation hides
    tasks, policy = reach.tasks("test", 1), SawyerReachV3Policy()
    envs = make_environments(reach, 1)
    obs = envs.begin(tasks, torch.tensor([0]), 500)
    success, ends = [], []
    for _ in range(500):
        shown = np.append(obs[0, :-3].numpy(), tasks.values["scene"][0, 4:]).astype(np.float64)
        action = np.clip(policy.get_action(shown), -1, 1)
        out = envs.step(torch.tensor(action, dtype=torch.float32)[None])
        obs = out.obs
        success.append(bool(out.success[0]))
        ends.append((bool(out.terminated[0]), bool(out.truncated[0])))
    envs.close()
    assert not success[0]
    assert any(success)
    assert ends == [(False, False)] * 499 + [(False, True)]


def test_a_side_is_decided_by_content(reach):
    train, test = reach.tasks("train", 3), reach.tasks("test", 3)
    mine = np.float32([0, 0.0, 0.65, 0.02, 0.05, 0.85, 0.1])
    tasks = reach.make_tasks(scene=np.stack([*train.values["scene"], *test.values["scene"], mine]))
    assert reach.held_out(tasks).tolist() == [False] * 3 + [True] * 4


@pytest.mark.parametrize(
    ("scene", "words"),
    [
        ([1, 0.0, 0.65, 0.02, 0.0, 0.85, 0.1], r"task\.scene\[0\] is 1, expected the number of one of 1 environments"),
        ([0.5, 0.0, 0.65, 0.02, 0.0, 0.85, 0.1], r"task\.scene\[0\] is 0\.5"),
        ([0, 0.0, 0.65, 0.02, 0.0, 0.95, 0.1], r"task\.scene\[1:\] is .*, expected from .* for reach-v3"),
        # .1 apart in the plane where the package wants .15: it would look for another placement for ever
        ([0, 0.1, 0.7, 0.02, 0.1, 0.8, 0.2], "expected a goal further from the object, for reach-v3"),
        ([0, 0.0, 0.65, 0.02, 0.0, 0.85], r"task\.scene shape is \(6,\)"),
        ([0, 0.0, 0.65, 0.02, 0.0, 0.85, np.inf], r"task\.scene is inf"),
    ],
)
def test_scenes_that_cannot_be_played_are_refused(reach, scene, words):
    with pytest.raises(InvalidValueError, match=words):
        reach.make_tasks(scene=scene)


def test_ml10_has_the_packages_environments_and_tasks(ml10):
    family, package = ml10
    assert family.names == (*ML10_V3["train"], *ML10_V3["test"])
    for split, tasks, block in (("train", package.train_tasks, 10), ("test", package.test_tasks, 5)):
        served = family.tasks(split, len(tasks))
        expected = set()
        for task in tasks:
            vector = np.float32(pickle.loads(task.data)["rand_vec"])
            expected.add((family.names.index(task.env_name), *np.pad(vector, (0, 6 - len(vector))).tolist()))
        assert rows(served.values["scene"]) == expected
        number = served.values["scene"][:, 0]
        first = 0 if split == "train" else 10
        assert sorted(number[:block]) == sorted(number[block:]) == list(range(first, first + block))
        assert family.held_out(served).tolist() == [split == "test"] * len(tasks)


@pytest.mark.filterwarnings("ignore:note.*shows the task:metarl.FamilyWarning")  # where the object lies
def test_ml10_keeps_the_contract(ml10):
    assert metarl.check_family(ml10[0], tasks=2) == []


def test_shorter_vectors_end_in_zeros(ml10):
    family = ml10[0]
    door = family.names.index("door-open-v3")
    scene = next(s for s in family.tasks("train", 20).values["scene"] if s[0] == door)
    assert (scene[4:] == 0).all()
    assert scene[2] > 0.8
    with pytest.raises(InvalidValueError, match="then 3 zeros, for door-open-v3"):
        family.make_tasks(scene=scene + np.float32([0, 0, 0, 0, 0, 0, 0.1]))


def test_ml45_is_the_packages(monkeypatch, reach):
    asked, table = [], reach.table("train")
    monkeypatch.setattr(meta_world, "_tables", lambda *args: asked.append(args) or {"train": table})
    family = MetaWorldML45()
    family.table("train")
    assert set(asked) == {("ML45", "", (*ML45_V3["train"], *ML45_V3["test"]))}
    assert len(family.names) == 50
    assert family.task_space["scene"].contains(np.float32([49])).all()


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"env_name": "raech-v3"}, "MetaWorldML1.env_name is 'raech-v3', expected .*did you mean 'reach-v3'"),
        ({"horizon": 501}, "MetaWorldML1.horizon is 501, expected a whole number from 1 to 500"),
    ],
)
def test_wrong_keywords_are_named(keywords, words):
    with pytest.raises(InvalidValueError, match=words):
        MetaWorldML1(**keywords)


def test_an_arm_whose_physics_fails_ends_its_episode(reach, ml10, tmp_path, monkeypatch):
    """A velocity beyond 1e10: MuJoCo would begin anew, with an arm that is paid for being elsewhere."""
    monkeypatch.chdir(tmp_path)  # MuJoCo writes MUJOCO_LOG.TXT
    for family in (reach, ml10[0]):
        task = family.tasks("train", 4).tensors()
        action = torch.zeros(4, 4)
        state = family.step(family.reset(task, None), action, task, None)[0]
        broken = {name: value.clone() for name, value in state.items()}
        arm = Arm(family.names[int(task["scene"][2, 0])])
        broken["physics"][2, 3 + arm.model.nq] = 1e12
        with pytest.warns(
            RuntimeWarning, match=rf"an arm of family {family.id} fell apart.* Environment {arm.name}, plac"
        ):
            after, reward, ended, info = family.step(broken, action, task, None)
        plain, rewards, *_ = family.step(state, action, task, None)
        others = torch.tensor([0, 1, 3])
        assert ended.tolist() == [False, False, True, False]
        assert reward[2] == 0
        assert not info["success"][2]
        assert torch.equal(reward[others], rewards[others])
        assert all(torch.equal(after[name][others], plain[name][others]) for name in after if name != "remembered")


def test_a_rollout_goes_on_with_another_episode_after_physics_that_fails(tmp_path, monkeypatch):
    """The first arm's physics fails in its third step: its only episode has three steps, that of the other eight."""
    monkeypatch.chdir(tmp_path)  # MuJoCo writes MUJOCO_LOG.TXT
    family = metarl.make_family(f'{ID}:reach{{"horizon": 8}}')
    arm, steps, step = Arm("reach-v3"), [], family.step

    def breaking(state, action, task, rng):
        steps.append(len(action))
        if len(steps) == 3:
            state = {name: value.clone() for name, value in state.items()}
            state["physics"][0, 3 + arm.model.nq] = 1e12
        return step(state, action, task, rng)

    monkeypatch.setattr(family, "step", breaking)
    agent = metarl.make_agent("random", family)
    trials = PoolTrials(EnvironmentPool(family), family.tasks("test", 2))
    with pytest.warns(RuntimeWarning, match="fell apart") as caught:
        rollout, _ = trials.collect(agent, agent.begin(2), 0, Budget(envs=1, episodes=1))
    assert len(caught) == 1
    assert rollout.valid[:, :, 0].sum(0).tolist() == [3, 8]
    assert rollout.terminated[2, 0, 0]
    assert rollout.reward[2, 0, 0] == 0
