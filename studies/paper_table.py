"""Paper table: Table 1 of the paper, distorted MNIST, fully connected and convolutional, with and without a transformer (07)."""

from dataclasses import replace
from functools import partial

from torch import nn

from stn_helpers.training.recipes import Recipe
from stn_helpers.transformer import SpatialTransformer

from .networks import PlacedNet, count, fitting_width
from .study import Arm, Study, straightened

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


def paper_net(body: str, canvas: int = 28, family: str | None = None) -> PlacedNet:
    """One network of the paper's Table 1, as wide as makes about 400,000 parameters in all.

    body: fcn or cnn. canvas: pixels a side, 28, 42 or 60. family: of the transformer at the input; None for none.
    On a canvas of more than 28 pixels what the transformer saw is averaged over 2 x 2 pixels, so that shrinking does not alias.
    images: (N, 1, H, H) in [0, 1], 0 is black; a smaller one is laid in the middle of a black canvas.
    Raises ValueError for another name or canvas. Paper: section 4.1 and appendix A.4. Taught in notebook 07.
    """
    if body not in BODIES or canvas not in CANVASES:
        raise ValueError(f"body and canvas are {body!r} and {canvas!r}; expected fcn or cnn, and one of {CANVASES}")
    make, localization = BODIES[body]
    transformer, pool, side, rest = None, nn.Identity(), canvas, PARAMETERS
    if family is not None:
        transformer = SpatialTransformer(localization(canvas), family, padding_mode="zeros")
        rest -= count(transformer)
        if canvas > 28:
            pool, side = nn.AvgPool2d(2), canvas // 2
    classifier = make(side, fitting_width(lambda width: make(side, width), rest))
    return PlacedNet((pool, classifier), transformer, canvas=canvas)


# The paper: 640 epochs of SGD at 0.01 without momentum, a tenth of it after each third. In 10 that hardly trains, hence
# momentum and one cycle. As in the paper batches of 256, no weight decay, no dropout.
TEN = Recipe(epochs=10, batch_size=256, lr=0.05, localization=0.1, momentum=0.9, one_cycle=True)
LONG = replace(TEN, epochs=640, lr=0.01, momentum=0.0, one_cycle=False, thirds=True)
SETS = {"R": ("rotated", 28), "RTS": ("rts 42", 42), "P": ("perspective", 28), "E": ("elastic", 28), "TC": ("cluttered 60", 60)}


def arms() -> dict[str, Arm]:
    """The rows and columns of the paper's Table 1; on TC an affine transformer alone, as there. The long ones on request."""
    found = {}
    for ending, recipe in (("", TEN), (", 640 epochs", LONG)):
        for letters, (name, canvas) in SETS.items():
            for body in BODIES:
                twin = f"{letters}, {body.upper()}{ending}"
                found[twin] = Arm(partial(paper_net, body, canvas), recipe, name, on_request=recipe is LONG)
            for body in BODIES:
                for family in FAMILIES if letters != "TC" else ("affine",):
                    found[f"{letters}, ST-{body.upper()} {family}{ending}"] = Arm(
                        partial(paper_net, body, canvas, family),
                        recipe,
                        name,
                        against=f"{letters}, {body.upper()}{ending}",
                        on_request=recipe is LONG,
                    )
    return found


STUDY = Study(
    name="paper_table",
    data="mnist",
    precision="bfloat16",
    arms=arms(),
    ship={f"E, ST-FCN {family}": f"mnist_elastic_{family}" for family in FAMILIES},
    measure=straightened,
)
