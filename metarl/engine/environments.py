"""The engine: N environments of any family side by side, each in a task of its own.

A finished episode is followed by the next in the same call: the observation a step returns belongs to the episode that
goes on, `final_obs` to the one that was played.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from metarl.agent_base import SimulatorState
from metarl.families.family import Family, TorchFamily
from metarl.families.tasks import Tasks


class Transition(NamedTuple):
    """What one step of all environments returns. Tensors have leading axis N."""

    obs: Tensor  # of the episode that goes on: a finished environment's is its next episode's first
    reward: Tensor  # float32
    terminated: Tensor  # bool: the MDP ended
    truncated: Tensor  # bool: the horizon was reached
    final_obs: Tensor  # obs before any restart
    success: Tensor | None  # bool, where the family reports it
    expected_reward: Tensor | None = None  # float32: before the reward was drawn, where the family reports it


class Environments(Protocol):
    """N environments that run side by side, each in its own task."""

    n: int
    device: torch.device

    @property
    def simulator(self) -> SimulatorState | None:
        """What privileged agents see; None where the state of the environments cannot be had."""

    def begin(self, tasks: Tasks, keys: Tensor, steps: int, episode: int = 0) -> Tensor:
        """Start an episode of task `i` in environment `i`; randomness descends from `keys`, `int64 [N]`; the first obs.

        `episode` is its number in the trial, which families whose task switches look at.
        """

    def step(self, action: Tensor) -> Transition:
        """One step of every environment, restarting those whose episode ended."""

    def close(self) -> None:
        """Free what the environments hold."""


@contextmanager
def engine_threads(family: Family) -> Iterator[None]:
    """One thread for PyTorch while a family that steps in threads of its own (`on_host`) is played.

    PyTorch's threads wait for their next work by spinning, which would take the cores from those that step: with two of
    each on two cores 256 HalfCheetahs ran at 58 % of the speed.
    """
    threads = torch.get_num_threads()
    alone = isinstance(family, TorchFamily) and family.on_host and threads > 1
    if alone:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if alone:
            torch.set_num_threads(threads)
