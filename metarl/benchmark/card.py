"""Model cards: what a row is, how it was made, and its numbers, in Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metarl.errors import InvalidValueError
from metarl.evaluation.results import Results
from metarl.files import write_atomic

CARD = "card.md"


def card(results: Results) -> str:
    """The card of a row of a benchmark.

    Args:
        results: of `metarl benchmark`.

    Raises:
        InvalidValueError: they are of another kind and do not say what they follow from.
    """
    row = results.meta.get("row")
    if row is None:
        raise InvalidValueError("row of the results", None, "what the results of `metarl benchmark` follow from")
    lines = [f"# {row['suite']}/{row['study']}/{row['entry']}", "", f"`{results.agent}` on `{results.family}`.", ""]
    if results.meta.get("train_equals_test"):
        lines += ["Train and test tasks are the same.", ""]
    lines += [f"- {line}" for line in (*_training(results.meta, row), *_evaluation(results, row))]
    for mode in results.scores:
        lines += ["", f"R_k with {mode} actions:", "", "| k | mean | 95 % interval | environment steps |"]
        lines += ["| --: | --: | --: | --: |"]
        for r in results.summary(mode):
            interval = f"[{r['low']:.4g}, {r['high']:.4g}]"
            lines.append(f"| {r['k']:.0f} | {r['mean']:.4g} | {interval} | {r['env_steps']:,.0f} |")
    if life := results.lifetime_summary():
        best = f"; Bayes optimum: {life['bayes_optimal']:.4g}" if "bayes_optimal" in life else ""
        lines += ["", f"Lifetime return: {life['mean']:.4g} [{life['low']:.4g}, {life['high']:.4g}]{best}."]
    return "\n".join(lines) + "\n"


def _training(meta: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    """What is said of the training."""
    entry = row["agent"]
    lines = [f"Settings that differ from the defaults: {_settings(entry['settings'])}."]
    if entry["runs_of"]:
        lines = [f"The trainings are those of `{'/'.join(row['source'])}`."]
    if entry["evaluated_with"]:
        lines.append(f"Changed for the evaluation: {_settings(entry['evaluated_with'])}.")
    if entry["begins_with"]:
        lines.append(f"The networks begin with those of `{entry['begins_with']}`.")
    if entry.get("task_sampler", "family") != "family":
        lines.append(f"The train tasks were drawn by `--task-sampler {entry['task_sampler']}`.")
    if not meta["iterations"]:
        return [*lines, f"The agent needs no training; seeds {', '.join(map(str, meta['seeds']))}."]
    seeds = ", ".join(map(str, meta["seeds"]))
    steps = _range(meta.get("train_env_steps", []))
    used = f", {steps} environment steps for each seed" if steps else ""
    took = _range([math.ceil(seconds) for seconds in meta.get("train_seconds", [])])
    used += f" in {took} s" if took and used else ""
    lines.append(f"{meta['iterations']} meta-updates{used}, on {meta.get('trained_on', 'cpu')}, seeds {seeds}.")
    if not row["weights"]:
        return lines
    return [*lines, *(f"Weights of seed {s}: sha256 `{w}`." for s, w in zip(row["seeds"], row["weights"], strict=True))]


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"`{name}={value!r}`" for name, value in settings.items()) or "none"


def _range(numbers: Sequence[int]) -> str:
    """The least and the largest of some counts, or their one value; empty without any."""
    return " to ".join(f"{number:,}" for number in sorted({min(numbers), max(numbers)})) if numbers else ""


def _references(results: Results) -> str:
    """The mean return of uniformly random play, and of a player who knows the task, where they are known."""
    names = {"floor": "floor (uniformly random actions)", "informed_optimum": "informed optimum"}
    known = {words: results.references[name].mean() for name, words in names.items() if name in results.references}
    return ", ".join(f"{words} {mean:.4g}" for words, mean in known.items())


def _evaluation(results: Results, row: Mapping[str, Any]) -> list[str]:
    """What is said of the evaluation."""
    protocol, study = row["protocol"], row["study"]
    k = ", ".join(map(str, results.k))
    tasks = f"{protocol['tasks']:,} tasks of split `{results.split}`, trials of each: {protocol['trials']}"
    references = _references(results)
    return [
        f"k = {k}; {tasks}, fresh episodes for each R_k: {protocol['episodes']}.",
        f"Hash of the tasks: `{results.task_hash}`.",
        *([f"Mean return of an episode in these tasks: {references}."] if references else []),
        f"Command: `{results.meta['command']} --out FOLDER`, where FOLDER holds `{study}/`.",
        "`metarl eval` with the path of this folder plays the weights again.",
    ]


def write_card(folder: Path, results: Results) -> Path:
    """Write the card beside the results of a row."""
    path = folder / CARD
    write_atomic(path, card(results).encode())
    return path
