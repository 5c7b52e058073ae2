"""Exact posteriors: by brute force over all tasks, by counts, and against the mean over many tasks."""

from __future__ import annotations

import math
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

FAMILIES = ['metarl/BernoulliBandit-v0{"k": 3}', "metarl/GridNavi-v0", 'metarl/TabularMDP-v0{"states": 3}']
FAMILIES += ["metarl/PointNavigation-v0", "metarl/PointNavigation-v0:semicircle"]
FAMILIES += ['metarl/GaussianBandit-v0{"k": 3}', 'metarl/DeceptiveBandit-v0{"k": 3}']


def queries_of(family: Any) -> Queries:
    queries = family.queries()
    assert queries is not None
    return queries


def true_answers(family: Any, tasks: Any) -> Tensor:
    """The expected reward of each query's transitions in each task, by the family's own steps: `[task, N]`."""
    queries, values = queries_of(family), tasks.tensors()
    answers = []
    for i in range(len(queries.query)):
        state = queries.obs[i].argmax() if "Tabular" in family.id else queries.obs[i]
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


def test_an_arm_with_normal_rewards_is_known_by_their_mean() -> None:
    """N(0, 1) before, and noise of deviation .5: after n rewards of mean x the mean is n x / (n + .25)."""
    family: Any = metarl.make_family("metarl/GaussianBandit-v0:first_explore", k=2)
    action, reward = torch.tensor([[0], [0], [1], [0]]), torch.tensor([[1.0], [2.0], [-9.0], [0.0]])
    valid = torch.tensor([[True], [True], [False], [True]])
    expected = [[0.0, 0.0], [0.8, 0.0], [3.0 / 2.25, 0.0], [3.0 / 2.25, 0.0]]
    found = family.posterior(History(torch.zeros(4, 1, 1), action, reward, valid))
    torch.testing.assert_close(found[:, 0], torch.tensor(expected, dtype=torch.float64))
    exact: Any = metarl.make_family("metarl/GaussianBandit-v0", k=2, noise_std=0.0)
    found = exact.posterior(History(torch.zeros(4, 1, 1), action, torch.full((4, 1), 2.0), valid))
    assert found[:, 0].tolist() == [[0.0, 0.0], [2.0, 0.0], [2.0, 0.0], [2.0, 0.0]]


def test_a_safe_arm_is_known_from_the_start() -> None:
    family: Any = metarl.make_family("metarl/DeceptiveBandit-v0", k=2, safe=0.25)
    action, reward = torch.tensor([[0], [1], [1]]), torch.tensor([[0.25], [1.0], [0.0]])
    seen = History(torch.zeros(3, 1, 1), action, reward, torch.ones(3, 1, dtype=torch.bool))
    torch.testing.assert_close(
        family.posterior(seen)[:, 0], torch.tensor([[0.25, 0.0], [0.25, 0.0], [0.25, 0.8]]).double()
    )


def test_a_mean_reward_is_known_by_its_rewards() -> None:
    """N(1, 1) before, and noise of deviation 1: rewards 4 and 1 of one action in one state make (1 + 5) / (1 + 2)."""
    family: Any = metarl.make_family("metarl/TabularMDP-v0", states=2, actions=2)
    state = torch.tensor([0, 1, 0, 0])
    obs, action = torch.eye(2)[state].unsqueeze(1), torch.tensor([[1], [0], [1], [0]])
    seen = History(obs, action, torch.tensor([[4.0], [-3.0], [1.0], [0.0]]), torch.ones(4, 1, dtype=torch.bool))
    expected = [[1.0, 1.0, 1.0, 1.0], [1.0, 2.5, 1.0, 1.0], [1.0, 2.5, -1.0, 1.0], [1.0, 2.0, -1.0, 1.0]]
    torch.testing.assert_close(family.posterior(seen)[:, 0], torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("preset", ["", ":semicircle"])
def test_a_point_knows_what_many_goals_that_tell_its_rewards_say(preset: str) -> None:
    """The mean over those of thousands of goals that would have paid the same, to a hundredth."""
    family: Any = metarl.make_family(f"metarl/PointNavigation-v0{preset}", horizon=20)
    tasks, seen = histories(family, 5, 2)
    if preset:  # one point walks along the semicircle, another straight up and beyond it
        angle = torch.linspace(0.0, math.pi, 41)
        seen.obs[:, 0] = torch.stack([angle.cos(), angle.sin()], -1)[:40]
        seen.action[:, 0] = (seen.obs[:, 0].roll(-1, 0) - seen.obs[:, 0]) * 10
        seen.obs[:, 1] = torch.stack([torch.zeros(40), 0.03 * torch.arange(40)], -1)
        seen.action[:, 1] = torch.tensor([0.0, 0.3])
        for row in (0, 1):
            task = {k: v[row].expand(40, *v.shape[1:]) for k, v in tasks.tensors().items()}
            seen.reward[:, row] = family.step(seen.obs[:, row], seen.action[:, row], task, Rng(torch.zeros(40)))[1]
    found = family.posterior(seen)
    many = family.tasks("train", 6000, seed=1)
    values, goals = many.tensors(), family.goal(many.tensors())
    answers, own = true_answers(family, many), true_answers(family, tasks)
    slack = 0.0 if preset else 0.01
    for row in range(5):
        possible = torch.ones(len(goals), dtype=torch.bool)
        for t in range(6 if not preset else 40):
            if possible.sum() > 20:
                error = (found[t, row] - answers[possible].mean(0)).abs().max()
                assert error < 0.03 + 4 * answers[possible].std(0).max() / possible.sum().sqrt()
            obs, action = seen.obs[t, row].expand(len(goals), 2), seen.action[t, row].expand(len(goals), 2)
            paid = family.step(obs, action, values, Rng(torch.zeros(len(goals))))[1]
            possible &= (paid - seen.reward[t, row]).abs() <= slack
    known = found[-1] - own
    assert known.abs().amax(1)[:1].max() < 0.03  # the goal is known, up to the lattice
    if not preset:
        assert known.abs().max() < 0.03


def test_other_families_have_no_queries() -> None:
    assert metarl.make_family("metarl/Acrobot-v0").queries() is None
    assert metarl.make_family("metarl/PointNavigation-v0:corners").queries() is None
    switching = metarl.switching("metarl/GridNavi-v0")
    assert switching.queries() is None
