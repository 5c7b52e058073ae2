"""What an inner loop's policy gradient is taken of: batches of samples, and the surrogates that estimate J.

All surrogates have the same gradient where the batch was sampled, mean_t of grad log pi(a_t | x_t) A_t; they differ in
the second derivatives, which is where a meta-gradient learns that sampling before adapting earns credit:

    naive        log pi A: none of it (the MAML papers' code)
    lvc          ratio A: a sample's own action (Rothfuss et al. 2019, arXiv:1810.06784, equation 11)
    dice         all earlier actions of the episode, on rewards (Foerster et al. 2018, arXiv:1802.05098)
    loaded_dice  the same on advantages (Farquhar et al. 2019, arXiv:1909.10549, algorithm 1)

In the second derivatives naive is biased, lvc where episodes are longer than a step, the last two are not. With a
discount below 1 a pair of steps that lie n apart counts discount^n, as is usual for the gradient itself.
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
    """One rollout as an update sees it. R rows of B = T * E samples, time first within a row."""

    x: Tensor  # features [R, B, d]
    action: Tensor  # [R, B, *action]
    advantage: Tensor  # [R, B], standardised over the row
    weight: Tensor  # [R, B], sums to 1 over a row's valid samples
    value: Tensor  # [R, B], the baseline's on the advantages' scale: value + advantage is the reward to go (lambda 1)
    time: Tensor  # int64 [R, T, E], steps since the episode began
    mean_return: Tensor  # float64 [R], undiscounted, of the whole episodes; NaN without any

    def rows(self, which: slice | Tensor) -> Batch:
        """A subset of the rows."""
        return Batch(*(leaf[which] for leaf in self))

    def thinned(self, stride: int, whole_episodes: bool) -> Batch:
        """One in `stride` samples of every row, weights summing to 1 again.

        Args:
            stride: 1 keeps all.
            whole_episodes: take every stride-th environment; otherwise steps from all environments and times alike.
        """
        if stride == 1:
            return self
        t, e = self.time.shape[1:]
        steps, envs = torch.arange(t).view(-1, 1), torch.arange(e).view(1, -1)
        keep = (envs % stride == 0).expand(t, e) if whole_episodes else (steps + envs) % stride == 0
        which = keep.flatten().nonzero().squeeze(1).to(self.x.device)
        flat = self._replace(time=self.time.flatten(1))
        out = Batch(*(leaf.index_select(1, which) if leaf.dim() > 1 else leaf for leaf in flat))
        shape = (len(self.x), t, -1) if whole_episodes else (len(self.x), -1, 1)
        weight = out.weight / out.weight.sum(1, keepdim=True).clamp_min(1e-12)
        return out._replace(time=out.time.view(shape), weight=weight)


def prepare(rollout: Rollout, encode: Callable[[Tensor], Tensor], discount: float, gae_lambda: float) -> Batch:
    """Advantages against a linear feature baseline, standardised per row.

    The horizon ends an episode for good (the baseline sees the time); an episode that the sampler cut off goes on with
    the baseline's value, and does not count in the baseline's fit.

    Args:
        rollout: `[T, R, E]`.
        encode: observations to features.
        discount: gamma.
        gae_lambda: lambda of generalised advantage estimation.
    """
    obs, ended, valid = encode(rollout.obs), rollout.ended, rollout.valid
    whole = valid & (ended.flip(0).cummax(0).values.flip(0))  # the episode's end was seen
    returns = discounted_returns(rollout.reward, ended, discount)
    value, coef = linear_baseline(obs, rollout.time, returns, whole)
    after = torch.einsum("ref,rf->re", linear_features(encode(rollout.last_obs), rollout.last_time), coef)
    advantage = gae(rollout.reward, value, ended, discount, gae_lambda, last_value=after)
    mean, std = row_moments(advantage, valid)
    scale = ((value + advantage).double().square() * valid).sum((0, 2), keepdim=True) / valid.sum((0, 2), keepdim=True)
    std = torch.maximum(std, 1e-5 * scale.sqrt())  # what is below the rewards' rounding is no advantage
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
    estimator: str, log_prob: Tensor, batch: Batch, sampled: Tensor | None = None, discount: float = 1.0
) -> Tensor:
    """The sum over rows of an estimate of J, to be maximised.

    Args:
        estimator: one of `ESTIMATORS`.
        log_prob: of the policy that is differentiated, `[R, B]`.
        batch: R rows.
        sampled: log-probabilities of the policy that sampled the batch, `[R, B]`; by default it is this one.
        discount: how far an earlier action's credit reaches (DiCE; see the module).
    """
    if estimator == "naive":
        return (log_prob * batch.advantage * batch.weight).sum()
    log_ratio = log_prob - (log_prob.detach() if sampled is None else sampled)
    if estimator == "lvc":
        return (log_ratio.exp() * batch.advantage * batch.weight).sum()
    so_far = history(log_ratio * (batch.weight > 0), batch.time, discount)
    grown = so_far.exp() - (so_far - log_ratio).exp()  # by the step's own action
    if estimator == "dice":  # rewards times so_far, summed by parts: they would count discount^(n + m) for two actions
        gained = grown * (batch.advantage + batch.value) + (1.0 - log_ratio.exp()) * batch.value
        return (gained * batch.weight).sum()
    return (grown * batch.advantage * batch.weight).sum()


def history(values: Tensor, time: Tensor, decay: float) -> Tensor:
    """Sums over each episode so far, the step itself included: sum_s decay^(t - s) values_s.

    Args:
        values: `[R, T * E]`, time first.
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
