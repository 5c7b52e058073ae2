"""Classic control with hidden physics: short trainings of MAML and RL2, beside learning from scratch."""

from __future__ import annotations

from metarl.benchmark.suite import Entry, Protocol, Study, Suite

_MAML = {"meta_batch_size": 10, "episodes": 5, "hidden": (64, 64), "fvp_stride": 5, "eval_steps": 2000}
_RL2 = {"hidden": 64, "trial_episodes": 2, "normalize_rewards": True, "gae_lambda": 0.95, "minibatches": 4}


def _study(family: str) -> Study:
    """A family, and the agents that play it."""
    entries = {
        "maml": Entry("maml", _MAML, 50),
        "rl2": Entry("rl2", _RL2 | {"meta_batch_size": 40, "anneal_iterations": 100}, 100),
        "scratch": Entry("scratch", {"hidden": (64, 64), "eval_steps": 2000}, every_seed=True),
        "random": Entry("random"),
    }
    return Study(family, entries, Protocol(k=2, tasks=40, episodes=4))


suite = Suite(
    "control",
    {
        "cart_pole": _study("metarl/CartPole-v0"),
        "pendulum": _study("metarl/Pendulum-v0"),
        "mountain_car": _study("metarl/MountainCarContinuous-v0"),
    },
    "MAML and RL2 on classic control with hidden physics",
)
