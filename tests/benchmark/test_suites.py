"""Suites: what is refused before anything is trained, and the jobs that a suite is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import metarl
from metarl.benchmark.jobs import evaluation_steps, plan
from metarl.benchmark.rows import _evaluated
from metarl.benchmark.suite import Entry, Protocol, Study, Suite, built_in_suites, check_suite, load_suite
from metarl.cli.benchmark import Board
from metarl.engine.step_listeners import listening
from metarl.evaluation.results import Results

POINT = "metarl/PointNavigation-v0"
SMALL = {"hidden": (4,), "meta_batch_size": 2, "episodes": 2, "eval_steps": 100}
STUDY = Study(
    POINT,
    {
        "maml": Entry("maml", SMALL, iterations=2),
        "short": Entry("maml", evaluated_with={"inner_lr": 0.1}, runs_of="maml"),
        "random": Entry("random"),
    },
    Protocol(k=1, tasks=2, episodes=2),
    seeds=(0, 1),
)
SUITE = Suite("toy", {"points": STUDY})


def with_entry(**changed: Any) -> Suite:
    entry = replace(STUDY.entries["maml"], **changed)
    return Suite("toy", {"points": replace(STUDY, entries={**STUDY.entries, "maml": entry})})


def with_study(**changed: Any) -> Suite:
    return Suite("toy", {"points": replace(STUDY, **changed)})


def test_the_packages_suites_can_be_loaded() -> None:
    assert "quick" in built_in_suites()
    for name in built_in_suites():
        assert load_suite(name).name == name


def beginning(of_a: str, of_b: str) -> Suite:
    """Rows that begin with others."""
    entries = {"a": Entry("maml", SMALL, 1, begins_with=of_a), "b": Entry("maml", SMALL, 1, begins_with=of_b)}
    entries |= {"random": Entry("random"), "wide": Entry("maml", SMALL | {"hidden": (9,)}, 1)}
    return Suite("toy", {"points": replace(STUDY, entries=entries)})


@pytest.mark.parametrize(
    ("suite", "sentence"),
    [
        (Suite("none", {}), "studies of suite none is {}, expected at least one"),
        (with_entry(agent="mamml"), "agent of study points, entry maml is 'mamml', .*did you mean 'maml'"),
        (with_entry(settings={"hiden": (4,)}), "hyperparameter of study points, entry maml is 'hiden', .*'hidden'"),
        (with_entry(evaluated_with={"iner_lr": 1.0}), "is 'iner_lr', .*'inner_lr'"),
        (with_entry(settings={"inner_lr": -1.0}), "maml.inner_lr of study points, entry maml is -1.0"),
        (with_entry(evaluated_with={"inner_lr": "fast"}), "maml.inner_lr of study points, entry maml is 'fast'"),
        (with_entry(evaluated_with={"hidden": (9,)}), "settings of maml of study points, entry maml is .*shapes"),
        (with_entry(iterations=0), "iterations of study points, entry maml is 0, expected 1 or more"),
        (with_entry(agent="random", settings={}, iterations=3), "is 3, expected 0: random needs no training"),
        (with_entry(runs_of="mml"), "runs_of of study points, entry maml is 'mml', .*'maml'"),
        (with_entry(begins_with="points/mml"), "begins_with of study points, entry maml is 'points/mml'"),
        (Suite("toy", {"points": replace(STUDY, seeds=(0, 0))}), r"seeds of study points is \(0, 0\)"),
        (Suite("toy", {"points": replace(STUDY, entries={})}), "entries of study points"),
        (
            beginning("points/b", "points/a"),
            "begins_with of study points, entry a .* does not begin with this one",
        ),
        (
            beginning("points/random", ""),
            "begins_with of study points, entry a is 'points/random', expected a row with",
        ),
        (beginning("points/wide", ""), "begins_with of study points, entry a: shape of w0"),
        (
            Suite("toy", {"points": replace(STUDY, entries={"r": Entry("random", begins_with="points/r")})}),
            "begins_with of study points, entry r is 'points/r', expected nothing: random is not trained",
        ),
        (with_entry(task_sampler="ce"), "task_sampler of study points, entry maml is 'ce', expected 'family' or 'cem'"),
        (with_entry(iterations=-6), "iterations of study points, entry maml is -6, expected a whole number"),
        (with_entry(begins_with="points/maml"), "begins_with of study points, entry maml .* expected another row"),
        (Suite("toy", {"points": replace(STUDY, seeds=(0, 0.5))}), r"seeds of study points is \(0, 0.5\)"),  # type: ignore[arg-type]
        (Suite("toy", {"points": replace(STUDY, protocol=Protocol(tasks=0))}), "tasks of the protocol .* is 0"),
        (Suite("toy", {"points": replace(STUDY, protocol=Protocol(k=-2))}), "k of the protocol .* is -2"),
        (Suite("toy", {"points": replace(STUDY, protocol=Protocol(split="tset"))}), "split .* .did you mean 'test'"),
        (Suite("toy", {"points": replace(STUDY, entries={"a/b": Entry("random")})}), "name in entries .* is 'a/b'"),
        (with_study(seeds=2), r"seeds of study points is 2, expected a tuple .* as \(0, 1, 2\)"),
        (with_study(entries={"random": "random"}), r"study points, entry random is 'random', expected Entry\(agent, "),
        (
            with_study(entries=[Entry("random")]),
            r"entries of study points is .*, expected a dict of a name to an Entry",
        ),
        (with_study(protocol=3), r"the protocol of study points is 3, expected Protocol\(k, tasks, "),
        (with_study(protocol=Protocol(k="3")), "k of the protocol of study points is '3', expected .*whole numbers"),  # type: ignore[arg-type]
        (with_study(protocol=Protocol(modes="sampled")), "modes of the protocol .* is 'sampled', expected a tuple"),  # type: ignore[arg-type]
        (with_study(checkpoint_every=0), "checkpoint_every of study points is 0, expected a whole number from 1"),
        (with_study(family=None), "family of study points is None, expected the id of a family"),
        (with_entry(settings=None), "settings of study points, entry maml is None, expected a dict of hyperparameters"),
        (with_entry(every_seed="no"), "every_seed of study points, entry maml is 'no', expected True or False"),
        (Suite("toy", {"points": "navigation"}), r"study points is 'navigation', expected Study\(family, "),  # type: ignore[dict-item]
        (Suite("toy", {"points": replace(STUDY, family="metarl/PointNavigatoin-v0")}), "PointNavigation-v0"),
    ],
)
def test_a_suite_with_a_mistake_is_refused_in_one_sentence(suite: Suite, sentence: str) -> None:
    with pytest.raises(metarl.InvalidValueError, match=sentence):
        check_suite(suite)


def test_a_file_is_loaded_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "my_suite_file.py").write_text("from metarl.benchmark.suite import *\nsuite = 3\n")
    with pytest.raises(metarl.InvalidValueError, match="expected a file that defines `suite`"):
        load_suite(str(tmp_path / "my_suite_file.py"))
    with pytest.raises(metarl.InvalidValueError, match=r"suite is 'quik', .*did you mean 'quick'"):
        load_suite("quik")
    with pytest.raises(metarl.InvalidValueError, match=r"did you mean '.*my_suite_file\.py'"):
        load_suite(str(tmp_path / "my_suit_file.py"))


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("Study(protocol=Protocol())", r"line 3: Study\(\.\.\.\) lacks 'family' and 'entries'"),
        ("Protocol(task=5)", "line 3: Protocol has no field 'task', expected one of .* .did you mean 'tasks'"),
        ("Study(POINT, {})", "line 3: NameError: name 'POINT' is not defined"),
        ("[1][2 + None]", "line 3: TypeError: unsupported operand"),
        ("Protocl()", r"line 3: NameError: name 'Protocl' is not defined \(did you mean 'Protocol'\?\)"),
        ("points = 1\npoint", r"line 4: NameError: name 'point' is not defined \(did you mean 'points'\?\)"),
        ("from metarl.benchmark.suite import Entri", r"line 3: ImportError: .*\(did you mean 'Entry'\?\)"),
        ("def points(): ...\npints()", r"line 4: NameError: .*\(did you mean 'points'\?\)"),
        ("del Entry\nEntry()", r"line 4: NameError: .*\(from metarl\.benchmark\.suite import Entry\)"),
        ("import metarl_that_is_not_there", "line 3: ModuleNotFoundError: No module named"),
        ("suite = (", "line 3: SyntaxError: '.' was never closed"),
    ],
)
def test_a_mistake_in_a_file_is_a_sentence_with_its_line(line: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "suite_with_a_mistake.py"
    path.write_text(f"from metarl.benchmark.suite import *\n\n{line}\n")
    with pytest.raises(metarl.InvalidValueError, match=rf"suite is '.*suite_with_a_mistake\.py', .*{sentence}"):
        load_suite(str(path))


def labels(only: tuple[str, ...] = (), suite: Suite = SUITE) -> list[str]:
    return [job.what for job in plan(suite, only)]


def test_a_suite_is_trainings_and_the_evaluations_that_wait_for_them() -> None:
    trainings = ["train points/maml/seed0", "train points/maml/seed1"]
    assert labels() == [*trainings, *(f"evaluate points/{entry}" for entry in ("maml", "short", "random"))]
    needs = {job.label: job.needs for job in plan(SUITE)}
    assert needs["points/short"] == needs["points/maml"] == ("points/maml/seed0", "points/maml/seed1")
    assert needs["points/random"] == ()
    assert labels(("points/random",)) == ["evaluate points/random"]
    assert labels(("points/short",)) == [*trainings, "evaluate points/short"]
    assert labels(("points/maml/seed1",)) == ["train points/maml/seed1"]
    assert labels(("points/",)) == labels(("points",)) == labels()
    with pytest.raises(metarl.InvalidValueError, match=r"--only is 'points/mml', .*'points/maml'"):
        labels(("points/mml",))


def test_a_training_that_begins_with_another_waits_for_it() -> None:
    later = replace(STUDY, entries={"long": Entry("maml", SMALL, iterations=2, begins_with="points/maml")}, seeds=(1,))
    suite = Suite("toy", {"later": later, "points": STUDY})
    jobs = {job.label: job for job in plan(suite, ("later",))}
    assert list(jobs) == ["points/maml/seed1", "later/long/seed1", "later/long"]
    assert jobs["later/long/seed1"].needs == ("points/maml/seed1",)


def test_compact_results_keep_the_beliefs_of_some_tasks(tmp_path: Path) -> None:
    small = {"trial_episodes": 2, "hidden": 8, "replay_trials": 10}
    agent = metarl.make_agent("varibad", "metarl/GridNavi-v0", **small)
    protocol = Protocol(k=(2,), tasks=211, episodes=1, modes=("sampled",), compact=True)
    results = _evaluated([agent], protocol)
    assert results.belief["error"].shape == (1, 210, 30)
    assert results.meta["belief"]["mean"] == pytest.approx(np.nanmean(results.belief["error"]))
    assert results.scores["sampled"].shape == (1, 211, 1, 1)
    results.save(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json").belief["error"].shape == (1, 210, 30)


def test_evaluations_count_in_what_is_left(tmp_path: Path) -> None:
    """Of 2 tasks: an adaptation step of 100 steps, at two k two modes of 2 episodes, and 20 episodes for the floor."""
    jobs = plan(SUITE)
    steps = {job.label: evaluation_steps(SUITE, job) for job in jobs if job.seed is None}
    each, floor = 2 * (100 + 2 * 2 * 2 * 100), 2 * 20 * 100
    trained = 2 * each + floor
    assert steps == {"points/maml": trained, "points/short": trained, "points/random": each + floor}
    board, whole = Board(SUITE, jobs, tmp_path), 2 * 1600 + 2 * trained + each + floor
    assert board.headline().startswith(f"0/5 cells, 0% of {whole:,} env steps")
    for job in jobs:
        if job.seed is not None:
            board.begun(job)
            board.ended(job, "")
    assert board.headline().startswith(f"2/5 cells, {3200 / whole:.0%} of {whole:,} env steps")
    last = next(job for job in jobs if job.label == "points/random")
    board.begun(last)
    board.advanced(last, 1, 2)
    assert f" {(3200 + (each + floor) / 2) / whole:.0%} of " in board.headline()
    board.ended(last, "it failed")
    assert board.headline().startswith("2/5 cells, 1 failed")


@pytest.mark.parametrize(
    "family", ["metarl/Pendulum-v0", "metarl/BernoulliBandit-v0"]
)  # a floor measured, and a known one
def test_the_steps_of_an_evaluation_are_those_that_it_plays(family: str) -> None:
    protocol = Protocol(k=(0, 2), tasks=3, trials=2, episodes=4)
    study, played = Study(family, {"random": Entry("random")}, protocol), list[int]()
    with listening(played.append):
        _evaluated([metarl.make_agent("random", family)], protocol)
    suite = Suite("toy", {"one": study})
    assert evaluation_steps(suite, plan(suite)[0]) == sum(played)
