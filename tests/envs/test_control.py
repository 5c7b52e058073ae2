"""Classic control against Gymnasium's own environments, step by step, and what can be reached in its task spaces."""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from scipy import stats

import metarl
from metarl import Rng
from metarl.rng import fold_in, make_key

LINKS = {"link_length_1": 1.3, "link_mass_1": 0.7, "link_mass_2": 1.4, "link_com_pos_1": 0.6, "link_com_pos_2": 0.45}
TILT = 12 * 2 * math.pi / 360


class Case(NamedTuple):
    theirs: str
    default: dict[str, float]
    changed: dict[str, float]  # what Gymnasium lets one change
    far: list[float]  # states are drawn within these bounds,
    near: list[list[float]]  # and near these, where something ends, clips or wraps
    starts: list[list[float]]  # low and high of what reset draws
    moving: list[bool]  # which numbers of the state reset draws, the others are 0


CASES = {
    "CartPole": Case(
        "CartPole-v1",
        {"gravity": 9.8, "masscart": 1.0, "masspole": 0.1, "length": 0.5, "force_mag": 10.0},
        {"gravity": 12.0, "masscart": 0.6, "masspole": 0.45, "length": 0.3, "force_mag": 14.0},
        [2.6, 3.0, 0.25, 3.0],
        [[2.4, 0, 0, 0], [-2.4, 0, 0, 0], [0, 0, TILT, 0], [0, 0, -TILT, 0]],
        [[-0.05] * 4, [0.05] * 4],
        [True] * 4,
    ),
    "Pendulum": Case(
        "Pendulum-v1",
        {"g": 10.0, "m": 1.0, "l": 1.0},
        {"g": 8.0, "m": 1.3, "l": 0.8},
        [math.pi, 8.0],
        [[3.1, 0.5], [-3.1, -0.5], [1.5, 7.9], [-1.5, -7.9]],
        [[-math.pi, -1.0], [math.pi, 1.0]],
        [True] * 2,
    ),
    "Acrobot": Case(
        "Acrobot-v1",
        {**dict.fromkeys(LINKS, 1.0), "link_com_pos_1": 0.5, "link_com_pos_2": 0.5, "link_moi": 1.0},
        {**LINKS, "link_moi": 1.2},
        [math.pi, math.pi, 4.0, 6.0],
        # at the line twice (cos(2 pi / 3) = -1/2 and 2 * 1/2 = 1), both angles about to wrap, and fast
        [
            [2.0944, 0, 0, 0],
            [math.pi / 2, math.pi / 2, 0, 0],
            [3.1, 3.1, 1, 1],
            [0.5, -0.5, 2, -3],
        ],
        [[-0.1] * 4, [0.1] * 4],
        [True] * 4,
    ),
    "MountainCar": Case(
        "MountainCar-v0",
        {"force": 0.001, "gravity": 0.0025},
        {"force": 0.0014, "gravity": 0.0021},
        [0.6, 0.07],
        [[-1.199, -0.03], [0.495, 0.01], [0.52, -0.02], [-0.5, 0.0699], [0.6, 0.05]],
        [[-0.6], [-0.4]],
        [True, False],
    ),
    "MountainCarContinuous": Case(
        "MountainCarContinuous-v0",
        {"power": 0.0015, "gravity": 0.0025},
        {"power": 0.0019},  # gravity is no attribute there; see test_gravity_of_the_continuous_car
        [0.6, 0.07],
        [[-1.199, -0.03], [0.445, 0.01], [0.47, -0.02], [-0.5, 0.0699], [0.6, 0.05]],
        [[-0.6], [-0.4]],
        [True, False],
    ),
}
IDS = list(CASES)


def keyed(n):
    return Rng(fold_in(make_key("test classic control"), torch.arange(n)))


def family_of(name):
    return metarl.make_family(f"metarl/{name}-v0")


def gymnasiums(name, physics):
    env: Any = gym.make(CASES[name].theirs).unwrapped
    for key, value in physics.items():
        if name == "MountainCarContinuous" and key == "gravity":
            assert value == 0.0025
            continue
        key = key.upper() if name == "Acrobot" else key
        assert hasattr(env, key)
        setattr(env, key, value)
    if name == "CartPole":
        env.total_mass, env.polemass_length = env.masspole + env.masscart, env.masspole * env.length
    return env


def their_step(env, state, action):
    """Gymnasium's observation, reward and terminated from a state of ours."""
    env.reset(seed=0)
    env.state = np.array(state, dtype=np.float64)
    obs, reward, terminated, _, _ = env.step(action)
    return np.asarray(obs, dtype=np.float64), reward, terminated


def states_of(name, n, rng):
    """Half anywhere, half near something."""
    case = CASES[name]
    anywhere = rng.uniform(-1, 1, (n // 2, len(case.far))) * case.far
    if name.startswith("MountainCar"):
        anywhere[:, 0] = rng.uniform(-1.2, 0.6, n // 2)
    spots = np.array(case.near)[rng.integers(len(case.near), size=n - n // 2)]
    states = np.concatenate([anywhere, spots + 0.02 * rng.uniform(-1, 1, spots.shape) * case.far])
    bound = np.array(case.far) if not name.startswith("MountainCar") else np.array([1.2, 0.07])
    if name == "Acrobot":
        bound = np.array([math.pi, math.pi, 4 * math.pi, 9 * math.pi])
    return np.clip(states, -bound, bound).astype(np.float32)


def actions_of(family, n, rng):
    if isinstance(family.action_space, gym.spaces.Discrete):
        return rng.integers(family.action_space.n, size=n)
    # a third beyond the box: Gymnasium clips the push, and of MountainCarContinuous not the cost
    return (1.5 * rng.uniform(family.action_space.low, family.action_space.high, (n, 1))).astype(np.float32)


@pytest.mark.parametrize("physics", ["default", "changed"])
@pytest.mark.parametrize("name", IDS)
def test_steps_equal_gymnasiums(name, physics):
    family, rng, n = family_of(name), np.random.default_rng(1), 600
    values = CASES[name].default | getattr(CASES[name], physics)
    env, states, actions = gymnasiums(name, values), states_of(name, n, rng), actions_of(family, n, rng)
    theirs = [their_step(env, s, a) for s, a in zip(states, actions, strict=True)]
    obs, rewards, ended = (np.array(column) for column in zip(*theirs, strict=True))
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 2e-7)):  # they return float32
        task = {k: torch.full((n,), v, dtype=dtype) for k, v in values.items()}
        action = torch.as_tensor(actions) if actions.ndim == 1 else torch.as_tensor(actions, dtype=dtype)
        state, reward, terminated = family.step(torch.as_tensor(states, dtype=dtype), action, task, keyed(n))
        found = family.observe(state, task)
        assert reward.dtype == found.dtype == dtype
        np.testing.assert_allclose(found.double(), obs, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(reward.double(), rewards.astype(np.float64), rtol=tolerance, atol=tolerance)
        assert terminated.tolist() == ended.tolist()
    if name in ("Acrobot", "Pendulum"):  # observations do not show whether angles are wrapped
        angles = state[:, : state.shape[1] // 2]
        assert angles.abs().max() <= math.pi + 1e-6
    if family.terminates:
        assert 0.05 < ended.mean() < 0.95  # the states are about endings too


def test_acrobot_clips_its_speeds():
    # in double precision: steps of .2 s at such speeds make errors of 1e-7 in the state a thousand times larger
    family, rng, n = family_of("Acrobot"), np.random.default_rng(3), 200
    values = CASES["Acrobot"].default
    env, states = gymnasiums("Acrobot", values), rng.uniform(-1, 1, (n, 4)) * [math.pi, math.pi, 12.5, 28.2]
    theirs = np.array([their_step(env, s, 2)[0] for s in states])
    task = {k: torch.full((n,), v, dtype=torch.float64) for k, v in values.items()}
    state, _, _ = family.step(torch.from_numpy(states), torch.full((n,), 2), task, keyed(n))
    np.testing.assert_allclose(family.observe(state, task), theirs, rtol=1e-6, atol=1e-6)
    for column in (4, 5):
        high = family.observation_space.high[column]
        assert (theirs[:, column] == high).any()
        assert (theirs[:, column] == -high).any()


RULES = {  # of the state [N, d] and the task, whether to push in the positive direction
    "CartPole": lambda s, task: s[:, 2] > 0,  # swings ever wider
    "Pendulum": lambda s, task: s[:, 1] > 0,
    "Acrobot": lambda s, task: s[:, 3] >= 0,
    "MountainCar": lambda s, task: s[:, 1] >= 0,
    "MountainCarContinuous": lambda s, task: s[:, 1] >= 0,
}


def push(family, positive):
    """The strongest action in a direction, per environment."""
    if isinstance(family.action_space, gym.spaces.Discrete):
        return positive.long() * int(family.action_space.n - 1)
    high = float(family.action_space.high[0])
    return torch.where(positive, high, -high).unsqueeze(1)


@pytest.mark.parametrize("name", IDS)
def test_episodes_equal_gymnasiums(name):
    family, case = family_of(name), CASES[name]
    env = gym.make(case.theirs)
    assert (family.horizon, family.action_space) == (env.spec.max_episode_steps, env.action_space)
    assert family.observation_space == env.observation_space
    task = {k: torch.tensor([v], dtype=torch.float64) for k, v in case.default.items()}
    endings = 0
    for seed in range(3):
        obs, _ = env.reset(seed=seed)
        state, t, ended = torch.as_tensor(np.array(env.unwrapped.state, dtype=np.float64))[None], 0, False
        while not ended:
            np.testing.assert_allclose(family.observe(state, task)[0], obs, rtol=1e-5, atol=1e-5)
            positive = RULES[name](state, task)
            # at random from time to time, so that it is not one motion alone
            action = push(family, positive if (t + seed) % 7 else ~positive)
            obs, reward, terminated, truncated, _ = env.step(action[0].numpy() if action.dim() > 1 else int(action[0]))
            state, our_reward, our_end = family.step(
                state, action.to(torch.float64) if action.dim() > 1 else action, task, keyed(1)
            )
            assert float(our_reward) == pytest.approx(float(reward), rel=1e-5, abs=1e-5)
            assert bool(our_end) == terminated
            t, ended, endings = t + 1, terminated or truncated, endings + terminated
    assert endings == (3 if family.terminates else 0)


def test_gravity_of_the_continuous_car():
    # a full push of the continuous car moves it as the discrete one; only ends and rewards differ
    continuous, discrete, n = family_of("MountainCarContinuous"), family_of("MountainCar"), 100
    rng = np.random.default_rng(2)
    state = torch.from_numpy(states_of("MountainCar", n, rng))
    size, gravity = torch.linspace(0.001, 0.002, n), torch.linspace(0.002, 0.0034, n)
    action = torch.from_numpy(rng.integers(3, size=n))
    a = continuous.step(state, (action - 1.0).unsqueeze(1), {"power": size, "gravity": gravity}, keyed(n))[0]
    b = discrete.step(state, action, {"force": size, "gravity": gravity}, keyed(n))[0]
    assert torch.equal(a, b)


@pytest.mark.parametrize("name", IDS)
def test_starts_are_gymnasiums(name):
    family, (low, high), n = family_of(name), CASES[name].starts, 20_000
    state = family.reset(family.tasks("train", n).tensors(), keyed(n)).numpy()
    assert not state[:, ~np.array(CASES[name].moving)].any()
    drawn = state[:, CASES[name].moving]
    for column, a, b in zip(drawn.T, low, high, strict=True):
        assert a - 1e-6 <= column.min() < column.max() <= b + 1e-6
        assert stats.kstest(column, "uniform", (a, b - a)).pvalue > 1e-3
    correlations = np.corrcoef(drawn.T).reshape(len(low), -1) - np.eye(len(low))
    assert np.abs(correlations).max() < 4 / math.sqrt(n)  # 4 standard errors


@pytest.mark.parametrize("name", IDS)
def test_default_physics_is_a_task(name):
    assert len(family_of(name).make_tasks(**CASES[name].default)) == 1


def corners(space, repeat):
    """Every corner of a task space, each `repeat` times in a row: name to `[N]`."""
    values = np.array(list(itertools.product(*[(d.low, d.high) for d in space.values()])), dtype=np.float32)
    return {k: torch.from_numpy(np.repeat(values[:, i], repeat)) for i, k in enumerate(space)}


def play(family, task, policy, state=None):
    """One episode: the returns, lengths `[N]` and last state; policy of (state, task)."""
    n = len(next(iter(task.values())))
    rng = keyed(n)
    state = family.reset(task, rng) if state is None else state
    returns, lengths, alive = torch.zeros(n), torch.zeros(n), torch.ones(n, dtype=torch.bool)
    for t in range(family.horizon):
        state, reward, terminated = family.step(state, policy(state, task), task, rng.seek(t))
        returns, lengths = returns + torch.where(alive, reward, 0.0), lengths + alive
        alive = alive & ~terminated
    return returns, torch.where(alive, math.inf, lengths), state


def space_of(family, split):
    return {**family.task_space, **family.ood.get(split, {})}


@pytest.mark.parametrize("split", ["train", "far"])
def test_every_pole_is_kept_up(split):
    # the claim behind references() and optimal_action(), at the extremes of task and start and between
    family = family_of("CartPole")
    policy = lambda state, task: family.optimal_action(state, task, None)  # noqa: E731
    starts = torch.tensor(list(itertools.product((-0.05, 0.05), repeat=4)))
    assert play(family, corners(space_of(family, split), 16), policy, starts.repeat(32, 1))[0].unique().tolist() == [
        500
    ]
    tasks = family.tasks(split, 2000)
    assert play(family, tasks.tensors(), policy)[0].unique().tolist() == [500]
    assert family.references(tasks)["informed_optimum"].tolist() == [500] * 2000
    assert family.bayes_optimal_return(3) == 1500 == family.bayes_optimal_episodes(3).sum()


@pytest.mark.parametrize("split", ["train", "far"])
@pytest.mark.parametrize("name", ["Acrobot", "MountainCar", "MountainCarContinuous"])
def test_every_task_can_be_solved(name, split):
    # by one of two rules that add energy: push the way it moves, starting one way or the other
    family = family_of(name)
    rules = [RULES[name], lambda s, task: s[:, 2] <= 0 if name == "Acrobot" else s[:, 1] > 0]
    for task in (family.tasks(split, 300).tensors(), corners(space_of(family, split), 4)):
        lengths = [play(family, task, lambda s, task, r=rule: push(family, r(s, task)))[1] for rule in rules]
        assert torch.minimum(*lengths).max() <= family.horizon


@pytest.mark.parametrize("split", ["train", "far"])
def test_every_pendulum_can_be_swung_up(split):
    def swing(state, task):
        angle, speed = state.unbind(1)
        inertia, weight = task["m"] * task["l"] ** 2 / 3, task["m"] * task["g"] * task["l"] / 2
        energy = inertia * speed**2 / 2 + weight * (angle.cos() - 1)  # 0 upright, at rest
        pump = torch.where(speed * energy <= 0, 2.0, -2.0)
        hold = -(weight + 9 * inertia) * angle - 6 * inertia * speed  # poles at -3 twice
        return torch.where(angle.abs() < 0.5, hold, pump).unsqueeze(1)

    family = family_of("Pendulum")
    for task in (family.tasks(split, 300).tensors(), corners(space_of(family, split), 8)):
        assert play(family, task, swing)[2][:, 0].abs().max() < 0.1


def test_pictures():
    figure, axes = plt.subplots(1, len(IDS))
    for ax, name in zip(axes, IDS, strict=True):
        family = family_of(name)
        tasks = family.make_tasks(**CASES[name].default)
        state = family.reset(tasks.tensors(), keyed(1))[0].numpy()
        family.draw(ax, state, {k: v[0] for k, v in tasks.values.items()})
        assert ax.lines
        assert ax.get_aspect() == 1
    # a pole of 2 * .5 m that leans by 30 degrees from a cart at x = 1 ends at (1.5, .866)
    figure.clear()
    ax = figure.subplots()
    family_of("CartPole").draw(ax, np.array([1.0, 0.0, math.pi / 6, 0.0]), CASES["CartPole"].default)
    assert ax.lines[-1].get_xydata()[-1].tolist() == pytest.approx([1.5, 0.8660], abs=1e-4)
    # link 1 hangs to the right, link 2 on down: the tip is at (1, -1)
    ax.clear()
    family_of("Acrobot").draw(ax, np.array([math.pi / 2, -math.pi / 2, 0.0, 0.0]), CASES["Acrobot"].default)
    ends = [line.get_xydata()[-1].tolist() for line in ax.lines]
    assert any(end == pytest.approx([1.0, -1.0]) for end in ends)
    plt.close(figure)
