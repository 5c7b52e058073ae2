"""Writes docs/families/ from the registry: a page, a picture and a line of the index for every built-in family.

python experiments/family_pages.py                     # write the pages and the pictures
python experiments/family_pages.py --check             # change nothing; exit with code 1 if a page is not up to date
python experiments/family_pages.py --only GridNavi     # some families; the index keeps the other lines

A page takes its sentences about observation, action, reward, start, end, task and versions from the labelled sentences
of the module's docstring, in their order. The page of a family whose optional package is missing is not changed.
Pictures of MuJoCo need a library that renders without a screen: OSMesa (Debian's libosmesa6), or EGL.
"""

from __future__ import annotations

import ctypes.util
import inspect
import io
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import tyro
from gymnasium.error import DependencyNotInstalled
from gymnasium.spaces import Box, Discrete
from PIL import Image

from metarl import Family, GymFamily, TorchFamily, make_family
from metarl.engine.torch_environments import TorchEnvironments, one_environment
from metarl.errors import InvalidValueError
from metarl.families import registry
from metarl.families.distributions import Distribution
from metarl.files import write_atomic
from metarl.report.rendering import frame
from metarl.rng import fold_in, make_key

OUT = Path(__file__).resolve().parent.parent / "docs" / "families"
NAMESPACE = "metarl/"
TASKS = 100  # references are means over these test tasks
PIXELS, LARGEST = 256, 20_000  # width of a picture; bytes of its file
OPTIMAL_STEPS, RANDOM_STEPS = 3, 15  # steps before the picture
LABELS = (
    "observation|action|reward and end|reward|transition|dynamics|start|end|task|horizon|info|success|version history"
)
LABEL = re.compile(rf"(?:^|(?<=[.;)] )|(?<=both: )|(?<=: ))({LABELS})s?: ", re.IGNORECASE)
INTRO = """# The built-in task families

Each family has a page with its spaces, task distribution, splits, reward, presets and reference returns. `ID:PRESET`
chooses a preset. How to add a family of your own: [families.md](../families.md). These pages are written by
`python experiments/family_pages.py` from the registry.

"""


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    check: bool = False
    """Whether to compare the text and not write."""
    only: tuple[str, ...] = ()
    """Names of families, for example GridNavi; all by default."""
    pictures: bool = True
    """Whether to draw new pictures."""


@dataclass(frozen=True)
class Subject:
    """A registered family: its spec, its constructor, and the family; None if it needs keywords."""

    spec: registry.FamilySpec
    build: Any
    family: Family | None

    @property
    def name(self) -> str:
        """The id without the namespace, and without the version -v0."""
        return page_name(self.spec.id)


def page_name(id: str) -> str:
    """Name of a page: `metarl/GridNavi-v0` to GridNavi, `metarl/GridNavi-v1` to GridNavi-v1."""
    return id.removeprefix(NAMESPACE).removesuffix("-v0")


def load(id: str) -> Subject | str:
    """Load a family; or return the error message if a package is missing."""
    spec = registry.families[id]
    try:
        build = spec.load()
        return Subject(spec, build, None if needs_keywords(spec, build) else make_family(id))
    except (ImportError, DependencyNotInstalled) as error:
        return str(error)


def needs_keywords(spec: registry.FamilySpec, build: Any) -> bool:
    """Whether the constructor has required keywords that the registration does not set."""
    parameters = inspect.signature(build).parameters.values()
    optional = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return any(p.default is p.empty and p.kind not in optional and p.name not in spec.kwargs for p in parameters)


# --- docstrings ------------------------------------------------------------------------------------------------------


def paragraphs(text: str | None) -> list[str]:
    """Paragraphs of a docstring, each in one line; an indented paragraph is a formula and keeps its lines."""
    blocks = re.split(r"\n\s*\n", inspect.cleandoc(text or ""))
    return [b if b.startswith("    ") else " ".join(b.split()) for b in blocks if b.strip()]


def definition(subject: Subject) -> tuple[list[str], list[str]]:
    """Take a family's definition from its module: markdown paragraphs, and the version history.

    Labelled sentences become list items. Paragraphs that start with the name of another family of the module are left
    out. The name of this family, or "Both", is removed from the start of a paragraph.
    """
    module = sys.modules[subject.build.__module__]
    own, others = set(), set()
    for id, spec in registry.families.items():
        path, _, attribute = str(spec.entry_point).partition(":")
        if path == module.__name__:
            names = {plain(attribute), plain(page_name(id))}
            own, others = (own | names, others) if id == subject.spec.id else (own, others | names)
    text, versions = list[str](), list[str]()
    for number, paragraph in enumerate(paragraphs(module.__doc__)):
        head, colon, rest = paragraph.partition(": ")
        if colon and number and plain(head) in others - own:
            continue
        if colon and number and plain(head) in own | {"both", "all"}:
            paragraph = rest[:1].upper() + rest[1:]
        first, *pairs = re.split(LABEL, paragraph)
        if first.strip():
            text.append(first.strip())
        for label, sentence in zip(pairs[::2], pairs[1::2], strict=True):
            if label.lower() == "version history":
                versions.append(sentence.strip())
            else:
                text.append(f"- **{label.capitalize()}**: {sentence.strip()}")
    return text, versions or ["not written down"]


def plain(name: str) -> str:
    """Lower-case letters and digits of a name: "Dark Key-to-Door" and DarkKeyToDoor become equal."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def summary(build: Any) -> str:
    """The first line of a docstring."""
    return next(iter(inspect.cleandoc(build.__doc__ or "").splitlines()), "")


def more(build: Any) -> list[str]:
    """Paragraphs of a docstring between its first line and its sections."""
    body = re.split(r"\n(?:Args|Attributes|Returns|Raises):\n", inspect.cleandoc(build.__doc__ or ""))[0]
    return paragraphs(body)[1:]


def keywords(build: Any, registered: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Keywords of the constructor, with their registered defaults and their meanings from the docstring."""
    text = inspect.cleandoc(build.__doc__ or "")
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)*)", text, re.MULTILINE)
    entries = re.findall(r"^    (\w+): ((?:.|\n(?!    \w+: |\S))*)", section[1] if section else "", re.MULTILINE)
    meaning = {name: " ".join(words.split()) for name, words in entries}
    for name, parameter in inspect.signature(build).parameters.items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        value = registered.get(name, parameter.default)
        default = "required" if value is parameter.empty else f"`{shown(value)}`"
        yield name, default, meaning.get(name, "")


# --- words -----------------------------------------------------------------------------------------------------------


def shown(value: Any) -> str:
    """Text of a keyword's value: JSON, as in an id, if possible."""
    try:
        return json.dumps(value)
    except TypeError:
        return repr(value)


def space_words(space: Any) -> str:
    """Describe a space."""
    if isinstance(space, Discrete):
        return f"one of {space.n}, from {space.start}"
    if not isinstance(space, Box):
        return f"`{space}`"
    shape, (low, high) = f"`{list(space.shape)}`", (float(space.low.min()), float(space.high.max()))
    if math.isinf(low) and math.isinf(high):
        return f"{shape}, unbounded"
    alike = bool((space.low == space.low.flat[0]).all() and (space.high == space.high.flat[0]).all())
    if alike or space.low.size > 8:
        return f"{shape} in [{low:g}, {high:g}]" + ("" if alike else " or less")
    ends = (", ".join(f"{x:g}" for x in end.flat) for end in (space.low, space.high))
    return f"{shape} from ({next(ends)}) to ({next(ends)})"


def distribution_words(dist: Distribution) -> str:
    """Describe a distribution."""
    values: dict[str, Any] = {name: getattr(dist, name, None) for name in ("low", "high", "mean", "std", "values")}
    kind = dist.kind.replace("_", "-")
    if kind in ("uniform", "log-uniform"):
        return f"{kind} on [{values['low']:g}, {values['high']:g})"
    if kind == "normal":
        return f"normal, mean {values['mean']:g}, standard deviation {values['std']:g}"
    if kind == "choice":
        return f"one of {len(values['values'])}: {dist.describe().removeprefix('one of ')}"
    return f"{kind}: {dist.describe()}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Make a markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def reference_cells(family: Family) -> list[str]:
    """Mean floor and informed optimum over test tasks."""
    found = family.references(family.tasks("test", TASKS))
    return [f"{found[n].mean():.4g}" if n in found else "not known" for n in ("floor", "informed_optimum")]


def split_words(family: Family) -> str:
    """Describe the splits."""
    names = ", ".join(f"`{name}`" for name in family.ood)
    return ("finite: train = test" if family.finite else "train, test") + (f"; {names}" if names else "")


# --- pages -----------------------------------------------------------------------------------------------------------


def page(subject: Subject) -> str:
    """Text of a family's page."""
    spec, family = subject.spec, subject.family
    text, versions = definition(subject)
    parts = [f"# {subject.name}", summary(subject.build)]
    if (OUT / f"{subject.name}.png").exists():
        parts.append(f"![A frame of {subject.name}]({subject.name}.png)")
    facts = [("id", f"`{spec.id}`")]
    if family is not None:
        facts += [
            ("source", family.source or "see below"),
            ("observation", space_words(family.observation_space)),
            ("action", space_words(family.action_space)),
            ("horizon", f"{family.horizon} step{'s' * (family.horizon > 1)}"),
            ("can end earlier", "yes" if family.terminates else "no"),
            ("splits", split_words(family)),
            ("form", "Gymnasium environment" if isinstance(family, GymFamily) else form_words(family)),
        ]
    if spec.requires:
        facts.append(("needs", f"`pip install -e '.[{spec.requires}]'`"))
    parts += [table(["", ""], facts), "## Definition", *joined(text), *more(subject.build)]
    if family is not None:
        parts += ["## Tasks", *task_tables(subject, family)]
    if rows := list(keywords(subject.build, subject.spec.kwargs)):
        parts += ["## Keywords", table(["keyword", "default", "meaning"], [(f"`{n}`", d, m) for n, d, m in rows])]
    if family is not None:
        parts += ["## Presets and reference returns", reference_table(subject), REFERENCES]
    parts += ["## Version history", *(f"- {v}" for v in versions), "## Try it", commands(subject)]
    return "\n\n".join(parts) + "\n"


REFERENCES = (
    f"Expected undiscounted return of one episode, mean over test tasks 0, ..., {TASKS - 1}: of uniformly random "
    "actions (floor), and the best when the task is known (informed optimum); exact where a number is given."
)


def form_words(family: Family) -> str:
    """Describe where a torch family runs."""
    return "batched, on the CPU" if getattr(family, "on_host", False) else "batched torch functions, CPU or GPU"


def joined(text: Sequence[str]) -> list[str]:
    """Paragraphs; adjacent list items become one paragraph."""
    out: list[str] = []
    for part in text:
        if out and out[-1].startswith("- **") and part.startswith("- **"):
            out[-1] += f"\n{part}"
        else:
            out.append(part)
    return out


def task_tables(subject: Subject, family: Family) -> list[str]:
    """Task tables of the default and of the presets with other tasks."""
    tables, presets = [task_table(family)], getattr(subject.build, "presets", {})
    for preset in presets:
        other = task_table(make_family(f"{subject.spec.id}:{preset}"))
        if other not in tables:
            tables += [f"With `:{preset}`:", other]
    return tables


def task_table(family: Family) -> str:
    """Table of each parameter's distribution, in training and in each out-of-distribution split."""
    rows, draws = [], type(family).tasks_at is not Family.tasks_at  # own tasks instead of the declared distribution
    for name, dist in family.task_space.items():
        shape = f"`{list(dist.shape)}`" if dist.shape else "a number"
        ood = [distribution_words(space[name]) if name in space else "as in training" for space in family.ood.values()]
        rows.append([f"`{name}`", shape, "see Task above" if draws else distribution_words(dist), *ood])
    return table(["parameter", "shape", "train and test", *(f"split `{n}`" for n in family.ood)], rows)


def reference_table(subject: Subject) -> str:
    """Table of the default and the presets: keywords, horizon and references."""
    rows = []
    presets = {"": {}, **getattr(subject.build, "presets", {})}
    for preset, keyword_values in presets.items():
        family = subject.family if not preset else make_family(f"{subject.spec.id}:{preset}")
        assert family is not None
        words = ", ".join(f"`{k}={shown(v)}`" for k, v in keyword_values.items()) or "defaults"
        rows.append([f"`:{preset}`" if preset else "", words, str(family.horizon), *reference_cells(family)])
    return table(["preset", "keywords", "horizon", "floor", "informed optimum"], rows)


def commands(subject: Subject) -> str:
    """Example commands."""
    id = subject.spec.id
    if subject.family is None:
        return f"    metarl check-family '{id}{{...keywords as JSON...}}'"
    return f"    metarl check-family {id}\n    metarl watch random --family {id} --out {subject.name}.gif"


def row(subject: Subject) -> str:
    """Line of a family in the index."""
    name, family = subject.name, subject.family
    image = f'<img src="{name}.png" width="96" alt="">' if (OUT / f"{name}.png").exists() else ""
    cells = [image, f"[{name}]({name}.md)", summary(subject.build)]
    if family is None:
        cells += ["given by keywords"] * 4
    else:
        action = family.action_space
        actions = str(action.n) if isinstance(action, Discrete) else f"`{list(action.shape or ())}`"
        observation = f"`{list(family.observation_space.shape or ())}`"
        cells += [observation, actions, str(family.horizon), split_words(family)]
    cells.append(f"`{subject.spec.requires}`" if subject.spec.requires else "")
    return table(cells, []).splitlines()[0]


def index(rows: dict[str, str]) -> str:
    """Text of README.md, from the lines by name."""
    head = table(["", "family", "what", "observation", "actions", "horizon", "splits", "extra"], [])
    return INTRO + "\n".join([head, *(rows[name] for name in sorted(rows))]) + "\n"


def old_rows() -> dict[str, str]:
    """Present lines of the index, by name."""
    text = (OUT / "README.md").read_text() if (OUT / "README.md").exists() else ""
    return {m[1]: m[0] for m in re.finditer(r"^\|[^|\n]*\| \[([^\]]+)\]\(.*$", text, re.MULTILINE)}


# --- pictures --------------------------------------------------------------------------------------------------------


def picture(family: Family) -> npt.NDArray[np.uint8]:
    """Picture of test task 0 after some optimal actions, or random actions if the optimal ones are unknown."""
    draws, tasks = np.random.default_rng(0), family.tasks("test", 1)
    if isinstance(family, GymFamily):
        with closing(family.visible().make_env(tasks)) as env:
            env.reset(seed=0)
            env.action_space.seed(0)
            for _ in range(RANDOM_STEPS):
                if any(env.step(env.action_space.sample())[2:4]):
                    env.reset(seed=0)
            return np.asarray(env.render(), dtype=np.uint8)
    assert isinstance(family, TorchFamily)
    envs = TorchEnvironments(family, 1, torch.device("cpu"))
    envs.begin(tasks, fold_in(make_key(0), torch.arange(1)), RANDOM_STEPS)
    kept = one_environment(envs.state), one_environment(envs.task)
    for _ in range(min(family.horizon - 1, OPTIMAL_STEPS if family.has_optimal_action else RANDOM_STEPS)):
        if family.has_optimal_action:
            action = family.optimal_action(envs.state, envs.task, envs.t)
        else:
            action = torch.as_tensor(random_action(family.action_space, draws))[None]
        if envs.advance(action)[0].terminated.item():
            break
        kept = one_environment(envs.state), one_environment(envs.task)
    return frame(family, *kept, (PIXELS, PIXELS))


def random_action(space: Any, draws: np.random.Generator) -> Any:
    """Draw a uniform action, or a normal one if a box has no bounds."""
    if isinstance(space, Discrete):
        return np.int64(draws.integers(space.n))
    drawn = draws.uniform(space.low, space.high) if space.is_bounded() else draws.normal(size=space.shape)
    return drawn.astype(np.float32)


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """PNG file of at most 256 pixels width, with as many colours as `LARGEST` allows."""
    image = Image.fromarray(pixels)
    image.thumbnail((PIXELS, PIXELS))
    for colours in (128, 64, 32, 16, 8):
        buffer = io.BytesIO()
        image.quantize(colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        if buffer.tell() < LARGEST:
            break
    return buffer.getvalue()


# --- command ---------------------------------------------------------------------------------------------------------


def render(options: Options, say: Callable[[str], object] = print) -> dict[str, str]:
    """Text of every page that can be made, by file name. Writes new pictures first, unless it is a check."""
    ids = sorted(id for id in registry.families if id.startswith(NAMESPACE))
    names = [page_name(id) for id in ids]
    for name in options.only:
        if name not in names:
            raise InvalidValueError("family", name, f"one of {', '.join(names)}")
    rows = {name: line for name, line in old_rows().items() if name in names}
    pages: dict[str, str] = {}
    for id, name in zip(ids, names, strict=True):
        if options.only and name not in options.only:
            continue
        subject = load(id)
        if isinstance(subject, str):
            say(f"{name} is not changed: {subject}")
            continue
        if options.pictures and not options.check and subject.family is not None:
            try:
                write_atomic(OUT / f"{name}.png", png(picture(subject.family)))
            except Exception as error:  # for example, the machine cannot render
                say(f"{name} has no new picture: {type(error).__name__}: {error}")
        rows[name], pages[f"{name}.md"] = row(subject), page(subject)
    return pages | {"README.md": index(rows)}


FRACTION = re.compile(r"(?<!arXiv:)-?\b\d+\.\d+(?:e[+-]\d+)?")


def alike(a: str, b: str) -> bool:
    """Whether two pages are equal, except for the last of four digits, which processors may round differently."""
    numbers = [[float(found) for found in FRACTION.findall(text)] for text in (a, b)]
    return FRACTION.sub("#", a) == FRACTION.sub("#", b) and np.allclose(*numbers, rtol=2e-3, atol=0.0)


def stale(pages: dict[str, str], every: bool) -> list[str]:
    """Names of files that are not up to date; with `every`, also pages of families that no longer exist."""
    found = [
        name for name, text in pages.items() if not (OUT / name).exists() or not alike((OUT / name).read_text(), text)
    ]
    known = {f"{page_name(id)}.md" for id in registry.families} | {"README.md"}
    gone = [path.name for path in sorted(OUT.glob("*.md")) if path.name not in known]
    return found + (gone if every else [])


def main(options: Options) -> None:
    """Write the pages, or compare them."""
    if options.pictures and not options.check:  # before the import of MuJoCo, which otherwise needs a screen
        os.environ.setdefault("MUJOCO_GL", "osmesa" if ctypes.util.find_library("OSMesa") else "egl")
    pages = render(options)
    if not options.check:
        for name, text in pages.items():
            write_atomic(OUT / name, text.encode())
    elif differing := stale(pages, every=not options.only):
        sys.exit(f"{', '.join(differing)} in docs/families: not what experiments/family_pages.py writes: run it")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
