"""VariBAD: a belief about the task is inferred at every step, and the policy acts on the observation and the belief.

Zintgraf et al. (2020, arXiv:1910.08348). A recurrent encoder gives q(z | what was seen so far), a Gaussian over a
latent vector z. It is trained by the evidence lower bound at every step of whole trials: z must explain the rewards,
and maybe the next observations, of all steps, past and future (equation 8). The policy is trained by PPO on the
observation and the belief's mean and log-variance; its gradient does not flow into the encoder.

The reward decoder is given z and a whole transition, and is trained by the squared error of the reward, as in the
authors' MuJoCo. In their GridNavi it tells from z alone, by a cross-entropy, which cells pay.

    metarl train varibad --family metarl/GridNavi-v0
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from metarl.agent import (
    PPO,
    Agent,
    AgentState,
    BeliefConfig,
    BeliefModel,
    Budget,
    Family,
    Feedback,
    FeedForward,
    HyperFeedForward,
    Queries,
    Range,
    Rng,
    Rollout,
    Step,
    Tasks,
    TrialPPOConfig,
    Trials,
    make_key,
    remaining,
    sized,
)


@dataclass(frozen=True)
class VariBADConfig(BeliefConfig, TrialPPOConfig):
    """Hyperparameters of PPO and of the belief model.

    The networks' are the paper's for GridNavi; those of PPO are our own. The authors have a clip of .05 there, 2
    epochs of 4 minibatches, a discount of .95, an entropy bonus of .01, and normalised rewards and features.
    """

    learning_rate: Annotated[float, Range(0, 10)] = 7e-4
    """Learning rate of the policy's Adam."""
    gae_lambda: Annotated[float, Range(0, 1)] = 0.95
    """Lambda of generalised advantage estimation."""
    policy_hidden: tuple[Annotated[int, Range(1, 1e9)], ...] = (32,)
    """Widths of the hidden layers of the policy and of the value."""
    anneal_model: bool = False
    """Whether the belief model's learning rate also falls to 0 over `anneal_iterations`, so that z keeps its meaning
    when the policy has settled."""
    hypernetwork: bool = False
    """Whether the belief generates the weights of the policy and of the value, which then see the observation alone,
    the value also the time (Beck et al. 2022, arXiv:2210.11348), instead of being their input."""


class VariBAD(Agent[VariBADConfig]):
    """A belief about the task, inferred at every step, and a policy trained by PPO that acts on it."""

    name = "varibad"
    Config = VariBADConfig
    is_recurrent = True
    replays = ("replay.",)

    def __init__(
        self, family: Family, config: VariBADConfig, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        config = sized(config, family.horizon)
        super().__init__(family, config, seed, device)
        rng = Rng(torch.tensor([make_key("varibad", "init", seed)]))
        self.model = BeliefModel(self.name, family, config, config.trial_episodes, rng, self.device)
        self.head = self.model.inputs.head
        self.net = self._network(rng).to(self.device)
        self.ppo = PPO(self.name, family, config, self.net, self.model.features)

    def _network(self, rng: Rng) -> FeedForward | HyperFeedForward:
        obs, features, hidden = self.model.inputs.encode.size, self.model.features, self.config.policy_hidden
        image = self.model.inputs.encode.image_for(self.config.normalize_features)
        if self.config.hypernetwork:
            return HyperFeedForward(self.head, obs, features - obs, hidden, rng, image)
        return FeedForward(self.head, features, hidden, rng, image)

    # --- acting ------------------------------------------------------------------------------------------------------

    def begin(self, rows: int, tasks: Tasks | None = None) -> AgentState:
        """The encoder's empty memory."""
        return self.model.trial_memory.begin(rows, self.device)

    def act(
        self, state: AgentState, step: Step, rng: Rng, deterministic: bool
    ) -> tuple[Tensor, dict[str, Tensor], AgentState]:
        """One step of the encoder, and an action on the observation and the belief."""
        x, state = self.model.step(state, step)
        policy = self.net.distribution(self.ppo.standardized(x))
        action = policy.mode if deterministic else policy.sample(rng)
        extras = {"log_prob": policy.log_prob(action).unsqueeze(1), "x": x.unsqueeze(1)}
        return action.unsqueeze(1), extras, state

    def observe(self, state: AgentState, feedback: Feedback, active: Tensor | None) -> AgentState:
        """Keep the encoder's memory, and what the next step is given."""
        return self.model.trial_memory.observe(state, feedback, active)

    # --- what it believes --------------------------------------------------------------------------------------------

    def belief_features(self, rollouts: Sequence[Rollout]) -> Tensor:
        """Mean and log-variance of z before each step of trials, `[T, R, 2 latent]`, as the policy was given them."""
        return torch.cat([self.model.belief_features(rollout.extras["x"]) for rollout in rollouts])

    def believed_rewards(self, rollout: Rollout, queries: Queries) -> Tensor:
        """The decoder's rewards of N transitions before each step, a mean over z of the belief: `[T, R, N]`."""
        return self.model.believed_rewards(self.belief_features([rollout]), queries)

    # --- training ----------------------------------------------------------------------------------------------------

    @property
    def train_env_steps(self) -> int:
        """Whole trials."""
        return self.config.meta_batch_size * self.config.trial_episodes * self.family.horizon

    def check_iterations(self, iterations: int) -> None:
        """Refuse more iterations than `anneal_iterations`, after which the learning rate is 0."""
        self.ppo.check_iterations(iterations)

    def train_step(self, trials: Trials) -> dict[str, float]:
        """Play whole trials, PPO on them with the beliefs that they were played with, then train the belief model.

        Raises:
            InvalidValueError: the training pass over a minibatch of trials or a gradient step of the belief model would
                not fit into memory, or the learning rate has fallen to 0.
        """
        self.check_iterations(self.ppo.updates + 1)
        self.ppo.check_memory(trials.rows, self.net.floats_kept, self.model.features)
        self.model.check_memory()
        rate = remaining(self.config, self.ppo.updates) if self.config.anneal_model else 1.0
        budget = Budget(envs=1, episodes=self.config.trial_episodes)
        rollout, _ = trials.collect(self, self.begin(trials.rows), 0, budget, final_obs=True)
        x = rollout.extras["x"][:, :, 0]
        time = torch.linspace(0.0, 1.0, len(x), device=self.device).view(-1, 1, 1).expand(-1, x.shape[1], 1)
        metrics = self.ppo.update(rollout, {"x": x, "time": time}, trials.key)
        self.model.replay.add(self.model.kept(rollout))
        metrics |= self.model.fit(trials.key, rate)
        total = float((rollout.reward * rollout.valid).sum((0, 2)).double().mean())
        return {"trial_return": total, "episode_return": total / self.config.trial_episodes, **metrics}

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """The networks, what PPO keeps, and the replay."""
        policy = {f"net.{k}": v for k, v in self.net.state_dict().items()}
        return self.model.tensors() | policy | self.ppo.tensors()

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        self.model.load_tensors(tensors)
        self.net.load_state_dict({k.removeprefix("net."): v for k, v in tensors.items() if k.startswith("net.")})
        self.ppo.load_tensors(tensors)
