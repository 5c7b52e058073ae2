"""What there is: the registered families and agents.

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
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import field, fields, make_dataclass
from typing import Any

import tyro

from metarl.agent_base import Agent, adapts_between_episodes
from metarl.cli.options import ListOptions
from metarl.cli.progress import console
from metarl.errors import InvalidValueError, did_you_mean
from metarl.families.family import Family
from metarl.families.registry import agent_class, agents, base_id, families, kinds, make_family

YOURS = "yours"  # the kind of what is registered without one


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
    _print_groups("Families", families, _of_family)
    _print_groups("Agents", agents, lambda name: _first_line(agent_class(name)))
    console.print("metarl list NAME tells all there is to know of one.")


# --- everything, in groups -------------------------------------------------------------------------------------------


def _print_groups(title: str, names: Iterable[str], line: Any) -> None:
    """A table of names and what they are, for each kind; kinds in the order in which they were first registered."""
    console.print(title, style="bold", markup=False)
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(kinds.get(name) or YOURS, []).append(name)
    mine = groups.pop(YOURS, None)
    for kind, members in [*groups.items(), *([(YOURS, mine)] if mine else [])]:
        console.print(f"  {kind}", style="bold", markup=False)
        _print_table([(name, line(name)) for name in sorted(members)], indent=4)


def _of_family(id: str) -> str:
    """One line of a family: what it is and its presets, or what it needs."""
    if not families[id].available:
        return f"needs {families[id].install_command}"
    build = families[id].load()
    presets = ", ".join(getattr(build, "presets", {}))
    return _first_line(build) + (f" Presets: {presets}." if presets else "")


# --- one of them -----------------------------------------------------------------------------------------------------


def _describe_family(family: Family) -> None:
    """A family's spaces, tasks and splits."""
    facts = {
        "what": _first_line(families[base_id(family.id)].load()),
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
    """What an agent is, what it needs, and its options."""
    cls = agent_class(name)
    facts = [
        ("kind", kinds.get(name) or YOURS),
        ("training", _training(name, cls)),
        ("adaptation", _adaptation(cls)),
        ("is shown", "the task and the environments (privileged)" if cls.privileged else "observations and rewards"),
        ("families", _takes(cls)),
    ]
    console.print(name, style="bold", markup=False)
    for text in (inspect.getdoc(cls), inspect.getdoc(sys.modules[cls.__module__])):
        _print_text(text or "")
    _print_table(facts, indent=2)
    if fields(cls.Config):
        console.print(f"\n  options of metarl {'train' if cls.learns else 'eval'} {name}:\n")
        console.print(_options_help(cls), markup=False)


def _training(name: str, cls: type[Agent]) -> str:
    if cls.learns:
        return f"meta-trained on train tasks: metarl train {name} --family ID"
    return f"needs none, and is measured as it is: metarl eval {name} --family ID"


def _adaptation(cls: type[Agent]) -> str:
    if cls.is_recurrent:
        return "lives through a trial: at every step it remembers what it saw, from one episode to the next"
    if adapts_between_episodes(cls):
        return "collects episodes, then changes its parameters, again in every adaptation step"
    return "none: it plays the same after any number of adaptation steps"


def _takes(cls: type[Agent]) -> str:
    stays = " whose task stays for a whole trial" if adapts_between_episodes(cls) else ""
    return f"{cls.takes}{stays}"


def _options_help(cls: type[Agent]) -> str:
    """The agent's part of what `--help` shows."""
    options: Any = cls.Config
    if not cls.learns:  # `metarl eval` has them as --agent.NAME
        options = make_dataclass("Options", [("agent", cls.Config, field(default=cls.Config()))], frozen=True)
    told = io.StringIO()
    with redirect_stdout(told), suppress(SystemExit):
        tyro.cli(options, args=["--help"], description="")
    lines = [line.rstrip() for line in told.getvalue().splitlines()]
    return "\n".join(itertools.dropwhile(lambda line: not re.match(r" *--\w", line), lines))


def _range(dist: Any) -> str:
    return f"{dist.describe()}{f', {list(dist.shape)}' if dist.shape else ''}"


def _first_line(thing: Any) -> str:
    return next(iter((thing.__doc__ or "").strip().splitlines()), "")


# --- lines -----------------------------------------------------------------------------------------------------------


def _print_table(rows: Sequence[tuple[str, str]], indent: int) -> None:
    """Two columns, the second one wrapped."""
    left = max(len(name) for name, _ in rows) + 2
    for name, text in rows:
        lines = textwrap.wrap(text, max(30, console.width - indent - left)) or [""]
        for i, line in enumerate(lines):
            console.print(f"{' ' * indent}{name if i == 0 else '':{left}}{line}", markup=False)


def _print_text(text: str) -> None:
    """Paragraphs, a line left free after each; those with indented lines as they are."""
    for paragraph in filter(None, text.split("\n\n")):
        plain = not any(line.startswith(" ") for line in paragraph.splitlines())
        shown = textwrap.fill(paragraph, max(30, console.width - 2)) if plain else paragraph
        console.print(textwrap.indent(shown, "  ") + "\n", markup=False)
