"""A session plays the actions of the evaluator, if it gets the evaluator's keys, observations and rewards."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import metarl
from metarl import InvalidValueError
from metarl.agent_base import Rollout
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.evaluation.adaptation import Adapted, adaptation

POINTS = "metarl/PointNavigation-v0"
AGENTS: dict[str, dict[str, Any]] = {
    "maml": {"family": POINTS, "hidden": (8,), "eval_steps": 100},  # an adaptation step is one episode
    "rl2": {"family": "metarl/GridNavi-v0", "hidden": 8},
    "ucb1": {"family": "metarl/BernoulliBandit-v0"},
    "random": {"family": POINTS},
}


def replayed(session: metarl.Session, rollout: Rollout) -> list[np.ndarray]:
    """Give the session a rollout's observations and rewards; the actions that it chose."""
    actions, action = [], None
    for t in range(len(rollout.reward)):
        obs = rollout.obs[t, 0, 0].numpy()
        action = session.reset(obs) if action is None else action
        actions.append(action)
        last = t + 1 == len(rollout.reward)
        after = (rollout.last_obs if last else rollout.obs[t + 1])[0, 0].numpy()
        ends = bool(rollout.terminated[t]), bool(rollout.truncated[t])
        action = session.step(float(rollout.reward[t]), after, *ends)
    return actions


def evaluated(agent: metarl.Agent, last: int) -> tuple[PoolTrials, list[Adapted]]:
    trials = PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("test", 1), seed=5, purpose="evaluate")
    kept = [a._replace(state=agent.fork(a.state)) for a in adaptation(agent, trials, last)]
    return trials, kept


@pytest.mark.parametrize("name", AGENTS)
def test_actions_and_states_are_the_evaluators(name: str) -> None:
    agent = metarl.make_agent(name, **AGENTS[name])
    trials, kept = evaluated(agent, 3)
    session = metarl.Session(agent)
    session.keys = trials.keys
    for adapted in kept[1:]:
        assert adapted.rollout is not None
        actions = replayed(session, adapted.rollout)
        wanted = agent.to_env(adapted.rollout.action.flatten(0, 2)).numpy()
        np.testing.assert_array_equal(np.stack(actions), wanted)
        assert session.adaptation_steps == adapted.k
        for key, value in adapted.state.items():
            assert torch.equal(session.state[key], value), key


def test_a_budget_that_ends_within_an_episode_adapts_there_and_goes_on_with_the_next_episode() -> None:
    agent = metarl.make_agent("maml", POINTS, hidden=(8,), eval_steps=3)
    session, obs = metarl.Session(agent), np.zeros(2, np.float32)
    session.reset(obs)
    taken = []
    for t in range(5):
        session.step(float(t), obs, truncated=t == 4)
        taken.append(session.adaptation_steps)
    assert taken == [0, 0, 1, 1, 1]
    session.reset(obs)
    for t in range(3):
        session.step(-float(t), obs)
        taken.append(session.adaptation_steps)
    assert taken[5:] == [1, 1, 2]
    assert session.state["adaptation_steps"].tolist() == [2]


def test_parallel_environments_of_a_budget_are_played_one_after_another() -> None:
    agent = metarl.make_agent("maml", POINTS, hidden=(8,), eval_steps=250)
    assert (agent.budget.envs, agent.budget.steps) == (2, 125)
    session, obs = metarl.Session(agent), np.zeros(2, np.float32)
    for t in range(250):
        assert session.adaptation_steps == 0
        if t % 100 == 0:
            session.reset(obs)
        session.step(float(t % 7), obs, truncated=t % 100 == 99)
    assert session.adaptation_steps == 1


def test_adaptation_can_be_switched_off_and_actions_be_the_likeliest() -> None:
    agent = metarl.make_agent("maml", POINTS, hidden=(8,), eval_steps=2)
    session, obs = metarl.Session(agent, deterministic=True, seed=1), np.zeros(2, np.float32)
    session.adapts = False
    first = session.reset(obs)
    for t in range(4):
        action = session.step(float(t), obs)
        np.testing.assert_array_equal(action, first)
    assert session.adaptation_steps == 0
    session.deterministic = False
    assert not np.array_equal(session.step(0.0, obs), session.step(0.0, obs))


def test_wrong_calls_are_one_sentence() -> None:
    for name, words in (("oracle", "not shown the task"), ("sb3", "not in environments of its own")):
        with pytest.raises(InvalidValueError, match=words):
            metarl.Session(metarl.make_agent(name, POINTS))
    session, obs = metarl.Session(metarl.make_agent("random", POINTS)), np.zeros(2, np.float32)
    with pytest.raises(InvalidValueError, match=r"step is 'random', expected a call of reset\(obs\) first"):
        session.step(0.0, obs)
    with pytest.raises(InvalidValueError, match=r"shape of the observation is \(3,\), expected \(2,\)"):
        session.reset(np.zeros(3))
    with pytest.raises(InvalidValueError, match=r"observation is .*nan.*, expected finite numbers"):
        session.reset(np.full(2, np.nan))
    session.reset(obs)
    with pytest.raises(InvalidValueError, match="reset is 'random', expected a call of step with terminated or"):
        session.reset(obs)
    with pytest.raises(InvalidValueError, match="reward is nan, expected a finite number"):
        session.step(float("nan"), obs)
    assert session.step(1.0, obs, terminated=True) is None
    session.reset(obs)
