"""What the commands say to somebody who made a mistake: which file, which name, and what to do next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

import metarl
from metarl.cli.main import main
from metarl.errors import InvalidValueError

TRAIN = ["train", "rl2", "--family", "metarl/BernoulliBandit-v0", "--hidden", "4", "--trial-episodes", "2"]
TRAIN += ["--meta-batch-size", "2", "--minibatches", "1", "--iterations", "1"]


class Windless(gym.Env[Any, Any]):
    """An environment whose numbers are attributes of its class."""

    observation_space, action_space = Box(-1.0, 1.0, (1,), np.float32), Discrete(2)
    target, steep = 0.5, True

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(1, np.float32), 0.0, False, False, {}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command says that exits with 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err.strip()


def test_a_run_and_its_files_are_named_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    main([*TRAIN, "--out", "my run"])
    assert refused([*TRAIN, "--out", "my run"], capsys).endswith("resume it: metarl train --resume 'my run')")
    main(["train", "--resume", "my run"])
    told = capsys.readouterr().out
    assert "1 of 1 iterations are done; add --iterations N to train longer" in told
    assert "0 iterations" not in told
    main(["eval", "my run", "--k", "1", "--num-tasks", "2", "--episodes", "1"])
    Path("my run/results/test.npz").unlink()
    told = refused(["report", "my run"], capsys)
    assert told.endswith("a .json file and the .npz file beside it (test.npz: No such file or directory)")
    Path("my run/checkpoint-1.safetensors").unlink()
    told = refused(["eval", "my run"], capsys)
    assert told.endswith("a whole metarl checkpoint (checkpoint-1.safetensors: No such file or directory)")


def test_names_that_only_a_file_of_ones_own_registers(capsys: pytest.CaptureFixture[str]) -> None:
    advice = "if a file of yours registers it: --load FILE.py, or in Python metarl.load_source('FILE.py')"
    assert refused(["check-agent", "my_agent"], capsys).endswith(advice)
    assert refused(["eval", "random"], capsys).startswith("metarl: --family is missing, expected --family ID")


def test_attributes_of_a_class_are_offered_as_those_of_an_environment() -> None:
    space = {"wind": metarl.Uniform(0.0, 1.0)}
    with pytest.raises(InvalidValueError, match=r"'wind', expected an attribute of Windless: one of target$"):
        metarl.GymFamily(Windless, space, horizon=5, apply="attrs")
    with pytest.raises(InvalidValueError, match=r"expected an attribute of Still: it has none that are numbers$"):
        metarl.GymFamily(type("Still", (Windless,), {"target": None}), space, horizon=5, apply="attrs")


def test_nothing_is_computed_for_a_place_that_cannot_be_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def compute(*_: Any, **__: Any) -> None:
        raise AssertionError("it was computed")

    monkeypatch.setattr("metarl.cli.commands.evaluate", compute)
    monkeypatch.setattr("metarl.cli.commands.watch", compute)
    Path("file").touch()
    Path("folder").mkdir()
    family = ["--family", "metarl/PointNavigation-v0"]
    for command, name in (("eval", "r.json"), ("watch", "film.gif")):
        told = refused([command, "random", *family, "--out", f"file/{name}"], capsys)
        assert told.endswith("expected a path that can be written (file is not a folder)")
        with monkeypatch.context() as patched:
            patched.setattr("os.access", lambda path, mode: Path(path).name != "folder")
            told = refused([command, "random", *family, "--out", f"folder/new/{name}"], capsys)
        assert told.endswith("folder cannot be written)")
