"""The report: one file, whose numbers are those of the results, whatever the results look like."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest

from metarl.errors import InvalidValueError
from metarl.evaluation.results import Results
from metarl.evaluation.statistics import gap
from metarl.report.entries import grouped
from metarl.report.page import (
    adaptation_figure,
    gaps,
    paths_figure,
    save_figure,
    table_text,
    trial_figure,
    write_report,
)

DASH = "\u2013"
SETTINGS = dict(matplotlib.rcParams)  # before any test drew anything


def make_results(
    agent: str = "maml", family: str = "metarl/Toy-v0", *, grid: tuple[int, ...] = (0, 1, 2, 3), **changes: Any
) -> Results:
    """2 seeds, 3 tasks, 4 episodes; R_k rises with k, and the bytes depend on the agent's name alone."""
    rng = np.random.default_rng(list(agent.encode()))
    rise = np.array(grid, dtype=float)[:, None]
    path = np.cumsum(rng.normal(size=(2, 5, 2)), 1)
    path[1, 3:] = np.nan  # the second episode is shorter
    made = Results(
        agent=agent,
        family=family,
        split="test",
        k=list(grid),
        scores={m: -30.0 + 7.0 * rise + rng.normal(size=(2, 3, len(grid), 4)) for m in ("sampled", "deterministic")},
        success={},
        collected=rng.normal(size=(2, 3, grid[-1])),
        lifetime=np.zeros((0,)),
        episodes=20.0 * np.array(grid),
        env_steps=2000.0 * np.array(grid),
        seconds=np.full((2, grid[-1]), 0.25),
        references={"informed_optimum": np.array([-1.0, -2.0, -3.0])},
        bayes_optimal=None,
        paths={k: path for k in grid},
        landmarks=np.array([[1.0, 0.0], [0.0, 1.0]]),
        task_hash="feed" * 16,
        meta={"seeds": [0, 1], "config": {"inner_lr": 0.1}, "versions": {"torch": "2.9"}, "train_equals_test": False},
    )
    return replace(made, **changes)


def bandit(agent: str = "rl2", **changes: Any) -> Results:
    """Like episodes of one step: lifetime returns, no paths."""
    changes = {"lifetime": np.full((2, 3, 2), 6.5), "bayes_optimal": 6.75, "landmarks": None} | changes
    changes["paths"] = {k: np.zeros((0, 0, 2)) for k in range(4)}
    references = {"floor": np.full(3, -40.0), "informed_optimum": np.full(3, -10.0)}
    return make_results(agent, "metarl/ToyBandit-v0", **{"references": references, **changes})


def page(results: list[Results], out: Path, **options: Any) -> str:
    path = write_report(results, out, **options)
    assert path == out / "report.html"
    return path.read_text(encoding="utf-8")


def groups(text: str) -> list[tuple[str, str]]:
    """(name, rows) of every group of rows of every table."""
    found = re.findall(r'<tbody><tr><th scope="rowgroup"[^>]*>(.*?)</th>(.*?)</tbody>', text, re.S)
    return [(re.sub(r"<[^>]+>", " ", name).strip(), body) for name, body in found]


def values(row: str) -> list[float]:
    return [float(v) for v in re.findall(r'<data value="([^"]+)">', row)]


AGENTS = [make_results("maml"), make_results("random")]
FAR = make_results(split="far", task_hash="beef" * 16)
ARMS = [bandit(), make_results("maml", "metarl/ToyBandit-v0", task_hash="beef" * 16, paths={})]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page of two families, one of them with two splits."""
    out = tmp_path_factory.mktemp("report") / "a" / "b"
    text = page([AGENTS[0], *ARMS, AGENTS[1], FAR], out)
    assert [p.name for p in out.iterdir()] == ["report.html"]
    return text


# --- the page --------------------------------------------------------------------------------------------------------


def test_page_is_one_file_that_asks_for_nothing(whole: str):
    assert whole.startswith("<!DOCTYPE html>")
    assert whole.count("<svg ") == 1 + 1 + 1 + 1 + 1 + 1  # curves of three sections, paths of two, a trial
    assert not re.search(r"<(script|link|img|iframe|object|image)\b|@import|url\(\s*['\"]?(?!#)", whole)
    assert "://" not in whole  # no address of any kind, not even a namespace
    assert all(target.startswith("#") for target in re.findall(r'(?:href|src)="([^"]*)"', whole))


def test_inline_figures_refer_only_to_what_the_page_defines(whole: str):
    wanted = set(re.findall(r"url\(#([^)]+)\)", whole)) | set(re.findall(r'href="#([^"]+)"', whole))
    assert wanted
    assert wanted <= set(re.findall(r'\bid="([^"]+)"', whole))


def test_page_is_the_same_bytes_twice(tmp_path: Path):
    assert page([FAR], tmp_path / "1") == page([FAR], tmp_path / "2")


def test_table_holds_the_summary_of_every_agent_mode_and_k(whole: str):
    found = {name: body for name, body in groups(whole.split("<section>")[1]) if name.endswith("actions")}
    assert set(found) == {f"{a} {m} actions" for a in ("maml", "random") for m in ("sampled", "deterministic")}
    for results in AGENTS:
        for mode in ("sampled", "deterministic"):
            rows = found[f"{results.agent} {mode} actions"].split("</tr>")[:-1]
            for row, expected in zip(rows, results.summary(mode), strict=True):
                columns = ("k", "mean", "low", "high", "iqm", "env_steps")
                assert values(row) == [expected[name] for name in columns]


def test_numbers_read_as_they_are(tmp_path: Path):
    flat = make_results(scores={"sampled": np.full((1, 3, 4, 2), -12.3456)}, seconds=np.full((1, 3), 0.25))
    name, body = groups(page([flat], tmp_path))[0]
    shown = re.sub(r"<[^>]+>", "|", body.split("</tr>")[1])
    assert name == "maml sampled actions"
    # two decimals, a minus sign as in print, thousands apart: -12.3456 is 12.35 below zero
    assert [c for c in shown.split("|") if c] == ["1", *["\u221212.35", "[", "\u221212.35", ", ", "\u221212.35", "]"],
                                                  "\u221212.35", "2,000"]  # fmt: skip


def test_normalised_score_and_success_have_columns_only_where_known(tmp_path: Path, whole: str):
    known = bandit(success={"sampled": np.full((2, 3, 4, 4), 0.25)})
    text = page([known], tmp_path)
    head = re.findall(r"<th scope=\"col\">(.*?)</th>", text)
    assert "normalised" in head
    assert "success" in head
    sampled, likeliest = (body.split("</tr>")[0] for name, body in groups(text) if name.endswith("actions"))
    first = known.summary()[0]
    # by hand: floor -40, reference -10, so the score is (mean + 40) / 30
    assert values(sampled)[-2:] == pytest.approx([(first["mean"] + 40.0) / 30.0, 0.25])
    assert len(values(likeliest)) == len(values(sampled)) - 1  # success was not reported for deterministic actions
    assert DASH in likeliest
    assert not {"normalised", "success"} & set(re.findall(r"<th scope=\"col\">(.*?)</th>", whole.split("<section>")[1]))


def test_results_of_one_agent_are_told_apart_by_a_number_that_differs():
    found = [bandit("ucb1", meta={"seeds": [0], "config": {"a": 1, "c": c}}) for c in (0.5, 2.0)]
    assert [entry.label for entry in grouped(found)[0]] == ["ucb1, c 0.5", "ucb1, c 2.0"]


def scored(*means: float, split: str = "test", tasks: int = 3, **changes: Any) -> Results:
    """R_k is `means[k]` in every task and for both seeds; floor -40, informed optimum -10; 2,000 steps a k."""
    scores = {"sampled": np.broadcast_to(np.array(means)[:, None], (2, tasks, len(means), 4)).copy()}
    known = {"floor": np.full(tasks, -40.0), "informed_optimum": np.full(tasks, -10.0)}
    return bandit(split=split, scores=scores, grid=tuple(range(len(means))), **{"references": known, **changes})


@pytest.mark.parametrize(
    ("means", "steps"),
    [
        ((-40.0, -20.0, -13.0, -12.0), 4000.0),  # .9 of the way is -13: there with k = 2
        ((-40.0, -12.0, -20.0, -12.0), 6000.0),  # falls below once more
        ((-11.0, -11.0, -11.0, -11.0), 0.0),
        ((-40.0, -12.0, -12.0, -14.0), np.inf),  # not there at the end: censored
    ],
)
def test_steps_to_ninety_per_cent(means: tuple[float, ...], steps: float):
    results = scored(*means)
    assert results.steps_to(0.9) == {"steps": steps, "low": steps, "high": steps}
    assert make_results().steps_to(0.9) is None  # no floor


def test_steps_to_ninety_per_cent_have_an_interval_and_a_column(tmp_path: Path):
    """Two of three tasks are solved at k = 1, the third at k = 3: the margin at k = 1 may be above 0, and below."""
    results = scored(-40.0, -12.0, -12.0, -12.0)
    results.scores["sampled"][:, 2] = np.array([-40.0, -40.0, -40.0, -12.0])[:, None]
    assert results.steps_to(0.9) == {"steps": 6000.0, "low": 2000.0, "high": 6000.0}
    assert results.steps_to(0.6) == {"steps": 2000.0, "low": 2000.0, "high": 6000.0}  # the mean is -21.3 at k = 1
    body = dict(groups(page([results], tmp_path)))["rl2"]
    assert values(body)[3:6] == [6000.0, 2000.0, 6000.0]
    never = dict(groups(page([scored(-40.0, -40.0)], tmp_path)))["rl2"]
    assert never.count("not reached") == 3


def test_the_train_test_gap(tmp_path: Path):
    """Ten tasks of each, by hand: -18 on train tasks, -20 on test tasks, then -12 and -13."""
    test, train = scored(-20.0, -13.0, tasks=10), scored(-18.0, -12.0, split="train", tasks=10)
    rows = gap(train, test)
    assert rows[0] == pytest.approx({"k": 0.0, "gap": 2.0, "low": 2.0, "high": 2.0})
    assert rows[1] == pytest.approx({"k": 1.0, "gap": 1.0, "low": 1.0, "high": 1.0})
    test.scores["sampled"][:, :5] -= 6.0  # half the tasks 6 lower: the mean 3 lower, its variance 10 * 9 / 9 / 10 = 1
    rows = gap(train, test)
    assert rows[0] == pytest.approx({"k": 0.0, "gap": 5.0, "low": 5.0 - 2.262, "high": 5.0 + 2.262}, abs=1e-3)  # t, 9
    text = page([train, test], tmp_path)
    assert "<h2>Train-test gap</h2>" in text
    assert values(groups(text)[-1][1])[:4] == pytest.approx([0.0, 5.0, rows[0]["low"], rows[0]["high"]])
    line = table_text([train, test]).splitlines()[-1]
    assert line.startswith("rl2 on metarl/ToyBandit-v0, R_k on train tasks less R_k on test tasks: k = 0: 5.00 [")
    for single in (test, train):
        assert "gap" not in page([single], tmp_path).split("<h2>")[-1]
    finite = replace(test, meta=test.meta | {"train_equals_test": True})
    assert "<h2>Train-test gap</h2>" not in page([train, finite], tmp_path)
    # seeds that differ by 100 in both splits do not widen it: they are the same ones
    for results in (train, test):
        results.scores["sampled"][1] += 100.0
    assert gap(train, test)[0]["low"] == pytest.approx(rows[0]["low"])


def test_steps_to_ninety_per_cent_compare_each_task_with_its_own_optimum():
    """At 95 % of the way in every task from k = 1 on; that tasks differ in their optimum is no uncertainty."""
    best = np.array([0.0, 60.0, 400.0])
    results = scored(-40.0, 0.0, 0.0, references={"floor": np.full(3, -40.0), "informed_optimum": best})
    results.scores["sampled"][:, :, 1:] = (-40.0 + 0.95 * (best + 40.0))[:, None, None]
    assert results.steps_to(0.9) == {"steps": 2000.0, "low": 2000.0, "high": 2000.0}


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


def test_long_grids_show_six_k_with_both_ends(tmp_path: Path):
    made = make_results(grid=tuple(range(21)))
    body = next(body for name, body in groups(page([made], tmp_path)) if name == "maml sampled actions")
    assert [values(row)[0] for row in body.split("</tr>")[:-1]] == [0, 4, 8, 12, 16, 20]


def test_lifetime_return_stands_beside_the_bayes_optimum(whole: str):
    rows = dict(groups(whole.split("<section>")[2]))
    # every lifetime return is 6.5, so its interval is a point; 3 episodes were collected in a trial
    assert values(rows["rl2"])[-5:] == [6.5, 6.5, 6.5, 3.0, 6.75]
    assert rows["maml"].count(f"<td>{DASH}</td>") == 6  # no reference, so no steps to 90 % either


def test_sections_are_one_per_family_and_split(whole: str):
    assert re.findall(r"<h2>(.*?)</h2>", whole) == ["metarl/Toy-v0", "metarl/ToyBandit-v0", "metarl/Toy-v0"]
    sections = whole.split("<section>")[1:]
    assert ["split: far" in s for s in sections] == [False, False, True]
    assert ["random" in s for s in sections] == [True, False, False]
    assert ["different tasks" in s for s in sections] == [False, True, False]  # by their hashes


def test_results_of_one_agent_have_names_of_their_own():
    rows = table_text([make_results(), make_results()]).splitlines()[4:]
    assert [row.split("|")[1].strip() for row in rows] == ["maml", "maml", "maml (2)", "maml (2)"]


def test_results_of_one_agent_are_told_apart_by_a_word_of_their_settings():
    """By the first that is a word and different in all of them; numbers and lists are no names."""
    configs = [
        {"hidden": [8], "memory": memory, "lr": lr, "kind": "same"} for memory, lr in (("gru", 0.1), ("lstm", 0.2))
    ]
    both = [make_results("rl2"), make_results("maml"), make_results("rl2")]
    for result, config in zip(both[::2], configs, strict=True):
        result.meta["config"] = config
    assert [e.label for e in grouped(both)[0]] == ["rl2, gru", "maml", "rl2, lstm"]
    both[2].meta["config"] = configs[0]
    assert [e.label for e in grouped(both)[0]] == ["rl2", "maml", "rl2 (2)"]


def test_details_hold_config_seeds_versions_hash_and_the_finite_note(tmp_path: Path, whole: str):
    meta = FAR.meta | {"train_equals_test": True}
    note, details = page([replace(FAR, meta=meta)], tmp_path).split("<details>")
    for expected in ("inner_lr", "[0, 1]", "2.9", "beef" * 16, "far", "train = test: finite family"):
        assert expected in details
    assert "train = test: finite family" in note
    assert "finite family" not in whole


HOSTILE = "<script>alert('x')</script>&\"$x^$_\\"


def test_strings_are_escaped(tmp_path: Path):
    made = make_results(
        HOSTILE, HOSTILE, split=HOSTILE, task_hash=HOSTILE, meta={HOSTILE: HOSTILE, "config": {HOSTILE: 1}}
    )
    text = page([made, make_results("random", HOSTILE, split=HOSTILE)], tmp_path, title=HOSTILE)
    assert "<script" not in text
    assert "<title>&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;&amp;&quot;$x^$_\\</title>" in text
    assert "<h1>&lt;script&gt;" in text
    assert "<h2>&lt;script&gt;" in text


def test_file_in_place_of_the_directory_is_named(tmp_path: Path):
    out = tmp_path / "taken"
    out.write_text("mine")
    with pytest.raises(InvalidValueError, match=re.escape(str(out))):
        write_report([make_results()], out)
    assert out.read_text() == "mine"


def test_no_results_is_a_clear_error(tmp_path: Path):
    with pytest.raises(InvalidValueError, match="at least one evaluation"):
        write_report([], tmp_path)
    assert list(tmp_path.iterdir()) == []


SPARSE = {
    "one k": lambda: make_results(grid=(0,), env_steps=np.zeros(1)),
    "one k, not 0": lambda: make_results(grid=(5,)),
    "no deterministic mode": lambda: make_results(scores={"sampled": np.ones((1, 1, 4, 1))}),
    "no sampled mode": lambda: make_results(scores={"deterministic": np.zeros((1, 1, 4, 1))}),
    "no paths": lambda: make_results(paths={}, landmarks=None),
    "no landmarks": lambda: make_results(landmarks=None),
    "no references": lambda: make_results(references={}, meta={}),
    "standing still": lambda: make_results(paths={0: np.zeros((1, 3, 2))}, landmarks=np.zeros((1, 2))),
    "references that touch": lambda: make_results(references={"floor": np.full(3, -9.0), "best_of": np.full(3, -9.0)}),
    "lifetime without optimum": lambda: bandit(bayes_optimal=None),
}


@pytest.mark.parametrize("name", SPARSE)
def test_results_that_lack_something_are_drawn_too(name: str, tmp_path: Path):
    made = SPARSE[name]()
    text = page([made], tmp_path)
    rows = [body for label, body in groups(text) if label.endswith("actions")]
    assert sum(body.count("</tr>") for body in rows) == len(made.scores) * len(made.k)
    assert ("<h3>Paths</h3>" in text) == any(p.size for p in made.paths.values())
    assert table_text([made])


# --- figures ---------------------------------------------------------------------------------------------------------


def test_curves_are_the_summaries():
    made = [make_results("maml"), make_results("random", env_steps=np.array([0.0, 100.0, 200.0, 300.0]))]
    figure = adaptation_figure(made)
    by_k, by_steps = figure.axes  # environment steps differ, and nobody has lifetime returns
    for ax, x_name in ((by_k, "k"), (by_steps, "env_steps")):
        drawn = [
            (line.get_xdata(), line.get_ydata(), line.get_linestyle())
            for line in ax.lines
            if line.get_marker() != "None"
        ]
        styles = {"sampled": "-", "deterministic": "--"}
        expected = [(r.summary(mode), style) for r in made for mode, style in styles.items()]
        for (x, y, style), (rows, line_style) in zip(drawn, expected, strict=True):
            np.testing.assert_array_equal(x, [row[x_name] for row in rows])
            np.testing.assert_array_equal(y, [row["mean"] for row in rows])
            assert style == line_style
    band = by_k.collections[0].get_paths()[0].vertices[:, 1]
    rows = made[0].summary()
    assert (band.min(), band.max()) == (min(r["low"] for r in rows), max(r["high"] for r in rows))


def test_one_k_is_drawn_as_points_beside_each_other():
    (ax,) = adaptation_figure([make_results(grid=(5,))]).axes
    # two modes, 0.1 apart around k = 5
    assert [line.get_xdata()[0] for line in ax.lines[:2]] == pytest.approx([4.95, 5.05])
    assert ax.get_xticks() == [5]


def test_references_are_lines_with_names():
    ax = adaptation_figure([bandit()]).axes[0]
    assert {line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == ":"} == {-40.0, -10.0}
    assert {text.get_text(): text.get_position()[1] for text in ax.texts} == {
        "floor": -40.0,
        "informed\noptimum": -10.0,
    }


def test_panels_follow_what_the_agents_have():
    def labels(*results: Results, **options: Any) -> list[str]:
        return [ax.get_xlabel().split()[0] for ax in adaptation_figure(results, **options).axes]

    assert labels(make_results(), make_results("random")) == ["adaptation"]
    assert labels(make_results(), make_results("random", env_steps=np.arange(4.0))) == ["adaptation", "environment"]
    assert labels(bandit(), bandit("random")) == ["adaptation", "lifetime"]
    assert labels(bandit(), make_results("maml", "metarl/ToyBandit-v0")) == ["adaptation"]
    assert labels(make_results(), panels=["env_steps"]) == ["environment"]
    with pytest.raises(InvalidValueError, match="did you mean 'lifetime'"):
        adaptation_figure([bandit()], ["lifetimes"])
    with pytest.raises(InvalidValueError, match="one family"):
        adaptation_figure([bandit(), make_results()])


def test_lifetime_panel_shows_means_and_the_bayes_optimum():
    (ax,) = adaptation_figure([bandit(), bandit("random")], ["lifetime"]).axes
    assert [line.get_xdata()[0] for line in ax.lines] == [6.5, 6.5, 6.75]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["rl2", "random"]


def test_paths_are_rows_of_agents_and_at_most_five_columns_of_k():
    made = [make_results("maml", grid=tuple(range(9))), bandit("random"), make_results("oracle", grid=(0, 8))]
    figure = paths_figure(made)
    assert figure is not None
    assert [ax.get_title() for ax in figure.axes[:5]] == [f"k = {k}" for k in (0, 2, 4, 6, 8)]
    assert len(figure.axes) == 2 * 5  # the agent without paths has no row
    first = figure.axes[0].lines
    np.testing.assert_array_equal(first[3].get_xydata(), made[0].paths[0][1, :3])  # up to the NaN
    assert (first[2].get_marker(), first[2].get_xydata().tolist()) == ("*", [[1.0, 0.0]])
    assert figure.axes[6].lines[:] == []  # the last agent knows nothing of k = 2
    assert paths_figure([bandit()]) is None


def test_frame_of_paths_is_square_and_keeps_goals_in_sight():
    path = np.array([[[0.0, 0.0], [100.0, 0.0]]])
    figure = paths_figure([make_results(paths={0: path}, landmarks=np.array([[1.0, 1.0]]))])
    assert figure is not None
    # anchors span [0, 1] on both axes: centre 0.5, reach 0.5, so the half width is 1.1 * 2.5 * 0.5 = 1.375
    for low, high in (figure.axes[0].get_xlim(), figure.axes[0].get_ylim()):
        assert (low, high) == pytest.approx((0.5 - 1.375, 0.5 + 1.375))


def arms(*pulled: int, paid: tuple[int, ...]) -> dict[str, np.ndarray]:
    """A trial of one-step episodes with a Discrete action; other tasks' trials differ."""
    action, reward = np.array(pulled, float)[None, :, None], np.array(paid, float)[None, :, None]
    return {"action": np.concatenate([action, 0 * action]), "reward": np.concatenate([reward, 0 * reward])}


def test_trial_curves_are_means_of_what_was_collected():
    thin = bandit("gittins", lifetime=np.ones((1, 3, 1)), collected=np.array([[[1.0, 2.0, 4.0]]]))  # kept as a mean
    made = [bandit(bayes_episodes=np.array([-20.0, -12.0, -9.0])), make_results("maml", "metarl/ToyBandit-v0"), thin]
    (ax,) = trial_figure(made).axes  # no trial was kept; the agent without lifetime returns has no curve
    rl2, gittins, optimum, bayes = ax.lines
    np.testing.assert_array_equal(rl2.get_xdata(), [1, 2, 3])
    np.testing.assert_allclose(rl2.get_ydata(), made[0].collected.mean((0, 1)))
    np.testing.assert_array_equal(gittins.get_ydata(), [1.0, 2.0, 4.0])
    assert (optimum.get_linestyle(), list(optimum.get_ydata())) == (":", [-10.0, -10.0])
    assert (bayes.get_linestyle(), bayes.get_ydata().tolist()) == ("--", [-20.0, -12.0, -9.0])
    assert {t.get_text(): t.get_position()[1] for t in ax.texts} == {
        "informed\noptimum": -10.0,
        "Bayes-optimal\npolicy": -9.0,
    }
    (band,) = ax.collections  # one seed has none
    by_seed = made[0].collected.mean(1)  # [seed, episode]
    for j in range(3):
        edge = [y for x, y in band.get_paths()[0].vertices if x == j + 1]
        assert (min(edge), max(edge)) == (by_seed[:, j].min(), by_seed[:, j].max())


def test_arms_of_a_trial_are_filled_where_they_paid():
    made = [
        bandit(trial=arms(2, 0, 4, paid=(0, 1, 1))),
        bandit("random"),
        bandit("ucb1", trial=arms(3, 3, 3, paid=(0, 0, -1))),
    ]
    left, rl2, ucb1 = trial_figure(made).axes
    assert [ax.get_title(loc="left") for ax in (rl2, ucb1)] == ["rl2", "ucb1"]
    for ax, filled, hollow in ((rl2, [(2, 0), (3, 4)], [(1, 2)]), (ucb1, [], [(1, 3), (2, 3), (3, 3)])):
        paid, unpaid = ax.lines
        assert [tuple(p) for p in paid.get_xydata().tolist()] == filled
        assert [tuple(p) for p in unpaid.get_xydata().tolist()] == hollow
        assert paid.get_markerfacecolor() == paid.get_color()
        assert unpaid.get_markerfacecolor() == "white"
        assert ax.get_ylim() == (-0.5, 4.5)  # the largest arm that anyone pulled is 4
    assert rl2.lines[0].get_color() == left.lines[0].get_color()
    assert ucb1.lines[0].get_color() == left.lines[2].get_color()


def test_trials_of_four_agents_are_shown():
    made = [bandit(name, trial=arms(0, 1, 2, paid=(1, 1, 1))) for name in "abcdef"]
    assert [ax.get_title(loc="left") for ax in trial_figure(made).axes[1:]] == list("abcd")


def test_continuous_actions_are_no_arms():
    trial = {"action": np.zeros((1, 3, 1, 1)), "reward": np.zeros((1, 3, 1)), "obs": np.zeros((1, 3, 1, 3))}
    assert len(trial_figure([bandit(trial=trial)]).axes) == 1


def test_walks_of_a_trial_are_its_first_second_and_last_episode():
    episodes = np.arange(4.0)[:, None, None]  # episode j goes from (0, j) to (1, j) to (2, j), the second ends before
    obs = np.concatenate([np.arange(3.0)[None, :, None] + 0 * episodes, episodes + np.zeros((4, 3, 1))], -1)
    obs[1, 2] = np.nan
    trial = {"action": np.zeros((2, 4, 3)), "reward": np.zeros((2, 4, 3)), "obs": np.stack([obs, obs + 7])}
    walked = bandit(trial=trial, landmarks=np.array([[3.0, 1.0], [9.0, 9.0]]), collected=np.zeros((2, 3, 4)))
    _, first, second, last = trial_figure([walked]).axes
    assert [ax.get_title() for ax in (first, second, last)] == ["episode 1", "episode 2", "episode 4"]
    expected = ([[0, 0], [1, 0], [2, 0]], [[0, 1], [1, 1]], [[0, 3], [1, 3], [2, 3]])
    for ax, points in zip((first, second, last), expected, strict=True):
        path, _, star = ax.lines
        assert path.get_xydata().tolist() == points
        assert (star.get_marker(), star.get_xydata().tolist()) == ("*", [[3.0, 1.0]])
    # everything lies in [0, 3] on both axes: centre 1.5, half width 1.1 * 1.5
    assert (first.get_xlim(), first.get_ylim()) == (pytest.approx((-0.15, 3.15)), pytest.approx((-0.15, 3.15)))


def test_page_shows_trials_of_at_least_two_episodes(tmp_path: Path, whole: str):
    assert ["<h3>Trial</h3>" in section for section in whole.split("<section>")[1:]] == [False, True, False]
    assert "<h3>Trial</h3>" not in page([bandit(collected=np.zeros((2, 3, 1)))], tmp_path)
    with pytest.raises(InvalidValueError, match="at least two episodes"):
        trial_figure([make_results()])
    with pytest.raises(InvalidValueError, match="one family"):
        trial_figure([bandit(), make_results()])
    shown = page([bandit(trial=arms(0, 1, 2, paid=(1, 1, 1)))], tmp_path)
    assert shown == page([bandit(trial=arms(0, 1, 2, paid=(1, 1, 1)))], tmp_path)


@pytest.mark.parametrize(("name", "start"), [("curve.png", b"\x89PNG"), ("sub/curve.SVG", b"<?xml")])
def test_figures_are_saved_whole(name: str, start: bytes, tmp_path: Path):
    path = save_figure(adaptation_figure([make_results()]), tmp_path / name)
    assert path.read_bytes().startswith(start)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_other_kinds_of_figure_are_refused(tmp_path: Path):
    with pytest.raises(InvalidValueError, match=r"curve\.gif.*\.png or \.svg"):
        save_figure(adaptation_figure([make_results()]), tmp_path / "curve.gif")


def test_nothing_global_changes(tmp_path: Path):
    page([make_results(), bandit()], tmp_path)
    save_figure(adaptation_figure([bandit()]), tmp_path / "a.png")
    assert dict(matplotlib.rcParams) == SETTINGS


# --- text ------------------------------------------------------------------------------------------------------------


def test_text_table_in_full():
    flat = {"sampled": np.full((1, 3, 2, 2), -12.3456), "deterministic": np.full((1, 3, 2, 2), 0.5)}
    made = make_results(grid=(0, 1), scores=flat)
    assert table_text([made]).splitlines() == [
        "metarl/Toy-v0: split: test \u00b7 tasks: 3 \u00b7 episodes for each R_k: 2 \u00b7 informed optimum: -2 "
        "\u00b7 95 % intervals: one seed: over tasks only, other seeds may differ",
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
    row = table_text([AGENTS[0]]).splitlines()[4]
    cells = [f"{r['mean']:.2f} [{r['low']:.2f}, {r['high']:.2f}]" for r in AGENTS[0].summary()]
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
