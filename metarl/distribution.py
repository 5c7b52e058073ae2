"""The installed distribution: its name, versions, the revision of its source, and the commands that install its extras.

The import name and the command are `metarl`. On the Python Package Index, `metarl` is a different project.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

NAME = "metarl-suite"


def own_version() -> str:
    """The installed version, or "0+uninstalled" in a checkout that was never installed."""
    try:
        return version(NAME)
    except PackageNotFoundError:
        return "0+uninstalled"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect results."""
    out = {"python": platform.python_version(), "metarl": own_version()}
    for name in ("torch", "numpy", "gymnasium"):
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            out[name] = "uninstalled"
    return out


def git_revision() -> str | None:
    """Revision of metarl's source tree, with `+dirty` if tracked files are changed; None outside of a clone."""
    here = Path(__file__).resolve().parent

    def git(*args: str) -> str:
        environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
        return subprocess.run(
            ["git", *args], cwd=here, capture_output=True, text=True, check=True, timeout=10, env=environment
        ).stdout

    try:
        if Path(git("rev-parse", "--show-toplevel").strip()) != here.parent:
            return None
        outputs = ":(top,exclude)experiments/results"  # results of experiments are not source code
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":(top)", outputs).strip()
        return git("rev-parse", "HEAD").strip() + ("+dirty" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def install_command(extra: str, module: str) -> str:
    """The command that installs the requirements of an extra, for example `pip install 'mujoco<4,>=3.3'`.

    Args:
        extra: an extra of this distribution, or the name that a plugin gave.
        module: the module that could not be imported. If the extra is unknown, the command installs this name.
    """
    try:
        needed = requirements(requires(NAME) or [], extra)
    except PackageNotFoundError:
        return f"pip install -e {shlex.quote(f'.[{extra}]')} in the checkout of metarl"
    return f"pip install {shlex.join(needed or [module])}"


def requirements(declared: list[str], extra: str) -> list[str]:
    """The requirements that belong to an extra, without their conditions."""
    of_extra = re.compile(rf"""extra\s*==\s*["']{re.escape(extra)}["']""")
    parts = [line.partition(";") for line in declared]
    return [requirement.strip() for requirement, _, condition in parts if of_extra.search(condition)]
