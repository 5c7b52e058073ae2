"""The network of `first_explore`: a memory, with a policy and a value for each of the two kinds of episodes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metarl.agent import GRU, Distribution, Given, Outputs, PolicyHead, Rng


class FirstExploreNetwork(nn.Module):
    """A memory, with a policy and a value for exploring episodes, and others for exploiting ones.

    Args:
        head: makes action distributions.
        inputs: features per step.
        hidden: units of the memory.
        pairs: exploring episodes of a trial in training; each has an exploiting one after it.
        horizon: the most steps of an episode.
    """

    def __init__(self, head: PolicyHead, inputs: int, hidden: int, pairs: int, horizon: int) -> None:
        super().__init__()
        self.head, self.pairs, self.horizon = head, pairs, horizon
        self.memory = GRU(inputs, hidden)
        self.policy, self.value = nn.Linear(hidden, 2 * head.size), nn.Linear(hidden, 2)
        self.log_std = None if head.discrete else nn.Parameter(torch.empty(2, head.size))

    def forward(self, given: Given) -> Outputs:
        """Outputs for whole trials, from what `FirstExplore.given` says of them."""
        h = self.features(given)
        return Outputs(self.distribution(h, given["exploring"]), self.value_of(h, given["exploring"]), h)

    def values(self, given: Given) -> Tensor:
        """The values alone, `[T, B]`."""
        return self.value_of(self.features(given), given["exploring"])

    def distribution(self, h: Tensor, exploring: Tensor) -> Distribution:
        """The policy at features `[..., hidden]`, the exploring one where `exploring` `[...]` is True."""
        explore, exploit = self.policy(h).chunk(2, -1)
        which = exploring.unsqueeze(-1)
        log_std = None if self.log_std is None else torch.where(which, self.log_std[0], self.log_std[1])
        return self.head.distribution(torch.where(which, explore, exploit), log_std)

    def value_of(self, h: Tensor, exploring: Tensor) -> Tensor:
        """The value at features `[..., hidden]`: `[...]`."""
        explore, exploit = self.value(h).unbind(-1)
        return torch.where(exploring, explore, exploit)

    def features(self, given: Given) -> Tensor:
        """The memory at every step, `[T, B, hidden]`.

        Exploring episodes are one sequence. Exploiting episodes are computed side by side, each from the memory that
        the exploring episode before it has left.
        """
        x, exploring, exploiting = given["x"], given["exploring"], given["exploiting"]
        inputs, size, places = x.shape[-1], self.memory.size, self.pairs * self.horizon
        sequence = (~exploring).long().argsort(stable=True, dim=0)[:places]  # the exploring steps come first
        explored = self.memory(x.gather(0, _wide(sequence, inputs)))
        now = (exploring.cumsum(0) - 1).clamp_min(0)  # at an exploiting step: the last exploring step before it
        known = explored.gather(0, _wide(now, size))
        # a row of places for each step of exploiting episodes, and one more for all that is none
        place = torch.where(exploiting, given["time"] * self.pairs + given["pair"], places)
        begins = torch.where(exploiting & (given["time"] == 0), given["pair"], self.pairs)
        beside = x.new_zeros(places + 1, x.shape[1], inputs).scatter(0, _wide(place, inputs), x)[:-1]
        first = x.new_zeros(self.pairs + 1, x.shape[1], size).scatter(0, _wide(begins, size), known)[:-1]
        played = self.memory.rnn(beside.view(self.horizon, -1, inputs), first.view(1, -1, size))[0]
        played = played.view(places, -1, size).gather(0, _wide(place.clamp_max(places - 1), size))
        return torch.where(exploring.unsqueeze(-1), known, played)

    @torch.no_grad()
    def initialise(self, rng: Rng) -> None:
        """Draw all weights with keys: the memory and the values in the memory's range, the policies in 1 % of it."""
        self.memory.initialise(rng)
        for layer, scale in ((self.policy, 0.01), (self.value, 1.0)):
            bound = scale * self.memory.size**-0.5
            layer.weight.copy_((2.0 * rng.uniform(*layer.weight.shape)[0] - 1.0) * bound)
            layer.bias.zero_()
        if self.log_std is not None:
            self.log_std.zero_()


def _wide(index: Tensor, features: int) -> Tensor:
    """An index `[T, B]` for `gather` and `scatter` of `[T, B, features]`."""
    return index.unsqueeze(-1).expand(-1, -1, features)
