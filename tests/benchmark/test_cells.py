"""Cells: trained and evaluated side by side, never twice, resumed to the same bits, failures reported."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_suites import SMALL, STUDY, SUITE

import metarl
from metarl.benchmark.crew import Listener, Outcome, Setup
from metarl.benchmark.jobs import Job, do, done_part, is_done, plan
from metarl.benchmark.rows import agents_of, evaluate_again, is_evaluated, results_path
from metarl.benchmark.suite import Entry, Suite
from metarl.benchmark.workers import run_jobs
from metarl.cli.main import main
from metarl.evaluation.results import Results

FILE = """
from metarl.benchmark.suite import Entry, Protocol, Study, Suite

SMALL = {{"hidden": (4,), "meta_batch_size": 2, "episodes": 2, "eval_steps": 100}}
suite = Suite("toy", {{"points": Study("metarl/PointNavigation-v0", {{
    "maml": Entry("maml", SMALL, iterations={iterations}),
    "random": Entry("random"),
}}, Protocol(k=1, tasks=2, episodes=2), seeds=(0, 1), checkpoint_every=1)}})
"""


def suite_file(folder: Path, iterations: int = 2) -> Path:
    path = folder / f"suite_{folder.name.replace('-', '_')}.py"
    path.write_text(FILE.format(iterations=iterations))
    return path


def done_here(suite: Suite, out: Path) -> None:
    """All jobs in this process, one after the other."""
    for job in plan(suite):
        do(suite, job, out)


def test_what_is_done_is_found_again_and_what_changed_is_not(tmp_path: Path) -> None:
    done_here(SUITE, tmp_path)
    assert all(is_done(SUITE, job, tmp_path) for job in plan(SUITE))
    first = Results.load(results_path(tmp_path, "points", "maml"))
    assert first.meta["iterations"] == 2
    assert first.meta["seeds"] == [0, 1]
    assert first.scores["sampled"].shape == (2, 2, 2, 2)
    card = (tmp_path / "points" / "maml" / "card.md").read_text()
    row = first.summary("sampled")[1]
    assert f"| 1 | {row['mean']:.4g} | [{row['low']:.4g}, {row['high']:.4g}] | 100 |" in card
    assert all(f"`{digest}`" in card for digest in first.meta["row"]["weights"])
    assert "`metarl benchmark toy --only points/maml --out FOLDER`, where FOLDER holds `points/`" in card
    assert re.search(
        r"2 meta-updates, 1,600 environment steps for each seed in 1( to \d)? s, on cpu, seeds 0, 1\.", card
    )
    floor, best = (first.references[name].mean() for name in ("floor", "informed_optimum"))
    assert f"floor (uniformly random actions) {floor:.4g}, informed optimum {best:.4g}." in card
    other = replace(STUDY, protocol=replace(STUDY.protocol, tasks=3))
    assert not is_evaluated(Suite("toy", {"points": other}), "points", "maml", tmp_path)
    more = {**STUDY.entries, "maml": Entry("maml", SMALL | {"inner_lr": 0.4}, iterations=2)}
    changed = Suite("toy", {"points": replace(STUDY, entries=more)})
    with pytest.raises(metarl.InvalidValueError, match=r"config of run .*inner_lr.*0\.4.*as the suite says"):
        do(changed, plan(changed)[0], tmp_path)


def test_a_row_with_other_settings_evaluates_the_same_weights(tmp_path: Path) -> None:
    done_here(SUITE, tmp_path)
    plain, short = (agents_of(SUITE, "points", entry, tmp_path) for entry in ("maml", "short"))
    assert [a.seed for a in short] == [0, 1]
    for a, b in zip(plain, short, strict=True):
        assert all(torch.equal(v, b.tensors()[k]) for k, v in a.tensors().items())
        assert (a.config.inner_lr, b.config.inner_lr) == (0.5, 0.1)
    before, after = (Results.load(results_path(tmp_path, "points", e)).scores["sampled"] for e in ("maml", "short"))
    assert np.array_equal(before[:, :, 0], after[:, :, 0])
    assert not np.array_equal(before[:, :, 1], after[:, :, 1])


def test_a_training_begins_with_the_networks_of_another(tmp_path: Path) -> None:
    small = {"hidden": 8, "meta_batch_size": 8, "trial_episodes": 2}
    study = replace(STUDY, family="metarl/BernoulliBandit-v0", entries={"rl2": Entry("rl2", small, 1)}, seeds=(0,))
    later = replace(study, entries={"rl2": Entry("rl2", small | {"learning_rate": 0.0}, 1, begins_with="first/rl2")})
    suite = Suite("toy", {"first": study, "later": later})
    done_here(suite, tmp_path)
    first, second = (agents_of(suite, name, "rl2", tmp_path)[0].tensors() for name in ("first", "later"))
    nets = [k for k in first if k.startswith("net.")]
    assert nets
    assert all(torch.equal(first[k], second[k]) for k in nets)  # a rate of 0 keeps them


def test_an_entry_with_a_task_sampler_is_trained_with_it_and_older_rows_have_none(tmp_path: Path) -> None:
    plain = Entry("maml", SMALL | {"meta_batch_size": 6}, iterations=2)
    study = replace(STUDY, entries={"maml": plain, "hard": replace(plain, task_sampler="cem")}, seeds=(0,))
    suite = Suite("toy", {"points": study})
    done_here(suite, tmp_path)
    first, second = (agents_of(suite, "points", name, tmp_path)[0].tensors() for name in ("maml", "hard"))
    assert not all(torch.equal(v, second[k]) for k, v in first.items())
    assert "--task-sampler cem" in (tmp_path / "points/hard/card.md").read_text()
    swapped = Suite("toy", {"points": replace(study, entries={"hard": plain})})
    with pytest.raises(metarl.InvalidValueError, match=r"task_sampler of run .* is 'cem', expected family, as the"):
        do(swapped, plan(swapped)[0], tmp_path)
    path = results_path(tmp_path, "points", "maml")
    results = Results.load(path)
    del results.meta["row"]["agent"]["task_sampler"]  # of a version that had no samplers
    results.save(path)
    assert is_evaluated(suite, "points", "maml", tmp_path)
    stored, again = evaluate_again(path.parent)
    assert np.array_equal(stored.scores["sampled"], again.scores["sampled"])


def test_an_agent_cannot_begin_with_parameters_of_another_kind(tmp_path: Path) -> None:
    recurrent = Entry("rl2", {"hidden": 8, "meta_batch_size": 8, "trial_episodes": 2}, 1, begins_with="points/maml")
    suite = Suite("toy", {"points": STUDY, "later": replace(STUDY, entries={"rl2": recurrent}, seeds=(0,))})
    first, second = (j for j in plan(suite) if j.label in ("points/maml/seed0", "later/rl2/seed0"))
    do(suite, first, tmp_path)
    with pytest.raises(
        metarl.InvalidValueError, match=r"agent to begin with is maml with w0, .*parameters of rl2: net"
    ):
        do(suite, second, tmp_path)


def test_nothing_that_results_name_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A results file from a stranger whose family id names a module."""
    done_here(SUITE, tmp_path)
    (tmp_path / "named_by_a_file.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    row = tmp_path / "points" / "random"
    results = Results.load(row / "results.json")
    family = 'metarl/Gymnasium-v0{"env": "named_by_a_file:CartPole-v1", "params": {"gravity": "5:15"}}'
    results.meta["row"] = {**results.meta["row"], "family": family}
    results.save(row / "results.json")
    with pytest.raises(metarl.InvalidValueError, match="named_by_a_file"):
        evaluate_again(row)
    assert not (tmp_path / "ran").exists()


def test_rows_are_verified_one_by_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metarl.cli.progress.FIRST", 0.001)
    monkeypatch.setattr("metarl.cli.progress.EVERY", 0.001)
    done_here(SUITE, tmp_path)
    rows = [str(tmp_path / "points" / entry) for entry in ("short", "random")]
    shutil.rmtree(tmp_path / "points" / "maml" / "seed1")
    with pytest.raises(SystemExit):
        main(["eval", *rows])
    said = capsys.readouterr()
    assert "seed1" in said.out.split("points/short: ")[1].splitlines()[0]
    assert f"{rows[1]}: equal" in said.out
    assert f"now {rows[1]}" in said.out  # a row may take long
    assert f"1 rows could not be played (a family or an agent of your own needs --load FILE): {rows[0]}" in said.err
    with pytest.raises(SystemExit):
        main(["eval", rows[1], "--k", "1"])
    assert "options is ['--k']" in capsys.readouterr().err


def test_a_training_that_was_cut_off_does_not_begin_anew(tmp_path: Path) -> None:
    small = {"hidden": 8, "meta_batch_size": 8, "trial_episodes": 2}
    study = replace(STUDY, family="metarl/BernoulliBandit-v0", entries={"rl2": Entry("rl2", small, 1)}, seeds=(0,))
    entry = Entry("rl2", small | {"learning_rate": 0.01}, 2, begins_with="first/rl2")
    suite = Suite("toy", {"first": study, "later": replace(study, entries={"rl2": entry}, checkpoint_every=1)})
    done_here(suite, tmp_path / "whole")
    first, later = (job for job in plan(suite) if job.seed is not None)
    do(suite, first, tmp_path / "cut")

    def cut(done: int, total: int) -> None:
        raise OSError("cut off")

    with pytest.raises(OSError, match="cut off"):
        do(suite, later, tmp_path / "cut", progress=cut)
    assert done_part(suite, later, tmp_path / "cut") == (1, 2)
    do(suite, later, tmp_path / "cut")
    one, two = (agents_of(suite, "later", "rl2", tmp_path / out)[0].tensors() for out in ("whole", "cut"))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


class Heard(Listener):
    """Notes what it hears."""

    def __init__(self) -> None:
        self.ends: dict[str, str] = {}
        self.advances: list[tuple[str, int, int]] = []

    def advanced(self, job: Job, done: int, total: int) -> None:
        self.advances.append((job.label, done, total))

    def ended(self, job: Job, error: str) -> None:
        self.ends[job.label] = error


def run(path: Path, out: Path, heard: Listener | None = None, workers: int = 2) -> Outcome:
    from metarl.benchmark.suite import load_suite

    suite = load_suite(str(path))
    return run_jobs(Setup(str(path), out), suite, plan(suite), workers, heard or Heard())


def tensors(out: Path, seed: int) -> dict[str, Any]:
    return metarl.load(out / "points" / "maml" / f"seed{seed}").tensors()


def test_side_by_side_gives_the_same_bits_and_nothing_is_done_twice(tmp_path: Path) -> None:
    path, heard = suite_file(tmp_path), Heard()
    outcome = run(path, tmp_path / "two", heard)
    assert (outcome.failed, outcome.stopped) == ({}, False)
    assert sorted(outcome.done) == ["points/maml", "points/maml/seed0", "points/maml/seed1", "points/random"]
    assert ("points/maml/seed1", 2, 2) in heard.advances
    assert run(path, tmp_path / "two").done == []
    run(path, tmp_path / "one", workers=1)
    for seed in (0, 1):
        one, two = tensors(tmp_path / "one", seed), tensors(tmp_path / "two", seed)
        assert all(torch.equal(v, two[k]) for k, v in one.items())
    scores = [Results.load(results_path(tmp_path / out, "points", "maml")).scores for out in ("one", "two")]
    assert np.array_equal(scores[0]["sampled"], scores[1]["sampled"])


class Killer(Heard):
    """Kills the process of the first training in the midst of it."""

    killed = False

    def advanced(self, job: Job, done: int, total: int) -> None:
        super().advanced(job, done, total)
        if not self.killed and job.label == "points/maml/seed0" and done == 2:
            self.killed = True
            children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
            for pid in children:
                held = Path(f"/proc/{pid}/cmdline").read_bytes()
                if b"spawn_main" in held:
                    os.kill(int(pid), signal.SIGKILL)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_a_killed_process_fails_its_cell_alone_and_the_next_call_resumes_to_the_same_bits(tmp_path: Path) -> None:
    path = suite_file(tmp_path, iterations=6)
    outcome = run(path, tmp_path / "cut", Killer(), workers=1)
    assert "signal SIGKILL" in outcome.failed["points/maml/seed0"]
    assert "needs points/maml/seed0, which failed" in outcome.failed["points/maml"]
    assert {"points/maml/seed1", "points/random"} <= set(outcome.done)
    again = run(path, tmp_path / "cut", workers=1)
    assert sorted(again.done) == ["points/maml", "points/maml/seed0"]
    run(path, tmp_path / "whole", workers=1)
    cut, whole = tensors(tmp_path / "cut", 0), tensors(tmp_path / "whole", 0)
    assert all(torch.equal(v, whole[k]) for k, v in cut.items())


class Interrupter(Heard):
    """Sends a signal after the first iteration."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__()
        self.number = number

    def advanced(self, job: Job, done: int, total: int) -> None:
        super().advanced(job, done, total)
        if len(self.advances) == 1:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_keep_what_was_finished(number: signal.Signals, tmp_path: Path) -> None:
    path = suite_file(tmp_path, iterations=200)
    started = time.monotonic()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests may be a background job, which ignores it
    outcome = run(path, tmp_path / "out", Interrupter(number))
    assert outcome.stopped
    assert outcome.done == []
    assert time.monotonic() - started < 120
    from metarl.benchmark.suite import load_suite

    suite = load_suite(str(path))
    parts = [done_part(suite, job, tmp_path / "out") for job in plan(suite) if job.seed is not None]
    assert all(0 <= done < total for done, total in parts)
    assert any(done for done, _ in parts)


def test_a_failing_cell_is_reported_and_the_others_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = suite_file(tmp_path), tmp_path / "out"
    taken = out / "points" / "maml" / "seed1"
    taken.mkdir(parents=True)
    (taken / "notes.md").write_text("mine")
    with pytest.raises(SystemExit) as stop:
        main(["benchmark", str(path), "--out", str(out), "--jobs", "1", "--report", str(tmp_path / "page")])
    assert stop.value.code == 2
    assert "Not on this page, because they have no results: points/maml." in (tmp_path / "page/report.html").read_text()
    said = capsys.readouterr()
    assert "points/maml/seed1 failed: run directory is" in said.out
    assert "metarl: 2 of 4 cells failed: points/maml, points/maml/seed1" in said.err
    assert (taken / "notes.md").read_text() == "mine"


def test_the_command_shows_what_is_left_and_writes_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["benchmark", str(suite_file(tmp_path)), "--out", str(tmp_path / "out")]
    main([*arguments, "--dry-run"])
    said = capsys.readouterr().out
    assert "0/2  train points/maml/seed1, 1,600 env steps" in said
    assert "0 of 4 cells are done" in said
    assert not (tmp_path / "out").exists()
    main([*arguments, "--jobs", "1", "--report", str(tmp_path / "page")])
    assert "4/4 cells" in capsys.readouterr().out
    assert "PointNavigation" in (tmp_path / "page" / "report.html").read_text()
    main([*arguments, "--dry-run"])
    assert "4 of 4 cells are done" in capsys.readouterr().out
    main(arguments)
    assert "all 4 cells are done" in capsys.readouterr().out
    check_numbers_are_found_again(arguments, tmp_path / "out", capsys)


def check_numbers_are_found_again(arguments: list[str], out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the weights; and a number that was changed by hand is not."""
    main([*arguments, "--verify"])
    rows = [results_path(out, "points", entry).parent for entry in ("maml", "random")]
    said = capsys.readouterr().out
    assert all(f"{row}: equal (" in said for row in rows)
    path = rows[0] / "results.json"
    results = Results.load(path)
    results.scores["sampled"] += 10 * np.std(results.scores["sampled"])
    results.save(path)
    with pytest.raises(SystemExit):
        main([*arguments, "--verify"])
    said = capsys.readouterr()
    assert f"{rows[0]}: different" in said.out
    assert f"1 rows could not be found again from their weights: {rows[0]}" in said.err
    other = metarl.evaluate(metarl.make_agent("random", STUDY.family), k=1, num_tasks=3, episodes=2)
    with pytest.raises(SystemExit):
        main(["compare", str(path), str(other.save(out / "other.json")), "--mode", "sampled"])
    said = capsys.readouterr()
    assert "A and B are not evaluated in the same way: evaluate both by one protocol\n" in said.err
    assert re.search(r"\| tasks +\| 2 with hash [0-9a-f]+ \| 3 with hash [0-9a-f]+ \|", said.out)
    with pytest.raises(SystemExit):
        main(["compare", str(path), str(out / "other.json"), "--mode", "sampled", "--force"])
    assert "A and B have other tasks, so they cannot be compared with --force either" in capsys.readouterr().err
    other = metarl.evaluate(metarl.make_agent("random", STUDY.family), k=1, num_tasks=2, episodes=3)
    unlike = ["compare", str(path), str(other.save(out / "other.json")), "--mode", "sampled"]
    with pytest.raises(SystemExit):
        main(unlike)
    said = capsys.readouterr()
    assert "evaluate both by one protocol, or compare them all the same with --force" in said.err
    assert re.search(r"\| episodes +\| 2 +\| 3 +\|", said.out)
    main([*unlike, "--force"])
    assert "maml minus random" in capsys.readouterr().out
    main(["compare", str(path.parent), str(results_path(out, "points", "random"))])
    said = capsys.readouterr()
    assert "maml minus random on metarl/PointNavigation-v0, split 'test', sampled actions" in said.out
    assert said.out.count("[") >= 4


def test_a_report_of_a_folder_names_the_rows_that_have_no_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done_here(SUITE, tmp_path / "out")
    for folder in ("other/seed0", "other/results"):  # no row, and evaluated
        (tmp_path / "out" / folder).mkdir(parents=True)
    (tmp_path / "out" / "other/seed0/config.json").write_text("{}")
    Results.load(tmp_path / "out" / "points/random/results.json").save(tmp_path / "out" / "other/results/test.json")
    for name in ("results.json", "results.npz"):
        (tmp_path / "out" / "points" / "maml" / name).unlink()
    main(["report", str(tmp_path / "out"), "--out", str(tmp_path / "page"), "--no-files"])
    said = f"Begun, but not on this page, because not evaluated: {tmp_path / 'out' / 'points' / 'maml'}."
    assert said in " ".join(capsys.readouterr().out.split())
    assert said in (tmp_path / "page" / "report.html").read_text()
