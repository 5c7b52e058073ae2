"""RL2 on bandits without metarl: a GRUCell unrolled by a Python loop, and sb3-contrib's RecurrentPPO.

The batch and PPO's settings are those of metarl's rl2 (Duan et al. 2016, arXiv:1611.02779), and so is the network,
but for RecurrentPPO's LSTM. `measure_case` times both, and the loop in JAX (`jax_loop`), beside rl2, and counts the
arithmetic.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor, nn
from torch.distributions import Categorical

from baselines.measure import MISSING, Side, compare, interleave, timed
from metarl import make_agent
from metarl.agents.memory.rl2 import RL2, RL2Config
from metarl.agents.memory.rl2_network import RL2Network
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials

Array = npt.NDArray[Any]
GATES = {"gru": 3, "lstm": 4}
PEAK_STEPS = 6400  # rows of the product that the peak is measured on: 64 trials of 100 pulls


@dataclass(frozen=True)
class Case:
    """A size of RL2 training, and what stands beside it. Four epochs everywhere."""

    hidden: int
    """Units of the memory."""
    trials: int = 64
    """PoolTrials per update."""
    pulls: int = 100
    """Pulls per trial."""
    minibatches: int = 1
    """Parts of an epoch."""
    updates: int = 3
    """Updates per repeat."""
    recurrent_ppo: bool = True
    """Beside RecurrentPPO too, and so rl2 with an LSTM."""


def large(hidden: int) -> Case:
    """The size of a training on 100 thousand pulls per update."""
    return Case(hidden, trials=1024, minibatches=4, updates=1, recurrent_ppo=False)


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

    network = {"lstm_hidden_size": cfg.hidden, "net_arch": [], "shared_lstm": True, "enable_critic_lstm": False}
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
        gru: Any = source.memory.rnn
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
    """PoolTrials on arms `p` `[R, k]`: `x` `[T, R, k + 2]`, and `action`, `log_prob`, `value`, `reward` `[T, R]`."""
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


def update(
    net: GRUPolicy,
    optimizer: torch.optim.Optimizer,
    data: dict[str, Tensor],
    cfg: RL2Config,
    generator: torch.Generator | None = None,
) -> None:
    """PPO's epochs on whole trials; `generator` deals them into minibatches."""
    reward, value = data["reward"], data["value"]
    advantage, carry, following = torch.empty_like(reward), torch.zeros_like(reward[0]), torch.zeros_like(reward[0])
    for t in reversed(range(len(reward))):
        carry = reward[t] + cfg.discount * following - value[t] + cfg.discount * cfg.gae_lambda * carry
        advantage[t], following = carry, value[t]
    advantage, target = (advantage - advantage.mean()) / advantage.std(correction=0).clamp_min(1e-8), advantage + value
    whole = (data["x"], data["action"], data["log_prob"], advantage, target)
    for _ in range(cfg.epochs):
        order = torch.randperm(value.shape[1], generator=generator, device=value.device)
        for part in [slice(None)] if cfg.minibatches == 1 else order.chunk(cfg.minibatches):
            ppo_step(net, optimizer, tuple(v[:, part] for v in whole), cfg)


def ppo_step(net: GRUPolicy, optimizer: torch.optim.Optimizer, part: tuple[Tensor, ...], cfg: RL2Config) -> None:
    """One gradient step on trials: inputs `[T, B, k + 2]`, actions, log-probabilities, advantages, targets `[T, B]`."""
    x, action, old_log_prob, advantage, target = part
    policy, value = net.unroll(x)
    ratio = torch.exp(policy.log_prob(action) - old_log_prob)
    clipped = ratio.clamp(1.0 - cfg.clip, 1.0 + cfg.clip)
    loss = -torch.minimum(ratio * advantage, clipped * advantage).mean()
    loss = loss + cfg.value_coef * (value - target).square().mean() - cfg.entropy_coef * policy.entropy().mean()
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), cfg.max_grad_norm)
    optimizer.step()


def flops_per_step(memory: str, hidden: int, k: int, epochs: int) -> int:
    """Arithmetic of training per pull: once through the network to act, and in every epoch forwards and backwards.

    A product of a vector with a matrix of n entries counts 2 n; backwards takes two products for each one forwards.
    """
    forward = 2 * GATES[memory] * hidden * (hidden + k + 2) + 2 * hidden * (k + 1)
    return forward * (1 + 3 * epochs)


def matmul_rate(hidden: int, device: str, products: int = 20) -> float:
    """Floating-point operations per second of the product `[6400, H] [H, 3 H]`, the median.

    It stands for what the device can do, so H is rounded up to a multiple of 16: odd widths are slower.
    """
    hidden = -(-hidden // 16) * 16
    a, b = torch.full((PEAK_STEPS, hidden), 0.5, device=device), torch.full((hidden, 3 * hidden), 0.5, device=device)
    out = torch.empty(PEAK_STEPS, 3 * hidden, device=device)
    seconds = [timed(device, lambda: torch.mm(a, b, out=out))[0] for _ in range(products)]
    return 6.0 * PEAK_STEPS * hidden**2 / statistics.median(seconds)


def rl2_agent(case: Case, memory: str, device: str) -> RL2:
    """The agent of a case, not yet trained."""
    sizes = {"trial_episodes": case.pulls, "hidden": case.hidden, "epochs": 4, "minibatches": case.minibatches}
    sizes["meta_batch_size"] = case.trials
    agent = make_agent("rl2", "metarl/BernoulliBandit-v0", device=device, memory=memory, **sizes)
    assert isinstance(agent, RL2)
    return agent


def metarl_side(agent: Any) -> Callable[[], Any]:
    """One of its updates at each call, on tasks of its own."""
    iterations, pool, trials = (
        itertools.count(),
        EnvironmentPool(agent.family, agent.device),
        agent.config.meta_batch_size,
    )

    def work() -> None:
        i = next(iterations)
        agent.train_step(PoolTrials(pool, agent.family.tasks("train", trials, start=i * trials), iteration=i))

    return work


def loop_side(agent: RL2) -> Callable[[], Any]:
    """One of the GRUCell loop's updates at each call."""
    k, cfg, device = agent.family.k, agent.config, agent.device
    net = GRUPolicy(agent.net, k).to(device)
    optimizer = torch.optim.Adam(net.parameters(), lr=cfg.learning_rate, eps=1e-5, fused=True)
    generator = torch.Generator(device).manual_seed(0)

    def work() -> None:
        arms = torch.rand(cfg.meta_batch_size, k, generator=generator, device=device)
        update(net, optimizer, play(net, arms, cfg.trial_episodes, generator), cfg, generator)

    return work


def jax_side(agent: RL2, threads: int) -> Callable[[], Any] | None:
    """One of the JAX loop's updates at each call; None, and a line, where JAX does not run."""
    try:
        from baselines import jax_loop

        return jax_loop.trainer(GRUPolicy(agent.net, agent.family.k), agent.config, agent.device.type, threads)
    except (ImportError, RuntimeError) as error:
        print(f"JAX loop left out: {error} (pip install jax)", file=sys.stderr)
        return None


def measure_case(case: Case, device: str, threads: int, repeats: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of the table, and the arithmetic: of a step, of the fastest product, and which share a side reaches."""
    agent, steps = rl2_agent(case, "gru", device), case.updates * case.trials * case.pulls
    k, cfg = agent.family.k, agent.config

    def rated(work: Callable[[], Any], times: int = case.updates) -> Side:
        return lambda i: {"rate": steps / timed(device, lambda: [work() for _ in range(times)])[0]}

    sides = {"metarl": rated(metarl_side(agent)), "GRUCell loop": rated(loop_side(agent))}
    sides["peak"] = lambda i: {"flops": matmul_rate(case.hidden, device)}
    if jax_work := jax_side(agent, threads):
        sides["JAX loop"] = rated(jax_work)
    if case.recurrent_ppo:
        sides["metarl, LSTM"] = rated(metarl_side(rl2_agent(case, "lstm", device)))
        try:
            other = recurrent_ppo(k, case.pulls, cfg)
            sides["RecurrentPPO"] = rated(lambda: other.learn(steps), 1)
        except ImportError:
            print(f"RecurrentPPO: {MISSING}", file=sys.stderr)
    raw = interleave(sides, repeats)
    flops = statistics.median(raw["peak"]["flops"])
    size = f"{case.hidden}, {case.trials:,} trials"
    pairs = [("GRU", "metarl", other) for other in ("GRUCell loop", "JAX loop") if other in sides]
    if case.recurrent_ppo:
        pairs += [("GRU", "metarl", "RecurrentPPO"), ("LSTM", "metarl, LSTM", "RecurrentPPO")]
    rows = [
        compare("c", f"RL2, {unit} {size}", other, raw[ours]["rate"], raw.get(other, {}).get("rate", []))
        for unit, ours, other in pairs
    ]
    reached = {}
    for name in [name for name in sides if name not in ("peak", "RecurrentPPO")]:
        count = flops_per_step("lstm" if "LSTM" in name else "gru", case.hidden, k, cfg.epochs)
        rate = statistics.median(raw[name]["rate"])
        reached[name] = {"rate": rate, "flops_per_step": count, "share_of_peak": count * rate / flops}
    parameters = sum(p.numel() for p in agent.net.parameters())
    return rows, {**asdict(case), "parameters": parameters, "peak_flops": flops, "sides": reached}
