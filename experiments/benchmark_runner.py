"""What `metarl benchmark` costs beside the trainings themselves, and what it gains on several cores.

    python experiments/benchmark_runner.py [--cells 12] [--iterations 40] [--jobs 2] [--repeats 3] [--small]

The cells are trainings of `maml` on metarl/PointNavigation-v0, one for each seed, of equal size and with one thread
each. One side trains them with `metarl benchmark --jobs 2`, side by side, and one with `--jobs 1`, in one process. The
third side is no runner: the same runs (`metarl.Run`) in a plain loop in one process. The sides run in turns, each in a
new Python process whose start counts, after a warm-up of one cell. A number is the median over repeats. Seconds are
those of the wall clock, and of the processor over all processes (user and system). At the end, all sides must have
trained the same weights.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro
from baselines.measure import Sample, Side, interleave, machine
from results_files import results_file

from metarl.files import write_atomic

OUT = results_file("speed", "speed_runner")
SETTINGS = {"meta_batch_size": 20, "episodes": 10, "fvp_stride": 5}
SMALL = {"meta_batch_size": 2, "episodes": 1, "hidden": (4,)}
SUITE = """
from metarl.benchmark.suite import Entry, Study, Suite

entry = Entry("maml", {settings}, iterations={iterations})
suite = Suite("runner", {{"s": Study("metarl/PointNavigation-v0", {{"maml": entry}}, seeds=tuple(range({cells})))}})
"""
LOOP = """
import sys
import torch
import metarl

torch.set_num_threads(1)
for seed in sys.argv[1:-1]:
    agent = metarl.make_agent("maml", "metarl/PointNavigation-v0", seed=int(seed), **{settings})
    metarl.Run.create(f"{{sys.argv[-1]}}/s/maml/seed{{seed}}", agent, {iterations}).train(agent)
"""


@dataclass(frozen=True)
class Options:
    """Options of the benchmark."""

    cells: int = 12
    """Number of trainings."""
    iterations: int = 40
    """Meta-updates of each training."""
    jobs: int = 2
    """Cells side by side of the first side."""
    repeats: int = 3
    """Timed repeats of each side."""
    out: Path = OUT
    """Results file."""
    small: bool = False
    """Whether to train tiny networks on few samples, to test that everything runs. Such numbers are meaningless."""


def main(options: Options) -> None:
    """Measure, print and write the results."""
    with tempfile.TemporaryDirectory() as name:
        folder, values = Path(name), {"cells": options.cells, "iterations": options.iterations}
        text = {"settings": SMALL if options.small else SETTINGS, **values}
        (folder / "suite.py").write_text(SUITE.format(**text))
        (folder / "loop.py").write_text(LOOP.format(**text))
        sides = {
            "side by side": side(folder, "side by side", options.cells, options.jobs),
            "one process": side(folder, "one process", options.cells, 1),
            "no runner": side(folder, "no runner", options.cells, None),
        }
        case = interleave(sides, options.repeats)
        equal = len({weights(folder / name / str(options.repeats), options.cells) for name in sides}) == 1
    settings = asdict(options) | {"out": options.out.name}
    report = {"options": settings, "settings": text["settings"], **machine(), "sides": case, "equal_weights": equal}
    for line in lines_of(report):
        print(line)
    write_atomic(options.out, (json.dumps(report, indent=1) + "\n").encode())


def side(folder: Path, name: str, cells: int, jobs: int | None) -> Side:
    """One side: `metarl benchmark` with some jobs, or for None the loop."""

    def work(i: int) -> Sample:
        seeds = [str(seed) for seed in range(cells if i else 1)]
        only = [f"s/maml/seed{seed}" for seed in seeds]  # the trainings, and no evaluation
        runner = ["-m", "metarl", "benchmark", str(folder / "suite.py"), "--jobs", str(jobs), "--only", *only, "--out"]
        arguments = [str(folder / "loop.py"), *seeds] if jobs is None else runner
        command = [sys.executable, *arguments, str(folder / name / str(i))]
        start, used = time.perf_counter(), _processor_seconds()
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        return {"seconds": time.perf_counter() - start, "processor_seconds": _processor_seconds() - used}

    return work


def _processor_seconds() -> float:
    """Seconds, user and system, of all child processes that ended, and of their children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def weights(out: Path, cells: int) -> tuple[bytes, ...]:
    """The last checkpoints of all cells."""
    runs = [out / f"s/maml/seed{seed}" for seed in range(cells)]
    return tuple(next(run.glob("checkpoint-*.safetensors")).read_bytes() for run in runs)


def lines_of(report: dict[str, Any]) -> Iterator[str]:
    """The medians, and the ratios of interest."""
    found = {
        name: {key: statistics.median(values) for key, values in case.items()} for name, case in report["sides"].items()
    }
    for name, values in found.items():
        yield f"{name:<14} {values['seconds']:9.2f} s   processor {values['processor_seconds']:9.2f} s"
    two, one, loop = (found[name] for name in ("side by side", "one process", "no runner"))
    yield f"side by side, times as fast as one process: {one['seconds'] / two['seconds']:.2f}"
    for key, what in (("seconds", "wall clock"), ("processor_seconds", "processor")):
        yield f"overhead of the runner in one process, {what}: {one[key] / loop[key] - 1:+.1%}"
    yield f"equal weights: {'yes' if report['equal_weights'] else 'no'}"


def words_of(report: dict[str, Any]) -> str:
    """What the runner costs and gains, for docs."""
    medians = {
        name: {key: statistics.median(values) for key, values in case.items()} for name, case in report["sides"].items()
    }
    two, one, loop = (medians[name] for name in ("side by side", "one process", "no runner"))
    options = report["options"]
    spread = max(max(case["seconds"]) / min(case["seconds"]) for case in report["sides"].values()) - 1
    costs = [one[key] / loop[key] - 1 for key in ("seconds", "processor_seconds")]
    words = f"{costs[0]:+.1%} of the time on the wall and {costs[1]:+.1%} of the processor's"
    cost = f"So the runner costs {words}."
    if max(map(abs, costs)) < spread:
        cost = f"So no cost of the runner can be seen: {words}, where repeats of one side differ by up to {spread:.1%}."
    return (
        f"A suite of {options['cells']} equal trainings of {loop['seconds'] / options['cells']:.1f} s takes "
        f"{two['seconds']:.0f} s with {options['jobs']} side by side, {one['seconds']:.0f} s in one process, "
        f"{one['seconds'] / two['seconds']:.2f} times as long, and {loop['seconds']:.0f} s in a plain loop without the "
        f"runner. {cost} Medians of {options['repeats']} turns of each on {report['cpu']}, {report['cores']} cores; "
        "all sides trained the same weights. Command: `python experiments/benchmark_runner.py --cells "
        f"{options['cells']} --iterations {options['iterations']} --repeats {options['repeats']}`."
    )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
