"""The figure of meta-training: returns against the environment steps of meta-training."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from metarl.errors import InvalidValueError
from metarl.evaluation.intervals import interval, seed_parts
from metarl.evaluation.results import Floats, Results
from metarl.report.entries import Entry, one_group
from metarl.report.figures.curves import add_legend, drawn_for, with_commas
from metarl.report.figures.style import STYLE, plain

_FEWEST_SEEDS = 3  # for an interval over seeds
_RETURN = re.compile(r"return_(\d+)")  # R_k in training
_LINE = 75  # letters that have room above the figure
_POINTS = 100  # most points of a curve of returns in training


class Training(NamedTuple):
    """The returns of one agent during meta-training.

    Attributes:
        env_steps: environment steps of meta-training, `[n]`.
        k: the numbers of adaptation steps that were measured; empty where the return is that of a mean episode of a
            trial.
        returns: R_k, `[seed, n, k]`; with the last axis of size 1 where `k` is empty.
        tasks: the validation tasks in words; "" for returns on the train tasks, while the agent was trained.
    """

    env_steps: Floats
    k: list[int]
    returns: Floats
    tasks: str


def training_of(results: Results) -> Training | None:
    """The validation returns in the results' meta data, without any those in training; None if there are neither.

    Raises:
        InvalidValueError: they are not arrays of one size.
    """
    curves = results.meta.get("curves")
    if not isinstance(curves, dict):
        return _in_training(results)
    expected = "env_steps [n], k, returns [seed][n][k], split, and tasks"
    try:
        steps, returns = (np.asarray(curves[name], np.float64) for name in ("env_steps", "returns"))
        k, tasks = [int(k) for k in curves["k"]], f"{int(curves['tasks'])} of split {str(curves['split'])!r}"
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidValueError(f"curves of the results of {results.agent}", curves, expected) from error
    fits = steps.ndim == 1 and returns.ndim == 3 and returns.shape[1:] == (len(steps), len(k))
    if not fits or not returns.size or not np.isfinite(returns).all():
        raise InvalidValueError(f"curves of the results of {results.agent}", list(returns.shape), expected)
    return Training(steps, k, returns, tasks)


def _in_training(results: Results) -> Training | None:
    """The returns on train tasks, means over neighbouring meta-updates: at most 100 points.

    Where the environment steps of each meta-update are not kept, all are taken to be equally long. Seeds whose steps
    differ are interpolated at common ones. None if seeds have other numbers of meta-updates, or a return is not finite.
    """
    curves, totals = results.meta.get("training_curves"), results.meta.get("train_env_steps")
    if not curves or not totals:
        return None
    seeds = [_numbers(results, curve) for curve in _listed(results, curves)]
    names = sorted((int(found[1]), name) for name in seeds[0] if (found := _RETURN.fullmatch(name)))
    names = names or [(-1, "episode_return")] * ("episode_return" in seeds[0])
    count = {len(seed[name]) for seed in seeds for _, name in names if name in seed}
    if len(count) != 1 or any(name not in seed for seed in seeds for _, name in names) or len(totals) != len(seeds):
        return None
    parts = np.array_split(np.arange(n := count.pop()), min(_POINTS, n))
    ends = np.array([part[-1] + 1 for part in parts])
    grown = [_steps(seed, total, n)[ends - 1] for seed, total in zip(seeds, totals, strict=True)]
    returns = np.array([[[seed[name][part].mean() for _, name in names] for part in parts] for seed in seeds])
    if not np.isfinite(returns).all() or not np.isfinite(grown).all():
        return None
    steps = grown[0]
    if not np.allclose(grown, steps):
        steps = np.linspace(max(own[0] for own in grown), min(own[-1] for own in grown), len(parts))
        columns = range(len(names))
        returns = np.array(
            [
                np.stack([np.interp(steps, own, seed[:, i]) for i in columns], 1)
                for own, seed in zip(grown, returns, strict=True)
            ]
        )
    return Training(steps, [k for k, _ in names if k >= 0], returns, "")


def _listed(results: Results, curves: Any) -> list[Any]:
    """The curves of all seeds.

    Raises:
        InvalidValueError: they are something else.
    """
    if isinstance(curves, list) and all(isinstance(curve, dict) for curve in curves):
        return curves
    raise InvalidValueError(f"training_curves of the results of {results.agent}", curves, "an object for each seed")


def _numbers(results: Results, curve: Mapping[str, Any]) -> dict[str, Floats]:
    """The curves of one seed as arrays.

    Raises:
        InvalidValueError: they are something else.
    """
    found = {}
    for name, values in curve.items():
        try:
            found[name] = np.asarray(values, np.float64)
        except (TypeError, ValueError):
            found[name] = np.zeros((0, 0))
        if found[name].ndim != 1 or not found[name].size:
            where = f"{name} in the training_curves of the results of {results.agent}"
            raise InvalidValueError(where, values, "a list of numbers")
    return found


def _steps(seed: Mapping[str, Floats], total: Any, updates: int) -> Floats:
    """The environment steps up to the end of each meta-update."""
    known = seed.get("env_steps")
    if known is not None and len(known) == updates:
        return known
    return float(total) * np.arange(1, updates + 1) / updates


def training_figure(results: Sequence[Results]) -> Figure | None:
    """Draw returns against the environment steps of meta-training; None if no results have any.

    The strong line is the return after the last k, the thin one that of k = 0: means over seeds. The band is the 95 %
    interval over seeds, or goes from the lowest to the highest seed if there are two.
    """
    return draw_training(one_group(results))


def draw_training(entries: Sequence[Entry], *, legend: bool = True) -> Figure | None:
    """Draw the figure of `training_figure`."""
    shown = [(e, training) for e in entries if (training := training_of(e.results)) is not None]
    if not shown:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.7), layout="constrained")
        ax = figure.subplots()
        for entry, training in shown:
            with drawn_for(ax, entry):
                _draw_growth(ax, entry, training)
        ax.set_xlabel("environment steps of meta-training")
        ax.set_ylabel(plain(_measured([training for _, training in shown])))
        ax.set_title(training_words([training for _, training in shown]), loc="left", size=8)
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.xaxis.set_major_formatter(with_commas())
        if legend:
            add_legend(figure, [e for e, _ in shown])
    return figure


def _measured(shown: Sequence[Training]) -> str:
    """What the returns of a figure were measured on."""
    tasks = sorted({t.tasks for t in shown if t.tasks})
    validated = f"validation tasks ({tasks[0]})" if len(tasks) == 1 else "validation tasks"
    if not tasks:
        return "return in training, on train tasks"
    return f"return on {validated}" if all(t.tasks for t in shown) else f"return on {validated}, or in training"


def _draw_growth(ax: Axes, entry: Entry, training: Training) -> None:
    x, color = training.env_steps, entry.color
    last = training.returns[..., -1]
    low, high = seed_band(last)
    ax.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
    ax.plot(x, last.mean(0), color=color, ls=entry.line, marker=entry.marker, markevery=-(-len(x) // 10))
    if training.k[:1] == [0] and len(training.k) > 1:
        ax.plot(x, training.returns[..., 0].mean(0), color=color, linewidth=0.8, linestyle="--")


def seed_band(values: Floats) -> tuple[Floats, Floats]:
    """The band around a mean of `[seed, n]`: the 95 % interval over at least 3 seeds, else the lowest and highest."""
    if len(values) >= _FEWEST_SEEDS:
        return interval(values.mean(0), seed_parts(values))
    return values.min(0), values.max(0)


def training_words(shown: Sequence[Training]) -> str:
    """What the lines and bands of a training figure are."""
    last = [f"k = {' or '.join(map(str, ks))}" for ks in [sorted({t.k[-1] for t in shown if t.k})] if ks]
    last += ["a mean episode of a trial"] if any(not t.k for t in shown) else []
    words = f"strong: {', or '.join(last)}"
    words += "; thin: k = 0" if any(t.k[:1] == [0] and len(t.k) > 1 for t in shown) else ""
    counts = {len(t.returns) for t in shown}
    bands = ["95 % interval over seeds"] if max(counts) >= _FEWEST_SEEDS else []
    bands += ["lowest to highest of 2 seeds"] if 2 in counts else []
    band = f"band: {' or '.join(bands)}" if bands else "one seed, no band"
    return f"{words};{' ' if len(words) + len(band) < _LINE else chr(10)}{band}"
