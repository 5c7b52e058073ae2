"""Trainings that diverge: what is said, and what is left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import metarl
from metarl.agent import Agent
from metarl.cli.main import main
from metarl.errors import DivergedError
from metarl.runs.run import Run

SETTINGS: dict[str, Any] = {"hidden": 4, "meta_batch_size": 8, "trial_episodes": 2}


def poisoned(at: int) -> Agent:
    """An agent whose meta-update number `at`, from 0 on, makes a parameter that is not finite."""
    agent = metarl.make_agent("rl2", "metarl/BernoulliBandit-v0", **SETTINGS)
    step = agent.train_step

    def train_step(trials: Any) -> dict[str, float]:
        metrics = step(trials)
        if agent.ppo.updates == at + 1:  # type: ignore[attr-defined]
            agent.net.policy.bias.data[1] = torch.nan  # type: ignore[attr-defined]
        return metrics

    agent.train_step = train_step  # type: ignore[method-assign]
    return agent


@pytest.mark.parametrize("every", [1, 2, 10])
def test_a_training_that_diverges_ends_and_keeps_what_was_finished_before(every: int, tmp_path: Path) -> None:
    agent = poisoned(3)
    run = Run.create(tmp_path / "run", agent, 6, every)
    sentence = r"^rl2 diverged in meta-update 4: net\.policy\.bias is not finite"
    with pytest.raises(DivergedError, match=sentence) as caught:
        run.train(agent)
    assert "the checkpoint after 3 iterations stands" in caught.value.__notes__[0]
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [0, 1, 2]
    found, done = Run.open(run.path).load_agent()
    plain = metarl.make_agent("rl2", "metarl/BernoulliBandit-v0", **SETTINGS)
    metarl.train(plain, 3)
    assert done == 3
    assert all(torch.equal(value, plain.tensors()[name]) for name, value in found.tensors().items())


def test_a_training_in_memory_ends_too() -> None:
    with pytest.raises(DivergedError, match="diverged in meta-update 1"):
        metarl.train(poisoned(0), 2)


def test_steps_that_are_too_large_are_named_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "train rl2 --family metarl/Pendulum-v0 --learning-rate 10 --max-grad-norm 1e9 --meta-batch-size 8"
    with pytest.raises(SystemExit) as stop:
        main([*words.split(), "--trial-episodes", "2", "--iterations", "30", "--out", str(tmp_path / "run")])
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert "metarl: rl2 diverged in meta-update " in said.err
    assert "stands: other settings may begin with it, metarl train ... --begin-with " in said.err
    metarl.load(str(tmp_path / "run"))
