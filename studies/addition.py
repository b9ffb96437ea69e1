"""Addition: a network is shown two digits, a channel each, and predicts their sum; two transformers find one digit each (08b)."""

from contextlib import suppress
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from stn_helpers.checks import check_choice
from stn_helpers.data.batches import batches
from stn_helpers.data.poses import corner_drift
from stn_helpers.data.sets import Images
from stn_helpers.theta import affine
from stn_helpers.training.recipes import RECIPES
from stn_helpers.transformer import SpatialTransformer

from .networks import PlacedNet, count, fitting_width
from .study import Arm, Sets, Study

CANVAS, SUMS = 42, 19  # pixels a side, as in the paper; 0 + 0 to 9 + 9
PARAMETERS = 200_000  # what every network has, as nearly as its width allows
# Where each transformer starts to look: at everything, or at most of it, off to one corner.
WHOLE, TILES = (affine(),), (affine(scale=0.75, shift=(-0.25, -0.25)), affine(scale=0.75, shift=(0.25, 0.25)))
STARTS = {"fcn": (), "cnn": (), "one": WHOLE, "two": WHOLE * 2, "tiles": TILES}


def pairs(data: Images, seed: int = 0) -> Images:
    """Every image of a set of digits beside another of it, on a second channel; the label is their sum, 0 to 18.

    Which two belong together is drawn once, from the seed. Taught in notebook 08b.
    """
    other = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed)).to(data.labels.device)
    images, sums = torch.cat([data.images, data.images[other]], dim=1), data.labels + data.labels[other]
    return Images(f"{data.name} pairs", images, sums, tuple(map(str, range(19))))


class Parallel(nn.Module):
    """Transformers side by side on the same images: (N, C, H, W) -> what each attended, (N, K * C, h, w).

    transformers: K of them, whose targets are of one size. Paper: section 4.3. Taught in notebook 08b.
    """

    def __init__(self, transformers: list[SpatialTransformer]):
        super().__init__()
        self.each = nn.ModuleList(transformers)

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([transformer(images) for transformer in self.each], dim=1)


def looking(start: Tensor) -> SpatialTransformer:
    """A transformer over both channels at half their size; before training it looks through `start`, (1, 2, 3)."""
    # The paper's two layers of 32 units, with GELUs because they cannot die.
    pixels = 2 * (CANVAS // 2) ** 2
    localization = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(pixels, 32), nn.GELU(), nn.Linear(32, 32), nn.GELU())
    transformer = SpatialTransformer(localization, padding_mode="zeros")
    with torch.no_grad():
        transformer.to_theta.bias.copy_(start.flatten())
    return transformer


def dense(inputs: int, width: int) -> nn.Sequential:
    """Three fully connected layers: (N, C, h, w) -> 19 logits."""
    layers = [nn.Flatten(), nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, SUMS)]
    return nn.Sequential(*layers)


def convolutional(width: int) -> nn.Sequential:
    """Two convolutions with a pool behind each, and two fully connected layers: (N, 2, 42, 42) -> 19 logits."""
    return nn.Sequential(
        nn.Conv2d(2, 8, kernel_size=5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(8, 24, kernel_size=5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24 * 7 * 7, width),
        nn.ReLU(),
        nn.Linear(width, SUMS),
    )


def addition_net(kind: str = "two") -> PlacedNet:
    """Predicts the sum of two digits, (N, 2, 42, 42) in [0, 1] -> 19 logits; about 200,000 parameters, whatever its kind.

    kind: fcn or cnn, without a transformer; one, two or tiles: an FCN behind one transformer, behind two that both start at
    the whole canvas, or behind two that start at a tile each. Every transformer bends both channels alike, so one alone can
    straighten one digit only. What it saw is averaged over 2 x 2 pixels, as in the paper.
    A smaller image is laid in the middle of a black canvas. Raises ValueError for another kind.
    Paper: appendix A.1. Taught in notebook 08b.
    """
    check_choice("kind", kind, STARTS)
    starts = STARTS[kind]
    transformer = Parallel([looking(start) for start in starts]) if starts else None
    pool = nn.AvgPool2d(2) if starts else nn.Identity()
    seen = 2 * len(starts) * (CANVAS // 2) ** 2 if starts else 2 * CANVAS**2
    make = convolutional if kind == "cnn" else partial(dense, seen)
    rest = PARAMETERS - (count(transformer) if starts else 0)
    return PlacedNet((pool, make(fitting_width(make, rest))), transformer, channels=2, canvas=CANVAS)


@torch.inference_mode()
def who_finds_which(model: PlacedNet, sets: Sets, arm: Arm, seed: int) -> dict:
    """How far each digit is from standing still in each transformer's view, for a row of results; {} without transformers.

    "drift": {"before": (2), "after": (K, 2)}, a column a digit; see `poses.corner_drift`. None for a transformer that
    collapsed: what it lost cannot be measured. Taught in notebook 08b.
    """
    if not isinstance(model.transformer, Parallel):
        return {}
    bent, poses = sets.bent(arm.test)
    digits = poses.reshape(len(bent), 2, 2, 3).unbind(1)
    model.eval()
    still = affine().expand(len(bent), 2, 3)
    before, after = [corner_drift(still, pose)["before"] for pose in digits], []
    for transformer in model.transformer.each:
        raw = torch.cat([transformer.params(images) for images, _ in batches(bent, 500)])
        after.append(None)
        with suppress(ValueError):
            after[-1] = [corner_drift(transformer.family.matrix(raw).cpu(), pose)["after"] for pose in digits]
    return {"drift": {"before": before, "after": after}}


# Twenty times through pairs of MNIST digits, whose sum tells little about either.
SUMS_RECIPE = replace(RECIPES["digits"], epochs=20, batch_size=256)

STUDY = Study(
    name="addition",
    data="mnist",
    precision="bfloat16",
    prepare=pairs,
    arms={
        called: Arm(partial(addition_net, kind), SUMS_RECIPE, "rts 42 apart", against="FCN" if kind != "fcn" else "")
        for called, kind in {
            "FCN": "fcn",
            "CNN": "cnn",
            "one ST": "one",
            "two STs": "two",
            "two STs, a tile each": "tiles",
        }.items()
    },
    ship={"two STs": "addition_two"},
    measure=who_finds_which,
)
