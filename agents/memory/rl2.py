"""RL2: a recurrent policy whose memory is what it has learned about the task.

Duan et al. (2016, arXiv:1611.02779) and Wang et al. (2016, arXiv:1611.05763). At every step the network is given the
observation, the previous action, the previous reward and whether an episode just ended. Its memory lives for a whole
trial, several episodes in one task: it is kept across episode boundaries, and only a trial's start clears it. Returns
and advantages likewise run through a trial's episodes and stop at its end, where nothing follows. It is trained by PPO
(Schulman et al. 2017, arXiv:1707.06347), back through the whole trial. The memory is a GRU, an LSTM, or a causal
transformer (`metarl.learning.memory`).

    metarl train rl2 --family metarl/BernoulliBandit-v0
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from metarl.agent import (
    PPO,
    Agent,
    AgentState,
    AuxiliaryLoss,
    Budget,
    Family,
    Feedback,
    InvalidValueError,
    Range,
    Rng,
    Rollout,
    Step,
    TaskEncoder,
    Tasks,
    TrialInputs,
    TrialMemory,
    TrialPPOConfig,
    Trials,
    make_key,
    sized,
)
from metarl.agents.memory.rl2_network import RL2Network


@dataclass(frozen=True)
class RL2Config(TrialPPOConfig):
    """Hyperparameters; the paper's where it gives them.

    The defaults suit short trials. Trials of 100 steps or more are learned better with `normalize_rewards`, a
    `gae_lambda` of .8 to .95, an `entropy_coef` of .01 to .05 and above all `reward_coef`; in MDPs a transformer is
    also better. If the simulator knows the task, training can use this knowledge: set `expected_rewards`,
    `value_sees_task` and `task_coef`, with a `gae_lambda` of .99 (experiments/LOG.md; docs/trials.md has the settings
    of every published row).
    """

    memory: Literal["gru", "lstm", "transformer"] = "gru"
    """"gru", "lstm" or "transformer" (which looks back one trial of training)."""
    hidden: Annotated[int, Range(1, 1024)] = 128
    """Units of the memory (the paper: 256)."""
    hypernetwork: bool = False
    """Whether the memory generates the weights of the policy and of the value, networks with a hidden layer of 32 units
    (the paper: two) on the observation (Beck et al. 2022, arXiv:2210.11348), instead of being the input of linear
    heads. With `value_sees_task` only those of the policy."""
    separate_value: bool = False
    """A value network with a memory of its own (the paper has one), instead of a second head on the policy's."""
    reward_coef: Annotated[float, Range(0, 1e3)] = 0.0
    """Weight of an auxiliary task, the squared error of each step's reward predicted from the memory and the action: it
    teaches a memory to remember which action gave which reward. 0: no such task."""
    task_coef: Annotated[float, Range(0, 1e3)] = 0.0
    """Weight of an auxiliary task, the squared error of the task's standardised parameters inferred from the memory
    (Humplik et al. 2019, arXiv:1905.06424): it is smallest at the posterior mean, so the memory must keep the evidence,
    also of actions no longer taken. 0: no such task."""
    value_sees_task: bool = False
    """The value is also given the task's parameters, in training alone (an asymmetric actor-critic, Pinto et al. 2018,
    arXiv:1710.06542): the value explains how good the task is, so advantages measure the action
    alone."""


class RL2(Agent[RL2Config]):
    """A recurrent policy, trained by PPO, that learns about its task through the episodes of a trial."""

    name = "rl2"
    Config = RL2Config
    is_recurrent = True
    capturable = True

    def __init__(self, family: Family, config: RL2Config, seed: int = 0, device: torch.device | str = "cpu") -> None:
        config = sized(config, family.horizon)
        super().__init__(family, config, seed, device)
        if config.memory == "transformer":
            Range(1, 512).check("rl2.hidden", config.hidden, whole=True)
        inputs = TrialInputs(family, self.name)
        self.encode_task = TaskEncoder(family) if config.value_sees_task or config.task_coef else None
        self.net = self._network(inputs, Rng(torch.tensor([make_key("rl2", "init", seed)])))
        losses = [
            AuxiliaryLoss("reward", config.reward_coef, self.net.reward_errors),
            AuxiliaryLoss("task", config.task_coef, self.net.task_errors),
        ]
        self.ppo = PPO(self.name, family, config, self.net, inputs.size, losses)
        self.head, self.trial_memory = inputs.head, TrialMemory(inputs, self.net.memory, self.ppo.standardized)

    def _network(self, inputs: TrialInputs, rng: Rng) -> RL2Network:
        config, task = self.config, 0 if self.encode_task is None else self.encode_task.size
        with torch.device("meta"):  # PyTorch's own initialisation would draw from its global generator
            net = RL2Network(
                inputs.head,
                inputs.size,
                config.memory,
                config.hidden,
                config.trial_episodes * self.family.horizon,
                separate_value=config.separate_value,
                task=task if config.value_sees_task else 0,
                inferred=task if config.task_coef else 0,
                rewarded=config.reward_coef > 0,
                generated=inputs.encode.size if config.hypernetwork else 0,
                image=inputs.encode.image_for(config.normalize_features),
            )
        net.to_empty(device="cpu")
        net.initialise(rng)
        return net.to(self.device)

    # --- acting ------------------------------------------------------------------------------------------------------

    def begin(self, rows: int, tasks: Tasks | None = None) -> AgentState:
        """Empty memory; previous action and reward 0; end flag 1, because a trial starts where an episode starts."""
        return self.trial_memory.begin(rows, self.device)

    def act(
        self, state: AgentState, step: Step, rng: Rng, deterministic: bool
    ) -> tuple[Tensor, dict[str, Tensor], AgentState]:
        """One step of the memory. The new memory is kept in `new.*` until `observe` commits it."""
        x = self.trial_memory.given(state, step) if self.config.hypernetwork else step.obs  # linear heads ignore it
        h, state = self.trial_memory.step(state, step)
        policy = self.net.distribution(h, x)
        action = policy.mode if deterministic else policy.sample(rng)
        extras = {"log_prob": policy.log_prob(action).unsqueeze(1)}
        if self.net.critic is None and not self.config.value_sees_task:
            extras["value"] = self.net.value_of(h, x).unsqueeze(1)
        return action.unsqueeze(1), extras, state

    def observe(self, state: AgentState, feedback: Feedback, active: Tensor | None) -> AgentState:
        """Keep the memory, and what the next step is given."""
        return self.trial_memory.observe(state, feedback, active)

    # --- what it believes --------------------------------------------------------------------------------------------

    def belief_features(self, rollouts: Sequence[Rollout]) -> Tensor:
        """What the memory holds at each step of trials, `[T, R, hidden]`: the steps before it, and what it shows."""
        return self.trial_memory.relived(self.begin(rollouts[0].reward.shape[1]), rollouts, self.observe)

    # --- training ----------------------------------------------------------------------------------------------------

    @property
    def train_env_steps(self) -> int:
        """Whole trials."""
        return self.config.meta_batch_size * self.config.trial_episodes * self.family.horizon

    def check_iterations(self, iterations: int) -> None:
        """Refuse more iterations than `anneal_iterations`, after which the learning rate is 0."""
        self.ppo.check_iterations(iterations)

    def train_step(self, trials: Trials) -> dict[str, float]:
        """Play whole trials, then PPO on them.

        Raises:
            InvalidValueError: the training pass over a minibatch of trials would not fit into memory, or the learning
                rate has fallen to 0.
        """
        self.check_iterations(self.ppo.updates + 1)
        self.ppo.check_memory(trials.rows, self.net.floats_kept, self.trial_memory.inputs.size)
        episodes = self.config.trial_episodes
        rollout, _ = trials.collect(self, self.begin(trials.rows), 0, Budget(envs=1, episodes=episodes))
        metrics = self.ppo.update(rollout, self.given(rollout, trials.tasks), trials.key)
        total = float((rollout.reward * rollout.valid).sum((0, 2)).double().mean())
        return {"trial_return": total, "episode_return": total / episodes, **metrics}  # all episodes are whole

    def given(self, rollout: Rollout, tasks: Tasks | None) -> dict[str, Tensor]:
        """What the network is given in training: `x`, its inputs `[T, R, inputs]`, and maybe `task` `[1, R, task]`."""
        if self.encode_task is None:
            return {"x": self.trial_memory.inputs.of(rollout)}
        if tasks is None:
            raise InvalidValueError("tasks", None, "those of the trials, because rl2 learns from them here")
        return {"x": self.trial_memory.inputs.of(rollout), "task": self.encode_task(tasks, self.device).unsqueeze(0)}

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """The network, and what PPO keeps."""
        return {f"net.{k}": v for k, v in self.net.state_dict().items()} | self.ppo.tensors()

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        self.net.load_state_dict({k.removeprefix("net."): v for k, v in tensors.items() if k.startswith("net.")})
        self.ppo.load_tensors(tensors)
