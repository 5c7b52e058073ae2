"""A GRU over whole sequences with a backward pass derived by hand, in few, large operations, for the CPU and CUDA.

PyTorch has no fused GRU on the CPU: `nn.GRU` runs about fifteen small operations per step forwards and more backwards.
Here a step takes six operations forwards and three backwards. With x the input, h the memory before and h' after a step
(Cho et al. 2014, arXiv:1406.1078, as in `nn.GRU`):

    r, z = sigmoid(W_ir x + b_ir + W_hr h + b_hr), sigmoid(W_iz x + b_iz + W_hz h + b_hz)
    m = W_hn h + b_hn,    n = tanh(W_in x + b_in + r m),    h' = n + z (h - n)

Backwards, the gradient of every gate is d = dL/dh' times a factor that is known before the recursion starts:

    pre-activations  n: d A        with A = (1 - z)(1 - n^2)
                     r: d A m r (1 - r)
                     z: d (h - n) z (1 - z)
    and               m: d A r

so three operations compute the d of the previous step: a multiplication by the stacked factors, a product with W_h and
a multiplication by z. The factors and the weights' gradients are computed for a block of steps that fits the cache.
`python experiments/benchmark_speed.py --only e` compares the speed with `nn.GRU`.

On CUDA a step is a product and PyTorch's fused cell forwards, and the cell's gradient and a product backwards. This is
fast if a CUDA graph launches the kernels (`metarl.engine.cuda_graphs`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# torch.gru_cell on CUDA: it takes products, and returns the memory and what the backward pass needs
_cell: Callable[..., tuple[Tensor, Tensor]] = torch.ops.aten._thnn_fused_gru_cell
_cell_backward: Callable[..., tuple[Tensor, ...]] = torch.ops.aten._thnn_fused_gru_cell_backward
_BLOCK = 1 << 15  # elements of one gate in a block of steps


class _Sequence(torch.autograd.Function):
    """`gru_sequence` on the CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w_i: Tensor, w_h: Tensor, b_i: Tensor, b_h: Tensor) -> Tensor:
        steps, batch, _ = x.shape
        size = w_h.shape[1]
        flat, both = x.reshape(steps * batch, -1), 2 * size
        rz = torch.addmm(b_i[:both] + b_h[:both], flat, w_i[:both].t()).view(steps, batch, both)
        n = torch.addmm(b_i[both:], flat, w_i[both:].t()).view(steps, batch, size)
        m, h = torch.empty_like(n), x.new_zeros(steps + 1, batch, size)
        w_rz, w_n, b_n = w_h[:both].t(), w_h[both:].t(), b_h[both:]
        r, z = rz[..., :size], rz[..., size:]
        parts = (part.unbind() for part in (rz, r, z, n, m, h[:-1], h[1:]))
        for rz_t, r_t, z_t, n_t, m_t, h_t, after_t in zip(*parts, strict=True):
            rz_t.addmm_(h_t, w_rz).sigmoid_()
            torch.addmm(b_n, h_t, w_n, out=m_t)
            n_t.addcmul_(r_t, m_t).tanh_()
            torch.lerp(n_t, h_t, z_t, out=after_t)
        ctx.save_for_backward(x, w_i, w_h, rz, n, m, h)
        return h[1:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, w_i, w_h, rz, n, m, h = ctx.saved_tensors
        steps, batch, size = n.shape
        d_w_i, d_w_h = torch.zeros_like(w_i), torch.zeros_like(w_h)
        d_b_i, d_b_h = w_h.new_zeros(3 * size), w_h.new_zeros(3 * size)
        d_x = x.new_empty(x.shape) if ctx.needs_input_grad[0] else None
        length = max(1, min(steps, _BLOCK // (batch * size)))  # steps per block
        a_, d_, e_ = (n.new_empty(length, batch, size) for _ in range(3))
        f_ = n.new_empty(length, batch, 3, size)  # factors of r, z and m
        carry = n.new_zeros(batch, size)
        for stop in range(steps, 0, -length):
            now = slice(max(0, stop - length), stop)
            count = now.stop - now.start
            a, d, e, f = a_[:count], d_[:count], e_[:count], f_[:count]
            r, z, before = rz[now, :, :size], rz[now, :, size:], h[now]
            torch.mul(n[now], n[now], out=a).neg_().add_(1)  # 1 - n^2
            torch.sub(before, n[now], out=f[:, :, 1])
            torch.mul(a, z, out=e)
            a.sub_(e)  # A
            torch.mul(a, r, out=f[:, :, 2])
            torch.mul(f[:, :, 2], m[now], out=e)
            torch.mul(e, r, out=f[:, :, 0]).neg_().add_(e)
            f[:, :, 1].mul_(z)
            torch.mul(f[:, :, 1], z, out=e)
            f[:, :, 1].sub_(e)
            d.copy_(grads[0][now])
            d[-1].add_(carry)
            d_t, z_t, f_t, g_t = d.unbind(), z.unbind(), f.unbind(), f.flatten(2).unbind()
            wide_t = d.unsqueeze(2).unbind()
            for t in range(count - 1, -1, -1):
                f_t[t].mul_(wide_t[t])
                into = d_t[t - 1] if t else torch.mul(d_t[0], z_t[0], out=carry)
                if t:
                    into.addcmul_(d_t[t], z_t[t])
                into.addmm_(g_t[t], w_h)
            gates = f.view(count * batch, 3 * size)
            d_w_h.addmm_(gates.t(), before.reshape(count * batch, size))
            d_b_h += gates.sum(0)
            torch.mul(d, a, out=f[:, :, 2])  # the gradient of W_in x + b_in
            d_w_i.addmm_(gates.t(), x[now].reshape(count * batch, -1))
            d_b_i += gates.sum(0)
            if d_x is not None:
                torch.mm(gates, w_i, out=d_x[now].view(count * batch, -1))
        return d_x, d_w_i, d_w_h, d_b_i, d_b_h


class _FusedSequence(torch.autograd.Function):
    """`gru_sequence` on CUDA, with the fused cell of `torch.gru_cell`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w_i: Tensor, w_h: Tensor, b_i: Tensor, b_h: Tensor) -> Tensor:
        steps, batch, _ = x.shape
        size = w_h.shape[1]
        inputs, across = (x.reshape(steps * batch, -1) @ w_i.t()).view(steps, batch, 3 * size), w_h.t()
        h, cells = [x.new_zeros(batch, size)], []
        for inputs_t in inputs.unbind():
            after, cell = _cell(inputs_t, h[-1] @ across, h[-1], b_i, b_h)
            h.append(after)
            cells.append(cell)
        stacked = torch.stack(h)
        ctx.save_for_backward(x, w_i, w_h, stacked, *cells)
        return stacked[1:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, w_i, w_h, h, *cells = ctx.saved_tensors
        steps, batch, _ = x.shape
        d_inputs, d_across = [], []
        carry: Tensor | None = None
        for d, cell in zip(reversed(grads[0].unbind()), reversed(cells), strict=True):
            d = d.contiguous() if carry is None else d + carry
            d_i, d_a, d_before = _cell_backward(d, cell, False)[:3]
            d_inputs.append(d_i)
            d_across.append(d_a)
            carry = torch.addmm(d_before, d_a, w_h)
        flat_i, flat_a = (torch.cat(d[::-1]) for d in (d_inputs, d_across))  # [T * B, 3 hidden]
        d_w_i, d_w_h = flat_i.t() @ x.reshape(steps * batch, -1), flat_a.t() @ h[:-1].reshape(steps * batch, -1)
        d_x = (flat_i @ w_i).view_as(x) if ctx.needs_input_grad[0] else None
        return d_x, d_w_i, d_w_h, flat_i.sum(0), flat_a.sum(0)


def gru_sequence(x: Tensor, w_i: Tensor, w_h: Tensor, b_i: Tensor, b_h: Tensor) -> Tensor:
    """A GRU whose memory begins with zeros. It can be differentiated once.

    Args:
        x: `[T, B, inputs]`, on the CPU or on CUDA.
        w_i: `[3 hidden, inputs]`, rows in the order r, z, n as in `nn.GRU.weight_ih_l0`.
        w_h: `[3 hidden, hidden]`.
        b_i: `[3 hidden]`.
        b_h: `[3 hidden]`.

    Returns:
        the memory after each step, `[T, B, hidden]`.
    """
    function: Any = _FusedSequence if x.device.type == "cuda" else _Sequence
    return function.apply(x, w_i, w_h, b_i, b_h)  # type: ignore[no-any-return]
