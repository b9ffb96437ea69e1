"""How Sphinx makes the site: the notebooks with the outputs that they were saved with, and the pages that lie here."""

import re
from html import escape
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from latex2mathml.converter import convert
from sphinx.application import Sphinx

from tools import badges, tables
from tools.book import ROOT, cards, index, lesson, plain_words, top_cell

project = "Spatial Transformer Networks"
author = "the authors of the series"
copyright = "the authors of the series. MIT licence"
html_title = project
REPOSITORY = f"https://github.com/{badges.repository()}"
SITE = "https://{}.github.io/{}/".format(*badges.repository().split("/"))
ABOUT = (
    "Spatial transformer networks, from a 2 × 2 matrix to networks that learn where to look: notebooks for a laptop or Colab, "
    "a picture to drag, and every number with the command that made it."
)

extensions = ["myst_nb", "sphinx.ext.autodoc"]
smartquotes = False  # two dashes are an option of a command, and not a dash
exclude_patterns = ["assets/README.md"]
nb_execution_mode = "off"
nb_merge_streams = True
nb_code_prompt_show = "Show the solution"
nb_code_prompt_hide = "Hide the solution"
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
add_module_names = False
toc_object_entries_show_parents = "hide"
# What is not ours cannot be looked up without a network.
nitpick_ignore_regex = [(r"py:.*", r"(?!stn_helpers\.).*")]

html_theme = "sphinx_book_theme"
html_theme_options = {
    "repository_url": REPOSITORY,
    "use_repository_button": True,
    "use_download_button": False,  # each notebook has its two buttons under its title
    "use_fullscreen_button": False,
    "navbar_persistent": [],  # the search field is in the side bar
    "footer_content_items": ["copyright.html"],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_context = {"default_mode": "auto"}
html_sidebars = {"**": ["home.html", "find.html", "sbt-sidebar-nav.html"]}
templates_path = ["_templates"]
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_js_files = [("book.js", {"defer": "defer"})]
html_favicon = "_static/window.svg"
html_copy_source = False
html_math_renderer = "mathml"


def prepare(app: Sphinx, page: str, source: list[str]) -> None:
    """What a page of the site has and its source has not."""
    if page.startswith("notebooks/"):
        source[0] = lesson(f"{Path(page).name}.ipynb", source[0])
    else:
        for mark, words in {"<!-- notebooks -->": cards(), "<!-- modules -->": index(), "REPOSITORY": REPOSITORY}.items():
            source[0] = source[0].replace(mark, words)
        source[0] = tables.fill(source[0])


class Explorer(Directive):
    """```{explorer} matrix``` puts the sliders that need no kernel on a page."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        from stn_helpers.show.explorer import explorer_html

        return [nodes.raw("", explorer_html(self.arguments[0], link=True), format="html")]


def finish(app: Sphinx, page: str, template: str, context: dict, doctree: nodes.document | None) -> None:
    """What a page says of itself: one title, a description and a picture where it is shared, and folds named by their words."""
    # MyST-NB hides the words on a fold behind others from those who listen.
    context["body"] = context.get("body", "").replace('<summary aria-label="Toggle hidden content">', "<summary>")
    if page == app.config.root_doc:
        context["docstitle"] = ""
    title, about = re.sub("<.*?>", "", context.get("title", project)), ABOUT
    if page.startswith("notebooks/"):
        will = re.search(r"(?m)^\*\*You will\*\* (.*)$", top_cell(ROOT / f"{page}.ipynb"))[1]
        about = re.sub("[*`]", "", will[0].upper() + will[1:])
    found = {"og:title": title, "og:description": about, "og:type": "website", "og:image": f"{SITE}_static/share.png"}
    metas = [f'<meta property="{name}" content="{escape(words)}">' for name, words in found.items()]
    context["metatags"] = context.get("metatags", "") + f'<meta name="description" content="{escape(about)}">' + "".join(metas)


def skip(app: Sphinx, what: str, name: str, thing: object, skipped: bool, options: dict) -> bool | None:
    """Fields of a named tuple have no words of their own."""
    return True if (getattr(thing, "__doc__", None) or "").startswith("Alias for field number") else None


def formula(display: str):
    """A formula as MathML, which browsers set and screen readers read with no script and no font from elsewhere."""

    def visit(writer, node: nodes.Node) -> None:
        text = convert(node.astext(), display=display)
        writer.body.append(f'<div class="math" tabindex="0">{text}</div>' if display == "block" else text)
        raise nodes.SkipNode

    return visit, None


def setup(app: Sphinx) -> None:
    app.add_directive("explorer", Explorer)
    app.add_html_math_renderer("mathml", formula("inline"), formula("block"))
    app.connect("source-read", prepare)
    app.connect("html-page-context", finish)
    app.connect("autodoc-process-docstring", plain_words)
    app.connect("autodoc-skip-member", skip)
