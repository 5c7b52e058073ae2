"""Runs: two runs agree bit for bit, an interrupted one resumes to the same bits, and bad files are refused whole."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import metarl
from metarl.agent import Agent
from metarl.engine.rollout import PoolTrials
from metarl.files import read_json, write_json
from metarl.runs import recording, stop_requests
from metarl.runs.checkpoints import FORMAT, load_checkpoint, save_checkpoint
from metarl.runs.run import Run
from metarl.runs.train import Interrupted, _train_tasks, train

SMALL: dict[str, dict[str, Any]] = {
    "maml": {"family": "metarl/PointNavigation-v0", "meta_batch_size": 3, "episodes": 2, "hidden": (8,)},
    "rl2": {"family": "metarl/BernoulliBandit-v0", "meta_batch_size": 16, "hidden": 8},
}


def small(name: str, seed: int = 0) -> Agent:
    return metarl.make_agent(name, seed=seed, **SMALL[name])


def equal(a: Agent, b: Agent) -> bool:
    ours, theirs = a.tensors(), b.tensors()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize("name", SMALL)
def test_two_runs_with_one_seed_agree_bit_for_bit(name: str) -> None:
    first, second, other = small(name), small(name), small(name, seed=1)
    for agent in (first, second, other):
        train(agent, 3)
    assert equal(first, second)
    assert not equal(first, other)


@pytest.mark.parametrize("name", SMALL)
def test_global_generators_neither_matter_nor_move(name: str) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = small(name)
    train(first, 2)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    second = small(name)
    train(second, 2)
    assert equal(first, second)


@pytest.mark.parametrize("name", SMALL)
def test_an_interrupted_run_resumes_to_the_same_bits(name: str, tmp_path: Path) -> None:
    whole = small(name)
    Run.create(tmp_path / "whole", whole, 5, checkpoint_every=2).train(whole)

    agent = small(name)
    run = Run.create(tmp_path / "cut", agent, 5, checkpoint_every=2)

    def interrupt(done: int, total: int, metrics: dict[str, float]) -> None:
        if done == 3:  # between two checkpoints
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted) as stop:
        run.train(agent, progress=interrupt)
    assert stop.value.iteration in (3, 4)
    again = Run.open(tmp_path / "cut")
    resumed, start = again.load_agent()
    assert start == stop.value.iteration
    again.train(resumed, start)
    assert equal(whole, resumed)
    lines = [json.loads(line) for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [0, 1, 2, 3, 4]
    reference = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    for ours, theirs in zip(lines, reference, strict=True):
        assert {k: v for k, v in ours.items() if "seconds" not in k} == {
            k: v for k, v in theirs.items() if "seconds" not in k
        }


def test_an_extended_run_equals_one_that_was_begun_longer(tmp_path: Path) -> None:
    whole = small("rl2")
    Run.create(tmp_path / "whole", whole, 5, checkpoint_every=2).train(whole)
    agent = small("rl2")
    Run.create(tmp_path / "short", agent, 3, checkpoint_every=2).train(agent)
    run = Run.open(tmp_path / "short")
    with pytest.raises(metarl.InvalidValueError, match="iterations is 2, expected at least 3, which are done already"):
        run.set_iterations(2, agent, 3)
    run.set_iterations(3, agent, 3)  # nothing to do
    assert "before" not in json.loads((run.path / "config.json").read_text())
    run.set_iterations(50, agent, 3)
    run.set_iterations(5, agent, 3)  # fifty were a mistake
    again = Run.open(run.path)
    extended, start = again.load_agent()
    assert (start, again.config["iterations"]) == (3, 5)
    assert [entry["iterations"] for entry in again.config["before"]] == [3, 50]
    again.train(extended, start)
    assert equal(whole, extended)
    assert len((run.path / "metrics.jsonl").read_text().splitlines()) == 5


def test_a_finished_run_without_its_replay_plays_the_same_and_cannot_go_on(tmp_path: Path) -> None:
    small = {"trial_episodes": 2, "hidden": 8, "replay_trials": 8, "meta_batch_size": 4, "minibatches": 1}
    agent = metarl.make_agent("varibad", "metarl/GridNavi-v0", **small)
    run = Run.create(tmp_path / "run", agent, 2, checkpoint_every=1, keeps_replay=False)
    path = run.path / "checkpoint.json"
    sizes = []
    run.train(agent, progress=lambda *_: sizes.append(len(safetensors_of(path))))
    loaded, done = Run.open(run.path).load_agent()
    assert (done, sizes[0] > sizes[1]) == (2, True)  # only the last checkpoint is without it
    assert not [name for name in safetensors_of(path) if name.startswith("replay.")]
    own, other = agent.tensors(), loaded.tensors()
    assert all(torch.equal(v, other[k]) for k, v in own.items() if not k.startswith("replay."))
    assert not torch.equal(own["replay.added"], other["replay.added"])
    with pytest.raises(metarl.InvalidValueError, match=r"is 3, expected 2: the replay .* was not kept"):
        run.set_iterations(3, loaded, 2)
    run.set_iterations(2, loaded, 2)
    run.train(loaded, 2)  # nothing to do


def test_a_checkpoint_that_lacks_more_than_the_replay_is_refused(tmp_path: Path) -> None:
    agent = small("maml")
    save_checkpoint(tmp_path / "checkpoint", agent, 1, with_replay=False)  # it has none
    assert "without_replay" not in json.loads((tmp_path / "checkpoint.json").read_text())
    belief = metarl.make_agent("varibad", "metarl/GridNavi-v0", trial_episodes=2, hidden=8, replay_trials=8)
    save_checkpoint(tmp_path / "belief", belief, 1)
    head = read_json(tmp_path / "belief.json", FORMAT, "")
    write_json(tmp_path / "belief.json", head | {"without_replay": True})
    with pytest.raises(metarl.InvalidValueError, match=r"tensor 'replay.* is unknown"):
        load_checkpoint(tmp_path / "belief", belief)


def safetensors_of(head: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(head.with_name(json.loads(head.read_text())["file"]))


def test_more_meta_updates_than_the_rate_lasts_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    agent = metarl.make_agent("rl2", **SMALL["rl2"], anneal_iterations=3)
    with pytest.raises(
        metarl.InvalidValueError, match=r"rl2.anneal_iterations is 3, expected 0, or at least the 4 meta"
    ):
        Run.create(tmp_path / "long", agent, 4)
    assert not (tmp_path / "long").exists()
    run = Run.create(tmp_path / "run", agent, 3)
    run.train(agent)
    before = (run.path / "config.json").read_text()
    with pytest.raises(metarl.InvalidValueError, match=r"rl2.anneal_iterations is 3"):
        run.set_iterations(6, agent, 3)
    assert (run.path / "config.json").read_text() == before


def test_a_run_from_before_a_hyperparameter_was_there_has_its_default(tmp_path: Path) -> None:
    agent = small("rl2")
    run = Run.create(tmp_path / "run", agent, 1)
    run.train(agent)
    config = json.loads((run.path / "config.json").read_text())
    del config["config"]["reward_coef"], config["sha256"]
    write_json(run.path / "config.json", config)
    loaded, _ = Run.open(run.path).load_agent()
    assert loaded.config == agent.config
    assert equal(agent, loaded)
    config["config"]["unheard_of"] = 1
    write_json(run.path / "config.json", config)
    with pytest.raises(metarl.InvalidValueError, match=r"hyperparameters of .* is \['unheard_of'\]"):
        Run.open(run.path).load_agent()


def test_a_killed_run_resumes_from_its_last_checkpoint(tmp_path: Path) -> None:
    whole = small("rl2")
    train(whole, 5)
    agent = small("rl2")
    run = Run.create(tmp_path / "run", agent, 5, checkpoint_every=2)

    def crash(done: int, total: int, metrics: dict[str, float]) -> None:
        if done == 3:
            raise MemoryError

    with pytest.raises(MemoryError):
        run.train(agent, progress=crash)
    resumed, start = Run.open(tmp_path / "run").load_agent()
    assert start == 2
    run.train(resumed, start)
    assert equal(whole, resumed)
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 5  # line 3 was written once more


def test_training_in_a_thread_needs_no_signals(tmp_path: Path) -> None:
    agent = small("rl2")
    run = Run.create(tmp_path / "run", agent, 1)
    worker = threading.Thread(target=run.train, args=(agent,))
    worker.start()
    worker.join()
    assert Run.open(tmp_path / "run").load_agent()[1] == 1


def test_run_directory_records_what_made_it(tmp_path: Path) -> None:
    agent = small("maml", seed=7)
    Run.create(tmp_path / "run", agent, 2).train(agent)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["agent"], config["family"], config["seed"]) == ("maml", "metarl/PointNavigation-v0", 7)
    assert config["config"]["hidden"] == [8]
    assert {"python", "torch", "numpy", "gymnasium", "metarl"} <= config["versions"].keys()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    for name in ("env_steps", "return_1"):
        shown = [event.value for event in board.Scalars(name)]
        assert shown == pytest.approx([line[name] for line in lines])
    assert not list((tmp_path / "run").glob(".*part"))
    assert len(list((tmp_path / "run").glob("checkpoint-*.safetensors"))) == 1


def test_an_existing_run_is_not_overwritten(tmp_path: Path) -> None:
    Run.create(tmp_path, small("rl2"), 2)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(metarl.InvalidValueError, match="run directory"):
        Run.create(tmp_path, small("maml"), 3)
    assert (tmp_path / "config.json").read_bytes() == before


def test_unwritable_output_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("not a directory")
    with pytest.raises(metarl.InvalidValueError, match=str(blocker)):
        Run.create(blocker / "run", small("rl2"), 2)
    assert blocker.read_text() == "not a directory"
    assert list(tmp_path.iterdir()) == [blocker]


def damaged(path: Path, how: str) -> None:
    """Spoil a saved checkpoint in one way."""
    head = json.loads((path / "checkpoint.json").read_text())
    tensors = path / head["file"]
    data = tensors.read_bytes()
    if how == "truncated":
        tensors.write_bytes(data[: len(data) // 2])
    elif how == "flipped":
        tensors.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif how == "missing":
        tensors.unlink()
    elif how == "not json":
        (path / "checkpoint.json").write_text("{")
    elif how == "foreign":
        (path / "checkpoint.json").write_text('{"format": "someone-elses"}')


@pytest.mark.parametrize("how", ["truncated", "flipped", "missing", "not json", "foreign"])
def test_corrupt_checkpoints_are_refused_and_change_nothing(how: str, tmp_path: Path) -> None:
    agent = small("maml")
    save_checkpoint(tmp_path / "checkpoint", agent, 4)
    damaged(tmp_path, how)
    fresh, untouched = small("maml", seed=1), small("maml", seed=1)
    with pytest.raises(
        metarl.InvalidValueError, match=r"checkpoint(\.json)? is .*, expected (a whole metarl|'metarl-run-)"
    ):
        load_checkpoint(tmp_path / "checkpoint", fresh)
    assert equal(fresh, untouched)


def test_a_checkpoint_of_another_agent_or_shape_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "checkpoint", small("maml"), 4)
    with pytest.raises(metarl.InvalidValueError, match=r"agent of checkpoint .* is 'maml', expected 'rl2'"):
        load_checkpoint(tmp_path / "checkpoint", small("rl2"))
    wider = metarl.make_agent("maml", "metarl/PointNavigation-v0", hidden=(9,))
    with pytest.raises(metarl.InvalidValueError, match=r"tensor 'w0' of .* is \(\(2, 8\), torch.float32\)"):
        load_checkpoint(tmp_path / "checkpoint", wider)


def test_a_run_remembers_its_familys_keywords(tmp_path: Path) -> None:
    family = metarl.make_family("metarl/PointNavigation-v0", reward="sparse", horizon=20)
    assert family.id == 'metarl/PointNavigation-v0{"horizon": 20, "reward": "sparse"}'
    agent = metarl.make_agent("maml", family, meta_batch_size=2, episodes=2, hidden=(8,))
    Run.create(tmp_path / "run", agent, 1).train(agent)
    again = Run.open(tmp_path / "run").load_agent()[0].family
    assert (again.id, again.horizon, again.reward) == (family.id, 20, "sparse")  # type: ignore[attr-defined]
    assert family.tasks("test", 1).family != metarl.make_family("metarl/PointNavigation-v0").tasks("test", 1).family


def test_what_cannot_be_opened_again_is_not_begun(tmp_path: Path) -> None:
    family = type(metarl.make_family("metarl/BernoulliBandit-v0"))(k=3)  # never registered
    with pytest.raises(metarl.InvalidValueError, match="family of the run is 'custom/Unregistered-v0'"):
        Run.create(tmp_path / "run", metarl.make_agent("rl2", family), 1)
    with pytest.raises(metarl.InvalidValueError, match="iterations is -1"):
        Run.create(tmp_path / "run", small("rl2"), -1)
    assert not (tmp_path / "run").exists()


def test_another_number_of_threads_is_said(tmp_path: Path) -> None:
    Run.create(tmp_path, small("rl2"), 1)
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        with pytest.warns(UserWarning, match="sums may round otherwise"):
            Run.open(tmp_path).load_agent()
    finally:
        torch.set_num_threads(before)


def test_only_agents_that_learn_train() -> None:
    with pytest.raises(metarl.InvalidValueError, match="agent is 'random', expected an agent that learns"):
        train(metarl.make_agent("random", "metarl/PointNavigation-v0"), 1)


def test_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(metarl.InvalidValueError, match="run is"):
        Run.open(tmp_path)
    (tmp_path / "config.json").write_text('{"format": "other"}')
    with pytest.raises(metarl.InvalidValueError, match=r"format of .*config\.json is 'other'"):
        Run.open(tmp_path)


def test_tasks_drawn_ahead_are_those_of_their_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a GPU gets them, by a thread, from any iteration on; none is drawn that is not needed."""
    agent, drawn = small("rl2"), []
    plain = agent.family.tasks
    monkeypatch.setattr(agent.family, "tasks", lambda *args: drawn.append(args[3]) or plain(*args))
    wanted = [plain("train", 16, agent.seed, 16 * i) for i in range(5)]
    agent.device = torch.device("cuda")
    for start in (0, 3, 5, 6):
        drawn.clear()
        found = list(_train_tasks(agent, start, 5))
        assert [t.hash for t in found] == [t.hash for t in wanted[start:]]
        assert drawn == [16 * i for i in range(start, 5)]


def test_a_large_agent_is_saved_after_an_iteration_that_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "MOST_COPIED_BYTES", 0)
    run = Run.create(tmp_path / "run", agent := small("rl2"), 6, checkpoint_every=5)
    with pytest.raises(Interrupted) as stopped:
        run.train(agent, progress=lambda done, *_: os.kill(os.getpid(), signal.SIGINT) if done == 3 else None)
    assert stopped.value.iteration == Run.open(run.path).load_agent()[1] == 3


@pytest.mark.parametrize(("largest", "kept"), [(recording.MOST_COPIED_BYTES, 3), (0, 2)])
def test_an_iteration_that_is_cut_off_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest: int, kept: int
) -> None:
    """The last finished one is saved; of an agent that is too large to be copied, the last checkpoint stands."""
    monkeypatch.setattr(recording, "MOST_COPIED_BYTES", largest)
    monkeypatch.setattr(stop_requests, "PATIENCE", 0.1)
    agent, numbers = small("rl2"), itertools.count()
    learn = agent.train_step

    def hang_in_the_fourth(trials: PoolTrials) -> dict[str, float]:
        metrics = learn(trials)
        if next(numbers) == 3:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
        return metrics

    agent.train_step = hang_in_the_fourth  # type: ignore[method-assign]
    run = Run.create(tmp_path / "run", agent, 6, checkpoint_every=2)
    with pytest.raises(Interrupted) as stopped:
        run.train(agent)
    assert stopped.value.iteration == kept
    resumed, start = Run.open(run.path).load_agent()
    assert start == kept
    run.train(resumed, start)
    unbroken = small("rl2")
    train(unbroken, 6)
    assert equal(resumed, unbroken)
