"""PPO alone, on a network of two numbers: its equations by hand, what it deals, scales and anneals, what it refuses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import metarl
from metarl.agent import Rollout
from metarl.devices import free_bytes
from metarl.engine.cuda_graphs import CudaGraphCache
from metarl.learning.action_distributions import Gaussian
from metarl.learning.ppo import (
    PPO,
    AuxiliaryLoss,
    Outputs,
    TrialBatch,
    annealed,
    clipped_surrogate,
    masked_mean,
    minibatch_rows,
    standardize_together,
)
from metarl.learning.ppo_config import PPOConfig, TrialPPOConfig, sized

FAMILY = metarl.make_family("metarl/PointNavigation-v0")
LOOSE = {"value_coef": 0.0, "max_grad_norm": 1e9, "epochs": 1, "minibatches": 1, "meta_batch_size": 2}


class TwoNumbers(nn.Module):
    """The mean of a Gaussian of deviation 1 is `a` x, the value is `b` x, and the feature is `a` x as well."""

    def __init__(self, a: float = 0.0, b: float = 0.0) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(a)), nn.Parameter(torch.tensor(b))
        self.seen: list[tuple[bool, bool]] = []

    def forward(self, given: Mapping[str, Tensor]) -> Outputs:
        self.seen.append((torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32))
        mean = (self.a * given["x"]).unsqueeze(-1)  # [T, B, 1]
        return Outputs(Gaussian(mean, torch.zeros(1)), self.b * given["x"], mean)

    def values(self, given: Mapping[str, Tensor]) -> Tensor:
        return self(given).value


def ppo(net: TwoNumbers | None = None, losses: Any = (), **config: Any) -> PPO:
    """Of an agent called toy, whose optimizer goes down the gradient by all of it."""
    settings = TrialPPOConfig(**(LOOSE | {"trial_episodes": 2} | config))
    made = PPO("toy", FAMILY, settings, TwoNumbers() if net is None else net, 1, losses)
    made.optimizer = torch.optim.SGD(made.parameters, lr=1.0)
    return made


def batch(**fields: Any) -> TrialBatch:
    """Two steps of one trial, with x = 1 and actions 1 that were as likely as they are at a = 0."""
    one = torch.ones(2, 1)
    log_prob = torch.full((2, 1), -0.5 - 0.5 * math.log(2 * math.pi))
    whole = TrialBatch({"x": one}, one.unsqueeze(-1), log_prob, 0 * one, 0 * one, 0 * one, one)
    return replace(whole, **fields)


def step(made: PPO, trials: TrialBatch, entropy_coef: float = 0.0) -> dict[str, Tensor]:
    return made._step({"batch": vars(trials), "entropy_coef": torch.tensor(entropy_coef)})


def rollout_of(reward: Tensor, **fields: Any) -> Rollout:
    """Whole trials that were paid `reward` `[T, R]`, of one episode, with values 0 and actions of log-probability 0."""
    reward = reward.unsqueeze(-1)
    off, zero = torch.zeros_like(reward, dtype=torch.bool), torch.zeros_like(reward)
    whole = Rollout(zero, zero.unsqueeze(-1), reward, off, off, ~off, zero[0], extras={"log_prob": zero, "value": zero})
    return replace(whole, **fields)


# --- equations -------------------------------------------------------------------------------------------------------


def test_the_smaller_surrogate_counts() -> None:
    """Equation 7 with clip 0.2: a gain is cut at 1.2 times the advantage, a loss is not, and below .8 the reverse."""
    ratio = torch.tensor([0.5, 1.0, 1.5])
    torch.testing.assert_close(clipped_surrogate(ratio, torch.tensor(2.0), 0.2), torch.tensor([1.0, 2.0, 2.4]))
    torch.testing.assert_close(clipped_surrogate(ratio, torch.tensor(-2.0), 0.2), torch.tensor([-1.6, -2.0, -3.0]))


def test_clipped_steps_have_no_gradient() -> None:
    """At a = 0 the log-probability of action 1 has the gradient 1: a moves by ratio times advantage, or not at all."""
    one, trials = torch.ones(2, 1), batch()
    for log_ratio, advantage, moved in ((0.5, 1.0, 0.0), (-0.5, 1.0, math.exp(-0.5)), (-0.5, -1.0, 0.0)):
        made = ppo()
        told = step(made, replace(trials, old_log_prob=trials.old_log_prob - log_ratio, advantage=advantage * one))
        assert made.net.a.item() == pytest.approx(moved, abs=1e-6)
        assert float(told["kl"]) == pytest.approx(math.exp(log_ratio) - 1 - log_ratio, abs=1e-6)


def test_means_are_over_the_steps_that_count() -> None:
    """1 and 3 count: mean 2, deviation 1; of the advantages as well, and the rest is 0."""
    steps, valid = torch.tensor([[1.0, 100.0], [3.0, 7.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert float(masked_mean(steps, valid)) == 2.0
    assert standardize_together(steps, valid).tolist() == [[-1.0, 0.0], [1.0, 0.0]]


def test_value_and_entropy_are_weighted() -> None:
    """The derivative of (b - 3)^2 is -6: b moves by 6 value_coef. The entropy of deviation 1 is told."""
    made = ppo(value_coef=0.25)
    told = step(made, batch(target=torch.full((2, 1), 3.0)))
    assert made.net.b.item() == pytest.approx(0.25 * 6)
    assert float(told["value_loss"]) == 9.0
    assert float(told["entropy"]) == pytest.approx(0.5 * math.log(2 * math.pi * math.e))


class Spread(TwoNumbers):
    """The deviation is e^a instead: the entropy rises by 1 for 1 of a."""

    def forward(self, given: Mapping[str, Tensor]) -> Outputs:
        out = super().forward(given)
        return out._replace(policy=Gaussian(0 * out.features, self.a.view(1)))


def test_entropy_is_rewarded() -> None:
    made = ppo(Spread())
    step(made, batch(), entropy_coef=0.3)
    assert made.net.a.item() == pytest.approx(0.3)


def test_auxiliary_losses_are_weighted_and_masked() -> None:
    """The feature is a: (a - 3)^2 and 5 a have the derivatives -6 and 5, times .5 and .1; the second step is masked."""
    far = torch.tensor([[0.0], [1e6]])
    losses = [
        AuxiliaryLoss("square", 0.5, lambda h, trials: (h[..., 0] - trials.reward).square() + far),
        AuxiliaryLoss("line", 0.1, lambda h, trials: 5.0 * h[..., 0] * trials.given["x"]),
        AuxiliaryLoss("none", 0.0, lambda h, trials: pytest.fail("a loss without weight is not computed")),
    ]
    made = ppo(losses=losses)
    valid, reward = torch.tensor([[1.0], [0.0]]), torch.full((2, 1), 3.0)
    told = step(made, batch(valid=valid, reward=reward))
    assert made.net.a.item() == pytest.approx(0.5 * 6 - 0.1 * 5)
    assert {k: float(v) for k, v in told.items() if k.endswith("_loss")} == {
        "value_loss": 0.0,
        "square_loss": 9.0,
        "line_loss": 0.0,
    }
    assert list(told) == ["value_loss", "entropy", "square_loss", "line_loss", "kl"]


def test_gradients_are_limited_to_a_norm() -> None:
    """Derivatives -6 of b and -1 of a, scaled to the norm .5."""
    made = ppo(value_coef=1.0, max_grad_norm=0.5)
    step(made, batch(target=torch.full((2, 1), 3.0), advantage=torch.ones(2, 1)))
    torch.testing.assert_close(
        torch.stack([made.net.a, made.net.b]).detach(), 0.5 * torch.tensor([1.0, 6.0]) / math.sqrt(37)
    )


def test_networks_are_computed_with_cudnn_and_exactly() -> None:
    """`cudnn.flags` turns cuDNN off unless it is told otherwise; TF32 would make the first ratio differ from 1."""
    made = ppo()
    step(made, batch())
    made.values(rollout_of(torch.zeros(2, 2), extras={}), {"x": torch.ones(2, 2)})
    assert made.net.seen == [(True, False)] * 2


# --- what is learned from --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lam", "after", "expected"), [(1.0, 0.0, [4.0, 3.0, 2.0, 1.0]), (0.0, 100.0, [1.0] * 4)])
def test_advantages_run_through_episodes_and_stop_at_the_trials_end(
    lam: float, after: float, expected: list[float]
) -> None:
    """Pitfall 12, by hand: rewards 1 for 4 steps (two episodes of 2), values 0, gamma 1.

    With lambda 1 the advantage is the trial's reward to go: 4, 3, 2, 1; cut at episodes it would be 2, 1, 2, 1. Steps
    after the trial's end (here 5 and 6, masked) add nothing, and their values are not bootstrapped from: with lambda 0
    each advantage is r + v' - v = 1.
    """
    ended = torch.tensor([0, 1, 0, 1, 0, 1], dtype=torch.bool).view(6, 1, 1)
    valid = torch.tensor([1, 1, 1, 1, 0, 0], dtype=torch.bool).view(6, 1, 1)
    rollout = rollout_of(torch.ones(6, 1), terminated=ended, valid=valid)
    made, value = ppo(discount=1.0, gae_lambda=lam), torch.tensor([0.0] * 4 + [after] * 2).unsqueeze(1)
    assert made.advantages(rollout, made.learning_rewards(rollout), value)[:4, 0].tolist() == expected


def test_a_batch_by_hand() -> None:
    """Discount and lambda 1, values 1: advantages 2 and 0 in one trial, 4 and 1 in the other, targets one more.

    Less their mean 7/4, over their deviation sqrt(21/4 - 49/16) = sqrt(35)/4.
    """
    made, reward = ppo(discount=1.0, gae_lambda=1.0), torch.tensor([[2.0, 3.0], [1.0, 2.0]])
    extras = {"log_prob": torch.full((2, 2, 1), -0.7), "value": torch.ones(2, 2, 1)}
    given = {"x": torch.ones(2, 2)}
    made_of = made.prepare(rollout_of(reward, extras=extras), given)
    torch.testing.assert_close(made_of.target, torch.tensor([[3.0, 5.0], [1.0, 2.0]]))
    torch.testing.assert_close(made_of.advantage, torch.tensor([[1.0, 9.0], [-7.0, -3.0]]) / math.sqrt(35))
    assert torch.equal(made_of.reward, reward)
    assert made_of.old_log_prob.unique().tolist() == pytest.approx([-0.7])
    assert torch.equal(made_of.rows(torch.tensor([1])).reward, reward[:, 1:])
    assert made_of.rows(slice(0, 1)).given["x"].shape == (2, 1)


def test_rewards_are_divided_by_the_deviation_of_returns() -> None:
    """Rewards 1, 1 in one trial and 3, 3 in another, discount 1: returns 2, 1, 6, 3 have deviation sqrt(3.5)."""
    made, reward = ppo(normalize_rewards=True, discount=1.0), torch.tensor([1.0, 3.0]).expand(2, 2)
    torch.testing.assert_close(made.scaled(reward, rollout_of(reward)), reward / 3.5**0.5)
    # the running moments now hold 2, 1, 6, 3, 14, 7, 42, 21: mean 12, mean square 312.5
    torch.testing.assert_close(made.scaled(7 * reward, rollout_of(7 * reward)), 7 * reward / (312.5 - 144) ** 0.5)
    assert made.return_moments.tolist() == [8.0, 96.0, 2500.0]
    assert torch.equal(ppo().scaled(reward, rollout_of(reward)), reward)


def test_scaled_rewards_are_learned_from_and_auxiliary_losses_see_plain_ones() -> None:
    """Returns 2 and 2 in two trials, then 1 and 1, deviation 1/2: the targets of values 0 are twice the returns."""
    made = ppo(normalize_rewards=True, discount=1.0, gae_lambda=1.0)
    made_of = made.prepare(rollout_of(torch.ones(2, 2)), {"x": torch.ones(2, 2)})
    assert made_of.target.tolist() == [[4.0, 4.0], [2.0, 2.0]]
    assert torch.equal(made_of.reward, torch.ones(2, 2))


def test_rewards_after_a_trials_end_are_not_learned_from() -> None:
    valid = torch.tensor([[True], [False]]).unsqueeze(-1)
    rollout = rollout_of(torch.tensor([[1.0], [math.nan]]), valid=valid)
    assert ppo().learning_rewards(rollout).tolist() == [[1.0], [0.0]]


def test_means_of_rewards_are_learned_from_if_asked_for() -> None:
    made, rollout = ppo(expected_rewards=True), rollout_of(torch.ones(2, 1))
    with pytest.raises(
        metarl.InvalidValueError, match=r"toy.expected_rewards is True, .*PointNavigation-v0 reports no"
    ):
        made.learning_rewards(rollout)
    means = torch.tensor([[0.25], [math.nan]]).unsqueeze(-1)
    with pytest.raises(metarl.InvalidValueError, match=r"toy.expected_rewards .* is missing in some steps"):
        made.learning_rewards(replace(rollout, expected_reward=means))
    ended = torch.tensor([[True], [False]]).unsqueeze(-1)
    assert made.learning_rewards(replace(rollout, expected_reward=means, valid=ended)).tolist() == [[0.25], [0.0]]


def test_values_that_acting_did_not_know_are_computed_anew() -> None:
    """With b = 3 and x from 1 to 5, in two parts; where acting knew them they are taken as they are."""
    made, x = ppo(TwoNumbers(b=3.0), minibatches=2), torch.arange(1.0, 6.0).expand(2, 5)
    rollout = rollout_of(torch.zeros(2, 5), extras={})
    assert made.values(rollout, {"x": x})[0].tolist() == [3.0, 6.0, 9.0, 12.0, 15.0]
    assert len(made.net.seen) == 2
    rollout.extras["value"] = torch.full((2, 5, 1), 7.0)
    assert made.values(rollout, {"x": x}).unique().tolist() == [7.0]


# --- updates ---------------------------------------------------------------------------------------------------------


def test_every_trial_is_dealt_into_one_minibatch_by_the_key_alone() -> None:
    first, again, other, later = (
        torch.cat(minibatch_rows(10, 3, key, epoch)).tolist() for key, epoch in ((1, 0), (1, 0), (2, 0), (1, 1))
    )
    assert [len(part) for part in minibatch_rows(10, 3, 1, 0)] == [4, 4, 2]
    assert sorted(first) == sorted(other) == sorted(later) == list(range(10))
    assert first == again
    assert first != other
    assert first != later
    assert minibatch_rows(10, 1, 1, 0) == [slice(None)]


def test_an_update_deals_its_trials_anew_in_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each trial is known by its x; metrics are means over 2 epochs of 3 minibatches."""
    made, parts = ppo(epochs=2, minibatches=3, meta_batch_size=7), []
    x, told = torch.arange(7.0).expand(2, 7), iter([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])

    def record(part: Mapping[str, Any]) -> dict[str, Tensor]:
        parts.append(part["batch"]["given"]["x"][0].long())
        return {"kl": torch.tensor(next(told))}

    monkeypatch.setattr(made, "_step", record)
    assert made.update(rollout_of(torch.zeros(2, 7)), {"x": x}, key=5) == {"kl": 3.5}
    for epoch in (0, 1):
        for part, dealt in zip(parts[3 * epoch : 3 * epoch + 3], minibatch_rows(7, 3, 5, epoch), strict=True):
            assert torch.equal(part, dealt)
    assert made.updates == 1


@pytest.mark.parametrize(("target_kl", "expected"), [(0.0, 6), (1.0, 2), (0.3, 1), (1.4, 6)])
def test_an_update_ends_once_the_policy_has_moved(target_kl: float, expected: int) -> None:
    """Before six gradient steps the KL is 1 and then 2: above 1.5 times .3 and 1, and never above 1.5 times 1.4."""
    made = ppo(epochs=3, minibatches=2, target_kl=target_kl)
    kls, taken = iter([1.0, 2.0, 2.0, 2.0, 2.0, 2.0]), []

    def gradient_step(part: Mapping[str, Any]) -> dict[str, Tensor]:
        taken.append(part)
        return {"kl": torch.tensor(next(kls))}

    made._step = gradient_step  # type: ignore[method-assign]
    metrics = made.update(rollout_of(torch.ones(3, 2)), {"x": torch.ones(3, 2, 1)}, 0)
    assert len(taken) == expected
    assert metrics["kl"] == pytest.approx((2.0 * expected - 1) / expected)  # a mean over the steps that were made
    assert metrics.get("gradient_steps") == (expected if target_kl else None)


def test_a_network_keeps_its_own_deviation_where_none_is_asked_for() -> None:
    net = TwoNumbers()
    net.log_std = nn.Parameter(torch.full((1,), -0.5))
    found = [ppo(net, log_std=asked).net.log_std.item() for asked in (0.0, -2.0)]  # type: ignore[attr-defined]
    assert found == [-0.5, -2.0]


@pytest.mark.parametrize("name", ["multi_task", "rl2", "varibad", "first_explore"])
def test_actions_begin_with_the_deviation_that_is_asked_for(name: str) -> None:
    agent: Any = metarl.make_agent(name, FAMILY, log_std=-1.5)
    assert torch.equal(agent.net.log_std, torch.full_like(agent.net.log_std, -1.5))
    assert any(p is agent.net.log_std for p in agent.ppo.optimizer.param_groups[0]["params"])  # and it is trained


def test_learning_rate_and_entropy_bonus_fall_to_zero() -> None:
    """Over 4 updates the rate is 1, 3/4, 1/2, 1/4 of itself; the bonus, gone after half of them, 1, 1/2, 0, 0."""
    config = PPOConfig(anneal_iterations=4, entropy_anneal=0.5, entropy_coef=0.2, learning_rate=0.4)
    found = [annealed(config, n) for n in range(4)]
    assert [rate for rate, _ in found] == pytest.approx([0.4, 0.3, 0.2, 0.1])
    assert [bonus for _, bonus in found] == pytest.approx([0.2, 0.1, 0.0, 0.0])
    assert annealed(replace(config, entropy_anneal=1.0), 1) == pytest.approx((0.3, 0.15))
    assert annealed(PPOConfig(entropy_coef=0.2), 99) == (3e-3, 0.2)


def test_updates_are_annealed_across_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over two updates: the whole rate and bonus, half of them; a third update is refused."""
    steps, seen, plain = {"anneal_iterations": 2, "learning_rate": 0.1, "entropy_coef": 0.2}, [], PPO._step

    def watched(made: PPO, part: Mapping[str, Any]) -> dict[str, Tensor]:
        seen.append((made.optimizer.param_groups[0]["lr"], float(part["entropy_coef"])))
        return plain(made, part)

    monkeypatch.setattr(PPO, "_step", watched)
    first, second = (PPO("toy", FAMILY, TrialPPOConfig(**(LOOSE | steps)), TwoNumbers(), 1) for _ in range(2))
    for made in (first, second):
        made.update(rollout_of(torch.ones(2, 2)), {"x": torch.ones(2, 2)}, key=0)
        second.load_tensors(first.tensors())
    assert seen[0] == pytest.approx((0.1, 0.2))
    assert seen[1] == pytest.approx((0.05, 0.1))
    second.check_iterations(2)
    with pytest.raises(metarl.InvalidValueError, match=r"toy.anneal_iterations is 2, .* the 3 meta-updates"):
        second.check_iterations(3)


def test_a_checkpoint_goes_on_where_it_was_taken() -> None:
    """Adam's moments, the moments of returns and the count are in it; CUDA graphs hold what it replaces."""
    reward, given = torch.tensor([[1.0, 3.0], [0.0, 2.0]]), {"x": torch.ones(2, 2)}
    config = PPOConfig(**(LOOSE | {"normalize_rewards": True, "value_coef": 1.0}))
    nets = [TwoNumbers(), TwoNumbers()]
    unbroken, resumed = (PPO("toy", FAMILY, config, net, 1) for net in nets)
    unbroken.update(rollout_of(reward), given, key=0)
    nets[1].load_state_dict(nets[0].state_dict())
    resumed.cuda_graphs = kept = CudaGraphCache(lambda run, inputs: run)
    resumed.load_tensors({k: v.clone() for k, v in unbroken.tensors().items()})
    assert resumed.cuda_graphs is not kept
    resumed.cuda_graphs = None
    for made in (unbroken, resumed):
        made.update(rollout_of(reward), given, key=1)
    assert all(torch.equal(v, resumed.tensors()[k]) for k, v in unbroken.tensors().items())
    assert torch.equal(nets[0].b, nets[1].b)
    assert set(unbroken.tensors()) >= {"adam.a.step", "adam.b.exp_avg", "updates", "return_moments"}


def test_an_update_can_be_replayed() -> None:
    """All that is given to a CUDA graph are tensors by name; what a graph would do is done by the function itself."""
    updated = []
    for cache in (None, CudaGraphCache(lambda run, inputs: run)):
        made = ppo(normalize_rewards=True, minibatches=2, epochs=2, value_coef=1.0)
        made.cuda_graphs = cache
        for key in range(2):
            made.update(rollout_of(torch.tensor([[1.0, 3.0], [0.0, 2.0]])), {"x": torch.ones(2, 2)}, key)
        updated.append(made.net.state_dict())
    assert {key[0] for key in cache.graphs} == {"returns", "advantages", "ppo"}
    assert all(graph is not None for graph in cache.graphs.values())
    assert all(torch.equal(v, updated[1][k]) for k, v in updated[0].items())


# --- what it refuses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [("minibatches", 3, "from 1 to 2"), ("entropy_anneal", 0.5, "1 where anneal_iterations is 0")],
)
def test_hyperparameters_that_do_not_fit_together_are_named(field: str, value: float, expected: str) -> None:
    with pytest.raises(metarl.InvalidValueError, match=rf"toy.{field} is {value}, expected .*{expected}"):
        ppo(**{field: value})


def test_a_pass_that_would_not_fit_is_refused_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """5 trials in 2 minibatches, 3 at most; 2 episodes of 100 steps: 4 bytes x 200 x (3 x 10 + 3 x 5 x 2) = 48,000."""
    made = ppo(minibatches=2)
    assert FAMILY.horizon == 100
    monkeypatch.setattr("metarl.learning.ppo.free_bytes", lambda device: 48_000)
    made.check_memory(5, kept=10, inputs=2)
    monkeypatch.setattr("metarl.learning.ppo.free_bytes", lambda device: 47_999)
    with pytest.raises(metarl.InvalidValueError, match=r"toy.trial_episodes is 2, expected at most about 1 with 3"):
        made.check_memory(5, kept=10, inputs=2)


def test_this_machine_has_memory_left() -> None:
    assert free_bytes(torch.device("cpu")) > 2**20


@pytest.mark.parametrize(
    ("horizon", "given", "episodes", "trials"),
    [
        (1, {}, 10, 1000),  # 10,000 pulls
        (10, {}, 10, 200),  # 100 steps a trial, 20,000 in all
        (15, {}, 6, 222),  # 6 * 15 = 90
        (200, {}, 2, 50),
        (1000, {}, 2, 16),  # two for each of 8 minibatches
        (200, {"minibatches": 1}, 2, 50),
        (200, {"trial_episodes": 10}, 10, 16),
        (200, {"trial_episodes": 3, "meta_batch_size": 1000}, 3, 1000),
    ],
)
def test_trials_and_batches_are_sized_by_the_horizon(
    horizon: int, given: dict[str, int], episodes: int, trials: int
) -> None:
    config = sized(TrialPPOConfig(**given), horizon)
    assert (config.trial_episodes, config.meta_batch_size) == (episodes, trials)
