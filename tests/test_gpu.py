"""`make gpu`, on a CPU and small: the same code, so that no minute on a card is spent on a typo."""

import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from studies import gpu
from studies.study import names

ROOT = Path(__file__).resolve().parent.parent
NOBODY = "http://127.0.0.1:9"
WITHOUT = """
import sys
for name in ("sklearn", "scipy", "IPython", "ipywidgets", "jupyter", "nbformat", "hypothesis", "anywidget", "pandas"):
    sys.modules[name] = None
"""


@pytest.fixture(autouse=True)
def small_data(small_cifar_for_module):
    """200 + 50 images in the place of CIFAR-10."""


@pytest.fixture
def place(tmp_path) -> gpu.Place:
    """A CPU, 150 pictures a set, and a minute."""
    (tmp_path / "results").mkdir()
    return gpu.Place("cpu", tmp_path / "gpu.json", time.time() + 60, few=150, assets=tmp_path)


WORKS = {f"{part}, {name}": work for part, (_, works) in gpu.PARTS.items() for name, work in works.items()}


@pytest.mark.parametrize("name", [name for name in WORKS if not name.startswith(("94 %", "dear"))])
def test_each_part_runs_on_a_cpu(name, place, tmp_path, monkeypatch):
    if name == "works, killed":  # its other process knows nothing of the small CIFAR-10, so digits stand in for both
        monkeypatch.setenv("STN_DATA", str(tmp_path / "none"))
        for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(proxy, NOBODY)
    found = WORKS[name](place)
    json.dumps(found, allow_nan=False)
    assert found.get("error") is None and found


def test_arms_that_two_cores_cannot_afford_are_arms_of_their_studies():
    for study, arm in [*gpu.DEAR, ("strong", "upright, no ST"), ("strong", "upright, light ST")]:
        assert arm in gpu.get(study).arms


def test_what_is_done_is_not_done_again_and_what_failed_is(tmp_path, capfd):
    file, log = tmp_path / "gpu.json", tmp_path / "log"
    parts = {
        "one": (0.5, {"a": partial(noted, log, "a"), "b": partial(fails_once, log)}),
        "two": (0.5, {"c": partial(noted, log, "c")}),
    }
    _, failed = gpu.gpu(str(file), 1, "cpu", parts)
    assert failed == ["one, b failed: OSError: not yet"] and log.read_text() == "abc"
    assert gpu.gpu(str(file), 1, "cpu", parts) == (file, []) and log.read_text() == "abcb"
    found = json.loads(file.read_text())
    assert found["parts"]["one"]["a"]["said"] == "a" and {"device", "torch", "commit", "command"} <= found.keys()


def noted(log: Path, letter: str, place: gpu.Place) -> dict:
    log.write_text((log.read_text() if log.exists() else "") + letter)
    return {"said": letter}


def fails_once(log: Path, place: gpu.Place) -> dict:
    noted(log, "b", place)
    if log.read_text().count("b") == 1:
        raise OSError("not yet")
    return {"said": "b"}


def hangs(place: gpu.Place) -> dict:
    time.sleep(600)
    return {}


def test_a_part_that_hangs_ends_with_its_time(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "GRACE", 0.1)
    log, began = tmp_path / "log", time.monotonic()
    parts = {"hangs": (0.5, {"it": hangs}), "next": (0.5, {"it": partial(noted, log, "n")})}
    gpu.gpu(str(tmp_path / "gpu.json"), 0.5, "cpu", parts)
    assert log.read_text() == "n" and time.monotonic() - began < 60


def test_it_needs_no_more_than_a_card_machine_has():
    code = WITHOUT + "import studies.gpu as gpu, studies.__main__ as main\nprint(len(gpu.PARTS), gpu.told(files=[]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "6 ['No GPU figure has been measured yet.']", done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card_it_says_in_a_line_what_it_needs():
    done = subprocess.run([sys.executable, "-m", "studies", "gpu"], cwd=ROOT, capture_output=True, text=True)
    assert (
        done.returncode == 1
        and done.stderr == "studies: gpu needs an NVIDIA card and a torch that sees it, and here torch sees none\n"
    )


def test_what_is_told_comes_from_the_file(tmp_path):
    run = {"seconds": 8.04, "images_per_second": 120_000, "test_accuracy": 70.25}
    parts = {"20 epochs": {"with ST, bfloat16, eager": run}, "copied loop": {"2 workers": {"images_per_second": 4000}}}
    (tmp_path / "gpu-x.json").write_text(json.dumps({"device": "X", "parts": parts}))
    assert gpu.told([tmp_path / "gpu-x.json"]) == ["X, with ST, bfloat16, eager: 8.0 s, 30 times the copied loop, 70.2 %"]


def test_readme_says_of_gpus_what_the_files_say():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(line in text for line in gpu.told())
    assert set(gpu.STUDIES) == {f"study {name}" for name in names()}
