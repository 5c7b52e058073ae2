"""Networks as pure functions of a dict of parameters, and a policy and a value that are made of two of them.

Parameters are shared, `w0: [in, out]`, or one set per row, `w0: [R, in, out]`. The same functions take both. With one
set per row, a layer is one batched matrix product.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from metarl.learning.action_distributions import Distribution, PolicyHead
from metarl.learning.ppo import Given, Outputs
from metarl.rng import Rng

Params = dict[str, Tensor]
_LARGEST_FEATURE, _LEAST_FEATURE_VARIANCE = 10.0, 1e-8  # as in the authors' code of VariBAD
ACTIVATIONS = {"relu": torch.relu_, "tanh": torch.tanh_}  # in place: a layer's sums are not needed


def init_mlp(sizes: Sequence[int], rng: Rng, final_gain: float = 1.0) -> Params:
    """Initial weights as in Glorot and Bengio (2010), biases 0: `w{i}` `[in, out]` and `b{i}` `[out]` for each layer.

    Args:
        sizes: widths of all layers, input and output included.
        rng: keyed draws of one environment.
        final_gain: factor on the last layer's weights.
    """
    params: Params = {}
    last = len(sizes) - 2
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        bound = math.sqrt(6.0 / (fan_in + fan_out)) * (final_gain if i == last else 1.0)
        params[f"w{i}"] = (2.0 * rng.uniform(fan_in, fan_out)[0] - 1.0) * bound
        params[f"b{i}"] = torch.zeros(fan_out)
    return params


def mlp(params: Params, x: Tensor, activation: str = "relu") -> Tensor:
    """A fully connected network with a linear last layer.

    Args:
        params: parameters from `init_mlp`, shared or with a leading axis R.
        x: `[..., in]` with shared parameters, `[R, B, in]` with one set per row.
        activation: activation function between the layers, "relu" or "tanh".

    Returns:
        `[..., out]`, or `[R, B, out]`.
    """
    act = ACTIVATIONS[activation]
    depth = sum(name.startswith("w") for name in params)
    for i in range(depth):
        w, b = params[f"w{i}"], params[f"b{i}"]
        x = torch.baddbmm(b.unsqueeze(1), x, w) if w.dim() == 3 else torch.matmul(x, w) + b
        x = act(x) if i < depth - 1 else x
    return x


class RunningNorm(nn.Module):
    """Standardises features by their mean and variance over all that `update` was given; before that they are as given.

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
        total = self.count + len(new)
        shift = new.mean(0) - self.mean
        share = len(new) / total
        squares = self.var * (1.0 - share) + new.var(0, correction=0) * share
        self.var.copy_(squares + shift.square() * share * (1.0 - share))
        self.mean.add_(shift * share)
        self.count.copy_(total)


class FeedForward(nn.Module):
    """Two networks with tanh layers, which PPO trains: a policy, and a value that is also given the time.

    Args:
        head: makes action distributions.
        inputs: features per step.
        hidden: widths of the hidden layers.
        rng: draws of the initial weights.
        normalize: whether both networks are given standardised features.
    """

    def __init__(self, head: PolicyHead, inputs: int, hidden: Sequence[int], rng: Rng, normalize: bool = False) -> None:
        super().__init__()
        self.norm = RunningNorm(inputs) if normalize else None
        self.head = head
        self.policy = nn.ParameterDict(init_mlp((inputs, *hidden, head.size), rng, final_gain=0.01))
        self.value = nn.ParameterDict(init_mlp((inputs + 1, *hidden, 1), rng))
        self.log_std = None if head.discrete else nn.Parameter(torch.zeros(head.size))

    def distribution(self, x: Tensor) -> Distribution:
        """The policy at features `[..., inputs]`."""
        return self.head.distribution(mlp(dict(self.policy.items()), self._inputs(x), "tanh"), self.log_std)

    def values(self, given: Given) -> Tensor:
        """The values `[T, B]` of features `x` `[T, B, inputs]` at times `time` `[T, B, 1]`."""
        return mlp(dict(self.value.items()), torch.cat([self._inputs(given["x"]), given["time"]], -1), "tanh").squeeze(
            -1
        )

    def _inputs(self, x: Tensor) -> Tensor:
        return x if self.norm is None else self.norm(x)

    def forward(self, given: Given) -> Outputs:
        """The policy and the values."""
        return Outputs(self.distribution(given["x"]), self.values(given), given["x"])
