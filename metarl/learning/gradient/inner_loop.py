"""The inner loop: gradient steps that adapt a policy to a task, for many tasks at once."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from metarl.agent_base import Trials
from metarl.errors import DivergedWarning
from metarl.learning.action_distributions import Distribution
from metarl.learning.gradient.meta_gradient import inner_step
from metarl.learning.gradient.policies import MLPPolicy
from metarl.learning.gradient.policy_gradient import Batch, surrogate
from metarl.learning.gradient.step_sizes import StepSizes
from metarl.learning.networks import Params
from metarl.rng import Rng

_SIZE = "alpha."  # how a learned step size is called among the meta-parameters
_CHUNK_ELEMENTS = 400_000  # activations of one layer that fit the cache: batching all 40 tasks takes twice as long


class InnerLoop:
    """theta_{j+1} = theta_j - alpha_j * grad L_j(theta_j), in every row on its own samples.

    The meta-parameters are the policy's shared parameters and, where step sizes are learned, `alpha.NAME` for each.

    Args:
        policy: whose parameters are adapted.
        sizes: which of them, and how far.
        estimator: of the inner loss, one of `policy_gradient.ESTIMATORS`.
        discount: gamma, which DiCE's credit for earlier actions falls with.
        first_order: the meta-update takes the inner Hessians for 0.
    """

    def __init__(
        self,
        policy: MLPPolicy,
        sizes: StepSizes,
        estimator: str = "naive",
        discount: float = 1.0,
        first_order: bool = False,
    ) -> None:
        self.policy, self.sizes = policy, sizes
        self.estimator, self.discount, self.first_order = estimator, discount, first_order

    def initial(self, rng: Rng) -> Params:
        """The meta-parameters before training."""
        theta = self.policy.initial(rng)
        return theta | {_SIZE + k: v for k, v in self.sizes.initial(theta).items()}

    def start(self, meta: Params, rows: int) -> Params:
        """theta_0 of each row, `[R, ...]`."""
        return self.policy.start(_theta(meta), rows)

    def step_sizes(self, meta: Params, j: int) -> Params:
        """alpha_j by the name of the parameter, each a scalar or shaped as the parameter."""
        learned = {k.removeprefix(_SIZE): v for k, v in meta.items() if k.startswith(_SIZE)}
        return self.sizes.at(j, _theta(meta), learned)

    def loss(self, params: Params, batch: Batch, sampled: Tensor | None = None) -> Tensor:
        """The sum over rows of L_j, minus the estimator's surrogate for J."""
        log_prob = self.policy(params, batch.x).log_prob(batch.action)
        return -surrogate(self.estimator, log_prob, batch, sampled, self.discount)

    def adapt(self, meta: Params, params: Params, batch: Batch, j: int) -> tuple[Params, Tensor]:
        """Take inner step j. A row whose new parameters or policy are not finite keeps its old ones.

        Args:
            meta: the meta-parameters, whose step sizes count.
            params: `[R, ...]`.
            batch: R rows.
            j: steps taken before.

        Returns:
            the parameters `[R, ...]`, and which rows took the step, `bool [R]`.
        """
        alpha = self.step_sizes(meta, j)
        parts = [
            self._step({k: v[part] for k, v in params.items()}, batch.rows(part), alpha) for part in self.chunks(batch)
        ]
        return {k: torch.cat([new[k] for new, _ in parts]) for k in params}, torch.cat([fine for _, fine in parts])

    def _step(self, params: Params, batch: Batch, alpha: Params) -> tuple[Params, Tensor]:
        new = inner_step(self, params, batch, alpha)
        fine = _finite(new, self.policy(new, batch.x))
        return {k: torch.where(fine.view(-1, *[1] * (v.dim() - 1)), v, params[k]) for k, v in new.items()}, fine

    @property
    def whole_episodes(self) -> bool:
        """Whether the inner loss joins the steps of an episode."""
        return "dice" in self.estimator

    def chunks(self, batch: Batch) -> list[slice]:
        """Rows that go through an update together: few on a CPU, whose cache they must fit; more on a GPU."""
        elements = batch.x.shape[1] * max(self.policy.hidden, default=1)
        size = max(1, (_CHUNK_ELEMENTS if batch.x.device.type == "cpu" else 100 * _CHUNK_ELEMENTS) // elements)
        return [slice(i, min(i + size, len(batch.x))) for i in range(0, len(batch.x), size)]

    def graph_bytes(self, batch: Batch) -> int:
        """Measured: 1.6 tensors of each layer's activations with relu, 2.6 with tanh; malloc's gaps double it."""
        kernel = batch.time.shape[1] if self.whole_episodes else 0  # of `history`
        return int(batch.weight.numel() * (12 * self.policy.widths + 4 * kernel))


def _theta(meta: Params) -> Params:
    """The meta-parameters without step sizes."""
    return {k: v for k, v in meta.items() if not k.startswith(_SIZE)}


def _finite(params: Params, policy: Distribution) -> Tensor:
    """Rows whose parameters and policy are finite: `bool [R]`."""
    parts = [*params.values(), policy.mode.float(), policy.entropy()]
    parts += [params["log_std"].abs().exp()] if "log_std" in params else []  # deviations, and what is divided by them
    return torch.stack([torch.isfinite(p).flatten(1).all(1) for p in parts]).all(0)


def warn_of_failed(agent: str, before: Mapping[str, Tensor], after: Mapping[str, Tensor], trials: Trials) -> None:
    """Warn of the first task whose inner step failed.

    Args:
        agent: its name.
        before: its state before the step, with `adaptation_steps` and `failed` `int64 [R]`.
        after: its state after the step.
        trials: which tasks the rows play.
    """
    bad = (after["failed"] > before["failed"]).nonzero().squeeze(1).tolist()
    if not bad:
        return
    first, tasks = bad[0], trials.tasks
    more = f" (and {len(bad) - 1} more tasks)" if len(bad) > 1 else ""
    warnings.warn(
        f"{agent}: inner step {int(before['adaptation_steps'][first]) + 1} in task {int(tasks.index[first])} of split "
        f"{tasks.split!r}{more} gave parameters or a policy that are not finite; it counts as failed and the "
        "parameters before it are kept (smaller step sizes?)",
        DivergedWarning,
        stacklevel=4,
    )
