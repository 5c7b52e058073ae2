"""MAML-RL: an initialisation from which policy-gradient steps adapt fast, trained by TRPO through those steps.

Finn, Abbeel and Levine (2017, arXiv:1703.03400), algorithm 3. With theta_0 = theta and inner steps
theta_{j+1} = theta_j - alpha_j * grad L_j(theta_j), one step's Jacobian is I - alpha_j H_j with H_j the Hessian of L_j,
which is symmetric. The chain rule through K steps is therefore K Hessian-vector products, the same ones forwards and
backwards, and no derivative beyond the second is ever built:

    meta-gradient          (I - a_0 H_0) ... (I - a_{K-1} H_{K-1}) grad L_post(theta_K)
    Fisher-vector product  (I - a_0 H_0) ... (I - a_{K-1} H_{K-1}) F(theta_K) (I - a_{K-1} H_{K-1}) ... (I - a_0 H_0) v

The second is the exact Hessian of the mean KL divergence of the post-adaptation policies at theta, where that
divergence and its gradient vanish (Schulman et al. 2015, arXiv:1502.05477, appendix C).

    metarl train maml --family metarl/PointNavigation-v0
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.agent import Agent, AgentState, check_number
from metarl.errors import InvalidValueError, did_you_mean
from metarl.family import Family
from metarl.networks import ACTIVATIONS, Distribution, ObservationEncoder, Params, PolicyHead, init_mlp, mlp
from metarl.returns import discounted_returns, gae, linear_baseline, linear_features, standardize
from metarl.rng import Rng, make_key
from metarl.rollout import Budget, Rollout, Step, Trials
from metarl.tasks import Tasks
from metarl.trust_region import flatten, trust_region_step, unflatten

ESTIMATORS = ("naive", "lvc")
_CHUNK_ELEMENTS = 400_000  # activations of one layer that fit the cache: batching all 40 tasks takes twice as long


@dataclass(frozen=True)
class MAMLConfig:
    """Hyperparameters; defaults are the paper's for 2-D navigation."""

    meta_batch_size: int = 40
    """Train tasks per meta-update."""
    episodes: int = 20
    """Episodes per task, before and after each inner step."""
    inner_lr: float = 0.5
    """Size of the first inner step (the paper's MuJoCo tasks use 0.1)."""
    later_lr_factor: float = 0.5
    """Inner steps after the first are this much shorter."""
    inner_steps: int = 1
    """Inner steps in training; evaluation takes as many as it is asked for."""
    estimator: str = "naive"
    """Inner loss: "naive" (log-probabilities, as the paper's code) or "lvc" (ratios; keeps the credit of sampling)."""
    first_order: bool = False
    """Drop the second derivatives (the paper's section 5.2)."""
    eval_steps: int = 4000
    """Environment steps that one adaptation step eats in evaluation."""
    hidden: tuple[int, ...] = (100, 100)
    """Widths of the policy's hidden layers."""
    activation: str = "relu"
    """Between the layers: "relu" or "tanh"."""
    log_std: float = 0.0
    """Initial logarithm of the action's standard deviation, for Box actions in [-1, 1]."""
    discount: float = 0.99
    """Gamma of the advantages."""
    gae_lambda: float = 1.0
    """Lambda of generalised advantage estimation."""
    max_kl: float = 0.01
    """Largest mean KL divergence of the adapted policies per meta-update, in nats."""
    cg_iterations: int = 10
    """Conjugate gradient iterations."""
    cg_damping: float = 1e-5
    """Added to the Fisher matrix's diagonal."""
    line_search_steps: int = 15
    """Step sizes tried before the update is given up."""
    line_search_decay: float = 0.8
    """Ratio of one tried step size to the last."""


class Batch(NamedTuple):
    """One rollout as an update sees it. R rows of B samples."""

    x: Tensor  # features [R, B, d]
    action: Tensor  # [R, B, *action]
    advantage: Tensor  # [R, B]
    weight: Tensor  # [R, B], sums to 1 over a row's valid samples

    def rows(self, which: slice) -> Batch:
        """A subset of the rows."""
        return Batch(*(leaf[which] for leaf in self))


class MAML(Agent):
    """Model-agnostic meta-learning for reinforcement learning."""

    name = "maml"
    Config = MAMLConfig

    def __init__(self, family: Family, config: MAMLConfig, seed: int = 0, device: torch.device | str = "cpu") -> None:
        super().__init__(family, config, seed, device)
        for field, known in (("estimator", ESTIMATORS), ("activation", ACTIVATIONS)):
            value = getattr(config, field)
            if value not in known:
                raise InvalidValueError(f"maml.{field}", value, did_you_mean(str(value), known))
        check_number(
            "maml", config, meta_batch_size=(1, 1e6), episodes=(1, 1e6), inner_steps=(0, 100), eval_steps=(1, 1e9)
        )
        check_number("maml", config, inner_lr=(0, 1e3), discount=(0, 1), gae_lambda=(0, 1), max_kl=(1e-12, 1e3))
        check_number("maml", config, later_lr_factor=(0, 1e3), log_std=(-20, 20), cg_iterations=(1, 1e4))
        check_number("maml", config, cg_damping=(0, 1e3), line_search_steps=(1, 1e3), line_search_decay=(1e-6, 1))
        if not all(isinstance(n, int) and n >= 1 for n in config.hidden):
            raise InvalidValueError("maml.hidden", config.hidden, "whole numbers of units, at least 1")
        self.config: MAMLConfig = config
        self.encode = ObservationEncoder(family.observation_space, "maml")
        self.head = PolicyHead(family.action_space, "maml")
        rng = Rng(torch.tensor([make_key("maml", "init", seed)]))
        self.theta = init_mlp((self.encode.size, *config.hidden, self.head.size), rng)
        if not self.head.discrete:
            self.theta["log_std"] = torch.full((self.head.size,), config.log_std)
        self.theta = {k: v.to(self.device) for k, v in self.theta.items()}

    # --- acting and adapting -----------------------------------------------------------------------------------------

    @property
    def budget(self) -> Budget:
        """`eval_steps` environment steps, in as many slots as have room for a whole episode."""
        slots = max(1, self.config.eval_steps // self.family.horizon)
        return Budget(slots=slots, steps=-(-self.config.eval_steps // slots))

    def begin(self, rows: int, tasks: Tasks | None = None) -> AgentState:
        """Theta for each row, and the number of steps taken."""
        stage = torch.zeros(rows, dtype=torch.int64, device=self.device)
        return {"stage": stage, **{k: v.expand(rows, *v.shape).contiguous() for k, v in self.theta.items()}}

    def act(self, state: AgentState, step: Step, rng: Rng, mode: str) -> tuple[Tensor, dict[str, Tensor], AgentState]:
        """From each row's own policy."""
        policy = self.policy(state, self.encode(step.obs))
        return (policy.mode if mode == "mean" else policy.sample(rng)), {}, state

    def adapt(self, state: AgentState, rollout: Rollout) -> AgentState:
        """theta_i' = theta_i - alpha * grad L_i(theta_i), each row on its own samples."""
        batch, params = self.prepare(rollout), {k: v for k, v in state.items() if k != "stage"}
        out = {k: torch.empty_like(v) for k, v in params.items()}
        for rows in self._chunks(len(batch.x), batch.x.shape[1]):
            stepped = self._inner_step({k: v[rows] for k, v in params.items()}, batch.rows(rows), state["stage"][rows])
            for k, v in stepped.items():
                out[k][rows] = v
        return {"stage": state["stage"] + 1, **out}

    def to_env(self, action: Tensor) -> Tensor:
        """From [-1, 1] to the action box."""
        return self.head.to_env(action)

    def policy(self, params: Params, x: Tensor) -> Distribution:
        """pi(. | x): parameters shared, or `[R, ...]` with features `[R, B, d]`."""
        layers = {k: v for k, v in params.items() if k[0] in "wb"}
        return self.head.distribution(mlp(layers, x, self.config.activation), params.get("log_std"))

    def prepare(self, rollout: Rollout) -> Batch:
        """Advantages against a linear feature baseline, standardised per row.

        The horizon ends an episode for good (the baseline sees the time); an episode that the sampler cut off goes on
        with the baseline's value, and does not count in the baseline's fit.
        """
        obs, cfg = self.encode(rollout.obs), self.config
        ended, valid = rollout.ended, rollout.valid
        whole = valid & (ended.flip(0).cummax(0).values.flip(0))  # the episode's end was seen
        returns = discounted_returns(rollout.reward, ended, cfg.discount)
        value, coef = linear_baseline(obs, rollout.time, returns, whole)
        after = torch.einsum("ref,rf->re", linear_features(self.encode(rollout.last_obs), rollout.last_time), coef)
        advantage = gae(rollout.reward, value, ended, cfg.discount, cfg.gae_lambda, last_value=after)
        weight = valid.float() / valid.sum((0, 2), keepdim=True)
        by_row = rollout.by_row
        return Batch(by_row(obs), by_row(rollout.action), by_row(standardize(advantage, valid)), by_row(weight))

    def inner_loss(self, params: Params, batch: Batch, sampled: Tensor | None = None) -> Tensor:
        """The sum over rows of L_i = -mean_t of log pi(a_t | x_t) A_t, or of the ratio pi / pi_sampled times A_t.

        Args:
            params: the policy's, `[R, ...]`.
            batch: `[R, B, ...]`.
            sampled: log-probabilities of the policy that sampled the batch, `[R, B]`; by default it is this one.
        """
        log_prob = self.policy(params, batch.x).log_prob(batch.action)
        if self.config.estimator == "lvc":  # Rothfuss et al. 2019, arXiv:1810.06784, equation 11
            log_prob = torch.exp(log_prob - (log_prob.detach() if sampled is None else sampled))
        return -(log_prob * batch.advantage * batch.weight).sum()

    def inner_lr(self, stage: int) -> float:
        """alpha_j."""
        return self.config.inner_lr * (self.config.later_lr_factor if stage else 1.0)

    def _inner_step(self, params: Params, batch: Batch, stage: Tensor, sampled: Tensor | None = None) -> Params:
        """One inner step without a graph; `sampled` as in `inner_loss`."""
        with torch.enable_grad():
            leaves = {k: v.detach().requires_grad_() for k, v in params.items()}
            grads = torch.autograd.grad(self.inner_loss(leaves, batch, sampled), list(leaves.values()))
        lr = torch.tensor([self.inner_lr(0), self.inner_lr(1)], dtype=torch.float64, device=stage.device)[
            stage.clamp(max=1)
        ]
        return {k: v - _rowwise(lr, v) * g for (k, v), g in zip(params.items(), grads, strict=True)}

    def _chunks(self, rows: int, samples: int) -> list[slice]:
        """Rows that go through an update together: few on a CPU, whose cache they must fit; all on a GPU."""
        size = rows
        if self.device.type == "cpu":
            size = max(1, _CHUNK_ELEMENTS // (samples * max(self.config.hidden, default=1)))
        return [slice(i, min(i + size, rows)) for i in range(0, rows, size)]

    # --- the meta-update ---------------------------------------------------------------------------------------------

    def train_step(self, trials: Trials) -> dict[str, float]:
        """Algorithm 3 of the paper, on one batch of tasks."""
        start = time.perf_counter()
        budget = Budget(slots=self.config.episodes, steps=self.family.horizon)
        state, pre, returns = self.begin(trials.rows), [], []
        for j in range(self.config.inner_steps):
            rollout, state = trials.collect(self, state, j, budget)  # line 5: sample with theta_j
            returns.append(rollout.mean_return())
            pre.append(self.prepare(rollout))
            state = self.adapt(state, rollout)  # lines 6, 7
        rollout, _ = trials.collect(self, state, self.config.inner_steps, budget)  # line 8: sample with theta'
        returns.append(rollout.mean_return())
        post = self.prepare(rollout)
        sampled = time.perf_counter()
        metrics = self.meta_update(pre, post)  # line 10
        for j, r in enumerate(returns):
            metrics[f"return_{j}"] = float(r.nanmean())
        metrics["seconds_sampling"] = sampled - start
        metrics["seconds_optimisation"] = time.perf_counter() - sampled
        return metrics

    def meta_update(self, pre: list[Batch], post: Batch) -> dict[str, float]:
        """TRPO: the natural gradient of the post-adaptation surrogate, scaled to `max_kl`, with a line search."""
        rows, cfg = len(post.x), self.config
        chunks = [
            _Chunk(self, self.theta, [b.rows(c) for b in pre], post.rows(c))
            for c in self._chunks(rows, post.x.shape[1])
        ]
        gradient = torch.stack([c.pull_back(c.loss_grad).sum(0) for c in chunks]).sum(0) / rows

        def fisher_vector(v: Tensor) -> Tensor:
            return torch.stack([c.fisher_vector(v) for c in chunks]).sum(0) / rows + cfg.cg_damping * v

        def evaluate(flat: Tensor) -> tuple[float, float]:
            loss, kl = zip(*[c.evaluate(unflatten(flat, self.theta)) for c in chunks], strict=True)
            return float(sum(loss)) / rows, float(sum(kl)) / rows

        old = flatten(self.theta)
        new, metrics = trust_region_step(
            old,
            gradient,
            fisher_vector,
            evaluate,
            sum(c.loss for c in chunks) / rows,
            max_kl=cfg.max_kl,
            cg_iterations=cfg.cg_iterations,
            tries=cfg.line_search_steps,
            decay=cfg.line_search_decay,
        )
        if new is not old:
            self.theta = unflatten(new, self.theta)
        return metrics

    def tensors(self) -> dict[str, Tensor]:
        """Theta."""
        return dict(self.theta)

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Theta, in its own order: a file's is another, and sums over parameters would round differently."""
        self.theta = {k: tensors[k].to(self.device) for k in self.theta}


class _Chunk:
    """Some rows' inner steps and post-adaptation policy, with the graphs that the products differentiate again.

    Vectors over parameters are flat: `[P]` shared, `[R, P]` per row.
    """

    def __init__(self, agent: MAML, theta: Params, pre: list[Batch], post: Batch) -> None:
        self.agent, self.pre, self.post, self.rows = agent, pre, post, len(post.x)
        params = {k: v.expand(self.rows, *v.shape).contiguous().requires_grad_() for k, v in theta.items()}
        self.steps: list[tuple[list[Tensor], tuple[Tensor, ...], float]] = []
        self.sampled = []  # log-probabilities of each inner step's samples, for steps from other parameters
        for j, batch in enumerate(pre):
            with torch.no_grad():
                self.sampled.append(agent.policy(params, batch.x).log_prob(batch.action))
            grads = torch.autograd.grad(
                agent.inner_loss(params, batch), list(params.values()), create_graph=not agent.config.first_order
            )
            lr = agent.inner_lr(j)
            self.steps.append((list(params.values()), grads, lr))
            params = {
                k: (v - lr * g).detach().requires_grad_() for (k, v), g in zip(params.items(), grads, strict=True)
            }
        self.leaves = list(params.values())
        policy = agent.policy(params, post.x)
        self.old = policy.detach()
        self.old_log_prob = self.old.log_prob(post.action)
        loss, kl = self._surrogate(policy)
        self.loss = float(loss.detach())
        self.loss_grad = self._flat(torch.autograd.grad(loss, self.leaves, retain_graph=True))
        self.kl_grad = torch.autograd.grad(kl, self.leaves, create_graph=True)

    def _surrogate(self, policy: Distribution) -> tuple[Tensor, Tensor]:
        """Sums over rows of -mean ratio * advantage, and of the mean KL(old || new) of the adapted policies."""
        ratio = torch.exp(policy.log_prob(self.post.action) - self.old_log_prob)
        kl = self.old.kl(policy)  # type: ignore[arg-type]
        return -(ratio * self.post.advantage * self.post.weight).sum(), (kl * self.post.weight).sum()

    def _flat(self, tensors: tuple[Tensor, ...] | list[Tensor]) -> Tensor:
        return torch.cat([t.reshape(self.rows, -1) for t in tensors], 1)

    def _hessian_vector(self, grads: tuple[Tensor, ...], leaves: list[Tensor], v: Tensor) -> Tensor:
        """Reverse over reverse on a retained graph: `[R, P]` to `[R, P]`."""
        parts = [p.view_as(g) for p, g in zip(torch.split(v, [g[0].numel() for g in grads], 1), grads, strict=True)]
        return self._flat(torch.autograd.grad(grads, leaves, parts, retain_graph=True, materialize_grads=True))

    def _through(self, v: Tensor, j: int) -> Tensor:
        """(I - alpha_j H_j) v."""
        leaves, grads, lr = self.steps[j]
        return v if self.agent.config.first_order else v - lr * self._hessian_vector(grads, leaves, v)

    def pull_back(self, v: Tensor) -> Tensor:
        """From a gradient at theta_K to one at theta."""
        for j in reversed(range(len(self.steps))):
            v = self._through(v, j)
        return v

    def fisher_vector(self, v: Tensor) -> Tensor:
        """The sum over rows of J' F J v: `[P]` to `[P]`."""
        u = v.expand(self.rows, -1)
        for j in range(len(self.steps)):
            u = self._through(u, j)
        return self.pull_back(self._hessian_vector(self.kl_grad, self.leaves, u)).sum(0)

    def evaluate(self, theta: Params) -> tuple[Tensor, Tensor]:
        """Surrogate loss and KL if theta were the initialisation: adapt anew on the same samples, then look."""
        params = {k: v.expand(self.rows, *v.shape).contiguous() for k, v in theta.items()}
        for j, batch in enumerate(self.pre):
            stage = torch.full((self.rows,), j, device=self.post.x.device)
            params = self.agent._inner_step(params, batch, stage, self.sampled[j])
        with torch.no_grad():
            return self._surrogate(self.agent.policy(params, self.post.x))


def _rowwise(per_row: Tensor, like: Tensor) -> Tensor:
    return per_row.to(like.dtype).view(-1, *[1] * (like.dim() - 1))
