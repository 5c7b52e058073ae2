"""The commands of docs/tutorials/benchmark.md, run as printed, on the suite that the page writes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from metarl.cli.main import main

PAGE = Path(__file__).parent.parent.parent / "docs" / "tutorials" / "benchmark.md"


def suite_file() -> str:
    """The page's my_suite.py."""
    found = re.search(r"```python\n(# my_suite\.py\n.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def commands() -> list[list[str]]:
    """The arguments of the page's `metarl` commands, in order, without those for a Ray cluster (test_ray.py)."""
    found = re.findall(r"^    metarl (.+)$", PAGE.read_text(), re.MULTILINE)
    return [shlex.split(line) for line in found if "--ray" not in line]


@pytest.mark.timeout(900)
def test_the_suite_of_the_tutorial_is_trained_reported_compared_and_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_suite.py").write_text(suite_file())
    said = []
    for command in commands():
        main(command)
        said.append(capsys.readouterr().out)
    assert [command[0] for command in commands()] == ["benchmark", "benchmark", "compare", "benchmark", "eval"]
    dry, trained, compared, verified, evaluated = said
    assert "0 of 6 cells are done" in dry
    assert "6/6 cells" in trained
    assert all(words in Path("page/report.html").read_text() for words in ("Leaderboard", "Meta-training", "Protocol"))
    assert "probability of improvement" in compared
    assert "3 rows: 3 equal" in verified
    assert "runs/mine/navigation/maml: equal" in evaluated
