"""Walker2DRandParams and HopperRandParams: robots of hidden mass, inertia, friction and damping run forward.

Definition: Rothfuss et al. (2019, arXiv:1810.06784) and Rakelly et al. (2019, arXiv:1903.08254), on Gymnasium's
Walker2d-v5 and Hopper-v5 (a step is .008 s; the original has steps of .016 s and an older model). Every element of the
model's masses, inertias and friction coefficients is multiplied by 1.5^u and every joint's damping by 1.3^u, each with
its own u, uniform on [-3, 3]. The constants that MuJoCo derives from them are computed again. As in the original, the
coefficients of torsional and rolling friction also change, although the contacts of these models do not use them.

Observation: Gymnasium's, positions without x, and velocities clipped to [-10, 10], `[17]` or `[11]`. Action: torques in
[-1, 1], clipped. Reward: v + 1 - .001 ||action||^2, where v is the displacement of the root along x in a step, divided
by .008 s. Every step has the bonus of 1, also the last, as in the papers (Gymnasium leaves it out if the robot has
fallen). End: as in Gymnasium. The walker's height leaves (.8, 2) or its angle (-1, 1); the hopper's height is at most
.7, its angle leaves (-.2, .2), or another number of its state leaves (-100, 100). Task: the exponents u of the masses
`[bodies]`, inertias `[bodies, 3]`, friction coefficients `[geoms, 3]` and dampings `[joints]`. The papers train on 40
tasks and test on 10. Version history: v0, first.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from metarl.envs.mujoco.mujoco_core import MujocoFamily, Robot, State, load_model, mujoco
from metarl.errors import InvalidValueError, did_you_mean
from metarl.families.distributions import Uniform

LIMIT = 3.0  # largest absolute value of an exponent
HEAVIER = (3.01, 4.0)  # mass exponents of the split "heavy", in which every body is heavier than in any train task
BASE = {"mass": 1.5, "inertia": 1.5, "friction": 1.5, "damping": 1.3}
FIELD = {"mass": "body_mass", "inertia": "body_inertia", "friction": "geom_friction", "damping": "dof_damping"}
ROOT = 3  # number of the root's degrees of freedom, which have no damping
SURVIVE = 1.0
CONTROL = 1e-3  # cost of a squared action
MAX_SEEN_VELOCITY = 10.0
HORIZON = 200
CACHED_MODELS = 4096  # number of models, 14 kB each


@dataclass(frozen=True)
class Upright:
    """Ranges in which an episode continues: the root's height [m], its angle, and all numbers but x and height."""

    height: tuple[float, float]
    angle: tuple[float, float]
    others: float


ROBOTS = {
    "walker2d": Robot("walker2d_v5.xml", 4, position_noise=5e-3, velocity_noise=5e-3, hidden=1),
    "hopper": Robot("hopper.xml", 4, position_noise=5e-3, velocity_noise=5e-3, hidden=1),
}
UPRIGHT = {
    "walker2d": Upright((0.8, 2.0), (-1.0, 1.0), np.inf),
    "hopper": Upright((0.7, np.inf), (-0.2, 0.2), 100.0),
}


class RandParams(MujocoFamily):
    """A robot of hidden mass, inertia, friction and damping runs forward.

    Args:
        body: "walker2d" or "hopper".
        horizon: steps per episode.
    """

    source = "Rothfuss et al. 2019, arXiv:1810.06784; Rakelly et al. 2019, arXiv:1903.08254"
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {"promp": {}, "pearl": {}}

    def __init__(self, body: str = "walker2d", horizon: int = HORIZON) -> None:
        if body not in ROBOTS:
            raise InvalidValueError("RandParams.body", body, did_you_mean(body, ROBOTS))
        self.robot: Robot = ROBOTS[body]  # type: ignore[misc]
        self.upright, self.horizon = UPRIGHT[body], horizon
        model = self.engine.model
        shapes = {name: _elements(model, name).shape for name in FIELD}
        self.task_space = {name: Uniform(-LIMIT, LIMIT, shape) for name, shape in shapes.items()}
        self.ood = {"heavy": {"mass": Uniform(*HEAVIER, shapes["mass"])}}
        self.observation_space, self.action_space = self.spaces(model.nq - self.robot.hidden + model.nv)

    def observe(self, state: State, task: dict[str, Tensor]) -> Tensor:
        """Positions without x, and clipped velocities, float32 `[N, 17]` (hopper: `[N, 11]`)."""
        velocities = self.velocities(state).clamp(-MAX_SEEN_VELOCITY, MAX_SEEN_VELOCITY)
        return torch.cat([self.positions(state)[:, self.robot.hidden :], velocities], -1).float()

    def move(self, state: State, action: Tensor, task: dict[str, Tensor]) -> tuple[State, Tensor, Tensor]:
        """The reward is the velocity + 1 minus the control cost."""
        action = self.clip(action)
        after = self.simulate(state, action, self.models(task))
        x, height, angle = self.positions(after)[:, :ROOT].unbind(-1)
        velocity = (x - self.positions(state)[:, 0]) / self.engine.dt
        reward = velocity + SURVIVE - CONTROL * action.square().sum(-1)
        others = torch.cat([self.positions(after)[:, 2:], self.velocities(after)], -1)
        up = (height > self.upright.height[0]) & (height < self.upright.height[1])
        up = up & (angle > self.upright.angle[0]) & (angle < self.upright.angle[1])
        return after, reward.float(), ~(up & (others.abs() < self.upright.others).all(-1))

    def models(self, task: dict[str, Tensor]) -> Sequence[Any]:
        """One model per environment. Equal tasks share a model."""
        leaves = [task[name].detach().cpu().flatten(1) for name in FIELD]
        rows = np.ascontiguousarray(torch.cat(leaves, -1).numpy(), dtype=np.float32)
        return [_scaled_model(self.robot.xml, row.tobytes()) for row in rows]


def _elements(model: Any, name: str) -> Any:
    """A view of the array elements that a parameter multiplies: all but the world body and the root's damping."""
    view = getattr(model, FIELD[name])
    return {"mass": view[1:], "inertia": view[1:], "friction": view, "damping": view[ROOT:]}[name]


@lru_cache(maxsize=4)
def _base_model(xml: str) -> Any:
    return load_model(xml)


@lru_cache(maxsize=CACHED_MODELS)
def _scaled_model(xml: str, exponents: bytes) -> Any:
    """The model of a task. `exponents` are float32 bytes in the order of `FIELD`."""
    model = copy.copy(_base_model(xml))
    remaining = np.frombuffer(exponents, dtype=np.float32).astype(np.float64)
    for name in FIELD:
        elements = _elements(model, name)
        elements *= BASE[name] ** remaining[: elements.size].reshape(elements.shape)
        remaining = remaining[elements.size :]
    mujoco.mj_setConst(model, mujoco.MjData(model))
    return model
