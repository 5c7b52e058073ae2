"""Playing a stream: returns and regret by hand, what is in the buffer, the same bits again, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from toy_streams import Aim, Halves, HalvesConfig, Stays, stream_of

import metarl
from metarl.online import OnlineResults, Stream, make_stream, play_stream

NAVIGATION = "metarl/PointNavigation-v0"
SMALL: dict[str, Any] = {"meta_batch_size": 3, "episodes": 2, "hidden": (4,), "eval_steps": 100}
BATCH: dict[str, Any] = {"meta_batch_size": 4, "minibatches": 1}
PEARL: dict[str, Any] = {"policy_hidden": (8,), "encoder_hidden": (8,), "meta_batch_size": 2, "prior_episodes": 2}
PEARL |= {"posterior_episodes": 1, "updates": 2, "replay_tasks": 3, "tasks_per_update": 2, "batch_size": 4}
PEARL |= {"context_size": 2}


def test_returns_and_regret_by_hand():
    """Round 1 begins with the guess 0; the only task that is met before round 2 has the target 0.16."""
    results = play_stream(Halves(Aim()), stream_of(0.16, 0.8), k=2, episodes=3)
    np.testing.assert_allclose(results.returns[0], [[-0.16, -0.08, -0.04], [-0.64, -0.32, -0.16]], atol=1e-6)
    np.testing.assert_allclose(results.regret()[0], [[0.16, 0.08, 0.04], [0.8, 0.4, 0.2]], atol=1e-6)
    np.testing.assert_array_equal(results.env_steps[0], [[0, 1, 2], [0, 1, 2]])
    np.testing.assert_array_equal(results.train_steps[0], [0, 7])
    # the threshold at .75 of the way from -1 to 0 is -.25: reached at once, and after the second step
    np.testing.assert_array_equal(results.steps_to(0.75), [[0, 2]])
    np.testing.assert_array_equal(results.steps_to(0.9), [[1, np.inf]])
    found = results.summary(0.9)
    assert found["reached"].mean == 0.5
    assert found["steps"].mean == 1.5  # (1 + 2) / 2: the task that is not reached counts with both steps
    assert found["late"].mean == pytest.approx(-0.16)
    assert found["regret_last"].mean == pytest.approx(0.2)
    assert found["regret_first"].mean == pytest.approx(0.8)
    assert found["last"] == pytest.approx((-0.1, -0.1, -0.1))  # one stream has no interval


def test_an_agent_that_does_not_learn_begins_each_task_anew():
    results = play_stream(Stays(Aim()), stream_of(0.2, 0.8, 0.4), k=1)
    np.testing.assert_allclose(results.returns[0], [[-0.2, -0.1], [-0.8, -0.4], [-0.4, -0.2]], atol=1e-6)
    assert results.train_steps.tolist() == [[0, 0, 0]]


def test_meta_updates_are_on_tasks_that_were_met_and_on_all_of_them():
    agent = Halves(Aim(), HalvesConfig(meta_batch_size=4))
    play_stream(agent, make_stream(Aim(), 6), k=1, updates=10)
    assert [met for met, _ in agent.batches] == [t for t in range(1, 7) for _ in range(10)]
    drawn = [set[int]() for _ in range(7)]
    for met, batch in agent.batches:
        assert set(batch) <= set(range(met)), "a task of the future"
        drawn[met] |= set(batch)
    # 40 draws of at most 6 tasks: one is missing with a chance of 6 (5/6)^40 = .004
    assert drawn[1:] == [set(range(met)) for met in range(1, 7)]


def test_a_task_that_is_drawn_twice_is_played_with_other_randomness():
    agent = Halves(Aim(), HalvesConfig(meta_batch_size=4))
    play_stream(agent, stream_of(0.2, 0.8), k=1, updates=2)
    assert all(len(set(keys)) == 4 for keys in agent.keys)
    assert len({key for keys in agent.keys for key in keys}) == 16


def test_in_hindsight_the_agent_is_trained_on_the_whole_stream_before():
    agent = Halves(Aim(), HalvesConfig(meta_batch_size=64))
    results = play_stream(agent, stream_of(0.2, 0.8), k=1, updates=3, in_hindsight=True)
    assert [met for met, _ in agent.batches] == [0] * 6
    assert {index for _, batch in agent.batches for index in batch} == {0, 1}
    assert results.train_steps.tolist() == [[42, 42]]
    # the guess is one number for both tasks, so what one task gains the other loses: -.6 in total
    np.testing.assert_allclose(results.returns[0].sum(0), [-0.6, -0.3], atol=1e-6)
    assert results.label == "halves in hindsight"
    online = play_stream(Halves(Aim()), stream_of(0.2, 0.8), k=1, updates=3)
    best = results.returns[0, :, -1]
    np.testing.assert_allclose(online.regret(results)[0, :, -1], np.cumsum(best - [-0.1, -0.3]), atol=1e-6)


def play_small(seeds: tuple[int, ...] = (0, 1), agent: str = "maml") -> OnlineResults:
    streams = [make_stream(NAVIGATION, 3, "drifting", seed) for seed in seeds]
    agents = [metarl.make_agent(agent, NAVIGATION, seed=seed, **SMALL) for seed in seeds]
    return play_stream(agents, streams, k=1, updates=2, episodes=2, floor_episodes=2)


def test_the_same_seeds_give_the_same_bits():
    first, again, alone = play_small(), play_small(), play_small((1,))
    for name in ("returns", "env_steps", "train_steps"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        np.testing.assert_array_equal(getattr(first, name)[1:], getattr(alone, name))
    assert not np.array_equal(first.returns[0], first.returns[1])
    np.testing.assert_array_equal(first.references["floor"], again.references["floor"])
    # 3 tasks x 2 episodes x 100 steps, before and after the inner step, twice a round
    assert first.train_steps.tolist() == [[0, 2400, 4800]] * 2
    assert first.env_steps[:, :, 1].tolist() == [[100] * 3] * 2


@pytest.mark.parametrize(
    ("agent", "family", "config"),
    [
        ("rl2", "metarl/BernoulliBandit-v0", BATCH),
        ("rl2", 'metarl/Switching-v0{"family": "metarl/BernoulliBandit-v0"}', BATCH),
        ("pearl", f"{NAVIGATION}:semicircle", PEARL),
        ("multi_task", NAVIGATION, BATCH),
        ("thompson_sampling", "metarl/BernoulliBandit-v0", {}),
    ],
)
def test_agents_of_every_kind_play_streams(agent: str, family: str, config: dict[str, Any]):
    made = metarl.make_agent(agent, family, **config)
    results = play_stream(made, make_stream(family, 2), k=1, episodes=1, floor_episodes=1)
    assert results.returns.shape == (1, 2, 2)
    assert (results.train_steps[0, 1] > 0) == made.learns


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"agents": []}, "agents is nothing, expected one agent"),
        ({"agents": Stays(Aim()), "updates": 1}, "updates is 1, expected 0, because stays does not learn"),
        ({"updates": -1}, "updates is -1, expected a whole number"),
        ({"episodes": 0}, "episodes is 0, expected a whole number, at least 1"),
        ({"k": -1}, "k is -1"),
        ({"streams": []}, r"streams is \[\], expected 1 of metarl.online.make_stream"),
        ({"streams": [make_stream(NAVIGATION, 2)]}, "family of the stream is 'metarl/PointNav.*expected 'toy/Aim-v0'"),
        (
            {"agents": [Halves(Aim()), Halves(Aim(), seed=1)], "streams": [stream_of(0.1), stream_of(0.1, 0.2)]},
            "kinds and lengths of the streams is .* expected the same for all",
        ),
    ],
)
def test_what_cannot_be_played_is_refused_in_one_sentence(changes: dict[str, Any], sentence: str):
    given: dict[str, Any] = {"agents": Halves(Aim()), "streams": stream_of(0.1)} | changes
    with pytest.raises(metarl.InvalidValueError, match=sentence):
        play_stream(given.pop("agents"), given.pop("streams"), **given)


def test_the_number_of_meta_updates_is_checked_before_the_first():
    agent = metarl.make_agent("multi_task", NAVIGATION, anneal_iterations=3, **BATCH)
    with pytest.raises(metarl.InvalidValueError, match="anneal_iterations"):
        play_stream(agent, make_stream(NAVIGATION, 4), updates=1)


def test_one_agent_cannot_be_two_learners_and_one_stream_not_two():
    first, second = Halves(Aim()), Halves(Aim())
    with pytest.raises(metarl.InvalidValueError, match="agents is the same one twice, expected an agent of its own"):
        play_stream([first, first], [stream_of(0.1), stream_of(0.2)], k=1)
    with pytest.raises(metarl.InvalidValueError, match=r"seeds of the agents is .*different ones for equal streams"):
        play_stream([first, second], [stream_of(0.1), stream_of(0.1)], k=1)
    small, wide = (metarl.make_agent("multi_task", NAVIGATION, hidden=(n,), seed=n) for n in (4, 5))
    streams = [make_stream(NAVIGATION, 2, seed=seed) for seed in (0, 1)]
    with pytest.raises(metarl.InvalidValueError, match="hyperparameters of the agents"):
        play_stream([small, wide], streams, k=0)


def test_an_agent_is_not_trained_on_held_out_tasks():
    agent = metarl.make_agent("multi_task", NAVIGATION, **BATCH)
    held_out = Stream("mine", 0, metarl.make_family(NAVIGATION).tasks("test", 2))
    with pytest.raises(metarl.InvalidValueError, match="split of the stream's tasks is 'test', expected 'train', or"):
        play_stream(agent, held_out, k=0, episodes=1)
    assert play_stream(agent, held_out, k=0, updates=0, episodes=1, floor_episodes=1).returns.shape == (1, 2, 1)


def test_an_agent_whose_train_tasks_must_stay_is_refused():
    agent = metarl.make_agent("shared_trunk", NAVIGATION, meta_batch_size=2, episodes=1, hidden=(4,), eval_steps=100)
    with pytest.raises(metarl.InvalidValueError, match="updates is 1, expected 0, because the train tasks of shared"):
        play_stream(agent, make_stream(NAVIGATION, 2), k=1)


def test_the_seed_of_a_stream_is_checked_before_it_is_played():
    with pytest.raises(metarl.InvalidValueError, match="seed of the stream is 'x', expected a"):
        make_stream(NAVIGATION, 2, seed="x")  # type: ignore[arg-type]
