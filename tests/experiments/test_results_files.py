"""Where results files stand: each in the folder of its study, and none that no script writes."""

from __future__ import annotations

from pathlib import Path

import bandit_bounds
import benchmark_evaluation
import benchmark_families
import benchmark_speed
import gradient_bias
import interval_coverage
import make_tables
import point_navigation
import pytest
import robots
import trials
from results_files import RESULTS, results_file, study_folder

import metarl


@pytest.mark.parametrize(
    ("study", "row", "expected"),
    [
        ("bandit-n10-k5", "rl2", "bandits/n10-k5/rl2.json"),
        ("mdp-n25", "psrl-prior0", "mdps/n25/psrl-prior0.json"),
        ("grid_navi-n4", "oracle", "grid_navi/n4/oracle.json"),
        ("robots-ant_dir", "maml", "robots/ant_dir/maml.json"),
        ("speed", "speed_cuda", "speed/speed_cuda.json"),
    ],
)
def test_a_study_has_a_folder(study: str, row: str, expected: str, tmp_path: Path) -> None:
    assert results_file(study, row) == RESULTS / expected
    assert results_file(study, row, tmp_path) == tmp_path / expected
    assert study_folder(study) == (RESULTS / expected).parent


def test_navigations_comparisons_have_folders() -> None:
    names = ("dense-loaded-dice", "sparse-lvc-400", "paper", "paper-decay-400")
    found = [point_navigation.setting_file(name).relative_to(RESULTS).as_posix() for name in names]
    assert found == [f"navigation/{name}.json" for name in ("dense/loaded-dice", "sparse/lvc-400", *names[2:])]


def test_every_committed_file_is_one_that_a_script_writes() -> None:
    known = {results_file(s, row) for s, study in trials.STUDIES.items() for row in trials.rows_of(study)}
    known |= {results_file(f"robots-{s}", row) for s, study in robots.STUDIES.items() for row in study.agents}
    known |= {point_navigation.setting_file(s) for s in (*point_navigation.SETTINGS, *make_tables.NAVIGATION)}
    known |= {results_file("speed", name) for name in make_tables.SPEED_SUMMARY}
    known |= {s.OUT for s in (bandit_bounds, benchmark_evaluation, benchmark_families, benchmark_speed)}
    known |= {s.OUT for s in (gradient_bias, interval_coverage)}
    assert set(RESULTS.rglob("*.json")) <= known
    assert {path.with_suffix(".json") for path in RESULTS.rglob("*.npz")} <= known


def test_scripts_write_where_the_tables_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the three scripts that evaluate agents, told to write elsewhere."""
    short = {"k": 1, "num_tasks": 2, "episodes": 1}
    random = metarl.make_agent("random", "metarl/PointNavigation-v0")
    results = metarl.evaluate(random, **short)  # type: ignore[arg-type]
    monkeypatch.setattr(trials, "measured", lambda *_: results)
    monkeypatch.setattr(robots, "measured", lambda *_: results)
    monkeypatch.setattr(point_navigation, "trained", lambda *_: random)
    monkeypatch.setattr(metarl, "evaluate", lambda *_, **__: results)
    trials.main(trials.Options(studies=("grid_navi-n4",), agents=("random",), out=tmp_path))
    robots.main(robots.Options(studies=("ant_dir",), agents=("random",), out=tmp_path))
    point_navigation.main(point_navigation.Options(settings=("dense-random", "sparse-random"), out=tmp_path, goals=40))
    point_navigation.main(point_navigation.Options(settings=("dense-random",), out=tmp_path, goals=400))
    rows = (("grid_navi-n4", "random"), ("robots-ant_dir", "random"), ("navigation-dense", "random"))
    more = (("navigation-sparse", "random"), ("navigation-dense", "random-400"))
    assert set(tmp_path.rglob("*.json")) == {results_file(*row, tmp_path) for row in (*rows, *more)}
