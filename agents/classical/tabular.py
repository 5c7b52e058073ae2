"""Classical algorithms for finite MDPs. They count rewards and transitions and plan at the start of every episode.

PSRL (Strens 2000; Osband, Russo and Van Roy 2013, arXiv:1306.0940), optimistic PSRL, BEB (Kolter and Ng 2009), the
epsilon-greedy and the greedy planner: the baselines of Duan et al. (2016, arXiv:1611.02779, section 3.2). UCRL2 is in
`metarl.agents.classical.ucrl2`.

All share one model, the conjugate posterior of `metarl/TabularMDP-v0` given n(s, a) rewards with sum G(s, a) and
transition counts n(s, a, s'):

    R(s, a)    ~ N((m + G) / (1 + n), 1 / (1 + n))     prior N(m, 1), rewards with standard deviation 1
    P(s, a, .) ~ Dirichlet(1 + n(s, a, .))             prior Dirichlet(1)

The true prior mean m of that family is 1. Public code for these algorithms (Osband's TabulaRL) has 0 as its default.

The agent never observes the state after the last step of an episode, because the next observation is the first of the
next episode. So the last step counts for the reward and not for the transition.

    metarl eval psrl --family metarl/TabularMDP-v0 --k 10 --num-tasks 2000 --episodes 1
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, cast

import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from metarl.agent import Agent, AgentState, Family, Feedback, InvalidValueError, Range, Rng, Step, Tasks

TIE = 1e-4  # action values that differ by less are ties: rounding differs between batch sizes


@dataclass(frozen=True)
class TabularConfig:
    """The prior of rewards, which all tabular agents share."""

    prior_mean: Annotated[float, Range(-1e6, 1e6)] = 1.0
    """Mean m of the prior N(m, 1) on mean rewards; 1 is the true value for metarl/TabularMDP-v0."""


# --- planning --------------------------------------------------------------------------------------------------------


def value_iteration(backup: Callable[[Tensor], Tensor], value: Tensor, horizon: int) -> Tensor:
    """Finite-horizon value iteration in all rows at once: Q_h = backup(max_a Q_{h+1}).

    Args:
        backup: function from the next step's values `[R, S]` to action values `[R, S, A]`.
        value: the value after the last step, `[R, S]`.
        horizon: number of steps H.

    Returns:
        `[R, H, S, A]`, first step to last.
    """
    q: list[Tensor] = []
    for _ in range(horizon):
        q.append(backup(value))
        value = q[-1].amax(-1)
    return torch.stack(q[::-1], 1)


def action_values(reward: Tensor, transition: Tensor, horizon: int) -> Tensor:
    """Q_h(s, a) = R(s, a) + sum_s' P(s, a, s') max_a' Q_{h+1}(s', a').

    Args:
        reward: `[R, S, A]`.
        transition: `[R, S, A, S]`.
        horizon: number of steps H.

    Returns:
        `[R, H, S, A]`, first step to last.
    """

    def backup(value: Tensor) -> Tensor:
        return reward + torch.einsum("rsat,rt->rsa", transition, value)

    return value_iteration(backup, torch.zeros_like(reward[..., 0]), horizon)


def first_best(q: Tensor) -> Tensor:
    """The first of the best actions, where values within `TIE` are ties: `[..., A]` to `int64 [...]`."""
    return (q >= q.amax(-1, keepdim=True) - TIE).to(torch.uint8).argmax(-1)


# --- the posterior ---------------------------------------------------------------------------------------------------


def mean_reward(state: AgentState, prior_mean: float) -> Tensor:
    """The posterior mean of R, (m + G) / (1 + n): `[R, S, A]`."""
    return (prior_mean + state["reward_sum"]) / (1.0 + state["visits"])


def mean_transition(state: AgentState) -> Tensor:
    """The posterior mean of P, (1 + n(s, a, .)) / (S + n(s, a)): `[R, S, A, S]`."""
    alpha = 1.0 + state["transitions"]
    return alpha.div_(alpha.sum(-1, keepdim=True))


def sample_mdp(state: AgentState, prior_mean: float, rng: Rng) -> tuple[Tensor, Tensor]:
    """Sample one MDP per row from the posterior: R `[R, S, A]` and P `[R, S, A, S]`."""
    noise = rng.normal(*state["visits"].shape[1:])
    reward = mean_reward(state, prior_mean) + noise * torch.rsqrt(1.0 + state["visits"])
    return reward, rng.dirichlet(1.0 + state["transitions"])


# --- agents ----------------------------------------------------------------------------------------------------------


class TabularAgent(Agent):
    """Counts, plans at the start of an episode, and follows the plan to the episode's end.

    The adaptation state holds `transitions` `[R, S, A, S]`, `visits` and `reward_sum` `[R, S, A]`, the episode's
    `policy` `int64 [R, H, S]`, and `int64 [R]` each: the step `t` within the episode, `last` (s * A + a of the previous
    step) and `seen` (s of the present observation). The counts are updated in place, so a state that was passed to a
    method must not be used again. When one row starts an episode, all rows plan, and only the rows that start one use
    the new plan.
    """

    is_recurrent: ClassVar[bool] = True
    learns: ClassVar[bool] = False
    takes: ClassVar[str] = (
        "a family of finite MDPs with attributes `states` and `actions`, one-hot observations [states] and Discrete "
        "actions: metarl/TabularMDP-v0"
    )
    epsilon: Annotated[float, Range(0, 1)] = (
        0.0  # probability of a random action; the plans of such agents use no draws
    )

    def __init__(self, family: Family, config: Any, seed: int = 0, device: torch.device | str = "cpu") -> None:
        super().__init__(family, config, seed, device)
        self.states, self.actions = _finite_sizes(family, self.name)

    @abstractmethod
    def plan(self, state: AgentState, rng: Rng) -> Tensor:
        """Action values of the coming episode, `[R, H, S, A]`."""

    def begin(self, rows: int, tasks: Tasks | None = None) -> AgentState:
        """All counts are 0."""
        pairs = (rows, self.states, self.actions)

        def indices(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=self.device)

        return {
            "transitions": torch.zeros(*pairs, self.states, device=self.device),
            "visits": torch.zeros(pairs, device=self.device),
            "reward_sum": torch.zeros(pairs, device=self.device),
            "policy": indices(rows, self.family.horizon, self.states),
            **{name: indices(rows) for name in ("t", "last", "seen")},
        }

    def act(
        self, state: AgentState, step: Step, rng: Rng, deterministic: bool
    ) -> tuple[Tensor, dict[str, Tensor], AgentState]:
        """Count the previous step's transition, plan if an episode starts, and follow the plan: `[R, 1]`.

        The deterministic mode leaves out epsilon's random actions. Both modes may plan in a sampled MDP.
        """
        seen, t, policy = step.obs[:, 0].argmax(-1), state["t"], state["policy"]
        within = t > 0  # the previous step was in the same episode
        transition = state["last"] * self.states + seen
        state["transitions"].flatten(1).scatter_add_(1, transition.unsqueeze(1), within.float().unsqueeze(1))
        if not within.all():
            policy = torch.where(within.view(-1, 1, 1), policy, first_best(self.plan(state, rng)))
        action = policy[torch.arange(len(seen), device=seen.device), t, seen]
        if self.epsilon > 0 and not deterministic:
            explore = rng.uniform() < self.epsilon
            action = torch.where(explore, rng.integers(self.actions), action)
        return action.unsqueeze(1), {}, state | {"policy": policy, "seen": seen}

    def observe(self, state: AgentState, feedback: Feedback, active: Tensor | None) -> AgentState:
        """Count the reward. `act` counts the transition once the next observation is known."""
        pair = state["seen"] * self.actions + feedback.action[:, 0]  # [R]
        over, reward = (feedback.terminated | feedback.truncated)[:, 0], feedback.reward[:, 0]
        t = torch.where(over, 0, state["t"] + 1)
        played = torch.ones_like(over) if active is None else active[:, 0]
        index = pair.unsqueeze(1)
        state["visits"].flatten(1).scatter_add_(1, index, played.float().unsqueeze(1))
        state["reward_sum"].flatten(1).scatter_add_(1, index, torch.where(played, reward, 0.0).unsqueeze(1))
        return state | {"t": torch.where(played, t, state["t"]), "last": torch.where(played, pair, state["last"])}


def _finite_sizes(family: Family, user: str) -> tuple[int, int]:
    """The numbers of states and actions of a family.

    Raises:
        InvalidValueError: the family is no family of finite MDPs.
    """
    observation, action = family.observation_space, family.action_space
    states, actions = getattr(family, "states", None), getattr(family, "actions", None)
    one_hot = isinstance(states, int) and isinstance(observation, Box) and observation.shape == (states,)
    if not (one_hot and isinstance(action, Discrete) and actions == action.n):
        raise InvalidValueError(f"family of {user}", family.id, TabularAgent.takes)
    return cast("int", states), int(action.n)


class PSRL(TabularAgent):
    """PSRL samples one MDP from the posterior per episode and plays its optimal policy (Osband et al. 2013)."""

    name = "psrl"
    Config = TabularConfig

    def plan(self, state: AgentState, rng: Rng) -> Tensor:
        """Action values of an MDP drawn from the posterior."""
        return action_values(*sample_mdp(state, self.config.prior_mean, rng), self.family.horizon)


@dataclass(frozen=True)
class OPSRLConfig(TabularConfig):
    """The prior, and the number of samples."""

    samples: Annotated[int, Range(1, 1000)] = 5
    """Sampled MDPs per episode."""


class OPSRL(TabularAgent):
    """Optimistic PSRL samples several MDPs and plays the action with the largest value in any of them.

    Each sampled MDP is solved separately, and Q_h(s, a) is the maximum over the MDPs, as in Osband's TabulaRL, the
    public code of Osband and Van Roy (2017, arXiv:1607.00215). The algorithm of Asmuth et al. (2009) differs: it merges
    the samples into one MDP.
    """

    name = "opsrl"
    Config = OPSRLConfig

    def __init__(self, family: Family, config: OPSRLConfig, seed: int = 0, device: torch.device | str = "cpu") -> None:
        super().__init__(family, config, seed, device)

    def plan(self, state: AgentState, rng: Rng) -> Tensor:
        """The maximum of the action values over the sampled MDPs."""
        largest: Tensor | None = None
        for _ in range(self.config.samples):
            q = action_values(*sample_mdp(state, self.config.prior_mean, rng), self.family.horizon)
            largest = q if largest is None else torch.maximum(largest, q)
        assert largest is not None
        return largest


@dataclass(frozen=True)
class BEBConfig(TabularConfig):
    """The prior, and the bonus."""

    bonus: Annotated[float, Range(0, 1e6)] = 0.5
    """Beta. The default was the best of a search over 10 and 25 episodes of metarl/TabularMDP-v0 together."""


class BEB(TabularAgent):
    """BEB plans in the mean MDP with a bonus beta / (1 + n(s, a)) on the rewards (Kolter and Ng 2009).

    The mean reward is (m + G) / (1 + n), so a bonus beta has the same effect as adding beta to the prior mean m.
    """

    name = "beb"
    Config = BEBConfig

    def __init__(self, family: Family, config: BEBConfig, seed: int = 0, device: torch.device | str = "cpu") -> None:
        super().__init__(family, config, seed, device)

    def plan(self, state: AgentState, rng: Rng) -> Tensor:
        """Action values of the posterior mean with the bonus."""
        reward = mean_reward(state, self.config.prior_mean) + self.config.bonus / (1.0 + state["visits"])
        return action_values(reward, mean_transition(state), self.family.horizon)


class GreedyMDP(TabularAgent):
    """Plays the optimal policy of the posterior mean MDP, without exploration."""

    name = "greedy_mdp"
    Config = TabularConfig

    def plan(self, state: AgentState, rng: Rng) -> Tensor:
        """Action values of the posterior mean."""
        return action_values(mean_reward(state, self.config.prior_mean), mean_transition(state), self.family.horizon)


@dataclass(frozen=True)
class EpsilonGreedyMDPConfig(TabularConfig):
    """The prior, and the probability of exploring."""

    epsilon: Annotated[float, Range(0, 1)] = 0.05
    """Probability of a uniformly random action at every step."""


class EpsilonGreedyMDP(GreedyMDP):
    """Plays the optimal policy of the posterior mean MDP, and a random action with probability epsilon."""

    name = "epsilon_greedy_mdp"
    Config = EpsilonGreedyMDPConfig

    def __init__(
        self, family: Family, config: EpsilonGreedyMDPConfig, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(family, config, seed, device)
        self.epsilon = config.epsilon
