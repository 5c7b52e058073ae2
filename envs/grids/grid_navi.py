"""GridNavi: find a hidden goal cell in a small grid, then go straight to it in later episodes.

Zintgraf et al. (2020, "VariBAD", arXiv:1910.08348, section 5.1 and appendix). A trial there is 4 episodes.

Observation: the agent's cell (x, y), `[2]`. Action: 0 up (y + 1), 1 right (x + 1), 2 down, 3 left, 4 stay; a move off
the grid has no effect. Reward: +1 if the step's new cell is the goal, else -.1. Start: (0, 0). End: none before the
horizon of 15. Task: the goal, uniform over the cells that are neither the start nor one of (0, 1), (1, 0), (1, 1): 21
goals. The family is finite: train and test draw from the same 21 goals, as in the paper. Version history: v0, first.
"""

from __future__ import annotations

import itertools
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from metarl.errors import InvalidValueError
from metarl.families.distributions import Choice
from metarl.families.family import History, Queries, TorchFamily, mean_of_possible
from metarl.families.tasks import Tasks
from metarl.rng import Rng

if TYPE_CHECKING:
    from matplotlib.axes import Axes

UP, RIGHT, DOWN, LEFT, STAY = range(5)
MOVES = ((0, 1), (1, 0), (0, -1), (-1, 0), (0, 0))
MAX_SEARCH_STATES = 100_000  # at one step of `optimal_search`

Cell = tuple[int, int]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class GridNavi(TorchFamily):
    """The agent finds a hidden goal cell in a small grid and is rewarded at every step that ends on it.

    Args:
        size: cells on a side, at least 3.
        horizon: steps per episode.
    """

    source = "Zintgraf et al. 2020, arXiv:1910.08348"
    terminates = False

    def __init__(self, size: int = 5, horizon: int = 15) -> None:
        for name, value, least in (("size", size, 3), ("horizon", horizon, 1)):
            if not (isinstance(value, int) and value >= least):
                raise InvalidValueError(f"GridNavi.{name}", value, f"a whole number, at least {least}")
        self.size, self.horizon = size, horizon
        self.goals = tuple((x, y) for x in range(size) for y in range(size) if max(x, y) > 1)
        self.observation_space = Box(0.0, size - 1.0, (2,), np.float32)
        self.action_space = Discrete(len(MOVES))
        self.task_space = {"goal": Choice(self.goals)}

    @property
    def finite(self) -> bool:
        """True for every number of goals, because the literature trains and tests on all of them."""
        return True

    def reset(self, task: dict[str, Tensor], rng: Rng) -> Tensor:
        """The cell (0, 0): `float32 [N, 2]`."""
        return torch.zeros_like(task["goal"])

    def observe(self, state: Tensor, task: dict[str, Tensor]) -> Tensor:
        """The agent's cell."""
        return state

    def step(self, state: Tensor, action: Tensor, task: dict[str, Tensor], rng: Rng) -> tuple[Tensor, Tensor, Tensor]:
        """Move. The reward depends on the new cell."""
        cell = move(state, action, self.size)
        at_goal = (cell == task["goal"]).all(-1)
        return cell, torch.where(at_goal, 1.0, -0.1), torch.zeros_like(at_goal)

    def optimal_action(self, state: Tensor, task: dict[str, Tensor], t: Tensor) -> Tensor:
        """The next move of a shortest way to the goal; at the goal, stay."""
        return toward(state, task["goal"])

    def references(self, tasks: Tasks) -> dict[str, Floats]:
        """The floor from a random walk's expected visits to the goal; the informed optimum from the goal's distance.

        If the goal is d >= 1 steps away, the agent is on it in the last H + 1 - d steps. So the optimum is
        1.1 max(0, H + 1 - d) - .1 H.
        """
        goal = np.rint(tasks.values["goal"]).astype(np.int64)
        visits = expected_visits(self.size, self.horizon, (0, 0))[goal[:, 0], goal[:, 1]]
        steps_on_goal = np.maximum(0, self.horizon + 1 - goal.sum(1))
        return {
            "floor": 1.1 * visits - 0.1 * self.horizon,
            "informed_optimum": 1.1 * steps_on_goal - 0.1 * self.horizon,
        }

    def bayes_optimal_return(self, episodes: int) -> float | None:
        """The exact value by `optimal_search`; None for grids that are too large for it."""
        returns = self.bayes_optimal_episodes(episodes)
        return None if returns is None else float(returns.sum())

    def bayes_optimal_episodes(self, episodes: int) -> Floats | None:
        """Expected return of each episode, `[episodes]`, under a policy with the largest expected sum."""
        path = optimal_search(self.size, self.horizon, self.goals, episodes)
        return None if path is None else search_returns(path, self.horizon, self.goals)

    def queries(self) -> Queries:
        """Moves to each cell that may be the goal, from all cells beside it.

        Staying is not asked about: an agent that plays well stays at the goal alone, and what it was trained on does
        not tell what staying elsewhere pays.
        """
        cells = torch.cartesian_prod(*(torch.arange(float(self.size)),) * 2)
        obs, action = cells.repeat_interleave(len(MOVES), 0), torch.arange(len(MOVES)).repeat(len(cells))
        after = move(obs, action, self.size)
        leads = (after.unsqueeze(1) == torch.tensor(self.goals, dtype=torch.float32)).all(-1)  # [transition, goal]
        some = leads.any(1) & (after != obs).any(1)
        return Queries(obs[some], action[some], after[some], leads[some].long().argmax(1), (-0.1, 1.0))

    def posterior(self, seen: History) -> Tensor:
        """The goal is in one of the cells that no step has ended in, all equally likely, until a step finds it."""
        goals = torch.tensor(self.goals, dtype=torch.float32, device=seen.obs.device)

        def told(t: int) -> Tensor:
            cell = move(seen.obs[t], seen.action[t], self.size)
            return torch.where((cell.unsqueeze(1) == goals).all(-1), 1.0, -0.1)

        one = torch.eye(len(goals), device=goals.device)
        return mean_of_possible(told, seen, 1.1 * one - 0.1)

    def landmarks(self, tasks: Tasks) -> npt.NDArray[np.float32]:
        """The goals."""
        return tasks.values["goal"]

    def draw(self, axes: Axes, state: npt.NDArray[Any], task: dict[str, npt.NDArray[Any]]) -> None:
        """Draw the agent (disc), the goal's cell (star) and the cells that are never the goal (hatched)."""
        draw_grid(axes, self.size, state, {"*": task["goal"]})
        axes.fill([-0.5, 1.5, 1.5, -0.5], [-0.5, -0.5, 1.5, 1.5], hatch="///", fill=False, edgecolor="0.8", zorder=0)


def draw_grid(axes: Axes, size: int, cell: npt.NDArray[Any], marked: dict[str, npt.NDArray[Any]]) -> None:
    """Draw a grid of `size` x `size` cells, the agent, and marked cells, by their matplotlib marker."""
    lines = np.arange(-0.5, size)
    axes.hlines(lines, -0.5, size - 0.5, color="0.75", linewidth=1)
    axes.vlines(lines, -0.5, size - 0.5, color="0.75", linewidth=1)
    for marker, (x, y) in marked.items():
        axes.fill([x - 0.5, x + 0.5, x + 0.5, x - 0.5], [y - 0.5, y - 0.5, y + 0.5, y + 0.5], color="#fde2c4")
        axes.plot(x, y, marker=marker, color="tab:orange", markersize=150 / size)
    axes.plot(*cell, "o", color="tab:blue", markersize=130 / size)
    axes.set(xlim=(-0.6, size - 0.4), ylim=(-0.6, size - 0.4), aspect="equal")


def move(cell: Tensor, action: Tensor, size: int) -> Tensor:
    """The next cells, `float32 [N, 2]`, from cells `[N, 2]` and actions `int64 [N]`."""
    x = cell[:, 0] + (action == RIGHT).float() - (action == LEFT).float()
    y = cell[:, 1] + (action == UP).float() - (action == DOWN).float()
    return torch.stack([x, y], -1).clamp(0.0, size - 1.0)


def toward(cell: Tensor, goal: Tensor) -> Tensor:
    """The first actions, `int64 [N]`, of shortest ways from cells `[N, 2]` to goals `[N, 2]`, along x first."""
    dx, dy = (goal - cell).unbind(-1)
    vertical = torch.where(dy > 0, UP, torch.where(dy < 0, DOWN, STAY))
    return torch.where(dx > 0, RIGHT, torch.where(dx < 0, LEFT, vertical))


def neighbours(size: int) -> Ints:
    """The number x * size + y of the cell that each action leads to: `int64 [cells, 5]`."""
    cells = np.stack(np.divmod(np.arange(size * size), size), -1)
    after = np.clip(cells[:, None] + np.array(MOVES), 0, size - 1)
    numbers: Ints = after @ np.array([size, 1])
    return numbers


def random_walk(size: int) -> Floats:
    """Transition matrix of uniformly random actions, `[cells, cells]`."""
    after = neighbours(size)
    matrix = np.zeros((size * size, size * size))
    np.add.at(matrix, (np.arange(size * size)[:, None], after), 1.0 / after.shape[1])
    return matrix


@lru_cache(maxsize=16)
def expected_visits(size: int, horizon: int, start: Cell) -> Floats:
    """Expected number of the steps 1, ..., `horizon` of a random walk that end in each cell: `[size, size]`."""
    matrix = random_walk(size)
    probability, total = np.zeros(size * size), np.zeros(size * size)
    probability[start[0] * size + start[1]] = 1.0
    for _ in range(horizon):
        probability = probability @ matrix
        total += probability
    return total.reshape(size, size)


class _Grid(NamedTuple):
    """Tables for `optimal_search`. Goals are bits of a mask. Rewards are in tenths, so that sums are exact."""

    horizon: int
    episodes: int
    after: Ints  # [cells, 4]: the cell after each move; a move off the grid leads to the same cell
    bit: Ints  # [cells]: the bit of the goal in a cell, 0 without one
    informed: Ints  # [cells]: the best return of an episode if the goal is known to be in the cell
    within: Ints  # [cells, D]: the goals at a distance of at most 0, ..., D - 1
    credit: Ints  # [T + 1 + goals]: return, up to the episode's end, of a goal first reached at trial step t

    @property
    def steps(self) -> int:
        return self.horizon * self.episodes


@lru_cache(maxsize=16)
def optimal_search(size: int, horizon: int, goals: tuple[Cell, ...], episodes: int) -> tuple[Cell, ...] | None:
    """A Bayes-optimal path: the cells to visit at the steps of a trial until the goal is found, `[episodes * horizon]`.

    The goal is uniform over `goals`, none of which is the start (0, 0). Once the agent has entered the goal, it knows
    the goal and plays the informed optimum. Before, rewards only tell which cells are not the goal. So a policy is a
    path. The sum of its returns over all goals c is the sum of V_c(t), where t is the trial step at which the path
    first enters c, which is step s of episode e (both from 0). With N episodes of H steps, and the informed optimum
    I_c,

        V_c(t) = -.1 (eH + s) + (H - s) + (N - 1 - e) I_c,    V_c(never) = -.1 NH.

    Dynamic programming over (goals not yet entered, cell, t) finds the best path. A beam search gives a lower bound of
    the optimum, and states whose upper bound `_bound` is smaller are dropped. The search leaves out staying and walking
    into a wall: without these, the path enters all later cells of the episode one step earlier, and the extra move at
    the episode's end costs nothing.

    Returns:
        One of the best paths; None if more than `MAX_SEARCH_STATES` states remain at a step.
    """
    if size * size << len(goals) > 1 << 62:
        return None
    grid = _make_grid(size, horizon, goals, episodes)
    beam = _search(grid, width=1000, lower=None)
    best = None if beam is None else _search(grid, width=None, lower=beam[0])
    return None if best is None else tuple((int(c) // size, int(c) % size) for c in best[1])


def search_returns(path: tuple[Cell, ...], horizon: int, goals: tuple[Cell, ...]) -> Floats:
    """Expected return of each episode, `[episodes]`, if the agent follows `path` and goals are uniform."""
    episodes = len(path) // horizon
    total = np.zeros(episodes)
    for goal in goals:
        returns = np.full(episodes, -0.1 * horizon)
        if goal in path:
            episode, step = divmod(path.index(goal), horizon)
            returns[episode] += 1.1 * (horizon - step)
            returns[episode + 1 :] += 1.1 * max(0, horizon + 1 - sum(goal))
        total += returns
    return total / len(goals)


def _make_grid(size: int, horizon: int, goals: tuple[Cell, ...], episodes: int) -> _Grid:
    cells = list(itertools.product(range(size), repeat=2))
    steps = horizon * episodes
    masks = [
        [sum(1 << i for i, g in enumerate(goals) if abs(g[0] - x) + abs(g[1] - y) <= d) for d in range(2 * size)]
        for x, y in cells
    ]
    t = np.arange(steps)
    credit = np.full(steps + len(goals) + 2 * size, -steps)
    credit[:steps] = -t + 10 * (horizon - t % horizon)
    return _Grid(
        horizon=horizon,
        episodes=episodes,
        after=neighbours(size)[:, :STAY],
        bit=np.array([1 << goals.index(c) if c in goals else 0 for c in cells], dtype=np.int64),
        informed=np.array([11 * max(0, horizon + 1 - sum(c)) - horizon for c in cells], dtype=np.int64),
        within=np.array(masks, dtype=np.int64),
        credit=credit,
    )


def _search(grid: _Grid, width: int | None, lower: int | None) -> tuple[int, Ints] | None:
    """The largest sum of returns over goals, in tenths, and its path `[T]`.

    Args:
        grid: the tables.
        width: number of states to keep per step; None for all.
        lower: smallest upper bound of the states to keep; None for no limit.
    """
    cells = len(grid.bit)
    goals, cell, value = np.array([grid.within[0, -1]]), np.zeros(1, np.int64), np.zeros(1, np.int64)
    history = []
    for t in range(grid.steps):
        parent = np.repeat(np.arange(len(cell)), grid.after.shape[1])
        entered = grid.after[cell].ravel()
        new_goal = goals[parent] & grid.bit[entered]
        later = (grid.episodes - 1 - t // grid.horizon) * grid.informed[entered]
        value = value[parent] + np.where(new_goal, grid.credit[t] + later, 0)
        goals = goals[parent] & ~new_goal
        cell = np.zeros_like(entered) if (t + 1) % grid.horizon == 0 else entered
        code = goals * cells + cell
        order = np.lexsort((value, code))
        keep = order[np.append(code[order][1:] != code[order][:-1], True)]  # the last, best entry of each state
        bound = value[keep] + _bound(grid, goals[keep], cell[keep], t + 1)
        if lower is not None:
            keep = keep[bound >= lower]
        elif width is not None:
            keep = keep[np.argsort(-bound, kind="stable")[:width]]
        if len(keep) > MAX_SEARCH_STATES:
            return None
        history.append((parent[keep], entered[keep]))
        goals, cell, value = goals[keep], cell[keep], value[keep]
    total = value - grid.steps * np.bitwise_count(goals).astype(np.int64)
    row, path = int(total.argmax()), []
    for parent, entered in reversed(history):
        path.append(entered[row])
        row = parent[row]
    return int(total.max()), np.array(path[::-1])


def _bound(grid: _Grid, goals: Ints, cell: Ints, t: int) -> Ints:
    """An upper bound of a path's gain after step t from the goals not yet entered, in tenths: `[states]`.

    A path enters at most one goal per step, and the first one not before the nearest goal can be reached (in the next
    episode, if it is too far for this one). So the k-th goal gets the credit of step first + k. The episodes after it
    get the credit of the order in which nearer goals (with larger I_c) come first. Entering c earlier never lowers V_c:
    not within an episode, and V_c at an episode's last step is 1.1 larger than at the first step of the next episode at
    which c can be reached.
    """
    count = np.bitwise_count(goals).astype(np.int64)
    if t == grid.steps:
        return -grid.steps * count
    near = ((goals[:, None] & grid.within[cell]) == 0).sum(1)  # distance to the nearest
    near_start = ((goals[:, None] & grid.within[0]) == 0).sum(1)
    left = grid.horizon - t % grid.horizon
    first = t - 1 + np.where(near <= left, near, left + near_start)
    sums = np.concatenate([[0], np.cumsum(grid.credit)])
    first = np.minimum(first, grid.steps)
    bound: Ints = sums[first + count] - sums[first]
    # number of goals at a distance of at most d from the start, [states, D]
    within = np.bitwise_count(goals[:, None] & grid.within[0]).astype(np.int64)
    for e in range(grid.episodes - 1):
        early = np.clip((e + 1) * grid.horizon - first, 0, count)  # entered by the end of episode e
        # the sum of I_c over the `early` nearest goals: distances add up to sum_d max(0, early - number within d)
        distance = np.maximum(0, early[:, None] - within[:, : grid.horizon + 1]).sum(1)
        bound += (11 * (grid.horizon + 1) - grid.horizon) * early - 11 * distance
    return bound
