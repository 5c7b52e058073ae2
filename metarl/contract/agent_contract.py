"""The contract test of an agent: one clear sentence per violation.

    metarl check-agent my_agent --load my_agents.py

Checks come in stages; a stage runs only when those before it found nothing, because it would find the consequences.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

import torch

from metarl.agent_base import Agent, Device, build_agent
from metarl.contract.agent_checks import (
    ALL_TENSORS,
    RESTORE,
    UPDATES,
    Stage,
    batch_equals_singles,
    config_returns,
    documented,
    ended_rows,
    extreme_actions,
    finite_metrics,
    forked,
    interface,
    keyed_draws,
    keyed_family,
    metrics,
    restored,
    untouched,
)
from metarl.contract.agent_probe import AgentSubject, named, sentence
from metarl.contract.family_probe import crash_sentence
from metarl.errors import InvalidValueError, MetaRLError, verbatim
from metarl.families.family import Family
from metarl.families.registry import agent_class
from metarl.global_rng import seeded

Said = tuple[str, str, str, str]  # a field, what was found, what was expected, the fix

# What an agent is tried on that no family is named for: a box and a distance, one pull, early endings, a finite MDP.
FAMILIES = (
    "metarl/PointNavigation-v0",
    "metarl/BernoulliBandit-v0",
    'metarl/TMaze-v0{"corridor": 1, "horizon": 6, "turns": 1}',
    "metarl/TabularMDP-v0",
)
SECONDS = 20.0  # after which the short schedule begins no further check


def check_agent(
    agent: str | type[Agent] | Agent,
    family: str | Family | None = None,
    *,
    seed: int = 0,
    device: Device = "cpu",
    config: Any = None,
    **overrides: Any,
) -> list[str]:
    """Play and train an agent, and say where it breaks the contract of `Agent`; what it raises is a sentence too.

    Everything is small: episodes of at most 6 steps, 8 tasks in a meta-update, three meta-updates.

    Args:
        agent: a registered name, a class, or an agent, of which others are made with its config.
        family: what it plays, a family or its id; by default those of four small built-in ones that it takes, or the
            family of an agent that is given.
        seed: of the agent, the tasks and all that is drawn.
        device: where it lives.
        config: an instance of the agent's `Config`; its defaults if None.
        overrides: fields of the config to change.

    Returns:
        One sentence per violation: the agent, the method to mend, what was found, what was expected, the fix.

    Raises:
        InvalidValueError: no such agent, family or device; or nothing that the agent takes.
    """
    if isinstance(agent, Agent):
        config, family = agent.config if config is None else config, agent.family if family is None else family
    cls: Any = agent_class(agent) if isinstance(agent, str) else agent if isinstance(agent, type) else type(agent)
    name = agent if isinstance(agent, str) else getattr(cls, "name", cls.__name__)
    if found := declared(cls, name):
        return found
    settings = {"seed": seed, "device": device, "config": config, **overrides}
    try:
        taken = _taken(cls, name, settings) if family is None else [build_agent(cls, name, family, **settings)]
    except MetaRLError:
        raise
    except Exception as error:
        return [crash_sentence(name, error, "that it can be built")]
    return next((found for built in taken if (found := _violations(_subject(built, UPDATES), STAGES))), [])


def _taken(cls: type[Agent], name: str, settings: Mapping[str, Any]) -> list[Agent]:
    """The agent on those of `FAMILIES` that it does not refuse."""
    taken: list[Agent] = []
    refused: list[Exception] = []
    for family in FAMILIES:
        try:
            taken.append(build_agent(cls, name, family, **settings))
        except Exception as error:
            refused.append(error)
    if taken:
        return taken
    if len({str(error) for error in refused}) == 1:
        raise refused[0]  # nothing to do with the family
    expected = f"one that {name} takes: it refused {len(FAMILIES)} built-in ones, the last with: {refused[-1]}"
    raise InvalidValueError("family", verbatim("missing"), expected)


def check_briefly(agent: Agent) -> list[str]:
    """What training looks at before it begins: one meta-update on the agent's family, and no new check after a while.

    A family whose rollouts cannot be repeated shows nothing of the agent; only shapes are looked at then.
    """
    if found := declared(type(agent), agent.name):
        return found
    subject, until = _subject(agent, updates=1), time.monotonic() + SECONDS
    if found := _violations(subject, STAGES[:1], until):
        return found
    return [] if subject.run(keyed_family) else _violations(subject, STAGES[2:-1], until)


def is_built_in(cls: type[Agent]) -> bool:
    """Whether a class is one of metarl's own, whose contract its tests check."""
    return cls.__module__.partition(".")[0] == "metarl"


def _subject(agent: Agent, updates: int) -> AgentSubject:
    return AgentSubject(type(agent), agent.family, agent.config, agent.seed, str(agent.device), updates)


def _violations(subject: AgentSubject, stages: Sequence[Stage], until: float = math.inf) -> list[str]:
    """The sentences of the first stage that finds any; no check is begun after the time `until`."""
    try:
        with warnings.catch_warnings(), seeded(0, torch.device(subject.device)):
            warnings.simplefilter("ignore")
            for stage in stages:
                checks = (check for check in stage if time.monotonic() < until)
                if found := [sentence for check in checks for sentence in subject.run(check)]:
                    return found
    finally:
        subject.pool.close()
    return []


def declared(cls: Any, name: str) -> list[str]:
    """What is wrong with a class, before one is made: a sentence each."""
    if not (isinstance(cls, type) and issubclass(cls, Agent)):
        return [sentence(name, "the class", repr(cls), "a subclass of metarl.Agent", "derive it from metarl.Agent")]
    if missing := sorted(cls.__abstractmethods__):
        return [sentence(name, named(missing), "missing", "a method of the class", "implement it (docs/agents.md)")]
    return [sentence(name, *said) for said in (*_named(cls, name), *_config_class(cls), *_overrides(cls))]


def _named(cls: type[Agent], name: str) -> Iterator[Said]:
    if getattr(cls, "name", None) != name:
        found, fix = repr(getattr(cls, "name", None)), f"set name = {name!r}, by which a run finds the class again"
        yield "name", found, f"{name!r}, as it is registered", fix


def _config_class(cls: type[Agent]) -> Iterator[Said]:
    config: Any = getattr(cls, "Config", None)
    params: Any = getattr(config, "__dataclass_params__", None)
    if not (isinstance(config, type) and is_dataclass(config) and params.frozen):
        yield "Config", repr(config), "a frozen dataclass", "declare it with @dataclass(frozen=True)"
    elif bare := [f.name for f in fields(config) if f.default is MISSING and f.default_factory is MISSING]:
        yield f"Config.{bare[0]}", "without a default", "a default for every field", "give it one"


def _overrides(cls: type[Agent]) -> Iterator[Said]:
    """Methods that need one another, and the class's flags that say which of them are called."""
    own = {m for m in ("train_step", "tensors", "load_tensors", "observe") if getattr(cls, m) is not getattr(Agent, m)}
    if cls.learns and "train_step" not in own:
        expected, fix = "a meta-update, because learns is True", "implement it, or set learns = False"
        yield "train_step", "not implemented", expected, fix
    elif cls.learns and "tensors" not in own:
        yield "tensors()", "not implemented", ALL_TENSORS, RESTORE
    elif cls.learns and "load_tensors" not in own:
        yield "load_tensors", "not implemented", "the inverse of tensors()", "put back what tensors() returns"
    if "observe" in own and not cls.is_recurrent:
        yield (
            "observe",
            "never called, because is_recurrent is False",
            "is_recurrent = True",
            "set it, or remove observe",
        )
    if cls.is_recurrent and "observe" not in own:
        expected, fix = (
            "the state after a step, because is_recurrent is True",
            "implement it, or set is_recurrent = False",
        )
        yield "observe", "not implemented", expected, fix


STAGES: tuple[Stage, ...] = (
    (config_returns, interface),
    (keyed_family,),
    (keyed_draws,),
    (metrics, restored),
    (batch_equals_singles, ended_rows, forked, untouched),
    (documented, extreme_actions, finite_metrics),
)
