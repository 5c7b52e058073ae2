"""PEARL: z is drawn from a belief about the task and kept for an episode, and an off-policy actor-critic is given it.

Rakelly et al. (2019, arXiv:1903.08254), algorithms 1 and 2. The belief is a product of Gaussian factors, one for each
transition seen in the task. An episode is played with z drawn from the belief before it, at first from the standard
normal distribution: posterior sampling over tasks. The encoder is trained by the critics' loss and the KL to the
standard normal distribution; no gradient of the policy or of the targets flows into it.

The authors' code plays the same 100 or so train tasks again and again. Families here have any number of tasks: each
meta-update plays new ones, and training draws from the transitions of the last `replay_tasks`. With 100 of them and 5
new ones per meta-update, a context is at most 20 meta-updates old; in the authors' code 20 is the mean. The authors
also train a value network and regularise the policy's outputs; here the critics have targets of their own, as in later
versions of soft actor-critic, and nothing is regularised. In the deterministic mode z is drawn too, as in the authors'
evaluation, because z alone explores; the actions are the policy's mode.

Like the authors' sparse point robot, with `--discount .9 --temperature .01` besides (theirs has contexts of 1,024
transitions, 10 tasks a gradient step and 1,000 gradient steps):

    metarl train pearl --family metarl/PointNavigation-v0:semicircle --dense-reward --posterior-context --kl-coef .0016
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from metarl.agent import (
    Agent,
    AgentState,
    Belief,
    ContextConfig,
    ContextInputs,
    ContextSAC,
    Factors,
    Family,
    ProductEncoder,
    Range,
    Rng,
    Rollout,
    Step,
    Tasks,
    Trials,
    context_features,
    fold_in,
    make_key,
)

_Z = make_key("pearl", "z")


@dataclass(frozen=True)
class PEARLConfig(ContextConfig):
    """Hyperparameters of the belief, of the replay and of soft actor-critic; the authors' but where they say otherwise.

    The authors scale rewards by 5 (sparse point robot: 100) and have a temperature of 1; here rewards are as they are.
    """

    kl_coef: Annotated[float, Range(0, 1e3)] = 0.064
    """Weight of the mean KL of a belief to the standard normal distribution (the authors' .1 times the sum over 16
    tasks, with squared errors 25 times as large)."""


class PEARL(Agent[PEARLConfig]):
    """Posterior sampling over tasks: z is drawn from a belief for each episode, and soft actor-critic is given it."""

    name = "pearl"
    Config = PEARLConfig
    replays = ("replay.", "context.")

    def __init__(self, family: Family, config: PEARLConfig, seed: int = 0, device: torch.device | str = "cpu") -> None:
        config = config.for_horizon(family.horizon)
        super().__init__(family, config, seed, device)
        self.inputs = ContextInputs(family, self.name, config.next_obs_in_context)
        self.head = self.inputs.head
        rng = Rng(torch.tensor([make_key("pearl", "init", seed)]))
        image = self.inputs.encode.image
        encoder = ProductEncoder(self.inputs.size, config.encoder_hidden, config.latent, rng, image)
        self.encoder = encoder.to(self.device)
        self.learner = ContextSAC(self.name, family, self.inputs, config, rng, self.device, self.encoder)

    # --- acting and adapting -----------------------------------------------------------------------------------------

    def begin(self, rows: int, tasks: Tasks | None = None) -> AgentState:
        """No factors: the belief is the prior."""
        none = torch.zeros(rows, self.config.latent, device=self.device)
        return Factors(none, none.clone())._asdict()

    def act(
        self, state: AgentState, step: Step, rng: Rng, deterministic: bool
    ) -> tuple[Tensor, dict[str, Tensor], AgentState]:
        """An action on the observation and z, which is drawn from the belief once for each environment of a rollout."""
        belief = Factors(**state).belief
        rows, envs = step.obs.shape[:2]
        mean, log_var = (v.unsqueeze(1).expand(-1, envs, -1) for v in belief)
        # the environment's key alone decides the draw, so z stays the same at all steps
        noise = Rng(fold_in(rng.keys, _Z)).normal(self.config.latent).view(rows, envs, -1)
        policy = self.learner.policy(step.obs, Belief(mean, log_var).sample(noise))
        return policy.mode if deterministic else policy.sample(rng), {}, state

    def interact(self, state: AgentState, trials: Trials, adaptation_step: int) -> tuple[Rollout, AgentState]:
        """Play an episode with z from the belief, then adapt."""
        rollout, state = trials.collect(self, state, adaptation_step, self.budget, final_obs=True)
        return rollout, self.adapt(state, rollout)

    @torch.no_grad()
    def adapt(self, state: AgentState, rollout: Rollout) -> AgentState:
        """The belief times the factors of all transitions of the rollout."""
        return Factors(**state).times(self.encoder(*self.inputs.of(rollout)))._asdict()

    # --- what it believes --------------------------------------------------------------------------------------------

    def belief_features(self, rollouts: Sequence[Rollout]) -> Tensor:
        """Mean and log-variance of the belief before each step of trials, `[T, R, 2 latent]`.

        It is that of all transitions so far; z is drawn from that of the episodes before alone.
        """
        start = self.begin(rollouts[0].reward.shape[1])
        return context_features(
            start,
            rollouts,
            lambda rollout: self.encoder.each(*self.inputs.of(rollout))._asdict(),
            lambda state: torch.cat(Factors(**state).belief, -1),
        )

    # --- training ----------------------------------------------------------------------------------------------------

    @property
    def train_env_steps(self) -> int:
        """Whole episodes."""
        return self.learner.env_steps

    def train_step(self, trials: Trials) -> dict[str, float]:
        """Algorithm 1: play new tasks with z from the prior and from the posterior, then train on those that are kept.

        The returns are those of both kinds of episodes.
        """
        return self.learner.train_step(self, trials, lambda context: self.encoder(context)._asdict(), self.update)

    def update(self, key: int, places: Tensor) -> dict[str, Tensor]:
        """A gradient step on a batch of tasks, each with one z for all of its transitions."""
        config = self.config
        belief = self.encoder(self.learner.sample_context(places, key)).belief
        noise = Rng(fold_in(make_key(key, "z"), torch.arange(len(places), device=self.device))).normal(config.latent)
        z = belief.sample(noise)
        kl = belief.kl(Belief(torch.zeros_like(z), torch.zeros_like(z))).mean()
        metrics = self.learner.update(key, places, z, config.kl_coef * kl)
        return metrics | {"belief_kl": kl.detach()}

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """The networks, what trains them, and the transitions."""
        return self.learner.tensors()

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        self.learner.load_tensors(tensors)
