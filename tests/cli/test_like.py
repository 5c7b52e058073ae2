"""`metarl train --like SUITE/STUDY/ENTRY`: what is taken from the row, what the command changes, what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from metarl.benchmark.suite import load_suite
from metarl.cli.main import main

SUITE = """
from metarl.benchmark.suite import Entry, Protocol, Study, Suite

SMALL = {"meta_batch_size": 8, "hidden": 4, "trial_episodes": 3}
entries = {
    "small": Entry("rl2", SMALL, 2, task_sampler="cem"),
    "later": Entry("rl2", SMALL, 1, begins_with="bandits/small"),
    "again": Entry("rl2", SMALL, runs_of="small"),
    "random": Entry("random"),
}
family = "metarl/BernoulliBandit-v0:k10"
suite = Suite("mine", {"bandits": Study(family, entries, Protocol(k=3, tasks=2), (0,), 7, 1)})
"""


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(SUITE)


def config(path: str) -> dict[str, Any]:
    return dict(json.loads(Path(path, "config.json").read_text()))


def test_a_run_like_a_row_is_the_rows_run() -> None:
    main(["train", "rl2", "--like", "mine.py/bandits/small", "--out", "run"])
    main(["benchmark", "mine.py", "--only", "bandits/small", "--out", "suite", "--jobs", "1"])
    own, row = config("run"), config("suite/bandits/small/seed0")
    other = {"git", "keeps_replay", "sha256"}  # rows of suites do not keep replays
    assert {name: own[name] for name in row if name not in other} == {k: v for k, v in row.items() if k not in other}
    assert (own["family"], own["task_sampler"], own["iterations"]) == ("metarl/BernoulliBandit-v0:k10", "cem", 2)
    assert "validation" in own
    checkpoints = [next(Path(run).glob("checkpoint-*.safetensors")) for run in ("run", "suite/bandits/small/seed0")]
    assert checkpoints[0].read_bytes() == checkpoints[1].read_bytes()


def test_the_command_has_the_last_word() -> None:
    arguments = ["--family", "metarl/BernoulliBandit-v0", "--hidden", "5", "--iterations", "1", "--eval-every", "0"]
    main(["train", "rl2", *arguments, "--like=mine.py/bandits/small", "--out", "run"])
    found = config("run")
    assert (found["family"], found["iterations"]) == ("metarl/BernoulliBandit-v0", 1)
    assert "validation" not in found
    assert (found["config"]["hidden"], found["config"]["meta_batch_size"]) == (5, 8)
    env = ["--env", "CartPole-v1", "--param", "length=0.3:0.7", "--apply", "attrs", "--iterations", "1"]
    main(["train", "rl2", "--like", "mine.py/bandits/small", *env, "--task-sampler", "family", "--out", "poles"])
    assert config("poles")["config"]["hidden"] == 4


def test_help_shows_the_rows_values(capsys: pytest.CaptureFixture[str]) -> None:
    row = load_suite("applications").studies["recommendation"].entries["maml"]
    with pytest.raises(SystemExit, match="0"):
        main(["train", "maml", "--like", "applications/recommendation/maml", "--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"Meta-updates. (default: {row.iterations})" in shown
    assert "(default: metarl/Recommendation-v0)" in shown


@pytest.mark.parametrize(
    ("agent", "row", "sentence"),
    [
        ("rl2", "small", "--like is 'small', expected SUITE/STUDY/ENTRY"),
        ("rl2", "mine.py/bandits/smal", "expected mine.py/STUDY/ENTRY; .*did you mean 'bandits/small'"),
        ("rl2", "appplications/recommendation/rl2", "did you mean 'applications'"),
        ("maml", "mine.py/bandits/small", "expected a row of maml; this one is of rl2"),
        ("rl2", "mine.py/bandits/later", "expected a row that is trained from new parameters"),
        ("rl2", "mine.py/bandits/again", "from new parameters; this one plays the runs of small"),
        ("random", "mine.py/bandits/random", "expected a row that is trained from new parameters"),
    ],
)
def test_other_rows_are_refused(agent: str, row: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["train", agent, "--like", row])
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert re.search(sentence, lines[0]), lines[0]
