"""Cart-pole: pushes to the left or right keep a pole upright on a cart; the physics is hidden.

Barto, Sutton and Anderson (1983, "Neuronlike adaptive elements that can solve difficult learning control problems",
IEEE SMC 13(5), appendix) without friction, as in Gymnasium's CartPole-v1: Euler steps of .02 s. The physics as a task
is from Packer et al. (2018, arXiv:1810.12282) and CARL (Benjamins et al. 2023, arXiv:2202.02110).

Observation: position (m), velocity, angle from upright (rad), angular velocity, `[4]`. Action: 0 pushes left, 1 right.
Reward: 1 per step, also for the last one. Start: each number uniform on [-.05, .05]. End: |x| > 2.4 or |angle| > 12
degrees. Task: gravity (m/s^2), masscart and masspole (kg), length (m, half of the pole), force_mag (N); the ranges of
the last three are those of Packer et al. ("R"). One fixed policy keeps every pole up (see `CartPole.optimal_action`),
so an agent that has learned it need not adapt. Version history: v0, first.
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
from metarl.families.tasks import Tasks
from metarl.rng import Rng

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TAU = 0.02  # seconds per step
MAX_POSITION = 2.4  # m from the center
MAX_ANGLE = 12 * 2 * math.pi / 360  # radians from upright
GAINS = (0.05, 0.1, 1.0, 0.3)  # weights of position, velocity, angle and angular velocity in `optimal_action`
START = 0.05  # largest absolute value of each number of a start state
HIGH = np.array([2 * MAX_POSITION, np.inf, 2 * MAX_ANGLE, np.inf], dtype=np.float32)  # also holds the last state
TASK_SPACE: TaskSpace = {
    "gravity": Uniform(7.0, 13.0),
    "masscart": Uniform(0.5, 1.5),
    "masspole": Uniform(0.05, 0.5),
    "length": Uniform(0.25, 0.75),
    "force_mag": Uniform(5.0, 15.0),
}
OOD: Mapping[str, TaskSpace] = {
    "far": {"masspole": Uniform(0.51, 1.0), "length": Uniform(0.76, 1.0)},  # longer and heavier
}


class CartPole(TorchFamily):
    """A cart keeps a pole upright; gravity, masses, pole length and force are hidden.

    The state is the observation, `float32 [N, 4]`. It is stored transposed, so that each of the four numbers is
    contiguous, which makes the arithmetic fast.
    """

    source = "Barto, Sutton and Anderson 1983; Gymnasium CartPole-v1"
    observation_space = Box(-HIGH, HIGH, dtype=np.float32)
    action_space = Discrete(2)
    horizon = 500
    task_space = TASK_SPACE
    ood = OOD

    def reset(self, task: dict[str, Tensor], rng: Rng) -> Tensor:
        """Upright, near rest in the center: `[N, 4]`. A draw of 64 bits gives two numbers, one from the lower half."""
        draws = rng.bits(2).t()
        return torch.cat((draws, draws << 32)).float().mul_(START * 2.0**-63).t()

    def observe(self, state: Tensor, task: dict[str, Tensor]) -> Tensor:
        """The state."""
        return state

    def step(self, state: Tensor, action: Tensor, task: dict[str, Tensor], rng: Rng) -> tuple[Tensor, Tensor, Tensor]:
        """An Euler step of the equations of motion.

        With F the force, M the total mass, m the pole's, l half its length, w the angular velocity and a the angular
        acceleration:

            a = (g M sin - cos (F + m l w^2 sin)) / (l (4/3 M - m cos^2))
            x'' = (F + m l (w^2 sin - a cos)) / M
        """
        _, velocity, angle, spin = state.unbind(1)
        mass, length, push = task["masspole"], task["length"], task["force_mag"]
        total, moment = task["masscart"] + mass, mass * length
        force = action.to(push.dtype).mul_(2.0).sub_(1.0).mul_(push)
        sin, cos = angle.sin(), angle.cos()
        centrifugal = (spin * spin).mul_(sin)
        torque = torch.addcmul(force, moment, centrifugal).mul_(cos)
        inertia = torch.addcmul(total, mass, cos * cos, value=-0.75).mul_(length)  # 3/4 of the inertia
        spin_rate = (task["gravity"] * total).mul_(sin).sub_(torque).mul_(0.75).div_(inertia)
        centrifugal = centrifugal.addcmul_(spin_rate, cos, value=-1.0)
        acceleration = force.addcmul_(moment, centrifugal).div_(total)
        rates = torch.stack((velocity, acceleration, spin, spin_rate))  # [4, N]
        after = torch.add(state.t(), rates, alpha=TAU)
        out = (after[0].abs() > MAX_POSITION).logical_or_(after[2].abs() > MAX_ANGLE)
        return after.t(), torch.ones_like(acceleration), out

    def optimal_action(self, state: Tensor, task: dict[str, Tensor], t: Tensor) -> Tensor:
        """Push toward the side to which the pole falls, by the sign of a weighted sum of the state, in every task.

        The policy is optimal because it never drops a pole. This was checked from the corners of the start range in the
        corners of the task space and of "far", and in thousands of tasks between. There is no proof for every task.
        """
        x, velocity, angle, spin = state.unbind(1)
        lean = GAINS[0] * x + GAINS[1] * velocity + GAINS[2] * angle + GAINS[3] * spin
        return (lean > 0.0).long()

    def references(self, tasks: Tasks) -> dict[str, npt.NDArray[np.float64]]:
        """The informed optimum: `optimal_action` plays all steps of the horizon, with reward 1 each."""
        return {"informed_optimum": np.full(len(tasks), float(self.horizon))}

    def bayes_optimal_return(self, episodes: int) -> float | None:
        """The return of the informed optimum, because `optimal_action` does not depend on the task."""
        return float(self.horizon * episodes)

    def bayes_optimal_episodes(self, episodes: int) -> npt.NDArray[np.float64] | None:
        """The horizon, for each episode: `[episodes]`."""
        return np.full(episodes, float(self.horizon))

    def draw(self, axes: Axes, state: State, task: dict[str, npt.NDArray[Any]]) -> None:
        """Draw the cart and the pole on a track. The heavier the cart, the wider; the heavier the pole, the thicker."""
        x, angle, width = float(state[0]), float(state[2]), 0.4 * float(task["masscart"]) ** 0.5
        top = 2.0 * float(task["length"])
        axes.set(xlim=(-MAX_POSITION, MAX_POSITION), ylim=(-0.6, 2.2), aspect="equal")
        axes.plot([-MAX_POSITION, MAX_POSITION], [0.0, 0.0], color="0.6", linewidth=1)
        axes.fill_between([x - width, x + width], -0.12, 0.12, color="0.2")
        axes.plot(
            [x, x + top * math.sin(angle)],
            [0.0, top * math.cos(angle)],
            color="tab:orange",
            linewidth=2.0 + 6.0 * float(task["masspole"]),
            solid_capstyle="round",
        )
