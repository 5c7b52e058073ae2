"""Pendulum: a weak motor swings a pendulum up and holds it there; the physics is hidden.

Gymnasium's Pendulum-v1. The physics as a task is from Packer et al. (2018, arXiv:1810.12282, length and mass, whose
ranges "R" are those here) and CARL (Benjamins et al. 2023, arXiv:2202.02110).

Observation: cos, sin of the angle from upright, angular velocity (rad/s), `[3]`. Action: torque, clipped to [-2, 2]
N m, `[1]`. Reward: -(angle^2 + .1 velocity^2 + .001 torque^2) of the state before the step, the angle in [-pi, pi].
Start: angle uniform on [-pi, pi], velocity on [-1, 1]. End: none before the horizon of 200. Task: g (m/s^2), m (kg),
l (m). Version history: v0, first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box
from torch import Tensor

from metarl.families.distributions import TaskSpace, Uniform
from metarl.families.family import State, TorchFamily
from metarl.rng import Rng

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DT = 0.05  # seconds per step
MAX_SPEED = 8.0  # rad/s, at which the velocity is clipped
MAX_TORQUE = 2.0  # N m
START_SPEED = 1.0  # rad/s
HIGH = np.array([1.0, 1.0, MAX_SPEED], dtype=np.float32)
TASK_SPACE: TaskSpace = {
    "g": Uniform(7.5, 12.5),
    "m": Uniform(0.75, 1.25),
    "l": Uniform(0.75, 1.25),
}
OOD: Mapping[str, TaskSpace] = {
    "far": {"m": Uniform(1.26, 1.5), "l": Uniform(1.26, 1.5)},  # longer and heavier rods
}


class Pendulum(TorchFamily):
    """A weak motor swings a rod up and holds it there; gravity, mass and length are hidden.

    The state is the angle, in [-pi, pi], and the angular velocity, `float32 [N, 2]`.
    """

    source = "Gymnasium Pendulum-v1; Packer et al. 2018, arXiv:1810.12282"
    observation_space = Box(-HIGH, HIGH, dtype=np.float32)
    action_space = Box(-MAX_TORQUE, MAX_TORQUE, (1,), np.float32)
    horizon = 200
    terminates = False
    task_space = TASK_SPACE
    ood = OOD

    def reset(self, task: dict[str, Tensor], rng: Rng) -> Tensor:
        """Any angle, with a small velocity: `[N, 2]`."""
        angle, speed = rng.uniform(2).mul(2.0).sub_(1.0).unbind(1)
        return torch.stack((angle * math.pi, speed * START_SPEED)).t()

    def observe(self, state: Tensor, task: dict[str, Tensor]) -> Tensor:
        """Cosine and sine of the angle, angular velocity."""
        angle, speed = state.unbind(1)
        return torch.stack((angle.cos(), angle.sin(), speed)).t()

    def step(self, state: Tensor, action: Tensor, task: dict[str, Tensor], rng: Rng) -> tuple[Tensor, Tensor, Tensor]:
        """A semi-implicit Euler step of angle'' = 3 g / (2 l) sin(angle) + 3 torque / (m l^2)."""
        angle, speed = state.unbind(1)
        torque, length = action[:, 0].clamp(-MAX_TORQUE, MAX_TORQUE), task["l"]
        cost = (angle * angle).add_(speed * speed, alpha=0.1).add_(torque * torque, alpha=0.001)
        gravity = (task["g"] * angle.sin()).mul_(0.5)
        rate = torch.addcdiv(gravity, torque, task["m"] * length).div_(length)  # a third of the angular acceleration
        speed = torch.add(speed, rate, alpha=3.0 * DT).clamp_(-MAX_SPEED, MAX_SPEED)
        angle = torch.add(angle, speed, alpha=DT)
        turns = (angle * (0.5 / math.pi)).round_()
        angle = angle.sub_(turns, alpha=2.0 * math.pi).clamp_(-math.pi, math.pi)
        return torch.stack((angle, speed)).t(), cost.neg_(), torch.zeros_like(cost, dtype=torch.bool)

    def draw(self, axes: Axes, state: State, task: dict[str, npt.NDArray[Any]]) -> None:
        """Draw the rod and the pivot. The heavier the rod, the thicker it is."""
        length, reach = float(task["l"]), 1.6
        tip = (length * math.sin(float(state[0])), length * math.cos(float(state[0])))
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        axes.plot([0.0, tip[0]], [0.0, tip[1]], color="tab:red", linewidth=8.0 * float(task["m"]))
        axes.plot([0.0], [0.0], "o", color="0.1", markersize=6)
