"""RL2: a recurrent policy whose hidden state is what it has learned about the task.

Duan et al. (2016, arXiv:1611.02779) and Wang et al. (2016, arXiv:1611.05763). At every step the network is given the
observation, the previous action, the previous reward and whether an episode just ended. Its memory lives for a whole
trial, several episodes in one task: episode boundaries cross it, and only a trial's start clears it. Returns and
advantages likewise run through a trial's episodes and stop at its end, where nothing follows. It is trained by PPO
(Schulman et al. 2017, arXiv:1707.06347), back through the whole trial.

    metarl train rl2 --family metarl/BernoulliBandit-v0
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from metarl.agent import Agent, AgentState, adam_tensors, check_number, load_adam
from metarl.family import Family
from metarl.networks import Distribution, ObservationEncoder, PolicyHead
from metarl.returns import gae
from metarl.rng import Rng, fold_in, make_key
from metarl.rollout import Budget, Feedback, Rollout, Step, Trials
from metarl.tasks import Tasks


@dataclass(frozen=True)
class RL2Config:
    """Hyperparameters; the paper's where it gives them."""

    trial_episodes: int = 10
    """Episodes per trial in training (bandits: pulls)."""
    meta_batch_size: int = 1000
    """Trials per meta-update, each in a task of its own (the paper: 250,000 environment steps)."""
    hidden: int = 128
    """Units of the GRU (the paper: 256)."""
    learning_rate: float = 3e-3
    """Of Adam (the paper: 1e-3, with batches 25 times as large)."""
    epochs: int = 4
    """Passes over a batch."""
    minibatches: int = 8
    """Parts that a pass splits the trials into."""
    clip: float = 0.2
    """PPO's clipping of the probability ratio (the paper: 0.1)."""
    discount: float = 0.99
    """Gamma, across episodes."""
    gae_lambda: float = 0.3
    """Lambda of generalised advantage estimation."""
    value_coef: float = 0.5
    """Weight of the squared value error."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus."""
    max_grad_norm: float = 0.5
    """Gradients are scaled down to this norm."""


class RL2Network(nn.Module):
    """A GRU with a policy and a value head on it."""

    def __init__(self, inputs: int, hidden: int, outputs: int, log_std: int) -> None:
        super().__init__()
        self.gru = nn.GRU(inputs, hidden)
        self.policy = nn.Linear(hidden, outputs)
        self.value = nn.Linear(hidden, 1)
        if log_std:
            self.log_std = nn.Parameter(torch.empty(log_std))

    @torch.no_grad()
    def initialise(self, rng: Rng) -> None:
        """PyTorch's default ranges from keyed draws, the policy head a hundredth of that."""
        for name, p in self.named_parameters():
            bound = 1.0 / math.sqrt(self.gru.hidden_size)
            scale = 0.01 * bound if name == "policy.weight" else bound
            p.copy_((2.0 * rng.uniform(*p.shape)[0] - 1.0) * scale if p.dim() == 2 else torch.zeros_like(p))


class RL2(Agent):
    """Fast reinforcement learning via slow reinforcement learning."""

    name = "rl2"
    Config = RL2Config
    remembers = True

    def __init__(self, family: Family, config: RL2Config, seed: int = 0, device: torch.device | str = "cpu") -> None:
        super().__init__(family, config, seed, device)
        check_number("rl2", config, trial_episodes=(1, 1e6), meta_batch_size=(1, 1e7), hidden=(1, 1e5), epochs=(1, 1e3))
        check_number("rl2", config, learning_rate=(0, 10), clip=(1e-6, 10), discount=(0, 1), gae_lambda=(0, 1))
        check_number("rl2", config, value_coef=(0, 1e3), entropy_coef=(-1e3, 1e3), max_grad_norm=(1e-9, 1e9))
        check_number("rl2", config, minibatches=(1, config.meta_batch_size))
        self.config: RL2Config = config
        self.encode = ObservationEncoder(family.observation_space, "rl2")
        self.head = PolicyHead(family.action_space, "rl2")
        inputs = self.encode.size + self.head.features + 2
        with torch.device("meta"):  # PyTorch's own initialisation would draw from its global generator
            self.net = RL2Network(inputs, config.hidden, self.head.size, 0 if self.head.discrete else self.head.size)
        self.net.to_empty(device="cpu")
        self.net.initialise(Rng(torch.tensor([make_key("rl2", "init", seed)])))
        self.net.to(self.device)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=config.learning_rate, eps=1e-5, fused=True)

    # --- acting ------------------------------------------------------------------------------------------------------

    @property
    def budget(self) -> Budget:
        """One more episode of the trial."""
        return Budget(slots=1, episodes=1)

    def begin(self, rows: int, tasks: Tasks | None = None) -> AgentState:
        """No memory, no previous action or reward, and the end flag set: a trial starts where an episode ended."""
        h = torch.zeros(rows, self.config.hidden, device=self.device)
        last = torch.zeros(rows, self.head.features + 2, device=self.device)  # action, reward, end flag
        last[:, -1] = 1.0
        return {"h": h, "next_h": h, "last": last}

    def act(self, state: AgentState, step: Step, rng: Rng, mode: str) -> tuple[Tensor, dict[str, Tensor], AgentState]:
        """One step of the GRU; `observe` makes the new memory count."""
        x = torch.cat([self.encode(step.obs[:, 0]), state["last"]], -1)
        g: Any = self.net.gru
        h = torch.gru_cell(x, state["h"], g.weight_ih_l0, g.weight_hh_l0, g.bias_ih_l0, g.bias_hh_l0)
        policy = self._policy(h)
        action = policy.mode if mode == "mean" else policy.sample(rng)
        extras = {"log_prob": policy.log_prob(action).unsqueeze(1), "value": self.net.value(h)}
        return action.unsqueeze(1), extras, {**state, "next_h": h}

    def observe(self, state: AgentState, told: Feedback, active: Tensor | None) -> AgentState:
        """Keep the memory, and what the next step is given."""
        last, h = self._feedback(told.action, told.reward, told.terminated | told.truncated)[:, 0], state["next_h"]
        if active is not None:
            last, h = torch.where(active, last, state["last"]), torch.where(active, h, state["h"])
        return {"h": h, "next_h": h, "last": last}

    def to_env(self, action: Tensor) -> Tensor:
        """From [-1, 1] to the action box."""
        return self.head.to_env(action)

    def _policy(self, h: Tensor) -> Distribution:
        return self.head.distribution(self.net.policy(h), getattr(self.net, "log_std", None))

    def _feedback(self, action: Tensor, reward: Tensor, ended: Tensor) -> Tensor:
        """Previous action, reward and end flag as features: `[..., features + 2]`."""
        return torch.cat([self.head.encode(action), reward.unsqueeze(-1), ended.unsqueeze(-1).float()], -1)

    # --- training ----------------------------------------------------------------------------------------------------

    def train_step(self, trials: Trials) -> dict[str, float]:
        """Play whole trials, then PPO on them."""
        start, cfg = time.perf_counter(), self.config
        rollout, _ = trials.collect(self, self.begin(trials.rows), 0, Budget(slots=1, episodes=cfg.trial_episodes))
        sampled = time.perf_counter()
        metrics = self.update(rollout, trials.key)
        total = (rollout.reward * rollout.valid).sum((0, 2))
        return {
            "trial_return": float(total.double().mean()),
            "episode_return": float(rollout.mean_return().nanmean()),
            **metrics,
            "seconds_sampling": sampled - start,
            "seconds_optimisation": time.perf_counter() - sampled,
        }

    def inputs(self, rollout: Rollout) -> Tensor:
        """What the network was given at each step, `[T, R, inputs]`."""
        told = self._feedback(rollout.action, rollout.reward, rollout.ended)[:, :, 0]  # [T, R, features + 2]
        first = self.begin(told.shape[1])["last"].unsqueeze(0)
        return torch.cat([self.encode(rollout.obs[:, :, 0]), torch.cat([first, told[:-1]])], -1)

    def advantages(self, rollout: Rollout) -> Tensor:
        """GAE through the episodes of a trial, stopping at the trial's end: `[T, R]`."""
        valid = rollout.valid[:, :, 0]
        trial_end = valid & ~torch.cat([valid[1:], torch.zeros_like(valid[:1])])
        value, cfg = rollout.extras["value"][:, :, 0], self.config
        return gae(rollout.reward[:, :, 0] * valid, value, trial_end, cfg.discount, cfg.gae_lambda)

    def update(self, rollout: Rollout, key: int) -> dict[str, float]:
        """PPO's epochs; `key` decides how trials are dealt into minibatches."""
        cfg, valid = self.config, rollout.valid[:, :, 0].float()
        x, advantage = self.inputs(rollout), self.advantages(rollout)
        target = advantage + rollout.extras["value"][:, :, 0]
        action, old_log_prob = rollout.action[:, :, 0], rollout.extras["log_prob"][:, :, 0]
        count = valid.sum()
        centred = (advantage - (advantage * valid).sum() / count) * valid
        advantage = centred / (centred.square().sum() / count).sqrt().clamp_min(1e-8)
        sums: dict[str, Tensor] = {}
        updates = 0
        for epoch in range(cfg.epochs):
            for rows in self._minibatches(x.shape[1], key, epoch):
                part = [v[:, rows] for v in (x, action, old_log_prob, advantage, target, valid)]
                for name, v in self._ppo_step(*part).items():
                    sums[name] = sums.get(name, torch.zeros_like(v)) + v
                updates += 1
        return {name: float(v) / updates for name, v in sums.items()}

    def _minibatches(self, rows: int, key: int, epoch: int) -> list[Tensor | slice]:
        if self.config.minibatches == 1:
            return [slice(None)]
        order = fold_in(make_key(key, "minibatch", epoch), torch.arange(rows)).argsort().to(self.device)
        return list(order.chunk(self.config.minibatches))

    def _ppo_step(
        self, x: Tensor, action: Tensor, old_log_prob: Tensor, advantage: Tensor, target: Tensor, valid: Tensor
    ) -> dict[str, Tensor]:
        """One gradient step on trials `[T, B, ...]`."""
        cfg, count = self.config, valid.sum()
        with torch.backends.cudnn.flags(allow_tf32=False):  # as precise as acting, or the first ratio is not 1
            h, _ = self.net.gru(x)
        policy = self._policy(h)
        log_ratio = policy.log_prob(action) - old_log_prob
        ratio = log_ratio.exp()
        # equation 7: the smaller of the plain and the clipped surrogate
        surrogate = torch.minimum(ratio * advantage, ratio.clamp(1 - cfg.clip, 1 + cfg.clip) * advantage)
        policy_loss = -(surrogate * valid).sum() / count
        value_loss = ((self.net.value(h).squeeze(-1) - target).square() * valid).sum() / count
        entropy = (policy.entropy() * valid).sum() / count
        loss = policy_loss + cfg.value_coef * value_loss - cfg.entropy_coef * entropy
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), cfg.max_grad_norm)
        self.optimizer.step()
        with torch.no_grad():
            kl = (((ratio - 1) - log_ratio) * valid).sum() / count
        return {"value_loss": value_loss.detach(), "entropy": entropy.detach(), "kl": kl}

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """The network, and Adam's moments."""
        moments = adam_tensors(self.optimizer, dict(self.net.named_parameters()))
        return {f"net.{k}": v for k, v in self.net.state_dict().items()} | moments

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The network, and Adam's moments."""
        self.net.load_state_dict({k.removeprefix("net."): v for k, v in tensors.items() if k.startswith("net.")})
        load_adam(self.optimizer, dict(self.net.named_parameters()), tensors)
