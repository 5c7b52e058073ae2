"""The agent contract: adaptation is an explicit value, never a mutated module.

`begin` makes a state, `act` and `observe` play with it, `adapt` returns the next one; `train_step` alone changes the
agent itself, and evaluation never calls it. A state that was passed on is dead: `fork` first to keep it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from numbers import Real
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from metarl.errors import InvalidValueError, did_you_mean
from metarl.family import Family
from metarl.registry import agent_class, make_family
from metarl.rng import Rng
from metarl.rollout import AgentState, Budget, Feedback, Rollout, Step, Trials
from metarl.tasks import Tasks

__all__ = ["Agent", "AgentState", "adam_tensors", "check_number", "load_adam", "make_agent", "resolve_device"]

_KINDS: dict[type[Any], tuple[tuple[type[Any], ...], str]] = {  # of a hyperparameter, by its default
    bool: ((bool,), "True or False"),
    Real: ((Real,), "a number"),
    str: ((str,), "text"),
    tuple: ((tuple, list), "a list"),
    dict: ((dict,), "names with values"),
}


class Agent(ABC):
    """Base of all agents.

    Args:
        family: what it will play.
        config: an instance of the class's `Config`.
        seed: of its initial parameters and its training.
        device: where it lives.

    Attributes:
        Config: frozen dataclass of hyperparameters, the paper's values as defaults.
        privileged: whether it may see the task and the environments.
        remembers: whether `observe` must be called after every step; such agents have one slot per row.
        learns: whether `train_step` does anything.
        takes: which families it takes, in words; what the constructor says when it refuses another.
        recordable: whether `act` and `observe` are the same kernels at every call, on the state and on parameters that
            stay where they are, nothing read back and nothing copied from the host; CUDA rollouts of torch families are
            then recorded and replayed (`metarl.recording`).
    """

    name: ClassVar[str]
    Config: ClassVar[type[Any]]
    privileged: ClassVar[bool] = False
    remembers: ClassVar[bool] = False
    learns: ClassVar[bool] = True
    takes: ClassVar[str] = "any family"
    recordable: ClassVar[bool] = False

    def __init__(self, family: Family, config: Any, seed: int = 0, device: torch.device | str = "cpu") -> None:
        self.family, self.config, self.seed, self.device = family, config, seed, torch.device(device)

    @property
    @abstractmethod
    def budget(self) -> Budget:
        """What one adaptation step eats, in evaluation."""

    @abstractmethod
    def begin(self, rows: int, tasks: Tasks | None = None) -> AgentState:
        """The state at a trial's start, tensors `[R, ...]`; privileged agents alone are given `tasks`, one per row."""

    @abstractmethod
    def act(self, state: AgentState, step: Step, rng: Rng, mode: str) -> tuple[Tensor, dict[str, Tensor], AgentState]:
        """Actions `[R, E, *action]`, extras to store beside them, and the state.

        Args:
            state: tensors `[R, ...]`.
            step: what is seen, `[R, E, ...]`.
            rng: keyed draws, one key for each of the R * E slots.
            mode: "sampled", or "mean" for the likeliest action.
        """

    def observe(self, state: AgentState, told: Feedback, active: Tensor | None) -> AgentState:
        """The state after a step; rows where `active` `[R, E]` is False must keep theirs (None: all are active)."""
        return state

    def adapt(self, state: AgentState, rollout: Rollout) -> AgentState:
        """The state after one adaptation step on what was collected.

        A step that cannot be taken leaves the row as it was; `state["failed"]` `int64 [R]`, if there is one, counts it,
        and the evaluator reports the sum.
        """
        return state

    def interact(self, state: AgentState, trials: Trials, stage: int) -> tuple[Rollout, AgentState]:
        """One adaptation step: collect the budget, then adapt."""
        rollout, state = trials.collect(self, state, stage, self.budget)
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
        """From the policy's actions `[N, ...]` to the environment's."""
        return action

    def tensors(self) -> dict[str, Tensor]:
        """All that training changes, for checkpoints; the same names and shapes before the first update and after."""
        return {}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`; names, shapes and dtypes have been checked."""
        assert not tensors, f"{self.name} has no tensors to load"


def make_agent(
    name: str, family: str | Family, *, seed: int = 0, device: str = "cpu", config: Any = None, **overrides: Any
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
    _check_kinds(name, chosen)
    return cls(built, chosen, seed, resolve_device(device))


def _check_kinds(name: str, config: Any) -> None:
    """Refuse hyperparameters of another kind than their defaults are of."""
    for field in fields(config):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        value, kind = getattr(config, field.name), next((k for k in _KINDS if isinstance(default, k)), None)
        if kind is None:
            continue
        taken, words = _KINDS[kind]
        fits = isinstance(value, taken) and not (kind is Real and isinstance(value, bool))
        if isinstance(default, tuple) and all(isinstance(part, Real) for part in default):
            fits, words = fits and all(isinstance(part, Real) for part in value), "a list of numbers"
        if not fits:
            raise InvalidValueError(f"{name}.{field.name}", value, words)


def adapts_between_episodes(cls: type[Agent]) -> bool:
    """Whether an agent adapts on what it has collected, and not at every step by what it remembers."""
    return (cls.adapt, cls.interact) != (Agent.adapt, Agent.interact) and not cls.remembers


def adam_tensors(optimizer: torch.optim.Optimizer, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Adam's moments and step counts of named parameters, for checkpoints; zeros before its first step."""
    out: dict[str, Tensor] = {}
    for name, p in params.items():
        slots = optimizer.state.get(p) or {
            "step": torch.zeros((), device=p.device),
            "exp_avg": torch.zeros_like(p),
            "exp_avg_sq": torch.zeros_like(p),
        }
        out |= {f"adam.{name}.{k}": v for k, v in slots.items()}
    return out


def load_adam(optimizer: torch.optim.Optimizer, params: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `adam_tensors`."""
    for name, p in params.items():
        slots = {k: tensors[f"adam.{name}.{k}"].to(p.device).clone() for k in ("step", "exp_avg", "exp_avg_sq")}
        optimizer.state[p] = slots


def resolve_device(device: str) -> torch.device:
    """Resolve "auto" to CUDA where there is one; asking for CUDA where there is none is an error."""
    if device not in ("auto", "cpu", "cuda") and not str(device).startswith("cuda:"):
        raise InvalidValueError("device", device, did_you_mean(str(device), ("auto", "cpu", "cuda")))
    available = torch.cuda.is_available()
    if str(device).startswith("cuda") and not available:
        raise InvalidValueError("device", device, "'cpu': this PyTorch finds no CUDA device")
    return torch.device("cuda" if device == "auto" and available else "cpu" if device == "auto" else device)


def check_number(agent: str, config: Any, **limits: tuple[float, float]) -> None:
    """Refuse hyperparameters outside [low, high], and fractions where the default is a whole number, by name."""
    defaults = {f.name: f.default for f in fields(config)} if is_dataclass(config) else {}
    for field, (low, high) in limits.items():
        value = getattr(config, field)
        whole = type(defaults.get(field)) is int
        kind = (int,) if whole else (int, float)
        if not (isinstance(value, kind) and low <= value <= high):
            expected = f"a {'whole ' if whole else ''}number from {low:g} to {high:g}"
            raise InvalidValueError(f"{agent}.{field}", value, expected)
