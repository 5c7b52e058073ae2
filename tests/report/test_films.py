"""Films: what is seen is what the evaluator measured, and the files hold it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from PIL import Image

import metarl
from metarl.agents.baselines.random import Random
from metarl.cli import main as cli
from metarl.engine.torch_environments import TorchEnvironments, one_environment
from metarl.envs.navigation.point_navigation import PointNavigation
from metarl.errors import InvalidValueError
from metarl.families import opengl
from metarl.report import films as animation
from metarl.report.films import Take, compose, film, watch, write_gif
from metarl.report.rendering import Canvas, frame
from metarl.rng import fold_in, make_key

SCRATCH = {"hidden": (8,), "eval_steps": 60, "inner_lr": 0.5}


class Slide(gym.Env[Any, Any]):
    """A point on a line that ends 1.2 from the start; its picture's first pixel is its step number."""

    observation_space = Box(-10.0, 10.0, (1,), np.float32)
    action_space = Box(-1.0, 1.0, (1,), np.float32)
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None, slope: float = 1.0) -> None:
        self.render_mode, self.slope = render_mode, slope

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.x, self.t = np.float32(self.np_random.uniform(-0.1, 0.1)), 0
        return np.array([self.x], np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.x, self.t = np.float32(self.x + action[0]), self.t + 1
        return np.array([self.x], np.float32), float(self.slope * self.x), bool(abs(self.x) > 1.2), False, {}

    def render(self) -> Any:
        return np.full((20, 40, 3), self.t, np.uint8)


def slide(env: Any = Slide, apply: str = "attrs") -> metarl.GymFamily:
    return metarl.GymFamily(env, {"slope": metarl.Uniform(0.5, 2.0)}, apply=apply, horizon=9)


@pytest.mark.parametrize("mode", ["deterministic", "sampled"])
@pytest.mark.parametrize(
    ("agent", "family", "config"),
    [
        ("scratch", 'metarl/PointNavigation-v0{"horizon": 25}', SCRATCH),  # adapts; episodes end early
        ("rl2", "metarl/GridNavi-v0", {"hidden": 8}),  # remembers: scored with copies of its state
        ("oracle", "metarl/DarkKeyToDoor-v0", {}),  # is shown the environments
        ("ucb1", "metarl/BernoulliBandit-v0", {}),  # episodes of one step
    ],
)
def test_returns_are_those_of_evaluate(agent: str, family: str, config: dict[str, Any], mode: str) -> None:
    made = metarl.make_agent(agent, family, seed=3, **config)
    tasks = made.family.tasks("test", 3)
    scores = metarl.evaluate(made, tasks, k=2, episodes=2, modes=[mode], seed=7).scores[mode][0, :, :, 0]
    takes = film(made, 2, 2, mode=mode, seed=7, size=32)
    assert [take.k for take in takes] == [0, 1, 2]
    np.testing.assert_allclose([take.rewards.sum() for take in takes], scores[2], rtol=1e-4, atol=1e-5)
    for take in takes:
        assert len(take.frames) == len(take.rewards) + 1 == len(take.actions) + 1


@pytest.mark.parametrize("apply", ["attrs", "kwargs"])
def test_returns_of_a_gymnasium_family_are_those_of_evaluate_and_every_step_is_seen(apply: str) -> None:
    made = metarl.make_agent("scratch", slide(apply=apply), **SCRATCH)
    tasks = made.family.tasks("test", 2)
    scores = metarl.evaluate(made, tasks, k=[0, 2], episodes=1, modes=["sampled"]).scores["sampled"][0, :, :, 0]
    takes = film(made, tasks[1], [0, 2], mode="sampled")
    np.testing.assert_allclose([take.rewards.sum() for take in takes], scores[1], rtol=1e-5)
    assert min(len(take.rewards) for take in takes) < 9  # an episode that ended: the restart must not be in the film
    for take in takes:
        assert [int(frame[0, 0, 0]) for frame in take.frames] == list(range(len(take.rewards) + 1))


class Turning(Random):
    """Turns further with every step of the trial, counted in place."""

    is_recurrent = True

    def begin(self, rows: int, tasks: Any = None) -> Any:
        return {"steps": torch.zeros(rows, 1, dtype=torch.int64)}

    def act(self, state: Any, step: Any, rng: Any, deterministic: bool) -> Any:
        return state["steps"] // 4 % 5, {}, state

    def observe(self, state: Any, feedback: Any, active: Any) -> Any:
        state["steps"] += 1
        return state


def test_a_filmed_episode_leaves_no_trace_in_the_trial() -> None:
    made = Turning(metarl.make_family("metarl/GridNavi-v0"), Random.Config())
    takes = film(made, 0, 2, size=32)
    starts = [0, 15, 30]  # steps of the trial before the episodes: what was filmed is thrown away
    for take, start in zip(takes, starts, strict=True):
        assert take.actions.tolist() == [(start + t) // 4 % 5 for t in range(15)]


class States(PointNavigation):
    """Pictures are the positions themselves."""

    def frame(self, state: Any, task: Any, size: tuple[int, int] = (256, 256)) -> Any:
        return state


def test_pictures_are_of_the_episode_that_was_scored() -> None:
    made = metarl.make_agent("scratch", States(horizon=30), **SCRATCH)
    tasks = made.family.tasks("test", 1)
    paths = metarl.evaluate(made, tasks, k=1, episodes=1, modes=["sampled"], seed=1).paths
    for take in film(made, tasks, 1, mode="sampled", seed=1):
        path = paths[take.k][0]
        path = path[np.isfinite(path).all(-1)]
        np.testing.assert_allclose(np.stack(take.frames), path[: len(take.frames)], atol=1e-6)
        goal = tasks.values["goal"][0]
        np.testing.assert_allclose(take.rewards, -np.linalg.norm(np.stack(take.frames)[1:] - goal, axis=1), atol=1e-5)


def test_a_gif_holds_every_step_in_panels_that_move(tmp_path: Path) -> None:
    made = metarl.make_agent("oracle", "metarl/DarkRoom-v0")
    returns = watch(made, 1, [0, 2], tmp_path / "new" / "film.gif", size=64)
    assert list(returns) == [0, 2]
    best = made.family.references(made.family.tasks("test", 2))["informed_optimum"][1]
    assert returns[0] == returns[2] == best
    with Image.open(tmp_path / "new" / "film.gif") as gif:
        assert gif.n_frames == 21  # the start and 20 steps
        assert gif.size == (152, 198)  # two panels of 64, three gaps of 8; a gap, 4 lines of heading and 3 of text
        pictures = []
        for i in range(gif.n_frames):
            gif.seek(i)
            pictures.append(np.asarray(gif.convert("RGB")).astype(int))
        assert gif.info["duration"] == 1500
    panels = [[p[98:162, x : x + 64] for p in pictures] for x in (8, 80)]
    for panel in panels:
        assert np.abs(panel[0] - panel[-1]).max() > 100
    assert np.abs(panels[0][3] - panels[1][3]).max() < 30  # the oracle plays both alike


def test_an_agent_that_stands_still_has_as_many_frames(tmp_path: Path) -> None:
    made = metarl.make_agent("rl2", 'metarl/SwitchingBandit-v0{"horizon": 50}', hidden=4)
    watch(made, 0, 0, tmp_path / "film.gif", size=64, every=7, fps=10)
    with Image.open(tmp_path / "film.gif") as gif:
        assert gif.n_frames == 9  # steps 0, 7, ..., 49 and the last, 50
        assert gif.info["duration"] == 100


def takes() -> list[Take]:
    """Of 1 and 3 steps, picture t all of colour 60 t."""
    return [
        Take(k, [np.full((8, 8, 3), 60 * t, np.uint8) for t in range(n + 1)], np.full(n, -0.5), np.arange(n))
        for k, n in ((0, 1), (4, 3))
    ]


def test_a_finished_episode_stands_still() -> None:
    pictures = compose(takes(), "", size=64)
    assert len(pictures) == 4
    left, right = ([int(p[40, x, 0]) for p in pictures] for x in (40, 112))
    assert left == [0, 60, 60, 60]
    assert right == [0, 60, 120, 180]
    assert all(n % 2 == 0 for n in pictures[0].shape[:2])  # as H.264 wants it


def test_captions_tell_the_running_return() -> None:
    first, second = takes()
    assert animation._caption(first, 0, False) == "step 0, return 0.00"
    assert animation._caption(second, 2, False) == "step 2, return \u22121.00"
    assert animation._caption(second, 3, True) == "step 3, action 2, return \u22121.50 (end)"


def test_long_episodes_are_thinned_and_end_with_the_last_step() -> None:
    long = Take(0, [np.full((2, 2, 3), t % 256, np.uint8) for t in range(1001)], np.zeros(1000), np.zeros(1000))
    pictures = compose([long], size=40)
    assert len(pictures) == 144  # every 7 steps: 0, 7, ..., 994 and 1000
    assert int(pictures[-1][40, 30, 0]) == 1000 % 256


def test_only_the_frames_that_are_shown_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def frame(self: Any, state: Any, task: Any, size: Any) -> Any:
        drawn.append(state)
        return np.zeros((*size, 3), np.uint8)

    monkeypatch.setattr(PointNavigation, "frame", frame)
    agent = metarl.make_agent("random", 'metarl/PointNavigation-v0:semicircle{"horizon": 20}')
    watch(agent, 0, 1, tmp_path / "film.gif", every=6, size=32)
    assert len(drawn) == 2 * 5  # of either panel steps 0, 6, 12, 18 and 20


def test_mp4_is_handed_to_ffmpeg_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text('#!/bin/sh\nfor last; do :; done\nwc -c > "$last"\n')
    program.chmod(0o755)
    monkeypatch.setattr(animation, "_ffmpeg", lambda: str(program))
    watch(metarl.make_agent("random", "metarl/GridNavi-v0"), 0, 1, tmp_path / "film.mp4", size=64, fps=2)
    height, width = 198, 152
    assert int((tmp_path / "film.mp4").read_text()) == (16 + 3) * height * width * 3  # and the last for 1.5 seconds
    program.write_text("#!/bin/sh\ncat > /dev/null\necho no codec >&2\nexit 1\n")
    with pytest.raises(InvalidValueError, match="no codec"):
        animation.write_mp4(tmp_path / "film.mp4", [np.zeros((2, 2, 3), np.uint8)], 2.0)


@pytest.mark.skipif(animation._ffmpeg() is None, reason="needs ffmpeg")
def test_mp4_by_ffmpeg(tmp_path: Path) -> None:
    watch(metarl.make_agent("random", "metarl/GridNavi-v0"), 0, 1, tmp_path / "film.mp4", size=64)
    assert (tmp_path / "film.mp4").read_bytes()[4:8] == b"ftyp"


def test_what_cannot_be_filmed_is_told_before_anything_is_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = metarl.make_agent("random", "metarl/GridNavi-v0")
    other = metarl.make_family("metarl/DarkRoom-v0").tasks("test", 1)
    monkeypatch.setattr(animation, "_ffmpeg", lambda: None)
    for arguments, field in [
        ((0, 1, "film.avi"), r"path is 'film.avi', expected a file name that ends in .gif or .mp4"),
        ((0, 1, "film.mp4"), r"path is 'film.mp4', expected a name that ends in .gif, or ffmpeg"),
        ((0, -1, "film.gif"), "k is -1"),
        ((0, [], "film.gif"), "k is "),
        ((-1, 1, "film.gif"), "task is -1"),
        ((other, 1, "film.gif"), "family of the task"),
        ((made.family.tasks("test", 2), 1, "film.gif"), "number of tasks is 2"),
    ]:
        with pytest.raises(InvalidValueError, match=field):
            watch(made, *arguments)  # type: ignore[arg-type]
    for options, field in [({"mode": "best"}, "mode"), ({"size": 0}, "size"), ({"every": 0}, "every")]:
        with pytest.raises(InvalidValueError, match=field):
            watch(made, 0, 0, "film.gif", **options)  # type: ignore[arg-type]


def test_a_gymnasium_environment_that_renders_nothing_says_so() -> None:
    def blind(render_mode: str | None = None, slope: float = 1.0) -> Slide:
        return Slide(None, slope)

    made = metarl.make_agent("random", slide(blind))
    with pytest.raises(InvalidValueError, match="render_mode"):
        film(made, 0, 0)


DRAWN = ("BernoulliBandit", "DarkKeyToDoor", "DarkRoom", "DeceptiveBandit", "GaussianBandit", "GridNavi")
DRAWN += ("PointNavigation", "PointNavigation:semicircle", "PointNavigation:corners", "Recommendation")
DRAWN += ("SwitchingBandit", "TabularMDP")


@pytest.mark.parametrize("name", DRAWN)
def test_families_draw_their_task_whatever_was_drawn_before(name: str) -> None:
    base, _, preset = name.partition(":")
    family: Any = metarl.make_family(f"metarl/{base}-v0" + (f":{preset}" if preset else ""))
    envs = TorchEnvironments(family, 4, torch.device("cpu"))
    envs.begin(family.tasks("test", 4), fold_in(make_key(0), torch.arange(4)), 5)
    one, *others = [(one_environment(envs.state), one_environment(envs.task, i)) for i in range(4)]
    fresh = Canvas((256, 256)).frame(lambda axes: family.draw(axes, *one))
    for other in ("metarl/TabularMDP-v0", "metarl/GaussianBandit-v0"):  # of equal aspect, and of free
        assert film(metarl.make_agent("random", other), 0, 0)[0].frames[0].shape == (256, 256, 3)
        np.testing.assert_array_equal(frame(family, *one), fresh)
    assert any((frame(family, *env) != fresh).any() for env in others)


def test_white_stays_white_in_a_gif(tmp_path: Path) -> None:
    write_gif(tmp_path / "film.gif", compose(takes(), "title", size=64), 2.0)
    with Image.open(tmp_path / "film.gif") as gif:
        assert gif.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


# --- without OpenGL --------------------------------------------------------------------------------------------------

REMEDY = "MUJOCO_GL is {given}, expected egl or osmesa where there is no display: install its library and set "
REMEDY += "MUJOCO_GL=egl before Python starts"


def raiser(module: str, error: str) -> Any:
    """A function of a module that raises."""
    space: dict[str, Any] = {"__name__": module}
    exec(f"def fail(*_):\n    raise {error}", space)
    return space["fail"]


class Blind(Slide):
    """Renders with MuJoCo, which finds nothing to draw with."""

    fail = raiser("mujoco.renderer", "RuntimeError('no OpenGL, which most likely means this or that')")

    def render(self) -> Any:
        return self.fail()


def test_one_sentence_names_the_remedy_where_mujoco_cannot_draw(
    monkeypatch: pytest.MonkeyPatch, scratch_registry: Any
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    expected = REMEDY.format(given="'glfw'") + " (RuntimeError: no OpenGL)"
    with pytest.raises(InvalidValueError) as refused:
        film(metarl.make_agent("random", slide(Blind)), 0, 0)
    assert str(refused.value) == expected
    metarl.register_family("mine/Blind-v0", env=Blind, task_space={"slope": metarl.Uniform(0.5, 2.0)}, horizon=9)
    env = gym.make("mine/Blind-v0", render_mode="rgb_array")
    env.reset(seed=0)
    with pytest.raises(InvalidValueError) as refused:
        env.render()
    assert str(refused.value) == expected


def test_what_else_goes_wrong_in_rendering_is_left_as_it_is() -> None:
    for module, error in (("my_environment", "RuntimeError('mine')"), ("mujoco.renderer", "ValueError('too wide')")):
        with pytest.raises(Exception, match=r"mine|too wide") as raised, opengl.rendering():
            raiser(module, error)()
        assert not isinstance(raised.value, InvalidValueError)


def test_a_family_whose_module_cannot_look_for_opengl_says_so(
    monkeypatch: pytest.MonkeyPatch, scratch_registry: Any
) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    lost = "AttributeError(\"'NoneType' object has no attribute 'glGetError'\")"
    metarl.register_family("mine/Lost-v0", raiser("OpenGL.platform", lost))
    with pytest.raises(InvalidValueError) as refused:
        metarl.make_family("mine/Lost-v0")
    assert str(refused.value).startswith(REMEDY.format(given="not set") + " (AttributeError: 'NoneType' object")


def test_watch_chooses_a_renderer_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr(cli, "choose_renderer", lambda: called.append("choose"))
    monkeypatch.setattr(cli, "_load_source", called.append)
    for arguments in (["watch"], ["train"]):
        with pytest.raises(SystemExit):
            cli.main(["--load", "mine.py", *arguments, "--no-such-option"])
    assert called == ["choose", "mine.py", "mine.py"]


@pytest.mark.parametrize(
    ("variables", "installed", "chosen"),
    [
        ({}, ("EGL",), "egl"),
        ({}, ("OSMesa", "EGL"), "osmesa"),
        ({}, (), None),
        ({"DISPLAY": ":0"}, ("EGL",), None),
        ({"MUJOCO_GL": "glfw"}, ("EGL",), "glfw"),
    ],
)
def test_a_renderer_is_chosen_where_there_is_no_display(
    variables: dict[str, str], installed: tuple[str, ...], chosen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delitem(sys.modules, "mujoco", raising=False)
    monkeypatch.setattr(opengl.ctypes.util, "find_library", lambda name: name if name in installed else None)
    monkeypatch.setattr(os, "environ", dict(os.environ))  # what is chosen must not stay
    opengl.choose_renderer()
    assert os.environ.get("MUJOCO_GL") == chosen
