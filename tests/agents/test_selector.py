"""The bandit over learners by hand, and portfolios of agents."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import metarl
from metarl.agent import Budget
from metarl.agents.strategies.learned_selector import LearnedSelector, later_returns
from metarl.agents.strategies.selector import Selector, paid, ucb
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
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


@pytest.mark.parametrize("family", [BANDIT, 'metarl/TabularMDP-v0{"horizon": 4}'])
def test_a_member_draws_anew_at_every_step_of_a_rollout(family: str) -> None:
    """20 episodes in one rollout: a portfolio of one plays what its member plays alone."""
    name = "thompson_sampling" if family == BANDIT else "psrl"
    found = []
    for agent in (metarl.make_agent(name, family), selector(family, members=(name,))):
        trials = PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("train", 8), seed=2)
        found.append(trials.collect(agent, agent.begin(8), 0, Budget(episodes=20))[0])
    assert torch.equal(found[0].action, found[1].action)


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


# --- the choice that is learned in other families --------------------------------------------------------------------


def learned(family: str = BANDIT, **settings: Any) -> LearnedSelector:
    small = {"trial_episodes": 12, "meta_batch_size": 5, "hidden": (8,), "updates": 3}
    agent = metarl.make_agent("learned_selector", family, **(small | settings))
    assert isinstance(agent, LearnedSelector)
    return agent


def test_members_take_turns_until_one_is_chosen() -> None:
    """Five first episodes of two steps for three members: means of two, two and one return."""
    agent = learned(first_episodes=5)
    state = agent.choice(2) | {"given": torch.tensor([-1, 2])}
    asked = []
    agent.predicted = lambda at: asked.append(at) or torch.ones(2, dtype=torch.int64)  # type: ignore[assignment,func-returns-value]
    chosen = []
    for step in range(16):
        chosen.append(state["chosen"].tolist())
        state = agent.choose(state, torch.tensor([1.0 + step // 2, 0.0]), torch.tensor([step % 2 == 1] * 2))
    assert [row[0] for row in chosen] == [0, 0, 1, 1, 2, 2, 0, 0, 1, 1] + [1] * 6  # the network chose 1
    assert [row[1] for row in chosen][10:] == [2] * 6  # a member that is given
    returns = [2.0, 4.0, 6.0, 8.0, 10.0]
    features = agent.features(state)
    means = [(returns[0] + returns[3]) / 2, (returns[1] + returns[4]) / 2, returns[2]]
    expected = [math.log10(12), 0.0, math.log10(5), 0.0, np.std(returns), *means]
    torch.testing.assert_close(features[0], torch.tensor(expected, dtype=torch.float32))
    assert features[1, 4:].tolist() == [0.0] * 4
    assert torch.equal(asked[-1]["sums"], state["sums"])  # nothing later counts


def test_a_choice_before_any_episode_knows_the_family_alone() -> None:
    agent = learned(first_episodes=0, members=("ucb1", "greedy", "random"))
    with torch.no_grad():
        agent.net.params["b1"].copy_(torch.tensor([0.0, 0.0, 5.0]))
    assert agent.begin(3)["chosen"].tolist() == [2, 2, 2]
    np.testing.assert_array_equal(lives(agent, 12), lives(metarl.make_agent("random", BANDIT), 12))


def test_lessons_compare_members_in_the_same_task() -> None:
    """Whoever is told to play plays all later episodes; advantages of a task add up to 0, in units of a deviation."""
    agent = learned(members=("random", "thompson_sampling"), meta_batch_size=400, trial_episodes=40)
    (x, member, advantage), steps = agent.lessons(3)
    assert (x.shape, steps) == ((800, 7), 800 * 40)
    assert member.tolist() == [0, 1] * 400
    torch.testing.assert_close(advantage.view(400, 2).sum(1), torch.zeros(400), atol=1e-5, rtol=0)
    better = advantage[1::2].mean()
    assert float(better) > 0.2  # half of what Thompson sampling gains beside random pulls, .27 / .45 of a deviation
    drawn = []
    tasks = agent.family.tasks
    agent.family.tasks = lambda split, *rest: drawn.append(split) or tasks(split, *rest)  # type: ignore[method-assign,func-returns-value]
    again = agent.lessons(3)[0]
    assert drawn == ["train"]
    assert all(torch.equal(a, b) for a, b in zip(again, (x, member, advantage), strict=True))
    assert not torch.equal(agent.lessons(4)[0][2], advantage)


def test_a_lesson_is_what_follows_the_first_episodes() -> None:
    """Episodes 0, ..., 11 of two rows; the first three are the same whoever plays the rest."""
    agent = learned()
    pool = EnvironmentPool(agent.family)
    trials = PoolTrials(pool, agent.family.tasks("train", 2), seed=1)
    rollout, _ = trials.collect(agent, agent.begin(2), 0, Budget(episodes=12))
    expected = rollout.reward[3:, :, 0].mean(0)
    torch.testing.assert_close(later_returns(rollout, 3).float(), expected)
    assert not torch.allclose(expected, rollout.reward[:, :, 0].mean(0))


def test_it_is_trained_in_the_families_and_lengths_that_it_is_given() -> None:
    families = ('metarl/BernoulliBandit-v0{"k": 3}', 'metarl/BernoulliBandit-v0{"k": 8}')
    agent = learned(train_families=families, train_episodes=(5, 9))
    assert [(s.family.action_space.n, s.config.trial_episodes) for s in agent.schools] == [
        (3, 5),
        (3, 9),
        (8, 5),
        (8, 9),
    ]
    steps: list[float] = []
    metarl.train(agent, 2, on_iteration=lambda _, m: steps.append(m["env_steps"]))
    each = 5 * 3 * (5 + 9) * 2
    assert steps == [each, 2 * each]
    assert agent.train_env_steps == each
    other = learned("metarl/BernoulliBandit-v0:k50")  # its tensors do not depend on the family
    other.load_tensors(agent.tensors())
    assert all(torch.equal(v, other.tensors()[k]) for k, v in agent.tensors().items())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"first_episodes": 12}, "learned_selector.first_episodes is 12, expected fewer than the 12 episodes"),
        ({"train_episodes": (30, 3)}, "learned_selector.first_episodes is 3, expected fewer than the 3 episodes"),
        ({"train_families": ("metarl/TabularMDP-v0",)}, "members of learned_selector in metarl/TabularMDP-v0"),
        ({"train_families": ("metarl/BernouliBandit-v0",)}, "did you mean 'metarl/BernoulliBandit-v0'"),
        ({"members": ("rl2",)}, "learned_selector.members is 'rl2', expected a run directory"),
        ({"members": ("ucb1",)}, "learned_selector.members is .*expected two or more"),
    ],
)
def test_a_choice_that_cannot_be_learned_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(metarl.InvalidValueError, match=sentence):
        learned(**settings).check_iterations(1)


def test_one_task_teaches_finite_numbers() -> None:
    agent = learned(meta_batch_size=1)
    metarl.train(agent, 2)
    assert all(bool(v.isfinite().all()) for v in agent.tensors().values())


def test_trained_members_are_not_taken_to_other_families(tmp_path: Path) -> None:
    agent = metarl.make_agent("rl2", BANDIT, hidden=4, meta_batch_size=4, minibatches=1)
    metarl.Run.create(tmp_path / "run", agent, 1).train(agent)
    members = (str(tmp_path / "run"), "greedy")
    assert learned(members=members).schools
    with pytest.raises(metarl.InvalidValueError, match=r"learned_selector.train_families is .*, expected none beside"):
        learned(members=members, train_families=("metarl/BernoulliBandit-v0:k10",))


def test_a_member_whose_actions_are_not_finite_is_named() -> None:
    agent = selector("metarl/PointNavigation-v0", members=("random", "random"))
    act = agent.members[1].act

    def broken(*given: Any) -> Any:
        action, extras, state = act(*given)
        return action * torch.nan, extras, state

    agent.members[1].act = broken  # type: ignore[method-assign]
    sentence = r"action of random, member 2 of selector is nan, expected finite numbers \(has its training diverged\?\)"
    with pytest.raises(metarl.InvalidValueError, match=sentence):
        lives(agent, k=1, tasks=2)
