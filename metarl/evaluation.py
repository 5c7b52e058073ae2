"""The evaluator: the return after k adaptation steps on held-out tasks, and what every number is called.

For each task, each trial and each k of a grid, R_k is the undiscounted return of one fresh episode played with the
state after k adaptation steps; what happens in that episode is thrown away. Kept beside it and never merged: what was
collected while adapting, cumulative episodes and environment steps, and seconds. Scores are `[seed, task, k, episode]`.
"""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from metarl.agent import Agent, AgentState
from metarl.errors import InvalidValueError, did_you_mean
from metarl.family import Family
from metarl.rollout import Budget, Rollout, SlotPool, Trials
from metarl.tasks import Tasks, write_atomic, write_npz

Floats = npt.NDArray[np.float64]
FORMAT = "metarl-results-1"
MODES = ("sampled", "mean")
_PRIOR = ("train", "test")  # splits that the Bayes optimum under the family's prior is about


@dataclass
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
        meta: what made it: config, seeds, versions, note on train = test, command.
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
    _resampled: dict[str, dict[str, Floats]] = field(default_factory=dict, repr=False, compare=False)

    def summary(self, mode: str = "sampled") -> list[dict[str, float]]:
        """One row per k: mean and interquartile mean of R_k with 95 % intervals, steps used, normalised score."""
        per_task = self.scores[mode].mean(-1)  # [seed, task, k]
        intervals = self._intervals(mode, per_task)
        rows = []
        for i, k in enumerate(self.k):
            mean = float(per_task[:, :, i].mean())
            row = {"k": float(k), "mean": mean, "iqm": float(iqm(per_task[:, :, i]))}
            row |= {name: float(ends[i]) for name, ends in intervals.items()}
            row |= {"episodes": float(self.episodes[i]), "env_steps": float(self.env_steps[i])}
            if mode in self.success:
                row["success"] = float(self.success[mode][:, :, i].mean())
            score = self.normalised(mean)
            rows.append(row if score is None else row | {"normalised": score})
        return rows

    def _intervals(self, mode: str, per_task: Floats) -> dict[str, Floats]:
        """Ends of the intervals `[k]` by name, resampled once and kept."""
        if mode not in self._resampled:
            mean, middle = bootstrap_intervals(per_task, mean_batch, iqm_batch)
            ends = {"low": mean[0], "high": mean[1], "iqm_low": middle[0], "iqm_high": middle[1]}
            self._resampled[mode] = ends
        return self._resampled[mode]

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
        low, high = (float(end[0]) for end in bootstrap_intervals(per_task[..., None], mean_batch)[0])
        out = {"mean": float(per_task.mean()), "low": low, "high": high, "episodes": float(self.collected.shape[-1])}
        return out if self.bayes_optimal is None else out | {"bayes_optimal": self.bayes_optimal}

    def area_under_curve(self, mode: str = "sampled") -> float:
        """Mean of R_k over k, by the trapezoidal rule on the grid."""
        curve = self.scores[mode].mean((0, 1, 3))
        if len(self.k) < 2:
            return float(curve[0])
        return float(np.trapezoid(curve, self.k) / (self.k[-1] - self.k[0]))

    def save(self, path: str | Path) -> Path:
        """Write `path` (JSON: what it is, and summaries) and the arrays beside it (`.npz`)."""
        target = Path(path).with_suffix(".json")
        arrays: dict[str, Floats] = {"collected": self.collected, "lifetime": self.lifetime, "episodes": self.episodes}
        arrays |= {"env_steps": self.env_steps, "seconds": self.seconds}
        for group in ("scores", "success", "references"):
            arrays |= {f"{group}.{name}": v for name, v in getattr(self, group).items()}
        arrays |= {f"paths.{k}": v for k, v in self.paths.items()}
        if self.landmarks is not None:
            arrays["landmarks"] = self.landmarks
        head = {
            "format": FORMAT,
            **{n: getattr(self, n) for n in ("agent", "family", "split", "k", "bayes_optimal", "task_hash", "meta")},
            "summary": {mode: self.summary(mode) for mode in self.scores},
            "lifetime": self.lifetime_summary(),
        }
        write_npz(target.with_suffix(".npz"), arrays)
        write_atomic(target, (json.dumps(head, indent=1) + "\n").encode())
        return target

    @classmethod
    def load(cls, path: str | Path) -> Results:
        """Read what `save` wrote; nothing in it is executed."""
        target = Path(path).with_suffix(".json")
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
        groups: dict[str, Any] = {n: group(n) for n in ("scores", "success", "references")}
        paths = {int(k): v for k, v in group("paths").items()}
        return cls(**fields, **plain, **groups, paths=paths, landmarks=arrays.get("landmarks"))


def evaluate(
    agents: Agent | Sequence[Agent],
    tasks: Tasks | None = None,
    *,
    k: int | Sequence[int] = 3,
    split: str = "test",
    num_tasks: int = 40,
    task_seed: int = 0,
    trials: int = 1,
    episodes: int = 20,
    modes: Sequence[str] = MODES,
    seed: int = 0,
    rows_at_once: int | None = None,
    paths: int = 4,
    allow_train_tasks: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Results:
    """Measure the return after k adaptation steps.

    Args:
        agents: one agent, or the same agent trained with several seeds.
        tasks: what to play; by default tasks 0, ..., `num_tasks` - 1 of (split, task_seed).
        k: the last adaptation step (the grid is then 0, ..., k), or the grid itself.
        split: of the default tasks.
        num_tasks: how many of them.
        task_seed: seed of the split.
        trials: independent trials of each task.
        episodes: fresh episodes played for each R_k, in each trial and mode.
        modes: "sampled" and/or "mean" actions.
        seed: of the evaluation's randomness.
        rows_at_once: trials played side by side; changes nothing but rounding.
        paths: how many tasks' paths to keep for pictures.
        allow_train_tasks: accept tasks that training can draw.
        progress: called with (adaptation steps done, in all).

    Raises:
        InvalidValueError: an argument is out of range, or a task could be a train task.
    """
    group = [agents] if isinstance(agents, Agent) else list(agents)
    first = group[0]
    family = first.family
    if tasks is None:
        tasks = family.tasks(split, num_tasks, task_seed)
    grid = _check(first, family, tasks, k, trials, episodes, modes, allow_train_tasks)
    rows_at_once = rows_at_once or max(1, 65_536 // (first.budget.slots * max(1, min(episodes, 20))))
    per_part = max(1, rows_at_once // trials)
    parts = [tasks[slice(i, i + per_part)] for i in range(0, len(tasks), per_part)]
    done, total = 0, len(group) * len(parts) * (grid[-1] + 1)
    outcomes = []
    for agent in group:
        pool = SlotPool(family, agent.device)
        played: list[dict[str, Any]] = []
        for part in parts:

            def tick() -> None:
                nonlocal done
                done += 1
                if progress is not None:
                    progress(done, total)

            keep = max(0, paths - sum(len(p["episodes"]) // trials for p in played))
            played.append(
                _play_part(agent, Trials(pool, part, trials, seed, "evaluate"), grid, episodes, modes, keep, tick)
            )
        pool.close()
        outcomes.append(played)
    return _assemble(group, family, tasks, grid, trials, outcomes, min(paths, len(tasks)))


def _check(
    agent: Agent,
    family: Family,
    tasks: Tasks,
    k: int | Sequence[int],
    trials: int,
    episodes: int,
    modes: Sequence[str],
    allow_train_tasks: bool,
) -> list[int]:
    """Refuse what cannot be measured; the grid."""
    grid = list(range(k + 1)) if isinstance(k, int) else sorted({int(i) for i in k})
    if not grid or grid[0] < 0:
        raise InvalidValueError("k", k, "0 or more adaptation steps")
    for name, value in (("trials", trials), ("episodes", episodes)):
        if value < 1:
            raise InvalidValueError(name, value, "at least 1")
    for mode in modes:
        if mode not in MODES:
            raise InvalidValueError("mode", mode, did_you_mean(str(mode), MODES))
    if tasks.family != family.id:
        raise InvalidValueError("family of the tasks", tasks.family, f"{family.id!r}, which {agent.name} was made for")
    held_out = family.held_out(tasks)
    if not (family.finite or allow_train_tasks or bool(held_out.all())):
        bad = int(np.flatnonzero(~held_out)[0])
        where = (
            f"held-out tasks (task {bad} could be drawn in training; allow_train_tasks=True measures it all the same)"
        )
        raise InvalidValueError("split of the tasks", tasks.split, where)
    return grid


def _play_part(
    agent: Agent,
    trials: Trials,
    grid: list[int],
    episodes: int,
    modes: Sequence[str],
    keep: int,
    tick: Callable[[], None],
) -> dict[str, Any]:
    """Every trial of some tasks, from k = 0 to the end of the grid. Arrays have leading axis R."""
    out: dict[str, Any] = {"scores": {m: [] for m in modes}, "success": {m: [] for m in modes}, "paths": {}}
    out |= {"collected": [], "total": [], "episodes": [np.zeros(trials.rows)], "env_steps": [np.zeros(trials.rows)]}
    out["seconds"] = []
    state = agent.begin(trials.rows, trials.tasks if agent.privileged else None)
    for k in range(grid[-1] + 1):
        if k in grid:
            for mode in modes:
                rollout, returns = _score(agent, trials, state, k, episodes, mode)
                out["scores"][mode].append(returns)
                if rollout.success is not None:
                    ever, whole = rollout.episodes(rollout.success.float())
                    out["success"][mode].append(((ever > 0) & whole).double().flatten(1).cpu().numpy()[:, :episodes])
                if mode == modes[0]:
                    out["paths"][k] = _paths(rollout, keep)
        if k < grid[-1]:
            start = time.perf_counter()
            rollout, state = agent.interact(state, trials, k)
            out["seconds"].append(time.perf_counter() - start)
            out["collected"].append(rollout.mean_return().cpu().numpy())
            out["total"].append((rollout.reward * rollout.valid).double().sum((0, 2)).cpu().numpy())
            begun = (rollout.episode_start & rollout.valid).sum((0, 2)).cpu().numpy()
            out["episodes"].append(out["episodes"][-1] + begun)
            out["env_steps"].append(out["env_steps"][-1] + rollout.env_steps.cpu().numpy())
        tick()
    for name in ("episodes", "env_steps"):
        out[name] = np.stack(out[name], -1)[:, grid]
    return out


def _score(agent: Agent, trials: Trials, state: AgentState, k: int, episodes: int, mode: str) -> tuple[Rollout, Floats]:
    """Fresh episodes with copies of the state: returns `[R, episodes]`, their experience thrown away.

    An agent with a memory plays each from a copy of its own, because its state would go on in the episode.
    """
    if not agent.remembers:
        budget = Budget(slots=episodes, episodes=1)
        rollout, _ = trials.collect(agent, agent.fork(state), k, budget, mode, "score", final_obs=True)
        sums, _ = rollout.episodes(rollout.reward)
        return rollout, sums[:, :, 0].cpu().numpy()
    returns = []
    for number in range(episodes):
        rollout, _ = trials.numbered(number).collect(
            agent, agent.fork(state), k, Budget(episodes=1), mode, "score", final_obs=True
        )
        returns.append(rollout.episodes(rollout.reward)[0][:, 0, 0].cpu().numpy())
    return rollout, np.stack(returns, -1)


def _paths(rollout: Rollout, keep: int) -> Floats:
    """First slot of the first rows, up to its end: `[keep, T + 1, 2]`; empty unless observations are points."""
    if rollout.obs.dim() != 4 or rollout.obs.shape[-1] != 2 or keep == 0:
        return np.zeros((0, 0, 2))
    reached = rollout.extras["final_obs"][:, :keep, 0].double()
    before = (rollout.ended.long().cumsum(0) - rollout.ended.long())[:, :keep, 0]  # episodes that were over by then
    reached[before > 0] = torch.nan
    points = torch.cat([rollout.obs[:1, :keep, 0].double(), reached])
    return points.transpose(0, 1).cpu().numpy()


def _assemble(
    group: list[Agent],
    family: Family,
    tasks: Tasks,
    grid: list[int],
    trials: int,
    outcomes: list[list[dict[str, Any]]],
    paths: int,
) -> Results:
    """From parts by row to arrays by (seed, task, ...)."""
    modes = list(outcomes[0][0]["scores"])

    def by_task(rows: Floats) -> Floats:  # [task * trial, x] -> [task, x * trial], trials beside episodes
        return rows.reshape(len(tasks), trials, -1)

    def stacked(name: str, mode: str) -> Floats:  # [seed, task, k, trial * episode]
        seeds = []
        for played in outcomes:
            rows = np.concatenate([np.stack(p[name][mode], 1) for p in played])  # [task * trial, k, episode]
            seeds.append(
                rows.reshape(len(tasks), trials, len(grid), -1).transpose(0, 2, 1, 3).reshape(len(tasks), len(grid), -1)
            )
        return np.stack(seeds)

    def steps(name: str) -> Floats:  # [seed, task, trial, j]
        empty = np.zeros((len(tasks), trials, 0))
        per_seed = []
        for played in outcomes:
            rows = [np.stack(p[name], 1) for p in played if p[name]]
            per_seed.append(by_task(np.concatenate(rows)) if rows else empty)
        return np.stack(per_seed)

    first = group[0]
    has_success = bool(outcomes[0][0]["success"][modes[0]])
    total = steps("total")
    episodes_of_trial = grid[-1]
    whole_trial = first.budget.slots == 1 and first.budget.episodes == 1 and total.shape[-1] > 0
    flat = [p for played in outcomes for p in played]
    kept = {k: [p["paths"][k] for p in outcomes[0] if p["paths"][k].size] for k in grid}
    landmarks = family.landmarks(tasks[slice(0, paths)]) if paths else None
    return Results(
        agent=first.name,
        family=family.id,
        split=tasks.split,
        k=grid,
        scores={m: stacked("scores", m) for m in modes},
        success={m: stacked("success", m) for m in modes} if has_success else {},
        collected=steps("collected").mean(2),
        lifetime=total.sum(-1) if whole_trial else np.zeros((0,)),
        episodes=np.concatenate([p["episodes"] for p in flat]).mean(0),
        env_steps=np.concatenate([p["env_steps"] for p in flat]).mean(0),
        seconds=np.stack([np.sum([p["seconds"] for p in played], 0) for played in outcomes]),
        references=family.references(tasks),
        bayes_optimal=family.bayes_optimal_return(episodes_of_trial) if whole_trial and tasks.split in _PRIOR else None,
        paths={k: np.concatenate(v)[::trials] if v else np.zeros((0, 0, 2)) for k, v in kept.items()},
        landmarks=None if landmarks is None else landmarks.astype(np.float64),
        task_hash=tasks.hash,
        meta={
            "tasks": len(tasks),
            "task_seed": tasks.seed,
            "trials": trials,
            "seeds": [a.seed for a in group],
            "train_equals_test": family.finite,
        },
    )


def with_floor(results: Results, family: Family, tasks: Tasks, floor: Floats | None = None) -> Results:
    """The results with a floor among the references: the family's own, or a measured one, `[task]`."""
    if "floor" in results.references or floor is None:
        return results
    return replace(results, references={"floor": floor, **results.references})


# --- statistics ------------------------------------------------------------------------------------------------------


def mean_batch(scores: Floats) -> Floats:
    """Mean over seeds and tasks: `[..., seed, task, k]` to `[..., k]`."""
    return np.asarray(scores.mean((-3, -2)))


def iqm_batch(scores: Floats) -> Floats:
    """Interquartile mean over seeds and tasks, the mean of the middle half: `[..., seed, task, k]` to `[..., k]`."""
    flat = scores.reshape(*scores.shape[:-3], -1, scores.shape[-1])
    count = flat.shape[-2]
    cut = count // 4
    if cut == 0:
        return np.asarray(flat.mean(-2))
    parted = np.partition(np.moveaxis(flat, -2, -1), (cut, count - cut - 1), -1)
    return np.asarray(parted[..., cut : count - cut].mean(-1))


def iqm(scores: Floats) -> float:
    """Interquartile mean of `[seed, task]`."""
    return float(iqm_batch(scores[..., None])[0])


def bootstrap_intervals(
    scores: Floats, *statistics: Callable[[Floats], Floats], level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> list[tuple[Floats, Floats]]:
    """Percentile bootstrap over seeds and tasks, crossed: one trained agent plays all tasks.

    Seeds and tasks are drawn with replacement, independently of each other. Drawing the seeds anew within each task
    (stratified, as Agarwal et al. 2021, arXiv:2108.13264, do for runs that are independent in each task) would divide
    the variance between seeds by the number of tasks. With fewer than about 10 seeds percentile intervals are still
    somewhat narrow. All k and all statistics share the resamples.

    Args:
        scores: `[seed, task, k]`.
        statistics: each `[resample, seed, task, k]` to `[resample, k]`.
        level: of the interval.
        resamples: how many.
        seed: of the resampling.

    Returns:
        for each statistic the lower and the upper ends, `[k]`.
    """
    generator = np.random.default_rng(seed)
    seeds, tasks, _ = scores.shape
    values: list[list[Floats]] = [[] for _ in statistics]
    chunk = max(1, 2_000_000 // scores.size)
    for start in range(0, resamples, chunk):
        n = min(chunk, resamples - start)
        task = generator.integers(tasks, size=(n, 1, tasks), dtype=np.int32)
        one_of = generator.integers(seeds, size=(n, seeds, 1), dtype=np.int32) if seeds > 1 else 0
        drawn = scores[one_of, task] if seeds > 1 else scores[0][task]
        for kept, statistic in zip(values, statistics, strict=True):
            kept.append(statistic(drawn))
    tail = 50 * (1 - level)
    ends = [np.percentile(np.concatenate(kept), [tail, 100 - tail], axis=0) for kept in values]
    return [(low, high) for low, high in ends]
