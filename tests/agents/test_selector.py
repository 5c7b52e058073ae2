"""The bandit over learners by hand, and portfolios of agents."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import metarl
from metarl.agents.strategies.selector import Selector, paid, ucb
from metarl.evaluation.evaluate import evaluate

BANDIT = 'metarl/BernoulliBandit-v0{"k": 5}'


def selector(family: str = BANDIT, **settings: Any) -> Selector:
    agent = metarl.make_agent("selector", family, **settings)
    assert isinstance(agent, Selector)
    return agent


def lives(agent: metarl.Agent, k: int = 30, tasks: int = 50) -> Any:
    return evaluate(agent, k=(k,), num_tasks=tasks, episodes=1, modes=("sampled",)).lifetime


def test_scores_by_hand() -> None:
    """Returns from 2 to 6: a mean of 5 is .75; the third member is untried."""
    scores = ucb(torch.tensor([[1.0, 3.0, 0.0]]), torch.tensor([[5.0, 12.0, 0.0]]), *torch.tensor([[2.0], [6.0]]), 0.25)
    bonus = math.sqrt(0.25 * math.log(4))
    torch.testing.assert_close(scores, torch.tensor([[0.75 + bonus, 0.5 + bonus / math.sqrt(3), torch.inf]]))


def test_epochs_double_and_a_member_is_paid_for_its_whole_episode() -> None:
    """Two members, episodes of two steps. The second one always pays 3, the first one 1."""
    state = selector(members=("greedy", "ucb1")).begin(1)
    state = {name: value for name, value in state.items() if "." not in name}
    chosen, tried = [], []
    for step in range(60):
        chosen.append(int(state["chosen"]))
        reward = torch.tensor([[0.5], [1.5]])[state["chosen"]][:, 0]
        state = paid(state, reward, torch.tensor([step % 2 == 1]), exploration=0.25)
        tried.append(state["tried"].sum().item())
    assert chosen[::2] == chosen[1::2]  # nobody changes within an episode
    # epochs of 1, 2, 4, 8 and 16 episodes: the counts begin anew when one is over
    assert tried[1::2][:15] == [0, 1, 0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 0]
    assert (float(state["low"]), float(state["high"])) == (1.0, 3.0)
    episodes = chosen[::2]
    assert episodes[1:3] == [0, 1]  # each epoch tries all members
    assert episodes[3:5] == [0, 1]
    assert np.mean(episodes[15:30]) > 0.6


def test_a_portfolio_of_one_is_its_member() -> None:
    alone = lives(metarl.make_agent("thompson_sampling", BANDIT))
    np.testing.assert_array_equal(lives(selector(members=("thompson_sampling",))), alone)


def test_members_learn_from_every_step() -> None:
    """Of two equal members each has seen all pulls, so the two are as good as one."""
    alone = lives(metarl.make_agent("thompson_sampling", BANDIT))
    np.testing.assert_array_equal(lives(selector(members=("thompson_sampling", "thompson_sampling"))), alone)


def test_it_finds_the_member_that_learns() -> None:
    """In 60 pulls: more than half of the way from random actions to the better member, which no seed misses."""
    good, bad = (lives(metarl.make_agent(n, BANDIT), 60, 200).mean() for n in ("thompson_sampling", "random"))
    mixed = lives(selector(members=("random", "thompson_sampling")), 60, 200).mean()
    assert bad + 0.25 * (good - bad) < mixed < good


def test_a_trained_run_is_a_member_and_boxes_are_mapped(tmp_path: Path) -> None:
    family = "metarl/PointNavigation-v0"
    agent = metarl.make_agent("multi_task", family, hidden=(4,), meta_batch_size=4, minibatches=1)
    run = metarl.Run.create(tmp_path / "run", agent, 1)
    run.train(agent)
    portfolio = selector(family, members=(str(tmp_path / "run"), "random"))
    assert portfolio.has_learned
    both = evaluate(portfolio, k=2, num_tasks=2, episodes=2, floor_episodes=1)
    assert np.isfinite(both.scores["sampled"]).all()
    one = evaluate(selector(family, members=(str(tmp_path / "run"),)), k=0, num_tasks=2, episodes=2, floor_episodes=1)
    own = evaluate(agent, k=0, num_tasks=2, episodes=2, floor_episodes=1)
    np.testing.assert_array_equal(one.scores["deterministic"], own.scores["deterministic"])
    with pytest.raises(metarl.InvalidValueError, match=r"family of .*run, a member of selector is 'metarl/PointNav"):
        selector(members=(str(tmp_path / "run"),))


@pytest.mark.parametrize(
    ("family", "members", "sentence"),
    [
        (BANDIT, ("oracle",), "selector.members is 'oracle', expected agents that are not shown the task"),
        ("metarl/PointNavigation-v0", ("scratch",), "selector.members is 'scratch', expected agents"),
        (BANDIT, ("rl2",), "selector.members is 'rl2', expected a run directory, because rl2 must be trained"),
        (BANDIT, ("thomson_sampling",), "did you mean 'thompson_sampling'"),
        ("metarl/PointNavigation-v0", (), "family of selector is .*, expected a family that its members take"),
    ],
)
def test_portfolios_that_cannot_play_are_refused(family: str, members: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(metarl.InvalidValueError, match=sentence):
        selector(family, members=members)
