"""Uniformly random actions: the floor of every family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metarl.agent import Agent, AgentState
from metarl.family import Family
from metarl.networks import PolicyHead
from metarl.rng import Rng
from metarl.rollout import Budget, Step
from metarl.tasks import Tasks


@dataclass(frozen=True)
class RandomConfig:
    """Nothing to choose."""


class Random(Agent):
    """Draws from the action space, whatever it sees; in "mean" mode too. Unbounded boxes get standard normals."""

    name = "random"
    Config = RandomConfig
    learns: ClassVar[bool] = False

    def __init__(self, family: Family, config: RandomConfig, seed: int = 0, device: torch.device | str = "cpu") -> None:
        super().__init__(family, config, seed, device)
        self.head = PolicyHead(family.action_space, self.name)

    @property
    def budget(self) -> Budget:
        """One episode per adaptation step, which changes nothing."""
        return Budget(slots=1, episodes=1)

    def begin(self, rows: int, tasks: Tasks | None = None) -> AgentState:
        """Nothing is kept but the rows."""
        return {"row": torch.arange(rows, device=self.device)}

    def act(self, state: AgentState, step: Step, rng: Rng, mode: str) -> tuple[Tensor, dict[str, Tensor], AgentState]:
        """Uniform actions `[R, E, *action]`."""
        return self.head.uniform(rng).view(*step.obs.shape[:2], *self.head.action_shape), {}, state

    def to_env(self, action: Tensor) -> Tensor:
        """Into the box."""
        return self.head.to_env(action)
