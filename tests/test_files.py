"""Files: written through no link, and whatever their bytes, read as what was written or refused in a sentence."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import metarl
from metarl.errors import InvalidValueError
from metarl.evaluation import results
from metarl.evaluation.results import Results
from metarl.families.tasks import Tasks
from metarl.files import NpzReader, digest_arrays, digest_json, write_atomic, write_json, write_npz
from metarl.runs.checkpoints import load_checkpoint, save_checkpoint
from metarl.runs.metrics_log import lines_before
from metarl.runs.run import Run

sys.path.insert(0, str(Path(__file__).resolve().parent))

import fuzz_files

# --- writing ---------------------------------------------------------------------------------------------------------


def test_a_planted_link_stays_and_what_it_points_to_is_unharmed(tmp_path: Path) -> None:
    """Under the name that a temporary file could be guessed to have, and under the one that it has."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in (".test.json.part", ".test.json.tmp", "test.json.part"):
        (tmp_path / name).symlink_to(victim)
    write_atomic(tmp_path / "test.json", b"new")
    assert victim.read_text() == "mine"
    assert sum(path.is_symlink() for path in tmp_path.iterdir()) == 3
    assert (tmp_path / "test.json").read_bytes() == b"new"


def test_temporary_names_are_taken_by_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []
    replace_ = os.replace
    monkeypatch.setattr("os.replace", lambda a, b: used.append(Path(a).name) or replace_(a, b))
    for _ in range(2):
        write_atomic(tmp_path / "a", b"")
    assert len(set(used)) == 2
    monkeypatch.setattr("secrets.token_hex", lambda size: "guessed")
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / ".metarl-guessed.part").symlink_to(victim)
    with pytest.raises(InvalidValueError, match=r"expected a place that can be written \(File exists\)"):
        write_atomic(tmp_path / "a", b"new")
    assert victim.read_text() == "mine"
    assert (tmp_path / ".metarl-guessed.part").is_symlink()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_removes_its_own_temporary_file_alone(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".metarl-0123456789abcdef.part").write_text("another's")
    (tmp_path / "a").write_text("old")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises((InvalidValueError, KeyboardInterrupt)):
        write_atomic(tmp_path / "a", b"new")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".metarl-0123456789abcdef.part", "a"]
    assert (tmp_path / "a").read_text() == "old"


def test_a_link_in_the_files_place_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim, link = tmp_path / "victim", tmp_path / "a"
    victim.write_text("mine")
    link.symlink_to(victim)
    write_atomic(link, b"new")
    assert (victim.read_text(), link.read_text(), link.is_symlink()) == ("mine", "new", False)


def test_modes_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/null")])
def test_what_is_no_file_is_not_replaced(make: Callable[[Path], Any], tmp_path: Path) -> None:
    make(tmp_path / "a")
    before = (tmp_path / "a").lstat()
    with pytest.raises(InvalidValueError, match=r"a place that can be written \(it exists and is not a file"):
        write_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "a").lstat().st_ino == before.st_ino
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "\ud800"])
def test_names_that_cannot_be_are_a_sentence(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match=r"output path is .*, expected a place that can be written"):
        write_atomic(tmp_path / name, b"new")
    assert not list(tmp_path.iterdir())


# --- npz -------------------------------------------------------------------------------------------------------------


def test_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "a": rng.normal(size=(3, 2, 5)),
        "b.c": rng.normal(size=(4, 3)).T,
        "none": np.zeros((0, 2)),
        "one": np.float64(3.5),
        "whole": np.arange(5),
        "nan": np.array([np.nan, -0.0, np.inf]),
        "long": np.arange(300_000.0),
    }
    write_npz(tmp_path / "a.npz", arrays)
    file = NpzReader((tmp_path / "a.npz").read_bytes())
    assert list(file.arrays) == list(arrays)
    for name, values in arrays.items():
        found = file.read(name, np.asarray(values).dtype.str)
        assert found.shape == np.shape(values)
        np.testing.assert_array_equal(found, values)
        found.fill(0)  # of one's own
    with pytest.raises(ValueError, match="array 'a' is of type <f8, not <f4"):
        file.read("a", "<f4")


@pytest.mark.parametrize("claimed", [(1 << 28) + 128, 176, (1 << 32) - 1])
def test_sizes_are_checked_before_anything_is_allocated(claimed: int, tmp_path: Path, made: Path) -> None:
    """2**25 numbers that compress to 300 kB, said to be as many, fewer and more; the results have 6."""
    header = b"\x93NUMPY\x01\x00\x76\x00" + b"{'descr': '<f8', 'fortran_order': False, 'shape': (33554432,), }"
    path = made / "run/results/test.npz"
    path.write_bytes(fuzz_files.bomb("scores.sampled.npy", header.ljust(127) + b"\n", 1 << 28, claimed))
    with pytest.raises(InvalidValueError) as caught:
        Results.load(path.with_suffix(".json"))
    assert "MemoryError" not in str(caught.value)
    (made / "tasks.npz").write_bytes(path.read_bytes())
    with pytest.raises(InvalidValueError, match=r"tasks file is .*tasks\.npz"):
        Tasks.load(made / "tasks.npz")


def test_hashes_of_arrays_tell_names_types_and_shapes_apart() -> None:
    zeros = np.zeros((2, 3))
    different = [
        {"a": zeros},
        {"b": zeros},
        {"a": zeros.T},
        {"a": zeros.astype(np.int64)},
        {"a": zeros.ravel()},
        {"a": zeros + 1e-300},
    ]
    assert len({digest_arrays(arrays) for arrays in different}) == len(different)
    assert digest_arrays({"a": zeros, "b": zeros + 1}) == digest_arrays({"b": zeros + 1, "a": zeros})
    assert digest_json({"a": [1, 2], "b": None}) == digest_json({"b": None, "a": [1, 2]})


# --- one set of files for all tests ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with results, and tasks, which no test changes."""
    folder = tmp_path_factory.mktemp("whole")
    fuzz_files.make_files(folder)
    return folder


@pytest.fixture
def made(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    fuzz_files.shutil.copytree(whole, tmp_path / "made")
    return tmp_path / "made"


def edit(path: Path, change: Callable[[dict[str, Any]], Any], sealed: bool = True) -> None:
    """Change a JSON file, with or without its hash."""
    data = json.loads(path.read_text())
    change(data)
    if sealed:
        data.pop("sha256", None)
        write_json(path, data)
    else:
        path.write_text(json.dumps(data))


LOADERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "results": ("run/results/test.json", lambda made: Results.load(made / "run/results/test.json")),
    "arrays": ("run/results/test.npz", lambda made: Results.load(made / "run/results/test.json")),
    "tasks": ("tasks.json", lambda made: Tasks.load(made / "tasks.json")),
    "tasks' arrays": ("tasks.npz", lambda made: Tasks.load(made / "tasks.npz")),
    "config": ("run/config.json", lambda made: Run.open(made / "run")),
    "checkpoint": ("run/checkpoint.json", lambda made: Run.open(made / "run").load_agent()),
    "tensors": (fuzz_files.TENSORS, lambda made: Run.open(made / "run").load_agent()),
    "metrics": ("run/metrics.jsonl", lambda made: lines_before(made / "run/metrics.jsonl", 2)),
}


@pytest.mark.parametrize("name", LOADERS)
def test_a_pipe_a_folder_and_a_device_are_no_files(name: str, made: Path) -> None:
    """A pipe that nobody writes to would block whoever opens it."""
    file, load = LOADERS[name]
    load(made)
    for make in (os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")):
        path = made / file
        path.rmdir() if path.is_dir() else path.unlink()
        make(path)
        with pytest.raises(InvalidValueError, match=r"not a regular file|Is a directory"):
            load(made)


@pytest.mark.parametrize("name", [name for name in LOADERS if name not in ("arrays", "tasks' arrays", "tensors")])
@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "9" * 5000, "\ud800", '{"format": "\\ud800"}', "null", "NaN", "\0"]
)
def test_odd_json_is_a_sentence(name: str, text: str, made: Path) -> None:
    file, load = LOADERS[name]
    (made / file).write_bytes(f"{text}\n".encode("utf-8", "surrogatepass"))
    with pytest.raises(InvalidValueError) as caught:
        load(made)
    assert str(caught.value).isprintable()


# --- results ---------------------------------------------------------------------------------------------------------


def test_a_flipped_type_is_refused(made: Path) -> None:
    """One bit makes `<f2` of `<f8` in the head of an array: a quarter of the bytes read as numbers of another type."""
    path = made / "run/results/test.npz"
    with fuzz_files.zipfile.ZipFile(path) as file:
        members = [(name, file.read(name).replace(b"<f8", b"<f2")) for name in file.namelist()]
    path.write_bytes(fuzz_files.zipped(members))
    with pytest.raises(InvalidValueError, match=r"results file is .*test\.json"):
        Results.load(path.with_suffix(".json"))


def test_arrays_beside_another_evaluations_head_are_refused(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a kill between the two leaves them: both are whole, of the same shapes, and do not belong together."""
    path = made / "run/results/test.json"
    found = Results.load(path)
    found.scores["sampled"] = found.scores["sampled"] + 1.0

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(results, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        found.save(path)
    with pytest.raises(InvalidValueError, match=r"the arrays of test\.npz are not those .*: evaluate again"):
        Results.load(path)


def test_a_changed_head_is_refused(made: Path) -> None:
    path = made / "run/results/test.json"
    edit(path, lambda head: head["summary"]["sampled"][0].update(mean=1.0), sealed=False)
    with pytest.raises(InvalidValueError, match=r"test\.json was changed after it was written: evaluate again"):
        Results.load(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda head: head.update(k=[0, 1]), "arrays of the results"),
        (lambda head: head.update(k=[2, 1, 0]), "k of .* is .*, expected a rising list"),
        (lambda head: head.update(k=[0, 1, True]), "k of .* is .*, expected a rising list"),
        (lambda head: head.update(k=[0, 1, 3]), "arrays of the results"),
        (lambda head: head.update(agent=["rl2"]), "agent of .* expected text"),
        (lambda head: head.update(bayes_optimal="6"), "bayes_optimal of .* expected a number or null"),
        (lambda head: head.update(arrays=head["arrays"][1:]), "arrays of the results"),
        (
            lambda head: head["meta"].update(seeds=[0, 1]),
            r"shape of scores.sampled is \[1, 3, 3, 1\], expected \[seed 2",
        ),
        (lambda head: head["meta"].update(tasks=4), r"shape of scores.sampled is .* \[seed 1, task 4, k 3, episode\]"),
        (lambda head: head["meta"].update(config=[1]), "config of meta of .* is .1., expected an object"),
        (lambda head: head.pop("task_hash"), "task_hash of .* is missing, expected text"),
        (
            lambda head: head.update(format="metarl-results-2"),
            r"format of .* is 'metarl-results-2', expected 'metarl-results-3'",
        ),
    ],
)
def test_types_and_shapes_are_compared_before_use(change: Callable[[Any], Any], words: str, made: Path) -> None:
    """Also where the hash of the head was made anew."""
    path = made / "run/results/test.json"
    edit(path, change)
    with pytest.raises(InvalidValueError, match=words):
        Results.load(path)


def test_results_that_do_not_fit_together_are_not_written(whole: Path, tmp_path: Path) -> None:
    found = Results.load(whole / "run/results/test.json")
    odd = {
        "seconds": np.zeros((1, 3)),
        "env_steps": np.zeros(2),
        "scores": {},
        "references": {"floor": np.zeros(2)},
        "landmarks": np.zeros((2, 3)),
        "trial": {"action": found.trial["action"]},
        "success": {"other": np.zeros((1, 3, 3, 1))},
        "paths": {7: np.zeros((1, 1, 2))},
    }
    for name, value in odd.items():
        with pytest.raises(InvalidValueError, match=r"shape of|arrays of the results"):
            replace(found, **{name: value}).save(tmp_path / "r.json")
    with pytest.raises(InvalidValueError, match=r"arrays of the results is 'scores\.mean'"):
        replace(found, scores={"mean": found.scores["sampled"]}, success={}).save(tmp_path / "r.json")
    assert not list(tmp_path.iterdir())
    means = replace(found, references={"floor": np.zeros(1)}, collected=found.collected.mean(1, keepdims=True))
    assert Results.load(means.save(tmp_path / "r.json")).references["floor"].shape == (1,)


def test_the_order_of_the_arrays_in_a_file_does_not_matter(made: Path) -> None:
    """The first mode is the one that was measured first."""
    path = made / "run/results/test.npz"
    before = Results.load(path.with_suffix(".json"))
    with fuzz_files.zipfile.ZipFile(path) as file:
        members = [(name, file.read(name)) for name in file.namelist()]
    path.write_bytes(fuzz_files.zipped(members[::-1]))
    after = Results.load(path.with_suffix(".json"))
    assert list(after.scores) == list(before.scores) == ["sampled", "deterministic"]
    assert after.summary() == before.summary()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_numbers_that_cannot_be_drawn_are_a_sentence(whole: Path, tmp_path: Path) -> None:
    found = Results.load(whole / "run/results/test.json")
    paths = {0: np.full((1, 2, 2), np.inf)}
    path = replace(found, paths=paths, trial={}).save(tmp_path / "r.json")
    with pytest.raises(InvalidValueError, match=r"results is \['rl2'\], expected numbers that can be drawn \("):
        metarl.report.page.write_report([Results.load(path)], tmp_path / "page")


# --- tasks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.update(seed=1),
        lambda data: data.update(split="train"),
        lambda data: data.update(index=data["index"][::-1]),
        lambda data: data["space"]["p"].update(high=2.0),
    ],
)
def test_the_hash_of_tasks_covers_more_than_their_values(change: Callable[[Any], Any], made: Path) -> None:
    """Their addresses, their split, their seed and their space say what is played, and which side they lie on."""
    edit(made / "tasks.json", change, sealed=False)
    with pytest.raises(InvalidValueError, match=r"tasks sha256 is '[0-9a-f]*', expected '[0-9a-f]*'"):
        Tasks.load(made / "tasks.json")


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.update(seed=1.0),
        lambda data: data.update(seed=10**20),
        lambda data: data.update(split=None),
        lambda data: data.update(index=[str(i) for i in data["index"]]),
        lambda data: data.update(index=[i + 0.5 for i in data["index"]]),
        lambda data: data["values"].update(p=[[str(x) for x in row] for row in data["values"]["p"]]),
        lambda data: data["values"].update(p=[[float("nan")] * 5] * 4),
        lambda data: data["values"].update(p=[[10**400] * 5] * 4),
    ],
)
def test_numbers_of_tasks_are_numbers(change: Callable[[Any], Any], made: Path) -> None:
    edit(made / "tasks.json", change, sealed=False)
    with pytest.raises(InvalidValueError, match=r"expected a file written by Tasks\.save"):
        Tasks.load(made / "tasks.json")


# --- runs ------------------------------------------------------------------------------------------------------------


def test_who_edits_a_config_is_told_what_to_do(made: Path) -> None:
    edit(made / "run/config.json", lambda config: config.update(iterations=40), sealed=False)
    with pytest.raises(InvalidValueError, match=r"config.json was changed .*metarl train --resume RUN --iterations N"):
        Run.open(made / "run")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("seed", v) for v in (0.5, "0", True, 10**20)),
        *(("iterations", v) for v in (-1, 2.0, "2", True, 10**20)),
        *(("checkpoint_every", v) for v in (0, None, 10**20)),
        *(("agent", 3), ("family", []), ("config", [1]), ("load", "x.py"), ("load", [3]), ("before", 7)),
        *(("validation", v) for v in (3, {}, {"every": 0})),
        *(("threads", 0), ("device", 1), ("git", 5), ("versions", "1.0")),
    ],
)
def test_a_config_is_checked_field_by_field(field: str, value: object, made: Path) -> None:
    edit(made / "run/config.json", lambda config: config.update({field: value}))
    with pytest.raises(InvalidValueError, match=f"{field} of .*run is "):
        Run.open(made / "run")
    edit(made / "run/config.json", lambda config: config.pop(field))
    if field not in ("load", "before", "validation"):
        with pytest.raises(InvalidValueError, match=f"{field} of .*run is missing"):
            Run.open(made / "run")


@pytest.mark.parametrize("iterations", [10**20, 2.5, True])
def test_iterations_are_counted_in_whole_numbers(iterations: Any, made: Path, tmp_path: Path) -> None:
    run = Run.open(made / "run")
    agent, done = run.load_agent()
    with pytest.raises(InvalidValueError, match=r"iterations is .*, expected (a whole number|at least 2)"):
        run.set_iterations(iterations, agent, done)
    with pytest.raises(InvalidValueError, match=r"iterations is .*, expected a whole number"):
        Run.create(tmp_path / "new", agent, iterations)


@pytest.mark.parametrize("iteration", [-1, 1.5, True, "2", None, 10**20])
def test_the_iteration_of_a_checkpoint_is_a_whole_number(iteration: object, made: Path) -> None:
    edit(made / "run/checkpoint.json", lambda head: head.update(iteration=iteration))
    with pytest.raises(InvalidValueError, match=r"iteration of .*checkpoint.json is .*, expected a whole number"):
        Run.open(made / "run").load_agent()


def test_a_checkpoint_of_more_iterations_than_the_run_has_is_refused(made: Path) -> None:
    run = Run.open(made / "run")
    save_checkpoint(made / "run/checkpoint", run.load_agent()[0], 3)
    with pytest.raises(InvalidValueError, match=r"iteration of the checkpoint of .* is 3, .* at most the run's 2"):
        run.load_agent()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("net.memory.rnn.weight_ih_l0", float("nan"), "not finite, expected finite numbers"),
        ("adam.memory.rnn.weight_ih_l0.exp_avg", float("inf"), "not finite, expected finite numbers"),
        ("adam.memory.rnn.weight_ih_l0.exp_avg_sq", -1e-12, "negative, expected numbers from 0 on"),
        ("adam.memory.rnn.weight_ih_l0.step", -1.0, "negative, expected numbers from 0 on"),
    ],
)
def test_values_that_training_cannot_lead_to_are_refused(name: str, value: float, words: str, tmp_path: Path) -> None:
    agent = metarl.make_agent("rl2", "metarl/BernoulliBandit-v0", **fuzz_files.SIZES)
    tensors = {k: v.clone() for k, v in agent.tensors().items()}
    tensors[name].view(-1)[0] = value
    agent.tensors = lambda: tensors  # type: ignore[method-assign]
    save_checkpoint(tmp_path / "checkpoint", agent, 1)
    fresh = metarl.make_agent("rl2", "metarl/BernoulliBandit-v0", **fuzz_files.SIZES)
    before = {k: v.clone() for k, v in fresh.tensors().items()}
    with pytest.raises(InvalidValueError, match=f"tensor '{name}' of checkpoint .* is {words}"):
        load_checkpoint(tmp_path / "checkpoint", fresh)
    assert all(torch.equal(v, before[k]) for k, v in fresh.tensors().items())


def test_metrics_that_were_cut_short_go_on_and_others_are_refused(made: Path) -> None:
    file = made / "run/metrics.jsonl"
    first, second = file.read_text().splitlines()
    assert lines_before(file, 1) == [first]
    assert lines_before(made / "nowhere", 1) == []
    file.write_text(f"{first}\n{second}\n" + second[:20])
    assert lines_before(file, 2) == [first, second]  # the last line was torn by a kill
    file.write_text(f"{second}\n")
    assert lines_before(file, 2) == [second]  # what a lost disk cache took is gone
    for text in (f"{first}\nhello\n{second}\n", f"{second}\n{first}\n", f"{first}\n{first}\n", "[1]\n", "{}\n", "\n"):
        file.write_text(text)
        with pytest.raises(InvalidValueError, match=r"metrics is .*expected a line of JSON per iteration \(move the"):
            lines_before(file, 2)


# --- everything at once ----------------------------------------------------------------------------------------------


def test_damaged_files_are_refused_or_what_they_were(whole: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The short form of `python tests/fuzz_files.py`."""
    counts = fuzz_files.fuzz(whole, mutations=60, flips=100, seed=1)
    assert sum(found.total() for found in counts.values()) == 160
    assert not any(found[name] for found in counts.values() for name in fuzz_files.BAD), capfd.readouterr().out


def test_hyperparameters_are_of_their_defaults_kind() -> None:
    bandit, navigation = "metarl/BernoulliBandit-v0", "metarl/PointNavigation-v0"
    for name, family, field, value, words in (
        ("rl2", bandit, "hidden", "64", "a number"),
        ("rl2", bandit, "memory", ["gru"], "text"),
        ("rl2", bandit, "separate_value", 1, "True or False"),
        ("maml", navigation, "hidden", 64, "a list of numbers"),
        ("maml", navigation, "inner_lr_schedule", ["1"], "a list of numbers"),
        ("sb3", navigation, "algorithm_kwargs", [1], "names with values"),
    ):
        with pytest.raises(InvalidValueError, match=rf"{name}\.{field} is .*, expected {words}"):
            metarl.make_agent(name, family, **{field: value})


@pytest.mark.parametrize(
    "keywords", ['{"k": ' * 100_000, '{"k": 7, "k": 8}', '{"k": 1', '{"k": 100000000000000000000}']
)
def test_keywords_of_a_family_are_json_that_it_can_use(keywords: str) -> None:
    with pytest.raises(InvalidValueError, match="keywords of"):
        metarl.make_family(f"metarl/BernoulliBandit-v0{keywords}")
