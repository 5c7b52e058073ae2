"""Tables as text and as files have the numbers of the summaries."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from made_results import bandit, make_results, page

from metarl.report.leaderboard import IMPROVEMENT_COLUMNS
from metarl.report.page import table_text
from metarl.report.tables import DASH, Column, cell_text, csv_file, latex_file, latex_text, markdown_file

# --- text ------------------------------------------------------------------------------------------------------------


def test_text_table_in_full():
    flat = {"sampled": np.full((1, 3, 2, 2), -12.3456), "deterministic": np.full((1, 3, 2, 2), 0.5)}
    made = make_results(grid=(0, 1), scores=flat)
    assert table_text([made]).splitlines() == [
        "metarl/Toy-v0: split: test \u00b7 tasks: 3 \u00b7 episodes for each R_k: 2 \u00b7 informed optimum: -2",
        "",
        "| agent | actions       | k = 0                   | k = 1                   | environment steps |",
        "| ----- | ------------- | ----------------------- | ----------------------- | ----------------- |",
        "| maml  | sampled       | -12.35 [-12.35, -12.35] | -12.35 [-12.35, -12.35] | 0 / 2,000         |",
        "| maml  | deterministic | 0.50 [0.50, 0.50]       | 0.50 [0.50, 0.50]       | 0 / 2,000         |",
    ]


def test_text_has_a_table_per_family_and_lifetime_where_known():
    toy, arms = table_text([make_results(grid=tuple(range(10))), bandit(), make_results("random")]).split("\n\nmetarl")
    assert re.findall(r"k = (\d+)", toy) == ["0", "3", "6", "9"]
    assert "lifetime" not in toy
    assert [line.split("|")[1].strip() for line in toy.splitlines()[4:]] == ["maml", "maml", "random", "random"]
    assert "Bayes-optimal lifetime return: 6.75" in arms
    assert arms.splitlines()[4].endswith("| 6.50 [6.50, 6.50] |")
    assert arms.splitlines()[5].endswith("|                   |")


def test_text_holds_the_summary():
    row = table_text([make_results()]).splitlines()[4]
    cells = [f"{r['mean']:.2f} [{r['low']:.2f}, {r['high']:.2f}]" for r in make_results().summary()]
    assert [cell.strip() for cell in row.split("|")[1:-1]] == ["maml", "sampled", *cells, "0 / 2,000 / 4,000 / 6,000"]


def test_a_text_table_that_is_too_wide_is_continued_below():
    made = [make_results(grid=(0, 1, 2, 3)), make_results("a" * 20)]
    whole = table_text(made).splitlines()[2:]
    parts = [part.splitlines() for part in table_text(made, width=80).split("\n\n")[1:]]
    assert len(parts) > 1
    assert all(len(line) <= 80 for part in parts for line in part)
    rows = [[[cell.strip() for cell in line.split("|")[1:-1]] for line in part] for part in (whole, *parts)]
    joined = [[*first[:2], *(cell for cells in same for cell in cells[2:])] for first, *same in zip(*rows, strict=True)]
    assert [row for i, row in enumerate(joined) if i != 1] == [row for i, row in enumerate(rows[0]) if i != 1]
    assert table_text(made, width=10).count("| agent") == len(rows[0][0]) - 2


def test_text_shows_success_and_steps_at_the_ks_of_its_columns():
    """Grids of k that differ: an agent's cell has a dash at a k that it was not measured at."""
    success = np.zeros((2, 3, 2, 4))
    success[:, :, 1, 0] = 1.0  # one of four episodes
    first = make_results(grid=(0, 2), success={"sampled": success})
    lines = table_text([first, make_results("rl2", grid=(0, 1))]).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    assert cells[0][2:] == ["k = 0", "k = 1", "k = 2", "environment steps", "success"]
    assert cells[2][3:4] + cells[2][5:] == ["", f"0 / {DASH} / 4,000", f"0.00 / {DASH} / 0.25"]
    assert cells[3][6] == ""  # success was not reported with deterministic actions
    assert cells[4][5:] == [f"0 / 2,000 / {DASH}", ""]


# --- files -----------------------------------------------------------------------------------------------------------

COLUMNS = [Column("agent", "agent"), Column("mean", "R_k", 2, ""), Column("steps", "steps to 90 %", 0, "steps_")]
ROWS = [
    {"agent": "meta_sgd|b", "mean": -1234.567, "low": -1300.0, "high": -1200.125, "steps": np.inf}
    | {"steps_low": 4000.0, "steps_high": np.inf},
    {"agent": "random", "mean": 0.1, "low": None, "high": None, "steps": None},
]


def test_csv_has_all_digits():
    assert csv_file(COLUMNS, ROWS).splitlines() == [
        "agent,mean,low,high,steps,steps_low,steps_high",
        "meta_sgd|b,-1234.567,-1300.0,-1200.125,inf,4000.0,inf",
        "random,0.1,,,,,",
    ]


def test_latex_uses_the_rules_of_booktabs():
    assert latex_file(COLUMNS, ROWS, "50 % of\nit").splitlines() == [
        "% made by metarl report; \\usepackage{booktabs}",
        "% 50 % of it",
        "\\begin{tabular}{lrr}",
        "  \\toprule",
        "  agent & $R_{k}$ & steps to 90 \\% \\\\",
        "  \\midrule",
        "  meta\\_sgd\\textbar{}b & $-$1,234.57 [$-$1,300.00, $-$1,200.12] & not reached [4,000, not reached] \\\\",
        "  random & 0.10 & -- \\\\",
        "  \\bottomrule",
        "\\end{tabular}",
    ]
    assert latex_text("\u00b5s") == r"$\mu$s"
    assert latex_text("a\\b~{x}^#$&") == r"a\textbackslash{}b\textasciitilde{}\{x\}\textasciicircum{}\#\$\&"


HOSTILE = ["a_b%c&d#e$f{g}h^i~j\\k<l>m|n", "[x] starts a row", "* too", "two\nlines\n\nof text", "\u00b5 \u2212", "}{"]
MADE = r"\\text\w+\{\}|\\[&%$#_{}]|\$-\$|\$\\mu\$"  # what special characters become


def test_latex_of_any_name_is_a_whole_table():
    """Braces are balanced, each row has as many cells as columns, and nothing special is left unescaped."""
    rows = [ROWS[0] | {"agent": name} for name in HOSTILE]
    text = latex_file(COLUMNS, rows, "100 %\n\\caption{")
    body = text.split("\\midrule\n")[1].split("  \\bottomrule")[0].splitlines()
    assert len(body) == len(HOSTILE)
    for line in body:
        assert line.endswith(r" \\")
        cells = re.sub(MADE, "", line.removesuffix(r" \\").strip())
        assert cells.count("&") == len(COLUMNS) - 1
        assert not re.search(r"[\\%$#_^~<>|]", cells)
        assert not cells.startswith(("[", "*"))
        assert not re.search(r"[{}]", cells.removeprefix("{}"))
    assert all(line.startswith("%") for line in text.split("\\begin{tabular}")[0].splitlines())


def test_markdown_of_any_name_is_a_whole_table():
    lines = markdown_file(COLUMNS, [ROWS[0] | {"agent": name} for name in HOSTILE], "caption").splitlines()[4:]
    assert len(lines) == 2 + len(HOSTILE)
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {len(COLUMNS) + 1}


def test_markdown_is_the_same_table():
    assert markdown_file(COLUMNS, ROWS, "caption").splitlines() == [
        "<!-- made by metarl report -->",
        "",
        "caption",
        "",
        "| agent       | R_k                              | steps to 90 %                    |",
        "| ----------- | -------------------------------- | -------------------------------- |",
        "| meta_sgd\\|b | \u22121,234.57 [\u22121,300.00, \u22121,200.12] | not reached [4,000, not reached] |",
        f"| random      | 0.10                             | {DASH}                                |",
    ]


def test_an_interval_that_is_nowhere_reached_is_left_out():
    never = {"steps": np.inf, "steps_low": np.inf, "steps_high": np.inf}
    assert cell_text(never, COLUMNS[2]) == "not reached"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a section."""
    out = tmp_path_factory.mktemp("files")
    meta = {"seeds": [0, 1], "command": "metarl eval runs/a"}
    page([make_results(meta=meta), make_results("random", meta={}), make_results(split="far")], out, files=True)
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "report_files"]
    assert sorted(path.name for path in (out / "report_files").iterdir()) == ["toy-v0-far", "toy-v0-test"]
    return out / "report_files" / "toy-v0-test"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_files_of_tables_agree_with_the_summaries(folder: Path):
    made = {"maml": make_results(), "random": make_results("random")}
    rows = rows_of(folder / "leaderboard.csv")
    assert [(row["family"], row["split"], row["agent"]) for row in rows] == [
        ("metarl/Toy-v0", "test", "maml"),
        ("metarl/Toy-v0", "test", "random"),
    ]
    assert [row["command"] for row in rows] == ["metarl eval runs/a", ""]
    for row in rows:
        last = made[row["agent"]].summary()[-1]
        for name in ("mean", "low", "high", "iqm", "iqm_low", "iqm_high", "env_steps"):
            assert float(row[name]) == last[name]
    every = rows_of(folder / "scores.csv")
    assert len(every) == 2 * 2 * 4  # agents, modes, k
    for row in every:
        found = made[row["agent"]].summary(row["mode"])[int(row["k"])]
        assert [float(row[name]) for name in ("k", "mean", "low", "high")] == [
            found[n] for n in ("k", "mean", "low", "high")
        ]
    for kind, minus in (("md", "\u2212"), ("tex", "$-$")):
        text = (folder / f"scores.{kind}").read_text()
        for results in made.values():
            for row in results.summary():
                cells = [f"{row[name]:.2f}".replace("-", minus) for name in ("mean", "low", "high")]
                assert f"{cells[0]} [{cells[1]}, {cells[2]}]" in text


def test_files_of_pairs_name_both_agents(folder: Path):
    rows = rows_of(folder / "improvement.csv")
    assert [(row["agent"], row["other"]) for row in rows] == [("maml", "random"), ("random", "maml")]
    chance = [float(row["improvement"]) for row in rows]
    assert sum(chance) == pytest.approx(1.0)
    text = (folder / "improvement.md").read_text()
    assert all(column.head in text for column in IMPROVEMENT_COLUMNS)
    assert f"{chance[0]:.3f} [" in text


def test_every_figure_is_there_in_each_kind(folder: Path):
    stems = {path.stem for path in folder.glob("*.png")}
    assert stems == {"adaptation-k", "adaptation-last", "tasks", "profile", "improvement", "paths"}
    for kind, start in (("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")):
        assert {path.stem for path in folder.glob(f"*.{kind}")} == stems
        assert all(path.read_bytes().startswith(start) for path in folder.glob(f"*.{kind}"))


def test_files_are_the_same_bytes_twice(folder: Path, tmp_path: Path):
    meta = {"seeds": [0, 1], "command": "metarl eval runs/a"}
    page([make_results(meta=meta), make_results("random", meta={})], tmp_path, files=True)
    again = tmp_path / "report_files" / "toy-v0-test"
    assert {p.name: p.read_bytes() for p in again.iterdir()} == {p.name: p.read_bytes() for p in folder.iterdir()}
