"""A trained agent from its run directory."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from metarl.agent_base import Agent, Device
from metarl.errors import InvalidValueError, did_you_mean
from metarl.runs.run import Run


def load(path: str | Path, device: Device | None = None, **settings: Any) -> Agent:
    """The agent of a run directory as its last checkpoint left it.

    Nothing that the run names is imported: families and agents of your own are registered before
    (`metarl.load_source`).

    Args:
        path: the run directory.
        device: "auto", "cpu" or "cuda"; by default the one that it was trained on.
        settings: hyperparameters to change, for example `inner_lr_schedule=(1.0, 0.35, 0.175)`.

    Raises:
        InvalidValueError: it is no run directory, its files are damaged, or a setting is not one of the agent's.
    """
    return with_settings(Run.open(path).load_agent(device)[0], **settings)


def with_settings(agent: Agent, **settings: Any) -> Agent:
    """An agent that has learned the same, with other hyperparameters; the agent itself where none is given.

    Raises:
        InvalidValueError: the agent has no such hyperparameter, or what was learned does not fit the new value.
    """
    if not settings:
        return agent
    known = [field.name for field in fields(agent.config)]
    for name in settings:
        if name not in known:
            raise InvalidValueError(f"hyperparameter of {agent.name}", name, did_you_mean(name, known))
    changed = type(agent)(agent.family, type(agent.config)(**_values(agent) | settings), agent.seed, agent.device)
    new, old = changed.tensors(), agent.tensors()
    if {k: v.shape for k, v in new.items()} != {k: v.shape for k, v in old.items()}:
        expected = "settings that what was learned fits: they change its shapes"
        raise InvalidValueError(f"settings of {agent.name}", settings, expected)
    changed.load_tensors(old)
    return changed


def _values(agent: Agent) -> dict[str, Any]:
    """An agent's hyperparameters by name."""
    return {field.name: getattr(agent.config, field.name) for field in fields(agent.config)}
