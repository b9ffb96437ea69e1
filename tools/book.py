"""The series as a static site, build/book/index.html: `make book`. What is particular to the site lies in book/."""

import json
import re
import shutil
import sys
from pathlib import Path

from sphinx.cmd.build import build_main

import stn_helpers

from . import badges

ROOT = Path(__file__).resolve().parent.parent
STRICT = ["-W", "--keep-going", "-n", "-q"]  # any warning fails, and so does a reference that leads nowhere


def gather(folder: Path) -> None:
    """Pages, notebooks and pictures side by side, as they lie in the repository, so that the links between them hold."""
    shutil.rmtree(folder, ignore_errors=True)
    ignore = shutil.ignore_patterns(".ipynb_checkpoints", "__pycache__", "checkpoints", "results")
    shutil.copytree(ROOT / "book", folder)
    for name in ("notebooks", "assets"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)


def lesson(name: str, text: str) -> str:
    """A notebook as the site shows it: solutions folded, pictures with their words, two buttons in place of the badge."""
    book = json.loads(text)
    for cell in book["cells"]:
        if cell["metadata"].get("jupyter", {}).get("source_hidden"):
            cell["metadata"]["tags"] = [*cell["metadata"].get("tags", []), "hide-input"]
        for output in cell.get("outputs", []):
            if alt := output.get("metadata", {}).get("image/png", {}).get("alt"):
                cell["metadata"]["mystnb"] = {"image": {"alt": alt}}
    top, badge = "".join(book["cells"][0]["source"]), badges.badge(badges.repository(), name)
    colab = badge[badge.rindex("(") + 1 : -1]
    buttons = f":::{{container}} buttons\n[Open in Colab]({colab}) {{download}}`Download the notebook <{name}>`\n:::"
    book["cells"][0]["source"] = re.sub(r"(?m)^# .*$", rf"\g<0>\n\n{buttons}", top.replace(badge, ""), count=1)
    return json.dumps(book)


def cards() -> str:
    """One card a notebook, in order, from its own first words."""
    found = []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        top = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
        title, will, takes = (re.search(rf"(?m)^{mark} (.*)$", top)[1] for mark in ("#", r"\*\*You will\*\*", r"\*\*It takes\*\*"))
        card = f"[{title}](notebooks/{path.name})\n\n{will[0].upper()}{will[1:]}\n\n*{takes[0].upper()}{takes[1:]}*"
        found.append(f":::{{container}} lesson\n{card}\n:::")
    return "\n\n".join(["::::{container} cards", *found, "::::"])


def files() -> list[str]:
    """The package's files as an image walks through them, each behind those that it imports."""
    order: list[str] = []

    def add(name: str) -> None:
        if name not in order:
            code = (ROOT / "stn_helpers" / f"{name}.py").read_text(encoding="utf-8")
            for file, names in re.findall(r"(?m)^from \.(\w*) import (.*)$", code):
                for needed in [file] if file else names.split(", "):
                    add(needed)
            order.append(name)

    walk = re.findall(r"\w+(?= ->)|(?<=-> )\w+", stn_helpers.__doc__)
    for name in [*walk, *sorted(path.stem for path in (ROOT / "stn_helpers").glob("[a-z]*.py"))]:
        add(name)
    return order


def modules() -> str:
    """What the package says of itself, file by file."""
    one = "## {0}\n\n```{{eval-rst}}\n.. automodule:: stn_helpers.{0}\n   :members:\n```"
    return "\n\n".join(one.format(name) for name in files())


def build(folder: Path) -> int:
    """The site in folder/book, from sources gathered in folder/book-src; Sphinx's exit code. No network is needed."""
    source, site = folder / "book-src", folder / "book"
    gather(source)
    shutil.rmtree(site, ignore_errors=True)
    return build_main([*STRICT, "-b", "html", "-d", str(folder / "book-doctrees"), "-E", str(source), str(site)])


if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build"))
