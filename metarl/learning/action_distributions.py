"""Action distributions, and the policy head that makes them from a network's output."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl.errors import InvalidValueError
from metarl.rng import Rng

_LOG_2PI = math.log(2.0 * math.pi)


@dataclass(frozen=True)
class Gaussian:
    """Independent normal distributions. `mean` is `[..., d]`, and `log_std` is broadcast against it."""

    mean: Tensor
    log_std: Tensor

    def sample(self, rng: Rng) -> Tensor:
        """One action for each environment of `rng`, in the shape of `mean`."""
        noise = rng.normal(self.mean.shape[-1]).view(self.mean.shape)
        return torch.addcmul(self.mean, noise, self.log_std.exp())

    @property
    def mode(self) -> Tensor:
        """The mean, `[..., d]`."""
        return self.mean

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-density of actions `[..., d]`, summed over action dimensions: `[...]`."""
        z = (action - self.mean) * torch.exp(-self.log_std)
        return -0.5 * (z * z).sum(-1) - (self.log_std + 0.5 * _LOG_2PI).sum(-1)

    def kl(self, other: Gaussian) -> Tensor:
        """KL(self || other) in nats, summed over action dimensions: `[...]`."""
        ratio = torch.exp(2.0 * (self.log_std - other.log_std))
        shift = (self.mean - other.mean) * torch.exp(-other.log_std)
        return (other.log_std - self.log_std + 0.5 * (ratio + shift * shift - 1.0)).sum(-1)

    def entropy(self) -> Tensor:
        """Differential entropy in nats, `[...]`."""
        return (self.log_std + 0.5 * (_LOG_2PI + 1.0)).expand_as(self.mean).sum(-1)

    def detach(self) -> Gaussian:
        """The same distribution without a gradient graph."""
        return Gaussian(self.mean.detach(), self.log_std.detach())


@dataclass(frozen=True)
class Categorical:
    """A distribution over n actions. `logits` `[..., n]` are log-probabilities; `from_logits` normalises them."""

    logits: Tensor

    @classmethod
    def from_logits(cls, logits: Tensor) -> Categorical:
        """The distribution with unnormalised logits `[..., n]`."""
        return cls(torch.log_softmax(logits, -1))

    def sample(self, rng: Rng) -> Tensor:
        """One action for each environment of `rng`: `int64`, the shape of `logits` without its last axis."""
        probs = self.logits.exp()
        return rng.categorical(probs.reshape(-1, probs.shape[-1])).view(probs.shape[:-1])

    @property
    def mode(self) -> Tensor:
        """The most probable action, `int64 [...]`."""
        return self.logits.argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-probability of actions `int64 [...]`: `[...]`."""
        return self.logits.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def kl(self, other: Categorical) -> Tensor:
        """KL(self || other) in nats, `[...]`."""
        return (self.logits.exp() * (self.logits - other.logits)).sum(-1)

    def entropy(self) -> Tensor:
        """Entropy in nats, `[...]`."""
        return -(self.logits.exp() * self.logits).sum(-1)

    def detach(self) -> Categorical:
        """The same distribution without a gradient graph."""
        return Categorical(self.logits.detach())


Distribution = Gaussian | Categorical


class PolicyHead:
    """Maps a network's output to an action distribution, and its samples to actions of the environment.

    A Box of shape `[d]` has a Gaussian policy. Its sample `a` becomes `low + (clip(a, -1, 1) + 1) / 2 * (high - low)`,
    or `a` itself if the box is unbounded. Published step sizes assume policies that act in [-1, 1]. A Discrete space
    has a categorical policy.

    Args:
        space: the action space.
        user: name of the agent, for error messages.

    Raises:
        InvalidValueError: the space is of another kind.
    """

    def __init__(self, space: spaces.Space[Any], user: str) -> None:
        self.space = space
        self.discrete = isinstance(space, spaces.Discrete)
        if isinstance(space, spaces.Discrete):
            self.size = self.features = int(space.n)
        elif isinstance(space, spaces.Box) and len(space.shape) == 1:
            self.size = self.features = space.shape[0]
            bounded = np.isfinite(space.low).all() and np.isfinite(space.high).all()
            self._center = torch.as_tensor((space.low + space.high) / 2) if bounded else None
            self._half = torch.as_tensor((space.high - space.low) / 2) if bounded else None
            self._low, self._high = torch.as_tensor(space.low), torch.as_tensor(space.high)
        else:
            raise InvalidValueError(f"action space of {user}", space, "a Box with one axis or a Discrete space")

    @property
    def bounded(self) -> bool:
        """Whether the space is a Box with finite bounds."""
        return not self.discrete and self._center is not None

    @property
    def action_shape(self) -> tuple[int, ...]:
        """Shape of one action of the policy."""
        return () if self.discrete else (self.size,)

    def distribution(self, output: Tensor, log_std: Tensor | None = None) -> Distribution:
        """The action distribution of a network's output `[..., size]`.

        Args:
            output: logits, or the mean action in a Box.
            log_std: logarithm of the standard deviation in a Box, `[size]` or `[R, size]`; None for a deviation of 1.
        """
        if self.discrete:
            return Categorical.from_logits(output)
        log_std = output.new_zeros(self.size) if log_std is None else log_std
        return Gaussian(output, log_std.unsqueeze(-2) if log_std.dim() == 2 else log_std)

    def to_env(self, action: Tensor) -> Tensor:
        """Actions of the environment: `float32 [..., d]` in the box, or `int64 [...]`."""
        if self.discrete or self._center is None or self._half is None:
            return action
        if self._center.device != action.device:
            self._center, self._half = self._center.to(action.device), self._half.to(action.device)
            self._low, self._high = self._low.to(action.device), self._high.to(action.device)
        # the second clamp corrects rounding: centre + half may be slightly outside the box
        return torch.addcmul(self._center, action.clamp(-1.0, 1.0), self._half).clamp(self._low, self._high)

    def from_env(self, action: Tensor) -> Tensor:
        """The policy's actions for actions of the environment, the inverse of `to_env` within the box."""
        if self.discrete or self._center is None or self._half is None:
            return action
        return (action - self._center.to(action.device)) / self._half.to(action.device)

    def uniform(self, rng: Rng) -> Tensor:
        """Random actions, one for each key of `rng`: uniform on the space, or standard normal if it is unbounded."""
        if self.discrete:
            return rng.integers(self.size)
        return rng.normal(self.size) if self._center is None else 2.0 * rng.uniform(self.size) - 1.0

    def encode(self, action: Tensor) -> Tensor:
        """Encode actions as features: one-hot `[..., n]`, or the clipped action `[..., d]`."""
        if self.discrete:
            return torch.nn.functional.one_hot(action.long(), self.size).float()
        return action.clamp(-1.0, 1.0) if self._center is not None else action
