"""Recommendation: a user with hidden preferences clicks on items, and is bored by what resembles the last ones.

Boredom as in Warlop, Lazaric and Mary (2018, "Fighting boredom in recommender systems with linear reinforcement
learning", NeurIPS): the reward of an item falls with its recency, the sum over the last w recommendations of 1 / j if
it was shown j steps ago. What differs: items have features, so that a user is also bored by similar items and refreshed
by opposite ones; a click is a random event with a logistic probability in place of a rating polynomial in the recency;
w is 3; the sizes are ours.

Ten items have unit vectors x_i of four features, uniform on the sphere, which are the same in all tasks. A user has the
preference p, and while the items a_1, a_2, a_3 were shown 1, 2, 3 steps ago, the preference

    p - (x_{a_1} + x_{a_2} / 2 + x_{a_3} / 3).

Observation: the sum in brackets, `[4]`. It tells what was shown and not p. Action: which item is shown, clicked or not.
Reward: 1 for a click, whose probability is sigmoid(2 <present preference, x_i>), else 0. Start: nothing was shown.
End: none before the horizon of 20. Task: `preference`, p, four independent standard normal numbers. Version history:
v0, first.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from metarl import exact
from metarl.families.distributions import Normal, TaskSpace
from metarl.families.family import TorchFamily
from metarl.families.tasks import Tasks
from metarl.rng import Rng, fold_in, make_key

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = npt.NDArray[np.float64]
ITEMS, FEATURES, WINDOW = 10, 4, 3
SCALE = 2.0  # of preferences in the logistic function
NONE = ITEMS  # stands for nothing shown: its features are 0
TASK_SPACE: TaskSpace = {"preference": Normal(0.0, 1.0, (FEATURES,))}
_HISTORIES = (ITEMS + 1) ** WINDOW  # written as numbers to the base ITEMS + 1, the last item first
_PART = 64  # tasks planned for together


class Recommendation(TorchFamily):
    """A user with hidden preferences clicks on recommended items and is bored by what resembles the last ones.

    The state is the items shown 1, 2 and 3 steps ago, `int64 [N, 3]`, 10 for nothing.
    """

    source = "after Warlop, Lazaric and Mary 2018, NeurIPS"
    observation_space = Box(-np.inf, np.inf, (FEATURES,), np.float32)
    action_space = Discrete(ITEMS)
    horizon = 20
    terminates = False
    task_space = TASK_SPACE

    def __init__(self) -> None:
        self._tables: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def tables(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Features of all items and of none, `[11, 4]`, and 1, 1 / 2, 1 / 3: made once, as CUDA graphs need it."""
        if device not in self._tables:
            features = torch.cat([torch.from_numpy(item_features()).float(), torch.zeros(1, FEATURES)])
            self._tables[device] = features.to(device), (1.0 / torch.arange(1.0, WINDOW + 1)).to(device)
        return self._tables[device]

    def recent(self, state: Tensor) -> Tensor:
        """The sum of the last items' features, weighted by their recency, `[N, 4]`."""
        features, weight = self.tables(state.device)
        return (features[state] * weight.unsqueeze(-1)).sum(-2)

    def reset(self, task: dict[str, Tensor], rng: Rng) -> Tensor:
        """Nothing was shown: `[N, 3]`."""
        return torch.full_like(task["preference"][:, :WINDOW], NONE, dtype=torch.int64)

    def observe(self, state: Tensor, task: dict[str, Tensor]) -> Tensor:
        """What the user is bored by."""
        return self.recent(state)

    def step(
        self, state: Tensor, action: Tensor, task: dict[str, Tensor], rng: Rng
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Show item `action`, `int64 [N]`."""
        present = task["preference"] - self.recent(state)
        click = torch.sigmoid(SCALE * (present * self.tables(state.device)[0][action]).sum(-1))
        reward = (rng.uniform() < click).float()
        state = torch.cat([action.unsqueeze(-1), state[:, :-1]], -1)
        return state, reward, torch.zeros_like(reward, dtype=torch.bool), {"expected_reward": click}

    def optimal_action(self, state: Tensor, task: dict[str, Tensor], t: Tensor) -> Tensor:
        """The first item of a best rest of the episode, by dynamic programming over histories."""
        history = state[:, 0] * (ITEMS + 1) ** 2 + state[:, 1] * (ITEMS + 1) + state[:, 2]
        each = torch.cat([task["preference"], (self.horizon - t).unsqueeze(-1)], -1)
        cases, number = torch.unique(each, dim=0, return_inverse=True)  # many rows play one task
        best = torch.zeros_like(history)
        for first in range(0, len(cases), _PART):
            part = cases[first : first + _PART]
            value = self._plan(part[:, :-1], part[:, -1], "informed_optimum")
            rows = ((number >= first) & (number < first + _PART)).nonzero()[:, 0]
            best[rows] = value[number[rows] - first, :, history[rows]].argmax(-1)
        return best

    def references(self, tasks: Tasks) -> dict[str, Floats]:
        """Floor and informed optimum, exact: what was shown decides the clicks' probabilities, so nothing is random."""
        preference, found = tasks.tensors()["preference"].double(), {}
        for name in ("floor", "informed_optimum"):
            values = []
            for part in (preference[i : i + _PART] for i in range(0, len(preference), _PART)):
                first = self._plan(part, torch.full_like(part[:, 0], self.horizon), name)[:, :, -1]
                values.append(first.mean(1) if name == "floor" else first.amax(1))
            found[name] = torch.cat(values).numpy()
        return found

    def _plan(self, preference: Tensor, left: Tensor, name: str) -> Tensor:
        """Expected clicks in the steps that are left, by first item and history, `[N, 10, 11^3]`.

        Later items are the best, or random for the floor. The last history is that of nothing shown.

        Args:
            preference: `[N, 4]`.
            left: steps that are left, at least 1, `[N]`.
            name: "floor" or "informed_optimum".
        """
        features, weight = (x.to(preference) for x in self.tables(preference.device))
        history = torch.arange(_HISTORIES, device=preference.device)
        digits = torch.stack([history // (ITEMS + 1) ** i % (ITEMS + 1) for i in reversed(range(WINDOW))], -1)
        recent = (features[digits] * weight.unsqueeze(-1)).sum(-2)  # [11^3, 4]
        item = features[:ITEMS]
        liked, tired = preference @ item.T, item @ recent.T  # [N, 10], [10, 11^3]
        click = torch.sigmoid(SCALE * (liked.unsqueeze(-1) - tired))
        following = torch.arange(ITEMS, device=history.device).unsqueeze(1) * (ITEMS + 1) ** 2 + history // (ITEMS + 1)
        value = click
        for step in range(1, int(left.max())):
            later = (value.mean(1) if name == "floor" else value.amax(1))[:, following]  # [N, 10, 11^3]
            value = torch.where((step < left).view(-1, 1, 1), click + later, value)
        return value

    def draw(self, axes: Axes, state: npt.NDArray[Any], task: dict[str, npt.NDArray[Any]]) -> None:
        """Draw the items' probabilities of a click now (bars; the last three items in orange) and at first (lines)."""
        features = item_features()
        recent = self.recent(torch.as_tensor(state)[None])[0].numpy()
        color = ["tab:orange" if i in state else "tab:blue" for i in range(ITEMS)]
        now, first = (
            1.0 / (1.0 + np.exp(-SCALE * features @ p)) for p in (task["preference"] - recent, task["preference"])
        )
        axes.bar(range(ITEMS), now, color=color)
        axes.hlines(first, np.arange(ITEMS) - 0.4, np.arange(ITEMS) + 0.4, color="0.3", linewidth=2)
        axes.set(xlim=(-0.6, ITEMS - 0.4), ylim=(0.0, 1.05), aspect="auto")


@lru_cache(maxsize=1)
def item_features() -> Floats:
    """The items' unit vectors, `[10, 4]`, with the same bits on every machine."""
    keys = fold_in(make_key("items of metarl/Recommendation-v0"), torch.arange(ITEMS))
    direction = exact.normal(Rng(keys).bits(FEATURES))
    square = sum(direction[:, i] * direction[:, i] for i in range(FEATURES))
    return np.asarray(direction / np.sqrt(square)[:, None])
