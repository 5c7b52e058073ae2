"""The interface of the engine: N environments of any family run in parallel, each in its own task.

If an episode ends in a call of `step`, the same call starts the next episode. `obs` is then the first observation of
the next episode, and `final_obs` is the last observation of the episode that ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from metarl.agent_base import SimulatorState
from metarl.engine.threads import one_torch_thread
from metarl.families.family import Family, TorchFamily
from metarl.families.tasks import Tasks


class Transition(NamedTuple):
    """The result of one step of all environments. Tensors have leading axis N."""

    obs: Tensor  # observation after the step; if the episode ended, the first observation of the next episode
    reward: Tensor  # float32
    terminated: Tensor  # bool: the MDP ended
    truncated: Tensor  # bool: the horizon was reached
    final_obs: Tensor  # observation after the step, before any restart
    success: Tensor | None  # bool; None if the family does not report it
    expected_reward: Tensor | None = None  # float32: mean of the random reward; None if the family does not report it
    dense_reward: Tensor | None = None  # float32: a denser reward for training; None if the family does not report it


class Environments(Protocol):
    """N environments that run in parallel, each in its own task."""

    n: int
    device: torch.device

    @property
    def simulator(self) -> SimulatorState | None:
        """The environments' state for privileged agents, or None if the environments do not expose their state."""

    def begin(self, tasks: Tasks, keys: Tensor, steps: int, episode: int = 0) -> Tensor:
        """Start an episode of task `i` in environment `i` and return the first observations, `[N, ...]`.

        Args:
            tasks: N tasks.
            keys: `int64 [N]`; all randomness descends from them.
            steps: expected number of steps, a hint by which draws are made in blocks.
            episode: number of the episode in its trial (from 0), for families whose task switches.
        """

    def step(self, action: Tensor) -> Transition:
        """Take one step in every environment, and restart those whose episode ended."""

    def close(self) -> None:
        """Free the resources of the environments."""


@contextmanager
def engine_threads(family: Family) -> Iterator[None]:
    """Limit PyTorch to one thread during the rollout of a family with its own threads (`on_host`).

    PyTorch's idle threads spin and occupy the cores that the family's threads need. With two threads of each on two
    cores, 256 HalfCheetahs ran at 58 % of the speed.
    """
    with one_torch_thread() if isinstance(family, TorchFamily) and family.on_host else nullcontext():
        yield
