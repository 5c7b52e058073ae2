"""MiniGrid: find the goal in a maze whose layout and start are the same in all episodes of a task.

Chevalier-Boisvert et al. (2023, arXiv:2306.13831), the package minigrid 3. A family can have any of its ids, for
example `metarl/MiniGrid-v0{"env_id": "MiniGrid-LavaCrossingS9N1-v0"}`. Presets: "empty" (Empty-Random-6x6),
"four_rooms" (FourRooms) and "simple_crossing" (SimpleCrossingS11N5) with the 3 actions that matter there, "door_key"
(DoorKey-8x8) with 6.

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
from functools import cache, lru_cache
from hashlib import blake2b
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box, Discrete
from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX, STATE_TO_IDX

from metarl.errors import InvalidValueError, did_you_mean
from metarl.families.distributions import Integers
from metarl.families.gym_family import GymFamily
from metarl.families.tasks import Tasks
from metarl.rng import Rng, fold_in, make_key

SEEDS = 1 << 20  # tasks, exact in float32
PROBED, FEW = 256, 16  # if the first PROBED seeds give at most FEW layouts, the family is finite
PARTS = (len(OBJECT_TO_IDX), len(COLOR_TO_IDX), len(STATE_TO_IDX))  # one-hot sizes of a cell's parts
DIRECTIONS = 4
FEWEST_ACTIONS, ALL_ACTIONS = 3, 7  # left, right and forward; all actions of the package
PREFIX = "MiniGrid-"

Floats = npt.NDArray[np.float32]


class MiniGrid(GymFamily):
    """MiniGrid: find the goal in a maze; layout and start stay the same in all episodes of a task.

    Args:
        env_id: the package's id, "MiniGrid-...".
        actions: number of the package's actions that can be played, from 3 to 7.
        horizon: steps per episode, at most the package's `max_steps`, which is the default. It does not change rewards.
        image: whether the observation is a picture of the cells.
    """

    source = "Chevalier-Boisvert et al. 2023, arXiv:2306.13831 (minigrid 3)"
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
        known = [name for name in gym.registry if name.startswith(PREFIX)]
        if env_id not in known:
            raise InvalidValueError("MiniGrid.env_id", env_id, did_you_mean(str(env_id), known))
        if not (isinstance(actions, int) and FEWEST_ACTIONS <= actions <= ALL_ACTIONS):
            raise InvalidValueError("MiniGrid.actions", actions, f"a number from {FEWEST_ACTIONS} to {ALL_ACTIONS}")
        first_seed = {layout(env_id, seed): seed for seed in reversed(range(PROBED))}  # for each layout
        max_steps, layouts = _probe(env_id).max_steps, set(first_seed)
        if len(layouts) == 1:
            raise InvalidValueError("MiniGrid.env_id", env_id, "an id whose layout or start depends on the seed")
        if not (horizon is None or (isinstance(horizon, int) and 1 <= horizon <= max_steps)):
            raise InvalidValueError("MiniGrid.horizon", horizon, f"a whole number from 1 to {max_steps}, or None")
        self.env_id, self._finite = env_id, len(layouts) <= FEW or len({number & 1 for number in layouts}) == 1
        self._seeds = sorted(first_seed.values()) if len(layouts) <= FEW else []
        super().__init__(
            Cells,
            {"seed": Integers(0, SEEDS - 1)},
            apply="seed",
            horizon=horizon or max_steps,
            env_kwargs={"env_id": env_id, "actions": actions} | ({"image": True} if image else {}),
        )

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


class Cells(gym.Wrapper[Floats, Any, Any, Any]):
    """The package's environment with vectors as observations and a limited number of actions.

    Args:
        env_id: the package's id.
        actions: number of its actions that can be played.
        image: whether the observation is a picture of the cells.
        render_mode: None or "rgb_array".
    """

    def __init__(
        self, env_id: str, actions: int = ALL_ACTIONS, image: bool = False, render_mode: str | None = None
    ) -> None:
        super().__init__(gym.make(env_id, render_mode=render_mode, disable_env_checker=True))
        space: Any = self.env.observation_space
        cells = space["image"].shape[:2]
        vector = (int(np.prod(cells)) * sum(PARTS) + DIRECTIONS,)
        shape = (*cells, sum(PARTS) + DIRECTIONS) if image else vector
        self.observation_space = Box(0.0, 1.0, shape, np.float32)
        self.encode = picture if image else encode
        self.action_space = Discrete(actions)

    @property
    def max_steps(self) -> int:
        """The number of steps after which the package truncates an episode."""
        return int(self.env.get_wrapper_attr("max_steps"))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        """Start an episode in the layout of `seed`."""
        obs, info = self.env.reset(seed=seed, options=options)
        return self.encode(obs), info

    def step(self, action: Any) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Take one step."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self.encode(obs), float(reward), terminated, truncated, {**info, "success": float(reward) > 0}


ONE_HOT = [np.eye(n, dtype=np.float32) for n in (*PARTS, DIRECTIONS)]


def encode(obs: Any) -> Floats:
    """Encode an observation one-hot, `[cells * 20 + 4]`: object, colour and state of each cell, then the direction."""
    *parts, direction = ONE_HOT
    cells = np.concatenate([part[obs["image"][..., i]] for i, part in enumerate(parts)], -1)
    return np.concatenate([cells.ravel(), direction[obs["direction"]]])


def picture(obs: Any) -> Floats:
    """The same numbers as a picture, `[height, width, 24]`: the direction is in every cell."""
    *parts, direction = ONE_HOT
    cells = [part[obs["image"][..., i]] for i, part in enumerate(parts)]
    faced = np.broadcast_to(direction[obs["direction"]], (*obs["image"].shape[:2], DIRECTIONS))
    return np.concatenate([*cells, faced], -1)


@cache
def _probe(env_id: str) -> Cells:
    return Cells(env_id)


@lru_cache(maxsize=1 << 16)
def layout(env_id: str, seed: int) -> int:
    """A 64-bit hash of everything that a seed decides: grid, agent's position and direction, and mission."""
    env: Any = _probe(env_id)
    env.reset(seed=seed)
    env = env.unwrapped
    pose = np.array([*env.agent_pos, env.agent_dir])
    content = env.grid.encode().astype(np.uint8).tobytes() + pose.astype(np.uint8).tobytes() + env.mission.encode()
    return int.from_bytes(blake2b(content, digest_size=8).digest())
