"""checkpoint.py: files are whole or not there, and a changed byte is seen."""

import hashlib
import os
import random
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from stn_helpers.data.files import clear_orphans, sha256, write_whole
from stn_helpers.training import checkpoint as checkpoint_module
from stn_helpers.training.checkpoint import FORMAT, fill, load_checkpoint, load_weights, save_checkpoint, save_weights

posix_only = pytest.mark.skipif(os.name != "posix", reason="Windows cannot be asked whether a process lives")


@pytest.fixture
def checkpoint(tmp_path):
    """A small checkpoint file."""
    path = tmp_path / "checkpoint.stn"
    save_checkpoint(path, {"model": {"weight": torch.arange(6.0)}, "history": [{"epoch": 1}]})
    return path


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


@pytest.fixture
def weights(tmp_path, model):
    """A small safetensors file of `model`."""
    path = tmp_path / "weights.safetensors"
    save_weights(path, model, {"model": "tiny", "options": {"dropout": 0.5}})
    return path


def refused(load, path, reason: str) -> None:
    """Loading fails with this reason in a ValueError that names the file; the file stays as it is."""
    before, when = path.read_bytes(), path.stat().st_mtime_ns
    with pytest.raises(ValueError, match=reason) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before and path.stat().st_mtime_ns == when


def flip_byte(path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


# --- checkpoints ---


def test_a_checkpoint_comes_back_as_it_was(checkpoint):
    state = load_checkpoint(checkpoint)
    assert torch.equal(state["model"]["weight"], torch.arange(6.0)) and state["history"] == [{"epoch": 1}]


@pytest.mark.parametrize(
    ("position", "reason"),
    [
        (0, "not a checkpoint"),
        (7, "not a checkpoint"),
        (8, "newer version"),
        (9, "damaged|version"),
        (10, "damaged"),
        (41, "damaged"),
        (42, "damaged"),
        (500, "damaged"),
        (-1, "damaged"),
    ],
)
def test_a_checkpoint_with_a_flipped_bit_is_refused(checkpoint, position, reason):
    flip_byte(checkpoint, position)
    refused(load_checkpoint, checkpoint, reason)


@pytest.mark.parametrize(
    ("length", "reason"), [(0, "not a checkpoint"), (5, "not a checkpoint"), (20, "damaged"), (40, "damaged"), (-1, "damaged")]
)
def test_a_truncated_checkpoint_is_refused(checkpoint, length, reason):
    checkpoint.write_bytes(checkpoint.read_bytes()[:length])
    refused(load_checkpoint, checkpoint, reason)


@pytest.mark.parametrize("content", [1, random.Random(0)], ids=["readable", "not readable"])
def test_a_checkpoint_of_a_newer_format_is_refused_with_both_numbers(tmp_path, monkeypatch, content):
    path = tmp_path / "checkpoint.stn"
    with monkeypatch.context() as later:
        later.setattr(checkpoint_module, "FORMAT", FORMAT + 1)
        save_checkpoint(path, {"content": content})
    refused(load_checkpoint, path, rf"newer version \(format {FORMAT + 1}; this one reads up to {FORMAT}\)")


def test_another_kind_of_file_is_refused_as_a_checkpoint(tmp_path):
    path = tmp_path / "checkpoint.stn"
    torch.save({"model": {}}, path)
    refused(load_checkpoint, path, "not a checkpoint of this project")


# --- weights ---


def test_weights_come_back_as_they_were(weights, model):
    tensors, about = load_weights(weights)
    assert about["model"] == "tiny" and about["options"] == {"dropout": 0.5}
    assert tensors.keys() == model.state_dict().keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in model.state_dict().items())


def test_saving_weights_returns_the_sha256_of_the_file_and_repeats_it(tmp_path, model):
    one, two = (save_weights(tmp_path / name, model, {"model": "tiny"}) for name in ("one", "two"))
    assert one == two == sha256(tmp_path / "one") == hashlib.sha256((tmp_path / "one").read_bytes()).hexdigest()


def test_weights_with_a_flipped_bit_anywhere_are_refused(weights):
    whole = weights.read_bytes()
    for position in range(len(whole)):
        flip_byte(weights, position)
        refused(load_weights, weights, r"\S")
        weights.write_bytes(whole)


def test_tensors_with_a_flipped_bit_are_refused_as_damaged(weights):
    flip_byte(weights, -1)
    refused(load_weights, weights, "damaged: the SHA-256")


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_truncated_weights_are_refused(weights, length):
    weights.write_bytes(weights.read_bytes()[:length])
    refused(load_weights, weights, "not a whole safetensors file")


def test_weights_of_a_newer_format_are_refused(tmp_path, model):
    path = tmp_path / "weights.safetensors"
    save_weights(path, model, {"format": FORMAT + 1})
    refused(load_weights, path, f"newer version .format {FORMAT + 1}; this one reads up to {FORMAT}")


def test_safetensors_of_another_program_are_refused(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    refused(load_weights, path, "not written by save_weights")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file .*nowhere"):
        load_weights(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), r"0\.bias is \(2,\) in the file and \(4,\) in the model"),
        (nn.Sequential(nn.Linear(3, 2)), r"1\.bias is \(2,\) in the file and absent in the model"),
        (
            nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 1)),
            r"2\.bias is absent in the file and \(1,\) in the model",
        ),
    ],
    ids=["shape", "absent in the model", "absent in the file"],
)
def test_weights_of_another_architecture_are_refused_with_the_first_difference(weights, other, difference):
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    refused(lambda path: fill(other, load_weights(path)[0], path), weights, f"another architecture: {difference}")
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())


# --- writing ---


def test_a_full_disk_leaves_the_old_files_and_nothing_half(checkpoint, weights, full_disk):
    before = {path: path.read_bytes() for path in (checkpoint, weights)}
    big = nn.Linear(1000, 100)
    with full_disk, pytest.raises(OSError, match="File too large"):
        save_checkpoint(checkpoint, {"model": big.state_dict()})
    with full_disk, pytest.raises(OSError, match="File too large"):
        save_weights(weights, big, {"model": "big"})
    assert {path: path.read_bytes() for path in checkpoint.parent.iterdir()} == before
    assert load_checkpoint(checkpoint)["history"] == [{"epoch": 1}]


WRITE_FOR_EVER = """
import sys
from stn_helpers.data.files import write_whole
for turn in range(1_000_000):
    write_whole(sys.argv[1], bytes([turn % 256]) * 4_000_000)
"""


def test_a_process_killed_while_writing_leaves_the_old_file_or_the_new_one(tmp_path, start):
    paths = [tmp_path / f"{moment}.bin" for moment in range(2)]
    children = [start(["-c", WRITE_FOR_EVER, str(path)], data=tmp_path) for path in paths]
    for child, path in zip(children, paths, strict=True):
        while not path.exists():
            assert child.poll() is None, child.stderr.read()
            time.sleep(0.01)
        time.sleep(random.uniform(0.0, 0.3))
        child.kill()
        child.communicate()
        data = path.read_bytes()
        assert len(data) == 4_000_000 and len(set(data)) == 1
        clear_orphans(path)
    assert sorted(tmp_path.iterdir()) == paths


def _ended() -> int:
    """The id of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    return child.pid


def test_clear_orphans_removes_what_a_dead_process_left_and_nothing_else(tmp_path):
    dead = tmp_path / f".checkpoint.stn.{_ended()}.part"
    others = [tmp_path / "checkpoint.stn", tmp_path / f".weights.safetensors.{_ended()}.part", tmp_path / "mine.part"]
    for path in (dead, *others):
        path.write_bytes(b"half")
    clear_orphans(tmp_path / "checkpoint.stn")
    assert sorted(tmp_path.iterdir()) == sorted(others)


@posix_only
def test_clear_orphans_leaves_the_file_of_a_living_process(tmp_path):
    living = tmp_path / f".checkpoint.stn.{os.getppid()}.part"
    living.write_bytes(b"half")
    clear_orphans(tmp_path / "checkpoint.stn")
    assert living.exists()


def test_write_whole_makes_the_folder_it_needs(tmp_path):
    write_whole(tmp_path / "new" / "deep" / "file", b"all")
    assert (tmp_path / "new" / "deep" / "file").read_bytes() == b"all"
