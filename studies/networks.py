"""Networks: one module that puts transformers around a classifier, and the classifiers that more than one study trains."""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from stn_helpers.checks import check_choice
from stn_helpers.data.batches import as_float
from stn_helpers.data.sets import Images
from stn_helpers.transformer import SpatialTransformer, light_localization

# Mean and standard deviation of the 50,000 CIFAR-10 training images, channel by channel, in [0, 1].
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class Normalize(nn.Module):
    """Images in [0, 1] to zero mean and unit spread, channel by channel. It comes after a warp, so that 0 stays black."""

    def __init__(self, mean: tuple[float, ...] = CIFAR10_MEAN, std: tuple[float, ...] = CIFAR10_STD):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


class Blind(nn.Module):
    """A localization network that sees nothing. Theta is then its bias: one window, learned, for every image."""

    def forward(self, images: Tensor) -> Tensor:
        return images.new_zeros(images.shape[0], 1)


class Noise(nn.Module):
    """A localization network that draws at random: N(0, 1) numbers (N, count) while training, zeros when tested."""

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def forward(self, images: Tensor) -> Tensor:
        shape = (images.shape[0], self.count)
        return torch.randn(shape, device=images.device) if self.training else images.new_zeros(shape)


class Shuffled(SpatialTransformer):
    """Each image through the window of the one before it in its batch: as many windows, and none of them its own."""

    def params(self, images: Tensor) -> Tensor:
        return super().params(images).roll(1, dims=0)


class PlacedNet(nn.Module):
    """A classifier, and spatial transformers in the places that are given: images (N, C, H, W) in [0, 1] -> logits.

    classifier: (stem, trunk), up to its first feature map and the rest. transformer: at the input; inner: on that map;
    extra: a module whose logits for what is attended are added to the classifier's. normalize: behind the first transformer.
    channels: C. least: the smallest side that is taken. canvas: smaller square images are laid in the middle of a black one
    of this side, and larger ones are refused. None for what is not there. Raises ValueError for images of another shape.
    """

    def __init__(
        self,
        classifier: tuple[nn.Module, nn.Module],
        transformer: nn.Module | None = None,
        inner: nn.Module | None = None,
        extra: nn.Module | None = None,
        normalize: nn.Module | None = None,
        channels: int = 1,
        least: int = 1,
        canvas: int | None = None,
    ):
        super().__init__()
        self.stem, self.trunk = classifier
        parts = (normalize, transformer, inner)
        self.normalize, self.transformer, self.inner = (nn.Identity() if part is None else part for part in parts)
        self.extra, self.channels, self.least, self.canvas = extra, channels, least, canvas

    @property
    def classifier(self) -> nn.Sequential:
        """Stem and trunk, layer by layer."""
        parts = ([*part] if isinstance(part, nn.Sequential) else [part] for part in (self.stem, self.trunk))
        return nn.Sequential(*(layer for part in parts for layer in part))

    def forward(self, images: Tensor) -> Tensor:
        fits = images.ndim == 4 and images.shape[1] == self.channels
        if not fits or min(images.shape[2:]) < self.least or (self.canvas and max(images.shape[2:]) > self.canvas):
            most = f", at most {self.canvas}" if self.canvas else ""
            wanted = f"(N, {self.channels}, H, W) with at least {self.least} pixels a side{most}"
            raise ValueError(f"images have shape {tuple(images.shape)}; this network expects {wanted}")
        images = images if self.canvas is None else pad_to(images, self.canvas)
        attended = self.normalize(self.transformer(images))
        logits = self.trunk(self.inner(self.stem(attended)))
        return logits if self.extra is None else logits + self.extra(attended)


def pad_to(images: Tensor, side: int) -> Tensor:
    """Images (N, C, H, W) in the middle of a black canvas, (N, C, side, side)."""
    high, wide = (side - length for length in images.shape[2:])
    return F.pad(images, (wide // 2, wide - wide // 2, high // 2, high - high // 2)) if high or wide else images


def tutorial_localization(channels: int = 3, size: int = 32) -> nn.Sequential:
    """The localization network of the project's tutorial network: images (N, channels, size, size) -> features (N, 256).

    At 3 x 32 x 32 the shapes go 64 x 26 x 26, 64 x 13 x 13, 128 x 9 x 9, 128 x 4 x 4. Raises ValueError below 18 pixels.
    Taught in notebook 02.
    """
    side = ((size - 6) // 2 - 4) // 2
    if side < 1:
        raise ValueError(f"size is {size}; this network needs images of at least 18 pixels a side")
    return nn.Sequential(
        nn.Conv2d(channels, 64, kernel_size=7),
        nn.MaxPool2d(2, stride=2),
        nn.ReLU(),
        nn.Conv2d(64, 128, kernel_size=5),
        nn.MaxPool2d(2, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128 * side * side, 256),
        nn.ReLU(),
    )


def tutorial_classifier(classes: int = 10, conv_dropout: float = 0.0, dropout: float = 0.0) -> nn.Sequential:
    """The classifier of the PyTorch STN tutorial, widened to 3 channels and 500 features: (N, 3, 32, 32) -> logits.

    31,340 parameters. The tutorial drops out half of the features in both places.
    """
    layers = OrderedDict(
        conv1=nn.Conv2d(3, 10, kernel_size=5),
        pool1=nn.MaxPool2d(2),
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(10, 20, kernel_size=5),
        drop2=nn.Dropout2d(conv_dropout),
        pool2=nn.MaxPool2d(2),
        relu2=nn.ReLU(),
        flat=nn.Flatten(),
        fc1=nn.Linear(500, 50),
        relu3=nn.ReLU(),
        drop3=nn.Dropout(dropout),
        fc2=nn.Linear(50, classes),
    )
    return nn.Sequential(layers)


def small_classifier() -> tuple[nn.Module, nn.Module]:
    """`tutorial_classifier` for images of any size from 32 pixels up, in two parts: up to its first map, and the rest.

    At 32 x 32 it is the very same network. The first map has 10 channels.
    """
    layers = list(tutorial_classifier())
    return nn.Sequential(*layers[:3]), nn.Sequential(*layers[3:7], nn.AdaptiveAvgPool2d(5), *layers[7:])


POOLS = {"average": nn.AdaptiveAvgPool2d, "max": nn.AdaptiveMaxPool2d}


def digit_classifier(width: int = 8, classes: int = 10, pool: str = "average") -> nn.Sequential:
    """A small convolutional network for digits on a canvas of any size: (N, 1, H, W) -> logits.

    pool: average or max, how it comes from a map of any size to one of 4 x 4. Taught in notebook 04.
    """
    return nn.Sequential(
        nn.Conv2d(1, width, kernel_size=5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, kernel_size=5),
        nn.ReLU(),
        POOLS[pool](4),
        nn.Flatten(),
        nn.Linear(2 * width * 16, 32),
        nn.ReLU(),
        nn.Linear(32, classes),
    )


def digit_net(family: str | None = "affine", width: int = 8, pool: str = "average") -> PlacedNet:
    """`digit_classifier` behind a light transformer of a family; None for the matched twin without one.

    The classifier always sees 28 x 28 pixels through the transformer, and the whole canvas without it.
    """
    classifier = digit_classifier(width, pool=pool)  # first, so that twins start from the same classifier
    if family is None:
        return placed_digits(classifier)
    # The canvas is black, and digits are not normalised: zeros are paper.
    return placed_digits(classifier, SpatialTransformer(light_localization(1, 8), family, size=(28, 28), padding_mode="zeros"))


def placed_digits(classifier: nn.Sequential, transformer: nn.Module | None = None, inner: nn.Module | None = None) -> PlacedNet:
    """A `digit_classifier` with a transformer in front of it, or on the map after its first pool."""
    return PlacedNet((classifier[:3], classifier[3:]), transformer, inner)


def conv_block(channels: int, out: int, pool: bool = False) -> nn.Sequential:
    """Convolution 3 x 3, pooling by 2 if wanted, batch norm, GELU."""
    conv = nn.Conv2d(channels, out, kernel_size=3, padding=1, bias=False)
    return nn.Sequential(conv, *[nn.MaxPool2d(2)] * pool, nn.BatchNorm2d(out), nn.GELU())


class Residual(nn.Module):
    """Two convolutions of a map and a way around them."""

    def __init__(self, channels: int):
        super().__init__()
        self.inside = nn.Sequential(conv_block(channels, channels), conv_block(channels, channels))

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.inside(maps)


class Scale(nn.Module):
    """factor * logits."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, logits: Tensor) -> Tensor:
        return self.factor * logits


def strong_classifier() -> tuple[nn.Module, nn.Module]:
    """ResNet-9, in two parts: up to its first pooled map, and the rest.

    6,573,130 parameters, images (N, 3, H, W) of any size from 8 pixels up. The first map has 128 channels.
    Page's network ("How to train your ResNet", 2018), with his scale of 1/8 on the logits; the GELUs and the pooling before
    batch norm are of Jordan's airbench (2024, arXiv 2404.00498).
    """
    stem = nn.Sequential(conv_block(3, 64), conv_block(64, 128, pool=True), Residual(128))
    deep = conv_block(128, 256, pool=True), conv_block(256, 512, pool=True), Residual(512)
    return stem, nn.Sequential(*deep, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(512, 10), Scale(1 / 8))


PLACES = (
    *("plain", "light", "heavy", "frozen", "random", "no-warp", "feature", "window", "two"),
    *("input-window", "rotation", "similarity", "shuffled"),
)


def cifar_net(classifier: str, place: str, spread: dict | None = None) -> PlacedNet:
    """One classifier with a spatial transformer in one of many places: the arms of the CIFAR-10 studies.

    classifier: small or strong. place: plain (no transformer); light or heavy (at the input, by its localization network);
    frozen (predicts the identity for ever); random (theta drawn at random while training, its mean when tested);
    no-warp (the light localization network's features added to the logits: its parameters spent on the classifier);
    feature (on the first feature map); window (one learned theta there, for every image); two (at the input and on the map);
    input-window (one learned theta at the input); rotation or similarity (light, of a smaller family);
    shuffled (light, but each image is seen through the window of the one before it in its batch, also when tested).
    The light localization network has GELUs: with ReLUs it died in trials on two of the sets, and theta stood still.
    spread: for random alone, {"mean": (6), "covariance": (6, 6)} of the raw affine numbers.
    images: (N, 3, H, W) in [0, 1], 32 pixels a side or more. Every arm's classifier sees as many pixels as came.
    Raises ValueError for another name, or a random arm without its spread. Taught in notebook 06.
    """
    check_choice("classifier", classifier, ("small", "strong"))
    check_choice("place", place, PLACES)
    # The classifier comes first, so that twins with one seed start from the very same classifier weights.
    parts = small_classifier() if classifier == "small" else strong_classifier()
    transformer = inner = extra = None
    if place in ("light", "two", "frozen", "rotation", "similarity", "shuffled"):
        make = Shuffled if place == "shuffled" else SpatialTransformer
        family = place if place in ("rotation", "similarity") else "affine"
        transformer = make(nn.Sequential(Normalize(), light_localization(activation=nn.GELU)), family)
        transformer.requires_grad_(place != "frozen")
    elif place == "heavy":
        # It is made for 32 x 32: a larger canvas is averaged down for it, as in the paper.
        transformer = SpatialTransformer(nn.Sequential(Normalize(), nn.AdaptiveAvgPool2d(32), tutorial_localization()))
    elif place == "random":
        transformer = random_transformer(spread)
    elif place == "input-window":
        transformer = SpatialTransformer(Blind(), features=1)
    elif place == "no-warp":
        extra = nn.Sequential(light_localization(activation=nn.GELU), nn.Linear(32, 10))
    if place in ("feature", "two"):
        inner = SpatialTransformer(light_localization(10 if classifier == "small" else 128, activation=nn.GELU))
    elif place == "window":
        inner = SpatialTransformer(Blind(), features=1)
    return PlacedNet(parts, transformer, inner, extra, Normalize(), channels=3, least=32)


def random_transformer(spread: dict | None) -> SpatialTransformer:
    """A transformer whose theta is drawn from N(mean, covariance) while training and is the mean when tested."""
    if spread is None:
        raise ValueError("a random theta needs its spread, {'mean': (6), 'covariance': (6, 6)}: measure that of a learned one")
    # Standing still is a spread too, and has no Cholesky factor: hence the eigenvectors.
    values, vectors = torch.linalg.eigh(torch.tensor(spread["covariance"], dtype=torch.float64))
    transformer = SpatialTransformer(Noise(6), features=6).requires_grad_(False)
    transformer.to_theta.weight.copy_(vectors * values.clamp(min=0).sqrt())
    transformer.to_theta.bias.copy_(torch.tensor(spread["mean"]))
    return transformer


def count(network: nn.Module) -> int:
    """How many parameters a network has."""
    return sum(parameter.numel() for parameter in network.parameters())


def mflop(model: nn.Module, data: Images) -> float:
    """Millions of floating point operations for one image, forward: convolutions and matrix products, as torch counts them."""
    model.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(as_float(data.images[:1]))
    return round(counter.get_total_flops() / 1e6, 3)


def fitting_width(make: Callable[[int], nn.Module], wanted: int) -> int:
    """The width at which the network make(width) comes nearest to `wanted` parameters.

    Raises ValueError where a width of 1 has more already. Taught in notebook 07.
    """

    def size(width: int) -> int:
        with torch.device("meta"):  # shapes without numbers: nothing is drawn or stored
            return count(make(width))

    if size(1) > wanted:
        raise ValueError(f"wanted is {wanted}; this network has {size(1):,} parameters at its narrowest")
    above = bisect_left(range(wanted + 1), wanted, lo=1, key=size)
    return min(range(max(1, above - 1), above + 1), key=lambda width: abs(size(width) - wanted))
