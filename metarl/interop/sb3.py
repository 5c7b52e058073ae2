"""Stable-Baselines3 both ways (Raffin et al. 2021, JMLR 22(268)): families as its environments, its models as agents.

    env = metarl.sb3.make_sb3_env("metarl/PointNavigation-v0", num_envs=8)     # a new train task in every episode
    model = stable_baselines3.PPO("MlpPolicy", env).learn(100_000)
    results = metarl.evaluate(metarl.sb3.wrap(model, "metarl/PointNavigation-v0"), k=3)

The agents that train a model of their own are in `agents/sb3.py`; here is what they stand on: environments that keep
what was played (`Recorder`) and a model's state as tensors (`ModelTensors`).
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn
from torch import Tensor

from metarl.agent import Agent, Rollout, resolve_device
from metarl.engine.pulse import pulse
from metarl.errors import InvalidValueError, did_you_mean
from metarl.families.family import Family
from metarl.families.gym_family import GymFamily, TaskedEnv, task_dict
from metarl.families.registry import agent_class, make_family
from metarl.families.tasks import Tasks
from metarl.interop.facades import REDRAW, RENDER_MODES, MetaVectorEnv, _merged
from metarl.learning.action_distributions import PolicyHead
from metarl.learning.encoders import ObservationEncoder

Task = int | dict[str, Any] | Tasks | None
SEED_BITS = 0x7FFFFFFF  # of a key, for what is seeded with a 31-bit number
_UNTOLD = {"start_time"}  # a model's numbers that are not part of its state


# --- families as environments ----------------------------------------------------------------------------------------


def make_sb3_env(
    family: str | Family,
    num_envs: int = 1,
    task: Task = None,
    split: str = "train",
    task_seed: int = 0,
    redraw: str | None = None,
    normalize_actions: bool = False,
    device: str = "cpu",
    render_mode: str | None = None,
    **kwargs: Any,
) -> VecEnv:
    """A family of either form as a Stable-Baselines3 `VecEnv`; torch families are stepped as one batch.

    Args:
        family: a family or its id.
        num_envs: number of environments.
        task: what they play: an index into the split, one task's values as a dict, or `Tasks`.
        split: the split that indices and redraws refer to.
        task_seed: the seed of that split.
        redraw: "never": every environment keeps its task (without `task`, tasks 0, ..., `num_envs` - 1 of the split);
            "episode": episode e of environment i plays task i + `num_envs` * e of the split, or of the `Tasks` that
            were given, which are then gone through over and over. Default: "episode" without `task`, else "never".
        normalize_actions: act in [-1, 1], mapped affinely to a bounded Box, which PPO and A2C need unless the Box is
            about that size: their first policy has mean 0 and standard deviation 1.
        device: where a torch family is stepped; arrays are NumPy's whatever it is.
        render_mode: "rgb_array" for pictures, which `VecVideoRecorder` needs.
        kwargs: for the family's constructor.

    Raises:
        InvalidValueError: an argument is out of range, or a space is none that Stable-Baselines3 takes.
    """
    built = make_family(family, **kwargs)
    check_spaces(built, "make_sb3_env")
    redraw = redraw or ("episode" if task is None else "never")
    if redraw not in REDRAW:
        raise InvalidValueError("redraw", redraw, did_you_mean(str(redraw), REDRAW))
    if render_mode not in RENDER_MODES:
        raise InvalidValueError("render_mode", render_mode, "None or 'rgb_array'")
    if not isinstance(num_envs, int) or num_envs < 1:
        raise InvalidValueError("num_envs", num_envs, "a whole number, at least 1")
    if redraw == "episode" and not (task is None or isinstance(task, Tasks)):
        raise InvalidValueError("task", task, "none or Tasks to go through, because redraw is 'episode'")
    env: VecEnv
    where = str(resolve_device(device))
    if isinstance(built, GymFamily):
        shown = built.visible() if render_mode else built
        env = _gym_vec_env(shown, num_envs, task, split, task_seed, redraw)
    elif redraw == "episode" and isinstance(task, Tasks):
        env = FamilyVecEnv(_CyclingVectorEnv(built, num_envs, task, where, render_mode))
    else:
        how = AutoresetMode.SAME_STEP
        env = FamilyVecEnv(MetaVectorEnv(built, num_envs, task, split, task_seed, redraw, how, where, render_mode))
    return NormalizedActions(env) if normalize_actions and normalized_space(built) != built.action_space else env


def normalized_space(family: Family) -> spaces.Space[Any]:
    """The action space with `normalize_actions`: [-1, 1] in place of a bounded Box."""
    space = family.action_space
    if not (isinstance(space, spaces.Box) and np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        return space
    return spaces.Box(-1.0, 1.0, space.shape, np.float32)


def check_spaces(family: Family, user: str) -> PolicyHead:
    """Refuse spaces that Stable-Baselines3 does not take; how actions are mapped to the family's."""
    ObservationEncoder(family.observation_space, user)
    head = PolicyHead(family.action_space, user)
    for name, space in (("observation", family.observation_space), ("action", family.action_space)):
        if isinstance(space, spaces.Discrete) and space.start != 0:
            raise InvalidValueError(f"{name} space of {user}", space, "a Discrete space that starts at 0")
    return head


class _CyclingVectorEnv(MetaVectorEnv):
    """Episodes go through a given set of tasks, over and over."""

    def __init__(self, family: Family, num_envs: int, tasks: Tasks, device: str, render_mode: str | None) -> None:
        self.cycle = family.resolve(tasks)
        how = AutoresetMode.SAME_STEP
        super().__init__(family, num_envs, redraw="episode", autoreset_mode=how, device=device, render_mode=render_mode)

    def _next_tasks(self) -> Tasks:
        return self.cycle[(np.arange(self.num_envs) + self.num_envs * self._episodes) % len(self.cycle)]


def _gym_vec_env(family: GymFamily, count: int, task: Task, split: str, task_seed: int, redraw: str) -> VecEnv:
    """`count` environments of a user's in Stable-Baselines3's own `DummyVecEnv`."""
    tasks = family.resolve(task, split, task_seed, count)
    if redraw == "never" and len(tasks) not in (1, count):
        raise InvalidValueError("number of tasks", len(tasks), f"1 or num_envs = {count}")

    def draw(number: int, episode: int) -> dict[str, Any]:
        index = number + count * episode
        if task is not None:
            return task_dict(tasks, index % len(tasks))
        return task_dict(family.tasks(split, 1, task_seed, start=index))

    def make(number: int) -> TaskedEnv:
        env = family.make_env(tasks[number % len(tasks)])
        if redraw == "episode":
            env.redraw = functools.partial(draw, number)
        return env

    return DummyVecEnv([functools.partial(make, i) for i in range(count)])


class _Member:
    """One environment of a `FamilyVecEnv`, as `get_attr`, `set_attr` and `env_method` see it."""

    def __init__(self, vector: MetaVectorEnv, number: int) -> None:
        self.vector, self.number = vector, number

    @property
    def task(self) -> dict[str, Any]:
        """The values of its task."""
        return task_dict(self.vector.tasks, self.number)

    def set_metarl_task(self, task: Task) -> None:
        """Play `task` from the next reset on."""
        vector = self.vector
        if vector.redraw == "episode":
            raise InvalidValueError("task", task, "none, because redraw is 'episode'")
        mask = np.arange(vector.num_envs) == self.number
        new = vector.family.resolve(task, vector.split, vector.task_seed)
        vector.tasks = _merged(mask, new[[0] * vector.num_envs], vector.tasks)

    def __getattr__(self, name: str) -> Any:
        if name in ("vector", "number"):  # not there yet, while it is being copied
            raise AttributeError(name)
        return getattr(self.vector, name)


class FamilyVecEnv(VecEnv):
    """A torch family under Stable-Baselines3's contract: a finished environment restarts in the same step.

    Each info holds "TimeLimit.truncated"; at an episode's end also "terminal_observation" and, where the family reports
    success, "is_success": whether there was any in the episode. "success" is the step's.

    Args:
        vector: the batch, which restarts in the same step.
    """

    def __init__(self, vector: MetaVectorEnv) -> None:
        assert vector.autoreset_mode is AutoresetMode.SAME_STEP, "the vector environment restarts in the same step"
        self.vector = vector
        self.members = [_Member(vector, i) for i in range(vector.num_envs)]
        self._actions: npt.NDArray[Any] = np.empty(0)
        self._success = np.zeros(vector.num_envs, dtype=bool)  # in the episode so far
        # copies, because models seed their spaces
        own = (copy.deepcopy(vector.single_observation_space), copy.deepcopy(vector.single_action_space))
        super().__init__(vector.num_envs, *own)

    def reset(self) -> VecEnvObs:
        """Start an episode everywhere, with what `seed` and `set_options` said; observations `[num_envs, *obs]`."""
        for member, options in zip(self.members, self._options, strict=True):
            if "task" in options:
                member.set_metarl_task(options["task"])
        unseeded = all(seed is None for seed in self._seeds)
        obs, _ = self.vector.reset(seed=None if unseeded else list(self._seeds))
        self._success[:] = False
        self._reset_seeds()
        self._reset_options()
        return np.asarray(obs)

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Take the actions `[num_envs, *action]`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Play them: observations, rewards `float32 [num_envs]`, dones and infos."""
        obs, reward, terminated, truncated, told = self.vector.step(self._actions)
        done = terminated | truncated
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": bool(cut)} for cut in truncated & ~terminated]
        parts = [part["success"] for part in (told, told.get("final_info", {})) if "success" in part]
        if parts:
            success = np.logical_or.reduce(parts)
            self._success |= success
            for info, now in zip(infos, success, strict=True):
                info["success"] = bool(now)
        for i in np.flatnonzero(done):
            infos[i]["terminal_observation"] = told["final_obs"][i]
            if parts:
                infos[i]["is_success"] = bool(self._success[i])
        self._success &= ~done
        return obs, reward.astype(np.float32), done, infos

    def get_images(self) -> Sequence[npt.NDArray[Any] | None]:
        """A picture of each environment, `uint8 [height, width, 3]`, or None without a `render_mode`."""
        return self.vector.render() or [None] * self.num_envs

    def close(self) -> None:
        """Free what the batch holds."""
        self.vector.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of each environment, `task` among them."""
        return [getattr(member, attr_name) for member in self._chosen(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of each environment; "task" is played from its next episode on."""
        for member in self._chosen(indices):
            if attr_name == "task":
                member.set_metarl_task(value)
            else:
                setattr(member, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """Call a method of each environment, for example `set_metarl_task`."""
        return [getattr(member, method_name)(*args, **kwargs) for member in self._chosen(indices)]

    def env_is_wrapped(self, wrapper_class: type[Any], indices: VecEnvIndices = None) -> list[bool]:
        """False for each: a batch has no wrappers."""
        return [False for _ in self._chosen(indices)]

    def _chosen(self, indices: VecEnvIndices) -> list[_Member]:
        return [self.members[i] for i in self._get_indices(indices)]


class NormalizedActions(VecEnvWrapper):
    """Actions in [-1, 1], mapped affinely to the Box of the environments."""

    def __init__(self, venv: VecEnv) -> None:
        self.head = PolicyHead(venv.action_space, "make_sb3_env")
        super().__init__(venv, action_space=spaces.Box(-1.0, 1.0, venv.action_space.shape, np.float32))

    def reset(self) -> VecEnvObs:
        """See `VecEnv.reset`."""
        return self.venv.reset()

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """See `VecEnv.step_async`."""
        self.venv.step_async(self.head.to_env(torch.as_tensor(actions, dtype=torch.float32)).numpy())

    def step_wait(self) -> VecEnvStepReturn:
        """See `VecEnv.step_wait`."""
        return self.venv.step_wait()


class Recorder(VecEnvWrapper):
    """Keeps all that is played since the last `begin`, so that every step a model consumes is counted."""

    def begin(self, seeds: Sequence[int], task: Tasks | None = None) -> None:
        """Forget what was played; the next reset is seeded, one number for each environment, and starts `task`."""
        self.steps: list[dict[str, npt.NDArray[Any]]] = []
        self.tells_success = False
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
        """See `VecEnv.step_wait`; copies are kept, because models add bootstrapped values to the rewards."""
        obs, reward, done, infos = self.venv.step_wait()
        pulse(self.num_envs)
        truncated = np.array([info["TimeLimit.truncated"] for info in infos], dtype=bool) & done
        success = [info.get("success", info.get("is_success")) for info in infos]
        self.tells_success |= any(s is not None for s in success)
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
        """What was played, as one row: tensors `[T, 1, num_envs, ...]`."""
        assert self.steps, "nothing was played"
        data: dict[str, Any] = {
            k: _tensor(np.stack([s[k] for s in self.steps]), device).unsqueeze(1) for k in self.steps[0]
        }
        success = data.pop("success")
        valid = torch.ones_like(data["terminated"])
        last = _tensor(self.obs, device).unsqueeze(0)
        return Rollout(**data, valid=valid, last_obs=last, success=success if self.tells_success else None)


def _tensor(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """As the engine gives it: float32 instead of float64."""
    out = torch.tensor(array, device=device)
    return out.float() if out.dtype == torch.float64 else out


def join_rows(rollouts: Sequence[Rollout]) -> Rollout:
    """Rollouts `[T, 1, E, ...]` as the rows of one; shorter ones are padded with steps that are not valid."""
    longest = max(len(r.reward) for r in rollouts)

    def join(values: Sequence[Tensor]) -> Tensor:
        pads = [v.new_zeros((longest - len(v), *v.shape[1:])) for v in values]
        return torch.cat([torch.cat(pair) if len(pair[1]) else pair[0] for pair in zip(values, pads, strict=True)], 1)

    fields = ("obs", "action", "reward", "terminated", "truncated", "valid")
    data: dict[str, Any] = {name: join([getattr(r, name) for r in rollouts]) for name in fields}
    if any(r.success is not None for r in rollouts):
        data["success"] = join([torch.zeros_like(r.valid) if r.success is None else r.success for r in rollouts])
    return Rollout(**data, last_obs=torch.cat([r.last_obs for r in rollouts]))


def recorder_of(model: BaseAlgorithm) -> Recorder:
    """The `Recorder` among the wrappers of a model's environment."""
    env = model.env
    while not isinstance(env, Recorder):
        assert isinstance(env, VecEnvWrapper), "the model was built with a Recorder"
        env = env.venv
    return env


# --- models ----------------------------------------------------------------------------------------------------------


class ModelTensors:
    """A model's whole state as named tensors, and back: parameters, optimizers, counters, replay buffer.

    An optimizer that has not stepped has no state; it is told as zeros, marked by "begun", so that shapes never change.
    Counters are the numbers that the model holds beside its hyperparameters.

    Args:
        model: how a model of this kind is built; only its structure matters.
        hyperparameters: the names of the constructor's arguments.
    """

    def __init__(self, model: BaseAlgorithm, hyperparameters: Sequence[str]) -> None:
        self.parts, self.variables = model._get_torch_save_params()
        numbers = {k for k, v in vars(model).items() if isinstance(v, (bool, int, float))}
        self.counters = sorted(numbers - set(hyperparameters) - _UNTOLD)

    def read(self, model: BaseAlgorithm, replay: str = "used") -> dict[str, Tensor]:
        """Copies of a model's state.

        Args:
            model: the model.
            replay: "used" part of the replay buffer, "all" or "none" of it.
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
        """Give a model the state that `read` told."""
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

    def is_finite(self, model: BaseAlgorithm) -> bool:
        """Whether the parameters and the optimizers' states are finite numbers."""
        told = self.read(model, "none")
        return all(bool(torch.isfinite(v).all()) for v in told.values() if v.is_floating_point())


def stack_rows(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """What `ModelTensors.read` told of R models: tensors `[R, ...]`; shorter replay buffers are padded with zeros."""
    out = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if len({v.shape for v in values}) > 1:
            longest = max(len(v) for v in values)
            values = [torch.cat([v, v.new_zeros((longest - len(v), *v.shape[1:]))]) for v in values]
        out[name] = torch.stack(values)
    return out


def _read_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of parameter i as "i/name", and which parameters have one, "begun" `int64 [parameters]`."""
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
    """What an optimizer will hold of each parameter after its first step."""
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
        if has:  # step counts stay with the host
            optimizer.state[p] = {k: v.to("cpu" if v.dim() == 0 else p.device, copy=True) for k, v in own.items()}


def _replay_arrays(buffer: Any) -> dict[str, npt.NDArray[Any]]:
    """The arrays `[buffer_size, num_envs, ...]` of a replay buffer."""
    return {k: v for k, v in vars(buffer).items() if isinstance(v, np.ndarray) and v.shape[:1] == (buffer.buffer_size,)}


def steps_per_round(model: BaseAlgorithm) -> int:
    """Environment steps between two of a model's updates, all environments together: it consumes whole rounds."""
    train_freq = getattr(model, "train_freq", None)
    frequency = train_freq.frequency if train_freq is not None else getattr(model, "n_steps", 1)
    return int(frequency) * int(model.n_envs)


def wrap(
    model: BaseAlgorithm,
    family: str | Family,
    steps: int | None = None,
    num_envs: int | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Agent:
    """Your own trained model as an agent: evaluated as it is at k = 0, fine-tuned on each task by k rounds of `learn`.

    Args:
        model: any Stable-Baselines3 model; it is copied, and never changed.
        family: what it plays.
        steps: environment steps of one adaptation step; by default the whole rounds that reach 2048.
        num_envs: environments that a task is learned in side by side; by default as many as the model has.
        seed: which names the agent among others; draws are keyed by the evaluation's.
        device: where it lives.
    """
    if not isinstance(model, BaseAlgorithm):
        raise InvalidValueError("model", type(model).__name__, "a Stable-Baselines3 model")
    count = num_envs or int(model.n_envs)
    if steps is None:
        whole = steps_per_round(model) // int(model.n_envs) * count
        steps = whole * math.ceil(2048 / whole)
    build: Callable[..., Agent] = agent_class("sb3").of_model
    return build(model, make_family(family), steps, count, seed, resolve_device(device))
