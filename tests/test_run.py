"""tools/run.py: the time that a notebook took is written where its reader looks, and nothing else there changes."""

import json
from pathlib import Path

import nbformat
import pytest

from tools import run

ROOT = Path(__file__).resolve().parent.parent
LINES = [
    ("half an hour to read and play, and {}.", "ten seconds"),
    ("three quarters of an hour to read and {} on a laptop CPU. A GPU would only be bored.", "half a minute"),
    ("three quarters of an hour to read, and {} on two CPU cores. No download.", "less than a minute"),
    ("half an hour to read, and {} on two CPU cores. A GPU trains all 20 epochs in 2 minutes.", "about 4 minutes"),
]


@pytest.mark.parametrize(("line", "before"), LINES)
def test_only_the_time_to_run_is_replaced(line, before):
    text = f"# 01 · Title\n\n**You need** a minute.\n\n**It takes** {line}\n\n20 seconds to run"
    old, new = text.format(f"{before} to run"), text.format("about 25 seconds to run")
    assert run.with_time(old, 23.4) == new
    assert run.with_time(new, 23.4) == new


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(1, "5 seconds"), (12.4, "10 seconds"), (54, "55 seconds"), (56, "a minute"), (89, "a minute"), (91, "2 minutes")],
)
def test_a_time_is_said_as_one_says_it(seconds, said):
    assert run.about(seconds) == f"about {said}"


def test_a_first_cell_without_a_time_to_run_is_refused():
    with pytest.raises(ValueError, match="the first cell says no time to run"):
        run.with_time("# 01 · Title\n\n**It takes** half an hour to read.", 10)


def test_every_notebook_has_a_line_that_takes_the_time():
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        text = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
        assert "about 15 seconds to run" in run.with_time(text, 15)


def test_a_notebook_that_is_run_says_how_long_it_took(tmp_path, monkeypatch):
    monkeypatch.setattr(run.torch.cuda, "is_available", lambda: False)
    path, new = tmp_path / "some.ipynb", nbformat.v4
    cells = [new.new_markdown_cell("**It takes** an hour to read and 3 minutes to run."), new.new_code_cell("print(6 * 7)")]
    nbformat.write(new.new_notebook(cells=cells), path)
    seconds = run.run(path)
    saved = nbformat.read(path, as_version=4)
    assert saved.cells[0].source == f"**It takes** an hour to read and {run.about(seconds)} to run."
    assert saved.cells[1].outputs[0].text == "42\n"
