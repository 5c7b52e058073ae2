"""MiniGrid (Chevalier-Boisvert et al. 2023, arXiv:2306.13831): RL2 with convolutions in mazes that it has never seen.

The score is the return of each of three episodes in the same layout and of the whole trial, with sampled actions. Every
meta-update draws new layouts. `oracle` knows the layout and goes the shortest way, which a search finds. Episodes of
door_key are cut after 150 steps; the package allows 640.

The studies -ppo are the yardstick: Stable-Baselines3's PPO learns 10 of the held-out layouts from scratch.

Needs `pip install -e '.[minigrid]'`.
"""

from __future__ import annotations

from metarl.benchmark.suite import Entry, Protocol, Study, Suite

EPISODES = 3
# tuned on returns in training (experiments/LOG.md)
_RL2 = {
    **{"hidden": 128, "trial_episodes": EPISODES, "meta_batch_size": 64, "normalize_rewards": True, "gae_lambda": 0.95},
    **{"minibatches": 4, "learning_rate": 2e-3, "discount": 0.97},
}


def _study(family: str, iterations: int, entropy: float) -> Study:
    """A maze, RL2 with a weight of the entropy bonus, and what it is compared with."""
    entries = {
        "rl2": Entry("rl2", _RL2 | {"anneal_iterations": iterations, "entropy_coef": entropy}, iterations),
        "random": Entry("random"),
        "oracle": Entry("oracle"),
    }
    return Study(family, entries, Protocol(k=(EPISODES,), tasks=1000, episodes=1, modes=("sampled",)))


def _ppo(family: str) -> Study:
    """PPO from scratch; an adaptation step has 1,000 environment steps."""
    kwargs = {"n_steps": 100, "batch_size": 250, "learning_rate": 1e-3, "gamma": 0.97, "ent_coef": 0.01}
    entry = Entry("sb3", {"steps": 1000, "num_envs": 10, "algorithm_kwargs": kwargs})
    protocol = Protocol(k=(0, 1, 3, 10, 30, 100), tasks=10, episodes=20, modes=("sampled",))
    return Study(family, {"ppo": entry}, protocol, (0,))


_FOUR_ROOMS = 'metarl/MiniGrid-v0:four_rooms{"image": true}'
_DOOR_KEY = 'metarl/MiniGrid-v0:door_key{"horizon": 150, "image": true}'

suite = Suite(
    "mini_grid",
    {
        "four_rooms-n3": _study(_FOUR_ROOMS, 300, 0.003),
        "four_rooms-ppo": _ppo(_FOUR_ROOMS),
        # random actions reach the goal in one of a thousand episodes: the bonus keeps them random until they have
        "door_key-n3": _study(_DOOR_KEY, 150, 0.01),
        "door_key-ppo": _ppo(_DOOR_KEY),
    },
    "RL2 with convolutions in MiniGrid's four rooms, and with a door and a key",
)
