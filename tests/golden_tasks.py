"""Content hashes of the first 1,000 tasks of every built-in family, preset and split, which are the same everywhere.

    python tests/golden_tasks.py            # compares them with golden_tasks.json, exits with 1 where one differs
    python tests/golden_tasks.py --write    # writes the file anew, after a change that is meant

`tests/families/test_golden_tasks.py` compares all but those of the slowest families.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import metarl
from metarl.families import registry
from metarl.families.distributions import Repeated
from metarl.families.tasks import sample_tasks

FILE = Path(__file__).with_name("golden_tasks.json")
COUNT = 1000
# every distribution, also those that no built-in family has in this form
DISTRIBUTIONS: dict[str, Any] = {
    "choice": metarl.Choice([[0.25, 1.0], [3.0, -4.0], [0.1, 0.7]]),
    "flat_dirichlet": metarl.FlatDirichlet((3, 7)),
    "integer": metarl.Integers(-5, 1 << 20),
    "integers": metarl.Integers(0, 99, (4,)),
    "log_uniform": metarl.LogUniform(0.01, 300.0, (3,)),
    "normal": metarl.Normal(-2.5, 0.3, (9,)),
    "repeated": Repeated(metarl.Normal(0.0, 1.0, (2,)), 4),
    "uniform": metarl.Uniform(-1.7, 3.1, (5,)),
}
DISTRIBUTION = "distribution "


def ids() -> list[str]:
    """Every built-in family and preset whose package is installed, and every distribution alone."""
    out = [DISTRIBUTION + name for name in DISTRIBUTIONS]
    for name, spec in sorted(registry.families.items()):
        if spec.available and name.startswith("metarl/"):
            out += [name, *(f"{name}:{preset}" for preset in sorted(getattr(spec.load(), "presets", {})))]
    return out


def hashes(id: str) -> dict[str, str]:
    """Of the first tasks, by split."""
    if id.startswith(DISTRIBUTION):
        name = id.removeprefix(DISTRIBUTION)
        return {"test": sample_tasks(id, {name: DISTRIBUTIONS[name]}, "test", 0, range(COUNT), 1).hash}  # type: ignore[arg-type]
    family = metarl.make_family(id)
    return {split: family.tasks(split, COUNT).hash for split in family.splits}


def installed(id: str) -> bool:
    """Whether nothing is missing for a family, or for what is none."""
    spec = registry.families.get(registry.base_id(id))
    return spec is None or spec.available


def main(arguments: Sequence[str]) -> int:
    """Compare or write; the exit status."""
    golden, found = json.loads(FILE.read_text()), {id: hashes(id) for id in ids()}
    kept = {id: old for id, old in golden.items() if not installed(id)}
    if "--write" in arguments:
        golden = dict(sorted((kept | found).items()))
        FILE.write_text(json.dumps(golden, indent=1) + "\n")
    golden = {id: old for id, old in golden.items() if id not in kept}
    different = sorted(id for id in golden.keys() | found.keys() if golden.get(id) != found.get(id))
    print(
        f"{len(found)} families and presets, {len(different)} differ{': ' if different else ''}{', '.join(different)}"
    )
    return 1 if different else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
