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

from metarl.envs.mujoco.mujoco_core import BAD, make_renderer
from metarl.envs.packages.meta_world_skills import SKILLS, Floats
from metarl.envs.packages.meta_world_terms import Doubles
from metarl.errors import InvalidValueError

# a state of MuJoCo: where the hand is pulled to, positions, velocities, the solver's start; the rest does not change
SIZE, MOCAP = 64, slice(0, 3)
OBSERVATION, NOW = 39, 18  # numbers of an observation, and of its part for one moment
FRAME_SKIP = 5
LOOKED_AT, DISTANCE, ANGLES = (0.0, 0.65, 0.1), 1.7, (-120.0, -25.0)  # of pictures: metres; azimuth, elevation
GRIPPER_WIDTH = 0.1  # metres between the fingers, which an observation counts as 1
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
    **{"soccer-v3": ("body", "soccer_ball"), "stick-push-v3": ("body", "stick"), "stick-pull-v3": ("body", "stick")},
}
REMEMBERED = {"bin-picking-v3": "_target_to_obj_init"}  # in which a reward remembers something about the episode
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
        physics: MuJoCo's state, `[64]`.
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
        model, data = self.model, self.data
        assert model.na + model.nuserdata + model.nplugin == 0, f"{name} has a state that is not kept"
        parts = (data.mocap_pos.reshape(-1), data.qpos, data.qvel, data.qacc_warmstart)
        ends = np.cumsum([0, *(len(part) for part in parts)]).tolist()
        self._parts = [(part, slice(*at)) for part, *at in zip(parts, ends[:-1], ends[1:], strict=True)]
        self.size, self.joints = ends[-1], self._parts[1][1]
        assert self.size <= SIZE, f"{name} has a state of {self.size} numbers"
        self._welded, self._control = data.mocap_quat, data.ctrl
        self._warnings = [data.warning[kind] for kind in BAD]
        self.remembered = REMEMBERED.get(name)
        space = self.env.sawyer_observation_space
        self.low, self.high = space.low, space.high
        kind, part = ROTATED.get(name, ("", ""))
        self.rotation = getattr(self.data, kind)(part).xmat if kind else None
        # the numbers of the model's bodies, sites and geoms, and those of its joints' positions, by name
        kinds = ((model.nbody, model.body), (model.nsite, model.site), (model.ngeom, model.geom))
        joints = {model.joint(i).name: int(model.jnt_qposadr[i]) for i in range(model.njnt)}
        self.numbers = (*({named(i).name: i for i in range(count)} for count, named in kinds), joints)
        self.scenes: dict[bytes, Scene] = {}
        self._placed: Scene | None = None
        self._fixed: dict[str, Doubles] = {}

    def scene(self, vector: Floats) -> Scene:
        """The scene with a placement `[6]`; the first time by the package's reset."""
        key = vector.tobytes()
        if key not in self.scenes:
            self._placed = None  # an interrupt must not leave another scene's bodies under the old name
            obs = begin(self.env, self.name, vector)
            physics = np.zeros(SIZE)
            self.state(physics)
            attributes = {k: _own(v) for k, v in vars(self.env).items() if k not in _KEPT}
            places = (self.model.body_pos.copy(), self.model.site_pos.copy())
            now = np.array(self.env._prev_obs, dtype=np.float64)
            made = Scene(len(self.scenes), attributes, *places, physics, obs.astype(np.float32), now)
            self._placed = self.scenes[key] = made
        return self.scenes[key]

    def place_in(self, scene: Scene) -> None:
        """Put the model's bodies where they are in a scene. It is enough for steps of the physics."""
        if scene is not self._placed:
            self._placed = None
            self.model.body_pos[:], self.model.site_pos[:] = scene.bodies, scene.sites
            self._placed = scene

    def show(self, scene: Scene, physics: Doubles) -> None:
        """Put the environment into a state `[64]` of a scene of its own, with all positions."""
        self.place_in(scene)
        self.set_state(physics)
        mujoco.mj_kinematics(self.model, self.data)
        self.env.__dict__.update(scene.attributes)

    def pulled(self, physics: Doubles, action: Floats) -> Doubles:
        """States `[N, 64]` whose hands are pulled by actions `[N, 4]`, as the package does it."""
        out = physics.copy()
        moved = np.clip(action[:, :3], -1, 1) * self.env.action_scale
        out[:, MOCAP] = np.clip(out[:, MOCAP] + moved, self.env.mocap_low, self.env.mocap_high)
        return out

    def set_state(self, physics: Doubles) -> None:
        """Put MuJoCo's data into a state `[64]`, except for what it computes from that."""
        for part, where in self._parts:
            part[:] = physics[where]
        self._welded[:] = WELDED

    def state(self, physics: Doubles) -> None:
        """Write the state of MuJoCo's data to `physics`, `[64]`."""
        for part, where in self._parts:
            physics[where] = part

    def step(self, physics: Doubles, effort: float) -> bool:
        """Step the physics from a state `[64]`, which becomes the new state, with the effort of the gripper.

        Returns:
            whether the physics failed; then the state stays as it is.
        """
        self.set_state(physics)
        self._control[0], self._control[1] = effort, -effort
        mujoco.mj_step(self.model, self.data, nstep=FRAME_SKIP)
        mujoco.mj_forward(self.model, self.data)
        failed = False
        for warning in self._warnings:
            if warning.number:
                failed, warning.number = True, 0
        if failed:  # MuJoCo has begun anew
            self.set_state(physics)
            mujoco.mj_forward(self.model, self.data)
        else:
            self.state(physics)
        return failed

    def look(self, now: Doubles) -> None:
        """Write what an observation tells of this moment to `now`, `[18]`; no quaternion that comes from a matrix."""
        hand, right, left = (self.data.body(part).xpos for part in ("hand", "rightclaw", "leftclaw"))
        now[:3], now[3] = hand, opened(np.linalg.norm(right - left))
        positions = self.env._get_pos_objects()
        quaternions = np.zeros(8) if self.rotation is not None else self.env._get_quat_objects()
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
    """A new environment of the package, which takes a tenth of a second and about 35 MB."""
    environment: Any = ALL_V3_ENVIRONMENTS[name]
    return environment(**kwargs)


def place(env: Environment, vector: Floats) -> None:
    """Set an environment's placement `[6]`, with the goal hidden. It is played from the next reset on."""
    placement = vector[: len(env._random_reset_space.low)].astype(np.float64)
    data = {"rand_vec": placement, "env_cls": type(env), "partially_observable": True}
    env.set_task(Task(env_name=env.task_name, data=pickle.dumps(data)))


def begin(env: Environment, name: str, vector: Floats) -> Doubles:
    """Start an episode with a placement `[6]`; the first observation, `[39]`.

    Raises:
        InvalidValueError: the environment refuses the placement. The package would draw another one, which with a
            fixed placement never ends.
    """
    place(env, vector)
    env._get_state_rand_vec = ([env._last_rand_vec] * 2).pop  # a reset draws twice; a third draw raises IndexError
    try:
        return np.asarray(env.reset()[0])
    except IndexError:
        expected = f"a goal further from the object, for {name}"
        raise InvalidValueError("task.scene[1:]", vector.tolist(), expected) from None
    finally:
        del env._get_state_rand_vec


class Camera:
    """An arm that only draws.

    Args:
        name: of the environment.
        size: height and width in pixels.
    """

    def __init__(self, name: str, size: tuple[int, int]) -> None:
        self.arm = Arm(name)
        self.renderer = make_renderer(self.arm.model, size)

    def picture(self, physics: Doubles, vector: Floats) -> npt.NDArray[np.uint8]:
        """A picture of a state `[64]` of the scene with a placement `[6]`: `uint8 [height, width, 3]`."""
        self.arm.place_in(self.arm.scene(vector))
        self.arm.set_state(physics)
        mujoco.mj_forward(self.arm.model, self.arm.data)
        view = mujoco.MjvCamera()
        view.lookat[:], view.distance = LOOKED_AT, DISTANCE
        view.azimuth, view.elevation = ANGLES
        self.renderer.update_scene(self.arm.data, view)
        return np.array(self.renderer.render(), dtype=np.uint8)


@lru_cache(maxsize=16)
def camera(name: str, size: tuple[int, int], process: int, thread: int) -> Camera:
    """A camera for one thread, to which its OpenGL context belongs."""
    made = Camera(name, size)
    atexit.register(camera.cache_clear)  # runs before OpenGL's own exit function, which is registered before
    return made
