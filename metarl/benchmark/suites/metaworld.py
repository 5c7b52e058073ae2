"""Meta-World's ML1: one skill with hidden goals; a short training on a CPU.

The study ml1_reach-ppo is the yardstick: Stable-Baselines3 learns five of the held-out goals from scratch, with 1, 10
and 100 times the 2,000 environment steps of an adaptation step.

Needs `pip install -e '.[metaworld]'`.
"""

from __future__ import annotations

from metarl.benchmark.suite import Entry, Protocol, Study, Suite

_MAML = {"hidden": (64, 64), "inner_lr": 0.1, "fvp_stride": 5, "meta_batch_size": 10, "episodes": 4}
_PPO = {"steps": 2000, "num_envs": 4, "algorithm_kwargs": {"n_steps": 500, "batch_size": 250}}

suite = Suite(
    "metaworld",
    {
        "ml1_reach": Study(
            "metarl/MetaWorldML1-v0:reach",
            {
                "maml": Entry("maml", _MAML | {"eval_steps": 5000}, 20),
                "random": Entry("random"),
            },
            Protocol(k=1, tasks=20, episodes=1),
        ),
        "ml1_reach-ppo": Study(
            "metarl/MetaWorldML1-v0:reach",
            {"ppo": Entry("sb3", _PPO)},
            Protocol(k=(0, 1, 3, 10, 30, 100), tasks=5, episodes=1),
            (0,),
        ),
    },
    "MAML on Meta-World's ML1-reach",
)
