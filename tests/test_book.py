"""The site as its readers meet it: whole, with no network, in Chromium, by keyboard and by ear."""

import functools
import http.server
import importlib
import inspect
import json
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

from tools import badges, tables
from tools.book import GROUPS, ROOMS, modules, number, only_draws

pytest.importorskip("sphinx_book_theme", reason="the site's theme is not installed; it needs Python 3.11 or newer")

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# Pages that Sphinx makes by itself are read too, but they are not listed here.
PAGES = [f"{name}.html" for name in ("index", "play", "results", "teachers", "glossary", "api", "api/stn_helpers.theta")]
PAGES += [f"notebooks/{path.stem}.html" for path in NOTEBOOKS]
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

    assert set(listed(pages["index.html"])) == {path.stem for path in NOTEBOOKS}
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


def test_solutions_and_what_only_draws_are_folded(pages):
    drawn = 0
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        hidden = [cell for cell in cells if cell["metadata"].get("jupyter", {}).get("source_hidden")]
        drawing = [cell for cell in cells if cell["cell_type"] == "code" and only_draws("".join(cell["source"]))]
        drawing = [cell for cell in drawing if cell not in hidden]
        walk = pages[f"notebooks/{path.stem}.html"]
        folds = [values for tag, values in walk.tags if tag == "details" and "hide" in values.get("class", "")]
        assert len(folds) == len(hidden) + len(drawing) and not [fold for fold in folds if "open" in fold]
        assert walk.text.count("Show how it is drawn") == len(drawing)
        drawn += len(drawing)
    assert drawn > 5


def test_a_cell_that_teaches_is_not_folded():
    figure = "fig, axes = plots.figure(1, 2)\nplots.draw(axes[0, 0], a)\nplots.draw(axes[0, 1], b)\n"
    more = "axes[0, 0].set_title('a')\naxes[0, 1].set_title('b')\nshow(fig, alt='two')"
    assert only_draws(figure + more)
    assert not only_draws("theta = affine(30)\ngrid = theta @ points\nu, v = grid\nx = u + 1\ny = v + 1\nshow([y], alt='y')")
    assert not only_draws("fig, axes = plots.figure()\nshow(fig, alt='short')")


def test_the_first_page_has_every_notebook_once_in_its_group_with_its_own_picture(pages):
    walk = pages["index.html"]
    assert all(group in walk.text for group in GROUPS)
    thumbs = [Path(source).stem for source in walk.all("img", "src") if source.endswith(".webp")]
    assert sorted(thumbs) == [path.stem for path in NOTEBOOKS]
    order = [one for group in list(GROUPS.values())[:-1] for one in group]
    found = [thumb.split("_")[0] for thumb in thumbs]
    assert found[: len([one for one in order if one in found])] == [one for one in order if one in found]
    assert "stn-explorer" in {values.get("class") for _, values in walk.tags}


def test_a_page_says_what_it_is_once(site, pages):
    for name in ("index.html", "notebooks/01_transformation_matrices.html"):
        text = (site / name).read_text(encoding="utf-8")
        head = text.split("</head>")[0]
        assert head.count('name="viewport"') == 1 and head.count("<title>") == 1
        metas = {
            values.get("name") or values.get("property"): values.get("content") for tag, values in pages[name].tags if tag == "meta"
        }
        assert len(metas["description"]) > 60 and metas["og:image"].endswith("/_static/share.png") and metas["og:title"]
    assert (
        re.search("<title>([^<]*)", (site / "index.html").read_text(encoding="utf-8"))[1].strip() == "Spatial Transformer Networks"
    )
    assert (site / "_static/share.png").is_file()


def test_nothing_is_published_that_no_reader_needs(site):
    assert not [*site.rglob("*.map"), *site.rglob("*fontawesome*.js"), *site.rglob("fa-*.woff2")]


def sections() -> dict[str, str]:
    """{anchor: the words of that section}, of all notebooks."""
    found = {}
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells)
        for part in re.split(r"(?m)^(?=## )", text)[1:]:
            if numbered := re.match(r"## (\d+) · ", part):
                found[f"s{number(path)}-{numbered[1]}"] = part.lower()
    return found


def test_every_word_of_the_glossary_leads_to_the_section_that_teaches_it(pages):
    written = (ROOT / "book/glossary.md").read_text(encoding="utf-8")
    entries = re.findall(r"(?m)^(\w.*)\n  (.*)$", written)
    assert {"theta", "localization network", "grid generator", "sampler", "aliasing", "IoU", "seed"} <= {
        word for word, _ in entries
    }
    there = sections()
    for word, meaning in entries:
        nb, section, anchor = re.search(r"Taught in \[(\d\d\w?) §(\d+)\]\(#(.*)\)\.$", meaning).groups()
        assert anchor == f"s{nb}-{section}"
        related = re.search(r"Related: (.*?)\. Taught", meaning)
        words = [word, *(related[1].split(", ") if related else [])]
        assert any(one.lower().replace("-", " ")[:7] in there[anchor].replace("-", " ") for one in words), (word, anchor)
        assert f"term-{word}".replace(" ", "-") in pages["glossary.html"].ids
    linked = [address for address in pages["glossary.html"].all("a", "href") if re.search(r"notebooks/.*#s\d\d\w?-\d", address)]
    assert len(linked) == len(entries)


LESSONS = (ROOT / "book/teachers.md").read_text(encoding="utf-8")
ANSWERS = re.findall(r"```python\n(.*?)```", LESSONS, flags=re.DOTALL)


def test_there_are_six_lessons_each_with_its_plan_and_three_questions():
    lessons = re.split(r"(?m)^## Lesson \d · ", LESSONS)[1:]
    assert len(lessons) == 6
    for lesson in lessons:
        assert "**Plan.**" in lesson and "**What students get wrong.**" in lesson and "](#s0" in lesson
        assert lesson.count("<summary>Answer</summary>") == lesson.count("```python") == 3
        assert sum(int(minutes) for minutes in re.findall(r"(\d+) minutes:", lesson)) == 90


@pytest.mark.parametrize("code", ANSWERS, ids=range(len(ANSWERS)))
def test_an_answer_of_the_exam_is_right(code):
    assert "assert" in code
    exec(code, {})


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
    """The full names of all that the package and the studies define and describe, but for what begins with an underscore."""
    names = []
    for module in [importlib.import_module(name) for room in ROOMS for name in modules(room)]:
        for name, thing in vars(module).items():
            if (
                getattr(thing, "__module__", None) == module.__name__
                and not name.startswith("_")
                and callable(thing)
                and thing.__doc__
            ):
                names.append(f"{module.__name__}.{name}")
                members = vars(thing).items() if inspect.isclass(thing) else ()
                described = [member for member, value in members if inspect.isfunction(value) and value.__doc__]
                names += [f"{module.__name__}.{name}.{member}" for member in described if not member.startswith("_")]
    return names


def test_every_module_has_a_page_with_every_public_function_of_it(pages):
    names = public()
    assert "stn_helpers.theta.affine" in names and "stn_helpers.transformer.SpatialTransformer.params" in names
    assert {"stn_helpers.data.sets.load", "stn_helpers.training.trainer.fit", "stn_helpers.show.plots.show"} <= set(names)
    ids = {one for name, walk in pages.items() if name.startswith("api/") for one in walk.ids}
    assert sorted(set(names) - ids) == []


def test_modules_stand_behind_those_that_they_import():
    order = [name.split(".")[-1] for name in modules("stn_helpers")]
    assert order.index("theta") < order.index("grid") < order.index("sampler") < order.index("transformer")
    assert order.index("families") < order.index("transformer")


def test_docstrings_are_set_as_words(pages):
    text = "".join(walk.text for name, walk in pages.items() if name.startswith("api/"))
    assert "angle: degrees, the window turns clockwise" in text
    assert "last axis (x, y)" in text
    assert not re.search(r"\\\*|``|:py:|:doc:|:class:|\.\. note|<lambda>|Alias for field", text)
    assert "../notebooks/01_transformation_matrices.html" in pages["api/stn_helpers.theta.html"].all("a", "href")


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
    state = SimpleNamespace(page=page, address=served, outside=[], faults=[])

    def refuse(route):
        state.outside.append(route.request.url)
        route.abort()

    def open_page(address: str) -> None:
        page.goto(served + address)

    page.route(lambda address: not address.startswith((served, "data:", "blob:", "file:")), refuse)
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
@pytest.mark.parametrize("place", ["http", "file"])
def test_the_play_page_answers_without_a_kernel(book, site, place):
    book.open("play.html") if place == "http" else book.page.goto((site / "play.html").as_uri())
    explorers = book.page.locator(".stn-explorer")
    assert explorers.count() == 2
    for which in range(2):
        root = explorers.nth(which).locator("section")
        before = root.inner_text(), root.locator(".sight").screenshot()
        root.locator("input[type=range]").nth(which).focus()
        for _ in range(20):
            book.page.keyboard.press("ArrowRight")
        book.page.wait_for_timeout(200)
        assert root.inner_text() != before[0] and root.locator(".sight").screenshot() != before[1]
    assert [address for address in book.outside if not address.startswith("file:")] == [] and book.faults == []


@needs_chromium
def test_a_first_page_costs_at_most_700_kilobytes(book):
    """Cold, without compression, as the browser counts it."""
    sizes, page = [], book.page.context.browser.new_page(viewport={"width": 1280, "height": 800})
    page.on("response", lambda answer: sizes.append(len(answer.body())))
    page.goto(book.address + "index.html")
    page.wait_for_load_state("networkidle")
    page.close()
    assert 100_000 < sum(sizes) <= 700_000


TOO_WIDE = """() => [...document.querySelectorAll('.cell_input pre')]
    .filter(pre => pre.offsetParent && pre.scrollWidth > pre.clientWidth + 1)
    .map(pre => Math.max(...pre.innerText.split('\\n').map(line => line.length)))"""


@needs_chromium
def test_a_line_of_88_characters_does_not_scroll_at_1280_pixels(book):
    book.page.set_viewport_size({"width": 1280, "height": 800})
    for path in NOTEBOOKS[:4]:
        book.open(f"notebooks/{path.stem}.html")
        assert [longest for longest in book.page.evaluate(TOO_WIDE) if longest <= 88] == []
    book.page.set_viewport_size(test_browser.WINDOW)


@needs_chromium
def test_code_has_a_button_that_copies_it(book):
    book.open("notebooks/01_transformation_matrices.html")
    block = book.page.locator(".cell_input div.highlight").nth(1)
    block.hover()
    book.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    block.get_by_role("button", name="copy this code").click()
    assert book.page.evaluate("navigator.clipboard.readText()").strip() == block.locator("pre").inner_text().strip()


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
