"""Models of a task's dynamics and rewards, which the last transitions of the task adapt.

Nagabandi et al. (2019, arXiv:1803.11347): a model f(x, a) predicts the change of the observation; here also the reward
and whether the MDP ends. It is adapted to the past M transitions and must predict K others of the trial (their equation
3 has the K that follow; here they are drawn at random from the whole trial, the past included):

    min over theta, psi of  E L(tau', theta'),  theta' = u_psi(tau(t - M, t), theta),  tau' K transitions of the trial

In `GradientModel` (GrBAL, their equation 6) u is a gradient step with learned sizes on the loss of the past, in
`RecurrentModel` (ReBAL) a GRU that reads the past and gives the first layer a bias. All numbers are standardised by
those that training has seen.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from metarl.learning.encoders import RunningNorm
from metarl.learning.memory import GRU
from metarl.learning.model_based.transitions import TransitionLayout
from metarl.learning.networks import Params, init_mlp, mlp
from metarl.rng import Rng

_LARGEST = 10.0  # standard deviations of an input


class Prediction(NamedTuple):
    """What follows a step: `obs` `[R, N, obs]`, `reward` `[R, N]`, and the probability `ends` `[R, N]` of an end."""

    obs: Tensor
    reward: Tensor
    ends: Tensor


class TaskModel(nn.Module):
    """A network from observation and action to the change of the observation, the reward and the logit of an end.

    Args:
        layout: of transitions.
        hidden: widths of the hidden layers, at least one.
        rng: draws of the initial weights.
    """

    def __init__(self, layout: TransitionLayout, hidden: Sequence[int], rng: Rng) -> None:
        super().__init__()
        self.layout, self.norm = layout, RunningNorm(layout.numbers)
        obs, action = layout.encode.size, layout.head.features
        self.layers = nn.ParameterDict(init_mlp((obs + action, *hidden, obs + 2), rng))

    @abstractmethod
    def adapted(self, past: Tensor) -> Params:
        """The parameters of R models `[R, ...]`, each adapted to its past transitions `[R, M, size]`."""

    def see(self, transitions: Tensor) -> None:
        """Take the numbers of transitions `[..., size]` into account in what standardises them."""
        self.norm.update(transitions[..., : self.layout.numbers], transitions[..., self.layout.valid] > 0)

    def standardised(self, transitions: Tensor) -> Tensor:
        """Transitions with numbers of mean 0 and variance 1, and 0 where there is none."""
        at, numbers = self.layout, transitions[..., : self.layout.numbers]
        numbers = torch.where(transitions[..., at.valid, None] > 0, (numbers - self.norm.mean) * self._rate, 0.0)
        return torch.cat([numbers, transitions[..., at.numbers :]], -1)

    @property
    def _rate(self) -> Tensor:
        return (self.norm.var + 1e-8).rsqrt()

    def errors(self, params: Params, told: Tensor) -> Tensor:
        """Mean error of each model on standardised transitions `[R, N, size]`: `[R]`.

        It is the squared error of the reward, that of the change, a mean over its numbers, and the cross-entropy of
        the end.
        """
        at, obs = self.layout, self.layout.encode.size
        x = told[..., : at.action.stop].clamp(-_LARGEST, _LARGEST)
        out = self._network(params, x)
        change = (out[..., :obs] - told[..., at.change]).square().mean(-1) * told[..., at.known]
        reward = (out[..., obs] - told[..., at.reward.start]).square()
        ends = binary_cross_entropy_with_logits(out[..., -1], told[..., at.terminated], reduction="none")
        valid = told[..., at.valid]
        return (change + (reward + ends) * valid).sum(1) / valid.sum(1).clamp_min(1.0)

    def loss(self, past: Tensor, future: Tensor) -> Tensor:
        """Mean error on `future` `[R, K, size]` of the models adapted to `past` `[R, M, size]`: `[]`."""
        return self.errors(self.adapted(past), self.standardised(future)).mean()

    def predict(self, params: Params, obs: Tensor, action: Tensor) -> Prediction:
        """What follows features of observations `[R, N, obs]` and of actions `[R, N, action]`."""
        at, mean, rate, size = self.layout, self.norm.mean, self._rate, self.layout.encode.size
        x = torch.cat([obs, action], -1)
        x = ((x - mean[: at.action.stop]) * rate[: at.action.stop]).clamp(-_LARGEST, _LARGEST)
        out = self._network(params, x)
        change = out[..., :size] / rate[at.change] + mean[at.change]
        reward = out[..., size] / rate[at.reward] + mean[at.reward]
        return Prediction(obs + change, reward, out[..., -1].sigmoid())

    def _network(self, params: Params, x: Tensor) -> Tensor:
        return mlp(params, x)


class GradientModel(TaskModel):
    """A model whose parameters are moved by a gradient step on the error of the past.

    Args:
        layout: of transitions.
        hidden: widths of the hidden layers.
        inner_lr: size of the step in the beginning; each tensor learns its own.
        rng: draws of the initial weights.
    """

    def __init__(self, layout: TransitionLayout, hidden: Sequence[int], inner_lr: float, rng: Rng) -> None:
        super().__init__(layout, hidden, rng)
        self.sizes = nn.ParameterDict({name: torch.tensor(inner_lr) for name in self.layers})

    def adapted(self, past: Tensor) -> Params:
        """One step, theta' = theta - alpha grad L(past, theta), with an alpha for each tensor; theta without a past."""
        create = torch.is_grad_enabled()
        with torch.enable_grad():
            theta = {name: p.expand(len(past), *p.shape) for name, p in self.layers.items()}
            error = self.errors(theta, self.standardised(past)).sum()
            grads = torch.autograd.grad(error, list(theta.values()), create_graph=create)
        return {name: p - self.sizes[name] * g for (name, p), g in zip(theta.items(), grads, strict=True)}


class RecurrentModel(TaskModel):
    """A model whose first layer is also given what a GRU has read in the past.

    Args:
        layout: of transitions.
        hidden: widths of the hidden layers.
        context: units of the GRU.
        rng: draws of the initial weights.
    """

    def __init__(self, layout: TransitionLayout, hidden: Sequence[int], context: int, rng: Rng) -> None:
        super().__init__(layout, hidden, rng)
        with torch.device("meta"):  # PyTorch's own initialisation would draw from its global generator
            memory = GRU(layout.size, context)
        memory.to_empty(device="cpu")
        memory.initialise(rng)
        self.memory = memory
        self.told = nn.ParameterDict(init_mlp((context, hidden[0]), rng))

    def adapted(self, past: Tensor) -> Params:
        """The bias of the first layer, `b0` `[R, hidden]`; the other parameters are shared."""
        context = self.memory(self.standardised(past).clamp(-_LARGEST, _LARGEST).transpose(0, 1))[-1]
        return dict(self.layers.items()) | {"b0": mlp(dict(self.told.items()), context) + self.layers["b0"]}

    def _network(self, params: Params, x: Tensor) -> Tensor:
        first = torch.relu(x @ params["w0"] + params["b0"].unsqueeze(1))
        return mlp({f"{name[0]}{int(name[1:]) - 1}": v for name, v in params.items() if name[1:] != "0"}, first)
