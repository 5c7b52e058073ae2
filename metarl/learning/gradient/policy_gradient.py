"""Policy gradients for inner loops: batches of samples, and surrogates of the expected return J.

At the policy that sampled the batch, all surrogates have the same gradient, the mean over t of grad log pi(a_t | x_t)
A_t. They differ in the second derivatives, by which a meta-gradient credits actions before adaptation for the return
after it. For which actions does each surrogate keep the credit of sampling?

    naive        for none; the surrogate is log pi A (the MAML papers' code)
    lvc          for the step's own; it is ratio A (Rothfuss et al. 2019, arXiv:1810.06784, equation 11)
    dice         for the step's own and all earlier ones of the episode, with rewards (Foerster et al. 2018,
                 arXiv:1802.05098)
    loaded_dice  for the same, with advantages (Farquhar et al. 2019, arXiv:1909.10549, algorithm 1)

The second derivatives of naive are biased, those of lvc are biased if episodes are longer than one step, and those of
dice and loaded_dice are not biased. With a discount below 1, two actions n steps apart get weight discount^n, as in the
policy gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.agent_base import Rollout
from metarl.learning.returns import discounted_returns, gae, linear_baseline, linear_features, row_moments

ESTIMATORS = ("naive", "lvc", "dice", "loaded_dice")


class Batch(NamedTuple):
    """The samples of one rollout. R rows have B = T * E samples each, ordered by time first.

    Attributes:
        x: features `[R, B, d]`.
        action: `[R, B, *action]`.
        advantage: `[R, B]`, standardised per row.
        weight: `[R, B]`, sums to 1 over a row's valid samples.
        value: `[R, B]`, the baseline in the advantages' scale: value + advantage is the return to go if lambda is 1.
        time: `int64 [R, T, E]`, steps since the episode began.
        mean_return: `float64 [R]`, undiscounted, over complete episodes; NaN without one.
    """

    x: Tensor
    action: Tensor
    advantage: Tensor
    weight: Tensor
    value: Tensor
    time: Tensor
    mean_return: Tensor

    def rows(self, which: slice | Tensor) -> Batch:
        """A subset of the rows."""
        return Batch(*(leaf[which] for leaf in self))

    def thinned(self, stride: int, whole_episodes: bool) -> Batch:
        """Every stride-th sample of every row, with weights that sum to 1.

        Args:
            stride: 1 keeps all samples.
            whole_episodes: whether to keep every stride-th environment, instead of steps from all environments.
        """
        if stride == 1:
            return self
        t, e = self.time.shape[1:]
        steps, envs = torch.arange(t).view(-1, 1), torch.arange(e).view(1, -1)
        keep = (envs % stride == 0).expand(t, e) if whole_episodes else (steps + envs) % stride == 0
        kept = keep.flatten().nonzero().squeeze(1).to(self.x.device)
        flat = self._replace(time=self.time.flatten(1))
        out = Batch(*(leaf.index_select(1, kept) if leaf.dim() > 1 else leaf for leaf in flat))
        shape = (len(self.x), t, -1) if whole_episodes else (len(self.x), -1, 1)
        weight = out.weight / out.weight.sum(1, keepdim=True).clamp_min(1e-12)
        return out._replace(time=out.time.view(shape), weight=weight)


def prepare(rollout: Rollout, encode: Callable[[Tensor], Tensor], discount: float, gae_lambda: float) -> Batch:
    """Make a batch with advantages against a linear feature baseline, standardised per row.

    The horizon is the real end of an episode, because the baseline depends on the time. An episode that the sampler cut
    off continues with the baseline's value and does not count in the baseline's fit.

    Args:
        rollout: `[T, R, E]`.
        encode: function from observations to features.
        discount: gamma.
        gae_lambda: lambda of generalised advantage estimation.
    """
    obs, ended, valid = encode(rollout.obs), rollout.ended, rollout.valid
    complete = valid & (ended.flip(0).cummax(0).values.flip(0))  # steps of episodes whose end was sampled
    returns = discounted_returns(rollout.reward, ended, discount)
    value, coef = linear_baseline(obs, rollout.time, returns, complete)
    last_value = torch.einsum("ref,rf->re", linear_features(encode(rollout.last_obs), rollout.last_time), coef)
    advantage = gae(rollout.reward, value, ended, discount, gae_lambda, last_value=last_value)
    mean, std = row_moments(advantage, valid)
    scale = ((value + advantage).double().square() * valid).sum((0, 2), keepdim=True) / valid.sum((0, 2), keepdim=True)
    std = torch.maximum(std, 1e-5 * scale.sqrt())  # smaller advantages are rounding errors of the rewards
    weight = valid.float() / valid.sum((0, 2), keepdim=True)
    scaled = [(values / std).to(obs.dtype) * valid for values in (advantage - mean, value + mean)]
    by_row = rollout.by_row
    return Batch(
        x=by_row(obs),
        action=by_row(rollout.action),
        advantage=by_row(scaled[0]),
        weight=by_row(weight),
        value=by_row(scaled[1]),
        time=rollout.time.transpose(0, 1),
        mean_return=rollout.mean_return(),
    )


def surrogate(
    estimator: str, log_prob: Tensor, batch: Batch, sampled_log_prob: Tensor | None = None, discount: float = 1.0
) -> Tensor:
    """The sum over rows of a surrogate of J, which is to be maximised.

    Args:
        estimator: one of `ESTIMATORS`.
        log_prob: log-probabilities of the policy that is differentiated, `[R, B]`.
        batch: samples of R rows.
        sampled_log_prob: log-probabilities of the policy that sampled the batch, `[R, B]`; None for `log_prob` itself.
        discount: factor by which DiCE's credit for an earlier action falls per step.
    """
    if estimator == "naive":
        return (log_prob * batch.advantage * batch.weight).sum()
    log_ratio = log_prob - (log_prob.detach() if sampled_log_prob is None else sampled_log_prob)
    if estimator == "lvc":
        return (log_ratio.exp() * batch.advantage * batch.weight).sum()
    so_far = history(log_ratio * (batch.weight > 0), batch.time, discount)
    grown = so_far.exp() - (so_far - log_ratio).exp()  # the factor of the step's own action
    if estimator == "dice":  # rewritten by parts: direct weighting would discount a pair twice
        gained = grown * (batch.advantage + batch.value) + (1.0 - log_ratio.exp()) * batch.value
        return (gained * batch.weight).sum()
    return (grown * batch.advantage * batch.weight).sum()


def history(values: Tensor, time: Tensor, decay: float) -> Tensor:
    """Sums over the steps s <= t of each episode, sum_s decay^(t - s) values_s.

    Args:
        values: `[R, T * E]`, ordered by time first.
        time: `int64 [R, T, E]`, steps since the episode began.
        decay: 1 for plain sums.

    Returns:
        `[R, T * E]`.
    """
    r, t, e = time.shape
    steps = torch.arange(t, device=time.device)
    lag = (steps.view(-1, 1) - steps).clamp_min(-1)  # [T, T], -1 for the future
    within = (lag >= 0) & (lag <= time.transpose(1, 2).unsqueeze(-1))  # [R, E, T, T]
    kernel = within * decay ** lag.clamp_min(0).to(values.dtype)
    sums = kernel @ values.view(r, t, e).transpose(1, 2).unsqueeze(-1)
    return sums.squeeze(-1).transpose(1, 2).reshape(r, t * e)
