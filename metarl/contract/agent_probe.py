"""Probe of an agent for its contract test: builds, plays and trains the agent, and lists what its attributes hold."""

from __future__ import annotations

import hashlib
import inspect
import random
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import is_dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.agent_base import Agent, AgentState, Budget, Rollout, Step, build_agent
from metarl.contract.family_probe import culprit, innermost, is_built_in
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.families.family import Family
from metarl.families.gym_family import GymFamily
from metarl.rng import Rng, fold_in
from metarl.runs.train import train

ROWS = 3  # trials that are played side by side
HORIZON, BATCH = 6, 8  # at most: steps of an episode, tasks of a meta-update
METHODS = ("begin", "act", "observe", "adapt", "interact", "train_step", "fork", "to_env")
FOREIGN = {"metarl", "gymnasium", "numpy", "stable_baselines3", "torch"}  # packages whose objects are not searched
MOST_NAMED = 3

Holdings = dict[str, object]  # path of an attribute to a value that can be compared


class AgentSubject:
    """An agent under test: its class and config, and a family with short episodes.

    Args:
        cls: the agent's class.
        family: the family; the agent plays a copy of it with short episodes.
        config: the hyperparameters; the meta-batch is made smaller if the agent accepts that.
        seed: the seed of the agent, the tasks and all draws.
        device: the device of the agent.
        updates: meta-updates of a trained agent.
    """

    def __init__(self, cls: type[Agent], family: Family, config: Any, seed: int, device: str, updates: int) -> None:
        self.cls, self.name, self.seed, self.device, self.updates = cls, cls.name, seed, device, updates
        self.family, self.config = self._cheapest(family, config)
        self.pool = EnvironmentPool(self.family, device)
        self.trained: tuple[Agent, ...] = ()  # equal, unless they draw from global generators
        self.metrics: list[Any] = []  # metrics of their training
        self.trained_tensors: Holdings = {}  # digests of their tensors

    def _cheapest(self, family: Family, config: Any) -> tuple[Family, Any]:
        """Shorten episodes and reduce the meta-batch, as far as the agent accepts it."""
        short, few = shortened(family), config
        if getattr(config, "meta_batch_size", 0) > BATCH:
            few = replace(config, meta_batch_size=BATCH)
        for setting in ((short, few), (short, config)):
            self.family, self.config = setting
            with suppress(Exception):
                self.make()
                return setting
        return family, config

    def make(self) -> Agent:
        """Make an untrained agent."""
        return build_agent(self.cls, self.name, self.family, seed=self.seed, device=self.device, config=self.config)

    def train(self, agent: Agent, start: int, count: int) -> list[dict[str, float]]:
        """Make `count` meta-updates from number `start` on; returns their metrics."""
        metrics: list[dict[str, float]] = []
        train(agent, start + count, start=start, on_iteration=lambda _, row: metrics.append(row))
        return metrics

    @property
    def learner(self) -> Agent:
        """The trained agent; an untrained one if the agent does not learn."""
        return self.trained[0] if self.trained else self.make()

    def width(self, agent: Agent) -> int:
        """Number of environments of a row."""
        return 1 if agent.is_recurrent else 2

    def trials(self, which: tuple[int, ...] = tuple(range(ROWS))) -> PoolTrials:
        """Trials in some of the `ROWS` tasks, always with the same keys."""
        tasks = self.family.tasks("test", ROWS, self.seed)[np.array(which)]
        return PoolTrials(self.pool, tasks, seed=self.seed, purpose="check_agent")

    def begin(self, agent: Agent, trials: PoolTrials) -> AgentState:
        """State at the start of trials."""
        return agent.begin(trials.rows, trials.tasks if agent.privileged else None)

    def play(self, agent: Agent) -> Holdings:
        """Evaluate after 0 and 1 adaptation steps; returns digests of the rollouts, in their order."""
        trials, digests_of = self.trials(), Holdings()
        state = self.begin(agent, trials)
        for k in range(2):
            for deterministic in (False, True):
                budget = Budget(envs=self.width(agent), episodes=1)
                rollout, _ = trials.collect(agent, agent.fork(state), k, budget, deterministic, "score")
                digests_of |= played(
                    rollout, f"{'deterministic' if deterministic else 'sampled'} actions after {k} adaptation steps"
                )
            if k == 0:
                rollout, state = agent.interact(state, trials, k)
                digests_of |= played(rollout, "actions while adapting")
        return digests_of

    def opening(self, agent: Agent, trials: PoolTrials, width: int) -> tuple[Step, Rng]:
        """Start `width` environments of each row; returns their first `Step`, and the `Rng` of acting."""
        keys = fold_in(trials.keys.unsqueeze(1), torch.arange(width)).flatten()
        envs = self.pool.get(len(keys))
        tasks = trials.tasks[np.repeat(np.arange(trials.rows), width)]
        obs = envs.begin(tasks, keys, self.family.horizon)
        step = Step(obs.view(trials.rows, width, *obs.shape[1:]), envs.simulator if agent.privileged else None)
        return step, Rng(fold_in(keys, 3).to(agent.device), self.family.horizon)

    def run(self, check: Callable[[AgentSubject], Iterator[str]]) -> list[str]:
        """First sentence of one check, or an empty list. An exception becomes a sentence."""
        try:
            return [violation for violation in (next(check(self), None),) if violation is not None]
        except Exception as error:
            return [self.crash(error, (check.__doc__ or "").rstrip("."))]

    def crash(self, error: Exception, checked: str) -> str:
        """Describe an exception in a sentence."""
        message = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        place = culprit(error, is_built_in(self.cls))
        fix = f"correct {place}"
        if not place:  # no line of the user's own code was running
            place, fix = innermost(error), f"correct what {self.cls.__name__} gives to it"
        return self.say(place, f"raising {message}", f"no exception while checking {checked!r}", fix)

    def say(self, field: str, found: object, expected: object, fix: str) -> str:
        """Describe one violation of this agent."""
        return sentence(f"{self.name} on {self.family.id}", field, found, expected, fix)


def sentence(who: str, field: str, found: object, expected: object, fix: str) -> str:
    """Describe one violation."""
    return f"{who}: {field} is {found}, expected {expected}; to fix it, {fix}."


def shortened(family: Family) -> Family:
    """Copy a family, with episodes of at most `HORIZON` steps that are stepped in this process."""
    short = copy(family)
    short.horizon = min(short.horizon, HORIZON)
    if isinstance(short, GymFamily):
        short.stepping = "sync"
    return short


def played(rollout: Rollout, name: str) -> Holdings:
    """Digests of the actions and rewards of a rollout, step by step."""
    return {
        f"{name}, step {t}": (digest(rollout.action[t]), digest(rollout.reward[t])) for t in range(len(rollout.reward))
    }


# --- what an agent holds ---------------------------------------------------------------------------------------------


def digest(values: Tensor) -> tuple[Any, ...]:
    """Dtype, shape and a hash of the bits."""
    raw = values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return str(values.dtype), tuple(values.shape), hashlib.blake2b(raw, digest_size=16).digest()


def digests(tensors: Mapping[str, Tensor]) -> Holdings:
    """Digest of each tensor."""
    return {name: digest(values) for name, values in tensors.items()}


def holdings(agent: Agent) -> Holdings:
    """List what an agent's attributes hold, by path: numbers, texts, digests of tensors, arrays and generators.

    The search goes into dicts, lists, modules, optimizers, learning rate schedules and the user's objects. A value with
    several paths is listed under the first one. Short paths come first.
    """
    out: Holdings = {}
    seen: set[int] = set()
    for name, value in vars(agent).items():
        if name not in ("family", "config", "device"):
            _hold(value, name, out, seen)
    plain = {re.sub(r"\.(_parameters|_modules|_buffers)(?=\.)", "", path): value for path, value in out.items()}
    return dict(sorted(plain.items(), key=lambda item: len(re.findall(r"[.\[]", item[0]))))


def _hold(value: object, path: str, out: Holdings, seen: set[int]) -> None:
    """Add the leaves of `value` to `out`, unless its id is in `seen`."""
    if id(value) in seen:
        return
    if (leaf := _leaf(value)) is not None:
        out[path] = leaf
        if isinstance(value, Tensor):
            seen.add(id(value))
        return
    if not isinstance(value, tuple):  # Python may share equal tuples
        seen.add(id(value))
    for name, part in _parts(value):
        _hold(part, path + name, out, seen)


def _leaf(value: object) -> object:
    """Convert a value to a form that can be compared; None if it has parts, or nothing to compare."""
    if isinstance(value, Tensor):
        return digest(value)
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes() if value.dtype != object else repr(value)
    if isinstance(value, (bool, int, float, complex, str, bytes, np.generic)):
        return repr(value)
    if isinstance(value, torch.Generator):
        return digest(value.get_state())
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    return value.getstate() if isinstance(value, random.Random) else None


def _parts(value: object) -> Iterator[tuple[str, object]]:
    """Parts of a value, each with the suffix of its path."""
    if isinstance(value, Mapping):
        for i, (key, part) in enumerate(value.items()):
            yield f".{key}" if isinstance(key, str) else f"[{i}]", part
    elif isinstance(value, (list, tuple, deque)):
        for i, part in enumerate(value):
            yield f"[{i}]", part
    elif _is_searched(value):
        for name, part in vars(value).items():
            yield f".{name}", part


def _is_searched(value: object) -> bool:
    """Whether an object may hold something that training changes."""
    if isinstance(value, type) or inspect.isroutine(value) or inspect.ismodule(value) or not hasattr(value, "__dict__"):
        return False
    if isinstance(value, (Family, EnvironmentPool)):
        return False
    module = type(value).__module__
    learns = isinstance(value, (Agent, torch.nn.Module)) or module.startswith("torch.optim")
    return learns or is_dataclass(value) or module.partition(".")[0] not in FOREIGN


def differing(a: Mapping[str, object], b: Mapping[str, object]) -> list[str]:
    """Names whose values differ, and names that only one of the two has, in order."""
    return [name for name in {**a, **b} if name not in a or name not in b or a[name] != b[name]]


def named(names: list[str]) -> str:
    """Join at most `MOST_NAMED` names, of different attributes first, and the number of the others."""
    by_attribute = {re.split(r"[.\[]", name)[0]: name for name in reversed(names)}
    shown = [*sorted(by_attribute.values(), key=names.index), *(n for n in names if n not in by_attribute.values())]
    more = len(names) - MOST_NAMED
    return ", ".join(shown[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


@contextmanager
def watched(agent: Agent, look: Callable[[], Holdings]) -> Iterator[list[tuple[str, list[str]]]]:
    """Watch which methods of the agent change the result of `look`.

    Yields a list that is filled with the methods' names and the names of what they change. If a method calls another
    one, the called method comes first.
    """
    changes: list[tuple[str, list[str]]] = []

    def wrap(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            before = look()
            out = method(*args, **kwargs)
            if changed := differing(before, look()):
                changes.append((name, changed))
            return out

        return call

    for name in METHODS:
        setattr(agent, name, wrap(name, getattr(agent, name)))
    try:
        yield changes
    finally:
        for name in METHODS:
            delattr(agent, name)
