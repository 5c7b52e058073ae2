"""The house: rooms import only what stands below them, in no circle, and no room or file outgrows its page."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the bottom up; docs/architecture.md says what each is for.
ROOMS = (
    ("errors", "exact", "global_rng", "distribution"),
    ("files", "rng", "named", "lock", "config", "devices"),
    ("families",),
    ("agent_base",),
    ("engine",),
    ("learning",),
    ("agent",),
    ("evaluation",),
    ("runs",),
    ("report",),
    ("interop",),
    ("contract",),
    ("benchmark", "online"),
    ("cli",),
    ("envs",),
    ("agents",),
)
FLOOR = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
MOST_FILES, MOST_LINES = 12, 400
ENTRANCES = {"metarl", "__main__"}


def modules() -> Iterator[tuple[str, Path]]:
    """Every module by its name without the leading `metarl.`, and its file."""
    for folder in ("metarl", "envs", "agents"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.relative_to(ROOT).parts[:2] in (("metarl", "envs"), ("metarl", "agents")):
                continue  # links to the folders beside it
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts[1:] if folder == "metarl" else parts
            yield ".".join(parts).removesuffix("__init__").rstrip(".") or "metarl", path


FILES = dict(modules())


def homes() -> dict[str, set[str]]:
    """The modules that `metarl.agent` gathers its names from, and the names."""
    imported = [node for node in ast.parse(FILES["agent"].read_text()).body if isinstance(node, ast.ImportFrom)]
    return {node.module or "": {alias.name for alias in node.names} for node in imported}


HOMES = homes()


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """The modules of metarl that a file imports, and whether it does so when it is imported itself."""
    tree = ast.parse(path.read_text())
    lazy = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "metarl":
            base = (node.module or "").partition(".")[2]
            for alias in node.names:
                inner = f"{base}.{alias.name}" if base else alias.name
                yield (inner if inner in FILES else base), id(node) not in lazy
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "metarl":
                    yield alias.name.partition(".")[2] or "metarl", id(node) not in lazy


def room(module: str) -> str:
    """The room that a module stands in."""
    return module.partition(".")[0]


@pytest.mark.parametrize("module", sorted(set(FILES) - ENTRANCES))
def test_imports_point_down(module: str) -> None:
    """Also those within a function: they would hide a circle."""
    for imported, _ in imports(FILES[module]):
        if imported == "metarl":
            assert room(module) in ("agents", "envs", "cli", "interop"), f"{module} imports the whole house"
            continue
        assert room(imported) in FLOOR, f"{imported} stands in no room"
        assert FLOOR[room(imported)] <= FLOOR[room(module)], f"{module} imports {imported}, which stands above it"


def test_there_is_no_circle() -> None:
    arrows = {m: {i for i, now in imports(p) if now and i in FILES and i != m} for m, p in FILES.items()}
    left = {m: set(to) - ENTRANCES for m, to in arrows.items() if m not in ENTRANCES}
    while free := [m for m, to in left.items() if not to & set(left)]:
        for module in free:
            del left[module]
    assert not left, f"a circle among {sorted(left)}"


def test_no_room_and_no_file_outgrows_its_page() -> None:
    folders = {path.parent for path in FILES.values()} - {ROOT / "metarl/benchmark/suites"}  # a list of declarations
    crowded = {str(f.relative_to(ROOT)): n for f in folders if (n := len(list(f.glob("[!_]*.py")))) > MOST_FILES}
    assert not crowded
    lines = {module: len(path.read_text().splitlines()) for module, path in FILES.items()}
    assert not {module for module, count in lines.items() if count > MOST_LINES}


def test_a_wheel_has_every_folder() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {"metarl"} | {"metarl." + m.rpartition(".")[0] for m in FILES if "." in m}
    assert set(packages) == folders


def test_every_folder_of_tests_mirrors_a_room() -> None:
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name[0] not in "._"}
    assert folders <= set(FLOOR) | {"docs", "experiments", "planted"}


@pytest.mark.parametrize("module", sorted(m for m in FILES if m.startswith("agents.")))
def test_agents_take_their_names_from_the_entrance_of_authors(module: str) -> None:
    """`metarl.agent` has what an agent needs, and the built-in ones show it."""
    tree = ast.parse(FILES[module].read_text())
    imported = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    elsewhere = [a.name for node in imported for a in node.names if a.name in HOMES.get(node.module or "", ())]
    assert set(elsewhere) <= {"annotations"}, f"{module}: from metarl.agent import {', '.join(elsewhere)}"
