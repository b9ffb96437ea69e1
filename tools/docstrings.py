"""The package's docstrings are plain text; here they become what Sphinx reads, with links to the notebooks that teach a thing."""

import re
import sys

from sphinx.application import Sphinx

from .book import ROOT

# A sentence that begins a line of its own keeps it, and so do what comes back, what is refused and where it is from.
NEW_LINE = r"(?<=[.:])\n\s*|(?<=\.) (?=(?:Returns|Raises|Paper:|Taught in) )"


def code(word: str, module: object) -> str:
    """What a docstring has between backticks: a link where it names something in the package."""
    here = getattr(module, word, None) if word.isidentifier() else None
    owner = getattr(here, "__module__", None) or ""
    return f":py:obj:`{word} <{owner}.{word}>`" if owner.startswith("stn_helpers") else f"``{word}``"


def notebooks(words: re.Match) -> str:
    """Numbers of notebooks, linked where there is such a notebook."""

    def link(number: re.Match) -> str:
        found = sorted((ROOT / "notebooks").glob(f"{number[0]}_*.ipynb"))
        return f":doc:`{number[0]} </notebooks/{found[0].stem}>`" if found else number[0]

    return re.sub(r"\d\d[a-z]?", link, words[0])


def markup(line: str, module: object) -> str:
    """One line of plain words as reStructuredText, in which a star or a bar is only a star or a bar."""
    parts = line.split("`")
    parts[::2] = [re.sub(r"([\\*|_])", r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [code(part, module) for part in parts[1::2]]
    line = re.sub(r"^([a-z][\w\\]*(?:, [a-z][\w\\]*)*): ", lambda names: f"**{names[1]}**: ", "".join(parts))
    return re.sub(r"notebooks? \d\d[a-z]?(?:(?:, | and )\d\d[a-z]?)*", notebooks, line)


def plain_words(app: Sphinx, what: str, name: str, thing: object, options: dict, lines: list[str]) -> None:
    """A docstring as paragraphs, and as lines where it has several thoughts."""
    module = sys.modules.get(getattr(thing, "__module__", None) or name, thing)
    done = []
    for paragraph in "\n".join(lines).strip().split("\n\n"):
        sentences = [markup(" ".join(one.split()), module) for one in re.split(NEW_LINE, paragraph)]
        done += [*(f"| {one}" for one in sentences), ""] if len(sentences) > 1 else [*sentences, ""]
    lines[:] = done


def skip(app: Sphinx, what: str, name: str, thing: object, skipped: bool, options: dict) -> bool | None:
    """Fields of a named tuple have no words of their own."""
    return True if (getattr(thing, "__doc__", None) or "").startswith("Alias for field number") else None


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", plain_words)
    app.connect("autodoc-skip-member", skip)
