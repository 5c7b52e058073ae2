"""Networks and distributions against torch.distributions, and how actions reach an environment."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy import stats

from metarl.errors import InvalidValueError
from metarl.learning.action_distributions import Categorical, Gaussian, PolicyHead
from metarl.learning.encoders import ObservationEncoder, RunningNorm
from metarl.learning.networks import FeedForward, HyperFeedForward, Hypernetwork, init_mlp, mlp
from metarl.rng import Rng, fold_in, make_key


def numbers(name, *shape):
    return Rng(torch.tensor([make_key("numbers", name)])).normal(*shape)[0]


def envs(n, name="envs"):
    return Rng(fold_in(make_key(name), torch.arange(n)))


def reference_normal(g):
    return torch.distributions.Independent(torch.distributions.Normal(g.mean, g.log_std.exp()), 1)


@pytest.fixture
def gaussians():
    """Two batches [4, 5] of 3-dimensional normals, with a spread for each dimension."""
    return [Gaussian(numbers(f"mean {i}", 4, 5, 3), 0.5 * numbers(f"log_std {i}", 3)) for i in range(2)]


@pytest.fixture
def categoricals():
    """Two batches [4, 5] over 6 actions."""
    return [Categorical.from_logits(2.0 * numbers(f"logits {i}", 4, 5, 6)) for i in range(2)]


def test_gaussian_log_prob_sums_over_dimensions(gaussians):
    p, _ = gaussians
    action = numbers("action", 4, 5, 3)
    assert p.log_prob(action).shape == (4, 5)
    torch.testing.assert_close(p.log_prob(action), reference_normal(p).log_prob(action))
    # two standard normals at their mean: 2 * log(1 / sqrt(2 pi)) = -1.8379; averaged it would be -.9189
    unit = Gaussian(torch.zeros(2), torch.zeros(2))
    assert float(unit.log_prob(torch.zeros(2))) == pytest.approx(-1.8379, abs=1e-4)


def test_gaussian_kl_and_entropy(gaussians):
    p, q = gaussians
    expected = torch.distributions.kl_divergence(reference_normal(p), reference_normal(q))
    torch.testing.assert_close(p.kl(q), expected)
    assert (p.kl(p) == 0).all()
    assert p.entropy().shape == (4, 5)
    torch.testing.assert_close(p.entropy(), reference_normal(p).entropy())


def test_gaussian_with_a_spread_per_row(gaussians):
    # log_std [R, d] beside means [R, B, d], as adapted policies have it
    mean, log_std = gaussians[0].mean, 0.3 * numbers("row", 4, 3)
    head = PolicyHead(spaces.Box(-1, 1, (3,)), "test")
    p = head.distribution(mean, log_std)
    action = numbers("action", 4, 5, 3)
    for row in range(4):
        alone = head.distribution(mean[row], log_std[row])
        torch.testing.assert_close(p.log_prob(action)[row], alone.log_prob(action[row]))
        torch.testing.assert_close(p.entropy()[row], alone.entropy())


def test_gaussian_samples():
    p = Gaussian(torch.tensor([1.0, -2.0]).expand(50_000, 2), torch.tensor([0.5, 2.0]).log())
    x = p.sample(envs(50_000)).double().numpy()
    assert stats.kstest(x[:, 0], stats.norm(1, 0.5).cdf).pvalue > 1e-3
    assert stats.kstest(x[:, 1], stats.norm(-2, 2).cdf).pvalue > 1e-3
    assert torch.equal(p.mode, p.mean)


def test_samples_belong_to_their_slots():
    # environment 3 of [2, 3] draws what its key alone would draw
    p = Gaussian(numbers("mean", 2, 3, 4), torch.zeros(4))
    keys = envs(6).keys
    alone = Gaussian(p.mean[1, 0], p.log_std).sample(Rng(keys[3:4]))
    assert torch.equal(p.sample(Rng(keys))[1, 0], alone)


def test_categorical(categoricals):
    p, q = categoricals
    reference_p, reference_q = (torch.distributions.Categorical(logits=d.logits) for d in (p, q))
    action = envs(20).integers(6).view(4, 5)
    torch.testing.assert_close(p.log_prob(action), reference_p.log_prob(action))
    torch.testing.assert_close(p.kl(q), torch.distributions.kl_divergence(reference_p, reference_q))
    torch.testing.assert_close(p.entropy(), reference_p.entropy())
    torch.testing.assert_close(p.logits.exp().sum(-1), torch.ones(4, 5))
    assert torch.equal(p.mode, p.logits.argmax(-1))
    assert p.mode.shape == (4, 5)


def test_categorical_samples():
    probs = torch.tensor([0.1, 0.6, 0.3])
    p = Categorical.from_logits(probs.log().expand(20, 1000, 3) + 5.0)  # logits are normalised
    x = p.sample(envs(20_000))
    assert x.shape == (20, 1000)
    assert x.dtype == torch.int64
    counts = torch.bincount(x.flatten(), minlength=3).numpy()
    assert stats.chisquare(counts, [2000, 12_000, 6000]).pvalue > 1e-3


def test_detach_cuts_the_graph():
    mean, log_std = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    p = Gaussian(mean, log_std).detach()
    assert not p.mean.requires_grad
    assert not p.log_std.requires_grad
    assert not Categorical.from_logits(mean).detach().logits.requires_grad


def test_a_set_of_weights_per_row_equals_a_loop():
    rows = [init_mlp((3, 8, 8, 2), envs(1, f"row {r}")) for r in range(4)]
    stacked = {name: torch.stack([p[name] for p in rows]) + 0.1 for name in rows[0]}  # biases are not 0
    x = numbers("x", 4, 6, 3)
    for activation in ("relu", "tanh"):
        together = mlp(stacked, x, activation)
        assert together.shape == (4, 6, 2)
        for r in range(4):
            torch.testing.assert_close(together[r], mlp({k: v[r] for k, v in stacked.items()}, x[r], activation))


def test_mlp_by_hand():
    # x = (1, 2): hidden = relu(1 * 1 + 2 * -1 + .5, 1 * 2 + 2 * 1 - 1) = relu(-.5, 3) = (0, 3); out = 3 * 4 + 1 = 13
    params = {
        "w0": torch.tensor([[1.0, 2.0], [-1.0, 1.0]]),
        "b0": torch.tensor([0.5, -1.0]),
        "w1": torch.tensor([[7.0], [4.0]]),
        "b1": torch.tensor([1.0]),
    }
    assert mlp(params, torch.tensor([1.0, 2.0])).tolist() == [13.0]
    # tanh: 7 tanh(-.5) + 4 tanh(3) + 1 = -3.2348 + 3.9802 + 1
    assert float(mlp(params, torch.tensor([1.0, 2.0]), "tanh")) == pytest.approx(1.7454, abs=1e-4)
    # linear at the end: a negative output survives
    assert mlp({**params, "b1": torch.tensor([-20.0])}, torch.tensor([1.0, 2.0])).tolist() == [-8.0]


def test_init_mlp():
    params = init_mlp((30, 50, 20), envs(1), final_gain=0.01)
    assert {k: tuple(v.shape) for k, v in params.items()} == {"w0": (30, 50), "b0": (50,), "w1": (50, 20), "b1": (20,)}
    assert not params["b0"].any()
    # Glorot: bound sqrt(6 / 80) = .27386, and .01 * sqrt(6 / 70) = .0029277 at the end; uniform to the edge
    for name, bound in (("w0", 0.27386), ("w1", 0.0029277)):
        assert 0.98 * bound < float(params[name].abs().max()) <= 1.0001 * bound
        assert stats.kstest(params[name].flatten().numpy(), stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-3
    assert torch.equal(init_mlp((30, 50, 20), envs(1))["w0"], params["w0"])  # keyed, not carried


def test_the_unit_box_maps_to_the_action_box():
    head = PolicyHead(spaces.Box(np.float32([-1, 0]), np.float32([3, 10])), "test")
    # -1 is low, 1 is high, 0 the middle, .5 three quarters of the way; beyond is clipped
    action = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.5], [-7.0, 2.0]])
    expected = torch.tensor([[-1.0, 0.0], [3.0, 10.0], [1.0, 7.5], [-1.0, 10.0]])
    torch.testing.assert_close(head.to_env(action), expected)
    assert head.action_shape == (2,)
    assert head.encode(action)[3].tolist() == [-1.0, 1.0]


def test_the_paper_box_is_kept_exactly():
    head = PolicyHead(spaces.Box(-0.1, 0.1, (2,)), "test")
    ends = head.to_env(torch.tensor([[-1.0, 1.0], [-9.0, 9.0]]))
    assert all(head.space.contains(row.numpy()) for row in ends)


def test_mapped_actions_lie_in_the_box():
    for i in range(200):
        low, width = Rng(torch.tensor([i])).uniform(2)[0].tolist()
        box = spaces.Box(np.float32([low]), np.float32([low + width + 0.1]))
        ends = PolicyHead(box, "test").to_env(torch.tensor([[-1.0], [1.0]])).numpy()
        assert all(box.contains(row) for row in ends), (box, ends)


def test_unbounded_boxes_take_the_action_itself():
    head = PolicyHead(spaces.Box(-np.inf, np.inf, (2,)), "test")
    action = torch.tensor([[-3.0, 5.0]])
    assert torch.equal(head.to_env(action), action)
    assert torch.equal(head.encode(action), action)


def test_discrete_actions():
    head = PolicyHead(spaces.Discrete(3), "test")
    assert (head.size, head.features, head.action_shape) == (3, 3, ())
    action = torch.tensor([2, 0])
    assert head.to_env(action).tolist() == [2, 0]
    assert head.encode(action).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert isinstance(head.distribution(torch.zeros(2, 3)), Categorical)


def test_encoder():
    assert ObservationEncoder(spaces.Box(-1, 1, (2, 3)), "test").size == 6
    batch = torch.arange(12).view(2, 2, 3)
    assert ObservationEncoder(spaces.Box(-1, 1, (2, 3)), "test")(batch).tolist() == batch.view(2, 6).tolist()
    flat = ObservationEncoder(spaces.Box(-1, 1, (3,)), "test")(torch.ones(4, 5, 3, dtype=torch.float64))
    assert flat.shape == (4, 5, 3)
    assert flat.dtype == torch.float32
    scalar = ObservationEncoder(spaces.Box(-1, 1, ()), "test")
    assert scalar.size == 1
    assert scalar(torch.zeros(4, 5)).shape == (4, 5, 1)
    one_hot = ObservationEncoder(spaces.Discrete(3, start=5), "test")
    assert one_hot(torch.tensor([5, 7])).tolist() == [[1, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    ("build", "space", "words"),
    [
        (ObservationEncoder, spaces.Dict({"a": spaces.Discrete(2)}), "observation space of maml is Dict"),
        (ObservationEncoder, spaces.MultiBinary(3), "observation space of maml is MultiBinary"),
        (PolicyHead, spaces.MultiDiscrete([2, 3]), "action space of maml is MultiDiscrete"),
        (PolicyHead, spaces.Box(-1, 1, (2, 2)), "action space of maml is Box"),
        (PolicyHead, spaces.Box(-1, 1, ()), "action space of maml is Box"),
    ],
)
def test_unsupported_spaces_are_named(build, space, words):
    with pytest.raises(InvalidValueError, match=r"expected a Box.* or a Discrete space") as caught:
        build(space, "maml")
    assert words in str(caught.value)


def test_log_2_pi():
    # an entropy of a unit normal is .5 (log(2 pi) + 1) = 1.4189
    assert float(Gaussian(torch.zeros(1), torch.zeros(1)).entropy()) == pytest.approx(0.5 * (math.log(2 * math.pi) + 1))


def test_running_norm_knows_the_moments_of_all_that_it_saw():
    norm, parts = RunningNorm(3), [numbers(f"norm {i}", 7, 4 + i, 3) * 2.0 + 5.0 for i in range(3)]
    valid = [numbers(f"valid {i}", 7, 4 + i) > -0.5 for i in range(3)]
    x = numbers("x", 6, 3)
    assert torch.equal(norm(x), (x * (1.0 / (1.0 + 1e-8)) ** 0.5).clamp(-10, 10))  # nothing seen yet: as it is
    for part, ok in zip(parts, valid, strict=True):
        norm.update(part, ok)
    seen = torch.cat([part[ok] for part, ok in zip(parts, valid, strict=True)])
    assert float(norm.count) == len(seen)
    torch.testing.assert_close(norm.mean, seen.mean(0))
    torch.testing.assert_close(norm.var, seen.var(0, correction=0))
    torch.testing.assert_close(norm(seen).std(0, correction=0), torch.ones(3), atol=1e-3, rtol=0)
    assert norm(1e6 * torch.ones(3)).tolist() == [10.0] * 3
    before = {k: v.clone() for k, v in norm.state_dict().items()}
    norm(seen)
    assert all(torch.equal(v, before[k]) for k, v in norm.state_dict().items())


# --- hypernetworks ---------------------------------------------------------------------------------------------------


def hypernetwork():
    net = Hypernetwork(4, (3, 8, 2), final_gain=0.5)
    net.initialise(envs(1, "hyper"))
    return net


def test_every_generated_network_begins_as_the_same_ordinary_one():
    """Bias-HyperInit: the weights are 0 and the bias is an ordinary initialisation, so nothing depends on the task."""
    net, ordinary = hypernetwork(), init_mlp((3, 8, 2), envs(1, "hyper"), final_gain=0.5)
    generated = net.generate(10.0 * numbers("knowledge", 6, 4))
    assert list(generated) == list(ordinary)
    assert all(torch.equal(p, ordinary[name].expand_as(p)) for name, p in generated.items())
    x, knowledge = numbers("x", 5, 6, 3), 10.0 * numbers("known", 5, 6, 4)
    out = net(x, knowledge)
    assert torch.equal(out, net(x, -knowledge))
    torch.testing.assert_close(out, mlp(ordinary, x, "tanh"), rtol=0, atol=1e-6)
    assert out.abs().max() > 0.01


def test_each_step_has_the_network_of_what_is_known_there_by_hand():
    """One unit: w = 1 + 2 known, b = 3 + known. At 0: 1 x + 3; at 2: 5 x + 5."""
    net = Hypernetwork(1, (1, 1))
    with torch.no_grad():
        net.bias.copy_(torch.tensor([1.0, 3.0]))
        net.weight.copy_(torch.tensor([[2.0, 1.0]]))
    x, known = torch.tensor([[[10.0], [10.0]], [[1.0], [-1.0]]]), torch.tensor([[[0.0], [2.0]], [[2.0], [0.0]]])
    assert net(x, known).squeeze(-1).tolist() == [[13.0, 55.0], [10.0, 2.0]]


def test_a_hypernetwork_learns_to_tell_tasks_apart():
    net, x, known = hypernetwork(), numbers("x", 6, 3), numbers("known", 6, 4)
    net(x, known).square().sum().backward()
    with torch.no_grad():
        for p in net.parameters():
            p -= 0.1 * p.grad
    assert not torch.allclose(net(x, known), net(x, -known))


def test_what_a_hypernetwork_keeps_is_what_is_declared():
    """`floats_kept` is an estimate from below, and not by more than a quarter."""
    net, kept = Hypernetwork(16, (4, 32, 32, 2)), {}

    def pack(t):
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        net(torch.zeros(200, 4), torch.zeros(200, 16))
    found = sum(kept.values()) / (4 * 200)
    assert net.floats_kept <= found <= 1.25 * net.floats_kept


def test_a_feed_forward_pair_can_be_generated():
    """It begins as the pair on the observation alone, whatever is known of the task."""
    head = PolicyHead(spaces.Discrete(3), "test")
    made = HyperFeedForward(head, 2, 4, (8,), envs(1, "pair"))
    plain = FeedForward(head, 2, (8,), envs(1, "pair"))
    x, time = numbers("x", 5, 6, 6), numbers("time", 5, 6, 1)
    policy, value, features = made({"x": x, "time": time})
    other, expected, _ = plain({"x": x[..., :2], "time": time})
    torch.testing.assert_close(policy.logits, other.logits, rtol=0, atol=1e-6)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-6)
    assert features is x
    assert 0 < plain.floats_kept < made.floats_kept
