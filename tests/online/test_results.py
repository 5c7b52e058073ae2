"""Results of streams: averages, files, the figure, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import metarl
from metarl.files import write_json
from metarl.online import OnlineResults
from metarl.online.figure import online_figure

META = {"seeds": [0, 1], "stream_seeds": [0, 1], "updates": 1, "episodes": 5, "in_hindsight": False}


def made(**changes: Any) -> OnlineResults:
    """Two streams of three rounds, k = 0 and 1."""
    returns = np.array([[[-5.0, -4.0], [-5.0, -3.0], [-5.0, -2.0]], [[-7.0, -2.0], [-7.0, -1.0], [-7.0, 0.0]]])
    steps = np.broadcast_to([0.0, 10.0], (2, 3, 2)).copy()
    trained = np.array([[0.0, 5.0, 10.0]] * 2)
    references = {"floor": np.full((2, 3), -10.0), "informed_optimum": np.zeros((2, 3))}
    results = OnlineResults(
        "maml", "toy/F-v0", "stationary", [0, 1], returns, steps, trained, references, ["a", "b"], dict(META)
    )
    return replace(results, **changes)


def test_means_are_over_streams():
    """Two streams have one degree of freedom, of which Student's quantile is 12.706."""
    found = made().summary(0.75)
    assert found["first"].mean == -6
    assert found["last"].mean == -2  # of -3 and -1
    assert found["last"].high == pytest.approx(-2 + 12.7062, abs=1e-3)  # the deviation of the mean is 1
    assert found["late"].mean == -1.5  # rounds 2 and 3: -2.5 and -.5
    assert found["regret_last"].mean == 6  # of 9 and 3
    assert found["regret_first"].mean == 18  # of 15 and 21
    assert found["reached"].mean == pytest.approx(4 / 6)  # above -2.5: one round of three, and all
    assert found["steps"].mean == 10
    assert found["train_steps"].mean == 10


def test_the_regret_is_a_sum_over_rounds():
    assert made().regret()[:, :, 1].tolist() == [[4, 7, 9], [2, 3, 3]]
    against = made().regret(made(returns=made().returns + 1))
    assert against[:, :, 1].tolist() == [[1, 2, 3], [1, 2, 3]]


def test_what_is_not_known_is_left_out_or_refused():
    unknown = made(references={"floor": np.zeros((2, 3))})
    assert set(unknown.summary()) == {"first", "last", "late", "train_steps"}
    assert {"regret_last", "reached"} <= set(unknown.summary(reference=made()))
    with pytest.raises(metarl.InvalidValueError, match="reference is nothing, expected a learner of the same streams"):
        unknown.regret()
    with pytest.raises(metarl.InvalidValueError, match="floor of the tasks is unknown"):
        made(references={}).steps_to(reference=made())
    with pytest.raises(metarl.InvalidValueError, match="streams of the reference is OnlineResults"):
        made().regret(made(task_hashes=["a", "c"]))


def test_a_file_gives_the_same_results_again(tmp_path: Path):
    path = made().save(tmp_path / "maml.json")
    loaded = OnlineResults.load(path)
    for name in ("returns", "env_steps", "train_steps"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(made(), name))
    assert loaded.summary() == made().summary()
    assert (loaded.meta, loaded.k, loaded.task_hashes) == (META, [0, 1], ["a", "b"])
    assert loaded.save(tmp_path / "again.json").read_bytes() == path.read_bytes()


DAMAGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no returns": (lambda head: head.pop("returns"), "shape of returns"),
    "a round less": (lambda head: head["returns"][0].pop(), "online results"),
    "another shape": (lambda head: head.update(env_steps=[[0, 1]]), "shape of env_steps"),
    "no number": (lambda head: head["returns"][0][0].__setitem__(0, float("nan")), "expected finite numbers"),
    "text": (lambda head: head.update(train_steps="many"), "online results"),
    "k falls": (lambda head: head.update(k=[1, 0]), "expected a rising list"),
    "another name": (lambda head: head["references"].update(best=[[0.0] * 3] * 2), "references of"),
    "seeds": (lambda head: head["meta"].update(seeds=["a", "b"]), "seeds of meta of"),
    "no meta": (lambda head: head.pop("meta"), "meta of .* is missing"),
    "hashes": (lambda head: head.update(task_hashes=["a"]), "task_hashes of"),
    "format": (lambda head: head.update(format="metarl-results-3"), "format of"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_in_one_sentence(damage: str, tmp_path: Path):
    path = made().save(tmp_path / "maml.json")
    head = json.loads(path.read_text())
    del head["sha256"]
    change, sentence = DAMAGES[damage]
    change(head)
    write_json(path, head)
    with pytest.raises(metarl.InvalidValueError, match=sentence) as caught:
        OnlineResults.load(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_was_edited_or_cut_off_is_refused(tmp_path: Path):
    path = made().save(tmp_path / "maml.json")
    whole = path.read_text()
    path.write_text(whole.replace("-5.0", "-4.0"))
    with pytest.raises(metarl.InvalidValueError, match=r"maml\.json was changed after it was written"):
        OnlineResults.load(path)
    path.write_text(whole[:100])
    with pytest.raises(metarl.InvalidValueError, match=r"a file written by OnlineResults\.save"):
        OnlineResults.load(path)


def test_numbers_that_are_not_finite_are_not_saved(tmp_path: Path):
    with pytest.raises(metarl.InvalidValueError, match="returns of the results is nan, expected finite numbers"):
        made(returns=np.full((2, 3, 2), np.nan)).save(tmp_path / "maml.json")
    assert list(tmp_path.iterdir()) == []


def test_the_figure_shows_each_learner_and_the_regret():
    figure = online_figure([made(), made(agent="scratch")])
    returns, regret = figure.axes
    assert [line.get_label() for line in returns.lines] == ["maml", "scratch", "best return"]
    assert regret.lines[0].get_ydata().tolist() == [3, 5, 6]  # the means of 4 and 2, 7 and 3, 9 and 3
    unknown = made(references={})
    assert len(online_figure([unknown]).axes) == 1
    assert len(online_figure([unknown], made()).axes) == 2
    with pytest.raises(metarl.InvalidValueError, match="streams of the results"):
        online_figure([made(), made(task_hashes=["a", "c"])])
    with pytest.raises(metarl.InvalidValueError, match="results is nothing"):
        online_figure([])
