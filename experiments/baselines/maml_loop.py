"""MAML-TRPO's meta-update the plain way: one task after another, every derivative by autograd through the adaptation.

The update of metarl's maml (Finn, Abbeel and Levine 2017, arXiv:1703.03400, algorithm 3), in the style of
pytorch-maml-rl (Deleu 2018). A Fisher-vector product is the gradient of (grad KL . v) through the inner steps. The
first versions of that code built the graph of grad KL anew for every product; later ones keep it for all of them, which
is faster and takes memory in proportion to tasks. `keep_graphs` chooses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from metarl import Budget, Trials
from metarl.agents.gradient.maml import MAML, MAMLConfig
from metarl.learning.gradient.policy_gradient import Batch
from metarl.learning.gradient.trust_region import conjugate_gradient

Theta = dict[str, Tensor]
ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh}


class Task(NamedTuple):
    """One task's rollouts: a batch `[B, ...]` before each inner step, and one after the last."""

    pre: list[Batch]
    post: Batch


def collect(agent: MAML, trials: Trials) -> tuple[list[Batch], Batch]:
    """The batches that `agent.train_step(trials)` makes: all its draws are keyed, so they are the same to the bit."""
    budget = Budget(envs=agent.config.episodes, steps=agent.family.horizon)
    state, batches = agent.begin(trials.rows), []
    for j in range(agent.config.inner_steps + 1):
        rollout, state = trials.collect(agent, state, j, budget)
        batches.append(agent.prepare(rollout))
        if j < agent.config.inner_steps:
            state = agent.adapt(state, rollout)
    return batches[:-1], batches[-1]


def split(pre: list[Batch], post: Batch) -> list[Task]:
    """Each row as a task of its own."""

    def row(batch: Batch, i: int) -> Batch:
        return Batch(*(leaf[i] for leaf in batch))

    return [Task([row(batch, i) for batch in pre], row(post, i)) for i in range(len(post.x))]


def policy(params: Theta, x: Tensor, cfg: MAMLConfig) -> Normal:
    """pi(. | x), features `[B, d]`."""
    depth = sum(name.startswith("w") for name in params)
    for i in range(depth):
        x = torch.addmm(params[f"b{i}"], x, params[f"w{i}"])
        x = ACTIVATIONS[cfg.activation](x) if i < depth - 1 else x
    return Normal(x, params["log_std"].exp().expand_as(x), validate_args=False)


def adapt(theta: Theta, task: Task, cfg: MAMLConfig, create_graph: bool) -> Theta:
    """The inner steps: theta' = theta - alpha * grad L(theta)."""
    params = theta
    for j, batch in enumerate(task.pre):
        log_prob = policy(params, batch.x, cfg).log_prob(batch.action).sum(-1)
        loss = -(log_prob * batch.advantage * batch.weight).sum()
        grads = torch.autograd.grad(loss, list(params.values()), create_graph=create_graph)
        lr = cfg.inner_lr * (cfg.inner_lr_schedule[j:] or cfg.inner_lr_schedule[-1:])[0]
        params = {k: v - lr * g for (k, v), g in zip(params.items(), grads, strict=True)}
    return params


def surrogate(
    theta: Theta, task: Task, cfg: MAMLConfig, old: Normal | None = None, create_graph: bool = True
) -> tuple[Tensor, Tensor, Normal]:
    """The adapted policy's -mean ratio * advantage, mean KL(old || new), and old (this policy, detached, if None)."""
    params, post = adapt(theta, task, cfg, create_graph), task.post
    with torch.set_grad_enabled(create_graph):
        new = policy(params, post.x, cfg)
        old = old or Normal(new.loc.detach(), new.scale.detach(), validate_args=False)
        ratio = torch.exp((new.log_prob(post.action) - old.log_prob(post.action)).sum(-1))
        kl = (kl_divergence(old, new).sum(-1) * post.weight).sum()
        return -(ratio * post.advantage * post.weight).sum(), kl, old


def meta_gradient(theta: Theta, tasks: list[Task], cfg: MAMLConfig) -> tuple[float, Tensor, list[Normal]]:
    """The mean surrogate loss, its gradient `[P]`, and the adapted policies."""
    total, gradient, old = 0.0, 0.0, []
    for task in tasks:
        loss, _, pi = surrogate(theta, task, cfg)
        gradient = gradient + _flat(torch.autograd.grad(loss, list(theta.values()))) / len(tasks)
        total += float(loss.detach()) / len(tasks)
        old.append(pi)
    assert isinstance(gradient, Tensor), "a meta-update needs tasks"
    return total, gradient, old


def fisher_vector_product(
    theta: Theta, tasks: list[Task], old: list[Normal], cfg: MAMLConfig, keep_graphs: bool
) -> Callable[[Tensor], Tensor]:
    """The Hessian of the mean KL divergence times a vector `[P]`, plus damping."""
    params = list(theta.values())

    def kl_gradient(i: int) -> Tensor:
        _, kl, _ = surrogate(theta, tasks[i], cfg, old[i])
        return _flat(torch.autograd.grad(kl, params, create_graph=True))

    kept = [kl_gradient(i) for i in range(len(tasks))] if keep_graphs else []

    def product(v: Tensor) -> Tensor:
        out = cfg.cg_damping * v
        for i in range(len(tasks)):
            gradient = kept[i] if keep_graphs else kl_gradient(i)
            hv = torch.autograd.grad(torch.dot(gradient, v), params, retain_graph=keep_graphs)
            out = out + _flat(hv) / len(tasks)
        return out

    return product


def meta_update(theta: Theta, tasks: list[Task], cfg: MAMLConfig, keep_graphs: bool = False) -> Theta:
    """One step of TRPO on theta."""
    theta = {k: v.detach().clone().requires_grad_() for k, v in theta.items()}
    before, gradient, old = meta_gradient(theta, tasks, cfg)
    product = fisher_vector_product(theta, tasks, old, cfg, keep_graphs)
    direction, residual = conjugate_gradient(product, gradient, cfg.cg_iterations)
    scale = torch.sqrt(2.0 * cfg.max_kl / torch.dot(direction, gradient - residual))
    start = _flat(list(theta.values())).detach()
    for i in range(cfg.line_search_steps):
        tried = _unflat(start - scale * cfg.line_search_decay**i * direction, theta)
        results = [surrogate(tried, task, cfg, pi, create_graph=False)[:2] for task, pi in zip(tasks, old, strict=True)]
        loss, kl = (float(sum(r[n] for r in results)) / len(tasks) for n in (0, 1))
        if loss < before and kl <= cfg.max_kl:
            return {k: v.detach() for k, v in tried.items()}
    return {k: v.detach() for k, v in theta.items()}


def distance(a: Theta, b: Theta) -> float:
    """Euclidean."""
    return float((_flat(list(a.values())) - _flat(list(b.values()))).norm())


def _flat(tensors: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


def _unflat(flat: Tensor, like: Theta) -> Theta:
    parts = torch.split(flat, [v.numel() for v in like.values()])
    return {k: p.view_as(v).clone().requires_grad_() for (k, v), p in zip(like.items(), parts, strict=True)}
