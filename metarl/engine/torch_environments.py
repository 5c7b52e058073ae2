"""Environments of a torch family, stepped as one batch on one device with masks and static shapes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from metarl.agent_base import REPORTED, SimulatorState
from metarl.engine.cuda_graphs import CudaGraphCache
from metarl.engine.environments import Transition
from metarl.errors import InvalidValueError, verbatim
from metarl.families.family import Family, State, TorchFamily
from metarl.families.tasks import Tasks
from metarl.rng import Rng, fold_in


class TorchEnvironments:
    """Environments of a `TorchFamily`, stepped as one batch on one device with masks and static shapes."""

    def __init__(self, family: TorchFamily, n: int, device: torch.device) -> None:
        self.family, self.n, self.device = family, n, device
        self.cuda_graphs = CudaGraphCache()
        self.state: State = None
        self.task: dict[str, Tensor] = {}
        self.t = torch.zeros(n, dtype=torch.int64, device=device)  # step within the episode
        self._never = torch.zeros(n, dtype=torch.bool, device=device)
        self._always = ~self._never

    @property
    def simulator(self) -> SimulatorState:
        """The family's state, the tasks and the time."""
        return SimulatorState(self.state, self.task, self.t)

    def begin(self, tasks: Tasks, keys: Tensor, steps: int, episode: int = 0) -> Tensor:
        """See `Environments.begin`."""
        return self.start(tasks.tensors(self.device), keys.to(self.device), steps, episode)

    def start(self, task: dict[str, Tensor], keys: Tensor, steps: int, episode: int = 0) -> Tensor:
        """Like `begin`, with the tasks' values `[N, ...]` and the keys `[N]` as tensors on the device."""
        self.task = task
        self._set_keys(keys, steps)
        self.clock = 0  # steps since begin
        self._synchronous = True  # whether all environments are at the same step of their episode
        self.t = torch.zeros_like(self.t)  # a new tensor: a captured rollout must not write to that of another
        self.state = self.family.begin_at(self.task, self._reset_rng.seek(0), episode)
        obs = self.family.observe(self.state, self.task)
        shape = (self.n, *(self.family.observation_space.shape or ()))
        _check_tensor(self.family, "observe", "observation", obs, shape)
        return obs

    def step(self, action: Tensor) -> Transition:
        """See `Environments.step`."""
        out, ended = self.advance(action)
        if ended is None:
            return out
        return out._replace(obs=self.restart(ended, synchronous=ended is self._always))

    def advance(self, action: Tensor) -> tuple[Transition, Tensor | None]:
        """One step without restarts; also which environments ended, `bool [N]`, or None if none did for certain."""
        result = self.family.step(self.state, action, self.task, self._step_rng.seek(self.clock))
        if self.clock == 0:
            _check_result(self.family, result)
        self.state, reward, terminated = result[:3]
        info = result[3] if len(result) == 4 else {}
        if self.clock == 0:
            _check_tensor(self.family, "step", "reward", reward, (self.n,), torch.float32)
            _check_tensor(self.family, "step", "terminated", terminated, (self.n,), torch.bool)
            for name, (dtype, _) in REPORTED.items():
                if name in info:
                    _check_tensor(self.family, "step", f"info[{name!r}]", info[name], (self.n,), dtype)
        self.clock += 1
        self.t += 1
        obs = self.family.observe(self.state, self.task)
        truncated, ended = self._endings(terminated)
        reported = (info.get(name) for name in REPORTED)
        return Transition(obs, reward, terminated, truncated, obs, *reported), ended

    def _set_keys(self, keys: Tensor, steps: int) -> None:
        self._step_rng = Rng(fold_in(keys, 1), steps)
        self._reset_rng = Rng(fold_in(keys, 2))

    def restart(
        self,
        mask: Tensor,
        tasks: Tasks | None = None,
        keys: Tensor | None = None,
        synchronous: bool = False,
        new_trial: bool = False,
    ) -> Tensor:
        """Start an episode in the environments where `mask` is true; return all observations, `[N, ...]`.

        Args:
            mask: `bool [N]`.
            tasks: N tasks for the new episodes; by default the tasks stay.
            keys: `int64 [N]`, keys for the new episodes; by default the keys stay.
            synchronous: whether all environments end their episodes at the same step.
            new_trial: whether the episode is the first of a new trial instead of the next episode of the trial.
        """
        self._synchronous = self._synchronous and synchronous
        if keys is not None:
            for purpose, rng in ((1, self._step_rng), (2, self._reset_rng)):
                rng.rekey(mask, fold_in(keys.to(self.device), purpose), self.clock)
        if tasks is not None:
            self.task = tree_where(mask, tasks.tensors(self.device), self.task)
        rng = self._reset_rng.seek(self.clock)
        fresh = self.family.reset(self.task, rng) if new_trial else self.family.next_episode(self.state, self.task, rng)
        self.state = fresh if mask is self._always else tree_where(mask, fresh, self.state)
        self.t = torch.where(mask, torch.zeros_like(self.t), self.t)
        return self.family.observe(self.state, self.task)

    def _endings(self, terminated: Tensor) -> tuple[Tensor, Tensor | None]:
        """Which environments are truncated, and which ended."""
        if self._synchronous and not self.family.terminates:  # known without a look at the device
            if self.clock % self.family.horizon:
                return self._never, None
            return self._always, self._always
        truncated = (self.t >= self.family.horizon) & ~terminated
        ended = terminated | truncated
        if self.device.type == "cpu" and not ended.any():
            return truncated, None
        return truncated, ended

    def close(self) -> None:
        """Do nothing: there are no resources to free."""


def tree_where(mask: Tensor, new: State, old: State) -> State:
    """`torch.where` for a tensor, or a dict or tuple of tensors. The mask `bool [N]` is broadcast over further axes."""
    if isinstance(new, Tensor):
        return torch.where(mask.view(-1, *[1] * (new.dim() - 1)), new, old)
    if isinstance(new, Mapping):
        return {k: tree_where(mask, new[k], old[k]) for k in new}
    return tuple(tree_where(mask, a, b) for a, b in zip(new, old, strict=True))


def _check_result(family: Family, result: object) -> None:
    if not (isinstance(result, tuple) and len(result) in (3, 4)):
        found = f"{len(result)} values" if isinstance(result, tuple) else repr(type(result).__name__)
        expected = "(state, reward, terminated), or these three and a dict"
        raise InvalidValueError(f"what {type(family).__name__}.step returns ({family.id})", verbatim(found), expected)
    if len(result) == 4 and not isinstance(result[3], Mapping):
        field = f"the fourth value of {type(family).__name__}.step ({family.id})"
        raise InvalidValueError(field, result[3], "a dict such as {'success': success}")


def _check_tensor(
    family: Family, function: str, what: str, value: object, shape: tuple[int, ...], dtype: torch.dtype | None = None
) -> None:
    field = f"{what} of {type(family).__name__}.{function} ({family.id})"
    if not isinstance(value, Tensor):
        raise InvalidValueError(field, value, f"a tensor of shape {shape}")
    if tuple(value.shape) != shape:
        raise InvalidValueError(f"shape of the {field}", tuple(value.shape), f"{shape}, environments first")
    if dtype is not None and value.dtype != dtype:
        raise InvalidValueError(f"dtype of the {field}", value.dtype, str(dtype))


def one_environment(tree: State, env: int = 0) -> State:
    """Entry `env` of a tensor, or of a dict or tuple of tensors, as NumPy arrays without the leading axis."""
    if isinstance(tree, Tensor):
        return tree[env].detach().cpu().numpy()
    if isinstance(tree, Mapping):
        return {k: one_environment(v, env) for k, v in tree.items()}
    return tuple(one_environment(v, env) for v in tree)
