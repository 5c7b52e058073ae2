"""Load a trained agent from its run directory."""

from __future__ import annotations

from pathlib import Path

from metarl.agent_base import Agent, Device
from metarl.runs.run import Run


def load(path: str | Path, device: Device | None = None) -> Agent:
    """Load the agent of a run directory, with the tensors of its last checkpoint.

    Loading imports nothing that the run names. Register your own families and agents first (`metarl.load_source`).

    Args:
        path: the run directory.
        device: "auto", "cpu" or "cuda"; by default the device of the training.

    Raises:
        InvalidValueError: `path` is not a run directory, or its files are damaged.
    """
    return Run.open(path).load_agent(device)[0]
