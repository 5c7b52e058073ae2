"""Decoders: what a latent z of the task says about the steps of a trial, and how well.

The evidence lower bound of VariBAD (Zintgraf et al. 2020, arXiv:1910.08348, equation 8): the belief at each step t must
explain the rewards, and maybe the next observations, of all steps of the trial, past and future.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from metarl.learning.inference.beliefs import Belief
from metarl.learning.networks import init_mlp, mlp
from metarl.rng import Rng


class StepDecoder(nn.Module):
    """A fully connected network that predicts numbers of a step from z and the step's features.

    Args:
        latent: size of z.
        features: features of a step.
        hidden: widths of the hidden layers, at least one.
        outputs: numbers that are predicted.
        rng: draws of the initial weights.
    """

    def __init__(self, latent: int, features: int, hidden: Sequence[int], outputs: int, rng: Rng) -> None:
        super().__init__()
        self.latent = latent
        self.layers = nn.ParameterDict(init_mlp((latent + features, *hidden, outputs), rng))

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """Predictions `[S, T, B, outputs]` of every step `x` `[T, B, features]` by every `z` `[S, B, latent]`."""
        w, b = self.layers["w0"], self.layers["b0"]
        # the first layer is linear in both: z and the step are mapped alone, not in all pairs
        wide = torch.relu((z @ w[: self.latent]).unsqueeze(1) + (x @ w[self.latent :] + b))
        rest = {f"{name[0]}{int(name[1:]) - 1}": v for name, v in self.layers.items() if name not in ("w0", "b0")}
        return mlp(rest, wide)


class Decoded(NamedTuple):
    """What is decoded: `decoder` maps z and `x` `[T, B, features]` to `target` `[T, B, n]`; `coef` is its weight."""

    decoder: StepDecoder
    x: Tensor
    target: Tensor
    coef: float


def negative_elbo(
    belief: Belief,
    decoded: Sequence[Decoded],
    valid: Tensor,
    noise: Tensor,
    kl_coef: float,
    terms: Tensor,
    told: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a belief model on whole trials.

    It is the mean over trials and over the steps t in `terms` of

        sum_i coef |decoder(z_t, x_i) - target_i|^2 + kl_coef KL(q_t || q_{t-1})

    Args:
        belief: q_t at every step, `[T, B, latent]`.
        decoded: what z must explain, of all steps or of some, `[D, B, n]`.
        valid: `float32 [T, B]`, 0 after a trial's end.
        noise: standard normal, `[S, B, latent]`, one draw for each term.
        kl_coef: weight of the KL to the belief before.
        terms: the steps t whose bound is computed, `int64 [S]`.
        told: how often each decoded step i counts, `[D, B]`; by default `valid`.

    Returns:
        the loss `[]`, and its parts by name: `kl`, and `error_0`, `error_1`, ... for each of `decoded`, in nats or in
        squared units per trial.
    """
    told = valid if told is None else told
    weight = valid[terms] / valid[terms].sum().clamp_min(1.0)  # [S, B]
    at = Belief(belief.mean[terms], belief.log_var[terms])
    previous = belief.before()
    kl = (at.kl(Belief(previous.mean[terms], previous.log_var[terms])) * weight).sum()
    loss, parts = kl_coef * kl, {"kl": kl.detach()}
    z = at.sample(noise)
    for number, (decoder, x, target, coef) in enumerate(decoded):
        squared = (decoder(z, x) - target).square().sum(-1)  # [S, D, B]
        error = ((squared * told).sum(1) * weight).sum()
        loss, parts[f"error_{number}"] = loss + coef * error, error.detach()
    return loss, parts
