"""Steps many environments of the package metaworld on several threads, with the package's own rewards.

An environment of the package steps its physics, then spends as long again on its observation, and several times as long
on contact forces that only its info reports. Here an arm (one environment of the package, with MuJoCo's model and data)
plays one environment after another: it is given the state of one, steps it, reads it, and asks the package for reward
and success. Every thread has arms of its own, and threads step side by side, because MuJoCo releases Python's lock.

A state is all that the next step depends on: MuJoCo's integration state, the last observation, and what a reward
remembers. So trajectories are the package's bit for bit, whichever arm plays (tests compare all 50 environments). What
a reset leaves in an arm (places of bodies in the model, attributes that rewards read) is kept for each scene.
"""

from __future__ import annotations

import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, NamedTuple

import mujoco
import numpy as np
import numpy.typing as npt
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.types import Task
from scipy.spatial.transform import Rotation

from metarl.families.opengl import rendering

SIZE = 320  # numbers of a state; no environment of the package has more
OBSERVATION, NOW = 39, 18  # numbers of an observation, and of its part for one moment
FRAME_SKIP = 5
GRIPPER_WIDTH = 0.1  # metres between the fingers, which an observation counts as 1
STATE = int(mujoco.mjtState.mjSTATE_INTEGRATION)
WELDED = (1.0, 0.0, 1.0, 0.0)  # orientation of the body that pulls the hand
# where an observation's quaternion is computed from a rotation matrix; no reward reads it there
_ROTATED = {
    **dict.fromkeys(("push-v3", "push-back-v3", "push-wall-v3", "reach-v3", "reach-wall-v3"), ("geom", "objGeom")),
    **dict.fromkeys(("pick-place-v3", "pick-place-wall-v3", "shelf-place-v3", "sweep-into-v3"), ("geom", "objGeom")),
    **dict.fromkeys(("plate-slide-v3", "plate-slide-side-v3"), ("geom", "puck")),
    **dict.fromkeys(("plate-slide-back-v3", "plate-slide-back-side-v3"), ("geom", "puck")),
    **dict.fromkeys(("coffee-pull-v3", "coffee-push-v3"), ("geom", "mug")),
    **dict.fromkeys(("door-open-v3", "door-close-v3"), ("geom", "handle")),
    **{"lever-pull-v3": ("geom", "objGeom"), "peg-insert-side-v3": ("site", "pegGrasp")},
    **{"soccer-v3": ("body", "soccer_ball")},
}
# the attribute in which a reward remembers something about the episode
_REMEMBERED = {"bin-picking-v3": "_target_to_obj_init"}

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Environment = Any  # metaworld.sawyer_xyz_env.SawyerXYZEnv


class States(NamedTuple):
    """The states of N environments.

    Attributes:
        physics: MuJoCo's integration states, float64 `[N, 320]`; they end in zeros.
        observation: what the package returned last, float32 `[N, 39]`.
        now: the part of the observation for this moment, before it was clipped, float64 `[N, 18]`.
        remembered: what a reward remembers about the episode, float64 `[N, 1]`; NaN for nothing.
    """

    physics: Doubles
    observation: Floats
    now: Doubles
    remembered: Doubles


@dataclass(frozen=True)
class Scene:
    """What a reset leaves behind: the arm's attributes, places in its model, and the state that an episode starts in."""

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
        self.mocap = slice(begin := self._offset(mujoco.mjtState.mjSTATE_MOCAP_POS), begin + 3)
        self.welded = slice(begin := self._offset(mujoco.mjtState.mjSTATE_MOCAP_QUAT), begin + 4)
        self.control = slice(begin := self._offset(mujoco.mjtState.mjSTATE_CTRL), begin + 2)
        self.remembered = _REMEMBERED.get(name)
        space = self.env.sawyer_observation_space
        self.low, self.high = space.low, space.high
        self._hand, self._right, self._left = (
            self.data.body(part).xpos for part in ("hand", "rightclaw", "leftclaw")
        )
        kind, part = _ROTATED.get(name, ("", ""))
        self.rotation = getattr(self.data, kind)(part).xmat if kind else None
        self._scenes: dict[bytes, Scene] = {}
        self._shown: Scene | None = None

    def _offset(self, part: Any) -> int:
        """Where a part of a state begins: its parts have the order of their bits."""
        return int(mujoco.mj_stateSize(self.model, STATE & (int(part) - 1)))

    def scene(self, vector: Floats) -> Scene:
        """The scene with a placement `[6]`; the first time by the package's reset."""
        key = vector.tobytes()
        if key not in self._scenes:
            place(self.env, vector)
            obs, _ = self.env.reset()
            physics = np.empty(self.size)
            mujoco.mj_getState(self.model, self.data, physics, STATE)
            attributes = {k: _own(v) for k, v in vars(self.env).items() if k not in _KEPT}
            places = (self.model.body_pos.copy(), self.model.site_pos.copy())
            now = np.array(self.env._prev_obs, dtype=np.float64)
            self._shown = self._scenes[key] = Scene(attributes, *places, physics, obs.astype(np.float32), now)
        return self._scenes[key]

    def show(self, scene: Scene) -> None:
        """Put the environment into a scene, except for its state."""
        if scene is not self._shown:
            vars(self.env).update(scene.attributes)
            self.model.body_pos[:], self.model.site_pos[:] = scene.bodies, scene.sites
            self._shown = scene

    def pulled(self, physics: Doubles, action: Floats) -> Doubles:
        """States `[N, size]` with the controls of actions `[N, 4]`, as the package sets them."""
        out = physics.copy()
        moved = np.clip(action[:, :3], -1, 1) * self.env.action_scale
        out[:, self.mocap] = np.clip(out[:, self.mocap] + moved, self.env.mocap_low, self.env.mocap_high)
        out[:, self.welded] = WELDED
        out[:, self.control] = np.stack([action[:, 3], -action[:, 3]], axis=1)
        return out

    def step(self, physics: Doubles) -> None:
        """Step the physics from a state `[size]`, which becomes the new state."""
        state = physics[: self.size]
        mujoco.mj_setState(self.model, self.data, state, STATE)
        mujoco.mj_step(self.model, self.data, nstep=FRAME_SKIP)
        mujoco.mj_forward(self.model, self.data)
        mujoco.mj_getState(self.model, self.data, state, STATE)

    def look(self, now: Doubles) -> None:
        """Write what an observation tells of this moment to `now`, `[18]`; without a quaternion if there is `rotation`."""
        now[:3] = self._hand
        now[3] = np.clip(np.linalg.norm(self._right - self._left) / GRIPPER_WIDTH, 0.0, 1.0)
        positions = self.env._get_pos_objects()
        quaternions = (0.0, 0.0, 0.0, 0.0) if self.rotation is not None else self.env._get_quat_objects()
        for i in range(len(positions) // 3):
            now[4 + 7 * i : 7 + 7 * i] = positions[3 * i : 3 * i + 3]
            now[7 + 7 * i : 11 + 7 * i] = quaternions[4 * i : 4 * i + 4]

    def judge(self, observation: Doubles, action: Floats, remembered: Doubles) -> tuple[float, bool]:
        """The package's reward and success for an observation `[39]` and an action `[4]`."""
        if self.remembered:
            vars(self.env)[self.remembered] = None if np.isnan(remembered[0]) else float(remembered[0])
        reward, info = self.env.evaluate_state(observation, action)
        if self.remembered:
            remembered[0] = vars(self.env)[self.remembered]
        return float(reward), bool(info["success"])


# attributes that stay when an arm shows another scene
_KEPT = ("model", "data", "mujoco_renderer", "touching_object", "np_random", "_np_random", "_np_random_seed")


def _own(value: Any) -> Any:
    """A copy of an array that the next reset might change; a view of MuJoCo's arrays stays one."""
    return value.copy() if isinstance(value, np.ndarray) and value.flags.owndata else value


def _not_asked(geom: int) -> bool:
    """In place of a loop over all contacts, for a number of the package's info that is not used here."""
    return False


class Arms:
    """The arms of one process: for each thread one of each environment, made when it is first needed.

    Args:
        threads: number of threads.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._arms: list[dict[str, Arm]] = [{} for _ in range(threads)]
        self._lock = threading.RLock()  # a user may play a family in several threads
        self._pool = ThreadPoolExecutor(threads, "metarl-metaworld") if threads > 1 else None

    def arm(self, thread: int, name: str) -> Arm:
        """A thread's arm."""
        arms = self._arms[thread]
        if name not in arms:
            arms[name] = Arm(name)
        return arms[name]

    def start(self, names: list[str], vectors: Floats) -> States:
        """The states in which episodes start.

        Args:
            names: the N environments.
            vectors: their placements, `[N, 6]`.
        """
        n, nothing = len(names), np.full((len(names), 1), np.nan)
        out = States(np.zeros((n, SIZE)), np.empty((n, OBSERVATION), np.float32), np.empty((n, NOW)), nothing)
        with self._lock:
            for row, name in enumerate(names):
                scene = self.arm(0, name).scene(vectors[row])
                out.physics[row, : len(scene.physics)] = scene.physics
                out.observation[row], out.now[row] = scene.observation, scene.now
        return out

    def step(
        self, names: list[str], vectors: Floats, states: States, action: Floats
    ) -> tuple[States, Floats, npt.NDArray[np.bool_]]:
        """One step of N environments: their new states, rewards `[N]` and successes `[N]`.

        Args:
            names: the environments.
            vectors: their placements, `[N, 6]`.
            states: theirs; they are not changed.
            action: `[N, 4]`.
        """
        with self._lock:
            return self._step(names, vectors, states, action)

    def _step(
        self, names: list[str], vectors: Floats, states: States, action: Floats
    ) -> tuple[States, Floats, npt.NDArray[np.bool_]]:
        n = len(names)
        physics = np.empty_like(states.physics)
        kinds = np.array(names)
        order = np.argsort(kinds, kind="stable")  # an arm plays its scenes one after another
        for name in set(names):
            rows, arm = np.flatnonzero(kinds == name), self.arm(0, name)
            physics[rows] = arm.pulled(states.physics[rows], action[rows])
        now, remembered = np.zeros((n, NOW)), states.remembered.copy()
        observation = np.zeros((n, OBSERVATION))
        observation[:, NOW : 2 * NOW] = states.now
        matrices = np.tile(np.eye(3), (n, 1, 1))
        reward, success = np.empty(n, np.float32), np.empty(n, np.bool_)

        shares = [share.tolist() for share in np.array_split(order, self.threads)]
        for thread, share in enumerate(shares):
            for name in {names[row] for row in share}:
                self.arm(thread, name)  # models are loaded by one thread

        def work(thread: int) -> None:
            for row in shares[thread]:
                arm = self._arms[thread][names[row]]
                arm.show(arm.scene(vectors[row]))
                arm.step(physics[row])
                arm.look(now[row])
                if arm.rotation is not None:
                    matrices[row].flat = arm.rotation
                observation[row, :NOW] = now[row]
                np.clip(observation[row], arm.low, arm.high, out=observation[row])
                reward[row], success[row] = arm.judge(observation[row], action[row], remembered[row])

        if self._pool is None:
            work(0)
        else:
            list(self._pool.map(work, range(self.threads)))
        rotated = np.flatnonzero(np.isin(kinds, list(_ROTATED)))
        if len(rotated):
            now[rotated, 7:11] = observation[rotated, 7:11] = Rotation.from_matrix(matrices[rotated]).as_quat()
        return States(physics, observation.astype(np.float32), now, remembered), reward, success


@cache
def shared(threads: int, process: int) -> Arms:
    """The arms that all families share. A forked process needs its own threads."""
    return Arms(threads)


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
        height, width = size
        with rendering():
            self.env = make(name, render_mode="rgb_array", height=height, width=width)

    def picture(self, physics: Doubles, vector: Floats) -> npt.NDArray[np.uint8]:
        """A picture of a state `[320]` of the scene with a placement `[6]`: `uint8 [height, width, 3]`."""
        place(self.env, vector)
        self.env.reset()
        mujoco.mj_setState(self.env.model, self.env.data, physics[: mujoco.mj_stateSize(self.env.model, STATE)], STATE)
        mujoco.mj_forward(self.env.model, self.env.data)
        with rendering():
            return np.array(self.env.render(), dtype=np.uint8)


@lru_cache(maxsize=4)
def camera(name: str, size: tuple[int, int], process: int, thread: int) -> Camera:
    """A camera for one thread, to which its OpenGL context belongs."""
    return Camera(name, size)
