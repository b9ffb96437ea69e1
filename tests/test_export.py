"""A notebook that was exported to HTML is whole in a browser without a network: for a reader on a train, or on a course page."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from nbconvert import HTMLExporter

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# What nbconvert puts into every page (formulas stay as they were typed without it), and the badge that needs Colab anyway.
FROM_THE_NET = ("https://cdnjs.cloudflare.com/ajax/libs/", "https://colab.research.google.com/assets/colab-badge.svg")
PICTURES = "() => [...document.images].filter(image => !image.src.startsWith('https:')).map(image => image.naturalWidth)"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """The folder of the exported notebooks, with assets/ beside it as in the checkout: `jupyter nbconvert --to html`."""
    folder = tmp_path_factory.mktemp("series")
    shutil.copytree(ROOT / "assets", folder / "assets")
    (folder / "notebooks").mkdir()
    for path in NOTEBOOKS:
        page, _ = HTMLExporter().from_filename(str(path))
        (folder / "notebooks" / f"{path.stem}.html").write_text(page, encoding="utf-8")
    return folder / "notebooks"


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def offline(browser):
    """A page with the network cut off: .page, .asked (addresses it would have liked), .faults (dialogs and errors of scripts)."""
    context = browser.new_context(offline=True)
    seen = SimpleNamespace(page=context.new_page(), asked=[], faults=[])
    seen.page.on("request", lambda request: seen.asked.append(request.url))
    seen.page.on("pageerror", lambda error: seen.faults.append(str(error)))
    seen.page.on("dialog", lambda dialog: (seen.faults.append(dialog.message), dialog.dismiss()))
    yield seen
    context.close()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_an_exported_notebook_is_whole_without_a_network(path, exported, offline):
    page, cells = offline.page, json.loads(path.read_text(encoding="utf-8"))["cells"]
    page.goto((exported / f"{path.stem}.html").as_uri(), wait_until="load")
    pictures = page.evaluate(PICTURES)
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert len(pictures) > sum("image/png" in output.get("data", {}) for output in outputs) >= 2  # and its opening picture
    assert all(width > 0 for width in pictures)
    for said in {output["metadata"]["image/png"]["alt"] for output in outputs if "image/png" in output.get("data", {})}:
        assert page.get_by_role("img", name=said, exact=True).count() >= 1  # its words reach those who listen
    prose = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert page.locator("h2, h3, h4").count() == len(re.findall(r"(?m)^##+ ", prose))
    assert page.get_by_text("Traceback (most recent call last)").count() == 0
    assert offline.faults == []
    from_outside = [address for address in offline.asked if not address.startswith(("file:", "data:", "blob:", "about:"))]
    assert [address for address in from_outside if not address.startswith(FROM_THE_NET)] == []
