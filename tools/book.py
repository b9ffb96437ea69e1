"""The series as a static site, build/book/index.html: `make book`. What is particular to the site lies in book/."""

import ast
import json
import re
import shutil
import sys
from pathlib import Path

from PIL import Image
from sphinx.cmd.build import build_main

from . import badges

ROOT = Path(__file__).resolve().parent.parent
STRICT = ["-W", "--keep-going", "-n", "-q"]  # any warning fails, and so does a reference that leads nowhere
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# The notebooks in groups, as the first page shows them; what is not named here goes to the last.
GROUPS = {
    "The three parts": ["01", "02", "03", "03b"],
    "It learns": ["04", "04b", "05"],
    "Does it help?": ["06", "06b", "06c", "07"],
    "Beyond one transformer": [],
}
ROOMS = {
    "stn_helpers": "The ground floor: the path of one image. It needs torch and nothing else.",
    "stn_helpers.data": "Sets, batches on the device, distortions with their poses.",
    "stn_helpers.training": "Recipes, a trainer, checkpoints.",
    "stn_helpers.show": "Plots, sliders, the explorer.",
    "studies": "The experiments behind the numbers, one file a study.",
}


def gather(folder: Path) -> None:
    """Pages, notebooks and pictures side by side, as they lie in the repository, so that the links between them hold."""
    shutil.rmtree(folder, ignore_errors=True)
    ignore = shutil.ignore_patterns(".ipynb_checkpoints", "__pycache__", "checkpoints", "results")
    shutil.copytree(ROOT / "book", folder)
    for name in ("notebooks", "assets"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    shutil.copy(ROOT / "assets/Transformations.png", folder / "_static/share.png")  # what a shared link shows
    (folder / "api").mkdir()
    for room in ROOMS:
        for module in modules(room):
            words = f"# {module}\n\n```{{eval-rst}}\n.. automodule:: {module}\n   :members:\n```\n"
            (folder / "api" / f"{module}.md").write_text(words, encoding="utf-8")
    thumbs = folder / "assets" / "thumbs"
    thumbs.mkdir()
    for path in NOTEBOOKS:
        name = top_picture(top_cell(path))[1]
        with Image.open(ROOT / "assets" / name) as picture:
            picture.seek(getattr(picture, "n_frames", 1) - 1)  # of one that moves, how it ends
            small = picture.convert("RGB")
            small.thumbnail((520, 260))
            small.save(thumbs / f"{path.stem}.webp", quality=62, method=6)


# --- notebooks ---


def top_cell(path: Path) -> str:
    """A notebook's first cell."""
    return "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])


def top_picture(top: str) -> tuple[str, str]:
    """(alternative text, file name) of the picture in a first cell."""
    alt, name = re.search(r"(?m)^!\[(.*)\]\(\.\./assets/(.*)\)", top).groups()
    return alt, name


def number(path: Path) -> str:
    """01, 04b ..."""
    return path.stem.split("_")[0]


def only_draws(source: str) -> bool:
    """Whether a cell of six lines or more does little else than draw: a reader wants the picture, and may want the lines."""
    lines = [line for line in source.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    drawing = [line for line in lines if re.search(r"\b(fig|ax|axes|plots?|show|alt|titles?|imshow)\b|^\s+\"", line)]
    return len(lines) >= 6 and "show(" in source and len(drawing) >= 0.7 * len(lines)


def lesson(name: str, text: str) -> str:
    """A notebook as the site shows it: solutions and drawing folded, a target for each section, pictures with their words, and two
    buttons in place of the badge.
    """
    book = json.loads(text)
    for cell in book["cells"]:
        meta, source = cell["metadata"], "".join(cell["source"])
        own = meta.setdefault("mystnb", {})
        if cell["cell_type"] == "markdown":
            cell["source"] = re.sub(r"(?m)^(?=## (\d+) · )", rf"(s{name.split('_')[0]}-\1)=\n", source)
        elif meta.get("jupyter", {}).get("source_hidden"):
            meta["tags"] = [*meta.get("tags", []), "hide-input"]
        elif only_draws(source):
            meta["tags"] = [*meta.get("tags", []), "hide-input"]
            own.update(code_prompt_show="Show how it is drawn", code_prompt_hide="Hide how it is drawn")
        outputs = cell.get("outputs", [])
        for alt in [words for output in outputs if (words := output.get("metadata", {}).get("image/png", {}).get("alt"))]:
            own["image"] = {"alt": alt}  # so what says it elsewhere, an element that is only heard, would say it twice
            cell["outputs"] = [each for each in outputs if "aria-label" not in "".join(each.get("data", {}).get("text/html", ""))]
        if not own:
            del meta["mystnb"]
    top, badge = "".join(book["cells"][0]["source"]), badges.badge(badges.repository(), name)
    colab = badge[badge.rindex("(") + 1 : -1]
    buttons = f":::{{container}} buttons\n[Open in Colab]({colab}) {{download}}`Download the notebook <{name}>`\n:::"
    book["cells"][0]["source"] = re.sub(r"(?m)^# .*$", rf"\g<0>\n\n{buttons}", top.replace(badge, ""), count=1)
    return json.dumps(book)


def cards() -> str:
    """The notebooks in groups: of each its own picture, its title, and what it answers, from its own first words."""
    groups: dict[str, list[str]] = {group: [] for group in GROUPS}
    named = {one: group for group, numbers in GROUPS.items() for one in numbers}
    for path in NOTEBOOKS:
        top = top_cell(path)
        title, will, takes = (re.search(rf"(?m)^{mark} (.*)$", top)[1] for mark in ("#", r"\*\*You will\*\*", r"\*\*It takes\*\*"))
        picture = f"![{top_picture(top)[0]}](assets/thumbs/{path.stem}.webp)"
        words = f"[{title}](notebooks/{path.name})\n\n{will[0].upper()}{will[1:]}\n\n*{takes[0].upper()}{takes[1:]}*"
        groups[named.get(number(path), list(GROUPS)[-1])].append(f":::{{container}} lesson\n{picture}\n\n{words}\n:::")
    return "\n\n".join(f"### {group}\n\n::::{{container}} cards\n{chr(10).join(found)}\n::::" for group, found in groups.items())


# --- the package ---


def modules(room: str) -> list[str]:
    """The modules of a room, each behind those of it that it imports."""
    folder, order = ROOT / room.replace(".", "/"), []
    names = sorted(path.stem for path in folder.glob("[a-z]*.py"))

    def add(name: str) -> None:
        if name in order:
            return
        for node in ast.parse((folder / f"{name}.py").read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom):
                whole = f"{room}.{node.module or ''}".rstrip(".") if node.level else node.module
                for needed in [whole, *(f"{whole}.{one.name}" for one in node.names)]:
                    own = needed.removeprefix(f"{room}.")
                    if needed != own and own in names and own != name:
                        add(own)
        order.append(name)

    for name in names:
        add(name)
    return [f"{room}.{name}" for name in order]


def index() -> str:
    """The package room by room, each module with its first line, and the list that Sphinx needs."""
    parts = []
    for room, words in ROOMS.items():
        found = []
        for module in modules(room):
            code = (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
            found.append(f"- [{module}](api/{module}.md): {(ast.get_docstring(ast.parse(code)) or '').splitlines()[0]}")
        listed = "\n".join(f"api/{module}" for module in modules(room))
        parts.append(f"## {room}\n\n{words}\n\n{chr(10).join(found)}\n\n```{{toctree}}\n:hidden:\n\n{listed}\n```")
    return "\n\n".join(parts)


# A docstring's sentence that begins a line of its own keeps it, and so do what comes back, what is refused and where it is from.
NEW_LINE = r"(?<=[.:])\n\s*|(?<=\.) (?=(?:Returns|Raises|Paper:|Taught in) )"


def plain_words(app, what, name, thing, options, lines: list[str]) -> None:
    """The package's docstrings are plain text; this is how Sphinx reads them: a thought a line, code, links to notebooks."""
    done = []
    for paragraph in "\n".join(lines).strip().split("\n\n"):
        sentences = [_markup(" ".join(one.split())) for one in re.split(NEW_LINE, paragraph)]
        done += [*(f"| {one}" for one in sentences), ""] if len(sentences) > 1 else [*sentences, ""]
    lines[:] = done


def _markup(line: str) -> str:
    """One line as reStructuredText, in which a star or a bar is only a star or a bar."""
    parts = line.split("`")
    parts[::2] = [re.sub(r"([\\*|_])", r"\\\1", part) for part in parts[::2]]
    line = "".join(part if i % 2 == 0 else f"``{part}``" for i, part in enumerate(parts) if part or i % 2 == 0)
    line = re.sub(r"^([a-z][\w\\]*(?:, [a-z][\w\\]*)*): ", r"**\1**: ", line)
    known = {number(path): path.stem for path in NOTEBOOKS}
    links = {one: f":doc:`{one} </notebooks/{stem}>`" for one, stem in known.items()}
    named = r"notebooks? \d\d[a-z]?(?:(?:, | and )\d\d[a-z]?)*"
    return re.sub(named, lambda words: re.sub(r"\d\d[a-z]?", lambda one: links.get(one[0], one[0]), words[0]), line)


# --- the site ---


def lighten(site: Path) -> None:
    """A first page must come quickly: no icon fonts and no script for them (book.css has the few icons), no source maps, what
    searches is on the page that searches, and pictures come when they are scrolled to.
    """
    for path in [*site.rglob("*.map"), *site.rglob("fontawesome*"), *site.rglob("fa-*.woff2")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    css = site / "_static/styles/pydata-sphinx-theme.css"
    text = css.read_text(encoding="utf-8")
    text = re.sub(r"@font-face\{[^}]*\}", "", text)
    text = re.sub(r"(?<=\})\.fa[a-z]?[-.,:][^{}]*\{[^{}]*\}", "", text)
    css.write_text(re.sub(r"\n?/\*# sourceMapping.*", "", text), encoding="utf-8")
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        unused = "fontawesome" if path.name == "search.html" else "fontawesome|searchindex|searchtools|language_data|stemmer"
        text = re.sub(rf"\s*<script[^>]*(?:{unused})[^>]*></script>", "", text)
        text = re.sub(r'<meta name="viewport"[^>]*>(?=.*<meta name="viewport")', "", text, flags=re.DOTALL)  # one is enough
        text = re.sub(r"<img (?![^>]*(?:loading=|logo__image))", '<img loading="lazy" ', text)
        text = text.replace('<summary><span class="toctree-toggle"', '<summary aria-label="its pages"><span class="toctree-toggle"')
        path.write_text(text, encoding="utf-8")


def build(folder: Path) -> int:
    """The site in folder/book, from sources gathered in folder/book-src; Sphinx's exit code. No network is needed."""
    source, site = folder / "book-src", folder / "book"
    gather(source)
    shutil.rmtree(site, ignore_errors=True)
    code = build_main([*STRICT, "-b", "html", "-d", str(folder / "book-doctrees"), "-E", str(source), str(site)])
    if code == 0:
        lighten(site)
    return code


if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build"))
