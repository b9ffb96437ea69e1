"""Glimpse: a transformer that chooses its window from a summary of a large canvas, and reads little of it (notebook 08)."""

import time
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from stn_helpers.data.batches import as_float
from stn_helpers.training.recipes import RECIPES
from stn_helpers.transformer import SpatialTransformer, light_localization

from .networks import PlacedNet, digit_classifier, digit_net, placed_digits
from .study import Arm, Sets, Study


def glance(side: int) -> SpatialTransformer:
    """A transformer that chooses its window from a 28 x 28 summary of the canvas, and reads `side` x `side` pixels of it.

    Attention: one size and one place. Taught in notebook 08.
    """
    summary = nn.Sequential(nn.AdaptiveAvgPool2d(28), light_localization(1, 8, nn.GELU))
    return SpatialTransformer(summary, "attention", size=(side, side), padding_mode="zeros")


def glance_net(side: int) -> PlacedNet:
    """`digit_classifier` behind a `glance`."""
    classifier = digit_classifier()
    return placed_digits(classifier, glance(side))


def shrunk_net() -> PlacedNet:
    """`digit_classifier` behind a 28 x 28 summary of the canvas."""
    return placed_digits(digit_classifier(), nn.AdaptiveAvgPool2d(28))


def deeper_net() -> PlacedNet:
    """`digit_classifier` with a pool and two more convolutions on its first map: no transformer, but a deeper network."""
    classifier = digit_classifier()
    convolutions = [nn.Conv2d(8, 8, kernel_size=5, padding=2), nn.ReLU(), nn.Conv2d(8, 8, kernel_size=5, padding=2), nn.ReLU()]
    return placed_digits(classifier, inner=nn.Sequential(nn.MaxPool2d(2), *convolutions))


def cost(model: nn.Module, sets: Sets, arm: Arm, seed: int) -> dict:
    """What 250 test images cost a network, for a row of results: {"milliseconds": {"forward", "training"}}.

    The best of five, forward alone and with the backward pass. On a CPU it is processor time, all threads together, so that
    a busy machine says the same; on a GPU the clock, once all its work is done. Taught in notebook 08.
    """
    some = sets.bent(arm.test)[0].subset(slice(250))
    images, labels = as_float(some.images), some.labels

    def now() -> float:
        if images.is_cuda:
            torch.cuda.synchronize(images.device)
        return time.perf_counter() if images.is_cuda else time.process_time()

    def best(work) -> float:
        times = []
        for _ in range(6):  # the first one only warms up
            began = now()
            work()
            times.append(now() - began)
        return round(1000 * min(times[1:]), 2)

    model.eval().requires_grad_(False)
    forward = best(lambda: model(images))
    model.train().requires_grad_(True)
    return {"milliseconds": {"forward": forward, "training": best(lambda: F.cross_entropy(model(images), labels).backward())}}


STUDY = Study(
    name="glimpse",
    data="digits",
    arms={
        called: Arm(network, RECIPES["digits"], "cluttered 60", against="whole canvas" if called != "whole canvas" else "")
        for called, network in {
            "whole canvas": partial(digit_net, None),
            "whole canvas, deeper": partial(deeper_net),
            "shrunk to 28 x 28": partial(shrunk_net),
            "a glance of 24 x 24": partial(glance_net, 24),
            "a glance of 32 x 32": partial(glance_net, 32),
        }.items()
    },
    ship={"a glance of 24 x 24": "glimpse_24"},
    measure=cost,
)
