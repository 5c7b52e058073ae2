"""Probe of a task family for its contract test: rollouts of fixed actions, and sentences about violations."""

from __future__ import annotations

import copy
import re
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from torch import Tensor

from metarl.engine.pool import EnvironmentPool
from metarl.errors import MetaRLError
from metarl.families.family import Family, TorchFamily
from metarl.families.gym_family import GymFamily
from metarl.families.tasks import Tasks
from metarl.rng import Rng, fold_in, make_key

MAX_STEPS, MAX_COMPARED = 2000, 200  # most steps of a rollout, and of a rollout that is repeated
WIDE, EPISODES = 64, 8  # tasks of a torch family side by side; episodes of each task for its references
LIBRARIES = ("torch", "gymnasium", "numpy", "stable_baselines3", "sb3_contrib", "cloudpickle")
BUILT_IN = ("envs", "agents")  # folders of metarl's own families and agents
CORE, STDLIB = Path(__file__).parents[1], Path(sysconfig.get_path("stdlib"))


class Tape(NamedTuple):
    """Rollout of N environments for T steps."""

    observation: Tensor  # [T + 1, N, *obs], after a restart the new episode's first
    final_obs: Tensor  # [T, N, *obs], before any restart
    reward: Tensor  # [T, N]
    terminated: Tensor  # [T, N]
    truncated: Tensor  # [T, N]
    action: Tensor  # [T, N, *action]


class Subject:
    """A family under test, with its environments. The arguments are those of `check_family`."""

    def __init__(self, family: Family, count: int, seed: int, device: str, registered: bool) -> None:
        self.family: Any = family
        self.count, self.seed, self.device, self.registered = count, seed, device, registered
        self.pool = EnvironmentPool(family, device)
        self.torch = isinstance(family, TorchFamily)
        self.optimal = isinstance(family, TorchFamily) and family.has_optimal_action
        self.wide = WIDE if self.torch else count
        self.name = type(family).__name__ if family.id == Family.id else str(family.id)

    def run(self, check: Callable[[Subject], Iterator[str]]) -> list[str]:
        """Sentences of one check. An exception becomes a sentence."""
        found: list[str] = []
        try:
            with torch.no_grad():
                found.extend(check(self))
        except Exception as error:
            built_in = is_built_in(type(self.family))
            found.append(crash_sentence(self.name, error, (check.__doc__ or "").rstrip("."), self.owner, built_in))
        return found

    @property
    def owner(self) -> str:
        """Name of the class or environment that the user wrote."""
        built_from = self.family.env if isinstance(self.family, GymFamily) else type(self.family)
        return built_from if isinstance(built_from, str) else getattr(built_from, "__qualname__", repr(built_from))

    def checked_episode(self) -> None:
        """Play one episode of a Gymnasium environment in this process; every step checks the returned values."""
        actions = copy.deepcopy(self.family.action_space)
        actions.seed(self.seed)
        with closing(self.family.make_env(self.tasks(1))) as env:
            env.reset(seed=self.seed)
            for _ in range(min(int(self.family.horizon), MAX_COMPARED)):
                if any(env.step(actions.sample())[2:4]):
                    return

    def say(self, field: str, found: object, expected: object, fix: str) -> str:
        """Describe one violation."""
        return f"{self.name}: {field} is {found}, expected {expected}; to fix it, {fix}."

    def compare(self, what: str, a: Tape, b: Tape, fix: str, tolerance: float = 0.0) -> list[str]:
        """List one sentence if two rollouts differ."""
        found = difference(a, b, tolerance)
        return [self.say(what, f"different ({found})", "the same rollout", fix)] if found else []

    @property
    def steps(self) -> int:
        """Steps of a rollout: one episode and the first step of the next."""
        return min(int(self.family.horizon) + 1, MAX_STEPS)

    def tasks(self, count: int | None = None, start: int = 0) -> Tasks:
        """Train tasks from number `start` on."""
        return self.family.tasks("train", count or self.count, self.seed, start)  # type: ignore[no-any-return]

    def keys(self, count: int | None = None, number: int = 0) -> Tensor:
        """One key for each environment, `int64 [N]`."""
        return fold_in(make_key("check_family", self.seed, number), torch.arange(count or self.count))

    def actions(self, keys: Tensor, steps: int, held: bool = True) -> Tensor:
        """Random actions `[T, N, *action]`. With `held`, every second environment repeats one action for an episode."""
        space, rng = self.family.action_space, Rng(fold_in(keys, 7), steps)
        if isinstance(space, spaces.Discrete):
            plan = torch.stack([rng.seek(t).integers(int(space.n)) for t in range(steps)])
        elif space.is_bounded():
            low, width = torch.as_tensor(space.low), torch.as_tensor(space.high - space.low)
            plan = torch.stack([low + width * rng.seek(t).uniform(*space.shape) for t in range(steps)])
        else:
            normal = torch.stack([rng.seek(t).normal(*space.shape) for t in range(steps)])
            plan = normal.clamp(torch.as_tensor(space.low), torch.as_tensor(space.high))
        if held:
            plan[:, 1::2] = plan[torch.arange(steps) // self.family.horizon * self.family.horizon, 1::2]
        return plan

    def play(self, tasks: Tasks, keys: Tensor, actions: Tensor | None, pool: EnvironmentPool | None = None) -> Tape:
        """Play a rollout with `actions` `[T, N, *action]`; None means the optimal actions, for `steps` steps."""
        envs: Any = (pool or self.pool).get(len(tasks))
        steps = self.steps if actions is None else len(actions)
        first, rows = envs.begin(tasks, keys, steps).clone(), []
        for t in range(steps):
            best = self.family.optimal_action(envs.state, envs.task, envs.t) if actions is None else actions[t]
            out = envs.step(best.to(envs.device))
            rows.append([x.clone() for x in (out.obs, out.final_obs, out.reward, out.terminated, out.truncated, best)])
        obs, *rest = (torch.stack(column).cpu() for column in zip(*rows, strict=True))
        return Tape(torch.cat([first.cpu()[None], obs]), *rest)

    def rollout(self, start: int = 0, pool: EnvironmentPool | None = None) -> Tape:
        """Play tasks `start, start + 1, ...`; every call uses the same random actions and keys."""
        actions = self.actions(self.keys(), min(self.steps, MAX_COMPARED))
        return self.play(self.tasks(start=start), self.keys(), actions, pool)

    def returns(self, tasks: Tasks, optimal: bool) -> npt.NDArray[np.float64]:
        """Returns of `EPISODES` episodes of each task under optimal or random actions, `[N, EPISODES]`."""
        rows = tasks[np.repeat(np.arange(len(tasks)), EPISODES)]
        keys = self.keys(len(rows), number=1)
        tape = self.play(rows, keys, None if optimal else self.actions(keys, self.family.horizon, held=False))
        ended = (tape.terminated | tape.truncated).long()
        first_episode = ended.cumsum(0) - ended == 0
        return torch.where(first_episode, tape.reward.double(), 0.0).sum(0).view(len(tasks), EPISODES).numpy()


def is_built_in(cls: type[Any]) -> bool:
    """Whether a class is part of metarl; metarl's tests check its contract."""
    return cls.__module__.partition(".")[0] == "metarl"


def crash_sentence(name: str, error: Exception, checked: str, owner: str = "", built_in: bool = True) -> str:
    """Describe an exception in a sentence. The last argument is that of `culprit`."""
    if isinstance(error, MetaRLError):
        return f"{name}: {error}; to fix it, declare or return what is expected."
    place, message = culprit(error, built_in), f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    fix = f"correct {place}" if place else "compare its arguments and results with its declarations"
    raised = f"{place or owner or name} raised {message}" + ("" if place else f" in {innermost(error)}")
    return f"{name}: {raised}, expected no exception while checking {checked!r}; to fix it, {fix}."


class Place(NamedTuple):
    """A line of a traceback."""

    file: Path
    line: int
    function: str

    @property
    def package(self) -> str:
        """Name of the installed package that holds the file; empty for code that is not installed."""
        parts = self.file.parts
        root = next((i for i, part in enumerate(parts) if part in ("site-packages", "dist-packages")), len(parts))
        below = parts[root + 1 :]
        if below[:2] == ("gymnasium", "envs") and len(below) > 3:  # Gymnasium's environments
            return "gymnasium.envs"
        return below[0] if below else ""

    @property
    def shown(self) -> str:
        """The function and its line, for a message."""
        return f"{self.function} ({self.file.name}:{self.line})"

    @property
    def is_built_in(self) -> bool:
        """Whether the line belongs to a family or an agent of metarl."""
        file = self.file.resolve()  # `envs` and `agents` may be links
        return any(file.is_relative_to((CORE / folder).resolve()) for folder in BUILT_IN)

    @property
    def is_users(self) -> bool:
        """Whether the line may belong to the environment's author: not to metarl's core or a library."""
        if self.file.is_relative_to(CORE) and self.file.relative_to(CORE).parts[0] not in BUILT_IN:
            return False
        standard = not self.package and (self.file.is_relative_to(STDLIB) or str(self.file).startswith("<frozen"))
        return not standard and self.package not in LIBRARIES


def culprit(error: Exception, built_in: bool = True) -> str:
    """Innermost function that the author can correct, `Class.function (file:line)`; empty if there is none.

    Code outside metarl comes first, and of that the code that is not installed. Otherwise it is the package that was
    called first, the environment's own.

    Args:
        error: what was raised.
        built_in: whether a family or an agent of metarl may be the culprit, if no code outside metarl is.
    """
    places = [place for place in _places(error) if place.is_users]
    places = [place for place in places if not place.is_built_in] or (places if built_in else [])
    home = "" if any(not place.package for place in places) else next((place.package for place in places), "")
    own = [place for place in places if place.package == home]
    return own[-1].shown if own else ""


def innermost(error: Exception) -> str:
    """The function that raised an error, `Class.function (file:line)`."""
    return _places(error)[-1].shown


def _places(error: Exception) -> list[Place]:
    """Lines of a traceback, and of the tracebacks of other processes, which are notes of the error."""
    frames = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    here = [Place(Path(c.co_filename), line, c.co_qualname.rpartition("<locals>.")[2]) for c, line in frames]
    noted = re.findall(r'File "(.+?)", line (\d+), in (\S+)', "\n".join(getattr(error, "__notes__", [])))
    return here + [Place(Path(file), int(line), function) for file, line, function in noted]


def difference(a: Tape, b: Tape, tolerance: float = 0.0) -> str:
    """Describe the first difference of two rollouts; empty if there is none."""
    first: list[tuple[int, str]] = []
    for name in ("observation", "final_obs", "reward", "terminated", "truncated"):
        x, y = getattr(a, name).double(), getattr(b, name).double()
        wrong = ~torch.isclose(x, y, rtol=tolerance, atol=tolerance, equal_nan=True)
        if wrong.any():
            at = tuple(wrong.nonzero()[0].tolist())
            first.append((at[0], f"{name} {x[at]:.6g} and {y[at]:.6g} at step {at[0]}"))
    return min(first)[1] if first else ""


def where(values: Tensor, mask: Tensor) -> str:
    """Describe the first value where `mask` `[T, N, ...]` is true."""
    at = tuple(mask.nonzero()[0].tolist())
    return f"{values[at].item():g} at step {at[0]} of train task {at[1]}"


def leaves(tree: Any, name: str = "") -> dict[str, Any]:
    """Leaves of nested dicts and tuples, by path."""
    if not isinstance(tree, (Mapping, tuple)):
        return {name: tree}
    items = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
    return {path: leaf for key, part in items for path, leaf in leaves(part, f"{name}.{key}".lstrip(".")).items()}
