"""Validation of a training: it changes no bit, resumes to the same file, and keeps the best checkpoint."""

from __future__ import annotations

import itertools
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import metarl
from metarl.agent import Agent
from metarl.engine.step_listeners import listening
from metarl.runs.curves import learning_curves, read_validation, seconds_in_training
from metarl.runs.load import curves_of_runs
from metarl.runs.metrics_log import Metrics
from metarl.runs.run import Run
from metarl.runs.train import Interrupted, train
from metarl.runs.validation import Validation, Validator

SB3 = {"n_steps": 8, "batch_size": 8, "n_epochs": 1}
SMALL: dict[str, dict[str, Any]] = {
    "maml": {"family": "metarl/PointNavigation-v0", "meta_batch_size": 2, "episodes": 2, "hidden": (8,)},
    "rl2": {"family": "metarl/BernoulliBandit-v0", "meta_batch_size": 16, "hidden": 8, "trial_episodes": 4},
    "sb3_pretrained": {"family": "metarl/BernoulliBandit-v0", "steps": 8, "algorithm_kwargs": SB3},
}


def small(name: str, seed: int = 0) -> Agent:
    settings = dict(SMALL[name]) | ({"eval_steps": 400} if name == "maml" else {})
    return metarl.make_agent(name, seed=seed, **settings)


def equal(a: Agent, b: Agent) -> bool:
    ours, theirs = a.tensors(), b.tensors()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def lines(run: Path, name: str = "validation.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def trained(path: Path, agent: Agent, iterations: int, every: int = 2, **settings: Any) -> Run:
    run = Run.create(path, agent, iterations, eval_every=every, **{"eval_tasks": 4, "checkpoint_every": 2} | settings)
    run.train(agent)
    return run


@pytest.mark.parametrize("name", SMALL)
def test_training_has_the_same_bits_with_and_without_validation(name: str, tmp_path: Path) -> None:
    plain, validated = small(name), small(name)
    train(plain, 3)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    trained(tmp_path / "run", validated, 3, every=1)
    assert equal(plain, validated)
    assert torch.equal(before, torch.get_rng_state())
    assert [line["iteration"] for line in lines(tmp_path / "run")] == [0, 1, 2, 3]


def test_what_a_line_says(tmp_path: Path) -> None:
    """Validation after 0, 2, 4 iterations and at the end; a meta-update plays 2 tasks, 2 episodes, twice 100 steps."""
    agent = small("maml")
    trained(tmp_path / "run", agent, 5)
    found = lines(tmp_path / "run")
    assert [line["iteration"] for line in found] == [0, 2, 4, 5]
    assert [line["env_steps"] for line in found] == [0, 1600, 3200, 4000]
    assert [line["k"] for line in found] == [[0, 1]] * 4
    assert [line["env_steps"] for line in lines(tmp_path / "run", "metrics.jsonl")] == [800, 1600, 2400, 3200, 4000]
    config = json.loads((tmp_path / "run/config.json").read_text())["validation"]
    assert config == {"every": 2, "split": "train", "tasks": 4, "episodes": 2, "k": [0, 1], "eval_steps": 200}
    assert agent.config.eval_steps == 400


def test_returns_are_those_of_the_agent_on_train_tasks(tmp_path: Path) -> None:
    """An oracle-like bandit: the last return of every line is the mean over tasks that training can draw."""
    agent = small("rl2")
    run = Run.create(tmp_path / "run", agent, 1, eval_every=1, eval_tasks=3000)
    run.train(agent)
    settings = Validation.of_run(run.config)
    assert settings is not None
    tasks = settings.draw(agent.family)
    assert not agent.family.held_out(tasks).any()
    assert settings.k == [0, 3]
    results = metarl.evaluate(agent, tasks, k=settings.k, episodes=2, modes=["sampled"], allow_train_tasks=True)
    expected = results.scores["sampled"].mean((0, 1, 3))
    assert lines(run.path)[-1]["returns"] == pytest.approx(expected.tolist(), abs=0.05)  # 4 standard errors


def test_draws_follow_from_the_seed_and_the_iteration(tmp_path: Path) -> None:
    agent = small("rl2")
    settings = Validation.of_agent(agent, 1, 50)
    with Metrics(tmp_path, 0) as log, Validator(tmp_path, settings, agent, 0, log) as validator:
        first, second = validator.measure(3), validator.measure(3)
        assert first == second
        assert validator.measure(4) != first
        agent.seed += 1  # the same weights
        assert validator.measure(3) != first


@pytest.mark.parametrize("name", ["maml", "rl2"])
def test_a_killed_run_has_the_same_validation_in_the_end(name: str, tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", small(name), 7, checkpoint_every=3)

    agent = small(name)
    run = Run.create(tmp_path / "cut", agent, 7, 3, eval_every=2, eval_tasks=4)

    def crash(done: int, total: int, metrics: dict[str, float]) -> None:
        if done == 5:  # after the validation at 4, which the last checkpoint at 3 does not have
            raise MemoryError

    with pytest.raises(MemoryError):
        run.train(agent, progress=crash)
    assert [line["iteration"] for line in lines(run.path)] == [0, 2, 4]
    with (run.path / "validation.jsonl").open("a") as file:
        file.write('{"iteration": 6, "env_')  # a torn line
    resumed, start = Run.open(run.path).load_agent()
    assert start == 3
    assert [line.iteration for line in read_validation(run.path, start)] == [0, 2]
    run.train(resumed, start)
    for file_name in ("validation.jsonl", "best.json"):
        assert (run.path / file_name).read_bytes() == (whole.path / file_name).read_bytes()
    assert [m["env_steps"] for m in lines(run.path, "metrics.jsonl")] == [
        m["env_steps"] for m in lines(whole.path, "metrics.jsonl")
    ]


def test_a_validation_that_a_stop_prevents_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained(tmp_path / "whole", small("rl2"), 4)
    agent = small("rl2")
    run = Run.create(tmp_path / "cut", agent, 4, 2, eval_every=2, eval_tasks=4)
    measure = Validator.measure

    def stopped(self: Validator, done: int) -> list[float]:
        if done == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return measure(self, done)

    monkeypatch.setattr(Validator, "measure", stopped)
    with pytest.raises(Interrupted) as stop:
        run.train(agent)
    assert stop.value.iteration == 2  # a validation that is cut off discards no iteration
    assert [line["iteration"] for line in lines(run.path)] == [0]
    monkeypatch.setattr(Validator, "measure", measure)
    run.train(*Run.open(run.path).load_agent())
    assert (run.path / "validation.jsonl").read_bytes() == (whole.path / "validation.jsonl").read_bytes()


def test_a_stop_in_the_last_iteration_leaves_the_last_validation_to_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, numbers = small("rl2"), itertools.count(1)
    learn = agent.train_step

    def stopped(trials: Any) -> dict[str, float]:
        if next(numbers) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return learn(trials)

    monkeypatch.setattr(agent, "train_step", stopped)
    run = Run.create(tmp_path / "run", agent, 3, eval_every=2, eval_tasks=4)
    with pytest.raises(Interrupted) as stop:
        run.train(agent)
    assert stop.value.iteration == 3
    assert [line["iteration"] for line in lines(run.path)] == [0, 2]
    run.train(*Run.open(run.path).load_agent())
    assert [line["iteration"] for line in lines(run.path)] == [0, 2, 3]


def test_an_extended_run_keeps_its_validations(tmp_path: Path) -> None:
    agent = small("rl2")
    run = trained(tmp_path / "run", agent, 3)
    run.set_iterations(4, agent, 3)
    run.train(agent, 3)
    assert [line["iteration"] for line in lines(run.path)] == [0, 2, 3, 4]


def returning(monkeypatch: pytest.MonkeyPatch, values: dict[int, float]) -> None:
    """Let validations measure these returns at the last k."""
    monkeypatch.setattr(Validator, "measure", lambda self, done: [9.0 - values[done], values[done]])


def test_the_best_checkpoint_is_the_first_with_the_highest_last_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    returning(monkeypatch, {0: 0.5, 1: 2.0, 2: 1.0, 3: 2.0, 4: -1.0})
    run = trained(tmp_path / "run", small("rl2"), 4, every=1)
    once = small("rl2")
    train(once, 1)
    assert sorted(path.name for path in run.path.glob("best*")) == ["best-1.safetensors", "best.json"]
    best, done = run.load_agent(checkpoint="best")
    assert done == 1
    assert equal(best, once)
    assert equal(metarl.load(run.path, checkpoint="best"), once)
    assert not equal(metarl.load(run.path), once)


def test_a_run_without_a_best_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    agent = small("rl2")
    Run.create(tmp_path / "run", agent, 1).train(agent)
    assert not (tmp_path / "run/validation.jsonl").exists()
    with pytest.raises(metarl.InvalidValueError, match="is 'best', expected 'last': the run has no best checkpoint"):
        metarl.load(tmp_path / "run", checkpoint="best")
    with pytest.raises(metarl.InvalidValueError, match=r"checkpoint is 'bets', .* 'best'"):
        metarl.load(tmp_path / "run", checkpoint="bets")  # type: ignore[arg-type]


def test_steps_of_validations_are_not_counted_as_the_trainings(tmp_path: Path) -> None:
    agent, beats = small("maml"), list[int]()
    with listening(beats.append):
        trained(tmp_path / "run", agent, 2, every=1)
    assert sum(beats) == 1600


def test_steps_that_trials_do_not_see_are_counted_too(tmp_path: Path) -> None:
    """PPO plays 8 steps a call in environments of its own, and reports them."""
    agent = small("sb3_pretrained")
    Run.create(tmp_path / "run", agent, 2).train(agent)
    assert [line["env_steps"] for line in lines(tmp_path / "run", "metrics.jsonl")] == [8, 16]


def test_only_steps_that_were_played_are_counted(counting: Any, scratch_registry: None) -> None:
    """An episode ends with step number ceil(length), long before the 100 steps of `train_env_steps`."""
    metarl.register_family("mine/Counting-v0", counting)
    family = metarl.make_family("mine/Counting-v0", horizon=100)
    agent = metarl.make_agent("rl2", family, meta_batch_size=4, hidden=4, trial_episodes=2, minibatches=1)
    lengths = [np.ceil(family.tasks("train", 4, 0, 4 * i).values["length"]).sum() for i in range(2)]
    found: list[float] = []
    train(agent, 2, env_steps=100, on_iteration=lambda _, metrics: found.append(metrics["env_steps"]))
    assert found == [100 + 2 * lengths[0], 100 + 2 * lengths[0] + 2 * lengths[1]]


def test_curves_of_several_runs(tmp_path: Path) -> None:
    runs = [trained(tmp_path / f"seed{seed}", small("rl2", seed), 3) for seed in (0, 1)]
    pairs = [(run.path, run.config) for run in runs]
    curves = learning_curves(pairs)["curves"]
    assert (curves["iterations"], curves["k"], curves["split"], curves["tasks"]) == ([0, 2, 3], [0, 3], "train", 4)
    assert curves["env_steps"] == [0, 128, 192]
    assert curves["returns"] == [[line["returns"] for line in lines(run.path)] for run in runs]
    other = trained(tmp_path / "other", small("rl2", 2), 2)
    assert learning_curves([*pairs, (other.path, other.config)]) == {}
    plain = Run.create(tmp_path / "plain", small("rl2", 3), 3)
    assert learning_curves([*pairs, (plain.path, plain.config)]) == {}
    assert learning_curves([(plain.path, plain.config)]) == learning_curves([]) == {}


def test_curves_of_training_come_from_whole_metrics_alone(tmp_path: Path) -> None:
    """Lost lines, other lengths, a number that only some updates have, and damage leave the evaluation possible."""
    paths = [trained(tmp_path / f"seed{seed}", small("rl2", seed), 3).path for seed in (0, 1)]
    found = curves_of_runs(paths)
    assert found["train_env_steps"] == [192, 192]
    assert [curve["env_steps"] for curve in found["training_curves"]] == [[64, 128, 192]] * 2
    took = [
        sum(line["seconds_sampling"] + line["seconds_optimisation"] for line in lines(p, "metrics.jsonl"))
        for p in paths
    ]
    assert found["train_seconds"] == [round(seconds, 1) for seconds in took]
    assert seconds_in_training(paths[0], 3) == took[0] > seconds_in_training(paths[0], 2) > 0
    assert seconds_in_training(paths[0], 4) is None
    returns = [[round(line["episode_return"], 4) for line in lines(path, "metrics.jsonl")] for path in paths]
    assert [curve["episode_return"] for curve in found["training_curves"]] == returns
    shorter = trained(tmp_path / "shorter", small("rl2", 2), 2).path
    assert "training_curves" not in curves_of_runs([*paths, shorter])
    file = paths[0] / "metrics.jsonl"
    whole = file.read_text().splitlines(keepends=True)
    file.write_text("".join([whole[0].replace('"episode_return"', '"early_return"'), *whole[1:]]))
    assert set(curves_of_runs(paths[:1])["training_curves"][0]) == {"trial_return", "env_steps"}
    file.write_text("".join(whole[1:]))
    assert "training_curves" not in curves_of_runs(paths)
    file.write_text("no json\n" + "".join(whole))
    with pytest.warns(UserWarning, match="no curve of the training: metrics is"):
        assert not {"training_curves", "train_seconds"} & curves_of_runs(paths).keys()


def test_few_tasks_are_validated_equally_often_and_numbers_are_checked(tmp_path: Path) -> None:
    agent = metarl.make_agent("rl2", "metarl/GridNavi-v0", hidden=8)
    assert Validation.of_agent(agent, 1, 30).tasks == 42  # 21 goals
    assert Validation.of_agent(agent, 1, 20).tasks == 20
    assert Validation.of_agent(agent, 1).tasks == 84  # 1000 // 15 steps = 66, in whole rounds
    assert Validation.of_agent(small("rl2"), 1).tasks == 1000
    assert Validation.of_agent(small("maml"), 1).tasks == 20
    for name in ("eval_every", "eval_tasks"):
        with pytest.raises(metarl.InvalidValueError, match=f"{name} is -1, expected a whole number from 1"):
            Run.create(tmp_path / "run", agent, 1, **{"eval_every": 1, name: -1})  # type: ignore[arg-type]
    with pytest.raises(metarl.InvalidValueError, match="eval_tasks is 30, expected no value without eval_every"):
        Run.create(tmp_path / "run", agent, 1, eval_tasks=30)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "text",
    [
        '{"iteration": 0, "env_steps": 0, "k": [0], "returns": [NaN]}',
        '{"iteration": 0, "env_steps": 0, "k": [0, 1], "returns": [1.0]}',
        '{"iteration": 0, "env_steps": -1, "k": [0], "returns": [1.0]}',
        '{"iteration": 0, "k": [0], "returns": [1.0]}',
    ],
)
def test_other_lines_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "validation.jsonl").write_text(f"{text}\n")
    with pytest.raises(metarl.InvalidValueError, match=r"of .*validation.jsonl is"):
        read_validation(tmp_path, 5)


def test_lost_validations_are_told_of(tmp_path: Path) -> None:
    agent = small("rl2")
    run = trained(tmp_path / "run", agent, 4)
    (run.path / "validation.jsonl").unlink()
    run.set_iterations(5, agent, 4)
    with pytest.warns(UserWarning, match=r"validation.jsonl has 0 of 3 validations: some were lost"):
        run.train(agent, 4)
