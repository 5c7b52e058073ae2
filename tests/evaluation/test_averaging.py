"""Averages of weights: what is averaged, what is not, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import metarl
from metarl.cli.main import main
from metarl.evaluation.averaging import average, snapshot
from metarl.evaluation.results import Results

NAVIGATION = "metarl/PointNavigation-v0"
SMALL: dict[str, Any] = {"meta_batch_size": 2, "episodes": 2, "hidden": (4,), "eval_steps": 100}


def trained(name: str, seed: int, family: str = NAVIGATION, **config: Any) -> metarl.Agent:
    """An agent after as many meta-updates as its seed, and one."""
    agent = metarl.make_agent(name, family, seed=seed, **config)
    metarl.train(agent, 1 + seed)
    return agent


def test_networks_are_averaged_and_the_optimiser_is_not():
    agents = [trained("promp", seed, **SMALL) for seed in (0, 1, 2)]
    every = [{k: v.clone() for k, v in agent.tensors().items()} for agent in agents]
    mean = average(agents).tensors()
    assert set(mean) == set(every[0])
    assert any(name.startswith("adam.") for name in mean)
    for name, values in mean.items():
        if name.startswith("adam."):
            torch.testing.assert_close(values, every[0][name], rtol=0, atol=0)
        else:
            torch.testing.assert_close(values, (every[0][name] + every[1][name] + every[2][name]) / 3)
            assert not torch.equal(values, every[0][name])
    for agent, before in zip(agents, every, strict=True):
        assert all(torch.equal(v, before[k]) for k, v in agent.tensors().items())


def test_whole_numbers_and_replays_are_those_of_the_first():
    small = {"policy_hidden": (8,), "encoder_hidden": (8,), "meta_batch_size": 2, "prior_episodes": 2}
    small |= {"posterior_episodes": 1, "updates": 2, "replay_tasks": 6, "tasks_per_update": 2, "batch_size": 4}
    agents = [trained("pearl", s, f"{NAVIGATION}:semicircle", context_size=2, **small) for s in (0, 1)]
    first, mean = agents[0].tensors(), average(agents).tensors()
    kept = [
        n for n, v in first.items() if n.startswith(agents[0].replays) or ".adam." in n or not v.is_floating_point()
    ]
    assert {name.partition(".")[0] for name in kept} > {"replay", "sac"}
    assert all(torch.equal(mean[name], first[name]) for name in kept)
    assert all(not torch.equal(mean[n], first[n]) for n in first if ".net." in n and n not in kept)


def test_the_mean_of_equal_agents_plays_as_they_do():
    agent = trained("maml", 0, **SMALL)
    mean = average([snapshot(agent), snapshot(agent), agent])
    few: dict[str, Any] = {"k": 1, "num_tasks": 2, "episodes": 2, "floor_episodes": 0}
    played = [metarl.evaluate(a, **few).scores["sampled"] for a in (agent, mean)]
    np.testing.assert_array_equal(*played)


def test_a_snapshot_stays_as_it_was():
    agent = trained("maml", 0, **SMALL)
    before = {k: v.clone() for k, v in agent.tensors().items()}
    kept = snapshot(agent)
    metarl.train(agent, 2, start=1)
    assert all(torch.equal(v, before[k]) for k, v in kept.tensors().items())
    assert any(not torch.equal(v, before[k]) for k, v in agent.tensors().items())


@pytest.mark.parametrize(
    ("others", "sentence"),
    [
        ([], "agents to average is 1, expected two or more"),
        ([("fomaml", NAVIGATION, {})], r"names of the agents to average is \['maml', 'fomaml'\], expected the same"),
        ([("maml", f"{NAVIGATION}:semicircle", {})], "families of the agents to average is"),
        ([("maml", NAVIGATION, {"hidden": (5,)})], "hyperparameters of the agents to average is"),
    ],
)
def test_agents_that_differ_are_refused(others: Any, sentence: str):
    agents = [metarl.make_agent("maml", NAVIGATION, **SMALL)]
    agents += [metarl.make_agent(name, family, seed=1, **(SMALL | changes)) for name, family, changes in others]
    with pytest.raises(metarl.InvalidValueError, match=sentence):
        average(agents)


def test_the_command_evaluates_one_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    tiny = ["--meta-batch-size", "2", "--episodes", "2", "--hidden", "4", "--eval-steps", "100"]
    main(["train", "maml", "--family", NAVIGATION, *tiny, "--iterations", "1", "--seeds", "3", "4", "--out", "runs/a"])
    few = ["--k", "1", "--num-tasks", "2", "--episodes", "1"]
    main(["eval", "runs/a", *few, "--average"])
    results = Results.load("runs/a/results/test-average.json")
    assert results.scores["sampled"].shape[0] == 1
    assert results.meta["averaged"] == [3, 4]
    assert results.meta["seeds"] == [3]
    agents = [metarl.load(f"runs/a/seed{seed}") for seed in (3, 4)]
    again = metarl.evaluate(average(agents), k=1, num_tasks=2, episodes=1)
    np.testing.assert_array_equal(results.scores["sampled"], again.scores["sampled"])
    with pytest.raises(SystemExit, match="2"):
        main(["eval", "runs/a/seed3", *few, "--average"])
    assert "agents to average is 1, expected two or more" in capsys.readouterr().err


def test_what_is_no_agent_cannot_be_averaged():
    agent = metarl.make_agent("maml", NAVIGATION, hidden=(4,))
    with pytest.raises(metarl.InvalidValueError, match="agents to average is 3, expected agents"):
        average([agent, 3])  # type: ignore[list-item]
