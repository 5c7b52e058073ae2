"""Mixture: a mother weighs the policies of several children, and adaptation moves her weights.

The policy's output is sum_i w_i f_i(x), w = softmax(mother): means of actions, or logits of discrete ones. Children and
mother are meta-learned as in MAML (Finn, Abbeel and Levine 2017, arXiv:1703.03400); an inner step moves the K numbers
of the mother alone, or with `adapt_children` all parameters. So what adapted mixtures experience is passed back to the
children and to the mother that every task begins with, by the meta-gradient through the inner steps. Mixing outputs
of experts by weights is that of Jacobs, Jordan, Nowlan and Hinton (1991, Neural Computation 3), whose gate sees x;
here the gate is what a task learns.

    metarl train mixture --family metarl/PointNavigation-v0:corners
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from metarl.agent import Distribution, FixedSizes, MLPPolicy, Params, Range, Rng, TrustRegionConfig, init_mlp, mlp
from metarl.agents.gradient.config import MetaGradientConfig
from metarl.agents.gradient.maml import MAML


@dataclass(frozen=True)
class MixtureConfig(TrustRegionConfig, MetaGradientConfig):
    """Hyperparameters of the inner loop and of the trust region.

    Inner steps are larger than MAML's, because the gradient of a few weights is small, and children begin further
    apart.
    """

    children: Annotated[int, Range(1, 1000)] = 4
    """Number of child policies."""
    adapt_children: bool = False
    """Whether inner steps also move the children, by 1/20 of the size."""
    inner_lr: Annotated[float, Range(0, 1e3)] = 10.0
    """Size of the first inner step."""
    hidden: tuple[Annotated[int, Range(1, 1e9)], ...] = (64, 64)
    """Widths of the hidden layers of each child."""
    final_gain: Annotated[float, Range(0, 1e3)] = 1.0
    """Factor on the last layers' initial weights."""


class MixturePolicy(MLPPolicy):
    """Networks whose outputs are averaged with weights softmax(`mother`). Child i has the layers `i.w0`, `i.b0`, ...

    Args:
        policy: sizes of each child, and the spaces.
        children: number of children.
    """

    def __init__(self, policy: MLPPolicy, children: int) -> None:
        self.__dict__ |= policy.__dict__
        self.children = children

    def initial(self, rng: Rng) -> Params:
        """Children that differ, and equal weights."""
        sizes = (self.encode.size, *self.hidden, self.head.size)
        theta: Params = {}
        for i in range(self.children):
            theta |= {f"{i}.{name}": value for name, value in init_mlp(sizes, rng, self.final_gain).items()}
        theta["mother"] = torch.zeros(self.children)
        if not self.head.discrete:
            theta["log_std"] = torch.full((self.head.size,), self.log_std)
        return theta

    def start(self, theta: Params, rows: int) -> Params:
        """The shared parameters, expanded to `[R, ...]`."""
        return {name: value.expand(rows, *value.shape) for name, value in theta.items()}

    def __call__(self, params: Params, x: Tensor) -> Distribution:
        """pi(. | x), for shared parameters, or for parameters `[R, ...]` and features `[R, B, d]`."""
        weights = self.weights(params)
        total = torch.zeros((), device=x.device)
        for i in range(self.children):
            layers = {name: params[f"{i}.{name}"] for name in self._names}
            total = total + weights[..., i, None, None] * mlp(layers, x, self.activation)
        return self.head.distribution(total, params.get("log_std"))

    def weights(self, params: Params) -> Tensor:
        """How much each child counts, `[children]` or `[R, children]`; they sum to 1."""
        return params["mother"].softmax(-1)

    @property
    def _names(self) -> list[str]:
        return [f"{kind}{i}" for i in range(len(self.hidden) + 1) for kind in "wb"]

    @property
    def widths(self) -> int:
        """Sum of the widths of all layers, the inputs included."""
        return self.children * super().widths


class Mixture(MAML):
    """Mixture is MAML whose policy mixes children, and whose inner steps move their weights."""

    name = "mixture"
    Config = MixtureConfig

    def make_policy(self) -> MixturePolicy:
        """The children and their mother."""
        return MixturePolicy(super().make_policy(), self.config.children)

    def make_step_sizes(self) -> FixedSizes | PerKind:
        """One size for the mother; with `adapt_children` another for all else."""
        return PerKind(self.schedule) if self.config.adapt_children else FixedSizes(self.schedule, ("mother",))


class PerKind(FixedSizes):
    """The schedule's size for the mother, and 1/20 of it for all other parameters."""

    def at(self, j: int, theta: Params, learned: Params) -> Params:
        """See `StepSizes.at`."""
        sizes = super().at(j, theta, learned)
        return {name: size if name == "mother" else size / 20 for name, size in sizes.items()}
