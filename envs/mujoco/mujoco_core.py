"""What the MuJoCo families share: robots of Gymnasium's v5 models, stepped for all environments by native threads.

Physics (Todorov, Erez and Tassa 2012, "MuJoCo: A physics engine for model-based control") runs on the CPU in float64.
A robot whose rewards and observations need positions and velocities alone is stepped by `mujoco.rollout`, every step
from zero warm starts: after one step its Newton solver is within 1e-12 of Gymnasium's. A robot that needs what MuJoCo
computes on the way (contact forces, centres of mass, points on bodies) is stepped by `mj_step` in Python threads with
its warm starts, as Gymnasium does, and plays its trajectories bit for bit. As in Gymnasium, those numbers are the ones
that `mj_step` leaves behind, of the integrator's last evaluation and not of the state that it reached.

Not a family itself: see `locomotion`, `ant`, `humanoid`, `rand_params` and `reacher`.
"""

from __future__ import annotations

import atexit
import os
import threading
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

from metarl.errors import require_extra
from metarl.families.family import TorchFamily
from metarl.families.opengl import cannot_draw, has_display
from metarl.rng import Rng

mujoco = require_extra("metarl's MuJoCo families", "mujoco", "mujoco")
rollout = require_extra("metarl's MuJoCo families", "mujoco.rollout", "mujoco")

Floats = npt.NDArray[np.float64]
State = dict[str, Tensor]
ASSETS = Path(gym.__file__).parent / "envs" / "mujoco" / "assets"
GLFW = "mujoco.glfw"  # where MuJoCo's contexts come from that need a display
PHYSICS = int(mujoco.mjtState.mjSTATE_FULLPHYSICS)  # time, positions, velocities, activations
RESUMED = PHYSICS | int(mujoco.mjtState.mjSTATE_WARMSTART)
CONTROL = int(mujoco.mjtState.mjSTATE_CTRL)


@dataclass(frozen=True)
class Robot:
    """A model of Gymnasium's and how its environment steps, starts and shows it."""

    xml: str  # a file of Gymnasium's assets
    frame_skip: int  # MuJoCo steps per environment step
    position_noise: float  # starting positions are uniform within this of the model's
    velocity_noise: float
    normal_velocity: bool = False  # whether starting velocities are normal rather than uniform
    hidden: int = 0  # leading positions that Gymnasium's observation leaves out
    fields: tuple[str, ...] = ()  # arrays of MjData that a step leaves for rewards and observations; () is `rollout`
    followed: bool = True  # whether pictures have the robot in the middle, rather than the origin
    distance: float = 4.0  # of the camera [m]
    angles: tuple[float, float] = (90.0, -15.0)  # azimuth and elevation of the camera [degrees]


class Engine:
    """Steps environments of one robot, on some threads of this process.

    Attributes:
        model: the robot's `MjModel`, without textures.
        start: the model's initial positions, float64 `[nq]`.
        dt: seconds per environment step.
    """

    def __init__(self, robot: Robot, threads: int) -> None:
        self.robot, self.threads = robot, threads
        self.model = load_model(robot.xml)
        self.start: Floats = np.array(self.model.qpos0)
        self.dt = float(self.model.opt.timestep) * robot.frame_skip
        self._data = [mujoco.MjData(self.model) for _ in range(threads)]
        self._views = [[getattr(data, field) for field in robot.fields] for data in self._data]
        self._lock = threading.Lock()  # a family may be played by several threads of a user's
        self._pool: Any = None
        if robot.fields and threads > 1:
            self._pool = ThreadPoolExecutor(threads, "metarl-mujoco")
        elif not robot.fields:
            self._pool = rollout.Rollout(nthread=threads if threads > 1 else 0)

    def roll(self, physics: Floats, control: Floats, models: Sequence[Any] | None = None) -> Floats:
        """One environment step by `mujoco.rollout`.

        Args:
            physics: `[N, nstate]`.
            control: `[N, nu]`, held for all MuJoCo steps.
            models: one per environment; the robot's own where left out.

        Returns:
            The physics that is reached, `[N, nstate]`.
        """
        n, steps = len(physics), self.robot.frame_skip
        held = np.repeat(control[:, None], steps, axis=1)
        out = np.empty((n, steps, physics.shape[1]))
        models = [self.model] * n if models is None else list(models)
        with self._lock:
            self._pool.rollout(
                models, self._data, physics, held, control_spec=CONTROL, skip_checks=True, nstep=steps, state=out
            )
        return out[:, -1].copy()

    def resume(self, physics: Floats, control: Floats) -> dict[str, Floats]:
        """One environment step by `mj_step`: the physics `[N, nstate]` with warm starts, and the robot's fields."""

        def step(data: Any, row: int) -> None:
            mujoco.mj_setState(self.model, data, physics[row], RESUMED)
            data.ctrl[:] = control[row]
            mujoco.mj_step(self.model, data, nstep=self.robot.frame_skip)
            mujoco.mj_rnePostConstraint(self.model, data)

        return self._each(step, len(physics))

    def place(self, positions: Floats, velocities: Floats) -> dict[str, Floats]:
        """What `resume` gives, of environments that start at positions `[N, nq]` with velocities `[N, nv]`."""

        def place(data: Any, row: int) -> None:
            mujoco.mj_resetData(self.model, data)
            data.qpos[:], data.qvel[:] = positions[row], velocities[row]
            mujoco.mj_forward(self.model, data)

        return self._each(place, len(positions))

    def _each(self, work: Callable[[Any, int], None], n: int) -> dict[str, Floats]:
        """Do `work` for environments 0, ..., n - 1, shared evenly by the threads, and read what it leaves."""
        size = mujoco.mj_stateSize(self.model, RESUMED)
        out = {"physics": np.empty((n, size))}
        for field, view in zip(self.robot.fields, self._views[0], strict=True):
            out[field] = np.empty((n, *view.shape))

        def share(thread: int) -> None:
            data, views = self._data[thread], self._views[thread]
            for row in range(thread, n, self.threads):
                work(data, row)
                mujoco.mj_getState(self.model, data, out["physics"][row], RESUMED)
                for field, view in zip(self.robot.fields, views, strict=True):
                    out[field][row] = view

        with self._lock:
            if self._pool is None or n == 1:
                for thread in range(self.threads):
                    share(thread)
            else:
                list(self._pool.map(share, range(self.threads)))
        return out


def load_model(xml: str) -> Any:
    """An `MjModel` of one of Gymnasium's files, without its textures, which are 97 % of its size."""
    root = ElementTree.parse(ASSETS / xml).getroot()
    for asset in root.iter("asset"):
        for picture in [x for x in asset if x.tag in ("texture", "material")]:
            asset.remove(picture)
    for element in root.iter():
        element.attrib.pop("material", None)
    return mujoco.MjModel.from_xml_string(ElementTree.tostring(root, encoding="unicode"))


@lru_cache(maxsize=32)
def _engine(robot: Robot, threads: int, process: int) -> Engine:
    """One engine for all families of a robot; a forked process needs threads of its own."""
    return Engine(robot, threads)


@lru_cache(maxsize=16)
def _renderer(xml: str, size: tuple[int, int], process: int, thread: int) -> Any:
    """A renderer of one of Gymnasium's files, with its textures; an OpenGL context belongs to one thread."""
    model = mujoco.MjModel.from_xml_path(str(ASSETS / xml))
    height, width = size
    model.vis.global_.offwidth, model.vis.global_.offheight = max(width, 640), max(height, 480)
    if getattr(mujoco, "GLContext", None) is None or (mujoco.GLContext.__module__ == GLFW and not has_display()):
        raise cannot_draw()  # what fails leaves a renderer that complains once more when it is collected
    try:
        renderer = mujoco.Renderer(model, height, width)
    except Exception as error:  # whichever of GLFW, EGL and OSMesa was asked for
        raise cannot_draw(error) from error
    atexit.register(_renderer.cache_clear)  # runs before OpenGL, which registered itself above, is taken down
    return renderer


class MujocoFamily(TorchFamily):
    """A `TorchFamily` on a robot. Subclasses set `robot` and implement `observe` and `step`.

    A state is a dict: "physics", float64 `[N, nstate]`, and the robot's fields, float64 `[N, ...]`.

    Attributes:
        robot: the model.
        threads: how many threads step it, all cores by default; changes nothing but the speed.
    """

    capturable = False
    on_host = True
    robot: ClassVar[Robot]
    threads: int = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    @property
    def engine(self) -> Engine:
        """What steps the robot in this process."""
        return _engine(self.robot, self.threads, os.getpid())

    def spaces(self, size: int) -> tuple[Box, Box]:
        """The spaces of observations of `size` numbers and of the robot's actions."""
        limits = self.engine.model.actuator_ctrlrange.astype(np.float32)
        return Box(-np.inf, np.inf, (size,), np.float32), Box(limits[:, 0], limits[:, 1], dtype=np.float32)

    def reset(self, task: dict[str, Tensor], rng: Rng) -> State:
        """Gymnasium's start: the model's positions at rest, with noise on both."""
        return self.start(*self.noisy_start(rng))

    def noisy_start(self, rng: Rng) -> tuple[Tensor, Tensor]:
        """Positions `[N, nq]` and velocities `[N, nv]`, float64."""
        robot, model = self.robot, self.engine.model
        rest = torch.from_numpy(self.engine.start).to(rng.keys.device)
        positions = rest + robot.position_noise * (2.0 * rng.uniform(model.nq).double() - 1.0)
        noise = rng.normal(model.nv) if robot.normal_velocity else 2.0 * rng.uniform(model.nv) - 1.0
        return positions, robot.velocity_noise * noise.double()

    def start(self, positions: Tensor, velocities: Tensor) -> State:
        """The state of environments at `positions` `[N, nq]` with `velocities` `[N, nv]`, at time 0."""
        if not self.robot.fields:
            time = torch.zeros_like(positions[:, :1])
            return {"physics": torch.cat([time, positions, velocities], -1)}
        return _tensors(self.engine.place(_array(positions), _array(velocities)), positions.device)

    def simulate(self, state: State, action: Tensor, models: Sequence[Any] | None = None) -> State:
        """The state after one step with clipped actions, float64 `[N, nu]`; `models` as in `Engine.roll`."""
        physics, control = _array(state["physics"]), _array(action)
        if self.robot.fields:
            return _tensors(self.engine.resume(physics, control), action.device)
        return {"physics": torch.from_numpy(self.engine.roll(physics, control, models)).to(action.device)}

    def clip(self, action: Tensor) -> Tensor:
        """Actions within the action space, float64 `[N, nu]`: what moves the robot and what is paid for."""
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
        """Where to draw a ball that shows the task of one environment, [m]; optional."""
        return None

    def frame(
        self, state: dict[str, Any], task: dict[str, npt.NDArray[Any]], size: tuple[int, int] = (256, 256)
    ) -> npt.NDArray[np.uint8]:
        """A picture of one environment by MuJoCo's renderer, `uint8 [height, width, 3]`.

        Args:
            state: of one environment, NumPy arrays without the leading axis.
            task: likewise.
            size: height and width in pixels.

        Raises:
            InvalidValueError: there is no OpenGL to draw with; the environment variable MUJOCO_GL chooses one.
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


def _array(tensor: Tensor) -> Floats:
    """A contiguous float64 array of it, on the host."""
    return np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype=np.float64)


def _tensors(arrays: dict[str, Floats], device: torch.device) -> State:
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
