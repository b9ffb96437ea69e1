"""Sets: CIFAR-10, MNIST and digits as uint8 tensors, found or downloaded, and a test card."""

import hashlib
import os
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from stn_helpers.data.files import alone

DATASETS = ("cifar10", "mnist", "digits")
DIGITS_TEST = 360  # the last fifth of the 1,797 digits
MNIST_MD5 = {  # of the unpacked files; torchvision only knows those of the archives
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


@dataclass
class Images:
    """A set of labelled images. images: uint8 (N, C, H, W), 0 is black. labels: int64 (N,). name: where they come from."""

    name: str
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device) -> "Images":
        """The same images on a device, uint8 still: all of CIFAR-10 is 184 MB."""
        return Images(self.name, self.images.to(device), self.labels.to(device), self.classes)

    def digest(self) -> str:
        """Sixteen letters that are others for other images or labels: the beginning of their SHA-256."""
        total = hashlib.sha256()
        for tensor in (self.images, self.labels):
            total.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            total.update(tensor.cpu().contiguous().numpy())
        return total.hexdigest()[:16]

    def subset(self, index) -> "Images":
        """The images of an index, a slice or a list."""
        return Images(self.name, self.images[index], self.labels[index], self.classes)


def data_root() -> Path:
    """The folder with the data sets: $STN_DATA, or data/ in the checkout."""
    return Path(os.environ.get("STN_DATA") or Path(__file__).resolve().parents[2] / "data").expanduser()


def load(name: str, train: bool, root: Path | str | None = None, stand_in: bool = False) -> Images:
    """A data set, found under `root` (default `data_root()`) in torchvision's layout, or downloaded into it.

    name: cifar10 (3 x 32 x 32), mnist (1 x 28 x 28) or digits (1 x 28 x 28, ships with scikit-learn, needs no network).
    stand_in: where cifar10 or mnist cannot be had, warn and give digits in its shape instead; `.name` says so.
    Raises ValueError for another name and for a damaged file, with what to delete; FileNotFoundError where there is no
    data and no download. Nothing that is already there is changed or removed.
    """
    if name not in DATASETS:
        raise ValueError(f"data is {name!r}; expected one of {', '.join(DATASETS)}")
    if name == "digits":
        return _digits(train)
    root = Path(root) if root is not None else data_root()
    reader = {"cifar10": _cifar10, "mnist": _mnist}[name]
    try:
        _ensure(name, root)
        return reader(root, train)
    except FileNotFoundError as error:
        if not stand_in:
            raise
        warnings.warn(f"{error}\nUsing digits, a small set that ships with scikit-learn, in its place.", stacklevel=2)
        return _digits(train, stands_for=name)


def available(name: str, root: Path | str | None = None) -> bool:
    """Whether the unpacked files of cifar10 or mnist are under `root` (default `data_root()`); digits always are."""
    if name not in DATASETS:
        raise ValueError(f"data is {name!r}; expected one of {', '.join(DATASETS)}")
    root = Path(root) if root is not None else data_root()
    return name == "digits" or all((root / file).is_file() for file in _files(name))


def _torchvision_class(name: str):
    from torchvision import datasets

    return {"cifar10": datasets.CIFAR10, "mnist": datasets.MNIST}[name]


def _files(name: str) -> dict[str, str]:
    """The unpacked files that must be there, with their MD5."""
    if name == "mnist":
        return {f"MNIST/raw/{file}": md5 for file, md5 in MNIST_MD5.items()}
    kind = _torchvision_class(name)
    lists = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
    return {f"{kind.base_folder}/{file}": md5 for file, md5 in lists}


def _archives(name: str) -> list[tuple[str, str, str, str]]:
    """(folder, file, MD5, address) of each download; of several mirrors the first."""
    kind = _torchvision_class(name)
    if name == "cifar10":
        return [("", kind.filename, kind.tgz_md5, kind.url)]
    return [("MNIST/raw", file, md5, kind.mirrors[0] + file) for file, md5 in kind.resources]


def _ensure(name: str, root: Path) -> None:
    """Make sure the unpacked files are there and whole."""
    from torchvision.datasets.utils import check_integrity

    files = _files(name)
    missing = [file for file in files if not (root / file).is_file()]
    present = {file: md5 for file, md5 in files.items() if file not in missing}
    damaged = [file for file, md5 in present.items() if not check_integrity(str(root / file), md5)]
    if damaged:
        raise ValueError(
            f"{root / damaged[0]} is damaged: its MD5 is not the published one. "
            f"Delete that file and run again, or set STN_DATA to a folder with a good copy. Nothing was removed."
        )
    if not missing:
        return
    try:
        with alone(root / ".download.lock", f"Another process fetches {name} into {root}; waiting for it."):
            if not available(name, root):  # it may have come while this process waited
                for archive in _archives(name):
                    _fetch(root, *archive, wanted=name)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _not_here(name, root, f"it cannot be put there ({error})") from error


def _not_here(name: str, root: Path, why: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"{name} is not in {root}, and {why}. Three ways on: run again with a "
        f"network; place torchvision's files in {root}; or set STN_DATA to a folder that has them."
    )


def _fetch(root: Path, folder: str, file: str, md5: str, url: str, wanted: str) -> None:
    """Download one archive, if it is not there, and unpack it beside itself. What is there already stays as it is."""
    from torchvision.datasets.utils import check_integrity, download_url, extract_archive

    place = root / folder
    if (place / file).exists() and not check_integrity(str(place / file), md5):
        raise ValueError(
            f"{place / file} is damaged or half downloaded: its MD5 is not the published {md5}. "
            "Delete that file and run again. Nothing was removed."
        )
    place.mkdir(parents=True, exist_ok=True)
    for left in place.glob(".download-*"):  # by a process that was killed: this one is alone here
        shutil.rmtree(left, ignore_errors=True)
    # Into a folder of its own first: what is half downloaded or half unpacked never stands under a final name.
    with tempfile.TemporaryDirectory(prefix=".download-", dir=place) as part:
        if not (place / file).exists():
            try:
                download_url(url, part, file, md5)
                os.replace(Path(part) / file, place / file)
            except (OSError, HTTPException, RuntimeError) as error:
                raise _not_here(wanted, root, f"downloading {url} failed ({error})") from error
        extract_archive(str(place / file), part)
        for whole in [path for path in Path(part).rglob("*") if path.is_file()]:
            final = place / whole.relative_to(part)
            if not final.exists():
                final.parent.mkdir(parents=True, exist_ok=True)
                os.replace(whole, final)


def _cifar10(root: Path, train: bool) -> Images:
    kind = _torchvision_class("cifar10")
    found = kind(str(root), train=train)
    images = torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous()
    return Images("CIFAR-10", images, torch.tensor(found.targets), tuple(found.classes))


def _mnist(root: Path, train: bool) -> Images:
    kind = _torchvision_class("mnist")
    found = kind(str(root), train=train)
    return Images("MNIST", found.data[:, None].contiguous(), found.targets.clone(), tuple(map(str, range(10))))


def _digits(train: bool, stands_for: str = "") -> Images:
    """scikit-learn's 1,797 handwritten digits, 8 x 8, enlarged; as 3 x 32 x 32 where they stand in for CIFAR-10."""
    from sklearn.datasets import load_digits

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
