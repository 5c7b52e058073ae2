"""GrBAL: a model of the task, adapted by a gradient step to the last transitions, and planning with it.

Nagabandi et al. (2019, arXiv:1803.11347), algorithms 1 and 2, with a model that also predicts rewards and ends, because
they are no known functions here. Before every action the model is adapted to the last `past_steps` transitions of the
trial, and a sequence of actions is planned with it, of which the first is played. The first meta-update's trials are
played by random actions. The sampled mode draws the action from the planner's last distribution, the deterministic one
takes its mean.

    metarl train grbal --family metarl/PointNavigation-v0
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from metarl.agent import (
    Agent,
    AgentState,
    Budget,
    DivergedWarning,
    Family,
    Feedback,
    GradientModel,
    PlanConfig,
    Planner,
    Range,
    Rng,
    Step,
    TaskModel,
    Tasks,
    TransitionLayout,
    TrialReplay,
    Trials,
    adam_step,
    fold_in,
    load_net,
    make_key,
    net_tensors,
)
from metarl.learning.random_play import RandomPlay

_STEPS = 100  # of a trial of training, at least
_HOPELESS = 100.0  # an error of the model above which something went wrong; predicting the mean has about 1


@dataclass(frozen=True)
class ModelConfig(PlanConfig):
    """Hyperparameters of the model's training."""

    hidden: tuple[Annotated[int, Range(1, 1e9)], ...] = (64, 64)
    """Widths of the model's hidden layers (the authors: 512, 512, 512)."""
    past_steps: Annotated[int, Range(1, 1e6)] = 16
    """Transitions M that the model is adapted to."""
    predicted_steps: Annotated[int, Range(1, 1e6)] = 16
    """Transitions K of the same trial that the adapted model must predict, drawn at random (the authors: the next
    ones, as many as are planned)."""
    meta_batch_size: Annotated[int, Range(1, 1e7)] = 10
    """New trials per meta-update, each in its own task."""
    trial_episodes: Annotated[int, Range(0, 1e6)] = 0
    """Episodes of a trial in training (pulls in bandits). 0: as many as 100 steps have."""
    replay_trials: Annotated[int, Range(1, 1e9)] = 1000
    """Latest trials that the model is trained on."""
    updates: Annotated[int, Range(0, 1e6)] = 300
    """Gradient steps per meta-update."""
    batch_size: Annotated[int, Range(1, 1e6)] = 64
    """Pieces of trials in each of them, M + K transitions long."""
    learning_rate: Annotated[float, Range(0, 10)] = 5e-3
    """Learning rate of Adam."""


@dataclass(frozen=True)
class GrBALConfig(ModelConfig):
    """Hyperparameters of the model and of planning."""

    inner_lr: Annotated[float, Range(0, 1e3)] = 0.1
    """Size of the gradient step in the beginning; each tensor of the model learns its own (the authors: .01)."""


class GrBAL(Agent[Any]):
    """Plans with a model of the task that a gradient step adapts to the last transitions."""

    name = "grbal"
    Config: ClassVar[type[Any]] = GrBALConfig
    is_recurrent = True
    replays = ("replay.",)

    def __init__(self, family: Family, config: Any, seed: int = 0, device: torch.device | str = "cpu") -> None:
        if not config.trial_episodes:
            config = replace(config, trial_episodes=-(-_STEPS // family.horizon))
        config = replace(config, plan_steps=min(config.plan_steps, family.horizon))
        super().__init__(family, config, seed, device)
        self.layout = TransitionLayout(family, self.name)
        self.head = self.layout.head
        self.planner = Planner(self.name, self.head, config)
        self.model = self.make_model(Rng(torch.tensor([make_key(self.name, "init", seed)]))).to(self.device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.learning_rate)
        example = {"steps": torch.zeros(config.trial_episodes * family.horizon, 1, self.layout.size)}
        self._warned = False  # that the model has diverged
        self.replay = TrialReplay(f"{self.name}.replay_trials", config.replay_trials, example, self.device)

    def make_model(self, rng: Rng) -> TaskModel:
        """The model, with initial weights drawn by `rng`."""
        return GradientModel(self.layout, self.config.hidden, self.config.inner_lr, rng)

    # --- acting ------------------------------------------------------------------------------------------------------

    def begin(self, rows: int, tasks: Tasks | None = None) -> AgentState:
        """No transitions, and a plan that prefers nothing."""
        past = torch.zeros(rows, self.config.past_steps, self.layout.size, device=self.device)
        return {"past": past, "plan": self.planner.begin(rows, self.device)}

    @torch.no_grad()
    def act(
        self, state: AgentState, step: Step, rng: Rng, deterministic: bool
    ) -> tuple[Tensor, dict[str, Tensor], AgentState]:
        """Complete the last transition, adapt the model to the past, plan, and take the first action of the plan."""
        obs, past = self.layout.encode(step.obs[:, 0]), state["past"]
        past = torch.cat([past[:, :-1], self.layout.completed(past[:, -1:], obs.unsqueeze(1))], 1)
        params = self.model.adapted(past)
        mean, std = self.planner.plan(lambda o, a: self.model.predict(params, o, a), obs, state["plan"], rng)
        choice = mean[:, 0] if deterministic else mean[:, 0] + std[:, 0] * rng.normal(self.head.features)
        action = choice.argmax(-1) if self.head.discrete else choice
        return action.unsqueeze(1), {}, state | {"new.past": past, "new.plan": mean, "obs": obs}

    def observe(self, state: AgentState, feedback: Feedback, active: Tensor | None) -> AgentState:
        """Keep the last transitions, and the plan one step later; an episode's end forgets the plan."""
        made = self.layout.begun(state["obs"], feedback)
        past = torch.cat([state["new.past"][:, 1:], made.unsqueeze(1)], 1)
        ended = (feedback.terminated | feedback.truncated).unsqueeze(-1)
        plan = torch.where(ended, 0.0, self.planner.later(state["new.plan"]))
        if active is not None:
            past, plan = (torch.where(active.unsqueeze(-1), v, state[k]) for k, v in (("past", past), ("plan", plan)))
        return {"past": past, "plan": plan}

    # --- training ----------------------------------------------------------------------------------------------------

    @property
    def train_env_steps(self) -> int:
        """Whole trials."""
        return int(self.config.meta_batch_size * self.config.trial_episodes * self.family.horizon)

    def train_step(self, trials: Trials) -> dict[str, float]:
        """Play whole trials of new tasks, and train the model on those that are kept."""
        config = self.config
        player: Agent = self if self.replay.added else RandomPlay(self.family, device=self.device)
        budget = Budget(envs=1, episodes=config.trial_episodes)
        rollout, _ = trials.collect(player, player.begin(trials.rows), 0, budget)
        steps = self.layout.of(rollout)
        self.replay.add({"steps": steps})
        self.model.see(steps)
        losses = []
        for update in range(config.updates):
            loss = self.model.loss(*self.pieces(make_key(trials.key, "model", update)))
            adam_step(self.optimizer, loss)
            losses.append(loss.detach())
        error = float(torch.stack(losses).mean()) if losses else 0.0
        if error > _HOPELESS and not self._warned:
            sentence = f"the error of the model of {self.name} is {error:.3g}; one that predicts the mean has about 1"
            warnings.warn(f"{sentence} (a smaller learning rate may help)", DivergedWarning, stacklevel=2)
            self._warned = True
        return {"episode_return": float(rollout.mean_return().mean()), "model_error": error}

    def pieces(self, key: int) -> tuple[Tensor, Tensor]:
        """Of random trials the transitions before a random moment, and random ones: `[B, M, size]`, `[B, K, size]`."""
        config = self.config
        steps = self.replay.sample(config.batch_size, key)["steps"]
        rows = torch.arange(config.batch_size, device=self.device).unsqueeze(1)
        length = (steps[..., self.layout.valid] > 0).sum(0).unsqueeze(1)
        rng = Rng(fold_in(make_key(key, "moments"), rows[:, 0]))
        moment, others = ((rng.uniform(count) * length).long() for count in (1, config.predicted_steps))
        before = steps.new_zeros(config.past_steps, *steps.shape[1:])
        past = torch.cat([before, steps])[moment + torch.arange(config.past_steps, device=self.device), rows]
        return past, steps[others, rows]

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """The model, Adam's moments, and the trials."""
        return net_tensors(self.model, self.optimizer) | self.replay.tensors()

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        load_net(self.model, self.optimizer, tensors)
        self.replay.load_tensors(tensors)
