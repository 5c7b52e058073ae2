"""PEARL's gradient step without metarl: numpy buffers, a module for each network, one optimiser after the other.

The style of the authors' code (Rakelly et al. 2019, arXiv:1903.08254, github.com/katerakelly/oyster). The networks and
the equations are those of metarl's `pearl`: twin critics with twin targets, and no separate value network.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from baselines.measure import Side, compare, interleave, timed
from baselines.navigation_loop import network
from metarl import make_agent
from metarl.agents.inference.pearl import PEARL
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials

Array = npt.NDArray[Any]
NAMES = ("obs", "action", "reward", "next_obs", "terminated")
PRODUCTS = {"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"}


def modules(params: Mapping[str, Tensor]) -> list[nn.Sequential]:
    """Networks with ReLU from weights `w{i}` `[in, out]`, or `[2, in, out]` for two networks."""
    if params["w0"].dim() == 2:
        return [network(dict(params), "relu")]
    return [network({k: v[i] for k, v in params.items()}, "relu") for i in range(2)]


class Loop:
    """The networks and the buffers of an agent that has trained before, and their gradient step.

    Args:
        agent: whose networks, settings and transitions are copied.
    """

    def __init__(self, agent: PEARL) -> None:
        self.config, learner, sac = agent.config, agent.learner, agent.learner.sac
        self.actor, self.encoder = modules(dict(sac.actor.items()))[0], modules(dict(agent.encoder.layers.items()))[0]
        self.critics = modules(dict(sac.critics.layers.items()))
        self.targets = modules(dict(sac.targets.layers.items()))
        self.buffers = self._copied(learner.replay.data), self._copied(learner.context.data)
        self.filled = learner.replay.added.numpy(), learner.context.added.numpy()
        self.tasks = learner.replay.size
        parts = [self.actor, *self.critics, self.encoder]
        self.optimizers = [torch.optim.Adam(part.parameters(), lr=self.config.learning_rate) for part in parts]
        self.temperature, self.numbers = self.config.temperature, np.random.default_rng(0)

    @staticmethod
    def _copied(data: Mapping[str, Tensor]) -> dict[str, Array]:
        return {name: data[name].numpy().copy() for name in NAMES}

    def batch(self, which: int, tasks: Array, count: int) -> dict[str, Tensor]:
        """Transitions of some tasks, `[tasks, count, ...]`, from the replay (0) or the context's buffer (1)."""
        buffer, filled, drawn = self.buffers[which], self.filled[which], []
        for task in tasks:
            rows = self.numbers.integers(min(int(filled[task]), buffer["reward"].shape[1]), size=count)
            drawn.append({name: torch.from_numpy(values[task][rows]) for name, values in buffer.items()})
        return {name: torch.stack([one[name] for one in drawn]) for name in NAMES}

    def policy(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions in (-1, 1) and their log-densities."""
        mean, log_std = self.actor(x).chunk(2, -1)
        normal = Normal(mean, log_std.clamp(-20.0, 2.0).exp())
        u = normal.mean + noise * normal.stddev
        slope = 2.0 * (math.log(2.0) - u - nn.functional.softplus(-2.0 * u))
        return u.tanh(), (normal.log_prob(u) - slope).sum(-1)

    def losses(
        self, batch: Mapping[str, Tensor], context: Mapping[str, Tensor], z_noise: Tensor, noise: Tensor
    ) -> Tensor:
        """The critics' loss with the KL, for transitions `[tasks, N, ...]`, noise of z and of the next actions."""
        cfg = self.config
        inputs = torch.cat([context["obs"], context["action"], context["reward"].unsqueeze(-1)], -1)
        mean, raw = self.encoder(inputs).chunk(2, -1)
        variance = nn.functional.softplus(raw).clamp_min(1e-7)
        product = 1.0 / variance.reciprocal().sum(1)
        belief = Normal(product * (mean / variance).sum(1), product.sqrt())
        prior = Normal(torch.zeros_like(belief.mean), torch.ones_like(belief.mean))
        kl = torch.distributions.kl_divergence(belief, prior).sum(-1).mean()
        z = belief.mean + z_noise * belief.stddev
        z = torch.cat([one.repeat(cfg.batch_size, 1) for one in z])
        self.x = torch.cat([batch["obs"].flatten(0, 1), z], -1)
        next_x = torch.cat([batch["next_obs"].flatten(0, 1), z], -1).detach()
        action, reward, terminated = (batch[name].flatten(0, 1) for name in ("action", "reward", "terminated"))
        with torch.no_grad():
            next_action, log_prob = self.policy(next_x, noise)
            given = torch.cat([next_x, next_action], -1)
            next_value = torch.min(self.targets[0](given), self.targets[1](given))[:, 0] - self.temperature * log_prob
            target = reward + cfg.discount * (~terminated).float() * next_value
        given = torch.cat([self.x, action], -1)
        errors = [(critic(given)[:, 0] - target).square().mean() for critic in self.critics]
        return errors[0] + errors[1] + cfg.kl_coef * kl

    def step(self) -> None:
        """One gradient step: the critics and the encoder, the policy, the targets."""
        cfg = self.config
        tasks = self.numbers.choice(self.tasks, cfg.tasks_per_update, replace=False)
        batch, context = self.batch(0, tasks, cfg.batch_size), self.batch(1, tasks, cfg.context_size)
        rows, size = cfg.tasks_per_update * cfg.batch_size, batch["action"].shape[-1]
        loss = self.losses(batch, context, torch.randn(len(tasks), cfg.latent), torch.randn(rows, size))
        for optimizer in self.optimizers[1:]:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self.optimizers[1:]:
            optimizer.step()
        x = self.x.detach()
        action, log_prob = self.policy(x, torch.randn(rows, size))
        given = torch.cat([x, action], -1)
        value = torch.min(self.critics[0](given), self.critics[1](given))[:, 0]
        self.optimizers[0].zero_grad()
        (self.temperature * log_prob - value).mean().backward()
        self.optimizers[0].step()
        for target, source in zip(self.targets, self.critics, strict=True):
            for old, new in zip(target.parameters(), source.parameters(), strict=True):
                old.data.copy_(old.data * (1.0 - cfg.target_rate) + new.data * cfg.target_rate)


def share_of_products(work: Callable[[], Any]) -> tuple[float, dict[str, float]]:
    """Share of the processor's time that matrix products take, and those of the six next operations by name."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        work()
    times = {event.key: float(event.self_cpu_time_total) for event in profile.key_averages()}
    total = sum(times.values())
    products = sum(time for name, time in times.items() if name in PRODUCTS)
    rest = sorted(((time / total, name) for name, time in times.items() if name not in PRODUCTS), reverse=True)
    return products / total, {name: share for share, name in rest[:6]}


def measure_case(family: str, settings: Mapping[str, Any], repeats: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of the table: gradient steps per second; and what they spend their time on."""
    agent = make_agent("pearl", family, **settings)
    assert isinstance(agent, PEARL)
    pool, iterations = EnvironmentPool(agent.family, agent.device), itertools.count()
    count, updates = agent.config.meta_batch_size, agent.config.updates

    def train() -> tuple[float, float]:
        i = next(iterations)
        trials = PoolTrials(pool, agent.family.tasks("train", count, start=i * count), iteration=i)
        seconds, _ = timed("cpu", lambda: agent.train_step(trials))
        return seconds, trials.seconds

    while agent.learner.replay.opened < agent.config.tasks_per_update:
        train()
    loop = Loop(agent)

    def metarl(repeat: int) -> dict[str, float]:
        total, sampling = train()
        return {"rate": updates / (total - sampling)}

    def steps() -> None:
        for _ in range(updates):
            loop.step()

    def plain(repeat: int) -> dict[str, float]:
        return {"rate": updates / timed("cpu", steps)[0]}

    sides: dict[str, Side] = {"metarl": metarl, "loop": plain}
    raw = interleave(sides, repeats)
    shares = {"metarl": share_of_products(train), "loop": share_of_products(steps)}
    details = {name: {"products": products, "others": others} for name, (products, others) in shares.items()}
    rates = raw["metarl"]["rate"], raw["loop"]["rate"]
    return [compare("i", f"PEARL, {family.split('/')[1]}", "plain loop", *rates)], details
