"""JupyterLab in headless Chromium runs 05_explore_gradients and answers its sliders; so does the page without a kernel.

Nothing may be asked of any other machine. Screenshots for the README (of results/quick, if its maps are there):

    AIRWAYLIB_SCREENSHOTS=results/quick/figures .venv/bin/python -m pytest tests/browser
"""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from playwright.sync_api import TimeoutError
from synthetic_maps import write_study

from airwaystudy.figures import gradient_slices as views
from airwaystudy.report.explorer import STEPS, write_page
from airwaystudy.report.explorer_figure import as_source
from airwaystudy.report.explorer_widgets import open_all

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium")
SCREENSHOTS = os.environ.get("AIRWAYLIB_SCREENSHOTS", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium"),
]

# No news from the network, no cells left out because they are not in view.
SETTINGS = {
    "apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
    "notebook-extension/tracker": '{"windowingMode": "none"}',
}
# What the notebook's picture of the share is, and milliseconds from a key to the new pictures and to the new curves.
SHARE = "() => document.querySelector('.js-plotly-plot').data[3].source"
DRAWN = "() => document.querySelectorAll('.js-plotly-plot .im image').length === 3"
TIMED = """() => new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error('no new pictures within a minute')), 60000);
    const figures = [...document.querySelectorAll('.js-plotly-plot')];
    document.addEventListener('keydown', () => {
        const start = performance.now();
        const drawn = (figure) => new Promise((done) =>
            figure.once('plotly_afterplot', () => done(performance.now() - start)));
        Promise.all(figures.map(drawn)).then(resolve);
    }, { capture: true, once: true });
})"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the gradient maps are: this clone's, if screenshots are to be taken of them, else a made-up study's."""
    real = ROOT / "results/quick/gradients"
    if SCREENSHOTS and list(real.glob("*.zarr")):
        return real
    made = tmp_path_factory.mktemp("home") / "results/quick/gradients"
    write_study(made, runs=(("dice", "final"), ("general_union", "both")), size=64 if SCREENSHOTS else 48)
    return made


@pytest.fixture
def open_page(browser):
    """Opens pages in which whatever goes wrong, or to another machine, is a failure at the test's end."""
    faults, contexts = [], []

    def check(url):
        parts = urlsplit(url)
        if parts.scheme not in ("file", "data", "blob", "about") and parts.hostname not in ("localhost", "127.0.0.1"):
            faults.append(f"asked for {url}")

    def hear(message):
        message = message if isinstance(message, str) else message.decode("latin1")
        if '"msg_type": "error"' in message:
            faults.append(f"the kernel says {message[-500:]}")

    def listen(socket):
        check(socket.url.replace("ws", "http", 1))
        socket.on("framereceived", hear)

    def open_(width, height, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        context.on("request", lambda request: check(request.url))
        page = context.new_page()
        page.on("websocket", listen)
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))
        page.set_default_timeout(120_000)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture(scope="module")
def lab(folder, tmp_path_factory):
    """URL of a JupyterLab that shows a copy of the notebook, whose results go to the maps' home."""
    place = tmp_path_factory.mktemp("lab")
    (place / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks/05_explore_gradients.ipynb", place / "notebooks")
    for name, text in SETTINGS.items():
        file = place / f"settings/@jupyterlab/{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.root_dir": place / "notebooks",
        "IdentityProvider.token": token,
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--{name}={value}" for name, value in options.items()]
    settings = {"JUPYTERLAB_SETTINGS_DIR": str(place / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(place / "spaces")}
    settings |= {"JUPYTER_CONFIG_DIR": str(place / "config"), "JUPYTER_RUNTIME_DIR": str(place / "runtime")}
    environment = os.environ | settings | {"AIRWAYLIB_HOME": str(folder.parents[2])}
    with (place / "log.txt").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=place)
        try:
            wait_for(f"http://127.0.0.1:{port}/api/status?token={token}", server, place / "log.txt")
            yield f"http://127.0.0.1:{port}/lab/tree/05_explore_gradients.ipynb?token={token}"
        finally:
            server.terminate()  # it ends its kernels
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def wait_for(url, server, log):
    """Until the server answers."""
    for _ in range(240):
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"JupyterLab did not start: {log.read_text()[-3000:]}")


def show(page, runs, slider):
    """What the README's screenshots show: the baseline, at the fifth layer."""
    runs.select_option(label="dice, final, seed 0")
    slider.press("Home")
    for _ in range(4):
        slider.press("ArrowRight")
    page.mouse.move(5, 5)
    page.wait_for_timeout(3000)


def keep(page, name, **options):
    """A screenshot for the README."""
    target = ROOT / SCREENSHOTS
    target.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=target / name, **options)


def picture(page, selector):
    """The picture of the share as it is drawn, and as pixels of the screen."""
    drawn = page.locator(f"{selector} image").last
    return drawn.get_attribute("href") or drawn.get_attribute("xlink:href"), drawn.screenshot()


def test_notebook_answers_its_sliders_in_jupyterlab(lab, open_page, folder):
    page = open_page(1420, 1330)
    page.goto(lab)
    run_all(page)
    page.wait_for_function(DRAWN)
    page.get_by_text("gradient_explorer.html:").wait_for()  # the last cell's output
    assert page.locator(".jp-OutputArea [data-mime-type='application/vnd.jupyter.stderr']").all_inner_texts() == []
    assert (folder.parents[0] / "figures/gradient_explorer.html").exists()

    slider = page.locator(".widget-slider", has_text="layer")
    slider.scroll_into_view_if_needed()
    before, data = picture(page, ".js-plotly-plot .im"), page.evaluate(SHARE)
    milliseconds = [press(page, slider.locator(".noUi-handle"), key) for key in ["ArrowLeft"] * 4 + ["ArrowRight"] * 2]
    assert page.evaluate(SHARE) != data
    after = picture(page, ".js-plotly-plot .im")
    assert after[0] != before[0] and after[1] != before[1]
    first = open_all(folder)[0]
    assert slider.locator(".widget-readout").inner_text() == first.layers[-3]
    share = first.share(first.epochs[-1], first.layers[-3])
    expected = views.share_slice(share, first.label.shape, 1, views.best_slice(first.label, 1))
    assert page.evaluate(SHARE) == as_source(views.share_colours(expected))
    for name, taken in zip(("pictures", "curves"), np.transpose(milliseconds), strict=True):
        print(f"key to {name}: {np.median(taken):.0f} ms median, {max(taken):.0f} ms at most")
    assert np.median(milliseconds) < 1000  # 200 on a machine that does nothing else
    click_into_the_share(page)
    if SCREENSHOTS:
        runs = page.locator(".widget-dropdown", has_text="run").locator("select")
        show(page, runs, slider.locator(".noUi-handle"))
        page.locator(".jp-OutputArea-output", has=page.locator(".js-plotly-plot")).first.scroll_into_view_if_needed()
        keep(page, "explorer_notebook.png")


def run_all(page):
    """Run all cells by the menu, and again if the kernel was not ready: JupyterLab calls it idle too early."""
    page.locator(".jp-Notebook .jp-CodeCell").nth(4).wait_for()
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    for _ in range(4):
        page.locator(".lm-MenuBar-itemLabel", has_text="Run").click()
        page.get_by_text("Run All Cells", exact=True).click()
        try:
            return page.get_by_text("[1]:", exact=True).wait_for(timeout=15_000)
        except TimeoutError:
            continue
    raise AssertionError("the kernel runs no cell")


def press(page, handle, key):
    """Press a key on a slider and wait for the picture; returns the milliseconds to the pictures, to the curves."""
    page.wait_for_timeout(300)  # a move from rest
    handle.focus()
    page.evaluate(f"() => {{ window.timed = ({TIMED})(); }}")
    page.keyboard.press(key)
    return page.evaluate("() => window.timed")


def click_into_the_share(page):
    """Click into the share's picture: the profile goes through there."""
    title = "() => document.querySelectorAll('.js-plotly-plot')[1].layout.annotations[0].text"
    before = page.evaluate(title)
    box = page.locator(".js-plotly-plot .im image").last.bounding_box()
    page.mouse.click(box["x"] + 0.3 * box["width"], box["y"] + 0.2 * box["height"])
    page.wait_for_function(f"(before) => ({title})() !== before", arg=before)


@pytest.fixture(scope="module")
def html(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "gradient_explorer.html"
    write_page(open_all(folder), path)
    return path.as_uri()


def on_page(page):
    """The share that the page shows, nan where there is none, and what its controls say."""
    shown = page.evaluate(
        """() => {
            const { number, start, shape, epochs, layers } = runs[state.run];
            const rows = document.getElementById('share').data[0].z;
            const z = rows.map((row) => Array.from(row, (one) => (one >= 0 ? one : null)));
            return { ...state, number, start, shape, epochs, layers, z };
        }"""
    )
    return np.array(shown.pop("z"), float), shown


def check_share(page, maps):
    """What the page shows is the slice of the maps that its controls name."""
    found, now = on_page(page)
    one, axis = maps[now["number"]], now["axis"]
    layer = now["layers"][now["layer"]]["name"]
    whole = views.share_slice(one.share(now["epochs"][now["epoch"]], layer), one.label.shape, axis, now["slice"])
    box = [slice(first, first + size) for first, size in zip(now["start"], now["shape"], strict=True)]
    del box[axis]
    np.testing.assert_allclose(found, whole[tuple(box)], rtol=0, atol=0.5 / STEPS + 1e-6)


def moves(page):
    """Milliseconds to draw each layer, as text."""
    taken = page.evaluate(
        """async () => {
            const taken = [], { layer } = state;
            for (const other of [...runs[state.run].layers.keys(), layer]) {
                const start = performance.now();
                state.layer = other;
                await draw();
                taken.push(performance.now() - start);
            }
            return taken;
        }"""
    )
    return f"{np.median(taken):.0f} ms median, {max(taken):.0f} ms at most"


def test_page_answers_its_sliders_without_a_kernel(html, open_page, folder):
    maps, page = open_all(folder), open_page(1280, 1000)
    page.goto(html)
    page.wait_for_function("() => document.querySelectorAll('.pictures .heatmaplayer image').length === 3")
    check_share(page, maps)
    before = picture(page, "#share .heatmaplayer")
    slider = page.locator("#layer")
    for _ in range(2):
        title = page.locator("#share-title").inner_text()
        slider.press("ArrowLeft")
        page.wait_for_function("(old) => document.getElementById('share-title').textContent !== old", arg=title)
        check_share(page, maps)
    after = picture(page, "#share .heatmaplayer")
    assert after[0] != before[0] and after[1] != before[1]
    assert page.locator("#share").get_attribute("aria-label").startswith("Map of the airway's share of the gradient at")
    if SCREENSHOTS:
        show(page, page.locator("#run"), slider)
        keep(page, "explorer_page.png", full_page=True)
    for axis in ("2", "0"):
        page.locator("#axis").select_option(axis)
        page.wait_for_function(f"() => document.getElementById('ct').ariaLabel.includes(SLICES[{axis}])")
        check_share(page, maps)
    page.locator("#run").select_option("1")
    page.wait_for_function("() => document.getElementById('says').textContent.includes(measures[runs[1].number].label)")
    print(f"page: {Path(urlsplit(html).path).stat().st_size / 1e6:.1f} MB; a move of its slider:", moves(page))
    page.locator("#epoch").press("Home")
    page.wait_for_function("() => document.querySelector('output[for=epoch]').value === String(runs[1].epochs[0])")
    check_share(page, maps)


def test_page_lays_the_profile_where_it_is_clicked_and_zooms_all_pictures(html, open_page):
    page = open_page(1280, 1330)
    page.goto(html)
    page.wait_for_function("() => document.querySelectorAll('.pictures .heatmaplayer image').length === 3")
    before = page.locator("#profile-title").inner_text()
    box = page.locator("#ct .heatmaplayer image").bounding_box()
    page.mouse.click(box["x"] + 0.3 * box["width"], box["y"] + 0.2 * box["height"])
    page.wait_for_function("(old) => document.getElementById('profile-title').innerText !== old", arg=before)
    ranges = """() => PICTURES.map((name) =>
        document.getElementById(name).layout.xaxis.range.map((one) => one.toFixed(6)).join())"""
    whole = page.evaluate(ranges)
    assert len(set(whole)) == 1
    page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 0.25 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.75 * box["height"], steps=5)
    page.mouse.up()
    page.wait_for_function(
        f"(old) => {{ const now = ({ranges})(); return new Set(now).size === 1 && now[0] !== old; }}", arg=whole[0]
    )
    page.mouse.dblclick(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
    page.wait_for_function(f"(old) => ({ranges})().every((now) => now === old)", arg=whole[0])


def test_page_fits_a_phone(html, open_page):
    page = open_page(390, 844, has_touch=True, is_mobile=True, device_scale_factor=2)
    page.goto(html)
    page.wait_for_function("() => document.querySelectorAll('.pictures .heatmaplayer image').length === 3")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    boxes = [page.locator(f"#{name}").bounding_box() for name in ("share", "ct", "label")]
    assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"] and boxes[0]["width"] > 300  # one below the other
    page.locator("#share-title").evaluate("(title) => scrollTo(0, title.getBoundingClientRect().top + scrollY - 60)")
    slider, share = (page.locator(f"#{name}").bounding_box() for name in ("layer", "share"))
    assert 0 <= slider["y"] < 60 and share["y"] + share["height"] <= 844  # both in view
