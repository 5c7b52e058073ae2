"""Pictures of one environment: a family draws on a matplotlib Axes, and the result is an array of pixels."""

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
    """A figure that is reused for many pictures.

    Args:
        size: height and width in pixels.
    """

    def __init__(self, size: tuple[int, int] = (256, 256)) -> None:
        self.size = size
        figure = Figure(figsize=(size[1] / _DPI, size[0] / _DPI), dpi=_DPI)
        self._canvas = FigureCanvasAgg(figure)
        self._axes = figure.add_axes((0.02, 0.02, 0.96, 0.96))

    def frame(self, draw: Callable[[Axes], object]) -> Pixels:
        """Call `draw` on empty axes without ticks; the picture is `uint8 [H, W, 3]`."""
        self._axes.clear()
        self._axes.set_aspect("auto")  # `clear` does not reset the aspect
        self._axes.set_xticks([])
        self._axes.set_yticks([])
        draw(self._axes)
        self._canvas.draw()  # type: ignore[no-untyped-call]
        return np.asarray(self._canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]


_canvases: dict[tuple[int, int], Canvas] = {}


def frame(
    family: TorchFamily, state: Any, task: dict[str, npt.NDArray[Any]], size: tuple[int, int] = (256, 256)
) -> Pixels:
    """Draw one environment of a torch family: `uint8 [height, width, 3]`.

    Args:
        family: its `TorchFamily.frame` returns the picture, or its `TorchFamily.draw` draws on a canvas.
        state: state of the environment: NumPy arrays without the leading axis.
        task: task of the environment, in the same form.
        size: height and width in pixels.
    """
    picture = family.frame(state, task, size)
    if picture is not None:
        return picture
    return _canvases.setdefault(size, Canvas(size)).frame(lambda axes: family.draw(axes, state, task))
