"""Sets: CIFAR-10, MNIST and digits as uint8 tensors, found or downloaded, and a test card."""

import gzip
import hashlib
import os
import pickle
import tarfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
import torch.nn.functional as F
from torch import Tensor

from stn_helpers.checks import check_choice
from stn_helpers.data.files import alone, clear_orphans, write_whole

DATASETS = ("cifar10", "mnist", "digits")
DIGITS_TEST = 360  # the last fifth of the 1,797 digits
STALL = 20.0  # seconds without a byte after which a download is given up
MIRRORS = {
    "cifar10": ("https://www.cs.toronto.edu/~kriz/",),
    "mnist": ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
}
# Where torchvision has them too: each archive, and the files that are unpacked from it with their MD5.
ARCHIVES = {
    "cifar10": {
        "cifar-10-python.tar.gz": {
            "cifar-10-batches-py/data_batch_1": "c99cafc152244af753f735de768cd75f",
            "cifar-10-batches-py/data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "cifar-10-batches-py/data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "cifar-10-batches-py/data_batch_4": "634d18415352ddfa80567beed471001a",
            "cifar-10-batches-py/data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "cifar-10-batches-py/test_batch": "40351d587109b95175f43aff81a1287e",
            "cifar-10-batches-py/batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
        }
    },
    "mnist": {
        f"MNIST/raw/{file}.gz": {f"MNIST/raw/{file}": md5}
        for file, md5 in {
            "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
            "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
            "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
            "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
        }.items()
    },
}


@dataclass
class Images:
    """A set of labelled images. images: uint8 (N, C, H, W), 0 is black. labels: int64 (N,). name: where they come from.

    Raises ValueError for images of another type, and where there is not one label an image.
    """

    name: str
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __post_init__(self):
        if self.images.dtype != torch.uint8:
            raise ValueError(f"images are {self.images.dtype}; expected uint8, 0 to 255")
        if len(self.images) != len(self.labels):
            raise ValueError(f"labels are {len(self.labels)} for {len(self.images)} images; expected one an image")

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device) -> "Images":
        """The same images on a device, uint8 still: all of CIFAR-10 is 184 MB."""
        return Images(self.name, self.images.to(device), self.labels.to(device), self.classes)

    def subset(self, index) -> "Images":
        """The images of an index, a slice or a list."""
        return Images(self.name, self.images[index], self.labels[index], self.classes)

    def digest(self) -> str:
        """Sixteen letters that are others for other images or labels: the beginning of their SHA-256."""
        total = hashlib.sha256()
        for tensor in (self.images, self.labels):
            total.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            total.update(tensor.cpu().contiguous().numpy())
        return total.hexdigest()[:16]


def data_root() -> Path:
    """The folder with the data sets: $STN_DATA; else data/ in the checkout; else, installed, stn/ in the user's cache."""
    if os.environ.get("STN_DATA"):
        return Path(os.environ["STN_DATA"]).expanduser()
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file() or (checkout / ".git").exists():
        return checkout / "data"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "stn"


def load(name: str, train: bool, root: Path | str | None = None, stand_in: bool = False) -> Images:
    """A data set, found under `root` (default `data_root()`) in torchvision's layout, or downloaded into it.

    name: cifar10 (3 x 32 x 32), mnist (1 x 28 x 28) or digits (1 x 28 x 28, ships with scikit-learn, needs no network).
    stand_in: where cifar10 or mnist cannot be had, say so and give digits in its shape instead; `.name` says it too.
    Raises ValueError for another name and for a damaged file, with what to delete; FileNotFoundError where there is no
    data and no download; ModuleNotFoundError for digits without scikit-learn. What is already there stays as it is.
    """
    check_choice("data", name, DATASETS)
    if name == "digits":
        return _digits(train)
    root = Path(root) if root is not None else data_root()
    try:
        _ensure(name, root)
    except FileNotFoundError as error:
        if not stand_in:
            raise
        print(f"{error}\nUsing digits, a small set that ships with scikit-learn, in its place.", flush=True)
        return _digits(train, stands_for=name)
    return {"cifar10": _cifar10, "mnist": _mnist}[name](root, train)


def available(name: str, root: Path | str | None = None) -> bool:
    """Whether the unpacked files of cifar10 or mnist are under `root` (default `data_root()`); digits always are."""
    check_choice("data", name, DATASETS)
    root = Path(root) if root is not None else data_root()
    return name == "digits" or all((root / file).is_file() for inside in ARCHIVES[name].values() for file in inside)


def _ensure(name: str, root: Path) -> None:
    """Make sure the unpacked files are there and whole."""
    for file, md5 in (pair for inside in ARCHIVES[name].values() for pair in inside.items()):
        if (root / file).is_file() and _md5(root / file, (root / file).stat().st_mtime_ns) != md5:
            raise ValueError(
                f"{root / file} is damaged: its MD5 is not the published one. "
                "Delete that file and run again, or set STN_DATA to a folder with a good copy. Nothing was removed."
            )
    if available(name, root):
        return
    try:
        with alone(root / ".download.lock", f"Another process fetches {name} into {root}; waiting for it."):
            for archive, inside in ARCHIVES[name].items():
                if not all((root / file).is_file() for file in inside):  # it may have come while this process waited
                    _fetch(name, root, archive, inside)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _not_here(name, root, f"it cannot be put there ({error})", "make room there") from error


@lru_cache
def _md5(file: Path, written: int) -> str:
    """The MD5 of a file, read once as long as nobody writes it."""
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()


def _not_here(name: str, root: Path, why: str, first: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"{name} is not in {root}, and {why}. Three ways on: {first}; place torchvision's files in {root}; "
        "or set STN_DATA to a folder that has them."
    )


def _fetch(name: str, root: Path, archive: str, inside: dict[str, str]) -> None:
    """Download one archive, if it is not there, and unpack it. What is there already stays as it is."""
    place, failed, first = root / archive, [], "run again with a network"
    part = place.with_name(f".download-{place.name}")  # what is half downloaded never stands under a final name
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        try:
            found = _unpacked(place, inside)
        except ValueError as error:
            raise ValueError(
                f"{place} is damaged or half downloaded ({error}). Delete that file and run again. Nothing was removed."
            ) from error
    for url in () if place.exists() else (mirror + place.name for mirror in MIRRORS[name]):
        try:
            _download(url, part)
            found = _unpacked(part, inside)
            os.replace(part, place)
            break
        except (OSError, HTTPException, ValueError) as error:
            if isinstance(getattr(error, "reason", error), TimeoutError):
                error = f"nothing came for {STALL:g} seconds"
            elif isinstance(error, HTTPError):
                first = "try again later, because the server answers and refuses"
            failed.append(f"downloading {url} failed ({error})")
        finally:
            part.unlink(missing_ok=True)
    if not place.exists():
        raise _not_here(name, root, ", ".join(failed), first)
    for file, content in found.items():
        clear_orphans(root / file)
        if not (root / file).exists():
            write_whole(root / file, content)


def _download(url: str, place: Path) -> None:
    from tqdm.auto import tqdm

    request = Request(url, headers={"User-Agent": "stn_helpers"})
    with urlopen(request, timeout=STALL) as answer, open(place, "wb") as file:
        with tqdm(total=answer.length, unit="B", unit_scale=True, desc=url.rsplit("/", 1)[1]) as bar:
            while piece := answer.read(2**16):
                file.write(piece)
                bar.update(len(piece))


def _unpacked(archive: Path, inside: dict[str, str]) -> dict[str, bytes]:
    """The files in an archive. Raises ValueError where one of them is not there or not the published one."""
    try:
        if archive.name.endswith(".tar.gz"):
            with tarfile.open(archive) as tar:
                found = {file: tar.extractfile(file).read() for file in inside}
        else:
            found = {file: gzip.decompress(archive.read_bytes()) for file in inside}
    except (OSError, EOFError, KeyError, zlib.error, tarfile.TarError) as error:
        raise ValueError(f"it cannot be unpacked: {error}") from error
    for file, content in found.items():
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != inside[file]:
            raise ValueError(f"the MD5 of {file} in it is not the published one")
    return found


def _cifar10(root: Path, train: bool) -> Images:
    """A batch is a pickle: read only after `_ensure` has found it to be the published one."""
    folder = root / "cifar-10-batches-py"
    names = [f"data_batch_{k}" for k in range(1, 6)] if train else ["test_batch"]
    *parts, meta = (pickle.loads((folder / name).read_bytes(), encoding="latin1") for name in [*names, "batches.meta"])
    images = torch.cat([torch.from_numpy(part["data"]) for part in parts]).reshape(-1, 3, 32, 32)
    labels = torch.tensor([label for part in parts for label in part["labels"]])
    return Images("CIFAR-10", images, labels, tuple(meta["label_names"]))


def _mnist(root: Path, train: bool) -> Images:
    def numbers(what: str, header: int) -> Tensor:
        file = root / "MNIST/raw" / f"{'train' if train else 't10k'}-{what}-ubyte"
        return torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8)[header:]

    images = numbers("images-idx3", 16).reshape(-1, 1, 28, 28).clone()
    return Images("MNIST", images, numbers("labels-idx1", 8).long(), tuple(map(str, range(10))))


def _digits(train: bool, stands_for: str = "") -> Images:
    """scikit-learn's 1,797 handwritten digits, 8 x 8, enlarged; as 3 x 32 x 32 where they stand in for CIFAR-10."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("data 'digits' comes with scikit-learn, which is missing: pip install scikit-learn") from error
    found = load_digits()
    small = torch.from_numpy(found.images).float()[:, None] * (255 / 16)
    side, channels = (32, 3) if stands_for == "cifar10" else (28, 1)
    large = F.interpolate(small, size=(side, side), mode="bicubic", align_corners=False).round().clamp(0, 255)
    images = large.to(torch.uint8).expand(-1, channels, -1, -1).contiguous()
    part = slice(None, -DIGITS_TEST) if train else slice(-DIGITS_TEST, None)
    name = f"digits (standing in for {stands_for})" if stands_for else "digits"
    return Images(name, images[part], torch.from_numpy(found.target).long()[part], tuple(map(str, range(10))))


def test_card(size: int = 128) -> Tensor:
    """A picture that shows what a warp did to it: (3, size, size), float32 in [0, 1].

    The letter F tells every turn and mirror apart, the four corners have a colour each, squares show scale and shear.
    """
    if size < 8:
        raise ValueError(f"size is {size}; expected at least 8 pixels")
    fine = 4 * size  # drawn four times as large, then averaged: soft edges
    across = (torch.arange(fine) + 0.5) / fine * 2 - 1
    x, y = across.expand(fine, fine), across[:, None].expand(fine, fine)

    def box(left: float, top: float, right: float, bottom: float) -> Tensor:
        return (x > left) & (x < right) & (y > top) & (y < bottom)

    card = torch.full((3, fine, fine), 0.93)
    card[:, (torch.floor(x * 4) + torch.floor(y * 4)) % 2 == 0] = 0.78
    for area, color in {
        box(-1, -1, -0.5, -0.5): (0.90, 0.62, 0.00),  # orange
        box(0.5, -1, 1, -0.5): (0.00, 0.45, 0.70),  # blue
        box(-1, 0.5, -0.5, 1): (0.00, 0.62, 0.45),  # green
        box(0.5, 0.5, 1, 1): (0.80, 0.47, 0.65),  # pink
        (x * x + y * y < 0.72**2): (1.0, 1.0, 1.0),
        box(-0.3, -0.55, -0.1, 0.55) | box(-0.3, -0.55, 0.4, -0.35) | box(-0.3, -0.1, 0.25, 0.1): (0.0, 0.0, 0.0),
    }.items():
        card[:, area] = torch.tensor(color)[:, None]
    return F.avg_pool2d(card, 4)
