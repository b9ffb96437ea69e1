"""Ten sessions at once: one data folder, one checkpoint and one results file, and none of them comes to harm."""

import ast
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from conftest import md5

from stn_helpers.data import sets
from stn_helpers.data.files import alone, sha256
from stn_helpers.data.sets import load
from stn_helpers.training.checkpoint import load_checkpoint
from stn_helpers.training.recipes import Recipe
from stn_helpers.training.trainer import fit
from studies.networks import cifar_net
from studies.runner import run_study
from studies.study import Arm, Study
from tools.kernel import Kernel

SESSIONS = 10

# What a reader's kernel runs, cell by cell. All ten begin a cell at the same moment.
CELLS = [
    """
import torch
from pathlib import Path
from stn_helpers.data import sets
import sys
sys.path.insert(0, "tests")
from test_together import QUICK, STUDY
from studies.runner import run_study
from stn_helpers.data.sets import load
from studies.networks import cifar_net
from studies.study import Arm, Study
from stn_helpers.training.recipes import Recipe
from stn_helpers.training.trainer import fit
torch.set_num_threads(1)
folder = Path({folder!r})
sets.ARCHIVES["cifar10"], sets.MIRRORS["cifar10"] = {cifar!r}
""",
    """
train, test = load("cifar10", train=True, root=folder / "data"), load("cifar10", train=False, root=folder / "data")
""",
    """
history = fit(STUDY.arms["without ST"].build(), train, test, QUICK, 0, "cpu", "float32", folder / "run", progress=False)
print(history)
""",
    """
places = {{"assets": folder / "assets", "runs": folder / "runs"}}
results = run_study(STUDY, seeds=1, device="cpu", progress=False, **places)
print([(row["arm"], row["seed"]) for row in results["runs"]])
""",
]
QUICK = Recipe(epochs=3, batch_size=50, lr=0.02, momentum=0.9)
ARMS = {"without ST": Arm(partial(cifar_net, "small", "plain"), QUICK), "with ST": Arm(partial(cifar_net, "small", "light"), QUICK)}
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
def cifar(served_cifar) -> tuple:
    """What `load` must be told so that it takes the small CIFAR-10 behind the server for the real one."""
    return sets.ARCHIVES["cifar10"], sets.MIRRORS["cifar10"]


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
    fit(STUDY.arms["without ST"].build(), train, test, QUICK, 0, "cpu", "float32", folder / "run", progress=False)
    run_study(STUDY, 1, device="cpu", progress=False, assets=folder / "assets", runs=folder / "runs")
    return folder


def test_ten_sessions_at_once_harm_neither_data_nor_checkpoint_nor_results(alone_first, cifar, served_cifar, server, monkeypatch):
    asked, server.asked[:] = list(server.asked), []
    folder = alone_first.with_name("together")
    monkeypatch.setenv("STN_DATA", str(folder / "data"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    cells = [cell.format(folder=str(folder), cifar=cifar) for cell in CELLS]
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
