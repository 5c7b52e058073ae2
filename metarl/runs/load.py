"""Load trained agents and their learning curves from run directories, and begin new trainings with them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from metarl.agent_base import Agent
from metarl.devices import Device
from metarl.errors import InvalidValueError, did_you_mean, verbatim
from metarl.families.family import Family
from metarl.learning.adam import parameters_of
from metarl.runs.checkpoints import read_head
from metarl.runs.curves import learning_curves, returns_in_training, seconds_in_training
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
    """How the agents of the runs at `paths` learned, for the meta data of results; empty if one of them is no run.

    Returns:
        `train_env_steps`, the environment steps of each whole training, and `train_seconds`, the seconds that it took,
        if its metrics are whole; `training_curves`, its returns on train tasks
        (`metarl.runs.curves.returns_in_training`), if all seeds were trained as long; and those on validation tasks
        (`learning_curves` there), if there are any.
    """
    runs = list(paths)
    if not runs or not all((path / "config.json").exists() for path in runs):
        return {}
    configs = [Run.open(path).config for path in runs]
    heads = [read_head(path / "checkpoint.json") for path in runs]
    found: dict[str, Any] = {"train_env_steps": [head["env_steps"] for head in heads if "env_steps" in head]}
    ends = [head["iteration"] for head in heads]
    took = [seconds_in_training(path, end) for path, end in zip(runs, ends, strict=True)]
    if None not in took:
        found["train_seconds"] = [round(seconds, 1) for seconds in took if seconds is not None]
    curves = [returns_in_training(path, end) for path, end in zip(runs, ends, strict=True)]
    if all(curves) and len(set(ends)) == 1:
        found["training_curves"] = curves
    return found | learning_curves(list(zip(runs, configs, strict=True)))


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


def begin_with(agent: Agent, source: Agent) -> list[str]:
    """Give an untrained agent the parameters of a trained one, maybe of another family.

    Parameters of the same name and shape are copied. Those whose shape depends on the size of observations or actions
    stay as they are if the families' spaces have other shapes, and so do then the moments by which features are
    standardised. The state of optimizers, of normalised returns and of replay memories is not copied.

    Args:
        agent: the agent to train.
        source: the trained agent. Its class may be another one that has parameters of the same names.

    Returns:
        the names of the agent's parameters that stay as they are.

    Raises:
        InvalidValueError: no layer's weights can be copied, or the hyperparameters make networks of other sizes.
    """
    own, given = parameters_of(agent), parameters_of(source)
    common = [name for name in own if name in given]
    if not common:
        expected = f"an agent with some of the parameters of {agent.name}: {', '.join(own)}"
        raise InvalidValueError("agent to begin with", verbatim(f"{source.name} with {', '.join(given)}"), expected)
    there = own if agent.family.id == source.family.id else parameters_of(_moved(agent, source))
    for name in common:
        if there[name].shape != given[name].shape:
            wanted = f"{tuple(there[name].shape)}: the same sizes of networks in both settings of {agent.name}"
            raise InvalidValueError(f"shape of {name} of the agent to begin with", tuple(given[name].shape), wanted)
    same = _form(agent.family) == _form(source.family)
    left = set() if same else _moments(own)  # the count always fits, and would keep the moments as they are
    fits = {n: given[n].to(agent.device) for n in common if own[n].shape == given[n].shape and n not in left}
    if not any(value.dim() > 1 for value in fits.values()):
        what = f"{source.name} on {source.family.id}, of which {', '.join(fits) or 'nothing'} fits"
        expected = f"an agent of which at least one layer's weights fit {agent.name} on {agent.family.id}"
        raise InvalidValueError("agent to begin with", verbatim(what), expected)
    agent.load_tensors(agent.tensors() | fits)
    return [name for name in own if name not in fits]


def _form(family: Family) -> list[object]:
    """The kinds and shapes of a family's spaces, without their bounds."""
    spaces = (family.observation_space, family.action_space)
    return [(type(space), space.shape, getattr(space, "n", None)) for space in spaces]


def _moments(names: Iterable[str]) -> set[str]:
    """Those of some tensors that are a `RunningNorm`'s."""
    known = set(names)
    starts = {name.removesuffix("count") for name in known if name.endswith("norm.count")}
    return {f"{start}{part}" for start in starts for part in ("mean", "var", "count")} & known


def _moved(agent: Agent, source: Agent) -> Agent:
    """The untrained agent, as it would be on the other's family."""
    return type(agent)(source.family, agent.config, agent.seed, agent.device)
