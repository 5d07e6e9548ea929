"""The report in headless Chromium, on a desktop and on a phone: it fits, it sorts, and it asks the network for nothing.

Screenshots of a real study's page, which must be there:

    AIRWAYLIB_SCREENSHOTS=shots AIRWAYLIB_REPORT=results/quick/report.html .venv/bin/python -m pytest -m browser -k fits
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from synthetic_study import write_runs
from synthetic_tables import write_figure, write_scores

from airwaylib.trees.parse import parse_tree
from airwaystudy import home as study
from airwaystudy.figures.trees import tree_html
from airwaystudy.report import report

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium")
DESKTOP, PHONE = (1440, 900), (390, 844)
MOST_PIXELS = 6000  # of height on a desktop, before the appendix
SCREENSHOTS, REAL = os.environ.get("AIRWAYLIB_SCREENSHOTS", ""), os.environ.get("AIRWAYLIB_REPORT", "")
COLUMN = "(table, n) => [...table.tBodies[0].rows].map((row) => row.cells[n].textContent)"
WIDER = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium"),
]


def score(variant, seed, case):
    more = 10 + seed if variant == "both_general_union" else 0
    return {"td": 80.0 + more, "bd": 60.0 + more, "dsc": 85.0, "precision": 90.0, "fpr": 0.05}


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """The report of a made-up study with runs, tables, a figure and a tree."""
    if REAL:
        return Path(REAL).absolute()
    home, variants = tmp_path_factory.mktemp("home"), {"final_dice": {"supervision": "final", "loss": "dice"}}
    variants |= {"both_general_union": {"supervision": "both", "loss": "general_union"}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "HOME", home)
        patch.setenv("AIRWAYLIB_HOME", str(home))
        for name in ("claims.yaml", "study.yaml"):
            shutil.copy(ROOT / name, home)
        folder = write_runs(home, variants, score=score)
        write_scores(folder, variants, score)
        write_figure(folder, "scores_by_diameter")
        mask = np.zeros((40, 40, 40), bool)
        mask[5:35, 18:22, 18:22] = mask[18:22, 18:22, 5:35] = True
        tree = parse_tree(mask, (1.0, 1.0, 1.0))
        (folder / "figures/tree.html").write_text(tree_html(tree, "a cross"), encoding="utf-8")
        return report.write_report("made_up")


@pytest.fixture
def open_page(browser, html):
    """Opens the page; what goes wrong there, and every request but the page's own, is a failure at the end."""
    faults, contexts = [], []

    def open_(size, **options):
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))
        page.on(
            "request",
            lambda asked: (
                None
                if asked.url.startswith(("data:", "blob:", html.as_uri()))
                else faults.append(f"asked for {asked.url}")
            ),
        )
        page.goto(html.as_uri())
        return page

    yield open_
    for context in contexts:
        context.close()
    assert faults == []


@pytest.mark.parametrize(("name", "size"), [("desktop", DESKTOP), ("phone", PHONE)])
def test_page_fits_the_screen(open_page, name, size):
    page = open_page(size, device_scale_factor=1, has_touch=name == "phone")
    page.locator("#tree .main-svg").first.wait_for(timeout=60_000)
    page.locator("table.dataTable").first.wait_for()
    assert page.evaluate(WIDER) <= 0
    if name == "desktop":
        top = page.locator("h2", has_text="Appendix").bounding_box()["y"]
        assert 1000 < top < MOST_PIXELS
    if SCREENSHOTS:
        target = Path(SCREENSHOTS)
        target.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=target / f"report_{name}.png", full_page=True)
    page.evaluate("() => document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.evaluate(WIDER) <= 0


@pytest.mark.parametrize(("size", "fits"), [(DESKTOP, True), (PHONE, False)])
def test_scores_fit_their_box_on_a_desktop_and_scroll_in_it_on_a_phone(open_page, size, fits):
    page = open_page(size)
    table = page.locator("table.dataTable").first
    table.wait_for()
    widths = table.evaluate("(table) => [table.offsetWidth, table.closest('.box').clientWidth]")
    assert (widths[0] <= widths[1]) == fits and widths[1] <= size[0]


def test_scores_sort_by_their_numbers(open_page):
    page = open_page(DESKTOP)
    table = page.locator("table.dataTable").first
    table.wait_for()
    head = table.locator("thead th", has_text="tree length")
    shown = {}
    for way in ("ascending", "descending"):
        head.locator(".dt-column-order").click()  # itables sorts by the arrows alone
        table.locator(f"thead th[aria-sort={way}]").wait_for()
        shown[way] = [float(text.split()[0]) for text in table.evaluate(COLUMN, 2)]
    assert shown == {"ascending": [80.0, 91.0], "descending": [91.0, 80.0]}


def test_images_have_alt_texts_and_are_seen(open_page):
    page = open_page(DESKTOP)
    images = page.locator("img")
    assert images.count() >= 1
    for image in images.all():
        assert len(image.get_attribute("alt")) > 20
        assert image.evaluate("(image) => image.decode().then(() => image.naturalWidth)") > 100


def test_tree_leaves_the_wheel_to_the_page_until_it_is_clicked(open_page):
    page = open_page(DESKTOP)
    tree = page.locator("#tree")
    tree.scroll_into_view_if_needed()
    tree.locator("canvas").first.wait_for(timeout=60_000)
    box, eye = tree.bounding_box(), "(tree) => tree._fullLayout.scene._scene.getCamera().eye"
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    assert box["height"] <= 520
    before, top = tree.evaluate(eye), page.evaluate("() => scrollY")
    page.mouse.move(*middle)
    page.mouse.wheel(0, -200)
    page.wait_for_timeout(500)
    assert page.evaluate("() => scrollY") < top and tree.evaluate(eye) == before
    page.evaluate("(top) => scrollTo(0, top)", top)
    page.mouse.click(*middle)
    page.mouse.wheel(0, -200)
    page.wait_for_timeout(500)
    assert page.evaluate("() => scrollY") == top and tree.evaluate(eye) != before
    page.mouse.click(5, middle[1])  # beside it
    page.mouse.move(*middle)
    page.mouse.wheel(0, -200)
    page.wait_for_timeout(500)
    assert page.evaluate("() => scrollY") < top


def test_tree_can_be_turned(open_page):
    page = open_page(PHONE)
    tree = page.locator("#tree")
    tree.scroll_into_view_if_needed()
    tree.locator("canvas").first.wait_for(timeout=60_000)
    where = "(tree) => tree._fullLayout.scene._scene.getCamera().eye"
    before, box = tree.evaluate(where), tree.bounding_box()
    assert box["width"] <= PHONE[0]
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + 80, box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    page.wait_for_timeout(500)
    assert tree.evaluate(where) != before


def test_reader_without_scripts_has_the_tables(browser, html):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(html.as_uri())
    assert page.get_by_text("final dice", exact=True).first.is_visible()
    assert page.get_by_text("Small airways are hard because the background erodes their gradient.").first.is_visible()
    context.close()
