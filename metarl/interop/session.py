"""An agent on a system of your own, which adapts on the way: one observation and one reward at a time.

session = metarl.Session(metarl.load("runs/nav0"))
action = session.reset(obs)                                      # an episode begins
action = session.step(reward, obs, terminated, truncated)        # None after the end of the episode
"""

from __future__ import annotations

import math
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from metarl.agent_base import Agent, Feedback, Rollout, Step
from metarl.engine.rollout import action_rng, check_observe, environment_keys
from metarl.errors import InvalidValueError
from metarl.interop.player import as_batch, as_env_action, as_feedback
from metarl.rng import make_key


class Session:
    """A trial of an agent in one task of a system that metarl does not step.

    An agent with a memory updates it at every step. A gradient-based agent collects the budget of an adaptation step,
    `budget.envs` times as many steps or episodes in the one environment, and then adapts. If the budget ends within an
    episode, the agent goes on with the adapted policy, and the next adaptation step begins with the next episode.

    Args:
        agent: the agent. A privileged agent is refused, because nothing shows it the task.
        deterministic: whether to take the mean or likeliest action; False samples actions, as in training.
        seed: the seed of sampled actions.

    Attributes:
        state: the agent's state, tensors `[1, ...]`.
        adaptation_steps: number of adaptation steps taken.
        adapts: whether further adaptation steps are taken. With False, a memory is still updated. It takes effect with
            the next episode.
        deterministic: as the argument; it may be changed at any time.

    Raises:
        InvalidValueError: the agent is privileged, or adapts only in environments of its own.
    """

    def __init__(self, agent: Agent, *, deterministic: bool = False, seed: int = 0) -> None:
        _check(agent)
        self.agent, self.deterministic, self.adapts = agent, deterministic, True
        self.state = agent.begin(1)
        self.adaptation_steps = 0
        self.keys = torch.tensor([make_key("session", seed)], device=agent.device)  # of the trial
        self._steps: list[_Stored] = []  # of the present adaptation step
        self._time = 0  # steps since the last adaptation step
        self._is_collecting = False
        self._last: tuple[Tensor, Tensor, dict[str, Tensor]] | None = None  # observation, action, extras of `act`

    def reset(self, obs: object) -> npt.NDArray[Any]:
        """Begin an episode with its first observation.

        Returns:
            The first action, in the form that the environment's `step` takes.

        Raises:
            InvalidValueError: the last episode has not ended, or the observation is wrong.
        """
        if self._last is not None:
            expected = "a call of step with terminated or truncated True first, which ends the episode"
            raise InvalidValueError("reset", self.agent.name, expected)
        self._is_collecting = self.adapts
        return self._act(obs)

    def step(
        self, reward: float, obs: object, terminated: bool = False, truncated: bool = False
    ) -> npt.NDArray[Any] | None:
        """Take the outcome of the last action, learn from it, and choose the next action.

        Args:
            reward: reward of the last action.
            obs: the observation after it.
            terminated: whether the task ended the episode with it.
            truncated: whether the episode was cut off after it.

        Returns:
            The next action; None after the end of an episode, when `reset` begins the next one.

        Raises:
            InvalidValueError: no episode was begun, or the reward or the observation is wrong.
        """
        if self._last is None:
            raise InvalidValueError("step", self.agent.name, "a call of reset(obs) first")
        if not math.isfinite(reward):
            raise InvalidValueError("reward", reward, "a finite number")
        batch = as_batch(self.agent, obs)
        before, action, extras = self._last
        feedback = as_feedback(action, reward, terminated, truncated)
        self._last = None
        if self.agent.is_recurrent:
            with torch.no_grad():
                self.state = self.agent.observe(self.state, feedback, None)
        self._time += 1
        if self._is_collecting:
            self._steps.append((before, feedback, extras))
            if self._is_full():
                self._adapt(batch)
        return None if terminated or truncated else self._act(obs)

    @torch.no_grad()
    def _act(self, obs: object) -> npt.NDArray[Any]:
        batch = as_batch(self.agent, obs)
        keys = environment_keys(self.keys, self.adaptation_steps, 1, deterministic=self.deterministic)
        rng = action_rng(keys, 1).seek(self._time)
        action, extras, self.state = self.agent.act(self.state, Step(batch, None), rng, self.deterministic)
        self._last = batch, action, extras
        return as_env_action(self.agent, action)

    def _is_full(self) -> bool:
        """Whether the budget of an adaptation step was played."""
        budget = self.agent.budget
        if budget.steps is not None:
            return len(self._steps) >= budget.envs * budget.steps
        ended = sum(bool(feedback.terminated | feedback.truncated) for _, feedback, _ in self._steps)
        return ended >= budget.envs * (budget.episodes or 1)

    def _adapt(self, last_obs: Tensor) -> None:
        self.state = self.agent.adapt(self.state, _rollout(self._steps, last_obs))
        self.adaptation_steps += 1
        self._steps, self._time, self._is_collecting = [], 0, False


_Stored = tuple[Tensor, Feedback, dict[str, Tensor]]  # observation, feedback, extras of a step


def _rollout(steps: list[_Stored], last_obs: Tensor) -> Rollout:
    """The rollout `[T, R=1, E=1, ...]` of single steps."""
    feedback = Feedback(*(torch.stack(values) for values in zip(*(f for _, f, _ in steps), strict=True)))
    return Rollout(
        obs=torch.stack([obs for obs, _, _ in steps]),
        **feedback._asdict(),
        valid=torch.ones_like(feedback.terminated),
        last_obs=last_obs,
        extras={name: torch.stack([extras[name] for _, _, extras in steps]) for name in steps[0][2]},
    )


def _check(agent: Agent) -> None:
    """Refuse agents that cannot be played without metarl's environments."""
    if agent.privileged:
        raise InvalidValueError("agent", agent.name, "an agent that is not shown the task")
    cls = type(agent)
    if cls.interact is not Agent.interact and cls.adapt is Agent.adapt:
        expected = "one that adapts by `adapt` or by a memory, and not in environments of its own"
        raise InvalidValueError("agent", agent.name, expected)
    check_observe(agent)
