"""Clustered: similar tasks share an initialisation, which a task finds by an embedding of its first rollout.

There are C initialisations. Every task begins with their mean. An encoder embeds the task's first rollout as C
numbers, and their softmax weighs the initialisations: the task goes on from sum_c w_c theta_c. The same rollout gives
the first inner step, so after k adaptation steps a task has seen as much as with `maml`:

    phi_0 = mean_c theta_c    phi_1 = sum_c w_c theta_c - alpha_0 grad L_0(phi_0)    w = softmax(mean_t (r_t f + A_t g))

Later steps are MAML's; the weights stay. f and g are outputs of one network on observation and action; r and A are the
rewards and the advantages, standardised in the rollout. So the embedding says what goes with reward in the task, and
not what all tasks have in common: from rewards as inputs of the network all tasks soon got the same initialisation.
TRPO trains initialisations and encoder together, by the exact meta-gradient through assignment and inner steps.

That tasks are told apart by an embedding of their first experience, and begin where similar tasks do, is of Vuorio,
Sun, Hu and Lim (2019, arXiv:1910.13616: a recurrent encoder modulates one initialisation, without clusters) and of
Yao, Wei, Huang and Li (2019, arXiv:1905.05301: a hierarchy of soft clusters gates one initialisation, in supervised
learning). Here are C initialisations and no hierarchy, no decoder of the embedding, and the modulated policy does not
sample anew before the first step: that step's gradient is the one at the common start, which sampled.

    metarl train clustered --family metarl/PointNavigation-v0:corners
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from metarl.agent import (
    Batch,
    Distribution,
    FixedSizes,
    InnerLoop,
    MLPPolicy,
    Params,
    Range,
    Rng,
    Rollout,
    StepSizes,
    TrustRegionConfig,
    init_mlp,
    mlp,
    standardize,
)
from metarl.agents.gradient.config import MetaGradientConfig
from metarl.agents.gradient.maml import MAML

_INITIAL, _ENCODER, _GATE = "initial.", "encoder.", "gate"  # names of parameters
_SPREAD = 0.1  # how far towards weights of its own an initialisation begins; with 1 a square of goals trains worse


@dataclass(frozen=True)
class ClusteredConfig(TrustRegionConfig, MetaGradientConfig):
    """Hyperparameters of the inner loop, of the trust region and of the assignment."""

    clusters: Annotated[int, Range(1, 1000)] = 4
    """Number of initialisations."""
    encoder_hidden: tuple[Annotated[int, Range(1, 1e9)], ...] = (32,)
    """Widths of the encoder's hidden layers."""


class ClusteredPolicy(MLPPolicy):
    """A network whose layers are a weighted mean of C initialisations, plus what a task's inner steps added.

    Parameters: `initial.NAME` `[C, ...]` for each layer NAME; `encoder.NAME`, the encoder's layers; `gate` `[C]`, the
    logarithms of the weights, 0 before a task is assigned; NAME, what inner steps added to a layer, 0 at the start.

    Args:
        policy: sizes of the network, and the spaces.
        clusters: number of initialisations.
        encoder_hidden: widths of the encoder's hidden layers.
    """

    def __init__(self, policy: MLPPolicy, clusters: int, encoder_hidden: tuple[int, ...]) -> None:
        self.__dict__ |= policy.__dict__
        self.clusters, self.encoder_hidden = clusters, encoder_hidden

    def initial(self, rng: Rng) -> Params:
        """Initialisations that differ a little, and an encoder."""
        first, *others = (super(ClusteredPolicy, self).initial(rng) for _ in range(self.clusters))
        theta = {
            _INITIAL + name: torch.stack([first[name], *(first[name].lerp(one[name], _SPREAD) for one in others)])
            for name in self.layers
        }
        sizes = (self.features - 2, *self.encoder_hidden, 2 * self.clusters)
        theta |= {_ENCODER + name: value for name, value in init_mlp(sizes, rng).items()}
        return theta | {name: value for name, value in first.items() if name == "log_std"}

    def start(self, theta: Params, rows: int) -> Params:
        """The shared parameters, expanded to `[R, ...]`, equal weights, and nothing added to the layers."""
        params = {name: value.expand(rows, *value.shape) for name, value in theta.items()}
        params[_GATE] = torch.zeros_like(params[_INITIAL + "b0"][:, :, 0])
        return params | {name: torch.zeros_like(params[_INITIAL + name][:, 0]) for name in self.layers}

    def __call__(self, params: Params, x: Tensor) -> Distribution:
        """pi(. | x), for parameters `[R, ...]` and features `[R, B, d]`, of which those of the observation count."""
        weights = self.weights(params)
        layers = {}
        for name in self.layers:
            each = params[_INITIAL + name]
            layers[name] = params[name] + (weights.view(*weights.shape, *[1] * (each.dim() - 2)) * each).sum(1)
        x = x[..., : self.encode.size]
        return self.head.distribution(mlp(layers, x, self.activation), params.get("log_std"))

    def weights(self, params: Params) -> Tensor:
        """How much of each initialisation a task begins with, `[R, C]`; they sum to 1."""
        return params[_GATE].softmax(-1)

    def assign(self, params: Params, batch: Batch) -> Tensor:
        """Logarithms of the weights that the encoder gives to each row's samples, `[R, C]`."""
        encoder = {k.removeprefix(_ENCODER): v for k, v in params.items() if k.startswith(_ENCODER)}
        f, g = mlp(encoder, batch.x[..., :-2]).chunk(2, -1)  # [R, B, C] each, of observations and actions
        reward, advantage = ((batch.x[..., i] * batch.weight).unsqueeze(-1) for i in (-2, -1))
        return (reward * f + advantage * g).sum(1).log_softmax(-1)

    @property
    def features(self) -> int:
        """Features of a sample: those of the observation and of the action, the reward and the advantage."""
        return self.encode.size + self.head.features + 2

    @property
    def layers(self) -> list[str]:
        """Names of the network's layers."""
        return [f"{kind}{i}" for i in range(len(self.hidden) + 1) for kind in "wb"]


class AssigningLoop(InnerLoop):
    """Inner steps of which the first also assigns.

    The assignment is a step as well, of size 1: the gradient of -gate . log w(D) moves the gate from 0 to log w(D). So
    all that differentiates inner steps differentiates it.
    """

    policy: ClusteredPolicy

    def loss(self, params: Params, batch: Batch, sampled_log_prob: Tensor | None = None) -> Tensor:
        """See `InnerLoop.loss`. The gate is moved by the encoder alone, not by the policy gradient."""
        gate = params[_GATE]
        assigned = (gate != 0).any(-1, keepdim=True)  # logarithms of several weights are never all 0
        given = params | {_GATE: torch.where(assigned, gate, gate.detach())}
        return super().loss(given, batch, sampled_log_prob) - (gate * self.policy.assign(params, batch)).sum()


class AssignFirst(FixedSizes):
    """The schedule's size for the network; 1 for the gate, in the first step alone."""

    def at(self, j: int, theta: Params, learned: Params) -> Params:
        """See `StepSizes.at`."""
        sizes = super().at(j, theta, learned)
        return sizes | ({} if j else {_GATE: torch.ones_like(next(iter(sizes.values())))})


class Clustered(MAML):
    """Clustered is MAML with several initialisations, which a task's first rollout weighs."""

    name = "clustered"
    Config = ClusteredConfig
    policy: ClusteredPolicy

    def prepare(self, rollout: Rollout) -> Batch:
        """See `MAML.prepare`. The features also hold action, standardised reward and advantage, for the encoder."""
        batch = super().prepare(rollout)
        action = self.policy.head.encode(batch.action)
        reward = rollout.by_row(standardize(rollout.reward, rollout.valid))
        return batch._replace(x=torch.cat([batch.x, action, torch.stack([reward, batch.advantage], -1)], -1))

    def make_policy(self) -> ClusteredPolicy:
        """The initialisations and the encoder."""
        return ClusteredPolicy(super().make_policy(), self.config.clusters, self.config.encoder_hidden)

    def make_step_sizes(self) -> AssignFirst:
        """One size for the network, and 1 for the gate."""
        names = [*self.policy.layers, *([] if self.policy.head.discrete else ["log_std"])]
        return AssignFirst(self.schedule, names)

    def make_inner_loop(self, sizes: StepSizes) -> AssigningLoop:
        """Policy-gradient steps, the first of which assigns."""
        c = self.config
        return AssigningLoop(self.policy, sizes, c.estimator, c.discount, l2=c.inner_l2)
