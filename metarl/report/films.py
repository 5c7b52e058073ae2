"""Films of adaptation: a task's fresh episodes after 0, 1, ..., k adaptation steps, side by side.

metarl watch RUN --k 3 --task 0 --out adaptation.gif

A film shows what `metarl.evaluate` measures. With the same seed, each panel is the first episode that the evaluator
plays in the task (trial 0, episode 0), and the return is its score.
"""

from __future__ import annotations

import copy
import importlib.util
import io
import os
import shutil
import subprocess
import tempfile
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import gymnasium as gym
import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Discrete
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from metarl.agent_base import Agent, AgentState, Budget
from metarl.engine.environments import Environments, Transition
from metarl.engine.gym_environments import GymEnvironments
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.engine.torch_environments import TorchEnvironments, one_environment
from metarl.errors import InvalidValueError
from metarl.evaluation.adaptation import adaptation
from metarl.evaluation.evaluate import adaptation_grid
from metarl.evaluation.modes import Mode, check_mode
from metarl.evaluation.results import Floats
from metarl.families.family import Family, TorchFamily
from metarl.families.gym_family import GymFamily
from metarl.families.opengl import rendering
from metarl.families.tasks import Tasks
from metarl.files import write_atomic
from metarl.report.rendering import frame

Pixels = npt.NDArray[np.uint8]  # [H, W, 3]
SUFFIXES = (".gif", ".mp4")
COLUMNS = 4  # panels side by side
MOST_FRAMES = 150  # in a film without `every`
SLOWEST, FASTEST, SECONDS = 1.5, 20.0, 4.0  # frames per second (two limits), and the duration of a film
LAST_SECONDS = 1.5  # duration of the last frame
INK, GREY, WHITE = "#3c4043", "#80868b", "#ffffff"
GAP, LINE = 8, 18  # pixels between panels, and pixels per line of text


class Take(NamedTuple):
    """One filmed episode of T steps.

    Attributes:
        k: adaptation steps before it.
        frames: T + 1 pictures, from the start state on. A torch family draws a picture when it is first read.
        rewards: `float64 [T]`.
        actions: the actions that the environment takes, `[T, *action]`.
    """

    k: int
    frames: Sequence[Pixels]
    rewards: Floats
    actions: npt.NDArray[Any]


def watch(
    agent: Agent,
    task: int | Mapping[str, Any] | Tasks = 0,
    k: int | Sequence[int] = 3,
    path: str | os.PathLike[str] = "adaptation.gif",
    *,
    mode: Mode = "deterministic",
    split: str = "test",
    task_seed: int = 0,
    seed: int = 0,
    size: int = 256,
    fps: float | None = None,
    every: int | None = None,
) -> dict[int, float]:
    """Film an agent in one task: one panel for each k, with the step and the return so far below it.

    Args:
        agent: the agent that plays.
        task: number of a task of (split, task_seed), the values of one task as a dict, or a `Tasks` of one task.
        k: the last adaptation step (the panels are then 0, ..., k), or the list of k to show.
        path: a file name that ends in .gif or .mp4; .mp4 needs ffmpeg or the package imageio-ffmpeg.
        mode: "deterministic" or "sampled" actions.
        split: the split of a task that is given by its number.
        task_seed: the seed of that split.
        seed: the seed of all random draws; `evaluate` with the same seed plays the same episodes.
        size: width of a panel in pixels.
        fps: frames per second; by default the film lasts about four seconds.
        every: environment steps per frame; the default is 1, or more if an episode is longer than 150 steps.

    Returns:
        The return of each panel's episode, by k.

    Raises:
        InvalidValueError: an argument is out of range, the task belongs to another family, no encoder for the file is
            installed, or the environment cannot render.
    """
    target = Path(path)
    write = _writer(target)
    for name, value in (("size", size), ("fps", fps), ("every", every)):
        if value is not None and not value > 0:
            raise InvalidValueError(name, value, "a positive number")
    takes = film(agent, task, k, mode=mode, split=split, task_seed=task_seed, seed=seed, size=size)
    tasks = _one_task(agent.family, task, split, task_seed)
    which = f"{tasks.split} task {int(tasks.index[0])}" if tasks.split != "custom" else "a task of your own"
    title = f"{agent.name}, {agent.family.id}, {which}, {mode} actions"
    pictures = compose(takes, title, isinstance(agent.family.action_space, Discrete), size, every)
    fps = min(FASTEST, max(SLOWEST, len(pictures) / SECONDS)) if fps is None else fps
    write(target, pictures, fps)
    return {take.k: float(take.rewards.sum()) for take in takes}


def film(
    agent: Agent,
    task: int | Mapping[str, Any] | Tasks = 0,
    k: int | Sequence[int] = 3,
    *,
    mode: Mode = "deterministic",
    split: str = "test",
    task_seed: int = 0,
    seed: int = 0,
    size: int = 256,
) -> list[Take]:
    """Play the episodes that `watch` shows, one for each k; the arguments are those of `watch`."""
    check_mode(mode)
    grid, tasks = adaptation_grid(k), _one_task(agent.family, task, split, task_seed)
    pool, camera = EnvironmentPool(agent.family, agent.device), _Camera(agent.family, agent.device, size)
    trials, filmed = (PoolTrials(environments, tasks, 1, seed, "evaluate") for environments in (pool, camera))
    try:
        states = adaptation(agent, trials, grid[-1])
        takes = [_take(agent, filmed, camera, point.state, point.k, mode) for point in states if point.k in grid]
    finally:
        pool.close()
        camera.close()
    return takes


def _one_task(family: Family, task: int | Mapping[str, Any] | Tasks, split: str, seed: int) -> Tasks:
    tasks = family.resolve(task, split, seed)
    if len(tasks) != 1:
        raise InvalidValueError("number of tasks", len(tasks), "1: a film is of one task (tasks[0])")
    return tasks


# --- filming ---------------------------------------------------------------------------------------------------------


class _Camera(EnvironmentPool):
    """Environments that keep a picture of every state since they were made, in `reel`; restarts are included."""

    def __init__(self, family: Family, device: torch.device, size: int) -> None:
        super().__init__(family, device)
        self.size = size
        self.reel: Sequence[Pixels]

    def get(self, n: int) -> Environments:
        """Make new environments, and a new reel for them."""
        self.close()
        if isinstance(self.family, GymFamily):
            self.reel = frames = list[Pixels]()
            self._environments[n] = GymEnvironments(_rendering(self.family, frames), n, self.device)
        else:
            assert isinstance(self.family, TorchFamily)
            envs = self._environments[n] = _FilmedEnvironments(self.family, n, self.device)
            self.reel = _LazyPictures(self.family, envs.visited, (self.size, self.size))
        return self._environments[n]


class _LazyPictures(Sequence[Pixels]):
    """Pictures of states and tasks. Each is drawn once, when it is first read."""

    def __init__(self, family: TorchFamily, visited: Sequence[tuple[Any, Any]], size: tuple[int, int]) -> None:
        self.family, self.visited, self.size = family, visited, size
        self.drawn: dict[int, Pixels] = {}

    def __len__(self) -> int:
        return len(self.visited)

    @overload
    def __getitem__(self, index: int) -> Pixels: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Pixels]: ...
    def __getitem__(self, index: int | slice) -> Pixels | Sequence[Pixels]:
        if isinstance(index, slice):
            return _LazyPictures(self.family, self.visited[index], self.size)
        i = range(len(self))[index]
        if i not in self.drawn:
            state, task = self.visited[i]
            self.drawn[i] = frame(self.family, state, task, self.size)
        return self.drawn[i]


class _FilmedEnvironments(TorchEnvironments):
    """Environments that keep the first one's state and task, as NumPy, after every step and before any restart."""

    def __init__(self, family: TorchFamily, n: int, device: torch.device) -> None:
        super().__init__(family, n, device)
        self.visited: list[tuple[Any, Any]] = []

    def start(self, task: dict[str, Tensor], keys: Tensor, steps: int, episode: int = 0) -> Tensor:
        """See `TorchEnvironments.start`."""
        obs = super().start(task, keys, steps, episode)
        self.visited.append(copy.deepcopy((one_environment(self.state), one_environment(self.task))))
        return obs

    def advance(self, action: Tensor) -> tuple[Transition, Tensor | None]:
        """See `TorchEnvironments.advance`."""
        out = super().advance(action)
        self.visited.append(copy.deepcopy((one_environment(self.state), one_environment(self.task))))
        return out


class _FilmedEnv(gym.Wrapper[Any, Any, Any, Any]):
    """An environment that renders every state into `frames`."""

    def __init__(self, env: gym.Env[Any, Any], frames: list[Pixels]) -> None:
        super().__init__(env)
        self.frames = frames

    def film(self) -> None:
        """Render the present state."""
        with rendering():
            self.frames.append(np.asarray(self.render(), dtype=np.uint8))

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Start, and render."""
        out = super().reset(**kwargs)
        self.film()
        return out

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step, and render."""
        out = super().step(action)
        self.film()
        return out


def _rendering(family: GymFamily, frames: list[Pixels]) -> GymFamily:
    """Copy a family; the copy's environments render every state into `frames`."""
    inner, outer = family.visible(), copy.copy(family)

    def build(**task: Any) -> gym.Env[Any, Any]:
        env = inner.build(**task)
        if env.render_mode != "rgb_array":
            expected = "'rgb_array' for a film: metadata['render_modes'] must list it and render() must support it"
            raise InvalidValueError(f"render_mode of {family.id}", env.render_mode, expected)
        return _FilmedEnv(env, frames)

    outer.build = build  # type: ignore[method-assign]
    return outer


def _take(agent: Agent, trials: PoolTrials, camera: _Camera, state: AgentState, k: int, mode: Mode) -> Take:
    """Play and film the evaluator's first episode with the state after k adaptation steps."""
    trials = trials.rekeyed(0) if agent.is_recurrent else trials
    rollout, _ = trials.collect(agent, agent.fork(state), k, Budget(episodes=1), mode == "deterministic", "score")
    length = int(rollout.valid.sum())
    actions = agent.to_env(rollout.action[:length, 0, 0]).cpu().numpy()
    rewards = rollout.reward[:length, 0, 0].double().cpu().numpy()
    return Take(k, camera.reel[: length + 1], rewards, actions)


# --- pictures --------------------------------------------------------------------------------------------------------


def compose(
    takes: Sequence[Take], title: str = "", discrete: bool = False, size: int = 256, every: int | None = None
) -> list[Pixels]:
    """Compose a film's pictures: panels side by side, one picture for every `every` steps.

    A finished episode keeps its last picture.

    Args:
        takes: the episodes, one for each panel.
        title: text above all panels.
        discrete: whether to write the number of the action below the panels.
        size: width of a panel in pixels.
        every: environment steps per picture; the last step is always shown.
    """
    last = max(len(take.rewards) for take in takes)
    every = every or -(-last // MOST_FRAMES)
    height, width = takes[0].frames[0].shape[:2]
    panel = (size, round(size * height / width))
    rows = -(-len(takes) // COLUMNS)
    columns = -(-len(takes) // rows)
    total = columns * (size + GAP) + GAP
    heading = textwrap.wrap(title, max(10, total // 7))
    top, deep = GAP + LINE * len(heading), panel[1] + 3 * LINE
    empty = Image.new("RGB", (total + total % 2, 2 * ((top + rows * deep + 1) // 2)), WHITE)  # even, for MP4
    pen = ImageDraw.Draw(empty)
    for i, text in enumerate(heading):
        pen.text((GAP, GAP + LINE * i), text, GREY, _font(12))
    corners = [(GAP + (size + GAP) * (i % columns), top + deep * (i // columns)) for i in range(len(takes))]
    for take, (x, y) in zip(takes, corners, strict=True):
        pen.text((x + size / 2, y + LINE / 2), f"k = {take.k}", INK, _font(15), anchor="mm")
    pictures = []
    for t in [*range(0, last, every), last]:
        picture = empty.copy()
        pen = ImageDraw.Draw(picture)
        for take, (x, y) in zip(takes, corners, strict=True):
            now = min(t, len(take.rewards))
            picture.paste(Image.fromarray(take.frames[now]).resize(panel), (x, y + LINE))
            color = GREY if t > now else INK
            under = (x + size / 2, y + panel[1] + 1.5 * LINE)
            pen.text(under, _caption(take, now, discrete), color, _font(max(8, min(13, size // 18))), anchor="mm")
        pictures.append(np.asarray(picture))
    return pictures


def _caption(take: Take, t: int, discrete: bool) -> str:
    action = f"action {int(take.actions[t - 1])}, " if discrete and t else ""
    over = " (end)" if t == len(take.rewards) else ""
    return f"step {t}, {action}return {take.rewards[:t].sum():.2f}{over}".replace("-", "\u2212")


def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, the font that matplotlib ships."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


# --- files -----------------------------------------------------------------------------------------------------------


def _writer(path: Path) -> Callable[[Path, Sequence[Pixels], float], None]:
    """Choose the function that writes a film with this file name."""
    if path.suffix.lower() not in SUFFIXES:
        raise InvalidValueError("path", str(path), f"a file name that ends in {' or '.join(SUFFIXES)}")
    if path.suffix.lower() == ".mp4" and _ffmpeg() is None:
        raise InvalidValueError("path", str(path), "a name that ends in .gif, or ffmpeg (pip install imageio-ffmpeg)")
    return write_gif if path.suffix.lower() == ".gif" else write_mp4


def write_gif(path: Path, pictures: Sequence[Pixels], fps: float) -> None:
    """Write a GIF that repeats forever. Its palette is made from the first, the middle and the last picture."""
    some = np.concatenate([pictures[i] for i in sorted({0, len(pictures) // 2, len(pictures) - 1})])
    colours = Image.fromarray(some).quantize(256, Image.Quantize.FASTOCTREE)
    colours.putpalette([255 if level >= 252 else level for level in colours.getpalette() or []])  # to pure white
    first, *rest = [Image.fromarray(p).quantize(palette=colours, dither=Image.Dither.NONE) for p in pictures]
    duration = [max(20, round(100 / fps) * 10)] * len(rest) + [round(1000 * LAST_SECONDS)]  # ms, multiples of 10
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=rest, duration=duration, loop=0, comment=b"metarl")
    write_atomic(path, buffer.getvalue())


def write_mp4(path: Path, pictures: Sequence[Pixels], fps: float) -> None:
    """Write an H.264 film with ffmpeg; height and width must be even."""
    height, width = pictures[0].shape[:2]
    shown = [*pictures, *[pictures[-1]] * round(LAST_SECONDS * fps)]
    with tempfile.TemporaryDirectory() as folder:
        film_file = Path(folder) / "film.mp4"
        source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:g}", "-i", "-"]
        coded = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-movflags", "+faststart"]
        command = [str(_ffmpeg()), "-loglevel", "error", *source, *coded, "-metadata", "comment=metarl", str(film_file)]
        done = subprocess.run(command, input=b"".join(p.tobytes() for p in shown), capture_output=True, check=False)
        if done.returncode:
            message = done.stderr.decode(errors="replace").strip()
            raise InvalidValueError("path", str(path), f"a film that ffmpeg can write (its message: {message})")
        write_atomic(path, film_file.read_bytes())


def _ffmpeg() -> str | None:
    """Path of the installed ffmpeg, or of the one in the package imageio-ffmpeg; None if there is neither."""
    if (program := shutil.which("ffmpeg")) is not None:
        return program
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        return None
    return str(importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe())
