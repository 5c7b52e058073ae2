"""Averages of weights: one agent whose networks are the mean of several agents' networks.

SWA averages what one training passes through (Izmailov et al. 2018, arXiv:1803.05407), model soups what several
trainings from the same parameters end with (Wortsman et al. 2022, arXiv:2203.05482). Trainings from other initial
parameters mostly have nothing in common that a mean keeps.

    metarl eval RUN RUN --average
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from metarl.agent_base import Agent
from metarl.errors import InvalidValueError, verbatim
from metarl.learning.adam import parameters_of


def average(agents: Sequence[Agent]) -> Agent:
    """A new agent whose parameters are the means over the agents, to be evaluated.

    All else, the state of optimisers and replay memories for example, is the first agent's, so it is not meant to be
    trained further.

    Raises:
        InvalidValueError: there are fewer than two agents, or they differ in their name, family or hyperparameters.
    """
    if len(agents) < 2:
        raise InvalidValueError("agents to average", len(agents) or verbatim("nothing"), "two or more")
    if wrong := [agent for agent in agents if not isinstance(agent, Agent)]:
        raise InvalidValueError("agents to average", wrong[0], "agents (metarl.load(RUN))")
    first = agents[0]
    for what, values in (
        ("names", [agent.name for agent in agents]),
        ("families", [agent.family.id for agent in agents]),
        ("hyperparameters", [_config(agent) for agent in agents]),
    ):
        if any(value != values[0] for value in values):
            raise InvalidValueError(f"{what} of the agents to average", values, "the same for all")
    every = [agent.tensors() for agent in agents]
    mixed = {name: _mean([tensors[name] for tensors in every]) for name in parameters_of(first)}
    return _with_tensors(first, every[0] | mixed)


def snapshot(agent: Agent) -> Agent:
    """A copy of an agent as it is now, for example within a training, whose later steps do not change it."""
    return _with_tensors(agent, agent.tensors())


def _config(agent: Agent) -> dict[str, Any]:
    return {} if agent.config is None else asdict(agent.config)


def _with_tensors(agent: Agent, tensors: dict[str, Tensor]) -> Agent:
    """A new agent with other tensors."""
    other = type(agent)(agent.family, agent.config, agent.seed, agent.device)
    other.load_tensors({k: v.clone() for k, v in tensors.items()})
    return other


def _mean(values: Sequence[Tensor]) -> Tensor:
    """The mean of tensors of one shape, computed in float64."""
    return torch.stack([v.double() for v in values]).mean(0).to(values[0].dtype)
