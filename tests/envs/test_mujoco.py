"""The MuJoCo families against Gymnasium's own environments, step by step, and their determinism."""

import importlib
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import metarl
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.engine.torch_environments import TorchEnvironments
from metarl.errors import InvalidValueError, MissingExtraError
from metarl.families.family import TorchFamily
from metarl.families.tasks import Tasks
from metarl.rng import Rng, fold_in, make_key

mujoco = pytest.importorskip("mujoco")
pytest.importorskip("mujoco.rollout")

from metarl.envs.mujoco import mujoco_core, rand_params  # noqa: E402
from metarl.envs.mujoco.ant import AntDir  # noqa: E402
from metarl.envs.mujoco.locomotion import HalfCheetahVel  # noqa: E402

SLOTS, STEPS = 4, 40  # environments side by side, steps of each: 160 in all
Info = dict[str, Any]
Values = dict[str, Any]


def torso(env: Any) -> Any:
    return env.data.body("torso").xpos[:2]


def place(task: Values) -> Any:
    radius = math.sqrt(task["radius_squared"])
    return np.array([radius * math.cos(task["angle"]), radius * math.sin(task["angle"])])


def along(task: Values, info: Info) -> float:
    return math.cos(task["angle"]) * info["x_velocity"] + math.sin(task["angle"]) * info["y_velocity"]


@dataclass(frozen=True)
class Case:
    """A family, Gymnasium's environment, and the reward in terms of that environment's info."""

    id: str
    env: str
    reward: Callable[[Values, Info, Any], float]
    observed: Callable[[Any, Any], Any] = lambda obs, env: obs
    options: tuple[tuple[str, Any], ...] = ()


def reacher_observation(obs: Any, env: Any) -> Any:
    return np.concatenate([obs[:4], obs[6:8], env.data.body("fingertip").xpos[:2]])


NO_FORCES = (("include_cfrc_ext_in_observation", False),)
# Gymnasium's costs of a squared action: HalfCheetah .1 (ours .05), Ant .5 (ours .5, MAML .005, AntGoal .1).
CASES = [
    Case(
        "metarl/HalfCheetahVel-v0",
        "HalfCheetah-v5",
        lambda t, i, e: -abs(i["x_velocity"] - t["velocity"]) + i["reward_ctrl"] / 2,
    ),
    Case(
        "metarl/HalfCheetahDir-v0",
        "HalfCheetah-v5",
        lambda t, i, e: t["direction"] * i["x_velocity"] + i["reward_ctrl"] / 2,
    ),
    Case("metarl/SwimmerDir-v0", "Swimmer-v5", lambda t, i, e: t["direction"] * i["x_velocity"] + i["reward_ctrl"]),
    Case("metarl/Walker2DRandParams-v0", "Walker2d-v5", lambda t, i, e: i["x_velocity"] + 1 + i["reward_ctrl"]),
    Case("metarl/HopperRandParams-v0", "Hopper-v5", lambda t, i, e: i["x_velocity"] + 1 + i["reward_ctrl"]),
    Case(
        "metarl/ReacherGoal-v0",
        "Reacher-v5",
        lambda t, i, e: i["reward_dist"] + i["reward_ctrl"],
        reacher_observation,
    ),
    Case(
        "metarl/AntDir-v0",
        "Ant-v5",
        lambda t, i, e: along(t, i) + 1 + i["reward_ctrl"] + i["reward_contact"],
        options=NO_FORCES,
    ),
    Case(
        "metarl/AntDir-v0:maml",
        "Ant-v5",
        lambda t, i, e: t["direction"] * i["x_velocity"] + 0.05 + i["reward_ctrl"] / 100 + i["reward_contact"],
        options=NO_FORCES,
    ),
    Case(
        "metarl/AntVel-v0",
        "Ant-v5",
        lambda t, i, e: 1.05 - abs(i["x_velocity"] - t["velocity"]) + i["reward_ctrl"] / 100 + i["reward_contact"],
        options=NO_FORCES,
    ),
    Case(
        "metarl/AntGoal-v0",
        "Ant-v5",
        lambda t, i, e: -np.abs(torso(e) - place(t)).sum() + i["reward_ctrl"] / 5 + i["reward_contact"],
        options=(
            *NO_FORCES,
            ("exclude_current_positions_from_observation", False),
            ("terminate_when_unhealthy", False),
        ),
    ),
    Case(
        "metarl/HumanoidDir-v0",
        "Humanoid-v5",
        lambda t, i, e: 1.25 * along(t, i) + 5 + i["reward_ctrl"] + i["reward_contact"],
    ),
]
BY_ID = {case.id: case for case in CASES}


def make_env(case: Case, task: Values) -> Any:
    """Gymnasium's environment in one task: what is not in the reward is set in the model, one element at a time."""
    env: Any = gym.make(case.env, **dict(case.options)).unwrapped
    if "mass" in task:
        model = env.model
        for body in range(1, model.nbody):
            model.body_mass[body] *= 1.5 ** float(task["mass"][body - 1])
            for axis in range(3):
                model.body_inertia[body, axis] *= 1.5 ** float(task["inertia"][body - 1, axis])
        for geom in range(model.ngeom):
            for kind in range(3):
                model.geom_friction[geom, kind] *= 1.5 ** float(task["friction"][geom, kind])
        for joint in range(3, model.nv):
            model.dof_damping[joint] *= 1.3 ** float(task["damping"][joint - 3])
        mujoco.mj_setConst(model, mujoco.MjData(model))
    return env


def restart(env: Any, task: Values, seed: int) -> None:
    env.reset(seed=seed)
    if env.spec.id == "Reacher-v5":
        env.set_state(np.concatenate([env.data.qpos[:2], place(task)]), env.data.qvel)


def state_of(family: Any, envs: list[Any]) -> dict[str, torch.Tensor]:
    """The family's state where Gymnasium's environments are."""
    spec = mujoco_core.RESUMED if family.robot.fields else mujoco_core.PHYSICS
    rows = np.zeros((len(envs), mujoco.mj_stateSize(envs[0].model, spec)))
    for row, env in zip(rows, envs, strict=True):
        mujoco.mj_getState(env.model, env.data, row, spec)
    fields = {name: np.stack([getattr(env.data, name) for env in envs]) for name in family.robot.fields}
    return {"physics": torch.from_numpy(rows), **{k: torch.from_numpy(v.copy()) for k, v in fields.items()}}


def differences(case: Case, family: Any = None) -> dict[str, float]:
    """The largest differences from Gymnasium in steps from equal states, and how many episodes ended."""
    family = family or metarl.make_family(case.id)
    tasks = family.tasks("train", SLOTS, seed=3)
    task, rng = tasks.tensors(), Rng(torch.arange(SLOTS))
    values = [{k: v[row] for k, v in tasks.values.items()} for row in range(SLOTS)]
    envs = [make_env(case, value) for value in values]
    for row, env in enumerate(envs):
        restart(env, values[row], row)
    worst, draws = (
        dict.fromkeys(("physics", "observation", "reward", "ends", "wrong ends"), 0.0),
        np.random.default_rng(0),
    )
    for t in range(STEPS):
        before = state_of(family, envs)
        actions = draws.uniform(family.action_space.low, family.action_space.high, (SLOTS, *family.action_space.shape))
        actions = (actions if t % 2 else np.sign(actions) * family.action_space.high).astype(np.float32)
        after, reward, terminated = family.step(before, torch.from_numpy(actions), task, rng)
        observation = family.observe(after, task)
        assert reward.dtype == observation.dtype == torch.float32
        for row, env in enumerate(envs):
            obs, _, ended, _, info = env.step(actions[row])
            found = {
                "physics": after["physics"][row] - state_of(family, [env])["physics"][0],
                "observation": observation[row] - torch.from_numpy(case.observed(obs, env)).float(),
                "reward": reward[row] - case.reward(values[row], info, env),
            }
            for name, difference in found.items():
                worst[name] = max(worst[name], float(difference.abs().max()))
            worst["ends"] += ended
            worst["wrong ends"] += ended != bool(terminated[row])
            if ended:
                restart(env, values[row], 100 + t)
    return worst


@pytest.mark.parametrize("id", BY_ID)
def test_steps_equal_gymnasium(id: str) -> None:
    found = differences(BY_ID[id])
    assert found["physics"] < 1e-9, found  # float64: solved from zero warm starts, or the same computation
    assert found["observation"] < 1e-5, found
    assert found["reward"] < 1e-5, found
    assert found["wrong ends"] == 0, found
    if "Rand" in id or "Humanoid" in id:
        assert found["ends"] > 0  # falls were seen


@pytest.mark.parametrize("id", ["metarl/AntDir-v0", "metarl/HumanoidDir-v0", "metarl/ReacherGoal-v0"])
def test_trajectories_equal_gymnasium_bit_for_bit(id: str) -> None:
    """From one start on: warm starts and what steps leave behind travel with the state."""
    case, family = BY_ID[id], metarl.make_family(id)
    task = family.tasks("train", 1)
    value = {k: v[0] for k, v in task.values.items()}
    env = make_env(case, value)
    restart(env, value, 0)
    state, draws = state_of(family, [env]), np.random.default_rng(1)
    for _ in range(60):
        action = draws.uniform(env.action_space.low, env.action_space.high).astype(np.float32)
        state, reward, _ = family.step(state, torch.from_numpy(action[None]), task.tensors(), Rng(torch.arange(1)))
        obs, _, _, _, info = env.step(action)
        assert torch.equal(state["physics"], state_of(family, [env])["physics"])
        assert family.observe(state, task.tensors())[0].tolist() == case.observed(obs, env).astype(np.float32).tolist()
        assert float(reward[0]) == pytest.approx(case.reward(value, info, env), abs=1e-5)


class Changed:
    """MuJoCo for the families alone, with another function after a step."""

    def __init__(self, after_step: Callable[..., None]) -> None:
        self.mj_rnePostConstraint = after_step

    def __getattr__(self, name: str) -> Any:
        return getattr(mujoco, name)


def test_planted_errors_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison notices what ports of these families got wrong."""
    vel, walker = BY_ID["metarl/HalfCheetahVel-v0"], BY_ID["metarl/Walker2DRandParams-v0"]
    direction, ant = BY_ID["metarl/HalfCheetahDir-v0"], BY_ID["metarl/AntDir-v0"]
    flipped = replace(direction, reward=lambda t, i, e: -t["direction"] * i["x_velocity"] + i["reward_ctrl"] / 2)
    assert differences(flipped)["reward"] > 0.1
    cosine = replace(BY_ID["metarl/AntDir-v0:maml"], reward=lambda t, i, e: along({"angle": t["direction"]}, i))
    assert differences(cosine)["reward"] > 0.1

    family = HalfCheetahVel()
    monkeypatch.setattr(family.engine, "dt", 0.01)  # the simulator's time step
    assert differences(vel, family)["reward"] > 0.1
    monkeypatch.undo()
    for field in rand_params.BASE:
        monkeypatch.setitem(rand_params.BASE, field, 1.0)  # one parameter left out
        rand_params._scaled_model.cache_clear()
        assert differences(walker)["physics"] > 1e-4, field
        monkeypatch.undo()
    rand_params._scaled_model.cache_clear()
    monkeypatch.setattr(mujoco_core, "mujoco", Changed(lambda *_: None))  # contact forces left out
    assert differences(ant)["reward"] > 1e-4
    assert differences(BY_ID["metarl/HumanoidDir-v0"])["observation"] > 0.1

    def refresh(model: Any, data: Any) -> None:
        mujoco.mj_rnePostConstraint(model, data)
        mujoco.mj_kinematics(model, data)

    monkeypatch.setattr(mujoco_core, "mujoco", Changed(refresh))  # positions of the state, not those a step leaves
    assert differences(ant)["reward"] > 1e-4


def test_models_are_of_the_task_alone() -> None:
    """Scaling one model leaves the others and the base alone: MuJoCo's arrays are live views."""
    family: Any = metarl.make_family("metarl/HopperRandParams-v0")
    base = np.array(family.engine.model.body_mass)
    first, second = family.tasks("train", 2), family.tasks("train", 2, start=2)
    before = [np.array(model.body_mass) for model in family.models(first.tensors())]
    family.models(second.tensors())
    rand_params._scaled_model.cache_clear()
    again = [np.array(model.body_mass) for model in family.models(first.tensors())]
    np.testing.assert_array_equal(before, again)
    np.testing.assert_array_equal(base, family.engine.model.body_mass)
    np.testing.assert_allclose(before[0][1:], base[1:] * 1.5 ** first.values["mass"][0], rtol=1e-6)
    assert rand_params._scaled_model.cache_info().maxsize == rand_params.CACHED_MODELS


def play(family: TorchFamily, tasks: Tasks, keys: torch.Tensor, steps: int = 25) -> list[torch.Tensor]:
    envs = TorchEnvironments(family, len(tasks), torch.device("cpu"))
    seen = [envs.begin(tasks, keys, steps)]
    for t in range(steps):
        draws = Rng(fold_in(keys, 9)).seek(t).uniform(*(family.action_space.shape or ()))
        out = envs.step((2.0 * draws - 1.0) * float(family.action_space.high[0]))  # type: ignore[attr-defined]
        seen += [out.obs, out.reward, out.final_obs]
    return seen


@pytest.mark.parametrize("id", ["HalfCheetahVel", "HopperRandParams", "AntDir", "HumanoidDir", "ReacherGoal"])
def test_batch_threads_and_runs_change_no_bit(id: str) -> None:
    family: Any = metarl.make_family(f"metarl/{id}-v0", horizon=20)
    tasks, keys = family.tasks("train", 5), fold_in(make_key("test"), torch.arange(5))
    family.threads = 1
    batch = play(family, tasks, keys)
    for threads in (1, 2, 3):
        family.threads = threads
        assert all(torch.equal(a, b) for a, b in zip(batch, play(family, tasks, keys), strict=True)), threads
    for row in range(5):
        alone = play(family, tasks[row], keys[row : row + 1])
        assert all(torch.equal(a[row : row + 1], b) for a, b in zip(batch, alone, strict=True)), row


@pytest.mark.parametrize("id", [case.id for case in CASES if ":" not in case.id])
def test_starts_are_gymnasiums(id: str) -> None:
    """Noise of the right kind and size on positions and velocities, and the observation of such a start."""
    family, n = metarl.make_family(id), 2000
    tasks = family.tasks("train", n)
    case = BY_ID[id]
    env: Any = gym.make(case.env, **dict(case.options)).unwrapped
    state = family.reset(tasks.tensors(), Rng(fold_in(make_key("start"), torch.arange(n))))
    nq, nv = (2, 2) if env.spec.id == "Reacher-v5" else (env.model.nq, env.model.nv)
    drawn = [(family.positions(state) - torch.from_numpy(env.init_qpos))[:, :nq], family.velocities(state)[:, :nv]]
    theirs: list[list[Any]] = [[], []]
    for seed in range(200):
        env.reset(seed=seed)
        theirs[0].append(env.data.qpos[:nq] - env.init_qpos[:nq])
        theirs[1].append(env.data.qvel[:nv].copy())
    for ours, arrays in zip(drawn, theirs, strict=True):
        other, mine = np.concatenate(arrays).ravel(), ours.numpy().ravel()
        assert mine.std() == pytest.approx(other.std(), rel=0.1)
        assert np.abs(mine).max() == pytest.approx(np.abs(other).max(), rel=0.5)  # bounded, or normal
        assert np.abs(mine).max() / mine.std() == pytest.approx(np.abs(other).max() / other.std(), rel=0.5)
    env.reset(seed=0)
    env.set_state(family.positions(state)[0].numpy(), family.velocities(state)[0].numpy())
    expected = case.observed(env._get_obs(), env)
    np.testing.assert_allclose(family.observe(state, tasks.tensors())[0], expected, atol=1e-6)


def test_actions_are_clipped() -> None:
    family = HalfCheetahVel()
    task, rng = family.tasks("train", 2).tensors(), Rng(torch.arange(2))
    state = family.reset(task, rng)
    a, b = (family.step(state, torch.full((2, 6), size), task, rng) for size in (1.0, 7.0))
    assert torch.equal(a[0]["physics"], b[0]["physics"])
    assert torch.equal(a[1], b[1])


def test_presets_and_ranges() -> None:
    ranges = {"": 3.0, ":maml": 2.0, ":promp": 3.0, ":pearl": 3.0, ":varibad": 3.0}
    for preset, high in ranges.items():
        family = metarl.make_family(f"metarl/HalfCheetahVel-v0{preset}")
        assert (family.task_space["velocity"].high, family.horizon) == (high, 100 if preset == ":promp" else 200)  # type: ignore[union-attr]
        assert (family.tasks("fast", 50).values["velocity"] > high).all()
    assert metarl.make_family("metarl/AntDir-v0:varibad").finite
    assert not metarl.make_family("metarl/AntDir-v0").finite
    goal: Any = metarl.make_family("metarl/AntGoal-v0")
    radius = goal.goal(goal.tasks("train", 4000).tensors()).norm(dim=-1).numpy()
    assert radius.max() <= 3.0
    assert (radius < 1.5).mean() == pytest.approx(0.25, abs=0.03)  # uniform on the disc: a quarter of its area
    assert (goal.goal(goal.tasks("far", 100).tensors()).norm(dim=-1) > 3.0).all()
    for wrong in ({"directions": "three"}, {"body": "ant"}, {"max_velocity": 0.0}):
        builder: Any = {"directions": AntDir, "body": rand_params.RandParams, "max_velocity": HalfCheetahVel}
        with pytest.raises(InvalidValueError):
            builder[next(iter(wrong))](**wrong)


def test_mujoco_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("metarl.envs.mujoco.mujoco_core", "metarl.envs.mujoco.locomotion"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(MissingExtraError, match=r"the package mujoco, which is not installed: pip install "):
        importlib.import_module("metarl.envs.mujoco.locomotion")


def test_frame_without_opengl(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("no display")

    monkeypatch.setattr(mujoco, "Renderer", refuse)
    family = HalfCheetahVel()
    state = family.reset(family.tasks("train", 1).tensors(), Rng(torch.arange(1)))
    with pytest.raises(InvalidValueError, match=r"MUJOCO_GL .*egl or osmesa.*no display.*MUJOCO_GL=egl"):
        family.frame({k: v[0].numpy() for k, v in state.items()}, {"velocity": np.float32(1)}, (33, 34))


FRAMES = """
import os, sys, numpy as np, torch, metarl
from metarl.rng import Rng
for id in ("metarl/AntGoal-v0", "metarl/HalfCheetahDir-v0"):
    family = metarl.make_family(id)
    tasks = family.tasks("train", 4)
    state = family.reset(tasks.tensors(), Rng(torch.arange(4)))
    environment = {k: v[0].numpy() for k, v in state.items()}
    frames = []
    for row in range(4):
        try:
            frames.append(family.frame(environment, {k: v[row] for k, v in tasks.values.items()}, (60, 80)))
        except metarl.InvalidValueError as error:
            sys.exit(f"no OpenGL: {error}")
    assert frames[0].shape == (60, 80, 3) and frames[0].dtype == np.uint8 and frames[0].std() > 5
    assert any((frame != frames[0]).any() for frame in frames), "tasks look alike"
    other = {k: v[1].numpy() for k, v in state.items()}
    assert (family.frame(other, {k: v[0] for k, v in tasks.values.items()}, (60, 80)) != frames[0]).any()
"""


def test_frames() -> None:
    """In a process of its own: MuJoCo reads MUJOCO_GL when it is imported."""
    code = [sys.executable, "-c", FRAMES]
    found = subprocess.run(code, env={**os.environ, "MUJOCO_GL": "egl"}, capture_output=True, text=True, timeout=200)
    if "no OpenGL" in found.stderr:
        pytest.skip(found.stderr.strip()[-200:])
    assert found.returncode == 0, found.stderr
    assert "Exception ignored" not in found.stderr  # the context is freed while OpenGL is there


def test_pytorch_keeps_to_one_thread_while_mujoco_steps() -> None:
    # its idle threads spin: experiments/benchmark_families.py
    family, seen = metarl.make_family("metarl/HalfCheetahVel-v0", horizon=3), []
    agent = metarl.make_agent("random", family)
    act = agent.act
    agent.act = lambda *a: seen.append(torch.get_num_threads()) or act(*a)  # type: ignore[method-assign]
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        trials = PoolTrials(EnvironmentPool(family), family.tasks("train", 1))
        trials.collect(agent, agent.begin(1), 0, agent.budget)
        assert set(seen) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def log_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MuJoCo writes MUJOCO_LOG.TXT where a process works."""
    monkeypatch.chdir(tmp_path)


APART = ["metarl/HalfCheetahVel-v0", "metarl/HopperRandParams-v0", "metarl/AntDir-v0", "metarl/ReacherGoal-v0"]


@pytest.mark.usefixtures("log_elsewhere")
@pytest.mark.parametrize("speed", [1e11, 1e9])  # huge velocities, and accelerations that become huge
@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("id", APART)
def test_robots_that_fall_apart_end_their_episodes(id: str, steps: int, speed: float) -> None:
    """Also in the first step of an episode, and after another robot; the others' bits do not change."""
    family = metarl.make_family(id)
    tasks = family.tasks("train", SLOTS).tensors()
    rng = Rng(torch.arange(SLOTS), 10)
    state, still = family.reset(tasks, rng), torch.zeros(SLOTS, *family.action_space.shape)
    for _ in range(steps):
        state, *_ = family.step(state, still, tasks, rng)
    whole, reward, ended = family.step(state, still, tasks, rng)
    broken = {name: value.clone() for name, value in state.items()}
    broken["physics"][1, family.engine.model.nq + family.engine.model.nv] = speed  # of the last joint
    for _ in range(2):  # MuJoCo's warnings are read anew
        with pytest.warns(
            RuntimeWarning, match=f"a robot of family {family.id} fell apart in step {steps} of an episode"
        ) as seen:
            after, paid, stopped = family.step(broken, still, tasks, rng)
        assert len(seen) == 1
        name, value = next((name, value) for name, value in tasks.items())
        assert f"{name} = " in str(seen[0].message)
        if value.dim() == 1:
            assert f"{name} = {value[1]:.6g}" in str(seen[0].message)
        assert stopped.tolist() == [x or i == 1 for i, x in enumerate(ended.tolist())]
        assert paid.isfinite().all()
        if id == "metarl/HalfCheetahVel-v0":  # as if it had stood there for the rest of the episode
            assert float(paid[1]) == pytest.approx(-float(tasks["velocity"][1]) * (family.horizon - steps), rel=1e-5)
        others = torch.tensor([0, 2, 3])
        assert torch.equal(paid[others], reward[others])
        for name in state:
            assert torch.equal(after[name][1], broken[name][1])
            assert torch.equal(after[name][others], whole[name][others])
    again, *_ = family.step(state, still, tasks, rng)
    assert all(torch.equal(again[name], whole[name]) for name in state)


@pytest.mark.usefixtures("log_elsewhere")
def test_actions_that_are_not_numbers_give_no_reward_and_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    """Rollouts refuse such rewards and name the action."""
    for id in APART:
        family = metarl.make_family(id)
        tasks, rng = family.tasks("train", 2).tensors(), Rng(torch.arange(2), 10)
        action = torch.zeros(2, *family.action_space.shape)
        action[0] = torch.nan
        _, reward, _ = family.step(family.reset(tasks, rng), action, tasks, rng)
        assert reward.isfinite().tolist() == [False, True]
    assert not recwarn.list


class Brittle(HalfCheetahVel):
    """A cheetah that falls apart at once where it should be fast."""

    def reset(self, task: dict[str, torch.Tensor], rng: Rng) -> dict[str, torch.Tensor]:
        state = super().reset(task, rng)
        state["physics"][task["velocity"] > 1.5, -1] = 1e11
        return state


@pytest.mark.usefixtures("log_elsewhere")
@pytest.mark.filterwarnings("ignore:.*fell apart")
def test_a_robot_that_falls_apart_does_not_end_a_training() -> None:
    """Nor does its huge observation, which float32 still holds, make parameters that are not finite."""
    for name, settings in (("maml", {"episodes": 4}), ("rl2", {"trial_episodes": 2, "normalize_features": True})):
        agent = metarl.make_agent(name, Brittle(horizon=10), seed=0, meta_batch_size=8, **settings)
        metarl.train(agent, 2)
        assert all(value.isfinite().all() for value in agent.tensors().values() if value.is_floating_point())
