"""Streams: train tasks in the order in which they arrive, each met once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from metarl.errors import InvalidValueError, did_you_mean, verbatim
from metarl.families.distributions import Integers, LogUniform, Normal, Uniform
from metarl.families.family import Family
from metarl.families.registry import make_family
from metarl.families.tasks import Tasks
from metarl.files import SEED
from metarl.rng import make_key

StreamKind = Literal["stationary", "drifting"]
KINDS: tuple[StreamKind, ...] = get_args(StreamKind)
_ORDERED = (Uniform, LogUniform, Normal, Integers)  # distributions of numbers, which have an order


@dataclass(frozen=True)
class Stream:
    """Tasks in the order in which they arrive.

    Attributes:
        kind: "stationary", "drifting", or the name of a stream of your own.
        seed: seed of the draw.
        tasks: the tasks, one a round.

    Raises:
        InvalidValueError: there is no task, or an address comes twice.
    """

    kind: str
    seed: int
    tasks: Tasks

    def __post_init__(self) -> None:
        if not len(self.tasks):
            raise InvalidValueError("tasks of the stream", verbatim("nothing"), "one task or more")
        if len(np.unique(self.tasks.index)) < len(self.tasks):
            raise InvalidValueError("tasks of the stream", self.tasks.index.tolist(), "tasks that are met once each")

    def __len__(self) -> int:
        return len(self.tasks)


def make_stream(
    family: str | Family, rounds: int, kind: StreamKind = "stationary", seed: int = 0, along: str | None = None
) -> Stream:
    """A stream of a family's train tasks, with the same bits on every machine.

    A stationary stream has independent draws of the family's distribution. A drifting stream has the same tasks, sorted
    by a parameter: it moves from one end of the parameter's distribution to the other.

    Args:
        family: a family or its id.
        rounds: number of tasks.
        kind: "stationary" or "drifting".
        seed: seed of the draw; it gives other tasks than the same seed of a training.
        along: the parameter that drifts, of a vector its first number; by default the family's first one that has an
            order.

    Raises:
        InvalidValueError: an argument is out of range, the family has fewer train tasks, or no parameter can drift.
    """
    family = make_family(family)
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise InvalidValueError("rounds", rounds, "a whole number of tasks, at least 1")
    if not SEED.holds(seed):
        raise InvalidValueError("seed of the stream", seed, SEED.words)
    if kind not in KINDS:
        raise InvalidValueError("stream", kind, did_you_mean(str(kind), KINDS))
    if along is not None and kind != "drifting":
        raise InvalidValueError("along", along, f"nothing, because a {kind} stream does not drift")
    if (every := family.listed("train")) is not None and len(every) < rounds:
        expected = f"at most {len(every)}, the train tasks of {family.id}, because each is met once"
        raise InvalidValueError("rounds", rounds, expected)
    tasks = family.tasks("train", rounds, make_key("stream", seed))
    if kind == "drifting":
        values = tasks.values[_drifting(family, along)].reshape(rounds, -1)[:, 0]
        tasks = tasks[np.argsort(values, kind="stable")]
    return Stream(kind, seed, tasks)


def _drifting(family: Family, along: str | None) -> str:
    """The parameter along which a stream drifts."""
    space = family.task_space
    ordered = [name for name, dist in space.items() if isinstance(dist, _ORDERED)]
    if not ordered:
        name, kinds = next(iter(space)), ", ".join(kind.__name__ for kind in _ORDERED)
        found = type(space[name]).__name__
        expected = f"'stationary' for {family.id}: its parameter {name} is a {found}, and one of {kinds} can drift"
        raise InvalidValueError("stream", "drifting", expected)
    if along is not None and along not in ordered:
        raise InvalidValueError("along", along, did_you_mean(along, ordered))
    return ordered[0] if along is None else along
