"""The site in a real browser: headless Chromium, at two widths, light and dark.

It is skipped where there is no Chromium (`apt-get install chromium`, or its path in
``JUXTABIT_CHROMIUM``), or no playwright to drive it.
"""

import os
import shutil
from contextlib import contextmanager
from itertools import product

import pytest

from benchmarks.docs.claims import Claim
from benchmarks.leaderboard.site import write

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTHS = (1280, 390)
SCHEMES = ("light", "dark")
PAGES = (
    "index.html", "groups.html", "table.html", "pareto.html", "frameworks.html",
    "frameworks/close.html", "published.html", "about.html", "data.html",
)  # fmt: skip
DARK = ("index.html", "table.html", "pareto.html", "frameworks/close.html")
"""Pages with colours of their own, which are looked at in the dark, too."""
SERIOUS = {"serious", "critical"}
QUIET = {"preload": False, "resultTypes": ["violations"]}
"""Without requests, which the site's own policy refuses."""


@pytest.fixture(scope="module")
def chromium():
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = os.environ.get("JUXTABIT_CHROMIUM") or next(
        filter(None, map(shutil.which, NAMES)), None
    )
    if not found:
        pytest.skip("no Chromium: apt-get install chromium")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, records):
    """A site, as files, with a hostile name in it."""
    place = tmp_path_factory.mktemp("board")
    hostile = records.seeds("<script>document.title='taken'</script>", 88.0, like=3)
    claim = Claim("close", "advantage", "it is <b>fast</b>", "a paper", "verified")
    write(records.site_of(records.field() + hostile, claims=[claim]), place)
    return place


@contextmanager
def opened(chromium, folder, path, width=1280, scheme="light"):
    """A page of the site; what it says on the console is a failure."""
    context = chromium.new_context(viewport={"width": width, "height": 860}, color_scheme=scheme)
    page = context.new_page()
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(f"{folder.as_uri()}/{path}")
    yield page
    assert said == []
    context.close()


@pytest.mark.parametrize("path", PAGES)
def test_pages_fit_and_are_accessible(chromium, folder, path):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with opened(chromium, folder, path) as page:
        for width, scheme in product(WIDTHS, SCHEMES):
            page.set_viewport_size({"width": width, "height": 860})
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            if width == WIDTHS[0] and (scheme == "light" or path in DARK):
                page.evaluate("document.querySelectorAll('details').forEach((d) => d.open = true)")
                found = axe.run(page, options=QUIET).response["violations"]
                serious = [v for v in found if v["impact"] in SERIOUS]
                assert [(v["id"], v["nodes"][0]["html"]) for v in serious] == []


def names(page):
    return page.locator("#rows tbody td:first-child").all_inner_texts()


def test_the_table_sorts_filters_and_keeps_it_in_the_address(chromium, folder):
    with opened(chromium, folder, "table.html") as page:
        assert page.locator("#count").inner_text() == "11 of 11 rows"
        page.get_by_role("button", name="accuracy").click()
        assert names(page)[0].startswith("strong")
        page.get_by_role("button", name="accuracy").click()
        assert names(page)[0] == "uniform"
        assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
        page.select_option("[data-filter=category]", "gradient")
        assert [name.rstrip("•") for name in names(page)] == ["strong", "strong"]
        page.select_option("[data-filter=category]", "")
        page.fill("[data-filter=images]", "800")
        assert {name.rstrip("•") for name in names(page)} == {"uniform", "close"}
        page.select_option("[data-filter=data]", "none")
        assert {name.rstrip("•") for name in names(page)} == {"close"}
        address = page.url
        page.get_by_role("button", name="Clear").click()
        page.get_by_text("11 of 11 rows").wait_for()
    with opened(chromium, folder, "table.html" + address.partition("table.html")[2]) as page:
        assert {name.rstrip("•") for name in names(page)} == {"close"}


def test_a_hostile_name_is_text(chromium, folder):
    with opened(chromium, folder, "table.html#name=script") as page:
        assert names(page) == ["<script>document.title='taken'</script>"]
        assert page.title() != "taken"
        page.locator("#rows tbody a").first.click()
        assert page.locator("h1").inner_text().strip().endswith("</script>")


def test_the_plot_can_be_picked_apart(chromium, folder):
    with opened(chromium, folder, "pareto.html") as page:
        assert page.locator("#plot svg").count() >= 1
        assert "11 results of 6 frameworks" in page.locator("#says").inner_text()
        page.locator("#categories input[value=baseline]").uncheck()
        assert "7 results of 4 frameworks" in page.locator("#says").inner_text()
        page.get_by_role("button", name="strong").click()
        assert page.locator("#picked tbody tr").count() == 2
        page.locator("#plot svg").first.hover(position={"x": 200, "y": 120})
        page.select_option("#up", "gain")
        page.select_option("#across", "images")
        assert page.locator("#plot svg").count() >= 1
        assert "pick=strong" in page.url


def test_the_chooser_and_the_switch_of_light_and_dark(chromium, tmp_path, records):
    some = records.field() + records.seeds("strong", 70.0, model="other", hardware="bops")
    write(records.site_of(some), tmp_path)
    background = "getComputedStyle(document.body).backgroundColor"
    with opened(chromium, tmp_path, "index.html") as page:
        page.select_option("[data-axis=model]", "other")
        page.wait_for_url("**/groups/*.html")
        assert "70.00 %" in page.locator(".lead").inner_text()
        light = page.evaluate(background)
        page.locator("#theme").click()  # light
        assert page.evaluate(background) == light
        page.locator("#theme").click()  # dark
        assert page.evaluate(background) != light
        page.keyboard.press("Tab")
        page.get_by_role("link", name="Overview").click()
        page.wait_for_url("**/index.html")
        page.locator("html[data-theme=dark]").wait_for()


def test_the_board_sorts(chromium, folder):
    with opened(chromium, folder, "index.html") as page:
        page.get_by_role("button", name="images").click()
        first = page.locator(".score tbody tr").first
        assert "uniform" in first.inner_text()
