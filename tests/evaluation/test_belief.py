"""What an agent believes beside the exact posterior: agents whose beliefs are known, and errors by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import metarl
from metarl.agent import Agent, Feedback, Queries, Rng, Rollout, Step
from metarl.evaluation.belief import REWARD_ERROR, TOTAL_VARIATION, answered, distance, probabilities
from metarl.evaluation.evaluate import evaluate
from metarl.evaluation.results import Results
from metarl.learning.random_play import RandomPlay

BANDIT = 'metarl/BernoulliBandit-v0{"k": 3}'


class Counter(Agent[Any]):
    """Pulls arms at random and counts what they pay; it believes the exact posterior mean, plus `bias`."""

    name = "counter"
    Config = RandomPlay.Config
    is_recurrent = True
    learns = False
    late = False
    bias = 0.0

    def begin(self, rows: int, tasks: Any = None) -> dict[str, Tensor]:
        return {"n": torch.zeros(rows, 3), "s": torch.zeros(rows, 3)}

    def act(self, state: dict[str, Tensor], step: Step, rng: Rng, deterministic: bool) -> Any:
        mean = (state["s"] + 1) / (state["n"] + 2) + self.bias
        return rng.integers(3).unsqueeze(1), {"mean": mean.unsqueeze(1)}, state

    def observe(self, state: dict[str, Tensor], feedback: Feedback, active: Tensor | None) -> dict[str, Tensor]:
        pulled = torch.nn.functional.one_hot(feedback.action[:, 0], 3)
        return {"n": state["n"] + pulled, "s": state["s"] + pulled * feedback.reward}

    def believed_rewards(self, rollout: Rollout, queries: Queries) -> Tensor:
        return rollout.extras["mean"][:, :, 0][..., queries.action]


def counter(**attributes: Any) -> Counter:
    agent = Counter(metarl.make_family(BANDIT), Counter.Config())
    for name, value in attributes.items():
        setattr(agent, name, value)
    return agent


def test_an_agent_that_counts_believes_the_exact_posterior() -> None:
    """In every trial anew, with every pull so far, and none that is to come."""
    results = evaluate(counter(), k=6, num_tasks=5, trials=3, episodes=1)
    assert results.belief["error"].shape == (1, 5, 6)
    np.testing.assert_allclose(results.belief["error"], 0.0, atol=1e-6)
    np.testing.assert_allclose(results.belief["decoded"], results.belief["exact"], atol=1e-6)
    # the first pull of an arm moves its mean by 1/6, and the error is a mean over 3 arms
    np.testing.assert_allclose(results.belief["prior"][0, :, :2], [[0, 1 / 18]] * 5, atol=1e-6)
    assert (results.belief["prior"][0, :, -1] > 1 / 18).all()
    assert "places" not in results.belief


def test_beliefs_are_those_of_the_first_tasks_in_any_batches() -> None:
    settings: dict[str, Any] = {"k": 4, "num_tasks": 213, "trials": 2, "episodes": 1}
    one, many, few = (
        evaluate(counter(), **settings, rows_at_once=500),
        evaluate(counter(), **settings, rows_at_once=20),
        evaluate(counter(), **settings | {"num_tasks": 3}),
    )
    assert one.belief["prior"].shape == (1, 210, 4)
    np.testing.assert_array_equal(one.belief["prior"], many.belief["prior"])
    np.testing.assert_array_equal(one.belief["prior"][:, :3], few.belief["prior"])


def test_the_error_is_a_mean_over_queries_tasks_and_trials() -> None:
    results = evaluate([counter(bias=0.25), counter(bias=0.5)], k=4, num_tasks=5, episodes=1)
    np.testing.assert_allclose(results.belief["error"], np.full((2, 5, 4), [[[0.25]], [[0.5]]]), atol=1e-6)
    summary = results.meta["belief"]
    assert (summary["unit"], summary["mean"]) == (REWARD_ERROR, pytest.approx(0.375))
    assert summary["low"] < 0.375 < summary["high"]
    assert summary["prior"] == pytest.approx(results.belief["prior"].mean())


def test_only_beliefs_that_can_be_compared_are_kept() -> None:
    assert evaluate(counter(), k=0, num_tasks=2, episodes=1).belief == {}  # no trial
    hard = evaluate(counter(), k=2, num_tasks=2, episodes=1, split="hard")  # its tasks have another prior
    assert hard.belief == {}
    assert "belief" not in hard.meta
    assert evaluate(metarl.make_agent("random", BANDIT), k=2, num_tasks=2, episodes=1).belief == {}


def test_beliefs_are_saved_with_the_results(tmp_path: Path) -> None:
    results = evaluate(counter(bias=0.25), k=3, num_tasks=2, episodes=1)
    again = Results.load(results.save(tmp_path / "r.json"))
    assert again.belief.keys() == results.belief.keys()
    for name, values in results.belief.items():
        np.testing.assert_array_equal(again.belief[name], values)
    results.belief["exact"] = results.belief["exact"][:2]
    with pytest.raises(metarl.InvalidValueError, match=r"shape of belief\.(exact|decoded) is .*time in trial"):
        results.save(tmp_path / "r.json")


def test_varibad_tells_what_it_believes_about_the_goal() -> None:
    agent = metarl.make_agent("varibad", "metarl/GridNavi-v0", hidden=8, policy_hidden=(8,))
    results = evaluate(agent, k=2, num_tasks=21, episodes=1)
    belief = results.belief
    assert results.meta["belief"]["unit"] == TOTAL_VARIATION
    for name in ("exact", "decoded"):
        assert belief[name].shape == (30, 21)
        np.testing.assert_allclose(belief[name].sum(1), 1.0)
    np.testing.assert_allclose(belief["exact"][0], 1 / 21)
    assert belief["places"].tolist() == [list(goal) for goal in agent.family.goals]  # type: ignore[attr-defined]
    np.testing.assert_allclose(belief["prior"][0, :, 0], 0.0)


# --- errors by hand --------------------------------------------------------------------------------------------------


def queries(*query: int, one_pays: tuple[float, float] | None = None) -> Queries:
    nothing = torch.zeros(len(query), 1)
    return Queries(nothing, nothing, nothing, torch.tensor(query), one_pays)


def test_an_answer_is_the_mean_over_the_querys_transitions() -> None:
    found = answered(torch.tensor([[[1.0, 2.0, 3.0, 6.0]]]), queries(0, 1, 0, 0))
    torch.testing.assert_close(found, torch.tensor([[[10 / 3, 2.0]]], dtype=torch.float64))


def test_answers_become_probabilities_where_one_query_pays() -> None:
    """(r - low) / (high - low), clipped and divided by the sum."""
    asked = queries(0, 1, 2, one_pays=(-1.0, 1.0))
    found = probabilities(torch.tensor([[0.0, -2.0, 2.0], [-1.0, -1.0, -1.0]]), asked)
    torch.testing.assert_close(found, torch.tensor([[1 / 3, 0.0, 2 / 3], [1 / 3] * 3]))
    plain = torch.tensor([0.0, 5.0])
    assert torch.equal(probabilities(plain, queries(0, 1)), plain)


def test_distances() -> None:
    first, second = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.0, 0.25, 0.75])
    assert distance(first, second, queries(0, 1, 2, one_pays=(0.0, 1.0))) == 0.75  # mass that must be moved
    assert distance(first, second, queries(0, 1, 2)) == 0.5
