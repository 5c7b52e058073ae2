"""Meta-World: a robot arm learns a manipulation skill; the goal, and in ML10 and ML45 the skill, is hidden.

ML1 varies the placement of object and goal in one environment, ML10 has 10 environments to train and 5 others to test,
ML45 has 45 and 5 (Yu et al. 2019, arXiv:1910.10897; environments, tasks and the reward "v2" of the package metaworld
3.1.1, McLean et al. 2025, arXiv:2505.11289). ML1's presets are "reach", "push" and "pick-place"; another environment is
`metarl/MetaWorldML1-v0{"env_name": "door-open-v3"}`.

Observation: hand position, gripper opening and object poses, now and one step ago, then zeros in place of the goal's
position, which is hidden, `[39]`. Action: displacement of the hand and effort of the gripper, `[4]` in [-1, 1]. Reward:
the package's, dense, 0 to 10; for ML10's environments up to rounding. Start: not random; all episodes of a task start
in the same state. End: none before the horizon of 500. Info: success, as the package reports it for the step. An
evaluation counts an episode as a success if any step is.

Task: "scene", `[7]`, is the number of an environment in `names`, then the package's `rand_vec` (for most environments
the positions of object and goal, in metres), then zeros if `rand_vec` has fewer than 6 numbers. Train tasks are the
package's train tasks and test tasks its test tasks, 50 for each environment, as `metaworld.ML1(env_name, seed=0)` or
`metaworld.ML10(seed=0)` holds them, rounded to float32. They come in a shuffled order that has all environments equally
often and repeats no task before all others have come. The package draws them once per process, which takes a second for
ML1 and half a minute or more for ML45. Version history: v0, first.
"""

from __future__ import annotations

import os
import pickle
import threading
import warnings
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar

import metaworld
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box
from metaworld.env_dict import ALL_V3_ENVIRONMENTS, ML10_V3, ML45_V3
from torch import Tensor

from metarl.devices import cores
from metarl.envs.packages.meta_world_arms import OBSERVATION, begin, camera, make
from metarl.envs.packages.meta_world_skills import Floats
from metarl.envs.packages.meta_world_steps import Arms, States, shared
from metarl.errors import InvalidValueError, did_you_mean, verbatim
from metarl.families.distributions import Array, Uniform
from metarl.families.family import TorchFamily
from metarl.families.tasks import Tasks, content_hash
from metarl.rng import Rng, fold_in, make_key

HORIZON = 500  # the package's environments refuse more steps
GOAL_SEED = 0  # the package's seed for placements, a part of the family's definition
SLACK = 1e-6  # metres: float32 rounds a placement on the border outward
VECTOR = 6  # the longest `rand_vec`


class MetaWorld(TorchFamily):
    """The common part of the three benchmarks.

    A state is a dict of the fields of `metarl.envs.packages.meta_world_steps.States`.

    Args:
        names: the environments, in the order of a scene's first number.
        env_name: the environment of ML1; empty for the others.
        horizon: steps per episode, at most 500.

    Attributes:
        threads: number of threads that step the arms, by default one per core. It changes the speed alone.
    """

    capturable = False
    on_host = True
    threads: int = cores()
    source = "Yu et al. 2019, arXiv:1910.10897; McLean et al. 2025, arXiv:2505.11289 (metaworld 3.1.1)"
    terminates = True  # if its physics fails
    benchmark: ClassVar[str]

    def __init__(self, names: tuple[str, ...], env_name: str, horizon: int) -> None:
        if not (isinstance(horizon, int) and 1 <= horizon <= HORIZON):
            raise InvalidValueError(f"{type(self).__name__}.horizon", horizon, f"a whole number from 1 to {HORIZON}")
        self.names, self.env_name = names, env_name
        self.horizon = horizon
        self.task_space = {"scene": Uniform(-1.0, float(max(1, len(names) - 1)), shape=(1 + VECTOR,))}
        self.observation_space = Box(-np.inf, np.inf, (OBSERVATION,), np.float32)
        self.action_space = Box(-1.0, 1.0, (4,), np.float32)

    def table(self, split: str) -> Floats:
        """All tasks of "train" or "test": `float32 [n, 7]`."""
        return _tables(self.benchmark, self.env_name, self.names)[split]

    def tasks_at(self, split: str, index: npt.NDArray[np.int64], seed: int = 0) -> Tasks:
        """Rows of the split's table, in an order keyed by (split, seed) and the number of the pass over the table."""
        if split not in self.splits:
            raise InvalidValueError("split", split, did_you_mean(split, self.splits))
        table, index = self.table(split), np.array(index, dtype=np.int64)
        passes, position = np.divmod(index, len(table))
        rows = np.empty_like(index)
        for number in np.unique(passes).tolist():
            here = passes == number
            rows[here] = _order(table, make_key("task", self.id, split, seed, number))[position[here]]
        return Tasks(self.id, split, int(seed), index, {"scene": table[rows]}, dict(self.task_space))

    def held_out(self, tasks: Tasks) -> npt.NDArray[np.bool_]:
        """Which tasks are not in the train table, `bool [N]`."""
        return ~self._listed(tasks, "train")

    def make_tasks(self, **values: Any) -> Tasks:
        """Tasks from the user's scenes.

        Raises:
            InvalidValueError: there is no such environment, or it cannot draw this placement.
        """
        tasks = super().make_tasks(**values)
        for row in np.flatnonzero(~(self._listed(tasks, "train") | self._listed(tasks, "test"))):
            check_scene(self.names, tasks.values["scene"][row])
        return tasks

    # --- the functions of a torch family -----------------------------------------------------------------------------

    @property
    def arms(self) -> Arms:
        """What steps the environments in this process."""
        return shared(self.threads, os.getpid())

    def reset(self, task: dict[str, Tensor], rng: Rng) -> dict[str, Tensor]:
        """The package's start of each scene."""
        return _tensors(self.arms.start(*self.scenes(task)), task["scene"].device)

    def observe(self, state: dict[str, Tensor], task: dict[str, Tensor]) -> Tensor:
        """The package's observation, float32 `[N, 39]`."""
        return state["observation"]

    def step(
        self, state: dict[str, Tensor], action: Tensor, task: dict[str, Tensor], rng: Rng
    ) -> tuple[dict[str, Tensor], Tensor, Tensor, dict[str, Tensor]]:
        """One step of .0125 s, with the package's reward and success."""
        device = action.device
        states = States(**{name: tensor.cpu().numpy() for name, tensor in state.items()})
        given = action.detach().float().cpu().numpy()
        after, reward, success, failed = self.arms.step(*self.scenes(task), states, given)
        if failed.any():
            self._warn(failed, task)
        paid, ended, reached = (torch.from_numpy(values).to(device) for values in (reward, failed, success))
        return _tensors(after, device), paid, ended, {"success": reached}

    def _warn(self, failed: npt.NDArray[np.bool_], task: dict[str, Tensor]) -> None:
        """One warning about environments whose physics failed, `bool [N]`."""
        names, vectors = self.scenes(task)
        row, count = int(failed.argmax()), int(failed.sum())
        who = "an arm" if count == 1 else f"{count} arms at once, the first"
        placed = ", ".join(f"{value:.3g}" for value in vectors[row])
        warnings.warn(
            f"{who} of family {self.id} fell apart: MuJoCo found a number beyond 1e10 or no number. Environment "
            f"{names[row]}, placement {placed}. The episode ends there.",
            RuntimeWarning,
            stacklevel=2,
        )

    def frame(
        self, state: dict[str, Any], task: dict[str, Array], size: tuple[int, int] = (256, 256)
    ) -> npt.NDArray[np.uint8]:
        """A picture of one environment by MuJoCo's renderer; arguments as in `TorchFamily.frame`.

        Raises:
            InvalidValueError: no OpenGL is available; the environment variable MUJOCO_GL chooses the library.
        """
        scene = np.asarray(task["scene"], dtype=np.float32)
        lens = camera(self.names[int(scene[0])], tuple(size), os.getpid(), threading.get_ident())
        return lens.picture(np.asarray(state["physics"]), scene[1:])

    def scenes(self, task: dict[str, Tensor]) -> tuple[list[str], Floats]:
        """The environments' names and placements, `[N, 6]`."""
        scene = task["scene"].cpu().numpy()
        return [self.names[number] for number in scene[:, 0].astype(int).tolist()], scene[:, 1:]

    def _listed(self, tasks: Tasks, split: str) -> npt.NDArray[np.bool_]:
        return np.isin(content_hash(tasks.values), content_hash({"scene": self.table(split)}))


class MetaWorldML1(MetaWorld):
    """Meta-World ML1: a robot arm learns one skill, with 50 train and 50 test placements of object and goal.

    Args:
        env_name: the package's name of the environment.
        horizon: steps per episode, at most 500.
    """

    benchmark = "ML1"
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "reach": {"env_name": "reach-v3"},
        "push": {"env_name": "push-v3"},
        "pick-place": {"env_name": "pick-place-v3"},
    }

    def __init__(self, env_name: str = "reach-v3", horizon: int = HORIZON) -> None:
        if env_name not in ALL_V3_ENVIRONMENTS:
            raise InvalidValueError("MetaWorldML1.env_name", env_name, did_you_mean(str(env_name), ALL_V3_ENVIRONMENTS))
        super().__init__((env_name,), env_name, horizon)


class MetaWorldML10(MetaWorld):
    """Meta-World ML10: a robot arm trains on 10 skills and is tested on 5 others, with 50 placements each.

    Args:
        horizon: steps per episode, at most 500.
    """

    benchmark = "ML10"

    def __init__(self, horizon: int = HORIZON) -> None:
        super().__init__((*ML10_V3["train"], *ML10_V3["test"]), "", horizon)


class MetaWorldML45(MetaWorld):
    """Meta-World ML45: a robot arm trains on 45 skills and is tested on 5 others, with 50 placements each.

    Args:
        horizon: steps per episode, at most 500.
    """

    benchmark = "ML45"

    def __init__(self, horizon: int = HORIZON) -> None:
        super().__init__((*ML45_V3["train"], *ML45_V3["test"]), "", horizon)


@cache
def _tables(benchmark: str, env_name: str, names: tuple[str, ...]) -> dict[str, Floats]:
    """The package's tasks of each split, `float32 [n, 7]`."""
    drawn = getattr(metaworld, benchmark)(*([env_name] if env_name else []), seed=GOAL_SEED)
    tables = {}
    for split, tasks in (("train", drawn.train_tasks), ("test", drawn.test_tasks)):
        table = tables[split] = np.zeros((len(tasks), 1 + VECTOR), dtype=np.float32)
        for row, task in zip(table, tasks, strict=True):
            vector = pickle.loads(task.data)["rand_vec"]  # safe, because the package made these bytes in this process
            row[0], row[1 : 1 + len(vector)] = names.index(task.env_name), vector
        table.setflags(write=False)
    return tables


def _order(table: Floats, key: int) -> npt.NDArray[np.int64]:
    """A keyed shuffle of the rows, `[n]`. All environments have m rows before one of them has m + 1."""
    draw = fold_in(key, torch.arange(len(table))).numpy()
    each = len(table) // len(np.unique(table[:, 0]))
    rank = np.empty(len(table), dtype=np.int64)  # rank of a row's draw among the rows of its environment
    rank[np.lexsort((draw, table[:, 0]))] = np.arange(len(table)) % each
    return np.lexsort((draw, rank))


def check_scene(names: tuple[str, ...], scene: Floats) -> None:
    """Refuse a scene, `[7]`, that its environment cannot draw.

    Most environments draw again if the goal is too near the object. With a fixed placement that loop would not end.

    Raises:
        InvalidValueError: the environment's number, a position or the distance is not valid.
    """
    number, vector = float(scene[0]), scene[1:]
    if not (number.is_integer() and 0 <= number < len(names)):
        expected = f"the number of one of {len(names)} environments, from 0"
        raise InvalidValueError("task.scene[0]", verbatim(f"{number:g}"), expected)
    name = names[int(number)]
    env = make(name)
    space = env._random_reset_space
    size = len(space.low)
    outside = (vector[:size] < space.low - SLACK) | (vector[:size] > space.high + SLACK)
    if outside.any() or vector[size:].any():
        zeros = f", then {VECTOR - size} zeros" if size < VECTOR else ""
        expected = f"from {space.low.tolist()} to {space.high.tolist()}{zeros}, for {name}"
        raise InvalidValueError("task.scene[1:]", vector.tolist(), expected)
    begin(env, name, vector)


def _tensors(states: States, device: torch.device) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array).to(device) for name, array in states._asdict().items()}
