"""The real page: JupyterLab in headless Chromium opens the series, and a reader can run it."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import nbformat
import pytest

from tools.run import run

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

WINDOW = {"width": 1200, "height": 1000}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab on a copy of the notebooks, as `make lab` starts it."""
    folder = tmp_path_factory.mktemp("series")
    for name in ("saved", "trusted"):
        _save_one_cell(folder / f"{name}.ipynb", name)
    _write_cells(folder / "live.ipynb", LIVE_CELLS)
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    shutil.copytree(ROOT / "assets", folder / "assets")
    # All cells are drawn at once, so that the test can see the last one; and nobody is asked about news.
    for name, setting in {
        "notebook-extension/tracker": '{"windowingMode": "none"}',
        "apputils-extension/notification": '{"fetchNews": "false"}',
    }.items():
        settings = folder / "@jupyterlab" / f"{name}.jupyterlab-settings"
        settings.parent.mkdir(parents=True)
        settings.write_text(setting)
    log = (folder / "log").open("w+")
    options = ["--no-browser", "--ip=127.0.0.1", "--port=0", "--IdentityProvider.token=", "--ServerApp.root_dir=" + str(folder)]
    own = {"JUPYTER_CONFIG_DIR": folder, "JUPYTERLAB_SETTINGS_DIR": folder, "JUPYTER_DATA_DIR": folder / "data"}
    # No data, and no network to fetch any: the digits stand in.
    nobody = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    own |= {"STN_DATA": folder / "none", "PYTHONPATH": ROOT}
    environment = {**os.environ, **nobody, "STN_SMOKE": "1", **{name: str(place) for name, place in own.items()}}
    subprocess.run([sys.executable, "-m", "jupyter", "trust", "trusted.ipynb"], env=environment, cwd=folder, check=True)
    command = [sys.executable, "-m", "jupyterlab", "--allow-root", *options]
    server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=folder)
    try:
        yield _address(folder / "log", server)
    finally:
        server.terminate()
        try:
            server.wait(timeout=60)
        except subprocess.TimeoutExpired:
            server.kill()
        log.close()


def _write_cells(path: Path, codes: list[str], top: str = "") -> None:
    cells = [nbformat.v4.new_markdown_cell(top)] * bool(top) + [nbformat.v4.new_code_cell(code) for code in codes]
    book = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    nbformat.write(book, path)


def _save_one_cell(path: Path, words: str) -> None:
    """A notebook with one explorer, saved as the series is: without the kernel's view. JupyterLab trusts words, not files."""
    code = "from stn_helpers.show.widgets import SplineExplorer\n\nSplineExplorer(k=3)"
    _write_cells(path, [code], f"{words}. **It takes** about a minute to run.")
    run(path)


# An explorer whose theta is written down, with the time, whenever it changes; and a cell that sets it.
LIVE_CELLS = [
    """import json, time
from pathlib import Path
from stn_helpers.show.widgets import MatrixExplorer
from stn_helpers.theta import affine

explorer = MatrixExplorer()
def note(change):
    Path("theta.new").write_text(json.dumps([time.time(), change.new.flatten().tolist()]))
    Path("theta.new").replace("theta.json")  # whoever reads it never sees half of it

explorer.observe(note, "theta")
explorer""",
    "explorer.theta = affine(angle=-90.0, scale=0.5)",
]


def _address(log: Path, server: subprocess.Popen) -> str:
    for _ in range(120):
        found = re.search(r"http://127\.0\.0\.1:\d+/", log.read_text())
        if found and server.poll() is None:
            try:
                urlopen(found[0] + "api").read()
                return found[0]
            except URLError:
                pass  # it says its address a little before it listens
        time.sleep(0.5)
    raise RuntimeError(f"JupyterLab did not start: {log.read_text()}")


@contextmanager
def chromium():
    """A headless browser, closed in the end."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page():
    with chromium() as browser:
        yield browser.new_page(viewport=WINDOW)


@pytest.fixture(scope="module")
def axe() -> str:
    """axe-core, from npm; kept in build/ for the next time."""
    folder, npm = ROOT / "build" / "axe", shutil.which("npm")
    script = folder / "node_modules" / "axe-core" / "axe.min.js"
    if not script.exists() and npm:
        folder.mkdir(parents=True, exist_ok=True)
        command = [npm, "install", "--prefix", str(folder), "--no-save", "--no-audit", "--no-fund", "axe-core@4"]
        subprocess.run(command, capture_output=True, timeout=120)
    if not script.exists():
        pytest.skip("axe-core is not here: npm is missing, or has no network")
    return script.read_text(encoding="utf-8")


NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))

ALL_RAN = """last => {
    const prompts = [...document.querySelectorAll('.jp-InputPrompt')].map(prompt => prompt.innerText.trim());
    return !prompts.includes('[*]:') && prompts.includes(`[${last}]:`);
}"""


@pytest.fixture(scope="module")
def opened(lab, page, request):
    """The page of one notebook, after "Run All Cells" on a fresh kernel."""
    name = request.param
    notebook = json.loads((ROOT / "notebooks" / name).read_text(encoding="utf-8"))
    codes = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    folded = [cell["metadata"].get("jupyter", {}).get("source_hidden", False) for cell in codes]
    last = len(codes) - folded[::-1].index(False)  # a folded cell shows no number
    page.set_viewport_size(WINDOW)
    page.goto(f"{lab}lab/tree/notebooks/{name}?reset")
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']", timeout=120_000)
    # What was saved looks as if all had run, so it is cleared first.
    page.wait_for_function(ALL_RAN, arg=last, timeout=120_000)
    page.get_by_role("menuitem", name="Edit", exact=True).click()
    page.get_by_role("menuitem", name="Clear Outputs of All Cells").click()
    page.wait_for_function("() => ![...document.querySelectorAll('.jp-InputPrompt')].some(p => /[0-9]/.test(p.innerText))")
    page.get_by_role("menuitem", name="Run", exact=True).click()
    # The kernel is fresh. Restarting it while its page still connects can leave the two without a common language for ever.
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function(ALL_RAN, arg=last, timeout=300_000)
    return page


@pytest.fixture
def keep(request, tmp_path):
    """keep(place, name): a screenshot, in $STN_SCREENSHOTS where that is set."""
    notebook = request.node.callspec.params["opened"]
    folder = Path(os.environ.get("STN_SCREENSHOTS", tmp_path))
    return lambda place, name="": place.screenshot(path=str(folder / f"{notebook}{name}.png"))


@pytest.mark.parametrize("opened", NOTEBOOKS, indirect=True)
def test_a_reader_opens_a_notebook_and_runs_all_of_it(opened, keep):
    keep(opened)
    assert opened.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    pictures = opened.locator(".jp-RenderedMarkdown img:not([src^='https:']), .jp-RenderedImage img")
    assert pictures.count() >= 3
    assert pictures.evaluate_all("all => all.every(picture => picture.naturalWidth > 0)")
    assert opened.get_by_text("Traceback (most recent call last)").count() == 0


# One explorer, in two places: with a kernel it talks to Python, without one it is a page alone. Nobody meets both.

ALONE = ".stn-explorer[data-stn]"
LIVE = ".stn-explorer[data-lm-suppress-shortcuts]:not([data-stn])"


def open_in_lab(lab: str, page, name: str):
    """The cells' outputs of a notebook, opened on an idle kernel."""
    page.set_viewport_size(WINDOW)
    page.goto(f"{lab}lab/tree/{name}?reset")
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']", timeout=120_000)
    page.wait_for_timeout(2000)  # a cell that is run before all of the page is there is never run
    return page.locator(".jp-Cell-outputArea")


@pytest.mark.parametrize("name", ["saved.ipynb", "trusted.ipynb"])
def test_a_notebook_that_was_only_opened_has_sliders_of_its_own_or_says_how_to_get_some(lab, page, name, tmp_path):
    """JupyterLab runs no script of a notebook that it does not trust; what is left must be no dead control."""
    area = open_in_lab(lab, page, name)
    sentence = area.get_by_text("Run this cell, and here are sliders")
    if name == "saved.ipynb":
        sentence.wait_for()
        assert area.locator("input, button, canvas, select").count() == 0
    else:
        area.get_by_label("move x, half widths", exact=True).focus()
        for _ in range(10):
            page.keyboard.press("ArrowRight")
        area.get_by_role("button", name=re.compile("control point 5,")).focus()
        for _ in range(10):
            page.keyboard.press("ArrowUp")  # JupyterLab has a shortcut on this key
        area.get_by_text("Point 5 looks at (0.10, -0.20).").wait_for()
        assert not sentence.is_visible()
    page.screenshot(path=str(Path(os.environ.get("STN_SCREENSHOTS", tmp_path)) / f"{name}.png"))
    assert area.locator(LIVE).count() == 0
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    area.locator(LIVE).wait_for(timeout=60_000)
    assert area.locator(ALONE).count() == 0
    assert not sentence.is_visible()


def test_what_the_hand_does_is_theta_in_python_and_what_python_sets_moves_the_picture(lab, page, tmp_path_factory):
    noted = next(tmp_path_factory.getbasetemp().glob("series*/live.ipynb")).with_name("theta.json")
    area = open_in_lab(lab, page, "live.ipynb")
    page.locator(".jp-CodeCell .cm-content").first.click()
    page.keyboard.press("Shift+Enter")
    root = area.locator(LIVE)
    root.locator(".around").wait_for(timeout=120_000)
    root.locator(".around").scroll_into_view_if_needed()
    box = root.get_by_role("button", name="turn the window").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y + 40, steps=12)
    page.mouse.up()
    released, angle = time.time(), root.evaluate("root => root.explorer.at.angle")
    assert angle > 10
    expected = [f(math.radians(angle)) for f in (math.cos, math.sin)]
    for _ in range(200):
        told, theta = json.loads(noted.read_text()) if noted.exists() else (0, [0] * 6)
        if [theta[0], theta[3]] == pytest.approx(expected, abs=1e-4):
            break
        page.wait_for_timeout(25)
    print(f"theta was in Python {1000 * (told - released):.0f} ms after the hand let go")
    assert [theta[0], theta[3]] == pytest.approx(expected, abs=1e-4)
    assert told - released < 1.5  # a tenth of a second on a machine that has nothing else to do
    scrolled = page.evaluate("() => document.querySelector('.jp-WindowedPanel-outer').scrollTop")
    page.keyboard.press("ArrowDown")  # the knob has the focus: it turns, and no shortcut of JupyterLab moves the page
    page.wait_for_timeout(300)
    assert root.evaluate("root => root.explorer.at.angle") == angle + 1
    assert page.evaluate("() => document.querySelector('.jp-WindowedPanel-outer').scrollTop") == scrolled
    page.locator(".jp-CodeCell").nth(1).locator(".cm-content").click()
    page.keyboard.press("Shift+Enter")
    for _ in range(100):
        if root.evaluate("root => root.explorer.at.angle") == -90:
            break
        page.wait_for_timeout(50)
    assert root.evaluate("root => [root.explorer.at.angle, root.explorer.at.scale_x]") == [-90, 0.5]
    assert "turned 90° counterclockwise" in root.locator(".words").inner_text()
