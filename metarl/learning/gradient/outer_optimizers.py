"""Outer optimisers. They update the meta-parameters by the gradient of an outer loss through the inner loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Protocol

import torch
from torch import Tensor

from metarl.config import Range
from metarl.learning.adam import adam_tensors, load_adam
from metarl.learning.gradient.meta_gradient import Inner, MetaObjective, OuterLoss
from metarl.learning.gradient.policy_gradient import Batch
from metarl.learning.gradient.trust_region import flatten, trust_region_step, unflatten
from metarl.learning.networks import Params


class OuterOptimizer(Protocol):
    """Updates the meta-parameters by the gradient of an outer loss."""

    def update(
        self, inner: Inner, loss: OuterLoss, meta: Params, pre: list[Batch], post: Batch
    ) -> tuple[Params, dict[str, float]]:
        """Return new meta-parameters, or the old ones if no good step is found, and metrics with `step_rejected`.

        Args:
            inner: the inner loop.
            loss: the outer loss.
            meta: the meta-parameters that the batches were sampled with.
            pre: the batches of the inner steps.
            post: the batch of the adapted policies.
        """

    def tensors(self) -> dict[str, Tensor]:
        """The optimiser's state, for checkpoints."""

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`. Other tensors are ignored."""


class Objective(Protocol):
    """A mean loss over rows, as a function of meta-parameters, for `trust_region_step`.

    Attributes:
        loss: its value at the meta-parameters that sampled.
        flat: these meta-parameters, `[P]`.
        grad: its gradient there, `[P]`.
    """

    loss: float
    flat: Tensor
    grad: Tensor

    def fisher_vector(self, v: Tensor) -> Tensor:
        """The metric of the meta-parameters times v, `[P]`."""

    def evaluate(self, flat: Tensor) -> tuple[float, float]:
        """The loss and the KL divergence at other meta-parameters `[P]`."""


@dataclass(frozen=True)
class TrustRegionConfig:
    """Hyperparameters of `TrustRegion`."""

    max_kl: Annotated[float, Range(1e-12, 1e3)] = 0.01
    """Largest mean KL divergence of the adapted policies per meta-update, in nats."""
    fvp_stride: Annotated[int, Range(1, 1e9)] = 1
    """Every fvp_stride-th sample enters the Fisher-vector products; 1 is exact. The meta-gradient uses all samples."""
    cg_iterations: Annotated[int, Range(1, 1e4)] = 10
    """Conjugate gradient iterations."""
    cg_damping: Annotated[float, Range(0, 1e3)] = 1e-5
    """Added to the Fisher matrix's diagonal."""
    line_search_steps: Annotated[int, Range(1, 1e3)] = 15
    """Number of step sizes tried before the update is rejected."""
    line_search_decay: Annotated[float, Range(1e-6, 1)] = 0.8
    """Ratio of each tried step size to the one before."""


class TrustRegion:
    """TRPO: the natural gradient of the outer loss, scaled to `max_kl`, with a line search.

    Args:
        config: the hyperparameters.
        objective: makes the objective of a meta-update from the arguments of `MetaObjective`.
    """

    def __init__(self, config: TrustRegionConfig, objective: Callable[..., Objective] = MetaObjective) -> None:
        self.config, self.objective = config, objective

    def update(
        self, inner: Inner, loss: OuterLoss, meta: Params, pre: list[Batch], post: Batch
    ) -> tuple[Params, dict[str, float]]:
        """See `OuterOptimizer.update`. The meta-parameters stay if the line search rejects all step sizes."""
        cfg = self.config
        objective = self.objective(inner, loss, meta, pre, post, cfg.fvp_stride)
        new, metrics = trust_region_step(
            objective.flat,
            objective.grad,
            lambda v: objective.fisher_vector(v) + cfg.cg_damping * v,
            objective.evaluate,
            objective.loss,
            max_kl=cfg.max_kl,
            cg_iterations=cfg.cg_iterations,
            tries=cfg.line_search_steps,
            decay=cfg.line_search_decay,
        )
        return (meta if metrics["step_rejected"] else unflatten(new, meta)), metrics

    def tensors(self) -> dict[str, Tensor]:
        """No tensors, because TRPO has no state between updates."""
        return {}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Load nothing."""


class AdamEpochs:
    """Several gradient steps of Adam on one batch of samples. They change the meta-parameters in place.

    Args:
        meta: the meta-parameters. Every call of `update` takes the same dict.
        learning_rate: Adam's learning rate.
        epochs: gradient steps per update.
    """

    def __init__(self, meta: Params, learning_rate: float, epochs: int) -> None:
        self.meta, self.epochs = meta, epochs
        self.adam = torch.optim.Adam(list(meta.values()), lr=learning_rate)

    def set_learning_rate(self, rate: float) -> None:
        """Set Adam's learning rate."""
        for group in self.adam.param_groups:
            group["lr"] = rate

    def update(
        self, inner: Inner, loss: OuterLoss, meta: Params, pre: list[Batch], post: Batch
    ) -> tuple[Params, dict[str, float]]:
        """See `OuterOptimizer.update`. It returns `meta` itself, unchanged if any new number is not finite.

        `meta` must be the dict given to the constructor.
        """
        assert meta is self.meta, "meta must be the dict given to the constructor"
        old = {k: v.clone() for k, v in meta.items()}
        moments = {k: v.clone() for k, v in self.tensors().items()}
        objective = MetaObjective(inner, loss, old, pre, post, metric=False)
        gradient, norm = objective.grad, float(objective.grad.norm())
        for epoch in range(self.epochs):
            if epoch:
                _, gradient = objective.gradient(meta)
            self._step(gradient)
        new_loss, kl = objective.evaluate(flatten(meta))
        metrics = {"grad_norm": norm, "kl": kl, "improvement": objective.loss - new_loss, "step_rejected": 0.0}
        finite = all(bool(torch.isfinite(v).all()) for v in (*meta.values(), *self.tensors().values()))
        if not (finite and math.isfinite(new_loss) and math.isfinite(kl)):
            for k, v in meta.items():
                v.copy_(old[k])
            self.load_tensors(moments)
            metrics |= {"kl": 0.0, "improvement": 0.0, "step_rejected": 1.0}
        return meta, metrics

    def _step(self, gradient: Tensor) -> None:
        for p, g in zip(self.meta.values(), unflatten(gradient, self.meta).values(), strict=True):
            p.grad = g
        self.adam.step()

    def tensors(self) -> dict[str, Tensor]:
        """Adam's moments and step counts."""
        return adam_tensors(self.adam, self.meta)

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`. Other tensors are ignored."""
        load_adam(self.adam, self.meta, tensors)
