"""Families as Gymnasium environments: `gymnasium.Env` and `gymnasium.vector.VectorEnv`.

`gym.make` and `gym.make_vec` call `make_env` and `make_vec_env`. The vector environment has Gymnasium's autoreset
modes. A reset keeps the task, unless `redraw="episode"`.
"""

from __future__ import annotations

import functools
import secrets
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from metarl.devices import Device, resolve_device
from metarl.engine.torch_environments import TorchEnvironments, one_environment
from metarl.errors import InvalidValueError, did_you_mean
from metarl.families.family import Family, TorchFamily
from metarl.families.gym_family import GymFamily, task_dict
from metarl.families.registry import make_family
from metarl.families.tasks import TaskLike, Tasks
from metarl.rng import make_key

Bools = npt.NDArray[np.bool_]  # [num_envs]
REDRAW = ("never", "episode")
RENDER_MODES = (None, "rgb_array")
METADATA = {"render_modes": ["rgb_array"], "render_fps": 15}
GYM_KEYWORDS = ("split", "task_seed", "redraw", "render_mode")
_ENDLESS = 1 << 30  # steps of a trial


def resolve_each(family: Family, task: TaskLike | None, split: str, task_seed: int, num_envs: int) -> Tasks:
    """Check tasks and return one for each environment; a single task is repeated. See `Family.resolve`.

    Raises:
        InvalidValueError: the number of tasks is neither 1 nor `num_envs`, or the tasks belong to another family.
    """
    tasks = family.resolve(task, split, task_seed, num_envs)
    if len(tasks) not in (1, num_envs):
        raise InvalidValueError("number of tasks", len(tasks), f"1 or num_envs = {num_envs}")
    return tasks if len(tasks) == num_envs else tasks[[0] * num_envs]


class MetaVectorEnv(VectorEnv[Any, Any, Any]):
    """A torch family as a `gymnasium.vector.VectorEnv` over a flat `num_envs`.

    Args:
        family: a torch family or its id.
        num_envs: number of environments.
        task: an index into the split, one task's values as a dict, or `Tasks` (1 or `num_envs`). None means tasks 0,
            ..., `num_envs - 1` of the split.
        split: the split that indices and redraws refer to.
        task_seed: the seed of that split.
        redraw: "never", or "episode": every episode starts with the next task of the split.
        autoreset_mode: Gymnasium's autoreset mode. NEXT_STEP inserts a step that ignores the action and has reward 0.
        device: the device that steps the family; all returned arrays are NumPy arrays.
        render_mode: "rgb_array" lets `render` return a picture of each environment, `uint8 [height, width, 3]`.
        kwargs: arguments of the family's constructor.
    """

    def __init__(
        self,
        family: str | Family,
        num_envs: int = 1,
        task: TaskLike | None = None,
        split: str = "train",
        task_seed: int = 0,
        redraw: str = "never",
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        device: Device | torch.device = "cpu",
        render_mode: str | None = None,
        **kwargs: Any,
    ) -> None:
        if render_mode not in RENDER_MODES:
            raise InvalidValueError("render_mode", render_mode, "None or 'rgb_array'")
        if redraw not in REDRAW:
            raise InvalidValueError("redraw", redraw, did_you_mean(str(redraw), REDRAW))
        self.family = make_family(family, **kwargs)
        if not isinstance(self.family, TorchFamily):
            raise InvalidValueError("family", self.family.id, "a torch family; gym.make_vec serves the other form")
        self.num_envs, self.split, self.task_seed, self.redraw = num_envs, split, task_seed, redraw
        self.autoreset_mode = _autoreset_mode(autoreset_mode)
        self.metadata = {"autoreset_mode": self.autoreset_mode, **METADATA}
        self.render_mode = render_mode
        self.single_observation_space = self.family.observation_space
        self.single_action_space = self.family.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.envs = TorchEnvironments(self.family, num_envs, resolve_device(device))
        if task is not None and redraw == "episode":
            raise InvalidValueError("task", task, "none, because redraw is 'episode'")
        self.tasks = self._resolve(task)
        self._episodes = np.zeros(num_envs, dtype=np.int64)
        self._over = np.zeros(num_envs, dtype=bool)
        self._begun = False

    def _resolve(self, task: TaskLike | None) -> Tasks:
        return resolve_each(self.family, task, self.split, self.task_seed, self.num_envs)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode in all environments, or where `options["reset_mask"]` is true.

        `options["task"]` sets the task. The seed of environment i is `seed + i`, or `seed[i]`. Its draws do not
        depend on the other environments.
        """
        options = options or {}
        if "task" in options and self.redraw == "episode":
            raise InvalidValueError("options['task']", options["task"], "none, because redraw is 'episode'")
        mask = self._mask(options.get("reset_mask"))
        if "task" in options:
            self.tasks = _merged(mask, self._resolve(options["task"]), self.tasks)
        if seed is None and self._begun:
            return self._restart(mask, new_trial="task" in options), {}
        keys = self._keys(secrets.randbits(31) if seed is None else seed)
        if self._begun and not mask.all():
            return self._restart(mask, keys, new_trial=True), {}
        self._episodes[:] = 0
        self._over[:] = False
        self._begun = True
        if self.redraw == "episode":
            self.tasks = self._next_tasks()
        return self._numpy(self.envs.begin(self.tasks, keys, _ENDLESS)), {}

    def _mask(self, mask: object) -> Bools:
        """Check `options["reset_mask"]`; None means all environments."""
        if mask is None:
            return np.ones(self.num_envs, dtype=bool)
        fits = isinstance(mask, np.ndarray) and mask.dtype == bool and mask.shape == (self.num_envs,) and mask.any()
        if not fits:
            raise InvalidValueError("reset_mask", mask, f"a bool array of shape ({self.num_envs},), true somewhere")
        return np.asarray(mask)

    def _keys(self, seed: int | list[int | None]) -> Tensor:
        """Make one key for each environment from its seed."""
        if isinstance(seed, int):
            self._np_random, self._np_random_seed = gym.utils.seeding.np_random(seed)
            seed = [seed + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise InvalidValueError("number of seeds", len(seed), f"num_envs = {self.num_envs}")
        seeds = [secrets.randbits(31) if s is None else s for s in seed]
        return torch.tensor([make_key("facade", s) for s in seeds])

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step every environment; actions `[num_envs, *action_space.shape]`."""
        if not self._begun:
            raise gym.error.ResetNeeded("call reset() before step()")
        if self.autoreset_mode == AutoresetMode.DISABLED and self._over.any():
            listing = np.flatnonzero(self._over).tolist()
            raise gym.error.ResetNeeded(
                f"environments {listing} have finished: reset them (options={{'reset_mask': ...}})"
            )
        out, _ = self.envs.advance(self._actions(actions))
        obs, reward = self._numpy(out.obs), out.reward.double().cpu().numpy()
        terminated, truncated = out.terminated.cpu().numpy().copy(), out.truncated.cpu().numpy().copy()
        success = None if out.success is None else out.success.cpu().numpy().copy()
        inserted = np.zeros_like(self._over)
        if self.autoreset_mode == AutoresetMode.NEXT_STEP and self._over.any():
            inserted = self._over.copy()  # these environments ignore the action; their reward is 0
            obs = self._restart(inserted)
            reward[inserted], terminated[inserted], truncated[inserted] = 0.0, False, False
        self._over = terminated | truncated
        info = _info(success, ~inserted)
        if self.autoreset_mode == AutoresetMode.SAME_STEP and self._over.any():
            over = self._over.copy()
            final_obs = np.full(self.num_envs, None, dtype=object)
            for i in np.flatnonzero(over):
                final_obs[i] = obs[i]
            info = {"final_obs": final_obs, "_final_obs": over, "final_info": _info(success, over), "_final_info": over}
            info |= _info(success, ~over)
            obs = self._restart(over)
        return obs, reward, terminated, truncated, info

    def _actions(self, actions: Any) -> Tensor:
        """Convert actions to the family's form: float32, or int64 that starts at 0."""
        space = self.single_action_space
        if np.shape(actions) != (self.num_envs, *(space.shape or ())):
            expected = (self.num_envs, *(space.shape or ()))
            raise InvalidValueError("shape of the actions", np.shape(actions), f"{expected}, environments first")
        if isinstance(space, spaces.Discrete):
            return torch.as_tensor(np.asarray(actions) - space.start).to(self.envs.device, torch.int64)
        return torch.as_tensor(np.asarray(actions)).to(self.envs.device, torch.float32)

    def _restart(self, mask: Bools, keys: Tensor | None = None, new_trial: bool = False) -> Any:
        """Start an episode where `mask` is true (with `new_trial`, a new trial); returns all observations."""
        self._episodes[mask] += 1
        if self.redraw == "episode":
            self.tasks = self._next_tasks()
        self._over = self._over & ~mask
        restarted = torch.from_numpy(mask.copy()).to(self.envs.device)
        return self._numpy(self.envs.restart(restarted, self.tasks, keys, new_trial=new_trial))

    def render(self) -> tuple[npt.NDArray[np.uint8], ...] | None:
        """Draw each environment: `uint8 [height, width, 3]`; None without `render_mode="rgb_array"`."""
        if self.render_mode is None:
            return None
        if not self._begun:
            raise gym.error.ResetNeeded("call reset() before render()")
        from metarl.report.rendering import frame  # loads matplotlib

        state, task = self.envs.state, self.envs.task
        return tuple(
            frame(self.envs.family, one_environment(state, i), one_environment(task, i)) for i in range(self.num_envs)
        )

    def _next_tasks(self) -> Tasks:
        index = np.arange(self.num_envs) + self.num_envs * self._episodes
        return self.family.tasks_at(self.split, index, self.task_seed)

    def _numpy(self, obs: Tensor) -> Any:
        return obs.cpu().numpy().astype(self.single_observation_space.dtype)


def _merged(mask: Bools, new: Tasks, old: Tasks) -> Tasks:
    """Take the new tasks where `mask` is true, and the old tasks elsewhere."""
    values = {k: np.where(mask.reshape(-1, *[1] * (v.ndim - 1)), new.values[k], v) for k, v in old.values.items()}
    split = new.split if mask.all() or new.split == old.split else "custom"
    return replace(new, split=split, index=np.where(mask, new.index, old.index), values=values)


def _info(success: Bools | None, reported: Bools) -> dict[str, Any]:
    """Make Gymnasium's vector info: a value for each environment, and a mask of the environments that report one."""
    if success is None or not reported.any():
        return {}
    return {"success": success & reported, "_success": reported}


class MetaEnv(gym.Env[Any, Any]):
    """A torch family as one `gymnasium.Env`. The arguments are those of `MetaVectorEnv`; `task` is 0 by default."""

    def __init__(self, family: str | Family, task: TaskLike | None = None, **kwargs: Any) -> None:
        self.vector = MetaVectorEnv(family, 1, task, autoreset_mode=AutoresetMode.DISABLED, **kwargs)
        self.observation_space, self.action_space = (
            self.vector.single_observation_space,
            self.vector.single_action_space,
        )
        self.metadata, self.render_mode = METADATA, self.vector.render_mode

    def render(self) -> npt.NDArray[np.uint8] | None:
        """Draw the environment: `uint8 [height, width, 3]`; None without `render_mode="rgb_array"`."""
        frames = self.vector.render()
        return None if frames is None else frames[0]

    @property
    def task(self) -> dict[str, Any]:
        """Values of the present task."""
        return task_dict(self.vector.tasks)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode in the present task; `options["task"]` sets another task."""
        super().reset(seed=seed)
        if seed is None and not self.vector._begun:
            seed = int(self.np_random.integers(1 << 31))
        obs, info = self.vector.reset(seed=seed, options=options)
        return obs[0], info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step the environment."""
        obs, reward, terminated, truncated, info = self.vector.step(np.asarray(action)[None])
        plain = {k: v[0].item() for k, v in info.items() if not k.startswith("_")}
        return obs[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), plain


def make_env(family: str | Family, task: TaskLike | None = None, **kwargs: Any) -> gym.Env[Any, Any]:
    """Make one environment of a family of either form, for `gym.make`. See `MetaVectorEnv` for the arguments."""
    built = make_family(family)
    if isinstance(built, GymFamily):
        return _make_gym_env(built, task, 0, 1, **kwargs)
    return MetaEnv(family, task, **kwargs)


def _make_gym_env(
    family: GymFamily,
    task: TaskLike | None,
    number: int,
    count: int,
    split: str = "train",
    task_seed: int = 0,
    redraw: str = "never",
    render_mode: str | None = None,
    **unknown: Any,
) -> gym.Env[Any, Any]:
    """Make environment `number` of `count`; with `redraw="episode"`, its episode e plays task `number + count * e`."""
    for name in unknown:
        raise InvalidValueError("keyword", name, did_you_mean(name, GYM_KEYWORDS))
    if redraw not in REDRAW:
        raise InvalidValueError("redraw", redraw, did_you_mean(str(redraw), REDRAW))
    if task is not None and redraw == "episode":
        raise InvalidValueError("task", task, "none, because redraw is 'episode'")
    if render_mode not in RENDER_MODES:
        raise InvalidValueError("render_mode", render_mode, "None or 'rgb_array'")
    source = family.visible() if render_mode else family
    env = source.make_env(family.resolve(task, split, task_seed))
    env.split, env.task_seed = split, task_seed
    if redraw == "episode":
        env.redraw = lambda episode: task_dict(family.tasks(split, 1, task_seed, start=number + count * episode))
    return env


def make_vec_env(family: str | Family, num_envs: int = 1, **kwargs: Any) -> VectorEnv[Any, Any, Any]:
    """Make `num_envs` environments of a family of either form, for `gym.make_vec`."""
    built = make_family(family)
    if not isinstance(built, GymFamily):
        return MetaVectorEnv(family, num_envs, **kwargs)
    mode = _autoreset_mode(kwargs.pop("autoreset_mode", AutoresetMode.NEXT_STEP))
    task: Any = kwargs.pop("task", None)
    tasks: list[TaskLike | None] = [None] * num_envs
    if kwargs.get("redraw", "never") == "never" or task is not None:
        resolved = resolve_each(built, task, kwargs.get("split", "train"), kwargs.get("task_seed", 0), num_envs)
        tasks = [resolved[i] for i in range(num_envs)]
    makers = [functools.partial(_make_gym_env, built, own, i, num_envs, **kwargs) for i, own in enumerate(tasks)]
    return SyncVectorEnv(makers, autoreset_mode=mode)


def _autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    try:
        return AutoresetMode(mode)
    except ValueError:
        raise InvalidValueError(
            "autoreset_mode", mode, did_you_mean(str(mode), [m.value for m in AutoresetMode])
        ) from None
