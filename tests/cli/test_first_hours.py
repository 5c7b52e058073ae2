"""What a new user meets in the first hours: results side by side, other protocols, environments that draw by chance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import metarl
from metarl.benchmark.crew import Outcome, Setup, attempt
from metarl.benchmark.jobs import plan
from metarl.benchmark.suite import Entry, Protocol, Study, Suite, load_suite
from metarl.cli.benchmark import Board, _say_end
from metarl.cli.main import main
from metarl.cli.options import BenchmarkOptions
from metarl.contract.notes import warn_unused_parameters
from metarl.errors import FamilyWarning

TRAIN = "train rl2 --family metarl/BernoulliBandit-v0 --hidden 4 --meta-batch-size 8 --minibatches 1 --iterations 1"
SUITE = """
from metarl.benchmark.suite import Entry, Protocol, Study, Suite

entries = {"greedy": Entry("greedy")}
suite = Suite("mine", {"pulls": Study("metarl/BernoulliBandit-v0", entries, Protocol(k=2, tasks=4), (0,))})
"""


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every test works in a folder of its own."""
    monkeypatch.chdir(tmp_path)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed, in one line."""
    return " ".join(capsys.readouterr().out.split())


def test_a_report_of_a_folder_has_runs_and_rows_of_benchmarks(capsys: pytest.CaptureFixture[str]) -> None:
    Path("suite.py").write_text(SUITE)
    main([*TRAIN.split(), "--trial-episodes", "3", "--out", "runs/plain"])
    main(["eval", "runs/plain", "--num-tasks", "4", "--episodes", "1", "--k", "2"])
    main(["benchmark", "suite.py", "--jobs", "1"])
    main(["report", "runs", "--out", "page"])
    page = Path("page/report.html").read_text()
    assert ">rl2<" in page
    assert ">greedy" in page


def test_results_of_another_protocol_are_replaced_with_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    main([*TRAIN.split(), "--trial-episodes", "3", "--out", "run"])
    main(["eval", "run", "--num-tasks", "4", "--episodes", "2", "--k", "3"])
    first = said(capsys)
    assert "in place of" not in first
    assert "rl2 was trained in trials of 3 episodes: from R_3 on, trials are longer" in first
    main(["eval", "run", "--num-tasks", "4", "--episodes", "2", "--k", "3"])
    assert "in place of" not in said(capsys)
    main(["eval", "run", "--num-tasks", "2", "--episodes", "1", "--k", "2"])
    again = said(capsys)
    assert "wrote run/results/test.json (in place of results with k [0, 1, 2, 3], tasks 4, episodes 2)" in again
    assert "trials are longer" not in again


def test_a_run_with_several_results_is_compared_by_those_on_test_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    main([*TRAIN.split(), "--trial-episodes", "3", "--out", "run"])
    with pytest.raises(SystemExit):
        main(["compare", "run", "run"])
    assert "a folder with one: metarl eval makes one for a run" in capsys.readouterr().err
    main(
        [
            "eval",
            "run",
            "--num-tasks",
            "4",
            "--episodes",
            "1",
            "--k",
            "2",
            "--beside",
            "random",
            "--out",
            "run/results/other.json",
        ]
    )
    with pytest.raises(SystemExit):
        main(["compare", "run", "run"])
    expected = "expected one of its files: run/results/other-random.json, run/results/other.json"
    assert expected in " ".join(capsys.readouterr().err.split())
    main(["eval", "run", "--num-tasks", "4", "--episodes", "1", "--k", "2", "--beside", "random"])
    main(["compare", "run", "run/results/test-random.json", "--mode", "sampled"])
    assert "rl2" in said(capsys)


class Drawn(gym.Env[Any, Any]):
    """Begins somewhere, by the generator that every program shares."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, aim: float = 1.0, shared: bool = True) -> None:
        self.aim, self.shared = aim, shared

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        at = np.random.uniform() if self.shared else self.np_random.uniform()  # noqa: NPY002
        return np.array([at], np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(1, np.float32), float(action) * self.aim, False, False, {}


@pytest.mark.parametrize("shared", [False, True])
def test_draws_from_a_global_generator_are_warned_of_before_training(shared: bool) -> None:
    space = {"aim": metarl.Uniform(0.5, 1.0)}
    family = metarl.GymFamily(Drawn, space, apply="kwargs", horizon=3, env_kwargs={"shared": shared})
    if not shared:
        assert warn_unused_parameters(family) == []
        return
    with pytest.warns(FamilyWarning, match="the environment draws from the global random generator of numpy; training"):
        assert len(warn_unused_parameters(family)) == 1


def test_a_parameter_of_one_value_alone_is_no_family(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "rl2", "--env", "CartPole-v1", "--param", "length=1.5", "--iterations", "1"])
    assert (
        "--param is 'length=1.5', expected a NAME with several values, such as NAME=LOW:HIGH" in capsys.readouterr().err
    )


def test_an_environment_that_cannot_be_filmed_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    family = metarl.GymFamily(Drawn, {"aim": metarl.Uniform(0.5, 1.0)}, apply="kwargs", horizon=3)
    with pytest.raises(metarl.InvalidValueError, match="render_mode of Drawn is missing, expected a keyword of its"):
        family.visible()


def test_the_time_left_is_not_said_where_steps_are_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Entry("rl2", {"hidden": 4, "meta_batch_size": 8, "minibatches": 1}, 2)
    suite = Suite("s", {"a": Study("metarl/BernoulliBandit-v0", {"rl2": entry}, Protocol(k=2, tasks=4), (0, 1))})
    jobs = plan(suite)
    for known in (True, False):
        if not known:
            monkeypatch.setattr("metarl.cli.benchmark.env_steps", lambda suite, job: None)
        board = Board(suite, jobs, tmp_path)
        board.advanced(jobs[0], 1, 2)
        assert ("left" in board.headline()) == known
        assert board.headline().startswith("0/3 cells")


def test_a_cell_that_fails_says_why_first(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: Any) -> None:
        error = KeyError("motor")
        error.add_note("in step 3 of mine/Robot-v0")
        raise error

    Path("suite.py").write_text(SUITE)
    suite = load_suite("suite.py")
    monkeypatch.setattr("metarl.benchmark.crew.do", broken)
    how, why = attempt(suite, plan(suite)[0], Setup("suite.py", Path("out")), None)
    assert how == "ended"
    _say_end(Outcome(failed={"pulls/greedy": why}), BenchmarkOptions("suite.py"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "pulls/greedy failed: KeyError: 'motor'; in step 3 of mine/Robot-v0"
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-2:] == ["KeyError: 'motor'", "in step 3 of mine/Robot-v0"]
