"""Rewards of Meta-World's environments for many rows at once equal the package's, step by step."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("metaworld")

from metaworld.env_dict import ML10_V3
from metaworld.policies import ENV_POLICY_MAP
from metaworld.utils import reward_utils

from metarl.envs.packages.meta_world_arms import make, place
from metarl.envs.packages.meta_world_skills import SKILLS, Moment, Places
from metarl.envs.packages.meta_world_terms import both, gaussian, rising, tolerance

PARTS = ("xpos", "site_xpos", "geom_xpos", "qpos", "xquat")  # of MuJoCo's data
STEPS = 200


def places_of(env, rows):
    """The places of many rows."""
    model = env.model
    joints = [joint for joint in map(model.joint, range(model.njnt)) if len(joint.qposadr) == 1 and joint.type[0] >= 2]
    return Places(
        bodies={model.body(i).name: rows["xpos"][:, i] for i in range(model.nbody)},
        sites={model.site(i).name: rows["site_xpos"][:, i] for i in range(model.nsite)},
        geoms={model.geom(i).name: rows["geom_xpos"][:, i] for i in range(model.ngeom)},
        joints={joint.name: rows["qpos"][:, joint.qposadr[0]] for joint in joints},
    )


def played(name):
    """Two scenes that the package's policy plays, the second with noise: the environment and what each row holds.

    Every second row is a step's, with an observation in which the object lies somewhere else, or with another goal.
    """
    env, policy, rng, rows = make(name), ENV_POLICY_MAP[name](), np.random.default_rng(0), []
    env.touching_object = lambda geom: False  # asked for the info alone, and slow
    low, high = env._random_reset_space.low, env._random_reset_space.high
    for noise in (0.0, 0.3):
        vector = np.zeros(6, np.float32)
        vector[: len(low)] = rng.uniform(low, high)
        place(env, vector)
        obs, _ = env.reset()
        fixed = {key: np.array(vars(env)[key], np.float64) for key in SKILLS[name].attributes}
        views = [getattr(env.data, part) for part in PARTS]
        assert not any(np.shares_memory(vars(env)[key], view) for key in fixed for view in views)
        for t in range(STEPS):
            seen = np.concatenate([obs[:36], env._target_pos])
            action = np.clip(policy.get_action(seen) + noise * rng.normal(size=4), -1, 1).astype(np.float32)
            # in float64, because the package computes some terms in the precision of the action
            obs, reward, _, _, info = env.step(action.astype(np.float64))
            row = {part: np.array(getattr(env.data, part)) for part in PARTS}
            row |= {"position": np.array(env._get_pos_objects()), "quaternion": np.array(env._get_quat_objects())}
            row["fixed"] = fixed
            rows.append({**row, "obs": obs, "action": action, "reward": reward, "success": info["success"]})
            moved, other, goal = obs.copy(), rng.uniform(-1, 1, 4).astype(np.float32), env._target_pos
            moved[3] = rng.uniform() * (t % 4 > 0)
            moved[4:7] = (env.tcp_center, env._target_pos, obs[4:7])[t % 3]
            moved[4:7] += rng.normal(size=3) * (0.2, 0.05, 0.01)[t // 3 % 3]
            if t % 3 == 0 and "_target_pos" in fixed:
                env._target_pos = moved[4:7] + 0.1 * rng.normal(size=3)
                row["fixed"] = {**fixed, "_target_pos": env._target_pos}
            reward, info = env.evaluate_state(moved, other.astype(np.float64))
            env._target_pos = goal
            rows.append({**row, "obs": moved, "action": other, "reward": reward, "success": info["success"]})
    return env, stacked(rows)


def stacked(values):
    if isinstance(values[0], dict):
        return {key: stacked([value[key] for value in values]) for key in values[0]}
    return np.array(values)


@pytest.mark.filterwarnings("ignore:Constant")  # of the policies, whose actions are too large
@pytest.mark.parametrize("name", [*ML10_V3["train"], *ML10_V3["test"]])
def test_rewards_and_successes_are_the_packages(name):
    env, rows = played(name)
    places = places_of(env, rows)
    reward, success = SKILLS[name].reward(Moment(places, rows["obs"], rows["action"], rows["fixed"]))
    np.testing.assert_allclose(reward, rows["reward"], rtol=1e-9, atol=1e-9)
    assert success.dtype == np.bool_
    np.testing.assert_array_equal(success, rows["success"] > 0)
    np.testing.assert_array_equal(SKILLS[name].position(places), rows["position"])
    if (body := SKILLS[name].quaternion) != "rotated":
        theirs = rows["xquat"][:, env.model.body(body).id] if body else np.zeros((len(reward), 4))
        np.testing.assert_array_equal(theirs, rows["quaternion"])
    assert np.ptp(reward[::2]) > 1.0
    assert success[::2].any()
    assert not success.all()


def test_all_of_ml10_is_there():
    assert [*SKILLS] == [*ML10_V3["train"], *ML10_V3["test"]]


def test_terms_where_a_division_by_zero_threatens():
    x, margins = np.array([0.1, 0.2, 0.3, 0.4, 0.4]), np.array([0.0, 0.0, 0.0, 0.0, 0.1])
    assert tolerance(x, 0.2, 0.3, margins)[:4].tolist() == [0.0, 1.0, 1.0, 0.0]
    assert tolerance(x, 0.2, 0.3, margins, gaussian)[:4].tolist() == [0.0, 1.0, 1.0, 0.0]
    for tail, name in ((gaussian, "gaussian"), (None, "long_tail")):
        ours = tolerance(x, 0.2, 0.3, margins, *([tail] if tail else []))
        theirs = [reward_utils.tolerance(a, (0.2, 0.3), margin, name) for a, margin in zip(x, margins, strict=True)]
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    assert both(np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0])).tolist() == [0.0, 0.0, 1.0]


def test_a_box_whose_corners_are_in_any_order():
    x, one, zero = np.array([[0.5, 0.25, 0.5], [0.5, 0.5, 1.5], [0.0, 0.0, 0.0]]), np.ones((3, 3)), np.zeros((3, 3))
    zero[:, 0], one[:, 0] = 1.0, 0.0
    theirs = [reward_utils.rect_prism_tolerance(a, b, c) for a, b, c in zip(x, zero, one, strict=True)]
    assert rising(x, zero, one).tolist() == theirs == [0.0625, 1.0, 0.0]
