"""Environments that misbehave, for tests of what training makes of them.

`Hangs` goes on like any other environment until it is told to hang, by environment variables, which processes inherit:
FAULTY_TRIGGER names a file, and a step that finds it hangs; FAULTY_CHANCE is the chance that a step hangs. What hangs
says so by a file `PID.hangs` beside the trigger. FAULTY_KIND says how: "sleep" (the default), "loop", or "c", which
keeps Python's lock.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete

import metarl

SPEED = {"speed": metarl.Uniform(0.5, 1.5)}
HANGING = "faulty/Hangs-v0"


class Moves(gym.Env):
    """It moves by `speed` in a step, and draws a little; the reward is where it is."""

    observation_space = Box(-100.0, 100.0, (2,), np.float32)
    action_space = Discrete(2)
    speed = 1.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.x = 0, 0.0
        return self.seen(), {}

    def seen(self):
        return np.array([self.x, self.t], np.float32)

    def step(self, action):
        self.t += 1
        self.x += self.speed * (2 * action - 1) + 0.1 * self.np_random.normal()
        return self.seen(), float(self.x), False, False, {}


class Hangs(Moves):
    """See the module."""

    def step(self, action):
        trigger, chance = os.environ.get("FAULTY_TRIGGER"), float(os.environ.get("FAULTY_CHANCE", 0))
        if trigger is not None and os.path.exists(trigger):
            Path(trigger).with_name(f"{os.getpid()}.hangs").touch()
            hang(os.environ.get("FAULTY_KIND", "sleep"))
        elif secrets.randbelow(1 << 30) < chance * (1 << 30):  # no draw that results could depend on
            hang(os.environ.get("FAULTY_KIND", "sleep"))
        return super().step(action)


def hang(kind):
    """Never return."""
    while True:
        if kind == "c":
            ctypes.PyDLL(None).sleep(1000)
        elif kind == "sleep":
            time.sleep(1000)


def hanging_agent(stepping="async"):
    """A small agent that learns on `Hangs`."""
    if HANGING not in metarl.families.registry.families:
        metarl.register_family(HANGING, env=Hangs, task_space=SPEED, apply="attrs", horizon=4, stepping=stepping)
    return metarl.make_agent("reptile", HANGING, meta_batch_size=2, episodes=1, inner_steps=1, hidden=(4,))
