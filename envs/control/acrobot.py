"""Acrobot: a motor at the elbow swings the tip of a two-link chain above a line; the links' physics is hidden.

Sutton (1996, "Generalization in reinforcement learning", NeurIPS 8) with the equations of Sutton and Barto's book
(1998, section 11.3), fourth-order Runge-Kutta steps of .2 s, as in Gymnasium's Acrobot-v1. The physics as a task is
from Packer et al. (2018, arXiv:1810.12282, whose ranges "R" of length, mass and inertia are those here) and CARL
(Benjamins et al. 2023, arXiv:2202.02110).

Observation: cos, sin of angle 1 (from hanging), cos, sin of angle 2 (of link 2 relative to link 1), both angular
velocities (rad/s), `[6]`. Action: torque of -1, 0 or 1 N m. Reward: -1 per step, 0 for the step that ends. Start: all
four numbers of the state uniform on [-.1, .1]. End: -cos(angle 1) - cos(angle 1 + angle 2) > 1, which is one link above
the pivot if both links are 1 m long; other lengths have the same limit. Task: length of link 1 (m), masses (kg),
positions of the centers of mass (m), moment of inertia of each link (kg m^2). The length of link 2 affects neither the
motion nor the end. Version history: v0, first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from metarl.families.distributions import TaskSpace, Uniform
from metarl.families.family import State, TorchFamily
from metarl.rng import Rng

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DT = 0.2  # seconds per step
GRAVITY = 9.8
MAX_SPEED_1, MAX_SPEED_2 = 4 * math.pi, 9 * math.pi  # rad/s, at which velocities are clipped
START = 0.1  # largest absolute value of each number of a start state
HEIGHT = 1.0  # height of the line [m]
LINK_2 = 1.0  # length of link 2 in pictures [m]
HIGH = np.array([1.0, 1.0, 1.0, 1.0, MAX_SPEED_1, MAX_SPEED_2], dtype=np.float32)
TASK_SPACE: TaskSpace = {
    "link_length_1": Uniform(0.75, 1.25),
    "link_mass_1": Uniform(0.75, 1.25),
    "link_mass_2": Uniform(0.75, 1.25),
    "link_com_pos_1": Uniform(0.4, 0.6),
    "link_com_pos_2": Uniform(0.4, 0.6),
    "link_moi": Uniform(0.75, 1.25),
}
OOD: Mapping[str, TaskSpace] = {
    "far": {  # longer and heavier links
        "link_length_1": Uniform(1.26, 1.5),
        "link_mass_1": Uniform(1.26, 1.5),
        "link_mass_2": Uniform(1.26, 1.5),
    },
}


class Acrobot(TorchFamily):
    """A two-link arm swings its tip above a line; lengths, masses and inertia of the links are hidden.

    The state is both angles, in [-pi, pi], and both angular velocities, `float32 [N, 4]`.
    """

    source = "Sutton 1996; Gymnasium Acrobot-v1"
    observation_space = Box(-HIGH, HIGH, dtype=np.float32)
    action_space = Discrete(3)
    horizon = 500
    task_space = TASK_SPACE
    ood = OOD

    def reset(self, task: dict[str, Tensor], rng: Rng) -> Tensor:
        """Hanging almost at rest: `[N, 4]`."""
        return torch.stack(rng.uniform(4).mul(2.0 * START).sub_(START).unbind(1)).t()

    def observe(self, state: Tensor, task: dict[str, Tensor]) -> Tensor:
        """Cosine and sine of both angles, both velocities."""
        first, second, speed_1, speed_2 = state.unbind(1)
        return torch.stack((first.cos(), first.sin(), second.cos(), second.sin(), speed_1, speed_2)).t()

    def step(self, state: Tensor, action: Tensor, task: dict[str, Tensor], rng: Rng) -> tuple[Tensor, Tensor, Tensor]:
        """One Runge-Kutta step with the torque held."""
        s, torque, links = state.t(), action.to(state.dtype).sub_(1.0), constants(task)
        k1 = rates(s, torque, links)
        k2 = rates(torch.add(s, k1, alpha=DT / 2), torque, links)
        k3 = rates(torch.add(s, k2, alpha=DT / 2), torque, links)
        k4 = rates(torch.add(s, k3, alpha=DT), torque, links)
        after = torch.add(s, k1.add_(k4).add_(k2.add_(k3), alpha=2.0), alpha=DT / 6)
        turns = (after[:2] * (0.5 / math.pi)).round_()
        angles = after[:2].sub_(turns, alpha=2.0 * math.pi)
        after[2].clamp_(-MAX_SPEED_1, MAX_SPEED_1)
        after[3].clamp_(-MAX_SPEED_2, MAX_SPEED_2)
        over = angles[0].cos().add_((angles[0] + angles[1]).cos_()) < -HEIGHT
        return after.t(), over.to(after.dtype).sub_(1.0), over

    def draw(self, axes: Axes, state: State, task: dict[str, npt.NDArray[Any]]) -> None:
        """Draw both links, the pivot and the line. The heavier a link, the thicker it is; link 1 has its length."""
        first, second, length, reach = float(state[0]), float(state[1]), float(task["link_length_1"]), 2.6
        elbow = (length * math.sin(first), -length * math.cos(first))
        tip = (elbow[0] + LINK_2 * math.sin(first + second), elbow[1] - LINK_2 * math.cos(first + second))
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        axes.plot([-reach, reach], [HEIGHT, HEIGHT], color="tab:green", linewidth=1)
        for start, end, mass in (((0.0, 0.0), elbow, task["link_mass_1"]), (elbow, tip, task["link_mass_2"])):
            axes.plot([start[0], end[0]], [start[1], end[1]], color="tab:blue", linewidth=6.0 * float(mass))
            axes.plot([start[0]], [start[1]], "o", color="0.1", markersize=5)


def constants(task: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The links' constants for `rates`, `[N]` each: inertia 1 and 2, coupling, and weight times lever of both."""
    mass_1, mass_2, moi = task["link_mass_1"], task["link_mass_2"], task["link_moi"]
    length, com_1, com_2 = task["link_length_1"], task["link_com_pos_1"], task["link_com_pos_2"]
    pull_1, pull_2, carried = mass_1 * com_1, mass_2 * com_2, mass_2 * length
    inertia_2 = torch.addcmul(moi, pull_2, com_2)
    inertia_1 = torch.addcmul(inertia_2 + moi, pull_1, com_1).addcmul_(carried, length)
    return inertia_1, inertia_2, pull_2 * length, (pull_1 + carried) * GRAVITY, pull_2 * GRAVITY


def rates(s: Tensor, torque: Tensor, links: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """Time derivative of the state `s` `[4, N]`: the book's equations, with d1, d2, phi1, phi2 as there.

    The `links` are I1 = m1 lc1^2 + m2 (l1^2 + lc2^2) + 2 I, I2 = m2 lc2^2 + I, c = m2 l1 lc2, and the two weights:

        d1 = I1 + 2 c cos(angle 2)        d2 = I2 + c cos(angle 2)
        phi1 = -c sin(angle 2) (w2^2 + 2 w1 w2) + weight1 sin(angle 1) + phi2
        phi2 = weight2 sin(angle 1 + angle 2)
        w2' = (torque + d2 / d1 phi1 - c w1^2 sin(angle 2) - phi2) / (I2 - d2^2 / d1)
        w1' = -(d2 w2' + phi1) / d1
    """
    first, second, w1, w2 = s.unbind(0)
    inertia_1, inertia_2, coupling, weight_1, weight_2 = links
    swing = coupling * second.cos()
    d1, d2 = torch.add(inertia_1, swing, alpha=2.0), inertia_2 + swing
    drag = coupling * second.sin()
    phi2 = (first + second).sin_().mul_(weight_2)
    phi1 = torch.addcmul(phi2, weight_1, first.sin()).addcmul_(drag, torch.add(w2, w1, alpha=2.0).mul_(w2), value=-1.0)
    ratio = d2 / d1
    push = torch.addcmul(torque - phi2, ratio, phi1).addcmul_(drag, w1 * w1, value=-1.0)
    w2_rate = push.div_(torch.addcmul(inertia_2, ratio, d2, value=-1.0))
    w1_rate = torch.addcmul(phi1, d2, w2_rate).div_(d1).neg_()
    return torch.stack((w1, w2, w1_rate, w2_rate))
