"""What lies in the place of a cell and is not its work: it is named, never overwritten, and the other cells go on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from test_cells import Heard, done_here, suite_file
from test_suites import STUDY

import metarl
from metarl.benchmark.cells import other_validations
from metarl.benchmark.crew import Setup
from metarl.benchmark.jobs import Job, do, done_part, is_done, plan, refusal
from metarl.benchmark.rows import results_path
from metarl.benchmark.suite import Cell, Entry, Study, Suite
from metarl.benchmark.workers import run_jobs
from metarl.cli.main import main
from metarl.evaluation.results import Results
from metarl.files import read_json, write_json
from metarl.runs.checkpoints import FORMAT

TOY = replace(STUDY, entries={"maml": STUDY.entries["maml"], "random": Entry("random")}, seeds=(0,))
ONE = Suite("toy", {"points": TOY})


def job(label: str, suite: Suite = ONE) -> Job:
    return next(job for job in plan(suite) if job.label == label)


@pytest.mark.parametrize("damage", ["deleted", "changed", "head"])
def test_a_finished_training_whose_weights_are_damaged_is_not_done(damage: str, tmp_path: Path) -> None:
    done_here(ONE, tmp_path)
    training, row = job("points/maml/seed0"), job("points/maml")
    run = tmp_path / "points" / "maml" / "seed0"
    tensors = run / "checkpoint-2.safetensors"
    if damage == "deleted":
        tensors.unlink()
    elif damage == "changed":
        tensors.write_bytes(tensors.read_bytes()[:-1] + b"\x7f")
    else:
        (run / "checkpoint.json").write_text("{}")
    assert not is_done(ONE, training, tmp_path)
    assert not is_done(ONE, row, tmp_path)
    assert done_part(ONE, training, tmp_path) == (0, 2)
    named = "format of .*checkpoint.json" if damage == "head" else r"checkpoint is .*whole.*checkpoint-2\.safetensors"
    with pytest.raises(metarl.InvalidValueError, match=named) as refused:
        do(ONE, training, tmp_path)
    assert refusal(ONE, training, tmp_path) == str(refused.value)
    assert is_done(ONE, job("points/random"), tmp_path)


def edited(file: Path) -> None:
    file.write_text(file.read_text().replace('"agent": "maml"', '"agent": "best"'))


@pytest.mark.parametrize("name", ["results.json", "results.npz"])
def test_results_that_were_changed_by_hand_stop_their_row_alone(name: str, tmp_path: Path) -> None:
    done_here(ONE, tmp_path)
    row, file = job("points/maml"), results_path(tmp_path, "points", "maml").with_name(name)
    if name == "results.json":
        edited(file)
    else:
        file.write_bytes(b"mine")
    kept = file.read_bytes()
    assert not is_done(ONE, row, tmp_path)
    heard = Heard()
    outcome = run_jobs(Setup(str(suite_file(tmp_path)), tmp_path), ONE, plan(ONE), 1, heard)
    assert list(outcome.failed) == ["points/maml"]
    assert f"results file is '{file}'" in outcome.failed["points/maml"]
    assert "remove it, and the same command makes the results anew" in outcome.failed["points/maml"]
    assert refusal(ONE, row, tmp_path) == outcome.failed["points/maml"]
    assert file.read_bytes() == kept
    file.unlink()
    do(ONE, row, tmp_path)
    assert is_done(ONE, row, tmp_path)


def test_results_of_metarl_whose_arrays_are_missing_or_older_are_made_anew(tmp_path: Path) -> None:
    done_here(ONE, tmp_path)
    row, path = job("points/maml"), results_path(tmp_path, "points", "maml")
    scores = Results.load(path).scores["sampled"]
    arrays = path.with_suffix(".npz")
    other = results_path(tmp_path, "points", "random").with_suffix(".npz").read_bytes()
    for content in (None, other):  # as after a kill between the two files
        arrays.unlink()
        if content:
            arrays.write_bytes(content)
        assert not is_done(ONE, row, tmp_path)
        assert refusal(ONE, row, tmp_path) == ""
        do(ONE, row, tmp_path)
        assert (Results.load(path).scores["sampled"] == scores).all()


def bandits(begins_with: str) -> Suite:
    small = {"hidden": 8, "meta_batch_size": 8, "trial_episodes": 2}
    entries = {"a": Entry("rl2", small, 1), "b": Entry("rl2", small, 1)}
    study = Study("metarl/BernoulliBandit-v0", entries, STUDY.protocol, seeds=(0,))
    return Suite(
        "toy", {"first": study, "later": replace(study, entries={"c": replace(entries["a"], begins_with=begins_with)})}
    )


def test_a_run_that_begins_with_another_training_is_refused(tmp_path: Path) -> None:
    done_here(bandits("first/a"), tmp_path)
    for other in ("first/b", ""):
        suite = bandits(other)
        sentence = rf"begins_with of run .*seed0 is 'first/a', expected {other}.*as the suite says"
        with pytest.raises(metarl.InvalidValueError, match=sentence):
            do(suite, job("later/c/seed0", suite), tmp_path)
        with pytest.raises(metarl.InvalidValueError, match=sentence):
            do(suite, job("later/c", suite), tmp_path)
        outcome = run_jobs(Setup("", tmp_path), suite, [job("later/c/seed0", suite)], 1, Heard())
        assert "begins_with of run" in outcome.failed["later/c/seed0"]  # also where nothing is left to do


def test_a_run_of_an_older_version_does_not_say_what_it_begins_with(tmp_path: Path) -> None:
    done_here(ONE, tmp_path)
    assert json.loads((tmp_path / "points/maml/seed0/config.json").read_text())["begins_with"] == ""
    config = tmp_path / "points/maml/seed0/config.json"
    write_json(config, {k: v for k, v in read_json(config, FORMAT, "").items() if k != "begins_with"})
    assert refusal(ONE, job("points/maml/seed0"), tmp_path) == ""


def test_a_run_from_before_a_hyperparameter_was_there_has_its_default(tmp_path: Path) -> None:
    done_here(ONE, tmp_path)
    path = tmp_path / "points/maml/seed0/config.json"
    config = read_json(path, FORMAT, "")
    older = {k: v for k, v in config["config"].items() if k != "inner_lr"}
    write_json(path, config | {"config": older})
    assert refusal(ONE, job("points/maml/seed0"), tmp_path) == ""
    entry = ONE.studies["points"].entries["maml"]
    other = replace(entry, settings={**entry.settings, "inner_lr": 0.4})
    suite = Suite("toy", {"points": replace(ONE.studies["points"], entries={"maml": other})})
    assert "config of run" in refusal(suite, job("points/maml/seed0", suite), tmp_path)


def test_a_learning_curve_of_another_eval_every_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = suite_file(tmp_path, iterations=1)
    out = ["--out", str(tmp_path / "out"), "--jobs", "1"]
    main(["benchmark", str(path), *out, "--only", "points/maml/seed0"])
    assert "eval_every" not in capsys.readouterr().out
    path.write_text(path.read_text().replace("checkpoint_every=1", "checkpoint_every=1, eval_every=1"))
    sentence = "points/maml was made with eval_every=0, and the suite says 1: its learning curve stays as it is"
    for more in (["--dry-run"], []):
        main(["benchmark", str(path), *out, "--only", "points/maml/seed0", *more])
        assert sentence in " ".join(capsys.readouterr().out.split())
    assert other_validations(ONE, [Cell("points", "maml", 0)], tmp_path / "out") == []


def test_a_dry_run_says_the_folder_what_is_refused_and_what_the_rest_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = suite_file(tmp_path)
    main(["benchmark", str(path), "--dry-run"])
    said = capsys.readouterr().out
    assert said.startswith("folder: runs/toy\n")
    assert "3,200 of 3,200 env steps of training are left" in said
    assert "evaluate points/maml, at most " in said
    assert "(cells that have not begun: as on an " in said
    assert "0 of 4 cells are done\n" in said
    main(["benchmark", str(path), "--only", "points/maml/seed0", "--jobs", "1"])
    capsys.readouterr()
    main(["benchmark", str(path), "--dry-run"])
    said = capsys.readouterr().out
    assert "1,600 of 3,200 env steps of training are left" in said
    assert "what is left takes about" in said
    path.write_text(path.read_text().replace('"hidden": (4,)', '"hidden": (5,)'))
    main(["benchmark", str(path), "--dry-run"])
    said = " ".join(capsys.readouterr().out.split())
    assert "refused train points/maml/seed0, 1,600 env steps: config of run runs/toy/points/maml/seed0 is" in said
    assert "0 of 4 cells are done, 1 refused" in said


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = suite_file(tmp_path)
    for out in (path, path / "below"):
        with pytest.raises(SystemExit):
            main(["benchmark", str(path), "--out", str(out)])
        said = capsys.readouterr().err
        assert f"--out is '{str(out)[:60]}" in said  # a long path is shortened
        assert "expected a path that can be written" in said
