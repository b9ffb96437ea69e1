"""How long a reader waits: every notebook under strict nbval in smoke mode, from a fresh process and kernel; and for an import."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
IMPORTS = [
    "torch",
    "torch, torchvision",
    "stn_helpers.transformer",
    "stn_helpers.training.trainer",
    "stn_helpers.show.plots",
    "stn_helpers.show.widgets",
]
TOOK: dict[str, float] = {}


def run(*words: str) -> None:
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env={**os.environ, "STN_SMOKE": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@pytest.mark.benchmark(group="series")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(benchmark, path):
    benchmark.extra_info.update(what=path.stem)
    benchmark.pedantic(run, ("-m", "pytest", "--nbval", "--nbval-cell-timeout=300", str(path)), rounds=1)
    TOOK[path.stem] = benchmark.stats.stats.median


def test_the_whole_series_takes_less_than_four_minutes(note):
    if len(TOOK) < len(NOTEBOOKS):
        pytest.skip("not all notebooks were run")
    note["series_seconds"] = round(sum(TOOK.values()), 1)
    assert note["series_seconds"] < 240


@pytest.mark.benchmark(group="imports")
@pytest.mark.parametrize("what", IMPORTS)
def test_import(benchmark, what):
    benchmark.extra_info.update(what=what)
    benchmark.pedantic(run, ("-c", f"import {what}"), rounds=3, warmup_rounds=1)
