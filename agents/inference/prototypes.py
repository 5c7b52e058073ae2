"""Prototypes: few-shot classification by the distance to the mean of each class's examples, in a learned embedding.

Metric-based meta-learning of Snell, Swersky and Zemel (2017, arXiv:1703.05175), for families that show an image and the
true label of the image before, as `Digits` does. A trial's labelled images are its support set, which grows by one at
each step. The embedding is trained by the cross-entropy of the labels that the trials reveal (their equation 2). A
class without an example has a learned distance of its own. Matching networks (Vinyals et al. 2016, arXiv:1606.04080)
weigh single examples by their similarity instead of averaging them.

    metarl train prototypes --family metarl/Digits-v0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from metarl.agent import (
    Agent,
    AgentState,
    Budget,
    Categorical,
    Family,
    Feedback,
    InvalidValueError,
    PolicyHead,
    Range,
    Rng,
    Step,
    Tasks,
    Trials,
    adam_step,
    init_mlp,
    load_net,
    make_key,
    mlp,
    net_tensors,
)
from metarl.envs.few_shot.digits import PIXELS, Digits


@dataclass(frozen=True)
class PrototypesConfig:
    """Hyperparameters of the embedding and of its training."""

    hidden: tuple[Annotated[int, Range(1, 1e9)], ...] = (64,)
    """Widths of the hidden layers of the embedding."""
    embedding: Annotated[int, Range(1, 1e6)] = 32
    """Size of the embedding."""
    meta_batch_size: Annotated[int, Range(1, 1e7)] = 100
    """Trials per meta-update, each an episode in its own task."""
    learning_rate: Annotated[float, Range(0, 10)] = 3e-3
    """Learning rate of Adam."""


class Embedding(nn.Module):
    """A network that embeds images, and the squared distance of an image to a class of which none was seen.

    Args:
        config: the widths.
        rng: draws of the initial weights.
    """

    def __init__(self, config: PrototypesConfig, rng: Rng) -> None:
        super().__init__()
        self.layers = nn.ParameterDict(init_mlp((PIXELS, *config.hidden, config.embedding), rng))
        self.unseen = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        """Map images `[..., pixels]` to `[..., embedding]`."""
        return mlp(dict(self.layers.items()), images)

    def logits(self, embedded: Tensor, total: Tensor, count: Tensor) -> Tensor:
        """Minus the squared distances to the prototypes (equation 2 before normalisation).

        Args:
            embedded: the image, `[..., embedding]`.
            total: sums of each class's embedded examples, `[..., ways, embedding]`.
            count: their numbers, `[..., ways]`.

        Returns:
            `[..., ways]`.
        """
        prototypes = total / count.clamp_min(1.0).unsqueeze(-1)
        distance = (embedded.unsqueeze(-2) - prototypes).square().sum(-1)
        return -torch.where(count > 0, distance, self.unseen)


class Prototypes(Agent[PrototypesConfig]):
    """Labels an image by its distance to the mean embedded example of each class that the trial has shown."""

    name = "prototypes"
    Config = PrototypesConfig
    is_recurrent = True
    takes: ClassVar[str] = "metarl/Digits-v0, with the previous image's label shown"

    def __init__(
        self, family: Family, config: PrototypesConfig, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(family, config, seed, device)
        if not (isinstance(family, Digits) and family.reveal):
            raise InvalidValueError(f"family of {self.name}", family.id, self.takes)
        self.ways, self.head = family.ways, PolicyHead(family.action_space, self.name)
        self.net = Embedding(config, Rng(torch.tensor([make_key("prototypes", "init", seed)]))).to(self.device)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=config.learning_rate)

    def begin(self, rows: int, tasks: Tasks | None = None) -> AgentState:
        """No examples, and no image whose label the next observation could show."""
        size = self.config.embedding
        return {
            "total": torch.zeros(rows, self.ways, size, device=self.device),
            "count": torch.zeros(rows, self.ways, device=self.device),
            "last": torch.zeros(rows, size, device=self.device),
        }

    def act(
        self, state: AgentState, step: Step, rng: Rng, deterministic: bool
    ) -> tuple[Tensor, dict[str, Tensor], AgentState]:
        """Add the image before to the examples of its label, and label the present image."""
        images, before = step.obs[:, 0, :PIXELS], step.obs[:, 0, PIXELS:]
        embedded = self.net(images).detach()
        total = state["total"] + before.unsqueeze(-1) * state["last"].unsqueeze(1)
        count = state["count"] + before
        policy = Categorical.from_logits(self.net.logits(embedded, total, count).detach())
        action = policy.mode if deterministic else policy.sample(rng)
        return action.unsqueeze(1), {}, state | {"new.total": total, "new.count": count, "new.last": embedded}

    def observe(self, state: AgentState, feedback: Feedback, active: Tensor | None) -> AgentState:
        """Keep the examples."""
        new = {k.removeprefix("new."): v for k, v in state.items() if k.startswith("new.")}
        if active is None:
            return new
        return {k: torch.where(active.view(-1, *[1] * (v.dim() - 1)), v, state[k]) for k, v in new.items()}

    @property
    def train_env_steps(self) -> int:
        """Whole episodes."""
        return self.config.meta_batch_size * self.family.horizon

    def train_step(self, trials: Trials) -> dict[str, float]:
        """One gradient step on the cross-entropy of the labels that the trials reveal."""
        rollout, _ = trials.collect(self, self.begin(trials.rows), 0, Budget(envs=1, episodes=1))
        loss, right = self.loss(rollout.obs[:, :, 0])
        adam_step(self.optimizer, loss)
        return {"return_0": float(rollout.mean_return().mean()), "loss": float(loss.detach()), "accuracy": right}

    def loss(self, obs: Tensor) -> tuple[Tensor, float]:
        """Mean cross-entropy and accuracy of the labels in whole episodes `[T, R, pixels + ways]`.

        The label of an image is in the next observation, so that of an episode's last image is never shown.
        """
        embedded, label = self.net(obs[:-1, :, :PIXELS]), obs[1:, :, PIXELS:]
        example = label.unsqueeze(-1) * embedded.unsqueeze(-2)  # [T - 1, R, ways, embedding]
        total, count = example.cumsum(0) - example, label.cumsum(0) - label  # of the images before
        log_prob = torch.log_softmax(self.net.logits(embedded, total, count), -1)
        right = (log_prob.argmax(-1) == label.argmax(-1)).double().mean()
        return -(log_prob * label).sum(-1).mean(), float(right)

    def tensors(self) -> dict[str, Tensor]:
        """The embedding and Adam's moments."""
        return net_tensors(self.net, self.optimizer)

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        load_net(self.net, self.optimizer, tensors)
