"""The regret of choosing a learner, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from tables import strategies

from metarl.report.figures.training import Training


def test_regret_by_hand():
    """Two tasks: members pay (10, 2) and (6, 8), so the second is the better one, and each is the best in one task."""
    first = np.array([[[9.0, 11.0], [1.0, 3.0]]])
    second = np.array([[[6.0, 6.0], [8.0, 8.0]]])
    chooser = np.array([[[8.0, 8.0], [5.0, 5.0]]])
    found = strategies.regret(chooser, [first, second])
    assert found.best == 1
    assert found.single[0] == pytest.approx((6 + 8) / 2 - 6.5)
    assert found.hindsight == pytest.approx((10 + 8) / 2 - 6.5)
    assert found.single[1] < found.single[0] < found.single[2]


def test_regret_counts_all_trials_of_a_task():
    chooser, member = np.array([[[0.0, 4.0]]] * 1), np.array([[[3.0, 3.0]]])
    with np.errstate(all="ignore"):
        found = strategies.regret(np.repeat(chooser, 3, 1), [np.repeat(member, 3, 1)])
    assert found.single[0] == pytest.approx(1.0)
    assert found.hindsight == pytest.approx(1.0)


def test_steps_to_a_common_return_by_hand():
    """Means over seeds after the last k: -9, -4, -3 and -8, -6, -5; both reach -5, after 20 and 300 steps."""
    fast = Training(
        np.array([0.0, 20.0, 40.0]), [0], np.array([[[-8.0], [-4.0], [-2.0]], [[-10.0], [-4.0], [-4.0]]]), ""
    )
    slow = Training(np.array([0.0, 200.0, 300.0]), [0, 1], np.array([[[0.0, -8.0], [0.0, -6.0], [0.0, -5.0]]]), "")
    assert strategies.reached([fast, slow]) == (-5.0, (20.0, 300.0), (True, False))
    assert strategies.reached([slow, fast]) == (-5.0, (300.0, 20.0), (False, True))
