"""The evaluator: R_k with k as asked, scoring apart from adapting, held-out tasks, statistics by other means."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch import Tensor

import metarl
from metarl.agent import Agent, Budget, Feedback, Rollout, Step
from metarl.engine.pool import make_environments
from metarl.evaluation.evaluate import default_rows, evaluate, parts_at_once
from metarl.evaluation.results import Results
from metarl.rng import fold_in, make_key


class Offset(metarl.TorchFamily):
    """Reward = action + offset at each of 3 steps: returns are known to the last digit."""

    id = "tests/Offset-v0"
    observation_space = Box(-1.0, 1.0, (2,), np.float32)
    action_space = Box(-100.0, 100.0, (1,), np.float32)
    horizon = 3
    terminates = False
    task_space: ClassVar = {"offset": metarl.Uniform(0.0, 1.0)}

    def reset(self, task: dict[str, Tensor], rng: metarl.Rng) -> Tensor:
        return rng.uniform(2)

    def observe(self, state: Tensor, task: dict[str, Tensor]) -> Tensor:
        return state

    def step(self, state: Tensor, action: Tensor, task: dict[str, Tensor], rng: metarl.Rng) -> Any:
        reward = action[:, 0] + task["offset"]
        return state, reward, torch.zeros_like(reward, dtype=torch.bool), {"success": action[:, 0] >= 2}


@dataclass(frozen=True)
class Nothing:
    """No hyperparameters."""


class Counter(Agent):
    """Plays the number of adaptation steps it has behind it, and remembers every observation it adapted on."""

    name = "counter"
    Config = Nothing
    envs = 2

    @property
    def budget(self) -> Budget:
        return Budget(envs=self.envs, episodes=1)

    def begin(self, rows: int, tasks: Any = None) -> dict[str, Tensor]:
        return {
            "adaptation_steps": torch.zeros(rows, dtype=torch.int64),
            "seen": torch.zeros(rows, dtype=torch.float64),
        }

    def act(self, state: dict[str, Tensor], step: Step, rng: metarl.Rng, deterministic: bool) -> Any:
        action = state["adaptation_steps"].float().view(-1, 1, 1).expand(*step.obs.shape[:2], 1)
        return action + (rng.normal(1).view(action.shape) if not deterministic else 0.0), {}, state

    def adapt(self, state: dict[str, Tensor], rollout: Rollout) -> dict[str, Tensor]:
        return {
            "adaptation_steps": state["adaptation_steps"] + 1,
            "seen": state["seen"] + rollout.obs.double().sum((0, 2, 3)),
        }

    def to_env(self, action: Tensor) -> Tensor:
        return action


class Rememberer(Counter):
    """The same with a memory: one environment per row."""

    name = "rememberer"
    is_recurrent = True
    envs = 1

    def observe(self, state: dict[str, Tensor], feedback: Feedback, active: Tensor | None) -> dict[str, Tensor]:
        return state


def counter(cls: type[Counter] = Counter, seed: int = 0) -> Counter:
    return cls(Offset(), Nothing(), seed)


@pytest.mark.parametrize("cls", [Counter, Rememberer])
def test_k_is_what_was_asked(cls: type[Counter]) -> None:
    """Pitfall 1: after k steps the agent plays k, so the mean-action return is 3 (k + offset) exactly."""
    results = evaluate(counter(cls), k=[0, 2, 5], num_tasks=4, episodes=3)
    offset = Offset().tasks("test", 4).values["offset"].astype(np.float64)
    expected = 3 * (np.array([0, 2, 5])[None, :] + offset[:, None])
    np.testing.assert_allclose(results.scores["deterministic"][0], np.repeat(expected[..., None], 3, -1), rtol=1e-6)
    assert results.scores["sampled"].shape == (1, 4, 3, 3)
    assert results.k == [0, 2, 5]
    assert results.collected.shape == (1, 4, 5)  # collected while adapting: every step, not only the grid
    assert results.success["deterministic"].mean((0, 1, 3)).tolist() == [0.0, 1.0, 1.0]


def test_env_steps_and_episodes_count_adaptation_alone() -> None:
    results = evaluate(counter(), k=3, num_tasks=2, episodes=7)
    assert results.env_steps.tolist() == [0, 6, 12, 18]  # 2 environments x 3 steps each
    assert results.episodes.tolist() == [0, 2, 4, 6]
    assert results.seconds.shape == (1, 3)
    assert (results.seconds > 0).all()


@pytest.mark.parametrize("cls", [Counter, Rememberer])
def test_scoring_is_thrown_away_and_disjoint_from_adapting(cls: type[Counter]) -> None:
    """Pitfall 2: however much is scored, what the agent adapted on is the same, and no scored episode is among it."""
    agent, seen = counter(cls), []
    adapt = agent.adapt

    def watch(state: dict[str, Tensor], rollout: Rollout) -> dict[str, Tensor]:
        seen.append(rollout.obs.clone())
        return adapt(state, rollout)

    agent.adapt = watch  # type: ignore[method-assign]
    few = evaluate(agent, k=2, num_tasks=3, episodes=1, modes=["sampled"])
    seen_few, scored = seen.copy(), few.paths[0]
    seen.clear()
    evaluate(agent, k=2, num_tasks=3, episodes=9)
    assert all(torch.equal(a, b) for a, b in zip(seen_few, seen, strict=True))
    assert not np.isin(scored.astype(np.float32), torch.stack(seen).numpy()).any()


def test_results_do_not_depend_on_batching_or_order() -> None:
    """Pitfall 5 for the harness: parts of any size, and tasks backwards, give the same scores."""
    whole = evaluate(counter(), k=2, num_tasks=6, trials=2, episodes=2)
    parts = evaluate(counter(), k=2, num_tasks=6, trials=2, episodes=2, rows_at_once=4)
    back = evaluate(counter(), Offset().tasks("test", 6)[::-1], k=2, trials=2, episodes=2)  # type: ignore[misc]
    for mode in ("sampled", "deterministic"):
        np.testing.assert_allclose(whole.scores[mode], parts.scores[mode], atol=1e-5)
        np.testing.assert_allclose(whole.scores[mode], back.scores[mode][:, ::-1], atol=1e-5)
    assert len(np.unique(whole.scores["sampled"])) == whole.scores["sampled"].size  # every episode is another draw


@pytest.mark.parametrize(("mode", "word"), [("sampled", "sampled"), ("deterministic", "mean")])
def test_draws_of_a_mode_are_those_of_published_results(mode: Any, word: str) -> None:
    """A word of the mode is part of the keys; the deterministic mode's is not its name."""
    tasks = Offset().tasks("test", 3)
    starts = evaluate(counter(), tasks, k=0, episodes=1, modes=[mode], seed=7).paths[0][:, 0]
    keys = fold_in(make_key(7, "evaluate", 0), tasks.keys)
    for part in (0, 0, make_key("score", word), 0):  # trial, adaptation steps, what is played, environment
        keys = fold_in(keys, part)
    np.testing.assert_array_equal(starts, make_environments(Offset(), 3).begin(tasks, keys, 3))


def test_batches_fit_the_cache_of_a_processor() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [default_rows(cpu, width) for width in (1, 40, 10**6)] == [8192, 204, 1]
    assert default_rows(gpu, 40) == 1638
    # batches that are played at once share the cache, and every thread gets one
    assert [default_rows(cpu, 40, 2, total) for total in (1000, 100, 7)] == [102, 50, 4]


class Pure(Counter):
    """A counter whose parts may be played at once."""

    name = "pure"
    capturable = True


def test_parts_are_played_at_once_where_threads_are_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """300 tasks in 2 environments each are worth 600 // 256 = 2 of 3 threads; results are those of one thread."""
    settings: dict[str, Any] = {"k": 2, "num_tasks": 300, "episodes": 2, "paths": 200}
    agents, counts = [Pure(Offset(), Nothing(), seed) for seed in (0, 1)], list[tuple[int, int]]()
    threads: set[int] = set()

    def progress(done: int, total: int) -> None:
        threads.add(torch.get_num_threads())
        counts.append((done, total))

    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    alone = evaluate(agents[0], **settings)
    monkeypatch.undo()
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert [parts_at_once(agents[0], n) for n in (255, 600, 10_000)] == [1, 2, 3]
        assert parts_at_once(counter(), 10_000) == 1  # it remembers what it saw
        together = evaluate(agents[0], **settings, progress=progress)
        two_seeds = evaluate(agents, **settings)
    finally:
        torch.set_num_threads(before)
    assert threads == {1}
    assert counts == [(i, 6) for i in range(1, 7)]  # 2 parts of 3 steps
    for mode in ("sampled", "deterministic"):
        np.testing.assert_allclose(together.scores[mode], alone.scores[mode], rtol=1e-6)
        np.testing.assert_allclose(two_seeds.scores[mode][1], alone.scores[mode][0], rtol=1e-6)
    np.testing.assert_array_equal(together.paths[1], alone.paths[1])
    assert two_seeds.scores["sampled"].shape == (2, 300, 3, 2)


def test_lifetime_is_all_that_the_trial_collected() -> None:
    results = evaluate(counter(Rememberer), k=3, num_tasks=5, trials=2, episodes=1)
    assert results.lifetime.shape == (1, 5, 2)
    np.testing.assert_allclose(results.lifetime.mean(-1), results.collected.sum(-1), rtol=1e-9)
    assert (
        evaluate(counter(), k=1, num_tasks=2, episodes=1).lifetime_summary() is None
    )  # many environments: no one lifetime


def test_train_tasks_are_refused_whatever_they_are_called() -> None:
    """Pitfall 10: the side of a task is decided by its content."""
    agent = counter()
    with pytest.raises(metarl.InvalidValueError, match="split of the tasks is 'train', expected held-out tasks"):
        evaluate(agent, split="train", k=0)
    stolen = Offset().make_tasks(offset=Offset().tasks("train", 1).values["offset"])
    with pytest.raises(metarl.InvalidValueError, match="held-out"):
        evaluate(agent, stolen, k=0)
    assert evaluate(agent, stolen, k=0, allow_train_tasks=True).split == "custom"


def test_finite_families_are_labelled() -> None:
    agent = metarl.make_agent("random", "metarl/PointNavigation-v0:corners")
    results = evaluate(agent, k=0, num_tasks=4, episodes=1)
    assert results.meta["train_equals_test"] is True


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"k": -1}, "k is"),
        ({"episodes": 0}, "episodes is 0"),
        ({"trials": 0}, "trials is 0"),
        ({"modes": ["mean"]}, "mode is 'mean', expected one of deterministic, sampled"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(metarl.InvalidValueError, match=field):
        evaluate(counter(), **arguments)


def test_tasks_of_another_family_are_refused() -> None:
    other = metarl.make_family("metarl/BernoulliBandit-v0").tasks("test", 2)
    with pytest.raises(metarl.InvalidValueError, match="family of the tasks is 'metarl/BernoulliBandit-v0'"):
        evaluate(counter(), other)


def test_oracle_reaches_the_reference_and_random_the_floor() -> None:
    """On bandits and MDPs both references are exact; 5 standard errors over 400 tasks."""
    for id in ("metarl/BernoulliBandit-v0", "metarl/TabularMDP-v0"):
        for name, reference in (("oracle", "informed_optimum"), ("random", "floor")):
            results = evaluate(metarl.make_agent(name, id), k=0, num_tasks=400, episodes=10, modes=["sampled"])
            gap = results.scores["sampled"][0, :, 0].mean(-1) - results.references[reference]
            assert abs(gap.mean()) < 5 * gap.std() / np.sqrt(len(gap)), (id, name)


def test_normalised_score_is_a_ratio_of_means() -> None:
    results = evaluate(metarl.make_agent("oracle", "metarl/TabularMDP-v0"), k=0, num_tasks=50, episodes=20)
    row = results.summary("deterministic")[0]
    floor, best = results.references["floor"].mean(), results.references["informed_optimum"].mean()
    assert row["normalised"] == pytest.approx((row["mean"] - floor) / (best - floor))
    assert row["normalised"] == pytest.approx(1.0, abs=0.05)
    unknown = evaluate(counter(), k=0).summary("deterministic")[0]
    assert "normalised" not in unknown  # no reference: absent, not invented


# --- what else is measured -------------------------------------------------------------------------------------------


class Ends(Offset):
    """Terminates with success after one step; the horizon is 3."""

    id = "tests/Ends-v0"
    terminates = True

    def step(self, state: Tensor, action: Tensor, task: dict[str, Tensor], rng: metarl.Rng) -> Any:
        state, reward, never, _ = super().step(state, action, task, rng)
        return state, reward, ~never, {"success": ~never}


@pytest.mark.parametrize("cls", [Counter, Rememberer])
def test_success_is_that_of_each_scored_episode(cls: type[Counter]) -> None:
    results = evaluate(cls(Ends(), Nothing()), k=1, num_tasks=2, trials=2, episodes=3)
    assert results.success["sampled"].shape == results.scores["sampled"].shape == (1, 2, 2, 6)
    assert results.success["sampled"].min() == 1.0


def test_paths_are_those_of_the_first_tasks_whatever_the_batching() -> None:
    agent = metarl.make_agent("random", "metarl/PointNavigation-v0")
    settings: dict[str, Any] = {"k": 0, "num_tasks": 6, "trials": 4, "episodes": 1, "paths": 4}
    whole, parts = evaluate(agent, **settings), evaluate(agent, **settings, rows_at_once=12)
    assert whole.paths[0].shape == (4, 101, 2)
    np.testing.assert_allclose(whole.paths[0], parts.paths[0], atol=1e-5)


class Walk(Offset):
    """Terminates once the first number, which counts steps, is above 40 times the offset; the horizon is 40."""

    id = "tests/Walk-v0"
    terminates = True
    horizon = 40

    def step(self, state: Tensor, action: Tensor, task: dict[str, Tensor], rng: metarl.Rng) -> Any:
        state = state + torch.tensor([1.0, 0.0])
        return state, action[:, 0] + task["offset"], state[:, 0] > 40 * task["offset"]


def test_paths_of_unequal_length_are_joined_whatever_the_batching() -> None:
    """Batches of one task end at steps of their own: their paths are padded with NaN to those of all tasks at once."""
    agent = Rememberer(Walk(), Nothing())
    settings: dict[str, Any] = {"k": 1, "num_tasks": 6, "episodes": 2, "paths": 4}
    whole, parts = evaluate(agent, **settings), evaluate(agent, **settings, rows_at_once=1)
    lengths = np.isfinite(whole.paths[0][..., 0]).sum(1)
    assert lengths.max() > lengths.min() + 8  # an ending is looked for every eighth step
    for k in (0, 1):
        np.testing.assert_array_equal(whole.paths[k], parts.paths[k])
    for mode in whole.scores:
        np.testing.assert_array_equal(whole.scores[mode], parts.scores[mode])
    for name in whole.trial:
        np.testing.assert_array_equal(whole.trial[name], parts.trial[name])


def test_the_floor_is_measured_where_it_is_unknown() -> None:
    results = evaluate(counter(), k=0, num_tasks=50, floor_episodes=200)
    # uniform actions on [-100, 100] have mean 0: three steps pay 3 * offset, with a standard error of 100 / sqrt(200)
    expected = 3 * Offset().tasks("test", 50).values["offset"].astype(np.float64)
    gap = results.references["floor"] - expected
    assert abs(gap.mean()) < 5 * 100 / np.sqrt(200 * 50)
    assert results.meta["floor"].startswith("measured: 200 episodes")
    bandit = evaluate(metarl.make_agent("random", "metarl/BernoulliBandit-v0"), k=0, num_tasks=3)
    assert bandit.meta["floor"] == "exact"


def test_bayes_optimum_belongs_to_its_prior() -> None:
    agent = metarl.make_agent("random", "metarl/BernoulliBandit-v0")
    assert evaluate(agent, k=3, num_tasks=3, episodes=1).bayes_optimal == pytest.approx(1.7, abs=0.1)
    assert evaluate(agent, k=3, num_tasks=3, episodes=1, split="hard").bayes_optimal is None


def test_agents_of_different_families_are_refused() -> None:
    two = [metarl.make_agent("random", id) for id in ("metarl/PointNavigation-v0", "metarl/BernoulliBandit-v0")]
    with pytest.raises(metarl.InvalidValueError, match="families to evaluate together"):
        evaluate(two)
    with pytest.raises(metarl.InvalidValueError, match="agents is nothing"):
        evaluate([])


def test_summary_intervals_enclose_their_statistics() -> None:
    for row in evaluate(counter(), k=2, num_tasks=30, episodes=4).summary():
        assert row["low"] < row["mean"] < row["high"]
        assert row["iqm_low"] < row["iqm"] < row["iqm_high"]


def test_paths_lead_from_the_start_to_where_the_episode_ended() -> None:
    """The oracle's last position is the goal (within a step's rounding); after it there is nothing."""
    family = metarl.make_family("metarl/PointNavigation-v0")
    results = evaluate(metarl.make_agent("oracle", family), k=0, num_tasks=3, episodes=1)
    assert results.landmarks is not None
    for path, goal in zip(results.paths[0], results.landmarks, strict=True):
        seen = path[~np.isnan(path[:, 0])]
        np.testing.assert_array_equal(seen[0], [0.0, 0.0])
        np.testing.assert_allclose(seen[-1], goal, atol=1e-6)
        assert len(seen) == 1 + np.ceil(np.abs(goal).max() / 0.1)


def test_area_under_curve() -> None:
    results = evaluate(counter(), k=[0, 2, 4], num_tasks=2, episodes=1)
    a, b, c = results.scores["deterministic"].mean((0, 1, 3))
    # trapezoids of width 2 on [0, 4]: (2 (a + b) / 2 + 2 (b + c) / 2) / 4
    assert results.area_under_curve("deterministic") == pytest.approx((a + 2 * b + c) / 4)


def test_several_seeds_are_an_axis() -> None:
    group = [
        metarl.make_agent("maml", "metarl/PointNavigation-v0", seed=s, hidden=(4,), eval_steps=200) for s in (0, 1)
    ]
    results = evaluate(group, k=1, num_tasks=3, episodes=2)
    assert results.scores["sampled"].shape == (2, 3, 2, 2)
    assert results.meta["seeds"] == [0, 1]
    alone = evaluate(group[1], k=1, num_tasks=3, episodes=2)
    np.testing.assert_allclose(results.scores["sampled"][1], alone.scores["sampled"][0], atol=1e-4)


def test_save_and_load(tmp_path: Path) -> None:
    agent = metarl.make_agent("random", "metarl/PointNavigation-v0")
    results = evaluate(agent, k=2, num_tasks=3, episodes=2)
    path = results.save(tmp_path / "deep" / "r.json")
    again = Results.load(path)
    assert again.summary() == results.summary()
    assert again.k == results.k
    for mode in results.scores:
        np.testing.assert_array_equal(again.scores[mode], results.scores[mode])
    np.testing.assert_array_equal(again.paths[2], results.paths[2])
    np.testing.assert_array_equal(again.references["informed_optimum"], results.references["informed_optimum"])


# --- what was done in a trial ----------------------------------------------------------------------------------------


class Halver(Rememberer):
    """Plays half of (the number of adaptation steps behind it, plus its seed), in either mode."""

    name = "halver"

    def act(self, state: dict[str, Tensor], step: Step, rng: metarl.Rng, deterministic: bool) -> Any:
        action, extras, state = super().act(state, step, rng, True)
        return action + self.seed, extras, state

    def to_env(self, action: Tensor) -> Tensor:
        return action / 2


def test_trial_is_what_was_played(counting: Any) -> None:
    """Counting shows t and pays bonus + t; task 0 ends with its second step, task 1 at the horizon of 4."""
    family = counting()
    tasks = family.make_tasks(length=[2.0, 50.0, 50.0], bonus=[10.0, -5.0, 0.0])
    settings: dict[str, Any] = {"k": 3, "paths": 2, "episodes": 1, "allow_train_tasks": True}
    trial = evaluate([Halver(family, Nothing(), seed) for seed in (0, 1)], tasks, **settings).trial
    nan = np.nan
    obs = np.array([[0, 1, nan, nan], [0, 1, 2, 3]])  # [path, t], the same in each of 3 episodes
    ones = obs * 0 + 1
    half = np.array([0.0, 0.5, 1.0])[None, :, None]  # episode j is played with j / 2 by the first seed's agent
    np.testing.assert_array_equal(trial["obs"], np.repeat(obs[:, None, :, None], 3, 1))
    np.testing.assert_array_equal(trial["reward"], np.repeat((obs + np.array([[10], [-5]]))[:, None], 3, 1))
    np.testing.assert_array_equal(trial["action"], (half * ones[:, None])[..., None])


def test_trial_is_the_first_of_each_of_the_first_tasks_whatever_the_batching() -> None:
    agent = metarl.make_agent("random", "metarl/BernoulliBandit-v0")
    settings: dict[str, Any] = {"k": 9, "num_tasks": 6, "trials": 3, "episodes": 1, "paths": 4}
    whole, parts = evaluate(agent, **settings), evaluate(agent, **settings, rows_at_once=9)  # 3 tasks at a time
    assert {n: v.shape for n, v in whole.trial.items()} == {
        "action": (4, 9, 1),
        "reward": (4, 9, 1),
        "obs": (4, 9, 1, 1),
    }
    for name, values in whole.trial.items():
        np.testing.assert_array_equal(values, parts.trial[name])
    np.testing.assert_array_equal(whole.trial["reward"].sum((1, 2)), whole.lifetime[0, :4, 0])
    assert set(np.unique(whole.trial["action"])) == {0, 1, 2, 3, 4}


def test_trial_is_kept_only_where_it_can_be_shown() -> None:
    settings: dict[str, Any] = {"k": 2, "num_tasks": 2, "episodes": 1}
    assert evaluate(counter(), **settings).trial == {}  # two episodes side by side
    assert evaluate(counter(Rememberer), **settings, paths=0).trial == {}
    assert evaluate(counter(Rememberer), **(settings | {"k": 0})).trial == {}
    tabular = evaluate(metarl.make_agent("random", "metarl/TabularMDP-v0"), **settings).trial
    assert set(tabular) == {"action", "reward"}  # an observation has 10 numbers
    assert tabular["action"].shape == (2, 2, 10)


def test_bayes_optimal_episodes_add_up_to_the_trial() -> None:
    agent = metarl.make_agent("random", "metarl/GridNavi-v0")
    results = evaluate(agent, k=2, num_tasks=2, episodes=1)
    assert results.bayes_episodes is not None
    assert results.bayes_episodes.shape == (2,)
    assert results.bayes_episodes.sum() == pytest.approx(results.bayes_optimal)
    goal = agent.family.make_tasks(goal=(0.0, 2.0))
    assert evaluate(agent, goal, k=2, episodes=1).bayes_episodes is None  # tasks of our own have another prior
    bandit = metarl.make_agent("random", "metarl/BernoulliBandit-v0")
    assert evaluate(bandit, k=2, num_tasks=2, episodes=1).bayes_episodes is None  # the family knows only their sum


def test_trials_are_saved_and_files_without_them_load(tmp_path: Path) -> None:
    results = evaluate(metarl.make_agent("random", "metarl/GridNavi-v0"), k=2, num_tasks=2, episodes=1)
    again = Results.load(results.save(tmp_path / "r.json"))
    assert set(again.trial) == {"action", "obs", "reward"}
    for name, values in results.trial.items():
        np.testing.assert_array_equal(again.trial[name], values)
    np.testing.assert_array_equal(again.bayes_episodes, results.bayes_episodes)
    without = replace(results, trial={}, bayes_episodes=None)
    old = Results.load(without.save(tmp_path / "old.json"))
    assert (old.trial, old.bayes_episodes) == ({}, None)
    assert old.summary() == results.summary()


def test_agents_that_learn_from_scratch_are_marked() -> None:
    """A yardstick is not prepared by training, is shown nothing, and learns in the task itself."""
    for name, family, expected in (
        ("scratch", "metarl/PointNavigation-v0", True),
        ("sb3", "metarl/PointNavigation-v0", True),
        ("thompson_sampling", "metarl/BernoulliBandit-v0", True),
        ("maml", "metarl/PointNavigation-v0", False),
        ("task_conditioned", "metarl/PointNavigation-v0", False),
        ("oracle", "metarl/PointNavigation-v0", False),
        ("random", "metarl/PointNavigation-v0", False),
    ):
        results = evaluate(metarl.make_agent(name, family), k=0, num_tasks=1, episodes=1, modes=["sampled"])
        assert results.meta["from_scratch"] is expected, name
    model = metarl.make_agent("sb3", "metarl/PointNavigation-v0").worker  # type: ignore[attr-defined]
    wrapped = metarl.sb3.wrap(model, "metarl/PointNavigation-v0")
    assert evaluate(wrapped, k=0, num_tasks=1, episodes=1).meta["from_scratch"] is False


def test_small_values_of_tasks_are_kept(tmp_path: Path) -> None:
    """A point in the plane is kept as a vector; ten probabilities of arms are too many. Older files have none."""
    agent = metarl.make_agent("random", "metarl/PointNavigation-v0")
    tasks = agent.family.tasks("test", 3, 7)
    results = evaluate(agent, tasks, k=0, episodes=1)
    assert set(results.task_values) == {"goal"}
    np.testing.assert_array_equal(results.task_values["goal"], tasks.values["goal"].astype(np.float64))
    again = Results.load(results.save(tmp_path / "r.json"))
    np.testing.assert_array_equal(again.task_values["goal"], results.task_values["goal"])
    named = {"a.b": np.arange(3.0), "c": np.ones((3, 4))}
    again = Results.load(replace(results, task_values=named).save(tmp_path / "named.json"))
    assert {name: values.tolist() for name, values in again.task_values.items()} == {
        name: values.tolist() for name, values in named.items()
    }
    assert Results.load(replace(results, task_values={}).save(tmp_path / "old.json")).task_values == {}
    for wrong in (np.zeros(1), np.zeros(4), np.zeros((3, 2, 2))):
        with pytest.raises(metarl.InvalidValueError, match=r"shape of task_values\.goal is .*expected \[task 3"):
            replace(results, task_values={"goal": wrong}).save(tmp_path / "wrong.json")
    bandit = metarl.make_agent("random", metarl.make_family("metarl/BernoulliBandit-v0", k=10))
    assert evaluate(bandit, k=1, num_tasks=2, episodes=1).task_values == {}


def test_foreign_results_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"format": "else"}')
    with pytest.raises(metarl.InvalidValueError, match=r"format of .*x\.json is 'else'"):
        Results.load(tmp_path / "x.json")
    with pytest.raises(metarl.InvalidValueError, match="results file is"):
        Results.load(tmp_path / "missing.json")


def test_what_is_no_agent_is_named() -> None:
    for given in ("runs/cp", ["runs/cp"]):
        with pytest.raises(metarl.InvalidValueError, match=r"agents is 'runs/cp', expected one agent, or .*Run.open"):
            metarl.evaluate(given)  # type: ignore[arg-type]


def test_results_print_as_one_line() -> None:
    results = metarl.evaluate(metarl.make_agent("random", "metarl/GridNavi-v0"), k=1, num_tasks=3, episodes=1)
    expected = "Results(random on metarl/GridNavi-v0, split 'test': k = [0, 1], 1 seeds x 3 tasks)"
    assert repr(results) == expected
