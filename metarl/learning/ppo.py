"""PPO on whole trials: how an agent that learns within a trial, by a memory or a belief, is trained.

Schulman, Wolski, Dhariwal, Radford and Klimov (2017, arXiv:1707.06347), algorithm 1. Returns and advantages run through
the episodes of a trial and stop at its end. A minibatch is a part of the trials, each of them whole, so the gradient
goes back to a trial's first step. The agent plays the trials and hands over what its network was given in them:

    self.ppo = PPO(self.name, family, config, self.net, inputs.size, losses)
    metrics = self.ppo.update(rollout, {"x": x}, trials.key)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from metarl.agent_base import Rollout
from metarl.config import Range
from metarl.devices import free_bytes
from metarl.engine.cuda_graphs import CudaGraphCache, map_tensors
from metarl.errors import InvalidValueError
from metarl.families.family import Family
from metarl.learning.action_distributions import Distribution
from metarl.learning.adam import adam_step, adam_tensors, load_adam
from metarl.learning.encoders import RunningNorm
from metarl.learning.ppo_config import PPOConfig
from metarl.learning.returns import discounted_returns, gae
from metarl.rng import fold_in, make_key

Out = TypeVar("Out")
Given = Mapping[str, Tensor]  # what a network is given: [T, B, ...], or [1, B, ...] where all steps share it


class Outputs(NamedTuple):
    """What a network makes of whole trials.

    Attributes:
        policy: of the action at every step, `[T, B]`.
        value: before every step, `[T, B]`.
        features: what the policy is computed from, for auxiliary losses, `[T, B, features]`.
    """

    policy: Distribution
    value: Tensor
    features: Tensor


class ActorCritic(Protocol):
    """The network that PPO trains, an `nn.Module`. It is called on whole trials.

    A parameter called `log_std` is the logarithm of the standard deviation of Box actions. It begins as the
    hyperparameter of this name, or as it is if that is 0.
    """

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """All that is trained."""

    def __call__(self, given: Given) -> Outputs:
        """The policy, the values and the features."""

    def values(self, given: Given) -> Tensor:
        """The values alone, `[T, B]`."""


@dataclass(frozen=True)
class TrialBatch:
    """Whole trials to learn from, those of a meta-update or of a minibatch.

    Attributes:
        given: what the network was given, tensors `[T, B, ...]` or `[1, B, ...]`.
        action: as the policy sees it, `[T, B, *action]`.
        old_log_prob: of the action when it was taken, `[T, B]`.
        advantage: with mean 0 and deviation 1 over all trials of the meta-update, `[T, B]`.
        target: what the value should have been, `[T, B]`.
        reward: as drawn, or its mean, and not scaled, `[T, B]`.
        valid: `float32 [T, B]`, 0 after a trial's end and 1 before.
    """

    given: Given
    action: Tensor
    old_log_prob: Tensor
    advantage: Tensor
    target: Tensor
    reward: Tensor
    valid: Tensor

    def rows(self, which: slice | Tensor) -> TrialBatch:
        """A part of the trials."""
        return map_tensors(lambda v: v[:, which], self)

    def mean(self, steps: Tensor) -> Tensor:
        """The mean of numbers `[T, B]` over the steps that count."""
        return masked_mean(steps, self.valid)


class AuxiliaryLoss(NamedTuple):
    """A further loss on the network's features: `coef` times the mean of `errors`.

    Attributes:
        name: the metric is NAME_loss.
        coef: its weight; with 0 it is left out.
        errors: from features `[T, B, features]` and their trials to `[T, B]`.
    """

    name: str
    coef: float
    errors: Callable[[Tensor, TrialBatch], Tensor]


# --- equations -------------------------------------------------------------------------------------------------------


def masked_mean(steps: Tensor, valid: Tensor) -> Tensor:
    """Mean over the steps with `valid` 1. `steps` and `valid` are `[T, R]`."""
    return (steps * valid).sum() / valid.sum()


def standardize_together(advantage: Tensor, valid: Tensor) -> Tensor:
    """Advantages `[T, R]` with mean 0 and deviation 1 over all trials' steps that count, and 0 at the others.

    `metarl.learning.returns.standardize` does this in each row alone.
    """
    centred = (advantage - masked_mean(advantage, valid)) * valid
    return centred / (centred.square().sum() / valid.sum()).sqrt().clamp_min(1e-8)


def clipped_surrogate(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """L^CLIP of each step (equation 7): the smaller of the plain and the clipped surrogate."""
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def remaining(config: PPOConfig, updates: int) -> float:
    """The share of the learning rate that is left after so many updates: 1 if it stays constant."""
    return 1.0 - updates / config.anneal_iterations if config.anneal_iterations else 1.0


def annealed(config: PPOConfig, updates: int) -> tuple[float, float]:
    """The learning rate and the entropy bonus's weight after so many updates: both fall linearly to 0."""
    left = remaining(config, updates)
    kept = max(0.0, 1.0 - (1.0 - left) / config.entropy_anneal)
    return config.learning_rate * left, config.entropy_coef * kept


def minibatch_rows(
    rows: int, minibatches: int, key: int, epoch: int, device: torch.device | str = "cpu"
) -> list[Tensor | slice]:
    """The trials of each minibatch of an epoch: every trial in one of them, in an order that the key decides."""
    if minibatches == 1:
        return [slice(None)]
    order = fold_in(make_key(key, "minibatch", epoch), torch.arange(rows)).argsort().to(device)
    return list(order.chunk(minibatches))


# --- the algorithm ---------------------------------------------------------------------------------------------------


class PPO:
    """Proximal policy optimisation of a network on whole trials.

    Acting must record `log_prob` in the rollout's extras, and `value` where it knows the value.

    Args:
        name: of the agent, which error messages begin with.
        family: what it plays.
        config: its hyperparameters, with their sizes (`sized`).
        net: what is trained, on the device where it stays.
        features: numbers per step that the network is given, the size of `x`.
        losses: what its features are trained for besides.

    Attributes:
        norm: what standardises `x` if `normalize_features` asks for it.
        updates: how many were made.
        return_moments: of discounted returns: count, sum, sum of squares; `float64 [3]`.

    Raises:
        InvalidValueError: hyperparameters that do not fit together.
    """

    def __init__(
        self,
        name: str,
        family: Family,
        config: PPOConfig,
        net: ActorCritic,
        features: int,
        losses: Sequence[AuxiliaryLoss] = (),
    ) -> None:
        if config.entropy_anneal < 1 and not config.anneal_iterations:
            raise InvalidValueError(f"{name}.entropy_anneal", config.entropy_anneal, "1 where anneal_iterations is 0")
        Range(1, config.meta_batch_size).check(f"{name}.minibatches", config.minibatches, whole=True)
        self.name, self.family, self.config, self.net = name, family, config, net
        self.losses = [loss for loss in losses if loss.coef]
        named = dict(net.named_parameters())
        if config.log_std and "log_std" in named:
            nn.init.constant_(named["log_std"], config.log_std)
        self.parameters = list(named.values())
        self.device = self.parameters[0].device
        self.norm = RunningNorm(features).to(self.device) if config.normalize_features else None
        cuda = self.device.type == "cuda"  # where the rate is read at every replay of a CUDA graph
        rate = torch.tensor(config.learning_rate, device=self.device) if cuda else config.learning_rate
        self.optimizer = torch.optim.Adam(self.parameters, lr=rate, eps=1e-5, fused=True, capturable=cuda)
        self.optimizer._warned_capturable_if_run_uncaptured = True  # the first step of a shape is not captured
        self.cuda_graphs = CudaGraphCache() if cuda else None
        self.updates = 0
        self.return_moments = torch.zeros(3, dtype=torch.float64)

    def update(self, rollout: Rollout, given: Given, key: int) -> dict[str, float]:
        """The epochs of one meta-update. The metrics are means over its gradient steps, each computed before the step.

        Args:
            rollout: whole trials, one environment a row.
            given: what the network was given in them, tensors `[T, R, ...]` or `[1, R, ...]`. Its `x`
                `[T, R, features]` is not standardised yet.
            key: decides which trials are in which minibatch.
        """
        cfg, x = self.config, given.get("x")
        batch = self.prepare(rollout, given if x is None else {**given, "x": self.standardized(x)})
        rate, bonus = annealed(cfg, self.updates)
        self._set_rate(rate)
        entropy_coef = torch.full((), bonus, device=self.device)
        step_metrics = []
        trials = batch.valid.shape[1]
        epochs = (minibatch_rows(trials, cfg.minibatches, key, epoch, self.device) for epoch in range(cfg.epochs))
        for rows in itertools.chain.from_iterable(epochs):
            part = {"batch": vars(batch.rows(rows)), "entropy_coef": entropy_coef}
            step_metrics.append(self._replayed("ppo", self._step, part))
            if cfg.target_kl and float(step_metrics[-1]["kl"]) > 1.5 * cfg.target_kl:
                break
        if self.norm is not None and x is not None:  # after learning from what was played with the moments before
            self.norm.update(x, rollout.valid[:, :, 0])
        self.updates += 1
        count = len(step_metrics)
        taken = {"gradient_steps": float(count)} if cfg.target_kl else {}
        return taken | {name: float(sum(metrics[name] for metrics in step_metrics)) / count for name in step_metrics[0]}

    def standardized(self, x: Tensor) -> Tensor:
        """What the network is given of features `[..., features]`: themselves, or standardised if that is asked for."""
        return x if self.norm is None else self.norm(x)

    def _step(self, part: Mapping[str, Any]) -> dict[str, Tensor]:
        """One gradient step on a minibatch: `part` holds the fields of its `batch`, and `entropy_coef` `[]`."""
        cfg, batch = self.config, TrialBatch(**part["batch"])
        # as precise as acting, or the first ratio is not 1
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            policy, value, features = self.net(batch.given)
        log_ratio = policy.log_prob(batch.action) - batch.old_log_prob
        ratio = log_ratio.exp()
        policy_loss = -batch.mean(clipped_surrogate(ratio, batch.advantage, cfg.clip))
        value_loss = batch.mean((value - batch.target).square())
        entropy = batch.mean(policy.entropy())
        # equation 9, and what is trained besides
        loss = policy_loss + cfg.value_coef * value_loss - part["entropy_coef"] * entropy
        metrics = {"value_loss": value_loss, "entropy": entropy}
        for extra in self.losses:
            metrics[f"{extra.name}_loss"] = error = batch.mean(extra.errors(features, batch))
            loss = loss + extra.coef * error
        adam_step(self.optimizer, loss, cfg.max_grad_norm)
        # KL(old || new) before this gradient step, by a mean whose terms are never negative
        metrics["kl"] = batch.mean((ratio - 1) - log_ratio)
        return {name: v.detach() for name, v in metrics.items()}

    def _set_rate(self, rate: float) -> None:
        """Adam's learning rate, in the tensor that CUDA graphs read."""
        group = self.optimizer.param_groups[0]
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate

    def _replayed(self, name: str, function: Callable[[Mapping[str, Any]], Out], given: Mapping[str, Any]) -> Out:
        """`function(given)`; on CUDA a replay of its graph."""
        out: Out = function(given) if self.cuda_graphs is None else self.cuda_graphs(name, function, given)
        return out

    # --- what is learned from ----------------------------------------------------------------------------------------

    def prepare(self, rollout: Rollout, given: Given) -> TrialBatch:
        """A meta-update's trials, their advantages standardised; arguments as in `update`."""
        valid, reward = rollout.valid[:, :, 0].float(), self.learning_rewards(rollout)
        value = self.values(rollout, given)
        advantage = self.advantages(rollout, self.scaled(reward, rollout), value)
        return TrialBatch(
            given=dict(given),
            action=rollout.action[:, :, 0],
            old_log_prob=rollout.extras["log_prob"][:, :, 0],
            advantage=standardize_together(advantage, valid),
            target=advantage + value,
            reward=reward,
            valid=valid,
        )

    def learning_rewards(self, rollout: Rollout) -> Tensor:
        """The rewards as they are, or their means if asked for: `[T, R]`, 0 after a trial's end.

        Raises:
            InvalidValueError: the family does not report its rewards' means, or not in every step.
        """
        reward = rollout.expected_reward if self.config.expected_rewards else rollout.reward
        if reward is None:
            expected = f"False: {self.family.id} reports no info['expected_reward'] (its rewards may not be random)"
            raise InvalidValueError(f"{self.name}.expected_rewards", True, expected)
        out = torch.where(rollout.valid[:, :, 0], reward[:, :, 0], torch.zeros_like(reward[:, :, 0]))
        if self.config.expected_rewards and not bool(out.isfinite().all()):
            expected = f"False: info['expected_reward'] of {self.family.id} is missing in some steps, or not finite"
            raise InvalidValueError(f"{self.name}.expected_rewards", True, expected)
        return out

    def scaled(self, reward: Tensor, rollout: Rollout) -> Tensor:
        """Rewards `[T, R]`, divided by the running deviation of discounted returns if asked for."""
        if not self.config.normalize_rewards:
            return reward
        g = self._replayed("returns", self._returns, {"reward": reward})
        g = g[rollout.valid[:, :, 0]].double()
        self.return_moments += torch.stack([torch.tensor(float(len(g))), g.sum().cpu(), g.square().sum().cpu()])
        count, total, squares = self.return_moments
        deviation = (squares / count - (total / count).square()).clamp_min(0.0).sqrt().clamp_min(1e-8)
        return torch.div(reward, deviation.to(reward))

    def _returns(self, given: Given) -> Tensor:
        reward = given["reward"]
        return discounted_returns(reward, torch.zeros_like(reward, dtype=torch.bool), self.config.discount)

    @torch.no_grad()
    def values(self, rollout: Rollout, given: Given) -> Tensor:
        """The value before each step, `[T, R]`: recorded while acting if available, otherwise recomputed."""
        if "value" in rollout.extras:
            return rollout.extras["value"][:, :, 0]
        trials = torch.arange(rollout.reward.shape[1], device=self.device)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            parts = [
                self.net.values({k: v[:, rows] for k, v in given.items()})
                for rows in trials.chunk(self.config.minibatches)
            ]
        return torch.cat(parts, 1)

    def advantages(self, rollout: Rollout, reward: Tensor, value: Tensor) -> Tensor:
        """GAE through the episodes of a trial, stopping at the trial's end: `[T, R]`."""
        valid = rollout.valid[:, :, 0]
        trial_end = valid & ~torch.cat([valid[1:], torch.zeros_like(valid[:1])])
        given = {"reward": reward, "value": value, "trial_end": trial_end}
        return self._replayed("advantages", self._gae, given)

    def _gae(self, given: Given) -> Tensor:
        cfg = self.config
        return gae(given["reward"], given["value"], given["trial_end"], cfg.discount, cfg.gae_lambda)

    # --- what cannot be trained --------------------------------------------------------------------------------------

    def check_iterations(self, iterations: int) -> None:
        """Refuse more iterations than `anneal_iterations`, after which the learning rate is 0."""
        if 0 < self.config.anneal_iterations < iterations:
            expected = f"0, or at least the {iterations} meta-updates: the learning rate would be 0 before"
            raise InvalidValueError(f"{self.name}.anneal_iterations", self.config.anneal_iterations, expected)

    def check_memory(
        self, rows: int, kept: int, inputs: int, option: str = "trial_episodes", value: int = 0, played: int = 1
    ) -> None:
        """Refuse trials whose training pass would not fit, by an estimate from below.

        Args:
            rows: trials.
            kept: numbers per step kept for the backward pass.
            inputs: numbers per step that the network is given.
            option: name of the hyperparameter that decides how long trials are, for the error message.
            value: its value; 0 for `trial_episodes`.
            played: episodes of a trial for each 1 of its value.
        """
        horizon, value = self.family.horizon, value or self.config.trial_episodes
        batch = -(-rows // self.config.minibatches)
        need = 4 * value * played * horizon * (batch * kept + 3 * rows * inputs)
        free = free_bytes(self.device)
        if need > free:
            most = max(1, int(value * free / need))
            expected = (
                f"at most about {most} with {batch} trials of {horizon} steps an episode in a minibatch: "
                f"a pass would need {need / 2**30:.1f} GiB and {free / 2**30:.1f} are free (or more minibatches)"
            )
            raise InvalidValueError(f"{self.name}.{option}", value, expected)

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Adam's moments, those of returns and features, how many updates were made. The network is the agent's."""
        own = {"updates": torch.tensor(self.updates), "return_moments": self.return_moments.clone()}
        if self.norm is not None:
            own |= {f"norm.{k}": v for k, v in self.norm.state_dict().items()}
        return adam_tensors(self.optimizer, dict(self.net.named_parameters())) | own

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`; others are left alone."""
        load_adam(self.optimizer, dict(self.net.named_parameters()), tensors)
        self.cuda_graphs = None if self.cuda_graphs is None else CudaGraphCache()  # CUDA graphs hold the old moments
        self.updates, self.return_moments = int(tensors["updates"]), tensors["return_moments"].cpu().clone()
        if self.norm is not None:
            self.norm.load_state_dict({k.removeprefix("norm."): v for k, v in tensors.items() if k.startswith("norm.")})
