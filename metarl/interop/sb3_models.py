"""Stable-Baselines3 models as agents: the steps that a model plays, and a model's state as tensors."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.vec_env import VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from torch import Tensor

from metarl.agent_base import Rollout
from metarl.engine.step_listeners import notify_listeners
from metarl.families.tasks import Tasks

_NOT_STATE = {"start_time"}  # numeric attributes of a model that are not part of its state


class RecordingVecEnv(VecEnvWrapper):
    """Keeps all steps since the last `begin`, so that every step that a model uses is counted."""

    def begin(self, seeds: Sequence[int], task: Tasks | None = None) -> None:
        """Forget all steps. The next reset uses `seeds`, one for each environment, and starts `task`."""
        self.steps: list[dict[str, npt.NDArray[Any]]] = []
        self.reports_success = False
        self.unwrapped._seeds = list(seeds)
        if task is not None:
            self.set_options({"task": task})

    def reset(self) -> VecEnvObs:
        """See `VecEnv.reset`."""
        self.obs = np.array(self.venv.reset())
        return self.obs

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """See `VecEnv.step_async`."""
        self.actions = np.array(actions)
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """See `VecEnv.step_wait`. Rewards are copied, because models add bootstrapped values to them."""
        obs, reward, done, infos = self.venv.step_wait()
        notify_listeners(self.num_envs)
        truncated = np.array([info["TimeLimit.truncated"] for info in infos], dtype=bool) & done
        success = [info.get("success", info.get("is_success")) for info in infos]
        self.reports_success |= any(s is not None for s in success)
        self.steps.append(
            {
                "obs": self.obs,
                "action": self.actions,
                "reward": np.array(reward, dtype=np.float32),
                "terminated": done & ~truncated,
                "truncated": truncated,
                "success": np.array([bool(s) for s in success]),
            }
        )
        self.obs = np.array(obs)
        return obs, reward, done, infos

    def rollout(self, device: torch.device) -> Rollout:
        """The steps since `begin` as one row: tensors `[T, 1, num_envs, ...]`."""
        assert self.steps, "no steps since begin"
        data: dict[str, Any] = {
            k: _tensor(np.stack([s[k] for s in self.steps]), device).unsqueeze(1) for k in self.steps[0]
        }
        success = data.pop("success")
        valid = torch.ones_like(data["terminated"])
        last = _tensor(self.obs, device).unsqueeze(0)
        return Rollout(**data, valid=valid, last_obs=last, success=success if self.reports_success else None)


def _tensor(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Convert an array to a tensor, float64 to float32 as the engine does."""
    out = torch.tensor(array, device=device)
    return out.float() if out.dtype == torch.float64 else out


def join_rows(rollouts: Sequence[Rollout]) -> Rollout:
    """Join rollouts `[T, 1, E, ...]` to one of many rows. Shorter rollouts are padded with steps that are not valid."""
    longest = max(len(r.reward) for r in rollouts)

    def join(values: Sequence[Tensor]) -> Tensor:
        pads = [v.new_zeros((longest - len(v), *v.shape[1:])) for v in values]
        return torch.cat([torch.cat(pair) if len(pair[1]) else pair[0] for pair in zip(values, pads, strict=True)], 1)

    fields = ("obs", "action", "reward", "terminated", "truncated", "valid")
    data: dict[str, Any] = {name: join([getattr(r, name) for r in rollouts]) for name in fields}
    if any(r.success is not None for r in rollouts):
        data["success"] = join([torch.zeros_like(r.valid) if r.success is None else r.success for r in rollouts])
    return Rollout(**data, last_obs=torch.cat([r.last_obs for r in rollouts]))


def recording_of(model: BaseAlgorithm) -> RecordingVecEnv:
    """Find the `RecordingVecEnv` among the wrappers of a model's environment."""
    env = model.env
    while not isinstance(env, RecordingVecEnv):
        assert isinstance(env, VecEnvWrapper), "the model was built with a RecordingVecEnv"
        env = env.venv
    return env


class ModelTensors:
    """Reads and writes a model's whole state as named tensors: parameters, optimizers, counters, replay buffer.

    An optimizer has no state before its first step. It is then read as zeros, and "begun" is 0: shapes never change.
    Counters are the model's numeric attributes that are not hyperparameters.

    Args:
        model: a model with the structure of those that are read and written.
        hyperparameters: names of the constructor's arguments.
    """

    def __init__(self, model: BaseAlgorithm, hyperparameters: Sequence[str]) -> None:
        self.parts, self.variables = model._get_torch_save_params()
        numbers = {k for k, v in vars(model).items() if isinstance(v, (bool, int, float))}
        self.counters = sorted(numbers - set(hyperparameters) - _NOT_STATE)

    def read(self, model: BaseAlgorithm, replay: str = "used") -> dict[str, Tensor]:
        """Copy a model's state to named tensors.

        Args:
            model: the model.
            replay: part of the replay buffer: "used", "all" or "none".
        """
        out: dict[str, Tensor] = {}
        for name in self.parts:
            part = recursive_getattr(model, name)
            values = _read_optimizer(part) if isinstance(part, torch.optim.Optimizer) else part.state_dict()
            out |= {f"{name}/{k}": v for k, v in values.items()}
        for name in self.variables:
            value = recursive_getattr(model, name)
            out |= {} if value is None else {name: value}
        out["counters"] = torch.tensor([float(getattr(model, n)) for n in self.counters], dtype=torch.float64)
        buffer = getattr(model, "replay_buffer", None)
        if buffer is not None:
            size = buffer.buffer_size
            used = {"all": size, "none": 0}.get(replay, size if buffer.full else min(buffer.pos + 1, size))
            for name, array in _replay_arrays(buffer).items():
                out[f"replay_buffer/{name}"] = torch.from_numpy(array[:used])
            at = (0, False) if replay == "none" else (buffer.pos, buffer.full)
            out["replay_buffer/position"] = torch.tensor([float(x) for x in at])
        return {k: v.detach().to(model.device, copy=True).contiguous() for k, v in out.items()}

    def write(self, model: BaseAlgorithm, tensors: dict[str, Tensor]) -> None:
        """Set a model's state to tensors that `read` returned."""
        for name in self.parts:
            part, prefix = recursive_getattr(model, name), f"{name}/"
            values = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            if isinstance(part, torch.optim.Optimizer):
                _write_optimizer(part, values)
            else:
                part.load_state_dict(values)
        for name in self.variables:
            if name in tensors:
                recursive_getattr(model, name).data.copy_(tensors[name])
        for name, value in zip(self.counters, tensors["counters"].tolist(), strict=True):
            setattr(model, name, type(getattr(model, name))(value))
        buffer = getattr(model, "replay_buffer", None)
        if buffer is not None:
            for name, array in _replay_arrays(buffer).items():
                values_ = tensors[f"replay_buffer/{name}"].cpu().numpy()
                array[: len(values_)] = values_
            buffer.pos, buffer.full = (int(x) for x in tensors["replay_buffer/position"].tolist())
            buffer.full = bool(buffer.full)

    def all_finite(self, model: BaseAlgorithm) -> bool:
        """Whether the parameters and the optimizers' states are finite numbers."""
        tensors = self.read(model, "none")
        return all(bool(torch.isfinite(v).all()) for v in tensors.values() if v.is_floating_point())


def stack_rows(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stack the tensors of R models to `[R, ...]`; shorter replay buffers are padded with zeros."""
    out = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if len({v.shape for v in values}) > 1:
            longest = max(len(v) for v in values)
            values = [torch.cat([v, v.new_zeros((longest - len(v), *v.shape[1:]))]) for v in values]
        out[name] = torch.stack(values)
    return out


def _read_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Read the state of parameter i as "i/name"; "begun" `int64 [parameters]` is 1 where a parameter has a state."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    begun = [p in optimizer.state and len(optimizer.state[p]) > 0 for p in params]
    empty = None if all(begun) else _first_state(optimizer)
    out = {"begun": torch.tensor([int(b) for b in begun])}
    for i, (p, has) in enumerate(zip(params, begun, strict=True)):
        for key, value in (optimizer.state[p] if has or empty is None else empty[i]).items():
            tensor = torch.as_tensor(value)
            out[f"{i}/{key}"] = tensor if has else torch.zeros_like(tensor)
    return out


def _first_state(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """State of each parameter after the optimizer's first step, of which only names and shapes are used."""
    twin = copy.deepcopy(optimizer)
    params = [p for group in twin.param_groups for p in group["params"]]
    for p in params:
        p.grad = torch.zeros_like(p)
    twin.step()
    return [twin.state[p] for p in params]


def _write_optimizer(optimizer: torch.optim.Optimizer, values: dict[str, Tensor]) -> None:
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for i, (p, has) in enumerate(zip(params, values["begun"].tolist(), strict=True)):
        optimizer.state.pop(p, None)
        own = {k.partition("/")[2]: v for k, v in values.items() if k.partition("/")[0] == str(i)}
        if has:  # step counts stay on the CPU
            optimizer.state[p] = {k: v.to("cpu" if v.dim() == 0 else p.device, copy=True) for k, v in own.items()}


def _replay_arrays(buffer: Any) -> dict[str, npt.NDArray[Any]]:
    """Arrays `[buffer_size, num_envs, ...]` of a replay buffer, by name."""
    return {k: v for k, v in vars(buffer).items() if isinstance(v, np.ndarray) and v.shape[:1] == (buffer.buffer_size,)}


def steps_per_round(model: BaseAlgorithm) -> int:
    """Environment steps between two updates of a model, over all its environments. A model uses whole rounds."""
    train_freq = getattr(model, "train_freq", None)
    frequency = train_freq.frequency if train_freq is not None else getattr(model, "n_steps", 1)
    return int(frequency) * int(model.n_envs)
