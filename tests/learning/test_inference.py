"""Beliefs, decoders, the evidence lower bound, and the replay of trials."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

import metarl
from metarl.agent import (
    Belief,
    Decoded,
    Factors,
    ProductEncoder,
    RecurrentEncoder,
    StepDecoder,
    TrialReplay,
    mlp,
    negative_elbo,
)
from metarl.rng import Rng


def rng(seed: int = 0) -> Rng:
    return Rng(torch.tensor([seed]))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def normal(belief: Belief) -> Normal:
    return Normal(belief.mean, (0.5 * belief.log_var).exp())


def test_kl_is_that_of_normal_distributions() -> None:
    first, second = (Belief(draw(4, 3, seed=s), draw(4, 3, seed=s + 1)) for s in (0, 2))
    torch.testing.assert_close(first.kl(second), kl_divergence(normal(first), normal(second)).sum(-1))
    torch.testing.assert_close(first.kl(first), torch.zeros(4))


def test_the_belief_before_the_first_is_the_standard_normal_distribution() -> None:
    belief = Belief(draw(3, 2, 4), draw(3, 2, 4, seed=1))
    before = belief.before()
    assert torch.equal(before.mean[1:], belief.mean[:-1])
    assert torch.equal(before.log_var[1:], belief.log_var[:-1])
    assert not before.mean[0].any()
    assert not before.log_var[0].any()


def test_samples_have_the_moments_of_the_belief() -> None:
    belief = Belief(torch.tensor([1.0, -2.0]), torch.tensor([1.0, 2.0]).log())
    z = belief.sample(draw(20_000, 2))
    torch.testing.assert_close(z.mean(0), belief.mean, atol=0.05, rtol=0)
    torch.testing.assert_close(z.var(0), torch.tensor([1.0, 2.0]), atol=0.1, rtol=0)


def test_a_belief_depends_on_the_past_alone() -> None:
    encoder = RecurrentEncoder(3, 8, 2)
    encoder.initialise(rng())
    x = draw(5, 4, 3)
    other = x.clone()
    other[3:] = draw(2, 4, 3, seed=1)
    a, b = encoder(x).mean, encoder(other).mean
    torch.testing.assert_close(a[:3], b[:3])
    assert (a[3:] != b[3:]).all()


def test_a_decoder_is_a_network_on_z_and_the_step_side_by_side() -> None:
    decoder = StepDecoder(2, 3, (6, 5), 4, rng())
    z, x = draw(7, 2, 2), draw(3, 2, 3, seed=1)
    out = decoder(z, x)
    assert out.shape == (7, 3, 2, 4)
    for s, t, b in ((0, 0, 0), (6, 2, 1), (3, 1, 0)):
        plain = mlp(dict(decoder.layers.items()), torch.cat([z[s, b], x[t, b]]))
        torch.testing.assert_close(out[s, t, b], plain)


class Last(nn.Module):
    """A decoder that tells the first entry of z, whatever the step."""

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return z[:, None, :, :1].expand(-1, x.shape[0], -1, -1)


def bound(mean: Tensor, target: Tensor, valid: Tensor, terms: list[int], kl_coef: float = 0.0) -> Tensor:
    """The loss of beliefs with means `[T, B, 1]` and variance 1, without noise."""
    belief = Belief(mean, torch.zeros_like(mean))
    decoded = [Decoded(Last(), torch.zeros_like(target), target, 2.0)]  # type: ignore[arg-type]
    noise = torch.zeros(len(terms), mean.shape[1], 1)
    return negative_elbo(belief, decoded, valid, noise, kl_coef, torch.tensor(terms))[0]


def test_the_bound_by_hand() -> None:
    """Two steps, one trial: z_0 = 1 and z_1 = 3 must tell the rewards 0 and 5, each of them both."""
    mean, reward, valid = (
        torch.tensor([1.0, 3.0]).view(2, 1, 1),
        torch.tensor([0.0, 5.0]).view(2, 1, 1),
        torch.ones(2, 1),
    )
    first, second = 2 * (1 + 16), 2 * (9 + 4)  # weight 2; past and future
    assert bound(mean, reward, valid, [0]).item() == first
    assert bound(mean, reward, valid, [1]).item() == second
    assert bound(mean, reward, valid, [0, 1]).item() == (first + second) / 2
    # KL of unit normals is half the squared distance of the means: to 0, then to the belief before
    assert bound(mean, reward, valid, [0, 1], kl_coef=1.0).item() == (first + 0.5 + second + 2.0) / 2


def test_some_decoded_steps_stand_for_the_whole_trial() -> None:
    """The mean of the losses over all choices of decoded steps is the loss with all of them."""
    settings = {"trial_episodes": 2, "hidden": 8, "replay_trials": 10, "meta_batch_size": 8, "minibatches": 1}
    agent = metarl.make_agent("varibad", "metarl/GridNavi-v0", **settings)
    metarl.train(agent, 1)
    model = agent.model  # type: ignore[attr-defined]
    trials = model.replay.sample(4, 0)
    trials["valid"][20:, 0] = 0.0
    whole, _ = model.loss(trials, 1, 0)
    model.config = replace(model.config, decoded_steps=1)
    valid = trials["valid"][..., 0]
    parts = {i: model._told(trials["step"], trials["reward"], valid, i) for i in range(200)}
    chosen = {
        next(t for t in range(30) if torch.equal(step[0], trials["step"][t])): i for i, (step, *_) in parts.items()
    }
    assert len(chosen) > 20  # nearly all of the 30 steps
    for place, key in chosen.items():
        _, reward, told = parts[key]
        assert torch.equal(reward[0], trials["reward"][place])
        assert torch.equal(told[0], 30 * valid[place])
    losses = []
    for place in range(30):
        told = (trials["step"][[place]], trials["reward"][[place]], 30 * valid[[place]])
        model._told = lambda *_, told=told: told
        losses.append(model.loss(trials, 1, 0)[0])
    torch.testing.assert_close(torch.stack(losses).mean(), whole, rtol=1e-5, atol=1e-5)


def test_every_belief_must_explain_the_past_and_the_future() -> None:
    mean, valid = torch.zeros(3, 1, 1), torch.ones(3, 1)
    for term in range(3):
        for step in range(3):
            reward = torch.zeros(3, 1, 1)
            reward[step] = 1.0
            assert bound(mean, reward, valid, [term]).item() == 2.0


def test_steps_after_the_end_count_for_nothing() -> None:
    mean, reward = torch.zeros(3, 2, 1), torch.ones(3, 2, 1)
    valid = torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 0.0]])  # the second trial has one step
    # step 0: trials of 3 and of 1 steps; step 1 and 2: the first trial alone
    assert bound(mean, reward, valid, [0]).item() == 2 * (3 + 1) / 2
    assert bound(mean, reward, valid, [1, 2]).item() == 2 * 3


# --- products of factors ---------------------------------------------------------------------------------------------


def test_a_product_of_normal_distributions_by_hand() -> None:
    """N(0, 1) and N(6, 1/2): precisions 1 and 2, so the mean is 6 * 2 / 3 and the variance 1 / 3."""
    first = Factors(torch.tensor([1.0]), torch.tensor([0.0]))
    belief = first.times(Factors(torch.tensor([2.0]), torch.tensor([12.0]))).belief
    torch.testing.assert_close(belief.mean, torch.tensor([4.0]))
    torch.testing.assert_close(belief.log_var.exp(), torch.tensor([1 / 3]))


def test_without_factors_the_belief_is_the_standard_normal_distribution() -> None:
    belief = Factors(torch.zeros(2, 3), torch.zeros(2, 3)).belief
    assert not belief.mean.any()
    assert not belief.log_var.any()


def test_a_factor_is_what_the_network_says_of_a_transition() -> None:
    encoder, x = ProductEncoder(3, (6,), 2, rng()), draw(4, 1, 3)
    belief = encoder(x).belief
    mean, raw = mlp(dict(encoder.layers.items()), x[:, 0]).chunk(2, -1)
    torch.testing.assert_close(belief.mean, mean)
    torch.testing.assert_close(belief.log_var.exp(), nn.functional.softplus(raw))


def test_the_order_of_transitions_does_not_matter_and_parts_multiply() -> None:
    encoder, x = ProductEncoder(3, (6,), 2, rng()), draw(4, 7, 3)
    whole = encoder(x)
    for other in (encoder(x.flip(1)), encoder(x[:, :3]).times(encoder(x[:, 3:]))):
        torch.testing.assert_close(other.precision, whole.precision)
        torch.testing.assert_close(other.weighted_mean, whole.weighted_mean)


def test_transitions_that_do_not_count_are_no_factors() -> None:
    encoder, x = ProductEncoder(3, (6,), 2, rng()), draw(2, 5, 3)
    valid = torch.tensor([[True, True, False, False, False], [False] * 5])
    found = encoder(x, valid)
    torch.testing.assert_close(found.precision[0], encoder(x[:1, :2]).precision[0])
    torch.testing.assert_close(found.weighted_mean[0], encoder(x[:1, :2]).weighted_mean[0])
    assert not found.precision[1].any()


# --- replay ----------------------------------------------------------------------------------------------------------


def trials(first: int, rows: int, steps: int = 2) -> dict[str, Tensor]:
    """Trials numbered from `first` on; every number in one is its own."""
    number = torch.arange(first, first + rows, dtype=torch.float32)
    return {"x": number.view(1, rows, 1).expand(steps, rows, 3), "done": (number > 0).expand(steps, rows)}


def replay(capacity: int = 5) -> TrialReplay:
    return TrialReplay("toy.replay_trials", capacity, trials(0, 1), torch.device("cpu"))


def kept(buffer: TrialReplay) -> set[float]:
    return {float(v) for v in buffer.data["x"][0, : buffer.size, 0]}


def test_the_oldest_trials_make_room() -> None:
    buffer = replay()
    buffer.add(trials(1, 3))
    assert (buffer.size, kept(buffer)) == (3, {1, 2, 3})
    buffer.add(trials(4, 4))
    assert (buffer.size, kept(buffer)) == (5, {3, 4, 5, 6, 7})
    buffer.add(trials(8, 12))
    assert kept(buffer) == {15, 16, 17, 18, 19}


def test_shorter_trials_end_with_zeros() -> None:
    buffer = replay(1)
    buffer.add(trials(3, 1))
    buffer.add(trials(4, 1, steps=1))
    assert buffer.data["x"][:, 0, 0].tolist() == [4, 0]


def test_samples_are_whole_trials_that_the_key_decides() -> None:
    buffer = replay(50)
    buffer.add(trials(1, 20))
    drawn = buffer.sample(400, 7, 1)
    assert (drawn["x"] == drawn["x"][:1, :, :1]).all()  # all steps of one trial
    assert set(drawn["x"][0, :, 0].tolist()) == set(range(1, 21))  # none of the empty entries
    assert torch.equal(drawn["x"], buffer.sample(400, 7, 1)["x"])
    assert not torch.equal(drawn["x"], buffer.sample(400, 7, 2)["x"])


def test_a_replay_goes_on_where_it_was_saved() -> None:
    first, second = replay(), replay()
    first.add(trials(1, 7))
    second.load_tensors({k: v.clone() for k, v in first.tensors().items()})
    for buffer in (first, second):
        buffer.add(trials(8, 1))
    assert all(torch.equal(first.data[k], v) for k, v in second.data.items())
    assert torch.equal(first.sample(3, 0)["x"], second.sample(3, 0)["x"])


def test_a_replay_that_does_not_fit_is_refused_before_it_is_made() -> None:
    with pytest.raises(metarl.InvalidValueError, match=r"toy\.replay_trials is 10{15}, .*at most about"):
        replay(10**15)
