"""Streams of goals: MAML that follows the meta leader, beside training on everything and learning from scratch.

    python experiments/online_streams.py

2-D navigation, a goal a round, stationary and drifting streams. Every learner plays the same streams. Writes
`experiments/results/online/STREAM-LEARNER.json`, minutes on one core.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import tyro
from results_files import results_file
from trial_tables import table

import metarl
from metarl.online import OnlineResults, make_stream, play_stream
from metarl.online.results import Estimate
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


def main(options: Options) -> None:
    """Play all streams with all learners."""
    torch.set_num_threads(options.threads)
    for kind in KINDS:
        for learner in LEARNERS:
            print(play(kind, learner, options).save(results_file("online", f"{kind}-{learner}")), flush=True)


def cell(value: Estimate, digits: int = 1) -> str:
    """Text of a mean with its interval."""
    return f"{value.mean:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def tables() -> str:
    """A table for each kind of stream, made from the results files."""
    out = []
    for kind in KINDS:
        found = {learner: OnlineResults.load(results_file("online", f"{kind}-{learner}")) for learner in LEARNERS}
        rows = []
        for learner, results in found.items():
            s = results.summary()
            cells = [cell(s[name]) for name in ("first", "last", "late")]
            rows.append([LABELS[learner], *cells, cell(s["regret_last"], 0), f"{s['reached'].mean:.0%}"])
        first = found["maml"]
        seeds, rounds, _ = first.returns.shape
        head = ["", "R_0, no adaptation", f"R_{first.k[-1]}", f"R_{first.k[-1]}, second half", "regret", "reached"]
        out.append(
            f"A {kind} stream of {rounds} goals of `{first.family}`: means over rounds and {seeds} streams with 95 % "
            f"intervals over streams. {first.meta['updates']} meta-updates after each round, {first.k[-1]} adaptation "
            f"steps of {first.env_steps[0, 0, 1]:,.0f} environment steps in each task. Regret: against the informed "
            f"optimum, after all rounds. Reached: the share of rounds whose R_{first.k[-1]} or an earlier R_k is 90 % "
            f"of the way from random actions to the optimum.\n\n" + table(head, rows)
        )
    return "\n\n".join(out)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
