"""Grid worlds with a hidden goal: GridNavi (Zintgraf et al. 2020, arXiv:1910.08348), DarkRoom and DarkKeyToDoor.

The score is the return of each episode of a trial and of the whole trial, with sampled actions.
"""

from __future__ import annotations

from metarl.benchmark.suite import Entry, Protocol, Study, Suite

_RL2 = {"normalize_rewards": True, "gae_lambda": 0.8, "entropy_coef": 0.01, "hidden": 64}


def _study(family: str, episodes: int, batch: int, iterations: int, tasks: int, compact: bool = False) -> Study:
    """A grid, RL2 on trials of some episodes, and what it is compared with."""
    settings = _RL2 | {"trial_episodes": episodes, "anneal_iterations": iterations, "meta_batch_size": batch}
    entries = {
        "rl2": Entry("rl2", settings, iterations),
        "random": Entry("random"),
        "oracle": Entry("oracle"),
    }
    protocol = Protocol(k=(episodes,), tasks=tasks, episodes=1, modes=("sampled",), compact=compact)
    return Study(family, entries, protocol, checkpoint_every=50)


suite = Suite(
    "grids",
    {
        "grid_navi-n4": _study("metarl/GridNavi-v0", 4, 320, 200, 20_000, compact=True),
        "dark_room-n8": _study("metarl/DarkRoom-v0", 8, 128, 200, 2000),
        "dark_key_to_door-n8": _study("metarl/DarkKeyToDoor-v0", 8, 64, 200, 2000),
    },
    "RL2 on grids with a hidden goal",
)
