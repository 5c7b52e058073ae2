"""MkDocs hook: the navigation's section Families has a line for every page in docs/families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

INDEX = "families/README.md"


def on_config(config: Any) -> Any:
    """Put the families' pages, by name, under their index."""
    folder = Path(config.docs_dir) / "families"
    pages = sorted(path.name for path in folder.glob("*.md") if path.name != Path(INDEX).name)
    for section in config.nav:
        if INDEX in section.values():
            section["Families"] = [{"All families": INDEX}, *({Path(name).stem: f"families/{name}"} for name in pages)]
    return config
