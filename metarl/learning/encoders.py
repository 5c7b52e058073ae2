"""Observations and tasks as features of fixed size, and features standardised by what was seen."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from metarl.errors import InvalidValueError
from metarl.families.family import Family
from metarl.families.tasks import Tasks
from metarl.learning.images import LEAST_IMAGE, ImageShape

_LEAST_FEATURE_VARIANCE = 1e-8  # as in the authors' code of VariBAD
_LARGEST_FEATURE = 10.0  # as VecNormalize of Stable-Baselines3; a feature may hardly have varied before


class ObservationEncoder:
    """Encodes observations as feature vectors.

    Args:
        space: a Box, which is flattened, or a Discrete space, which is one-hot encoded.
        user: name of the agent, for error messages.

    Attributes:
        size: number of features.
        image: the form of the image that a Box of shape (height, width, channels), at least 5 x 5, holds; else None.

    Raises:
        InvalidValueError: the space is of another kind.
    """

    def __init__(self, space: spaces.Space[Any], user: str) -> None:
        self.space = space
        self.image: ImageShape | None = None
        if isinstance(space, spaces.Box):
            self.size = math.prod(space.shape)
            if len(space.shape) == 3 and min(space.shape[:2]) >= LEAST_IMAGE:
                height, width, channels = space.shape
                self.image = ImageShape(height, width, channels, 255.0 if space.dtype == np.uint8 else 1.0)
        elif isinstance(space, spaces.Discrete):
            self.size = int(space.n)
        else:
            raise InvalidValueError(f"observation space of {user}", space, "a Box or a Discrete space")

    def image_for(self, standardized: bool) -> ImageShape | None:
        """The form of the image for a network; standardised pixels are not divided by their largest value."""
        return self.image if self.image is None or not standardized else self.image._replace(largest=1.0)

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


class RunningNorm(nn.Module):
    """Standardises features by their mean and variance over all that `update` was given, and clips them to [-10, 10].

    Before the first update the mean is 0 and the variance 1.

    Its tensors are part of the module's state. Evaluation does not change them.

    Args:
        size: number of features.
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("var", torch.ones(size))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Standardised features `[..., size]`, in [-10, 10]."""
        return ((x - self.mean) * (self.var + _LEAST_FEATURE_VARIANCE).rsqrt()).clamp(
            -_LARGEST_FEATURE, _LARGEST_FEATURE
        )

    @torch.no_grad()
    def update(self, x: Tensor, valid: Tensor) -> None:
        """Take features `[..., size]` into account, where `valid` `bool [...]` (Chan et al. 1979)."""
        new = x[valid].double()
        if not len(new):
            return
        total = self.count + len(new)
        shift = new.mean(0) - self.mean
        share = len(new) / total
        squares = self.var * (1.0 - share) + new.var(0, correction=0) * share
        self.var.copy_(squares + shift.square() * share * (1.0 - share))
        self.mean.add_(shift * share)
        self.count.copy_(total)
