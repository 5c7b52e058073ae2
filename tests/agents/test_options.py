"""Every option of every agent makes a difference: whoever changes it sees other numbers."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, get_args, get_type_hints

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from test_contract import SMALL
from torch import Tensor

import metarl
from metarl.agents.gradient.maml import MAML
from metarl.families.registry import agent_class, agents


class Reach(metarl.TorchFamily):
    """Four steps of a point on a line toward a goal: the nearer the better."""

    id = "toy/Reach-v0"
    observation_space = Box(-10.0, 10.0, (1,), np.float32)
    action_space = Box(-1.0, 1.0, (1,), np.float32)
    horizon = 4
    task_space: ClassVar = {"goal": metarl.Uniform(-2.0, 2.0)}

    def reset(self, task: dict[str, Tensor], rng: metarl.Rng) -> Tensor:
        return torch.zeros_like(task["goal"])

    def observe(self, state: Tensor, task: dict[str, Tensor]) -> Tensor:
        return state.unsqueeze(1)

    def step(self, state: Tensor, action: Tensor, task: dict[str, Tensor], rng: metarl.Rng) -> Any:
        state = state + action[:, 0]
        reward = -(state - task["goal"]).abs()
        info = {"expected_reward": reward, "dense_reward": -(state - task["goal"]).square()}
        return state, reward + rng.normal(1)[:, 0], torch.zeros_like(state, dtype=torch.bool), info


BANDIT, MDP = "metarl/BernoulliBandit-v0", "metarl/TabularMDP-v0"
GENTLE = {"inner_lr": 0.1, "final_gain": 1.0, "episodes": 4, "eval_steps": 32}  # of gradient-based agents
OFF_POLICY = {"algorithm": "TD3", "steps": 16, "algorithm_kwargs": {"learning_starts": 4, "batch_size": 4}}
# What an option needs besides to matter, by its name or by that of the agent and its own: other settings.
GIVEN: dict[str, dict[str, Any]] = {
    "multi_step": {"inner_steps": 2},
    "multi_step_iterations": {"inner_steps": 2},
    "anneal_model": {"anneal_iterations": 5},
    "entropy_anneal": {"anneal_iterations": 5, "entropy_coef": 0.1},
    "prior_paid": {"prior_pulls": 5.0},
    "algorithm": {"algorithm_kwargs": {"n_steps": 64}, "steps": 64},
    "num_envs": {"steps": 32},
    "gittins.trial_episodes": {"trial_episodes": 14},
    "action_noise": OFF_POLICY,
}
# The changed value, where half of a number, one more of a count or the other of two do not do.
CHANGED: dict[str, Any] = {
    "inner_lr_schedule": (1.0, 0.1),
    "hidden": (5,),
    "eval_steps": 20,
    "cg_iterations": 1,
    "line_search_steps": 1,
    "cg_damping": 10.0,
    "log_std": -1,  # a whole number is a number
    "target_kl": 1e-9,
    "first_order_iterations": 1,
    "multi_step_iterations": 1,
    "schedule_iterations": 1,
    "clip": 0.001,
    "inner_kl_coef": 10.0,
    "implicit_cg_iterations": 1,
    "first_explore.hidden": 12,
    "rl2.hidden": 12,
    "varibad.hidden": 12,
    "varibad_off_policy.hidden": 12,
    "elbo_terms": 2,
    "decoded_steps": 2,
    "policy_hidden": (5,),
    "decoder_hidden": (5,),
    "encoder_hidden": (5,),
    "replay_trials": 3,
    "anneal_iterations": 5,
    "minibatches": 2,
    "entropy_coef": 0.1,
    "task_coef": 0.5,
    "reward_coef": 0.5,
    "max_grad_norm": 0.01,
    "gittins.trial_episodes": 60,
    "prior_a": 9.0,
    "prior_b": 9.0,
    "prior_pulls": 7.0,
    "prior_paid": 4.0,
    "steps": 48,
    "algorithm": "A2C",
    "algorithm_kwargs": {"n_steps": 8, "batch_size": 8, "n_epochs": 1, "policy_kwargs": {"net_arch": [4]}},
    "action_noise": 0.5,
    "selector.members": ("random", "greedy"),
    "selector.exploration": 25.0,
    "learned_selector.members": ("random", "greedy"),
    "learned_selector.train_families": ('metarl/BernoulliBandit-v0{"k": 3}',),
    "learned_selector.train_episodes": (9,),
    "num_envs": 2,
}
# What a small test cannot change: Stable-Baselines3 has one policy for each kind of observations.
FIXED = ("policy",)


def changed(name: str, field: Any) -> Any:
    """Another value of an option."""
    for key in (f"{name}.{field.name}", field.name):
        if key in CHANGED:
            return CHANGED[key]
    default = field.default
    if isinstance(default, bool):
        return not default
    if isinstance(default, str):
        return next(
            value for value in get_args(get_type_hints(agent_class(name).Config)[field.name]) if value != default
        )
    base = small(name).get(field.name, default)
    return base + 1 if isinstance(default, int) else 0.5 * base or 0.5


CASES = [(name, field) for name in sorted(agents) for field in dataclasses.fields(agent_class(name).Config)]
CASES = [(name, field) for name, field in CASES if field.name not in FIXED]


def family_of(name: str, option: str = "") -> Any:
    """A small family that the agent takes, and where an option can matter."""
    kind = agent_class(name).__module__
    if "classical" in kind:
        return BANDIT if kind.endswith(("bandits", "gittins")) else MDP
    if name == "prototypes":
        return "metarl/Digits-v0"
    if option == "log_std":
        return Reach()
    return BANDIT if name in ("rl2", "varibad", "varibad_off_policy", "selector", "learned_selector") else Reach()


def small(name: str) -> dict[str, Any]:
    """Sizes that take no time, and on which updates succeed."""
    known = {f.name for f in dataclasses.fields(agent_class(name).Config)}
    gentle = GENTLE if issubclass(agent_class(name), MAML) else {}
    return {k: v for k, v in (SMALL.get(name, {}) | gentle).items() if k in known}


def seen(name: str, settings: dict[str, Any], option: str = "") -> list[np.ndarray]:
    """All that an agent shows: its metrics, what it has learned, its budget and its evaluation."""
    agent = metarl.make_agent(name, family_of(name, option), **(small(name) | settings))
    found: list[Any] = [[agent.budget.envs, agent.budget.steps or 0, agent.budget.episodes or 0]]
    if agent.learns:
        log: list[dict[str, float]] = []
        metarl.train(agent, 2, on_iteration=lambda _, m: log.append(m))
        found += [[m[k] for m in log for k in sorted(m) if "seconds" not in k]]
        found += [v.numpy() for v in agent.tensors().values()]
    k, tasks = (12, 10) if family_of(name, option) == BANDIT else (2, 2)
    results = metarl.evaluate(agent, k=k, num_tasks=tasks, episodes=2)
    return [np.asarray(v) for v in (*found, *results.scores.values(), results.collected)]


KEPT: dict[str, list[np.ndarray]] = {}  # what unchanged options show, by the agent and what is given


def differ(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return len(a) != len(b) or any(
        x.shape != y.shape or not np.array_equal(x, y, equal_nan=x.dtype.kind == "f") for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize(("name", "field"), CASES, ids=lambda part: part if isinstance(part, str) else part.name)
def test_every_option_makes_a_difference(name: str, field: Any) -> None:
    given = GIVEN.get(f"{name}.{field.name}", GIVEN.get(field.name, {}))
    known = {f.name for f in dataclasses.fields(agent_class(name).Config)}
    base = {k: v for k, v in given.items() if k in known}
    option = field.name if field.name == "log_std" else ""  # it needs another family
    if (key := f"{name} {base} {option}") not in KEPT:
        KEPT[key] = seen(name, base, option)
    other = base | {field.name: changed(name, field)}
    assert differ(KEPT[key], seen(name, other, option)), f"{other[field.name]!r} changes nothing"


def test_what_is_seen_is_the_same_when_nothing_is_changed() -> None:
    """Else every option would seem to matter."""
    for name in ("maml", "rl2", "sb3", "psrl"):
        assert not differ(seen(name, {}), seen(name, {}))
