"""The installed distribution: its name, its version, and the commands that install what its extras need.

The import and the command are `metarl`; the project of that name on the Python Package Index is another one.
"""

from __future__ import annotations

import re
import shlex
from importlib.metadata import PackageNotFoundError, requires, version

NAME = "metarl-suite"


def own_version() -> str:
    """The version; "0+uninstalled" in a checkout that was never installed."""
    try:
        return version(NAME)
    except PackageNotFoundError:
        return "0+uninstalled"


def install_command(extra: str, module: str) -> str:
    """The command that installs what an extra needs, for example `pip install 'mujoco<4,>=3.3'`.

    Args:
        extra: of this distribution, or a name that a plugin gave.
        module: what could not be imported; its own name is installed where the extra is not known.
    """
    try:
        needed = requirements(requires(NAME) or [], extra)
    except PackageNotFoundError:
        return f"pip install -e {shlex.quote(f'.[{extra}]')} in the checkout of metarl"
    return f"pip install {shlex.join(needed or [module])}"


def requirements(declared: list[str], extra: str) -> list[str]:
    """Those of some declared requirements that an extra adds, without their conditions."""
    of_extra = re.compile(rf"""extra\s*==\s*["']{re.escape(extra)}["']""")
    parts = [line.partition(";") for line in declared]
    return [requirement.strip() for requirement, _, condition in parts if of_extra.search(condition)]
