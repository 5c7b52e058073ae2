"""experiments/trials.py: runs that begin with another's networks, and what a row of the tables says of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import trials
from trials import STUDIES, Options, Study, Training

import metarl
from metarl.families import registry
from metarl.files import write_json
from metarl.runs.run import Run

SMALL = {"hidden": 8, "meta_batch_size": 4, "minibatches": 2}


@pytest.fixture
def studies(monkeypatch: pytest.MonkeyPatch) -> dict[str, Study]:
    """Two tiny studies; the second goes on with the networks of the first."""
    made = {
        "short": Study("metarl/BernoulliBandit-v0", 3, (), {"rl2": Training(SMALL, 2)}),
        "long": Study(
            "metarl/BernoulliBandit-v0", 5, (), {"rl2": Training(SMALL | {"learning_rate": 1e-4}, 3, "short")}
        ),
    }
    monkeypatch.setattr(trials, "STUDIES", made)
    return made


def weights(agent: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in agent.net.parameters()])


def test_a_run_begins_with_the_networks_of_shorter_trials(studies: dict[str, Study], tmp_path: Path) -> None:
    options = Options(runs=tmp_path)
    long = trials.trained(options, "long", "rl2", 0)
    short = trials.trained(options, "short", "rl2", 0)  # finished already: loaded
    first = metarl.make_agent("rl2", "metarl/BernoulliBandit-v0", seed=0, trial_episodes=5, **SMALL)
    assert long.ppo.updates == 3
    # three steps of Adam at 1e-4 leave it far nearer to where it began than to a network of its own seed's beginning
    gone, fresh = (weights(long) - weights(short)).abs().max(), (weights(long) - weights(first)).abs().max()
    assert gone < 3e-3
    assert fresh > gone
    again = trials.trained(options, "long", "rl2", 0)  # finished: not begun anew
    assert torch.equal(weights(again), weights(long))


def test_results_say_what_they_began_with(studies: dict[str, Study], tmp_path: Path) -> None:
    options = Options(runs=tmp_path, tasks=6, seeds=(0,))
    agent = trials.trained(options, "long", "rl2", 0)
    meta = trials.measured([agent], "long", "rl2", options).meta
    assert meta["begins_with"] == "short"
    assert meta["iterations"] == 3
    assert meta["command"].endswith("--studies long --agents rl2 --seeds 0 --device cpu --tasks 6")


def test_the_command_names_the_device_that_trained(studies: dict[str, Study], tmp_path: Path) -> None:
    """A run of a GPU that is evaluated on the CPU; runs of both are no row."""
    options = Options(runs=tmp_path, tasks=6, seeds=(0, 1))
    agents = [trials.trained(options, "short", "rl2", seed) for seed in (0, 1)]
    files = [tmp_path / "short" / "rl2" / f"seed{seed}" / "config.json" for seed in (0, 1)]
    configs = [Run.open(file.parent).config | {"device": "cuda"} for file in files]
    write_json(files[0], configs[0])
    with pytest.raises(metarl.InvalidValueError, match="device of the runs of short, rl2"):
        trials.measured(agents, "short", "rl2", options)
    write_json(files[1], configs[1])
    command = trials.measured(agents, "short", "rl2", options).meta["command"]
    assert command.endswith("--seeds 0 1 --device cuda --tasks 6")


def test_published_rows_stand_on_the_tasks_that_families_give() -> None:
    """A results file names the hash of its tasks; the same hash is computed here from the family."""
    heads = [json.loads(file.read_text()) for file in trials.RESULTS.rglob("*.json")]
    played = {
        (head["family"], head["split"], head["meta"]["tasks"], head["meta"]["task_seed"], head["task_hash"])
        for head in heads
        if "task_hash" in head and registry.families[registry.base_id(head["family"])].available
    }
    assert len(played) > 5
    for family, split, count, seed, found in played:
        assert metarl.make_family(family).tasks(split, count, seed).hash == found, (family, split, count)


def test_every_row_can_be_trained() -> None:
    """Its settings are rl2's, its batch is not empty, and what it begins with is shorter and has the same network."""
    shape = ("memory", "hidden", "reward_coef", "separate_value", "value_sees_task", "task_coef")
    for study in STUDIES.values():
        for row, training in study.rl2.items():
            config = metarl.agents.memory.rl2.RL2Config(anneal_iterations=training.iterations, **training.settings)
            assert config.meta_batch_size >= config.minibatches
            if training.begins_with:
                source = STUDIES[training.begins_with]
                assert source.episodes < study.episodes
                other = metarl.agents.memory.rl2.RL2Config(anneal_iterations=1, **source.rl2[row].settings)
                assert [getattr(config, name) for name in shape] == [getattr(other, name) for name in shape]
