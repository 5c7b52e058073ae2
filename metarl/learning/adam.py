"""Training by Adam: gradient steps, and checkpoints of the network and the optimiser as named tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from metarl.agent_base import Agent

_OF_TRAINING = re.compile(r"(?:^|[./])(?:adam|\w*optimizer|return_moments|counters)(?:[./]|$)")


def adam_step(optimizer: torch.optim.Optimizer, loss: Tensor, max_grad_norm: float = math.inf) -> None:
    """Take one gradient step on the scalar `loss`. Scale the gradient down if its norm is above `max_grad_norm`."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for p, grad in zip(params, torch.autograd.grad(loss, params), strict=True):
        p.grad = grad.contiguous()  # the fused Adam reads a gradient's memory in the parameter's order
    if max_grad_norm < math.inf:
        nn.utils.clip_grad_norm_(params, max_grad_norm)
    optimizer.step()


def net_tensors(net: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The network's and the optimiser's tensors, for an agent's `tensors`: "net.NAME" and "adam.NAME.MOMENT"."""
    parameters = {f"net.{name}": values for name, values in net.state_dict().items()}
    return parameters | adam_tensors(optimizer, dict(net.named_parameters()))


def load_net(net: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `net_tensors`. Other tensors are ignored."""
    net.load_state_dict({k.removeprefix("net."): v for k, v in tensors.items() if k.startswith("net.")})
    load_adam(optimizer, dict(net.named_parameters()), tensors)


def adam_tensors(optimizer: torch.optim.Optimizer, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Adam's moments and step counts of named parameters, for checkpoints. They are 0 before the first step."""
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
    """The inverse of `adam_tensors`. Other tensors are ignored."""
    for name, p in params.items():
        moments = {k: tensors[f"adam.{name}.{k}"].to(p.device).clone() for k in ("step", "exp_avg", "exp_avg_sq")}
        optimizer.state[p] = moments


def parameters_of(agent: Agent) -> dict[str, Tensor]:
    """What an agent has learned, of its `tensors`: no whole numbers, no state of its training, no replay memory.

    The state of a training has "adam", "optimizer", "return_moments" or "counters" as a part of its names, between dots
    or slashes; "optimizer" may be the end of such a part.
    """
    return {
        name: value
        for name, value in agent.tensors().items()
        if value.is_floating_point() and not name.startswith(agent.replays) and not _OF_TRAINING.search(name)
    }
