"""metarl's agents under the evaluation of the package metaworld, so that its numbers judge ours.

    agent = metarl.interop.meta_world.as_metaworld_agent(metarl.load("runs/reach0"))
    envs = metaworld.make_ml_envs("reach-v3", seed=0, meta_batch_size=20, split="test")
    success, mean_return, by_task = metaworld.evaluation.metalearning_evaluation(agent, envs)

`metaworld.evaluation` 3.1.1 (McLean et al. 2025, arXiv:2505.11289) plays `adaptation_episodes` episodes in each of its
environments, calls `adapt`, and does so `adaptation_steps` times. Then it plays episodes that end at their first
success. It counts the first `evaluation_episodes` that end in all environments of a name together, so an environment
that ends early may be counted twice and raise the rate; metarl's own evaluation plays each task equally often.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from metarl.agent_base import Agent, AgentState, Feedback, Rollout, Step
from metarl.engine.rollout import action_rng, environment_keys
from metarl.errors import InvalidValueError
from metarl.rng import make_key

Floats = npt.NDArray[np.float64]


def as_metaworld_agent(agent: Agent, *, deterministic: bool = True, seed: int = 0) -> MetaWorldAgent:
    """An agent in the form that `metaworld.evaluation.metalearning_evaluation` takes.

    Args:
        agent: of a family with Meta-World's observations and actions.
        deterministic: whether evaluation episodes take the mean action. While adapting, actions are sampled.
        seed: of sampled actions.

    Raises:
        InvalidValueError: the agent is privileged; or it has a memory, which needs the rewards of evaluation episodes,
            and the package does not show them; or it adapts only in environments of its own.
    """
    if agent.privileged:
        raise InvalidValueError("agent", agent.name, "an agent that is not shown the task")
    if agent.is_recurrent:
        expected = "one without a memory, because the package shows no rewards in evaluation episodes"
        raise InvalidValueError("agent", agent.name, expected)
    if type(agent).interact is not Agent.interact and type(agent).adapt is Agent.adapt:
        raise InvalidValueError("agent", agent.name, "one that adapts by `adapt`, not in environments of its own")
    return MetaWorldAgent(agent, deterministic, seed)


class MetaWorldAgent:
    """The package's protocol `MetaLearningAgent`. Each environment of the package is a row: one task, one environment.

    Attributes:
        agent: the agent.
        deterministic: whether evaluation episodes take the mean action.
        state: the agent's state, tensors `[R, ...]`; None before the first action.
    """

    def __init__(self, agent: Agent, deterministic: bool, seed: int) -> None:
        self.agent, self.deterministic, self.seed = agent, deterministic, seed
        self.state: AgentState | None = None
        self.trials = 0
        self._begin()

    def _begin(self) -> None:
        self.state, self.adaptation_steps = None, 0
        self._clear()

    def _clear(self) -> None:
        self._obs: list[Tensor] = []
        self._feedback: list[Feedback] = []
        self._extras: list[dict[str, Tensor]] = []
        self._time = 0

    def init(self) -> None:
        """Begin new trials: the package has drawn new tasks."""
        self.trials += 1
        self._begin()

    @torch.no_grad()
    def _act(self, observations: Floats, deterministic: bool) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        obs = torch.as_tensor(observations, dtype=torch.float32, device=self.agent.device)[:, None]  # [R, E=1, *obs]
        if self.state is None:
            self.state = self.agent.begin(len(obs))
        rows = [make_key("metaworld", self.seed, self.trials, row) for row in range(len(obs))]
        keys = environment_keys(
            torch.tensor(rows, device=obs.device), self.adaptation_steps, 1, deterministic=deterministic
        )
        rng = action_rng(keys, 1).seek(self._time)
        action, extras, self.state = self.agent.act(self.state, Step(obs, None), rng, deterministic)
        self._time += 1
        return action, extras, obs

    def _to_env(self, action: Tensor) -> Floats:
        return self.agent.to_env(action.flatten(0, 1)).cpu().numpy().astype(np.float64)

    def adapt_action(self, observations: Floats) -> tuple[Floats, dict[str, npt.NDArray[Any]]]:
        """Sampled actions `[R, 4]` for observations `[R, 39]`; no further outputs."""
        action, extras, obs = self._act(observations, deterministic=False)
        self._obs.append(obs)
        self._extras.append(extras)
        self._action = action
        return self._to_env(action), {}

    def step(self, timestep: Any) -> None:
        """Take the outcome of the last actions, a `metaworld.evaluation.Timestep`."""
        reward, terminated, truncated = (
            torch.as_tensor(np.asarray(values, dtype), device=self.agent.device)[:, None]
            for values, dtype in (
                (timestep.reward, np.float32),
                (timestep.terminated, np.bool_),
                (timestep.truncated, np.bool_),
            )
        )
        self._feedback.append(Feedback(self._action, reward, terminated, truncated))

    def adapt(self) -> None:
        """Adapt to what was played since the last call."""
        assert self.state is not None
        feedback = Feedback(*(torch.stack(values) for values in zip(*self._feedback, strict=True)))
        rollout = Rollout(
            obs=torch.stack(self._obs),
            **feedback._asdict(),
            valid=torch.ones_like(feedback.terminated),
            last_obs=self._obs[-1],  # every episode has ended, so no return is cut off
            extras={name: torch.stack([extras[name] for extras in self._extras]) for name in self._extras[0]},
        )
        self.state = self.agent.adapt(self.state, rollout)
        self.adaptation_steps += 1
        self._clear()

    def eval_action(self, observations: Floats) -> Floats:
        """Actions `[R, 4]` of evaluation episodes for observations `[R, 39]`."""
        return self._to_env(self._act(observations, self.deterministic)[0])

    def reset(self, env_mask: npt.NDArray[np.bool_]) -> None:
        """An episode of these environments has ended: nothing to do without a memory."""
