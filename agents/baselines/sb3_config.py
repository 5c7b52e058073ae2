"""What `sb3` and its relatives are told: the algorithm, its keywords and how much it plays; checks of all of it."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from gymnasium import spaces
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.noise import NormalActionNoise

from metarl.agent import InvalidValueError, Range, did_you_mean
from metarl.files import parse_json
from metarl.interop.sb3_models import steps_per_round
from metarl.named import load_named

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {c.__name__: c for c in (A2C, DDPG, DQN, PPO, SAC, TD3)}
KINDS = (BaseAlgorithm, BaseBuffer, torch.nn.Module, torch.optim.Optimizer)  # what a run's keywords may name
PACKAGES = ("torch.nn", "torch.optim", "stable_baselines3")  # of these
OURS = ("policy", "env", "seed", "device", "verbose", "tensorboard_log", "_init_setup_model")  # not for the user
ON_GPU = "You are trying to run .* on the GPU"  # advice that an explicit device has overruled


def _object(words: list[str]) -> dict[str, Any]:
    """An object of JSON from the command line."""
    found = parse_json(words[0])
    if not isinstance(found, dict):
        raise ValueError("it is no object of JSON")
    return found


Keywords = Annotated[
    dict[str, Any],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="JSON",
        instance_from_str=_object,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [json.dumps(value)],
    ),
]


@dataclass(frozen=True)
class SB3Config:
    """Which algorithm, and how much it may play; all else is Stable-Baselines3's default."""

    algorithm: str = "PPO"
    """A2C, DDPG, DQN, PPO, SAC, TD3, or "module:Class", for example "sb3_contrib:TRPO"."""
    policy: str = "MlpPolicy"
    """The policy's name, as the algorithm knows it."""
    algorithm_kwargs: Keywords = field(default_factory=dict)
    """Keywords of the algorithm as JSON; a "module:Class" in them is imported, as in
    {"policy_kwargs": {"activation_fn": "torch.nn:ReLU"}}; opening such a run needs --load for other packages' modules
    than torch.nn, torch.optim and stable_baselines3."""
    steps: Annotated[int, Range(1, 1e9)] = 2048
    """Environment steps that one adaptation step eats: a multiple of num_envs times n_steps or train_freq."""
    num_envs: Annotated[int, Range(1, 1e6)] = 1
    """Environments that a task is learned in side by side."""
    action_noise: Annotated[float, Range(0, 1e3)] = 0.0
    """Standard deviation of noise on the actions (in [-1, 1]) while learning; DDPG and TD3 do not explore without."""


@dataclass(frozen=True)
class SB3PretrainedConfig(SB3Config):
    """Also what is pre-trained on."""

    meta_batch_size: Annotated[int, Range(1, 1e9)] = 20
    """Train tasks that one training iteration goes through, an episode each, over and over for `steps` steps."""


def algorithm_of(config: SB3Config, user: str) -> type[BaseAlgorithm]:
    """The class of the algorithm that a config names."""
    name = config.algorithm
    if ":" not in name and name not in ALGORITHMS:
        expected = f"{did_you_mean(str(name), ALGORITHMS)}, or 'module:Class'"
        raise InvalidValueError(f"{user}.algorithm", name, expected)
    cls = ALGORITHMS[name] if name in ALGORITHMS else load_named(name, KINDS, PACKAGES)
    if not (isinstance(cls, type) and issubclass(cls, BaseAlgorithm)):
        raise InvalidValueError(f"{user}.algorithm", name, "a Stable-Baselines3 algorithm")
    if config.policy not in cls.policy_aliases:
        expected = did_you_mean(str(config.policy), cls.policy_aliases)
        raise InvalidValueError(f"{user}.policy", config.policy, f"{expected}, for {cls.__name__}")
    return cls


def keywords_of(config: SB3Config, cls: type[BaseAlgorithm], space: spaces.Space[Any], user: str) -> dict[str, Any]:
    """The keywords of an algorithm's constructor, names in them imported, for an action space."""
    given, known = config.algorithm_kwargs, set(hyperparameters(cls)) - set(OURS)
    try:
        json.dumps(given)
    except TypeError as error:
        raise InvalidValueError(f"{user}.algorithm_kwargs", given, "what JSON can hold") from error
    for key in given:
        if key not in known:
            expected = f"for {cls.__name__} {did_you_mean(key, known)}"
            raise InvalidValueError(f"keyword of {user}.algorithm_kwargs", key, expected)
    kwargs: dict[str, Any] = imported(given)
    if isinstance(kwargs.get("train_freq"), list):
        kwargs["train_freq"] = tuple(kwargs["train_freq"])
    if config.action_noise:
        if "action_noise" not in known or not space.shape:
            expected = f"0, because {cls.__name__} takes none here"
            raise InvalidValueError(f"{user}.action_noise", config.action_noise, expected)
        scale = np.full(space.shape, config.action_noise)
        kwargs["action_noise"] = NormalActionNoise(np.zeros_like(scale), scale)
    return kwargs


def check_model(model: BaseAlgorithm, config: SB3Config, user: str) -> None:
    """Refuse what an adaptation step could not count or a state could not hold."""
    if hasattr(model.policy, "lstm_actor"):
        expected = "an algorithm whose policy keeps no memory of the episode"
        raise InvalidValueError(f"{user}.algorithm", config.algorithm, expected)
    if model.use_sde:
        expected = "False: its noise is no part of a model's parameters"
        raise InvalidValueError(f"use_sde of {user}", True, expected)
    train_freq = getattr(model, "train_freq", None)
    if train_freq is not None and train_freq.unit.value != "step":
        raise InvalidValueError(f"train_freq of {user}", "episode", "a number of steps, to keep to a budget")
    whole, steps = steps_per_round(model), config.steps
    if steps % whole:
        nearest = max(whole, round(steps / whole) * whole)
        expected = f"a multiple of {whole}, after which {type(model).__name__} updates: for example {nearest}"
        raise InvalidValueError(f"{user}.steps", steps, expected)


def quieted(model: BaseAlgorithm) -> BaseAlgorithm:
    """The model, which logs nothing from now on."""
    model.set_logger(Logger(folder=None, output_formats=[]))
    return model


def hyperparameters(cls: type[BaseAlgorithm]) -> list[str]:
    """The names of a constructor's arguments."""
    return [n for n in inspect.signature(cls).parameters if n not in ("args", "kwargs")]


def imported(given: Mapping[str, Any]) -> dict[str, Any]:
    """A copy in which each "module:Class" is the thing itself."""

    def one(value: Any) -> Any:
        if isinstance(value, Mapping):
            return imported(value)
        named = isinstance(value, str) and ":" in value
        return load_named(value, KINDS, PACKAGES) if named else copy.deepcopy(value)

    return {k: one(v) for k, v in given.items()}
