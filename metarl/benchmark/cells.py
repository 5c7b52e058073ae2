"""Training and evaluating the parts of a suite: what is done is found again, what was cut off goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from metarl.agent_base import Agent
from metarl.benchmark.suite import Cell, Entry, Suite, agent_of
from metarl.errors import InvalidValueError
from metarl.evaluation.evaluate import evaluate
from metarl.evaluation.results import Results
from metarl.runs.checkpoints import read_head
from metarl.runs.load import curves_of_runs, with_settings
from metarl.runs.run import Run

Progress = Callable[[int, int], None]  # how much is done, and of how much


def run_path(out: Path, cell: Cell) -> Path:
    """The run directory of a training."""
    return out / cell.label


def results_path(out: Path, study: str, entry: str) -> Path:
    """The results file of a row."""
    return out / study / entry / "results.json"


def trained_iterations(cell: Cell, out: Path) -> int:
    """How many iterations of a training are done; 0 where it was not begun."""
    head = run_path(out, cell) / "checkpoint.json"
    return int(read_head(head)["iteration"]) if head.exists() else 0


def is_trained(suite: Suite, cell: Cell, out: Path) -> bool:
    """Whether a training is finished."""
    return trained_iterations(cell, out) >= suite.studies[cell.study].entries[cell.entry].iterations


def train_cell(suite: Suite, cell: Cell, out: Path, device: str = "cpu", progress: Progress | None = None) -> None:
    """Train a cell from where its run stands; the run is made if there is none.

    Args:
        suite: the suite.
        cell: of the suite.
        out: the suite's folder.
        device: where the agent lives.
        progress: called after each iteration.

    Raises:
        InvalidValueError: the run in the cell's place was made with other settings.
        Interrupted: it was asked to stop; what was finished is kept.
    """
    study = suite.studies[cell.study]
    entry = study.entries[cell.entry]
    path, agent = run_path(out, cell), agent_of(study, entry, cell.seed, device)
    if not (path / "config.json").exists():
        Run.create(path, agent, entry.iterations, study.checkpoint_every)
    run = Run.open(path)
    with run.lock():
        refuse_another(run, agent, entry.iterations)
        new = not run.has_checkpoint
        agent, start = run.load_agent(device)  # type: ignore[arg-type]
        if new and entry.begins_with:
            _begin_with(agent, suite, entry, cell.seed, out)
        run.train(agent, start, None if progress is None else lambda done, total, _: progress(done, total))


def refuse_another(run: Run, agent: Agent, iterations: int) -> None:
    """A run that was made with other settings is not this cell's.

    Raises:
        InvalidValueError: it was.
    """
    wanted: dict[str, Any] = {"agent": agent.name, "family": agent.family.id, "iterations": iterations}
    wanted |= {"seed": agent.seed, "config": json.loads(json.dumps(asdict(agent.config)))}
    for what, value in wanted.items():
        if run.config[what] != value:
            expected = (
                f"{_difference(run.config[what], value)}, as the suite says (move the run away, or --out another)"
            )
            raise InvalidValueError(f"{what} of run {run.path}", _difference(value, run.config[what]), expected)


def _difference(a: Any, b: Any) -> Any:
    """Of two dicts, what the second has otherwise; else the second."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return {k: v for k, v in b.items() if k not in a or a[k] != v}
    return b


def _begin_with(agent: Agent, suite: Suite, entry: Entry, seed: int, out: Path) -> None:
    """Give a new agent the networks of another training of the suite."""
    study, _, source = entry.begins_with.partition("/")
    found, _ = Run.open(run_path(out, Cell(study, source, seed))).load_agent(agent.device.type)  # type: ignore[arg-type]
    networks = {k: v for k, v in found.tensors().items() if k.startswith("net.")}
    agent.load_tensors(agent.tensors() | networks)


def agents_of(suite: Suite, study_name: str, entry_name: str, out: Path, device: str = "cpu") -> list[Agent]:
    """The agents that a row evaluates, one per seed; a single one where nothing depends on a seed."""
    study = suite.studies[study_name]
    entry = study.entries[entry_name]
    source = study.entries[entry.runs_of] if entry.runs_of else entry
    if not source.iterations:
        seeds = study.seeds if entry.every_seed else study.seeds[:1]
        return [with_settings(agent_of(study, entry, seed, device), **entry.evaluated_with) for seed in seeds]
    paths = [run_path(out, Cell(study_name, entry.runs_of or entry_name, seed)) for seed in study.seeds]
    found = []
    for path, seed in zip(paths, study.seeds, strict=True):
        run = Run.open(path)
        refuse_another(run, agent_of(study, source, seed), source.iterations)
        agent, done = run.load_agent(device)  # type: ignore[arg-type]
        if done < source.iterations:
            raise InvalidValueError(
                f"run {path}", f"{done} iterations", f"all {source.iterations} before an evaluation"
            )
        found.append(with_settings(agent, **entry.evaluated_with))
    return found


def evaluate_row(
    suite: Suite, study: str, entry: str, out: Path, device: str = "cpu", progress: Progress | None = None
) -> Results:
    """Evaluate a row's trained agents by the study's protocol.

    Args:
        suite: the suite.
        study: name of a study.
        entry: name of one of its entries.
        out: the suite's folder.
        device: where the agents live.
        progress: called after each adaptation step.

    Raises:
        InvalidValueError: a training is missing, is not finished, or was made with other settings.
    """
    protocol, agents = suite.studies[study].protocol, agents_of(suite, study, entry, out, device)
    tasks = agents[0].family.tasks(protocol.split, protocol.tasks)
    results = evaluate(
        agents,
        tasks,
        k=protocol.k,
        trials=protocol.trials,
        episodes=protocol.episodes,
        modes=protocol.modes,
        seed=protocol.seed,
        progress=progress,
    )
    source = suite.studies[study].entries[suite.studies[study].entries[entry].runs_of or entry]
    results.meta["iterations"] = source.iterations
    trained_as = suite.studies[study].entries[entry].runs_of or entry
    results.meta |= curves_of_runs(run_path(out, Cell(study, trained_as, a.seed)) for a in agents)
    results.meta["row"] = identity(suite, study, entry, out)
    return results


def identity(suite: Suite, study: str, entry: str, out: Path) -> dict[str, Any]:
    """What a row's numbers follow from: the entry, the protocol, the seeds, and the weights of its trained agents."""
    given, source = suite.studies[study], suite.studies[study].entries[entry].runs_of or entry
    trained = given.entries[source].iterations > 0
    paths = [run_path(out, Cell(study, source, seed)) for seed in given.seeds] if trained else []
    facts = {
        "suite": suite.name,
        "study": study,
        "entry": entry,
        "family": given.family,
        "agent": asdict(given.entries[entry]),
        "protocol": asdict(given.protocol),
        "seeds": list(given.seeds),
        "weights": [read_head(path / "checkpoint.json")["tensors_sha256"] for path in paths],
    }
    plain: dict[str, Any] = json.loads(json.dumps(facts))
    return plain


def is_evaluated(suite: Suite, study: str, entry: str, out: Path) -> bool:
    """Whether a row's results are those of its present weights, settings and protocol."""
    path = results_path(out, study, entry)
    if not path.exists():
        return False
    source = suite.studies[study].entries[entry].runs_of or entry
    needed = [Cell(study, source, seed) for seed in suite.studies[study].seeds]
    if suite.studies[study].entries[source].iterations and not all(is_trained(suite, cell, out) for cell in needed):
        return False
    return bool(Results.load(path).meta.get("row") == identity(suite, study, entry, out))


def reproduces(suite: Suite, study: str, entry: str, out: Path, device: str = "cpu") -> float:
    """Evaluate a row again from its weights; the largest difference of a score from the stored one.

    Raises:
        InvalidValueError: the row has no results, or they are of other weights, settings or another protocol.
    """
    path = results_path(out, study, entry)
    if not is_evaluated(suite, study, entry, out):
        expected = "results of the present weights, settings and protocol (metarl benchmark makes them)"
        raise InvalidValueError(f"results of {study}/{entry}", str(path), expected)
    stored, again = Results.load(path), evaluate_row(suite, study, entry, out, device)
    return max(float(np.abs(stored.scores[mode] - again.scores[mode]).max()) for mode in stored.scores)
