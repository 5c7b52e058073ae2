"""The benchmark of two revisions: a turn measures the code of its tree."""

from __future__ import annotations

import json
from pathlib import Path

import benchmark_revisions


def test_a_turn_trains_with_the_code_of_a_tree():
    work = json.dumps(["rl2", "metarl/BernoulliBandit-v0", {"meta_batch_size": 8, "hidden": 4}, 1, 2])
    assert 0 < benchmark_revisions.turn(Path(benchmark_revisions.ROOT), work) < 60
