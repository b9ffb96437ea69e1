"""Run notebooks from top to bottom on a fresh kernel, at full length, and save them with their outputs: `make notebooks`."""

import re
import sys
import time
from pathlib import Path

import nbformat
import torch
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
TAKES = re.compile(r"(\*\*It takes\*\* .*?)(?:about |less than )?(?:half an?|[\w.-]+) (?:seconds?|minutes?)( to run)")


def about(seconds: float) -> str:
    """A time as one says it: to five seconds, or to a minute."""
    if seconds < 55:
        return f"about {max(5, 5 * round(seconds / 5))} seconds"
    minutes = round(seconds / 60)
    return "about a minute" if minutes == 1 else f"about {minutes} minutes"


def with_time(text: str, seconds: float) -> str:
    """A notebook's first cell with the time that it took to run in its "It takes" line. All else stays.

    Raises ValueError where that line says no time "to run".
    """
    new, found = TAKES.subn(rf"\g<1>{about(seconds)}\g<2>", text)
    if found != 1:
        raise ValueError('the first cell says no time to run; expected a line such as "**It takes** ... about a minute to run"')
    return new


def run(path: Path) -> float:
    """Run one notebook in its own folder and save it, with the seconds that it took in its "It takes" line."""
    notebook = nbformat.read(path, as_version=4)
    began = time.monotonic()
    place = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=1800, coalesce_streams=True, resources=place).execute()
    seconds = time.monotonic() - began
    # Widget state without its widgets makes GitHub say "Invalid Notebook".
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # clock times, new in every run
        for output in cell.get("outputs", []):
            # Without the kernel that made it a widget is an error message; what is left is for readers: a sentence, and for some
            # an explorer in plain HTML.
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    if not torch.cuda.is_available():  # the line speaks of a CPU
        notebook.cells[0].source = with_time(notebook.cells[0].source, seconds)
    nbformat.write(notebook, path)
    return seconds


if __name__ == "__main__":
    for path in [Path(name) for name in sys.argv[1:]] or sorted((ROOT / "notebooks").glob("*.ipynb")):
        print(f"{path.name}: {run(path):.0f} s")
