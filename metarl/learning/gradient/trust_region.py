"""Trust-region steps (Schulman et al. 2015, arXiv:1502.05477, appendix C) on flat vectors of parameters.

Conjugate gradients find the natural-gradient direction from Fisher-vector products. The step is scaled so that the
quadratic model of the KL divergence reaches its limit. Then a line search shortens it until the sampled loss
falls and the sampled KL divergence is within the limit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from metarl.learning.networks import Params


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], b: Tensor, iterations: int, tolerance: float = 1e-10
) -> tuple[Tensor, Tensor]:
    """Solve A x = b for a positive definite A that is given by its product with a vector (Hestenes and Stiefel, 1952).

    Systems with leading axes are solved side by side, each by its own recursion. One in which A shows no positive
    curvature keeps the x that it has, which is 0 if this is its first direction (Steihaug, 1983).

    If A is ill-conditioned, rounding destroys the orthogonality of the residuals, and directions repeat. So the
    recursion is in float64, whatever the product's precision, and each residual is made orthogonal to all earlier
    residuals.

    Args:
        product: function from v `[..., P]` to A v, in the dtype of b.
        b: `[..., P]`.
        iterations: largest number of iterations, each with one product.
        tolerance: squared norm of the residual at which to stop.

    Returns:
        x and the residual b - A x, `[..., P]` each.
    """
    dot = torch.linalg.vecdot
    r = b.double()
    x, p, rr, earlier = torch.zeros_like(r), r, dot(r, r), r.new_empty(*r.shape[:-1], 0, r.shape[-1])
    going = torch.ones_like(rr, dtype=torch.bool)
    for _ in range(iterations):
        going = going & (rr >= tolerance)
        if not bool(going.any()):
            break
        earlier = torch.cat([earlier, (r / rr.sqrt().unsqueeze(-1)).unsqueeze(-2)], -2)
        ap = product(p.to(b.dtype)).double()
        curvature = dot(p, ap)
        going = going & (curvature > 0)
        alpha, here = (rr / curvature).unsqueeze(-1), going.unsqueeze(-1)
        after = r - alpha * ap
        after = after - (earlier.mT @ (earlier @ after.unsqueeze(-1))).squeeze(-1)
        x, r = torch.where(here, x + alpha * p, x), torch.where(here, after, r)
        rr, previous = dot(r, r), rr
        p = torch.where(here, r + (rr / previous).unsqueeze(-1) * p, p)
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
    """Take one step along the natural gradient, or none if the line search rejects all step sizes.

    Args:
        theta: parameters, `[P]`.
        gradient: gradient of the loss at `theta`, `[P]`.
        fisher_vector: function from v to F v at `theta`, damping included.
        evaluate: function from parameters to (loss, KL divergence from the policy at `theta`, in nats).
        loss: loss at `theta`.
        max_kl: largest KL divergence, in nats.
        cg_iterations: conjugate gradient iterations.
        tries: number of step sizes tried before the step is rejected.
        decay: ratio of each tried step size to the one before.

    Returns:
        the new parameters, or `theta` itself if the step is rejected, and metrics: `grad_norm`, `kl`, `improvement`,
        `step_rejected`, and only where a step is accepted `line_search`, how often the step was shortened.
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
            accepted = {"kl": kl, "improvement": loss - new_loss, "step_rejected": 0.0, "line_search": float(i)}
            return candidate, metrics | accepted
    return theta, metrics


def flatten(params: Params) -> Tensor:
    """Concatenate all parameters to one vector, `[P]`."""
    return torch.cat([v.flatten() for v in params.values()])


def unflatten(flat: Tensor, like: Params) -> Params:
    """The inverse of `flatten`. Names and shapes come from `like`."""
    parts = torch.split(flat, [v.numel() for v in like.values()])
    return {k: p.view_as(v).clone() for (k, v), p in zip(like.items(), parts, strict=True)}
