"""Keyed randomness: the published generator, its distributions, and that nothing depends on who asked before."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from metarl.rng import Rng, fold_in, make_key, mix

WORD = 1 << 64
# SplitMix64 seeded with 1234567, as published with the reference implementation (Vigna, splitmix64.c; Rosetta Code).
SEED_1234567 = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
]
DRAWS = 100_000


def splitmix64(seed, count):
    """The algorithm once more, sequential and in plain integers."""
    state, out = seed, []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % WORD
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % WORD
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % WORD
        out.append(z ^ (z >> 31))
    return out


def unsigned(tensor):
    return [int(x) % WORD for x in tensor.flatten()]


def envs(name, count=DRAWS):
    return Rng(fold_in(make_key("test", name), torch.arange(count)))


def test_bits_are_splitmix64():
    assert splitmix64(1234567, 5) == SEED_1234567  # the test's own copy is right, too
    assert unsigned(Rng(torch.tensor([1234567])).bits(5)) == SEED_1234567


def test_later_draws_of_a_step_go_on_where_earlier_ones_stopped():
    rng = Rng(torch.tensor([1234567]))
    assert unsigned(rng.bits(2)) + unsigned(rng.bits(3)) == SEED_1234567


@pytest.mark.parametrize("steps", [1, 8])
def test_a_fork_draws_the_same_from_the_same_place_on(steps):
    """Also after the other one was given new keys."""
    first, keys = Rng(torch.tensor([3, 4]), steps), torch.tensor([5, 6])
    first.seek(2).uniform(1)
    second = first.fork()
    expected = Rng(torch.tensor([3, 4])).seek(2).uniform(3)[:, 1:]
    assert torch.equal(first.uniform(2), expected)
    first.rekey(torch.tensor([True, True]), keys, 2)
    first.seek(2).uniform(1)
    first.uniform(2)
    assert torch.equal(second.uniform(2), expected)


def test_steps_are_two_to_the_24_outputs_apart():
    # output number n of the generator is its finaliser of seed + n * gamma: 5 * 2^24 + 1 leads step 5
    seed = (1234567 + 5 * (1 << 24) * 0x9E3779B97F4A7C15) % WORD
    assert unsigned(Rng(torch.tensor([1234567])).seek(5).bits(3)) == splitmix64(seed, 3)


def test_keys_with_the_top_bit_set_are_unsigned_seeds():
    assert unsigned(Rng(torch.tensor([-1])).bits(4)) == splitmix64(WORD - 1, 4)


def test_uniform_is_the_top_24_bits():
    # 6457827717110365317 = 5873360.0... * 2^40, and 5873360 / 2^24 = .350079
    top = SEED_1234567[0] >> 40
    value = float(Rng(torch.tensor([1234567])).uniform()[0])
    assert value == top / 2**24
    assert value == pytest.approx(0.350079, abs=1e-6)


def test_mix_is_a_bijection_on_a_sample():
    words = torch.cat([torch.arange(50_000), -torch.arange(1, 50_000), torch.arange(50_000) << 40])
    assert len(mix(words).unique()) == len(words.unique())


def test_make_key_is_stable():
    # Literal values: changing one changes every task, every trial and every published number.
    assert make_key() == 0
    assert make_key(0) == -7940833992470995459
    assert make_key("train") == -2801568674866784884
    assert make_key("task", "metarl/PointNavigation-v0", "test", 0) == 2346159173922119488
    assert int(fold_in(make_key("train"), torch.tensor(7))) == -3505506089145844393


def test_make_key_tells_paths_apart():
    paths = [(), (0,), (1,), (-1,), ("0",), ("a",), ("a", "b"), ("b", "a"), ("ab",), (0, 0), (0, 1), (1, 0), (1 << 63,)]
    assert len({make_key(*p) for p in paths}) == len(paths)
    assert all(-(1 << 63) <= make_key(*p) < 1 << 63 for p in paths)


def test_make_key_takes_numpy_integers():
    assert make_key("seed", np.int64(3)) == make_key("seed", 3)


def test_fold_in():
    key, data = make_key("k"), torch.arange(DRAWS)
    keys = fold_in(key, data)
    assert len(keys.unique()) == DRAWS  # differing data differ
    assert torch.equal(keys, fold_in(torch.tensor(key), data))  # a number or a tensor of one
    assert int(keys[17]) == int(fold_in(key, torch.tensor(17)))  # a batch equals its members
    assert fold_in(torch.arange(3).unsqueeze(1), torch.arange(4)).shape == (3, 4)
    one_two = fold_in(fold_in(key, torch.tensor(1)), torch.tensor(2))
    two_one = fold_in(fold_in(key, torch.tensor(2)), torch.tensor(1))
    assert int(one_two) != int(two_one)


def draw(rng, t):
    """One step of a family that draws everything, several times."""
    rng.seek(t)
    probs = torch.tensor([[0.1, 0.2, 0.7]]).expand(len(rng.keys), 3)
    return [
        rng.uniform(2),
        rng.normal(3),
        rng.uniform(),
        rng.exponential(2, 2),
        rng.integers(7),
        rng.categorical(probs),
        rng.normal(),
        rng.bits(2),
        rng.uniform(2),
    ]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_shapes():
    shapes = [tuple(x.shape) for x in draw(envs("shapes", 5), 0)]
    assert shapes == [(5, 2), (5, 3), (5,), (5, 2, 2), (5,), (5,), (5,), (5, 2), (5, 2)]


def test_a_batch_equals_its_members():
    keys = fold_in(make_key("members"), torch.arange(6))
    batch, alone = draw(Rng(keys, 9), 3), [draw(Rng(k.view(1), 9), 3) for k in keys]
    for which, values in enumerate(batch):
        assert torch.equal(values, torch.cat([single[which] for single in alone]))


@pytest.mark.parametrize("hint", [2, 7, 20, 1000, 1 << 30])
@pytest.mark.parametrize("order", ["forward", "backward", "shuffled", "stuttering"])
def test_making_draws_ahead_changes_nothing(hint, order):
    steps = {
        "forward": range(20),
        "backward": range(19, -1, -1),
        "shuffled": np.random.default_rng(0).permutation(20).tolist(),
        "stuttering": [0, 0, 1, 0, 2, 2, 9, 3, 9, 19, 0],
    }[order]
    keys = fold_in(make_key("ahead"), torch.arange(4))
    ahead, plain = Rng(keys, hint), Rng(keys)
    for t in steps:
        expected = draw(Rng(keys), t)
        assert same(draw(ahead, t), expected), f"step {t}"
        assert same(draw(plain, t), expected), f"step {t}"


def test_making_draws_ahead_in_several_blocks_changes_nothing():
    # 3 000 environments * 20 numbers leave room for 2 steps in a block of 2^17
    keys = fold_in(make_key("blocks"), torch.arange(3000))
    ahead, plain = Rng(keys, 7), Rng(keys)
    for t in range(7):
        assert torch.equal(ahead.seek(t).uniform(20), plain.seek(t).uniform(20))


def test_global_generators_are_not_touched():
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    draw(envs("global", 3), 0)
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert (np.random.get_state()[1] == numpy_before).all()  # noqa: NPY002


def test_a_step_has_room_for_two_to_the_24_numbers():
    rng = Rng(torch.tensor([1]))
    rng._offset = (1 << 24) - 1
    assert unsigned(rng.bits(1)) != unsigned(Rng(torch.tensor([1])).seek(1).bits(1))  # the last one is its own
    with pytest.raises(ValueError, match="one step drew 16777217 numbers"):
        rng.bits(1)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_draws_what_the_cpu_draws():
    keys = fold_in(make_key("cuda"), torch.arange(1000))
    exact, close = {"uniform", "integers", "bits"}, {"normal", "exponential"}
    for hint in (1, 16):
        host, device = Rng(keys, hint), Rng(keys.cuda(), hint)
        for name, arguments in (
            ("bits", (3,)),
            ("uniform", (3,)),
            ("integers", (9,)),
            ("normal", (3,)),
            ("exponential", ()),
        ):
            a = getattr(host.seek(5), name)(*arguments)
            b = getattr(device.seek(5), name)(*arguments).cpu()
            assert name in exact | close
            torch.testing.assert_close(a, b, rtol=0, atol=0 if name in exact else 1e-5)
    assert torch.equal(fold_in(keys.cuda(), torch.tensor(3, device="cuda")).cpu(), fold_in(keys, torch.tensor(3)))


# Seeds are fixed, so that these pass or fail for good; a right generator had a chance of 1 in 1000 to fail each.

KINDS = {
    # scipy's law, mean, variance
    "uniform": (stats.uniform, 1 / 2, 1 / 12),
    "normal": (stats.norm, 0.0, 1.0),
    "exponential": (stats.expon, 1.0, 1.0),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("along", ["envs", "numbers", "steps"])
def test_continuous_draws_follow_their_law(kind, along):
    law, mean, variance = KINDS[kind]
    if along == "envs":
        x = getattr(envs(kind), kind)()
    elif along == "numbers":
        x = getattr(envs(kind, 1), kind)(DRAWS)[0]
    else:
        rng = envs(kind, DRAWS // 100)
        x = torch.cat([getattr(rng.seek(t), kind)() for t in range(100)])
    x = x.double().numpy()
    assert len(x) == DRAWS
    assert abs(x.mean() - mean) < 4 * np.sqrt(variance / DRAWS)
    fourth = law.moment(4) if kind != "exponential" else 9.0  # central fourth moments: 3 (normal), 9 (exponential)
    fourth = 1 / 80 if kind == "uniform" else fourth
    assert abs(x.var() - variance) < 4 * np.sqrt((fourth - variance**2) / DRAWS)
    assert stats.kstest(x, law.cdf).pvalue > 1e-3


def test_supports():
    u = envs("support").uniform(10)
    assert float(u.min()) >= 0.0
    assert float(u.max()) < 1.0
    assert u.dtype == torch.float32
    assert float(envs("support").exponential(10).min()) >= 0.0
    # Box and Muller from 24 bits: at most sqrt(2 * 24 * ln 2) = 5.768
    assert float(envs("support").normal(10).abs().max()) < 5.77


def test_the_ends_of_the_uniform_range_are_reached_and_harmless():
    from metarl.rng import _to_normal, _to_uniform

    ends = torch.tensor([0, -1])  # all 64 bits clear, all set
    assert _to_uniform(ends).tolist() == [0.0, 1 - 2**-24]
    assert torch.isfinite(_to_normal(ends)).all()

    class Ends(Rng):
        def uniform(self, *shape):
            return _to_uniform(ends)

    # -log(1 - u): 0 at the lower end, 24 log 2 = 16.6355 at the upper
    assert Ends(torch.arange(2)).exponential().tolist() == pytest.approx([0.0, 16.6355], abs=1e-4)
    assert Ends(torch.arange(2)).integers(3).tolist() == [0, 2]


def test_both_halves_of_box_and_muller_are_independent():
    pair = envs("pair").normal(2).double().numpy()
    assert abs(np.corrcoef(pair.T)[0, 1]) < 4 / np.sqrt(DRAWS)
    assert abs(np.corrcoef((pair**2).T)[0, 1]) < 4 / np.sqrt(DRAWS)
    assert stats.kstest(pair[:, 1], "norm").pvalue > 1e-3


def test_integers_are_uniform():
    for high in (2, 7, 100):
        x = envs(f"integers {high}").integers(high)
        counts = torch.bincount(x, minlength=high).numpy()
        assert len(counts) == high
        assert stats.chisquare(counts).pvalue > 1e-3


def test_categorical_follows_its_probabilities():
    probs = torch.tensor([0.5, 0.25, 0.2, 0.05])
    x = envs("categorical").categorical(probs.expand(DRAWS, 4))
    assert stats.chisquare(torch.bincount(x, minlength=4).numpy(), probs.double().numpy() * DRAWS).pvalue > 1e-3


def test_categorical_takes_a_distribution_per_slot_and_never_the_impossible():
    probs = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.5, 0.5]])
    rng = envs("per environment", 4)
    x = torch.stack([rng.seek(t).categorical(probs) for t in range(2000)])
    assert (x[:, :3] == torch.tensor([1, 0, 2])).all()
    assert set(x[:, 3].tolist()) == {1, 2}


def test_streams_are_uncorrelated():
    # consecutive raw keys, keys folded from consecutive numbers, and consecutive steps of one key
    n = 20_000
    raw = Rng(torch.arange(12)).uniform(n)
    folded = Rng(fold_in(make_key("streams"), torch.arange(12))).uniform(n)
    steps = torch.cat([Rng(torch.tensor([5])).seek(t).uniform(n) for t in range(12)])
    for streams in (raw, folded, steps):
        r = np.corrcoef(streams.double().numpy())
        assert np.abs(r[np.triu_indices(12, 1)]).max() < 4.5 / np.sqrt(n)  # 66 pairs


def test_neighbours_in_a_stream_are_uncorrelated():
    x = envs("lag", 1).uniform(DRAWS)[0].double().numpy()
    for lag in (1, 2, 3, 4):
        assert abs(np.corrcoef(x[:-lag], x[lag:])[0, 1]) < 4 / np.sqrt(DRAWS)


@pytest.mark.parametrize("shape", [1.0, 1.5, 7.0, 300.0])
def test_gamma_has_its_distribution(shape):
    """Kolmogorov and Smirnov's distance of 20,000 draws is below 1.95 / sqrt(20,000) = .0138 but once in a thousand."""
    draws = Rng(fold_in(make_key("gamma"), torch.arange(20_000))).gamma(torch.full((20_000,), shape))
    assert stats.kstest(draws.numpy(), "gamma", (shape,)).statistic < 0.0138


def test_beta_and_dirichlet_have_their_moments():
    """Beta(3, 2): mean .6, variance .04; Dirichlet(1, 2, 5): means 1/8, 2/8, 5/8. Tolerance: 5 standard errors."""
    rng = Rng(fold_in(make_key("beta"), torch.arange(20_000)))
    beta = rng.beta(torch.full((20_000,), 3.0), torch.full((20_000,), 2.0))
    assert float(beta.mean()) == pytest.approx(0.6, abs=0.0071)
    assert float(beta.var()) == pytest.approx(0.04, abs=0.002)
    shares = rng.dirichlet(torch.tensor([1.0, 2.0, 5.0]).expand(20_000, 3))
    torch.testing.assert_close(shares.sum(-1), torch.ones(20_000))
    torch.testing.assert_close(shares.mean(0), torch.tensor([0.125, 0.25, 0.625]), rtol=0, atol=0.0057)


def test_gamma_of_a_batch_equals_its_singles_and_leaves_later_draws_alone():
    keys, shape = fold_in(make_key("gamma"), torch.arange(300)), 1.0 + torch.arange(600.0).view(300, 2) % 7
    rng = Rng(keys).seek(5)
    batch, after = rng.gamma(shape), rng.uniform()
    alone = Rng(keys[7:8]).seek(5)
    assert torch.equal(alone.gamma(shape[7:8])[0], batch[7])
    assert torch.equal(alone.uniform(), after[7:8])
    assert not torch.equal(batch[:, 0], Rng(keys).seek(6).gamma(shape)[:, 0])
