"""MiniGrid: find the goal in a maze whose layout and start are the same in all episodes of a task.

Chevalier-Boisvert et al. (2023, arXiv:2306.13831), the package minigrid 3. MiniGrid has the ids with the package's
common rules, for example `metarl/MiniGrid-v0{"env_id": "MiniGrid-LavaCrossingS9N1-v0"}`, and steps many environments at
once: observations, rewards and ends are the package's. MiniGridAny also has the ids with rules of their own, such as
Fetch and GoToDoor, and steps the package's environments one after another. An id whose layout is always the same is in
neither. Presets of MiniGrid: "empty" (Empty-Random-6x6),
"four_rooms" (FourRooms) and "simple_crossing" (SimpleCrossingS11N5) with the 3 actions that matter there, "door_key"
(DoorKey-8x8) with 6. Presets of MiniGridAny: "fetch" (Fetch-8x8-N3) with 4 actions, "go_to_door" (GoToDoor-6x6) with 7.

Observation: the 7 x 7 cells before the agent, each as one-hot object (11), colour (6) and state (3), then the one-hot
direction that the agent faces (4): `[984]` zeros and ones; with `image` a picture of the cells, `[7, 7, 24]`, where
every cell also has the direction: agents with convolutions see what is beside what. The mission, a sentence, is left
out. If it says what to do (Fetch, GoToDoor), this is hidden like the rest of the task. Action: the first `actions` of
left, right, forward, pick up, drop, toggle, done. Reward and end: the package's, 1 - .9 t / max_steps for success in
step t. Horizon: the package's max_steps. Info: success, which is whether the step's reward is positive.

Task: "seed", a whole number that seeds every episode's reset, so that all episodes of a task have the same layout,
start and goal. Several seeds may give one layout (Empty-Random-6x6 has 60 layouts), so the layout and not the seed
decides whether a task is a train task or a test task. An id with at most 16 layouts is finite: train = test. Version
history: v0, first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box, Discrete
from minigrid.core.grid import Grid
from torch import Tensor

from metarl.config import Range
from metarl.envs.packages.mini_grid_scenes import (
    ALL_ACTIONS,
    Cells,
    Floats,
    has_common_rules,
    is_searchable,
    layout,
    probe,
    scene,
    shape_of,
)
from metarl.envs.packages.mini_grid_steps import BORDER, EMPTY, UNSEEN, VIEW, Rules
from metarl.envs.packages.mini_grid_ways import CHANGING, Ways, keys_of, shortest_ways
from metarl.errors import InvalidValueError, did_you_mean
from metarl.families.distributions import Integers
from metarl.families.family import Family, TorchFamily
from metarl.families.gym_family import GymFamily
from metarl.families.tasks import Tasks
from metarl.files import reason
from metarl.rng import Rng, fold_in, make_key

SEEDS = 1 << 20  # tasks, exact in float32
PROBED, FEW = 256, 16  # if the first PROBED seeds give at most FEW layouts, the family is finite
FEWEST_ACTIONS = 3  # left, right and forward
PREFIX = "MiniGrid-"
TILE = 32  # pixels on a side of a cell in pictures


class Layouts(Family):
    """The tasks of both families: seeds of layouts.

    Args:
        env_id: the package's id, "MiniGrid-...".
        actions: number of the package's actions that can be played, from 3 to 7.
        horizon: steps per episode, at most the package's `max_steps`; None for `max_steps`.

    Raises:
        InvalidValueError: there is no such id, its layouts do not depend on the seed, or a number is out of range.
    """

    source = "Chevalier-Boisvert et al. 2023, arXiv:2306.13831 (minigrid 3)"

    def check(self, env_id: str, actions: int, horizon: int | None) -> int:
        """Check the arguments, keep the id, and return the horizon."""
        name = type(self).__name__
        known = [name for name in gym.registry if name.startswith(PREFIX)]
        if env_id not in known:
            raise InvalidValueError(f"{name}.env_id", env_id, did_you_mean(str(env_id), known))
        try:
            env: Any = probe(env_id)
        except Exception as error:  # such as a file that the package was installed without
            expected = f"an id that the installed package can make ({reason(error)})"
            raise InvalidValueError(f"{name}.env_id", env_id, expected) from error
        Range(FEWEST_ACTIONS, int(env.unwrapped.action_space.n)).check(f"{name}.actions", actions, whole=True)
        first_seed = {layout(env_id, seed): seed for seed in reversed(range(PROBED))}  # for each layout
        max_steps, layouts = env.max_steps, set(first_seed)
        if len(layouts) == 1:
            raise InvalidValueError(f"{name}.env_id", env_id, "an id whose layout or start depends on the seed")
        if horizon is not None:
            Range(1, max_steps).check(f"{name}.horizon", horizon, whole=True)
        self.env_id, self._finite = env_id, len(layouts) <= FEW or len({number & 1 for number in layouts}) == 1
        self._seeds = sorted(first_seed.values()) if len(layouts) <= FEW else []
        return horizon or max_steps

    @property
    def finite(self) -> bool:
        """Whether there are so few layouts that train and test tasks are the same."""
        return self._finite

    def listed(self, split: str) -> Tasks | None:
        """The first seed of each layout, if the family is finite and has at most 16 layouts."""
        if split not in self.splits or not self._seeds:
            return super().listed(split)
        seeds = np.array(self._seeds, dtype=np.float32)
        return Tasks(self.id, split, 0, np.arange(len(seeds)), {"seed": seeds}, dict(self.task_space))

    def tasks_at(self, split: str, index: npt.NDArray[np.int64], seed: int = 0) -> Tasks:
        """The tasks with numbers `index`, `int64 [N]`. A seed with a layout of the other split is drawn again."""
        if self.finite or split not in self.splits:
            return super().tasks_at(split, index, seed)
        index = np.array(index, dtype=np.int64)
        keys, seeds = fold_in(make_key("task", self.id, split, seed), torch.from_numpy(index)), np.zeros(len(index))
        missing, attempt = np.arange(len(index)), 0
        while len(missing):
            drawn = Rng(keys[torch.from_numpy(missing)]).seek(attempt).integers(SEEDS).numpy()
            keep = self._test_side(drawn) == (split == "test")
            seeds[missing[keep]] = drawn[keep]
            missing, attempt = missing[~keep], attempt + 1
        return Tasks(self.id, split, int(seed), index, {"seed": seeds.astype(np.float32)}, dict(self.task_space))

    def held_out(self, tasks: Tasks) -> npt.NDArray[np.bool_]:
        """Which tasks have a layout that no train task has, `bool [N]`."""
        return super().held_out(tasks) if self.finite else self._test_side(tasks.values["seed"])

    def _test_side(self, seeds: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        return np.array([layout(self.env_id, int(seed)) & 1 for seed in seeds], dtype=bool)


class MiniGrid(Layouts, TorchFamily):
    """MiniGrid: find the goal in a maze; layout and start stay the same in all episodes of a task.

    Args:
        env_id: the package's id, "MiniGrid-...", of an environment with the common rules.
        actions: number of the package's actions that can be played, from 3 to 7.
        horizon: steps per episode, at most the package's `max_steps`, which is the default. It does not change rewards.
        image: whether the observation is a picture of the cells.
    """

    capturable = False
    on_host = True  # the package makes the layouts
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "empty": {"env_id": "MiniGrid-Empty-Random-6x6-v0", "actions": 3},
        "four_rooms": {"env_id": "MiniGrid-FourRooms-v0", "actions": 3},
        "simple_crossing": {"env_id": "MiniGrid-SimpleCrossingS11N5-v0", "actions": 3},
        "door_key": {"env_id": "MiniGrid-DoorKey-8x8-v0", "actions": 6},
    }

    def __init__(
        self,
        env_id: str = "MiniGrid-FourRooms-v0",
        actions: int = ALL_ACTIONS,
        horizon: int | None = None,
        image: bool = False,
    ) -> None:
        self.horizon = self.check(env_id, actions, horizon)
        if not has_common_rules(env_id):
            expected = "an id with the package's common rules; metarl/MiniGridAny-v0 plays those with their own"
            raise InvalidValueError("MiniGrid.env_id", env_id, expected)
        self.max_steps, self.actions, self.image = probe(env_id).max_steps, actions, image
        self.task_space = {"seed": Integers(0, SEEDS - 1)}
        self.observation_space = Box(0.0, 1.0, shape_of(image), np.float32)
        self.action_space = Discrete(actions)

    def rules(self, device: torch.device) -> Rules:
        """The common rules on a device, for this id's grids."""
        env: Any = probe(self.env_id).unwrapped
        return _rules((env.width, env.height), env.see_through_walls, device)

    def reset(self, task: dict[str, Tensor], rng: Rng) -> dict[str, Tensor]:
        """The package's start of each layout: what `Rules.step` reads, and "t", the steps that were taken."""
        scenes = [scene(self.env_id, int(seed)) for seed in task["seed"].tolist()]
        device, n = task["seed"].device, len(scenes)
        return {
            "grid": torch.from_numpy(np.stack([one.grid for one in scenes])).to(device),
            "cell": torch.tensor([one.cell for one in scenes], device=device),
            "direction": torch.tensor([one.direction for one in scenes], device=device),
            "carried": torch.full((n,), EMPTY, dtype=torch.uint8, device=device),
            "t": torch.zeros(n, dtype=torch.int64, device=device),
        }

    def observe(self, state: dict[str, Tensor], task: dict[str, Tensor]) -> Tensor:
        """The one-hot cells and direction, float32 `[N, 984]` or `[N, 7, 7, 24]`."""
        rules = self.rules(state["grid"].device)
        cells, direction = rules.one_hot[rules.look(state).long()], rules.direction[state["direction"]]
        if self.image:
            return torch.cat([cells, direction[:, None, None].expand(-1, VIEW, VIEW, -1)], -1)
        return torch.cat([cells.flatten(1), direction], -1)

    def step(
        self, state: dict[str, Tensor], action: Tensor, task: dict[str, Tensor], rng: Rng
    ) -> tuple[dict[str, Tensor], Tensor, Tensor, dict[str, Tensor]]:
        """Act; the reward is 1 - .9 t / max_steps at the goal, where the episode ends, as it does in lava."""
        after, arrived, burnt = self.rules(action.device).step(state, action)
        after["t"] = state["t"] + 1
        reward = torch.where(arrived, 1.0 - 0.9 * (after["t"].double() / self.max_steps), 0.0)
        return after, reward.float(), arrived | burnt, {"success": arrived}

    @property
    def has_optimal_action(self) -> bool:
        """Whether the search for shortest ways is small: there is at most one thing to take, and at most 5 doors."""
        return is_searchable(self.env_id)

    def optimal_action(self, state: dict[str, Tensor], task: dict[str, Tensor], t: Tensor) -> Tensor:
        """The next action of a shortest way to a goal; any if there is none."""
        host, actions = {name: value.cpu() for name, value in state.items()}, []
        for row, (seed, key) in enumerate(zip(task["seed"].tolist(), keys_of(host), strict=True)):
            ways = self.ways(int(seed))
            if key not in ways:
                ways.add(
                    shortest_ways(ways.rules, {name: host[name][row : row + 1] for name in CHANGING}, self.actions)
                )
            actions.append(ways[key][0])
        return torch.tensor(actions, device=task["seed"].device)

    def references(self, tasks: Tasks) -> dict[str, npt.NDArray[np.float64]]:
        """The informed optimum, if `has_optimal_action`: the reward at the end of a shortest way."""
        if not self.has_optimal_action:
            return {}
        steps = np.array([self.shortest(int(seed)) for seed in tasks.values["seed"]])
        reached = steps <= self.horizon
        return {"informed_optimum": np.where(reached, 1.0 - 0.9 * np.where(reached, steps, 0) / self.max_steps, 0.0)}

    def shortest(self, seed: int) -> float:
        """The fewest actions that lead from the start of a layout to a goal; infinite if none do."""
        return self.ways(seed).from_start

    def ways(self, seed: int) -> Ways:
        """The shortest ways of a layout, which are kept."""
        return _ways(self.env_id, self.actions, _Start(layout(self.env_id, seed), seed))

    def frame(
        self, state: dict[str, Any], task: dict[str, Floats], size: tuple[int, int] = (256, 256)
    ) -> npt.NDArray[np.uint8]:
        """The package's picture of one environment, with the cells in sight brighter; as in `TorchFamily.frame`."""
        one = {name: torch.as_tensor(np.asarray(value))[None] for name, value in state.items()}
        rules = self.rules(torch.device("cpu"))
        lit = rules.look({**one, "carried": torch.full_like(one["carried"], EMPTY)}) != UNSEEN
        in_sight = torch.zeros_like(one["grid"], dtype=torch.bool)
        in_sight.scatter_(1, one["cell"][:, None] + rules.view[one["direction"]], lit.flatten(1))
        inside = slice(BORDER, -BORDER)
        codes, mask = (x.view(-1, rules.columns)[inside, inside].numpy() for x in (one["grid"][0], in_sight[0]))
        parts = [table.numpy()[codes] for table in (rules.kind, rules.colour, rules.state)]
        grid, _ = Grid.decode(np.stack(parts, -1))
        x, y = divmod(int(one["cell"][0]), rules.columns)
        picture = grid.render(TILE, (x - BORDER, y - BORDER), int(one["direction"][0]), mask)
        rows, columns = (np.arange(n) * m // n for n, m in zip(size, picture.shape, strict=False))
        return np.asarray(picture[rows][:, columns], dtype=np.uint8)


class MiniGridAny(Layouts, GymFamily):
    """MiniGrid's ids with rules of their own; layout, start and mission stay the same in all episodes of a task.

    Args:
        env_id: the package's id, "MiniGrid-...".
        actions: number of the package's actions that can be played, from 3 to 7.
        horizon: steps per episode, at most the package's `max_steps`, which is the default. It does not change rewards.
        image: whether the observation is a picture of the cells.
    """

    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "fetch": {"env_id": "MiniGrid-Fetch-8x8-N3-v0", "actions": 4},
        "go_to_door": {"env_id": "MiniGrid-GoToDoor-6x6-v0", "actions": 7},
    }

    def __init__(
        self,
        env_id: str = "MiniGrid-Fetch-8x8-N3-v0",
        actions: int = ALL_ACTIONS,
        horizon: int | None = None,
        image: bool = False,
    ) -> None:
        steps = self.check(env_id, actions, horizon)
        super().__init__(
            Cells,
            {"seed": Integers(0, SEEDS - 1)},
            apply="seed",
            horizon=steps,
            env_kwargs={"env_id": env_id, "actions": actions} | ({"image": True} if image else {}),
        )


@dataclass(frozen=True)
class _Start:
    """A layout, and a seed that has it; layouts with equal numbers are equal."""

    number: int
    seed: int = field(compare=False)


@lru_cache(maxsize=1 << 14)
def _ways(env_id: str, actions: int, start: _Start) -> Ways:
    family = MiniGrid(env_id, actions)
    state = family.reset({"seed": torch.tensor([float(start.seed)])}, Rng(torch.zeros(1, dtype=torch.int64)))
    return Ways(family.rules(torch.device("cpu")), state, actions)


@lru_cache(maxsize=16)
def _rules(shape: tuple[int, int], through_walls: bool, device: torch.device) -> Rules:
    return Rules(shape, through_walls, device)
