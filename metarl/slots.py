"""The engine: N slots of any family side by side, each in a task of its own.

A finished episode is followed by the next in the same call: the observation a step returns belongs to the episode that
goes on, `final_obs` to the one that was played.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor

from metarl.errors import InvalidValueError
from metarl.family import Family, GymFamily, State, TorchFamily, task_dict
from metarl.recording import Recorder
from metarl.rng import Rng, fold_in
from metarl.tasks import Tasks


class Transition(NamedTuple):
    """What one step of all slots returns. Tensors have leading axis N."""

    obs: Tensor  # of the episode that goes on: a finished slot's is its next episode's first
    reward: Tensor  # float32
    terminated: Tensor  # bool: the MDP ended
    truncated: Tensor  # bool: the horizon was reached
    final_obs: Tensor  # obs before any restart
    success: Tensor | None  # bool, where the family reports it
    expected_reward: Tensor | None = None  # float32: before the reward was drawn, where the family reports it


# what a step may tell besides: its type, and what stands where it does not
INFO: dict[str, tuple[torch.dtype, Any]] = {
    "success": (torch.bool, np.False_),
    "expected_reward": (torch.float32, np.float32("nan")),
}


class Slots(Protocol):
    """N environments that run side by side, each in its own task."""

    n: int
    device: torch.device

    def begin(self, tasks: Tasks, keys: Tensor, steps: int, episode: int = 0) -> Tensor:
        """Start an episode of task `i` in slot `i`; randomness descends from `keys`, `int64 [N]`; the first obs.

        `episode` is its number in the trial, which families whose task switches look at.
        """

    def step(self, action: Tensor) -> Transition:
        """One step of every slot, restarting those whose episode ended."""

    def close(self) -> None:
        """Free what the slots hold."""


def make_slots(family: Family, n: int, device: torch.device | str = "cpu") -> Slots:
    """The engine that fits a family's form."""
    if isinstance(family, TorchFamily):
        return TorchSlots(family, n, torch.device(device))
    if isinstance(family, GymFamily):
        from metarl.workers import WorkerSlots, worker_count

        count = worker_count(family, n)
        return GymSlots(family, n, torch.device(device)) if count < 2 else WorkerSlots(family, n, device, count)
    raise InvalidValueError("family", type(family).__name__, "a TorchFamily or a GymFamily")


@contextmanager
def engine_threads(family: Family) -> Iterator[None]:
    """One thread for PyTorch while a family that steps in threads of its own (`on_host`) is played.

    PyTorch's threads wait for their next work by spinning, which would take the cores from those that step: with two of
    each on two cores 256 HalfCheetahs ran at 58 % of the speed.
    """
    threads = torch.get_num_threads()
    alone = isinstance(family, TorchFamily) and family.on_host and threads > 1
    if alone:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if alone:
            torch.set_num_threads(threads)


class TorchSlots:
    """Slots of a `TorchFamily`: tensor masks and static shapes, on the family's device."""

    def __init__(self, family: TorchFamily, n: int, device: torch.device) -> None:
        self.family, self.n, self.device = family, n, device
        self.recorder = Recorder()
        self.state: State = None
        self.task: dict[str, Tensor] = {}
        self.t = torch.zeros(n, dtype=torch.int64, device=device)  # step within the episode
        self._never = torch.zeros(n, dtype=torch.bool, device=device)
        self._always = ~self._never

    def begin(self, tasks: Tasks, keys: Tensor, steps: int, episode: int = 0) -> Tensor:
        """See `Slots.begin`."""
        return self.start(tasks.tensors(self.device), keys.to(self.device), steps, episode)

    def start(self, task: dict[str, Tensor], keys: Tensor, steps: int, episode: int = 0) -> Tensor:
        """`begin` with the tasks' values `[N, ...]` and the keys where they are needed already."""
        self.task = task
        self._set_keys(keys, steps)
        self.clock = 0  # steps since begin
        self._in_step = True  # whether all slots are at the same step of their episodes
        self.t = torch.zeros_like(self.t)  # a new one: a recording must not write into what another rollout left
        self.state = self.family.begin_at(self.task, self._reset_rng.seek(0), episode)
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
        info = result[3] if len(result) == 4 else {}
        if self.clock == 0:
            _check_tensor(self.family, "step", "reward", reward, (self.n,), torch.float32)
            _check_tensor(self.family, "step", "terminated", terminated, (self.n,), torch.bool)
            for name, (dtype, _) in INFO.items():
                if name in info:
                    _check_tensor(self.family, "step", f"info[{name!r}]", info[name], (self.n,), dtype)
        self.clock += 1
        self.t += 1
        obs = self.family.observe(self.state, self.task)
        truncated, ended = self._endings(terminated)
        told = (info.get(name) for name in INFO)
        return Transition(obs, reward, terminated, truncated, obs, *told), ended

    def _set_keys(self, keys: Tensor, steps: int) -> None:
        self._step_rng = Rng(fold_in(keys, 1), steps)
        self._reset_rng = Rng(fold_in(keys, 2))

    def restart(
        self,
        mask: Tensor,
        tasks: Tasks | None = None,
        keys: Tensor | None = None,
        in_step: bool = False,
        anew: bool = False,
    ) -> Tensor:
        """Start an episode where `mask` `[N]` is true, in `tasks` and with `keys` where given; all observations.

        It is the trial's next one, or with `anew` the first of a trial.
        """
        self._in_step = self._in_step and in_step
        if keys is not None:
            for purpose, rng in ((1, self._step_rng), (2, self._reset_rng)):
                rng.rekey(mask, fold_in(keys.to(self.device), purpose), self.clock)
        if tasks is not None:
            self.task = tree_where(mask, tasks.tensors(self.device), self.task)
        rng = self._reset_rng.seek(self.clock)
        fresh = self.family.reset(self.task, rng) if anew else self.family.next_episode(self.state, self.task, rng)
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

        def make() -> gym.Env[Any, Any]:
            env = family.make_env(first)
            env.told = tuple(INFO)
            return env

        self.envs = SyncVectorEnv([make] * n, autoreset_mode=AutoresetMode.DISABLED)

    def begin(self, tasks: Tasks, keys: Tensor, steps: int, episode: int = 0) -> Tensor:
        """See `Slots.begin`; every episode is seeded from its slot's key and the step at which it starts."""
        self.keys, self.clock = keys.cpu(), 0
        for row, env in enumerate(self.envs.envs):
            label = f"task {int(tasks.index[row])} of split {tasks.split!r}, seed {tasks.seed}"
            env.set_metarl_task(task_dict(tasks, row), episode, label)  # type: ignore[attr-defined]
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
        found, mean = info.get("success"), info.get("expected_reward")
        if mean is not None:
            mean = np.where(info["_expected_reward"], mean, INFO["expected_reward"][1])
        return Transition(
            obs=next_obs,
            reward=self._tensor(reward).float(),
            terminated=self._tensor(terminated),
            truncated=self._tensor(truncated & ~terminated),
            final_obs=final_obs,
            success=None if found is None else self._tensor(found).bool(),
            expected_reward=None if mean is None else self._tensor(mean).float(),
        )

    def _seeds(self) -> list[int | None]:
        return list((fold_in(self.keys, self.clock) & 0x7FFFFFFF).tolist())

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
