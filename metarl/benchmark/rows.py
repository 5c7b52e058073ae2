"""The evaluations of a suite: a row is an entry of a study, evaluated by the study's protocol over all seeds.

The results of a row say what they follow from (`identity`). So a row's folder is enough to evaluate it again from the
weights beside it: `evaluate_again`.
"""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from metarl.agent_base import Agent, make_agent
from metarl.benchmark.cells import Progress, is_trained, refuse_another, run_path
from metarl.benchmark.suite import Cell, Entry, Protocol, Suite, agent_of, source_of, trainings
from metarl.errors import InvalidValueError
from metarl.evaluation.evaluate import evaluate
from metarl.evaluation.intervals import Part, interval
from metarl.evaluation.results import FORMAT, Results
from metarl.files import LARGEST_ARRAYS, NpzReader, read_bytes, read_json, reading
from metarl.named import without_imports
from metarl.runs.checkpoints import read_head
from metarl.runs.load import curves_of_runs, with_settings
from metarl.runs.run import Run

RESULTS = "results.json"
Agreement = Literal["equal", "equal to rounding", "equal but for chance", "different"]
MISTAKES = 0.01  # chance that equal distributions are called different
HALF_WIDTHS, SHARE = 0.1, 0.01  # a difference of means is rounding up to both: of the interval, of the largest mean


def results_path(out: Path, study: str, entry: str) -> Path:
    """The results file of a row."""
    return out / study / entry / RESULTS


def agents_of(suite: Suite, study: str, entry: str, out: Path, device: str = "cpu") -> list[Agent]:
    """The agents that a row evaluates, one per seed; a single one where nothing depends on a seed.

    Raises:
        InvalidValueError: a training is missing, is not finished, or was made with other settings.
    """
    given = suite.studies[study].entries[entry]
    source, name = source_of(suite, study, entry)
    trained = suite.studies[source].entries[name]
    if not trained.iterations:
        seeds = suite.studies[study].seeds if given.every_seed else suite.studies[study].seeds[:1]
        return [_changed(agent_of(suite.studies[study], given, seed, device), given) for seed in seeds]
    found = []
    for cell in trainings(suite, study, entry):
        run = Run.open(run_path(out, cell))
        refuse_another(run, agent_of(suite.studies[source], trained, cell.seed), trained)
        found.append(_changed(_finished(run, device), given))
    return found


def _changed(agent: Agent, entry: Entry) -> Agent:
    """The agent with the settings of the entry's evaluation."""
    return with_settings(agent, **entry.evaluated_with)


def _finished(run: Run, device: str) -> Agent:
    """The agent of a run whose training is finished."""
    agent, done = run.load_agent(device)  # type: ignore[arg-type]
    if done < (total := run.config["iterations"]):
        raise InvalidValueError(f"run {run.path}", f"{done} iterations", f"all {total} before an evaluation")
    return agent


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
    agents = agents_of(suite, study, entry, out, device)
    results = _evaluated(agents, suite.studies[study].protocol, progress)
    source, name = source_of(suite, study, entry)
    results.meta["iterations"] = suite.studies[source].entries[name].iterations
    words = ["metarl", "benchmark", suite.source or suite.name, "--only", f"{study}/{entry}"]
    results.meta["command"] = shlex.join(words)
    results.meta["row"] = identity(suite, study, entry, out)
    results.meta["entry"] = f"{suite.name}/{study}/{entry}"
    runs = [Run.open(run_path(out, cell)) for cell in trainings(suite, study, entry)]
    if runs:
        results.meta["trained_on"] = _one_device(runs)
        results.meta |= curves_of_runs(run.path for run in runs)
    return results


def _one_device(runs: Sequence[Run]) -> str:
    """The device of all trainings of a row.

    Raises:
        InvalidValueError: seeds were trained on different devices.
    """
    devices = sorted({str(run.config["device"]) for run in runs})
    if len(devices) != 1:
        raise InvalidValueError(f"devices of the runs in {runs[0].path.parent}", devices, "the same for every seed")
    return devices[0]


def _evaluated(agents: Sequence[Agent], protocol: Protocol, progress: Progress | None = None) -> Results:
    """Evaluate agents by a protocol."""
    results = evaluate(
        agents,
        agents[0].family.tasks(protocol.split, protocol.tasks),
        k=protocol.k,
        trials=protocol.trials,
        episodes=protocol.episodes,
        modes=protocol.modes,
        seed=protocol.seed,
        progress=progress,
    )
    if protocol.compact:
        _compact(results)
    return results


def _compact(results: Results) -> None:
    """Replace arrays that need no interval by means over tasks, trials or episodes."""
    results.collected = results.collected.mean(1, keepdims=True)  # [seed, 1, episode]
    results.references = {name: values.mean(keepdims=True) for name, values in results.references.items()}
    results.lifetime = results.lifetime.mean(2, keepdims=True)  # [seed, task, 1]
    results.scores = {mode: scores.mean(3, keepdims=True) for mode, scores in results.scores.items()}


def identity(suite: Suite, study: str, entry: str, out: Path) -> dict[str, Any]:
    """What a row's numbers follow from: the entry, the protocol, the seeds, and the weights of its trained agents."""
    given, (source, name) = suite.studies[study], source_of(suite, study, entry)
    heads = [run_path(out, cell) / "checkpoint.json" for cell in trainings(suite, study, entry)]
    facts = {
        "suite": suite.name,
        "study": study,
        "entry": entry,
        "family": given.family,
        "agent": asdict(given.entries[entry]),
        "source": [source, name],
        "protocol": asdict(given.protocol),
        "seeds": list(given.seeds),
        "weights": [read_head(head)["tensors_sha256"] for head in heads],
    }
    plain: dict[str, Any] = json.loads(json.dumps(facts))
    return plain


def is_evaluated(suite: Suite, study: str, entry: str, out: Path) -> bool:
    """Whether a row's results are those of its present weights, settings and protocol."""
    path = results_path(out, study, entry)
    if not path.exists() or not all(is_trained(suite, cell, out) for cell in trainings(suite, study, entry)):
        return False
    with suppress(InvalidValueError):
        row = Results.load(path).meta.get("row")
        return row is not None and completed(row) == identity(suite, study, entry, out)
    return False


def completed(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row says it follows from. Fields of its entry that did not exist yet have their defaults."""
    return {**row, "agent": {**asdict(Entry("")), **row["agent"]}}


def refuse_changed(path: Path) -> None:
    """Refuse to replace the results of a row if somebody changed them after metarl wrote them.

    Results whose arrays are missing, or are those of another evaluation (a process was killed between the two files),
    are metarl's own: they may be made anew.

    Raises:
        InvalidValueError: one of the two files is damaged, or metarl did not write it.
    """
    for file in (path, path.with_suffix(".npz")):
        if os.path.lexists(file):
            expected = "the file that metarl wrote: remove it, and the same command makes the results anew"
            with reading("results file", str(file), expected):
                if file == path:
                    read_json(file, FORMAT, "its hash is another")
                elif "lifetime" not in NpzReader(read_bytes(file, LARGEST_ARRAYS)).arrays:
                    raise ValueError("it has no lifetime returns")


def is_reproducible(folder: Path) -> bool:
    """Whether a row's results say what they follow from, so that they can be made again; else they are scores only."""
    return Results.load(folder / RESULTS).meta.get("row") is not None


def _runs(folder: Path, row: Mapping[str, Any]) -> list[Path]:
    """The run directories behind a row's results; none where its agent needs no training."""
    out, (study, name) = folder.resolve().parent.parent, row["source"]
    return [run_path(out, Cell(study, name, seed)) for seed in row["seeds"]] if row["weights"] else []


def evaluate_again(folder: Path, device: str = "cpu", progress: Progress | None = None) -> tuple[Results, Results]:
    """Evaluate a row again from the weights beside its results; no suite is needed.

    Args:
        folder: STUDY/ENTRY of a suite's folder, with `results.json` in it.
        device: where the agents live.
        progress: called after each adaptation step.

    Returns:
        the stored results and the new ones.

    Raises:
        InvalidValueError: the results do not say what they follow from, or weights are missing or others.
    """
    stored = Results.load(folder / RESULTS)
    row = stored.meta.get("row")
    if row is None:
        expected = "results of `metarl benchmark`, which say what they follow from (these are scores only)"
        raise InvalidValueError("row of the results", str(folder / RESULTS), expected)
    entry = Entry(**{f.name: completed(row)["agent"][f.name] for f in fields(Entry)})
    runs = [Run.open(path) for path in _runs(folder, row)]
    for run, expected in zip(runs, row["weights"], strict=True):
        found = read_head(run.path / "checkpoint.json")["tensors_sha256"]
        if found != expected:
            expected = f"{expected}, of which {folder / RESULTS} are results"
            raise InvalidValueError(f"weights of {run.path}", found, expected)
    if runs:
        agents = [_finished(run, device) for run in runs]
    else:
        seeds = row["seeds"] if entry.every_seed else row["seeds"][:1]
        settings: dict[str, Any] = {**_tuples(entry.settings), "device": device}
        with without_imports(str(folder / RESULTS)):
            agents = [make_agent(entry.agent, row["family"], seed=seed, **settings) for seed in seeds]
    agents = [with_settings(agent, **_tuples(entry.evaluated_with)) for agent in agents]
    protocol = Protocol(**_tuples(row["protocol"]))
    return stored, _evaluated(agents, protocol, progress)


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Lists, as JSON has them, as the tuples that settings are."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def agreement(stored: Results, again: Results) -> Agreement:
    """Whether two evaluations of the same weights on the same tasks agree: to the bit, to rounding, or but for chance.

    Another processor rounds sums otherwise, and a rare action that is drawn otherwise makes another episode. So "equal
    to rounding" means: every mean of R_k, and of the lifetime return, moved by at most a tenth of its interval's
    half-width and by at most 1 % of the largest mean, or by less than 1e-6 of it.

    On robots and in other chaotic tasks a rounded sum makes every later state of an episode another one, and what is
    learned from it too. The scores of each seed in each task are then two draws of the same distribution. "Equal but
    for chance" means: every mean moved by at most the square root of 2 times its 95 % interval's half-width, as means
    of two independent evaluations differ, or by at most 1 % of the largest mean; and the differences of all seeds and
    tasks have no common direction (t tests, with a chance of 1 % that any of them says so by mistake).
    """
    if (stored.task_hash, stored.k, _shapes(stored)) != (again.task_hash, again.k, _shapes(again)):
        return "different"
    same = all(np.array_equal(stored.scores[mode], again.scores[mode]) for mode in stored.scores)
    if same and np.array_equal(stored.lifetime, again.lifetime):
        return "equal"
    pairs = [pair for mode in stored.scores for pair in zip(stored.summary(mode), again.summary(mode), strict=True)]
    lives = (stored.lifetime_summary(), again.lifetime_summary())
    if lives[0] and lives[1]:
        pairs.append((lives[0], lives[1]))
    largest = max(abs(a["mean"]) for a, _ in pairs)

    def is_near(a: Mapping[str, float], b: Mapping[str, float]) -> bool:
        most = min(HALF_WIDTHS * (a["high"] - a["low"]) / 2, SHARE * largest)
        return abs(b["mean"] - a["mean"]) <= max(most, 1e-6 * largest)

    if all(is_near(a, b) for a, b in pairs):
        return "equal to rounding"

    def is_held(a: Mapping[str, float], b: Mapping[str, float]) -> bool:
        side = a["high"] - a["mean"] if b["mean"] > a["mean"] else a["mean"] - a["low"]
        return abs(b["mean"] - a["mean"]) <= max(math.sqrt(2) * side, SHARE * largest)

    held = all(is_held(a, b) for a, b in pairs)
    return "equal but for chance" if held and _differs_by_chance(stored, again) else "different"


def _shapes(results: Results) -> dict[str, tuple[int, ...]]:
    return {mode: scores.shape for mode, scores in results.scores.items()} | {"lifetime": results.lifetime.shape}


def _differs_by_chance(stored: Results, again: Results) -> bool:
    """Whether the differences of the scores of each seed and task may have the mean 0."""
    differences = [again.per_task(mode) - stored.per_task(mode) for mode in stored.scores]
    if stored.lifetime.size:
        differences.append((again.lifetime - stored.lifetime).mean(-1, keepdims=True))
    rows = np.concatenate(differences, -1).reshape(-1, sum(d.shape[-1] for d in differences))  # [seed and task, mean]
    if len(rows) < 2:
        return False
    part = Part(rows.var(0, ddof=1) / len(rows), len(rows) - 1)
    low, high = interval(rows.mean(0), [part], level=1 - MISTAKES / rows.shape[1])
    return bool(((low <= 0) & (high >= 0)).all())
