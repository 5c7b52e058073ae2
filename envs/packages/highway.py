"""Highway driving: overtake in traffic whose density, speed and manners are hidden.

The environment highway-fast-v0 of the package highway-env (Leurent 2018, "An environment for autonomous driving
decision-making", github.com/Farama-Foundation/HighwayEnv), with traffic that differs from task to task. The other
drivers keep their distance by the intelligent driver model (Treiber, Hennecke and Helbing 2000, Physical Review E
62(2)) and change lanes by MOBIL (Kesting, Treiber and Helbing 2007, Transportation Research Record 1999(1)).

Observation: presence, x, y and their velocities of the agent's car, then of the four nearest cars relative to it, all
scaled and clipped by the package, `[25]`. Action: 0 change to the left lane, 1 nothing, 2 change to the right lane, 3
faster, 4 slower; the agent's car drives at 20, 25 or 30 m/s. Reward: the package's, in [0, 1]: for speeds above 20 m/s
and for the lanes on the right. Start: three lanes with 20 other cars, placed at random. End: in a crash, or at the
horizon of 30 steps of 1 s. Task: `density` of the other cars, 1 being the package's; `speed_limit` in m/s, of which the
others begin at 70 to 80 %; `time_gap` in s, which they want to keep to the car in front; `politeness`, the weight of
others' acceleration when they change lanes. Version history: v0, first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
from highway_env.envs.highway_env import HighwayEnvFast
from highway_env.road.road import Road, RoadNetwork

from metarl.errors import InvalidValueError
from metarl.families.distributions import TaskSpace, Uniform
from metarl.families.gym_family import GymFamily

TASK_SPACE: TaskSpace = {
    "density": Uniform(0.7, 1.5),
    "speed_limit": Uniform(25.0, 38.0),
    "time_gap": Uniform(0.5, 2.5),
    "politeness": Uniform(0.0, 1.0),
}
OOD: Mapping[str, TaskSpace] = {"jam": {"density": Uniform(1.6, 2.2)}}
LONGEST = 30  # steps


class Highway(GymFamily):
    """A car overtakes on a highway; density, speed and manners of the traffic are hidden.

    Args:
        horizon: steps per episode, at most 30.
    """

    source = "Leurent 2018, github.com/Farama-Foundation/HighwayEnv"

    def __init__(self, horizon: int = LONGEST) -> None:
        if not (isinstance(horizon, int) and 1 <= horizon <= LONGEST):
            raise InvalidValueError("Highway.horizon", horizon, f"a whole number from 1 to {LONGEST}")
        super().__init__(flat_traffic, TASK_SPACE, apply="set_task", horizon=horizon, ood=OOD)


def flat_traffic(render_mode: str | None = None) -> gym.Env[Any, Any]:
    """`Traffic`, with vectors as observations, and one space of actions; the package makes a new one at each reset."""
    env = gym.wrappers.FlattenObservation(Traffic(render_mode))
    env.action_space = env.action_space
    return env


class Traffic(HighwayEnvFast):  # type: ignore[misc]
    """The package's environment with drivers that a task describes.

    Args:
        render_mode: None or "rgb_array".
    """

    def __init__(self, render_mode: str | None = None) -> None:
        self.task = {"density": 1.0, "speed_limit": 30.0, "time_gap": 1.5, "politeness": 0.0}  # the package's
        super().__init__(render_mode=render_mode)

    def set_task(self, task: Mapping[str, Any]) -> None:
        """Play `task` from the next reset on."""
        self.task = dict(task)

    def _create_road(self) -> None:
        lanes = RoadNetwork.straight_road_network(self.config["lanes_count"], speed_limit=self.task["speed_limit"])
        self.road = Road(network=lanes, np_random=self.np_random)

    def _create_vehicles(self) -> None:
        self.config["vehicles_density"] = self.task["density"]
        super()._create_vehicles()
        for driver in self.road.vehicles:
            if driver not in self.controlled_vehicles:
                driver.TIME_WANTED, driver.POLITENESS = self.task["time_gap"], self.task["politeness"]
