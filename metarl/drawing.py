"""Pictures of one environment: a matplotlib Axes that a family draws on, as an array of pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

Pixels = npt.NDArray[np.uint8]
_DPI = 64.0


class Canvas:
    """A figure that is drawn on again and again.

    Args:
        size: height and width in pixels.
    """

    def __init__(self, size: tuple[int, int] = (256, 256)) -> None:
        self.size = size
        figure = Figure(figsize=(size[1] / _DPI, size[0] / _DPI), dpi=_DPI)
        self._canvas = FigureCanvasAgg(figure)
        self._axes = figure.add_axes((0.02, 0.02, 0.96, 0.96))

    def frame(self, draw: Callable[[Axes], object]) -> Pixels:
        """What `draw` draws on empty axes without ticks: `uint8 [H, W, 3]`."""
        self._axes.clear()
        self._axes.set_aspect("auto")  # not cleared with the rest
        self._axes.set_xticks([])
        self._axes.set_yticks([])
        draw(self._axes)
        self._canvas.draw()  # type: ignore[no-untyped-call]
        return np.asarray(self._canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]


_canvases: dict[tuple[int, int], Canvas] = {}


def canvas(size: tuple[int, int]) -> Canvas:
    """The canvas of a size, made once."""
    return _canvases.setdefault(size, Canvas(size))


def one_slot(tree: Any, slot: int = 0) -> Any:
    """Entry `slot` of a tensor, or of a dict or tuple of them, as NumPy arrays without the leading axis."""
    if isinstance(tree, Tensor):
        return tree[slot].detach().cpu().numpy()
    if isinstance(tree, Mapping):
        return {k: one_slot(v, slot) for k, v in tree.items()}
    return tuple(one_slot(v, slot) for v in tree)
