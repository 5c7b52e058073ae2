"""The evaluator: the return after k adaptation steps on held-out tasks.

For each task, each trial and each k of a grid, R_k is the undiscounted return of one fresh episode played with the
state after k adaptation steps; what happens in that episode is thrown away. Kept beside it and never merged: what was
collected while adapting, cumulative episodes and environment steps, and seconds. Scores are `[seed, task, k, episode]`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from metarl.agent import Agent, AgentState, Budget, Rollout
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.errors import InvalidValueError, did_you_mean, verbatim
from metarl.evaluation.results import Floats, Results
from metarl.families.family import Family
from metarl.families.tasks import Tasks, content_hash
from metarl.learning.random_play import RandomPlay
from metarl.provenance import git_revision, versions

MODES = ("sampled", "mean")
_TASKS = 40  # that are played if nobody says otherwise
_SMALL = 4  # numbers in an observation that is kept of a trial
_PRIOR = ("train", "test")  # splits that the Bayes optimum under the family's prior is about


def evaluate(
    agents: Agent | Sequence[Agent],
    tasks: Tasks | None = None,
    *,
    k: int | Sequence[int] = 3,
    split: str = "test",
    num_tasks: int | None = None,
    task_seed: int = 0,
    trials: int = 1,
    episodes: int = 20,
    modes: Sequence[str] = MODES,
    seed: int = 0,
    floor_episodes: int = 20,
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
        num_tasks: how many of them; by default 40, or the next multiple of a split's tasks where it has fewer.
        task_seed: seed of the split.
        trials: independent trials of each task.
        episodes: fresh episodes played for each R_k, in each trial and mode.
        modes: "sampled" and/or "mean" actions.
        seed: of the evaluation's randomness.
        floor_episodes: random episodes per task that measure the floor of a family that does not know its own; 0 for
            none.
        rows_at_once: trials played side by side; changes nothing but rounding.
        paths: of how many tasks to keep, for pictures, the first trial's paths and what was done in it.
        allow_train_tasks: accept tasks that training can draw.
        progress: called with (adaptation steps done, in all).

    Raises:
        InvalidValueError: an argument is out of range, or a task could be a train task.
    """
    group: list[Any] = list(agents) if isinstance(agents, (list, tuple)) else [agents]
    family = _one_family(group)
    if tasks is None:
        tasks = family.tasks(split, default_tasks(family, split) if num_tasks is None else num_tasks, task_seed)
    grid = adaptation_grid(k)
    counts = {"trials": (trials, 1), "episodes": (episodes, 1), "floor_episodes": (floor_episodes, 0)}
    _check(group[0], family, tasks, counts, modes, allow_train_tasks)
    width = max(group[0].budget.envs, 1 if group[0].is_recurrent else episodes)
    size = max(1, (rows_at_once or max(1, 65_536 // width)) // trials)
    starts = range(0, len(tasks), size)
    ticks = _Ticks(len(group) * len(starts) * (grid[-1] + 1), progress)

    def part(agent: Agent, pool: EnvironmentPool, start: int) -> _Part:
        played = PoolTrials(pool, tasks[slice(start, start + size)], trials, seed, "evaluate")
        shown = slice(0, max(0, min(size, paths - start)) * trials, trials)
        return _play_part(agent, played, grid, episodes, modes, shown, ticks)

    outcomes: list[list[_Part]] = []
    for agent in group:
        with closing(EnvironmentPool(family, agent.device)) as pool:
            outcomes.append([part(agent, pool, start) for start in starts])
    references, floor = _references(family, tasks, group[0].device, floor_episodes, seed)
    settings = {"tasks": len(tasks), "task_seed": tasks.seed, "trials": trials, "episodes": episodes, "seed": seed}
    results = _assemble(group[0], tasks, grid, trials, outcomes, references)
    results.landmarks = _landmarks(family, tasks[slice(0, paths)]) if paths else None
    results.meta = {
        **settings,
        "seeds": [a.seed for a in group],
        "config": asdict(group[0].config),
        "floor": floor,
        "train_equals_test": family.finite,
        "every_task": _plays_every(family, tasks),
        "failed_steps": sum(part.failed for played in outcomes for part in played),
        "versions": versions(),
        "git": git_revision(),
    }
    return results


# --- arguments -------------------------------------------------------------------------------------------------------


def _one_family(group: Sequence[Agent]) -> Family:
    """The family that all agents were made for."""
    if not group or not all(isinstance(agent, Agent) for agent in group):
        found = next((agent for agent in group if not isinstance(agent, Agent)), verbatim("nothing"))
        expected = "one agent, or one agent trained with several seeds (make_agent, or Run.open(path).load_agent()[0])"
        raise InvalidValueError("agents", found, expected)
    for name, values in (("agents", {a.name for a in group}), ("families", {a.family.id for a in group})):
        if len(values) > 1:
            raise InvalidValueError(f"{name} to evaluate together", sorted(values), "one and the same")
    return group[0].family


def default_tasks(family: Family, split: str) -> int:
    """How many tasks are played if nobody says: 40, or the next multiple of a split's tasks where there are fewer."""
    every = family.listed(split)
    count = 1 if every is None or len(every) >= _TASKS else len(every)
    return -(-_TASKS // count) * count


def _plays_every(family: Family, tasks: Tasks) -> bool:
    """Whether these are all tasks of a family whose train and test tasks are the same few."""
    every = family.listed(tasks.split) if family.finite and tasks.split in family.splits else None
    return every is not None and bool(np.isin(content_hash(every.values), content_hash(tasks.values)).all())


def adaptation_grid(k: int | Sequence[int]) -> list[int]:
    """The declared grid of adaptation steps, ascending."""
    given = list(range(int(k) + 1)) if isinstance(k, (int, np.integer)) else list(k)
    whole = all(isinstance(i, (int, np.integer)) and i >= 0 for i in given)
    if not given or not whole:
        raise InvalidValueError("k", k, "0 or more adaptation steps, in whole numbers")
    return sorted({int(i) for i in given})


def _check(
    agent: Agent,
    family: Family,
    tasks: Tasks,
    counts: dict[str, tuple[int, int]],
    modes: Sequence[str],
    allow_train_tasks: bool,
) -> None:
    """Refuse what cannot be measured; `counts` have their least value beside them."""
    for name, (value, least) in counts.items():
        if value < least:
            raise InvalidValueError(name, value, f"at least {least}")
    if isinstance(modes, str) or not modes:
        raise InvalidValueError("modes", modes, f"a list of some of {list(MODES)}")
    for mode in modes:
        if mode not in MODES:
            raise InvalidValueError("mode", mode, did_you_mean(str(mode), MODES))
    if tasks.family != family.id:
        raise InvalidValueError("family of the tasks", tasks.family, f"{family.id!r}, which {agent.name} was made for")
    held_out = family.held_out(tasks)
    if not (family.finite or allow_train_tasks or bool(held_out.all())):
        bad = int(np.flatnonzero(~held_out)[0])
        where = f"held-out tasks (task {bad} could be drawn in training; allow_train_tasks=True measures it anyway)"
        raise InvalidValueError("split of the tasks", tasks.split, where)


class _Ticks:
    """Counts adaptation steps for the progress bar."""

    def __init__(self, total: int, report: Callable[[int, int], None] | None) -> None:
        self.done, self.total, self.report = 0, total, report

    def __call__(self) -> None:
        self.done += 1
        if self.report is not None:
            self.report(self.done, self.total)


# --- playing ---------------------------------------------------------------------------------------------------------


@dataclass
class _Part:
    """What the trials of some tasks gave; arrays have leading axis R, a task's trials side by side."""

    scores: dict[str, list[Floats]]  # mode to, for each k of the grid, returns [R, episode]
    success: dict[str, list[Floats]]  # likewise, 1 where the episode had success; empty where not reported
    collected: list[Floats] = field(default_factory=list)  # for each step j: mean return per episode [R]
    total: list[Floats] = field(default_factory=list)  # for each step j: sum of rewards [R]
    episodes: list[Floats] = field(default_factory=list)  # before each k of the grid, cumulative [R]
    env_steps: list[Floats] = field(default_factory=list)  # likewise
    seconds: list[float] = field(default_factory=list)  # of each step j
    paths: dict[int, Floats] = field(default_factory=dict)  # k to [path, t, 2]
    trial: list[dict[str, Floats]] = field(default_factory=list)  # for each step j: see `_played`
    failed: int = 0  # adaptation steps that were given up


def _play_part(
    agent: Agent,
    trials: PoolTrials,
    grid: list[int],
    episodes: int,
    modes: Sequence[str],
    keep: slice,
    tick: Callable[[], None],
) -> _Part:
    """Every trial of some tasks, from k = 0 to the end of the grid; `keep` are the rows whose paths are kept."""
    part = _Part({m: [] for m in modes}, {m: [] for m in modes})
    begun, used = np.zeros(trials.rows), np.zeros(trials.rows)
    state = agent.begin(trials.rows, trials.tasks if agent.privileged else None)
    for k in range(grid[-1] + 1):
        if k in grid:
            part.episodes.append(begun.copy())
            part.env_steps.append(used.copy())
            for mode in modes:
                scored = _score(agent, trials, state, k, episodes, mode)
                part.scores[mode].append(scored.returns)
                if scored.success is not None:
                    part.success[mode].append(scored.success)
                if mode == modes[0]:
                    part.paths[k] = _paths(scored.rollout, keep)
        if k < grid[-1]:
            with _timed(agent.device) as seconds:
                rollout, state = agent.interact(state, trials, k)
            part.seconds.append(seconds())
            part.collected.append(rollout.mean_return().cpu().numpy())
            part.total.append((rollout.reward * rollout.valid).double().sum((0, 2)).cpu().numpy())
            if _lives(agent) and keep.stop > 0:
                part.trial.append(_played(agent, rollout.rows(keep)))
            begun += (rollout.episode_start & rollout.valid).sum((0, 2)).cpu().numpy()
            used += rollout.env_steps.cpu().numpy()
        tick()
    part.failed = int(state["failed"].sum()) if "failed" in state else 0
    return part


class _Scored(NamedTuple):
    """Fresh episodes: the first rollout of them, returns `[R, episode]` and, where reported, success likewise."""

    rollout: Rollout
    returns: Floats
    success: Floats | None


def _score(agent: Agent, trials: PoolTrials, state: AgentState, k: int, episodes: int, mode: str) -> _Scored:
    """Fresh episodes with copies of the state, their experience thrown away.

    An agent with a memory plays each from a copy of its own, because its state would go on in the episode.
    """
    rollouts = list(_score_rollouts(agent, trials, state, k, episodes, mode))
    returns = [
        r.episodes(r.reward)[0][:, :, 0].cpu().numpy() for r in rollouts
    ]  # the first episode of each environment
    success = [
        (r.episodes(r.success.float())[0][:, :, 0] > 0).double().cpu().numpy()
        for r in rollouts
        if r.success is not None
    ]
    return _Scored(rollouts[0], np.concatenate(returns, 1), np.concatenate(success, 1) if success else None)


def _score_rollouts(
    agent: Agent, trials: PoolTrials, state: AgentState, k: int, episodes: int, mode: str
) -> Iterator[Rollout]:
    if not agent.is_recurrent:
        budget = Budget(envs=episodes, episodes=1)
        yield trials.collect(agent, agent.fork(state), k, budget, mode != "sampled", "score", final_obs=True)[0]
        return
    for number in range(episodes):
        part = trials.numbered(number)
        yield part.collect(agent, agent.fork(state), k, Budget(episodes=1), mode != "sampled", "score", final_obs=True)[
            0
        ]


class _timed:
    """Seconds that a block takes, the device's queue included."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def __enter__(self) -> Callable[[], float]:
        self.start = self._now()
        return lambda: self.seconds

    def __exit__(self, *_: object) -> None:
        self.seconds = self._now() - self.start


def _paths(rollout: Rollout, keep: slice) -> Floats:
    """First environment of some rows, up to its end: `[path, T + 1, 2]`; empty unless observations are points."""
    if rollout.obs.dim() != 4 or rollout.obs.shape[-1] != 2:
        return np.zeros((0, 0, 2))
    reached = rollout.extras["final_obs"][:, keep, 0].double()
    before = (rollout.ended.long().cumsum(0) - rollout.ended.long())[:, keep, 0]  # episodes that were over by then
    reached[before > 0] = torch.nan
    points = torch.cat([rollout.obs[:1, keep, 0].double(), reached])
    return points.transpose(0, 1).cpu().numpy()


def _lined_up(paths: list[Floats]) -> Floats:
    """Paths of several parts `[path, t, 2]` as those of one, NaN after the end of the shorter ones."""
    longest = max(p.shape[1] for p in paths)
    padded = [np.pad(p, ((0, 0), (0, longest - p.shape[1]), (0, 0)), constant_values=np.nan) for p in paths]
    kept = np.concatenate(padded)
    return kept if kept.size else np.zeros((0, 0, 2))


def _lives(agent: Agent) -> bool:
    """Whether an adaptation step is one episode, so that a trial is lived through one episode at a time."""
    return agent.budget == Budget(envs=1, episodes=1)


def _played(agent: Agent, rollout: Rollout) -> dict[str, Floats]:
    """Actions, rewards and small observations of an episode, `[path, t, ...]`: NaN from its end to the horizon."""
    action = agent.to_env(rollout.action.flatten(0, 2))
    told = {"action": action.view(*rollout.reward.shape, *action.shape[1:]), "reward": rollout.reward}
    if rollout.obs.dim() == 4 and rollout.obs.shape[-1] <= _SMALL:
        told["obs"] = rollout.obs
    valid = rollout.valid[:, :, 0].cpu().numpy()
    out = {}
    for name, values in told.items():
        found = values[:, :, 0].double().cpu().numpy()
        found[~valid] = np.nan
        out[name] = np.full((found.shape[1], agent.family.horizon, *found.shape[2:]), np.nan)
        out[name][:, : len(found)] = found.swapaxes(0, 1)
    return out


def _joined(parts: list[list[dict[str, Floats]]]) -> dict[str, Floats]:
    """From `_played` for each part and episode to `[path, episode, t, ...]`; empty without any."""
    names = parts[0][0] if parts else {}
    return {n: np.concatenate([np.stack([told[n] for told in part], 1) for part in parts]) for n in names}


def _landmarks(family: Family, tasks: Tasks) -> Floats | None:
    found = family.landmarks(tasks)
    return None if found is None else found.astype(np.float64)


# --- the floor -------------------------------------------------------------------------------------------------------


def _references(
    family: Family, tasks: Tasks, device: torch.device, episodes: int, seed: int
) -> tuple[dict[str, Floats], str]:
    """The family's references, a measured floor among them where it knows none; and where the floor is from."""
    known = family.references(tasks)
    if "floor" in known:
        return known, "exact"
    if episodes < 1:
        return known, "unknown"
    pool = EnvironmentPool(family, device)
    try:
        budget = Budget(envs=episodes, episodes=1)
        agent, trials = RandomPlay(family, device=device), PoolTrials(pool, tasks, 1, seed, "floor")
        rollout, _ = trials.collect(agent, agent.begin(trials.rows), 0, budget, purpose="score")
    finally:
        pool.close()
    floor = rollout.episodes(rollout.reward)[0][:, :, 0].mean(1).cpu().numpy()
    return {"floor": floor, **known}, f"measured: {episodes} episodes of uniformly random actions in each task"


# --- from parts by row to arrays by (seed, task, ...) ----------------------------------------------------------------


def _assemble(
    agent: Agent,
    tasks: Tasks,
    grid: list[int],
    trials: int,
    outcomes: list[list[_Part]],
    references: dict[str, Floats],
) -> Results:
    """Results without landmarks and meta."""
    count = len(tasks)
    modes = list(outcomes[0][0].scores)

    def scored(get: Callable[[_Part], list[Floats]]) -> Floats:
        """`[seed, task, k, trial * episode]`."""
        rows = np.stack([np.concatenate([np.stack(get(p), 1) for p in played]) for played in outcomes])
        by_trial = rows.reshape(len(outcomes), count, trials, len(grid), -1).transpose(0, 1, 3, 2, 4)
        return by_trial.reshape(len(outcomes), count, len(grid), -1)

    def stepped(get: Callable[[_Part], list[Floats]]) -> Floats:
        """`[seed, task, trial, j]`."""
        if not grid[-1]:
            return np.zeros((len(outcomes), count, trials, 0))
        rows = np.stack([np.concatenate([np.stack(get(p), 1) for p in played]) for played in outcomes])
        return rows.reshape(len(outcomes), count, trials, -1)

    def before(get: Callable[[_Part], list[Floats]]) -> Floats:
        """`[k]`, mean over everything else."""
        return np.asarray(np.concatenate([np.stack(get(p), 1) for played in outcomes for p in played]).mean(0))

    lives = _lives(agent) and grid[-1] > 0  # one episode at a time: a trial has a total
    in_prior = lives and tasks.split in _PRIOR
    told = bool(outcomes[0][0].success[modes[0]])
    return Results(
        agent=agent.name,
        family=agent.family.id,
        split=tasks.split,
        k=grid,
        scores={m: scored(lambda p, m=m: p.scores[m]) for m in modes},  # type: ignore[misc]
        success={m: scored(lambda p, m=m: p.success[m]) for m in modes} if told else {},  # type: ignore[misc]
        collected=stepped(lambda p: p.collected).mean(2),
        lifetime=stepped(lambda p: p.total).sum(-1) if lives else np.zeros((0,)),
        episodes=before(lambda p: p.episodes),
        env_steps=before(lambda p: p.env_steps),
        seconds=np.stack([np.sum([p.seconds for p in played], 0) for played in outcomes]),
        references=references,
        bayes_optimal=agent.family.bayes_optimal_return(grid[-1]) if in_prior else None,
        paths={k: _lined_up([p.paths[k] for p in outcomes[0]]) for k in grid},
        landmarks=None,
        task_hash=tasks.hash,
        trial=_joined([part.trial for part in outcomes[0] if part.trial]),
        bayes_episodes=agent.family.bayes_optimal_episodes(grid[-1]) if in_prior else None,
    )
