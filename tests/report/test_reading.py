"""Reports stay readable: many agents, wide tables, wide intervals, labels that would overlap, and what is left out."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from made_results import board, make_results, page, scored, words

from metarl.evaluation.results import Results
from metarl.report.entries import grouped, most_informative
from metarl.report.figures.comparison import improvements
from metarl.report.figures.curves import draw_adaptation
from metarl.report.figures.limits import BEYOND
from metarl.report.figures.style import apart, rendered
from metarl.report.markup import CSS, SCRIPT
from metarl.report.page import adaptation_figure

SIX = [make_results(f"agent{i}") for i in range(6)]


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page of six agents."""
    return page(SIX, tmp_path_factory.mktemp("six"))


# --- many agents -----------------------------------------------------------------------------------------------------


def test_names_in_a_legend_highlight_what_is_drawn_of_their_agents(six: str):
    """Each legend stands before its row of figures, in which every named agent has parts of its own."""
    found = re.findall(r'<ul class="legend">(.*?)</ul><div class="row">(.*?)</div>(?=<h3>)', six, re.S)
    assert len(found) == 3  # adaptation, spread over tasks, comparison
    for legend, figures in found:
        named = re.findall(r'<button type="button" aria-pressed="false" data-agent="(\d)">(.*?)</button>', legend, re.S)
        assert [(number, words(name)) for number, name in named] == [(str(i), f"agent{i}") for i in range(6)]
        assert set(re.findall(r'<g data-agent="(\d)"', figures)) == set("012345")
    assert ".dimmed [data-agent]:not(.on){opacity" in CSS
    assert all(name in SCRIPT for name in (".legend", "dimmed", "dataset.agent", "aria-pressed"))


def test_files_of_figures_have_no_names_for_a_script():
    figure = draw_adaptation(grouped([make_results()])[0], ["k"])
    assert b"agent-0" in rendered(figure, "svg", clear=True)
    assert b"agent-0" not in rendered(figure, "svg")


def test_modes_that_are_left_out_are_named(six: str, tmp_path: Path):
    note = "There are more than 4 agents: deterministic actions are left out here"
    captions = [words(c) for c in re.findall(r"<figcaption>(.*?)</figcaption>", six, re.S)]
    assert note in captions[0]
    assert captions[1].endswith("Sampled actions.")
    assert all("Sampled actions." in caption for caption in captions[2:5])  # of one mode each
    assert note not in page(SIX[:4], tmp_path)
    single = [make_results(f"a{i}", scores={"sampled": np.ones((2, 3, 4, 4))}) for i in range(6)]
    text = page(single, tmp_path)
    assert "left out" not in text
    assert "Sampled actions." not in text


def test_paths_are_those_of_the_best_agents_and_say_so(tmp_path: Path):
    made = [make_results(f"agent{i}") for i in range(5)] + [make_results("oracle")]
    for i, results in enumerate(made):
        results.scores["sampled"] = np.full((2, 3, 4, 4), float(i))
    text = page(made, tmp_path)
    rows = text.split("<h3>Paths</h3>")[1]
    shown = re.findall(r">(agent\d|oracle)</text>", rows.split("</figure>")[0])
    assert shown == ["agent1", "agent2", "agent3", "agent4"]
    assert "Of 6 agents the 4 with the highest scores are shown, baselines last." in rows
    assert "are shown, baselines last" not in page(made[:4], tmp_path)
    entries = grouped([made[5], made[0]])[0]
    assert [e.label for e in most_informative(entries, 4)] == ["agent0", "oracle"]


def test_sections_of_several_studies_name_them(tmp_path: Path):
    made = [make_results(meta={"entry": f"nav/{study}/maml"}) for study in ("dense", "sparse")]
    text = page(made, tmp_path, files=True)
    assert "metarl/Toy-v0, split test, study nav/dense" in text
    assert text.count("study: nav/") == 2
    folders = sorted(path.name for path in (tmp_path / "report_files").iterdir())
    assert folders == ["toy-v0-test-dense", "toy-v0-test-sparse"]


# --- tables ----------------------------------------------------------------------------------------------------------


def test_a_table_that_goes_on_says_so_and_keeps_its_first_column(six: str):
    boxes = re.findall(
        r'<div class="box"><div class="(?:scroll|pan)".*?</div><p class="hint" aria-hidden="true">', six, re.S
    )
    assert (
        len(boxes) == six.count('class="box"') == six.count('<div class="scroll"') + six.count('<div class="pan"') > 0
    )
    assert 'classList.toggle("more"' in SCRIPT
    assert ".more>.hint{display:block}" in CSS
    assert re.search(r"th:first-child\{position:sticky;left:0;background:", CSS)
    assert board(six)[0][0] == "agent"


# --- figures ---------------------------------------------------------------------------------------------------------


def wide(*spread: float) -> Results:
    """R_k is -40, -30, -20, -10 with two seeds; at each k they differ by 2 * `spread`."""
    made = scored(-40.0, -30.0, -20.0, -10.0, agent=f"wide{spread[-1]}", references={})
    made.scores["sampled"][0] += np.array(spread)[:, None]
    made.scores["sampled"][1] -= np.array(spread)[:, None]
    return made


@pytest.mark.parametrize("panel", ["k", "last"])
def test_a_wide_interval_does_not_set_the_scale(panel: str):
    """The half width is 12.7 * spread; the others have 1.3, so the scale is theirs, and triangles mark the wide one."""
    made = [wide(0.1, 0.1, 0.1, 0.1), wide(0.1, 0.1, 0.1, 9.0), wide(0.1, 0.1, 0.1, 0.2)]
    (ax,) = adaptation_figure(made, [panel]).axes
    low, high = ax.get_ylim() if panel == "k" else ax.get_xlim()
    assert -60.0 < low < high < 20.0  # and not -124 to 104
    marks = {line.get_marker() for line in ax.lines if line.get_marker() in "^v<>"}
    assert marks >= ({"^", "v"} if panel == "k" else {"<", ">"})
    assert BEYOND in (ax.get_title(loc="left") if panel == "k" else ax.get_xlabel())


@pytest.mark.parametrize("panel", ["k", "last"])
def test_intervals_that_are_all_wide_are_shown_whole(panel: str):
    made = [wide(3.0, 4.0, 3.0, 4.0), wide(3.0, 4.0, 3.0, 3.0)]
    (ax,) = adaptation_figure(made, [panel]).axes
    low, high = ax.get_ylim() if panel == "k" else ax.get_xlim()
    assert high > -10.0 + 12.7 * 4.0
    assert low < -10.0 - 12.7 * 4.0
    assert BEYOND not in ax.get_title(loc="left") + ax.get_xlabel()


def test_names_of_close_lines_stand_apart():
    assert apart([0.0, 5.0], [1.0, 1.0]) == [0.0, 5.0]
    assert apart([2.0, 2.0], [1.0, 1.0]) == [1.5, 2.5]
    assert apart([2.0, 2.0, 2.0], [1.0, 2.0, 1.0]) == pytest.approx([0.5, 2.0, 3.5])
    assert apart([0.0, 1.2, 1.4], [1.0, 1.0, 1.0]) == pytest.approx([-0.13333, 0.86667, 1.86667], abs=1e-4)


def test_names_of_close_upright_lines_stand_one_above_the_other():
    def heights(floor: float) -> list[float]:
        known = {"floor": np.full(3, floor), "informed_optimum": np.full(3, -10.0)}
        (ax,) = adaptation_figure([scored(-40.0, -5.0, references=known)], ["last"]).axes
        return [text.get_position()[1] for text in ax.texts]

    first, second = heights(-10.5)
    assert second >= first + 10  # points
    first, second = heights(-80.0)
    assert second == first


# --- bold ------------------------------------------------------------------------------------------------------------


def test_bold_says_what_it_means_where_all_runs_agree(tmp_path: Path):
    """Two seeds each that agree in all tasks: the interval of two draws holds one half."""
    few = [scored(-40.0, -12.0, agent="a"), scored(-40.0, -20.0, agent="b")]
    rows = improvements(grouped(few)[0])
    assert rows[0]["improvement"] == 1.0
    assert rows[0]["low"] < 0.5
    note = "A 0 or 1 that is not bold: all runs agree in all tasks, but so few seeds could agree by chance"
    assert note in words(page(few, tmp_path))
    many = [scored(-40.0, last, agent=name) for name, last in (("a", -12.0), ("b", -20.0))]
    for results in many:
        results.scores = {"sampled": np.repeat(results.scores["sampled"][:1, :1], 20, 1).repeat(20, 0)}
        results.references = {}
        results.lifetime = np.zeros(0)
    text = words(page(many, tmp_path))
    assert "Bold: the 95 % interval excludes one half" in text.replace("&nbsp;", " ")
    assert note not in text
