"""Learned selector: which of several learners plays is predicted, by a network that learned it in other families.

The question is that of Rice (1976, Advances in Computers 15, "The algorithm selection problem"): from features of a
problem predict which algorithm performs best on it. Here the problem is a family and a task. The features are those of
the family (the lengths of a trial and of an episode, the numbers of actions and of observed features) and of the
trial's first episodes, which the members of the portfolio play in turn (the mean return under each member, the
deviation of all). None depends on the family's spaces, so what was learned in some families is used in others.

Training plays each task once with every member after the first episodes. What is learned is how much better than the
members' mean a member did in a task, in units of the deviation between trials of the family.

    metarl train learned_selector --family 'metarl/BernoulliBandit-v0:k50' --train-episodes 30 100 300
        --train-families metarl/BernoulliBandit-v0 metarl/BernoulliBandit-v0:k10 --trial-episodes 100
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor, nn

from metarl.agent import (
    AgentState,
    Budget,
    Family,
    InvalidValueError,
    ObservationEncoder,
    PolicyHead,
    Range,
    Rng,
    Rollout,
    RunningNorm,
    Trials,
    adam_step,
    init_mlp,
    load_net,
    make_key,
    mlp,
    net_tensors,
)
from metarl.agents.strategies.portfolio import Portfolio
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.families.registry import make_family

_PREDICTED = -1  # no member is given: the network chooses


@dataclass(frozen=True)
class LearnedSelectorConfig:
    """The portfolio, what the network is trained on, and how."""

    members: tuple[str, ...] = ()
    """Names of agents that need no training, or run directories of trained ones. Without any: those of
    thompson_sampling, ucb1 and greedy, or of psrl, ucrl2 and greedy_mdp, that take the family."""
    trial_episodes: Annotated[int, Range(2, 1e6)] = 100
    """Episodes of the trials that it is used in, a feature: the k of an evaluation with one episode a step."""
    first_episodes: Annotated[int, Range(0, 1e6)] = 3
    """Episodes at a trial's start that the members play in turn, before one of them is chosen for the rest."""
    train_families: tuple[str, ...] = ()
    """Ids of the families that it is trained in. Without any, the family that it plays; members that are run
    directories play their own family alone."""
    train_episodes: tuple[Annotated[int, Range(2, 1e6)], ...] = ()
    """Episodes of the trials that it is trained in, each length in each family. Without any, `trial_episodes`."""
    meta_batch_size: Annotated[int, Range(1, 1e6)] = 100
    """Tasks per family, length and meta-update; each is played once by every member."""
    hidden: tuple[Annotated[int, Range(1, 1e9)], ...] = (32,)
    """Widths of the network's hidden layers."""
    learning_rate: Annotated[float, Range(0, 10)] = 3e-3
    """Learning rate of Adam."""
    updates: Annotated[int, Range(1, 1e6)] = 20
    """Gradient steps per meta-update, each on all trials of the meta-update."""


class Predictor(nn.Module):
    """How good each member will be, from the features of a family and of a trial's first episodes."""

    def __init__(self, members: int, hidden: tuple[int, ...], rng: Rng) -> None:
        super().__init__()
        features = 5 + members
        self.norm = RunningNorm(features)
        self.params = nn.ParameterDict(init_mlp((features, *hidden, members), rng, final_gain=0.01))

    def forward(self, x: Tensor) -> Tensor:
        """Scores `[R, members]` of features `[R, features]`."""
        return mlp(dict(self.params.items()), self.norm(x), "tanh")


class LearnedSelector(Portfolio[LearnedSelectorConfig]):
    """A network predicts from features of the family and of the first episodes which member plays the rest."""

    name = "learned_selector"
    Config = LearnedSelectorConfig

    def __init__(
        self, family: Family, config: LearnedSelectorConfig, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(family, config, seed, device)
        if len(self.members) < 2:
            raise InvalidValueError(f"{self.name}.members", config.members, "two or more, among whom to choose")
        if config.train_families and any(Path(name).is_dir() for name in config.members):
            expected = "none beside members that are run directories, which play their own family alone"
            raise InvalidValueError(f"{self.name}.train_families", config.train_families, expected)
        lengths = config.train_episodes or (config.trial_episodes,)
        if config.first_episodes >= min(config.trial_episodes, *lengths):
            expected = f"fewer than the {min(config.trial_episodes, *lengths)} episodes of a trial"
            raise InvalidValueError(f"{self.name}.first_episodes", config.first_episodes, expected)
        rng = Rng(torch.tensor([make_key(self.name, "init", seed)]))
        self.net = Predictor(len(self.members), tuple(config.hidden), rng).to(self.device)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=config.learning_rate)
        actions = PolicyHead(family.action_space, self.name).features
        seen = ObservationEncoder(family.observation_space, self.name).size
        sizes = (config.trial_episodes, family.horizon, actions, seen)
        self.family_features = torch.tensor([math.log10(size) for size in sizes], device=self.device)

    @cached_property
    def schools(self) -> list[LearnedSelector]:
        """An agent for each family and length of trials that it is trained in. All have this network."""
        families = [make_family(name) for name in self.config.train_families] or [self.family]
        lengths = self.config.train_episodes or (self.config.trial_episodes,)
        return [self._school(family, episodes) for family in families for episodes in lengths]

    def _school(self, family: Family, episodes: int) -> LearnedSelector:
        own = replace(self.config, trial_episodes=episodes, train_families=(), train_episodes=())
        school = LearnedSelector(family, own, self.seed, self.device)
        names, expected = ([member.name for member in agent.members] for agent in (school, self))
        if names != expected:
            wanted = f"{expected}, as in {self.family.id}"
            raise InvalidValueError(f"members of {self.name} in {family.id}", names, wanted)
        school.net = self.net
        return school

    # --- choosing ----------------------------------------------------------------------------------------------------

    def choice(self, rows: int) -> AgentState:
        """What the choice depends on.

        `given` is the member who plays after the first episodes, -1 if the network chooses; `episode` the number of
        episodes so far; `return` that of the present one; `sums` the returns of the first episodes by member, and
        `squares` their squares.
        """
        zeros = torch.zeros(rows, device=self.device)
        count = zeros.long()
        sums = torch.zeros(rows, len(self.members), device=self.device)
        own = {"given": count + _PREDICTED, "episode": count, "return": zeros, "sums": sums, "squares": zeros.clone()}
        return {"chosen": count.clone() if self.config.first_episodes else self.predicted(own), **own}

    def choose(self, state: AgentState, reward: Tensor, ended: Tensor) -> AgentState:
        """After one of the first episodes the next member's turn comes; after the last of them the network chooses."""
        first, members = self.config.first_episodes, len(self.members)
        total = state["return"] + reward
        counts = ended & (state["episode"] < first)
        played = torch.nn.functional.one_hot(state["chosen"], members) * counts.unsqueeze(-1)
        new = {
            "given": state["given"],
            "episode": state["episode"] + ended.long(),
            "return": torch.where(ended, 0.0, total),
            "sums": state["sums"] + played * total.unsqueeze(-1),
            "squares": state["squares"] + counts * total.square(),
        }
        if bool(counts.any()):
            given = torch.where(state["given"] == _PREDICTED, self.predicted(new), state["given"])
            following = torch.where(new["episode"] < first, new["episode"] % members, given)
            return {"chosen": torch.where(counts, following, state["chosen"]), **new}
        return {"chosen": state["chosen"], **new}

    def features(self, state: AgentState) -> Tensor:
        """Of the family and of the first episodes, `[R, 5 + members]`."""
        first, members = self.config.first_episodes, len(self.members)
        turns = torch.tensor([len(range(i, first, members)) for i in range(members)], device=self.device)
        mean = state["sums"].sum(-1) / max(1, first)
        deviation = (state["squares"] / max(1, first) - mean.square()).clamp_min(0.0).sqrt()
        family = self.family_features.expand(len(mean), -1)
        return torch.cat([family, deviation.unsqueeze(-1), state["sums"] / turns.clamp_min(1)], -1)

    @torch.no_grad()
    def predicted(self, state: AgentState) -> Tensor:
        """The member with the highest score, `int64 [R]`."""
        return self.net(self.features(state)).argmax(-1)  # type: ignore[no-any-return]

    # --- training ----------------------------------------------------------------------------------------------------

    @property
    def train_env_steps(self) -> int:
        """Trials of every member in each task of each family and length."""
        trials = self.config.meta_batch_size * len(self.members)
        return sum(trials * s.config.trial_episodes * s.family.horizon for s in self.schools)

    def check_iterations(self, iterations: int) -> None:
        """Refuse families that the members do not take."""
        assert self.schools

    def train_step(self, trials: Trials) -> dict[str, float]:
        """Play trials in all families that it is trained in, then teach the network which member did best.

        The metric `chosen_advantage` is the mean advantage of the members that it would have chosen before.
        """
        parts, steps = [], 0
        for number, school in enumerate(self.schools):
            lessons, played = school.lessons(make_key(trials.key, "school", number))
            parts.append(lessons)
            steps += played
        x, member, advantage = (torch.cat(part) for part in zip(*parts, strict=True))
        agrees = self.net(x).argmax(-1) == member
        gained = float(advantage[agrees].mean()) if bool(agrees.any()) else 0.0
        self.net.norm.update(x, torch.ones(len(x), dtype=torch.bool, device=x.device))
        for _ in range(self.config.updates):
            score = self.net(x).gather(1, member.unsqueeze(1)).squeeze(1)
            loss = (score - advantage).square().mean()
            adam_step(self.optimizer, loss)
        return {"chosen_advantage": gained, "loss": float(loss.detach()), "env_steps": float(steps)}

    def lessons(self, key: int) -> tuple[tuple[Tensor, Tensor, Tensor], int]:
        """Play each of some train tasks once with every member after the first episodes.

        Returns:
            features `[R, features]`, the member who played `[R]`, and its advantage `[R]`: the mean return of the later
            episodes minus that of all members in the task, divided by the deviation over trials; and the environment
            steps that this took.
        """
        config, members = self.config, len(self.members)
        pool = EnvironmentPool(self.family, self.device)
        try:
            tasks = self.family.tasks("train", config.meta_batch_size, key)
            trials = PoolTrials(pool, tasks, members, key)
            given = torch.arange(members, device=self.device).repeat(config.meta_batch_size)
            state = self.begin(trials.rows) | {"given": given}
            state |= {} if config.first_episodes else {"chosen": given.clone()}
            rollout, state = trials.collect(self, state, 0, Budget(envs=1, episodes=config.trial_episodes))
        finally:
            pool.close()
        later = later_returns(rollout, config.first_episodes)
        by_task = later.view(-1, members)
        advantage = (by_task - by_task.mean(1, keepdim=True)) / later.std(correction=0).clamp_min(1e-8)
        lessons = self.features(state), given, advantage.view(-1).to(self.family_features)
        return lessons, int(trials.played)

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """The network, and the moments of Adam."""
        return net_tensors(self.net, self.optimizer)

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        load_net(self.net, self.optimizer, tensors)


def later_returns(rollout: Rollout, first: int) -> Tensor:
    """The mean return of the episodes of trials after the `first` ones, `float64 [R]`."""
    sums, whole = rollout.episodes(rollout.reward)
    return sums[:, 0, first : int(whole[0].sum())].mean(-1)
