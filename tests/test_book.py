"""The site as its readers meet it: whole, with no network, in Chromium, by keyboard and by ear."""

import functools
import http.server
import importlib
import inspect
import json
import pkgutil
import re
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest
import test_browser
import yaml

import stn_helpers
from tools import badges, tables

pytest.importorskip("sphinx_book_theme", reason="the site's theme is not installed; it needs Python 3.11 or newer")

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# Pages that Sphinx makes by itself are read too, but they are not listed here.
PAGES = ["index.html", "play.html", "results.html", "glossary.html", "api.html", *(f"notebooks/{p.stem}.html" for p in NOTEBOOKS)]
needs_chromium = pytest.mark.skipif(test_browser.CHROMIUM is None, reason="there is no Chromium on this machine")
page = test_browser.page
axe = test_browser.axe


class Walk(HTMLParser):
    """What a page holds: .tags, each its name and attributes; .ids; .text."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(path.read_text(encoding="utf-8"))
        self.ids = {values["id"] for _, values in self.tags if "id" in values}

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str, attribute: str) -> list[str]:
        return [values[attribute] for name, values in self.tags if name == tag and attribute in values]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The folder that the command of `make book` fills; any warning, and any reference that leads nowhere, would stop it."""
    recipe = re.search(r"(?m)^book:.*\n\t\$\(PY\) (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"))[1]
    folder = tmp_path_factory.mktemp("build")
    done = subprocess.run([sys.executable, *recipe.split(), folder], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder / "book"


@pytest.fixture(scope="module")
def pages(site) -> dict[str, Walk]:
    """{address within the site: page}, of all pages."""
    return {path.relative_to(site).as_posix(): Walk(path) for path in sorted(site.rglob("*.html")) if "_static" not in path.parts}


def test_all_pages_are_there(pages):
    assert set(PAGES) <= pages.keys()


def test_every_link_anchor_and_picture_leads_somewhere(site, pages):
    lost = []
    for name, walk in pages.items():
        targets = walk.all("a", "href") + walk.all("link", "href") + walk.all("img", "src") + walk.all("script", "src")
        for target in targets:
            parts = urlsplit(target)
            if parts.scheme in ("http", "https", "data"):
                continue
            path = (site / name).parent / unquote(parts.path) if parts.path else site / name
            here = path.resolve().relative_to(site.resolve()).as_posix()
            anchor = not parts.fragment or here not in pages or unquote(parts.fragment) in pages[here].ids
            if not path.is_file() or not anchor:
                lost.append((name, target))
    assert lost == []


def test_no_page_asks_for_a_script_a_style_or_a_picture_from_elsewhere(site, pages):
    for name, walk in pages.items():
        asked = walk.all("script", "src") + walk.all("img", "src") + walk.all("iframe", "src")
        asked += [values["href"] for tag, values in walk.tags if tag == "link" and values["rel"] not in ("canonical", "author")]
        assert not [address for address in asked if "//" in address], name
    styles = [path.read_text(encoding="utf-8") for path in (site / "_static").rglob("*.css")]
    assert styles and not [style for style in styles if re.search(r"(url\(|@import )[\"']?(https?:)?//", style)]


def test_every_notebook_has_one_colab_button_and_is_there_to_download(site, pages):
    for path in NOTEBOOKS:
        walk = pages[f"notebooks/{path.stem}.html"]
        colab = [address for address in walk.all("a", "href") if "colab.research.google.com" in address]
        assert len(colab) == 1 and badges.badge(badges.repository(), path.name).endswith(f"]({colab[0]})")
        (download,) = [address for address in walk.all("a", "href") if "_downloads/" in address]
        assert (site / "notebooks" / download).read_bytes() == path.read_bytes()


def test_notebooks_follow_each_other_in_the_navigation_and_at_the_foot_of_the_page(pages):
    def listed(walk: Walk) -> list[str]:
        links = [Path(address).stem for address in walk.all("a", "href") if ".html" in address and "notebooks/" in address]
        return list(dict.fromkeys(links))

    assert listed(pages["index.html"]) == [path.stem for path in NOTEBOOKS]
    for before, after in zip(NOTEBOOKS, NOTEBOOKS[1:], strict=False):
        classes = {values.get("class"): values["href"] for tag, values in pages[f"notebooks/{before.stem}.html"].tags if tag == "a"}
        assert classes["right-next"] == f"{after.stem}.html"
        classes = {values.get("class"): values["href"] for tag, values in pages[f"notebooks/{after.stem}.html"].tags if tag == "a"}
        assert classes["left-prev"] == f"{before.stem}.html"


def test_every_picture_has_words(pages):
    for name, walk in pages.items():
        for tag, values in walk.tags:
            if tag == "img" and values.get("class") != "logo__image":  # the site's name stands beside its mark
                assert values.get("alt", "").strip(), (name, values)


def test_the_words_saved_with_a_figure_reach_its_page(pages):
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        said = [output["metadata"]["image/png"]["alt"] for output in outputs if "image/png" in output.get("data", {})]
        assert said and set(said) <= set(pages[f"notebooks/{path.stem}.html"].all("img", "alt"))


def test_solutions_are_folded(pages):
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        hidden = [cell for cell in cells if cell["metadata"].get("jupyter", {}).get("source_hidden")]
        walk = pages[f"notebooks/{path.stem}.html"]
        folds = [values for tag, values in walk.tags if tag == "details" and "hide" in values.get("class", "")]
        assert len(folds) == len(hidden) and not [fold for fold in folds if "open" in fold]


def test_every_word_of_the_glossary_leads_to_the_notebook_that_teaches_it(pages):
    written = (ROOT / "book/glossary.md").read_text(encoding="utf-8")
    entries = re.findall(r"(?m)^(\w.*)\n  (.*)$", written)
    assert {"theta", "localization network", "grid generator", "sampler", "aliasing", "IoU", "seed"} <= {
        word for word, _ in entries
    }
    for word, meaning in entries:
        assert re.search(r"Notebook \[\d\d\w?\]\.$", meaning), word
        assert f"term-{word}".replace(" ", "-") in pages["glossary.html"].ids
    linked = [address for address in pages["glossary.html"].all("a", "href") if "notebooks/" in address and "#" not in address]
    assert len(linked) >= len(entries)


def test_the_results_page_has_all_tables_and_every_number_in_them(pages):
    found, readme = (
        re.findall(r"<!-- table (\w+) -->", (ROOT / name).read_text(encoding="utf-8")) for name in ("book/results.md", "README.md")
    )
    assert sorted(found) == sorted(tables.TABLES) and set(readme) <= set(found)
    text = "".join(pages["results.html"].text.split())
    for name in found:
        rows = [line for line in tables.TABLES[name](ROOT).splitlines() if line.startswith("| ")]
        assert len(rows) > 2
        for row in rows:
            assert re.sub(r"\s|<br>|[|`]", "", row) in text, row


def public() -> list[str]:
    """The full names of all that the package defines and describes, but for what begins with an underscore."""
    names = []
    for about in pkgutil.iter_modules(stn_helpers.__path__):
        if about.name == "__main__":
            continue  # its words are those of --help
        module = importlib.import_module(f"stn_helpers.{about.name}")
        for name, thing in vars(module).items():
            if getattr(thing, "__module__", None) == module.__name__ and not name.startswith("_") and callable(thing):
                names.append(f"{module.__name__}.{name}")
                members = vars(thing).items() if inspect.isclass(thing) else ()
                described = [member for member, value in members if inspect.isfunction(value) and value.__doc__]
                names += [f"{module.__name__}.{name}.{member}" for member in described if not member.startswith("_")]
    return names


def test_the_package_page_has_every_public_function_of_the_package(pages):
    names = public()
    assert "stn_helpers.theta.affine" in names and "stn_helpers.transformer.SpatialTransformer.params" in names
    assert sorted(set(names) - pages["api.html"].ids) == []


def test_docstrings_are_set_as_words(pages):
    walk = pages["api.html"]
    assert "angle: degrees, the window turns clockwise" in walk.text
    assert "2 K^2 places, (x, y) point by point" in walk.text
    assert not re.search(r"\\\*|``|:py:|:doc:|:class:|\.\. note|<lambda>|Alias for field", walk.text)
    assert "notebooks/01_transformation_matrices.html" in walk.all("a", "href")


def test_the_workflow_publishes_what_make_book_makes():
    workflow = yaml.safe_load((ROOT / ".github/workflows/book.yml").read_text(encoding="utf-8"))
    steps = workflow["jobs"]["book"]["steps"]
    assert any(step.get("run", "").startswith("make book") for step in steps)
    (upload,) = [step for step in steps if "upload-pages-artifact" in step.get("uses", "")]
    assert upload["with"]["path"] == "build/book"


# From here on in Chromium, served as any web server would, and cut off from all else.


@pytest.fixture(scope="module")
def served(site) -> str:
    """The address of the site."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def book(page, served) -> SimpleNamespace:
    """The site in Chromium: .page; .open(address); .outside, what it asked of others, in vain; .faults, what the console said."""
    state = SimpleNamespace(page=page, outside=[], faults=[])

    def refuse(route):
        state.outside.append(route.request.url)
        route.abort()

    def open_page(address: str) -> None:
        page.goto(served + address)

    page.route(lambda address: not address.startswith((served, "data:", "blob:")), refuse)
    page.on("console", lambda message: state.faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: state.faults.append(str(error)))
    state.open = open_page
    return state


@needs_chromium
@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_with_no_network_and_fits_a_phone(book, name):
    book.page.set_viewport_size({"width": 390, "height": 800})
    book.open(name)
    assert book.page.evaluate("document.documentElement.scrollWidth") <= 390
    book.page.set_viewport_size(test_browser.WINDOW)
    pictures = book.page.locator("article img")
    pictures.evaluate_all("all => Promise.all(all.map(picture => { picture.loading = 'eager'; return picture.decode(); }))")
    assert pictures.evaluate_all("all => all.every(picture => picture.naturalWidth > 0)")
    assert (book.outside, book.faults) == ([], [])


@needs_chromium
def test_search_finds_a_word_and_leads_to_it(book):
    book.open("index.html")
    book.page.locator(".bd-sidebar-primary .search-button__button").click()
    book.page.keyboard.type("localization")
    book.page.keyboard.press("Enter")
    found = book.page.locator("#search-results ul.search li a", has_text="02 · Localization network").first
    found.wait_for()
    found.click()
    book.page.wait_for_url("**/notebooks/02_localization_network.html*")
    assert (book.outside, book.faults) == ([], [])


BACKGROUND = "Math.max(...getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).slice(0, 3).map(Number))"


@needs_chromium
def test_dark_and_light_take_turns_and_are_remembered(book):
    book.open("index.html")
    seen = {}
    for mode in ("light", "dark"):
        book.page.locator(".theme-switch-button:visible").click()
        book.page.locator(f".theme-change-button[data-mode={mode}]:visible").click()
        seen[mode] = book.page.evaluate(BACKGROUND)
    assert seen["dark"] < 50 < 200 < seen["light"]
    book.open("glossary.html")
    assert book.page.evaluate(BACKGROUND) == seen["dark"]
    book.page.evaluate("localStorage.clear()")


MIDDLES = """sum => [...sum.children].map(part => part.getBoundingClientRect()).map(box => (box.top + box.bottom) / 2)"""


@needs_chromium
def test_formulas_are_set_and_not_spelt(book, pages):
    for walk in pages.values():
        assert not re.search(r"\$\$|\\sum|\\max|\\frac", walk.text)
    book.open("notebooks/03_grid_generator_and_sampler.html")
    sign, below, above = book.page.locator("math munderover").first.evaluate(MIDDLES)
    assert above < sign < below


@needs_chromium
def test_the_play_page_answers_without_a_kernel(book):
    book.open("play.html")
    explorers = book.page.locator(".stn-explorer")
    assert explorers.count() == 2
    for number in range(2):
        root = explorers.nth(number).locator("section")
        before = root.inner_text(), root.screenshot()
        root.locator("input[type=range]").first.focus()
        for _ in range(20):
            book.page.keyboard.press("ArrowRight")
        book.page.wait_for_timeout(200)
        assert root.inner_text() != before[0] and root.screenshot() != before[1]
    assert (book.outside, book.faults) == ([], [])


EVERYTHING = {"resultTypes": ["violations"]}
COLOURS = {**EVERYTHING, "runOnly": ["color-contrast", "link-in-text-block"]}  # all that the dark can change


@needs_chromium
@pytest.mark.parametrize("name", [*PAGES, "search.html", "genindex.html"])
def test_nothing_serious_is_in_the_way_of_anyone(book, axe, name):
    book.open(name)
    book.page.add_style_tag(content="* { transition: none !important; }")  # a colour on its way is not the one that is read
    book.page.evaluate(axe)
    for mode in ("light", "dark"):
        book.page.evaluate("mode => Object.assign(document.documentElement.dataset, {mode, theme: mode})", mode)
        found = book.page.evaluate("only => axe.run(document, only)", EVERYTHING if mode == "light" else COLOURS)["violations"]
        bad = [(fault["id"], fault["nodes"][0]["html"]) for fault in found if fault["impact"] in ("serious", "critical")]
        assert bad == [], mode
