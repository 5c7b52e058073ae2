"""Adam's moments as named tensors, for checkpoints."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def adam_tensors(optimizer: torch.optim.Optimizer, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Adam's moments and step counts of named parameters, for checkpoints; zeros before its first step."""
    out: dict[str, Tensor] = {}
    for name, p in params.items():
        moments = optimizer.state.get(p) or {
            "step": torch.zeros((), device=p.device),
            "exp_avg": torch.zeros_like(p),
            "exp_avg_sq": torch.zeros_like(p),
        }
        out |= {f"adam.{name}.{k}": v for k, v in moments.items()}
    return out


def load_adam(optimizer: torch.optim.Optimizer, params: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `adam_tensors`."""
    for name, p in params.items():
        moments = {k: tensors[f"adam.{name}.{k}"].to(p.device).clone() for k in ("step", "exp_avg", "exp_avg_sq")}
        optimizer.state[p] = moments
