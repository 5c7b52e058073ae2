"""Training on hard tasks: the cross-entropy method moves the distribution from which train tasks are drawn.

RoML (Greenberg, Mannor, Chechik and Meirom 2023, arXiv:2301.11147, algorithm 1) trains for the mean return of the worst
tasks, and changes nothing of the meta-learner but its train tasks. Distributions, shares and rates are those of the
authors' code. A bounded parameter, as a share u of its range, has the distribution Beta(2 m, 2 - 2 m) with mean m; at
m = 1/2 it is uniform. A choice has a probability for each value. Other parameters keep their own distribution.

    metarl train maml --family metarl/CartPole-v0 --task-sampler cem
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from metarl import exact
from metarl.agent_base import Agent, AgentState, Budget, Rollout
from metarl.engine.rollout import PoolTrials
from metarl.errors import InvalidValueError
from metarl.families.distributions import Array, Choice, Distribution, Integers, LogUniform, Uniform
from metarl.families.family import Family
from metarl.families.tasks import Tasks
from metarl.rng import Rng, fold_in, make_key

Floats = npt.NDArray[np.float64]
SamplerName = Literal["family", "cem"]
ALPHA = 0.05  # share of the family's tasks, the worst ones, whose returns training is to raise
ORIGINAL = 0.2  # share of a meta-update's tasks that the family's own distribution draws
ELITE = 0.2  # least share of a meta-update's tasks toward which the distribution moves
RATE, TASKS = 0.5, 128  # share of the way that it moves after so many tasks
EDGE = 0.02  # least distance of a mean from 0 and 1, and share of a choice's probability that stays uniform
MOST_WEIGHT = 5.0  # likelihood ratios are clipped to [1 / this, this]
FEWEST = 5  # tasks in a meta-update
_MOVED = (Uniform, LogUniform, Integers, Choice)
_REDRAWS, _BLOCKS, _PROPOSALS = 256, 8, 8


class CrossEntropySampler:
    """Draws an agent's train tasks from a distribution that moves toward the tasks with the lowest returns.

    Args:
        agent: the agent that is trained.

    Attributes:
        place: where the distribution is: for each parameter that moves, the means of its elements, or the
            probabilities of a choice's values; `float64 [n]`.

    Raises:
        InvalidValueError: no parameter of the family can be moved, the family does not draw its tasks from its task
            space, or a meta-update has fewer than 5 tasks.
    """

    def __init__(self, agent: Agent) -> None:
        self.family, self.seed, self.size = agent.family, agent.seed, agent.meta_batch_size
        _check(agent)
        self.moved = {k: d for k, d in self.family.task_space.items() if _can_move(d)}
        self.place = {k: _original(d) for k, d in self.moved.items()}
        self.original = max(1, round(ORIGINAL * self.size))  # tasks of a meta-update, its first ones
        self._drawn: dict[str, Floats] = {}  # of the last draw: shares u `[N, n]`, or numbers of values `[N, 1]`

    def draw(self, iteration: int) -> Tasks:
        """The train tasks of an iteration; none is held out. `update` must follow, before the next draw.

        Raises:
            InvalidValueError: the draws have only held-out tasks.
        """
        index = np.arange(iteration * self.size, (iteration + 1) * self.size, dtype=np.int64)
        keys = fold_in(make_key("cem", self.family.id, self.seed), torch.from_numpy(index))
        space = dict(sorted(self.family.task_space.items()))
        values: dict[str, Array] = {k: np.empty((self.size, *d.shape), np.float32) for k, d in space.items()}
        self._drawn = {k: np.empty((self.size, _elements(d))) for k, d in self.moved.items()}
        pending = np.arange(self.size)
        expected = f"one of {self.family.id} whose hard tasks are not all held out"
        for attempt in range(_REDRAWS):
            at = fold_in(keys[torch.from_numpy(pending)], attempt)
            for number, (name, dist) in enumerate(space.items()):
                rng = Rng(fold_in(at, number))
                if name in self.moved:
                    self._drawn[name][pending] = self._shares(name, rng, pending < self.original)
                    values[name][pending] = _values(dist, self._drawn[name][pending])
                else:
                    values[name][pending] = dist.sample(rng).numpy()
            rows = {k: v[pending] for k, v in values.items()}
            tasks = Tasks(self.family.id, "custom", self.seed, index[pending], rows, space)
            pending = pending[self.family.held_out(tasks)]
            if not len(pending):
                return Tasks(self.family.id, "custom", self.seed, index, values, space)
        raise InvalidValueError("task_space", sorted(space), expected)

    def update(self, returns: Tensor | None) -> float:
        """Move toward the worst tasks of the last draw.

        Args:
            returns: of these tasks, `[N]`; NaN where there is none. None: they are not known.

        Returns:
            the threshold: the distribution moves to tasks whose return is not above it. It is the `ALPHA` quantile of
            the family's own tasks, or that of the `ELITE` share of all tasks if it is higher. NaN if there is none.

        Raises:
            InvalidValueError: the returns are not known.
        """
        if returns is None:
            expected = "'family' for an agent that plays in environments of its own, with returns that are not known"
            raise InvalidValueError("task_sampler", "cem", expected)
        scores = returns.double().cpu().numpy()
        known = np.isfinite(scores)
        if not known[: self.original].any():
            return math.nan
        reference = np.quantile(scores[: self.original][known[: self.original]], ALPHA)
        threshold = max(float(reference), float(np.quantile(scores[known], ELITE)))
        elite = known & (scores <= threshold)
        weight = self._likelihood_ratios()[elite]
        rate = RATE * min(1.0, self.size / TASKS)
        for name, dist in self.moved.items():
            aim = _fitted(dist, self._drawn[name][elite], weight / weight.sum())
            self.place[name] = (1.0 - rate) * self.place[name] + rate * aim
        return threshold

    def _shares(self, name: str, rng: Rng, original: npt.NDArray[np.bool_]) -> Floats:
        """Draws of a parameter that moves, for N tasks: shares u `[N, n]`, or numbers of values `[N, 1]`."""
        dist, place = self.moved[name], self.place[name]
        at = np.where(original[:, None], _original(dist), place)
        if isinstance(dist, Choice):
            edges = np.cumsum(at, 1)
            u = exact.uniform(rng.bits(1)) * edges[:, -1:]
            numbers: Floats = np.minimum((edges <= u).sum(1, keepdims=True), len(place) - 1).astype(np.float64)
            return numbers
        return beta(rng, at)

    def _likelihood_ratios(self) -> Floats:
        """How much likelier the family's own distribution makes each task of the last draw, clipped: `[N]`."""
        total = np.zeros(self.size)
        for name, dist in self.moved.items():
            drawn, place = self._drawn[name], self.place[name]
            if isinstance(dist, Choice):
                total -= np.log(place[drawn[:, 0].astype(np.int64)] * len(place))
            else:
                a, u = torch.from_numpy(2.0 * place), torch.from_numpy(drawn).clamp(EDGE, 1.0 - EDGE)
                constant = torch.lgamma(a) + torch.lgamma(2.0 - a)
                total -= ((a - 1.0) * u.log() + (1.0 - a) * torch.log1p(-u) - constant).sum(1).numpy()
        total[: self.original] = 0.0
        return np.clip(np.exp(total), 1.0 / MOST_WEIGHT, MOST_WEIGHT)

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, list[float]]:
        """Where the distribution is, as JSON data."""
        return {name: place.tolist() for name, place in self.place.items()}

    def load_state(self, state: object, where: str) -> None:
        """The inverse of `state`.

        Args:
            state: what `state` returned.
            where: the file, for the error message.

        Raises:
            InvalidValueError: it belongs to another family, or is damaged.
        """
        expected = f"numbers that it can have reached, for each of {sorted(self.moved)}, those of {self.family.id}"
        try:
            given = dict(state)  # type: ignore[call-overload]
            found = {name: np.array(v) for name, v in given.items()}
        except (TypeError, ValueError):
            given, found = {}, {}
        if set(found) != set(self.place) or not all(self._possible(name, v) for name, v in found.items()):
            raise InvalidValueError(f"task_sampler of {where}", state, expected)
        self.place = found

    def _possible(self, name: str, place: npt.NDArray[Any]) -> bool:
        """Whether the distribution of a parameter can have moved there."""
        if place.dtype != np.float64 or place.shape != self.place[name].shape:
            return False
        if isinstance(self.moved[name], Choice):
            return bool((place >= EDGE / len(place) - 1e-9).all()) and abs(float(place.sum()) - 1.0) < 1e-6
        return bool(((place >= EDGE) & (place <= 1.0 - EDGE)).all())


class ScoredTrials(PoolTrials):
    """Trials that keep the returns of what was played last in them: the adapted agent's, if it adapts.

    Attributes:
        returns: mean return of each row's whole episodes, `float64 [R]`; NaN if there are none. None before `collect`.
    """

    returns: Tensor | None = None

    def collect(
        self,
        agent: Agent,
        state: AgentState,
        adaptation_step: int,
        budget: Budget,
        deterministic: bool = False,
        purpose: str = "collect",
        final_obs: bool = False,
    ) -> tuple[Rollout, AgentState]:
        """See `PoolTrials.collect`."""
        rollout, state = super().collect(agent, state, adaptation_step, budget, deterministic, purpose, final_obs)
        self.returns = rollout.mean_return()
        return rollout, state


def make_sampler(name: Any, agent: Agent) -> CrossEntropySampler | None:
    """The sampler of a run's `task_sampler`; None for "family".

    Raises:
        InvalidValueError: there is no such sampler, or it cannot draw the agent's tasks.
    """
    if name not in ("family", "cem"):
        raise InvalidValueError("task_sampler", name, "'family' or 'cem'")
    return CrossEntropySampler(agent) if name == "cem" else None


def beta(rng: Rng, mean: Floats) -> Floats:
    """Draws of Beta(2 m, 2 - 2 m), for means m `[N, n]` in (0, 1), with the same bits on every machine (Joehnk 1964).

    A proposal is accepted with a probability of at least 1/2. After 64 rejections the draw is m.
    """
    out, left, n = mean.copy(), np.ones(mean.shape, dtype=bool), mean.shape[1]
    power = np.stack([2.0 * mean, 2.0 - 2.0 * mean], 1)[:, :, None]  # [N, 2, 1, n]
    for block in range(_BLOCKS):
        u = exact.uniform(rng.seek(block).bits(2 * _PROPOSALS * n)).reshape(-1, 2, _PROPOSALS, n)
        x, y = np.moveaxis(exact.exp(np.maximum(exact.log(u) / power, -700.0)), 1, 0)  # [N, proposals, n] each
        accepted = x + y <= 1.0
        first = np.take_along_axis(x / (x + y), accepted.argmax(1)[:, None], 1)[:, 0]
        new = left & accepted.any(1)
        out[new] = first[new]
        left &= ~new
        if not left.any():
            break
    return out


def _check(agent: Agent) -> None:
    """Refuse a family or an agent whose tasks cannot be moved."""
    family, name = agent.family, next(iter(agent.family.task_space))
    if agent.fixed_tasks:
        raise InvalidValueError("task_sampler", "cem", f"'family' for {agent.name}, whose train tasks stay the same")
    if type(family).tasks_at is not Family.tasks_at:
        expected = f"'family' for {family.id}: its parameter {name} is not drawn from its task_space"
        raise InvalidValueError("task_sampler", "cem", expected)
    if not any(map(_can_move, family.task_space.values())):
        kinds = ", ".join(kind.__name__ for kind in _MOVED)
        found = type(family.task_space[name]).__name__
        expected = f"'family' for {family.id}: its parameter {name} is a {found}, and one of {kinds} can be moved"
        raise InvalidValueError("task_sampler", "cem", expected)
    if agent.meta_batch_size < FEWEST:
        expected = (
            f"'family' for {agent.name} with {agent.meta_batch_size} train tasks in a meta-update, or at least {FEWEST}"
        )
        raise InvalidValueError("task_sampler", "cem", expected)


def _can_move(dist: Distribution) -> bool:
    return isinstance(dist, _MOVED) and not (isinstance(dist, Choice) and len(dist.values) == 1)


def _elements(dist: Distribution) -> int:
    """Numbers that are drawn for one value."""
    return 1 if isinstance(dist, Choice) else math.prod(dist.shape)


def _original(dist: Distribution) -> Floats:
    """Where the family's own distribution is: means `[n]`, or probabilities `[n]`."""
    if isinstance(dist, Choice):
        return np.full(len(dist.values), 1.0 / len(dist.values))
    return np.full(_elements(dist), 0.5)


def _values(dist: Distribution, drawn: Floats) -> Array:
    """A parameter's values `float32 [N, *shape]` from shares u `[N, n]`, or from numbers of values `[N, 1]`."""
    if isinstance(dist, Choice):
        return dist.table[drawn[:, 0].astype(np.int64)]
    assert isinstance(dist, (Uniform, LogUniform, Integers))
    if isinstance(dist, Integers):
        count = dist.high - dist.low + 1
        out = dist.low + np.minimum(np.floor(drawn * count), count - 1)
    elif isinstance(dist, LogUniform):
        out = dist.low * exact.exp(exact.log(dist.high / dist.low) * drawn)
    else:
        out = dist.low + (dist.high - dist.low) * drawn
    return out.astype(np.float32).reshape(len(drawn), *dist.shape)


def _fitted(dist: Distribution, drawn: Floats, weight: Floats) -> Floats:
    """The place of weighted draws: their mean, or how often they have each value. `weight` `[N]` sums to 1."""
    if isinstance(dist, Choice):
        share: Floats = np.bincount(drawn[:, 0].astype(np.int64), weight, len(dist.values)).astype(np.float64)
        return (1.0 - EDGE) * share + EDGE / len(dist.values)
    return np.asarray(np.clip((drawn * weight[:, None]).sum(0), EDGE, 1.0 - EDGE), np.float64)
