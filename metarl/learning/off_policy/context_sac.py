"""Soft actor-critic that is also given a vector z, which an agent infers from transitions of the task, the context.

What agents such as PEARL (Rakelly et al. 2019, arXiv:1903.08254, algorithm 1) share: how new tasks are played, which
transitions are kept, and how soft actor-critic is trained on them. How z is inferred and trained is the agent's own:

    self.inputs = ContextInputs(family, self.name, config.next_obs_in_context)
    self.encoder = ...  # its inputs are self.inputs.size features of a transition
    self.learner = ContextSAC(self.name, family, self.inputs, config, rng, self.device, self.encoder)
    metrics = self.learner.train_step(self, trials, infer, self.update)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Self

import torch
from torch import Tensor, nn

from metarl.agent_base import Agent, AgentState, Budget, Rollout, Trials
from metarl.config import Range
from metarl.errors import InvalidValueError
from metarl.families.family import Family
from metarl.learning.action_distributions import Categorical, PolicyHead
from metarl.learning.encoders import ObservationEncoder
from metarl.learning.off_policy.sac import SAC, SACBatch, SACConfig, SquashedGaussian
from metarl.learning.off_policy.transitions import TransitionReplay
from metarl.rng import Rng, make_key

_STEPS = 400  # of a task, with z from the prior and again from the posterior, as in PEARL's code


@dataclass(frozen=True)
class ContextConfig(SACConfig):
    """Hyperparameters of the context, the replay and soft actor-critic; those of PEARL's code but where they say so.

    PEARL's code scales rewards by 5 (sparse point robot: 100) and has a temperature of 1; here rewards are as they are.
    """

    policy_hidden: tuple[Annotated[int, Range(1, 1e9)], ...] = (300, 300, 300)
    """Widths of the hidden layers of the policy and of the critics."""
    latent: Annotated[int, Range(1, 1024)] = 5
    """Size of z."""
    encoder_hidden: tuple[Annotated[int, Range(1, 1e9)], ...] = (200, 200, 200)
    """Widths of the hidden layers of the encoder."""
    next_obs_in_context: bool = False
    """The encoder sees the observation after a step too, for families whose tasks differ in their dynamics."""
    posterior_context: bool = False
    """The context is also drawn from episodes that were played with z from the posterior (PEARL's sparse point
    robot)."""
    meta_batch_size: Annotated[int, Range(1, 1e7)] = 5
    """New train tasks of a meta-update."""
    prior_episodes: Annotated[int, Range(0, 1e6)] = 0
    """Episodes in each of them, before the context is known. 0: as many as 400 steps have."""
    posterior_episodes: Annotated[int, Range(0, 1e6)] = 0
    """Episodes in each of them after these, with z from the context. 0: as many as 400 steps have."""
    replay_tasks: Annotated[int, Range(1, 1e9)] = 100
    """Latest train tasks whose transitions are kept."""
    updates: Annotated[int, Range(0, 1e6)] = 200
    """Gradient steps per meta-update (PEARL: 2000)."""
    tasks_per_update: Annotated[int, Range(1, 1e6)] = 16
    """Tasks in a gradient step."""
    batch_size: Annotated[int, Range(1, 1e6)] = 256
    """Transitions of each of them for soft actor-critic."""
    context_size: Annotated[int, Range(1, 1e6)] = 64
    """Transitions of each of them for its context."""
    dense_reward: bool = False
    """Soft actor-critic is trained on the dense reward that the family reports beside a sparse one. The context has
    the sparse one (PEARL's sparse point robot)."""

    def for_horizon(self, horizon: int) -> Self:
        """A number of episodes of 0 is replaced by as many as 400 steps have."""
        episodes = -(-_STEPS // horizon)
        return replace(
            self,
            prior_episodes=self.prior_episodes or episodes,
            posterior_episodes=self.posterior_episodes or episodes,
        )


class ContextInputs:
    """What is kept of transitions, and what an encoder is given of them.

    Args:
        family: that is played.
        name: of the agent, for error messages.
        next_obs: whether the encoder sees the observation after a step.

    Attributes:
        encode: makes features of observations.
        head: makes action distributions.
        size: features of a transition.
    """

    def __init__(self, family: Family, name: str, next_obs: bool) -> None:
        self.head = PolicyHead(family.action_space, name)
        self.encode = ObservationEncoder(family.observation_space, name)
        self.next_obs = next_obs
        self.size = self.encode.size * (1 + next_obs) + self.head.features + 1

    def example(self) -> dict[str, Tensor]:
        """A transition `[1, ...]`, by name."""
        obs = torch.zeros(1, self.encode.size)
        return {
            "obs": obs,
            "action": torch.zeros(1, *self.head.action_shape, dtype=torch.int64 if self.head.discrete else None),
            "reward": torch.zeros(1),
            "next_obs": obs,
            "terminated": torch.zeros(1, dtype=torch.bool),
        }

    def transitions(self, rollout: Rollout) -> dict[str, Tensor]:
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

    def features(self, transitions: Mapping[str, Tensor]) -> Tensor:
        """What an encoder is given of transitions `[B, N, ...]`: `[B, N, size]`.

        An image before the step is first, as it is; one after the step has values from 0 to 1.
        """
        parts = [transitions["obs"], self.head.encode(transitions["action"]), transitions["reward"].unsqueeze(-1)]
        largest = 1.0 if self.encode.image is None else self.encode.image.largest
        return torch.cat(parts + [transitions["next_obs"] / largest] * self.next_obs, -1)

    def of(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """What an encoder is given of a rollout, `[R, T * E, size]`, and which of its transitions count, `bool`."""
        return self.features(self.transitions(rollout)), rollout.by_row(rollout.valid)


@torch.no_grad()
def context_features(
    start: AgentState,
    rollouts: Sequence[Rollout],
    each: Callable[[Rollout], AgentState],
    features: Callable[[AgentState], Tensor],
) -> Tensor:
    """What the transitions before each step of trials tell an agent whose state is a sum over them: `[T, R, F]`.

    Args:
        start: the agent's state at the trials' start.
        rollouts: the trials, with one environment in each row.
        each: the summands of a rollout's transitions, by the state's names, `[R, T, ...]`.
        features: of a state `[R, T, ...]`.
    """
    state, held = {name: value.unsqueeze(1) for name, value in start.items()}, []
    for rollout in rollouts:
        sums = {name: torch.cat([state[name], value], 1).cumsum(1) for name, value in each(rollout).items()}
        held.append(features({name: value[:, :-1] for name, value in sums.items()}).transpose(0, 1))
        state = {name: value[:, -1:] for name, value in sums.items()}
    return torch.cat(held)


class ContextSAC:
    """Soft actor-critic on observations and z, and the transitions of the latest tasks.

    Args:
        name: of the agent, for error messages.
        family: that is played.
        inputs: what is kept.
        config: hyperparameters, with numbers of episodes `for_horizon`.
        rng: draws of the initial weights.
        device: of all tensors.
        encoder: trained with the critics, by their loss and the further one.

    Raises:
        InvalidValueError: a context is larger than what it is drawn from, or the replay has no room for the tasks of
            a meta-update or does not fit into memory.
    """

    def __init__(
        self,
        name: str,
        family: Family,
        inputs: ContextInputs,
        config: ContextConfig,
        rng: Rng,
        device: torch.device,
        encoder: nn.Module,
    ) -> None:
        played = config.prior_episodes + config.posterior_episodes
        stored = (played if config.posterior_context else config.prior_episodes) * family.horizon
        if config.context_size > stored:
            expected = f"at most {stored}, the steps of a task's episodes that the context is drawn from"
            raise InvalidValueError(f"{name}.context_size", config.context_size, expected)
        if config.replay_tasks < config.meta_batch_size:
            expected = f"at least meta_batch_size, which is {config.meta_batch_size}"
            raise InvalidValueError(f"{name}.replay_tasks", config.replay_tasks, expected)
        self.name, self.family, self.inputs, self.config = name, family, inputs, config
        size, image = inputs.encode.size + config.latent, inputs.encode.image
        self.sac = SAC(name, inputs.head, size, config, rng, device, encoder, image)
        self.replay, self.context = (
            TransitionReplay(f"{name}.replay_tasks", config.replay_tasks, capacity, inputs.example(), device)
            for capacity in (played * family.horizon, stored)
        )
        self.env_steps = config.meta_batch_size * played * family.horizon  # of a meta-update
        self._kept: dict[str, SAC | TransitionReplay]
        self._kept = {"sac": self.sac, "replay": self.replay, "context": self.context}

    def policy(self, obs: Tensor, z: Tensor) -> SquashedGaussian | Categorical:
        """The policy at observations `[R, E, ...]` and z `[R, E, latent]`."""
        return self.sac.policy(torch.cat([self.inputs.encode(obs), z], -1))

    def train_step(
        self,
        agent: Agent,
        trials: Trials,
        infer: Callable[[Tensor], AgentState],
        update: Callable[[int, Tensor], dict[str, Tensor]],
    ) -> dict[str, float]:
        """Play new tasks, without a context and then with one, and take gradient steps on those that are kept.

        Args:
            agent: acts.
            trials: one for each new task.
            infer: the agent's state from contexts `[R, context_size, size]`.
            update: a gradient step, given its key and the places of tasks in the replay, `int64 [B]`.

        Returns:
            mean returns of both kinds of episodes, "return_0" and "return_1", and the metrics of the last step.

        Raises:
            InvalidValueError: a gradient step would not fit into memory.
        """
        what, count = f"a gradient step on a task's {self.config.batch_size} transitions needs", self.config.batch_size
        self.sac.check_memory(f"{self.name}.tasks_per_update", self.config.tasks_per_update, count, what)
        returns = self._play(agent, trials, infer)
        metrics: dict[str, Tensor] = {}
        for number in range(self.config.updates):
            key = make_key(trials.key, "update", number)
            metrics = update(key, self.replay.sample_tasks(self.config.tasks_per_update, key))
        return returns | {k: float(v) for k, v in metrics.items()}

    def _play(self, agent: Agent, trials: Trials, infer: Callable[[Tensor], AgentState]) -> dict[str, float]:
        config, returns = self.config, {}
        places = self.replay.open(trials.rows)
        self.context.open(trials.rows)  # its places are the same
        state = agent.begin(trials.rows)
        for number, episodes in enumerate((config.prior_episodes, config.posterior_episodes)):
            if number == 1:
                with torch.no_grad():
                    state = infer(self.sample_context(places, trials.key))
            rollout, _ = trials.collect(agent, state, number, Budget(envs=episodes, episodes=1), final_obs=True)
            kept, valid = self.inputs.transitions(rollout), rollout.by_row(rollout.valid)
            self.replay.add(places, kept | {"reward": self._learning_reward(rollout)}, valid)
            if number == 0 or config.posterior_context:
                self.context.add(places, kept, valid)
            returns[f"return_{number}"] = float(rollout.mean_return().mean())
        return returns

    def _learning_reward(self, rollout: Rollout) -> Tensor:
        """What soft actor-critic is trained on, `[R, T * E]`: the rewards as they are, or the dense ones if asked for.

        Raises:
            InvalidValueError: the family does not report dense rewards, or not in every step.
        """
        if not self.config.dense_reward:
            return rollout.by_row(rollout.reward)
        if rollout.dense_reward is None:
            expected = f"False: {self.family.id} reports no info['dense_reward'] (its rewards may not be sparse)"
            raise InvalidValueError(f"{self.name}.dense_reward", True, expected)
        if not bool(rollout.dense_reward[rollout.valid].isfinite().all()):
            expected = f"False: info['dense_reward'] of {self.family.id} is missing in some steps, or not finite"
            raise InvalidValueError(f"{self.name}.dense_reward", True, expected)
        return rollout.by_row(rollout.dense_reward)

    def sample_context(self, places: Tensor, *key: int | str) -> Tensor:
        """Some of the context of tasks in the replay, `[B, context_size, size]`."""
        return self.inputs.features(self.context.sample(places, self.config.context_size, *key, "context"))

    def update(self, key: int, places: Tensor, z: Tensor, further_loss: Tensor | float = 0.0) -> dict[str, Tensor]:
        """A gradient step of soft actor-critic on transitions of tasks, each with one z for all of its transitions.

        Args:
            key: of all that is drawn.
            places: of the tasks in the replay, `int64 [B]`.
            z: `[B, latent]`. The critics' gradient flows into it, the policy's and that of the targets do not.
            further_loss: `[]`, added to the critics' loss.

        Returns:
            metrics `[]` by name.
        """
        z = z.unsqueeze(1).expand(-1, self.config.batch_size, -1)
        batch = self.replay.sample(places, self.config.batch_size, key)
        x, next_x = (torch.cat([batch[name], z], -1).flatten(0, 1) for name in ("obs", "next_obs"))
        action, reward, terminated = (batch[name].flatten(0, 1) for name in ("action", "reward", "terminated"))
        return self.sac.update(SACBatch(x, action, reward, next_x.detach(), terminated), key, further_loss)

    def tensors(self) -> dict[str, Tensor]:
        """The networks, what trains them, and the transitions, for checkpoints: "sac.", "replay." and "context."."""
        return {f"{name}.{k}": v for name, part in self._kept.items() for k, v in part.tensors().items()}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        for name, part in self._kept.items():
            start = f"{name}."
            part.load_tensors({k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)})
