"""Three agents on two families, in minutes on two cores: what a benchmark looks like."""

from __future__ import annotations

from metarl.benchmark.suite import Entry, Protocol, Study, Suite

_SMALL = {"meta_batch_size": 20, "episodes": 10, "fvp_stride": 5}
_RL2 = {"hidden": 64, "trial_episodes": 10, "anneal_iterations": 60}

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
