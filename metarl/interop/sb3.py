"""Stable-Baselines3 both ways (Raffin et al. 2021, JMLR 22(268)): families as its environments, its models as agents.

    env = metarl.sb3.make_sb3_env("metarl/PointNavigation-v0", num_envs=8)     # a new train task in every episode
    model = stable_baselines3.PPO("MlpPolicy", env).learn(100_000)
    results = metarl.evaluate(metarl.sb3.wrap(model, "metarl/PointNavigation-v0"), k=3)

The agents that train a model of their own are in `agents/baselines/sb3.py`. They stand on `sb3_models`: environments
that keep what was played (`RecordingVecEnv`), and a model's state as tensors (`ModelTensors`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from metarl.agent_base import Agent, Device, resolve_device
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
    where = resolve_device(device)
    if isinstance(built, GymFamily):
        shown = built.visible() if render_mode else built
        env = gym_vec_env(shown, num_envs, task, split, task_seed, redraw)
    elif redraw == "episode" and isinstance(task, Tasks):
        env = FamilyVecEnv(CyclingVectorEnv(built, num_envs, task, where, render_mode))
    else:
        how = AutoresetMode.SAME_STEP
        env = FamilyVecEnv(MetaVectorEnv(built, num_envs, task, split, task_seed, redraw, how, where, render_mode))
    return NormalizedActions(env) if normalize_actions and normalized_space(built) != built.action_space else env


def wrap(
    model: BaseAlgorithm,
    family: str | Family,
    steps: int | None = None,
    num_envs: int | None = None,
    seed: int = 0,
    device: Device = "cpu",
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
