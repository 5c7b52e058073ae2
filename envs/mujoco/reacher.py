"""ReacherGoal: an arm with two joints reaches for a hidden target; on Gymnasium's Reacher-v5.

Observation: cosines and sines of both joints, their velocities, and the position of the fingertip, `[8]`. Reacher-v5
also has the target's position, and has the vector from fingertip to target instead of the fingertip's position. Action:
torques in [-1, 1], clipped. Reward: -||fingertip - target||_2 - ||action||^2. End: only if the physics fails. Task: the
target, uniform on the disc of radius .2 m as in Reacher-v5. A step is .02 s. Version history: v0, first.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metarl.envs.mujoco.mujoco_core import MujocoFamily, Robot, State
from metarl.families.distributions import Uniform
from metarl.rng import Rng

GOAL_RADIUS = 0.2  # [m]
ARM = 2  # joints of the arm; two more joints move the target
FINGERTIP = 3  # number of the body
HORIZON = 50


class ReacherGoal(MujocoFamily):
    """An arm with two joints reaches for a hidden target.

    Args:
        horizon: steps per episode.
    """

    robot = Robot(
        "reacher.xml",
        2,
        position_noise=0.1,
        velocity_noise=0.005,
        fields=("xpos",),
        followed=False,
        distance=0.9,
        angles=(90.0, -89.0),
    )
    source = "Gymnasium's Reacher-v5"

    def __init__(self, horizon: int = HORIZON) -> None:
        self.horizon = horizon
        # if the place is uniform on the disc, the square of its radius is uniform
        self.task_space = {"angle": Uniform(0.0, 2 * math.pi), "radius_squared": Uniform(0.0, GOAL_RADIUS**2)}
        self.observation_space, self.action_space = self.spaces(8)

    def goal(self, task: dict[str, Tensor]) -> Tensor:
        """The target, float64 `[N, 2]` [m]."""
        angle, radius = task["angle"].double(), task["radius_squared"].double().sqrt()
        return torch.stack([radius * angle.cos(), radius * angle.sin()], -1)

    def reset(self, task: dict[str, Tensor], rng: Rng) -> State:
        """Reacher-v5's start. The target is at rest at the task's position, for pictures."""
        positions, velocities = self.noisy_start(rng)
        still = torch.zeros_like(velocities[:, ARM:])
        return self.start(
            torch.cat([positions[:, :ARM], self.goal(task)], -1), torch.cat([velocities[:, :ARM], still], -1)
        )

    def observe(self, state: State, task: dict[str, Tensor]) -> Tensor:
        """Joints' cosines, sines and velocities, and the fingertip, float32 `[N, 8]`."""
        angles, velocities = self.positions(state)[:, :ARM], self.velocities(state)[:, :ARM]
        return torch.cat([angles.cos(), angles.sin(), velocities, state["xpos"][:, FINGERTIP, :2]], -1).float()

    def move(self, state: State, action: Tensor, task: dict[str, Tensor]) -> tuple[State, Tensor, Tensor]:
        """The reward is minus the distance and minus the control cost."""
        action = self.clip(action)
        after = self.simulate(state, action)
        distance = (after["xpos"][:, FINGERTIP, :2] - self.goal(task)).norm(dim=-1)
        never = torch.zeros_like(distance, dtype=torch.bool)
        return after, (-distance - action.square().sum(-1)).float(), never
