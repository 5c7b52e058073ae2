"""Probing an agent for its contract test: how it is built, played and trained, and what it holds by then."""

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
from metarl.contract.family_probe import culprit
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.families.family import Family
from metarl.families.gym_family import GymFamily
from metarl.rng import Rng, fold_in
from metarl.runs.train import train

ROWS = 3  # trials that are played side by side
HORIZON, BATCH = 6, 8  # steps of an episode and tasks of a meta-update, where there are more
METHODS = ("begin", "act", "observe", "adapt", "interact", "train_step", "fork", "to_env")
FOREIGN = {"metarl", "gymnasium", "numpy", "stable_baselines3", "torch"}  # whose objects hold nothing that is looked at
MOST_NAMED = 3

Held = dict[str, Any]


class AgentSubject:
    """An agent under test: its class and config, on a family with short episodes.

    Args:
        cls: the agent's class.
        family: what it plays; a copy with short episodes is played instead.
        config: its hyperparameters; with fewer tasks in a meta-update where the agent takes it.
        seed: of the agent, the tasks and all that is drawn.
        device: where it lives.
        updates: meta-updates that training makes before it is looked at.
    """

    def __init__(self, cls: type[Agent], family: Family, config: Any, seed: int, device: str, updates: int) -> None:
        self.cls, self.name, self.seed, self.device, self.updates = cls, cls.name, seed, device, updates
        self.family, self.config = self._cheapest(family, config)
        self.pool = EnvironmentPool(self.family, device)
        self.trained: tuple[Agent, ...] = ()  # alike, if nothing global was drawn from
        self.metrics: list[Any] = []  # of their training
        self.trained_tensors: Held = {}  # what they hold

    def _cheapest(self, family: Family, config: Any) -> tuple[Family, Any]:
        """Short episodes and few tasks in a meta-update, as far as the agent takes them."""
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
        """The agent as it is before training."""
        return build_agent(self.cls, self.name, self.family, seed=self.seed, device=self.device, config=self.config)

    def train(self, agent: Agent, start: int, count: int) -> list[dict[str, float]]:
        """Meta-updates from number `start` on; their metrics."""
        metrics: list[dict[str, float]] = []
        train(agent, start + count, start=start, on_iteration=lambda _, told: metrics.append(told))
        return metrics

    @property
    def learner(self) -> Agent:
        """An agent that has been trained, where it learns."""
        return self.trained[0] if self.trained else self.make()

    def width(self, agent: Agent) -> int:
        """Environments of a row that is scored."""
        return 1 if agent.is_recurrent else 2

    def trials(self, which: tuple[int, ...] = tuple(range(ROWS))) -> PoolTrials:
        """PoolTrials in some of the same tasks, always with the same randomness."""
        tasks = self.family.tasks("test", ROWS, self.seed)[np.array(which)]
        return PoolTrials(self.pool, tasks, seed=self.seed, purpose="check_agent")

    def begin(self, agent: Agent, trials: PoolTrials) -> AgentState:
        """The state at the start of trials."""
        return agent.begin(trials.rows, trials.tasks if agent.privileged else None)

    def play(self, agent: Agent) -> Held:
        """What evaluation sees after 0 and 1 adaptation steps, in digests; in the order in which it is played."""
        trials, seen = self.trials(), dict[str, Any]()
        state = self.begin(agent, trials)
        for k in range(2):
            for deterministic in (False, True):
                budget = Budget(envs=self.width(agent), episodes=1)
                rollout, _ = trials.collect(agent, agent.fork(state), k, budget, deterministic, "score")
                seen |= played(
                    rollout, f"{'deterministic' if deterministic else 'sampled'} actions after {k} adaptation steps"
                )
            if k == 0:
                rollout, state = agent.interact(state, trials, k)
                seen |= played(rollout, "actions while adapting")
        return seen

    def opening(self, agent: Agent, trials: PoolTrials, width: int) -> tuple[Step, Rng]:
        """What is seen at the first step of `width` environments of each row, and the draws of acting from then on."""
        keys = fold_in(trials.keys.unsqueeze(1), torch.arange(width)).flatten()
        envs = self.pool.get(len(keys))
        tasks = trials.tasks[np.repeat(np.arange(trials.rows), width)]
        obs = envs.begin(tasks, keys, self.family.horizon)
        step = Step(obs.view(trials.rows, width, *obs.shape[1:]), envs.simulator if agent.privileged else None)
        return step, Rng(fold_in(keys, 3).to(agent.device), self.family.horizon)

    def run(self, check: Callable[[AgentSubject], Iterator[str]]) -> list[str]:
        """The first sentence of one check, if it has any; an exception is one."""
        try:
            return [found for found in (next(check(self), None),) if found is not None]
        except Exception as error:
            return [self.crash(error, (check.__doc__ or "").rstrip("."))]

    def crash(self, error: Exception, checked: str) -> str:
        """An exception as a sentence."""
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        where = culprit(error) or "what it returns"
        return self.say(where, f"raising {said}", f"no exception while checking {checked!r}", f"mend {where}")

    def say(self, field: str, found: object, expected: object, fix: str) -> str:
        """One violation."""
        return sentence(f"{self.name} on {self.family.id}", field, found, expected, fix)


def sentence(who: str, field: str, found: object, expected: object, fix: str) -> str:
    """One violation."""
    return f"{who}: {field} is {found}, expected {expected}; to fix it, {fix}."


def shortened(family: Family) -> Family:
    """The same family with episodes of at most `HORIZON` steps, stepped in this process; the given one stays."""
    short = copy(family)
    short.horizon = min(short.horizon, HORIZON)
    if isinstance(short, GymFamily):
        short.stepping = "sync"
    return short


def played(rollout: Rollout, name: str) -> Held:
    """Digests of a rollout's actions and of what they led to, one step after another."""
    return {
        f"{name}, step {t}": (digest(rollout.action[t]), digest(rollout.reward[t])) for t in range(len(rollout.reward))
    }


# --- what an agent holds ---------------------------------------------------------------------------------------------


def digest(values: Tensor) -> tuple[Any, ...]:
    """Type, shape and a hash of the bits."""
    raw = values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return str(values.dtype), tuple(values.shape), hashlib.blake2b(raw, digest_size=16).digest()


def digests(tensors: Mapping[str, Tensor]) -> Held:
    """A digest of each tensor."""
    return {name: digest(values) for name, values in tensors.items()}


def holdings(agent: Agent) -> Held:
    """All that an agent's attributes hold by their path: numbers, texts, digests of tensors, arrays and generators.

    Dicts, lists, modules, optimizers, learning rate schedules and objects of the user's own are looked into. What has
    several paths stands under the first of them; short paths come first.
    """
    out: Held = {}
    seen: set[int] = set()
    for name, value in vars(agent).items():
        if name not in ("family", "config", "device"):
            _hold(value, name, out, seen)
    plain = {re.sub(r"\.(_parameters|_modules|_buffers)(?=\.)", "", path): value for path, value in out.items()}
    return dict(sorted(plain.items(), key=lambda item: len(re.findall(r"[.\[]", item[0]))))


def _hold(value: Any, path: str, out: Held, seen: set[int]) -> None:
    """Add what `value` holds, unless it was `seen` already."""
    if id(value) in seen:
        return
    if (leaf := _leaf(value)) is not None:
        out[path] = leaf
        if isinstance(value, Tensor):
            seen.add(id(value))
        return
    if not isinstance(value, tuple):  # Python shares equal ones
        seen.add(id(value))
    for name, part in _parts(value):
        _hold(part, path + name, out, seen)


def _leaf(value: Any) -> Any:
    """What a value is compared by; None if it has parts, or nothing to compare."""
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


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What lies in a value, and how that is written after its own name."""
    if isinstance(value, Mapping):
        for i, (key, part) in enumerate(value.items()):
            yield f".{key}" if isinstance(key, str) else f"[{i}]", part
    elif isinstance(value, (list, tuple, deque)):
        for i, part in enumerate(value):
            yield f"[{i}]", part
    elif _is_looked_into(value):
        for name, part in vars(value).items():
            yield f".{name}", part


def _is_looked_into(value: Any) -> bool:
    """Whether an object may hold what training changes."""
    if isinstance(value, type) or inspect.isroutine(value) or inspect.ismodule(value) or not hasattr(value, "__dict__"):
        return False
    if isinstance(value, (Family, EnvironmentPool)):
        return False
    module = type(value).__module__
    learns = isinstance(value, (Agent, torch.nn.Module)) or module.startswith("torch.optim")
    return learns or is_dataclass(value) or module.partition(".")[0] not in FOREIGN


def differing(a: Held, b: Held) -> list[str]:
    """The names whose values differ, or that only one of the two has, in order."""
    return [name for name in {**a, **b} if name not in a or name not in b or a[name] != b[name]]


def named(names: list[str]) -> str:
    """Some names, of different attributes if there are any, and how many more there are."""
    by_attribute = {re.split(r"[.\[]", name)[0]: name for name in reversed(names)}
    shown = [*sorted(by_attribute.values(), key=names.index), *(n for n in names if n not in by_attribute.values())]
    more = len(names) - MOST_NAMED
    return ", ".join(shown[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


@contextmanager
def watched(agent: Agent, look: Callable[[], Held]) -> Iterator[list[tuple[str, list[str]]]]:
    """Yield a list that fills with the methods of the agent that change what `look` sees, and what they change.

    A method that was called by another one stands before it.
    """
    found: list[tuple[str, list[str]]] = []

    def wrap(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            before = look()
            out = method(*args, **kwargs)
            if changed := differing(before, look()):
                found.append((name, changed))
            return out

        return call

    for name in METHODS:
        setattr(agent, name, wrap(name, getattr(agent, name)))
    try:
        yield found
    finally:
        for name in METHODS:
            delattr(agent, name)
