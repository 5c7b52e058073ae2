"""Meta-World's ML1: one skill with hidden goals; a short training on a CPU.

The study ml1_reach-ppo is the yardstick: Stable-Baselines3 learns five of the held-out goals from scratch, with 10 and
100 times the 5,000 environment steps of an adaptation step of MAML. `multi_task` and `task_conditioned` are policies
that do not adapt, trained on as many environment steps; the second is shown the goal.

Needs `pip install -e '.[metaworld]'`.
"""

from __future__ import annotations

from metarl.benchmark.suite import Entry, Protocol, Study, Suite

_MAML = {"hidden": (64, 64), "inner_lr": 0.1, "fvp_stride": 5, "meta_batch_size": 10, "episodes": 4}
_POLICY = {"hidden": (64, 64), "meta_batch_size": 40, "anneal_iterations": 40, "normalize_rewards": True}
_PPO = {"steps": 2000, "num_envs": 4, "algorithm_kwargs": {"n_steps": 500, "batch_size": 250}}

suite = Suite(
    "metaworld",
    {
        "ml1_reach": Study(
            "metarl/MetaWorldML1-v0:reach",
            {
                "maml": Entry("maml", _MAML | {"eval_steps": 5000}, 20),
                "multi_task": Entry("multi_task", _POLICY, 40),
                "task_conditioned": Entry("task_conditioned", _POLICY, 40),
                "random": Entry("random"),
            },
            Protocol(k=1, tasks=20, episodes=1),
        ),
        "ml1_reach-ppo": Study(
            "metarl/MetaWorldML1-v0:reach",
            {"ppo": Entry("sb3", _PPO)},
            Protocol(k=(0, 1, 3, 10, 25, 100, 250), tasks=5, episodes=1),
            (0,),
        ),
    },
    "MAML on Meta-World's ML1-reach",
)
