"""The agent contract, over the registries: a new agent is tested without being mentioned."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from conftest import contract_family, contract_ids
from gymnasium import spaces

import metarl
from metarl.agent import Agent
from metarl.agents.maml import MAML
from metarl.registry import agent_class, agents
from metarl.rollout import Budget, SlotPool, Trials

TINY = {"hidden": (8,), "eval_steps": 60, "episodes": 2, "meta_batch_size": 2}
SMALL: dict[str, dict[str, Any]] = {name: TINY for name in agents if issubclass(agent_class(name), MAML)}
PPO = {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "policy_kwargs": {"net_arch": [4]}}
SMALL["sb3"] = {"steps": 16, "algorithm_kwargs": PPO}
SMALL["sb3_pretrained"] = SMALL["sb3"] | {"meta_batch_size": 2}
SMALL["rl2"] = {"hidden": 8, "meta_batch_size": 8, "trial_episodes": 3}


def small(name: str, family: str, **overrides: Any) -> Agent:
    return metarl.make_agent(name, contract_family(family), **(SMALL.get(name, {}) | overrides))


def refusal(name: str, family: str) -> metarl.InvalidValueError | None:
    """What an agent says of a family that is not for it; None if it takes it."""
    try:
        small(name, family)
    except metarl.InvalidValueError as error:
        return error
    return None


# The built-in names as they are when the tests are collected, not what a test registers meanwhile. All agents meet the
# families for which most of them were made; of the others, those that stand for their kind.
CORE = {f"metarl/{name}-v0" for name in ("PointNavigation", "BernoulliBandit", "TabularMDP", "GridNavi", "DarkRoom")}
CORE |= {f"metarl/{name}-v0" for name in ("DarkKeyToDoor", "GaussianBandit", "DeceptiveBandit", "SwitchingBandit")}
KINDS = {"maml", "rl2", "random", "oracle", "sb3"}
IDS = contract_ids()
SWITCHING = "metarl/Switching-v0"
REFUSALS = {(a, f): refusal(a, f) for a in sorted(agents) for f in IDS if f in CORE or a in KINDS}
PAIRS = [pair for pair, said in REFUSALS.items() if said is None]
FITS = {name: [f for a, f in PAIRS if a == name] for name in sorted(agents)}


def test_refusals_name_what_does_not_fit() -> None:
    for (name, _), said in REFUSALS.items():
        if said is not None:
            assert said.field.startswith(
                (f"family of {name}", f"action space of {name}", f"observation space of {name}")
            )


def begun(agent: Agent, count: int, which: list[int] | None = None) -> tuple[Trials, dict[str, torch.Tensor]]:
    tasks = agent.family.tasks("test", count)
    tasks = tasks if which is None else tasks[which]
    trials = Trials(SlotPool(agent.family), tasks, purpose="contract")
    return trials, agent.begin(trials.rows, trials.tasks if agent.privileged else None)


@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_states_have_a_row_axis_and_actions_fit_the_space(name: str, family: str) -> None:
    agent = small(name, family)
    trials, state = begun(agent, 3)
    assert all(v.shape[0] == 3 for v in state.values())
    rollout, state = trials.collect(agent, state, 0, agent.budget)
    assert all(v.shape[0] == 3 for v in state.values())
    space = agent.family.action_space
    action = agent.to_env(rollout.action.flatten(0, 2)).numpy()
    if isinstance(space, spaces.Box):
        assert action.shape[1:] == space.shape
        assert (action >= space.low).all()
        assert (action <= space.high).all()
    else:
        assert isinstance(space, spaces.Discrete)
        assert action.min() >= 0
        assert action.max() < space.n


@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_adapting_and_scoring_train_nothing(name: str, family: str) -> None:
    agent = small(name, family)
    before = {k: v.clone() for k, v in agent.tensors().items()}
    results = metarl.evaluate(agent, k=2, num_tasks=3, episodes=2)
    assert agent.tensors().keys() == before.keys()
    assert all(torch.equal(before[k], v) for k, v in agent.tensors().items())
    assert np.isfinite(results.scores["sampled"]).all()


@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_a_batch_equals_its_singles(name: str, family: str) -> None:
    agent = small(name, family)
    outcomes = []
    on_host = isinstance(agent.family, metarl.TorchFamily) and agent.family.on_host
    tolerance = 1e-2 if on_host else 1e-4  # contacts double what rounding differs by
    for which in ([0, 1, 2], [2, 0, 1], [1]):
        trials, state = begun(agent, 3, which)
        rollout, state = agent.interact(state, trials, 0)
        rollout, _ = trials.collect(agent, state, 1, Budget(slots=1, episodes=1))
        outcomes.append({task: rollout.reward[:, row] for row, task in enumerate(which)})
    for task in range(3):
        for other in outcomes[1:]:
            if task in other:  # a rollout stops when all of its rows have ended
                both = min(len(outcomes[0][task]), len(other[task]))
                torch.testing.assert_close(outcomes[0][task][:both], other[task][:both], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_a_fork_is_safe_from_what_happens_to_the_original(name: str, family: str) -> None:
    agent = small(name, family)
    trials, state = begun(agent, 2)
    kept = agent.fork(state)
    values = {k: v.clone() for k, v in kept.items()}
    for v in agent.interact(state, trials, 0)[1].values():
        v.fill_(3)
    assert all(torch.equal(values[k], v) for k, v in kept.items())
    part = agent.fork(kept, torch.tensor([1]))
    assert all(torch.equal(values[k][1:], v) for k, v in part.items())


@pytest.mark.parametrize("name", sorted(agents))
def test_configs_are_frozen_dataclasses_with_help(name: str) -> None:
    cls = metarl.registry.agent_class(name)
    assert dataclasses.is_dataclass(cls.Config)
    assert cls.__dict__.get("__doc__")
    config = cls.Config()
    for field in dataclasses.fields(config)[:1]:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, field.name, None)


def test_every_agent_has_a_family_and_every_family_most_agents() -> None:
    assert all(FITS.values())
    assert all({("maml", f), ("rl2", f), ("random", f)} <= set(PAIRS) for f in IDS if f != SWITCHING)
    assert {("rl2", SWITCHING), ("random", SWITCHING)} <= set(PAIRS)


@pytest.mark.parametrize("name", sorted(agents))
def test_agents_that_learn_say_what_changes(name: str) -> None:
    agent = small(name, FITS[name][0])
    assert agent.learns == bool(agent.tensors())
    if not agent.learns:
        with pytest.raises(metarl.InvalidValueError, match="an agent that learns"):
            metarl.train(agent, 1)
        return
    before = {k: v.clone() for k, v in agent.tensors().items()}
    metarl.train(agent, 2)
    assert any(not torch.equal(before[k], v) for k, v in agent.tensors().items())
    agent.load_tensors(before)
    assert all(torch.equal(before[k], v) for k, v in agent.tensors().items())
