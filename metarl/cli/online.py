"""`metarl online AGENT`: an agent, and others beside it, in streams of tasks."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from metarl.agent_base import Agent, make_agent
from metarl.cli.options import OnlineOptions
from metarl.cli.outputs import check_online
from metarl.cli.progress import bar, say
from metarl.errors import InvalidValueError, verbatim
from metarl.families.family import Family
from metarl.families.registry import agent_class, make_family
from metarl.online.figure import online_figure
from metarl.online.play import play_stream
from metarl.online.results import SHARE, Estimate, OnlineResults
from metarl.online.streams import Stream, make_stream
from metarl.report.figures.style import save_figure
from metarl.report.page import text_table

FIGURE = "online.png"


def run_online(options: OnlineOptions) -> None:
    """`metarl online AGENT --family ID`."""
    if options.family is None:
        raise InvalidValueError("--family", verbatim("missing"), "--family ID")
    names = (options.name, *options.beside)
    for name, values in (("--beside", names), ("--seeds", options.seeds)):
        if len(set(values)) < len(values) or not values:
            raise InvalidValueError(name, list(values), "different ones, and at least one")
    family = make_family(options.family)
    streams = [make_stream(family, options.rounds, options.stream, seed) for seed in options.seeds]
    groups = [_agents(name, family, options) for name in names]
    if options.out is not None:
        check_online(options.out, [*(f"{name}.json" for name in (*names, f"{names[0]}-hindsight"))], FIGURE)
    results = [_play(group, streams, options, asked=group is groups[0]) for group in groups]
    reference = None
    if "informed_optimum" not in results[0].references and groups[0][0].learns:
        say(f"{family.id} does not tell its informed optimum: the regret is against {names[0]} trained in hindsight")
        again = _agents(names[0], family, options)
        reference = _play(again, streams, options, asked=True, in_hindsight=True)
    say(*text_table(_columns(results, reference)).split("\n"))
    if options.out is not None:
        for result in (*results, *([] if reference is None else [reference])):
            path = options.out / f"{result.agent}{'-hindsight' if result.meta['in_hindsight'] else ''}.json"
            say(f"wrote {result.save(path)}")
        say(f"wrote {save_figure(online_figure(results, reference), options.out / FIGURE)}")


def _agents(name: str, family: Family, options: OnlineOptions) -> list[Agent]:
    """An agent for each seed. Hyperparameters that were set for the first agent also hold for others that have them."""
    config = agent_class(name).Config()
    given: Any = getattr(options, "agent", None)
    if given is not None:
        default = asdict(type(given)())
        own = {field.name for field in fields(config)}
        config = replace(config, **{k: v for k, v in asdict(given).items() if k in own and v != default[k]})
    return [make_agent(name, family, seed=seed, device=options.device, config=config) for seed in options.seeds]


def _play(
    agents: list[Agent], streams: list[Stream], options: OnlineOptions, asked: bool, in_hindsight: bool = False
) -> OnlineResults:
    """One learner in all streams. `--updates` is asked of the first agent, and of those beside it that learn."""
    agent = agents[0]
    updates = options.updates if asked or agent.learns else None
    k: int | tuple[int, ...] = options.k[0] if len(options.k) == 1 else options.k
    label = f"{agent.name}{' in hindsight' if in_hindsight else ''}"
    with bar(label, len(streams) * len(streams[0]), 0, "rounds") as advance:
        settings: dict[str, Any] = {"episodes": options.episodes, "floor_episodes": options.floor_episodes}
        settings |= {"in_hindsight": in_hindsight, "progress": lambda done, total: advance(done)}
        result = play_stream(agents, streams, k=k, updates=updates, **settings)
    result.meta["command"] = shlex.join(["metarl", *sys.argv[1:]])
    return result


def _columns(results: Sequence[OnlineResults], reference: OnlineResults | None) -> list[list[str]]:
    """The table, a row for each learner."""
    first, last = results[0].k[0], results[0].k[-1]
    heads = {
        "first": f"R_{first}",
        "last": f"R_{last}",
        "late": f"R_{last}, second half",
        "regret_last": f"regret, R_{last}",
        "reached": f"reached {SHARE:.0%}",
        "steps": "env steps to it, at least",
        "train_steps": "env steps of meta-updates",
    }
    rows = [result.summary(reference=reference) for result in results]
    shown = {name: head for name, head in heads.items() if all(name in row for row in rows)}
    columns = [["learner", *(result.label for result in results)]]
    for name, head in shown.items():
        columns.append([head, *(_cell(row[name], name) for row in rows)])
    return columns


def _cell(value: Estimate, name: str) -> str:
    if name in ("steps", "train_steps"):
        return f"{value.mean:,.0f}"
    if name == "reached":
        return f"{value.mean:.0%}"
    ends = f" [{value.low:.4g}, {value.high:.4g}]" if value.low < value.high else ""  # one stream has no interval
    return f"{value.mean:.4g}{ends}"
