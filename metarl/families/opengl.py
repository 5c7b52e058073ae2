"""OpenGL for MuJoCo's rendering. Without a display, MuJoCo needs the name of an OpenGL library before its import."""

from __future__ import annotations

import ctypes.util
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from metarl.errors import InvalidValueError, verbatim

PACKAGES = ("mujoco", "glfw", "OpenGL")  # an error that one of these packages raises is about rendering
WINDOWS = "gymnasium.envs.mujoco.mujoco_rendering"


def choose_renderer() -> None:
    """Choose an OpenGL library for MuJoCo if there is no display. Call this before MuJoCo is imported.

    MuJoCo reads the environment variable MUJOCO_GL once, at import. If the variable is not set and there is no display,
    this function sets it to a library that is installed: "egl" or "osmesa".
    """
    if has_display() or "MUJOCO_GL" in os.environ or "mujoco" in sys.modules:
        return
    for name, library in (("osmesa", "OSMesa"), ("egl", "EGL")):
        if ctypes.util.find_library(library):
            os.environ["MUJOCO_GL"] = name
            return


def has_display() -> bool:
    """Whether the environment variables name a display. On other systems than Linux: True."""
    return sys.platform != "linux" or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())


def cannot_draw(error: BaseException | None = None) -> InvalidValueError:
    """The error that says how to enable rendering; it quotes `error`, the cause, if there is one."""
    setting = os.environ.get("MUJOCO_GL", verbatim("not set"))
    cause = "" if error is None else f" ({type(error).__name__}: {str(error).partition(',')[0][:80]})"
    expected = "egl or osmesa where there is no display: install its library and set MUJOCO_GL=egl before Python starts"
    return InvalidValueError("MUJOCO_GL", setting, expected + cause)


@contextmanager
def rendering() -> Iterator[None]:
    """Within this context, an OpenGL error of MuJoCo becomes an error that says how to enable rendering.

    Raises:
        InvalidValueError: MuJoCo cannot render, or cannot be imported, because OpenGL is missing.
    """
    try:
        yield
    except Exception as error:
        if (source := _of_opengl(error)) is not None:
            raise cannot_draw(source) from error
        raise


def quiet_windows() -> None:
    """Ignore GLFW's warnings; an error with the same content follows them."""
    warnings.filterwarnings("ignore", module="glfw")


def _of_opengl(error: BaseException | None) -> BaseException | None:
    """The error or one of its causes, if one of `PACKAGES` raised it; else None."""
    while error is not None:
        frames = list(traceback.walk_tb(error.__traceback__))
        module = str(frames[-1][0].f_globals.get("__name__", "")) if frames else ""
        wrong_use = isinstance(error, (TypeError, ValueError, ModuleNotFoundError))
        if not wrong_use and (module.partition(".")[0] in PACKAGES or module == WINDOWS):
            return error
        error = error.__cause__
    return None
