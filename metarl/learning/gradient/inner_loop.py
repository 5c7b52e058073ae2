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

_SIZE = "alpha."  # prefix of a learned step size among the meta-parameters
_ANCHOR = "anchor."  # prefix of what a row's adapted parameters began with, among its parameters
_CHUNK_ELEMENTS = 400_000  # activations of one layer that fit the cache; a batch of all 40 tasks takes twice the time


class InnerLoop:
    """theta_{j+1} = theta_j - alpha_j * grad L_j(theta_j), in every row on its own samples.

    The meta-parameters are the policy's shared parameters and, if step sizes are learned, `alpha.NAME` for each of
    them. With `l2`, L_j also has the term l2 / 2 |theta_j - theta_0|^2; the rows' parameters then contain theta_0 as
    `anchor.NAME` for each adapted parameter.

    Args:
        policy: the policy whose parameters are adapted.
        sizes: the step sizes, which also say which parameters are adapted.
        estimator: estimator of the inner loss, one of `policy_gradient.ESTIMATORS`.
        discount: gamma, the factor by which DiCE's credit for earlier actions falls per step.
        first_order: whether the meta-update treats the inner Hessians as 0.
        l2: weight of the squared distance to the initial parameters.
    """

    def __init__(
        self,
        policy: MLPPolicy,
        sizes: StepSizes,
        estimator: str = "naive",
        discount: float = 1.0,
        first_order: bool = False,
        l2: float = 0.0,
    ) -> None:
        self.policy, self.sizes, self.l2 = policy, sizes, l2
        self.estimator, self.discount, self.first_order = estimator, discount, first_order

    def initial(self, rng: Rng) -> Params:
        """The initial meta-parameters."""
        theta = self.policy.initial(rng)
        return theta | {_SIZE + k: v for k, v in self.sizes.initial(theta).items()}

    def start(self, meta: Params, rows: int) -> Params:
        """theta_0 of each row, `[R, ...]`."""
        params = self.policy.start(_theta(meta), rows)
        return params | ({_ANCHOR + k: params[k] for k in self.step_sizes(meta, 0)} if self.l2 else {})

    def step_sizes(self, meta: Params, j: int) -> Params:
        """alpha_j by parameter name, each a scalar or of the parameter's shape."""
        learned = {k.removeprefix(_SIZE): v for k, v in meta.items() if k.startswith(_SIZE)}
        return self.sizes.at(j, _theta(meta), learned)

    def loss(self, params: Params, batch: Batch, sampled_log_prob: Tensor | None = None) -> Tensor:
        """The sum over rows of L_j, minus the estimator's surrogate of J and the pull. Arguments as in `Inner.loss`."""
        log_prob = self.policy(params, batch.x).log_prob(batch.action)
        loss = -surrogate(self.estimator, log_prob, batch, sampled_log_prob, self.discount)
        for name, anchor in params.items():
            if name.startswith(_ANCHOR):
                loss = loss + 0.5 * self.l2 * (params[name.removeprefix(_ANCHOR)] - anchor).square().sum()
        return loss

    def adapt(self, meta: Params, params: Params, batch: Batch, j: int) -> tuple[Params, Tensor]:
        """Take inner step j. A row whose new parameters or policy are not finite keeps its old parameters.

        Args:
            meta: the meta-parameters, from which the step sizes come.
            params: theta_j, `[R, ...]`.
            batch: samples of R rows.
            j: number of inner steps taken before.

        Returns:
            the new parameters `[R, ...]`, and the rows that took the step, `bool [R]`.
        """
        parts = [
            self._step(meta, {k: v[part] for k, v in params.items()}, batch.rows(part), j)
            for part in self.chunks(batch)
        ]
        return {k: torch.cat([new[k] for new, _ in parts]) for k in params}, torch.cat([finite for _, finite in parts])

    def move(self, meta: Params, params: Params, batch: Batch, j: int, log_prob: Tensor | None = None) -> Params:
        """theta_{j+1} as it comes, finite or not. `log_prob` is the `sampled_log_prob` of `Inner.loss`."""
        return inner_step(self, params, batch, self.step_sizes(meta, j), log_prob)

    def _step(self, meta: Params, params: Params, batch: Batch, j: int) -> tuple[Params, Tensor]:
        new = self.move(meta, params, batch, j)
        if batch.x.device.type == "cpu" and _moderate(new, batch.x):  # on a GPU the answer would have to be awaited
            finite = torch.ones(len(batch.x), dtype=torch.bool)
        else:
            finite = _finite(new, self.policy(new, batch.x))
        return {k: torch.where(finite.view(-1, *[1] * (v.dim() - 1)), v, params[k]) for k, v in new.items()}, finite

    @property
    def whole_episodes(self) -> bool:
        """Whether the inner loss couples the steps of an episode."""
        return "dice" in self.estimator

    def chunks(self, batch: Batch) -> list[slice]:
        """The rows that an update processes together: few on a CPU, so that they fit the cache, and more on a GPU."""
        elements = batch.x.shape[1] * max(self.policy.hidden, default=1)
        size = max(1, (_CHUNK_ELEMENTS if batch.x.device.type == "cpu" else 100 * _CHUNK_ELEMENTS) // elements)
        return [slice(i, min(i + size, len(batch.x))) for i in range(0, len(batch.x), size)]

    def graph_bytes(self, batch: Batch) -> int:
        """Estimated bytes of one graph: 3 numbers of float32 per unit and sample.

        Measured: 1.6 numbers with relu, 2.6 with tanh. The estimate is larger, because malloc leaves gaps.
        """
        kernel = batch.time.shape[1] if self.whole_episodes else 0  # the kernel of `history`
        return int(batch.weight.numel() * (12 * self.policy.widths + 4 * kernel))


def _theta(meta: Params) -> Params:
    """The meta-parameters without the step sizes."""
    return {k: v for k, v in meta.items() if not k.startswith(_SIZE)}


def _moderate(params: Params, x: Tensor) -> bool:
    """Whether all rows' parameters and policies are finite, because no unit can exceed 1e30; False says nothing.

    A layer's outputs are at most the largest sum of absolute weights into a unit, times the largest input, plus the
    largest bias; relu and tanh enlarge nothing. This costs less than a pass of the samples through the network. It says
    nothing of parameters of other policies than one network.
    """
    params = {name: v for name, v in params.items() if not name.startswith(_ANCHOR)}
    depth = sum(name[0] == "w" for name in params)
    if not set(params) <= {f"{kind}{i}" for kind in "wb" for i in range(depth)} | {"log_std", "context"}:
        return False
    largest = torch.maximum(x.abs().max(), params["context"].abs().max() if "context" in params else x.new_zeros(()))
    for i in range(depth):
        largest = params[f"w{i}"].abs().sum(-2).max() * largest + params[f"b{i}"].abs().max()
    spread = params["log_std"].abs().max() if "log_std" in params else torch.zeros(())
    return bool((largest < 1e30) & (spread < 50.0))  # false if either is not a number


def _finite(params: Params, policy: Distribution) -> Tensor:
    """The rows whose parameters and policy are finite, `bool [R]`."""
    parts = [*params.values(), policy.mode.float(), policy.entropy()]
    parts += [params["log_std"].abs().exp()] if "log_std" in params else []  # the deviation and its inverse
    return torch.stack([torch.isfinite(p).flatten(1).all(1) for p in parts]).all(0)


def warn_of_failed(agent: str, before: Mapping[str, Tensor], after: Mapping[str, Tensor], trials: Trials) -> None:
    """Warn of the first task whose inner step failed.

    Args:
        agent: name of the agent.
        before: the agent's state before the step, with `adaptation_steps` and `failed`, `int64 [R]` each.
        after: the agent's state after the step.
        trials: the trials, for the tasks of the rows.
    """
    failed = (after["failed"] > before["failed"]).nonzero().squeeze(1).tolist()
    if not failed:
        return
    first, tasks = failed[0], trials.tasks
    more = f" (and {len(failed) - 1} more tasks)" if len(failed) > 1 else ""
    warnings.warn(
        f"{agent}: inner step {int(before['adaptation_steps'][first]) + 1} in task {int(tasks.index[first])} of split "
        f"{tasks.split!r}{more} gave parameters or a policy that are not finite; the step counts as failed and the "
        "parameters before it are kept (try smaller step sizes)",
        DivergedWarning,
        stacklevel=4,
    )
