"""Exact posteriors: by brute force over all tasks, by counts, and against the mean over many tasks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import metarl
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.families.family import History, Queries
from metarl.learning.random_play import RandomPlay
from metarl.rng import Rng

FAMILIES = ['metarl/BernoulliBandit-v0{"k": 3}', "metarl/GridNavi-v0"]


def queries_of(family: Any) -> Queries:
    queries = family.queries()
    assert queries is not None
    return queries


def true_answers(family: Any, tasks: Any) -> Tensor:
    """The expected reward of each query's transitions in each task, by the family's own steps: `[task, N]`."""
    queries, values = queries_of(family), tasks.tensors()
    answers = []
    for i in range(len(queries.query)):
        state = family.state_of(queries.obs[i]) if hasattr(family, "state_of") else queries.obs[i]
        states = state.expand(len(tasks), *state.shape)
        actions = queries.action[i].expand(len(tasks), *queries.action[i].shape)
        _, reward, _, *info = family.step(states, actions, values, Rng(tasks.keys))
        answers.append(info[0].get("expected_reward", reward) if info else reward)
    return torch.stack(answers, 1).double()


def histories(family: Any, rows: int, episodes: int) -> tuple[Any, History]:
    """Random play of whole trials in train tasks."""
    agent = RandomPlay(family)
    trials = PoolTrials(EnvironmentPool(family), family.tasks("train", rows))
    rollout = trials.collect(agent, agent.begin(rows), 0, metarl.Budget(episodes=episodes))[0]
    action = agent.to_env(rollout.action.flatten(0, 2)).view(*rollout.reward.shape, *family.action_space.shape)
    return trials.tasks, History(*(v[:, :, 0] for v in (rollout.obs, action, rollout.reward, rollout.valid)))


@pytest.mark.parametrize("name", FAMILIES)
def test_all_transitions_of_a_query_have_one_answer_in_every_task(name: str) -> None:
    family: Any = metarl.make_family(name)
    queries, answers = queries_of(family), true_answers(family, family.tasks("train", 30))
    for query in range(int(queries.query.max()) + 1):
        own = answers[:, queries.query == query]
        assert own.shape[1] > 0
        torch.testing.assert_close(own, own[:, :1].expand_as(own))
    if queries.one_pays is not None:
        first = torch.stack([answers[:, queries.query == q][:, 0] for q in range(int(queries.query.max()) + 1)], 1)
        low, high = queries.one_pays
        torch.testing.assert_close(first.sort(1).values[0, -2:], torch.tensor([low, high]).double())
        assert ((first - high).abs() < 1e-6).sum(1).tolist() == [1] * 30


@pytest.mark.parametrize("name", FAMILIES)
def test_the_first_answer_is_the_mean_over_tasks(name: str) -> None:
    """The prior's mean: 2,000 tasks give it to a few hundredths of the answers' spread."""
    family: Any = metarl.make_family(name)
    queries, answers = queries_of(family), true_answers(family, family.tasks("train", 2000))
    found = family.posterior(histories(family, 2, 1)[1])[0]
    assert torch.equal(found[0], found[1])  # nothing is known of any task
    for query, value in enumerate(found[0]):
        own = answers[:, queries.query == query]
        assert abs(value - own.mean()) < 0.15 * answers.std()


def test_a_goal_is_where_every_reward_says_that_it_may_be() -> None:
    """GridNavi by brute force: of all goals, those in which the trial's steps would have paid what they paid."""
    family: Any = metarl.make_family("metarl/GridNavi-v0")
    _, seen = histories(family, 40, 2)
    seen.valid[3:5, 0] = False  # steps that were not played tell nothing
    found = family.posterior(seen)
    goals = torch.tensor(family.goals, dtype=torch.float32)
    for row in range(40):
        possible = torch.ones(len(goals), dtype=torch.bool)
        for t in range(len(seen.reward)):
            probability = possible.double() / possible.sum()
            torch.testing.assert_close(found[t, row], 1.1 * probability - 0.1)
            if seen.valid[t, row]:
                n, rng = len(goals), Rng(torch.zeros(len(goals)))
                obs, action = seen.obs[t, row].expand(n, 2), seen.action[t, row].expand(n)
                paid = family.step(obs, action, {"goal": goals}, rng)[1]
                possible &= paid == seen.reward[t, row]
    assert (found[-1] > 0.99).any()  # some goals were found
    assert (found[-1].amax(-1) < 0.0).any()  # others were not


def test_an_arm_is_known_by_its_counts() -> None:
    """One trial: arm 0 pays 1, arm 1 pays 0, arm 0 pays 0, a pull of arm 2 that was not played, then the last."""
    family: Any = metarl.make_family("metarl/BernoulliBandit-v0", k=3)
    action, reward = torch.tensor([[0], [1], [0], [2], [0]]), torch.tensor([[1.0], [0.0], [0.0], [1.0], [1.0]])
    seen = History(torch.zeros(5, 1, 1), action, reward, torch.tensor([[True], [True], [True], [False], [True]]))
    expected = [[1 / 2] * 3, [2 / 3, 1 / 2, 1 / 2], [2 / 3, 1 / 3, 1 / 2], *[[2 / 4, 1 / 3, 1 / 2]] * 2]
    torch.testing.assert_close(family.posterior(seen)[:, 0], torch.tensor(expected, dtype=torch.float64))


def test_other_families_have_no_queries() -> None:
    assert metarl.make_family("metarl/Acrobot-v0").queries() is None
    switching = metarl.switching("metarl/GridNavi-v0")
    assert switching.queries() is None
