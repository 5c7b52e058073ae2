"""Measure the bounds of tests/agents/test_learning.py: seeds 0, ..., 19 on the processor as it is and as an old one.

    python tests/learning_thresholds.py              # all of them, some 25 minutes of two cores
    python tests/learning_thresholds.py maml 'rl2'   # those whose name contains a word

Scores are kept in build/learning.jsonl as they come: a second call goes on where the first one ended. A change of what
is trained needs that file removed. Exit code 1 if a bound is less than four standard deviations from a mean.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from test_learning import Learning

sys.path.append(str(Path(__file__).resolve().parent / "agents"))  # where test_learning is
SCORES = Path(__file__).resolve().parent.parent / "build" / "learning.jsonl"
SEEDS = range(20)
OLD = {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ONEDNN_MAX_CPU_ISA": "SSE41"}
PROCESSORS = {"as it is": {}, "old": OLD}
NEEDED = 4.0  # standard deviations


def read() -> dict[tuple[str, str, int], dict[str, float]]:
    """What has been measured, by processor, name and seed."""
    lines = SCORES.read_text().splitlines() if SCORES.exists() else []
    return {(e["processor"], e["name"], e["seed"]): e["scores"] for e in map(json.loads, lines)}


def measure(processor: str, names: list[str]) -> None:
    """Train what is missing, all names with one seed before the next seed."""
    import torch
    from test_learning import LEARNING

    torch.set_num_threads(1)
    done = read()
    for seed, name in ((s, n) for s in SEEDS for n in names):
        if (processor, name, seed) not in done:
            scores = {k: float(v) for k, v in LEARNING[name].scores(seed=seed).items()}
            with SCORES.open("a") as file:
                file.write(json.dumps({"processor": processor, "name": name, "seed": seed, "scores": scores}) + "\n")


def table(names: list[str]) -> Iterator[tuple[str, float]]:
    """A line for every score, and by how many standard deviations it keeps within its bounds on every processor."""
    from test_learning import LEARNING

    found = read()
    for name in names:
        runs = {p: [found[p, name, s] for s in SEEDS if (p, name, s) in found] for p in PROCESSORS}
        for score in runs["old"][0]:
            each = {p: [scores[score] for scores in rows] for p, rows in runs.items()}
            margin = min(deviations(LEARNING[name], score, values) for values in each.values())
            both = [value for values in each.values() for value in values]
            means = ", ".join(f"{p}: {statistics.mean(v):.3g} over {len(v)} seeds" for p, v in each.items())
            line = f"mean {statistics.mean(both):.3g}, sd {statistics.stdev(both):.2g} ({means})"
            yield f"{name:12} {score:32} {line}, margin {margin:.1f} sd", margin


def deviations(learning: Learning, score: str, values: list[float]) -> float:
    """How many standard deviations a mean is inside its bound; infinite without a bound."""
    inside = learning.margins({score: statistics.mean(values)})
    return inside.get(score, math.inf) / max(statistics.stdev(values), 1e-9)


def main(words: list[str]) -> None:
    """Measure on both processors at once, then print the table."""
    from test_learning import LEARNING

    names = [name for name in LEARNING if not words or any(word in name for word in words)]
    SCORES.parent.mkdir(exist_ok=True)
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--measure"]
    jobs = [subprocess.Popen([*command, p, *names], env=one_thread | more) for p, more in PROCESSORS.items()]
    if any([job.wait() for job in jobs]):
        sys.exit("a training failed")
    lines = list(table(names))
    print("\n".join(line for line, _ in lines))
    sys.exit(1 if any(margin < NEEDED for _, margin in lines) else 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2], sys.argv[3:])
    else:
        main(sys.argv[1:])
