"""The experiment on the inner estimators' bias: what is exact is exact, what is biased is biased, and it is drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
import gradient_bias  # noqa: E402

TINY = gradient_bias.Options(mdps=3, states=2, horizons=(1, 3), sampled_horizon=2, trajectories=(5, 500), repeats=30)


@pytest.fixture(scope="module")
def report() -> dict:
    return gradient_bias.measure(TINY)


def errors(report: dict, method: str, horizon: int) -> np.ndarray:
    (found,) = (r for r in report["limit"] if r["method"] == method and r["horizon"] == horizon)
    return np.array(found["relative_error"])


def test_dice_is_exact_and_lvc_for_one_step(report: dict) -> None:
    for method, horizon in (("dice", 1), ("dice", 3), ("loaded_dice", 1), ("loaded_dice", 3), ("lvc", 1)):
        assert errors(report, method, horizon).max() < 1e-10, (method, horizon)


def test_naive_and_lvc_are_biased(report: dict) -> None:
    assert errors(report, "naive", 1).min() > 1e-3
    assert errors(report, "naive", 3).mean() > 0.1
    assert 1e-3 < errors(report, "lvc", 3).mean() < errors(report, "naive", 3).mean()


def test_naive_is_first_order_where_logits_are_linear(report: dict) -> None:
    for horizon in TINY.horizons:
        np.testing.assert_allclose(errors(report, "naive", horizon), errors(report, "first_order", horizon), atol=1e-10)


def test_the_exact_meta_gradient_is_that_of_finite_differences() -> None:
    mdps = gradient_bias.random_mdps(TINY)
    paths = gradient_bias.all_trajectories(mdps, 3)
    torch.testing.assert_close(paths.probability.sum(1), torch.ones(3, dtype=torch.float64))

    def adapted(logits: torch.Tensor) -> torch.Tensor:
        theta = logits.clone().requires_grad_()
        (slope,) = torch.autograd.grad(gradient_bias.expected_return(paths, theta).sum(), theta)
        return gradient_bias.expected_return(paths, logits + 2.0 * slope)

    nudge = torch.zeros_like(mdps.logits)
    nudge[:, 1, 0] = 1e-5
    numeric = (adapted(mdps.logits + nudge) - adapted(mdps.logits - nudge)) / 2e-5
    exact = gradient_bias.exact_meta_gradient(paths, mdps.logits, 2.0)[:, 1, 0]
    torch.testing.assert_close(exact, numeric, rtol=1e-6, atol=1e-8)


def test_more_trajectories_bring_samples_closer(report: dict) -> None:
    found = {(r["method"], r["trajectories"]): r for r in report["sampled"]}
    for method in gradient_bias.METHODS:
        few, many = found[method, 5], found[method, 500]
        assert np.mean(many["deviation"]) < 0.3 * np.mean(few["deviation"])  # 1 / sqrt(100), roughly
    assert np.mean(found["dice", 500]["cosine"]) > 0.99
    assert np.mean(found["dice", 500]["bias"]) < 0.1


def test_the_same_seed_gives_the_same_numbers(report: dict) -> None:
    again = gradient_bias.measure(replace(TINY, trajectories=(5,)))
    assert again["limit"] == report["limit"]
    assert again["sampled"] == [r for r in report["sampled"] if r["trajectories"] == 5]


def test_figure_and_caption(report: dict) -> None:
    drawn = gradient_bias.figure(report)
    assert [len(ax.get_lines()) for ax in drawn.axes] == [len(gradient_bias.METHODS)] * 3
    assert "3 random problems" in gradient_bias.caption(report)
    assert gradient_bias.text_of(report).count("\n") < 300
