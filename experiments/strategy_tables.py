"""Tables of the suites `strategies` and `transfer`.

The regret of choosing a learner, gains between families, and the real steps that planning with a model saves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from results_files import RESULTS, STUDIES, row_file
from trial_tables import table

from metarl.evaluation.intervals import Floats, mean_interval
from metarl.evaluation.results import Results
from metarl.report.figures.curves import Training, training_figure, training_of
from metarl.report.transfer import transfers

MODELS = tuple(name for name, s in STUDIES.items() if "rebal" in s.entries)
PORTFOLIOS = tuple(name for name, s in STUDIES.items() if "selector" in s.entries)


class Regret(NamedTuple):
    """What a player who chooses among members loses, in return of whole trials, exploration included.

    Attributes:
        single: beside the member with the highest mean over tasks, with the ends of a 95 % interval over tasks.
        best: number of this member.
        hindsight: beside the member with the highest mean of each task. It is an upper bound: the highest of means that
            were measured is higher than the mean of the highest.
    """

    single: tuple[float, float, float]
    best: int
    hindsight: float


def regret(chooser: Floats, members: list[Floats]) -> Regret:
    """The regret of a chooser, from returns of whole trials in the same tasks, `[seed, task, trial]` with one seed."""
    own, others = chooser.mean((0, 2)), np.stack([member.mean((0, 2)) for member in members])
    best = int(others.mean(1).argmax())
    lost = others[best] - own
    low, high = mean_interval(lost[None, :, None])
    return Regret((float(lost.mean()), float(low[0]), float(high[0])), best, float((others.max(0) - own).mean()))


def selection() -> str:
    """The table of `selector`."""
    lines = []
    for study in PORTFOLIOS:
        entries = STUDIES[study].entries
        if not all(row_file(study, name).exists() for name in entries):
            continue
        lives = {name: Results.load(row_file(study, name)).lifetime for name in entries}
        for row in ("selector", "selector-random"):
            names = list(entries[row].settings["members"])
            found = regret(lives[row], [lives[name] for name in names])
            mean, low, high = found.single
            cells = [study.partition("/")[2], f"`{'`, `'.join(names)}`", f"{lives[row].mean():.1f}"]
            cells += [f"`{names[found.best]}` {lives[names[found.best]].mean():.1f}"]
            lines.append([*cells, f"{mean:.1f} [{low:.1f}, {high:.1f}]", f"{found.hindsight:.1f}"])
    says = (
        "Return of whole trials, exploration included, 200 held-out tasks with 10 trials each, sampled actions. The "
        "regret is what `selector` loses beside the best single member, with its 95 % interval over tasks, and beside "
        "the best member of each task in hindsight (measured, so an upper bound). A negative regret is a gain. "
        "Command: `metarl benchmark strategies`."
    )
    heads = ["study", "members", "`selector`", "best single member", "regret", "in hindsight"]
    return f"{says}\n\n{table(heads, lines)}"


def transfer() -> str:
    """The matrix of the suite `transfer`."""
    files = sorted((RESULTS / "transfer").glob("*/*/results.json"))
    found = transfers([Results.load(file) for file in files])
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
    """

    level: float
    steps: tuple[float, ...]


def reached(curves: Sequence[Training]) -> Reached:
    """The common return of curves, means over seeds after the last k, and the steps to it."""
    means = [curve.returns[..., -1].mean(0) for curve in curves]
    level = min(mean.max() for mean in means)
    first = [int((mean >= level).argmax()) for mean in means]
    return Reached(float(level), tuple(float(c.env_steps[i]) for c, i in zip(curves, first, strict=True)))


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
            level, (own, others) = reached([curves[name], curves["maml"]])
            cells = [study.partition("/model-")[2], f"`{name}`", f"{level:.1f}", f"{own:,.0f}", f"{others:,.0f}"]
            both = [found[n].summary("sampled")[-1] for n in (name, "maml")]
            ends = [f"{row['mean']:.1f} [{row['low']:.1f}, {row['high']:.1f}]" for row in both]
            lines.append([*cells, f"{others / own:.0f}", *ends, str(len(curves[name].returns))])
    says = (
        "Real steps of training until the mean return of validation episodes first reaches the highest return that "
        "both agents reach: `maml` after one adaptation step, the others while they play. The curves are means over "
        "seeds. Then R_1 of the trained agents on 20 held-out tasks, sampled actions, with 95 % intervals. Command: "
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
