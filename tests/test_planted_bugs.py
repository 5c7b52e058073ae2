"""The planted bugs (tests/plant_bugs.py, run on their own) still fit the code that they would spoil."""

from __future__ import annotations

import pytest
from plant_bugs import BUGS, ROOT, Bug


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_fits_once(bug: Bug) -> None:
    assert (ROOT / bug.file).read_text().count(bug.old) == 1
    assert bug.new != bug.old
    assert (ROOT / "tests" / f"{bug.test}.py").exists()
