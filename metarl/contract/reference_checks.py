"""Checks of the reference returns and the expected rewards that a family reports."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from metarl.contract.family_probe import (
    EPISODES,
    MAX_COMPARED,
    MAX_STEPS,
    Subject,
)
from metarl.families.family import History
from metarl.rng import Rng, fold_in

STANDARD_ERRORS = 5.0
EXPECTED_ROUNDS, EXPECTED_DRAWS = 20, 20_000  # most rollouts; number of rewards that is enough
SILENT = 20  # an environment without a mean in these first steps reports none
MEANS = "report the reward's mean for this state, action and task, before anything is drawn"
RETURN_TOLERANCE = 1e-4  # both relative and absolute
FIX_REFERENCE = "correct references(), or the horizon, reward or optimal_action"


def references(subject: Subject) -> Iterator[str]:
    """References are finite, one per task, and agree with the returns of random and optimal actions."""
    tasks = subject.tasks(subject.wide)
    known = {name: np.asarray(values, dtype=np.float64) for name, values in subject.family.references(tasks).items()}
    for name, values in known.items():
        if values.shape != tasks.index.shape or not np.isfinite(values).all():
            found = f"of shape {values.shape}" if values.shape != tasks.index.shape else "not finite everywhere"
            yield subject.say(f"references()[{name!r}]", found, f"{len(tasks)} finite numbers", "return one per task")
            return
    if not known or subject.family.horizon >= MAX_STEPS:
        return
    floor, best, chance = known.get("floor"), known.get("informed_optimum"), subject.returns(tasks, optimal=False)
    if floor is not None:
        yield from _compare_returns(subject, "floor", floor, chance, "random actions")
        if best is not None and floor.mean() > best.mean() + RETURN_TOLERANCE * (1 + abs(best.mean())):
            expected = f"at most the informed optimum's {best.mean():.4g}"
            yield subject.say("mean floor", f"{floor.mean():.4g}", expected, FIX_REFERENCE)
    if best is not None and subject.optimal:
        reached = subject.returns(tasks, optimal=True)
        yield from _compare_returns(subject, "informed_optimum", best, reached, "optimal_action")
    elif best is not None and chance.mean() > best.mean():
        yield from _compare_returns(subject, "informed_optimum", best, chance, "random actions (at least)")


def posteriors(subject: Subject) -> Iterator[str]:
    """An exact posterior answers each query before each step, and before a trial's first step knows nothing of it."""
    queries = subject.family.queries()
    if queries is None:
        return
    tape = subject.rollout()
    played = torch.ones_like(tape.terminated)
    found = subject.family.posterior(History(tape.observation[:-1], tape.action, tape.reward, played))
    shape = (*tape.reward.shape, int(queries.query.max()) + 1)
    if tuple(found.shape) != shape or not bool(torch.isfinite(found).all()):
        what = f"of shape {tuple(found.shape)}" if tuple(found.shape) != shape else "not finite everywhere"
        yield subject.say("posterior(seen)", what, f"{shape}, an answer to each query before each step", "return means")
    elif bool((found[0] != found[0, :1]).any()):
        expected = "the prior's mean in all of them"
        yield subject.say(
            "posterior before the first step", "not the same in all trials", expected, "leave out its step"
        )


def _compare_returns(
    subject: Subject, name: str, reference: npt.NDArray[np.float64], returns: npt.NDArray[np.float64], who: str
) -> Iterator[str]:
    """Compare `reference` `[N]` with `returns` `[N, EPISODES]`, by their means and by the RMS over tasks."""
    error, slack = returns.mean(1) - reference, RETURN_TOLERANCE * (1 + np.abs(reference).mean())
    noise = np.sqrt(returns.var(1, ddof=1).mean() / EPISODES)  # standard error of one task's mean
    rms = np.sqrt((error**2).mean())
    if abs(error.mean()) > STANDARD_ERRORS * noise / np.sqrt(len(error)) + slack or rms > 2 * noise + slack:
        found = f"{reference.mean():.4g} on average over {len(error)} tasks and off by {rms:.2g} in one"
        expected = f"{returns.mean():.4g}, the return of {who}"
        yield subject.say(f"references()[{name!r}]", found, expected, FIX_REFERENCE)


def expected_rewards(subject: Subject) -> Iterator[str]:
    """The expected rewards that a family reports are the means of its rewards."""
    drawn: list[Tensor] = []
    for number in range(EXPECTED_ROUNDS if subject.torch else 3):
        yield from (found := list(_reward_draws(subject, number, drawn)))
        if found or not drawn:
            return
        if sum(part.shape[1] for part in drawn) >= EXPECTED_DRAWS:
            break
    mean, first, second = torch.cat(drawn, 1)
    # the error of a reward must have mean 0, must not correlate with the mean, nor with a second draw in the same state
    for product in (first, first * (mean - mean.mean()), first * second):
        bias, noise = float(product.mean()), float(product.std()) / len(mean) ** 0.5
        if abs(bias) > STANDARD_ERRORS * noise + RETURN_TOLERANCE * (1 + float(mean.abs().mean())):
            error = f"off by {-float(first.mean()):+.2g} on average"
            if subject.torch:
                error += f" and by about {max(0.0, float((first * second).mean())) ** 0.5:.2g} in a state"
            yield subject.say("info['expected_reward']", error, "the average reward of many draws", MEANS)
            return


def _reward_draws(subject: Subject, number: int, drawn: list[Tensor]) -> Iterator[str]:
    """Append `[3, N]` for each step of a rollout: the reported mean, and the errors of two draws of the reward.

    A Gymnasium environment cannot draw a step twice; its second error is 0.
    """
    rows = subject.tasks(subject.wide, number * subject.wide)
    rows = rows[np.repeat(np.arange(subject.wide), EPISODES)] if subject.torch else rows
    keys, steps = subject.keys(len(rows), number=2 + number), min(subject.steps, MAX_COMPARED)
    envs: Any = subject.pool.get(len(rows))
    envs.begin(rows, keys, steps)
    silent: int | None = None  # the first step without a reported mean
    for t, action in enumerate(subject.actions(keys, steps, held=False)):
        means, rewards = _drawn_twice(subject, envs, keys, t, action.to(envs.device))
        unknown = [mean is None for mean in means]
        if all(unknown) and not drawn:
            if subject.torch or t >= SILENT:
                return
            silent = t if silent is None else silent
            continue
        if any(unknown) or silent is not None:
            at = f"missing at step {t if silent is None else silent}"
            yield subject.say("info['expected_reward']", at, "a number in every step", MEANS)
            return
        if not means[0].isfinite().all() or not torch.equal(means[0], means[1]):
            found = "another number when the step is drawn again"
            if not means[0].isfinite().all():
                found = f"missing or not finite at step {t}"
            yield subject.say("info['expected_reward']", found, "one number for a state, action and task", MEANS)
            return
        drawn.append(torch.stack([means[0], *(reward - means[0] for reward in rewards)]).double().cpu())


def _drawn_twice(subject: Subject, envs: Any, keys: Tensor, t: int, action: Tensor) -> tuple[list[Any], list[Any]]:
    """Take a step; returns the reported means and the rewards of two draws."""
    if not subject.torch:
        out = envs.step(action)
        return [out.expected_reward] * 2, [out.reward, out.expected_reward]
    again = [Rng(fold_in(keys, 100 + i).to(envs.device)).seek(t) for i in range(2)]
    results = [subject.family.step(envs.state, action, envs.task, rng) for rng in again]
    envs.step(action)
    means = [result[3].get("expected_reward") if len(result) == 4 else None for result in results]
    return means, [result[1] for result in results]
