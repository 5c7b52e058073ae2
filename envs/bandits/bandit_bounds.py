"""Upper bounds on the Bayes-optimal value of Bernoulli bandits that are too large for dynamic programming.

`bayes_upper_bound` is deterministic. It is the smaller of the Lagrangian bound and the value of a player who knows the
future. The Lagrangian relaxation (Whittle 1988, J. Appl. Prob. 25A; Brown and Smith 2020, Management Science 66(7))
pulls one arm per time step in expectation only. This mean is all that couples the k arms, so the bound is tight for
many arms and loose for few. With a lambda for each time t,

    L(lambda) = sum_t lambda_t + k J_0(0, 0)
    J_t(s, f) = max(J_{t+1}(s, f), p - lambda_t + p J_{t+1}(s + 1, f) + (1 - p) J_{t+1}(s, f + 1)),  J_n = 0

is an upper bound for every lambda, of any sign, because exactly one arm is pulled; p = (s + 1) / (s + f + 2).

`sampled_upper_bound` is an information relaxation (Brown, Smith and Sun 2010, Operations Research 58(4); for bandits,
Min, Maglaras and Moallemi 2019, arXiv:1902.04251): the player knows all outcomes beforehand and is charged for this
knowledge. The bound is much tighter for few arms, and it is known up to a standard error.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

from metarl.errors import InvalidValueError
from metarl.rng import Rng, fold_in, make_key

Floats = npt.NDArray[np.float64]
_TEMPERATURES = (3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4)
_PRICES = (0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
_PART = 1000  # samples computed together


@lru_cache(maxsize=32)
def bayes_upper_bound(n: int, k: int) -> float:
    """An upper bound of the expected reward in n pulls of k arms under uniform priors, for every player.

    n = 100 and k = 5 take a few seconds.
    """
    _check(n, k)
    return min(lagrangian_bound(n, k), known_future_bound(n, k))


def known_future_bound(n: int, k: int) -> float:
    """The expected best posterior mean after n - 1 pulls of each arm, times n (IRS.FH of Min et al.).

    The number s of successes in n - 1 pulls is uniform on 0, ..., n - 1, and the posterior mean is (s + 1) / (n + 1).
    """
    below = np.arange(n) / n  # P(s + 1 <= x) for x = 0, ..., n - 1
    return float(n * (1.0 - below**k).sum() / (n + 1))


def lagrangian_bound(n: int, k: int) -> float:
    """The smallest L(lambda) that a search finds. Every L(lambda) is a bound, so the search need not be exact.

    L is convex and not smooth. L-BFGS minimises it with softened maxima, tau log(1 + exp(. / tau)), for decreasing tau.
    """
    lam = torch.full((n,), k / (k + 1.0) - 0.1, dtype=torch.float64, requires_grad=True)
    best = np.inf
    for tau in _TEMPERATURES:
        search = torch.optim.LBFGS([lam], max_iter=60, line_search_fn="strong_wolfe")

        def closure(tau: float = tau) -> torch.Tensor:
            value, slope = relaxation(lam.detach().numpy(), k, tau)
            lam.grad = torch.from_numpy(slope)
            return torch.tensor(value, dtype=torch.float64)

        search.step(closure)  # type: ignore[no-untyped-call]
        best = min(best, relaxation(lam.detach().numpy(), k)[0])
    return float(best)


def relaxation(lam: Floats, k: int, tau: float = 0.0) -> tuple[float, Floats]:
    """L(lambda) and its gradient 1 - k P(pulled at t), `[n]`. With tau > 0 maxima are softened, and L is larger."""
    n = len(lam)
    p = _means(n)
    value, pulls = np.zeros((n + 1, n + 1)), []  # J_{t+1}(s, f), and for each t whether (s, f) is pulled
    for t in reversed(range(n)):
        q, rest, win, lose = p[: t + 1, : t + 1], value[:-1, :-1], value[1:, :-1], value[:-1, 1:]
        gain = q * (1.0 + win - lose) + lose - lam[t] - rest
        pulls.append(gain > 0 if tau == 0 else 0.5 + 0.5 * np.tanh(0.5 * gain / tau))
        value = rest + (np.maximum(gain, 0.0) if tau == 0 else tau * np.logaddexp(0.0, gain / tau))
    reached, pulled = np.zeros((n + 1, n + 1)), np.zeros(n)  # P((s, f) at time t), P(pulled at t)
    reached[0, 0] = 1.0
    for t, pull in enumerate(reversed(pulls)):
        q, pulled_here = p[: t + 1, : t + 1], reached[: t + 1, : t + 1] * pull
        pulled[t] = pulled_here.sum()
        reached[: t + 1, : t + 1] -= pulled_here
        reached[1 : t + 2, : t + 1] += pulled_here * q
        reached[: t + 1, 1 : t + 2] += pulled_here * (1.0 - q)
    return float(lam.sum() + k * value[0, 0]), 1.0 - k * pulled


def sampled_upper_bound(n: int, k: int, samples: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """An upper bound of the same value by sampling: its estimate and the estimate's standard error.

    For a player who knows all outcomes, the best allocation of n pulls has the value max over n_1 + ... + n_k = n of
    sum_a W_a(n_a). Pull i of arm a adds the arm's posterior mean p minus the charge u(s', f') - E[u(s', f')]. u is the
    value of the arm beside one that is known to pay `price`. The charge is 0 in expectation for a player without this
    knowledge, so the value is a bound for every price. The price is chosen on other samples. The best arm's p, whose
    mean is known, is a control variate.
    """
    _check(n, k)
    if not (isinstance(samples, int) and samples >= 100):
        raise InvalidValueError("samples", samples, "a whole number, at least 100")
    pilot = {price: _clairvoyant(n, k, price, 500, make_key("bandit bounds", "pilot", seed))[0] for price in _PRICES}
    price = min(pilot, key=pilot.__getitem__)
    return _clairvoyant(n, k, price, samples, make_key("bandit bounds", seed))


def _clairvoyant(n: int, k: int, price: float, samples: int, key: int) -> tuple[float, float]:
    """Mean and standard error of the best allocation's value over `samples` draws of all outcomes."""
    values, best_p = [], []
    for start in range(0, samples, _PART):
        rng = Rng(fold_in(key, torch.arange(start, min(start + _PART, samples))))
        p = rng.uniform(k, 1)
        values.append(_best_allocation(_gains((rng.uniform(k, n) < p).long().numpy(), price)))
        best_p.append(n * p.amax((1, 2)).double().numpy())
    y, x = np.concatenate(values), np.concatenate(best_p) - n * k / (k + 1.0)
    y = y - (np.cov(y, x)[0, 1] / x.var()) * x
    return float(y.mean()), float(y.std(ddof=2) / np.sqrt(samples))


def _gains(outcomes: npt.NDArray[np.int64], price: float) -> Floats:
    """The value that pull i of an arm adds, minus the charge: outcomes `[B, k, n]` of 0 and 1 to `[B, k, n]`."""
    n = outcomes.shape[-1]
    p, u = _means(n), _beside_known(n, price)
    s = outcomes.cumsum(-1) - outcomes  # before the pull
    f = np.arange(n) - s
    charge = np.where(outcomes == 1, 1.0 - p[s, f], -p[s, f]) * (u[s + 1, f] - u[s, f + 1])
    return np.asarray(p[s, f] - charge)


def _beside_known(n: int, price: float) -> Floats:
    """u(s, f) `[n + 1, n + 1]`: the gain over `price` of n - s - f optional pulls; 0 if none are left."""
    p, u = _means(n), np.zeros((n + 1, n + 1))
    for pulls in reversed(range(n)):
        s = np.arange(pulls + 1)
        f, q = pulls - s, p[s, pulls - s]
        u[s, f] = np.maximum(0.0, q - price + q * u[s + 1, f] + (1.0 - q) * u[s, f + 1])
    return u


def _best_allocation(gains: Floats) -> Floats:
    """The largest sum of the first n_a gains of every arm a, with n pulls in all: `[B, k, n]` to `[B]`."""
    values = np.concatenate([np.zeros_like(gains[..., :1]), gains.cumsum(-1)], -1)  # [B, k, n + 1]
    best, n = values[:, 0], gains.shape[-1]
    for arm in range(1, gains.shape[1]):
        after = np.full_like(best, -np.inf)
        for pulls in range(n + 1):
            np.maximum(after[:, pulls:], best[:, : n + 1 - pulls] + values[:, arm, pulls, None], out=after[:, pulls:])
        best = after
    return np.asarray(best[:, -1])


def _means(n: int) -> Floats:
    """Posterior means p `[s, f]`, for s and f below n."""
    s = np.arange(n, dtype=np.float64)
    return np.asarray((s[:, None] + 1.0) / (s[:, None] + s + 2.0))


def _check(n: int, k: int) -> None:
    for name, value in (("n", n), ("k", k)):
        if not (isinstance(value, int) and value >= 1):
            raise InvalidValueError(name, value, "a whole number, at least 1")
