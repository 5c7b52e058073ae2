"""The report: one file, whose numbers are those of the results, whatever the results look like."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_results import bandit, board, groups, make_results, page, scored, values, words

from metarl.errors import InvalidValueError
from metarl.evaluation.results import Results
from metarl.report.entries import grouped
from metarl.report.markup import CSS, SCRIPT
from metarl.report.page import table_text, write_report
from metarl.report.sections import GAPS, protocol
from metarl.report.tables import DASH

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
    assert not re.search(r"<(link|img|iframe|object|image|video|base)\b|@import|url\(\s*['\"]?(?!#)", whole)
    assert "://" not in whole  # no address of any kind, not even a namespace
    assert all(target.startswith("#") for target in re.findall(r'(?:href|src)="([^"]*)"', whole))
    assert re.findall(r"<script.*?</script>", whole, re.S) == [f"<script>{SCRIPT}</script>"]
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in whole


def test_figures_of_a_section_are_those_that_it_has_data_for(whole: str):
    found = [re.findall(r'role="img" aria-label="([^"]+)"', section) for section in whole.split("<section>")[1:]]
    last, tasks, profile = "return after the last adaptation step", "returns of single tasks", "performance profiles"
    pairs = "probability of improvement of each pair"
    assert found == [
        ["adaptation steps k", last, tasks, profile, pairs, "paths of episodes"],
        ["adaptation steps k", last, tasks, profile, "return of each episode of a trial"],  # different tasks: no pair
        ["adaptation steps k", tasks, profile, "paths of episodes"],
        [],  # of the gaps between splits
    ]


def test_figures_take_the_colors_of_the_page(whole: str):
    """Ink, lines and backgrounds are variables, which the dark page sets anew; only other colors would be fixed."""
    drawn = re.findall(r"<svg.*?</svg>", whole, re.S)
    assert not re.findall(r'style="[^"]*#[0-9a-f]{3,6}[^"]*"', " ".join(drawn))
    assert {"var(--c0)", "var(--c1)", "var(--ink)", "var(--line)"} <= set(re.findall(r"var\(--\w+\)", " ".join(drawn)))
    light, dark = (set(re.findall(r"(--\w+):", part)) for part in CSS.split("@media(prefers-color-scheme:dark)")[:2])
    used = set(re.findall(r"var\((--\w+)\)", whole))
    assert used <= light
    assert {"--bg", "--card", "--ink", "--soft", "--line", "--c0", "--c6"} <= dark


def test_wide_tables_scroll_within_their_boxes(whole: str):
    """Each table is in a box that scrolls, and that the keyboard reaches."""
    box = r'<div class="scroll" tabindex="0" role="region" aria-label="[^"]+"><table'
    assert len(re.findall(box, whole)) == whole.count("<table") > 0
    assert re.search(r"figure,\.scroll\{[^}]*overflow-x:auto", CSS)


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
                columns = ("k", "mean", "low", "high", "iqm", "iqm_low", "iqm_high", "env_steps")
                assert values(row) == [expected[name] for name in columns]


def test_numbers_read_as_they_are(tmp_path: Path):
    flat = make_results(scores={"sampled": np.full((1, 3, 4, 2), -12.3456)}, seconds=np.full((1, 3), 0.25))
    name, body = groups(page([flat], tmp_path))[0]
    shown = re.sub(r"<[^>]+>", "|", body.split("</tr>")[1])
    assert name == "maml sampled actions"
    # two decimals, a minus sign as in print, thousands apart: -12.3456 is 12.35 below zero
    number = ["\u221212.35", " ", "[", "\u221212.35", ", ", "\u221212.35", "]"]
    assert [c for c in shown.split("|") if c] == ["1", *number, *number, "2,000"]  # mean and IQM


def test_normalised_score_and_success_have_columns_only_where_known(tmp_path: Path, whole: str):
    known = bandit(success={"sampled": np.full((2, 3, 4, 4), 0.25)})
    text = page([known], tmp_path)
    head = re.findall(r"<th scope=\"col\">(.*?)</th>", text)
    assert "normalised" in head
    assert "success" in head
    sampled, likeliest = (body.split("</tr>")[0] for name, body in groups(text) if name.endswith("actions"))
    first = known.summary()[0]
    # by hand: floor -40, reference -10, so the score is (mean + 40) / 30
    shares = [first[name] for name in ("success", "success_low", "success_high")]
    assert values(sampled)[-4:] == pytest.approx([(first["mean"] + 40.0) / 30.0, *shares])
    assert len(values(likeliest)) == len(values(sampled)) - 3  # success was not reported for deterministic actions
    assert DASH in likeliest
    assert not {"normalised", "success"} & set(re.findall(r"<th scope=\"col\">(.*?)</th>", whole.split("<section>")[1]))


def test_leaderboard_holds_the_last_summary_and_what_it_cost(tmp_path: Path):
    known = [bandit(name, success={"sampled": np.full((2, 3, 4, 4), 0.25)}) for name in ("rl2", "random")]
    known[0].references["floor"] = np.full(3, -50.0)
    heads, rows = board(page(known, tmp_path))
    assert list(rows) == ["rl2", "random"]  # the order given
    assert heads[:5] == ["agent", "seeds", "R 3", "IQM", "success"]
    for results, cells in zip(known, rows.values(), strict=True):
        last, life = results.summary()[-1], results.lifetime_summary()
        shown = dict(zip(heads[1:], map(values, cells), strict=True))
        assert shown["seeds"] == [2.0]
        assert shown["R 3"] == [last[name] for name in ("mean", "low", "high")]
        assert shown["IQM"] == [last[name] for name in ("iqm", "iqm_low", "iqm_high")]
        assert shown["success"] == [last[name] for name in ("success", "success_low", "success_high")]
        assert (last["success"], shown["normalised"]) == (0.25, [last["normalised"]])
        assert shown["lifetime return"] == [life[name] for name in ("mean", "low", "high")]
        assert shown["environment steps"] == [6000.0]
        assert shown["seconds per step"] == [0.25]


def pulls(agent: str, seeds: int = 1) -> Results:
    """One-armed pulls: an episode is one step, and a score is 0 or 1."""
    rng = np.random.default_rng(len(agent))
    life = rng.integers(0, 4, (seeds, 30, 1)).astype(float)
    scores = {"sampled": rng.integers(0, 2, (seeds, 30, 1, 1)).astype(float)}
    steps = np.array([3.0])
    made = bandit(agent, grid=(3,), lifetime=life, scores=scores, env_steps=steps, episodes=steps, bayes_optimal=None)
    return replace(made, collected=rng.normal(size=(seeds, 30, 3)), paths={}, references={}, meta={})


def test_single_pulls_have_lifetime_returns_first_and_no_interquartile_mean(tmp_path: Path):
    heads, rows = board(page([pulls("ucb1"), pulls("greedy")], tmp_path))
    assert heads == ["agent", "seeds", "lifetime return", "R 3", "environment steps", "seconds per step"]
    assert values(rows["ucb1"][1])[0] == pulls("ucb1").lifetime.mean()


def test_intervals_over_tasks_only_are_said_to_be(tmp_path: Path):
    one, two = pulls("ucb1"), pulls("rl2", seeds=2)
    note = "One seed: the intervals of ucb1 are over tasks only"
    assert note in page([one, two], tmp_path)
    assert "One seed: all intervals are over tasks only" in page([one], tmp_path)
    assert "One seed" not in page([two], tmp_path)


def test_protocol_and_commands_are_in_words(tmp_path: Path):
    meta = {"task_seed": 7, "floor": "exact", "iterations": [50, 50], "git": "a" * 40, "seeds": [0, 1]}
    named = make_results("maml", meta=meta | {"command": "metarl eval runs/nav --k 3"})
    text = page([named, make_results("random", meta=meta | {"iterations": None, "failed_steps": 2})], tmp_path)
    sentences = [words(item) for item in re.findall(r"<li>(.*?)</li>", text.split("Protocol</h3>")[1], re.S)]
    assert sentences == [
        f"3 tasks of the split &#x27;test&#x27; of task seed 7, hash {'feed' * 16}: training cannot draw them.",
        "R_k at k = 0, 1, 2, 3: 4 fresh episodes in each task, sampled and deterministic actions.",
        "An adaptation step uses 2,000 environment steps in each task.",
        "The floor is exact.",
        "maml: Trained for 50 meta-updates.",
        "Seeds: 2; 95 % intervals: over seeds and tasks.",
        "random: 2 adaptation steps failed (parameters that are not finite); they count.",
    ]
    commands = words(text.split("Commands</h3>")[1].split("<details>")[0])
    assert commands == f"maml metarl eval runs/nav --k 3 (git {'a' * 12}) random not recorded (git {'a' * 12})"


@pytest.mark.parametrize(
    ("grid", "env_steps", "sentence"),
    [
        ((0, 1, 3), [0.0, 500.0, 1500.0], "An adaptation step uses 500 environment steps in each task."),
        ((10,), [10.0], "An adaptation step uses 1 environment step in each task."),
        ((4,), [50.0], "An adaptation step uses 12.5 environment steps in each task on average."),
        (
            (0, 1, 3),
            [0.0, 1480.0, 4460.5],  # 1,480, then 2,980.5 in two steps
            "An adaptation step uses 1,480 to 1,490.2 environment steps in each task on average.",
        ),
        ((0,), [0.0], ""),
    ],
)
def test_the_protocol_tells_the_budget_of_an_adaptation_step(
    grid: tuple[int, ...], env_steps: list[float], sentence: str
):
    made = make_results(grid=grid, env_steps=np.array(env_steps))
    assert " ".join(said for said in protocol(grouped([made])[0]) if "adaptation step" in said) == sentence


def test_the_protocol_names_agents_whose_adaptation_steps_differ():
    made = [make_results("maml"), make_results("rl2", env_steps=np.array([0.0, 200.0, 400.0, 600.0]))]
    assert [said for said in protocol(grouped(made)[0]) if "adaptation step" in said] == [
        "maml: An adaptation step uses 2,000 environment steps in each task.",
        "rl2: An adaptation step uses 200 environment steps in each task.",
    ]


def test_results_of_one_agent_are_told_apart_by_a_number_that_differs():
    found = [bandit("ucb1", meta={"seeds": [0], "config": {"a": 1, "c": c}}) for c in (0.5, 2.0)]
    assert [entry.label for entry in grouped(found)[0]] == ["ucb1, c 0.5", "ucb1, c 2.0"]


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
    heads, rows = board(page([results], tmp_path))
    assert values(rows["rl2"][heads.index("steps to 90&nbsp;%") - 1]) == [6000.0, 2000.0, 6000.0]
    heads, rows = board(page([scored(-40.0, -40.0)], tmp_path))
    assert rows["rl2"][heads.index("steps to 90&nbsp;%") - 1] == '<data value="Infinity">not reached</data>'


def test_the_leaderboard_has_the_last_tenth_of_a_trial(tmp_path: Path):
    """20 episodes, the last two return 3 and 5 in every task."""
    collected = np.zeros((2, 3, 20))
    collected[..., -2:] = [3.0, 5.0]
    lived = make_results("rl2", grid=tuple(range(21)), lifetime=np.full((2, 3, 2), 8.0), collected=collected)
    heads, rows = board(page([lived], tmp_path, files=False))
    assert values(rows["rl2"][heads.index("last tenth of a trial") - 1])[0] == 4.0


def test_steps_to_ninety_per_cent_compare_each_task_with_its_own_optimum():
    """At 95 % of the way in every task from k = 1 on; that tasks differ in their optimum is no uncertainty."""
    best = np.array([0.0, 60.0, 400.0])
    results = scored(-40.0, 0.0, 0.0, references={"floor": np.full(3, -40.0), "informed_optimum": best})
    results.scores["sampled"][:, :, 1:] = (-40.0 + 0.95 * (best + 40.0))[:, None, None]
    assert results.steps_to(0.9) == {"steps": 2000.0, "low": 2000.0, "high": 2000.0}


def test_long_grids_show_six_k_with_both_ends(tmp_path: Path):
    made = make_results(grid=tuple(range(21)))
    body = next(body for name, body in groups(page([made], tmp_path)) if name == "maml sampled actions")
    assert [values(row)[0] for row in body.split("</tr>")[:-1]] == [0, 4, 8, 12, 16, 20]


def test_lifetime_return_stands_beside_the_bayes_optimum(whole: str):
    heads, rows = board(whole.split("<section>")[2])
    place = heads.index("lifetime return") - 1
    # every lifetime return is 6.5, so its interval is a point
    assert [values(cell) for cell in rows["rl2"][place : place + 2]] == [[6.5, 6.5, 6.5], [6.75]]
    assert rows["maml"][place : place + 2] == [DASH, DASH]


def test_sections_are_one_per_family_and_split(whole: str):
    titles = re.findall(r'<h2 id="(.*?)">(.*?)</h2>', whole)
    assert [title for _, title in titles] == ["metarl/Toy-v0", "metarl/ToyBandit-v0", "metarl/Toy-v0", GAPS]
    assert re.findall(r'<li><a href="#(.*?)">', whole) == [name for name, _ in titles]
    sections = whole.split("<section>")[1:]
    assert ["split: far" in s for s in sections] == [False, False, True, False]
    assert [">random<" in s for s in sections] == [True, False, False, False]
    assert ["different tasks" in s for s in sections] == [False, True, False, False]  # by their hashes


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
    *_, note, _, details = page([replace(FAR, meta=meta)], tmp_path).split("<details>")
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
    assert text.count("<script") == 1
    assert "<title>&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;&amp;&quot;$x^$_\\</title>" in text
    assert "<h1>&lt;script&gt;" in text
    assert re.search("<h2[^>]*>&lt;script&gt;", text)


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
