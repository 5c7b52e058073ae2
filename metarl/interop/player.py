"""An agent in your own loop over one environment.

agent = metarl.load("runs/nav0")
player = metarl.Player(agent, task=3, k=2)          # adapts to test task 3 first
env = gymnasium.make(agent.family.id, task=3, split="test")
obs, _ = env.reset(seed=0)
obs, reward, terminated, truncated, _ = env.step(player.act(obs))
player.observe(reward, terminated, truncated)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from metarl.agent_base import Agent, Feedback, Step
from metarl.engine.rollout import check_observe
from metarl.errors import InvalidValueError
from metarl.evaluation.adaptation import adapted_state
from metarl.families.tasks import TaskLike
from metarl.rng import Rng, make_key


def as_batch(agent: Agent, obs: object) -> Tensor:
    """One observation as the tensor that `act` takes, `[R=1, E=1, *obs]`.

    It may also be one that a user's environment gives, before the family's wrappers.

    Raises:
        InvalidValueError: it has another shape than the family's observations, or numbers that are not finite.
    """
    found = np.asarray(agent.family.as_seen(obs))
    if found.shape != (expected := agent.family.observation_space.shape):
        raise InvalidValueError("shape of the observation", found.shape, f"{expected}")
    batch = torch.as_tensor(found, device=agent.device)[None, None]
    if not bool(torch.isfinite(batch).all()):
        raise InvalidValueError("observation", obs, "finite numbers")
    return batch.float() if batch.is_floating_point() else batch


def as_env_action(agent: Agent, action: Tensor) -> npt.NDArray[Any]:
    """The action `[R=1, E=1, *action]` of an agent in the form that the environment's `step` takes."""
    space = agent.family.action_space
    chosen = agent.to_env(action.flatten(0, 1))[0].cpu().numpy().astype(space.dtype)
    return np.asarray(chosen + space.start if isinstance(space, Discrete) else chosen)


def as_feedback(action: Tensor, reward: float, terminated: bool, truncated: bool) -> Feedback:
    """What `observe` takes, each `[R=1, E=1, ...]`."""
    values = (float(reward), bool(terminated), bool(truncated))
    return Feedback(action, *(torch.tensor([[value]], device=action.device) for value in values))


class Player:
    """An agent after k adaptation steps in a task. It acts on observations and takes feedback on its actions.

    Args:
        agent: the agent that plays. A privileged agent is refused, because nothing shows it the task here.
        task: number of a task of (split, task_seed), the values of one task as a dict, or a `Tasks` of one task.
        k: adaptation steps before the first action.
        deterministic: whether to take the mean or likeliest action; False samples actions.
        split: the split of a task that is given by its number.
        task_seed: the seed of that split.
        seed: the seed of the adaptation steps and of sampled actions.

    Attributes:
        state: the agent's state, tensors `[1, ...]`.

    Raises:
        InvalidValueError: the agent is privileged, k is negative, or `task` is not one task of the agent's family.
    """

    def __init__(
        self,
        agent: Agent,
        task: TaskLike = 0,
        k: int = 0,
        *,
        deterministic: bool = True,
        split: str = "test",
        task_seed: int = 0,
        seed: int = 0,
    ) -> None:
        if agent.privileged:
            raise InvalidValueError("agent", agent.name, "an agent that is not shown the task")
        check_observe(agent)
        self.agent, self.deterministic = agent, deterministic
        self.state = adapted_state(agent, task, k, split=split, task_seed=task_seed, seed=seed)
        self._key, self._steps = torch.tensor([make_key("player", seed)], device=agent.device), 0
        self._action: Tensor | None = None  # the last action, until `observe` gives its feedback

    @torch.no_grad()
    def act(self, obs: object) -> npt.NDArray[Any]:
        """Choose the action for one observation, in the form that the environment's `step` takes.

        Raises:
            InvalidValueError: a recurrent agent did not get the feedback on its last action, or the observation is
                wrong.
        """
        agent = self.agent
        if agent.is_recurrent and self._action is not None:
            raise InvalidValueError(
                "act", agent.name, "a call of observe(reward, terminated, truncated) after each step"
            )
        rng = Rng(self._key, 1 << 30).seek(self._steps)
        step = Step(as_batch(agent, obs), None)
        self._action, _, self.state = agent.act(self.state, step, rng, self.deterministic)
        self._steps += 1
        return as_env_action(agent, self._action)

    @torch.no_grad()
    def observe(self, reward: float, terminated: bool, truncated: bool) -> None:
        """Give the agent the feedback on the last action; only recurrent agents need it.

        Raises:
            InvalidValueError: `act` was not called before.
        """
        if self._action is None:
            raise InvalidValueError("observe", self.agent.name, "a call of act(obs) first")
        if self.agent.is_recurrent:
            feedback = as_feedback(self._action, reward, terminated, truncated)
            self.state = self.agent.observe(self.state, feedback, None)
        self._action = None
