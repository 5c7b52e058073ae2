"""Steps many environments of the package metaworld on several threads.

Every thread has arms of its own (`meta_world_arms`), and threads step side by side, because MuJoCo releases Python's
lock. Observations and rewards are then computed for all environments with one name at once where `meta_world_skills`
has them, and by the package's functions elsewhere.

A state is all that the next step depends on: MuJoCo's state, the last observation, and what a reward remembers. So
states and observations are the package's bit for bit, whichever arm plays (tests compare all 50 environments).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from metarl.config import Range
from metarl.envs.packages.meta_world_arms import NOW, OBSERVATION, ROTATED, SIZE, Arm, Scene, opened
from metarl.envs.packages.meta_world_skills import SKILLS, Floats, Moment, Named, Places
from metarl.envs.packages.meta_world_terms import Bools, Doubles

QUATERNION = slice(7, 11)  # of the first object, in an observation


class States(NamedTuple):
    """The states of N environments.

    Attributes:
        physics: MuJoCo's states, float64 `[N, 64]`; they end in zeros.
        observation: what the package returned last, float32 `[N, 39]`.
        now: the part of the observation for this moment, before it was clipped, float64 `[N, 18]`.
        remembered: what a reward remembers about the episode, float64 `[N, 1]`; NaN for nothing.
    """

    physics: Doubles
    observation: Floats
    now: Doubles
    remembered: Doubles


class _Batch:
    """What a step reads of the environments with one name, for `SKILLS`.

    Args:
        arm: one of that name.
        rows: their numbers, `[n]`.
    """

    def __init__(self, arm: Arm, rows: npt.NDArray[np.int64]) -> None:
        self.arm, self.rows, self.skill = arm, rows, SKILLS[arm.name]
        data, n = arm.data, len(rows)
        self.bodies, self.sites, self.geoms, self.quaternions = (
            np.empty((n, *view.shape)) for view in (data.xpos, data.site_xpos, data.geom_xpos, data.xquat)
        )
        self.index = {row: i for i, row in enumerate(rows.tolist())}

    def read(self, row: int, arm: Arm) -> None:
        """Keep where the parts of one robot are."""
        i, data = self.index[row], arm.data
        self.bodies[i], self.sites[i], self.geoms[i] = data.xpos, data.site_xpos, data.geom_xpos
        if self.skill.quaternion not in (None, "rotated"):
            self.quaternions[i] = data.xquat

    def places(self, joints: Doubles) -> Places:
        """Where the parts are, by name; with the joints' positions `[n, nq]`."""
        values = (self.bodies, self.sites, self.geoms, joints)
        return Places(*(Named(x, numbers) for x, numbers in zip(values, self.arm.numbers, strict=True)))

    def look(self, places: Places, now: Doubles) -> None:
        """Write what observations tell of this moment to `now`, `[n, 18]`; no quaternions that come from matrices."""
        between = places.bodies["rightclaw"] - places.bodies["leftclaw"]
        squares = (between[:, None] @ between[:, :, None])[:, 0, 0]  # the sums of `np.linalg.norm`, bit for bit
        now[:, :3], now[:, 3] = places.bodies["hand"], opened(np.sqrt(squares))
        now[:, 4:7] = self.skill.position(places)
        if self.skill.quaternion not in (None, "rotated"):
            now[:, QUATERNION] = self.quaternions[:, self.arm.numbers[0][self.skill.quaternion]]


class Arms:
    """The arms of one process: for each thread one of each environment, made when it is first needed.

    Args:
        threads: number of threads, at least 1.

    Raises:
        InvalidValueError: `threads` is smaller.
    """

    def __init__(self, threads: int) -> None:
        Range(1, 4096).check("threads", threads, whole=True)
        self.threads = threads
        self._arms: list[dict[str, Arm]] = [{} for _ in range(threads)]
        self._lock = threading.RLock()  # a user may play a family in several threads
        self._pool = ThreadPoolExecutor(threads, "metarl-metaworld") if threads > 1 else None

    def arm(self, name: str, thread: int = 0) -> Arm:
        """A thread's arm."""
        arms = self._arms[thread]
        if name not in arms:
            arms[name] = Arm(name)
        return arms[name]

    def start(self, names: Sequence[str], vectors: Floats) -> States:
        """The states in which episodes start.

        Args:
            names: the N environments.
            vectors: their placements, `[N, 6]`.
        """
        n, nothing = len(names), np.full((len(names), 1), np.nan)
        out = States(np.zeros((n, SIZE)), np.empty((n, OBSERVATION), np.float32), np.empty((n, NOW)), nothing)
        with self._lock:
            for row, name in enumerate(names):
                scene = self.arm(name).scene(vectors[row])
                out.physics[row] = scene.physics
                out.observation[row], out.now[row] = scene.observation, scene.now
        return out

    def step(
        self, names: Sequence[str], vectors: Floats, states: States, action: Floats
    ) -> tuple[States, Floats, Bools, Bools]:
        """One step of N environments: their new states, rewards `[N]`, successes `[N]`, and whose physics failed `[N]`.

        An environment whose physics fails stays where it was, and is paid nothing.

        Args:
            names: the environments.
            vectors: their placements, `[N, 6]`.
            states: theirs; they are not changed.
            action: `[N, 4]`.
        """
        with self._lock:
            return _Step(self, names, vectors, states, action).done()

    def share(self, work: Callable[[int], None]) -> None:
        """Call `work(thread)` for each thread, side by side."""
        if self._pool is None:
            work(0)
        else:
            list(self._pool.map(work, range(self.threads)))


class _Step:
    """One step of N environments; arguments as in `Arms.step`."""

    def __init__(self, arms: Arms, names: Sequence[str], vectors: Floats, states: States, action: Floats) -> None:
        n = len(names)
        self.arms, self.names, self.vectors, self.action = arms, names, vectors, action
        self.physics, self.remembered = np.empty_like(states.physics), states.remembered.copy()
        self.now, self.observation = np.zeros((n, NOW)), np.zeros((n, OBSERVATION))
        self.observation[:, NOW : 2 * NOW] = states.now
        self.rotations = np.tile(np.eye(3).ravel(), (n, 1))
        self.reward, self.success = np.empty(n, np.float32), np.empty(n, np.bool_)
        self.failed = np.zeros(n, np.bool_)
        self.effort: list[float] = action[:, 3].tolist()
        self.scenes: list[Scene] = [arms.arm(name).scene(vectors[row]) for row, name in enumerate(names)]
        kinds = np.array(names)
        self.batches: dict[str, _Batch] = {}
        for name in sorted(set(names)):
            rows, arm = np.flatnonzero(kinds == name), arms.arm(name)
            self.physics[rows] = arm.pulled(states.physics[rows], action[rows])
            if name in SKILLS:
                self.batches[name] = _Batch(arm, rows)
        order = np.argsort(kinds, kind="stable")  # an arm plays its scenes one after another
        self.shares = [share.tolist() for share in np.array_split(order, arms.threads)]
        self.rotated = np.flatnonzero(np.isin(kinds, list(ROTATED)))

    def done(self) -> tuple[States, Floats, Bools, Bools]:
        """Step, look and judge."""
        for thread, share in enumerate(self.shares):
            for name in {self.names[row] for row in share}:
                self.arms.arm(name, thread)  # one thread loads all models
        self.arms.share(self._physics)
        for row, name in enumerate(self.names):
            if name not in SKILLS:
                self._judge_alone(row, self.arms.arm(name))
        for batch in self.batches.values():
            self._judge(batch)
        if len(self.rotated):
            quaternions = Rotation.from_matrix(self.rotations[self.rotated].reshape(-1, 3, 3)).as_quat()
            self.now[self.rotated, QUATERNION] = self.observation[self.rotated, QUATERNION] = quaternions
        states = States(self.physics, self.observation.astype(np.float32), self.now, self.remembered)
        return states, np.where(self.failed, np.float32(0), self.reward), self.success & ~self.failed, self.failed

    def _physics(self, thread: int) -> None:
        """Step the environments of one thread."""
        for row in self.shares[thread]:
            name = self.names[row]
            arm, batch = self.arms.arm(name, thread), self.batches.get(name)
            arm.place_in(self.scenes[row])
            self.failed[row] = arm.step(self.physics[row], self.effort[row])
            if arm.rotation is not None:
                self.rotations[row] = arm.rotation
            if batch is not None:
                batch.read(row, arm)

    def _judge_alone(self, row: int, arm: Arm) -> None:
        """The observation, reward and success of one environment by the package, row after row because of Python."""
        arm.show(self.scenes[row], self.physics[row])
        now, observation = self.now[row], self.observation[row]
        arm.look(now)
        observation[:NOW] = now
        np.clip(observation, arm.low, arm.high, out=observation)
        judged = arm.judge(observation, self.action[row], self.remembered[row])
        self.reward[row], self.success[row] = judged

    def _judge(self, batch: _Batch) -> None:
        """Observations, rewards and successes of the environments with one name."""
        rows, arm, places = batch.rows, batch.arm, batch.places(self.physics[batch.rows][:, batch.arm.joints])
        now = np.zeros((len(rows), NOW))
        batch.look(places, now)
        observation = np.concatenate([now, self.observation[rows, NOW:]], axis=1)
        observation = np.clip(observation, arm.low, arm.high)
        numbers = [self.scenes[row].number for row in rows.tolist()]
        moment = Moment(places, observation, self.action[rows], arm.fixed(numbers))
        self.reward[rows], self.success[rows] = batch.skill.reward(moment)
        self.now[rows], self.observation[rows] = now, observation


@lru_cache(maxsize=4)
def shared(threads: int, process: int) -> Arms:
    """The arms that all families share. A forked process needs its own threads."""
    return Arms(threads)
