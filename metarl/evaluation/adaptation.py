"""The states of trials after 0, 1, 2, ... adaptation steps, for evaluations, films and players."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any, NamedTuple

from metarl.agent_base import Agent, AgentState, Rollout
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials, clock
from metarl.errors import InvalidValueError
from metarl.families.tasks import Tasks


class Adapted(NamedTuple):
    """Trials after k adaptation steps.

    Attributes:
        k: number of adaptation steps taken.
        state: the agent's state, tensors `[R, ...]`. Fork it before you play it, because the trials continue from it.
        rollout: the data of adaptation step k; None if k is 0.
        seconds: duration of adaptation step k, with the operations queued on the device.
    """

    k: int
    state: AgentState
    rollout: Rollout | None
    seconds: float


def adaptation(agent: Agent, trials: PoolTrials, last: int) -> Iterator[Adapted]:
    """Yield the states of all trials after 0, ..., `last` adaptation steps."""
    state = agent.begin(trials.rows, trials.tasks if agent.privileged else None)
    yield Adapted(0, state, None, 0.0)
    for k in range(last):
        start = clock(agent.device)
        rollout, state = agent.interact(state, trials, k)
        yield Adapted(k + 1, state, rollout, clock(agent.device) - start)


def adapted_state(
    agent: Agent,
    task: int | Mapping[str, Any] | Tasks,
    k: int,
    *,
    split: str = "test",
    task_seed: int = 0,
    seed: int = 0,
) -> AgentState:
    """The state of an agent after k adaptation steps in one task; `evaluate` with the same seed scores this state.

    Args:
        agent: the agent that adapts.
        task: number of a task of (split, task_seed), the values of a task, or `Tasks` that hold one task.
        k: number of adaptation steps.
        split: split of a task that is given by its number.
        task_seed: seed of the split.
        seed: seed of all other draws.

    Raises:
        InvalidValueError: k is negative, or `task` is not one task of the agent's family.
    """
    if not isinstance(k, int) or k < 0:
        raise InvalidValueError("k", k, "0 or more adaptation steps")
    tasks = agent.family.resolve(task, split, task_seed)
    if len(tasks) != 1:
        raise InvalidValueError("number of tasks", len(tasks), "1 (tasks[0])")
    with closing(EnvironmentPool(agent.family, agent.device)) as pool:
        *_, last = adaptation(agent, PoolTrials(pool, tasks, 1, seed, "evaluate"), k)
    return last.state
