"""The documentation's pages: their code runs as printed, their commands parse, the navigation has all of them."""

from __future__ import annotations

import importlib
import pkgutil
import re
import runpy
import shlex
import shutil
import tempfile
from dataclasses import fields
from inspect import get_annotations
from pathlib import Path
from typing import Any

import pytest
import tyro

import metarl
import metarl.agent
from metarl.cli.main import main
from metarl.families.registry import agent_class, agents

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
OPEN_A_RUN = ("tutorials/loop.md", "how-to/resume.md", "run_directory.md")  # pages that begin with runs/nav0
ELSEWHERE = ("# my_package/", "# pyproject.toml")  # how a block begins that belongs into a file of its own
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md") if "```python" in path.read_text())
PAGES.remove("agents.md")  # has a test of its own


def blocks(page: str) -> list[str]:
    """The Python code of a page, in order."""
    found = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    return [block for block in found if not block.startswith(ELSEWHERE)]


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the tutorials' agent, trained for two short iterations and evaluated."""
    path = tmp_path_factory.mktemp("docs") / "nav0"
    sizes = {"meta_batch_size": 2, "episodes": 2, "hidden": (8,), "eval_steps": 200}
    agent = metarl.make_agent("maml", "metarl/PointNavigation-v0", **sizes)
    metarl.Run.create(path, agent, iterations=2).train(agent)
    metarl.evaluate(agent, k=1, num_tasks=2, episodes=2).save(path / "results" / "test.json")
    return path


def run_page(page: str) -> dict[str, object]:
    """Execute a page's code in one namespace; what it defined."""
    namespace: dict[str, object] = {"__name__": "docs"}
    for block in blocks(page):
        exec(compile(block, page, "exec", dont_inherit=True), namespace)
    return namespace


@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_as_printed(
    page: str, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scratch_registry: object
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # Stable-Baselines3 logs there
    if page in OPEN_A_RUN:
        shutil.copytree(small_run, tmp_path / "runs" / "nav0")
    run_page(page)


def test_the_agents_of_the_tutorial_learn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scratch_registry: object
) -> None:
    """Ten pulls of five arms: random play is paid 5; greedy on the posterior mean 6.6 in Duan et al. 2016."""
    monkeypatch.chdir(tmp_path)
    trained = run_page("agents.md")["results"]
    assert isinstance(trained, metarl.Results)
    agent = metarl.make_agent("repeat_best", "metarl/BernoulliBandit-v0")
    untrained = metarl.evaluate(agent, k=10, num_tasks=2000, episodes=1)
    means = [results.lifetime.mean() for results in (trained, untrained)]
    assert means[0] > 5.88  # 20 seeds: mean 6.159, deviation .069, of which this is four below
    assert 6.3 < means[1] < 6.7


@pytest.mark.parametrize("name", ["mine/CartPole-v0", "mine/HeavyCartPole-v0"])
def test_environments_of_the_how_to_keep_the_contract(name: str, scratch_registry: object) -> None:
    run_page("how-to/environments.md")
    assert metarl.check_family(name) == []


class Parsed(Exception):
    """A command's options were understood."""


def commands() -> list[list[str]]:
    """The lines of README and the pages, and the code in the log, that are a command of metarl: its arguments."""
    log = (ROOT / "experiments" / "LOG.md").read_text()
    logged = [part for code in re.findall(r"`(metarl [^`]*)`", log) for part in code.split(";")]
    found = [shlex.split(part)[1:] for part in logged if " --" in part]
    for page in (ROOT / "README.md", *DOCS.rglob("*.md")):
        text = page.read_text()
        lines = re.findall(r"^ {4}metarl (.*)$", text, re.MULTILINE)
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
            lines += re.findall(r"^metarl (.*)$", block, re.MULTILINE)
        found += [shlex.split(line, comments=True) for line in lines]
    return found


def test_commands_in_the_pages_are_understood(monkeypatch: pytest.MonkeyPatch, scratch_registry: object) -> None:
    for page in ("families.md", "agents.md", "gradients.md"):
        registering = [block for block in blocks(page) if "metarl.register_" in block]
        exec(compile("\n".join(registering), page, "exec", dont_inherit=True), {"__name__": "docs"})
    understand = tyro.cli

    def parse(*args: Any, **kwargs: Any) -> None:
        understand(*args, **kwargs)
        raise Parsed

    monkeypatch.setattr(tyro, "cli", parse)
    found = commands()
    assert len(found) > 100
    for arguments in found:
        if "--load" in arguments:
            at = arguments.index("--load")
            arguments = arguments[:at] + arguments[at + 2 :]
        with pytest.raises(Parsed):
            main(arguments)


def test_tutorials_are_among_the_pages_that_run() -> None:
    assert {"tutorials/train.md", "tutorials/loop.md", "families.md", "gradients.md"} <= set(PAGES)


def test_the_places_of_the_architecture_are_there() -> None:
    page = (DOCS / "architecture.md").read_text()
    table = page.partition("## Where is ...?")[2].partition("\n## ")[0]
    for path in re.findall(r"`([\w/]+\.py)`", table):
        assert (ROOT / path).exists(), path
    places = re.findall(r"((?:`[\w.]+`(?: and | in )){1,3})`([\w/]+\.py)`", table)
    assert len(places) > 20
    for names, path in places:
        for name in re.findall(r"`([\w.]+)`", names):
            owner, _, own = name.rpartition(".")
            module = importlib.import_module(re.sub(r"^(envs|agents)/", r"metarl/\1/", path)[:-3].replace("/", "."))
            found = getattr(module, owner) if owner else module
            known = hasattr(found, own) or own in getattr(found, "__annotations__", {})
            assert known, f"{path}: {name}"


def test_the_navigation_has_every_page() -> None:
    """The hook in docs/hooks.py adds the families' pages, which are not listed one by one."""
    listed = set(re.findall(r"[\w/-]+\.md$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    families = {page for page in pages if page.startswith("families/")}
    assert listed - {"families/README.md"} == pages - families


def test_the_reference_names_all_that_authors_import() -> None:
    page = (DOCS / "reference" / "agents.md").read_text()
    named = set(re.findall(r"`(\w+)`", page)) | set(re.findall(r"^::: metarl\.(?:agent\.)?(\w+)$", page, re.MULTILINE))
    assert set(metarl.agent.__all__) - {"AgentState"} <= named
    assert "metarl.agent.AgentState" in page


@pytest.mark.parametrize("name", sorted(agents))
def test_the_reference_shows_inherited_hyperparameters(name: str) -> None:
    cls, page = agent_class(name), (DOCS / "reference" / "built_in_agents.md").read_text()
    folder = cls.__module__.rpartition(".")[0]
    section = page.partition(f"::: {folder}\n")[2].partition(":::")[0]
    shown = set(re.findall(r"\w+", section.partition("inherited_members:")[2]))
    inherited = {field.name for field in fields(cls.Config)} - set(get_annotations(cls.Config))
    assert inherited <= shown


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")):
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_tables_of_options_are_those_of_the_command_line() -> None:
    hooks = runpy.run_path(str(DOCS / "hooks.py"))
    table = hooks["on_page_markdown"]("before\n<!-- options: TrainOptions -->\nafter").splitlines()
    assert (table[0], table[-1]) == ("before", "after")
    assert "| `--checkpoint-every` | `10` | Iterations between checkpoints. |" in table
    assert "| `--horizon` |  | With --env: steps per episode; by default the environment's time limit. |" in table
    assert "\n| `RUN` |  | Run directory" in hooks["options_table"]("WatchOptions")
    assert "\n| `--k` | `3` | Adaptation steps" in hooks["options_table"]("EvalOptions")
    assert "\n| `--out` | `report` | Directory" in hooks["options_table"]("ReportOptions")
    with pytest.raises(LookupError, match="no class Missing"):
        hooks["options_table"]("Missing")


def test_the_reference_names_what_there_is() -> None:
    """`mkdocs build` alone would tell otherwise, when all else is done."""
    named = [re.findall(r"^::: (\S+)", page.read_text(), re.MULTILINE) for page in (DOCS / "reference").glob("*.md")]
    names = [name for found in named for name in found]
    assert len(names) > 50
    for name in names:
        pkgutil.resolve_name(name)


def test_the_suite_of_the_tutorial_is_one_that_the_command_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_suite.py").write_text(blocks("tutorials/benchmark.md")[0])
    main(["benchmark", "my_suite.py", "--dry-run"])
    said = capsys.readouterr().out
    assert "0/10  train navigation/maml/seed2, 400,000 env steps" in said
    assert "0 of 6 cells are done" in said
