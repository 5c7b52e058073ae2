"""Paths of results files: a folder for each suite, study and row, as `metarl benchmark SUITE --out` makes them.

    experiments/results/bandits/n10-k5/rl2/results.json     row "rl2" of study "n10-k5" of suite "bandits"
    experiments/results/speed/speed_cuda.json               a benchmark of speed, which belongs to no suite

`experiments/results/README.md` lists the contents of each folder and the command that writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from metarl.benchmark.rows import RESULTS as FILE
from metarl.benchmark.suite import Study, built_in_suites, load_suite
from metarl.errors import InvalidValueError, did_you_mean
from metarl.evaluation.evaluate import adaptation_grid

RESULTS = Path(__file__).resolve().parent / "results"
SUITES = {name: load_suite(name) for name in built_in_suites() if name != "quick"}  # those with published rows
STUDIES: dict[str, Study] = {
    f"{name}/{study}": given for name, suite in SUITES.items() for study, given in suite.studies.items()
}


def row_file(study: str, row: str, root: Path = RESULTS) -> Path:
    """Path of the results of a row of SUITE/STUDY."""
    return root / study / row / FILE


def results_file(kind: str, name: str, root: Path = RESULTS) -> Path:
    """Path of a report that belongs to no suite: of "speed", "simulations", "online" or "bandits" (their bounds)."""
    return root / kind / f"{name}.json"


def length(study: str) -> int:
    """Last k of a study's protocol: the number of episodes of a trial, where agents live through one."""
    return adaptation_grid(STUDIES[study].protocol.k)[-1]


def selected(wanted: Sequence[str]) -> list[str]:
    """Names of the studies that `wanted` names, fully or by their first parts (SUITE, or SUITE/nN).

    Without the yardsticks, which are played at several k.
    """

    def named(study: str, part: str) -> bool:
        return study == part or study.startswith((f"{part}/", f"{part}-"))

    for part in wanted:
        if not any(named(study, part) for study in STUDIES):
            raise InvalidValueError("--studies", part, did_you_mean(part, STUDIES))
    return [study for study in STUDIES if any(named(study, part) for part in wanted) and not is_yardstick(study)]


def is_yardstick(study: str) -> bool:
    """Whether a study of agents that live through a trial measures them after several numbers of episodes."""
    return len(adaptation_grid(STUDIES[study].protocol.k)) > 1
