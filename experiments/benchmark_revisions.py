"""Seconds of a meta-update of two revisions of metarl, turn by turn in processes of their own.

    python experiments/benchmark_revisions.py b5d56b8 --agent rl2 --family metarl/BernoulliBandit-v0

compares a revision with the working tree. Each turn trains a new agent with one thread, and its first meta-updates warm
up. The ratio is that of the medians over turns: above 1, the working tree is faster. b5d56b8 is the last revision in
which `rl2` had recurrent networks, returns and PPO of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from baselines.measure import machine
from results_files import results_file

from metarl.files import write_atomic

ROOT = Path(__file__).resolve().parent.parent
OUT = results_file("speed", "speed_revisions")
TURN = """
import json, statistics, sys, time
import torch, metarl
torch.set_num_threads(1)
name, family, settings, warm, updates = json.loads(sys.argv[1])
agent = metarl.make_agent(name, family, **settings)
seconds = []
begun = [time.perf_counter()]
def done(iteration, metrics):
    now = time.perf_counter()
    seconds.append(now - begun[0])
    begun[0] = now
metarl.train(agent, warm + updates, on_iteration=done)
print(json.dumps(statistics.median(seconds[warm:])))
"""


def turn(tree: Path, work: str) -> float:
    """Median seconds of a meta-update of the code in a tree."""
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", TURN, work]
    out = subprocess.run(command, env=environment, cwd=tree, capture_output=True, text=True, check=True)
    return float(out.stdout.split()[-1])


def main() -> None:
    """Take turns, and print each and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", help="a revision of git")
    parser.add_argument("--agent", default="rl2")
    parser.add_argument("--family", default="metarl/BernoulliBandit-v0")
    parser.add_argument("--settings", type=json.loads, default={}, help="hyperparameters, as JSON")
    parser.add_argument("--warm", type=int, default=3, help="meta-updates before those that count")
    parser.add_argument("--updates", type=int, default=10, help="meta-updates that count, of a turn")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each side")
    parser.add_argument("--out", type=Path, default=OUT, help="results file")
    given = parser.parse_args()
    work = json.dumps([given.agent, given.family, given.settings, given.warm, given.updates])
    before: list[float] = []
    now: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        subprocess.run(["git", "worktree", "add", "-q", "--detach", tree, given.revision], cwd=ROOT, check=True)
        try:
            for number in range(given.repeats):
                before.append(turn(tree, work))
                now.append(turn(ROOT, work))
                print(f"turn {number + 1}: {1000 * before[-1]:.1f} ms at {given.revision}, {1000 * now[-1]:.1f} ms now")
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, check=True)
    report = {"agent": given.agent, "family": given.family, "settings": given.settings, "revision": given.revision}
    report |= {**machine(), "before": before, "now": now}
    write_atomic(given.out, (json.dumps(report, indent=1) + "\n").encode())
    ratio = statistics.median(before) / statistics.median(now)
    print(f"{given.agent} on {given.family}: the working tree is {ratio:.2f} times as fast as {given.revision}")


if __name__ == "__main__":
    main()
