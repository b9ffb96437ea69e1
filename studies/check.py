"""Check: every decimal number in README, on the site and in the notebooks is one that a results file or a cell makes.

A number stands in prose because something wrote it. In a notebook that is a cell, whose source or saved output shows it.
Elsewhere it is a generated table, or a mark behind the number, invisible on the page, from which it is computed again:

    gains 9.4<!-- gain cifar10 "rts, light ST, a tenth of the rate" "rts, no ST" --> points

mean, sd, error (100 - mean), seeds, parameters: of an arm. gain, low, high: of one arm over another, seed by seed.
settled, unsettled: behind a claim, with two arms; false where the interval does not bear it out.
value: FILE and the keys that lead to the number.
given: a number that nobody measured here: another's, and the words say whose, or a plain example.
"""

import json
import re
import shlex
import statistics
from functools import cache
from pathlib import Path

from .study import ASSETS, paired

ROOT = ASSETS.parent
NUMBER = re.compile(r"(?<![\w.,/-])[-+−]?(\d+\.\d+)(?![\w.]*\w|\.\d)")
MARK = re.compile(r"<!--\s*(mean|sd|error|seeds|parameters|gain|low|high|settled|unsettled|value|given)\b(.*?)-->", re.S)
# What is no claim of ours: code, formulas, links, generated tables, tags, versions, and places in the paper.
SILENT = re.compile(
    r"```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]+\$|\]\([^)]*\)|https?://\S+|<!-- table .*?<!-- end -->|<(?!!--)[^>]+>"
    r"|(?:[Ss]ections?|Python|torch|arXiv|[Aa]ppendix)[ :]+[A-Z]?[\d.]+(?:(?:, | and | to )[A-Z]?[\d.]+)*",
    re.S,
)


@cache
def results(name: str) -> dict:
    """A results file."""
    return json.loads((ASSETS / "results" / f"{name}.json").read_text(encoding="utf-8"))


def computed(kind: str, words: list[str]) -> float | bool | None:
    """What a mark stands for; None where any number will do. Raises ValueError where the files do not have it."""
    if kind == "given":
        return None
    name, *keys = words
    if kind == "value":
        found = results(name)
        for key in keys:
            found = found[int(key)] if isinstance(found, list) else found[key]
        return float(found)
    if kind in ("gain", "low", "high", "settled", "unsettled"):
        found = paired(results(name)["runs"], *keys)
        if not found or found["low"] is None:
            raise ValueError(f"{name} has no interval for {keys}")
        apart = bool(found["low"] > 0 or found["high"] < 0)
        return {**found, "gain": found["mean"], "settled": apart, "unsettled": not apart}[kind]
    rows = [row for row in results(name)["runs"] if row["arm"] == keys[0]]
    if not rows:
        raise ValueError(f"{name} has no arm {keys[0]!r}")
    accuracies = [row["test_accuracy"] for row in rows]
    return {
        "mean": lambda: statistics.mean(accuracies),
        "error": lambda: 100 - statistics.mean(accuracies),
        "sd": lambda: statistics.stdev(accuracies),
        "seeds": lambda: len(rows),
        "parameters": lambda: rows[0]["parameters"],
    }[kind]()


def fits(written: str, right: float) -> bool:
    """Whether a number as it is written is the right one, rounded to as many places."""
    places = len(written.partition(".")[2])
    return abs(abs(float(written)) - abs(right)) <= 0.5 * 10**-places + 1e-9


def wrong_marks(text: str) -> list[str]:
    """What the marks of a text refute."""
    wrong = []
    for mark in MARK.finditer(text):
        before = text[max(0, mark.start() - 60) : mark.start()]
        try:
            right = computed(mark[1], shlex.split(mark[2]))
        except (ValueError, KeyError, IndexError, OSError) as error:
            wrong.append(f"...{before[-40:]!r}: {mark[0]} cannot be computed ({error})")
            continue
        number = re.search(r"([\d,]*\.?\d+)\D{0,3}$", before)
        if isinstance(right, bool):
            wrong += [] if right else [f"...{before[-40:]!r}: its interval does not bear out {mark[0]}"]
        elif right is not None and (not number or not fits(number[1].replace(",", ""), right)):
            wrong.append(f"...{before[-40:]!r}: {mark[0]} makes {right:.4g}")
    return wrong


def unmade(text: str, made: str) -> list[str]:
    """The decimal numbers of a text that have no mark and that nothing in `made` shows, as they are or with more places."""
    shown = [float(number) for number in re.findall(r"\d+\.\d+|\d+", made)]
    left = SILENT.sub(" ", text)
    marked = {match.start(1) for mark in MARK.finditer(left) for match in [*NUMBER.finditer(left, 0, mark.start())][-1:]}
    found = []
    for match in NUMBER.finditer(re.sub(r"<!--.*?-->", lambda comment: " " * len(comment[0]), left, flags=re.S)):
        if match.start(1) not in marked and not any(fits(match[1], number) for number in shown):
            found.append(f"...{left[max(0, match.start() - 40) : match.end() + 10]!r}: nothing makes {match[1]}")
    return found


def document(path: Path) -> list[str]:
    """What is wrong with the numbers of one document."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return wrong_marks(text) + unmade(text, "")
    cells = json.loads(text)["cells"]
    prose = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    made = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    for output in (output for cell in cells for output in cell.get("outputs", [])):
        made.append("".join(output.get("text", "")))
        made += ["".join(words) for kind, words in output.get("data", {}).items() if kind == "text/plain"]
    return wrong_marks(prose) + unmade(prose, "\n".join(made))


def documents(root: Path = ROOT) -> list[Path]:
    """README, the site's pages that report, and the notebooks. (What play and teachers' pages work out is no report.)"""
    pages = [root / "book" / f"{name}.md" for name in ("index", "results", "glossary", "api")]
    return [root / "README.md", *pages, *sorted((root / "notebooks").glob("*.ipynb"))]


def check(root: Path = ROOT) -> dict[str, list[str]]:
    """{document: what is wrong}, of those where something is."""
    found = {str(path.relative_to(root)): document(path) for path in documents(root)}
    return {name: wrong for name, wrong in found.items() if wrong}
