"""The benchmark of the suite runner trains equal weights on all sides and prints their ratios."""

from __future__ import annotations

import json
from pathlib import Path

import benchmark_runner
import pytest


def test_all_sides_train_the_same_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = benchmark_runner.Options(cells=1, iterations=1, repeats=1, out=tmp_path / "r.json", small=True)
    benchmark_runner.main(options)
    report = json.loads(options.out.read_text())
    assert report["equal_weights"] is True
    assert capsys.readouterr().out.splitlines() == list(benchmark_runner.lines_of(report))


def test_ratios_by_hand() -> None:
    def case(*seconds: float) -> dict[str, list[float]]:
        return {"seconds": list(seconds), "processor_seconds": [2 * s for s in seconds]}

    sides = {"side by side": case(4, 5, 9), "one process": case(9.5, 10, 11), "no runner": case(8)}  # medians 5, 10, 8
    lines = list(benchmark_runner.lines_of({"sides": sides, "equal_weights": False}))
    assert lines[3:] == [
        "side by side, times as fast as one process: 2.00",
        "overhead of the runner in one process, wall clock: +25.0%",
        "overhead of the runner in one process, processor: +25.0%",
        "equal weights: no",
    ]
