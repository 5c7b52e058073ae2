"""Meta-World: a robot arm learns a manipulation skill and is not told where the goal is, or which skill it is.

ML1 varies the placement of object and goal in one environment, ML10 has 10 environments to train and 5 others to test,
ML45 has 45 and 5 (Yu et al. 2019, arXiv:1910.10897; environments, tasks and the reward "v2" of the package metaworld
3.1.1, McLean et al. 2025, arXiv:2505.11289). ML1's presets are "reach", "push" and "pick-place"; another environment is
`metarl/MetaWorldML1-v0{"env_name": "door-open-v3"}`.

Observation: hand position, gripper opening and object poses, now and one step ago, then the goal's position, which is
hidden and therefore zeros, `[39]`. Action: displacement of the hand and effort of the gripper, `[4]` in [-1, 1].
Reward: the package's, dense, 0 to 10. Start: nothing is random, all episodes of a task start alike. End: none before
the horizon of 500. Info: success, the package's for that step; an evaluation counts episodes that had it at any step.

Task: "scene", `[7]`, is the number of an environment in `names`, then the package's `rand_vec` (for most environments
the positions of object and goal, in metres), then zeros where that is shorter than 6. Train tasks are the package's
train tasks and test tasks its test tasks, 50 for each environment, as `metaworld.ML1(env_name, seed=0)` or
`metaworld.ML10(seed=0)` holds them, rounded to float32. They come in a shuffled order that serves all environments
equally often, and every task before any task again. The package draws them once in a process, which takes it a second
for ML1 and half a minute or more for ML45. Version history: v0, first.
"""

from __future__ import annotations

import pickle
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar

import gymnasium as gym
import metaworld
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box
from metaworld.env_dict import ALL_V3_ENVIRONMENTS, ML10_V3, ML45_V3
from metaworld.types import Task

from metarl.errors import InvalidValueError, did_you_mean, verbatim
from metarl.families.distributions import Uniform
from metarl.families.gym_family import GymFamily, TaskedEnv
from metarl.families.tasks import Tasks, content_hash
from metarl.rng import fold_in, make_key

HORIZON = 500  # the package's environments refuse a further step
GOAL_SEED = 0  # what the package draws its placements from: part of the definition
VECTOR = 6  # the longest `rand_vec`
OBSERVATION = 39
SLACK = 1e-6  # metres: float32 rounds a placement on the border outward

Floats = npt.NDArray[np.float32]
Arm = Any  # metaworld.sawyer_xyz_env.SawyerXYZEnv


class MetaWorld(GymFamily):
    """What the three benchmarks share.

    Args:
        names: the environments that a scene's first number counts.
        env_name: the environment of ML1; empty for the others.
        horizon: steps per episode, at most 500.
    """

    source = "Yu et al. 2019, arXiv:1910.10897; McLean et al. 2025, arXiv:2505.11289 (metaworld 3.1.1)"
    terminates = False
    benchmark: ClassVar[str]

    def __init__(self, names: tuple[str, ...], env_name: str, horizon: int) -> None:
        if not (isinstance(horizon, int) and 1 <= horizon <= HORIZON):
            raise InvalidValueError(f"{type(self).__name__}.horizon", horizon, f"a whole number from 1 to {HORIZON}")
        self.names, self.env_name = names, env_name
        space = {"scene": Uniform(-1.0, float(max(1, len(names) - 1)), shape=(1 + VECTOR,))}
        super().__init__(Scenes, space, apply="set_task", horizon=horizon, env_kwargs={"names": names})

    def table(self, split: str) -> Floats:
        """All tasks of "train" or "test": `float32 [n, 7]`."""
        return _tables(self.benchmark, self.env_name, self.names)[split]

    def tasks_at(self, split: str, index: npt.NDArray[np.int64], seed: int = 0) -> Tasks:
        """The rows of the split's table in an order keyed by (split, seed), anew for each pass through it."""
        if split not in self.splits:
            raise InvalidValueError("split", split, did_you_mean(split, self.splits))
        table, index = self.table(split), np.array(index, dtype=np.int64)
        number, place = np.divmod(index, len(table))
        rows = np.empty_like(index)
        for which in np.unique(number).tolist():
            here = number == which
            rows[here] = _order(table, make_key("task", self.id, split, seed, which))[place[here]]
        return Tasks(self.id, split, int(seed), index, {"scene": table[rows]}, dict(self.task_space))

    def held_out(self, tasks: Tasks) -> npt.NDArray[np.bool_]:
        """Which tasks are not in the train table, `bool [N]`."""
        return ~self._listed(tasks, "train")

    def make_tasks(self, **values: Any) -> Tasks:
        """Tasks from scenes of your own; refused is a placement outside of what the environment draws from.

        Raises:
            InvalidValueError: no such environment, or it would not play that placement.
        """
        tasks = super().make_tasks(**values)
        for row in np.flatnonzero(~(self._listed(tasks, "train") | self._listed(tasks, "test"))):
            check_scene(self.names, tasks.values["scene"][row])
        return tasks

    def make_env(self, task: Tasks) -> TaskedEnv:
        """One environment that plays `task` (a set of one), and is in it already."""
        env = super().make_env(task)
        env.get_wrapper_attr("set_task")(env.task)
        return env

    def _listed(self, tasks: Tasks, split: str) -> npt.NDArray[np.bool_]:
        return np.isin(content_hash(tasks.values), content_hash({"scene": self.table(split)}))


class MetaWorldML1(MetaWorld):
    """One environment, 50 train and 50 test placements.

    Args:
        env_name: the package's name of the environment.
        horizon: steps per episode, at most 500.
    """

    benchmark = "ML1"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "reach": {"env_name": "reach-v3"},
        "push": {"env_name": "push-v3"},
        "pick-place": {"env_name": "pick-place-v3"},
    }

    def __init__(self, env_name: str = "reach-v3", horizon: int = HORIZON) -> None:
        if env_name not in ALL_V3_ENVIRONMENTS:
            raise InvalidValueError("MetaWorldML1.env_name", env_name, did_you_mean(str(env_name), ALL_V3_ENVIRONMENTS))
        super().__init__((env_name,), env_name, horizon)


class MetaWorldML10(MetaWorld):
    """10 train and 5 test environments, 50 placements each. `horizon`: steps per episode, at most 500."""

    benchmark = "ML10"

    def __init__(self, horizon: int = HORIZON) -> None:
        super().__init__((*ML10_V3["train"], *ML10_V3["test"]), "", horizon)


class MetaWorldML45(MetaWorld):
    """45 train and 5 test environments, 50 placements each. `horizon`: steps per episode, at most 500."""

    benchmark = "ML45"

    def __init__(self, horizon: int = HORIZON) -> None:
        super().__init__((*ML45_V3["train"], *ML45_V3["test"]), "", horizon)


@cache
def _tables(benchmark: str, env_name: str, names: tuple[str, ...]) -> dict[str, Floats]:
    """The package's own tasks, by split."""
    drawn = getattr(metaworld, benchmark)(*([env_name] if env_name else []), seed=GOAL_SEED)
    tables = {}
    for split, tasks in (("train", drawn.train_tasks), ("test", drawn.test_tasks)):
        table = tables[split] = np.zeros((len(tasks), 1 + VECTOR), dtype=np.float32)
        for row, task in zip(table, tasks, strict=True):
            vector = pickle.loads(task.data)["rand_vec"]  # bytes that the package made a moment ago, in this process
            row[0], row[1 : 1 + len(vector)] = names.index(task.env_name), vector
        table.setflags(write=False)
    return tables


def _order(table: Floats, key: int) -> npt.NDArray[np.int64]:
    """A keyed shuffle of the rows, `[n]`, in which the first m of each environment come before the next of any."""
    draw = fold_in(key, torch.arange(len(table))).numpy()
    each = len(table) // len(np.unique(table[:, 0]))
    rank = np.empty(len(table), dtype=np.int64)  # of a row among those of its environment, by its draw
    rank[np.lexsort((draw, table[:, 0]))] = np.arange(len(table)) % each
    return np.lexsort((draw, rank))


class Scenes(gym.Env[Floats, Floats]):
    """The package's environments behind one pair of spaces, whatever the scene.

    An environment takes a tenth of a second to build and 25 MB, so those of a process are shared: one is borrowed while
    its scene is played, and what it was used for leaves no trace.

    Args:
        names: environments by number.
        render_mode: None or "rgb_array".
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 80}  # noqa: RUF012 - as gym.Env has it

    def __init__(self, names: tuple[str, ...], render_mode: str | None = None) -> None:
        self.names, self.render_mode = names, render_mode
        self.observation_space = Box(-np.inf, np.inf, (OBSERVATION,), np.float32)
        self.action_space = Box(-1.0, 1.0, (4,), np.float32)
        self.task: dict[str, Any] = {}
        self._kind: Kind | None = None
        self._arm: Arm = None

    def set_task(self, task: dict[str, Any]) -> None:
        """Play `task["scene"]`, `[7]`, from the next reset on."""
        self.task = task
        kind = (self.names[int(task["scene"][0])], self.render_mode)
        if kind != self._kind:
            self.close()
            self._kind, self._arm = kind, _borrow(kind)
        _place(self._arm, task["scene"][1:])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        """Start an episode; `set_task` comes first."""
        super().reset(seed=seed)
        obs, _ = self._arm.reset()
        return obs.astype(np.float32), {}

    def step(self, action: Floats) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """One step, .0125 s."""
        obs, reward, terminated, truncated, info = self._arm.step(action)
        return obs.astype(np.float32), float(reward), terminated, truncated, {"success": bool(info["success"])}

    def render(self) -> Any:
        """A picture, `uint8 [height, width, 3]`."""
        return self._arm.render()

    def close(self) -> None:
        """Give the environment back; one that renders is closed."""
        if self._kind is not None and self.render_mode is None:
            _idle[self._kind].append(self._arm)
        elif self._kind is not None:
            self._arm.close()
        self._kind = self._arm = None


Kind = tuple[str, str | None]  # the environment's name and its render mode
_idle: defaultdict[Kind, list[Arm]] = defaultdict(list)  # built environments that nobody plays


def _borrow(kind: Kind) -> Arm:
    build: Any = ALL_V3_ENVIRONMENTS[kind[0]]
    return _idle[kind].pop() if _idle[kind] else build(render_mode=kind[1])


def _place(arm: Arm, vector: Floats) -> None:
    """Tell an environment its placement, with the goal hidden: `vector` is `[6]`."""
    wanted = vector[: len(arm._random_reset_space.low)].astype(np.float64)
    data = {"rand_vec": wanted, "env_cls": type(arm), "partially_observable": True}
    arm.set_task(Task(env_name=arm.task_name, data=pickle.dumps(data)))


def check_scene(names: tuple[str, ...], scene: Floats) -> None:
    """Refuse a scene, `[7]`, that its environment cannot draw.

    Most environments draw a goal too near the object again. Given the placement, they would do so for ever.

    Raises:
        InvalidValueError: the environment's number, the range or the distance is wrong.
    """
    number, vector = float(scene[0]), scene[1:]
    if not (number.is_integer() and 0 <= number < len(names)):
        listing = f"the number of one of {len(names)} environments, from 0"
        raise InvalidValueError("task.scene[0]", verbatim(f"{number:g}"), listing)
    name = names[int(number)]
    arm = _borrow((name, None))
    try:
        space = arm._random_reset_space
        size = len(space.low)
        outside = (vector[:size] < space.low - SLACK) | (vector[:size] > space.high + SLACK)
        if outside.any() or vector[size:].any():
            zeros = f", then {VECTOR - size} zeros" if size < VECTOR else ""
            expected = f"from {space.low.tolist()} to {space.high.tolist()}{zeros}, for {name}"
            raise InvalidValueError("task.scene[1:]", vector.tolist(), expected)
        _place(arm, vector)
        arm._get_state_rand_vec = [arm._last_rand_vec].pop  # serves one draw
        try:
            arm.reset_model()
        except IndexError:  # it drew again
            expected = f"a goal further from the object, for {name}"
            raise InvalidValueError("task.scene[1:]", vector.tolist(), expected) from None
        finally:
            del arm._get_state_rand_vec
    finally:
        _idle[name, None].append(arm)
