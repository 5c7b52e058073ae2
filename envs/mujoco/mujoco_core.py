"""The common part of the MuJoCo families: native threads step all environments of a robot from Gymnasium's v5 models.

Physics (Todorov, Erez and Tassa 2012, "MuJoCo: A physics engine for model-based control") runs on the CPU in float64.
If rewards and observations need only positions and velocities, `mujoco.rollout` steps the robot, and every step begins
with zero warm starts. After one step, the result of the Newton solver is within 1e-12 of Gymnasium's. If they need
other numbers that MuJoCo computes (contact forces, centres of mass, points on bodies), `mj_step` steps the robot in
Python threads, with warm starts as in Gymnasium, and the trajectories are Gymnasium's bit for bit. As in Gymnasium,
these numbers are those of the integrator's last evaluation, not of the new state.

MuJoCo resets a robot with a position, velocity or acceleration beyond 1e10 or not a number. Here such a robot falls
apart: it stays in its last good state, its episode ends, and a warning names the task and the step. If the reward of
this step is negative, it counts for every step that is left of the episode, so that nothing is gained by falling apart.

The families are in `locomotion`, `ant`, `humanoid`, `rand_params` and `reacher`.
"""

from __future__ import annotations

import atexit
import os
import threading
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box
from torch import Tensor

from metarl.config import Range
from metarl.devices import cores
from metarl.errors import require_extra
from metarl.families.family import TorchFamily
from metarl.families.opengl import cannot_draw, has_display
from metarl.rng import Rng

mujoco = require_extra("metarl's MuJoCo families", "mujoco", "mujoco")
rollout = require_extra("metarl's MuJoCo families", "mujoco.rollout", "mujoco")

Floats = npt.NDArray[np.float64]
State = dict[str, Tensor]
ASSETS = Path(gym.__file__).parent / "envs" / "mujoco" / "assets"
GLFW = "mujoco.glfw"  # module of the OpenGL contexts that need a display
PHYSICS = int(mujoco.mjtState.mjSTATE_FULLPHYSICS)  # time, positions, velocities, activations
RESUMED = PHYSICS | int(mujoco.mjtState.mjSTATE_WARMSTART)
CONTROL = int(mujoco.mjtState.mjSTATE_CTRL)
BAD = tuple(mujoco.mjtWarning.__members__[f"mjWARN_BADQ{name}"] for name in ("POS", "VEL", "ACC"))  # MuJoCo resets
SHOWN = 8  # numbers of a task parameter in a warning


@dataclass(frozen=True)
class Robot:
    """A model from Gymnasium, and how environments step, start and show it."""

    xml: str  # name of a file in Gymnasium's assets
    frame_skip: int  # MuJoCo steps per environment step
    position_noise: float  # start positions are uniform within this distance of the model's
    velocity_noise: float  # scale of start velocities
    normal_velocity: bool = False  # whether start velocities are normal instead of uniform
    hidden: int = 0  # number of first positions that observations leave out, as in Gymnasium
    fields: tuple[str, ...] = ()  # arrays of MjData for rewards and observations; if (), `mujoco.rollout` steps
    followed: bool = True  # whether the camera looks at the robot instead of the origin
    distance: float = 4.0  # distance of the camera [m]
    angles: tuple[float, float] = (90.0, -15.0)  # azimuth and elevation of the camera [degrees]


class Engine:
    """Steps environments of one robot, on several threads of this process.

    Attributes:
        model: the robot's `MjModel`, without textures.
        start: the model's initial positions, float64 `[nq]`.
        dt: seconds per environment step.
    """

    def __init__(self, robot: Robot, threads: int) -> None:
        Range(1, 4096).check("threads", threads, whole=True)
        self.robot, self.threads = robot, threads
        self.model = load_model(robot.xml)
        self.start: Floats = np.array(self.model.qpos0)
        self.dt = float(self.model.opt.timestep) * robot.frame_skip
        self._data = [mujoco.MjData(self.model) for _ in range(threads)]
        self._views = [[getattr(data, field) for field in robot.fields] for data in self._data]
        self._warnings = [[data.warning[kind] for kind in BAD] for data in self._data]
        self._lock = threading.Lock()  # a user may play a family in several threads
        self._pool: Any = None
        if robot.fields and threads > 1:
            self._pool = ThreadPoolExecutor(threads, "metarl-mujoco")
        elif not robot.fields:
            self._pool = rollout.Rollout(nthread=threads if threads > 1 else 0)

    def roll(
        self, physics: Floats, control: Floats, models: Sequence[Any] | None = None
    ) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """One environment step by `mujoco.rollout`.

        Args:
            physics: `[N, nstate]`.
            control: `[N, nu]`, held for all MuJoCo steps.
            models: one per environment; by default the robot's model for all.

        Returns:
            The new physics `[N, nstate]`, and whether MuJoCo stopped before the end of the step, `bool [N]`.
        """
        n, steps = len(physics), self.robot.frame_skip
        held = np.repeat(control[:, None], steps, axis=1)
        out = np.empty((n, steps, physics.shape[1]))
        models = [self.model] * n if models is None else list(models)
        with self._lock:
            self._pool.rollout(
                models, self._data, physics, held, control_spec=CONTROL, skip_checks=True, nstep=steps, state=out
            )
        last = out[:, -1].copy()
        return last, last[:, 0] < physics[:, 0] + (steps - 0.5) * self.model.opt.timestep

    def resume(self, physics: Floats, control: Floats) -> tuple[dict[str, Floats], npt.NDArray[np.bool_]]:
        """One environment step by `mj_step`.

        Returns:
            The new physics `[N, nstate]` with warm starts and the robot's fields, and whether MuJoCo reset the robot,
            `bool [N]`.
        """
        apart = np.zeros(len(physics), dtype=np.bool_)

        def step(thread: int, row: int) -> None:
            data = self._data[thread]
            mujoco.mj_setState(self.model, data, physics[row], RESUMED)
            data.ctrl[:] = control[row]
            mujoco.mj_step(self.model, data, nstep=self.robot.frame_skip)
            mujoco.mj_rnePostConstraint(self.model, data)
            for warning in self._warnings[thread]:
                if warning.number:
                    apart[row], warning.number = True, 0

        return self._each(step, len(physics)), apart

    def place(self, positions: Floats, velocities: Floats) -> dict[str, Floats]:
        """The physics and the robot's fields of environments at positions `[N, nq]` with velocities `[N, nv]`."""

        def place(thread: int, row: int) -> None:
            data = self._data[thread]
            mujoco.mj_resetData(self.model, data)
            data.qpos[:], data.qvel[:] = positions[row], velocities[row]
            mujoco.mj_forward(self.model, data)

        return self._each(place, len(positions))

    def _each(self, work: Callable[[int, int], None], n: int) -> dict[str, Floats]:
        """Call `work(thread, row)` for all n environments on all threads, and read the physics and the fields."""
        size = mujoco.mj_stateSize(self.model, RESUMED)
        out = {"physics": np.empty((n, size))}
        for field, view in zip(self.robot.fields, self._views[0], strict=True):
            out[field] = np.empty((n, *view.shape))

        def work_on_share(thread: int) -> None:
            data, views = self._data[thread], self._views[thread]
            for row in range(thread, n, self.threads):
                work(thread, row)
                mujoco.mj_getState(self.model, data, out["physics"][row], RESUMED)
                for field, view in zip(self.robot.fields, views, strict=True):
                    out[field][row] = view

        with self._lock:
            if self._pool is None or n == 1:
                for thread in range(self.threads):
                    work_on_share(thread)
            else:
                list(self._pool.map(work_on_share, range(self.threads)))
        return out


def load_model(xml: str) -> Any:
    """Load one of Gymnasium's files as an `MjModel` without textures, which are 97 % of its size."""
    root = ElementTree.parse(ASSETS / xml).getroot()
    for asset in root.iter("asset"):
        for picture in [x for x in asset if x.tag in ("texture", "material")]:
            asset.remove(picture)
    for element in root.iter():
        element.attrib.pop("material", None)
    return mujoco.MjModel.from_xml_string(ElementTree.tostring(root, encoding="unicode"))


@lru_cache(maxsize=32)
def _engine(robot: Robot, threads: int, process: int) -> Engine:
    """The engine that all families of a robot share. A forked process needs its own threads."""
    return Engine(robot, threads)


@lru_cache(maxsize=16)
def _renderer(xml: str, size: tuple[int, int], process: int, thread: int) -> Any:
    """A renderer of one of Gymnasium's files, with textures. An OpenGL context belongs to one thread."""
    renderer = make_renderer(mujoco.MjModel.from_xml_path(str(ASSETS / xml)), size)
    atexit.register(_renderer.cache_clear)  # runs before OpenGL's own exit function, which is registered before
    return renderer


def make_renderer(model: Any, size: tuple[int, int]) -> Any:
    """A `mujoco.Renderer`, which belongs to this thread.

    Args:
        model: an `MjModel`; its offscreen buffer grows if it is too small.
        size: height and width in pixels.

    Raises:
        InvalidValueError: no OpenGL is available; the environment variable MUJOCO_GL chooses the library.
    """
    height, width = size
    model.vis.global_.offwidth, model.vis.global_.offheight = max(width, 640), max(height, 480)
    if getattr(mujoco, "GLContext", None) is None or (mujoco.GLContext.__module__ == GLFW and not has_display()):
        raise cannot_draw()  # before mujoco.Renderer, which would print a second error when it is deleted
    try:
        return mujoco.Renderer(model, height, width)
    except Exception as error:  # GLFW, EGL and OSMesa raise different errors
        raise cannot_draw(error) from error


class MujocoFamily(TorchFamily):
    """A `TorchFamily` with a MuJoCo robot. Subclasses set `robot` and implement `observe` and `move`.

    A state is a dict: "physics", float64 `[N, nstate]`, and the robot's fields, float64 `[N, ...]`.

    Attributes:
        robot: the robot.
        threads: number of threads that step it, by default one per core. It changes the speed alone.
    """

    capturable = False
    on_host = True
    robot: ClassVar[Robot]
    threads: int = cores()

    @property
    def engine(self) -> Engine:
        """The engine that steps the robot in this process."""
        return _engine(self.robot, self.threads, os.getpid())

    def spaces(self, size: int) -> tuple[Box, Box]:
        """The observation space, of `size` numbers, and the action space of the robot."""
        limits = self.engine.model.actuator_ctrlrange.astype(np.float32)
        return Box(-np.inf, np.inf, (size,), np.float32), Box(limits[:, 0], limits[:, 1], dtype=np.float32)

    def reset(self, task: dict[str, Tensor], rng: Rng) -> State:
        """Gymnasium's start: the model's initial positions and zero velocities, with noise on both."""
        return self.start(*self.noisy_start(rng))

    def noisy_start(self, rng: Rng) -> tuple[Tensor, Tensor]:
        """Start positions `[N, nq]` and velocities `[N, nv]` with noise, float64."""
        robot, model = self.robot, self.engine.model
        rest = torch.from_numpy(self.engine.start).to(rng.keys.device)
        positions = rest + robot.position_noise * (2.0 * rng.uniform(model.nq).double() - 1.0)
        noise = rng.normal(model.nv) if robot.normal_velocity else 2.0 * rng.uniform(model.nv) - 1.0
        return positions, robot.velocity_noise * noise.double()

    def start(self, positions: Tensor, velocities: Tensor) -> State:
        """The state at time 0 with positions `[N, nq]` and velocities `[N, nv]`."""
        if not self.robot.fields:
            time = torch.zeros_like(positions[:, :1])
            return {"physics": torch.cat([time, positions, velocities], -1)}
        return _tensors(self.engine.place(_array(positions), _array(velocities)), positions.device)

    def move(self, state: State, action: Tensor, task: dict[str, Tensor]) -> tuple[State, Tensor, Tensor]:
        """As `step`, for robots that hold together."""
        raise NotImplementedError(f"{type(self).__name__}.move")

    def step(self, state: State, action: Tensor, task: dict[str, Tensor], rng: Rng) -> tuple[State, Tensor, Tensor]:
        """Move; a robot that falls apart stays where it is and ends its episode, with a warning."""
        after, reward, ended = self.move(state, action, task)
        time = state["physics"][:, 0]
        apart = after["physics"][:, 0] == time  # no time passed
        if bool(apart.any()):
            self._warn(apart, state, task)
            left = (self.horizon - 1 - (time / self.engine.dt).round()).clamp_min(0).to(reward)
            reward = torch.where(apart, reward + left * reward.clamp_max(0), reward)
        return after, reward, ended | apart

    def simulate(self, state: State, action: Tensor, models: Sequence[Any] | None = None) -> State:
        """The state after one step with clipped actions, float64 `[N, nu]`. `models` is that of `Engine.roll`.

        A robot that falls apart by an action of numbers keeps its state.
        """
        physics, control = _array(state["physics"]), _array(action)
        if self.robot.fields:
            new, apart = self.engine.resume(physics, control)
        else:
            rolled, apart = self.engine.roll(physics, control, models)
            new = {"physics": rolled}
        after = _tensors(new, action.device)
        if not apart.any():
            return after
        kept = torch.from_numpy(apart & np.isfinite(control).all(-1)).to(action.device)
        return {k: torch.where(kept.view(-1, *[1] * (v.dim() - 1)), state[k], v) for k, v in after.items()}

    def _warn(self, apart: Tensor, state: State, task: dict[str, Tensor]) -> None:
        """One warning about robots that fell apart, `bool [N]`, in these states and tasks."""
        row, count = int(apart.long().argmax()), int(apart.sum())
        step = round(float(state["physics"][row, 0]) / self.engine.dt)
        values = ", ".join(f"{name} = {_told(value[row])}" for name, value in task.items())
        who = "a robot" if count == 1 else f"{count} robots at once, the first"
        warnings.warn(
            f"{who} of family {self.id} fell apart in step {step} of an episode: MuJoCo found a number beyond 1e10, no "
            f"number, or a full buffer. Task: {values}. The episode ends there.",
            RuntimeWarning,
            stacklevel=2,
        )

    def clip(self, action: Tensor) -> Tensor:
        """Clip actions to the action space, float64 `[N, nu]`. Control costs also use clipped actions."""
        assert isinstance(self.action_space, Box)
        low, high = (torch.from_numpy(x).to(action.device) for x in (self.action_space.low, self.action_space.high))
        return action.clamp(low, high).double()

    def positions(self, state: State) -> Tensor:
        """Generalised positions, float64 `[N, nq]`."""
        return state["physics"][:, 1 : 1 + self.engine.model.nq]

    def velocities(self, state: State) -> Tensor:
        """Generalised velocities, float64 `[N, nv]`."""
        model = self.engine.model
        return state["physics"][:, 1 + model.nq : 1 + model.nq + model.nv]

    def marker(self, state: dict[str, Floats], task: dict[str, npt.NDArray[Any]]) -> Sequence[float] | None:
        """The position [m] of a ball that shows the task of one environment in pictures; optional."""
        return None

    def frame(
        self, state: dict[str, Any], task: dict[str, npt.NDArray[Any]], size: tuple[int, int] = (256, 256)
    ) -> npt.NDArray[np.uint8]:
        """A picture of one environment by MuJoCo's renderer, `uint8 [height, width, 3]`.

        Args:
            state: state of one environment, NumPy arrays without the leading axis.
            task: task of the environment, likewise.
            size: height and width in pixels.

        Raises:
            InvalidValueError: no OpenGL is available; the environment variable MUJOCO_GL chooses the library.
        """
        renderer = _renderer(self.robot.xml, tuple(size), os.getpid(), threading.get_ident())
        model, camera = renderer.model, mujoco.MjvCamera()
        data = mujoco.MjData(model)
        mujoco.mj_setState(model, data, np.array(state["physics"])[: mujoco.mj_stateSize(model, PHYSICS)], PHYSICS)
        mujoco.mj_forward(model, data)
        camera.lookat[:] = data.subtree_com[0] if self.robot.followed else 0.0
        camera.distance = self.robot.distance
        camera.azimuth, camera.elevation = self.robot.angles
        renderer.update_scene(data, camera)
        point = self.marker(state, task)
        if point is not None:
            ball, scene = mujoco.mjtGeom.mjGEOM_SPHERE, renderer.scene
            radius, colour = np.full(3, 0.03 * self.robot.distance), np.array([0.84, 0.37, 0.0, 1.0], np.float32)
            mujoco.mjv_initGeom(scene.geoms[scene.ngeom], ball, radius, np.array(point), np.eye(3).ravel(), colour)
            scene.ngeom += 1
        return np.array(renderer.render(), dtype=np.uint8)


def _told(value: Tensor) -> str:
    """A task parameter in a warning: its first numbers."""
    numbers = [f"{x:.6g}" for x in value.flatten()[:SHOWN].tolist()]
    rest = [f"... ({value.numel()} numbers)"] if value.numel() > SHOWN else []
    return numbers[0] if value.dim() == 0 else f"[{', '.join(numbers + rest)}]"


def _array(tensor: Tensor) -> Floats:
    """The tensor as a contiguous float64 array on the host."""
    return np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype=np.float64)


def _tensors(arrays: dict[str, Floats], device: torch.device) -> State:
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
