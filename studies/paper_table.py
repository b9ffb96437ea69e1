"""The networks of the paper's Table 1: fully connected and convolutional, with and without a transformer, all of one size."""

from bisect import bisect_left
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stn_helpers.transformer import SpatialTransformer

PARAMETERS = 400_000  # what every network has, as nearly as its width allows
CANVASES = (28, 42, 60)  # R, P and E; RTS; TC
FAMILIES = ("affine", "projective", "tps")
ERRORS = {  # of R, RTS, P, E and TC, percent, as the paper reports them; on TC it has affine transformers alone
    "FCN": (2.1, 5.2, 3.1, 3.2, 13.2),
    "CNN": (1.2, 0.8, 1.5, 1.4, 3.5),
    "ST-FCN affine": (1.2, 0.8, 1.5, 2.7, 2.0),
    "ST-FCN projective": (1.3, 0.9, 1.4, 2.6, None),
    "ST-FCN tps": (1.1, 0.8, 1.4, 2.4, None),
    "ST-CNN affine": (0.7, 0.5, 0.8, 1.2, 1.7),
    "ST-CNN projective": (0.8, 0.6, 0.8, 1.3, None),
    "ST-CNN tps": (0.7, 0.5, 0.8, 1.1, None),
}


def fcn(side: int, width: int) -> nn.Sequential:
    """Three fully connected layers: (N, 1, side, side) -> 10 logits."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(side * side, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, 10),
    )


def cnn(side: int, width: int) -> nn.Sequential:
    """Convolution 9 x 9, pool 2, convolution 7 x 7, pool 2, fully connected: (N, 1, side, side) -> 10 logits.

    Pools take in what is left over at the edge: of 42 pixels averaged to 21 just enough remains for the second convolution.
    side: 21 pixels or more. The numbers of channels, 32 and then `width`, are this project's choice.
    """
    last = ((side - 7) // 2 - 5) // 2
    return nn.Sequential(
        nn.Conv2d(1, 32, kernel_size=9),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.ReLU(),
        nn.Conv2d(32, width, kernel_size=7),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(width * last * last, 10),
    )


def fcn_localization(side: int) -> nn.Sequential:
    """Two fully connected layers of 32: (N, 1, side, side) -> features (N, 32)."""
    return nn.Sequential(nn.Flatten(), nn.Linear(side * side, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())


def cnn_localization(side: int) -> nn.Sequential:
    """The image at half its size, two convolutions 5 x 5 with a pool between: (N, 1, side, side) -> features (N, 20)."""
    last = (side // 2 - 4) // 2 - 4
    return nn.Sequential(
        nn.AvgPool2d(2),
        nn.Conv2d(1, 20, kernel_size=5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(20, 20, kernel_size=5),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(20 * last * last, 20),
        nn.ReLU(),
    )


BODIES = {"fcn": (fcn, fcn_localization), "cnn": (cnn, cnn_localization)}


def fitting_width(make: Callable[[int], nn.Module], count: int) -> int:
    """The width at which the network make(width) comes nearest to `count` parameters.

    Raises ValueError where a width of 1 has more already. Taught in notebook 07.
    """

    def size(width: int) -> int:
        with torch.device("meta"):  # shapes without numbers: nothing is drawn or stored
            return sum(parameter.numel() for parameter in make(width).parameters())

    if size(1) > count:
        raise ValueError(f"count is {count}; this network has {size(1):,} parameters at its narrowest")
    above = bisect_left(range(count + 1), count, lo=1, key=size)
    return min(range(max(1, above - 1), above + 1), key=lambda width: abs(size(width) - count))


class PaperNet(nn.Module):
    """One network of the paper's Table 1, as wide as makes about 400,000 parameters in all.

    body: fcn or cnn. canvas: pixels a side, 28, 42 or 60. family: of the transformer at the input; None for none.
    On a canvas of more than 28 pixels what the transformer saw is averaged over 2 x 2 pixels, so that shrinking does not alias.
    images: (N, 1, H, H) in [0, 1], 0 is black; a smaller one is laid in the middle of a black canvas.
    Raises ValueError for another name, canvas or shape. Paper: section 4.1 and appendix A.4. Taught in notebook 07.
    """

    def __init__(self, body: str, canvas: int = 28, family: str | None = None):
        super().__init__()
        if body not in BODIES or canvas not in CANVASES:
            raise ValueError(f"body and canvas are {body!r} and {canvas!r}; expected fcn or cnn, and one of {CANVASES}")
        make, localization = BODIES[body]
        self.canvas, self.transformer, self.pool = canvas, nn.Identity(), nn.Identity()
        side, rest = canvas, PARAMETERS
        if family is not None:
            self.transformer = SpatialTransformer(localization(canvas), family, padding_mode="zeros")
            rest -= sum(parameter.numel() for parameter in self.transformer.parameters())
            if canvas > 28:
                self.pool, side = nn.AvgPool2d(2), canvas // 2
        self.classifier = make(side, fitting_width(lambda width: make(side, width), rest))

    def forward(self, images: Tensor) -> Tensor:
        side = images.shape[-1]
        if images.ndim != 4 or images.shape[1:] != (1, side, side) or side > self.canvas:
            most = f"(N, 1, H, H) with at most {self.canvas} pixels a side"
            raise ValueError(f"images have shape {tuple(images.shape)}; this network expects {most}")
        if side < self.canvas:
            before = (self.canvas - side) // 2
            after = self.canvas - side - before
            images = F.pad(images, (before, after, before, after))
        return self.classifier(self.pool(self.transformer(images)))


NETWORKS = {  # name: body, canvas, family
    name + f"-{canvas}": (body, canvas, family)
    for canvas in CANVASES
    for body in BODIES
    for name, family in ((body, None), *((f"st-{body}-{family}", family) for family in FAMILIES))
}
