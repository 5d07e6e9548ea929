"""The report in headless Chromium, on a desktop and on a phone: it sorts, it fits, and it asks the network for nothing.

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

CHROMIUM = shutil.which("chromium")
DESKTOP, PHONE = (1280, 900), (390, 844)
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
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_the_screen(open_page, name, size, scheme):
    page = open_page(size, color_scheme=scheme, device_scale_factor=1, has_touch=name == "phone")
    page.locator("#tree .main-svg").first.wait_for(timeout=60_000)
    assert page.evaluate(WIDER) <= 0
    page.evaluate("() => document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.evaluate(WIDER) <= 0
    paper, ink = page.evaluate(
        "() => ['backgroundColor', 'color'].map((name) => getComputedStyle(document.body)[name])"
    )
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light") and paper != ink
    if SCREENSHOTS:
        target = Path(SCREENSHOTS)
        target.mkdir(parents=True, exist_ok=True)
        page.evaluate("() => scrollTo(0, 0)")
        page.screenshot(path=target / f"report_{name}_{scheme}.png", full_page=True)


def test_wide_tables_scroll_in_their_own_box_on_a_phone(open_page):
    page = open_page(PHONE)
    box = page.locator("#claims .box").first
    assert box.evaluate("(box) => box.scrollWidth > box.clientWidth && box.clientWidth <= innerWidth")
    box.evaluate("(box) => { box.scrollLeft = 100; }")
    assert box.evaluate("(box) => box.scrollLeft") == 100


def test_a_press_sorts_and_another_one_turns_it_round(open_page):
    page = open_page(DESKTOP)
    table = page.locator("#provenance table").first
    heads = table.locator("thead th")
    column = heads.all_inner_texts().index("run")
    before, button = table.evaluate(COLUMN, column), heads.nth(column).get_by_role("button")
    assert len(before) > 3
    button.click()
    assert heads.nth(column).get_attribute("aria-sort") == "ascending"
    assert table.evaluate(COLUMN, column) == sorted(before)
    button.press("Enter")
    assert heads.nth(column).get_attribute("aria-sort") == "descending"
    assert table.evaluate(COLUMN, column) == sorted(before, reverse=True)
    other = heads.nth(column + 1).get_by_role("button")
    other.click()
    assert [head.get_attribute("aria-sort") for head in heads.all()].count("none") == heads.count() - 1


def test_numbers_sort_as_numbers_and_empty_cells_stay_last(open_page):
    page = open_page(DESKTOP)
    page.evaluate(
        """() => { document.querySelector('main').insertAdjacentHTML('beforeend', `<table id="own"><thead><tr>
        <th aria-sort="none"><button>n</button></th></tr></thead><tbody>${['9', '', '10', '-2'].map((n) =>
        `<tr><td ${n && `data-value="${n}"`}>${n}</td></tr>`).join('')}</tbody></table>`); }"""
    )
    table, button = page.locator("#own"), page.locator("#own button")
    button.click()
    assert table.evaluate(COLUMN, 0) == ["-2", "9", "10", ""]
    button.click()
    assert table.evaluate(COLUMN, 0) == ["10", "9", "-2", ""]


def test_images_have_alt_texts_and_are_seen(open_page):
    page = open_page(DESKTOP)
    images = page.locator("img")
    assert images.count() >= 1
    for image in images.all():
        assert len(image.get_attribute("alt")) > 20
        assert image.evaluate("(image) => image.decode().then(() => image.naturalWidth)") > 100


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_the_tree_can_be_turned(open_page, size):
    page = open_page(size)
    tree = page.locator("#tree")
    tree.scroll_into_view_if_needed()
    tree.locator("canvas").first.wait_for(timeout=60_000)
    assert page.locator(".tree").bounding_box()["height"] == tree.bounding_box()["height"]
    assert tree.bounding_box()["height"] <= 0.75 * size[1] + 1 and tree.bounding_box()["width"] <= size[0]
    where = "(tree) => tree._fullLayout.scene._scene.getCamera().eye"
    before, box = tree.evaluate(where), tree.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + 80, box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    page.wait_for_timeout(500)
    assert tree.evaluate(where) != before


def test_a_reader_without_scripts_has_it_all(browser, html):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(html.as_uri())
    assert page.locator("#claims table").first.is_visible() and page.locator("#claims td.verdict").count() > 10
    context.close()
