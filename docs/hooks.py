"""MkDocs hooks: families' pages in the navigation, and tables of the commands' options.

A line `<!-- options: TrainOptions -->` in a page becomes a table of that dataclass of `metarl.cli`: its fields with
their defaults and docstrings, read from the source.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
INDEX = "families/README.md"
MARK = re.compile(r"^<!-- options: (\w+) -->$", re.MULTILINE)


def on_config(config: Any) -> Any:
    """Add the families' pages to the navigation, below their index."""
    folder = Path(config.docs_dir) / "families"
    pages = sorted(path.name for path in folder.glob("*.md") if path.name != Path(INDEX).name)
    for section in config.nav:
        if INDEX in section.values():
            section["Families"] = [INDEX, *({Path(name).stem: f"families/{name}"} for name in pages)]
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the marks of a page with tables."""
    return MARK.sub(lambda match: options_table(match[1]), markdown)


def options_table(name: str) -> str:
    """Markdown of a command's summary and its options."""
    node = dataclass_named(name)
    lines = [summary(node), "", "| option | default | meaning |", "| --- | --- | --- |"]
    for option, default, meaning in fields_of(node):
        cells = (f"`{option}`", f"`{default}`" if default else "", meaning)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def summary(node: ast.ClassDef) -> str:
    """The first line of a docstring."""
    return (ast.get_docstring(node) or "").partition("\n")[0]


def dataclass_named(name: str) -> ast.ClassDef:
    """Syntax tree of a class of the command line."""
    for file in sorted((ROOT / "metarl" / "cli").glob("*.py")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return node
    raise LookupError(f"no class {name} in metarl/cli")


def fields_of(node: ast.ClassDef) -> Iterator[tuple[str, str, str]]:
    """Option, default and docstring of each field. The docstring is the statement after the field."""
    for field, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            positional = "Positional" in ast.unparse(field.annotation)
            name = field.target.id.upper() if positional else "--" + field.target.id.replace("_", "-")
            documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            yield name, typed(field.value), " ".join(after.value.value.split()) if documented else ""


def typed(default: ast.expr | None) -> str:
    """A default as typed in a command: `(0, 1)` as `0 1`, `Path("report")` as `report`, None as nothing."""
    if isinstance(default, ast.Tuple):
        return " ".join(typed(part) for part in default.elts)
    if isinstance(default, ast.Call):
        return " ".join(typed(part) for part in default.args)
    value = None if default is None else ast.literal_eval(default)
    return "" if value is None else str(value)
