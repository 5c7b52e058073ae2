"""Applications: a drug is dosed in patients with hidden kinetics, items are recommended to users with hidden tastes.

RL2 and MAML adapt to the patient or user; `multi_task` is one policy for all of them, `task_conditioned` is shown the
patient's or user's parameters, `oracle` plays the optimum. A trial of RL2 is three courses of doses, or three sessions
of a user; an adaptation step of MAML takes about 4,000 environment steps. Each training takes one to four minutes on
one core.

The studies -ppo are the yardstick: Stable-Baselines3's PPO treats 20 of the held-out patients, or serves 20 of the
held-out users, from scratch. Its settings were chosen on two train tasks of each (experiments/LOG.md).
"""

from __future__ import annotations

from typing import Any

from metarl.benchmark.suite import Entry, Protocol, Study, Suite

_MAML = {"hidden": (64, 64), "meta_batch_size": 20, "episodes": 10, "fvp_stride": 5}
_RL2 = {"hidden": 64, "trial_episodes": 3, "normalize_rewards": True, "gae_lambda": 0.95}
# training uses the clicks' probabilities and the user's preference
_SHOWN = {"expected_rewards": True, "value_sees_task": True, "task_coef": 1.0, "entropy_coef": 0.01}


def _study(family: str, rl2: dict[str, Any], iterations: int) -> Study:
    """A family, and the agents that play it."""
    entries = {
        "rl2": Entry("rl2", _RL2 | rl2 | {"anneal_iterations": iterations}, iterations),
        "maml": Entry("maml", _MAML, 50),
        "multi_task": Entry("multi_task", {"anneal_iterations": 60}, 60),
        "task_conditioned": Entry("task_conditioned", {"anneal_iterations": 60}, 60),
        "random": Entry("random"),
        "oracle": Entry("oracle"),
    }
    return Study(family, entries, Protocol(k=3, tasks=200, episodes=4), (0, 1, 2, 3, 4))


def _ppo(family: str, steps: int, k: tuple[int, ...], **kwargs: float) -> Study:
    """PPO from scratch, with further `algorithm_kwargs`; steps of an adaptation step, which is one batch of PPO."""
    sizes = {"n_steps": steps // 10, "batch_size": steps // 4, "learning_rate": 3e-3}
    entry = Entry("sb3", {"steps": steps, "num_envs": 10, "algorithm_kwargs": {**sizes, **kwargs}})
    return Study(family, {"ppo": entry}, Protocol(k=(0, *k), tasks=20, episodes=20), (0,))


suite = Suite(
    "applications",
    {
        "vancomycin_dosing": _study("metarl/VancomycinDosing-v0", {"meta_batch_size": 320}, 60),
        "vancomycin_dosing-ppo": _ppo("metarl/VancomycinDosing-v0", 240, (1, 3, 10, 30, 100)),
        "recommendation": _study("metarl/Recommendation-v0", _SHOWN | {"meta_batch_size": 100}, 150),
        "recommendation-ppo": _ppo("metarl/Recommendation-v0", 800, (1, 3, 10, 30, 60), gamma=0.9, gae_lambda=0.8),
    },
    "MAML and RL2 on doses of a drug in different patients and on recommendations to different users",
)
