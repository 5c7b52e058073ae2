"""The agent contract and its data. Adaptation changes an explicit state, never the agent itself.

`begin` makes a state, `act` and `observe` use and update it while the agent plays, and `adapt` returns the state after
an adaptation step. Only `train_step` changes the agent itself, and evaluation never calls it. A method may overwrite
the state that it receives, so copy the state by `fork` first if you still need it.

A row is one trial in one task. Its E environments share the row's adaptation state. Tensors are `[T, R, E, ...]`, time
first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Generic, NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor
from typing_extensions import TypeVar

from metarl.config import check_config
from metarl.devices import Device, resolve_device
from metarl.errors import InvalidValueError, did_you_mean, verbatim
from metarl.families.family import Family, State
from metarl.families.registry import agent_class, make_family
from metarl.families.tasks import Tasks
from metarl.rng import Rng

ConfigT = TypeVar("ConfigT", default=Any)
# Values that a step may report besides its reward: name to dtype, and the value for steps that do not report it.
REPORTED: dict[str, tuple[torch.dtype, np.generic]] = {
    "success": (torch.bool, np.False_),
    "expected_reward": (torch.float32, np.float32("nan")),
    "dense_reward": (torch.float32, np.float32("nan")),
}

AgentState = dict[str, Tensor]


class SimulatorState(NamedTuple):
    """State `[N, ...]`, task `[N, ...]` and time in the episode, `int64 [N]`, of a torch family's environments."""

    state: State
    task: dict[str, Tensor]
    time: Tensor


class Step(NamedTuple):
    """Input of `Agent.act`: the observations `obs` `[R, E, *obs]`; for privileged agents the `simulator`, else None."""

    obs: Tensor
    simulator: SimulatorState | None


class Feedback(NamedTuple):
    """Input of `Agent.observe`: `action`, `reward`, `terminated`, `truncated` of the last step, each `[R, E, ...]`."""

    action: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor


@dataclass(frozen=True)
class Budget:
    """The experience of one adaptation step: `envs` parallel environments, each for some `steps` or some `episodes`.

    With `steps`, an environment restarts when its episode ends, and its last episode may be incomplete. With
    `episodes`, an environment stops after so many whole episodes, and the rest of the rollout is masked.
    """

    envs: int = 1
    steps: int | None = None
    episodes: int | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.episodes is None):
            raise InvalidValueError("Budget", (self.steps, self.episodes), "either steps or episodes, and not both")
        for name in ("envs", "steps", "episodes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidValueError(f"Budget.{name}", value, "at least 1")


@dataclass
class Rollout:
    """The experience of R rows with E environments each, for T steps.

    Attributes:
        obs: `[T, R, E, *obs]`, observation before the step.
        action: `[T, R, E, *action]`, the policy's action, before `to_env`.
        reward: `float32 [T, R, E]`.
        terminated: `bool [T, R, E]`, the MDP ended with this step.
        truncated: `bool [T, R, E]`, the horizon was reached with this step.
        valid: `bool [T, R, E]`, False after an environment has finished its episodes.
        last_obs: `[R, E, *obs]`, observation after the last step.
        success: `bool [T, R, E]`, or None if the family does not report it.
        expected_reward: `float32 [T, R, E]`, mean of the random reward, or None if the family does not report it.
        dense_reward: `float32 [T, R, E]`, a denser reward for training alone, or None if the family does not report it.
        extras: `[T, R, E, ...]`, the further tensors that the agent's `act` returned.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    valid: Tensor
    last_obs: Tensor
    success: Tensor | None = None
    expected_reward: Tensor | None = None
    dense_reward: Tensor | None = None
    extras: dict[str, Tensor] = field(default_factory=dict)

    @property
    def ended(self) -> Tensor:
        """`bool [T, R, E]`: the episode ended with this step, terminated or truncated."""
        return self.terminated | self.truncated

    @property
    def episode_start(self) -> Tensor:
        """`bool [T, R, E]`: this step is the first step of an episode."""
        return torch.cat([torch.ones_like(self.ended[:1]), self.ended[:-1]])

    @property
    def time(self) -> Tensor:
        """`int64 [T, R, E]`: steps since the episode began."""
        t = torch.arange(len(self.reward), device=self.reward.device).view(-1, 1, 1)
        started = torch.where(self.episode_start, t, torch.zeros_like(t))
        return t - started.cummax(0).values

    @property
    def last_time(self) -> Tensor:
        """`int64 [R, E]`: the time of `last_obs`."""
        return torch.where(self.ended[-1], torch.zeros_like(self.time[-1]), self.time[-1] + 1)

    @property
    def env_steps(self) -> Tensor:
        """`int64 [R]`: environment steps of each row."""
        return self.valid.sum((0, 2))

    def by_row(self, values: Tensor) -> Tensor:
        """Reshape `[T, R, E, ...]` to `[R, T * E, ...]`: all samples of a row in one axis."""
        return values.transpose(0, 1).flatten(1, 2)

    def episodes(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of `values` `[T, R, E]` over each episode, and which episodes are whole.

        Returns:
            sums `float64 [R, E, M]`, and `bool [R, E, M]`. M is the largest number of episodes begun in an environment.
        """
        # on the CPU, because the order of sums in CUDA's scatter_add_ is not determined
        number = (self.episode_start.long().cumsum(0) - 1).cpu().permute(1, 2, 0)
        shape = (*self.reward.shape[1:], int(number.max()) + 1)
        counted = torch.where(self.valid, values, 0).double().cpu().permute(1, 2, 0)
        sums = torch.zeros(shape, dtype=torch.float64).scatter_add_(2, number, counted)
        ended = (self.ended & self.valid).long().cpu().permute(1, 2, 0)
        whole = torch.zeros(shape, dtype=torch.int64).scatter_add_(2, number, ended) > 0
        return sums.to(values.device), whole.to(values.device)

    def mean_return(self) -> Tensor:
        """`float64 [R]`: mean undiscounted return of the whole episodes of each row; NaN if there are none."""
        sums, whole = self.episodes(self.reward)
        return (sums * whole).sum((1, 2)) / whole.sum((1, 2))

    def rows(self, which: slice | Tensor) -> Rollout:
        """A subset of the rows."""
        names = ("obs", "action", "reward", "terminated", "truncated", "valid", *REPORTED)
        parts: dict[str, Any] = {n: None if (v := getattr(self, n)) is None else v[:, which] for n in names}
        extras = {k: v[:, which] for k, v in self.extras.items()}
        return Rollout(**parts, last_obs=self.last_obs[which], extras=extras)


class Trials(ABC):
    """R trials, one per row. An agent trains and adapts in them.

    Attributes:
        tasks: the tasks, one per row.
        rows: number of rows, R.
        keys: `int64 [R]`; all draws for a row descend from its key.
        key: `int`; all draws for the batch as a whole descend from it.
    """

    tasks: Tasks
    rows: int
    keys: Tensor
    key: int

    @abstractmethod
    def collect(
        self,
        agent: Agent,
        state: AgentState,
        adaptation_step: int,
        budget: Budget,
        deterministic: bool = False,
        *,
        final_obs: bool = False,
    ) -> tuple[Rollout, AgentState]:
        """Play `budget` in every row.

        Args:
            agent: the agent that acts.
            state: the agent's state, leading axis R. It may be overwritten; `fork` it first if you still need it.
            adaptation_step: number of adaptation steps taken before, part of the keys.
            budget: environments per row and steps or episodes per environment.
            deterministic: act deterministically (the mean or likeliest action) instead of sampling.
            final_obs: store the observation after each step, before any restart, as `extras["final_obs"]`.

        Raises:
            InvalidValueError: a reward, an observation or an action is not finite.
        """


class Agent(ABC, Generic[ConfigT]):
    """Base of all agents.

    Args:
        family: the family that the agent plays.
        config: an instance of the class's `Config`.
        seed: seed of the initial parameters and of the training.
        device: device of the agent's tensors.

    Attributes:
        Config: frozen dataclass of hyperparameters; the defaults; each field's docstring says where they differ from
            the paper's values.
        privileged: whether the agent receives the task and the state of the environments.
        is_recurrent: whether `observe` is called after every step. Such agents have one environment per row.
        learns: whether the agent has a `train_step`.
        fixed_tasks: whether all meta-updates play the same train tasks, the first `meta_batch_size`; row i is task i.
        head: an optional `PolicyHead`; `to_env` uses it to map the policy's actions to the action box.
        replays: starts of the names of those `tensors` that only training reads and that are large: replay memories. A
            benchmark keeps the weights of a finished training without them.
        takes: the families that the agent supports, in words. The constructor's error for other families contains it.
        capturable: whether `act` and `observe` launch the same kernels at every call, use only the state and parameters
            whose addresses never change, and copy nothing to or from the host. On CUDA, rollouts of torch families are
            then captured as CUDA graphs (`metarl.engine.cuda_graphs`).
    """

    name: ClassVar[str]
    Config: ClassVar[type[Any]]
    privileged: ClassVar[bool] = False
    is_recurrent: ClassVar[bool] = False
    learns: ClassVar[bool] = True
    fixed_tasks: ClassVar[bool] = False
    replays: ClassVar[tuple[str, ...]] = ()
    takes: ClassVar[str] = "any family"
    capturable: ClassVar[bool] = False

    def __init__(self, family: Family, config: ConfigT, seed: int = 0, device: torch.device | str = "cpu") -> None:
        check_config(self.name, config)
        self.family, self.seed, self.device = family, seed, torch.device(device)
        self.config: ConfigT = config

    @property
    def budget(self) -> Budget:
        """The budget of one adaptation step in evaluation. The default is one episode."""
        return Budget(envs=1, episodes=1)

    @abstractmethod
    def begin(self, rows: int, tasks: Tasks | None = None) -> AgentState:
        """The state at the start of a trial, tensors `[R, ...]`. Only privileged agents receive `tasks`, one a row."""

    @abstractmethod
    def act(
        self, state: AgentState, step: Step, rng: Rng, deterministic: bool
    ) -> tuple[Tensor, dict[str, Tensor], AgentState]:
        """Choose actions.

        Args:
            state: tensors `[R, ...]`.
            step: the observations, `[R, E, ...]`.
            rng: keyed draws, one key for each of the R * E environments.
            deterministic: return the mean or likeliest action instead of a sampled one.

        Returns:
            actions `[R, E, *action]`, further tensors to store in `Rollout.extras`, and the state.
        """

    def observe(self, state: AgentState, feedback: Feedback, active: Tensor | None) -> AgentState:
        """The state after a step. Rows with `active` `[R, E]` False must keep theirs. None: all are active."""
        return state

    def adapt(self, state: AgentState, rollout: Rollout) -> AgentState:
        """The state after one adaptation step on the collected rollout.

        If the step is impossible in a row, the row's state stays the same. `state["failed"]`, `int64 [R]`, counts such
        steps if the agent has it, and the evaluator reports their sum.
        """
        return state

    def interact(self, state: AgentState, trials: Trials, adaptation_step: int) -> tuple[Rollout, AgentState]:
        """Take one adaptation step: collect the budget, then adapt."""
        rollout, state = trials.collect(self, state, adaptation_step, self.budget)
        return rollout, self.adapt(state, rollout)

    def train_step(self, trials: Trials) -> dict[str, float]:
        """Make one meta-update on a batch of train tasks and return metrics by name."""
        raise InvalidValueError("agent", self.name, "an agent that learns")

    def check_iterations(self, iterations: int) -> None:
        """Before training, refuse a number of meta-updates that the agent does not support. By default, allow all."""
        return

    @property
    def meta_batch_size(self) -> int:
        """Number of train tasks in a meta-update."""
        return int(getattr(self.config, "meta_batch_size", 1))

    @property
    def train_env_steps(self) -> int | None:
        """Environment steps of one meta-update if no episode ends early; None if the number is not known before."""
        return None

    def fork(self, state: AgentState, rows: Tensor | None = None) -> AgentState:
        """An independent copy of the state, or of its rows `int64 [R']`."""
        return {k: v.clone() if rows is None else v[rows] for k, v in state.items()}

    def to_env(self, action: Tensor) -> Tensor:
        """Map the policy's actions, `[N, ...]`, to the environment's, by `head`. Without a head they stay the same.

        Raises:
            InvalidValueError: the action space is a Box, and the agent neither has a `head` nor overrides `to_env`.
        """
        if not maps_actions(self):
            expected = (
                f"a map of the policy's actions to {self.family.action_space}: keep a PolicyHead as self.head, or, if "
                "act returns the environment's own actions, write `def to_env(self, action): return action`"
            )
            raise InvalidValueError(f"{type(self).__name__}.to_env", verbatim("missing"), expected)
        head: Any = getattr(self, "head", None)
        out: Tensor = head.to_env(action) if hasattr(head, "to_env") else action
        return out

    def tensors(self) -> dict[str, Tensor]:
        """All tensors that training changes, for checkpoints. Their names and shapes are the same at all times."""
        return {}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`. The caller has checked names, shapes and dtypes."""
        assert not tensors, f"{self.name} has no tensors to load"


def make_agent(
    name: str, family: str | Family, *, seed: int = 0, device: Device = "cpu", config: Any = None, **overrides: object
) -> Agent:
    """Build a registered agent for a family.

    Args:
        name: name of the agent, for example "maml".
        family: a family or its id.
        seed: seed of the initial parameters and of the training.
        device: "auto", "cpu" or "cuda".
        config: an instance of the agent's `Config`; None is a config with default values.
        overrides: fields of the config to change.
    """
    return build_agent(agent_class(name), name, family, seed=seed, device=device, config=config, **overrides)


def build_agent(
    cls: type[Agent], name: str, family: str | Family, *, seed: int, device: str, config: object, **overrides: object
) -> Agent:
    """Build an agent of the class `cls`. The other arguments are those of `make_agent`."""
    config = cls.Config() if config is None else config
    if not isinstance(config, cls.Config):
        raise InvalidValueError("config", config, f"a {cls.__name__}.Config")
    known = {f.name for f in fields(config)}
    for key in (k for k in overrides if k not in known):
        raise InvalidValueError(f"hyperparameter of {name}", key, did_you_mean(key, known))
    built = make_family(family)
    if built.switches and adapts_between_episodes(cls):
        expected = f"one whose task stays: each adaptation step of {name} would begin the schedule of tasks anew"
        raise InvalidValueError(f"family of {name}", built.id, expected)
    try:
        agent = cls(built, replace(config, **overrides), seed, resolve_device(device))
        agent.family, agent.config, agent.seed, agent.device  # noqa: B018 - missing without super().__init__
    except AttributeError as error:
        if error.name not in ("family", "config", "seed", "device") or not isinstance(error.obj, cls):
            raise
        expected = f"{cls.__name__}.__init__ to begin with super().__init__(family, config, seed, device)"
        raise InvalidValueError(f"{cls.__name__}.{error.name}", verbatim("missing"), expected) from error
    return agent


def maps_actions(agent: Agent) -> bool:
    """Whether an agent maps its actions to the environment's. Only the actions of a Box space need a map."""
    own = type(agent).to_env is not Agent.to_env or hasattr(getattr(agent, "head", None), "to_env")
    return own or not isinstance(agent.family.action_space, Box)


def adapts_between_episodes(cls: type[Agent]) -> bool:
    """Whether an agent adapts on whole rollouts by `adapt` or `interact`, and not at every step by a memory."""
    return (cls.adapt, cls.interact) != (Agent.adapt, Agent.interact) and not cls.is_recurrent
