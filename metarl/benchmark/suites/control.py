"""Classic control with hidden physics: short trainings of MAML and RL2, beside learning from scratch.

The studies -ppo and -sac are the yardstick: Stable-Baselines3 learns 10 of the held-out tasks from scratch, with 1, 10
and 100 times the 4,000 environment steps of two adaptation steps (SAC, which is slower: four tasks, up to 5 times).
PPO has the library's own settings except for the sizes of its batches; on Pendulum its discount and its learning rate,
and SAC's learning rate, are those of RL Baselines3 Zoo, with which they learn much faster (experiments/LOG.md). On
MountainCarContinuous PPO does not explore: the Zoo's settings need noise that depends on the state, which `sb3` does
not take.

The studies -far play the same trained agents on physics that training never had.
"""

from __future__ import annotations

from metarl.benchmark.suite import Entry, Protocol, Study, Suite

_MAML = {"meta_batch_size": 10, "episodes": 5, "hidden": (64, 64), "fvp_stride": 5, "eval_steps": 2000}
_RL2 = {"hidden": 64, "trial_episodes": 3, "normalize_rewards": True, "gae_lambda": 0.95, "minibatches": 4}


def _study(family: str) -> Study:
    """A family, and the agents that play it."""
    entries = {
        "maml": Entry("maml", _MAML, 50),
        "rl2": Entry("rl2", _RL2 | {"meta_batch_size": 40, "anneal_iterations": 100}, 100),
        "multi_task": Entry("multi_task", iterations=100),
        "task_conditioned": Entry("task_conditioned", iterations=100),
        "scratch": Entry("scratch", {"hidden": (64, 64), "eval_steps": 2000}, every_seed=True),
        "random": Entry("random"),
    }
    return Study(family, entries, Protocol(k=2, tasks=40, episodes=4))


def _far(study: str, family: str) -> Study:
    """The agents of a study on tasks of another distribution."""
    trained = {name: Entry(name, runs_of=f"{study}/{name}") for name in ("maml", "rl2", "multi_task")}
    return Study(family, trained | {"random": Entry("random")}, Protocol(k=2, tasks=40, episodes=4, split="far"))


_PPO, _SIZES = {"steps": 2000, "num_envs": 10}, {"n_steps": 200, "batch_size": 250}


def _ppo(family: str, **kwargs: float) -> Study:
    """PPO from scratch, with further `algorithm_kwargs`; an adaptation step is as long as one of MAML."""
    protocol = Protocol(k=(0, 1, 2, 7, 20, 70, 200), tasks=10, episodes=4)
    settings = {**_PPO, "algorithm_kwargs": {**_SIZES, **kwargs}}
    return Study(family, {"ppo": Entry("sb3", settings)}, protocol, (0,))


# a gradient step for each environment step
_SAC = {"algorithm": "SAC", "steps": 2000, "num_envs": 10}
_SAC_KWARGS = {
    "learning_starts": 200,
    "gradient_steps": 10,
    "learning_rate": 1e-3,
    "policy_kwargs": {"net_arch": [64, 64]},
}


def _sac(family: str) -> Study:
    """SAC from scratch."""
    protocol = Protocol(k=(0, 1, 2, 3, 5, 10), tasks=4, episodes=4)
    return Study(family, {"sac": Entry("sb3", _SAC | {"algorithm_kwargs": _SAC_KWARGS})}, protocol, (0,))


suite = Suite(
    "control",
    {
        "cart_pole": _study("metarl/CartPole-v0"),
        "cart_pole-far": _far("cart_pole", "metarl/CartPole-v0"),
        "cart_pole-ppo": _ppo("metarl/CartPole-v0"),
        "pendulum": _study("metarl/Pendulum-v0"),
        "pendulum-far": _far("pendulum", "metarl/Pendulum-v0"),
        "pendulum-ppo": _ppo("metarl/Pendulum-v0", gamma=0.9, learning_rate=1e-3),
        "pendulum-sac": _sac("metarl/Pendulum-v0"),
        "mountain_car": _study("metarl/MountainCarContinuous-v0"),
        "mountain_car-far": _far("mountain_car", "metarl/MountainCarContinuous-v0"),
        "mountain_car-ppo": _ppo("metarl/MountainCarContinuous-v0"),
    },
    "MAML and RL2 on classic control with hidden physics",
)
