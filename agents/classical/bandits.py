"""Classical bandit algorithms: the arms' counts are the whole state, and observations are ignored.

The baselines of Duan et al. (2016, arXiv:1611.02779, section 3.1). s_a is the sum of arm a's rewards, n_a the number
of its pulls, t the number of all pulls so far; equal scores are told apart by a keyed draw.

    metarl eval thompson_sampling --family metarl/BernoulliBandit-v0 --k 10 --num-tasks 2000 --episodes 1

Thompson sampling (Thompson 1933, Biometrika 25): theta_a ~ Beta(1 + s_a, 1 + n_a - s_a), the arm with the largest.
Optimistic Thompson sampling (May et al. 2012, JMLR 13): theta_a is at least the posterior mean.
UCB1 (Auer et al. 2002, Machine Learning 47, figure 1): the mean + c sqrt(2 ln t / n_a), untried arms first.
Epsilon-greedy, greedy: the largest mean, or with probability epsilon any arm.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, cast

import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from metarl.agent import Agent, AgentState, Family, Feedback, InvalidValueError, Range, Rng, Step, Tasks


class BanditAgent(Agent):
    """Counts pulls and rewards, and pulls the arm with the best score.

    A family is a bandit if an episode is one pull of a Discrete action space, or if it says so by `bandit = True`.
    """

    is_recurrent: ClassVar[bool] = True
    learns: ClassVar[bool] = False
    takes: ClassVar[str] = "a bandit: a Discrete action space, and a horizon of 1 or the class attribute bandit = True"

    def __init__(self, family: Family, config: Any, seed: int = 0, device: torch.device | str = "cpu") -> None:
        super().__init__(family, config, seed, device)
        discrete = isinstance(family.action_space, Discrete)
        if not (discrete and getattr(family, "bandit", family.horizon == 1)):
            raise InvalidValueError(f"family of {self.name}", family.id, BanditAgent.takes)
        self.arms = int(cast("Discrete", family.action_space).n)

    def begin(self, rows: int, tasks: Tasks | None = None) -> AgentState:
        """Nothing pulled: `paid` is s_a and `pulls` is n_a, both `float32 [R, arms]`."""
        return {name: torch.zeros(rows, self.arms, device=self.device) for name in ("paid", "pulls")}

    def act(
        self, state: AgentState, step: Step, rng: Rng, deterministic: bool
    ) -> tuple[Tensor, dict[str, Tensor], AgentState]:
        """An arm with the best score, `int64 [R, 1]`.

        A deterministic action is the lowest arm of the best `mean_score`.
        """
        if deterministic:
            action = self.mean_score(state["paid"], state["pulls"]).argmax(-1)
        else:
            action = self.sample(state["paid"], state["pulls"], rng)
        return action.unsqueeze(1), {}, state

    def observe(self, state: AgentState, feedback: Feedback, active: Tensor | None) -> AgentState:
        """Count the pull and what it paid."""
        pulled = torch.nn.functional.one_hot(feedback.action[:, 0], self.arms).float()
        pulled = pulled if active is None else torch.where(active, pulled, 0.0)
        return {"paid": state["paid"] + pulled * self.credit(feedback.reward), "pulls": state["pulls"] + pulled}

    def credit(self, reward: Tensor) -> Tensor:
        """What a reward `[R, 1]` adds to s_a."""
        return reward

    def sample(self, paid: Tensor, pulls: Tensor, rng: Rng) -> Tensor:
        """The arm to pull `int64 [R]`, of `paid` and `pulls` `[R, arms]`."""
        return best(self.mean_score(paid, pulls), rng)

    @abstractmethod
    def mean_score(self, paid: Tensor, pulls: Tensor) -> Tensor:
        """Scores `[R, arms]` without draws."""


def best(score: Tensor, rng: Rng) -> Tensor:
    """The arm with the largest score, one of them at random: `[R, arms]` to `int64 [R]`."""
    draw = rng.uniform(score.shape[-1])
    return torch.where(score == score.max(-1, keepdim=True).values, draw, -1.0).argmax(-1)


def estimate(paid: Tensor, pulls: Tensor, prior_paid: float, prior_pulls: float) -> Tensor:
    """(prior_paid + s) / (prior_pulls + n), infinite where both pulls are 0: an untried arm goes first."""
    weight = pulls + prior_pulls
    return torch.where(weight > 0, (paid + prior_paid) / weight, torch.inf)


@dataclass(frozen=True)
class ThompsonSamplingConfig:
    """The prior Beta(a, b) on every arm; Beta(1, 1) is the Bernoulli bandit's own."""

    prior_a: Annotated[float, Range(1, 1e6)] = 1.0
    """a, at least 1: one more than the successes that are believed before any pull."""
    prior_b: Annotated[float, Range(1, 1e6)] = 1.0
    """b, at least 1: likewise of failures."""


class ThompsonSampling(BanditAgent):
    """Plays each arm as often as it is believed to be the best.

    A reward r adds r to an arm's successes and 1 - r to its failures, clamped to [0, 1] first: what is outside cannot
    be told apart from 0 or 1. the deterministic mode plays the largest posterior mean.
    """

    name = "thompson_sampling"
    Config: ClassVar[type[Any]] = ThompsonSamplingConfig

    def __init__(self, family: Family, config: Any, seed: int = 0, device: torch.device | str = "cpu") -> None:
        super().__init__(family, config, seed, device)

    def posterior(self, paid: Tensor, pulls: Tensor) -> tuple[Tensor, Tensor]:
        """The Beta posterior's parameters: `[R, arms]` each."""
        return self.config.prior_a + paid, self.config.prior_b + pulls - paid

    def credit(self, reward: Tensor) -> Tensor:
        """Fractional successes."""
        return reward.clamp(0.0, 1.0)

    def sample(self, paid: Tensor, pulls: Tensor, rng: Rng) -> Tensor:
        """The arm with the largest draw from its posterior."""
        return rng.beta(*self.posterior(paid, pulls)).argmax(-1)

    def mean_score(self, paid: Tensor, pulls: Tensor) -> Tensor:
        """The posterior means."""
        a, b = self.posterior(paid, pulls)
        return a / (a + b)


@dataclass(frozen=True)
class OptimisticThompsonSamplingConfig(ThompsonSamplingConfig):
    """How many draws make a score."""

    samples: Annotated[int, Range(1, 1000)] = 1
    """Posterior draws of an arm that are averaged; 1 is May et al.'s, more come closer to greedy."""


class OptimisticThompsonSampling(ThompsonSampling):
    """Thompson sampling whose draws are never below the posterior mean."""

    name = "optimistic_thompson_sampling"
    Config: ClassVar[type[Any]] = OptimisticThompsonSamplingConfig

    def __init__(
        self,
        family: Family,
        config: OptimisticThompsonSamplingConfig,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(family, config, seed, device)

    def sample(self, paid: Tensor, pulls: Tensor, rng: Rng) -> Tensor:
        """The arm with the largest of its draws' average and its mean."""
        a, b = (x.unsqueeze(1).expand(-1, self.config.samples, -1) for x in self.posterior(paid, pulls))
        return best(torch.maximum(rng.beta(a, b).mean(1), self.mean_score(paid, pulls)), rng)


@dataclass(frozen=True)
class UCB1Config:
    """Hyperparameters; Auer et al.'s, and a prior that they do not have."""

    c: Annotated[float, Range(0, 1e6)] = 1.0
    """Factor on the bonus (Duan et al. tuned theirs)."""
    prior_paid: Annotated[float, Range(-1e6, 1e6)] = 0.0
    """Reward that every arm is taken to have paid before the first pull."""
    prior_pulls: Annotated[float, Range(0, 1e6)] = 0.0
    """Pulls that every arm is taken to have had; above 0, untried arms do not go first."""


class UCB1(BanditAgent):
    """Optimism in the face of uncertainty: the empirical mean and a bonus that shrinks with an arm's pulls."""

    name = "ucb1"
    Config = UCB1Config

    def __init__(self, family: Family, config: UCB1Config, seed: int = 0, device: torch.device | str = "cpu") -> None:
        super().__init__(family, config, seed, device)

    def mean_score(self, paid: Tensor, pulls: Tensor) -> Tensor:
        """The upper confidence bounds, with the prior's pulls added to n_a but not to t."""
        c: UCB1Config = self.config
        mean = estimate(paid, pulls, c.prior_paid, c.prior_pulls)
        t = pulls.sum(-1, keepdim=True).clamp_min(1.0)  # before the first pull the bonus is 0
        bonus = c.c * (2.0 * t.log() / (pulls + c.prior_pulls).clamp_min(1e-9)).sqrt()
        return mean + bonus  # an untried arm's mean is infinite, its bonus finite


@dataclass(frozen=True)
class GreedyConfig:
    """The prior of the mean's estimate; 1 and 2 make it the mean of a Beta(1, 1) prior's posterior."""

    prior_paid: Annotated[float, Range(-1e6, 1e6)] = 1.0
    """Reward that every arm is taken to have paid before the first pull."""
    prior_pulls: Annotated[float, Range(0, 1e6)] = 2.0
    """Pulls that every arm is taken to have had; with 0 the estimate is the empirical mean, untried arms first."""


class Greedy(BanditAgent):
    """Always the arm with the largest mean: (prior_paid + s_a) / (prior_pulls + n_a)."""

    name = "greedy"
    Config: ClassVar[type[Any]] = GreedyConfig

    def __init__(self, family: Family, config: GreedyConfig, seed: int = 0, device: torch.device | str = "cpu") -> None:
        super().__init__(family, config, seed, device)

    def mean_score(self, paid: Tensor, pulls: Tensor) -> Tensor:
        """The estimated means."""
        return estimate(paid, pulls, self.config.prior_paid, self.config.prior_pulls)


@dataclass(frozen=True)
class EpsilonGreedyConfig(GreedyConfig):
    """Hyperparameters: greedy's, and how often to explore."""

    epsilon: Annotated[float, Range(0, 1)] = 0.1
    """Probability of an arm drawn uniformly from all (Duan et al. tuned theirs)."""


class EpsilonGreedy(Greedy):
    """Greedy, but for a pull in 1 / epsilon, which is of any arm; the deterministic mode is greedy."""

    name = "epsilon_greedy"
    Config: ClassVar[type[Any]] = EpsilonGreedyConfig

    def __init__(
        self, family: Family, config: EpsilonGreedyConfig, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(family, config, seed, device)

    def sample(self, paid: Tensor, pulls: Tensor, rng: Rng) -> Tensor:
        """Explore with probability epsilon."""
        greedy, any_arm = super().sample(paid, pulls, rng), rng.integers(self.arms)
        return torch.where(rng.uniform() < self.config.epsilon, any_arm, greedy)
