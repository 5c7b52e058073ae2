"""Observations and rewards of Meta-World's environments for many rows at once; those of ML10.

They are the package's reward "v2" (metaworld 3.1.1, McLean et al. 2025, arXiv:2505.11289), whose functions take one
environment at a time and longer than its physics. Sums are in another order, and terms with an action are in float64
and not in the action's float32, so rewards differ from the package's by rounding errors (tests compare them). Other
environments use the package's functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from metarl.envs.packages.meta_world_terms import Bools, Doubles, both, gaussian, near, norm, rising, tolerance

Floats = npt.NDArray[np.float32]
Outcome = tuple[Doubles, Bools]  # rewards and successes, `[N]` each


class Named:
    """Numbers of parts of N robots by the names in the package's models.

    Args:
        values: `[N, parts, ...]`.
        numbers: each name's place among the parts.
    """

    def __init__(self, values: Doubles, numbers: Mapping[str, int]) -> None:
        self.values, self.numbers = values, numbers

    def __getitem__(self, name: str) -> Doubles:
        return self.values[:, self.numbers[name]]


class Places(NamedTuple):
    """Where the parts of N robots are: positions `[N, 3]` and angles of joints `[N]` by name."""

    bodies: Named
    sites: Named
    geoms: Named
    joints: Named


class Moment(NamedTuple):
    """What a reward depends on.

    Attributes:
        places: after the step.
        obs: the observation, clipped, float64 `[N, 39]`; without quaternions that are computed from matrices.
        action: `[N, 4]`.
        fixed: what the reset of each row's scene left in the package's environment, by the names of attributes
            (`Skill.attributes`), float64 `[N, ...]`.
    """

    places: Places
    obs: Doubles
    action: Floats
    fixed: Mapping[str, Doubles]


@dataclass(frozen=True)
class Skill:
    """An environment with one object.

    Attributes:
        position: the object's position in the observation, `[N, 3]`.
        quaternion: the body that has the quaternion in the observation, or "rotated" if it is computed from a matrix,
            or None for zeros.
        attributes: of the package's environment that the reward needs, set before an episode and not changed by it
            (none is a view of MuJoCo's arrays).
        reward: rewards, float64 `[N]`, and successes, `[N]`.
    """

    position: Callable[[Places], Doubles]
    quaternion: str | None
    attributes: tuple[str, ...]
    reward: Callable[[Moment], Outcome]


# --- what rewards have in common -------------------------------------------------------------------------------------


def _object(moment: Moment) -> Doubles:
    """Where the object is, by the observation, `[N, 3]`."""
    return moment.obs[:, 4:7]


def _fingers(moment: Moment) -> Doubles:
    """The centre of the fingers, `[N, 3]`."""
    sites = moment.places.sites
    return (sites["rightEndEffector"] + sites["leftEndEffector"]) / 2.0


def _to_object(moment: Moment) -> Doubles:
    """From the fingers to the object, `[N, 3]`."""
    return _object(moment) - _fingers(moment)


def _closing(moment: Moment) -> Doubles:
    """How strongly the gripper is told to close, 0 to 1, `[N]`."""
    return np.clip(moment.action[:, 3].astype(np.float64), 0.0, 1.0)


def _held(moment: Moment, radius: float) -> Bools:
    """Is the object between the fingers and lifted?"""
    lifted = _object(moment)[:, 2] - 0.01 > moment.fixed["obj_init_pos"][:, 2]
    return (norm(_to_object(moment)) < radius) & (moment.obs[:, 3] > 0.0) & lifted


def _around(moment: Moment, radius: float) -> Doubles:
    """How near the fingers are to the object in x and z."""
    margin = norm((moment.fixed["obj_init_pos"] - moment.fixed["init_tcp"])[:, ::2]) - radius
    return near(norm(_to_object(moment)[:, ::2]), radius, margin)


def _between(moment: Moment, low: float, high: float) -> Doubles:
    """Is the object between the pads in y, from `low` to `high` away from each?

    The package measures margins from the pads' positions at the reset, but holds them as views of MuJoCo's arrays. So
    they are the positions now.
    """
    y, bodies = _object(moment)[:, 1], moment.places.bodies
    gaps = (bodies["leftpad"][:, 1] - y, y - bodies["rightpad"][:, 1])
    return both(*(tolerance(gap, low, high, np.abs(np.abs(gap) - 0.05)) for gap in gaps))


def _caged(moment: Moment, low: float, high: float, radius: float) -> Doubles:
    """How well the pads cage the object, `[N]` (`_gripper_caging_reward`).

    Args:
        moment: the moment.
        low: the least distance in y from a pad to the object.
        high: the greatest.
        radius: the greatest distance in x and z from the fingers to the object.
    """
    sides = []
    for pad in ("leftpad", "rightpad"):
        y = moment.places.bodies[pad][:, 1]
        margin = np.abs(np.abs(y - moment.fixed["obj_init_pos"][:, 1]) - high)
        sides.append(tolerance(np.abs(y - _object(moment)[:, 1]), low, high, margin))
    return both(both(*sides), _around(moment, radius))


def _grasped(moment: Moment, caging: Doubles) -> Doubles:
    """How well the gripper closes around the object that it cages."""
    return both(caging, np.where(caging > 0.97, _closing(moment), 0.0))


def _dense(moment: Moment, caging: Doubles) -> Doubles:
    """Half for the cage, half for the grasp."""
    return (_grasped(moment, caging) + caging) / 2.0


def _placed(moment: Moment, radius: float) -> tuple[Doubles, Doubles]:
    """The object's distance to the goal and the reward for it."""
    goal = moment.fixed["_target_pos"]
    distance = norm(_object(moment) - goal)
    return distance, near(distance, radius, norm(moment.fixed["obj_init_pos"] - goal))


# --- the environments ------------------------------------------------------------------------------------------------


def _reach(moment: Moment) -> Outcome:
    goal = moment.fixed["_target_pos"]
    distance = norm(_fingers(moment) - goal)
    return 10.0 * near(distance, 0.05, norm(moment.fixed["hand_init_pos"] - goal)), distance <= 0.05


def _push(moment: Moment) -> Outcome:
    distance, in_place = _placed(moment, 0.05)
    grasp = 2.0 * _dense(moment, _caged(moment, 0.015, 0.05, 0.005))
    held = (norm(_to_object(moment)) < 0.02) & (moment.obs[:, 3] > 0.0)
    reward = grasp + held * (1.0 + grasp + 5.0 * in_place)
    return np.where(distance < 0.05, 10.0, reward), distance <= 0.05


def _pick_place(moment: Moment) -> Outcome:
    distance, in_place = _placed(moment, 0.05)
    grasp = _dense(moment, both(_between(moment, 0.015, 0.05), _around(moment, 0.005)))
    reward = both(grasp, in_place) + _held(moment, 0.02) * (1.0 + 5.0 * in_place)
    return np.where(distance < 0.05, 10.0, reward), distance <= 0.07


def _door_open(moment: Moment) -> Outcome:
    hand, handle = moment.obs[:, :3], _object(moment)
    to_handle = hand - (handle + np.array([-0.05, 0.0, 0.0]))
    beyond = norm(to_handle[:, :2]) - 0.12
    floor = np.where(beyond <= 0.0, 0.0, 0.04 * np.log(np.where(beyond <= 0.0, 1.0, beyond)) + 0.4)
    below = tolerance(floor - hand[:, 2], 0.0, 0.01, floor / 2.0)
    above = np.where(hand[:, 2] >= floor, 1.0, below)
    ready = both(above, near(norm(to_handle - np.array([0.05, 0.03, -0.01])), 0.06, 0.5))
    effort = (np.clip(moment.action[:, 3].astype(np.float64), -1.0, 1.0) + 1.0) / 2.0
    angle = moment.places.joints["doorjoint"]
    opened = 0.2 * (angle < -np.pi / 90.0) + 0.8 * near(np.pi / 2.0 + np.pi / 6.0 + angle, 0.5, np.pi / 3.0)
    success = np.abs(handle[:, 0] - moment.fixed["_target_pos"][:, 0]) <= 0.08
    return np.where(success, 10.0, 2.0 * both(ready, effort) + 8.0 * opened), success


def _drawer_close(moment: Moment) -> Outcome:
    start, goal = moment.fixed["obj_init_pos"], moment.fixed["_target_pos"]
    distance = norm(_object(moment) - goal)
    in_place = near(distance, 0.05, np.abs(norm(start - goal) - 0.05))
    margin = np.abs(norm(start - moment.fixed["init_tcp"]) - 0.005)
    at_handle = tolerance(norm(_to_object(moment)), 0.0, 0.005, margin, gaussian)
    success = distance <= 0.05 + 0.015
    return np.where(success, 10.0, 10.0 * both(both(at_handle, _closing(moment)), in_place)), success


def _button_press_topdown(moment: Moment) -> Outcome:
    button, closed = _object(moment), 1.0 - moment.obs[:, 3]
    distance = norm(_to_object(moment))
    at_button = near(distance, 0.01, norm(button - moment.fixed["init_tcp"]))
    left = np.abs(moment.fixed["_target_pos"][:, 2] - button[:, 2])
    pressed = near(left, 0.005, moment.fixed["_obj_to_target_init"])
    return 5.0 * both(closed, at_button) + (distance <= 0.03) * 5.0 * pressed, left <= 0.024


def _peg_insert_side(moment: Moment) -> Outcome:
    sites, goal, scale = moment.places.sites, moment.fixed["_target_pos"], np.array([1.0, 2.0, 2.0])
    head = sites["pegHead"]
    distance = norm((head - goal) * scale)
    in_place = near(distance, 0.07, norm((moment.fixed["peg_head_pos_init"] - goal) * scale))
    low, high = "bottom_right_corner_collision_box_", "top_left_corner_collision_box_"
    free = both(*(rising(head, sites[low + box], sites[high + box]) for box in ("2", "1")))
    in_place, held = both(in_place, free), _held(moment, 0.08)
    grasp = np.where(held, 1.0, _dense(moment, _caged(moment, 0.0075, 0.03, 0.005)))
    reward = both(grasp, in_place) + held * (1.0 + 5.0 * in_place)
    return np.where(distance <= 0.07, 10.0, reward), distance <= 0.07


def _window_open(moment: Moment) -> Outcome:
    handle, goal = moment.places.sites["handleOpenStart"], moment.fixed["_target_pos"][:, 0]
    distance = np.abs(handle[:, 0] - goal)
    in_place = near(distance, 0.05, np.abs(np.abs(moment.fixed["obj_init_pos"][:, 0] - goal) - 0.05))
    margin = np.abs(norm(moment.fixed["window_handle_pos_init"] - moment.fixed["init_tcp"]) - 0.02)
    at_handle = near(norm(handle - _fingers(moment)), 0.02, margin)
    return 10.0 * both(at_handle, in_place), distance <= 0.05


def _swept(moment: Moment, goal: Doubles, grip: float, radius: float) -> Outcome:
    """The reward of sweep-v3 and sweep-into-v3: goals `[N, 3]`, a pad's play at the object, and `_around`'s radius."""
    distance = norm(_object(moment) - goal)
    in_place = near(distance, 0.05, norm(moment.fixed["obj_init_pos"] - goal))
    caging = both(_between(moment, 0.02, 0.05), _around(moment, radius))
    grasp = (caging + np.where(caging > 0.95, _between(moment, 0.02, 0.02 + grip), 0.0)) / 2.0
    return np.where(distance < 0.05, 10.0, 2.0 * grasp + 6.0 * both(grasp, in_place)), distance <= 0.05


def _sweep(moment: Moment) -> Outcome:
    return _swept(moment, moment.fixed["_target_pos"], 0.01, 0.005)


def _sweep_into(moment: Moment) -> Outcome:
    at_height = np.concatenate([moment.fixed["_target_pos"][:, :2], _object(moment)[:, 2:]], axis=1)
    return _swept(moment, at_height, 0.005, 0.01)


def _basketball(moment: Moment) -> Outcome:
    goal, scale = moment.places.sites["goal"].copy(), np.array([1.0, 1.0, 2.0])  # `_target_pos` is a view of it
    goal[:, 2] = 0.3
    distance = norm((_object(moment) - goal) * scale)
    in_place = near(distance, 0.08, norm((moment.fixed["obj_init_pos"] - goal) * scale))
    held = _held(moment, 0.035)
    grasp = np.where(held, 1.0, _dense(moment, _caged(moment, 0.025, 0.06, 0.005)))
    reward = both(grasp, in_place) + held * (1.0 + 5.0 * in_place)
    return np.where(distance < 0.08, 10.0, reward), distance <= 0.08


def _drawer_open(moment: Moment) -> Outcome:
    handle, goal, scale = _object(moment), moment.fixed["_target_pos"], np.array([3.0, 3.0, 1.0])
    distance = norm(handle - goal)
    start = goal + np.array([0.0, 0.2, 0.0])
    margin = norm((start - moment.fixed["init_tcp"]) * scale)
    at_handle = near(norm((handle - moment.obs[:, :3]) * scale), 0.01, margin)
    return 5.0 * (at_handle + near(distance, 0.02, 0.2)), distance <= 0.03


def _door_close(moment: Moment) -> Outcome:
    handle, goal = _object(moment), moment.fixed["_target_pos"]
    distance = norm(handle - goal)
    in_place = tolerance(distance, 0.0, 0.05, norm(moment.fixed["obj_init_pos"] - goal), gaussian)
    margin = norm(moment.fixed["hand_init_pos"] - handle) + 0.1
    hand_in_place = tolerance(norm(_fingers(moment) - goal), 0.0, 0.25 * 0.05, margin, gaussian)
    return np.where(distance < 0.05, 10.0, 3.0 * hand_in_place + 6.0 * in_place), distance <= 0.08


def _shelf_place(moment: Moment) -> Outcome:
    distance, in_place = _placed(moment, 0.05)
    reward = both(_grasped(moment, _caged(moment, 0.02, 0.05, 0.01)), in_place)
    (x, y, z), goal = _object(moment).T, moment.fixed["_target_pos"]
    low = (z > 0.0) & (z < 0.24) & (goal[:, 0] - 0.15 < x) & (x < goal[:, 0] + 0.15)
    front = goal[:, 1] - 3 * 0.05
    before = low & (front < y) & (y < goal[:, 1])
    depth, height = (np.where(before, part, 0.0) for part in ((y - front) / (3 * 0.05), (0.24 - z) / 0.24))
    in_place = np.clip(in_place - both(depth, height), 0.0, 1.0)
    in_place[low & (y > goal[:, 1])] = 0.0
    reward += _held(moment, 0.025) * (1.0 + 5.0 * in_place)
    return np.where(distance < 0.05, 10.0, reward), distance <= 0.07


def _lever_pull(moment: Moment) -> Outcome:
    lever, goal, start = _object(moment), moment.fixed["_target_pos"], moment.fixed["_lever_pos_init"]
    scale, offset = np.array([4.0, 1.0, 4.0]), np.array([0.0, 0.055, 0.07])
    margin = norm((moment.fixed["init_tcp"] + offset - start) * scale)
    ready = near(norm((moment.obs[:, :3] + offset - lever) * scale), 0.02, margin)
    in_place = near(norm(lever - goal), 0.04, norm(start - goal))
    success = np.abs(-moment.places.joints["LeverAxis"] - np.pi / 2.0) <= np.pi / 24.0
    return 10.0 * both(ready, in_place), success


def _body(name: str, *offset: float) -> Callable[[Places], Doubles]:
    return lambda places: places.bodies[name] + (np.array(offset) if offset else 0.0)


def _site(name: str) -> Callable[[Places], Doubles]:
    return lambda places: places.sites[name]


def _geom(name: str) -> Callable[[Places], Doubles]:
    return lambda places: places.geoms[name]


_MOVED = ("obj_init_pos", "_target_pos")
_CAGED = (*_MOVED, "init_tcp")
SKILLS = {
    "reach-v3": Skill(_body("obj"), "rotated", ("_target_pos", "hand_init_pos"), _reach),
    "push-v3": Skill(_body("obj"), "rotated", _CAGED, _push),
    "pick-place-v3": Skill(_body("obj"), "rotated", _CAGED, _pick_place),
    "door-open-v3": Skill(_geom("handle"), "rotated", ("_target_pos",), _door_open),
    "drawer-close-v3": Skill(_body("drawer_link", 0.0, -0.16, 0.05), None, _CAGED, _drawer_close),
    "button-press-topdown-v3": Skill(
        _body("button", 0.0, 0.0, 0.193),
        "button",
        ("_target_pos", "init_tcp", "_obj_to_target_init"),
        _button_press_topdown,
    ),
    "peg-insert-side-v3": Skill(_site("pegGrasp"), "rotated", (*_CAGED, "peg_head_pos_init"), _peg_insert_side),
    "window-open-v3": Skill(_site("handleOpenStart"), None, (*_CAGED, "window_handle_pos_init"), _window_open),
    "sweep-v3": Skill(_body("obj"), "obj", _CAGED, _sweep),
    "basketball-v3": Skill(_body("bsktball"), "bsktball", ("obj_init_pos", "init_tcp"), _basketball),
    "drawer-open-v3": Skill(
        _body("drawer_link", 0.0, -0.16, 0.0), "drawer_link", ("_target_pos", "init_tcp"), _drawer_open
    ),
    "door-close-v3": Skill(_geom("handle"), "rotated", (*_MOVED, "hand_init_pos"), _door_close),
    "shelf-place-v3": Skill(_body("obj"), "rotated", _CAGED, _shelf_place),
    "sweep-into-v3": Skill(_body("obj"), "rotated", _CAGED, _sweep_into),
    "lever-pull-v3": Skill(_site("leverStart"), "rotated", ("_target_pos", "init_tcp", "_lever_pos_init"), _lever_pull),
}
