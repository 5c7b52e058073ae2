"""Names of devices, their free memory, and the number of cores."""

from __future__ import annotations

import os
from typing import Literal

import torch

from metarl.errors import InvalidValueError, did_you_mean

Device = Literal["auto", "cpu", "cuda"]  # "auto": CUDA where there is one


def resolve_device(device: str | torch.device) -> torch.device:
    """The device for "auto", "cpu", "cuda" or "cuda:N". CUDA without a CUDA device is an error."""
    name, available = str(device), torch.cuda.is_available()
    if name not in ("auto", "cpu", "cuda") and not name.startswith("cuda:"):
        raise InvalidValueError("device", device, did_you_mean(name, ("auto", "cpu", "cuda")))
    if name.startswith("cuda") and not available:
        raise InvalidValueError("device", device, "'cpu': this PyTorch finds no CUDA device")
    return torch.device(("cuda" if available else "cpu") if name == "auto" else name)


def cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_bytes(device: torch.device) -> int:
    """Free memory of a device in bytes; a very large number if the system does not report it."""
    if device.type == "cuda":
        # PyTorch caches memory that its tensors have freed
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    try:
        with open("/proc/meminfo") as lines:
            return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) if hasattr(os, "sysconf") else 2**62


def check_fits(option: str, value: int, each: int, device: torch.device, what: str) -> None:
    """Refuse a number of things that do not fit into a device's free memory.

    Args:
        option: that gives the number, such as "varibad.replay_trials".
        value: the number.
        each: bytes of one of them, an estimate from below.
        device: where they are to be.
        what: one of them and its verb, such as "a trial needs".

    Raises:
        InvalidValueError: they do not fit.
    """
    free = free_bytes(device)
    if value * each > free:
        expected = f"at most about {free // each:,}: {what} {each / 1024:,.0f} KiB and {free / 2**30:.1f} GiB are free"
        raise InvalidValueError(option, value, expected)
