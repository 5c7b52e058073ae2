"""A belief that is a product of Gaussian factors, one for each transition seen, in whatever order they came.

PEARL (Rakelly et al. 2019, arXiv:1903.08254, section 4.2): q(z | c) is in proportion to the product of the factors
N(z; mean(c_n), var(c_n)) of all transitions c_n. Products add up the factors' natural parameters, so the sum is all
that has to be kept of what was seen. Before the first transition the belief is the standard normal distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from metarl.learning.images import ImageShape, Seen, seen_size
from metarl.learning.inference.beliefs import Belief
from metarl.learning.networks import init_mlp, mlp
from metarl.rng import Rng

_LEAST_VARIANCE = 1e-7  # of a factor, as in the authors' code


class Factors(NamedTuple):
    """Natural parameters of a product of normal distributions, `[..., latent]` each.

    Attributes:
        precision: sum of 1 / variance; 0 if there is no factor.
        weighted_mean: sum of mean / variance.
    """

    precision: Tensor
    weighted_mean: Tensor

    def times(self, other: Factors) -> Factors:
        """The product with other factors."""
        return Factors(self.precision + other.precision, self.weighted_mean + other.weighted_mean)

    @property
    def belief(self) -> Belief:
        """The product as a normal distribution; the standard normal one where there is no factor."""
        precision = torch.where(self.precision > 0, self.precision, 1.0)
        return Belief(self.weighted_mean / precision, -precision.log())


class ProductEncoder(nn.Module):
    """A fully connected network that makes a Gaussian factor of every transition.

    Args:
        inputs: features of a transition.
        hidden: widths of the hidden layers.
        latent: size of z.
        rng: draws of the initial weights.
        image: the form of the image that the features begin with, which an encoder of images sees; None: no image.
    """

    def __init__(
        self, inputs: int, hidden: Sequence[int], latent: int, rng: Rng, image: ImageShape | None = None
    ) -> None:
        super().__init__()
        self.seen = Seen(image, rng)
        self.layers = nn.ParameterDict(init_mlp((seen_size(image, inputs), *hidden, 2 * latent), rng))

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Factors:
        """The product over transitions `x` `[B, N, inputs]`, those with `valid` `bool [B, N]` alone: `[B, latent]`."""
        each = self.each(x, valid)
        return Factors(each.precision.sum(1), each.weighted_mean.sum(1))

    def each(self, x: Tensor, valid: Tensor | None = None) -> Factors:
        """The factors of transitions, `[B, N, latent]`; of precision 0 where `valid` is False."""
        mean, raw = mlp(dict(self.layers.items()), self.seen(x)).chunk(2, -1)
        precision = nn.functional.softplus(raw).clamp_min(_LEAST_VARIANCE).reciprocal()
        if valid is not None:
            precision = torch.where(valid.unsqueeze(-1), precision, 0.0)
        return Factors(precision, precision * mean)
