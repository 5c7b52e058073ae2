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
    """Encodes observations as feature vectors.

    Args:
        space: a Box, which is flattened, or a Discrete space, which is one-hot encoded.
        user: name of the agent, for error messages.

    Raises:
        InvalidValueError: the space is of another kind.
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
        """Map observations `[..., *space.shape]` to features `float32 [..., size]`."""
        if isinstance(self.space, spaces.Discrete):
            return torch.nn.functional.one_hot(obs.long() - int(self.space.start), self.size).float()
        axes = len(self.space.shape or ())
        return obs.float() if axes == 1 else obs.reshape(*obs.shape[: obs.dim() - axes], self.size).float()


class TaskEncoder:
    """Encodes tasks as feature vectors: all task parameters, standardised by the moments of train tasks.

    Args:
        family: the family of the tasks.
        sample: number of train tasks from which the moments are computed.
    """

    def __init__(self, family: Family, sample: int = 1000) -> None:
        self.family, self.sample = family, sample
        self.size = _flat(family.tasks("train", 1)).shape[1]

    @cached_property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Means and standard deviations of train tasks, `[size]` each. The tasks are drawn at the first use."""
        flat = _flat(self.family.tasks("train", self.sample))
        return flat.mean(0), flat.std(0).clamp_min(1e-6)

    def __call__(self, tasks: Tasks, device: torch.device | str = "cpu") -> Tensor:
        """Features of the tasks, `float32 [N, size]`, on a device."""
        mean, std = self.moments
        return ((_flat(tasks) - mean) / std).to(device)


def _flat(tasks: Tasks) -> Tensor:
    """All parameters of each task in one vector, `[N, size]`."""
    return torch.cat([leaf.reshape(len(tasks), -1) for _, leaf in sorted(tasks.tensors().items())], 1)
