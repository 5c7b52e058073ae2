"""MAML-RL: an initialisation from which policy-gradient steps adapt fast, trained by TRPO through those steps.

Finn, Abbeel and Levine (2017, arXiv:1703.03400), algorithm 3. The exact meta-gradient and the exact Fisher-vector
product of the adapted policies are in `metarl.learning.meta_gradient`, the inner loss's estimators in
`metarl.learning.policy_gradient`. Most other gradient-based agents are this one with a method or two replaced.

    metarl train maml --family metarl/PointNavigation-v0
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from metarl.agent import (
    Agent,
    AgentState,
    Budget,
    Distribution,
    DivergedWarning,
    Family,
    InvalidValueError,
    ObservationEncoder,
    Params,
    PolicyHead,
    Range,
    Rng,
    Rollout,
    Step,
    Tasks,
    Trials,
    init_mlp,
    make_key,
    mlp,
)
from metarl.agents.gradient.config import MetaTrainingConfig
from metarl.learning.meta_gradient import MetaObjective, inner_step
from metarl.learning.policy_gradient import Batch, prepare, surrogate
from metarl.learning.trust_region import trust_region_step, unflatten

_CHUNK_ELEMENTS = 400_000  # activations of one layer that fit the cache: batching all 40 tasks takes twice as long


@dataclass(frozen=True)
class MAMLConfig(MetaTrainingConfig):
    """The inner loop, and the trust region of the outer one."""

    multi_step: bool = False
    """The outer loss is of the policies after every inner step, their mean, instead of the last."""
    first_order: bool = False
    """Drop the second derivatives (the paper's section 5.2)."""
    max_kl: Annotated[float, Range(1e-12, 1e3)] = 0.01
    """Largest mean KL divergence of the adapted policies per meta-update, in nats."""
    fvp_stride: Annotated[int, Range(1, 1e9)] = 1
    """One in so many samples enters the Fisher-vector products; 1 is exact. The meta-gradient always uses all."""
    cg_iterations: Annotated[int, Range(1, 1e4)] = 10
    """Conjugate gradient iterations."""
    cg_damping: Annotated[float, Range(0, 1e3)] = 1e-5
    """Added to the Fisher matrix's diagonal."""
    line_search_steps: Annotated[int, Range(1, 1e3)] = 15
    """Step sizes tried before the update is given up."""
    line_search_decay: Annotated[float, Range(1e-6, 1)] = 0.8
    """Ratio of one tried step size to the last."""


class MAML(Agent[Any]):
    """Model-agnostic meta-learning for reinforcement learning."""

    name = "maml"
    Config: ClassVar[type[Any]] = MAMLConfig
    capturable = True

    def __init__(self, family: Family, config: Any, seed: int = 0, device: torch.device | str = "cpu") -> None:
        super().__init__(family, config, seed, device)
        self._check()
        self.encode = ObservationEncoder(family.observation_space, self.name)
        self.head = PolicyHead(family.action_space, self.name)
        self.theta = {
            k: v.to(self.device) for k, v in self.initial(Rng(torch.tensor([make_key("maml", "init", seed)]))).items()
        }

    def _check(self) -> None:
        config = self.config
        if not config.inner_lr_schedule:
            raise InvalidValueError(f"{self.name}.inner_lr_schedule", (), "at least one factor")
        if config.estimator == "dice" and config.gae_lambda != 1:
            raise InvalidValueError(
                f"{self.name}.gae_lambda", config.gae_lambda, "1: DiCE sums rewards (or loaded_dice)"
            )

    # --- the inner loop: what `metarl.learning.meta_gradient.Learner` asks ----------------------

    def initial(self, rng: Rng) -> Params:
        """The meta-parameters before training."""
        sizes = (self.inputs, *self.config.hidden, self.head.size)
        theta = init_mlp(sizes, rng, self.config.final_gain)
        if not self.head.discrete:
            theta["log_std"] = torch.full((self.head.size,), self.config.log_std)
        return theta

    @property
    def inputs(self) -> int:
        """The policy's input size."""
        return self.encode.size

    def start(self, meta: Params, rows: int) -> Params:
        """Theta for each row."""
        return {k: v.expand(rows, *v.shape) for k, v in meta.items()}

    def step_sizes(self, meta: Params, j: int) -> Params:
        """alpha_j: one number for all parameters."""
        return {k: v.new_tensor(self.inner_lr(j)) for k, v in meta.items()}

    def inner_lr(self, j: int) -> float:
        """Size of inner step j by the schedule."""
        factors = self.config.inner_lr_schedule
        return float(self.config.inner_lr * factors[min(j, len(factors) - 1)])

    def policy(self, params: Params, x: Tensor) -> Distribution:
        """pi(. | x): parameters shared, or `[R, ...]` with features `[R, B, d]`."""
        layers = {k: v for k, v in params.items() if k[0] in "wb"}
        return self.head.distribution(mlp(layers, x, self.config.activation), params.get("log_std"))

    def inner_loss(self, params: Params, batch: Batch, sampled: Tensor | None = None) -> Tensor:
        """The sum over rows of L_i, minus the estimator's surrogate for J."""
        log_prob = self.policy(params, batch.x).log_prob(batch.action)
        return -surrogate(self.config.estimator, log_prob, batch, sampled, self.config.discount)

    def outer_loss(self, j: int, policy: Distribution, batch: Batch, old: Distribution, last: bool) -> Tensor:
        """The sum over rows of -mean ratio * advantage of the adapted policy, or of those after every step."""
        weight = self.kl_weight(j, last)
        if not weight:
            return torch.zeros((), device=self.device)
        ratio = torch.exp(policy.log_prob(batch.action) - old.log_prob(batch.action))
        return -weight * (ratio * batch.advantage * batch.weight).sum()

    @property
    def every_step(self) -> bool:
        """Whether the outer loss looks at more than the last policy."""
        return bool(self.config.multi_step)

    def kl_weight(self, j: int, last: bool) -> float:
        """All on the last policy, or equal on those after each step."""
        if self.config.multi_step and self.config.inner_steps:
            return 1.0 / self.config.inner_steps if j else 0.0
        return float(last)

    @property
    def first_order(self) -> bool:
        """Whether this meta-update drops the second derivatives."""
        return bool(self.config.first_order)

    @property
    def whole_episodes(self) -> bool:
        """Whether the inner loss joins the steps of an episode."""
        return "dice" in self.config.estimator

    def chunks(self, rows: int, samples: int) -> list[slice]:
        """Rows that go through an update together: few on a CPU, whose cache they must fit; more on a GPU."""
        elements = samples * max(self.config.hidden, default=1)
        size = max(1, (_CHUNK_ELEMENTS if self.device.type == "cpu" else 100 * _CHUNK_ELEMENTS) // elements)
        return [slice(i, min(i + size, rows)) for i in range(0, rows, size)]

    def graph_bytes(self, rows: int, samples: int) -> int:
        """Measured: 1.6 tensors of each layer's activations with relu, 2.6 with tanh; malloc's gaps double it."""
        kernel = self.family.horizon if self.whole_episodes else 0  # of `history`
        return int(rows * samples * (12 * (sum(self.config.hidden) + self.head.size + self.inputs) + 4 * kernel))

    # --- acting and adapting -----------------------------------------------------------------------------------------

    @property
    def budget(self) -> Budget:
        """At most `eval_steps` environment steps, shared by as many environments as have room for an episode."""
        envs = max(1, self.config.eval_steps // self.family.horizon)
        return Budget(envs=envs, steps=self.config.eval_steps // envs)

    def begin(self, rows: int, tasks: Tasks | None = None) -> AgentState:
        """theta_0 for each row, the number of steps taken, and how many of them failed."""
        none = torch.zeros(rows, dtype=torch.int64, device=self.device)
        params = {k: v.clone(memory_format=torch.contiguous_format) for k, v in self.start(self.theta, rows).items()}
        return {"adaptation_steps": none, "failed": none.clone(), **params}

    def act(
        self, state: AgentState, step: Step, rng: Rng, deterministic: bool
    ) -> tuple[Tensor, dict[str, Tensor], AgentState]:
        """From each row's own policy."""
        policy = self.policy(params_of(state), self.encode(step.obs))
        return (policy.mode if deterministic else policy.sample(rng)), {}, state

    def adapt(self, state: AgentState, rollout: Rollout) -> AgentState:
        """theta_i' = theta_i - alpha * grad L_i(theta_i), each row on its own samples.

        A row whose new parameters or policy are not finite keeps its old ones, and its `failed` counts one more.
        """
        return self.adapt_on(state, self.prepare(rollout))

    def adapt_on(self, state: AgentState, batch: Batch) -> AgentState:
        """`adapt`, on what was prepared already."""
        params = params_of(state)
        out = {k: v.clone() for k, v in params.items()}
        failed, stages = state["failed"].clone(), state["adaptation_steps"].tolist()
        for part in self.chunks(len(batch.x), batch.x.shape[1]):
            for stage in sorted(set(stages[part])):
                rows = torch.tensor([i for i in range(len(stages))[part] if stages[i] == stage], device=self.device)
                old, samples = {k: v[rows] for k, v in params.items()}, batch.rows(rows)
                new = inner_step(self, old, samples, self.step_sizes(self.theta, stage))
                fine = _finite(new, self.policy(new, samples.x))
                failed[rows] += (~fine).long()
                for k, v in new.items():
                    out[k][rows] = torch.where(fine.view(-1, *[1] * (v.dim() - 1)), v, old[k])
        return {"adaptation_steps": state["adaptation_steps"] + 1, "failed": failed, **out}

    def interact(self, state: AgentState, trials: Trials, adaptation_step: int) -> tuple[Rollout, AgentState]:
        """Collect the budget, then adapt; warn of steps that fail."""
        rollout, state = trials.collect(self, state, adaptation_step, self.budget)
        before, state = state, self.adapt(state, rollout)
        self.warn_of_failed(before, state, trials)
        return rollout, state

    def warn_of_failed(self, before: AgentState, state: AgentState, trials: Trials) -> None:
        """Warn of the first task whose step failed."""
        bad = (state["failed"] > before["failed"]).nonzero().squeeze(1).tolist()
        if bad:
            first, tasks = bad[0], trials.tasks
            more = f" (and {len(bad) - 1} more tasks)" if len(bad) > 1 else ""
            warnings.warn(
                f"{self.name}: inner step {int(before['adaptation_steps'][first]) + 1} "
                f"in task {int(tasks.index[first])} of split "
                f"{tasks.split!r}{more} gave parameters or a policy that are not finite; it counts as failed and the "
                "parameters before it are kept (smaller step sizes?)",
                DivergedWarning,
                stacklevel=3,
            )

    def to_env(self, action: Tensor) -> Tensor:
        """From [-1, 1] to the action box."""
        return self.head.to_env(action)

    def prepare(self, rollout: Rollout) -> Batch:
        """Standardised advantages against a linear feature baseline."""
        return prepare(rollout, self.encode, self.config.discount, self.config.gae_lambda)

    # --- the meta-update ---------------------------------------------------------------------------------------------

    @property
    def train_env_steps(self) -> int | None:
        """`episodes` of every task before and after each inner step."""
        cfg = self.config
        return int(cfg.meta_batch_size * cfg.episodes * self.family.horizon * (cfg.inner_steps + 1))

    def train_step(self, trials: Trials) -> dict[str, float]:
        """Algorithm 3 of the paper, on one batch of tasks."""
        start = time.perf_counter()
        budget = Budget(envs=self.config.episodes, steps=self.family.horizon)
        state, pre, returns = self.begin(trials.rows), [], []
        for j in range(self.config.inner_steps):
            rollout, state = trials.collect(self, state, j, budget)  # line 5: sample with theta_j
            returns.append(rollout.mean_return())
            pre.append(self.prepare(rollout))
            before, state = state, self.adapt_on(state, pre[-1])  # lines 6, 7
            self.warn_of_failed(before, state, trials)
        rollout, _ = trials.collect(self, state, self.config.inner_steps, budget)  # line 8: sample with theta'
        returns.append(rollout.mean_return())
        post = self.prepare(rollout)
        sampled = self._now()
        whole = (state["failed"] == 0).nonzero().squeeze(1)  # a task that could not be adapted teaches nothing
        metrics = {"grad_norm": 0.0, "kl": 0.0, "improvement": 0.0, "step_rejected": 1.0}
        if len(whole):
            metrics = self.meta_update([b.rows(whole) for b in pre], post.rows(whole))  # line 10
        for j, r in enumerate(returns):
            metrics[f"return_{j}"] = float(r.nanmean())
        metrics["failed_steps"] = float(state["failed"].sum())
        metrics["seconds_sampling"] = sampled - start
        metrics["seconds_optimisation"] = self._now() - sampled
        return metrics

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def meta_update(self, pre: list[Batch], post: Batch) -> dict[str, float]:
        """TRPO: the natural gradient of the post-adaptation surrogate, scaled to `max_kl`, with a line search."""
        cfg = self.config
        objective = MetaObjective(self, self.theta, pre, post, cfg.fvp_stride, self.first_order)
        new, metrics = trust_region_step(
            objective.flat,
            objective.grad,
            lambda v: objective.fisher_vector(v) + cfg.cg_damping * v,
            objective.evaluate,
            objective.loss,
            max_kl=cfg.max_kl,
            cg_iterations=cfg.cg_iterations,
            tries=cfg.line_search_steps,
            decay=cfg.line_search_decay,
        )
        if not metrics["step_rejected"]:
            self.theta = unflatten(new, self.theta)
        return metrics

    def tensors(self) -> dict[str, Tensor]:
        """The meta-parameters."""
        return dict(self.theta)

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The meta-parameters, in their own order: a file's is another, and sums over them would round differently."""
        self.theta = {k: tensors[k].to(self.device) for k in self.theta}


def params_of(state: AgentState) -> Params:
    """The policy's parameters in a state, `[R, ...]`."""
    return {k: v for k, v in state.items() if k not in ("adaptation_steps", "failed")}


def _finite(params: Params, policy: Distribution) -> Tensor:
    """Rows whose parameters and policy are finite: `bool [R]`."""
    parts = [*params.values(), policy.mode.float(), policy.entropy()]
    parts += [params["log_std"].abs().exp()] if "log_std" in params else []  # deviations, and what is divided by them
    return torch.stack([torch.isfinite(p).flatten(1).all(1) for p in parts]).all(0)
