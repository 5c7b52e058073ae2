"""Hyperparameters of the agents on Stable-Baselines3, and checks of them."""

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
KINDS = (
    BaseAlgorithm,
    BaseBuffer,
    torch.nn.Module,
    torch.optim.Optimizer,
)  # classes that the keywords of a run may name
PACKAGES = ("torch.nn", "torch.optim", "stable_baselines3")  # packages whose classes the keywords may name
OURS = (
    "policy",
    "env",
    "seed",
    "device",
    "verbose",
    "tensorboard_log",
    "_init_setup_model",
)  # arguments that the agent sets itself
ON_GPU = "You are trying to run .* on the GPU"  # a warning that an explicit device makes needless


def _parse_object(words: list[str]) -> dict[str, Any]:
    """Parse a JSON object from the command line."""
    value = parse_json(words[0])
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    return value


Keywords = Annotated[
    dict[str, Any],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="JSON",
        instance_from_str=_parse_object,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [json.dumps(value)],
    ),
]


@dataclass(frozen=True)
class SB3Config:
    """The algorithm, and how many steps it plays. Everything else is Stable-Baselines3's default."""

    algorithm: str = "PPO"
    """A2C, DDPG, DQN, PPO, SAC, TD3, or "module:Class", for example "sb3_contrib:TRPO"."""
    policy: str = "MlpPolicy"
    """The name of the algorithm's policy class."""
    algorithm_kwargs: Keywords = field(default_factory=dict)
    """Keywords of the algorithm as JSON. A "module:Class" in them is imported, for example
    {"policy_kwargs": {"activation_fn": "torch.nn:ReLU"}}. Opening such a run needs --load if the class belongs to
    another package than torch.nn, torch.optim and stable_baselines3."""
    steps: Annotated[int, Range(1, 1e9)] = 2048
    """Environment steps per adaptation step, a multiple of num_envs times n_steps or train_freq."""
    num_envs: Annotated[int, Range(1, 1e6)] = 1
    """Number of parallel environments of a task."""
    action_noise: Annotated[float, Range(0, 1e3)] = 0.0
    """Standard deviation of noise on the actions (in [-1, 1]) while learning. DDPG and TD3 need it to explore."""


@dataclass(frozen=True)
class SB3PretrainedConfig(SB3Config):
    """`sb3`'s hyperparameters, and the number of train tasks."""

    meta_batch_size: Annotated[int, Range(1, 1e9)] = 20
    """Train tasks of one training iteration. The model plays an episode in each, again and again, for `steps` steps."""


def algorithm_of(config: SB3Config, user: str) -> type[BaseAlgorithm]:
    """The class of the algorithm that a config names.

    Raises:
        InvalidValueError: there is no such algorithm, or it has no such policy.
    """
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
    """Keywords for an algorithm's constructor, with named classes imported.

    Args:
        config: the hyperparameters.
        cls: the algorithm's class.
        space: the action space.
        user: name of the agent, for error messages.

    Raises:
        InvalidValueError: the algorithm has no such keyword, or a value is not valid.
    """
    keywords, known = config.algorithm_kwargs, set(hyperparameters(cls)) - set(OURS)
    try:
        json.dumps(keywords)
    except TypeError as error:
        raise InvalidValueError(f"{user}.algorithm_kwargs", keywords, "values that JSON can hold") from error
    for key in keywords:
        if key not in known:
            expected = f"for {cls.__name__} {did_you_mean(key, known)}"
            raise InvalidValueError(f"keyword of {user}.algorithm_kwargs", key, expected)
    kwargs: dict[str, Any] = imported(keywords)
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
    """Refuse models whose steps an adaptation step cannot count, or whose state tensors cannot hold.

    Raises:
        InvalidValueError: the model is such a model.
    """
    if hasattr(model.policy, "lstm_actor"):
        expected = "an algorithm whose policy keeps no memory of the episode"
        raise InvalidValueError(f"{user}.algorithm", config.algorithm, expected)
    if model.use_sde:
        expected = "False, because its noise is not part of a model's parameters"
        raise InvalidValueError(f"use_sde of {user}", True, expected)
    train_freq = getattr(model, "train_freq", None)
    if train_freq is not None and train_freq.unit.value != "step":
        raise InvalidValueError(
            f"train_freq of {user}",
            "episode",
            "a number of steps, because an adaptation step has a fixed number of them",
        )
    per_update, steps = steps_per_round(model), config.steps
    if steps % per_update:
        nearest = max(per_update, round(steps / per_update) * per_update)
        expected = f"a multiple of {per_update}, after which {type(model).__name__} updates: for example {nearest}"
        raise InvalidValueError(f"{user}.steps", steps, expected)


def quieted(model: BaseAlgorithm) -> BaseAlgorithm:
    """Switch the model's logging off, and return the model."""
    model.set_logger(Logger(folder=None, output_formats=[]))
    return model


def hyperparameters(cls: type[BaseAlgorithm]) -> list[str]:
    """The names of a constructor's arguments."""
    return [n for n in inspect.signature(cls).parameters if n not in ("args", "kwargs")]


def imported(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the keywords in which each "module:Class" is replaced by the class."""

    def convert(value: Any) -> Any:
        if isinstance(value, Mapping):
            return imported(value)
        named = isinstance(value, str) and ":" in value
        return load_named(value, KINDS, PACKAGES) if named else copy.deepcopy(value)

    return {k: convert(v) for k, v in keywords.items()}
