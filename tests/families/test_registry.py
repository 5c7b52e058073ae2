"""Families and agents by id: registering one's own, plugins, and errors that suggest the nearest name."""

from __future__ import annotations

import pickle
import tomllib
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

import metarl
from metarl import InvalidValueError
from metarl.cli.main import main
from metarl.errors import MissingExtraError, require_extra
from metarl.families.registry import load_entry_point, load_plugins

BUILTIN_FAMILIES = [
    *("metarl/BernoulliBandit-v0", "metarl/PointNavigation-v0", "metarl/TabularMDP-v0", "metarl/GridNavi-v0"),
    *("metarl/DarkRoom-v0", "metarl/DarkKeyToDoor-v0", "metarl/GaussianBandit-v0", "metarl/DeceptiveBandit-v0"),
    *(
        "metarl/SwitchingBandit-v0",
        "metarl/DarkTreasureRooms-v0",
        "metarl/VancomycinDosing-v0",
        "metarl/Recommendation-v0",
    ),
]
BUILTIN_AGENTS = ["anil", "cavia", "e_maml", "fomaml", "maml", "maml_pp", "meta_sgd", "oracle", "pretrained", "promp"]
BUILTIN_AGENTS += ["random", "reptile", "rl2", "scratch", "psrl", "opsrl", "ucrl2", "beb", "epsilon_greedy_mdp"]
BUILTIN_AGENTS += ["greedy_mdp", "thompson_sampling", "optimistic_thompson_sampling", "ucb1", "epsilon_greedy"]
BUILTIN_AGENTS += ["greedy", "gittins", "first_explore", "imaml", "shared_trunk"]


def names_all(error, *words):
    assert all(w in str(error.value) for w in words), str(error.value)


@pytest.mark.parametrize("id", BUILTIN_FAMILIES)
def test_builtin_families_are_registered_in_both_places(id):
    family = metarl.make_family(id)
    assert family.id == id
    assert id in metarl.families.registry.families
    assert gym.spec(id).id == id
    assert isinstance(metarl.families.registry.families[id].entry_point, str)  # lazy


@pytest.mark.parametrize("name", BUILTIN_AGENTS)
def test_builtin_agents_are_registered(name):
    assert metarl.families.registry.agent_class(name).name == name
    tabular = {"psrl", "opsrl", "ucrl2", "beb", "epsilon_greedy_mdp", "greedy_mdp"}
    family = "metarl/TabularMDP-v0" if name in tabular else "metarl/BernoulliBandit-v0"
    assert metarl.make_agent(name, family).family.id == family


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (
            lambda: metarl.make_family("metarl/PointNavigatoin-v0"),
            ["family is 'metarl/PointNavigatoin-v0'", "did you mean 'metarl/PointNavigation-v0'?"],
        ),
        (
            lambda: metarl.make_family("metarl/PointNavigation-v0:semicircel"),
            [
                "preset of metarl/PointNavigation-v0 is 'semicircel'",
                "corners, semicircle",
                "did you mean 'semicircle'?",
            ],
        ),
        (
            lambda: metarl.make_family("metarl/TabularMDP-v0:big"),
            ["preset of metarl/TabularMDP-v0 is 'big'", "none is"],
        ),
        (
            lambda: metarl.make_family("metarl/BernoulliBandit-v0", arms=3),
            ["keyword of metarl/Bernoulli", "'arms', expected one of k"],
        ),
        (lambda: metarl.make_family("metarl/BernoulliBandit-v0", k=0), ["BernoulliBandit.k is 0", "at least 1"]),
        (lambda: metarl.make_family(7), ["family is '7'", "metarl/TabularMDP-v0"]),
        (lambda: metarl.make_agent("mamml", "metarl/TabularMDP-v0"), ["agent is 'mamml'", "did you mean 'maml'?"]),
        (
            lambda: metarl.make_agent("maml", "metarl/PointNavigation-v0", iner_lr=1.0),
            ["hyperparameter of maml is 'iner_lr'", "did you mean 'inner_lr'?"],
        ),
        (lambda: metarl.make_agent("maml", "metarl/TabularMDP-v0", config=3), ["config is 3", "MAML.Config"]),
        (
            lambda: metarl.make_agent("random", "metarl/TabularMDP-v0", device="gpu"),
            ["device is 'gpu'", "auto, cpu, cuda"],
        ),
        (
            lambda: metarl.make_family("metarl/PointNavigation-v0").tasks("tset", 3),
            ["split is 'tset'", "far, test, train", "did you mean 'test'?"],
        ),
        (
            lambda: metarl.make_family("metarl/PointNavigation-v0", reward="dens"),
            ["PointNavigation.reward is 'dens'", "did you mean 'dense'?"],
        ),
    ],
)
def test_errors_name_what_was_found_and_suggest_the_nearest(ask, words):
    with pytest.raises(InvalidValueError) as caught:
        ask()
    names_all(caught, *words)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_asking_for_a_missing_gpu_is_an_error_and_auto_is_not():
    with pytest.raises(InvalidValueError, match="device is 'cuda', expected 'cpu': this PyTorch finds no CUDA device"):
        metarl.make_agent("random", "metarl/TabularMDP-v0", device="cuda")
    assert metarl.make_agent("random", "metarl/TabularMDP-v0", device="auto").device.type == "cpu"


def test_presets_and_keywords():
    assert metarl.make_family("metarl/BernoulliBandit-v0:k50").k == 50
    assert metarl.make_family("metarl/BernoulliBandit-v0:k50").id == "metarl/BernoulliBandit-v0:k50"
    assert metarl.make_family("metarl/BernoulliBandit-v0:k50", k=3).k == 3  # the caller has the last word
    family = metarl.make_family("metarl/TabularMDP-v0", states=4)
    assert family.observation_space.shape == (4,)
    assert metarl.make_family(family) is family


@pytest.mark.parametrize("id", ["PointGoal-v0", "mine/PointGoal", "mine/Point Goal-v0", "mine/a/B-v0", "", None, 3])
def test_bad_family_ids_are_refused(id, scratch_registry):
    with pytest.raises(InvalidValueError, match=r"family id is .*, expected namespace/Name-vN"):
        metarl.register_family(id, "somewhere:Family")
    assert id not in gym.registry


@pytest.mark.parametrize("name", ["MAML", "my-agent", "2fast", "", "my agent"])
def test_bad_agent_names_are_refused(name, scratch_registry):
    with pytest.raises(InvalidValueError, match=r"agent name is .*, expected lower-case"):
        metarl.register_agent(name, "somewhere:Agent")


@pytest.mark.parametrize("register", [metarl.register_agent, metarl.register_family])
def test_a_newline_is_not_part_of_a_name(register, scratch_registry):
    with pytest.raises(InvalidValueError):
        register("mine\n" if register is metarl.register_agent else "mine/A-v0\n", "somewhere:Thing")


def test_registering_needs_one_form(scratch_registry):
    space = {"length": metarl.Uniform(0.4, 0.6)}
    for arguments in ({}, {"entry_point": "a:B", "env": "CartPole-v1"}):
        with pytest.raises(InvalidValueError, match=r"either an entry_point or env=\.\.\., and not both"):
            metarl.register_family("mine/A-v0", **arguments)
    with pytest.raises(InvalidValueError, match="task_space is None"):
        metarl.register_family("mine/A-v0", env="CartPole-v1")
    metarl.register_family("mine/A-v0", env="CartPole-v1", task_space=space, apply="atrs")
    with pytest.raises(InvalidValueError, match=r"apply is 'atrs'.*did you mean 'attrs'"):
        metarl.make_family("mine/A-v0")


def test_entry_points_are_lazy_and_a_missing_one_is_named(scratch_registry):
    metarl.register_family("mine/Lazy-v0", "no_such_module_xyz:Family")  # nothing is imported yet
    metarl.register_agent("lazy", "metarl.agent:NoSuchAgent")
    with pytest.raises(InvalidValueError, match=r"entry point is 'no_such_module_xyz:Family'.*No module named"):
        metarl.make_family("mine/Lazy-v0")
    with pytest.raises(InvalidValueError, match=r"entry point is 'metarl\.agent:NoSuchAgent'.*has no attribute"):
        metarl.make_agent("lazy", "metarl/TabularMDP-v0")
    assert load_entry_point("math:pi") == pytest.approx(3.14159, abs=1e-5)
    assert load_entry_point(max) is max


def test_an_entry_point_must_return_a_family(scratch_registry):
    metarl.register_family("mine/Dict-v0", dict)
    with pytest.raises(InvalidValueError, match=r"entry point of mine/Dict-v0 is 'dict', expected a metarl\.Family"):
        metarl.make_family("mine/Dict-v0")


# A user's family in torch form, as the documentation has it: 15 lines.
class PointGoal(metarl.TorchFamily):
    observation_space = Box(-np.inf, np.inf, (2,))
    action_space = Box(-0.1, 0.1, (2,))
    horizon = 100
    task_space = {"goal": metarl.Uniform(-0.5, 0.5, shape=(2,))}  # noqa: RUF012

    def reset(self, task, rng):
        return 0.01 * rng.normal(2)

    def observe(self, state, task):
        return state

    def step(self, state, action, task, rng):
        x = state + action.clamp(-0.1, 0.1)
        distance = (x - task["goal"]).norm(dim=-1)
        return x, -distance, distance < 0.01


def test_a_users_torch_family(scratch_registry):
    metarl.register_family("mine/PointGoal-v0", PointGoal)
    family = metarl.make_family("mine/PointGoal-v0")
    assert family.id == "mine/PointGoal-v0"
    assert family.splits == ("train", "test")
    trials = metarl.engine.rollout.PoolTrials(metarl.engine.pool.EnvironmentPool(family), family.tasks("test", 3))
    agent = metarl.make_agent("random", family)
    rollout, _ = trials.collect(agent, agent.begin(3), 0, metarl.Budget(steps=5))
    # the reward is the distance of the next observation, up to the sign
    goal = torch.from_numpy(np.array(trials.tasks.values["goal"]))
    torch.testing.assert_close(-rollout.reward[:-1, :, 0], (rollout.obs[1:, :, 0] - goal).norm(dim=-1))
    obs, _ = gym.make("mine/PointGoal-v0").reset(seed=0)
    assert obs.shape == (2,)
    assert gym.make_vec("mine/PointGoal-v0", num_envs=3).reset(seed=0)[0].shape == (3, 2)


def test_a_users_gymnasium_family(scratch_registry):
    # the same in any-Gymnasium form: 5 lines
    metarl.register_family(
        "mine/CartPole-v0",
        env="CartPole-v1",
        task_space={"length": metarl.Uniform(0.3, 0.7), "masscart": metarl.LogUniform(0.5, 2.0)},
        apply="attrs",
    )
    family = metarl.make_family("mine/CartPole-v0")
    assert family.horizon == 500  # CartPole-v1's own
    env = gym.make("mine/CartPole-v0", task={"length": 0.4, "masscart": 1.5})
    env.reset(seed=0)
    assert env.unwrapped.length == pytest.approx(0.4)
    assert env.unwrapped.masscart == 1.5
    agent = metarl.make_agent("random", family)
    trials = metarl.engine.rollout.PoolTrials(metarl.engine.pool.EnvironmentPool(family), family.tasks("train", 2))
    rollout, _ = trials.collect(agent, agent.begin(2), 0, metarl.Budget(steps=30))
    assert (rollout.reward == 1.0).all()  # CartPole pays 1 for every step
    assert rollout.terminated.any()  # and random actions soon fall
    trials.pool.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"horizon": 0}, ["PointGoal.horizon is 0", "at least 1"]),
        ({"horizon": 1.5}, ["PointGoal.horizon is 1.5", "whole number"]),
        ({"task_space": {}}, ["PointGoal.task_space is {}", "not empty"]),
        ({"task_space": {"goal": (0, 1)}}, ["PointGoal.task_space['goal'] is (0, 1)", "Uniform(0, 1)"]),
        ({"observation_space": (2,)}, ["PointGoal.observation_space is (2,)", "gymnasium.spaces.Space"]),
        ({"ood": {"train": {"goal": metarl.Normal()}}}, ["PointGoal.ood['train']"]),
        ({"ood": {"far": {"gaol": metarl.Normal()}}}, ["PointGoal.ood['far'] is ['gaol']", "['goal']"]),
    ],
)
def test_wrong_declarations_are_named(change, words, scratch_registry):
    metarl.register_family("mine/Wrong-v0", type("PointGoal", (PointGoal,), change))
    with pytest.raises(InvalidValueError) as caught:
        metarl.make_family("mine/Wrong-v0")
    names_all(caught, *words)


def test_a_missing_declaration_is_named(scratch_registry):
    class Bare(metarl.TorchFamily):
        horizon = 3

    metarl.register_family("mine/Bare-v0", Bare)
    with pytest.raises(InvalidValueError, match=r"Bare\.observation_space is None, expected to be set"):
        metarl.make_family("mine/Bare-v0")


def entry_point(name, load):
    return SimpleNamespace(name=name, value=f"{name}:x", load=load)


def test_plugins_are_loaded_and_a_broken_one_only_warns(scratch_registry, monkeypatch):
    def broken():
        raise RuntimeError("boom")

    def module():  # an entry that names a module, which registers as it is imported
        metarl.register_agent("from_module", "a:B")
        return SimpleNamespace()

    def function():  # an entry that names a callable
        return lambda: metarl.register_family("plugin/Family-v0", PointGoal)

    groups = {
        "metarl.families": [entry_point("bad", broken), entry_point("good", function)],
        "metarl.agents": [entry_point("agents", module)],
    }
    monkeypatch.setattr("metarl.families.registry.entry_points", lambda group: groups[group])
    with pytest.warns(UserWarning, match=r"plugin bad \(bad:x\) of group metarl.families was skipped: boom") as caught:
        load_plugins()
    assert len(caught) == 1
    assert isinstance(metarl.make_family("plugin/Family-v0"), PointGoal)
    assert metarl.families.registry.agents["from_module"] == "a:B"


def test_the_registry_is_restored_after_each_test():
    assert not [id for id in metarl.families.registry.families if not id.startswith("metarl/")]
    assert not [id for id in gym.registry if id.startswith(("mine/", "plugin/"))]


@pytest.mark.parametrize("name", ["envs", "agents"])
def test_folders_refuse_to_be_top_level_packages(name, monkeypatch):
    # from the checkout's root `import envs` would load every family a second time
    import sys
    from pathlib import Path

    monkeypatch.syspath_prepend(str(Path(metarl.__file__).parents[1]))
    monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(ImportError, match=rf"metarl\.{name}"):
        __import__(name)


def test_a_missing_extra_says_which_command_installs_it(scratch_registry, capsys):
    metarl.register_family("mine/Rare-v0", "rare_module:Rare", requires="rare_package")
    spec = metarl.families.registry.families["mine/Rare-v0"]
    assert not spec.available
    with pytest.raises(metarl.MetaRLError) as error:
        metarl.make_family("mine/Rare-v0")
    sentence = "mine/Rare-v0 needs the package rare_package, which is not installed: pip install rare_package"
    assert str(error.value) == sentence
    assert isinstance(error.value, ImportError)
    main(["list"])
    assert "mine/Rare-v0  needs pip install rare_package" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["train", "maml", "--family", "mine/Rare-v0"])
    assert sentence in capsys.readouterr().err


def test_an_extra_whose_package_has_another_name():
    assert metarl.families.registry.EXTRAS["digits"] == "sklearn"
    with pytest.raises(MissingExtraError, match="needs the package no_such_package"):
        require_extra("mine/Rare-v0", "no_such_package.inner", "rare")
    assert require_extra("x", "json", "json").dumps(1) == "1"
    copied = pickle.loads(pickle.dumps(MissingExtraError("a", "b", "c")))
    assert str(copied) == str(MissingExtraError("a", "b", "c"))


def test_every_extra_is_declared():
    declared = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = {spec.requires for spec in metarl.families.registry.families.values() if spec.requires}
    assert extras
    assert extras <= set(declared["optional-dependencies"])


def test_a_keyword_that_a_constructor_cannot_use_is_named(scratch_registry: None) -> None:
    """Not a TypeError from inside: the family, the value, and what went wrong."""

    def build(speed: float) -> metarl.Family:
        assert speed > 0
        return metarl.make_family("metarl/GridNavi-v0")

    metarl.register_family("mine/Fast-v0", build)
    with pytest.raises(
        metarl.InvalidValueError, match=r"keywords of mine/Fast-v0 is {'speed': '3'}, expected values .*"
    ):
        metarl.make_family("mine/Fast-v0", speed="3")
