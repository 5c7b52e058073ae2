"""A trained agent from its run directory."""

from __future__ import annotations

from pathlib import Path

from metarl.agent_base import Agent, Device
from metarl.runs.run import Run


def load(path: str | Path, device: Device | None = None) -> Agent:
    """The agent of a run directory as its last checkpoint left it.

    Nothing that the run names is imported: families and agents of your own are registered before
    (`metarl.load_source`).

    Args:
        path: the run directory.
        device: "auto", "cpu" or "cuda"; by default the one that it was trained on.

    Raises:
        InvalidValueError: it is no run directory, or its files are damaged.
    """
    return Run.open(path).load_agent(device)[0]
