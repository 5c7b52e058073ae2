"""How much lower returns are on tasks farther from training: train, test, and other distributions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_results import groups, page, scored, values

from metarl.errors import InvalidValueError
from metarl.evaluation.statistics import gap
from metarl.report.page import table_text
from metarl.report.tables import gaps


def test_the_train_test_gap(tmp_path: Path):
    """Ten tasks of each, by hand: -18 on train tasks, -20 on test tasks, then -12 and -13."""
    test, train = scored(-20.0, -13.0, tasks=10), scored(-18.0, -12.0, split="train", tasks=10)
    rows = gap(train, test)
    assert rows[0] == pytest.approx({"k": 0.0, "gap": 2.0, "low": 2.0, "high": 2.0})
    assert rows[1] == pytest.approx({"k": 1.0, "gap": 1.0, "low": 1.0, "high": 1.0})
    test.scores["sampled"][:, :5] -= 6.0  # half the tasks 6 lower: the mean 3 lower, its variance 10 * 9 / 9 / 10 = 1
    rows = gap(train, test)
    assert rows[0] == pytest.approx({"k": 0.0, "gap": 5.0, "low": 5.0 - 2.262, "high": 5.0 + 2.262}, abs=1e-3)  # t, 9
    text = page([train, test], tmp_path, files=True)
    assert '<h2 id="gaps">Gaps between splits</h2>' in text
    written = (tmp_path / "report_files" / "gaps" / "gaps.csv").read_text().splitlines()
    assert written[0] == "family,agent,splits,mode,k,gap,low,high"
    assert written[1].startswith("metarl/ToyBandit-v0,rl2,train tasks less test tasks,sampled,0.0,5.0,")
    assert values(groups(text)[-1][1])[:4] == pytest.approx([0.0, 5.0, rows[0]["low"], rows[0]["high"]])
    line = table_text([train, test]).splitlines()[-1]
    assert line.startswith("rl2 on metarl/ToyBandit-v0, R_k on train tasks less R_k on test tasks: k = 0: 5.00 [")
    for single in (test, train):
        assert "Gaps between splits" not in page([single], tmp_path)
    finite = replace(test, meta=test.meta | {"train_equals_test": True})
    assert "Gaps between splits" not in page([train, finite], tmp_path)
    # seeds that differ by 100 in both splits do not widen it: they are the same ones
    for results in (train, test):
        results.scores["sampled"][1] += 100.0
    assert gap(train, test)[0]["low"] == pytest.approx(rows[0]["low"])


def test_the_out_of_distribution_gap_is_beside_the_nearest_split():
    train, test = (scored(mean, split=split) for mean, split in ((-18.0, "train"), (-20.0, "test")))
    heavy, light = (scored(mean, split=split) for mean, split in ((-50.0, "heavy"), (-21.0, "light")))
    found = {(g.near, g.far.split): g.rows[0]["gap"] for g in gaps([heavy, test, light, train])}
    assert found == pytest.approx({("train", "test"): 2.0, ("test", "heavy"): 30.0, ("test", "light"): 1.0})
    assert [(g.near, g.far.split) for g in gaps([train, heavy])] == [("train", "heavy")]
    assert gaps([heavy, light]) == []
    line = table_text([test, heavy]).splitlines()[-1]
    assert line.startswith("rl2 on metarl/ToyBandit-v0, R_k on test tasks less R_k on heavy tasks: k = 0: 30.00 [")


def test_gaps_need_agents_that_were_trained_as_long_and_a_shared_mode():
    test, train = scored(-20.0, -13.0), scored(-18.0, -12.0, split="train")
    test.meta["iterations"], train.meta["iterations"] = [1], [3]
    assert gaps([test, train]) == []
    with pytest.raises(InvalidValueError, match=r"iterations of the train results is \[3\], expected \[1\]"):
        gap(train, test)
    with pytest.raises(InvalidValueError, match=r"splits is .* expected the train results first"):
        gap(test, train)
    train.meta["iterations"] = [1]
    assert len(gaps([test, train])) == 1
    train.scores["deterministic"] = train.scores.pop("sampled")
    assert gaps([test, train]) == []
    test.scores["deterministic"] = test.scores["sampled"]
    assert gaps([test, train])[0][1][0]["gap"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"agent": "maml"}, "agent"), ({"k": [0, 2]}, "k"), ({"meta": {"seeds": [5, 6]}}, "seeds")],
)
def test_a_gap_between_other_agents_is_refused(changes: dict[str, Any], named: str):
    test = scored(-20.0, -13.0)
    with pytest.raises(InvalidValueError, match=f"{named} of the train results is"):
        gap(replace(scored(-18.0, -12.0, split="train"), **changes), test)
