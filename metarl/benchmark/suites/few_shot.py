"""Few-shot classification of digits: accuracy within one sequence of images, by agents that learn within it.

`digits-n25-k5` shows 25 images of 5 classes, 5 of each on average; `digits-n5-k5` shows 5, so one of each on average.
The score is the number of correct labels. `prototypes` compares embeddings with the labelled images of the sequence
(Snell et al. 2017, arXiv:1703.05175), `rl2` is a memory trained by reinforcement learning alone.

The studies -ppo are the yardstick: Stable-Baselines3's PPO learns the labels of 20 of the held-out tasks from scratch,
from the rewards of up to 25,000 images.
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


def _ppo(shots: int) -> Study:
    """PPO from scratch; an adaptation step has 250 images, which do not follow from actions: gamma is 0."""
    kwargs = {"n_steps": 25, "batch_size": 125, "learning_rate": 3e-3, "gamma": 0.0}
    entry = Entry("sb3", {"steps": 250, "num_envs": 10, "algorithm_kwargs": kwargs})
    protocol = Protocol(k=(0, 1, 3, 10, 30, 100), tasks=20, episodes=20)
    return Study(f'metarl/Digits-v0{{"ways": 5, "shots": {shots}}}', {"ppo": entry}, protocol, (0,))


suite = Suite(
    "few_shot",
    {
        "digits-n25-k5": _study(5, 1200),
        "digits-n25-ppo": _ppo(5),
        "digits-n5-k5": _study(1, 3000),
        "digits-n5-ppo": _ppo(1),
    },
    "prototypes and RL2 on few-shot classification of digits",
)
