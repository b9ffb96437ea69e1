"""The set-up cell: the same words in every notebook, and what it does where the series is, is not, and cannot be had."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LAST = "sys.path[:0] = map(str, above[:1])\n"

# The cell as a kernel runs it, on a machine where nobody installed the series. Then: where does it come from?
RUN = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "ditable" not in getattr(finder, "__name__", "")]
sys.path[:] = [place for place in sys.path if place and place != sys.argv[2]]
from IPython.core.interactiveshell import InteractiveShell
done = InteractiveShell.instance().run_cell(open(sys.argv[1]).read())
if done.error_in_exec:
    sys.exit("said: " + str(done.error_in_exec))
import stn_helpers, studies
print("found:", stn_helpers.__file__)
"""


def cell(path: Path) -> str:
    """The part of the set-up cell that all notebooks share."""
    source = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][2]["source"])
    return source[: source.index(LAST) + len(LAST)]


def test_every_notebook_sets_up_in_the_same_words():
    assert len({cell(path) for path in NOTEBOOKS}) == 1
    assert "pip" not in cell(NOTEBOOKS[0])


@pytest.fixture
def set_up(tmp_path):
    """set_up(folder): runs the cell there, with git finding `state["origin"]` where the public repository is asked for."""
    (tmp_path / "cell.py").write_text(cell(NOTEBOOKS[0]))
    origin = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "url.file:///nowhere/.insteadOf",
        "GIT_CONFIG_VALUE_0": "https://github.com/",
    }

    def run(folder: Path, source: Path | None = None) -> subprocess.CompletedProcess:
        own = dict(origin)
        if source:
            own["GIT_CONFIG_KEY_0"] = f"url.{source.as_uri()}.insteadOf"
            own["GIT_CONFIG_VALUE_0"] = "https://github.com/stn-series/spatial-transformer-networks"
        words = [sys.executable, "-c", RUN, str(tmp_path / "cell.py"), str(ROOT)]
        return subprocess.run(words, cwd=folder, capture_output=True, text=True, env={**os.environ, **own, "PYTHONPATH": ""})

    return run


@pytest.mark.parametrize("below", ["notebooks", "assets/results", "."])
def test_it_finds_the_series_above_it(set_up, below):
    done = set_up(ROOT / below)
    assert done.returncode == 0 and f"found: {ROOT / 'stn_helpers'}" in done.stdout, done.stderr


def series(folder: Path) -> Path:
    """The two packages in a folder, as small as they come."""
    for name in ("stn_helpers", "studies"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").touch()
    return folder


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not there")
def test_a_bare_notebook_clones_the_series_beside_itself(set_up, tmp_path):
    source, here = series(tmp_path / "source"), tmp_path / "here"
    here.mkdir()
    for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=A", "-c", "user.email=a@b", "commit", "-qm", "all"]):
        subprocess.run(["git", *words], cwd=source, check=True)
    for _ in range(2):  # and finds it there the next time
        done = set_up(here, source)
        assert done.returncode == 0 and f"found: {here / 'stn' / 'stn_helpers'}" in done.stdout, done.stderr


@pytest.mark.parametrize("top", ["", "spatial-transformer-networks-main"])
def test_an_uploaded_zip_is_unpacked_as_it_is_or_as_github_packs_it(set_up, tmp_path, top):
    here, packed = tmp_path / "here", tmp_path / "packed"
    here.mkdir()
    series(packed / top)
    shutil.make_archive(str(here / "stn"), "zip", packed)
    done = set_up(here)
    assert done.returncode == 0 and f"found: {here / 'stn' / top / 'stn_helpers'}".replace("//", "/") in done.stdout, done.stderr


def test_where_it_cannot_be_had_one_sentence_says_what_to_do(set_up, tmp_path):
    done = set_up(tmp_path)
    assert done.returncode == 1
    sentence = "The series is not here. Set REPO to your copy of it on GitHub, or upload it as stn.zip beside this notebook."
    assert f"said: {sentence}" in done.stderr
