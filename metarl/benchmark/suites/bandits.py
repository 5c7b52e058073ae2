"""Bernoulli bandits beside their exact optima: n pulls of k arms, lifetime return, exploration included.

The bandits, the classical agents and the cells are those of Duan et al. (2016, arXiv:1611.02779, table 1). Each is
played on 20,000 held-out bandits with sampled actions; at n = 10 each has ten trials, because 20,000 trials have an
interval of .016. `oracle` is shown the task. The classical agents learn each task from scratch, so they are the
yardstick of this suite: in the studies k5-scratch and k10-scratch, two of them play up to 1,000 pulls. Their
hyperparameters were chosen on train tasks (`python experiments/tune.py`).

The studies whose names begin with "deceptive" are the bandits with one fixed arm of Norman and Clune (2024,
arXiv:2307.02276, table 1), in which exploring costs at first. Thompson sampling is given their prior.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metarl.benchmark.suite import Entry, Protocol, Study, Suite, tuned

CLASSICAL = ("gittins", "thompson_sampling", "optimistic_thompson_sampling", "ucb1", "epsilon_greedy", "greedy")
# changed algorithms that reproduce published columns where the algorithm as it is defined does not
_CHANGED = {
    "thompson_sampling-beta22": Entry("thompson_sampling", {"prior_a": 2.0, "prior_b": 2.0}),
    "optimistic_thompson_sampling-5": Entry("optimistic_thompson_sampling", {"samples": 5}),
}
_SEEDS = (0, 1, 2)
# a bandit pays for exploration late
_LATE = {"gae_lambda": 0.95, "discount": 1.0, "entropy_coef": 0.02}
_GRU = _LATE | {"hidden": 64, "normalize_rewards": True, "reward_coef": 1.0, "max_grad_norm": 2.0}
# training uses what the simulator knows; returns then have less noise and need less discounting by gae_lambda
_SHOWN = {"expected_rewards": True, "value_sees_task": True, "task_coef": 1.0, "gae_lambda": 0.99}
_SHORT = _GRU | {"meta_batch_size": 1000, "entropy_coef": 0.01, "entropy_anneal": 0.5}
_LONG = _GRU | {"meta_batch_size": 500}
_TRANSFORMER = {"memory": "transformer", "hidden": 64, "minibatches": 4, "learning_rate": 1e-3, "reward_coef": 1.0}
# at most 20 of the 100 pulls explore
_FIRST_EXPLORE: dict[str, Any] = {
    **{"trial_episodes": 100, "explore_episodes": 20, "anneal_iterations": 600, "meta_batch_size": 500},
    **{"hidden": 64, "normalize_rewards": True, "expected_rewards": True, "entropy_coef": 0.03},
}


def _rl2(n: int, settings: Mapping[str, Any], iterations: int) -> Entry:
    """RL2 on trials of n pulls."""
    return Entry("rl2", {"trial_episodes": n, "anneal_iterations": iterations, **settings}, iterations)


_TRAINED = {
    (10, 5): _rl2(10, _SHORT, 1600),
    (10, 10): _rl2(10, _SHORT, 1600),
    (10, 50): _rl2(10, _SHORT | _SHOWN | {"entropy_anneal": 0.7}, 800),
    (100, 5): _rl2(100, _LONG, 500),
    (100, 10): _rl2(100, _LONG | _SHOWN | {"entropy_coef": 0.05, "entropy_anneal": 0.8}, 1200),
    # fewer trials with the same number of steps in a batch
    (500, 5): _rl2(500, _LONG | _SHOWN | {"meta_batch_size": 100, "entropy_coef": 0.03, "entropy_anneal": 0.7}, 300),
}


def _entries(n: int, k: int) -> dict[str, Entry]:
    """The agents on n pulls of k arms."""
    out = {"rl2": _TRAINED[n, k]} if (n, k) in _TRAINED else {}
    if (n, k) == (100, 10):
        more = {"normalize_rewards": True, "max_grad_norm": 2.0, "meta_batch_size": 1000}
        out["rl2-transformer"] = _rl2(n, _TRANSFORMER | more | _LATE, 500)
    for name in CLASSICAL:
        settings = tuned(f"bandits/n{n}-k{k}", name)
        out[name] = Entry(name, settings | ({"trial_episodes": n} if name == "gittins" else {}))
    return out | (_CHANGED if k < 50 and n < 500 else {}) | {"random": Entry("random"), "oracle": Entry("oracle")}


def _study(n: int, k: int) -> Study:
    """Trials of n pulls of k arms."""
    family = "metarl/BernoulliBandit-v0" + (f":k{k}" if k != 5 else "")
    trials = 10 if n == 10 else 1
    protocol = Protocol(k=(n,), tasks=20_000, episodes=1, trials=trials, modes=("sampled",), compact=True)
    return Study(family, _entries(n, k), protocol, _SEEDS, checkpoint_every=50)


def _deceptive(study: str, preset: str) -> Study:
    """100 pulls of a safe arm and nine hidden ones, with normal rewards."""
    entries = {
        "rl2": _rl2(100, _LONG, 300),
        "first_explore": Entry("first_explore", _FIRST_EXPLORE, 600),
        "gaussian_thompson_sampling": Entry("gaussian_thompson_sampling"),
        "ucb1": Entry("ucb1", tuned(f"bandits/{study}", "ucb1")),
        "ucb1-c1": Entry("ucb1", {"c": 1.0}),
    }
    entries |= {"random": Entry("random"), "oracle": Entry("oracle")}
    protocol = Protocol(k=(100,), tasks=20_000, episodes=1, modes=("sampled",), compact=True)
    return Study(f"metarl/DeceptiveBandit-v0{preset}", entries, protocol, _SEEDS, checkpoint_every=50)


def _scratch(k: int) -> Study:
    """The yardstick: agents that learn from scratch, with up to 100 times the pulls of the shortest trials."""
    family = "metarl/BernoulliBandit-v0" + (f":k{k}" if k != 5 else "")
    protocol = Protocol(
        (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000), tasks=20_000, episodes=1, modes=("sampled",), compact=True
    )
    names = ("ucb1", "thompson_sampling")
    return Study(family, {name: Entry(name, tuned(f"bandits/n500-k{k}", name)) for name in names}, protocol, (0,))


_DECEPTIVE = {"deceptive-n100": "", "deceptive_control-n100": ":control"}

suite = Suite(
    "bandits",
    {f"n{n}-k{k}": _study(n, k) for n in (10, 100, 500) for k in (5, 10, 50)}
    | {f"k{k}-scratch": _scratch(k) for k in (5, 10)}
    | {study: _deceptive(study, preset) for study, preset in _DECEPTIVE.items()},
    "RL2 and six classical agents on n pulls of k arms, beside the Gittins index; First-Explore on deceptive bandits",
)
