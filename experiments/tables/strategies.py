"""Tables of the suites `strategies` and `transfer`.

The regret of choosing a learner, gains between families, and the real steps that planning with a model saves.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from results_files import RESULTS, STUDIES, row_file

from metarl.evaluation.intervals import Floats, mean_interval
from metarl.evaluation.results import Results
from metarl.report.figures.style import GREY, PALETTE
from metarl.report.figures.training import Training, training_figure, training_of
from metarl.report.transfer import transfers
from tables.text import bounds, interval, table

CHOOSERS = ("selector", "selector-random", "learned_selector")
MODELS = tuple(name for name, s in STUDIES.items() if "rebal" in s.entries)
PORTFOLIOS = tuple(name for name, s in STUDIES.items() if "selector" in s.entries)


class Regret(NamedTuple):
    """What a player who chooses among members loses, in return of whole trials, exploration included.

    Attributes:
        single: beside the member with the highest mean over tasks, with the ends of a 95 % interval over seeds and
            tasks.
        best: number of this member.
        hindsight: beside the member with the highest mean of each task. It is an upper bound: the highest of means that
            were measured is higher than the mean of the highest.
    """

    single: tuple[float, float, float]
    best: int
    hindsight: float


def regret(chooser: Floats, members: list[Floats]) -> Regret:
    """The regret of a chooser, from returns of whole trials in the same tasks, `[seed, task, trial]`."""
    own, others = chooser.mean(2), np.stack([member.mean((0, 2)) for member in members])  # [seed, task], [member, task]
    best = int(others.mean(1).argmax())
    lost = others[best] - own
    low, high = mean_interval(lost[..., None])
    return Regret((float(lost.mean()), float(low[0]), float(high[0])), best, float((others.max(0) - own).mean()))


def selection() -> str:
    """The table of the selectors."""
    lines = []
    for study in PORTFOLIOS:
        entries = STUDIES[study].entries
        done = {name: row_file(study, name) for name in entries if row_file(study, name).exists()}
        lives = {name: Results.load(file).lifetime for name, file in done.items()}
        for row in (name for name in CHOOSERS if name in done and set(entries[name].settings["members"]) <= set(done)):
            names = list(entries[row].settings["members"])
            found = regret(lives[row], [lives[name] for name in names])
            cells = [study.partition("/")[2], f"`{entries[row].agent}`", f"`{'`, `'.join(names)}`"]
            cells += [f"{lives[row].mean():.1f}"]
            cells += [f"`{names[found.best]}` {lives[names[found.best]].mean():.1f}"]
            lines.append([*cells, bounds(*found.single, 1), f"{found.hindsight:.1f}"])
    says = (
        "Return of whole trials, exploration included, 200 held-out tasks with 10 trials each, sampled actions. The "
        "regret is what the choice loses beside the best single member, with its 95 % interval over tasks (and over 3 "
        "seeds of `learned_selector`, which was trained in other families than the study's), and beside "
        "the best member of each task in hindsight (measured, so an upper bound). A negative regret is a gain. "
        "Command: `metarl benchmark strategies`."
    )
    heads = ["study", "agent", "members", "return", "best single member", "regret", "in hindsight"]
    return f"{says}\n\n{table(heads, lines)}"


def selection_figure() -> Figure:
    """What choosers and members earn in each study, as a share of what the best single member earns."""
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots()
    for place, study in enumerate(PORTFOLIOS):
        done = {name: row_file(study, name) for name in STUDIES[study].entries if row_file(study, name).exists()}
        lives = {name: float(np.mean(Results.load(file).lifetime)) for name, file in done.items()}
        best = max(value for name, value in lives.items() if name not in CHOOSERS)
        for line, name in enumerate(name for name in lives if name != "random"):
            at = (lives[name] / best, place + 0.16 * (line - (len(lives) - 2) / 2))
            if name in CHOOSERS:
                axes.plot(*at, "D", color=PALETTE[CHOOSERS.index(name)])
            else:
                axes.plot(*at, "o", color=GREY)
                axes.annotate(name, at, (-5, 0), textcoords="offset points", fontsize=6.5, ha="right", va="center")
    axes.axvline(1.0, color=GREY, linewidth=0.8, zorder=0)
    axes.set(yticks=range(len(PORTFOLIOS)), yticklabels=[name.partition("/")[2] for name in PORTFOLIOS])
    axes.set(xlim=(0.62, 1.02), xlabel="return of whole trials, as a share of the best single member's")
    labels = ("selector", "selector, with random as a member", "learned_selector")
    for row, name, color in zip(CHOOSERS, labels, PALETTE, strict=False):
        if any(row_file(study, row).exists() for study in PORTFOLIOS):
            axes.plot([], [], "D", color=color, label=name)
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    axes.invert_yaxis()
    return figure


def adaptation(studies: Sequence[str], says: str) -> str:
    """A table of the entries of some studies: R_0, R_k at the last k, the steps before it, the share of the gap."""
    lines = []
    for study in studies:
        found = {e: Results.load(row_file(study, e)) for e in STUDIES[study].entries if row_file(study, e).exists()}
        lasts = {name: results.summary("sampled")[-1] for name, results in found.items()}
        for name in sorted(found, key=lambda name: -lasts[name]["mean"]):
            first, last = found[name].summary("sampled")[0], lasts[name]
            entry = STUDIES[study].entries[name]
            seeds = str(len(found[name].meta["seeds"])) if entry.iterations or entry.runs_of else ""
            cells = [interval(row) for row in (first, last)]
            closed = f"{last['normalised']:.2f}" if "normalised" in last else ""
            steps = f"{found[name].env_steps[-1]:,.0f}"
            lines.append([study.partition("/")[2], f"{name} (`{found[name].agent}`)", seeds, *cells, steps, closed])
    return f"{says}\n\n{table(['study', '', 'seeds', 'R_0', 'R_k', 'environment steps', 'share'], lines)}"


def control() -> str:
    """The table of the suite `control`."""
    says = (
        "Classic control with hidden physics, sampled actions, 95 % intervals over seeds and held-out tasks. R_k: "
        "after two episodes (`rl2`) or two adaptation steps (others); in the studies -ppo and -sac, where "
        "Stable-Baselines3 learns 10 (SAC: four) of the tasks from scratch, at the end. The environment steps are "
        "those in the task before it. The studies -far have the same agents on physics that training never had. The "
        "share is that of the gap between random actions and the informed optimum, where that is known. "
        "Command: `metarl benchmark control`."
    )
    return adaptation([name for name in STUDIES if name.startswith("control/")], says)


def applications() -> str:
    """The table of the suite `applications`."""
    says = (
        "Doses of a drug (minus how far the trough is from its window) and clicks on recommendations, for 200 "
        "held-out patients or users, sampled actions, with 95 % intervals over seeds and tasks. R_k is the mean return "
        "of an episode after three courses or sessions (`rl2`) or three adaptation steps (`maml`), and the environment "
        "steps are those in the task before it. In the studies -ppo Stable-Baselines3 learns 20 of the tasks from "
        "scratch. The share is that of the gap between random actions and the informed optimum. "
        "Command: `metarl benchmark applications`."
    )
    return adaptation([name for name in STUDIES if name.startswith("applications/")], says)


def mixtures() -> str:
    """The table of `mixture` and of the agents beside it."""
    says = (
        "2-D navigation where tasks are four corners, and where goals fill a square: R_0 and R_2 on held-out goals, "
        "sampled actions, with 95 % intervals over seeds and goals; 50 meta-updates on 20 tasks x 10 episodes. The "
        "share is that of the gap between random actions and the informed optimum. "
        "Command: `metarl benchmark strategies --only corners square`."
    )
    return adaptation(("strategies/corners", "strategies/square"), says)


def transfer_files() -> list[Path]:
    """The results of the suite `transfer`."""
    return sorted((RESULTS / "transfer").glob("*/*/results.json"))


def transfer() -> str:
    """The matrix of the suite `transfer`."""
    found = transfers([Results.load(file) for file in transfer_files()])
    says = (
        "What 5 meta-updates of `maml` gain if they begin with the parameters after 50 meta-updates in the family of "
        "the row, beside 5 meta-updates from new parameters: R_2 on 40 held-out goals, sampled actions, as a share of "
        "the gap between the floor and the informed optimum (corners: the best row), with 95 % intervals over 3 seeds "
        "and the goals, paired. "
        "Command: `metarl benchmark transfer`."
    )
    if not found:
        return says
    (matrix,) = found
    rows = []
    for source in matrix.sources:
        gains = [matrix.gains[source, target] for target in matrix.targets]
        rows.append([source.partition("/")[0], *(f"{g.mean:+.2f} [{g.low:+.2f}, {g.high:+.2f}]" for g in gains)])
    return f"{says}\n\n{table(['begins with', *(f'trained in {t}' for t in matrix.targets)], rows)}"


class Reached(NamedTuple):
    """When curves of validation returns first reach a common one.

    Attributes:
        level: the lowest of the agents' highest returns, so that all reach it.
        steps: real steps of training to the first validation that is at least as high, for each agent.
        at_once: whether that is the agent's first validation of all, so that fewer steps may be enough.
    """

    level: float
    steps: tuple[float, ...]
    at_once: tuple[bool, ...]


def reached(curves: Sequence[Training]) -> Reached:
    """The common return of curves, means over seeds after the last k, and the steps to it."""
    means = [curve.returns[..., -1].mean(0) for curve in curves]
    level = min(mean.max() for mean in means)
    first = [int((mean >= level).argmax()) for mean in means]
    steps = tuple(float(curve.env_steps[i]) for curve, i in zip(curves, first, strict=True))
    return Reached(float(level), steps, tuple(i == _first(curve) for curve, i in zip(curves, first, strict=True)))


def _first(curve: Training) -> int:
    """The number of the first validation after the beginning of training."""
    return int((np.asarray(curve.env_steps) > 0).argmax())


def modelled(study: str) -> list[Results]:
    """The results of the trained agents of a study of models that are published."""
    files = (row_file(study, name) for name in STUDIES[study].entries if name != "random")
    return [Results.load(file) for file in files if file.exists()]


def model_based() -> str:
    """The table of real steps: agents that plan with a model beside `maml`."""
    lines = []
    for study in MODELS:
        found = {results.agent: results for results in modelled(study)}
        curves = {name: curve for name, results in found.items() if (curve := training_of(results)) is not None}
        for name in [name for name in curves if name != "maml" and "maml" in curves]:
            level, (own, others), (at_once, _) = reached([curves[name], curves["maml"]])
            most, least = ("at most ", "at least ") if at_once else ("", "")
            cells = [study.partition("/model-")[2], f"`{name}`", f"{level:.1f}", f"{most}{own:,.0f}", f"{others:,.0f}"]
            ends = [interval(found[n].summary("sampled")[-1], 1) for n in (name, "maml")]
            lines.append([*cells, f"{least}{others / own:.0f}", *ends, str(len(curves[name].returns))])
    says = (
        "Real steps of training until the mean return of validation episodes first reaches the highest return that "
        "both agents reach, on 20 train tasks: `maml` after one adaptation step, the others while they play. The "
        'curves are means over seeds; "at most" is a first validation; `maml` may still be improving at its last. '
        "Then R_1 of the trained agents on 20 held-out tasks, sampled actions, with 95 % intervals: after one episode, "
        "for `maml` after one adaptation step of 4,000 steps. Command: "
        "`metarl benchmark strategies --only model-navigation model-pendulum`."
    )
    heads = ["study", "agent", "return", "its steps", "steps of `maml`", "ratio", "R_1", "R_1 of `maml`", "seeds"]
    return f"{says}\n\n{table(heads, lines)}"


def model_figure(study: str) -> Figure | None:
    """The curves of a study of models, against real steps on a logarithmic axis; None before they are published."""
    figure = training_figure(found) if (found := modelled(study)) else None
    if figure is not None:
        axes = figure.axes[0]
        axes.set_xscale("log", nonpositive="mask")
        curves = [curve for results in found if (curve := training_of(results)) is not None]
        returns = np.concatenate([curve.returns[:, 1:].ravel() for curve in curves])
        axes.set_ylim(returns.min(), returns.max() + 0.05 * np.ptp(returns))
    return figure
