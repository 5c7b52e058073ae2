"""HalfCheetah and Swimmer run at a hidden velocity or in a hidden direction.

HalfCheetahVel and HalfCheetahDir: Finn, Abbeel and Levine (2017, arXiv:1703.03400, section 5.3), with Gymnasium's
HalfCheetah-v5 (a step is .05 s; the paper's rllab model has steps of .01 s, so returns are not comparable). SwimmerDir
is HalfCheetahDir with Swimmer-v5 (a step is .04 s). v is the displacement of the root along x in a step, divided by the
seconds of the step.

Observation: positions and velocities of the joints, without the position in the plane, `[17]` or `[8]`. Action:
torques in [-1, 1], clipped. Reward: -|v - velocity| or direction * v, minus a cost of squared actions (.05, Swimmer
.0001). End: only if the physics fails. Task: the velocity, or one of two directions (a finite family: its train and
test tasks are the same). Version history: v0, first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy.typing as npt
import torch
from torch import Tensor

from metarl.envs.mujoco.mujoco_core import Floats, MujocoFamily, Robot, State
from metarl.errors import InvalidValueError
from metarl.families.distributions import Choice, Uniform

CHEETAH = Robot("half_cheetah.xml", 5, position_noise=0.1, velocity_noise=0.1, normal_velocity=True, hidden=1)
SWIMMER = Robot("swimmer.xml", 4, position_noise=0.1, velocity_noise=0.1, hidden=2, angles=(90.0, -60.0))
CHEETAH_CONTROL = 0.05  # cost of a squared action
SWIMMER_CONTROL = 1e-4
MAX_VELOCITY = 3.0  # [m/s]
MAML_MAX_VELOCITY = 2.0
FASTER = (0.01, 1.0)  # the split "fast": velocity above the largest train velocity [m/s]
HORIZON = 200
PROMP_HORIZON = 100
MARKER = 1.5  # distance at which a ball in pictures shows the direction [m]
FINN = "Finn, Abbeel and Levine 2017, arXiv:1703.03400"
Preset = Mapping[str, object]


def run(family: MujocoFamily, state: State, action: Tensor, weight: float) -> tuple[State, Tensor, Tensor, Tensor]:
    """Step a planar robot: the new state, velocity along x [m/s], control cost, and `terminated`, which is False."""
    action = family.clip(action)
    after = family.simulate(state, action)
    velocity = (family.positions(after)[:, 0] - family.positions(state)[:, 0]) / family.engine.dt
    never = torch.zeros_like(velocity, dtype=torch.bool)
    return after, velocity, weight * action.square().sum(-1), never


def joints(family: MujocoFamily, state: State) -> Tensor:
    """Positions without the hidden ones, then velocities, float32 `[N, ...]`."""
    visible = family.positions(state)[:, family.robot.hidden :]
    return torch.cat([visible, family.velocities(state)], -1).float()


class HalfCheetahVel(MujocoFamily):
    """A half-cheetah runs at a hidden velocity, uniform on [0, max_velocity] m/s.

    Presets: "maml" draws up to 2 m/s; "promp" (Rothfuss et al. 2019, arXiv:1810.06784) plays 100 steps; "pearl"
    (Rakelly et al. 2019, arXiv:1903.08254) and "varibad" (Zintgraf et al. 2020, arXiv:1910.08348) are the default.

    Args:
        max_velocity: largest velocity of a train task [m/s].
        horizon: steps per episode.
    """

    robot = CHEETAH
    source = FINN
    presets: ClassVar[Mapping[str, Preset]] = {
        "maml": {"max_velocity": MAML_MAX_VELOCITY},
        "promp": {"horizon": PROMP_HORIZON},
        "pearl": {},
        "varibad": {},
    }

    def __init__(self, max_velocity: float = MAX_VELOCITY, horizon: int = HORIZON) -> None:
        if max_velocity <= 0:
            raise InvalidValueError("HalfCheetahVel.max_velocity", max_velocity, "above 0 [m/s]")
        self.horizon = horizon
        self.task_space = {"velocity": Uniform(0.0, max_velocity)}
        self.ood = {"fast": {"velocity": Uniform(max_velocity + FASTER[0], max_velocity + FASTER[1])}}
        self.observation_space, self.action_space = self.spaces(17)

    def observe(self, state: State, task: dict[str, Tensor]) -> Tensor:
        """Joints and the root's height, angle and velocities, float32 `[N, 17]`."""
        return joints(self, state)

    def move(self, state: State, action: Tensor, task: dict[str, Tensor]) -> tuple[State, Tensor, Tensor]:
        """The reward is -|v - velocity| minus the control cost."""
        after, velocity, cost, never = run(self, state, action, CHEETAH_CONTROL)
        return after, (-(velocity - task["velocity"]).abs() - cost).float(), never


class HalfCheetahDir(MujocoFamily):
    """A half-cheetah runs forward or backward; the direction is hidden.

    Presets: "promp" (Rothfuss et al. 2019, arXiv:1810.06784) plays 100 steps; the others are the default.

    Args:
        horizon: steps per episode.
    """

    robot: ClassVar[Robot] = CHEETAH
    control: ClassVar[float] = CHEETAH_CONTROL
    source = FINN
    presets: ClassVar[Mapping[str, Preset]] = {
        "maml": {},
        "promp": {"horizon": PROMP_HORIZON},
        "pearl": {},
        "varibad": {},
    }

    def __init__(self, horizon: int = HORIZON) -> None:
        self.horizon, self.task_space = horizon, {"direction": Choice([-1.0, 1.0])}
        model = self.engine.model
        self.observation_space, self.action_space = self.spaces(model.nq - self.robot.hidden + model.nv)

    def observe(self, state: State, task: dict[str, Tensor]) -> Tensor:
        """Joints, the root's visible positions and velocities, float32 `[N, 17]` (Swimmer: `[N, 8]`)."""
        return joints(self, state)

    def move(self, state: State, action: Tensor, task: dict[str, Tensor]) -> tuple[State, Tensor, Tensor]:
        """The reward is the velocity in the direction minus the control cost."""
        after, velocity, cost, never = run(self, state, action, self.control)
        return after, (task["direction"] * velocity - cost).float(), never

    def marker(self, state: dict[str, Floats], task: dict[str, npt.NDArray[Any]]) -> Sequence[float]:
        """A point ahead of the robot, in the direction."""
        return [float(state["physics"][1] + MARKER * task["direction"]), 0.0, 0.2]


class SwimmerDir(HalfCheetahDir):
    """A swimmer swims forward or backward; the direction is hidden.

    It is HalfCheetahDir with Swimmer-v5. x is the position of the swimmer's first link.
    """

    robot = SWIMMER
    control = SWIMMER_CONTROL
    source = "Gymnasium's Swimmer-v5; directions as in Finn, Abbeel and Levine 2017, arXiv:1703.03400"
    presets: ClassVar[Mapping[str, Preset]] = {}
