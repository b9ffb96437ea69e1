"""Refine: a transformer that looks several times before it reads, one on a feature map, and one whose glance is cheap."""

import time

import torch.nn.functional as F
from torch import Tensor, nn

from stn_helpers.data.batches import as_float
from stn_helpers.data.distortions import distorted
from stn_helpers.data.sets import Images
from stn_helpers.sampler import sample
from stn_helpers.theta import compose
from stn_helpers.transformer import SpatialTransformer, light_localization


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


class PlacedNet(nn.Module):
    """A digit classifier with a transformer in front of it, or on its first feature map: (N, 1, H, W) in [0, 1] -> logits.

    classifier: as `digit_classifier` makes it. transformer: at the input; inner: on the map after the first pool; None for none.
    Raises ValueError for images of another shape. Taught in notebook 08.
    """

    def __init__(self, classifier: nn.Sequential, transformer: nn.Module | None = None, inner: nn.Module | None = None):
        super().__init__()
        self.classifier = classifier
        self.transformer, self.inner = (nn.Identity() if part is None else part for part in (transformer, inner))

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != 1:
            raise ValueError(f"images have shape {tuple(images.shape)}; the digits' network expects (N, 1, H, W)")
        first = self.classifier[:3](self.transformer(images))
        return self.classifier[3:](self.inner(first))


def glance(side: int) -> SpatialTransformer:
    """A transformer that chooses its window from a 28 x 28 summary of the canvas, and reads `side` x `side` pixels of it.

    Attention: one size and one place. Taught in notebook 08.
    """
    summary = nn.Sequential(nn.AdaptiveAvgPool2d(28), light_localization(1, 8, nn.GELU))
    return SpatialTransformer(summary, "attention", size=(side, side), padding_mode="zeros")


def deeper() -> nn.Sequential:
    """A pool and two more convolutions for the first feature map of `digit_classifier`: no transformer, but a deeper network."""
    convolutions = [nn.Conv2d(8, 8, kernel_size=5, padding=2), nn.ReLU(), nn.Conv2d(8, 8, kernel_size=5, padding=2), nn.ReLU()]
    return nn.Sequential(nn.MaxPool2d(2), *convolutions)


def refining(steps: int, resample: bool = False) -> RefiningTransformer:
    """A refining transformer for digits of 28 pixels."""
    return RefiningTransformer(light_localization(1, 8, nn.GELU), steps, resample, size=(28, 28), padding_mode="zeros")


def on_the_map() -> SpatialTransformer:
    """A transformer for the first feature map of `digit_classifier`, 8 channels."""
    return SpatialTransformer(light_localization(8, 8, nn.GELU), padding_mode="zeros")


def cost(model: nn.Module, train: Images, test: Images, name: str, seed: int) -> dict:
    """What 250 test images cost a network, for a row of results: {"milliseconds": {"forward", "training"}} of processor time.

    The best of five, forward alone and with the backward pass; all threads together, so that a busy machine says the same.
    Taught in notebook 08.
    """
    some = distorted(test.subset(slice(250)), name)[0]
    images, labels = as_float(some.images), some.labels

    def best(work) -> float:
        times = []
        for _ in range(6):  # the first one only warms up
            began = time.process_time()
            work()
            times.append(time.process_time() - began)
        return round(1000 * min(times[1:]), 2)

    model.eval().requires_grad_(False)
    forward = best(lambda: model(images))
    model.train().requires_grad_(True)
    return {"milliseconds": {"forward": forward, "training": best(lambda: F.cross_entropy(model(images), labels).backward())}}
