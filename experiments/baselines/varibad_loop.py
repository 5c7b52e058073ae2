"""VariBAD without metarl: 16 environments in a vector environment, PyTorch's modules, all pairs of z and steps.

The style of the authors' code (Zintgraf et al. 2020, arXiv:1910.08348, github.com/lmzintgraf/varibad). The networks
and the equations are those of metarl's `varibad`. `schedule` says how much is played and trained per meta-update.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, Normal

from baselines import bandit_loop
from baselines.measure import Side, compare, interleave, timed
from baselines.navigation_loop import network
from metarl import make_agent
from metarl.agents.inference.varibad import VariBAD, VariBADConfig

Array = npt.NDArray[Any]
ENVS = 16  # of the vector environment, as in the authors' code
MOVES = np.array([(0, 1), (1, 0), (0, -1), (-1, 0), (0, 0)])


@dataclass(frozen=True)
class Case:
    """A family, and what both sides train on it."""

    family: str
    env: Callable[[int], gym.Env[Any, Any]]
    """Makes an environment whose episodes are trials of so many episodes."""
    settings: Mapping[str, Any]
    """Of `varibad`."""
    published: Mapping[str, Any]
    """What differs in a meta-update of the authors' code: trials, epochs, minibatches, gradient steps of the model."""


class TrialEnv(gym.Env[Array, Any]):
    """Trials of several episodes in a task that is drawn at the trial's start.

    Observation: the observation of the step to come `[d]`, that after the last step, before any restart `[d]`, and
    whether an episode just ended `[1]`.
    """

    size: int
    horizon: int

    def __init__(self, episodes: int) -> None:
        self.episodes = episodes
        self.observation_space = Box(-np.inf, np.inf, (2 * self.size + 1,), np.float32)

    def draw_task(self) -> None:
        """Draw the trial's task."""
        raise NotImplementedError

    def restart(self) -> Array:
        """Begin an episode: the first observation `[d]`."""
        raise NotImplementedError

    def move(self, action: Any) -> tuple[Array, float]:
        """One step: the observation `[d]` and the reward."""
        raise NotImplementedError

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Begin a trial."""
        super().reset(seed=seed)
        self.draw_task()
        self.t, obs = 0, self.restart()
        return np.concatenate([obs, obs, [1.0]]).astype(np.float32), {}

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """One step; an episode's end restarts it in the same task."""
        after, reward = self.move(action)
        self.t += 1
        ended = self.t % self.horizon == 0
        obs = self.restart() if ended else after
        packed = np.concatenate([obs, after, [float(ended)]]).astype(np.float32)
        return packed, reward, False, self.t >= self.episodes * self.horizon, {}


class GridNavi(TrialEnv):
    """`metarl/GridNavi-v0` in numpy."""

    size, horizon = 2, 15
    action_space = Discrete(5)

    def draw_task(self) -> None:
        """One of 21 cells."""
        goals = [(x, y) for x in range(5) for y in range(5) if max(x, y) > 1]
        self.goal = goals[self.np_random.integers(len(goals))]

    def restart(self) -> Array:
        """The cell (0, 0)."""
        self.cell = np.zeros(2, dtype=np.int64)
        return self.cell

    def move(self, action: Any) -> tuple[Array, float]:
        """To a neighbouring cell."""
        self.cell = np.clip(self.cell + MOVES[action], 0, 4)
        return self.cell, 1.0 if tuple(self.cell) == self.goal else -0.1


class HalfCheetahVel(TrialEnv):
    """`metarl/HalfCheetahVel-v0` by Gymnasium's HalfCheetah."""

    size, horizon = 17, 200

    def __init__(self, episodes: int) -> None:
        super().__init__(episodes)
        self.robot: Any = gym.make("HalfCheetah-v5", max_episode_steps=-1).unwrapped
        self.action_space = self.robot.action_space

    def draw_task(self) -> None:
        """A velocity."""
        self.velocity = self.np_random.uniform(0.0, 3.0)

    def restart(self) -> Array:
        """The robot near its rest."""
        obs: Array = self.robot.reset()[0]
        return obs

    def move(self, action: Any) -> tuple[Array, float]:
        """Minus the distance from the velocity, minus the control cost."""
        obs, _, _, _, info = self.robot.step(action)
        return obs, -abs(info["x_velocity"] - self.velocity) - 0.05 * float(np.square(action).sum())


class Networks(nn.Module):
    """Copies of an agent's networks, as modules."""

    def __init__(self, agent: VariBAD) -> None:
        super().__init__()
        encoder, rnn = agent.model.encoder, agent.model.encoder.memory.rnn
        self.gru = nn.GRU(rnn.input_size, rnn.hidden_size)
        self.gru.load_state_dict(rnn.state_dict())
        self.mean, self.log_var = (nn.Linear(rnn.hidden_size, agent.config.latent) for _ in range(2))
        self.mean.load_state_dict(encoder.mean.state_dict())
        self.log_var.load_state_dict(encoder.log_var.state_dict())
        self.policy = network(dict(agent.net.policy.items()), "tanh")
        self.value = network(dict(agent.net.value.items()), "tanh")
        self.decoder = network(dict(agent.model["reward"].layers.items()), "relu")  # type: ignore[operator,union-attr]
        discrete = agent.net.log_std is None
        self.log_std = None if discrete else nn.Parameter(agent.net.log_std.detach().clone())  # type: ignore[union-attr]

    def belief(self, x: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and log-variance of z at steps `[T, B, inputs]`, and the memory."""
        out, h = self.gru(x, h)
        return self.mean(out), self.log_var(out), h

    def act(self, given: Tensor) -> Distribution:
        """The policy at features `[..., features]`."""
        out = self.policy(given)
        if self.log_std is None:
            return Categorical(logits=out, validate_args=False)
        return Independent(Normal(out, self.log_std.exp(), validate_args=False), 1, validate_args=False)

    def unroll(self, x: Tensor) -> tuple[Distribution, Tensor]:
        """The policy and the value of features and the time `[T, B, features + 1]`, for the PPO of `bandit_loop`."""
        return self.act(x[..., :-1]), self.value(x).squeeze(-1)


@torch.no_grad()
def play(envs: SyncVectorEnv, nets: Networks, steps: int) -> dict[str, Tensor]:
    """One trial in each environment, tensors `[T, B, ...]`.

    `x` is what the encoder was given, `given` what the policy was, `step` what the decoder sees.
    """
    discrete, (packed, _) = isinstance(envs.single_action_space, Discrete), envs.reset()
    size = (packed.shape[1] - 1) // 2
    actions = envs.single_action_space.n if discrete else envs.single_action_space.shape[0]  # type: ignore[attr-defined,index]
    last, h, seen = torch.zeros(len(packed), actions + 2), None, []
    last[:, -1] = 1.0
    for _ in range(steps):
        obs = torch.from_numpy(packed[:, :size])
        x = torch.cat([obs, last], 1)
        mean, log_var, h = nets.belief(x[None], h)
        given = torch.cat([obs, mean[0], log_var[0]], 1)
        policy = nets.act(given)
        action = policy.sample()
        chosen = action.numpy() if discrete else action.clamp(-1.0, 1.0).numpy()
        packed, reward, _, _, _ = envs.step(chosen)
        wide = nn.functional.one_hot(action, actions).float() if discrete else action
        reward = torch.from_numpy(reward).float()
        step = torch.cat([obs, wide, torch.from_numpy(packed[:, size:-1])], 1)
        seen.append((x, given, action, policy.log_prob(action), step, reward))
        last = torch.cat([wide, reward[:, None], torch.from_numpy(packed[:, -1:])], 1)
    names = ("x", "given", "action", "log_prob", "step", "reward")
    return {name: torch.stack(v) for name, v in zip(names, zip(*seen, strict=True), strict=True)}


def model_loss(
    nets: Networks,
    trials: Mapping[str, Tensor],
    terms: Tensor,
    noise: Tensor,
    kl_coef: float,
    decoded: Tensor | None = None,
) -> Tensor:
    """The negative lower bound at the steps `terms`, each over all steps of the trials (the paper's equation 8).

    Args:
        nets: the networks.
        trials: `x`, `step` and `reward`, `[T, B, ...]`.
        terms: `int64 [S]`.
        noise: standard normal, `[S, B, latent]`.
        kl_coef: weight of the KL to the belief before.
        decoded: the steps that are decoded and stand for all, `int64 [D]`; by default all.
    """
    decoded = torch.arange(len(trials["step"])) if decoded is None else decoded
    mean, log_var, _ = nets.belief(trials["x"], None)
    start = Normal(torch.zeros_like(mean[:1]), 1.0)
    prior_mean = torch.cat([start.mean, mean[:-1]])
    prior_std = torch.cat([start.stddev, (0.5 * log_var[:-1]).exp()])
    at = Normal(mean[terms], (0.5 * log_var[terms]).exp())
    kl = torch.distributions.kl_divergence(at, Normal(prior_mean[terms], prior_std[terms])).sum(-1).mean()
    z = at.mean + noise * at.stddev
    step = trials["step"][decoded]
    pairs = torch.cat(
        [
            z.unsqueeze(1).expand(-1, len(step), -1, -1),
            step.unsqueeze(0).expand(len(terms), -1, -1, -1),
        ],
        -1,
    )
    error = (nets.decoder(pairs).squeeze(-1) - trials["reward"][decoded]).square().mean()
    return len(trials["step"]) * error + kl_coef * kl


class Loop:
    """The training loop.

    Args:
        agent: whose networks and settings it has.
        env: makes an environment whose episodes are trials.
    """

    def __init__(self, agent: VariBAD, env: Callable[[int], gym.Env[Any, Any]]) -> None:
        self.config: VariBADConfig = agent.config
        self.nets, self.steps = Networks(agent), agent.config.trial_episodes * agent.family.horizon
        makers = [lambda: env(self.config.trial_episodes)] * ENVS
        self.envs = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED)
        model = [self.nets.gru, self.nets.mean, self.nets.log_var, self.nets.decoder]
        parameters = itertools.chain.from_iterable(part.parameters() for part in model)
        self.model_optimizer = torch.optim.Adam(parameters, lr=self.config.model_learning_rate)
        acting = [*self.nets.policy.parameters(), *self.nets.value.parameters()]
        acting += [] if self.nets.log_std is None else [self.nets.log_std]
        self.optimizer = torch.optim.Adam(acting, lr=self.config.learning_rate, eps=1e-5)
        self.replay: dict[str, Tensor] = {}

    def meta_update(self, schedule: Mapping[str, Any]) -> int:
        """Play, then PPO, then the model: the number of environment steps."""
        cfg = replace(self.config, **schedule)
        rounds = [play(self.envs, self.nets, self.steps) for _ in range(-(-cfg.meta_batch_size // ENVS))]
        data = {name: torch.cat([trial[name] for trial in rounds], 1) for name in rounds[0]}
        time = torch.linspace(0.0, 1.0, self.steps).view(-1, 1, 1).expand(-1, data["given"].shape[1], 1)
        given = torch.cat([data["given"], time], -1)
        with torch.no_grad():
            value = self.nets.value(given).squeeze(-1)
        batch = {"x": given, "value": value, **{k: data[k] for k in ("action", "log_prob", "reward")}}
        bandit_loop.update(self.nets, self.optimizer, batch, cfg)
        for name in ("x", "step", "reward"):
            kept = [self.replay[name], data[name]] if self.replay else [data[name]]
            data[name] = torch.cat(kept, 1)[:, -cfg.replay_trials :]
        self.replay = {name: data[name] for name in ("x", "step", "reward")}
        for _ in range(cfg.model_updates):
            which = torch.randint(self.replay["reward"].shape[1], (cfg.model_batch_size,))
            terms = torch.randperm(self.steps)[: cfg.elbo_terms]
            noise = torch.randn(len(terms), len(which), cfg.latent)
            decoded = torch.randperm(self.steps)[: cfg.decoded_steps or self.steps]
            trials = {k: v[:, which] for k, v in self.replay.items()}
            loss = model_loss(self.nets, trials, terms, noise, cfg.kl_coef, decoded)
            self.model_optimizer.zero_grad()
            loss.backward()
            self.model_optimizer.step()
        return self.steps * len(rounds) * ENVS


def measure_case(case: Case, repeats: int, seconds: float) -> list[dict[str, Any]]:
    """Rows of the table: environment steps per second of metarl, of the same update and of the authors' schedule.

    Each repeat of a side takes as many meta-updates as fill about so many seconds.
    """
    agent = make_agent("varibad", case.family, **case.settings)
    assert isinstance(agent, VariBAD)
    steps, ours, loop = agent.train_env_steps, bandit_loop.metarl_side(agent), Loop(agent, case.env)

    def rated(work: Callable[[], int]) -> Side:
        def side(repeat: int) -> dict[str, float]:
            done = took = 0.0
            while not took or took < (seconds if repeat else 0.0):
                spent, count = timed("cpu", work)
                done, took = done + count, took + spent
            return {"rate": done / took}

        return side

    def metarl() -> int:
        ours()
        return steps

    sides = {
        "metarl": rated(metarl),
        "same update": rated(lambda: loop.meta_update({})),
        "published schedule": rated(lambda: loop.meta_update(case.published)),
    }
    raw = interleave(sides, repeats)
    loop.envs.close()
    what = f"VariBAD, {case.family.split('/')[1]}"
    return [
        compare("h", what, f"plain loop, {name}", raw["metarl"]["rate"], raw[name]["rate"])
        for name in ("same update", "published schedule")
    ]
