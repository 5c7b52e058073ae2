"""Few-shot classification of digits: accuracy within one sequence of images, by agents that learn within it.

`digits-n25-k5` shows 25 images of 5 classes, 5 of each on average; `digits-n5-k5` shows 5, so one of each on average.
The score is the number of correct labels. `prototypes` compares embeddings with the labelled images of the sequence
(Snell et al. 2017, arXiv:1703.05175), `rl2` is a memory trained by reinforcement learning alone.
"""

from __future__ import annotations

from metarl.benchmark.suite import Entry, Protocol, Study, Suite

_SEEDS = (0, 1, 2)
_PROTOCOL = Protocol(k=0, tasks=2000, episodes=1)
_RL2 = {"trial_episodes": 1, "normalize_rewards": True, "discount": 0.5}


def _study(shots: int, iterations: int) -> Study:
    """A number of images per class, and what is compared."""
    entries = {
        "prototypes": Entry("prototypes", iterations=iterations),
        "rl2": Entry("rl2", _RL2 | {"anneal_iterations": 300}, 300),
        "random": Entry("random"),
        "oracle": Entry("oracle"),
    }
    return Study(f'metarl/Digits-v0{{"ways": 5, "shots": {shots}}}', entries, _PROTOCOL, _SEEDS)


suite = Suite(
    "few_shot",
    {"digits-n25-k5": _study(5, 1200), "digits-n5-k5": _study(1, 3000)},
    "prototypes and RL2 on few-shot classification of digits",
)
