"""Meta-World's ML1: one skill with hidden goals; a short training on a CPU. Needs `pip install -e '.[metaworld]'`."""

from __future__ import annotations

from metarl.benchmark.suite import Entry, Protocol, Study, Suite

_MAML = {"hidden": (64, 64), "inner_lr": 0.1, "fvp_stride": 5, "meta_batch_size": 10, "episodes": 4}

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
    },
    "MAML on Meta-World's ML1-reach",
)
