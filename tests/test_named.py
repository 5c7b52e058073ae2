"""Files that the user names: what they may import, and what they leave behind."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import metarl
from metarl import named


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of modules, outside the working directory; the import path and modules are put back."""
    modules = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(named, "_trusted", set())
    (tmp_path / "code").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "code" / "beside_it.py").write_text("loads = [1]\n")
    yield tmp_path / "code"
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def test_a_file_imports_the_modules_beside_it_now_and_later(folder: Path) -> None:
    (folder / "later_on.py").write_text("answer = 42\n")
    code = "import beside_it\n\ndef late():\n    import later_on\n    return later_on.answer\n"
    (folder / "my_file.py").write_text(code)
    before = list(sys.path)
    for _ in range(2):
        metarl.load_source("../code/my_file.py")
    assert sys.modules["my_file"].late() == 42
    assert sys.path == [*before, str(folder)]


def test_the_modules_beside_a_file_hide_no_other_modules(folder: Path) -> None:
    (folder / "colorsys.py").write_text("raise AssertionError('of the standard library')\n")
    (folder / "my_file.py").write_text("from colorsys import rgb_to_hls\n")
    sys.modules.pop("colorsys", None)
    metarl.load_source(str(folder / "my_file.py"))
    assert sys.modules["my_file"].rgb_to_hls.__module__ == "colorsys"


def test_a_file_that_fails_leaves_the_import_path_alone(folder: Path) -> None:
    (folder / "my_file.py").write_text("import beside_it\nimport there_is_none\n")
    before = list(sys.path)
    with pytest.raises(metarl.InvalidValueError, match=r"or a \.py file \(No module named 'there_is_none'\)"):
        metarl.load_source(str(folder / "my_file.py"))
    assert sys.path == before


def test_a_module_beside_a_file_can_be_loaded_too_in_either_order(folder: Path) -> None:
    (folder / "my_file.py").write_text("import beside_it\n")
    metarl.load_source(str(folder / "my_file.py"))
    assert "beside_it" not in named._trusted
    imported = sys.modules["beside_it"]
    metarl.load_source(str(folder / "beside_it.py"))
    assert sys.modules["beside_it"] is imported
    assert named._trusted == {"my_file", "beside_it"}
    other = folder / "other"
    other.mkdir()
    (other / "beside_it.py").write_text("")
    named._trusted.remove("beside_it")
    with pytest.raises(metarl.InvalidValueError, match="a module beside_it is imported already"):
        metarl.load_source(str(other / "beside_it.py"))
