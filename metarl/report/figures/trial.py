"""Figures of behavior: the return of each episode of a trial, its arms or paths, and paths before and after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from metarl.errors import InvalidValueError
from metarl.evaluation.results import Floats, Results
from metarl.report.entries import Entry, evenly, mean_references, most_informative, one_group
from metarl.report.figures.curves import add_legend, drawn_for
from metarl.report.figures.style import GREY, PALETTE, STYLE, draw_paths, frame, name_lines, plain

MOST_AGENTS = 4  # agents whose first trial is shown
STEPS = (1, 2, 5, 10)  # distances between ticks, up to a power of ten


class Walked(NamedTuple):
    """The paths of one agent, by k, with its label."""

    label: str
    results: Results
    paths: dict[int, Floats]


def paths_figure(results: Sequence[Results]) -> Figure | None:
    """Draw the paths of episodes in the first tasks: one row for each agent, one column for each k (at most 5).

    Returns None if no results have paths.
    """
    shown = walked([(r.agent, r) for r in results])
    return draw_walked(shown, 5) if shown else None


def walked(named: Sequence[tuple[str, Results]]) -> list[Walked]:
    """The results that have paths, with their labels."""
    return [Walked(n, r, paths) for n, r in named if (paths := {k: p for k, p in r.paths.items() if p.size})]


def draw_walked(shown: Sequence[Walked], most: int) -> Figure:
    """Draw the figure of `paths_figure`, for at most so many k."""
    columns = evenly(sorted({k for w in shown for k in w.paths}), most)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.7 * len(columns) + 0.6, 1.7 * len(shown) + 0.4), layout="compressed")
        grid = figure.subplots(len(shown), len(columns), squeeze=False, sharex=True, sharey=True)
        for axes, (label, result, paths) in zip(grid, shown, strict=True):
            axes[0].set_ylabel(plain(label))
            for ax, k in zip(axes, columns, strict=True):
                draw_paths(ax, paths.get(k, np.zeros((0, 0, 2))), result.landmarks, PALETTE)
        for ax, k in zip(grid[0], columns, strict=True):
            ax.set_title(f"k = {k}", size=9)
        points = [p for w in shown for p in w.paths.values()]
        goals = [w.results.landmarks for w in shown if w.results.landmarks is not None]
        frame(grid[0, 0], points, [*(p[:, 0] for p in points), *goals])
    return figure


def trial_figure(results: Sequence[Results]) -> Figure:
    """Draw the return of each episode of a trial, for agents that play a trial one episode after the other.

    The left panel shows the mean over tasks: one line for each agent, with a band from the lowest to the highest seed.
    The dotted line is the mean informed optimum of these tasks. The dashed line is the expected return of the
    Bayes-optimal policy over all of the family's tasks, if it is known.

    The right panels show the first task's trial of the 4 agents with the highest scores, if the results hold it. If an
    episode is one step, they show the arms (a filled dot is a positive reward). If observations are points, they show
    the paths of the first, second and last episode.

    Args:
        results: results of agents on one family and split. Trials of only one episode are left out.

    Returns:
        A figure whose first axes is the left panel.

    Raises:
        InvalidValueError: no results have a trial of at least two episodes.
    """
    entries = with_trials(one_group(results))
    if not entries:
        expected = "results of agents that play at least two episodes in a trial, one after the other"
        raise InvalidValueError("results", [r.agent for r in results], expected)
    return draw_trial(entries)


def with_trials(entries: Sequence[Entry]) -> list[Entry]:
    """Entries that hold the return of each episode of a trial, for at least two episodes."""
    return [e for e in entries if e.results.lifetime.size and e.results.collected.shape[-1] > 1]


def draw_trial(entries: Sequence[Entry], *, legend: bool = True) -> Figure:
    """Draw the figure of `trial_figure`; all entries have trials."""
    pulled = [(e, arms) for e in _shown(entries, _arms) if (arms := _arms(e.results)) is not None]
    walked = [(e, points) for e in _shown(entries, _points) if (points := _points(e.results)) is not None]
    rows = 0 if pulled else len(walked)
    with matplotlib.rc_context(STYLE):
        size = (9.4 if pulled or walked else 5.2, max(3.7, 1.35 * rows + 0.5))
        figure = Figure(figsize=size, layout="constrained")
        parts = figure.subfigures(1, 1 + bool(pulled or walked), squeeze=False)[0]
        _draw_returns(parts[0].subplots(), entries)
        if legend:
            add_legend(parts[0], entries)
        if pulled:
            _draw_arms(parts[1], pulled)
        elif walked:
            _draw_walks(parts[1], walked)
    return figure


def _shown(entries: Sequence[Entry], part: Callable[[Results], object]) -> list[Entry]:
    """The agents whose first trial is shown, of those that have this part of it: `most_informative`."""
    return most_informative([e for e in entries if part(e.results) is not None], MOST_AGENTS)


def trial_words(entries: Sequence[Entry]) -> str:
    """What the figure of `trial_figure` shows of these entries, which have trials."""
    results = [e.results for e in entries]
    words = ["Return of each episode of a trial, mean over tasks."]
    if any(len(r.collected) > 1 for r in results):
        words.append("The band goes from the lowest to the highest seed.")
    if "informed_optimum" in mean_references(entries):
        words.append("The dotted line is the informed optimum of these tasks.")
    if any(r.bayes_episodes is not None for r in results):
        words.append("The dashed line is the Bayes-optimal policy's expected return over all of the family's tasks.")
    right = "Right: the trial of the first task."
    count = max(sum(part(r) is not None for r in results) for part in (_arms, _points))
    if count > MOST_AGENTS:
        right += f" Of {count} agents the {MOST_AGENTS} with the highest scores are shown, baselines last."
    if any(_arms(r) is not None for r in results):
        words.append(f"{right} A filled dot is a positive reward, an open dot is not.")
    elif any(_points(r) is not None for r in results):
        words.append(f"{right} The dot is the start, the star is the goal.")
        words.append("The state after an episode's last step is not shown.")
    return " ".join(words)


def _arms(results: Results) -> tuple[Floats, Floats] | None:
    """Arms and rewards `[episode]` of the first trial, or None unless each episode is one Discrete action."""
    action = results.trial.get("action", np.zeros((0, 0, 0)))  # [path, episode, t] of Discrete actions
    if not (len(action) and action.ndim == 3 and action.shape[2] == 1):
        return None
    return action[0, :, 0], results.trial["reward"][0, :, 0]


def _points(results: Results) -> Floats | None:
    """Points `[episode, t, 2]` of the first trial, or None unless observations are points."""
    obs = results.trial.get("obs", np.zeros((0, 0, 0, 0)))
    return obs[0] if len(obs) and obs.shape[-1] == 2 else None


def _draw_returns(ax: Axes, entries: Sequence[Entry]) -> None:
    for entry in entries:
        by_seed = entry.results.collected.mean(1)  # [seed, episode]
        x = np.arange(1, by_seed.shape[1] + 1)
        every = -(-len(x) // 10)
        with drawn_for(ax, entry):
            if len(by_seed) > 1:
                ax.fill_between(x, by_seed.min(0), by_seed.max(0), color=entry.color, alpha=0.15, linewidth=0)
            ax.plot(x, by_seed.mean(0), color=entry.color, ls=entry.line, marker=entry.marker, markevery=every)
    names = {}
    if "informed_optimum" in (references := mean_references(entries)):
        names["informed_optimum"] = references["informed_optimum"]
        ax.axhline(references["informed_optimum"], color=GREY, linewidth=1.1, linestyle=":", zorder=1)
    optimal = [e.results.bayes_episodes for e in entries if e.results.bayes_episodes is not None]
    if optimal:
        longest = max(optimal, key=len)
        names["Bayes-optimal_policy"] = float(longest[-1])
        ax.plot(np.arange(1, len(longest) + 1), longest, color=GREY, linewidth=1.4, linestyle="--", zorder=1)
    bands = "; band: lowest to highest seed" if any(len(e.results.collected) > 1 for e in entries) else ""
    ax.set_title(f"mean over tasks{bands}", loc="left", size=8)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=STEPS))
    ax.set_xlabel("episode of the trial")
    ax.set_ylabel("return of the episode")
    name_lines(ax, names)


def _draw_arms(figure: SubFigure, shown: Sequence[tuple[Entry, tuple[Floats, Floats]]]) -> None:
    """Draw one panel for each agent: pulls from left to right, arms from 0 upwards."""
    panels = figure.subplots(len(shown), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for ax, (entry, (arms, rewards)) in zip(panels, shown, strict=True):
        pulls, positive = np.arange(1, len(arms) + 1), rewards > 0
        size = float(np.clip(250 / len(arms), 1.5, 4.5))  # neighbouring dots may touch
        for which, fill in ((positive, entry.color), (~positive, "white")):
            ax.plot(pulls[which], arms[which], "o", color=entry.color, markerfacecolor=fill, markersize=size)
        ax.set_title(plain(entry.label), loc="left", size=8, pad=3)
        ax.tick_params(labelsize=7)
    panels[0].yaxis.set_major_locator(MaxNLocator(5, integer=True))
    panels[0].set_ylim(-0.5, max(float(np.nanmax(arms)) for _, (arms, _) in shown) + 0.5)
    panels[0].xaxis.set_major_locator(MaxNLocator(integer=True, steps=STEPS))
    panels[-1].set_xlabel("pull")
    figure.supylabel("arm", size=9)
    figure.suptitle("one trial, in the first task; filled: the reward was positive", size=8)


def _draw_walks(figure: SubFigure, shown: Sequence[tuple[Entry, Floats]]) -> None:
    """Draw one row of panels for each agent: the first, the second and the last episode."""
    columns = sorted({0, 1, max(len(points) for _, points in shown) - 1})
    grid = figure.subplots(len(shown), len(columns), squeeze=False, sharex=True, sharey=True)
    for axes, (entry, points) in zip(grid, shown, strict=True):
        axes[0].set_ylabel(plain(entry.label), size=8)
        for ax, episode in zip(axes, columns, strict=True):
            draw_paths(ax, points[episode : episode + 1], _goal(entry), [entry.color])
    for ax, episode in zip(grid[0], columns, strict=True):
        ax.set_title(f"episode {episode + 1}", size=8)
    visited = [points for _, points in shown]
    goals = [goal for entry, _ in shown if (goal := _goal(entry)) is not None]
    frame(grid[0, 0], visited, [*visited, *goals])
    for axis in (grid[0, 0].xaxis, grid[0, 0].yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=STEPS))
    figure.suptitle("one trial, in the first task", size=8)


def _goal(entry: Entry) -> Floats | None:
    return None if entry.results.landmarks is None else entry.results.landmarks[:1]
