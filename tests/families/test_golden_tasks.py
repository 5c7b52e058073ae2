"""Tasks have the same bits on every machine: content hashes that were computed once, and what they rest on."""

from __future__ import annotations

import json

import golden_tasks
import numpy as np
import pytest
import scipy.stats
import torch
from cases import LARGE

import metarl
from metarl import exact
from metarl.rng import Rng, make_key

pytestmark = pytest.mark.delicate

GOLDEN = json.loads(golden_tasks.FILE.read_text())


def words(*shape: int) -> torch.Tensor:
    """Random words, `int64 [*shape]`."""
    return Rng(torch.tensor([make_key("words")])).bits(int(np.prod(shape))).view(*shape)


@pytest.mark.parametrize("id", [id for id in golden_tasks.ids() if id not in LARGE])
def test_the_first_tasks_of_every_split_are_those_of_every_other_machine(id: str) -> None:
    assert golden_tasks.hashes(id) == GOLDEN[id]


def test_every_golden_hash_belongs_to_a_family() -> None:
    missing = {id for id in GOLDEN if id not in golden_tasks.ids()}
    assert {
        id for id in missing if metarl.families.registry.families[metarl.families.registry.base_id(id)].available
    } == set()


def test_logarithms_and_powers_agree_with_the_true_ones() -> None:
    x = np.exp(np.linspace(-700.0, 700.0, 20_001))
    np.testing.assert_allclose(exact.log(x), np.log(x), rtol=1e-15, atol=1e-15)
    near = 1.0 + np.linspace(-0.3, 0.4, 2001)
    np.testing.assert_allclose(exact.log(near), np.log(near), rtol=1e-15, atol=2e-16)
    power = np.linspace(-700.0, 700.0, 20_001)
    np.testing.assert_allclose(exact.exp(power), np.exp(power), rtol=1e-15)
    assert exact.log(1.0) == 0.0
    assert exact.exp(0.0) == 1.0


def test_normal_draws_are_the_quantiles_of_uniform_ones() -> None:
    bits = torch.cat([words(20_000), torch.tensor([0, -1, 1 << 12, (1 << 63) - 1, -(1 << 63)])])
    p = exact.uniform(bits)
    assert ((p > 0) & (p < 1)).all()
    # above 1/2 a quantile is read off the rest to 1, which 1 - p gives exactly
    true = np.where(p < 0.5, scipy.stats.norm.ppf(np.minimum(p, 1 - p)), -scipy.stats.norm.ppf(np.minimum(p, 1 - p)))
    np.testing.assert_allclose(exact.normal(bits), true, rtol=1e-13, atol=1e-15)
    assert scipy.stats.kstest(exact.normal(words(20_000)), "norm").pvalue > 1e-3


def test_gaps_are_uniform_on_the_simplex() -> None:
    gaps = exact.simplex(words(20_000, 3))
    np.testing.assert_array_equal(gaps.sum(-1), 1.0)
    assert (gaps >= 0).all()
    for axis in range(4):  # an element of a flat Dirichlet of 4 is Beta(1, 3)
        assert scipy.stats.kstest(gaps[:, axis], scipy.stats.beta(1, 3).cdf).pvalue > 1e-3
    np.testing.assert_array_equal(exact.simplex(words(2, 0)), 1.0)


def test_log_uniform_tasks_are_uniform_in_the_logarithm() -> None:
    dist = metarl.LogUniform(0.01, 300.0)
    values = dist.sample(Rng(torch.arange(20_000))).numpy()
    assert dist.contains(values).all()
    shares = (np.log(values.astype(np.float64)) - np.log(0.01)) / np.log(30_000.0)
    assert scipy.stats.kstest(shares, "uniform").pvalue > 1e-3
