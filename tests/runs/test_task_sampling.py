"""Train tasks that the cross-entropy method draws: where they move, what stays, and what resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from scipy import stats
from torch import Tensor

import metarl
from metarl.families.tasks import on_side
from metarl.runs.run import Run
from metarl.runs.task_sampling import CrossEntropySampler, beta
from metarl.runs.train import Interrupted


class Steps(metarl.TorchFamily):
    """Two steps, which pay less the larger `weight` is: the last fifth of weights is hard, and kind 2 more so."""

    id = "toy/Steps-v0"
    observation_space = Box(-1.0, 1.0, (1,), np.float32)
    action_space = Discrete(2)
    horizon = 2
    terminates = False
    task_space: ClassVar = {
        "weight": metarl.Uniform(2.0, 12.0),
        "scale": metarl.LogUniform(0.1, 10.0, (2,)),
        "kind": metarl.Choice(["a", "b", "c"]),
        "count": metarl.Integers(3, 6),
        "noise": metarl.Normal(),
    }

    def reset(self, task: dict[str, Tensor], rng: metarl.Rng) -> Tensor:
        return torch.zeros_like(task["weight"])

    def observe(self, state: Tensor, task: dict[str, Tensor]) -> Tensor:
        return state.unsqueeze(1)

    def step(self, state: Tensor, action: Tensor, task: dict[str, Tensor], rng: metarl.Rng) -> Any:
        return state, -task["weight"] - task["kind"], torch.zeros_like(state, dtype=torch.bool)


def sampler(size: int = 100, family: Any = None, seed: int = 0) -> CrossEntropySampler:
    agent = metarl.make_agent("rl2", family or Steps(), seed=seed, meta_batch_size=size, minibatches=1, hidden=4)
    return CrossEntropySampler(agent)


def shares(tasks: metarl.Tasks) -> np.ndarray:
    """How far up its range the weight is."""
    return (tasks.values["weight"].astype(np.float64) - 2.0) / 10.0


# --- the draws -------------------------------------------------------------------------------------------------------


def test_beta_draws_have_their_distribution() -> None:
    rng = metarl.Rng(torch.arange(4000))
    mean = np.tile([0.1, 0.5, 0.7, 0.9], (4000, 1))
    drawn = beta(rng, mean)
    for m, column in zip(mean[0], drawn.T, strict=True):
        assert stats.kstest(column, stats.beta(2 * m, 2 - 2 * m).cdf).pvalue > 1e-3
    alone = beta(metarl.Rng(torch.tensor([17])), mean[:1])
    assert np.array_equal(alone[0], drawn[17])  # a draw does not depend on its neighbours


def test_first_draws_are_those_of_the_family() -> None:
    """Every parameter before the first update: the distributions of the task space, in it, and none held out."""
    made = sampler(2000)
    tasks = made.draw(0)
    values = tasks.values
    assert stats.kstest(shares(tasks), stats.uniform.cdf).pvalue > 1e-3
    scale = np.log10(values["scale"]).reshape(-1)
    assert stats.kstest(scale, stats.uniform(-1, 2).cdf).pvalue > 1e-3
    assert stats.chisquare(np.bincount(values["kind"].astype(int))).pvalue > 1e-3
    assert stats.chisquare(np.bincount(values["count"].astype(int))[3:]).pvalue > 1e-3
    assert stats.kstest(values["noise"], stats.norm.cdf).pvalue > 1e-3
    for name, dist in Steps.task_space.items():
        assert dist.contains(values[name]).all()
    assert not made.family.held_out(tasks).any()
    assert on_side(tasks, 0).all()


def test_a_task_depends_on_its_address_and_the_distribution_alone() -> None:
    small, large = sampler(10), sampler(30)
    first = small.draw(0)
    again = large.draw(0)
    assert (first.values["noise"][2:6] == again.values["noise"][2:6]).all()
    assert (small.draw(1).values["noise"] == again.values["noise"][10:20]).all()
    assert (sampler(10).draw(3).values["weight"] == sampler(10).draw(3).values["weight"]).all()
    assert (sampler(10, seed=1).draw(3).values["weight"] != sampler(10).draw(3).values["weight"]).any()


# --- the update ------------------------------------------------------------------------------------------------------


def moved(iterations: int = 40, size: int = 100) -> tuple[CrossEntropySampler, metarl.Tasks, float]:
    """After some updates on returns that are 0 but for weights in the last fifth, where they fall to -1."""
    made, threshold = sampler(size), 0.0
    for iteration in range(iterations):
        tasks = made.draw(iteration)
        returns = -np.maximum(0.0, (shares(tasks) - 0.8) / 0.2)
        threshold = made.update(torch.from_numpy(returns))
    return made, made.draw(iterations), threshold


def test_tasks_move_to_the_hard_ones() -> None:
    made, tasks, _ = moved()
    mean = made.place["weight"][0]
    assert mean > 0.8
    found = shares(tasks)
    assert found[20:].mean() == pytest.approx(mean, abs=0.1)
    assert (found[20:] > 0.8).mean() > 0.5  # the family draws .2 of them there
    assert not made.family.held_out(tasks).any()


def test_other_parameters_stay_about_where_they_are() -> None:
    made, _, _ = moved()
    assert abs(made.place["scale"] - 0.5).max() < 0.25
    assert made.place["kind"].sum() == pytest.approx(1.0)
    assert made.place["kind"].max() < 0.6


def test_a_fifth_of_the_tasks_stays_the_familys() -> None:
    """The first 200 of 1,000, also where the distribution has moved to the end; they alone are the reference."""
    made = sampler(1000)
    made.place["weight"] = np.array([0.98])
    found = shares(made.draw(0))
    assert made.original == 200
    assert stats.kstest(found[:200], stats.uniform.cdf).pvalue > 1e-3
    assert found[200:].mean() > 0.9


def test_an_update_by_hand() -> None:
    """10 tasks, two of them the family's, whose returns 5 and 3 have the .05 quantile 3 + .05 (5 - 3) = 3.1.

    The .2 quantile of the nine known returns 1, 1, 2, ... is 1.6, so 3.1 is the threshold. Elite are task 1 with return
    3, and tasks 4, 5 and 6. The distribution is still the family's, so all weigh the same. It moves by .5 x 10 / 128 of
    the way to their mean. A task without a return does not count.
    """
    made = sampler(10, seed=3)
    u = shares(made.draw(0))
    returns = torch.tensor([5.0, 3.0, 9.0, 9.0, 1.0, 2.0, 1.0, 9.0, 9.0, torch.nan], dtype=torch.float64)
    assert made.update(returns) == pytest.approx(3.1)
    mean = u[[1, 4, 5, 6]].mean()
    assert made.place["weight"][0] == pytest.approx(0.5 + 0.5 * 10 / 128 * (mean - 0.5), abs=1e-6)


def test_likelihood_ratios_by_hand() -> None:
    """Beta(1.6, .4) has the density u^.6 (1-u)^-.6 / B, B = (1 - a) pi / sin(pi a) at a = 1.6: 1.98195.

    At u = .5 it is 1 / B, so the ratio is B. Of a choice with probability .5 for one of three values, it is 2 / 3.
    """
    made = sampler(5)
    made.draw(0)
    made.place = {k: made.place[k] for k in ("weight", "kind")}
    made.moved = {k: made.moved[k] for k in made.place}
    made.place["weight"], made.place["kind"] = np.array([0.8]), np.array([0.5, 0.25, 0.25])
    made._drawn = {"weight": np.array([[0.5]] * 4 + [[0.02]]), "kind": np.array([[0.0], [0.0], [1.0], [0.0], [0.0]])}
    b = -0.6 * np.pi / np.sin(1.6 * np.pi)
    assert b == pytest.approx(1.98195, abs=1e-5)
    expected = [1.0, 2 / 3 * b, 4 / 3 * b, 2 / 3 * b, 5.0]  # the first is the family's; the last is clipped
    assert made._likelihood_ratios() == pytest.approx(expected)


def test_equal_returns_move_nothing_far() -> None:
    made = sampler(200)
    for iteration in range(40):
        made.draw(iteration)
        assert made.update(torch.zeros(200)) == 0.0
    assert made.place["weight"][0] == pytest.approx(0.5, abs=0.15)


def test_without_returns_nothing_moves() -> None:
    made = sampler(10)
    made.draw(0)
    before = made.state()
    assert np.isnan(made.update(torch.full((10,), torch.nan)))
    assert made.state() == before


# --- training --------------------------------------------------------------------------------------------------------

SMALL: dict[str, Any] = {"meta_batch_size": 40, "trial_episodes": 2, "minibatches": 1, "epochs": 1, "hidden": 4}


def test_a_training_moves_to_hard_tasks_and_says_where_they_begin() -> None:
    agent = metarl.make_agent("rl2", Steps(), **SMALL)
    made, log = CrossEntropySampler(agent), list[dict[str, float]]()
    metarl.train(agent, 40, task_sampler=made, on_iteration=lambda _, m: log.append(m))
    assert made.place["weight"][0] > 0.75  # large weights pay least
    assert made.place["kind"].argmax() == 2
    assert log[-1]["hard_return"] < log[-1]["episode_return"] < log[0]["episode_return"]


@pytest.mark.parametrize("name", ["maml", "pearl", "varibad"])
def test_any_agent_that_plays_its_trials_has_it(name: str) -> None:
    settings: dict[str, Any] = {"pearl": {"updates": 1}, "varibad": {"model_updates": 1}}
    family = metarl.make_family("metarl/PointNavigation-v0", horizon=4)
    agent = metarl.make_agent(name, family, meta_batch_size=8, **settings.get(name, {}))
    made = CrossEntropySampler(agent)
    before = made.state()
    metarl.train(agent, 1, task_sampler=made)
    assert made.state() != before


@pytest.fixture
def registered() -> Any:
    metarl.register_family(Steps.id, Steps)
    yield Steps.id
    del metarl.families.registry.families[Steps.id]


def test_a_run_resumes_with_the_same_bits(tmp_path: Path, registered: str) -> None:
    def create(name: str) -> tuple[Run, Any]:
        agent = metarl.make_agent("rl2", registered, **SMALL)
        return Run.create(tmp_path / name, agent, 6, 2, task_sampler="cem"), agent

    whole, agent = create("whole")
    whole.train(agent)
    cut, other = create("cut")

    def stop(done: int, total: int, metrics: dict[str, float]) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        cut.train(other, 0, stop)
    opened = Run.open(tmp_path / "cut")
    resumed, start = opened.load_agent()
    assert start in (2, 3)
    opened.train(resumed, start)
    heads = [json.loads((tmp_path / name / "checkpoint.json").read_text()) for name in ("whole", "cut")]
    assert heads[0]["task_sampler"] == heads[1]["task_sampler"]
    assert heads[0]["task_sampler"]["weight"][0] > 0.5
    assert heads[0]["tensors_sha256"] == heads[1]["tensors_sha256"]
    with pytest.raises(metarl.InvalidValueError, match="task_sampler of run"):
        opened.check_settings(agent, 6, 2)
    opened.check_settings(agent, 6, 2, task_sampler="cem")


def test_a_run_without_it_has_no_trace_of_it(tmp_path: Path) -> None:
    agent = metarl.make_agent("rl2", "metarl/BernoulliBandit-v0", **SMALL)
    run = Run.create(tmp_path / "run", agent, 1)
    run.train(agent)
    assert "task_sampler" not in (run.config | json.loads((run.path / "checkpoint.json").read_text()))


# --- what it refuses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("agent", "family", "settings", "words"),
    [
        ("rl2", "metarl/TabularMDP-v0", {}, r"'family' for metarl/TabularMDP-v0: its parameter \w+ is a \w+, and one"),
        ("rl2", "metarl/GaussianBandit-v0", {}, "its parameter mean is a Normal, and one of Uniform, LogUniform"),
        ("rl2", 'metarl/Switching-v0{"family": "metarl/GridNavi-v0"}', {}, "is not drawn from its task_space"),
        (
            "rl2",
            "metarl/BernoulliBandit-v0",
            {"meta_batch_size": 4, "minibatches": 1},
            "'family' for rl2 with 4 train tasks",
        ),
    ],
)
def test_what_cannot_be_moved_is_named(agent: str, family: str, settings: Any, words: str) -> None:
    with pytest.raises(metarl.InvalidValueError, match=words):
        CrossEntropySampler(metarl.make_agent(agent, family, **settings))


def test_unknown_samplers_and_damaged_states_are_named(tmp_path: Path) -> None:
    agent = metarl.make_agent("rl2", "metarl/BernoulliBandit-v0", **SMALL)
    with pytest.raises(metarl.InvalidValueError, match="task_sampler is 'cme', expected 'family' or 'cem'"):
        Run.create(tmp_path / "run", agent, 1, task_sampler="cme")  # type: ignore[arg-type]
    made = CrossEntropySampler(agent)
    damaged = [None, {}, {"p": [0.5]}, {"p": [0.5] * 4 + [2.0]}, {"p": "x"}, {"p": [0.5] * 5, "q": [0.5]}]
    damaged += [{"p": [0.5] * 4 + [0.0]}, {"p": [1, 0, 1, 0, 1]}, {"p": [True] * 5}, {"p": [".5"] * 5}]
    for state in damaged:
        with pytest.raises(metarl.InvalidValueError, match=r"task_sampler of file is .*for each of \['p'\]"):
            made.load_state(state, "file")
    made.load_state({"p": [0.25] * 5}, "file")
    assert made.place["p"].tolist() == [0.25] * 5
    choice = CrossEntropySampler(metarl.make_agent("rl2", "metarl/GridNavi-v0", **SMALL))
    choice.load_state(choice.state(), "file")
    for place in ([1.0] * 21, [0.0] * 21, [1.0] + [0.0] * 20):  # sums of 21, 0 and 1, the last without the least share
        with pytest.raises(metarl.InvalidValueError, match="numbers that it can have reached"):
            choice.load_state({"goal": place}, "file")


def test_a_run_without_a_sampler_differs_from_one_with_it_by_name(tmp_path: Path) -> None:
    agent = metarl.make_agent("rl2", "metarl/BernoulliBandit-v0", **SMALL)
    run = Run.create(tmp_path / "run", agent, 1, task_sampler="cem")
    with pytest.raises(
        metarl.InvalidValueError, match=r"task_sampler of run .* is 'cem', expected family, as now given"
    ):
        run.check_settings(agent, 1)


def test_agents_with_environments_of_their_own_are_refused() -> None:
    made = sampler(10)
    made.draw(0)
    with pytest.raises(metarl.InvalidValueError, match="with returns that are not known"):
        made.update(None)
