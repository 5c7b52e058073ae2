"""Memories: the training pass against acting step by step, and the hand-derived GRU against PyTorch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import metarl
from metarl.learning import gru as recurrence
from metarl.learning.gru import _FusedSequence, _Sequence, gru_sequence
from metarl.learning.memory import GRU, MEMORIES, Memory, Transformer, make_memory, rotate, rotation_at
from metarl.rng import Rng, make_key


def made(kind: str, window: int = 20, inputs: int = 5, hidden: int = 16) -> Memory:
    """A memory all of whose parameters matter."""
    memory = make_memory(kind, inputs, hidden, window)
    memory.initialise(Rng(torch.tensor([make_key(kind)])))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in memory.parameters():
            p += 0.3 * torch.randn(p.shape, generator=generator)
    return memory


def inputs(steps: int = 20, rows: int = 3) -> torch.Tensor:
    return torch.randn(steps, rows, 5, generator=torch.Generator().manual_seed(1))


def stepped(memory: Any, x: torch.Tensor) -> torch.Tensor:
    """The features of acting step by step, `[T, R, hidden]` of inputs `[T, R, inputs]`."""
    rows = x.shape[1]
    state, seen, active = memory.begin(rows, torch.device("cpu")), [], torch.ones(rows, 1, dtype=torch.bool)
    for x_t in x:
        h, new = memory.step(x_t, state)
        state = memory.keep(state, new, active)
        seen.append(h)
    return torch.stack(seen)


@pytest.mark.parametrize("kind", MEMORIES)
@pytest.mark.parametrize("window", [20, 7])
def test_acting_step_by_step_equals_the_training_pass(kind: str, window: int) -> None:
    """With a window of 7 the transformer's ring is overwritten twice in 20 steps."""
    memory, x = made(kind, window), inputs()
    with torch.no_grad():
        torch.testing.assert_close(stepped(memory, x), memory(x), rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", MEMORIES)
def test_nothing_of_the_future_and_all_of_the_past_is_seen(kind: str) -> None:
    memory, x = made(kind), inputs()
    other = x.clone()
    other[10] += 1.0
    with torch.no_grad():
        changed = (memory(x) - memory(other)).abs().amax((1, 2))
    assert changed[:10].max() == 0
    assert changed[10:].min() > 0


def test_a_transformers_window_ends_where_it_says() -> None:
    """Two layers reach `window` - 1 back each: with a window of 4 step 10 is seen up to 16 and not at 17."""
    memory, x = made("transformer", 4), inputs()
    other = x.clone()
    other[10] += 1.0
    with torch.no_grad():
        changed = (memory(x) - memory(other)).abs().amax((1, 2))
    assert changed[10:17].min() > 0
    assert changed[17:].max() == 0


@pytest.mark.parametrize("kind", MEMORIES)
def test_rows_that_are_not_active_keep_their_memory(kind: str) -> None:
    """Row 1 pauses at the second of three steps: then it is where it would be without that step."""
    memory, x = made(kind), inputs(3)
    device, state = torch.device("cpu"), made(kind).begin(3, torch.device("cpu"))
    alone = memory.begin(3, device)
    every = torch.ones(3, 1, dtype=torch.bool)
    pauses = torch.tensor([[True], [False], [True]])
    with torch.no_grad():
        for t, active in enumerate((every, pauses, every)):
            h, new = memory.step(x[t], state)
            state = memory.keep(state, new, active)
            if t != 1:
                other, new = memory.step(x[t], alone)
                alone = memory.keep(alone, new, every)
    torch.testing.assert_close(h[1], other[1], rtol=0, atol=1e-6)
    assert not torch.allclose(h[0], other[0], atol=1e-3)


def test_rotary_products_depend_on_differences_alone() -> None:
    q, k = inputs(1, 2)[0, 0, :4].view(1, 1, 1, 4), inputs(1, 2)[0, 1, :4].view(1, 1, 1, 4)

    def product(i: int, j: int) -> float:
        return float(
            (rotate(q, rotation_at(torch.tensor([i]), 2)) * rotate(k, rotation_at(torch.tensor([j]), 2))).sum()
        )

    assert product(7, 5) == pytest.approx(product(102, 100), abs=1e-4)
    assert product(7, 5) != pytest.approx(product(7, 4), abs=1e-3)
    # one pair (1, 0) turned by one radian is (cos 1, sin 1)
    turned = rotate(torch.tensor([[[[1.0, 0.0]]]]), rotation_at(torch.tensor([1]), 1))
    assert turned.flatten().tolist() == pytest.approx([np.cos(1), np.sin(1)], abs=1e-6)


def fused_cell(
    inputs: torch.Tensor, across: torch.Tensor, h: torch.Tensor, b_i: torch.Tensor, b_h: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What CUDA's fused cell computes: the memory after a step, and r, z, n, h and W_hn h + b_hn for the way back."""
    (i_r, i_z, i_n), (h_r, h_z, h_n) = (inputs + b_i).chunk(3, 1), (across + b_h).chunk(3, 1)
    r, z = torch.sigmoid(i_r + h_r), torch.sigmoid(i_z + h_z)
    n = torch.tanh(i_n + r * h_n)
    return n + z * (h - n), torch.cat([r, z, n, h, h_n], 1)


def fused_cell_backward(d: torch.Tensor, kept: torch.Tensor, has_bias: bool) -> tuple[torch.Tensor | None, ...]:
    """Gradients of the input's gates, of the memory's gates and of the memory."""
    assert not has_bias
    r, z, n, h, h_n = kept.chunk(5, 1)
    d_n = d * (1 - z) * (1 - n * n)
    d_z = d * (h - n) * z * (1 - z)
    d_r = d_n * h_n * r * (1 - r)
    return torch.cat([d_r, d_z, d_n], 1), torch.cat([d_r, d_z, d_n * r], 1), d * z, None, None


@pytest.mark.parametrize("function", [_Sequence, _FusedSequence])
def test_gru_sequence_equals_pytorch_with_all_its_gradients(function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, every gate's weights and biases and the input: the two differ by rounding.

    The 7 steps are taken back in blocks of 3, the first of 1. The way that CUDA takes is tried with stand-ins for
    PyTorch's cell, which the CPU does not have.
    """
    monkeypatch.setattr(recurrence, "_BLOCK", 3 * 3 * 8)
    monkeypatch.setattr(recurrence, "_cell", fused_cell)
    monkeypatch.setattr(recurrence, "_cell_backward", fused_cell_backward)
    net = nn.GRU(5, 8).double()
    weights = [net.weight_ih_l0, net.weight_hh_l0, net.bias_ih_l0, net.bias_hh_l0]
    x, direction = inputs(7).double().requires_grad_(), inputs(7).double()[..., :1]
    ours, theirs = function.apply(x, *weights), net(x)[0]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)
    grads = [torch.autograd.grad((y * direction).sum(), [x, *weights]) for y in (ours, theirs)]
    for mine, other in zip(*grads, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-13)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gru_sequence_on_cuda_equals_the_cpu_in_double_precision() -> None:
    torch.manual_seed(0)
    net, x = nn.GRU(5, 33).double(), inputs(40, 6).double()
    out = []
    for device in ("cpu", "cuda"):
        weights = [w.detach().to(device).requires_grad_() for w in net._flat_weights]
        given = x.to(device).requires_grad_()
        y = gru_sequence(given, *weights)
        grads = torch.autograd.grad((y * y.detach().cos()).sum(), [given, *weights])
        out.append([y.detach().cpu(), *(g.cpu() for g in grads)])
    torch.testing.assert_close(out[0], out[1], rtol=0, atol=1e-11)


def test_gru_sequence_does_not_touch_the_gradient_it_is_given() -> None:
    net = nn.GRU(5, 8)
    y = gru_sequence(inputs(4), net.weight_ih_l0, net.weight_hh_l0, net.bias_ih_l0, net.bias_hh_l0)
    given = torch.ones_like(y)
    y.backward(given)
    assert (given == 1).all()


def test_rows_are_taken_in_parts_that_change_nothing() -> None:
    memory = made("gru")
    assert isinstance(memory, GRU)
    x = inputs(3, 150)
    torch.testing.assert_close(memory(x), memory.rnn(x)[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", MEMORIES)
def test_what_the_backward_pass_keeps_is_what_is_declared(kind: str) -> None:
    """`floats_kept` is an estimate from below, and not by more than a quarter."""
    steps, rows, hidden, kept = 50, 64, 64, {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    memory = make_memory(kind, 8, hidden, steps)
    memory.initialise(Rng(torch.tensor([1])))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        memory(torch.zeros(steps, rows, 8))
    found = sum(kept.values()) / (4 * steps * rows)
    assert memory.floats_kept <= found <= 1.25 * memory.floats_kept


def test_bad_memories_are_named() -> None:
    with pytest.raises(metarl.InvalidValueError, match=r"memory is 'gro', .*did you mean 'gru'"):
        make_memory("gro", 1, 8, 8)
    with pytest.raises(metarl.InvalidValueError, match="hidden of a transformer is 12, expected a multiple of 8"):
        Transformer(1, 12, 8)
