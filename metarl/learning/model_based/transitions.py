"""The transitions of a trial as vectors: what a model adapts to, and what it is trained to predict."""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.agent_base import Feedback, Rollout
from metarl.families.family import Family
from metarl.learning.action_distributions import PolicyHead
from metarl.learning.encoders import ObservationEncoder


class TransitionLayout:
    """Where the numbers of a transition are in a vector of `size` features.

    They are the observation, the action, the reward, the change of the observation, and three flags: whether the
    change is known, which it is not of an episode's last step; whether the MDP ended; whether it is a transition at
    all. A vector of zeros is none.

    Args:
        family: what is played.
        user: who asks, for the error message.

    Attributes:
        encode: observations as features.
        head: actions as features.
        obs: the place of the observation; `action`, `reward` and `change` are those of the others.
        numbers: how many features are no flags; they come first.
        size: features in all.

    Raises:
        InvalidValueError: the family's spaces are not those of `ObservationEncoder` and `PolicyHead`.
    """

    def __init__(self, family: Family, user: str) -> None:
        self.encode = ObservationEncoder(family.observation_space, user)
        self.head = PolicyHead(family.action_space, user)
        ends = torch.tensor([self.encode.size, self.head.features, 1, self.encode.size]).cumsum(0).tolist()
        self.obs, self.action, self.reward, self.change = map(slice, [0, *ends[:-1]], ends)
        self.numbers = ends[-1]
        self.known, self.terminated, self.valid = range(self.numbers, self.numbers + 3)
        self.size = self.numbers + 3

    def of(self, rollout: Rollout) -> Tensor:
        """The transitions of a rollout with one environment per row, `[T, R, size]`."""
        obs = self.encode(rollout.obs)[:, :, 0]
        following = torch.cat([obs[1:], self.encode(rollout.last_obs)[:, 0].unsqueeze(0)])
        feedback = Feedback(rollout.action, rollout.reward, rollout.terminated, rollout.truncated)
        return self.completed(torch.where(rollout.valid, self.begun(obs, feedback), 0.0), following)

    def begun(self, obs: Tensor, feedback: Feedback) -> Tensor:
        """Transitions of which the next observation was not seen yet.

        Args:
            obs: features of the observations, `[..., obs]`.
            feedback: of one environment each, `[..., 1, *]`.

        Returns:
            `[..., size]`.
        """
        action, reward = self.head.encode(feedback.action)[..., 0, :], feedback.reward
        goes_on = ~(feedback.terminated | feedback.truncated)
        flags = [goes_on.float(), feedback.terminated.float(), torch.ones_like(reward)]
        return torch.cat([obs, action, reward, torch.zeros_like(obs), *flags], -1)

    def completed(self, transitions: Tensor, obs: Tensor) -> Tensor:
        """The transitions `[..., size]` with their changes, where these are known, from the next `obs` `[..., obs]`."""
        known = transitions[..., self.known, None] > 0
        change = torch.where(known, obs - transitions[..., self.obs], 0.0)
        return torch.cat([transitions[..., : self.change.start], change, transitions[..., self.change.stop :]], -1)
