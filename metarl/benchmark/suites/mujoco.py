"""MuJoCo's robots: trainings of at most half an hour a seed on one CPU core.

The studies -ppo and -sac are the yardstick: Stable-Baselines3 learns both directions from scratch, with 1, 10 and 100
times the 12,000 environment steps of three adaptation steps (SAC, which is slower, with 1 and 10 times).

Needs `pip install -e '.[mujoco]'`.
"""

from __future__ import annotations

from typing import Any

from metarl.benchmark.suite import Entry, Protocol, Study, Suite

_MAML = {"hidden": (64, 64), "inner_lr": 0.1, "fvp_stride": 5, "meta_batch_size": 20}
# little noise from the start, and an estimator that credits the actions before adaptation (experiments/LOG.md)
_PROMP = {
    **{"hidden": (64, 64), "inner_lr": 0.1, "log_std": -1.0, "meta_batch_size": 10, "episodes": 20},
    **{"eval_steps": 4000},
}
_RL2 = {"hidden": 64, "trial_episodes": 2, "normalize_rewards": True, "gae_lambda": 0.9, "minibatches": 4}
# PPO's settings for robots, tuned on returns in training (experiments/LOG.md): little noise from the start, many
# meta-updates of few trials, gradient steps until the policy has moved, standardised features
_PPO_TUNED = {
    **{"log_std": -1.0, "epochs": 10, "target_kl": 0.02, "normalize_features": True, "normalize_rewards": True},
    **{"discount": 0.97, "gae_lambda": 0.9, "minibatches": 4, "learning_rate": 1e-3, "anneal_iterations": 600},
}
_RL2_TUNED = _PPO_TUNED | {"hidden": 128, "trial_episodes": 2, "meta_batch_size": 20}
# the networks and the belief model of Zintgraf et al. (2020, arXiv:1910.08348) for MuJoCo
_VARIBAD = {
    **{"hidden": 128, "policy_hidden": (128, 128), "decoder_hidden": (64, 32), "kl_coef": 0.1, "model_batch_size": 10},
    **{"elbo_terms": 50, "decoded_steps": 50, "replay_trials": 2000, "trial_episodes": 2, "meta_batch_size": 20},
}
# smaller networks and a larger learning rate than the authors', first looks at train tasks (experiments/LOG.md)
_PEARL = {
    **{"policy_hidden": (256, 256), "encoder_hidden": (128, 128), "learning_rate": 1e-3, "target_rate": 0.01},
    **{"kl_coef": 1e-2, "meta_batch_size": 4, "prior_episodes": 1, "posterior_episodes": 1, "replay_tasks": 1000},
    **{"updates": 100, "tasks_per_update": 4, "batch_size": 64, "context_size": 64},
}
_PPO = {"steps": 4000, "num_envs": 20, "algorithm_kwargs": {"n_steps": 200, "batch_size": 500}}

_SAC = {
    "algorithm": "SAC",
    "steps": 4000,
    "num_envs": 20,
    "algorithm_kwargs": {"learning_starts": 400, "gradient_steps": 20},
}


def _from_scratch(algorithm: str, settings: dict[str, Any], k: tuple[int, ...]) -> Study:
    """A Stable-Baselines3 algorithm in both directions."""
    protocol = Protocol(k=(0, *k), tasks=2, episodes=20)
    return Study("metarl/HalfCheetahDir-v0", {algorithm: Entry("sb3", settings)}, protocol, (0,))


suite = Suite(
    "mujoco",
    {
        "half_cheetah_dir": Study(
            "metarl/HalfCheetahDir-v0",
            {
                "maml": Entry("maml", _MAML | {"episodes": 20, "eval_steps": 4000}, 120),
                "promp": Entry("promp", _PROMP, 250),
                "pretrained": Entry("pretrained", _MAML | {"episodes": 20, "eval_steps": 4000}, 120),
                "multi_task": Entry("multi_task", {"meta_batch_size": 200}, 120),
                "task_conditioned": Entry("task_conditioned", {"meta_batch_size": 200}, 120),
                "random": Entry("random"),
            },
            Protocol(k=3, tasks=2, trials=10, episodes=20),  # a gradient step from other samples is another one
        ),
        "half_cheetah_dir-memory": Study(
            "metarl/HalfCheetahDir-v0",
            {
                "rl2-tuned": Entry("rl2", _RL2_TUNED, 600),
                "pearl": Entry("pearl", _PEARL | {"temperature": 0.1}, 600),
            },
            Protocol(k=1, tasks=2, trials=20, episodes=20),
        ),
        "half_cheetah_dir-ppo": _from_scratch("ppo", _PPO, (1, 3, 10, 30, 100, 300)),
        "half_cheetah_dir-sac": _from_scratch("sac", _SAC, (1, 3, 10, 30)),
        "half_cheetah_vel": Study(
            "metarl/HalfCheetahVel-v0",
            {
                "maml": Entry("maml", _MAML | {"episodes": 10, "eval_steps": 4000}, 60),
                "multi_task": Entry("multi_task", _PPO_TUNED | {"meta_batch_size": 40}, 600),
                "task_conditioned": Entry("task_conditioned", _PPO_TUNED | {"meta_batch_size": 40}, 600),
                "random": Entry("random"),
            },
            Protocol(k=2, tasks=40, episodes=4),
        ),
        "half_cheetah_vel-memory": Study(
            "metarl/HalfCheetahVel-v0",
            {
                "rl2": Entry("rl2", _RL2 | {"meta_batch_size": 80}, 120),
                "rl2-tuned": Entry("rl2", _RL2_TUNED, 600),
                "varibad-tuned": Entry("varibad", _PPO_TUNED | _VARIBAD, 600),
                "pearl": Entry("pearl", _PEARL | {"temperature": 0.05}, 600),
            },
            Protocol(k=1, tasks=40, episodes=4),
        ),
        "ant_dir": Study(
            "metarl/AntDir-v0",
            {
                "maml": Entry("maml", _MAML | {"episodes": 5, "eval_steps": 2000}, 40),
                "random": Entry("random"),
            },
            Protocol(k=2, tasks=20, trials=5, episodes=2),
        ),
        "ant_dir-memory": Study(
            "metarl/AntDir-v0",
            {"rl2-tuned": Entry("rl2", _RL2_TUNED | {"anneal_iterations": 300}, 300)},  # an ant is slow
            Protocol(k=1, tasks=20, episodes=4),
        ),
    },
    "MAML, ProMP, RL2, VariBAD and PEARL on robots that must find out where to, or how fast",
)
