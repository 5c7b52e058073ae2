"""FOCAL: a task's embedding is trained by distances alone, and an off-policy actor-critic is given it.

Li et al. (2021, arXiv:2010.01112). An embedding is the mean over the transitions seen in the task of what a bounded
encoder makes of them, so it is deterministic. The encoder is trained to draw contexts of one task together and to push
those of different tasks apart; no gradient of the critics or of the policy flows into it. Before the first transition
the embedding is 0, the middle of its range: the first episode explores by the policy's own randomness alone.

The authors learn from given data, with a penalty that keeps the policy near them. Here the data are the agent's own, as
in `pearl`, so there is no penalty. In the authors' code two contexts are of one task if a batch happens to draw the
task twice; here each task of a batch has two contexts.

    metarl train focal --family metarl/PointNavigation-v0 --discount .9 --temperature .01
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
    ContextConfig,
    ContextInputs,
    ContextSAC,
    Distance,
    EmbeddingSum,
    Family,
    MeanEncoder,
    Range,
    Rng,
    Rollout,
    Step,
    Tasks,
    Trials,
    context_features,
    make_key,
    metric_loss,
)


@dataclass(frozen=True)
class FOCALConfig(ContextConfig):
    """Hyperparameters of the embedding, those of the authors, and of the rest, those of PEARL.

    The weight of the metric loss is not one of them: it alone trains the encoder, and Adam ignores a loss's scale.
    """

    latent: Annotated[int, Range(1, 1024)] = 20
    """Size of the embedding (the authors: 5 in the sparse point robot)."""
    distance: Distance = "euclidean"
    """What the metric loss measures: mean squared differences, or angles ("cosine")."""


class FOCAL(Agent[FOCALConfig]):
    """A task's embedding is trained by distances between tasks alone, and soft actor-critic is given it."""

    name = "focal"
    Config = FOCALConfig
    replays = ("replay.", "context.")

    def __init__(self, family: Family, config: FOCALConfig, seed: int = 0, device: torch.device | str = "cpu") -> None:
        config = config.for_horizon(family.horizon)
        super().__init__(family, config, seed, device)
        self.inputs = ContextInputs(family, self.name, config.next_obs_in_context)
        self.head = self.inputs.head
        rng = Rng(torch.tensor([make_key("focal", "init", seed)]))
        image = self.inputs.encode.image
        encoder = MeanEncoder(self.inputs.size, config.encoder_hidden, config.latent, rng, image)
        self.encoder = encoder.to(self.device)
        self.learner = ContextSAC(self.name, family, self.inputs, config, rng, self.device, self.encoder)

    # --- acting and adapting -----------------------------------------------------------------------------------------

    def begin(self, rows: int, tasks: Tasks | None = None) -> AgentState:
        """No transitions: the embedding is 0."""
        none = torch.zeros(rows, self.config.latent, device=self.device)
        return EmbeddingSum(none, none[:, :1].clone())._asdict()

    def act(
        self, state: AgentState, step: Step, rng: Rng, deterministic: bool
    ) -> tuple[Tensor, dict[str, Tensor], AgentState]:
        """An action on the observation and the embedding."""
        z = EmbeddingSum(**state).mean
        policy = self.learner.policy(step.obs, z.unsqueeze(1).expand(-1, step.obs.shape[1], -1))
        return policy.mode if deterministic else policy.sample(rng), {}, state

    def interact(self, state: AgentState, trials: Trials, adaptation_step: int) -> tuple[Rollout, AgentState]:
        """Play an episode, then adapt."""
        rollout, state = trials.collect(self, state, adaptation_step, self.budget, final_obs=True)
        return rollout, self.adapt(state, rollout)

    @torch.no_grad()
    def adapt(self, state: AgentState, rollout: Rollout) -> AgentState:
        """The embedding of all transitions so far."""
        return EmbeddingSum(**state).plus(self.encoder(*self.inputs.of(rollout)))._asdict()

    # --- what it believes --------------------------------------------------------------------------------------------

    def belief_features(self, rollouts: Sequence[Rollout]) -> Tensor:
        """The embedding of all transitions before each step of trials, `[T, R, latent]`."""
        start = self.begin(rollouts[0].reward.shape[1])
        return context_features(
            start,
            rollouts,
            lambda rollout: self.encoder.each(*self.inputs.of(rollout))._asdict(),
            lambda state: EmbeddingSum(**state).mean,
        )

    # --- training ----------------------------------------------------------------------------------------------------

    @property
    def train_env_steps(self) -> int:
        """Whole episodes."""
        return self.learner.env_steps

    def train_step(self, trials: Trials) -> dict[str, float]:
        """Play new tasks without a context and with one, then train on those that are kept.

        The returns are those of both kinds of episodes.
        """
        return self.learner.train_step(self, trials, lambda context: self.encoder(context)._asdict(), self.update)

    def update(self, key: int, places: Tensor) -> dict[str, Tensor]:
        """A gradient step on a batch of tasks: the encoder's by the metric loss, the others' by soft actor-critic."""
        contexts = [self.learner.sample_context(places, key, number) for number in range(2)]
        z = self.encoder(torch.cat(contexts)).mean
        loss = metric_loss(z, places.repeat(2), self.config.distance)
        return self.learner.update(key, places, z[: len(places)].detach(), loss) | {"metric_loss": loss.detach()}

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """The networks, what trains them, and the transitions."""
        return self.learner.tensors()

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        self.learner.load_tensors(tensors)
