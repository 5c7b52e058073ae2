"""What there is: the registered families and agents.

metarl list
metarl list metarl/GridNavi-v0
"""

from __future__ import annotations

from typing import Any

from metarl.family import Family
from metarl.options import ListOptions
from metarl.progress import console
from metarl.registry import agent_class, agents, base_id, families, make_family


def run_list(options: ListOptions) -> None:
    """`metarl list`."""
    for id in options.families:
        _describe(make_family(id))
    if options.families:
        return
    console.print("[bold]Families[/bold]")
    for id in sorted(families):
        if not families[id].available:
            console.print(f"  {id}  [dim]needs pip install 'metarl\\[{families[id].requires}]'[/dim]")
            continue
        build = families[id].load()
        presets = ", ".join(getattr(build, "presets", {})) or "none"
        console.print(f"  {id}  {_first_line(build)}  (presets: {presets})")
    console.print("[bold]Agents[/bold]")
    for name in sorted(agents):
        console.print(f"  {name}  {_first_line(agent_class(name))}")


def _describe(family: Family) -> None:
    """A family's spaces, tasks and splits."""
    facts = {
        "what": _first_line(families[base_id(family.id)].load()),
        "source": family.source,
        "observation": family.observation_space,
        "action": family.action_space,
        "horizon": f"{family.horizon} steps",
        **{f"task: {name}": _range(dist) for name, dist in family.task_space.items()},
        **{f"split {split}: {n}": _range(d) for split, space in family.ood.items() for n, d in space.items()},
        "splits": ", ".join(family.splits) + (" (train = test)" if family.finite else ""),
        "presets": ", ".join(family.presets) or "none",
    }
    console.print(f"[bold]{family.id}[/bold]")
    for name, value in facts.items():
        if value != "":
            console.print(f"  {name}: {value}", markup=False)


def _range(dist: Any) -> str:
    return f"{dist.describe()}{f', {list(dist.shape)}' if dist.shape else ''}"


def _first_line(thing: Any) -> str:
    return next(iter((thing.__doc__ or "").strip().splitlines()), "")
