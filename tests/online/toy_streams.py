"""A family and an agent whose returns in a stream are known beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from gymnasium.spaces import Box

import metarl
from metarl.online import Stream


class Aim(metarl.TorchFamily):
    """An episode has one step, which pays minus the distance of the action to a target; the observation shows it."""

    id = "toy/Aim-v0"
    observation_space = Box(0.0, 1.0, (1,), np.float32)
    action_space = Box(0.0, 1.0, (1,), np.float32)
    horizon = 1
    terminates = False
    task_space: ClassVar = {"kind": metarl.Choice([0.0, 1.0]), "target": metarl.Uniform(0.0, 1.0)}

    def reset(self, task, rng):
        return task["target"]

    def observe(self, state, task):
        return state.unsqueeze(1)

    def step(self, state, action, task, rng):
        return state, -(action[:, 0] - state).abs(), torch.zeros_like(state, dtype=torch.bool)

    def references(self, tasks):
        return {"floor": np.full(len(tasks), -1.0), "informed_optimum": np.zeros(len(tasks))}


@dataclass(frozen=True)
class HalvesConfig:
    """The number of tasks in a meta-update."""

    meta_batch_size: int = 1


class Halves(metarl.Agent):
    """It acts on a guess. An adaptation step halves the distance to the target; a meta-update guesses what it saw."""

    name = "halves"
    Config = HalvesConfig

    def __init__(self, family, config=None, seed=0, device="cpu"):
        super().__init__(family, config or HalvesConfig(), seed, device)
        self.guess, self.met, self.batches, self.keys = 0.0, [], [], []

    def begin(self, rows, tasks=None):
        return {"guess": torch.full((rows,), self.guess)}

    def act(self, state, step, rng, deterministic):
        guess = state["guess"].view(-1, 1, 1).expand(*step.obs.shape[:2], 1)
        return guess.clone(), {}, state

    def to_env(self, action):
        return action

    def interact(self, state, trials, adaptation_step):
        self.met.append(set(trials.tasks.index.tolist()))
        return super().interact(state, trials, adaptation_step)

    def adapt(self, state, rollout):
        return {"guess": (state["guess"] + rollout.obs[0, :, 0, 0]) / 2}

    def train_step(self, trials):
        self.batches.append((len(self.met), trials.tasks.index.tolist()))
        self.keys.append(trials.keys.tolist())
        self.guess = float(trials.tasks.values["target"].mean())
        return {"env_steps": 7.0}


class Stays(Halves):
    """An agent that does not learn from task to task."""

    name = "stays"
    learns = False


def stream_of(*targets: float) -> Stream:
    """A stream of given targets."""
    values = {"kind": np.zeros(len(targets)), "target": np.array(targets)}
    return Stream("mine", 0, Aim().make_tasks(**values))
