"""The global generators of torch, NumPy and Python, which nothing here draws from but code of other people."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

CPU = torch.device("cpu")


def random_states() -> dict[str, Any]:
    """The states of the global generators by library, to be compared."""
    kind, words, *rest = np.random.get_state()  # noqa: NPY002 - looked at because nobody may use it
    numpy_state = (kind, np.asarray(words).tobytes(), *rest)
    return {"torch": torch.get_rng_state().numpy().tobytes(), "numpy": numpy_state, "random": random.getstate()}


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed the generators that a model on `device` draws from; `torch.manual_seed` also queues for absent devices."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        number = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[number].manual_seed(seed)


@contextmanager
def seeded(seed: int, device: torch.device = CPU) -> Iterator[None]:
    """Seed the global generators for a block, then put them back as they were."""
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
