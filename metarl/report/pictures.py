"""The pictures of a section: which there are, under which heading, and what their captions say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from metarl.report.entries import Entry, is_baseline, most_informative
from metarl.report.figures.behaviour import draw_behaviour, with_behaviour
from metarl.report.figures.belief import belief_words, draw_belief, draw_probe, with_beliefs
from metarl.report.figures.comparison import (
    draw_improvements,
    draw_profiles,
    draw_tasks,
    improvements,
    is_sure,
    task_parameters,
)
from metarl.report.figures.curves import (
    FEW,
    PANELS,
    adaptation_panels,
    draw_adaptation,
    drawn_modes,
)
from metarl.report.figures.training import draw_training, training_of
from metarl.report.figures.transfer import draw_transfer
from metarl.report.figures.trial import draw_trial, draw_walked, trial_words, walked, with_trials
from metarl.report.figures.yardstick import draw_yardstick
from metarl.report.transfer import MEANS, Transfer
from metarl.report.yardstick import Yardstick

PATHS = "One episode in each of the first tasks. Dot: start; star: goal. Points far from the goal may be cut off."
BEHAVIOUR = (
    "The sum of rewards so far in two episodes in the first task. Strong: at the last k, or the last episode of a "
    "trial; thin and dashed: at the first k, or the first episode of the trial. The marker is the episode’s end. It is "
    "one episode each, so chance decides much."
)
TRAINING = (
    "Return after each part of meta-training: the strong line after the last k, the thin dashed one before "
    "adaptation. Lines are means over seeds. Agents that were validated (<code>--eval-every</code>) have returns on "
    "validation tasks, the others those on the train tasks of each meta-update, means over neighbouring ones."
)
PROFILE = (
    "Performance profiles (Agarwal et al. 2021): the share of runs, of one seed in one task each, whose score is at "
    "least the threshold."
)
BANDS = " Bands: 95&nbsp;% intervals at each threshold by itself, where the share is between 0 and 1."
IMPROVEMENT = (
    "The probability that a run of the row’s agent scores higher than a run of the column’s in a task drawn at random "
    "(Agarwal et al. 2021). Blue: above one half; orange: below. Bold: the 95&nbsp;% interval excludes one half, so "
    "one of the two is better. The score is {score}."
)
TOO_FEW = (
    " A 0 or 1 that is not bold: all runs agree in all tasks, but so few seeds could agree by chance, and the "
    "interval, of as many draws as there are seeds, holds one half."
)
PROBE = (
    "How well the task’s parameters can be read from what the agent holds (its belief, memory or embedding) before "
    "each step of a trial, by a regression that was fitted in train tasks: squared error divided by the parameters’ "
    "variance, mean over parameters and tasks. 1 (grey): nothing is known; 0: all. Dotted: the same regression on what "
    "the exact posterior expects in the same trials, where it is known. Bands: 95&nbsp;% intervals."
)
YARDSTICK = (
    "Lines: agents that learn each task from scratch. Points: R<sub>k</sub> of meta-trained agents after their last k, "
    "at the environment steps that they used in the task. Band and upright bars: 95&nbsp;% intervals."
)
YARDSTICK_LINES = " A dotted line leads from a point to the steps from scratch that reach it."


class Picture(NamedTuple):
    """A picture of a section.

    Attributes:
        heading: the heading that it stands under; neighbours may share it.
        name: name of its files.
        label: what it shows, for those who do not see it.
        draw: draws it, with a legend if the argument is true.
        caption: HTML.
        agents: the agents that its legend names; none if it needs no legend.
    """

    heading: str
    name: str
    label: str
    draw: Callable[[bool], Figure]
    caption: str = ""
    agents: Sequence[Entry] = ()


def pictures_of(entries: Sequence[Entry], earlier: Sequence[Entry] = ()) -> list[Picture]:
    """All pictures that the results of a section have data for, in the page's order.

    A training that `earlier` sections have drawn, because the same agents played tasks of another split, is left out.
    """
    known = [_curves(e) for e in earlier]
    trained = [e for e in entries if training_of(e.results) is not None and _curves(e) not in known]
    makers = (_tasks, _profiles, _improvement, _trial, _belief, _paths, _behaviour)
    pictures = [*_adaptation(entries), *_training(trained)]
    return [*pictures, *(picture for maker in makers for picture in maker(entries))]


def _curves(entry: Entry) -> tuple[Any, ...]:
    """What tells an entry's training from others."""
    meta = entry.results.meta
    return (entry.results.family, entry.results.agent, meta.get("curves"), meta.get("training_curves"))


def _adaptation(entries: Sequence[Entry]) -> list[Picture]:
    names = adaptation_panels(entries)
    if "lifetime" in names and all(len(e.results.k) == 1 for e in entries):
        names = ["lifetime"]  # a single k makes no curve
    else:
        names += ["last"] if len(entries) > 1 else []

    def panel(name: str) -> Picture:
        dots = name in ("last", "lifetime")
        caption = "95&nbsp;% intervals." if dots else "Bands and upright lines: 95&nbsp;% intervals."
        if name != "lifetime":
            caption += _first_mode(entries) if dots else _modes_left_out(entries)
        return Picture(
            "Adaptation" if names != ["lifetime"] else "Lifetime return",
            f"adaptation-{name}",
            PANELS[name],
            lambda legend: draw_adaptation(entries, [name], legend=legend),
            caption,
            () if dots else entries,
        )

    return [panel(name) for name in names]


def _training(entries: Sequence[Entry]) -> list[Picture]:
    if not entries:
        return []
    return [_picture(entries, "Meta-training", "training", "returns during meta-training", draw_training, TRAINING)]


def _first_mode(entries: Sequence[Entry]) -> str:
    """Which actions a picture of one mode shows, if there are others."""
    if all(len(e.rows) == 1 for e in entries):
        return ""
    return f" {' or '.join(sorted({e.mode for e in entries}, reverse=True)).capitalize()} actions."


def _modes_left_out(entries: Sequence[Entry]) -> str:
    """Says that curves of many agents show one mode of each alone."""
    if all(len(drawn_modes(e, entries)) == len(e.rows) for e in entries):
        return ""
    modes = sorted({mode for e in entries for mode in e.rows if mode != e.mode})
    return (
        f" There are more than {FEW} agents: {' and '.join(modes)} actions are left out here; the table "
        "“Return after k adaptation steps” has them."
    )


def _tasks(entries: Sequence[Entry]) -> list[Picture]:
    if all(e.task_scores.shape[1] == 1 for e in entries):
        return []
    caption = "Means over seeds and episodes. "
    if task_parameters(entries):
        caption += "Where there are many tasks, a point is a mean over tasks with neighbouring values."
    else:
        caption += "Each agent’s tasks are sorted by its own returns."
    heading, label = "Spread over tasks", "returns of single tasks"
    return [_picture(entries, heading, "tasks", label, draw_tasks, caption + _first_mode(entries))]


def _profiles(entries: Sequence[Entry]) -> list[Picture]:
    if all(e.one_step for e in entries):
        return []
    caption = PROFILE + BANDS * (len(entries) <= FEW) + _first_mode(entries)
    return [_picture(entries, "Comparison", "profile", "performance profiles", draw_profiles, caption)]


def _picture(
    entries: Sequence[Entry], heading: str, name: str, label: str, draw: Callable[..., Figure | None], caption: str
) -> Picture:
    def drawn(legend: bool) -> Figure:
        figure = draw(entries, legend=legend)
        assert figure is not None  # the caller has seen that there is something to draw
        return figure

    return Picture(heading, name, label, drawn, caption, entries)


def _improvement(entries: Sequence[Entry]) -> list[Picture]:
    rows = improvements(entries)
    if not rows:
        return []

    def drawn(legend: bool) -> Figure:
        figure = draw_improvements(entries, rows)
        assert figure is not None
        return figure

    score = "the lifetime return" if entries[0].one_step else "R<sub>k</sub> after the last k"
    caption = IMPROVEMENT.format(score=score) + ("" if entries[0].one_step else _first_mode(entries))
    if any(row["improvement"] in (0, 1) and not is_sure(row) for row in rows):
        caption += TOO_FEW
    label = "probability of improvement of each pair"
    return [Picture("Comparison", "improvement", label, drawn, caption)]


def _trial(entries: Sequence[Entry]) -> list[Picture]:
    trials = with_trials(entries)
    if not _worth_showing(trials, entries):
        return []

    def drawn(legend: bool) -> Figure:
        return draw_trial(trials, legend=legend)

    return [Picture("Trial", "trial", "return of each episode of a trial", drawn, trial_words(trials), trials)]


def _worth_showing(shown: Sequence[Entry], entries: Sequence[Entry]) -> bool:
    """Whether there is anything to show, and not only baselines where others are in the section."""
    return any(not is_baseline(e) for e in shown) or (bool(shown) and all(map(is_baseline, entries)))


def _belief(entries: Sequence[Entry]) -> list[Picture]:
    heading, told = "What the agent believes", with_beliefs(entries)
    probed = [e for e in entries if "probe" in e.results.belief]
    pictures = []
    if told:
        label = "error of what agents believe"
        pictures.append(_picture(told, heading, "belief", label, draw_belief, belief_words(told)))
    if probed:
        pictures.append(_picture(probed, heading, "belief-probe", "error of a probe", draw_probe, PROBE))
    return pictures


def _paths(entries: Sequence[Entry]) -> list[Picture]:
    every = [e for e in entries if any(p.size for p in e.results.paths.values())]
    chosen = most_informative(every, FEW)
    if not chosen:
        return []

    def drawn(legend: bool) -> Figure:
        return draw_walked(walked([(e.label, e.results) for e in chosen]), 5)

    return [Picture("Paths", "paths", "paths of episodes", drawn, PATHS + _left_out(every))]


def _behaviour(entries: Sequence[Entry]) -> list[Picture]:
    every = with_behaviour(entries)
    if not _worth_showing(every, entries):
        return []
    others = [e.label for e in entries if e not in every and not is_baseline(e)]
    caption = BEHAVIOUR + _left_out(every) + (f" No rewards are kept of {', '.join(others)}." if others else "")
    return [Picture("Behaviour", "behaviour", "rewards of episodes", lambda legend: draw_behaviour(every), caption)]


def _left_out(entries: Sequence[Entry]) -> str:
    """Says which agents a picture of at most 4 of them shows."""
    if len(entries) <= FEW:
        return ""
    return f" Of {len(entries)} agents the {FEW} with the highest scores are shown, baselines last."


def yardstick_picture(yardstick: Yardstick) -> Picture:
    """The picture of learning from scratch, beside the agents that adapt."""

    def drawn(legend: bool) -> Figure:
        return draw_yardstick(yardstick, legend=legend)

    caption = YARDSTICK + YARDSTICK_LINES * (len(yardstick.agents) <= FEW)
    agents = [*yardstick.learners, *yardstick.agents]
    return Picture("Return against steps", "yardstick", "learning from scratch and adaptation", drawn, caption, agents)


def transfer_picture(transfer: Transfer) -> Picture:
    """The matrix of families to begin with and families that are trained."""
    label = "gains by transfer between families"
    return Picture("Transfer", "transfer", label, lambda legend: draw_transfer(transfer), MEANS)
