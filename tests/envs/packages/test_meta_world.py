"""Meta-World: the package's own train and test tasks, each where it belongs, played as the package plays them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

pytest.importorskip("metaworld")

import metaworld
from metaworld.env_dict import ML10_V3, ML45_V3
from metaworld.policies import SawyerReachV3Policy

import metarl
from metarl import InvalidValueError
from metarl.engine.pool import make_environments
from metarl.envs.packages import meta_world
from metarl.envs.packages.meta_world import MetaWorldML1, MetaWorldML10, MetaWorldML45

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


def test_a_task_is_played_as_the_package_plays_it(reach, package):
    vector = vectors([package.train_tasks[7]])[0]  # rounded to float32, which moves it by less than 1e-7 m
    data = pickle.loads(package.train_tasks[7].data) | {"rand_vec": vector.astype(np.float64)}
    theirs = package.train_classes["reach-v3"]()
    theirs.set_task(metaworld.Task("reach-v3", pickle.dumps(data)))
    mine = reach.make_env(reach.make_tasks(scene=[0, *vector]))
    assert np.array_equal(mine.reset(seed=3)[0], theirs.reset()[0].astype(np.float32))
    for action in np.random.default_rng(0).uniform(-1, 1, (40, 4)).astype(np.float32):
        obs, *rest = mine.step(action)
        expected, reward, _, _, info = theirs.step(action)
        assert np.array_equal(obs, expected.astype(np.float32))
        assert rest == [reward, False, False, {"success": bool(info["success"])}]
    assert obs.dtype == np.float32
    assert obs.shape == (39,)
    assert obs[-3:].tolist() == [0.0, 0.0, 0.0]  # the goal is hidden
    mine.close()
    theirs.close()


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
    # the environment that was asked is as good as new
    env = reach.make_env(reach.tasks("train", 1))
    assert np.isfinite(env.reset()[0]).all()
    env.close()


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


def test_environments_are_shared_one_after_the_other(ml10):
    family = ml10[0]
    idle = meta_world._idle
    idle.clear()
    env = family.make_env(family.tasks("train", 1))
    for i in range(20):  # each of 10 environments twice
        env.set_metarl_task({"scene": family.tasks("train", 1, start=i).values["scene"][0]})
        env.reset()
    env.close()
    assert {name: len(arms) for (name, _), arms in idle.items() if arms} == dict.fromkeys(ML10_V3["train"], 1)


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
