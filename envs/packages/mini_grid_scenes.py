"""MiniGrid's own environments: what they observe, how episodes start, and which ids have the common rules."""

from __future__ import annotations

import threading
from functools import cache, lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Discrete
from minigrid.core import world_object
from minigrid.minigrid_env import MiniGridEnv

from metarl.envs.packages.mini_grid_steps import BORDER, DIRECTIONS, PARTS, VIEW, WALL

ALL_ACTIONS = 7  # of the package
MOST_DOORS = 5  # of an id whose shortest ways are searched for
COMMON = ("step", "reset", "_reward", "gen_obs", "gen_obs_grid")  # functions of an id with the common rules

Floats = npt.NDArray[np.float32]
_READING = threading.RLock()


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
        self.observation_space = Box(0.0, 1.0, shape_of(image), np.float32)
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


def shape_of(image: bool) -> tuple[int, ...]:
    """The shape of an observation."""
    cell = sum(PARTS)
    return (VIEW, VIEW, cell + DIRECTIONS) if image else (VIEW * VIEW * cell + DIRECTIONS,)


@cache
def probe(env_id: str) -> Cells:
    """One environment of an id, from which this process reads layouts."""
    return Cells(env_id)


class Scene(NamedTuple):
    """How an episode starts.

    Attributes:
        number: a 64-bit hash of everything that a seed decides: grid, agent's place and direction, and mission.
        grid: the codes of the cells with their border, `uint8 [cells]`.
        cell: the agent's place in it.
        direction: the direction that the agent faces.
    """

    number: int
    grid: npt.NDArray[np.uint8]
    cell: int
    direction: int


@lru_cache(maxsize=1 << 14)
def scene(env_id: str, seed: int) -> Scene:
    """The package's start of an episode with this seed."""
    env: Any = probe(env_id)
    with _READING:  # every thread of this process reads from the same environment
        env.reset(seed=seed)
        env = env.unwrapped
        cells, pose = env.grid.encode().astype(np.uint8), np.array([*env.agent_pos, env.agent_dir])
        mission = env.mission
    content = cells.tobytes() + pose.astype(np.uint8).tobytes() + mission.encode()
    codes = (cells.astype(np.int64) @ np.array([PARTS[1] * PARTS[2], PARTS[2], 1])).astype(np.uint8)
    grid = np.pad(codes, BORDER, constant_values=WALL)
    x, y, direction = (int(value) for value in pose)
    cell = (x + BORDER) * grid.shape[1] + y + BORDER
    return Scene(int.from_bytes(blake2b(content, digest_size=8).digest()), grid.ravel(), cell, direction)


def layout(env_id: str, seed: int) -> int:
    """The hash of a layout."""
    return scene(env_id, seed).number


def has_common_rules(env_id: str) -> bool:
    """Whether `Rules` are those of the id: its class changes none of them, and it has the package's things alone."""
    env: Any = probe(env_id).unwrapped
    changed = any(getattr(type(env), name) is not getattr(MiniGridEnv, name) for name in COMMON)
    if changed or env.agent_view_size != VIEW:
        return False
    things = things_in(env_id)
    return not any(type(thing).__module__ != world_object.__name__ or thing.contains for thing in things)


def things_in(env_id: str) -> list[Any]:
    """What lies in the cells of the first layout."""
    env: Any = probe(env_id)
    with _READING:
        env.reset(seed=0)
        return [thing for thing in env.unwrapped.grid.grid if thing is not None]


@cache
def is_searchable(env_id: str) -> bool:
    """Whether the first layout of an id has at most one thing to take and at most `MOST_DOORS` doors."""
    kinds = [thing.type for thing in things_in(env_id)]
    return sum(kind in ("key", "ball", "box") for kind in kinds) <= 1 and kinds.count("door") <= MOST_DOORS
