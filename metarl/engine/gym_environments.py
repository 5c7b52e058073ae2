"""Environments of a Gymnasium family in this process; Gymnasium's `SyncVectorEnv` steps them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor

from metarl.agent_base import REPORTED
from metarl.engine.environments import Transition
from metarl.families.building import GymEnv
from metarl.families.gym_family import GymFamily, task_dict
from metarl.families.tasks import Tasks
from metarl.rng import fold_in


class GymEnvironments:
    """Environments of a `GymFamily` in a Gymnasium `SyncVectorEnv` with autoreset disabled."""

    def __init__(self, family: GymFamily, n: int, device: torch.device) -> None:
        self.family, self.n, self.device = family, n, device
        first = family.tasks("train", 1)

        def make() -> GymEnv:
            env = family.make_env(first)
            env.info_keys = tuple(REPORTED)
            return env

        self.envs = SyncVectorEnv([make] * n, autoreset_mode=AutoresetMode.DISABLED)

    @property
    def simulator(self) -> None:
        """None, because Gymnasium environments do not expose their state."""
        return None

    def begin(self, tasks: Tasks, keys: Tensor, steps: int, episode: int = 0) -> Tensor:
        """See `Environments.begin`. The seed of an episode depends on its environment's key and its first step."""
        self.keys, self.clock = keys.cpu(), 0
        for row, env in enumerate(self.envs.envs):
            label = f"task {int(tasks.index[row])} of split {tasks.split!r}, seed {tasks.seed}"
            env.set_metarl_task(task_dict(tasks, row), episode, label)  # type: ignore[attr-defined]
        obs, _ = self.envs.reset(seed=self._seeds())
        return self._tensor(obs)

    def step(self, action: Tensor) -> Transition:
        """See `Environments.step`."""
        obs, reward, terminated, truncated, info = self.envs.step(self._to_numpy(action))
        self.clock += 1
        ended = terminated | truncated
        next_obs = final_obs = self._tensor(obs)
        if ended.any():
            obs, _ = self.envs.reset(seed=self._seeds(), options={"reset_mask": ended})
            next_obs = self._tensor(obs)
        return Transition(
            obs=next_obs,
            reward=self._tensor(reward).float(),
            terminated=self._tensor(terminated),
            truncated=self._tensor(truncated & ~terminated),
            final_obs=final_obs,
            **{name: self._reported(name, info) for name in REPORTED},
        )

    def _reported(self, name: str, info: dict[str, Any]) -> Tensor | None:
        """What the environments report by a name; None if none of them does."""
        if name not in info:
            return None
        dtype, missing = REPORTED[name]
        return self._tensor(np.where(info[f"_{name}"], info[name], missing)).to(dtype)

    def _seeds(self) -> list[int | None]:
        return list((fold_in(self.keys, self.clock) & 0x7FFFFFFF).tolist())

    def _to_numpy(self, action: Tensor) -> npt.NDArray[Any]:
        space = self.family.action_space
        out = action.cpu().numpy().astype(space.dtype)
        return out + space.start if isinstance(space, spaces.Discrete) else out

    def _tensor(self, array: npt.ArrayLike) -> Tensor:
        out = torch.tensor(np.asarray(array), device=self.device)
        return out.float() if out.dtype == torch.float64 else out

    def close(self) -> None:
        """Close every environment."""
        self.envs.close()
