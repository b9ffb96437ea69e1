"""checkpoint.py: files are whole or not there, and a changed byte is seen."""

import hashlib
import os
import pickle
import random
import stat
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from stn_helpers.data.files import clear_orphans, sha256, write_whole
from stn_helpers.training import checkpoint as checkpoint_module
from stn_helpers.training.checkpoint import FORMAT, fill, load_checkpoint, load_weights, save_checkpoint, save_weights

posix_only = pytest.mark.skipif(os.name != "posix", reason="Windows has no folder to bring to the disk")


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


def test_a_checkpoint_keeps_every_kind_of_value_to_the_bit(tmp_path):
    tied = torch.randn(3, 4)
    state = {
        "bf16": torch.randn(5).bfloat16(),
        "tied": [tied, tied],
        "laid out": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "bytes": torch.get_rng_state(),
        "number": torch.tensor(3),
        "empty": torch.zeros(0, 2),
        "nested": {0: {"step": 1, 7: [True, None, 0.1, -0.0, 1e300, 2**60, "text", []]}, "tensor": "no tensor", "dict": {}},
    }
    save_checkpoint(tmp_path / "file", state)
    found = load_checkpoint(tmp_path / "file")
    assert found["nested"] == state["nested"] and found.keys() == state.keys()
    for name in ("bf16", "laid out", "bytes", "number", "empty"):
        assert found[name].dtype == state[name].dtype and torch.equal(found[name], state[name]), name
    assert all(torch.equal(one, tied) for one in found["tied"])
    with pytest.raises(TypeError, match="a checkpoint cannot hold .* a Random"):
        save_checkpoint(tmp_path / "file", {"content": random.Random(0)})


def test_a_loss_that_is_not_finite_may_be_in_a_checkpoint(tmp_path):
    save_checkpoint(tmp_path / "file", {"loss": float("inf"), "accuracy": float("nan")})
    assert str(load_checkpoint(tmp_path / "file")) == "{'loss': inf, 'accuracy': nan}"


def test_no_file_of_ours_is_unpickled(tmp_path, checkpoint, weights, monkeypatch):
    def harm(*words, **more):
        raise AssertionError("unpickled")

    for module, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(module, name, harm)
    assert load_checkpoint(checkpoint) and load_weights(weights)


def test_a_checkpoint_with_a_flipped_bit_anywhere_is_refused(checkpoint):
    whole = checkpoint.read_bytes()
    for position in range(len(whole)):
        flip_byte(checkpoint, position)
        refused(load_checkpoint, checkpoint, "damaged|not a|newer")
        checkpoint.write_bytes(whole)


@pytest.mark.parametrize("length", [0, 7, 40, -1])
def test_a_truncated_checkpoint_is_refused(checkpoint, length):
    checkpoint.write_bytes(checkpoint.read_bytes()[:length])
    refused(load_checkpoint, checkpoint, "damaged.*Delete it to start again")


def test_a_checkpoint_of_a_newer_format_is_refused_with_both_numbers(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.stn"
    with monkeypatch.context() as later:
        later.setattr(checkpoint_module, "FORMAT", FORMAT + 1)
        save_checkpoint(path, {"content": 1})
    refused(load_checkpoint, path, rf"newer version \(format {FORMAT + 1}; this one reads up to {FORMAT}\)")


def test_another_kind_of_file_is_refused_as_a_checkpoint(tmp_path, weights):
    path = tmp_path / "checkpoint.stn"
    torch.save({"model": {}}, path)
    refused(load_checkpoint, path, "not a whole safetensors file")
    refused(load_checkpoint, weights, "is not a checkpoint: it holds weights")


# --- weights ---


def test_weights_come_back_as_they_were(weights, model):
    tensors, about = load_weights(weights)
    assert about["model"] == "tiny" and about["options"] == {"dropout": 0.5}
    assert tensors.keys() == model.state_dict().keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in model.state_dict().items())


def test_half_precision_and_tied_weights_come_back_as_they_were(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).bfloat16()
    model[1].weight = model[0].weight
    save_weights(tmp_path / "file", model, {})
    other = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).bfloat16()
    fill(other, load_weights(tmp_path / "file")[0], "file")
    assert all(torch.equal(one, two) for one, two in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    assert torch.equal(other[0].weight, other[1].weight) and other[0].weight.dtype == torch.bfloat16


def test_what_weights_are_for_comes_back_as_json_gives_it(tmp_path, model):
    save_weights(
        tmp_path / "file", model, {"study": "cifar10", "arguments": {"size": (32, 32), "drop": None}, "epochs": {2: 1, 10: 0}}
    )
    about = load_weights(tmp_path / "file")[1]
    assert about["arguments"] == {"size": [32, 32], "drop": None} and about["epochs"] == {"2": 1, "10": 0}


def test_saving_weights_returns_the_sha256_of_the_file_and_repeats_it(tmp_path, model):
    one, two = (save_weights(tmp_path / name, model, {"model": "tiny"}) for name in ("one", "two"))
    assert one == two == sha256(tmp_path / "one") == hashlib.sha256((tmp_path / "one").read_bytes()).hexdigest()


def test_weights_with_a_flipped_bit_anywhere_are_refused(weights):
    whole = weights.read_bytes()
    for position in range(0, len(whole), 5):  # checkpoints, which are read in the same way, are tried at every place
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


def test_clear_orphans_removes_what_was_left_of_this_file_and_nothing_else(tmp_path):
    dead = tmp_path / ".checkpoint.stn.7.7.part"
    others = [tmp_path / "checkpoint.stn", tmp_path / ".weights.safetensors.7.7.part", tmp_path / "mine.part"]
    for path in (dead, *others):
        path.write_bytes(b"half")
    clear_orphans(tmp_path / "checkpoint.stn")
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_write_whole_removes_what_is_long_dead_and_leaves_what_another_one_writes(tmp_path):
    old, young = tmp_path / ".file.7.7.part", tmp_path / ".file.8.8.part"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 4000,) * 2)
    write_whole(tmp_path / "file", b"all")
    assert sorted(path.name for path in tmp_path.iterdir()) == [young.name, "file"]


def test_threads_that_write_one_file_at_once_leave_one_of_theirs(tmp_path):
    path = tmp_path / "file"

    def write(number: int) -> None:
        for _ in range(30):
            write_whole(path, bytes([number]) * 100_000)
            assert len(set(path.read_bytes())) == 1

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(4)))
    assert list(tmp_path.iterdir()) == [path] and path.stat().st_size == 100_000


@posix_only
def test_a_file_has_reached_the_disk_before_it_takes_its_name_and_its_name_after(tmp_path, monkeypatch):
    """A power cut cannot be had in a test; the order of what prevents its harm can."""
    done, path = [], tmp_path / "file"
    sync, replace = os.fsync, os.replace

    def said_sync(number: int) -> None:
        done.append(("folder" if stat.S_ISDIR(os.fstat(number).st_mode) else "file", os.fstat(number).st_size))
        sync(number)

    monkeypatch.setattr(os, "fsync", said_sync)
    monkeypatch.setattr(os, "replace", lambda one, two: (done.append(("name", two)), replace(one, two)))
    write_whole(path, b"all of it")
    assert done[:2] == [("file", 9), ("name", path)] and [what for what, _ in done[2:]] == ["folder"]


def test_write_whole_makes_the_folder_it_needs(tmp_path):
    write_whole(tmp_path / "new" / "deep" / "file", b"all")
    assert (tmp_path / "new" / "deep" / "file").read_bytes() == b"all"
