"""The global random generators of torch, NumPy and Python. metarl never draws from them; other people's code may."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

CPU = torch.device("cpu")


def random_states() -> dict[str, object]:
    """The states of the global generators by library, for comparisons."""
    kind, words, *rest = np.random.get_state()  # noqa: NPY002 - read to detect code that uses it
    numpy_state = (kind, np.asarray(words).tobytes(), *rest)
    return {"torch": torch.get_rng_state().numpy().tobytes(), "numpy": numpy_state, "random": random.getstate()}


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed the torch generators that a model on `device` uses. Unlike `torch.manual_seed`, touch no other device."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        number = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[number].manual_seed(seed)


@contextmanager
def seeded(seed: int, device: torch.device = CPU) -> Iterator[None]:
    """Within this context, the global generators are seeded. Afterwards their old states are restored."""
    kept = (random.getstate(), np.random.get_state())  # noqa: NPY002
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            seed_torch(seed, device)
            yield
        finally:
            random.setstate(kept[0])
            np.random.set_state(kept[1])  # noqa: NPY002
