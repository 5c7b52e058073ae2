"""Results of streams: what a learner is paid in each round, its regret, and its steps to a threshold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from metarl.errors import InvalidValueError, verbatim
from metarl.evaluation.intervals import mean_interval
from metarl.evaluation.results import Floats
from metarl.files import (
    FLAG,
    OBJECT,
    SEEDS,
    TEXT,
    TEXTS,
    JsonObject,
    Kind,
    check_fields,
    read_json,
    reading,
    whole,
    write_json,
)

FORMAT = "metarl-online-1"
REFERENCES = ("floor", "informed_optimum")  # returns of one episode that are kept of each task
SHARE = 0.9  # of the way from the floor to the best return, the default threshold
_PLAIN = ("agent", "family", "stream", "k", "task_hashes", "meta")
_ARRAYS = ("returns", "env_steps", "train_steps")
_GRID = Kind(
    "a rising list of whole numbers from 0 on",
    lambda k: isinstance(k, list) and bool(k) and all(map(whole(0).holds, k)) and k == sorted(set(k)),
)
_HEAD = dict.fromkeys(("agent", "family", "stream"), TEXT) | {"k": _GRID, "references": OBJECT, "task_hashes": TEXTS}
_META = {"seeds": SEEDS, "stream_seeds": SEEDS, "updates": whole(0), "episodes": whole(1), "in_hindsight": FLAG}


class Estimate(NamedTuple):
    """A mean over streams, with the ends of its 95 % interval; with one stream both are the mean."""

    mean: float
    low: float
    high: float


@dataclass(repr=False)
class OnlineResults:
    """What one learner is paid in streams, a stream for each seed.

    Attributes:
        agent: name of the agent.
        family: full id of the family.
        stream: kind of the streams.
        k: the grid of adaptation steps.
        returns: R_k in the task of each round, the mean over fresh episodes, `[seed, round, k]`.
        env_steps: environment steps that the agent used in the task before each k, `[seed, round, k]`.
        train_steps: environment steps of all meta-updates before the round, `[seed, round]`.
        references: reference returns of one episode in each task, by name, `[seed, round]`: "floor" (uniformly random
            actions) and "informed_optimum", as far as they are known.
        task_hashes: content hash of the tasks of each stream.
        meta: seeds, settings, config, versions and git revision.
    """

    agent: str
    family: str
    stream: str
    k: list[int]
    returns: Floats
    env_steps: Floats
    train_steps: Floats
    references: dict[str, Floats]
    task_hashes: list[str]
    meta: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        seeds, rounds, _ = self.returns.shape
        return f"OnlineResults({self.label} on {self.family}: {seeds} {self.stream} streams of {rounds} tasks)"

    @property
    def label(self) -> str:
        """The agent's name, and whether it was trained on the whole stream before."""
        return f"{self.agent} in hindsight" if self.meta.get("in_hindsight") else self.agent

    def best(self, reference: OnlineResults | None = None) -> Floats:
        """The return in each round that the learner is compared with, `[seed, round]`.

        Args:
            reference: a learner of the same streams, whose R_k at its last k is the best return, such as an agent that
                was trained in hindsight; None for the family's informed optimum.

        Raises:
            InvalidValueError: the informed optimum is not known, or the reference is of other streams.
        """
        if reference is not None:
            if (reference.family, reference.task_hashes) != (self.family, self.task_hashes):
                raise InvalidValueError("streams of the reference", reference, f"those of {self!r}")
            return reference.returns[:, :, -1]
        if "informed_optimum" not in self.references:
            expected = f"a learner of the same streams, because {self.family} does not tell its informed optimum"
            raise InvalidValueError("reference", verbatim("nothing"), expected)
        return self.references["informed_optimum"]

    def regret(self, reference: OnlineResults | None = None) -> Floats:
        """The sum over the rounds so far of the best return less R_k, `[seed, round, k]`.

        R_k is the return after adaptation; what the agent is paid while it adapts is not part of it. Arguments and
        errors are those of `best`.
        """
        return np.asarray((self.best(reference)[:, :, None] - self.returns).cumsum(1))

    def steps_to(self, share: float = SHARE, reference: OnlineResults | None = None) -> Floats:
        """Environment steps in each task until R_k reaches a threshold, infinite where it does not, `[seed, round]`.

        Args:
            share: the threshold, as a share of the way from the task's floor to the best return.
            reference: that of `best`.

        Raises:
            InvalidValueError: the floor or the best return is not known.
        """
        if "floor" not in self.references:
            raise InvalidValueError("floor of the tasks", verbatim("unknown"), "random episodes (floor_episodes)")
        floor = self.references["floor"]
        threshold = floor + share * (self.best(reference) - floor)
        reached = self.returns >= threshold[:, :, None]
        steps = np.take_along_axis(self.env_steps, reached.argmax(-1)[..., None], -1)[..., 0]
        return np.where(reached.any(-1), steps, np.inf)

    def summary(self, share: float = SHARE, reference: OnlineResults | None = None) -> dict[str, Estimate]:
        """Means over streams, with 95 % intervals.

        Returns:
            "first" and "last": R_k at the first and the last k of the grid, the mean over rounds. "late": the latter in
            the second half of the rounds. "train_steps": environment steps of all meta-updates before the last round.
            If the best return is known: "regret_first" and "regret_last", after all rounds. If the floor is known too:
            "reached", the share of rounds that reach the threshold, and "steps", the environment steps to it, where a
            round that does not reach it counts with all its steps, so the mean is a lower bound.
        """
        late = self.returns[:, self.returns.shape[1] // 2 :, -1]
        out = {"first": self.returns[:, :, 0], "last": self.returns[:, :, -1], "late": late}
        out |= {"train_steps": self.train_steps[:, -1:]}
        if reference is not None or "informed_optimum" in self.references:
            regret = self.regret(reference)[:, -1:]
            out |= {"regret_first": regret[..., 0], "regret_last": regret[..., -1]}
            if "floor" in self.references:
                steps = self.steps_to(share, reference)
                out |= {"reached": np.isfinite(steps), "steps": np.minimum(steps, self.env_steps[:, :, -1])}
        return {name: over_streams(values.mean(1)) for name, values in out.items()}

    # --- files -------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write a JSON file, completely or not at all.

        Raises:
            InvalidValueError: a number is not finite, the shapes do not fit, or the file cannot be written.
        """
        head: JsonObject = {"format": FORMAT} | {name: getattr(self, name) for name in _PLAIN}
        head |= {name: getattr(self, name).tolist() for name in _ARRAYS}
        head |= {"references": {name: values.tolist() for name, values in self.references.items()}}
        _checked(head, "the results")
        target = Path(path)
        write_json(target, head)
        return target

    @classmethod
    def load(cls, path: str | Path) -> OnlineResults:
        """Read a file that `save` wrote. Nothing in it is executed.

        Raises:
            InvalidValueError: `save` did not write this file, or it was changed.
        """
        with reading("online results", str(path), "a file written by OnlineResults.save"):
            return _checked(read_json(Path(path), FORMAT, "play the streams again"), str(path))


def over_streams(values: Floats) -> Estimate:
    """The mean of a number of each stream, `[seed]`, with its 95 % interval."""
    low, high = mean_interval(np.asarray(values, np.float64)[:, None, None])
    return Estimate(float(np.mean(values)), float(low[0]), float(high[0]))


def _checked(head: Mapping[str, Any], where: str) -> OnlineResults:
    """Results from the content of a file."""
    check_fields(head, _HEAD | {"meta": OBJECT}, where)
    check_fields(head["meta"], _META, f"meta of {where}")
    seeds = len(head["meta"]["seeds"])
    arrays = {name: np.array(head.get(name), np.float64) for name in _ARRAYS}
    references = {name: np.array(values, np.float64) for name, values in head["references"].items()}
    rounds = arrays["train_steps"].shape[-1] if arrays["train_steps"].ndim else 0
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("returns", "env_steps"), (seeds, rounds, len(head["k"])))
    shapes |= dict.fromkeys(("train_steps", *references), (seeds, rounds))
    for name, values in (arrays | references).items():
        if values.shape != shapes[name] or not values.size:
            raise InvalidValueError(
                f"shape of {name} of {where}", values.shape, f"{shapes[name]}, by seed, round and k"
            )
        if not np.isfinite(values).all():
            raise InvalidValueError(f"{name} of {where}", float(values[~np.isfinite(values)][0]), "finite numbers")
    if len(head["task_hashes"]) != seeds or len(head["meta"]["stream_seeds"]) != seeds:
        raise InvalidValueError(f"task_hashes of {where}", head["task_hashes"], f"{seeds}, one for each seed")
    if unknown := sorted(set(references) - set(REFERENCES)):
        raise InvalidValueError(f"references of {where}", unknown, f"some of {list(REFERENCES)}")
    plain = {name: head[name] for name in _PLAIN}
    return OnlineResults(**plain, **cast("dict[str, Any]", arrays), references=references)
