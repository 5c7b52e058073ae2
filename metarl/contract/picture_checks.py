"""Check of the pictures that a family makes of its environments, for films and `render`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import gymnasium as gym
import numpy as np

from metarl.contract.family_probe import Subject
from metarl.engine.torch_environments import one_environment
from metarl.errors import InvalidValueError
from metarl.families.family import TorchFamily
from metarl.families.opengl import rendering

SIZE = (64, 64)  # height and width in pixels


def pictures(subject: Subject) -> Iterator[str]:
    """The environment can be drawn."""
    try:
        with rendering():
            found = _drawn(subject) if subject.torch else _rendered(subject)
    except gym.error.DependencyNotInstalled:  # such as pygame
        return
    except InvalidValueError as error:
        if error.field != "MUJOCO_GL":  # there is no OpenGL here
            raise
        return
    for picture in found:
        is_array = isinstance(picture, np.ndarray)
        if not (is_array and picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3):
            described = f"{picture.dtype} {list(picture.shape)}" if is_array else type(picture).__name__
            field, fix = f"what {'frame' if subject.torch else 'render'} returns", "convert it with .astype(np.uint8)"
            yield subject.say(field, described, "uint8 [height, width, 3], from 0 to 255", fix)
            return


def _drawn(subject: Subject) -> list[Any]:
    """Pictures of a torch family's first environment at the start and after a step, if the family draws itself."""
    cls = type(subject.family)
    if (cls.draw, cls.frame) == (TorchFamily.draw, TorchFamily.frame):
        return []
    from metarl.report.rendering import frame  # loads matplotlib

    found, keys = [], subject.keys()
    envs: Any = subject.pool.get(subject.count)
    envs.begin(subject.tasks(), keys, 1)
    for action in (None, subject.actions(keys, 1)[0]):
        if action is not None:
            envs.step(action.to(envs.device))
        found.append(frame(subject.family, one_environment(envs.state), one_environment(envs.task), SIZE))
    return found


def _rendered(subject: Subject) -> list[Any]:
    """The first picture of a Gymnasium environment, if it can be built with `render_mode="rgb_array"`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Gymnasium's, of an environment without that mode
        try:
            built = subject.family.visible().make_env(subject.tasks(1))
        except InvalidValueError:  # it takes no render_mode
            return []
        except TypeError as error:
            if "render_mode" not in str(error):
                raise
            return []
        with closing(built) as env:
            if _may_be_mujocos(env):
                return []
            env.reset(seed=subject.seed)
            return [env.render()] if env.render_mode == "rgb_array" else []


def _may_be_mujocos(env: gym.Env[Any, Any]) -> bool:
    """Whether MuJoCo may render it: where OpenGL is broken, that ends the process, which no check may do.

    metarl's own environments are among them; their tests look at their pictures.
    """
    ours = ("gymnasium.envs.mujoco", "metaworld", "metarl.envs")
    return any(cls.__module__.startswith(ours) for cls in type(env.unwrapped).__mro__)
