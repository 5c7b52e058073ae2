"""Speed of the agents that infer the task and of plain loops, measured in turns in the same run.

    python experiments/benchmark_inference.py [--repeats 5] [--only h,i] [--threads 2] [--small]

Part (h) is the training of VariBAD, environment steps per second, compared with a plain PyTorch loop over 16
environments in a vector environment, as in the authors' code. The loop makes metarl's update ("same update"), and also
the smaller meta-updates of the authors' schedule, which take more gradient steps per environment step. Part (i) is the
training of PEARL on stored transitions, gradient steps per second, compared with a plain loop of the same update; it
also tells which share of the time goes into matrix products. A number is the median over repeats after one warm-up.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from baselines import pearl_loop, varibad_loop
from baselines.measure import lines_of, machine
from baselines.varibad_loop import Case
from results_files import results_file

from metarl.files import write_atomic

OUT = results_file("speed", "speed_inference")
PARTS = ("h", "i")


@dataclass(frozen=True)
class Options:
    """Options of the benchmark."""

    repeats: int = 5
    """Timed repeats of each side."""
    only: str = "h,i"
    """Parts, separated by commas."""
    threads: int = 2
    """Number of PyTorch threads."""
    out: Path = OUT
    """Results file."""
    small: bool = False
    """Whether to use tiny sizes, to test that everything runs. Such numbers are meaningless."""


GRID = Case(
    "metarl/GridNavi-v0",
    varibad_loop.GridNavi,
    {"trial_episodes": 4, "meta_batch_size": 320},
    {"meta_batch_size": 16, "epochs": 2, "minibatches": 4, "model_updates": 3, "elbo_terms": 60},
)
# the networks of the authors' settings for MuJoCo
CHEETAH = Case(
    "metarl/HalfCheetahVel-v0",
    varibad_loop.HalfCheetahVel,
    {
        **{"trial_episodes": 2, "meta_batch_size": 48, "hidden": 128, "policy_hidden": (128, 128)},
        **{"decoder_hidden": (64, 32), "kl_coef": 0.1, "model_batch_size": 10, "elbo_terms": 50, "decoded_steps": 50},
        "replay_trials": 1000,
    },
    {"meta_batch_size": 16, "epochs": 2, "minibatches": 8, "model_updates": 1},
)
PEARL: dict[str, Any] = {}
TINY = {"meta_batch_size": 16, "minibatches": 2, "epochs": 1, "model_updates": 1, "elbo_terms": 2, "hidden": 4}
SMALL_PEARL = {"policy_hidden": (8,), "encoder_hidden": (8,), "updates": 2, "tasks_per_update": 3, "batch_size": 4}


def main(options: Options) -> None:
    """Measure, print the table and write the results."""
    chosen = options.only.split(",")
    if options.repeats < 1 or not set(chosen) <= set(PARTS):
        raise SystemExit(f"--repeats must be at least 1 and --only some of {','.join(PARTS)}, not {options.only!r}")
    torch.set_num_threads(options.threads)
    cases, pearl = [GRID, CHEETAH], PEARL
    if options.small:
        published = {"meta_batch_size": 16, "minibatches": 4}
        cases, pearl = [Case(GRID.family, GRID.env, GRID.settings | TINY, published)], SMALL_PEARL
    report: dict[str, Any] = {"options": asdict(options) | {"out": options.out.name}}
    report |= {"cases": [{"family": c.family, **c.settings, "published": c.published} for c in cases], "pearl": pearl}
    report |= {**machine(), "rows": [], "details": {}}
    if "h" in chosen:
        for case in cases:
            report["rows"] += varibad_loop.measure_case(case, options.repeats, 0.0 if options.small else 5.0)
    if "i" in chosen:
        rows, details = pearl_loop.measure_case("metarl/PointNavigation-v0", pearl, options.repeats)
        report["rows"] += rows
        report["details"]["pearl"] = details
    print("\n".join(lines_of(report)))
    for side, shares in report["details"].get("pearl", {}).items():
        others = ", ".join(f"{name} {share:.0%}" for name, share in shares["others"].items())
        print(f"(i) {side}: matrix products {shares['products']:.0%}, {others}")
    write_atomic(options.out, (json.dumps(report, indent=1) + "\n").encode())


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
