"""CIFAR-10: one small classifier, upright and in four distorted worlds, with a transformer in every place (notebooks 06, 06b)."""

from dataclasses import replace
from functools import partial

from stn_helpers.training.recipes import RECIPES

from .networks import cifar_net
from .study import Arm, Study, attended

SETS = ("upright", "rotated", "rts", "perspective", "rotated disc")
SLOW = "light ST, a tenth of the rate"
# Half the rate for the localization network: of 0.1, 0.5, 1 and 3 the best on held-out training images.
HALF = replace(RECIPES["good"], localization=0.5)
# A tenth of it, which the paper takes too, is what did not collapse in any seed of the study "tutorial".
TENTH = replace(HALF, localization=0.1)
# What turns things in notebook 04: AdamW, and the same rate for both parts.
ADAMW = replace(HALF, optimizer="adamw", lr=3e-3, momentum=0.0, weight_decay=1e-4, localization=1.0)
PLACES = {  # what an arm is called, the place of its transformer, and its recipe
    "no ST": ("plain", HALF),
    "light ST": ("light", HALF),
    SLOW: ("light", TENTH),
    "heavy ST": ("heavy", TENTH),
    "ST frozen at identity": ("frozen", HALF),
    "random theta": ("random", HALF),
    "same parameters, no warp": ("no-warp", HALF),
    "ST on a feature map": ("feature", HALF),
    "one window on a feature map": ("window", HALF),
    "two STs": ("two", HALF),
    "one window at the input": ("input-window", TENTH),
    "AdamW, no ST": ("plain", ADAMW),
    "AdamW, light ST": ("light", ADAMW),
    "AdamW, same parameters, no warp": ("no-warp", ADAMW),
    "smallest family, a tenth of the rate": ("smallest", TENTH),
    "AdamW, smallest family": ("smallest", ADAMW),
    "shuffled theta, a tenth of the rate": ("shuffled", TENTH),
    "AdamW, shuffled theta": ("shuffled", ADAMW),
    "light ST, gradient clipped": ("light", replace(HALF, clip=1.0)),
    "light ST, a tenth of the rate, no decay": ("light", replace(TENTH, localization_decay=0.0)),
}
SMALLEST = {"rotated": "rotation", "rotated disc": "rotation", "rts": "similarity"}  # what can undo each world
# The heavy ones are slow, and the disc asks one question: is it the corners that tell the angle?
LEFT_OUT = {(name, "heavy") for name in ("rts", "perspective", "rotated disc")}
LEFT_OUT |= {("rotated disc", place) for place in ("frozen", "random", "feature", "window", "two")}


def arms() -> dict[str, Arm]:
    """Every place for a transformer on every set, and on distorted sets the oracle: every picture undone by its true pose.

    A random theta has the spread of the light transformer that was not lost there: at a tenth of the rate, except on turned
    pictures.
    """
    found = {}
    for name in SETS:
        if name != "upright":
            undone = f"{name}, undone"
            found[f"{name}, oracle"] = Arm(partial(cifar_net, "small", "plain"), HALF, undone, against=f"{name}, no ST")
        for called, (place, recipe) in PLACES.items():
            place = SMALLEST.get(name) if place == "smallest" else place
            if place is None or (name, place) in LEFT_OUT:
                continue
            learned = "light ST" if name == "rotated" else SLOW
            control = "AdamW, no ST" if called.startswith("AdamW") else "no ST"
            found[f"{name}, {called}"] = Arm(
                partial(cifar_net, "small", place),
                PLACES[learned][1] if place == "random" else recipe,
                name,
                also=SETS[1:4] if name == "upright" else (),
                against="" if called == control else f"{name}, {control}",
                spread_of=f"{name}, {learned}" if place == "random" else "",
            )
    return found


STUDY = Study(
    name="cifar10",
    data="cifar10",
    precision="bfloat16",
    arms=arms(),
    ship={
        **{f"{name}, light ST": f"cifar10_{name.replace(' ', '_')}" for name in SETS},
        **{f"{name}, {SLOW}": f"cifar10_{name}_slow" for name in ("perspective", "rts")},  # notebook 06b looks through both
    },
    measure=attended,
)
