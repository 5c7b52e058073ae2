"""An ant walks in a hidden direction, at a hidden velocity, or to a hidden place; on Gymnasium's Ant-v5.

AntDir and AntVel: Finn, Abbeel and Levine (2017, arXiv:1703.03400, section 5.3). AntGoal, and AntDir's default of
all directions: Rakelly et al. (2019, arXiv:1903.08254, appendix B). A step is .05 s; v is the displacement of the
torso in a step, divided by .05 s.

Observation: positions and velocities of torso and joints without x and y, `[27]`, as Ant-v5 has it without contact
forces; AntGoal, whose task is a place, also sees x and y, `[29]`. Action: torques in [-1, 1], clipped. Reward: AntDir
direction . v + survive, AntVel -|v_x - velocity| + 1 + survive, AntGoal -||(x, y) - goal||_1, each minus control *
||action||^2 and .0005 * the sum of squared contact forces, clipped to [-1, 1]. Every step has the bonus survive, also
the last, as in the papers (Ant-v5 leaves it out if the ant has fallen). End: in AntDir and AntVel, the torso's height
leaves [.2, 1]; AntGoal ends before the horizon only if the physics fails. Task: an angle, a velocity, or a place in a
disc. Version history: v0, first.
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
from metarl.errors import InvalidValueError, did_you_mean
from metarl.families.distributions import Choice, Distribution, Uniform

ANT = Robot(
    "ant.xml",
    5,
    position_noise=0.1,
    velocity_noise=0.1,
    normal_velocity=True,
    hidden=2,
    fields=("xpos", "cfrc_ext"),
    distance=6.0,
    angles=(90.0, -35.0),
)
TORSO = 1  # number of the body
HEIGHTS = (0.2, 1.0)  # heights of the torso at which an episode continues [m]
CONTACT = 5e-4  # cost of a squared contact force
CONTROL = 0.5  # cost of a squared action in PEARL, ProMP and Gymnasium
MAML_CONTROL = 0.005
GOAL_CONTROL = 0.1
SURVIVE = 1.0
MAML_SURVIVE = 0.05
VELOCITY_BONUS = 1.0  # AntVel's second bonus per step, beside survive
MAX_VELOCITY = 3.0  # [m/s]
GOAL_RADIUS = 3.0  # [m]
FASTER = (0.01, 1.0)  # AntVel's split "fast": velocity above the largest train velocity [m/s]
FARTHER = (3.01, 4.0)  # AntGoal's split "far": radii [m]
HORIZON = 200
MARKER = 1.5  # distance at which a ball in pictures shows the direction [m]
DIRECTIONS = ("circle", "two")


def walk(family: MujocoFamily, state: State, action: Tensor, control: float) -> tuple[State, Tensor, Tensor]:
    """Step an ant: the new state, the torso's velocity `[N, 2]` [m/s], and the costs of control and contact `[N]`."""
    action = family.clip(action)
    after = family.simulate(state, action)
    velocity = (after["xpos"][:, TORSO, :2] - state["xpos"][:, TORSO, :2]) / family.engine.dt
    contact = after["cfrc_ext"].clamp(-1.0, 1.0).square().sum((1, 2))
    return after, velocity, control * action.square().sum(-1) + CONTACT * contact


def fallen(family: MujocoFamily, state: State) -> Tensor:
    """Whether an ant's height is outside `HEIGHTS` or its physics is not finite, `bool [N]`."""
    height = family.positions(state)[:, 2]
    finite = state["physics"][:, 1 : 1 + family.engine.model.nq + family.engine.model.nv].isfinite().all(-1)
    return ~(finite & (height >= HEIGHTS[0]) & (height <= HEIGHTS[1]))


def body(family: MujocoFamily, state: State, hidden: int) -> Tensor:
    """Positions without the first `hidden` ones, then velocities, float32 `[N, ...]`."""
    return torch.cat([family.positions(state)[:, hidden:], family.velocities(state)], -1).float()


class AntDir(MujocoFamily):
    """An ant walks in a hidden direction: any angle, or one of two.

    Presets: "maml" has two directions, survive .05 and control .005, as in the paper's rllab code; "promp" (Rothfuss et
    al. 2019, arXiv:1810.06784) and "varibad" (Zintgraf et al. 2020, arXiv:1910.08348) have two directions; "pearl" is
    the default. VariBAD's code uses the cosine and sine of +-1 as directions (57 degrees to either side of x); here
    they are +x and -x.

    Args:
        directions: "circle" (task "angle", uniform on [0, 2 pi)) or "two" (task "direction", +-1 along x; then the
            family is finite, and train and test tasks are the same).
        survive: bonus per step.
        control: cost of a squared action.
        horizon: steps per episode.
    """

    robot = ANT
    source = "Finn, Abbeel and Levine 2017, arXiv:1703.03400; Rakelly et al. 2019, arXiv:1903.08254"
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "maml": {"directions": "two", "survive": MAML_SURVIVE, "control": MAML_CONTROL},
        "promp": {"directions": "two"},
        "varibad": {"directions": "two"},
        "pearl": {},
    }

    def __init__(
        self, directions: str = "circle", survive: float = SURVIVE, control: float = CONTROL, horizon: int = HORIZON
    ) -> None:
        if directions not in DIRECTIONS:
            raise InvalidValueError("AntDir.directions", directions, did_you_mean(directions, DIRECTIONS))
        self.survive, self.control, self.horizon, self.two = survive, control, horizon, directions == "two"
        both: dict[str, Distribution] = {"direction": Choice([-1.0, 1.0])}
        self.task_space = both if self.two else {"angle": Uniform(0.0, 2 * math.pi)}
        self.observation_space, self.action_space = self.spaces(27)

    def observe(self, state: State, task: dict[str, Tensor]) -> Tensor:
        """Torso and joints without x and y, float32 `[N, 27]`."""
        return body(self, state, self.robot.hidden)

    def move(self, state: State, action: Tensor, task: dict[str, Tensor]) -> tuple[State, Tensor, Tensor]:
        """The reward is velocity in the direction + survive - costs."""
        after, velocity, costs = walk(self, state, action, self.control)
        if self.two:
            progress = task["direction"] * velocity[:, 0]
        else:
            angle = task["angle"].double()
            progress = angle.cos() * velocity[:, 0] + angle.sin() * velocity[:, 1]
        return after, (progress + self.survive - costs).float(), fallen(self, after)

    def marker(self, state: dict[str, Floats], task: dict[str, npt.NDArray[Any]]) -> Sequence[float]:
        """A point ahead of the robot, in the direction."""
        x, y, _ = state["xpos"][TORSO]
        east, north = (task["direction"], 0.0) if self.two else (np.cos(task["angle"]), np.sin(task["angle"]))
        return [float(x + MARKER * east), float(y + MARKER * north), 0.2]


class AntVel(MujocoFamily):
    """An ant walks along x at a hidden velocity, uniform on [0, max_velocity] m/s.

    The preset "maml" is the default.

    Args:
        max_velocity: largest velocity of a train task [m/s].
        survive: bonus per step, in addition to the 1 that keeps the reward positive.
        control: cost of a squared action.
        horizon: steps per episode.
    """

    robot = ANT
    source = "Finn, Abbeel and Levine 2017, arXiv:1703.03400"
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {"maml": {}}

    def __init__(
        self,
        max_velocity: float = MAX_VELOCITY,
        survive: float = MAML_SURVIVE,
        control: float = MAML_CONTROL,
        horizon: int = HORIZON,
    ) -> None:
        if max_velocity <= 0:
            raise InvalidValueError("AntVel.max_velocity", max_velocity, "above 0 [m/s]")
        self.survive, self.control, self.horizon = survive, control, horizon
        self.task_space = {"velocity": Uniform(0.0, max_velocity)}
        self.ood = {"fast": {"velocity": Uniform(max_velocity + FASTER[0], max_velocity + FASTER[1])}}
        self.observation_space, self.action_space = self.spaces(27)

    def observe(self, state: State, task: dict[str, Tensor]) -> Tensor:
        """Torso and joints without x and y, float32 `[N, 27]`."""
        return body(self, state, self.robot.hidden)

    def move(self, state: State, action: Tensor, task: dict[str, Tensor]) -> tuple[State, Tensor, Tensor]:
        """The reward is -|v_x - velocity| + 1 + survive - costs."""
        after, velocity, costs = walk(self, state, action, self.control)
        error = (velocity[:, 0] - task["velocity"]).abs()
        return after, (VELOCITY_BONUS - error + self.survive - costs).float(), fallen(self, after)


class AntGoal(MujocoFamily):
    """An ant walks to a hidden place, uniform on the disc of radius 3 m around the origin.

    The ant observes its own place. The preset "pearl" is the default.

    Args:
        horizon: steps per episode.
    """

    robot = ANT
    source = "Rakelly et al. 2019, arXiv:1903.08254"
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {"pearl": {}}

    def __init__(self, horizon: int = HORIZON) -> None:
        self.horizon = horizon
        # if the place is uniform on the disc, the square of its radius is uniform
        self.task_space = {"angle": Uniform(0.0, 2 * math.pi), "radius_squared": Uniform(0.0, GOAL_RADIUS**2)}
        self.ood = {"far": {"radius_squared": Uniform(FARTHER[0] ** 2, FARTHER[1] ** 2)}}
        self.observation_space, self.action_space = self.spaces(29)

    def observe(self, state: State, task: dict[str, Tensor]) -> Tensor:
        """The ant's place, then torso and joints, float32 `[N, 29]`."""
        return body(self, state, 0)

    def goal(self, task: dict[str, Tensor]) -> Tensor:
        """The hidden place, float64 `[N, 2]` [m]."""
        angle, radius = task["angle"].double(), task["radius_squared"].double().sqrt()
        return torch.stack([radius * angle.cos(), radius * angle.sin()], -1)

    def move(self, state: State, action: Tensor, task: dict[str, Tensor]) -> tuple[State, Tensor, Tensor]:
        """The reward is minus the distance in the 1-norm and minus the costs."""
        after, _, costs = walk(self, state, action, GOAL_CONTROL)
        distance = (after["xpos"][:, TORSO, :2] - self.goal(task)).abs().sum(-1)
        return after, (-distance - costs).float(), torch.zeros_like(distance, dtype=torch.bool)

    def marker(self, state: dict[str, Floats], task: dict[str, npt.NDArray[Any]]) -> Sequence[float]:
        """The hidden place."""
        radius = np.sqrt(task["radius_squared"])
        return [float(radius * np.cos(task["angle"])), float(radius * np.sin(task["angle"])), 0.2]
