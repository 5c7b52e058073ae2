"""Returns, advantages and the linear feature baseline, as pure functions of time-first tensors.

An episode can stop in two ways. `ended` marks its real end, which includes the horizon: no reward follows. If the
sampler stops within an episode, the caller passes the value of the state that follows as `last_value`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def discounted_returns(reward: Tensor, ended: Tensor, discount: float, last_value: Tensor | None = None) -> Tensor:
    """G_t = r_t + discount * (1 - ended_t) * G_{t+1}, with G_T = `last_value` (0 if None).

    Args:
        reward: `[T, ...]`.
        ended: `bool [T, ...]`.
        discount: gamma.
        last_value: `[...]`.

    Returns:
        `[T, ...]`.
    """
    g = torch.zeros_like(reward[0]) if last_value is None else last_value
    carry, out = discount * (~ended).to(reward.dtype), []
    for reward_t, carry_t in zip(reversed(reward.unbind()), reversed(carry.unbind()), strict=True):
        g = torch.addcmul(reward_t, carry_t, g)
        out.append(g)
    return torch.stack(out[::-1])


def gae(
    reward: Tensor, value: Tensor, ended: Tensor, discount: float, lam: float, last_value: Tensor | None = None
) -> Tensor:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv:1506.02438, equation 16).

    A_t = delta_t + discount * lam * (1 - ended_t) * A_{t+1}, delta_t = r_t + discount * (1 - ended_t) * v_{t+1} - v_t.

    Args:
        reward: `[T, ...]`.
        value: v_t, `[T, ...]`.
        ended: `bool [T, ...]`.
        discount: gamma.
        lam: lambda; 1 gives Monte Carlo returns minus the value, 0 gives the one-step error.
        last_value: v_T, `[...]` (0 if None).

    Returns:
        `[T, ...]`.
    """
    last = torch.zeros_like(value[:1]) if last_value is None else last_value.unsqueeze(0)
    continues = (~ended).to(reward.dtype)
    delta = reward + discount * continues * torch.cat([value[1:], last]) - value
    return discounted_returns(delta, ended, discount * lam)


def standardize(values: Tensor, valid: Tensor, eps: float = 1e-8) -> Tensor:
    """(x - mean) / (standard deviation + eps), in each row over its own valid samples; other samples become 0.

    `metarl.learning.ppo.standardize_together` does this over all rows together.

    Args:
        values: `[T, R, E]`.
        valid: `bool [T, R, E]`.
        eps: added to the deviation, so that a constant row becomes 0.
    """
    mean, std = row_moments(values, valid, eps)
    return ((values - mean) * valid / std).to(values.dtype)


def row_moments(values: Tensor, valid: Tensor, eps: float = 1e-8) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation + eps over each row's valid samples.

    Args:
        values: `[T, R, E]`.
        valid: `bool [T, R, E]`.
        eps: added to the deviation.

    Returns:
        the mean and the deviation, `float64 [1, R, 1]` each. In float32 the error of a constant row's mean exceeds eps.
    """
    weight, values = valid.double(), values.double()
    count = weight.sum((0, 2), keepdim=True).clamp_min(1.0)
    mean = (values * weight).sum((0, 2), keepdim=True) / count
    centred = (values - mean) * weight
    return mean, ((centred * centred).sum((0, 2), keepdim=True) / count).sqrt() + eps


def linear_features(obs: Tensor, time: Tensor) -> Tensor:
    """The features of Duan et al. (2016, arXiv:1604.06778): obs, obs^2, t, t^2, t^3 and 1, with t in hundreds of steps.

    Args:
        obs: `[..., d]`, clipped to [-10, 10].
        time: steps since the episode began, `[...]`.

    Returns:
        `[..., 2 d + 4]`.
    """
    o = obs.clamp(-10.0, 10.0)
    t = (time.to(obs.dtype) / 100.0).unsqueeze(-1)
    return torch.cat([o, o * o, t, t * t, t * t * t, torch.ones_like(t)], dim=-1)


def linear_baseline(
    obs: Tensor, time: Tensor, returns: Tensor, valid: Tensor, ridge: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """Fit returns by least squares on `linear_features`, separately in each row.

    A row with fewer samples than features is fitted on the features of time alone. A fit on all features would
    reproduce every return, and the advantages would be rounding errors.

    Args:
        obs: `[T, R, E, d]`.
        time: steps since the episode began, `[T, R, E]`.
        returns: `[T, R, E]`.
        valid: `bool [T, R, E]`, the samples that count in the fit.
        ridge: added to the diagonal of the normal equations.

    Returns:
        values `[T, R, E]` at every sample, and coefficients `[R, 2 d + 4]`.
    """
    phi, obs_features = linear_features(obs, time), 2 * obs.shape[-1]
    if valid.shape[0] * valid.shape[2] < phi.shape[-1]:  # true of every row, so the large system is not needed
        values, coef = _least_squares(phi[..., obs_features:], returns, valid, ridge)
        return values, torch.cat([coef.new_zeros(len(coef), obs_features), coef], -1)
    enough = valid.sum((0, 2)) >= phi.shape[-1]
    kept = torch.where(enough.view(1, -1, 1, 1), phi[..., :obs_features], torch.zeros_like(phi[..., :obs_features]))
    return _least_squares(torch.cat([kept, phi[..., obs_features:]], -1), returns, valid, ridge)


def _least_squares(phi: Tensor, returns: Tensor, valid: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Fit returns `[T, R, E]` on features `[T, R, E, F]`: values `[T, R, E]` and coefficients `[R, F]`."""
    weight = valid.to(phi.dtype)
    # [T, R, E, F] -> [R, T * E, F]
    rows = (phi * weight.unsqueeze(-1)).transpose(0, 1).flatten(1, 2).double()
    target = (returns * weight).transpose(0, 1).flatten(1, 2).unsqueeze(-1).double()
    gram = rows.transpose(1, 2) @ rows + ridge * torch.eye(phi.shape[-1], dtype=torch.float64, device=phi.device)
    coef = torch.linalg.solve(gram, rows.transpose(1, 2) @ target).squeeze(-1).to(phi.dtype)
    return torch.einsum("tref,rf->tre", phi, coef), coef
