"""The replay of transitions, and soft actor-critic."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

import metarl
from metarl.agent import SAC, Gaussian, PolicyHead, SACBatch, SACConfig, SquashedGaussian, TransitionReplay, mlp, seeded
from metarl.learning.off_policy.sac import (
    Critics,
    expected_value,
    move_toward,
    sampled_value,
    soft_target,
    temperature_loss,
)
from metarl.rng import Rng

# --- replay ----------------------------------------------------------------------------------------------------------


def replay(tasks: int = 3, capacity: int = 4) -> TransitionReplay:
    example = {"x": torch.zeros(1, 2), "done": torch.zeros(1, dtype=torch.bool)}
    return TransitionReplay("toy.replay_tasks", tasks, capacity, example, torch.device("cpu"))


def transitions(first: list[int], count: int) -> dict[str, Tensor]:
    """Transitions of some tasks, numbered from `first` on; every number in one is its own."""
    number = torch.tensor(first).unsqueeze(1) + torch.arange(count)
    return {"x": number.unsqueeze(-1).expand(-1, -1, 2).float(), "done": number % 2 == 0}


def add(buffer: TransitionReplay, places: Tensor, first: list[int], count: int) -> None:
    buffer.add(places, transitions(first, count), torch.ones(len(first), count, dtype=torch.bool))


def kept(buffer: TransitionReplay, place: int) -> list[float]:
    return sorted(buffer.data["x"][place, : min(int(buffer.added[place]), buffer.capacity), 0].tolist())


def test_the_oldest_transitions_of_a_task_make_room() -> None:
    buffer = replay()
    places = buffer.open(2)
    add(buffer, places, [10, 20], 3)
    assert (kept(buffer, 0), kept(buffer, 1)) == ([10, 11, 12], [20, 21, 22])
    add(buffer, places[1:], [23], 2)
    assert (kept(buffer, 0), kept(buffer, 1)) == ([10, 11, 12], [21, 22, 23, 24])
    add(buffer, places[:1], [13], 9)  # more than there are places: the last ones are kept
    assert kept(buffer, 0) == [18, 19, 20, 21]


def test_the_oldest_tasks_make_room_and_leave_nothing() -> None:
    buffer = replay()
    add(buffer, buffer.open(2), [10, 20], 4)
    places = buffer.open(2)
    assert places.tolist() == [2, 0]
    assert buffer.added.tolist() == [0, 4, 0]
    add(buffer, places, [30, 40], 2)
    assert [kept(buffer, place) for place in range(3)] == [[40, 41], [20, 21, 22, 23], [30, 31]]
    assert buffer.size == 3


def test_transitions_that_do_not_count_are_left_out() -> None:
    buffer = replay()
    valid = torch.tensor([[True, False, True, False], [False, False, False, True]])
    buffer.add(buffer.open(2), transitions([10, 20], 4), valid)
    assert (kept(buffer, 0), kept(buffer, 1)) == ([10, 12], [23])


def test_samples_are_of_the_tasks_that_were_asked_for() -> None:
    buffer = replay()
    add(buffer, buffer.open(2), [10, 20], 3)
    tasks = buffer.sample_tasks(200, 5)
    assert set(tasks.tolist()) == {0, 1}
    drawn = buffer.sample(tasks, 30, 7, 1)
    assert drawn["x"].shape == (200, 30, 2)
    assert set(drawn["x"][tasks == 0].flatten().tolist()) == {10, 11, 12}
    assert set(drawn["x"][tasks == 1].flatten().tolist()) == {20, 21, 22}
    assert torch.equal(drawn["done"], drawn["x"][..., 0] % 2 == 0)  # entries of one transition stay together
    assert torch.equal(drawn["x"], buffer.sample(tasks, 30, 7, 1)["x"])
    assert not torch.equal(drawn["x"], buffer.sample(tasks, 30, 7, 2)["x"])


def test_a_replay_goes_on_where_it_was_saved() -> None:
    first, second = replay(), replay()
    add(first, first.open(2), [10, 20], 3)
    second.load_tensors({k: v.clone() for k, v in first.tensors().items()})
    for buffer in (first, second):
        add(buffer, buffer.open(2), [30, 40], 5)
    found = second.tensors()
    assert all(torch.equal(v, found[k]) for k, v in first.tensors().items())


def test_a_replay_that_does_not_fit_is_refused_before_it_is_made() -> None:
    with pytest.raises(metarl.InvalidValueError, match=r"toy\.replay_tasks is 10{15}, .*at most about"):
        replay(10**15)


# --- soft actor-critic: equations ------------------------------------------------------------------------------------


def test_the_target_is_the_reward_and_what_follows() -> None:
    reward, ended, value = torch.tensor([1.0, 1.0]), torch.tensor([False, True]), torch.tensor([4.0, 4.0])
    assert soft_target(reward, ended, value, 0.5).tolist() == [3.0, 1.0]


def test_a_value_is_the_lower_critic_and_the_entropy() -> None:
    temperature = torch.tensor(0.5)
    q = torch.tensor([[3.0], [2.0]])
    assert sampled_value(q, torch.tensor([-1.0]), temperature).tolist() == [2.5]
    q = torch.tensor([[[1.0, 5.0]], [[4.0, 3.0]]])  # the lower ones are 1 and 3
    log_probs = torch.tensor([[0.25, 0.75]]).log()
    entropy = 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
    assert expected_value(q, log_probs, temperature).item() == pytest.approx(0.25 + 2.25 + 0.5 * entropy)


def test_the_temperature_falls_where_there_is_entropy_enough() -> None:
    for entropy, gradient in ((3.0, 2.0), (0.5, -0.5)):  # the target is 1
        log_temperature = torch.zeros((), requires_grad=True)
        temperature_loss(log_temperature, torch.tensor([entropy]), 1.0).backward()
        assert log_temperature.grad is not None
        assert log_temperature.grad.item() == gradient


def test_targets_move_a_part_of_the_way() -> None:
    target = [torch.tensor([0.0, 4.0])]
    move_toward(target, [torch.tensor([8.0, 4.0])], 0.25)
    assert target[0].tolist() == [2.0, 4.0]


def test_log_probabilities_are_those_of_squashed_normal_distributions() -> None:
    mean, log_std = torch.tensor([[0.5, -1.0], [3.0, 0.0]]), torch.tensor([[0.0, -1.0], [0.5, 0.3]])
    noise = torch.tensor([[0.3, -0.8], [1.5, 0.0]])
    action, log_prob = SquashedGaussian(Gaussian(mean, log_std)).sample_with_log_prob(noise)
    known = TransformedDistribution(Normal(mean, log_std.exp()), [TanhTransform(cache_size=1)])
    torch.testing.assert_close(action, (mean + noise * log_std.exp()).tanh())
    torch.testing.assert_close(log_prob, known.log_prob(action).sum(-1), atol=1e-3, rtol=1e-3)


def test_twin_critics_are_two_networks() -> None:
    for space in (spaces.Box(-1, 1, (2,)), spaces.Discrete(3)):
        head = PolicyHead(space, "toy")
        critics = Critics(head, 4, (5,), Rng(torch.tensor([0])))
        x, action = draw(6, 4), torch.tensor([0, 1, 2, 0, 1, 2]) if head.discrete else draw(6, 2)
        found = critics(x, action)
        assert found.shape == (2, 6)
        for number in range(2):
            alone = {name: v[number] for name, v in critics.layers.items()}
            given = x if head.discrete else torch.cat([x, action], -1)
            q = mlp(alone, given)
            expected = q.gather(1, action.unsqueeze(1)) if head.discrete else q
            torch.testing.assert_close(found[number], expected.squeeze(1))


# --- soft actor-critic: learning -------------------------------------------------------------------------------------

TOY: dict[str, Any] = {
    "policy_hidden": (16,),
    "learning_rate": 0.01,
    "discount": 0.5,
    "target_rate": 0.05,
    "temperature": 0.5,
}
CPU = torch.device("cpu")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def linear() -> nn.Linear:
    with seeded(0, CPU):
        return nn.Linear(1, 1)


def sac(space: spaces.Space[Any], further: nn.Module | None = None, **settings: Any) -> SAC:
    config = SACConfig(**(TOY | settings))
    return SAC("toy", PolicyHead(space, "toy"), 1, config, Rng(torch.tensor([3])), CPU, further)


def two_actions(ended: bool, batch: int = 64) -> SACBatch:
    """One state: action 0 pays 1 and action 1 nothing."""
    action = torch.arange(batch) % 2
    x = torch.ones(batch, 1)
    return SACBatch(x, action, 1.0 - action, x, torch.full((batch,), ended))


@pytest.mark.parametrize("ended", [False, True])
def test_discrete_actions_are_those_of_the_soft_optimum(ended: bool) -> None:
    """V = t log sum_a exp(r_a / t) + discount V, with t = 1/2: (e^2 + 1) and a policy e^2 to 1."""
    agent = sac(spaces.Discrete(2))
    for key in range(600):
        agent.update(two_actions(ended), key)
    now = 0.5 * math.log(math.e**2 + 1)
    later = 0.0 if ended else 0.5 * now / 0.5
    q = agent.critics(torch.ones(1, 1))[:, 0]
    torch.testing.assert_close(q, torch.tensor([1.0 + later, later]).expand(2, -1), atol=0.03, rtol=0)
    chosen = agent.policy(torch.ones(1, 1)).mode
    assert chosen.item() == 0
    probs = agent.policy(torch.ones(1)).logits.exp()  # type: ignore[union-attr]
    torch.testing.assert_close(probs, torch.tensor([math.e**2, 1.0]) / (math.e**2 + 1), atol=0.02, rtol=0)


def test_a_learned_temperature_keeps_the_entropy_at_its_target() -> None:
    agent = sac(spaces.Discrete(2), learn_temperature=True)
    metrics = {}
    for key in range(1000):
        metrics = agent.update(two_actions(True), key)
    assert metrics["entropy"].item() == pytest.approx(0.98 * math.log(2), abs=0.01)
    # e^(1 / t) to 1 has this entropy where the probabilities are .583 and .417: t = 1 / log(.583 / .417) = 2.98
    assert metrics["temperature"].item() == pytest.approx(2.98, abs=0.3)


def test_continuous_actions_are_those_of_the_soft_optimum() -> None:
    """The density is in proportion to exp(r / t), that of a narrow normal distribution around .5."""
    agent = sac(spaces.Box(-1, 1, (1,)), temperature=0.01)
    x = torch.ones(128, 1)
    action = torch.linspace(-1, 1, 128).unsqueeze(1)
    batch = SACBatch(x, action, -(action[:, 0] - 0.5).square(), x, torch.ones(128, dtype=torch.bool))
    for key in range(1000):
        agent.update(batch, key)
    policy = agent.policy(x[:1])
    assert policy.mode.item() == pytest.approx(0.5, abs=0.1)
    drawn = agent.policy(torch.ones(2000, 1)).sample(Rng(torch.arange(2000)))
    assert drawn.std().item() == pytest.approx(0.005**0.5, rel=0.5)  # exp(-d^2 / .01) has the variance .005


def test_a_further_module_is_trained_by_the_critics_loss_and_its_own() -> None:
    further = linear()
    agent = sac(spaces.Discrete(2), further)
    batch = two_actions(True)

    def gradient(own: float) -> Tensor:
        batch_of = batch._replace(x=further(batch.x))
        agent.update(batch_of, 0, own * further.weight.sum())
        assert further.weight.grad is not None
        return further.weight.grad.clone()

    before = copied(further)
    by_critics = gradient(0.0)
    assert by_critics.abs().sum() > 0
    assert not torch.equal(before["weight"], further.weight)
    further.load_state_dict(before)
    agent = sac(spaces.Discrete(2), further)
    torch.testing.assert_close(gradient(100.0), by_critics + 100.0)


def copied(module: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in module.state_dict().items()}


@pytest.mark.parametrize("learned", [False, True])
def test_sac_goes_on_to_the_same_bits(learned: bool) -> None:
    def made() -> SAC:
        return sac(spaces.Box(-1, 1, (2,)), linear(), learn_temperature=learned)

    x, action = draw(8, 1), draw(8, 2, seed=1)
    batch = SACBatch(x, action, x[:, 0], x, torch.zeros(8, dtype=torch.bool))
    whole, part = made(), made()
    for key in range(2):
        whole.update(with_further(whole, batch), key)
    part.load_tensors({k: v.clone() for k, v in whole.tensors().items()})
    for agent in (whole, part):
        agent.update(with_further(agent, batch), 2)
    found = part.tensors()
    assert all(torch.equal(v, found[k]) for k, v in whole.tensors().items())
    assert ("temperature.net.log" in found) == learned


def with_further(agent: SAC, batch: SACBatch) -> SACBatch:
    return batch._replace(x=agent._trained["critics"][0]["further"](batch.x))  # type: ignore[index]


def test_boxes_without_bounds_are_refused() -> None:
    with pytest.raises(metarl.InvalidValueError, match=r"action space of toy is Box.*expected a Box with bounds"):
        sac(spaces.Box(-np.inf, np.inf, (1,)))
