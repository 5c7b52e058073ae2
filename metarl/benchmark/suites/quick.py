"""Agents on two families, in minutes on two cores: what a benchmark looks like.

The study navigation-ppo is the yardstick: Stable-Baselines3 learns five of the held-out goals from scratch, with 1 and
10 times the environment steps of three adaptation steps.
"""

from __future__ import annotations

from metarl.benchmark.suite import Entry, Protocol, Study, Suite

_SMALL = {"meta_batch_size": 20, "episodes": 10, "fvp_stride": 5}
_RL2 = {"hidden": 64, "trial_episodes": 10, "anneal_iterations": 60}
_PPO = {"steps": 4000, "num_envs": 20, "algorithm_kwargs": {"n_steps": 100, "batch_size": 500, "learning_rate": 1e-3}}

suite = Suite(
    "quick",
    {
        "navigation": Study(
            "metarl/PointNavigation-v0",
            {
                "maml": Entry("maml", _SMALL, iterations=20),
                "scratch": Entry("scratch", every_seed=True),
                "random": Entry("random"),
                "oracle": Entry("oracle"),
            },
            Protocol(k=3, tasks=20, episodes=10),
            eval_every=5,
        ),
        "navigation-ppo": Study(
            "metarl/PointNavigation-v0",
            {"ppo": Entry("sb3", _PPO)},
            Protocol(k=(0, 1, 3, 10, 30), tasks=5, episodes=10),
            seeds=(0,),
        ),
        "bandit": Study(
            "metarl/BernoulliBandit-v0",
            {
                "rl2": Entry("rl2", _RL2, iterations=60),
                "thompson_sampling": Entry("thompson_sampling"),
                "random": Entry("random"),
                "oracle": Entry("oracle"),
            },
            Protocol(k=(0, 5, 10), tasks=1000, episodes=1, modes=("sampled",)),
            eval_every=15,
        ),
    },
    "three seeds of MAML on 2-D navigation and of RL2 on bandits, beside baselines",
)
