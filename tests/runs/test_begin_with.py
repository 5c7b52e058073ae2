"""Trainings that begin with the parameters of a trained agent, maybe of another family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import metarl
from metarl.agent import Agent
from metarl.cli.main import main
from metarl.runs.load import begin_with
from metarl.runs.run import Run

DENSE, SPARSE = "metarl/PointNavigation-v0", "metarl/PointNavigation-v0:semicircle"
MAML: dict[str, Any] = {"hidden": (4,), "meta_batch_size": 2, "episodes": 2}
WIDE = MAML | {"hidden": (5,)}
RL2: dict[str, Any] = {"hidden": 8, "meta_batch_size": 8, "trial_episodes": 2}


def trained(name: str, family: str, **settings: Any) -> Agent:
    agent = metarl.make_agent(name, family, **settings)
    metarl.train(agent, 1)
    return agent


def test_an_agent_begins_with_the_parameters_of_another_family_and_with_nothing_else() -> None:
    source = trained("rl2", "metarl/BernoulliBandit-v0", **RL2)
    agent = metarl.make_agent("rl2", "metarl/BernoulliBandit-v0:k10", seed=1, **RL2)
    before = {name: value.clone() for name, value in agent.tensors().items()}
    assert begin_with(agent, source) == [
        "net.memory.rnn.weight_ih_l0",  # the last action is one of 10, not of 5
        "net.policy.weight",
        "net.policy.bias",
    ]
    after, given = agent.tensors(), source.tensors()
    copied = [name for name in after if not torch.equal(after[name], before[name])]
    assert "net.memory.rnn.weight_hh_l0" in copied
    assert all(torch.equal(after[name], given[name]) and name.startswith("net.") for name in copied)
    assert int(given["updates"]) == 1
    assert int(after["updates"]) == 0


def test_the_replay_of_an_agent_stays_its_own() -> None:
    settings = {"trial_episodes": 2, "hidden": 8, "replay_trials": 8, "meta_batch_size": 4, "minibatches": 1}
    source = trained("varibad", "metarl/GridNavi-v0", **settings)
    agent = metarl.make_agent("varibad", "metarl/GridNavi-v0", seed=1, **settings)
    assert begin_with(agent, source) == []
    assert float(source.tensors()["replay.x"].abs().sum()) > 0
    assert float(agent.tensors()["replay.x"].abs().sum()) == 0
    assert torch.equal(agent.tensors()["net.policy.w0"], source.tensors()["net.policy.w0"])


def test_moments_of_features_are_kept_where_spaces_have_the_same_shapes() -> None:
    """A count fits any agent, and Pendulum has as many features as navigation."""
    settings = RL2 | {"normalize_features": True}
    source = trained("rl2", DENSE, **settings)
    for family, kept in ((SPARSE, True), ("metarl/CartPole-v0", False), ("metarl/Pendulum-v0", False)):
        agent = metarl.make_agent("rl2", family, seed=1, **settings)
        left = begin_with(agent, source)
        assert (float(agent.tensors()["norm.count"]) > 0) == kept
        assert ({"norm.mean", "norm.var", "norm.count"} <= set(left)) != kept
        metarl.train(agent, 1)
        played = 8 * 2 * agent.family.horizon
        assert (float(agent.tensors()["norm.count"]) <= played) != kept


@pytest.mark.parametrize(
    ("agent", "source", "sentence"),
    [
        (("maml", DENSE, MAML), ("rl2", DENSE, RL2), "agent to begin with is rl2 with net.*, expected .*maml: w0, b0"),
        (
            ("maml", DENSE, MAML),
            ("maml", SPARSE, WIDE),
            r"shape of w0 .* is \(.*5.*\), expected \(.*4.*\): the same sizes",
        ),
        (("maml", DENSE, MAML), ("maml", "metarl/CartPole-v0", WIDE), "shape of w0"),
    ],
)
def test_what_cannot_be_begun_with_is_refused(agent: Any, source: Any, sentence: str) -> None:
    first, second = (metarl.make_agent(name, family, **settings) for name, family, settings in (agent, source))
    before = {name: value.clone() for name, value in first.tensors().items()}
    with pytest.raises(metarl.InvalidValueError, match=sentence):
        begin_with(first, second)
    assert all(torch.equal(value, before[name]) for name, value in first.tensors().items())


def test_the_replay_and_the_counters_of_another_package_stay_too() -> None:
    settings = {"algorithm": "SAC", "steps": 8, "algorithm_kwargs": {"buffer_size": 50, "learning_starts": 4}}
    source = trained("sb3_pretrained", DENSE, **settings)
    agent = metarl.make_agent("sb3_pretrained", DENSE, seed=1, **settings)
    before = {name: value.clone() for name, value in agent.tensors().items()}
    begin_with(agent, source)
    changed = {name for name, value in agent.tensors().items() if not torch.equal(value, before[name])}
    assert any(name.startswith("policy/actor") for name in changed)
    assert not [name for name in changed if "optimizer" in name or "replay" in name or "counters" in name]


COMMAND = ["train", "maml", "--hidden", "4", "--meta-batch-size", "2", "--episodes", "2", "--iterations", "1"]


def test_a_command_begins_with_a_run_and_its_seeds_with_those_of_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main([*COMMAND, "--family", DENSE, "--out", "first", "--seeds", "0", "1"])
    main([*COMMAND, "--family", SPARSE, "--out", "one", "--begin-with", "first/seed1"])
    assert "seed 0 begins with the parameters of first/seed1" in capsys.readouterr().out
    agent = metarl.make_agent("maml", SPARSE, **MAML)
    begin_with(agent, metarl.load("first/seed1"))
    metarl.train(agent, 1)
    ours = metarl.load("one").tensors()
    assert all(torch.equal(value, ours[name]) for name, value in agent.tensors().items())
    assert Run.open("one").config["begins_with"] == "first/seed1"
    later = [*COMMAND, "--family", SPARSE, "--out", "later", "--seeds", "0", "1", "--begin-with", "first"]
    main(later)
    for seed in (0, 1):  # the runs are made first, and begun when their turn comes
        agent = metarl.make_agent("maml", SPARSE, seed=seed, **MAML)
        begin_with(agent, metarl.load(f"first/seed{seed}"))
        metarl.train(agent, 1)
        ours = metarl.load(f"later/seed{seed}").tensors()
        assert all(torch.equal(value, ours[name]) for name, value in agent.tensors().items())
    main(later)  # nothing is left
    Run.create("cut", metarl.make_agent("maml", SPARSE, **MAML), 1, begins_with="first")  # killed before its checkpoint
    with pytest.raises(SystemExit):
        main(["train", "--resume", "cut"])
    assert "checkpoint of cut is missing, expected there, because the run begins with first" in capsys.readouterr().err
    for wrong, told in (
        (later[:-2], "begins_with of run later/seed0 is 'first', expected none, as now given"),
        (
            [*COMMAND, "--family", SPARSE, "--out", "new", "--seed", "2", "--begin-with", "first"],
            "--begin-with is 'first', expected a folder with a run of seed 2",
        ),
        ([*COMMAND, "--family", SPARSE, "--begin-with", "nowhere"], "run is 'nowhere', expected a run directory"),
    ):
        with pytest.raises(SystemExit):
            main(wrong)
        assert told in " ".join(capsys.readouterr().err.split())
