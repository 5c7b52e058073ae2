"""Hyperparameters of PPO on whole trials. All agents that PPO trains share them; each agent adds its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, TypeVar

from metarl.config import Range

ConfigT = TypeVar("ConfigT", bound="PPOConfig")
TRIAL_STEPS, BATCH_STEPS = 100, 20_000  # default lengths of a trial and of a meta-update


@dataclass(frozen=True)
class PPOConfig:
    """Hyperparameters of PPO on whole trials. "The paper" is the one of RL2 (Duan et al. 2016, arXiv:1611.02779)."""

    # Agents that do not learn within a trial use this constant; other agents have the field of TrialPPOConfig.
    trial_episodes = 1

    meta_batch_size: Annotated[int, Range(0, 1e7)] = 0
    """Trials per meta-update, each in its own task (RL2's paper: 250,000 environment steps). 0 chooses as many trials
    as make about 20,000 steps, at most 1,000 and at least 2 per minibatch."""
    learning_rate: Annotated[float, Range(0, 10)] = 3e-3
    """Learning rate of Adam (RL2's paper: 1e-3, with batches 25 times as large)."""
    anneal_iterations: Annotated[int, Range(0, 1e9)] = 0
    """Meta-updates over which the learning rate and the entropy bonus fall linearly to 0; training ends there at the
    latest. 0 keeps both constant."""
    entropy_anneal: Annotated[float, Range(0.001, 1)] = 1.0
    """Share of `anneal_iterations` after which the entropy bonus is 0. Below 1, the last updates have no bonus."""
    epochs: Annotated[int, Range(1, 1e3)] = 4
    """Passes over the batch per meta-update."""
    target_kl: Annotated[float, Range(0, 1e9)] = 0.0
    """Once the KL from the policy that played, on a minibatch before a gradient step, is above 1.5 times this, that
    step is the meta-update's last one. In nats per environment step. 0: never."""
    minibatches: Annotated[int, Range(1, 1e7)] = 8
    """Minibatches per pass; each holds a part of the trials."""
    clip: Annotated[float, Range(1e-6, 10)] = 0.2
    """PPO clips the probability ratio to [1 - clip, 1 + clip] (RL2's paper: 0.1)."""
    discount: Annotated[float, Range(0, 1)] = 0.99
    """Discount factor gamma; it acts across the episodes of a trial."""
    gae_lambda: Annotated[float, Range(0, 1)] = 0.3
    """Lambda of generalised advantage estimation."""
    value_coef: Annotated[float, Range(0, 1e3)] = 0.5
    """Weight of the squared value error."""
    entropy_coef: Annotated[float, Range(-1e3, 1e3)] = 0.0
    """Weight of the entropy bonus."""
    max_grad_norm: Annotated[float, Range(1e-09, 1e9)] = 0.5
    """Gradients with a larger norm are scaled down to this norm."""
    log_std: Annotated[float, Range(-20, 20)] = 0.0
    """Initial logarithm of the action's standard deviation, for Box actions in [-1, 1]; it is trained. Robots
    such as HalfCheetahVel and AntDir are learned much sooner from -1. 0 keeps what the network begins with, which is 0
    in the package's own."""
    expected_rewards: bool = False
    """Whether to learn from expected rewards instead of drawn ones, if the family reports them. The mean gradient is
    the same and has less noise. The memory is still given the drawn rewards."""
    normalize_rewards: bool = False
    """Whether to divide rewards by the running standard deviation of discounted returns. The memory is given the
    rewards as they are."""
    normalize_features: bool = False
    """Whether to standardise what the networks are given by its mean and deviation over all training so far, as the
    authors of VariBAD do. It helps where observations have different sizes, as those of robots."""


@dataclass(frozen=True)
class TrialPPOConfig(PPOConfig):
    """PPO for agents that learn within a trial of several episodes."""

    trial_episodes: Annotated[int, Range(0, 1e6)] = 0
    """Episodes per trial in training (pulls in bandits). 0 chooses 2 to 10 episodes that make about 100 steps."""


def sized(config: ConfigT, horizon: int) -> ConfigT:
    """Replace a `trial_episodes` or `meta_batch_size` of 0 by a size that fits the family's horizon."""
    if not config.trial_episodes:
        episodes = min(10, max(2, TRIAL_STEPS // horizon))
        config = replace(config, trial_episodes=episodes)  # type: ignore[call-arg]
    trials = min(1000, max(2 * config.minibatches, BATCH_STEPS // max(1, config.trial_episodes * horizon)))
    return replace(config, meta_batch_size=config.meta_batch_size or trials)
