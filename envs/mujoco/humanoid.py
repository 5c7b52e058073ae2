"""HumanoidDir: a humanoid runs in a hidden direction; on Gymnasium's Humanoid-v5.

Definition: Rakelly et al. (2019, arXiv:1903.08254, appendix B). A step is .015 s; v is the displacement of the centre
of mass in a step, divided by .015 s.

Observation: Humanoid-v5's, `[348]`: positions without x and y, velocities, and of every body its inertia and velocity
about the centre of mass, actuator forces and contact forces. Action: torques in [-.4, .4], clipped. Reward:
1.25 direction . v + 5 - .1 ||action||^2 - min(5e-7 * the sum of squared contact forces, 10). Every step has the bonus
of 5, also the last, as in the paper (Humanoid-v5 leaves it out if the humanoid has fallen). End: the torso's height
leaves (1, 2). Task: an angle, uniform on [0, 2 pi). Version history: v0, first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from metarl.envs.mujoco.mujoco_core import Floats, MujocoFamily, Robot, State
from metarl.families.distributions import Uniform

HEIGHTS = (1.0, 2.0)  # heights of the torso at which an episode continues [m]
FORWARD = 1.25  # reward per metre per second
SURVIVE = 5.0
CONTROL = 0.1  # cost of a squared action
CONTACT, MAX_CONTACT = 5e-7, 10.0  # cost of a squared contact force, and largest cost of a step
HORIZON = 200
MARKER = 1.5  # distance at which a ball in pictures shows the direction [m]


class HumanoidDir(MujocoFamily):
    """A humanoid runs in a hidden direction.

    The preset "pearl" is the default.

    Args:
        horizon: steps per episode.
    """

    robot = Robot(
        "humanoid.xml",
        5,
        position_noise=0.01,
        velocity_noise=0.01,
        hidden=2,
        fields=("xipos", "cinert", "cvel", "qfrc_actuator", "cfrc_ext"),
        angles=(90.0, -20.0),
    )
    source = "Rakelly et al. 2019, arXiv:1903.08254"
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {"pearl": {}}

    def __init__(self, horizon: int = HORIZON) -> None:
        self.horizon, self.task_space = horizon, {"angle": Uniform(0.0, 2 * math.pi)}
        self.observation_space, self.action_space = self.spaces(348)

    def observe(self, state: State, task: dict[str, Tensor]) -> Tensor:
        """Humanoid-v5's observation, without the world body and the root's actuator forces, float32 `[N, 348]`."""
        parts = [
            self.positions(state)[:, self.robot.hidden :],
            self.velocities(state),
            state["cinert"][:, 1:].flatten(1),
            state["cvel"][:, 1:].flatten(1),
            state["qfrc_actuator"][:, 6:],
            state["cfrc_ext"][:, 1:].flatten(1),
        ]
        return torch.cat(parts, -1).float()

    def move(self, state: State, action: Tensor, task: dict[str, Tensor]) -> tuple[State, Tensor, Tensor]:
        """The reward is 1.25 direction . v + survive - costs."""
        action = self.clip(action)
        after = self.simulate(state, action)
        velocity = (self.mass_centre(after) - self.mass_centre(state)) / self.engine.dt
        angle = task["angle"].double()
        progress = angle.cos() * velocity[:, 0] + angle.sin() * velocity[:, 1]
        contact = (CONTACT * after["cfrc_ext"].square().sum((1, 2))).clamp_max(MAX_CONTACT)
        reward = FORWARD * progress + SURVIVE - CONTROL * action.square().sum(-1) - contact
        height = self.positions(after)[:, 2]
        return after, reward.float(), ~((height > HEIGHTS[0]) & (height < HEIGHTS[1]))

    def mass_centre(self, state: State) -> Tensor:
        """The centre of mass of all bodies in the plane, float64 `[N, 2]` [m]."""
        mass = torch.from_numpy(np.array(self.engine.model.body_mass)).to(state["xipos"].device)
        return (mass[:, None] * state["xipos"][:, :, :2]).sum(1) / mass.sum()

    def marker(self, state: dict[str, Floats], task: dict[str, npt.NDArray[Any]]) -> Sequence[float]:
        """A point ahead of the robot, in the direction."""
        x, y = state["physics"][1:3]
        return [float(x + MARKER * np.cos(task["angle"])), float(y + MARKER * np.sin(task["angle"])), 0.2]
