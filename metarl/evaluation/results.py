"""Results of an evaluation: scores with named axes, summaries with intervals, and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from metarl.errors import InvalidValueError, did_you_mean
from metarl.evaluation.intervals import Floats as Floats
from metarl.evaluation.intervals import (
    crossed_parts,
    interval,
    iqm,
    iqm_interval,
    lasting_from,
    mean_interval,
    success_row,
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
_PLAIN = ("collected", "lifetime", "episodes", "env_steps", "seconds")  # fields that are one array each
_OPTIONAL = ("landmarks", "bayes_episodes", "rewards")
_GROUPS = ("scores", "success", "references", "trial", "paths", "task_values", "belief")  # dicts of arrays
_SCORES = ("seed", "task", "k", "episode")
_BELIEF: dict[str, tuple[str, ...]] = {"belief.places": ("query", "x and y")}
_BELIEF |= {f"belief.{n}": ("seed", "asked task", "time in trial") for n in ("error", "prior", "probe", "probe_exact")}
_BELIEF |= dict.fromkeys(("belief.exact", "belief.decoded"), ("time in trial", "query"))
_AXES: dict[str, tuple[str, ...]] = {  # axes of each array, by its name or its group
    **dict.fromkeys(("scores", "success"), _SCORES),
    "collected": ("seed", "task", "step"),
    "lifetime": ("seed", "task", "trial"),
    **dict.fromkeys(("episodes", "env_steps"), ("k",)),
    "seconds": ("seed", "step"),
    **dict.fromkeys(("references", "task_values"), ("task",)),
    "bayes_episodes": ("step",),
    "landmarks": ("path", "x and y"),
    "trial": ("path", "step", "time"),
    "rewards": ("k", "time"),
    **_BELIEF,
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
_META |= dict.fromkeys(("config", "versions", "belief", "overrides"), OBJECT)


@dataclass(repr=False)
class Results:
    """The results of an evaluation.

    Attributes:
        agent: name of the agent.
        family: full id of the family.
        split: split of the tasks.
        k: the grid of adaptation steps.
        scores: R_k for each mode, `[seed, task, k, episode]`.
        success: for each mode, 1 where an episode had success, else 0, `[seed, task, k, episode]`; empty if the family
            does not report success.
        collected: mean return per episode collected during each adaptation step, `[seed, task, step]`.
        lifetime: total reward of each trial, exploration included, `[seed, task, trial]`. It is the main result if
            episodes have one step. It is empty for agents that adapt on several environments at once.
        episodes: number of episodes begun before each k, mean over tasks, trials and seeds, `[k]`.
        env_steps: number of environment steps used before each k, mean likewise, `[k]`.
        seconds: duration of each adaptation step for all tasks together, `[seed, step]`.
        references: reference returns of one episode in each task, `[task]`; see `Family.references`.
        bayes_optimal: best expected lifetime return of a player who does not know the task; None if it is not known.
        paths: for pictures, the observations of scored episodes for each k, `[path, t, 2]`, with NaN after the end;
            empty unless observations are points in the plane.
        landmarks: a point to mark in the picture of each path, `[path, 2]`; None if the family has none.
        task_hash: content hash of the tasks.
        meta: the settings, config, seeds, versions and git revision of the evaluation; whether the floor is exact or
            measured; whether train and test tasks are the same; and whether all tasks of a finite family were played.
        trial: the first trial of some tasks, as the agent of the first seed played it while adapting. It is empty
            unless an adaptation step is one episode. `action` (of the environment) and `obs` (before the action) are
            `[path, episode, t]`, with one more axis if they are vectors; `reward` is `[path, episode, t]`. t goes up to
            the horizon, with NaN after the episode's end. `obs` is left out unless observations are vectors of at most
            4 numbers.
        bayes_episodes: expected return of each episode of the trial, `[episode]`, under a policy that attains
            `bayes_optimal`; None if it is not known.
        task_values: the tasks' parameters that are numbers, `[task]`, or vectors of at most 4 numbers, `[task, d]`.
        belief: what agents that tell it believed about the first 210 tasks, beside the exact posterior if that is
            known: `join_beliefs` in `metarl.evaluation.belief`; and the errors of probes, `[seed, task, time]`.
        rewards: for pictures, the rewards of one scored episode in the first task for each k, `[k, t]`, with NaN after
            the end; None if episodes have one step, and in older files.
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
    task_values: dict[str, Floats] = field(default_factory=dict)
    belief: dict[str, Floats] = field(default_factory=dict)
    rewards: Floats | None = None

    def summary(self, mode: Mode | None = None) -> list[dict[str, float]]:
        """One row per k: mean and interquartile mean of R_k with 95 % intervals, steps used, success, normalised score.

        The columns "iqm", "iqm_low" and "iqm_high" are left out where each score of a seed and task is 0 or 1: the
        middle half of such scores is nearly always all 0 or all 1.

        `mode` is "sampled" or "deterministic"; by default it is the first mode of the results.

        Raises:
            InvalidValueError: there is no such mode, or a score is not finite.
        """
        mode = self._mode(mode)
        per_task = self.per_task(mode)
        (low, high), (iqm_low, iqm_high) = (
            f(per_task, fixed_tasks=self.every_task) for f in (mean_interval, iqm_interval)
        )
        columns = {"iqm": iqm(per_task), "low": low, "high": high, "iqm_low": iqm_low, "iqm_high": iqm_high}
        binary = ((per_task == 0) | (per_task == 1)).all((0, 1))
        rows = []
        for i, k in enumerate(self.k):
            mean = float(per_task[:, :, i].mean())
            shown = {n: values for n, values in columns.items() if not (binary[i] and n.startswith("iqm"))}
            row = {"k": float(k), "mean": mean} | {name: float(values[i]) for name, values in shown.items()}
            row |= {"episodes": float(self.episodes[i]), "env_steps": float(self.env_steps[i])}
            if mode in self.success:
                row |= success_row(self.success[mode][:, :, i], self.every_task)
            score = self.normalised(mean)
            rows.append(row if score is None else row | {"normalised": score})
        return rows

    def per_task(self, mode: Mode | None = None) -> Floats:
        """R_k of each seed in each task, the mean over episodes, `[seed, task, k]`.

        Raises:
            InvalidValueError: there is no such mode, or a score is not finite.
        """
        mode = self._mode(mode)
        self.check_finite(f"{mode} score", self.scores[mode], "k", self.k)
        return np.asarray(self.scores[mode].mean(-1))

    def check_finite(self, what: str, values: Floats, axis: str, places: Sequence[int]) -> None:
        """Refuse numbers `[seed, task, place, ...]` that are not finite. `places` are the names along `axis`.

        Raises:
            InvalidValueError: a number is not finite.
        """
        if np.isfinite(values).all():
            return
        first = tuple(np.argwhere(~np.isfinite(values))[0])
        seed = self.meta.get("seeds", range(len(values)))[first[0]]
        where = f"seed {seed}, task {first[1]}, {axis} = {places[first[2]]}"
        raise InvalidValueError(f"{what} of {self.agent} ({where})", float(values[first]), "a finite number")

    def check_numbers(self) -> None:
        """Refuse scores and lifetime returns that are not finite. `save` and `load` call it.

        Raises:
            InvalidValueError: a number is not finite. The error names agent, seed, task, and k or trial.
        """
        for mode, scores in self.scores.items():
            self.check_finite(f"{mode} score", scores, "k", self.k)
        if self.lifetime.size:
            self.check_finite("lifetime return", self.lifetime, "trial", range(self.lifetime.shape[-1]))

    def _mode(self, mode: Mode | None) -> Mode:
        chosen = next(iter(self.scores)) if mode is None else mode
        if chosen not in self.scores:
            raise InvalidValueError("mode", chosen, did_you_mean(str(chosen), self.scores))
        return chosen

    @property
    def every_task(self) -> bool:
        """Whether all tasks of a finite family were played. Intervals then do not treat tasks as random."""
        return bool(self.meta.get("every_task"))

    def interval_words(self) -> str:
        """One phrase that says what the 95 % intervals are over."""
        seeds, tasks = next(iter(self.scores.values())).shape[:2]
        if seeds == 1:
            return "one seed: over tasks only, other seeds may differ" if tasks > 1 else "one seed and one task: none"
        return "over seeds: all tasks of the family were played" if self.every_task else "over seeds and tasks"

    def scale(self) -> tuple[Floats, Floats] | None:
        """The floor and the informed optimum of each task, `[task]` each: the 0 and the 1 of normalised scores.

        None if one of them is unknown or not finite, or if the optimum's mean is not above the floor's.
        """
        if not {"floor", "informed_optimum"} <= self.references.keys():
            return None
        floor, best = self.references["floor"], self.references["informed_optimum"]
        return (floor, best) if 0 < best.mean() - floor.mean() < np.inf else None

    def normalised(self, mean: float) -> float | None:
        """(mean - mean floor) / (mean reference - mean floor), unclipped; None if there is no `scale`."""
        if (scale := self.scale()) is None:
            return None
        floor, best = (reference.mean() for reference in scale)
        return float((mean - floor) / (best - floor))

    def lifetime_summary(self) -> dict[str, float] | None:
        """The mean lifetime return with its interval, and the Bayes optimum if it is known; None without lifetimes."""
        if not self.lifetime.size:
            return None
        self.check_numbers()
        per_task = self.lifetime.mean(-1)
        low, high = (float(end[0]) for end in mean_interval(per_task[..., None], fixed_tasks=self.every_task))
        out = {"mean": float(per_task.mean()), "low": low, "high": high, "episodes": float(self.collected.shape[-1])}
        return out if self.bayes_optimal is None else out | {"bayes_optimal": self.bayes_optimal}

    def area_under_curve(self, mode: Mode | None = None) -> float:
        """The mean of R_k over k, by the trapezoidal rule on the grid."""
        curve = self.per_task(mode).mean((0, 1))
        if len(self.k) < 2:
            return float(curve[0])
        return float(np.trapezoid(curve, self.k) / (self.k[-1] - self.k[0]))

    def steps_to(self, share: float = 0.9, mode: Mode | None = None) -> dict[str, float] | None:
        """Environment steps until the normalised score reaches `share` and stays there on the grid of k.

        Returns:
            "steps" and the ends "low" and "high" of its 95 % interval. Each is the number of steps used before one of
            the grid's k, or infinite if the score is below `share` at the last k. None if there is no `scale`.
        """
        if (scale := self.scale()) is None:
            return None
        floor, best = scale
        steps, span = np.append(self.env_steps, np.inf), (best - floor)[:, None]
        gain = self.per_task(mode) - floor[:, None]  # [seed, task, k]
        margin = (gain - share * span).mean((0, 1))
        # the normalised score is a ratio, so its error comes from the residuals of gain against span
        rest = gain - gain.mean((0, 1)) / span.mean() * span
        low, high = interval(margin, crossed_parts(rest, fixed_tasks=self.every_task))
        ends = {"steps": margin, "low": high, "high": low}  # the upper end of the margin gives the fewest steps
        return {name: float(steps[lasting_from(values >= 0)]) for name, values in ends.items()}

    def save(self, path: str | Path) -> Path:
        """Write two files: `path` (JSON: meta data and summaries), and the arrays with the same name and `.npz`.

        Raises:
            InvalidValueError: shapes do not fit each other, a score is not finite, or the files cannot be written.
        """
        target, arrays = _json_path(path), self._arrays()
        head = {n: getattr(self, n) for n in ("agent", "family", "split", "k", "bayes_optimal", "task_hash", "meta")}
        head |= {"arrays": list(arrays), "arrays_sha256": digest_arrays(arrays)}
        _check_head(head, "the results")
        _check_shapes(head, {name: values.shape for name, values in arrays.items()})
        self.check_numbers()
        summaries = {"summary": {mode: self.summary(mode) for mode in self.scores}, "lifetime": self.lifetime_summary()}
        with directory_lock(target.parent, write=True):
            write_npz(target.with_suffix(".npz"), arrays)
            write_json(target, {"format": FORMAT} | head | summaries)
        return target

    def _arrays(self) -> dict[str, Floats]:
        """All arrays by their names in the file."""
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
        """Read the files that `save` wrote. Nothing in them is executed.

        Raises:
            InvalidValueError: the files are damaged, of another kind, or do not belong together, or a score is not
                finite.
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
            found = cls(**plain, **groups, **single)
            found.check_numbers()
            return found


def _group(arrays: Mapping[str, Floats], group: str) -> dict[str, Floats]:
    """The arrays of a group, by their names within the group."""
    return {n.removeprefix(f"{group}."): values for n, values in arrays.items() if n.startswith(f"{group}.")}


def _read_arrays(path: Path, head: Mapping[str, Any]) -> dict[str, Floats]:
    """Read the arrays that `head` describes. Their shapes are checked before the data is read."""
    file = NpzReader(read_bytes(path, LARGEST_ARRAYS))
    _check_shapes(head, {name: header.shape for name, header in file.arrays.items()})
    arrays = {name: file.read(name, "<f8") for name in head["arrays"]}
    if digest_arrays(arrays) != head["arrays_sha256"]:
        raise ValueError(f"the arrays of {path.name} are not those that were saved with it: evaluate again")
    return arrays


def _check_head(head: Mapping[str, Any], where: str) -> None:
    """Refuse fields of the wrong kind."""
    check_fields(head, _HEAD, where)
    check_fields(head["meta"], _META, f"meta of {where}", optional=True)


def _check_shapes(head: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse missing and unknown arrays, and shapes that do not fit the grid, the meta data and each other."""
    if sorted(shapes) != sorted(head["arrays"]):
        raise InvalidValueError("arrays of the results", sorted(shapes), str(sorted(head["arrays"])))
    _check_names(set(shapes), head["k"])
    meta, sizes = head["meta"], {"k": len(head["k"]), "step": head["k"][-1], "x and y": 2}
    sizes |= {"seed": len(meta["seeds"])} if "seeds" in meta else {}
    sizes |= {axis: meta[name] for axis, name in (("task", "tasks"), ("trial", "trials")) if name in meta}
    for name in sorted(shapes, key=lambda name: not name.startswith("scores.")):
        group, shape = name.partition(".")[0], shapes[name]
        empty = shape == (0,) if name == "lifetime" else group == "paths" and shape[:1] == (0,)
        if not empty:
            _check_axes(name, shape, _axes(name, len(shape)), sizes)


def _check_names(names: set[str], k: list[int]) -> None:
    """Refuse missing and unknown arrays."""
    modes = [mode for mode in MODES if f"scores.{mode}" in names]
    needed = {*_PLAIN, *(f"scores.{mode}" for mode in modes or ["sampled"])}
    needed |= {"trial.action", "trial.reward"} if any(name.startswith("trial.") for name in names) else set()
    known = needed | {*_OPTIONAL, *_BELIEF, "trial.obs"} | {f"paths.{i}" for i in k}
    known |= {f"success.{mode}" for mode in modes}
    free = ("references.", "task_values.")
    wrong = (needed - names) | {name for name in names - known if not name.startswith(free)}
    if wrong:
        raise InvalidValueError("arrays of the results", sorted(wrong)[0], "all arrays of an evaluation, and no others")


def _axes(name: str, dims: int) -> tuple[str, ...]:
    """The names of an array's axes. Values of a task, and actions and observations of a trial, may be vectors."""
    group, _, own = name.partition(".")
    if group == "paths":
        return ("path", f"time after {own}", "x and y")
    vector = (dims == 4 and name in ("trial.action", "trial.obs")) or (dims == 2 and group == "task_values")
    return (*_AXES[group], f"{own} vector") if vector else _AXES.get(name) or _AXES[group]


def _check_axes(name: str, shape: tuple[int, ...], axes: tuple[str, ...], sizes: dict[str, int]) -> None:
    """Refuse a shape that does not fit the sizes of its axes. Sizes of new axes are added to `sizes`."""
    whole_axes = axes == _SCORES or name.startswith("task_values.")
    means = () if whole_axes else ("task", "trial")  # axes over which a mean may have been taken
    pairs = list(zip(axes, shape, strict=False))
    fits = len(shape) == len(axes) and all(sizes.get(a, n) == n or (n == 1 and a in means) for a, n in pairs)
    if not fits or (axes == _SCORES and 0 in shape):
        words = ", ".join(f"{axis} {sizes[axis]}" if axis in sizes else axis for axis in axes)
        raise InvalidValueError(f"shape of {name}", list(shape), f"[{words}]")
    sizes.update({axis: n for axis, n in pairs if axis not in sizes})


def _json_path(path: str | Path) -> Path:
    path = Path(path)
    return path if path.suffix == ".json" else path.with_name(path.name + ".json")
