"""gpu.py: what it does on a card, done small on a CPU by the same code, so that no minute on a card is spent on a typo."""

import json
import pickle
import sys
import time
from functools import partial
from multiprocessing import parent_process
from pathlib import Path

import numpy as np
import pytest
from conftest import NOBODY, REPO, md5, unpack_cifar

from stn_helpers.data.sets import available
from studies.__main__ import main
from studies.gpu import PARTS, Place, gpu, killed, measured, read, run_arms, told, work
from studies.study import get, names

FEW = 256  # two batches of the good recipe
MEASURED = [name for name in names() if f"study {name}" in PARTS["works"][1]]
ABSENT = (
    "sklearn",
    "scipy",
    "IPython",
    "ipywidgets",
    "jupyter",
    "jupyter_client",
    "nbformat",
    "hypothesis",
    "pandas",
    "cv2",
    "kornia",
)

# What a process does on a machine with little else than torch, and on a CIFAR-10 of which `load` must be told.
BARE = """
import json, sys, time
from pathlib import Path

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, *more):
        return None if name.split(".")[0] in sys.argv[1].split() else self.finder.find_spec(name, *more)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(Without, sys.meta_path)
import torch
from stn_helpers.data import sets
torch.set_num_threads(1)
sets.ARCHIVES["cifar10"], sets.MIRRORS["cifar10"] = {"none.tar.gz": json.loads(sys.argv[2])}, []
from studies import gpu
file = Path(sys.argv[3])
for part in sys.argv[5:]:
    # A run that is killed is one of another process, which knows nothing of all this; a step of "strong" takes seconds.
    works = {name: run for name, run in gpu.PARTS[part][1].items() if name not in ("killed", "study strong")}
    gpu.work(part, works, gpu.Place("cpu", file, time.time() + 600, int(sys.argv[4]), file.parent))
"""


@pytest.fixture(scope="module")
def cifar(tmp_path_factory) -> tuple[Path, dict]:
    """(the folder of a CIFAR-10 of 300 + 20 pictures of noise, {file: MD5})."""
    random, files = np.random.default_rng(0), {"batches.meta": pickle.dumps({"label_names": [f"class {k}" for k in range(10)]})}
    for name, count in {**{f"data_batch_{k}": 60 for k in range(1, 6)}, "test_batch": 20}.items():
        data = random.integers(0, 256, (count, 3072), dtype=np.uint8)
        files[name] = pickle.dumps({"data": data, "labels": [k % 10 for k in range(count)]})
    inside = {f"cifar-10-batches-py/{name}": md5(content) for name, content in files.items()}
    return unpack_cifar(tmp_path_factory.mktemp("data"), files), inside


@pytest.fixture(scope="module")
def bare(cifar, tmp_path_factory, start):
    """bare(part, ...): what the file says after these parts ran where nothing but torch and its like can be imported."""

    def run(*parts: str) -> dict:
        folder, inside = cifar
        file = tmp_path_factory.mktemp("bare") / "gpu.json"
        child = start(["-c", BARE, " ".join(ABSENT), json.dumps(inside), str(file), str(FEW), *parts], data=folder)
        _, errors = child.communicate(timeout=240)
        assert child.returncode == 0, errors
        found = read(file)["parts"]
        assert not {name: it["error"] for part in found.values() for name, it in part.items() if "error" in it}
        return found

    return run


def test_all_that_must_work_works_on_a_bare_machine(bare):
    found = bare("works")["works"]
    assert {*found, "killed", "study strong"} == {*PARTS["works"][1]}
    assert found["loop"]["test_accuracy"].keys() == {"page", "page's network", "fit"}
    assert found["loop"]["test_accuracy"]["page"] == found["loop"]["test_accuracy"]["fit"]  # on a CPU to the bit
    assert found["compiled"]["to_the_bit"] and found["grids"].keys() > {"affine", "tps", "projective"}
    for name in MEASURED:
        if name != "strong":
            row = found[f"study {name}"]
            assert "history" in row["measured"] if get(name).data == "cifar10" else row["skipped"]


def test_all_that_is_timed_is_timed_on_a_bare_machine(bare):
    found = bare("20 epochs", "copied loop", "inside")
    assert {part: [*works] for part, works in found.items()} == {part: [*PARTS[part][1]] for part in found}
    for run in found["20 epochs"].values():
        assert run["seconds"] > 0 and len(run["losses"]) == 2 and 0 <= run["test_accuracy"] <= 100
    kinds = {kind: found["20 epochs"][f"with ST, float32, {kind}"]["losses"] for kind in ("eager", "compiled")}
    assert kinds["compiled"] == pytest.approx(kinds["eager"], abs=1e-5)
    assert all(run["images_per_second"] > 0 for run in found["copied loop"].values())
    parts = found["inside"]["shares"]
    assert parts["the whole network"] > parts["grid"] > 0 and found["inside"]["repeatable"]["to_the_bit"]


@pytest.mark.parametrize("name", [name for name in MEASURED if get(name).data != "cifar10"])
def test_every_study_of_digits_measures_what_it_trains(name, tmp_path):
    if not available(get(name).data):
        pytest.skip("no MNIST in STN_DATA or data/")
    row = measured(name, Place("cpu", tmp_path / "gpu.json", 0, FEW, tmp_path))
    assert {"train_seconds", "history", "test_accuracy"} < {*row["measured"]} and row["arm"] in get(name).arms


@pytest.fixture
def nowhere(tmp_path, monkeypatch) -> Path:
    """A machine with no CIFAR-10 and no network, where digits stand in; a folder on it."""
    monkeypatch.setenv("STN_DATA", str(tmp_path / "data"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, NOBODY)
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_is_killed_and_comes_to_where_it_would_have_come(nowhere):
    found = killed(Place("cpu", nowhere / "gpu.json", 0, 640))
    assert 0 < found["killed_after"] < 4 and found["to_the_bit"] and found["ends"][0] == found["ends"][1]


def test_arms_run_side_by_side_and_one_that_fails_is_named(nowhere):
    arms = [("straighten", "without ST"), ("cifar10", "upright, no ST")]  # the second has no data
    found = run_arms(arms, 2, Place("cpu", nowhere / "gpu.json", time.time() + 60, 64, nowhere))
    assert [(row["arm"], row["seed"]) for row in found["rows"]] == [("without ST", 0)]
    assert found["error"] == "failed: cifar10, upright, no ST" and "unfinished" not in found


def test_arms_whose_time_is_up_are_left_for_the_next_time(nowhere):
    began = time.time()
    found = run_arms(
        [("straighten", "with ST"), ("straighten", "without ST")], 1, Place("cpu", nowhere / "g", began + 0.5, 64, nowhere)
    )
    assert found == {"rows": [], "unfinished": ["straighten, with ST", "straighten, without ST"]} and time.time() - began < 5


def test_every_arm_that_is_asked_for_is_one():
    for part in ("94 %", "dear"):
        for arms in (run.args[0] for run in PARTS[part][1].values()):
            assert all(arm in get(study).arms for study, arm in arms)


# How parts are kept, in one process each. These two take their place.


def noted(words: str, place: Place) -> dict:
    with open(place.file.with_suffix(".log"), "a") as file:
        file.write(words + "\n")
    return {"seconds": 0.0}


def hangs(place: Place) -> dict:
    noted("hangs", place)
    while parent_process().is_alive():  # so that the test leaves none behind
        time.sleep(0.05)
    sys.exit()


def fails(place: Place) -> dict:
    raise RuntimeError("no such kernel")


FIRST = {"first": (0.1, {"a": partial(noted, "a"), "bad": fails})}
HANGS = {**FIRST, "second": (0.1, {"c": hangs, "d": partial(noted, "d")})}
WHOLE = {**FIRST, "second": (0.1, {"c": partial(noted, "c"), "d": partial(noted, "d")})}


def log(file: Path) -> list[str]:
    return file.with_suffix(".log").read_text().split() if file.with_suffix(".log").exists() else []


def test_after_a_kill_the_same_command_goes_on_with_the_rest(start, tmp_path):
    file = tmp_path / "gpu.json"
    words = "import sys; sys.path.insert(0, 'tests'); import test_gpu; test_gpu.gpu(sys.argv[1], 5, 'cpu', test_gpu.HANGS)"
    child = start(["-c", words, str(file)], data=tmp_path)
    while "hangs" not in log(file) and child.poll() is None:
        time.sleep(0.05)
    child.kill()
    child.communicate()
    assert {part: [*works] for part, works in read(file)["parts"].items()} == {"first": ["a", "bad"]}
    assert "no such kernel" in read(file)["parts"]["first"]["bad"]["error"]
    _, failed = gpu(str(file), 5, "cpu", WHOLE)
    assert log(file) == ["a", "hangs", "c", "d"]  # what was done is not done again, what failed is tried again
    assert failed == ["first, bad failed: RuntimeError: no such kernel"]


def test_a_part_that_hangs_ends_in_time_and_costs_the_others_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("studies.gpu.GRACE", 0)
    file, began = tmp_path / "gpu.json", time.time()
    gpu(
        str(file),
        12 / 60,
        "cpu",
        {"hangs": (0.5, {"c": hangs, "d": partial(noted, "d")}), "last": (0.5, {"a": partial(noted, "a")})},
    )
    assert time.time() - began < 12 + 3 and log(file) == ["hangs", "a"]
    assert [*read(file)["parts"]] == ["last"] and read(file)["device"] and read(file)["commit"]


def test_when_the_time_is_up_nothing_more_begins(tmp_path):
    place = Place("cpu", tmp_path / "gpu.json", time.time() - 1)
    work("first", FIRST["first"][1], place)
    assert read(place.file) == {} and log(place.file) == []


# What is said


def test_without_a_card_one_line_says_what_it_needs(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit) as end:
        main(["gpu", "--out", str(tmp_path / "gpu.json")])
    assert end.value.code == "studies: gpu needs an NVIDIA card and a torch that sees it, and here torch sees none"
    assert not [*tmp_path.iterdir()]


def test_the_lines_on_cards_come_from_the_files(tmp_path):
    assert told([]) == ["No GPU figure has been measured yet."]
    run = {"seconds": 9.96, "images_per_second": 100_000.0, "test_accuracy": 75.04}
    steps = {"with ST, bfloat16, compiled": run, "without ST, bfloat16, eager": run, "with ST, float32, eager": {"error": "lost"}}
    loops = {"0 workers": {"images_per_second": 500.0}, "2 workers": {"images_per_second": 1000.0}}
    file = tmp_path / "gpu-a-card.json"
    file.write_text(json.dumps({"device": "A Card", "parts": {"20 epochs": steps, "copied loop": loops}}))
    first = "A Card, with ST, bfloat16, compiled: 10.0 s, 100 times the copied loop, 75.0 %"
    assert told([file]) == [first, "A Card, without ST, bfloat16, eager: 10.0 s, 75.0 %"]


def test_readme_says_of_cards_what_the_files_say():
    readme = (REPO / "README.md").read_text(encoding="utf-8")
    assert all(line in readme for line in told())
