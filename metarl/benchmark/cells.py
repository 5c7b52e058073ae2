"""The trainings of a suite: what is done is found again, what was cut off goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from metarl.agent_base import Agent
from metarl.benchmark.suite import Cell, Entry, Suite, agent_of
from metarl.errors import InvalidValueError
from metarl.files import LARGEST_ARRAYS, LARGEST_HEAD, digest_bytes, read_bytes, reading
from metarl.runs.checkpoints import read_head
from metarl.runs.directory import check_free
from metarl.runs.load import begin_with
from metarl.runs.run import Run
from metarl.runs.run_config import check_family

Progress = Callable[[int, int], None]  # how much is done, and of how much


def run_path(out: Path, cell: Cell) -> Path:
    """The run directory of a training."""
    return out / cell.label


def trained_iterations(cell: Cell, out: Path) -> int:
    """How many iterations of a training are done; 0 where it was not begun, or what it left cannot be read."""
    with suppress(InvalidValueError), reading("checkpoint", str(path := run_path(out, cell)), "a whole one"):
        return int(read_head(path / "checkpoint.json")["iteration"])
    return 0


def is_trained(suite: Suite, cell: Cell, out: Path) -> bool:
    """Whether a training is finished, and its weights are there."""
    if trained_iterations(cell, out) < suite.studies[cell.study].entries[cell.entry].iterations:
        return False
    with suppress(InvalidValueError):
        refuse_damaged(run_path(out, cell))
        return True
    return False


def refuse_damaged(path: Path) -> None:
    """Refuse a run whose last checkpoint is not whole.

    Raises:
        InvalidValueError: the checkpoint's file cannot be read, or its tensors are missing or others.
    """
    head, before = path / "checkpoint.json", b""
    while os.path.lexists(head):
        now = b""
        try:
            with reading("checkpoint", str(head), "a whole one: move the run's folder away to train it again"):
                now = read_bytes(head, LARGEST_HEAD)
                found = read_head(head)
                tensors = path / f"checkpoint-{found['iteration']}.safetensors"
                if digest_bytes(read_bytes(tensors, LARGEST_ARRAYS)) != found["tensors_sha256"]:
                    raise ValueError(f"{tensors.name} does not match its hash")
            return
        except InvalidValueError:
            if now == before:
                raise
            before = now  # a training may write its next checkpoint at this moment: look again


def run_refusal(suite: Suite, cell: Cell, out: Path) -> str:
    """Why what lies in a cell's place is not its training; empty where nothing is wrong with it."""
    study, path = suite.studies[cell.study], run_path(out, cell)
    try:
        if not os.path.lexists(path / "config.json"):
            check_free(path)
            return ""
        run, agent = Run.open(path), agent_of(study, study.entries[cell.entry], cell.seed)
        refuse_another(run, agent, study.entries[cell.entry])
        check_family(run.config, agent.family, path)
        refuse_damaged(path)
    except InvalidValueError as error:
        return str(error)
    return ""


def other_validations(suite: Suite, chosen: Sequence[Cell], out: Path) -> list[str]:
    """Which trainings were validated otherwise than their study says now, a sentence for each row.

    A validation changes no weights, so such a training stands. Its learning curve is the one that it was made with.
    """
    found: dict[str, None] = {}
    for cell in chosen:
        with suppress(InvalidValueError):
            had = Run.open(run_path(out, cell)).config.get("validation", {}).get("every", 0)
            if had != (wanted := suite.studies[cell.study].eval_every):
                row = f"{cell.study}/{cell.entry} was made with eval_every={had}, and the suite says {wanted}"
                found[f"{row}: its learning curve stays as it is; weights and scores do not depend on it"] = None
    return list(found)


def train_cell(suite: Suite, cell: Cell, out: Path, device: str = "cpu", progress: Progress | None = None) -> None:
    """Train a cell from where its run stands; the run is made if there is none.

    Args:
        suite: the suite.
        cell: of the suite.
        out: the suite's folder.
        device: where the agent lives.
        progress: called after each iteration.

    Raises:
        InvalidValueError: the run in the cell's place was made with other settings, or its checkpoint is damaged.
        Interrupted: it was asked to stop; what was finished is kept.
    """
    study, entry = suite.studies[cell.study], suite.studies[cell.study].entries[cell.entry]
    path, agent = run_path(out, cell), agent_of(study, entry, cell.seed, device)
    if not (path / "config.json").exists():
        named: dict[str, Any] = {"eval_every": study.eval_every, "begins_with": entry.begins_with}
        named |= {"task_sampler": entry.task_sampler, "keeps_replay": False}
        Run.create(path, agent, entry.iterations, study.checkpoint_every, **named)
    run = Run.open(path)
    with run.lock():
        refuse_another(run, agent, entry)
        refuse_damaged(path)
        new = not run.has_checkpoint
        agent, start = run.load_agent(device)  # type: ignore[arg-type]
        if new and entry.begins_with:
            _begin_with(agent, suite, entry, cell.seed, out)
        run.train(agent, start, None if progress is None else lambda done, total, _: progress(done, total))


def refuse_another(run: Run, agent: Agent, entry: Entry) -> None:
    """A run that was made with other settings is not this cell's.

    Runs of older versions do not say which training they begin with, and lack hyperparameters that did not exist yet,
    which have their default values (as in `Run.make_agent`).

    Raises:
        InvalidValueError: it was.
    """
    wanted: dict[str, Any] = {"agent": agent.name, "family": agent.family.id, "iterations": entry.iterations}
    wanted |= {"seed": agent.seed, "config": json.loads(json.dumps(asdict(agent.config)))}
    wanted |= {"task_sampler": entry.task_sampler}
    wanted |= {"begins_with": entry.begins_with} if "begins_with" in run.config else {}
    defaults = json.loads(json.dumps(asdict(type(agent).Config())))
    found = {"task_sampler": "family"} | run.config | {"config": defaults | run.config["config"]}
    for what, value in wanted.items():
        if found[what] != value:
            expected = f"{_difference(found[what], value)}, as the suite says (move the run away, or --out another)"
            raise InvalidValueError(f"{what} of run {run.path}", _difference(value, found[what]), expected)


def _difference(a: Any, b: Any) -> Any:
    """Of two dicts, what the second has otherwise; else the second."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return {k: v for k, v in b.items() if k not in a or a[k] != v}
    return b


def _begin_with(agent: Agent, suite: Suite, entry: Entry, seed: int, out: Path) -> None:
    """Give a new agent the networks of another training of the suite."""
    study, _, source = entry.begins_with.partition("/")
    found, _ = Run.open(run_path(out, Cell(study, source, seed))).load_agent(agent.device.type)  # type: ignore[arg-type]
    begin_with(agent, found)
