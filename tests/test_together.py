"""Ten sessions at once: one data folder, one checkpoint and one results file, and none of them comes to harm."""

import ast
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import md5

from stn_helpers.data.files import alone, sha256
from stn_helpers.data.sets import load
from stn_helpers.training.checkpoint import load_checkpoint
from stn_helpers.training.recipes import Recipe
from stn_helpers.training.trainer import fit
from studies import runner
from studies.networks import build
from studies.runner import run_study
from studies.study import Arm, Study
from tools.kernel import Kernel

SESSIONS = 10

# What a reader's kernel runs, cell by cell. All ten begin a cell at the same moment.
CELLS = [
    """
import torch
from pathlib import Path
from torchvision.datasets import CIFAR10
from studies import runner
from studies.networks import build
from stn_helpers.data.sets import load
from studies.study import Arm, Study
from stn_helpers.training.recipes import Recipe
from stn_helpers.training.trainer import fit
torch.set_num_threads(1)
folder = Path({folder!r})
for name, value in {cifar!r}.items():
    setattr(CIFAR10, name, value)
""",
    """
train, test = load("cifar10", train=True, root=folder / "data"), load("cifar10", train=False, root=folder / "data")
""",
    """
history = fit(build("small-plain"), train, test, {recipe!r}, device="cpu", out=folder / "run", progress=False)
print(history)
""",
    """
runner.STUDIES, runner.RECIPES = {{"small": {study!r}}}, {{"quick": {recipe!r}}}
places = {{"assets": folder / "assets", "runs": folder / "runs"}}
results = runner.run_study("small", seeds=1, device="cpu", progress=False, **places)
print([(row["arm"], row["seed"]) for row in results["runs"]])
""",
]
QUICK = Recipe(epochs=3, batch_size=50, lr=0.02, momentum=0.9)
ARMS = {"without ST": Arm("small-plain", "quick"), "with ST": Arm("small-light", "quick")}
STUDY = Study("small_study", "cifar10", ARMS, ship={"with ST": "small_stn"})


def timeless(state):
    """What a run has made, without what the clock and the machine say of it; tensors as lists."""
    clock = {"seconds", "images_per_second", "train_seconds", "date", "commit", "command"}
    if isinstance(state, dict):
        return {key: timeless(value) for key, value in state.items() if key not in clock}
    if isinstance(state, (list, tuple)):
        return [timeless(value) for value in state]
    return state.tolist() if hasattr(state, "tolist") else state


def files(folder: Path) -> dict[str, str]:
    """{name: MD5} of every file below; folders are there for their files only."""
    return {path.relative_to(folder).as_posix(): md5(path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def cifar(served_cifar) -> dict:
    """What torchvision must be told so that it takes the small CIFAR-10 behind the server for the real one."""
    from torchvision.datasets import CIFAR10

    return {name: getattr(CIFAR10, name) for name in ("train_list", "test_list", "meta", "tgz_md5", "url")}


def whole_data(served) -> dict[str, str]:
    """The data folder as it must be: the archive and what is in it, nothing half, no lock."""
    unpacked = {f"cifar-10-batches-py/{name}": md5(content) for name, content in served.files.items()}
    return {"cifar-10-python.tar.gz": md5(served.archive), **unpacked}


def session(cells: list[str], all_here: threading.Barrier) -> list[str]:
    """One kernel that runs the cells; what each printed."""
    with Kernel() as kernel:
        printed = []
        for cell in cells:
            all_here.wait(timeout=120)
            printed.append(kernel.run(cell))
        return printed


@pytest.fixture
def alone_first(served_cifar, server, tmp_path, monkeypatch) -> Path:
    """The same data, run and study by one process, undisturbed; what the server was asked is in server.asked."""
    folder = tmp_path / "alone"
    monkeypatch.setenv("STN_DATA", str(folder / "data"))
    train, test = load("cifar10", train=True), load("cifar10", train=False)
    fit(build("small-plain"), train, test, QUICK, device="cpu", out=folder / "run", progress=False)
    monkeypatch.setattr(runner, "STUDIES", {"small": STUDY})
    monkeypatch.setattr(runner, "RECIPES", {"quick": QUICK})
    run_study("small", 1, device="cpu", progress=False, assets=folder / "assets", runs=folder / "runs")
    return folder


def test_ten_sessions_at_once_harm_neither_data_nor_checkpoint_nor_results(alone_first, cifar, served_cifar, server, monkeypatch):
    asked, server.asked[:] = list(server.asked), []
    folder = alone_first.with_name("together")
    monkeypatch.setenv("STN_DATA", str(folder / "data"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    cells = [cell.format(folder=str(folder), cifar=cifar, recipe=QUICK, study=STUDY) for cell in CELLS]
    all_here = threading.Barrier(SESSIONS)
    with ThreadPoolExecutor(SESSIONS) as threads:
        sessions = list(threads.map(session, [cells] * SESSIONS, [all_here] * SESSIONS))

    assert files(folder / "data") == whole_data(served_cifar) and server.asked == asked  # fetched once
    histories = [ast.literal_eval(printed[2]) for printed in sessions]
    assert histories == histories[:1] * SESSIONS  # to the second: trained once
    checkpoints = [load_checkpoint(at / "run" / "checkpoint.stn") for at in (folder, alone_first)]
    assert timeless(checkpoints[0]) == timeless(checkpoints[1])
    assert list(files(folder / "run")) == ["checkpoint.stn"]
    both = [json.loads((at / "assets/results/small_study.json").read_text()) for at in (folder, alone_first)]
    assert timeless(both[0]) == timeless(both[1])
    assert [printed[3] for printed in sessions] == ["[('without ST', 0), ('with ST', 0)]\n"] * SESSIONS
    assert sha256(folder / "assets/checkpoints/small_stn.safetensors") == both[0]["weights"]["small_stn"]["sha256"]
    assert not [name for name in files(folder) if name.endswith(".part") or "/." in name]


# Stops half way, for ever, in the step that is named, with the lock in its hands.
HALF_WAY = """
import os, sys, time
os.environ["no_proxy"] = "*"
from pathlib import Path
from torchvision.datasets import CIFAR10, utils
from stn_helpers.data.sets import load
for name, value in {cifar!r}.items():
    setattr(CIFAR10, name, value)
real = utils.{step}
def half(*words):
    real(*words)
    for file in Path(os.environ["STN_DATA"]).rglob(".download-*/**/*"):
        if file.is_file():
            os.truncate(file, file.stat().st_size // 2)
    print("half", flush=True)
    time.sleep(600)
utils.{step} = half
load("cifar10", train=True)
"""


@pytest.mark.parametrize("step", ["download_url", "extract_archive"])
def test_kill_9_in_a_download_leaves_nothing_that_the_next_one_minds(start, cifar, served_cifar, tmp_path, step, monkeypatch):
    child = start(["-c", HALF_WAY.format(cifar=cifar, step=step)], data=tmp_path)
    assert child.stdout.readline() == "half\n", child.stderr.read()
    with ThreadPoolExecutor(1) as other:
        waits = other.submit(load, "cifar10", True, tmp_path)
        assert not waits.done()
        child.kill()
        assert len(waits.result(timeout=60)) == 200
    child.communicate()
    assert files(tmp_path) == whole_data(served_cifar)
    assert not list(tmp_path.glob(".download*"))


TAKE_TURNS = """
import os, sys
from stn_helpers.data.files import alone
inside = sys.argv[1] + "/inside"
for turn in range(60):
    with alone(sys.argv[1] + "/lock"):
        os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
        os.unlink(inside)
"""


def test_only_one_process_at_a_time_is_alone_and_its_lock_is_gone_afterwards(start, tmp_path):
    """Were two in there at once, one would find the other's file and fail."""
    children = [start(["-c", TAKE_TURNS, str(tmp_path)], data=tmp_path) for _ in range(2)]
    for child in children:
        _, errors = child.communicate(timeout=120)
        assert child.returncode == 0, errors
    assert os.listdir(tmp_path) == []


def test_who_waits_says_so(tmp_path, capsys):
    inside, leave = threading.Event(), threading.Event()

    def hold():
        with alone(tmp_path / "lock"):
            inside.set()
            leave.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    inside.wait(30)
    threading.Timer(0.2, leave.set).start()
    with alone(tmp_path / "lock", "waiting for it"):
        assert leave.is_set()
    holder.join()
    assert capsys.readouterr().out == "waiting for it\n"
