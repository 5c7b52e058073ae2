"""Makes the tables, captions and figures of README and docs from results files.

python experiments/make_tables.py            # rewrite the pages between their markers, pictures in docs/, and cards
python experiments/make_tables.py --check    # change nothing; exit with code 1 if a page is not up to date
"""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import benchmark_inner_steps
import benchmark_runner
import gradient_bias
import interval_coverage
import online_streams
import tyro
from results_files import STUDIES, results_file, row_file
from tables import inference, navigation, robots, speed, strategies, trials
from tables.text import table

from metarl.benchmark.card import CARD, card
from metarl.benchmark.rows import RESULTS, is_reproducible
from metarl.evaluation.results import Results
from metarl.families import registry
from metarl.files import write_atomic
from metarl.report.figures.belief import belief_figure, probe_figure
from metarl.report.figures.transfer import draw_transfer
from metarl.report.figures.trial import trial_figure
from metarl.report.page import adaptation_figure, save_figure
from metarl.report.transfer import transfers

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    check: bool = False
    """Whether to compare and not write."""


def agents() -> str:
    """Table of the built-in agents, from the registry."""
    rows = []
    for name in sorted(registry.agents):
        cls = registry.agent_class(name)
        doc = (cls.__doc__ or "").strip().splitlines()[0]
        module = cls.__module__
        folder = module.removeprefix("metarl.") if module.startswith("metarl.agents.") else module
        file = folder.replace(".", "/") + ".py"
        rows.append([f"`{name}`", doc, "yes" if cls.learns else "no", f"`{file}`"])
    return table(["name", "what", "meta-trained", "file"], rows, "---")


def bias_report() -> dict[str, Any]:
    """Results of experiments/gradient_bias.py."""
    return dict(json.loads(gradient_bias.OUT.read_text()))


def gradients() -> str:
    """Table of the inner estimators, compared with the exact meta-gradient."""
    report = bias_report()
    horizons, sizes = report["options"]["horizons"][::2], report["options"]["trajectories"][::2]
    columns = [("limit", h, "relative_error", f"error, horizon {h}", ".1%") for h in horizons]
    columns += [("sampled", n, "cosine", f"cosine, N = {n}", ".3f") for n in sizes]
    columns += [("sampled", n, "deviation", f"deviation, N = {n}", ".0%") for n in sizes]
    rows = [
        [
            label,
            *(f"{gradient_bias.mean_of(report, part, at, method, what):{form}}" for part, at, what, _, form in columns),
        ]
        for method, label in gradient_bias.LABELS.items()
    ]
    return gradient_bias.caption(report) + "\n\n" + table(["", *(head for _, _, _, head, _ in columns)], rows)


def inner_steps() -> str:
    """Table of memory and time against the number of inner steps."""
    return benchmark_inner_steps.inner_steps_table(speed.report("inner_steps"))


def coverage() -> str:
    """Table of the shares of intervals that contain the true value."""
    return interval_coverage.coverage_table(json.loads(interval_coverage.OUT.read_text()))


def scores_only() -> str:
    """The published rows of trained agents whose weights were not kept, and the streams."""
    found = []
    for study, given in STUDIES.items():
        for name, entry in given.entries.items():
            trained = entry.iterations or entry.runs_of
            if trained and row_file(study, name).exists() and not is_reproducible(row_file(study, name).parent):
                found.append(f"`{study}/{name}`")
    rows = f"Rows that are scores only: {', '.join(found)}." if found else "All trained rows have their weights."
    files = sorted(results_file("online", "any").parent.glob("*.json"))
    streams = ", ".join(f"`{path.parent.name}/{path.name}`" for path in files)
    if not files:
        return rows
    return (
        f"{rows}\n\nThe streams of [Meta-train online](online.md) belong to no suite, and no weights of them are kept. "
        f"They are scores only: {streams}. `python experiments/online_streams.py` plays them again."
    )


PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"papers": navigation.beside_the_papers},
    "docs/papers.md": {
        "picture": navigation.picture,
        "navigation": navigation.paper_protocol,
        "trials": trials.summary,
    },
    "docs/speed.md": {
        "summary": speed.summary,
        "speed": speed.tables,
        "inference": speed.inference,
        "evaluation": speed.evaluation,
        "runner": lambda: benchmark_runner.words_of(json.loads(benchmark_runner.OUT.read_text())),
    },
    "docs/built_in_agents.md": {"agents": agents},
    "docs/gradients.md": {"gradient_bias": gradients, "inner_steps": inner_steps},
    "docs/numbers.md": {"coverage": coverage},
    "docs/trials.md": {
        "bandits": trials.bandits,
        "bandit_variants": trials.bandit_variants,
        "mdps": trials.mdps,
        "grid_navi": trials.grid_navi,
        "dark_room": lambda: trials.dark("grids/dark_room-n8", "DarkRoom"),
        "dark_key_to_door": lambda: trials.dark("grids/dark_key_to_door-n8", "DarkKeyToDoor"),
        "mini_grid": trials.mazes,
        "first_explore": trials.first_explore,
        "settings": trials.settings,
    },
    "docs/strategies.md": {
        "selection": strategies.selection,
        "mixtures": strategies.mixtures,
        "transfer": strategies.transfer,
        "models": strategies.model_based,
        "applications": strategies.applications,
    },
    "docs/inference.md": {
        "beliefs": inference.beliefs,
        "hard_tasks": inference.hard_tasks,
        "inference": inference.inference,
        "few_shot": inference.few_shot,
    },
    "docs/how-to/reproduce.md": {"scores only": scores_only},
    "docs/how-to/online.md": {"online": online_streams.tables},
    "docs/results.md": {
        "dense": lambda: navigation.comparison("dense"),
        "dense from scratch": lambda: navigation.from_scratch("dense"),
        "sparse": lambda: navigation.comparison("sparse"),
        "sparse from scratch": lambda: navigation.from_scratch("sparse"),
        "control": strategies.control,
        "from scratch": robots.yardstick_table,
        "robots": robots.robot_table,
    },
}


def render(page: str, text: str) -> str:
    """Replace the generated parts of a page's text."""
    for name, make in PAGES[page].items():
        start = f"<!-- generated by experiments/make_tables.py: {name} -->"
        pattern = re.compile(re.escape(start) + r".*?<!-- end -->", re.DOTALL)
        assert pattern.search(text), f"{page} has no part {name!r}"
        text = pattern.sub(functools.partial(_replacement, f"{start}\n{make()}\n<!-- end -->"), text)
    return text


def _replacement(text: str, match: re.Match[str]) -> str:
    return text


def main(options: Options) -> None:
    """Write the pages and figures, or compare the pages."""
    before = {page: (ROOT / page).read_text() for page in PAGES}
    after = {page: render(page, text) for page, text in before.items()}
    for path in sorted((ROOT / "experiments" / "results").rglob(CARD)):
        name = str(path.relative_to(ROOT))
        before[name], after[name] = path.read_text(), card(Results.load(path.parent / RESULTS))
    if options.check:
        if stale := [page for page in before if before[page] != after[page]]:
            sys.exit(f"{', '.join(stale)} differs from what experiments/make_tables.py writes: run it")
        return
    found = [navigation.navigation_results(name) for name in ("paper/steps2", "dense/scratch", "dense/oracle")]
    save_figure(adaptation_figure(found), ROOT / "docs" / "adaptation.png")
    save_figure(gradient_bias.figure(bias_report()), ROOT / "docs" / "gradient_bias.png")
    figure = benchmark_inner_steps.inner_steps_figure(speed.report("inner_steps"))
    save_figure(figure, ROOT / "docs" / "inner_steps.png")
    save_figure(strategies.selection_figure(), ROOT / "docs" / "selection.png")
    names = ("mixture", "clustered", "maml", "cavia", "oracle")
    found = [Results.load(row_file("strategies/corners", name)) for name in names]
    save_figure(adaptation_figure(found, ["k"]), ROOT / "docs" / "mixtures.png")
    for study, name in inference.BELIEFS.items():
        if (figure := belief_figure(inference.believers(study))) is not None:
            save_figure(figure, ROOT / "docs" / f"{name}.png")
    if (figure := probe_figure(inference.believers("navigation/semicircle-n3"))) is not None:
        save_figure(figure, ROOT / "docs" / "probe.png")
    for matrix in transfers([Results.load(file) for file in strategies.transfer_files()]):
        save_figure(draw_transfer(matrix), ROOT / "docs" / "transfer.png")
    save_figure(robots.robot_figure(robots.robot_results()), ROOT / "docs" / "robots.png")
    save_figure(robots.yardstick_figure(), ROOT / "docs" / "robots_from_scratch.png")
    for name, (study, rows) in trials.FIGURES.items():
        found = [Results.load(row_file(study, row)) for row in rows if trials.lifetime(study, row)]
        save_figure(trial_figure(found), ROOT / "docs" / f"{name}.png")
    for study in strategies.MODELS:
        if (figure := strategies.model_figure(study)) is not None:
            save_figure(figure, ROOT / "docs" / f"{study.partition('/')[2].replace('-', '_')}.png")
    for kind in online_streams.KINDS:
        save_figure(online_streams.figure_of(kind), ROOT / "docs" / f"online_{kind}.png")
    for page, text in after.items():
        write_atomic(ROOT / page, text.encode())


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
