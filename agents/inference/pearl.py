"""PEARL: z is drawn from a belief about the task and kept for an episode, and an off-policy actor-critic is given it.

Rakelly et al. (2019, arXiv:1903.08254), algorithms 1 and 2. The belief is a product of Gaussian factors, one for each
transition seen in the task. An episode is played with z drawn from the belief before it, at first from the standard
normal distribution: posterior sampling over tasks. The encoder is trained by the critics' loss and the KL to the
standard normal distribution; no gradient of the policy or of the targets flows into it.

The authors' code plays the same 100 or so train tasks again and again. Families here have any number of tasks: each
meta-update plays new ones, and training draws from the transitions of the last `replay_tasks`. With 100 of them and 5
new ones per meta-update, a context is at most 20 meta-updates old; in the authors' code 20 is the mean. The
deterministic mode is given the belief's mean as z.

    metarl train pearl --family metarl/PointNavigation-v0:semicircle --discount .9 --temperature .01 --kl-coef .0016
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor

from metarl.agent import (
    SAC,
    Agent,
    AgentState,
    Belief,
    Budget,
    Factors,
    Family,
    InvalidValueError,
    ObservationEncoder,
    PolicyHead,
    ProductEncoder,
    Range,
    Rng,
    Rollout,
    SACBatch,
    SACConfig,
    Step,
    Tasks,
    TransitionReplay,
    Trials,
    fold_in,
    make_key,
)

_Z = make_key("pearl", "z")
_STEPS = 400  # of a task, with z from the prior and again from the posterior, as in the authors' code


@dataclass(frozen=True)
class PEARLConfig(SACConfig):
    """Hyperparameters of the belief, of the replay and of soft actor-critic; the authors' but where they say otherwise.

    The authors scale rewards by 5 (sparse point robot: 100) and have a temperature of 1; here rewards are as they are.
    """

    policy_hidden: tuple[Annotated[int, Range(1, 1e9)], ...] = (300, 300, 300)
    """Widths of the hidden layers of the policy and of the critics."""
    latent: Annotated[int, Range(1, 1024)] = 5
    """Size of z."""
    encoder_hidden: tuple[Annotated[int, Range(1, 1e9)], ...] = (200, 200, 200)
    """Widths of the hidden layers of the encoder."""
    kl_coef: Annotated[float, Range(0, 1e3)] = 0.064
    """Weight of the mean KL of a belief to the standard normal distribution (the authors' .1 times the sum over 16
    tasks, with squared errors 25 times as large)."""
    next_obs_in_context: bool = False
    """The encoder sees the observation after a step too, for families whose tasks differ in their dynamics."""
    posterior_context: bool = False
    """The context is also drawn from episodes that were played with z from the posterior (the authors' sparse point
    robot)."""
    meta_batch_size: Annotated[int, Range(1, 1e7)] = 5
    """New train tasks of a meta-update."""
    prior_episodes: Annotated[int, Range(0, 1e6)] = 0
    """Episodes in each of them, every one with its own z from the prior. 0: as many as 400 steps have."""
    posterior_episodes: Annotated[int, Range(0, 1e6)] = 0
    """Episodes in each of them after these, with z from the posterior. 0: as many as 400 steps have."""
    replay_tasks: Annotated[int, Range(1, 1e9)] = 100
    """Latest train tasks whose transitions are kept."""
    updates: Annotated[int, Range(0, 1e6)] = 200
    """Gradient steps per meta-update (the authors: 2000)."""
    tasks_per_update: Annotated[int, Range(1, 1e6)] = 16
    """Tasks in a gradient step."""
    batch_size: Annotated[int, Range(1, 1e6)] = 256
    """Transitions of each of them for soft actor-critic."""
    context_size: Annotated[int, Range(1, 1e6)] = 64
    """Transitions of each of them for its belief."""


class PEARL(Agent[PEARLConfig]):
    """Posterior sampling over tasks: z is drawn from a belief for each episode, and soft actor-critic is given it."""

    name = "pearl"
    Config = PEARLConfig

    def __init__(self, family: Family, config: PEARLConfig, seed: int = 0, device: torch.device | str = "cpu") -> None:
        episodes = -(-_STEPS // family.horizon)
        config = replace(
            config,
            prior_episodes=config.prior_episodes or episodes,
            posterior_episodes=config.posterior_episodes or episodes,
        )
        super().__init__(family, config, seed, device)
        played = config.prior_episodes + config.posterior_episodes
        stored = (played if config.posterior_context else config.prior_episodes) * family.horizon
        if config.context_size > stored:
            expected = f"at most {stored}, the steps of a task's episodes that the context is drawn from"
            raise InvalidValueError("pearl.context_size", config.context_size, expected)
        if config.replay_tasks < config.meta_batch_size:
            expected = f"at least meta_batch_size, which is {config.meta_batch_size}"
            raise InvalidValueError("pearl.replay_tasks", config.replay_tasks, expected)
        self.head = PolicyHead(family.action_space, self.name)
        self.encode = ObservationEncoder(family.observation_space, self.name)
        rng, obs = Rng(torch.tensor([make_key("pearl", "init", seed)])), self.encode.size
        inputs = obs * (1 + config.next_obs_in_context) + self.head.features + 1
        self.encoder = ProductEncoder(inputs, config.encoder_hidden, config.latent, rng).to(self.device)
        self.sac = SAC(self.name, self.head, obs + config.latent, config, rng, self.device, further=self.encoder)
        example = {
            "obs": torch.zeros(1, obs),
            "action": torch.zeros(1, *self.head.action_shape, dtype=torch.int64 if self.head.discrete else None),
            "reward": torch.zeros(1),
            "next_obs": torch.zeros(1, obs),
            "terminated": torch.zeros(1, dtype=torch.bool),
        }
        self.replay, self.context = (
            TransitionReplay("pearl.replay_tasks", config.replay_tasks, capacity, example, self.device)
            for capacity in (played * family.horizon, stored)
        )
        self._kept: dict[str, SAC | TransitionReplay]
        self._kept = {"sac": self.sac, "replay": self.replay, "context": self.context}

    # --- acting and adapting -----------------------------------------------------------------------------------------

    def begin(self, rows: int, tasks: Tasks | None = None) -> AgentState:
        """No factors: the belief is the prior."""
        none = torch.zeros(rows, self.config.latent, device=self.device)
        return Factors(none, none.clone())._asdict()

    def act(
        self, state: AgentState, step: Step, rng: Rng, deterministic: bool
    ) -> tuple[Tensor, dict[str, Tensor], AgentState]:
        """An action on the observation and z, which is drawn from the belief once for each environment of a rollout."""
        belief = Factors(**state).belief
        rows, envs = step.obs.shape[:2]
        mean, log_var = (v.unsqueeze(1).expand(-1, envs, -1) for v in belief)
        # the environment's key alone decides the draw, so z stays the same at all steps
        noise = Rng(fold_in(rng.keys, _Z)).normal(self.config.latent).view(rows, envs, -1)
        z = mean if deterministic else Belief(mean, log_var).sample(noise)
        policy = self.sac.policy(torch.cat([self.encode(step.obs), z], -1))
        return policy.mode if deterministic else policy.sample(rng), {}, state

    def interact(self, state: AgentState, trials: Trials, adaptation_step: int) -> tuple[Rollout, AgentState]:
        """Play an episode with z from the belief, then adapt."""
        rollout, state = trials.collect(self, state, adaptation_step, self.budget, final_obs=True)
        return rollout, self.adapt(state, rollout)

    @torch.no_grad()
    def adapt(self, state: AgentState, rollout: Rollout) -> AgentState:
        """The belief times the factors of all transitions of the rollout."""
        seen = self.encoder(self._context_features(self._transitions(rollout)), rollout.by_row(rollout.valid))
        return Factors(**state).times(seen)._asdict()

    def _transitions(self, rollout: Rollout) -> dict[str, Tensor]:
        """A rollout's transitions by name, `[R, T * E, ...]`."""
        after = rollout.extras.get("final_obs")
        if after is None:  # a single episode, after whose end nothing was restarted
            after = torch.cat([rollout.obs[1:], rollout.last_obs.unsqueeze(0)])
        parts = {
            "obs": self.encode(rollout.obs),
            "action": rollout.action,
            "reward": rollout.reward,
            "next_obs": self.encode(after),
            "terminated": rollout.terminated,
        }
        return {name: rollout.by_row(values) for name, values in parts.items()}

    def _context_features(self, transitions: Mapping[str, Tensor]) -> Tensor:
        """What the encoder is given of transitions `[B, N, ...]`: `[B, N, inputs]`."""
        parts = [transitions["obs"], self.head.encode(transitions["action"]), transitions["reward"].unsqueeze(-1)]
        return torch.cat(parts + [transitions["next_obs"]] * self.config.next_obs_in_context, -1)

    # --- training ----------------------------------------------------------------------------------------------------

    @property
    def train_env_steps(self) -> int:
        """Whole episodes."""
        config = self.config
        return config.meta_batch_size * (config.prior_episodes + config.posterior_episodes) * self.family.horizon

    def train_step(self, trials: Trials) -> dict[str, float]:
        """Algorithm 1: play new tasks with z from the prior and from the posterior, then train on those that are kept.

        The returns are those of both kinds of episodes.
        """
        config = self.config
        places, returns = self.replay.open(trials.rows), []
        self.context.open(trials.rows)  # its places are the same
        state = self.begin(trials.rows)
        for number, episodes in enumerate((config.prior_episodes, config.posterior_episodes)):
            if number == 1:
                state = {k: v.detach() for k, v in self._infer(places, trials.key)._asdict().items()}
            rollout, _ = trials.collect(self, state, number, Budget(envs=episodes, episodes=1), final_obs=True)
            kept, valid = self._transitions(rollout), rollout.by_row(rollout.valid)
            self.replay.add(places, kept, valid)
            if number == 0 or config.posterior_context:
                self.context.add(places, kept, valid)
            returns.append(float(rollout.mean_return().mean()))
        metrics: dict[str, Tensor] = {}
        for update in range(config.updates):
            metrics = self._update(trials.key, update)
        return {"return_0": returns[0], "return_1": returns[1]} | {k: float(v) for k, v in metrics.items()}

    def _infer(self, places: Tensor, *key: int | str) -> Factors:
        """The belief about tasks from some of their context."""
        context = self.context.sample(places, self.config.context_size, *key, "context")
        factors: Factors = self.encoder(self._context_features(context))
        return factors

    def _update(self, key: int, number: int) -> dict[str, Tensor]:
        """A gradient step on a batch of tasks, each with one z for all of its transitions."""
        config = self.config
        key = make_key(key, "update", number)
        places = self.replay.sample_tasks(config.tasks_per_update, key)
        belief = self._infer(places, key).belief
        noise = Rng(fold_in(make_key(key, "z"), torch.arange(len(places), device=self.device))).normal(config.latent)
        z = belief.sample(noise).unsqueeze(1).expand(-1, config.batch_size, -1)
        batch = self.replay.sample(places, config.batch_size, key)
        x, next_x = (torch.cat([batch[name], z], -1).flatten(0, 1) for name in ("obs", "next_obs"))
        action, reward, terminated = (batch[name].flatten(0, 1) for name in ("action", "reward", "terminated"))
        prior = Belief(torch.zeros_like(belief.mean), torch.zeros_like(belief.mean))
        kl = belief.kl(prior).mean()
        given = SACBatch(x, action, reward, next_x.detach(), terminated)
        return self.sac.update(given, key, config.kl_coef * kl) | {"belief_kl": kl.detach()}

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """The networks, what trains them, and the transitions."""
        return {f"{name}.{k}": v for name, part in self._kept.items() for k, v in part.tensors().items()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        for name, part in self._kept.items():
            start = f"{name}."
            part.load_tensors({k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)})
