"""The section on learning from scratch: its sentence, its table, its figure and their files."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_results import board, make_results, page, scored, values, words

from metarl.evaluation.results import Results
from metarl.report.figures.yardstick import yardstick_figure
from metarl.report.sections import yardstick_tables
from metarl.report.yardstick import yardsticks

HEADING = "Learning from scratch: metarl/ToyBandit-v0"
TRAINED: dict[str, Any] = {"iterations": [50, 50], "task_seed": 0}


def learner(*means: float, tasks: int = 3, name: str = "sb3", **meta: Any) -> Results:
    """Learns from scratch for 2,000 steps a k, on a grid with gaps: k = 0, 1, 10, 100."""
    grid = (0, 1, 10, 100)
    scores = np.broadcast_to(np.array(means)[:, None], (2, tasks, 4, 4)).copy()
    made = scored(-40.0, tasks=tasks, agent=name, meta={"from_scratch": True, "task_seed": 0, **meta})
    made = replace(made, k=list(grid), scores={"sampled": scores}, env_steps=2000.0 * np.array(grid))
    lengths = {"episodes": 20.0 * np.array(grid), "collected": np.zeros((2, tasks, 100)), "seconds": np.ones((2, 100))}
    return replace(made, task_hash=f"{tasks:064d}", paths={}, lifetime=np.zeros(0), **lengths)


def adapted(name: str, last: float, tasks: int = 3, **changes: Any) -> Results:
    """Meta-trained; R_2 is `last` after 4,000 steps."""
    made = scored(-40.0, -30.0, last, tasks=tasks, agent=name, meta=TRAINED, task_hash=f"{tasks:064d}")
    return replace(made, paths={}, lifetime=np.zeros(0), **changes)


CURVE = (-40.0, -30.0, -20.0, -10.0)


def test_a_sentence_says_how_many_steps_the_best_agent_saves(tmp_path: Path):
    """-15 is half way between 20,000 and 200,000 steps: 63,246 steps, 15.8 times 4,000."""
    made = [adapted("maml", -15.0), adapted("reptile", -25.0), learner(*CURVE)]
    text = page(made, tmp_path)
    assert HEADING in words(text)
    assert "sb3 from scratch needs 63,246 steps (15.8\u00d7) to match maml after k = 2 (4,000 steps)." in words(text)
    assert text.count('aria-label="learning from scratch and adaptation"') == 1
    heads, rows = board(text, "Steps from scratch")
    assert heads == ["agent", "k", "environment steps", "steps from scratch", "times as many", "R k"]
    steps = {agent: [values(cell) for cell in cells] for agent, cells in rows.items()}
    half = 2000 * 10**1.5  # between 20,000 and 200,000
    assert steps["maml"][2][0] == pytest.approx(half)
    assert steps["maml"][3][0] == pytest.approx(half / 4000)
    assert steps["reptile"][2][0] == pytest.approx(2000 * 10**0.5)  # half way between 2,000 and 20,000


def test_the_top_of_the_page_has_the_sentences_with_links_to_their_sections(tmp_path: Path):
    far = [replace(made, split="far", task_hash="beef" * 16) for made in (adapted("rl2", -20.0), learner(*CURVE))]
    made = [adapted("maml", -15.0), learner(*CURVE), learner(*CURVE[::-1], name="sac"), *far]
    text = page(made, tmp_path, notes=["One run is missing."])
    top = text.split("<section>")[0]
    assert top.index("One run is missing.") < top.index("<h2>From scratch</h2>") < top.index("<nav>")
    items = re.findall(r"<li>(.*?)</li>", top.split('<ul class="headlines">')[1].split("</ul>")[0])
    links = [re.match(r'<a href="#([^"]+)">', item) for item in items]
    assert [words(item) for item in items] == [
        "metarl/ToyBandit-v0, split test : sb3 from scratch needs 63,246 steps (15.8\u00d7) to match maml after k = 2 "
        "(4,000 steps). sac from scratch matches maml after k = 2 (4,000 steps) before its first step.",
        "metarl/ToyBandit-v0, split far : sb3 from scratch needs 20,000 steps (5.0\u00d7) to match rl2 after k = 2 "
        "(4,000 steps).",
    ]
    for link, split in zip(links, ("test", "far"), strict=True):
        assert link is not None
        assert f'<h2 id="{link[1]}">{HEADING}</h2><p class="soft">split: {split}</p>' in text
    assert "From scratch" not in page([adapted("maml", -15.0), adapted("reptile", -25.0)], tmp_path)


@pytest.mark.parametrize(
    ("last", "sentence", "cell"),
    [
        (
            -5.0,
            "sb3 from scratch does not match maml after k = 2 (4,000 steps) within 200,000",
            "more than 200,000",
        ),
        (-35.0, "sb3 from scratch needs fewer than 2,000 steps (0.5\u00d7) to match maml", "fewer than 2,000"),
        (-50.0, "sb3 from scratch matches maml after k = 2 (4,000 steps) before its first step", "0 [0, 0]"),
    ],
)
def test_returns_that_scratch_never_or_soon_reaches_are_bounds(last: float, sentence: str, cell: str, tmp_path: Path):
    made = [adapted("maml", last), learner(*CURVE)]
    text = page(made, tmp_path)
    assert sentence in words(text)
    _, rows = board(text, "Steps from scratch")
    assert words(rows["maml"][2]).replace(" ", "") == cell.replace(" ", "")
    tables = yardstick_tables(yardsticks(made)[0])
    assert f" {cell} " in tables["yardstick.md"]
    assert f" {cell} " in tables["yardstick.tex"]


def test_the_range_of_steps_is_that_of_the_agents_interval(tmp_path: Path):
    agent = adapted("maml", -15.0)
    agent.scores["sampled"][0] += 1.0  # -14.5, and the interval of two seeds is 12.7 * 0.5 to both sides
    text = page([agent, learner(*CURVE)], tmp_path, files=True)
    folder = tmp_path / "report_files" / "toybandit-v0-test-from-scratch"
    assert f'id="{folder.name}">Learning' in text
    assert f'href="#{folder.name}">metarl/ToyBandit-v0, split test: learning from scratch<' in text
    assert {path.suffix for path in folder.glob("yardstick.*")} == {".png", ".pdf", ".svg", ".csv", ".md", ".tex"}
    low, high = (2000 * 10 ** ((end + 30) / 10) for end in (-14.5 - 6.3531, -14.5 + 6.3531))
    with (folder / "yardstick.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (float(row["scratch_low"]), row["scratch_low_bound"]) == (pytest.approx(low, rel=1e-3), "")
    assert (float(row["scratch_high"]), row["scratch_high_bound"]) == (200_000.0, ">")  # -8.1 is above the curve's end
    assert high > 200_000
    assert (row["tasks"], row["mode"], row["scratch_bound"]) == ("3", "sampled", "")
    assert f"match maml after k = 2 (4,000 steps), between {low:,.0f} and more than 200,000." in words(text)


def test_agents_are_compared_on_the_tasks_that_all_played_even_of_other_studies(tmp_path: Path):
    agent = adapted("maml", -15.0, tasks=8)
    agent.scores["sampled"][:, 3:] = 50.0  # in tasks that scratch did not play
    agent.meta = {**TRAINED, "entry": "toy/dense/maml"}
    other = adapted("other", 0.0, tasks=3, task_hash="beef" * 16)
    other.meta = {**TRAINED, "entry": "toy/far/other", "task_seed": 5}
    made = [agent, other, learner(*CURVE, entry="toy/yardstick/ppo")]
    (found,) = yardsticks(made)
    assert (found.tasks, found.mode, found.left_out) == (3, "sampled", ["other"])
    text = words(page(made, tmp_path))
    assert "ppo (sb3) from scratch needs 63,246 steps" in text
    assert "on the first 3 tasks, which all have played" in text
    assert "Left out, because their tasks or actions are others: other." in text


def test_several_learners_have_a_column_and_a_sentence_each(tmp_path: Path):
    made = [adapted("maml", -15.0), learner(*CURVE), learner(*CURVE[::-1], name="sac")]
    text = page(made, tmp_path)
    assert "sac from scratch needs fewer" not in words(text)
    assert "sac from scratch does not match" not in words(text)
    assert "sac from scratch needs" not in words(text)
    assert "sac from scratch matches maml after k = 2 (4,000 steps) before its first step." in words(text)
    heads, _ = board(text, "Steps from scratch")
    assert heads[:2] == ["agent", "from scratch"]


def test_random_play_is_no_agent_to_match(tmp_path: Path):
    for others in ([], [make_results("random", "metarl/ToyBandit-v0", meta={"iterations": 0})]):
        assert HEADING not in words(page([learner(*CURVE), *others], tmp_path))
    assert HEADING not in words(page([adapted("maml", -15.0), adapted("reptile", -25.0)], tmp_path))


def test_the_figure_has_a_line_from_scratch_and_a_point_for_each_agent():
    figure = yardstick_figure([adapted("maml", -15.0), learner(*CURVE)])
    assert figure is not None
    (ax,) = figure.axes
    assert ax.get_xscale() == "log"
    drawn = [line for line in ax.lines if line.get_marker() != "None"]
    curve, zero, point = (line.get_xydata().tolist() for line in drawn)
    assert curve == [[2000.0, -30.0], [20_000.0, -20.0], [200_000.0, -10.0]]
    assert zero[0][1] == -40.0
    assert point == [[4000.0, -15.0]]
    (way,) = [line for line in ax.lines if line.get_linestyle() == ":" and line.get_linewidth() == 0.9]
    assert way.get_ydata().tolist() == [-15.0, -15.0]
    assert way.get_xdata().tolist() == [4000.0, pytest.approx(2000 * 10**1.5)]
    assert yardstick_figure([adapted("maml", -15.0)]) is None
