"""Learning from scratch as a yardstick: steps that reach a return, and tasks that two results share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from made_results import scored

from metarl.errors import InvalidValueError
from metarl.evaluation.results import Results
from metarl.evaluation.yardstick import (
    Reached,
    common_tasks,
    is_meta_trained,
    learns_from_scratch,
    match,
    steps_to_reach,
)

STEPS = np.array([0.0, 100.0, 1000.0, 10_000.0])


@pytest.mark.parametrize(
    ("returns", "level", "expected"),
    [
        # half way up between 100 and 1,000 is 10^2.5 steps, three quarters are 10^2.75
        ((-40.0, -30.0, -20.0, -10.0), -25.0, Reached(10**2.5)),
        ((-40.0, -30.0, -20.0, -10.0), -22.5, Reached(10**2.75)),
        ((-40.0, -30.0, -20.0, -10.0), -20.0, Reached(1000.0)),  # a measured point
        ((-40.0, -30.0, -20.0, -10.0), -10.0, Reached(10_000.0)),  # the last one
        ((-40.0, -30.0, -20.0, -10.0), -9.9, Reached(10_000.0, ">")),  # never
        ((-40.0, -30.0, -20.0, -10.0), -35.0, Reached(100.0, "<")),  # zero steps have no logarithm
        ((-40.0, -30.0, -20.0, -10.0), -40.0, Reached(0.0)),  # before the first step
        # a curve that falls: the first time counts, and what comes later does not matter
        ((-40.0, -30.0, -35.0, -10.0), -32.5, Reached(100.0, "<")),
        ((-40.0, -20.0, -40.0, 0.0), -20.0, Reached(100.0)),
        ((-40.0, -20.0, -40.0, 0.0), -10.0, Reached(10**3.75)),
        ((-40.0, -10.0, -40.0, -40.0), -11.0, Reached(100.0, "<")),
        ((-10.0, -20.0, -30.0, -40.0), -5.0, Reached(10_000.0, ">")),
    ],
)
def test_steps_that_reach_a_return(returns: tuple[float, ...], level: float, expected: Reached):
    steps, bound = steps_to_reach(STEPS, np.array(returns), level)
    assert (steps, bound) == (pytest.approx(expected.steps), expected.bound)


def test_a_grid_without_zero_steps_knows_only_that_fewer_are_enough():
    assert steps_to_reach(STEPS[1:], np.array([-3.0, -2.0, -1.0]), -4.0) == Reached(100.0, "<")
    assert steps_to_reach(STEPS[1:], np.array([-3.0, -2.0, -1.0]), -3.0) == Reached(100.0)


@pytest.mark.parametrize(
    ("steps", "returns", "named"),
    [
        ((100.0, 100.0), (1.0, 2.0), "env_steps is .* expected rising numbers from 0 on"),
        ((-1.0, 100.0), (1.0, 2.0), "env_steps is"),
        ((), (), "env_steps is"),
        ((1.0, 2.0), (1.0, 2.0, 3.0), r"shape of returns is \[3\], expected \[2\]"),
    ],
)
def test_steps_that_do_not_rise_are_refused(steps: tuple[float, ...], returns: tuple[float, ...], named: str):
    with pytest.raises(InvalidValueError, match=named):
        steps_to_reach(np.array(steps), np.array(returns), 0.0)


# --- which results are compared --------------------------------------------------------------------------------------


def drawn(tasks: int, **changes: Any) -> Results:
    """Results of the first tasks of task seed 0."""
    values = {"speed": np.arange(float(tasks))}
    made = scored(-40.0, -12.0, tasks=tasks, task_values=values, task_hash=f"{tasks:064d}", meta={"task_seed": 0})
    return replace(made, **changes)


def test_the_first_tasks_of_one_draw_are_shared():
    few, many = drawn(3), drawn(8)
    assert common_tasks(few, many) == common_tasks(many, few) == 3
    assert common_tasks(few, few) == 3
    assert common_tasks(drawn(3, task_values={}), many) == 3  # an older file, without values


@pytest.mark.parametrize(
    "changes",
    [
        {"meta": {"task_seed": 1}},
        {"meta": {}},
        {"split": "far"},
        {"family": "metarl/Other-v0"},
        {"task_values": {"speed": np.array([0.0, 1.0, 2.5])}},
        {"task_values": {"speed": np.zeros((3, 2))}},
        {"references": {"informed_optimum": np.array([-10.0, -10.0, -9.0])}},
    ],
)
def test_tasks_of_another_draw_are_not_shared(changes: dict[str, Any]):
    assert common_tasks(drawn(3, **changes), drawn(8)) == 0


def test_equally_many_tasks_are_shared_only_if_their_hashes_are_equal():
    assert common_tasks(drawn(3), drawn(3, task_hash="beef" * 16)) == 0
    assert common_tasks(drawn(3, meta={}), drawn(3, meta={})) == 3
    own = [drawn(n, split="custom") for n in (3, 8)]  # numbers of custom tasks say nothing of their content
    assert common_tasks(*own) == 0


def test_what_learns_from_scratch_and_what_was_meta_trained():
    flag = {"from_scratch": True}
    assert learns_from_scratch(scored(-4.0, -3.0, -2.0, meta=flag))
    assert not learns_from_scratch(scored(-4.0, -3.0, meta=flag))  # one k above 0 makes no curve
    assert not learns_from_scratch(scored(-4.0, -3.0, -2.0))
    assert is_meta_trained(scored(-4.0, meta={"iterations": [50, 50]}))
    assert is_meta_trained(scored(-4.0, meta={"iterations": 50}))
    for meta in (
        {},
        {"iterations": 0},
        {"iterations": [0, 0]},
        {"iterations": 50} | flag,
        {"iterations": 50, "adapts": False},
    ):
        assert not is_meta_trained(scored(-4.0, meta=meta))


def test_an_agent_is_matched_on_the_common_tasks_alone():
    """The agent has -25 in the first 3 tasks, where the curve from scratch gets half way from -30 to -20."""
    agent = scored(-40.0, -25.0, tasks=5)
    agent.scores["sampled"][:, 3:] = 0.0
    grid = (0, 1, 10, 100)
    scores = np.broadcast_to(np.array([-40.0, -30.0, -20.0, -10.0])[:, None], (1, 3, 4, 2)).copy()
    learner = scored(-40.0, meta={"from_scratch": True})
    learner = replace(learner, k=list(grid), scores={"sampled": scores}, env_steps=100.0 * np.array(grid))
    found = match(agent, learner, 3, "sampled")
    assert (found.k, found.env_steps, found.mean) == (1, 2000.0, -25.0)
    assert found.reached.steps == pytest.approx(10**2.5)
    assert found.reached_low == found.reached_high == found.reached  # all scores are equal: no interval
    agent.scores["sampled"][0] += 1.0  # seeds differ by 1: the interval is 0.5 * 12.7 to both sides
    found = match(agent, learner, 3, "sampled")
    assert found.mean == -24.5
    assert found.reached.steps == pytest.approx(10**2.55)
    assert (found.low, found.high) == pytest.approx((-24.5 - 6.353, -24.5 + 6.353), abs=1e-3)
    assert found.reached_low == Reached(100.0, "<")  # -30.85
    assert found.reached_high.steps == pytest.approx(10 ** (3 + 0.1853), rel=1e-3)  # -18.147 is .1853 above -20
