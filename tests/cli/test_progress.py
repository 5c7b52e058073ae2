"""What long commands show while they run, and what `metarl list` tells."""

from __future__ import annotations

import io
import re
import threading
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from cases import contract_family
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.spaces import Box, Discrete
from rich.console import Console
from test_contract import SMALL

import metarl
from metarl.agent import Agent, Budget
from metarl.agents.gradient.maml import MAML
from metarl.cli import progress
from metarl.cli.main import main
from metarl.cli.progress import Meter, duration, fitting
from metarl.engine import rollout
from metarl.engine.cuda_graphs import CudaGraphCache
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.engine.step_listeners import listening, notify_listeners
from metarl.families.registry import agent_class, agents, families, kinds

BANDIT = "metarl/BernoulliBandit-v0"
TINY: dict[str, Any] = {"hidden": (4,), "eval_steps": 40, "episodes": 2, "meta_batch_size": 3}
OWN: dict[str, dict[str, Any]] = {
    "rl2": {"hidden": 4, "meta_batch_size": 8, "trial_episodes": 3},
    "sb3_pretrained": {
        "steps": 32,
        "meta_batch_size": 2,
        "algorithm_kwargs": {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "policy_kwargs": {"net_arch": [4]}},
    },
}
OWN |= {n: s for n, s in SMALL.items() if not issubclass(agent_class(n), MAML) and n not in OWN}
FAMILY_OF = {"prototypes": "metarl/Digits-v0"}  # of agents that are not for bandits
LEARNERS = sorted(name for name in agents if agent_class(name).learns)


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def said(meter: Meter) -> list[str]:
    return [text for _, text in meter.parts()]


# --- environment steps as they are made ------------------------------------------------------------------------------


def heard(play: Any) -> list[int]:
    """The pulses of a call."""
    beats: list[int] = []
    with listening(beats.append):
        play()
    return beats


@pytest.mark.parametrize("name", LEARNERS)
def test_agents_know_how_many_steps_a_meta_update_plays(name: str) -> None:
    agent = metarl.make_agent(name, contract_family(FAMILY_OF.get(name, BANDIT)), **OWN.get(name, TINY))
    trials = PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("train", agent.meta_batch_size))
    beats = heard(lambda: agent.train_step(trials))
    assert sum(beats) == agent.train_env_steps


class Short(gym.Env[Any, Any]):
    """Ends after two steps."""

    observation_space = Box(-1.0, 1.0, (1,), np.float32)
    action_space = Discrete(2)
    bonus = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return np.zeros(1, np.float32), self.bonus, self.t == 2, False, {}


def test_every_slot_of_every_step_counts() -> None:
    family = metarl.GymFamily(Short, {"bonus": metarl.Uniform(0.0, 1.0)}, horizon=5, stepping="sync")
    agent = metarl.make_agent("random", family)
    trials = PoolTrials(EnvironmentPool(family), family.tasks("train", 3))
    beats = heard(lambda: trials.collect(agent, agent.begin(3), 0, Budget(envs=2, steps=5)))
    assert beats == [6] * 5  # 3 rows of 2 environments, which restart when they end


def test_a_captured_rollout_is_counted_whole_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "is_captured", lambda *_: True)
    agent = metarl.make_agent("random", "metarl/GridNavi-v0")
    pool = EnvironmentPool(agent.family)
    pool.get(2).cuda_graphs = CudaGraphCache(lambda run, given: run)  # type: ignore[attr-defined]
    trials = PoolTrials(pool, agent.family.tasks("train", 2))
    for _ in range(3):  # plain, recorded, replayed
        assert heard(lambda: trials.collect(agent, agent.begin(2), 0, Budget(steps=7))) == [14]


def test_listeners_hear_beside_one_another_and_may_end_what_they_listen_to() -> None:
    outer: list[int] = []

    def stop(env_steps: int) -> None:
        raise KeyboardInterrupt

    agent = metarl.make_agent("random", BANDIT)
    trials = PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("train", 2))
    with listening(outer.append), pytest.raises(KeyboardInterrupt), listening(stop):
        trials.collect(agent, agent.begin(2), 0, Budget(steps=7))
    assert outer == [2]
    notify_listeners(1)  # nobody listens any more
    assert outer == [2]


def test_listeners_belong_to_their_thread() -> None:
    beats: list[int] = []
    with listening(beats.append):
        other = threading.Thread(target=notify_listeners, args=(5,))
        other.start()
        other.join()
    assert beats == []


# --- the meter -------------------------------------------------------------------------------------------------------


def test_the_first_iteration_tells_its_costs_before_it_is_over(clock: Clock) -> None:
    meter = Meter("iterations", 20, env_steps=1000, clock=clock)
    assert said(meter) == ["0/20 iterations"]
    clock.now += 50  # environments are made
    meter.pulse(10)
    assert said(meter) == ["0/20 iterations", "10/1,000 env steps"]
    for _ in range(9):
        clock.now += 1
        meter.pulse(10)
    # 90 steps in 9 seconds after the first pulse, so that 1,000 steps take 100 s; an iteration has taken 59 s so far:
    # 20 of 100 s, less 59 s
    assert said(meter) == ["0/20 iterations", "over 32 min 21 s left", "100/1,000 env steps", "10 env steps/s"]
    assert meter.completed == pytest.approx(0.1)
    clock.now += 100  # the optimisation takes longer than was thought: 20 of 159 s, less 159 s
    assert said(meter)[1] == "over 50 min 21 s left"
    assert said(meter)[-1] == "10 env steps/s"


def test_a_unit_that_takes_long_says_nothing_of_the_next_ones_where_units_differ(clock: Clock) -> None:
    meter = Meter("rows", 10, clock=clock, equal=False)
    for done in (1, 2, 3, 4):
        clock.now += 10
        meter.advance(done)
    clock.now += 4
    assert said(meter)[:2] == ["4/10 rows", "56 s left"]  # 5 of 10 s, and the rest of the present one
    clock.now += 600
    assert said(meter)[1] == "50 s left"
    meter.advance(5)
    assert said(meter)[1] == f"{duration(5 * (40 + 604) / 5)} left"  # the mean of all


def test_later_iterations_count_with_what_they_took(clock: Clock) -> None:
    meter = Meter("iterations", 12, start=2, env_steps=1000, clock=clock)
    for done in (3, 4, 5, 6):  # 20 s each
        meter.pulse(1000)
        clock.now += 20
        meter.advance(done, ["return_0 1.00", "return_1 2.00"])
    assert said(meter) == ["6/12 iterations", "2 min 0 s left", "50 env steps/s", "return_0 1.00", "return_1 2.00"]
    clock.now += 5
    assert said(meter)[1] == "1 min 55 s left"
    clock.now += 25  # this one takes 30 s already: 6 of 30 s, less 30 s
    assert said(meter)[1] == "2 min 30 s left"


def test_rates_are_of_the_last_half_minute(clock: Clock) -> None:
    meter = Meter("iterations", 100, clock=clock)
    for done in range(1, 11):
        meter.pulse(100)
        clock.now += 100 if done == 1 else 5  # the first one warms up
        meter.advance(done)
    assert "20 env steps/s" in said(meter)
    assert "7 min 30 s left" in said(meter)  # 90 of 5 s


def test_the_end_tells_how_long_it_took(clock: Clock) -> None:
    meter = Meter("iterations", 2, env_steps=15, clock=clock)
    for done in (1, 2):
        meter.pulse(15)
        clock.now += 100
        meter.advance(done, ["return_1 2.00"])
    assert said(meter) == ["2/2 iterations in 3 min 20 s", "0.1 env steps/s", "return_1 2.00"]  # 30 in 200 s, .15
    assert meter.completed == 2


def test_what_is_not_known_is_not_told(clock: Clock) -> None:
    meter = Meter("adaptation steps", None, clock=clock)
    for _ in range(11):
        meter.pulse(1700)
        clock.now += 1
    assert said(meter) == ["0 adaptation steps", "18,700 env steps", "1,700 env steps/s"]
    meter.advance(1, total=4)
    assert said(meter) == ["1/4 adaptation steps", "33 s left", "1,700 env steps/s"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7512, "2 h 5 min"), (359_999, "4 d 3 h")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_the_most_important_parts_are_shown_where_there_is_little_room() -> None:
    parts = [(0, "12/100 iterations"), (1, "18 min left"), (3, "12,000 env steps/s"), (5, "before 1"), (2, "after 2")]
    assert fitting(parts, 100) == "12/100 iterations, 18 min left, 12,000 env steps/s, before 1, after 2"
    assert fitting(parts, 60) == "12/100 iterations, 18 min left, 12,000 env steps/s, after 2"
    assert fitting(parts, 50) == "12/100 iterations, 18 min left, before 1, after 2"
    assert fitting(parts, 3) == "12/100 iterations"


# --- what is printed -------------------------------------------------------------------------------------------------


def test_redirected_output_gets_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "FIRST", 0.02)
    monkeypatch.setattr(progress, "EVERY", 0.01)
    printed, deadline = "", time.monotonic() + 60
    with progress.bar("maml", 3, 0, "iterations", 100) as advance:
        notify_listeners(40)
        while "40/100 env steps" not in printed and time.monotonic() < deadline:  # inside the first iteration
            time.sleep(0.01)
            printed += capsys.readouterr().out
        advance(3, ["return_1 2.00"])
    assert printed.splitlines()[-1] == "maml: 0/3 iterations, 40/100 env steps"
    last = (printed + capsys.readouterr().out).splitlines()[-1]
    assert re.fullmatch(r"maml: 3/3 iterations in \d+ s, [\d.,]+ env steps/s, return_1 2\.00", last)


def test_a_command_that_is_redirected_prints_plain_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--meta-batch-size", "4", "--trial-episodes", "5", "--hidden", "4", "--minibatches", "1"]
    main(["train", "rl2", "--family", BANDIT, *small, "--iterations", "2", "--out", "run"])
    main(["eval", "run", "--k", "1", "--num-tasks", "2", "--episodes", "1"])
    out = capsys.readouterr().out
    assert "\r" not in out
    assert "\x1b" not in out
    lines = out.splitlines()
    assert lines[:2] == [f"training rl2 on {BANDIT}", "2 iterations of 20 env steps"]
    assert re.fullmatch(r"rl2: 2/2 iterations in \d+ s, [\d.,]+ env steps/s, trial_return .*", lines[2])
    assert lines[3] == "trained: run"
    assert re.fullmatch(r"evaluate rl2: 2/2 adaptation steps in \d+ s, [\d.,]+ env steps/s", lines[4])


@pytest.fixture(params=[80, 120])
def terminal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[io.StringIO, int]:
    """What is written to a terminal of a width."""
    screen = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=screen, force_terminal=True, width=request.param, height=30))
    return screen, request.param


def test_a_terminal_gets_a_bar_in_one_row(terminal: tuple[io.StringIO, int], clock: Clock) -> None:
    screen, width = terminal
    meter = Meter("iterations", 100, env_steps=2_000_000, clock=clock)
    with progress._live("optimistic_thompson_sampling", meter):
        meter.pulse(1000)
        clock.now += 10
        meter.pulse(40_000)
        clock.now += 3000
        meter.advance(1, ["trial_return -1234.56", "episode_return -123.45"])
    rows = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue()).replace("\r", "\n").splitlines()
    shown = [row for row in rows if "iterations" in row]
    assert shown
    assert max(len(row) for row in rows) <= width
    assert shown[-1].startswith("optimistic_thompson_sampling ━")
    assert "1/100 iterations, 3 d 10 h left" in shown[-1]
    assert ("episode_return -123.45" in shown[-1]) == (width == 120)
    assert "…" not in shown[-1]


# --- listing ---------------------------------------------------------------------------------------------------------


class Mine(Agent):
    """An agent of one's own. [bold] is no markup."""

    name = "mine"
    Config = agent_class("random").Config


def test_everything_is_listed_under_its_kind(capsys: pytest.CaptureFixture[str], scratch_registry: Any) -> None:
    metarl.register_agent("mine", Mine)
    metarl.register_family("mine/Short-v0", env=Short, task_space={"bonus": metarl.Uniform(0.0, 1.0)}, horizon=5)
    main(["list"])
    under, kind = {}, ""
    for line in capsys.readouterr().out.splitlines():
        if re.match(r"  \S", line):
            kind = line.strip()
        elif re.match(r"    \S", line):
            under[line.split()[0]] = kind
    assert under == {name: kinds[name] or "yours" for name in (*families, *agents)}
    built_in = [name for name in under if not name.startswith("mine")]
    assert all(kinds[name] for name in built_in)
    assert under["mine"] == under["mine/Short-v0"] == "yours"
    assert under["rl2"] == "memory"
    assert under["metarl/AntDir-v0"] == "MuJoCo"


def test_a_familys_environment_is_described_and_not_the_class_that_holds_it(
    capsys: pytest.CaptureFixture[str], scratch_registry: Any
) -> None:
    envs = {"Pole": "CartPole-v1", "Walk": Described, "Bare": lambda: Described()}
    for name, env in envs.items():
        space = {"length": metarl.Uniform(0.5, 1.0)}
        metarl.register_family(f"mine/{name}-v0", env=env, task_space=space, apply="attrs", horizon=5)
    main(["list"])
    lines = capsys.readouterr().out.splitlines()
    told = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines if line.strip().startswith("mine/")}
    assert told["mine/Pole-v0"] == "The Gymnasium environment CartPole-v1. apply: attrs."
    assert told["mine/Walk-v0"] == "A pole that walks. apply: attrs."
    assert told["mine/Bare-v0"] == "The environment <lambda>. apply: attrs."
    main(["list", "mine/Walk-v0", "mine/Pole-v0"])
    out = capsys.readouterr().out
    assert "what: A pole that walks." in out
    assert "what: The Gymnasium environment CartPole-v1." in out


class Described(CartPoleEnv):
    """A pole that walks."""


@pytest.mark.parametrize("name", ["maml", "ucb1", "random"])
def test_list_describes_an_agent(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["list", name])
    out = capsys.readouterr().out
    words = " ".join(out.split())
    cls = agent_class(name)
    for line in (cls.__doc__ or "").strip().splitlines():
        assert line.strip() in words
    assert f"kind {kinds[name]}" in words
    assert f"families {cls.takes}" in words
    assert f"metarl {'train' if cls.learns else 'eval'} {name} --family ID" in words
    for field in fields(cls.Config):
        flag = ("--" if cls.learns else "--agent.") + field.name.replace("_", "-")
        assert re.search(rf"^ +{flag}[ ,]", out, re.MULTILINE)
    if name == "maml":
        assert "Finn, Abbeel and Levine (2017, arXiv:1703.03400)" in words
        assert "Size of the first inner step (Finn et al. 2017 use 0.1 for MuJoCo tasks). (default: 0.5)" in words
        assert "inner_lr a number from 0 to 1000" in words
        assert "inner_lr_schedule each is a number from 0 to 1000" in words
        assert "the options of every training: metarl train maml --help" in words
        assert "whose task is the same for a whole trial" in words
        assert "changes its parameters" in words


def test_an_agent_that_says_what_it_takes_refuses_in_the_same_words() -> None:
    for name in ("ucb1", "psrl", "oracle", "gittins"):
        with pytest.raises(metarl.InvalidValueError) as refused:
            metarl.make_agent(name, "metarl/Pendulum-v0")
        assert refused.value.expected in (agent_class(name).takes, agent_class("ucb1").takes)


def test_agents_that_are_meta_trained_are_marked_and_offered(capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "--help"])
    offered = " ".join(capsys.readouterr().out.split()).partition("one of: ")[2].partition(" (metarl")[0].split(", ")
    assert offered == sorted(name for name in agents if agent_class(name).learns)
    main(["list"])
    lines = " ".join(capsys.readouterr().out.split()).replace("Meta- trained", "Meta-trained")  # at a line's end
    assert lines.count("Meta-trained.") == len(offered)
    assert "runs forward. body: hopper. Needs mujoco. Presets: promp, pearl." in lines
    assert "runs forward. body: walker2d. Needs mujoco." in lines


def test_an_agent_that_does_not_learn_is_sent_to_evaluation(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "gittins", "--family", BANDIT])
    assert f"gittins needs no training: metarl eval gittins --family {BANDIT}" in capsys.readouterr().err


def test_list_suggests_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["list", "mamml"])
    assert "did you mean 'maml'" in capsys.readouterr().err


def test_a_mark_is_no_tensor() -> None:
    """Pulses are plain numbers: nothing waits for a device."""
    agent = metarl.make_agent("random", BANDIT)
    trials = PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("train", 2))
    beats = heard(lambda: trials.collect(agent, agent.begin(2), 0, Budget(episodes=3)))
    assert not any(isinstance(beat, torch.Tensor) for beat in beats)
    assert beats == [2] * 3
