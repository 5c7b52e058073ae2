"""What `metarl eval` measures: budgets, the floor, how many tasks; and what an interruption leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import metarl
from metarl.cli.main import main
from metarl.evaluation.results import Results

TINY = ["--meta-batch-size", "2", "--episodes", "2", "--hidden", "8"]
NAVIGATION = ["--family", "metarl/PointNavigation-v0"]


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must fail with exit code 2; its last sentence."""
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    return capsys.readouterr().err.strip().splitlines()[-1]


def measured(path: str) -> Results:
    return Results.load(path)


def test_agents_beside_adapt_on_as_many_steps_as_what_they_stand_beside(capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--k", "1", "--num-tasks", "1", "--episodes", "1", "--out", "r.json"]
    main(["eval", "scratch", *NAVIGATION, *few, "--agent.eval-steps", "300", "--agent.hidden", "4"])
    main(["train", "maml", *NAVIGATION, *TINY, "--eval-steps", "200", "--iterations", "1", "--out", "run"])
    main(["eval", "run", *few, "--beside", "scratch", "random"])
    files = [f"r{end}.json" for end in ("", "-scratch", "-random")]
    assert [measured(file).env_steps.tolist() for file in files] == [[0, 200], [0, 200], [0, 100]]
    assert [row.count("0 / 200") for row in capsys.readouterr().out.splitlines() if "scratch" in row][-2:] == [1, 1]
    main(["eval", "run", *few, "--beside", "scratch", "random", "--eval-steps", "500"])
    assert [measured(file).env_steps.tolist() for file in files] == [[0, 500], [0, 500], [0, 100]]
    told = [measured(file).meta for file in files]
    assert [meta["config"].get("eval_steps") for meta in told] == [500, 500, None]
    assert [meta.get("overrides") for meta in told] == [{"eval_steps": 500}, {"eval_steps": 500}, None]
    again = "--eval-steps is 500, expected no value, because random has no hyperparameter eval_steps"
    assert again in refused(capsys, "eval", "random", *NAVIGATION, *few, "--eval-steps", "500")
    assert "maml.eval_steps is 0, expected a whole number from 1" in refused(
        capsys, "eval", "run", *few, "--eval-steps", "0"
    )


def test_names_with_a_dot_stay_apart() -> None:
    few = ["--k", "0", "--num-tasks", "1", "--episodes", "1", "--beside", "oracle"]
    for name in ("r.1", "r.2"):
        main(["eval", "random", *NAVIGATION, *few, "--out", name])
    assert sorted(path.name for path in Path().glob("*.json")) == [
        *("r.1-oracle.json", "r.1.json"),
        *("r.2-oracle.json", "r.2.json"),
    ]


def test_the_floor_is_measured_with_as_many_episodes_as_asked(
    counting: Any, scratch_registry: None, capsys: pytest.CaptureFixture[str]
) -> None:
    metarl.register_family("mine/Counting-v0", counting)
    for episodes in (0, 3):
        command = ["eval", "random", "--family", "mine/Counting-v0", "--k", "0", "--num-tasks", "2", "--episodes", "1"]
        main([*command, "--floor-episodes", str(episodes), "--out", "r.json"])
        assert ("floor" in measured("r.json").references) == bool(episodes)
    assert measured("r.json").meta["floor"].startswith("measured: 3 episodes")
    assert "floor_episodes is -1, expected at least 0" in refused(capsys, *command, "--floor-episodes", "-1")


def test_what_is_measured_before_an_interruption_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = metarl.cli.commands.evaluate

    def interrupted(group: list[metarl.Agent], *args: Any, **settings: Any) -> Results:
        if group[0].name == "oracle":
            raise KeyboardInterrupt
        return evaluate(group, *args, **settings)

    monkeypatch.setattr("metarl.cli.commands.evaluate", interrupted)
    few = ["--k", "0", "--num-tasks", "1", "--episodes", "1", "--out", "r.json"]
    with pytest.raises(SystemExit, match="130"):
        main(["eval", "scratch", *NAVIGATION, *few, "--beside", "random", "oracle"])
    assert sorted(path.name for path in Path().glob("*.json")) == ["r-random.json", "r.json"]


def test_few_tasks_are_played_equally_often() -> None:
    """GridNavi has 21 goals: 42 tasks by default, the least multiple from 40 on; other numbers as asked."""
    grid = ["eval", "random", "--family", "metarl/GridNavi-v0", "--k", "0", "--episodes", "1", "--out", "r.json"]
    main(grid)
    assert (measured("r.json").meta["tasks"], measured("r.json").meta["every_task"]) == (42, True)
    main([*grid, "--num-tasks", "20"])
    assert (measured("r.json").meta["tasks"], measured("r.json").meta["every_task"]) == (20, False)
    results = metarl.evaluate(metarl.make_agent("random", "metarl/BernoulliBandit-v0"), k=0, episodes=1)
    assert (results.meta["tasks"], results.meta["every_task"]) == (40, False)
