"""T-mazes: every corridor ends in a junction with one correct turn, and the correct turns lead to the reward.

A maze with one corridor and one junction is the T-maze of Bakker (2001, "Reinforcement learning with long short-term
memory", NIPS 14); a maze with two turns and four ends, one of which has the best reward, is the double T-maze of
Soltoggio et al. (2008, "Evolutionary advantages of neuromodulated plasticity in dynamic, reward-based scenarios",
Artificial Life XI). Rewards, actions and observed bits are Bakker's; the number of corridors, their length and the
horizon are ours. Here the task is the sequence of correct turns. It stays for a trial, so the first episodes can search
for it and later ones need only remember it.

Observation: three bits: 101 in a corridor, 010 at a junction, and with `cue` at each corridor's first cell 011 or 110,
if the correct turn of its junction is left or right. With more than one corridor, the corridor's number follows,
one-hot. The position within a corridor is not observed. Action: 0 forward, 1 left, 2 right, 3 back (Bakker's east,
north, south, west in the first corridor); a turn leads to the next corridor's first cell, and there is no way back.
Reward: 4 for the last turn if all turns were correct, -.1 for any other turn that ends the episode, -.1 for a move
against a wall, else 0. End: after the last turn, and with `dead_ends` after every wrong turn. Task: the correct turns,
each -1 (left) or 1 (right).

The default has 2^6 tasks with dead ends, so an episode's length shows which turn was wrong. Train and test tasks are
disjoint. Presets: "cue" is Bakker's maze with 2 tasks; "double" is Soltoggio's with 4 tasks, where one end says nothing
of the others. Both are finite: train and test draw from the same tasks. Version history: v0, first.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from metarl.errors import InvalidValueError
from metarl.families.distributions import Choice
from metarl.families.family import TorchFamily
from metarl.families.tasks import Tasks
from metarl.rng import Rng

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORWARD, LEFT, RIGHT, BACK = range(4)
GOAL, WRONG, STILL = 4.0, -0.1, -0.1  # rewards
MOST_TURNS = 10  # a task space lists its 2^turns tasks

Floats = npt.NDArray[np.float64]
State = dict[str, Tensor]


class TMaze(TorchFamily):
    """A maze of T-junctions, each of which has one correct turn that the agent must find and remember.

    Args:
        turns: number of junctions on the way, from 1 to 10.
        corridor: steps from a corridor's first cell to its junction, at least 1.
        dead_ends: whether a wrong turn ends the episode at once.
        cue: whether a sign at each corridor's first cell shows the correct turn of its junction.
        horizon: steps per episode, at least the number needed to reach the end; by default twice that number.
    """

    source = "Bakker 2001, NIPS 14"
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "cue": {"turns": 1, "corridor": 10, "cue": True},
        "double": {"turns": 2, "dead_ends": False},
    }

    def __init__(
        self,
        turns: int = 6,
        corridor: int = 2,
        dead_ends: bool = True,
        cue: bool = False,
        horizon: int | None = None,
    ) -> None:
        if not (isinstance(turns, int) and 1 <= turns <= MOST_TURNS):
            raise InvalidValueError("TMaze.turns", turns, f"a whole number from 1 to {MOST_TURNS}")
        if not (isinstance(corridor, int) and corridor >= 1):
            raise InvalidValueError("TMaze.corridor", corridor, "a whole number, at least 1")
        shortest = turns * (corridor + 1)
        if horizon is not None and not (isinstance(horizon, int) and horizon >= shortest):
            expected = f"a whole number, at least {shortest}, the steps to the end"
            raise InvalidValueError("TMaze.horizon", horizon, expected)
        self.turns, self.corridor, self.dead_ends, self.cue = turns, corridor, dead_ends, cue
        self.horizon = 2 * shortest if horizon is None else horizon
        self.observation_space = Box(0.0, 1.0, (3 + turns if turns > 1 else 3,), np.float32)
        self.action_space = Discrete(4)
        self.task_space = {"turn": Choice(list(itertools.product((-1, 1), repeat=turns)))}

    def reset(self, task: dict[str, Tensor], rng: Rng) -> State:
        """The first cell, `cell` `int64 [N]`, and no turns in `path` `float32 [N, turns]`: -1 left, 1 right, 0 none."""
        return {
            "path": torch.zeros_like(task["turn"]),
            "cell": torch.zeros_like(task["turn"][:, 0], dtype=torch.int64),
        }

    def observe(self, state: State, task: dict[str, Tensor]) -> Tensor:
        """The three bits of the place, and the one-hot corridor, which is all zeros when the episode is over."""
        here = self.here(state["path"], task)  # [N, turns]
        wanted = (task["turn"] * here).sum(-1)
        junction = (state["cell"] == self.corridor) & here.any(-1)
        sign = (state["cell"] == 0) & self.cue
        left, right = sign & (wanted < 0), sign & (wanted > 0)
        bits = torch.stack([~(junction | left), junction | left | right, ~(junction | right)], -1)
        return (torch.cat([bits, here], -1) if self.turns > 1 else bits).float()

    def here(self, path: Tensor, task: dict[str, Tensor]) -> Tensor:
        """The present corridor, one-hot, from turns `[N, turns]`: `bool [N, turns]`, all False after the end."""
        number = torch.arange(self.turns, device=path.device)
        inside = number == path.abs().sum(-1, keepdim=True)
        return inside & ~(path * task["turn"] < 0).any(-1, keepdim=True) if self.dead_ends else inside

    def step(
        self, state: State, action: Tensor, task: dict[str, Tensor], rng: Rng
    ) -> tuple[State, Tensor, Tensor, dict[str, Tensor]]:
        """Walk or turn. Reaching the goal is the episode's success."""
        path, cell = state["path"], state["cell"]
        turned = (cell == self.corridor) & ((action == LEFT) | (action == RIGHT))
        side = torch.where(action == LEFT, -1.0, 1.0) * turned
        path = path + side.unsqueeze(1) * self.here(path, task)
        walked = (cell + (action == FORWARD).long() - (action == BACK).long()).clamp(0, self.corridor)
        at_goal = (path == task["turn"]).all(-1)
        over = ~self.here(path, task).any(-1)
        cost = torch.where(over, WRONG, torch.where((walked == cell) & ~turned, STILL, 0.0))
        after = {"path": path, "cell": torch.where(turned, 0, walked)}
        return after, torch.where(at_goal, GOAL, cost), over, {"success": at_goal}

    def optimal_action(self, state: State, task: dict[str, Tensor], t: Tensor) -> Tensor:
        """Forward to the junction, then the correct turn. It is not optimal after a wrong turn without `dead_ends`."""
        wanted = (task["turn"] * self.here(state["path"], task)).sum(-1)
        return torch.where(state["cell"] < self.corridor, FORWARD, torch.where(wanted < 0, LEFT, RIGHT))

    def references(self, tasks: Tasks) -> dict[str, Floats]:
        """The floor by `random_return`. The informed optimum is the goal's reward, because the way costs nothing."""
        floor = random_return(self.turns, self.corridor, self.dead_ends, self.horizon)
        return {"floor": np.full(len(tasks), floor), "informed_optimum": np.full(len(tasks), GOAL)}

    def bayes_optimal_return(self, episodes: int) -> float:
        """The exact value for tasks uniform over all 2^turns. A fair-coin guesser attains it in every task."""
        return float(self.bayes_optimal_episodes(episodes).sum())

    def bayes_optimal_episodes(self, episodes: int) -> Floats:
        """Expected return of each episode, `[episodes]`, by `optimal_search`; with `cue` it is the goal's reward."""
        return np.full(episodes, GOAL) if self.cue else optimal_search(self.turns, self.dead_ends, episodes)

    def draw(self, axes: Axes, state: dict[str, npt.NDArray[Any]], task: dict[str, npt.NDArray[Any]]) -> None:
        """Draw the correct way (grey; dead ends are lighter), its end (star), and the agent with its way (blue)."""
        arms = 0.5 ** np.arange(self.turns) if not self.dead_ends else np.full(self.turns, 0.5)
        arms = arms * self.corridor
        correct = self._corners(task["turn"] * arms)
        for (x, y), arm in zip(correct[1:-1:2], arms, strict=True):
            axes.plot([x - arm, x + arm], [y, y], color="0.9", linewidth=8, solid_capstyle="round")
        axes.plot(*correct.T, color="0.75", linewidth=8, solid_capstyle="round")
        axes.plot(*correct[-1], "*", color="tab:orange", markersize=20)
        taken = int(np.abs(state["path"]).sum())
        way = self._corners(state["path"][:taken] * arms[:taken])
        way = np.append(way, way[-1:] + np.array([[0.0, float(state["cell"])]]), axis=0)
        axes.plot(*way.T, color="tab:blue", linewidth=2)
        axes.plot(*way[-1], "o", color="tab:blue", markersize=11)
        low, high = np.minimum(correct.min(0), way.min(0)), np.maximum(correct.max(0), way.max(0))
        edge = float(arms.max()) + 0.5
        axes.set(xlim=(low[0] - edge, high[0] + edge), ylim=(-0.7, high[1] + 0.7), aspect="equal")

    def _corners(self, sides: Floats) -> Floats:
        """The corners of a way, `[1 + 2 * turns, 2]`: up each corridor, then by `sides` `[turns]` to the next one."""
        x = np.concatenate([[0.0], np.cumsum(sides)])
        y = self.corridor * np.arange(len(x))
        return np.stack([np.repeat(x, 2)[:-1], np.repeat(y, 2)[1:]], -1)


def random_return(turns: int, corridor: int, dead_ends: bool, horizon: int) -> float:
    """Expected return of random actions, by dynamic programming. It is the same for every task."""
    probability = np.zeros((turns, corridor + 1))
    probability[0, 0] = 1.0
    still = np.full(corridor + 1, 0.5)  # share of actions against a wall: 2 of 4 within a corridor,
    still[0], still[-1] = 0.75, 0.25  # 3 of 4 at its first cell, 1 of 4 at its junction
    right = 0.5 if dead_ends else 1.0  # share of turns before the last that do not end the episode
    last = 0.5 if dead_ends else 0.5**turns  # probability that the last turn reaches the goal
    total = 0.0
    for _ in range(horizon):
        turned = 0.5 * probability[:, -1]
        total += STILL * float((probability * still).sum()) + WRONG * (1.0 - right) * float(turned[:-1].sum())
        total += (GOAL * last + WRONG * (1.0 - last)) * float(turned[-1])
        after = probability * still
        after[:, 1:] += 0.25 * probability[:, :-1]
        after[:, :-1] += 0.25 * probability[:, 1:]
        after[1:, 0] += right * turned[:-1]
        probability = after
    return total


def optimal_search(turns: int, dead_ends: bool, episodes: int) -> Floats:
    """Expected return of each episode, `[episodes]`, of a Bayes-optimal search without signs.

    The agent takes the known turns. With dead ends, a guess at the first unknown turn is correct with probability 1/2.
    If it is wrong, the episode ends, and the turn is known. With u unknown turns, n episodes left and V(0, n) = 4 n,

        V(u, n) = max{ V(u, n - 1),  1/2 V(u - 1, n) + 1/2 (-.1 + V(u - 1, n - 1)) },

    where the first option is to walk back and forth in a corridor, with reward 0. Without dead ends there are u + 1
    ends left, and each is the goal with probability 1 / (u + 1). If it is, the task is known; otherwise one end less is
    left.
    """
    unknown = turns if dead_ends else 2**turns - 1
    known = [np.full(n, GOAL) for n in range(episodes + 1)]
    table = known
    for left in range(1, unknown + 1):
        chance = 0.5 if dead_ends else 1.0 / (left + 1)
        fresh = [np.zeros(0)]
        for n in range(1, episodes + 1):
            hit, miss = (table if dead_ends else known)[n], np.append(WRONG, table[n - 1])
            guess, wait = chance * hit + (1.0 - chance) * miss, np.append(0.0, fresh[-1])
            fresh.append(guess if guess.sum() >= wait.sum() else wait)
        table = fresh
    return table[episodes]
