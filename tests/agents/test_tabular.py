"""The tabular agents against counts and posteriors by hand, enumerated policies and linear programs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import optimize

import metarl
from metarl import InvalidValueError, Rng
from metarl.agent import Budget, Feedback, Step
from metarl.agents.classical.tabular import action_values, first_best, mean_reward, mean_transition, sample_mdp
from metarl.agents.classical.ucrl2 import extended_values, optimistic_mean, radii
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.rng import fold_in, make_key

FAMILY = "metarl/TabularMDP-v0"
NAMES = ("psrl", "opsrl", "ucrl2", "beb", "epsilon_greedy_mdp", "greedy_mdp")


def keyed(n, purpose="test tabular"):
    return Rng(fold_in(make_key(purpose), torch.arange(n)))


def tiny(name="greedy_mdp", states=3, actions=2, horizon=3, **overrides):
    return metarl.make_agent(
        name, metarl.make_family(FAMILY, states=states, actions=actions, horizon=horizon), **overrides
    )


def seen(agent, states):
    """What rows in these states are shown."""
    return Step(torch.nn.functional.one_hot(torch.tensor(states), agent.states).float().unsqueeze(1), None)


def told(action, reward, over, terminated=False):
    """Feedback `[R, 1]`; an episode that is over was truncated, or terminated."""
    action, reward, over = (torch.tensor(x).unsqueeze(1) for x in (action, reward, over))
    never = torch.zeros_like(over)
    return Feedback(action, reward, *((over, never) if terminated else (never, over)))


def play(agent, state, script, active=None):
    """Feed lists of (states, actions, rewards, over), one entry per row in each."""
    for t, (where, action, reward, over) in enumerate(script):
        _, _, state = agent.act(state, seen(agent, where), keyed(len(where)).seek(t), False)
        state = agent.observe(state, told(action, reward, over), active)
    return state


def random_mdps(rows, states, actions, seed=0):
    rng = keyed(rows, f"mdps {seed}")
    transition = rng.exponential(states, actions, states)
    return rng.normal(states, actions), transition / transition.sum(-1, keepdim=True)


# --- counting --------------------------------------------------------------------------------------------------------

# Two rows of 3 states and 2 actions. Row 0: (0, 1) pays 2, to state 2; (2, 0) pays -1, to state 2; (2, 0) pays 3, over.
# A new episode: (0, 1) pays 5, to state 1. Row 1: (0, 0) pays 1, over at once; then (0, 0) pays 2, to 1; (1, 1) pays 4,
# to 0; (0, 0) pays 8, over.
SCRIPT = [
    ([0, 0], [1, 0], [2.0, 1.0], [False, True]),
    ([2, 0], [0, 0], [-1.0, 2.0], [False, False]),
    ([2, 1], [0, 1], [3.0, 4.0], [True, False]),
    ([0, 0], [1, 0], [5.0, 8.0], [False, True]),
]


def test_counts_by_hand():
    agent = tiny()
    state = play(agent, agent.begin(2), SCRIPT)
    # row 0's last step waits for its next state
    _, _, state = agent.act(state, seen(agent, [1, 0]), keyed(2).seek(4), False)
    transitions = torch.zeros(2, 3, 2, 3)
    transitions[0, 0, 1, 2] = transitions[0, 2, 0, 2] = transitions[0, 0, 1, 1] = 1
    transitions[1, 0, 0, 1] = transitions[1, 1, 1, 0] = 1  # neither of the two last steps of an episode
    assert torch.equal(state["transitions"], transitions)
    assert state["visits"].tolist() == [[[0, 2], [0, 0], [2, 0]], [[3, 0], [0, 1], [0, 0]]]
    assert state["reward_sum"].tolist() == [[[0, 7], [0, 0], [2, 0]], [[11, 0], [0, 4], [0, 0]]]
    assert state["t"].tolist() == [1, 0]


def test_counts_are_those_of_the_rollout():
    agent = metarl.make_agent("psrl", FAMILY)
    trials = PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("train", 5))
    state, transitions, visits = agent.begin(5), np.zeros((5, 10, 5, 10)), np.zeros((5, 10, 5))
    for stage in range(3):
        rollout, state = agent.interact(state, trials, stage)
        s, a = rollout.obs[:, :, 0].argmax(-1).numpy(), rollout.action[:, :, 0].numpy()
        for t, row in itertools.product(range(10), range(5)):
            visits[row, s[t, row], a[t, row]] += 1
            if t < 9:
                transitions[row, s[t, row], a[t, row], s[t + 1, row]] += 1
    assert np.array_equal(state["transitions"].numpy(), transitions)
    assert np.array_equal(state["visits"].numpy(), visits)


def test_a_terminated_episode_is_over_too():
    agent = tiny()
    _, _, state = agent.act(agent.begin(1), seen(agent, [0]), keyed(1), False)
    state = agent.observe(state, told([0], [1.0], [True], terminated=True), None)
    _, _, state = agent.act(state, seen(agent, [1]), keyed(1).seek(1), False)
    assert not state["transitions"].any()


def test_inactive_rows_keep_their_state():
    agent = tiny()
    state = play(agent, agent.begin(2), SCRIPT)
    _, _, state = agent.act(state, seen(agent, [1, 0]), keyed(2).seek(4), False)
    kept = agent.fork(state)
    # row 1 is inactive, and a reward that is not a number does not reach it
    state = agent.observe(state, told([1, 1], [1.0, math.nan], [False, False]), torch.tensor([[True], [False]]))
    assert all(torch.equal(kept[name][1], value[1]) for name, value in state.items())
    assert state["visits"][0].sum() == kept["visits"][0].sum() + 1
    assert state["t"].tolist() == [2, 0]
    _, _, state = agent.act(state, seen(agent, [2, 2]), keyed(2).seek(5), False)
    assert torch.equal(kept["transitions"][1], state["transitions"][1])


def test_plans_change_at_episode_starts_only():
    # Row 0 is in the middle of an episode when row 1 starts one: PSRL draws a new plan for row 1 alone.
    agent = tiny("psrl", states=6, actions=4)
    state = play(agent, agent.begin(2), [([0, 0], [0, 0], [0.0, 0.0], [False, True])])
    before = state["policy"].clone()
    _, _, state = agent.act(state, seen(agent, [1, 0]), keyed(2).seek(1), False)
    assert torch.equal(before[0], state["policy"][0])
    assert not torch.equal(before[1], state["policy"][1])


def test_the_plan_is_followed():
    agent = tiny("psrl", states=6, actions=4)
    _, _, state = agent.act(agent.begin(3), seen(agent, [0, 0, 0]), keyed(3), False)
    # a plan in which row, step and state tell: action (row + step + state) mod 4
    row, t, s = torch.arange(3).view(3, 1, 1), torch.arange(3).view(1, 3, 1), torch.arange(6)
    state = state | {"policy": (row + t + s) % 4}
    state = agent.observe(state, told([0, 0, 0], [0.0] * 3, [False] * 3), None)
    action, _, state = agent.act(state, seen(agent, [5, 2, 0]), keyed(3).seek(1), False)
    assert action.tolist() == [[2], [0], [3]]  # 0 + 1 + 5, 1 + 1 + 2, 2 + 1 + 0
    state = agent.observe(state, told([2, 0, 3], [0.0] * 3, [False] * 3), None)
    action, _, state = agent.act(state, seen(agent, [3, 3, 4]), keyed(3).seek(2), True)
    assert action.tolist() == [[1], [2], [0]]  # 0 + 2 + 3, 1 + 2 + 3, 2 + 2 + 4


# --- the posterior ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior_mean", [0.0, 1.0])
def test_posterior_means_by_hand(prior_mean):
    agent = tiny()
    state = play(agent, agent.begin(2), SCRIPT)
    reward = mean_reward(state, prior_mean)
    # row 0: (0, 1) has 2 rewards of sum 7; row 1: (0, 0) has 3 of sum 11; (0, 1) has none
    assert float(reward[0, 0, 1]) == pytest.approx((prior_mean + 7) / 3)
    assert float(reward[1, 0, 0]) == pytest.approx((prior_mean + 11) / 4)
    assert float(reward[1, 0, 1]) == pytest.approx(prior_mean)
    # row 0: (2, 0) was seen to lead to state 2 once: (1, 1, 2) / 4
    assert mean_transition(state)[0, 2, 0].tolist() == pytest.approx([0.25, 0.25, 0.5])
    assert mean_transition(state)[0, 1, 0].tolist() == pytest.approx([1 / 3] * 3)


def test_samples_have_the_moments_of_the_posterior():
    # One state-action with 3 rewards of sum 7.5 and counts (0, 2, 5) in each of 20 000 rows, prior mean 1:
    # R ~ N(8.5 / 4, 1 / 4); P ~ Dirichlet(1, 3, 6): means .1, .3, .6 and variances m (1 - m) / 11.
    rows = 20_000
    state = {
        "transitions": torch.tensor([0.0, 2.0, 5.0]).expand(rows, 1, 1, 3),
        "visits": torch.full((rows, 1, 1), 3.0),
        "reward_sum": torch.full((rows, 1, 1), 7.5),
    }
    reward, transition = (x.double().flatten(1).numpy() for x in sample_mdp(state, 1.0, keyed(rows)))
    # standard errors: .5 / sqrt(20 000) = .0035 (a prior off by one moves the mean by .25), of a variance v
    # v sqrt(2 / 20 000) = .01 v for a normal
    assert reward.mean() == pytest.approx(2.125, abs=4 * 0.0035)
    assert reward.var() == pytest.approx(0.25, rel=4 * 0.01)
    mean = np.array([0.1, 0.3, 0.6])
    variance = mean * (1 - mean) / 11
    # a prior of 0 or 2 in place of 1 moves the first mean to 0 or 2 / 13: standard errors are below .0011
    assert np.abs(transition.mean(0) - mean).max() < 4 * math.sqrt(variance.max() / rows)
    np.testing.assert_allclose(transition.var(0), variance, rtol=0.08)
    assert abs(np.corrcoef(reward[:, 0], transition[:, 0])[0, 1]) < 4 / math.sqrt(rows)


def test_rows_and_episodes_sample_their_own_mdps():
    state = tiny().begin(50)
    first, second = (sample_mdp(state, 1.0, keyed(50).seek(t)) for t in (0, 1))
    for a, b in zip(first, second, strict=True):
        assert len(a.flatten(1).unique(dim=0)) == 50
        assert not torch.isclose(a, b).all(-1).any()


# --- planning --------------------------------------------------------------------------------------------------------


def enumerated(reward, transition, horizon):
    """The best value from each state of all deterministic policies that may look at the time: [S]."""
    states, actions = reward.shape
    best = np.full(states, -math.inf)
    for choices in itertools.product(range(actions), repeat=states * horizon):
        value = np.zeros(states)
        for policy in np.array(choices).reshape(horizon, states):  # last step first
            value = np.array([reward[s, policy[s]] + transition[s, policy[s]] @ value for s in range(states)])
        best = np.maximum(best, value)
    return best


@pytest.mark.parametrize("horizon", [1, 2, 3])
def test_the_planner_finds_the_best_of_all_policies(horizon):
    reward, transition = random_mdps(20, 2, 2)
    found = action_values(reward, transition, horizon)
    assert found.shape == (20, horizon, 2, 2)
    expected = [enumerated(r.numpy(), p.numpy(), horizon) for r, p in zip(reward, transition, strict=True)]
    np.testing.assert_allclose(found[:, 0].amax(-1), expected, atol=1e-5)


def test_the_planner_agrees_with_the_family():
    family = metarl.make_family(FAMILY)
    task = family.tasks("test", 30).tensors()
    found = action_values(task["reward"], task["transition"], family.horizon)
    torch.testing.assert_close(found, family.action_values(task), rtol=0, atol=2e-5)


def test_ties_go_to_the_first_action():
    q = torch.tensor([[1.0, 3.0, 3.00001], [2.0, 2.0, 2.0], [0.0, 1.0, 1.01]])
    assert first_best(q).tolist() == [1, 0, 2]


def counted(agent, rows=40, episodes=3):
    """A state after some episodes of real play."""
    trials = PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("train", rows))
    state = agent.begin(rows)
    for stage in range(episodes):
        _, state = agent.interact(state, trials, stage)
    return state


def test_opsrl_takes_the_largest_of_its_samples():
    agent = tiny("opsrl", samples=3)
    state = counted(agent)
    rng = keyed(40)
    samples = [action_values(*sample_mdp(state, 1.0, rng), 3) for _ in range(3)]
    torch.testing.assert_close(agent.plan(state, keyed(40)), torch.stack(samples).amax(0))
    one = tiny("opsrl", samples=1).plan(state, keyed(40))
    assert torch.equal(one, tiny("psrl").plan(state, keyed(40)))


def test_a_bonus_is_a_larger_prior_mean():
    # (m + G) / (1 + n) + beta / (1 + n) = (m + beta + G) / (1 + n)
    agent = tiny("beb", bonus=0.7)
    state = counted(agent)
    expected = tiny("greedy_mdp", prior_mean=1.7).plan(state, keyed(40))
    torch.testing.assert_close(agent.plan(state, keyed(40)), expected)
    assert not torch.allclose(expected, tiny("greedy_mdp").plan(state, keyed(40)))


def test_greedy_plans_in_the_posterior_mean():
    agent = tiny("greedy_mdp", prior_mean=0.5)
    state = counted(agent)
    expected = action_values(mean_reward(state, 0.5), mean_transition(state), 3)
    torch.testing.assert_close(agent.plan(state, keyed(40)), expected)


def test_epsilon_is_the_share_of_random_actions():
    # Nothing is known: the plan is action 0 everywhere, and .4 * 4/5 = .32 of the actions are others.
    agent = metarl.make_agent("epsilon_greedy_mdp", FAMILY, epsilon=0.4)
    rows = 20_000
    action, _, _ = agent.act(agent.begin(rows), seen(agent, [0] * rows), keyed(rows), False)
    share = torch.bincount(action[:, 0], minlength=5) / rows
    # each other action: .08, with a standard error of .0019
    assert np.abs(share[1:].numpy() - 0.08).max() < 4 * 0.0019
    assert abs(float(share[0]) - 0.68) < 4 * 0.0033
    mean, _, _ = agent.act(agent.begin(rows), seen(agent, [0] * rows), keyed(rows), True)
    assert not mean.any()


# --- UCRL2 -----------------------------------------------------------------------------------------------------------


def by_linear_program(p, radius, value):
    """The largest q . V with q a distribution and ||q - p||_1 <= radius; variables q and u >= |q - p|."""
    n, eye = len(p), np.eye(len(p))
    bounds = np.block([[eye, -eye], [-eye, -eye], [np.zeros((1, n)), np.ones((1, n))]])
    limits = np.concatenate([p, -p, [radius]])
    total = np.concatenate([np.ones(n), np.zeros(n)])[None]
    found = optimize.linprog(np.concatenate([-value, np.zeros(n)]), bounds, limits, total, [1.0], bounds=(0, None))
    assert found.success
    return -found.fun


def test_the_inner_maximum_is_that_of_a_linear_program():
    rows, states, actions = 12, 3, 2
    _, transition = random_mdps(rows, states, actions)
    rng = keyed(rows, "radius")
    radius, value = 2.5 * rng.uniform(states, actions), rng.normal(states)
    radius[0] = 0.0
    value[1, 0] = value[1, 2]  # ties, of the best or of the worst
    value[2] = 0.7
    found = optimistic_mean(transition, radius, value).numpy()
    for row, s, a in itertools.product(range(rows), range(states), range(actions)):
        p, v = transition[row, s, a].double().numpy(), value[row].double().numpy()
        expected = by_linear_program(p / p.sum(), float(radius[row, s, a]), v)
        assert found[row, s, a] == pytest.approx(expected, abs=1e-5)


def test_the_inner_maximum_by_hand():
    # P = (.5, .3, .2), V = (1, 3, 2), radius .4: .2 goes from the worst, state 0, to the best, state 1:
    # (.3, .5, .2) . V = 2.2; radius 1.2: .6 of which .5 from state 0 and .1 from state 2: (0, .9, .1) . V = 2.9
    transition = torch.tensor([0.5, 0.3, 0.2]).expand(1, 3, 2, 3).clone()
    radius = torch.tensor([[0.4, 1.2], [0.0, 2.0], [1.4, 1.0]]).unsqueeze(0)
    found = optimistic_mean(transition, radius, torch.tensor([[1.0, 3.0, 2.0]]))
    # radius 0: 1.8; 2 and 1.4 reach the best state alone: 3; 1: .5 from state 0: (0, .8, .2) . V = 2.8
    np.testing.assert_allclose(found[0], [[2.2, 2.9], [1.8, 3.0], [3.0, 2.8]], atol=1e-6)


def test_radii_by_hand():
    # S = 2, A = 2; visits 4, 1, 0, 0, so t = 6; of the first pair's steps 3 were seen to lead somewhere.
    visits = torch.tensor([[[4.0, 1.0], [0.0, 0.0]]])
    transitions = torch.tensor([[[3.0, 1.0], [0.0, 0.0]]])
    reward, transition = (x[0].numpy() for x in radii(visits, transitions, 0.1))
    # sqrt(7 ln(2 * 2 * 2 * 6 / .05) / 2) = sqrt(3.5 * ln 960) = sqrt(3.5 * 6.866933) = 4.902485
    np.testing.assert_allclose(reward, [[0.2451243, 0.4902485], [0.4902485, 0.4902485]], rtol=1e-5)
    # sqrt(14 * 2 * ln(2 * 2 * 6 / .05)) = sqrt(28 * ln 480) = sqrt(28 * 6.173786) = 13.147931; / sqrt(3) = 7.590962
    np.testing.assert_allclose(transition, [[0.7590962, 1.3147931], [1.3147931, 1.3147931]], rtol=1e-5)


def test_without_confidence_ucrl2_is_greedy():
    agent = tiny("ucrl2", confidence=0.0)
    state = counted(agent)
    torch.testing.assert_close(agent.plan(state, keyed(40)), tiny("greedy_mdp").plan(state, keyed(40)))


def test_ucrl2_plans_with_both_radii():
    # The first of two steps, brute force over a grid: no MDP of the set is better than the plan says, and some are
    # within the grid's coarseness.
    agent = tiny("ucrl2", states=2, horizon=2, confidence=0.05)
    state = counted(agent, rows=10)
    reward_radius, radius = radii(state["visits"], state["transitions"].sum(-1), 0.05)
    reward, transition = mean_reward(state, 1.0) + reward_radius, mean_transition(state)
    best = torch.full((10, 2, 2), -math.inf)
    last = reward.amax(-1)  # the second step's values
    for p in torch.linspace(0, 1, 501):
        inside = 2 * (transition[..., 0] - p).abs() <= radius
        value = reward + (p * last[:, 0] + (1 - p) * last[:, 1]).view(-1, 1, 1)
        best = torch.where(inside, torch.maximum(best, value), best)
    found = agent.plan(state, keyed(10))[:, 0]
    assert (found >= best - 1e-5).all()
    assert (found - best).max() < 0.01
    torch.testing.assert_close(extended_values(reward, transition, radius, 2)[:, 0], found)


def test_ucrl2_plans_in_chunks_as_in_one(monkeypatch):
    agent = tiny("ucrl2")
    state = counted(agent)
    whole = agent.plan(state, keyed(40))
    monkeypatch.setattr("metarl.agents.classical.ucrl2._ROWS", 7)
    torch.testing.assert_close(agent.plan(state, keyed(40)), whole)


# --- all of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_equals_its_singles(name):
    agent = metarl.make_agent(name, FAMILY)
    tasks = agent.family.tasks("test", 6)

    def rewards(which):
        trials, state = PoolTrials(EnvironmentPool(agent.family), tasks[which]), agent.begin(len(which))
        parts = []
        for stage in range(4):
            rollout, state = agent.interact(state, trials, stage)
            parts.append(rollout.reward[:, :, 0])
        return torch.cat(parts)

    together = rewards([0, 1, 2, 3, 4, 5])
    for task in range(6):
        torch.testing.assert_close(rewards([task])[:, 0], together[:, task], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_scoring_leaves_no_trace(name):
    agent = tiny(name)
    trials = PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("test", 4))
    _, state = agent.interact(agent.begin(4), trials, 0)
    kept = agent.fork(state)
    trials.collect(agent, agent.fork(state), 1, Budget(episodes=1), False, "score")
    assert all(torch.equal(kept[name], value) for name, value in state.items())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", ["metarl/BernoulliBandit-v0", "metarl/PointNavigation-v0"])
def test_other_families_are_refused(name, family):
    with pytest.raises(InvalidValueError, match=rf"^family of {name} is '{family}', expected .*finite MDPs"):
        metarl.make_agent(name, family)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("psrl", "prior_mean", math.nan),
        ("opsrl", "samples", 0),
        ("opsrl", "samples", 2.5),
        ("ucrl2", "confidence", -0.1),
        ("beb", "bonus", -1.0),
        ("epsilon_greedy_mdp", "epsilon", 1.5),
    ],
)
def test_wrong_hyperparameters_are_named(name, field, value):
    with pytest.raises(InvalidValueError, match=rf"{name}\.{field} is {value}"):
        metarl.make_agent(name, FAMILY, **{field: value})
