"""Observations of a user's environment in the form that agents are given."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import metarl

PIXELS = spaces.Box(0, 255, (5, 6, 3), np.uint8)
DICT = spaces.Dict(
    {"at": spaces.Box(-1.0, 1.0, (2,), np.float32), "kind": spaces.Discrete(3), "name": spaces.Text(4), "view": PIXELS}
)
SPACES: dict[str, spaces.Space[Any]] = {
    "box": spaces.Box(-1.0, 1.0, (3,), np.float32),
    "pixels": PIXELS,
    "discrete": spaces.Discrete(4, start=2),
    "dict": DICT,
    "tuple": spaces.Tuple((spaces.Discrete(2), spaces.Box(-1.0, 1.0, (2,), np.float32))),
    "multi discrete": spaces.MultiDiscrete([2, 3]),
    "multi binary": spaces.MultiBinary(4),
}


class Shows(gym.Env[Any, Any]):
    """Shows samples of a space."""

    action_space = spaces.Discrete(2)

    def __init__(self, space: str = "box", aim: float = 1.0) -> None:
        self.observation_space, self.aim, self.shown = SPACES[space], aim, None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.shown = self.observation_space.sample()
        return self.shown, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.shown = self.observation_space.sample()
        return self.shown, float(action) * self.aim, False, False, {}


def family(space: str, **more: Any) -> metarl.GymFamily:
    return metarl.GymFamily(
        Shows, {"aim": metarl.Uniform(0.0, 1.0)}, apply="attrs", horizon=4, env_kwargs={"space": space}, **more
    )


@pytest.mark.parametrize("space", SPACES)
def test_an_observation_of_the_environment_becomes_what_its_wrappers_make_of_it(space: str) -> None:
    for drop in ((), ("at",)) if space == "dict" else ((),):
        given = family(space, drop=drop)
        env = given.make_env(given.tasks("train", 1))
        seen, _ = env.reset(seed=3)
        for _ in range(4):
            raw = env.unwrapped.shown  # type: ignore[attr-defined]
            found = given.as_seen(raw)
            assert np.array_equal(found, seen)
            assert np.asarray(found).shape == given.observation_space.shape
            assert np.array_equal(given.as_seen(seen), seen)  # it is that already
            seen = env.step(1)[0]


@pytest.mark.parametrize("space", SPACES)
def test_a_session_and_a_player_take_both(space: str) -> None:
    given = family(space)
    agent = metarl.make_agent("rl2", given, hidden=4)
    env = given.make_env(given.tasks("train", 1))
    seen, _ = env.reset(seed=3)
    raw = env.unwrapped.shown  # type: ignore[attr-defined]
    states = []
    for obs in (seen, raw):
        session, player = metarl.Session(agent, seed=1), metarl.Player(agent)
        session.reset(obs)
        player.act(obs)
        states.append([v.numpy() for state in (session.state, player.state) for v in state.values()])
    assert all(np.array_equal(a, b) for a, b in zip(*states, strict=True))


def test_keys_that_are_missing_are_named() -> None:
    with pytest.raises(metarl.InvalidValueError, match=r"keys of the observation is \['at'\], expected also 'kind'"):
        metarl.Session(metarl.make_agent("rl2", family("dict"), hidden=4)).reset({"at": np.zeros(2)})
