"""Stable-Baselines3 (Raffin et al. 2021, JMLR 22(268)): families as its environments, and its models as agents.

    env = metarl.sb3.make_sb3_env("metarl/PointNavigation-v0", num_envs=8)     # a new train task in every episode
    model = stable_baselines3.PPO("MlpPolicy", env).learn(100_000)
    results = metarl.evaluate(metarl.sb3.wrap(model, "metarl/PointNavigation-v0"), k=3)

The agents that train their own model are in `agents/baselines/sb3.py`. They use `sb3_models`: `RecordingVecEnv` keeps
the steps that were played, and `ModelTensors` reads a model's state as tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from metarl.agent_base import Agent
from metarl.devices import Device, resolve_device
from metarl.errors import InvalidValueError, did_you_mean
from metarl.families.family import Family
from metarl.families.gym_family import GymFamily
from metarl.families.registry import agent_class, make_family
from metarl.families.tasks import TaskLike, Tasks
from metarl.interop.facades import REDRAW, RENDER_MODES, MetaVectorEnv
from metarl.interop.sb3_models import steps_per_round
from metarl.interop.sb3_vec_env import (
    CyclingVectorEnv,
    FamilyVecEnv,
    NormalizedActions,
    check_spaces,
    gym_vec_env,
    normalized_space,
)


def make_sb3_env(
    family: str | Family,
    num_envs: int = 1,
    task: TaskLike | None = None,
    split: str = "train",
    task_seed: int = 0,
    redraw: str | None = None,
    normalize_actions: bool = False,
    device: Device | torch.device = "cpu",
    render_mode: str | None = None,
    **kwargs: Any,
) -> VecEnv:
    """Make a Stable-Baselines3 `VecEnv` of a family of either form. A torch family is stepped as one batch.

    Args:
        family: a family or its id.
        num_envs: number of environments.
        task: an index into the split, one task's values as a dict, or `Tasks`.
        split: the split that indices and redraws refer to.
        task_seed: the seed of that split.
        redraw: "never": every environment keeps its task (without `task`: tasks 0, ..., `num_envs` - 1 of the split).
            "episode": episode e of environment i plays task i + `num_envs` * e of the split, or of the `Tasks` in
            `task`, which then repeat. The default is "episode" without `task`, and "never" with one.
        normalize_actions: whether actions lie in [-1, 1] and are mapped affinely to a bounded Box. PPO and A2C need it
            unless the Box has about that size, because their first policy has mean 0 and standard deviation 1.
        device: the device that steps a torch family; all returned arrays are NumPy arrays.
        render_mode: "rgb_array" for pictures; `VecVideoRecorder` needs it.
        kwargs: arguments of the family's constructor.

    Raises:
        InvalidValueError: an argument is out of range, or Stable-Baselines3 does not support a space.
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
        raise InvalidValueError("task", task, "None or Tasks, because redraw is 'episode'")
    env: VecEnv
    torch_device = resolve_device(device)
    if isinstance(built, GymFamily):
        source = built.visible() if render_mode else built
        env = gym_vec_env(source, num_envs, task, split, task_seed, redraw)
    elif redraw == "episode" and isinstance(task, Tasks):
        env = FamilyVecEnv(CyclingVectorEnv(built, num_envs, task, torch_device, render_mode))
    else:
        same_step = AutoresetMode.SAME_STEP
        env = FamilyVecEnv(
            MetaVectorEnv(built, num_envs, task, split, task_seed, redraw, same_step, torch_device, render_mode)
        )
    return NormalizedActions(env) if normalize_actions and normalized_space(built) != built.action_space else env


def wrap(
    model: BaseAlgorithm,
    family: str | Family,
    steps: int | None = None,
    num_envs: int | None = None,
    seed: int = 0,
    device: Device = "cpu",
) -> Agent:
    """Wrap your own trained model as an agent. k = 0 is the model itself; adaptation steps call `learn` on the task.

    Args:
        model: any Stable-Baselines3 model; it is copied and never changed.
        family: the family that the model plays.
        steps: environment steps of one adaptation step; the default is the whole rounds that reach 2048.
        num_envs: environments of one task, side by side; the default is the number of the model's environments.
        seed: a label of the agent in results. The evaluation's seed decides all draws.
        device: the device of the model's copy.
    """
    if not isinstance(model, BaseAlgorithm):
        raise InvalidValueError("model", type(model).__name__, "a Stable-Baselines3 model")
    count = num_envs or int(model.n_envs)
    if steps is None:
        round_steps = steps_per_round(model) // int(model.n_envs) * count
        steps = round_steps * math.ceil(2048 / round_steps)
    build: Callable[..., Agent] = agent_class("sb3").of_model
    return build(model, make_family(family), steps, count, seed, resolve_device(device))
