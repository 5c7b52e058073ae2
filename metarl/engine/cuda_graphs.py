"""Rollouts and training steps as CUDA graphs: thousands of small kernels launched at once, not by Python one by one.

A rollout of a torch family by an agent whose acting is a fixed sequence of kernels (`Agent.capturable`) is captured
once for given shapes and then replayed with other tasks, keys and states. The parameters of an agent are read where
they lie, and whatever else the kernels touch must stay where it is. The first call of its kind runs without a graph,
which also warms the libraries up. The second call is captured.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

Tree = TypeVar("Tree")  # tensors, and dicts, tuples and dataclasses of them
Inputs = Mapping[str, Any]
Function = Callable[[Inputs], Any]
LARGEST = 1 << 30  # bytes of inputs beyond which nothing is captured: a graph holds them three times


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


def _named(inputs: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of nested dicts by their path, in the order of their names."""
    if isinstance(inputs, Tensor):
        yield name, inputs
    elif isinstance(inputs, Mapping):
        for key in sorted(inputs):
            yield from _named(inputs[key], f"{name}.{key}")
    else:
        raise TypeError(f"input {name} of a CUDA graph is {type(inputs).__name__}, expected a tensor or a dict of them")


class CudaGraph:
    """A function's kernels, to be replayed on other inputs of the same names and shapes.

    Args:
        run: launches kernels on the CUDA device of its inputs, reads nothing back and copies nothing from the host.
        inputs: what it is given.

    Raises:
        RuntimeError: it does something that a CUDA graph cannot hold.
    """

    def __init__(self, run: Function, inputs: Inputs) -> None:
        self.inputs = map_tensors(torch.clone, inputs)
        self.device = next(_named(inputs))[1].device
        self.graph = torch.cuda.CUDAGraph()
        try:
            with (
                torch.cuda.device(self.device),
                torch.cuda.graph(self.graph, capture_error_mode="thread_local"),
            ):
                self.outputs = run(self.inputs)
        except RuntimeError as error:
            raise RuntimeError(
                "this could not be captured as a CUDA graph: the family or the agent copies from the host or reads a "
                "value back in every step (a tensor made from Python numbers, a mask as an index); keep such constants "
                "from one call to the next, or set capturable = False on the family or the agent"
            ) from error

    def __call__(self, inputs: Inputs) -> Any:
        """What `run(inputs)` would return, in tensors that the next call leaves alone."""
        with torch.cuda.device(self.device):
            for (_, kept), (_, new) in zip(_named(self.inputs), _named(inputs), strict=True):
                kept.copy_(new)
            self.graph.replay()
            return map_tensors(torch.clone, self.outputs)


class CudaGraphCache:
    """Cache of CUDA graphs, keyed by call, shapes and dtypes."""

    def __init__(self, capture: Callable[[Function, Inputs], Function] = CudaGraph) -> None:
        self.capture = capture
        self.graphs: dict[Hashable, Function | None] = {}  # None: run once, not captured yet

    def __call__(self, key: Hashable, run: Function, inputs: Inputs) -> Any:
        """`run(inputs)`; with the same `key`, names and shapes the kernels must be the same ones."""
        found = list(_named(inputs))
        if sum(t.numel() * t.element_size() for _, t in found) > LARGEST:
            return run(inputs)
        key = (key, tuple((name, tuple(t.shape), t.dtype) for name, t in found))
        if key not in self.graphs:
            self.graphs[key] = None
            return run(inputs)
        graph = self.graphs[key]
        if graph is None:
            graph = self.graphs[key] = self.capture(run, inputs)
        return graph(inputs)
