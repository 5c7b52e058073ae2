"""Planning by the cross-entropy method: sequences of actions that a model tells the highest return of.

Chua et al. (2018, arXiv:1805.12114, section 5) and Nagabandi et al. (2019, arXiv:1803.11347) plan with a model and take
the first action alone. Candidates are drawn from a Gaussian for each step, which is fitted to the best of them (De Boer
et al. 2005, Annals of Operations Research 134). Of a discrete action the candidates are preferences, and the largest
one's action is played.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from metarl.config import Range
from metarl.errors import InvalidValueError
from metarl.learning.action_distributions import PolicyHead
from metarl.learning.model_based.models import Prediction
from metarl.rng import Rng

_LEAST_STD = 0.05  # of candidates, in half widths of the action box


@dataclass(frozen=True)
class PlanConfig:
    """Hyperparameters of planning."""

    plan_steps: Annotated[int, Range(1, 1e4)] = 15
    """Steps that are planned ahead."""
    candidates: Annotated[int, Range(2, 1e6)] = 100
    """Sequences of actions of an iteration (Nagabandi et al.: 500 or more, of which the best one is played)."""
    elites: Annotated[int, Range(2, 1e6)] = 10
    """The best of them, to which the next ones are fitted."""
    plan_iterations: Annotated[int, Range(1, 1e3)] = 2
    """Iterations of the cross-entropy method in each step."""


class Planner:
    """Plans for R models at once.

    Args:
        name: of the agent, for the error message.
        head: of the actions.
        config: hyperparameters.

    Raises:
        InvalidValueError: there are more elites than candidates.
    """

    def __init__(self, name: str, head: PolicyHead, config: PlanConfig) -> None:
        if config.elites > config.candidates:
            expected = f"at most candidates, which is {config.candidates}"
            raise InvalidValueError(f"{name}.elites", config.elites, expected)
        self.head, self.config = head, config

    def begin(self, rows: int, device: torch.device) -> Tensor:
        """A plan that prefers nothing, `[R, steps, action]`."""
        return torch.zeros(rows, self.config.plan_steps, self.head.features, device=device)

    def later(self, plan: Tensor) -> Tensor:
        """The plan one step later; its last step prefers nothing."""
        return torch.cat([plan[:, 1:], torch.zeros_like(plan[:, :1])], 1)

    def features(self, choice: Tensor) -> Tensor:
        """Features of the actions that candidates `[..., action]` stand for."""
        return self.head.encode(choice.argmax(-1) if self.head.discrete else choice)

    def plan(
        self, predict: Callable[[Tensor, Tensor], Prediction], obs: Tensor, plan: Tensor, rng: Rng
    ) -> tuple[Tensor, Tensor]:
        """Improve plans.

        Args:
            predict: what follows observations `[R, N, obs]` and actions `[R, N, action]`.
            obs: features of the present observations, `[R, obs]`.
            plan: to begin with, `[R, steps, action]`.
            rng: one key for each row.

        Returns:
            means and standard deviations of the planned actions, `[R, steps, action]`.
        """
        config, std = self.config, torch.ones_like(plan)
        for _ in range(config.plan_iterations):
            noise = rng.normal(config.candidates, *plan.shape[1:])
            choice = plan.unsqueeze(1) + std.unsqueeze(1) * noise
            if self.head.bounded:
                choice = choice.clamp(-1.0, 1.0)
            told = self.returns(predict, obs, self.features(choice))
            best = told.topk(config.elites, 1).indices  # [R, elites]
            elites = choice.gather(1, best[..., None, None].expand(-1, -1, *choice.shape[2:]))
            plan, std = elites.mean(1), elites.std(1).clamp_min(_LEAST_STD)
        return plan, std

    def returns(self, predict: Callable[[Tensor, Tensor], Prediction], obs: Tensor, actions: Tensor) -> Tensor:
        """What a model expects of sequences of actions `[R, N, steps, action]` from `obs` `[R, obs]`: `[R, N]`.

        A step's reward counts with the probability that the MDP has not ended before. A return that is not finite is
        the worst.
        """
        rows, count = actions.shape[:2]
        at = obs.unsqueeze(1).expand(-1, count, -1)
        total, lives = obs.new_zeros(rows, count), obs.new_ones(rows, count)
        for step in range(actions.shape[2]):
            at, reward, ends = predict(at, actions[:, :, step])
            total = total + lives * reward
            lives = lives * (1.0 - ends)
        return total.nan_to_num(-torch.inf, -torch.inf, -torch.inf)
