"""The evaluator: the return after k adaptation steps on held-out tasks.

For each task, each trial and each k of a grid, R_k is the undiscounted return of one fresh episode played with the
state after k adaptation steps; what happens in that episode is thrown away. Kept beside it and never merged: what was
collected while adapting, cumulative episodes and environment steps, and seconds. Scores are `[seed, task, k, episode]`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from metarl.agent_base import Agent, Budget
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.errors import InvalidValueError, verbatim
from metarl.evaluation.modes import MODES, Mode, check_mode
from metarl.evaluation.playing import Part, joined, lined_up, lives, play_part
from metarl.evaluation.results import Floats, Results
from metarl.families.family import Family
from metarl.families.tasks import Tasks, content_hash
from metarl.learning.random_play import RandomPlay
from metarl.provenance import git_revision, versions

_TASKS = 40  # that are played if nobody says otherwise
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
    modes: Sequence[Mode] = MODES,
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
        modes: "sampled" and/or "deterministic" actions.
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

    def part(agent: Agent, pool: EnvironmentPool, start: int) -> Part:
        played = PoolTrials(pool, tasks[slice(start, start + size)], trials, seed, "evaluate")
        shown = slice(0, max(0, min(size, paths - start)) * trials, trials)
        return play_part(agent, played, grid, episodes, modes, shown, ticks)

    outcomes: list[list[Part]] = []
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
    modes: Sequence[Mode],
    allow_train_tasks: bool,
) -> None:
    """Refuse what cannot be measured; `counts` have their least value beside them."""
    for name, (value, least) in counts.items():
        if value < least:
            raise InvalidValueError(name, value, f"at least {least}")
    if isinstance(modes, str) or not modes:
        raise InvalidValueError("modes", modes, f"a list of some of {list(MODES)}")
    for mode in modes:
        check_mode(mode)
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


def _landmarks(family: Family, tasks: Tasks) -> Floats | None:
    found = family.landmarks(tasks)
    return None if found is None else found.astype(np.float64)


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


def _assemble(
    agent: Agent,
    tasks: Tasks,
    grid: list[int],
    trials: int,
    outcomes: list[list[Part]],
    references: dict[str, Floats],
) -> Results:
    """Results without landmarks and meta."""
    count = len(tasks)
    modes = list(outcomes[0][0].scores)

    def scored(get: Callable[[Part], list[Floats]]) -> Floats:
        """`[seed, task, k, trial * episode]`."""
        rows = np.stack([np.concatenate([np.stack(get(p), 1) for p in played]) for played in outcomes])
        by_trial = rows.reshape(len(outcomes), count, trials, len(grid), -1).transpose(0, 1, 3, 2, 4)
        return by_trial.reshape(len(outcomes), count, len(grid), -1)

    def stepped(get: Callable[[Part], list[Floats]]) -> Floats:
        """`[seed, task, trial, j]`."""
        if not grid[-1]:
            return np.zeros((len(outcomes), count, trials, 0))
        rows = np.stack([np.concatenate([np.stack(get(p), 1) for p in played]) for played in outcomes])
        return rows.reshape(len(outcomes), count, trials, -1)

    def before(get: Callable[[Part], list[Floats]]) -> Floats:
        """`[k]`, mean over everything else."""
        return np.asarray(np.concatenate([np.stack(get(p), 1) for played in outcomes for p in played]).mean(0))

    by_episode = lives(agent) and grid[-1] > 0  # one episode at a time: a trial has a total
    in_prior = by_episode and tasks.split in _PRIOR
    told = bool(outcomes[0][0].success[modes[0]])
    return Results(
        agent=agent.name,
        family=agent.family.id,
        split=tasks.split,
        k=grid,
        scores={m: scored(lambda p, m=m: p.scores[m]) for m in modes},  # type: ignore[misc]
        success={m: scored(lambda p, m=m: p.success[m]) for m in modes} if told else {},  # type: ignore[misc]
        collected=stepped(lambda p: p.collected).mean(2),
        lifetime=stepped(lambda p: p.total).sum(-1) if by_episode else np.zeros((0,)),
        episodes=before(lambda p: p.episodes),
        env_steps=before(lambda p: p.env_steps),
        seconds=np.stack([np.sum([p.seconds for p in played], 0) for played in outcomes]),
        references=references,
        bayes_optimal=agent.family.bayes_optimal_return(grid[-1]) if in_prior else None,
        paths={k: lined_up([p.paths[k] for p in outcomes[0]]) for k in grid},
        landmarks=None,
        task_hash=tasks.hash,
        trial=joined([part.trial for part in outcomes[0] if part.trial]),
        bayes_episodes=agent.family.bayes_optimal_episodes(grid[-1]) if in_prior else None,
    )
