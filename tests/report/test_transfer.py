"""The matrix of transfer: gains computed by hand, and what has no place in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_results import make_results

from metarl.evaluation.results import Results
from metarl.report.page import write_report
from metarl.report.transfer import transfer_rows, transfers


def row(study: str, entry: str, scores: Any, begins_with: str = "", **more: Any) -> Results:
    """A trained row of 2 seeds in 3 tasks, whose floor is 0 and whose optimum is 10."""
    after = np.stack([np.zeros((2, 3)), scores], -1)[..., None].repeat(4, -1)  # [seed, task, k, episode]
    references = {"floor": np.zeros(3), "informed_optimum": np.full(3, 10.0)}
    family = f"metarl/Toy-v0:{study}"
    result = make_results("maml", family, grid=(0, 1), scores={"sampled": after}, references=references)
    agent = {"agent": "maml", "settings": {}, "iterations": 5, "begins_with": begins_with}
    facts = {"suite": "toy", "study": study, "entry": entry, "family": family, "agent": agent, "seeds": [0, 1]}
    result.meta |= {"row": {**facts, "protocol": {}, "source": [study, entry], "weights": ["a", "b"], **more}}
    result.meta["entry"] = f"toy/{study}/{entry}"
    return result


BASE = np.array([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]])


def rows() -> list[Results]:
    return [
        row("a", "new", BASE),
        row("a", "from-b", BASE + np.array([[1.0], [3.0]]), "b/base"),
        row("b", "new", BASE),
        row("b", "from-a", BASE - 4.0, "a/base"),
        row("b", "from-b", BASE + 0.5, "b/base"),
    ]


def test_gains_are_paired_differences_as_a_share_of_the_gap() -> None:
    (found,) = transfers(rows())
    assert (found.suite, found.agent, found.k) == ("toy", "maml", 1)
    assert (found.sources, found.targets) == (["b/base", "a/base"], ["a", "b"])
    assert set(found.gains) == {("b/base", "a"), ("a/base", "b"), ("b/base", "b")}
    gain = found.gains["b/base", "a"]
    assert gain.mean == pytest.approx(0.2)  # the seeds gain 1 and 3, of 10
    assert gain.low < 0.1 < 0.3 < gain.high  # two seeds
    exact = found.gains["a/base", "b"]  # every seed and task loses 4
    assert exact == pytest.approx((-0.4, -0.4, -0.4))
    assert transfer_rows(found)[1]["mean"] == pytest.approx(-0.4)


def test_rows_of_other_settings_tasks_or_references_are_not_compared() -> None:
    assert transfers(rows()[:2]) == []  # one family is no matrix
    for change in ("settings", "tasks", "references"):
        given = rows()
        if change == "settings":
            given[0].meta["row"]["agent"]["iterations"] = 6
        elif change == "tasks":
            given[0].task_hash = "others"
        else:
            given[1].references = {}  # no floor
        assert transfers(given) == transfers(given[2:]) == []
    assert transfers([r for r in rows() if r.meta["row"]["entry"] != "new"]) == []


def test_other_settings_have_a_matrix_of_their_own() -> None:
    longer = rows()
    for result in longer:
        result.meta["row"]["agent"] |= {"iterations": 9}
        result.scores = {"sampled": result.scores["sampled"] * 2}
    first, second = transfers([*rows(), *longer])
    assert first.gains["b/base", "a"].mean == pytest.approx(0.2)
    assert second.gains["b/base", "a"].mean == pytest.approx(0.4)


def test_without_an_optimum_the_best_row_of_the_study_stands_for_it() -> None:
    given = rows()
    for result in given[:2]:
        del result.references["informed_optimum"]
    (found,) = transfers(given)
    best = (BASE + np.array([[1.0], [3.0]])).mean()
    assert found.gains["b/base", "a"].mean == pytest.approx(2.0 / best)


def test_the_report_has_the_matrix_as_figure_and_table(tmp_path: Path) -> None:
    page = write_report(rows(), tmp_path).read_text()
    assert "Transfer between families: maml" in page
    folder = tmp_path / "report_files" / "transfer-of-maml"
    assert (folder / "transfer.png").stat().st_size > 1000
    lines = (folder / "transfer.csv").read_text().splitlines()
    assert lines[0] == "source,target,mean,low,high"
    assert len(lines) == 4
    assert "&minus;0.40" in page or "\u22120.40" in page
