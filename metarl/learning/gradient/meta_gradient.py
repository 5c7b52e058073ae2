"""Exact gradients and Fisher-vector products through inner steps, for every agent that adapts by gradient steps.

A row starts from parameters theta_0 that follow from shared meta-parameters, and takes K inner steps

    theta_{j+1} = theta_j - alpha_j * grad L_j(theta_j)

with step sizes alpha_j that may be learned, be one number, one per tensor or one per parameter, and be 0 for parameters
that are not adapted. With H_j the Hessian of L_j, which is symmetric, one step's Jacobian is I - alpha_j H_j, so the
chain rule through K steps is K Hessian-vector products forwards or backwards; no derivative beyond the second is built:

    meta-gradient          (I - H_0 a_0) ... (I - H_{K-1} a_{K-1}) grad L_post(theta_K)
    Fisher-vector product  (I - H_0 a_0) ... (I - H_{K-1} a_{K-1}) F(theta_K) (I - a_{K-1} H_{K-1}) ... (I - a_0 H_0) v

and the step sizes' own columns, -grad L_j. The second is the exact Hessian of the mean KL divergence of the
post-adaptation policies, where that divergence and its gradient vanish (Schulman et al. 2015, arXiv:1502.05477,
appendix C). Products are reverse over reverse on graphs that are kept as long as they fit in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol, cast

import torch
from torch import Tensor

from metarl.learning.action_distributions import Distribution
from metarl.learning.gradient.policy_gradient import Batch
from metarl.learning.gradient.trust_region import flatten, unflatten
from metarl.learning.networks import Params

GRAPH_BYTES = 2 * 2**30  # graphs kept between products; what does not fit is built anew for each


class Inner(Protocol):
    """An inner loop. Params hold tensors `[R, ...]`, meta-parameters shared ones."""

    @property
    def policy(self) -> Callable[[Params, Tensor], Distribution]:
        """Parameters and features `[R, B, d]` to action distributions."""

    @property
    def whole_episodes(self) -> bool:
        """Whether inner losses join the steps of an episode."""

    @property
    def first_order(self) -> bool:
        """Whether the meta-update takes the inner Hessians for 0."""

    def start(self, meta: Params, rows: int) -> Params:
        """Each row's theta_0, linear in the meta-parameters."""

    def step_sizes(self, meta: Params, j: int) -> Params:
        """alpha_j by the name of the parameter, each a scalar or shaped as the parameter; what is absent stays."""

    def loss(self, params: Params, batch: Batch, sampled: Tensor | None = None) -> Tensor:
        """The sum over rows of L_j; `sampled` are the log-probabilities of the policy that sampled, `[R, B]`."""

    def chunks(self, batch: Batch) -> list[slice]:
        """Rows that go through an update together."""

    def graph_bytes(self, batch: Batch) -> int:
        """About how much memory the graph of one loss on the batch takes."""


class OuterLoss(Protocol):
    """What a meta-update minimises."""

    @property
    def every_step(self) -> bool:
        """Whether it (or the KL divergence) looks at all policies on the way, or at the last alone."""

    def kl_weight(self, j: int, last: bool) -> float:
        """Share of the policy after j steps in the KL divergence that limits the meta-update."""

    def rows(self, which: slice | Tensor) -> OuterLoss:
        """The loss of a subset of the rows."""

    def __call__(self, j: int, policy: Distribution, batch: Batch, old: Distribution, last: bool) -> Tensor:
        """The sum over rows of the loss of the policy after j inner steps.

        Args:
            j: inner steps taken.
            policy: after them, on the batch that was sampled then.
            batch: that batch.
            old: the policy that sampled it.
            last: whether these were all steps. Others are asked for only where `every_step` is true.
        """


def inner_step(inner: Inner, params: Params, batch: Batch, alpha: Params, sampled: Tensor | None = None) -> Params:
    """Return theta - alpha * grad L(theta), each row on its own samples, without a graph."""
    with torch.enable_grad():
        leaves = {k: v.detach().requires_grad_(k in alpha) for k, v in params.items()}
        loss = inner.loss(leaves, batch, sampled)
        grads = torch.autograd.grad(loss, [leaves[k] for k in alpha], materialize_grads=True)
    return {**params, **{k: params[k] - a * g for (k, a), g in zip(alpha.items(), grads, strict=True)}}


class Unroll:
    """Some rows' inner steps and adapted policies, with the graphs that the products differentiate again.

    Args:
        inner: the inner loop.
        outer: the outer loss of these rows.
        meta: meta-parameters.
        pre: the batches of the inner steps, R rows each.
        post: the batch of the adapted policies.
        old: the policies that sampled the batches, `pre` first; by default those met on the way.
        points: theta_0, ..., theta_K where to build graphs, if the batches are only a part of those that lead there.
    """

    def __init__(
        self,
        inner: Inner,
        outer: OuterLoss,
        meta: Params,
        pre: list[Batch],
        post: Batch,
        old: list[Distribution] | None = None,
        points: list[Params] | None = None,
    ) -> None:
        self.inner, self.outer, self.meta, self.batches = inner, outer, meta, [*pre, post]
        self.rows, first_order = len(post.x), inner.first_order
        self.alphas = [inner.step_sizes(meta, j) for j in range(len(pre))]
        self.leaves: list[Params] = []
        self.grads: list[Params] = []  # grad L_j, with graphs
        self.old: list[Distribution] = []
        self._kl_grads: dict[int, Params] = {}
        params = inner.start(meta, self.rows)
        for j, batch in enumerate(pre):
            leaves = self._leaf(params if points is None else points[j])
            given = None if old is None else old[j]
            with torch.no_grad():
                policy = inner.policy(leaves, batch.x).detach() if given is None else given
                sampled = policy.log_prob(batch.action)
            loss = inner.loss(leaves, batch, sampled)
            grads = torch.autograd.grad(
                loss, list(leaves.values()), create_graph=not first_order, materialize_grads=True
            )
            self.old.append(policy)
            self.grads.append(dict(zip(leaves, grads, strict=True)))
            params = {
                k: v - self.alphas[j][k] * self.grads[j][k] if k in self.alphas[j] else v for k, v in leaves.items()
            }
        leaves = self._leaf(params if points is None else points[-1])
        self.final = inner.policy(leaves, post.x)
        self.old.append(self.final.detach() if old is None else old[-1])

    def _leaf(self, params: Params) -> Params:
        leaves = {k: v.detach().contiguous().requires_grad_() for k, v in params.items()}
        self.leaves.append(leaves)
        return leaves

    @property
    def points(self) -> list[Params]:
        """theta_0, ..., theta_K."""
        return [{k: v.detach() for k, v in leaves.items()} for leaves in self.leaves]

    def gradient(self) -> tuple[float, Params]:
        """The outer loss and its gradient in the meta-parameters, summed over rows."""
        steps = len(self.alphas)
        total, back = 0.0, {k: torch.zeros_like(v) for k, v in self.leaves[-1].items()}
        out = {k: torch.zeros_like(v) for k, v in self.meta.items()}
        for j in reversed(range(steps + 1)):
            last = j == steps
            if not last:
                back = self._back(j, back, out)
            if last or self.outer.every_step:
                leaves, batch = self.leaves[j], self.batches[j]
                policy = self.final if last else self.inner.policy(leaves, batch.x)
                loss = self.outer(j, policy, batch, self.old[j], last)
                total += float(loss.detach())
                if loss.requires_grad:
                    grads = torch.autograd.grad(loss, list(leaves.values()), retain_graph=last, materialize_grads=True)
                    _add(back, dict(zip(leaves, grads, strict=True)))
        return total, self._to_meta(back, out)

    def fisher_vector(self, v: Params) -> Params:
        """The Hessian of the weighted KL divergences, J' F J v, summed over rows."""
        steps = len(self.alphas)
        tangents = [_jvp(lambda m: self.inner.start(m, self.rows), self.meta, v)]
        for j in range(steps):
            tangents.append(self._forward(j, tangents[-1], v))
        back = {k: torch.zeros_like(u) for k, u in tangents[-1].items()}
        out = {k: torch.zeros_like(x) for k, x in self.meta.items()}
        for j in reversed(range(steps + 1)):
            if j < steps:
                back = self._back(j, back, out)
            if self.outer.kl_weight(j, j == steps):
                _add(back, self._product(self._kl_grad(j), self.leaves[j], tangents[j]))
        return self._to_meta(back, out)

    def _kl_grad(self, j: int) -> Params:
        if j not in self._kl_grads:
            last, leaves, batch = j == len(self.alphas), self.leaves[j], self.batches[j]
            policy = self.final if last else self.inner.policy(leaves, batch.x)
            kl = (policy.detach().kl(policy) * batch.weight).sum()  # type: ignore[arg-type]
            kl = self.outer.kl_weight(j, last) * kl
            grads = torch.autograd.grad(kl, list(leaves.values()), create_graph=True, materialize_grads=True)
            self._kl_grads[j] = dict(zip(leaves, grads, strict=True))
        return self._kl_grads[j]

    def _product(self, grads: Params, leaves: Params, v: Params, wanted: Params | None = None) -> Params:
        """The Hessian whose rows `grads` are, times v: by default all its rows, or those of `wanted`."""
        used = [k for k in v if k in grads and grads[k].requires_grad]
        names = list(leaves if wanted is None else wanted)
        found = torch.autograd.grad(
            [grads[k] for k in used],
            [leaves[k] for k in names],
            [v[k] for k in used],
            retain_graph=True,
            materialize_grads=True,
        )
        return dict(zip(names, found, strict=True))

    def _forward(self, j: int, u: Params, v: Params) -> Params:
        """From a tangent at theta_j (and v of the meta-parameters) to one at theta_{j+1}."""
        alpha, grads = self.alphas[j], self.grads[j]
        moved = _jvp(lambda m: self.inner.step_sizes(m, j), self.meta, v)
        bent = {} if self.inner.first_order else self._product(grads, self.leaves[j], u, alpha)
        out = dict(u)
        for k, a in alpha.items():
            out[k] = u[k] - moved[k] * grads[k].detach()
            if bent:
                out[k] = out[k] - a * bent[k]
        return out

    def _back(self, j: int, u: Params, out: Params) -> Params:
        """From a gradient at theta_{j+1} to one at theta_j; the step sizes' share is added to `out`."""
        alpha, grads = self.alphas[j], self.grads[j]
        share = {k: (-grads[k].detach() * u[k]).sum_to_size(a.shape) for k, a in alpha.items()}
        _add(out, _vjp(lambda m: self.inner.step_sizes(m, j), self.meta, share))
        if self.inner.first_order:
            return u
        bent = self._product(grads, self.leaves[j], {k: a * u[k] for k, a in alpha.items()})
        return {k: u[k] - bent[k] for k in u}

    def _to_meta(self, back: Params, out: Params) -> Params:
        _add(out, _vjp(lambda m: self.inner.start(m, self.rows), self.meta, back))
        return out


class MetaObjective:
    """The mean over rows of the outer loss as a function of the meta-parameters, on samples taken with `meta`.

    Args:
        inner: the inner loop.
        outer: the outer loss.
        meta: the meta-parameters that the batches were sampled with.
        pre: the batches of the inner steps.
        post: the batch of the adapted policies.
        stride: one in so many samples enters the Fisher-vector products (1: exact); gradients and losses use all.
        metric: whether Fisher-vector products will be asked for.
    """

    def __init__(
        self,
        inner: Inner,
        outer: OuterLoss,
        meta: Params,
        pre: list[Batch],
        post: Batch,
        stride: int = 1,
        metric: bool = True,
    ) -> None:
        self.inner, self.outer, self.meta, self.pre, self.post = inner, outer, meta, pre, post
        self.rows, self.stride = len(post.x), stride
        self.parts = inner.chunks(post)
        self.old: list[list[Distribution]] = []  # for each part, the policies that sampled
        self.points: list[list[Params]] = []  # for each part, theta_0, ..., theta_K
        self.kept: list[Unroll] = []
        self.loss, total = 0.0, {k: torch.zeros_like(v) for k, v in meta.items()}
        room = GRAPH_BYTES if metric and stride == 1 else 0
        for part in self.parts:
            unroll = self._unroll(meta, part)
            loss, grads = unroll.gradient()
            self.loss += loss / self.rows
            _add(total, grads)
            self.old.append(unroll.old)
            self.points.append(unroll.points)
            room -= self._bytes(unroll)
            if room > 0:
                self.kept.append(unroll)
        self.flat, self.grad = flatten(meta), flatten(total) / self.rows
        self._remade: list[Callable[[], Unroll]] | None = None

    def _unroll(self, meta: Params, part: slice, old: list[Distribution] | None = None) -> Unroll:
        pre = [b.rows(part) for b in self.pre]
        return Unroll(self.inner, self.outer.rows(part), meta, pre, self.post.rows(part), old)

    def _bytes(self, unroll: Unroll) -> int:
        return sum(self.inner.graph_bytes(batch) for batch in unroll.batches)

    def gradient(self, meta: Params) -> tuple[float, Tensor]:
        """The loss at `meta`, and its gradient `[P]`."""
        loss, total = 0.0, {k: torch.zeros_like(v) for k, v in meta.items()}
        for part, old in zip(self.parts, self.old, strict=True):
            value, grads = self._unroll(meta, part, old).gradient()
            loss += value / self.rows
            _add(total, grads)
        return loss, flatten(total) / self.rows

    def fisher_vector(self, v: Tensor) -> Tensor:
        """The Fisher matrix of the adapted policies at `meta`, pulled back, times v `[P]`."""
        given, total = unflatten(v, self.meta), {k: torch.zeros_like(x) for k, x in self.meta.items()}
        for unroll in self._metric_parts():
            _add(total, unroll.fisher_vector(given))
            del unroll  # or it would live on while the next is made
        return flatten(total) / self.rows

    def _metric_parts(self) -> Iterator[Unroll]:
        """The graphs of the metric: kept ones, then those that memory has no room for, made anew."""
        if self._remade is None:
            self._remade = self._plan()
        yield from self.kept
        for make in self._remade:
            yield make()

    def _plan(self) -> list[Callable[[], Unroll]]:
        """Makers of what is not kept; the thinned graphs that fit are made and kept now."""
        if self.stride == 1:
            return [partial(self._unroll, self.meta, part) for part in self.parts[len(self.kept) :]]
        whole = self.inner.whole_episodes
        pre, post = [b.thinned(self.stride, whole) for b in self.pre], self.post.thinned(self.stride, whole)
        points = [
            {k: torch.cat([part[j][k] for part in self.points]) for k in self.points[0][j]}
            for j in range(len(self.pre) + 1)
        ]

        def make(part: slice) -> Unroll:
            here = [{k: v[part] for k, v in params.items()} for params in points]
            batches = [b.rows(part) for b in pre]
            return Unroll(self.inner, self.outer.rows(part), self.meta, batches, post.rows(part), points=here)

        parts, room = self.inner.chunks(post), GRAPH_BYTES
        for i, part in enumerate(parts):
            unroll = make(part)
            room -= self._bytes(unroll)
            if room <= 0:
                return [partial(make, p) for p in parts[i:]]
            self.kept.append(unroll)
        return []

    @torch.no_grad()
    def evaluate(self, flat: Tensor) -> tuple[float, float]:
        """Loss and mean weighted KL(old || new) of the policies if `flat` were the meta-parameters."""
        meta = unflatten(flat, self.meta)
        loss = kl = 0.0
        for part, old in zip(self.parts, self.old, strict=True):
            outer, params = self.outer.rows(part), self.inner.start(meta, self.post.x[part].shape[0])
            batches = [b.rows(part) for b in (*self.pre, self.post)]
            for j, batch in enumerate(batches):
                last = j == len(self.pre)
                if last or outer.every_step:
                    policy = self.inner.policy(params, batch.x)
                    loss += float(outer(j, policy, batch, old[j], last)) / self.rows
                    divergence = (old[j].kl(policy) * batch.weight).sum()  # type: ignore[arg-type]
                    kl += outer.kl_weight(j, last) * float(divergence) / self.rows
                if not last:
                    alpha, sampled = self.inner.step_sizes(meta, j), old[j].log_prob(batch.action)
                    params = inner_step(self.inner, params, batch, alpha, sampled)
        return loss, kl


def _add(to: Params, more: Params) -> None:
    for k, v in more.items():
        to[k] = to[k] + v


def _jvp(function: Callable[[Params], Params], at: Params, v: Params) -> Params:
    """Reverse over reverse: forward mode would compile decompositions with torch.jit.script, which is deprecated."""
    out, back = cast("tuple[Params, Callable[[Params], tuple[Params]]]", torch.func.vjp(function, at))
    return cast("Params", torch.func.vjp(lambda u: back(u)[0], out)[1](v)[0])


def _vjp(function: Callable[[Params], Params], at: Params, u: Params) -> Params:
    return cast("Params", torch.func.vjp(function, at)[1](u)[0])
