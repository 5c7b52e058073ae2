"""MiniGrid's common rules for many environments at once: what `minigrid.MiniGridEnv.step` and `gen_obs` do.

A cell is one number, 18 * object + 3 * colour + state, with the package's numbers of objects, colours and states. A
grid has a border of walls of `BORDER` cells around it, so that every view of an agent lies inside the tensor. Sight
spreads from the agent's row to the farthest one. `_SIGHT` holds, for each set of cells that are seen in a row and each
set of cells in it that one sees through, what is then seen in this row and in the next one. The package's loops over
the cells of a row make this table.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX, STATE_TO_IDX
from torch import Tensor

VIEW, AHEAD = 7, 6  # cells on a side of a view; the agent is in the middle of its last row
MIDDLE = VIEW // 2
BORDER = AHEAD  # cells of wall around a grid
PARTS = (len(OBJECT_TO_IDX), len(COLOR_TO_IDX), len(STATE_TO_IDX))  # one-hot sizes of a cell's parts
DIRECTIONS = 4
LEFT, RIGHT, FORWARD, PICK_UP, DROP, TOGGLE = range(6)
State = dict[str, Tensor]


def code(kind: str, colour: int = 0, state: int = 0) -> int:
    """The number of a cell."""
    return (OBJECT_TO_IDX[kind] * PARTS[1] + colour) * PARTS[2] + state


UNSEEN, EMPTY = code("unseen"), code("empty")
WALL = code("wall", COLOR_TO_IDX["grey"])
OPEN, CLOSED, LOCKED = (STATE_TO_IDX[name] for name in ("open", "closed", "locked"))
CODES = PARTS[0] * PARTS[1] * PARTS[2]
_AHEAD: npt.NDArray[np.int64] = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])  # by direction, the package's DIR_TO_VEC


def _parts() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Object, colour and state of each code."""
    kinds, rest = np.divmod(np.arange(CODES), PARTS[1] * PARTS[2])
    colours, states = np.divmod(rest, PARTS[2])
    return kinds, colours, states


def _offsets() -> npt.NDArray[np.int64]:
    """For each direction, the cells of a view relative to the agent, `[4, 7, 7, 2]`; [i, j] is column i, row j."""
    i, j = np.indices((VIEW, VIEW))
    right = np.stack([-_AHEAD[:, 1], _AHEAD[:, 0]], -1)
    sideways, forwards = (i - MIDDLE)[None, ..., None], (AHEAD - j)[None, ..., None]
    return np.asarray(right[:, None, None] * sideways + _AHEAD[:, None, None] * forwards, dtype=np.int64)


def _sight() -> npt.NDArray[np.int64]:
    """Of the seen and the clear cells of a row, as bits: the cells seen here and in the next row, `[128, 128, 2]`."""
    here = np.repeat(np.arange(1 << VIEW), 1 << VIEW)
    clear = np.tile(np.arange(1 << VIEW), 1 << VIEW)
    beyond = np.zeros_like(here)
    for cells, way in ((range(VIEW - 1), 1), (range(VIEW - 1, 0, -1), -1)):
        for i in cells:
            passes = (here >> i) & (clear >> i) & 1
            here = here | (passes << (i + way))
            beyond = beyond | (passes << (i + way)) | (passes << i)
    return np.stack([here, beyond], -1).reshape(1 << VIEW, 1 << VIEW, 2)


class Rules:
    """The tables of the common rules on one device.

    Args:
        shape: width and height of a grid, without its border.
        through_walls: whether the agent sees through walls.
        device: the device.
    """

    def __init__(self, shape: tuple[int, int], through_walls: bool, device: torch.device) -> None:
        kinds, colours, states = _parts()
        object_ = {name: kinds == number for name, number in OBJECT_TO_IDX.items()}
        door = object_["door"]

        def table(values: Any, dtype: torch.dtype) -> Tensor:
            return torch.as_tensor(np.array(values), dtype=dtype, device=device)

        self.through_walls, self.columns = through_walls, shape[1] + 2 * BORDER
        self.kind, self.colour, self.state = (table(x, torch.int64) for x in (kinds, colours, states))
        walkable = object_["empty"] | object_["floor"] | object_["goal"] | object_["lava"] | (door & (states == OPEN))
        self.walkable = table(walkable, torch.bool)
        self.clear = table(~object_["wall"] & ~(door & (states != OPEN)), torch.int64)
        self.movable = table(object_["key"] | object_["ball"] | object_["box"], torch.bool)
        swing = np.where(states == OPEN, CLOSED - OPEN, OPEN - CLOSED)
        swapped = np.arange(CODES) + np.where(door & (states != LOCKED), swing, 0)
        self.toggled = table(np.where(object_["box"], EMPTY, swapped), torch.uint8)
        self.open_door = table(door & (states == OPEN), torch.bool)
        self.locked = table(door & (states == LOCKED), torch.bool)
        self.goal, self.lava, self.key = (table(object_[name], torch.bool) for name in ("goal", "lava", "key"))
        one_hot = np.concatenate([np.eye(n)[x] for n, x in zip(PARTS, (kinds, colours, states), strict=True)], -1)
        self.one_hot = table(one_hot, torch.float32)
        self.direction = torch.eye(DIRECTIONS, device=device)
        flat = np.array([self.columns, 1])
        self.ahead, self.view = table(_AHEAD @ flat, torch.int64), table(_offsets() @ flat, torch.int64).flatten(1)
        self.sight = table(_sight(), torch.int64)
        self.bits = table(1 << np.arange(VIEW), torch.int64)
        self.empty, self.unseen = table(EMPTY, torch.uint8), table(UNSEEN, torch.uint8)

    def step(self, state: State, action: Tensor) -> tuple[State, Tensor, Tensor]:
        """The state after one action each, and whether an agent has come to a goal or into lava, `bool [N]`.

        Args:
            state: "grid", codes with borders, `uint8 [N, cells]`; "cell", the agent's place in it, and "direction",
                `int64 [N]`; "carried", the code of what the agent carries, or of an empty cell, `uint8 [N]`. Further
                entries stay.
            action: the package's number of an action, `int64 [N]`.
        """
        grid, carried = state["grid"], state["carried"]
        front = state["cell"] + self.ahead[state["direction"]]
        met = grid.gather(1, front[:, None])[:, 0]
        facing, hands = met.long(), carried.long()
        moves = (action == FORWARD) & self.walkable[facing]
        takes = (action == PICK_UP) & self.movable[facing] & (carried == self.empty)
        drops = (action == DROP) & (met == self.empty) & (carried != self.empty)
        toggles = (action == TOGGLE) & ~self.locked[facing]
        fits = self.key[hands] & (self.colour[hands] == self.colour[facing])
        unlocks = (action == TOGGLE) & self.locked[facing] & fits
        left = torch.where(takes, self.empty, met)
        left = torch.where(drops, carried, left)
        left = torch.where(toggles, self.toggled[facing], left)
        left = torch.where(unlocks, met - (LOCKED - OPEN), left)
        after = {
            **state,
            "grid": grid.scatter(1, front[:, None], left[:, None]),
            "cell": torch.where(moves, front, state["cell"]),
            "direction": (state["direction"] + (action == RIGHT).long() - (action == LEFT).long()) % DIRECTIONS,
            "carried": torch.where(takes, met, torch.where(drops, self.empty, carried)),
        }
        return after, moves & self.goal[facing], moves & self.lava[facing]

    def faces_open_door(self, state: State) -> Tensor:
        """Which agents face an open door, `bool [N]`."""
        front = state["cell"] + self.ahead[state["direction"]]
        return self.open_door[state["grid"].gather(1, front[:, None])[:, 0].long()]

    def look(self, state: State) -> Tensor:
        """The codes that agents see, `uint8 [N, 7, 7]`: [i, j] is column i of row j; the agent is in the last row."""
        places = state["cell"][:, None] + self.view[state["direction"]]
        seen = state["grid"].gather(1, places).view(-1, VIEW, VIEW)
        if not self.through_walls:
            seen = torch.where(self._lit(seen), seen, self.unseen)
        hands = torch.zeros_like(seen, dtype=torch.bool)
        hands[:, MIDDLE, AHEAD] = True
        return torch.where(hands, state["carried"][:, None, None], seen)

    def _lit(self, cells: Tensor) -> Tensor:
        """Which cells of views are in sight, `bool [N, 7, 7]`."""
        clear = (self.clear[cells.long()] * self.bits[:, None]).sum(1)  # of each row, as bits: `[N, 7]`
        here, rows = torch.full_like(clear[:, 0], 1 << MIDDLE), []
        for j in range(AHEAD, -1, -1):
            both = self.sight[here, clear[:, j]]
            rows.append(both[:, 0])
            here = both[:, 1]
        lit = torch.stack(rows[::-1], -1)  # `[N, 7]`
        return (lit[:, None] & self.bits[:, None]) != 0
