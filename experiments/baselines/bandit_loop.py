"""RL2 on bandits without metarl: a GRUCell unrolled by a Python loop, and sb3-contrib's RecurrentPPO.

The network, the batch and PPO's settings are those of metarl's rl2 (Duan et al. 2016, arXiv:1611.02779).
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor, nn
from torch.distributions import Categorical

from metarl.agents.rl2 import RL2Config, RL2Network

Array = npt.NDArray[Any]


class TrialBandit(gym.Env[Array, np.int64]):
    """An episode is a trial: `pulls` pulls of `k` Bernoulli arms drawn at its start.

    Observation: one-hot previous action, reward, end flag, `[k + 2]` (a pull is an episode of its own, so the flag is
    always set). Action: which arm. Reward: 1 with the arm's probability.
    """

    def __init__(self, k: int, pulls: int) -> None:
        self.k, self.pulls = k, pulls
        self.observation_space, self.action_space = Box(0.0, 1.0, (k + 2,), np.float32), Discrete(k)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """New arms."""
        super().reset(seed=seed)
        self.p, self.t = self.np_random.random(self.k), 0
        obs = np.zeros(self.k + 2, dtype=np.float32)
        obs[-1] = 1.0
        return obs, {}

    def step(self, action: np.int64) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """One pull."""
        reward = float(self.np_random.random() < self.p[action])
        self.t += 1
        obs = np.zeros(self.k + 2, dtype=np.float32)
        obs[action], obs[-2:] = 1.0, (reward, 1.0)
        return obs, reward, self.t >= self.pulls, False, {}


def recurrent_ppo(k: int, pulls: int, cfg: RL2Config) -> Any:
    """RecurrentPPO with rl2's settings; raises ImportError without sb3-contrib.

    One LSTM serves policy and value and nothing stands between it and their heads, as in rl2: the library's defaults
    (an LSTM each, two layers of 64 after each) would be slower.
    """
    from sb3_contrib import RecurrentPPO
    from stable_baselines3.common.vec_env import DummyVecEnv

    network = {
        "lstm_hidden_size": cfg.hidden,
        "net_arch": [],
        "shared_lstm": True,
        "enable_critic_lstm": False,
    }
    return RecurrentPPO(
        "MlpLstmPolicy",
        DummyVecEnv([lambda: TrialBandit(k, pulls)] * cfg.meta_batch_size),
        learning_rate=cfg.learning_rate,
        n_steps=pulls,
        batch_size=pulls * cfg.meta_batch_size,
        n_epochs=cfg.epochs,
        gamma=cfg.discount,
        gae_lambda=cfg.gae_lambda,
        clip_range=cfg.clip,
        ent_coef=cfg.entropy_coef,
        vf_coef=cfg.value_coef,
        max_grad_norm=cfg.max_grad_norm,
        policy_kwargs=network,
        seed=0,
        device="cpu",
    )


class GRUPolicy(nn.Module):
    """A GRUCell with a policy and a value head, from the parameters of an rl2 network."""

    def __init__(self, source: RL2Network, k: int) -> None:
        super().__init__()
        gru = source.gru
        self.cell = nn.utils.skip_init(nn.GRUCell, k + 2, gru.hidden_size)
        self.policy = nn.utils.skip_init(nn.Linear, gru.hidden_size, k)
        self.value = nn.utils.skip_init(nn.Linear, gru.hidden_size, 1)
        with torch.no_grad():
            self.cell.weight_ih.copy_(gru.weight_ih_l0[:, 1:])  # without the bandit's constant observation, 0
            self.cell.weight_hh.copy_(gru.weight_hh_l0)
            self.cell.bias_ih.copy_(gru.bias_ih_l0)
            self.cell.bias_hh.copy_(gru.bias_hh_l0)
        self.policy.load_state_dict(source.policy.state_dict())
        self.value.load_state_dict(source.value.state_dict())

    def unroll(self, x: Tensor) -> tuple[Categorical, Tensor]:
        """The policy and the value at every step of trials `[T, R, k + 2]`."""
        h, seen = x.new_zeros(x.shape[1], self.cell.hidden_size), []
        for x_t in x:
            h = self.cell(x_t, h)
            seen.append(h)
        hidden = torch.stack(seen)
        return Categorical(logits=self.policy(hidden), validate_args=False), self.value(hidden).squeeze(-1)


@torch.no_grad()
def play(net: GRUPolicy, p: Tensor, pulls: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Trials on arms `p` `[R, k]`: `x` `[T, R, k + 2]`, and `action`, `log_prob`, `value`, `reward` `[T, R]`."""
    rows, k = p.shape
    h, seen = p.new_zeros(rows, net.cell.hidden_size), []
    x = torch.cat([p.new_zeros(rows, k + 1), p.new_ones(rows, 1)], 1)
    for _ in range(pulls):
        h = net.cell(x, h)
        logits = net.policy(h).log_softmax(-1)
        action = torch.multinomial(logits.exp(), 1, generator=generator)
        reward = (torch.rand(p.shape[:1], generator=generator, device=p.device) < p.gather(1, action)[:, 0]).float()
        log_prob = logits.gather(1, action)[:, 0]
        seen.append((x, action[:, 0], log_prob, net.value(h)[:, 0], reward))
        x = torch.cat([nn.functional.one_hot(action[:, 0], k), reward[:, None], torch.ones_like(reward)[:, None]], 1)
    names = ("x", "action", "log_prob", "value", "reward")
    return {name: torch.stack(v) for name, v in zip(names, zip(*seen, strict=True), strict=True)}


def update(net: GRUPolicy, optimizer: torch.optim.Optimizer, data: dict[str, Tensor], cfg: RL2Config) -> None:
    """PPO's epochs on whole trials, as one minibatch."""
    reward, value = data["reward"], data["value"]
    advantage, carry, following = torch.empty_like(reward), torch.zeros_like(reward[0]), torch.zeros_like(reward[0])
    for t in reversed(range(len(reward))):
        carry = reward[t] + cfg.discount * following - value[t] + cfg.discount * cfg.gae_lambda * carry
        advantage[t], following = carry, value[t]
    target = advantage + value
    advantage = (advantage - advantage.mean()) / advantage.std(correction=0).clamp_min(1e-8)
    for _ in range(cfg.epochs):
        policy, new_value = net.unroll(data["x"])
        ratio = torch.exp(policy.log_prob(data["action"]) - data["log_prob"])
        clipped = ratio.clamp(1.0 - cfg.clip, 1.0 + cfg.clip)
        loss = -torch.minimum(ratio * advantage, clipped * advantage).mean()
        loss = loss + cfg.value_coef * (new_value - target).square().mean() - cfg.entropy_coef * policy.entropy().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), cfg.max_grad_norm)
        optimizer.step()
