"""Provenance of results: versions of packages, and the revision of the source tree."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from metarl.distribution import own_version

__version__ = own_version()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect results."""
    out = {"python": platform.python_version(), "metarl": __version__}
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
