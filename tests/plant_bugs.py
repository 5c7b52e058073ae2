"""Plant a bug for each pitfall of the field, one at a time, in a copy of the code, and see a test fail.

    python tests/plant_bugs.py              # all of them
    python tests/plant_bugs.py lvc time     # those whose name contains a word
    python tests/plant_bugs.py --sample 6   # six, which the hash of the commit chooses

One runs on each core. Exit code 1 if any bug survives. The pitfalls are numbered as in docs/pitfalls.md.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from planted import BUGS
from planted.bug import Bug

ROOT = Path(__file__).resolve().parent.parent


def copied(target: Path) -> Path:
    """A copy of the repository without what is no code."""
    everywhere = shutil.ignore_patterns(".git", ".venv", ".*_cache", "__pycache__", "*.egg-info", "results")

    def left_out(folder: str, names: list[str]) -> set[str]:
        return everywhere(folder, names) | ({"build", "runs"} if Path(folder) == ROOT else set())

    return Path(shutil.copytree(ROOT, target, symlinks=True, ignore=left_out))


def survives(bug: Bug) -> bool:
    """Plant it in a copy and run one test file: do all tests still pass?"""
    with tempfile.TemporaryDirectory() as folder:
        copy = copied(Path(folder) / "copy")
        target = copy / bug.file
        text = target.read_text()
        if text.count(bug.old) != 1:
            raise SystemExit(f"{bug.name}: {bug.file} holds {bug.old!r} {text.count(bug.old)} times, expected once")
        target.write_text(text.replace(bug.old, bug.new))
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider"]
        environment = {**os.environ, "PYTHONPATH": str(copy), "TMPDIR": folder, "PYTEST_DEBUG_TEMPROOT": folder}
        done = subprocess.run(
            [*command, f"tests/{bug.test}.py"], cwd=copy, env=environment, capture_output=True, text=True
        )
        if done.returncode not in (0, 1):
            raise SystemExit(f"{bug.name}: the tests did not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.returncode == 0


def sample(count: int) -> list[Bug]:
    """Other bugs for another commit, the same for the same one."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return random.Random(commit.strip()).sample(BUGS, min(count, len(BUGS)))


def main() -> None:
    """Plant them, one on each core."""
    parser = argparse.ArgumentParser(description="Plant bugs in copies of the code and see tests fail.")
    parser.add_argument("words", nargs="*", help="plant the bugs whose name contains one of these; default: all")
    parser.add_argument("--sample", type=int, metavar="N", help="plant N, which the hash of the commit chooses")
    options = parser.parse_args()
    chosen = [bug for bug in BUGS if not options.words or any(w in bug.name for w in options.words)]
    chosen = sample(options.sample) if options.sample else chosen
    alive = 0
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for bug, survived in zip(chosen, pool.map(survives, chosen), strict=True):
            alive += survived
            print(f"{'SURVIVED' if survived else 'caught'}  {bug.name}", flush=True)
    print(f"{len(chosen) - alive} of {len(chosen)} planted bugs caught")
    sys.exit(1 if alive else 0)


if __name__ == "__main__":
    main()
