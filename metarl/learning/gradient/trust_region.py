"""Trust-region steps (Schulman et al. 2015, arXiv:1502.05477, appendix C), over flat vectors of parameters.

The natural-gradient direction is found by conjugate gradients from Fisher-vector products alone, scaled so that the
quadratic model of the KL divergence reaches its limit, and shortened until the true loss falls within the true limit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from metarl.learning.networks import Params


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], b: Tensor, iterations: int, tolerance: float = 1e-10
) -> tuple[Tensor, Tensor]:
    """Solve A x = b for a positive definite A given as a product (Hestenes and Stiefel, 1952).

    Where A is ill-conditioned, rounding soon costs the residuals their orthogonality, and directions come back. So the
    recursion is in float64 whatever the product's precision, and each residual is made orthogonal to all earlier ones
    again: ten steps with float32 products are then worth ten.

    Args:
        product: v `[P]` to A v, in b's dtype.
        b: `[P]`.
        iterations: at most, one product each.
        tolerance: of the residual's squared norm.

    Returns:
        x and the residual b - A x, `[P]` each.
    """
    r = b.double()
    x, p, rr, earlier = torch.zeros_like(r), r, torch.dot(r, r), r.new_empty(0, len(r))
    for _ in range(iterations):
        if float(rr) < tolerance:
            break
        earlier = torch.cat([earlier, (r / rr.sqrt()).unsqueeze(0)])
        ap = product(p.to(b.dtype)).double()
        alpha = rr / torch.dot(p, ap)
        x, r = x + alpha * p, r - alpha * ap
        r = r - earlier.T @ (earlier @ r)
        rr, previous = torch.dot(r, r), rr
        p = r + (rr / previous) * p
    return x.to(b.dtype), r.to(b.dtype)


def trust_region_step(
    theta: Tensor,
    gradient: Tensor,
    fisher_vector: Callable[[Tensor], Tensor],
    evaluate: Callable[[Tensor], tuple[float, float]],
    loss: float,
    *,
    max_kl: float,
    cg_iterations: int = 10,
    tries: int = 15,
    decay: float = 0.8,
) -> tuple[Tensor, dict[str, float]]:
    """One step down the natural gradient, or none at all.

    Args:
        theta: parameters, `[P]`.
        gradient: of the loss at `theta`, `[P]`.
        fisher_vector: v to F v at `theta`, damping included.
        evaluate: parameters to (loss, KL divergence from the policy at `theta`, in nats).
        loss: at `theta`.
        max_kl: largest KL divergence, in nats.
        cg_iterations: conjugate gradient iterations.
        tries: step sizes tried before the step is given up.
        decay: ratio of one tried step size to the last.

    Returns:
        the new parameters, or `theta` itself where every try failed; and metrics, `step_rejected` among them.
    """
    direction, residual = conjugate_gradient(fisher_vector, gradient, cg_iterations)
    curvature = torch.dot(direction, gradient - residual)  # x' A x without another product
    metrics = {"grad_norm": float(gradient.norm()), "kl": 0.0, "improvement": 0.0, "step_rejected": 1.0}
    if not bool(torch.isfinite(direction).all() & (curvature > 0)):
        return theta, metrics
    step = direction * torch.sqrt(2.0 * max_kl / curvature)
    for i in range(tries):
        candidate = theta - decay**i * step
        new_loss, kl = evaluate(candidate)
        if new_loss < loss and kl <= max_kl:  # NaN fails both
            found = {"kl": kl, "improvement": loss - new_loss, "step_rejected": 0.0, "line_search": float(i)}
            return candidate, metrics | found
    return theta, metrics


def flatten(params: Params) -> Tensor:
    """All parameters in one vector, `[P]`."""
    return torch.cat([v.flatten() for v in params.values()])


def unflatten(flat: Tensor, like: Params) -> Params:
    """The inverse of `flatten`, with names and shapes from `like`."""
    parts = torch.split(flat, [v.numel() for v in like.values()])
    return {k: p.view_as(v).clone() for (k, v), p in zip(like.items(), parts, strict=True)}
