"""Environments that hang anywhere, raise anything and return anything: what ends, what is told, and what is refused."""

import os
import threading
from contextlib import closing
from functools import partial
from pathlib import Path

import gymnasium as gym
import hang_workers
import numpy as np
import pytest
import torch
from faulty import SPEED, Hangs, Moves
from gymnasium import spaces

import metarl
import metarl.engine.workers
import metarl.runs.stop_requests
from metarl import GymFamily, InvalidValueError
from metarl.agent import Budget
from metarl.engine.gym_environments import GymEnvironments
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.engine.workers import WorkerEnvironments
from metarl.families.returned import Checked, check_observation

KINDS = (1, 2)  # processes


def family(env, apply="attrs", **keywords):
    return GymFamily(env, SPEED, apply, horizon=6, **keywords)


def slots_of(env, processes, n=2):
    built = family(env)
    if processes == 1:
        return GymEnvironments(built, n, torch.device("cpu"))
    return WorkerEnvironments(built, n, "cpu", processes)


def collected(env, processes=1, steps=8, agent="random"):
    """A rollout of test tasks 3 and 4."""
    built = family(env, stepping="sync")
    if processes == 2:
        built.stepping = "async"
    player = metarl.make_agent(agent, built)
    with closing(EnvironmentPool(built)) as pool:
        trials = PoolTrials(pool, built.tasks("test", 2, start=3))
        return trials.collect(player, player.begin(2), 0, Budget(steps=steps))[0]


@pytest.fixture
def two_processes(monkeypatch):
    """Families that are stepped "async" have two, whatever the machine has."""
    monkeypatch.setattr(metarl.engine.workers, "worker_count", lambda family, n: 2 if family.stepping == "async" else 1)


# --- hanging ---------------------------------------------------------------------------------------------------------

linux = pytest.mark.skipif(not Path("/proc").exists(), reason="looks at processes")


@linux
@pytest.mark.parametrize(
    ("ending", "workers", "kind"),
    [
        ("SIGTERM", "fork", "sleep"),
        ("to all", "fork", "sleep"),
        ("two Ctrl-C", "fork", "c"),
        ("SIGKILL", "fork", "c"),
        ("Ctrl-C", "none", "loop"),
    ],
)
def test_a_hanging_training_ends_and_resumes_to_the_same_bits(ending, workers, kind, tmp_path, whole_run, monkeypatch):
    monkeypatch.setattr(metarl.runs.stop_requests, "PATIENCE", 0.3)
    path = tmp_path / "run"
    seconds, code = hang_workers.end(path, ending, workers, kind)
    assert seconds is not None  # nothing of it is left
    assert code == (-9 if ending == "SIGKILL" else 1), path.with_suffix(".err").read_text()
    if ending in ("SIGTERM", "to all", "Ctrl-C"):
        assert path.with_suffix(".stop").read_text() == f"stopped after iteration {hang_workers.HANG_AFTER}"
        assert "stopping after this iteration, or within" in path.with_suffix(".err").read_text()
    assert hang_workers.finish(path, workers) == whole_run


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    return hang_workers.finish(tmp_path_factory.mktemp("whole") / "run", "none")


@linux
def test_closing_ends_hanging_processes_and_leaves_nothing_open(tmp_path, monkeypatch):
    trigger = tmp_path / "now"
    monkeypatch.setenv("FAULTY_TRIGGER", str(trigger))
    monkeypatch.setattr(metarl.engine.workers, "CLOSING_SECONDS", 0.2)
    before = sorted(os.listdir("/proc/self/fd"))
    hanging, fine = slots_of(Hangs, 2), slots_of(Hangs, 2)  # those that are forked later hold the pipes of the first
    with closing(fine), closing(hanging):
        for envs in (hanging, fine):
            envs.begin(envs.family.tasks("train", 2), torch.arange(2), 3)
        numbers = [process.pid for process in hanging.processes]
        trigger.touch()
        for pipe in hanging.pipes:
            pipe.send(("step", (np.zeros(1, np.int64),)))
        assert hang_workers.until(lambda: len(list(tmp_path.glob("*.hangs"))) == 2) is not None
        hanging.close()
        assert not any(Path(f"/proc/{number}").exists() for number in numbers)
        trigger.unlink()
        fine.step(torch.zeros(2, dtype=torch.int64))
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_workers_outlive_the_thread_that_made_them():
    made = []
    maker = threading.Thread(target=lambda: made.append(slots_of(Moves, 2)))
    maker.start()
    maker.join()
    with closing(made[0]) as envs:
        envs.begin(envs.family.tasks("train", 2), torch.arange(2), 3)
        assert envs.step(torch.zeros(2, dtype=torch.int64)).reward.shape == (2,)


# --- exceptions ------------------------------------------------------------------------------------------------------


class TwoArgumentsError(Exception):
    def __init__(self, wheel, load):
        super().__init__(f"wheel {wheel} came off under {load} kg")
        self.wheel = wheel


class UnsendableError(Exception):
    def __init__(self, what):
        super().__init__(what)
        self.lock = threading.Lock()


class Breaks(Moves):
    raises = partial(TwoArgumentsError, 3, 80)

    def step(self, action):
        if self.t == 2:
            raise self.raises()
        return super().step(action)


@pytest.mark.parametrize("processes", KINDS)
def test_an_exception_arrives_whole_with_its_place(processes, two_processes):
    with pytest.raises(TwoArgumentsError, match="wheel 3 came off under 80 kg") as caught:
        collected(Breaks, processes)
    assert caught.value.wheel == 3
    assert (
        caught.value.__notes__[0] == "Breaks.step raised it at step 2 of an episode in task 3 of split 'test', seed 0"
    )
    assert (processes == 1) or "in step" in caught.value.__notes__[1]


@pytest.mark.parametrize(
    "fails",
    [lambda: os.stat("/nothing/here"), lambda: b"\xff".decode(), lambda: compile("a b", "f", "exec"), {}.popitem],
)
def test_pythons_own_exceptions_arrive_whole(fails):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        fails()
    sent = metarl.engine.workers._pack_error(caught.value)
    raised = metarl.engine.workers._unpack_error(sent, "mine/Family-v0")
    assert (type(raised), str(raised)) == (caught.type, str(caught.value))


def test_an_exception_that_cannot_be_sent_arrives_in_words(two_processes):
    env = type("Mine", (Breaks,), {"raises": partial(UnsendableError, "stuck")})
    with pytest.raises(RuntimeError, match="UnsendableError: stuck") as caught:
        collected(env, 2)
    assert "Mine.step raised it at step 2 of" in caught.value.__notes__[0]
    assert "in step" in caught.value.__notes__[1]


# --- what is returned ------------------------------------------------------------------------------------------------


def returning(**returned):
    """A class of environments that return something else in the third step."""
    names = ("observation", "reward", "terminated", "truncated", "info")

    class Mine(Moves):
        def step(self, action):
            out = super().step(action)
            return tuple(returned.get(n, v) for n, v in zip(names, out, strict=True)) if self.t == 3 else out

    return Mine


@pytest.mark.parametrize("processes", KINDS)
@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        (returning(observation=np.zeros(3)), "shape of the observation of Mine.step is (3,), expected (2,)"),
        (returning(observation=None), "observation of Mine.step is None, expected numbers of shape (2,)"),
        (returning(observation="x"), "observation of Mine.step is 'x', expected numbers of shape (2,)"),
        (returning(reward="1"), "reward of Mine.step is '1', expected one number"),
        (returning(terminated="yes"), "terminated of Mine.step is 'yes', expected True or False"),
        (returning(info={"is_success": "no"}), "info['is_success'] of Mine.step is 'no', expected True or False"),
    ],
)
def test_what_is_no_step_is_told_with_its_place(env, sentence, processes, two_processes):
    with pytest.raises(InvalidValueError) as caught:
        collected(env, processes)
    assert str(caught.value).startswith(sentence)
    assert str(caught.value).endswith("(step 2 of an episode in task 3 of split 'test', seed 0)")


def test_what_the_authors_own_wrappers_make_is_looked_at():
    def build():
        return gym.wrappers.TransformObservation(Moves(), lambda obs: obs[:1], Moves.observation_space)

    with pytest.raises(InvalidValueError, match=r"shape of the observation of Moves.reset is \(1,\), expected \(2,\)"):
        collected(build)


@pytest.mark.parametrize("usual", [[0.5, 1], np.ones(2), np.array([1, 2]), (np.float64(1), 2)])
def test_numbers_of_any_type_are_observations(usual):
    rollout = collected(returning(observation=usual, reward=np.array(2), terminated=np.False_, truncated=0))
    assert rollout.obs[3, 0, 0].tolist() == [float(x) for x in usual]
    assert rollout.reward[2].flatten().tolist() == [2.0, 2.0]


def test_whole_floats_are_bits():
    """As for Gymnasium, whose MultiBinary and MultiDiscrete contain them and whose Discrete does not."""
    for space in (spaces.MultiBinary(3), spaces.MultiDiscrete([2, 2, 2])):
        check_observation("what it shows", space, np.array([1.0, 0.0, 1.0]))
        for wrong in ([0.5, 0.0, 1.0], [2.0, 0.0, 1.0], [np.nan, 0.0, 1.0]):
            with pytest.raises(InvalidValueError, match="what it shows is"):
                check_observation("what it shows", space, np.array(wrong))
    with pytest.raises(InvalidValueError, match=r"is 1\.0, expected a member of Discrete\(2\)"):
        check_observation("what it shows", spaces.Discrete(2), 1.0)


def test_a_checked_environment_keeps_its_attributes():
    env = Checked(Moves(), lambda: "nowhere")
    env.speed = 7.0
    assert (env.env.speed, env.speed, env.unwrapped.speed) == (7.0, 7.0, 7.0)
    env._hidden = 3
    assert (env.env._hidden, env._hidden) == (3, 3)
    assert (env.observation_space, env.render_mode) == (Moves.observation_space, None)
    with pytest.raises(AttributeError):
        env.nothing  # noqa: B018


class Own(gym.Wrapper):
    """A wrapper of a user's, with an attribute that only it reads."""

    def __init__(self):
        super().__init__(gym.wrappers.TimeLimit(Moves(), 6))
        self._pay = 0.0

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, self._pay, *rest


def test_a_users_function_sets_private_attributes_of_a_users_wrapper():
    built = metarl.GymFamily(Own, SPEED, lambda env, task: setattr(env.env, "_pay", task["speed"]))
    with closing(built.make_env(built.tasks("train", 1))) as env:
        env.reset(seed=0)
        assert env.step(0)[1] == env.task["speed"]


def test_one_environment_that_is_built_again_is_checked_once():
    only = gym.wrappers.TimeLimit(Moves(), 6)
    built = family(lambda speed: only, "kwargs")
    env = built.make_env(built.tasks("train", 1))
    for number in range(3):
        env.set_metarl_task({"speed": 0.5 + number / 4})
        env.reset(seed=0)
    layers = []
    inner = env.env
    while isinstance(inner, gym.Wrapper):
        layers.append(type(inner).__name__)
        inner = inner.env
    assert layers.count("Checked") == 1


# --- not a number ----------------------------------------------------------------------------------------------------

NAN = float("nan")


class Careful(Moves):
    """It refuses to go on from what is no number."""

    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    bad = 2  # step from which on nothing is a number

    def seen(self):
        return super().seen() * (NAN if self.t >= self.bad else 1.0)

    def step(self, action):
        if np.isnan(self.seen()).any():
            raise AssertionError("I am lost")
        return (*super().step(float(action[0]))[:4], {})


@pytest.mark.parametrize("processes", KINDS)
@pytest.mark.parametrize("bad", [0, 2])
def test_not_a_number_is_told_and_not_what_came_of_it(bad, processes, two_processes):
    env = type("Mine", (Careful,), {"bad": bad})
    sentence = rf"observation of family .* is nan, expected finite numbers \(step {bad} in task 3 of split 'test'\)"
    with pytest.raises(InvalidValueError, match=sentence):
        collected(env, processes)


# --- the same in one process and in several --------------------------------------------------------------------------


class Odd(Moves):
    """Every second episode ends at a step of its own, types change, and arrays are used again."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.end, self.held = int(self.np_random.integers(1, 9)), np.zeros(2, np.float32)
        return self.held, {"success": False}

    def step(self, action):
        obs, reward, *_ = super().step(action)
        self.held[:] = obs
        reward = [np.float32(reward), np.array(reward), int(reward), reward][self.t % 4]
        return self.held, reward, np.bool_(self.t == self.end), self.t % 2, {"success": np.float64(self.x > 0)}


def test_processes_change_nothing_under_misbehaviour(two_processes):
    one, many = (collected(Odd, processes, steps=20) for processes in KINDS)
    for name in ("obs", "action", "reward", "terminated", "truncated", "success", "last_obs"):
        assert torch.equal(getattr(one, name), getattr(many, name)), name
