"""Streams of goals: MAML that follows the meta leader, beside training on everything and learning from scratch.

    python experiments/online_streams.py

2-D navigation, a goal a round, stationary and drifting streams. Every learner plays the same streams. Writes
`experiments/results/online/STREAM-LEARNER.json`, minutes on one core.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from matplotlib.figure import Figure
from results_files import results_file
from tables.text import table

import metarl
from metarl.online import OnlineResults, make_stream, play_stream
from metarl.online.figure import online_figure
from metarl.online.results import Estimate, over_streams
from metarl.online.streams import KINDS

FAMILY = "metarl/PointNavigation-v0"
ADAPTED = {"hidden": (64, 64), "eval_steps": 1000}
TRAINED: dict[str, Any] = {**ADAPTED, "meta_batch_size": 10, "episodes": 5, "fvp_stride": 5}
LEARNERS: dict[str, tuple[str, dict[str, Any], bool]] = {  # agent, hyperparameters, whether in hindsight
    "maml": ("maml", TRAINED, False),
    "pretrained": ("pretrained", TRAINED, False),
    "scratch": ("scratch", ADAPTED, False),
    "hindsight": ("maml", TRAINED, True),
}
SHARES = (0.5, 0.8, 0.9)  # thresholds of the table
LABELS = {
    "maml": "follow the meta leader (`maml`)",
    "pretrained": "train on everything, then fine-tune (`pretrained`)",
    "scratch": "from scratch (`scratch`)",
    "hindsight": "`maml` trained on the whole stream before",
}


@dataclass(frozen=True)
class Options:
    """Options of the experiment."""

    rounds: int = 30
    """Tasks of a stream."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the streams and of the agents."""
    updates: int = 2
    """Meta-updates after each round."""
    k: int = 2
    """Adaptation steps in each task."""
    threads: int = 1
    """Number of PyTorch threads."""


def play(kind: Any, learner: str, options: Options) -> OnlineResults:
    """One learner in the streams of one kind."""
    name, config, in_hindsight = LEARNERS[learner]
    streams = [make_stream(FAMILY, options.rounds, kind, seed) for seed in options.seeds]
    agents = [metarl.make_agent(name, FAMILY, seed=seed, **config) for seed in options.seeds]
    updates = options.updates if agents[0].learns else 0
    return play_stream(agents, streams, k=options.k, updates=updates, episodes=10, in_hindsight=in_hindsight)


def file_of(kind: str, learner: str) -> Path:
    """Path of the results of a learner."""
    return results_file("online", f"{kind}-{learner}")


def main(options: Options) -> None:
    """Play all streams with all learners."""
    torch.set_num_threads(options.threads)
    for kind in KINDS:
        for learner in LEARNERS:
            print(play(kind, learner, options).save(file_of(kind, learner)), flush=True)


def cell(value: Estimate, digits: int = 1) -> str:
    """Text of a mean with its interval."""
    return f"{value.mean:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def tables() -> str:
    """A table for each kind of stream, made from the results files."""
    return "\n\n".join(table_of(kind) for kind in KINDS)


def figure_of(kind: str) -> Figure:
    """The return after adaptation and the regret, round by round, of one kind of stream."""
    return online_figure([OnlineResults.load(file_of(kind, learner)) for learner in LEARNERS])


def table_of(kind: str) -> str:
    """The table of one kind of stream."""
    found = {learner: OnlineResults.load(file_of(kind, learner)) for learner in LEARNERS}
    rows = []
    for learner, results in found.items():
        s = results.summary()
        reached = "/".join(f"{results.summary(share)['reached'].mean:.0%}" for share in SHARES)
        cells = [cell(s[name]) for name in ("first", "last", "late")]
        rows.append([LABELS[learner], *cells, cell(s["regret_last"], 0), reached])
    first, other = found["maml"], found["pretrained"]
    seeds, rounds, _ = first.returns.shape
    k, shares = first.k[-1], ", ".join(f"{share:.0%}" for share in SHARES)
    less = cell(over_streams((first.regret() - other.regret())[:, -1, -1]), 0)
    head = ["", "R_0, no adaptation", f"R_{k}", f"R_{k}, second half", f"regret, R_{k}", "reached"]
    return (
        f"A {kind} stream of {rounds} goals of `{first.family}`: means over rounds and {seeds} streams, with 95 % "
        f"intervals over streams; sampled actions. {first.meta['updates']} meta-updates after each round, on "
        f"{TRAINED['meta_batch_size']} tasks x {TRAINED['episodes']} episodes each; {k} adaptation steps of "
        f"{first.env_steps[0, 0, 1]:,.0f} environment steps in each task. Regret: against the informed optimum, after "
        f"all rounds. Reached: the share of rounds in which an R_k comes {shares} of the way from random actions to "
        f"the optimum. The regret of `maml` less that of `pretrained`, in the same streams: {less}. Scores only: no "
        "weights of these agents are kept; the scores are made again by the command `python "
        "experiments/online_streams.py`.\n\n" + table(head, rows)
    )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
