"""2-D navigation stepped the plain way: for each task a network of its own and a Gymnasium vector environment.

The style of codebases such as pytorch-maml-rl (Deleu 2018): numpy environments, one policy call per task and step.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor, nn

MAX_ACTION = 0.1
GOAL_WINDOW = 0.01
ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh}
Array = npt.NDArray[Any]


class PointNavigation(gym.Env[Array, Array]):
    """`metarl/PointNavigation-v0` in numpy (Finn, Abbeel and Levine 2017, arXiv:1703.03400, section 5.3).

    Observation: the position, `[2]`. Action: a displacement, clipped to +-.1. Reward: minus the distance to the goal.
    Start: the origin. End: terminated within .01 of the goal on both axes, truncated after `horizon` steps.
    """

    observation_space = Box(-np.inf, np.inf, (2,), np.float32)
    action_space = Box(-MAX_ACTION, MAX_ACTION, (2,), np.float32)

    def __init__(self, goal: Array, horizon: int = 100) -> None:
        self.goal, self.horizon = np.asarray(goal, dtype=np.float32), horizon

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """To the origin."""
        super().reset(seed=seed)
        self.x, self.t = np.zeros(2, dtype=np.float32), 0
        return self.x, {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Move; reward by the position that was reached."""
        self.x = self.x + np.clip(action, -MAX_ACTION, MAX_ACTION)
        self.t += 1
        dx, dy = self.x - self.goal
        terminated = bool(abs(dx) < GOAL_WINDOW and abs(dy) < GOAL_WINDOW)
        return self.x, -float(np.sqrt(dx * dx + dy * dy)), terminated, self.t >= self.horizon and not terminated, {}


def vector_env(goal: Array, count: int) -> SyncVectorEnv:
    """`count` environments of one task; a finished one restarts in the same step, as metarl's environments do."""
    return SyncVectorEnv([lambda: PointNavigation(goal)] * count, autoreset_mode=AutoresetMode.SAME_STEP)


def network(theta: dict[str, Tensor], activation: str) -> nn.Sequential:
    """A policy's mean as a module of its own, with MAML's parameters `w{i}` `[in, out]` and `b{i}` `[out]`."""
    layers: list[nn.Module] = []
    for i in range(sum(name.startswith("w") for name in theta)):
        w = theta[f"w{i}"].cpu()
        layer = nn.utils.skip_init(nn.Linear, *w.shape)
        layer.load_state_dict({"weight": w.T, "bias": theta[f"b{i}"].cpu()})
        layers += [layer, ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


@torch.no_grad()
def rollout(
    envs: SyncVectorEnv, net: nn.Module, log_std: Tensor, steps: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Play one task: `obs` and `action` `[T, E, 2]`, `reward` and `ended` `[T, E]`.

    Args:
        envs: E environments of the task.
        net: from observations to means in [-1, 1].
        log_std: of the actions, `[2]`.
        steps: T.
        generator: of the actions' noise.
    """
    obs, _ = envs.reset()
    std, seen = log_std.exp(), []
    for _ in range(steps):
        x = torch.from_numpy(obs)
        mean = net(x)
        action = mean + std * torch.randn(mean.shape, generator=generator)
        obs, reward, terminated, truncated, _ = envs.step(MAX_ACTION * action.clamp(-1.0, 1.0).numpy())
        seen.append((x, action, torch.from_numpy(reward), torch.from_numpy(terminated | truncated)))
    columns = (torch.stack(column) for column in zip(*seen, strict=True))
    return dict(zip(("obs", "action", "reward", "ended"), columns, strict=True))
