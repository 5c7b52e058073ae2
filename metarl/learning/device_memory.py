"""The free memory of a device."""

from __future__ import annotations

import os

import torch


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
