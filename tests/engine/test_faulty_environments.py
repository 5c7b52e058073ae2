"""Environments that fail, hang or return nonsense: what is said, and that nothing is left running."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import gymnasium as gym
import kill_runs
import numpy as np
import pytest
import torch

import metarl
from metarl.agent import Rollout
from metarl.cli.main import main
from metarl.engine.pool import make_environments
from metarl.engine.rollout import check_finite
from metarl.runs import run_config
from metarl.runs.run import Run

TINY = ["--meta-batch-size", "2", "--episodes", "1", "--hidden", "4", "--inner-steps", "1"]


class Plain(gym.Env):
    """A number that is seen; `faults` says what happens at which step of an episode."""

    observation_space, action_space = gym.spaces.Box(-9.0, 9.0, (1,), np.float32), gym.spaces.Discrete(2)
    level = 0.5
    faults: dict[int, object] = {}  # noqa: RUF012 - subclasses replace it

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        fault = self.faults.get(self.t)
        if isinstance(fault, Exception):
            raise fault
        if fault == "hang":
            time.sleep(1e6)
        obs = np.full(1, np.nan if fault == "nan" else 0.1 * self.t, np.float32)
        return obs, float("inf") if fault == "inf" else self.level, False, False, {}


def register(faults: dict[int, object], stepping: str = "sync") -> str:
    cls = type("Faulty", (Plain,), {"faults": faults})
    space = {"level": metarl.Uniform(0.0, 1.0)}
    metarl.register_family("faulty/Plain-v0", env=cls, task_space=space, apply="attrs", horizon=5, stepping=stepping)
    return "faulty/Plain-v0"


class Particular(Exception):
    """Cannot be unpickled: its constructor takes two arguments and passes on one."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(f"{what} ({code})")


@pytest.mark.parametrize("stepping", ["sync", "async"])
@pytest.mark.parametrize("raised", [Particular("a wheel came off", 7), KeyError("left", "right")])
def test_an_exception_says_where_it_happened(scratch_registry, stepping, raised):
    family = metarl.make_family(register({3: raised}, stepping))
    agent = metarl.make_agent("random", family)
    with pytest.raises((type(raised), RuntimeError)) as caught:
        metarl.evaluate(agent, k=0, num_tasks=2, episodes=1)
    text = str(caught.value)
    assert ("a wheel came off (7)" in text) or text == str(raised)
    assert caught.value.__notes__[0] == (
        "Faulty.step raised it at step 2 of an episode in task 0 of split 'test', seed 0"
    )


def test_the_command_line_says_so_first_and_where_the_run_stands(scratch_registry, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_config, "git_revision", lambda: None)
    out = str(tmp_path / "run")
    family = register({})
    agent = metarl.make_agent("reptile", family, meta_batch_size=2, episodes=1, inner_steps=1, hidden=(4,))
    Run.create(out, agent, 2).train(agent)
    register({2: ValueError("no more sand")})
    with pytest.raises(ValueError, match="no more sand"):
        main(["train", "--resume", out, "--iterations", "3"])
    told = capsys.readouterr().err.splitlines()[0]
    assert told.startswith(
        "metarl: ValueError: no more sand; Faulty.step raised it at step 1 of an episode in task 4 of"
    )
    assert told.endswith(f"; the checkpoint after 2 iterations stands: metarl train --resume {out}")


def test_what_is_not_finite_first_is_named(scratch_registry, capsys):
    for faults, words in (({2: "nan"}, "observation"), ({2: "inf"}, "reward")):
        family = register(faults)
        with pytest.raises(metarl.InvalidValueError) as caught:
            metarl.train(metarl.make_agent("maml", family, meta_batch_size=2, episodes=1, hidden=(4,)), 1)
        assert str(caught.value).startswith(f"{words} of family faulty/Plain-v0 is ")
        assert "task 0 of split 'train'" in str(caught.value)


def rollout(**values: tuple[int, float]) -> Rollout:
    """Three steps of one row, all 0, but for one number of each named field at a step."""
    data = {"obs": torch.zeros(3, 1, 1, 2), "action": torch.zeros(3, 1, 1, 1), "reward": torch.zeros(3, 1, 1)}
    last = torch.zeros(1, 1, 2)
    for name, (t, value) in values.items():
        (last if name == "obs" and t == 3 else data[name][t]).fill_(value)
    never, valid = torch.zeros(3, 1, 1, dtype=torch.bool), torch.ones(3, 1, 1, dtype=torch.bool)
    return Rollout(**data, terminated=never, truncated=never, valid=valid, last_obs=last)


@pytest.mark.parametrize(
    ("values", "first"),
    [
        ({"obs": (1, np.nan), "action": (1, np.nan)}, "observation of"),
        ({"obs": (2, np.nan), "action": (1, np.nan)}, "an action in"),
        ({"action": (1, np.nan), "reward": (1, np.nan)}, "an action in"),
        ({"obs": (2, np.nan), "reward": (1, np.inf)}, "reward of"),
        ({"obs": (3, np.nan)}, "observation of"),
    ],
)
def test_the_order_is_observation_action_reward(values, first):
    family = metarl.make_family("metarl/PointNavigation-v0")
    step = min(t for t, _ in values.values())
    with pytest.raises(metarl.InvalidValueError, match=f"^{first}.*step {step} in task 0"):
        check_finite(rollout(**values), family, family.tasks("train", 1))


def test_large_numbers_are_finite():
    family = metarl.make_family("metarl/PointNavigation-v0")
    check_finite(rollout(obs=(1, 3e38), reward=(1, 3e38)), family, family.tasks("train", 1))


@pytest.mark.parametrize("told", [np.True_, True, 1, 1.0, np.array(True)])
def test_success_may_be_any_truth(told, scratch_registry):
    class Succeeds(Plain):
        def step(self, action):
            obs, reward, *ends, _ = super().step(action)
            return obs, reward, *ends, {"is_success": told if self.t > 2 else np.False_, "lane": np.arange(self.t)}

    space = {"level": metarl.Uniform(0.0, 1.0)}
    metarl.register_family("faulty/Succeeds-v0", env=Succeeds, task_space=space, apply="attrs", horizon=4)
    family = metarl.make_family("faulty/Succeeds-v0")
    results = metarl.evaluate(metarl.make_agent("random", family), k=0, num_tasks=2, episodes=1)
    assert (results.success["sampled"] == 1).all()
    envs = make_environments(family, 2)
    envs.begin(family.tasks("train", 2), torch.arange(2), 4)
    assert [envs.step(torch.zeros(2, dtype=torch.int64)).success.tolist() for _ in range(3)][1:] == [
        [False, False],
        [True, True],
    ]


@pytest.mark.parametrize(
    "signals", [(signal.SIGTERM,), (signal.SIGINT,), (signal.SIGINT, signal.SIGINT), (signal.SIGKILL,)]
)
@pytest.mark.parametrize("stepping", ["sync", "async"])
def test_a_training_that_hangs_ends_and_leaves_nothing(scratch_registry, tmp_path, stepping, signals):
    family = register({3: "hang"}, stepping)

    def make():
        return metarl.make_agent("reptile", family, meta_batch_size=2, episodes=1, inner_steps=1, hidden=(4,))

    child = kill_runs.start(make, tmp_path / "run", {})
    until = time.monotonic() + 60
    while not (tmp_path / "run" / "checkpoint.json").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    time.sleep(0.5)  # it hangs by now
    for number in signals:
        os.kill(child, number)
        time.sleep(0.05)
    assert kill_runs.wait(child) == (-signal.SIGKILL if signals == (signal.SIGKILL,) else 1)
    register({}, stepping)
    assert kill_runs.wait(kill_runs.start(make, tmp_path / "run", {})) == 0
    assert Run.open(tmp_path / "run").load_agent()[1] == kill_runs.ITERATIONS


def test_workers_leave_no_process_and_no_pipe(scratch_registry):
    family = metarl.make_family(register({}, "async"))
    opened = len(list(Path("/proc/self/fd").iterdir()))
    envs = make_environments(family, 4)
    envs.begin(family.tasks("train", 4), torch.arange(4), 4)
    processes = list(envs.processes)
    numbers = [process.pid for process in processes]
    envs.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == opened
    for number in numbers:
        with pytest.raises(ProcessLookupError):
            os.kill(number, 0)
