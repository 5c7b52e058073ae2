"""Beliefs about the task: a Gaussian over a latent vector z, after every step of a trial.

A recurrent encoder q(z | what was seen so far), as in VariBAD (Zintgraf et al. 2020, arXiv:1910.08348, section 3). The
prior of each step is the belief of the step before; before the first it is the standard normal distribution.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from metarl.learning.images import ImageShape, make_seeing_memory
from metarl.rng import Rng


class Belief(NamedTuple):
    """Independent normal distributions of the entries of z: `mean` and `log_var`, `[..., latent]` each."""

    mean: Tensor
    log_var: Tensor

    @property
    def features(self) -> Tensor:
        """What a policy is given: mean and log-variance, `[..., 2 latent]`."""
        return torch.cat([self.mean, self.log_var], -1)

    def sample(self, noise: Tensor) -> Tensor:
        """Z as a function of standard normal `noise` `[..., latent]`, through which gradients flow."""
        return torch.addcmul(self.mean, noise, (0.5 * self.log_var).exp())

    def kl(self, prior: Belief) -> Tensor:
        """KL(self || prior) in nats, summed over the entries of z: `[...]`."""
        shift = (self.mean - prior.mean).square()
        ratio = (self.log_var.exp() + shift) * (-prior.log_var).exp()
        return 0.5 * (prior.log_var - self.log_var + ratio - 1.0).sum(-1)

    def before(self) -> Belief:
        """The belief of the step before, for beliefs `[T, ...]`; before the first, the standard normal distribution."""
        return Belief(*(torch.cat([torch.zeros_like(v[:1]), v[:-1]]) for v in self))


class RecurrentEncoder(nn.Module):
    """A GRU on what a trial shows, and two linear heads: the belief after every step.

    Args:
        inputs: features per step.
        hidden: units of the GRU.
        latent: size of z.
        image: the form of an image that a step begins with, which the GRU sees through an encoder; None: no image.
    """

    def __init__(self, inputs: int, hidden: int, latent: int, image: ImageShape | None = None) -> None:
        super().__init__()
        self.memory = make_seeing_memory("gru", inputs, hidden, 1, image)
        self.mean, self.log_var = nn.Linear(hidden, latent), nn.Linear(hidden, latent)

    def belief(self, h: Tensor) -> Belief:
        """The belief from the memory's features `[..., hidden]`."""
        return Belief(self.mean(h), self.log_var(h))

    def forward(self, x: Tensor) -> Belief:
        """The beliefs in whole trials: `[T, B, inputs]` to `[T, B, latent]`."""
        return self.belief(self.memory(x))

    @torch.no_grad()
    def initialise(self, rng: Rng) -> None:
        """Draw all weights with keys, in PyTorch's range; biases are 0."""
        self.memory.initialise(rng)
        for head in (self.mean, self.log_var):
            head.weight.copy_((2.0 * rng.uniform(*head.weight.shape)[0] - 1.0) * self.memory.size**-0.5)
            head.bias.zero_()
