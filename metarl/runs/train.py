"""The training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from metarl.agent_base import Agent
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials, clock
from metarl.errors import DivergedError, InvalidValueError
from metarl.families.tasks import Tasks
from metarl.learning.adam import parameters_of
from metarl.runs.task_sampling import CrossEntropySampler, ScoredTrials


class Interrupted(Exception):
    """Training was stopped on request. The checkpoint contains all finished iterations."""

    def __init__(self, run: Path | None, iteration: int) -> None:
        self.run, self.iteration = run, iteration
        super().__init__(f"stopped after iteration {iteration}")


def train(
    agent: Agent,
    iterations: int,
    *,
    start: int = 0,
    env_steps: int = 0,
    task_sampler: CrossEntropySampler | None = None,
    on_iteration: Callable[[int, dict[str, float]], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> int:
    """Meta-train an agent in memory, without files.

    Args:
        agent: the agent that learns.
        iterations: number of iterations in total; the last iteration is `iterations` - 1.
        start: number of the first iteration.
        env_steps: environment steps of the iterations before `start`.
        task_sampler: draws the train tasks; None draws them from the family's distribution. Its threshold is the metric
            `hard_return`.
        on_iteration: called after each iteration with its number and its metrics: those of the agent's `train_step`,
            the environment steps since iteration 0, and the seconds of sampling and of the rest.
        should_stop: called after each iteration; True ends the training.

    Returns:
        the number of iterations that the agent has finished.

    Raises:
        InvalidValueError: the agent does not learn, or `iterations` is negative.
        DivergedError: parameters that were finite before are not finite after an iteration.
    """
    if not agent.learns:
        raise InvalidValueError("agent", agent.name, "an agent that learns (this one can be evaluated as it is)")
    if iterations < 0:
        raise InvalidValueError("iterations", iterations, "0 or more")
    finite = _finite(agent)
    pool = EnvironmentPool(agent.family, agent.device)
    try:
        for iteration, tasks in enumerate(_train_tasks(agent, start, iterations, task_sampler), start):
            kind = PoolTrials if task_sampler is None else ScoredTrials
            trials = kind(pool, tasks, seed=agent.seed, purpose="train", iteration=iteration)
            start_time = clock(agent.device)
            metrics = agent.train_step(trials)
            seconds = clock(agent.device) - start_time
            _refuse_diverged(agent, iteration, finite)
            env_steps += env_steps_of(agent, trials, metrics)
            metrics |= {"env_steps": env_steps}
            if task_sampler is not None and isinstance(trials, ScoredTrials):
                metrics |= {"hard_return": task_sampler.update(trials.returns)}
            metrics |= {"seconds_sampling": trials.seconds, "seconds_optimisation": seconds - trials.seconds}
            if on_iteration is not None:
                on_iteration(iteration, metrics)
            if should_stop():
                return iteration + 1
    finally:
        pool.close()
    return max(start, iterations)


def _finite(agent: Agent) -> set[str]:
    """The names of the agent's parameters that are finite."""
    finite = {name: value.isfinite().all() for name, value in parameters_of(agent).items()}
    devices = {flag.device for flag in finite.values()}  # an agent may keep some on the host: one look at each device
    if all(bool(torch.stack([f for f in finite.values() if f.device == device]).all()) for device in devices):
        return set(finite)
    return {name for name, flag in finite.items() if bool(flag)}


def _refuse_diverged(agent: Agent, iteration: int, before: set[str]) -> None:
    """Refuse to go on where parameters that were finite `before` the training are not finite any more."""
    if not (lost := before - _finite(agent)):
        return
    advice = "a smaller learning rate may help"
    raise DivergedError(f"{agent.name} diverged in meta-update {iteration + 1}: {min(lost)} is not finite ({advice})")


def env_steps_of(agent: Agent, trials: PoolTrials, metrics: Mapping[str, float]) -> int:
    """Environment steps of one iteration.

    The trials count them. An agent that plays in environments of its own reports them as the metric `env_steps`;
    otherwise they are its `train_env_steps`.
    """
    if "env_steps" in metrics:
        return int(metrics["env_steps"])
    return int(trials.played) or agent.train_env_steps or 0


def _train_tasks(
    agent: Agent, start: int, iterations: int, task_sampler: CrossEntropySampler | None = None
) -> Iterator[Tasks]:
    """The tasks of each iteration. With a GPU, the host draws the next tasks during the current iteration.

    A task sampler cannot draw ahead, because its distribution follows the returns.
    """

    def draw(iteration: int) -> Tasks:
        size = agent.meta_batch_size
        return agent.family.tasks("train", size, agent.seed, 0 if agent.fixed_tasks else iteration * size)

    if agent.device.type == "cpu" or task_sampler is not None:
        yield from map(draw if task_sampler is None else task_sampler.draw, range(start, iterations))
        return
    with ThreadPoolExecutor(1) as ahead:
        following = ahead.submit(draw, start) if start < iterations else None
        for iteration in range(start, iterations):
            assert following is not None
            tasks = following.result()
            if iteration + 1 < iterations:
                following = ahead.submit(draw, iteration + 1)
            yield tasks
