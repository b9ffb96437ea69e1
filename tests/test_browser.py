"""The real page: JupyterLab in headless Chromium opens the series, and a reader can run it."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab on a copy of the notebooks, as `make lab` starts it."""
    folder = tmp_path_factory.mktemp("series")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    shutil.copytree(ROOT / "assets", folder / "assets")
    # All cells are drawn at once, so that the test can see the last one; and nobody is asked about news.
    settings = folder / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"windowingMode": "none"}')
    log = (folder / "log").open("w+")
    options = ["--no-browser", "--ip=127.0.0.1", "--port=0", "--IdentityProvider.token=", "--ServerApp.root_dir=" + str(folder)]
    environment = {**os.environ, "STN_SMOKE": "1", "JUPYTER_CONFIG_DIR": str(folder), "JUPYTERLAB_SETTINGS_DIR": str(folder)}
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


def _address(log: Path, server: subprocess.Popen) -> str:
    for _ in range(120):
        found = re.search(r"http://127\.0\.0\.1:\d+/", log.read_text())
        if found and server.poll() is None:
            urlopen(found[0] + "api").read()
            return found[0]
        time.sleep(0.5)
    raise RuntimeError(f"JupyterLab did not start: {log.read_text()}")


@pytest.fixture(scope="module")
def page():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser.new_page(viewport={"width": 1200, "height": 1000})
        browser.close()


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb")))
def test_a_reader_opens_a_notebook_and_runs_all_of_it(lab, page, name, tmp_path):
    notebook = json.loads((ROOT / "notebooks" / name).read_text(encoding="utf-8"))
    codes = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    folded = [cell["metadata"].get("jupyter", {}).get("source_hidden", False) for cell in codes]
    last = len(codes) - folded[::-1].index(False)  # a folded cell shows no number
    page.goto(f"{lab}lab/tree/notebooks/{name}?reset")
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']", timeout=120_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name=re.compile("Restart Kernel and Run All")).click()
    page.locator(".jp-Dialog button.jp-mod-accept").click()
    page.wait_for_function(
        """last => [...document.querySelectorAll('.jp-InputPrompt')].filter(p => /[*]/.test(p.innerText)).length == 0
        && [...document.querySelectorAll('.jp-InputPrompt')].some(p => p.innerText.trim() === `[${last}]:`)""",
        arg=last,
        timeout=300_000,
    )
    page.screenshot(path=str(Path(os.environ.get("STN_SCREENSHOTS", tmp_path)) / f"{name}.png"))
    assert page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    pictures = page.locator(".jp-RenderedMarkdown img:not([src^='https:']), .jp-RenderedImage img")
    assert pictures.count() >= 3
    assert pictures.evaluate_all("all => all.every(picture => picture.naturalWidth > 0)")
    assert page.get_by_text("Traceback (most recent call last)").count() == 0
