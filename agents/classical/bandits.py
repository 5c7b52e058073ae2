"""Classical bandit algorithms. Their state is the counts of all arms, and they ignore observations.

The baselines of Duan et al. (2016, arXiv:1611.02779, section 3.1). s_a is the sum of arm a's rewards, n_a the number
of its pulls, t the number of all pulls so far. A keyed draw breaks ties between equal scores.

    metarl eval thompson_sampling --family metarl/BernoulliBandit-v0 --k 10 --num-tasks 2000 --episodes 1

Thompson sampling (Thompson 1933, Biometrika 25): draws theta_a ~ Beta(1 + s_a, 1 + n_a - s_a) and
pulls the arm with the largest theta_a.
Gaussian Thompson sampling: the same with the posteriors of arms with normal rewards, N(m_a, v_a).
Optimistic Thompson sampling (May et al. 2012, JMLR 13): raises theta_a to the posterior mean where it is smaller.
UCB1 (Auer et al. 2002, Machine Learning 47, figure 1): pulls each arm once, then the arm with the largest
mean + c sqrt(2 ln t / n_a).
Greedy: pulls the arm with the largest mean. Epsilon-greedy: does the same, and pulls any arm with probability epsilon.
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

    A family is a bandit if its actions are Discrete and an episode is one step, or if it sets `bandit = True`.
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
        """Zero counts: `paid` is s_a and `pulls` is n_a, both `float32 [R, arms]`."""
        return {name: torch.zeros(rows, self.arms, device=self.device) for name in ("paid", "pulls")}

    def act(
        self, state: AgentState, step: Step, rng: Rng, deterministic: bool
    ) -> tuple[Tensor, dict[str, Tensor], AgentState]:
        """An arm with the largest score, `int64 [R, 1]`.

        A deterministic action is the first arm with the largest `mean_score`.
        """
        if deterministic:
            action = self.mean_score(state["paid"], state["pulls"]).argmax(-1)
        else:
            action = self.sample(state["paid"], state["pulls"], rng)
        return action.unsqueeze(1), {}, state

    def observe(self, state: AgentState, feedback: Feedback, active: Tensor | None) -> AgentState:
        """Count the pull and add its reward."""
        pulled = torch.nn.functional.one_hot(feedback.action[:, 0], self.arms).float()
        pulled = pulled if active is None else torch.where(active, pulled, 0.0)
        return {"paid": state["paid"] + pulled * self.credit(feedback.reward), "pulls": state["pulls"] + pulled}

    def credit(self, reward: Tensor) -> Tensor:
        """The number that a reward `[R, 1]` adds to s_a."""
        return reward

    def sample(self, paid: Tensor, pulls: Tensor, rng: Rng) -> Tensor:
        """The arm to pull, `int64 [R]`, from `paid` and `pulls` `[R, arms]`."""
        return best(self.mean_score(paid, pulls), rng)

    @abstractmethod
    def mean_score(self, paid: Tensor, pulls: Tensor) -> Tensor:
        """Scores `[R, arms]` without random draws."""


def best(score: Tensor, rng: Rng) -> Tensor:
    """The arm with the largest score, ties broken at random: `[R, arms]` to `int64 [R]`."""
    draw = rng.uniform(score.shape[-1])
    return torch.where(score == score.max(-1, keepdim=True).values, draw, -1.0).argmax(-1)


def estimate(paid: Tensor, pulls: Tensor, prior_paid: float, prior_pulls: float) -> Tensor:
    """(prior_paid + s) / (prior_pulls + n); infinite where the denominator is 0, so untried arms are pulled first."""
    total_pulls = pulls + prior_pulls
    return torch.where(total_pulls > 0, (paid + prior_paid) / total_pulls, torch.inf)


@dataclass(frozen=True)
class ThompsonSamplingConfig:
    """The prior Beta(a, b) on every arm. Beta(1, 1) is the true prior of metarl/BernoulliBandit-v0."""

    prior_a: Annotated[float, Range(1, 1e6)] = 1.0
    """a, which is 1 + the number of successes assumed before the first pull."""
    prior_b: Annotated[float, Range(1, 1e6)] = 1.0
    """b, which is 1 + the number of failures assumed before the first pull."""


class ThompsonSampling(BanditAgent):
    """Thompson sampling draws each arm's mean from its posterior and pulls the arm with the largest draw.

    A reward r is clamped to [0, 1]; then it adds r to the arm's successes and 1 - r to its failures. In the
    deterministic mode the agent pulls the arm with the largest posterior mean.
    """

    name = "thompson_sampling"
    Config: ClassVar[type[Any]] = ThompsonSamplingConfig

    def __init__(self, family: Family, config: Any, seed: int = 0, device: torch.device | str = "cpu") -> None:
        super().__init__(family, config, seed, device)

    def posterior(self, paid: Tensor, pulls: Tensor) -> tuple[Tensor, Tensor]:
        """The parameters a and b of the Beta posteriors, `[R, arms]` each."""
        return self.config.prior_a + paid, self.config.prior_b + pulls - paid

    def credit(self, reward: Tensor) -> Tensor:
        """The reward, clamped to [0, 1]."""
        return reward.clamp(0.0, 1.0)

    def sample(self, paid: Tensor, pulls: Tensor, rng: Rng) -> Tensor:
        """The arm with the largest draw from its posterior."""
        return rng.beta(*self.posterior(paid, pulls)).argmax(-1)

    def mean_score(self, paid: Tensor, pulls: Tensor) -> Tensor:
        """The posterior means."""
        a, b = self.posterior(paid, pulls)
        return a / (a + b)


@dataclass(frozen=True)
class GaussianThompsonSamplingConfig:
    """Gaussian Thompson sampling has no hyperparameters: the prior and the noise are those of the family."""


class GaussianThompsonSampling(BanditAgent):
    """Thompson sampling on arms with normal rewards, with the family's own prior.

    In the deterministic mode the agent pulls the arm with the largest posterior mean.
    """

    name = "gaussian_thompson_sampling"
    Config = GaussianThompsonSamplingConfig
    takes: ClassVar[str] = "a bandit with normal rewards: a method `prior`, as that of metarl/GaussianBandit-v0"

    def __init__(
        self,
        family: Family,
        config: GaussianThompsonSamplingConfig,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(family, config, seed, device)
        if not hasattr(family, "prior"):
            raise InvalidValueError(f"family of {self.name}", family.id, self.takes)
        self.mean, self.std, self.noise = (v.to(self.device) for v in family.prior())

    def posterior(self, paid: Tensor, pulls: Tensor) -> tuple[Tensor, Tensor]:
        """The means and the standard deviations of the arms' means, `[R, arms]` each.

        After n pulls, the mean of the rewards has the share n std^2 / (n std^2 + noise^2) in the posterior mean.
        """
        evidence = pulls * self.std.square()
        share = evidence / (evidence + self.noise.square()).clamp_min(1e-12)
        mean = self.mean + share * (paid / pulls.clamp_min(1.0) - self.mean)
        return mean, self.std * (1.0 - share).sqrt()

    def sample(self, paid: Tensor, pulls: Tensor, rng: Rng) -> Tensor:
        """The arm with the largest draw from its posterior."""
        mean, std = self.posterior(paid, pulls)
        return (mean + std * rng.normal(self.arms)).argmax(-1)

    def mean_score(self, paid: Tensor, pulls: Tensor) -> Tensor:
        """The posterior means."""
        return self.posterior(paid, pulls)[0]


@dataclass(frozen=True)
class OptimisticThompsonSamplingConfig(ThompsonSamplingConfig):
    """The prior, and how many draws make a score."""

    samples: Annotated[int, Range(1, 1000)] = 1
    """Number of posterior draws that are averaged per arm. May et al. use 1; more draws come closer to greedy."""


class OptimisticThompsonSampling(ThompsonSampling):
    """Optimistic Thompson sampling raises every draw to the posterior mean where the draw is smaller."""

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
        """The arm with the largest score, where a score is the larger of the draws' average and the posterior mean."""
        a, b = (x.unsqueeze(1).expand(-1, self.config.samples, -1) for x in self.posterior(paid, pulls))
        return best(torch.maximum(rng.beta(a, b).mean(1), self.mean_score(paid, pulls)), rng)


@dataclass(frozen=True)
class UCB1Config:
    """Hyperparameters of Auer et al., and a prior that their algorithm does not have."""

    c: Annotated[float, Range(0, 1e6)] = 1.0
    """Factor on the bonus (Duan et al. tuned it)."""
    prior_paid: Annotated[float, Range(-1e6, 1e6)] = 0.0
    """Sum of rewards assumed for every arm before the first pull."""
    prior_pulls: Annotated[float, Range(0, 1e6)] = 0.0
    """Number of pulls assumed for every arm before the first pull; above 0, untried arms are not pulled first."""


class UCB1(BanditAgent):
    """UCB1 pulls the arm with the largest mean reward plus a bonus, which shrinks with the arm's pulls."""

    name = "ucb1"
    Config = UCB1Config

    def __init__(self, family: Family, config: UCB1Config, seed: int = 0, device: torch.device | str = "cpu") -> None:
        super().__init__(family, config, seed, device)

    def mean_score(self, paid: Tensor, pulls: Tensor) -> Tensor:
        """The upper confidence bounds. The prior's pulls count in n_a and not in t."""
        c: UCB1Config = self.config
        mean = estimate(paid, pulls, c.prior_paid, c.prior_pulls)
        t = pulls.sum(-1, keepdim=True).clamp_min(1.0)  # before the first pull the bonus is 0
        bonus = c.c * (2.0 * t.log() / (pulls + c.prior_pulls).clamp_min(1e-9)).sqrt()
        return mean + bonus  # an untried arm's mean is infinite, its bonus finite


@dataclass(frozen=True)
class GreedyConfig:
    """The prior of the mean's estimate. With 1 and 2 the estimate is the posterior mean under a Beta(1, 1) prior."""

    prior_paid: Annotated[float, Range(-1e6, 1e6)] = 1.0
    """Sum of rewards assumed for every arm before the first pull."""
    prior_pulls: Annotated[float, Range(0, 1e6)] = 2.0
    """Number of pulls assumed for every arm before the first pull. With 0 the estimate is the empirical mean, and
    untried arms are pulled first."""


class Greedy(BanditAgent):
    """Greedy pulls the arm with the largest estimated mean, (prior_paid + s_a) / (prior_pulls + n_a)."""

    name = "greedy"
    Config: ClassVar[type[Any]] = GreedyConfig

    def __init__(self, family: Family, config: GreedyConfig, seed: int = 0, device: torch.device | str = "cpu") -> None:
        super().__init__(family, config, seed, device)

    def mean_score(self, paid: Tensor, pulls: Tensor) -> Tensor:
        """The estimated means."""
        return estimate(paid, pulls, self.config.prior_paid, self.config.prior_pulls)


@dataclass(frozen=True)
class EpsilonGreedyConfig(GreedyConfig):
    """Greedy's hyperparameters, and the probability of exploring."""

    epsilon: Annotated[float, Range(0, 1)] = 0.1
    """Probability of pulling an arm drawn uniformly from all arms (Duan et al. tuned it)."""


class EpsilonGreedy(Greedy):
    """Epsilon-greedy acts like greedy, but with probability epsilon it pulls a random arm.

    In the deterministic mode it is greedy.
    """

    name = "epsilon_greedy"
    Config: ClassVar[type[Any]] = EpsilonGreedyConfig

    def __init__(
        self, family: Family, config: EpsilonGreedyConfig, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(family, config, seed, device)

    def sample(self, paid: Tensor, pulls: Tensor, rng: Rng) -> Tensor:
        """Greedy's arm, or with probability epsilon a random one."""
        greedy, any_arm = super().sample(paid, pulls, rng), rng.integers(self.arms)
        return torch.where(rng.uniform() < self.config.epsilon, any_arm, greedy)
