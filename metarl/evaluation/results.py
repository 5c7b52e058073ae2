"""Results: scores with named axes, what they are called, and intervals that say how far they can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from metarl.errors import InvalidValueError, did_you_mean
from metarl.evaluation.intervals import Floats as Floats
from metarl.evaluation.intervals import (
    crossed_parts,
    interval,
    iqm,
    iqm_interval,
    mean_interval,
    seed_parts,
    task_parts,
)
from metarl.evaluation.modes import MODES, Mode
from metarl.files import (
    LARGEST_ARRAYS,
    OBJECT,
    SEEDS,
    TEXT,
    TEXTS,
    Kind,
    NpzReader,
    check_fields,
    digest_arrays,
    read_bytes,
    read_json,
    reading,
    whole,
    write_json,
    write_npz,
)
from metarl.lock import directory_lock

FORMAT = "metarl-results-3"
_PLAIN = ("collected", "lifetime", "episodes", "env_steps", "seconds")  # arrays, each a field
_OPTIONAL = ("landmarks", "bayes_episodes")
_GROUPS = ("scores", "success", "references", "trial", "paths")  # fields that hold arrays by name
_SCORES = ("seed", "task", "k", "episode")
_AXES: dict[str, tuple[str, ...]] = {  # of each array, by its name or its group's
    "scores": _SCORES,
    "success": _SCORES,
    "collected": ("seed", "task", "step"),
    "lifetime": ("seed", "task", "trial"),
    "episodes": ("k",),
    "env_steps": ("k",),
    "seconds": ("seed", "step"),
    "references": ("task",),
    "bayes_episodes": ("step",),
    "landmarks": ("path", "x and y"),
    "trial": ("path", "step", "time"),
}
_GRID = Kind(
    "a rising list of whole numbers from 0 on",
    lambda k: isinstance(k, list) and bool(k) and all(map(whole(0).holds, k)) and k == sorted(set(k)),
)
_OPTIMUM = Kind(
    "a number or null", lambda value: value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
)
_HEAD = {name: TEXT for name in ("agent", "family", "split", "task_hash", "arrays_sha256")}
_HEAD |= {"k": _GRID, "bayes_optimal": _OPTIMUM, "meta": OBJECT, "arrays": TEXTS}
_META = dict.fromkeys(("tasks", "trials", "episodes"), whole(1)) | {"seeds": SEEDS}
_META |= dict.fromkeys(("config", "versions"), OBJECT)


@dataclass(repr=False)
class Results:
    """What an evaluation measured.

    Attributes:
        agent: its name.
        family: full id.
        split: of the tasks.
        k: the grid of adaptation steps.
        scores: mode to R_k, `[seed, task, k, episode]`.
        success: mode to the share of episodes with success, `[seed, task, k, episode]`; empty where not reported.
        collected: mean return per episode collected during adaptation step j, `[seed, task, j]`.
        lifetime: total reward of the trial, exploration included, `[seed, task, trial]`; the headline where episodes
            are one step long; empty for agents that adapt on many environments at once.
        episodes: episodes begun before each k, `[k]`, mean over tasks, trials and seeds.
        env_steps: environment steps used before each k, `[k]`, likewise.
        seconds: of each adaptation step for all tasks together, `[seed, j]`.
        references: per-task reference returns of one episode, `[task]`; see `Family.references`.
        bayes_optimal: best expected lifetime return of the trial, task unknown, where known.
        paths: pictures' material: k to observations `[path, t, 2]`, NaN after the end; empty unless they are 2-D.
        landmarks: a point to mark for each path, `[path, 2]`.
        task_hash: content hash of the tasks.
        meta: what made it: settings, config, seeds, versions, git revision, whether the floor is exact or measured, and
            whether train = test, and if so whether all tasks were played.
        trial: the first trial of each of the first tasks, as the first seed's agent played it while adapting; for
            agents that live through a trial one episode at a time, else empty. `action` and `obs` (the environment's
            action, and what was seen before it) are `[path, episode, t]` and one axis more where they are vectors,
            `reward` is `[path, episode, t]`; t goes up to the horizon, NaN after the episode's end. `obs` is absent
            unless observations are vectors of at most 4 numbers.
        bayes_episodes: expected return of each episode of the trial, `[episode]`, under a policy that attains
            `bayes_optimal`, where known.
    """

    agent: str
    family: str
    split: str
    k: list[int]
    scores: dict[Mode, Floats]
    success: dict[Mode, Floats]
    collected: Floats
    lifetime: Floats
    episodes: Floats
    env_steps: Floats
    seconds: Floats
    references: dict[str, Floats]
    bayes_optimal: float | None
    paths: dict[int, Floats]
    landmarks: Floats | None
    task_hash: str
    meta: dict[str, Any] = field(default_factory=dict)
    trial: dict[str, Floats] = field(default_factory=dict)
    bayes_episodes: Floats | None = None

    def summary(self, mode: Mode | None = None) -> list[dict[str, float]]:
        """One row per k: mean and interquartile mean of R_k with 95 % intervals, steps used, normalised score.

        `mode` is "sampled" or "deterministic"; by default the first that was measured.
        """
        mode = self._mode(mode)
        per_task = self.scores[mode].mean(-1)  # [seed, task, k]
        (low, high), (iqm_low, iqm_high) = (
            f(per_task, fixed_tasks=self.every_task) for f in (mean_interval, iqm_interval)
        )
        columns = {"iqm": iqm(per_task), "low": low, "high": high, "iqm_low": iqm_low, "iqm_high": iqm_high}
        rows = []
        for i, k in enumerate(self.k):
            mean = float(per_task[:, :, i].mean())
            row = {"k": float(k), "mean": mean} | {name: float(values[i]) for name, values in columns.items()}
            row |= {"episodes": float(self.episodes[i]), "env_steps": float(self.env_steps[i])}
            if mode in self.success:
                row["success"] = float(self.success[mode][:, :, i].mean())
            score = self.normalised(mean)
            rows.append(row if score is None else row | {"normalised": score})
        return rows

    def _mode(self, mode: Mode | None) -> Mode:
        chosen = next(iter(self.scores)) if mode is None else mode
        if chosen not in self.scores:
            raise InvalidValueError("mode", chosen, did_you_mean(str(chosen), self.scores))
        return chosen

    @property
    def every_task(self) -> bool:
        """Whether the family's few tasks were all played: intervals then take them as they are, not as drawn."""
        return bool(self.meta.get("every_task"))

    def normalised(self, mean: float) -> float | None:
        """(mean - mean floor) / (mean reference - mean floor), unclipped; None where either is unknown."""
        if not {"floor", "informed_optimum"} <= self.references.keys():
            return None
        floor, best = self.references["floor"].mean(), self.references["informed_optimum"].mean()
        return float((mean - floor) / (best - floor))

    def lifetime_summary(self) -> dict[str, float] | None:
        """Mean lifetime return with its interval, beside the Bayes optimum where known."""
        if not self.lifetime.size:
            return None
        per_task = self.lifetime.mean(-1)
        low, high = (float(end[0]) for end in mean_interval(per_task[..., None], fixed_tasks=self.every_task))
        out = {"mean": float(per_task.mean()), "low": low, "high": high, "episodes": float(self.collected.shape[-1])}
        return out if self.bayes_optimal is None else out | {"bayes_optimal": self.bayes_optimal}

    def area_under_curve(self, mode: Mode | None = None) -> float:
        """Mean of R_k over k, by the trapezoidal rule on the grid."""
        curve = self.scores[self._mode(mode)].mean((0, 1, 3))
        if len(self.k) < 2:
            return float(curve[0])
        return float(np.trapezoid(curve, self.k) / (self.k[-1] - self.k[0]))

    def steps_to(self, share: float = 0.9, mode: Mode | None = None) -> dict[str, float] | None:
        """Environment steps until the normalised score reaches `share` and stays there on the grid of k.

        Returns:
            "steps" and the ends "low" and "high" of its 95 % interval, each the steps used before one of the grid's k,
            or infinite where the score is below at the last k (it is censored there); None where the floor or the
            informed optimum is unknown.
        """
        if not {"floor", "informed_optimum"} <= self.references.keys():
            return None
        floor, best = self.references["floor"], self.references["informed_optimum"]
        steps, span = np.append(self.env_steps, np.inf), (best - floor)[:, None]
        gain = self.scores[self._mode(mode)].mean(-1) - floor[:, None]  # [seed, task, k]
        margin = (gain - share * span).mean((0, 1))
        # the normalised score is a ratio: what varies is how a task's gain differs from its share of what can be gained
        rest = gain - gain.mean((0, 1)) / span.mean() * span
        low, high = interval(margin, crossed_parts(rest, fixed_tasks=self.every_task))
        ends = {"steps": margin, "low": high, "high": low}  # with the highest margins it takes the fewest
        return {name: float(steps[_stays(values >= 0)]) for name, values in ends.items()}

    def save(self, path: str | Path) -> Path:
        """Write `path` (JSON: what it is, and summaries) and the arrays beside it (`.npz`).

        Raises:
            InvalidValueError: the arrays' shapes do not fit each other, or the place cannot be written.
        """
        target, arrays = _json_path(path), self._arrays()
        head = {n: getattr(self, n) for n in ("agent", "family", "split", "k", "bayes_optimal", "task_hash", "meta")}
        head |= {"arrays": list(arrays), "arrays_sha256": digest_arrays(arrays)}
        _check_head(head, "the results")
        _check_shapes(head, {name: values.shape for name, values in arrays.items()})
        summaries = {"summary": {mode: self.summary(mode) for mode in self.scores}, "lifetime": self.lifetime_summary()}
        with directory_lock(target.parent, write=True):
            write_npz(target.with_suffix(".npz"), arrays)
            write_json(target, {"format": FORMAT} | head | summaries)
        return target

    def _arrays(self) -> dict[str, Floats]:
        """All arrays by the names they have in a file."""
        arrays = {name: getattr(self, name) for name in (*_PLAIN, *_OPTIONAL)}
        for group in _GROUPS:
            arrays |= {f"{group}.{name}": values for name, values in getattr(self, group).items()}
        return {name: np.asarray(values, np.float64) for name, values in arrays.items() if values is not None}

    def __repr__(self) -> str:
        seeds, tasks = next(iter(self.scores.values())).shape[:2]
        size = f"k = {self.k}, {seeds} seeds x {tasks} tasks"
        return f"Results({self.agent} on {self.family}, split {self.split!r}: {size})"

    @classmethod
    def load(cls, path: str | Path) -> Results:
        """Read what `save` wrote; nothing in it is executed.

        Raises:
            InvalidValueError: these are no such files, whatever their bytes, or they do not belong together.
        """
        expected = "whole results of an evaluation, a .json file and the .npz file beside it"
        with directory_lock(Path(path).parent, write=False), reading("results file", str(path), expected):
            target = _json_path(path)
            head = read_json(target, FORMAT, "evaluate again")
            _check_head(head, str(target))
            arrays = _read_arrays(target.with_suffix(".npz"), head)
            plain = {n: head[n] for n in ("agent", "family", "split", "k", "bayes_optimal", "task_hash", "meta")}
            groups: dict[str, Any] = {group: _group(arrays, group) for group in _GROUPS}
            groups["paths"] = {k: groups["paths"][str(k)] for k in head["k"] if str(k) in groups["paths"]}
            single: dict[str, Any] = {name: arrays.get(name) for name in (*_PLAIN, *_OPTIONAL)}
            return cls(**plain, **groups, **single)


def _group(arrays: Mapping[str, Floats], group: str) -> dict[str, Floats]:
    """The arrays of a group by their own names."""
    return {n.removeprefix(f"{group}."): values for n, values in arrays.items() if n.startswith(f"{group}.")}


def _read_arrays(path: Path, head: Mapping[str, Any]) -> dict[str, Floats]:
    """The arrays that `head` was written with, whose shapes are compared with it before they are read."""
    file = NpzReader(read_bytes(path, LARGEST_ARRAYS))
    _check_shapes(head, {name: told.shape for name, told in file.arrays.items()})
    arrays = {name: file.read(name, "<f8") for name in head["arrays"]}
    if digest_arrays(arrays) != head["arrays_sha256"]:
        raise ValueError(f"the arrays of {path.name} are others than those it was written with: evaluate again")
    return arrays


def _check_head(head: Mapping[str, Any], where: str) -> None:
    """Refuse fields of a wrong kind."""
    check_fields(head, _HEAD, where)
    check_fields(head["meta"], _META, f"meta of {where}", optional=True)


def _check_shapes(head: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse arrays that are missing, unknown, or of shapes that do not fit the grid, the meta data and each other."""
    if sorted(shapes) != sorted(head["arrays"]):
        raise InvalidValueError("arrays of the results", sorted(shapes), str(sorted(head["arrays"])))
    _check_names(set(shapes), head["k"])
    meta, sizes = head["meta"], {"k": len(head["k"]), "step": head["k"][-1], "x and y": 2}
    sizes |= {"seed": len(meta["seeds"])} if "seeds" in meta else {}
    sizes |= {axis: meta[name] for axis, name in (("task", "tasks"), ("trial", "trials")) if name in meta}
    for name in sorted(shapes, key=lambda name: not name.startswith("scores.")):
        group, shape = name.partition(".")[0], shapes[name]
        nothing = shape == (0,) if name == "lifetime" else group == "paths" and shape[:1] == (0,)
        if not nothing:
            _fit(name, shape, _axes(name, len(shape)), sizes)


def _check_names(names: set[str], k: list[int]) -> None:
    """Refuse arrays of which some are missing or unknown."""
    modes = [mode for mode in MODES if f"scores.{mode}" in names]
    needed = {*_PLAIN, *(f"scores.{mode}" for mode in modes or ["sampled"])}
    needed |= {"trial.action", "trial.reward"} if any(name.startswith("trial.") for name in names) else set()
    known = needed | {*_OPTIONAL, "trial.obs"} | {f"paths.{i}" for i in k} | {f"success.{mode}" for mode in modes}
    wrong = (needed - names) | {name for name in names - known if not name.startswith("references.")}
    if wrong:
        raise InvalidValueError("arrays of the results", sorted(wrong)[0], "what an evaluation makes, and all of it")


def _axes(name: str, dims: int) -> tuple[str, ...]:
    """The names of an array's axes; actions and observations of a trial may be vectors."""
    group, _, own = name.partition(".")
    if group == "paths":
        return ("path", f"time after {own}", "x and y")
    return (*_AXES[group], f"{own} vector") if dims == 4 and name in ("trial.action", "trial.obs") else _AXES[group]


def _fit(name: str, shape: tuple[int, ...], axes: tuple[str, ...], sizes: dict[str, int]) -> None:
    """Compare a shape with the axes' sizes, and remember those that were not known."""
    means = () if axes == _SCORES else ("task", "trial")  # axes over which a mean may have been taken
    pairs = list(zip(axes, shape, strict=False))
    fits = len(shape) == len(axes) and all(sizes.get(a, n) == n or (n == 1 and a in means) for a, n in pairs)
    if not fits or (axes == _SCORES and 0 in shape):
        words = ", ".join(f"{axis} {sizes[axis]}" if axis in sizes else axis for axis in axes)
        raise InvalidValueError(f"shape of {name}", list(shape), f"[{words}]")
    sizes.update({axis: n for axis, n in pairs if axis not in sizes})


def _json_path(path: str | Path) -> Path:
    path = Path(path)
    return path if path.suffix == ".json" else path.with_name(path.name + ".json")


# --- statistics ------------------------------------------------------------------------------------------------------


def _stays(reached: npt.NDArray[np.bool_]) -> int:
    """The first place from which on all of `[k]` is true; the number of places if the last is not."""
    return len(reached) - int(np.logical_and.accumulate(reached[::-1]).sum())


def train_test_gap(train: Results, test: Results, mode: Mode | None = None) -> list[dict[str, float]]:
    """How much higher R_k is on train tasks than on test tasks: the generalisation gap.

    Args:
        train: results of some agents on tasks that training could draw.
        test: results of the same agents on others, with the same k.
        mode: "sampled" or "deterministic"; by default the first that was measured.

    Returns:
        a row per k: "k", "gap", and the ends "low" and "high" of its 95 % interval; seeds are the same ones on both
        sides, tasks are drawn for each.

    Raises:
        InvalidValueError: the results are of different agents, seeds or k.
    """
    mode = test._mode(mode)
    if test.split == "train" or train.split == "test":
        raise InvalidValueError("splits", [train.split, test.split], "the train results first, then the test results")
    for name in ("agent", "family", "k"):
        if getattr(train, name) != getattr(test, name):
            raise InvalidValueError(f"{name} of the train results", getattr(train, name), repr(getattr(test, name)))
    for name in ("seeds", "config", "iterations"):
        if train.meta.get(name) != test.meta.get(name):
            raise InvalidValueError(f"{name} of the train results", train.meta.get(name), repr(test.meta.get(name)))
    a, b = (results.scores[results._mode(mode)].mean(-1) for results in (train, test))  # [seed, task, k]
    parts = seed_parts(a.mean(1) - b.mean(1)) + task_parts(a) + task_parts(b)
    gap = a.mean((0, 1)) - b.mean((0, 1))
    low, high = interval(gap, parts)
    return [
        {"k": float(k), "gap": float(gap[i]), "low": float(low[i]), "high": float(high[i])}
        for i, k in enumerate(test.k)
    ]
