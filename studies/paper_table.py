"""Paper table: Table 1 of the paper, distorted MNIST, fully connected and convolutional, with and without a transformer (07)."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from stn_helpers.data.batches import batches
from stn_helpers.training.recipes import Recipe
from stn_helpers.transformer import SpatialTransformer

from .networks import PlacedNet, count, fitting_width
from .study import Arm, Sets, Study, straightened

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


def paper_net(body: str, canvas: int = 28, family: str | None = None, halved: bool = False) -> PlacedNet:
    """One network of the paper's Table 1, as wide as makes about 400,000 parameters in all.

    body: fcn or cnn. canvas: pixels a side, 28, 42 or 60. family: of the transformer at the input; None for none.
    On a canvas of more than 28 pixels what the transformer saw is averaged over 2 x 2 pixels, so that shrinking does not alias.
    halved: the same averaging where there is no transformer.
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
    if halved or (family is not None and canvas > 28):
        pool, side = nn.AvgPool2d(2), canvas // 2
    classifier = make(side, fitting_width(lambda width: make(side, width), rest))
    return PlacedNet((pool, classifier), transformer, canvas=canvas)


# The paper: 640 epochs of SGD at 0.01 without momentum, a tenth of it after each third. In 10 that hardly trains, hence
# momentum and one cycle. As in the paper batches of 256, no weight decay, no dropout.
TEN = Recipe(epochs=10, batch_size=256, lr=0.05, localization=0.1, momentum=0.9, one_cycle=True)
# Notebook 04's optimizer, whose localization networks learn as fast as all else.
ADAMW = replace(TEN, optimizer="adamw", lr=3e-3, localization=1.0, momentum=0.0)
FASTER = {"half the rate": replace(TEN, localization=0.5), "the full rate": replace(TEN, localization=1.0), "AdamW": ADAMW}
LONG = replace(TEN, epochs=640, lr=0.01, momentum=0.0, one_cycle=False, thirds=True)
SETS = {"R": ("rotated", 28), "RTS": ("rts 42", 42), "P": ("perspective", 28), "E": ("elastic", 28), "TC": ("cluttered 60", 60)}


def arms() -> dict[str, Arm]:
    """The rows and columns of the paper's Table 1; on TC an affine transformer alone, as there. The long ones on request.

    Beside them, affine transformers whose localization network learns faster, and CNNs on the halved canvas.
    """
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
    for letters in ("R", "RTS", "P", "E"):
        name, canvas = SETS[letters]
        for body in BODIES:
            twin = f"{letters}, {body.upper()}"
            found[f"{twin}, AdamW"] = Arm(partial(paper_net, body, canvas), ADAMW, name)
            for how, recipe in FASTER.items():
                against = f"{twin}, AdamW" if how == "AdamW" else twin
                network = partial(paper_net, body, canvas, "affine")
                found[f"{letters}, ST-{body.upper()} affine, {how}"] = Arm(network, recipe, name, against=against)
    for letters in ("RTS", "TC"):
        name, canvas = SETS[letters]
        network = partial(paper_net, "cnn", canvas, halved=True)
        found[f"{letters}, CNN, halved"] = Arm(network, TEN, name, against=f"{letters}, CNN")
    return found


def ink(images: Tensor, labels: Tensor) -> dict[str, float]:
    """How differently digits lie, by what is drawn and not by the frame, which on black nobody sees: 0 where they lie alike.

    "centre": how far the middle of the ink is from where it is on average, in units of the ink's mean radius, so that zooming
    out gains nothing. "height": the standard deviation of its height, as a share of the mean height. "lean": how many degrees
    its long axis is from the mean one of its class, on average; 45 is disorder.
    images: (N, 1, H, W), 0 is black. Taught in notebook 07.
    """
    weights = images[:, 0] / images.sum((1, 2, 3), keepdim=True)[:, 0].clamp(min=1e-6)
    down, across = (torch.arange(length, device=images.device, dtype=images.dtype) for length in images.shape[2:])
    x, y = (weights.sum(1) * across).sum(1), (weights.sum(2) * down).sum(1)
    dx, dy = across - x[:, None, None], (down - y[:, None])[:, :, None]
    xx, yy, xy = ((weights * part).sum((1, 2)) for part in (dx * dx, dy * dy, dx * dy))
    radius, height = (xx + yy).sqrt().mean().clamp(min=1e-6), yy.sqrt()  # clamped: a view may be all black
    # Twice the angle of an axis is an angle of a full circle: an axis comes back after half a turn.
    doubled = torch.atan2(2 * xy, xx - yy)
    off = []
    for kind in labels.unique():
        own = doubled[labels == kind]
        mean = torch.atan2(own.sin().mean(), own.cos().mean())
        off.append(((own - mean + torch.pi) % (2 * torch.pi) - torch.pi).abs() / 2)
    return {
        "centre": (torch.hypot(x - x.mean(), y - y.mean()).mean() / radius).item(),
        "height": (height.std() / height.mean().clamp(min=1e-6)).item(),
        "lean": torch.rad2deg(torch.cat(off)).mean().item(),
    }


@torch.inference_mode()
def seen(model: PlacedNet, sets: Sets, arm: Arm, seed: int) -> dict:
    """`straightened`, and "ink": {"before", "after"} the transformer, see `ink`; not in clutter, which is ink too."""
    if not isinstance(model.transformer, SpatialTransformer) or arm.test == SETS["TC"][0]:
        return straightened(model, sets, arm, seed)
    bent, _ = sets.bent(arm.test)
    pairs = [(images, model.transformer(images)) for images, _ in batches(bent, 500)]
    before, after = (ink(torch.cat(images), bent.labels) for images in zip(*pairs, strict=True))
    return {**straightened(model, sets, arm, seed), "ink": {"before": before, "after": after}}


STUDY = Study(
    name="paper_table",
    data="mnist",
    precision="bfloat16",
    arms=arms(),
    ship={f"E, ST-FCN {family}": f"mnist_elastic_{family}" for family in FAMILIES},
    measure=seen,
)
