"""The latest trials, kept as tensors on a device, to train a belief model on."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from metarl.devices import check_fits
from metarl.rng import Rng, fold_in, make_key


class TrialReplay:
    """A ring of whole trials. All its memory is reserved at the start.

    Args:
        name: of the agent and its option, for the error message, such as "varibad.replay_trials".
        capacity: number of trials.
        example: trials `[T, R, ...]` by name, whose shapes and dtypes the kept ones have; T is the length of all.
        device: where they are kept.

    Raises:
        InvalidValueError: they do not fit into the device's free memory.
    """

    def __init__(self, name: str, capacity: int, example: Mapping[str, Tensor], device: torch.device) -> None:
        each = sum(v[:, 0].numel() * v.element_size() for v in example.values())
        check_fits(name, capacity, each, device, "a trial needs")
        self.capacity, self.device = capacity, device
        self.data = {
            k: torch.zeros(len(v), capacity, *v.shape[2:], dtype=v.dtype, device=device) for k, v in example.items()
        }
        self.added = 0  # trials so far; the next one goes to the entry added % capacity

    @property
    def size(self) -> int:
        """Number of trials that are kept."""
        return min(self.added, self.capacity)

    def add(self, trials: Mapping[str, Tensor]) -> None:
        """Keep trials `[T, R, ...]`; shorter ones are filled with zeros. The oldest make room."""
        rows = next(iter(trials.values())).shape[1]
        skipped = max(0, rows - self.capacity)  # of more trials than there are places, the last ones are kept
        entries = (torch.arange(self.added + skipped, self.added + rows, device=self.device)) % self.capacity
        for name, kept in self.data.items():
            new = trials[name][:, skipped:]
            kept[: len(new), entries] = new
            kept[len(new) :, entries] = 0
        self.added += rows

    def sample(self, count: int, *key: int | str) -> dict[str, Tensor]:
        """`count` trials, drawn with replacement, `[T, count, ...]`; the key decides which."""
        keys = fold_in(make_key(*key, "sample"), torch.arange(count))
        which = Rng(keys).integers(self.size).to(self.device)
        return {name: kept[:, which] for name, kept in self.data.items()}

    def tensors(self) -> dict[str, Tensor]:
        """Everything, for checkpoints: "replay.NAME" and "replay.added"."""
        return {f"replay.{k}": v for k, v in self.data.items()} | {"replay.added": torch.tensor(self.added)}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`; others are left alone."""
        for name, kept in self.data.items():
            kept.copy_(tensors[f"replay.{name}"])
        self.added = int(tensors["replay.added"])
