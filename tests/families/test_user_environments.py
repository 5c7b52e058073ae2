"""Environments that other people write: what they may return, and what is said when it is something else."""

from __future__ import annotations

import importlib
import re
import sys
import warnings
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import metarl
from metarl import Choice, FamilyWarning, GymFamily, Integers, InvalidValueError, Uniform
from metarl.cli.main import _plain_warnings, main
from metarl.contract.family_probe import Subject
from metarl.contract.notes import visible_tasks, warn_unused_parameters
from metarl.families.legacy import parse_distribution

ONE = spaces.Box(-10.0, 10.0, (1,), np.float32)
PARTS = spaces.Dict({"at": ONE, "colour": spaces.Discrete(3), "goal": spaces.Box(-10.0, 10.0, (2,), np.float32)})


class Walk(gym.Env):
    """A walk on a line, paid by `-(x - goal)^2`; `returned` replaces what a method returns, by its place."""

    observation_space, action_space = ONE, spaces.Box(-1.0, 1.0, (1,), np.float32)
    returned = {}  # noqa: RUF012
    goal = 0.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = float(self.np_random.uniform(-0.1, 0.1)), 0
        out = (self.seen(), {})
        return self.returned.get("reset", out)

    def seen(self):
        return np.float32([self.x])

    def step(self, action):
        self.x += float(action[0])
        self.t += 1
        out = [self.seen(), -((self.x - self.goal) ** 2), False, False, {"is_success": self.x > self.goal}]
        for place, value in self.returned.items():
            if place != "reset":
                out[place] = value
        return tuple(out)


class Parts(Walk):
    """The same with a Dict observation that shows the goal."""

    observation_space = PARTS

    def seen(self):
        return {"at": np.float32([self.x]), "colour": 1, "goal": np.float32([self.goal, -2 * self.goal])}


GOAL = {"goal": Uniform(-1.0, 1.0)}


def family(env, apply="attrs", **keywords):
    return GymFamily(env, GOAL, apply, horizon=6, stepping="sync", **keywords)


def set_all(env, task):
    vars(env.unwrapped).update(task)


def returning(base=Walk, **returned):
    places = {"observation": 0, "reward": 1, "terminated": 2, "truncated": 3, "info": 4, "reset": "reset"}
    return type("Mine", (base,), {"returned": {places[name]: value for name, value in returned.items()}})


GOOD_PARTS = {"at": np.zeros(1, np.float32), "colour": 1, "goal": np.zeros(2, np.float32)}


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        (returning(observation=np.zeros(3)), "shape of the observation of Mine.step is (3,), expected (1,)"),
        (returning(observation=None), "observation of Mine.step is None, expected numbers of shape (1,)"),
        (returning(observation="here"), "observation of Mine.step is 'here', expected numbers of shape (1,)"),
        (returning(reset=(np.zeros(3), {})), "shape of the observation of Mine.reset is (3,), expected (1,)"),
        (returning(reset=(None, {})), "observation of Mine.reset is None, expected numbers"),
        (returning(reset=np.zeros(1)), "what Mine.reset returns is array([0.]), expected (observation, info)"),
        (returning(reward=np.zeros(2)), "reward of Mine.step is array([0., 0.]), expected one number"),
        (returning(reward="1"), "reward of Mine.step is '1', expected one number"),
        (returning(reward=None), "reward of Mine.step is None, expected one number"),
        (returning(terminated="yes"), "terminated of Mine.step is 'yes', expected True or False"),
        (returning(truncated=None), "truncated of Mine.step is None, expected True or False"),
        (returning(info=None), "info of Mine.step is None, expected a dict"),
        (returning(info={"is_success": "no"}), "info['is_success'] of Mine.step is 'no', expected True or False"),
        (returning(Parts, observation=np.zeros(1)), "expected a dict with the keys ['at', 'colour', 'goal']"),
        (
            returning(Parts, observation={"at": np.zeros(1), "colour": 1}),
            "keys of the observation of Mine.step is ['at', 'colour'], expected 'goal' too",
        ),
        (
            returning(Parts, observation={**GOOD_PARTS, "goal": np.zeros(3)}),
            "shape of the observation of Mine.step, key 'goal' is (3,), expected (2,)",
        ),
        (
            returning(Parts, observation={**GOOD_PARTS, "colour": 7}),
            "observation of Mine.step, key 'colour', is 7, expected a member of Discrete(3)",
        ),
        (returning(Parts, reset=({**GOOD_PARTS, "at": None}, {})), "observation of Mine.reset, key 'at', is None"),
    ],
)
def test_what_must_not_be_returned_gets_its_sentence(env, sentence):
    only(metarl.check_family(family(env)), sentence, places=[])


@pytest.mark.parametrize("space", [spaces.MultiBinary(2), spaces.Tuple([ONE, spaces.Discrete(2)])])
def test_other_spaces_get_their_sentence(space):
    env = type("Mine", (Walk,), {"observation_space": space, "seen": lambda self: (np.zeros(1, np.float32),)})
    only(metarl.check_family(family(env)), "observation of Mine.reset is ", "as observation_space has", places=[])


def test_steps_with_gyms_old_signature_get_their_sentence():
    env = type("Mine", (Walk,), {"step": lambda self, action: (self.seen(), 0.0, False, {})})
    only(metarl.check_family(family(env)), "what Mine.step returns is ", "metarl.adopt takes", places=[])


def test_adopted_classes_are_named_and_their_returns_not_mended():
    class Old:
        observation_space, action_space = Walk.observation_space, Walk.action_space
        sample_tasks = staticmethod(lambda count: list(range(count)))
        set_task = reset = staticmethod(lambda *task: np.zeros(1))
        step = staticmethod(lambda action: (np.zeros(1), "1", "yes", {}))

    only(metarl.check_family(metarl.adopt(Old, horizon=6)), "reward of Old.step is '1', expected one number", places=[])


@pytest.mark.parametrize("success", [np.True_, True, 1.0, np.float32(0), np.array(True)])
def test_success_may_be_anything_true_or_false(success):
    env = returning(info={"is_success": success})()
    metarl.families.returned.check_step(env, (np.zeros(1), 1.0, False, np.False_, {"is_success": success}))


def test_success_as_numpys_bool_is_clean():
    assert metarl.check_family(family(type("Mine", (Walk,), {"step": numpy_success}))) == []


def numpy_success(self, action):
    *out, info = Walk.step(self, action)
    return (*out, {"is_success": np.bool_(info["is_success"])})


class Raises(Walk):
    def step(self, action):
        out = super().step(action)
        if self.t == 3:
            np.linalg.inv(np.zeros((2, 2)))  # raises in NumPy
        return out


def test_an_exception_names_the_users_line():
    (found,) = metarl.check_family(family(Raises))
    assert "GymFamily: Raises.step (test_user_environments.py:" in found
    assert "LinAlgError: Singular matrix" in found
    assert "correct Raises.step" in found


def test_an_exception_in_a_process_names_the_users_line():
    class Late(Raises):
        episodes = 0

        def reset(self, **kwargs):
            self.episodes += 1
            return super().reset(**kwargs)

        def step(self, action):
            return super().step(action) if self.episodes > 1 else Walk.step(self, action)

    shared = GymFamily(Late, GOAL, "attrs", horizon=6, stepping="async")
    (found,) = metarl.check_family(shared, tasks=2)
    assert "(test_user_environments.py:" in found
    assert "LinAlgError" in found


ENVIRONMENT = """
from vehicle_tools import drive
from test_user_environments import Walk
class Car(Walk):
    def step(self, action):
        drive(self.t)
        return super().step(action)
"""


def test_an_exception_in_a_package_names_its_line_and_not_another_librarys(tmp_path, monkeypatch):
    packages = tmp_path / "lib" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "highway_cars.py").write_text(ENVIRONMENT)
    (packages / "vehicle_tools.py").write_text("def drive(t):\n    raise KeyError('wheel')\n")
    monkeypatch.syspath_prepend(str(packages))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    car = importlib.import_module("highway_cars").Car
    (found,) = metarl.check_family(family(car))
    assert "Car.step (highway_cars.py:" in found
    assert "vehicle_tools.py" not in found
    (mine,) = metarl.check_family(family(type("Mine", (car,), {"step": lambda self, action: car.step(self, action)})))
    assert "(test_user_environments.py:" in mine
    for name in ("highway_cars", "vehicle_tools"):
        sys.modules.pop(name)


def test_where_no_line_is_the_users_the_environment_is_named_and_the_line_that_raised():
    class Unreachable(Walk):
        set_task = partial(np.linalg.inv)

    (found,) = metarl.check_family(GymFamily(Unreachable, GOAL, "set_task", horizon=6))
    assert re.search(r"Unreachable raised LinAlgError: .* in \w+ \(_linalg.py:\d+\), expected", found)


class TestVisibleTasks:
    def test_a_key_that_shows_the_task_is_told_and_is_no_violation(self):
        with pytest.warns(
            FamilyWarning, match=r"observation key 'goal' shows the task or a part of it \(goal\)"
        ) as told:
            assert metarl.check_family(family(Parts)) == []
        assert "drop=('goal',) leaves it out" in str(told[0].message)
        assert "'at'" not in str(told[0].message)

    def test_a_hidden_task_is_not_told_of(self):
        assert metarl.check_family(family(Walk)) == []

    def test_dropping_the_key_hides_the_task(self):
        hidden = family(Parts, drop=("goal",))
        assert hidden.observation_space.shape == (1 + 3,)
        assert metarl.check_family(hidden) == []

    @pytest.mark.parametrize(
        "seen",
        [
            lambda self: np.float32([self.goal]),
            lambda self: np.float32([3 - 2 * self.goal]),
            lambda self: np.float32([np.sin(3 * self.goal)]),  # no linear function, but always the same in a task
            lambda self: np.float32([self.goal - self.t]),  # not always the same, but linear when an episode starts
        ],
    )
    def test_numbers_that_show_the_task_are_told(self, seen):
        env = type("Mine", (Walk,), {"seen": seen})
        with pytest.warns(FamilyWarning, match=r"observation\[0\] shows the task"):
            assert metarl.check_family(family(env)) == []

    def test_a_goal_that_comes_from_the_seed_is_seen(self):
        class Drawn(Parts):
            def reset(self, *, seed=None, options=None):
                gym.Env.reset(self, seed=seed)
                self.goal = float(self.np_random.uniform(-1.0, 1.0))
                self.x, self.t = 0.0, 0
                return self.seen(), {}

        levels = GymFamily(Drawn, {"level": Integers(0, 1 << 20)}, "seed", horizon=6, stepping="sync")
        with pytest.warns(FamilyWarning, match=r"observation key 'goal' shows .*constant in a task"):
            assert metarl.check_family(levels) == []

    def test_torch_families_are_looked_at_as_well(self):
        subject = Subject(metarl.make_family("metarl/TMaze-v0:cue"), 8, 0, "cpu", registered=True)
        (note,) = visible_tasks(subject)
        assert "TMaze-v0:cue: observation[0, 2] shows the task or a part of it (turn)" in note

    def test_the_command_says_so_and_exits_with_0(self, scratch_registry, capsys):
        metarl.register_family("mine/Parts-v0", env=Parts, task_space=GOAL, apply="attrs", horizon=6, stepping="sync")
        with pytest.warns(FamilyWarning, match="note: mine/Parts-v0: observation key 'goal' shows the task"):
            main(["check-family", "mine/Parts-v0"])
        assert "mine/Parts-v0: clean" in capsys.readouterr().out
        with _plain_warnings():
            assert warnings.formatwarning("note: this", FamilyWarning, "file.py", 1) == "metarl: note: this\n"

    def test_registered_families_drop_keys(self, scratch_registry):
        metarl.register_family("mine/P-v0", env=Parts, task_space=GOAL, apply="attrs", horizon=6, drop=("goal", "at"))
        assert metarl.make_family("mine/P-v0").observation_space.shape == (3,)

    @pytest.mark.parametrize(
        ("env", "drop", "sentence"),
        [
            (Parts, ("gaol",), r"drop is 'gaol', expected one of at, colour, goal \(did you mean 'goal'\?\)"),
            (Parts, "goal", r"drop is 'goal', expected a tuple of keys"),
            (Parts, ("at", "colour", "goal"), "expected fewer keys: nothing would be left"),
            (Walk, ("goal",), r"drop is \['goal'\], expected nothing: the observation is Box"),
        ],
    )
    def test_wrong_keys(self, env, drop, sentence):
        with pytest.raises(InvalidValueError, match=sentence):
            family(env, drop=drop)


class TestParametersWithoutEffect:
    """`Walk` ignores the options of `reset`."""

    def test_options_that_are_not_read_are_refused_before_anything_is_made(
        self, scratch_registry, tmp_path, monkeypatch, capsys
    ):
        monkeypatch.chdir(tmp_path)
        metarl.register_family("mine/W-v0", env=Walk, task_space=GOAL, apply="options", horizon=6, stepping="sync")
        with pytest.raises(SystemExit, match="2"):
            main(["train", "maml", "--family", "mine/W-v0"])
        sentence = "task parameter 'goal' is ignored, expected a parameter that Walk.reset reads from its options; "
        sentence += "other ways: apply='attrs' or 'kwargs' where the family is registered"
        assert sentence in capsys.readouterr().err
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        "reads",
        [
            lambda env, options: options["goal"],
            lambda env, options: options.get("goal"),
            lambda env, options: dict(options),
            lambda env, options: {**options},
            lambda env, options: [value for value in options.values()],
            lambda env, options: setattr(env, "kept", options),  # and may look later
        ],
    )
    def test_options_that_are_read_or_kept_are_warned_of(self, reads):
        class Reads(Walk):
            def reset(self, *, seed=None, options=None):
                reads(self, options)
                return super().reset(seed=seed)

        with pytest.warns(FamilyWarning, match="'goal' changed no observation, reward or ending in 24 steps"):
            assert len(warn_unused_parameters(family(Reads, "options"))) == 1

    def test_other_options_that_are_read_make_no_difference(self):
        class Reads(Walk):
            def reset(self, *, seed=None, options=None):
                assert "start" not in options
                return super().reset(seed=seed)

        with pytest.raises(InvalidValueError, match="task parameter 'goal' is ignored"):
            warn_unused_parameters(family(Reads, "options"))

    def test_one_of_two_is_found(self):
        both = GymFamily(Walk, {**GOAL, "wind": Uniform(0.0, 1.0)}, set_all, horizon=6)
        with pytest.warns(FamilyWarning, match="'wind' changed no .*; training continues") as told:
            assert warn_unused_parameters(both) == [str(told[0].message)]

    def test_the_option_of_the_command_is_named_where_there_is_one(self, scratch_registry):
        unseen = {"screen_width": Choice([300, 400])}
        metarl.register_family("mine/Pole-v0", env="CartPole-v1", task_space=unseen, apply="attrs", horizon=2)
        with pytest.warns(FamilyWarning, match=r"see apply='kwargs' where the family is registered\)"):
            warn_unused_parameters(metarl.make_family("mine/Pole-v0"))
        typed = {"env": "CartPole-v1", "params": {"screen_width": "300,400"}, "horizon": 2}
        with pytest.warns(FamilyWarning, match=r"see --apply kwargs\)"):
            warn_unused_parameters(metarl.make_family("metarl/Gymnasium-v0", **typed))

    def test_the_run_keeps_what_was_warned_of(self, scratch_registry, tmp_path, monkeypatch):
        monkeypatch.setattr("metarl.cli.training.train_run", lambda run, agent, start: None)
        space = {**GOAL, "wind": Uniform(0.0, 1.0)}
        metarl.register_family("mine/W-v0", env=Walk, task_space=space, apply=set_all, horizon=6, stepping="sync")
        with pytest.warns(FamilyWarning) as told:
            main(["train", "maml", "--family", "mine/W-v0", "--out", str(tmp_path / "run")])
        assert (tmp_path / "run" / "notes.txt").read_text() == f"{told[0].message}\n"

    def test_what_has_an_effect_is_let_through_at_the_first_difference(self):
        steps = []

        class Counts(Walk):
            def step(self, action):
                steps.append(self.t)
                return super().step(action)

        built = family(Counts)
        steps.clear()
        assert warn_unused_parameters(built) == []
        assert len(steps) == 2  # one of each task

    def test_a_goal_that_was_not_met_is_no_proof(self):
        far = GymFamily("MountainCarContinuous-v0", {"goal_position": Uniform(0.3, 0.5)}, "attrs", horizon=10)
        with pytest.warns(FamilyWarning, match=r"'goal_position' changed no .* in 40 steps .*; training continues"):
            warn_unused_parameters(far)

    def test_slow_environments_are_looked_at_for_a_limited_time(self, monkeypatch):
        monkeypatch.setattr("metarl.contract.notes.MOST_SECONDS", 0.0)
        with pytest.warns(FamilyWarning, match="'goal' changed no .* in 1 steps"):
            warn_unused_parameters(family(Walk, lambda env, task: None))

    def test_exceptions_are_left_to_training(self):
        assert warn_unused_parameters(family(Raises, lambda env, task: None)) == []

    def test_built_in_families_and_torch_families_are_not_looked_at(self, monkeypatch):
        monkeypatch.setattr("metarl.contract.notes._TaskPair", None)
        assert warn_unused_parameters(metarl.make_family("metarl/DarkRoom-v0")) == []

    def test_a_choice_of_one_value_is_no_parameter_without_effect(self):
        assert warn_unused_parameters(GymFamily(Walk, {"goal": Choice([0.5])}, "attrs", horizon=6)) == []

    def test_the_callers_random_states_are_left_alone(self):
        before = np.random.get_state()[1].tolist()  # noqa: NPY002
        env = type("Global", (Walk,), {"seen": lambda self: np.float32([np.random.rand()])})  # noqa: NPY002
        with pytest.warns(FamilyWarning, match="draws from the global random generator of numpy"):
            warn_unused_parameters(family(env))
        assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


class TestNamesThatAreTaken:
    def test_a_built_in_family_is_not_replaced(self, scratch_registry):
        before = metarl.families.registry.families["metarl/CartPole-v0"]
        with pytest.raises(InvalidValueError, match=r"-v0', expected a name that is not taken: metarl\.envs"):
            metarl.register_family("metarl/CartPole-v0", env=Walk, task_space=GOAL)
        assert metarl.families.registry.families["metarl/CartPole-v0"] is before
        assert metarl.make_family("metarl/CartPole-v0").id == "metarl/CartPole-v0"

    def test_a_built_in_agent_is_not_replaced(self, scratch_registry):
        with pytest.raises(InvalidValueError, match=r"'maml', expected a name that is not taken: metarl\.agents"):
            metarl.register_agent("maml", "mine:MAML")
        assert metarl.families.registry.agents["maml"] == "metarl.agents.gradient.maml:MAML"

    def test_a_module_that_is_loaded_again_registers_again(self, scratch_registry, tmp_path, capsys):
        file = tmp_path / "walks.py"
        text = "import metarl\nfrom gymnasium.envs.classic_control import CartPoleEnv\n"
        text += "metarl.register_family('mine/Again-v0', env=CartPoleEnv, apply='attrs', horizon=HORIZON,\n"
        text += "    task_space={'length': metarl.Uniform(0.5, 1.5)})\nmetarl.register_agent('again', 'a:B')\n"
        for horizon in (5, 7):
            file.write_text(text.replace("HORIZON", str(horizon)))
            main(["list", "mine/Again-v0", "--load", str(file)])
            assert f"{horizon} steps" in capsys.readouterr().out
        other = tmp_path / "others.py"
        other.write_text(text.replace("HORIZON", "9"))
        with pytest.raises(SystemExit, match="2"):
            main(["list", "--load", str(other)])
        assert "'mine/Again-v0', expected a name that is not taken: walks registered it" in capsys.readouterr().err
        assert metarl.make_family("mine/Again-v0").horizon == 7

    def test_gymnasiums_own_ids_are_not_replaced(self, scratch_registry):
        gym.register("mine/Theirs-v0", entry_point=Walk)
        with pytest.raises(InvalidValueError, match="'mine/Theirs-v0', expected an id that is not taken: Gymnasium's"):
            metarl.register_family("mine/Theirs-v0", env=Walk, task_space=GOAL)
        assert "mine/Theirs-v0" not in metarl.families.registry.families
        assert gym.spec("mine/Theirs-v0").entry_point is Walk


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ((5, 15), "(5, 15), expected a metarl distribution: Uniform(5, 15)?"),
        ([1, 2, 3], "[1, 2, 3], expected a metarl distribution: Choice([1, 2, 3])?"),
        ((15, 5), "(15, 5), expected a metarl distribution: Choice([15, 5])?"),
        (5.0, "5.0, expected a metarl distribution such as Uniform(0, 1)"),
    ],
)
def test_what_is_no_distribution_is_refused_at_once(wrong, meant, scratch_registry):
    space = {"gravity": wrong}
    for build in (
        lambda: metarl.register_family("mine/A-v0", env="CartPole-v1", task_space=space, apply="attrs"),
        lambda: GymFamily("CartPole-v1", space, "attrs"),
        lambda: GymFamily("CartPole-v1", space, "seed"),
    ):
        with pytest.raises(InvalidValueError) as caught:
            build()
        assert f"task_space['gravity'] is {meant}" in str(caught.value)
    assert "mine/A-v0" not in metarl.families.registry.families
    with pytest.raises(
        InvalidValueError, match=r"ood\['far'\]\['length'\] is \(1, 2\), expected .*: Uniform\(1, 2\)\?"
    ):
        GymFamily("CartPole-v1", {"length": Uniform(0.5, 1.0)}, "attrs", ood={"far": {"length": (1, 2)}})


class TestTypesOfTaskValues:
    SPACE = {  # noqa: RUF012
        "gait": Choice(["walk", "run"]),
        "counts": Integers(0, 9, (2,)),
        "legs": Integers(2, 4),
        "mass": Uniform(0.5, 1.5),
        "pull": Uniform(-1.0, 1.0, (2,)),
        "flag": Choice([False, True]),
        "size": Choice([1, 2]),
    }

    class Takes(Walk):
        """Keeps what reached it."""

        def __init__(self, **task):
            self.told = task
            for name in TestTypesOfTaskValues.SPACE:
                setattr(self, name, task.get(name))

        def set_task(self, task):
            self.told = task

        def reset(self, *, seed=None, options=None):
            self.told = options if options and "gait" in options else self.told
            return super().reset(seed=seed)

    @pytest.mark.parametrize("apply", ["options", "set_task", "kwargs", "attrs", "callable"])
    def test_they_reach_the_environment_as_they_were_declared(self, apply):
        how = (lambda env, task: env.unwrapped.set_task(task)) if apply == "callable" else apply
        built = GymFamily(self.Takes, self.SPACE, how, horizon=6)
        task = built.make_tasks(gait="run", counts=[3, 4], legs=2, mass=0.75, pull=[0.5, 0.25], flag=True, size=2)
        env = built.make_env(task)
        env.reset(seed=0)
        self.check(env.unwrapped, apply)
        env = built.make_env(built.tasks("train", 1))
        env.reset(seed=0, options={"task": task})
        self.check(env.unwrapped, apply)

    def check(self, env, apply):
        told = {name: getattr(env, name) for name in self.SPACE} if apply == "attrs" else env.told
        types = {"gait": str, "legs": int, "mass": float, "flag": bool, "size": int}
        assert {name: type(told[name]) for name in types} == types
        assert (told["gait"], told["legs"], told["mass"], told["flag"], told["size"]) == ("run", 2, 0.75, True, 2)
        assert told["counts"].dtype == np.int64
        assert told["counts"].tolist() == [3, 4]
        assert told["pull"].dtype == np.float32
        assert told["pull"].tolist() == [0.5, 0.25]

    @pytest.mark.parametrize(
        ("text", "values"),
        [
            ("walk,run", ["walk", "run"]),
            ("1,2,5", [1, 2, 5]),
            ("1,2.5", [1.0, 2.5]),
            ("true,False", [True, False]),
        ],
    )
    def test_lists_on_the_command_line(self, text, values):
        found = parse_distribution("x", text)
        assert found == Choice(values)
        assert [type(value) for value in found.values] == [type(value) for value in values]

    @pytest.mark.parametrize("text", ["walk", "walk,", "walk,1", "nan,1", "1,inf", ","])
    def test_wrong_lists(self, text):
        with pytest.raises(InvalidValueError, match=r"--param gait is .*, expected LOW:HIGH"):
            parse_distribution("gait", text)


class TestHints:
    @pytest.fixture(autouse=True)
    def packages(self, monkeypatch):
        monkeypatch.setattr(
            "metarl.families.building.packages_distributions", lambda: {"highway_env": ["highway-env"], "_x": []}
        )

    def test_an_unregistered_id_names_the_module_to_load(self, capsys):
        with pytest.raises(SystemExit, match="2"):
            main(["train", "maml", "--env", "highway-fast-v0", "--param", "vehicles_density=0.5:2"])
        error = capsys.readouterr().err
        assert "--env is 'highway-fast-v0', expected a registered Gymnasium id" in error
        assert "name its module: 'highway_env:highway-fast-v0', or --load highway_env" in error
        with pytest.raises(InvalidValueError, match="name its module: 'MODULE:FetchReach-v4', or --load MODULE"):
            GymFamily("FetchReach-v4", GOAL)
        with pytest.raises(InvalidValueError, match=r"No module named 'no_such_module'.*'MODULE:Fetch-v4'"):
            GymFamily("no_such_module:Fetch-v4", GOAL)

    def test_a_missing_horizon_names_the_keyword_and_the_option(self):
        with pytest.raises(InvalidValueError, match=r"no time limit of its own: horizon=200, or --horizon 200"):
            GymFamily(Walk, GOAL, "attrs")

    def test_wrong_keywords_list_the_right_ones(self):
        with pytest.raises(
            InvalidValueError, match=r"is 'horizn', expected one of .*horizon.* \(did you mean 'horizon'\?\)"
        ):
            metarl.make_family("metarl/PointNavigation-v0", horizn=3)
        with pytest.raises(InvalidValueError, match="keyword of Walk is 'wind', expected none"):
            GymFamily(Walk, {"wind": Uniform(0.0, 1.0)}, "kwargs", horizon=6)
        with pytest.raises(
            InvalidValueError, match=r"keywords of CartPole-v1 is \['wind'\], expected those that it accepts"
        ):
            GymFamily("CartPole-v1", {"wind": Uniform(0.0, 1.0)}, "kwargs")
        with pytest.raises(InvalidValueError, match=r"preset of metarl/PointNavigation-v0 is 'corner', .*'corners'"):
            metarl.make_family("metarl/PointNavigation-v0:corner")


def only(found, *parts, places):
    """One sentence that says all of `parts`, and names no line of code but these `places`."""
    assert len(found) == 1, found
    for part in (*parts, "to fix it, "):
        assert part in found[0]
    assert [word for word in found[0].split() if ".py:" in word] == places
