"""Pictures of one environment: a matplotlib Axes that a family draws on, as an array of pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from metarl.families.family import TorchFamily

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


def frame(
    family: TorchFamily, state: Any, task: dict[str, npt.NDArray[Any]], size: tuple[int, int] = (256, 256)
) -> Pixels:
    """A picture of one environment of a torch family, `uint8 [height, width, 3]`.

    Args:
        family: it makes the picture (`TorchFamily.frame`), or draws on a canvas (`TorchFamily.draw`).
        state: of one environment, NumPy arrays without the leading axis.
        task: likewise.
        size: height and width in pixels.
    """
    made = family.frame(state, task, size)
    if made is not None:
        return made
    return _canvases.setdefault(size, Canvas(size)).frame(lambda axes: family.draw(axes, state, task))
