"""The Bayes optimum of every bandit of the suite `bandits`, or an upper bound of it.

    python experiments/bandit_bounds.py
    python experiments/bandit_bounds.py --studies bandits/n500-k5     # minutes; adds to the file

Dynamic programming gives the exact optimum if the arms have few enough counts. Otherwise an information relaxation
gives an upper bound with a standard error (see `metarl.envs.bandits.bandit_bounds`). Writes
`experiments/results/bandits/bounds.json`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from results_files import STUDIES, length, results_file, selected

import metarl
from metarl.envs.bandits.bandit_bounds import bayes_upper_bound, sampled_upper_bound
from metarl.envs.bandits.bernoulli_bandit import BernoulliBandit
from metarl.files import write_atomic

OUT = results_file("bandits", "bounds")


@dataclass(frozen=True)
class Options:
    """Options of the computation."""

    studies: tuple[str, ...] = ("bandits/n10", "bandits/n100")
    """Names of studies, or their first parts. A study of 500 pulls takes minutes with 5 arms, and longer with more."""
    out: Path = OUT
    """Results file."""
    threads: int = 1
    """Number of PyTorch threads."""


def main(options: Options) -> None:
    """Compute the bounds and write them."""
    torch.set_num_threads(options.threads)
    report: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {"cells": {}}
    for name in (name for name in selected(options.studies) if name.startswith("bandits/")):
        family, pulls = metarl.make_family(STUDIES[name].family), length(name)
        assert isinstance(family, BernoulliBandit)
        exact = family.bayes_optimal_return(pulls)
        bound, error = (exact, 0.0) if exact is not None else sampled_upper_bound(pulls, family.k)
        if exact is None and (other := bayes_upper_bound(pulls, family.k)) < bound:
            bound, error = other, 0.0
        report["cells"][name] = {"exact": exact, "upper_bound": bound, "standard_error": error}
        print(name, report["cells"][name], flush=True)
    write_atomic(options.out, (json.dumps(report, indent=1) + "\n").encode())


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
