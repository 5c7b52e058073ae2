"""Implicit meta-gradients: they need where the inner loop has come, and not the way there.

Rajeswaran, Finn, Kakade and Levine (2019, arXiv:1909.04630). The parameters of a row solve the inner problem

    theta' = argmin L(theta') + lambda / 2 |theta' - theta|^2                      (equation 3)

on the samples of one rollout. L is minus the surrogate with importance ratios: the other surrogates estimate the return
only where the samples were taken, and several steps on the same samples leave that point. In a solution the gradient
L'(theta') + lambda (theta' - theta) is 0. Its derivative in theta gives the Jacobian of the solution, with H the
Hessian of L at theta' (lemma 1), and so the meta-gradient g of a row:

    d theta' / d theta = (I + H / lambda)^-1,    (I + H / lambda) g = grad L_post(theta')

Conjugate gradients solve the second equation with Hessian-vector products at theta' (algorithm 2). So memory does not
grow with the number of steps that led to theta'. As in the authors' code, lambda may be damped there: a larger one
keeps the system positive definite where the inner problem is not yet solved, and makes it less noisy.

The paper has one inner problem. Each further adaptation step poses the problem of its own rollout, with the pull
towards the parameters that sampled it; the meta-gradient then takes one system for each problem, from the last to the
first. A rollout's samples depend on theta, too; this dependence is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from metarl.learning.action_distributions import Distribution
from metarl.learning.gradient.inner_loop import InnerLoop
from metarl.learning.gradient.meta_gradient import GRAPH_BYTES, OuterLoss, Unroll, inner_step
from metarl.learning.gradient.policies import MLPPolicy
from metarl.learning.gradient.policy_gradient import Batch
from metarl.learning.gradient.step_sizes import StepSizes
from metarl.learning.gradient.trust_region import conjugate_gradient, flatten, unflatten
from metarl.learning.networks import Params


class ProximalLoop(InnerLoop):
    """Each adaptation step takes several gradient steps on the inner problem of its rollout.

    Args:
        policy: the policy whose parameters are adapted.
        sizes: the step sizes; all parameters are adapted.
        strength: lambda, the strength of the pull towards the parameters that sampled.
        steps: gradient steps on one rollout.
    """

    def __init__(self, policy: MLPPolicy, sizes: StepSizes, strength: float, steps: int) -> None:
        super().__init__(policy, sizes, "lvc")
        self.strength, self.steps = strength, steps

    def move(self, meta: Params, params: Params, batch: Batch, j: int, log_prob: Tensor | None = None) -> Params:
        """Gradient steps on the inner problem, from the parameters that sampled. See `InnerLoop.move`."""
        alpha, center = self.step_sizes(meta, j), params
        if log_prob is None:
            with torch.no_grad():
                log_prob = self.policy(params, batch.x).log_prob(batch.action)
        for _ in range(self.steps):
            new = inner_step(self, params, batch, alpha, log_prob)
            params = {k: v - alpha[k] * self.strength * (params[k] - center[k]) for k, v in new.items()}
        return params


class ImplicitObjective:
    """The mean outer loss over rows as a function of the meta-parameters, for `TrustRegion`.

    Its gradient is implicit. Its metric leaves the Jacobians of the solutions out: conjugate gradients that are cut off
    are no linear function, and those of the metric need one. The line search solves the inner problems anew and
    measures the loss and the KL divergence themselves.

    Args:
        inner: the inner loop.
        outer: the outer loss of the last policies.
        meta: the meta-parameters that the batches were sampled with.
        pre: the batches of the inner problems, at least one.
        post: the batch of the adapted policies.
        stride: every stride-th sample enters the metric.
        iterations: conjugate gradient iterations for the gradient.
        damping: added to lambda in the systems of the gradient; 0 is exact.
    """

    def __init__(
        self,
        inner: ProximalLoop,
        outer: OuterLoss,
        meta: Params,
        pre: list[Batch],
        post: Batch,
        stride: int = 1,
        *,
        iterations: int,
        damping: float,
    ) -> None:
        self.inner, self.outer, self.meta, self.pre, self.post = inner, outer, meta, pre, post
        self.iterations, self.damping, self.rows = iterations, damping, len(post.x)
        self.thinned = post.thinned(stride, inner.whole_episodes)
        self.parts = inner.chunks(post)
        self.points: list[list[Params]] = []  # for each part, theta and the solutions
        self.old: list[list[Distribution]] = []  # for each part, the policies that sampled
        self.kept: dict[int, Unroll] = {}  # by part, graphs of the metric that fit in memory
        self.bytes_left = GRAPH_BYTES
        self.flat, self.loss = flatten(meta), 0.0
        self.grad = torch.zeros_like(self.flat)
        for part in self.parts:
            points, old = self._solve(meta, part)
            loss, gradient = self._gradient(points, old, part)
            self.loss += loss / self.rows
            self.grad += gradient.sum(0) / self.rows
            self.points.append(points)
            self.old.append(old)

    @torch.no_grad()
    def _solve(
        self, meta: Params, part: slice, old: list[Distribution] | None = None
    ) -> tuple[list[Params], list[Distribution]]:
        """The theta and the solutions of some rows, and their policies, which sampled if `old` does not say others."""
        batches = [b.rows(part) for b in (*self.pre, self.post)]
        points, policies = [self.inner.start(meta, len(batches[-1].x))], list[Distribution]()
        for j, batch in enumerate(batches):
            policies.append(self.inner.policy(points[j], batch.x))
            if j < len(self.pre):
                log_prob = (policies if old is None else old)[j].log_prob(batch.action)
                points.append(self.inner.move(meta, points[j], batch, j, log_prob))
        return points, policies

    def _gradient(self, points: list[Params], old: list[Distribution], part: slice) -> tuple[float, Tensor]:
        """The sum of some rows' losses, and the implicit gradient of each `[R, P]`."""
        leaves, batch = _leaves(points[-1]), self.post.rows(part)
        loss = self.outer.rows(part)(len(self.pre), self.inner.policy(leaves, batch.x), batch, old[-1], True)
        back = _by_row(torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True))
        for j in reversed(range(len(self.pre))):
            back = self._through(j, points[j + 1], old[j], part, back)
        return float(loss.detach()), back

    def _through(self, j: int, solution: Params, sampler: Distribution, part: slice, u: Tensor) -> Tensor:
        """Map gradients `[R, P]` at the solution of problem j to gradients at the parameters that it pulls towards."""
        leaves, batch = _leaves(solution), self.pre[j].rows(part)
        every = list(leaves.values())
        loss = self.inner.loss(leaves, batch, sampler.log_prob(batch.action))
        grads = torch.autograd.grad(loss, every, create_graph=True, materialize_grads=True)
        sizes = [k[0].numel() for k in every]

        def product(v: Tensor) -> Tensor:
            """The product (I + H / (lambda + damping)) v, `[R, P]`."""
            tangents = [piece.view_as(k) for piece, k in zip(torch.split(v, sizes, 1), every, strict=True)]
            hessian = _by_row(torch.autograd.grad(grads, every, tangents, retain_graph=True, materialize_grads=True))
            return v + hessian / (self.inner.strength + self.damping)

        found, _ = conjugate_gradient(product, u, self.iterations, tolerance=1e-20)
        # a row whose system is not positive definite in its first direction has no solution: it keeps its gradient
        return torch.where((found != 0).any(1, keepdim=True), found, u)

    def fisher_vector(self, v: Tensor) -> Tensor:
        """F v at `meta`, where F is the Fisher matrix of the adapted policies in theta' and v is `[P]`."""
        vector, total = unflatten(v, self.meta), torch.zeros_like(v)
        for i in range(len(self.parts)):
            total += flatten(self._metric(i).fisher_vector(vector)) / self.rows
        return total

    def _metric(self, i: int) -> Unroll:
        """The graph of a part's policies at theta': there are no inner steps in it."""
        if i in self.kept:
            return self.kept[i]
        part = self.parts[i]
        batch = self.thinned.rows(part)
        graph = Unroll(self.inner, self.outer.rows(part), self.meta, [], batch, build_at=[self.points[i][-1]])
        self.bytes_left -= self.inner.graph_bytes(batch)
        if self.bytes_left > 0:
            self.kept[i] = graph
        return graph

    @torch.no_grad()
    def evaluate(self, flat: Tensor) -> tuple[float, float]:
        """The loss and the mean KL(old || new) of the adapted policies, for the meta-parameters `flat` `[P]`."""
        meta = unflatten(flat, self.meta)
        loss = kl = 0.0
        for part, old in zip(self.parts, self.old, strict=True):
            policy = self._solve(meta, part, old)[1][-1]
            batch = self.post.rows(part)
            loss += float(self.outer.rows(part)(len(self.pre), policy, batch, old[-1], True)) / self.rows
            kl += float((old[-1].kl(policy) * batch.weight).sum()) / self.rows  # type: ignore[arg-type]
        return loss, kl


def _leaves(params: Params) -> Params:
    return {k: v.detach().contiguous().requires_grad_() for k, v in params.items()}


def _by_row(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors `[R, ...]` side by side, `[R, P]`."""
    return torch.cat([v.flatten(1) for v in tensors], 1)
