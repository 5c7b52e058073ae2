"""Policies that do not adapt: the same for all tasks, or shown the task."""

from __future__ import annotations

import torch

import metarl
from metarl.agent import Step
from metarl.agent_base import Agent
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.evaluation.evaluate import evaluate
from metarl.rng import Rng

NAVIGATION = metarl.make_family("metarl/PointNavigation-v0", horizon=6)


def trained(name: str, family: metarl.Family = NAVIGATION, updates: int = 2) -> Agent:
    agent = metarl.make_agent(name, family, meta_batch_size=16, hidden=(8,))
    metarl.train(agent, updates)
    return agent


def action(agent: Agent, tasks: metarl.Tasks) -> torch.Tensor:
    """The deterministic actions at the same observation in several tasks, `[R, 2]`."""
    state = agent.begin(len(tasks), tasks if agent.privileged else None)
    obs = torch.zeros(len(tasks), 1, 2)
    return agent.act(state, Step(obs, None), Rng(torch.zeros(len(tasks), dtype=torch.int64)), True)[0][:, 0]


def test_only_the_oracle_policy_acts_by_the_task() -> None:
    tasks = NAVIGATION.tasks("test", 5)
    assert (action(trained("multi_task"), tasks).std(0) == 0).all()
    assert (action(trained("task_conditioned"), tasks).std(0) > 0).all()


def test_the_oracle_policy_is_given_each_row_its_own_task_in_training() -> None:
    """PPO learns from the log-probabilities with which the actions were drawn: the KL before its step is 0."""
    once = {"epochs": 1, "minibatches": 1, "learning_rate": 0.03}
    agent = metarl.make_agent("task_conditioned", NAVIGATION, meta_batch_size=16, hidden=(8,), **once)
    log: list[dict[str, float]] = []
    metarl.train(agent, 10, on_iteration=lambda _, metrics: log.append(metrics))
    assert max(metrics["kl"] for metrics in log) < 1e-6
    tasks = NAVIGATION.tasks("test", 2)
    assert (action(agent, tasks)[0] - action(agent, tasks)[1]).abs().max() > 0.1  # else any task would do


def test_values_are_given_the_time() -> None:
    """The same observation late in an episode has less return before it."""
    agent = trained("multi_task", updates=60)
    given = {"x": torch.zeros(2, 1, 2), "time": torch.tensor([0.0, 5 / 6]).view(2, 1, 1)}
    first, last = agent.net.values(given)[:, 0].tolist()  # type: ignore[attr-defined]
    assert first < last < 0  # rewards are negative


def test_they_do_not_adapt() -> None:
    """The state after adaptation steps is the state before them, so all R_k have one distribution."""
    agent = trained("task_conditioned")
    tasks = agent.family.tasks("test", 3)
    trials = PoolTrials(EnvironmentPool(agent.family), tasks)
    state = agent.begin(3, tasks)
    before = {k: v.clone() for k, v in state.items()}
    _, after = agent.interact(state, trials, 0)
    assert all(torch.equal(after[k], v) for k, v in before.items())
    scores = evaluate(agent, tasks, k=1, episodes=1, modes=["deterministic"]).scores["deterministic"]
    assert scores.shape == (1, 3, 2, 1)
