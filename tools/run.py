"""Run notebooks from top to bottom on a fresh kernel, at full length, and save them with their outputs: `make notebooks`."""

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent


def run(path: Path) -> float:
    """Run one notebook in its own folder and save it; the seconds that it took."""
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
            # Without the kernel that made it a widget is an error message; what is left is its sentence for readers.
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    nbformat.write(notebook, path)
    return seconds


if __name__ == "__main__":
    for path in [Path(name) for name in sys.argv[1:]] or sorted((ROOT / "notebooks").glob("*.ipynb")):
        print(f"{path.name}: {run(path):.0f} s")
