"""Mountain car: a car swings back and forth out of a valley; its power and the steepness are hidden.

Moore (1990, "Efficient memory-based learning for robot control", PhD thesis, Cambridge), as in Gymnasium's
MountainCar-v0 and MountainCarContinuous-v0. The physics as a task is from Packer et al. (2018, arXiv:1810.12282) and
CARL (Benjamins et al. 2023, arXiv:2202.02110).

Observation: position, velocity, `[2]`. Action: MountainCar: 0 pushes left, 1 nothing, 2 right;
MountainCarContinuous: a push in [-1, 1], `[1]`, clipped. Reward: MountainCar: -1 per step; MountainCarContinuous: 100
for the step that ends, minus .1 action^2 (of the action before clipping). Start: position uniform on [-.6, -.4], at
rest. End: at position .5 (MountainCar) or .45 (MountainCarContinuous), not moving left. Task: force (MountainCar) or
power (MountainCarContinuous), which is the change of velocity per step by a full push, and gravity, which is the change
by the steepest slope. Horizon: 200 steps (MountainCar) or 999 (MountainCarContinuous). Version history: v0, first.
"""

from __future__ import annotations

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

Floats = npt.NDArray[np.float64]
MIN_POSITION, MAX_POSITION = -1.2, 0.6
MAX_SPEED = 0.07  # per step
START_LOW, START_WIDTH = -0.6, 0.2
LOW = np.array([MIN_POSITION, -MAX_SPEED], dtype=np.float32)
HIGH = np.array([MAX_POSITION, MAX_SPEED], dtype=np.float32)
GOAL, GOAL_CONTINUOUS = 0.5, 0.45  # positions
GOAL_REWARD, ACTION_COST = 100.0, 0.1  # reward and cost of the continuous variant
TASK_SPACE: TaskSpace = {"force": Uniform(0.0008, 0.0015), "gravity": Uniform(0.002, 0.003)}
TASK_SPACE_CONTINUOUS: TaskSpace = {"power": Uniform(0.001, 0.002), "gravity": Uniform(0.002, 0.003)}
OOD: Mapping[str, TaskSpace] = {"far": {"gravity": Uniform(0.00301, 0.0034)}}  # steeper valleys


class Valley(TorchFamily):
    """The common part of both variants: start, observation and picture. Subclasses set `goal`, the end position."""

    goal: float
    observation_space = Box(LOW, HIGH, dtype=np.float32)
    ood = OOD

    def reset(self, task: dict[str, Tensor], rng: Rng) -> Tensor:
        """At rest in the valley: `[N, 2]`."""
        return start(rng)

    def observe(self, state: Tensor, task: dict[str, Tensor]) -> Tensor:
        """The state."""
        return state

    def draw(self, axes: Axes, state: State, task: dict[str, npt.NDArray[Any]]) -> None:
        """See `draw_valley`."""
        draw_valley(axes, float(state[0]), float(task["gravity"]), self.goal)


class MountainCar(Valley):
    """A weak car swings out of a valley with three actions; its force and the gravity are hidden.

    The state is the observation, `float32 [N, 2]`.
    """

    source = "Moore 1990; Gymnasium MountainCar-v0"
    action_space = Discrete(3)
    horizon = 200
    goal = GOAL
    task_space = TASK_SPACE

    def step(self, state: Tensor, action: Tensor, task: dict[str, Tensor], rng: Rng) -> tuple[Tensor, Tensor, Tensor]:
        """Push the car and let it roll for one step."""
        after, arrived = roll(state, action.to(state.dtype).sub_(1.0).mul_(task["force"]), task["gravity"], self.goal)
        return after, torch.full_like(task["force"], -1.0), arrived


class MountainCarContinuous(Valley):
    """A weak car swings out of a valley with continuous pushes; its power and the gravity are hidden.

    The state is the observation, `float32 [N, 2]`.
    """

    source = "Moore 1990; Gymnasium MountainCarContinuous-v0"
    action_space = Box(-1.0, 1.0, (1,), np.float32)
    horizon = 999
    goal = GOAL_CONTINUOUS
    task_space = TASK_SPACE_CONTINUOUS

    def step(self, state: Tensor, action: Tensor, task: dict[str, Tensor], rng: Rng) -> tuple[Tensor, Tensor, Tensor]:
        """Push the car and let it roll for one step."""
        push = action[:, 0]
        after, arrived = roll(state, push.clamp(-1.0, 1.0).mul_(task["power"]), task["gravity"], self.goal)
        reward = arrived.to(push.dtype).mul_(GOAL_REWARD).addcmul_(push, push, value=-ACTION_COST)
        return after, reward, arrived


def start(rng: Rng) -> Tensor:
    """A position near the valley's floor, at rest: `[N, 2]`."""
    position = rng.uniform(1)[:, 0].mul(START_WIDTH).add_(START_LOW)
    return torch.stack((position, torch.zeros_like(position))).t()


def roll(state: Tensor, push: Tensor, gravity: Tensor, goal: float) -> tuple[Tensor, Tensor]:
    """One step: v' = v + push - gravity cos(3 x), x' = x + v', both clipped; the left wall stops the car.

    Args:
        state: position and velocity, `[N, 2]`.
        push: change of velocity by the push, `[N]`. It may be overwritten.
        gravity: `[N]`.
        goal: position of the goal.

    Returns:
        The state after the step, `[N, 2]`, and which cars are at the goal and not moving left, `bool [N]`.
    """
    position, speed = state.unbind(1)
    speed = push.add_(speed).addcmul_(gravity, (position * 3.0).cos_(), value=-1.0).clamp_(-MAX_SPEED, MAX_SPEED)
    position = (position + speed).clamp_(MIN_POSITION, MAX_POSITION)
    stopped = (position <= MIN_POSITION).logical_and_(speed < 0.0)
    speed = speed.masked_fill_(stopped, 0.0)
    return torch.stack((position, speed)).t(), (position >= goal).logical_and_(speed >= 0.0)


def draw_valley(axes: Axes, position: float, gravity: float, goal: float) -> None:
    """Draw the valley, the car, and a flag at the goal. The steeper the valley, the darker its line.

    Args:
        axes: a matplotlib Axes.
        position: position of the car.
        gravity: gravity of the task.
        goal: position of the flag.
    """
    x = np.linspace(MIN_POSITION, MAX_POSITION, 100)
    axes.set(xlim=(MIN_POSITION, MAX_POSITION), ylim=(0.0, 1.4), aspect="equal")
    axes.plot(x, _height(x), color=str(max(0.0, 1.0 - 250.0 * gravity)), linewidth=2)
    axes.plot([goal, goal], [_height(goal), _height(goal) + 0.2], color="tab:green", linewidth=2)
    axes.plot([position], [_height(position) + 0.05], "o", color="tab:blue", markersize=8)


def _height(position: float | Floats) -> Floats:
    """Height of the valley at positions, both in the units of the picture."""
    return np.asarray(0.45 * np.sin(3.0 * np.asarray(position)) + 0.55)
