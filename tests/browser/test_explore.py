"""The explorer in headless Chromium: framed by 05_explore_gradients in JupyterLab, and as a page of its own.

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

from airwaystudy.analysis.gradient_maps import GradientMaps
from airwaystudy.figures import gradient_slices as views
from airwaystudy.report.explorer import STEPS, write_explorer

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
DRAWN = "() => document.querySelectorAll('.pictures .heatmaplayer image').length === 3"


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
    """URL of a JupyterLab, started in the maps' home, that shows a copy of the notebook in the home's notebooks/."""
    place, home = tmp_path_factory.mktemp("lab"), folder.parents[2]
    (home / "notebooks").mkdir(exist_ok=True)
    notebook = home / "notebooks/05_explore_gradients.ipynb"
    if not notebook.exists():
        shutil.copy(ROOT / "notebooks" / notebook.name, notebook)
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
        "ServerApp.root_dir": home,
        "IdentityProvider.token": token,
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--{name}={value}" for name, value in options.items()]
    settings = {"JUPYTERLAB_SETTINGS_DIR": str(place / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(place / "spaces")}
    settings |= {"JUPYTER_CONFIG_DIR": str(place / "config"), "JUPYTER_RUNTIME_DIR": str(place / "runtime")}
    environment = os.environ | settings | {"AIRWAYLIB_HOME": str(home)}
    with (place / "log.txt").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=place)
        try:
            wait_for(f"http://127.0.0.1:{port}/api/status?token={token}", server, place / "log.txt")
            yield f"http://127.0.0.1:{port}/lab/tree/notebooks/05_explore_gradients.ipynb?token={token}"
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


def test_notebook_frames_the_page_in_jupyterlab(lab, open_page, folder):
    page = open_page(1420, 1330)
    page.goto(lab)
    run_all(page)
    page.get_by_text("erosion is highest at").first.wait_for()  # the last cell's output
    assert page.locator(".jp-OutputArea [data-mime-type='application/vnd.jupyter.stderr']").all_inner_texts() == []
    assert page.locator(".jp-OutputArea img").count() == 1  # the still
    frame = page.locator(".jp-OutputArea iframe").element_handle().content_frame()
    frame.wait_for_function(DRAWN)
    maps = open_all(folder)
    check_share(frame, maps)
    title = frame.locator("#share-title").inner_text()
    frame.locator("#layer").press("ArrowRight")
    frame.wait_for_function("(old) => document.getElementById('share-title').textContent !== old", arg=title)
    check_share(frame, maps)


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


def open_all(folder):
    """The maps of a folder, by name."""
    return [GradientMaps.open(path) for path in sorted(folder.glob("*.zarr"))]


@pytest.fixture(scope="module")
def html(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "gradient_explorer.html"
    write_explorer(open_all(folder), path)
    return path.as_uri()


def on_page(page):
    """The share that the page shows, nan where there is none, and what its controls say."""
    shown = page.evaluate(
        """() => {
            const { number, epochs, layers } = runs[state.run];
            const rows = document.getElementById('share').data[0].z;
            const z = rows.map((row) => Array.from(row, (one) => (one >= 0 ? one : null)));
            return { ...state, number, epochs, layers, z };
        }"""
    )
    return np.array(shown.pop("z"), float), shown


def check_share(page, maps):
    """What the page shows is the slice of the maps that its controls name."""
    found, now = on_page(page)
    one, axis = maps[now["number"]], now["axis"]
    layer = now["layers"][now["layer"]]["name"]
    share = one.share(now["epochs"][now["epoch"]], layer)
    expected = views.share_slice(share, one.label.shape, axis, now["slice"])
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.5 / STEPS + 1e-6)


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
    page.wait_for_function(DRAWN)
    check_share(page, maps)
    shown = on_page(page)[1]
    assert (maps[shown["number"]].run, shown["epochs"]) == ("final_dice_0", [0, 5])  # the baseline, at its last epoch
    assert shown["epoch"] == 1 and "0.0 %" not in page.locator("#says b").last.inner_text()  # erosion is seen
    before = picture(page, "#share .heatmaplayer")
    slider = page.locator("#layer")
    for _ in range(2):
        title = page.locator("#share-title").inner_text()
        slider.press("ArrowRight")
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
    other = 1 - shown["run"]
    page.locator("#run").select_option(str(other))
    page.wait_for_function(
        f"() => document.getElementById('says').textContent.includes(measures[runs[{other}].number].label)"
    )
    print(f"page: {Path(urlsplit(html).path).stat().st_size / 1e6:.1f} MB; a move of its slider:", moves(page))
    page.locator("#epoch").press("Home")
    page.wait_for_function("() => document.querySelector('output[for=epoch]').value === '0'")
    check_share(page, maps)


def test_page_lays_the_profile_where_it_is_clicked_and_zooms_all_pictures(html, open_page):
    page = open_page(1280, 1330)
    page.goto(html)
    page.wait_for_function(DRAWN)
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
    page.wait_for_function(DRAWN)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    boxes = [page.locator(f"#{name}").bounding_box() for name in ("share", "ct", "label")]
    assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"] and boxes[0]["width"] > 300  # one below the other
    page.locator("#share-title").evaluate("(title) => scrollTo(0, title.getBoundingClientRect().top + scrollY - 60)")
    slider, share = (page.locator(f"#{name}").bounding_box() for name in ("layer", "share"))
    assert 0 <= slider["y"] < 60 and share["y"] + share["height"] <= 844  # both in view
