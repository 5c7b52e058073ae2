"""Results made by hand, and what a page shows of them, for the tests of reports."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from metarl.evaluation.results import Results
from metarl.report.page import write_report


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


def page(results: list[Results], out: Path, files: bool = False, **options: Any) -> str:
    """The text of the page of a report, by default without files beside it."""
    path = write_report(results, out, files=files, **options)
    assert path == out / "report.html"
    return path.read_text(encoding="utf-8")


def groups(text: str) -> list[tuple[str, str]]:
    """(name, rows) of every group of rows of every table."""
    found = re.findall(r'<tbody><tr><th scope="rowgroup"[^>]*>(.*?)</th>(.*?)</tbody>', text, re.S)
    return [(words(name), body) for name, body in found]


def words(markup: str) -> str:
    """What one reads."""
    return " ".join(re.sub(r"<svg.*?</svg>|<[^>]+>", " ", markup, flags=re.S).split())


def board(text: str, name: str = "Leaderboard") -> tuple[list[str], dict[str, list[str]]]:
    """The heads of the first table of this name, and the cells of each agent."""
    found = re.search(f'aria-label="{name}"><table class="sortable">(.*?)</table>', text, re.S)
    assert found is not None
    head, body = found[1].split("<tbody>")
    heads = [words(cell) for cell in re.findall(r"<th scope=\"col\">(.*?)</th>", head)]
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', body, re.S)
    return heads, {words(agent): re.findall(r"<td[^>]*>(.*?)</td>", cells, re.S) for agent, cells in rows}


def values(row: str) -> list[float]:
    return [float(v) for v in re.findall(r'<data value="([^"]+)">', row)]


def scored(*means: float, split: str = "test", tasks: int = 3, **changes: Any) -> Results:
    """R_k is `means[k]` in every task and for both seeds; floor -40, informed optimum -10; 2,000 steps a k."""
    scores = {"sampled": np.broadcast_to(np.array(means)[:, None], (2, tasks, len(means), 4)).copy()}
    known = {"floor": np.full(tasks, -40.0), "informed_optimum": np.full(tasks, -10.0)}
    return bandit(split=split, scores=scores, grid=tuple(range(len(means))), **{"references": known, **changes})
