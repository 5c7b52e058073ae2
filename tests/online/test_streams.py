"""Streams: which tasks come in which order, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from toy_streams import Aim, stream_of

import metarl
from metarl.families.tasks import content_hash
from metarl.online import Stream, make_stream

NAVIGATION = "metarl/PointNavigation-v0"


def test_a_stationary_stream_has_train_tasks_and_each_once():
    stream = make_stream(NAVIGATION, 50, seed=3)
    family = metarl.make_family(NAVIGATION)
    assert (stream.kind, stream.seed, len(stream)) == ("stationary", 3, 50)
    assert not family.held_out(stream.tasks).any()
    assert len(np.unique(content_hash(stream.tasks.values))) == 50
    assert make_stream(NAVIGATION, 50, seed=3).tasks.hash == stream.tasks.hash
    assert make_stream(NAVIGATION, 50, seed=4).tasks.hash != stream.tasks.hash
    assert make_stream(NAVIGATION, 20, seed=3).tasks.hash == stream.tasks[:20].hash
    training = family.tasks("train", 200, 3)  # that a training with this seed begins with
    assert not np.isin(content_hash(stream.tasks.values), content_hash(training.values)).any()


def test_a_drifting_stream_has_the_same_tasks_from_one_end_to_the_other():
    stationary, drifting = make_stream(NAVIGATION, 40, seed=1), make_stream(NAVIGATION, 40, "drifting", 1)
    x = drifting.tasks.values["goal"][:, 0]
    assert (np.diff(x) >= 0).all()
    assert x[0] < -0.3
    assert x[-1] > 0.3  # of 40 draws from [-.5, .5], one is below -.3 and one above .3 but for a chance of .0003
    np.testing.assert_array_equal(np.sort(drifting.tasks.index), stationary.tasks.index)
    assert drifting.tasks[np.argsort(drifting.tasks.index)].hash == stationary.tasks.hash


def test_a_stream_drifts_along_the_parameter_that_is_asked():
    first = make_stream("metarl/CartPole-v0", 12, "drifting")
    name = list(metarl.make_family("metarl/CartPole-v0").task_space)[1]
    other = make_stream("metarl/CartPole-v0", 12, "drifting", along=name)
    assert first.tasks.hash != other.tasks.hash
    assert (np.diff(other.tasks.values[name]) >= 0).all()
    assert (np.diff(make_stream(Aim(), 9, "drifting").tasks.values["target"]) >= 0).all()  # its choice has no order


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((NAVIGATION, 0), "rounds is 0, expected a whole number of tasks, at least 1"),
        ((NAVIGATION, 2.5), "rounds is 2.5, expected a whole number"),
        ((NAVIGATION, 3, "drift"), "stream is 'drift', expected .*did you mean 'drifting'"),
        ((NAVIGATION, 3, "drifting", 0, "gaol"), "along is 'gaol', expected .*did you mean 'goal'"),
        ((NAVIGATION, 3, "stationary", 0, "goal"), "along is 'goal', expected nothing"),
        (("metarl/GridNavi-v0", 22), "rounds is 22, expected at most 21, the train tasks of metarl/GridNavi-v0"),
        ((f"{NAVIGATION}:corners", 3, "drifting"), "its parameter goal is a Choice, and one of Uniform.* can drift"),
        (
            ('metarl/Switching-v0{"family": "metarl/PointNavigation-v0"}', 3, "drifting"),
            "its parameter goal is a Repeated",
        ),
    ],
)
def test_what_is_no_stream_is_refused_in_one_sentence(arguments: Any, sentence: str):
    with pytest.raises(metarl.InvalidValueError, match=sentence):
        make_stream(*arguments)


def test_a_stream_of_ones_own_has_tasks_and_each_once():
    assert len(stream_of(0.1, 0.1)) == 2  # other tasks, of the same content
    tasks = stream_of(0.1, 0.5).tasks
    with pytest.raises(metarl.InvalidValueError, match="tasks of the stream is nothing"):
        Stream("mine", 0, tasks[:0])
    with pytest.raises(metarl.InvalidValueError, match="tasks that are met once each"):
        Stream("mine", 0, tasks[[0, 0]])
