"""What the jobs of a suite take where nothing of them has run yet: as long as what is like them took before.

`suites/costs.json` has, for each row of the built-in suites, the seconds of an environment step of its training and of
its evaluation, on one core. `experiments/suite_costs.py` measures them.
"""

from __future__ import annotations

import functools
import json
from importlib import resources
from statistics import median
from typing import Any

from metarl.benchmark.jobs import Job, env_steps, evaluation_steps
from metarl.benchmark.suite import Suite

FILE = "costs.json"


@functools.cache
def _measured() -> dict[str, Any]:
    """What `costs.json` holds."""
    return dict(json.loads(resources.files("metarl.benchmark.suites").joinpath(FILE).read_text()))


def measured_on() -> str:
    """The processor of the measurements."""
    return str(_measured()["processor"])


def units(suite: Suite, job: Job) -> int:
    """What the seconds of a job are counted by: its environment steps; iterations if their steps are not known."""
    return evaluation_steps(suite, job) if job.seed is None else job.size * (env_steps(suite, job) or 1)


def expected_seconds(suite: Suite, job: Job) -> float | None:
    """Seconds of a whole job on one core; None if no row of the built-in suites has its agent and family.

    Of several such rows the one with the same names counts, else their median.
    """
    study = suite.studies[job.study]
    made_of = {"agent": study.entries[job.entry].agent, "family": study.family}
    part = "evaluation" if job.seed is None else "training"
    alike = {
        name: row[part]
        for name, row in _measured()["rows"].items()
        if row[part] is not None and made_of.items() <= row.items()
    }
    if not alike:
        return None
    return float(alike.get(f"{suite.name}/{job.study}/{job.entry}", median(alike.values())) * units(suite, job))
