"""Grid worlds with a hidden goal: GridNavi (Zintgraf et al. 2020, arXiv:1910.08348), DarkRoom and DarkKeyToDoor.

And DarkTreasureRooms (Norman and Clune 2024, arXiv:2307.02276), in which exploring costs at first if rho is -4.

The score is the return of each episode of a trial and of the whole trial, with sampled actions. `task_conditioned` is
a policy that is shown the goal, `multi_task` one that is not and has no memory, with the settings of `rl2`. Two rows
have one thing that `rl2` has not: a memory that generates the policy's weights (Beck et al. 2022, arXiv:2210.11348),
and train tasks that the cross-entropy method moves to the hard ones (Greenberg et al. 2023, arXiv:2301.11147). The
studies -ppo are the yardstick: Stable-Baselines3 learns 20 of the held-out tasks from scratch, with 1, 10 and 100 times
the environment steps of a trial.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from metarl.benchmark.suite import Entry, Protocol, Study, Suite

_PPO = {"normalize_rewards": True, "gae_lambda": 0.8, "entropy_coef": 0.01}
_RL2 = _PPO | {"hidden": 64}

# the entropy bonus keeps the policy from sweeping a part of the grid alone (experiments/LOG.md)
_EXPLORING: dict[str, Any] = {
    **{"normalize_rewards": True, "discount": 0.97, "gae_lambda": 0.8, "entropy_coef": 0.04, "entropy_anneal": 0.5},
    **{"learning_rate": 2e-3},
}
_VARIBAD = _EXPLORING | {"policy_hidden": (64, 64), "normalize_features": True, "anneal_model": True}
# as many exploring episodes as in the authors' published training
_FIRST_EXPLORE: dict[str, Any] = {
    **{"explore_episodes": 5, "hidden": 64, "normalize_rewards": True, "entropy_coef": 0.02},
}


def _study(family: str, episodes: int, batch: int, iterations: int, tasks: int, compact: bool = False) -> Study:
    """A grid, RL2 on trials of some episodes, and what it is compared with."""
    settings = _RL2 | {"trial_episodes": episodes, "anneal_iterations": iterations, "meta_batch_size": batch}
    entries = {
        "rl2": Entry("rl2", settings, iterations),
        "task_conditioned": Entry("task_conditioned", iterations=iterations),
        "multi_task": Entry("multi_task", _PPO, iterations),
        "random": Entry("random"),
        "oracle": Entry("oracle"),
    }
    protocol = Protocol(k=(episodes,), tasks=tasks, episodes=1, modes=("sampled",), compact=compact)
    return Study(family, entries, protocol, checkpoint_every=50)


def _treasures(preset: str) -> Study:
    """Ten episodes of Dark Treasure Rooms, agents of three kinds."""
    sizes = {"trial_episodes": 10, "anneal_iterations": 400, "meta_batch_size": 160}
    entries = {
        "rl2": Entry("rl2", _RL2 | sizes, 400),
        "varibad": Entry("varibad", _VARIBAD | sizes, 400),
        "first_explore": Entry("first_explore", _FIRST_EXPLORE | sizes, 400),
        "random": Entry("random"),
        "oracle": Entry("oracle"),
    }
    protocol = Protocol(k=(10,), tasks=2000, episodes=1, modes=("sampled",))
    return Study(f"metarl/DarkTreasureRooms-v0{preset}", entries, protocol, checkpoint_every=50)


def _ppo(family: str, steps: int) -> Study:
    """PPO from scratch; an adaptation step is as long as a trial."""
    kwargs = {"n_steps": steps, "batch_size": steps, "learning_rate": 1e-3}
    entry = Entry("sb3", {"steps": steps, "algorithm_kwargs": kwargs})
    return Study(family, {"ppo": entry}, Protocol(k=(0, 1, 3, 10, 30, 100), tasks=20, episodes=20), (0,))


_GRID_NAVI = _study("metarl/GridNavi-v0", 4, 320, 200, 20_000, compact=True)
# 77 % of the 20 million steps of Zintgraf et al.
_LONG = {"trial_episodes": 4, "anneal_iterations": 800, "meta_batch_size": 320}
_AS_LONG = {
    "rl2-long": Entry("rl2", _EXPLORING | _LONG | {"hidden": 64}, 800),
    "varibad": Entry("varibad", _VARIBAD | _LONG, 800),
}
_PLAIN = _GRID_NAVI.entries["rl2"]
_OTHERWISE = {
    "rl2-hypernetwork": replace(_PLAIN, settings={**_PLAIN.settings, "hypernetwork": True}),
    "rl2-cem": replace(_PLAIN, task_sampler="cem"),
}
_GRID_NAVI = replace(_GRID_NAVI, entries={**_GRID_NAVI.entries, **_AS_LONG, **_OTHERWISE})

suite = Suite(
    "grids",
    {
        "grid_navi-n4": _GRID_NAVI,
        "grid_navi-ppo": _ppo("metarl/GridNavi-v0", 60),
        "dark_room-ppo": _ppo("metarl/DarkRoom-v0", 160),
        "dark_key_to_door-ppo": _ppo("metarl/DarkKeyToDoor-v0", 400),
        "dark_room-n8": _study("metarl/DarkRoom-v0", 8, 128, 200, 2000),
        "dark_key_to_door-n8": _study("metarl/DarkKeyToDoor-v0", 8, 64, 200, 2000),
        "dark_treasure_rooms-n10": _treasures(""),
        "dark_treasure_rooms_rho0-n10": _treasures(":rho0"),
    },
    "RL2, VariBAD and First-Explore on grids with hidden goals",
)
