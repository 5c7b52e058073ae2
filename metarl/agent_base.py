"""The agent contract and its data: adaptation is an explicit value, never a mutated module.

`begin` makes a state, `act` and `observe` play with it, `adapt` returns the next one; `train_step` alone changes the
agent itself, and evaluation never calls it. A state that was passed on is dead: `fork` first to keep it.

A row is one trial in one task; its E environments share the row's adaptation state. Tensors are `[T, R, E, ...]`, time
first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Generic, Literal, NamedTuple, cast

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor
from typing_extensions import TypeVar

from metarl.config import check_config
from metarl.errors import InvalidValueError, did_you_mean, verbatim
from metarl.families.family import Family, State
from metarl.families.registry import agent_class, make_family
from metarl.families.tasks import Tasks
from metarl.rng import Rng

ConfigT = TypeVar("ConfigT", default=Any)
Device = Literal["auto", "cpu", "cuda"]  # "auto": CUDA where there is one
# What a step may report besides its reward: the type, and what stands where it does not.
REPORTED: dict[str, tuple[torch.dtype, Any]] = {
    "success": (torch.bool, np.False_),
    "expected_reward": (torch.float32, np.float32("nan")),
}

AgentState = dict[str, Tensor]


class SimulatorState(NamedTuple):
    """What N environments of a torch family are in. Only privileged agents see it."""

    state: State  # of the family, tensors [N, ...]
    task: dict[str, Tensor]  # [N, ...]
    time: Tensor  # int64 [N], steps since the episode began


class Step(NamedTuple):
    """What an agent sees when it acts."""

    obs: Tensor  # [R, E, *obs]
    simulator: SimulatorState | None  # of the N = R * E environments, for privileged agents alone


class Feedback(NamedTuple):
    """What a recurrent agent is given after every step. Tensors are `[R, E, ...]`."""

    action: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor


@dataclass(frozen=True)
class Budget:
    """What one adaptation step eats: `envs` side by side, each for `steps` steps or for `episodes` whole episodes.

    With `steps`, an environment restarts when its episode ends and its last episode may be cut; with `episodes`, it
    stops after that many, and the rest of the rollout is masked.
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
    """What R rows of E environments did for T steps.

    Attributes:
        obs: `[T, R, E, *obs]`.
        action: as the policy sees it, `[T, R, E, *action]`.
        reward: `float32 [T, R, E]`.
        terminated: `bool [T, R, E]`, the MDP ended with this step.
        truncated: `bool [T, R, E]`, the horizon was reached with this step.
        valid: `bool [T, R, E]`, False where an environment had finished its episodes.
        last_obs: `[R, E, *obs]`, what would be seen next.
        success: `bool [T, R, E]` where the family reports it.
        expected_reward: `float32 [T, R, E]`, the mean that each reward was drawn around, where the family reports it.
        extras: what the agent's `act` returned beside its action, `[T, R, E, ...]`.
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
    extras: dict[str, Tensor] = field(default_factory=dict)

    @property
    def ended(self) -> Tensor:
        """`bool [T, R, E]`: the episode was over with this step, for either reason."""
        return self.terminated | self.truncated

    @property
    def episode_start(self) -> Tensor:
        """`bool [T, R, E]`: this step is an episode's first."""
        return torch.cat([torch.ones_like(self.ended[:1]), self.ended[:-1]])

    @property
    def time(self) -> Tensor:
        """`int64 [T, R, E]`: steps since the episode began."""
        t = torch.arange(len(self.reward), device=self.reward.device).view(-1, 1, 1)
        started = torch.where(self.episode_start, t, torch.zeros_like(t))
        return t - started.cummax(0).values

    @property
    def last_time(self) -> Tensor:
        """`int64 [R, E]`: the time that `last_obs` is at."""
        return torch.where(self.ended[-1], torch.zeros_like(self.time[-1]), self.time[-1] + 1)

    @property
    def env_steps(self) -> Tensor:
        """`int64 [R]`: environment steps each row used."""
        return self.valid.sum((0, 2))

    def by_row(self, values: Tensor) -> Tensor:
        """`[T, R, E, ...]` to `[R, T * E, ...]`, a row's samples together."""
        return values.transpose(0, 1).flatten(1, 2)

    def episodes(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of `values` `[T, R, E]` over each episode, and which episodes are whole.

        Returns:
            sums and `bool` of the same shape `[R, E, M]`, M the largest number of episodes begun in an environment.
        """
        # on the CPU, because CUDA's scatter_add_ adds in any order
        number = (self.episode_start.long().cumsum(0) - 1).cpu().permute(1, 2, 0)
        shape = (*self.reward.shape[1:], int(number.max()) + 1)
        counted = torch.where(self.valid, values, 0).double().cpu().permute(1, 2, 0)
        sums = torch.zeros(shape, dtype=torch.float64).scatter_add_(2, number, counted)
        ended = (self.ended & self.valid).long().cpu().permute(1, 2, 0)
        whole = torch.zeros(shape, dtype=torch.int64).scatter_add_(2, number, ended) > 0
        return sums.to(values.device), whole.to(values.device)

    def mean_return(self) -> Tensor:
        """`float64 [R]`: mean undiscounted return of the whole episodes of each row (NaN without any)."""
        sums, whole = self.episodes(self.reward)
        return (sums * whole).sum((1, 2)) / whole.sum((1, 2))

    def rows(self, which: slice | Tensor) -> Rollout:
        """A subset of the rows."""
        cut = {n: getattr(self, n)[:, which] for n in ("obs", "action", "reward", "terminated", "truncated", "valid")}
        reported = {n: getattr(self, n) for n in REPORTED}
        reported = {n: None if v is None else v[:, which] for n, v in reported.items()}
        extras = {k: v[:, which] for k, v in self.extras.items()}
        return Rollout(**cut, last_obs=self.last_obs[which], **reported, extras=extras)


class Trials(ABC):
    """R trials in given tasks, one per row: what an agent trains and adapts on.

    Attributes:
        tasks: one per row.
        rows: R.
        keys: `int64 [R]`, which all that is drawn for a row descends from.
        key: `int`, which all that an update draws for the batch as a whole descends from.
    """

    tasks: Tasks
    rows: int
    keys: Tensor
    key: int

    @abstractmethod
    def collect(
        self, agent: Agent, state: AgentState, adaptation_step: int, budget: Budget, deterministic: bool = False
    ) -> tuple[Rollout, AgentState]:
        """Play `budget` in every row.

        Args:
            agent: who acts.
            state: its state, leading axis R; dead afterwards (fork it first to keep it).
            adaptation_step: adaptation steps taken before, part of the keys.
            budget: environments per row and steps or episodes per environment.
            deterministic: the likeliest actions instead of sampled ones.

        Raises:
            InvalidValueError: a reward, an observation or an action is not finite.
        """


class Agent(ABC, Generic[ConfigT]):
    """Base of all agents.

    Args:
        family: what it will play.
        config: an instance of the class's `Config`.
        seed: of its initial parameters and its training.
        device: where it lives.

    Attributes:
        Config: frozen dataclass of hyperparameters, the paper's values as defaults.
        privileged: whether it may see the task and the environments.
        is_recurrent: whether `observe` must be called after every step; such agents have one environment per row.
        learns: whether `train_step` does anything.
        head: a `PolicyHead`, if it has one, by which `to_env` maps the policy's actions to the action box.
        takes: which families it takes, in words; what the constructor says when it refuses another.
        capturable: whether `act` and `observe` are the same kernels at every call, on the state and on parameters that
            stay where they are, nothing read back and nothing copied from the host; CUDA rollouts of torch families are
            then captured as CUDA graphs (`metarl.engine.cuda_graphs`).
    """

    name: ClassVar[str]
    Config: ClassVar[type[Any]]
    privileged: ClassVar[bool] = False
    is_recurrent: ClassVar[bool] = False
    learns: ClassVar[bool] = True
    takes: ClassVar[str] = "any family"
    capturable: ClassVar[bool] = False

    def __init__(self, family: Family, config: ConfigT, seed: int = 0, device: torch.device | str = "cpu") -> None:
        check_config(self.name, config)
        self.family, self.seed, self.device = family, seed, torch.device(device)
        self.config: ConfigT = config

    @property
    def budget(self) -> Budget:
        """What one adaptation step eats, in evaluation: one more episode, unless overridden."""
        return Budget(envs=1, episodes=1)

    @abstractmethod
    def begin(self, rows: int, tasks: Tasks | None = None) -> AgentState:
        """The state at a trial's start, tensors `[R, ...]`; privileged agents alone are given `tasks`, one per row."""

    @abstractmethod
    def act(
        self, state: AgentState, step: Step, rng: Rng, deterministic: bool
    ) -> tuple[Tensor, dict[str, Tensor], AgentState]:
        """Actions `[R, E, *action]`, extras to store beside them, and the state.

        Args:
            state: tensors `[R, ...]`.
            step: what is seen, `[R, E, ...]`.
            rng: keyed draws, one key for each of the R * E environments.
            deterministic: the likeliest action instead of a sampled one.
        """

    def observe(self, state: AgentState, feedback: Feedback, active: Tensor | None) -> AgentState:
        """The state after a step; rows where `active` `[R, E]` is False must keep theirs (None: all are active)."""
        return state

    def adapt(self, state: AgentState, rollout: Rollout) -> AgentState:
        """The state after one adaptation step on what was collected.

        A step that cannot be taken leaves the row as it was; `state["failed"]` `int64 [R]`, if there is one, counts it,
        and the evaluator reports the sum.
        """
        return state

    def interact(self, state: AgentState, trials: Trials, adaptation_step: int) -> tuple[Rollout, AgentState]:
        """One adaptation step: collect the budget, then adapt."""
        rollout, state = trials.collect(self, state, adaptation_step, self.budget)
        return rollout, self.adapt(state, rollout)

    def train_step(self, trials: Trials) -> dict[str, float]:
        """One meta-update on a batch of train tasks; metrics by name."""
        raise InvalidValueError("agent", self.name, "an agent that learns")

    def check_iterations(self, iterations: int) -> None:
        """Refuse, before anything is trained, a number of meta-updates that the agent cannot make; any, by default."""
        return

    @property
    def meta_batch_size(self) -> int:
        """Train tasks per meta-update."""
        return int(getattr(self.config, "meta_batch_size", 1))

    @property
    def train_env_steps(self) -> int | None:
        """Environment steps that one meta-update plays where no episode ends early; None: not known beforehand."""
        return None

    def fork(self, state: AgentState, rows: Tensor | None = None) -> AgentState:
        """A copy of the rows `int64 [R']` (all by default), safe from what happens to the original."""
        return {k: v.clone() if rows is None else v[rows] for k, v in state.items()}

    def to_env(self, action: Tensor) -> Tensor:
        """From the policy's actions `[N, ...]` to the environment's: by `head`, or as they are if there is none.

        Raises:
            InvalidValueError: the actions are a Box, and the agent has neither a `head` nor a `to_env` of its own.
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
        """All that training changes, for checkpoints; the same names and shapes before the first update and after."""
        return {}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`; names, shapes and dtypes have been checked."""
        assert not tensors, f"{self.name} has no tensors to load"


def make_agent(
    name: str, family: str | Family, *, seed: int = 0, device: Device = "cpu", config: Any = None, **overrides: Any
) -> Agent:
    """Build a registered agent for a family.

    Args:
        name: for example "maml".
        family: a family or its id.
        seed: of initial parameters and training.
        device: "auto", "cpu" or "cuda".
        config: an instance of the agent's `Config`; its defaults if None.
        overrides: fields of the config to change.
    """
    return build_agent(agent_class(name), name, family, seed=seed, device=device, config=config, **overrides)


def build_agent(
    cls: type[Agent], name: str, family: str | Family, *, seed: int, device: str, config: Any, **overrides: Any
) -> Agent:
    """Build an agent of a class; arguments as in `make_agent`."""
    config = cls.Config() if config is None else config
    if not isinstance(config, cls.Config):
        raise InvalidValueError("config", config, f"a {cls.__name__}.Config")
    known = {f.name for f in fields(config)}
    for key in overrides:
        if key not in known:
            raise InvalidValueError(f"hyperparameter of {name}", key, did_you_mean(key, known))
    built = make_family(family)
    if built.switches and adapts_between_episodes(cls):
        expected = f"one whose task stays: each adaptation step of {name} would begin the schedule of tasks anew"
        raise InvalidValueError(f"family of {name}", built.id, expected)
    chosen = replace(cast("Any", config), **overrides)
    return cls(built, chosen, seed, resolve_device(device))


def maps_actions(agent: Agent) -> bool:
    """Whether an agent says how its actions become the environment's; those of a Box alone need be mapped."""
    own = type(agent).to_env is not Agent.to_env or hasattr(getattr(agent, "head", None), "to_env")
    return own or not isinstance(agent.family.action_space, Box)


def check_hears(agent: Agent) -> None:
    """Refuse an agent whose `observe` is never called, or is to be called and missing.

    Raises:
        InvalidValueError: it overrides `observe` and is not recurrent, or the other way round.
    """
    cls, name = type(agent), type(agent).__name__
    hears = cls.observe is not Agent.observe
    if hears and not (cls.is_recurrent or agent.is_recurrent):
        raise InvalidValueError(f"{name}.is_recurrent", False, f"True, or {name}.observe is never called")
    if agent.is_recurrent and not hears:
        expected = "the state after a step, because is_recurrent is True"
        raise InvalidValueError(f"{name}.observe", verbatim("missing"), expected)


def adapts_between_episodes(cls: type[Agent]) -> bool:
    """Whether an agent adapts on what it has collected, and not at every step by what it remembers."""
    return (cls.adapt, cls.interact) != (Agent.adapt, Agent.interact) and not cls.is_recurrent


def resolve_device(device: str | torch.device) -> torch.device:
    """The device of a word, or of "cuda:N"; asking for CUDA where there is none is an error."""
    name, available = str(device), torch.cuda.is_available()
    if name not in ("auto", "cpu", "cuda") and not name.startswith("cuda:"):
        raise InvalidValueError("device", device, did_you_mean(name, ("auto", "cpu", "cuda")))
    if name.startswith("cuda") and not available:
        raise InvalidValueError("device", device, "'cpu': this PyTorch finds no CUDA device")
    return torch.device(("cuda" if available else "cpu") if name == "auto" else name)
