"""Several seeds in one command: each has its run, and all are resumed, evaluated and reported together."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import metarl
from metarl.cli.commands import _results_files
from metarl.cli.main import main
from metarl.evaluation.results import Results
from metarl.runs.run import Run

BANDITS = ["train", "rl2", "--family", "metarl/BernoulliBandit-v0", "--meta-batch-size", "8", "--hidden", "4"]
SEEDS = [*BANDITS, "--iterations", "2", "--out", "runs/nav", "--seeds", "2", "10"]
FEW = ["--k", "0", "1", "--num-tasks", "2", "--episodes", "1"]


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must write nothing and fail with exit code 2 and one sentence; the sentence."""
    before = sorted(Path().rglob("*"))
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert sorted(Path().rglob("*")) == before
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def done(path: str) -> int:
    return int(json.loads(Path(path, "checkpoint.json").read_text())["iteration"])


def interrupting(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Interrupt the training of a seed after its first iteration."""
    train = Run.train

    def interrupted(self: Run, agent: metarl.Agent, start: int = 0, progress: Any = None) -> int:
        def stop(*arguments: Any) -> None:
            progress(*arguments)
            if agent.seed == seed:
                os.kill(os.getpid(), signal.SIGINT)

        return train(self, agent, start, stop)

    monkeypatch.setattr(Run, "train", interrupted)


def test_each_seed_has_the_run_that_it_would_have_alone(capsys: pytest.CaptureFixture[str]) -> None:
    main([*SEEDS, "--eval-every", "1", "--eval-tasks", "4"])
    main([*BANDITS, "--iterations", "2", "--seed", "10", "--out", "alone"])
    ours, theirs = metarl.load("runs/nav/seed10"), metarl.load("alone")
    assert all(torch.equal(value, theirs.tensors()[name]) for name, value in ours.tensors().items())
    main(["eval", "runs/nav", *FEW])
    results = Results.load("runs/nav/results/test.json")
    assert results.meta["seeds"] == [2, 10]
    curves = results.meta["curves"]
    assert (curves["iterations"], curves["tasks"], curves["split"]) == ([0, 1, 2], 4, "train")
    assert [len(of_seed) for of_seed in curves["returns"]] == [3, 3]
    Path("runs/nav/results/test.json").unlink()
    main(["eval", "runs/nav/seed2", "runs/nav/seed10", *FEW])
    assert Results.load("runs/nav/results/test.json").meta["curves"] == curves
    main(["eval", "runs/nav/seed10", *FEW])
    assert Results.load("runs/nav/seed10/results/test.json").meta["seeds"] == [10]
    main(["eval", "alone", *FEW])
    meta = Results.load("alone/results/test.json").meta
    lines = [json.loads(line) for line in Path("alone/metrics.jsonl").read_text().splitlines()]
    assert "curves" not in meta
    assert meta["train_env_steps"] == [lines[-1]["env_steps"]]
    assert meta["training_curves"][0]["episode_return"] == [round(line["episode_return"], 4) for line in lines]
    capsys.readouterr()
    told = "run is 'runs/nav', expected one run, for example runs/nav/seed2"
    assert told in refused(capsys, "watch", "runs/nav", "--k", "0")


@pytest.mark.parametrize("again", [SEEDS, ["train", "--resume", "runs/nav"]])
def test_an_interrupted_group_goes_on_with_all_seeds(
    again: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        interrupting(patched, seed=2)
        with pytest.raises(SystemExit, match="130"):
            main(SEEDS)
    assert "continue with: metarl train --resume runs/nav\n" in capsys.readouterr().err
    assert (done("runs/nav/seed2"), Path("runs/nav/seed10/checkpoint.json").exists()) == (1, False)
    main(again)
    assert (done("runs/nav/seed2"), done("runs/nav/seed10")) == (2, 2)
    main(["train", "--resume", "runs/nav", "--iterations", "3"])
    assert (done("runs/nav/seed2"), done("runs/nav/seed10")) == (3, 3)


def test_another_command_is_not_a_continuation(capsys: pytest.CaptureFixture[str]) -> None:
    main(SEEDS)
    capsys.readouterr()
    for extra, told in (
        (["--learning-rate", "0.5"], "config of run runs/nav/seed2 is {'learning_rate': 0.003}, expected {'learning_"),
        (["--iterations", "3"], "iterations of run runs/nav/seed2 is 2, expected 3, as now given (or another --out)"),
        (["--eval-every", "1"], "validation of run runs/nav/seed2 is None"),
        (["--seeds", "5", "5"], "--seeds is [5, 5], expected different seeds"),
        (["--seed", "1"], "--seed is 1, expected no value beside --seeds"),
    ):
        assert told in refused(capsys, *SEEDS, *extra)
    main([*SEEDS[:-2], "2", "3"])  # one more seed
    assert done("runs/nav/seed3") == 2


def test_a_failed_first_iteration_of_several_removes_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Run, *_: Any, **__: Any) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(Run, "train", fail)
    Path("runs").mkdir()
    with pytest.raises(ZeroDivisionError):
        main(SEEDS)
    assert [str(path) for path in Path().rglob("*")] == ["runs"]


def test_the_best_checkpoint_is_evaluated(capsys: pytest.CaptureFixture[str]) -> None:
    main([*BANDITS, "--iterations", "2", "--eval-every", "1", "--out", "run"])
    best = json.loads(Path("run/best.json").read_text())["iteration"]
    main(["eval", "run", *FEW, "--checkpoint", "best"])
    results = Results.load("run/results/test-best.json")
    assert (results.meta["checkpoint"], results.meta["iterations"]) == ("best", [best])
    assert f"run: the best checkpoint is from iteration {best} of 2" in capsys.readouterr().out
    main(["eval", "run", *FEW])
    assert Results.load("run/results/test.json").meta["checkpoint"] == "last"
    main([*BANDITS, "--iterations", "1", "--out", "plain"])
    capsys.readouterr()
    assert "the run has no best checkpoint" in refused(capsys, "eval", "plain", *FEW, "--checkpoint", "best")
    untrained = ["eval", "ucb1", *BANDITS[2:4], *FEW, "--checkpoint", "best"]
    assert "--checkpoint is 'best', expected 'last', because ucb1 is not a run" in refused(capsys, *untrained)


def test_reports_take_folders_and_patterns_in_the_order_given(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("runs/a10", "runs/a2", "runs/b", "other"):
        Path(name, "results").mkdir(parents=True)
        Path(name, "results/test.json").touch()
    for run in ("runs/b", "runs/unfinished"):
        Path(run).mkdir(exist_ok=True)
        Path(run, "config.json").touch()

    def names(*sources: str) -> list[str]:
        return [re.sub(r"runs/|/results/test.json", "", str(f)) for s in sources for f in _results_files(Path(s))]

    assert names("runs") == names("runs/*") == ["a2", "a10", "b"]
    assert names("other", "runs/a*", "runs/b") == ["other", "a2", "a10", "b"]
    assert names("runs/*/results/*.json") == ["a2", "a10", "b"]
    for nothing in ("runs/unfinished", "nowhere*", "other/results"):
        assert f"run is '{nothing}', expected a run with results" in refused(capsys, "report", nothing)
