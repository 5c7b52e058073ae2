"""The trainings of a suite: what is done is found again, what was cut off goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from metarl.agent_base import Agent
from metarl.benchmark.suite import Cell, Entry, Suite, agent_of
from metarl.errors import InvalidValueError
from metarl.files import reading
from metarl.runs.checkpoints import read_head
from metarl.runs.run import Run

Progress = Callable[[int, int], None]  # how much is done, and of how much


def run_path(out: Path, cell: Cell) -> Path:
    """The run directory of a training."""
    return out / cell.label


def trained_iterations(cell: Cell, out: Path) -> int:
    """How many iterations of a training are done; 0 where it was not begun."""
    head = run_path(out, cell) / "checkpoint.json"
    if not head.exists():
        return 0
    with reading("checkpoint", str(head), "a whole metarl checkpoint"):
        return int(read_head(head)["iteration"])


def is_trained(suite: Suite, cell: Cell, out: Path) -> bool:
    """Whether a training is finished."""
    return trained_iterations(cell, out) >= suite.studies[cell.study].entries[cell.entry].iterations


def train_cell(suite: Suite, cell: Cell, out: Path, device: str = "cpu", progress: Progress | None = None) -> None:
    """Train a cell from where its run stands; the run is made if there is none.

    Args:
        suite: the suite.
        cell: of the suite.
        out: the suite's folder.
        device: where the agent lives.
        progress: called after each iteration.

    Raises:
        InvalidValueError: the run in the cell's place was made with other settings.
        Interrupted: it was asked to stop; what was finished is kept.
    """
    study = suite.studies[cell.study]
    entry = study.entries[cell.entry]
    path, agent = run_path(out, cell), agent_of(study, entry, cell.seed, device)
    if not (path / "config.json").exists():
        Run.create(path, agent, entry.iterations, study.checkpoint_every, eval_every=study.eval_every)
    run = Run.open(path)
    with run.lock():
        refuse_another(run, agent, entry.iterations)
        new = not run.has_checkpoint
        agent, start = run.load_agent(device)  # type: ignore[arg-type]
        if new and entry.begins_with:
            _begin_with(agent, suite, entry, cell.seed, out)
        run.train(agent, start, None if progress is None else lambda done, total, _: progress(done, total))


def refuse_another(run: Run, agent: Agent, iterations: int) -> None:
    """A run that was made with other settings is not this cell's.

    Raises:
        InvalidValueError: it was.
    """
    wanted: dict[str, Any] = {"agent": agent.name, "family": agent.family.id, "iterations": iterations}
    wanted |= {"seed": agent.seed, "config": json.loads(json.dumps(asdict(agent.config)))}
    for what, value in wanted.items():
        if run.config[what] != value:
            expected = (
                f"{_difference(run.config[what], value)}, as the suite says (move the run away, or --out another)"
            )
            raise InvalidValueError(f"{what} of run {run.path}", _difference(value, run.config[what]), expected)


def _difference(a: Any, b: Any) -> Any:
    """Of two dicts, what the second has otherwise; else the second."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return {k: v for k, v in b.items() if k not in a or a[k] != v}
    return b


def _begin_with(agent: Agent, suite: Suite, entry: Entry, seed: int, out: Path) -> None:
    """Give a new agent the networks of another training of the suite."""
    study, _, source = entry.begins_with.partition("/")
    found, _ = Run.open(run_path(out, Cell(study, source, seed))).load_agent(agent.device.type)  # type: ignore[arg-type]
    networks = {k: v for k, v in found.tensors().items() if k.startswith("net.")}
    if not networks:
        names = ", ".join(found.tensors())
        expected = f"an agent whose tensors() are named net.NAME, as rl2's; {found.name} has {names}"
        raise InvalidValueError("begins_with", entry.begins_with, expected)
    agent.load_tensors(agent.tensors() | networks)
