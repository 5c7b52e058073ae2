"""Fixtures that several test files share, one thread for each process, and a temporary folder that must stay empty."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

# Before PyTorch is imported: what tests start inherits it.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

import metarl
from metarl.families import registry

torch.set_num_threads(1)

DELICATE = {
    "families/test_golden_tasks",
    "agents/test_learning",
    "agents/test_maml",
    "learning/test_memory",
    "learning/test_meta_gradient",
    "learning/test_ppo",
    "agents/test_rl2",
}
TESTS = Path(__file__).parent
PRIVATE = pytest.StashKey[Path]()
AT_EXIT = ("pymp-", "torchinductor_", "playwright")  # of other programs, which are not a test's to remove


def left_behind(folder: Path) -> list[str]:
    """What lies in a temporary folder that should be empty."""
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith(AT_EXIT))


def pytest_configure(config: pytest.Config) -> None:
    """Give this process a temporary folder of its own; pytest's `tmp_path` stays where it was."""
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    config.stash[PRIVATE] = Path(tempfile.mkdtemp(prefix="metarl-tests-"))
    os.environ["TMPDIR"] = tempfile.tempdir = str(config.stash[PRIVATE])


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove it."""
    tempfile.tempdir = None
    os.environ["TMPDIR"] = str(config.stash[PRIVATE].parent)
    shutil.rmtree(config.stash[PRIVATE])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the files whose every test is delicate, before tests are chosen by their marks."""
    for item in items:
        if str(item.path.relative_to(TESTS).with_suffix("")) in DELICATE:
            item.add_marker(pytest.mark.delicate)


@pytest.fixture(scope="session", autouse=True)
def temporary_folder_is_empty_at_the_end(pytestconfig: pytest.Config) -> Iterator[None]:
    """Fail when what several tests share leaves something."""
    yield
    assert left_behind(pytestconfig.stash[PRIVATE]) == []


@pytest.fixture(autouse=True)
def empty_temporary_folder(pytestconfig: pytest.Config) -> Iterator[None]:
    """Fail a test that leaves something in the temporary folder."""
    folder = pytestconfig.stash[PRIVATE]
    before = left_behind(folder)
    yield
    assert left_behind(folder) == before


@pytest.fixture
def scratch_registry():
    """The registries of metarl and Gymnasium; what a test adds to them is taken out again."""
    with contextlib.suppress(ImportError):
        importlib.import_module("minigrid")  # it registers its ids when it is imported for the first time
    held = [(table, dict(table)) for table in (registry.families, registry.agents, gym.registry)]
    yield registry
    for table, before in held:
        table.clear()
        table.update(before)


class Counting(metarl.TorchFamily):
    """Every number is known beforehand: at time t the observation is t and the step's reward is `bonus` + t.

    An episode terminates with its step number `length`, or is truncated after `horizon` steps.
    """

    id = "toy/Counting-v0"
    observation_space = Box(0.0, 100.0, (1,), np.float32)
    action_space = Box(-1.0, 1.0, (1,), np.float32)
    task_space: ClassVar = {
        "length": metarl.Uniform(1.0, 50.0),
        "bonus": metarl.Uniform(-100.0, 100.0),
    }

    def __init__(self, horizon=4):
        self.horizon = horizon

    def reset(self, task, rng):
        return torch.zeros_like(task["length"])

    def observe(self, state, task):
        return state.unsqueeze(1)

    def step(self, state, action, task, rng):
        return state + 1.0, task["bonus"] + state, state + 1.0 >= task["length"]


@pytest.fixture
def counting():
    """The class of a family with known rewards and endings."""
    return Counting
