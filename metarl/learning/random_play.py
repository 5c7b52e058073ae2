"""Uniformly random actions, whose mean return is the floor of a family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metarl.agent_base import Agent, AgentState, Step
from metarl.families.family import Family
from metarl.families.tasks import Tasks
from metarl.learning.action_distributions import PolicyHead
from metarl.rng import Rng


@dataclass(frozen=True)
class RandomConfig:
    """Random play has no hyperparameters."""


class RandomPlay(Agent[RandomConfig]):
    """Plays uniformly random actions and ignores observations, also in the deterministic mode.

    In unbounded boxes the actions are standard normal.
    """

    name = "random"
    Config = RandomConfig
    learns: ClassVar[bool] = False

    def __init__(
        self, family: Family, config: RandomConfig | None = None, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(family, config or RandomConfig(), seed, device)
        self.head = PolicyHead(family.action_space, self.name)

    def begin(self, rows: int, tasks: Tasks | None = None) -> AgentState:
        """The numbers of the rows; nothing else is stored."""
        return {"row": torch.arange(rows, device=self.device)}

    def act(
        self, state: AgentState, step: Step, rng: Rng, deterministic: bool
    ) -> tuple[Tensor, dict[str, Tensor], AgentState]:
        """Uniform actions `[R, E, *action]`."""
        return self.head.uniform(rng).view(*step.obs.shape[:2], *self.head.action_shape), {}, state
