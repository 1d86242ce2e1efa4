"""The report in a browser, without a network: nothing overlaps, nothing complains, and it can be read by all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.pictures import picture
from thirdshift.flows.report.page import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTHS = (1280, 390)
GRAVE = {"moderate", "serious", "critical"}

OVERLAPS = """() => {
  const shown = (e) => e.getClientRects().length > 0;
  const box = (e) => e.getBoundingClientRect();
  const meet = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
                      && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
  const found = [];
  const among = (elements) => {
    for (let i = 0; i < elements.length; i++)
      for (let j = i + 1; j < elements.length; j++)
        if (meet(box(elements[i]), box(elements[j])))
          found.push(elements[i].textContent.trim().slice(0, 40) + " | " + elements[j].textContent.trim().slice(0, 40));
  };
  for (const parent of document.querySelectorAll("body, header, main, section, dl, .pairs > div, .tiles, figure, tr"))
    among([...parent.children].filter((e) => shown(e) && !e.matches(".skip")));
  for (const svg of document.querySelectorAll("svg")) if (shown(svg)) among([...svg.querySelectorAll("text")]);
  return found;
}"""
"""What lies over what, among siblings and among the words of a figure."""

BEYOND = """() => [...document.querySelectorAll("body *")]
  .filter((e) => e.getClientRects().length && !e.closest(".table, pre, .skip, svg g"))
  .filter((e) => e.getBoundingClientRect().right > window.innerWidth + 1)
  .map((e) => e.tagName + " " + e.textContent.trim().slice(0, 40))"""
CUT = """() => [...document.querySelectorAll("svg")].filter((e) => e.getClientRects().length).flatMap((svg) => {
  const room = svg.getBoundingClientRect();
  return [...svg.querySelectorAll("text")].filter((text) => {
    const box = text.getBoundingClientRect();
    return box.left < room.left - 1 || box.right > room.right + 1 || box.top < room.top - 1 || box.bottom > room.bottom + 1;
  }).map((text) => text.textContent);
})"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM, "no Chromium on the path; install it to run make test-ui"
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def report(demo_night: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("report") / "demo.html"
    write_report("demo", place, demo_night / "warehouse.duckdb", texts=True)
    return place


def opened(browser: Browser, report: Path, width: int, scheme: Any = "light") -> tuple[Page, list[str]]:
    """The page, and what it complained of or asked of others."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    page = context.new_page()
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on(
        "request", lambda request: messages.append(request.url) if request.url != report.as_uri() else None
    )
    page.goto(report.as_uri())
    return page, [text for text in messages if not text.startswith("data:")]


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_overlaps_or_is_cut(browser: Browser, report: Path, width: int) -> None:
    page, said = opened(browser, report, width)
    assert page.evaluate(OVERLAPS) == []
    assert page.evaluate(BEYOND) == []
    assert page.evaluate(CUT) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert said == []
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_axe_finds_nothing(browser: Browser, report: Path, width: int, scheme: str) -> None:
    page, _ = opened(browser, report, width, scheme)
    found = Axe().run(page)
    grave = [
        f"{v['id']}: {v['nodes'][0]['html']}" for v in found.response["violations"] if v["impact"] in GRAVE
    ]
    assert grave == []
    page.context.close()


def test_light_and_dark_differ_and_the_figures_follow(browser: Browser, report: Path) -> None:
    colours = []
    for scheme in ("light", "dark"):
        page, _ = opened(browser, report, 1280, scheme)
        script = "(e) => [getComputedStyle(document.body).backgroundColor, getComputedStyle(e).fill]"
        colours.append(page.locator("svg text").first.evaluate(script))
        page.context.close()
    assert colours[0][0] != colours[1][0]
    assert colours[0][1] != colours[1][1]


def test_the_keyboard_reaches_contents_and_wide_tables(browser: Browser, report: Path) -> None:
    page, _ = opened(browser, report, 390)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.localName") == "summary"  # of the first drawing's SQL
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "table"
    page.context.close()


def test_no_table_is_wider_than_its_page(browser: Browser, report: Path) -> None:
    """On a phone a row is a few lines, each figure with its name; nothing has to be pushed aside to be read."""
    for width in (*WIDTHS, 768):
        page, _ = opened(browser, report, width)
        script = (
            "[...document.querySelectorAll('.table')].filter((e) => e.scrollWidth > e.clientWidth + 1).length"
        )
        assert page.evaluate(script) == 0
        page.context.close()


def test_a_figures_sql_is_one_click_away_and_an_id_is_chosen_by_one(browser: Browser, report: Path) -> None:
    page, _ = opened(browser, report, 390)
    hidden = page.get_by_label("SQL that gives: Cost of the whole batch")
    assert not hidden.is_visible()
    page.get_by_text("that gives: Cost of the whole batch").locator("xpath=..").click()
    assert hidden.is_visible()
    page.locator("h1 .whole").click()
    assert page.evaluate("getSelection().toString()") == "demo"
    page.context.close()


def test_what_it_cost_is_told_beside_every_endpoint_alone(browser: Browser, report: Path) -> None:
    page, _ = opened(browser, report, 900)
    cost = page.locator("figure", has_text="This run against every endpoint alone")
    assert cost.is_visible()
    picture(cost, "cost")
    page.context.close()


def test_on_paper_it_is_the_wide_page_without_its_links(browser: Browser, report: Path) -> None:
    page, _ = opened(browser, report, 1280)
    page.emulate_media(media="print")
    assert page.locator(".wide").first.is_visible()
    assert not page.locator("nav").is_visible()
    page.context.close()
