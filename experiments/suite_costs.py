"""Measure what the rows of the built-in suites take, for the time that `metarl benchmark SUITE --dry-run` foretells.

    OMP_NUM_THREADS=1 python experiments/suite_costs.py [--suites mujoco metaworld]

The seconds of a training are those of the second of two meta-updates; the first one has what is done once. Those of an
evaluation are measured with an untrained agent on so many of its tasks that more would take longer (of agents whose
beliefs are compared, on all tasks in which they are); those of
Stable-Baselines3, which learns while it is evaluated, are those of the published row, or of one task. Both are divided
by the environment steps that the job says it makes. Rows that were measured before stay as they are, unless `--suites`
names their suite. Run it beside one other busy process at most.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from baselines.measure import machine
from results_files import row_file

from metarl.benchmark import suites
from metarl.benchmark.cells import run_path
from metarl.benchmark.costs import FILE, units
from metarl.benchmark.jobs import Job, plan
from metarl.benchmark.rows import evaluate_row
from metarl.benchmark.suite import Cell, Suite, agent_of, built_in_suites, load_suite
from metarl.evaluation.belief import BELIEVED, Believer
from metarl.evaluation.results import Results
from metarl.files import parse_json, write_atomic
from metarl.runs.run import Run

OUT = Path(suites.__path__[0]) / FILE
LONG = 2.0  # seconds that an evaluation must take for its speed to count
GROWN = 2.0  # how many times as long as on a sixteenth of the tasks: then it is the tasks that take the time


@dataclass
class Options:
    """Options of the command line."""

    suites: tuple[str, ...] = ()
    """Suites to measure; all those that lack something, without it."""


def training_cost(suite: Suite, job: Job) -> float:
    """Seconds of a meta-update of a training, for each of its units."""
    study = suite.studies[job.study]
    entry = study.entries[job.entry]
    with tempfile.TemporaryDirectory() as folder:
        path = run_path(Path(folder), Cell(job.study, job.entry, 0))
        run = Run.create(path, agent_of(study, entry, 0), 2, 2, task_sampler=entry.task_sampler, keeps_replay=False)
        run.train(*run.load_agent("cpu"))
        last = parse_json((path / "metrics.jsonl").read_text().splitlines()[-1])
    return float(last["seconds_sampling"] + last["seconds_optimisation"]) * job.size / units(suite, job)


def evaluation_cost(suite: Suite, job: Job) -> float:
    """Seconds of an evaluation, for each of its environment steps."""
    study = suite.studies[job.study]
    if study.entries[job.entry].agent == "sb3":
        path = row_file(f"{suite.name}/{job.study}", job.entry)
        if path.exists():
            return float(Results.load(path).seconds.sum()) / units(suite, job)
        seconds, steps = evaluation_seconds(suite, job, 1)
        return seconds / steps
    evaluation_seconds(suite, job, 2)  # tables and the like are made once
    tasks, most, before = 2, study.protocol.tasks, 0.0
    if isinstance(agent_of(study, study.entries[job.entry], 0), Believer) and study.protocol.trials == 1:
        # comparing beliefs takes the time, and is done for the first tasks alone
        return evaluation_seconds(suite, job, min(BELIEVED, most))[0] * len(study.seeds) / units(suite, job)
    while True:
        seconds, steps = evaluation_seconds(suite, job, min(tasks, most))
        if tasks >= most or seconds > max(LONG, GROWN * before):
            return seconds / steps
        tasks, before = 16 * tasks, seconds


def evaluation_seconds(suite: Suite, job: Job, tasks: int) -> tuple[float, int]:
    """Seconds and units of an evaluation of one untrained agent in one trial of some tasks."""
    study = suite.studies[job.study]
    alone = replace(study.entries[job.entry], iterations=0, runs_of="", begins_with="")
    protocol = replace(study.protocol, tasks=tasks, trials=1)
    small = replace(
        suite, studies={job.study: replace(study, entries={job.entry: alone}, protocol=protocol, seeds=(0,))}
    )
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        evaluate_row(small, job.study, job.entry, Path(folder))
        return time.perf_counter() - began, units(small, Job(job.study, job.entry, None))


def measure(suite: Suite, jobs: list[Job]) -> dict[str, Any]:
    """What a row costs. `jobs` are its evaluation and its trainings."""
    cost: dict[str, Any] = {"training": None, "evaluation": None}
    for job in jobs:
        if job.seed is None:
            cost["evaluation"] = evaluation_cost(suite, job)
        elif job.seed == suite.studies[job.study].seeds[0]:
            cost["training"] = training_cost(suite, job)
    return cost


def main(options: Options) -> None:
    """Measure, and write the file after each row."""
    torch.set_num_threads(1)
    known = json.loads(OUT.read_text())["rows"] if OUT.exists() else {}
    rows: dict[str, Any] = {}
    for suite in map(load_suite, built_in_suites()):
        of_row: dict[str, list[Job]] = {}
        for job in plan(suite):
            of_row.setdefault(f"{suite.name}/{job.study}/{job.entry}", []).append(job)
        for name, jobs in of_row.items():
            study = suite.studies[jobs[0].study]
            made_of = {"agent": study.entries[jobs[0].entry].agent, "family": study.family}
            parts = {"evaluation" if job.seed is None else "training" for job in jobs}
            found = {} if suite.name in options.suites else known.get(name, {})
            if made_of.items() <= found.items() and all(found[part] is not None for part in parts):
                rows[name] = found
                continue
            rows[name] = made_of | measure(suite, jobs)
            print(name, rows[name], flush=True)
            write(known | rows)
    write(rows)  # without those that no suite has any more


def write(rows: dict[str, Any]) -> None:
    """Write the file."""
    write_atomic(OUT, (json.dumps({"processor": machine()["cpu"], "rows": rows}, indent=1) + "\n").encode())


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
