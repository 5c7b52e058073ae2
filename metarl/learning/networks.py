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
from metarl.learning.images import ImageShape, Seen, seen_size
from metarl.learning.ppo import Given, Outputs
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


class FeedForward(nn.Module):
    """Two networks with tanh layers, which PPO trains: a policy, and a value that is also given the time.

    Args:
        head: makes action distributions.
        inputs: features per step.
        hidden: widths of the hidden layers.
        rng: draws of the initial weights.
        image: the form of an image that the features begin with, which both see through one encoder; None: no image.
    """

    def __init__(
        self, head: PolicyHead, inputs: int, hidden: Sequence[int], rng: Rng, image: ImageShape | None = None
    ) -> None:
        super().__init__()
        self.head, self.seen = head, Seen(image, rng)
        inputs = seen_size(image, inputs)
        self.policy = nn.ParameterDict(init_mlp((inputs, *hidden, head.size), rng, final_gain=0.01))
        self.value = nn.ParameterDict(init_mlp((inputs + 1, *hidden, 1), rng))
        self.log_std = None if head.discrete else nn.Parameter(torch.zeros(head.size))

    def distribution(self, x: Tensor) -> Distribution:
        """The policy at features `[..., inputs]`."""
        return self._policy(self.seen(x))

    def values(self, given: Given) -> Tensor:
        """The values `[T, B]` of features `x` `[T, B, inputs]` at times `time` `[T, B, 1]`."""
        return self._values(self.seen(given["x"]), given["time"])

    def _policy(self, x: Tensor) -> Distribution:
        return self.head.distribution(mlp(dict(self.policy.items()), x, "tanh"), self.log_std)

    def _values(self, x: Tensor, time: Tensor) -> Tensor:
        return mlp(dict(self.value.items()), torch.cat([x, time], -1), "tanh").squeeze(-1)

    @property
    def floats_kept(self) -> int:
        """Lower estimate of the numbers that one step of a trial stores for the backward pass."""
        nets = (self.policy, self.value)
        layers = sum(len(b) for net in nets for name, b in net.items() if name.startswith("b"))
        return layers + self.seen.floats_kept

    def forward(self, given: Given) -> Outputs:
        """The policy and the values."""
        x = self.seen(given["x"])
        return Outputs(self._policy(x), self._values(x, given["time"]), given["x"])


class Hypernetwork(nn.Module):
    """A fully connected network with tanh layers, whose parameters are a linear function of what is known of the task.

    Beck, Jackson, Vuorio and Whiteson (2022, arXiv:2210.11348): parameters = bias + knowledge @ weight. Bias-HyperInit
    (section 4) begins with an ordinary network in every task: `weight` is 0, and `bias` is that network's
    initialisation.

    Args:
        knowledge: features of what is known of the task, of a memory or a belief.
        sizes: widths of all layers of the generated network, input and output included.
        final_gain: factor on the last layer's initial weights.
    """

    def __init__(self, knowledge: int, sizes: Sequence[int], final_gain: float = 1.0) -> None:
        super().__init__()
        self.sizes, self.final_gain = tuple(sizes), final_gain
        pairs = list(enumerate(itertools.pairwise(sizes)))
        self.shapes = {name: shape for i, (m, n) in pairs for name, shape in ((f"w{i}", (m, n)), (f"b{i}", (n,)))}
        total = sum(math.prod(shape) for shape in self.shapes.values())
        self.weight, self.bias = nn.Parameter(torch.zeros(knowledge, total)), nn.Parameter(torch.zeros(total))

    @property
    def floats_kept(self) -> int:
        """Lower estimate of the numbers that one step of a trial stores for the backward pass: its parameters."""
        return len(self.bias)

    def generate(self, knowledge: Tensor) -> Params:
        """The parameters of N networks, as `mlp` takes them, from `[N, knowledge]`."""
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        parts = torch.addmm(self.bias, knowledge, self.weight).split_with_sizes(sizes, 1)
        return {name: part.view(-1, *shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def forward(self, x: Tensor, knowledge: Tensor) -> Tensor:
        """Outputs `[..., out]` of `x` `[..., in]`, each by the network of its `knowledge` `[..., knowledge]`."""
        out = mlp(self.generate(knowledge.reshape(-1, len(self.weight))), x.reshape(-1, 1, self.sizes[0]), "tanh")
        return out.view(*x.shape[:-1], self.sizes[-1])

    @torch.no_grad()
    def initialise(self, rng: Rng) -> None:
        """Draw the first network with keys; what is known of the task does not change it."""
        self.weight.zero_()
        self.bias.copy_(torch.cat([p.flatten() for p in init_mlp(self.sizes, rng, self.final_gain).values()]))


class HyperFeedForward(nn.Module):
    """`FeedForward` with both networks generated from what is known of the task; they are given the observation alone.

    Args:
        head: makes action distributions.
        inputs: features of an observation, the first ones of a step.
        knowledge: features of what is known of the task, those that follow.
        hidden: widths of the hidden layers.
        rng: draws of the initial weights.
        image: the form of an image that is the observation, which both see through one encoder; None: no image.
    """

    def __init__(
        self,
        head: PolicyHead,
        inputs: int,
        knowledge: int,
        hidden: Sequence[int],
        rng: Rng,
        image: ImageShape | None = None,
    ) -> None:
        super().__init__()
        self.head, self.seen = head, Seen(image, rng)
        self.inputs = inputs = seen_size(image, inputs)
        self.policy = Hypernetwork(knowledge, (inputs, *hidden, head.size), final_gain=0.01)
        self.value = Hypernetwork(knowledge, (inputs + 1, *hidden, 1))
        self.log_std = None if head.discrete else nn.Parameter(torch.zeros(head.size))
        for net in (self.policy, self.value):
            net.initialise(rng)

    @property
    def floats_kept(self) -> int:
        """Lower estimate of the numbers that one step of a trial stores for the backward pass."""
        return self.policy.floats_kept + self.value.floats_kept + self.seen.floats_kept

    def distribution(self, x: Tensor) -> Distribution:
        """The policy at features `[..., inputs + knowledge]`."""
        return self._policy(self.seen(x))

    def values(self, given: Given) -> Tensor:
        """The values `[T, B]` of features `x` `[T, B, inputs + knowledge]` at times `time` `[T, B, 1]`."""
        return self._values(self.seen(given["x"]), given["time"])

    def _policy(self, x: Tensor) -> Distribution:
        return self.head.distribution(self.policy(x[..., : self.inputs], x[..., self.inputs :]), self.log_std)

    def _values(self, x: Tensor, time: Tensor) -> Tensor:
        value: Tensor = self.value(torch.cat([x[..., : self.inputs], time], -1), x[..., self.inputs :])
        return value.squeeze(-1)

    def forward(self, given: Given) -> Outputs:
        """The policy and the values."""
        x = self.seen(given["x"])
        return Outputs(self._policy(x), self._values(x, given["time"]), given["x"])
