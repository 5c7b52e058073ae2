"""`metarl list`: the registered families and agents.

metarl list
metarl list maml metarl/GridNavi-v0
"""

from __future__ import annotations

import inspect
import io
import itertools
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import field, fields, make_dataclass
from typing import Any

import tyro

from metarl.agent_base import Agent, adapts_between_episodes
from metarl.cli.options import ListOptions
from metarl.cli.progress import console
from metarl.config import ranges
from metarl.errors import InvalidValueError, MetaRLError, did_you_mean
from metarl.families.distributions import Distribution
from metarl.families.family import Family
from metarl.families.gym_family import GymFamily
from metarl.families.registry import FamilySpec, agent_class, agents, base_id, families, kinds, make_family

YOURS = "yours"  # the kind of families and agents that were registered without one


def run_list(options: ListOptions) -> None:
    """`metarl list`."""
    for name in options.names:
        if "/" in name:
            _describe_family(make_family(name))
        elif name in agents:
            _describe_agent(name)
        else:
            raise InvalidValueError("name", name, did_you_mean(name, [*families, *agents]))
    if options.names:
        return
    _print_groups("Families", families, _family_line)
    _print_groups("Agents", agents, _agent_line)
    console.print("metarl list NAME shows the details of one.")


# --- all, in groups -------------------------------------------------------------------------------------------------


def _print_groups(title: str, names: Iterable[str], line: Callable[[str], str]) -> None:
    """Print a table of names and their descriptions for each kind, in the order of registration of the kinds."""
    console.print(title, style="bold", markup=False)
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(kinds.get(name) or YOURS, []).append(name)
    yours = groups.pop(YOURS, None)
    for kind, members in [*groups.items(), *([(YOURS, yours)] if yours else [])]:
        console.print(f"  {kind}", style="bold", markup=False)
        _print_table([(name, line(name)) for name in sorted(members)], indent=4)


def _family_line(id: str) -> str:
    """Describe a family in one line, with what it needs and its presets; or name the packages that are missing."""
    spec = families[id]
    if not spec.available:
        return f"needs {spec.install_command}"
    build = spec.load()
    sentences = [_what(spec)]
    shown = {name: value for name, value in spec.kwargs.items() if build is not GymFamily or name != "env"}
    sentences += [f"{name}: {value}." for name, value in shown.items() if isinstance(value, str)]
    sentences += [f"Needs {spec.requires}."] if spec.requires else []
    presets = ", ".join(getattr(build, "presets", {}))
    return " ".join(sentences + ([f"Presets: {presets}."] if presets else []))


def _what(spec: FamilySpec) -> str:
    """The first line of the user's class or function; for an environment, its id or the first line of its class."""
    build: Any = spec.load()
    if build is not GymFamily:
        return _first_line(build)
    env: Any = spec.kwargs["env"]
    if isinstance(env, str):
        return f"The Gymnasium environment {env}."
    described = _first_line(env) if inspect.isclass(env) or inspect.isroutine(env) else ""
    return described or f"The environment {getattr(env, '__name__', type(env).__name__)}."


def _agent_line(name: str) -> str:
    """Describe an agent in one line, and say whether it is meta-trained."""
    cls = agent_class(name)
    return _first_line(cls) + (" Meta-trained." if cls.learns else "")


def learners() -> list[str]:
    """Names of the agents that `metarl train` takes; those that cannot be loaded here are left out."""
    names = []
    for name in sorted(agents):
        with suppress(MetaRLError):
            names += [name] if agent_class(name).learns else []
    return names


# --- one -------------------------------------------------------------------------------------------------------------


def _describe_family(family: Family) -> None:
    """Print a family's spaces, tasks and splits."""
    facts = {
        "what": _what(families[base_id(family.id)]),
        "kind": kinds.get(base_id(family.id)) or YOURS,
        "source": family.source,
        "observation": family.observation_space,
        "action": family.action_space,
        "horizon": f"{family.horizon} steps",
        **{f"task: {name}": _range(dist) for name, dist in family.task_space.items()},
        **{f"split {split}: {n}": _range(d) for split, space in family.ood.items() for n, d in space.items()},
        "splits": ", ".join(family.splits) + (" (train = test)" if family.finite else ""),
        "presets": ", ".join(family.presets) or "none",
    }
    console.print(family.id, style="bold", markup=False)
    for name, value in facts.items():
        if value != "":
            console.print(f"  {name}: {value}", markup=False)


def _describe_agent(name: str) -> None:
    """Print an agent's description, requirements and options."""
    cls = agent_class(name)
    facts = [
        ("kind", kinds.get(name) or YOURS),
        ("training", _training(name, cls)),
        ("adaptation", _adaptation(cls)),
        ("is shown", "the task and the environments (privileged)" if cls.privileged else "observations and rewards"),
        ("families", _supported_families(cls)),
    ]
    console.print(name, style="bold", markup=False)
    module = inspect.getdoc(sys.modules[cls.__module__]) or ""
    for text in (inspect.getdoc(cls) or "", module.partition("\n\n")[2]):  # without the module's title
        _print_text(text)
    _print_table(facts, indent=2)
    command = f"metarl {'train' if cls.learns else 'eval'} {name}"
    if fields(cls.Config):
        console.print(f"\n  options of {command}:\n")
        console.print(_options_help(cls), markup=False)
    if limits := ranges(cls.Config):
        console.print("\n  their ranges:\n")
        _print_table(list(limits.items()), indent=2)
    every = "training" if cls.learns else "evaluation"
    console.print(f"\n  and the options of every {every}: {command} --help", markup=False)


def _training(name: str, cls: type[Agent]) -> str:
    if cls.learns:
        return f"meta-trained on train tasks: metarl train {name} --family ID"
    return f"none: metarl eval {name} --family ID"


def _adaptation(cls: type[Agent]) -> str:
    if cls.is_recurrent:
        return "has a memory that changes at every step, and lasts through the episodes of a trial"
    if adapts_between_episodes(cls):
        return "collects episodes and then changes its parameters, in every adaptation step"
    return "none: adaptation steps do not change it"


def _supported_families(cls: type[Agent]) -> str:
    constant = " whose task is the same for a whole trial" if adapts_between_episodes(cls) else ""
    return f"{cls.takes}{constant}"


def _options_help(cls: type[Agent]) -> str:
    """The part of `--help` that shows the agent's options."""
    options: Any = cls.Config
    if not cls.learns:  # `metarl eval` names them --agent.NAME
        options = make_dataclass("Options", [("agent", cls.Config, field(default=cls.Config()))], frozen=True)
    output = io.StringIO()
    with redirect_stdout(output), suppress(SystemExit):
        tyro.cli(options, args=["--help"], description="")
    lines = [line.rstrip() for line in output.getvalue().splitlines()]
    return "\n".join(itertools.dropwhile(lambda line: not re.match(r" *--\w", line), lines))


def _range(dist: Distribution) -> str:
    return f"{dist.describe()}{f', {list(dist.shape)}' if dist.shape else ''}"


def _first_line(documented: object) -> str:
    return next(iter((documented.__doc__ or "").strip().splitlines()), "")


# --- lines -----------------------------------------------------------------------------------------------------------


def _print_table(rows: Sequence[tuple[str, str]], indent: int) -> None:
    """Print two columns; the second one is wrapped."""
    left = max(len(name) for name, _ in rows) + 2
    for name, text in rows:
        lines = textwrap.wrap(text, max(30, console.width - indent - left)) or [""]
        for i, line in enumerate(lines):
            console.print(f"{' ' * indent}{name if i == 0 else '':{left}}{line}", markup=False)


def _print_text(text: str) -> None:
    """Print paragraphs, wrapped and with an empty line after each. Paragraphs with indented lines are not wrapped."""
    for paragraph in filter(None, text.split("\n\n")):
        plain = not any(line.startswith(" ") for line in paragraph.splitlines())
        shown = textwrap.fill(paragraph, max(30, console.width - 2)) if plain else paragraph
        console.print(textwrap.indent(shown, "  ") + "\n", markup=False)
