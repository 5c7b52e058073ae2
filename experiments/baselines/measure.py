"""Measuring two sides turn by turn, and the table of what came out."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from metarl.distribution import git_revision, versions

MISSING = "not installed: pip install sb3-contrib"
Sample = dict[str, float]  # one repeat's numbers, by name
Side = Callable[[int], Sample]  # given the repeat's number, 0 for the warm-up


def timed(device: str, work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that `work` takes, the device's queue included, and what it returns."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    wait()
    start = time.perf_counter()
    out = work()
    wait()
    return time.perf_counter() - start, out


def interleave(sides: dict[str, Side], repeats: int) -> dict[str, dict[str, list[float]]]:
    """A B A B: every side once for warm-up and then `repeats` times, taking turns."""
    raw: dict[str, dict[str, list[float]]] = {name: {} for name in sides}
    for i in range(repeats + 1):
        for name, side in sides.items():
            sample = side(i)
            for key, value in sample.items() if i else ():
                raw[name].setdefault(key, []).append(value)
    return raw


def compare(part: str, what: str, other: str, ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """One row of the table: rates over repeats, and the ratio of their medians (None where there is no other side)."""
    ratio = statistics.median(ours) / statistics.median(theirs) if theirs else None
    return {"part": part, "what": what, "other": other, "ours": ours, "theirs": theirs, "ratio": ratio}


def machine() -> dict[str, Any]:
    """What the numbers depend on beside the code."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
    found = versions()
    for name in ("stable_baselines3", "sb3_contrib", "jax"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "uninstalled"
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load_average": os.getloadavg(),
        "versions": found,
        "git": git_revision(),
    }


def lines_of(report: dict[str, Any]) -> Iterator[str]:
    """The table, and what does not fit it."""

    def spread(values: list[float], digits: int = 0) -> str:
        low, high = min(values), max(values)
        return f"{statistics.median(values):,.{digits}f} ({low:,.{digits}f}-{high:,.{digits}f})"

    form = "{:<5} {:<26} {:<23} {:>30} {:>30} {:>7}"
    yield form.format("part", "what", "other", "metarl [env steps/s]", "other [env steps/s]", "ratio")
    for row in report["rows"]:
        theirs, ratio = (spread(row["theirs"]), f"{row['ratio']:.2f}") if row["theirs"] else (MISSING, "-")
        yield form.format(row["part"], row["what"], row["other"], spread(row["ours"]), theirs, ratio)
    for side, numbers in report["details"].get("meta_iteration", {}).items():
        for key in ("seconds_total", "seconds_sampling", "seconds_optimisation", "sampling_share", "difference"):
            if key in numbers:
                yield f"(b) {side}: {key} {spread(numbers[key], 4)}"
    for key, value in report["details"].get("memory", {}).items():
        yield f"(b) metarl: {key} {value / 2**20:,.0f} MiB"
    many = report["details"].get("many_tasks", {"cases": []})
    for case in many["cases"]:
        used = ", ".join(f"{key} {value / 2**20:,.0f} MiB" for key, value in case["memory"].items())
        took = ", ".join(f"{key} {spread(values, 2)} s" for key, values in case["seconds"].items())
        yield f"(d) {case['tasks']:,} tasks, stride {case['stride']}: {used}; {took}"
    if many["cases"]:
        yield f"(d) below {many['goal_bytes'] / 2**30:g} GiB: {'yes' if many['goal_met'] else 'no'}"
