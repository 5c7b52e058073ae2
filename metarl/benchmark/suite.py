"""What a benchmark consists of: studies, each of one family, several agents, several seeds and one protocol.

A suite is a short Python file that defines `suite`:

    from metarl.benchmark.suite import Entry, Protocol, Study, Suite

    suite = Suite(
        "mine",
        {
            "navigation": Study(
                "metarl/PointNavigation-v0",
                {"maml": Entry("maml", iterations=50), "random": Entry("random")},
                Protocol(k=3, tasks=40),
            )
        },
    )
"""

from __future__ import annotations

import difflib
import importlib
import importlib.resources
import json
import pkgutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from metarl.agent_base import Agent, make_agent
from metarl.benchmark.fields import check_part, file_error
from metarl.errors import InvalidValueError, MetaRLError, did_you_mean
from metarl.evaluation.modes import MODES, Mode
from metarl.families.registry import agent_class, agents, make_family
from metarl.named import load_source
from metarl.runs.load import begin_with, with_settings
from metarl.runs.task_sampling import SamplerName, make_sampler


@dataclass(frozen=True)
class Protocol:
    """How every agent of a study is evaluated, on held-out tasks.

    Attributes:
        k: adaptation steps: 0 to k, or some of them.
        tasks: held-out tasks.
        episodes: fresh episodes for each return after k steps.
        trials: of each task.
        modes: which actions are scored.
        split: of the tasks.
        seed: of the evaluation's draws.
        compact: whether returns of single episodes are stored as means over tasks, because 20,000 tasks need much disk.
    """

    k: int | tuple[int, ...] = 3
    tasks: int = 40
    episodes: int = 20
    trials: int = 1
    modes: tuple[Mode, ...] = MODES
    split: Literal["test", "valid"] | str = "test"
    seed: int = 0
    compact: bool = False


@dataclass(frozen=True)
class Entry:
    """An agent of a study.

    Attributes:
        agent: its registered name.
        settings: hyperparameters that are not the defaults.
        iterations: meta-updates; 0 for agents that need no training.
        every_seed: an agent that needs no training is made anew for each seed, because it draws its initial parameters.
        evaluated_with: hyperparameters that are changed for the evaluation alone.
        runs_of: ENTRY of the same study, or STUDY/ENTRY of the suite, whose trained agents are evaluated, in place of
            trainings of its own.
        begins_with: STUDY/ENTRY of the same suite whose trained networks the training of the same seed begins with.
        task_sampler: what draws the train tasks, "family" or "cem" (`Run.create`).
    """

    agent: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    iterations: int = 0
    every_seed: bool = False
    evaluated_with: Mapping[str, Any] = field(default_factory=dict)
    runs_of: str = ""
    begins_with: str = ""
    task_sampler: SamplerName = "family"


@dataclass(frozen=True)
class Study:
    """One family, and the agents that play it under one protocol.

    Attributes:
        family: its id.
        entries: the agents, by the name that they have in tables.
        protocol: how they are evaluated.
        seeds: one training for each.
        checkpoint_every: iterations between checkpoints.
        eval_every: iterations between evaluations on train tasks, for learning curves; 0 for none.
    """

    family: str
    entries: Mapping[str, Entry]
    protocol: Protocol = Protocol()
    seeds: tuple[int, ...] = (0, 1, 2)
    checkpoint_every: int = 10
    eval_every: int = 0


@dataclass(frozen=True)
class Suite:
    """A benchmark.

    Attributes:
        name: of the suite, part of the folder of its results.
        studies: by name.
        description: what it is for, one sentence.
        source: its name or file on the command line; `load_suite` sets it.
    """

    name: str
    studies: Mapping[str, Study]
    description: str = ""
    source: str = ""


@dataclass(frozen=True)
class Cell:
    """A training: one entry of a study with one seed. It is a run directory."""

    study: str
    entry: str
    seed: int

    @property
    def label(self) -> str:
        """Its name, also its folder below the suite's."""
        return f"{self.study}/{self.entry}/seed{self.seed}"


def cells(suite: Suite, only: Sequence[str] = ()) -> list[Cell]:
    """The trainings of a suite, or of those of its parts that are named.

    Args:
        suite: the suite.
        only: STUDY, STUDY/ENTRY or STUDY/ENTRY/seedN, each with all below it; nothing: everything.

    Raises:
        InvalidValueError: a name in `only` is no part of the suite.
    """
    found = []
    for study, entry in rows(suite, only=()):
        given = suite.studies[study].entries[entry]
        if given.iterations and not given.runs_of:
            found += [Cell(study, entry, seed) for seed in suite.studies[study].seeds]
    _check_only(suite, only, [cell.label for cell in found])
    return [cell for cell in found if _is_chosen(cell.label, only)]


def rows(suite: Suite, only: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Study and entry of every row that is evaluated; `only` as for `cells`."""
    for name, study in suite.studies.items():
        for entry in study.entries:
            if _is_chosen(f"{name}/{entry}", only):
                yield name, entry


def _is_chosen(label: str, only: Sequence[str]) -> bool:
    return not only or any(label == part or label.startswith(f"{part}/") for part in only)


def _check_only(suite: Suite, only: Sequence[str], labels: Sequence[str]) -> None:
    known = {*suite.studies, *(f"{s}/{e}" for s, study in suite.studies.items() for e in study.entries), *labels}
    for part in only:
        if part not in known:
            raise InvalidValueError("--only", part, did_you_mean(part, sorted(known)))


def agent_of(study: Study, entry: Entry, seed: int, device: str = "cpu") -> Agent:
    """The untrained agent of an entry."""
    return make_agent(entry.agent, study.family, seed=seed, device=device, **entry.settings)  # type: ignore[arg-type]


def check_suite(suite: Suite) -> None:
    """Refuse a suite that could not be trained and evaluated, before anything is.

    Raises:
        InvalidValueError: a name is not known, a setting is not one that its agent has, or a number makes no sense.
    """
    _check_parts(suite)
    for name, study in suite.studies.items():
        where = f"study {name}"
        if not study.seeds or len(set(study.seeds)) < len(study.seeds):
            raise InvalidValueError(f"seeds of {where}", study.seeds, "one or more, all different")
        splits, split = make_family(study.family).splits, study.protocol.split
        if split not in splits:
            raise InvalidValueError(f"split of the protocol of {where}", split, did_you_mean(split, splits))
        for label, entry in study.entries.items():
            _check_entry(suite, study, f"{where}, entry {label}", entry)


def _check_parts(suite: Suite) -> None:
    """Refuse parts of a wrong class, fields that hold what they may not, and names that name no folder."""
    check_part(suite, Suite, "suite")
    _check_names("studies", suite.studies, f"suite {suite.name}")
    for name, study in suite.studies.items():
        where = f"study {name}"
        check_part(study, Study, where)
        check_part(study.protocol, Protocol, f"the protocol of {where}")
        _check_names("entries", study.entries, where)
        for label, entry in study.entries.items():
            check_part(entry, Entry, f"{where}, entry {label}")


def _check_names(what: str, parts: Mapping[str, Any], where: str) -> None:
    if not parts:
        raise InvalidValueError(f"{what} of {where}", dict(parts), "at least one")
    for name in parts:
        if "/" in name or name in ("", ".", ".."):
            raise InvalidValueError(f"a name in {what} of {where}", name, "no slash and no dots: it names a folder")


def _check_entry(suite: Suite, study: Study, where: str, entry: Entry) -> None:
    if entry.agent not in agents:
        raise InvalidValueError(f"agent of {where}", entry.agent, did_you_mean(entry.agent, agents))
    known = {f.name for f in fields(agent_class(entry.agent).Config)}
    for key in (*entry.settings, *entry.evaluated_with):
        if key not in known:
            raise InvalidValueError(f"hyperparameter of {where}", key, did_you_mean(key, known))
    if entry.runs_of:
        _check_source(suite, study, entry, where)
    learns = agent_class(entry.agent).learns
    if learns and not (entry.iterations or entry.runs_of):
        raise InvalidValueError(f"iterations of {where}", entry.iterations, f"1 or more: {entry.agent} is trained")
    if entry.iterations and not learns:
        raise InvalidValueError(f"iterations of {where}", entry.iterations, f"0: {entry.agent} needs no training")
    try:
        _try_agents(suite, study, entry)
    except InvalidValueError as error:
        raise InvalidValueError(f"{error.field} of {where}", error.value, error.expected) from error
    if entry.begins_with:
        _check_beginning(suite, study, entry, where)


def _check_beginning(suite: Suite, study: Study, entry: Entry, where: str) -> None:
    """Refuse a row to begin with that is not trained before, or whose parameters do not fit."""
    field, name = f"begins_with of {where}", entry.begins_with
    own = where.removeprefix("study ").replace(", entry ", "/")
    if not entry.iterations:
        raise InvalidValueError(field, name, f"nothing: {entry.agent} is not trained")
    passed, other = [own], name
    while other:
        if other in passed:
            raise InvalidValueError(field, name, "another row, which does not begin with this one")
        passed.append(other)
        source, _, source_entry = other.partition("/")
        if source not in suite.studies or source_entry not in suite.studies[source].entries:
            known = [f"{s}/{e}" for s, e in rows(suite)]
            raise InvalidValueError(field, name, did_you_mean(other, known))
        other = suite.studies[source].entries[source_entry].begins_with
    source, _, source_entry = name.partition("/")
    first = suite.studies[source].entries[source_entry]
    if not first.iterations:
        raise InvalidValueError(field, name, "a row with trainings of its own")
    agents = (agent_of(study, entry, study.seeds[0]), agent_of(suite.studies[source], first, study.seeds[0]))
    try:
        begin_with(*agents)
    except InvalidValueError as error:
        raise InvalidValueError(f"{field}: {error.field}", error.value, error.expected) from error


def _try_agents(suite: Suite, study: Study, entry: Entry) -> None:
    """Make the agent that an entry trains, and the one that it evaluates.

    Raises:
        InvalidValueError: a hyperparameter has a value that the agent refuses.
    """
    agent = agent_of(study, entry, study.seeds[0])
    agent.check_iterations(entry.iterations)
    make_sampler(entry.task_sampler, agent)
    if entry.evaluated_with:
        first, _, second = entry.runs_of.rpartition("/")
        source = suite.studies[first] if first else study
        with_settings(agent_of(source, source.entries.get(second, entry), study.seeds[0]), **entry.evaluated_with)


def _check_source(suite: Suite, study: Study, entry: Entry, where: str) -> None:
    """Refuse `runs_of` unless it names a trained entry of the same family whose runs have the study's seeds."""
    trained = [f"{s}/{e}" for s, e in rows(suite) if suite.studies[s].entries[e].iterations]
    own = [label for label, given in study.entries.items() if given.iterations]
    if entry.runs_of not in (*own, *trained):
        raise InvalidValueError(f"runs_of of {where}", entry.runs_of, did_you_mean(entry.runs_of, [*own, *trained]))
    if "/" in entry.runs_of:
        source = suite.studies[entry.runs_of.partition("/")[0]]
        for name in ("family", "seeds"):
            if getattr(source, name) != getattr(study, name):
                expected = f"runs of the study's {name}, {getattr(study, name)!r}"
                raise InvalidValueError(f"runs_of of {where}", f"{name} {getattr(source, name)!r}", expected)


def source_of(suite: Suite, study: str, entry: str) -> tuple[str, str]:
    """Study and entry whose trainings a row evaluates: its own, or those that `runs_of` names."""
    named = suite.studies[study].entries[entry].runs_of
    if not named:
        return study, entry
    first, _, second = named.rpartition("/")
    return first or study, second


def trainings(suite: Suite, study: str, entry: str) -> list[Cell]:
    """The trainings that a row evaluates, one per seed; none where its agent needs no training."""
    source, name = source_of(suite, study, entry)
    given = suite.studies[source]
    return [Cell(source, name, seed) for seed in given.seeds] if given.entries[name].iterations else []


BUILT_IN = "metarl.benchmark.suites"


def tuned(study: str, entry: str) -> dict[str, Any]:
    """Hyperparameters of an entry of SUITE/STUDY that were chosen on train tasks; empty where nothing was searched.

    `python experiments/tune.py` writes them to `tuned.json` beside the suites of the package.
    """
    text = importlib.resources.files(BUILT_IN).joinpath("tuned.json").read_text()
    return dict(json.loads(text).get(study, {}).get(entry, {}))


def built_in_suites() -> list[str]:
    """Names of the package's suites."""
    return sorted(module.name for module in pkgutil.iter_modules(importlib.import_module(BUILT_IN).__path__))


PARTS = (Suite, Study, Entry, Protocol)


def load_suite(name: str) -> Suite:
    """A suite of the package by its name, or one from a Python file that defines `suite`.

    The file is executed, as with `--load`: it is the caller's own program.

    Raises:
        InvalidValueError: there is no such suite, the file raises an exception, or it defines no suite, or one that
            `check_suite` refuses.
    """
    known = built_in_suites()
    if name in known:
        module = importlib.import_module(f"{BUILT_IN}.{name}")
    elif name.endswith(".py") and Path(name).is_file():
        try:
            load_source(name)
        except MetaRLError as error:
            if not isinstance(cause := error.__cause__, (ImportError, SyntaxError)):
                raise
            raise file_error(Path(name), cause, PARTS) from cause
        except Exception as error:
            raise file_error(Path(name), error, PARTS) from error
        module = sys.modules[Path(name).stem]
    else:
        near = did_you_mean(name, known)
        files = [str(path) for path in Path(name).parent.glob("*.py")] if name.endswith(".py") else []
        if found := difflib.get_close_matches(name, files, n=1, cutoff=0.5):
            near = f"one of {', '.join(known)} (did you mean {found[0]!r}?)"
        raise InvalidValueError("suite", name, f"a Python file that defines `suite`, or a suite of the package: {near}")
    suite = getattr(module, "suite", None)
    if not isinstance(suite, Suite):
        raise InvalidValueError("suite", name, "a file that defines `suite`, a metarl.benchmark.suite.Suite")
    check_suite(suite)
    return replace(suite, source=name)
