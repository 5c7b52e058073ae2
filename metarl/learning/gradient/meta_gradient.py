"""Exact gradients and Fisher-vector products through inner steps, for every agent that adapts by gradient steps.

A row starts from parameters theta_0, which depend on shared meta-parameters, and takes K inner steps

    theta_{j+1} = theta_j - alpha_j * grad L_j(theta_j)

The step sizes alpha_j may be learned. They are one number, one per tensor or one per parameter, and 0 for parameters
that are not adapted. H_j is the Hessian of L_j and symmetric, so the Jacobian of step j is J_j = I - alpha_j H_j, and
its transpose is J_j' = I - H_j alpha_j. The chain rule through K steps takes K Hessian-vector products, forwards or
backwards, and no third derivative:

    meta-gradient          J_0' ... J_{K-1}' grad L_post(theta_K)
    Fisher-vector product  J_0' ... J_{K-1}' F(theta_K) J_{K-1} ... J_0 v

A learned step size adds the column -grad L_j to the Jacobian. The Fisher-vector product is exact: it uses the Hessian
of the mean KL divergence of the adapted policies, at the point where this divergence and its gradient are 0 (Schulman
et al. 2015, arXiv:1502.05477, appendix C). The products differentiate twice in reverse mode, on graphs that stay in
memory as long as they fit.
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

GRAPH_BYTES = 2 * 2**30  # memory for graphs that are kept between products; graphs that do not fit are rebuilt


class Inner(Protocol):
    """An inner loop. Params are tensors `[R, ...]`; meta-parameters have no row axis."""

    @property
    def policy(self) -> Callable[[Params, Tensor], Distribution]:
        """The function from parameters and features `[R, B, d]` to action distributions."""

    @property
    def whole_episodes(self) -> bool:
        """Whether inner losses couple the steps of an episode."""

    @property
    def first_order(self) -> bool:
        """Whether the meta-update treats the inner Hessians as 0."""

    def start(self, meta: Params, rows: int) -> Params:
        """theta_0 of each row, a linear function of the meta-parameters."""

    def step_sizes(self, meta: Params, j: int) -> Params:
        """alpha_j by parameter name, each a scalar or of the parameter's shape. Other parameters are not adapted."""

    def loss(self, params: Params, batch: Batch, sampled_log_prob: Tensor | None = None) -> Tensor:
        """The sum over rows of L_j.

        Args:
            params: theta_j, `[R, ...]`.
            batch: samples of R rows.
            sampled_log_prob: log-probabilities of the policy that sampled the batch, `[R, B]`; None if `params` are its
                parameters.
        """

    def chunks(self, batch: Batch) -> list[slice]:
        """The rows that an update processes together."""

    def graph_bytes(self, batch: Batch) -> int:
        """Estimated size in bytes of the graph of one loss on the batch."""


class OuterLoss(Protocol):
    """The loss that a meta-update minimises."""

    @property
    def every_step(self) -> bool:
        """Whether the loss or the KL divergence depends on the policies after every inner step, not only the last."""

    def kl_weight(self, j: int, last: bool) -> float:
        """Weight of the policy after j steps in the KL divergence that limits the meta-update."""

    def rows(self, which: slice | Tensor) -> OuterLoss:
        """The loss of a subset of the rows."""

    def __call__(self, j: int, policy: Distribution, batch: Batch, old: Distribution, last: bool) -> Tensor:
        """The sum over rows of the loss of the policy after j inner steps.

        Args:
            j: number of inner steps taken.
            policy: the policy after j steps, on the batch.
            batch: samples taken after j steps.
            old: the policy that sampled the batch.
            last: whether j is the number of all inner steps. If `every_step` is False, it is always True.
        """


def inner_step(inner: Inner, params: Params, batch: Batch, alpha: Params, log_prob: Tensor | None = None) -> Params:
    """Return theta - alpha * grad L(theta), each row on its own samples, without a gradient graph.

    `log_prob` is the `sampled_log_prob` of `Inner.loss`.
    """
    with torch.enable_grad():
        leaves = {k: v.detach().requires_grad_(k in alpha) for k, v in params.items()}
        loss = inner.loss(leaves, batch, log_prob)
        grads = torch.autograd.grad(loss, [leaves[k] for k in alpha], materialize_grads=True)
    return {**params, **{k: params[k] - a * g for (k, a), g in zip(alpha.items(), grads, strict=True)}}


class Unroll:
    """The inner steps and adapted policies of some rows, with the graphs that the products differentiate.

    Args:
        inner: the inner loop.
        outer: the outer loss of these rows.
        meta: meta-parameters.
        pre: the batches of the inner steps, R rows each.
        post: the batch of the adapted policies.
        old: the policies that sampled the batches, in the order [*pre, post]; by default the policies of the inner
            steps.
        build_at: theta_0, ..., theta_K at which to build the graphs; by default those that the inner steps give. They
            are needed if the batches are only a part of the samples that gave these parameters.
    """

    def __init__(
        self,
        inner: Inner,
        outer: OuterLoss,
        meta: Params,
        pre: list[Batch],
        post: Batch,
        old: list[Distribution] | None = None,
        build_at: list[Params] | None = None,
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
            leaves = self._leaf(params if build_at is None else build_at[j])
            with torch.no_grad():
                policy = inner.policy(leaves, batch.x).detach() if old is None else old[j]
                sampled_log_prob = policy.log_prob(batch.action)
            loss = inner.loss(leaves, batch, sampled_log_prob)
            grads = torch.autograd.grad(
                loss, list(leaves.values()), create_graph=not first_order, materialize_grads=True
            )
            self.old.append(policy)
            self.grads.append(dict(zip(leaves, grads, strict=True)))
            params = {
                k: v - self.alphas[j][k] * self.grads[j][k] if k in self.alphas[j] else v for k, v in leaves.items()
            }
        leaves = self._leaf(params if build_at is None else build_at[-1])
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
        """The outer loss and its gradient with respect to the meta-parameters, summed over rows."""
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
        """The Hessian of the weighted KL divergences times v, J' F J v, summed over rows."""
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
        """The Hessian times v, where `grads` is the gradient: for all parameters, or those in `wanted`."""
        used = [k for k in v if k in grads and grads[k].requires_grad]
        names = list(leaves if wanted is None else wanted)
        products = torch.autograd.grad(
            [grads[k] for k in used],
            [leaves[k] for k in names],
            [v[k] for k in used],
            retain_graph=True,
            materialize_grads=True,
        )
        return dict(zip(names, products, strict=True))

    def _forward(self, j: int, u: Params, v: Params) -> Params:
        """Map a tangent u at theta_j, for the tangent v of the meta-parameters, to the tangent at theta_{j+1}."""
        alpha, grads = self.alphas[j], self.grads[j]
        alpha_tangent = _jvp(lambda m: self.inner.step_sizes(m, j), self.meta, v)
        hessian_u = {} if self.inner.first_order else self._product(grads, self.leaves[j], u, alpha)
        out = dict(u)
        for k, a in alpha.items():
            out[k] = u[k] - alpha_tangent[k] * grads[k].detach()
            if hessian_u:
                out[k] = out[k] - a * hessian_u[k]
        return out

    def _back(self, j: int, u: Params, out: Params) -> Params:
        """Map a gradient u at theta_{j+1} to one at theta_j. Add the gradient of the step sizes to `out`."""
        alpha, grads = self.alphas[j], self.grads[j]
        alpha_grads = {k: (-grads[k].detach() * u[k]).sum_to_size(a.shape) for k, a in alpha.items()}
        _add(out, _vjp(lambda m: self.inner.step_sizes(m, j), self.meta, alpha_grads))
        if self.inner.first_order:
            return u
        hessian_u = self._product(grads, self.leaves[j], {k: a * u[k] for k, a in alpha.items()})
        return {k: u[k] - hessian_u[k] for k in u}

    def _to_meta(self, back: Params, out: Params) -> Params:
        _add(out, _vjp(lambda m: self.inner.start(m, self.rows), self.meta, back))
        return out


class MetaObjective:
    """The mean outer loss over rows as a function of the meta-parameters, on samples taken with `meta`.

    Args:
        inner: the inner loop.
        outer: the outer loss.
        meta: the meta-parameters that the batches were sampled with.
        pre: the batches of the inner steps.
        post: the batch of the adapted policies.
        stride: every stride-th sample enters the Fisher-vector products (1: exact). Gradients and losses use all
            samples.
        metric: whether Fisher-vector products will be computed.
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
        self.kept: list[Unroll] = []  # graphs for the Fisher-vector products that fit in memory
        self.loss, total = 0.0, {k: torch.zeros_like(v) for k, v in meta.items()}
        bytes_left = GRAPH_BYTES if metric and stride == 1 else 0
        for part in self.parts:
            unroll = self._unroll(meta, part)
            loss, grads = unroll.gradient()
            self.loss += loss / self.rows
            _add(total, grads)
            self.old.append(unroll.old)
            self.points.append(unroll.points)
            bytes_left -= self._bytes(unroll)
            if bytes_left > 0:
                self.kept.append(unroll)
        self.flat, self.grad = flatten(meta), flatten(total) / self.rows
        self._rebuilds: list[Callable[[], Unroll]] | None = None  # functions that build the other graphs

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
        """J' F J v at `meta`, where F is the Fisher matrix of the adapted policies and v is `[P]`."""
        vector, total = unflatten(v, self.meta), {k: torch.zeros_like(x) for k, x in self.meta.items()}
        for unroll in self._metric_parts():
            _add(total, unroll.fisher_vector(vector))
            del unroll  # free its memory before the next one is built
        return flatten(total) / self.rows

    def _metric_parts(self) -> Iterator[Unroll]:
        """The graphs for the Fisher-vector products: those in memory, then the rebuilt ones."""
        if self._rebuilds is None:
            self._rebuilds = self._keep_what_fits()
        yield from self.kept
        for build in self._rebuilds:
            yield build()

    def _keep_what_fits(self) -> list[Callable[[], Unroll]]:
        """Keep the thinned graphs that fit in memory; return functions that build all other graphs."""
        if self.stride == 1:
            return [partial(self._unroll, self.meta, part) for part in self.parts[len(self.kept) :]]
        whole = self.inner.whole_episodes
        pre, post = [b.thinned(self.stride, whole) for b in self.pre], self.post.thinned(self.stride, whole)
        points = [
            {k: torch.cat([part[j][k] for part in self.points]) for k in self.points[0][j]}
            for j in range(len(self.pre) + 1)
        ]

        def build(part: slice) -> Unroll:
            part_points = [{k: v[part] for k, v in params.items()} for params in points]
            batches = [b.rows(part) for b in pre]
            return Unroll(self.inner, self.outer.rows(part), self.meta, batches, post.rows(part), build_at=part_points)

        parts, bytes_left = self.inner.chunks(post), GRAPH_BYTES
        for i, part in enumerate(parts):
            unroll = build(part)
            bytes_left -= self._bytes(unroll)
            if bytes_left <= 0:
                return [partial(build, p) for p in parts[i:]]
            self.kept.append(unroll)
        return []

    @torch.no_grad()
    def evaluate(self, flat: Tensor) -> tuple[float, float]:
        """The loss and the mean weighted KL(old || new) of the policies, for the meta-parameters `flat` `[P]`."""
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
                    alpha, log_prob = self.inner.step_sizes(meta, j), old[j].log_prob(batch.action)
                    params = inner_step(self.inner, params, batch, alpha, log_prob)
        return loss, kl


def _add(total: Params, terms: Params) -> None:
    for k, v in terms.items():
        total[k] = total[k] + v


def _jvp(function: Callable[[Params], Params], at: Params, v: Params) -> Params:
    """The Jacobian times v, by two reverse passes.

    This is because PyTorch's forward mode needs the deprecated torch.jit.script.
    """
    out, back = cast("tuple[Params, Callable[[Params], tuple[Params]]]", torch.func.vjp(function, at))
    return cast("Params", torch.func.vjp(lambda u: back(u)[0], out)[1](v)[0])


def _vjp(function: Callable[[Params], Params], at: Params, u: Params) -> Params:
    return cast("Params", torch.func.vjp(function, at)[1](u)[0])
