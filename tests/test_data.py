"""data.py: what comes in, what is refused, and what augmentation does to it."""

import gzip
import hashlib
import os
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F

from stn_helpers.data import sets as data_module
from stn_helpers.data.batches import as_float, batches, crop, cutout, flip
from stn_helpers.data.distortions import distortion
from stn_helpers.data.sets import Images, available, data_root, load
from stn_helpers.show.plots import BLUE, GREEN, ORANGE, PINK

ARCHIVE = "cifar-10-python.tar.gz"


def _has(*files: str) -> bool:
    return all((data_root() / file).is_file() for file in files)


needs_cifar10 = pytest.mark.skipif(
    not _has("cifar-10-batches-py/data_batch_1", "cifar-10-batches-py/test_batch"),
    reason="no CIFAR-10 in STN_DATA or data/: set STN_DATA to a folder with cifar-10-batches-py",
)
needs_mnist = pytest.mark.skipif(
    not _has("MNIST/raw/train-images-idx3-ubyte", "MNIST/raw/t10k-images-idx3-ubyte"),
    reason="no MNIST in STN_DATA or data/: set STN_DATA to a folder with MNIST/raw",
)


@pytest.fixture
def no_network(monkeypatch):
    """Addresses where nobody answers."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(data_module, "MIRRORS", dict.fromkeys(("cifar10", "mnist"), ["http://127.0.0.1:9/"]))


def everything(root) -> dict[str, tuple[bytes, int]]:
    """Each file under a folder: its bytes and when it was written."""
    return {str(p.relative_to(root)): (p.read_bytes(), p.stat().st_mtime_ns) for p in root.rglob("*") if p.is_file()}


# --- no network, no data ---


@pytest.mark.parametrize(
    ("name", "address"), [("cifar10", "127.0.0.1:9/cifar-10-python.tar.gz"), ("mnist", "127.0.0.1:9/train-images")]
)
def test_without_data_and_network_the_message_says_what_was_tried_and_three_ways_on(no_network, tmp_path, name, address):
    with pytest.raises(FileNotFoundError) as caught:
        load(name, train=True, root=tmp_path)
    message = str(caught.value)
    assert f"{name} is not in {tmp_path}" in message
    assert address in message
    assert "run again with a network" in message
    assert f"place torchvision's files in {tmp_path}" in message
    assert "set STN_DATA" in message


def test_a_failed_download_leaves_no_file(no_network, tmp_path):
    with pytest.raises(FileNotFoundError):
        load("cifar10", train=True, root=tmp_path)
    assert list(tmp_path.rglob("*")) == []


def said_of_the_stand_in(name: str, train: bool, root, capsys) -> Images:
    """The set that stands in, when it was said on stdout, in a cell's output, and not on stderr, where a notebook paints it red."""
    found = load(name, train=train, root=root, stand_in=True)
    out, err = capsys.readouterr()
    assert f"{name} is not in {root}" in out and "Using digits" in out and "in its place" in out and err == ""
    return found


@pytest.mark.filterwarnings("error")
def test_the_stand_in_is_digits_in_the_shape_of_cifar10_and_says_so(no_network, tmp_path, capsys):
    train = said_of_the_stand_in("cifar10", True, tmp_path, capsys)
    assert train.images.shape == (1437, 3, 32, 32) and train.images.dtype == torch.uint8
    assert train.name.startswith("digits") and "standing in" in train.name
    assert train.classes == tuple("0123456789")


@pytest.mark.filterwarnings("error")
def test_the_stand_in_for_mnist_is_digits_in_its_shape(no_network, tmp_path, capsys):
    test = said_of_the_stand_in("mnist", False, tmp_path, capsys)
    assert test.images.shape == (360, 1, 28, 28) and test.images.dtype == torch.uint8
    assert test.name.startswith("digits")


def test_the_stand_in_does_not_hide_a_damaged_file(small_cifar, tmp_path):
    (tmp_path / ARCHIVE).write_bytes(small_cifar.archive[:-1000])
    with pytest.raises(ValueError, match="damaged"):
        load("cifar10", train=True, root=tmp_path, stand_in=True)


def test_digits_need_neither_folder_nor_network(no_network, tmp_path, monkeypatch):
    monkeypatch.setenv("STN_DATA", str(tmp_path / "nowhere"))
    train, test = load("digits", train=True), load("digits", train=False)
    assert train.images.shape == (1437, 1, 28, 28) and len(test) == 360
    assert torch.cat([train.labels, test.labels]).unique().tolist() == list(range(10))
    assert not (tmp_path / "nowhere").exists()


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'cifar100'; expected one of cifar10, mnist, digits"):
        load("cifar100", train=True)


def test_stn_data_says_where_data_lies(small_cifar, tmp_path, monkeypatch):
    monkeypatch.setenv("STN_DATA", str(small_cifar.unpack(tmp_path)))
    assert len(load("cifar10", train=True)) == 200


def test_without_scikit_learn_digits_say_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ModuleNotFoundError, match="'digits' comes with scikit-learn, which is missing: pip install scikit-learn"):
        load("digits", train=True)


def test_without_stn_data_the_folder_is_data_in_the_checkout(monkeypatch):
    monkeypatch.delenv("STN_DATA", raising=False)
    assert (data_root().parent / "stn_helpers" / "data" / "sets.py").is_file() and data_root().name == "data"


@pytest.mark.parametrize("beside", ["nothing", "pyproject.toml", ".git"])
def test_an_installed_package_keeps_data_in_the_users_cache_and_a_copy_beside_itself(tmp_path, monkeypatch, beside):
    monkeypatch.setattr(data_module, "__file__", str(tmp_path / "site-packages" / "stn_helpers" / "data" / "sets.py"))
    monkeypatch.delenv("STN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / beside).touch()
    assert data_root() == tmp_path / ("cache/stn" if beside == "nothing" else "site-packages/data")


def test_images_of_another_type_or_without_a_label_each_are_refused():
    with pytest.raises(ValueError, match="images are torch.float32; expected uint8"):
        Images("float", torch.rand(2, 3, 4, 4), torch.arange(2), ())
    with pytest.raises(ValueError, match="labels are 3 for 2 images"):
        Images("odd", _noise(2, 4, 4), torch.arange(3), ())


def test_the_digest_is_another_for_other_images_labels_or_shapes():
    images, labels = _noise(4, 6, 6), torch.arange(4)
    changed = images.clone()
    changed[3, 2, 5, 5] ^= 1
    sets = [(images, labels), (changed, labels), (images, labels.flip(0)), (images.reshape(4, 3, 4, 9), labels)]
    assert len({Images("", *one, ()).digest() for one in sets}) == 4
    assert Images("a", images, labels, ()).digest() == Images("b", images.clone(), labels.clone(), ("c",)).digest()


def test_available_looks_and_neither_reads_nor_downloads(small_cifar, served_mnist, server, tmp_path, monkeypatch):
    monkeypatch.setenv("STN_DATA", str(tmp_path))
    assert [available(name) for name in data_module.DATASETS] == [False, False, True]
    small_cifar.unpack(tmp_path)
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    for archive in data_module.ARCHIVES["mnist"]:
        assert not available("mnist")
        (tmp_path / archive.removesuffix(".gz")).write_bytes(b"anything")
    assert available("cifar10") and available("mnist") and not server.asked
    assert not available("cifar10", tmp_path / "MNIST") and available("digits", tmp_path / "nowhere")
    for file in (tmp_path / "cifar-10-batches-py").iterdir():
        content = file.read_bytes()
        file.unlink()
        assert not available("cifar10"), file
        file.write_bytes(content)


def test_available_refuses_an_unknown_name_with_the_known_ones():
    with pytest.raises(ValueError, match="'cifar100'; expected one of cifar10, mnist, digits"):
        available("cifar100")


# --- downloads ---


@pytest.mark.parametrize("how", ["length", "chunked"])
def test_a_download_cut_off_leaves_the_folder_as_it_was(served_cifar, server, tmp_path, how):
    (tmp_path / "notes.txt").write_text("mine")
    before, server.cut = everything(tmp_path), how
    with pytest.raises(FileNotFoundError, match="downloading .* failed"):
        load("cifar10", train=True, root=tmp_path)
    assert server.asked
    assert everything(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]  # not even an empty .download- folder


def test_after_a_cut_off_download_the_next_one_goes_through(served_cifar, server, tmp_path):
    server.cut = "length"
    with pytest.raises(FileNotFoundError):
        load("cifar10", train=True, root=tmp_path)
    server.cut = None
    assert len(load("cifar10", train=True, root=tmp_path)) == 200
    assert (tmp_path / ARCHIVE).read_bytes() == served_cifar.archive


def test_a_download_with_the_wrong_content_is_not_kept(served_cifar, server, tmp_path):
    server.files[f"/{ARCHIVE}"] = b"<html>please log in to this network</html>"
    with pytest.raises(FileNotFoundError, match="Three ways on"):
        load("cifar10", train=True, root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_downloaded_set_holds_the_images_labels_and_classes_of_the_archive(served_cifar, server, tmp_path):
    import pickle

    test = load("cifar10", train=False, root=tmp_path)
    raw = pickle.loads(served_cifar.files["test_batch"])
    assert torch.equal(test.images, torch.from_numpy(raw["data"]).reshape(50, 3, 32, 32))
    assert test.labels.tolist() == raw["labels"]
    assert test.classes == tuple(f"class {i}" for i in range(10))
    assert test.name == "CIFAR-10"


def test_what_is_there_is_not_downloaded_again(served_cifar, server, tmp_path):
    load("cifar10", train=True, root=tmp_path)
    before, asked = everything(tmp_path), len(server.asked)
    load("cifar10", train=False, root=tmp_path)
    assert len(server.asked) == asked and everything(tmp_path) == before


def test_a_placed_archive_is_unpacked_without_a_network(small_cifar, tmp_path):
    (tmp_path / ARCHIVE).write_bytes(small_cifar.archive)
    assert len(load("cifar10", train=True, root=tmp_path)) == 200


@pytest.fixture
def served_mnist(server, monkeypatch) -> dict[str, bytes]:
    """A small MNIST of 30 + 20 images behind `server`: {archive: bytes}."""
    plain = {}
    for part, count in (("train", 30), ("t10k", 20)):
        plain[f"{part}-images-idx3-ubyte"] = struct.pack(">iiii", 2051, count, 28, 28) + os.urandom(count * 784)
        plain[f"{part}-labels-idx1-ubyte"] = struct.pack(">ii", 2049, count) + bytes(i % 10 for i in range(count))
    packed = {f"{name}.gz": gzip.compress(content) for name, content in plain.items()}
    server.files.update({f"/{name}": content for name, content in packed.items()})
    known = {f"MNIST/raw/{name}.gz": {f"MNIST/raw/{name}": hashlib.md5(plain[name]).hexdigest()} for name in plain}
    monkeypatch.setitem(data_module.ARCHIVES, "mnist", known)
    monkeypatch.setitem(data_module.MIRRORS, "mnist", [f"{server.url}/"])
    return packed


def test_mnist_is_downloaded_and_unpacked(served_mnist, tmp_path):
    train, test = load("mnist", train=True, root=tmp_path), load("mnist", train=False, root=tmp_path)
    assert train.images.shape == (30, 1, 28, 28) and train.images.dtype == torch.uint8
    assert test.labels.tolist() == [i % 10 for i in range(20)]


def test_mnist_goes_on_with_the_archive_that_was_missing(served_mnist, server, tmp_path):
    third = sorted(server.files)[0]
    content = server.files.pop(third)
    with pytest.raises(FileNotFoundError, match=third.strip("/")):
        load("mnist", train=True, root=tmp_path)
    server.files[third] = content
    server.asked.clear()
    assert len(load("mnist", train=False, root=tmp_path)) == 20
    assert "/train-images-idx3-ubyte.gz" not in server.asked


def test_mnist_tries_its_next_mirror(served_mnist, server, tmp_path, monkeypatch):
    monkeypatch.setitem(data_module.MIRRORS, "mnist", [f"{server.url}/first/", f"{server.url}/"])
    server.refused = {f"/first/{name}": 403 for name in served_mnist}
    assert len(load("mnist", train=True, root=tmp_path)) == 30
    assert [path for path in server.asked if path.startswith("/first/")] == list(server.refused)


def test_a_server_that_refuses_is_named_with_its_answer_and_not_taken_for_no_network(served_mnist, server, tmp_path, monkeypatch):
    monkeypatch.setitem(data_module.MIRRORS, "mnist", [f"{server.url}/first/", f"{server.url}/"])
    server.refused = {f"{at}{name}": code for name in served_mnist for at, code in (("/first/", 403), ("/", 503))}
    with pytest.raises(FileNotFoundError) as caught:
        load("mnist", train=True, root=tmp_path)
    message = str(caught.value)
    assert "/first/train-images-idx3-ubyte.gz failed (HTTP Error 403" in message and "HTTP Error 503" in message
    assert "try again later" in message and "with a network" not in message


def test_a_stalled_download_ends_in_a_clear_error(served_cifar, server, tmp_path, monkeypatch):
    assert data_module.STALL * max(map(len, data_module.MIRRORS.values())) < 60  # a minute, all mirrors together
    monkeypatch.setattr(data_module, "STALL", 0.5)
    server.stalls, began = True, time.monotonic()
    with pytest.raises(FileNotFoundError, match="downloading .*cifar-10-python.tar.gz failed .nothing came for 0.5 seconds"):
        load("cifar10", train=True, root=tmp_path)
    assert server.half.is_set() and time.monotonic() - began < 20
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


LOAD = """
import os, sys, time
os.environ["no_proxy"] = "*"
from stn_helpers.data import files, sets
sets.ARCHIVES["cifar10"], sets.MIRRORS["cifar10"] = {archives!r}, {mirrors!r}
def stop_half_way(number):
    os.truncate(number, 100)
    print("half", flush=True)
    time.sleep(600)
if {writing}:
    files.os.fsync = stop_half_way
sets.load("cifar10", train=True)
"""


@pytest.mark.parametrize("writing", [False, True], ids=["downloading", "unpacking"])
def test_kill_9_in_a_download_leaves_nothing_that_the_next_one_minds(start, served_cifar, server, tmp_path, writing):
    server.stalls = not writing
    known = {"archives": data_module.ARCHIVES["cifar10"], "mirrors": data_module.MIRRORS["cifar10"]}
    child = start(["-c", LOAD.format(**known, writing=writing)], data=tmp_path)
    assert server.half.wait(60) if server.stalls else child.stdout.readline() == "half\n"
    with ThreadPoolExecutor(1) as other:
        waits = other.submit(load, "cifar10", True, tmp_path)
        server.stalls = False
        time.sleep(0.3)
        assert not waits.done()  # the lock is the child's
        child.kill()
        assert len(waits.result(timeout=60)) == 200
    child.communicate()
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {ARCHIVE, *data_module.ARCHIVES["cifar10"][ARCHIVE]}


# --- damaged files ---


def _flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("harm", [lambda whole: whole[: len(whole) // 2], _flipped], ids=["truncated", "one bit flipped"])
def test_a_damaged_archive_is_named_with_what_to_delete_and_left_alone(served_cifar, server, tmp_path, harm):
    (tmp_path / ARCHIVE).write_bytes(harm(served_cifar.archive))
    before = everything(tmp_path)
    with pytest.raises(ValueError) as caught:
        load("cifar10", train=True, root=tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / ARCHIVE} is damaged or half downloaded")
    assert "Delete that file" in str(caught.value)
    assert everything(tmp_path) == before and not server.asked


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
@pytest.mark.parametrize("harm", [lambda whole: whole[:-1], _flipped], ids=["truncated", "one bit flipped"])
def test_a_damaged_unpacked_file_is_named_with_what_to_delete_and_left_alone(small_cifar, tmp_path, name, harm):
    file = small_cifar.unpack(tmp_path) / "cifar-10-batches-py" / name
    file.write_bytes(harm(file.read_bytes()))
    before = everything(tmp_path)
    with pytest.raises(ValueError) as caught:
        load("cifar10", train=True, root=tmp_path)
    assert str(caught.value).startswith(f"{file} is damaged")
    assert "Delete that file" in str(caught.value)
    assert everything(tmp_path) == before


def test_deleting_the_damaged_file_is_enough_where_the_archive_is_whole(small_cifar, tmp_path):
    (tmp_path / ARCHIVE).write_bytes(small_cifar.archive)
    file = small_cifar.unpack(tmp_path) / "cifar-10-batches-py" / "data_batch_2"
    file.unlink()
    assert len(load("cifar10", train=True, root=tmp_path)) == 200


# --- the real sets ---


@needs_cifar10
def test_cifar10_is_the_official_one():
    train, test = load("cifar10", train=True), load("cifar10", train=False)
    assert train.images.shape == (50_000, 3, 32, 32) and test.images.shape == (10_000, 3, 32, 32)
    assert train.images.dtype == torch.uint8 and train.labels.dtype == torch.int64
    assert train.classes == ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    assert train.labels.bincount().tolist() == [5000] * 10 and test.labels.bincount().tolist() == [1000] * 10


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(
    ("name", "kind"), [pytest.param("cifar10", "CIFAR10", marks=needs_cifar10), pytest.param("mnist", "MNIST", marks=needs_mnist)]
)
def test_a_set_is_what_torchvision_reads_from_the_same_files(name, kind, train):
    from torchvision import datasets

    ours, theirs = load(name, train=train), getattr(datasets, kind)(str(data_root()), train=train)
    theirs_images = torch.as_tensor(theirs.data)
    assert torch.equal(ours.images.permute(0, 2, 3, 1).squeeze(-1), theirs_images)
    assert torch.equal(ours.labels, torch.as_tensor(theirs.targets))
    assert name == "mnist" or ours.classes == tuple(theirs.classes)


@needs_mnist
def test_mnist_is_the_official_one():
    train, test = load("mnist", train=True), load("mnist", train=False)
    assert train.images.shape == (60_000, 1, 28, 28) and test.images.shape == (10_000, 1, 28, 28)
    assert train.images.dtype == torch.uint8
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9] and test.labels[:5].tolist() == [7, 2, 1, 0, 4]


# --- the test card ---


@pytest.mark.parametrize("size", [8, 33, 128])
def test_the_test_card_has_a_colour_in_each_corner(size):
    card = data_module.test_card(size)
    assert card.shape == (3, size, size) and card.dtype == torch.float32 and card.min() >= 0 and card.max() == 1
    for (row, column), color in {(0, 0): ORANGE, (0, -1): BLUE, (-1, 0): GREEN, (-1, -1): PINK}.items():
        assert card[:, row, column].tolist() == pytest.approx([int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)], abs=0.01)


@pytest.mark.parametrize("size", [16, 40, 128])
def test_the_letter_on_the_test_card_is_an_f_that_tells_turns_and_mirrors_apart(size):
    ink = (data_module.test_card(size).amax(0) < 0.5).long()
    down, across = ink.sum(1), ink.sum(0)
    assert across.argmax() < size // 2 and down.argmax() < size // 2  # the stem stands left, the longer bar lies above
    bar, stem, shorter_bar, foot = (down[int((y + 1) / 2 * size)] for y in (-0.45, -0.22, 0.0, 0.4))
    assert bar > shorter_bar > stem == foot > 0
    turned = [torch.rot90(picture, k) for picture in (ink, ink.T) for k in range(4)]
    assert not any(torch.equal(one, other) for k, one in enumerate(turned) for other in turned[:k])


def test_the_test_card_is_the_same_picture_at_every_size():
    large, small = data_module.test_card(64), data_module.test_card(32)
    assert (F.avg_pool2d(large, 2) - small).abs().mean() < 0.005
    for edge in (small[0, 0, 8:24].reshape(4, 4), small[0, 8:24, 0].reshape(4, 4)):  # light and dark squares, eight a side
        assert (edge == edge[:, :1]).all() and edge[:, 0].diff().sign().tolist() in ([1, -1, 1], [-1, 1, -1])


def test_a_test_card_too_small_to_read_is_refused():
    with pytest.raises(ValueError, match="size is 7; expected at least 8 pixels"):
        data_module.test_card(7)


# --- augmentation ---


def _noise(count: int, height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_flip_gives_each_image_or_its_mirror_image_half_of_the_time_each():
    images = _noise(400, 5, 6)
    flipped = flip(images, torch.Generator().manual_seed(0))
    mirrored = 0
    for before, after in zip(images, flipped, strict=True):
        same, mirror = torch.equal(after, before), torch.equal(after, torch.fliplr(before.permute(1, 2, 0)).permute(2, 0, 1))
        assert same != mirror
        mirrored += mirror
    assert 160 < mirrored < 240  # four standard deviations


def _shift_of(before: torch.Tensor, after: torch.Tensor, pixels: int) -> tuple[int, int]:
    """Which slice of the reflected image `after` is; the slow and plain way."""
    height, width = before.shape[-2:]
    padded = F.pad(before[None].float(), (pixels,) * 4, mode="reflect")[0]
    found = [
        (x, y)
        for y in range(2 * pixels + 1)
        for x in range(2 * pixels + 1)
        if torch.equal(padded[:, y : y + height, x : x + width], after.float())
    ]
    assert len(found) == 1
    return found[0]


def test_crop_gives_every_shifted_slice_of_the_reflected_image():
    images = _noise(300, 6, 9)
    cropped = crop(images, 2, torch.Generator().manual_seed(0))
    assert cropped.shape == images.shape and cropped.dtype == torch.uint8
    shifts = {_shift_of(before, after, 2) for before, after in zip(images, cropped, strict=True)}
    assert shifts == {(x, y) for x in range(5) for y in range(5)}


def test_crop_by_nothing_changes_nothing():
    images = _noise(4, 5, 5)
    assert torch.equal(crop(images, 0, torch.Generator()), images)


@pytest.mark.parametrize("pixels", [5, 20, -1])
def test_a_crop_that_cannot_be_reflected_is_refused(pixels):
    assert crop(_noise(4, 7, 5), 4, torch.Generator()).shape == (4, 3, 7, 5)
    with pytest.raises(ValueError, match=f"a crop by {pixels} pixels does not fit images of 7 x 5"):
        crop(_noise(4, 7, 5), pixels, torch.Generator())


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_cutout_hides_one_square_an_image_in_the_mean_colour_of_the_batch_and_nothing_else(kind):
    images = _noise(300, 6, 9).to(kind)
    made = cutout(images, 4, torch.Generator().manual_seed(0))
    mean = images.double().mean((0, 2, 3))[:, None, None]
    assert made.dtype == kind and made.shape == images.shape
    corners = set()
    for before, after in zip(images, made, strict=True):
        # Some of the noise may have the mean's colour by chance: a square is where it all has it.
        fits = (after - mean).abs().amax(0) <= (0.5 if kind == torch.uint8 else 1e-3)
        (y, x), *others = [(y, x) for y in range(3) for x in range(6) if fits[y : y + 4, x : x + 4].all()]
        assert not others
        inside = torch.zeros(6, 9, dtype=torch.bool)
        inside[y : y + 4, x : x + 4] = True
        assert torch.equal(before[:, ~inside], after[:, ~inside])
        corners.add((y, x))
    assert corners == {(y, x) for y in range(3) for x in range(6)}


def test_cutout_of_nothing_changes_nothing_and_of_all_leaves_the_mean():
    images = _noise(4, 5, 5)
    assert torch.equal(cutout(images, 0, torch.Generator()), images)
    assert (cutout(images, 5, torch.Generator()) == cutout(images, 5, torch.Generator())[:1, :, :1, :1]).all()
    for pixels in (6, -3):
        with pytest.raises(ValueError, match=f"a cutout of {pixels} pixels does not fit into images of 5 x 7"):
            cutout(_noise(4, 5, 7), pixels, torch.Generator())


AUGMENTATIONS = pytest.mark.parametrize(
    "change",
    [flip, lambda images, random: crop(images, 3, random), lambda images, random: cutout(images, 3, random)],
    ids=["flip", "crop", "cutout"],
)


@AUGMENTATIONS
def test_augmentation_is_decided_by_its_generator_alone(change):
    images = _noise(50, 8, 8)
    one, again, other = (change(images, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert torch.equal(one, again) and not torch.equal(one, other)


@AUGMENTATIONS
def test_augmentation_leaves_the_global_random_state_and_its_input_alone(change):
    images, before = _noise(50, 8, 8), torch.get_rng_state()
    kept = images.clone()
    change(images, torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before) and torch.equal(images, kept)


# --- batches ---


@pytest.fixture
def numbered() -> Images:
    """103 images; each is all one value, which is its label."""
    labels = torch.arange(103)
    return Images("numbered", labels.to(torch.uint8)[:, None, None, None].expand(-1, 3, 4, 5).contiguous(), labels, ())


def test_unshuffled_batches_hold_every_image_once_and_in_order(numbered):
    sizes, seen = zip(*((len(labels), labels) for _, labels in batches(numbered, 25)), strict=True)
    assert sizes == (25, 25, 25, 25, 3)
    assert torch.equal(torch.cat(seen), numbered.labels)


def test_shuffled_batches_are_full_and_hold_no_image_twice(numbered):
    seen = [labels for _, labels in batches(numbered, 25, torch.Generator().manual_seed(0))]
    assert [len(labels) for labels in seen] == [25] * 4
    assert len(torch.cat(seen).unique()) == 100
    assert not torch.equal(torch.cat(seen), numbered.labels[:100])


def test_every_epoch_has_an_order_of_its_own(numbered):
    random = torch.Generator().manual_seed(0)
    first, second = (torch.cat([labels for _, labels in batches(numbered, 25, random)]) for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("random", [None, torch.Generator().manual_seed(0)], ids=["in order", "shuffled"])
def test_batches_keep_images_and_labels_together(numbered, random):
    for images, labels in batches(numbered, 10, random, flips=True, crop_pixels=2):
        assert torch.equal((images * 255).round()[:, 1, 2, 3].long(), labels)


@pytest.mark.parametrize("random", [None, torch.Generator().manual_seed(0)], ids=["in order", "shuffled"])
def test_batches_are_float32_from_0_to_1_in_channels_last(random):
    every = Images("noise", _noise(8, 32, 32), torch.arange(8), ())
    images, _ = next(batches(every, 8, random, flips=True, crop_pixels=4))
    assert images.dtype == torch.float32 and images.is_contiguous(memory_format=torch.channels_last)
    assert images.min() == 0 and images.max() == 1


def test_as_float_divides_by_255_and_leaves_the_bytes_alone():
    images = _noise(3, 4, 4)
    kept = images.clone()
    assert torch.equal(as_float(images), kept.float() / 255)
    assert torch.equal(images, kept)


def test_as_float_refuses_what_is_not_bytes_and_does_not_change_it():
    images = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    kept = images.clone()
    with pytest.raises(ValueError, match="images are torch.float32; expected uint8"):
        as_float(images)
    assert torch.equal(images, kept)


@pytest.mark.parametrize("random", [None, torch.Generator()], ids=["in order", "shuffled"])
def test_batches_of_nothing_are_refused(numbered, random):
    with pytest.raises(ValueError, match="batch_size is 0; expected at least 1"):
        next(batches(numbered, 0, random))


def test_batches_leave_the_global_random_state_alone(numbered):
    before = torch.get_rng_state()
    list(batches(numbered, 10, torch.Generator().manual_seed(0), flips=True, crop_pixels=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_every_batch_is_distorted_after_its_flips_crops_and_cutout():
    every, random, seen = Images("noise", _noise(60, 6, 6), torch.arange(60), ()), torch.Generator().manual_seed(0), []
    moves = {"flips": True, "crop_pixels": 1, "cutout_pixels": 2}

    def distort(images, generator):
        assert generator is random and images.dtype == torch.uint8
        seen.append(images)
        return 255 - images, None

    made = list(batches(every, 20, random, **moves, distort=distort))
    plain = list(batches(every, 20, torch.Generator().manual_seed(0), **moves))
    for before, (images, labels), (moved, same) in zip(seen, made, plain, strict=True):
        assert torch.equal(as_float(before), moved) and torch.equal(labels, same)
        assert torch.equal(images, as_float(255 - before)) and images.is_contiguous(memory_format=torch.channels_last)
    list(batches(every, 20, distort=distort))
    assert len(seen) == 3  # in order, for testing, nothing is changed


def test_distorted_batches_are_decided_by_their_generator_and_new_every_time():
    every = Images("noise", _noise(8, 28, 28), torch.arange(8), ())
    random = torch.Generator().manual_seed(0)
    one, two = (next(batches(every, 8, random, distort=distortion("cluttered"))) for _ in range(2))
    again = next(batches(every, 8, torch.Generator().manual_seed(0), distort=distortion("cluttered")))
    assert one[0].shape == (8, 3, 48, 48) and torch.equal(one[0], again[0]) and torch.equal(one[1], again[1])
    assert not torch.equal(one[0][one[1].argsort()], two[0][two[1].argsort()])
