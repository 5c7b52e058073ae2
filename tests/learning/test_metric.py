"""The metric loss by hand, what it moves where, and the embeddings that it trains."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from metarl.agent import Distance, EmbeddingSum, MeanEncoder, metric_loss, mlp
from metarl.rng import Rng

DISTANCES = ("euclidean", "cosine")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def encoder() -> MeanEncoder:
    return MeanEncoder(3, (6,), 2, Rng(torch.tensor([0])))


def test_two_embeddings_of_one_task_by_hand() -> None:
    """(0, 0) and (3, 1): the mean squared difference is (9 + 1) / 2."""
    z = torch.tensor([[0.0, 0.0], [3.0, 1.0]])
    assert metric_loss(z, torch.tensor([4, 4])).item() == pytest.approx(math.sqrt(5.001))


def test_two_embeddings_of_two_tasks_by_hand() -> None:
    z = torch.tensor([[0.0, 0.0], [3.0, 1.0]])
    assert metric_loss(z, torch.tensor([4, 5])).item() == pytest.approx(1 / 5.1)


def test_pairs_of_one_task_and_of_two_have_a_mean_each_by_hand() -> None:
    """On a line at 0 and 1 (one task), 3 (another): a pair at 1, and two at 9 and 4."""
    z = torch.tensor([[0.0], [1.0], [3.0]])
    expected = math.sqrt(1.001) + (1 / 9.1 + 1 / 4.1) / 2
    assert metric_loss(z, torch.tensor([0, 0, 1])).item() == pytest.approx(expected)


def test_cosines_by_hand() -> None:
    """Angles of 60 degrees (one task), 90 and 150 degrees: d = 1 - 1/2, 1 and 1 + sqrt(3) / 2."""
    half, root = 0.5, math.sqrt(0.75)
    z = torch.tensor([[2.0, 0.0], [half, root], [0.0, -3.0]])
    expected = math.sqrt(0.501) + (1 / 1.1 + 1 / (1.1 + root)) / 2
    assert metric_loss(z, torch.tensor([0, 0, 1]), "cosine").item() == pytest.approx(expected)


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_loss_knows_neither_the_order_nor_the_names_of_tasks(distance: Distance) -> None:
    z, task = draw(7, 3), torch.tensor([0, 1, 2, 0, 1, 2, 2])
    loss = metric_loss(z, task, distance)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    torch.testing.assert_close(metric_loss(z[order], task[order], distance), loss)
    renamed = torch.tensor([9, 7, 8])[task]
    torch.testing.assert_close(metric_loss(z, renamed, distance), loss)
    turned = z.flip(1) * torch.tensor([1.0, -1.0, 1.0])  # an orthogonal map
    torch.testing.assert_close(metric_loss(turned, task, distance), loss)
    assert not torch.allclose(metric_loss(z, task[order], distance), loss)


def test_only_distances_count_or_only_directions() -> None:
    z, task = draw(6, 3), torch.tensor([0, 0, 1, 1, 2, 2])
    torch.testing.assert_close(metric_loss(z + 5.0, task), metric_loss(z, task))
    scaled = z * torch.arange(1.0, 7.0).unsqueeze(1)
    torch.testing.assert_close(metric_loss(scaled, task, "cosine"), metric_loss(z, task, "cosine"))


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize(("tasks", "together"), [((0, 0), True), ((0, 1), False)])
def test_a_small_step_draws_one_task_together_and_two_apart(
    distance: Distance, tasks: tuple[int, int], together: bool
) -> None:
    z, task = torch.tensor([[1.0, 0.2], [0.3, 1.0]], requires_grad=True), torch.tensor(tasks)
    metric_loss(z, task, distance).backward()
    assert z.grad is not None
    with torch.no_grad():
        moved = z - 1e-2 * z.grad
    before, after = ((v[0] - v[1]).norm().item() for v in (z.detach(), moved))
    assert (after < before) == together


@pytest.mark.parametrize("distance", DISTANCES)
def test_equal_embeddings_and_a_single_one_have_finite_gradients(distance: Distance) -> None:
    for z, task in ((torch.zeros(4, 2), torch.tensor([0, 0, 1, 1])), (torch.ones(1, 2), torch.tensor([0]))):
        z.requires_grad_()
        loss = metric_loss(z, task, distance)
        loss.backward()
        assert loss.isfinite()
        assert z.grad is not None
        assert z.grad.isfinite().all()


def test_a_tasks_embedding_is_the_mean_of_its_transitions() -> None:
    network, x = encoder(), draw(4, 7, 3)
    each = mlp(dict(network.layers.items()), x).tanh()
    torch.testing.assert_close(network(x).mean, each.mean(1))
    for other in (network(x.flip(1)), network(x[:, :3]).plus(network(x[:, 3:]))):
        torch.testing.assert_close(other.mean, each.mean(1))
    assert (network(1e3 * x).mean.abs() <= 1).all()


def test_transitions_that_do_not_count_change_nothing() -> None:
    network, x = encoder(), draw(2, 5, 3)
    valid = torch.tensor([[True, True, False, False, False], [False] * 5])
    found = network(x, valid)
    torch.testing.assert_close(found.mean[0], network(x[:1, :2]).mean[0])
    assert found.number[:, 0].tolist() == [2.0, 0.0]
    assert not found.mean[1].any()


def test_without_transitions_the_embedding_is_0() -> None:
    assert not EmbeddingSum(torch.zeros(2, 3), torch.zeros(2, 1)).mean.any()


def test_the_loss_separates_tasks_that_transitions_tell_apart() -> None:
    """Three tasks whose transitions differ by a shift."""
    network = encoder()
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    shift = torch.tensor([[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]).repeat(2, 1).unsqueeze(1)
    task = torch.tensor([0, 1, 2, 0, 1, 2])
    for step in range(200):
        optimizer.zero_grad()
        metric_loss(network(shift + 0.3 * draw(6, 8, 3, seed=step)).mean, task).backward()
        optimizer.step()
    with torch.no_grad():
        z = network(shift + 0.3 * draw(6, 8, 3, seed=999)).mean
    d = torch.cdist(z, z)
    same = task.unsqueeze(1) == task
    assert d[same].max() < 0.5 * d[~same].min()
