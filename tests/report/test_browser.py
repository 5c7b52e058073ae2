"""The page in a browser: what its script does, and what fits a wide screen, a phone and dark mode.

Needs `pip install -e '.[browser]'` and Chromium, from the system or by `playwright install chromium`. Screenshots are
in the folder that pytest gives the test; `--basetemp FOLDER` keeps them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_results import bandit, make_results, page, scored

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra browser (pip install -e '.[browser]')")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium of the system, else that of Playwright."""
    own = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_api.sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(executable_path=own, args=["--no-sandbox"])
        except sync_api.Error as error:
            pytest.skip(f"Chromium does not start: {str(error).splitlines()[0]}")
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with curves of training, a bandit, and a gap between splits."""
    curves = {"return_0": [1.0, 2.0, 3.0], "return_1": [2.0, 4.0, 8.0]}
    learned = {"training_curves": [curves, curves], "train_env_steps": [3000, 3000], "iterations": 3}
    maml = make_results("maml")
    maml.meta |= learned
    out = tmp_path_factory.mktemp("page")
    gap = [scored(-20.0, -13.0), scored(-18.0, -12.0, split="train")]
    page([maml, make_results("random"), bandit("ucb1"), *gap], out)
    return out / "report.html"


@pytest.mark.parametrize("width", [400, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_the_screen_and_its_colours(
    browser: Any, report: Path, tmp_path: Path, width: int, scheme: str
) -> None:
    opened = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    asked: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(report.as_uri())
    opened.screenshot(path=tmp_path / f"{scheme}-{width}.png", full_page=True)
    assert (said, asked) == ([], [report.as_uri()])
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    cut = "[...document.querySelectorAll('table')].filter(t => getComputedStyle(t.parentElement).overflowX != 'auto')"
    assert opened.evaluate(f"{cut}.length") == 0
    light = "getComputedStyle(document.querySelector({!r}))[{!r}].match(/[0-9.]+/g).slice(0, 3).map(Number)"
    paper, ink = (sum(opened.evaluate(light.format("body", part))) / 3 for part in ("backgroundColor", "color"))
    assert (paper > 200 and ink < 100) if scheme == "light" else (paper < 60 and ink > 180)
    figures = sum(opened.evaluate(light.format("figure svg text, figure svg g[id^=text]", "color"))) / 3
    assert abs(figures - ink) < 90, "a figure's words do not have the colour of the page's"
    opened.close()


def test_a_click_on_a_head_sorts_the_table_and_the_third_one_restores_it(browser: Any, report: Path) -> None:
    opened = browser.new_page()
    opened.goto(report.as_uri())
    names = "[...document.querySelector('table.sortable').tBodies[0].rows].map(row => row.cells[0].textContent.trim())"
    given = opened.evaluate(names)
    head = opened.locator("table.sortable").first.locator("th button").first
    seen = []
    for _ in range(3):
        head.click()
        seen.append(opened.evaluate(names))
    assert seen == [sorted(given), sorted(given, reverse=True), given]
    opened.close()


def test_a_name_in_the_legend_picks_the_agent_out_in_the_figures(browser: Any, report: Path) -> None:
    opened = browser.new_page()
    opened.goto(report.as_uri())
    opened.locator(".legend button").first.click()
    on = "[...document.querySelectorAll('.row.dimmed [data-agent].on')].map(part => part.dataset.agent)"
    assert set(opened.evaluate(on)) == {"0"}
    opened.close()
