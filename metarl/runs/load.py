"""Load trained agents and their learning curves from run directories."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from metarl.agent_base import Agent
from metarl.devices import Device
from metarl.errors import InvalidValueError, did_you_mean
from metarl.runs.curves import learning_curves
from metarl.runs.run import Checkpoint, Run


def load(
    path: str | Path, device: Device | None = None, *, checkpoint: Checkpoint = "last", **settings: object
) -> Agent:
    """Load the agent of a run directory, with the tensors of a checkpoint.

    Loading imports nothing that the run names. Register your own families and agents first (`metarl.load_source`).

    Args:
        path: the run directory.
        device: "auto", "cpu" or "cuda"; by default the device of the training.
        checkpoint: "last", or "best": the one with the highest return in validation (`metarl train --eval-every N`).
        settings: hyperparameters to change, for example `inner_lr_schedule=(1.0, 0.35, 0.175)`.

    Raises:
        InvalidValueError: `path` is not a run directory, its files are damaged, it has no best checkpoint, or a setting
            is unknown.
    """
    return with_settings(Run.open(path).load_agent(device, checkpoint)[0], **settings)


def curves_of_runs(paths: Iterable[Path]) -> dict[str, Any]:
    """`metarl.runs.curves.learning_curves` of the runs at `paths`; empty if one of them is no run."""
    runs = list(paths)
    if not all((path / "config.json").exists() for path in runs):
        return {}
    return learning_curves([(path, Run.open(path).config) for path in runs])


def with_settings(agent: Agent, **settings: object) -> Agent:
    """A copy of an agent with the same tensors and some other hyperparameters; without settings, the agent itself.

    Raises:
        InvalidValueError: the agent has no such hyperparameter, or its tensors do not fit the new value.
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
        expected = "settings that keep the shapes of the trained tensors"
        raise InvalidValueError(f"settings of {agent.name}", settings, expected)
    changed.load_tensors(old)
    return changed


def _values(agent: Agent) -> dict[str, object]:
    """The hyperparameters of an agent by name."""
    return {field.name: getattr(agent.config, field.name) for field in fields(agent.config)}
