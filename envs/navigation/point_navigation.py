"""2-D navigation: a point moves to a hidden goal.

Default: Finn, Abbeel and Levine (2017, arXiv:1703.03400, section 5.3). Presets: "semicircle", the sparse point robot
of Rakelly et al. (2019, arXiv:1903.08254); "semicircle100", the same with the horizon of Zintgraf et al. (2020,
arXiv:1910.08348); "corners", Rothfuss et al. (2019, arXiv:1810.06784).

Observation: the position, `[2]`. Action: a displacement in a box, clipped. Reward: see `reward`. End: with the reward
"dense" an episode ends within .01 of the goal on both axes; with the other rewards it does not. Version history: v0,
first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box
from torch import Tensor

from metarl.errors import InvalidValueError, did_you_mean
from metarl.families.distributions import Choice, Distribution, Uniform
from metarl.families.family import History, Queries, TorchFamily, mean_of_possible
from metarl.families.tasks import Tasks
from metarl.rng import Rng

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REWARDS = ("dense", "sparse", "progress")
GOAL_WINDOW = 0.01  # distance per axis at which a dense episode ends
SPARSE_RADIUS = 0.2  # semi-circle: reward 1 - distance inside, 0 outside
CORNER = 2.0
CORNER_REST = 0.5  # corners: the reward is 0 where the 1-norm of the position is below it
CORNER_START = 0.2
_SIDE, _ANGLES = 51, 1001  # of the lattices of goals in the square and on the semicircle
_EXACT = "donot_use_mm_for_euclid_dist"
SEMICIRCLE = {"reward": "sparse", "goals": "semicircle", "max_action": 1.0, "step_size": 0.1, "horizon": 20}


class PointNavigation(TorchFamily):
    """A point in the plane moves to a hidden goal: x' = x + step_size * clip(action).

    Args:
        reward: "dense": -||x' - g||; "sparse": 1 - ||x' - g|| within .2 of the goal, else 0, with the dense one as
            info["dense_reward"], which training may use; "progress":
            ||x - g|| - ||x' - g|| if the 1-norm of x' is at least .5 and no other corner is nearer to x' than the goal,
            else 0 (as in ProMP's public code, point_env_2d_corner).
        goals: "square" (uniform on [-.5, .5]^2), "semicircle" (radius 1, angle uniform on [0, pi]) or "corners" (+-2).
        max_action: half the width of the action box.
        step_size: metres per unit of action.
        horizon: steps per episode.
    """

    source = "Finn, Abbeel and Levine 2017, arXiv:1703.03400"
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "semicircle": SEMICIRCLE,
        "semicircle100": {**SEMICIRCLE, "horizon": 100},
        "corners": {"reward": "progress", "goals": "corners", "max_action": 0.2, "horizon": 100},
    }
    observation_space = Box(-np.inf, np.inf, (2,), np.float32)

    def __init__(
        self,
        reward: str = "dense",
        goals: str = "square",
        max_action: float = 0.1,
        step_size: float = 1.0,
        horizon: int = 100,
    ) -> None:
        spaces: dict[str, dict[str, Distribution]] = {
            "square": {"goal": Uniform(-0.5, 0.5, (2,))},
            "semicircle": {"angle": Uniform(0.0, math.pi)},
            "corners": {"goal": Choice([[x, y] for x in (-CORNER, CORNER) for y in (-CORNER, CORNER)])},
        }
        if reward not in REWARDS:
            raise InvalidValueError("PointNavigation.reward", reward, did_you_mean(reward, REWARDS))
        if goals not in spaces:
            raise InvalidValueError("PointNavigation.goals", goals, did_you_mean(goals, spaces))
        self.reward, self.goals, self.max_action, self.step_size = reward, goals, max_action, step_size
        self.horizon, self.task_space = horizon, spaces[goals]
        self.terminates = reward == "dense"
        self.action_space = Box(-max_action, max_action, (2,), np.float32)
        if goals == "square":
            # outside the train square, beyond one of its corners
            self.ood = {"far": {"goal": Uniform(0.51, 0.75, (2,))}}
        elif goals == "semicircle":
            self.ood = {"below": {"angle": Uniform(math.pi + 0.01, 2 * math.pi - 0.01)}}

    def goal(self, task: dict[str, Tensor]) -> Tensor:
        """The goals, `[N, 2]`."""
        if self.goals == "semicircle":
            return torch.stack([task["angle"].cos(), task["angle"].sin()], -1)
        return task["goal"]

    def reset(self, task: dict[str, Tensor], rng: Rng) -> Tensor:
        """Start positions `[N, 2]`: the origin, or for corners a point near it."""
        if self.goals == "corners":
            return CORNER_START * (2.0 * rng.uniform(2) - 1.0)
        return torch.zeros_like(self.goal(task))

    def observe(self, state: Tensor, task: dict[str, Tensor]) -> Tensor:
        """The position."""
        return state

    def step(
        self, state: Tensor, action: Tensor, task: dict[str, Tensor], rng: Rng
    ) -> tuple[Tensor, Tensor, Tensor] | tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Move. The reward depends on the new position. Beside a sparse one, the dense reward is reported."""
        goal = self.goal(task)
        x = self._moved(state, action)
        to_goal = x - goal
        distance = to_goal.norm(dim=-1)
        never = torch.zeros_like(distance, dtype=torch.bool)
        if self.reward == "dense":
            return x, -distance, to_goal.abs().amax(-1) < GOAL_WINDOW
        if self.reward == "sparse":
            reward = torch.where(distance <= SPARSE_RADIUS, 1.0 - distance, torch.zeros_like(distance))
            return x, reward, never, {"dense_reward": -distance}
        progress = (state - goal).norm(dim=-1) - distance
        nearest = (x * goal >= 0).all(-1)  # in the goal's quadrant, no other corner is nearer
        rewarded = (x.abs().sum(-1) >= CORNER_REST) & nearest
        return x, torch.where(rewarded, progress, torch.zeros_like(distance)), never

    def _moved(self, state: Tensor, action: Tensor) -> Tensor:
        """The next positions, `[..., 2]`."""
        return torch.add(state, action.clamp(-self.max_action, self.max_action), alpha=self.step_size)

    def optimal_action(self, state: Tensor, task: dict[str, Tensor], t: Tensor) -> Tensor:
        """Move toward the goal on each axis as far as possible, which is the nearest position at every later step."""
        return ((self.goal(task) - state) / self.step_size).clamp(-self.max_action, self.max_action)

    def references(self, tasks: Tasks) -> dict[str, npt.NDArray[np.float64]]:
        """The informed optimum in closed form, if the start is fixed.

        The axes are independent. The greedy motion is the nearest to the goal at every step, so it is optimal for
        every reward that falls with the distance. An episode with the reward "dense" ends in the window around the
        goal.
        """
        if self.goals == "corners":
            return {}
        goal = self.goal(tasks.tensors()).double().numpy()
        reach = self.max_action * self.step_size * np.arange(1, self.horizon + 1)
        left = np.maximum(np.abs(goal)[:, None, :] - reach[None, :, None], 0.0)  # [N, T, 2]
        distance = np.sqrt((left**2).sum(-1))
        if self.reward == "sparse":
            return {"informed_optimum": np.where(distance <= SPARSE_RADIUS, 1.0 - distance, 0.0).sum(1)}
        inside = (left < GOAL_WINDOW).all(-1)
        before = np.concatenate([np.zeros_like(inside[:, :1]), inside[:, :-1]], axis=1)  # steps after the end
        return {"informed_optimum": -(distance * ~before).sum(1)}

    def queries(self) -> Queries | None:
        """Steps of full size, straight away from the origin, to a lattice of points 0.1 apart; None for corners.

        They lead to the square of goals, or less than .2 off the semicircle of goals.
        """
        if self.reward == "progress" or self.goals == "corners":
            return None
        points = torch.cartesian_prod(*(torch.arange(-12, 13) / 10,) * 2)
        if self.goals == "square":
            points = points[points.abs().amax(1) <= 0.5]
        else:
            near = ((points.norm(dim=1) - 1.0).abs() < SPARSE_RADIUS) & (points[:, 1] >= 0)
            points = points[near]
        action = self.max_action * points / points.abs().amax(1, keepdim=True).clamp_min(1e-6)
        return Queries(points - self.step_size * action, action, points, torch.arange(len(points)))

    def posterior(self, seen: History) -> Tensor:
        """Equally likely goals on a fine lattice, of which those stay that are near a goal which tells all rewards.

        A goal of the lattice stays if the rewards allow a goal at most as far from it as half the lattice's distance
        (half the diagonal in the square), so the answers are exact up to this distance: .0139 in the square, .0016 on
        the semicircle.
        """
        queries = self.queries()
        assert queries is not None
        device, slack = seen.obs.device, math.pi / (2 * _ANGLES)
        angle = math.pi * (torch.arange(_ANGLES, device=device) + 0.5) / _ANGLES
        goals = torch.stack([angle.cos(), angle.sin()], -1)
        if self.goals == "square":
            axis = (torch.arange(_SIDE, device=device) + 0.5) / _SIDE - 0.5
            goals, slack = torch.cartesian_prod(axis, axis), 0.5 * math.sqrt(2.0) / _SIDE

        def told(t: int) -> Tensor:
            distance = torch.cdist(self._moved(seen.obs[t], seen.action[t]), goals, compute_mode=_EXACT)
            if self.reward == "dense":
                return -distance
            outside = (distance > SPARSE_RADIUS - slack).float() - 1.0  # 0 where no reward is possible
            return torch.where(seen.reward[t].unsqueeze(1) > 0, 1.0 - distance, outside)

        distance = torch.cdist(goals, queries.next_obs.to(device), compute_mode=_EXACT)
        answers = -distance if self.reward == "dense" else (1.0 - distance) * (distance <= SPARSE_RADIUS)
        return mean_of_possible(told, seen, answers, slack + 1e-4)

    def landmarks(self, tasks: Tasks) -> npt.NDArray[np.float32]:
        """The goals."""
        return self.goal(tasks.tensors()).numpy()

    def draw(self, axes: Axes, state: npt.NDArray[Any], task: dict[str, npt.NDArray[Any]]) -> None:
        """Draw the point (disc), the goal (star) with the area of positive rewards, and the range of goals (grey)."""
        goal = self.goal({k: torch.as_tensor(v)[None] for k, v in task.items()})[0].numpy()
        reach = max({"square": 0.8, "semicircle": 1.3, "corners": 2.6}[self.goals], 1.1 * float(np.abs(state).max()))
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        if self.goals == "square":
            axes.fill([-0.5, 0.5, 0.5, -0.5], [-0.5, -0.5, 0.5, 0.5], color="0.93")
        elif self.goals == "semicircle":
            angle = np.linspace(0.0, math.pi, 64)
            axes.plot(np.cos(angle), np.sin(angle), color="0.85", linewidth=2)
        else:
            axes.plot([-CORNER, -CORNER, CORNER, CORNER], [-CORNER, CORNER, -CORNER, CORNER], "*", color="0.8", ms=16)
        if self.reward == "progress":
            axes.fill([0, goal[0], goal[0], 0], [0, 0, goal[1], goal[1]], color="tab:orange", alpha=0.2, linewidth=0)
            axes.fill([CORNER_REST, 0, -CORNER_REST, 0], [0, CORNER_REST, 0, -CORNER_REST], color="0.9", linewidth=0)
        elif self.reward == "sparse":
            around = np.linspace(0, 2 * math.pi, 64)
            circle = goal + SPARSE_RADIUS * np.stack([np.cos(around), np.sin(around)], -1)
            axes.fill(*circle.T, color="tab:orange", alpha=0.2, linewidth=0)
        axes.plot(0.0, 0.0, "+", color="0.5", markersize=12)
        axes.plot(*goal, "*", color="tab:orange", markersize=22)
        axes.plot(*state, "o", color="tab:blue", markersize=12)
