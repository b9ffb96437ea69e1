"""Notebook 05 as a reader runs it: cells again and in full, a kernel that dies, a Drive that fails, a card."""

import ast
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pytest
import torch
import torch.nn.functional as F
from conftest import REPO, md5
from torch import nn
from torch._subclasses import FakeTensorMode

from stn_helpers.show import plots
from stn_helpers.training.checkpoint import load_checkpoint, load_weights

CELLS = json.loads((REPO / "notebooks/05_cifar10.ipynb").read_text(encoding="utf-8"))["cells"]
CODE = ["".join(cell["source"]).replace("!git", "pass  #") for cell in CELLS if cell["cell_type"] == "code"]
# Set-up, data, the loop and `fit`, switches, training, and what becomes of the weights.
WORDS = ("REPO =", "train_set =", "def train_by_hand(", "by_hand =", "DRIVE =", "fit(live_net", "fill(net,")
TRAIN = [next(code for code in CODE if words in code) for words in WORDS]


def cells(**switches) -> list[str]:
    """The cells of a full training, some of their switches set: cells(SEED=1, DRIVE=True, epochs=3)."""
    own = {"FULL": "GPU ", "DRIVE": "False", "SEED": "0", "epochs": "20 if FULL"}
    found = "\n# cell\n".join(TRAIN)
    for name, value in {"FULL": True, **switches}.items():
        assert found.count(f"{name} = {own[name]}") == 1
        found = found.replace(f"{name} = {own[name]}", f"{name} = {value}" + (" if FULL" if name == "epochs" else " "))
    return found.split("\n# cell\n")


def run(sources: list[str], space: dict | None = None) -> SimpleNamespace:
    """What is there after these cells."""
    space = {} if space is None else space
    for source in sources:
        exec(source, space)
    return SimpleNamespace(**space)


def drawn(fig, alt: str) -> None:
    """In place of a page, for which plain `exec` has no room."""
    print(alt)
    plt.close(fig)


@pytest.fixture
def here(tmp_path, monkeypatch, small_cifar) -> Path:
    """A folder with no series above it, where the small CIFAR-10 is found."""
    monkeypatch.setenv("STN_DATA", str(small_cifar.unpack(tmp_path / "data")))
    monkeypatch.setenv("STN_SMOKE", "1")
    monkeypatch.setattr(plots, "show", drawn)
    monkeypatch.setattr(plots.Screen, "show", lambda screen, fig, alt: drawn(fig, alt))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_cell_can_be_run_again_after_a_run(here):
    space: dict = {}
    run(CODE, space)
    for source in CODE:
        run([source], space)
    assert len(space["history"]) == 20 and space["folder"] is None  # the shipped run


def test_a_finished_run_is_shown_and_not_trained_again_and_another_one_has_its_own_folder(here, capsys):
    one = run(cells(epochs=2))
    assert len(one.history) == 2 and one.folder == here / "runs/05-CIFAR-10-2-0"
    assert load_weights(one.file)[1]["network"] == "tutorial_net" and not one.net.training
    capsys.readouterr()
    again = run(cells(epochs=2))
    said = capsys.readouterr().out
    assert again.history == one.history and "finished before, after 2 epochs; to train anew, delete" in said
    assert "Loss falls and accuracy rises" in said  # its curves are drawn
    others = [run(cells(epochs=2, SEED=1)).folder, run(cells(epochs=3)).folder]
    assert len({one.folder, *others}) == 3 == len([*(here / "runs").iterdir()])


def test_digits_that_stand_in_are_not_trained_into_the_run_of_cifar10(here, monkeypatch):
    one = run(cells(epochs=1))
    before = one.file.read_bytes()
    monkeypatch.setenv("STN_DATA", str(here / "empty"))
    two = run(cells(epochs=1))
    assert "digits" in two.train.name and two.folder != one.folder and "digits" in two.folder.name
    assert one.file.read_bytes() == before


KERNEL = """
import json, os, sys
sys.path.insert(0, "tests")
from test_notebook_05 import drawn, plots, run, torch
from stn_helpers.data import sets
torch.set_num_threads(1)
sets.ARCHIVES["cifar10"] = json.loads(sys.argv[1])
plots.show, plots.Screen.show = drawn, lambda screen, fig, alt: drawn(fig, alt)
os.chdir(sys.argv[2])
run(json.loads(sys.argv[3]))
"""


def test_after_a_kernel_has_died_run_all_goes_on_where_it_was(here, start, cifar_files):
    inside = {"none": {f"cifar-10-batches-py/{name}": md5(content) for name, content in cifar_files.items()}}
    child = start(["-c", KERNEL, json.dumps(inside), str(here), json.dumps(cells(epochs=12))], data=here / "data")
    file, before = here / "runs/05-CIFAR-10-12-0/checkpoint.stn", []
    while len(before) < 2 and child.poll() is None:
        time.sleep(0.02)
        before = load_checkpoint(file)["history"] if file.exists() else []
    child.kill()
    _, errors = child.communicate()
    before = load_checkpoint(file)["history"]
    assert 2 <= len(before) < 12, errors
    found = run(cells(epochs=12))
    assert len(found.history) == 12 and found.history[: len(before)] == before


@pytest.fixture
def colab(monkeypatch):
    """colab(folder): notebook cells, with Colab's Drive mounted there."""
    drive = SimpleNamespace(mount=lambda place: None)
    monkeypatch.setitem(sys.modules, "google", SimpleNamespace(colab=SimpleNamespace(drive=drive)))
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace(drive=drive))
    drawn = "/content/drive/MyDrive/stn"
    return lambda folder: [source.replace(drawn, str(folder)) for source in cells(epochs=2, DRIVE=True)]


def test_a_run_in_drive_goes_on_on_another_machine(here, colab, monkeypatch, capsys):
    one = run(colab(here / "drive"))
    assert {path.name for path in (here / "drive" / one.name).iterdir()} == {"checkpoint.stn", "weights.safetensors"}
    (here / "new").mkdir()
    monkeypatch.chdir(here / "new")
    capsys.readouterr()
    two = run(colab(here / "drive"))
    assert two.folder != one.folder and two.history == one.history and "finished before" in capsys.readouterr().out


def test_a_drive_that_fails_does_not_end_the_training(here, colab, capsys):
    (here / "drive").write_text("no folder")
    found = run(colab(here / "drive"))
    assert len(found.history) == 2 and found.file.exists()
    assert capsys.readouterr().out.count("is not copied to") == 3  # two epochs and the weights


def test_where_there_is_no_drive_it_says_so(here, capsys):
    run(cells(epochs=1, DRIVE=True))
    assert "checkpoints stay on this machine" in capsys.readouterr().out


def test_the_network_on_the_page_makes_no_tensor_on_another_device():
    space = {"torch": torch, "nn": nn, "F": F}
    tree = ast.parse(next(code for code in CODE if "class Net(" in code))
    exec(compile(tree, "page", "exec"), space)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cuda"):
        net = space["Net"]()
        assert net(torch.zeros(4, 3, 32, 32)).device.type == "cuda"  # a backward pass asks for a real card


def test_what_it_says_of_gpus_comes_from_the_files():
    from studies.gpu import told

    (cell,) = [cell for cell in CELLS if "DRIVE = False" in "".join(cell["source"])]
    said = "".join("".join(output.get("text", "")) for output in cell["outputs"])
    assert all(line in said for line in told())
