"""The shortest ways of a MiniGrid layout: a search over all states that can be reached, then back from the goals.

To drop a thing only frees the hand, and to close a door only shuts a way: where there is one thing to take, no shortest
way needs either, and both are left out.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from metarl.envs.packages.mini_grid_steps import DROP, TOGGLE, Rules, State

CHANGING = ("grid", "cell", "direction", "carried")  # what tells the states of one layout apart


class Ways:
    """The best action and the fewest actions to a goal from each state of a layout that can be reached.

    Args:
        rules: the rules on the CPU.
        start: the first state, with a leading axis of 1.
        actions: number of the package's actions that can be played.

    Attributes:
        from_start: the fewest actions from the start.
    """

    def __init__(self, rules: Rules, start: State, actions: int) -> None:
        self.rules = rules
        self._keys, self._action, self._distance = (np.zeros(0, dtype) for dtype in (np.int64, np.int8, np.float32))
        self.add(shortest_ways(rules, start, actions))
        self.from_start = self[keys_of(start)[0]][1]

    def add(self, found: dict[int, tuple[int, float]]) -> None:
        """Add what `shortest_ways` found."""
        new = {key: value for key, value in found.items() if key not in self}
        keys = np.concatenate([self._keys, np.array([*new], dtype=np.int64)])
        order = keys.argsort()
        self._keys = keys[order]
        self._action = np.concatenate([self._action, np.array([a for a, _ in new.values()], np.int8)])[order]
        self._distance = np.concatenate([self._distance, np.array([d for _, d in new.values()], np.float32)])[order]

    def _at(self, key: int) -> int:
        return int(self._keys.searchsorted(key))

    def __contains__(self, key: int) -> bool:
        at = self._at(key)
        return at < len(self._keys) and int(self._keys[at]) == key

    def __getitem__(self, key: int) -> tuple[int, float]:
        """The action and the distance of a state."""
        at = self._at(key)
        return int(self._action[at]), float(self._distance[at])


def keys_of(state: State) -> list[int]:
    """A number for each of N states of one layout."""
    parts = [state[name].view(len(state["cell"]), -1).to(torch.int16) for name in CHANGING]
    return [hash(row.tobytes()) for row in torch.cat(parts, -1).numpy()]


def shortest_ways(rules: Rules, start: State, actions: int) -> dict[int, tuple[int, float]]:
    """From every state that can be reached from `start`, the best action and the fewest actions to a goal.

    Args:
        rules: the rules on the CPU.
        start: one state, with a leading axis of 1.
        actions: number of the package's actions that can be played.

    Returns:
        By `keys_of` a state; no goal can be reached: action 0 and infinity.
    """
    played = torch.tensor([action for action in range(actions) if action != DROP])
    found, edges = {keys_of(start)[0]: 0}, []  # numbers of states; from, action, to (-1: a goal)
    state, numbers = {name: start[name] for name in CHANGING}, np.zeros(1, dtype=np.int64)
    while len(numbers):
        every = {name: value.repeat_interleave(len(played), 0) for name, value in state.items()}
        action, origin = played.repeat(len(numbers)), numbers.repeat(len(played))
        after, arrived, burnt = rules.step(every, action)
        stays = burnt | ((action == TOGGLE) & rules.faces_open_door(every))
        new = []
        for row, key in enumerate(keys_of(after)):
            if bool(arrived[row]):
                edges.append((origin[row], int(action[row]), -1))
            elif not bool(stays[row]):
                if key not in found:
                    found[key] = len(found)
                    new.append(row)
                edges.append((origin[row], int(action[row]), found[key]))
        state, numbers = {name: after[name][new] for name in CHANGING}, len(found) - len(new) + np.arange(len(new))
    return _back(list(found), np.array(edges, dtype=np.int64).reshape(-1, 3))


def _back(keys: list[int], edges: np.ndarray[tuple[int, int], np.dtype[np.int64]]) -> dict[int, tuple[int, float]]:
    """The best action and the distance of each state, from the edges `[E, 3]` of `shortest_ways`."""
    origin, action, to = edges.T
    distance = np.full(len(keys) + 1, math.inf)
    distance[-1] = 0.0  # the goal
    while True:
        shorter = distance.copy()
        np.minimum.at(shorter, origin, distance[to] + 1)
        if np.array_equal(shorter, distance):
            break
        distance = shorter
    best = np.zeros(len(keys), dtype=np.int64)
    on_the_way = np.isfinite(distance[origin]) & (distance[to] + 1 == distance[origin])
    best[origin[on_the_way]] = action[on_the_way]
    return {key: (int(a), float(d)) for key, a, d in zip(keys, best, distance[:-1], strict=True)}
