"""Vector environments: the engine that steps slots of any family, and the Gymnasium facades over it.

The engine (`TorchSlots`, `GymSlots`) plays N slots, each in a task of its own, and restarts a finished episode in the
same call: the observation it returns belongs to the new episode, `final_obs` to the old one. `MetaVectorEnv` and
`MetaEnv` give everybody else `gymnasium.vector.VectorEnv` and `gymnasium.Env`, with Gymnasium's autoreset modes.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from metarl.errors import InvalidValueError, did_you_mean
from metarl.family import Family, GymFamily, State, TorchFamily, task_dict
from metarl.registry import make_family
from metarl.rng import Rng, fold_in, make_key
from metarl.tasks import Tasks


class Transition(NamedTuple):
    """What one step of all slots returns. Tensors have leading axis N."""

    obs: Tensor  # of the episode that goes on: a finished slot's is its next episode's first
    reward: Tensor  # float32
    terminated: Tensor  # bool: the MDP ended
    truncated: Tensor  # bool: the horizon was reached
    final_obs: Tensor  # obs before any restart
    success: Tensor | None  # bool, where the family reports it


class Slots(Protocol):
    """N environments that run side by side, each in its own task."""

    n: int
    device: torch.device

    def begin(self, tasks: Tasks, keys: Tensor, steps: int) -> Tensor:
        """Start an episode of task `i` in slot `i`; randomness descends from `keys`, `int64 [N]`; the first obs."""

    def step(self, action: Tensor) -> Transition:
        """One step of every slot, restarting those whose episode ended."""

    def close(self) -> None:
        """Free what the slots hold."""


def make_slots(family: Family, n: int, device: torch.device | str = "cpu") -> Slots:
    """The engine that fits a family's form."""
    if isinstance(family, TorchFamily):
        return TorchSlots(family, n, torch.device(device))
    if isinstance(family, GymFamily):
        return GymSlots(family, n, torch.device(device))
    raise InvalidValueError("family", type(family).__name__, "a TorchFamily or a GymFamily")


class TorchSlots:
    """Slots of a `TorchFamily`: tensor masks and static shapes, on the family's device."""

    def __init__(self, family: TorchFamily, n: int, device: torch.device) -> None:
        self.family, self.n, self.device = family, n, device
        self.state: State = None
        self.task: dict[str, Tensor] = {}
        self.t = torch.zeros(n, dtype=torch.int64, device=device)  # step within the episode
        self._never = torch.zeros(n, dtype=torch.bool, device=device)
        self._always = ~self._never

    def begin(self, tasks: Tasks, keys: Tensor, steps: int) -> Tensor:
        """See `Slots.begin`."""
        keys = keys.to(self.device)
        self.task = tasks.tensors(self.device)
        self._step_rng = Rng(fold_in(keys, torch.tensor(1, device=self.device)), steps)
        self._reset_rng = Rng(fold_in(keys, torch.tensor(2, device=self.device)))
        self.clock = 0  # steps since begin
        self._in_step = True  # whether all slots are at the same step of their episodes
        self.t.zero_()
        self.state = self.family.reset(self.task, self._reset_rng.seek(0))
        obs = self.family.observe(self.state, self.task)
        shape = (self.n, *(self.family.observation_space.shape or ()))
        _check_tensor(self.family, "observe", "observation", obs, shape)
        return obs

    def step(self, action: Tensor) -> Transition:
        """See `Slots.step`."""
        out, ended = self.advance(action)
        if ended is None:
            return out
        return out._replace(obs=self.restart(ended, in_step=ended is self._always))

    def advance(self, action: Tensor) -> tuple[Transition, Tensor | None]:
        """One step without restarting anything; also which slots ended (None when it is known that none did)."""
        result = self.family.step(self.state, action, self.task, self._step_rng.seek(self.clock))
        self.state, reward, terminated = result[:3]
        success = result[3].get("success") if len(result) == 4 else None
        if self.clock == 0:
            _check_tensor(self.family, "step", "reward", reward, (self.n,), torch.float32)
            _check_tensor(self.family, "step", "terminated", terminated, (self.n,), torch.bool)
        self.clock += 1
        self.t += 1
        obs = self.family.observe(self.state, self.task)
        truncated, ended = self._endings(terminated)
        return Transition(obs, reward, terminated, truncated, obs, success), ended

    def restart(self, mask: Tensor, tasks: Tasks | None = None, in_step: bool = False) -> Tensor:
        """Start an episode where `mask` `[N]` is true, in `tasks` where given; the observations of all slots."""
        self._in_step = self._in_step and in_step
        if tasks is not None:
            self.task = tree_where(mask, tasks.tensors(self.device), self.task)
        fresh = self.family.reset(self.task, self._reset_rng.seek(self.clock))
        self.state = fresh if mask is self._always else tree_where(mask, fresh, self.state)
        self.t = torch.where(mask, torch.zeros_like(self.t), self.t)
        return self.family.observe(self.state, self.task)

    def _endings(self, terminated: Tensor) -> tuple[Tensor, Tensor | None]:
        """Which slots are truncated, and which ended."""
        if self._in_step and not self.family.terminates:  # known without looking
            if self.clock % self.family.horizon:
                return self._never, None
            return self._always, self._always
        truncated = (self.t >= self.family.horizon) & ~terminated
        ended = terminated | truncated
        if self.device.type == "cpu" and not ended.any():
            return truncated, None
        return truncated, ended

    def close(self) -> None:
        """Nothing to free."""


class GymSlots:
    """Slots of a `GymFamily`, stepped by Gymnasium's own `SyncVectorEnv` with autoreset disabled."""

    def __init__(self, family: GymFamily, n: int, device: torch.device) -> None:
        self.family, self.n, self.device = family, n, device
        first = family.tasks("train", 1)
        self.envs = SyncVectorEnv([lambda: family.make_env(first)] * n, autoreset_mode=AutoresetMode.DISABLED)

    def begin(self, tasks: Tasks, keys: Tensor, steps: int) -> Tensor:
        """See `Slots.begin`; every episode is seeded from its slot's key and the step at which it starts."""
        self.keys, self.clock = keys.cpu(), 0
        for row, env in enumerate(self.envs.envs):
            env.set_metarl_task(task_dict(tasks, row))  # type: ignore[attr-defined]
        obs, _ = self.envs.reset(seed=self._seeds())
        return self._tensor(obs)

    def step(self, action: Tensor) -> Transition:
        """See `Slots.step`."""
        obs, reward, terminated, truncated, info = self.envs.step(self._to_numpy(action))
        self.clock += 1
        ended = terminated | truncated
        next_obs = final_obs = self._tensor(obs)
        if ended.any():
            obs, _ = self.envs.reset(seed=self._seeds(), options={"reset_mask": ended})
            next_obs = self._tensor(obs)
        found = info.get("success", info.get("is_success"))
        return Transition(
            obs=next_obs,
            reward=self._tensor(reward).float(),
            terminated=self._tensor(terminated),
            truncated=self._tensor(truncated & ~terminated),
            final_obs=final_obs,
            success=None if found is None else self._tensor(found).bool(),
        )

    def _seeds(self) -> list[int | None]:
        return list((fold_in(self.keys, torch.tensor(self.clock)) & 0x7FFFFFFF).tolist())

    def _to_numpy(self, action: Tensor) -> np.ndarray[Any, Any]:
        space = self.family.action_space
        out = action.cpu().numpy().astype(space.dtype)
        return out + space.start if isinstance(space, spaces.Discrete) else out

    def _tensor(self, array: Any) -> Tensor:
        out = torch.tensor(np.asarray(array), device=self.device)
        return out.float() if out.dtype == torch.float64 else out

    def close(self) -> None:
        """Close every environment."""
        self.envs.close()


def tree_where(mask: Tensor, new: State, old: State) -> State:
    """`torch.where` over a tensor, or a dict or tuple of them, the mask `bool [N]` broadcast over further axes."""
    if isinstance(new, Tensor):
        return torch.where(mask.view(-1, *[1] * (new.dim() - 1)), new, old)
    if isinstance(new, Mapping):
        return {k: tree_where(mask, new[k], old[k]) for k in new}
    return tuple(tree_where(mask, a, b) for a, b in zip(new, old, strict=True))


def _check_tensor(
    family: Family, function: str, what: str, value: Any, shape: tuple[int, ...], dtype: torch.dtype | None = None
) -> None:
    field = f"{what} of {type(family).__name__}.{function} ({family.id})"
    if not isinstance(value, Tensor):
        raise InvalidValueError(field, value, f"a tensor of shape {shape}")
    if tuple(value.shape) != shape:
        raise InvalidValueError(f"shape of the {field}", tuple(value.shape), f"{shape}, slots first")
    if dtype is not None and value.dtype != dtype:
        raise InvalidValueError(f"dtype of the {field}", value.dtype, str(dtype))


def _autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    try:
        return AutoresetMode(mode)
    except ValueError:
        raise InvalidValueError(
            "autoreset_mode", mode, did_you_mean(str(mode), [m.value for m in AutoresetMode])
        ) from None


REDRAW = ("never", "episode")
_ENDLESS = 1 << 30


class MetaVectorEnv(VectorEnv[Any, Any, Any]):
    """A torch family as a `gymnasium.vector.VectorEnv` over a flat `num_envs`.

    Args:
        family: a torch family or its id.
        num_envs: number of environments.
        task: what they play: an index into the split, one task's values as a dict, or `Tasks` (one, or `num_envs`).
            None plays tasks 0, ..., `num_envs - 1` of the split. `reset` never redraws it.
        split: the split that indices and redraws refer to.
        task_seed: the seed of that split.
        redraw: "never", or "episode" to go to a next task of the split whenever an episode starts.
        autoreset_mode: Gymnasium's; NEXT_STEP inserts a step whose action is ignored and whose reward is 0.
        device: where the family is stepped; arrays are NumPy's whatever it is.
        kwargs: for the family's constructor.
    """

    def __init__(
        self,
        family: str | Family,
        num_envs: int = 1,
        task: int | Mapping[str, Any] | Tasks | None = None,
        split: str = "train",
        task_seed: int = 0,
        redraw: str = "never",
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        device: str = "cpu",
        **kwargs: Any,
    ) -> None:
        if redraw not in REDRAW:
            raise InvalidValueError("redraw", redraw, did_you_mean(str(redraw), REDRAW))
        self.family = make_family(family, **kwargs)
        if not isinstance(self.family, TorchFamily):
            raise InvalidValueError("family", self.family.id, "a torch family; gym.make_vec serves the other form")
        self.num_envs, self.split, self.task_seed, self.redraw = num_envs, split, task_seed, redraw
        self.autoreset_mode = _autoreset_mode(autoreset_mode)
        self.metadata = {"autoreset_mode": self.autoreset_mode, "render_modes": []}
        self.render_mode = None
        self.single_observation_space = self.family.observation_space
        self.single_action_space = self.family.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.slots = TorchSlots(self.family, num_envs, torch.device(device))
        self.tasks = self._resolve(task)
        self._episodes = np.zeros(num_envs, dtype=np.int64)
        self._over = np.zeros(num_envs, dtype=bool)
        self._begun = False

    def _resolve(self, task: int | Mapping[str, Any] | Tasks | None) -> Tasks:
        tasks = resolve_task(self.family, task, self.split, self.task_seed, self.num_envs)
        if len(tasks) not in (1, self.num_envs):
            raise InvalidValueError("number of tasks", len(tasks), f"1 or num_envs = {self.num_envs}")
        return tasks if len(tasks) == self.num_envs else tasks[[0] * self.num_envs]

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode everywhere, or where `options["reset_mask"]` is true; `options["task"]` sets the task."""
        options = options or {}
        if "task" in options:
            self.tasks = self._resolve(options["task"])
        mask = np.asarray(options.get("reset_mask", np.ones(self.num_envs, dtype=bool)))
        if seed is None and self._begun:
            return self._restart(mask), {}
        seed = secrets.randbits(31) if seed is None else seed
        if isinstance(seed, int):
            self._np_random, self._np_random_seed = gym.utils.seeding.np_random(seed)
        base = seed if isinstance(seed, int) else make_key(*(s or 0 for s in seed))
        self._episodes[:] = 0
        self._over[:] = False
        self._begun = True
        if self.redraw == "episode":
            self.tasks = self._next_tasks()
        keys = fold_in(make_key("facade", base), torch.arange(self.num_envs))
        return self._numpy(self.slots.begin(self.tasks, keys, _ENDLESS)), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One step of every environment; actions `[num_envs, *action_space.shape]`."""
        if not self._begun:
            raise gym.error.ResetNeeded("call reset() before step()")
        if self.autoreset_mode == AutoresetMode.DISABLED and self._over.any():
            listing = np.flatnonzero(self._over).tolist()
            raise gym.error.ResetNeeded(
                f"environments {listing} have finished: reset them (options={{'reset_mask': ...}})"
            )
        space = self.single_action_space
        actions = np.asarray(actions) - (space.start if isinstance(space, spaces.Discrete) else 0)
        out, _ = self.slots.advance(torch.as_tensor(actions).to(self.slots.device))
        obs, reward = self._numpy(out.obs), out.reward.double().cpu().numpy()
        terminated, truncated = out.terminated.cpu().numpy().copy(), out.truncated.cpu().numpy().copy()
        info: dict[str, Any] = {}
        if out.success is not None:
            info = {"success": out.success.cpu().numpy(), "_success": np.ones(self.num_envs, dtype=bool)}
        if self.autoreset_mode == AutoresetMode.NEXT_STEP and self._over.any():
            obs = self._restart(self._over)
            reward[self._over], terminated[self._over], truncated[self._over] = 0.0, False, False
        self._over = terminated | truncated
        if self.autoreset_mode == AutoresetMode.SAME_STEP and self._over.any():
            info |= {"final_obs": obs, "_final_obs": self._over.copy()}
            obs = self._restart(self._over)
            self._over = np.zeros_like(self._over)
        return obs, reward, terminated, truncated, info

    def _restart(self, mask: np.ndarray[Any, Any]) -> Any:
        """Start an episode where `mask` is true; the observations of all."""
        self._episodes[mask] += 1
        if self.redraw == "episode":
            self.tasks = self._next_tasks()
        self._over = self._over & ~mask
        return self._numpy(self.slots.restart(torch.from_numpy(mask.copy()).to(self.slots.device), self.tasks))

    def _next_tasks(self) -> Tasks:
        index = np.arange(self.num_envs) + self.num_envs * self._episodes
        return self.family.tasks_at(self.split, index, self.task_seed)

    def _numpy(self, obs: Tensor) -> Any:
        return obs.cpu().numpy().astype(self.single_observation_space.dtype)


class MetaEnv(gym.Env[Any, Any]):
    """A torch family as a single `gymnasium.Env`; arguments as in `MetaVectorEnv`, `task` 0 of the split by default."""

    def __init__(self, family: str | Family, task: int | Mapping[str, Any] | Tasks = 0, **kwargs: Any) -> None:
        self.vector = MetaVectorEnv(family, 1, task, autoreset_mode=AutoresetMode.DISABLED, **kwargs)
        self.observation_space, self.action_space = (
            self.vector.single_observation_space,
            self.vector.single_action_space,
        )
        self.metadata = {"render_modes": []}

    @property
    def task(self) -> dict[str, Any]:
        """The values of the task being played."""
        return task_dict(self.vector.tasks)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode in the present task; `options["task"]` sets another."""
        super().reset(seed=seed)
        if seed is None and not self.vector._begun:
            seed = int(self.np_random.integers(1 << 31))
        obs, info = self.vector.reset(seed=seed, options=options)
        return obs[0], info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step."""
        obs, reward, terminated, truncated, info = self.vector.step(np.asarray(action)[None])
        plain = {k: v[0] for k, v in info.items() if not k.startswith("_")}
        return obs[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), plain


def resolve_task(
    family: Family, task: int | Mapping[str, Any] | Tasks | None, split: str, seed: int, count: int = 1
) -> Tasks:
    """Tasks from an index into a split, one task's values, `Tasks`, or None for the split's first `count`."""
    if task is None:
        return family.tasks(split, count, seed)
    if isinstance(task, (int, np.integer)):
        return family.tasks(split, 1, seed, start=int(task))
    if isinstance(task, Mapping):
        return family.make_tasks(**task)
    if not isinstance(task, Tasks):
        raise InvalidValueError("task", task, "an index, a dict of parameter values, or metarl.Tasks")
    return task


def make_env(family: str | Family, task: int | Mapping[str, Any] | Tasks = 0, **kwargs: Any) -> gym.Env[Any, Any]:
    """What `gym.make` calls: one environment of a family, of either form. Arguments as in `MetaVectorEnv`."""
    built = make_family(family)
    if isinstance(built, TorchFamily):
        return MetaEnv(family, task, **kwargs)
    assert isinstance(built, GymFamily)
    split, seed, redraw = kwargs.get("split", "train"), kwargs.get("task_seed", 0), kwargs.get("redraw", "never")
    env = built.make_env(resolve_task(built, task, split, seed))
    if redraw == "episode":
        env.redraw = lambda episode: task_dict(built.tasks(split, 1, seed, start=episode))
    return env


def make_vec_env(family: str | Family, num_envs: int = 1, **kwargs: Any) -> VectorEnv[Any, Any, Any]:
    """What `gym.make_vec` calls: `num_envs` environments of a family, of either form."""
    built = make_family(family)
    if isinstance(built, TorchFamily):
        return MetaVectorEnv(family, num_envs, **kwargs)
    mode = _autoreset_mode(kwargs.pop("autoreset_mode", AutoresetMode.NEXT_STEP))
    start = kwargs.pop("task", None)
    tasks = resolve_task(built, start, kwargs.get("split", "train"), kwargs.get("task_seed", 0), num_envs)
    rows = [tasks[i % len(tasks)] for i in range(num_envs)]
    return SyncVectorEnv([functools.partial(make_env, built, row, **kwargs) for row in rows], autoreset_mode=mode)
