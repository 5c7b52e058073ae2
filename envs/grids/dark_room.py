"""Dark Room and Dark Key-to-Door: grids in which the agent observes only its own cell.

Laskin et al. (2022, "Algorithm Distillation", arXiv:2210.14215, section 4 and appendix).

Both: observation: the agent's cell (x, y), `[2]`, unscaled. Action: 0 up (y + 1), 1 right (x + 1), 2 down, 3 left, 4
stay; a move off the grid has no effect. Train and test tasks are disjoint: a hash of the task's cells decides which one
it is.

Dark Room: reward: +1 for every step whose new cell is the goal, else 0. Start: the centre. End: none before the horizon
of 20. Task: the goal, any of the 81 cells. Version history: v0, first.

Dark Key-to-Door: reward: +1 for the first step whose new cell is the key's, and +1 for the first step from then on
whose new cell is the door's. If both are in one cell, one step gets both rewards. An agent that starts on the key must
still end a step there, for example by staying. The observation does not show whether the agent has the key. Start: any
cell. End: when the door is opened, or at the horizon of 50. Task: the cells of key and door, 81^2 pairs (pairs in one
cell included, as in the paper's count). Version history: v0, first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from metarl.envs.grids.grid_navi import MOVES, Floats, Ints, draw_grid, expected_visits, move, random_walk, toward
from metarl.errors import InvalidValueError
from metarl.families.distributions import Choice
from metarl.families.family import TorchFamily
from metarl.families.tasks import Tasks
from metarl.rng import Rng

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class DarkRoom(TorchFamily):
    """The agent sees only its own cell of a grid and is rewarded at every step that ends on a hidden goal.

    Args:
        size: cells on a side, an odd number, at least 5 (with 3 x 3 cells, train and test tasks would be the same).
        horizon: steps per episode.
    """

    source = "Laskin et al. 2022, arXiv:2210.14215"
    terminates = False

    def __init__(self, size: int = 9, horizon: int = 20) -> None:
        _check_sizes("DarkRoom", size, horizon, least=5)
        if size % 2 == 0:
            raise InvalidValueError("DarkRoom.size", size, "an odd number, because the start is the centre")
        self.size, self.horizon, self.centre = size, horizon, size // 2
        self.observation_space = Box(0.0, size - 1.0, (2,), np.float32)
        self.action_space = Discrete(len(MOVES))
        self.task_space = {"goal": Choice(_cells(size))}

    def reset(self, task: dict[str, Tensor], rng: Rng) -> Tensor:
        """The centre: `float32 [N, 2]`."""
        return torch.full_like(task["goal"], float(self.centre))

    def observe(self, state: Tensor, task: dict[str, Tensor]) -> Tensor:
        """The agent's cell."""
        return state

    def step(self, state: Tensor, action: Tensor, task: dict[str, Tensor], rng: Rng) -> tuple[Tensor, Tensor, Tensor]:
        """Move. The reward depends on the new cell."""
        cell = move(state, action, self.size)
        at_goal = (cell == task["goal"]).all(-1)
        return cell, at_goal.float(), torch.zeros_like(at_goal)

    def optimal_action(self, state: Tensor, task: dict[str, Tensor], t: Tensor) -> Tensor:
        """The next move of a shortest way to the goal; at the goal, stay."""
        return toward(state, task["goal"])

    def references(self, tasks: Tasks) -> dict[str, Floats]:
        """The floor from a random walk's expected visits to the goal; the informed optimum from the goal's distance.

        If the goal is d steps away, the agent is on it in the last H + 1 - max(d, 1) steps.
        """
        goal = _whole(tasks, "goal")
        distance = np.abs(goal - self.centre).sum(1)
        steps_on_goal = np.maximum(0, self.horizon + 1 - np.maximum(distance, 1))
        visits = expected_visits(self.size, self.horizon, (self.centre, self.centre))
        return {"floor": visits[goal[:, 0], goal[:, 1]], "informed_optimum": steps_on_goal.astype(np.float64)}

    def landmarks(self, tasks: Tasks) -> npt.NDArray[np.float32]:
        """The goals."""
        return tasks.values["goal"]

    def draw(self, axes: Axes, state: npt.NDArray[Any], task: dict[str, npt.NDArray[Any]]) -> None:
        """Draw the agent (disc) and the goal's cell (star)."""
        draw_grid(axes, self.size, state, {"*": task["goal"]})


class DarkKeyToDoor(TorchFamily):
    """The agent sees only its own cell of a grid and must find a hidden key, then a hidden door.

    Args:
        size: cells on a side, at least 3.
        horizon: steps per episode.
    """

    source = "Laskin et al. 2022, arXiv:2210.14215"

    def __init__(self, size: int = 9, horizon: int = 50) -> None:
        _check_sizes("DarkKeyToDoor", size, horizon, least=3)
        self.size, self.horizon = size, horizon
        self.observation_space = Box(0.0, size - 1.0, (2,), np.float32)
        self.action_space = Discrete(len(MOVES))
        self.task_space = {"key": Choice(_cells(size)), "door": Choice(_cells(size))}

    def reset(self, task: dict[str, Tensor], rng: Rng) -> dict[str, Tensor]:
        """A random cell, `float32 [N, 2]`, and no key, `bool [N]`."""
        cell = rng.integers(self.size, 2).float()
        return {"cell": cell, "has_key": torch.zeros_like(cell[:, 0], dtype=torch.bool)}

    def observe(self, state: dict[str, Tensor], task: dict[str, Tensor]) -> Tensor:
        """The agent's cell."""
        return state["cell"]

    def step(
        self, state: dict[str, Tensor], action: Tensor, task: dict[str, Tensor], rng: Rng
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Move, then take the key, then open the door."""
        cell = move(state["cell"], action, self.size)
        has_key = state["has_key"] | (cell == task["key"]).all(-1)
        opened = has_key & (cell == task["door"]).all(-1)
        taken = has_key & ~state["has_key"]
        return {"cell": cell, "has_key": has_key}, taken.float() + opened.float(), opened

    def optimal_action(self, state: dict[str, Tensor], task: dict[str, Tensor], t: Tensor) -> Tensor:
        """The next move of a shortest way to the key, then to the door."""
        return toward(state["cell"], torch.where(state["has_key"].unsqueeze(1), task["door"], task["key"]))

    def references(self, tasks: Tasks) -> dict[str, Floats]:
        """The exact floor by `_random_return` and the exact informed optimum, both as means over the random start.

        The agent needs d >= 1 steps to the key and d' more to the door. Each is rewarded if reached within the horizon.
        On 9 x 9 cells d + d' <= 16 + 16 < 50, so the informed optimum of every task is 2.
        """
        key, door = _whole(tasks, "key"), _whole(tasks, "door")
        start = np.array(_cells(self.size))
        to_key = np.maximum(1, np.abs(start - key[:, None]).sum(-1))  # [N, cells]
        to_door = to_key + np.abs(door - key).sum(1)[:, None]
        reached = (to_key <= self.horizon).mean(1) + (to_door <= self.horizon).mean(1)
        weights = np.array([self.size, 1])
        return {
            "floor": _random_return(self.size, self.horizon, key @ weights, door @ weights),
            "informed_optimum": reached,
        }

    def landmarks(self, tasks: Tasks) -> npt.NDArray[np.float32]:
        """The doors, at which an episode ends."""
        return tasks.values["door"]

    def draw(self, axes: Axes, state: dict[str, npt.NDArray[Any]], task: dict[str, npt.NDArray[Any]]) -> None:
        """Draw the agent (disc), the door (D) and the key (K), which moves with the agent once it is taken."""
        carried = bool(state["has_key"])
        marked = {"$D$": task["door"]} if carried else {"$D$": task["door"], "$K$": task["key"]}
        draw_grid(axes, self.size, state["cell"], marked)
        if carried:
            axes.plot(*state["cell"], marker="$K$", color="white", markersize=70 / self.size)


def _random_return(size: int, horizon: int, key: Ints, door: Ints) -> Floats:
    """Expected return of random actions in Key-to-Door, `[N]`, by dynamic programming. Cells are x * size + y.

    The recursion holds the probability of every cell without and with the key. Probability that opens the door leaves.
    """
    matrix, rows, cells = random_walk(size), np.arange(len(key)), size * size
    without, holding = np.full((len(key), cells), 1.0 / cells), np.zeros((len(key), cells))
    total = np.zeros(len(key))
    for _ in range(horizon):
        without, holding = without @ matrix, holding @ matrix
        taken = without[rows, key]
        holding[rows, key] += taken
        without[rows, key] = 0.0
        total += taken + holding[rows, door]
        holding[rows, door] = 0.0
    return total


def _cells(size: int) -> list[tuple[int, int]]:
    return [(x, y) for x in range(size) for y in range(size)]


def _whole(tasks: Tasks, name: str) -> Ints:
    """A task parameter that holds cells, as integers `int64 [N, 2]`."""
    return np.rint(tasks.values[name]).astype(np.int64)


def _check_sizes(name: str, size: int, horizon: int, least: int) -> None:
    for field, value, low in (("size", size, least), ("horizon", horizon, 1)):
        if not (isinstance(value, int) and value >= low):
            raise InvalidValueError(f"{name}.{field}", value, f"a whole number, at least {low}")
