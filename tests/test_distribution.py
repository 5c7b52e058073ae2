"""The installed distribution: its name, and the commands that install what is missing."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

import metarl
from metarl import distribution
from metarl.errors import MissingExtraError

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DECLARED = [  # as setuptools writes them into a wheel's metadata
    "torch<2.14,>=2.9",
    'mujoco<4,>=3.3; extra == "mujoco"',
    'metaworld<3.2,>=3.1.1; extra == "metaworld"',
    'mujoco==3.3.0; extra == "metaworld"',
    "scikit-learn>=1.5; python_version >= '3.11' and extra == 'digits'",
]


def test_the_name_is_the_projects() -> None:
    assert PROJECT["project"]["name"] == distribution.NAME
    assert PROJECT["project"]["scripts"] == {"metarl": "metarl.cli.main:main"}  # the command keeps its name


@pytest.mark.parametrize(
    ("extra", "module", "command"),
    [
        ("mujoco", "mujoco", "pip install 'mujoco<4,>=3.3'"),
        ("metaworld", "metaworld", "pip install 'metaworld<3.2,>=3.1.1' mujoco==3.3.0"),
        ("digits", "sklearn", "pip install 'scikit-learn>=1.5'"),
        ("rare", "rare_package", "pip install rare_package"),  # a plugin's own
    ],
)
def test_the_command_names_what_is_really_needed(
    extra: str, module: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distribution, "requires", {"metarl-suite": DECLARED}.__getitem__)
    assert distribution.install_command(extra, module) == command
    sentence = f"somebody needs the package {module}, which is not installed: {command}"
    assert str(MissingExtraError("somebody", module, extra)) == sentence


def test_a_checkout_that_was_never_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(distribution, "requires", missing)
    monkeypatch.setattr(distribution, "version", missing)
    expected = "pip install -e '.[mujoco]' in the checkout of metarl"
    assert distribution.install_command("mujoco", "mujoco") == expected
    assert distribution.own_version() == "0+uninstalled"


def test_every_folder_with_code_is_a_package_of_the_wheel() -> None:
    """Among them the folders behind the links metarl/envs and metarl/agents."""
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    found = set()
    for name in ("metarl", "envs", "agents"):
        package = name if name == "metarl" else f"metarl.{name}"
        for init in (ROOT / name).rglob("__init__.py"):
            found.add(".".join([package, *init.parent.relative_to(ROOT / name).parts]))
    assert listed == found


def test_nobody_is_sent_to_install_another_project() -> None:
    """`pip install metarl`, with or without an extra, would install a project of somebody else."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "Dockerfile"]
    sources = [path for name in ("metarl", "envs", "agents", "experiments") for path in (ROOT / name).rglob("*.py")]
    for path in [*pages, *sources]:
        assert not re.search(r"pip install ['\"]?metarl(?!-suite)", path.read_text()), path


def test_the_version_is_the_distributions() -> None:
    assert metarl.__version__ == distribution.own_version()
