"""The networks that are trained, with and without a spatial transformer, by name."""

from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn

from stn_helpers.training.checkpoint import fill, load_weights
from stn_helpers.transformer import Blind, Noise, Normalize, SpatialTransformer, light_localization, seed_localization
from studies.addition import STARTS, AdditionNet
from studies.paper_table import NETWORKS, PaperNet
from studies.refine import PlacedNet, deeper, glance, on_the_map, refining

# Mean and standard deviation of the 50,000 CIFAR-10 training images, channel by channel, in [0, 1].
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def seed_classifier(classes: int = 10, conv_dropout: float = 0.5, dropout: float = 0.5) -> nn.Sequential:
    """The classifier of the PyTorch STN tutorial, widened to 3 channels and 500 features: (N, 3, 32, 32) -> logits.

    31,340 parameters. The two dropout rates are part of the recipe. Taught in notebook 05.
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


class SeedNet(nn.Module):
    """The seed's network: a spatial transformer at the input, then `seed_classifier`. images (N, 3, 32, 32) in [0, 1].

    transformer: "learned"; None for the matched twin without one; "fixed" for one learned theta that serves every image;
    "frozen" for a transformer that always says identity;
    "no-warp" for the same localization network, its features added to the logits instead of bending the grid.
    The transformer keeps the seed's align_corners=True. The warp sees images in [0, 1], where 0 is black; localization
    network and classifier see them normalised. Taught in notebook 05.
    """

    def __init__(self, transformer: str | None = "learned", conv_dropout: float = 0.5, dropout: float = 0.5):
        super().__init__()
        # The classifier comes first, so that twins with one seed start from the very same classifier weights.
        self.normalize = Normalize(CIFAR10_MEAN, CIFAR10_STD)
        self.classifier = seed_classifier(conv_dropout=conv_dropout, dropout=dropout)
        self.transformer, self.extra = nn.Identity(), None
        if transformer in ("learned", "frozen"):
            localization = nn.Sequential(Normalize(CIFAR10_MEAN, CIFAR10_STD), seed_localization())
            self.transformer = SpatialTransformer(localization, align_corners=True)
            # Zero weights and identity bias: frozen, it answers identity for ever.
            self.transformer.requires_grad_(transformer == "learned")
        elif transformer == "fixed":
            self.transformer = SpatialTransformer(Blind(), align_corners=True, features=1)
        elif transformer == "no-warp":
            self.extra = nn.Sequential(seed_localization(), nn.Linear(256, 10))
        elif transformer is not None:
            raise ValueError(f"transformer is {transformer!r}; expected learned, fixed, frozen, no-warp or None")

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1:] != (3, 32, 32):
            raise ValueError(f"images have shape {tuple(images.shape)}; the seed's network expects (N, 3, 32, 32)")
        attended = self.normalize(self.transformer(images))
        logits = self.classifier(attended)
        return logits if self.extra is None else logits + self.extra(attended)


def digit_classifier(width: int = 8, classes: int = 10) -> nn.Sequential:
    """A small convolutional network for digits on a canvas of any size: (N, 1, H, W) -> logits. Taught in notebook 04."""
    return nn.Sequential(
        nn.Conv2d(1, width, kernel_size=5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, kernel_size=5),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(2 * width * 16, 32),
        nn.ReLU(),
        nn.Linear(32, classes),
    )


class DigitNet(nn.Module):
    """A spatial transformer with a light localization network, then `digit_classifier`. images (N, 1, H, W) in [0, 1].

    family: None for the matched twin without a transformer. width: channels of the classifier's first layer.
    The classifier always sees 28 x 28 pixels through the transformer, and the whole canvas without it. Taught in notebook 04.
    """

    def __init__(self, family: str | None = "affine", width: int = 8):
        super().__init__()
        self.classifier = digit_classifier(width)  # first, so that twins start from the same classifier
        self.transformer = nn.Identity()
        if family is not None:
            # The canvas is black, and digits are not normalised: zeros are paper.
            self.transformer = SpatialTransformer(light_localization(1, 8), family, size=(28, 28), padding_mode="zeros")

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != 1:
            raise ValueError(f"images have shape {tuple(images.shape)}; the digits' network expects (N, 1, H, W)")
        return self.classifier(self.transformer(images))


def small_classifier() -> tuple[nn.Module, nn.Module]:
    """`seed_classifier` without dropout, for images of any size from 32 pixels up, in two parts: up to its first map, the rest.

    At 32 x 32 it is the very same network. The first map has 10 channels. Taught in notebook 06.
    """
    layers = list(seed_classifier(conv_dropout=0, dropout=0))
    return nn.Sequential(*layers[:3]), nn.Sequential(*layers[3:7], nn.AdaptiveAvgPool2d(5), *layers[7:])


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


class Times(nn.Module):
    """factor * logits."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, logits: Tensor) -> Tensor:
        return self.factor * logits


def strong_classifier() -> tuple[nn.Module, nn.Module]:
    """ResNet-9, in two parts: up to its first pooled map, and the rest.

    6,573,130 parameters, images (N, 3, H, W) of any size from 8 pixels up. The first map has 128 channels.
    Page's network ("How to train your ResNet", 2018), his scale of 1/8 on the logits too; the GELUs and the pooling before
    batch norm are of Jordan's airbench (2024, arXiv 2404.00498). Taught in notebook 06b.
    """
    stem = nn.Sequential(conv_block(3, 64), conv_block(64, 128, pool=True), Residual(128))
    deep = conv_block(128, 256, pool=True), conv_block(256, 512, pool=True), Residual(512)
    return stem, nn.Sequential(*deep, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(512, 10), Times(1 / 8))


class StudyNet(nn.Module):
    """One classifier with a spatial transformer in one of many places: the arms of the CIFAR-10 study.

    classifier: small or strong. arm: plain (no transformer); light or heavy (at the input, by its localization network);
    frozen (says identity for ever); random (theta drawn at random while training, its mean when tested);
    no-warp (the light localization network's features added to the logits: its parameters spent on the classifier);
    feature (on the first feature map); window (one learned theta there, for every image); two (at the input and on the map).
    input-window (one learned theta at the input, for every image); rotation or similarity (light, of a smaller family);
    shuffled (light, but each image is seen through the window of the one before it in its batch, also when tested).
    The light localization network has GELUs: with ReLUs it died in trials on two of the sets, and theta stood still.
    spread: for random alone, {"mean": (6), "covariance": (6, 6)} of the raw affine numbers.
    images: (N, 3, H, W) in [0, 1], 32 pixels a side or more. Every arm's classifier sees as many pixels as came.
    Raises ValueError for another name, or a random arm without its spread. Taught in notebook 06.
    """

    def __init__(self, classifier: str, arm: str, spread: dict | None = None):
        super().__init__()
        if classifier not in ("small", "strong") or arm not in STUDY_ARMS:
            came, known = f"classifier and arm are {classifier!r} and {arm!r}", ", ".join(STUDY_ARMS)
            raise ValueError(f"{came}; expected small or strong, and one of {known}")
        # The classifier comes first, so that twins with one seed start from the very same classifier weights.
        self.stem, self.trunk = small_classifier() if classifier == "small" else strong_classifier()
        self.normalize = Normalize(CIFAR10_MEAN, CIFAR10_STD)
        self.transformer, self.inner, self.extra = nn.Identity(), nn.Identity(), None
        look = Normalize(CIFAR10_MEAN, CIFAR10_STD)
        if arm in ("light", "two", "frozen", "rotation", "similarity", "shuffled"):
            make = Shuffled if arm == "shuffled" else SpatialTransformer
            family = arm if arm in ("rotation", "similarity") else "affine"
            self.transformer = make(nn.Sequential(look, light_localization(activation=nn.GELU)), family)
            self.transformer.requires_grad_(arm != "frozen")
        elif arm == "heavy":
            # It is made for 32 x 32: a larger canvas is averaged down for it, as in the paper.
            self.transformer = SpatialTransformer(nn.Sequential(look, nn.AdaptiveAvgPool2d(32), seed_localization()))
        elif arm == "random":
            self.transformer = random_transformer(spread)
        elif arm == "input-window":
            self.transformer = SpatialTransformer(Blind(), features=1)
        elif arm == "no-warp":
            self.extra = nn.Sequential(light_localization(activation=nn.GELU), nn.Linear(32, 10))
        if arm in ("feature", "two"):
            self.inner = SpatialTransformer(light_localization(10 if classifier == "small" else 128, activation=nn.GELU))
        elif arm == "window":
            self.inner = SpatialTransformer(Blind(), features=1)

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < 32:
            raise ValueError(f"images have shape {tuple(images.shape)}; expected (N, 3, H, W) with 32 pixels a side or more")
        attended = self.normalize(self.transformer(images))
        logits = self.trunk(self.inner(self.stem(attended)))
        return logits if self.extra is None else logits + self.extra(attended)


STUDY_ARMS = ("plain", "light", "heavy", "frozen", "random", "no-warp", "feature", "window", "two")
STUDY_ARMS += ("input-window", "rotation", "similarity", "shuffled")


class Shuffled(SpatialTransformer):
    """Each image through the window of the one before it in its batch: as many windows, and none of them its own."""

    def params(self, images: Tensor) -> Tensor:
        return super().params(images).roll(1, dims=0)


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


MODELS = {
    "seed": lambda **options: SeedNet("learned", **options),
    "seed-plain": lambda **options: SeedNet(None, **options),
    "seed-fixed": lambda **options: SeedNet("fixed", **options),
    "seed-frozen": lambda **options: SeedNet("frozen", **options),
    "seed-no-warp": lambda **options: SeedNet("no-warp", **options),
    # From here on there is no dropout, whatever the recipe says.
    "digit": lambda **_: DigitNet("affine"),
    "digit-plain": lambda **_: DigitNet(None),
    "digit-wide": lambda **_: DigitNet(None, width=14),
    "digit-rotation": lambda **_: DigitNet("rotation"),
    "digit-attention": lambda **_: DigitNet("attention"),
    **{
        f"{classifier}-{arm}": lambda classifier=classifier, arm=arm, spread=None, **_: StudyNet(classifier, arm, spread)
        for classifier in ("small", "strong")
        for arm in STUDY_ARMS
    },
    **{name: lambda about=about, **_: PaperNet(*about) for name, about in NETWORKS.items()},
    **{f"sum-{kind}": lambda kind=kind, **_: AdditionNet(kind) for kind in STARTS},
    # Notebook 08: several looks, one on a feature map, a glance at a large canvas and what that is compared with.
    "digit-looks-1": lambda **_: PlacedNet(digit_classifier(), refining(1)),
    "digit-looks-2": lambda **_: PlacedNet(digit_classifier(), refining(2)),
    "digit-looks-2-resampled": lambda **_: PlacedNet(digit_classifier(), refining(2, resample=True)),
    "digit-map": lambda **_: PlacedNet(digit_classifier(), inner=on_the_map()),
    "digit-deeper": lambda **_: PlacedNet(digit_classifier(), inner=deeper()),
    "digit-summary": lambda **_: PlacedNet(digit_classifier(), nn.AdaptiveAvgPool2d(28)),
    "digit-glance-24": lambda **_: PlacedNet(digit_classifier(), glance(24)),
    "digit-glance-32": lambda **_: PlacedNet(digit_classifier(), glance(32)),
}


def build(name: str, seed: int = 0, **options) -> nn.Module:
    """A network by name, its weights drawn from `seed` alone; nothing global is left seeded.

    options: conv_dropout and dropout, rates in [0, 1); spread, see `StudyNet`. Raises ValueError for an unknown name.
    """
    if name not in MODELS:
        raise ValueError(f"model is {name!r}; expected one of {', '.join(MODELS)}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would seed every GPU too
        return MODELS[name](**options)


def restore(path: Path | str) -> nn.Module:
    """The trained network in a .safetensors file that this project wrote, ready to be tested.

    Raises ValueError for a file of another kind or a network that this version does not know.
    """
    tensors, about = load_weights(path)
    if about.get("model") not in MODELS:
        raise ValueError(f"{path} holds a {about.get('model')!r}, which this version does not know; expected {', '.join(MODELS)}")
    model = build(about["model"], **about.get("options", {}))
    fill(model, tensors, path)
    return model.eval()
