"""Networks as pure functions of a dict of parameters.

Parameters are shared, `w0: [in, out]`, or one set per row, `w0: [R, in, out]`. The same functions take both. With one
set per row, a layer is one batched matrix product.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from metarl.rng import Rng

Params = dict[str, Tensor]
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
