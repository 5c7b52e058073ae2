"""The finite-horizon Gittins index: the agent pulls the arm with the largest index for the remaining pulls.

Gittins (1979, JRSS B 41(2)), for n undiscounted pulls; one of the baselines of Duan et al. (2016, arXiv:1611.02779,
section 3.1). The index of an arm with s successes, f failures and m remaining pulls is the lambda at which pulling the
arm has the same value as pulling an arm that is known to pay lambda:

    V(s, f, m) = max(lambda m, p (1 + V(s + 1, f, m - 1)) + (1 - p) V(s, f + 1, m - 1)),  p = (s + 1) / (s + f + 2)

with V(., ., 0) = 0 and a uniform prior. The rule is optimal for one unknown arm beside a known one, and
close to optimal for several unknown arms. Indices are exactly optimal only under geometric discounting.

    metarl eval gittins --family metarl/BernoulliBandit-v0 --k 10 --num-tasks 2000 --episodes 1
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Annotated, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from metarl.agent import Family, InvalidValueError, Range
from metarl.agents.classical.bandits import BanditAgent

Floats = npt.NDArray[np.float32]
Whole = TypeVar("Whole", int, Tensor)
MAX_PULLS = 500  # the table of 500 pulls has 42 million entries, 168 MB
FINE, COARSE = 2000, 400  # cells of the grid of lambdas: up to 100 pulls, for more pulls
_CHUNK = 8  # cells computed together


@dataclass(frozen=True)
class GittinsConfig:
    """The number of pulls in a trial, because the index depends on how many pulls remain."""

    trial_episodes: Annotated[int, Range(1, MAX_PULLS)] = 10
    """Pulls per trial. The agent can play one pull more, by the posterior means, and no further one."""


class Gittins(BanditAgent):
    """Gittins pulls the arm with the largest Gittins index for the pulls that remain.

    Rewards are rounded to 0 or 1, because the index is defined for whole counts.
    """

    name = "gittins"
    Config = GittinsConfig
    takes: ClassVar[str] = "a bandit with one pull per episode, whose arms do not change"

    def __init__(
        self, family: Family, config: GittinsConfig, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(family, config, seed, device)
        if family.horizon != 1:
            raise InvalidValueError("family of gittins", family.id, self.takes)

    @cached_property
    def table(self) -> Tensor:
        """All indices of a trial, from `index_table`. The first action computes them; 500 pulls take a minute."""
        return torch.from_numpy(index_table(self.config.trial_episodes)).to(self.device)

    def credit(self, reward: Tensor) -> Tensor:
        """1 for a reward of at least .5, else 0."""
        return (reward >= 0.5).float()

    def mean_score(self, paid: Tensor, pulls: Tensor) -> Tensor:
        """The indices `[R, arms]`, or after the trial's last pull the posterior means."""
        t = pulls.sum(-1, keepdim=True).long()
        if int(t.max()) > self.config.trial_episodes:
            expected = f"the number of pulls per trial, at least {int(t.max())}"
            raise InvalidValueError("gittins.trial_episodes", self.config.trial_episodes, expected)
        last = self.config.trial_episodes - 1
        time, wins, losses = t.clamp_max(last), paid.long(), (pulls - paid).long()
        entry = (table_start(time) + wins * (time + 1) + losses).clamp_max(len(self.table) - 1)
        return torch.where(t < last, self.table[entry], (1.0 + paid) / (2.0 + pulls))


def table_start(t: Whole) -> Whole:
    """Position of the first of the `[t + 1, t + 1]` indices of time t in the table, 1 + 4 + ... + t^2."""
    return t * (t + 1) * (2 * t + 1) // 6


@lru_cache(maxsize=4)
def index_table(n: int) -> Floats:
    """All indices of a trial of `n` pulls, flat. The index of (t, s, f) is at `table_start(t) + s (t + 1) + f`.

    The gain of pulling the unknown arm over the known arm is convex in lambda and falls with it. Its zero lies between
    two neighbours of a grid of lambdas and is interpolated linearly. The error is below the grid's step, which is
    1/2000 up to 100 pulls and 1/400 for more. For 100 pulls, the largest difference from a grid of 8000 cells is 2e-4
    and the mean difference 1.3e-6. The table has no entries for the last pull, whose indices are the posterior means.
    """
    cells = FINE if n <= 100 else COARSE
    grid = np.linspace(0.0, 1.0, cells + 1, dtype=np.float32)
    table = np.empty(table_start(n), np.float32)
    entries = [slice(table_start(t), table_start(t + 1)) for t in range(n)]
    s, f = np.arange(n, dtype=np.float32)[:, None], np.arange(n, dtype=np.float32)
    p = (s + 1) / (s + f + 2)  # [s, f]
    for start in range(0, cells, _CHUNK):
        lam = grid[start : start + _CHUNK + 1, None, None]
        ahead = np.zeros((len(lam), n + 1, n + 1), np.float32)  # V - lambda m with m - 1 remaining pulls
        for t in reversed(range(n)):
            mean = p[: t + 1, : t + 1]
            win, lose = ahead[:, 1:, :-1], ahead[:, :-1, 1:]
            gain = win - lose  # becomes p (1 + win) + (1 - p) lose - lambda: [lambda, s, f]
            gain += 1.0
            gain *= mean
            gain += lose
            gain -= lam
            _interpolate_zeros(table[entries[t]], gain, lam[:, 0, 0])
            ahead = np.maximum(gain, 0.0)
    return table


def _interpolate_zeros(index: Floats, gain: Floats, lam: Floats) -> None:
    """Write the zeros of `gain` `[lambda, s, f]` that lie between two neighbours of `lam` into `index` `[s * f]`."""
    flat = gain.reshape(len(lam), -1)
    inside = np.flatnonzero((flat[0] > 0) & (flat[-1] <= 0))
    rows = flat[:, inside]
    above = (rows > 0).sum(0) - 1  # the last lambda with a positive gain
    each = np.arange(len(inside))
    high, low = rows[above, each], rows[above + 1, each]
    index[inside] = lam[above] + (lam[above + 1] - lam[above]) * high / (high - low)
