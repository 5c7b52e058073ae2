"""Tasks as data: what is drawn, where it is addressed, which side it lies on, and how it is kept."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import pickle
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy import stats

import metarl
from metarl import Choice, FlatDirichlet, InvalidValueError, LogUniform, Normal, Tasks, Uniform
from metarl.families.distributions import Repeated
from metarl.families.gym_family import task_dict
from metarl.families.task_spaces import count_tasks, has_few_tasks, space_from_dict, space_to_dict
from metarl.families.tasks import content_hash, list_tasks, on_side, sample_tasks
from metarl.interop.sb3 import make_sb3_env

COUNT = 20_000


class Everything(metarl.TorchFamily):
    """One parameter of each kind."""

    id = "toy/Everything-v0"
    horizon = 1
    task_space: ClassVar = {
        "width": Uniform(-2.0, 3.0, (2,)),
        "mass": LogUniform(0.1, 10.0),
        "shift": Normal(1.0, 2.0, (3,)),
        "corner": Choice([[1, 2], [3, 4], [5, 6], [7.5, -1]]),
        "rows": FlatDirichlet((2, 3)),
    }
    ood: ClassVar = {"wide": {"width": Uniform(4.0, 5.0, (2,))}}


FAMILY = Everything()


@pytest.fixture(scope="module")
def drawn():
    """Train tasks, enough to see how they are distributed."""
    return FAMILY.tasks("train", COUNT)


# Train tasks have passed the hash split: these also say that the split distorts no distribution. The seed is fixed; a
# right sampler had a chance of 1 in 1000 to fail each test.


def assert_mean_and_std(x, mean, std):
    error = std / math.sqrt(x.size)
    assert abs(x.mean() - mean) < 4 * error
    assert abs(x.std() - std) < 4 * error  # the standard error of a std is at most that of the mean for these laws


def test_uniform(drawn):
    x = drawn.values["width"]
    assert x.shape == (COUNT, 2)
    assert x.dtype == np.float32
    assert x.min() >= -2.0
    assert x.max() <= 3.0
    assert_mean_and_std(x.astype(float), 0.5, 5 / math.sqrt(12))
    for axis in range(2):
        assert stats.kstest(x[:, axis], stats.uniform(-2, 5).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(x.T)[0, 1]) < 4 / math.sqrt(COUNT)


def test_log_uniform(drawn):
    x = drawn.values["mass"].astype(float)
    assert x.shape == (COUNT,)
    assert x.min() >= 0.1 * (1 - 1e-6)
    assert x.max() <= 10 * (1 + 1e-6)
    assert stats.kstest(np.log10(x), stats.uniform(-1, 2).cdf).pvalue > 1e-3
    # E x = (10 - .1) / ln 100 = 2.1497, E x^2 = (100 - .01) / (2 ln 100) = 10.856
    assert abs(x.mean() - 2.1497) < 4 * math.sqrt((10.856 - 2.1497**2) / COUNT)


def test_normal(drawn):
    x = drawn.values["shift"].astype(float)
    assert x.shape == (COUNT, 3)
    assert_mean_and_std(x, 1.0, 2.0)
    assert stats.kstest(x[:, 2], stats.norm(1, 2).cdf).pvalue > 1e-3


def test_choice(drawn):
    x = drawn.values["corner"]
    assert x.shape == (COUNT, 2)
    found, counts = np.unique(x, axis=0, return_counts=True)
    assert found.tolist() == [[1, 2], [3, 4], [5, 6], [7.5, -1]]
    assert stats.chisquare(counts).pvalue > 1e-3


def test_flat_dirichlet(drawn):
    x = drawn.values["rows"].astype(float)
    assert x.shape == (COUNT, 2, 3)
    assert (x >= 0).all()
    np.testing.assert_allclose(x.sum(-1), 1.0, atol=1e-6)
    # each element of Dirichlet(1, 1, 1) is Beta(1, 2)
    for row, column in ((0, 0), (1, 2)):
        assert stats.kstest(x[:, row, column], stats.beta(1, 2).cdf).pvalue > 1e-3


def test_parameters_are_independent(drawn):
    leaves = [v.reshape(COUNT, -1)[:, :1] for v in drawn.values.values()]
    r = np.corrcoef(np.concatenate(leaves, 1).T)
    assert np.abs(r[np.triu_indices(len(leaves), 1)]).max() < 4 / math.sqrt(COUNT)


def test_ood_replaces_the_named_parameters_only():
    x = FAMILY.tasks("wide", 2000)
    assert x.values["width"].min() >= 4.0
    assert x.values["width"].max() <= 5.0
    assert stats.kstest(np.log10(x.values["mass"]), stats.uniform(-1, 2).cdf).pvalue > 1e-3


@pytest.mark.parametrize("dist", list(FAMILY.task_space.values()), ids=lambda d: d.kind)
def test_a_distribution_contains_what_it_draws(dist, drawn):
    name = next(k for k, v in FAMILY.task_space.items() if v is dist)
    assert dist.contains(drawn.values[name]).all()
    assert dist.contains(drawn.values[name]).shape == drawn.values[name].shape


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Uniform(1.0, 1.0), ["Uniform(low, high)", "(1.0, 1.0)", "low < high"]),
        (lambda: Uniform(0.0, math.inf), ["Uniform(low, high)", "inf", "finite"]),
        (lambda: LogUniform(0.0, 1.0), ["LogUniform(low, high)", "(0.0, 1.0)", "0 < low"]),
        (lambda: Normal(0.0, 0.0), ["Normal(mean, std)", "positive std"]),
        (lambda: Choice([]), ["Choice(values)", "at least one"]),
        (lambda: Choice([1, 2, 1]), ["Choice(values)", "[1, 2, 1]", "different"]),
        (lambda: Choice([[1, 2], [3]]), ["Choice(values)", "one shape"]),
    ],
)
def test_impossible_distributions_are_refused(build, words):
    with pytest.raises(InvalidValueError) as caught:
        build()
    assert all(w in str(caught.value) for w in words)


def same_values(a, b):
    return a.values.keys() == b.values.keys() and all(np.array_equal(a.values[k], b.values[k]) for k in a.values)


@pytest.mark.parametrize("split", ["train", "test", "wide"])
def test_a_task_is_the_same_whatever_is_drawn_beside_it(split):
    many = FAMILY.tasks(split, 40, seed=3)
    assert same_values(FAMILY.tasks(split, 7, seed=3), many[:7])
    assert same_values(FAMILY.tasks(split, 5, seed=3, start=30), many[30:35])
    assert same_values(FAMILY.tasks_at(split, np.array([9, 2, 2, 39]), seed=3), many[[9, 2, 2, 39]])
    assert FAMILY.tasks(split, 5, seed=3, start=30).index.tolist() == [30, 31, 32, 33, 34]


def test_addresses_differ_in_seed_split_family_and_number():
    class Other(Everything):
        id = "toy/Everything-v1"

    sets = [
        FAMILY.tasks("train", 50),
        FAMILY.tasks("train", 50, start=50),
        FAMILY.tasks("train", 50, seed=1),
        FAMILY.tasks("test", 50),
        Other().tasks("train", 50),
    ]
    hashes = np.concatenate([content_hash(s.values) for s in sets])
    assert len(np.unique(hashes)) == 250
    keys = torch.cat([s.keys for s in sets])
    assert len(keys.unique()) == 250


def test_first_tasks_of_a_published_split_are_pinned():
    # Literal values: changing one changes every published number.
    goal = metarl.make_family("metarl/PointNavigation-v0").tasks("test", 2).values["goal"]
    np.testing.assert_array_equal(goal, np.float32([[-0.17805028, 0.037908375], [0.41342467, -0.4987164]]))


def test_iteration_and_subsets_keep_addresses():
    tasks = FAMILY.tasks("train", 6, start=10)
    assert [int(t.index[0]) for t in tasks] == list(range(10, 16))
    assert tasks[[4, 0]].index.tolist() == [14, 10]
    assert tasks[-1].index.tolist() == [15]
    assert len(tasks[2:5]) == 3
    assert tasks[np.array([True, False] * 3)].index.tolist() == [10, 12, 14]
    assert torch.equal(tasks[[4, 0]].keys, tasks.keys[[4, 0]])


def test_numpy_seeds_are_seeds():
    tasks = FAMILY.tasks("train", 2, seed=np.int64(5))
    assert same_values(tasks, FAMILY.tasks("train", 2, seed=5))
    assert Tasks.from_dict(json.loads(json.dumps(tasks.to_dict()))).hash == tasks.hash


def test_count_must_be_positive():
    with pytest.raises(InvalidValueError, match="count of tasks is 0, expected a whole number, at least 1"):
        FAMILY.tasks("train", 0)


@pytest.mark.parametrize(("count", "start"), [(2.5, 0), (True, -1), (1, 1 << 63), (1, 0.5)])
def test_counts_and_numbers_of_tasks_are_whole(count, start):
    with pytest.raises(InvalidValueError, match="expected a whole number, at least"):
        metarl.make_family("metarl/PointNavigation-v0").tasks("train", count, start=start)


def test_train_and_test_lie_on_different_sides():
    train, test = FAMILY.tasks("train", 3000), FAMILY.tasks("test", 3000)
    assert not np.intersect1d(content_hash(train.values), content_hash(test.values)).size
    assert on_side(train, 0).all()
    assert on_side(test, 1).all()
    assert not FAMILY.held_out(train).any()
    assert FAMILY.held_out(test).all()


def test_the_side_is_decided_by_content():
    for split, held_out in (("train", False), ("test", True)):
        own = FAMILY.make_tasks(**FAMILY.tasks(split, 100, seed=8).values)
        assert own.split == "custom"
        assert (FAMILY.held_out(own) == held_out).all()
    assert FAMILY.held_out(FAMILY.tasks("wide", 20)).all()  # out of the range: no training draw can produce it


def test_half_of_all_tasks_lie_on_each_side():
    space = dict(FAMILY.task_space)
    free = sample_tasks("toy/Free-v0", space, "train", 0, np.arange(COUNT), None)
    assert abs(on_side(free, 0).mean() - 0.5) < 4 * 0.5 / math.sqrt(COUNT)


def test_a_redrawn_task_keeps_its_neighbours():
    # tasks whose first draw is on the right side are that first draw; the others were drawn again
    space, index = dict(FAMILY.task_space), np.arange(500)
    free = sample_tasks("toy/Free-v0", space, "train", 0, index, None)
    kept = sample_tasks("toy/Free-v0", space, "train", 0, index, 0)
    first = on_side(free, 0)
    assert 150 < first.sum() < 350
    same = np.array([same_values(a, b) for a, b in zip(free, kept, strict=True)])
    assert (same == first).all()


def test_content_hash_reads_values_and_not_how_they_are_stored():
    x = np.array([[0.0, 1.5], [2.0, -3.0]], dtype=np.float32)
    base = content_hash({"a": x})
    negative_zero = np.array([[-0.0, 1.5], [2.0, -3.0]])  # and float64
    assert np.array_equal(content_hash({"a": negative_zero}), base)
    assert np.array_equal(content_hash({"a": np.asfortranarray(x)}), base)
    assert np.array_equal(content_hash({"a": x[::-1]}), base[::-1])  # each task on its own
    assert (content_hash({"b": x}) != base).all()
    assert (content_hash({"a": x[:, ::-1]}) != base).all()
    assert (content_hash({"a": np.nextafter(x, np.float32(9))}) != base).all()
    assert np.array_equal(content_hash({"a": x, "b": x}), content_hash({"b": x, "a": x}))


def test_finite_families_say_so_and_hold_nothing_out():
    class Directions(metarl.TorchFamily):
        id = "toy/Directions-v0"
        horizon = 1
        task_space: ClassVar = {"direction": Choice([-1, 1])}

    family = Directions()
    assert family.finite
    for split in ("train", "test"):
        tasks = family.tasks(split, 64)
        assert set(tasks.values["direction"].tolist()) == {-1.0, 1.0}  # no side is missing one
        assert not family.held_out(tasks).any()
    assert not FAMILY.finite


def test_a_family_is_finite_up_to_sixteen_tasks():
    class Grid(metarl.TorchFamily):
        horizon = 1

        def __init__(self, *sizes):
            self.task_space = {f"p{i}": Choice(range(n)) for i, n in enumerate(sizes)}

    assert Grid(16).finite
    assert Grid(4, 4).finite
    assert not Grid(17).finite
    assert not Grid(4, 5).finite
    train, test = Grid(4, 5).tasks("train", 500), Grid(4, 5).tasks("test", 500)
    assert not np.intersect1d(content_hash(train.values), content_hash(test.values)).size


def test_tasks_cannot_be_changed():
    tasks = FAMILY.tasks("train", 3)
    before = tasks.hash
    for array in (*tasks.values.values(), tasks.index, tasks[1:].values["mass"]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        tasks.seed = 4
    tasks.tensors()["mass"].fill_(7.0)  # tensors are copies
    assert tasks.hash == before


def test_making_tasks_leaves_the_users_array_alone():
    goal = np.zeros((2, 2), dtype=np.float32)
    metarl.make_family("metarl/PointNavigation-v0").make_tasks(goal=goal)
    assert goal.flags.writeable


def test_tasks_do_not_follow_the_users_array():
    goal = np.zeros(2, dtype=np.float32)
    tasks = metarl.make_family("metarl/PointNavigation-v0").make_tasks(goal=goal)
    goal[:] = 0.25
    assert (tasks.values["goal"] == 0).all()


@pytest.mark.parametrize("suffix", [".json", ".npz"])
@pytest.mark.parametrize("split", ["train", "test", "wide"])
def test_round_trip_is_exact(tmp_path, suffix, split):
    tasks = FAMILY.tasks(split, 20, seed=2, start=5)
    path = tmp_path / "new" / f"tasks{suffix}"
    tasks.save(path)
    back = Tasks.load(path)
    assert same_values(back, tasks)
    assert all(v.dtype == np.float32 for v in back.values.values())
    assert back.index.tolist() == tasks.index.tolist()
    assert (back.family, back.split, back.seed, back.space) == (tasks.family, split, 2, tasks.space)
    assert back.hash == tasks.hash
    assert torch.equal(back.keys, tasks.keys)
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name]  # no temporary file is left


def test_round_trip_through_json_text_and_pickle():
    tasks = FAMILY.tasks("test", 5)
    assert same_values(Tasks.from_dict(json.loads(json.dumps(tasks.to_dict()))), tasks)
    assert same_values(pickle.loads(pickle.dumps(tasks)), tasks)  # worker processes


def test_spaces_round_trip_through_json():
    space = dict(FAMILY.task_space)
    assert space_from_dict(json.loads(json.dumps(space_to_dict(space)))) == space


def tamper(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_a_tampered_file_is_refused(tmp_path):
    path = tmp_path / "tasks.json"
    tasks = FAMILY.tasks("train", 3)
    tasks.save(path)
    tamper(path, lambda d: d["values"]["mass"].__setitem__(1, d["values"]["mass"][1] + 0.5))
    with pytest.raises(InvalidValueError, match=f"tasks hash is '{tasks.hash}', expected '[0-9a-f]{{16}}'"):
        Tasks.load(path)


def test_a_file_that_claims_another_family_is_refused(tmp_path):
    path = tmp_path / "tasks.json"
    FAMILY.tasks("train", 3).save(path)
    tamper(path, lambda d: d.update(family="toy/Another-v0"))
    with pytest.raises(InvalidValueError, match="tasks hash"):
        Tasks.load(path)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda d: d.update(index=[0]), id="index-short"),
        pytest.param(lambda d: d.update(values=[]), id="values-list"),
        pytest.param(lambda d: d.update(values={}), id="values-empty"),
        pytest.param(lambda d: d["values"].pop("mass"), id="parameter-missing"),
        pytest.param(lambda d: d.update(index="abc"), id="index-text"),
        pytest.param(lambda d: d.pop("hash"), id="hash-missing"),
        pytest.param(lambda d: d.update(format="metarl-tasks-0"), id="format"),
        pytest.param(lambda d: d["space"]["mass"].update(kind="zip"), id="kind"),
        pytest.param(lambda d: d["space"]["mass"].update(hihg=1), id="kind-keyword"),
    ],
)
def test_a_broken_file_is_one_clear_sentence(tmp_path, change):
    path = tmp_path / "tasks.json"
    FAMILY.tasks("train", 3).save(path)
    tamper(path, change)
    with pytest.raises(InvalidValueError, match="expected"):
        Tasks.load(path)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        *[("a.json", data) for data in (b"", b"hello", b"PK\x03\x04", b"[]", b"\xff\xfe\x00")],
        *[("a.npz", data) for data in (b"", b"hello", b"PK\x03\x04", b"[]", b"\xff\xfe\x00")],
    ],
)
def test_junk_is_one_clear_sentence(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InvalidValueError, match="expected"):
        Tasks.load(tmp_path / name)


@pytest.mark.parametrize("name", ["a.json", "a.npz"])
def test_a_missing_file_is_one_clear_sentence(tmp_path, name):
    with pytest.raises(InvalidValueError, match=f"tasks file is .*{name}.*No such file"):
        Tasks.load(tmp_path / name)


class Bomb:
    """Its unpickling would be noticed."""

    def __reduce__(self):
        return (pytest.fail, ("the pickle was executed",))


@pytest.mark.parametrize("how", ["array", "file"])
def test_a_pickled_npz_is_refused_unexecuted(tmp_path, how):
    path = tmp_path / "evil.npz"
    if how == "array":
        np.savez(path, head=np.array([Bomb()], dtype=object), index=np.arange(1))
    else:
        path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InvalidValueError, match=r"tasks file is .*evil\.npz"):
        Tasks.load(path)


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(InvalidValueError, match=r"path is .*tasks\.pkl.*\.json or \.npz"):
        FAMILY.tasks("train", 1).save(tmp_path / "tasks.pkl")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_an_unwritable_path_leaves_nothing(tmp_path, suffix):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / f"folder{suffix}").mkdir()
    for path in (tmp_path / "file" / f"tasks{suffix}", tmp_path / f"folder{suffix}"):
        with pytest.raises(InvalidValueError, match=r"output path is .*, expected a place that") as caught:
            FAMILY.tasks("train", 1).save(path)
        assert caught.value.value == str(path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", f"folder{suffix}"]
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "tasks.json"
    old = FAMILY.tasks("train", 1)
    old.save(path)

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InvalidValueError, match="No space left"):
        FAMILY.tasks("test", 9).save(path)
    assert Tasks.load(path).hash == old.hash
    assert [p.name for p in tmp_path.iterdir()] == ["tasks.json"]


GOOD = {"width": [0, 1], "mass": 1.0, "shift": [0, 0, 0], "corner": [3, 4], "rows": [[0.2, 0.3, 0.5], [1, 0, 0]]}


def test_one_task_or_several():
    one = FAMILY.make_tasks(**GOOD)
    assert len(one) == 1
    assert one.split == "custom"
    assert one.family == "toy/Everything-v0"
    assert one.values["rows"].shape == (1, 2, 3)
    assert one.values["mass"].tolist() == [1.0]
    three = FAMILY.make_tasks(**{k: np.stack([v] * 3) for k, v in GOOD.items()})
    assert three.index.tolist() == [0, 1, 2]
    assert same_values(three[1], one)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mass": None}, ["task parameter 'mass' is missing", "['corner', 'mass', 'rows', 'shift', 'width']"]),
        ({"mas": 1.0}, ["task parameter 'mas' is unknown", "toy/Everything-v0"]),
        ({"mass": 20.0}, ["task.mass is 20", "a number in [0.1, 10]", "toy/Everything-v0"]),
        ({"width": [0, 3.5]}, ["task.width is 3.5", "numbers in [-2, 3]"]),
        ({"shift": [0, math.nan, 0]}, ["task.shift is nan", "finite numbers"]),
        ({"corner": [1, 4]}, ["task.corner is 1", "one of [1, 2], [3, 4]"]),
        ({"rows": [[0.5, 0.5, 0.5], [1, 0, 0]]}, ["task.rows is 0.5", "sum to 1"]),
        ({"rows": [[-0.5, 1.0, 0.5], [1, 0, 0]]}, ["task.rows is -0.5", "non-negative"]),
        ({"width": [0, 1, 2]}, ["task.width shape is (3,)", "(2,)"]),
        ({"width": 1.0}, ["task.width shape is ()", "(2,)"]),
        ({"width": "wide"}, ["task.width is 'wide'", "numbers of shape (2,)"]),
        ({"width": [[0, 1], [0]]}, ["task.width is [[0, 1], [0]]", "numbers"]),
        ({"mass": [1.0, 2.0, 3.0]}, ["number of tasks is", "'mass': 3", "'width': 1", "the same for every parameter"]),
    ],
)
def test_errors_name_field_value_and_expectation(change, words):
    values = {k: v for k, v in {**GOOD, **change}.items() if v is not None}
    with pytest.raises(InvalidValueError) as caught:
        FAMILY.make_tasks(**values)
    for word in words:
        assert word in str(caught.value)


def test_errors_travel_between_processes():
    with pytest.raises(InvalidValueError) as caught:
        FAMILY.make_tasks(**{**GOOD, "mass": 20.0})
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_range_holds_its_own_ends():
    for width in ([-2, -2], [3, 3], np.float32([-2, 3])):
        assert len(FAMILY.make_tasks(**{**GOOD, "width": width})) == 1
    assert len(FAMILY.make_tasks(**{**GOOD, "mass": 0.1})) == 1  # .1 in float32 lies above .1


def test_integers_are_whole_and_reach_both_ends():
    family = metarl.GymFamily("CartPole-v1", {"level": metarl.Integers(-2, 3), "x": metarl.Integers(0, 1, (4,))}, str)
    tasks = family.tasks("train", 600)
    assert sorted(set(tasks.values["level"].tolist())) == [-2, -1, 0, 1, 2, 3]
    assert tasks.values["x"].shape == (600, 4)
    assert set(tasks.values["x"].ravel().tolist()) == {0.0, 1.0}
    counts = np.bincount((family.tasks("train", 6000).values["level"] + 2).astype(int)) / 6000
    np.testing.assert_allclose(counts, 1 / 6, atol=0.06)  # a share of the tasks is on the test side
    with pytest.raises(InvalidValueError, match=r"task.level is 0.5, expected a whole number in \[-2, 3\]"):
        family.make_tasks(level=0.5, x=[0, 0, 0, 0])
    for wrong in ((3, 3), (0.0, 2), (0, 1 << 25)):
        with pytest.raises(InvalidValueError, match=r"Integers\(low, high\)"):
            metarl.Integers(*wrong)


def test_few_integers_are_a_finite_family():
    space = {"a": metarl.Integers(0, 3), "b": metarl.Choice([1.0, 2.0])}
    assert has_few_tasks(space)
    assert not has_few_tasks({**space, "c": metarl.Integers(0, 2)})


def test_repeated_distributions_survive_json():
    space = {
        "a": Repeated(metarl.Choice([[0.0, 1.0], [2.0, 3.0]]), 3),
        "b": Repeated(metarl.Uniform(0.0, 1.0, (2,)), 2),
    }
    assert space_from_dict(json.loads(json.dumps(space_to_dict(space)))) == space
    assert space["a"].shape == (3, 2)
    values = np.float32([[[0, 1], [2, 3], [0, 1]]])
    assert space["a"].contains(values).all()
    assert not space["a"].contains(values + 1).all()
    assert has_few_tasks({"a": space["a"]})  # 2 ** 3
    with pytest.raises(InvalidValueError, match=r"Repeated.count is 0"):
        Repeated(metarl.Uniform(0.0, 1.0), 0)


def test_tasks_of_another_version_are_refused(tmp_path):
    family = metarl.make_family("metarl/GridNavi-v0")
    data = family.tasks("test", 3).to_dict()
    data["family"] = "metarl/GridNavi-v1"
    with pytest.raises(InvalidValueError, match="tasks hash"):  # the version is part of what is hashed
        Tasks.from_dict(data)
    other = dataclasses.replace(family.tasks("test", 3), family="metarl/GridNavi-v1")
    other.save(tmp_path / "tasks.json")
    agent = metarl.make_agent("random", family)
    with pytest.raises(
        InvalidValueError, match="family of the tasks is 'metarl/GridNavi-v1', expected 'metarl/GridNavi-v0'"
    ):
        metarl.evaluate(agent, Tasks.load(tmp_path / "tasks.json"), k=0)


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: metarl.Uniform("a", 1), "Uniform.low is 'a', expected a number"),
        (lambda: metarl.Uniform(0, None), "Uniform.high is None, expected a number"),
        (lambda: metarl.LogUniform(1, "2"), "LogUniform.high is '2', expected a number"),
        (lambda: metarl.Normal(0.0, [1.0]), r"Normal.std is \[1.0\], expected a number"),
        (lambda: metarl.Normal(True, 1.0), "Normal.mean is True, expected a number"),
    ],
)
def test_ranges_are_numbers(build, field):
    with pytest.raises(metarl.InvalidValueError, match=field):
        build()


def test_tasks_print_as_one_line():
    tasks = metarl.make_family("metarl/TabularMDP-v0").tasks("test", 40, seed=3)
    expected = "Tasks(40 of split 'test', seed 3, of metarl/TabularMDP-v0: "
    assert repr(tasks) == expected + "transition [40, 10, 5, 10], reward [40, 10, 5])"


@pytest.mark.parametrize(
    "id", ["metarl/HalfCheetahDir-v0", "metarl/GridNavi-v0", "metarl/DarkRoom-v0", "metarl/TMaze-v0"]
)
def test_tasks_that_can_be_listed_come_once_each_before_any_again(id):
    family = metarl.make_family(id)
    for split in ("train", "test"):
        count = len(family.listed(split))
        passes = [content_hash(family.tasks(split, count, start=start).values) for start in (0, count, 2 * count)]
        assert all(len(set(one.tolist())) == count for one in passes)
        assert all(set(one.tolist()) == set(passes[0].tolist()) for one in passes[1:])
    if not family.finite:
        sides = [set(content_hash(family.listed(split).values).tolist()) for split in ("train", "test")]
        assert not sides[0] & sides[1]
        assert sum(map(len, sides)) == count_tasks(family.task_space)


def test_a_finite_familys_two_test_tasks_are_its_two_tasks():
    values = metarl.make_family("metarl/HalfCheetahDir-v0").tasks("test", 2).values["direction"]
    assert sorted(values.tolist()) == [-1.0, 1.0]


def test_passes_and_seeds_shuffle_anew_and_addresses_stay():
    family = metarl.make_family("metarl/GridNavi-v0")
    first, second = (family.tasks("test", 21, start=start).values["goal"] for start in (0, 21))
    other = family.tasks("test", 21, seed=1)
    assert (first != second).any()
    assert (first != other.values["goal"]).any()
    assert (other.seed, other.index.tolist()) == (1, list(range(21)))
    alone = family.tasks("test", 1, start=30)
    np.testing.assert_array_equal(alone.values["goal"][0], second[9])
    assert alone.index.tolist() == [30]


def test_spaces_are_listed_by_every_combination():
    space = {
        "a": metarl.Choice([5.0, 7.0]),
        "b": metarl.Integers(-1, 1, (2,)),
        "c": Repeated(metarl.Choice([0.5, 1.5]), 2),
    }
    listed = list_tasks("mine/Many-v0", space, "test", None)
    rows = {tuple(np.concatenate([listed.values[name][i].ravel() for name in "abc"])) for i in range(len(listed))}
    expected = itertools.product((5, 7), *[(-1, 0, 1)] * 2, *[(0.5, 1.5)] * 2)
    assert rows == set(expected)
    assert len(listed) == 2 * 9 * 4
    assert list_tasks("mine/Many-v0", space | {"d": metarl.Integers(0, 1000)}, "test", None) is None
    assert list_tasks("mine/Many-v0", {"d": metarl.Uniform(0, 1)}, "test", None) is None
    assert count_tasks({"d": metarl.Integers(0, 9, (400,))}) == float("inf")
    maps = {name: metarl.Integers(0, 9, (300,)) for name in "ef"}  # 10^600 of them: more than a float holds
    assert list_tasks("mine/Maps-v0", {**maps, "g": metarl.Uniform(0, 1)}, "test", 0) is None


COLOURS = metarl.Choice(["red", "green", {"r": 1}, None])


def test_values_that_are_no_numbers_are_held_by_their_index():
    tasks = metarl.families.tasks.make_tasks(
        "mine/Colour-v0", {"colour": COLOURS}, {"colour": ["green", "red", {"r": 1}, None]}
    )
    assert tasks.values["colour"].tolist() == [1.0, 0.0, 2.0, 3.0]
    assert [task_dict(tasks, row)["colour"] for row in range(4)] == ["green", "red", {"r": 1}, None]
    assert set(COLOURS.sample(metarl.Rng(torch.arange(100))).tolist()) == {0.0, 1.0, 2.0, 3.0}
    again = Tasks.from_dict(json.loads(json.dumps(tasks.to_dict())))
    assert task_dict(again)["colour"] == "green"
    with pytest.raises(metarl.InvalidValueError, match=r"task.colour is 'blue', expected one of red, green"):
        metarl.families.tasks.make_tasks("mine/Colour-v0", {"colour": COLOURS}, {"colour": "blue"})


@pytest.mark.parametrize(
    ("dist", "given", "plain"),
    [
        (metarl.Integers(0, 9), 3, 3),
        (metarl.Integers(0, 9, (2,)), [3, 4], np.array([3, 4])),
        (metarl.Choice([1, 2, 3]), 2, 2),
        (metarl.Choice([True, False]), True, True),
        (metarl.Choice([0.5, 2.0]), 2.0, 2.0),
        (metarl.Choice([[1, 2], [3, 4]]), [3, 4], np.array([3, 4])),
        (metarl.Uniform(0, 1), 0.5, 0.5),
        (metarl.Uniform(0, 1, (2,)), [0.5, 0.25], np.array([0.5, 0.25], dtype=np.float32)),
        (Repeated(metarl.Integers(0, 9), 3), [3, 4, 5], np.array([3, 4, 5])),
        (Repeated(metarl.Choice(["a", "b"]), 2), ["b", "a"], ["b", "a"]),
    ],
)
def test_environments_are_given_values_with_their_types(dist, given, plain):
    got = task_dict(metarl.families.tasks.make_tasks("mine/Typed-v0", {"x": dist}, {"x": given}))["x"]
    assert type(got) is type(plain)
    if isinstance(plain, np.ndarray):
        assert got.dtype == plain.dtype
    np.testing.assert_array_equal(got, plain)


@pytest.mark.parametrize(
    "values", ["red", [], ["a", "a"], [object()], [[1, 2], [3]], [1.0, float("nan")], [1 << 24, (1 << 24) + 1]]
)
def test_a_choice_of_what_cannot_be_told_apart_or_written_down_is_refused(values):
    with pytest.raises(metarl.InvalidValueError, match="Choice"):
        metarl.Choice(values)


@pytest.mark.parametrize("id", ["metarl/PointNavigation-v0", "mine/Sized-v0"])
def test_every_door_refuses_tasks_of_another_family(scratch_registry, id):
    metarl.register_family(
        "mine/Sized-v0", env="Pendulum-v1", task_space={"g": metarl.Uniform(1, 2)}, apply="attrs", horizon=9
    )
    other = metarl.make_family("metarl/BernoulliBandit-v0").tasks("train", 1)
    family = metarl.make_family(id)
    doors = [
        lambda: gym.make(id, task=other),
        lambda: gym.make_vec(id, num_envs=2, task=other),
        lambda: gym.make(id).reset(options={"task": other}),
        lambda: make_sb3_env(id, task=other),
        lambda: make_sb3_env(id, task=other, redraw="episode"),
        lambda: metarl.evaluate(metarl.make_agent("random", family), other),
    ]
    for door in doors:
        with pytest.raises(metarl.InvalidValueError, match="family of the tasks is 'metarl/BernoulliBandit-v0'"):
            door()
    with pytest.raises(metarl.InvalidValueError, match="task is True, expected an index"):
        gym.make(id, task=True)
