"""Hyperparameters of PPO on whole trials, which the agents that it trains share; each adds its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, TypeVar

from metarl.config import Range

ConfigT = TypeVar("ConfigT", bound="PPOConfig")
TRIAL_STEPS, BATCH_STEPS = 100, 20_000  # of trials and meta-updates, where nobody says how long they are


@dataclass(frozen=True)
class PPOConfig:
    """Hyperparameters of PPO on whole trials; "the paper" is RL2's (Duan et al. 2016, arXiv:1611.02779)."""

    trial_episodes: Annotated[int, Range(0, 1e6)] = 0
    """Episodes per trial in training (bandits: pulls); 0: from 2 to 10, as many as make about 100 steps."""
    meta_batch_size: Annotated[int, Range(0, 1e7)] = 0
    """Trials per meta-update, each in a task of its own (the paper: 250,000 environment steps); 0: as many as make
    about 20,000 steps, at most 1,000 and at least 2 for each minibatch."""
    learning_rate: Annotated[float, Range(0, 10)] = 3e-3
    """Of Adam (the paper: 1e-3, with batches 25 times as large)."""
    anneal_iterations: Annotated[int, Range(0, 1e9)] = 0
    """Meta-updates over which the learning rate and the entropy bonus fall to 0, linearly, and of which there can be no
    more; 0: they stay."""
    entropy_anneal: Annotated[float, Range(0.001, 1)] = 1.0
    """Part of `anneal_iterations` after which the entropy bonus is 0: below 1 the policy has time left to settle."""
    epochs: Annotated[int, Range(1, 1e3)] = 4
    """Passes over a batch."""
    minibatches: Annotated[int, Range(1, 1e7)] = 8
    """Parts that a pass splits the trials into."""
    clip: Annotated[float, Range(1e-6, 10)] = 0.2
    """PPO's clipping of the probability ratio (the paper: 0.1)."""
    discount: Annotated[float, Range(0, 1)] = 0.99
    """Gamma, across episodes."""
    gae_lambda: Annotated[float, Range(0, 1)] = 0.3
    """Lambda of generalised advantage estimation."""
    value_coef: Annotated[float, Range(0, 1e3)] = 0.5
    """Weight of the squared value error."""
    entropy_coef: Annotated[float, Range(-1e3, 1e3)] = 0.0
    """Weight of the entropy bonus."""
    max_grad_norm: Annotated[float, Range(1e-09, 1e9)] = 0.5
    """Gradients are scaled down to this norm."""
    expected_rewards: bool = False
    """Learn from the means that rewards are drawn around, where the family reports them (the memory is given what was
    drawn): the same gradient on average, without the noise of the draws."""
    normalize_rewards: bool = False
    """Learn from rewards divided by the running deviation of discounted returns (the memory sees the plain ones)."""


def sized(config: ConfigT, horizon: int) -> ConfigT:
    """The hyperparameters with the sizes that the family's horizon decides where they are 0."""
    episodes = config.trial_episodes or min(10, max(2, TRIAL_STEPS // horizon))
    trials = min(1000, max(2 * config.minibatches, BATCH_STEPS // max(1, episodes * horizon)))
    return replace(config, trial_episodes=episodes, meta_batch_size=config.meta_batch_size or trials)
