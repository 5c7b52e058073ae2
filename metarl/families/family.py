"""Task families: a family is a distribution over MDPs that share their spaces. There are two forms.

`TorchFamily` is the batched form: pure functions over tensors, which run on a CPU or a GPU. `GymFamily` takes any
unmodified Gymnasium environment, a task space, and a rule that applies a task to the environment. Both forms declare
splits, references and horizon in the same way. In neither form does `reset` draw a new task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from torch import Tensor

from metarl.errors import InvalidValueError, did_you_mean
from metarl.families.distributions import Array, Distribution, TaskSpace
from metarl.families.task_spaces import has_few_tasks
from metarl.families.tasks import TaskLike, Tasks, list_tasks, make_tasks, on_side, sample_tasks, shuffled
from metarl.rng import Rng

if TYPE_CHECKING:
    from matplotlib.axes import Axes

State = Any  # a tensor, or a dict or tuple of tensors, each with leading axis N
_SIDES = {"train": 0, "test": 1}


class Queries(NamedTuple):
    """What a belief about the task is asked: the expected rewards of N transitions, which belong to Q queries.

    Attributes:
        obs: `[N, *obs]`, observation before the step.
        action: `[N, *action]`, action of the environment.
        next_obs: `[N, *obs]`, observation after the step.
        query: `int64 [N]`, the query that the transition belongs to, 0, ..., Q - 1. Its transitions have the same
            expected reward in every task.
        one_pays: if in every task exactly one query pays the second of two rewards and the others the first, these two
            rewards; else None.
    """

    obs: Tensor
    action: Tensor
    next_obs: Tensor
    query: Tensor
    one_pays: tuple[float, float] | None = None


class History(NamedTuple):
    """What whole trials have shown, time first, from their first step on; a row is a trial.

    Attributes:
        obs: `[T, R, *obs]`, observation before the step.
        action: `[T, R, *action]`, action of the environment.
        reward: `float32 [T, R]`.
        valid: `bool [T, R]`, False where no step was played.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    valid: Tensor


def mean_of_possible(told: Callable[[int], Tensor], seen: History, answers: Tensor, tolerance: float = 1e-4) -> Tensor:
    """The exact posterior mean if rewards are not random: of equally likely hypotheses, those stay that tell them all.

    Args:
        told: the reward of step t under each hypothesis, `[R, H]`.
        seen: the trials so far.
        answers: what each hypothesis answers to each query, `[H, Q]`.
        tolerance: largest difference of a told reward from the one seen.

    Returns:
        `float64 [T, R, Q]`, before each step.
    """
    possible = seen.valid.new_ones(seen.valid.shape[1], len(answers))
    means = []
    for t in range(len(seen.valid)):
        weight = possible.double()
        means.append(weight @ answers.double() / weight.sum(1, keepdim=True))
        agrees = (told(t) - seen.reward[t].unsqueeze(1)).abs() <= tolerance
        possible = possible & (agrees | ~seen.valid[t].unsqueeze(1))
    return torch.stack(means)


class Family:
    """Base of all families, of both forms.

    Attributes:
        id: full id, `namespace/Name-vN`, followed by `:preset` if one was chosen, and by further keywords as JSON.
        observation_space: of one environment, the same for every task.
        action_space: of one environment, the same for every task.
        horizon: steps after which an episode is truncated.
        task_space: parameter name to distribution.
        ood: out-of-distribution splits: split name to the parameters that differ there, with their distributions.
        terminates: whether `terminated` can ever be true. If False, the engine does not read it.
        switches: whether the task changes within a trial (`metarl.families.switching`).
        presets: preset name to constructor keywords, for papers that use other values.
        source: the paper that defines the family.
    """

    id: str = "custom/Unregistered-v0"
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    horizon: int
    task_space: TaskSpace
    ood: Mapping[str, TaskSpace] = {}
    terminates: bool = True
    switches: bool = False
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    source: str = ""

    @property
    def finite(self) -> bool:
        """Whether the family has so few tasks that its train tasks and test tasks are the same."""
        return has_few_tasks(self.task_space)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that `tasks` accepts."""
        return ("train", "test", *self.ood)

    def as_seen(self, obs: Any) -> Any:
        """An observation of the real environment in the form that agents are given; the same where it is that already.

        A family of Gymnasium environments flattens observations, divides pixels by 255, and leaves keys out.
        """
        return obs

    def tasks(self, split: str, count: int, seed: int = 0, start: int = 0) -> Tasks:
        """Tasks `start, ..., start + count - 1` of (this family, `split`, `seed`)."""
        for name, value, least in (("count of tasks", count, 1), ("number of the first task", start, 0)):
            if not isinstance(value, (int, np.integer)) or not least <= value < 1 << 62:
                raise InvalidValueError(name, value, f"a whole number, at least {least}")
        return self.tasks_at(split, np.arange(start, start + count, dtype=np.int64), seed)

    def tasks_at(self, split: str, index: npt.NDArray[np.int64], seed: int = 0) -> Tasks:
        """Tasks at the given addresses, `int64 [N]`. If all tasks can be listed, each comes once before any repeats."""
        all_tasks = self.listed(split)
        if all_tasks is None:
            return sample_tasks(self.id, self._space(split), split, seed, index, self._side(split))
        tasks = all_tasks[shuffled(self.id, split, seed, index, len(all_tasks))]
        return replace(tasks, seed=int(seed), index=np.array(index, dtype=np.int64))

    def listed(self, split: str) -> Tasks | None:
        """Every task of a split once, or None if there are too many."""
        return list_tasks(self.id, self._space(split), split, self._side(split))

    def _space(self, split: str) -> dict[str, Distribution]:
        if split not in self.splits:
            raise InvalidValueError("split", split, did_you_mean(split, self.splits))
        return dict(self.task_space) | dict(self.ood.get(split, {}))

    def _side(self, split: str) -> int | None:
        """The side of the train-test line on which a split's tasks lie, or None if train and test are not separate."""
        return None if self.finite or has_few_tasks(self._space(split)) else _SIDES.get(split, _SIDES["test"])

    def make_tasks(self, **values: Any) -> Tasks:
        """Tasks from the caller's values: one task, or arrays with a leading axis N. The task space is checked."""
        return make_tasks(self.id, self.task_space, values)

    def resolve(self, task: TaskLike | None, split: str = "train", seed: int = 0, count: int = 1) -> Tasks:
        """Checked tasks from an index into a split, one task's values, or `Tasks`; None is the split's first `count`.

        Raises:
            InvalidValueError: `task` is none of these, or the tasks belong to another family.
        """
        if task is None:
            return self.tasks(split, count, seed)
        if isinstance(task, (int, np.integer)) and not isinstance(task, bool):
            return self.tasks(split, 1, seed, start=int(task))
        if isinstance(task, Mapping):
            return self.make_tasks(**task)
        if not isinstance(task, Tasks):
            raise InvalidValueError("task", task, "an index, a dict of parameter values, or metarl.Tasks")
        if task.family != self.id:
            raise InvalidValueError("family of the tasks", task.family, repr(self.id))
        return task

    def held_out(self, tasks: Tasks) -> npt.NDArray[np.bool_]:
        """Which tasks training can never draw, `bool [N]`. Their content decides, so custom tasks have a side too."""
        if self.finite or has_few_tasks(tasks.space):
            return np.full(len(tasks), tasks.split in self.ood)
        return on_side(tasks, _SIDES["test"])

    def references(self, tasks: Tasks) -> dict[str, npt.NDArray[np.float64]]:
        """Exact expected returns of one episode for each task, `[N]`, by name. A family gives those that it knows.

        `floor` is the return of uniformly random actions. `informed_optimum` is the best return if the task is known.
        """
        return {}

    def bayes_optimal_return(self, episodes: int) -> float | None:
        """The best expected return of a trial of `episodes` episodes if the task is unknown; None if not computed."""
        return None

    def bayes_optimal_episodes(self, episodes: int) -> npt.NDArray[np.float64] | None:
        """Expected return of each episode, `[episodes]`, of a Bayes-optimal policy; None if not computed."""
        return None

    def queries(self) -> Queries | None:
        """What beliefs about the task are asked; None if the exact posterior is not known."""
        return None

    def posterior(self, seen: History) -> Tensor:
        """The exact posterior mean reward of each of the `queries` before each step, `float64 [T, R, Q]`.

        It is given what the trial has shown before the step, its earlier episodes included, and the task space as the
        prior.
        """
        raise NotImplementedError(f"{type(self).__name__}.posterior")

    def landmarks(self, tasks: Tasks) -> npt.NDArray[np.float32] | None:
        """One point per task, `[N, 2]`, that pictures of 2-D observations mark; None if there is none."""
        return None


def _batch_of_one(tree: State) -> State:
    """NumPy arrays, or a dict or tuple of them, as tensors with a leading axis of 1."""
    if isinstance(tree, Mapping):
        return {k: _batch_of_one(v) for k, v in tree.items()}
    return tuple(_batch_of_one(v) for v in tree) if isinstance(tree, tuple) else torch.as_tensor(tree)[None]


class TorchFamily(Family):
    """A family as pure functions over one flat batch of N environments.

    Task leaves are `[N, *shape]`, and `rng.uniform(2)` is `[N, 2]`. Actions are `float32 [N, *shape]` for a Box space
    and `int64 [N]` for a Discrete space. Subclasses set the class attributes of `Family` and implement `reset`,
    `observe` and `step`. These functions never branch on the values of a tensor and never copy one to the host
    (`.item()`), so a GPU never has to wait.

    Attributes:
        capturable: whether rollouts may be captured as CUDA graphs (`metarl.engine.cuda_graphs`). `reset`, `observe`
            and `step` then make no tensor from Python numbers and index with no mask, and the tensors that the family
            keeps stay at the same address.
        on_host: whether the functions call a library that runs on the CPU, such as MuJoCo. They are then neither traced
            nor captured, and may copy tensors to the host.
    """

    capturable: bool = True
    on_host: bool = False

    def reset(self, task: dict[str, Tensor], rng: Rng) -> State:
        """Start an episode and return its state, tensors `[N, ...]`."""
        raise NotImplementedError(f"{type(self).__name__}.reset")

    def begin_at(self, task: dict[str, Tensor], rng: Rng, episode: int) -> State:
        """Start episode number `episode` (from 0) of a trial. By default all episodes start alike, by `reset`."""
        return self.reset(task, rng)

    def next_episode(self, state: State, task: dict[str, Tensor], rng: Rng) -> State:
        """Start the next episode of a trial; the last one ended in `state`. By default it starts by `reset`."""
        return self.reset(task, rng)

    def observe(self, state: State, task: dict[str, Tensor]) -> Tensor:
        """The observation that the agent receives: `[N, *observation_space.shape]`."""
        raise NotImplementedError(f"{type(self).__name__}.observe")

    def step(
        self, state: State, action: Tensor, task: dict[str, Tensor], rng: Rng
    ) -> tuple[State, Tensor, Tensor] | tuple[State, Tensor, Tensor, dict[str, Tensor]]:
        """Take one step and return the new state, `reward` `float32 [N]`, `terminated` `bool [N]`, and optionally info.

        Info may hold `success`, `bool [N]`. If rewards are random, it may hold `expected_reward`, `float32 [N]`: the
        mean of this step's reward given the state, the action and the task. If rewards are sparse, it may hold
        `dense_reward`, `float32 [N]`: another reward of this step with the same aim. Training may use both; `act` never
        sees them.
        """
        raise NotImplementedError(f"{type(self).__name__}.step")

    def optimal_action(self, state: State, task: dict[str, Tensor], t: Tensor) -> Tensor:
        """The best action at step `t` (`int64 [N]`) of the episode if the task is known. Optional."""
        raise NotImplementedError(f"{type(self).__name__}.optimal_action")

    @property
    def has_optimal_action(self) -> bool:
        """Whether `optimal_action` is implemented."""
        return type(self).optimal_action is not TorchFamily.optimal_action

    def draw(self, axes: Axes, state: State, task: dict[str, Array]) -> None:
        """Draw one environment. Optional.

        By default a 2-D observation is drawn as a point, and any other observation as bars.

        Args:
            axes: empty matplotlib Axes without ticks.
            state: state of one environment, NumPy arrays without the leading axis.
            task: task of that environment, NumPy arrays without the leading axis.
        """
        env = {k: torch.as_tensor(v)[None] for k, v in task.items()}
        obs = self.observe(_batch_of_one(state), env)[0].numpy().reshape(-1)
        if len(obs) != 2:
            axes.bar(range(len(obs)), obs, color="#0072B2")
            return
        low, high = np.min([obs, np.full(2, -1.5)], axis=0), np.max([obs, np.full(2, 1.5)], axis=0)
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
        axes.plot(*obs, "o", color="#0072B2", markersize=10)

    def frame(
        self, state: State, task: dict[str, Array], size: tuple[int, int] = (256, 256)
    ) -> npt.NDArray[np.uint8] | None:
        """A picture of one environment, `uint8 [height, width, 3]`, or None (the default): then `draw` makes it.

        Args:
            state: as in `draw`.
            task: as in `draw`.
            size: height and width in pixels.
        """
        return None


def check_family_fields(family: Family) -> None:
    """Check a family's declarations without running its functions.

    Raises:
        InvalidValueError: an attribute is missing or has a wrong type or value.
    """
    name = type(family).__name__
    for field in ("observation_space", "action_space", "horizon", "task_space"):
        if not hasattr(family, field):
            raise InvalidValueError(f"{name}.{field}", None, "to be set, as a class attribute or in __init__")
    for field in ("observation_space", "action_space"):
        if not isinstance(getattr(family, field), spaces.Space):
            raise InvalidValueError(f"{name}.{field}", getattr(family, field), "a gymnasium.spaces.Space")
    if not isinstance(family.horizon, int) or family.horizon < 1:
        raise InvalidValueError(f"{name}.horizon", family.horizon, "a whole number of steps, at least 1")
    labelled: Sequence[tuple[str, TaskSpace]] = [("task_space", family.task_space), *family.ood.items()]
    for label, space in labelled:
        check_task_space(f"{name}.{label}", space)
    for label, space in family.ood.items():
        if label in _SIDES or not set(space) <= set(family.task_space):
            raise InvalidValueError(f"{name}.ood[{label!r}]", sorted(space), f"some of {sorted(family.task_space)}")


def check_task_space(field: str, space: object) -> None:
    """Refuse a value that is not a dict from parameter name to distribution."""
    if not isinstance(space, Mapping) or not space:
        raise InvalidValueError(field, space, "a dict from parameter name to distribution, not empty")
    for key, dist in space.items():
        if not isinstance(dist, Distribution):
            raise InvalidValueError(f"{field}[{key!r}]", dist, f"a metarl distribution{_suggestion(dist)}")


def _suggestion(value: object) -> str:
    """The distribution that the user may have meant by a value that is not a distribution."""
    if isinstance(value, (tuple, list)) and value:
        numbers = len(value) == 2 and all(isinstance(x, (int, float)) for x in value) and value[0] < value[1]
        return f": Uniform({value[0]}, {value[1]})?" if numbers else f": Choice({list(value)})?"
    return " such as Uniform(0, 1)"
