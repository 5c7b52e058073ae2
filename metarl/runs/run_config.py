"""The content of a run's `config.json`: everything that makes the run, and what made it."""

from __future__ import annotations

import dataclasses
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from metarl.agent_base import Agent
from metarl.distribution import git_revision, versions
from metarl.errors import FamilyWarning, InvalidValueError, verbatim
from metarl.families.family import Family
from metarl.families.registry import base_id, families
from metarl.files import FLAG, OBJECT, SEED, TEXT, TEXTS, JsonObject, Kind, check_fields, digest_bytes, read_json, whole
from metarl.runs.checkpoints import COUNT, FORMAT
from metarl.runs.task_sampling import make_sampler
from metarl.runs.validation import Validation

_CONFIG = dict.fromkeys(("agent", "family", "device"), TEXT) | dict.fromkeys(("config", "versions"), OBJECT)
_CONFIG |= {"seed": SEED, "iterations": COUNT, "checkpoint_every": whole(1), "threads": whole(1)}
_CONFIG |= {"git": Kind("text or null", lambda value: value is None or isinstance(value, str))}
_BEFORE = Kind("a list of objects", lambda value: isinstance(value, list) and all(map(OBJECT.holds, value)))
_SETTINGS = ("agent", "family", "seed", "config", "iterations", "checkpoint_every", "validation")
_FIRST_TASKS = 8  # that a family's form has the hash of
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
    config["family_form"] = family_form(agent.family)
    if load:
        config["load"] = list(load)
        config["load_hashes"] = {name: digest for name in load if (digest := _digest(name))}
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
    optional |= {"family_form": OBJECT, "load_hashes": OBJECT}
    check_fields(config, optional, str(path), optional=True)
    Validation.of_run(config, str(path))
    return config


def family_form(family: Family) -> dict[str, Any]:
    """What a family is, seen from outside: its horizon, its spaces, and the hash of its first train tasks."""
    form = {name: _space_form(getattr(family, name)) for name in ("observation_space", "action_space")}
    return {"horizon": family.horizon, **form, "train_tasks": family.tasks("train", _FIRST_TASKS).hash}


def _space_form(space: Any) -> str:
    """A space in one line, the same on every machine; of bounds that differ, the ends and a digest."""
    if isinstance(space, spaces.Discrete):
        return f"Discrete({space.n}, start={space.start})"
    if not isinstance(space, spaces.Box):
        return type(space).__name__
    low, high = (np.asarray(bound, dtype="<f8") for bound in (space.low, space.high))
    digest = digest_bytes(low.tobytes() + high.tobytes())[:8]
    return f"Box{space.shape} {space.dtype} from {low.min():.6g} to {high.max():.6g}, digest {digest}"


def check_family(config: JsonObject, family: Family, path: Path) -> None:
    """Refuse a family that is another one than that of the training, and warn where only its code has changed.

    Args:
        config: content of the run's `config.json`; those of older runs do not say what the family was.
        family: that has the same id now.
        path: the run directory.

    Raises:
        InvalidValueError: the family's horizon, spaces or train tasks are others.

    Warns:
        FamilyWarning: a file of `--load` is another one, or train tasks that the family draws by code of its own, which
            may round otherwise on another processor, are others.
    """
    if (then := config.get("family_form")) is None:
        return
    for name, value in family_form(family).items():
        if name not in then or value == then[name]:
            continue
        what = "hash of the first train tasks" if name == "train_tasks" else name
        expected = f"{then[name]}, as when run {path} was made"
        if name == "train_tasks" and type(family).tasks_at is not Family.tasks_at:
            warnings.warn(f"{what} of {family.id} is {value}, it was {expected}", FamilyWarning, stacklevel=2)
            continue
        raise InvalidValueError(
            f"{what} of {family.id}", verbatim(str(value)), f"{expected}: its code has changed since (train a new run)"
        )
    for name, digest in config.get("load_hashes", {}).items():
        found = [_digest(file) for file in _loaded_files() if Path(file).name == Path(name).name]
        if found and digest not in found:
            sentence = f"{name} has changed since run {path} was made: numbers may be others"
            warnings.warn(sentence, FamilyWarning, stacklevel=2)


def _loaded_files() -> list[str]:
    """The files of all modules that are imported."""
    return [file for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))]


def _digest(file: str) -> str:
    """SHA-256 of a file; empty for what is no file, such as a module's name."""
    try:
        return digest_bytes(Path(file).read_bytes())
    except OSError:
        return ""


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
