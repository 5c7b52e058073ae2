"""The evaluator: the return after k adaptation steps on held-out tasks.

For each task, each trial and each k of a grid, R_k is the undiscounted return of one fresh episode, played with the
state after k adaptation steps. What an agent with a memory learns in this episode is thrown away. The results also
hold the return collected while adapting, the cumulative episodes and environment steps, and seconds, in separate
arrays. Scores are `[seed, task, k, episode]`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from metarl.agent_base import Agent, Budget, adapts_between_episodes
from metarl.distribution import git_revision, versions
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.engine.threads import map_in_threads, one_torch_thread
from metarl.errors import InvalidValueError, verbatim
from metarl.evaluation.belief import BELIEVED, Believer, belief_summary, join_beliefs, unit_of
from metarl.evaluation.modes import MODES, Mode, check_mode
from metarl.evaluation.playing import (
    Part,
    has_trial_features,
    join_paths,
    join_trials,
    one_episode_per_step,
    play_part,
)
from metarl.evaluation.probe import TASKS, HasFeatures, probe
from metarl.evaluation.results import Floats, Results
from metarl.families.family import Family, Queries, TorchFamily
from metarl.families.tasks import Tasks, content_hash
from metarl.learning.random_play import RandomPlay

FLOOR_EPISODES = 20  # default number of random episodes of a task that measure the floor
_TASKS = 40  # default number of tasks
_MOST_VALUES = 4  # the longest vector of a task's parameter that results keep
_CACHED = 8_192  # environments at once on a CPU: their activations fit the cache
_LEAST = 256  # environments that are worth a thread: Python runs in one thread at a time
_AT_ONCE = 65_536  # environments at once on another device, which needs many to be busy
_PRIOR = ("train", "test")  # splits whose tasks follow the family's prior, for which the Bayes optimum holds


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
    floor_episodes: int = FLOOR_EPISODES,
    rows_at_once: int | None = None,
    paths: int = 4,
    allow_train_tasks: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Results:
    """Measure the return after k adaptation steps.

    Args:
        agents: one agent, or the same agent trained with several seeds.
        tasks: the tasks to play; by default tasks 0, ..., `num_tasks` - 1 of (split, task_seed).
        k: the last adaptation step, for the grid 0, ..., k; or the grid itself.
        split: split of the default tasks.
        num_tasks: number of default tasks; by default 40, or if the split has fewer tasks, the next multiple of their
            number.
        task_seed: seed of the split.
        trials: independent trials per task.
        episodes: fresh episodes for each R_k, per trial and mode.
        modes: a list of "sampled" and "deterministic".
        seed: seed of all random draws of the evaluation.
        floor_episodes: random episodes per task that measure the floor, if the family does not know it; 0 for no floor.
        rows_at_once: number of trials of a batch; it changes rounding and memory alone. By default the batches that are
            played at once have 8,192 environments on a CPU, or 65,536 on a GPU.
        paths: number of tasks whose first trial is stored for pictures: paths, actions and rewards. With 0, the rewards
            of a scored episode are not stored either.
        allow_train_tasks: whether to accept tasks that training can draw.
        progress: called with the number of adaptation steps done and their total number, perhaps by another thread.

    Raises:
        InvalidValueError: an argument is out of range, or training can draw one of the tasks.
    """
    group: list[Any] = list(agents) if isinstance(agents, (list, tuple)) else [agents]
    family = one_family(group)
    if tasks is None:
        tasks = family.tasks(split, default_tasks(family, split) if num_tasks is None else num_tasks, task_seed)
    grid = adaptation_grid(k)
    counts = {"trials": (trials, 1), "episodes": (episodes, 1), "floor_episodes": (floor_episodes, 0)}
    _check(group[0], family, tasks, counts, modes, allow_train_tasks)
    width = max(group[0].budget.envs, 1 if group[0].is_recurrent else episodes)
    total = len(group) * len(tasks) * trials
    threads = parts_at_once(group[0], total * width)
    size = max(1, (rows_at_once or default_rows(group[0].device, width, threads, total)) // trials)
    starts = range(0, len(tasks), size)
    tick = _Progress(len(group) * len(starts) * (grid[-1] + 1), progress)
    queries = _queries(group[0], tasks, grid)

    def play(agent: Agent, pool: EnvironmentPool, start: int) -> Part:
        part_trials = PoolTrials(pool, tasks[slice(start, start + size)], trials, seed, "evaluate")
        keep = slice(0, max(0, min(size, paths - start)) * trials, trials)
        asked = max(0, min(size, BELIEVED - start)) * trials
        return play_part(agent, part_trials, grid, episodes, modes, keep, tick, queries, asked)

    threads = min(threads, len(group) * len(starts))
    outcomes = _outcomes(group, starts, play, threads)
    references, floor = references_of(family, tasks, group[0].device, floor_episodes, seed)
    settings = {"tasks": len(tasks), "task_seed": tasks.seed, "trials": trials, "episodes": episodes, "seed": seed}
    results = _assemble(group[0], tasks, grid, trials, outcomes, references)
    results.seconds = results.seconds / threads  # parts that were played at once took the same time
    if paths:
        results.landmarks = _landmarks(family, tasks[slice(0, paths)])
        results.rewards = np.stack(outcomes[0][0].rewards) if family.horizon > 1 else None
    results.meta = {
        **settings,
        "seeds": [a.seed for a in group],
        "config": asdict(group[0].config),
        "adapts": _adapts(group[0]),
        "from_scratch": _learns_from_scratch(group[0]),
        "floor": floor,
        "train_equals_test": family.finite,
        "every_task": _plays_every(family, tasks),
        "failed_steps": sum(part.failed for parts in outcomes for part in parts),
        "versions": versions(),
        "git": git_revision(),
    }
    asked = tasks[slice(0, BELIEVED)]
    if queries is not None and isinstance(group[0], Believer):
        results.belief = join_beliefs([[part.belief for part in parts] for parts in outcomes], trials, queries)
        mean = belief_summary(results.belief, _plays_every(family, asked))
        results.meta["belief"] = {"unit": unit_of(queries), **mean}
    if has_trial_features(group[0]) and grid[-1]:
        features = [_joined([part.features for part in parts if part.features]) for parts in outcomes]
        played = len(tasks) * trials * (grid[-1] + len(grid) * len(modes) * episodes)
        count = min(TASKS, played // (2 * grid[-1]))  # at most half as many episodes as the evaluation has
        results.belief |= probe(group, features, asked, trials, grid[-1], seed, count, size * trials, queries)
    return results


def _outcomes(
    group: Sequence[Agent], starts: Sequence[int], play: Callable[[Agent, EnvironmentPool, int], Part], threads: int
) -> list[list[Part]]:
    """What each agent has played: the parts that begin with some tasks, by `play`."""
    if threads > 1:
        parts = [(agent, start) for agent in group for start in starts]
        played = map_in_threads(lambda part: play(part[0], EnvironmentPool(part[0].family), part[1]), parts, threads)
        return [played[i : i + len(starts)] for i in range(0, len(played), len(starts))]
    outcomes = []
    for agent in group:
        with closing(EnvironmentPool(agent.family, agent.device)) as pool:
            outcomes.append([play(agent, pool, start) for start in starts])
    return outcomes


def one_family(group: Sequence[Agent]) -> Family:
    """The family of all agents.

    Raises:
        InvalidValueError: there is no agent, or the agents differ in their name or family.
    """
    if not group or not all(isinstance(agent, Agent) for agent in group):
        wrong = next((agent for agent in group if not isinstance(agent, Agent)), verbatim("nothing"))
        expected = "one agent, or one agent trained with several seeds (make_agent, or Run.open(path).load_agent()[0])"
        raise InvalidValueError("agents", wrong, expected)
    for name, values in (("agents", {a.name for a in group}), ("families", {a.family.id for a in group})):
        if len(values) > 1:
            raise InvalidValueError(f"{name} to evaluate together", sorted(values), "the same for all agents")
    return group[0].family


def default_tasks(family: Family, split: str) -> int:
    """The default number of tasks: 40, or if the split has fewer tasks, the next multiple of their number."""
    every = family.listed(split)
    count = 1 if every is None or len(every) >= _TASKS else len(every)
    return -(-_TASKS // count) * count


def parts_at_once(agent: Agent, environments: int) -> int:
    """Number of parts of an evaluation that are played at once on a CPU, each in one of PyTorch's threads.

    Only `capturable` agents and families are played so, because their functions use nothing but the state. Families
    with processes or threads of their own use the cores without it.

    Args:
        agent: the agent.
        environments: number of environments of the evaluation.
    """
    family = agent.family
    pure = isinstance(family, TorchFamily) and family.capturable and not family.on_host and agent.capturable
    if agent.device.type != "cpu" or not pure:
        return 1
    return max(1, min(torch.get_num_threads(), environments // _LEAST))


def default_rows(device: torch.device, width: int, threads: int = 1, total: int | None = None) -> int:
    """The default number of trials of a part.

    Args:
        device: the agents' device.
        width: environments of each trial.
        threads: number of parts that are played at once. Together their environments fit the cache.
        total: number of all trials, of which every thread gets a part; None if there are many.
    """
    most = (_CACHED if device.type == "cpu" else _AT_ONCE) // (threads * width)
    return max(1, most if total is None else min(most, -(-total // threads)))


def _adapts(agent: Agent) -> bool:
    """Whether an agent learns in the task itself, and is not shown the task."""
    return not agent.privileged and (adapts_between_episodes(type(agent)) or agent.is_recurrent)


def _learns_from_scratch(agent: Agent) -> bool:
    """Whether an agent that no training has prepared learns in the task itself."""
    return _adapts(agent) and not getattr(agent, "has_learned", agent.learns)


def _plays_every(family: Family, tasks: Tasks) -> bool:
    """Whether the family is finite and these are all of its tasks."""
    every = family.listed(tasks.split) if family.finite and tasks.split in family.splits else None
    return every is not None and bool(np.isin(content_hash(every.values), content_hash(tasks.values)).all())


def adaptation_grid(k: int | Sequence[int]) -> list[int]:
    """The grid of adaptation steps, ascending: 0, ..., k, or the steps in the sequence `k`.

    Raises:
        InvalidValueError: a step is no whole number of at least 0, or the grid is empty.
    """
    steps = list(range(int(k) + 1)) if isinstance(k, (int, np.integer)) else list(k)
    valid = all(isinstance(i, (int, np.integer)) and i >= 0 for i in steps)
    if not steps or not valid:
        raise InvalidValueError("k", k, "0 or more adaptation steps, in whole numbers")
    return sorted({int(i) for i in steps})


def _check(
    agent: Agent,
    family: Family,
    tasks: Tasks,
    counts: dict[str, tuple[int, int]],
    modes: Sequence[Mode],
    allow_train_tasks: bool,
) -> None:
    """Refuse arguments that cannot be evaluated. `counts` maps a name to its value and its least valid value."""
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
        number = int(np.flatnonzero(~held_out)[0])
        expected = f"held-out tasks (training can draw task {number}; allow_train_tasks=True accepts it)"
        raise InvalidValueError("split of the tasks", tasks.split, expected)


class _Progress:
    """Counts adaptation steps for the progress bar."""

    def __init__(self, total: int, report: Callable[[int, int], None] | None) -> None:
        self.done, self.total, self.report = 0, total, report
        self.lock = Lock()  # several threads count

    def __call__(self) -> None:
        with self.lock:
            self.done += 1
            if self.report is not None:
                self.report(self.done, self.total)


def _queries(agent: Agent, tasks: Tasks, grid: list[int]) -> Queries | None:
    """What is asked about beliefs; None if the agent tells none, or no exact posterior is known of the tasks."""
    tells = isinstance(agent, (Believer, HasFeatures)) and one_episode_per_step(agent)
    return agent.family.queries() if tells and grid[-1] > 0 and tasks.split in _PRIOR else None


def _joined(parts: Sequence[dict[str, Floats]]) -> dict[str, Floats]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _landmarks(family: Family, tasks: Tasks) -> Floats | None:
    landmarks = family.landmarks(tasks)
    return None if landmarks is None else landmarks.astype(np.float64)


def references_of(
    family: Family, tasks: Tasks, device: torch.device, episodes: int, seed: int
) -> tuple[dict[str, Floats], str]:
    """The family's references, with a measured floor if the family does not know it; and the source of the floor."""
    known = family.references(tasks)
    if "floor" in known:
        return known, "exact"
    if episodes < 1:
        return known, "unknown"
    with closing(EnvironmentPool(family, device)) as pool, one_torch_thread():  # all operations are short
        budget = Budget(envs=episodes, episodes=1)
        agent, trials = RandomPlay(family, device=device), PoolTrials(pool, tasks, 1, seed, "floor")
        rollout, _ = trials.collect(agent, agent.begin(trials.rows), 0, budget, purpose="score")
    floor = rollout.episodes(rollout.reward)[0][:, :, 0].mean(1).cpu().numpy()
    return {"floor": floor, **known}, f"measured: {episodes} episodes of uniformly random actions in each task"


def _small_values(values: Mapping[str, npt.NDArray[Any]]) -> dict[str, Floats]:
    """The parameters of tasks, `[task, ...]` each, that results keep: numbers, and vectors of at most 4 numbers."""
    small = {n: v for n, v in values.items() if v.ndim == 1 or (v.ndim == 2 and v.shape[1] <= _MOST_VALUES)}
    return {name: array.astype(np.float64) for name, array in small.items()}


def _assemble(
    agent: Agent,
    tasks: Tasks,
    grid: list[int],
    trials: int,
    outcomes: list[list[Part]],
    references: dict[str, Floats],
) -> Results:
    """Join the parts to results without landmarks, rewards and meta data."""
    count = len(tasks)
    modes = list(outcomes[0][0].scores)

    def scored(get: Callable[[Part], list[Floats]]) -> Floats:
        """`[seed, task, k, trial * episode]`."""
        rows = np.stack([np.concatenate([np.stack(get(p), 1) for p in parts]) for parts in outcomes])
        by_trial = rows.reshape(len(outcomes), count, trials, len(grid), -1).transpose(0, 1, 3, 2, 4)
        return by_trial.reshape(len(outcomes), count, len(grid), -1)

    def by_step(get: Callable[[Part], list[Floats]]) -> Floats:
        """`[seed, task, trial, step]`."""
        if not grid[-1]:
            return np.zeros((len(outcomes), count, trials, 0))
        rows = np.stack([np.concatenate([np.stack(get(p), 1) for p in parts]) for parts in outcomes])
        return rows.reshape(len(outcomes), count, trials, -1)

    def by_k(get: Callable[[Part], list[Floats]]) -> Floats:
        """`[k]`, the mean over seeds, tasks and trials."""
        return np.asarray(np.concatenate([np.stack(get(p), 1) for parts in outcomes for p in parts]).mean(0))

    by_episode = one_episode_per_step(agent) and grid[-1] > 0  # then a trial has a lifetime return
    in_prior = by_episode and tasks.split in _PRIOR
    reports_success = bool(outcomes[0][0].success[modes[0]])
    return Results(
        agent=agent.name,
        family=agent.family.id,
        split=tasks.split,
        k=grid,
        scores={m: scored(lambda p, m=m: p.scores[m]) for m in modes},  # type: ignore[misc]
        success={m: scored(lambda p, m=m: p.success[m]) for m in modes if reports_success},  # type: ignore[misc]
        collected=by_step(lambda p: p.collected).mean(2),
        lifetime=by_step(lambda p: p.total).sum(-1) if by_episode else np.zeros((0,)),
        episodes=by_k(lambda p: p.episodes),
        env_steps=by_k(lambda p: p.env_steps),
        seconds=np.stack([np.sum([p.seconds for p in parts], 0) for parts in outcomes]),
        references=references,
        bayes_optimal=agent.family.bayes_optimal_return(grid[-1]) if in_prior else None,
        paths={k: join_paths([p.paths[k] for p in outcomes[0]]) for k in grid},
        landmarks=None,
        task_hash=tasks.hash,
        trial=join_trials([part.trial for part in outcomes[0] if part.trial]),
        bayes_episodes=agent.family.bayes_optimal_episodes(grid[-1]) if in_prior else None,
        task_values=_small_values(tasks.values),
    )
