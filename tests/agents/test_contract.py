"""The agent contract, over the registries: a new agent is tested without being mentioned."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import contract_family, contract_ids
from gymnasium import spaces

import metarl
from metarl.agent import Agent, Budget
from metarl.agents.gradient.maml import MAML
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.families.registry import agent_class, agents
from metarl.global_rng import random_states
from metarl.runs.checkpoints import load_checkpoint, save_checkpoint

TINY = {"hidden": (8,), "eval_steps": 60, "episodes": 2, "meta_batch_size": 2}
SMALL: dict[str, dict[str, Any]] = {name: TINY for name in agents if issubclass(agent_class(name), MAML)}
SMALL["scratch"] = {"hidden": (8,), "eval_steps": 60}
PPO = {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "policy_kwargs": {"net_arch": [4]}}
SMALL["sb3"] = {"steps": 16, "algorithm_kwargs": PPO}
SMALL["sb3_pretrained"] = SMALL["sb3"] | {"meta_batch_size": 2}
SMALL["rl2"] = {"hidden": 8, "meta_batch_size": 8, "trial_episodes": 3}
SMALL["first_explore"] = SMALL["rl2"] | {"explore_episodes": 1}
SMALL["varibad"] = SMALL["rl2"] | {"model_batch_size": 4, "model_updates": 2, "replay_trials": 20}
SMALL["pearl"] = {
    "policy_hidden": (8,),
    "encoder_hidden": (8,),
    "meta_batch_size": 2,
    "prior_episodes": 2,
    "updates": 2,
}
SMALL["pearl"] |= {"posterior_episodes": 1, "replay_tasks": 3, "tasks_per_update": 2, "batch_size": 4}
SMALL["pearl"] |= {"context_size": 2}
SMALL["focal"] = SMALL["pearl"]
SMALL["varibad_off_policy"] = SMALL["varibad"] | {"policy_hidden": (8,), "updates": 2, "batch_trials": 2}
SMALL["learned_selector"] = {"hidden": (8,), "meta_batch_size": 2, "trial_episodes": 6, "updates": 2}
SMALL["grbal"] = {
    "hidden": (8,),
    "meta_batch_size": 2,
    "trial_episodes": 2,
    "updates": 2,
    "batch_size": 4,
    "replay_trials": 5,
    "past_steps": 4,
    "plan_steps": 3,
    "candidates": 8,
    "elites": 3,
}
SMALL["rebal"] = SMALL["grbal"] | {"context": 4}
SMALL["prototypes"] = {"hidden": (8,), "meta_batch_size": 4}
SMALL["multi_task"] = SMALL["task_conditioned"] = {"hidden": (8,), "meta_batch_size": 16}


def small(name: str, family: str, **overrides: Any) -> Agent:
    return metarl.make_agent(name, contract_family(family), **(SMALL.get(name, {}) | overrides))


def refusal(name: str, family: str) -> metarl.InvalidValueError | None:
    """What an agent says of a family that is not for it; None if it takes it."""
    try:
        small(name, family)
    except metarl.InvalidValueError as error:
        return error
    return None


# The built-in names as they are when the tests are collected, not what a test registers meanwhile. An agent meets one
# family of each kind of action that it takes; a family meets one agent that learns from gradients and one of another
# kind.
IDS = contract_ids()
NAMES = sorted(agents)
CONTINUOUS = ("metarl/PointNavigation-v0",)
DISCRETE = tuple(
    f"metarl/{name}-v0" for name in ("BernoulliBandit", "GaussianBandit", "TabularMDP", "GridNavi", "Digits")
)
OTHERS = ("rl2", "random", "sb3", "oracle")
SWITCHING, META_WORLD = "metarl/Switching-v0", "metarl/MetaWorldML1-v0"


def fitting(name: str) -> list[str]:
    """The first family of each kind of action that an agent takes."""
    found = (next((f for f in kind if refusal(name, f) is None), None) for kind in (CONTINUOUS, DISCRETE))
    return [family for family in found if family is not None]


def begun(agent: Agent, which: list[int]) -> tuple[PoolTrials, dict[str, torch.Tensor]]:
    trials = PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("test", 3)[which], purpose="contract")
    return trials, agent.begin(trials.rows, trials.tasks if agent.privileged else None)


def copied(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in tensors.items()}


def identical(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def check_actions(space: spaces.Space[Any], action: np.ndarray) -> None:
    if isinstance(space, spaces.Box):
        assert action.shape[1:] == space.shape
        assert (action >= space.low).all()
        assert (action <= space.high).all()
    else:
        assert isinstance(space, spaces.Discrete)
        assert action.min() >= 0
        assert action.max() < space.n


def keeps_the_contract(name: str, family: str) -> None:
    """States have a row axis, actions fit, a fork is safe from what happens to the original, nothing is trained."""
    agent = small(name, family)
    before = copied(agent.tensors())
    trials, state = begun(agent, [0, 1, 2])
    kept = agent.fork(state)
    values = copied(kept)
    rollout, adapted = agent.interact(state, trials, 0)
    check_actions(agent.family.action_space, agent.to_env(rollout.action.flatten(0, 2)).numpy())
    _, last = trials.collect(agent, agent.fork(adapted), 1, Budget(envs=1, episodes=1))
    for each in (state, adapted, last):
        assert all(v.shape[0] == 3 for v in each.values())
    for v in (*adapted.values(), *last.values()):
        v.fill_(3)
    assert identical(kept, values)
    part = agent.fork(kept, torch.tensor([1]))
    assert identical(part, {k: v[1:2] for k, v in values.items()})
    results = metarl.evaluate(agent, k=1, num_tasks=2, episodes=1, floor_episodes=1)
    assert np.isfinite(results.scores["sampled"]).all()
    assert identical(agent.tensors(), before)


def batch_equals_singles(name: str, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewards of the rollout after adapting. Physics are compared over one step from equal states.

    Contacts double what rounding differs by, so that two rollouts part after a few steps.
    """
    made = contract_family(family)
    if not isinstance(made, metarl.TorchFamily) or made.on_host:
        monkeypatch.setattr(made, "horizon", 1)
        agent = small(name, family, **({"eval_steps": 2} if name == "maml" else {}))
    else:
        agent = small(name, family)
    outcomes = []
    for which in ([0, 1, 2], [2, 0], [1]):
        trials, state = begun(agent, which)
        _, state = agent.interact(state, trials, 0)
        rollout, _ = trials.collect(agent, state, 1, Budget(envs=1, episodes=1))
        outcomes.append({task: rollout.reward[:, row] for row, task in enumerate(which)})
    together = outcomes[0]
    for task, alone in (outcomes[1] | outcomes[2]).items():
        both = min(len(together[task]), len(alone))  # a rollout stops when all of its rows have ended
        torch.testing.assert_close(together[task][:both], alone[:both], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_agents_keep_the_contract(name: str) -> None:
    assert fitting(name)
    for family in fitting(name):
        keeps_the_contract(name, family)


def beside(family: str) -> tuple[str, ...]:
    """The agents that a family meets: one that learns from gradients, and one of another kind that takes it."""
    if family == META_WORLD:  # its tables take seconds to draw: tests/envs/packages/test_meta_world.py has more
        return ("maml",)
    at = IDS.index(family)
    first = "rl2" if family == SWITCHING else "maml"
    others = [o for o in (OTHERS[at % 4 :] + OTHERS[: at % 4]) if o != first and refusal(o, family) is None]
    return first, others[0]


@pytest.mark.parametrize("family", IDS)
def test_families_meet_agents_that_keep_the_contract(family: str) -> None:
    for name in beside(family):
        keeps_the_contract(name, family)


@pytest.mark.delicate
@pytest.mark.parametrize("name", NAMES)
def test_a_batch_equals_its_singles(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for family in fitting(name):
        batch_equals_singles(name, family, monkeypatch)


@pytest.mark.delicate
@pytest.mark.parametrize("family", IDS)
def test_a_batch_equals_its_singles_on_every_family(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in beside(family):
        batch_equals_singles(name, family, monkeypatch)


@pytest.mark.parametrize("name", NAMES)
def test_refusals_name_what_does_not_fit(name: str) -> None:
    for family in (*CONTINUOUS, *DISCRETE, SWITCHING):
        said = refusal(name, family)
        if said is not None:
            assert said.field.startswith(
                (f"family of {name}", f"action space of {name}", f"observation space of {name}")
            )


@pytest.mark.parametrize("name", NAMES)
def test_configs_are_frozen_dataclasses_with_help(name: str) -> None:
    cls = metarl.families.registry.agent_class(name)
    assert dataclasses.is_dataclass(cls.Config)
    assert cls.__dict__.get("__doc__")
    config = cls.Config()
    for field in dataclasses.fields(config)[:1]:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, field.name, None)


@pytest.mark.parametrize("family", [f for f in IDS if f != SWITCHING])
def test_every_family_is_for_most_agents(family: str) -> None:
    assert [str(said) for name in ("maml", "rl2", "random") if (said := refusal(name, family))] == []


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("sb3")])
def test_making_an_agent_leaves_the_global_generators_alone(name: str) -> None:
    family = fitting(name)[0]
    before = random_states()
    small(name, family)
    after = random_states()
    assert not [kind for kind in before if before[kind] != after[kind]]


@pytest.mark.parametrize("name", NAMES)
def test_agents_that_learn_say_what_changes(name: str, tmp_path: Path) -> None:
    agent = small(name, fitting(name)[0])
    assert agent.learns == bool(agent.tensors())
    if not agent.learns:
        with pytest.raises(metarl.InvalidValueError, match="an agent that learns"):
            metarl.train(agent, 1)
        return
    before = {k: v.clone() for k, v in agent.tensors().items()}
    metarl.train(agent, 2)
    assert any(not torch.equal(before[k], v) for k, v in agent.tensors().items())
    save_checkpoint(tmp_path / "checkpoint", agent, 2)
    assert load_checkpoint(tmp_path / "checkpoint", small(name, fitting(name)[0])) == 2
    save_checkpoint(tmp_path / "weights", agent, 2, with_replay=False)  # what it needs to play
    weights = small(name, fitting(name)[0])
    load_checkpoint(tmp_path / "weights", weights)
    scores = [metarl.evaluate(a, k=1, num_tasks=2, episodes=1, seed=3).scores for a in (agent, weights)]
    assert all(np.array_equal(scores[0][mode], scores[1][mode]) for mode in scores[0])
    agent.load_tensors(before)
    assert all(torch.equal(before[k], v) for k, v in agent.tensors().items())
