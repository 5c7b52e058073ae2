"""The benchmark of evaluations measures all sides and writes what its table says."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path

import benchmark_evaluation
import torch


def test_the_benchmark_measures_all_sides_and_the_long_case_once(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    options = benchmark_evaluation.Options(tasks=(2, 3), long=4, repeats=2, threads=threads, small=True)
    options = replace(options, episodes=1, out=tmp_path / "e.json")
    benchmark_evaluation.main(options)
    report = json.loads(options.out.read_text())
    assert [case["tasks"] for case in report["cases"]] == [2, 3, 4]
    counts = [{len(case[side]["seconds"]) for side in case if side != "tasks"} for case in report["cases"]]
    assert counts == [{2}, {2}, {1}]
    assert [len(case) for case in report["cases"]] == [4, 4, 2]  # the number of tasks, and the sides
    *_, first, _, last, _, said = benchmark_evaluation.table_of(report).splitlines()
    assert [len(report["intervals"][name]["seconds"]) for name in ("crossed", "bootstrap")] == [2, 2]
    assert said.startswith("The interval of a mean over 10 seeds x 100 tasks takes ")
    ours, theirs = (report["cases"][0][side]["processor_seconds"] for side in ("default", "one"))
    cells = [cell.strip() for cell in first.strip("|").split("|")]
    assert (cells[0], cells[2]) == ("2", f"{statistics.median(ours):.3g}")
    assert cells[6] == f"{statistics.median(theirs) / statistics.median(ours):.2f} x"
    assert [cell.strip() for cell in last.strip("|").split("|")][3:] == [""] * 8
