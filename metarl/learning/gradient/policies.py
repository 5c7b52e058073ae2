"""A policy as a function of named parameters, shared by all rows, or separate for each row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from metarl.families.family import Family
from metarl.learning.action_distributions import Distribution, PolicyHead
from metarl.learning.encoders import ObservationEncoder
from metarl.learning.networks import Params, init_mlp, mlp
from metarl.rng import Rng


class MLPPolicy:
    """A fully connected network that gives a distribution of actions.

    Its parameters are the layers `w0`, `b0`, `w1`, ... and, for Box actions, `log_std`. If `context` is above 0, there
    is one more parameter, `context` `[R, context]`, which is appended to every observation of a row. Rows do not share
    it; it begins at 0 in every row.

    Args:
        family: the family that the policy plays.
        user: name of the agent, for error messages.
        hidden: widths of the hidden layers.
        activation: activation function between the layers, "relu" or "tanh".
        final_gain: factor on the last layer's initial weights.
        log_std: initial logarithm of the standard deviation of Box actions in [-1, 1].
        context: number of context inputs.

    Raises:
        InvalidValueError: the spaces of the family are not of the kinds that `ObservationEncoder` and `PolicyHead`
            take.
    """

    def __init__(
        self,
        family: Family,
        user: str,
        hidden: Sequence[int],
        activation: str = "relu",
        final_gain: float = 1.0,
        log_std: float = 0.0,
        context: int = 0,
    ) -> None:
        self.encode = ObservationEncoder(family.observation_space, user)
        self.head = PolicyHead(family.action_space, user)
        self.hidden, self.activation, self.context = tuple(hidden), activation, context
        self.final_gain, self.log_std = final_gain, float(log_std)

    def initial(self, rng: Rng) -> Params:
        """Initial parameters that all rows share."""
        sizes = (self.encode.size + self.context, *self.hidden, self.head.size)
        theta = init_mlp(sizes, rng, self.final_gain)
        if not self.head.discrete:
            theta["log_std"] = torch.full((self.head.size,), self.log_std)
        return theta

    def start(self, theta: Params, rows: int) -> Params:
        """The shared parameters, expanded to `[R, ...]`, and a context of zeros."""
        params = {k: v.expand(rows, *v.shape) for k, v in theta.items()}
        return params | ({"context": theta["b0"].new_zeros(rows, self.context)} if self.context else {})

    def __call__(self, params: Params, x: Tensor) -> Distribution:
        """pi(. | x), for shared parameters, or for parameters `[R, ...]` and features `[R, B, d]`."""
        if self.context:
            x = torch.cat([x, params["context"].unsqueeze(1).expand(-1, x.shape[1], -1)], -1)
        layers = {k: v for k, v in params.items() if k[0] in "wb"}
        return self.head.distribution(mlp(layers, x, self.activation), params.get("log_std"))

    @property
    def last_layer(self) -> tuple[str, str]:
        """Names of the last layer's parameters."""
        return f"w{len(self.hidden)}", f"b{len(self.hidden)}"

    @property
    def widths(self) -> int:
        """Sum of the widths of all layers, the input included."""
        return self.encode.size + self.context + sum(self.hidden) + self.head.size
