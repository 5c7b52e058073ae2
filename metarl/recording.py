"""Rollouts as CUDA graphs: thousands of small kernels that the driver launches at once, not Python one by one.

A rollout of a torch family by an agent whose acting is a fixed sequence of kernels (`Agent.recordable`) is recorded
once for given shapes and then replayed with other tasks, keys and states; an agent's parameters are read where they
lie. The first rollout of its kind is played plainly, which also warms the libraries up, the second is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

Tree = TypeVar("Tree")  # tensors, and dicts, tuples and dataclasses of them
Inputs = Mapping[str, Any]


def map_tensors(function: Callable[[Tensor], Tensor], tree: Tree) -> Tree:
    """`function` of every tensor in nested dicts, tuples and dataclasses; all else as it is."""
    out: Any = tree
    if isinstance(tree, Tensor):
        out = function(tree)
    elif isinstance(tree, Mapping):
        out = {k: map_tensors(function, v) for k, v in tree.items()}
    elif isinstance(tree, tuple):
        out = tuple(map_tensors(function, v) for v in tree)
    elif is_dataclass(tree) and not isinstance(tree, type):
        out = replace(tree, **{f.name: map_tensors(function, getattr(tree, f.name)) for f in fields(tree)})
    return out  # type: ignore[no-any-return]


def _flat(tree: Any) -> list[Tensor]:
    """The tensors of a tree, always in the same order."""
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(keep, tree)
    return found


class Recording:
    """A function's kernels, to be replayed on other inputs of the same shapes.

    Args:
        run: launches kernels on one CUDA device, reads nothing back and copies nothing from the host.
        inputs: what it is given.
    """

    def __init__(self, run: Callable[[Inputs], Any], inputs: Inputs) -> None:
        self.inputs = map_tensors(torch.clone, inputs)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.outputs = run(self.inputs)

    def __call__(self, inputs: Inputs) -> Any:
        """What `run(inputs)` would return, in tensors that the next call leaves alone."""
        for kept, new in zip(_flat(self.inputs), _flat(inputs), strict=True):
            kept.copy_(new)
        self.graph.replay()
        return map_tensors(torch.clone, self.outputs)


class Recorder:
    """Recordings by what they are of."""

    def __init__(
        self, record: Callable[[Callable[[Inputs], Any], Inputs], Callable[[Inputs], Any]] = Recording
    ) -> None:
        self.record = record
        self.recordings: dict[Hashable, Callable[[Inputs], Any] | None] = {}  # None: played once, not recorded yet

    def __call__(self, key: Hashable, run: Callable[[Inputs], Any], inputs: Inputs) -> Any:
        """`run(inputs)`; with the same `key` and shapes the kernels must be the same ones."""
        key = (key, tuple((tuple(t.shape), t.dtype) for t in _flat(inputs)))
        if key not in self.recordings:
            self.recordings[key] = None
            return run(inputs)
        recording = self.recordings[key]
        if recording is None:
            recording = self.recordings[key] = self.record(run, inputs)
        return recording(inputs)
