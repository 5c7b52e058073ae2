"""The evaluation of the package metaworld and ours judge an agent alike, on the same tasks of ML1-reach."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import metarl
import metarl.agent
from metarl.interop.meta_world import as_metaworld_agent

metaworld = pytest.importorskip("metaworld")
evaluation = pytest.importorskip("metaworld.evaluation")

STEPS, TASKS = 110, 10
WAIT = 60  # steps before it moves, so that no environment ends two episodes before all have ended one:
# the package would count both
FAMILY = f'metarl/MetaWorldML1-v0:reach{{"horizon": {STEPS}}}'


@dataclass(frozen=True)
class NoConfig:
    """No hyperparameters."""


class Searcher(metarl.agent.Agent):
    """The hand visits a few places while adapting; afterwards it goes back to where rewards were best."""

    name = "searcher"
    Config = NoConfig
    learns: ClassVar[bool] = False
    is_recurrent: ClassVar[bool] = False
    budget = metarl.agent.Budget(envs=1, episodes=1)
    PLACES: ClassVar[list[list[float]]] = [
        [0.0, 0.85, 0.1],
        [0.06, 0.85, 0.12],
        [0.06, 0.85, 0.24],
        [-0.06, 0.85, 0.24],
        [-0.06, 0.85, 0.12],
    ]

    def begin(self, rows: int, tasks: Any = None) -> Any:
        return {"goal": torch.full((rows, 3), torch.nan), "t": torch.zeros(rows, 1)}

    def act(self, state: Any, step: Any, rng: Any, deterministic: bool) -> Any:
        hand = step.obs[..., :3]
        part = (state["t"] * len(self.PLACES) / STEPS).long().clamp_max(len(self.PLACES) - 1)
        goal = torch.where(state["goal"].isnan(), torch.tensor(self.PLACES)[part[:, 0]], state["goal"])
        waits = ~state["goal"].isnan().any(1) & (state["t"][:, 0] < WAIT)
        move = (10.0 * (goal[:, None] - hand)).clamp(-1.0, 1.0) * ~waits[:, None, None]
        return torch.cat([move, torch.zeros_like(move[..., :1])], -1), {}, {**state, "t": state["t"] + 1}

    def to_env(self, action: torch.Tensor) -> torch.Tensor:
        return action

    def adapt(self, state: Any, rollout: Any) -> Any:
        best = rollout.reward[:, :, 0].argmax(0)
        rows = torch.arange(len(best))
        return {"goal": rollout.obs[best, rows, 0, :3], "t": torch.zeros(len(best), 1)}


def test_its_success_rate_and_ours_agree_on_ml1_reach() -> None:
    agent = Searcher(metarl.make_family(FAMILY), NoConfig())
    envs = metaworld.make_ml_envs("reach-v3", seed=0, meta_batch_size=TASKS, split="test", max_episode_steps=STEPS)
    try:
        judged = as_metaworld_agent(agent)
        success, _, _ = evaluation.metalearning_evaluation(
            judged, envs, num_evals=1, adaptation_episodes=1, evaluation_episodes=TASKS
        )
        scenes = np.zeros((TASKS, 7), np.float32)
        for row, vector in enumerate(envs.get_attr("_last_rand_vec")):
            scenes[row, 1:] = vector
    finally:
        envs.close()
    tasks = agent.family.make_tasks(scene=scenes)
    ours = metarl.evaluate(agent, tasks, k=(0, 1), episodes=1, modes=("deterministic",), floor_episodes=0)
    rate = ours.success["deterministic"].mean((0, 1, 3))
    assert 0.0 < rate[1] < 1.0 or rate[0] < rate[1]  # it learns where to go
    assert success == pytest.approx(rate[1])
    assert judged.adaptation_steps == 1


def test_agents_that_the_package_cannot_judge_are_refused() -> None:
    with pytest.raises(metarl.InvalidValueError, match="shows no rewards in evaluation episodes"):
        as_metaworld_agent(metarl.make_agent("rl2", FAMILY))


def test_maml_adapts_under_the_packages_evaluation() -> None:
    agent = metarl.make_agent("maml", FAMILY, hidden=(8,))
    envs = metaworld.make_ml_envs("reach-v3", seed=0, meta_batch_size=2, split="test", max_episode_steps=20)
    try:
        judged = as_metaworld_agent(agent)
        evaluation.metalearning_evaluation(
            judged, envs, num_evals=1, adaptation_steps=2, adaptation_episodes=2, evaluation_episodes=1
        )
    finally:
        envs.close()
    assert judged.adaptation_steps == 2
    assert judged.state is not None
    before = agent.begin(2)
    moved = [not torch.equal(judged.state[name], before[name]) for name in before if before[name].is_floating_point()]
    assert any(moved)


def test_published_weights_have_their_success_under_the_packages_evaluation() -> None:
    """Row metaworld/ml1_reach/maml: with sampled actions nearly every held-out goal is reached after one step."""
    row = Path(__file__).parents[2] / "experiments" / "results" / "metaworld" / "ml1_reach" / "maml"
    agent = metarl.load(row / "seed0")
    envs = metaworld.make_ml_envs("reach-v3", seed=0, meta_batch_size=5, split="test", max_episode_steps=500)
    try:
        judged = as_metaworld_agent(agent, deterministic=False)
        success, _, _ = evaluation.metalearning_evaluation(
            judged, envs, num_evals=1, adaptation_episodes=agent.budget.envs, evaluation_episodes=5
        )
    finally:
        envs.close()
    assert metarl.Results.load(row / "results.json").success["sampled"][0, :, -1].mean() > 0.9
    assert success > 0.9
