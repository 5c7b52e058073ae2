"""Observations and tasks as features of fixed size."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from metarl.errors import InvalidValueError
from metarl.families.family import Family
from metarl.families.tasks import Tasks


class ObservationEncoder:
    """Observations of a space as feature vectors.

    Args:
        space: a Box (flattened) or a Discrete space (one-hot).
        user: who asks, for the error message.

    Raises:
        InvalidValueError: for any other space.
    """

    def __init__(self, space: spaces.Space[Any], user: str) -> None:
        self.space = space
        if isinstance(space, spaces.Box):
            self.size = math.prod(space.shape)
        elif isinstance(space, spaces.Discrete):
            self.size = int(space.n)
        else:
            raise InvalidValueError(f"observation space of {user}", space, "a Box or a Discrete space")

    def __call__(self, obs: Tensor) -> Tensor:
        """`[..., *space.shape]` to `float32 [..., size]`."""
        if isinstance(self.space, spaces.Discrete):
            return torch.nn.functional.one_hot(obs.long() - int(self.space.start), self.size).float()
        axes = len(self.space.shape or ())
        return obs.float() if axes == 1 else obs.reshape(*obs.shape[: obs.dim() - axes], self.size).float()


class TaskEncoder:
    """A family's tasks as feature vectors: all parameters side by side, standardised by the moments of train tasks.

    Args:
        family: whose tasks.
        sample: how many train tasks the moments are of.
    """

    def __init__(self, family: Family, sample: int = 1000) -> None:
        self.family, self.sample = family, sample
        self.size = _flat(family.tasks("train", 1)).shape[1]

    @cached_property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Means and deviations `[size]`, of tasks that are drawn when they are first asked for."""
        flat = _flat(self.family.tasks("train", self.sample))
        return flat.mean(0), flat.std(0).clamp_min(1e-6)

    def __call__(self, tasks: Tasks, device: torch.device | str = "cpu") -> Tensor:
        """`float32 [N, size]` on a device."""
        mean, std = self.moments
        return ((_flat(tasks) - mean) / std).to(device)


def _flat(tasks: Tasks) -> Tensor:
    """All parameters of each task, `[N, size]`."""
    return torch.cat([leaf.reshape(len(tasks), -1) for _, leaf in sorted(tasks.tensors().items())], 1)
