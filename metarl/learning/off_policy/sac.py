"""Soft actor-critic: off-policy learning of a policy that is paid for its reward and for its entropy.

Haarnoja et al. (2018, arXiv:1801.01290; with twin critics, target networks and a learned temperature arXiv:1812.05905,
algorithm 1) for a Box of actions; Christodoulou (2019, arXiv:1910.07207) for Discrete ones, whose expectations over
actions are exact. The agent keeps the transitions and hands over features of what it believes:

    self.sac = SAC(self.name, PolicyHead(family.action_space, self.name), inputs, config, rng, device, encoder)
    metrics = self.sac.update(SACBatch(x, action, reward, next_x, terminated), key, further_loss)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn

from metarl.config import Range
from metarl.devices import check_fits
from metarl.errors import InvalidValueError
from metarl.learning.action_distributions import Categorical, Gaussian, PolicyHead
from metarl.learning.adam import adam_step, load_net, net_tensors
from metarl.learning.images import ImageShape, Seen, seen_size
from metarl.learning.networks import init_mlp, mlp
from metarl.rng import Rng, make_key

_LOG_STD = (-20.0, 2.0)  # the policy's log_std is clipped to this range, as in the authors' code
_DISCRETE_TARGET = 0.98  # of the largest entropy, as in Christodoulou's paper


@dataclass(frozen=True)
class SACConfig:
    """Hyperparameters of soft actor-critic."""

    policy_hidden: tuple[Annotated[int, Range(1, 1e9)], ...] = (256, 256)
    """Widths of the hidden layers of the policy and of the critics."""
    discount: Annotated[float, Range(0, 1)] = 0.99
    """Discount factor. The horizon does not end a return, because the critics do not see the time."""
    learning_rate: Annotated[float, Range(0, 10)] = 3e-4
    """Learning rate of Adam, for all networks."""
    target_rate: Annotated[float, Range(0, 1)] = 0.005
    """How far the target critics move toward the critics in a gradient step."""
    temperature: Annotated[float, Range(1e-9, 1e9)] = 0.2
    """Reward that a nat of the policy's entropy is worth; with `learn_temperature` its first value."""
    learn_temperature: bool = False
    """Learn the temperature, so that the entropy is minus the number of action dimensions in a Box, or .98 of the
    largest entropy of Discrete actions."""


class SACBatch(NamedTuple):
    """Transitions to learn from.

    Attributes:
        x: features before the step, `[B, inputs]`. The critics' gradient flows into them, the policy's does not.
        action: as the policy made it, `[B, d]` or `int64 [B]`.
        reward: `[B]`.
        next_x: features after the step, `[B, inputs]`. No gradient flows into them.
        terminated: `bool [B]`, nothing follows.
    """

    x: Tensor
    action: Tensor
    reward: Tensor
    next_x: Tensor
    terminated: Tensor


@dataclass(frozen=True)
class SquashedGaussian:
    """The distribution of tanh(u), where u has independent normal distributions: actions in (-1, 1)."""

    before: Gaussian

    def sample(self, rng: Rng) -> Tensor:
        """One action for each environment of `rng`, `[..., d]`."""
        return self.before.sample(rng).tanh()

    @property
    def mode(self) -> Tensor:
        """The squashed mean, `[..., d]`."""
        return self.before.mean.tanh()

    def sample_with_log_prob(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions `[..., d]` as a function of standard normal `noise` `[..., d]`, and their log-densities `[...]`.

        The density is that of u times the derivative of tanh, 1 - tanh(u)^2 (1801.01290, appendix C).
        """
        u = torch.addcmul(self.before.mean, noise, self.before.log_std.exp())
        log_slope = 2.0 * (math.log(2.0) - u - nn.functional.softplus(-2.0 * u))
        return u.tanh(), self.before.log_prob(u) - log_slope.sum(-1)


# --- equations -------------------------------------------------------------------------------------------------------


def soft_target(reward: Tensor, terminated: Tensor, next_value: Tensor, discount: float) -> Tensor:
    """What a critic should say, `[B]`: r + discount V(s'), and r if nothing follows (1812.05905, equation 5)."""
    return reward + discount * torch.where(terminated, 0.0, next_value)


def sampled_value(q: Tensor, log_prob: Tensor, temperature: Tensor) -> Tensor:
    """The soft value from one action's log-density `[B]` and the critics' `q` `[2, B]`: `[B]` (equation 3)."""
    return q.amin(0) - temperature * log_prob


def expected_value(q: Tensor, log_probs: Tensor, temperature: Tensor) -> Tensor:
    """The soft value from all log-probabilities `[B, n]` and `q` `[2, B, n]`: `[B]` (1910.07207, equation 10)."""
    return (log_probs.exp() * (q.amin(0) - temperature * log_probs)).sum(-1)


def temperature_loss(log_temperature: Tensor, entropy: Tensor, target: float) -> Tensor:
    """Its gradient lowers the temperature where the entropy `[B]` is above the target (1812.05905, equation 18)."""
    return (log_temperature.exp() * (entropy.detach() - target)).mean()


@torch.no_grad()
def move_toward(targets: Sequence[Tensor], sources: Sequence[Tensor], rate: float) -> None:
    """Move parameters of target networks: target + rate (source - target)."""
    torch._foreach_lerp_(list(targets), list(sources), rate)


class Critics(nn.Module):
    """Two networks side by side: Q(x, action), or Q(x) of every one of n actions.

    Args:
        head: the kind of actions.
        inputs: features per step.
        hidden: widths of the hidden layers.
        rng: draws of the initial weights.
        image: the form of an image that the features begin with, which both see through one encoder; None: no image.
    """

    def __init__(
        self, head: PolicyHead, inputs: int, hidden: Sequence[int], rng: Rng, image: ImageShape | None = None
    ) -> None:
        super().__init__()
        self.head, self.seen = head, Seen(image, rng)
        inputs = seen_size(image, inputs)
        sizes = (inputs, *hidden, head.size) if head.discrete else (inputs + head.size, *hidden, 1)
        first, second = init_mlp(sizes, rng), init_mlp(sizes, rng)
        self.layers = nn.ParameterDict({name: torch.stack([first[name], second[name]]) for name in first})

    def forward(self, x: Tensor, action: Tensor | None = None) -> Tensor:
        """Both critics' values of features `x` `[B, inputs]` and actions `[B, d]`, `[2, B]`.

        With Discrete actions: `[2, B]` of actions `int64 [B]`, or without them `[2, B, n]`.
        """
        x = self.seen(x)
        x = x if self.head.discrete or action is None else torch.cat([x, action], -1)
        q = mlp(dict(self.layers.items()), x.expand(2, *x.shape))
        if not self.head.discrete:
            return q.squeeze(-1)
        return q if action is None else q.gather(-1, action.expand(2, -1).unsqueeze(-1)).squeeze(-1)


class SAC:
    """The policy, the critics, their targets and the temperature, and their training.

    Args:
        name: of the agent, for error messages and keys.
        head: makes actions.
        inputs: features per step.
        config: hyperparameters.
        rng: draws of the initial weights.
        device: of all tensors.
        further: a module that is trained with the critics, such as an encoder that makes the features.
        image: the form of an image that the features begin with; None if there is none. The critics train the encoder
            through which the policy sees it too (Yarats et al. 2021, arXiv:1910.01741).

    Raises:
        InvalidValueError: the action space is a Box without bounds, which tanh cannot fill.
    """

    def __init__(
        self,
        name: str,
        head: PolicyHead,
        inputs: int,
        config: SACConfig,
        rng: Rng,
        device: torch.device,
        further: nn.Module | None = None,
        image: ImageShape | None = None,
    ) -> None:
        if not (head.discrete or head.bounded):
            raise InvalidValueError(f"action space of {name}", head.space, "a Box with bounds or a Discrete space")
        self.head, self.config, self.inputs = head, config, inputs
        outputs = head.size if head.discrete else 2 * head.size
        sizes = (seen_size(image, inputs), *config.policy_hidden, outputs)
        self.actor = nn.ParameterDict(init_mlp(sizes, rng, final_gain=0.01)).to(device)
        self.critics = Critics(head, inputs, config.policy_hidden, rng, image).to(device)
        self.targets = Critics(head, inputs, config.policy_hidden, rng, image).to(device).requires_grad_(False)
        self.targets.load_state_dict(self.critics.state_dict())
        start = torch.tensor(math.log(config.temperature), device=device)
        self.log_temperature = nn.ParameterDict({"log": nn.Parameter(start, config.learn_temperature)})
        self.target_entropy = _DISCRETE_TARGET * math.log(head.size) if head.discrete else -float(head.size)
        trained: dict[str, nn.Module] = {"critics": self.critics} | ({} if further is None else {"further": further})
        modules = {"actor": self.actor, "critics": nn.ModuleDict(trained)}
        if config.learn_temperature:
            modules["temperature"] = self.log_temperature
        self._trained = {
            n: (m, torch.optim.Adam(m.parameters(), config.learning_rate, fused=True)) for n, m in modules.items()
        }

    def check_memory(self, option: str, value: int, rows: int, what: str) -> None:
        """Refuse gradient steps that would not fit into memory, by an estimate from below.

        Args:
            option: the hyperparameter that decides how many transitions a gradient step has.
            value: its value.
            rows: transitions for each 1 of it.
            what: these transitions and their verb, such as "a gradient step on a trial needs".

        Raises:
            InvalidValueError: they do not fit.
        """
        widths = self.inputs + 3 * sum(self.config.policy_hidden)  # the features, the policy and two critics
        check_fits(option, value, 4 * rows * widths, self.log_temperature["log"].device, what)

    @property
    def temperature(self) -> Tensor:
        """What a nat of entropy is worth, `[]`."""
        value: Tensor = self.log_temperature["log"].detach().exp()
        return value

    def policy(self, x: Tensor) -> SquashedGaussian | Categorical:
        """The policy at features `[..., inputs]`."""
        out = mlp(dict(self.actor.items()), x if self.critics.seen.image is None else self.critics.seen(x).detach())
        if self.head.discrete:
            return Categorical.from_logits(out)
        mean, log_std = out.chunk(2, -1)
        return SquashedGaussian(Gaussian(mean, log_std.clamp(*_LOG_STD)))

    def value(self, critics: Critics, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The soft value of the policy, `[B]`, and its entropy or an estimate of it, `[B]`, both differentiable.

        Args:
            critics: the critics or their targets.
            x: features `[B, inputs]`.
            noise: standard normal `[B, d]`; Discrete actions need none.
        """
        policy = self.policy(x)
        if isinstance(policy, Categorical):
            return expected_value(critics(x), policy.logits, self.temperature), policy.entropy()
        action, log_prob = policy.sample_with_log_prob(noise)
        return sampled_value(critics(x, action), log_prob, self.temperature), -log_prob

    def update(self, batch: SACBatch, key: int, further_loss: Tensor | float = 0.0) -> dict[str, Tensor]:
        """One gradient step of the critics, then of the policy, the temperature and the targets.

        Args:
            batch: the transitions.
            key: of the actions that are drawn.
            further_loss: `[]`, added to the critics' loss.

        Returns:
            metrics `[]` by name.
        """
        rng = Rng(torch.tensor([make_key(key, "sac")], device=batch.x.device))
        noise = rng.normal(2, len(batch.x), self.head.size)[0] if not self.head.discrete else batch.x.new_zeros(2)
        with torch.no_grad():
            next_value, _ = self.value(self.targets, batch.next_x, noise[0])
            target = soft_target(batch.reward, batch.terminated, next_value, self.config.discount)
        errors = (self.critics(batch.x, batch.action) - target).square().mean(1)
        self._step("critics", errors.sum() + further_loss)
        value, entropy = self.value(self.critics, batch.x.detach(), noise[1])
        self._step("actor", -value.mean())
        if self.config.learn_temperature:
            self._step("temperature", temperature_loss(self.log_temperature["log"], entropy, self.target_entropy))
        move_toward([*self.targets.parameters()], [*self.critics.parameters()], self.config.target_rate)
        metrics = {"critic_loss": errors.mean(), "value": value.mean(), "entropy": entropy.mean()}
        return {k: v.detach() for k, v in metrics.items()} | {"temperature": self.temperature}

    def _step(self, name: str, loss: Tensor) -> None:
        adam_step(self._trained[name][1], loss)

    def tensors(self) -> dict[str, Tensor]:
        """Networks, targets, temperature and Adam's moments, for checkpoints, those of `further` among them."""
        out = {f"target.{k}": v for k, v in self.targets.state_dict().items()}
        for name, (module, optimizer) in self._trained.items():
            out |= {f"{name}.{k}": v for k, v in net_tensors(module, optimizer).items()}
        return out

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`; others are ignored."""
        self.targets.load_state_dict(_within(tensors, "target."))
        for name, (module, optimizer) in self._trained.items():
            load_net(module, optimizer, _within(tensors, f"{name}."))


def _within(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with the prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
