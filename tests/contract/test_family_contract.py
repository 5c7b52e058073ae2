"""The contract of every registered family, and planted bugs: each must give its own sentence and no other."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from cases import SHORT, contract_family, contract_ids
from gymnasium.spaces import Box, Dict

import metarl
from metarl.contract.family_contract import check_family
from metarl.families.family import Queries
from metarl.families.tasks import sample_tasks
from metarl.global_rng import random_states


@pytest.mark.filterwarnings("ignore:note.*shows the task:metarl.FamilyWarning")  # a cue, an object's place: meant
@pytest.mark.parametrize("family", contract_ids(presets=True))
def test_registered_families_keep_the_contract(family):
    built = contract_family(family)
    assert check_family(family if built.horizon != SHORT else built) == []


class Reach(metarl.TorchFamily):
    """A point on a line at 0 is pushed by at most 1 per step; the reward is -(x - goal)^2 after the push.

    |goal| <= 1, so the best push reaches it at once and every reward of the informed optimum is 0.
    """

    observation_space = Box(-np.inf, np.inf, (1,), np.float32)
    action_space = Box(-1.0, 1.0, (1,), np.float32)
    horizon = 5
    task_space: ClassVar = {"goal": metarl.Uniform(-1.0, 1.0)}
    ood: ClassVar = {"far": {"goal": metarl.Uniform(2.0, 3.0)}}
    terminates = False

    def reset(self, task, rng):
        return {"x": torch.zeros_like(task["goal"])}

    def observe(self, state, task):
        return state["x"].unsqueeze(1)

    def step(self, state, action, task, rng):
        x = state["x"] + action.squeeze(1)
        reward = -((x - task["goal"]) ** 2)
        return {"x": x}, reward, torch.zeros_like(reward, dtype=torch.bool)

    def optimal_action(self, state, task, t):
        return (task["goal"] - state["x"]).unsqueeze(1)

    def references(self, tasks):
        return {"informed_optimum": np.zeros(len(tasks))}


class TwoReaches(Reach):
    """As `Reach`, with a second parameter that matters and an unbounded action."""

    action_space = Box(-np.inf, np.inf, (1,), np.float32)
    task_space: ClassVar = {"goal": metarl.Uniform(-1.0, 1.0), "bonus": metarl.Choice([0.0, 1.0])}

    def step(self, state, action, task, rng):
        state, reward, terminated = super().step(state, action, task, rng)
        return state, reward + task["bonus"], terminated

    def references(self, tasks):
        return {"informed_optimum": 5.0 * tasks.values["bonus"].astype(float)}


class LateGoal(Reach):
    """Sparse: pays only within .001 of the goal, which random actions do not meet and optimal ones do."""

    def step(self, state, action, task, rng):
        state, reward, terminated = super().step(state, action, task, rng)
        return state, (reward > -1e-6).float(), terminated

    def references(self, tasks):
        return {}


class Believed(Reach):
    """What an action of 0 from 0 pays, by its mean over tasks, whatever was seen."""

    def queries(self):
        nothing = torch.zeros(1, 1)
        return Queries(nothing, nothing, nothing, torch.tensor([0]))

    def posterior(self, seen):
        return torch.full((*seen.reward.shape, 1), -1 / 3, dtype=torch.float64)


@pytest.mark.parametrize("family", [Reach, TwoReaches, LateGoal, Believed])
def test_a_good_family_is_clean(family):
    assert check_family(family()) == []


def test_a_family_that_ends_early_and_says_so_is_clean():
    assert check_family(altered(undeclared_end, terminates=True)) == []


def altered(change, **fields):
    """`Reach` with a step that `change(state, reward, terminated, action, task)` has the last word on."""

    class Broken(Reach):
        def step(self, state, action, task, rng):
            return change(*super().step(state, action, task, rng), action, task)

    for name, value in fields.items():
        setattr(Broken, name, value)
    return Broken()


def nan_reward(state, reward, terminated, action, task):
    return state, torch.where(action.squeeze(1) > 0.5, reward.log(), reward), terminated


def column_reward(state, reward, terminated, action, task):
    return state, reward.unsqueeze(1), terminated


def double_reward(state, reward, terminated, action, task):
    return state, reward.double(), terminated


def float_terminated(state, reward, terminated, action, task):
    return state, reward, terminated.float()


def undeclared_end(state, reward, terminated, action, task):
    return state, reward, state["x"] > 1.0


def reads_back(state, reward, terminated, action, task):
    return state, reward * float(action.isfinite().all().item()), terminated


def branches(state, reward, terminated, action, task):
    return state, reward if action.isfinite().all() else -reward, terminated


def elsewhere(state, reward, terminated, action, task):
    return state, reward * torch.ones(len(reward)), terminated


def torch_global(state, reward, terminated, action, task):
    return state, reward + torch.rand(()), terminated


def numpy_global(state, reward, terminated, action, task):
    return state, reward + float(np.random.rand()), terminated  # noqa: NPY002 - the bug


def python_global(state, reward, terminated, action, task):
    return state, reward + random.random(), terminated


def own_generator(state, reward, terminated, action, task):
    return state, reward + float(np.random.default_rng().random()), terminated


def batch_mean(state, reward, terminated, action, task):
    return state, reward - reward.mean(), terminated


def moves_goal(state, reward, terminated, action, task):
    task["goal"] += 0.1 * action.squeeze(1)
    return state, reward, terminated


def raises(state, reward, terminated, action, task):
    raise ZeroDivisionError("by what?")


@pytest.mark.parametrize(
    ("change", "fields", "sentence"),
    [
        (nan_reward, {}, ("the reward is nan at step", "expected finite numbers")),
        (column_reward, {}, ("shape of the reward of Broken.step", "(8, 1), expected (8,)")),
        (double_reward, {}, ("dtype of the reward of", "is torch.float64, expected torch.float32")),
        (float_terminated, {}, ("dtype of the terminated of Broken.step", "torch.float32, expected torch.bool")),
        (undeclared_end, {}, ("terminates is False, but terminated is 1 at step", "declare terminates = True")),
        (reads_back, {}, ("reads_back (test_family_contract.py:", "on the host", "use torch.where")),
        (branches, {}, ("branches (test_family_contract.py:", "on the host", "use torch.where")),
        (elsewhere, {}, ("elsewhere (test_family_contract.py:", "mixing devices", "device=action.device")),
        (torch_global, {}, ("the global random state of torch is changed", "draw from rng")),
        (numpy_global, {}, ("the global random state of numpy is changed", "draw from rng")),
        (python_global, {}, ("the global random state of random is changed", "draw from rng")),
        (own_generator, {}, ("a rollout with equal keys is different (reward", "draw from rng")),
        (
            batch_mean,
            {"references": metarl.Family.references},
            ("train task 0 alone and in a batch of 8 is different",),
        ),
        (moves_goal, {}, ("task.goal is modified in place by step", "let step compute a new tensor")),
        (raises, {}, ("raises (test_family_contract.py:", "ZeroDivisionError: by what?", "correct raises")),
    ],
)
def test_a_broken_step_gives_its_sentence(change, fields, sentence):
    only(check_family(altered(change, **fields)), "Broken: ", *sentence)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda state, reward, terminated, action, task: (state, reward),
            r"is 2 values, expected \(state, reward, term",
        ),
        (
            lambda state, reward, terminated, action, task: reward,
            r"is 'Tensor', expected \(state, reward, terminated\)",
        ),
        (lambda state, reward, terminated, *_: (state, reward, terminated, reward), "fourth value of Broken.step "),
    ],
)
def test_a_step_of_another_form_is_a_sentence_wherever_it_is_played(change, said, scratch_registry):
    scratch_registry.register_family("tests/Form-v0", lambda: altered(change))
    only(check_family("tests/Form-v0"), "of Broken.step " if "fourth" in said else "what Broken.step returns")
    with pytest.raises(metarl.InvalidValueError, match=said):
        metarl.train(metarl.make_agent("maml", "tests/Form-v0", meta_batch_size=2, episodes=2), 1)
    envs = gym.make_vec("tests/Form-v0", num_envs=2)
    envs.reset(seed=0)
    with pytest.raises(metarl.InvalidValueError, match=said):
        envs.step(envs.action_space.sample())


class CannotDraw(Reach):
    def draw(self, axes, state, task):
        axes.plot(state["y"])


class CannotDrawLater(Reach):
    """Whose first observation alone can be drawn."""

    def draw(self, axes, state, task):
        assert float(state["x"]) == 0.0, "too far"


class DarkFrame(Reach):
    def frame(self, state, task, size=(256, 256)):
        return np.zeros((*size, 3))


class FlatFrame(Reach):
    def frame(self, state, task, size=(256, 256)):
        return np.zeros(size, np.uint8)


class NoFrame(Reach):
    """Whose picture is drawn."""

    def draw(self, axes, state, task):
        axes.plot([float(state["x"])], [float(task["goal"])], "o")

    def frame(self, state, task, size=(256, 256)):
        return None


@pytest.mark.parametrize(
    ("family", "said"),
    [
        (CannotDraw, ("CannotDraw.draw (test_family_contract.py:", "KeyError: 'y'")),
        (CannotDrawLater, ("CannotDrawLater.draw (test_family_contract.py:", "AssertionError: too far")),
        (DarkFrame, ("what frame returns is float64 [64, 64, 3], expected uint8 [height, width, 3]",)),
        (FlatFrame, ("what frame returns is uint8 [64, 64], expected uint8 [height, width, 3]",)),
    ],
)
def test_a_family_that_cannot_be_drawn_is_found(family, said):
    only(check_family(family()), f"{family.__name__}: ", *said)


def test_a_picture_that_is_drawn_or_left_to_the_default_is_clean():
    assert check_family(NoFrame()) == []


class NoisyReach(Reach):
    """`Reach` whose reward is drawn around what it was; `told(reward, drawn)` is reported as its mean."""

    told = staticmethod(lambda reward, drawn: reward)

    def step(self, state, action, task, rng):
        state, reward, terminated = super().step(state, action, task, rng)
        drawn = reward + rng.normal()
        told = self.told(reward, drawn)
        return state, drawn, terminated, {} if told is None else {"expected_reward": told}

    references = metarl.Family.references


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        (lambda reward, drawn: reward, None),
        (lambda reward, drawn: None, None),
        (lambda reward, drawn: reward + 0.5, "off by +0.5"),
        (lambda reward, drawn: reward + 0.1, "off by +0.1"),
        (lambda reward, drawn: 0.5 * reward, "off by"),
        (lambda reward, drawn: torch.full_like(reward, -1.4), "off by"),
        (lambda reward, drawn: drawn, "another number when the step is drawn again"),
        (lambda reward, drawn: torch.full_like(reward, torch.nan), "not finite"),
    ],
)
def test_expected_rewards_are_means(told, sentence):
    family = NoisyReach()
    family.told = told
    found = check_family(family)
    if sentence is None:
        assert found == []
    else:
        only(found, "NoisyReach: ", "info['expected_reward'] is", sentence, "before anything is drawn")


class Noisy(gym.Env):
    """Ten steps that pay `mean` and noise; `wrong` is added to the mean that is told, in every `every`-th step."""

    observation_space = Box(-1.0, 1.0, (1,), np.float32)
    action_space = Box(-1.0, 1.0, (1,), np.float32)
    mean, wrong, every = 1.0, 0.0, 1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        info = {} if self.t % self.every else {"expected_reward": self.mean + self.wrong}
        return np.zeros(1, np.float32), self.mean + self.np_random.normal(), False, self.t >= 10, info


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [({}, None), ({"wrong": 5.0}, "off by +"), ({"every": 2}, "missing"), ({"every": 100}, None)],
)
def test_expected_rewards_of_gymnasium_environments_are_means(changed, sentence):
    env = type("Changed", (Noisy,), changed)
    found = check_family(metarl.GymFamily(env, {"mean": metarl.Uniform(0.0, 2.0)}, apply="attrs", horizon=10))
    if sentence is None:
        assert found == []
    else:
        only(found, "info['expected_reward'] is", sentence)


def test_expected_rewards_that_are_right_on_average_alone_are_found():
    """Pushes to either side pay alike with opposite signs, and 0 is reported: only a step's two draws tell."""

    class Sided(NoisyReach):
        def step(self, state, action, task, rng):
            state, *_ = Reach.step(self, state, action, task, rng)
            reward = (1.5 + task["goal"]) * action.squeeze(1) + rng.normal()
            told = {"expected_reward": torch.zeros_like(reward)}
            return state, reward, torch.zeros_like(reward, dtype=torch.bool), told

    # E[(1.5 + goal)^2] E[action^2] = (1.5^2 + 1/3) / 3 = .86, whose root is .93
    only(check_family(Sided()), "info['expected_reward'] is off by", " on average and by about 0.9")


def test_means_of_gymnasium_environments_that_are_too_near_their_average_are_found():
    """An environment that pays its action, in [-1, 1], and reports a fifth of it: 0 on average, as it should be."""

    class Shrunk(Noisy):
        def step(self, action):
            *rest, truncated, _ = super().step(action)
            pay = float(self.mean * action[0])
            return rest[0], pay + 0.1 * self.np_random.normal(), rest[2], truncated, {"expected_reward": pay / 5}

    family = metarl.GymFamily(Shrunk, {"mean": metarl.Uniform(1.0, 2.0)}, apply="attrs", horizon=10)
    only(check_family(family, tasks=32), "info['expected_reward'] is off by")


def test_expected_rewards_come_in_every_step():
    class Once(NoisyReach):
        def step(self, state, action, task, rng):
            *rest, info = super().step(state, action, task, rng)
            self.steps = getattr(self, "steps", 0) + 1
            return (*rest, info if self.steps % 5 else {})

    assert "info['expected_reward'] is missing at step" in " ".join(check_family(Once()))


class InPlaceState(Reach):
    def step(self, state, action, task, rng):
        state["x"] += action.squeeze(1)
        return state, -((state["x"] - task["goal"]) ** 2), torch.zeros_like(task["goal"], dtype=torch.bool)


class Counter(Reach):
    """Its state holds a Python number."""

    def reset(self, task, rng):
        return {**super().reset(task, rng), "steps": 0}


class Remembers(Reach):
    """Starts where the goal of the task before was."""

    last = None

    def reset(self, task, rng):
        goal = task["goal"]
        x = torch.zeros_like(goal) if self.last is None or len(self.last) != len(goal) else self.last.to(goal.device)
        self.last = goal.clone()
        return {"x": x}


class Narrow(Reach):
    observation_space = Box(-1.0, 1.0, (1,), np.float32)


class WholeNumbers(Reach):
    observation_space = Box(-100, 100, (1,), np.int64)


class Unusable(Reach):
    observation_space = Dict({"x": Box(-1.0, 1.0, (1,), np.float32)})


class Undeclared(Reach):
    horizon = 0


class Wind(Reach):
    task_space: ClassVar = {"goal": metarl.Uniform(-1.0, 1.0), "wind": metarl.Normal(0.0, 1.0)}


class Optimist(Reach):
    def references(self, tasks):
        return {"informed_optimum": np.ones(len(tasks))}


class Cancelling(Reach):
    """Right on average, wrong for every task."""

    def references(self, tasks):
        return {"informed_optimum": np.where(np.arange(len(tasks)) % 2, 0.5, -0.5)}


class Pessimist(Reach):
    """Knows no optimal action, and promises less than chance."""

    optimal_action = metarl.TorchFamily.optimal_action

    def references(self, tasks):
        return {"informed_optimum": np.full(len(tasks), -100.0)}


class WrongFloor(Reach):
    def references(self, tasks):
        return {"floor": np.full(len(tasks), -0.5)}


class OneReference(Reach):
    def references(self, tasks):
        return {"informed_optimum": np.zeros(1)}


class Squeezed(Believed):
    def posterior(self, seen):
        return super().posterior(seen)[..., 0]


class Foresight(Believed):
    """Knows the reward of the step that is to come."""

    def posterior(self, seen):
        return super().posterior(seen) + 0.1 * seen.reward.unsqueeze(-1)


class NearOod(Reach):
    ood: ClassVar = {"hard": {"goal": metarl.Uniform(0.4, 0.5)}}

    def tasks_at(self, split, index, seed=0):
        return replace(super().tasks_at("train" if split == "hard" else split, index, seed), split=split)


class Lenient(Reach):
    def make_tasks(self, **values):
        return replace(self.tasks("train", 1), values={k: np.array(v) for k, v in values.items()})


class DoubleTasks(Reach):
    def tasks_at(self, split, index, seed=0):
        tasks = super().tasks_at(split, index, seed)
        return replace(tasks, values={"goal": tasks.values["goal"].astype(np.float64) + 1e-12})


class Redrawn(Reach):
    """Another train split each time."""

    calls = 0

    def tasks_at(self, split, index, seed=0):
        self.calls += 1
        return super().tasks_at(split, index, seed + self.calls)


@pytest.mark.parametrize(
    ("family", "sentence"),
    [
        (InPlaceState, ("state.x is modified in place by step", "let step compute a new tensor")),
        (Counter, ("state.steps from reset is int []", "expected Tensor [8, ...]")),
        (Remembers, ("a task set after another one is different (",)),
        (Narrow, ("the observation is", "numbers inside Box(-1.0, 1.0, (1,), float32)", "widen observation_space")),
        (WholeNumbers, ("dtype of the observation is torch.float32, expected torch.int64",)),
        (Unusable, ("observation_space cannot be used", "flatten or encode it")),
        (Undeclared, ("Undeclared.horizon is 0, expected a whole number of steps",)),
        (Wind, ("task parameter 'wind' is without effect on 256 pairs", "use it in reset, observe or step")),
        (Optimist, ("references()['informed_optimum'] is 1 on average", "expected 0, the return of optimal_action")),
        (Cancelling, ("references()['informed_optimum'] is 0 on average over 64 tasks and off by 0.5",)),
        (Pessimist, ("references()['informed_optimum'] is -100 on average", "the return of random actions (at least)")),
        (WrongFloor, ("references()['floor'] is -0.5 on average", "the return of random actions")),
        (OneReference, ("references()['informed_optimum'] is of shape (1,), expected 64 finite numbers",)),
        (Squeezed, ("posterior(seen) is of shape (", "an answer to each query before each step")),
        (Foresight, ("posterior before the first step is not the same in all trials", "the prior's mean")),
        (NearOod, ("ood['hard'] is a split where a train draw could produce", "tasks that train cannot draw")),
        (Lenient, ("make_tasks is taking goal = 1e+30, expected only a number in [-1, 1]",)),
        (Redrawn, ("tasks('train', ...) is other tasks when drawn again", "do not override tasks_at")),
    ],
)
def test_a_broken_family_gives_its_sentence(family, sentence):
    only(check_family(family()), f"{family.__name__}: ", *sentence)


def test_tasks_that_change_in_a_file_are_found():
    found = [s for s in check_family(DoubleTasks()) if "other tasks after a round trip" in s]
    assert [s.split(", expected")[0].rpartition(" ")[2] for s in found] == ["JSON", "npz"] * 3  # train, test, far


def test_splits_that_are_not_disjoint_are_found_through_the_registered_id(scratch_registry):
    scratch_registry.register_family("tests/BrokenSplits-v0", OneSplit)
    found = check_family("tests/BrokenSplits-v0")
    assert ["splits is sharing 256 of 256 tasks of train and test" in s for s in found] == [True, False, False]
    assert all(s.startswith("tests/BrokenSplits-v0: ") for s in found)
    assert ["held_out is True for" in s for s in found[1:]] == [True, False]


class OneSplit(Reach):
    """Train and test are the same draw."""

    ood: ClassVar = {}

    def tasks_at(self, split, index, seed=0):
        return replace(sample_tasks(self.id, self.task_space, "train", seed, index, None), split=split)


def test_a_constructor_that_raises_is_a_sentence_and_a_callers_mistake_an_error(scratch_registry):
    def build():
        raise OSError("no disk")

    scratch_registry.register_family("tests/BrokenBuild-v0", build)
    only(
        check_family("tests/BrokenBuild-v0"),
        "tests/BrokenBuild-v0: build (test_family_contract.py:",
        "OSError: no disk",
    )
    with pytest.raises(metarl.InvalidValueError, match="did you mean 'tests/BrokenBuild-v0'"):
        check_family("tests/BrokenBuilt-v0")
    with pytest.raises(metarl.InvalidValueError, match="tasks is 1, expected at least 2"):
        check_family(Reach(), tasks=1)
    with pytest.raises(metarl.InvalidValueError, match="device is 'gpu', expected one of"):
        check_family(Reach(), device="gpu")


class Line(gym.Env):
    """`Reach` as a Gymnasium environment; the switches plant bugs."""

    action_space = Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, goal=0.0, redraw=False, wide=False, noise="none", carry=False, limit=None):
        self.goal, self.redraw, self.noise, self.carry, self.limit = goal, redraw, noise, carry, limit
        self.observation_space = Box(-np.inf, np.inf, (1 + (wide and goal > 0.0),), np.float32)
        self.x = 0.0

    def set_task(self, task):
        self.goal = task["goal"]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.set_task(options if options and "goal" in options else {"goal": self.goal})
        if self.redraw:
            self.goal = float(self.np_random.uniform(-1.0, 1.0))
        self.x, self.t = self.x if self.carry else 0.0, 0
        return self.seen(), {}

    def seen(self):
        return np.full(self.observation_space.shape, self.x, np.float32)

    def step(self, action):
        self.x += float(action[0])
        self.t += 1
        draws = {"global": np.random.rand, "own": self.np_random.random, "none": float}
        reward = -((self.x - self.goal) ** 2) + draws[self.noise]()
        return self.seen(), reward, False, self.t == self.limit, {}


def line(apply, **bugs):
    space = {"goal": metarl.Uniform(-1.0, 1.0)}
    return metarl.GymFamily(partial(Line, **bugs), space, apply, horizon=5)


APPLY = ["options", "set_task", "kwargs", "attrs", lambda env, task: env.unwrapped.set_task(task)]


@pytest.mark.parametrize("apply", APPLY, ids=[*APPLY[:-1], "callable"])
def test_a_good_gymnasium_family_is_clean(apply):
    assert check_family(line(apply, noise="own")) == []


class Seen(Line):
    """A `Line` that is rendered as `picture`."""

    metadata: ClassVar = {"render_modes": ["rgb_array"]}

    def __init__(self, picture=None, render_mode=None, **keywords):
        super().__init__(**keywords)
        self.picture, self.render_mode = picture, render_mode

    def render(self):
        return self.picture() if self.render_mode else None


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (lambda: np.zeros((8, 6, 3), np.uint8), ()),
        (lambda: np.zeros((8, 6, 3), np.float32), ("what render returns is float32 [8, 6, 3], expected uint8",)),
        (lambda: np.zeros((8, 6, 4), np.uint8), ("what render returns is uint8 [8, 6, 4], expected uint8",)),
        (lambda: None, ("what render returns is NoneType, expected uint8 [height, width, 3]",)),
        (lambda: [][0], ("(test_family_contract.py:", "IndexError: list index out of range")),
    ],
)
def test_an_environment_that_renders_something_else_is_found(picture, said):
    family = metarl.GymFamily(partial(Seen, picture=picture), {"goal": metarl.Uniform(-1.0, 1.0)}, "attrs", horizon=5)
    found = check_family(family)
    if said:
        only(found, "GymFamily: ", *said)
    else:
        assert found == []


@pytest.mark.parametrize(
    ("apply", "bugs", "sentence"),
    [
        ("attrs", {"redraw": True}, ("goal after reset number 1 is", "the task's", "do not draw or change it")),
        ("kwargs", {"redraw": True}, ("task parameter 'goal' is without effect on 32 pairs", "reset keeps it")),
        ("options", {"redraw": True}, ("task parameter 'goal' is without effect on 32 pairs", "reset keeps it")),
        (
            "kwargs",
            {"wide": True},
            ("observation_space for train task", "Box(-inf, inf, (2,), float32)", "the family's"),
        ),
        ("attrs", {"noise": "global"}, ("the global random state of numpy is changed", "self.np_random")),
        ("set_task", {"carry": True}, ("a task that was set and reset twice is different",)),
        ("attrs", {"limit": 3}, ("length of a truncated episode is 3, expected the horizon, 5", "declare horizon=3")),
    ],
)
def test_a_broken_environment_gives_its_sentence(apply, bugs, sentence):
    only(check_family(line(apply, **bugs)), "GymFamily: ", *sentence)


def test_the_callers_random_states_are_left_alone():
    before = random_states()
    check_family(Reach())
    check_family(line("attrs"))
    assert random_states() == before


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_family_that_depends_on_the_device_is_found(device):
    family = altered(lambda state, reward, terminated, action, task: (state, reward + reward.is_cuda, terminated))
    family.references = metarl.Family.references.__get__(family)
    only(check_family(family, device=device), f"a rollout on {device} and on", "let nothing depend on the device")


def only(found, *parts):
    """One sentence, which says all of `parts` and how to fix it."""
    assert len(found) == 1, found
    for part in (*parts, "expected", "to fix it, "):
        assert part in found[0]
