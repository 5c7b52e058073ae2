"""The families' pages: what they say is what the registry says, and the committed ones are current."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import family_pages as pages
import numpy as np
import pytest
from gymnasium.spaces import Box
from PIL import Image

import metarl
from metarl.errors import InvalidValueError, MissingExtraError
from metarl.families import registry

QUICK = ("BernoulliBandit", "DarkKeyToDoor", "DarkRoom", "DeceptiveBandit", "GaussianBandit", "GridNavi")
QUICK += ("PointNavigation", "Recommendation", "SwitchingBandit", "TabularMDP", "VancomycinDosing")
TWINS = """Twins: two families in one module.

Somebody (2020, section 1). A sentence with a range: not a label.

Both: observation: the number a|b, `[1]`. Action: a push. Task: how far.

First twin: reward: 1 inside [0, 1]. Then more of it. End: never.

Second twin: reward: nothing at all. Version history: v1, pays less; v0, first.
"""


class FirstTwin(metarl.TorchFamily):
    """The elder.

    It has a second paragraph.

    Args:
        far: how far, which takes
            two lines.
        near: a | b.
    """

    source = "Somebody 2020"
    presets: Any = {"wide": {"far": 3.0}}  # noqa: RUF012
    observation_space = Box(0.0, 1.0, (1,), np.float32)
    action_space = Box(-np.inf, np.inf, (2,), np.float32)
    horizon = 7

    def __init__(self, far: float = 2.0, near: float = 0.5) -> None:
        self.task_space = {"goal": metarl.Uniform(0.0, far), "mode": metarl.Choice([1, 2, 3])}
        self.ood = {"beyond": {"goal": metarl.Uniform(far + 1, far + 2)}}

    def references(self, tasks: Any) -> Any:
        return {"informed_optimum": tasks.values["mode"].astype(float) * 0 + 2.5}


class SecondTwin(FirstTwin):
    """The younger."""


@pytest.fixture
def twins(scratch_registry: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two families alone in the registry, whose pages go to a folder."""
    registry.families.clear()
    monkeypatch.setitem(sys.modules, "twins", SimpleNamespace(__doc__=TWINS, __name__="twins", First=FirstTwin))  # type: ignore[misc]
    for cls in (FirstTwin, SecondTwin):
        monkeypatch.setattr(cls, "__module__", "twins")
        monkeypatch.setattr(sys.modules["twins"], cls.__name__, cls, raising=False)
    registry.register_family("metarl/FirstTwin-v0", "twins:FirstTwin")
    registry.register_family("metarl/SecondTwin-v1", "twins:SecondTwin")
    monkeypatch.setattr(pages, "OUT", tmp_path)
    return tmp_path


def test_a_page_says_what_the_docstrings_and_the_registry_say(twins: Path) -> None:
    text = pages.render(pages.Options(pictures=False))["FirstTwin.md"]
    for line in [
        "# FirstTwin",
        "| observation | `[1]` in [0, 1] |",
        "| action | `[2]`, unbounded |",
        "| horizon | 7 steps |",
        "| splits | train, test; `beyond` |",
        "Somebody (2020, section 1). A sentence with a range: not a label.",
        "- **Observation**: the number a|b, `[1]`.",
        "- **Action**: a push.",
        "- **Reward**: 1 inside [0, 1]. Then more of it.",
        "- **End**: never.",
        "It has a second paragraph.",
        "| `goal` | a number | uniform on [0, 2) | uniform on [3, 4) |",
        "| `mode` | a number | one of 3: 1, 2, 3 | as in training |",
        "| `goal` | a number | uniform on [0, 3) | uniform on [4, 5) |",  # of the preset
        "| `far` | `2.0` | how far, which takes two lines. |",
        "| `near` | `0.5` | a \\| b. |",
        "|  | defaults | 7 | not known | 2.5 |",
        "| `:wide` | `far=3.0` | 7 | not known | 2.5 |",
        "- not written down",
        "    metarl check-family metarl/FirstTwin-v0",
    ]:
        assert line in text.splitlines(), line
    assert "nothing at all" not in text  # what the docstring says of the other family
    second = pages.render(pages.Options(pictures=False))["SecondTwin-v1.md"]
    assert "- **Reward**: nothing at all." in second
    assert "- v1, pays less; v0, first." in second
    assert "1 inside" not in second


def test_check_tells_what_is_not_current(twins: Path) -> None:
    with pytest.raises(SystemExit, match=r"FirstTwin\.md, SecondTwin-v1\.md, README\.md"):
        pages.main(pages.Options(check=True))
    pages.main(pages.Options(pictures=False))
    pages.main(pages.Options(check=True))
    before = (twins / "README.md").read_text()
    assert (
        "| [SecondTwin-v1](SecondTwin-v1.md) | The younger. | `[1]` | `[2]` | 7 | train, test; `beyond` |  |" in before
    )
    (twins / "Gone.md").write_text("a family of old")
    with pytest.raises(SystemExit, match=r"^Gone\.md in docs/families"):
        pages.main(pages.Options(check=True))
    (twins / "Gone.md").unlink()
    (twins / "FirstTwin.md").write_text("by hand")
    pages.main(pages.Options(check=True, only=("SecondTwin-v1",)))
    with pytest.raises(SystemExit, match=r"^FirstTwin\.md in"):
        pages.main(pages.Options(check=True))


def test_families_without_their_extra_are_left_as_they_are(
    twins: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pages.main(pages.Options(pictures=False))
    before = {path.name: path.read_text() for path in twins.iterdir()}

    def missing(id: str, **_: Any) -> Any:
        if "First" in id:
            raise MissingExtraError(id, "mujoco", "mujoco")
        return metarl.make_family(id)

    monkeypatch.setattr(pages, "make_family", missing)
    pages.main(pages.Options(pictures=False))
    assert "FirstTwin is not changed: metarl/FirstTwin-v0 needs the package mujoco" in capsys.readouterr().out
    assert {path.name: path.read_text() for path in twins.iterdir()} == before


def test_a_family_of_families_has_a_page_without_numbers(twins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def anything(family: str) -> FirstTwin:
        """Any family.

        Args:
            family: which.
        """
        raise AssertionError("is not built")

    registry.register_family("metarl/Anything-v0", anything)
    monkeypatch.setattr(anything, "__module__", "twins")
    made = pages.render(pages.Options(pictures=False))
    assert "| `family` | required | which. |" in made["Anything.md"]
    assert "| [Anything](Anything.md) | Any family. | given by keywords |" in made["README.md"]


def test_only_takes_names_that_exist(twins: Path) -> None:
    with pytest.raises(InvalidValueError, match="one of FirstTwin, SecondTwin-v1"):
        pages.render(pages.Options(only=("Twin",)))


def test_pictures_are_small_and_what_the_family_draws() -> None:
    family = metarl.make_family("metarl/DarkRoom-v0")
    pixels = pages.picture(family)
    assert pixels.shape == (256, 256, 3)
    assert (pixels == pages.picture(family)).all()
    with Image.open(io.BytesIO(pages.png(pixels))) as image:
        assert image.size == (256, 256)
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - pixels).max() < 40
    noise = np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8)
    data = pages.png(noise)
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (256, 192)
    assert len(data) < 2 * pages.LARGEST  # even noise is small


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ("floor 0.1236 of 10", True),
        ("floor 0.1246 of 10", False),
        ("floor 0.1235 of 11", False),
        ("floor 0.1235 of ten", False),
        ("floor 0.1235", False),
    ],
)
def test_pages_may_differ_in_the_last_digit_of_fractions_alone(other: str, expected: bool) -> None:
    assert pages.alike("floor 0.1235 of 10", other) is expected
    assert not pages.alike("arXiv:1611.02779", "arXiv:1611.02780")


def test_the_committed_pages_are_current() -> None:
    assert pages.stale(pages.render(pages.Options(check=True, only=QUICK)), every=False) == []
    for name in QUICK:
        with Image.open(pages.OUT / f"{name}.png") as image:
            assert image.width == 256
        assert (pages.OUT / f"{name}.png").stat().st_size < pages.LARGEST


def test_every_registered_family_has_a_page_in_the_index() -> None:
    names = {pages.page_name(id) for id in registry.families if id.startswith(pages.NAMESPACE)}
    assert set(pages.old_rows()) == names
    assert {path.stem for path in pages.OUT.glob("*.md")} == names | {"README"}
