"""Memory and time of a meta-update against the number of inner steps: `maml` beside `imaml`.

    python experiments/benchmark_inner_steps.py [--repeats 3] [--steps 1 2 5 10 20] [--small]

Both agents have one rollout for each inner step, on 2-D navigation. Memory is the largest number of bytes that autograd
keeps at once for backward passes, parameters and samples included. Time is the processor's, in one thread, for the
meta-update without the playing: the adapted policies, the gradient, the metric, TRPO's step and its line search. A
number is the median over repeats; the two agents take turns.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import tyro
from baselines.measure import interleave, machine
from matplotlib.figure import Figure
from results_files import results_file
from tables.text import table
from torch import Tensor

import metarl
from metarl.agents.gradient.maml import MAML
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.files import write_atomic
from metarl.learning.gradient.policy_gradient import Batch
from metarl.report.figures.style import PALETTE

OUT = results_file("speed", "inner_steps")
AGENTS = ("maml", "imaml")


@dataclass(frozen=True)
class Options:
    """Options of the benchmark."""

    repeats: int = 3
    """Timed repeats of each agent and number of inner steps."""
    steps: tuple[int, ...] = (1, 2, 5, 10, 20)
    """Numbers of inner steps."""
    out: Path = OUT
    """Results file."""
    small: bool = False
    """Whether to use tiny sizes, to test that everything runs. Such numbers are meaningless."""


SIZES: dict[str, Any] = {"meta_batch_size": 5, "episodes": 4}
TINY: dict[str, Any] = {"meta_batch_size": 2, "episodes": 1, "hidden": (8,)}


class KeptBytes:
    """Bytes of the tensors that autograd keeps for backward passes; storages count once.

    Attributes:
        now: bytes kept at present.
        peak: the largest value of `now`.
    """

    def __init__(self) -> None:
        self.now = self.peak = 0
        self.users: dict[int, int] = {}  # graph nodes by the address of the storage

    def add(self, kept: Tensor) -> None:
        """A graph keeps a tensor."""
        storage = kept.untyped_storage()
        self.users[storage.data_ptr()] = self.users.get(storage.data_ptr(), 0) + 1
        self.now += storage.nbytes() if self.users[storage.data_ptr()] == 1 else 0
        self.peak = max(self.peak, self.now)

    def remove(self, kept: Tensor) -> None:
        """A graph lets go of a tensor."""
        storage = kept.untyped_storage()
        self.users[storage.data_ptr()] -= 1
        self.now -= storage.nbytes() if self.users[storage.data_ptr()] == 0 else 0


class _Kept:
    """A tensor that a graph keeps."""

    def __init__(self, tensor: Tensor, count: KeptBytes) -> None:
        self.tensor, self.count = tensor, count
        count.add(tensor)

    def __del__(self) -> None:
        self.count.remove(self.tensor)


@contextmanager
def kept_bytes() -> Iterator[KeptBytes]:
    """Count what autograd keeps of the graphs that are built inside."""
    count, vjp = KeptBytes(), torch.func.vjp
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda v: _Kept(v.detach(), count), lambda kept: kept.tensor)

    def uncounted(*args: Any) -> Any:
        """torch.func supports no hooks. It differentiates how theta_0 and the step sizes come from theta: few bytes."""
        hooks.__exit__()
        try:
            return vjp(*args)
        finally:
            hooks.__enter__()

    with hooks, patch("torch.func.vjp", uncounted):
        yield count


def agent_and_samples(name: str, steps: int, **settings: Any) -> tuple[MAML, list[Batch], Batch]:
    """An agent, and the samples of a meta-update with `steps` inner steps."""
    agent = metarl.make_agent(name, "metarl/PointNavigation-v0", inner_steps=steps, **settings)
    assert isinstance(agent, MAML)
    trials = PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("train", agent.meta_batch_size))
    state, batches = agent.begin(trials.rows), []
    for j in range(steps + 1):
        rollout, state = trials.collect(agent, state, j, agent.train_budget)
        batches.append(agent.prepare(rollout))
        if j < steps:
            state = agent.adapt_on(batches[-1], state, trials)
    return agent, batches[:-1], batches[-1]


def memory(name: str, steps: int, **settings: Any) -> int:
    """The most bytes that autograd keeps at once in a meta-update."""
    agent, pre, post = agent_and_samples(name, steps, **settings)
    with kept_bytes() as count:
        agent.meta_update(pre, post)
    return count.peak


def measure(steps: int, repeats: int, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each agent: bytes, and seconds of each repeat."""

    def side(name: str) -> Any:
        agent, pre, post = agent_and_samples(name, steps, **settings)
        theta = agent.theta

        def update(_: int) -> dict[str, float]:
            agent.theta, start = theta, time.process_time()
            agent.meta_update(pre, post)
            return {"seconds": time.process_time() - start}

        return update

    found = interleave({name: side(name) for name in AGENTS}, repeats)
    return [
        {"agent": name, "steps": steps, "bytes": memory(name, steps, **settings), "seconds": found[name]["seconds"]}
        for name in AGENTS
    ]


def rows_of(report: dict[str, Any], agent: str) -> list[dict[str, Any]]:
    """The rows of one agent."""
    return [row for row in report["rows"] if row["agent"] == agent]


def inner_steps_table(report: dict[str, Any]) -> str:
    """The table of docs/gradients.md."""
    rows = []
    for pair in zip(*(rows_of(report, name) for name in AGENTS), strict=True):
        kept = [f"{row['bytes'] / 2**20:,.1f}" for row in pair]
        rows.append([str(pair[0]["steps"]), *kept, *(f"{statistics.median(row['seconds']):.2f}" for row in pair)])
    size = report["settings"]
    return (
        f"One meta-update on {size['meta_batch_size']} tasks x {size['episodes']} episodes x 100 steps a rollout, "
        f"defaults of the agents, one thread on {report['cpu']}: the most MiB that autograd keeps at once, and seconds "
        f"of the processor without the playing, medians of {report['options']['repeats']} repeats. Command: `python "
        "experiments/benchmark_inner_steps.py`.\n\n"
        + table(["inner steps", *(f"`{a}`, {unit}" for unit in ("MiB", "s") for a in AGENTS)], rows)
    )


def inner_steps_figure(report: dict[str, Any]) -> Figure:
    """Memory and time against the number of inner steps."""
    out = Figure(figsize=(6.8, 2.6), layout="constrained")
    panels = out.subplots(1, 2)
    for name, color in zip(AGENTS, PALETTE, strict=False):
        found = rows_of(report, name)
        steps = [row["steps"] for row in found]
        panels[0].plot(steps, [row["bytes"] / 2**20 for row in found], marker="o", color=color, label=name)
        panels[1].plot(steps, [statistics.median(row["seconds"]) for row in found], marker="o", color=color, label=name)
    for axes, what in zip(panels, ("kept by autograd [MiB]", "meta-update, processor [s]"), strict=True):
        axes.set(xlabel="inner steps", ylabel=what, ylim=(0, None))
    panels[0].legend(frameon=False)
    return out


def main(options: Options) -> None:
    """Measure, print the table and write the results."""
    if options.repeats < 1 or min(options.steps, default=0) < 1:
        raise SystemExit(f"--repeats and --steps must be at least 1, not {options.repeats} and {options.steps}")
    torch.set_num_threads(1)
    settings = TINY if options.small else SIZES
    report: dict[str, Any] = {"options": asdict(options) | {"out": options.out.name}, "settings": settings}
    report |= {**machine(), "rows": [row for k in options.steps for row in measure(k, options.repeats, settings)]}
    print(inner_steps_table(report))
    write_atomic(options.out, (json.dumps(report, indent=1) + "\n").encode())


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
