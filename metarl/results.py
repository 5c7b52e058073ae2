"""Results: scores with named axes, what they are called, and intervals that say how far they can be trusted."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from metarl.errors import InvalidValueError, did_you_mean
from metarl.intervals import Floats as Floats
from metarl.intervals import crossed_parts, interval, iqm, iqm_interval, mean_interval, seed_parts, task_parts
from metarl.tasks import write_atomic, write_npz

FORMAT = "metarl-results-1"


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
            are one step long; empty for agents that adapt on many slots at once.
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
    scores: dict[str, Floats]
    success: dict[str, Floats]
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

    def summary(self, mode: str | None = None) -> list[dict[str, float]]:
        """One row per k: mean and interquartile mean of R_k with 95 % intervals, steps used, normalised score.

        `mode` is "sampled" or "mean"; by default the first that was measured.
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

    def _mode(self, mode: str | None) -> str:
        mode = next(iter(self.scores)) if mode is None else mode
        if mode not in self.scores:
            raise InvalidValueError("mode", mode, did_you_mean(mode, self.scores))
        return mode

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

    def area_under_curve(self, mode: str | None = None) -> float:
        """Mean of R_k over k, by the trapezoidal rule on the grid."""
        curve = self.scores[self._mode(mode)].mean((0, 1, 3))
        if len(self.k) < 2:
            return float(curve[0])
        return float(np.trapezoid(curve, self.k) / (self.k[-1] - self.k[0]))

    def steps_to(self, share: float = 0.9, mode: str | None = None) -> dict[str, float] | None:
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
        """Write `path` (JSON: what it is, and summaries) and the arrays beside it (`.npz`)."""
        target = _json_path(path)
        arrays: dict[str, Floats] = {"collected": self.collected, "lifetime": self.lifetime, "episodes": self.episodes}
        arrays |= {"env_steps": self.env_steps, "seconds": self.seconds}
        for group in ("scores", "success", "references", "trial"):
            arrays |= {f"{group}.{name}": v for name, v in getattr(self, group).items()}
        arrays |= {f"paths.{k}": v for k, v in self.paths.items()}
        for name in ("landmarks", "bayes_episodes"):
            if (values := getattr(self, name)) is not None:
                arrays[name] = values
        head = {
            "format": FORMAT,
            **{n: getattr(self, n) for n in ("agent", "family", "split", "k", "bayes_optimal", "task_hash", "meta")},
            "summary": {mode: self.summary(mode) for mode in self.scores},
            "lifetime": self.lifetime_summary(),
        }
        write_npz(target.with_suffix(".npz"), arrays)
        write_atomic(target, (json.dumps(head, indent=1) + "\n").encode())
        return target

    def __repr__(self) -> str:
        seeds, tasks = next(iter(self.scores.values())).shape[:2]
        size = f"k = {self.k}, {seeds} seeds x {tasks} tasks"
        return f"Results({self.agent} on {self.family}, split {self.split!r}: {size})"

    @classmethod
    def load(cls, path: str | Path) -> Results:
        """Read what `save` wrote; nothing in it is executed."""
        target = _json_path(path)
        try:
            head = json.loads(target.read_text())
            if head.get("format") != FORMAT:
                raise InvalidValueError("results format", head.get("format"), repr(FORMAT))
            with target.with_suffix(".npz").open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                arrays = {k: file[k] for k in file.files}
        except (OSError, ValueError, AttributeError, EOFError, zipfile.BadZipFile) as error:
            if isinstance(error, InvalidValueError):
                raise
            raise InvalidValueError("results file", str(path), f"files written by Results.save ({error})") from error

        def group(name: str) -> dict[str, Floats]:
            return {k.removeprefix(name + "."): v for k, v in arrays.items() if k.startswith(name + ".")}

        plain: dict[str, Any] = {n: arrays[n] for n in ("collected", "lifetime", "episodes", "env_steps", "seconds")}
        fields: dict[str, Any] = {
            n: head[n] for n in ("agent", "family", "split", "k", "bayes_optimal", "task_hash", "meta")
        }
        groups: dict[str, Any] = {n: group(n) for n in ("scores", "success", "references", "trial")}
        paths = {int(k): v for k, v in group("paths").items()}
        optional: dict[str, Any] = {n: arrays.get(n) for n in ("landmarks", "bayes_episodes")}
        return cls(**fields, **plain, **groups, **optional, paths=paths)


def _json_path(path: str | Path) -> Path:
    path = Path(path)
    return path if path.suffix == ".json" else path.with_name(path.name + ".json")


# --- statistics ------------------------------------------------------------------------------------------------------


def _stays(reached: npt.NDArray[np.bool_]) -> int:
    """The first place from which on all of `[k]` is true; the number of places if the last is not."""
    return len(reached) - int(np.logical_and.accumulate(reached[::-1]).sum())


def train_test_gap(train: Results, test: Results, mode: str | None = None) -> list[dict[str, float]]:
    """How much higher R_k is on train tasks than on test tasks: the generalisation gap.

    Args:
        train: results of some agents on tasks that training could draw.
        test: results of the same agents on others, with the same k.
        mode: "sampled" or "mean"; by default the first that was measured.

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
