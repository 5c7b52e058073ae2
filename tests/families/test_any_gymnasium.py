"""Anyone's environment as a family: observations, ways to apply a task, processes, adoption, the command line."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import metarl
from metarl import Choice, GymFamily, Integers, InvalidValueError, LogUniform, Normal, Uniform
from metarl.cli.main import main
from metarl.engine.gym_environments import GymEnvironments
from metarl.engine.pool import make_environments
from metarl.engine.workers import WorkerEnvironments, worker_count
from metarl.families.attributes import set_attributes
from metarl.families.building import numeric, time_limit
from metarl.families.legacy import OldGymEnv, parse_distribution, parse_parameters
from metarl.rng import fold_in, make_key

SPEED = {"speed": Uniform(0.5, 1.5)}


class Sees(gym.Env[Any, Any]):
    """Observations are samples of any space; the reward is the speed."""

    action_space = spaces.Discrete(2)

    def __init__(self, space=None, seconds=0.0, speed=1.0, nan=False):
        self.observation_space = copy.deepcopy(space) or spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.seconds, self.speed, self.nan = seconds, speed, nan

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        time.sleep(self.seconds)
        self.t += 1
        reward = float("nan") if self.nan else self.speed + float(self.np_random.random())
        return self.observation_space.sample(), reward, self.t == 6, False, {}


IMAGE = spaces.Box(0, 255, (4, 3, 3), np.uint8)
SPACES = {
    "image": IMAGE,
    "dict": spaces.Dict({"see": IMAGE, "which": spaces.Discrete(3), "at": spaces.Box(-2.0, 2.0, (2,), np.float32)}),
    "tuple": spaces.Tuple((spaces.Discrete(2), spaces.Box(0.0, 1.0, (1,), np.float32))),
    "multi_discrete": spaces.MultiDiscrete([3, 4]),
    "multi_binary": spaces.MultiBinary(5),
    "discrete": spaces.Discrete(4, start=2),
}


@pytest.mark.parametrize("kind", SPACES)
def test_every_kind_of_observation_trains(kind):
    family = GymFamily(partial(Sees, SPACES[kind]), SPEED, "attrs", horizon=6)
    assert metarl.check_family(family) == []
    agent = metarl.make_agent("rl2", family, hidden=8, meta_batch_size=8, trial_episodes=2)
    metarl.train(agent, 1)


def test_what_the_encodings_are():
    env = Sees(SPACES["image"])
    env.observation_space.seed(0)
    seen = numeric(env)
    assert seen.observation_space == spaces.Box(0.0, 1.0, (4, 3, 3), np.float32)
    env.observation_space.sample = lambda: np.full((4, 3, 3), 51, np.uint8)
    np.testing.assert_allclose(seen.reset()[0], 0.2, rtol=1e-6)
    flat = numeric(Sees(SPACES["dict"]))
    obs = flat.reset(seed=3)[0]
    assert obs.shape == (2 + 36 + 3,)  # keys in order: at, see, which
    assert (obs[2:38] <= 1).all()
    assert sorted(obs[38:].tolist()) == [0, 0, 1]
    plain = Sees()
    assert numeric(plain) is plain


def test_time_limits_are_found_in_wrappers():
    assert time_limit(gym.wrappers.TimeLimit(Sees(), 9)) == 9
    assert time_limit(gym.wrappers.RecordEpisodeStatistics(gym.wrappers.TimeLimit(Sees(), 9))) == 9
    assert time_limit(Sees()) is None
    assert GymFamily(lambda: gym.wrappers.TimeLimit(Sees(), 9), SPEED, "attrs").horizon == 9


class Layout(Sees):
    """A wall whose place is drawn in every reset."""

    def reset(self, *, seed=None, options=None):
        obs, info = super().reset(seed=seed)
        self.wall = int(self.np_random.integers(1000))
        return obs, info


def test_a_seed_as_task_keeps_the_layout():
    family = GymFamily(Layout, {"level": Integers(0, 1 << 20)}, "seed", horizon=6)
    walls = []
    for task in family.tasks("test", 3):
        env = family.make_env(task)
        walls.append([env.reset(seed=seed) and env.unwrapped.wall for seed in (1, 2, None)])
    assert all(len(set(each)) == 1 for each in walls)
    assert len({each[0] for each in walls}) == 3
    with pytest.raises(InvalidValueError, match=r"task_space is \['a', 'b'\], expected one parameter, the seed"):
        GymFamily(Layout, {"a": Integers(0, 9), "b": Integers(0, 9)}, "seed", horizon=6)


def test_cart_poles_derived_attributes_follow():
    env = gym.make("CartPole-v1").unwrapped
    set_attributes(env, {"masscart": 3.0, "length": 2.0})
    assert env.total_mass == pytest.approx(3.1)
    assert env.polemass_length == pytest.approx(0.2)
    # the heavier cart is pushed less: x'' = F / total_mass to first order, tau = .02
    env.reset(seed=0)
    env.state = np.zeros(4)
    pushed = float(env.step(1)[0][1])
    assert pushed < 0.02 * 10.0 / 3.0


class TestProcesses:
    def family(self, stepping, env=Sees, **kwargs):
        return GymFamily(partial(env, **kwargs), SPEED, "attrs", horizon=6, stepping=stepping)

    def played(self, family, n=5, steps=15):
        envs = make_environments(family, n)
        tape = [envs.begin(family.tasks("train", n), fold_in(make_key("x"), torch.arange(n)), steps)]
        for t in range(steps):
            out = envs.step((torch.arange(n) + t) % 2)
            tape += [out.obs, out.final_obs, out.reward[:, None], out.terminated[:, None].float()]
        envs.close()
        return type(envs), torch.cat(tape, 1)

    def test_they_play_what_one_process_plays(self):
        (one, alone), (many, shared) = self.played(self.family("sync")), self.played(self.family("async"))
        assert (one, many) == (GymEnvironments, WorkerEnvironments)
        assert torch.equal(alone, shared)

    def test_costly_steps_are_shared_and_cheap_ones_are_not(self, monkeypatch):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
        assert worker_count(self.family("auto", seconds=0.004), 8) == 4
        monkeypatch.setattr("metarl.engine.workers.step_seconds", lambda family: 1e-5)
        assert worker_count(self.family("auto"), 8) == 1
        assert worker_count(self.family("async"), 2) == 2
        assert worker_count(self.family("sync", seconds=0.004), 8) == 1
        assert worker_count(self.family("async"), 1) == 1

    def test_an_error_in_a_process_arrives(self):
        class Breaks(Sees):
            def step(self, action):
                raise RuntimeError("a wheel came off")

        family = self.family("async", Breaks)
        envs = make_environments(family, 2)
        envs.begin(family.tasks("train", 2), torch.arange(2), 3)
        with pytest.raises(RuntimeError, match="a wheel came off") as caught:
            envs.step(torch.zeros(2, dtype=torch.int64))
        assert caught.value.__notes__[0].startswith("Breaks.step raised it at step 0 of an episode in task 0 of split")
        assert "in step" in caught.value.__notes__[1]
        assert not envs.processes

    def test_a_process_that_dies_is_told_of(self):
        family = self.family("async")
        envs = make_environments(family, 2)
        envs.begin(family.tasks("train", 2), torch.arange(2), 3)
        os.kill(envs.processes[0].pid, signal.SIGKILL)
        envs.processes[0].join()
        with pytest.raises(InvalidValueError, match=r"environment processes of .* is ended, expected to be running"):
            envs.step(torch.zeros(2, dtype=torch.int64))

    def test_an_unknown_way_of_stepping(self):
        with pytest.raises(InvalidValueError, match=r"stepping is 'asinc'.*did you mean 'async'"):
            self.family("asinc")


class Rllab:
    """As in MAML's, ProMP's and garage's code: Gym's old signatures, tasks as the class says."""

    observation_space = spaces.Box(-10.0, 10.0, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    kind: Any = dict

    def __init__(self):
        self.goal, self.x = 0.0, 0.0

    def sample_tasks(self, count):
        goals = np.random.uniform(-1, 1, count)  # noqa: NPY002 - as they do
        return [self.task(g) for g in goals]

    def task(self, g):
        return {dict: {"goal": g, "sign": int(g > 0)}, np.ndarray: np.array([g, 0.0]), float: float(g)}[self.kind]

    def set_task(self, task):
        assert type(task) is self.kind
        if self.kind is dict:
            assert type(task["sign"]) is int
            assert task["sign"] == (task["goal"] > 0)
        self.goal = {dict: lambda: task["goal"], np.ndarray: lambda: task[0], float: lambda: task}[self.kind]()

    def seed(self, seed):
        pass

    def reset(self):
        self.x, self.t = 0.0, 0
        return np.array([self.x])

    def step(self, action):
        self.x += float(action[0])
        self.t += 1
        return np.array([self.x]), -abs(self.x - self.goal), self.t >= 8, {"TimeLimit.truncated": self.t >= 8}


class Modern(Rllab, gym.Env):
    def reset(self, *, seed=None, options=None):
        return super().reset().astype(np.float32), {}

    def step(self, action):
        obs, reward, over, _ = super().step(action)
        return obs.astype(np.float32), reward, False, over, {}


STYLES = {
    "dicts": type("Dicts", (Rllab,), {}),
    "arrays": type("Arrays", (Rllab,), {"kind": np.ndarray}),
    "numbers": type("Numbers", (Rllab,), {"kind": float}),
    "new signatures": type("New", (Modern,), {}),
}


class Indexed:
    """As in PEARL's code: tasks by number."""

    observation_space, action_space = Rllab.observation_space, Rllab.action_space

    def __init__(self):
        self.inner = Rllab()

    def get_all_task_idx(self):
        return range(30)

    def reset_task(self, index):
        assert type(index) is int
        self.inner.goal = index / 30

    def reset(self):
        return self.inner.reset()

    def step(self, action):
        return self.inner.step(action)


STYLES["indices"] = Indexed


@pytest.mark.parametrize("style", STYLES)
def test_classes_of_other_suites_are_adopted_unchanged(style):
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    family = metarl.adopt(STYLES[style], horizon=8, count=60)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002
    assert metarl.check_family(family) == []
    task = family.tasks("test", 1)
    env = family.make_env(task)
    env.reset(seed=0)
    goal = float(np.atleast_1d(task.values["task"][0])[0]) / (30 if style == "indices" else 1)
    assert env.step(np.zeros(1, np.float32))[1] == pytest.approx(-abs(goal), abs=1e-6)
    again = metarl.adopt(STYLES[style], horizon=8, count=60)
    assert again.tasks("train", 20).hash == family.tasks("train", 20).hash
    agent = metarl.make_agent("maml", family, meta_batch_size=2, episodes=2, hidden=(8,))
    metarl.train(agent, 1)


def test_what_cannot_be_adopted_is_told():
    with pytest.raises(InvalidValueError, match=r"methods of the environment is 'Sees', expected set_task\(task\)"):
        metarl.adopt(Sees)
    wordy = type("Wordy", (Rllab,), {"sample_tasks": lambda self, count: ["left", "right"]})
    with pytest.raises(InvalidValueError, match="a sampled task is 'left', expected a number, an array, or a dict"):
        metarl.adopt(wordy, horizon=8)
    ragged = type("Ragged", (Rllab,), {"sample_tasks": lambda self, count: [{"a": 1.0}, {"b": 1.0}]})
    with pytest.raises(InvalidValueError, match=r"a sampled task is {'b': 1.0}, expected a dict with the keys \['a'\]"):
        metarl.adopt(ragged, horizon=8)
    none = type("None_", (Rllab,), {"sample_tasks": lambda self, count: []})
    with pytest.raises(InvalidValueError, match=r"sample_tasks\(1000\)"):
        metarl.adopt(none, horizon=8)


def test_old_signatures_end_as_they_said():
    env = OldGymEnv(Rllab())
    env.reset(seed=1)
    ends = [env.step(np.zeros(1))[2:4] for _ in range(8)]
    assert ends == [(False, False)] * 7 + [(False, True)]
    env.old.step = lambda action: (np.zeros(1), 1.0, True, {})
    assert env.step(np.zeros(1))[2:4] == (True, False)
    with pytest.raises(AttributeError):
        env.missing  # noqa: B018


class TestCommandLine:
    @pytest.mark.parametrize(
        ("text", "dist"),
        [
            ("0.5:2", Uniform(0.5, 2.0)),
            ("-1:1", Uniform(-1.0, 1.0)),
            ("log:0.1:10", LogUniform(0.1, 10.0)),
            ("int:0:9", Integers(0, 9)),
            ("normal:1:0.2", Normal(1.0, 0.2)),
            ("1,2,5", Choice([1.0, 2.0, 5.0])),
        ],
    )
    def test_distributions_from_text(self, text, dist):
        assert parse_distribution("x", text) == dist

    @pytest.mark.parametrize("text", ["2:1", "a:b", "log:0:1", "int:0.5:2", "1:2:3", "x", "normal:1:-1"])
    def test_wrong_texts(self, text):
        with pytest.raises(InvalidValueError, match=r"--param mass is .*expected LOW:HIGH, log:LOW:HIGH"):
            parse_parameters([f"mass={text}"])

    @pytest.mark.parametrize("texts", [["mass"], ["=1:2"], ["a=1:2", "a=1:3"]])
    def test_wrong_parameters(self, texts):
        with pytest.raises(InvalidValueError, match=r"--param is .*expected NAME="):
            parse_parameters(texts)

    def test_train_resume_and_evaluate(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        tiny = ["--meta-batch-size", "2", "--episodes", "2", "--hidden", "8", "--iterations", "1"]
        params = ["--param", "length=0.25:1.5", "--param", "masscart=0.5:2", "--horizon", "30"]
        main(["train", "maml", "--env", "CartPole-v1", *params, *tiny])
        run = "runs/maml-CartPole-v1-seed0"
        agent, _ = metarl.Run.open(run).load_agent()
        assert agent.family.task_space == {"length": Uniform(0.25, 1.5), "masscart": Uniform(0.5, 2.0)}
        assert agent.family.horizon == 30
        main(["eval", run, "--num-tasks", "2", "--episodes", "2", "--k", "1"])
        main(["train", "--resume", run])
        assert "CartPole-v1" in capsys.readouterr().out
        assert Path(run, "results", "test.json").exists()

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            ([], "--family is missing, expected either --family ID, or --env ID with --param"),
            (["--env", "CartPole-v1"], "--param is missing, expected NAME=LOW:HIGH"),
            (
                ["--env", "CartPol-v1", "--param", "length=1:2"],
                "--env is 'CartPol-v1', expected a registered Gymnasium id",
            ),
            (["--env", "CartPole-v1", "--param", "lenght=1:2"], "did you mean 'length'?"),
            (["--family", "metarl/GridNavi-v0", "--param", "a=1:2"], "a family has its own task space"),
            (["--family", "metarl/GridNavi-v0", "--env", "CartPole-v1"], "--family is given together with --env"),
        ],
    )
    def test_wrong_commands(self, arguments, sentence, capsys):
        with pytest.raises(SystemExit, match="2"):
            main(["train", "maml", *arguments])
        assert sentence in capsys.readouterr().err


def test_a_reward_that_is_not_a_number_is_found():
    (found,) = metarl.check_family(GymFamily(partial(Sees, nan=True), SPEED, "attrs", horizon=6))
    assert "the reward is nan at step 0 of train task 0, expected finite numbers; to fix it" in found


def curves(family):
    """What a user writes to get both curves."""
    maml = metarl.make_agent("maml", family, meta_batch_size=2, episodes=2)
    rl2 = metarl.make_agent("rl2", family, meta_batch_size=8, trial_episodes=2)
    for agent in (maml, rl2):
        metarl.train(agent, 1)
    return [metarl.evaluate(agent, k=1, num_tasks=2, episodes=2) for agent in (maml, rl2)]


def pendulum():
    return GymFamily("Pendulum-v1", {"g": Uniform(5.0, 15.0), "l": Uniform(0.5, 1.5)}, apply="attrs", horizon=20)


def grid():
    pytest.importorskip("minigrid")
    return GymFamily("MiniGrid-Empty-5x5-v0", {"level": Integers(0, 1 << 20)}, apply="seed", horizon=10)


def obstacles():
    from stable_baselines3.common.envs import SimpleMultiObsEnv

    return GymFamily(SimpleMultiObsEnv, {"random_start": Choice([0.0, 1.0])}, apply="kwargs", horizon=10)


@pytest.mark.parametrize("third_party", [pendulum, grid, obstacles])
def test_third_party_environments_give_both_curves(third_party, tmp_path):
    results = curves(third_party())
    assert all(np.isfinite(r.scores["sampled"]).all() for r in results)
    assert metarl.write_report(results, tmp_path).stat().st_size > 10_000


class Keeps(Sees):
    """Takes its task as it comes, and changes it."""

    def set_task(self, task):
        self.task = task["goal"]

    def step(self, action):
        self.task += 1
        return super().step(action)


def test_an_environment_cannot_change_the_task():
    family = GymFamily(Keeps, {"goal": Uniform(0.0, 1.0, (2,))}, "set_task", horizon=6)
    env = family.make_env(family.tasks("train", 1))
    for _ in range(2):
        env.reset(seed=0)
        assert (env.unwrapped.task < 1).all()
        env.step(0)


def test_indices_mean_the_environments_own_split():
    family = GymFamily(Sees, SPEED, "attrs", horizon=6)
    env = metarl.interop.facades.make_env(family, split="test", task_seed=3)
    env.reset(seed=0, options={"task": 2})
    assert env.unwrapped.speed == pytest.approx(float(family.tasks("test", 3, 3).values["speed"][2]))


def test_seeds_reproduce_the_tasks_of_redrawn_episodes():
    env = metarl.interop.facades.make_env(GymFamily(Sees, SPEED, "attrs", horizon=6), redraw="episode")
    speeds = [env.reset(seed=s) and env.unwrapped.speed for s in (0, None, 0)]
    assert speeds[0] == speeds[2] != speeds[1]


def test_whole_parameters_arrive_as_ints():
    seen = []
    family = GymFamily(Sees, {"speed": Integers(1, 40)}, lambda env, task: seen.append(task["speed"]), horizon=6)
    family.make_env(family.tasks("train", 1)).reset(seed=0)
    assert type(seen[-1]) is int


@pytest.mark.parametrize("space", [Uniform(0.0, 50.0), Choice([0.5, 1.0]), Integers(0, 9, (2,))])
def test_only_whole_numbers_are_seeds(space):
    with pytest.raises(InvalidValueError, match=r"task_space is .*, expected Integers\(low, high\): a seed is a whole"):
        GymFamily(Layout, {"level": space}, "seed", horizon=6)


@pytest.mark.parametrize("horizon", [0, -5, 2.5])
def test_wrong_horizons(horizon):
    with pytest.raises(InvalidValueError, match=r"horizon is .*, expected a whole number of steps, at least 1"):
        GymFamily("CartPole-v1", {"length": Uniform(0.5, 1.0)}, "attrs", horizon=horizon)


def test_forwarding_resets_are_not_taken_for_old_ones():
    class Forwards(Sees):
        def reset(self, **kwargs):
            return super().reset(**kwargs)

        def sample_tasks(self, count):
            return [1, 0.5, 0.25]  # the first one looks whole

        def set_task(self, task):
            self.speed = task

    family = metarl.adopt(Forwards, horizon=6)
    env = family.make_env(family.make_tasks(task=0.25))
    first = env.reset(seed=0)[0]
    assert env.unwrapped.speed == 0.25
    assert isinstance(env.unwrapped, Forwards)
    assert np.array_equal(env.reset(seed=0)[0], first)


ORPHANS = """
import os, sys, torch
sys.path.insert(0, {tests!r})
from test_any_gymnasium import Sees, SPEED
from metarl import GymFamily
from metarl.engine.pool import make_environments
family = GymFamily(Sees, SPEED, "attrs", horizon=6, stepping="async")
environments = make_environments(family, 2)
environments.begin(family.tasks("train", 2), torch.arange(2), 3)
print(*[p.pid for p in environments.processes], flush=True)
os.kill(os.getpid(), 9)
"""


def test_processes_end_with_their_parent(tmp_path):
    code = ORPHANS.format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=False)
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2, done.stderr
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_processes_need_no_pickling_and_ignore_interrupts():
    lock = threading.Lock()
    family = GymFamily(lambda: lock and Sees(), SPEED, "attrs", horizon=6, stepping="async")
    envs = make_environments(family, 2)
    envs.begin(family.tasks("train", 2), torch.arange(2), 3)
    for process in envs.processes:
        os.kill(process.pid, signal.SIGINT)
    assert envs.step(torch.zeros(2, dtype=torch.int64)).reward.shape == (2,)
    envs.close()


def wrong_reset():
    class Old(Sees):
        def reset(self, *, seed=None, options=None):
            return super().reset(seed=seed)[0]

    family = GymFamily(Old, SPEED, "attrs", horizon=6)
    family.make_env(family.tasks("train", 1)).reset(seed=0)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: GymFamily(Sees, SPEED, "set_task", horizon=6), "another mode: Sees has no method set_task"),
        (
            lambda: GymFamily(Sees, {"wind": Uniform(0.0, 1.0)}, "kwargs", horizon=6),
            "keyword of Sees is 'wind', expected one of",
        ),
        (
            lambda: GymFamily("Thermostat-v7", SPEED, "attrs"),
            "env is 'Thermostat-v7', expected a registered Gymnasium id",
        ),
        (
            lambda: GymFamily(Sees, {"speed": (0, 1)}, "attrs", horizon=6),
            r"task_space\['speed'\] is \(0, 1\), expected a",
        ),
        (wrong_reset, "what Old.reset returns is .*metarl.adopt takes environments with Gym's old signatures"),
        (lambda: metarl.adopt(Sees()), "env is .*, expected the class, or a function that builds an environment"),
    ],
)
def test_a_wrong_environment_gets_one_sentence(build, sentence):
    with pytest.raises(InvalidValueError, match=sentence):
        build()


def test_a_training_that_failed_at_once_leaves_no_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("broken.py").write_text(
        "import metarl\n"
        "from test_any_gymnasium import Sees\n"
        "class Breaks(Sees):\n"
        "    def step(self, action):\n"
        "        raise metarl.InvalidValueError('wheel', 'off', 'on')\n"
        "metarl.register_family('mine/Breaks-v0', env=Breaks, apply='attrs', horizon=6,\n"
        "    task_space={'speed': metarl.Uniform(0.5, 1.5)})\n"
    )
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    held = dict(metarl.families.registry.families)
    try:
        for _ in range(2):
            with pytest.raises(SystemExit, match="2"):
                main(["train", "rl2", "--family", "mine/Breaks-v0", "--load", "broken.py", "--meta-batch-size", "8"])
            assert "wheel is 'off', expected on" in capsys.readouterr().err
            assert not Path("runs/rl2-Breaks-v0-seed0").exists()
    finally:
        metarl.families.registry.families.clear()
        metarl.families.registry.families.update(held)
        gym.registry.pop("mine/Breaks-v0", None)
