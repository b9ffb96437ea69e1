"""Co-localise: find what many pictures have in common, with no label and no box, by comparing what is seen in each (08c)."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from stn_helpers.data.batches import as_float
from stn_helpers.data.distortions import distorted
from stn_helpers.data.poses import overlap
from stn_helpers.data.sets import Images
from stn_helpers.grid import target_points
from stn_helpers.sampler import warp
from stn_helpers.theta import affine
from stn_helpers.training.recipes import RECIPES
from stn_helpers.transformer import SpatialTransformer

from .networks import digit_net
from .study import Arm, Sets, Study

WINDOW = 1 / 3  # 28 pixels of 84: the size is given, the place is not
SIDE, MANY = 28, 100  # pixels of a crop; pictures of one digit
# Chosen on training images alone, as all of the search was: steps, rate, how far windows are shaken (6 pixels of 84).
STEPS, RATE, SHAKE = {"scattered 84": 200, "cluttered 84": 400}, 6e-3, 0.15
FRESH = 2000  # `measure` counts on test images from here on: those before had been looked at while earlier searches were tried


class MeanPlaces(nn.Module):
    """Where each map is bright: (N, K, H, W) -> the mean place under its softmax, x and y, (N, 2 K), in [-1, 1].

    A filter that fires on a thing says where it lies, and says it wherever it lies. Taught in notebook 08c.
    """

    def forward(self, maps: Tensor) -> Tensor:
        places = target_points((maps.shape[-2], maps.shape[-1]), like=maps)
        return (maps.flatten(2).softmax(-1) @ places).flatten(1)


class Finder(SpatialTransformer):
    """Says a place, for a window of a given size that stays on the canvas: (N, 1, 84, 84) -> crops (N, 1, 28, 28).

    It has no bias: a shift that all pictures share finds nothing, and it is the short way to an empty corner.
    While training, each window is shaken: moved at random by a normal number with standard deviation SHAKE.
    Paper: appendix A.2, where the window's size is learned too. Taught in notebook 08c.
    """

    def __init__(self):
        layers = [nn.Conv2d(1, 8, 5, stride=2, padding=2), nn.GELU(), nn.Conv2d(8, 16, 5, padding=2), nn.GELU()]
        localization = nn.Sequential(nn.AvgPool2d(3), *layers, nn.Conv2d(16, 16, 1), MeanPlaces())
        super().__init__(localization, "attention", size=(SIDE, SIDE), padding_mode="zeros", features=32)
        self.to_theta.bias.requires_grad_(False).zero_()

    def params(self, images: Tensor) -> Tensor:
        raw = super().params(images)
        return torch.cat([torch.full_like(raw[:, :1], WINDOW), (1 - WINDOW) * raw[:, 1:].tanh()], dim=1)

    def shaken(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The crops of windows that were moved at random, and stay on the canvas: (N, 1, 28, 28)."""
        size, places = self.params(images).split((1, 2), dim=1)
        places = places + SHAKE * torch.randn(places.shape, generator=generator)
        params = torch.cat([size, places.clamp(WINDOW - 1, 1 - WINDOW)], dim=1)
        return warp(images, self.family.matrix(params), size=self.size, padding_mode=self.padding_mode)


def encode(classifier: nn.Sequential, crops: Tensor) -> Tensor:
    """What the two hidden layers of a `digit_classifier` say of crops: (N, 1, 28, 28) -> (N, F), each at most 1 long.

    Counted from what they say of black paper: an empty crop has no direction, so two of them are not alike.
    Taught in notebook 08c.
    """
    said, parts = torch.cat([crops, torch.zeros_like(crops[:1])]), []
    for layers in (classifier[:7], classifier[7:9]):
        said = layers(said)
        away = said[:-1] - said[-1:]
        parts.append(away / (1 + away.norm(dim=1, keepdim=True)))  # the 1 keeps a faint crop faint
    return torch.cat(parts, dim=1) / len(parts) ** 0.5


def distance(one: Tensor, other: Tensor) -> Tensor:
    """How unlike encodings are, from 0, alike, to 1, nothing in common: (..., F), (..., F) -> (...)."""
    return 1 - (one * other).sum(-1)


def triplet_loss(seen: Tensor, elsewhere: Tensor, margin: float = 1.0) -> Tensor:
    """What is seen in one picture should be nearer to what is seen in any other than to a random crop of its own.

    seen, elsewhere: encodings (N, F) of what is attended, and of a random crop of the same pictures; N is 2 or more.
    The mean over all pairs of max(0, distance(n, m) - distance(n, its random crop) + margin).
    Raises ValueError for other shapes. Paper: appendix A.2. Taught in notebook 08c.
    """
    if seen.ndim != 2 or len(seen) < 2 or seen.shape != elsewhere.shape:
        came = f"{tuple(seen.shape)} and {tuple(elsewhere.shape)}"
        raise ValueError(f"seen and elsewhere have shapes {came}; expected (N, F) twice, with N at least 2")
    between = 1 - seen @ seen.T  # distance(n, m) for all pairs at once
    hinge = (between - distance(seen, elsewhere)[:, None] + margin).clamp(min=0)
    return hinge[~torch.eye(len(seen), dtype=torch.bool, device=seen.device)].mean()


def random_windows(count: int, generator: torch.Generator) -> Tensor:
    """Windows of the given size, anywhere on the canvas: (N, 2, 3)."""
    x, y = (1 - WINDOW) * (2 * torch.rand(2, count, generator=generator) - 1)
    return affine(scale=WINDOW, shift=(x, y))


def colocalise(
    classifier: nn.Sequential,
    images: Tensor,
    steps: int,
    seed: int = 0,
    after_step: Callable[[int, Finder, float], None] = lambda step, finder, loss: None,
) -> Finder:
    """Train a `Finder` on pictures of one unknown thing, so that it finds it in all of them.

    classifier: a trained `digit_classifier`; it stays as it is. images: (N, 1, 84, 84), float32 in [0, 1].
    after_step: is handed the number of steps done, the finder and the loss. Raises ValueError for other images.
    Paper: appendix A.2. Taught in notebook 08c.
    """
    side = round(SIDE / WINDOW)
    if images.ndim != 4 or images.shape[1:] != (1, side, side) or not images.is_floating_point():
        came = f"{images.dtype} with shape {tuple(images.shape)}"
        raise ValueError(f"images are {came}; expected floating point (N, 1, {side}, {side})")
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        finder = Finder()
    weights = [weight for weight in finder.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights)
    for step in range(steps):
        with torch.no_grad():
            crops = warp(images, random_windows(len(images), generator), size=(SIDE, SIDE))
            elsewhere = encode(classifier, crops)
        loss = triplet_loss(encode(classifier, finder.shaken(images, generator)), elsewhere)
        for weight, slope in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.grad = slope  # the classifier gets none
        # Down to nothing, so that in the end all windows stand still together.
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / steps)
        optimizer.step()
        after_step(step + 1, finder, loss.item())
    return finder.eval()


def of_one_digit(data: Images, digit: int, name: str, first: int = 0) -> tuple[Tensor, Tensor]:
    """Up to 100 pictures of one digit on a canvas of its own each, float32 in [0, 1], and the windows that are right, (N, 2, 3).

    The pieces of clutter are of all digits. name: "scattered 84" or "cluttered 84". first: the place in `data` from which
    images are taken; where they lie, and the clutter, are drawn from it too.
    """
    bent, poses = distorted(data.subset(slice(first, first + 20 * MANY)), name, seed=1000 + first)
    index = (bent.labels == digit).nonzero()[:MANY, 0]
    return as_float(bent.images[index]), poses[index]


def _search(classifier: nn.Sequential, images: Tensor, steps: int, seed: int) -> tuple[Tensor, float]:
    """The windows that a search ends with, (N, 2, 3), and its mean loss over the last ten steps."""
    losses: list[float] = []
    finder = colocalise(classifier, images, steps, seed, lambda step, finder, loss: losses.append(loss))
    with torch.inference_mode():
        return finder.family.matrix(finder.params(images)), sum(losses[-10:]) / len(losses[-10:])


def measure(model: nn.Module, sets: Sets, arm: Arm, seed: int) -> dict:
    """How many of each digit are found, for a row of results: {"found": {set: ten percentages}, "chance", "settled", ...}.

    A digit is found where intersection over union is above one half. chance: the same of random windows. off: the median
    distance in pixels between the middles of the two windows. settled: found, with the shift that all windows of a search share
    (their median) taken out, because the loss does not ask for the middle. loss: the mean of the last ten steps.
    On test images from FRESH on, which nobody had searched when the recipe was fixed. Taught in notebook 08c.
    """
    # A few small pictures: on the CPU, whatever trained the network, and with a copy, because the caller goes on with its own.
    classifier, test = deepcopy(model).cpu().eval().classifier, sets.test.to("cpu")
    rows: dict[str, dict] = {row: {bend: [] for bend in STEPS} for row in ("found", "chance", "settled", "off", "loss")}
    for bend, steps in STEPS.items():
        for digit in range(10):
            images, poses = of_one_digit(test, digit, bend, FRESH)
            windows, loss = _search(classifier, images, steps, seed)
            anywhere, settled = random_windows(len(images), torch.Generator().manual_seed(seed)), windows.clone()
            settled[:, :, 2] -= (windows - poses)[:, :, 2].median(0).values
            settled[:, :, 2].clamp_(WINDOW - 1, 1 - WINDOW)  # still on the canvas
            for row, theta in (("found", windows), ("chance", anywhere), ("settled", settled)):
                rows[row][bend].append(round(100 * (overlap(theta, poses) > 0.5).float().mean().item(), 1))
            pixels = (windows - poses)[:, :, 2].norm(dim=1) * SIDE / (2 * WINDOW)
            rows["off"][bend].append(round(pixels.median().item(), 2))
            rows["loss"][bend].append(round(loss, 3))
    return rows


STUDY = Study(
    name="colocalise",
    data="mnist",
    # Once through MNIST's 60,000 in place of forty times through the 1,437 digits.
    arms={"encoder": Arm(partial(digit_net, None), replace(RECIPES["digits"], epochs=1))},
    ship={"encoder": "colocalise_encoder"},
    measure=measure,
)
