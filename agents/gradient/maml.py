"""MAML for reinforcement learning: TRPO trains initial parameters from which policy-gradient steps adapt fast.

Finn, Abbeel and Levine (2017, arXiv:1703.03400), algorithm 3. An agent of this kind is a combination of four parts of
`metarl.learning.gradient`: a policy, step sizes that say which of its parameters an inner step moves, an outer loss,
and an optimiser that follows the gradient of this loss through the inner steps. MAML's subclasses replace one or two of
these parts.

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
    Schedule,
    Step,
    StepSizes,
    SurrogateLoss,
    Tasks,
    Trials,
    TrustRegion,
    TrustRegionConfig,
    make_key,
    prepare,
    warn_of_failed,
)
from metarl.agents.gradient.config import MetaGradientConfig

NO_UPDATE = {"grad_norm": 0.0, "kl": 0.0, "improvement": 0.0, "step_rejected": 1.0}


@dataclass(frozen=True)
class MAMLConfig(TrustRegionConfig, MetaGradientConfig):
    """Hyperparameters of the inner loop and of the trust region."""

    multi_step: bool = False
    """Whether the outer loss is the mean over the policies after every inner step, instead of the last policy."""


class MAML(Agent[Any]):
    """MAML learns initial parameters from which a few policy-gradient steps adapt to a new task."""

    name = "maml"
    Config: ClassVar[type[Any]] = MAMLConfig
    capturable = True
    first_order: ClassVar[bool] = False  # whether the meta-update treats the inner Hessians as 0

    def __init__(self, family: Family, config: Any, seed: int = 0, device: torch.device | str = "cpu") -> None:
        super().__init__(family, config, seed, device)
        self._check()
        self.policy = self.make_policy()
        self.inner = self.make_inner_loop(self.make_step_sizes())
        meta = self.inner.initial(Rng(torch.tensor([make_key("maml", "init", seed)])))
        # all meta-parameters: the policy's, and learned step sizes, whose names begin with `alpha.`
        self.theta: Params = {k: v.to(self.device) for k, v in meta.items()}
        self.optimizer = self.make_optimizer()

    # --- algorithm 3: sample, adapt, sample, update ------------------------------------------------------------------

    def train_step(self, trials: Trials) -> dict[str, float]:
        """Update the meta-parameters on one batch of tasks; return metrics."""
        steps, state, pre = self.config.inner_steps, self.begin(trials.rows), []
        for j in range(steps):
            rollout, state = trials.collect(self, state, j, self.train_budget)  # line 5: sample with theta_j
            pre.append(self.prepare(rollout))
            state = self.adapt_on(pre[-1], state, trials)  # lines 6 and 7: adapt
        rollout, state = trials.collect(self, state, steps, self.train_budget)  # line 8: sample with theta'
        post = self.prepare(rollout)
        metrics = dict(NO_UPDATE)
        finite = (state["failed"] == 0).nonzero().squeeze(1)  # the update leaves out tasks whose inner steps failed
        if len(finite):
            metrics = self.meta_update([b.rows(finite) for b in pre], post.rows(finite))  # line 10: update
        returns = {f"return_{j}": float(b.mean_return.nanmean()) for j, b in enumerate([*pre, post])}
        return metrics | returns | {"failed_steps": float(state["failed"].sum())}

    def meta_update(self, pre: list[Batch], post: Batch) -> dict[str, float]:
        """Update the meta-parameters once, on the samples of the inner steps and of the adapted policies.

        Args:
            pre: the batches of the inner steps.
            post: the batch of the adapted policies.

        Returns:
            metrics.
        """
        assert self.optimizer is not None, f"{self.name} follows no meta-gradient"
        loss = self.make_outer_loss(post)
        self.theta, metrics = self.optimizer.update(self.inner, loss, self.theta, pre, post)
        return metrics

    def prepare(self, rollout: Rollout) -> Batch:
        """A batch of samples, with standardised advantages against a linear feature baseline."""
        return prepare(rollout, self.policy.encode, self.config.discount, self.config.gae_lambda)

    # --- parts that subclasses replace -------------------------------------------------------------------------------

    def make_policy(self) -> MLPPolicy:
        """A fully connected network."""
        c = self.config
        return MLPPolicy(self.family, self.name, c.hidden, c.activation, c.final_gain, c.log_std)

    def make_step_sizes(self) -> StepSizes:
        """One size for all parameters."""
        return FixedSizes(self.schedule)

    def make_inner_loop(self, sizes: StepSizes) -> InnerLoop:
        """Policy-gradient steps.

        Args:
            sizes: their step sizes.
        """
        c = self.config
        return InnerLoop(self.policy, sizes, c.estimator, c.discount, self.first_order, c.inner_l2)

    def make_outer_loss(self, post: Batch) -> OuterLoss:
        """The surrogate loss of the adapted policy, or of the policies after every step.

        Args:
            post: samples of the adapted policy.
        """
        return SurrogateLoss(self.config.inner_steps if self.config.multi_step else 0)

    def make_optimizer(self) -> OuterOptimizer | None:
        """TRPO. Agents without a meta-gradient return None."""
        return TrustRegion(self.config)

    @property
    def schedule(self) -> Schedule:
        """The size of each inner step."""
        return Schedule(self.config.inner_lr, self.config.inner_lr_schedule)

    # --- in a task ---------------------------------------------------------------------------------------------------

    @property
    def budget(self) -> Budget:
        """`eval_steps // horizon` environments, at least one, which share at most `eval_steps` steps evenly."""
        envs = max(1, self.config.eval_steps // self.family.horizon)
        return Budget(envs=envs, steps=self.config.eval_steps // envs)

    def begin(self, rows: int, tasks: Tasks | None = None) -> AgentState:
        """theta_0 of each row, the number of adaptation steps taken, and the number of those that failed."""
        zeros = torch.zeros(rows, dtype=torch.int64, device=self.device)
        params = self.inner.start(self.theta, rows)
        params = {k: v.clone(memory_format=torch.contiguous_format) for k, v in params.items()}
        return {"adaptation_steps": zeros, "failed": zeros.clone(), **params}

    def act(
        self, state: AgentState, step: Step, rng: Rng, deterministic: bool
    ) -> tuple[Tensor, dict[str, Tensor], AgentState]:
        """Actions of each row's own policy."""
        policy = self.policy(params_of(state), self.policy.encode(step.obs))
        return (policy.mode if deterministic else policy.sample(rng)), {}, state

    def to_env(self, action: Tensor) -> Tensor:
        """Map actions from [-1, 1] to the action box."""
        return self.policy.head.to_env(action)

    def adapt(self, state: AgentState, rollout: Rollout) -> AgentState:
        """theta_i' = theta_i - alpha * grad L_i(theta_i), each row on its own samples.

        A row whose new parameters or policy are not finite keeps its old parameters, and its `failed` increases by 1.

        Raises:
            InvalidValueError: the rows have not taken equally many steps.
        """
        return self.adapt_on(self.prepare(rollout), state)

    def interact(self, state: AgentState, trials: Trials, adaptation_step: int) -> tuple[Rollout, AgentState]:
        """Collect the budget, then adapt. A step that fails gives a warning."""
        rollout, state = trials.collect(self, state, adaptation_step, self.budget)
        return rollout, self.adapt_on(self.prepare(rollout), state, trials)

    def adapt_on(self, batch: Batch, state: AgentState, trials: Trials | None = None) -> AgentState:
        """Take the inner step that both `adapt` and `train_step` take, on prepared samples.

        With `trials`, the first task whose step failed gives a warning.
        """
        steps = state["adaptation_steps"]
        if len(set(taken := steps.tolist())) > 1:
            raise InvalidValueError("state['adaptation_steps']", taken, "the same number in all rows")
        params, finite = self.inner.adapt(self.theta, params_of(state), batch, taken[0])
        new = {"adaptation_steps": steps + 1, "failed": state["failed"] + (~finite).long(), **params}
        if trials is not None:
            warn_of_failed(self.name, state, new, trials)
        return new

    # --- checks, budgets, checkpoints --------------------------------------------------------------------------------

    def _check(self) -> None:
        config = self.config
        if not config.inner_lr_schedule:
            raise InvalidValueError(f"{self.name}.inner_lr_schedule", (), "at least one factor")
        if config.estimator == "dice" and config.gae_lambda != 1:
            expected = "1, because DiCE sums rewards (or the estimator loaded_dice)"
            raise InvalidValueError(f"{self.name}.gae_lambda", config.gae_lambda, expected)

    @property
    def train_budget(self) -> Budget:
        """`episodes` environments of every task for `horizon` steps; where episodes end early, more follow."""
        return Budget(envs=self.config.episodes, steps=self.family.horizon)

    @property
    def train_env_steps(self) -> int | None:
        """Environment steps of one meta-update: of all batches before and after the inner steps."""
        cfg = self.config
        return int(cfg.meta_batch_size * cfg.episodes * self.family.horizon * (cfg.inner_steps + 1))

    def tensors(self) -> dict[str, Tensor]:
        """The meta-parameters and the optimiser's state."""
        return self.theta | ({} if self.optimizer is None else self.optimizer.tensors())

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`. It keeps the order of `theta`, because sums in another order round differently."""
        for k, v in self.theta.items():
            v.copy_(tensors[k])
        if self.optimizer is not None:
            self.optimizer.load_tensors(tensors)


def params_of(state: AgentState) -> Params:
    """The policy's parameters from an agent's state, `[R, ...]`."""
    return {k: v for k, v in state.items() if k not in ("adaptation_steps", "failed")}
