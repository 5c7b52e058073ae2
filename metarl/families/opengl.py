"""What MuJoCo draws with: without a display it must be told which library of OpenGL to take, and says so at length."""

from __future__ import annotations

import ctypes.util
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from metarl.errors import InvalidValueError, verbatim

PACKAGES = ("mujoco", "glfw", "OpenGL")  # whose errors are about rendering where they end in one of these
WINDOWS = "gymnasium.envs.mujoco.mujoco_rendering"


def choose_renderer() -> None:
    """Let MuJoCo draw without a screen where there is none; to be called before MuJoCo is imported.

    It looks at the environment variable MUJOCO_GL once, when it is imported. This sets it, unless it is set or there is
    a display, to a library that is installed: "egl" or "osmesa".
    """
    if has_display() or "MUJOCO_GL" in os.environ or "mujoco" in sys.modules:
        return
    for name, library in (("osmesa", "OSMesa"), ("egl", "EGL")):
        if ctypes.util.find_library(library):
            os.environ["MUJOCO_GL"] = name
            return


def has_display() -> bool:
    """Whether windows can be opened, as far as the environment tells."""
    return sys.platform != "linux" or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())


def cannot_draw(error: BaseException | None = None) -> InvalidValueError:
    """The one sentence that names the remedy, and what was found where something was tried."""
    given = os.environ.get("MUJOCO_GL", verbatim("not set"))
    found = "" if error is None else f" ({type(error).__name__}: {str(error).partition(',')[0][:80]})"
    expected = "egl or osmesa where there is no display: install its library and set MUJOCO_GL=egl before Python starts"
    return InvalidValueError("MUJOCO_GL", given, expected + found)


@contextmanager
def rendering() -> Iterator[None]:
    """Say in one sentence what to do where MuJoCo cannot draw, or not even be imported for want of OpenGL.

    Raises:
        InvalidValueError: an error came from MuJoCo's or PyOpenGL's code.
    """
    try:
        yield
    except Exception as error:
        if (source := _of_opengl(error)) is not None:
            raise cannot_draw(source) from error
        raise


def quiet_windows() -> None:
    """Keep GLFW's warnings, which an error follows, to itself."""
    warnings.filterwarnings("ignore", module="glfw")


def _of_opengl(error: BaseException | None) -> BaseException | None:
    """The error, or what caused it, if it was raised where OpenGL is looked for."""
    while error is not None:
        frames = list(traceback.walk_tb(error.__traceback__))
        module = str(frames[-1][0].f_globals.get("__name__", "")) if frames else ""
        wrong_use = isinstance(error, (TypeError, ValueError, ModuleNotFoundError))
        if not wrong_use and (module.partition(".")[0] in PACKAGES or module == WINDOWS):
            return error
        error = error.__cause__
    return None
