"""Families as vector environments of Stable-Baselines3."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from metarl.errors import InvalidValueError
from metarl.families.family import Family
from metarl.families.gym_family import GymFamily, TaskedEnv, task_dict
from metarl.families.tasks import TaskLike, Tasks
from metarl.interop.facades import MetaVectorEnv, _merged, resolve_each
from metarl.learning.action_distributions import PolicyHead
from metarl.learning.encoders import ObservationEncoder

SEED_BITS = 0x7FFFFFFF  # mask that makes a 31-bit seed of a key


def normalized_space(family: Family) -> spaces.Space[Any]:
    """Action space with `normalize_actions`: a bounded Box becomes [-1, 1], other spaces stay."""
    space = family.action_space
    if not (isinstance(space, spaces.Box) and np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        return space
    return spaces.Box(-1.0, 1.0, space.shape, np.float32)


def check_spaces(family: Family, user: str) -> PolicyHead:
    """Check that Stable-Baselines3 supports the spaces; returns the head that maps actions to the family's."""
    ObservationEncoder(family.observation_space, user)
    head = PolicyHead(family.action_space, user)
    for name, space in (("observation", family.observation_space), ("action", family.action_space)):
        if isinstance(space, spaces.Discrete) and space.start != 0:
            raise InvalidValueError(f"{name} space of {user}", space, "a Discrete space that starts at 0")
    return head


class CyclingVectorEnv(MetaVectorEnv):
    """A `MetaVectorEnv` whose episodes play a set of tasks in turn; the set repeats."""

    def __init__(
        self, family: Family, num_envs: int, tasks: Tasks, device: torch.device, render_mode: str | None
    ) -> None:
        self.cycle = family.resolve(tasks)
        mode = AutoresetMode.SAME_STEP
        super().__init__(
            family, num_envs, redraw="episode", autoreset_mode=mode, device=device, render_mode=render_mode
        )

    def _next_tasks(self) -> Tasks:
        return self.cycle[(np.arange(self.num_envs) + self.num_envs * self._episodes) % len(self.cycle)]


def gym_vec_env(
    family: GymFamily, count: int, task: TaskLike | None, split: str, task_seed: int, redraw: str
) -> VecEnv:
    """Make `count` environments of a Gymnasium family in Stable-Baselines3's `DummyVecEnv`."""
    resolve = resolve_each if redraw == "never" else Family.resolve  # with redraw, any number of tasks
    tasks = resolve(family, task, split, task_seed, count)

    def draw(number: int, episode: int) -> dict[str, Any]:
        index = number + count * episode
        if task is not None:
            return task_dict(tasks, index % len(tasks))
        return task_dict(family.tasks(split, 1, task_seed, start=index))

    def make(number: int) -> TaskedEnv:
        env = family.make_env(tasks[number % len(tasks)])
        if redraw == "episode":
            env.redraw = functools.partial(draw, number)
        return env

    return DummyVecEnv([functools.partial(make, i) for i in range(count)])


class _Member:
    """One environment of a `FamilyVecEnv`, for `get_attr`, `set_attr` and `env_method`."""

    def __init__(self, vector: MetaVectorEnv, number: int) -> None:
        self.vector, self.number = vector, number

    @property
    def task(self) -> dict[str, Any]:
        """Values of the environment's task."""
        return task_dict(self.vector.tasks, self.number)

    def set_metarl_task(self, task: TaskLike) -> None:
        """Set the task that the environment plays from its next reset on."""
        vector = self.vector
        if vector.redraw == "episode":
            raise InvalidValueError("task", task, "none, because redraw is 'episode'")
        mask = np.arange(vector.num_envs) == self.number
        new = resolve_each(vector.family, task, vector.split, vector.task_seed, 1)
        vector.tasks = _merged(mask, new[[0] * vector.num_envs], vector.tasks)

    def __getattr__(self, name: str) -> Any:
        if name in ("vector", "number"):  # missing while the object is copied
            raise AttributeError(name)
        return getattr(self.vector, name)


class FamilyVecEnv(VecEnv):
    """A torch family as a `VecEnv`: a finished environment restarts in the same step.

    Each info holds "TimeLimit.truncated". At an episode's end it also holds "terminal_observation". If the family
    reports success, "success" is that of the step, and "is_success" says whether any step of the episode had success.

    Args:
        vector: the vector environment; its autoreset mode is SAME_STEP.
    """

    def __init__(self, vector: MetaVectorEnv) -> None:
        assert vector.autoreset_mode is AutoresetMode.SAME_STEP, "the autoreset mode is SAME_STEP"
        self.vector = vector
        self.members = [_Member(vector, i) for i in range(vector.num_envs)]
        self._actions: npt.NDArray[Any] = np.empty(0)
        self._success = np.zeros(vector.num_envs, dtype=bool)  # any success in the episode so far
        # copies, because models seed their spaces
        own = (copy.deepcopy(vector.single_observation_space), copy.deepcopy(vector.single_action_space))
        super().__init__(vector.num_envs, *own)

    def reset(self) -> VecEnvObs:
        """Start an episode in all environments, with the seeds of `seed` and the options of `set_options`.

        Returns:
            Observations `[num_envs, *obs]`.
        """
        for member, options in zip(self.members, self._options, strict=True):
            if "task" in options:
                member.set_metarl_task(options["task"])
        unseeded = all(seed is None for seed in self._seeds)
        obs, _ = self.vector.reset(seed=None if unseeded else list(self._seeds))
        self._success[:] = False
        self._reset_seeds()
        self._reset_options()
        return np.asarray(obs)

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Keep the actions `[num_envs, *action]` for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Take the step; returns observations, rewards `float32 [num_envs]`, dones and infos."""
        obs, reward, terminated, truncated, info = self.vector.step(self._actions)
        done = terminated | truncated
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": bool(cut)} for cut in truncated & ~terminated]
        parts = [part["success"] for part in (info, info.get("final_info", {})) if "success" in part]
        if parts:
            success = np.logical_or.reduce(parts)
            self._success |= success
            for own, now in zip(infos, success, strict=True):
                own["success"] = bool(now)
        for i in np.flatnonzero(done):
            infos[i]["terminal_observation"] = info["final_obs"][i]
            if parts:
                infos[i]["is_success"] = bool(self._success[i])
        self._success &= ~done
        return obs, reward.astype(np.float32), done, infos

    def get_images(self) -> Sequence[npt.NDArray[Any] | None]:
        """Draw each environment: `uint8 [height, width, 3]`; None without a `render_mode`."""
        return self.vector.render() or [None] * self.num_envs

    def close(self) -> None:
        """Close the vector environment."""
        self.vector.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Get an attribute of each environment, for example `task`."""
        return [getattr(member, attr_name) for member in self._chosen(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of each environment; a new `task` starts with the next reset."""
        for member in self._chosen(indices):
            if attr_name == "task":
                member.set_metarl_task(value)
            else:
                setattr(member, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """Call a method of each environment, for example `set_metarl_task`."""
        return [getattr(member, method_name)(*args, **kwargs) for member in self._chosen(indices)]

    def env_is_wrapped(self, wrapper_class: type[Any], indices: VecEnvIndices = None) -> list[bool]:
        """False for each environment: they have no wrappers."""
        return [False for _ in self._chosen(indices)]

    def _chosen(self, indices: VecEnvIndices) -> list[_Member]:
        return [self.members[i] for i in self._get_indices(indices)]


class NormalizedActions(VecEnvWrapper):
    """Takes actions in [-1, 1] and maps them affinely to the environments' Box."""

    def __init__(self, venv: VecEnv) -> None:
        self.head = PolicyHead(venv.action_space, "make_sb3_env")
        super().__init__(venv, action_space=spaces.Box(-1.0, 1.0, venv.action_space.shape, np.float32))

    def reset(self) -> VecEnvObs:
        """See `VecEnv.reset`."""
        return self.venv.reset()

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """See `VecEnv.step_async`."""
        self.venv.step_async(self.head.to_env(torch.as_tensor(actions, dtype=torch.float32)).numpy())

    def step_wait(self) -> VecEnvStepReturn:
        """See `VecEnv.step_wait`."""
        return self.venv.step_wait()
