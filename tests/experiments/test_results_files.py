"""Published rows: each belongs to a suite, stands on the tasks that families give, and says what it follows from."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import bandit_bounds
import benchmark_evaluation
import benchmark_families
import benchmark_inference
import benchmark_inner_steps
import benchmark_revisions
import benchmark_runner
import benchmark_speed
import few_shot_accuracy
import gradient_bias
import interval_coverage
import online_streams
import pytest
import tune
from results_files import RESULTS, STUDIES, SUITES, length, row_file, selected
from tables.speed import SPEED_SUMMARY

import metarl
from metarl.benchmark.rows import agreement, completed, evaluate_again, identity
from metarl.benchmark.suite import agent_of, source_of
from metarl.evaluation.evaluate import adaptation_grid
from metarl.evaluation.results import Results
from metarl.families import registry
from metarl.online.streams import KINDS
from metarl.runs.load import with_settings

ROWS = sorted(path.parent for path in RESULTS.rglob("results.json"))
IDS = [row.relative_to(RESULTS).as_posix() for row in ROWS]


def head(row: Path) -> dict[str, Any]:
    """The results of a row without its arrays."""
    found: dict[str, Any] = json.loads((row / "results.json").read_text())
    return found


def test_every_committed_file_is_one_that_a_suite_or_a_script_writes() -> None:
    known = {row_file(study, entry) for study, given in STUDIES.items() for entry in given.entries}
    known |= {benchmark_speed.OUT.parent / f"{name}.json" for name in SPEED_SUMMARY}
    known |= {s.OUT for s in (bandit_bounds, benchmark_evaluation, benchmark_families, benchmark_speed)}
    known |= {
        s.OUT for s in (benchmark_inference, benchmark_runner, few_shot_accuracy, gradient_bias, interval_coverage)
    }
    known |= {s.OUT for s in (benchmark_inner_steps, benchmark_revisions)}
    known |= {online_streams.file_of(kind, learner) for kind in KINDS for learner in online_streams.LEARNERS}
    others = {path for path in RESULTS.rglob("*.json") if not path.parent.name.startswith("seed")}
    assert others <= known
    assert {path.with_suffix(".json") for path in RESULTS.rglob("*.npz")} <= known
    assert len(ROWS) > 100


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_a_row_was_made_with_the_settings_and_the_protocol_of_its_suite(row: Path) -> None:
    """Hyperparameters that did not exist yet have their default, and those that are gone changed nothing."""
    suite_name, study, entry = row.parts[-3:]
    found, suite = head(row), SUITES[suite_name]
    if not registry.families[registry.base_id(found["family"])].available:
        pytest.skip(f"{found['family']} needs a package")
    source, name = source_of(suite, study, entry)
    trained, given = suite.studies[source].entries[name], suite.studies[study].entries[entry]
    agent = with_settings(agent_of(suite.studies[source], trained, 0), **given.evaluated_with)
    config = json.loads(json.dumps(asdict(agent.config)))
    stored = found["meta"]["config"]
    assert {k: stored.get(k, asdict(type(agent.config)())[k]) for k in config} == config
    protocol = suite.studies[study].protocol
    assert found["k"] == adaptation_grid(protocol.k)
    assert found["family"] == agent.family.id
    wanted = {"tasks": protocol.tasks, "trials": protocol.trials, "episodes": protocol.episodes, "seed": protocol.seed}
    wanted["iterations"] = trained.iterations
    assert {k: found["meta"][k] for k in wanted} == wanted
    if "row" in found["meta"]:
        assert completed(found["meta"]["row"]) == identity(suite, study, entry, RESULTS / suite_name)


def test_published_rows_stand_on_the_tasks_that_families_give() -> None:
    """A results file names the hash of its tasks; the same hash is computed here from the family."""
    heads = [head(row) for row in ROWS]
    played = {
        (h["family"], h["split"], h["meta"]["tasks"], h["meta"]["task_seed"], h["task_hash"])
        for h in heads
        if registry.families[registry.base_id(h["family"])].available
    }
    assert len(played) > 5
    for family, split, count, seed, found in played:
        assert metarl.make_family(family).tasks(split, count, seed).hash == found, (family, split, count)


SAMPLE = [  # of each kind of agent one; .ci/run plays a row of each suite
    RESULTS / row
    for row in (
        "navigation/dense/naive",
        "navigation/sparse/multi_task",
        "few_shot/digits-n5-k5/rl2",
        "bandits/n10-k5/thompson_sampling",
    )
]


@pytest.mark.parametrize("row", SAMPLE, ids=["/".join(row.parts[-3:]) for row in SAMPLE])
def test_published_numbers_are_found_again_from_the_weights(row: Path) -> None:
    stored, again = evaluate_again(row)
    assert agreement(stored, again) in ("equal", "equal to rounding")


def test_weights_that_are_not_those_of_the_results_are_refused(tmp_path: Path) -> None:
    row = next(row for row in ROWS if row.name == "random")
    results = Results.load(row / "results.json")
    results.meta["row"] = {**results.meta["row"], "weights": ["0" * 64]}
    folder = tmp_path / "study" / "random"
    folder.mkdir(parents=True)
    results.save(folder / "results.json")
    with pytest.raises(metarl.InvalidValueError, match=r"a run directory with a config\.json"):
        evaluate_again(folder)
    del results.meta["row"]
    results.save(folder / "results.json")
    with pytest.raises(metarl.InvalidValueError, match="scores only"):
        evaluate_again(folder)


def test_every_training_can_begin() -> None:
    """Its batch is not empty, and what it begins with is shorter and has the same network."""
    shape = ("memory", "hidden", "reward_coef", "separate_value", "value_sees_task", "task_coef")
    seen = 0
    for study, given in STUDIES.items():
        for entry in (e for e in given.entries.values() if e.agent == "rl2"):
            config: Any = agent_of(given, replace(entry), 0).config
            assert config.meta_batch_size >= config.minibatches
            assert config.anneal_iterations in (0, entry.iterations)
            if entry.begins_with:
                source, _, name = entry.begins_with.partition("/")
                whole = f"{study.partition('/')[0]}/{source}"
                assert length(whole) < length(study)
                other = agent_of(STUDIES[whole], STUDIES[whole].entries[name], 0).config
                assert [getattr(config, n) for n in shape] == [getattr(other, n) for n in shape]
                seen += 1
    assert seen


def test_studies_are_named_by_their_first_parts() -> None:
    assert selected(["bandits/n10"]) == ["bandits/n10-k5", "bandits/n10-k10", "bandits/n10-k50"]
    assert len(selected(["mdps"])) == 5
    with pytest.raises(metarl.InvalidValueError, match="'mdps/n10'"):
        selected(["mdps/n11"])


def test_the_search_chooses_the_best_setting_of_its_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CHOSEN", "MEASURED"):
        monkeypatch.setattr(tune, name, tmp_path / f"{name}.json")
        (tmp_path / f"{name}.json").write_text("{}")
    monkeypatch.setattr(tune, "GRIDS", {"epsilon_greedy": ({"epsilon": 0.9}, {"epsilon": 0.01})})
    tune.main(tune.Options(studies=("bandits/n10-k5",), tasks=200))
    assert json.loads((tmp_path / "CHOSEN.json").read_text()) == {
        "bandits/n10-k5": {"epsilon_greedy": {"epsilon": 0.01}}
    }
    scores = json.loads((tmp_path / "MEASURED.json").read_text())["bandits/n10-k5"]["epsilon_greedy"]
    assert [score["setting"]["epsilon"] for score in scores] == [0.9, 0.01]


def test_choices_are_the_best_of_the_scores_that_were_measured() -> None:
    chosen, measured = (json.loads(path.read_text()) for path in (tune.CHOSEN, tune.MEASURED))
    assert {study: list(rows) for study, rows in chosen.items()} == {
        study: list(rows) for study, rows in measured.items()
    }
    for study, rows in measured.items():
        for row, scores in rows.items():
            assert chosen[study][row] == max(scores, key=lambda score: float(score["mean"]))["setting"]
