"""Off-policy VariBAD: the beliefs of VariBAD, and soft actor-critic on them in place of PPO.

Dorfman, Shenfeld and Tamar (2021, arXiv:2008.02598), in the online form that their code has for comparison; beliefs as
in Zintgraf et al. (2020, arXiv:1910.08348). A step's features are the observation, the belief before it, and how much
of a trial has passed (the authors' have no time). Values run through the episodes of a trial and stop at its end, so
what an episode finds out is worth what later ones make of it. In longer trials than those of training time stops.
Differences from the authors' code: their values go on past a trial's end unless a goal ended it; for discrete actions
they have a deep Q-network, and here soft actor-critic has its discrete form; in their GridNavi it learns from the
rewards that the belief expects, and here from those that were paid.

The authors store the beliefs that a trial was played with. Here trials are stored, and each gradient step computes
their beliefs with the encoder as it is, so that they never grow old.

    metarl train varibad_off_policy --family metarl/GridNavi-v0
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from metarl.agent import (
    SAC,
    Agent,
    AgentState,
    BeliefConfig,
    BeliefModel,
    Budget,
    Family,
    Feedback,
    Queries,
    Range,
    Rng,
    Rollout,
    SACBatch,
    SACConfig,
    Step,
    Tasks,
    Trials,
    make_key,
)


@dataclass(frozen=True)
class OffPolicyVariBADConfig(BeliefConfig, SACConfig):
    """Hyperparameters of soft actor-critic and of the belief model.

    They are our own: the authors have a learning rate of 7e-5, in the sparse point robot a discount of .9 and a weight
    of .1 of the KL, a GRU of 128 units, and bounds at all steps of a trial.
    """

    policy_hidden: tuple[Annotated[int, Range(1, 1e9)], ...] = (128, 128)
    """Widths of the hidden layers of the policy and of the critics."""
    temperature: Annotated[float, Range(1e-9, 1e9)] = 0.01
    """Reward that a nat of the policy's entropy is worth (the authors: .01 in the sparse point robot, .2 in
    HalfCheetahVel); with `learn_temperature` its first value."""
    trial_episodes: Annotated[int, Range(1, 1e6)] = 4
    """Episodes per trial in training (pulls in bandits)."""
    meta_batch_size: Annotated[int, Range(1, 1e7)] = 25
    """Trials per meta-update, each in its own task."""
    updates: Annotated[int, Range(0, 1e6)] = 200
    """Gradient steps of soft actor-critic per meta-update (the authors: 250 to 2000)."""
    batch_trials: Annotated[int, Range(1, 1e6)] = 16
    """Trials in each of these steps, with all of their transitions (the authors: 256 transitions of 16 tasks)."""


class OffPolicyVariBAD(Agent[OffPolicyVariBADConfig]):
    """A belief about the task, inferred at every step, and soft actor-critic that acts on it."""

    name = "varibad_off_policy"
    Config = OffPolicyVariBADConfig
    is_recurrent = True
    replays = ("replay.",)

    def __init__(
        self, family: Family, config: OffPolicyVariBADConfig, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(family, config, seed, device)
        rng = Rng(torch.tensor([make_key("varibad_off_policy", "init", seed)]))
        self.model = BeliefModel(self.name, family, config, config.trial_episodes, rng, self.device)
        self.head = self.model.inputs.head
        self.steps = config.trial_episodes * family.horizon
        image = self.model.inputs.encode.image
        self.sac = SAC(self.name, self.head, self.model.features + 1, config, rng, self.device, image=image)

    # --- acting ------------------------------------------------------------------------------------------------------

    def begin(self, rows: int, tasks: Tasks | None = None) -> AgentState:
        """The encoder's empty memory, and no steps so far."""
        return self.model.trial_memory.begin(rows, self.device) | {"time": torch.zeros(rows, 1, device=self.device)}

    def act(
        self, state: AgentState, step: Step, rng: Rng, deterministic: bool
    ) -> tuple[Tensor, dict[str, Tensor], AgentState]:
        """One step of the encoder, and an action on the observation, the belief and the time."""
        time = state["time"]
        x, state = self.model.step({k: v for k, v in state.items() if k != "time"}, step)
        policy = self.sac.policy(torch.cat([x, self._passed(time)], -1))
        action = policy.mode if deterministic else policy.sample(rng)
        return action.detach().unsqueeze(1), {"x": x.unsqueeze(1)}, state | {"time": time}

    def observe(self, state: AgentState, feedback: Feedback, active: Tensor | None) -> AgentState:
        """Keep the encoder's memory, and what the next step is given."""
        time = state["time"] + (1.0 if active is None else active.float())
        return self.model.trial_memory.observe(state, feedback, active) | {"time": time}

    def _passed(self, time: Tensor) -> Tensor:
        """Which part of a trial of training has passed after so many steps, from 0 to 1 at its last step."""
        return (time / max(1, self.steps - 1)).clamp(max=1.0)

    # --- what it believes --------------------------------------------------------------------------------------------

    def belief_features(self, rollouts: Sequence[Rollout]) -> Tensor:
        """Mean and log-variance of z before each step of trials, `[T, R, 2 latent]`, as the policy was given them."""
        return torch.cat([self.model.belief_features(rollout.extras["x"]) for rollout in rollouts])

    def believed_rewards(self, rollout: Rollout, queries: Queries) -> Tensor:
        """The decoder's rewards of N transitions before each step, a mean over z of the belief: `[T, R, N]`."""
        return self.model.believed_rewards(self.belief_features([rollout]), queries)

    # --- training ----------------------------------------------------------------------------------------------------

    @property
    def train_env_steps(self) -> int:
        """Whole trials."""
        return self.config.meta_batch_size * self.config.trial_episodes * self.family.horizon

    def train_step(self, trials: Trials) -> dict[str, float]:
        """Play whole trials, train the belief model on all that are kept, and soft actor-critic on its beliefs.

        Raises:
            InvalidValueError: a gradient step would not fit into memory.
        """
        what = f"a gradient step on a trial of {self.steps} steps needs"
        self.sac.check_memory(f"{self.name}.batch_trials", self.config.batch_trials, self.steps, what)
        self.model.check_memory()
        config, metrics = self.config, {}
        rollout, _ = trials.collect(
            self, self.begin(trials.rows), 0, Budget(envs=1, episodes=config.trial_episodes), final_obs=True
        )
        self.model.replay.add(self.model.kept(rollout))
        told = self.model.fit(trials.key)
        for update in range(config.updates):
            key = make_key(trials.key, "policy", update)
            metrics = self.sac.update(self.transitions(self.model.replay.sample(config.batch_trials, key)), key)
        total = float((rollout.reward * rollout.valid).sum((0, 2)).double().mean())
        returns = {"trial_return": total, "episode_return": total / config.trial_episodes}
        return returns | told | {k: float(v) for k, v in metrics.items()}

    @torch.no_grad()
    def transitions(self, trials: dict[str, Tensor]) -> SACBatch:
        """The transitions of trials `[T, R, ...]` of the replay, from each step to the next, also between episodes."""
        obs = self.model.inputs.encode.size
        belief = self.model.encoder(trials["x"]).features
        time = torch.arange(len(belief), device=self.device).view(-1, 1, 1).expand(-1, belief.shape[1], 1)
        x = torch.cat([trials["step"][..., :obs], belief, self._passed(time)], -1)
        valid = trials["valid"][..., 0] > 0
        follows = torch.cat([valid[1:], torch.zeros_like(valid[:1])])
        action = trials["step"][..., obs:-obs][valid]
        return SACBatch(
            x=x[valid],
            action=action.argmax(-1) if self.head.discrete else action,
            reward=trials["reward"][..., 0][valid],
            next_x=torch.cat([x[1:], x[:1]])[valid],
            terminated=~follows[valid],
        )

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """The networks, what trains them, and the trials."""
        return self.model.tensors() | {f"sac.{k}": v for k, v in self.sac.tensors().items()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        self.model.load_tensors(tensors)
        self.sac.load_tensors({k.removeprefix("sac."): v for k, v in tensors.items() if k.startswith("sac.")})
