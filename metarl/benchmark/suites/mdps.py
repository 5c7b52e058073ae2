"""Tabular MDPs: n episodes of 10 steps, lifetime return, exploration included.

The MDPs, the classical agents and the cells are those of Duan et al. (2016, arXiv:1611.02779, table 2). Each is played
on 20,000 held-out MDPs with sampled actions. Rows "-prior0" have the paper's wrong prior mean of rewards, 0. The
classical agents learn each task from scratch, so they are the yardstick of this suite: in the study `scratch`, two of
them play up to 250 episodes in 2,000 of the MDPs. `oracle` is shown the task.
Hyperparameters of the classical agents were chosen on train tasks (`python experiments/tune.py`).
"""

from __future__ import annotations

from typing import Any

from metarl.benchmark.suite import Entry, Protocol, Study, Suite, tuned

CLASSICAL = ("psrl", "opsrl", "ucrl2", "beb", "epsilon_greedy_mdp", "greedy_mdp")
_SEEDS = (0, 1, 2)
_GRU = {"hidden": 128, "meta_batch_size": 100, "minibatches": 4, "gae_lambda": 0.8, "entropy_coef": 0.05}
_TRANSFORMER = {
    **{"memory": "transformer", "hidden": 64, "minibatches": 4, "gae_lambda": 0.8, "entropy_coef": 0.03},
    **{"learning_rate": 1e-3, "normalize_rewards": True, "reward_coef": 1.0, "max_grad_norm": 2.0},
    # training uses what the simulator knows
    **{"expected_rewards": True, "value_sees_task": True},
}


def _rl2(n: int, settings: dict[str, Any], iterations: int, begins_with: str = "") -> Entry:
    """RL2 on trials of n episodes."""
    lengths = {"trial_episodes": n, "anneal_iterations": iterations}
    return Entry("rl2", lengths | settings, iterations, begins_with=begins_with)


def _entries(n: int) -> dict[str, Entry]:
    """The agents on n episodes."""
    out = {}
    if n == 10:
        out["rl2"] = _rl2(n, _GRU | {"normalize_rewards": True}, 700)
        out["rl2-transformer"] = _rl2(n, _TRANSFORMER | {"meta_batch_size": 100, "entropy_anneal": 0.8}, 700)
    if n == 25:  # goes on from the training on shorter trials
        less = {"meta_batch_size": 200, "entropy_anneal": 0.8, "learning_rate": 5e-4}
        out["rl2-transformer"] = _rl2(n, _TRANSFORMER | less, 80, "n10/rl2-transformer")
    study = f"mdps/n{n}"
    out |= {name: Entry(name, tuned(study, name)) for name in CLASSICAL}
    if n <= 25:
        wrong = {f"{name}-prior0": (name, {"prior_mean": 0.0}) for name in CLASSICAL if name != "beb"}
        out |= {row: Entry(name, settings | tuned(study, row)) for row, (name, settings) in wrong.items()}
    return out | {"random": Entry("random"), "oracle": Entry("oracle")}


def _study(n: int) -> Study:
    """Trials of n episodes."""
    protocol = Protocol(k=(n,), tasks=20_000, episodes=1, modes=("sampled",), compact=True)
    return Study("metarl/TabularMDP-v0", _entries(n), protocol, _SEEDS, checkpoint_every=50)


def _scratch() -> Study:
    """The yardstick: agents that learn from scratch, with up to 25 times the episodes of the shortest trials."""
    protocol = Protocol(k=(1, 2, 5, 10, 25, 50, 100, 250), tasks=2000, episodes=1, modes=("sampled",), compact=True)
    entries = {name: Entry(name, tuned("mdps/n100", name)) for name in ("psrl", "ucrl2")}
    return Study("metarl/TabularMDP-v0", entries, protocol, (0,))


suite = Suite(
    "mdps",
    {f"n{n}": _study(n) for n in (10, 25, 50, 75, 100)} | {"scratch": _scratch()},
    "RL2 and six classical agents on n episodes of tabular MDPs",
)
