"""MAML-RL: an initialisation from which policy-gradient steps adapt fast, trained by TRPO through those steps.

Finn, Abbeel and Levine (2017, arXiv:1703.03400), algorithm 3. An agent of this kind is a combination of four parts of
`metarl.learning.gradient`: a policy, step sizes that say which of its parameters an inner step moves, an outer loss,
and the optimiser that follows its gradient through the inner steps. MAML's relatives have another part or two.

    metarl train maml --family metarl/PointNavigation-v0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from metarl.agent import (
    Agent,
    AgentState,
    Batch,
    Budget,
    Family,
    FixedSizes,
    InnerLoop,
    InvalidValueError,
    MLPPolicy,
    OuterLoss,
    OuterOptimizer,
    Params,
    Rng,
    Rollout,
    Step,
    StepSizes,
    SurrogateLoss,
    Tasks,
    Trials,
    TrustRegion,
    TrustRegionConfig,
    make_key,
)
from metarl.agents.gradient.config import MetaGradientConfig
from metarl.learning.gradient.inner_loop import warn_of_failed
from metarl.learning.gradient.policy_gradient import prepare
from metarl.learning.gradient.step_sizes import Schedule

NO_UPDATE = {"grad_norm": 0.0, "kl": 0.0, "improvement": 0.0, "step_rejected": 1.0}


@dataclass(frozen=True)
class MAMLConfig(TrustRegionConfig, MetaGradientConfig):
    """The inner loop, and the trust region of the outer one."""

    multi_step: bool = False
    """The outer loss is of the policies after every inner step, their mean, instead of the last."""


class MAML(Agent[Any]):
    """Model-agnostic meta-learning for reinforcement learning."""

    name = "maml"
    Config: ClassVar[type[Any]] = MAMLConfig
    capturable = True
    first_order: ClassVar[bool] = False  # whether the inner Hessians are taken for 0

    def __init__(self, family: Family, config: Any, seed: int = 0, device: torch.device | str = "cpu") -> None:
        super().__init__(family, config, seed, device)
        self._check()
        self.policy = self.make_policy()
        sizes = self.make_step_sizes()
        self.inner = InnerLoop(self.policy, sizes, config.estimator, config.discount, self.first_order)
        meta = self.inner.initial(Rng(torch.tensor([make_key("maml", "init", seed)])))
        self.theta: Params = {k: v.to(self.device) for k, v in meta.items()}  # all meta-parameters
        self.optimizer = self.make_optimizer()

    # --- algorithm 3: sample, adapt, sample, update ------------------------------------------------------------------

    def train_step(self, trials: Trials) -> dict[str, float]:
        """The update of the meta-parameters on one batch of tasks."""
        steps, state, before = self.config.inner_steps, self.begin(trials.rows), []
        for j in range(steps):
            rollout, state = trials.collect(self, state, j, self.train_budget)  # line 5: sample with theta_j
            before.append(self.prepare(rollout))
            state = self.adapt_on(before[-1], state, trials)  # lines 6 and 7: adapt
        rollout, state = trials.collect(self, state, steps, self.train_budget)  # line 8: sample with theta'
        after = self.prepare(rollout)
        metrics = dict(NO_UPDATE)
        whole = (state["failed"] == 0).nonzero().squeeze(1)  # a task that could not be adapted teaches nothing
        if len(whole):
            metrics = self.meta_update([b.rows(whole) for b in before], after.rows(whole))  # line 10: update
        returns = {f"return_{j}": float(b.mean_return.nanmean()) for j, b in enumerate([*before, after])}
        return metrics | returns | {"failed_steps": float(state["failed"].sum())}

    def meta_update(self, before: list[Batch], after: Batch) -> dict[str, float]:
        """One update of theta on samples before and after adapting; metrics."""
        assert self.optimizer is not None, f"{self.name} follows no meta-gradient"
        loss = self.make_outer_loss(after)
        self.theta, metrics = self.optimizer.update(self.inner, loss, self.theta, before, after)
        return metrics

    def prepare(self, rollout: Rollout) -> Batch:
        """Samples with standardised advantages against a linear feature baseline."""
        return prepare(rollout, self.policy.encode, self.config.discount, self.config.gae_lambda)

    # --- its parts: relatives replace some ---------------------------------------------------------------------------

    def make_policy(self) -> MLPPolicy:
        """A fully connected network."""
        c = self.config
        return MLPPolicy(self.family, self.name, c.hidden, c.activation, c.final_gain, c.log_std)

    def make_step_sizes(self) -> StepSizes:
        """One number for all parameters."""
        return FixedSizes(self.schedule)

    def make_outer_loss(self, after: Batch) -> OuterLoss:
        """The surrogate of the adapted policy, or of those after every step; `after` are its samples."""
        return SurrogateLoss(self.config.inner_steps if self.config.multi_step else 0)

    def make_optimizer(self) -> OuterOptimizer | None:
        """TRPO; None in agents whose theta follows no meta-gradient."""
        return TrustRegion(self.config)

    @property
    def schedule(self) -> Schedule:
        """The sizes of inner steps by their number."""
        return Schedule(self.config.inner_lr, self.config.inner_lr_schedule)

    # --- in a task ---------------------------------------------------------------------------------------------------

    @property
    def budget(self) -> Budget:
        """At most `eval_steps` environment steps, shared by as many environments as have room for an episode."""
        envs = max(1, self.config.eval_steps // self.family.horizon)
        return Budget(envs=envs, steps=self.config.eval_steps // envs)

    def begin(self, rows: int, tasks: Tasks | None = None) -> AgentState:
        """theta_0 for each row, the number of steps taken, and how many of them failed."""
        none = torch.zeros(rows, dtype=torch.int64, device=self.device)
        params = self.inner.start(self.theta, rows)
        params = {k: v.clone(memory_format=torch.contiguous_format) for k, v in params.items()}
        return {"adaptation_steps": none, "failed": none.clone(), **params}

    def act(
        self, state: AgentState, step: Step, rng: Rng, deterministic: bool
    ) -> tuple[Tensor, dict[str, Tensor], AgentState]:
        """From each row's own policy."""
        policy = self.policy(params_of(state), self.policy.encode(step.obs))
        return (policy.mode if deterministic else policy.sample(rng)), {}, state

    def to_env(self, action: Tensor) -> Tensor:
        """From [-1, 1] to the action box."""
        return self.policy.head.to_env(action)

    def adapt(self, state: AgentState, rollout: Rollout) -> AgentState:
        """theta_i' = theta_i - alpha * grad L_i(theta_i), each row on its own samples.

        A row whose new parameters or policy are not finite keeps its old ones, and its `failed` counts one more.

        Raises:
            InvalidValueError: the rows have not taken equally many steps.
        """
        return self.adapt_on(self.prepare(rollout), state)

    def interact(self, state: AgentState, trials: Trials, adaptation_step: int) -> tuple[Rollout, AgentState]:
        """Collect the budget, then adapt; warn of steps that fail."""
        rollout, state = trials.collect(self, state, adaptation_step, self.budget)
        return rollout, self.adapt_on(self.prepare(rollout), state, trials)

    def adapt_on(self, batch: Batch, state: AgentState, trials: Trials | None = None) -> AgentState:
        """`adapt` on samples; with `trials` it warns of the first task whose step failed."""
        taken = state["adaptation_steps"]
        if len(set(steps := taken.tolist())) > 1:
            raise InvalidValueError("state['adaptation_steps']", steps, "the same number in all rows")
        params, fine = self.inner.adapt(self.theta, params_of(state), batch, steps[0])
        new = {"adaptation_steps": taken + 1, "failed": state["failed"] + (~fine).long(), **params}
        if trials is not None:
            warn_of_failed(self.name, state, new, trials)
        return new

    # --- sizes and checkpoints ---------------------------------------------------------------------------------------

    def _check(self) -> None:
        config = self.config
        if not config.inner_lr_schedule:
            raise InvalidValueError(f"{self.name}.inner_lr_schedule", (), "at least one factor")
        if config.estimator == "dice" and config.gae_lambda != 1:
            expected = "1: DiCE sums rewards (or loaded_dice)"
            raise InvalidValueError(f"{self.name}.gae_lambda", config.gae_lambda, expected)

    @property
    def train_budget(self) -> Budget:
        """`episodes` of every task, before and after each inner step."""
        return Budget(envs=self.config.episodes, steps=self.family.horizon)

    @property
    def train_env_steps(self) -> int | None:
        """Those before and after every inner step."""
        cfg = self.config
        return int(cfg.meta_batch_size * cfg.episodes * self.family.horizon * (cfg.inner_steps + 1))

    def tensors(self) -> dict[str, Tensor]:
        """The meta-parameters, and what the optimiser keeps."""
        return self.theta | ({} if self.optimizer is None else self.optimizer.tensors())

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`, in their own order: sums over a file's order would round differently."""
        for k, v in self.theta.items():
            v.copy_(tensors[k])
        if self.optimizer is not None:
            self.optimizer.load_tensors(tensors)


def params_of(state: AgentState) -> Params:
    """The policy's parameters in a state, `[R, ...]`."""
    return {k: v for k, v in state.items() if k not in ("adaptation_steps", "failed")}
