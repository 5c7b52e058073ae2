"""The content of a run's `config.json`: everything that makes the run, and what made it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from metarl.agent_base import Agent
from metarl.distribution import git_revision, versions
from metarl.errors import InvalidValueError, verbatim
from metarl.families.registry import base_id, families
from metarl.files import FLAG, OBJECT, SEED, TEXT, TEXTS, JsonObject, Kind, check_fields, read_json, whole
from metarl.runs.checkpoints import COUNT, FORMAT
from metarl.runs.task_sampling import make_sampler
from metarl.runs.validation import Validation

_CONFIG = dict.fromkeys(("agent", "family", "device"), TEXT) | dict.fromkeys(("config", "versions"), OBJECT)
_CONFIG |= {"seed": SEED, "iterations": COUNT, "checkpoint_every": whole(1), "threads": whole(1)}
_CONFIG |= {"git": Kind("text or null", lambda value: value is None or isinstance(value, str))}
_BEFORE = Kind("a list of objects", lambda value: isinstance(value, list) and all(map(OBJECT.holds, value)))
_SETTINGS = ("agent", "family", "seed", "config", "iterations", "checkpoint_every", "validation")
_DEFAULTS = {"task_sampler": "family", "begins_with": ""}  # of settings that older runs do not have


def new_config(
    agent: Agent,
    iterations: int,
    checkpoint_every: int,
    load: Sequence[str],
    eval_every: int,
    eval_tasks: int | None,
    task_sampler: str,
) -> JsonObject:
    """The content of `config.json` of a new run; the arguments are those of `Run.create`.

    Raises:
        InvalidValueError: an argument is wrong.
    """
    if base_id(agent.family.id) not in families:
        raise InvalidValueError("family of the run", agent.family.id, "a registered one: opening the run needs it")
    if not COUNT.holds(iterations):
        raise InvalidValueError("iterations", iterations, COUNT.words)
    agent.check_iterations(iterations)
    if agent.learns and not agent.tensors():
        expected = "all tensors that training changes: without them a checkpoint is empty (see metarl check-agent)"
        raise InvalidValueError(f"tensors() of {agent.name}", verbatim("empty"), expected)
    config = {
        "format": FORMAT,
        "agent": agent.name,
        "family": agent.family.id,
        "config": dataclasses.asdict(agent.config),
        "seed": agent.seed,
        "device": agent.device.type,
        "iterations": iterations,
        "checkpoint_every": checkpoint_every,
        "versions": versions(),
        "git": git_revision(),
        "threads": torch.get_num_threads(),
    }
    if load:
        config["load"] = list(load)
    if not eval_every and eval_tasks is not None:
        raise InvalidValueError("eval_tasks", eval_tasks, "no value without eval_every")
    if eval_every:
        config["validation"] = dataclasses.asdict(Validation.of_agent(agent, eval_every, eval_tasks))
    if make_sampler(task_sampler, agent) is not None:
        config["task_sampler"] = task_sampler
    check_fields(config, _CONFIG, "the run")
    return config


def read_config(path: Path) -> JsonObject:
    """The checked content of the `config.json` of the run at `path`.

    Raises:
        Exception: any exception, because the bytes may be anything; see `metarl.files.reading`.
    """
    advice = "other settings are a new run (metarl train), and more iterations are metarl train --resume RUN"
    config = read_json(path / "config.json", FORMAT, f"{advice} --iterations N")
    check_fields(config, _CONFIG, str(path))
    optional = {"load": TEXTS, "before": _BEFORE, "begins_with": TEXT, "task_sampler": TEXT, "keeps_replay": FLAG}
    check_fields(config, optional, str(path), optional=True)
    Validation.of_run(config, str(path))
    return config


def refuse_other_settings(path: Path, found: JsonObject, wanted: JsonObject) -> None:
    """Refuse a run that was made with other settings.

    Args:
        path: the run directory.
        found: content of its `config.json`.
        wanted: the content that the run would have if it were made now.

    Raises:
        InvalidValueError: the settings differ; the error names the first that does.
    """
    plain = json.loads(json.dumps(wanted))
    for name in (*_SETTINGS, *_DEFAULTS):
        own, other = (values.get(name, _DEFAULTS.get(name)) for values in (found, plain))
        if own != other:
            value, expected = _different(own, other), _different(other, own) or "none"
            raise InvalidValueError(f"{name} of run {path}", value, f"{expected}, as now given (or another --out)")


def _different(value: Any, other: Any) -> Any:
    """The part of an object that another one does not have; any other value as it is."""
    if isinstance(value, Mapping) and isinstance(other, Mapping):
        return {k: v for k, v in value.items() if k not in other or other[k] != v}
    return value
