"""First-Explore: two policies on one memory, one that explores and one that exploits what was found.

Norman and Clune (2024, "First-Explore, then Exploit", arXiv:2307.02276). An agent that is trained on the sum of a
trial's rewards does not learn to explore where exploring costs at first. Here an exploring episode is paid by what
comes after it:

    pay of exploring episode i  = max(0, return of the exploiting episode after it - b_i)
    b_i                         = the best return of the episodes 1, ..., i - 1 of both kinds, at least 0
    pay of an exploiting step   = its reward

and no return runs past its episode's end. Where no return is above 0, exploring is not paid and does not learn. In
training, exploring and exploiting episodes alternate. The memory keeps exploring episodes alone: what happens in an
exploiting episode is forgotten at its end. In evaluation a trial is k exploring episodes, then exploiting ones, and the
rewards of all of them count. k is at least 1. It has the largest estimated return of a trial, from the training's mean
returns of the i-th exploring episode and of the exploiting episode after it.

Different from the paper: the paper raises the likelihood of the exploiting episodes that reached b_i, and of the
exploring ones after which b_i was exceeded, with a weight of 1 + the difference; here PPO maximises the payments. The
paper's memory is a transformer, here it is a GRU. The paper chooses k by evaluation after training; here the choice
follows the training.

    metarl train first_explore --family metarl/DeceptiveBandit-v0 --trial-episodes 100
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor

from metarl.agent import (
    PPO,
    Agent,
    AgentState,
    Budget,
    Family,
    Feedback,
    Given,
    InvalidValueError,
    Range,
    Rng,
    Rollout,
    Step,
    Tasks,
    TrialBatch,
    TrialInputs,
    TrialMemory,
    TrialPPOConfig,
    Trials,
    make_key,
    sized,
    standardize_together,
)
from metarl.agents.memory.first_explore_network import FirstExploreNetwork

_ALTERNATE = -1  # in place of a number of exploring episodes: they alternate with exploiting ones
_AVERAGED = 0.1  # weight of a meta-update in the means that k is chosen by


@dataclass(frozen=True)
class FirstExploreConfig(TrialPPOConfig):
    """Hyperparameters; `trial_episodes` is the length of the trials that the number of exploring episodes is for."""

    explore_episodes: Annotated[int, Range(0, 1e6)] = 0
    """The most exploring episodes in a trial, fewer than `trial_episodes`. In training each is followed by an
    exploiting one. 0 chooses half of `trial_episodes`."""
    hidden: Annotated[int, Range(1, 1024)] = 128
    """Units of the memory (the paper's transformer: 128)."""
    gae_lambda: Annotated[float, Range(0, 1)] = 0.95
    """Lambda of generalised advantage estimation, within an episode."""


# --- equations -------------------------------------------------------------------------------------------------------


def improvements(explored: Tensor, exploited: Tensor) -> Tensor:
    """The pay of exploring episodes, from the returns of both kinds, `[..., pairs]`, in the order of the trial."""
    best = torch.maximum(explored, exploited).cummax(-1).values
    before = torch.cat([torch.zeros_like(best[..., :1]), best[..., :-1]], -1).clamp_min(0.0)
    return (exploited - before).clamp_min(0.0)


def trial_returns(explored: Tensor, exploited: Tensor, episodes: int) -> Tensor:
    """The return of a trial of some episodes, the first k = 1, ..., pairs of which explore: `[pairs]`.

    Args:
        explored: mean return of the k-th exploring episode, `[pairs]`.
        exploited: mean return of the exploiting episode after it, `[pairs]`.
        episodes: of the trial.
    """
    left = episodes - torch.arange(1, len(explored) + 1, device=explored.device)
    return explored.cumsum(0) + left * exploited


class EpisodePPO(PPO):
    """PPO on payments, whose returns stop at every episode's end. Each policy's advantages are standardised apart."""

    def prepare(self, rollout: Rollout, given: Given) -> TrialBatch:
        """As `PPO.prepare`: exploring earns less and less, and would soon count for nothing beside exploiting.

        If no exploring episode of the batch is paid, its advantages are errors of the value alone, and are set to 0.
        """
        batch, exploring = super().prepare(rollout, given), exploring_steps(rollout).float()
        returns = episode_returns(rollout, batch.reward)
        paid = bool((improvements(returns[:, ::2], returns[:, 1::2]) > 0).any())
        parts = [standardize_together(batch.advantage, kind) for kind in (exploring, batch.valid - exploring)]
        return replace(batch, advantage=parts[0] * paid + parts[1])

    def learning_rewards(self, rollout: Rollout) -> Tensor:
        """The pay of an exploring episode in its last step, and the rewards of exploiting ones: `[T, R]`."""
        reward = super().learning_rewards(rollout)
        returns = episode_returns(rollout, reward).to(reward)
        pay = improvements(returns[:, ::2], returns[:, 1::2])  # [R, pairs]
        exploring, pair = exploring_steps(rollout), pairs_of(rollout).clamp_max(pay.shape[1] - 1)
        paid = torch.where(rollout.ended[:, :, 0], pay.t().gather(0, pair), 0.0)
        return torch.where(exploring, paid, reward)

    def advantages(self, rollout: Rollout, reward: Tensor, value: Tensor) -> Tensor:
        """GAE within each episode: `[T, R]`."""
        given = {"reward": reward, "value": value, "trial_end": rollout.ended[:, :, 0]}
        return self._replayed("advantages", self._gae, given)


def episode_returns(rollout: Rollout, reward: Tensor) -> Tensor:
    """Sums of rewards `[T, R]` over the whole episodes of trials: `float64 [R, 2 pairs]`."""
    sums, whole = rollout.episodes(reward.unsqueeze(-1))
    return sums[:, 0, : int(whole[0].sum())]


def exploring_steps(rollout: Rollout) -> Tensor:
    """Which steps are those of exploring episodes, `bool [T, R]`."""
    return (rollout.extras["exploring"] & rollout.valid)[:, :, 0]


def pairs_of(rollout: Rollout) -> Tensor:
    """The number, from 0, of the pair of episodes that a step is part of, `int64 [T, R]`."""
    return (rollout.episode_start[:, :, 0].long().cumsum(0) - 1) // 2


# --- the algorithm ---------------------------------------------------------------------------------------------------


class FirstExplore(Agent[FirstExploreConfig]):
    """A recurrent agent that explores for some episodes and then exploits, by two policies that PPO trains apart."""

    name = "first_explore"
    Config = FirstExploreConfig
    is_recurrent = True
    capturable = True
    takes = "a family whose task stays the same in a trial"

    def __init__(
        self, family: Family, config: FirstExploreConfig, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        config = sized(config, family.horizon)
        super().__init__(family, config, seed, device)
        if family.switches:
            raise InvalidValueError(f"family of {self.name}", family.id, self.takes)
        if config.trial_episodes < 2:
            expected = "at least 2, an exploring episode and an exploiting one"
            raise InvalidValueError(f"{self.name}.trial_episodes", config.trial_episodes, expected)
        self.pairs = config.explore_episodes or config.trial_episodes // 2
        Range(1, config.trial_episodes - 1).check(f"{self.name}.explore_episodes", self.pairs, whole=True)
        inputs = TrialInputs(family, self.name)
        with torch.device("meta"):  # PyTorch's own initialisation would draw from its global generator
            net = FirstExploreNetwork(inputs.head, inputs.size, config.hidden, self.pairs, family.horizon)
        net.to_empty(device="cpu")
        net.initialise(Rng(torch.tensor([make_key(self.name, "init", seed)])))
        self.net = net.to(self.device)
        self.ppo = EpisodePPO(self.name, family, config, self.net, inputs.size)
        self.head, self.trial_memory = inputs.head, TrialMemory(inputs, self.net.memory, self.ppo.standardized)
        self.means = torch.zeros(2, self.pairs, dtype=torch.float64)  # of exploring and of exploiting episodes

    @property
    def explores(self) -> int:
        """k, the number of exploring episodes of a trial."""
        return 1 + int(self.trial_returns().argmax())

    def trial_returns(self) -> Tensor:
        """The estimated return of a trial by the number k = 1, ..., pairs of its exploring episodes: `[pairs]`."""
        explored, exploited = self.means.unbind()
        return trial_returns(explored, exploited, self.config.trial_episodes)

    # --- acting ------------------------------------------------------------------------------------------------------

    def begin(self, rows: int, tasks: Tasks | None = None) -> AgentState:
        """Empty memory, which is also `kept.*`, what exploring has left; the numbers of episodes, and of those to come.

        `explores` is the number of episodes that explore; if it is -1, every other one does.
        """
        memory = self.trial_memory.begin(rows, self.device)
        kept = {f"kept.{k}": v.clone() for k, v in memory.items()}
        episode = torch.zeros(rows, 1, dtype=torch.int64, device=self.device)
        return {**memory, **kept, "episode": episode, "explores": torch.full_like(episode, self.explores)}

    def exploring(self, state: AgentState) -> Tensor:
        """Whether the present episode explores, `bool [R, 1]`."""
        episode, explores = state["episode"], state["explores"]
        return torch.where(explores == _ALTERNATE, episode % 2 == 0, episode < explores)

    def act(
        self, state: AgentState, step: Step, rng: Rng, deterministic: bool
    ) -> tuple[Tensor, dict[str, Tensor], AgentState]:
        """One step of the memory, and of the policy of the present episode."""
        exploring, x = self.exploring(state), self.trial_memory.inputs(step.obs[:, 0], state["last"])
        h, state = self.trial_memory.step(state, step)
        h = h.unsqueeze(1)  # [R, 1, hidden]
        policy = self.net.distribution(h, exploring)
        action = policy.mode if deterministic else policy.sample(rng)
        extras = {"log_prob": policy.log_prob(action), "value": self.net.value_of(h, exploring)}
        return action, {**extras, "exploring": exploring, "x": x.unsqueeze(1)}, state

    def observe(self, state: AgentState, feedback: Feedback, active: Tensor | None) -> AgentState:
        """Keep the memory. At the end of an exploiting episode it becomes what exploring has left."""
        exploring, ended = self.exploring(state), feedback.terminated | feedback.truncated
        ended = ended if active is None else ended & active
        after, out = self.trial_memory.observe(state, feedback, active), dict[str, Tensor]()
        for name, value in after.items():
            kept = torch.where(ended & exploring, value, state[f"kept.{name}"])
            out |= {name: torch.where(ended & ~exploring, kept, value), f"kept.{name}": kept}
        return out | {"episode": state["episode"] + ended.long(), "explores": state["explores"]}

    # --- what it believes --------------------------------------------------------------------------------------------

    def belief_features(self, rollouts: Sequence[Rollout]) -> Tensor:
        """What the memory holds at each step of trials, `[T, R, hidden]`: the steps before it, and what it shows."""
        return self.trial_memory.relived(self.begin(rollouts[0].reward.shape[1]), rollouts, self.observe)

    # --- training ----------------------------------------------------------------------------------------------------

    @property
    def train_env_steps(self) -> int:
        """Whole trials, of as many exploiting as exploring episodes."""
        return self.config.meta_batch_size * 2 * self.pairs * self.family.horizon

    def check_iterations(self, iterations: int) -> None:
        """Refuse more iterations than `anneal_iterations`, after which the learning rate is 0."""
        self.ppo.check_iterations(iterations)

    def train_step(self, trials: Trials) -> dict[str, float]:
        """Play trials in which exploring and exploiting episodes alternate, then PPO on them.

        Raises:
            InvalidValueError: the training pass over a minibatch of trials would not fit into memory, or the learning
                rate has fallen to 0.
        """
        self.check_iterations(self.ppo.updates + 1)
        kept, inputs = self.net.memory.floats_kept, self.trial_memory.inputs.size
        self.ppo.check_memory(trials.rows, kept, inputs, "explore_episodes", self.pairs, played=2)
        state = self.begin(trials.rows)
        state["explores"].fill_(_ALTERNATE)
        rollout, _ = trials.collect(self, state, 0, Budget(envs=1, episodes=2 * self.pairs))
        returns = episode_returns(rollout, rollout.reward[:, :, 0]).mean(0).cpu().view(self.pairs, 2).t()
        self.means = torch.lerp(self.means, returns, 1.0 if not self.ppo.updates else _AVERAGED)
        metrics = self.ppo.update(rollout, self.given(rollout), trials.key)
        best = float(self.trial_returns().max())
        own = {"trial_return": best, "episode_return": best / self.config.trial_episodes}
        return {**own, "explore_episodes": float(self.explores), **metrics}

    def given(self, rollout: Rollout) -> dict[str, Tensor]:
        """What the network is given in training, all `[T, R, ...]`.

        `x` is what the memory was given. `exploring` and `exploiting` say in which kind of episode a step is, both
        False after a trial's end, `pair` in which pair of episodes, and `time` how many steps after its start.
        """
        exploring, valid = exploring_steps(rollout), rollout.valid[:, :, 0]
        return {
            "x": rollout.extras["x"][:, :, 0],
            "exploring": exploring,
            "exploiting": valid & ~exploring,
            "pair": pairs_of(rollout),
            "time": rollout.time[:, :, 0],
        }

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """The network, what PPO keeps, and the mean returns that k is chosen by."""
        net = {f"net.{k}": v for k, v in self.net.state_dict().items()}
        return net | self.ppo.tensors() | {"means": self.means.clone()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        self.net.load_state_dict({k.removeprefix("net."): v for k, v in tensors.items() if k.startswith("net.")})
        self.ppo.load_tensors(tensors)
        self.means = tensors["means"].cpu().clone()
