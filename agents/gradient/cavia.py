"""CAVIA: adaptation of a few context parameters that are given to the policy as an input; the network is shared.

Zintgraf, Shiarlis, Kurin, Hofmann and Whiteson (2019, arXiv:1810.03642, section 3.3). The context begins at 0 in every
task; its gradient step is the inner loop, and the network is trained by TRPO through it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor, cat

from metarl.agent import Distribution, Params, Range
from metarl.agents.gradient.maml import MAML, MAMLConfig


@dataclass(frozen=True)
class CAVIAConfig(MAMLConfig):
    """MAML's hyperparameters, with larger inner steps: a context of a few numbers has a small gradient."""

    inner_lr: Annotated[float, Range(0, 1e3)] = 10.0
    """Size of the first inner step."""
    context: Annotated[int, Range(1, 1e6)] = 5
    """Context parameters."""


class CAVIA(MAML):
    """Fast context adaptation via meta-learning."""

    name = "cavia"
    Config = CAVIAConfig
    config: CAVIAConfig

    @property
    def inputs(self) -> int:
        """Features and context."""
        return self.encode.size + self.config.context

    def start(self, meta: Params, rows: int) -> Params:
        """The shared network for each row, and a context of zeros."""
        shared = super().start(meta, rows)
        return shared | {"context": meta["b0"].new_zeros(rows, self.config.context)}

    def step_sizes(self, meta: Params, j: int) -> Params:
        """alpha_j for the context alone."""
        return {"context": super().step_sizes({"context": meta["b0"]}, j)["context"]}

    def policy(self, params: Params, x: Tensor) -> Distribution:
        """pi(. | x, context)."""
        context = params["context"].unsqueeze(1).expand(-1, x.shape[1], -1)
        return super().policy({k: v for k, v in params.items() if k != "context"}, cat([x, context], -1))
