"""Deep: a transformer that looks several times before it reads, and one on a feature map, on turned MNIST (notebook 08)."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from stn_helpers.data.batches import batches
from stn_helpers.data.poses import undone
from stn_helpers.sampler import sample
from stn_helpers.theta import compose
from stn_helpers.training.recipes import RECIPES
from stn_helpers.transformer import SpatialTransformer, light_localization

from .networks import PlacedNet, digit_classifier, digit_net, placed_digits
from .study import Arm, Sets, Study, straightened


class RefiningTransformer(SpatialTransformer):
    """Looks `steps` times with one localization network: what it sees through theta tells how theta is to be corrected.

    The corrections are composed into one affine theta, and the picture itself is read each time, so nothing is blurred twice or
    cut off for good. resample=True instead warps what was warped before. Other arguments: see `SpatialTransformer`.
    Raises ValueError for less than one step. After Lin and Lucey, arXiv 1612.03897. Taught in notebook 08.
    """

    def __init__(self, localization: nn.Module, steps: int = 2, resample: bool = False, **options):
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(f"steps is {steps!r}; expected how often to look, a whole number from 1 up")
        super().__init__(localization, "affine", **options)
        self.steps, self.resample = steps, resample

    def looks(self, images: Tensor) -> list[Tensor]:
        """theta after each look, `steps` tensors (N, 2, 3)."""
        seen, found = images, []
        for _ in range(self.steps):
            correction = SpatialTransformer.params(self, seen).reshape(-1, 2, 3)
            # What is warped by the theta so far, then by the correction, looks where their product looks.
            found.append(compose(found[-1], correction) if found else correction)
            source, theta = (seen, correction) if self.resample else (images, found[-1])
            seen = self._read(source, theta)
        return found

    def params(self, images: Tensor) -> Tensor:
        """The theta that all looks make together, (N, 6)."""
        return self.looks(images)[-1].flatten(1)

    def _read(self, images: Tensor, theta: Tensor) -> Tensor:
        grid = self.grid(images, theta.flatten(1))
        return sample(images, grid, padding_mode=self.padding_mode, align_corners=self.align_corners)

    def forward(self, images: Tensor) -> Tensor:
        if not self.resample:
            return self._read(images, self.looks(images)[-1])
        for _ in range(self.steps):
            images = self._read(images, SpatialTransformer.params(self, images))
        return images


def looking_net(steps: int, resample: bool = False) -> PlacedNet:
    """`digit_classifier` behind a transformer that looks `steps` times; for digits of 28 pixels."""
    classifier, localization = digit_classifier(), light_localization(1, 8, nn.GELU)
    return placed_digits(classifier, RefiningTransformer(localization, steps, resample, size=(28, 28), padding_mode="zeros"))


def map_net() -> PlacedNet:
    """`digit_classifier` with a transformer on its first feature map, 8 channels."""
    classifier = digit_classifier()
    return placed_digits(classifier, inner=SpatialTransformer(light_localization(8, 8, nn.GELU), padding_mode="zeros"))


@torch.inference_mode()
def look_by_look(model: PlacedNet, sets: Sets, arm: Arm, seed: int) -> dict:
    """`straightened`, and "looks": how many degrees of a turn are left after each look. Taught in notebook 08."""
    found, transformer = straightened(model, sets, arm, seed), model.transformer
    if isinstance(transformer, RefiningTransformer):
        bent, poses = sets.bent(arm.test)
        looks = zip(*(transformer.looks(images) for images, _ in batches(bent, 500)), strict=True)
        found["looks"] = [undone(torch.cat(parts).cpu(), poses)["residual"] for parts in looks]
    return found


# Once through MNIST's 60,000 in place of forty times through the 1,437 digits.
BRIEF = replace(RECIPES["digits"], epochs=1)

STUDY = Study(
    name="deep",
    data="mnist",
    arms={
        called: Arm(network, BRIEF, "rotated", against="turned, no ST" if called != "turned, no ST" else "")
        for called, network in {
            "turned, no ST": partial(digit_net, None),
            "turned, wider, no ST": partial(digit_net, None, 14),
            "turned, one look": partial(looking_net, 1),
            "turned, two looks": partial(looking_net, 2),
            "turned, three looks": partial(looking_net, 3),
            "turned, four looks": partial(looking_net, 4),
            "turned, two looks, resampled": partial(looking_net, 2, True),
            "turned, on the feature map": partial(map_net),
        }.items()
    },
    ship={"turned, no ST": "deep_plain", "turned, two looks": "deep_two_looks"},
    measure=look_by_look,
)
