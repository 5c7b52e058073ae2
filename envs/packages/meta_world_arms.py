"""Arms: environments of the package metaworld that are given the state of one environment after another.

An environment of the package takes .1 ms for its physics, as long again for its observation, and up to three times as
long for its reward and for contact forces that only its info reports. An arm is one environment of the package, with
MuJoCo's model and data. It steps any environment with its name from a state, and computes what the package computes.
What a reset leaves in it (places of bodies in the model, attributes that rewards read) is kept for each scene.
"""

from __future__ import annotations

import atexit
import pickle
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.types import Task

from metarl.envs.mujoco.mujoco_core import make_renderer
from metarl.envs.packages.meta_world_skills import SKILLS, Doubles, Floats

SIZE = 320  # numbers of a state; no environment of the package has more
OBSERVATION, NOW = 39, 18  # numbers of an observation, and of its part for one moment
FRAME_SKIP = 5
LOOKED_AT, DISTANCE, ANGLES = (0.0, 0.65, 0.1), 1.7, (-120.0, -25.0)  # of pictures: metres; azimuth, elevation
GRIPPER_WIDTH = 0.1  # metres between the fingers, which an observation counts as 1
STATE = int(mujoco.mjtState.mjSTATE_INTEGRATION)
WELDED = (1.0, 0.0, 1.0, 0.0)  # orientation of the body that pulls the hand
# where an observation's quaternion is computed from a rotation matrix; no reward reads it there
ROTATED = {
    **dict.fromkeys(("push-v3", "push-back-v3", "push-wall-v3", "reach-v3", "reach-wall-v3"), ("geom", "objGeom")),
    **dict.fromkeys(("pick-place-v3", "pick-place-wall-v3", "shelf-place-v3", "sweep-into-v3"), ("geom", "objGeom")),
    **dict.fromkeys(("plate-slide-v3", "plate-slide-side-v3"), ("geom", "puck")),
    **dict.fromkeys(("plate-slide-back-v3", "plate-slide-back-side-v3"), ("geom", "puck")),
    **dict.fromkeys(("coffee-pull-v3", "coffee-push-v3"), ("geom", "mug")),
    **dict.fromkeys(("door-open-v3", "door-close-v3"), ("geom", "handle")),
    **{"lever-pull-v3": ("geom", "objGeom"), "peg-insert-side-v3": ("site", "pegGrasp")},
    **{"soccer-v3": ("body", "soccer_ball")},
}
_REMEMBERED = {"bin-picking-v3": "_target_to_obj_init"}  # in which a reward remembers something about the episode
# attributes that stay when an arm shows another scene
_KEPT = ("model", "data", "mujoco_renderer", "touching_object", "np_random", "_np_random", "_np_random_seed")

Environment = Any  # metaworld.sawyer_xyz_env.SawyerXYZEnv


@dataclass(frozen=True)
class Scene:
    """What a reset leaves behind: the arm's attributes, places in its model, and an episode's first state.

    Attributes:
        number: of the scene, in the order in which an arm met them.
        attributes: of the package's environment.
        bodies: places of the model's bodies, `[bodies, 3]`.
        sites: places of the model's sites, `[sites, 3]`.
        physics: MuJoCo's integration state, `[size]`.
        observation: the first one, float32 `[39]`.
        now: its part for this moment, float64 `[18]`.
    """

    number: int
    attributes: dict[str, Any]
    bodies: Doubles
    sites: Doubles
    physics: Doubles
    observation: Floats
    now: Doubles


class Arm:
    """One environment of the package, which plays all scenes of that environment, one step of one scene at a time.

    Args:
        name: of the environment.
    """

    def __init__(self, name: str) -> None:
        self.name, self.env = name, make(name)
        self.env.touching_object = _not_asked
        self.model, self.data = self.env.model, self.env.data
        self.size = mujoco.mj_stateSize(self.model, STATE)
        assert self.size <= SIZE, f"{name} has a state of {self.size} numbers"
        self.mocap, self.welded, self.control = (
            slice(begin := self._offset(part), begin + count)
            for part, count in (
                (mujoco.mjtState.mjSTATE_MOCAP_POS, 3),
                (mujoco.mjtState.mjSTATE_MOCAP_QUAT, 4),
                (mujoco.mjtState.mjSTATE_CTRL, 2),
            )
        )
        self.remembered = _REMEMBERED.get(name)
        space = self.env.sawyer_observation_space
        self.low, self.high = space.low, space.high
        kind, part = ROTATED.get(name, ("", ""))
        self.rotation = getattr(self.data, kind)(part).xmat if kind else None
        self.scenes: dict[bytes, Scene] = {}
        self._shown: Scene | None = None
        self._fixed: dict[str, Doubles] = {}

    def _offset(self, part: Any) -> int:
        """Where a part of a state begins: its parts have the order of their bits."""
        return int(mujoco.mj_stateSize(self.model, STATE & (int(part) - 1)))

    def scene(self, vector: Floats) -> Scene:
        """The scene with a placement `[6]`; the first time by the package's reset."""
        key = vector.tobytes()
        if key not in self.scenes:
            place(self.env, vector)
            obs, _ = self.env.reset()
            physics = np.empty(self.size)
            mujoco.mj_getState(self.model, self.data, physics, STATE)
            attributes = {k: _own(v) for k, v in vars(self.env).items() if k not in _KEPT}
            places = (self.model.body_pos.copy(), self.model.site_pos.copy())
            now = np.array(self.env._prev_obs, dtype=np.float64)
            made = Scene(len(self.scenes), attributes, *places, physics, obs.astype(np.float32), now)
            self._shown = self.scenes[key] = made
        return self.scenes[key]

    def show(self, scene: Scene) -> None:
        """Put the environment into a scene, except for its state."""
        if scene is not self._shown:
            self.env.__dict__.update(scene.attributes)
            self.model.body_pos[:], self.model.site_pos[:] = scene.bodies, scene.sites
            self._shown = scene

    def pulled(self, physics: Doubles, action: Floats) -> Doubles:
        """States `[N, 320]` with the controls of actions `[N, 4]`, as the package sets them."""
        out = physics.copy()
        moved = np.clip(action[:, :3], -1, 1) * self.env.action_scale
        out[:, self.mocap] = np.clip(out[:, self.mocap] + moved, self.env.mocap_low, self.env.mocap_high)
        out[:, self.welded] = WELDED
        out[:, self.control] = np.stack([action[:, 3], -action[:, 3]], axis=1)
        return out

    def step(self, physics: Doubles) -> None:
        """Step the physics from a state `[320]`, which becomes the new state."""
        state = physics[: self.size]
        mujoco.mj_setState(self.model, self.data, state, STATE)
        mujoco.mj_step(self.model, self.data, nstep=FRAME_SKIP)
        mujoco.mj_forward(self.model, self.data)
        mujoco.mj_getState(self.model, self.data, state, STATE)

    def look(self, now: Doubles) -> None:
        """Write what an observation tells of this moment to `now`, `[18]`; no quaternion that comes from a matrix."""
        hand, right, left = (self.data.body(part).xpos for part in ("hand", "rightclaw", "leftclaw"))
        now[:3], now[3] = hand, opened(np.linalg.norm(right - left))
        positions = self.env._get_pos_objects()
        quaternions = np.zeros(4) if self.rotation is not None else self.env._get_quat_objects()
        for i in range(len(positions) // 3):
            now[4 + 7 * i : 7 + 7 * i] = positions[3 * i : 3 * i + 3]
            now[7 + 7 * i : 11 + 7 * i] = quaternions[4 * i : 4 * i + 4]

    def judge(self, observation: Doubles, action: Floats, remembered: Doubles) -> tuple[float, bool]:
        """The package's reward and success for an observation `[39]` and an action `[4]`."""
        if self.remembered:
            setattr(self.env, self.remembered, None if np.isnan(remembered[0]) else float(remembered[0]))
        reward, info = self.env.evaluate_state(observation, action)
        if self.remembered:
            remembered[0] = getattr(self.env, self.remembered)
        return float(reward), bool(info["success"])

    def fixed(self, numbers: list[int]) -> dict[str, Doubles]:
        """What the rewards of `meta_world_skills` read, for the scenes with these numbers: `[N, ...]`."""
        names = SKILLS[self.name].attributes
        if names and len(self._fixed.get(names[0], ())) < len(self.scenes):
            scenes = self.scenes.values()
            self._fixed = {
                name: np.array([scene.attributes[name] for scene in scenes], dtype=np.float64) for name in names
            }
        return {name: values[numbers] for name, values in self._fixed.items()}


def opened(distance: Any) -> Any:
    """How far the gripper is open, from 0 to 1."""
    return np.clip(distance / GRIPPER_WIDTH, 0.0, 1.0)


def _own(value: Any) -> Any:
    """A copy of an array that the next reset might change; a view of MuJoCo's arrays stays one."""
    return value.copy() if isinstance(value, np.ndarray) and value.flags.owndata else value


def _not_asked(geom: int) -> bool:
    """In place of a loop over all contacts, for a number of the package's info that is not used here."""
    return False


def make(name: str, **kwargs: Any) -> Environment:
    """A new environment of the package, which takes a tenth of a second and 25 MB."""
    environment: Any = ALL_V3_ENVIRONMENTS[name]
    return environment(**kwargs)


def place(env: Environment, vector: Floats) -> None:
    """Set an environment's placement `[6]`, with the goal hidden. It is played from the next reset on."""
    placement = vector[: len(env._random_reset_space.low)].astype(np.float64)
    data = {"rand_vec": placement, "env_cls": type(env), "partially_observable": True}
    env.set_task(Task(env_name=env.task_name, data=pickle.dumps(data)))


class Camera:
    """An arm that only draws.

    Args:
        name: of the environment.
        size: height and width in pixels.
    """

    def __init__(self, name: str, size: tuple[int, int]) -> None:
        self.env = make(name)
        self.renderer = make_renderer(self.env.model, size)

    def picture(self, physics: Doubles, vector: Floats) -> npt.NDArray[np.uint8]:
        """A picture of a state `[320]` of the scene with a placement `[6]`: `uint8 [height, width, 3]`."""
        place(self.env, vector)
        self.env.reset()
        mujoco.mj_setState(self.env.model, self.env.data, physics[: mujoco.mj_stateSize(self.env.model, STATE)], STATE)
        mujoco.mj_forward(self.env.model, self.env.data)
        view = mujoco.MjvCamera()
        view.lookat[:], view.distance = LOOKED_AT, DISTANCE
        view.azimuth, view.elevation = ANGLES
        self.renderer.update_scene(self.env.data, view)
        return np.array(self.renderer.render(), dtype=np.uint8)


@lru_cache(maxsize=4)
def camera(name: str, size: tuple[int, int], process: int, thread: int) -> Camera:
    """A camera for one thread, to which its OpenGL context belongs."""
    made = Camera(name, size)
    atexit.register(camera.cache_clear)  # runs before OpenGL's own exit function, which is registered before
    return made
