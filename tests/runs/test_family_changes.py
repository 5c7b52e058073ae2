"""Runs whose family's code has changed since they were made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import pytest

import metarl
from metarl.cli.main import main
from metarl.errors import FamilyWarning
from metarl.families import registry
from metarl.files import read_json, write_json
from metarl.runs.checkpoints import FORMAT

CODE = """
import gymnasium as gym
import numpy as np
import metarl

class Env(gym.Env):
    observation_space = gym.spaces.Box(-9.0, 9.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, aim=1.0):
        self.aim = aim

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), float(action) * self.aim, False, False, {}

space = {"aim": metarl.Uniform(0.0, 1.0)}
metarl.register_family("test/Moved-v0", env=Env, task_space=space, apply="kwargs", horizon=3)
"""
TRAIN = "rl2 --family test/Moved-v0 --hidden 4 --meta-batch-size 8 --minibatches 1 --trial-episodes 2".split()  # noqa: SIM905


@pytest.fixture(autouse=True)
def unregistered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Each test registers the family anew, from a file in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    yield
    forget()


def forget() -> None:
    """Forget what was registered."""
    for known in (registry.families, registry.kinds, registry._owners, gym.registry):
        known.pop("test/Moved-v0", None)  # type: ignore[attr-defined]


def load(code: str) -> None:
    """Write the file, and forget what was registered before."""
    Path("mine.py").write_text(code)
    forget()


def trained() -> None:
    """A run in the folder `run`."""
    load(CODE)
    main(["train", *TRAIN, "--iterations", "1", "--load", "mine.py", "--out", "run"])


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("horizon=3", "horizon=4", "horizon of test/Moved-v0 is 4, expected 3, as when run run was made"),
        ("Uniform(0.0, 1.0)", "Uniform(5.0, 9.0)", "hash of the first train tasks of test/Moved-v0 is "),
        ("Box(-9.0, 9.0", "Box(-8.0, 8.0", "observation_space of test/Moved-v0 is Box(1,) float32 from -8 to 8"),
        (
            "Discrete(2)",
            "Discrete(3)",
            "action_space of test/Moved-v0 is Discrete(3, start=0), expected Discrete(2, start=0)",
        ),
    ],
)
@pytest.mark.parametrize("command", ["eval run --k 0", "train --resume run --iterations 2"])
def test_another_family_of_the_same_id_is_refused(
    old: str, new: str, sentence: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    trained()
    load(CODE.replace(old, new))
    with pytest.raises(SystemExit):
        main([*command.split(), "--load", "mine.py"])
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_other_code_of_the_same_family_is_warned_of() -> None:
    trained()
    load(CODE.replace("float(action)", "100.0 * float(action)"))
    metarl.load_source("mine.py")
    with pytest.warns(FamilyWarning, match=r"mine\.py has changed since run run was made: numbers may be others"):
        metarl.load("run")
    load(CODE)
    metarl.load_source("mine.py")
    metarl.load("run")  # warnings are errors here


def test_older_runs_do_not_say_what_their_family_was() -> None:
    trained()
    config = read_json(Path("run/config.json"), FORMAT, "")
    write_json(Path("run/config.json"), {k: v for k, v in config.items() if k not in ("family_form", "load_hashes")})
    load(CODE.replace("horizon=3", "horizon=4"))
    metarl.load_source("mine.py")
    assert metarl.load("run").family.horizon == 4


SUITE = """
from metarl.benchmark.suite import Entry, Protocol, Study, Suite

settings = {"hidden": 4, "meta_batch_size": 8, "minibatches": 1, "trial_episodes": 2}
protocol = Protocol(k=0, tasks=2, episodes=1)
suite = Suite("mine", {"moved": Study("test/Moved-v0", {"rl2": Entry("rl2", settings, 1)}, protocol, (0,))})
"""


def test_a_benchmark_does_not_take_trainings_of_another_family(capsys: pytest.CaptureFixture[str]) -> None:
    load(CODE)
    Path("suite.py").write_text(SUITE)
    main(["benchmark", "suite.py", "--load", "mine.py", "--jobs", "1"])
    load(CODE.replace("horizon=3", "horizon=4"))
    with pytest.raises(SystemExit):
        main(["benchmark", "suite.py", "--load", "mine.py", "--jobs", "1"])
    said = " ".join(capsys.readouterr().out.split())
    assert "moved/rl2/seed0 failed: horizon of test/Moved-v0 is 4, expected 3, as when run " in said
