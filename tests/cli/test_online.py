"""`metarl online`: the table, the files, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import metarl
from metarl.cli.main import main
from metarl.online import OnlineResults

FEW = ["--rounds", "2", "--episodes", "1", "--floor-episodes", "1"]
TINY = ["--agent.meta-batch-size", "2", "--agent.episodes", "1", "--agent.hidden", "4", "--agent.eval-steps", "100"]
NAVIGATION = ["--family", "metarl/PointNavigation-v0", *FEW]


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must fail with exit code 2; its last sentence."""
    with pytest.raises(SystemExit, match="2"):
        main(["online", *arguments])
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_a_table_files_and_a_figure(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["online", "maml", *NAVIGATION, *TINY, "--stream", "drifting", "--beside", "scratch", "--seeds", "3", "4"]
    main([*command, "--updates", "1", "--out", "streams"])
    said = capsys.readouterr().out
    assert "| learner | R_0 " in said
    assert "regret, R_1" in said
    assert sorted(p.name for p in Path("streams").iterdir()) == ["maml.json", "online.png", "scratch.json"]
    maml, scratch = (OnlineResults.load(f"streams/{name}.json") for name in ("maml", "scratch"))
    assert (maml.meta["seeds"], maml.stream, maml.task_hashes) == ([3, 4], "drifting", scratch.task_hashes)
    # the options of maml that scratch has hold for it too: it plays 100 steps, with 4 hidden units
    assert (scratch.env_steps[0, 0, 1], scratch.meta["config"]["hidden"]) == (100, [4])
    assert (maml.meta["updates"], scratch.meta["updates"]) == (1, 0)
    assert maml.meta["command"].split()[0] == "metarl"
    main([*command, "--out", "streams"])  # again, over its own files


def test_without_an_optimum_the_regret_is_against_the_agent_in_hindsight(
    counting: Any, scratch_registry: None, capsys: pytest.CaptureFixture[str]
) -> None:
    metarl.register_family("mine/Counting-v0", counting)
    main(["online", "maml", "--family", "mine/Counting-v0", *FEW, *TINY, "--out", "streams"])
    assert "the regret is against maml trained in hindsight" in capsys.readouterr().out
    assert OnlineResults.load("streams/maml-hindsight.json").meta["in_hindsight"]


def test_what_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--family is missing" in refused(capsys, "maml")
    assert "rounds is 0, expected a whole number" in refused(capsys, "maml", *NAVIGATION, "--rounds", "0")
    assert "updates is 2, expected 0, because scratch" in refused(capsys, "scratch", *NAVIGATION, "--updates", "2")
    assert "--beside is ['maml', 'maml']" in refused(capsys, "maml", *NAVIGATION, "--beside", "maml")
    assert "--seeds is [1, 1]" in refused(capsys, "maml", *NAVIGATION, "--seeds", "1", "1")
    assert "family of thompson_sampling is 'metarl/PointNavigation-v0', expected a bandit" in refused(
        capsys, "thompson_sampling", *NAVIGATION
    )
    assert "agent is 'mamll'" in refused(capsys, "mamll", *NAVIGATION)
    Path("streams").mkdir()
    Path("streams/maml.json").write_text("{}")
    assert "a new path or metarl's results of streams" in refused(capsys, "maml", *NAVIGATION, "--out", "streams")
    assert Path("streams/maml.json").read_text() == "{}"
