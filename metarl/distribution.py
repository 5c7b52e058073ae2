"""The installed distribution: its name, its version, and the commands that install its extras.

The import name and the command are `metarl`. On the Python Package Index, `metarl` is a different project.
"""

from __future__ import annotations

import re
import shlex
from importlib.metadata import PackageNotFoundError, requires, version

NAME = "metarl-suite"


def own_version() -> str:
    """The installed version, or "0+uninstalled" in a checkout that was never installed."""
    try:
        return version(NAME)
    except PackageNotFoundError:
        return "0+uninstalled"


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
