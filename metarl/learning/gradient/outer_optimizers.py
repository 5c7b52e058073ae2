"""Outer optimisers: how the meta-parameters follow the gradient of an outer loss through the inner loop."""

from __future__ import annotations

import math
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
    """How the meta-parameters follow the gradient of an outer loss."""

    def update(
        self, inner: Inner, loss: OuterLoss, meta: Params, before: list[Batch], after: Batch
    ) -> tuple[Params, dict[str, float]]:
        """New meta-parameters, or those from before where no good step is found; metrics, `step_rejected` among them.

        Args:
            inner: the inner loop.
            loss: what is minimised.
            meta: the meta-parameters that the batches were sampled with.
            before: the batches of the inner steps.
            after: the batch of the adapted policies.
        """

    def tensors(self) -> dict[str, Tensor]:
        """What it keeps from one update to the next, for checkpoints."""

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`; other names are left alone."""


@dataclass(frozen=True)
class TrustRegionConfig:
    """Hyperparameters of `TrustRegion`."""

    max_kl: Annotated[float, Range(1e-12, 1e3)] = 0.01
    """Largest mean KL divergence of the adapted policies per meta-update, in nats."""
    fvp_stride: Annotated[int, Range(1, 1e9)] = 1
    """One in so many samples enters the Fisher-vector products; 1 is exact. The meta-gradient always uses all."""
    cg_iterations: Annotated[int, Range(1, 1e4)] = 10
    """Conjugate gradient iterations."""
    cg_damping: Annotated[float, Range(0, 1e3)] = 1e-5
    """Added to the Fisher matrix's diagonal."""
    line_search_steps: Annotated[int, Range(1, 1e3)] = 15
    """Step sizes tried before the update is given up."""
    line_search_decay: Annotated[float, Range(1e-6, 1)] = 0.8
    """Ratio of one tried step size to the last."""


class TrustRegion:
    """TRPO: the natural gradient of the outer loss, scaled to `max_kl`, with a line search.

    Args:
        config: its hyperparameters.
    """

    def __init__(self, config: TrustRegionConfig) -> None:
        self.config = config

    def update(
        self, inner: Inner, loss: OuterLoss, meta: Params, before: list[Batch], after: Batch
    ) -> tuple[Params, dict[str, float]]:
        """See `OuterOptimizer.update`; the old meta-parameters where every try of the line search failed."""
        cfg = self.config
        objective = MetaObjective(inner, loss, meta, before, after, cfg.fvp_stride)
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
        """None: nothing is kept from one update to the next."""
        return {}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Nothing."""


class AdamEpochs:
    """Several gradient steps of Adam on one batch of samples. The meta-parameters are changed in place.

    Args:
        meta: the meta-parameters.
        learning_rate: Adam's.
        epochs: gradient steps in an update.
    """

    def __init__(self, meta: Params, learning_rate: float, epochs: int) -> None:
        self.meta, self.epochs = meta, epochs
        self.adam = torch.optim.Adam(list(meta.values()), lr=learning_rate)

    def set_learning_rate(self, rate: float) -> None:
        """From now on."""
        for group in self.adam.param_groups:
            group["lr"] = rate

    def update(
        self, inner: Inner, loss: OuterLoss, meta: Params, before: list[Batch], after: Batch
    ) -> tuple[Params, dict[str, float]]:
        """See `OuterOptimizer.update`; `meta` itself, as it was if an epoch led to numbers that are not finite."""
        old = {k: v.clone() for k, v in meta.items()}
        moments = {k: v.clone() for k, v in self.tensors().items()}
        objective = MetaObjective(inner, loss, old, before, after, metric=False)
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
        """Adam's moments."""
        return adam_tensors(self.adam, self.meta)

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`; others are left alone."""
        load_adam(self.adam, self.meta, tensors)
