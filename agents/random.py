"""Uniformly random actions: the floor of every family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metarl.agent import Agent, AgentState
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

    @property
    def budget(self) -> Budget:
        """One episode per adaptation step, which changes nothing."""
        return Budget(slots=1, episodes=1)

    def begin(self, rows: int, tasks: Tasks | None = None) -> AgentState:
        """Nothing is kept but the rows."""
        return {"row": torch.arange(rows, device=self.device)}

    def act(self, state: AgentState, step: Step, rng: Rng, mode: str) -> tuple[Tensor, dict[str, Tensor], AgentState]:
        """Uniform actions `[R, E, *action]`."""
        head, (rows, slots) = self._head, step.obs.shape[:2]
        if head.discrete:
            return rng.integers(head.size).view(rows, slots), {}, state
        noise = rng.normal(head.size) if head._center is None else 2.0 * rng.uniform(head.size) - 1.0
        return noise.view(rows, slots, head.size), {}, state

    @property
    def _head(self) -> PolicyHead:
        if not hasattr(self, "_made"):
            self._made = PolicyHead(self.family.action_space, self.name)
        return self._made

    def to_env(self, action: Tensor) -> Tensor:
        """Into the box."""
        return self._head.to_env(action)
