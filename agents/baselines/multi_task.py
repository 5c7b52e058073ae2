"""Policies that do not adapt: one policy for all tasks, and one that is shown the task.

Both are trained by PPO (Schulman et al. 2017, arXiv:1707.06347) on episodes of many tasks. The first is what
meta-learning must beat. The second is the oracle policy of Finn, Abbeel and Levine (2017, arXiv:1703.03400, section 5):
it is given the task's parameters beside the observation, so it shows what a learned policy reaches if it has nothing to
find out.

    metarl train task_conditioned --family metarl/PointNavigation-v0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from metarl.agent import (
    PPO,
    Agent,
    AgentState,
    Budget,
    Family,
    FeedForward,
    ObservationEncoder,
    PolicyHead,
    PPOConfig,
    Range,
    Rng,
    Rollout,
    Step,
    TaskEncoder,
    Tasks,
    Trials,
    make_key,
    sized,
)


@dataclass(frozen=True)
class MultiTaskConfig(PPOConfig):
    """Hyperparameters of PPO on single episodes, each in its own task."""

    hidden: tuple[Annotated[int, Range(1, 1e9)], ...] = (64, 64)
    """Widths of the hidden layers of the policy and of the value."""
    learning_rate: Annotated[float, Range(0, 10)] = 1e-3
    """Learning rate of Adam."""
    gae_lambda: Annotated[float, Range(0, 1)] = 0.95
    """Lambda of generalised advantage estimation."""
    normalize_rewards: bool = True
    """Whether to divide rewards by the running standard deviation of discounted returns."""


class MultiTask(Agent[MultiTaskConfig]):
    """One policy is trained by PPO on all tasks at once. It does not adapt."""

    name = "multi_task"
    Config: ClassVar[type[Any]] = MultiTaskConfig

    def __init__(
        self, family: Family, config: MultiTaskConfig, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        config = sized(config, family.horizon)
        super().__init__(family, config, seed, device)
        self.encode = ObservationEncoder(family.observation_space, self.name)
        self.head = PolicyHead(family.action_space, self.name)
        self.encode_task = TaskEncoder(family) if self.privileged else None
        inputs = self.encode.size + (0 if self.encode_task is None else self.encode_task.size)
        rng = Rng(torch.tensor([make_key("multi_task", "init", seed)]))
        image = self.encode.image_for(config.normalize_features)
        self.net = FeedForward(self.head, inputs, tuple(config.hidden), rng, image).to(self.device)
        self.ppo = PPO(self.name, family, config, self.net, inputs)

    def begin(self, rows: int, tasks: Tasks | None = None) -> AgentState:
        """What each row is given beside the observation, `[R, features]`."""
        if self.encode_task is None:
            return {"given": torch.zeros(rows, 0, device=self.device)}
        assert tasks is not None  # all callers show a privileged agent its tasks
        return {"given": self.encode_task(tasks, self.device)}

    def act(
        self, state: AgentState, step: Step, rng: Rng, deterministic: bool
    ) -> tuple[Tensor, dict[str, Tensor], AgentState]:
        """Actions of the one policy."""
        x = self._inputs(step.obs, state["given"])
        policy = self.net.distribution(self.ppo.standardized(x))
        action = policy.mode if deterministic else policy.sample(rng)
        return action, {"log_prob": policy.log_prob(action)}, state

    def _inputs(self, obs: Tensor, given: Tensor) -> Tensor:
        """Observations `[..., R, E, *obs]` and what rows are given `[R, features]`, side by side."""
        x = self.encode(obs)
        return torch.cat([x, given.unsqueeze(1).expand(*x.shape[:-1], given.shape[-1])], -1)

    @property
    def train_env_steps(self) -> int:
        """One episode of each task."""
        return self.config.meta_batch_size * self.family.horizon

    def check_iterations(self, iterations: int) -> None:
        """Refuse more iterations than `anneal_iterations`, after which the learning rate is 0."""
        self.ppo.check_iterations(iterations)

    def train_step(self, trials: Trials) -> dict[str, float]:
        """Play an episode of each task, then PPO on them.

        Raises:
            InvalidValueError: the learning rate has fallen to 0.
        """
        self.check_iterations(self.ppo.updates + 1)
        state = self.begin(trials.rows, trials.tasks)
        rollout, _ = trials.collect(self, state, 0, Budget(envs=1, episodes=1))
        metrics = self.ppo.update(rollout, self._given(rollout, state["given"]), trials.key)
        return {"return_0": float(rollout.mean_return().mean()), **metrics}

    def _given(self, rollout: Rollout, given: Tensor) -> dict[str, Tensor]:
        """What the networks are given in training."""
        time = rollout.time[:, :, 0, None] / self.family.horizon
        return {"x": self._inputs(rollout.obs, given)[:, :, 0], "time": time}

    def tensors(self) -> dict[str, Tensor]:
        """The networks, and what PPO keeps."""
        return {f"net.{k}": v for k, v in self.net.state_dict().items()} | self.ppo.tensors()

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        self.net.load_state_dict({k.removeprefix("net."): v for k, v in tensors.items() if k.startswith("net.")})
        self.ppo.load_tensors(tensors)


class TaskConditioned(MultiTask):
    """One policy is given the task's parameters and is trained by PPO on all tasks: an oracle that must learn."""

    name = "task_conditioned"
    privileged = True
