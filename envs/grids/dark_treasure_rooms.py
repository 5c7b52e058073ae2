"""Dark Treasure Rooms: treasures and traps on a grid, which the agent cannot see, and which are to be explored first.

Norman and Clune (2024, "First-Explore", arXiv:2307.02276). What the paper leaves open is as in the authors' published
code. A trial there is 10 episodes.

Observation: the agent's cell (x, y), `[2]`, unscaled. Action: 0 up (y + 1), 1 right (x + 1), 2 down, 3 left, 4 stay; a
move off the grid has no effect. Reward: what the treasures pay that lie in the step's new cell. Each pays once in an
episode, and again in the next one. Start: the centre; a treasure there pays if a step ends on it. End: none before the
horizon of 9. Task: the cells of eight treasures, each uniform on 9 x 9 cells, so that several may lie in one, and what
they pay, each uniform on [low, 2]. Version history: v0, first.

`low` is the paper's rho. At -4, the default, a treasure pays -1 on average: exploration costs, and an agent that only
learns to avoid this cost stays where it is and earns 0. At 0 (preset "rho0") exploration is free.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from metarl.envs.grids.grid_navi import MOVES, Cell, Floats, draw_grid, move, random_walk
from metarl.errors import InvalidValueError
from metarl.families.distributions import Integers, Uniform
from metarl.families.family import TorchFamily
from metarl.families.tasks import Tasks
from metarl.rng import Rng

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HIGH = 2.0  # the most that a treasure pays
MOST_TREASURES = 8  # the informed optimum looks at all their subsets
_PART = 64  # tasks searched together

State = dict[str, Tensor]


class DarkTreasureRooms(TorchFamily):
    """The agent sees only its own cell of a grid with hidden treasures, each of which pays or costs once an episode.

    Args:
        low: the least that a treasure pays, below 2; the paper has -4, -2 sqrt(3), -2 sqrt(2) and 0.
        size: cells on a side, an odd number, at least 3.
        treasures: number of treasures, at most 8.
        horizon: steps per episode.
    """

    source = "Norman and Clune 2024, arXiv:2307.02276"
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {"rho0": {"low": 0.0}}
    terminates = False

    def __init__(self, low: float = -4.0, size: int = 9, treasures: int = 8, horizon: int = 9) -> None:
        for name, value, least in (("size", size, 3), ("treasures", treasures, 1), ("horizon", horizon, 1)):
            if not (isinstance(value, int) and value >= least):
                raise InvalidValueError(f"DarkTreasureRooms.{name}", value, f"a whole number, at least {least}")
        if size % 2 == 0:
            raise InvalidValueError("DarkTreasureRooms.size", size, "an odd number, because the start is the centre")
        if treasures > MOST_TREASURES:
            raise InvalidValueError("DarkTreasureRooms.treasures", treasures, f"at most {MOST_TREASURES}")
        if not -math.inf < low < HIGH:
            raise InvalidValueError("DarkTreasureRooms.low", low, f"a finite number below {HIGH:g}")
        self.low, self.size, self.treasures, self.horizon, self.centre = low, size, treasures, horizon, size // 2
        self.observation_space = Box(0.0, size - 1.0, (2,), np.float32)
        self.action_space = Discrete(len(MOVES))
        self.task_space = {
            "cell": Integers(0, size - 1, (treasures, 2)),
            "reward": Uniform(low, HIGH, (treasures,)),
        }

    def reset(self, task: dict[str, Tensor], rng: Rng) -> State:
        """The centre, `cell` `float32 [N, 2]`, and no treasure `taken`, `bool [N, treasures]`."""
        return {
            "cell": torch.full_like(task["cell"][:, 0], float(self.centre)),
            "taken": torch.zeros_like(task["reward"], dtype=torch.bool),
        }

    def observe(self, state: State, task: dict[str, Tensor]) -> Tensor:
        """The agent's cell."""
        return state["cell"]

    def step(self, state: State, action: Tensor, task: dict[str, Tensor], rng: Rng) -> tuple[State, Tensor, Tensor]:
        """Move, then take all treasures of the new cell that were not taken in this episode."""
        cell = move(state["cell"], action, self.size)
        here = (task["cell"] == cell.unsqueeze(1)).all(-1) & ~state["taken"]
        reward = torch.where(here, task["reward"], 0.0).sum(-1)
        return {"cell": cell, "taken": state["taken"] | here}, reward, torch.zeros_like(here[:, 0])

    def optimal_action(self, state: State, task: dict[str, Tensor], t: Tensor) -> Tensor:
        """The first action of a best way through the rest of the episode, by `best_returns`."""
        reward = torch.where(state["taken"], 0.0, task["reward"])
        return best_returns(state["cell"], task["cell"], reward, self.horizon - t, self.size).argmax(-1)

    def references(self, tasks: Tasks) -> dict[str, Floats]:
        """The floor from the probability that a random walk meets each treasure; the optimum by `best_returns`."""
        task = tasks.tensors()
        x, y = task["cell"].long().unbind(-1)
        met = meeting(self.size, self.horizon, (self.centre, self.centre))[x, y]
        start, left = self.reset(task, Rng(x[:, 0]))["cell"], torch.full_like(x[:, 0], self.horizon)
        best = best_returns(start, task["cell"], task["reward"].double(), left, self.size).amax(-1)
        return {"floor": (met * tasks.values["reward"]).sum(1), "informed_optimum": best.numpy()}

    def draw(self, axes: Axes, state: dict[str, npt.NDArray[Any]], task: dict[str, npt.NDArray[Any]]) -> None:
        """Draw the agent (disc) and the treasures (squares: green pays, red costs; taken ones are faded)."""
        draw_grid(axes, self.size, state["cell"], {})
        reach, side = max(HIGH, abs(self.low)), (200 / self.size) ** 2
        style: dict[str, Any] = {"cmap": "RdYlGn", "vmin": -reach, "vmax": reach, "marker": "s", "zorder": 0}
        style["alpha"] = np.where(state["taken"], 0.25, 1.0)
        x, y = task["cell"].T
        axes.scatter(x, y, side, task["reward"], **style)


@lru_cache(maxsize=16)
def meeting(size: int, horizon: int, start: Cell) -> Floats:
    """The probability that a step of a random walk of `horizon` steps ends in each cell: `[size, size]`.

    The recursion holds, for each cell as the target, the probability of all others before the target is met.
    """
    matrix, cells = random_walk(size), size * size
    probability = np.zeros((cells, cells))  # [target, cell]
    probability[:, start[0] * size + start[1]] = 1.0
    met = np.zeros(cells)
    for _ in range(horizon):
        probability = probability @ matrix
        met += np.diag(probability)
        np.fill_diagonal(probability, 0.0)
    return met.reshape(size, size)


def best_returns(start: Tensor, treasure: Tensor, reward: Tensor, left: Tensor, size: int) -> Tensor:
    """The largest sum of rewards in the steps that are left, for each first action: `[N, 5]`.

    A way is worth what it takes, so dynamic programming over steps only asks which subsets of the treasures can be
    taken on the way to which cell. A number holds a bit for each first action with which they can.

    Args:
        start: the agent's cell, `[N, 2]`.
        treasure: cells of M treasures, `[N, M, 2]`.
        reward: what the treasures pay, 0 for those already taken, `[N, M]`.
        left: steps that are left, at least 1, `int64 [N]`.
        size: cells on a side.
    """
    parts = [slice(i, i + _PART) for i in range(0, len(start), _PART)]
    return torch.cat([_search(start[part], treasure[part], reward[part], left[part], size) for part in parts])


def _search(start: Tensor, treasure: Tensor, reward: Tensor, left: Tensor, size: int) -> Tensor:
    (n, m), device = reward.shape, reward.device
    row, subset = torch.arange(n, device=device), torch.arange(1 << m, device=device)
    x, y = treasure.long().unbind(-1)  # [N, M] each
    ways = torch.zeros(n, size, size, 1 << m, dtype=torch.uint8, device=device)
    for action in range(len(MOVES)):
        to = move(start, torch.full_like(row, action), size).long()
        ways[row, to[:, 0], to[:, 1], 0] |= 1 << action
    for step in range(int(left.max())):
        after = ways.clone()  # by staying, or by a move off the grid
        if step:
            after[:, 1:] |= ways[:, :-1]
            after[:, :-1] |= ways[:, 1:]
            after[:, :, 1:] |= ways[:, :, :-1]
            after[:, :, :-1] |= ways[:, :, 1:]
        for i in range(m):  # whoever is in a treasure's cell has taken it
            here = after[row, x[:, i], y[:, i]]  # [N, subsets]
            taken = here | here[:, subset & ~(1 << i)]
            after[row, x[:, i], y[:, i]] = torch.where((subset >> i & 1).bool(), taken, 0)
        ways = torch.where((step < left).view(-1, 1, 1, 1), after, ways)
    worth = reward @ (subset >> torch.arange(m, device=device).unsqueeze(1) & 1).to(reward)  # [N, subsets]
    possible = [(ways >> action & 1).flatten(1, 2).amax(1) > 0 for action in range(len(MOVES))]
    return torch.stack([torch.where(p, worth, -torch.inf).amax(-1) for p in possible], -1)
