"""The planted bugs (tests/plant_bugs.py, run on their own) still fit the code that they would spoil."""

from __future__ import annotations

from pathlib import Path

import pytest
from plant_bugs import ROOT, copied
from planted import BUGS
from planted.bug import Bug


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_fits_once(bug: Bug) -> None:
    assert (ROOT / bug.file).read_text().count(bug.old) == 1
    assert bug.new != bug.old
    assert (ROOT / "tests" / f"{bug.test}.py").exists()


def test_bugs_are_planted_in_a_whole_copy(tmp_path: Path) -> None:
    """Where a folder is missing every test fails, and every bug seems caught."""
    copy = copied(tmp_path / "copy")
    for folder in ("metarl", "envs", "agents", "tests", "experiments"):
        found = {path.relative_to(ROOT) for path in (ROOT / folder).rglob("*.py")}
        assert found == {path.relative_to(copy) for path in (copy / folder).rglob("*.py")}
