"""The experiment on streams: its files are of the streams that are made here, and the tables tell them."""

from __future__ import annotations

import numpy as np
import online_streams
import pytest

from metarl.online import OnlineResults, make_stream
from metarl.online.streams import KINDS


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("learner", online_streams.LEARNERS)
def test_a_file_is_of_the_streams_that_are_made_here(kind: str, learner: str) -> None:
    results, options = OnlineResults.load(online_streams.file_of(kind, learner)), online_streams.Options()
    streams = [make_stream(online_streams.FAMILY, options.rounds, kind, seed) for seed in options.seeds]  # type: ignore[arg-type]
    assert results.task_hashes == [stream.tasks.hash for stream in streams]
    agent, _, in_hindsight = online_streams.LEARNERS[learner]
    assert (results.agent, results.stream, results.meta["in_hindsight"]) == (agent, kind, in_hindsight)


def test_the_first_round_is_found_again() -> None:
    """Before any meta-update, so the agents have their initial parameters."""
    options = online_streams.Options(rounds=1, updates=0)
    again = online_streams.play("stationary", "scratch", options)
    stored = OnlineResults.load(online_streams.file_of("stationary", "scratch"))
    np.testing.assert_allclose(again.returns[:, 0], stored.returns[:, 0], rtol=1e-3)


def test_the_tables_have_a_line_for_every_learner() -> None:
    text = online_streams.tables()
    for label in online_streams.LABELS.values():
        assert text.count(f"| {label} | ") == len(KINDS)
