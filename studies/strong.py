"""Strong: ResNet-9 to 94 % on CIFAR-10, with and without transformers, upright and distorted; for a GPU (notebook 06b)."""

from dataclasses import replace
from functools import partial

from stn_helpers.training.recipes import RECIPES

from .networks import cifar_net
from .study import Arm, Study, attended

SETS = ("upright", "rotated", "rts", "perspective", "rotated disc")
# ResNet-9 as Page (2018) trained it in 24 epochs, with half his batch at half his rate, and with the label smoothing that he
# and Jordan (airbench, 2024) came to use. Its localization networks learn at a tenth of the rate.
STRONG = replace(
    RECIPES["good"],
    epochs=24,
    batch_size=256,
    lr=0.2,
    weight_decay=5e-4,
    crop_pixels=4,
    cutout_pixels=8,
    label_smoothing=0.1,
)
PLACES = {"no ST": "plain", "light ST": "light", "same parameters, no warp": "no-warp", "ST on a feature map": "feature"}


def arms() -> dict[str, Arm]:
    """Each place on each set, and the oracle on the distorted ones."""
    found = {}
    for name in SETS:
        for called, place in PLACES.items():
            against = "" if place == "plain" else f"{name}, no ST"
            also = SETS[1:4] if name == "upright" else ()
            found[f"{name}, {called}"] = Arm(partial(cifar_net, "strong", place), STRONG, name, also=also, against=against)
        if name != "upright":
            undone = f"{name}, undone"
            found[f"{name}, oracle"] = Arm(partial(cifar_net, "strong", "plain"), STRONG, undone, against=f"{name}, no ST")
    return found


STUDY = Study(name="strong", data="cifar10", arms=arms(), measure=attended, precision="bfloat16")
