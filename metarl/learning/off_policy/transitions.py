"""The transitions of the latest tasks, kept as tensors on a device."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from metarl.devices import check_fits
from metarl.rng import Rng, fold_in, make_key


class TransitionReplay:
    """A ring of tasks, each with a ring of transitions. All its memory is reserved at the start.

    A task's place is opened when the task is first played; the task that was opened longest ago makes room.

    Args:
        name: of the agent and its option, for the error message, such as "pearl.replay_tasks".
        tasks: number of places for tasks.
        capacity: number of transitions of a task.
        example: transitions `[N, ...]` by name, whose shapes and dtypes the kept ones have.
        device: where they are kept.

    Raises:
        InvalidValueError: they do not fit into the device's free memory.
    """

    def __init__(
        self, name: str, tasks: int, capacity: int, example: Mapping[str, Tensor], device: torch.device
    ) -> None:
        each = capacity * sum(v[0].numel() * v.element_size() for v in example.values())
        check_fits(name, tasks, each, device, f"a task's {capacity} transitions need")
        self.tasks, self.capacity, self.device = tasks, capacity, device
        self.data = {
            k: torch.zeros(tasks, capacity, *v.shape[1:], dtype=v.dtype, device=device) for k, v in example.items()
        }
        self.added = torch.zeros(tasks, dtype=torch.int64, device=device)  # transitions of each place's task so far
        self.opened = 0  # tasks so far; the next one goes to the place opened % tasks

    @property
    def size(self) -> int:
        """Number of tasks that are kept."""
        return min(self.opened, self.tasks)

    def open(self, count: int) -> Tensor:
        """Empty places for `count` new tasks, at most as many as there are places: `int64 [count]`."""
        places = torch.arange(self.opened, self.opened + count, device=self.device) % self.tasks
        self.added[places] = 0
        self.opened += count
        return places

    def add(self, places: Tensor, transitions: Mapping[str, Tensor], valid: Tensor) -> None:
        """Keep transitions of tasks. Where there are too many, the oldest make room.

        Args:
            places: of the tasks, `int64 [R]`, all different.
            transitions: `[R, N, ...]` by name, in the order of time.
            valid: `bool [R, N]`; others are left out.
        """
        count = valid.sum(1)
        number = valid.long().cumsum(1) - 1  # of each transition among those of its task
        row, column = (valid & (number >= (count - self.capacity).unsqueeze(1))).nonzero(as_tuple=True)
        entry = (self.added[places].unsqueeze(1) + number) % self.capacity
        for name, kept in self.data.items():
            kept[places[row], entry[row, column]] = transitions[name][row, column]
        self.added[places] += count

    def sample_tasks(self, count: int, *key: int | str) -> Tensor:
        """The places of `count` kept tasks, drawn with replacement: `int64 [count]`; the key decides which."""
        keys = fold_in(make_key(*key, "tasks"), torch.arange(count, device=self.device))
        return Rng(keys).integers(self.size)

    def sample(self, places: Tensor, count: int, *key: int | str) -> dict[str, Tensor]:
        """`count` transitions of each task, drawn with replacement, `[B, count, ...]`; the key decides which.

        Args:
            places: of tasks that have transitions, `int64 [B]`.
            count: number of transitions.
            key: names and numbers.
        """
        keys = fold_in(make_key(*key, "transitions"), torch.arange(len(places), device=self.device))
        kept = self.added[places].clamp(1, self.capacity).unsqueeze(1)
        entry = (Rng(keys).uniform(count) * kept).long()
        return {name: values[places.unsqueeze(1), entry] for name, values in self.data.items()}

    def tensors(self) -> dict[str, Tensor]:
        """Everything, for checkpoints: "NAME", "added" and "opened"."""
        return self.data | {"added": self.added, "opened": torch.tensor(self.opened)}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`; others are left alone."""
        for name, kept in (self.data | {"added": self.added}).items():
            kept.copy_(tensors[name])
        self.opened = int(tensors["opened"])
