"""The accuracy by the number of examples: what is counted, and that the table tells it."""

from __future__ import annotations

import json
from typing import Any

import few_shot_accuracy
import pytest
import torch
from tables import inference

import metarl
from metarl.agent import Rollout


def rollout_of(labels: list[list[int]], correct: list[list[int]], ways: int) -> Rollout:
    """Sequences of labels `[T][R]`, and which of them were guessed."""
    shown = torch.nn.functional.one_hot(torch.tensor(labels), ways).float()
    off = torch.zeros(*shown.shape[:2], 1, dtype=torch.bool)
    final = torch.cat([torch.rand(*shown.shape[:2], 64), shown], -1).unsqueeze(2)
    return Rollout(
        obs=torch.zeros_like(final),
        action=torch.zeros(*off.shape, dtype=torch.int64),
        reward=torch.tensor(correct, dtype=torch.float32).unsqueeze(-1),
        terminated=off,
        truncated=off,
        valid=~off,
        last_obs=torch.zeros_like(final[0]),
        extras={"final_obs": final},
    )


def test_images_are_counted_by_the_examples_of_their_class_before() -> None:
    # the first sequence shows class 0 three times and class 1 once, the second class 1 four times
    rollout = rollout_of([[0, 1], [0, 1], [1, 1], [0, 1]], [[0, 1], [1, 1], [0, 0], [1, 1]], 2)
    seen, correct = few_shot_accuracy.counts(rollout, 2)
    assert seen.tolist() == [3, 2, 2, 1, 0, 0]
    assert correct.tolist() == [1, 2, 1, 1, 0, 0]


def test_more_examples_than_the_most_are_counted_together() -> None:
    rollout = rollout_of([[0]] * 8, [[0]] + [[1]] * 7, 2)
    seen, correct = few_shot_accuracy.counts(rollout, 2)
    assert seen.tolist() == [1, 1, 1, 1, 1, 3]
    assert correct.tolist() == [0, 1, 1, 1, 1, 3]


def test_an_untrained_agent_guesses_and_a_trained_one_knows_after_an_example() -> None:
    pytest.importorskip("sklearn")
    agent = metarl.make_agent("prototypes", 'metarl/Digits-v0{"ways": 3, "shots": 5}')
    untrained = few_shot_accuracy.accuracy(agent, 200)
    metarl.train(agent, 60)
    trained = few_shot_accuracy.accuracy(agent, 200)
    assert trained[1] > untrained[1] + 0.1
    assert trained[5] > 0.9  # 1 at the optimum
    assert trained[0] < 0.7  # a class without an example cannot be known


def test_the_table_has_a_line_for_every_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    out = tmp_path / "accuracy.json"
    rows = {"few_shot/digits-n5-k5/prototypes": [[0.25, 0.5, 1.0, 1.0, 1.0, float("nan")]] * 2}
    out.write_text(json.dumps({"tasks": 7, "rows": rows}))
    monkeypatch.setattr(few_shot_accuracy, "OUT", out)
    text = inference.few_shot()
    assert "| digits-n5-k5: `prototypes` | 25.0% (0.0%) | 50.0% (0.0%) | 100.0% (0.0%) |" in text
    assert "7 held-out tasks" in text
