"""Images: which observations are seen as images, the encoder by hand, and a memory that looks through it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from test_memory import stepped
from torch import Tensor

import metarl
from metarl.agent import Budget
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.learning.action_distributions import PolicyHead
from metarl.learning.encoders import ObservationEncoder
from metarl.learning.images import FEATURES, ImageEncoder, ImageMemory, ImageShape, make_seeing_memory
from metarl.learning.inference.decoders import negative_elbo
from metarl.learning.memory import MEMORIES
from metarl.learning.off_policy.sac import SAC, SACBatch, SACConfig
from metarl.rng import Rng, make_key


class Mark(metarl.TorchFamily):
    """A mark in a 5 x 6 picture with two channels; the reward is for naming its column."""

    observation_space = Box(0, 255, (5, 6, 2), np.uint8)
    action_space = Discrete(6)
    horizon = 4
    task_space = {"row": metarl.Choice([0, 1, 2, 3, 4])}  # noqa: RUF012 - never written to

    def reset(self, task: dict[str, Tensor], rng: metarl.Rng) -> Tensor:
        return rng.integers(6)

    def observe(self, state: Tensor, task: dict[str, Tensor]) -> Tensor:
        pixels = torch.zeros(len(state), 5, 6, 2, dtype=torch.uint8)
        pixels[torch.arange(len(state)), task["row"].long(), state, 1] = 255
        return pixels

    def step(self, state: Tensor, action: Tensor, task: dict[str, Tensor], rng: metarl.Rng) -> Any:
        reward = (action == state).float()
        return rng.integers(6), reward, torch.zeros_like(reward, dtype=torch.bool)


def keyed(module: Any) -> Any:
    module.initialise(Rng(torch.tensor([make_key("image")])))
    return module


@pytest.mark.parametrize(
    ("space", "image"),
    [
        (Box(0, 255, (7, 8, 3), np.uint8), ImageShape(7, 8, 3, 255.0)),
        (Box(0.0, 1.0, (5, 5, 24), np.float32), ImageShape(5, 5, 24, 1.0)),
        (Box(0, 255, (4, 8, 3), np.uint8), None),  # too small for two layers
        (Box(0.0, 1.0, (7, 8), np.float32), None),
        (Discrete(5), None),
    ],
)
def test_which_observations_are_images(space: Any, image: ImageShape | None) -> None:
    assert ObservationEncoder(space, "test").image == image


def test_the_first_layer_by_hand() -> None:
    """A filter that is 1 at its upper left corner in channel 1 shows this channel, without the last two rows."""
    encoder = keyed(ImageEncoder(ImageShape(5, 6, 2, 10.0)))
    image = torch.arange(60.0).view(5, 6, 2)
    layer = encoder.convolutions[0]
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[3, 1, 0, 0] = 1.0
    seen: list[Tensor] = []
    layer.register_forward_hook(lambda _, __, out: seen.append(out))
    with torch.no_grad():
        out = encoder(image.flatten().expand(2, 4, 60))
    assert out.shape == (2, 4, FEATURES)
    torch.testing.assert_close(seen[0][5, 3], image[:3, :4, 1] / 10.0)
    assert torch.equal(out, out[:1, :1].expand_as(out))
    assert float(out.min()) == 0.0 < float(out.max())


@pytest.mark.parametrize(("shape", "layers"), [((5, 5, 1), 2), ((35, 80, 3), 2), ((36, 36, 3), 3), ((84, 96, 4), 3)])
def test_large_images_have_three_layers(shape: tuple[int, int, int], layers: int) -> None:
    encoder = keyed(ImageEncoder(ImageShape(*shape)))
    assert len(encoder.convolutions) == layers
    assert encoder(torch.rand(2, encoder.image.size)).shape == (2, FEATURES)


def test_initial_features_keep_their_size() -> None:
    """He et al. (2015): the mean square of rectified layers stays that of the image."""
    images = torch.randn(200, 7 * 7 * 24, generator=torch.Generator().manual_seed(0))
    encoder = keyed(ImageEncoder(ImageShape(7, 7, 24)))
    with torch.no_grad():
        assert 0.4 < float(encoder(images).square().mean()) < 2.5


@pytest.mark.parametrize("kind", MEMORIES)
def test_acting_step_by_step_equals_the_training_pass(kind: str) -> None:
    image = ImageShape(5, 6, 2)
    memory = keyed(make_seeing_memory(kind, image.size + 3, 16, 20, image))
    assert isinstance(memory, ImageMemory)
    x = torch.randn(6, 3, image.size + 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(stepped(memory, x), memory(x), rtol=0, atol=2e-5)
        other = x.clone()
        other[2, :, image.size :] += 1.0  # what is beside the image counts, too
        assert not torch.equal(memory(other)[2], memory(x)[2])


@pytest.mark.parametrize("settings", [{}, {"separate_value": True}, {"normalize_features": True}])
def test_rl2_sees_images(settings: dict[str, Any]) -> None:
    agent = metarl.make_agent(
        "rl2", Mark(), trial_episodes=2, meta_batch_size=32, hidden=16, minibatches=1, epochs=1, **settings
    )
    assert isinstance(agent.net.memory, ImageMemory)  # type: ignore[attr-defined]
    found: list[float] = []
    metarl.train(agent, 3, on_iteration=lambda _, metrics: found.append(metrics["kl"]))
    assert max(found) < 1e-9  # what learns is what acted
    before = agent.tensors()
    trials = PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("train", 3))
    rollout, _ = trials.collect(agent, agent.begin(3), 0, Budget(episodes=2))
    assert rollout.obs.dtype == torch.uint8
    other = metarl.make_agent("rl2", Mark(), trial_episodes=2, meta_batch_size=32, hidden=16, **settings)
    other.load_tensors(before)
    again, _ = trials.collect(other, other.begin(3), 0, Budget(episodes=2))
    assert torch.equal(again.action, rollout.action)


def test_standardised_pixels_are_not_divided_by_their_largest_value() -> None:
    found = []
    for given in (False, True):
        agent = metarl.make_agent("rl2", Mark(), normalize_features=given)
        found.append(agent.net.memory.encode.image.largest)  # type: ignore[attr-defined]
    assert found == [255.0, 1.0]


SMALL: dict[str, dict[str, Any]] = {
    "multi_task": {"hidden": (8,), "minibatches": 1},
    "task_conditioned": {"hidden": (8,), "minibatches": 1},
    "varibad": {"model_batch_size": 4, "policy_hidden": (8,), "minibatches": 1},
    "varibad hypernetwork": {"model_batch_size": 4, "policy_hidden": (8,), "minibatches": 1, "hypernetwork": True},
    "varibad_off_policy": {"model_batch_size": 4, "policy_hidden": (8,), "updates": 4, "batch_trials": 4},
    "pearl": {"updates": 4, "batch_size": 8, "context_size": 8, "policy_hidden": (8,), "encoder_hidden": (8,)},
    "focal": {"updates": 4, "batch_size": 8, "context_size": 8, "policy_hidden": (8,), "encoder_hidden": (8,)},
}


@pytest.mark.parametrize("name", SMALL)
def test_other_agents_see_images(name: str) -> None:
    """They pass the contract, and training moves the first layer of every encoder of images that they have."""
    agent_name = name.split()[0]
    assert metarl.check_agent(agent_name, Mark(), meta_batch_size=4, **SMALL[name]) == []
    agent = metarl.make_agent(agent_name, Mark(), meta_batch_size=4, **SMALL[name])
    before = {k: v.clone() for k, v in agent.tensors().items()}
    metarl.train(agent, 2)
    layers = [k for k in before if k.endswith("encode.convolutions.0.weight")]
    assert len(layers) == (1 if "task" in name else 2 if name.startswith("varibad") and "off" not in name else 3)
    assert not any(torch.equal(before[k], agent.tensors()[k]) for k in layers)


@pytest.mark.parametrize("name", ["varibad", "varibad_off_policy"])
def test_decoders_are_given_pixels_from_0_to_1(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = metarl.make_agent(name, Mark(), meta_batch_size=4, state_coef=1.0, **SMALL[name])
    given: list[tuple[Tensor, Tensor]] = []
    monkeypatch.setattr(
        "metarl.learning.inference.belief_model.negative_elbo",
        lambda belief, decoded, *rest: (
            given.extend((d.x, d.target) for d in decoded),
            negative_elbo(belief, decoded, *rest),
        )[1],
    )
    metarl.train(agent, 1)
    (rewards, _), (states, target) = given[:2]
    for pixels in (rewards[..., :60], rewards[..., -60:], states[..., :60], target):
        assert float(pixels.max()) == 1.0
        assert float(pixels.sum(-1).max()) == 1.0


@pytest.mark.parametrize("name", ["multi_task", "varibad"])
def test_what_learns_from_images_is_what_acted(name: str) -> None:
    more = {} if name == "multi_task" else {"model_updates": 1}
    agent = metarl.make_agent(name, Mark(), meta_batch_size=16, epochs=1, **SMALL[name], **more)
    found: list[float] = []
    metarl.train(agent, 3, on_iteration=lambda _, metrics: found.append(metrics["kl"]))
    assert max(found) < 1e-9


def test_target_critics_follow_the_encoder_of_images() -> None:
    agent = metarl.make_agent("pearl", Mark(), meta_batch_size=4, target_rate=1.0, **SMALL["pearl"])
    metarl.train(agent, 1)
    sac = agent.learner.sac  # type: ignore[attr-defined]
    assert all(torch.equal(a, b) for a, b in zip(sac.critics.parameters(), sac.targets.parameters(), strict=True))
    x = torch.rand(3, 60 + 5)
    assert torch.equal(sac.critics.seen(x), sac.targets.seen(x))
    assert sac.policy(x).logits.grad_fn is not None
    grads = torch.autograd.grad(sac.policy(x).logits.sum(), [*sac.critics.parameters()], allow_unused=True)
    assert all(g is None for g in grads)  # the policy does not train the encoder


LEARN: dict[str, tuple[int, float, dict[str, Any]]] = {  # updates, the return of 4 to reach, settings
    "multi_task": (40, 3.0, {"meta_batch_size": 128, "learning_rate": 3e-3, "hidden": (32,)}),
    "varibad": (
        30,
        3.0,
        {"trial_episodes": 2, "meta_batch_size": 64, "learning_rate": 3e-3, "model_updates": 2, "model_batch_size": 10},
    ),
}


@pytest.mark.learning
@pytest.mark.parametrize("name", LEARN)
def test_other_agents_learn_where_a_mark_is(name: str) -> None:
    """At random .67 of 4 an episode; seeds 0 to 3: over 3.5."""
    updates, enough, settings = LEARN[name]
    agent = metarl.make_agent(name, Mark(), **settings)
    found: list[float] = []
    key = {"multi_task": "return_0", "varibad": "episode_return"}[name]
    metarl.train(agent, updates, on_iteration=lambda _, metrics: found.append(metrics[key]))
    assert found[0] < 1.2
    assert np.mean(found[-5:]) > enough


@pytest.mark.learning
def test_soft_actor_critic_learns_where_a_mark_is() -> None:
    """From steps of one reward each, in random pictures; the policy then names nearly every column."""
    head = PolicyHead(Discrete(6), "test")
    config = SACConfig(policy_hidden=(32,), learning_rate=3e-3, temperature=0.05, learn_temperature=False)
    rng = Rng(torch.tensor([make_key("sac")]))
    sac = SAC("test", head, 60, config, rng, torch.device("cpu"), image=ImageShape(5, 6, 2, 255.0))
    draws = torch.Generator().manual_seed(0)
    for update in range(300):
        row, column, action = (torch.randint(n, (64,), generator=draws) for n in (5, 6, 6))
        x = torch.zeros(64, 5, 6, 2)
        x[torch.arange(64), row, column, 1] = 255.0
        ends, reward = torch.ones(64, dtype=torch.bool), (action == column).float()
        sac.update(SACBatch(x.flatten(1), action, reward, x.flatten(1), ends), update)
    assert float((sac.policy(x.flatten(1)).mode == column).float().mean()) > 0.9


@pytest.mark.learning
def test_rl2_learns_where_a_mark_is() -> None:
    """Naming the column at random earns .67 of 4 an episode; after 40 updates at least 3 (seeds 0 to 7: over 3.7)."""
    agent = metarl.make_agent(
        "rl2", Mark(), trial_episodes=2, meta_batch_size=64, hidden=32, minibatches=2, learning_rate=3e-3
    )
    found: list[float] = []
    metarl.train(agent, 40, on_iteration=lambda _, metrics: found.append(metrics["episode_return"]))
    assert found[0] < 1.2
    assert np.mean(found[-5:]) > 3.0
