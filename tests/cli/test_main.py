"""The command line: train, interrupt, resume, evaluate, report, and one sentence with exit code 2 for bad input."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import pytest
import safetensors.numpy
import torch

import metarl
from metarl.cli.main import COMMANDS, main

TINY = ["--meta-batch-size", "2", "--episodes", "2", "--hidden", "8"]
NAVIGATION = ["--family", "metarl/PointNavigation-v0"]


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def tensors(run: Path) -> dict[str, bytes]:
    file = json.loads((run / "checkpoint.json").read_text())["file"]
    return {k: v.tobytes() for k, v in safetensors.numpy.load_file(run / file).items()}


def metarl_process(*arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "metarl.cli.main", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must fail with exit code 2 and exactly one sentence; the sentence."""
    before = sorted(Path().rglob("*"))
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert sorted(Path().rglob("*")) == before  # nothing was written
    return lines[0]


def test_train_eval_report(capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "maml", *NAVIGATION, *TINY, "--iterations", "2", "--out", "run"])
    main(["eval", "run", "--k", "1", "--num-tasks", "3", "--episodes", "2", "--beside", "random", "oracle"])
    assert sorted(p.name for p in Path("run/results").glob("*.json")) == [
        "test-oracle.json",
        "test-random.json",
        "test.json",
    ]
    results = json.loads(Path("run/results/test.json").read_text())
    assert results["k"] == [0, 1]
    assert results["meta"]["seeds"] == [0]
    assert {"command", "versions", "git", "config", "floor"} <= results["meta"].keys()
    main(["report", "run", "--out", "page"])
    page = Path("page/report.html").read_text()
    assert "maml" in page
    assert "oracle" in page
    out = capsys.readouterr().out
    assert f"{results['summary']['sampled'][1]['mean']:.2f}" in out


def test_interrupt_and_resume_give_the_same_bits_as_an_unbroken_run() -> None:
    train = ["train", "rl2", "--family", "metarl/BernoulliBandit-v0", "--meta-batch-size", "64", "--hidden", "8"]
    train += ["--iterations", "60", "--checkpoint-every", "20"]
    process = metarl_process(*train, "--out", "cut")
    deadline = time.time() + 200
    while time.time() < deadline:
        log = Path("cut/metrics.jsonl")
        if log.exists() and len(log.read_text().splitlines()) >= 3:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=200)
    assert process.returncode == 130, error
    assert "metarl train --resume cut" in error
    assert "Traceback" not in error
    done = json.loads(Path("cut/checkpoint.json").read_text())["iteration"]
    assert 3 <= done < 60
    main(["train", "--resume", "cut"])
    main([*train, "--out", "whole"])
    assert tensors(Path("cut")) == tensors(Path("whole"))


def test_a_family_and_an_agent_from_a_users_file(capsys: pytest.CaptureFixture[str], scratch_registry: None) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    block = next(b for b in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "PointGoal" in b)
    Path("mine.py").write_text(block)
    main(["check-family", "mine/PointGoal-v0", "--load", "mine.py"])
    assert "mine/PointGoal-v0: clean" in capsys.readouterr().out
    main(["train", "maml", "--family", "mine/PointGoal-v0", *TINY, "--iterations", "1", "--load", "mine.py"])
    run = "runs/maml-PointGoal-v0-seed0"
    assert Path(run, "checkpoint.json").exists()
    del metarl.families.registry.families["mine/PointGoal-v0"]
    del gym.registry["mine/PointGoal-v0"]
    expected = f"family of {run} is 'mine/PointGoal-v0', expected a registered one: add --load mine.py, as in training"
    expected += " (in Python: metarl.load_source('mine.py'))"
    assert expected in refused(capsys, "eval", run)
    with pytest.raises(metarl.InvalidValueError, match=re.escape(expected)):
        metarl.load(run)
    main(["train", "--resume", run, "--iterations", "2", "--load", "mine.py"])
    assert json.loads(Path(run, "checkpoint.json").read_text())["iteration"] == 2


def test_several_splits_give_a_file_each_and_the_gap(capsys: pytest.CaptureFixture[str]) -> None:
    points = ["eval", "scratch", "--family", "metarl/PointNavigation-v0", "--k", "0", "--num-tasks", "2"]
    points += ["--episodes", "1", "--split", "test"]
    main([*points, "--split", "train"])
    out = capsys.readouterr().out
    assert "scratch on metarl/PointNavigation-v0, R_k on train tasks less R_k on test tasks: k = 0: " in out
    for split in ("test", "train"):
        path = Path(f"runs/scratch-PointNavigation-v0/results/{split}.json")
        assert json.loads(path.read_text())["split"] == split
    assert "--out is 'x.json', expected no path for several splits" in refused(
        capsys, *points, "--split", "train", "--out", "x.json"
    )
    assert "--split is ['test', 'test']" in refused(capsys, *points, "--split", "test")


def test_an_untrained_agents_hyperparameters_are_options_of_eval(capsys: pytest.CaptureFixture[str]) -> None:
    bandits = ["--family", "metarl/BernoulliBandit-v0", "--k", "2", "--num-tasks", "4", "--episodes", "1"]
    for c in ("0.5", "2.0"):
        main(["eval", "ucb1", *bandits, "--agent.c", c, "--out", f"{c}.json"])
        assert json.loads(Path(f"{c}.json").read_text())["meta"]["config"]["c"] == float(c)
    assert "ucb1.c is -1" in refused(capsys, "eval", "ucb1", *bandits, "--agent.c", "-1")
    found = set()
    for extra in ([], ["--agent.c", "0.5"], ["--agent.c", "2.0"]):  # none writes over another
        main(["eval", "ucb1", *bandits, *extra])
        found |= {path for path in Path("runs").glob("ucb1-*/results/test.json")}
    assert len(found) == 3


def test_agents_beside_need_no_training_and_are_told_how_long_a_trial_is(capsys: pytest.CaptureFixture[str]) -> None:
    bandits = ["--family", "metarl/BernoulliBandit-v0", "--num-tasks", "3", "--episodes", "1"]
    main(["eval", "random", *bandits, "--k", "14", "--beside", "gittins", "--out", "long.json"])
    assert json.loads(Path("long-gittins.json").read_text())["meta"]["config"]["trial_episodes"] == 14
    main(["eval", "gittins", *bandits, "--k", "3", "--out", "short.json"])
    assert json.loads(Path("short.json").read_text())["meta"]["config"]["trial_episodes"] == 3
    capsys.readouterr()
    command = ["eval", "random", *bandits, "--k", "2", "--beside"]
    assert "--beside is 'rl2', expected an agent that needs no training" in refused(capsys, *command, "rl2")
    assert "expected different names" in refused(capsys, *command, "random")
    assert "runs is 'ucb1', expected run directories, or one untrained agent" in refused(
        capsys, "eval", "ucb1", "random", *bandits
    )


def test_list_describes_a_family(capsys: pytest.CaptureFixture[str]) -> None:
    main(["list", "metarl/PointNavigation-v0:semicircle", "metarl/GridNavi-v0"])
    out = capsys.readouterr().out
    family = metarl.make_family("metarl/PointNavigation-v0:semicircle")
    for name, dist in family.task_space.items():
        assert f"task: {name}: {dist.describe()}" in out
    assert f"horizon: {family.horizon} steps" in out
    assert "splits: train, test (train = test)" in out  # GridNavi
    assert "did you mean 'metarl/GridNavi-v0'" in refused(capsys, "list", "metarl/GridNavy-v0")


def test_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    main(["list"])
    out = capsys.readouterr().out
    for name in (*metarl.families.registry.families, *metarl.families.registry.agents):
        assert name in out


def test_steps_that_diverge_are_told_of_in_one_sentence_and_training_goes_on() -> None:
    command = ["train", "maml", *NAVIGATION, *TINY, "--iterations", "2", "--out", "run", "--inner-lr", "1000"]
    process = metarl_process(*command)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    told = [line for line in err.splitlines() if "not finite" in line]
    assert told
    assert all(re.match(r"metarl: maml: inner step 1 in task \d+ of split 'train'", line) for line in told)
    metrics = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert sum(m["failed_steps"] for m in metrics) > 0


@pytest.mark.parametrize("command", [["train", "maml"], ["train", "rl2"], *[[c] for c in COMMANDS]])
def test_every_command_has_help_with_defaults(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    if command != ["list"]:
        assert "default" in out
    if command[0] in ("train", "eval", "check-family", "quickstart"):
        assert "--seed" in out
        assert "--device" in out
        assert re.search(r"auto,\s*cpu,\s*cuda", out)


def test_the_help_of_a_benchmark_begins_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["benchmark", "--help"])
    out = capsys.readouterr().out
    assert out.startswith("usage: metarl benchmark [-h] [OPTIONS] SUITE")
    assert out.index("metarl benchmark quick --dry-run") < out.index("SUITE   ") < out.index("--dry-run, ")


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    out = capsys.readouterr().out
    assert all(name in out for name in COMMANDS)


# --- bad input -------------------------------------------------------------------------------------------------------


def test_unknown_names_suggest_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'maml'" in refused(capsys, "train", "mamml", *NAVIGATION)
    assert "did you mean 'metarl/PointNavigation-v0'" in refused(
        capsys, "train", "maml", "--family", "metarl/PointNav-v0"
    )
    assert "did you mean 'semicircle'" in refused(
        capsys, "train", "maml", "--family", "metarl/PointNavigation-v0:semicircl"
    )
    assert "did you mean 'quickstart'" in refused(capsys, "quikstart")
    assert "agent is missing" in refused(capsys, "train")


def test_values_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "maml.inner_lr is -1.0" in refused(capsys, "train", "maml", *NAVIGATION, "--inner-lr", "-1")
    assert "split is 'tset'" in refused(capsys, "eval", "random", *NAVIGATION, "--split", "tset")
    assert "count of tasks is 0" in refused(capsys, "eval", "random", *NAVIGATION, "--num-tasks", "0")
    assert "k is -1" in refused(capsys, "eval", "random", *NAVIGATION, "--k", "-1")
    assert "run is 'nowhere'" in refused(capsys, "eval", "nowhere")
    assert "run is 'nowhere'" in refused(capsys, "train", "--resume", "nowhere")
    assert "an agent that learns" in refused(capsys, "train", "random", *NAVIGATION)
    assert "results file is" in refused(capsys, "report", "nothing.json")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert "device is 'cuda', expected 'cpu'" in refused(capsys, "train", "maml", *NAVIGATION, "--device", "cuda")


def test_only_seeds_of_one_agent_are_evaluated_together(capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "maml", *NAVIGATION, *TINY, "--iterations", "1", "--out", "a"])
    main(["train", "maml", *NAVIGATION, *TINY, "--iterations", "1", "--out", "b", "--seed", "1"])
    main(["train", "maml", *NAVIGATION, *TINY, "--iterations", "1", "--out", "c", "--seed", "2", "--inner-lr", "0.1"])
    main(["eval", "a", "b", "--k", "1", "--num-tasks", "2", "--episodes", "1"])
    assert json.loads(Path("a/results/test.json").read_text())["meta"]["seeds"] == [0, 1]
    capsys.readouterr()
    assert "seeds of the runs is [0, 0], expected different seeds" in refused(capsys, "eval", "a", "a")
    assert "config of the runs" in refused(capsys, "eval", "a", "c")
    assert "did you mean 'random'" in refused(capsys, "eval", "randm")
    assert "must be trained first" in refused(capsys, "eval", "maml", *NAVIGATION)


def test_a_nan_reward_ends_with_one_sentence(capsys: pytest.CaptureFixture[str], scratch_registry: None) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    block = next(b for b in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "PointGoal" in b)
    Path("nan.py").write_text(block.replace("return state, -distance,", "return state, -distance / 0 * 0,"))
    with pytest.raises(SystemExit) as stop:
        main(["train", "maml", "--load=nan.py", "--family", "mine/PointGoal-v0", *TINY, "--iterations", "1"])
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(
        "metarl: reward of family mine/PointGoal-v0 is nan, expected finite numbers (step 0 in task "
    )


def test_unwritable_outputs(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("in the way")
    assert "'file/run" in refused(capsys, "train", "maml", *NAVIGATION, *TINY, "--out", "file/run")
    assert "file" in refused(
        capsys, "eval", "random", *NAVIGATION, "--k", "0", "--num-tasks", "2", "--out", "file/r.json"
    )


def test_damaged_runs(capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "maml", *NAVIGATION, *TINY, "--iterations", "1", "--out", "run"])
    file = Path("run") / json.loads(Path("run/checkpoint.json").read_text())["file"]
    file.write_bytes(b"garbage")
    capsys.readouterr()
    assert "checkpoint is 'run/checkpoint.json', expected a whole metarl checkpoint" in refused(capsys, "eval", "run")
    assert "run directory is 'run', expected a new one" in refused(capsys, "train", "maml", *NAVIGATION, "--out", "run")


def test_wrong_options_exit_with_2() -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "maml", *NAVIGATION, "--iterations", "many"])
    assert stop.value.code == 2
