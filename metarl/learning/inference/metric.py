"""Embeddings of tasks, and the metric loss that trains them: one task's draw together, those of others move apart.

FOCAL (Li et al. 2021, arXiv:2010.01112, the inverse-square distance loss; form and constants as in the authors' code:
the paper has d in place of its root for two contexts of one task). Distances by angle are our own. A task's
embedding is the mean of the bounded embeddings of its transitions, so their order does not matter. The sum and the
number are all that has to be kept of what was seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from metarl.learning.images import ImageShape, Seen, seen_size
from metarl.learning.networks import init_mlp, mlp
from metarl.rng import Rng

Distance = Literal["euclidean", "cosine"]
_NEAR, _FAR = 1e-3, 0.1  # added to the distances of one task and of two, as in the authors' code


class EmbeddingSum(NamedTuple):
    """A sum of embeddings of transitions.

    Attributes:
        total: `[..., latent]`.
        number: of the transitions, `float32 [..., 1]`.
    """

    total: Tensor
    number: Tensor

    def plus(self, other: EmbeddingSum) -> EmbeddingSum:
        """The sum with other transitions."""
        return EmbeddingSum(self.total + other.total, self.number + other.number)

    @property
    def mean(self) -> Tensor:
        """The embedding of the task, `[..., latent]`; 0 where there is no transition."""
        return self.total / self.number.clamp_min(1.0)


class MeanEncoder(nn.Module):
    """A fully connected network that embeds every transition in (-1, 1)^latent.

    Args:
        inputs: features of a transition.
        hidden: widths of the hidden layers.
        latent: size of an embedding.
        rng: draws of the initial weights.
        image: the form of the image that the features begin with, which an encoder of images sees; None: no image.
    """

    def __init__(
        self, inputs: int, hidden: Sequence[int], latent: int, rng: Rng, image: ImageShape | None = None
    ) -> None:
        super().__init__()
        self.seen = Seen(image, rng)
        self.layers = nn.ParameterDict(init_mlp((seen_size(image, inputs), *hidden, latent), rng))

    def forward(self, x: Tensor, valid: Tensor | None = None) -> EmbeddingSum:
        """The sum over transitions `x` `[B, N, inputs]`, those with `valid` `bool [B, N]` alone: `[B, latent]`."""
        each = self.each(x, valid)
        return EmbeddingSum(each[0].sum(1), each[1].sum(1))

    def each(self, x: Tensor, valid: Tensor | None = None) -> EmbeddingSum:
        """The embeddings of transitions, `[B, N, latent]`, and how often each counts, `[B, N, 1]`: 0 or 1."""
        embedding = mlp(dict(self.layers.items()), self.seen(x)).tanh()
        if valid is None:
            valid = torch.ones_like(x[..., 0], dtype=torch.bool)
        counted = valid.unsqueeze(-1)
        return EmbeddingSum(torch.where(counted, embedding, 0.0), counted.to(x.dtype))


def metric_loss(z: Tensor, task: Tensor, distance: Distance = "euclidean") -> Tensor:
    """Mean of sqrt(d + .001) over the pairs of one task, plus mean of 1 / (d + .1) over the pairs of two tasks: `[]`.

    d is the mean squared difference of two embeddings ("euclidean"), or 1 minus the cosine of their angle ("cosine").

    Args:
        z: embeddings, `[M, latent]`.
        task: the task of each, `int64 [M]`.
        distance: what d is.
    """
    if distance == "cosine":
        unit = nn.functional.normalize(z, dim=-1)
        d = 1.0 - unit @ unit.T
    else:
        d = (z.unsqueeze(1) - z).square().mean(-1)
    same = task.unsqueeze(1) == task
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    # every pair is counted from both sides, which leaves the means as they are
    near = torch.where(same & ~itself, (d + _NEAR).sqrt(), 0.0).sum() / (same & ~itself).sum().clamp_min(1)
    far = torch.where(same, 0.0, 1.0 / (d + _FAR)).sum() / (~same).sum().clamp_min(1)
    return near + far
