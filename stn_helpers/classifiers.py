"""The networks that are trained, with and without a spatial transformer, by name."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from .transformer import Blind, Normalize, SpatialTransformer, light_localization, seed_localization

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


MODELS = {
    "seed": lambda **options: SeedNet("learned", **options),
    "seed-plain": lambda **options: SeedNet(None, **options),
    "seed-fixed": lambda **options: SeedNet("fixed", **options),
    "seed-frozen": lambda **options: SeedNet("frozen", **options),
    "seed-no-warp": lambda **options: SeedNet("no-warp", **options),
    # These have no dropout, whatever the recipe says.
    "digit": lambda **_: DigitNet("affine"),
    "digit-plain": lambda **_: DigitNet(None),
    "digit-wide": lambda **_: DigitNet(None, width=14),
    "digit-rotation": lambda **_: DigitNet("rotation"),
    "digit-attention": lambda **_: DigitNet("attention"),
}


def build(name: str, seed: int = 0, **options) -> nn.Module:
    """A network by name, its weights drawn from `seed` alone; nothing global is left seeded.

    options: conv_dropout and dropout, rates in [0, 1). Raises ValueError for an unknown name.
    """
    if name not in MODELS:
        raise ValueError(f"model is {name!r}; expected one of {', '.join(MODELS)}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would seed every GPU too
        return MODELS[name](**options)
