"""The contract test of an agent: one sentence for each violation.

    metarl check-agent my_agent --load my_agents.py

Checks run in stages. A stage runs only if the earlier stages found no violation, because violations cause others.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

import torch

from metarl.agent_base import Agent, build_agent
from metarl.contract.agent_checks import (
    ALL_TENSORS,
    RESTORE,
    UPDATES,
    Stage,
    batch_equals_singles,
    config_returns,
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
from metarl.contract.family_probe import crash_sentence, is_built_in
from metarl.devices import Device
from metarl.errors import AgentWarning, InvalidValueError, MetaRLError, verbatim
from metarl.families.family import Family
from metarl.families.registry import agent_class
from metarl.global_rng import seeded

Violation = tuple[str, str, str, str]  # field, value found, value expected, fix

# Default families: Box actions, episodes of one step, early endings, a finite MDP.
FAMILIES = (
    "metarl/PointNavigation-v0",
    "metarl/BernoulliBandit-v0",
    'metarl/TMaze-v0{"corridor": 1, "horizon": 6, "turns": 1}',
    "metarl/TabularMDP-v0",
)
SECONDS = 20.0  # `check_briefly` starts no check after this time


def check_agent(
    agent: str | type[Agent] | Agent,
    family: str | Family | None = None,
    *,
    seed: int = 0,
    device: Device = "cpu",
    config: Any = None,
    **overrides: Any,
) -> list[str]:
    """Play and train an agent, and list its violations of the `Agent` contract. An exception is a violation too.

    The check is small: episodes of at most 6 steps, at most 8 tasks in a meta-update, three meta-updates.

    Args:
        agent: a registered name, a class, or an agent; new agents are made with the config of an agent.
        family: the family to play, or its id. The default is the agent's own family; for a name or a class, those of
            four small built-in families that the agent accepts.
        seed: the seed of the agent, the tasks and all draws.
        device: the device of the agent.
        config: an instance of the agent's `Config`; None means the defaults.
        overrides: fields of the config to change.

    Returns:
        One sentence for each violation: the agent, the method to correct, what was found, what was expected, the fix.

    Warns:
        AgentWarning: the agent learns and never adapts. This is no violation: one policy for all tasks may be meant.

    Raises:
        InvalidValueError: there is no such agent, family or device; or the agent accepts none of the families.
    """
    if isinstance(agent, Agent):
        config, family = agent.config if config is None else config, agent.family if family is None else family
    cls: Any = agent_class(agent) if isinstance(agent, str) else agent if isinstance(agent, type) else type(agent)
    name = agent if isinstance(agent, str) else getattr(cls, "name", cls.__name__)
    if found := declared(cls, name):
        return found
    undocumented = _undocumented(cls, name)
    settings = {"seed": seed, "device": device, "config": config, **overrides}
    try:
        taken = _taken(cls, name, settings) if family is None else [build_agent(cls, name, family, **settings)]
    except MetaRLError:
        raise
    except Exception as error:
        return [crash_sentence(name, error, "that it can be built"), *undocumented]
    _note_no_adaptation(cls, name)
    found = next((found for built in taken if (found := _violations(_subject(built, UPDATES), STAGES))), [])
    return [*found, *undocumented]


def _taken(cls: type[Agent], name: str, settings: Mapping[str, Any]) -> list[Agent]:
    """Build the agent on those of `FAMILIES` that it accepts."""
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
        raise refused[0]  # the family is not the reason
    expected = (
        f"a family that {name} accepts: it refused {len(FAMILIES)} built-in families, the last with: {refused[-1]}"
    )
    raise InvalidValueError("family", verbatim("missing"), expected)


def check_briefly(agent: Agent) -> list[str]:
    """Check an agent before training: one meta-update on its family, and no new check after `SECONDS`.

    If the family's rollouts cannot be repeated, only shapes are checked.
    """
    if found := declared(type(agent), agent.name):
        return found
    _note_no_adaptation(type(agent), agent.name)
    subject, until = _subject(agent, updates=1), time.monotonic() + SECONDS
    if found := _violations(subject, STAGES[:1], until):
        return found
    return [] if subject.run(keyed_family) else _violations(subject, STAGES[2:-1], until)


def _subject(agent: Agent, updates: int) -> AgentSubject:
    return AgentSubject(type(agent), agent.family, agent.config, agent.seed, str(agent.device), updates)


def _violations(subject: AgentSubject, stages: Sequence[Stage], until: float = math.inf) -> list[str]:
    """Sentences of the first stage that finds any. No check starts after the time `until`."""
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
    """List violations that the class itself shows, before an agent is made."""
    if not (isinstance(cls, type) and issubclass(cls, Agent)):
        return [sentence(name, "the class", repr(cls), "a subclass of metarl.Agent", "derive it from metarl.Agent")]
    if missing := sorted(cls.__abstractmethods__):
        return [sentence(name, named(missing), "missing", "a method of the class", "implement it (docs/agents.md)")]
    return [sentence(name, *violation) for violation in (*_named(cls, name), *_config_class(cls), *_overrides(cls))]


def _undocumented(cls: type[Agent], name: str) -> list[str]:
    """One sentence if the class has no docstring of its own. It is reported beside other violations, and hides none."""
    if (cls.__dict__.get("__doc__") or "").strip():
        return []
    return [sentence(name, "the docstring", "missing", "a line that metarl list shows", "say what the agent is")]


def _note_no_adaptation(cls: type[Agent], name: str) -> None:
    """Warn of a user's class that learns and never adapts. One policy for all tasks may be meant: no violation."""
    methods = ("adapt", "observe", "interact")
    if cls.learns and not is_built_in(cls) and all(getattr(cls, m) is getattr(Agent, m) for m in methods):
        why = "has neither adapt nor observe, so no adaptation step changes what it does"
        note = f"note: {name}: {why}; if it shall adapt, implement one of them."
        warnings.warn(note, AgentWarning, stacklevel=3)


def _named(cls: type[Agent], name: str) -> Iterator[Violation]:
    if getattr(cls, "name", None) != name:
        found, fix = repr(getattr(cls, "name", None)), f"set name = {name!r}; a run finds the class by it"
        yield "name", found, f"{name!r}, the registered name", fix


def _config_class(cls: type[Agent]) -> Iterator[Violation]:
    config: Any = getattr(cls, "Config", None)
    params: Any = getattr(config, "__dataclass_params__", None)
    if not (isinstance(config, type) and is_dataclass(config) and params.frozen):
        yield "Config", repr(config), "a frozen dataclass", "declare it with @dataclass(frozen=True)"
    elif bare := [f.name for f in fields(config) if f.default is MISSING and f.default_factory is MISSING]:
        yield f"Config.{bare[0]}", "without a default", "a default for every field", "give it one"
    elif cls.learns and cls.meta_batch_size is Agent.meta_batch_size and not hasattr(config, "meta_batch_size"):
        expected, fix = "the number of tasks of a meta-update (1 without it)", "declare it: meta_batch_size: int = 20"
        yield "Config.meta_batch_size", "missing", expected, fix


def _overrides(cls: type[Agent]) -> Iterator[Violation]:
    """Check that the class's flags (`learns`, `is_recurrent`) agree with the methods that it overrides."""
    own = {m for m in ("train_step", "tensors", "load_tensors", "observe") if getattr(cls, m) is not getattr(Agent, m)}
    if cls.learns and "train_step" not in own:
        expected, fix = "a meta-update, because learns is True", "implement it, or set learns = False"
        yield "train_step", "not implemented", expected, fix
    elif cls.learns and "tensors" not in own:
        yield "tensors()", "not implemented", ALL_TENSORS, RESTORE
    elif cls.learns and "load_tensors" not in own:
        yield "load_tensors", "not implemented", "the inverse of tensors()", "restore what tensors() returns"
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
    (extreme_actions, finite_metrics),
)
