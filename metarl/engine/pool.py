"""A pool of environments: each size is built once and shared by many rollouts."""

from __future__ import annotations

import torch

from metarl.engine.environments import Environments
from metarl.engine.gym_environments import GymEnvironments
from metarl.engine.torch_environments import TorchEnvironments
from metarl.engine.workers import WorkerEnvironments, worker_count
from metarl.errors import InvalidValueError
from metarl.families.family import Family, TorchFamily
from metarl.families.gym_family import GymFamily


def make_environments(family: Family, n: int, device: torch.device | str = "cpu") -> Environments:
    """`n` environments of a family, in the engine for the family's form."""
    if isinstance(family, TorchFamily):
        return TorchEnvironments(family, n, torch.device(device))
    if isinstance(family, GymFamily):
        count = worker_count(family, n)
        if count < 2:
            return GymEnvironments(family, n, torch.device(device))
        return WorkerEnvironments(family, n, device, count)
    raise InvalidValueError("family", type(family).__name__, "a TorchFamily or a GymFamily")


class EnvironmentPool:
    """The environments of one family on one device, kept between rollouts and keyed by their number."""

    def __init__(self, family: Family, device: torch.device | str = "cpu") -> None:
        self.family, self.device = family, torch.device(device)
        self._environments: dict[int, Environments] = {}

    def get(self, n: int) -> Environments:
        """`n` environments. `begin` starts them afresh, whatever they played before."""
        if n not in self._environments:
            self._environments[n] = make_environments(self.family, n, self.device)
        return self._environments[n]

    def close(self) -> None:
        """Close all environments."""
        for envs in self._environments.values():
            envs.close()
        self._environments.clear()
