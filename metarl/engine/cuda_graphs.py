"""Rollouts and training steps as CUDA graphs, which launch thousands of small kernels at once.

A rollout of a torch family is captured once for given shapes, if the agent's `act` is a fixed sequence of kernels
(`Agent.capturable`). Then it is replayed with other tasks, keys and states. The graph reads the agent's parameters at
their address, so parameters and all other tensors that the kernels use must keep their addresses. The first call with a
key runs without a graph and also initialises the CUDA libraries. The second call is captured.
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
MOST_INPUT_BYTES = 1 << 30  # calls with larger inputs are not captured, because a graph stores them three times


def map_tensors(function: Callable[[Tensor], Tensor], tree: Tree) -> Tree:
    """Apply `function` to every tensor in nested dicts, tuples and dataclasses; keep all other values."""
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


def _named_tensors(inputs: object, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of nested dicts with their paths, in the order of their names."""
    if isinstance(inputs, Tensor):
        yield name, inputs
    elif isinstance(inputs, Mapping):
        for key in sorted(inputs):
            yield from _named_tensors(inputs[key], f"{name}.{key}")
    else:
        raise TypeError(f"input {name} of a CUDA graph is {type(inputs).__name__}, expected a tensor or a dict of them")


class CudaGraph:
    """The captured kernels of a function. A call replays them on other inputs with the same names and shapes.

    Args:
        run: a function that launches kernels on the CUDA device of its inputs, and copies nothing to or from the host.
        inputs: inputs of `run`.

    Raises:
        RuntimeError: `run` contains an operation that a CUDA graph cannot contain.
    """

    def __init__(self, run: Function, inputs: Inputs) -> None:
        self.inputs = map_tensors(torch.clone, inputs)
        self.device = next(_named_tensors(inputs))[1].device
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
        """The result of `run(inputs)`, in new tensors that later calls do not overwrite."""
        with torch.cuda.device(self.device):
            for (_, static), (_, new) in zip(_named_tensors(self.inputs), _named_tensors(inputs), strict=True):
                static.copy_(new)
            self.graph.replay()
            return map_tensors(torch.clone, self.outputs)


class CudaGraphCache:
    """Cache of CUDA graphs, keyed by call, shapes and dtypes."""

    def __init__(self, capture: Callable[[Function, Inputs], Function] = CudaGraph) -> None:
        self.capture = capture
        self.graphs: dict[Hashable, Function | None] = {}  # None: called once and not captured yet

    def __call__(self, key: Hashable, run: Callable[[Inputs], Tree], inputs: Inputs) -> Tree:
        """Return `run(inputs)`. Calls with equal `key`, names, shapes and dtypes must launch the same kernels."""
        tensors = list(_named_tensors(inputs))
        if sum(t.numel() * t.element_size() for _, t in tensors) > MOST_INPUT_BYTES:
            return run(inputs)
        key = (key, tuple((name, tuple(t.shape), t.dtype) for name, t in tensors))
        if key not in self.graphs:
            self.graphs[key] = None
            return run(inputs)
        graph = self.graphs[key]
        if graph is None:
            graph = self.graphs[key] = self.capture(run, inputs)
        outputs: Tree = graph(inputs)
        return outputs
