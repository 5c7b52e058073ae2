"""Agents learn: each is trained for a moment, and its scores must stand within bounds.

A bound is at least four standard deviations from the mean of its score over 20 seeds, on old and on new processors:
`python tests/learning_thresholds.py` measures both again and prints what stands beside the bounds here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from cases import quiet
from gymnasium.spaces import Box
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecMonitor
from torch import Tensor

import metarl
from metarl.agent import Budget
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.evaluation.evaluate import evaluate
from metarl.interop.sb3 import make_sb3_env


class Learning(NamedTuple):
    """A training and what must come of it."""

    scores: Callable[..., dict[str, float]]  # of `seed`
    above: dict[str, float]
    below: dict[str, float] = {}  # noqa: RUF012 - never written to

    def margins(self, found: dict[str, float]) -> dict[str, float]:
        """How far inside its bound each score is; negative outside."""
        high = {name: self.below[name] - found[name] for name in self.below if name in found}
        low = {name: found[name] - self.above[name] for name in self.above if name in found}
        return {name: min(high.get(name, math.inf), low.get(name, math.inf)) for name in high | low}


def navigation(name: str, updates: int, k: int, seed: int) -> dict[str, float]:
    """Returns of 30 steps towards held-out goals: gained by training, and then by adapting."""
    family = metarl.make_family("metarl/PointNavigation-v0", horizon=30)
    agent = metarl.make_agent(name, family, seed=seed, meta_batch_size=10, episodes=10, hidden=(32, 32))
    returns = []
    for iterations in (0, updates):
        metarl.train(agent, iterations)
        found = evaluate(agent, k=k, num_tasks=20, episodes=10, modes=["sampled"], seed=seed, paths=0)
        returns.append(found.scores["sampled"].mean((0, 1, 3)))
    before, after = returns
    return {
        "first": after[0] - before[0],
        "trained": after[k] - before[k],
        "adapted": after[k] - after[0],
    }


def one_policy(seed: int) -> dict[str, float]:
    """Returns of 30 steps gained by PPO: of a policy that is shown the goal, and what it has before one that is not."""
    family = metarl.make_family("metarl/PointNavigation-v0", horizon=30)
    gained = []
    for name in ("task_conditioned", "multi_task"):
        agent = metarl.make_agent(name, family, seed=seed, meta_batch_size=100, hidden=(32, 32), learning_rate=3e-3)
        before, after = ([], [])
        for iterations, kept in ((0, before), (25, after)):
            metarl.train(agent, iterations)
            found = evaluate(agent, k=0, num_tasks=20, episodes=10, modes=["sampled"], seed=seed, paths=0)
            kept.append(float(found.scores["sampled"].mean()))
        gained.append(after[0] - before[0])
    return {"trained": gained[0], "before multi_task": gained[0] - gained[1]}


def bandits(memory: str, arms: int, seed: int) -> dict[str, float]:
    """Of 10 pulls random play collects 5.0, the Bayes optimum 6.66, or 6.02 of two arms."""
    family = metarl.make_family("metarl/BernoulliBandit-v0", k=arms)
    rate, batch = (5e-3, 200) if memory == "transformer" else (1e-2, 300)
    settings = {"memory": memory, "hidden": 32 if memory == "gru" else 16, "meta_batch_size": batch}
    agent = metarl.make_agent("rl2", family, seed=seed, learning_rate=rate, **settings)
    metarl.train(agent, 30 if memory == "gru" else 20)
    results = evaluate(agent, k=10, num_tasks=2000, episodes=1, modes=["sampled"], seed=seed, task_seed=seed, paths=0)
    lifetime = results.lifetime_summary()
    assert lifetime is not None
    curve = results.scores["sampled"].mean((0, 1, 3))
    return {
        "lifetime": lifetime["mean"],
        "below Bayes": lifetime["bayes_optimal"] - lifetime["mean"],
        "last pull": curve[9] - curve[0],
    }


PEARL: dict[str, Any] = {"learning_rate": 3e-3, "tasks_per_update": 16, "batch_size": 16, "target_rate": 0.2}


def posterior_navigation(seed: int) -> dict[str, float]:
    """Returns of 20 steps towards held-out goals: gained by training, and then by inferring the goal."""
    settings = PEARL | {"policy_hidden": (64, 64), "encoder_hidden": (64, 64), "latent": 6, "meta_batch_size": 10}
    settings |= {"prior_episodes": 2, "posterior_episodes": 2, "context_size": 40, "replay_tasks": 300, "updates": 40}
    settings |= {"discount": 0.5, "temperature": 0.03, "kl_coef": 1e-4}
    family = metarl.make_family("metarl/PointNavigation-v0", horizon=20)
    agent = metarl.make_agent("pearl", family, seed=seed, **settings)
    returns = []
    for iterations in (0, 25):
        metarl.train(agent, iterations)
        found = evaluate(agent, k=2, num_tasks=50, episodes=4, modes=["sampled"], seed=seed, paths=0)
        returns.append(found.scores["sampled"].mean((0, 1, 3)))
    before, after = returns
    return {"trained": after[2] - before[2], "adapted": after[2] - after[0]}


class Steered(metarl.TorchFamily):
    """A point on its way to the origin; every action is turned by a hidden angle."""

    id = "toy/Steered-v0"
    observation_space = Box(-10.0, 10.0, (2,), np.float32)
    action_space = Box(-1.0, 1.0, (2,), np.float32)
    horizon = 20
    task_space: ClassVar = {"angle": metarl.Uniform(-3.0, 3.0)}

    def reset(self, task: dict[str, Tensor], rng: metarl.Rng) -> Tensor:
        return 2.0 * rng.uniform(2) - 1.0

    def observe(self, state: Tensor, task: dict[str, Tensor]) -> Tensor:
        return state

    def step(self, state: Tensor, action: Tensor, task: dict[str, Tensor], rng: metarl.Rng) -> Any:
        cos, sin, (x, y) = task["angle"].cos(), task["angle"].sin(), (0.2 * action).unbind(1)
        state = state + torch.stack([cos * x - sin * y, sin * x + cos * y], 1)
        distance = state.norm(dim=1)
        return state, -distance, torch.zeros_like(distance, dtype=torch.bool)


def planning(name: str, seed: int, **settings: Any) -> dict[str, float]:
    """The return of 20 steps to the origin with a hidden steering, of which random play has -17.7."""
    sizes: dict[str, Any] = {"meta_batch_size": 20, "trial_episodes": 1, "updates": 150, "hidden": (32, 32)}
    sizes |= {"plan_steps": 6, "candidates": 40, "elites": 5, "past_steps": 8}
    agent = metarl.make_agent(name, Steered(), seed=seed, **sizes, **settings)
    metarl.train(agent, 3)
    found = evaluate(agent, k=1, num_tasks=20, episodes=2, modes=["sampled"], seed=seed, paths=0)
    returns = found.scores["sampled"].mean((0, 1, 3))
    return {"first": float(returns[0]), "second": float(returns[1])}


def context_bandits(name: str, seed: int, **settings: Any) -> dict[str, float]:
    """Of 10 pulls of two arms random play collects 5.0, the Bayes optimum 6.02."""
    sizes = {"policy_hidden": (32,), "meta_batch_size": 20, "updates": 20, "replay_tasks": 400}
    sizes |= {"prior_episodes": 10, "posterior_episodes": 5, "context_size": 5, "discount": 0.0, "temperature": 0.02}
    agent = metarl.make_agent(name, 'metarl/BernoulliBandit-v0{"k": 2}', seed=seed, **(PEARL | sizes | settings))
    metarl.train(agent, 40)
    return pulls(agent, seed)


def beliefs_off_policy(seed: int) -> dict[str, float]:
    """Of 10 pulls of five arms random play collects 5.0, the Bayes optimum 6.66."""
    settings: dict[str, Any] = {"trial_episodes": 10, "hidden": 32, "latent": 3, "decoder_hidden": (16,)}
    settings |= {"meta_batch_size": 100, "replay_trials": 5000, "model_learning_rate": 1e-2, "model_batch_size": 50}
    settings |= {"policy_hidden": (32,), "learning_rate": 3e-3, "target_rate": 0.01, "temperature": 0.03}
    settings |= {"discount": 0.9, "updates": 40, "batch_trials": 40}
    agent = metarl.make_agent("varibad_off_policy", "metarl/BernoulliBandit-v0", seed=seed, **settings)
    metarl.train(agent, 60)
    return pulls(agent, seed)


def deceived(seed: int) -> dict[str, float]:
    """20 pulls: the safe arm pays 10.0 in all, Thompson sampling of it and three others 15.0."""
    settings: dict[str, Any] = {"trial_episodes": 20, "explore_episodes": 6, "hidden": 32, "meta_batch_size": 300}
    settings |= {"minibatches": 4, "normalize_rewards": True, "entropy_coef": 0.05, "expected_rewards": True}
    agent = metarl.make_agent("first_explore", 'metarl/DeceptiveBandit-v0{"k": 4}', seed=seed, **settings)
    metarl.train(agent, 50)
    results = evaluate(agent, k=20, num_tasks=3000, episodes=1, modes=["sampled"], seed=seed, task_seed=seed, paths=0)
    lifetime = results.lifetime_summary()
    assert lifetime is not None
    collected = results.collected.mean((0, 1))  # of each pull
    return {"lifetime": lifetime["mean"], "last pull": collected[-1], "first pull": collected[0]}


def pulls(agent: Any, seed: int) -> dict[str, float]:
    """What 10 pulls collect, and by how much the last is better than the first."""
    results = evaluate(agent, k=10, num_tasks=2000, episodes=1, modes=["sampled"], seed=seed, task_seed=seed, paths=0)
    lifetime, curve = results.lifetime_summary(), results.scores["sampled"].mean((0, 1, 3))
    assert lifetime is not None
    return {"lifetime": lifetime["mean"], "last pull": curve[10] - curve[0]}


def digits(seed: int) -> dict[str, float]:
    """Of 15 labels of 3 classes, 5.0 are right by chance, and 13.83 at the Bayes optimum."""
    agent = metarl.make_agent("prototypes", "metarl/Digits-v0", seed=seed)
    metarl.train(agent, 150)
    results = evaluate(agent, k=0, num_tasks=500, episodes=1, modes=["deterministic"], seed=seed, task_seed=seed)
    return {"right": float(results.scores["deterministic"].mean())}


def inference(seed: int) -> dict[str, float]:
    """Two arms, 20 pulls: the error is 1 under the prior, 2 / (m + 2) of an arm's posterior mean after m pulls."""
    settings = {"trial_episodes": 20, "meta_batch_size": 200, "hidden": 32, "minibatches": 4, "entropy_coef": 0.1}
    agent = metarl.make_agent("rl2", 'metarl/BernoulliBandit-v0{"k": 2}', seed=seed, task_coef=1.0, **settings)
    losses: list[float] = []
    metarl.train(agent, 50, on_iteration=lambda i, metrics: losses.append(metrics["task_loss"]))
    return {"first": losses[0], "last": sum(losses[-10:]) / 10}


def prediction(seed: int) -> dict[str, float]:
    """Squared errors on sinusoids. Random predictions err by 16, zeros by 4.25; the first by 3.0 at the least.

    E y^2 = E A^2 / 2 = 4.25, of which the mean given x, -2 E A cos(x) / pi, explains
    4 E A^2 E cos^2(x) / pi^2 = 1.25, with E A = 2.55 squared and E cos^2 = 1/2 + sin(10) / 20.
    """
    config = {"trial_episodes": 1, "hidden": 64, "meta_batch_size": 500, "normalize_rewards": True, "discount": 0.5}
    agent = metarl.make_agent("rl2", "metarl/Sinusoid-v0", seed=seed, **config)
    metarl.train(agent, 45)
    trials = PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("test", 3000, seed), seed=seed)
    state = agent.begin(trials.rows, trials.tasks)
    error = -trials.collect(agent, state, 0, Budget(episodes=1))[0].reward[:, :, 0].mean(1)
    return {"first": float(error[0]), "last": float(error[-3:].mean() / error[0])}


def poles(seed: int) -> dict[str, float]:
    """Stable-Baselines3 over redrawn poles: the factor by which they stand longer on held-out ones (in logarithms)."""
    env = VecMonitor(make_sb3_env("metarl/CartPole-v0", 16))
    model = PPO("MlpPolicy", env, n_steps=64, batch_size=256, learning_rate=3e-3, seed=seed, device="cpu")
    held_out = VecMonitor(make_sb3_env("metarl/CartPole-v0", 16, split="test"))
    before, _ = evaluate_policy(model, held_out, 32, deterministic=False)
    quiet(model).learn(6144)
    after, _ = evaluate_policy(model, held_out, 32, deterministic=False)
    return {"untrained": float(before), "trained": math.log(float(after) / float(before))}


NET: dict[str, Any] = {"policy_kwargs": {"net_arch": [16]}}
ALGORITHMS: dict[str, dict[str, Any]] = {
    "PPO": {"n_steps": 64, "batch_size": 64, "learning_rate": 0.03} | NET,
    "DQN": {"learning_starts": 32, "learning_rate": 0.03, "exploration_fraction": 0.5, "batch_size": 32} | NET,
}


def scratch(algorithm: str, seed: int) -> dict[str, float]:
    """One policy for both tasks pays 1/2 on average or less; the best arm pays 1."""
    family = metarl.make_family("metarl/BernoulliBandit-v0", k=3)
    settings = {"algorithm": algorithm, "algorithm_kwargs": ALGORITHMS[algorithm], "steps": 192}
    agent = metarl.make_agent("sb3", family, seed=seed, **settings)
    tasks = family.make_tasks(p=[[0, 0, 1], [1, 0, 0]])
    results = evaluate(agent, tasks, k=2, episodes=20, allow_train_tasks=True, seed=seed)
    mean = results.scores["deterministic"][0].mean((0, 2))
    assert mean[0] <= 0.5
    return {"after": mean[-1]}


TABULAR = ("psrl", "opsrl", "ucrl2", "beb", "epsilon_greedy_mdp", "greedy_mdp")


def finite_mdps(seed: int) -> dict[str, float]:
    """Ten episodes of 10 steps at a mean reward of 1: random earns 100, the paper's baselines 132.8 to 150.2.

    Ten episodes are too few to try 50 state-actions: to keep to the mean is better than to sample (the paper's BEB
    against PSRL: 12 more), and random actions only cost. A prior mean of 0 is that of an action worse than the
    average: the first good one ends the greedy planner's search (the paper's greedy: 134.8), and PSRL searches less,
    which so short a trial rewards (the paper's: 138.1).
    """

    def lifetime(name: str, **overrides: float) -> float:
        agent = metarl.make_agent(name, "metarl/TabularMDP-v0", **overrides)
        settings: dict[str, Any] = {"episodes": 1, "modes": ["sampled"], "paths": 0, "floor_episodes": 1}
        results = evaluate(agent, k=[10], num_tasks=300, seed=seed, task_seed=seed, **settings)
        found = results.lifetime_summary()
        assert found is not None
        return found["mean"]

    earned = {name: lifetime(name) for name in ("random", *TABULAR)}
    return {
        "random": earned["random"],
        "worst": min(earned[name] for name in TABULAR),
        "best": max(earned[name] for name in TABULAR),
        **{f"{name} - psrl": earned[name] - earned["psrl"] for name in TABULAR if name != "psrl"},
        "greedy_mdp - epsilon_greedy_mdp": earned["greedy_mdp"] - earned["epsilon_greedy_mdp"],
        "greedy_mdp from 0": lifetime("greedy_mdp", prior_mean=0.0) - earned["greedy_mdp"],
        "psrl from 0": lifetime("psrl", prior_mean=0.0) - earned["psrl"],
    }


def selection(seed: int) -> dict[str, float]:
    """Pulls of ten arms, which two and twenty taught it: the share of the way to the better member's."""
    families = ('metarl/BernoulliBandit-v0{"k": 2}', 'metarl/BernoulliBandit-v0{"k": 20}')
    taught = {"train_families": families, "meta_batch_size": 50, "learning_rate": 1e-2}
    family = "metarl/BernoulliBandit-v0:k10"
    members = {"members": ("random", "thompson_sampling"), "trial_episodes": 60, "first_episodes": 2}
    agent = metarl.make_agent("learned_selector", family, seed=seed, **taught, **members)
    metarl.train(agent, 10)
    found = []
    for player in (metarl.make_agent("random", family), agent, metarl.make_agent("thompson_sampling", family)):
        results = evaluate(player, k=[60], num_tasks=300, episodes=1, modes=["sampled"], seed=seed, task_seed=seed)
        assert results.lifetime is not None
        found.append(float(results.lifetime.mean()))
    return {"share": (found[1] - found[0]) / (found[2] - found[0])}


STEP = partial(navigation, updates=6, k=1)
# Beside each: mean and standard deviation over seeds 0, ..., 19 on both processors together.
LEARNING = {
    # trained 5.02, 0.53; adapted 5.14, 0.97
    "maml": Learning(partial(STEP, "maml"), {"trained": 1.8, "adapted": 1.0}),
    # trained 3.84, 0.72
    "fomaml": Learning(partial(STEP, "fomaml"), {"trained": 0.7}),
    # trained 5.92, 0.41; adapted 5.59, 0.53
    "anil": Learning(partial(STEP, "anil"), {"trained": 3.8, "adapted": 2.6}),
    # trained 6.41, 0.55
    "cavia": Learning(partial(STEP, "cavia"), {"trained": 3.5}),
    # trained 5.46, 0.45; adapted 5.41, 0.81
    "meta_sgd": Learning(partial(STEP, "meta_sgd"), {"trained": 3.5, "adapted": 2.0}),
    # trained 4.45, 0.62; adapted 5.03, 0.91
    "e_maml": Learning(partial(STEP, "e_maml"), {"trained": 1.7, "adapted": 1.0}),
    # trained 1.16, 0.17
    "maml_pp": Learning(partial(STEP, "maml_pp"), {"trained": 0.4}),
    # trained 0.944, 0.15
    "promp": Learning(partial(STEP, "promp"), {"trained": 0.3}),
    # trained 6.71, 0.39; adapted 5.09, 0.71 (seeds 0, ..., 8)
    "mixture": Learning(partial(STEP, "mixture"), {"trained": 4.0, "adapted": 0.0}),
    # share 1, 0.0071
    "learned_selector": Learning(selection, {"share": 0.9}),
    # trained 5.78, 0.41; adapted 5.54, 0.28 (seeds 0, ..., 7)
    "clustered": Learning(partial(STEP, "clustered"), {"trained": 3.5, "adapted": 3.5}),
    # trained 1.67, 0.22
    "reptile": Learning(partial(navigation, "reptile", 20, 3), {"trained": 0.5}),
    # trained 6.19, 0.35; adapted 5.15, 0.43 (seeds 0, ..., 7)
    "imaml": Learning(partial(STEP, "imaml"), {"trained": 4.5, "adapted": 3.0}),
    # trained 4.85, 0.64
    "pretrained": Learning(partial(navigation, "pretrained", 6, 3), {"trained": 1.8}),
    # trained 5.86, 0.82; adapted 6.34, 0.95 (seeds 0, ..., 7)
    "shared_trunk": Learning(partial(navigation, "shared_trunk", 10, 3), {"trained": 2.0, "adapted": 2.0}),
    # trained 14.6, 0.38; before multi_task 11.2, 0.29
    "task_conditioned": Learning(one_policy, {"trained": 12.5, "before multi_task": 9.5}),
    # trained 3.45, 0.47; adapted 5, 0.69 (seeds 0, ..., 7)
    "pearl": Learning(posterior_navigation, {"trained": 1.0, "adapted": 1.0}),
    # lifetime 5.91, 0.092; last pull 0.125, 0.016 (seeds 0, ..., 7)
    "pearl bandits": Learning(
        partial(context_bandits, "pearl", encoder_hidden=(16,), latent=3, kl_coef=0.01),
        {"lifetime": 5.4, "last pull": 0.02},
    ),
    # lifetime 5.98, 0.075; last pull 0.124, 0.013 (seeds 0, ..., 7)
    "focal": Learning(
        partial(context_bandits, "focal", encoder_hidden=(32, 32), posterior_context=True),
        {"lifetime": 5.4, "last pull": 0.02},
    ),
    # lifetime 6.31, 0.095; last pull 0.183, 0.025 (seeds 0, ..., 7)
    "varibad_off_policy": Learning(beliefs_off_policy, {"lifetime": 5.8, "last pull": 0.06}),
    # lifetime 14, 0.39; last pull 0.788, 0.042; first pull 0.006, 0.021 (seeds 0, ..., 7)
    "first_explore": Learning(deceived, {"lifetime": 11.0, "last pull": 0.6}, {"first pull": 0.4}),
    # first -5.05, 0.8; second -3.8, 0.19 (seeds 0, ..., 7)
    "grbal": Learning(partial(planning, "grbal"), {"first": -10.0, "second": -6.0}),
    # first -4.74, 0.42; second -4.01, 0.33 (seeds 0, ..., 7)
    "rebal": Learning(partial(planning, "rebal", context=32), {"first": -10.0, "second": -6.0}),
    # right 13.8, 0.027
    "prototypes": Learning(digits, {"right": 13.6}),
    # lifetime 6.24, 0.1; below Bayes 0.419, 0.1; last pull 0.173, 0.021
    "rl2 gru": Learning(partial(bandits, "gru", 5), {"lifetime": 5.75, "last pull": 0.08, "below Bayes": -0.05}),
    # lifetime 5.81, 0.09; below Bayes 0.212, 0.09; last pull 0.103, 0.015
    "rl2 lstm": Learning(partial(bandits, "lstm", 2), {"lifetime": 5.4, "last pull": 0.02, "below Bayes": -0.2}),
    # lifetime 5.83, 0.087; below Bayes 0.189, 0.087
    "rl2 transformer": Learning(partial(bandits, "transformer", 2), {"lifetime": 5.3, "below Bayes": -0.35}),
    # first 0.992, 0.04; last 0.488, 0.04
    "rl2 infers": Learning(inference, {"first": 0.8}, {"first": 1.2, "last": 0.85}),
    # first 3.54, 0.089; last 0.367, 0.044
    "rl2 sinusoid": Learning(prediction, {"first": 3.0}, {"first": 4.25, "last": 0.6}),
    # untrained 20.3, 2.1; trained 2.1, 0.29
    "sb3 poles": Learning(poles, {"trained": 0.5}, {"untrained": 32.0}),
    # after 1, 0
    "sb3 PPO": Learning(partial(scratch, "PPO"), {"after": 0.9}),
    # after 1, 0
    "sb3 DQN": Learning(partial(scratch, "DQN"), {"after": 0.9}),
    # random 99.8, 0.88; worst 133, 1.4; best 151, 1.4; opsrl - psrl 1.72, 1; ucrl2 - psrl 17.2, 1.4; beb - psrl
    # 17.9, 1.5; epsilon_greedy_mdp - psrl 14.2, 1.3; greedy_mdp - psrl 15.8, 1.4; greedy_mdp -
    # epsilon_greedy_mdp 1.57, 0.58; greedy_mdp from 0 -20, 1.2; psrl from 0 4.01, 0.89
    "tabular": Learning(
        finite_mdps,
        dict.fromkeys(("ucrl2 - psrl", "beb - psrl", "greedy_mdp - psrl", "epsilon_greedy_mdp - psrl"), 5.0)
        | {"random": 92.0, "worst": 120.0, "opsrl - psrl": -3.0, "greedy_mdp - epsilon_greedy_mdp": -1.0}
        | {"psrl from 0": 0.0},
        {"random": 106.0, "best": 160.0, "greedy_mdp from 0": -12.0},
    ),
}


@pytest.mark.learning
@pytest.mark.parametrize("name", LEARNING)
def test_scores_are_within_their_bounds(name: str) -> None:
    learning = LEARNING[name]
    found = learning.scores(seed=0)
    outside = {k: found[k] for k, margin in learning.margins(found).items() if not margin > 0}
    assert not outside
