"""The oracle: it knows the task and plays the family's `optimal_action`, so its return is the informed optimum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from metarl.agent import Agent, AgentState, Family, InvalidValueError, Rng, Step, Tasks, TorchFamily


@dataclass(frozen=True)
class OracleConfig:
    """The oracle has no hyperparameters."""


class Oracle(Agent):
    """The oracle is shown the task and plays its best action, in families that implement `optimal_action`."""

    name = "oracle"
    Config = OracleConfig
    privileged: ClassVar[bool] = True
    learns: ClassVar[bool] = False
    takes: ClassVar[str] = "a torch family that implements optimal_action"

    def __init__(self, family: Family, config: OracleConfig, seed: int = 0, device: torch.device | str = "cpu") -> None:
        super().__init__(family, config, seed, device)
        if not (isinstance(family, TorchFamily) and family.has_optimal_action):
            raise InvalidValueError("family of oracle", family.id, self.takes)

    def begin(self, rows: int, tasks: Tasks | None = None) -> AgentState:
        """The numbers of the rows; nothing else is stored."""
        return {"row": torch.arange(rows, device=self.device)}

    def act(
        self, state: AgentState, step: Step, rng: Rng, deterministic: bool
    ) -> tuple[Tensor, dict[str, Tensor], AgentState]:
        """The optimal action `[R, E, *action]`, in the environment's own units."""
        simulator = step.simulator
        assert simulator is not None  # the constructor refuses families without one
        action = cast("TorchFamily", self.family).optimal_action(simulator.state, simulator.task, simulator.time)
        return action.view(*step.obs.shape[:2], *action.shape[1:]), {}, state

    def to_env(self, action: Tensor) -> Tensor:
        """The same actions, which are in the environment's units already."""
        return action
